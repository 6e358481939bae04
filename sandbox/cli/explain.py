"""`sandbox explain`: what a profile grants and refuses, before anything runs."""

from __future__ import annotations

import os

import click

from sandbox.caller import Caller
from sandbox.cli.app import chosen_profile, profile_options
from sandbox.explain import explain
from sandbox.grants import Grant


@click.command("explain", context_settings={"allow_interspersed_args": False})
@profile_options
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def command(
    profile: str, grants: tuple[Grant, ...], env: tuple[str, ...], chdir: str | None, command: tuple[str, ...]
) -> None:  # fmt: skip
    """Print what the profile grants and refuses, its filter in words and, with COMMAND, the plan."""
    caller = Caller.of_process(parent_pid=os.getppid())
    for line in explain(chosen_profile(caller, profile, grants, env, chdir), command, caller):
        click.echo(line)
