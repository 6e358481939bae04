"""Grants: authority declared by name; their command-line grammar; and the numbers they get in the child.

Values only. A grant is opened by the launcher, never here.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Final, TypeAlias

from sandbox.errors import GrantError, UsageError
from sandbox.sending import KeptHere
from sandbox.sizes import format_size, parse_size
from sandbox.sockets import EVERY_HOST, Address, Protocol, parse_address

FIRST_NUMBER: Final = 3
LAST_NUMBER: Final = 65535
MAX_GRANTS: Final = 512
MANAGER: Final = "systemd:"
ABSENT: Final = -1  # the number of what a service manager could give back, and has not
MAX_DATA_TEXT: Final = 1 << 20  # it travels in the plan, which is at most 16 MiB
MAX_COPY: Final = 64 << 20  # it is memory, and the launcher's, until the last descriptor closes
MAX_SCRATCH: Final = 1 << 41  # a plan counts KiB in 32 bits
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}\Z")
# sd_listen_fds_with_names(3): up to 255 printable characters of ASCII, and no colon.
_PASSED = re.compile(r"systemd:[!-9;-~][ -9;-~]{0,254}\Z")
_PLACEHOLDER = re.compile(r"\{fd:([^{}]*)\}")
# isdecimal() would let other scripts' digits through, and int() refuses thousands of digits with an error of its own.
_DECIMAL = re.compile(r"[0-9]{1,10}\Z")


class Access(enum.StrEnum):
    """What the descriptor's own mode lets the child do: open(2), `O_ACCMODE` and `O_APPEND`."""

    READ = "read"
    WRITE = "write"
    APPEND = "append"
    READ_WRITE = "read-write"


class FdType(enum.StrEnum):
    """What a descriptor refers to, as fstat(2), fcntl(2) and its `/proc/self/fd` link tell.

    The order is the bit number in the plan (docs/plan-format.md).
    """

    FILE = "file"
    PIPE = "pipe"
    SOCKET = "socket"
    MEMFD = "memfd"
    EVENTFD = "eventfd"
    NULL = "null"
    TTY = "tty"
    DIRECTORY = "directory"
    PATH = "path"
    BLOCK_DEVICE = "block-device"
    CHAR_DEVICE = "char-device"
    NAMESPACE = "namespace"
    PIDFD = "pidfd"
    EPOLL = "epoll"
    TIMERFD = "timerfd"
    SIGNALFD = "signalfd"
    INOTIFY = "inotify"
    FANOTIFY = "fanotify"
    USERFAULTFD = "userfaultfd"
    IO_URING = "io_uring"
    SECCOMP_LISTENER = "seccomp-listener"
    BPF = "bpf"
    OTHER = "other"
    # What a socket is to its holder; `socket` itself is one of none of these: not connected, or not listening yet.
    LISTENER = "listener"
    STREAM = "stream"
    DATAGRAM = "datagram"
    RAW_SOCKET = "raw-socket"

    @property
    def bit(self) -> int:
        """The type's bit in a plan's type mask."""
        return 1 << list(FdType).index(self)


# What an `inherit` grant without a type accepts; every other type must be asked for by name. A socket that has no peer
# yet can be given any, and one that only remembers its peer, another: both lead further than themselves.
SAFE_TYPES: Final = frozenset(
    {FdType.FILE, FdType.PIPE, FdType.MEMFD, FdType.EVENTFD, FdType.NULL, FdType.LISTENER, FdType.STREAM}
)
SOCKET_TYPES: Final = frozenset(
    {FdType.SOCKET, FdType.LISTENER, FdType.STREAM, FdType.DATAGRAM, FdType.RAW_SOCKET}
)  # fmt: skip
# What may stand on 0, 1 and 2: a terminal is normal there, a directory never is.
STDIO_TYPES: Final = SAFE_TYPES | {FdType.TTY}


# What a relay copies: bytes that have an order.
RELAYED_TYPES: Final = frozenset({FdType.FILE, FdType.PIPE, FdType.STREAM})


def accepted_types(declared: FdType | None) -> frozenset[FdType]:
    """Return what an `inherit` grant of that type accepts; `socket` is the word for any but raw ones."""
    if declared is None:
        return SAFE_TYPES
    return SOCKET_TYPES - {FdType.RAW_SOCKET} if declared is FdType.SOCKET else frozenset({declared})


@dataclass(frozen=True, slots=True, kw_only=True)
class InheritGrant(KeptHere):
    """A descriptor of the caller's: `inherit` is its number there; the caller keeps its own copy.

    inherit can also be `systemd:NAME`: the descriptor of that name that a service manager has passed to the caller, and
    passed_fd the number that it has (resolve.passed_grants). stored: the child may give the manager one to keep under
    that name (FDSTORE=1), and has it back at the next start; before, and after a stop, there is none (ABSENT).

    propagate (of every grant): it passes at every exec, while its number still is this open file.
    type None accepts SAFE_TYPES; access None accepts any mode, otherwise the mode must be exactly that. A regular file
    is opened anew by its path, and relayed if it is open for appending only; raw: the caller's own open file is given,
    with its offset, flags and mount. relay: the child has a pipe, and the supervisor copies, one way; access then says
    which, where the descriptor is open both ways.
    """

    name: str
    inherit: int | str
    type: FdType | None = None
    access: Access | None = None
    raw: bool = False
    relay: bool = False
    stored: bool = False
    number: int | None = None
    propagate: bool = False
    passed_fd: int | None = None

    def _held(self) -> str:
        return "" if self.passed_as and self.passed_fd is None else f"the number of a descriptor ({self.fd})"

    @property
    def types(self) -> frozenset[FdType]:
        """What the caller's descriptor may be."""
        return accepted_types(self.type) & RELAYED_TYPES if self.relay else accepted_types(self.type)

    @property
    def given_types(self) -> frozenset[FdType]:
        """What the child's descriptor may be."""
        return frozenset({FdType.PIPE}) if self.relay else accepted_types(self.type)

    @property
    def passed_as(self) -> str | None:
        """The name by which a service manager has passed it, or None where it is the caller's number."""
        return self.inherit.removeprefix(MANAGER) if isinstance(self.inherit, str) else None

    @property
    def fd(self) -> int:
        """The caller's number.

        Raises: GrantError if it is still a service manager's name.
        """
        if isinstance(self.inherit, int):
            return self.inherit
        if self.passed_fd is None:
            raise GrantError(self.name, f"nobody has looked {self.inherit} up", "start it as a service")
        return self.passed_fd


@dataclass(frozen=True, slots=True, kw_only=True)
class FileGrant:
    """A regular file, opened once by the launcher with `access`.

    create makes a missing file (mode 0666 less the umask); truncate empties it. Both need a writing access. It is
    opened through a mount of its own: what is only to be read can be changed by no means. What is only to be appended
    to is a pipe, and the supervisor appends what comes out of it. raw: the file itself, through the caller's mount.
    """

    name: str
    file: str
    access: Access = Access.READ
    create: bool = False
    truncate: bool = False
    raw: bool = False
    number: int | None = None
    propagate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryGrant:
    """A folder, opened through a mount of its own: what lies in it can be read, and no `..` leads out of it.

    write: files in it can be written; create: made, removed and moved within it; execute: executed.
    """

    name: str
    directory: str
    write: bool = False
    create: bool = False
    execute: bool = False
    number: int | None = None
    propagate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretGrant:
    """Bytes in a sealed memfd, read by the launcher from `PATH` or, with `env:NAME`, from the caller's environment."""

    name: str
    secret: str
    number: int | None = None
    propagate: bool = False

    @property
    def variable(self) -> str | None:
        """The caller's environment variable that holds the secret, or None when it comes from a file."""
        return self.secret[4:] if self.secret.startswith("env:") else None


MAX_BACKLOG: Final = 65535
MAX_TIMEOUT: Final = 3600.0
_SOCKET_MODE = re.compile(r"0?[0-7]{1,3}\Z")
_OWNER = re.compile(r"[^:,=\0]+(:[^:,=\0]+)?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenGrant:
    """A socket that the launcher binds in the caller's network: tcp and unix ones listen, a udp one receives.

    listen: `tcp:HOST:PORT`, `udp:HOST:PORT`, `unix:PATH`, `unix:@NAME`; HOST `*` is every address. ipv6_only: an IPv6
    address takes no IPv4. mode (octal text; None: what the caller's umask leaves of 0777) and owner (`NAME[:GROUP]`)
    are those of a path's file.
    """

    name: str
    listen: str
    backlog: int = 4096
    reuse_port: bool = False
    ipv6_only: bool = False
    mode: str | None = None
    owner: str | None = None
    number: int | None = None
    propagate: bool = False

    @property
    def address(self) -> Address:
        """What `listen` says."""
        return _address(self.name, self.listen)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectGrant:
    """A connection that the launcher makes in the caller's network, to `tcp:HOST:PORT`, `unix:PATH` or `unix:@NAME`.

    timeout: in seconds, for all addresses that the host's name has together.
    """

    name: str
    connect: str
    timeout: float = 10.0
    number: int | None = None
    propagate: bool = False

    @property
    def address(self) -> Address:
        """What `connect` says."""
        return _address(self.name, self.connect)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatagramGrant:
    """A datagram socket that is connected, in the caller's network, to `udp:HOST:PORT`, `unix:PATH` or `unix:@NAME`."""

    name: str
    datagram: str
    number: int | None = None
    propagate: bool = False

    @property
    def address(self) -> Address:
        """What `datagram` says."""
        return _address(self.name, self.datagram)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataGrant:
    """A text in a sealed memfd, open for reading. It is no secret: it stands in the profile and on command lines."""

    name: str
    data: str
    number: int | None = None
    propagate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyGrant:
    """What a regular file holds at the start, in a sealed memfd, open for reading; at most MAX_COPY bytes."""

    name: str
    copy: str
    number: int | None = None
    propagate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchGrant:
    """An empty file in memory, open for reading and writing; it grows to `scratch` bytes, in whole pages."""

    name: str
    scratch: int
    number: int | None = None
    propagate: bool = False


SocketGrant: TypeAlias = ListenGrant | ConnectGrant | DatagramGrant
Grant: TypeAlias = (
    InheritGrant
    | FileGrant
    | DirectoryGrant
    | SecretGrant
    | ListenGrant
    | ConnectGrant
    | DatagramGrant
    | DataGrant
    | CopyGrant
    | ScratchGrant
)  # fmt: skip
KINDS: Final[dict[str, type[Grant]]] = {
    "inherit": InheritGrant,
    "file": FileGrant,
    "directory": DirectoryGrant,
    "secret": SecretGrant,
    "listen": ListenGrant,
    "connect": ConnectGrant,
    "datagram": DatagramGrant,
    "data": DataGrant,
    "copy": CopyGrant,
    "scratch": ScratchGrant,
}

# The words that a grant's kind may have behind its value on the command line, beside accesses and types: its flags.
_FLAGS: Final = {
    "inherit": ("raw", "relay", "stored"), "file": ("create", "truncate", "raw"),
    "directory": ("write", "create", "execute"),
    "secret": (), "listen": (), "connect": (), "datagram": (),
    "data": (), "copy": (), "scratch": (),
}  # fmt: skip


def _address(name: str, text: str) -> Address:
    try:
        return parse_address(text)
    except UsageError as error:
        raise GrantError(name, f"{error.object!r}: {error.reason}", error.hint) from error


def kind_of(grant: Grant) -> str:
    """Return the word that the grant's kind has in profiles and on the command line."""
    return next(word for word, kind in KINDS.items() if isinstance(grant, kind))


def flags_of(grant: Grant) -> list[str]:
    """Return the flags of its kind that the grant has set, as profiles and the command line name them."""
    return [word for word in _FLAGS[kind_of(grant)] if getattr(grant, word)]


def variable_for(name: str) -> str:
    """Return the environment variable that tells the child the grant's number: `SANDBOX_FD_<NAME>`."""
    return "SANDBOX_FD_" + re.sub(r"[^A-Z0-9]", "_", name.upper())


def checked(grant: Grant) -> Grant:
    """Return the grant unchanged if its own fields agree with each other.

    Raises: GrantError for a bad name, a number out of range, or fields that contradict each other.
    """
    if not _NAME.match(grant.name):
        raise GrantError(repr(grant.name), "not a grant name", "use a letter, then letters, digits, '_', '.', '-'")
    if grant.number is not None and not FIRST_NUMBER <= grant.number <= LAST_NUMBER:
        raise GrantError(
            grant.name,
            f"number {grant.number} is out of range",
            f"use {FIRST_NUMBER} to {LAST_NUMBER}, or leave it out",
        )
    match grant:
        case InheritGrant():
            _check_inherited(grant)
        case FileGrant(file=path) if not path or "\0" in path:
            raise GrantError(grant.name, "the path is empty or holds a NUL byte", 'write file = "/a/path"')
        case DirectoryGrant(directory=path) if not path or "\0" in path:
            raise GrantError(grant.name, "the path is empty or holds a NUL byte", 'write directory = "/a/path"')
        case FileGrant(access=Access.READ) if grant.create or grant.truncate:
            raise GrantError(grant.name, "create and truncate need a writing access", 'add access = "write"')
        case SecretGrant(secret=source) if source in ("", "env:") or "\0" in source or "=" in (grant.variable or ""):
            raise GrantError(grant.name, "the secret has no source", 'write secret = "/a/path" or "env:NAME"')
        case DataGrant() | CopyGrant() | ScratchGrant():
            _check_memory(grant)
        case ListenGrant() | ConnectGrant() | DatagramGrant():
            _check_socket(grant)
    return grant


def _check_inherited(grant: InheritGrant) -> None:
    match grant:
        case InheritGrant(inherit=str(text)) if not _PASSED.match(text):
            raise GrantError(grant.name, f"{text!r} is not a descriptor", f"give a number, or {MANAGER}NAME")
        case InheritGrant(inherit=int(fd)) if not 0 <= fd < 2**31:
            raise GrantError(grant.name, f"{fd} is not a descriptor", "give the number that the caller has open")
        case InheritGrant(stored=True, inherit=int()):
            raise GrantError(grant.name, "nobody gives a number back", f'write inherit = "{MANAGER}NAME"')
        case InheritGrant(relay=True):
            _check_relay(grant)
        case InheritGrant(type=FdType.DIRECTORY, raw=False):
            raise GrantError(
                grant.name, "a folder that is inherited leads to those above it",
                "grant it by its path: directory; or take it as it is: raw",
            )  # fmt: skip


def _check_relay(grant: InheritGrant) -> None:
    if grant.raw:
        raise GrantError(grant.name, "raw is the caller's own, and a relay never", "leave one of them out")
    if grant.access is Access.READ_WRITE:
        raise GrantError(grant.name, "a relay goes one way", "say read or write")
    if not grant.types:
        raise GrantError(
            grant.name, f"a relay copies bytes, and a {grant.type} has none",
            "relay a " + ", ".join(sorted(RELAYED_TYPES)),
        )  # fmt: skip


def _check_socket(grant: SocketGrant) -> None:
    address = grant.address
    needs_peer = not isinstance(grant, ListenGrant)
    wrong: dict[tuple[str, str], bool] = {
        ("a connection has one peer", "name its host"): needs_peer and address.host == EVERY_HOST,
        ("port 0 is nobody's", "give the port of the service"):
            needs_peer and address.protocol is not Protocol.UNIX and not address.port,
    }  # fmt: skip
    match grant:
        case ConnectGrant():
            wrong |= {
                ("a udp socket is not connected this way", f'write datagram = "{address}"'):
                    address.protocol is Protocol.UDP,
                ("the timeout is out of range", f"use more than 0 and at most {MAX_TIMEOUT:g} seconds"):
                    not 0.001 <= grant.timeout <= MAX_TIMEOUT,
            }  # fmt: skip
        case DatagramGrant():
            tcp = address.protocol is Protocol.TCP
            wrong[f"{address.protocol} has no datagrams", f'write connect = "{address}"'] = tcp
        case ListenGrant():
            wrong |= _listen_mistakes(grant, address)
    for (reason, hint), holds in wrong.items():
        if holds:
            raise GrantError(grant.name, reason, hint)


def _listen_mistakes(grant: ListenGrant, address: Address) -> dict[tuple[str, str], bool]:
    of_file = grant.mode is not None or grant.owner is not None
    inet6 = address.host == EVERY_HOST or ":" in address.host or address.name is not None
    return {
        (f"the backlog is not 1 to {MAX_BACKLOG}", "leave it out"): not 1 <= grant.backlog <= MAX_BACKLOG,
        ("mode and owner are those of a path's file", "use them with unix:/PATH"): of_file and not address.is_path,
        (f"the mode {grant.mode!r} is not octal text", 'as in mode = "660"'):
            grant.mode is not None and not _SOCKET_MODE.match(grant.mode),
        (f"the owner {grant.owner!r} is no NAME[:GROUP]", 'as in owner = "www-data:www-data"'):
            grant.owner is not None and not _OWNER.match(grant.owner),
        ("reuse_port is for ports", "leave it out"): grant.reuse_port and address.protocol is Protocol.UNIX,
        ("ipv6_only is for IPv6 addresses", "leave it out"):
            grant.ipv6_only and (address.protocol is Protocol.UNIX or not inet6),
    }  # fmt: skip


def _check_memory(grant: DataGrant | CopyGrant | ScratchGrant) -> None:
    match grant:
        case DataGrant(data=text) if "\0" in text:
            raise GrantError(grant.name, "the text holds a NUL byte", "write it into a file, and grant that: copy")
        case DataGrant(data=text) if len(os.fsencode(text)) > MAX_DATA_TEXT:
            raise GrantError(grant.name, "the text is longer than 1 MiB", "write it into a file, and grant that: copy")
        case CopyGrant(copy=path) if not path or "\0" in path:
            raise GrantError(grant.name, "the path is empty or holds a NUL byte", 'write copy = "/a/path"')
        case ScratchGrant(scratch=size) if not 0 < size <= MAX_SCRATCH:
            raise GrantError(grant.name, f"a scratch file of {size} bytes cannot be", 'write scratch = "64M"')


def parse_grant(text: str) -> Grant:
    """Parse the command line's form of a grant.

    Grammar: `NAME[@NUMBER][+propagate]=KIND:VALUE[:WORD[,WORD ...]]`, KIND one of KINDS. For `file` and `inherit` a
    WORD is an access (read, write, append, read-write) or raw, for `file` also create and truncate, for `inherit` also
    relay, stored and a descriptor type; for `directory` read, write, create and execute. For `listen` it is one of
    reuse_port, ipv6_only, backlog=N, mode=OCTAL, owner=NAME[:GROUP], for `connect` timeout=SECONDS. A last part that
    is no list of such words belongs to VALUE, so that paths may hold colons; of `data`, `copy` and `scratch` all is.

    Raises: GrantError with the grammar as hint.
    """
    head, equals, body = text.partition("=")
    head, plus, flag = head.partition("+")
    name, at, number = head.partition("@")
    kind, colon, value = body.partition(":")
    if (
        not equals
        or not colon
        or kind not in KINDS
        or (at and not _DECIMAL.match(number))
        or flag != ("propagate" if plus else "")
    ):
        raise GrantError(
            name or text, f"cannot read {text!r}", f"write NAME[@NUMBER][+propagate]={'|'.join(KINDS)}:VALUE[:WORD,...]"
        )
    parsed = _parse_value(name, kind, value)
    return checked(replace(parsed, number=int(number) if at else None, propagate=bool(plus)))


def _parse_value(name: str, kind: str, value: str) -> Grant:
    if kind in _WHOLE:
        return _WHOLE[kind](name, value)
    if kind in _SOCKET_WORDS:
        return _parse_socket(name, kind, value)
    value, words = _trailing_words(value, kind)
    flags = {word: True for word in _FLAGS[kind] if word in words}
    if kind == "directory":
        return DirectoryGrant(name=name, directory=value, **flags)
    access = next((Access(word) for word in words if word in list(Access)), None)
    if kind == "file":
        return FileGrant(name=name, file=value, access=access or Access.READ, **flags)
    fd_type = next((FdType(word) for word in words if word in list(FdType)), None)
    if value.startswith(MANAGER):
        return InheritGrant(name=name, inherit=value, type=fd_type, access=access, **flags)
    if not _DECIMAL.match(value):
        raise GrantError(name, f"{value!r} is not a descriptor number", "write NAME=inherit:5[:read][,pipe]")
    return InheritGrant(name=name, inherit=int(value), type=fd_type, access=access, **flags)


# For each kind of socket its words, and how each is read.
_SOCKET_WORDS: Final[dict[str, dict[str, re.Pattern[str]]]] = {
    "listen": {
        "reuse_port": re.compile(r"\Z"),
        "ipv6_only": re.compile(r"\Z"),
        "backlog": re.compile(r"=[0-9]{1,5}\Z"),
        "mode": re.compile(r"=[0-7]{1,4}\Z"),
        "owner": re.compile(r"=[^:,=]+(:[^:,=]+)?\Z"),
    },
    "connect": {"timeout": re.compile(r"=[0-9]{1,4}(\.[0-9]{1,3})?\Z")},
    "datagram": {},
}
_FLAG_WORDS: Final = ("reuse_port", "ipv6_only")


def _parse_socket(name: str, kind: str, value: str) -> Grant:
    address, words = _socket_words(value, kind)
    values: dict[str, object] = {"name": name, kind: address}
    for word, _, text in (word.partition("=") for word in words):
        match word:
            case "backlog":
                values[word] = int(text)
            case "timeout":
                values[word] = float(text)
            case _:
                values[word] = text or True
    return KINDS[kind](**values)  # type: ignore[arg-type]


def _socket_words(value: str, kind: str) -> tuple[str, list[str]]:
    """Split the words off a socket's value: from the first colon on behind which there is nothing but words."""
    known = _SOCKET_WORDS[kind]
    for at in (match.start() for match in re.finditer(":", value)):
        words = value[at + 1 :].split(",")
        keys = [word.partition("=")[0] for word in words]
        fits = all(key in known and known[key].match(word[len(key) :]) for key, word in zip(keys, words, strict=True))
        if fits and len(set(keys)) == len(keys):
            return value[:at], words
    return value, []


def parse_scratch(name: str, value: str) -> ScratchGrant:
    """Return the scratch grant of a size such as 64M.

    Raises: GrantError for what is no size.
    """
    try:
        return ScratchGrant(name=name, scratch=parse_size(value))
    except UsageError as error:
        raise GrantError(name, f"{error.object}: {error.reason}", error.hint) from error


# Kinds whose value is all that follows the kind: a text or a path may hold colons and words.
_WHOLE: Final[dict[str, Callable[[str, str], Grant]]] = {
    "secret": lambda name, value: SecretGrant(name=name, secret=value),
    "data": lambda name, value: DataGrant(name=name, data=value),
    "copy": lambda name, value: CopyGrant(name=name, copy=value),
    "scratch": parse_scratch,
}


def _trailing_words(value: str, kind: str) -> tuple[str, list[str]]:
    """Split the trailing `:WORD,WORD` off a value, if all of it are words of that kind, each used once."""
    accesses: set[str] = {Access.READ} if kind == "directory" else set(Access)
    types: set[str] = set(FdType) if kind == "inherit" else set()
    rest, colon, tail = value.rpartition(":")
    words = tail.split(",")
    single = len(set(words)) == len(words) and len(accesses & set(words)) <= 1 and len(types & set(words)) <= 1
    if colon and set(words) <= {*_FLAGS[kind], *accesses, *types} and single:
        return rest, words
    return value, []


def format_grant(grant: Grant) -> str:
    """Return the command line's form; parse_grant(format_grant(g)) == g."""
    head = grant.name if grant.number is None else f"{grant.name}@{grant.number}"
    head += "+propagate" if grant.propagate else ""
    flags = flags_of(grant)
    match grant:
        case InheritGrant():
            words = [*(str(word) for word in (grant.access, grant.type) if word is not None), *flags]
            return f"{head}=inherit:{grant.inherit}" + (":" + ",".join(words) if words else "")
        case FileGrant():
            return f"{head}=file:{grant.file}:" + ",".join([str(grant.access), *flags])
        case DirectoryGrant():
            return f"{head}=directory:{grant.directory}:" + ",".join([Access.READ, *flags])
        case SecretGrant():
            return f"{head}=secret:{grant.secret}"
        case ListenGrant():
            words = [word for word in _FLAG_WORDS if getattr(grant, word)]
            words += [f"backlog={grant.backlog}"]
            words += [f"{word}={text}" for word in ("mode", "owner") if (text := getattr(grant, word)) is not None]
            return f"{head}=listen:{grant.listen}:" + ",".join(words)
        case ConnectGrant():
            return f"{head}=connect:{grant.connect}:timeout={grant.timeout:.3f}"
        case DatagramGrant():
            return f"{head}=datagram:{grant.datagram}"
        case DataGrant():
            return f"{head}=data:{grant.data}"
        case CopyGrant():
            return f"{head}=copy:{grant.copy}"
        case ScratchGrant():
            return f"{head}=scratch:{format_size(grant.scratch)}"


def is_activated(grant: Grant) -> bool:
    """Tell whether `activation` tells the child of a grant: it is a socket by what its declaration says."""
    match grant:
        case InheritGrant():
            return (grant.type in SOCKET_TYPES and not grant.relay) or grant.passed_as is not None
        case ListenGrant() | ConnectGrant() | DatagramGrant():
            return True
        case _:
            return False


def number_grants(grants: Iterable[Grant], *, activation: bool = False) -> tuple[Grant, ...]:
    """Give every grant its number: the declared one, else the lowest free from 3 up in order of declaration.

    activation: those that is_activated tells have the numbers from 3 up, in order of declaration.
    Establishes: numbers, names, variables and inherited descriptors are pairwise different.
    Returns: the grants in ascending order of number.
    Raises: GrantError that names the second of two grants that collide.
    """
    given = [checked(grant) for grant in grants]
    if activation:
        given = _number_activated(given)
    if len(given) > MAX_GRANTS:
        raise GrantError(given[MAX_GRANTS].name, f"more than {MAX_GRANTS} grants", "send further ones over a socket")
    _refuse_doubles(given, lambda g: g.name, "the name is used twice")
    _refuse_doubles(given, lambda g: variable_for(g.name), "its variable is that of another grant")
    _refuse_doubles(given, lambda g: g.number, "the number is used twice")
    _refuse_doubles(given, _source_of, "the descriptor is used twice")
    taken = {grant.number for grant in given}
    free = (number for number in range(FIRST_NUMBER, LAST_NUMBER) if number not in taken)
    numbered = [grant if grant.number is not None else replace(grant, number=next(free)) for grant in given]
    return tuple(sorted(numbered, key=number_of))


def is_stored(grant: Grant) -> bool:
    """Tell whether a grant is what a service manager keeps between starts, and so may be absent."""
    return isinstance(grant, InheritGrant) and grant.stored


def present(grants: Sequence[Grant], *, activation: bool) -> tuple[tuple[int, Grant], ...]:
    """Return the grants that are there at this start, each with its place among all.

    activation: what is told by LISTEN_FDS has the numbers from 3 up without a gap, so those that are stored move down.
    """
    found: list[tuple[int, Grant]] = []
    missing = 0
    for place, grant in enumerate(grants):
        moves = activation and is_activated(grant)
        if isinstance(grant, InheritGrant) and grant.passed_fd == ABSENT:
            missing += moves
        else:
            found.append((place, replace(grant, number=number_of(grant) - missing) if moves else grant))
    return tuple(found)


def _source_of(grant: Grant) -> int | str | None:
    if not isinstance(grant, InheritGrant):
        return None
    return grant.inherit if grant.passed_fd in (None, ABSENT) else grant.passed_fd


def _number_activated(grants: Sequence[Grant]) -> list[Grant]:
    places = count(FIRST_NUMBER)
    found: list[Grant] = []
    for grant in sorted(grants, key=is_stored):  # those may be absent, and leave no gap
        if is_stored(grant) and grant.number is not None:
            raise GrantError(grant.name, "activation numbers what is stored at each start", "leave number out")
        number = next(places) if is_activated(grant) else grant.number
        if grant.number not in (None, number):
            reason = f"activation gives it number {number}"
            raise GrantError(
                grant.name, reason, "leave number out, or declare the sockets in the order of their numbers"
            )
        found.append(replace(grant, number=number))
    return found


def number_of(grant: Grant) -> int:
    """Return the number of a grant that number_grants has numbered."""
    assert grant.number is not None
    return grant.number


def _refuse_doubles(grants: Sequence[Grant], key: Callable[[Grant], Hashable | None], reason: str) -> None:
    seen: dict[Hashable, str] = {}
    for grant in grants:
        value = key(grant)
        if value is None:
            continue
        if value in seen:
            raise GrantError(
                grant.name, f"{reason} ({value}, by {seen[value]!r} as well)", "give each grant one of its own"
            )
        seen[value] = grant.name


def substitute(argument: str, grants: Sequence[Grant]) -> str:
    """Replace each `{fd:NAME}` by the number of that grant.

    Raises: GrantError if no grant has the name.
    """
    numbers = {grant.name: str(number_of(grant)) for grant in grants}

    def number(match: re.Match[str]) -> str:
        if any(grant.name == match[1] and is_stored(grant) for grant in grants):
            hint = f"the command has {variable_for(match[1])} where it is there"
            raise GrantError(match[1], f"it may be absent, in argument {argument!r}", hint)
        if match[1] not in numbers:
            known = ", ".join(sorted(numbers)) or "none"
            raise GrantError(match[1], f"no such grant, in argument {argument!r}", f"declared: {known}")
        return numbers[match[1]]

    return _PLACEHOLDER.sub(number, argument)
