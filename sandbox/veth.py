"""What a network of a sandbox's own is made of: a name, addresses that collide with nothing, nftables rules. Pure.

The rules are values that pyroute2 encodes (network.py): an expression is what nft(8) --debug=netlink prints one of.
Numbers are those of <linux/netfilter.h>, <linux/netfilter/nf_tables.h> and <linux/in.h>.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any, Final, TypeAlias

from sandbox.allowlist import Line, PeerRule, Ports, compiled, resolver_rules
from sandbox.caller import Caller
from sandbox.profile import NetworkPolicy
from sandbox.sockets import AF_INET6, EVERY_HOST, MAX_PORT, Protocol

Network: TypeAlias = IPv4Network | IPv6Network
Expression: TypeAlias = Mapping[str, Any]
Rule: TypeAlias = Sequence[Expression]

# RFC 2544: for tests between machines, so that hardly a network uses it, and behind no default route anything is there.
POOL4: Final = IPv4Network("198.18.0.0/15")
POOL6: Final = IPv6Network("fd8b:5c1e:d749::/48")  # RFC 4193: the middle 40 bits are random
PAIRS: Final = 1 << 15  # a /30 and a /64 each
# What is wider is as good as a default route: 0.0.0.0/1 of a VPN, fd00::/8 that a host refuses to route.
_WIDE: Final = {4: 8, 6: 16}
_NAME: Final = re.compile(r"sandbox-[0-9a-f]{4}\Z")
INNER_NAME: Final = "eth0"


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair of interfaces, one here and one in the sandbox, by a number that no other sandbox of this network has."""

    number: int

    @property
    def name(self) -> str:
        """The interface here, and the table of rules that goes with it."""
        return f"sandbox-{self.number:04x}"

    @property
    def network4(self) -> IPv4Network:
        """The addresses of both ends."""
        return IPv4Network((int(POOL4.network_address) + 4 * self.number, 30))

    @property
    def network6(self) -> IPv6Network:
        """The addresses of both ends."""
        return IPv6Network((int(POOL6.network_address) + (self.number << 64), 64))

    def ends(self, version: int) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address]:
        """Return the addresses of the end here and of the sandbox's."""
        network = self.network4 if version == 4 else self.network6
        return network[1], network[2]


def is_ours(name: str) -> bool:
    """Tell whether an interface or a table has a name of the kind that sandboxes give."""
    return _NAME.match(name) is not None


def free_pairs(first: int, taken: Iterable[Network], names: Iterable[str]) -> Iterator[Pair]:
    """Yield the pairs that collide with nothing that is taken, beginning somewhere."""
    used = set(names)
    near = [
        other
        for other in taken
        if other.prefixlen >= _WIDE[other.version] and other.overlaps(POOL4 if other.version == 4 else POOL6)
    ]
    for step in range(PAIRS):
        pair = Pair((first + step) % PAIRS)
        own: dict[int, Network] = {4: pair.network4, 6: pair.network6}
        if pair.name not in used and not any(own[other.version].overlaps(other) for other in near):
            yield pair


def lines_of(network: NetworkPolicy, caller: Caller) -> tuple[Line, ...]:
    """Return the compiled rules; without any of its own a profile allows all, but for what is not meant by that."""
    every = Ports(0, MAX_PORT)
    own = network.allow or tuple(PeerRule(protocol, EVERY_HOST, every) for protocol in (Protocol.TCP, Protocol.UDP))
    return compiled((*own, *resolver_rules(network.asked(caller.resolvers))), (), caller.peers)


def networks_of(lines: Iterable[Line]) -> list[Network]:
    """Return the networks that rules allow, for addresses of ours are not to hide a part of them."""
    return [_network(line) for line in lines if not line.deny]


def _network(line: Line) -> Network:
    return ip_network((_address(line), line.prefix))


def _is_inet6(line: Line) -> bool:
    return int.from_bytes(line.address[:2], "little") == AF_INET6


def _address(line: Line) -> bytes:
    return line.address[8:24] if _is_inet6(line) else line.address[4:8]  # struct sockaddr_in6, sockaddr_in


# ---- nftables ----

ACCEPT: Final = 1
DROP: Final = 0
_GOTO: Final = -4
_EQUAL: Final = 0
_DIFFERENT: Final = 1
_AT_MOST: Final = 3
_AT_LEAST: Final = 5
_REGISTER: Final = 1
_REFUSE: Final = "refuse"


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of rules; hook None: others go to it."""

    name: str
    rules: Sequence[Rule]
    hook: int | None = None
    priority: int = 0
    kind: str = "filter"
    policy: int = DROP


def _expression(name: str, **fields: object) -> Expression:
    attributes = [(f"NFTA_{name.upper()}_{key.upper()}", value) for key, value in fields.items()]
    return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", {"attrs": attributes})]}


def _value(data: bytes) -> Expression:
    return {"attrs": [("NFTA_DATA_VALUE", data)]}


def _compare(data: bytes, how: int = _EQUAL) -> Expression:
    return _expression("cmp", sreg=_REGISTER, op=how, data=_value(data))


def _meta(key: int, data: bytes) -> list[Expression]:
    return [_expression("meta", dreg=_REGISTER, key=key), _compare(data)]


def _verdict(code: int, chain: str = "") -> Expression:
    attributes: list[tuple[str, object]] = [("NFTA_VERDICT_CODE", code)]
    if chain:
        attributes.append(("NFTA_VERDICT_CHAIN", chain))
    return _expression("immediate", dreg=0, data={"attrs": [("NFTA_DATA_VERDICT", {"attrs": attributes})]})


def _masked(mask: bytes) -> Expression:
    size = len(mask)
    return _expression(
        "bitwise", sreg=_REGISTER, dreg=_REGISTER, len=size, mask=_value(mask), xor=_value(bytes(size))
    )  # fmt: skip


def _host_order(number: int) -> bytes:
    return number.to_bytes(4, "little")


_META_OIF: Final = 5
_META_IIF: Final = 4
_META_NFPROTO: Final = 15
_META_L4PROTO: Final = 16
_IPV4: Final = b"\x02"
_IPV6: Final = b"\x0a"
_NUMBERS: Final = {Protocol.TCP: b"\x06", Protocol.UDP: b"\x11"}
_LOOPBACK: Final = 1  # each network's first interface
_HEADER: Final = {"network": 1, "transport": 2}


def _payload(header: str, offset: int, size: int) -> Expression:
    return _expression("payload", dreg=_REGISTER, base=_HEADER[header], offset=offset, len=size)


# Of connections that began otherwise: established (2) and related (4).
_KNOWN: Final = [
    _expression("ct", dreg=_REGISTER, key=0), _masked(_host_order(2 | 4)), _compare(_host_order(0), _DIFFERENT),
    _verdict(ACCEPT),
]  # fmt: skip
# RFC 4861: who has an address (135), and the answer (136). Without it there is no IPv6.
_NEIGHBOURS: Final = [
    [*_meta(_META_L4PROTO, b"\x3a"), _payload("transport", 0, 1), _compare(bytes([kind])), _verdict(ACCEPT)]
    for kind in (135, 136)
]
# A refused connection ends at once; of anything else the sender is told (admin-prohibited, whatever the family).
_REFUSING: Final = (
    [*_meta(_META_L4PROTO, _NUMBERS[Protocol.TCP]), _expression("reject", type=1, icmp_code=0)],
    [_expression("reject", type=2, icmp_code=3)],
)


def _rule(line: Line) -> Rule:
    """Return the rule that one line comes to. A denial is of every protocol: none of the others gets further anyway."""
    address = _address(line)
    found = _meta(_META_NFPROTO, _IPV6 if _is_inet6(line) else _IPV4)
    if not line.deny:
        found += _meta(_META_L4PROTO, _NUMBERS[line.protocol])
    if line.prefix:
        found.append(_payload("network", 24 if _is_inet6(line) else 16, len(address)))
        if line.prefix < len(address) * 8:
            found.append(_masked(_network(line).netmask.packed))
        found.append(_compare(address))
    if not line.deny and (line.ports.first, line.ports.last) != (0, MAX_PORT):
        found.append(_payload("transport", 2, 2))
        if line.ports.first == line.ports.last:
            found.append(_compare(line.ports.first.to_bytes(2, "big")))
        else:
            found.append(_compare(line.ports.first.to_bytes(2, "big"), _AT_LEAST))
            found.append(_compare(line.ports.last.to_bytes(2, "big"), _AT_MOST))
    found.append(_verdict(_GOTO, _REFUSE) if line.deny else _verdict(ACCEPT))
    return found


def inner_chains(lines: Sequence[Line], *, closed: bool) -> tuple[Chain, ...]:
    """Return what holds in the sandbox's network: what goes out by the lines, and nothing comes in by itself.

    closed: what no line fits is refused; else it is let.
    """
    within = [*_meta(_META_OIF, _host_order(_LOOPBACK)), _verdict(ACCEPT)]
    back = [*_meta(_META_IIF, _host_order(_LOOPBACK)), _verdict(ACCEPT)]
    named = [_rule(line) for line in _without_doubles(lines)]
    last = _verdict(_GOTO, _REFUSE) if closed else _verdict(ACCEPT)
    return (
        Chain(_REFUSE, _REFUSING),
        Chain("input", [back, _KNOWN, *_NEIGHBOURS], hook=1),
        Chain("forward", [], hook=2),
        Chain("output", [within, _KNOWN, *_NEIGHBOURS, *named, [last]], hook=3),
    )


def _without_doubles(lines: Iterable[Line]) -> list[Line]:
    """Return the lines with each denied network once, whatever protocols it is denied to."""
    seen: dict[object, Line] = {}
    for index, line in enumerate(lines):
        seen.setdefault((line.address, line.prefix) if line.deny else index, line)
    return list(seen.values())


def outer_chains(pair: Pair, versions: Iterable[int]) -> tuple[Chain, ...]:
    """Return what this network does for the sandbox's: what comes from there goes out with an address of ours."""
    rules = [
        [
            *_meta(_META_NFPROTO, _IPV4 if version == 4 else _IPV6),
            _payload("network", 12 if version == 4 else 8, 4 if version == 4 else 16),
            _compare(pair.ends(version)[1].packed),
            _expression("masq"),
        ]
        for version in versions
    ]
    # Priority 100: source NAT (netfilter_ipv4.h, NF_IP_PRI_NAT_SRC).
    return (Chain("leave", rules, hook=4, priority=100, kind="nat", policy=ACCEPT),)
