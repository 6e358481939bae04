"""`sandbox diff`: what one profile lets a program do that another does not."""

from __future__ import annotations

import dataclasses
import json
import os

import click

from sandbox import check, default_search_path, load
from sandbox.cli.app import complete_profile
from sandbox.cli.output import put, put_table
from sandbox.compare import more


@click.command("diff", short_help="Print what profile B lets a program do that A does not.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.argument("a", shell_complete=complete_profile)
@click.argument("b", shell_complete=complete_profile)
def command(a: str, b: str, as_json: bool) -> int:
    r"""Print what a program can do under profile B that it cannot do under profile A; 1 if there is anything.

    \b
    sandbox diff untrusted nested
    sandbox diff old.toml new.toml && echo 'the new one grants nothing more'
    """
    first, second = (load(reference, search=default_search_path(os.environ)) for reference in (a, b))
    for profile in (first, second):
        check(profile)
    found = more(first, second)
    if as_json:
        put([json.dumps([dataclasses.asdict(each) for each in found], indent=2)])
    else:
        put_table(
            ("table", f"what {second.name} lets a program do more"), [(m.area, m.what) for m in found], map(str, found)
        )
    return int(bool(found))
