"""`sandbox export`: a profile in the words of other programs."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import replace

import click

from sandbox import Caller, original_environment
from sandbox.build import environment_set, filter_policy, keeps
from sandbox.cli.app import Choice, addition_options, complete_file, complete_profile
from sandbox.cli.output import put, say
from sandbox.errors import UsageError
from sandbox.exports import Export, Start, as_seen, bubblewrap, docker, oci, systemd
from sandbox.pods import kubernetes
from sandbox.profile import Profile, check, numbered
from sandbox.walls import identity_of, working_directory


@click.command("export", short_help="Print a profile in the words of another program.")
@addition_options
@click.option("--docker", "form", flag_value="docker", help="Docker's and Kubernetes' seccomp profile.")
@click.option("--oci", "form", flag_value="oci", help="An OCI runtime's config.json.")
@click.option("--bwrap", "form", flag_value="bwrap", help="bubblewrap's command line.")
@click.option("--kubernetes", "form", flag_value="kubernetes", help="A pod, and a policy for its network.")
@click.option("--systemd", "form", flag_value="systemd", help="Directives of a [Service] section.")
@click.argument("profile", shell_complete=complete_profile)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_file)
def command(choice: Choice, form: str | None, command: tuple[str, ...]) -> None:
    r"""Print PROFILE in the words of another program; what it has no words for is told on standard error.

    \b
    sandbox export --docker untrusted >seccomp.json
    sandbox export --bwrap untrusted -- ls -l
    """
    if form is None:
        raise UsageError("export", "it is not said to whom", "one of --docker, --oci, --kubernetes, --bwrap, --systemd")
    caller = Caller.of_process(parent_pid=os.getppid(), environ=original_environment())
    chosen, caller = choice.resolve(caller)
    check(chosen)
    grants = numbered(chosen)
    # No Landlock: the other one has none, so what it would hold of sockets the filter does.
    # No supervisor either: the filter is that of a profile without rules, which refuses what would be asked.
    alone = replace(chosen, network=replace(chosen.network, allow=(), bind=(), dns=False, resolvers=()))
    policy = filter_policy(alone, grants, 0)
    seen, absent = as_seen(chosen, _look)
    folder = working_directory(chosen, caller) or caller.cwd
    start = Start(command, _environment(chosen, caller), folder, identity_of(chosen, caller))
    match form:
        case "docker":
            _print(docker(chosen, policy))
        case "oci":
            _print(oci(seen, policy, start), absent)
        case "kubernetes":
            _print(kubernetes(chosen, replace(start, environ=environment_set(chosen, ())), caller))
        case "bwrap":
            _print(bubblewrap(seen, start, _look), absent)
        case _:
            _print(systemd(chosen, policy))


def _look(path: str) -> str:
    return "folder" if os.path.isdir(path) else "file" if os.path.lexists(path) else ""


def _environment(profile: Profile, caller: Caller) -> dict[str, str]:
    kept = {
        name: text
        for name, text in caller.environ.items()
        if any(keeps(pattern, name) for pattern in profile.environment.keep)
    }
    return kept | environment_set(profile, ())


def _print(made: Export, absent: tuple[str, ...] = ()) -> None:
    if isinstance(made.value, dict):
        put([json.dumps(made.value, indent=2)])
    elif made.value[0] == "bwrap":
        put([shlex.join(made.value)])
    else:
        put(made.value)
    for line in (*made.lost, *absent):
        say(f"export: not expressed: {line}")
