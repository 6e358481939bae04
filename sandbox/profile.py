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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, TypeVar

import msgspec

from sandbox import syscalls
from sandbox.caller import Caller
from sandbox.errors import GrantError, ProfileError
from sandbox.grants import (
    KINDS,
    LAST_NUMBER,
    Access,
    FdType,
    FileGrant,
    Grant,
    InheritGrant,
    SecretGrant,
    checked,
    number_grants,
)

DEFAULT_UMASK: Final = 0o022
# Without these no program can be started, report a failure, or end.
MANDATORY_CALLS: Final = frozenset({"execve", "exit_group", "write"})
_VARIABLE = re.compile(r"[^=\0]+\Z")
_KEPT = re.compile(r"[^=\0*]*\*?\Z")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


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


# The text's own shape. None is "not said here", which merging must tell from a value.
class ProcessTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[process]`."""

    umask: Annotated[str, msgspec.Meta(pattern="^0?[0-7]{1,3}$", description="octal, as in umask(1)")] | None = None
    chdir: Annotated[str, msgspec.Meta(description="absolute, or from a placeholder on")] | None = None
    die_with_parent: Annotated[bool, msgspec.Meta(description="end when the starting process ends")] | None = None
    exec: Annotated[ExecPolicy, msgspec.Meta(description="once: no program after the command")] | None = None


class EnvironmentTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[environment]`."""

    keep: Annotated[tuple[str, ...], msgspec.Meta(description="names, or their start and *")] = ()
    set: Annotated[dict[str, str], msgspec.Meta(description="variables and their values")] = {}


class FilterTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[filter]`."""

    allow: Annotated[tuple[str, ...], msgspec.Meta(description="syscall groups and names")] = ()


Number = Annotated[int, msgspec.Meta(ge=3, le=LAST_NUMBER, description="the descriptor's number in the child")]


class InheritTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[grants.NAME]` with `inherit`."""

    inherit: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1, description="the caller's descriptor")]
    type: FdType | None = None
    access: Access | None = None
    number: Number | None = None


class FileTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[grants.NAME]` with `file`."""

    file: Annotated[str, msgspec.Meta(min_length=1, description="absolute, or from a placeholder on")]
    access: Access = Access.READ
    create: bool = False
    truncate: bool = False
    number: Number | None = None


class SecretTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[grants.NAME]` with `secret`."""

    secret: Annotated[str, msgspec.Meta(min_length=1, description="a path, or env:NAME")]
    number: Number | None = None


_TOP_KEYS: Final = ("description", "extends", "process", "environment", "filter", "grants")
_SECTIONS: Final[dict[str, type[msgspec.Struct]]] = {
    "process": ProcessTable, "environment": EnvironmentTable, "filter": FilterTable,
}  # fmt: skip
_GRANT_TABLES: Final[dict[str, type[msgspec.Struct]]] = {
    "inherit": InheritTable, "file": FileTable, "secret": SecretTable,
}  # fmt: skip
_GRANTS: Final[dict[str, type[Grant]]] = KINDS
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Draft:
    """One file's text, parsed: what it says, and what it extends. Unsaid things are None or empty."""

    path: str
    description: str | None
    extends: tuple[str, ...]
    process: ProcessTable
    environment: EnvironmentTable
    filter: FilterTable
    grants: tuple[Grant, ...]


def parse(text: str, path: str) -> Draft:
    """Parse one profile's text; `path` names it in errors.

    Raises: ProfileError with the dotted key: bad TOML, unknown keys, wrong types or values.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(path, "", f"not TOML: {error}", "strings need quotes, tables [brackets]") from error
    _refuse_unknown(data, _TOP_KEYS, path, "")
    sections = {name: _convert(data.get(name, {}), table, path, name) for name, table in _SECTIONS.items()}
    process, environment, filters = (sections[name] for name in _SECTIONS)
    assert isinstance(process, ProcessTable)
    assert isinstance(environment, EnvironmentTable)
    assert isinstance(filters, FilterTable)
    _check_paths_and_names(process, environment, path)
    tables = data.get("grants", {})
    if not isinstance(tables, dict):
        raise ProfileError(path, "grants", "it is not a table", "write [grants.NAME]")
    return Draft(
        path=path,
        description=_convert(data.get("description"), str | None, path, "description"),
        extends=_convert(data.get("extends", ()), tuple[str, ...], path, "extends"),
        process=process,
        environment=environment,
        filter=filters,
        grants=tuple(_parse_grant_table(name, table, path) for name, table in tables.items()),
    )


def _fields(table: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(info.encode_name for info in msgspec.structs.fields(table))


def _nearest(word: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(word, names, 1, 0.6)
    return (f"did you mean {close[0]!r}? " if close else "") + "known here: " + ", ".join(names)


def _refuse_unknown(data: Mapping[str, object], known: Iterable[str], path: str, prefix: str) -> None:
    for key in data:
        if key not in known:
            raise ProfileError(path, f"{prefix}.{key}" if prefix else key, "unknown key", _nearest(key, known))


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
        hint = _hint_for(leaf, value)
        raise ProfileError(path, f"{key}{inner}", reason[:1].lower() + reason[1:], hint) from error


def _hint_for(leaf: str, value: object) -> str:
    words: dict[str, type[enum.StrEnum]] = {"access": Access, "type": FdType, "exec": ExecPolicy}
    if leaf in words and isinstance(value, str):
        return _nearest(value, [str(word) for word in words[leaf]])
    return {"umask": 'write it as octal text, as in "022"', "number": f"use 3 to {LAST_NUMBER}"}.get(leaf, "")


def _check_path(text: str, path: str, key: str) -> None:
    if not text.startswith(("/", "{")):
        raise ProfileError(path, key, f"{text!r} is not absolute", "start with / or {home}, {cwd}, {runtime_dir}, {tmp}")
    if "\0" in text:
        raise ProfileError(path, key, "it holds a NUL byte", "no path can")
    known = Caller({}, "", "", "", "", 0).placeholders()
    for word in _PLACEHOLDER.findall(text):
        if word not in known:
            raise ProfileError(path, key, f"unknown placeholder {{{word}}}", _nearest(word, known))


def _check_paths_and_names(process: ProcessTable, environment: EnvironmentTable, path: str) -> None:
    if process.chdir is not None:
        _check_path(process.chdir, path, "process.chdir")
    for name in environment.keep:
        if not _KEPT.match(name) or not name:
            raise ProfileError(path, "environment.keep", f"{name!r} is no name", "a * may stand at the end only")
    for name, value in environment.set.items():
        if not _VARIABLE.match(name) or "\0" in value:
            raise ProfileError(path, f"environment.set.{name}", "not a variable", "no '=' or NUL in names")


def _parse_grant_table(name: str, table: object, path: str) -> Grant:
    key = f"grants.{name}"
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
        return checked(_GRANTS[kinds[0]](name=name, **msgspec.structs.asdict(converted)))
    except GrantError as error:
        raise ProfileError(path, key, error.reason, error.hint) from error


def merge(drafts: Iterable[Draft], name: str) -> Profile:
    """Merge drafts, later ones winning: scalars replace, lists add up without doubles, tables merge by key.

    Returns: a profile named `name`, with the last draft's path and description.
    """
    profile = Profile(name)
    for draft in drafts:
        process = {key: value for key, value in msgspec.structs.asdict(draft.process).items() if value is not None}
        if "umask" in process:
            process["umask"] = int(process["umask"], 8)
        profile = replace(
            profile,
            source_path=draft.path,
            description=draft.description or "",
            process=replace(profile.process, **process),
            environment=Environment(
                keep=_union(profile.environment.keep, draft.environment.keep),
                set=tuple((dict(profile.environment.set) | draft.environment.set).items()),
            ),
            filter=FilterSection(_union(profile.filter.allow, draft.filter.allow)),
            grants=merge_grants(profile.grants, draft.grants),
        )
    return profile


def _union(first: tuple[T, ...], second: tuple[T, ...]) -> tuple[T, ...]:
    return tuple(dict.fromkeys((*first, *second)))


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
    own = tuple(_with_path(grant, lambda text: _expand(text, caller, profile)) for grant in profile.grants)
    added_grants = tuple(_with_path(grant, lambda text: _absolute(text, caller)) for grant in given)
    folder = profile.process.chdir and _expand(profile.process.chdir, caller, profile)
    return replace(
        profile,
        process=replace(profile.process, chdir=folder if chdir is None else _absolute(chdir, caller)),
        environment=Environment(
            keep=_union(profile.environment.keep, kept),
            set=tuple((dict(profile.environment.set) | variables).items()),
        ),
        grants=merge_grants(own, added_grants),
    )


def _with_path(grant: Grant, change: Any) -> Grant:  # noqa: ANN401 - a function str -> str
    if isinstance(grant, FileGrant):
        return replace(grant, file=change(grant.file))
    if isinstance(grant, SecretGrant) and grant.variable is None:
        return replace(grant, secret=change(grant.secret))
    return grant


def _absolute(text: str, caller: Caller) -> str:
    if not text or "\0" in text:
        raise ProfileError("command line", "", f"{text!r} is no path", "give the path of a file or folder")
    return os.path.join(caller.cwd or "/", text)


def _expand(text: str, caller: Caller, profile: Profile) -> str:
    values = caller.placeholders()

    def value(match: re.Match[str]) -> str:
        found = values.get(match[1])
        if not found or not found.startswith("/"):
            raise ProfileError(profile.source_path, "", f"{match[0]} has no value here", "set HOME or the like")
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
    lines += ["", "[filter]", f"allow = {_quote_list(profile.filter.allow)}"]
    for grant in profile.grants:
        lines += ["", f"[grants.{_quote(grant.name)}]", *_format_grant(grant)]
    return "\n".join(lines) + "\n"


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
    for part in (*plain.values(), *(msgspec.json.schema(table) for table in _SECTIONS.values())):
        definitions |= part["$defs"]
    properties: dict[str, Any] = {
        "description": {"type": "string"},
        "extends": {"type": "array", "items": {"type": "string"}, "description": "names or paths; later ones win"},
    }
    properties |= {name: {"$ref": f"#/$defs/{table.__name__}"} for name, table in _SECTIONS.items()}
    grant = {"oneOf": [{"$ref": f"#/$defs/{table.__name__}"} for table in _GRANT_TABLES.values()]}
    properties["grants"] = {"type": "object", "additionalProperties": grant}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sandbox profile",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "$defs": definitions,
    }
