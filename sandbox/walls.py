"""What a profile says of the world outside descriptors -> ops: namespaces, view, Landlock, limits, terminal. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from sandbox import allowlist, landlock, limits, ops
from sandbox.caller import Caller, Joined
from sandbox.errors import GrantError, InternalError, LaunchError, UsageError
from sandbox.filesystem import Kind, Proc, View, covered_by, covers, normal
from sandbox.grants import DirectoryGrant, FileGrant, Grant, InheritGrant, ScratchGrant, number_of
from sandbox.landlock import Ruleset, Scope
from sandbox.mounts import view_ops
from sandbox.plan import MAX_PORT_RULES, ListFlag, MountKind, Namespace, NetFlag, Op, OpCode, Terminal
from sandbox.profile import NetworkMode, NetworkPolicy, Profile, Scheduling, SharedNamespace, Tty, ports_of
from sandbox.sockets import HOSTS, RESOLV_CONF, Protocol

_POLICIES: Final = {Scheduling.OTHER: 0, Scheduling.BATCH: 3, Scheduling.IDLE: 5}  # sched(7)


def own_namespaces(profile: Profile) -> tuple[Namespace, ...]:
    """Return the namespaces that the sandbox has of its own."""
    shared = {Namespace[name.name] for name in profile.share}
    if profile.network.mode in (NetworkMode.HOST, NetworkMode.VETH):
        shared.add(Namespace.NETWORK)
    return tuple(namespace for namespace in Namespace if namespace not in shared)


def wall_ops(profile: Profile, caller: Caller) -> Iterator[Op]:
    """Yield the ops of namespaces, identity, view, limits, scheduling and terminal; Landlock's are landlock_ops().

    Raises: UsageError for what this caller cannot have; UnsupportedError for a limit that nothing can hold.
    """
    own = own_namespaces(profile)
    uid = identity_of(profile, caller)[0]
    yield ops.terminal(terminal_of(profile, caller))
    yield from (ops.namespace(namespace) for namespace in own)
    yield from _identity_ops(profile, caller)
    if Namespace.UTS in own:
        yield ops.hostname(profile.process.hostname)
    if profile.network.mode is NetworkMode.LOOPBACK:
        yield ops.loopback()
    if Namespace.MOUNT in own:
        yield from _view_ops(profile, uid)
    yield from limits.limit_ops(profile.limits, caller.delegated, uid=uid, user_namespace=Namespace.USER in own)
    yield from _scheduling_ops(profile, caller)


def identity_of(profile: Profile, caller: Caller) -> tuple[int, int]:
    """Return who the command runs as, user and group."""
    if profile.process.user is None and profile.process.group is None:
        return caller.uid, caller.gid
    if caller.identity is None:
        raise InternalError("caller", "the profile names a user, and nobody has looked it up")
    return caller.identity


def network_ops(profile: Profile, caller: Caller, protocols: Collection[Protocol]) -> Iterator[Op]:
    """Yield the rules by which the supervisor connects and binds, or the network to join, and the files beside it.

    protocols: those whose sockets the supervisor makes.
    Raises: UsageError for more rules than a plan takes, or resolvers that cannot be asked.
    """
    network = profile.network
    resolvers = network.asked(caller.resolvers)
    if network.is_supervised:
        yield from _list_ops(network, caller, resolvers, protocols)
    if network.mode is NetworkMode.VETH:
        yield _joining_op(network, caller, resolvers)
    if network.has_names and SharedNamespace.MOUNT not in profile.share:
        yield ops.text_file(HOSTS, allowlist.hosts_text(caller.peers))
        yield ops.text_file(RESOLV_CONF, allowlist.resolver_text(resolvers))


def _joining_op(network: NetworkPolicy, caller: Caller, resolvers: Sequence[str]) -> Op:
    joined = caller.joined or Joined(0)  # none yet: it is for a plan to be read, which nobody can carry out
    if network.netns is not None:
        return ops.netns(joined.namespace, joined.keeper, f"network namespace {network.netns}")
    for host in resolvers:
        if (words := allowlist.not_routed(host)) is not None:
            raise UsageError(
                "network.dns", f"resolver {host}: {words}: a network of mode veth does not reach it",
                'name others: resolvers = ["192.0.2.53"]',
            )  # fmt: skip
    return ops.netns(joined.namespace, joined.keeper, "a network of its own behind the caller's")


def _list_ops(
    network: NetworkPolicy, caller: Caller, resolvers: Sequence[str], protocols: Collection[Protocol]
) -> Iterator[Op]:  # fmt: skip
    peers = (*network.allow, *allowlist.resolver_rules(resolvers))
    lines = allowlist.compiled(peers, network.bind, caller.peers)
    flags = ListFlag.LOOPBACK if network.mode is NetworkMode.LOOPBACK else ListFlag(0)
    if Protocol.UDP in protocols:
        flags |= ListFlag.UDP
    if caller.landlock_abi < landlock.ABI_OF["connect_tcp"]:
        flags |= ListFlag.UNGOVERNED
    yield ops.allow_list(flags)
    for line in lines:
        kind = NetFlag.DENY * line.deny | NetFlag.BIND * line.bind | NetFlag.UDP * (line.protocol is Protocol.UDP)
        yield ops.net_rule(line.address, line.prefix, (line.ports.first, line.ports.last), line.label, kind)


def _identity_ops(profile: Profile, caller: Caller) -> Iterator[Op]:
    wanted = identity_of(profile, caller)
    if caller.uid == 0 and (wanted != (0, 0) or profile.process.user is not None):
        yield ops.identity(*wanted)
    elif wanted != (caller.uid, caller.gid):
        raise UsageError(
            "process.user", f"user {wanted[0]}, group {wanted[1]} is not the caller", "only root can become another"
        )
    if caller.uid and SharedNamespace.USER in profile.share and len(own_namespaces(profile)):
        raise UsageError(
            "namespaces.share", "without a user namespace of its own, only root gets the others", "leave user out of it"
        )


def _view_ops(profile: Profile, uid: int) -> Iterator[Op]:
    if profile.filesystem.proc is Proc.WRITABLE and uid == 0:
        raise UsageError(
            "filesystem.proc", "writable, it lets root change the host's settings in /proc/sys",
            "name another user: --user NAME",
        )  # fmt: skip
    shared_processes = SharedNamespace.PID in profile.share
    for op in view_ops(profile.filesystem, terminals=True):
        # The host's /proc stays where its processes are shared; the kernel mounts no other for us.
        if not (shared_processes and op.code is OpCode.MOUNT and op.a == MountKind.PROC):
            yield op


def _scheduling_ops(profile: Profile, caller: Caller) -> Iterator[Op]:
    process = profile.process
    if process.nice is not None or process.scheduling is not None:
        policy = caller.scheduling if process.scheduling is None else _POLICIES[process.scheduling]
        yield ops.scheduling(policy, caller.nice if process.nice is None else process.nice)
    if process.cpus is not None:
        yield ops.affinity(process.cpus)
    if process.oom_score_adj is not None:
        yield ops.oom_score(process.oom_score_adj)


def terminal_of(profile: Profile, caller: Caller) -> Terminal:
    """Return what the command has for a terminal: `auto` is private where the caller's streams are one, else none."""
    tty = profile.process.tty
    if tty is Tty.AUTO and caller.interactive is None:
        return Terminal.AUTO
    if tty is Tty.AUTO:
        tty = Tty.PRIVATE if caller.interactive else Tty.NONE
    return {Tty.NONE: Terminal.NONE, Tty.PRIVATE: Terminal.PRIVATE, Tty.INHERIT: Terminal.INHERIT}[tty]


def wanted_ruleset(profile: Profile) -> Ruleset:
    """Return what Landlock is to enforce under the namespaces, on the newest kernel."""
    connect, bind = _ports(profile.network)
    scopes = landlock.ALL_SCOPES
    if SharedNamespace.PID in profile.share:
        scopes &= ~Scope.SIGNAL
    return landlock.ruleset(profile.filesystem, bind=bind, connect=connect, scopes=scopes, files=profile.landlock.files)


def _ports(network: NetworkPolicy) -> tuple[Sequence[int] | None, Sequence[int] | None]:
    """Return the TCP ports that a program can itself connect to and bind; None: every one.

    With the supervisor's list it is none: whoever connects is the supervisor.
    Raises: UsageError for more than a plan takes.
    """
    if network.mode is NetworkMode.HOST:
        connect, bind = ports_of(network.allow), ports_of(network.bind)
        count = len({*(connect or ()), *(bind or ())})
        if count > MAX_PORT_RULES:
            reason = f"they are {count} ports, each a rule of Landlock's, and a plan takes {MAX_PORT_RULES}"
            raise UsageError("network.allow", reason, "name fewer ports, or * for all")
        return connect, bind
    return ((), ()) if network.mode is NetworkMode.NONE or network.is_supervised else (None, None)


def governs_files(profile: Profile) -> bool:
    """Tell whether Landlock governs files."""
    return profile.landlock.files and landlock.governs_files(profile.filesystem)


def landlock_ops(profile: Profile, grants: Sequence[Grant], caller: Caller) -> Iterator[Op]:
    """Yield the ops of the ruleset, as far as the kernel has what it governs.

    Raises: UnsupportedError if it has not, and the profile does not say that it can do without.
    """
    kept, _ = landlock.fit(wanted_ruleset(profile), caller.landlock_abi, profile.landlock)
    folders = [grant for grant in grants if isinstance(grant, DirectoryGrant)]
    for grant in folders:
        if grant.write != grant.create and not kept.files:
            raise GrantError(
                grant.name, "without Landlock nothing tells writing to files from making them",
                "say both, write and create, or neither",
            )  # fmt: skip
    for op in landlock.ruleset_ops(kept):
        if op.code is OpCode.RESTRICT and kept.files:
            # /dev/fd/N opens anew what the command has, with no right that its descriptor lacks.
            yield from (ops.descriptor_rule(fd, int(landlock.REOPENED & kept.files)) for fd in _reopened(grants))
            if profile.network.is_supervised and SharedNamespace.MOUNT not in profile.share:
                readable = int(landlock.FileRight.READ_FILE & kept.files)
                yield from (ops.path_rule(path, readable) for path in (HOSTS, RESOLV_CONF))
            yield from (ops.folder_rule(number_of(grant), int(_rights_of(grant) & kept.files)) for grant in folders)
        yield op


def _rights_of(grant: DirectoryGrant) -> landlock.FileRight:
    return landlock.folder_rights(write=grant.write, create=grant.create, execute=grant.execute)


def _reopened(grants: Sequence[Grant]) -> Iterator[int]:
    yield from range(3)
    yield from (number_of(grant) for grant in grants if isinstance(grant, FileGrant | InheritGrant | ScratchGrant))


def _refuse_covered(profile: Profile, folder: str) -> None:
    entry = covered_by(profile.filesystem, folder) if folder else None
    if entry is not None:
        what = "hides" if entry.kind is Kind.HIDE else "covers"
        hint = f"show it: --read {folder}; or start elsewhere: --chdir /"
        raise LaunchError("chdir", folder, 0, f"{_LISTS[entry.kind]} {entry.path} {what} it", hint)


_LISTS: Final = {Kind.TMPFS: "tmpfs", Kind.HIDE: "hide"}


def working_directory(profile: Profile, caller: Caller) -> str | None:
    """Return the folder to change into; None: that of the caller, which is there already.

    Raises: UsageError, LaunchError if it does not lie in the view.
    """
    folder = profile.process.chdir
    if profile.filesystem.view is View.HOST:
        _refuse_covered(profile, folder or caller.cwd)
        return folder
    if not folder and not caller.cwd:
        raise UsageError("chdir", "the working directory is gone", "name one: --chdir /")
    folder = normal(folder or caller.cwd)
    if not covers(profile.filesystem, folder):
        hint = f"show it: --read {folder}; or start elsewhere: --chdir /"
        raise LaunchError("chdir", folder, 0, "it is not in the view", hint)
    return folder
