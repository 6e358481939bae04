"""`sandbox cache`: the plans that `sandbox run` keeps, so that the next start needs no Python."""

from __future__ import annotations

import json
import os
from datetime import datetime

import click

from sandbox import original_environment
from sandbox.cache import clear, entries, folder_of
from sandbox.cli.app import Choice, CommandGroup, complete_file, profile_options
from sandbox.cli.output import put
from sandbox.cli.run import Start, parse_status
from sandbox.errors import UsageError
from sandbox.sizes import format_size


@click.group(
    "cache", short_help="Show, fill and empty the cache of compiled plans.", cls=CommandGroup, no_args_is_help=False
)
def command() -> None:
    r"""Show, fill and empty the cache of compiled plans, $XDG_CACHE_HOME/sandbox.

    \b
    sandbox cache show
    sandbox cache clear
    """


@command.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def show(as_json: bool) -> None:
    """Say where the plans are, how many, and list them, the newest first."""
    found = entries(os.environ)
    if as_json:
        rows = [{"name": kept.name, "bytes": kept.size, "time": kept.time} for kept in found]
        put([json.dumps({"folder": str(folder_of(os.environ)), "plans": rows}, indent=2)])
        return
    put([f"{folder_of(os.environ)}: {len(found)} plans, {format_size(sum(kept.size for kept in found))}"])
    put(f"  {datetime.fromtimestamp(kept.time):%Y-%m-%d %H:%M:%S} {kept.size:8} {kept.name}" for kept in found)


@command.command("clear")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def clear_all(as_json: bool) -> None:
    """Remove every plan; each is made anew when it is needed."""
    removed = clear(os.environ)
    put([json.dumps({"removed": removed}) if as_json else f"removed {removed} plans"])


@command.command("add", context_settings={"allow_interspersed_args": False})
@profile_options
@click.option("--status-fd", type=int, metavar="N", callback=parse_status, help="As for run.")
@click.option("--trace-exec", is_flag=True, help="As for run.")
@click.option("--trace-net", is_flag=True, help="As for run.")
@click.option("-q", "--quiet", is_flag=True, help="As for run.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=complete_file)
@click.pass_obj
def add(
    key: str | None,
    choice: Choice,
    status_fd: int | None,
    trace_exec: bool,
    trace_net: bool,
    quiet: bool,
    command: tuple[str, ...],
) -> None:
    """Keep the plan of `sandbox run` with the same options and COMMAND, from the same folder, and start nothing."""
    if key is None:
        raise UsageError("cache add", "the native part of this command says for what", "call it as sandbox")
    start = Start.of(choice, command, original_environment(), quiet=quiet)
    plan = start.compile(command, start.caller, status_fd, executes=trace_exec, connects=trace_net)
    if not start.keep(key, plan):
        raise UsageError(
            "cache add", "such a plan is made at each start",
            "see docs/command-line.md: limits by cgroup, users, hosts, a service manager's descriptors",
        )  # fmt: skip
