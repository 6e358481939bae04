"""A real systemd for tests, as process 1 of namespaces of its own: units, and a script that drives them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

from sandbox.units import Unit

ROOT: Final = Path(__file__).resolve().parents[2]
NEEDS_SYSTEMD: Final = pytest.mark.skipif(shutil.which("systemctl") is None, reason="optional tool absent: systemctl")
NEEDS_ROOT: Final = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it starts a systemd of its own")
_ENDED: Final = 9
# What scripts can use: a property of a unit, and waiting until one has a value.
_HELPERS: Final = """
show() { systemctl show --value -p "$2" "$1.service"; }
until_is() { i=0; until [ "$(show "$1" "$2")" = "$3" ] || [ $i = 300 ]; do sleep 0.1; i=$((i + 1)); done; }
until_true() { i=0; until "$@" || [ $i = 300 ]; do sleep 0.1; i=$((i + 1)); done; }
"""


def write_units(folder: Path, made: Iterable[Unit], **drop_ins: str) -> None:
    """Write units, and what is said of a service beside: by its name, lines of its section [Service]."""
    for unit in made:
        (folder / unit.name).write_text(unit.text)
    for name, lines in drop_ins.items():
        (folder / f"{name}.service.d").mkdir()
        (folder / f"{name}.service.d" / "test.conf").write_text(f"[Service]\n{lines}\n")


def booted(folder: Path, script: str) -> list[str]:
    """Boot a systemd with the units of folder/units, which is /run/test there, and return what the script prints."""
    here = folder / "units"
    (here / "script").write_text(_HELPERS + script)
    (here / "test.target").write_text("[Unit]\nWants=test.service\n")
    (here / "test.service").write_text(
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nStandardOutput=file:/run/test/out\n"
        f"StandardError=inherit\nExecStart=/bin/sh /run/test/script\nExecStopPost=/bin/systemctl exit {_ENDED}\n"
    )
    done = subprocess.run(
        [ROOT / "tests/support/boot-systemd", folder], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == _ENDED, done.stderr
    return (here / "out").read_text().splitlines()
