"""The plan: the straight-line program that the native launcher carries out, as a frozen value.

An op's fields are those of its record in the byte format (docs/plan-format.md); the constructors below give them
names. sandbox/launcher/ops.def is the other side of the table; a test holds both together.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Final

from sandbox.grants import Access, FdType
from sandbox.protocols import ProtocolRule
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
_OPEN_FLAGS: Final = {
    Access.READ: os.O_RDONLY,
    Access.WRITE: os.O_WRONLY,
    Access.APPEND: os.O_WRONLY | os.O_APPEND,
    Access.READ_WRITE: os.O_RDWR,
}
_ACCESS_CODES: Final[dict[Access | None, int]] = {None: 0} | {access: i + 1 for i, access in enumerate(Access)}


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


class StatusFormat(enum.IntEnum):
    """How the status descriptor is written: fixed records for programs, JSON lines for people's tools."""

    RECORDS = 1
    JSON = 2


@dataclass(frozen=True, slots=True)
class Op:
    """One op. `label` and `hint` are the object and the advice of a failure message."""

    code: OpCode
    a: int = 0
    b: int = 0
    c: int = 0
    flags: int = 0
    data: bytes = b""
    label: str = ""
    hint: str = ""

    @property
    def step(self) -> str:
        """The step that a failure of this op names."""
        return RULES[self.code].step

    @property
    def kind(self) -> Data:
        """What the op's data is."""
        return RULES[self.code].data

    @property
    def fields(self) -> tuple[int, int, int, int]:
        """The numbers, in the order of a record's."""
        return self.flags, self.a, self.b, self.c

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
    access = next(access for access, flags in _OPEN_FLAGS.items() if flags == op.b & (os.O_ACCMODE | os.O_APPEND))
    flags = [word for word, bit in (("create", os.O_CREAT), ("truncate", os.O_TRUNC)) if op.b & bit]
    relayed = ", relayed" if access is Access.APPEND and not op.flags & OPEN_RAW else ""
    return ", ".join([str(access), *flags]) + _raw_word(op) + relayed


def _raw_word(op: Op) -> str:
    return ", raw" if op.flags & OPEN_RAW else ""


def _arguments(op: Op) -> str:
    return " ".join(repr(_text(argument)) for argument in op.data.split(b"\0")[:-1])


def _access_word(op: Op) -> str:
    code = op.flags & ACCESS_BITS
    access = next((f", {access}" for access, known in _ACCESS_CODES.items() if access and known == code), "")
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


def status(fd: int, form: StatusFormat, told: Trace | int = 0) -> Op:
    """Write records of the run, and of what is `told`, to the caller's descriptor `fd`; the launcher takes it over."""
    hint = "give a descriptor that is open"
    return Op(OpCode.STATUS, a=fd, b=form, c=int(told), label=f"status descriptor {fd}", hint=hint)


def die_with_parent(pid: int) -> Op:
    """End the sandbox when process `pid`, the launcher's parent, ends."""
    return Op(OpCode.DIE_WITH_PARENT, a=pid, label=f"process {pid}")


def trace(told: Trace = Trace.EXECS) -> Op:
    """Tell what happens on standard error, for people."""
    return Op(OpCode.TRACE, a=int(told), label="standard error")


def protocol(name: str, rule: ProtocolRule) -> Op:
    """Let what an exec names by this rule of protocol `name` go along."""
    first = rule.variable or rule.program
    data = b"".join(os.fsencode(text) + b"\0" for text in (first, rule.needle))
    fixed = sum(1 << number for number in set(rule.numbers))
    return Op(OpCode.PROTOCOL, a=rule.place, b=rule.shape, c=fixed, flags=rule.anywhere, data=data, label=name)


def gate(*, observe: bool = False) -> Op:
    """Put every later exec under the supervisor's eyes; observe: only report what goes along."""
    hint = (
        "the kernel must be 5.19 or newer; inside another sandbox no second gate is possible:"
        ' take a profile with process.exec = "once" there, as sealed is'
    )
    return Op(OpCode.GATE, a=int(observe), label="exec gate", hint=hint)


_OUTER: Final = "an outer container or sandbox must allow it (of ours, the profile nested does)"
# What an unprivileged user namespace is kept from doing within itself, although it could be made.
_RESTRICTED: Final = (
    "the host restricts user namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns), or an outer sandbox does"
)
_USER_HINT: Final = (
    "let the user have user namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone,"
    " kernel.apparmor_restrict_unprivileged_userns (root: CAP_SETFCAP), no chroot;"
    f" {_OUTER}; or run as root and share it"
)
# namespaces(7), /proc/sys/user: one setting for each kind.
_SETTINGS: Final = {
    Namespace.MOUNT: "mnt", Namespace.PID: "pid", Namespace.IPC: "ipc", Namespace.UTS: "uts",
    Namespace.CGROUP: "cgroup", Namespace.NETWORK: "net",
}  # fmt: skip


def _namespace_hint(own: Namespace) -> str:
    if own is Namespace.USER:
        return _USER_HINT
    without = "network mode host" if own is Namespace.NETWORK else "share it"
    return (
        f"sysctl user.max_{_SETTINGS[own]}_namespaces must leave one more, kernel.apparmor_restrict_unprivileged_userns"
        f" must be 0; {_OUTER}; or {without}"
    )


_MOUNT_HINTS: Final = {
    MountKind.BIND: "check the path and who may open it",
    MountKind.TMPFS: "it takes a folder, and none is made in what the view shows of the host: make it first",
    MountKind.COPY: "check the path and who may open it; a - before it skips what is not there",
    MountKind.HIDE: "check the path; a - before it skips what is not there",
    # mount_too_revealing() of fs/namespace.c.
    MountKind.PROC: "a container that covers parts of /proc lets no new one be mounted: have it show all of it there",
}


def timeout(milliseconds: int) -> Op:
    """End everything, and the launcher with code 124, after so long."""
    return Op(OpCode.TIMEOUT, a=milliseconds, label=f"{milliseconds / 1000:g} s")


def terminal(mode: Terminal) -> Op:
    """Say what the child has for a terminal."""
    hint = "the launcher needs /dev/ptmx for a private one" if mode is Terminal.PRIVATE else ""
    return Op(OpCode.TERMINAL, a=mode, label="terminal", hint=hint)


def cgroup(parent: str) -> Op:
    """Put the sandbox into a new cgroup below `parent`, a folder of version 2 that the user may change."""
    hint = "have one delegated (systemd-run --user --scope -p Delegate=yes), or leave the limit to rlimits"
    return Op(OpCode.CGROUP, data=os.fsencode(parent), label=parent, hint=hint)


def cgroup_set(file: str, value: str) -> Op:
    """Write a value into a file of the new cgroup."""
    data = os.fsencode(file) + b"\0" + os.fsencode(value) + b"\0"
    return Op(OpCode.CGROUP_SET, data=data, label=f"{file} {value}", hint="the cgroup must have that controller")


def namespace(own: Namespace) -> Op:
    """Give the sandbox one namespace of its own; user (Linux 3.8) lets anyone have the others."""
    return Op(OpCode.NAMESPACE, a=int(own), label=(own.name or "").lower(), hint=_namespace_hint(own))


def identity(uid: int, gid: int) -> Op:
    """Become another user, without supplementary groups; needs root."""
    return Op(OpCode.IDENTITY, a=uid, b=gid, label=f"user {uid}, group {gid}", hint="only root can change the user")


def hostname(name: str) -> Op:
    """Name the host in the sandbox."""
    hint = f"{_RESTRICTED}; or share uts"
    return Op(OpCode.HOSTNAME, data=os.fsencode(name), label=name, hint=hint)


def loopback() -> Op:
    """Bring the loopback interface up."""
    return Op(OpCode.LOOPBACK, label="lo", hint=f"{_RESTRICTED}; or network mode none")


def root() -> Op:
    """Begin an empty view."""
    return Op(OpCode.ROOT, label="root", hint=_RESTRICTED)


def mount(kind: MountKind, path: str, flags: MountFlag | int = 0, *, mode: int = 0, size: int = 0) -> Op:
    """Put something into the view at `path`; parents come before what lies in them. size: of a tmpfs, in KiB.

    mode: of a tmpfs' root.
    """
    hint = _MOUNT_HINTS.get(kind, "")
    return Op(
        OpCode.MOUNT, a=kind, b=mode, c=size, flags=int(flags), data=os.fsencode(path), label=path, hint=hint
    )  # fmt: skip


def enter() -> Op:
    """Make the view the root of everything."""
    return Op(OpCode.ENTER, label="root", hint=_RESTRICTED)


def allow_list(flags: ListFlag | int) -> Op:
    """Have the supervisor make the sockets, and connect and bind them. Kernel: 5.14, SECCOMP_ADDFD_FLAG_SEND."""
    hint = "inside another sandbox that has a supervisor no second one is possible"
    return Op(OpCode.ALLOW_LIST, a=int(flags), label="network", hint=hint)


def net_rule(address: bytes, prefix: int, ports: tuple[int, int], label: str, flags: NetFlag | int = 0) -> Op:
    """Allow, or deny, a network's ports. address: one struct sockaddr; prefix: the bits of it that count."""
    return Op(OpCode.NET_RULE, a=prefix, b=ports[0], c=ports[1], flags=int(flags), data=address, label=label)


def netns(namespace: int, keeper: int, label: str) -> Op:
    """Be in the network of descriptor `namespace`, and keep another open as long as the sandbox lives; 0: none.

    Kernel: 3.0, setns(2).
    """
    hint = "it takes root, and CAP_SYS_ADMIN"
    return Op(OpCode.NETNS, a=namespace, b=keeper, label=label, hint=hint)


def text_file(path: str, text: str) -> Op:
    """Show a text as a file at `path`, whatever the view has there."""
    data = os.fsencode(path) + b"\0" + os.fsencode(text) + b"\0"
    return Op(OpCode.TEXT_FILE, data=data, label=path, hint="the host must have a file there")


def manager(path: str) -> Op:
    """Put a socket at `path`, of which the supervisor hands on to the caller's there what tells how the service is."""
    hint = "is the service manager there? start it without NOTIFY_SOCKET, or leave notify out"
    return Op(OpCode.MANAGER, data=os.fsencode(path), label="NOTIFY_SOCKET", hint=hint)


def store(name: str, types: Collection[FdType], label: str) -> Op:
    """Let the manager be given a descriptor to keep under a name, if it is of one of the types."""
    return Op(OpCode.STORE, a=mask_of(types), data=os.fsencode(name), label=label)


def notify_program(program: bytes) -> Op:
    """Ask the supervisor of the calls for which this program says so; it stands behind the exec gate's."""
    return Op(OpCode.NOTIFY, data=program, label=f"{len(program) // 8} instructions")


def capabilities() -> Op:
    """Drop every capability, and the ways to get one back."""
    return Op(OpCode.CAPABILITIES, label="capabilities")


def reset() -> Op:
    """Take back what survives exec besides descriptors: keyring, personality, timer slack, priorities."""
    return Op(OpCode.RESET, label="process attributes")


def rlimit(resource: int, value: int) -> Op:
    """Set a resource limit, soft and hard."""
    label = f"{RLIMIT_NAMES.get(resource, resource)} {value}"
    hint = "the caller's hard limit is lower"
    return Op(OpCode.RLIMIT, a=resource, b=value & 0xFFFFFFFF, c=value >> 32, label=label, hint=hint)


def scheduling(policy: int, nice: int) -> Op:
    """Set the scheduling policy (0 other, 3 batch, 5 idle) and niceness (-20 to 19)."""
    label, hint = (
        f"policy {policy}, niceness {nice}",
        "a sandbox has no right to raise a priority: start it with nice instead",
    )
    return Op(OpCode.SCHEDULING, a=policy, b=nice + 20, label=label, hint=hint)


def affinity(processors: str) -> Op:
    """Set the processors: a list of numbers and ranges such as 0-3,8."""
    return Op(OpCode.AFFINITY, data=os.fsencode(processors), label=processors, hint="none of these is there")


def oom_score(score: int) -> Op:
    """Set oom_score_adj, -1000 to 1000."""
    return Op(OpCode.OOM_SCORE, a=score + 1000, label=str(score), hint="only root can lower it")


def ruleset(file_rights: int, net_rights: int, scopes: int) -> Op:
    """Begin a Landlock ruleset that handles these rights. Kernel: 5.13; net 6.7, scopes 6.12."""
    return Op(
        OpCode.RULESET, a=file_rights & 0xFFFFFFFF, b=file_rights >> 32, c=net_rights | scopes << 16, label="ruleset",
        hint="the kernel needs Landlock (CONFIG_SECURITY_LANDLOCK, lsm=landlock) of that ABI",
    )  # fmt: skip


def path_rule(path: str, rights: int, *, optional: bool = False) -> Op:
    """Allow rights below a path."""
    return Op(
        OpCode.PATH_RULE, a=rights & 0xFFFFFFFF, b=rights >> 32, flags=int(optional), data=os.fsencode(path),
        label=path, hint="check the path and who may open it",
    )  # fmt: skip


def descriptor_rule(number: int, rights: int) -> Op:
    """Allow what a descriptor of the command's own refers to to be opened anew, with the rights that it has itself."""
    return Op(
        OpCode.PATH_RULE, a=rights & 0xFFFFFFFF, b=rights >> 32, c=number, flags=2,
        data=os.fsencode(f"/proc/self/fd/{number}"), label=f"descriptor {number}", hint="is /proc in the view?",
    )  # fmt: skip


def folder_rule(number: int, rights: int) -> Op:
    """Allow rights below the folder that a descriptor of the command's own stands for."""
    return replace(descriptor_rule(number, rights), flags=3)


def port_rule(port: int, rights: int) -> Op:
    """Allow rights on a TCP port."""
    return Op(OpCode.PORT_RULE, a=rights, b=port, label=f"TCP port {port}")


def restrict() -> Op:
    """Enforce the ruleset."""
    return Op(OpCode.RESTRICT, label="ruleset")


class Streams(enum.IntEnum):
    """What becomes of 0, 1 and 2 (relay.h, enum streams).

    raw: they are the caller's. safe: a file that is read is opened anew, one that is written is relayed. relay: all but
    terminals and /dev/null.
    """

    RAW = 0
    SAFE = 1
    RELAY = 2


def stdio(types: Collection[FdType], streams: Streams = Streams.RAW, limit: int = 0) -> Op:
    """Refuse standard streams that are of none of `types`; limit: bytes of output on each, 0 for none."""
    hint = "redirect it from or to a file, a pipe, a connected socket or a terminal"
    return Op(
        OpCode.STDIO, a=mask_of(types), b=limit & 0xFFFFFFFF, c=limit >> 32, flags=streams,
        label="standard stream", hint=hint,
    )  # fmt: skip


def mask_of(types: Collection[FdType]) -> int:
    """Return the type mask of some types."""
    return sum(fd_type.bit for fd_type in set(types))


def inherit(
    slot: int, fd: int, types: frozenset[FdType], access: Access | None, label: str, *,
    raw: bool = False, relay: bool = False,
) -> Op:  # fmt: skip
    """Take the caller's descriptor `fd` if it is of one of the types and has exactly the access.

    A regular file is opened anew by its path, through a mount of its own, and relayed if it is open for appending only;
    raw: it is taken as it is. relay: the supervisor copies, one way, which the access says of what is open both ways.
    """
    hint = "open it in the caller, or declare its type and access as they are"
    flags = _ACCESS_CODES[access] | (OPEN_RAW if raw else 0) | (OPEN_RELAY if relay else 0)
    return Op(OpCode.INHERIT, a=slot, b=fd, c=mask_of(types), flags=flags, label=label, hint=hint)


def file(slot: int, path: str, access: Access, *, create: bool, truncate: bool, label: str, raw: bool = False) -> Op:
    """Open a regular file once; through a mount of its own, and to append relayed, unless it is raw.

    Kernel: 5.12, mount_setattr(2).
    """
    flags = _OPEN_FLAGS[access] | (os.O_CREAT if create else 0) | (os.O_TRUNC if truncate else 0)
    hint = "check the path and who may open it" + ("" if create or access is Access.READ else ", or add create")
    return Op(
        OpCode.FILE, a=slot, b=flags, c=0o666 if create else 0, flags=OPEN_RAW if raw else 0,
        data=os.fsencode(path), label=label, hint=hint,
    )  # fmt: skip


def directory(slot: int, path: str, *, write: bool, execute: bool, label: str) -> Op:
    """Open a folder through a mount of its own, which no `..` leaves."""
    flags = (MountFlag.WRITE if write else MountFlag(0)) | (MountFlag.EXECUTE if execute else MountFlag(0))
    hint = "check the path and who may open it"
    return Op(OpCode.DIRECTORY, a=slot, flags=int(flags), data=os.fsencode(path), label=label, hint=hint)


def secret_file(slot: int, path: str, label: str) -> Op:
    """Copy a file into a sealed memfd."""
    hint = "check the path and who may read it"
    return Op(OpCode.SECRET_FILE, a=slot, data=os.fsencode(path), label=label, hint=hint)


def secret_env(slot: int, variable: str, label: str) -> Op:
    """Copy a variable of the caller's environment into a sealed memfd."""
    hint = "set the variable for the caller"
    return Op(OpCode.SECRET_ENV, a=slot, data=os.fsencode(variable), label=label, hint=hint)


def listen(
    slot: int, address: bytes, label: str, *, backlog: int, flags: ListenFlag | int = 0, mode: int = 0
) -> Op:  # fmt: skip
    """Bind a socket, and listen if it takes connections. address: a struct sockaddr."""
    hint = "somebody has that address, or this host has not, or ports below 1024 are for root"
    if address[:2] == _UNIX:
        hint = "check the path, who may make a file there, and who listens there"
    return Op(
        OpCode.LISTEN, a=slot, b=mode, c=backlog, flags=int(flags), data=address, label=label, hint=hint
    )  # fmt: skip


_UNIX: Final = b"\x01\0"


def socket_owner(slot: int, uid: int, gid: int, label: str) -> Op:
    """Give the file of the slot's LISTEN op to a user and group."""
    return Op(OpCode.SOCKET_OWNER, a=slot, b=uid, c=gid, label=label)


def connect(slot: int, addresses: bytes, label: str, *, kind: SocketKind, milliseconds: int = 0) -> Op:
    """Connect a socket to the first address that answers. addresses: one struct sockaddr behind the other."""
    hint = "is the service there, and may the user reach it?"
    return Op(
        OpCode.CONNECT, a=slot, b=kind, c=milliseconds, data=addresses, label=label, hint=hint
    )  # fmt: skip


def data_text(slot: int, text: str, label: str) -> Op:
    """Put a text into a sealed memfd that is open for reading. Kernel: 3.17, memfd_create(2)."""
    return Op(OpCode.DATA, a=slot, data=os.fsencode(text), label=label)


def data_file(slot: int, path: str, most: int, label: str) -> Op:
    """Copy a file of at most `most` bytes into a sealed memfd that is open for reading."""
    hint = f"check the path and who may read it; at most {most >> 20} MiB are copied, a file grant gives any size"
    return Op(OpCode.DATA, a=slot, b=most, flags=DATA_FILE, data=os.fsencode(path), label=label, hint=hint)


def scratch(slot: int, size: int, label: str) -> Op:
    """Make an empty file in memory that grows to `size` bytes, in whole KiB, and no further. Kernel: 5.2, fsopen(2)."""
    hint = "the host must let a user namespace mount a tmpfs"
    return Op(OpCode.SCRATCH, a=slot, b=-(-size // 1024), label=label, hint=hint)


def place(slot: int, number: int, label: str, *, propagate: bool = False) -> Op:
    """Put a slot's descriptor at its number in the child; propagate: it passes at every exec."""
    hint = "choose a lower number, or raise the hard limit of open files"
    return Op(OpCode.PLACE, a=slot, b=number, flags=int(propagate), label=label, hint=hint)


def sweep() -> Op:
    """Close everything that is not declared."""
    hint = "the kernel must be 5.9 or newer, and no outer filter may refuse it"
    return Op(OpCode.SWEEP, label="close_range", hint=hint)


def verify() -> Op:
    """Read the descriptor table back and compare it."""
    return Op(OpCode.VERIFY, label="/proc/self/fd", hint="the launcher needs a readable /proc")


def signals() -> Op:
    """Default dispositions and an empty mask."""
    return Op(OpCode.SIGNALS, label="signal mask")


def umask(mask: int) -> Op:
    """Set the file mode creation mask."""
    return Op(OpCode.UMASK, a=mask, label=f"{mask:03o}")


def chdir(path: str) -> Op:
    """Change the working directory."""
    return Op(OpCode.CHDIR, data=os.fsencode(path), label=path, hint="the folder must exist and be open to the user")


def env_keep(pattern: str) -> Op:
    """Keep the caller's variables of that name, or of names with that start when it ends in '*'."""
    return Op(OpCode.ENV_KEEP, data=os.fsencode(pattern), label=pattern)


def env_set(name: str, value: str) -> Op:
    """Set a variable."""
    return Op(OpCode.ENV_SET, data=os.fsencode(f"{name}={value}"), label=name)


def env_drop(name: str) -> Op:
    """Keep a variable of the caller's from the child, whatever keeps it."""
    return Op(OpCode.ENV_DROP, data=os.fsencode(name), label=name)


def env_pid(name: str) -> Op:
    """Set a variable to the command's process ID, in its own PID namespace."""
    return Op(OpCode.ENV_PID, data=os.fsencode(name), label=name)


def no_new_privs() -> Op:
    """No privilege by exec from here on."""
    return Op(OpCode.NO_NEW_PRIVS, label="prctl")


def exec_once() -> Op:
    """Refuse every exec after the command's own."""
    return Op(OpCode.EXEC_ONCE, label="filter")


def filter_program(program: bytes) -> Op:
    """Load a filter: struct sock_filter records."""
    hint = "the kernel must have CONFIG_SECCOMP_FILTER"
    return Op(OpCode.FILTER, data=program, label=f"{len(program) // 8} instructions", hint=hint)


def command(path: str, name: str) -> Op:
    """Try to execute `path`."""
    return Op(OpCode.COMMAND, data=os.fsencode(path), label=name, hint="is it an executable file for this machine?")


def execute(arguments: Collection[str], name: str) -> Op:
    """Fail: none of the candidates could be executed; carries the arguments for all of them."""
    data = b"".join(os.fsencode(argument) + b"\0" for argument in arguments)
    hint = "check the name and PATH, or show it: --execute PATH"
    return Op(OpCode.EXEC, a=len(arguments), data=data, label=name, hint=hint)
