"""`sandbox explain`: what a profile grants and refuses, before anything runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace

import click

from sandbox import Caller, available, default_search_path, original_environment
from sandbox.cli.app import Choice, complete_file, profile_options
from sandbox.cli.output import put
from sandbox.errors import UsageError
from sandbox.explain import explain


@click.command(
    "explain",
    short_help="Print what a profile grants and refuses; starts nothing.",
    context_settings={"allow_interspersed_args": False},
)
@profile_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object: for each section its lines.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_file)
def command(choice: Choice, as_json: bool, command: tuple[str, ...]) -> None:
    r"""Print what the profile grants and refuses, its filter in words and, with COMMAND, the plan. Starts nothing.

    \b
    sandbox explain -p sealed
    sandbox explain --grant data=file:/etc/hosts -- wc -l '/dev/fd/{fd:data}'
    """
    caller = Caller.of_process(parent_pid=os.getppid(), environ=original_environment())
    _refuse_profile(choice, command, caller)
    choice = replace(choice, profile=choice.found_for(command, caller.environ) or choice.profile)
    profile, caller = choice.resolve(caller)
    lines = explain(profile, command, caller)
    put([json.dumps(_sections(lines), indent=2)] if as_json else lines)


def _refuse_profile(choice: Choice, command: Sequence[str], caller: Caller) -> None:
    """Refuse a profile's name where a command's is meant, which would be explained under another profile."""
    if choice.profile is not None or len(command) != 1 or shutil.which(command[0], path=caller.environ.get("PATH")):
        return
    if command[0] in {entry.name for entry in available(default_search_path(caller.environ))}:
        raise UsageError(command[0], "it is a profile, and no command", f"sandbox explain -p {command[0]}")


def _sections(lines: Iterable[str]) -> dict[str, object]:
    """Return the explanation as an object: its headline as `profile`, and by title what stands under it."""
    head, *rest = lines
    found: dict[str, object] = {"profile": head.removeprefix("profile ")}
    section: list[str] = []
    for line in rest:
        if line and not line.startswith(" "):
            section = []
            found[line.rstrip(":")] = section
        elif line:
            section.append(line.removeprefix("  "))
    return found
