"""`sandbox profiles`: list, show, locate profiles, and the schema for editors."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import click

from sandbox import Profile, available, default_search_path, format_profile, load, schema
from sandbox.cli.app import CommandGroup, complete_file, complete_profile
from sandbox.cli.output import put, put_table, say
from sandbox.errors import UsageError


def _load(reference: str) -> Profile:
    return load(reference, search=default_search_path(os.environ))


@click.group("profiles", short_help="List, show and locate profiles.", cls=CommandGroup, invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    r"""List, show and locate profiles; without a command, list them.

    \b
    sandbox profiles
    sandbox profiles show untrusted > ~/.config/sandbox/profiles/mine.toml
    """
    if context.invoked_subcommand is None:
        context.invoke(list_)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def list_(as_json: bool) -> None:
    """List the profiles in the order in which they are found; a shadowed one is marked."""
    found = available(default_search_path(os.environ))
    if as_json:
        rows = [
            {
                "name": e.name, "path": str(e.path), "description": e.description, "commands": e.commands,
                "shadowed": e.shadowed,
            }
            for e in found
        ]  # fmt: skip
        put([json.dumps(rows, indent=2)])
        return
    plain = [f"{entry.name:16} {entry.description}{' (shadowed)' if entry.shadowed else ''}" for entry in found]
    shipped = default_search_path(os.environ).folders[-1]
    cells = [
        (e.name, e.description, "shipped" if e.path.parent == shipped else str(e.path.parent), "shadowed" * e.shadowed)
        for e in found
    ]
    put_table(("profile", "what it is for", "folder", ""), cells, plain)


@command.command("show")
@click.argument("profile", shell_complete=complete_profile)
@click.option("--source", is_flag=True, help="Print the file itself instead of the merged profile.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show(profile: str, source: bool, as_json: bool) -> None:
    """Print PROFILE as it is after `extends`, as TOML."""
    loaded = _load(profile)
    if as_json:
        text = Path(loaded.source_path).read_text("utf-8") if source else format_profile(loaded)
        put([json.dumps(tomllib.loads(text), indent=2)])
        return
    text = Path(loaded.source_path).read_text("utf-8") if source else format_profile(loaded)
    put(text.splitlines())


@command.command("path")
@click.argument("profile", shell_complete=complete_profile)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON text.")
def path(profile: str, as_json: bool) -> None:
    """Print the file that PROFILE is read from."""
    found = _load(profile).source_path
    put([json.dumps(found) if as_json else found])


@command.command("import")
@click.argument("file", type=click.Path(), shell_complete=complete_file)
def import_seccomp(file: str) -> None:
    """Print the [filter] section of what an OCI or Docker seccomp profile, a JSON FILE, allows."""
    from sandbox.imports import imported_filter  # the others need none of it

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
