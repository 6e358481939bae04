"""Landlock: what its rights are and since when, and the ruleset that a declared file view, ports and scopes come to.

Pure. Sources: landlock(7), <linux/landlock.h>, Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from sandbox import ops
from sandbox.errors import InternalError, UnsupportedError
from sandbox.filesystem import Entry, FilesystemPolicy, Kind, Proc, Rights, View, entries
from sandbox.plan import Op

NEWEST_ABI: Final = 7
# ABI -> the Linux that brought it. ABI 7 brought flags for logging and no right.
KERNELS: Final = {1: "5.13", 2: "5.19", 3: "6.2", 4: "6.7", 5: "6.10", 6: "6.12", 7: "6.15"}


class FileRight(enum.IntFlag):
    """LANDLOCK_ACCESS_FS_*: what can be done to files below a path."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


class NetRight(enum.IntFlag):
    """LANDLOCK_ACCESS_NET_*: what can be done with a TCP port."""

    BIND_TCP = 1 << 0
    CONNECT_TCP = 1 << 1


class Scope(enum.IntFlag):
    """LANDLOCK_SCOPE_*: what cannot leave the sandbox at all."""

    ABSTRACT_UNIX_SOCKET = 1 << 0
    SIGNAL = 1 << 1


Flags = TypeVar("Flags", FileRight, NetRight, Scope)

ALL_FILE_RIGHTS: Final = FileRight((1 << 16) - 1)
ALL_NET_RIGHTS: Final = NetRight.BIND_TCP | NetRight.CONNECT_TCP
ALL_SCOPES: Final = Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL
NO_FILE_RIGHT: Final = FileRight(0)
NO_NET_RIGHT: Final = NetRight(0)
NO_SCOPE: Final = Scope(0)
# The ABI that brought a right; the others are of ABI 1.
_SINCE: Final = {
    "refer": 2, "truncate": 3, "bind_tcp": 4, "connect_tcp": 4, "ioctl_dev": 5, "abstract_unix_socket": 6, "signal": 6,
}  # fmt: skip
# Every right's name, as a profile and messages have it, with the ABI that brought it.
ABI_OF: Final = {
    str(member.name).lower(): _SINCE.get(str(member.name).lower(), 1)
    for kind in (FileRight, NetRight, Scope)
    for member in kind
}

_CREATE: Final = (
    FileRight.REFER | FileRight.REMOVE_DIR | FileRight.REMOVE_FILE
    | FileRight.MAKE_DIR | FileRight.MAKE_REG | FileRight.MAKE_SOCK | FileRight.MAKE_FIFO | FileRight.MAKE_SYM
)  # fmt: skip
# What the entries of a view allow. Devices can be made by no list; a folder's `refer` lets files move between two
# writable ones, and the kernel sees to it that none gains a right by moving.
_READ: Final = FileRight.READ_FILE | FileRight.READ_DIR
_WRITE: Final = FileRight.WRITE_FILE | FileRight.TRUNCATE | _CREATE
_DEVICE: Final = FileRight.READ_FILE | FileRight.WRITE_FILE
_TERMINAL: Final = _DEVICE | FileRight.IOCTL_DEV
# What may be opened anew that a descriptor of the command's own stands for; the launcher takes away what it lacks.
REOPENED: Final = FileRight.READ_FILE | FileRight.READ_DIR | FileRight.WRITE_FILE | FileRight.TRUNCATE


@dataclass(frozen=True, slots=True)
class LandlockPolicy:
    """What a profile says of Landlock itself.

    optional: the rights that may be missing from the kernel, by name; one that is not named is an error. "landlock"
    stands for all of them. files: it governs files; without, the view holds them alone, and mounts can be made where
    the filter lets them be (the kernel refuses those to whoever Landlock governs files for).
    """

    optional: tuple[str, ...] = ()
    files: bool = True


@dataclass(frozen=True, slots=True)
class PathRule:
    """Rights at and below a path; optional: skip it where the path does not exist."""

    path: str
    rights: FileRight
    optional: bool = False


@dataclass(frozen=True, slots=True)
class PortRule:
    """Rights on a TCP port. Binding to port 0 lets the kernel choose one."""

    port: int
    rights: NetRight


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What the kernel gets. A right that is governed is refused wherever no rule allows it; no other is looked at."""

    files: FileRight = NO_FILE_RIGHT
    net: NetRight = NO_NET_RIGHT
    scopes: Scope = NO_SCOPE
    paths: tuple[PathRule, ...] = ()
    ports: tuple[PortRule, ...] = ()

    def __post_init__(self) -> None:
        """Refuse rules with rights that are not governed: the kernel would."""
        if any(rule.rights & ~self.files for rule in self.paths) or any(rule.rights & ~self.net for rule in self.ports):
            raise InternalError("ruleset", "a rule allows a right that the ruleset does not govern")

    def __bool__(self) -> bool:
        """Tell whether it governs anything."""
        return bool(self.files or self.net or self.scopes)


def ruleset(
    policy: FilesystemPolicy,
    *,
    bind: Collection[int] | None = (),
    connect: Collection[int] | None = (),
    scopes: Scope = ALL_SCOPES,
    files: bool = True,
) -> Ruleset:
    """Return the ruleset of a file view, TCP ports and scopes, as the newest kernel can enforce it.

    files: govern them. bind, connect: the ports, () for none, None for any. scopes: what stays inside. A view of the
    host with no path declared does not govern files.
    """
    governed = ALL_FILE_RIGHTS if files and governs_files(policy) else NO_FILE_RIGHT
    net, ports = NO_NET_RIGHT, dict[int, NetRight]()
    for right, numbers in ((NetRight.BIND_TCP, bind), (NetRight.CONNECT_TCP, connect)):
        if numbers is not None:
            net |= right
        for port in numbers or ():
            ports[port] = ports.get(port, NO_NET_RIGHT) | right
    return Ruleset(
        governed, net, scopes,
        tuple(_path_rules(policy)) if governed else (),
        tuple(PortRule(port, rights) for port, rights in sorted(ports.items())),
    )  # fmt: skip


def governs_files(policy: FilesystemPolicy) -> bool:
    """Tell whether Landlock governs files: not where the view is the host's and no path is declared."""
    return policy.view is View.PRIVATE or bool(entries(policy))


def _path_rules(policy: FilesystemPolicy) -> Iterator[PathRule]:
    yield from _given(policy)
    for entry in entries(policy):
        if entry.kind is not Kind.HIDE:
            yield PathRule(entry.path, rights_of(entry), entry.optional)


def _given(policy: FilesystemPolicy) -> Iterator[PathRule]:
    """Yield rules for what every view has, where it is there.

    A view of its own has terminals of its own; the host's are other programs', so that none is given but its own.
    """
    yield PathRule("/proc", _READ | (_DEVICE if policy.proc is Proc.WRITABLE else NO_FILE_RIGHT), optional=True)
    for name in ("null", "zero", "full", "random", "urandom"):
        yield PathRule(f"/dev/{name}", _DEVICE, optional=True)
    yield PathRule("/dev/tty", _TERMINAL, optional=True)
    if policy.view is View.PRIVATE:
        # The root holds only what is declared, so that its folders may be listed.
        yield PathRule("/", FileRight.READ_DIR)
        yield PathRule("/dev/pts", _TERMINAL | FileRight.READ_DIR, optional=True)
        yield PathRule("/dev/ptmx", _TERMINAL, optional=True)
        yield PathRule("/dev/shm", _READ | _WRITE, optional=True)  # noqa: S108 - the view's own


def rights_of(entry: Entry) -> FileRight:
    """Return the rights at and below an entry of a view."""
    rights = _READ
    if Rights.WRITE in entry.rights:
        rights |= _WRITE
        if entry.path.startswith("/dev/"):
            rights |= FileRight.IOCTL_DEV  # a device that is declared for writing is of no use without
    if Rights.EXECUTE in entry.rights:
        rights |= FileRight.EXECUTE
    return rights


def folder_rights(*, write: bool, create: bool, execute: bool) -> FileRight:
    """Return the rights below a folder that is granted: what is there can be read, and as the words say."""
    rights = _READ
    if write:
        rights |= FileRight.WRITE_FILE | FileRight.TRUNCATE
    if create:
        rights |= _CREATE
    if execute:
        rights |= FileRight.EXECUTE
    return rights


def downgrade(wanted: Ruleset, abi: int) -> tuple[Ruleset, frozenset[str]]:
    """Return what a kernel of that ABI can enforce of a ruleset, and the names of the rights that are lost.

    Post: the result governs only rights that the ABI has, and of those exactly what `wanted` governs; on them it
    refuses and allows exactly what `wanted` does. Lost is what `wanted` governs and the ABI does not have. A lost
    right is not refused anywhere, with one exception: without `refer` (ABI 1) files can move between folders nowhere.
    """
    files, net = wanted.files & _known(FileRight, abi), wanted.net & _known(NetRight, abi)
    kept = Ruleset(
        files, net, wanted.scopes & _known(Scope, abi),
        tuple(replace(rule, rights=rule.rights & files) for rule in wanted.paths if rule.rights & files),
        tuple(replace(rule, rights=rule.rights & net) for rule in wanted.ports if rule.rights & net),
    )  # fmt: skip
    return kept, frozenset(governed(wanted)) - frozenset(governed(kept))


def _known(kind: type[Flags], abi: int) -> Flags:
    known = kind(0)
    for member in kind:
        if ABI_OF[str(member.name).lower()] <= abi:
            known |= member
    return known


def governed(of: Ruleset) -> Iterator[str]:
    """Yield the names of the rights that a ruleset governs."""
    for flags in (of.files, of.net, of.scopes):
        yield from _names(flags)


def _names(flags: FileRight | NetRight | Scope) -> Iterator[str]:
    return (str(member.name).lower() for member in type(flags) if member & flags)


def fit(wanted: Ruleset, abi: int, policy: LandlockPolicy) -> tuple[Ruleset, frozenset[str]]:
    """Return what `downgrade` does, when the policy can do without what is lost.

    abi: 0 where the kernel has no Landlock. Raises: UnsupportedError that names the first right it cannot do without.
    """
    kept, lost = downgrade(wanted, abi)
    if "landlock" in policy.optional:
        return kept, lost
    missing = sorted(lost - set(policy.optional), key=lambda name: (ABI_OF[name], name))
    if missing and abi < 1:
        raise UnsupportedError(
            "landlock", f"Linux {KERNELS[ABI_OF[missing[-1]]]} with Landlock", "a kernel without it",
            'boot with lsm=landlock,... or go on without by landlock.optional = ["landlock"]',
        )  # fmt: skip
    if missing:
        need = ABI_OF[missing[0]]
        names = ", ".join(f'"{name}"' for name in missing)
        raise UnsupportedError(
            f"landlock right {missing[0]}", f"Landlock ABI {need} (Linux {KERNELS[need]})", f"ABI {abi}",
            f"update the kernel, or go on without by landlock.optional = [{names}]",
        )  # fmt: skip
    return kept, lost


def ruleset_ops(of: Ruleset) -> Iterator[Op]:
    """Yield the ops that enforce a ruleset, none for one that governs nothing."""
    if not of:
        return
    yield ops.ruleset(int(of.files), int(of.net), int(of.scopes))
    for path in of.paths:
        yield ops.path_rule(path.path, int(path.rights), optional=path.optional)
    for port in of.ports:
        yield ops.port_rule(port.port, int(port.rights))
    yield ops.restrict()


# What each right that is lost leaves open; the rest are of ABI 1.
_OPEN_WITHOUT: Final = {
    "refer": "no file can be moved to another folder, not even between writable ones",
    "truncate": "files can be cut short wherever the user may write",
    "bind_tcp": "TCP ports can be bound",
    "connect_tcp": "TCP ports can be connected to",
    "ioctl_dev": "devices that can be opened take any ioctl that the filter allows",
    "abstract_unix_socket": "abstract Unix sockets of the network namespace can be connected to",
    "signal": "processes that the PID namespace shows can be signalled",
}


def describe(of: Ruleset, lost: Collection[str] = ()) -> Iterator[str]:
    """Yield lines that say what Landlock holds and what it does not, for people."""
    if not of:
        yield "nothing: no ruleset"
    if of.files:
        yield "files: opened, executed, listed, made, removed and moved only as declared, however they are reached"
        yield "  not governed: mode, owner, times, extended attributes; stat; connecting to a Unix socket by its path"
        yield "  not governed: files that are open already; memfds; an interpreter that runs what it can read"
    for right, verb in ((NetRight.BIND_TCP, "bind"), (NetRight.CONNECT_TCP, "connect to")):
        if of.net & right:
            ports = [str(rule.port) for rule in of.ports if rule.rights & right]
            yield f"TCP: can {verb} " + (f"ports {', '.join(ports)} only" if ports else "no port")
    if of.net:
        yield "  not governed: UDP and every other protocol; listening on a port that the kernel chooses"
    if of.scopes & Scope.ABSTRACT_UNIX_SOCKET:
        yield "abstract Unix sockets: only those of the sandbox can be connected to"
    if of.scopes & Scope.SIGNAL:
        yield "signals: only to processes of the sandbox"
    yield from describe_lost(lost)


def describe_lost(lost: Collection[str]) -> Iterator[str]:
    """Yield a line for each right that the kernel lacks and the profile does without."""
    for name in sorted(lost, key=lambda name: (ABI_OF[name], name)):
        need = ABI_OF[name]
        yield f"lost: {name} (Landlock ABI {need}, Linux {KERNELS[need]}): " + _OPEN_WITHOUT.get(name, "not refused")
