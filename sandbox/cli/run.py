"""`sandbox run`: compile the plan and become the launcher."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import click

from sandbox import (
    Caller,
    Plan,
    Profile,
    StatusFormat,
    Trail,
    build_plan,
    channel_grant,
    original_environment,
    replace_process,
)
from sandbox.cli.app import Choice, complete_file, profile_options
from sandbox.cli.output import put, say
from sandbox.errors import UsageError


@click.command("run", context_settings={"allow_interspersed_args": False})
@profile_options
@click.option("--status-fd", type=int, metavar="N", help="Write JSON lines on the run to this descriptor.")
@click.option("--channel", type=int, metavar="N", help="Grant this descriptor, a Unix socket, as 'channel'.")
@click.option("--trace-exec", is_flag=True, help="Tell at each later exec what passes and what is closed.")
@click.option("--dry-run", is_flag=True, help="Print the plan and start nothing.")
@click.option("-v", "--verbose", is_flag=True, help="Tell what is granted and what is closed, then run.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=complete_file)
@click.pass_obj
def command(
    key: str | None,
    choice: Choice,
    status_fd: int | None,
    channel: int | None,
    trace_exec: bool,
    dry_run: bool,
    verbose: bool,
    command: tuple[str, ...],
) -> None:
    r"""Run COMMAND with its standard streams and its grants, and nothing else.

    Options end at COMMAND: what follows belongs to it. In its arguments {fd:NAME} becomes the number of a grant, and
    the variable SANDBOX_FD_NAME holds it.

    Exit code: COMMAND's own; 128+N when signal N killed it; 124 its time was up; 125 a step failed before it ran, 126
    it cannot be executed, 127 it is not found.

    \b
    sandbox run -- git status
    sandbox run --write . --limit memory=1G --timeout 5m -- make
    sandbox run --grant log=file:/tmp/log:append,create -- sh -c 'echo hello >&"$SANDBOX_FD_LOG"'
    sandbox run -p sealed --grant in=inherit:0:pipe -- wc -l '/dev/fd/{fd:in}'
    """
    environment = original_environment()
    if channel is not None:
        choice = replace(choice, grants=(*choice.grants, channel_grant(channel)))
    compiled = compile_run(choice, command, environment, status_fd=status_fd, trace_exec=trace_exec)
    plan = compiled.plan
    if verbose:
        from sandbox.explain import descriptor_table

        for line in descriptor_table(plan):
            say(line)
    if dry_run:
        put(plan.describe())
        return
    # What the options do themselves is done anew at each start.
    if key is not None and not verbose and channel is None:
        compiled.keep(key)
    replace_process(plan, environment)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A plan, and what it was made of."""

    plan: Plan
    profile: Profile
    caller: Caller
    trail: Trail

    def keep(self, key: str) -> bool:
        """Keep the plan for starts of the same key, unless it depends on more than the key and files say."""
        from sandbox.cache import is_lasting, store

        return is_lasting(self.profile, self.caller) and store(key, self.plan, self.trail, self.caller.environ)


def compile_run(
    choice: Choice, command: tuple[str, ...], environment: dict[str, str], *, status_fd: int | None, trace_exec: bool
) -> Compiled:
    """Compile what `run` was asked for."""
    trail = Trail()
    chosen, caller = choice.resolve(Caller.of_process(parent_pid=os.getppid(), environ=environment), trail)
    status = None
    if status_fd is not None:
        if not 0 <= status_fd < 2**31:
            raise UsageError("--status-fd", f"{status_fd} is not a descriptor", "give a number that is open")
        status = (status_fd, StatusFormat.JSON)
    plan = build_plan(chosen, command, caller, status=status, exec_events=status is not None, trace=trace_exec)
    return Compiled(plan, chosen, caller, trail)
