"""`sandbox unseal`: what a sealed file was made of."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import click

from sandbox.cli.app import complete_file
from sandbox.cli.output import put
from sandbox.seal import take_apart


@click.command("unseal", short_help="Print the profile that a sealed file was made of.")
@click.argument("file", shell_complete=complete_file)
@click.option("--plan", is_flag=True, help="Print what the launcher carries out instead.")
@click.option("--json", "as_json", is_flag=True, help="Print the profile as JSON, or the plan's lines.")
def command(file: str, plan: bool, as_json: bool) -> None:
    r"""Print the profile that a sealed FILE was made of, with what was added to it, as TOML. Starts nothing.

    \b
    sandbox unseal ./ls-here
    sandbox unseal --plan ./ls-here
    """
    sealed = take_apart(Path(file).read_bytes(), file)
    lines = list(sealed.template.describe()) if plan else sealed.profile.splitlines()
    if as_json:
        lines = [json.dumps(lines if plan else tomllib.loads(sealed.profile), indent=2)]
    put(lines)
