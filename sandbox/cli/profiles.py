"""`sandbox profiles`: list, show, locate profiles, and the schema for editors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from sandbox import Profile, available, default_search_path, format_profile, load, schema
from sandbox.cli.app import CommandGroup, complete_file, complete_profile
from sandbox.cli.output import put, say
from sandbox.errors import UsageError


def _load(reference: str) -> Profile:
    return load(reference, search=default_search_path(os.environ))


@click.group("profiles", cls=CommandGroup, no_args_is_help=False)
def command() -> None:
    r"""List, show and locate profiles.

    \b
    sandbox profiles list
    sandbox profiles show untrusted > ~/.config/sandbox/profiles/mine.toml
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def list_(as_json: bool) -> None:
    """List the profiles in the order in which they are found; a shadowed one is marked."""
    found = available(default_search_path(os.environ))
    if as_json:
        rows = [
            {"name": e.name, "path": str(e.path), "description": e.description, "shadowed": e.shadowed} for e in found
        ]
        put([json.dumps(rows, indent=2)])
        return
    put(f"{entry.name:16} {entry.description}{' (shadowed)' if entry.shadowed else ''}" for entry in found)


@command.command("show")
@click.argument("profile", shell_complete=complete_profile)
@click.option("--source", is_flag=True, help="Print the file itself instead of the merged profile.")
def show(profile: str, source: bool) -> None:
    """Print PROFILE as it is after `extends`, as TOML."""
    loaded = _load(profile)
    text = Path(loaded.source_path).read_text("utf-8") if source else format_profile(loaded)
    put(text.splitlines())


@command.command("path")
@click.argument("profile", shell_complete=complete_profile)
def path(profile: str) -> None:
    """Print the file that PROFILE is read from."""
    put([_load(profile).source_path])


@command.command("import")
@click.argument("file", type=click.Path(), shell_complete=complete_file)
def import_seccomp(file: str) -> None:
    """Print the [filter] section of what an OCI or Docker seccomp profile, a JSON FILE, allows."""
    from sandbox.exports import imported_filter  # the others need none of it

    try:
        value = json.loads(Path(file).read_text("utf-8"))
    except ValueError as error:
        raise UsageError(file, f"it is no JSON: {error}", "give a seccomp profile, or a config.json") from error
    made = imported_filter(value)
    put(["[filter]", "allow = [", *(f"  {json.dumps(name)}," for name in made.value), "]"])
    for line in made.lost:
        say(f"import: {line}")


@command.command("schema")
def print_schema() -> None:
    """Print the JSON schema of a profile, for editors."""
    put([json.dumps(schema(), indent=2)])
