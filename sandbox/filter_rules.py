"""A filter's rules: the conditions by which calls are refused or asked, for a compiler; and the same in words.

A rule is the AND of its conditions, a filter the OR of its rules. Every condition masks the upper half of an argument
away, at which the kernel does not look.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, groupby

from sandbox.filtering import (
    AF_UNIX,
    CLONE_FILES,
    CLONE_NEW,
    CLONE_THREAD,
    CREATES,
    CREATES_OPEN,
    F_DUPFD,
    F_SETFD,
    FAMILIES,
    FD_CLOEXEC,
    FIONCLEX,
    HIDDEN_TCP,
    LOW32,
    MODES,
    MSG_FASTOPEN,
    NAMES_ADDRESS,
    O_CLOEXEC,
    O_MAKES,
    OPENS,
    PER_LINUX32,
    PRCTL_REFUSED,
    REROUTES,
    SECCOMP_FILTER_FLAG_NEW_LISTENER,
    SENDS,
    SET_ID_BITS,
    TERMINAL_COMMANDS,
    TIOCSCTTY,
    TURNS,
    FilterPolicy,
    allowed_families,
)
from sandbox.sockets import Protocol
from sandbox.syscall_table import NUMBERS
from sandbox.syscalls import ENOSYS_ALWAYS, GROUPS


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
    others = _others(allowed_families(policy))
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
