"""The declared file view -> the ops that the sandbox's init carries out, and the words that describe it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sandbox import ops
from sandbox.filesystem import Entry, FilesystemPolicy, Kind, Proc, Rights, View, entries, nearest_above
from sandbox.plan import MountFlag, MountKind, Op

# Folders that every user of a host may write to have the sticky bit there; programs check for it.
_SHARED: Final = frozenset({"/tmp", "/var/tmp", "/dev/shm", "/run/lock"})  # noqa: S108 - names in the view
_OURS: Final = frozenset({"/proc", "/dev"})  # the host's show its processes; its devices are not for all
_KINDS: Final = {
    Kind.BIND: MountKind.BIND, Kind.TMPFS: MountKind.TMPFS, Kind.COPY: MountKind.COPY, Kind.HIDE: MountKind.HIDE,
}  # fmt: skip
_PROC: Final = {
    Proc.FULL: MountFlag(0), Proc.PROCESSES: MountFlag.PROCESSES, Proc.WRITABLE: MountFlag.WRITE,
}  # fmt: skip


def view_ops(policy: FilesystemPolicy, *, terminals: bool) -> Iterator[Op]:
    """Yield the ops of a view, in the order of their codes. Needs mount and PID namespaces of the sandbox's own.

    terminals: with /dev/pts, /dev/ptmx and /dev/tty. A view of the host gets /proc, what hides or replaces paths, and
    what is declared below such a folder; which of the others can be reached is Landlock's to hold. A bind of /proc or
    /dev means ours.
    """
    private = policy.view is View.PRIVATE
    if private:
        yield ops.root()
    mounts = [
        _mount(entry)
        for entry in entries(policy)
        if entry.kind is not Kind.BIND or (entry.path not in _OURS if private else _is_replaced(policy, entry))
    ]
    given = [ops.mount(MountKind.PROC, "/proc", _PROC[policy.proc])]
    if private:
        given.append(ops.mount(MountKind.DEV, "/dev", MountFlag.TERMINALS if terminals else MountFlag(0)))
        given.append(ops.mount(MountKind.TMPFS, "/dev/shm", MountFlag.WRITE, mode=0o1777))  # noqa: S108
    declared = {op.data for op in mounts}
    mounts += [op for op in given if op.data not in declared]
    yield from sorted(mounts, key=lambda op: op.data.split(b"/"))
    if private:
        yield ops.enter()


def _is_replaced(policy: FilesystemPolicy, entry: Entry) -> bool:
    """Tell whether a path of the host's would not be there, or not be the host's, unless it is bound."""
    above = nearest_above(policy, entry.path)
    return above is not None and above.kind in (Kind.TMPFS, Kind.COPY)


def _mount(entry: Entry) -> Op:
    flags = MountFlag(0)
    if Rights.WRITE in entry.rights:
        flags |= MountFlag.WRITE
    if Rights.EXECUTE in entry.rights:
        flags |= MountFlag.EXECUTE
    if entry.optional:
        flags |= MountFlag.OPTIONAL
    mode = 0
    if entry.kind is Kind.TMPFS:
        mode = 0o1777 if entry.path in _SHARED else 0o755
    return ops.mount(_KINDS[entry.kind], entry.path, flags, mode=mode)


_WORDS: Final = {
    Kind.TMPFS: ", empty at first, gone at the end",
    Kind.COPY: ", changes are gone at the end",
    Kind.HIDE: "hidden",
}


def describe(policy: FilesystemPolicy) -> Iterator[str]:
    """Yield a line for each path of the view: its rights, the path, and what is special about it."""
    for entry in entries(policy):
        rights = [word for word, right in _RIGHTS if right in entry.rights]
        words = _WORDS.get(entry.kind, "")
        start = ", ".join(rights) if entry.kind is not Kind.HIDE else ""
        yield f"{entry.path}: {start}{words}" + (", where it is there" if entry.optional else "")
    if policy.view is View.PRIVATE:
        yield "/dev: null, zero, full, random, urandom, shm, its own terminals; /proc: the sandbox's processes"
        yield "nothing else is there: no other path of the host can be named"
    else:
        yield "the host's tree; /proc: the sandbox's processes"


_RIGHTS: Final = (("read", Rights.READ), ("write", Rights.WRITE), ("execute", Rights.EXECUTE))
