"""Profile and command -> Plan. Pure: what it needs of the outside comes in a Caller value."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from sandbox import carried, filtering, ops, peers, seccomp, syscalls, walls
from sandbox.caller import Caller
from sandbox.carried import LISTEN_FDNAMES, LISTEN_FDS, LISTEN_PID, NOTIFY_SOCKET, WATCHDOG_PID, WATCHDOG_USEC
from sandbox.errors import GrantError, InternalError, PlanError, UsageError
from sandbox.grants import (
    MAX_COPY,
    SOCKET_TYPES,
    STDIO_TYPES,
    ConnectGrant,
    CopyGrant,
    DatagramGrant,
    DataGrant,
    DirectoryGrant,
    FileGrant,
    Grant,
    InheritGrant,
    ListenGrant,
    ScratchGrant,
    SecretGrant,
    SocketGrant,
    checked,
    is_activated,
    is_stored,
    number_of,
    present,
    substitute,
    variable_for,
)
from sandbox.plan import (
    MAX_ARGS,
    MAX_COMMANDS,
    MAX_ENV_OPS,
    MAX_PROTOCOLS,
    NOTHING_TOLD,
    ListenFlag,
    Op,
    OpCode,
    Plan,
    SocketKind,
    StatusFormat,
    Streams,
    Trace,
)
from sandbox.profile import ExecPolicy, Profile, ScmRights, SharedNamespace, check, delegated, numbered
from sandbox.resolve import passed_grants
from sandbox.sizes import format_size
from sandbox.sockets import Protocol, sockaddr

DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


def build(
    profile: Profile,
    command: Sequence[str],
    caller: Caller,
    *,
    status: tuple[int, StatusFormat] | None = None,
    told: Trace = NOTHING_TOLD,
    trace: Trace = NOTHING_TOLD,
    quiet: bool = False,
) -> Plan:
    """Compile a profile and a command into the plan that the launcher carries out.

    profile: as profile.for_caller() returns it, every path absolute.
    told: what the records tell of beside start and end; trace: what standard error does, for people.
    status: the caller's descriptor for records of the run, and their form. quiet: failures go there only.
    Establishes: every grant that is there is placed once at its number; the filter reserves the numbers of all.
    Raises: ProfileError, GrantError, UsageError before anything is started; UnsupportedError without libseccomp.
    """
    profile = passed_grants(profile, caller)
    check(profile)
    grants = numbered(profile)
    given = present(grants, activation=profile.descriptors.activation)
    held = tuple(grant for _, grant in given)
    arguments = [substitute(_clean(word), grants) for word in command]
    if not arguments or not arguments[0]:
        raise UsageError("command", "it is empty", "give a program and its arguments")
    parts = (
        *_launcher_ops(profile, caller, status, told=told, trace=trace),
        *_descriptor_ops(profile, given, status, caller),
        *walls.wall_ops(profile, caller),
        *_attribute_ops(profile, held, caller),
        *_confinement_ops(profile, grants, held, caller),
        *_exec_ops(profile, arguments, caller),
    )
    return Plan(
        tuple(sorted(parts, key=lambda op: op.code)),  # by phase; ops of one code keep their order
        quiet=quiet,
    )


def build_obtaining(grant: Grant, status: int) -> Plan:
    """Compile a plan that obtains one grant, into slot 0, and starts nothing; failures go to descriptor `status`."""
    return Plan((ops.status(status, StatusFormat.RECORDS), *_obtain(0, checked(grant))), quiet=True, obtain=True)


def filter_policy(profile: Profile, grants: Sequence[Grant], landlock_abi: int) -> filtering.FilterPolicy:
    """Return what the filter of a profile refuses and allows, with the numbers of its grants reserved.

    landlock_abi: the kernel's; what Landlock cannot hold of granted sockets, the filter does.
    """
    sockets = peers.held(profile, grants, landlock_abi)
    return filtering.FilterPolicy(
        allow=syscalls.expand(profile.filter.allow),
        reserved=(*((0, 1, 2) if profile.descriptors.reserve_stdio else ()), *(number_of(grant) for grant in grants)),
        gated=bool(profile.descriptors.delegate) and profile.process.exec is ExecPolicy.ALLOW,
        strict=profile.descriptors.strict,
        unix_sockets=profile.descriptors.scm_rights is ScmRights.ALLOW,
        offline=sockets.offline,
        keeps_peers=sockets.named,
        keeps_listeners=sockets.listening,
        supervised=peers.supervised(profile.network, grants),
    )


def _clean(word: str) -> str:
    if "\0" in word:
        raise UsageError(repr(word), "an argument holds a NUL byte", "no program can be given one")
    return word


def _launcher_ops(
    profile: Profile, caller: Caller, status: tuple[int, StatusFormat] | None, *, told: Trace, trace: Trace
) -> Iterator[Op]:
    if status is not None:
        yield ops.status(*status, told)
    if profile.process.die_with_parent:
        yield ops.die_with_parent(caller.parent_pid)
    if trace:
        yield ops.trace(trace)
    rules = [(protocol.name, rule) for protocol in delegated(profile) for rule in protocol.rules]
    if len(rules) > MAX_PROTOCOLS:
        raise PlanError("descriptors.delegate", f"more than {MAX_PROTOCOLS} rules are named", "name fewer protocols")
    for name, rule in rules:
        yield ops.protocol(name, rule)
    yield from walls.network_ops(profile, caller, peers.supervised(profile.network, numbered(profile)))
    if (where := notify_variables(profile, caller).get(NOTIFY_SOCKET)) and SharedNamespace.MOUNT not in profile.share:
        yield ops.manager(where)
    for grant in profile.grants:
        if isinstance(grant, InheritGrant) and grant.stored and grant.passed_as is not None:
            yield ops.store(grant.passed_as, grant.types, f"grant {grant.name}: {grant.inherit}")


def grant_label(grant: Grant) -> str:
    """Return the words by which messages name a grant."""
    match grant:
        case InheritGrant():
            return f"grant {grant.name}: {'descriptor ' if grant.passed_as is None else ''}{grant.inherit}"
        case FileGrant():
            return f"grant {grant.name}: file {grant.file}"
        case DirectoryGrant():
            return f"grant {grant.name}: folder {grant.directory}"
        case SecretGrant():
            source = f"variable {grant.variable}" if grant.variable else f"file {grant.secret}"
            return f"grant {grant.name}: {source}"
        case ListenGrant():
            return f"grant {grant.name}: {grant.listen}"
        case ConnectGrant():
            return f"grant {grant.name}: connection to {grant.connect}"
        case DatagramGrant():
            return f"grant {grant.name}: datagrams to {grant.datagram}"
        case DataGrant():
            return f"grant {grant.name}: text"
        case CopyGrant():
            return f"grant {grant.name}: copy of {grant.copy}"
        case ScratchGrant():
            return f"grant {grant.name}: scratch file of {format_size(grant.scratch)}"


def _sockaddrs(grant: SocketGrant, caller: Caller) -> list[bytes]:
    """Return the addresses of a socket grant, several where its host's name has several."""
    address = grant.address
    hosts = caller.hosts.get(address.name, ()) if address.name is not None else ("",)
    if not hosts:
        raise InternalError("caller", f"grant {grant.name} names a host, and nobody has looked it up")
    try:
        return [sockaddr(address, host) for host in hosts]
    except UsageError as error:
        raise GrantError(grant.name, f"{error.object}: {error.reason}", error.hint) from error


def _obtain_socket(slot: int, grant: SocketGrant, caller: Caller) -> Iterator[Op]:
    label, addresses = grant_label(grant), _sockaddrs(grant, caller)
    match grant:
        case ListenGrant():
            flags = ListenFlag.REUSE_PORT if grant.reuse_port else ListenFlag(0)
            flags |= ListenFlag.IPV6_ONLY if grant.ipv6_only else ListenFlag(0)
            flags |= ListenFlag.MODE if grant.mode is not None else ListenFlag(0)
            backlog, mode = grant.backlog, int(grant.mode or "0", 8)
            if grant.address.protocol is Protocol.UDP:
                flags, backlog = flags | ListenFlag.DATAGRAM, 0
            if grant.owner is not None:
                if grant.owner not in caller.owners:
                    raise InternalError("caller", f"grant {grant.name} names an owner, and nobody has looked it up")
                yield ops.socket_owner(slot, *caller.owners[grant.owner], label)
            yield ops.listen(slot, addresses[0], label, backlog=backlog, flags=flags, mode=mode)
        case ConnectGrant():
            data, limit = b"".join(addresses), round(grant.timeout * 1000)
            yield ops.connect(slot, data, label, kind=SocketKind.STREAM, milliseconds=limit)
        case DatagramGrant():
            yield ops.connect(slot, b"".join(addresses), label, kind=SocketKind.DATAGRAM)


def _obtain(slot: int, grant: Grant) -> Iterator[Op]:
    label = grant_label(grant)
    match grant:
        case InheritGrant(types=types, raw=raw, relay=relay):
            yield ops.inherit(slot, grant.fd, types, grant.access, label, raw=raw, relay=relay)
        case FileGrant(file=path, access=access, create=create, truncate=truncate):
            yield ops.file(slot, path, access, create=create, truncate=truncate, label=label, raw=grant.raw)
        case DirectoryGrant(directory=path, write=write, create=create):
            yield ops.directory(slot, path, write=write or create, execute=grant.execute, label=label)
        case SecretGrant(variable=None):
            yield ops.secret_file(slot, grant.secret, label)
        case SecretGrant():
            yield ops.secret_env(slot, grant.variable or "", label)
        case DataGrant():
            yield ops.data_text(slot, grant.data, label)
        case CopyGrant():
            yield ops.data_file(slot, grant.copy, MAX_COPY, label)
        case ScratchGrant():
            yield ops.scratch(slot, grant.scratch, label)


def _descriptor_ops(
    profile: Profile, given: Sequence[tuple[int, Grant]], status: tuple[int, StatusFormat] | None, caller: Caller
) -> Iterator[Op]:
    """Yield the ops that obtain and place the grants; given: each with its slot."""
    for _, grant in given:
        if status is not None and isinstance(grant, InheritGrant) and grant.fd == status[0]:
            raise GrantError(grant.name, f"descriptor {grant.inherit} is the status descriptor", "use another one")
    # A standard stream may be a Unix socket; where nothing may be sent over one, none is accepted.
    denied = profile.descriptors.scm_rights is ScmRights.DENY
    yield ops.stdio(
        STDIO_TYPES - SOCKET_TYPES if denied else STDIO_TYPES,
        Streams[profile.process.streams.name], profile.limits.output or 0,
    )  # fmt: skip
    obtained = [
        op
        for slot, grant in given
        for op in (_obtain_socket(slot, grant, caller) if isinstance(grant, SocketGrant) else _obtain(slot, grant))
    ]
    # Within a code, INHERIT ascends by the caller's number: so the launcher can close what lies between.
    yield from sorted(obtained, key=lambda op: (op.code, op.b if op.code is OpCode.INHERIT else op.a))
    for slot, grant in given:
        label = f"grant {grant.name}: " + ("its number" if is_stored(grant) else f"number {number_of(grant)}")
        yield ops.place(slot, number_of(grant), label, propagate=grant.propagate)
    yield ops.capabilities()
    yield ops.sweep()
    yield ops.verify()


def environment_set(profile: Profile, grants: Sequence[Grant]) -> dict[str, str]:
    """Return the variables that the child gets beside those that the profile keeps: set ones and grants' numbers."""
    variables = dict(profile.environment.set) | {variable_for(g.name): str(number_of(g)) for g in grants}
    activated = [grant for grant in grants if profile.descriptors.activation and is_activated(grant)]
    if activated:
        variables |= {LISTEN_FDS: str(len(activated)), LISTEN_FDNAMES: ":".join(grant.name for grant in activated)}
    return variables


def _carried_ops(profile: Profile, grants: Sequence[Grant], caller: Caller, said: Collection[str]) -> Iterator[Op]:
    """Yield what becomes of the caller's variables that carry descriptors, but for those that are `said` anew."""
    notified = notify_variables(profile, caller)
    for name, value in notified.items():
        yield ops.env_set(name, value)
    ids = [LISTEN_PID] if profile.descriptors.activation and any(map(is_activated, grants)) else []
    if WATCHDOG_USEC in notified and WATCHDOG_PID in caller.environ:
        ids.append(WATCHDOG_PID)
    yield from map(ops.env_pid, ids)
    numbers = {grant.fd: number_of(grant) for grant in grants if isinstance(grant, InheritGrant)}
    for name, new in carried.rewritten(caller.environ, numbers).items():
        if not (name in said or name in notified or name in ids) and _is_kept(profile, name):
            yield ops.env_drop(name) if new is None else ops.env_set(name, new)


def _is_kept(profile: Profile, variable: str) -> bool:
    return any(keeps(pattern, variable) for pattern in profile.environment.keep)


def notify_variables(profile: Profile, caller: Caller) -> dict[str, str]:
    """Return the variables by which the child tells the caller's service manager how it is, where that asks for it."""
    if not profile.process.notify:
        return {}
    # A watchdog waits for the process that WATCHDOG_PID names, where it names one.
    ours = caller.environ.get(WATCHDOG_PID, str(caller.pid)) == str(caller.pid)
    names = (NOTIFY_SOCKET, WATCHDOG_USEC) if ours else (NOTIFY_SOCKET,)
    return {name: caller.environ[name] for name in names if name in caller.environ}


def _attribute_ops(profile: Profile, grants: Sequence[Grant], caller: Caller) -> Iterator[Op]:
    variables = environment_set(profile, grants)
    if len(variables) > MAX_ENV_OPS or len(profile.environment.keep) > MAX_ENV_OPS:
        raise PlanError("environment", f"more than {MAX_ENV_OPS} variables are named", "name fewer")
    yield ops.signals()
    yield ops.umask(profile.process.umask)
    yield ops.reset()
    folder = walls.working_directory(profile, caller)
    if folder is not None:
        yield ops.chdir(folder)
    for pattern in profile.environment.keep:
        _refuse_kept_secret(pattern, grants)
        yield ops.env_keep(pattern)
    for name, value in variables.items():
        yield ops.env_set(name, value)
    yield from _carried_ops(profile, grants, caller, variables)


def keeps(pattern: str, variable: str) -> bool:
    """Tell whether a word of environment.keep means a variable: it is the name, or its start and *, as in child.c."""
    return variable.startswith(pattern[:-1]) if pattern.endswith("*") else variable == pattern


def _refuse_kept_secret(pattern: str, grants: Sequence[Grant]) -> None:
    """A secret that comes from a variable leaves the environment: it travels as a descriptor only."""
    for grant in grants:
        if isinstance(grant, SecretGrant) and grant.variable and keeps(pattern, grant.variable):
            raise GrantError(
                grant.name,
                f"the environment keeps {pattern!r}, which holds the secret",
                "take it out of environment.keep",
            )


def _confinement_ops(profile: Profile, grants: Sequence[Grant], held: Sequence[Grant], caller: Caller) -> Iterator[Op]:
    """Yield the ops of Landlock and the filters; grants: all that are declared, held: those that are there."""
    yield ops.no_new_privs()
    yield from walls.landlock_ops(profile, held, caller)
    if profile.process.exec is ExecPolicy.ONCE:
        yield ops.exec_once()
    else:
        yield ops.gate()
    policy = filter_policy(profile, grants, caller.landlock_abi)
    if policy.keeps_peers and notify_variables(profile, caller):
        reason = "with a udp grant no call may name an address, and sd_notify(3) does"
        raise UsageError("process.notify", reason, "leave notify or the grant out")
    *asking, first, second = seccomp.compile_stack(policy)
    yield from map(ops.filter_program, (first, second))
    yield from map(ops.notify_program, asking)


def child_path(profile: Profile, caller: Caller) -> str:
    """Return the PATH that the child will have, by which its command is looked up."""
    settings = dict(profile.environment.set)
    if "PATH" in settings:
        return settings["PATH"]
    kept = any(keeps(pattern, "PATH") for pattern in profile.environment.keep)
    return caller.environ.get("PATH", DEFAULT_PATH) if kept else DEFAULT_PATH


def _exec_ops(profile: Profile, arguments: Sequence[str], caller: Caller) -> Iterator[Op]:
    return command_ops(arguments, child_path(profile, caller))


def command_ops(arguments: Sequence[str], path: str) -> Iterator[Op]:
    """Yield the ops that look a command up in `path` and execute it, as execvp(3) does.

    Raises: UsageError for more folders or arguments than a plan takes.
    """
    name = arguments[0]
    candidates = [name]
    if "/" not in name:
        folders = path.split(os.pathsep)
        candidates = list(dict.fromkeys(os.path.join(folder or ".", name) for folder in folders))
    if len(candidates) > MAX_COMMANDS:
        raise UsageError("PATH", f"it has more than {MAX_COMMANDS} folders", "give the command's path")
    if len(arguments) > MAX_ARGS:
        raise UsageError("command", f"it has more than {MAX_ARGS} arguments", "pass them by a file or a pipe")
    for candidate in candidates:
        yield ops.command(candidate, candidate)
    yield ops.execute(arguments, name)
