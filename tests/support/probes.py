"""Builds the C probes into a folder that every user can look into; reads their verdicts."""

from __future__ import annotations

import errno
import fcntl
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PROBES: Final = ROOT / "tests" / "kernel" / "probes"
_FLAGS: Final = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-static")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a call returned; errno is 0 unless it is -1."""

    result: int
    errno: int


# F_GET_SEALS, F_ADD_SEALS of an ordinary file: it takes none, or, on tmpfs, has F_SEAL_SEAL from the start (fcntl(2)).
SEALS_OF_A_FILE: Final = {
    (Verdict(-1, errno.EINVAL), Verdict(-1, errno.EINVAL)),
    (Verdict(fcntl.F_SEAL_SEAL, 0), Verdict(-1, errno.EPERM)),
}


class Probes:
    """The built programs, each under its source's name; built when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> str:
        binary = self.folder / name
        if not binary.exists():
            subprocess.run(["gcc", *_FLAGS, "-o", binary, PROBES / f"{name}.c"], check=True)
            binary.chmod(0o755)
        return str(binary)


@contextmanager
def public_folder() -> Iterator[Path]:
    """Yield a fresh folder in which any user may look and execute; pytest's own are private."""
    folder = Path(tempfile.mkdtemp(prefix="sandbox-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def verdicts(text: str) -> dict[str, Verdict]:
    """Parse `name result errno` lines."""
    found = re.findall(r"^(\S+) (-?\d+) (\d+)$", text, re.MULTILINE)
    return {name: Verdict(int(result), int(errno)) for name, result, errno in found}


@dataclass(frozen=True, slots=True)
class OpenNumber:
    """One open descriptor as the fds probe saw it; mode is the access mode with O_APPEND."""

    cloexec: bool
    mode: int
    identity: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Table:
    """A process's descriptors, asked for in two ways."""

    numbers: dict[int, OpenNumber]
    listed: frozenset[int]


def table(text: str) -> Table:
    """Parse what the fds probe printed; both ways must agree."""
    rows = [tuple(map(int, row)) for row in re.findall(r"^fd (\d+) (\d+) (\d+) (\d+) (\d+)$", text, re.MULTILINE)]
    numbers = {fd: OpenNumber(bool(cloexec), mode, (dev, ino)) for fd, cloexec, mode, dev, ino in rows}
    listed = frozenset(int(fd) for fd in re.findall(r"^proc (\d+)$", text, re.MULTILINE))
    assert listed == numbers.keys(), text
    return Table(numbers, listed)


def as_table(heading: str, rows: dict[str, str], columns: dict[str, frozenset[str]]) -> list[str]:
    """Return a table of a document: what goes through is `yes`. rows: words -> what is tested."""
    lines = [f"| {heading} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for words, name in rows.items():
        lines.append(f"| {words} | " + " | ".join("yes" if name in can else "-" for can in columns.values()) + " |")
    return lines
