"""`sandbox unit`: systemd's units for a sealed file."""

from __future__ import annotations

import os
from pathlib import Path

import click

from sandbox import default_search_path, load
from sandbox.cli.app import complete_file, complete_profile
from sandbox.cli.output import put
from sandbox.errors import UsageError
from sandbox.units import check_type, units


def _addresses(_ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    for text in texts:
        if not text.partition("=")[2]:
            raise UsageError(f"--listen {text}", "it is no NAME=ADDRESS", "as in --listen web=127.0.0.1:80")
    return {name: address for name, _, address in (text.partition("=") for text in texts)}


@click.command("unit", short_help="Print systemd's units for a sealed file.")
@click.argument("profile", shell_complete=complete_profile)
@click.argument("file", shell_complete=complete_file)
@click.option("--name", help="The service's name; by default the file's.")
@click.option("--type", "kind", metavar="TYPE", help="exec or notify; by default as the profile says.")
@click.option(
    "--listen", multiple=True, callback=_addresses, metavar="NAME=ADDRESS",
    help="What systemd listens on for the grant systemd:NAME, as in ListenStream=.",
)  # fmt: skip
@click.option("--user", metavar="NAME[:GROUP]", help="Whom systemd starts it as; by default root.")
@click.option("--reload", is_flag=True, help="SIGHUP makes the command read its configuration anew.")
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    shell_complete=complete_file,
    help="Write the units there, not to standard output.",
)
def command(
    profile: str,
    file: str,
    name: str | None,
    kind: str | None,
    listen: dict[str, str],
    reload: bool,
    user: str | None,
    output: str | None,
) -> None:
    r"""Print systemd's units for FILE, which `sandbox seal` has made of PROFILE.

    \b
    sandbox seal ./web.toml -o /usr/local/bin/web -- /usr/bin/web-server
    sandbox unit ./web.toml /usr/local/bin/web --listen http=80 -o /etc/systemd/system
    """
    if kind is not None:
        check_type(kind)
    path = os.path.abspath(file)
    loaded = load(profile, search=default_search_path(os.environ))
    made = units(loaded, name or os.path.basename(path), path, listen, kind=kind, reload=reload, user=user)
    for unit in made:
        if output is None:
            put([f"# {unit.name}", *unit.text.splitlines()])
        else:
            Path(output, unit.name).write_text(unit.text)
