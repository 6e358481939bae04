"""For any rules and any address, the launcher decides as the first rule does that fits; any rule's text is its rule.

Rules come from the grammar, and without it: any order, denials anywhere. network.c runs under sanitizers.
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from collections.abc import Sequence
from typing import Final, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.allowlist import (
    NOT_MEANT,
    BindRule,
    Line,
    PeerRule,
    Ports,
    compiled,
    not_meant,
    parse_bind,
    parse_peer,
)
from sandbox.sockets import Protocol
from tests.support.judging import Answer, Question, judged

Host: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
SETTINGS: Final = settings(max_examples=60, deadline=None)
HOSTS: Final = {"db": ("192.0.2.7", "2001:db8::7"), "evil": ("127.0.0.1", "169.254.169.254"), "gone": ()}
EVERY: Final = Ports(0, 65535)
# Addresses near the edges of what rules name, and any.
EDGES: Final = [
    "0.0.0.0", "10.0.0.1", "10.255.255.255", "11.0.0.0", "127.0.0.1", "126.255.255.255", "128.0.0.0", "192.0.2.7",
    "169.254.169.254", "224.0.0.1", "255.255.255.255", "::", "::1", "::2", "::7f00:1", "::ffff:7f00:1", "::ffff:0:0",
    "::fffe:ffff:ffff", "::1:0:0:0", "2001:db8::7", "2001:db9::", "fe80::1", "febf::1", "fec0::", "ff02::1",
    "fd00:ec2::254", "64:ff9b::a00:1", "1:0:0:2::3", "1:0:0:2:0:0:0:3", "1::2:3:4:5:6:7",
]  # fmt: skip
IPV4: Final = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
IPV6: Final = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address) | st.lists(
    st.sampled_from([0, 0, 1, 0xABCD]), min_size=8, max_size=8
).map(lambda groups: ipaddress.IPv6Address(struct.pack(">8H", *groups)))
ADDRESSES: Final[st.SearchStrategy[Host]] = st.one_of(
    st.sampled_from([ipaddress.ip_address(text) for text in EDGES]), IPV4, IPV6,
    IPV4.map(lambda host: ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + host.packed)),
)  # fmt: skip
SOME_PORTS: Final = st.sampled_from([1, 53, 80, 443, 8080, 65535]) | st.integers(1, 65535)
PORTS: Final = st.just(EVERY) | st.lists(SOME_PORTS, min_size=1, max_size=2).map(lambda p: Ports(min(p), max(p)))
PROTOCOLS: Final = st.sampled_from([Protocol.TCP, Protocol.UDP])
ZONES: Final = st.sampled_from([0, 0, 0, 1, 2])


def is_mapped(address: Host) -> bool:
    return isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Any network that a rule can name; often one that holds an edge."""
    address = draw(ADDRESSES.filter(lambda host: not is_mapped(host)))
    bits = draw(st.integers(0, address.max_prefixlen) | st.sampled_from([0, 8, 16, 24, 32]))
    found = ipaddress.ip_network((address, bits), strict=False)
    return found if not is_mapped(found.network_address) else ipaddress.ip_network("::/0")


def texts_of(rule: PeerRule) -> Sequence[str]:
    if rule.host == "*":
        return ("0.0.0.0/0", "::/0")
    return HOSTS[rule.name] if rule.name else (rule.host,)


def host_text(network: Network) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


PEERS: Final = st.builds(
    PeerRule, PROTOCOLS, st.just("*") | st.sampled_from([*HOSTS]) | networks().map(host_text), PORTS
)
BINDS: Final = st.builds(
    BindRule, PROTOCOLS, st.just("") | ADDRESSES.filter(lambda host: not is_mapped(host)).map(str), PORTS
)


@st.composite
def sockaddrs(draw: st.DrawFn) -> tuple[bytes, Host, int, int]:
    """An address as a program gives it: its bytes, host, port and zone; IPv6 with any flow, and short now and then."""
    host, port = draw(ADDRESSES), draw(SOME_PORTS | st.just(0))
    if host.version == 4:
        return (
            struct.pack("=H", 2) + struct.pack("!H", port) + host.packed + draw(st.binary(max_size=20)),
            host,
            port,
            0,
        )
    head = struct.pack("=H", 10) + struct.pack("!H", port) + draw(st.binary(min_size=4, max_size=4)) + host.packed
    if draw(st.integers(0, 9)) == 0:
        return head, host, port, 0
    zone = draw(ZONES)
    return head + struct.pack("=I", zone) + draw(st.binary(max_size=9)), host, port, zone


def unpadded(data: bytes) -> bytes:
    """An IPv4 address is at least 16 bytes long."""
    return data if data[0] != 2 else data.ljust(16, b"\0")


def network_of(line: Line) -> tuple[Network, int]:
    """Read a line's network and zone, in other words than the launcher's."""
    if line.address[0] == 2:
        return ipaddress.ip_network((line.address[4:8], line.prefix), strict=False), 0
    (zone,) = struct.unpack("=I", line.address[24:28])
    return ipaddress.ip_network((line.address[8:24], line.prefix), strict=False), zone


def decided(lines: Sequence[Line], question: Question, host: Host, port: int, zone: int) -> int | None:
    """The reference: the first rule decides that fits."""
    if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped is not None:
        host, zone = host.ipv4_mapped, 0
    for index, line in enumerate(lines):
        network, wanted = network_of(line)
        if (
            (line.protocol, line.bind) == (question.protocol, question.bind)
            and line.ports.first <= port <= line.ports.last
            and host in network
            and wanted in (0, zone)
        ):
            return index
    return None


def text_of(question: Question, host: Host, port: int, zone: int) -> str:
    if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped is None:
        return f"{question.protocol}:[{host}{f'%{zone}' if zone else ''}]:{port}"
    shown = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else host
    return f"{question.protocol}:{shown}:{port}"


def expected(lines: Sequence[Line], question: Question, host: Host, port: int, zone: int) -> Answer:
    rule = decided(lines, question, host, port, zone)
    plain = host.ipv4_mapped or host if isinstance(host, ipaddress.IPv6Address) else host
    own = plain.is_loopback or plain.is_unspecified
    return Answer(
        rule, rule is not None and not lines[rule].deny, own, plain.is_unspecified, text_of(question, host, port, zone)
    )


def assert_alike(lines: Sequence[Line], asked: Sequence[tuple[Question, Host, int, int]]) -> None:
    answers = judged(lines, [question for question, *_ in asked])
    for answer, (question, host, port, zone) in zip(answers, asked, strict=True):
        assert answer == expected(lines, question, host, port, zone), (question, host, port, zone)


QUESTIONS: Final = st.lists(
    st.builds(
        lambda found, protocol, bind: (Question(unpadded(found[0]), protocol, bind), *found[1:]),
        sockaddrs(), PROTOCOLS, st.integers(0, 4).map(lambda number: number == 0),
    ),
    min_size=1, max_size=30,
)  # fmt: skip


@given(st.lists(PEERS, max_size=6), st.lists(BINDS, max_size=3), QUESTIONS)
@SETTINGS
def test_launcher_decides_as_the_first_compiled_rule_that_fits(
    peers: list[PeerRule], binds: list[BindRule], asked: list[tuple[Question, Host, int, int]]
) -> None:
    assert_alike(compiled(peers, binds, HOSTS), asked)


@st.composite
def any_lines(draw: st.DrawFn) -> Line:
    """A rule that no grammar has: it denies or not, wherever it stands, and its address has bits that do not count."""
    address = draw(ADDRESSES)
    bind = draw(st.booleans())
    port = draw(st.binary(min_size=2, max_size=2))
    data = (
        struct.pack("=H", 2) + port + address.packed + bytes(8)
        if address.version == 4
        else struct.pack("=H", 10) + port + bytes(4) + address.packed + struct.pack("=I", draw(ZONES))
    )
    return Line(
        not bind and draw(st.booleans()), bind, draw(PROTOCOLS), data, draw(st.integers(0, address.max_prefixlen)),
        draw(PORTS), "rule",
    )  # fmt: skip


@given(st.lists(any_lines(), max_size=8), QUESTIONS)
@SETTINGS
def test_launcher_decides_as_the_first_rule_of_any_order_that_fits(
    lines: list[Line], asked: list[tuple[Question, Host, int, int]]
) -> None:
    assert_alike(lines, asked)


@given(st.lists(PEERS, min_size=1, max_size=6), QUESTIONS)
@SETTINGS
def test_nobody_reaches_what_must_be_named_by_a_rule_that_does_not_name_it(
    peers: list[PeerRule], asked: list[tuple[Question, Host, int, int]]
) -> None:
    """The rules' purpose, in words that know nothing of lines and their order."""
    for answer, (question, host, port, _) in zip(
        judged(compiled(peers, (), HOSTS), [question for question, *_ in asked]), asked, strict=True
    ):
        plain = host.ipv4_mapped or host if isinstance(host, ipaddress.IPv6Address) else host
        special = not_meant(ipaddress.ip_network(plain)) is not None
        reaching = [
            rule for rule in peers
            if rule.protocol is question.protocol and not question.bind and rule.ports.first <= port <= rule.ports.last
            and (not special or (rule.name is None and rule.host != "*" and not_meant(ipaddress.ip_network(rule.host))))
            and any(plain in ipaddress.ip_network(text) for text in texts_of(rule))
        ]  # fmt: skip
        assert answer.allowed is bool(reaching)


@given(st.binary(max_size=140), st.lists(any_lines(), max_size=3), PROTOCOLS)
@SETTINGS
def test_address_of_any_bytes_is_read_or_refused_as_the_kernel_does(
    data: bytes, lines: list[Line], protocol: Protocol
) -> None:
    (answer,) = judged(lines, [Question(data, protocol)])
    family = int.from_bytes(data[:2], "little")
    if not 2 <= len(data) <= 128:
        assert answer.error == errno.EINVAL
    elif family == 0:
        assert answer == Answer()
    elif family not in (2, 10):
        assert answer.error == errno.EAFNOSUPPORT
    else:
        assert answer.error == (errno.EINVAL if len(data) < {2: 16, 10: 24}[family] else 0)


def test_address_is_read_at_every_length() -> None:
    for family, least in ((2, 16), (10, 24)):
        data = family.to_bytes(2, "little") + bytes(127)
        answers = judged([], [Question(data[:size]) for size in range(130)])
        assert [answer.error for answer in answers] == [
            0 if least <= size <= 128 else errno.EINVAL for size in range(130)
        ]


@given(PEERS)
def test_text_of_a_peer_parses_back(rule: PeerRule) -> None:
    assert parse_peer(str(rule)) == rule


@given(BINDS)
def test_text_of_a_bind_parses_back(rule: BindRule) -> None:
    assert parse_bind(str(rule)) == rule


def test_what_must_be_named_is_written_as_networks_are() -> None:
    texts = [text for networks_ in NOT_MEANT.values() for text in networks_]
    assert [str(ipaddress.ip_network(text)) for text in texts] == texts
