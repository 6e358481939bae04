"""Grants: their command-line grammar, what is refused and by which name, their numbers, `{fd:NAME}`."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from sandbox.errors import GrantError
from sandbox.grants import (
    FIRST_NUMBER,
    LAST_NUMBER,
    MAX_GRANTS,
    SAFE_TYPES,
    STDIO_TYPES,
    Access,
    ConnectGrant,
    CopyGrant,
    DatagramGrant,
    DataGrant,
    FdType,
    FileGrant,
    Grant,
    InheritGrant,
    ListenGrant,
    ScratchGrant,
    SecretGrant,
    checked,
    format_grant,
    is_activated,
    kind_of,
    number_grants,
    number_of,
    parse_grant,
    substitute,
    variable_for,
)

ACCEPTED: Final[dict[str, Grant]] = {
    "a=inherit:5": InheritGrant(name="a", inherit=5),
    "a=inherit:0:read": InheritGrant(name="a", inherit=0, access=Access.READ),
    "a@7=inherit:5:pipe": InheritGrant(name="a", inherit=5, type=FdType.PIPE, number=7),
    "a=inherit:5:read-write,socket": InheritGrant(name="a", inherit=5, type=FdType.SOCKET, access=Access.READ_WRITE),
    "a=inherit:5:socket,write": InheritGrant(name="a", inherit=5, type=FdType.SOCKET, access=Access.WRITE),
    "a=file:/x": FileGrant(name="a", file="/x"),
    "a=file:x": FileGrant(name="a", file="x"),
    "a=file:/x:append": FileGrant(name="a", file="/x", access=Access.APPEND),
    "a=file:/x:write,create,truncate": FileGrant(name="a", file="/x", access=Access.WRITE, create=True, truncate=True),
    "a=file:/x:y": FileGrant(name="a", file="/x:y"),
    "a=file:/x:read:write": FileGrant(name="a", file="/x:read", access=Access.WRITE),
    "a=file:/x:read,write": FileGrant(name="a", file="/x:read,write"),
    "a=file:/x:write,create,create": FileGrant(name="a", file="/x:write,create,create"),
    "a=file:/x:pipe": FileGrant(name="a", file="/x:pipe"),
    "a=file:/x=y": FileGrant(name="a", file="/x=y"),
    "a=file:/x y:read": FileGrant(name="a", file="/x y"),
    "a=secret:/x:read": SecretGrant(name="a", secret="/x:read"),
    "a.b-c_9=secret:env:KEY": SecretGrant(name="a.b-c_9", secret="env:KEY"),
    "a@65535=file:/x": FileGrant(name="a", file="/x", number=65535),
    "a+propagate=inherit:5:pipe": InheritGrant(name="a", inherit=5, type=FdType.PIPE, propagate=True),
    "a@7+propagate=file:/x:append": FileGrant(name="a", file="/x", access=Access.APPEND, number=7, propagate=True),
    "a+propagate=secret:env:K": SecretGrant(name="a", secret="env:K", propagate=True),
    "a=data:": DataGrant(name="a", data=""),
    "a@7+propagate=data:two words:read": DataGrant(name="a", data="two words:read", number=7, propagate=True),
    "a=data:x=y\n": DataGrant(name="a", data="x=y\n"),
    "a=copy:/x:read": CopyGrant(name="a", copy="/x:read"),
    "a=scratch:64M": ScratchGrant(name="a", scratch=64 << 20),
    "a+propagate=scratch:1": ScratchGrant(name="a", scratch=1, propagate=True),
    "a=file:/x+propagate": FileGrant(name="a", file="/x+propagate"),
    "a=file:+propagate=/x": FileGrant(name="a", file="+propagate=/x"),
    "a=inherit:systemd:web": InheritGrant(name="a", inherit="systemd:web"),
    "a=inherit:systemd:my web.socket:stream": InheritGrant(
        name="a", inherit="systemd:my web.socket", type=FdType.STREAM
    ),
    "a=inherit:5:relay": InheritGrant(name="a", inherit=5, relay=True),
    "a=inherit:5:write,stream,relay": InheritGrant(
        name="a", inherit=5, access=Access.WRITE, type=FdType.STREAM, relay=True
    ),
    "a=inherit:5:append,relay": InheritGrant(name="a", inherit=5, access=Access.APPEND, relay=True),
    "a=file:/x:relay": FileGrant(name="a", file="/x:relay"),
    "a=inherit:5:listener": InheritGrant(name="a", inherit=5, type=FdType.LISTENER),
    "a=listen:tcp:127.0.0.1:80": ListenGrant(name="a", listen="tcp:127.0.0.1:80"),
    "a=listen:tcp:[::1]:0:ipv6_only,backlog=5": ListenGrant(name="a", listen="tcp:[::1]:0", ipv6_only=True, backlog=5),
    "a@9+propagate=listen:udp:*:53:reuse_port": ListenGrant(
        name="a", listen="udp:*:53", reuse_port=True, number=9, propagate=True
    ),
    "a=listen:tcp:some.host:443": ListenGrant(name="a", listen="tcp:some.host:443"),
    "a=listen:unix:/a:b": ListenGrant(name="a", listen="unix:/a:b"),
    "a=listen:unix:/a:b:mode=660": ListenGrant(name="a", listen="unix:/a:b", mode="660"),
    "a=listen:unix:/a:owner=me:us,mode=0600": ListenGrant(name="a", listen="unix:/a", owner="me:us", mode="0600"),
    "a=listen:unix:/a:owner=me": ListenGrant(name="a", listen="unix:/a", owner="me"),
    "a=listen:unix:/a:mode=8": ListenGrant(name="a", listen="unix:/a:mode=8"),
    "a=listen:unix:@x": ListenGrant(name="a", listen="unix:@x"),
    "a=connect:tcp:h:1": ConnectGrant(name="a", connect="tcp:h:1"),
    "a=connect:unix:/a:timeout=0.25": ConnectGrant(name="a", connect="unix:/a", timeout=0.25),
    "a=connect:unix:/a:reuse_port": ConnectGrant(name="a", connect="unix:/a:reuse_port"),
    "a=datagram:udp:[2001:db8::1]:53": DatagramGrant(name="a", datagram="udp:[2001:db8::1]:53"),
    "a=datagram:unix:/dev/log": DatagramGrant(name="a", datagram="unix:/dev/log"),
}

# text -> the name in the message, part of the reason, part of the hint.
REFUSED: Final[dict[str, tuple[str, str, str]]] = {
    "": ("", "cannot read ''", "NAME[@NUMBER][+propagate]="),
    "a": ("a", "cannot read 'a'", "NAME[@NUMBER][+propagate]="),
    "a=": ("a", "cannot read", "inherit|file|directory|secret|listen|connect|datagram|data|copy|scratch:VALUE"),
    "a=file": ("a", "cannot read", "inherit|file|directory|secret|listen|connect|datagram|data|copy|scratch:VALUE"),
    "a=files:/x": ("a", "cannot read", "inherit|file|directory|secret|listen|connect|datagram|data|copy|scratch:VALUE"),
    "=file:/x": ("''", "not a grant name", "a letter"),
    "1a=file:/x": ("'1a'", "not a grant name", "a letter"),
    "a b=file:/x": ("'a b'", "not a grant name", "a letter"),
    "é=file:/x": ("'é'", "not a grant name", "a letter"),
    f"{'a' * 64}=file:/x": (repr("a" * 64), "not a grant name", "a letter"),
    "a@=file:/x": ("a", "cannot read", "NAME[@NUMBER][+propagate]="),
    "a@x=file:/x": ("a", "cannot read", "NAME[@NUMBER][+propagate]="),
    "a@-3=file:/x": ("a", "cannot read", "NAME[@NUMBER][+propagate]="),
    "a@\u0663=file:/x": ("a", "cannot read", "NAME[@NUMBER][+propagate]="),
    f"a@{'9' * 5000}=file:/x": ("a", "cannot read", "NAME[@NUMBER][+propagate]="),
    "a+=file:/x": ("a", "cannot read", "NAME[@NUMBER][+propagate]="),
    "a+propagat=file:/x": ("a", "cannot read", "NAME[@NUMBER][+propagate]="),
    "a+PROPAGATE=file:/x": ("a", "cannot read", "NAME[@NUMBER][+propagate]="),
    "a+propagate@7=file:/x": ("a", "cannot read", "NAME[@NUMBER][+propagate]="),
    "a+propagate+propagate=file:/x": ("a", "cannot read", "NAME[@NUMBER][+propagate]="),
    "a@7+=file:/x": ("a", "cannot read", "NAME[@NUMBER][+propagate]="),
    "+propagate=file:/x": ("''", "not a grant name", "a letter"),
    "a@2=file:/x": ("a", "number 2 is out of range", "3 to 65535"),
    "a@65536=file:/x": ("a", "number 65536 is out of range", "3 to 65535"),
    "a=file:": ("a", "the path is empty", "/a/path"),
    "a=file::write": ("a", "the path is empty", "/a/path"),
    "a=file:/x\0": ("a", "the path is empty or holds a NUL byte", "/a/path"),
    "a=file:/x:read,create": ("a", "need a writing access", "write"),
    "a=file:/x:truncate": ("a", "need a writing access", "write"),
    "a=inherit:": ("a", "'' is not a descriptor number", "NAME=inherit:5"),
    "a=inherit:x": ("a", "'x' is not a descriptor number", "NAME=inherit:5"),
    "a=inherit:-1": ("a", "'-1' is not a descriptor number", "NAME=inherit:5"),
    "a=inherit:\u0665": ("a", "is not a descriptor number", "NAME=inherit:5"),
    f"a=inherit:{'9' * 5000}": ("a", "is not a descriptor number", "NAME=inherit:5"),
    "a=inherit:2147483648": ("a", "2147483648 is not a descriptor", "open"),
    "a=inherit:5:pipes": ("a", "'5:pipes' is not a descriptor number", "NAME=inherit:5"),
    "a=inherit:5:pipe,socket": ("a", "is not a descriptor number", "NAME=inherit:5"),
    "a=inherit:5:read,write": ("a", "is not a descriptor number", "NAME=inherit:5"),
    "a=inherit:5:read,create": ("a", "is not a descriptor number", "NAME=inherit:5"),
    "a=inherit:5:relay,raw": ("a", "raw is the caller's own", "leave one of them out"),
    "a=inherit:5:read-write,relay": ("a", "a relay goes one way", "read or write"),
    "a=inherit:5:directory,relay": ("a", "a relay copies bytes, and a directory has none", "file, pipe, stream"),
    "a=inherit:systemd:": ("a", "'systemd:' is not a descriptor", "systemd:NAME"),
    "a=inherit:systemd:a:b": ("a", "'systemd:a:b' is not a descriptor", "systemd:NAME"),
    "a=inherit:systemd:\u00e9": ("a", "is not a descriptor", "systemd:NAME"),
    "a=secret:": ("a", "no source", "env:NAME"),
    "a=secret:env:": ("a", "no source", "env:NAME"),
    "a=secret:env:A=B": ("a", "no source", "env:NAME"),
    "a=data:x\0": ("a", "holds a NUL byte", "copy"),
    f"a=data:{'é' * (1 << 19)}x": ("a", "longer than 1 MiB", "copy"),
    "a=copy:": ("a", "the path is empty", "/a/path"),
    "a=copy:/x\0": ("a", "the path is empty or holds a NUL byte", "/a/path"),
    "a=scratch:": ("a", "'': it is not a size", "512M"),
    "a=scratch:64MB": ("a", "'64MB': it is not a size", "512M"),
    "a=scratch:-1": ("a", "'-1': it is not a size", "512M"),
    "a=scratch:0": ("a", "a scratch file of 0 bytes", "64M"),
    "a=scratch:3T": ("a", "a scratch file of", "64M"),
    "a=secret:/x\0": ("a", "no source", "env:NAME"),
    "a=listen:": ("a", "it is no address", "tcp:HOST:PORT"),
    "a=listen:80": ("a", "it is no address", "tcp:HOST:PORT"),
    "a=listen:sctp:h:1": ("a", "it is no address", "tcp:HOST:PORT"),
    "a=listen:tcp:80": ("a", "no port", "tcp:HOST:PORT"),
    "a=listen:tcp:h:65536": ("a", "no port", "tcp:HOST:PORT"),
    "a=listen:tcp:h:http": ("a", "no port", "tcp:HOST:PORT"),
    "a=listen:tcp::80": ("a", "no host", "*"),
    "a=listen:tcp:::1:80": ("a", "brackets", "brackets"),
    "a=listen:tcp:[127.0.0.1]:80": ("a", "brackets", "brackets"),
    "a=listen:tcp:127.1:80": ("a", "neither a host's name nor an address", "tcp:HOST:PORT"),
    "a=listen:tcp:256.0.0.1:80": ("a", "neither a host's name nor an address", "tcp:HOST:PORT"),
    "a=listen:tcp:[::1%eth0]:80": ("a", "neither a host's name nor an address", "tcp:HOST:PORT"),
    "a=listen:tcp:a b:80": ("a", "neither a host's name nor an address", "tcp:HOST:PORT"),
    "a=listen:unix:": ("a", "the path is empty", "unix:/PATH"),
    "a=listen:unix:@": ("a", "the path is empty", "unix:/PATH"),
    "a=listen:unix:/x\0": ("a", "NUL", "unix:/PATH"),
    "a=listen:tcp:h:1:backlog=0": ("a", "the backlog is not", "leave it out"),
    "a=listen:tcp:h:1:backlog=99999": ("a", "the backlog is not", "leave it out"),
    "a=listen:tcp:h:1:mode=600": ("a", "of a path's file", "unix:/PATH"),
    "a=listen:unix:@x:owner=me": ("a", "of a path's file", "unix:/PATH"),
    "a=listen:unix:/x:reuse_port": ("a", "reuse_port is for ports", "leave it out"),
    "a=listen:tcp:127.0.0.1:1:ipv6_only": ("a", "ipv6_only is for IPv6", "leave it out"),
    "a=listen:unix:/x:mode=7777": ("a", "is not octal text", "660"),
    "a=listen:tcp:h:1:timeout=3": ("a", "no port", "tcp:HOST:PORT"),
    "a=connect:udp:h:1": ("a", "not connected this way", 'datagram = "udp:h:1"'),
    "a=connect:tcp:*:1": ("a", "one peer", "host"),
    "a=connect:tcp:h:0": ("a", "port 0", "service"),
    "a=connect:tcp:h:1:timeout=0": ("a", "the timeout is out of range", "3600"),
    "a=connect:tcp:h:1:timeout=3601": ("a", "the timeout is out of range", "3600"),
    "a=datagram:tcp:h:1": ("a", "tcp has no datagrams", 'connect = "tcp:h:1"'),
    "a=datagram:udp:*:1": ("a", "one peer", "host"),
}


@pytest.mark.parametrize(("text", "grant"), ACCEPTED.items(), ids=ACCEPTED)
def test_parse_grant_accepts(text: str, grant: Grant) -> None:
    assert parse_grant(text) == grant
    assert parse_grant(format_grant(grant)) == grant


@pytest.mark.parametrize("text", REFUSED, ids=[text[:24].encode().hex() for text in REFUSED])
def test_parse_grant_refuses_and_names_the_grant(text: str) -> None:
    name, reason, hint = REFUSED[text]
    with pytest.raises(GrantError) as caught:
        parse_grant(text)
    assert caught.value.grant == name
    assert reason in caught.value.reason
    assert hint in caught.value.hint
    assert str(caught.value).startswith("grant: ")
    assert len(str(caught.value).splitlines()) == 1


def test_kind_of_is_the_word_of_profiles_and_command_line() -> None:
    kinds = [kind_of(parse_grant(text)) for text in ("a=inherit:3", "a=file:/x", "a=secret:/x")]
    assert kinds == ["inherit", "file", "secret"]
    sockets = ("a=listen:unix:/x", "a=connect:unix:/x", "a=datagram:unix:/x")
    assert [kind_of(parse_grant(text)) for text in sockets] == ["listen", "connect", "datagram"]
    assert [kind_of(parse_grant(f"a={kind}:1")) for kind in ("data", "copy", "scratch")] == ["data", "copy", "scratch"]


def test_secret_variable_is_told_from_a_path() -> None:
    assert SecretGrant(name="a", secret="env:KEY").variable == "KEY"
    assert SecretGrant(name="a", secret="./env:KEY").variable is None


def test_checked_returns_the_same_value() -> None:
    for grant in ACCEPTED.values():
        assert checked(grant) is grant


def test_safe_types_leave_out_what_leads_further_than_itself() -> None:
    dangerous = {
        FdType.DIRECTORY, FdType.PATH, FdType.BLOCK_DEVICE, FdType.TTY, FdType.NAMESPACE, FdType.PIDFD,
        FdType.IO_URING, FdType.SECCOMP_LISTENER, FdType.BPF, FdType.CHAR_DEVICE, FdType.OTHER,
        FdType.SOCKET, FdType.DATAGRAM, FdType.RAW_SOCKET,
    }  # fmt: skip
    assert SAFE_TYPES & dangerous == frozenset()
    assert {FdType.TTY} == STDIO_TYPES - SAFE_TYPES


def test_type_bits_are_distinct_powers_of_two() -> None:
    assert [fd_type.bit for fd_type in FdType] == [1 << index for index in range(len(FdType))]


# Numbers


def file(name: str, number: int | None = None) -> FileGrant:
    return FileGrant(name=name, file="/x", number=number)


def test_number_grants_fills_the_gaps_in_order_of_declaration() -> None:
    numbered = number_grants([file("a"), file("b", 4), file("c"), file("d", 9), file("e")])
    assert [(grant.name, grant.number) for grant in numbered] == [("a", 3), ("b", 4), ("c", 5), ("e", 6), ("d", 9)]


def test_number_grants_of_none_is_none() -> None:
    assert number_grants([]) == ()


COLLISIONS: Final[dict[str, tuple[list[Grant], list[Grant], str]]] = {
    "name": ([file("a", 3), file("a", 4)], [file("a", 3), file("b", 4)], "a: the name is used twice"),
    "number": ([file("a", 4), file("b", 4)], [file("a", 4), file("b", 5)], "b: the number is used twice .4, by 'a'"),
    "variable": ([file("a.b"), file("A-b")], [file("a.b"), file("A-c")], "A-b: its variable is that of another grant"),
    "descriptor": (
        [InheritGrant(name="a", inherit=7), InheritGrant(name="b", inherit=7)],
        [InheritGrant(name="a", inherit=7), InheritGrant(name="b", inherit=8)],
        "b: the descriptor is used twice .7, by 'a'",
    ),
    "number-range": ([file("a", 2)], [file("a", FIRST_NUMBER)], "a: number 2 is out of range"),
    "number-limit": ([file("a", LAST_NUMBER + 1)], [file("a", LAST_NUMBER)], "a: number 65536 is out of range"),
    "count": (
        [file(f"a{n}") for n in range(MAX_GRANTS + 1)], [file(f"a{n}") for n in range(MAX_GRANTS)],
        "a512: more than 512 grants",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "right", "message"), COLLISIONS.values(), ids=COLLISIONS)
def test_number_grants_refuses_what_collides(wrong: list[Grant], right: list[Grant], message: str) -> None:
    assert len(number_grants(right)) == len(right)
    with pytest.raises(GrantError, match=f"grant: {message}"):
        number_grants(wrong)


def test_number_grants_with_activation_gives_sockets_the_first_numbers() -> None:
    texts = [
        "f=file:/x",
        "a=listen:tcp:h:1",
        "i=inherit:5",
        "b=inherit:6:stream",
        "c@5=connect:unix:/x",
        "d=inherit:systemd:e",
    ]
    given = [parse_grant(text) for text in texts]
    numbers = {grant.name: grant.number for grant in number_grants(given, activation=True)}
    assert numbers == {"a": 3, "b": 4, "c": 5, "d": 6, "f": 7, "i": 8}
    assert [grant.name for grant in given if is_activated(grant)] == ["a", "b", "c", "d"]
    without = {grant.name: grant.number for grant in number_grants(given)}
    assert without == {"f": 3, "a": 4, "c": 5, "i": 6, "b": 7, "d": 8}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a=listen:tcp:h:1", "b@5=listen:tcp:h:2"], "b: activation gives it number 4"),
        (["a=listen:tcp:h:1", "f@3=file:/x"], "f: the number is used twice"),
    ],
)
def test_number_grants_with_activation_refuses_another_number(texts: list[str], message: str) -> None:
    given = [parse_grant(text) for text in texts]
    assert len(number_grants(given)) == len(given) or "twice" in message
    with pytest.raises(GrantError, match=f"grant: {message}"):
        number_grants(given, activation=True)


def test_inherited_by_a_managers_name_has_a_number_when_it_is_looked_up() -> None:
    grant = InheritGrant(name="a", inherit="systemd:web")
    assert (grant.passed_as, InheritGrant(name="a", inherit=5).passed_as) == ("web", None)
    assert replace(grant, passed_fd=7).fd == 7
    with pytest.raises(GrantError, match="grant: a: nobody has looked systemd:web up"):
        assert grant.fd
    with pytest.raises(GrantError, match="b: the descriptor is used twice"):
        number_grants([replace(grant, passed_fd=7), InheritGrant(name="b", inherit=7)])


def test_variable_for_is_a_shells_name() -> None:
    assert [variable_for(name) for name in ("log", "a.b-c", "X_9")] == [
        "SANDBOX_FD_LOG",
        "SANDBOX_FD_A_B_C",
        "SANDBOX_FD_X_9",
    ]


# Numbers in arguments


def test_substitute_replaces_every_name_and_nothing_else() -> None:
    grants = number_grants([file("log"), file("x.y", 12)])
    assert substitute("/dev/fd/{fd:log}", grants) == "/dev/fd/3"
    assert substitute("{fd:log}{fd:x.y}", grants) == "312"
    for text in ("{fd}", "{log}", "{}", "{{fd", "fd:log", "${FD}", ""):
        assert substitute(text, grants) == text


def test_substitute_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(GrantError, match=r"grant: lg: no such grant, in argument '-{fd:lg}'; declared: a, log"):
        substitute("-{fd:lg}", number_grants([file("log"), file("a")]))
    with pytest.raises(GrantError, match="declared: none"):
        substitute("{fd:}", ())


def test_number_of_grant_without_number_is_a_bug_of_the_caller() -> None:
    assert number_of(file("a", 5)) == 5
    with pytest.raises(AssertionError):
        number_of(file("a"))
