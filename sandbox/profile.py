"""Profiles: the typed model, TOML text -> value and back, merging, and the JSON schema for editors.

Reading files and `extends` is profile_files.py's; this module does no input or output.
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
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from sandbox import syscalls
from sandbox.caller import Caller
from sandbox.errors import GrantError, ProfileError
from sandbox.grants import (
    KINDS,
    LAST_NUMBER,
    MAX_GRANTS,
    Access,
    FdType,
    FileGrant,
    Grant,
    InheritGrant,
    SecretGrant,
    checked,
    number_grants,
)
from sandbox.protocols import PROTOCOLS, Place, Protocol, ProtocolRule, Shape

DEFAULT_UMASK: Final = 0o022
MAX_RULE_TEXT: Final = 60  # names.h: the launcher remembers programs and arguments of less than 64 bytes
# Without these no program can be started, report a failure, or end.
MANDATORY_CALLS: Final = frozenset({"execve", "exit_group", "write"})
_PLACEHOLDERS: Final = tuple(Caller({}, "", "", "", "", 0).placeholders())
# Patterns hold for JSON schema's readers as well as for `re`; there, $ would also match before a last newline.
_END: Final = r"$(?!\n)"
_NAME_PATTERN: Final = r"^[A-Za-z][A-Za-z0-9_.-]{0,62}" + _END
_VARIABLE_PATTERN: Final = r"^[^=\x00]+" + _END
# ? and [ are refused since fnmatch(3) would read them as more than themselves.
_KEPT_PATTERN: Final = r"^(?!$)[^=\x00*?\[\]]*\*?" + _END
_ONE_LINE_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*" + _END
# A placeholder is absolute, so it can only be the start; other braces are mistakes more often than names.
_PATH_PATTERN: Final = r"^(/|\{(" + "|".join(_PLACEHOLDERS) + r")\}(/|$))[^{}\x00]*" + _END
_VARIABLE = re.compile(_VARIABLE_PATTERN)
_KEPT = re.compile(_KEPT_PATTERN)
_PATH = re.compile(_PATH_PATTERN)
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


class ShapeWord(enum.StrEnum):
    """The words for protocols.Shape in a profile."""

    NUMBER = "number"
    LIST = "list"
    COUNT = "count"
    FIXED = "fixed"
    ALL = "all"


class ExecPolicy(enum.StrEnum):
    """Which programs may be executed: any, or the command itself and none after it."""

    ALLOW = "allow"
    ONCE = "once"


@dataclass(frozen=True, slots=True)
class ProcessPolicy:
    """What the child starts with. chdir None: the caller's working directory."""

    umask: int = DEFAULT_UMASK
    chdir: str | None = None
    die_with_parent: bool = False
    exec: ExecPolicy = ExecPolicy.ALLOW


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


def _meta(description: str, pattern: str = "") -> msgspec.Meta:
    """What editors show; `pattern` only tells them what the functions below refuse with better words."""
    return msgspec.Meta(description=description, extra_json_schema={"pattern": pattern} if pattern else None)


PathText = Annotated[str, _meta("absolute, or from a placeholder on", _PATH_PATTERN)]
SecretText = Annotated[str, _meta("a path, or env:NAME", f"{_PATH_PATTERN}|^env:[^=\\x00]+{_END}")]
KeptName = Annotated[str, _meta("a variable's name, or its start and *", _KEPT_PATTERN)]
VariableName = Annotated[str, _meta("a variable's name", _VARIABLE_PATTERN)]
VariableValue = Annotated[str, _meta("its value", r"^[^\x00]*$")]


# The text's own shape. UNSET is "not said here", which merging must tell from a value.
class ProcessTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[process]`."""

    umask: Annotated[str, msgspec.Meta(pattern="^0?[0-7]{1,3}" + _END, description="octal text")] | UnsetType = UNSET
    chdir: PathText | UnsetType = UNSET
    die_with_parent: Annotated[bool, _meta("end when the starting process ends")] | UnsetType = UNSET
    exec: Annotated[ExecPolicy, _meta("once: no program after the command")] | UnsetType = UNSET


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


class RuleTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of `[protocols.NAME] rules`: a place, the form, and what narrows it down."""

    shape: Annotated[ShapeWord, _meta("how the numbers stand there")]
    variable: Annotated[str, _meta("look into this variable")] | UnsetType = UNSET
    argument: Annotated[str, _meta("look into arguments, behind this text")] | UnsetType = UNSET
    next_argument: Annotated[str, _meta("look into the argument after this one")] | UnsetType = UNSET
    program: Annotated[str, _meta("only of programs with this last path component")] = ""
    after: Annotated[str, _meta("in a variable: behind this text")] = ""
    anywhere: Annotated[bool, _meta("the text may stand inside, not only at the start")] = False
    numbers: Annotated[tuple[Annotated[int, msgspec.Meta(ge=3, le=31)], ...], _meta("shape fixed: these")] = ()


class ProtocolTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[protocols.NAME]`: a delegation protocol of the user's own."""

    rules: tuple[RuleTable, ...]
    description: str = ""


class FilterTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[filter]`."""

    allow: Annotated[tuple[str, ...], _meta("syscall groups and names")] = ()


Number = Annotated[int, msgspec.Meta(ge=3, le=LAST_NUMBER, description="the descriptor's number in the child")]


Propagate = Annotated[bool, _meta("it passes at every exec")]


class InheritTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[grants.NAME]` with `inherit`."""

    inherit: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1, description="the caller's descriptor")]
    type: Annotated[FdType, _meta("what it must be")] | UnsetType = UNSET
    access: Annotated[Access, _meta("how it must be open")] | UnsetType = UNSET
    number: Number | UnsetType = UNSET
    propagate: Propagate = False


class FileTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[grants.NAME]` with `file`."""

    file: PathText
    access: Annotated[Access, _meta("how it is opened")] = Access.READ
    create: Annotated[bool, _meta("make the file if it is missing")] = False
    truncate: Annotated[bool, _meta("empty the file first")] = False
    number: Number | UnsetType = UNSET
    propagate: Propagate = False


class SecretTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[grants.NAME]` with `secret`."""

    secret: SecretText
    number: Number | UnsetType = UNSET
    propagate: Propagate = False


_TOP_KEYS: Final = (
    "description", "extends", "process", "environment", "descriptors", "filter", "grants", "protocols",
)  # fmt: skip
_SECTIONS: Final[dict[str, type[msgspec.Struct]]] = {
    "process": ProcessTable, "environment": EnvironmentTable, "filter": FilterTable,
    "descriptors": DescriptorsTable,
}  # fmt: skip
_GRANT_TABLES: Final[dict[str, type[msgspec.Struct]]] = {
    "inherit": InheritTable, "file": FileTable, "secret": SecretTable,
}  # fmt: skip
_GRANTS: Final[dict[str, type[Grant]]] = KINDS
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Draft:
    """One file's text, parsed: what it says, and what it extends. Unsaid things are UNSET, None or empty."""

    path: str
    description: str | None
    extends: tuple[str, ...]
    process: ProcessTable
    environment: EnvironmentTable
    filter: FilterTable
    grants: tuple[Grant, ...]
    descriptors: DescriptorsTable
    protocols: tuple[Protocol, ...]


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
    process, environment, filters, descriptors = (sections[name] for name in _SECTIONS)
    assert isinstance(process, ProcessTable)
    assert isinstance(environment, EnvironmentTable)
    assert isinstance(filters, FilterTable)
    assert isinstance(descriptors, DescriptorsTable)
    _check_paths_and_names(process, environment, path)
    description = _convert(data.get("description"), str | None, path, "description")
    if description is not None and not re.match(_ONE_LINE_PATTERN, description):
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
        process=process,
        environment=environment,
        filter=filters,
        grants=tuple(_parse_grant_table(name, table, path) for name, table in tables.items()),
        descriptors=descriptors,
        protocols=tuple(_parse_protocol(name, table, path) for name, table in protocols.items()),
    )


def _fields(table: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(info.encode_name for info in msgspec.structs.fields(table))


def _nearest(word: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(word, names, 1, 0.6)
    return (f"did you mean {close[0]!r}? " if close else "") + "known here: " + ", ".join(names)


def _dotted(prefix: str, key: str) -> str:
    """Return a key as TOML writes it, on one line whatever it holds."""
    name = key if _BARE_KEY.match(key) else json.dumps(key)
    return f"{prefix}.{name}" if prefix else name


def _refuse_unknown(data: Mapping[str, object], known: Iterable[str], path: str, prefix: str) -> None:
    for key in data:
        if key not in known:
            raise ProfileError(path, _dotted(prefix, key), "unknown key", _nearest(key, known))


def _convert(data: object, shape: Any, path: str, key: str) -> Any:  # noqa: ANN401 - any shape of the model
    """Convert one value; msgspec's message ends in a JSON path, which becomes part of the dotted key."""
    if isinstance(shape, type) and issubclass(shape, msgspec.Struct):
        if not isinstance(data, dict):
            raise ProfileError(path, key, "it is not a table", f"write [{key}]")
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
            inner = f".{_dotted(leaf, culprit)}"
        if " matching regex " in reason:  # true, and of no help; the hint says it in words
            reason = f"{value!r} does not fit"
        hint = _hint_for(leaf, value)
        raise ProfileError(path, f"{key}{inner}", reason[:1].lower() + reason[1:], hint) from error


def _hint_for(leaf: str, value: object) -> str:
    words: dict[str, type[enum.StrEnum]] = {"access": Access, "type": FdType, "exec": ExecPolicy}
    if leaf in words and isinstance(value, str):
        return _nearest(value, [str(word) for word in words[leaf]])
    return {"umask": 'write it as octal text, as in "022"', "number": f"use 3 to {LAST_NUMBER}"}.get(leaf, "")


def _check_path(text: str, path: str, key: str) -> None:
    """Refuse what _PATH_PATTERN does not describe, each kind of mistake with its own words."""
    if not text.startswith(("/", "{")):
        raise ProfileError(
            path, key, f"{text!r} is not absolute", "start with / or {home}, {cwd}, {runtime_dir}, {tmp}"
        )
    if "\0" in text:
        raise ProfileError(path, key, "it holds a NUL byte", "no path can")
    for word in _PLACEHOLDER.findall(text):
        if word not in _PLACEHOLDERS:
            raise ProfileError(path, key, f"{text!r}: unknown placeholder", _nearest(word, _PLACEHOLDERS))
    if not _PATH.match(text):
        raise ProfileError(path, key, f"{text!r}: a placeholder or brace out of place", "begin with it: {home}/a/file")


def _check_paths_and_names(process: ProcessTable, environment: EnvironmentTable, path: str) -> None:
    if process.chdir is not UNSET:
        _check_path(process.chdir, path, "process.chdir")
    for index, name in enumerate(environment.keep):
        if not _KEPT.match(name):
            raise ProfileError(
                path, f"environment.keep[{index}]", f"{name!r} is no name", "a * may stand at the end only"
            )
    for name, value in environment.set.items():
        if not _VARIABLE.match(name) or "\0" in value:
            raise ProfileError(path, _dotted("environment.set", name), "not a variable", "no '=' or NUL in names")


def _parse_grant_table(name: str, table: object, path: str) -> Grant:
    key = _dotted("grants", name)
    if not isinstance(table, dict):
        raise ProfileError(path, key, "it is not a table", f"write [{key}] and below it file = ...")
    kinds = [kind for kind in _GRANT_TABLES if kind in table]
    if len(kinds) != 1:
        said = "it names no kind" if not kinds else f"it names {len(kinds)} kinds"
        unknown = next((word for word in table if word not in _fields(FileTable) + _fields(InheritTable)), "")
        near = difflib.get_close_matches(unknown, list(_GRANT_TABLES), 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ProfileError(path, key, said, f"{hint}use exactly one of {', '.join(_GRANT_TABLES)}")
    converted = _convert(table, _GRANT_TABLES[kinds[0]], path, key)
    if kinds[0] == "file" or (kinds[0] == "secret" and not converted.secret.startswith("env:")):
        _check_path(getattr(converted, kinds[0]), path, f"{key}.{kinds[0]}")
    try:
        return checked(_GRANTS[kinds[0]](name=name, **_said(converted)))
    except GrantError as error:
        raise ProfileError(path, key, error.reason, error.hint) from error


def _parse_protocol(name: str, table: object, path: str) -> Protocol:
    key = _dotted("protocols", name)
    if name in PROTOCOLS:
        raise ProfileError(path, key, "a built-in protocol has that name", "choose another one")
    if isinstance(table, dict) and isinstance(table.get("rules"), list):
        for index, rule in enumerate(table["rules"]):
            _convert(rule, RuleTable, path, f"{key}.rules[{index}]")
    converted: ProtocolTable = _convert(table, ProtocolTable, path, key)
    rules = tuple(_rule(rule, path, f"{key}.rules[{index}]") for index, rule in enumerate(converted.rules))
    return Protocol(name, converted.description, path, rules)


def _rule(table: RuleTable, path: str, key: str) -> ProtocolRule:
    places = {
        Place.VARIABLE: table.variable, Place.ARGUMENT: table.argument, Place.NEXT_ARGUMENT: table.next_argument,
    }  # fmt: skip
    said = {place: text for place, text in places.items() if text is not UNSET}
    if len(said) > 1 or not (said or table.program):
        raise ProfileError(path, key, "it needs one place", "use one of variable, argument, next_argument, program")
    place, text = next(iter(said.items()), (Place.PROGRAM, ""))
    if (table.shape is ShapeWord.FIXED) != bool(table.numbers):
        raise ProfileError(path, key, "shape fixed and numbers go together", 'as in shape = "fixed", numbers = [3, 4]')
    if place is Place.VARIABLE and (table.program or not text):
        raise ProfileError(path, key, "a variable is named, and of every program", "leave program out")
    rule = ProtocolRule(
        place, Shape[table.shape.name], needle=table.after if place is Place.VARIABLE else str(text),
        variable=str(text) if place is Place.VARIABLE else "", program=table.program, anywhere=table.anywhere,
        numbers=table.numbers,
    )  # fmt: skip
    if any(
        "\0" in part or len(os.fsencode(part)) > MAX_RULE_TEXT for part in (rule.needle, rule.variable, rule.program)
    ):
        raise ProfileError(path, key, f"a text holds NUL or is longer than {MAX_RULE_TEXT} bytes", "shorten it")
    return rule


def _said(table: msgspec.Struct) -> dict[str, Any]:
    """Return the fields that the text has, or that have a default."""
    return {key: value for key, value in msgspec.structs.asdict(table).items() if value is not UNSET}


def merge(drafts: Iterable[Draft], name: str) -> Profile:
    """Merge drafts, later ones winning: scalars replace, lists add up without doubles, tables merge by key.

    Returns: a profile named `name`, with the last draft's path and description.
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
            process=replace(profile.process, **process),
            environment=_merge_environment(profile.environment, draft.environment.keep, draft.environment.set),
            filter=FilterSection(_union(profile.filter.allow, draft.filter.allow)),
            grants=merge_grants(profile.grants, draft.grants),
            descriptors=_merge_descriptors(profile.descriptors, draft.descriptors),
            protocols=tuple(({p.name: p for p in profile.protocols} | {p.name: p for p in draft.protocols}).values()),
        )
    return profile


def _merge_descriptors(first: DescriptorPolicy, table: DescriptorsTable) -> DescriptorPolicy:
    said = _said(table)
    return replace(first, **(said | {"delegate": _union(first.delegate, table.delegate)}))


def _union(first: tuple[T, ...], second: tuple[T, ...]) -> tuple[T, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _merge_environment(first: Environment, keep: tuple[str, ...], variables: Mapping[str, str]) -> Environment:
    """Add to an environment; a variable that is now kept by its name is no longer set, so that the later word wins."""
    earlier = {name: value for name, value in first.set if name not in keep}
    return Environment(keep=_union(first.keep, keep), set=tuple((earlier | dict(variables)).items()))


def merge_grants(first: Iterable[Grant], second: Iterable[Grant]) -> tuple[Grant, ...]:
    """Return the grants of both; one of `second` replaces its namesake in place."""
    merged = {grant.name: grant for grant in first}
    return tuple((merged | {grant.name: grant for grant in second}).values())


def for_caller(
    profile: Profile,
    caller: Caller,
    *,
    grants: Iterable[Grant] = (),
    set_variables: Mapping[str, str] | None = None,
    keep: Iterable[str] = (),
    chdir: str | None = None,
) -> Profile:
    """Resolve a profile's placeholders, then add what the command line or the Python caller says.

    Added paths are taken as they stand; relative ones start at the caller's working directory. A grant replaces its
    namesake of the profile.
    Establishes: every path is absolute.
    Raises: GrantError if a name is given to two of `grants`; ProfileError if a placeholder has no value, or for a bad
    variable.
    """
    given = tuple(grants)
    names = [grant.name for grant in given]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise GrantError(doubled, "the name is used twice", "give each grant one of its own")
    variables, kept = dict(set_variables or {}), tuple(keep)
    added = EnvironmentTable(keep=kept, set=variables)
    _check_paths_and_names(ProcessTable(), added, "command line")
    own = tuple(_expand_grant(grant, caller, profile) for grant in profile.grants)
    added_grants = tuple(_with_path(grant, lambda text: _absolute(text, caller)) for grant in given)
    folder = profile.process.chdir
    if folder is not None:
        folder = _expand(folder, caller, profile, "process.chdir")
    return replace(
        profile,
        process=replace(profile.process, chdir=folder if chdir is None else _absolute(chdir, caller)),
        environment=_merge_environment(profile.environment, kept, variables),
        grants=merge_grants(own, added_grants),
    )


def _expand_grant(grant: Grant, caller: Caller, profile: Profile) -> Grant:
    key = _dotted("grants", grant.name)
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
    for grant in profile.grants:
        may_be_socket = isinstance(grant, InheritGrant) and grant.type in (None, FdType.SOCKET)
        if may_be_socket and profile.descriptors.scm_rights is ScmRights.DENY:
            raise GrantError(grant.name, "scm_rights is denied, and this may be a Unix socket", "name another type")


def delegated(profile: Profile) -> tuple[Protocol, ...]:
    """Return the protocols that a profile admits, built-in ones and its own.

    Raises: ProfileError for one that does not exist.
    """
    known = dict(PROTOCOLS) | {protocol.name: protocol for protocol in profile.protocols}
    for name in profile.descriptors.delegate:
        if name not in known:
            source = profile.source_path or profile.name
            raise ProfileError(source, "descriptors.delegate", f"no protocol {name!r}", _nearest(name, known))
    return tuple(known[name] for name in profile.descriptors.delegate)


def format_profile(profile: Profile) -> str:
    """Return a profile as TOML; merge([parse(text)]) gives it back."""
    process = profile.process
    lines = [f"description = {_quote(profile.description)}", "", "[process]", f'umask = "{process.umask:03o}"']
    if process.chdir is not None:
        lines.append(f"chdir = {_quote(process.chdir)}")
    lines += [f"die_with_parent = {str(process.die_with_parent).lower()}", f'exec = "{process.exec}"']
    lines += ["", "[environment]", f"keep = {_quote_list(profile.environment.keep)}"]
    if profile.environment.set:
        lines += ["", "[environment.set]"]
        lines += [f"{_quote(name)} = {_quote(value)}" for name, value in profile.environment.set]
    policy = profile.descriptors
    lines += ["", "[descriptors]", f"delegate = {_quote_list(policy.delegate)}"]
    lines += [f"reserve_stdio = {str(policy.reserve_stdio).lower()}", f"strict = {str(policy.strict).lower()}"]
    lines += [f'scm_rights = "{policy.scm_rights}"']
    lines += ["", "[filter]", f"allow = {_quote_list(profile.filter.allow)}"]
    for grant in profile.grants:
        lines += ["", f"[grants.{_quote(grant.name)}]", *_format_grant(grant)]
    for protocol in profile.protocols:
        lines += ["", f"[protocols.{_quote(protocol.name)}]", f"description = {_quote(protocol.purpose)}"]
        lines += ["rules = [", *(f"  {{ {_format_rule(rule)} }}," for rule in protocol.rules), "]"]
    return "\n".join(lines) + "\n"


def _format_rule(rule: ProtocolRule) -> str:
    key = {Place.VARIABLE: "variable", Place.ARGUMENT: "argument", Place.NEXT_ARGUMENT: "next_argument"}.get(rule.place)
    words = [f'shape = "{rule.shape.name.lower()}"']
    if key is not None:
        words.append(f"{key} = {_quote(rule.variable or rule.needle)}")
    if rule.place is Place.VARIABLE and rule.needle:
        words.append(f"after = {_quote(rule.needle)}")
    if rule.program:
        words.append(f"program = {_quote(rule.program)}")
    if rule.anywhere:
        words.append("anywhere = true")
    if rule.numbers:
        words.append(f"numbers = [{', '.join(map(str, rule.numbers))}]")
    return ", ".join(words)


def _format_grant(grant: Grant) -> Iterable[str]:
    match grant:
        case InheritGrant():
            yield f"inherit = {grant.inherit}"
            if grant.type is not None:
                yield f'type = "{grant.type}"'
        case FileGrant():
            yield f"file = {_quote(grant.file)}"
            for flag in ("create", "truncate"):
                if getattr(grant, flag):
                    yield f"{flag} = true"
        case SecretGrant():
            yield f"secret = {_quote(grant.secret)}"
    if not isinstance(grant, SecretGrant) and grant.access is not None:
        yield f'access = "{grant.access}"'
    if grant.number is not None:
        yield f"number = {grant.number}"
    if grant.propagate:
        yield "propagate = true"


def _quote(text: str) -> str:
    # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _quote_list(words: Iterable[str]) -> str:
    return "[" + ", ".join(_quote(word) for word in words) + "]"


def schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a profile file, generated from the model."""
    # Structs without tags cannot stand in one union, so the grants' part is put together here.
    plain = {name: msgspec.json.schema(table) for name, table in _GRANT_TABLES.items()}
    definitions: dict[str, Any] = {}
    sections = (*_SECTIONS.values(), ProtocolTable)
    for part in (*plain.values(), *(msgspec.json.schema(table) for table in sections)):
        definitions |= part["$defs"]
    properties: dict[str, Any] = {
        "description": {"type": "string", "pattern": _ONE_LINE_PATTERN, "description": "one line for lists"},
        "extends": {
            "type": "array",
            "items": {"type": "string", "pattern": r"^[^\x00]+$"},
            "description": "names or paths; later ones win",
        },
    }
    properties |= {name: {"$ref": f"#/$defs/{table.__name__}"} for name, table in _SECTIONS.items()}
    grant = {"oneOf": [{"$ref": f"#/$defs/{table.__name__}"} for table in _GRANT_TABLES.values()]}
    properties["grants"] = {
        "type": "object",
        "propertyNames": {"pattern": _NAME_PATTERN},
        "additionalProperties": grant,
        "maxProperties": MAX_GRANTS,
    }
    properties["protocols"] = {"type": "object", "additionalProperties": {"$ref": "#/$defs/ProtocolTable"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sandbox profile",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "$defs": definitions,
    }
