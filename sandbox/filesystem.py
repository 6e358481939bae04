"""The file view as a value: which paths appear in the sandbox, with which rights. Pure; no path is looked at."""

from __future__ import annotations

import enum
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final


class View(enum.StrEnum):
    """What the program's root is: an empty one in which the declared paths appear, or the host's."""

    PRIVATE = "private"
    HOST = "host"


class Proc(enum.StrEnum):
    """What /proc shows: all that the kernel shows to a process without privileges, or only the folders of processes.

    writable: all, and what a user may write there can be written; user namespaces need it for their ID maps.
    """

    FULL = "full"
    PROCESSES = "processes"
    WRITABLE = "writable"


class Rights(enum.IntFlag):
    """What may be done below a path. WRITE and EXECUTE include READ."""

    READ = 1
    WRITE = 2
    EXECUTE = 4


class Kind(enum.Enum):
    """How an entry comes into the view."""

    BIND = "bind"
    TMPFS = "tmpfs"
    COPY = "copy"
    HIDE = "hide"


@dataclass(frozen=True, slots=True)
class FilesystemPolicy:
    """The declared paths. Each is absolute; a leading '-' means: skip it where it does not exist.

    tmpfs: empty, writable, gone at the end. private: what is there, and changes that are gone at the end. hide: empty
    and unreadable, whatever an entry above shows.
    """

    view: View = View.PRIVATE
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    execute: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    proc: Proc = Proc.FULL


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of the view; rights includes what entries above it give (lists add up, none takes away)."""

    path: str
    kind: Kind
    rights: Rights
    optional: bool = False


_KEYS: Final = {
    "read": (Kind.BIND, Rights.READ),
    "write": (Kind.BIND, Rights.READ | Rights.WRITE),
    "execute": (Kind.BIND, Rights.READ | Rights.EXECUTE),
    "tmpfs": (Kind.TMPFS, Rights.READ | Rights.WRITE),
    "private": (Kind.COPY, Rights.READ | Rights.WRITE),
    "hide": (Kind.HIDE, Rights(0)),
}


def split_optional(text: str) -> tuple[str, bool]:
    """Return a path without its mark, and whether it is optional."""
    return text.removeprefix("-"), text.startswith("-")


def normal(path: str) -> str:
    """Return an absolute path without double slashes, '.' and '..'; symlinks are the launcher's to resolve."""
    return "/" + posixpath.normpath(path).lstrip("/")


def entries(policy: FilesystemPolicy) -> tuple[Entry, ...]:
    """Return the view's entries, parents before what lies in them; one for each path.

    A path in several lists has the rights of all of them; of kinds, hide wins over private, private over tmpfs, tmpfs
    over the rest. It is optional if every list that names it says so.
    """
    found: dict[str, Entry] = {}
    order = list(Kind)
    for key, (kind, rights) in _KEYS.items():
        for text in getattr(policy, key):
            word, optional = split_optional(text)
            path = normal(word)
            before = found.get(path)
            if before is not None:
                kinds = max(before.kind, kind, key=order.index)
                found[path] = Entry(path, kinds, before.rights | rights, before.optional and optional)
            else:
                found[path] = Entry(path, kind, rights, optional)
    ordered = sorted(found.values(), key=lambda entry: entry.path.split("/"))
    return tuple(_with_inherited(entry, ordered) for entry in ordered)


def _with_inherited(entry: Entry, every: Iterable[Entry]) -> Entry:
    """Add the rights of the bind entries that it lies in: Landlock adds up in the same way. What is new has its own."""
    if entry.kind not in (Kind.BIND, Kind.COPY):
        return entry
    rights = entry.rights
    for other in every:
        if other.kind is Kind.BIND and entry.path.startswith(other.path.rstrip("/") + "/"):
            rights |= other.rights
    return Entry(entry.path, entry.kind, rights, entry.optional)


def nearest_above(policy: FilesystemPolicy, path: str) -> Entry | None:
    """Return the entry that says what is below it, nearest to a path and not the path itself; no bind entry is one."""
    target = normal(path)
    above = [entry for entry in entries(policy) if entry.path != target and _at_or_below(target, entry.path)]
    return next((entry for entry in reversed(above) if entry.kind is not Kind.BIND), None)


def covered_by(policy: FilesystemPolicy, path: str) -> Entry | None:
    """Return the entry that keeps a path of the host's from being there: an empty or a hidden folder, or None.

    What is declared below an empty folder is there.
    """
    target = normal(path)
    found = [entry for entry in entries(policy) if _at_or_below(target, entry.path)]
    nearest = found[-1] if found else None
    empty = nearest is not None and nearest.kind is Kind.TMPFS and nearest.path != target
    return nearest if nearest is not None and (empty or nearest.kind is Kind.HIDE) else None


def covers(policy: FilesystemPolicy, path: str) -> bool:
    """Tell whether a path lies in the view: at or below an entry and no hidden one, or on the way to an entry.

    Of what every view has, that is /dev and /proc as well.
    """
    target = normal(path)
    found = entries(policy)
    above = [entry for entry in found if _at_or_below(target, entry.path)]
    if above:
        return all(entry.kind is not Kind.HIDE for entry in above)
    given = target == "/" or _at_or_below(target, "/dev") or _at_or_below(target, "/proc")
    on_the_way = any(_at_or_below(entry.path, target) for entry in found if entry.kind is not Kind.HIDE)
    return policy.view is View.HOST or given or on_the_way


def _at_or_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
