"""`sandbox probe`: what this kernel offers, and what each profile would lose on it."""

from __future__ import annotations

import json
import os

import click

from sandbox.kernel import FEATURES
from sandbox.probe import probe
from sandbox.profile_files import available, default_search_path


@click.command("probe")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(as_json: bool) -> None:
    """Print the kernel's features, and for each profile what it needs and would not get."""
    found = probe()
    missing = [feature for feature in FEATURES if feature.required and not found[feature.name]]
    names = [entry.name for entry in available(default_search_path(os.environ)) if not entry.shadowed]
    if as_json:
        lost = {name: [feature.name for feature in missing] for name in names}
        click.echo(json.dumps({"kernel": os.uname().release, "features": found, "profiles": lost}, indent=2))
        return
    click.echo(f"kernel {os.uname().release}")
    for feature in FEATURES:
        value = found[feature.name]
        have = str(value) if feature.counted else ("yes" if value else "no")
        need = "required" if feature.required else "not used yet"
        click.echo(f"  {feature.name:22} {have:4} (since {feature.since}; {need}) {feature.purpose}")
    loss = ", ".join(feature.name for feature in missing)
    for name in names:
        click.echo(f"profile {name}: " + (f"{loss} missing: cannot run" if missing else "nothing lost"))
