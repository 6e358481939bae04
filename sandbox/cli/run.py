"""`sandbox run`: compile the plan and become the launcher."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, replace

import click

from sandbox import (
    Caller,
    Plan,
    Profile,
    StatusFormat,
    Trace,
    Trail,
    build_plan,
    channel_grant,
    network_for,
    original_environment,
    replace_process,
)
from sandbox.cli.app import Choice, complete_file, profile_options
from sandbox.cli.output import line_of, put, say
from sandbox.errors import UsageError


def parse_status(ctx: click.Context, _param: click.Parameter, number: int | None) -> int | None:
    """Refuse what is no descriptor."""
    if number is not None and not ctx.resilient_parsing and not 0 <= number < 2**31:
        raise UsageError("--status-fd", f"{number} is not a descriptor", "give a number that is open")
    return number


@click.command(
    "run",
    short_help="Run a command in a sandbox: its streams, its grants, no more.",
    context_settings={"allow_interspersed_args": False},
)
@profile_options
@click.option(
    "--status-fd", type=int, metavar="N", callback=parse_status, help="Write JSON lines on the run to this descriptor."
)
@click.option("--channel", type=int, metavar="N", help="Grant this descriptor, a Unix socket, as 'channel'.")
@click.option("--trace-exec", is_flag=True, help="Tell at each later exec what passes and what is closed.")
@click.option("--trace-net", is_flag=True, help="Tell of each connection that the network's rules allow or refuse.")
@click.option("--explain", is_flag=True, help="Tell what is refused as it happens, and what would allow it; slow.")
@click.option(
    "--explain-output", type=click.Path(dir_okay=False), help="Write the refusals there as JSON; includes --explain."
)
@click.option("--dry-run", is_flag=True, help="Print the plan and start nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Do not tell which profile was found for COMMAND.")
@click.option("-v", "--verbose", is_flag=True, help="Tell what is granted and what is closed, then run.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=complete_file)
@click.pass_obj
def command(
    key: str | None,
    choice: Choice,
    status_fd: int | None,
    channel: int | None,
    trace_exec: bool,
    trace_net: bool,
    explain: bool,
    explain_output: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    command: tuple[str, ...],
) -> int | None:
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
    start = Start.of(choice, command, environment, quiet=quiet, channel=channel)
    if (explain or explain_output is not None) and not dry_run:
        if status_fd is not None or trace_exec or trace_net:
            raise UsageError("--explain", "the run's records are its own then", "leave --status-fd and --trace-* out")
        from sandbox.cli.refused import run_explained

        with network_for(start.profile, start.caller) as caller:
            return run_explained(start.profile, command, caller, explain_output)
    # What is made for a sandbox is made for one that starts.
    made = nullcontext(start.caller) if dry_run else network_for(start.profile, start.caller, status=status_fd)
    with made as caller:
        plan = start.compile(command, caller, status_fd, executes=trace_exec, connects=trace_net)
        if verbose:
            from sandbox.explain import descriptor_table

            for line in descriptor_table(plan):
                say(line)
        if dry_run:
            put(plan.describe())
            return None
        # What the options do themselves is done anew at each start.
        if key is not None and not verbose and channel is None:
            start.keep(key, plan)
        return replace_process(plan, environment)


@dataclass(frozen=True, slots=True)
class Start:
    """What `run` was asked for: the profile with all that is added, what that depends on, and what is said of it."""

    profile: Profile
    caller: Caller
    trail: Trail
    notice: str | None

    @classmethod
    def of(
        cls,
        choice: Choice,
        command: tuple[str, ...],
        environment: dict[str, str],
        *,
        quiet: bool,
        channel: int | None = None,
    ) -> Start:
        """Find and read the profile; say which one it is where the command's name has led to it."""
        trail, notice = Trail(), None
        caller = Caller.of_process(parent_pid=os.getppid(), environ=environment)
        found = choice.found_for(command, environment, trail)
        if found is not None:
            choice = replace(choice, profile=found)
            if not quiet:
                hint = "choose with -p NAME, hide this line with --quiet"
                notice = f"profile: {command[0]}: taking {found!r}, the profile for this command; {hint}"
                say(notice)
        if channel is not None:
            choice = replace(choice, grants=(*choice.grants, channel_grant(channel)))
        return cls(*choice.resolve(caller, trail), trail, notice)

    def compile(
        self, command: tuple[str, ...], caller: Caller, status_fd: int | None, *, executes: bool, connects: bool
    ) -> Plan:
        """Compile the plan; caller: with the network that it is to join. executes, connects: tell of these."""
        status = None if status_fd is None else (status_fd, StatusFormat.JSON)
        told = Trace(0) if status is None else Trace.EXECS | Trace.NETWORK
        trace = Trace(Trace.EXECS * executes | Trace.NETWORK * connects)
        plan = build_plan(self.profile, command, caller, status=status, told=told, trace=trace)
        # For who sits there; a log or a pipe gets what the command says and nothing else.
        return replace(plan, point=os.isatty(2))

    def keep(self, key: str, plan: Plan) -> bool:
        """Keep the plan for starts of the same key, unless it depends on more than the key and files say."""
        from sandbox.cache import is_lasting, store

        notice = b"" if self.notice is None else line_of(self.notice)
        return is_lasting(self.profile, self.caller) and store(key, plan, self.trail, self.caller.environ, notice)
