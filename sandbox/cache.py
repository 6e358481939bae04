"""The cache of compiled plans: what may be kept, in which folder, and keeping it clean. The native command reads it.

An entry holds a plan and every file that went into it; its name is the key of everything else (template-format.md).
sandbox/launcher/cached.c compares all of that at each start, and trusts only what nobody else can have put there.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sandbox.caller import Caller
from sandbox.grants import ConnectGrant, DatagramGrant, Grant, InheritGrant, ListenGrant
from sandbox.limits import wants_cgroup
from sandbox.plan import OpCode, Plan
from sandbox.profile import NetworkMode, Profile
from sandbox.profile_files import Trail, default_search_path
from sandbox.template import Template, encode
from sandbox.wire import checksum

MAX_ENTRIES: Final = 512
MAX_AGE_DAYS: Final = 30
_MAGIC: Final = b"SBXCACH1"
_HEADER: Final = struct.Struct("<8sQIIIII4x32s")
_DEPENDENCY: Final = struct.Struct("<IIQ")
_OWNER: Final = struct.Struct("<QQII")
_VERSION: Final = struct.Struct("<7Q")
_CONTENT, _ABSENT, _PASSED, _SAME = 1, 2, 3, 4
_KEY: Final = re.compile(r"[0-9a-f]{64}")
_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACES: Final = 3  # where profiles are looked for; less: one is closed to us, and may be opened
_LIBSECCOMP: Final = re.compile(r"(/\S*/libseccomp\.so\S*)$", re.MULTILINE)


def is_lasting(profile: Profile, caller: Caller) -> bool:
    """Tell whether a plan is the same at each start with the same arguments, facts and files that the key counts.

    profile: as the plan was made of it. What is looked up elsewhere is not: cgroups, users, hosts, resolvers, a service
    manager's descriptors, priorities; nor a network that is made or joined.
    """
    process, network = profile.process, profile.network
    return not (
        wants_cgroup(profile.limits)
        or (process.user, process.group) != (None, None)
        or (process.nice is None) is not (process.scheduling is None)
        or (process.notify and "WATCHDOG_PID" in caller.environ)
        or not caller.environ.get("HOME")
        or any(map(_is_looked_up, profile.grants))
        or network.mode is NetworkMode.VETH
        or any(rule.name is not None for rule in network.allow)
        or (network.dns and not network.resolvers)
        or not _has_every_user(caller)
        or len(default_search_path(caller.environ).folders) < _PLACES
    )


def _is_looked_up(grant: Grant) -> bool:
    match grant:
        case InheritGrant():
            return grant.passed_as is not None
        case ListenGrant(owner=owner) if owner is not None:
            return True
        case ListenGrant() | ConnectGrant() | DatagramGrant():
            return grant.address.name is not None
        case _:
            return False


def _has_every_user(caller: Caller) -> bool:
    """Whom files belong to counts for root only; in a user namespace that is more than a file's owner says."""
    return caller.uid != 0 or Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def folder_of(environ: Mapping[str, str]) -> str | None:
    """Return where plans are kept: in $XDG_CACHE_HOME, if that is absolute, else in ~/.cache."""
    cache, home = environ.get("XDG_CACHE_HOME", ""), environ.get("HOME", "")
    if cache.startswith("/"):
        return f"{cache}/sandbox"
    return f"{home}/.cache/sandbox" if home.startswith("/") else None


def store(key: str, plan: Plan, trail: Trail, environ: Mapping[str, str], notice: bytes = b"") -> bool:
    """Keep a plan under its key; False where there is no folder that is ours alone, or no room.

    notice: what each start of it says first, on standard error.
    """
    where = folder_of(environ)
    if where is None or not _KEY.fullmatch(key) or not trail.is_complete:
        return False
    with contextlib.suppress(OSError), _opened(where, create=True) as folder:
        _clean(folder)
        _write(folder, key, _entry(key, plan, trail, notice))
        return True
    return False


def _entry(key: str, plan: Plan, trail: Trail, notice: bytes) -> bytes:
    # The parent is another one each time.
    ops = tuple(replace(op, a=0, label="") if op.code is OpCode.DIE_WITH_PARENT else op for op in plan.ops)
    template = encode(Template(ops, quiet=plan.quiet, point=plan.point))
    dependencies = list(_dependencies(trail))
    body = b"".join(dependencies)
    start = _HEADER.size + len(body)
    size = (start + len(template) + len(notice) + 7) & ~7

    def header(total: int) -> bytes:
        return _HEADER.pack(
            _MAGIC, total, size, len(dependencies), start, len(template), len(notice), bytes.fromhex(key)
        )  # fmt: skip

    rest = (body + template + notice).ljust(size - _HEADER.size, b"\0")
    return header(checksum(header(0) + rest, skipped=1)) + rest


def _dependencies(trail: Trail) -> Iterator[bytes]:
    for path, content in trail.contents.items():
        yield _dependency(_CONTENT, path, content)
    for path in trail.absent:
        yield _dependency(_ABSENT, path, b"")
    for path, status in trail.passed.items():
        yield _dependency(_PASSED, path, _OWNER.pack(status.st_dev, status.st_ino, status.st_mode, status.st_uid))
    for path, status in trail.seen.items():
        yield _dependency(_SAME, path, _version(status))
    for path in sorted(set(_LIBSECCOMP.findall(Path("/proc/self/maps").read_text()))):
        yield _dependency(_SAME, path, _version(os.stat(path)))


def _version(status: os.stat_result) -> bytes:
    second = 10**9
    return _VERSION.pack(
        status.st_dev, status.st_ino, status.st_size,
        status.st_mtime_ns // second, status.st_mtime_ns % second, status.st_ctime_ns // second,
        status.st_ctime_ns % second,
    )  # fmt: skip


def _dependency(kind: int, path: str, data: bytes) -> bytes:
    def padded(part: bytes) -> bytes:
        return part + b"\0" * (-len(part) % 8)

    name = os.fsencode(path) + b"\0"
    return _DEPENDENCY.pack(kind, len(name), len(data)) + padded(name) + padded(data)


@contextlib.contextmanager
def _opened(path: str, *, create: bool = False) -> Iterator[int]:
    """Walk to a folder by descriptors; every one on the way must be one in which nobody else can put anything.

    Raises: OSError if it is not there, or not to be trusted.
    """
    at = os.open("/", _FOLDER)
    try:
        _refuse_foreign(at, path)
        for part in filter(None, path.split("/")):
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=at)
            below = os.open(part, _FOLDER, dir_fd=at)
            os.close(at)
            at = below
            _refuse_foreign(at, path)
        yield at
    finally:
        os.close(at)


def _refuse_foreign(folder: int, path: str) -> None:
    status = os.fstat(folder)
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
    if status.st_uid not in (0, os.geteuid()) or writable:
        raise PermissionError(f"{path}: others can write there")


def _write(folder: int, name: str, data: bytes) -> None:
    """Put a whole file there at once: whoever reads meanwhile has the one before, or none."""
    temporary = f"{name}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(temporary, dir_fd=folder)
        raise


@dataclass(frozen=True, slots=True)
class Kept:
    """One file of the cache."""

    name: str
    size: int
    time: float


def _files(folder: int) -> list[Kept]:
    """Return what is there, the newest first."""
    listing = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        names = os.listdir(listing)
    finally:
        os.close(listing)
    found = []
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            found.append(Kept(name, status.st_size, status.st_mtime))
    return sorted(found, key=lambda kept: -kept.time)


def _clean(folder: int) -> None:
    """Remove what is old, and the oldest of what is too much; also what an unfinished write has left behind."""
    oldest = time.time() - MAX_AGE_DAYS * 86400
    for at, kept in enumerate(_files(folder)):
        if at >= MAX_ENTRIES or kept.time < oldest:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(kept.name, dir_fd=folder)


def entries(environ: Mapping[str, str]) -> list[Kept]:
    """Return the plans that are kept, the newest first; none where the folder is not there or not to be trusted."""
    where = folder_of(environ)
    if where is None:
        return []
    try:
        with _opened(where) as folder:
            return [kept for kept in _files(folder) if _KEY.fullmatch(kept.name)]
    except OSError:
        return []


def clear(environ: Mapping[str, str]) -> int:
    """Remove every plan that is kept, and return how many those were."""
    where = folder_of(environ)
    removed = 0
    if where is not None:
        with contextlib.suppress(FileNotFoundError), _opened(where) as folder:
            for kept in _files(folder):
                os.unlink(kept.name, dir_fd=folder)
                removed += 1
    return removed
