"""A recording: what a command has used, summed up from what the tracer told. Pure."""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from sandbox.calls import O_TMPFILE, Address, Call, Named, Use, address_of

_CHANGES: Final = Use.WRITE | Use.MAKE | Use.CHANGE
_MAKING: Final = frozenset({"mkdir", "mkdirat", "mknod", "mknodat", "symlink", "symlinkat", "creat"})
_TAKING_AWAY: Final = frozenset({"unlink", "unlinkat", "rmdir"})
_MOVING: Final = frozenset({"rename", "renameat", "renameat2", "link", "linkat"})
_O_EXCL: Final = 0o200
_PROT_EXEC: Final = 4
_THERE: Final = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EINVAL})
"""Failures that only a path which is there has."""


@dataclass(slots=True)
class Recording:
    """What one run has used.

    uses: of each path that was there before, what was done with it. changed: folders, there before, in which names were
    made, taken away or moved. made: what the run has made itself. programs: what was executed, files and the scripts
    that name them. connected, bound: addresses. calls: the names of all system calls. worked: of these, those that
    succeeded once. protocols: by which descriptors went along at execs; leaked: those that nothing named.
    """

    uses: dict[str, Use] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    programs: set[str] = field(default_factory=set)
    connected: set[Address] = field(default_factory=set)
    bound: set[Address] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)
    worked: set[str] = field(default_factory=set)
    protocols: set[str] = field(default_factory=set)
    leaked: set[str] = field(default_factory=set)
    execs: int = 0
    unseen: int = 0

    def add(self, call: Call, *, refused: bool = False) -> None:
        """Take a call in. refused: it failed because of the profile that the command was learned in, and is wanted."""
        self.calls.add(call.name)
        if call.error in (0, errno.EINPROGRESS):
            self.worked.add(call.name)
        there = call.error in (0, errno.EINPROGRESS) or call.error in _THERE
        if not there and not refused:
            return
        self._take_address(call, worked=call.error == 0)
        if call.name == "mmap" and call.arguments[2] & _PROT_EXEC and call.descriptor.startswith("/"):
            self.programs.add(call.descriptor)
        for index, named in enumerate(call.paths):
            if named.path:
                self._take_path(call, named, index, refused=refused)

    def _take_address(self, call: Call, *, worked: bool) -> None:
        address = address_of(call.address, call.socket_type) if call.address else None
        if address is None:
            return
        if address.family == 1 and not address.abstract:
            path = posixpath.normpath(posixpath.join("/", address.host)) if address.host.startswith("/") else ""
            if call.name != "bind":
                self._use(path, Use.LOOK)
            elif worked and path:
                self._make(path)
            return
        (self.bound if call.name == "bind" else self.connected).add(address)

    def _take_path(self, call: Call, named: Named, index: int, *, refused: bool) -> None:
        path, use = named.path, named.use
        if call.name in ("chdir", "chroot") and not call.error:
            path = named.base  # the working directory, as it is afterwards
        if call.name.startswith("execve") and not call.error:
            self.programs |= {path, call.program}
        if call.error in _THERE and not refused:
            self._use(path, Use.LOOK)
        elif call.name in _MAKING or (call.name in _MOVING and index == len(call.paths) - 1):
            self._make(path)
        elif call.name in _TAKING_AWAY or (call.name in _MOVING and use & Use.MAKE):
            self._change(path)
        elif use & Use.MAKE and _flags_of(call) & O_TMPFILE:
            self._change(posixpath.join(path, "a file without a name"))
        elif use & Use.MAKE and self._is_new(call, path):
            self._make(path)
        else:
            self._use(path, use & ~Use.MAKE if use & (Use.READ | Use.WRITE) else use)

    def _is_new(self, call: Call, path: str) -> bool:
        """Whether an open with O_CREAT makes a file; where nothing tells, it does."""
        return bool(_flags_of(call) & _O_EXCL) or path not in self.uses

    def _use(self, path: str, use: Use) -> None:
        if path and not self.is_made(path):
            self.uses[path] = self.uses.get(path, Use(0)) | use

    def _make(self, path: str) -> None:
        self._change(path)
        self.made.add(path)

    def _change(self, path: str) -> None:
        folder = posixpath.dirname(path)
        if not self.is_made(folder):
            self.changed.add(folder)

    def is_made(self, path: str) -> bool:
        """Tell whether the run has made a path, or a folder that it lies in."""
        return any(step in self.made for step in up_from(path))

    def merged(self, others: Iterable[Recording]) -> Recording:
        """Return what this and the other runs have used, together."""
        whole = Recording()
        for each in (self, *others):
            for path, use in each.uses.items():
                whole.uses[path] = whole.uses.get(path, Use(0)) | use
            for name in ("changed", "made", "programs", "connected", "bound", "calls", "worked", "protocols", "leaked"):
                getattr(whole, name).update(getattr(each, name))
            whole.execs = max(whole.execs, each.execs)
        return whole


def _flags_of(call: Call) -> int:
    return call.arguments[2 if call.name == "openat" else 1] if call.name in ("open", "openat") else 0


def up_from(path: str) -> Iterator[str]:
    """Yield a path and all folders that it lies in, but for the root."""
    while path not in ("", "/"):
        yield path
        path = posixpath.dirname(path)
