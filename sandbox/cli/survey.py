"""`sandbox survey`: what a command passes across exec."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os

import click

from sandbox import Caller, format_survey, open_descriptors, original_environment, survey_command
from sandbox.cli.app import complete_file
from sandbox.cli.output import open_result, printable, put
from sandbox.cli.progress import progress
from sandbox.errors import EXIT_SIGNAL_BASE


@click.command(
    "survey",
    short_help="Run a command; tell which descriptors its execs pass on.",
    context_settings={"allow_interspersed_args": False},
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write the survey there, not to standard output.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=complete_file)
def command(as_json: bool, output: str | None, command: tuple[str, ...]) -> int:
    r"""Run COMMAND without refusing anything; tell which descriptors survive which execs, who names and who leaks them.

    What no protocol names is what a sandbox would close. The exit code is COMMAND's.

    \b
    sandbox survey -- make -j2
    sandbox survey --json -o survey.json -- ./configure
    """
    caller = Caller.of_process(parent_pid=os.getpid(), environ=original_environment())
    with contextlib.ExitStack() as files:
        # Opened first: a long command must not run for a survey that cannot be written.
        file = None if output is None else files.enter_context(open_result(output))
        name = printable(command[0])
        with progress(f"surveying {name}") as tell:
            result, code = survey_command(
                command, caller, open_descriptors(), tell=lambda execs: tell(f"surveying {name}: {execs} execs")
            )  # fmt: skip
        lines = [json.dumps(dataclasses.asdict(result), indent=2)] if as_json else list(format_survey(result))
        if file is None:
            put(lines)
        else:
            file.writelines(f"{line}\n" for line in lines)
    return code if code >= 0 else EXIT_SIGNAL_BASE - code
