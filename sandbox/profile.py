"""Profiles as values: what a sandbox grants, what is refused before anything starts, what a caller adds.

Their text is profile_text.py's and profile_format.py's, reading files and `extends` profile_files.py's; this module
does no input or output.
"""

from __future__ import annotations

import difflib
import enum
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from sandbox import syscalls
from sandbox.caller import Caller
from sandbox.errors import GrantError, ProfileError
from sandbox.filesystem import FilesystemPolicy, split_optional
from sandbox.grants import FdType, FileGrant, Grant, InheritGrant, SecretGrant, number_grants
from sandbox.landlock import ABI_OF, LandlockPolicy
from sandbox.limits import Limits, parse
from sandbox.protocols import PROTOCOLS, Protocol

DEFAULT_UMASK: Final = 0o022
# Without these no program can be started, report a failure, or end.
MANDATORY_CALLS: Final = frozenset({"execve", "exit_group", "write"})
_PLACEHOLDERS: Final = tuple(Caller({}, "", "", "", "", 0).placeholders())
# Patterns hold for JSON schema's readers as well as for `re`; there, $ would also match before a last newline.
END: Final = r"$(?!\n)"
NAME_PATTERN: Final = r"^[A-Za-z][A-Za-z0-9_.-]{0,62}" + END
VARIABLE_PATTERN: Final = r"^[^=\x00]+" + END
# ? and [ are refused since fnmatch(3) would read them as more than themselves.
KEPT_PATTERN: Final = r"^(?!$)[^=\x00*?\[\]]*\*?" + END
ONE_LINE_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*" + END
# A placeholder is absolute, so it can only be the start; other braces are mistakes more often than names.
PATH_PATTERN: Final = r"^(/|\{(" + "|".join(_PLACEHOLDERS) + r")\}(/|$))[^{}\x00]*" + END
VIEW_PATTERN: Final = "^-?" + PATH_PATTERN[1:]
HOSTNAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9.-]{0,62}" + END
CPUS_PATTERN: Final = r"^[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*" + END
_VARIABLE = re.compile(VARIABLE_PATTERN)
_KEPT = re.compile(KEPT_PATTERN)
_PATH = re.compile(PATH_PATTERN)
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")
T = TypeVar("T")


class ExecPolicy(enum.StrEnum):
    """Which programs may be executed: any, or the command itself and none after it."""

    ALLOW = "allow"
    ONCE = "once"


class Tty(enum.StrEnum):
    """What the child has for a terminal. auto: private where the caller's input and output are terminals, else none."""

    NONE = "none"
    PRIVATE = "private"
    INHERIT = "inherit"
    AUTO = "auto"


class Scheduling(enum.StrEnum):
    """How the kernel shares processors out to the child. sched(7)"""

    OTHER = "other"
    BATCH = "batch"
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class ProcessPolicy:
    """What the child starts with. chdir None: the caller's working directory.

    user, group: whom root becomes, by name or number; None: the caller. nice, scheduling, cpus (0-3,8), oom_score_adj:
    None is the caller's.
    """

    umask: int = DEFAULT_UMASK
    chdir: str | None = None
    die_with_parent: bool = False
    exec: ExecPolicy = ExecPolicy.ALLOW
    tty: Tty = Tty.NONE
    hostname: str = "sandbox"
    user: str | None = None
    group: str | None = None
    nice: int | None = None
    scheduling: Scheduling | None = None
    cpus: str | None = None
    oom_score_adj: int | None = None


class NetworkMode(enum.StrEnum):
    """Which network the sandbox has: none at all, a loopback of its own, or the host's."""

    NONE = "none"
    LOOPBACK = "loopback"
    HOST = "host"


class SharedNamespace(enum.StrEnum):
    """A namespace that a sandbox can share with the host; what is not named is its own."""

    USER = "user"
    MOUNT = "mount"
    PID = "pid"
    IPC = "ipc"
    UTS = "uts"
    CGROUP = "cgroup"


@dataclass(frozen=True, slots=True)
class Environment:
    """The child's variables: those of the caller's that `keep` names, and `set`. Nothing else."""

    keep: tuple[str, ...] = ()
    set: tuple[tuple[str, str], ...] = ()


class ScmRights(enum.StrEnum):
    """Whether descriptors may be sent over Unix sockets."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class DescriptorPolicy:
    """What becomes of descriptors at later execs, and inside. delegate: names of protocols; empty: none passes."""

    delegate: tuple[str, ...] = ()
    reserve_stdio: bool = False
    strict: bool = False
    scm_rights: ScmRights = ScmRights.ALLOW


@dataclass(frozen=True, slots=True)
class FilterSection:
    """The syscalls that are let through: groups (`@base`) and names."""

    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """What a sandbox grants. Empty means nothing."""

    name: str
    source_path: str = ""
    description: str = ""
    process: ProcessPolicy = field(default_factory=ProcessPolicy)
    environment: Environment = field(default_factory=Environment)
    filter: FilterSection = field(default_factory=FilterSection)
    grants: tuple[Grant, ...] = ()
    descriptors: DescriptorPolicy = field(default_factory=DescriptorPolicy)
    protocols: tuple[Protocol, ...] = ()
    filesystem: FilesystemPolicy = field(default_factory=FilesystemPolicy)
    network: NetworkMode = NetworkMode.NONE
    share: tuple[SharedNamespace, ...] = ()
    limits: Limits = field(default_factory=Limits)
    landlock: LandlockPolicy = field(default_factory=LandlockPolicy)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint: the known word that is nearest, and all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, 1, 0.6)
    return (f"did you mean {close[0]!r}? " if close else "") + "known here: " + ", ".join(names)


def dotted(prefix: str, key: str) -> str:
    """Return a key as TOML writes it, on one line whatever it holds."""
    name = key if _BARE_KEY.match(key) else json.dumps(key)
    return f"{prefix}.{name}" if prefix else name


PATH_LISTS: Final = ("read", "write", "execute", "tmpfs", "private", "hide")


def check_view_path(text: str, path: str, key: str) -> None:
    """Refuse what is no entry of a view: a path as elsewhere, after the mark of an optional one."""
    check_path(split_optional(text)[0], path, key)


def check_path(text: str, path: str, key: str) -> None:
    """Refuse what PATH_PATTERN does not describe, each kind of mistake with its own words."""
    if not text.startswith(("/", "{")):
        raise ProfileError(
            path, key, f"{text!r} is not absolute", "start with / or {home}, {cwd}, {runtime_dir}, {tmp}"
        )
    if "\0" in text:
        raise ProfileError(path, key, "it holds a NUL byte", "no path can")
    for word in _PLACEHOLDER.findall(text):
        if word not in _PLACEHOLDERS:
            raise ProfileError(path, key, f"{text!r}: unknown placeholder", nearest(word, _PLACEHOLDERS))
    if not _PATH.match(text):
        raise ProfileError(path, key, f"{text!r}: a placeholder or brace out of place", "begin with it: {home}/a/file")


def check_variables(keep: Iterable[str], variables: Mapping[str, str], path: str) -> None:
    """Refuse names in `environment.keep` and `environment.set` that mean nothing, and values that hold NUL."""
    for index, name in enumerate(keep):
        if not _KEPT.match(name):
            raise ProfileError(
                path, f"environment.keep[{index}]", f"{name!r} is no name", "a * may stand at the end only"
            )
    for name, value in variables.items():
        if not _VARIABLE.match(name) or "\0" in value:
            raise ProfileError(path, dotted("environment.set", name), "not a variable", "no '=' or NUL in names")


def union(first: tuple[T, ...], second: tuple[T, ...]) -> tuple[T, ...]:
    """Return both without doubles, each item where it came first."""
    return tuple(dict.fromkeys((*first, *second)))


def merge_environment(first: Environment, keep: tuple[str, ...], variables: Mapping[str, str]) -> Environment:
    """Add to an environment; a variable that is now kept by its name is no longer set, so that the later word wins."""
    earlier = {name: value for name, value in first.set if name not in keep}
    return Environment(keep=union(first.keep, keep), set=tuple((earlier | dict(variables)).items()))


def merge_grants(first: Iterable[Grant], second: Iterable[Grant]) -> tuple[Grant, ...]:
    """Return the grants of both; one of `second` replaces its namesake in place."""
    merged = {grant.name: grant for grant in first}
    return tuple((merged | {grant.name: grant for grant in second}).values())


@dataclass(frozen=True, slots=True)
class Additions:
    """What the command line or the Python caller adds to a profile. Paths are taken as they stand.

    filesystem: its lists are added to the profile's, view and proc are not looked at. limits: by name, as text or
    number. None and empty: as the profile says.
    """

    grants: tuple[Grant, ...] = ()
    set_variables: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    chdir: str | None = None
    filesystem: FilesystemPolicy = field(default_factory=FilesystemPolicy)
    network: NetworkMode | None = None
    share: tuple[SharedNamespace, ...] = ()
    limits: Mapping[str, str | float] = field(default_factory=dict)
    tty: Tty | None = None
    user: str | None = None
    group: str | None = None


def for_caller(profile: Profile, caller: Caller, additions: Additions | None = None) -> Profile:
    """Resolve a profile's placeholders, then add what the command line or the Python caller says.

    Relative paths that are added start at the caller's working directory. A grant replaces its namesake of the profile.
    Establishes: every path is absolute.
    Raises: GrantError if a name is given to two of the added grants; ProfileError if a placeholder has no value, or for
    a bad variable; UsageError for a bad limit.
    """
    added = additions or Additions()
    names = [grant.name for grant in added.grants]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise GrantError(doubled, "the name is used twice", "give each grant one of its own")
    check_variables(added.keep, added.set_variables, "command line")
    own = tuple(_expand_grant(grant, caller, profile) for grant in profile.grants)
    added_grants = tuple(_with_path(grant, lambda text: _absolute(text, caller)) for grant in added.grants)
    return replace(
        profile,
        process=_process_for(profile, caller, added),
        environment=merge_environment(profile.environment, added.keep, added.set_variables),
        grants=merge_grants(own, added_grants),
        filesystem=_filesystem_for(profile, caller, added.filesystem),
        network=added.network or profile.network,
        share=union(profile.share, added.share),
        limits=replace(profile.limits, **{name: parse(name, value) for name, value in added.limits.items()}),
    )


def _process_for(profile: Profile, caller: Caller, added: Additions) -> ProcessPolicy:
    process = profile.process
    folder = process.chdir
    if folder is not None:
        folder = _expand(folder, caller, profile, "process.chdir")
    return replace(
        process,
        chdir=folder if added.chdir is None else _absolute(added.chdir, caller),
        tty=added.tty or process.tty,
        user=added.user or process.user,
        group=added.group or (None if added.user else process.group),
    )


def _filesystem_for(profile: Profile, caller: Caller, added: FilesystemPolicy) -> FilesystemPolicy:
    lists = {
        name: union(
            tuple(_expanded_entries(profile, caller, name)),
            tuple(_marked(text, lambda path: _absolute(path, caller)) for text in getattr(added, name)),
        )
        for name in PATH_LISTS
    }
    return replace(profile.filesystem, **lists)


def _marked(text: str, change: Callable[[str], str]) -> str:
    path, optional = split_optional(text)
    return "-" * optional + change(path)


def _expanded_entries(profile: Profile, caller: Caller, name: str) -> Iterator[str]:
    for index, text in enumerate(getattr(profile.filesystem, name)):
        key = f"filesystem.{name}[{index}]"
        path = split_optional(text)[0]
        if path.startswith("{home}") and caller.home == "/" and name == "tmpfs":
            continue  # a user without a home folder: nothing to put there
        expanded = _marked(text, lambda path, key=key: _expand(path, caller, profile, key))  # type: ignore[misc]
        if path == "{cwd}":
            if caller.cwd == "/":
                continue  # the view has a root of its own
            _refuse_home(profile, caller, key)
        yield expanded


def _refuse_home(profile: Profile, caller: Caller, key: str) -> None:
    """A whole home folder is not what a profile means by the working directory."""
    if caller.home == caller.cwd or caller.home.startswith(caller.cwd.rstrip("/") + "/"):
        raise ProfileError(
            profile.source_path or profile.name, key, f"{{cwd}} is {caller.cwd}, which would show all of your home folder",
            "change into a project's folder or to /, or use a profile that says what it needs",
        )  # fmt: skip


def _expand_grant(grant: Grant, caller: Caller, profile: Profile) -> Grant:
    key = dotted("grants", grant.name)
    return _with_path(grant, lambda text: _expand(text, caller, profile, key))


def _with_path(grant: Grant, change: Callable[[str], str]) -> Grant:
    if isinstance(grant, FileGrant):
        return replace(grant, file=change(grant.file))
    if isinstance(grant, SecretGrant) and grant.variable is None:
        return replace(grant, secret=change(grant.secret))
    return grant


def _absolute(text: str, caller: Caller) -> str:
    if not text or "\0" in text:
        raise ProfileError("command line", "", f"{text!r} is no path", "give the path of a file or folder")
    if not caller.cwd and not text.startswith("/"):
        raise ProfileError("command line", "", f"{text!r}: the working directory is gone", "give an absolute path")
    return os.path.join(caller.cwd, text)


def _expand(text: str, caller: Caller, profile: Profile, key: str) -> str:
    values = caller.placeholders()

    def value(match: re.Match[str]) -> str:
        found = values.get(match[1])
        if not found or not found.startswith("/"):
            reason = f"{match[0]} stands for {found!r} here, which is no absolute path"
            raise ProfileError(profile.source_path or profile.name, key, reason, "set the caller's variable for it")
        return found

    return _PLACEHOLDER.sub(value, text)


def check(profile: Profile) -> None:
    """Refuse what can be refused before anything is started.

    Raises: GrantError for grants that collide; ProfileError for unknown syscalls or groups, or a filter under which
    nothing could start.
    """
    number_grants(profile.grants)
    try:
        allowed = syscalls.expand(profile.filter.allow)
    except ProfileError as error:
        raise ProfileError(profile.source_path or profile.name, "filter.allow", error.reason, error.hint) from error
    missing = sorted(MANDATORY_CALLS - allowed)
    if missing:
        raise ProfileError(
            profile.source_path or profile.name, "filter.allow",
            f"{', '.join(missing)} not allowed: nothing could start", 'add "@base"',
        )  # fmt: skip
    delegated(profile)
    _check_landlock(profile)
    for grant in profile.grants:
        may_be_socket = isinstance(grant, InheritGrant) and grant.type in (None, FdType.SOCKET)
        if may_be_socket and profile.descriptors.scm_rights is ScmRights.DENY:
            raise GrantError(grant.name, "scm_rights is denied, and this may be a Unix socket", "name another type")


def _check_landlock(profile: Profile) -> None:
    for name in profile.landlock.optional:
        if name not in ABI_OF and name != "landlock":
            source = profile.source_path or profile.name
            raise ProfileError(source, "landlock.optional", f"no right {name!r}", nearest(name, (*ABI_OF, "landlock")))


def delegated(profile: Profile) -> tuple[Protocol, ...]:
    """Return the protocols that a profile admits, built-in ones and its own.

    Raises: ProfileError for one that does not exist.
    """
    known = dict(PROTOCOLS) | {protocol.name: protocol for protocol in profile.protocols}
    for name in profile.descriptors.delegate:
        if name not in known:
            source = profile.source_path or profile.name
            raise ProfileError(source, "descriptors.delegate", f"no protocol {name!r}", nearest(name, known))
    return tuple(known[name] for name in profile.descriptors.delegate)
