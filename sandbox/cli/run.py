"""`sandbox run`: compile the plan and become the launcher."""

from __future__ import annotations

import os

import click

from sandbox.build import build
from sandbox.caller import Caller
from sandbox.cli.app import chosen_profile, profile_options
from sandbox.errors import UsageError
from sandbox.grants import Grant
from sandbox.launch import original_environment, replace_process
from sandbox.plan import StatusFormat


@click.command("run", context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@profile_options
@click.option("--status-fd", type=int, metavar="N", help="Write JSON lines on the run to this descriptor.")
@click.option("--dry-run", is_flag=True, help="Print the plan and start nothing.")
@click.option("-v", "--verbose", is_flag=True, help="Tell what is granted and what is closed, then run.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def command(
    profile: str,
    grants: tuple[Grant, ...],
    env: tuple[str, ...],
    chdir: str | None,
    status_fd: int | None,
    dry_run: bool,
    verbose: bool,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND with its standard streams and its grants, and nothing else.

    Exit code: COMMAND's own; 125 the launcher failed before it ran, 126 it is not executable, 127 not found, 128+N killed
    by signal N.

    \b
    sandbox run -- git status
    sandbox run --grant log=file:/tmp/log:append -- sh -c 'echo hello >&"$SANDBOX_FD_LOG"'
    """
    # Taken before anything is opened that could get a number which the caller has closed.
    environment = original_environment()
    caller = Caller.of_process(parent_pid=os.getppid(), environ=environment)
    chosen = chosen_profile(caller, profile, grants, env, chdir)
    status = None
    if status_fd is not None:
        if status_fd < 0:
            raise UsageError("--status-fd", f"{status_fd} is not a descriptor", "give a number that is open")
        status = (status_fd, StatusFormat.JSON)
    plan = build(chosen, command, caller, status=status)
    if dry_run:
        click.echo("\n".join(plan.describe()))
        return
    if verbose:
        from sandbox.explain import descriptor_table

        for line in descriptor_table(plan):
            click.echo(line, err=True)
    replace_process(plan, environment)
