"""`sandbox explain`: what a profile grants and refuses, before anything runs."""

from __future__ import annotations

import os

import click

from sandbox import Caller, Grant, original_environment
from sandbox.cli.app import chosen_profile, complete_file, profile_options
from sandbox.cli.output import put
from sandbox.explain import explain


@click.command("explain", context_settings={"allow_interspersed_args": False})
@profile_options
@click.argument("command", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_file)
def command(
    profile: str, grants: tuple[Grant, ...], env: tuple[str, ...], chdir: str | None, command: tuple[str, ...]
) -> None:  # fmt: skip
    r"""Print what the profile grants and refuses, its filter in words and, with COMMAND, the plan. Starts nothing.

    \b
    sandbox explain -p sealed
    sandbox explain --grant data=file:/etc/hosts -- wc -l '/dev/fd/{fd:data}'
    """
    caller = Caller.of_process(parent_pid=os.getppid(), environ=original_environment())
    put(explain(chosen_profile(caller, profile, grants, env, chdir), command, caller))
