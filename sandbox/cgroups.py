"""Looks for a delegated cgroup: a folder of the caller's own in which the launcher may make one for the sandbox.

Documentation/admin-guide/cgroup-v2.rst, "Delegation"; systemd marks the folders that it delegates.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sandbox.limits import CONTROLLERS, Delegated

_MARKS: Final = ("user.delegate", "trusted.delegate")
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


def find(*, alone: bool, proc: Path = Path("/proc")) -> Delegated | None:
    """Return the caller's own cgroup, or the nearest above it that is marked as delegated, if it can limit anything.

    alone: the launcher takes this process's place; where no other process is in the folder, it can move on and have
    the controllers passed on, which a folder with processes in it refuses.
    Returns: None where there is no version 2, no right to write, or no controller that we use.
    """
    own = _own_folder(proc)
    for folder in () if own is None else _candidates(*own):
        controllers = _controllers(folder, alone=alone)
        if controllers:
            return Delegated(str(folder), controllers, swap=(proc / "swaps").exists())
    return None


def _own_folder(proc: Path) -> tuple[Path, Path] | None:
    """Return the mount of version 2, and the folder of this process in it."""
    try:
        paths = [line[3:] for line in _text(proc / "self" / "cgroup").splitlines() if line.startswith("0::")]
        mounts = _text(proc / "self" / "mountinfo").splitlines()
    except OSError:
        return None
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        if paths and after.startswith("cgroup2 "):
            root, point = (_ESCAPE.sub(lambda match: chr(int(match[1], 8)), word) for word in before.split(" ")[3:5])
            inside = os.path.relpath(paths[0], root)
            if not inside.startswith(".."):
                return Path(point), Path(point, inside)
    return None


def _candidates(mount: Path, own: Path) -> Iterator[Path]:
    yield own
    for folder in own.parents:
        if not folder.is_relative_to(mount):
            return
        if _is_marked(folder):
            yield folder


def _is_marked(folder: Path) -> bool:
    for mark in _MARKS:
        try:
            if os.getxattr(folder, mark) == b"1":
                return True
        except OSError:
            continue
    return False


def _controllers(folder: Path, *, alone: bool) -> frozenset[str]:
    """Return those of our controllers that a new cgroup in the folder has, or that the launcher can give it."""
    if not all(os.access(folder / name, os.W_OK) for name in (".", "cgroup.procs", "cgroup.subtree_control")):
        return frozenset()
    try:
        others = set(_text(folder / "cgroup.procs").split()) - ({str(os.getpid())} if alone else set())
        # Only the hierarchy's root has no type, and only it may hold processes and pass controllers on.
        may_enable = not others or not (folder / "cgroup.type").exists()
        found = _text(folder / ("cgroup.controllers" if may_enable else "cgroup.subtree_control"))
    except OSError:
        return frozenset()
    return frozenset(found.split()) & frozenset(CONTROLLERS.values())


def _text(path: Path) -> str:
    return os.fsdecode(path.read_bytes())


def times_out_of_memory(delegated: Delegated | None) -> int:
    """Return how often the kernel has ended a process below a cgroup for want of memory (cgroup-v2.rst)."""
    try:
        text = Path(delegated.path, "memory.events").read_text("ascii") if delegated else ""
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))
