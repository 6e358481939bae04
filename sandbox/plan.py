"""The plan: the straight-line program that the native launcher carries out, as a frozen value.

An op's fields are those of its record in the byte format (docs/plan-format.md); the constructors of ops.py give them
names. sandbox/launcher/ops.def is the other side of the table; a test holds both together.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from sandbox.grants import Access, FdType
from sandbox.sending import KeptHere
from sandbox.sockets import format_sockaddr, split_sockaddrs

MAX_SLOTS: Final = 512
MAX_ENV_OPS: Final = 4096
MAX_PID_VARIABLES: Final = 2
MAX_FILTERS: Final = 4
MAX_COMMANDS: Final = 64
MAX_ARGS: Final = 1 << 18
MAX_PROTOCOLS: Final = 256
MAX_FILTER_LENGTH: Final = 4096
_LAST_STREAM: Final = 2
GATE_LENGTH: Final = 25  # of the exec gate's program, in front of NOTIFY's
MAX_NAMESPACES: Final = 7
MAX_CGROUP_SETTINGS: Final = 16
MAX_MOUNTS: Final = 1024
MAX_RLIMITS: Final = 16
MAX_PATH_RULES: Final = 2048
MAX_PORT_RULES: Final = 1024
MAX_NET_RULES: Final = 1024
MAX_TEXT_FILES: Final = 4
MAX_STORED_NAME: Final = 255
OPEN_FLAGS: Final = {
    Access.READ: os.O_RDONLY,
    Access.WRITE: os.O_WRONLY,
    Access.APPEND: os.O_WRONLY | os.O_APPEND,
    Access.READ_WRITE: os.O_RDWR,
}
ACCESS_CODES: Final[dict[Access | None, int]] = {None: 0} | {access: i + 1 for i, access in enumerate(Access)}


class Data(enum.Enum):
    """What an op's data is."""

    NONE = "none"
    TEXT = "text"
    FILTER = "filter"
    ARGV = "argv"
    PAIR = "pair"
    ADDRESS = "address"


class OpCode(enum.IntEnum):
    """The ops; the high byte is the phase, and a plan's codes never descend."""

    STATUS = 0x0101
    DIE_WITH_PARENT = 0x0102
    TRACE = 0x0103
    PROTOCOL = 0x0104
    TIMEOUT = 0x0105
    TERMINAL = 0x0106
    CGROUP = 0x0107
    CGROUP_SET = 0x0108
    OOM_SCORE = 0x0109
    ALLOW_LIST = 0x010A
    NET_RULE = 0x010B
    NETNS = 0x010C
    STORE = 0x010D
    STDIO = 0x0301
    INHERIT = 0x0302
    FILE = 0x0303
    SECRET_FILE = 0x0304
    SECRET_ENV = 0x0305
    DIRECTORY = 0x0306
    DATA = 0x0307
    SCRATCH = 0x0308
    SOCKET_OWNER = 0x0310
    LISTEN = 0x0311
    CONNECT = 0x0312
    NAMESPACE = 0x0401
    IDENTITY = 0x0402
    HOSTNAME = 0x0403
    LOOPBACK = 0x0404
    ROOT = 0x0405
    MOUNT = 0x0406
    ENTER = 0x0407
    CAPABILITIES = 0x0408
    TEXT_FILE = 0x0409
    MANAGER = 0x040A
    PLACE = 0x0501
    SWEEP = 0x0502
    VERIFY = 0x0503
    SIGNALS = 0x0601
    UMASK = 0x0602
    CHDIR = 0x0603
    ENV_KEEP = 0x0604
    ENV_SET = 0x0605
    RESET = 0x0606
    RLIMIT = 0x0607
    SCHEDULING = 0x0608
    AFFINITY = 0x0609
    ENV_DROP = 0x0610
    ENV_PID = 0x0611
    NO_NEW_PRIVS = 0x0701
    RULESET = 0x0702
    PATH_RULE = 0x0703
    PORT_RULE = 0x0704
    RESTRICT = 0x0705
    EXEC_ONCE = 0x0706
    GATE = 0x0707
    FILTER = 0x0708
    NOTIFY = 0x0709
    COMMAND = 0x0801
    EXEC = 0x0802


@dataclass(frozen=True, slots=True)
class OpRule:
    """How often an op comes, what it carries, and the step that messages name."""

    step: str
    least: int
    most: int
    data: Data = Data.NONE


RULES: Final[dict[OpCode, OpRule]] = {
    OpCode.STATUS: OpRule("status", 0, 1),
    OpCode.DIE_WITH_PARENT: OpRule("parent", 0, 1),
    OpCode.TRACE: OpRule("trace", 0, 1),
    OpCode.PROTOCOL: OpRule("protocol", 0, MAX_PROTOCOLS, Data.PAIR),
    OpCode.TIMEOUT: OpRule("timeout", 0, 1),
    OpCode.TERMINAL: OpRule("terminal", 0, 1),
    OpCode.CGROUP: OpRule("cgroup", 0, 1, Data.TEXT),
    OpCode.CGROUP_SET: OpRule("cgroup", 0, MAX_CGROUP_SETTINGS, Data.PAIR),
    OpCode.OOM_SCORE: OpRule("oom_score", 0, 1),
    OpCode.ALLOW_LIST: OpRule("network", 0, 1),
    OpCode.NET_RULE: OpRule("network", 0, MAX_NET_RULES, Data.ADDRESS),
    OpCode.NETNS: OpRule("network", 0, 1),
    OpCode.STORE: OpRule("notify", 0, MAX_SLOTS, Data.TEXT),
    OpCode.STDIO: OpRule("stdio", 1, 1),
    OpCode.INHERIT: OpRule("inherit", 0, MAX_SLOTS),
    OpCode.FILE: OpRule("open", 0, MAX_SLOTS, Data.TEXT),
    OpCode.SECRET_FILE: OpRule("secret", 0, MAX_SLOTS, Data.TEXT),
    OpCode.SECRET_ENV: OpRule("secret", 0, MAX_SLOTS, Data.TEXT),
    OpCode.DIRECTORY: OpRule("open", 0, MAX_SLOTS, Data.TEXT),
    OpCode.DATA: OpRule("data", 0, MAX_SLOTS, Data.TEXT),
    OpCode.SCRATCH: OpRule("scratch", 0, MAX_SLOTS),
    OpCode.SOCKET_OWNER: OpRule("listen", 0, MAX_SLOTS),
    OpCode.LISTEN: OpRule("listen", 0, MAX_SLOTS, Data.ADDRESS),
    OpCode.CONNECT: OpRule("connect", 0, MAX_SLOTS, Data.ADDRESS),
    OpCode.NAMESPACE: OpRule("namespace", 0, MAX_NAMESPACES),
    OpCode.IDENTITY: OpRule("identity", 0, 1),
    OpCode.HOSTNAME: OpRule("hostname", 0, 1, Data.TEXT),
    OpCode.LOOPBACK: OpRule("loopback", 0, 1),
    OpCode.ROOT: OpRule("view", 0, 1),
    OpCode.MOUNT: OpRule("view", 0, MAX_MOUNTS, Data.TEXT),
    OpCode.ENTER: OpRule("view", 0, 1),
    OpCode.CAPABILITIES: OpRule("capabilities", 1, 1),
    OpCode.TEXT_FILE: OpRule("view", 0, MAX_TEXT_FILES, Data.PAIR),
    OpCode.MANAGER: OpRule("notify", 0, 1, Data.TEXT),
    OpCode.PLACE: OpRule("place", 0, MAX_SLOTS),
    OpCode.SWEEP: OpRule("sweep", 1, 1),
    OpCode.VERIFY: OpRule("verify", 1, 1),
    OpCode.SIGNALS: OpRule("signals", 1, 1),
    OpCode.UMASK: OpRule("umask", 1, 1),
    OpCode.CHDIR: OpRule("chdir", 0, 1, Data.TEXT),
    OpCode.ENV_KEEP: OpRule("environment", 0, MAX_ENV_OPS, Data.TEXT),
    OpCode.ENV_SET: OpRule("environment", 0, MAX_ENV_OPS, Data.TEXT),
    OpCode.RESET: OpRule("attributes", 1, 1),
    OpCode.RLIMIT: OpRule("limit", 0, MAX_RLIMITS),
    OpCode.SCHEDULING: OpRule("scheduling", 0, 1),
    OpCode.AFFINITY: OpRule("affinity", 0, 1, Data.TEXT),
    OpCode.ENV_DROP: OpRule("environment", 0, MAX_ENV_OPS, Data.TEXT),
    OpCode.ENV_PID: OpRule("environment", 0, MAX_PID_VARIABLES, Data.TEXT),
    OpCode.NO_NEW_PRIVS: OpRule("no_new_privs", 1, 1),
    OpCode.RULESET: OpRule("landlock", 0, 1),
    OpCode.PATH_RULE: OpRule("landlock", 0, MAX_PATH_RULES, Data.TEXT),
    OpCode.PORT_RULE: OpRule("landlock", 0, MAX_PORT_RULES),
    OpCode.RESTRICT: OpRule("landlock", 0, 1),
    OpCode.EXEC_ONCE: OpRule("exec_once", 0, 1),
    OpCode.GATE: OpRule("gate", 0, 1),
    OpCode.FILTER: OpRule("filter", 1, MAX_FILTERS, Data.FILTER),
    OpCode.NOTIFY: OpRule("filter", 0, 1, Data.FILTER),
    OpCode.COMMAND: OpRule("exec", 1, MAX_COMMANDS, Data.TEXT),
    OpCode.EXEC: OpRule("exec", 1, 1, Data.ARGV),
}
MANDATORY: Final = frozenset(code for code, rule in RULES.items() if rule.least)
# All of their phase but the first, STDIO, and what only adds to another.
OBTAINING: Final = frozenset(code for code in OpCode if OpCode.STDIO < code < OpCode.NAMESPACE) - {OpCode.SOCKET_OWNER}
ACCESS_BITS: Final = 7
DATA_FILE: Final = 1  # of DATA: its text is the path of a file to copy
OPEN_RELAY: Final = 16  # of INHERIT: the supervisor copies, one way
OPEN_RAW: Final = 8  # the open file as it is, not one opened anew through a mount of its own


class ListenFlag(enum.IntFlag):
    """How a LISTEN op makes its socket."""

    REUSE_PORT = 1
    IPV6_ONLY = 2
    DATAGRAM = 4
    MODE = 8


class NetFlag(enum.IntFlag):
    """What a NET_RULE is about: UDP and not TCP, a bind and not a connection; and that it denies."""

    DENY = 1
    BIND = 2
    UDP = 4


class ListFlag(enum.IntFlag):
    """How an ALLOW_LIST is held.

    UDP: datagram sockets are made by the supervisor too. LOOPBACK: what no rule allows and concerns this host itself
    happens in the sandbox's own network. UNGOVERNED: Landlock does not hold TCP, on a kernel before 6.7.
    """

    UDP = 1
    LOOPBACK = 2
    UNGOVERNED = 4


class Trace(enum.IntFlag):
    """What is told of while the command runs."""

    EXECS = 1
    NETWORK = 2


NOTHING_TOLD: Final = Trace(0)


class SocketKind(enum.IntEnum):
    """What a CONNECT op makes; values of socket(2)."""

    STREAM = 1
    DATAGRAM = 2


class Terminal(enum.IntEnum):
    """What the child has for a terminal: none, a pseudo-terminal of its own, or the caller's.

    AUTO: one of the first two, as the caller's streams are; in a template only.
    """

    AUTO = 0
    NONE = 1
    PRIVATE = 2
    INHERIT = 3


class MountKind(enum.IntEnum):
    """What a MOUNT op puts into the view."""

    BIND = 1
    TMPFS = 2
    COPY = 3
    DEV = 4
    PROC = 5
    HIDE = 6


class MountFlag(enum.IntFlag):
    """What a mount allows (WRITE, EXECUTE), and how it is made."""

    WRITE = 1
    EXECUTE = 2
    OPTIONAL = 4
    TERMINALS = 8
    PROCESSES = 16


class Namespace(enum.IntFlag):
    """The namespaces that the sandbox has of its own; values of clone(2)."""

    MOUNT = 0x00020000
    CGROUP = 0x02000000
    UTS = 0x04000000
    IPC = 0x08000000
    USER = 0x10000000
    PID = 0x20000000
    NETWORK = 0x40000000


class Streams(enum.IntEnum):
    """What becomes of 0, 1 and 2 (relay.h, enum streams).

    raw: they are the caller's. safe: a file that is read is opened anew, one that is written is relayed. relay: all but
    terminals and /dev/null.
    """

    RAW = 0
    SAFE = 1
    RELAY = 2


class StatusFormat(enum.IntEnum):
    """How the status descriptor is written: fixed records for programs, JSON lines for people's tools."""

    RECORDS = 1
    JSON = 2


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the byte format. `label` and `hint` are the object and the advice of a failure message."""

    code: enum.IntEnum
    a: int = 0
    b: int = 0
    c: int = 0
    flags: int = 0
    data: bytes = b""
    label: str = ""
    hint: str = ""

    @property
    def fields(self) -> tuple[int, int, int, int]:
        """The numbers, in the order of a record's."""
        return self.flags, self.a, self.b, self.c


@dataclass(frozen=True, slots=True)
class Op(Record):
    """One op."""

    code: OpCode

    @property
    def step(self) -> str:
        """The step that a failure of this op names."""
        return RULES[self.code].step

    @property
    def kind(self) -> Data:
        """What the op's data is."""
        return RULES[self.code].data

    def describe(self) -> str:
        """Return one line that says what the launcher does."""
        return f"{self.code.name.lower():15} {_DESCRIBE[self.code](self)}"


@dataclass(frozen=True, slots=True)
class Plan(KeptHere):
    """The ops in their order. quiet: failures go to the status descriptor only, not to standard error.

    obtain: nothing is started; the launcher sends what the ops obtain over a socket. point: a command that ends with
    another code than 0 gets a line on standard error that says where to read on.
    """

    ops: tuple[Op, ...]
    quiet: bool = False
    obtain: bool = False
    point: bool = False

    def _held(self) -> str:
        return "the numbers of descriptors" if next(self.needed(), None) is not None else ""

    def needed(self) -> Iterator[int]:
        """Yield the descriptors of the process that made it which it names."""
        yield from (op.a for op in self.only(OpCode.STATUS))
        yield from (op.b for op in self.only(OpCode.INHERIT))
        yield from self.joined()

    def joined(self) -> Iterator[int]:
        """Yield the descriptors by which it joins a network."""
        for op in self.only(OpCode.NETNS):
            yield from (fd for fd in (op.a, op.b) if fd > _LAST_STREAM)

    def describe(self) -> tuple[str, ...]:
        """Return one line per op."""
        return tuple(op.describe() for op in self.ops)

    def only(self, code: OpCode) -> tuple[Op, ...]:
        """Return the ops of that code."""
        return tuple(op for op in self.ops if op.code is code)


def _text(data: bytes) -> str:
    return os.fsdecode(data)


def _types(mask: int) -> str:
    return ", ".join(str(fd_type) for fd_type in FdType if mask & fd_type.bit)


def _open_words(op: Op) -> str:
    access = next(access for access, flags in OPEN_FLAGS.items() if flags == op.b & (os.O_ACCMODE | os.O_APPEND))
    flags = [word for word, bit in (("create", os.O_CREAT), ("truncate", os.O_TRUNC)) if op.b & bit]
    relayed = ", relayed" if access is Access.APPEND and not op.flags & OPEN_RAW else ""
    return ", ".join([str(access), *flags]) + _raw_word(op) + relayed


def _raw_word(op: Op) -> str:
    return ", raw" if op.flags & OPEN_RAW else ""


def _arguments(op: Op) -> str:
    return " ".join(repr(_text(argument)) for argument in op.data.split(b"\0")[:-1])


def _access_word(op: Op) -> str:
    code = op.flags & ACCESS_BITS
    access = next((f", {access}" for access, known in ACCESS_CODES.items() if access and known == code), "")
    return access + _raw_word(op) + (", relayed" if op.flags & OPEN_RELAY else "")


_TERMINAL_WORDS: Final = {
    Terminal.AUTO: "a pseudo-terminal of its own where the caller's streams are one, else none",
    Terminal.NONE: "a session of its own, without a terminal",
    Terminal.PRIVATE: "a pseudo-terminal of its own, which the supervisor relays",
    Terminal.INHERIT: "the caller's terminal and session",
}
# <linux/resource.h>, asm-generic.
RLIMIT_NAMES: Final = {
    0: "cpu", 1: "fsize", 2: "data", 3: "stack", 4: "core", 5: "rss", 6: "nproc", 7: "nofile", 8: "memlock", 9: "as",
    10: "locks", 11: "sigpending", 12: "msgqueue", 13: "nice", 14: "rtprio", 15: "rttime",
}  # fmt: skip


def _stream_words(op: Op) -> str:
    limit = f"; at most {op.b | op.c << 32} bytes of output" if op.b or op.c else ""
    return ("", "; files opened anew or relayed", "; relayed")[op.flags] + limit


def _rights_letters(op: Op) -> str:
    return "".join(letter if op.flags & flag else "-" for letter, flag in zip("wx", MountFlag, strict=False))


def _mount_words(op: Op) -> str:
    optional = ", if it is there" if op.flags & MountFlag.OPTIONAL else ""
    return f"{MountKind(op.a).name.lower()} r{_rights_letters(op)} {_text(op.data)!r}{optional}"


def _listen_words(op: Op) -> str:
    verb = "receive at" if op.flags & ListenFlag.DATAGRAM else "listen at"
    words = [] if op.flags & ListenFlag.DATAGRAM else [f"backlog {op.c}"]
    words += ["reuse_port"] * bool(op.flags & ListenFlag.REUSE_PORT)
    words += ["ipv6_only"] * bool(op.flags & ListenFlag.IPV6_ONLY)
    words += [f"mode {op.b:03o}"] * bool(op.flags & ListenFlag.MODE)
    return ", ".join([f"slot {op.a}: {verb} {format_sockaddr(op.data)}", *words])


def _told_words(flags: int) -> str:
    return "".join(f", of each {word} too" for word in _trace_words(flags))


def _rule_words(op: Op) -> str:
    what = "udp" if op.flags & NetFlag.UDP else "tcp"
    verb = "deny" if op.flags & NetFlag.DENY else "bind" if op.flags & NetFlag.BIND else "allow"
    host = format_sockaddr(op.data).rpartition(":")[0]
    return f"{verb} {what} {host}/{op.a} ports {op.b}-{op.c}"


def _connect_words(op: Op) -> str:
    addresses = " or ".join(map(format_sockaddr, split_sockaddrs(op.data) or ()))
    if op.b == SocketKind.DATAGRAM:
        return f"slot {op.a}: datagrams to and from {addresses}"
    return f"slot {op.a}: connect to {addresses} within {op.c / 1000:g} s"


_DESCRIBE: Final[dict[OpCode, Callable[[Op], str]]] = {
    OpCode.STATUS: lambda op: f"write {StatusFormat(op.b).name.lower()} to descriptor {op.a}" + _told_words(op.c),
    OpCode.DIE_WITH_PARENT: lambda op: f"end when process {op.a} ends",
    OpCode.TRACE: lambda op: f"tell each {' and '.join(_trace_words(op.a))} on standard error",
    OpCode.PROTOCOL: lambda op: f"{op.label}: {' '.join(_text(op.data).split(chr(0))).strip()}",
    OpCode.GATE: lambda op: "report what goes along" if op.a else "close at every exec what is not declared or named",
    OpCode.TIMEOUT: lambda op: f"end everything after {op.a / 1000:g} s",
    OpCode.TERMINAL: lambda op: _TERMINAL_WORDS[Terminal(op.a)],
    OpCode.CGROUP: lambda op: f"a cgroup of its own below {_text(op.data)!r}, removed at the end",
    OpCode.CGROUP_SET: lambda op: " = ".join(_text(op.data).split(chr(0))[:2]),
    OpCode.NAMESPACE: lambda op: f"{op.label}: of its own",
    OpCode.IDENTITY: lambda op: f"user {op.a}, group {op.b}, no other groups",
    OpCode.HOSTNAME: lambda op: repr(_text(op.data)),
    OpCode.LOOPBACK: lambda _: "lo is up",
    OpCode.ROOT: lambda _: "an empty root",
    OpCode.MOUNT: _mount_words,
    OpCode.ENTER: lambda _: "make it the root, read-only; the host's tree is gone",
    OpCode.CAPABILITIES: lambda _: "none, now and at any exec",
    OpCode.RESET: lambda _: "own session keyring; default personality and timer slack; no real-time priority",
    OpCode.RLIMIT: lambda op: f"{RLIMIT_NAMES.get(op.a, str(op.a))} at most {op.b | op.c << 32}",
    OpCode.SCHEDULING: lambda op: f"policy {op.a}, niceness {int(op.b) - 20}",
    OpCode.AFFINITY: lambda op: f"processors {_text(op.data)}",
    OpCode.OOM_SCORE: lambda op: f"oom_score_adj {int(op.a) - 1000}",
    OpCode.ALLOW_LIST: lambda _: "the supervisor makes sockets, and connects and binds them by these rules",
    OpCode.NET_RULE: _rule_words,
    OpCode.NETNS: lambda op: f"join {op.label}" + (f", and keep {op.b} open to the end" if op.b else ""),
    OpCode.TEXT_FILE: lambda op: f"a text of {len(op.data.split(bytes(1))[1])} bytes at {op.label!r}",
    OpCode.MANAGER: lambda op: f"a socket at {_text(op.data)!r}; the supervisor hands on what tells how the service is",
    OpCode.STORE: lambda op: f"the manager may be given, as {_text(op.data)!r}, one of: {_types(op.a)}",
    OpCode.NOTIFY: lambda op: f"ask the supervisor by {len(op.data) // 8} instructions",
    OpCode.RULESET: lambda op: f"Landlock handles file rights {op.a | op.b << 32:#x}, net and scopes {op.c:#x}",
    OpCode.PATH_RULE: lambda op: (
        f"{_text(op.data)!r}: file rights {op.a | op.b << 32:#x}"
        + (("", ", if it is there", ", as far as it has them", "")[op.flags])
    ),
    OpCode.PORT_RULE: lambda op: f"TCP port {op.b}: rights {op.a:#x}",
    OpCode.RESTRICT: lambda _: "the ruleset holds from here on",
    OpCode.STDIO: lambda op: f"0, 1, 2 exist and are each one of: {_types(op.a)}" + _stream_words(op),
    OpCode.INHERIT: lambda op: f"slot {op.a}: the caller's {op.b}, if it is one of: {_types(op.c)}{_access_word(op)}",
    OpCode.FILE: lambda op: f"slot {op.a}: open {_text(op.data)!r} for {_open_words(op)}",
    OpCode.SECRET_FILE: lambda op: f"slot {op.a}: copy {_text(op.data)!r} into a sealed memfd",
    OpCode.SECRET_ENV: lambda op: f"slot {op.a}: copy variable {_text(op.data)} into a sealed memfd",
    OpCode.DIRECTORY: lambda op: f"slot {op.a}: open folder {_text(op.data)!r}, r{_rights_letters(op)}",
    OpCode.DATA: lambda op: (
        f"slot {op.a}: copy {_text(op.data)!r}, at most {op.b} bytes, into a sealed memfd"
        if op.flags
        else f"slot {op.a}: a sealed memfd with a text of {len(op.data)} bytes"
    ),
    OpCode.SCRATCH: lambda op: f"slot {op.a}: an empty file in memory that grows to {op.b} KiB",
    OpCode.SOCKET_OWNER: lambda op: f"slot {op.a}: its file belongs to user {op.b}, group {op.c}",
    OpCode.LISTEN: _listen_words,
    OpCode.CONNECT: _connect_words,
    OpCode.PLACE: lambda op: f"slot {op.a} becomes descriptor {op.b}" + (", at every exec" if op.flags else ""),
    OpCode.SWEEP: lambda _: "close every descriptor but 0, 1, 2 and the placed ones",
    OpCode.VERIFY: lambda _: "read the table back and compare it with this plan",
    OpCode.SIGNALS: lambda _: "default dispositions, nothing blocked",
    OpCode.UMASK: lambda op: f"{op.a:03o}",
    OpCode.CHDIR: lambda op: repr(_text(op.data)),
    OpCode.ENV_KEEP: lambda op: f"keep {_text(op.data)}",
    OpCode.ENV_SET: lambda op: f"set {_text(op.data)}",
    OpCode.ENV_DROP: lambda op: f"drop {_text(op.data)}, whatever keeps it",
    OpCode.ENV_PID: lambda op: f"set {_text(op.data)} to the command's process ID, as it sees that itself",
    OpCode.NO_NEW_PRIVS: lambda _: "set; set-uid files and file capabilities give nothing",
    OpCode.EXEC_ONCE: lambda _: "the command itself, and no program after it",
    OpCode.FILTER: lambda op: f"load {len(op.data) // 8} instructions",
    OpCode.COMMAND: lambda op: f"try {_text(op.data)!r}",
    OpCode.EXEC: lambda op: f"with arguments {_arguments(op)}",
}


def _trace_words(flags: int) -> list[str]:
    return ["exec"] * bool(flags & Trace.EXECS) + ["network call"] * bool(flags & Trace.NETWORK)
