"""The network's rules: their grammar, their order, and what names may lead to."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from sandbox import addresses, wire
from sandbox.addresses import looked_up
from sandbox.allowlist import (
    MAX_RULES,
    NOT_MEANT,
    BindRule,
    Line,
    PeerRule,
    Ports,
    compiled,
    hosts_text,
    not_meant,
    parse_bind,
    parse_peer,
    refused_address,
    resolver_rules,
    resolver_text,
)
from sandbox.caller import Caller
from sandbox.errors import UsageError
from sandbox.plan import MAX_NET_RULES
from sandbox.profile import NetworkPolicy
from sandbox.sockets import Protocol
from tests.support.judging import Question, judged, plan_of

TCP, UDP = Protocol.TCP, Protocol.UDP
EVERY: Final = Ports(0, 65535)
CALLER: Final = Caller(environ={}, cwd="/", home="/h", runtime_dir="/r", tmp="/t", parent_pid=1)

PEERS: Final[list[tuple[str, PeerRule]]] = [
    ("tcp:db.example:443", PeerRule(TCP, "db.example", Ports(443, 443))),
    ("udp:under_score:1-65535", PeerRule(UDP, "under_score", Ports(1, 65535))),
    ("tcp:localhost:*", PeerRule(TCP, "localhost", EVERY)),
    ("tcp:192.0.2.7:9000-9010", PeerRule(TCP, "192.0.2.7", Ports(9000, 9010))),
    ("tcp:10.0.0.0/8:65535", PeerRule(TCP, "10.0.0.0/8", Ports(65535, 65535))),
    ("tcp:0.0.0.0/0:80", PeerRule(TCP, "0.0.0.0/0", Ports(80, 80))),
    ("udp:[2001:db8::7]:53", PeerRule(UDP, "2001:db8::7", Ports(53, 53))),
    ("udp:[2001:db8::/32]:*", PeerRule(UDP, "2001:db8::/32", EVERY)),
    ("tcp:[fe80::1%2]:22", PeerRule(TCP, "fe80::1%2", Ports(22, 22))),
    ("tcp:[::/0]:1", PeerRule(TCP, "::/0", Ports(1, 1))),
    ("tcp:*:1", PeerRule(TCP, "*", Ports(1, 1))),
    ("udp:*:*", PeerRule(UDP, "*", EVERY)),
]
BINDS: Final[list[tuple[str, BindRule]]] = [
    ("tcp:8080", BindRule(TCP, "", Ports(8080, 8080))),
    ("udp:9000-9010", BindRule(UDP, "", Ports(9000, 9010))),
    ("tcp:*", BindRule(TCP, "", EVERY)),
    ("tcp:127.0.0.1:80", BindRule(TCP, "127.0.0.1", Ports(80, 80))),
    ("udp:[::1]:1-2", BindRule(UDP, "::1", Ports(1, 2))),
    ("udp:0.0.0.0:*", BindRule(UDP, "0.0.0.0", EVERY)),
]


@pytest.mark.parametrize(("text", "rule"), PEERS, ids=[text for text, _ in PEERS])
def test_peer_of_every_form_is_parsed_and_gives_its_text_back(text: str, rule: PeerRule) -> None:
    assert parse_peer(text) == rule
    assert str(rule) == text


@pytest.mark.parametrize(("text", "rule"), BINDS, ids=[text for text, _ in BINDS])
def test_bind_of_every_form_is_parsed_and_gives_its_text_back(text: str, rule: BindRule) -> None:
    assert parse_bind(text) == rule
    assert str(rule) == text


def test_peer_has_a_name_only_where_one_is_looked_up() -> None:
    assert [text for text, rule in PEERS if rule.name] == [
        "tcp:db.example:443", "udp:under_score:1-65535", "tcp:localhost:*",
    ]  # fmt: skip


# text, the token that the reason names, words of the reason, words of the hint
BAD_PEERS: Final[list[tuple[str, str, str, str]]] = [
    ("", "''", "neither tcp nor udp", "tcp:HOST:PORT"),
    ("h:80", "'h'", "neither tcp nor udp", "tcp:HOST:PORT"),
    ("TCP:h:80", "'TCP'", "neither tcp nor udp", "tcp:HOST:PORT"),
    ("unix:/x:80", "'unix'", "neither tcp nor udp", "tcp:HOST:PORT"),
    ("tcp", "'tcp'", "neither tcp nor udp", "tcp:HOST:PORT"),
    ("tcp:", "''", "it has no host", "tcp:HOST:PORT"),
    ("tcp:h", "'h'", "it has no port", "tcp:HOST:PORT"),
    ("tcp::80", "':80'", "it has no port", "tcp:HOST:PORT"),
    ("tcp:h:", "''", "is no port", "PORT 443"),
    ("tcp:h:http", "'http'", "is no port", "PORT 443"),
    ("tcp:h:-1", "'-1'", "is no port", "PORT 443"),
    ("tcp:h:1-", "'1-'", "is no port", "PORT 443"),
    ("tcp:h:1-2-3", "'1-2-3'", "is no port", "PORT 443"),
    ("tcp:h:+1", "'+1'", "is no port", "PORT 443"),
    ("tcp:h:1\n", "'1\\n'", "is no port", "PORT 443"),
    ("tcp:h:\u0663", "'\u0663'", "is no port", "PORT 443"),
    ("tcp:h:0", "'0'", "not 1 to 65535", "PORT 443"),
    ("tcp:h:0-5", "'0-5'", "not 1 to 65535", "PORT 443"),
    ("tcp:h:65536", "'65536'", "not 1 to 65535", "PORT 443"),
    ("tcp:h:9-8", "'9-8'", "the lower one first", "PORT 443"),
    ("tcp:2001:db8::7:53", "'2001:db8::7'", "brackets are for IPv6", "HOST"),
    ("tcp:[192.0.2.7]:53", "'[192.0.2.7]'", "brackets are for IPv6", "HOST"),
    ("tcp:[h]:53", "'[h]'", "brackets are for IPv6", "HOST"),
    ("tcp:[*]:53", "'[*]'", "brackets are for IPv6", "HOST"),
    ("tcp:[::1:53", "'[::1'", "brackets are for IPv6", "HOST"),
    ("tcp:a b:53", "'a b'", "neither a host's name nor an address", "HOST"),
    ("tcp:*.example:53", "'*.example'", "neither a host's name nor an address", "HOST"),
    ("tcp:127.1:53", "'127.1'", "neither a host's name nor an address", "HOST"),
    ("tcp:2130706433:53", "'2130706433'", "neither a host's name nor an address", "HOST"),
    ("tcp:256.0.0.1:53", "'256.0.0.1'", "neither a host's name nor an address", "HOST"),
    ("tcp:[fe80::1%eth0]:53", "'[fe80::1%eth0]'", "neither a host's name nor an address", "HOST"),
    ("tcp:[fe80::/10%2]:53", "'fe80::/10%2'", "a number of bits", "a network such as"),
    ("tcp:[fe80::%2/64]:53", "'fe80::%2/64'", "a number of bits", "a network such as"),
    ("tcp:10.0.0.0/255.0.0.0:53", "'10.0.0.0/255.0.0.0'", "a number of bits", "a network such as"),
    ("tcp:10.0.0.0/:53", "'10.0.0.0/'", "a number of bits", "a network such as"),
    ("tcp:10.0.0.0/33:53", "'10.0.0.0/33'", "is no network", "a network such as"),
    ("tcp:h/8:53", "'h/8'", "is no network", "a network such as"),
    ("tcp:10.0.0.1/8:53", "'10.0.0.1/8'", "an address in a network", "the network is 10.0.0.0/8"),
    ("tcp:[2001:db8::1/32]:53", "'2001:db8::1/32'", "an address in a network", "the network is 2001:db8::/32"),
    ("tcp:[::ffff:192.0.2.7]:53", "'[::ffff:192.0.2.7]'", "IPv4 in IPv6", "write the IPv4 address"),
    ("tcp:[::ffff:a00:1]:53", "'[::ffff:a00:1]'", "IPv4 in IPv6", "write the IPv4 address"),
    ("tcp:[::ffff:0:0/96]:53", "'::ffff:0:0/96'", "IPv4 in IPv6", "write the IPv4 address"),
    ("tcp:[::ffff:10.0.0.0/104]:53", "'::ffff:10.0.0.0/104'", "IPv4 in IPv6", "write the IPv4 address"),
]
BAD_BINDS: Final[list[tuple[str, str, str, str]]] = [
    ("", "''", "neither tcp nor udp", "tcp:PORT"),
    ("8080", "'8080'", "neither tcp nor udp", "tcp:PORT"),
    ("tcp:", "''", "is no port", "PORT 8080"),
    ("tcp:http", "'http'", "is no port", "PORT 8080"),
    ("tcp:0", "'0'", "not 1 to 65535", "PORT 8080"),
    ("tcp:h:80", "'h'", "is no address", "tcp:ADDRESS:PORT"),
    ("tcp::80", "''", "is no address", "tcp:ADDRESS:PORT"),
    ("tcp:*:80", "'*'", "is no address", "tcp:ADDRESS:PORT"),
    ("tcp:10.0.0.0/8:80", "'10.0.0.0/8'", "is no address", "tcp:ADDRESS:PORT"),
    ("tcp:[fe80::1%2]:80", "'[fe80::1%2]'", "is no address", "tcp:ADDRESS:PORT"),
    ("tcp:[::ffff:127.0.0.1]:80", "'[::ffff:127.0.0.1]'", "IPv4 in IPv6", "write the IPv4 address"),
]


@pytest.mark.parametrize(
    ("parse", "text", "token", "reason", "hint"),
    [*((parse_peer, *row) for row in BAD_PEERS), *((parse_bind, *row) for row in BAD_BINDS)],
)
def test_rule_that_is_wrong_is_refused_by_the_part_that_is(
    parse: Callable[[str], object], text: str, token: str, reason: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.object == text
    assert token in caught.value.reason
    assert reason in caught.value.reason
    assert hint in caught.value.hint


def test_network_of_ipv6_that_holds_ipv4_and_more_is_no_mistake() -> None:
    assert parse_peer("tcp:[::/80]:53").host == "::/80"
    assert parse_peer("tcp:[::fffe:0:0/95]:53").host == "::fffe:0:0/95"


# Order


def lines_of(*texts: str, binds: tuple[str, ...] = (), **hosts: tuple[str, ...]) -> tuple[Line, ...]:
    return compiled([parse_peer(text) for text in texts], [parse_bind(text) for text in binds], hosts)


def asked(lines: tuple[Line, ...], host: str, port: int, protocol: Protocol = TCP, *, bind: bool = False) -> str | None:
    """Return the label of the line that lets it, None where it is refused; the launcher decides."""
    address = ipaddress.ip_address(host)
    head = (2 if address.version == 4 else 10).to_bytes(2, "little") + port.to_bytes(2, "big")
    data = head + address.packed + bytes(8) if address.version == 4 else head + bytes(4) + address.packed + bytes(4)
    (answer,) = judged(lines, [Question(data, protocol, bind)])
    return lines[answer.rule].label if answer.rule is not None and answer.allowed else None


def test_rules_stand_in_the_order_narrow_denied_wide_bound() -> None:
    lines = lines_of("tcp:*:443", "tcp:127.0.0.1:80", "tcp:db:5", binds=("tcp:8080",), db=("192.0.2.7",))
    count = sum(map(len, NOT_MEANT.values()))
    assert [line.label for line in lines if not line.deny] == [
        "tcp:127.0.0.1:80", "tcp:*:443", "tcp:*:443", "tcp:db:5", "tcp:8080", "tcp:8080",
    ]  # fmt: skip
    assert [line.deny for line in lines] == [False, *[True] * count, *[False] * 5]
    assert [line.bind for line in lines] == [False] * (count + 4) + [True] * 2
    assert {line.label for line in lines if line.deny} == set(NOT_MEANT)
    assert wire.decode(wire.encode(plan_of(lines))) == plan_of(lines)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.255.0.9", "0.0.0.0", "::", "::1", "169.254.169.254", "fe80::1", "100.100.100.200",
     "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254", "224.0.0.1", "255.255.255.255", "ff02::1",
     "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1", "2001::1"],
)  # fmt: skip
def test_wide_rule_does_not_reach_what_must_be_named_and_a_rule_that_names_it_does(host: str) -> None:
    bracketed = f"[{host}]" if ":" in host else host
    wide = lines_of("tcp:*:*", "tcp:0.0.0.0/0:*", "tcp:[::/0]:*")
    assert asked(wide, host, 80) is None
    assert asked(wide, "192.0.2.7" if ":" not in host else "2001:db8::7", 80) == "tcp:*:*"
    named = f"tcp:{bracketed}:80"
    assert asked(lines_of("tcp:*:*", named), host, 80) == named
    assert asked(lines_of("tcp:*:*", named), host, 81) is None


def test_network_within_one_that_must_be_named_is_named_and_one_around_it_is_not() -> None:
    assert asked(lines_of("tcp:127.0.0.0/30:80"), "127.0.0.2", 80) == "tcp:127.0.0.0/30:80"
    assert asked(lines_of("tcp:127.0.0.0/8:80"), "127.9.9.9", 80) == "tcp:127.0.0.0/8:80"
    assert asked(lines_of("tcp:126.0.0.0/7:80"), "127.0.0.2", 80) is None
    assert asked(lines_of("tcp:126.0.0.0/7:80"), "126.0.0.2", 80) == "tcp:126.0.0.0/7:80"
    assert not_meant(ipaddress.ip_network("127.0.0.0/30")) == "this host itself"
    assert not_meant(ipaddress.ip_network("126.0.0.0/7")) is None


def test_denials_are_for_the_protocols_that_rules_have() -> None:
    assert {line.protocol for line in lines_of("tcp:*:1") if line.deny} == {TCP}
    assert {line.protocol for line in lines_of("tcp:*:1", "udp:*:1") if line.deny} == {TCP, UDP}
    assert lines_of(binds=("tcp:1",)) == tuple(line for line in lines_of(binds=("tcp:1",)) if line.bind)


def test_name_has_the_addresses_that_it_was_looked_up_to_and_no_others() -> None:
    lines = lines_of("tcp:db:5432", db=("192.0.2.7", "2001:db8::7"))
    assert asked(lines, "192.0.2.7", 5432) == asked(lines, "2001:db8::7", 5432) == "tcp:db:5432"
    assert asked(lines, "192.0.2.8", 5432) is None
    assert asked(lines, "192.0.2.7", 5433) is None
    assert asked(lines, "192.0.2.7", 5432, UDP) is None
    assert asked(lines, "192.0.2.7", 5432, bind=True) is None
    assert asked(lines_of("tcp:db:5432", db=("127.0.0.1",)), "127.0.0.1", 5432) is None


def test_bind_is_of_its_address_or_of_every_one() -> None:
    lines = lines_of("tcp:*:*", binds=("tcp:8080", "udp:127.0.0.1:9000-9010"))
    assert asked(lines, "0.0.0.0", 8080, bind=True) == asked(lines, "::", 8080, bind=True) == "tcp:8080"
    assert asked(lines, "127.0.0.1", 8080, bind=True) == "tcp:8080"
    assert asked(lines, "0.0.0.0", 8081, bind=True) is None
    assert asked(lines, "127.0.0.1", 9010, UDP, bind=True) == "udp:127.0.0.1:9000-9010"
    assert asked(lines, "0.0.0.0", 9010, UDP, bind=True) is None
    assert asked(lines, "127.0.0.1", 9010, bind=True) is None


def test_rules_are_as_many_as_a_plan_takes() -> None:
    assert MAX_RULES == MAX_NET_RULES
    least = len(lines_of("tcp:192.0.2.7:1"))
    most = [f"tcp:192.0.2.7:{port}" for port in range(1, MAX_RULES - least + 2)]
    assert len(lines_of(*most)) == MAX_RULES
    with pytest.raises(UsageError, match=f"network.allow: they are {MAX_RULES + 1} rules"):
        lines_of(*most, "tcp:192.0.2.8:1")


# Names, resolvers and the two files


@pytest.mark.parametrize(
    ("found", "rules", "refused"),
    [
        (("192.0.2.7", "10.0.0.1"), ("tcp:evil:80",), None),
        (("192.0.2.7", "127.0.0.1"), ("tcp:evil:80",), ("127.0.0.1", "this host itself")),
        (("169.254.169.254",), ("tcp:*:80", "tcp:0.0.0.0/0:80"), ("169.254.169.254", "link-local addresses")),
        (("fd00:ec2::254",), (), ("fd00:ec2::254", "cloud metadata")),
        (("fe80::1%2",), (), ("fe80::1%2", "link-local addresses")),
        (("::1",), ("tcp:127.0.0.1:80",), ("::1", "this host itself")),
        (("127.0.0.1",), ("tcp:127.0.0.1:80",), None),
        (("127.0.0.1",), ("tcp:127.0.0.0/8:80",), None),
        (("127.0.0.1",), ("tcp:126.0.0.0/7:80",), ("127.0.0.1", "this host itself")),
    ],
)
def test_name_leads_only_where_names_may_or_a_rule_says_so(
    found: tuple[str, ...], rules: tuple[str, ...], refused: tuple[str, str] | None
) -> None:
    assert refused_address(found, map(parse_peer, rules)) == refused


def test_looked_up_gives_the_names_of_rules_their_addresses() -> None:
    policy = NetworkPolicy(allow=tuple(map(parse_peer, ("tcp:localhost:80", "tcp:127.0.0.0/8:1", "tcp:[::1]:1"))))
    found = looked_up(CALLER, (), policy).peers
    assert set(found) == {"localhost"}
    assert set(found["localhost"]) <= {"127.0.0.1", "::1"}
    with pytest.raises(UsageError, match=r"network.allow: tcp:localhost:80: host localhost is .*: this host itself"):
        looked_up(CALLER, (), NetworkPolicy(allow=policy.allow[:1]))
    with pytest.raises(UsageError, match=r"network.allow: tcp:no.such.invalid:80: host no.such.invalid: "):
        looked_up(CALLER, (), NetworkPolicy(allow=(parse_peer("tcp:no.such.invalid:80"),)))
    assert looked_up(CALLER, ()).peers == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nameserver 192.0.2.53\nsearch x\nnameserver 2001:db8::53\n", ("192.0.2.53", "2001:db8::53")),
        ("# nameserver 192.0.2.1\n nameserver 192.0.2.53 # ours\noptions\n\n", ("192.0.2.53",)),
        ("nameserver fe80::1%eth0\nnameserver x\nnameserver\n", ("127.0.0.1",)),
        ("", ("127.0.0.1",)),
        (None, ("127.0.0.1",)),
    ],
)
def test_resolvers_are_those_of_the_callers_file(
    text: str | None, found: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "resolv.conf").write_text(text)
    monkeypatch.setattr(addresses, "RESOLV_CONF", str(tmp_path / "resolv.conf"))
    assert looked_up(CALLER, (), NetworkPolicy(dns=True)).resolvers == found
    assert looked_up(CALLER, (), NetworkPolicy(dns=True, resolvers=("192.0.2.1",))).resolvers == ()
    assert looked_up(CALLER, (), NetworkPolicy()).resolvers == ()


def test_resolver_is_asked_at_its_port_and_at_no_other() -> None:
    lines = compiled(resolver_rules(["127.0.0.53"]), [], {})
    assert asked(lines, "127.0.0.53", 53) == "tcp:127.0.0.53:53"
    assert asked(lines, "127.0.0.53", 53, UDP) == "udp:127.0.0.53:53"
    assert asked(lines, "127.0.0.53", 54, UDP) is asked(lines, "127.0.0.54", 53, UDP) is None


def test_texts_of_the_two_files() -> None:
    assert hosts_text({"db": ("192.0.2.7", "2001:db8::7")}).splitlines() == [
        "127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback", "192.0.2.7 db", "2001:db8::7 db",
    ]  # fmt: skip
    assert resolver_text(["192.0.2.53", "::1"]) == "nameserver 192.0.2.53\nnameserver ::1\n"
    assert resolver_text([]) == ""
