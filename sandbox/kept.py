"""Plans that this process has compiled for its own starts: what each was made of, and whether that is still so.

In memory only, and for this process only; `cache` is what `sandbox run` keeps in files. Both keep what is_lasting() and
a look-up's trail say, and compare the same: arguments and facts by the key, files by their content.
"""

from __future__ import annotations

import enum
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Final, TypeAlias

from sandbox.caller import Caller
from sandbox.plan import Plan
from sandbox.profile import Profile
from sandbox.profile_files import Trail

MAX_ENTRIES: Final = 64
MAX_NUMBERS: Final = 64  # of one entry: as many threads as use it at once
Key: TypeAlias = tuple[object, ...]
_PLAIN: Final = (str, bytes, int, float, bool, enum.Enum, type(None))


@dataclass(frozen=True, slots=True)
class Compiled:
    """A plan and its bytes."""

    plan: Plan
    data: bytes


@dataclass(slots=True)
class Kept:
    """What starts of one key are made of, and their plans by the number of the status descriptor, which is in them."""

    profile: Profile
    caller: Caller
    trail: Trail
    plans: dict[int, Compiled] = field(default_factory=dict)

    def add(self, status: int, compiled: Compiled) -> None:
        """Keep a plan."""
        if len(self.plans) < MAX_NUMBERS:
            self.plans[status] = compiled


_entries: OrderedDict[Key, Kept] = OrderedDict()
_lock: Final = threading.Lock()


def key_of(*asked: object) -> Key | None:
    """Return what tells one start from another: what was asked for, and each fact of this process that is in a plan.

    Caller.of_process() takes the same facts, besides those that last as long as the process (the kernel's Landlock)
    and those that nothing which lasts depends on (cgroups). None: it was asked in values that cannot be compared.
    """
    try:
        return (
            tuple(map(_comparable, asked)), tuple(os.environ.items()), os.getcwd(), os.getpid(), os.getresuid(),
            os.getresgid(), os.isatty(0), os.isatty(1), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0),
        )  # fmt: skip
    except (TypeError, OSError):
        return None


def _comparable(value: object) -> object:
    """Return a value that is the same only where the given one says the same: 1, 1.0 and True are three things.

    Raises: TypeError for what is none of the types that are known.
    """
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return tuple((_comparable(name), _comparable(part)) for name, part in value.items())
    if isinstance(value, Sequence):
        return tuple(map(_comparable, value))
    if is_dataclass(value):
        hash(value)  # frozen, and of frozen values
        return type(value), value
    raise TypeError(type(value))


def find(key: Key | None) -> Kept | None:
    """Return what is kept for a key, unless a file that it was made of has changed."""
    with _lock:
        found = _entries.get(key) if key is not None else None
        if found is None or key is None:
            return None
        _entries.move_to_end(key)
    if found.trail.still_holds():
        return found
    with _lock:
        _entries.pop(key, None)
    return None


def keep(key: Key | None, kept: Kept) -> None:
    """Keep what a start was made of, unless that depends on more than the key and the trail say."""
    from sandbox.cache import is_lasting

    if key is None or not kept.trail.is_complete or not is_lasting(kept.profile, kept.caller):
        return
    with _lock:
        _entries[key] = kept
        while len(_entries) > MAX_ENTRIES:
            _entries.popitem(last=False)


def clear() -> int:
    """Forget everything, and return how many entries that was."""
    with _lock:
        count = len(_entries)
        _entries.clear()
    return count
