"""A profile's text: the model of the TOML, text -> value, merging, and the JSON schema for editors.

The only importer of msgspec. UNSET is "not said here", which merging must tell from a value.
"""

from __future__ import annotations

import difflib
import enum
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from sandbox.allowlist import parse_bind, parse_peer
from sandbox.errors import GrantError, ProfileError, UsageError
from sandbox.filesystem import FilesystemPolicy, Proc, View
from sandbox.grants import (
    KINDS,
    LAST_NUMBER,
    MAX_BACKLOG,
    MAX_GRANTS,
    MAX_TIMEOUT,
    Access,
    ConnectGrant,
    DatagramGrant,
    FdType,
    Grant,
    ListenGrant,
    checked,
    parse_scratch,
)
from sandbox.landlock import LandlockPolicy
from sandbox.limits import NAMES as LIMITS
from sandbox.limits import Limits
from sandbox.limits import parse as parse_limit
from sandbox.profile import (
    COMMAND_PATTERN,
    CPUS_PATTERN,
    END,
    HOSTNAME_PATTERN,
    KEPT_PATTERN,
    NAME_PATTERN,
    ONE_LINE_PATTERN,
    PATH_LISTS,
    PATH_PATTERN,
    VARIABLE_PATTERN,
    VIEW_PATTERN,
    DescriptorPolicy,
    ExecPolicy,
    FilterSection,
    NetworkMode,
    NetworkPolicy,
    Profile,
    Scheduling,
    ScmRights,
    SharedNamespace,
    StreamsPolicy,
    Tty,
    check_path,
    check_variables,
    check_view_path,
    dotted,
    merge_environment,
    merge_grants,
    nearest,
    union,
)
from sandbox.protocols import PROTOCOLS, Place, Protocol, ProtocolRule, Shape

MAX_RULE_TEXT: Final = 60  # names.h: the launcher remembers programs and arguments of less than 64 bytes


class ShapeWord(enum.StrEnum):
    """The words for protocols.Shape in a profile."""

    NUMBER = "number"
    LIST = "list"
    COUNT = "count"
    FIXED = "fixed"
    ALL = "all"


def _meta(description: str, pattern: str = "") -> msgspec.Meta:
    """What editors show; `pattern` only tells them what the functions below refuse with better words."""
    return msgspec.Meta(description=description, extra_json_schema={"pattern": pattern} if pattern else None)


PathText = Annotated[str, _meta("absolute, or from a placeholder on", PATH_PATTERN)]
SecretText = Annotated[str, _meta("a path, or env:NAME", f"{PATH_PATTERN}|^env:[^=\\x00]+{END}")]
KeptName = Annotated[str, _meta("a variable's name, or its start and *", KEPT_PATTERN)]
VariableName = Annotated[str, _meta("a variable's name", VARIABLE_PATTERN)]
VariableValue = Annotated[str, _meta("its value", r"^[^\x00]*$")]
# In a plan's record each is a bit of one word.
FixedNumber = Annotated[int, msgspec.Meta(ge=3, le=31)]


class ProcessTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[process]`."""

    umask: Annotated[str, msgspec.Meta(pattern="^0?[0-7]{1,3}" + END, description="octal text")] | UnsetType = UNSET
    chdir: PathText | UnsetType = UNSET
    die_with_parent: Annotated[bool, _meta("end when the starting process ends")] | UnsetType = UNSET
    exec: Annotated[ExecPolicy, _meta("once: no program after the command")] | UnsetType = UNSET
    tty: Annotated[Tty, _meta("the terminal: none, a private one, the caller's")] | UnsetType = UNSET
    streams: Annotated[StreamsPolicy, _meta("what becomes of 0, 1 and 2")] | UnsetType = UNSET
    hostname: Annotated[str, _meta("the host's name inside", HOSTNAME_PATTERN)] | UnsetType = UNSET
    user: Annotated[str, _meta("whom root becomes")] | UnsetType = UNSET
    group: Annotated[str, _meta("the group of that user")] | UnsetType = UNSET
    nice: Annotated[int, msgspec.Meta(ge=-20, le=19, description="niceness")] | UnsetType = UNSET
    scheduling: Annotated[Scheduling, _meta("scheduling policy")] | UnsetType = UNSET
    cpus: Annotated[str, _meta("processors, as 0-3,8", CPUS_PATTERN)] | UnsetType = UNSET
    oom_score_adj: Annotated[int, msgspec.Meta(ge=-1000, le=1000, description="who goes first")] | UnsetType = UNSET
    notify: Annotated[bool, _meta("it may use the caller's NOTIFY_SOCKET")] | UnsetType = UNSET


class EnvironmentTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[environment]`."""

    keep: Annotated[tuple[KeptName, ...], _meta("the caller's variables that the child gets")] = ()
    set: Annotated[dict[VariableName, VariableValue], _meta("variables and their values")] = {}


class DescriptorsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[descriptors]`."""

    delegate: Annotated[tuple[str, ...], _meta("the protocols by which an exec may name what it passes")] = ()
    reserve_stdio: Annotated[bool, _meta("0, 1 and 2 cannot be overwritten")] | UnsetType = UNSET
    strict: Annotated[bool, _meta("no call creates a descriptor without close-on-exec")] | UnsetType = UNSET
    scm_rights: Annotated[ScmRights, _meta("deny: no Unix sockets, so that none is sent")] | UnsetType = UNSET
    activation: Annotated[bool, _meta("the child is told of its sockets by LISTEN_FDS")] | UnsetType = UNSET


class RuleTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of `[protocols.NAME] rules`: a place, the form, and what narrows it down."""

    shape: Annotated[ShapeWord, _meta("how the numbers stand there")]
    variable: Annotated[str, _meta("look into this variable", VARIABLE_PATTERN)] | UnsetType = UNSET
    argument: Annotated[str, _meta("look into arguments, behind this text")] | UnsetType = UNSET
    next_argument: Annotated[str, _meta("look into the argument after this one")] | UnsetType = UNSET
    caller_argument: Annotated[str, _meta("look into the calling program's arguments")] | UnsetType = UNSET
    program: Annotated[str, _meta("only of programs with this last path component")] = ""
    after: Annotated[str, _meta("in a variable: behind this text")] = ""
    anywhere: Annotated[bool, _meta("the text may stand inside, not only at the start")] = False
    numbers: Annotated[tuple[FixedNumber, ...], _meta("shape fixed: these")] = ()


class ProtocolTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[protocols.NAME]`: a delegation protocol of the user's own."""

    rules: Annotated[tuple[RuleTable, ...], msgspec.Meta(min_length=1, description="each names descriptors")]
    description: Annotated[str, _meta("what it is for", ONE_LINE_PATTERN)] = ""


ViewPath = Annotated[str, _meta("a path; '-' before it: where it is there", VIEW_PATTERN)]
ViewPaths = tuple[ViewPath, ...]
LimitValue = str | int | float


class FilesystemTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[filesystem]`."""

    view: Annotated[View, _meta("private: only what is declared; host: its tree, held by Landlock")] | UnsetType = UNSET
    read: Annotated[ViewPaths, _meta("what can be read")] = ()
    write: Annotated[ViewPaths, _meta("what can be read and written")] = ()
    execute: Annotated[ViewPaths, _meta("what can be read and executed")] = ()
    tmpfs: Annotated[ViewPaths, _meta("empty, writable, gone at the end")] = ()
    private: Annotated[ViewPaths, _meta("as it is, writable, changes gone at the end")] = ()
    hide: Annotated[ViewPaths, _meta("empty, whatever shows it")] = ()
    proc: Annotated[Proc, _meta("what /proc shows")] | UnsetType = UNSET


def _rule_text(words: str, pattern: str) -> msgspec.Meta:
    """The pattern is for editors; what is wrong with a rule, its own parser tells better."""
    return msgspec.Meta(description=words, extra_json_schema={"pattern": pattern + END})


PeerText = Annotated[str, _rule_text("PROTOCOL:HOST:PORTS", r"^(tcp|udp):.+:[0-9*-]+")]
BindText = Annotated[str, _rule_text("PROTOCOL:PORTS", r"^(tcp|udp):(.+:)?[0-9*-]+")]


class NetworkTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[network]`."""

    mode: Annotated[NetworkMode, _meta("which network there is")] | UnsetType = UNSET
    allow: Annotated[tuple[PeerText, ...], _meta("peers that can be reached: tcp:HOST:PORT")] = ()
    allow_bind: Annotated[tuple[BindText, ...], _meta("ports that can be bound: tcp:8080")] = ()
    dns: Annotated[bool, _meta("resolvers can be asked")] | UnsetType = UNSET
    resolvers: Annotated[tuple[str, ...], _meta("addresses of the resolvers; none: the caller's")] = ()
    netns: Annotated[str, _meta("with mode veth: a network to join, by its name of ip-netns(8)")] | UnsetType = UNSET


class NamespacesTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[namespaces]`."""

    share: Annotated[tuple[SharedNamespace, ...], _meta("those that are the host's")] = ()


class LimitsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[limits]`."""

    memory: Annotated[LimitValue, _meta("bytes: 512M")] | UnsetType = UNSET
    processes: Annotated[LimitValue, _meta("processes and threads")] | UnsetType = UNSET
    cpu: Annotated[LimitValue, _meta("processors: 0.5")] | UnsetType = UNSET
    cpu_time: Annotated[LimitValue, _meta("of each process: 30s")] | UnsetType = UNSET
    open_files: Annotated[LimitValue, _meta("of each process")] | UnsetType = UNSET
    file_size: Annotated[LimitValue, _meta("of each file: 100M")] | UnsetType = UNSET
    output: Annotated[LimitValue, _meta("of each standard stream: 10M")] | UnsetType = UNSET
    core_size: Annotated[LimitValue, _meta("of each core dump; 0: none")] | UnsetType = UNSET
    timeout: Annotated[LimitValue, _meta("of the whole run: 5m")] | UnsetType = UNSET


class LandlockTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[landlock]`."""

    files: Annotated[bool, _meta("it governs files, beside the view")] | UnsetType = UNSET
    optional: Annotated[tuple[str, ...], _meta("rights that the kernel may lack")] = ()


class FilterTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[filter]`."""

    allow: Annotated[tuple[str, ...], _meta("syscall groups and names")] = ()


Number = Annotated[int, msgspec.Meta(ge=3, le=LAST_NUMBER, description="the descriptor's number in the child")]


Propagate = Annotated[bool, _meta("it passes at every exec")]


class InheritTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[grants.NAME]` with `inherit`."""

    inherit: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
        | Annotated[str, _meta("systemd:NAME", r"^systemd:[!-9;-~][ -9;-~]{0,254}" + END)],
        _meta("the caller's descriptor; or systemd:NAME"),
    ]
    type: Annotated[FdType, _meta("what it must be")] | UnsetType = UNSET
    access: Annotated[Access, _meta("how it must be open")] | UnsetType = UNSET
    raw: Annotated[bool, _meta("as it is: a file is not opened anew")] = False
    relay: Annotated[bool, _meta("the supervisor copies, one way; access says which")] = False
    stored: Annotated[bool, _meta("a service manager keeps it between starts; absent at first")] = False
    number: Number | UnsetType = UNSET
    propagate: Propagate = False


class FileTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[grants.NAME]` with `file`."""

    file: PathText
    access: Annotated[Access, _meta("how it is opened")] = Access.READ
    create: Annotated[bool, _meta("make the file if it is missing")] = False
    truncate: Annotated[bool, _meta("empty the file first")] = False
    raw: Annotated[bool, _meta("not through a mount of its own")] = False
    number: Number | UnsetType = UNSET
    propagate: Propagate = False


class DirectoryTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[grants.NAME]` with `directory`."""

    directory: PathText
    write: Annotated[bool, _meta("files in it can be written")] = False
    create: Annotated[bool, _meta("files can be made, removed and moved in it")] = False
    execute: Annotated[bool, _meta("files in it can be executed")] = False
    number: Number | UnsetType = UNSET
    propagate: Propagate = False


class SecretTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[grants.NAME]` with `secret`."""

    secret: SecretText
    number: Number | UnsetType = UNSET
    propagate: Propagate = False


_HOST_PORT: Final = r"[^:\x00]+:[0-9]{1,5}|\[[^\x00]+\]:[0-9]{1,5}"
_UNIX: Final = rf"unix:@[^\x00]+{END}|unix:{PATH_PATTERN[1:]}"
ListenText = Annotated[
    str, _meta("tcp:HOST:PORT, udp:HOST:PORT, unix:PATH", rf"^(tcp|udp):({_HOST_PORT}){END}|^({_UNIX})")
]
ConnectText = Annotated[str, _meta("tcp:HOST:PORT or unix:PATH", rf"^tcp:({_HOST_PORT}){END}|^({_UNIX})")]
DatagramText = Annotated[str, _meta("udp:HOST:PORT or unix:PATH", rf"^udp:({_HOST_PORT}){END}|^({_UNIX})")]


class ListenTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[grants.NAME]` with `listen`."""

    listen: ListenText
    backlog: Annotated[int, msgspec.Meta(ge=1, le=MAX_BACKLOG, description="connections that may wait")] | UnsetType = (
        UNSET
    )
    reuse_port: Annotated[bool, _meta("others of this user may have the port as well")] = False
    ipv6_only: Annotated[bool, _meta("an IPv6 address takes no IPv4")] = False
    mode: Annotated[str, _meta("of a path's file, octal text", "^0?[0-7]{1,3}" + END)] | UnsetType = UNSET
    owner: Annotated[str, _meta("of a path's file: NAME[:GROUP]", r"^[^:,=\x00]+(:[^:,=\x00]+)?" + END)] | UnsetType = (
        UNSET
    )
    number: Number | UnsetType = UNSET
    propagate: Propagate = False


class ConnectTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[grants.NAME]` with `connect`."""

    connect: ConnectText
    timeout: Annotated[float, msgspec.Meta(gt=0, le=MAX_TIMEOUT, description="seconds")] | UnsetType = UNSET
    number: Number | UnsetType = UNSET
    propagate: Propagate = False


class DataTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[grants.NAME]` with `data`."""

    data: Annotated[str, _meta("the text itself", r"^[^\x00]*$")]
    number: Number | UnsetType = UNSET
    propagate: Propagate = False


class CopyTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[grants.NAME]` with `copy`."""

    copy: PathText
    number: Number | UnsetType = UNSET
    propagate: Propagate = False


class ScratchTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[grants.NAME]` with `scratch`."""

    scratch: Annotated[
        Annotated[str, _meta("a size", f"^0*[1-9][0-9]*[KMGT]?{END}")]
        | Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 1})],
        _meta("how large it may grow: 64M"),
    ]
    number: Number | UnsetType = UNSET
    propagate: Propagate = False


class DatagramTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[grants.NAME]` with `datagram`."""

    datagram: DatagramText
    number: Number | UnsetType = UNSET
    propagate: Propagate = False


_SECTIONS: Final[dict[str, type[msgspec.Struct]]] = {
    "process": ProcessTable, "environment": EnvironmentTable, "filter": FilterTable,
    "descriptors": DescriptorsTable, "filesystem": FilesystemTable, "network": NetworkTable,
    "namespaces": NamespacesTable, "limits": LimitsTable, "landlock": LandlockTable,
}  # fmt: skip
_TOP_KEYS: Final = ("description", "extends", "commands", *_SECTIONS, "grants", "protocols")
_GRANT_TABLES: Final[dict[str, type[msgspec.Struct]]] = {
    "inherit": InheritTable, "file": FileTable, "directory": DirectoryTable, "secret": SecretTable,
    "listen": ListenTable, "connect": ConnectTable, "datagram": DatagramTable,
    "data": DataTable, "copy": CopyTable, "scratch": ScratchTable,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Draft:
    """One file's text, parsed: what it says, and what it extends. Unsaid things are UNSET, None or empty."""

    path: str
    description: str | None
    extends: tuple[str, ...]
    commands: tuple[str, ...]
    process: ProcessTable
    environment: EnvironmentTable
    filter: FilterTable
    grants: tuple[Grant, ...]
    descriptors: DescriptorsTable
    protocols: tuple[Protocol, ...]
    filesystem: FilesystemTable = field(default_factory=FilesystemTable)
    network: NetworkTable = field(default_factory=NetworkTable)
    namespaces: NamespacesTable = field(default_factory=NamespacesTable)
    landlock: LandlockTable = field(default_factory=LandlockTable)
    limits: Limits = field(default_factory=Limits)


def parse(text: str, path: str) -> Draft:
    """Parse one profile's text; `path` names it in errors.

    Raises: ProfileError with the dotted key: bad TOML, unknown keys, wrong types or values.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(path, "", f"not TOML: {error}", "strings need quotes, tables [brackets]") from error
    except (ValueError, RecursionError) as error:  # int() and the parser itself, at their limits
        what = "a number is too long" if isinstance(error, ValueError) else "it is nested too deeply"
        raise ProfileError(path, "", f"not TOML: {what}", "no profile needs that") from error
    _refuse_unknown(data, _TOP_KEYS, path, "")
    sections = {name: _convert(data.get(name, {}), table, path, name) for name, table in _SECTIONS.items()}
    _check_sections(sections, path)
    description = _convert(data.get("description"), str | None, path, "description")
    if description is not None and not re.match(ONE_LINE_PATTERN, description):
        raise ProfileError(path, "description", "it holds a newline or control character", "write one line of text")
    tables, protocols = data.get("grants", {}), data.get("protocols", {})
    if not isinstance(tables, dict):
        raise ProfileError(path, "grants", "it is not a table", "write [grants.NAME]")
    if not isinstance(protocols, dict):
        raise ProfileError(path, "protocols", "it is not a table", "write [protocols.NAME]")
    return Draft(
        path=path,
        description=description,
        extends=_convert(data.get("extends", ()), tuple[str, ...], path, "extends"),
        commands=_parse_commands(data.get("commands", ()), path),
        grants=tuple(_parse_grant_table(name, table, path) for name, table in tables.items()),
        protocols=tuple(_parse_protocol(name, table, path) for name, table in protocols.items()),
        **(sections | {"limits": _parse_limits(sections["limits"], path)}),
    )


def _check_sections(sections: Mapping[str, Any], path: str) -> None:
    """Refuse what the model lets through and the words below refuse better."""
    process, environment = sections["process"], sections["environment"]
    if process.chdir is not UNSET:
        check_path(process.chdir, path, "process.chdir")
    if process.hostname is not UNSET and not re.match(HOSTNAME_PATTERN, process.hostname):
        raise ProfileError(path, "process.hostname", "not a host name", "use up to 63 letters, digits, '-' and '.'")
    if process.cpus is not UNSET and not re.match(CPUS_PATTERN, process.cpus):
        raise ProfileError(path, "process.cpus", "not a list of processors", "write numbers and ranges: 0-3,8")
    check_variables(environment.keep, environment.set, path)
    for name in PATH_LISTS:
        for index, text in enumerate(getattr(sections["filesystem"], name)):
            check_view_path(text, path, f"filesystem.{name}[{index}]")
    _check_rules("allow", sections["network"].allow, parse_peer, path)
    _check_rules("allow_bind", sections["network"].allow_bind, parse_bind, path)


def _check_rules(key: str, texts: Iterable[str], parse_rule: Callable[[str], object], path: str) -> None:
    for index, text in enumerate(texts):
        try:
            parse_rule(text)
        except UsageError as error:
            raise ProfileError(path, f"network.{key}[{index}]", f"{text!r}: {error.reason}", error.hint) from error


def _parse_commands(data: object, path: str) -> tuple[str, ...]:
    commands: tuple[str, ...] = _convert(data, tuple[str, ...], path, "commands")
    for index, name in enumerate(commands):
        if not re.match(COMMAND_PATTERN, name):
            raise ProfileError(path, f"commands[{index}]", f"{name!r} is no command's name", "without its folder: git")
    return union(commands, ())


def _parse_limits(table: LimitsTable, path: str) -> Limits:
    values: dict[str, Any] = {}
    for name, value in _said(table).items():
        try:
            values[name] = parse_limit(name, value)
        except UsageError as error:
            reason = error.reason if error.object == name else f"{error.object}: {error.reason}"
            raise ProfileError(path, f"limits.{name}", reason, error.hint) from error
    return Limits(**values)


def _fields(table: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(info.encode_name for info in msgspec.structs.fields(table))


def _refuse_unknown(data: Mapping[str, object], known: Iterable[str], path: str, prefix: str) -> None:
    for key in data:
        if key not in known:
            raise ProfileError(path, dotted(prefix, key), "unknown key", nearest(key, known))


def _convert(data: object, shape: Any, path: str, key: str) -> Any:  # noqa: ANN401 - any shape of the model
    """Convert one value; msgspec's message ends in a JSON path, which becomes part of the dotted key."""
    if isinstance(shape, type) and issubclass(shape, msgspec.Struct):
        if not isinstance(data, dict):
            hint = 'write { shape = "number", ... }' if key.endswith("]") else f"write [{key}]"
            raise ProfileError(path, key, "it is not a table", hint)
        _refuse_unknown(data, _fields(shape), path, key)
    try:
        return msgspec.convert(data, shape)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$")
        inner = where.rstrip("`")
        leaf = inner.lstrip(".").split(".")[0].split("[")[0]
        value = data.get(leaf) if isinstance(data, dict) else None
        if "[...]" in inner and isinstance(value, dict):  # msgspec leaves the key out
            culprit = next(name for name, text in value.items() if not isinstance(text, str))
            inner = f".{dotted(leaf, culprit)}"
        if " matching regex " in reason:  # true, and of no help; the hint says it in words
            reason = f"{value!r} does not fit"
        hint = _hint_for(leaf, value, str(error))
        raise ProfileError(path, f"{key}{inner}", reason[:1].lower() + reason[1:], hint) from error


def _hint_for(leaf: str, value: object, expected: str) -> str:
    words: dict[str, type[enum.StrEnum]] = {
        "access": Access, "type": FdType, "exec": ExecPolicy, "scm_rights": ScmRights, "shape": ShapeWord,
        "tty": Tty, "streams": StreamsPolicy, "scheduling": Scheduling,
        "view": View, "proc": Proc, "mode": NetworkMode, "share": SharedNamespace,
    }  # fmt: skip
    known = [str(word) for word in words.get(leaf, ())]
    if isinstance(value, list):
        value = next((word for word in value if word not in known), None)
    if known and isinstance(value, str):
        return nearest(value, known)
    if expected.startswith("Expected `array`") and isinstance(value, str):
        return f"write a list: [{json.dumps(value, ensure_ascii=False)}]"
    return {"umask": 'write it as octal text, as in "022"', "number": f"use 3 to {LAST_NUMBER}"}.get(leaf, "")


def _parse_grant_table(name: str, table: object, path: str) -> Grant:
    key = dotted("grants", name)
    if not isinstance(table, dict):
        raise ProfileError(path, key, "it is not a table", f"write [{key}] and below it file = ...")
    kinds = [kind for kind in _GRANT_TABLES if kind in table]
    if len(kinds) != 1:
        said = "it names no kind" if not kinds else f"it names {len(kinds)} kinds"
        known = {word for kind in _GRANT_TABLES.values() for word in _fields(kind)}
        unknown = next((word for word in table if word not in known), "")
        near = difflib.get_close_matches(unknown, list(_GRANT_TABLES), 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ProfileError(path, key, said, f"{hint}use exactly one of {', '.join(_GRANT_TABLES)}")
    converted = _convert(table, _GRANT_TABLES[kinds[0]], path, key)
    if kinds[0] in ("file", "directory", "copy") or (kinds[0] == "secret" and not converted.secret.startswith("env:")):
        check_path(getattr(converted, kinds[0]), path, f"{key}.{kinds[0]}")
    try:
        fields = _said(converted)
        if kinds[0] == "scratch":
            fields["scratch"] = parse_scratch(name, str(converted.scratch)).scratch
        grant = checked(KINDS[kinds[0]](name=name, **fields))
    except GrantError as error:
        raise ProfileError(path, key, error.reason, error.hint) from error
    if isinstance(grant, ListenGrant | ConnectGrant | DatagramGrant) and grant.address.is_path:
        check_path(grant.address.path, path, f"{key}.{kinds[0]}")
    return grant


def _parse_protocol(name: str, table: object, path: str) -> Protocol:
    key = dotted("protocols", name)
    if not re.match(NAME_PATTERN, name):
        raise ProfileError(path, key, "not a protocol name", "use a letter, then letters, digits, '_', '.', '-'")
    if name in PROTOCOLS:
        raise ProfileError(path, key, "a built-in protocol has that name", "choose another one")
    if isinstance(table, dict) and isinstance(table.get("rules"), list):
        for index, rule in enumerate(table["rules"]):  # first, since msgspec would not name the unknown key
            _convert(rule, RuleTable, path, f"{key}.rules[{index}]")
    converted: ProtocolTable = _convert(table, ProtocolTable, path, key)
    if not re.match(ONE_LINE_PATTERN, converted.description):
        raise ProfileError(path, f"{key}.description", "it holds a newline or control character", "write one line")
    rules = tuple(_rule(rule, path, f"{key}.rules[{index}]") for index, rule in enumerate(converted.rules))
    return Protocol(name, converted.description, path, rules)


SEARCHED_ARGUMENTS: Final = (Place.ARGUMENT, Place.CALLER_ARGUMENT)


def _rule(table: RuleTable, path: str, key: str) -> ProtocolRule:
    places = {
        Place.VARIABLE: table.variable, Place.ARGUMENT: table.argument, Place.NEXT_ARGUMENT: table.next_argument,
        Place.CALLER_ARGUMENT: table.caller_argument,
    }  # fmt: skip
    said = {place: text for place, text in places.items() if text is not UNSET}
    if len(said) > 1 or not (said or table.program):
        raise ProfileError(
            path, key, "it needs one place", "use one of variable, argument, next_argument, caller_argument, program"
        )
    place, text = next(iter(said.items()), (Place.PROGRAM, ""))
    _check_rule(table, place, str(text), path, key)
    return ProtocolRule(
        place, Shape[table.shape.name], needle=table.after if place is Place.VARIABLE else str(text),
        variable=str(text) if place is Place.VARIABLE else "", program=table.program, anywhere=table.anywhere,
        numbers=tuple(sorted(set(table.numbers))),
    )  # fmt: skip


def _check_rule(table: RuleTable, place: Place, text: str, path: str, key: str) -> None:
    """Refuse keys that the rule's place has no use for: they were meant to narrow it down, and would not."""
    wrong = {
        ("shape fixed and numbers go together", 'as in shape = "fixed", numbers = [3, 4]'):
            (table.shape is ShapeWord.FIXED) != bool(table.numbers),
        ("a program alone says no numbers", "use shape fixed or all, or name a place"):
            place is Place.PROGRAM and table.shape not in (ShapeWord.FIXED, ShapeWord.ALL),
        ("a variable is named, and of every program", "leave program out; a name is not empty and holds no '='"):
            place is Place.VARIABLE and (bool(table.program) or re.match(VARIABLE_PATTERN, text) is None),
        ("after is a variable's", "write the text into argument itself"):
            place is not Place.VARIABLE and bool(table.after),
        ("anywhere needs a text to look for", "use it with argument or caller_argument, or with variable and after"):
            table.anywhere
            and not (table.after if place is Place.VARIABLE else text and place in SEARCHED_ARGUMENTS),
        ("program is a path", "give its last component"): "/" in table.program,
        (f"a text holds NUL or is longer than {MAX_RULE_TEXT} bytes", "shorten it"): any(
            "\0" in part or len(os.fsencode(part)) > MAX_RULE_TEXT for part in (text, table.after, table.program)
        ),
    }  # fmt: skip
    for (reason, hint), holds in wrong.items():
        if holds:
            raise ProfileError(path, key, reason, hint)


def _said(table: msgspec.Struct) -> dict[str, Any]:
    """Return the fields that the text has, or that have a default."""
    return {key: value for key, value in msgspec.structs.asdict(table).items() if value is not UNSET}


def merge(drafts: Iterable[Draft], name: str) -> Profile:
    """Merge drafts, later ones winning: scalars replace, lists add up without doubles, tables merge by key.

    Returns: a profile named `name`, with the last draft's path, description and commands.
    """
    profile = Profile(name)
    for draft in drafts:
        process = _said(draft.process)
        if "umask" in process:
            process["umask"] = int(process["umask"], 8)
        profile = replace(
            profile,
            source_path=draft.path,
            description=draft.description or "",
            commands=draft.commands,
            process=replace(profile.process, **process),
            environment=merge_environment(profile.environment, draft.environment.keep, draft.environment.set),
            filter=FilterSection(union(profile.filter.allow, draft.filter.allow)),
            grants=merge_grants(profile.grants, draft.grants),
            descriptors=_merge_descriptors(profile.descriptors, draft.descriptors),
            protocols=tuple(({p.name: p for p in profile.protocols} | {p.name: p for p in draft.protocols}).values()),
            filesystem=_merge_filesystem(profile.filesystem, draft.filesystem),
            network=_merge_network(profile.network, draft.network),
            share=union(profile.share, draft.namespaces.share),
            limits=_merge_limits(profile.limits, draft.limits),
            landlock=_merge_landlock(profile.landlock, draft.landlock),
        )
    return profile


def _merge_filesystem(first: FilesystemPolicy, table: FilesystemTable) -> FilesystemPolicy:
    lists = {name: union(getattr(first, name), getattr(table, name)) for name in PATH_LISTS}
    return replace(first, **(_said(table) | lists))


def _merge_network(first: NetworkPolicy, table: NetworkTable) -> NetworkPolicy:
    return NetworkPolicy(
        mode=first.mode if table.mode is UNSET else table.mode,
        allow=union(first.allow, tuple(parse_peer(text) for text in table.allow)),
        bind=union(first.bind, tuple(parse_bind(text) for text in table.allow_bind)),
        dns=first.dns if table.dns is UNSET else table.dns,
        resolvers=union(first.resolvers, table.resolvers),
        netns=first.netns if table.netns is UNSET else table.netns,
    )


def _merge_landlock(first: LandlockPolicy, table: LandlockTable) -> LandlockPolicy:
    return replace(first, **(_said(table) | {"optional": union(first.optional, table.optional)}))


def _merge_limits(first: Limits, second: Limits) -> Limits:
    return replace(first, **{name: value for name in LIMITS if (value := getattr(second, name)) is not None})


def _merge_descriptors(first: DescriptorPolicy, table: DescriptorsTable) -> DescriptorPolicy:
    said = _said(table)
    return replace(first, **(said | {"delegate": union(first.delegate, table.delegate)}))


def schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a profile file, generated from the model."""
    # Structs without tags cannot stand in one union, so the grants' part is put together here.
    plain = {name: msgspec.json.schema(table) for name, table in _GRANT_TABLES.items()}
    definitions: dict[str, Any] = {}
    sections = (*_SECTIONS.values(), ProtocolTable)
    for part in (*plain.values(), *(msgspec.json.schema(table) for table in sections)):
        definitions |= part["$defs"]
    properties: dict[str, Any] = {
        "description": {"type": "string", "pattern": ONE_LINE_PATTERN, "description": "one line for lists"},
        "extends": {
            "type": "array",
            "items": {"type": "string", "pattern": r"^[^\x00]+$"},
            "description": "names or paths; later ones win",
        },
        "commands": {
            "type": "array",
            "items": {"type": "string", "pattern": COMMAND_PATTERN},
            "description": "the programs for which `sandbox run` takes it by itself",
        },
    }
    properties |= {name: {"$ref": f"#/$defs/{table.__name__}"} for name, table in _SECTIONS.items()}
    grant = {"oneOf": [{"$ref": f"#/$defs/{table.__name__}"} for table in _GRANT_TABLES.values()]}
    properties["grants"] = {
        "type": "object",
        "propertyNames": {"pattern": NAME_PATTERN},
        "additionalProperties": grant,
        "maxProperties": MAX_GRANTS,
    }
    properties["protocols"] = {
        "type": "object",
        "propertyNames": {"pattern": NAME_PATTERN, "not": {"enum": sorted(PROTOCOLS)}},
        "additionalProperties": {"$ref": "#/$defs/ProtocolTable"},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sandbox profile",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "$defs": definitions,
    }
