"""The policy of a filter: what it lets through, and what it decides for each call: the reference for programs, kernel.

Arguments are 64 bits wide for a filter while the kernel looks at the low 32 bits of a descriptor, command or flag
word.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from sandbox import bpf
from sandbox.errors import InternalError, UsageError
from sandbox.sockets import Protocol
from sandbox.syscall_table import NAMES, NUMBERS
from sandbox.syscalls import ENOSYS_ALWAYS

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
    return frozenset() if told or family in allowed_families(policy) else frozenset({family})


def allowed_families(policy: FilterPolicy) -> frozenset[int]:
    """Return the families of which a program may make sockets by itself."""
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
