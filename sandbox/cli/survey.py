"""`sandbox survey`: what a command passes across exec."""

from __future__ import annotations

import dataclasses
import json
import os

import click

from sandbox import Caller, format_survey, open_descriptors, original_environment, survey_command
from sandbox.cli.app import complete_file
from sandbox.cli.output import put


@click.command("survey", context_settings={"allow_interspersed_args": False})
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write the survey there, not to standard output.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=complete_file)
def command(as_json: bool, output: str | None, command: tuple[str, ...]) -> int:
    """Run COMMAND without refusing anything; tell which descriptors survive which execs, who names and who leaks them.

    What no protocol names is what a sandbox would close. The exit code is COMMAND's.
    """
    caller = Caller.of_process(parent_pid=os.getpid(), environ=original_environment())
    result, code = survey_command(command, caller, open_descriptors())
    lines = [json.dumps(dataclasses.asdict(result), indent=2)] if as_json else list(format_survey(result))
    if output is None:
        put(lines)
    else:
        with open(output, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(f"{line}\n" for line in lines)
    return code if code >= 0 else 128 - code
