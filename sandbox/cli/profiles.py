"""`sandbox profiles`: list, show, locate profiles, and the schema for editors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from sandbox import Profile, available, default_search_path, format_profile, load, schema
from sandbox.cli.app import CommandGroup, complete_profile
from sandbox.cli.output import put


def _load(reference: str) -> Profile:
    return load(reference, search=default_search_path(os.environ))


@click.group("profiles", cls=CommandGroup, invoke_without_command=True)
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


@command.command("schema")
def print_schema() -> None:
    """Print the JSON schema of a profile, for editors."""
    put([json.dumps(schema(), indent=2)])
