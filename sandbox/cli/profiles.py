"""`sandbox profiles`: list, show, locate profiles, and the schema for editors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from sandbox.cli.app import ProfileName
from sandbox.profile import format_profile, schema
from sandbox.profile_files import available, default_search_path, load


@click.group("profiles")
def command() -> None:
    """List, show and locate profiles."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def list_(as_json: bool) -> None:
    """List the profiles by the order in which they are found; a shadowed one is marked."""
    found = available(default_search_path(os.environ))
    if as_json:
        rows = [
            {"name": e.name, "path": str(e.path), "description": e.description, "shadowed": e.shadowed} for e in found
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    for entry in found:
        mark = " (shadowed)" if entry.shadowed else ""
        click.echo(f"{entry.name:16} {entry.description}{mark}")


@command.command("show")
@click.argument("profile", type=ProfileName())
@click.option("--source", is_flag=True, help="Print the file itself instead of the merged profile.")
def show(profile: str, source: bool) -> None:
    """Print PROFILE as it is after `extends`, as TOML."""
    loaded = load(profile, search=default_search_path(os.environ))
    click.echo(Path(loaded.source_path).read_text() if source else format_profile(loaded), nl=False)


@command.command("path")
@click.argument("profile", type=ProfileName())
def path(profile: str) -> None:
    """Print the file that PROFILE is read from."""
    click.echo(load(profile, search=default_search_path(os.environ)).source_path)


@command.command("schema")
def print_schema() -> None:
    """Print the JSON schema of a profile, for editors."""
    click.echo(json.dumps(schema(), indent=2))
