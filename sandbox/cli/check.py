"""`sandbox check`: validate profiles."""

from __future__ import annotations

import os

import click

from sandbox.cli.app import ProfileName
from sandbox.profile import check
from sandbox.profile_files import default_search_path, load


@click.command("check")
@click.argument("profiles", nargs=-1, required=True, type=ProfileName())
def command(profiles: tuple[str, ...]) -> None:
    """Say whether each PROFILE (a name or a path) is valid; the first that is not ends with 125."""
    for reference in profiles:
        profile = load(reference, search=default_search_path(os.environ))
        check(profile)
        click.echo(f"ok {profile.name} ({profile.source_path})")
