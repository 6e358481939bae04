"""Processes as seen from outside: who descends from whom, what they use, and waiting until they are gone."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SECONDS: Final = 30  # a hang, not a measure


def children(pid: int) -> list[int]:
    """Return the children of a process's first thread; none if it is gone."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pid: int) -> list[int]:
    """Return the children of a process, theirs, and so on."""
    found = children(pid)
    return found + [below for child in found for below in descendants(child)]


def name_of(pid: int) -> str:
    """Return a process's short name; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def status_of(pid: int, field: str) -> int:
    """Return the number behind a field of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def wait_for_descendants(pid: int, name: str, count: int = 1) -> list[int]:
    """Wait until a process has that many descendants of a name, and return them."""
    deadline = time.monotonic() + SECONDS
    while len(found := [below for below in descendants(pid) if name_of(below) == name]) < count:
        assert time.monotonic() < deadline, f"no {count} x {name}"
        time.sleep(0.005)
    return found


@contextlib.contextmanager
def watched(*pids: int) -> Iterator[list[int]]:
    """Yield pidfds of processes that run."""
    with contextlib.ExitStack() as stack:
        fds = [os.pidfd_open(pid) for pid in pids]
        for fd in fds:
            stack.callback(os.close, fd)
        yield fds


def all_end(pidfds: list[int]) -> bool:
    """Wait until all have ended; tell whether they have."""
    return all(select.select([fd], [], [], SECONDS)[0] for fd in pidfds)
