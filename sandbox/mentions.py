"""Words that programs and scripts hold: what a program may ask the environment for, which no system call tells."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# Of a program, so much is searched; a text that is longer is no script.
_MOST_OF_PROGRAM: Final = 1 << 25
_LONGEST_SCRIPT: Final = 1 << 18
_WORD: Final = re.compile(rb"[A-Za-z_][A-Za-z0-9_]{2,}")


def words_of(programs: Iterable[str], scripts: Iterable[str]) -> frozenset[str]:
    """Return the words that programs hold, and scripts, which are files that are not long."""
    found: set[bytes] = set()
    for path in programs:
        found.update(_WORD.findall(_beginning(path, _MOST_OF_PROGRAM)))
    for path in scripts:
        data = _beginning(path, _LONGEST_SCRIPT)
        if len(data) < _LONGEST_SCRIPT:
            found.update(_WORD.findall(data))
    return frozenset(word.decode("ascii") for word in found)


def words_in(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(word.decode("ascii") for word in _WORD.findall(text.encode("utf-8", "surrogateescape")))


def _beginning(path: str, size: int) -> bytes:
    if not Path(path).is_file():
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError:
        return b""
