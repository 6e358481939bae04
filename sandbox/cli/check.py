"""`sandbox check`: validate profiles."""

from __future__ import annotations

import os

import click

from sandbox import check, default_search_path, load
from sandbox.cli.app import complete_profile
from sandbox.cli.output import put


@click.command("check")
@click.argument("profiles", nargs=-1, required=True, shell_complete=complete_profile)
def command(profiles: tuple[str, ...]) -> None:
    r"""Say whether each PROFILE (a name or a path) is valid; the first that is not ends with 125.

    \b
    sandbox check untrusted ./mine.toml
    """
    for reference in profiles:
        profile = load(reference, search=default_search_path(os.environ))
        check(profile)
        put([f"ok {profile.name} ({profile.source_path})"])
