"""Sizes in bytes, as profiles and the command line write them. Pure."""

from __future__ import annotations

import re
from typing import Final

from sandbox.errors import UsageError

_SIZES: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE: Final = re.compile(r"([0-9]{1,18})([KMGT]?)\Z")


def parse_size(text: str) -> int:
    """Return the bytes that `512M` means: a whole number, with K, M, G or T for powers of 1024.

    Raises: UsageError that names the text.
    """
    match = _SIZE.match(text)
    if match is None:
        raise UsageError(repr(text), "it is not a size", "write bytes, or a number with K, M, G or T: 512M")
    return int(match[1]) * _SIZES[match[2]]


def format_size(size: int) -> str:
    """Return the shortest text that parse_size() reads as that many bytes."""
    for suffix, factor in reversed(_SIZES.items()):
        if size and size % factor == 0:
            return f"{size // factor}{suffix}"
    return str(size)
