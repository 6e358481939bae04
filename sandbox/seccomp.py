"""The filter: what a policy decides for each call (`decide`), and the BPF programs that make the kernel decide so.

The only importer of pyseccomp. A rule is the AND of its conditions, a filter the OR of its rules.

Two programs are made, to be loaded one after the other, since libseccomp cannot express "allowed unless (argument &
mask) == value" in a filter whose default is to refuse; the kernel takes the more restrictive answer of the two:

1. argument rules: everything passes except what a rule names (EPERM);
2. allow-list: what is allowed passes, known syscalls that are not get EPERM, unknown numbers ENOSYS.

Arguments are 64 bits wide for a filter while the kernel looks at the low 32 bits of a descriptor, command or flag
word, so every condition masks the upper half away.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from typing import Any, Final, TypeAlias

from sandbox import bpf
from sandbox.errors import InternalError, PlanError, UnsupportedError, UsageError
from sandbox.plan import GATE_LENGTH
from sandbox.sockets import Protocol
from sandbox.syscall_table import NAMES, NUMBERS
from sandbox.syscalls import ENOSYS_ALWAYS, GROUPS

LOW32: Final = 0xFFFFFFFF
# x32 calls have bit 30 of the number set (__X32_SYSCALL_BIT, asm/unistd.h). libseccomp refuses every number from there
# up, not only those with the bit; none of them is a native call, so this is the rule here too. -1 is nobody's number:
# the kernel uses it for a call that a tracer has cancelled.
X32_FIRST: Final = 0x40000000
NO_SYSCALL: Final = 0xFFFFFFFF

F_SETFD: Final = 2  # linux/fcntl.h
FD_CLOEXEC: Final = 1
F_DUPFD: Final = 0
LAST_STREAM: Final = 2
AF_UNIX: Final = 1  # linux/socket.h
FAMILIES: Final = {"AF_UNIX": AF_UNIX, "AF_INET": 2, "AF_INET6": 10}
"""What sockets may be of. The others reach what no network namespace holds (AF_VSOCK: the host of a virtual machine),
configure the kernel (AF_NETLINK), are raw (AF_PACKET), or code that ordinary programs do without (AF_ALG and 40 more).
Without AF_NETLINK the C library takes it that there are addresses of both versions (getaddrinfo(3)).
"""
HIDDEN_TCP: Final = {"IPPROTO_SMC": 256, "IPPROTO_MPTCP": 262}  # linux/in.h
"""TCP by other names, which Landlock's rules on ports do not see (landlock(7)); programs fall back to TCP."""
PRCTL_REFUSED: Final = {  # linux/prctl.h
    "PR_SET_MM": 35,  # what /proc tells of the program, and with it the exec gate
    "PR_SET_PTRACER": 0x59616D61,  # lets others trace it where Yama would not
}
PER_LINUX32: Final = 0x0008  # linux/personality.h: uname(2) says i686
ASK_PERSONALITY: Final = LOW32
O_CLOEXEC: Final = 0o2000000  # asm-generic/fcntl.h; the SOCK_, EFD_, SFD_, TFD_, IN_ and EPOLL_ flags are the same bit
CREATES: Final = {  # syscall -> the argument that holds its close-on-exec flag, and the flag
    "open": (1, O_CLOEXEC),
    "openat": (2, O_CLOEXEC),
    "socket": (1, O_CLOEXEC),
    "socketpair": (1, O_CLOEXEC),
    "accept4": (3, O_CLOEXEC),
    "pipe2": (1, O_CLOEXEC),
    "eventfd2": (1, O_CLOEXEC),
    "epoll_create1": (0, O_CLOEXEC),
    "signalfd4": (3, O_CLOEXEC),
    "timerfd_create": (1, O_CLOEXEC),
    "inotify_init1": (0, O_CLOEXEC),
    "open_by_handle_at": (2, O_CLOEXEC),
    "open_tree": (2, O_CLOEXEC),  # OPEN_TREE_CLOEXEC, linux/mount.h
    "open_tree_attr": (2, O_CLOEXEC),
    "memfd_secret": (0, O_CLOEXEC),
    "userfaultfd": (0, O_CLOEXEC),
    "memfd_create": (1, 1),  # MFD_CLOEXEC, linux/memfd.h
    "fanotify_init": (0, 1),  # FAN_CLOEXEC, linux/fanotify.h
    "fsopen": (1, 1),  # FSOPEN_CLOEXEC, linux/mount.h
    "fsmount": (1, 1),  # FSMOUNT_CLOEXEC
    "fspick": (2, 1),  # FSPICK_CLOEXEC
    "perf_event_open": (4, 8),  # PERF_FLAG_FD_CLOEXEC, linux/perf_event.h
    "recvmsg": (2, 0x40000000),  # MSG_CMSG_CLOEXEC, linux/socket.h
    "recvmmsg": (3, 0x40000000),
}
"""Calls that create a descriptor and take a close-on-exec flag; `strict` demands it."""
CREATES_OPEN: Final = frozenset(
    {"creat", "dup", "pipe", "accept", "eventfd", "epoll_create", "signalfd", "inotify_init"}
)
"""Calls that create a descriptor and cannot mark it; `strict` refuses them, the C library has the newer forms."""
FIONCLEX: Final = 0x5450  # asm-generic/ioctls.h
TIOCSCTTY: Final = 0x540E
TERMINAL_COMMANDS: Final = {  # ioctl commands as (mask, value); asm-generic/ioctls.h, linux/kd.h, linux/vt.h
    "TIOCSTI": (LOW32, 0x5412),  # types
    "TIOCLINUX": (LOW32, 0x541C),  # pastes; reads the screen
    "TIOCCONS": (LOW32, 0x541D),  # takes the kernel's messages
    "TIOCEXCL": (LOW32, 0x540C),  # nobody else can open it, from then on
    "TIOCSETD": (LOW32, 0x5423),  # another line discipline: a module is loaded, a network interface appears
    "KD*": (0xFFFFFF00, 0x4B00),  # key map, keyboard and screen mode, font of a virtual console
    "VT_*": (0xFFFFFF00, 0x5600),  # switches and locks virtual consoles
}
"""What a terminal can be told that reaches beyond the program that tells it: refused on every descriptor.

TIOCSCTTY is not among them: the kernel gives a terminal that has a session away to nobody (but to CAP_SYS_ADMIN if the
argument is 1, which is refused as well), and programs that open pseudo-terminals of their own need it. Neither is
TIOCSPGRP: it works on the controlling terminal of the own session only.
"""
SET_ID_BITS: Final = (0o4000, 0o2000)  # S_ISUID, S_ISGID; linux/stat.h
MODES: Final = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2, "creat": 1, "mknod": 1, "mknodat": 2}
"""Calls that give a file its mode -> the argument that holds it. A file that is made in a writable folder is the user's
own: with a set-uid bit, whoever runs it afterwards is the user. (mkdir(2) leaves these bits out.)
"""
OPENS: Final = {"open": 1, "openat": 2}
"""Calls that make a file where their flags say so -> the argument that holds them; the mode is the next one."""
O_MAKES: Final = (0o100, 0o20000000)  # O_CREAT, __O_TMPFILE; asm-generic/fcntl.h
MSG_FASTOPEN: Final = 0x20000000  # linux/socket.h
SENDS: Final = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}
"""Calls that send -> the argument that holds their flags. MSG_FASTOPEN connects a TCP socket, past Landlock."""
REROUTES: Final = {  # setsockopt: level and option; linux/in.h, in6.h, asm-generic/socket.h
    "IP_OPTIONS": (0, 4),
    "IPV6_RTHDR": (41, 57),
    "IPV6_2292PKTOPTIONS": (41, 6),
    "IP_UNICAST_IF": (0, 50),
    "IPV6_UNICAST_IF": (41, 76),
    "IPV6_PKTINFO": (41, 50),
    "SO_BINDTODEVICE": (1, 25),
    "SO_BINDTOIFINDEX": (1, 62),
}
"""What sends a socket's packets by way of a host, or an interface, of the holder's choice, whatever its peer is."""
JOINS: Final = {  # setsockopt; linux/in.h, in6.h
    "IP_ADD_MEMBERSHIP": (0, 35),
    "IP_ADD_SOURCE_MEMBERSHIP": (0, 39),
    "IP_MCAST_JOIN_GROUP": (0, 42),
    "IP_MCAST_JOIN_SOURCE_GROUP": (0, 46),
    "IPV6_ADD_MEMBERSHIP": (41, 20),
    "IPV6_MCAST_JOIN_GROUP": (41, 42),
    "IPV6_MCAST_JOIN_SOURCE_GROUP": (41, 46),
}
"""What has the network told that this host listens to a group."""
TURNS: Final = REROUTES | JOINS
SOCK_DGRAM: Final = 2  # linux/net.h
TYPE_BITS: Final = 0xF  # SOCK_TYPE_MASK; above it are flags
CLONE_FILES: Final = 0x400  # linux/sched.h
CLONE_THREAD: Final = 0x10000
NAMES_ADDRESS: Final = ("connect", "sendmsg", "sendmmsg")
"""Calls that name an address behind a pointer; of sendto the size of the address is seen: none is named without one."""
SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 1 << 3  # linux/seccomp.h

# linux/sched.h. CLONE_NEWTIME (0x80) is missing on purpose: clone(2) takes its low eight bits as the signal to send at
# exit, so a time namespace can only be had from clone3 and unshare.
CLONE_NEW: Final = {
    "CLONE_NEWNS": 0x00020000,
    "CLONE_NEWCGROUP": 0x02000000,
    "CLONE_NEWUTS": 0x04000000,
    "CLONE_NEWIPC": 0x08000000,
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWNET": 0x40000000,
}


@dataclass(frozen=True, slots=True)
class Allow:
    """The call goes on."""


@dataclass(frozen=True, slots=True)
class Errno:
    """The call is not carried out and fails with this error number."""

    number: int


@dataclass(frozen=True, slots=True)
class Ask:
    """The supervisor answers."""


Verdict: TypeAlias = Allow | Errno | Ask
ALLOW: Final = Allow()
REFUSED: Final = Errno(errno.EPERM)
ASKED: Final = Ask()
ABSENT: Final = Errno(errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class FilterPolicy:
    """What a filter lets through: allowed syscalls, and reserved numbers that no call may overwrite.

    gated: close-on-exec may be cleared on numbers that are not reserved, since the exec gate decides anyway.
    strict: no call may create a descriptor without close-on-exec. unix_sockets: they may be made; with them descriptors
    can be sent, and a filter cannot look into a message. offline: no TCP Fast Open and no route of a socket's own.
    keeps_peers: no call names an address; keeps_listeners: no socket begins to listen (peers.py says why).
    supervised: the protocols whose sockets the supervisor makes; it is asked whenever a call names an address.
    Raises: UsageError for an unknown syscall, one of ENOSYS_ALWAYS, or a number that is no descriptor's.
    """

    allow: frozenset[str]
    reserved: tuple[int, ...] = ()
    gated: bool = False
    strict: bool = False
    unix_sockets: bool = True
    offline: bool = False
    keeps_peers: bool = False
    keeps_listeners: bool = False
    supervised: frozenset[Protocol] = frozenset()

    def __post_init__(self) -> None:
        """Refuse what could not be enforced."""
        for name in sorted(self.allow):
            if name not in NUMBERS or name in ENOSYS_ALWAYS:
                reason = ENOSYS_ALWAYS.get(name, "no such syscall")
                raise UsageError(f"filter: {name}", reason, "sandbox.syscalls.expand gives the right names")
        for number in self.reserved:
            if not 0 <= number < 2**31:
                raise UsageError(f"filter: reserved number {number}", "not a descriptor", "use 0 to 2147483647")


def decide(policy: FilterPolicy, arch: int, nr: int, args: Sequence[int]) -> Verdict:
    """Return what the policy says about a call: the reference that programs and kernel are held against.

    arch: AUDIT_ARCH_*. nr: the number, any 32 bits, signed or not. args: six values, any 64 bits.
    """
    nr &= LOW32
    if arch & LOW32 != bpf.AUDIT_ARCH_X86_64 or (nr >= X32_FIRST and nr != NO_SYSCALL):
        return REFUSED
    name = NAMES.get(nr)
    if name is None or name in ENOSYS_ALWAYS:
        return ABSENT
    if name not in policy.allow or _arguments_refused(policy, name, [arg & LOW32 for arg in args]):
        return REFUSED
    return ASKED if _is_asked(policy, name, [arg & LOW32 for arg in args]) else ALLOW


def _arguments_refused(policy: FilterPolicy, name: str, low: Sequence[int]) -> bool:
    match name:
        case _ if (policy.strict and _leaves_open(name, low)) or _turns_socket(policy, name, low):
            return True
        case _ if name in MODES:
            return any(low[MODES[name]] & bit for bit in SET_ID_BITS)
        case _ if name in OPENS:
            flags, mode = low[OPENS[name]], low[OPENS[name] + 1]
            return any(flags & makes for makes in O_MAKES) and any(mode & bit for bit in SET_ID_BITS)
        case "fcntl":
            return low[1] == F_SETFD and not low[2] & FD_CLOEXEC and _stays_marked(policy, low[0])
        case "ioctl":
            return _reaches_beyond(low) or (low[1] == FIONCLEX and _stays_marked(policy, low[0]))
        case "socket" | "socketpair":
            return low[0] in _other_families(policy, name, low[0]) or low[2] in HIDDEN_TCP.values()
        case "prctl":
            return low[0] in PRCTL_REFUSED.values()
        case "personality":
            return low[0] not in (0, PER_LINUX32, ASK_PERSONALITY)
        case "dup2" | "dup3":
            return low[1] in policy.reserved
        case "clone":
            return _shares_or_separates(policy, low[0])
        case "seccomp":
            return bool(low[1] & SECCOMP_FILTER_FLAG_NEW_LISTENER)
        case _:
            return False


def _is_asked(policy: FilterPolicy, name: str, low: Sequence[int]) -> bool:
    """Whether the supervisor carries a call out, or refuses it and tells so."""
    if not policy.supervised:
        return False
    datagrams = Protocol.UDP in policy.supervised
    match name:
        case "socket":
            internet = low[0] in (FAMILIES["AF_INET"], FAMILIES["AF_INET6"])
            return low[0] != AF_UNIX and not (internet and not datagrams and low[1] & TYPE_BITS == SOCK_DGRAM)
        case "connect" | "bind" | "listen":
            return True
        case "sendto":
            return bool(low[5])
        case "sendmsg" | "sendmmsg":
            return datagrams or bool(low[SENDS[name]] & MSG_FASTOPEN)
        case "setsockopt":
            return (low[1], low[2]) in TURNS.values()
        case _:
            return False


def _turns_socket(policy: FilterPolicy, name: str, low: Sequence[int]) -> bool:
    """Whether a call would lead a socket that somebody granted elsewhere."""
    if policy.offline and name in SENDS and low[SENDS[name]] & MSG_FASTOPEN:
        return True
    if policy.offline and name == "setsockopt" and (low[1], low[2]) in REROUTES.values():
        return True
    if policy.keeps_peers and (name in NAMES_ADDRESS or (name == "sendto" and low[5])):
        return True
    return policy.keeps_listeners and name == "listen"


def _shares_or_separates(policy: FilterPolicy, flags: int) -> bool:
    """Whether clone(2) would make a process that has its parent's descriptor table, or namespaces of its own."""
    if policy.supervised and flags & CLONE_FILES and not flags & CLONE_THREAD:
        return True
    return "unshare" not in policy.allow and any(flags & flag for flag in CLONE_NEW.values())


def _other_families(policy: FilterPolicy, name: str, family: int) -> frozenset[int]:
    """Return the family if sockets of it are refused here; where the supervisor is asked, it refuses and tells."""
    told = bool(policy.supervised) and name == "socket" and family != AF_UNIX
    return frozenset() if told or family in _families(policy) else frozenset({family})


def _families(policy: FilterPolicy) -> frozenset[int]:
    return frozenset(FAMILIES.values()) - (frozenset() if policy.unix_sockets else {AF_UNIX})


def _stays_marked(policy: FilterPolicy, number: int) -> bool:
    return not policy.gated or number in policy.reserved


def _reaches_beyond(low: Sequence[int]) -> bool:
    steals = low[1] == TIOCSCTTY and low[2] == 1
    return steals or any(low[1] & mask == value for mask, value in TERMINAL_COMMANDS.values())


def _leaves_open(name: str, low: Sequence[int]) -> bool:
    """Whether a creating call lacks its close-on-exec flag; `strict` refuses those."""
    if name == "fcntl":
        return low[1] == F_DUPFD
    if name in ("dup2", "dup3"):
        return low[1] > LAST_STREAM and not (name == "dup3" and low[2] & O_CLOEXEC)
    return name in CREATES_OPEN or (name in CREATES and not low[CREATES[name][0]] & CREATES[name][1])


def verdict_of(returned: int) -> Verdict:
    """Return the verdict that a filter's raw return stands for.

    Raises: InternalError for an action that our programs never return.
    """
    action, data = returned & bpf.ACTION_MASK, returned & bpf.DATA_MASK
    if action == bpf.RET_ALLOW:
        return ALLOW
    if action == bpf.RET_ERRNO:
        return Errno(data)
    if action == bpf.RET_USER_NOTIF:
        return ASKED
    raise InternalError("filter", f"unexpected action {returned:#x}")


@dataclass(frozen=True, slots=True)
class Condition:
    """Holds if (argument `arg` & mask) == value; arg counts from 0."""

    arg: int
    mask: int
    value: int


@dataclass(frozen=True, slots=True)
class Rule:
    """A call of `syscall` for which all conditions hold is refused with EPERM."""

    syscall: str
    conditions: tuple[Condition, ...]


def argument_rules(policy: FilterPolicy) -> tuple[Rule, ...]:
    """Return the rules of the first program."""
    return tuple(_argument_rules(policy))


def _argument_rules(policy: FilterPolicy) -> Iterator[Rule]:
    cleared = (Condition(1, LOW32, F_SETFD), Condition(2, FD_CLOEXEC, 0))
    blocks = tuple(_blocks(policy.reserved))
    marked = [(Condition(0, mask, value),) for mask, value in blocks] if policy.gated else [()]
    for number_is in marked:
        yield Rule("fcntl", (*number_is, *cleared))
        yield Rule("ioctl", (*number_is, Condition(1, LOW32, FIONCLEX)))
    for mask, command in TERMINAL_COMMANDS.values():
        yield Rule("ioctl", (Condition(1, mask, command),))
    yield Rule("ioctl", (Condition(1, LOW32, TIOCSCTTY), Condition(2, LOW32, 1)))
    yield from _socket_rules(policy)
    yield from _peer_rules(policy)
    yield from _set_id_rules()
    for option in PRCTL_REFUSED.values():
        yield Rule("prctl", (Condition(0, LOW32, option),))
    yield from _personality_rules()
    if policy.strict:
        yield from _strict_rules()
    for mask, value in blocks:
        yield Rule("dup2", (Condition(1, mask, value),))
        yield Rule("dup3", (Condition(1, mask, value),))
    if "unshare" not in policy.allow:
        for flag in CLONE_NEW.values():
            yield Rule("clone", (Condition(0, flag, flag),))
    if policy.supervised:
        # Whether a process has one thread says then whether somebody else can change its descriptors.
        yield Rule("clone", (Condition(0, CLONE_FILES | CLONE_THREAD, CLONE_FILES),))
    # Who holds a listener can put descriptors into the processes below it, on any number, without close-on-exec
    # (SECCOMP_IOCTL_NOTIF_ADDFD in seccomp_unotify(2)).
    flag = SECCOMP_FILTER_FLAG_NEW_LISTENER
    yield Rule("seccomp", (Condition(1, flag, flag),))


def _socket_rules(policy: FilterPolicy) -> Iterator[Rule]:
    others = _others(_families(policy))
    for name in ("socket", "socketpair"):
        # Where the supervisor is asked, it refuses other families and tells so; of AF_UNIX it is not asked.
        told = bool(policy.supervised) and name == "socket"
        unix = [] if policy.unix_sockets else [(LOW32, AF_UNIX)]
        for mask, value in unix if told else others:
            yield Rule(name, (Condition(0, mask, value),))
        for protocol in HIDDEN_TCP.values():
            yield Rule(name, (Condition(2, LOW32, protocol),))


def _others(families: frozenset[int]) -> list[tuple[int, int]]:
    """Return masks and values that together hold for every family but these."""
    low_bits = 4  # the families that are allowed are below 16
    others = [*_blocks(set(range(1 << low_bits)) - families)]
    return others + [(1 << bit, 1 << bit) for bit in range(low_bits, 32)]


def _peer_rules(policy: FilterPolicy) -> Iterator[Rule]:
    if policy.offline:
        for name, arg in SENDS.items():
            yield Rule(name, (Condition(arg, MSG_FASTOPEN, MSG_FASTOPEN),))
        for level, option in REROUTES.values():
            yield Rule("setsockopt", (Condition(1, LOW32, level), Condition(2, LOW32, option)))
    if policy.keeps_peers:
        for name in NAMES_ADDRESS:
            yield Rule(name, ())
        for bit in range(32):
            yield Rule("sendto", (Condition(5, 1 << bit, 1 << bit),))
    if policy.keeps_listeners:
        yield Rule("listen", ())


def asking_rules(policy: FilterPolicy) -> tuple[Rule, ...]:
    """Return the rules by which the supervisor is asked."""
    return tuple(_asking_rules(Protocol.UDP in policy.supervised)) if policy.supervised else ()


def _asking_rules(datagrams: bool) -> Iterator[Rule]:
    internet = (FAMILIES["AF_INET"], FAMILIES["AF_INET6"])
    streams = ((1, 1), (2, 0), (4, 4), (8, 8))  # some bit of the type is not as SOCK_DGRAM has it
    for mask, value in _others(frozenset({AF_UNIX, *internet})):
        yield Rule("socket", (Condition(0, mask, value),))
    for family in internet:
        for mask, value in ((0, 0),) if datagrams else streams:
            yield Rule("socket", (Condition(0, LOW32, family), Condition(1, mask, value)))
    yield from (Rule(name, ()) for name in ("connect", "bind", "listen"))
    yield from (Rule("sendto", (Condition(5, 1 << bit, 1 << bit),)) for bit in range(32))
    for name in ("sendmsg", "sendmmsg"):
        yield Rule(name, () if datagrams else (Condition(SENDS[name], MSG_FASTOPEN, MSG_FASTOPEN),))
    for level, option in TURNS.values():
        yield Rule("setsockopt", (Condition(1, LOW32, level), Condition(2, LOW32, option)))


def _set_id_rules() -> Iterator[Rule]:
    for bit in SET_ID_BITS:
        for name, arg in MODES.items():
            yield Rule(name, (Condition(arg, bit, bit),))
        for name, arg in OPENS.items():
            for makes in O_MAKES:
                yield Rule(name, (Condition(arg, makes, makes), Condition(arg + 1, bit, bit)))


def _personality_rules() -> Iterator[Rule]:
    """Yield rules that hold for all but 0, PER_LINUX32 and ASK_PERSONALITY.

    Some bits are set and some are not just where, going round, a set one is followed by one that is not.
    """
    bits = [1 << bit for bit in range(32) if 1 << bit != PER_LINUX32]
    for bit, following in zip(bits, [*bits[1:], bits[0]], strict=True):
        yield Rule("personality", (Condition(0, bit | following, bit),))
    yield Rule("personality", (Condition(0, LOW32, LOW32 & ~PER_LINUX32),))


def _blocks(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield masks and values that together hold for just these numbers: aligned runs as one, to keep programs small."""
    wanted, done = frozenset(numbers), -1
    for first in sorted(wanted):
        if first <= done:
            continue
        size = 1
        while first % (2 * size) == 0 and wanted.issuperset(range(first + size, first + 2 * size)):
            size *= 2
        done = first + size - 1
        yield LOW32 & ~(size - 1), first


def _strict_rules() -> Iterator[Rule]:
    yield Rule("fcntl", (Condition(1, LOW32, F_DUPFD),))
    for name in sorted(CREATES_OPEN):
        yield Rule(name, ())
    for name, (arg, flag) in sorted(CREATES.items()):
        yield Rule(name, (Condition(arg, flag, 0),))
    # dup2 and dup3 onto a number above 2 leave it open: "not 0, 1 or 2" is some bit above the second, or both lower.
    for bit in range(2, 32):
        yield Rule("dup2", (Condition(1, 1 << bit, 1 << bit),))
        yield Rule("dup3", (Condition(1, 1 << bit, 1 << bit), Condition(2, O_CLOEXEC, 0)))
    yield Rule("dup2", (Condition(1, 3, 3),))
    yield Rule("dup3", (Condition(1, 3, 3), Condition(2, O_CLOEXEC, 0)))


def compile(policy: FilterPolicy) -> tuple[bytes, ...]:  # noqa: A001 - the verb for policy -> program
    """Return the programs (arrays of struct sock_filter) but for the one that asks, in the order to load them in.

    The second refuses seccomp(2) unless it is allowed, so anything else that is to be loaded comes before it; the
    first refuses SECCOMP_FILTER_FLAG_NEW_LISTENER, so a filter with a listener comes before both.

    Establishes: the kernel will accept each program, and for every syscall of the table with zero arguments they
    decide as `decide` does. (For all other calls that is what the tests show.)
    Raises: UnsupportedError if libseccomp is missing, too old, or not for x86-64; UsageError if so many reserved
    numbers are scattered that no program could hold them; InternalError if libseccomp miscompiled.
    """
    return compile_stack(policy)[-2:]


def compile_stack(policy: FilterPolicy) -> tuple[bytes, ...]:
    """Return compile()'s programs, before them, if there is a supervisor, the one by which it is asked.

    That one stands behind the exec gate's, in one filter. Establishes, raises: as compile().
    """
    library = _library()
    try:
        programs = (_compile_argument_rules(library, policy), _compile_allow_list(library, policy))
        asking = (_compile_asking_rules(library, policy),) if policy.supervised else ()
    except OSError as error:
        raise InternalError("filter", f"libseccomp refused a rule: {error}") from error
    if any(len(program) // 8 > bpf.MAX_INSTRUCTIONS for program in programs):
        hint = "use fewer grants, or let their numbers be chosen: neighbouring ones take less"
        raise UsageError("filter", "too many scattered numbers are reserved", hint)
    if any(len(program) // 8 > bpf.MAX_INSTRUCTIONS - GATE_LENGTH for program in asking):
        raise InternalError("filter", "the program that asks the supervisor is too long")
    stack = (*asking, *programs)
    _verify(policy, stack)
    return stack


def _compile_asking_rules(library: Any, policy: FilterPolicy) -> bytes:  # noqa: ANN401
    program = _new_filter(library, library.ALLOW)
    for rule in asking_rules(policy):
        conditions = [library.Arg(c.arg, library.MASKED_EQ, c.mask, c.value) for c in rule.conditions]
        program.add_rule(library.NOTIFY, _number(library, rule.syscall), *conditions)
    return _export(program)


def _library() -> Any:  # noqa: ANN401 - pyseccomp has no types
    hint = "install libseccomp2 and pyseccomp"
    try:
        # Here and not on top: it looks for the C library by running programs, which takes longer than all the rest.
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:  # OSError: nowhere to put a temporary file
        raise UnsupportedError("filter", "libseccomp 2.5 and pyseccomp", str(error), hint) from error
    if (arch := pyseccomp.system_arch()) != bpf.AUDIT_ARCH_X86_64:
        raise UnsupportedError("filter", "an x86-64 machine", f"architecture {arch:#x}")
    try:
        pyseccomp.SyscallFilter(pyseccomp.ALLOW).set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)
    except OSError as error:
        raise UnsupportedError("filter", "libseccomp 2.5", "an older one", hint) from error
    return pyseccomp


def _compile_argument_rules(library: Any, policy: FilterPolicy) -> bytes:  # noqa: ANN401
    program = _new_filter(library, library.ALLOW)
    for rule in argument_rules(policy):
        conditions = [library.Arg(c.arg, library.MASKED_EQ, c.mask, c.value) for c in rule.conditions]
        program.add_rule(library.ERRNO(errno.EPERM), _number(library, rule.syscall), *conditions)
    return _export(program)


def _compile_allow_list(library: Any, policy: FilterPolicy) -> bytes:  # noqa: ANN401
    program = _new_filter(library, library.ERRNO(errno.ENOSYS))
    for name in NUMBERS:
        if name not in ENOSYS_ALWAYS:
            action = library.ALLOW if name in policy.allow else library.ERRNO(errno.EPERM)
            program.add_rule(action, _number(library, name))
    return _export(program)


def _new_filter(library: Any, default: int) -> Any:  # noqa: ANN401
    program = library.SyscallFilter(default)
    program.set_attr(library.Attr.ACT_BADARCH, library.ERRNO(errno.EPERM))
    program.set_attr(library.Attr.CTL_OPTIMIZE, 2)  # a binary tree: about 15 steps instead of up to 380
    return program


def _number(library: Any, name: str) -> int:  # noqa: ANN401
    """Return the table's number, having asked libseccomp for its own.

    By name it would not do: libseccomp gives -1 for a name newer than itself, and for a foreign one a negative pseudo
    number, and takes both for a rule without complaint.
    """
    number, known = NUMBERS[name], library.resolve_syscall(library.Arch.X86_64, name)
    if known >= 0 and known != number:
        raise InternalError("filter", f"{name} is {number} in our table and {known} in libseccomp")
    return number


def _export(program: Any) -> bytes:  # noqa: ANN401
    with os.fdopen(os.memfd_create("filter", os.MFD_CLOEXEC), "r+b") as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()


def _verify(policy: FilterPolicy, programs: Iterable[bytes]) -> None:
    """Raise InternalError if the programs are not what the policy says; libseccomp has had bugs that weaken filters."""
    try:
        decoded = [bpf.validate(bpf.decode(program)) for program in programs]
    except PlanError as error:
        raise InternalError("filter", f"libseccomp made an invalid program: {error.reason}") from error
    for name, number in NUMBERS.items():
        data = bpf.SeccompData(number)
        verdict = verdict_of(bpf.combine(bpf.run(program, data) for program in decoded))
        if verdict != (wanted := decide(policy, data.arch, number, data.args)):
            raise InternalError("filter", f"libseccomp made {verdict} of {wanted} for {name}")


def describe(policy: FilterPolicy) -> tuple[str, ...]:
    """Return the filter in words, one line per rule or group."""
    return tuple(_describe(policy))


def _describe(policy: FilterPolicy) -> Iterator[str]:
    yield "EPERM: i386 and x32 calls"
    yield "EPERM: fcntl(F_SETFD) without FD_CLOEXEC, ioctl(FIONCLEX)" + (
        ", on reserved numbers: others are the exec gate's" if policy.gated else ": close-on-exec is not cleared"
    )
    if policy.strict:
        yield "EPERM: every call that creates a descriptor without close-on-exec"
    if not policy.unix_sockets:
        yield "EPERM: socket, socketpair of AF_UNIX: no descriptors are sent"
    if "socket" in policy.allow or "socketpair" in policy.allow:
        families = ", ".join(FAMILIES)
        verb = "socketpair" if policy.supervised else "socket, socketpair"
        yield f"EPERM: {verb} of any family but {families}: the kernel's own, raw and other machines'"
        yield f"EPERM: socket of {', '.join(HIDDEN_TCP)}: TCP by another name, which no rule on ports sees"
    yield from _describe_peers(policy)
    if policy.allow & (MODES.keys() | OPENS.keys()):
        made = ", ".join((*MODES, *OPENS))
        yield f"EPERM: set-uid and set-gid bits in the modes of {made}: no file is left behind that lends its owner"
    if "prctl" in policy.allow:
        yield f"EPERM: prctl of {', '.join(PRCTL_REFUSED)}: programs stay what they seem, and untraced"
    if "personality" in policy.allow:
        yield "EPERM: personality but for asking, 0 and PER_LINUX32: no protection of memory is switched off"
    if policy.reserved:
        yield f"EPERM: dup2, dup3 onto {_ranges(policy.reserved)}: reserved numbers keep their grants"
    commands = ", ".join(TERMINAL_COMMANDS)
    yield f"EPERM: ioctl of {commands}, TIOCSCTTY by force: no terminal is typed into, taken or changed for others"
    if "unshare" not in policy.allow:
        yield "EPERM: clone with a CLONE_NEW* flag: no new namespaces"
    if "seccomp" in policy.allow:
        yield "EPERM: seccomp with NEW_LISTENER: no descriptors put into other processes"
    yield from _describe_groups(policy)
    for reason, names in groupby(ENOSYS_ALWAYS, ENOSYS_ALWAYS.__getitem__):
        yield f"ENOSYS: {', '.join(names)}: {reason}"
    yield "ENOSYS: every number that is not in the table of Linux 6.18"


def _describe_peers(policy: FilterPolicy) -> Iterator[str]:
    if policy.supervised:
        sockets = "sockets of the internet, " if Protocol.UDP in policy.supervised else "TCP sockets, "
        sends = "sendto with an address" + (", sendmsg, sendmmsg" if Protocol.UDP in policy.supervised else "")
        yield f"asked of the supervisor: {sockets}connect, bind, listen, {sends}, sends with MSG_FASTOPEN"
        yield f"asked of the supervisor, which refuses: setsockopt of {', '.join(TURNS)}; sockets of other families"
        yield "EPERM: clone with CLONE_FILES for another process: nobody changes the descriptors of one that asks"
    if policy.offline and policy.allow & SENDS.keys():
        yield f"EPERM: {', '.join(SENDS)} with MSG_FASTOPEN: no TCP connection but by connect, which Landlock sees"
    if policy.offline and "setsockopt" in policy.allow:
        yield f"EPERM: setsockopt of {', '.join(REROUTES)}: a granted socket takes no way of its own"
    if policy.keeps_peers:
        yield f"EPERM: {', '.join(NAMES_ADDRESS)}, and sendto with an address: granted sockets keep their peers"
    if policy.keeps_listeners:
        yield "EPERM: listen: a granted connection becomes no listener"


def _describe_groups(policy: FilterPolicy) -> Iterator[str]:
    refused: list[str] = []
    for group in GROUPS.values():
        own = [member for member in group.members if member in NUMBERS]
        allowed = [member for member in own if member in policy.allow]
        if own and len(allowed) == len(own):
            yield f"allowed: {group.name}: {group.purpose}"
        elif allowed:
            yield f"allowed: of {group.name} only {', '.join(allowed)}"
        elif own:
            refused.append(f"EPERM: {group.name}: {group.reason or group.purpose}")
            for reason, names in groupby(group.reasons, group.reasons.__getitem__):
                refused.append(f"EPERM: {group.name}: {', '.join(names)}: {reason}")
    yield from refused


def _ranges(numbers: Iterable[int]) -> str:
    """Return numbers as text, with consecutive ones joined: `3-5, 9`."""
    places = count()
    runs = [list(run) for _, run in groupby(sorted(set(numbers)), lambda number: number - next(places))]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
