"""`sandbox check`: validate profiles, and find what is dangerous or useless in them."""

from __future__ import annotations

import dataclasses
import json
import os

import click

from sandbox import Caller, check, default_search_path, load
from sandbox.cli.app import complete_profile
from sandbox.cli.output import printable, put, put_table
from sandbox.cli.progress import progress
from sandbox.explaining import Machine
from sandbox.lint import NAMES, lint


@click.command("check", short_help="Validate profiles; find what is dangerous or useless in them.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.option("--strict", is_flag=True, help="End with 1 if anything is found.")
@click.option(
    "--accept", multiple=True, type=click.Choice(list(NAMES)), help="Leave out what this rule finds.", metavar="RULE"
)
@click.argument("profiles", nargs=-1, required=True, shell_complete=complete_profile)
def command(profiles: tuple[str, ...], as_json: bool, strict: bool, accept: tuple[str, ...]) -> int:
    r"""Say whether each PROFILE (a name or a path) is valid, and what in it is dangerous or useless.

    The first that is not valid ends with 125. What is found does not, but with --strict, for use in CI: 1.

    \b
    sandbox check untrusted ./mine.toml
    sandbox check --strict --accept whole-network profiles/*.toml
    """
    caller = Caller.of_process(parent_pid=os.getpid())
    search = default_search_path(os.environ)
    rows: list[dict[str, object]] = []
    total = 0
    with progress("checking") as tell:
        for index, reference in enumerate(profiles, 1):
            tell(f"checking {printable(reference)}: {index} of {len(profiles)}")
            profile = load(reference, search=search)
            check(profile)
            own = os.path.dirname(os.path.abspath(profile.source_path))
            found = [
                finding
                for finding in lint(profile, caller, Machine(), [*map(str, search.folders), own])
                if finding.rule not in accept
            ]
            total += len(found)
            findings = [dataclasses.asdict(finding) for finding in found]
            rows.append({"profile": profile.name, "path": profile.source_path, "findings": findings})
            if not as_json:
                put([f"ok {profile.name} ({profile.source_path})"])
                cells = [(finding.rule, finding.object, finding.reason, finding.hint) for finding in found]
                put_table(("rule", "of", "why", "what to do"), cells, [f"  {finding}" for finding in found])
    if as_json:
        put([json.dumps(rows, indent=2)])
    return int(strict and total > 0)
