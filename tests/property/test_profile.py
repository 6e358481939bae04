"""Profiles and grants for any value: text and back, numbers, merging; any text: only ProfileError, on one line."""

from __future__ import annotations

import string
import tomllib
from dataclasses import replace
from typing import Any, Final

import jsonschema
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sandbox.allowlist import BindRule, PeerRule, Ports
from sandbox.errors import GrantError, ProfileError
from sandbox.grants import (
    FIRST_NUMBER,
    LAST_NUMBER,
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
    format_grant,
    number_grants,
    number_of,
    parse_grant,
    variable_for,
)
from sandbox.profile import (
    DescriptorPolicy,
    Environment,
    ExecPolicy,
    FilterSection,
    NetworkMode,
    NetworkPolicy,
    ProcessPolicy,
    Profile,
    ScmRights,
    delegated,
)
from sandbox.profile_format import format_profile
from sandbox.profile_text import MAX_RULE_TEXT, merge, parse, schema
from sandbox.protocols import PROTOCOLS, Place, Protocol, ProtocolRule, Shape
from sandbox.sockets import Protocol as SocketProtocol

VALIDATOR: Final = jsonschema.Draft202012Validator(schema())
TEXT: Final = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NAMES: Final = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,8}", fullmatch=True)
NUMBERS: Final = st.none() | st.integers(FIRST_NUMBER, 20) | st.integers(FIRST_NUMBER, LAST_NUMBER)
PATHS: Final = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["/", "{home}/", "{cwd}/", "{tmp}/", "{runtime_dir}/"]),
        TEXT.map(lambda t: t.translate({123: None, 125: None})),
    ),
)
VARIABLES: Final = TEXT.map(lambda text: text.replace("=", "")).filter(bool)
WRITING: Final = st.sampled_from([Access.WRITE, Access.APPEND, Access.READ_WRITE])


def unique(grants: list[Grant]) -> tuple[Grant, ...]:
    return tuple({grant.name: grant for grant in grants}.values())


HOSTS: Final = st.sampled_from(["127.0.0.1", "[::1]", "[fe80::1%2]", "host", "a-b.example"])
PORTS: Final = st.integers(1, 65535)


def sockets_with(paths: st.SearchStrategy[str]) -> st.SearchStrategy[Grant]:
    """Any grant of a socket."""
    common: dict[str, st.SearchStrategy[Any]] = {"name": NAMES, "number": NUMBERS, "propagate": st.booleans()}
    unix = paths.map("unix:{}".format) | VARIABLES.map("unix:@{}".format)

    def ports(*protocols: str) -> st.SearchStrategy[str]:
        return st.builds("{}:{}:{}".format, st.sampled_from(protocols), HOSTS, PORTS)

    backlogs = st.integers(1, 65535)
    return st.one_of(
        st.builds(ListenGrant, listen=ports("tcp", "udp"), backlog=backlogs, reuse_port=st.booleans(), **common),
        st.builds(ListenGrant, listen=st.just("tcp:*:0"), ipv6_only=st.booleans(), **common),
        st.builds(ListenGrant, listen=unix, backlog=backlogs, **common),
        st.builds(
            ListenGrant, listen=paths.map("unix:{}".format), mode=st.none() | st.sampled_from(["600", "0", "0777"]),
            owner=st.none() | st.sampled_from(["me", "me:us", "33:44"]), **common,
        ),
        st.builds(
            ConnectGrant, connect=unix | ports("tcp"), **common,
            timeout=st.integers(1, 3600_000).map(lambda time: time / 1000),
        ),
        st.builds(DatagramGrant, datagram=unix | ports("udp"), **common),
    )  # fmt: skip


def grants_with(paths: st.SearchStrategy[str]) -> st.SearchStrategy[Grant]:
    return st.one_of(
        st.builds(
            InheritGrant, name=NAMES, inherit=st.integers(0, 2**31 - 1),
            type=st.none() | st.sampled_from(sorted(set(FdType) - {FdType.DIRECTORY})),
            access=st.none() | st.sampled_from(Access), raw=st.booleans(), number=NUMBERS, propagate=st.booleans(),
        ),
        st.builds(
            InheritGrant, name=NAMES, inherit=st.integers(0, 2**31 - 1), relay=st.just(value=True),
            type=st.none() | st.sampled_from([FdType.FILE, FdType.PIPE, FdType.STREAM, FdType.SOCKET]),
            access=st.none() | st.sampled_from([Access.READ, Access.WRITE, Access.APPEND]), number=NUMBERS,
        ),
        st.builds(FileGrant, name=NAMES, file=paths, raw=st.booleans(), number=NUMBERS, propagate=st.booleans()),
        st.builds(
            DirectoryGrant, name=NAMES, directory=paths, write=st.booleans(), create=st.booleans(),
            execute=st.booleans(), number=NUMBERS, propagate=st.booleans(),
        ),
        st.builds(
            FileGrant, name=NAMES, file=paths, access=WRITING, create=st.booleans(), truncate=st.booleans(),
            number=NUMBERS, propagate=st.booleans(),
        ),
        st.builds(
            SecretGrant, name=NAMES, secret=paths | VARIABLES.map("env:{}".format), number=NUMBERS,
            propagate=st.booleans(),
        ),
        st.builds(
            InheritGrant, name=NAMES, inherit=st.from_regex(r"systemd:[!-9;-~]{1,8}", fullmatch=True), number=NUMBERS,
            type=st.none() | st.sampled_from(sorted(set(FdType) - {FdType.DIRECTORY})),
        ),
        sockets_with(paths),
        st.builds(DataGrant, name=NAMES, data=TEXT, number=NUMBERS, propagate=st.booleans()),
        st.builds(CopyGrant, name=NAMES, copy=paths, number=NUMBERS, propagate=st.booleans()),
        st.builds(
            ScratchGrant, name=NAMES, scratch=st.integers(1, 1 << 41), number=NUMBERS, propagate=st.booleans(),
        ),
    )  # fmt: skip


FIXED: Final = st.sets(st.integers(3, 31), min_size=1, max_size=4).map(lambda numbers: tuple(sorted(numbers)))
PROGRAMS: Final = TEXT.map(lambda text: text.replace("/", ""))


@st.composite
def rules(draw: st.DrawFn) -> ProtocolRule:
    """Any rule that a profile can declare."""
    place = draw(st.sampled_from(Place))
    alone = place is Place.PROGRAM
    shape = draw(st.sampled_from([Shape.FIXED, Shape.ALL] if alone else list(Shape)))
    needle = "" if alone else draw(TEXT)
    return ProtocolRule(
        place, shape, needle=needle,
        variable=draw(VARIABLES) if place is Place.VARIABLE else "",
        program="" if place is Place.VARIABLE else draw(PROGRAMS.filter(bool) if alone else PROGRAMS),
        anywhere=bool(needle) and place is not Place.NEXT_ARGUMENT and draw(st.booleans()),
        numbers=draw(FIXED) if shape is Shape.FIXED else (),
    )  # fmt: skip


ADDRESSES: Final = st.sampled_from(["127.0.0.1", "::1", "2001:db8::7"])
RANGES: Final = st.just(Ports(0, 65535)) | st.tuples(PORTS, PORTS).map(lambda ends: Ports(min(ends), max(ends)))
INTERNET: Final = st.sampled_from([SocketProtocol.TCP, SocketProtocol.UDP])
NETWORKS: Final = st.builds(
    NetworkPolicy,
    mode=st.sampled_from(NetworkMode),
    allow=st.lists(
        st.builds(PeerRule, INTERNET, ADDRESSES | st.sampled_from(["*", "h.example", "10.0.0.0/8", "::/0"]), RANGES),
        unique=True, max_size=4,
    ).map(tuple),
    bind=st.lists(st.builds(BindRule, INTERNET, ADDRESSES | st.just(""), RANGES), unique=True, max_size=4).map(tuple),
    dns=st.booleans(),
    resolvers=st.lists(ADDRESSES, unique=True, max_size=2).map(tuple),
)  # fmt: skip
PROTOCOLS_OF_OWN: Final = st.lists(
    st.builds(
        Protocol, name=NAMES.filter(lambda name: name not in PROTOCOLS),
        purpose=TEXT.filter(lambda text: text.isprintable()), source=st.just("p.toml"),
        rules=st.lists(rules(), min_size=1, max_size=3).map(tuple),
    ),
    max_size=3, unique_by=lambda protocol: protocol.name,
).map(tuple)  # fmt: skip
PROFILES: Final = st.builds(
    Profile,
    name=st.just("p"),
    source_path=st.just("p.toml"),
    description=TEXT.filter(lambda text: text.isprintable()),
    commands=st.lists(st.from_regex(r"[^/\x00-\x20\x7f]{1,8}", fullmatch=True), unique=True, max_size=3).map(tuple),
    process=st.builds(
        ProcessPolicy, umask=st.integers(0, 0o777), chdir=st.none() | PATHS, die_with_parent=st.booleans(),
        exec=st.sampled_from(ExecPolicy), notify=st.booleans(),
    ),
    environment=st.builds(
        Environment,
        keep=st.lists(st.from_regex(r"[A-Z_]{1,5}\*?|\*", fullmatch=True), unique=True, max_size=4).map(tuple),
        set=st.dictionaries(VARIABLES, TEXT, max_size=4).map(lambda variables: tuple(variables.items())),
    ),
    filter=st.builds(FilterSection, st.lists(TEXT, unique=True, max_size=4).map(tuple)),
    grants=st.lists(grants_with(PATHS), max_size=4).map(unique),
    descriptors=st.builds(
        DescriptorPolicy,
        delegate=st.lists(st.sampled_from(sorted(PROTOCOLS)) | NAMES, unique=True, max_size=4).map(tuple),
        reserve_stdio=st.booleans(), strict=st.booleans(), scm_rights=st.sampled_from(ScmRights),
        activation=st.booleans(),
    ),
    protocols=PROTOCOLS_OF_OWN,
    network=NETWORKS,
)  # fmt: skip


@given(PROFILES)
def test_format_then_parse_is_the_same_profile(profile: Profile) -> None:
    text = format_profile(profile)
    assert merge([parse(text, "p.toml")], "p") == profile
    VALIDATOR.validate(tomllib.loads(text))


@given(st.lists(PROFILES, min_size=1, max_size=4))
def test_merge_keeps_every_grant_name_call_and_kept_variable(profiles: list[Profile]) -> None:
    result = merge([parse(format_profile(profile), "p.toml") for profile in profiles], "p")
    assert [g.name for g in result.grants] == list(dict.fromkeys(g.name for p in profiles for g in p.grants))
    assert result.filter.allow == tuple(dict.fromkeys(call for p in profiles for call in p.filter.allow))
    assert result.environment.keep == tuple(dict.fromkeys(name for p in profiles for name in p.environment.keep))
    folders = [profile.process.chdir for profile in profiles if profile.process.chdir is not None]
    assert result.process == replace(profiles[-1].process, chdir=folders[-1] if folders else None)
    assert set(profiles[-1].environment.set) <= set(result.environment.set)
    names = tuple(dict.fromkeys(name for p in profiles for name in p.descriptors.delegate))
    assert result.descriptors == replace(profiles[-1].descriptors, delegate=names)
    latest = {protocol.name: protocol for p in profiles for protocol in p.protocols}
    assert {protocol.name: protocol for protocol in result.protocols} == latest
    assert set(result.network.allow) == {rule for p in profiles for rule in p.network.allow}
    assert set(result.network.bind) == {rule for p in profiles for rule in p.network.bind}
    assert (result.network.mode, result.network.dns) == (profiles[-1].network.mode, profiles[-1].network.dns)


@given(PROFILES)
def test_merge_with_itself_changes_nothing(profile: Profile) -> None:
    draft = parse(format_profile(profile), "p.toml")
    assert merge([draft, draft], "p") == profile


@given(PROFILES)
def test_delegated_gives_the_protocols_in_their_order_or_names_the_missing_one(profile: Profile) -> None:
    known = {*PROTOCOLS, *(protocol.name for protocol in profile.protocols)}
    missing = [name for name in profile.descriptors.delegate if name not in known]
    if missing:
        with pytest.raises(ProfileError, match="no protocol") as caught:
            delegated(profile)
        assert (caught.value.key, repr(missing[0]) in caught.value.reason) == ("descriptors.delegate", True)
        return
    assert tuple(protocol.name for protocol in delegated(profile)) == profile.descriptors.delegate


@given(rules(), st.sampled_from(["needle", "variable", "program"]), st.integers(0, 80))
def test_protocol_text_as_long_as_the_launcher_remembers_is_accepted_and_a_longer_one_is_not(
    rule: ProtocolRule, part: str, length: int
) -> None:
    assume(getattr(rule, part))
    values: dict[str, Any] = {part: "x" * length or "x"}
    long = replace(rule, **values)
    text = format_profile(Profile("p", protocols=(Protocol("own", "", "p.toml", (long,)),)))
    assert refused_or_valid(text) is (length <= MAX_RULE_TEXT)


# What the grammar cannot hold: a path that is empty, or NUL.
@given(grants_with(TEXT.filter(lambda text: text not in {"", "env:"} and not text.startswith("env:"))))
def test_format_then_parse_is_the_same_grant(grant: Grant) -> None:
    assert parse_grant(format_grant(grant)) == grant


@given(st.text(max_size=40) | st.from_regex(r"[a-z]@?[0-9]*(\+propagate)?=(file|inherit|secret):.*", fullmatch=True))
def test_parse_grant_any_text_gives_a_grant_that_survives_or_a_grant_error(text: str) -> None:
    try:
        grant = parse_grant(text)
    except GrantError:
        return
    assert parse_grant(format_grant(grant)) == grant


@given(st.lists(grants_with(PATHS), max_size=12))
def test_number_grants_gives_distinct_numbers_and_keeps_declared_ones(grants: list[Grant]) -> None:
    variables = {variable_for(grant.name) for grant in grants}
    declared = [grant.number for grant in grants if grant.number is not None]
    inherited = [grant.inherit for grant in grants if isinstance(grant, InheritGrant)]
    collides = any(len(set(values)) < len(values) for values in (declared, inherited, [g.name for g in grants])) or len(
        variables
    ) < len(grants)
    if collides:
        with pytest.raises(GrantError) as caught:
            number_grants(grants)
        assert caught.value.grant in {grant.name for grant in grants}
        return
    numbered = number_grants(grants)
    numbers = [number_of(grant) for grant in numbered]
    assert numbers == sorted(set(numbers))
    assert all(FIRST_NUMBER <= number <= LAST_NUMBER for number in numbers)
    by_name = {grant.name: number_of(grant) for grant in numbered}
    assert all(by_name[grant.name] == grant.number for grant in grants if grant.number is not None)
    given_out = [by_name[grant.name] for grant in grants if grant.number is None]
    free = [n for n in range(FIRST_NUMBER, FIRST_NUMBER + len(grants)) if n not in declared]
    assert given_out == free[: len(given_out)]


# Any text


def refused_or_valid(text: str) -> bool:
    """Parse; a refusal must be a ProfileError of one line. Returns whether the text was valid."""
    refusal = None
    try:
        parse(text, "p.toml")
    except ProfileError as error:
        refusal = error
    assert refusal is None or (refusal.path == "p.toml" and len(str(refusal).splitlines()) == 1)
    return refusal is None


@given(st.text())
def test_parse_any_text_is_a_profile_or_a_profile_error(text: str) -> None:
    refused_or_valid(text)


@given(PROFILES, st.data())
def test_parse_any_change_of_a_text_is_a_profile_or_a_profile_error(profile: Profile, data: st.DataObject) -> None:
    text = format_profile(profile)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 8)))
    middle = data.draw(
        st.sampled_from(['"', "[", "]", "=", "\n", "{", "}", "*", "-1", "true", "[[", ".", "é"]) | st.text(max_size=4)
    )
    refused_or_valid(text[:start] + middle + text[end:])


LEAVES: Final = st.one_of(
    TEXT, st.integers(), st.booleans(), st.floats(), st.datetimes(), st.dates(), st.times(),
    st.sampled_from(["/x", "{home}/x", "read", "append", "pipe", "once", "022", "env:K", "@base"]),
    st.sampled_from(["number", "fixed", "deny"]),
)  # fmt: skip
KEYS: Final = st.sampled_from(
    ["description", "extends", "process", "environment", "filter", "grants", "umask", "chdir", "exec", "keep", "set",
     "allow", "descriptors", "protocols", "delegate", "reserve_stdio", "strict", "scm_rights", "own", "rules", "shape",
     "variable", "argument", "next_argument", "caller_argument", "program", "after", "anywhere", "numbers", "propagate",
     "inherit", "file", "secret", "type", "access", "create", "truncate", "number", "die_with_parent"]
) | st.text(string.printable, max_size=4)  # fmt: skip
TREES: Final = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20
)


def as_toml(value: Any) -> str:  # noqa: ANN401 - any TOML value
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(c if c.isalnum() or c in "/{}:@_" else f"\\U{ord(c):08x}" for c in value) + '"'
        case list():
            return "[" + ", ".join(map(as_toml, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{as_toml(str(key))} = {as_toml(inner)}" for key, inner in value.items()) + "}"
        case int() | float():
            return str(value)
    return str(value.isoformat())


@given(st.dictionaries(KEYS, TREES, max_size=5))
def test_parse_any_tree_of_values_agrees_with_the_schema(tree: dict[str, Any]) -> None:
    text = "\n".join(f"{as_toml(key)} = {as_toml(value)}" for key, value in tree.items())
    if refused_or_valid(text):
        VALIDATOR.validate(tomllib.loads(text))
