"""Sealed files and kept plans that hold anything behind checksums that are right: nothing is read outside of them."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from sandbox import wire
from sandbox.filesystem import FilesystemPolicy
from sandbox.grants import parse_grant
from sandbox.profile_files import default_search_path, load
from sandbox.resolve import Additions
from sandbox.seal import assemble
from sandbox.template import encode
from tests.support.native import SANITIZE, SANITIZER_ENVIRONMENT, build_harness, hosted_files
from tests.support.sealing import sealed

UNTRUSTED: Final = load("untrusted", search=default_search_path({}))
ROUNDS: Final = 100
ADDED: Final = Additions(
    grants=tuple(
        map(parse_grant, ("a=file:x", "b=inherit:systemd:web", "c=listen:unix:s", "d=connect:tcp:127.0.0.1:1"))
    ),
    filesystem=FilesystemPolicy(read=("x", "/etc"), hide=("y",), tmpfs=("/tmp/z",)),
    keep=("*",), notify=True, chdir="/usr",
)  # fmt: skip
ENVIRONMENT: Final = {
    **SANITIZER_ENVIRONMENT, "PATH": "/usr/bin:/bin", "HOME": "/root", "NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1",
    "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web", "MAKEFLAGS": "--jobserver-auth=3,4",
}  # fmt: skip


def changed(data: bytes, chance: random.Random) -> bytearray:
    """Return bytes with a few of them replaced, mostly by what is at an edge."""
    found = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5])):
        at = chance.randrange(len(found))
        found[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, found[at] ^ 1 << chance.randrange(8), ord("/"), ord("{")])
    return found


def checked(data: bytearray, place: int) -> bytes:
    """Put the checksum at `place` right."""
    data[place : place + 8] = wire.checksum(data, skipped=place // 8).to_bytes(8, "little")
    return bytes(data)


def ended_well(done: subprocess.CompletedProcess[str]) -> bool:
    said = "Sanitizer" in done.stderr or "runtime error" in done.stderr
    return not said and done.returncode >= 0 and done.returncode != 99


def test_sealed_file_that_holds_anything_reads_nothing_else(tmp_path: Path) -> None:
    launcher = build_harness("hosted_main", hosted_files()).read_bytes()
    made = sealed(UNTRUSTED, ["ls", "-l"], ADDED)
    template = encode(made.template)
    whole = assemble(launcher, made)
    place, start = whole.find(b"sandbox-sealed:\n"), whole.rfind(template[:64])
    file = tmp_path / "sealed"
    chance = random.Random(1)
    refused = 0
    for round_ in range(ROUNDS):
        data = bytearray(whole)
        data[start : start + len(template)] = checked(changed(template, chance), 16) if round_ else template
        file.write_bytes(checked(data, place + 40))
        file.chmod(0o755)
        done = subprocess.run(
            ["sh", "-c", 'export LISTEN_PID=$$; exec "$0" --sandbox-plan argument', file], env=ENVIRONMENT, cwd="/usr",
            capture_output=True, text=True, errors="replace", timeout=60, check=False,
        )  # fmt: skip
        assert ended_well(done), (round_, done.stderr)
        assert round_ or done.returncode == 0
        refused += done.returncode != 0
    assert ROUNDS // 20 < refused < ROUNDS


def test_kept_plan_that_holds_anything_reads_nothing_else(tmp_path: Path, sandbox_command: tuple[str, ...]) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    front = build_harness("hosted_main", hosted_files(), (*SANITIZE, "-DFRONT"))
    shutil.copy(front, folder / "sandbox")
    python = folder / "sandbox-python"
    python.write_text(f'#!/bin/sh\nexec {" ".join(sandbox_command)} "$@"\n')
    python.chmod(0o755)
    env = {**SANITIZER_ENVIRONMENT, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    env |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}

    def start() -> subprocess.CompletedProcess[str]:
        command = [str(folder / "sandbox"), "run", "-p", "sealed", "true"]
        return subprocess.run(command, env=env, cwd="/usr", capture_output=True, text=True, timeout=60, check=False)

    assert start().returncode == 0
    (entry,) = (tmp_path / ".cache/sandbox").iterdir()
    whole = entry.read_bytes()
    python.write_text("#!/bin/sh\nexit 77\n")
    chance = random.Random(2)
    template = whole.rfind(b"SBXTMPL\n")
    codes = set()
    for round_ in range(ROUNDS):
        data = bytearray(whole)
        if round_ % 2:
            data[template:] = checked(changed(whole[template:], chance), 16)
        elif round_:
            data[16:template] = changed(whole[16:template], chance)
        entry.write_bytes(checked(data, 8))
        done = start()
        assert ended_well(done), (round_, done.stderr)
        codes.add(done.returncode)
    assert {0, 77} <= codes


@pytest.mark.parametrize("name", ["HOME", "PATH", "NOTIFY_SOCKET", "LISTEN_FDNAMES", "TMPDIR"])
def test_start_with_enormous_variables_is_refused_or_right(tmp_path: Path, name: str) -> None:
    file = tmp_path / "sealed"
    file.write_bytes(
        assemble(build_harness("hosted_main", hosted_files()).read_bytes(), sealed(UNTRUSTED, ["ls"], ADDED))
    )
    file.chmod(0o755)
    for value in ("/" * 100_000, "/x" * 60_000, ":" * 100_000, "/{home}" * 1000, ""):
        done = subprocess.run(
            [file, "--sandbox-plan"], env={**ENVIRONMENT, name: value}, cwd="/usr", capture_output=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode in (0, 125)
        assert b"Sanitizer" not in done.stderr
