"""System calls as they are told: which arguments are paths, addresses and descriptors, and a call in words. Pure.

The rows that the tracer is given are made from the same table.
"""

from __future__ import annotations

import errno
import ipaddress
import posixpath
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from types import MappingProxyType
from typing import Final

from sandbox.syscall_table import NAMES, NUMBERS

LOW32: Final = 0xFFFFFFFF
AT_FDCWD: Final = -100
_ROWS: Final = 512  # launcher/tracer/record.h, CALLS


class Tell(IntFlag):
    """When the tracer tells of a call (launcher/tracer/record.h)."""

    SUCCESS = 1
    FAILURE = 2
    EARLY = 4
    ONCE = 8
    AGAIN = 16
    WAIT = 32


class Kind(IntEnum):
    """What an argument is (launcher/tracer/record.h, enum argument)."""

    NUMBER = 0
    PATH = 1
    PATH_AT = 2
    ADDRESS = 3
    MESSAGE = 4
    DESCRIPTOR = 5


class Use(IntFlag):
    """What is done with a path."""

    LOOK = 1
    """Its presence, kind, mode, times; the place of a link."""
    READ = 2
    WRITE = 4
    MAKE = 8
    """A name is made, taken away or moved: the folder changes."""
    CHANGE = 16
    """Mode, owner, times, attributes."""
    EXECUTE = 32
    ENTER = 64
    """It becomes the working directory."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A call's arguments that are told: index -> kind, and what is done with each path."""

    kinds: Mapping[int, Kind]
    uses: Mapping[int, Use]


def _shape(words: str, kinds: dict[int, Kind], uses: dict[int, Use]) -> dict[str, Shape]:
    shape = Shape(MappingProxyType(kinds), MappingProxyType(uses))
    return dict.fromkeys(words.split(), shape)


_TRANSFERS: Final = "read write readv writev pread64 pwrite64"
_P, _AT, _FD = Kind.PATH, Kind.PATH_AT, Kind.DESCRIPTOR
_SHAPES: Final[Mapping[str, Shape]] = MappingProxyType(
    # open and openat: what is done with the path stands in their flags.
    _shape("open", {0: _P}, {0: Use.READ})
    | _shape("openat", {1: _AT}, {1: Use.READ})
    | _shape("creat mkdir rmdir unlink mknod", {0: _P}, {0: Use.MAKE})
    | _shape("mkdirat unlinkat mknodat", {1: _AT}, {1: Use.MAKE})
    | _shape("stat lstat access readlink statfs getxattr lgetxattr listxattr llistxattr", {0: _P}, {0: Use.LOOK})
    | _shape("newfstatat statx faccessat faccessat2 readlinkat name_to_handle_at", {1: _AT}, {1: Use.LOOK})
    | _shape("inotify_add_watch", {1: _P}, {1: Use.LOOK})
    | _shape("chdir chroot", {0: _P}, {0: Use.ENTER})
    | _shape("rename", {0: _P, 1: _P}, {0: Use.MAKE, 1: Use.MAKE})
    | _shape("renameat renameat2", {1: _AT, 3: _AT}, {1: Use.MAKE, 3: Use.MAKE})
    | _shape("link", {0: _P, 1: _P}, {0: Use.CHANGE, 1: Use.MAKE})
    | _shape("linkat", {1: _AT, 3: _AT}, {1: Use.CHANGE, 3: Use.MAKE})
    | _shape("symlink", {1: _P}, {1: Use.MAKE})
    | _shape("symlinkat", {2: _AT}, {2: Use.MAKE})
    | _shape("chmod chown lchown utime utimes setxattr lsetxattr removexattr lremovexattr", {0: _P}, {0: Use.CHANGE})
    | _shape("fchmodat fchmodat2 fchownat utimensat futimesat", {1: _AT}, {1: Use.CHANGE})
    | _shape("truncate", {0: _P}, {0: Use.WRITE})
    | _shape("execve", {0: _P}, {0: Use.EXECUTE})
    | _shape("execveat", {1: _AT}, {1: Use.EXECUTE})
    | _shape("fchmod fchown ftruncate fallocate fsetxattr fremovexattr", {0: _FD}, {0: Use.CHANGE})
    | _shape("mmap", {4: _FD}, {})
    | _shape(_TRANSFERS, {0: _FD}, {})
    | _shape("connect bind", {1: Kind.ADDRESS}, {})
    | _shape("sendto", {4: Kind.ADDRESS}, {})
    | _shape("sendmsg", {1: Kind.MESSAGE}, {})
)  # fmt: skip
_FORKS: Final = frozenset({"fork", "vfork", "clone"})
_KILLS: Final = {
    "kill": 1,
    "tkill": 1,
    "pidfd_send_signal": 1,
    "rt_sigqueueinfo": 1,
    "tgkill": 2,
    "rt_tgsigqueueinfo": 2,
}
"""Calls that send a signal, and which argument it is: told when they succeed, too, since that may be why one ends."""
_SILENT: Final = frozenset({"wait4", "waitid", "close", "futex", "rt_sigtimedwait", "restart_syscall", "lseek"})
"""Their failures are ordinary, frequent, and nobody's refusal."""


def rows(*, successes: bool) -> bytes:
    """Return what the tracer is given: for each number, when its calls are told and what its arguments are.

    successes: calls on paths and addresses are told also when they succeed, and of each call the first. Without,
    each thread waits after a call that was told.
    """
    return b"".join(_row(NAMES.get(number, ""), successes=successes) for number in range(_ROWS))


def _row(name: str, *, successes: bool) -> bytes:
    shape = _SHAPES.get(name)
    tell = Tell(0) if name in _SILENT else Tell.FAILURE
    if successes:
        tell |= Tell.ONCE | (Tell.SUCCESS if shape is not None and name not in _MANY else Tell(0))
    else:
        tell |= Tell.WAIT | (Tell.SUCCESS if name in _KILLS else Tell(0))
    if name in ("execve", "execveat"):
        tell |= Tell.EARLY
    if name in _FORKS:
        tell |= Tell.AGAIN
    kinds = [shape.kinds.get(index, 0) if shape else 0 for index in range(6)]
    return struct.pack("8B", tell, *kinds, 0)


_MANY: Final = frozenset({"sendmsg", "ftruncate", "fallocate", *_TRANSFERS.split()})
"""Calls that name something seldom and are made often: of their successes the first is told."""


@dataclass(frozen=True, slots=True)
class Named:
    """A path that a call has named: where it starts, and what was said. use: what the call does with it."""

    base: str
    text: str
    use: Use

    @property
    def path(self) -> str:
        """The whole path, without `.` and `..`; "" where it is unknown."""
        whole = posixpath.join(self.base, self.text)
        return posixpath.normpath(whole).replace("//", "/", 1) if whole.startswith("/") else ""


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that a thread of the command has made, as the tracer saw it end.

    program: the file that it executes. error: the errno, or 0. paths: those that it named, by argument. address: of a
    socket, as the kernel has it. descriptor: what the descriptor that it named refers to. socket_type: SOCK_*, or 0.
    """

    pid: int
    program: str
    name: str
    arguments: tuple[int, ...]
    result: int
    paths: tuple[Named, ...] = ()
    address: bytes = b""
    descriptor: str = ""
    socket_type: int = 0

    @property
    def error(self) -> int:
        """The errno that it failed with, or 0."""
        return -self.result if -4095 <= self.result < 0 else 0

    def number(self, index: int) -> int:
        """Return an argument as the kernel reads a descriptor or a flag word: the low half, signed."""
        low = self.arguments[index] & LOW32
        return low - (1 << 32) if low >> 31 else low


def call_of(pid: int, nr: int, arguments: tuple[int, ...], result: int, texts: list[bytes]) -> Call:
    """Return a call from what the tracer has told: the program, then the texts of each argument that is told."""
    name = NAMES.get(nr, f"syscall_{nr}")
    program, *rest = texts
    shape = _SHAPES.get(name)
    paths: list[Named] = []
    address, socket_type, descriptor = b"", b"", ""
    for index in sorted(shape.kinds) if shape else ():
        match shape.kinds[index] if shape else Kind.NUMBER:
            case Kind.PATH | Kind.PATH_AT if len(rest) > 1:
                base, text = (item.decode("utf-8", "surrogateescape") for item in rest[:2])
                del rest[:2]
                named = Named(base, text, _use_of(name, arguments, index))
                # Without a text it means what the descriptor refers to, which was opened before by its path.
                if text or (named.use & Use.CHANGE and base.startswith("/")):
                    paths.append(named)
            case Kind.ADDRESS | Kind.MESSAGE if len(rest) > 1:
                socket_type, address = rest[0], rest[1]
                del rest[:2]
            case Kind.DESCRIPTOR if rest:
                descriptor = rest.pop(0).decode("utf-8", "surrogateescape")
    return Call(
        pid,
        program.decode("utf-8", "surrogateescape"),
        name,
        arguments,
        result,
        tuple(paths),
        address,
        descriptor,
        socket_type[0] if socket_type else 0,
    )


_O_ACCMODE, _O_CREAT, _O_TRUNC, _O_PATH = 3, 0o100, 0o1000, 0o10000000
O_TMPFILE: Final = 0o20000000  # the bit of its own: with O_DIRECTORY it is the flag; asm-generic/fcntl.h
_W_OK: Final = 2


def _use_of(name: str, arguments: tuple[int, ...], index: int) -> Use:
    if name in ("open", "openat"):
        return use_of_open(arguments[index + 1])
    if name in ("access", "faccessat", "faccessat2"):
        mode = arguments[index + 1]
        return (Use.WRITE if mode & _W_OK else Use.LOOK) | (Use.EXECUTE if mode & 1 else Use(0))
    return _SHAPES[name].uses[index]


def use_of_open(flags: int) -> Use:
    """Return what is done with a path that is opened with these flags."""
    if flags & _O_PATH:
        return Use.LOOK
    use = {0: Use.READ, 1: Use.WRITE}.get(flags & _O_ACCMODE, Use.READ | Use.WRITE)
    if flags & (_O_CREAT | O_TMPFILE):
        use |= Use.MAKE
    return use | Use.WRITE if flags & _O_TRUNC else use


# --- in words ---------------------------------------------------------------------------------------------------------

_OPEN_FLAGS: Final = {
    0o100: "O_CREAT", 0o200: "O_EXCL", 0o400: "O_NOCTTY", 0o1000: "O_TRUNC", 0o2000: "O_APPEND", 0o4000: "O_NONBLOCK",
    0o200000: "O_DIRECTORY", 0o400000: "O_NOFOLLOW", 0o2000000: "O_CLOEXEC", 0o10000000: "O_PATH",
    O_TMPFILE: "O_TMPFILE",
}  # fmt: skip
_ACCESS: Final = {4: "R_OK", 2: "W_OK", 1: "X_OK"}
_FAMILIES: Final = {
    1: "AF_UNIX",
    2: "AF_INET",
    10: "AF_INET6",
    16: "AF_NETLINK",
    17: "AF_PACKET",
    38: "AF_ALG",
    40: "AF_VSOCK",
}
_TYPES: Final = {1: "SOCK_STREAM", 2: "SOCK_DGRAM", 3: "SOCK_RAW", 5: "SOCK_SEQPACKET"}
_COMMANDS: Final = {
    "fcntl": {0: "F_DUPFD", 1: "F_GETFD", 2: "F_SETFD", 3: "F_GETFL", 4: "F_SETFL", 1030: "F_DUPFD_CLOEXEC"},
    "ioctl": {
        0x5401: "TCGETS", 0x540E: "TIOCSCTTY", 0x5412: "TIOCSTI", 0x541C: "TIOCLINUX", 0x541D: "TIOCCONS",
        0x540C: "TIOCEXCL", 0x5423: "TIOCSETD", 0x5450: "FIONCLEX", 0x5451: "FIOCLEX", 0x5413: "TIOCGWINSZ",
    },
}  # fmt: skip
_CLONE: Final = {
    0x00020000: "CLONE_NEWNS", 0x02000000: "CLONE_NEWCGROUP", 0x04000000: "CLONE_NEWUTS", 0x08000000: "CLONE_NEWIPC",
    0x10000000: "CLONE_NEWUSER", 0x20000000: "CLONE_NEWPID", 0x40000000: "CLONE_NEWNET",
}  # fmt: skip


def error_name(number: int) -> str:
    """Return an errno's name: `ENOENT`."""
    return errno.errorcode.get(number, str(number))


def in_words(call: Call) -> str:
    """Return a call with its arguments decoded, as in `openat("/etc/x", O_RDONLY)`."""
    return f"{call.name}({', '.join(_words(call))})"


def quoted(text: str) -> str:
    """Return a text in quotes, as one line of printable characters."""
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return '"' + "".join(f"\\{c}" if c in '"\\' else c if c.isprintable() else ascii(c)[1:-1] for c in shown) + '"'


def _words(call: Call) -> Iterator[str]:
    args = call.arguments
    match call.name:
        case "open" | "openat":
            at = call.name == "openat"
            yield from (quoted(named.path or named.text) for named in call.paths)
            yield _open_words(args[1 + at])
        case "access" | "faccessat" | "faccessat2":
            yield from (quoted(named.path or named.text) for named in call.paths)
            yield _flags(args[1 if call.name == "access" else 2], _ACCESS) or "F_OK"
        case "socket" | "socketpair":
            yield _FAMILIES.get(call.number(0), str(call.number(0)))
            yield _TYPES.get(args[1] & 0xF, str(args[1] & 0xF))
        case "fcntl" | "ioctl":
            yield str(call.number(0))
            yield _COMMANDS[call.name].get(args[1] & LOW32, hex(args[1] & LOW32))
            if call.name == "fcntl":
                yield str(call.number(2))
        case "dup2" | "dup3" | "kill":
            yield from (str(call.number(0)), str(call.number(1)))
        case "clone" | "unshare":
            yield _flags(args[0] & 0x7E020000, _CLONE) or hex(args[0] & LOW32)
        case _ if call.paths:
            yield from (quoted(named.path or named.text) for named in call.paths)
        case _ if call.address:
            yield str(address_of(call.address, call.socket_type) or "an address")
        case _ if call.name in _BY_NUMBER:
            yield str(call.number(0))
        case _ if call.descriptor:
            yield quoted(call.descriptor)


_BY_NUMBER: Final = frozenset(
    {"read", "write", "readv", "writev", "pread64", "pwrite64", "dup", "fstat", "lseek", "sendto", "sendmsg",
     "recvfrom", "recvmsg", "listen", "getdents64", "close", "fchmod", "ftruncate", "connect", "bind",
     "getsockname", "newfstatat", "pidfd_open", "getpgid", "getsid", "prlimit64"}
)  # fmt: skip


def _flags(value: int, names: Mapping[int, str]) -> str:
    return "|".join(name for bit, name in names.items() if value & bit)


def _open_words(flags: int) -> str:
    mode = ("O_RDONLY", "O_WRONLY", "O_RDWR", "3")[flags & _O_ACCMODE]
    return "|".join(word for word in (mode, _flags(flags, _OPEN_FLAGS)) if word)


@dataclass(frozen=True, slots=True)
class Address:
    """A socket's address: `family` 1, 2 or 10; a path or a host and a port. abstract: a Unix name that is no path.

    protocol: `tcp` or `udp`, where that is known.
    """

    family: int
    host: str
    port: int = 0
    abstract: bool = False
    protocol: str = ""

    def __str__(self) -> str:
        """Return it as grants write it."""
        if self.family == 1:
            return f"unix:{'@' if self.abstract else ''}{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}{':' if self.protocol else ''}{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is of this host itself."""
        return self.family != 1 and ipaddress.ip_address(self.host).is_loopback

    @property
    def is_any(self) -> bool:
        """Whether it stands for every address of the host."""
        return self.family != 1 and ipaddress.ip_address(self.host).is_unspecified


def address_of(data: bytes, socket_type: int = 0) -> Address | None:
    """Return what a struct sockaddr says, if it is of a family that is known here (unix(7), ip(7), ipv6(7))."""
    if len(data) < 2:
        return None
    family = int.from_bytes(data[:2], "little")
    protocol = {1: "tcp", 2: "udp"}.get(socket_type, "")
    if family == 1:
        name = data[2:]
        if name[:1] == b"\0":
            return Address(1, name[1:].decode("utf-8", "replace"), abstract=True) if name.strip(b"\0") else None
        return Address(1, name.split(b"\0", 1)[0].decode("utf-8", "surrogateescape"))
    if family == 2 and len(data) >= 8:
        return Address(2, str(ipaddress.IPv4Address(data[4:8])), int.from_bytes(data[2:4], "big"), protocol=protocol)
    if family == 10 and len(data) >= 24:
        address = ipaddress.IPv6Address(data[8:24])
        host = str(address.ipv4_mapped or address)
        return Address(10, host, int.from_bytes(data[2:4], "big"), protocol=protocol)
    return None


def signal_sent(call: Call) -> int:
    """Return the signal that a call has sent, 0 for none."""
    return call.number(_KILLS[call.name]) if call.name in _KILLS and not call.error else 0


def names_of(calls: frozenset[int]) -> frozenset[str]:
    """Return the names of numbers that are known."""
    return frozenset(NAMES[number] for number in calls if number in NAMES)


assert set(_SHAPES) <= set(NUMBERS), "a call that the table does not know"
