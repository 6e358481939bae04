"""Profile and command -> Plan. Pure: what it needs of the outside comes in a Caller value."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

from sandbox import plan as ops
from sandbox import seccomp, syscalls, walls
from sandbox.caller import Caller
from sandbox.errors import GrantError, PlanError, UsageError
from sandbox.grants import (
    MAX_COPY,
    SAFE_TYPES,
    STDIO_TYPES,
    CopyGrant,
    DataGrant,
    DirectoryGrant,
    FdType,
    FileGrant,
    Grant,
    InheritGrant,
    ScratchGrant,
    SecretGrant,
    checked,
    number_grants,
    number_of,
    substitute,
    variable_for,
)
from sandbox.plan import MAX_ARGS, MAX_COMMANDS, MAX_ENV_OPS, MAX_PROTOCOLS, Op, Plan, StatusFormat
from sandbox.profile import ExecPolicy, Profile, ScmRights, check, delegated
from sandbox.sizes import format_size

DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


def build(
    profile: Profile,
    command: Sequence[str],
    caller: Caller,
    *,
    status: tuple[int, StatusFormat] | None = None,
    exec_events: bool = False,
    trace: bool = False,
    quiet: bool = False,
) -> Plan:
    """Compile a profile and a command into the plan that the launcher carries out.

    profile: as profile.for_caller() returns it, every path absolute.
    exec_events: the records tell each later exec too. trace: so does standard error, for people.
    status: the caller's descriptor for records of the run, and their form. quiet: failures go there only.
    Establishes: every grant is placed once at its number; the filter reserves exactly those numbers.
    Raises: ProfileError, GrantError, UsageError before anything is started; UnsupportedError without libseccomp.
    """
    check(profile)
    grants = number_grants(profile.grants)
    arguments = [substitute(_clean(word), grants) for word in command]
    if not arguments or not arguments[0]:
        raise UsageError("command", "it is empty", "give a program and its arguments")
    parts = (
        *_launcher_ops(profile, caller, status, exec_events=exec_events, trace=trace),
        *_descriptor_ops(profile, grants, status),
        *walls.wall_ops(profile, caller),
        *_attribute_ops(profile, grants, caller),
        *_confinement_ops(profile, grants, caller),
        *_exec_ops(profile, arguments, caller),
    )
    return Plan(
        tuple(sorted(parts, key=lambda op: op.code)),  # by phase; ops of one code keep their order
        quiet=quiet,
    )


def build_obtaining(grant: Grant, status: int) -> Plan:
    """Compile a plan that obtains one grant, into slot 0, and starts nothing; failures go to descriptor `status`."""
    return Plan((ops.status(status, StatusFormat.RECORDS), _obtain(0, checked(grant))), quiet=True, obtain=True)


def filter_policy(profile: Profile, grants: Sequence[Grant]) -> seccomp.FilterPolicy:
    """Return what the filter of a profile refuses and allows, with the numbers of its grants reserved."""
    return seccomp.FilterPolicy(
        allow=syscalls.expand(profile.filter.allow),
        reserved=(*((0, 1, 2) if profile.descriptors.reserve_stdio else ()), *(number_of(grant) for grant in grants)),
        gated=bool(profile.descriptors.delegate) and profile.process.exec is ExecPolicy.ALLOW,
        strict=profile.descriptors.strict,
        unix_sockets=profile.descriptors.scm_rights is ScmRights.ALLOW,
    )


def _clean(word: str) -> str:
    if "\0" in word:
        raise UsageError(repr(word), "an argument holds a NUL byte", "no program can be given one")
    return word


def _launcher_ops(
    profile: Profile, caller: Caller, status: tuple[int, StatusFormat] | None, *, exec_events: bool, trace: bool
) -> Iterator[Op]:
    if status is not None:
        yield ops.status(*status, execs=exec_events)
    if profile.process.die_with_parent:
        yield ops.die_with_parent(caller.parent_pid)
    if trace:
        yield ops.trace()
    rules = [(protocol.name, rule) for protocol in delegated(profile) for rule in protocol.rules]
    if len(rules) > MAX_PROTOCOLS:
        raise PlanError("descriptors.delegate", f"more than {MAX_PROTOCOLS} rules are named", "name fewer protocols")
    for name, rule in rules:
        yield ops.protocol(name, rule)


def grant_label(grant: Grant) -> str:
    """Return the words by which messages name a grant."""
    match grant:
        case InheritGrant():
            return f"grant {grant.name}: descriptor {grant.inherit}"
        case FileGrant():
            return f"grant {grant.name}: file {grant.file}"
        case DirectoryGrant():
            return f"grant {grant.name}: folder {grant.directory}"
        case SecretGrant():
            source = f"variable {grant.variable}" if grant.variable else f"file {grant.secret}"
            return f"grant {grant.name}: {source}"
        case DataGrant():
            return f"grant {grant.name}: text"
        case CopyGrant():
            return f"grant {grant.name}: copy of {grant.copy}"
        case ScratchGrant():
            return f"grant {grant.name}: scratch file of {format_size(grant.scratch)}"


def _obtain(slot: int, grant: Grant) -> Op:
    label = grant_label(grant)
    match grant:
        case InheritGrant(type=fd_type):
            types = SAFE_TYPES if fd_type is None else frozenset({fd_type})
            return ops.inherit(slot, grant.inherit, types, grant.access, label, raw=grant.raw)
        case FileGrant(file=path, access=access, create=create, truncate=truncate):
            return ops.file(slot, path, access, create=create, truncate=truncate, label=label, raw=grant.raw)
        case DirectoryGrant(directory=path, write=write, create=create):
            return ops.directory(slot, path, write=write or create, execute=grant.execute, label=label)
        case SecretGrant(variable=None):
            return ops.secret_file(slot, grant.secret, label)
        case SecretGrant():
            return ops.secret_env(slot, grant.variable or "", label)
        case DataGrant():
            return ops.data_text(slot, grant.data, label)
        case CopyGrant():
            return ops.data_file(slot, grant.copy, MAX_COPY, label)
        case ScratchGrant():
            return ops.scratch(slot, grant.scratch, label)


def _descriptor_ops(profile: Profile, grants: Sequence[Grant], status: tuple[int, StatusFormat] | None) -> Iterator[Op]:
    for grant in grants:
        if status is not None and isinstance(grant, InheritGrant) and grant.inherit == status[0]:
            raise GrantError(grant.name, f"descriptor {grant.inherit} is the status descriptor", "use another one")
    # A standard stream may be a Unix socket; where nothing may be sent over one, none is accepted.
    denied = profile.descriptors.scm_rights is ScmRights.DENY
    yield ops.stdio(
        STDIO_TYPES - {FdType.SOCKET} if denied else STDIO_TYPES,
        ops.Streams[profile.process.streams.name], profile.limits.output or 0,
    )  # fmt: skip
    obtained = [_obtain(slot, grant) for slot, grant in enumerate(grants)]
    # Within a code, INHERIT ascends by the caller's number: so the launcher can close what lies between.
    yield from sorted(obtained, key=lambda op: (op.code, op.b if op.code is ops.OpCode.INHERIT else op.a))
    for slot, grant in enumerate(grants):
        label = f"grant {grant.name}: number {number_of(grant)}"
        yield ops.place(slot, number_of(grant), label, propagate=grant.propagate)
    yield ops.capabilities()
    yield ops.sweep()
    yield ops.verify()


def environment_set(profile: Profile, grants: Sequence[Grant]) -> dict[str, str]:
    """Return the variables that the child gets beside those that the profile keeps: set ones and grants' numbers."""
    return dict(profile.environment.set) | {variable_for(g.name): str(number_of(g)) for g in grants}


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


def _confinement_ops(profile: Profile, grants: Sequence[Grant], caller: Caller) -> Iterator[Op]:
    yield ops.no_new_privs()
    yield from walls.landlock_ops(profile, grants, caller)
    if profile.process.exec is ExecPolicy.ONCE:
        yield ops.exec_once()
    else:
        yield ops.gate()
    for program in seccomp.compile(filter_policy(profile, grants)):
        yield ops.filter_program(program)


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
