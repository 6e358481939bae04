"""`sandbox install`: wrappers in a folder of the PATH, which run commands under their profile."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from sandbox import (
    check,
    default_search_path,
    find_commands,
    install_wrappers,
    load,
    original_environment,
    remove_wrappers,
)
from sandbox.cli.app import complete_profile
from sandbox.cli.output import put, say
from sandbox.errors import UsageError


@click.command("install", short_help="Put wrappers that run commands under a profile into PATH.")
@click.argument("profile", shell_complete=complete_profile)
@click.argument("commands", nargs=-1, metavar="[COMMAND]...")
@click.option("--folder", metavar="DIR", help="Where the wrappers are put; default ~/.local/bin.")
@click.option("--with", "options", default="", metavar="OPTIONS", help="Options of `run` that each wrapper adds.")
@click.option("--remove", is_flag=True, help="Remove the profile's wrappers instead.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array: the wrappers.")
def command(
    profile: str, commands: tuple[str, ...], folder: str | None, options: str, remove: bool, as_json: bool
) -> None:
    r"""Put wrappers into a folder of the PATH: by their own names, commands then run under PROFILE.

    Without COMMAND: each that the profile says it is for, and that is installed. A file that is there and was not made
    by this command is never replaced.

    \b
    sandbox install poppler
    sandbox install tar tar --with '--limit file_size=1G'
    sandbox install --remove poppler
    """
    environment = original_environment()
    place = Path(os.path.abspath(folder)) if folder else _default_folder(environment)
    reference = os.path.abspath(profile) if "/" in profile or profile.endswith(".toml") else profile
    wrong = next((name for name in commands if "/" in name or not name), None)
    if wrong is not None:
        raise UsageError(f"command {wrong!r}", "it is no command's name", "without its folder: git")
    if remove:
        removed = [str(path) for path in remove_wrappers(reference, place, commands)]
        put([json.dumps(removed, indent=2)] if as_json else [f"removed {path}" for path in removed])
        return
    loaded = load(reference, search=default_search_path(environment))
    check(loaded)
    path_variable = environment.get("PATH", os.defpath)
    found = find_commands(commands or loaded.commands, path_variable, versions=not commands)
    missing = next((name for name in commands if name not in found), None)
    if missing is not None:
        raise UsageError(f"command {missing}", "it is not in PATH", "install it first")
    if not found:
        said = "none of its commands is in PATH" if loaded.commands else "the profile is for no command"
        raise UsageError(f"profile {profile}", said, "name one that is: sandbox install PROFILE COMMAND")
    made = install_wrappers(found, reference, place, starter=_starter(), options=_run_options(options))
    if as_json:
        rows = [{"wrapper": str(each.path), "command": each.command, "profile": each.profile} for each in made]
        put([json.dumps(rows, indent=2)])
    else:  # each when it is made
        put(f"installed {each.path}: {each.command} under {each.profile}" for each in made)
    _tell_order(place, found, path_variable)


def _default_folder(environment: Mapping[str, str]) -> Path:
    home = environment.get("HOME", "")
    if not home.startswith("/"):
        raise UsageError("install", "HOME is no absolute path", "name the folder: --folder DIR")
    return Path(home, ".local/bin")


def _starter() -> list[str]:
    """Return the words that start this command line again, from anywhere."""
    script = os.path.abspath(sys.argv[0])
    native = os.path.join(os.path.dirname(script), "sandbox")
    if os.path.basename(script) == "sandbox-python" and os.access(native, os.X_OK):
        return [native]  # which has started us, and needs no Python where a plan is kept
    return [sys.executable, "-P", "-m", "sandbox"] if os.path.basename(script) == "__main__.py" else [script]


def _run_options(text: str) -> list[str]:
    """Split the value of `--with`, and refuse what `sandbox run` would refuse, or take for the command."""
    from sandbox.cli.run import command as run

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--with {text}", str(error).lower(), "quote it as for a shell") from error
    context = run.make_context("run", [*words, "--", "COMMAND"])
    if context.params["command"] != ("COMMAND",):
        raise UsageError(f"--with {text}", "it holds more than options", "as in --with '--write . --net host'")
    return words


def _tell_order(folder: Path, found: Mapping[str, str], path_variable: str) -> None:
    """Tell where the PATH does not lead to the wrappers first."""
    order = path_variable.split(os.pathsep)
    if str(folder) not in order:
        say(f"install: {folder}: it is not in PATH; put it there, before the commands' own folders")
        return
    first = order[: order.index(str(folder))]
    early = sorted(name for name, path in found.items() if os.path.dirname(path) in first)
    if early:
        say(f"install: {folder}: in PATH it comes after the folders of {', '.join(early)}; put it before them")
