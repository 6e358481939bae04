"""A profile for one caller: placeholders become paths, and what the command line or Python says is added. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sandbox.allowlist import BindRule, PeerRule
from sandbox.caller import Caller
from sandbox.carried import LISTEN_FDS, NOTIFY_SOCKET, passed_by_manager
from sandbox.errors import GrantError, ProfileError, UsageError
from sandbox.filesystem import FilesystemPolicy, covers, normal, split_optional
from sandbox.grants import (
    ABSENT,
    ConnectGrant,
    CopyGrant,
    DatagramGrant,
    DirectoryGrant,
    FileGrant,
    Grant,
    InheritGrant,
    ListenGrant,
    SecretGrant,
)
from sandbox.limits import Limits, parse
from sandbox.profile import (
    PATH_LISTS,
    NetworkMode,
    NetworkPolicy,
    ProcessPolicy,
    Profile,
    SharedNamespace,
    StreamsPolicy,
    Tty,
    check_variables,
    dotted,
    merge_environment,
    merge_grants,
    union,
)

_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Additions:
    """What the command line or the Python caller adds to a profile. Paths are taken as they stand.

    filesystem: its lists are added to the profile's, view and proc are not looked at. limits: by name, as text or
    number. None and empty: as the profile says.
    """

    grants: tuple[Grant, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    chdir: str | None = None
    filesystem: FilesystemPolicy = field(default_factory=FilesystemPolicy)
    network: NetworkMode | None = None
    allow: tuple[PeerRule, ...] = ()
    bind: tuple[BindRule, ...] = ()
    dns: bool = False
    netns: str | None = None
    share: tuple[SharedNamespace, ...] = ()
    delegate: tuple[str, ...] = ()
    limits: Mapping[str, str | float] = field(default_factory=dict)
    tty: Tty | None = None
    streams: StreamsPolicy | None = None
    user: str | None = None
    group: str | None = None
    activation: bool = False
    notify: bool = False
    die_with_parent: bool = False


def for_caller(profile: Profile, caller: Caller, additions: Additions | None = None) -> Profile:
    """Resolve a profile's placeholders, then add what the command line or the Python caller says.

    Relative paths that are added start at the caller's working directory. A grant replaces its namesake of the profile,
    a path that is added to be shown the profile's tmpfs in its place.
    `{cwd}` in the view is the folder that the command starts in: the one that `chdir` names, else the caller's.
    Establishes: every path is absolute.
    Raises: GrantError if a name is given to two of the added grants; ProfileError if a placeholder has no value, or for
    a bad variable; UsageError for a bad limit.
    """
    added = additions or Additions()
    names = [grant.name for grant in added.grants]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise GrantError(doubled, "the name is used twice", "give each grant one of its own")
    check_variables(added.keep, added.variables, "command line")
    own = tuple(_expand_grant(grant, caller, profile) for grant in profile.grants)
    added_grants = tuple(grant_for_caller(grant, caller) for grant in added.grants)
    process = _process_for(profile, caller, added)
    started_in = caller if process.chdir is None else replace(caller, cwd=process.chdir)
    files = _absolute_lists(added.filesystem, caller)
    if process.notify:
        _refuse_abstract(caller.environ.get(NOTIFY_SOCKET, ""))
    # A home folder that was named to start in is the one of the view; one that we happen to be in may be a mistake.
    at_home = process.chdir is not None or covers(files, caller.cwd or "/")
    grants = merge_grants(own, added_grants)
    return replace(
        profile,
        process=process,
        environment=merge_environment(profile.environment, added.keep, added.variables),
        grants=grants,
        filesystem=_filesystem_for(profile, started_in, files, at_home=at_home),
        network=_network_for(profile, added),
        share=union(profile.share, added.share),
        descriptors=replace(
            profile.descriptors,
            delegate=union(profile.descriptors.delegate, added.delegate),
            activation=profile.descriptors.activation or added.activation,
        ),
        limits=_without_core_dumps(replace(profile.limits, **_parsed(added.limits)), grants),
    )


def _network_for(profile: Profile, added: Additions) -> NetworkPolicy:
    own = profile.network
    return replace(
        own, mode=added.network or own.mode, allow=union(own.allow, added.allow), bind=union(own.bind, added.bind),
        dns=own.dns or added.dns, netns=added.netns or own.netns,
    )  # fmt: skip


def _refuse_abstract(notify_socket: str) -> None:
    """The socket's path has ours in the view; an abstract name has no such place."""
    if notify_socket and not notify_socket.startswith("/"):
        raise UsageError(
            "process.notify", f"NOTIFY_SOCKET is {notify_socket!r}, which is no path",
            "abstract names are not reached from a sandbox; leave notify out",
        )  # fmt: skip


def passed_grants(profile: Profile, caller: Caller) -> Profile:
    """Return the profile with the numbers of the descriptors that a service manager has passed to the caller.

    Raises: GrantError for one that it has not passed, or that was passed to another process.
    """
    grants = tuple(_passed(grant, caller) if isinstance(grant, InheritGrant) else grant for grant in profile.grants)
    return replace(profile, grants=grants)


def _passed(grant: InheritGrant, caller: Caller) -> InheritGrant:
    if grant.passed_as is None or grant.passed_fd is not None:
        return grant
    if grant.stored and not caller.environ.get(LISTEN_FDS):
        return replace(grant, passed_fd=ABSENT)
    found = passed_by_manager(caller.environ, caller.pid)
    if grant.stored and not isinstance(found, str) and grant.passed_as not in found:
        return replace(grant, passed_fd=ABSENT)
    if isinstance(found, str):
        raise GrantError(
            grant.name, f"{grant.inherit}: {found}", "start it by a socket unit, or systemd-socket-activate"
        )
    numbers = found.get(grant.passed_as, [])
    if len(numbers) != 1:
        said = f"{len(numbers)} descriptors have that name" if numbers else "no descriptor has that name"
        hint = f"passed are {', '.join(sorted(found)) or 'none'}; see FileDescriptorName= of systemd.socket(5)"
        raise GrantError(grant.name, f"{grant.inherit}: {said}", hint)
    return replace(grant, passed_fd=numbers[0])


def _without_core_dumps(limits: Limits, grants: Iterable[Grant]) -> Limits:
    """A core dump holds what the program has read of a secret; who wants one all the same sets core_size."""
    if limits.core_size is None and any(isinstance(grant, SecretGrant) for grant in grants):
        return replace(limits, core_size=0)
    return limits


def _parsed(limits: Mapping[str, str | float]) -> dict[str, Any]:
    return {name: _parsed_limit(name, value) for name, value in limits.items()}


def _parsed_limit(name: str, value: str | float) -> int | float:
    try:
        return parse(name, value)
    except UsageError as error:
        reason = error.reason if error.object == name else f"{error.object}: {error.reason}"
        raise UsageError(f"limit {name}", reason, error.hint) from error


def _process_for(profile: Profile, caller: Caller, added: Additions) -> ProcessPolicy:
    process = profile.process
    folder = process.chdir
    if folder is not None:
        folder = _expand(folder, caller, profile, "process.chdir")
    return replace(
        process,
        chdir=folder if added.chdir is None else _absolute(added.chdir, caller),
        tty=added.tty or process.tty,
        streams=added.streams or process.streams,
        notify=process.notify or added.notify,
        die_with_parent=process.die_with_parent or added.die_with_parent,
        user=added.user or process.user,
        group=added.group or (None if added.user else process.group),
    )


def _absolute_lists(lists: FilesystemPolicy, caller: Caller) -> FilesystemPolicy:
    def absolute(name: str) -> tuple[str, ...]:
        return tuple(_marked(text, lambda path: _absolute(path, caller)) for text in getattr(lists, name))

    return FilesystemPolicy(**{name: absolute(name) for name in PATH_LISTS})  # type: ignore[arg-type]


def _filesystem_for(
    profile: Profile, caller: Caller, added: FilesystemPolicy, *, at_home: bool
) -> FilesystemPolicy:  # fmt: skip
    own = {name: tuple(_expanded_entries(profile, caller, name, at_home=at_home)) for name in PATH_LISTS}
    # Who says --write ~ means the folder, and not the empty one that the profile has in its place.
    shown = {_path_of(text) for name in ("read", "write", "execute", "private") for text in getattr(added, name)}
    own["tmpfs"] = tuple(text for text in own["tmpfs"] if _path_of(text) not in shown)
    lists: dict[str, Any] = {name: union(texts, getattr(added, name)) for name, texts in own.items()}
    return replace(profile.filesystem, **lists)


def _path_of(text: str) -> str:
    return normal(split_optional(text)[0])


def _marked(text: str, change: Callable[[str], str]) -> str:
    path, optional = split_optional(text)
    return "-" * optional + change(path)


def _expanded_entries(profile: Profile, caller: Caller, name: str, *, at_home: bool) -> Iterator[str]:
    """Yield a list of the profile's view; what it says of `{home}` and `{cwd}` where there is none is left out."""
    for index, text in enumerate(getattr(profile.filesystem, name)):
        key = f"filesystem.{name}[{index}]"
        path = split_optional(text)[0]
        if path == "{home}" and caller.home == "/":
            continue  # a user without a home folder
        if path == "{cwd}" and (caller.cwd == "/" or (_shows_home(caller) and at_home)):
            continue
        if path == "{cwd}":
            _refuse_home(profile, caller, key)
        yield _marked(text, lambda path, key=key: _expand(path, caller, profile, key))  # type: ignore[misc]


def _shows_home(caller: Caller) -> bool:
    folder = caller.cwd.rstrip("/")
    return bool(folder) and f"{caller.home}/".startswith(f"{folder}/")


def _refuse_home(profile: Profile, caller: Caller, key: str) -> None:
    """A whole home folder is not what a profile means by the working directory."""
    if _shows_home(caller):
        raise ProfileError(
            profile.source_path or profile.name, key,
            f"the working directory is {caller.cwd}, which would show all of your home folder",
            "change into a project's folder, or name one: --chdir DIR; or show what is needed: --read DIR",
        )  # fmt: skip


def _expand_grant(grant: Grant, caller: Caller, profile: Profile) -> Grant:
    key = dotted("grants", grant.name)
    return _with_path(grant, lambda text: _expand(text, caller, profile, key))


def _with_path(grant: Grant, change: Callable[[str], str]) -> Grant:
    if isinstance(grant, FileGrant):
        return replace(grant, file=change(grant.file))
    if isinstance(grant, DirectoryGrant):
        return replace(grant, directory=change(grant.directory))
    if isinstance(grant, SecretGrant) and grant.variable is None:
        return replace(grant, secret=change(grant.secret))
    if isinstance(grant, ListenGrant | ConnectGrant | DatagramGrant) and grant.address.is_path:
        text = f"unix:{change(grant.address.path)}"
        match grant:
            case ListenGrant():
                return replace(grant, listen=text)
            case ConnectGrant():
                return replace(grant, connect=text)
            case DatagramGrant():
                return replace(grant, datagram=text)
    if isinstance(grant, CopyGrant):
        return replace(grant, copy=change(grant.copy))
    return grant


def grant_for_caller(grant: Grant, caller: Caller) -> Grant:
    """Return an added grant with its path absolute: a relative one starts at the caller's working directory."""
    return _with_path(grant, lambda text: _absolute(text, caller))


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
        if match[1] == "cwd" and not found:
            raise ProfileError(
                profile.source_path or profile.name, key, "the working directory is gone", "name one: --chdir /"
            )
        if not found or not found.startswith("/"):
            reason = f"{match[0]} stands for {found!r} here, which is no absolute path"
            raise ProfileError(profile.source_path or profile.name, key, reason, "set the caller's variable for it")
        return found

    return _PLACEHOLDER.sub(value, text)
