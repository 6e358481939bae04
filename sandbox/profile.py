"""Profiles as values: what a sandbox grants, and what is refused before anything starts.

Their text is profile_text.py's and profile_format.py's, reading files and `extends` profile_files.py's, what a caller
adds resolve.py's; this module does no input or output.
"""

from __future__ import annotations

import difflib
import enum
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from sandbox import syscalls
from sandbox.allowlist import BindRule, PeerRule, Ports, not_routed
from sandbox.caller import Caller
from sandbox.errors import GrantError, ProfileError
from sandbox.filesystem import FilesystemPolicy, View, split_optional
from sandbox.grants import (
    SOCKET_TYPES,
    ConnectGrant,
    DatagramGrant,
    Grant,
    InheritGrant,
    ListenGrant,
    is_stored,
    number_grants,
)
from sandbox.landlock import ABI_OF, LandlockPolicy
from sandbox.limits import Limits
from sandbox.protocols import PROTOCOLS, Protocol
from sandbox.sockets import EVERY_HOST, MAX_PORT, packed_host
from sandbox.sockets import Protocol as SocketProtocol

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
NETNS_PATTERN: Final = r"^(?!\.\.?$)[^/\x00-\x1f\x7f]{1,255}" + END
COMMAND_PATTERN: Final = r"^[^/\x00-\x20\x7f]+" + END
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


class StreamsPolicy(enum.StrEnum):
    """What becomes of the caller's standard streams.

    safe: a file that is read is opened anew, one that is written is copied to by the supervisor. relay: so is all that
    goes through pipes and sockets. raw: they are the caller's, with offset, flags and all.
    """

    SAFE = "safe"
    RELAY = "relay"
    RAW = "raw"


class Scheduling(enum.StrEnum):
    """How the kernel shares processors out to the child, sched(7)."""

    OTHER = "other"
    BATCH = "batch"
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class ProcessPolicy:
    """What the child starts with. chdir None: the caller's working directory.

    user, group: whom root becomes, by name or number; None: the caller. nice, scheduling, cpus (0-3,8), oom_score_adj:
    None is the caller's. notify: it may tell the caller's service manager how it is.
    """

    umask: int = DEFAULT_UMASK
    chdir: str | None = None
    die_with_parent: bool = False
    exec: ExecPolicy = ExecPolicy.ALLOW
    tty: Tty = Tty.NONE
    streams: StreamsPolicy = StreamsPolicy.SAFE
    hostname: str = "sandbox"
    user: str | None = None
    group: str | None = None
    nice: int | None = None
    scheduling: Scheduling | None = None
    cpus: str | None = None
    oom_score_adj: int | None = None
    notify: bool = False


class NetworkMode(enum.StrEnum):
    """Which network the sandbox has: none, a loopback of its own, the host's, or (root) one of its own behind that."""

    NONE = "none"
    LOOPBACK = "loopback"
    HOST = "host"
    VETH = "veth"


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """What of the network there is: a mode, and the peers that can be reached in it.

    allow, bind: with a mode of none or loopback the supervisor connects and binds what they name, in the caller's
    network; with host they are TCP ports, for Landlock; with veth the sandbox's own network has rules. dns: the
    resolvers can be asked, which are the caller's unless some are named. netns: with veth, the name of a network that
    is joined, and none is made.
    """

    mode: NetworkMode = NetworkMode.NONE
    allow: tuple[PeerRule, ...] = ()
    bind: tuple[BindRule, ...] = ()
    dns: bool = False
    resolvers: tuple[str, ...] = ()
    netns: str | None = None

    @property
    def is_supervised(self) -> bool:
        """The supervisor makes the sockets."""
        own = self.mode in (NetworkMode.NONE, NetworkMode.LOOPBACK)
        return own and bool(self.allow or self.bind or self.dns)

    def asked(self, here: tuple[str, ...]) -> tuple[str, ...]:
        """Return the resolvers that can be asked; here: those of this host."""
        return (self.resolvers or here) if self.dns else ()

    @property
    def has_names(self) -> bool:
        """The sandbox has a hosts file and resolvers of its own."""
        return self.is_supervised or (self.mode is NetworkMode.VETH and (self.netns is None or self.dns))


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
    """What becomes of descriptors at later execs, and inside. delegate: names of protocols; empty: none passes.

    activation: sockets have the numbers from 3 up, and the child is told of them as systemd tells a service.
    """

    delegate: tuple[str, ...] = ()
    reserve_stdio: bool = False
    strict: bool = False
    scm_rights: ScmRights = ScmRights.ALLOW
    activation: bool = False


@dataclass(frozen=True, slots=True)
class FilterSection:
    """The syscalls that are let through: groups (`@base`) and names."""

    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """What a sandbox grants. Empty means nothing. commands: the programs for which it is the one to take."""

    name: str
    source_path: str = ""
    description: str = ""
    commands: tuple[str, ...] = ()
    process: ProcessPolicy = field(default_factory=ProcessPolicy)
    environment: Environment = field(default_factory=Environment)
    filter: FilterSection = field(default_factory=FilterSection)
    grants: tuple[Grant, ...] = ()
    descriptors: DescriptorPolicy = field(default_factory=DescriptorPolicy)
    protocols: tuple[Protocol, ...] = ()
    filesystem: FilesystemPolicy = field(default_factory=FilesystemPolicy)
    network: NetworkPolicy = field(default_factory=NetworkPolicy)
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


def numbered(profile: Profile) -> tuple[Grant, ...]:
    """Return a profile's grants with their numbers, ascending.

    Raises: GrantError for grants that collide.
    """
    return number_grants(profile.grants, activation=profile.descriptors.activation)


def check(profile: Profile) -> None:
    """Refuse what can be refused before anything is started.

    Raises: GrantError for grants that collide; ProfileError for unknown syscalls or groups, or a filter under which
    nothing could start.
    """
    grants = numbered(profile)
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
    _check_view(profile)
    _check_limits(profile)
    _check_network(profile)
    for grant in grants:
        if profile.descriptors.scm_rights is ScmRights.DENY and _may_be_unix(grant):
            raise GrantError(grant.name, "scm_rights is denied, and this may be a Unix socket", "name another type")
        if is_stored(grant):
            _check_stored(profile, grant)


def _check_stored(profile: Profile, grant: Grant) -> None:
    """Refuse what nobody could store, or what nobody would hold back."""
    wrong = {
        ("nothing can be stored: the service manager is told nothing", "write notify = true under [process]"):
            not profile.process.notify,
        ("scm_rights is denied, and storing sends a descriptor", "leave one of them out"):
            profile.descriptors.scm_rights is ScmRights.DENY,
        ("without a mount namespace of its own the command reaches the manager itself", "leave mount out of share"):
            SharedNamespace.MOUNT in profile.share,
    }  # fmt: skip
    for (reason, hint), holds in wrong.items():
        if holds:
            raise GrantError(grant.name, reason, hint)


def _may_be_unix(grant: Grant) -> bool:
    match grant:
        case InheritGrant():
            return bool(grant.given_types & SOCKET_TYPES)
        case ListenGrant() | ConnectGrant() | DatagramGrant():
            return grant.address.protocol is SocketProtocol.UNIX
        case _:
            return False


def _check_view(profile: Profile) -> None:
    """Refuse a view that its namespaces cannot hold."""
    source, files = profile.source_path or profile.name, profile.filesystem
    shared = set(profile.share)
    if SharedNamespace.MOUNT in shared and (files.view is View.PRIVATE or files.tmpfs or files.private or files.hide):
        reason = "the view needs a mount namespace of its own"
        raise ProfileError(
            source, "namespaces.share", reason, 'use view = "host" without tmpfs, private and hide, or leave mount out'
        )
    if (SharedNamespace.PID in shared) != (SharedNamespace.MOUNT in shared) and (
        files.view is View.PRIVATE or SharedNamespace.MOUNT in shared
    ):
        raise ProfileError(
            source, "namespaces.share", "/proc shows the processes of one PID namespace",
            'share pid only with view = "host", and mount only together with pid',
        )  # fmt: skip


def _check_limits(profile: Profile) -> None:
    most = max((grant.number or 0 for grant in numbered(profile)), default=0)
    if profile.limits.open_files is not None and most >= profile.limits.open_files:
        reason = f"a grant has number {most}"
        raise ProfileError(
            profile.source_path or profile.name, "limits.open_files", reason, f"allow more than {most} open files"
        )


def _check_network(profile: Profile) -> None:
    """Refuse rules that nothing would hold."""
    policy, source = profile.network, profile.source_path or profile.name
    if policy.resolvers and not policy.dns:
        raise ProfileError(source, "network.resolvers", "dns is false, so nobody asks them", "write dns = true")
    for index, host in enumerate(policy.resolvers):
        if packed_host(host) is None:
            raise ProfileError(source, f"network.resolvers[{index}]", f"{host!r} is no address", "as in 192.0.2.53")
    if policy.mode is NetworkMode.VETH:
        _check_veth(policy, source)
    elif policy.netns is not None:
        raise ProfileError(source, "network.netns", f"mode {policy.mode} joins none", 'write mode = "veth"')
    if (
        policy.has_names
        and SharedNamespace.MOUNT in profile.share
        and (policy.dns or any(r.name for r in policy.allow))
    ):
        raise ProfileError(
            source, "namespaces.share", "names come by /etc/hosts, which takes a mount namespace of its own",
            "leave mount out, or allow addresses",
        )  # fmt: skip
    if policy.mode is not NetworkMode.HOST:
        return
    if policy.dns:
        raise ProfileError(source, "network.dns", "with mode host all resolvers can be asked", "leave it out")
    both: dict[str, tuple[PeerRule | BindRule, ...]] = {"allow": policy.allow, "allow_bind": policy.bind}
    for key, rules in both.items():
        for index, rule in enumerate(rules):
            if not _is_port_rule(rule):
                raise ProfileError(
                    source, f"network.{key}[{index}]", f"'{rule}': in mode host Landlock holds it: TCP ports only",
                    'write tcp:*:PORT (tcp:PORT to bind), or take mode = "none", where the supervisor connects',
                )  # fmt: skip


def _check_veth(policy: NetworkPolicy, source: str) -> None:
    """Refuse what a network of the sandbox's own cannot hold, or one that is somebody else's."""
    if policy.bind:
        raise ProfileError(
            source, "network.allow_bind[0]", f"'{policy.bind[0]}': nobody outside reaches a port of mode veth",
            'grant the socket (listen = "tcp:8080"), or take mode = "none", where the supervisor binds',
        )  # fmt: skip
    if policy.netns is not None:
        if not re.match(NETNS_PATTERN, policy.netns):
            raise ProfileError(source, "network.netns", f"{policy.netns!r} is no name", "one of ip netns list")
        if policy.allow:
            raise ProfileError(
                source, "network.allow", "the network that is joined has rules of its own, or none",
                "leave netns out, and one is made for these rules",
            )  # fmt: skip
        return
    for index, rule in enumerate(policy.allow):
        if rule.name is None and (words := not_routed(rule.host)) is not None:
            raise ProfileError(
                source, f"network.allow[{index}]", f"'{rule}': {words}: nothing of the kind leaves mode veth",
                'take mode = "none", where the supervisor connects',
            )  # fmt: skip


def _is_port_rule(rule: PeerRule | BindRule) -> bool:
    host = rule.host if isinstance(rule, PeerRule) else rule.address or EVERY_HOST
    return rule.protocol is SocketProtocol.TCP and host == EVERY_HOST


def ports_of(rules: Iterable[PeerRule | BindRule]) -> tuple[int, ...] | None:
    """Return the ports that rules name, for Landlock; None: every one."""
    ranges = [rule.ports for rule in rules]
    if not ranges or EVERY_PORT in ranges:
        return None
    return tuple(sorted({port for ports in ranges for port in range(ports.first, ports.last + 1)}))


EVERY_PORT: Final = Ports(0, MAX_PORT)


def _check_landlock(profile: Profile) -> None:
    declared = any(getattr(profile.filesystem, name) for name in ("read", "write", "execute"))
    if profile.filesystem.view is View.HOST and declared and not profile.landlock.files:
        raise ProfileError(
            profile.source_path or profile.name, "landlock.files", "nothing else holds the paths of view = \"host\"",
            "leave it true, or declare no paths",
        )  # fmt: skip
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
