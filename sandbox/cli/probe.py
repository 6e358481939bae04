"""`sandbox probe`: what this kernel offers, and what each profile would lose on it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence

import click

from sandbox import available, default_search_path
from sandbox.cli.output import put
from sandbox.kernel import FEATURES
from sandbox.probe import probe


@click.command("probe", short_help="Print the kernel's features, and what each profile loses.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(as_json: bool) -> None:
    """Print the kernel's features, and for each profile what it needs and would not get."""
    found = probe()
    # Every profile of this version needs the same features: all that the launcher's mandatory steps use.
    missing = [feature.name for feature in FEATURES if feature.required and not found[feature.name]]
    names = [entry.name for entry in available(default_search_path(os.environ)) if not entry.shadowed]
    if as_json:
        lost = dict.fromkeys(names, missing)
        put([json.dumps({"kernel": os.uname().release, "features": found, "profiles": lost}, indent=2)])
    else:
        put(_table(found, names, missing))


def _table(found: Mapping[str, int], names: Sequence[str], missing: Sequence[str]) -> Iterator[str]:
    yield f"kernel {os.uname().release}"
    for feature in FEATURES:
        value = found[feature.name]
        have = str(value) if feature.counted else ("yes" if value else "no")
        need = "required" if feature.required else "not used yet"
        yield f"  {feature.name:22} {have:4} (since {feature.since}; {need}) {feature.purpose}"
    lost = f"{', '.join(missing)} missing: none can run" if missing else "nothing lost"
    yield f"profiles, {len(names)}: {lost}"
