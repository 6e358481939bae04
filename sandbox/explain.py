"""Views: what a profile grants and refuses, in words; the caller's descriptors and what becomes of them."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final

from sandbox import allowlist, filter_rules, landlock, limits, mounts, peers, syscalls, walls
from sandbox.build import build, environment_set, filter_policy, grant_label
from sandbox.caller import Caller
from sandbox.filesystem import View
from sandbox.grants import (
    Access,
    ConnectGrant,
    CopyGrant,
    DatagramGrant,
    DataGrant,
    DirectoryGrant,
    FdType,
    FileGrant,
    Grant,
    InheritGrant,
    ListenGrant,
    ScratchGrant,
    SecretGrant,
    is_stored,
    number_of,
    variable_for,
)
from sandbox.peers import Held
from sandbox.plan import OBTAINING, Namespace, OpCode, Plan, Terminal
from sandbox.profile import (
    ExecPolicy,
    NetworkMode,
    NetworkPolicy,
    Profile,
    ScmRights,
    SharedNamespace,
    Tty,
    check,
    delegated,
    numbered,
)

# A caller may hold tens of thousands of descriptors; so many closed ones are named.
MAX_CLOSED_LISTED: Final = 32


def explain(profile: Profile, command: Sequence[str], caller: Caller) -> Iterator[str]:
    """Yield the lines of an explanation; with a command also its plan.

    Raises: what check and build raise, and UnsupportedError for a Landlock that the profile cannot do without; before
    the first line.
    """
    check(profile)
    plan = build(profile, command, caller) if command else None
    return iter(list(_explanation(profile, plan, caller)))


def _explanation(profile: Profile, plan: Plan | None, caller: Caller) -> Iterator[str]:
    grants = numbered(profile)
    yield f"profile {profile.name} ({profile.source_path}): {profile.description}"
    sections = {
        "Descriptors of the child": _descriptors(profile, grants, caller),
        "At later execs": _later_execs(profile, grants),
        "Environment": _environment(profile, grants),
        "Process": _process(profile, caller),
        "Terminal": iter([_TERMINALS[walls.terminal_of(profile, caller)]]),
        "Files": iter(mounts.describe(profile.filesystem)),
        "Namespaces": _namespaces(profile),
        "Landlock": _landlock(profile, caller),
        "Limits": _limits(profile, caller),
        "Filter": iter(filter_rules.describe(filter_policy(profile, grants, caller.landlock_abi))),
        "Not protected": not_protected(profile),
        "Plan": iter(plan.describe() if plan else ()),
    }
    for title, lines in sections.items():
        if title != "Plan" or plan:
            yield from ("", f"{title}:", *(f"  {line}" for line in lines))


def _descriptors(profile: Profile, grants: Sequence[Grant], caller: Caller) -> Iterator[str]:
    policy = profile.descriptors
    kept, _ = landlock.downgrade(walls.wanted_ruleset(profile), caller.landlock_abi)
    # Without the right to truncate (ABI 3), a file that was given for reading could be cut short by its link.
    governed = landlock.FileRight.TRUNCATE in kept.files
    sockets = peers.held(profile, grants, caller.landlock_abi)
    yield "0, 1, 2  the caller's standard streams, /dev/null where it has none"
    if policy.reserve_stdio:
        yield "         reserved: nothing else can be put onto them (reserve_stdio)"
    for grant in grants:
        access = f", {grant.access}" if isinstance(grant, FileGrant) else ""
        absent = "; absent unless the service manager keeps one" if is_stored(grant) else ""
        yield f"{number_of(grant):<8} {grant_label(grant)}{access}; told by {variable_for(grant.name)}{absent}"
        yield from (f"           {line}" for line in residue(grant, sockets, governed=governed))
    yield "every other descriptor of the caller is closed"
    if policy.strict:
        yield "strict: no call creates a descriptor without close-on-exec"
    if policy.scm_rights is ScmRights.DENY:
        yield "scm_rights denied: no Unix sockets, so no descriptor is sent or received; none among 0, 1 and 2 either"


def _later_execs(profile: Profile, grants: Sequence[Grant]) -> Iterator[str]:
    if profile.process.exec is ExecPolicy.ONCE:
        yield "there are none"
        return
    yield "0, 1, 2 pass"
    for grant in grants:
        if grant.propagate:
            yield f"{number_of(grant)} passes, while it still is grant {grant.name}"
    protocols = delegated(profile)
    if protocols:
        yield "what the exec names passes, by:"
    for protocol in protocols:
        yield f"  {protocol.name}: {protocol.purpose}"
        yield from (f"    {rule.describe()}" for rule in protocol.rules)
    yield "every other descriptor is closed, whatever the program did or forgot"


def _environment(profile: Profile, grants: Sequence[Grant]) -> Iterator[str]:
    yield "kept from the caller: " + (", ".join(profile.environment.keep) or "nothing")
    yield "set: " + (", ".join(environment_set(profile, grants)) or "nothing")
    if profile.descriptors.activation:
        yield "LISTEN_PID: the command's process ID, as it sees that itself"
    if profile.process.notify:
        yield "NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID: as the caller has them; the supervisor hands on how it is"
    yield "every other variable is removed"
    yield "those that name descriptors (LISTEN_FDS, MAKEFLAGS ...) are rewritten for inherited grants, or removed"


def _process(profile: Profile, caller: Caller) -> Iterator[str]:
    process = profile.process
    if process.user is not None or process.group is not None:
        user, group = walls.identity_of(profile, caller)
        yield f"runs as user {user}, group {group}, with no other group"
    yield f"umask {process.umask:03o}; working directory: {process.chdir or 'that of the caller'}"
    yield "no new privileges: set-uid files and file capabilities give nothing"
    yield "signals: default dispositions, nothing blocked"
    if process.exec is ExecPolicy.ONCE:
        yield "exec: the command itself, and no program after it"
    for name, value in (
        ("niceness", process.nice),
        ("scheduling", process.scheduling),
        ("processors", process.cpus),
        ("oom_score_adj", process.oom_score_adj),
    ):
        if value is not None:
            yield f"{name}: {value}"
    if process.die_with_parent:
        yield "ends with the process that starts it"


_TERMINALS: Final = {
    Terminal.AUTO: "a pseudo-terminal of its own where the caller's input and output are terminals, else none",
    Terminal.NONE: "none: a session of its own; /dev/tty cannot be opened; what 0, 1 and 2 are stays",
    Terminal.PRIVATE: "a pseudo-terminal of its own, which the supervisor relays to the caller's",
    Terminal.INHERIT: "the caller's terminal and session",
}


def _namespaces(profile: Profile) -> Iterator[str]:
    own = walls.own_namespaces(profile)
    yield "its own: " + (", ".join(str(namespace.name).lower() for namespace in own) or "none")
    joins = profile.network.mode is NetworkMode.VETH
    shared = [name for name in Namespace if name not in own and not (joins and name is Namespace.NETWORK)]
    yield "the host's: " + (", ".join(str(name.name).lower() for name in shared) or "none")
    if Namespace.UTS in own:
        yield f"host name: {profile.process.hostname}"
    yield from _network(profile.network)


def _network(network: NetworkPolicy) -> Iterator[str]:
    beside = "beside what the rules name, " if network.is_supervised else ""
    yield {
        NetworkMode.NONE: f"network: {beside}none, not even a loopback",
        NetworkMode.LOOPBACK: f"network: {beside}a loopback of its own, and nothing else",
        NetworkMode.HOST: "network: the host's",
        NetworkMode.VETH: f"network: {_joined_words(network)}",
    }[network.mode]
    if network.mode is NetworkMode.HOST:
        for verb, rules in (("connected to", network.allow), ("bound", network.bind)):
            if rules:
                yield f"  TCP ports that can be {verb}, by Landlock: {', '.join(str(rule.ports) for rule in rules)}"
        if network.allow or network.bind:
            yield "  not covered by that: other hosts' addresses, UDP and other protocols, Unix sockets"
        return
    if network.mode is NetworkMode.VETH:
        yield from _own_network(network)
        return
    yield from (f"  can reach {rule}, in the caller's network" for rule in network.allow)
    yield from (f"  can bind {rule}, in the caller's network" for rule in network.bind)
    yield from _names(network)


def _names(network: NetworkPolicy) -> Iterator[str]:
    if network.dns:
        whom = ", ".join(network.resolvers) or "the caller's resolvers"
        yield f"  can ask {whom}: what is asked for can tell others outside"
    if network.has_names:
        yield "  names are those of the rules, looked up once at the start, in /etc/hosts"


def _joined_words(network: NetworkPolicy) -> str:
    if network.netns is not None:
        return f"that of the namespace {network.netns}, as it stands, with all that it reaches"
    return "one of its own behind the caller's, with a loopback; needs root, and a host that forwards"


def _own_network(network: NetworkPolicy) -> Iterator[str]:
    if network.netns is None:
        yield from (f"  can reach {rule}, by way of the host" for rule in network.allow)
        if not network.allow:
            yield "  can reach every address by way of the host, but for " + ", ".join(allowlist.NOT_MEANT)
        yield "  held by nftables inside, which no program there can change; what is refused is not told of"
        yield "  what it binds can be reached inside only; a socket that is granted is the caller's network's"
        yield "  interfaces, addresses and rules go with the sandbox"
    yield from _names(network)


def _landlock(profile: Profile, caller: Caller) -> Iterator[str]:
    """Yield what Landlock holds on this kernel.

    Raises: UnsupportedError if it lacks what the profile cannot do without.
    """
    kept, lost = landlock.fit(walls.wanted_ruleset(profile), caller.landlock_abi, profile.landlock)
    yield from landlock.describe(kept, lost)


def _limits(profile: Profile, caller: Caller) -> Iterator[str]:
    uid, own_users = walls.identity_of(profile, caller)[0], Namespace.USER in walls.own_namespaces(profile)
    for limit in limits.describe(profile.limits, caller.delegated):
        error = limits.lacks_mechanism(
            profile.limits, limit.name, caller.delegated, uid, user_namespace=own_users
        )  # fmt: skip
        how = f"by {limit.how}" if error is None else f"refused here: needs {error.need}"
        yield f"{limit.name}: {limit.value}, {how}"
    unset = [name for name in limits.NAMES if getattr(profile.limits, name) is None]
    yield "the caller's own only: " + (", ".join(unset) or "none")


def not_protected(profile: Profile) -> Iterator[str]:
    """Yield what the profile leaves open, because there is no means against it or because it allows it."""
    allowed = syscalls.expand(profile.filter.allow)
    open_to_host = profile.filesystem.view is View.HOST and not walls.governs_files(profile)
    if allowed & {"open", "openat", "creat"} and open_to_host:
        yield "files: every path that the user may open can be opened"
    if "connect" in allowed and profile.network.mode is NetworkMode.HOST and not profile.network.allow:
        yield "network: every address that the host reaches can be reached"
    if "connect" in allowed and profile.network.mode is NetworkMode.VETH and not profile.network.allow:
        whose = "the host" if profile.network.netns is None else f"the namespace {profile.network.netns}"
        yield f"network: nearly every address that {whose} reaches can be reached"
    # Neither Landlock nor a read-only mount looks at who connects to a socket file.
    if "connect" in allowed and profile.descriptors.scm_rights is ScmRights.ALLOW:
        yield "Unix sockets: one that lies in a path of the view can be connected to, whatever its rights there"
    if allowed & {"kill", "tkill", "tgkill"} and SharedNamespace.PID in profile.share:
        yield "processes: the user's other processes can be signalled"
    if profile.process.tty is Tty.INHERIT:
        yield "terminal: settings and input are the caller's; what is written there may hold escape sequences"
    if profile.process.exec is ExecPolicy.ALLOW and not profile.descriptors.strict:
        yield "threads: one that opens a descriptor while another executes can let it go along (strict closes that)"
    if not {"memory", "processes", "timeout"} <= {held.name for held in limits.describe(profile.limits)}:
        yield "resources: what Limits does not name is limited by the caller's own limits only"
    yield "the kernel: whoever finds a hole in it is out"


def residue(grant: Grant, sockets: Held, *, governed: bool) -> tuple[str, ...]:
    """Return what a program can do with a numbered grant beyond what its name says; tests show each line to be true.

    sockets: what is held of sockets. governed: Landlock holds files, so that a descriptor can be opened anew with the
    access that it has itself.
    """
    number = number_of(grant)
    link = f"/proc/self/fd/{number}"
    reopen = f"still: {link} opens the file anew, with any access that its mode gives the user"
    held = f"cannot: open or cut short the file by {link} with more access than {number} has, unless the view has it"
    metadata = "still: its mode, times and extended attributes can be changed, if the user owns it"
    rest = (held if governed else reopen, metadata)
    match grant:
        case FileGrant():
            return _file_residue(grant, rest)
        case DirectoryGrant():
            return tuple(_folder_residue(grant))
        case SecretGrant():
            return ("can: read, map", "cannot: write, grow, shrink, unseal")
        case DataGrant() | CopyGrant():
            return ("can: read, seek, map", "cannot: write, grow, shrink, unseal, by any means", MODE_ONLY)
        case ScratchGrant():
            return ("can: read, write, truncate, seek, map, lock", NO_FURTHER, "cannot: execute it", MODE_ONLY)
        case InheritGrant():
            return tuple(_inherited_residue(grant, sockets, held if governed else reopen, metadata))
        case ListenGrant() | ConnectGrant() | DatagramGrant():
            return tuple(peers.residue(grant, sockets))


APPENDS: Final = "can: append: the supervisor writes to the file what comes out of a pipe"
NO_FILE: Final = "cannot: read, overwrite, cut short, lock or open the file, or change its mode, times or attributes"
RELAYED: Final = "can: read or write, one way: the supervisor copies between a pipe and the caller's descriptor"
NOT_CALLERS: Final = (
    "cannot: reach the caller's descriptor: its other direction, flags, offset and file stay the caller's"
)
MODE_ONLY: Final = "still: its mode, times and flags can be changed; nobody else sees it"
NO_FURTHER: Final = (
    "cannot: hold more than its limit: a write fails (ENOSPC), a mapping behind it ends the program (SIGBUS)"
)
UNCHANGED: Final = "cannot: change its mode, owner, times or attributes, link or execute it"


def own_pipe(number: int) -> str:
    """Say what is left of a relay: the pipe is the child's and nobody else's."""
    return f"still: /proc/self/fd/{number} opens the pipe's other end, where only what the program itself writes passes"


def _file_residue(grant: FileGrant, rest: tuple[str, str]) -> tuple[str, ...]:
    number = number_of(grant)
    match grant:
        case FileGrant(access=Access.READ, raw=False):
            return ("can: read, seek, map, lock", f"cannot: write, by {number} or /proc/self/fd/{number}", UNCHANGED)
        case FileGrant(access=Access.READ):
            return ("can: read, seek, map, lock", f"cannot: write through {number} itself", *rest)
        case FileGrant(access=Access.APPEND, raw=False):
            return (APPENDS, NO_FILE, own_pipe(number))
        case FileGrant(access=Access.APPEND):
            return (
                "can: append, truncate",
                f"still: O_APPEND can be taken off {number}; then any byte can be overwritten",
                *rest,
            )
        case FileGrant(access=Access.WRITE):
            return ("can: write, truncate, seek, lock", f"cannot: read through {number} itself", *rest)
        case FileGrant():
            return ("can: read, write, truncate, seek, map, lock", *rest)


def _folder_residue(grant: DirectoryGrant) -> Iterator[str]:
    verbs = {"write what is there": grant.write, "make, move and remove": grant.create, "execute": grant.execute}
    yield ", ".join(["can: list, read", *(verb for verb, can in verbs.items() if can)])
    if not all(verbs.values()):
        yield "cannot: " + ", ".join(verb for verb, can in verbs.items() if not can)
    yield "cannot: reach what lies above it"
    if grant.write or grant.create:
        yield "still: modes, times and extended attributes of what the user owns can be changed"


def _inherited_residue(grant: InheritGrant, sockets: Held, reopening: str, metadata: str) -> Iterator[str]:
    number, types = number_of(grant), grant.given_types
    if grant.relay:
        yield from (RELAYED, NOT_CALLERS, own_pipe(number))
        return
    shared = "what the caller's descriptor can; offset, flags and locks are shared with the caller"
    of_file = [] if grant.type not in (None, FdType.FILE) else [reopening, metadata]
    if of_file and not grant.raw:
        yield "can: a file: what the caller's descriptor can; it is opened anew: offset, flags and locks are its own"
        yield "cannot: a file that is open for reading only: be written or changed by any means"
        yield from (line.replace(": ", ": a file that is open for appending: ", 1) for line in (APPENDS, NO_FILE))
        yield from (line.replace(": ", ": a file that is open for writing: ", 1) for line in of_file)
        if grant.type is None:
            yield f"can: anything else: {shared}"
    else:
        yield f"can: {shared}"
        yield from (line.replace(": ", ": a file: ", 1) for line in of_file)
    if grant.type in (None, FdType.PIPE):
        yield f"still: a pipe: /proc/self/fd/{number} opens the other end as well"
    yield from peers.inherited_residue(types, sockets)


def descriptor_table(plan: Plan) -> Iterator[str]:
    """Yield one line for each descriptor that this process was started with and one for each that the child gets."""
    inherited = {op.b: op for op in plan.only(OpCode.INHERIT)}
    placed = {op.a: op.b for op in plan.only(OpCode.PLACE)}
    statuses = {op.a for op in plan.only(OpCode.STATUS)}
    held = _open_descriptors()
    closed = [fd for fd in held if fd > 2 and fd not in inherited and fd not in statuses]
    listed = set(closed[:MAX_CLOSED_LISTED])
    for fd in range(3):
        yield f"descriptor {fd}: " + (f"{describe_descriptor(fd)}: kept" if fd in held else "closed: /dev/null instead")
    for fd in held:
        if fd in statuses:
            yield f"descriptor {fd}: {describe_descriptor(fd)}: the launcher's, for status lines"
        if fd in inherited:
            number = placed[inherited[fd].a]
            yield f"descriptor {fd}: {describe_descriptor(fd)}: granted as {number} ({inherited[fd].label})"
        if fd in listed:
            yield f"descriptor {fd}: {describe_descriptor(fd)}: closed"
    if len(closed) > len(listed):
        yield f"descriptors {closed[len(listed)]} to {closed[-1]}: {len(closed) - len(listed)} more: closed"
    for op in plan.ops:
        if op.code in OBTAINING - {OpCode.INHERIT}:
            yield f"opened by the launcher: granted as {placed[op.a]} ({op.label})"


def _open_descriptors() -> list[int]:
    """Return what we were started with: Python's own descriptors are close-on-exec, the caller's cannot be."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if not fcntl.fcntl(int(name), fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                found.append(int(name))
        except OSError:
            continue  # the folder's own, closed since
    return sorted(found)


def describe_descriptor(fd: int) -> str:
    """Return what a descriptor refers to and how it is open, as text for people."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    access = ("read", "write", "read-write", "neither read nor write")[flags & os.O_ACCMODE]
    if flags & os.O_PATH:
        access = "path only"
    elif stat.S_ISDIR(os.fstat(fd).st_mode):
        access = "directory"
    return f"{os.readlink(f'/proc/self/fd/{fd}')} ({access})"
