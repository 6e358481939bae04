"""`--json`: every command that reports has it and prints one JSON text then; a new command is decided on here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import click
import pytest

from sandbox.cli.app import app
from tests.cli.conftest import Run

# command -> a call of it, in a folder with a profile p.toml and a sealed file; learn tells on standard error.
CALLS: Final[Mapping[str, tuple[str, ...]]] = {
    "learn": ("--permissive", "-o", "new.toml", "true"),
    "check": ("untrusted", "./p.toml"),
    "diff": ("sealed", "untrusted"),
    "explain": ("-p", "./p.toml"),
    "unseal": ("./sealed",),
    "survey": ("true",),
    "probe": (),
    "profiles list": (),
    "profiles show": ("untrusted",),
    "profiles path": ("untrusted",),
    "install": ("untrusted", "true", "--folder", "bin"),
    "cache show": (),
    "cache clear": (),
}
# command -> why it has none.
WITHOUT: Final[Mapping[str, str]] = {
    "run": "what it prints is its command's; --explain-output and --status-fd are JSON",
    "seal": "makes a file, says nothing",
    "unit": "prints systemd's files",
    "export": "prints what other programs read, JSON where those do",
    "profiles import": "prints a profile's part",
    "profiles schema": "is JSON",
    "cache add": "says nothing",
    "completion": "prints a script",
    "man": "prints pages",
}


def every(group: click.Group, *words: str) -> Iterator[tuple[str, click.Command]]:
    """Yield each command that does something, by its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from every(found, *words, name)
        else:
            yield " ".join((*words, name)), found


COMMANDS: Final = dict(every(app))


def test_every_command_has_json_or_a_reason_not_to() -> None:
    having = {name for name, found in COMMANDS.items() if any("--json" in param.opts for param in found.params)}
    assert having == set(CALLS)
    assert set(COMMANDS) - having == set(WITHOUT)
    assert len(having) > 10


@pytest.mark.parametrize("name", CALLS)
def test_json_is_one_json_text_and_the_plain_form_is_none(name: str, sandbox: Run, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "bin").mkdir(parents=True)
    (work / "p.toml").write_text('extends = ["untrusted"]\n')
    assert sandbox("seal", "./p.toml", "-o", "sealed", "--", "true", cwd=work).returncode == 0

    def said(*options: str) -> str:
        done = sandbox(*name.split(), *options, *CALLS[name], cwd=work)
        assert done.returncode == (1 if name == "diff" else 0), done.stderr
        return str(done.stderr if name == "learn" else done.stdout)

    json.loads(said("--json"))
    for made in ("new.toml", "bin/true"):
        (work / made).unlink(missing_ok=True)
    plain = said()
    assert plain
    with pytest.raises(json.JSONDecodeError):
        json.loads(plain)


def test_json_of_install_names_what_was_made_and_removed(sandbox: Run, tmp_path: Path) -> None:
    words = ("install", "--json", "untrusted", "true", "--folder", "bin")
    (tmp_path / "bin").mkdir()
    made = json.loads(sandbox(*words, cwd=tmp_path).stdout)
    assert [(row["wrapper"], row["profile"]) for row in made] == [(str(tmp_path / "bin/true"), "untrusted")]
    assert os.access(made[0]["wrapper"], os.X_OK)
    assert json.loads(sandbox(*words, "--remove", cwd=tmp_path).stdout) == [str(tmp_path / "bin/true")]
    assert sandbox(*words, "--remove", cwd=tmp_path).returncode == 125
