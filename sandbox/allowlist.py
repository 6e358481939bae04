"""Whom the network may be used to reach: the grammar of `network.allow` and `allow_bind`, and the rules in their order.

Pure: names are looked up elsewhere (addresses.py). A rule names a protocol, a host and ports; the first rule of the
compiled list that fits decides, and what none fits is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from sandbox.errors import UsageError
from sandbox.sockets import EVERY_HOST, MAX_PORT, Address, Protocol, is_host_name, packed_host, sockaddr

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    Network: TypeAlias = IPv4Network | IPv6Network

PEER_GRAMMAR: Final = (
    "write tcp:HOST:PORT or udp:HOST:PORT; HOST a name, an address, a network such as 10.0.0.0/8 or [2001:db8::/32],"
    " or *; PORT 443, 9000-9010 or *"
)
BIND_GRAMMAR: Final = "write tcp:PORT or tcp:ADDRESS:PORT, udp likewise; PORT 8080 or 9000-9010"
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?\Z")
MAPPED: Final = bytes(10) + b"\xff\xff"
MAX_RULES: Final = 1024  # as many as a plan takes; MAX_NET_RULES in plan.h

# What a wide rule does not reach: whoever means one of these names it, or a part of it.
NOT_MEANT: Final = {
    "this host itself": ("0.0.0.0/8", "127.0.0.0/8", "::/96"),  # :: and ::1 too, and IPv4 in IPv6 (RFC 4291, 2.5.5.1)
    "link-local addresses": ("169.254.0.0/16", "fe80::/10"),
    "cloud metadata": (
        "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::/32", "fd20:ce::254/128",
    ),
    "many hosts at once": ("224.0.0.0/4", "255.255.255.255/32", "ff00::/8"),
    "IPv4 addresses by way of a gateway": ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"),
}  # fmt: skip
"""IANA's special-purpose registries (RFC 6890), and where clouds serve a machine's credentials: 169.254.169.254 of
most, fd00:ec2::254 of AWS, fd20:ce::254 of Google, 100.100.100.200 of Alibaba, 168.63.129.16 of Azure, 192.0.0.192 of
Oracle.
"""


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports, both ends included."""

    first: int
    last: int

    def __str__(self) -> str:
        """Return the text that parses back."""
        if (self.first, self.last) == (0, MAX_PORT):
            return "*"
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class PeerRule:
    """Peers that may be reached. host: a name, an address, a network as ADDRESS/BITS, or EVERY_HOST."""

    protocol: Protocol
    host: str
    ports: Ports

    @property
    def name(self) -> str | None:
        """The host's name where it has to be looked up, else None."""
        return self.host if is_host_name(self.host) and packed_host(self.host) is None else None

    def __str__(self) -> str:
        """Return the text; parse_peer gives the rule back."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}:{host}:{self.ports}"


@dataclass(frozen=True, slots=True)
class BindRule:
    """Where a socket of the caller's network may be bound. address "": every address that this host has."""

    protocol: Protocol
    address: str
    ports: Ports

    def __str__(self) -> str:
        """Return the text; parse_bind gives the rule back."""
        if not self.address:
            return f"{self.protocol}:{self.ports}"
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.protocol}:{host}:{self.ports}"


def parse_peer(text: str) -> PeerRule:
    """Parse one entry of `network.allow`.

    Raises: UsageError whose object is the text, and whose reason names the part that is wrong.
    """
    protocol, rest = _protocol(text, PEER_GRAMMAR)
    host, colon, ports = rest.rpartition(":")
    if not colon or not host:
        raise UsageError(text, f"{rest!r}: it has no {'port' if rest else 'host'}", PEER_GRAMMAR)
    return PeerRule(protocol, _host(text, host), _ports(text, ports, PEER_GRAMMAR))


def parse_bind(text: str) -> BindRule:
    """Parse one entry of `network.allow_bind`.

    Raises: UsageError as parse_peer.
    """
    protocol, rest = _protocol(text, BIND_GRAMMAR)
    host, colon, ports = rest.rpartition(":")
    address = _unbracketed(text, host) if colon else ""
    packed = packed_host(address) if colon else None
    if colon and (packed is None or "%" in address):
        raise UsageError(text, f"{host!r} is no address", BIND_GRAMMAR)
    if packed is not None and packed[1].startswith(MAPPED):
        raise _mapped(text, host)
    return BindRule(protocol, address, _ports(text, ports, BIND_GRAMMAR))


def _protocol(text: str, grammar: str) -> tuple[Protocol, str]:
    word, colon, rest = text.partition(":")
    if not colon or word not in (Protocol.TCP, Protocol.UDP):
        raise UsageError(text, f"{word!r} is neither tcp nor udp", grammar)
    return Protocol(word), rest


def _unbracketed(text: str, host: str) -> str:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (bare is host) is (":" in bare):
        raise UsageError(text, f"{host!r}: brackets are for IPv6 addresses, and those need them", PEER_GRAMMAR)
    return bare


def _host(text: str, host: str) -> str:
    bare = _unbracketed(text, host)
    if bare == EVERY_HOST or is_host_name(bare):
        return bare
    if "/" in bare:
        return _network_text(text, bare)
    packed = packed_host(bare)
    if packed is not None and packed[1].startswith(MAPPED):
        raise _mapped(text, host)
    if packed is None:
        raise UsageError(text, f"{host!r} is neither a host's name nor an address", PEER_GRAMMAR)
    return bare


def _mapped(text: str, host: str) -> UsageError:
    """No socket's address fits such a rule, since the launcher takes IPv4 in IPv6 for IPv4."""
    return UsageError(text, f"{host!r} is IPv4 in IPv6", "write the IPv4 address, which means both")


def _network_text(text: str, bare: str) -> str:
    import ipaddress  # here, since few profiles have such a list

    if not re.search(r"/[0-9]{1,3}\Z", bare) or "%" in bare:
        raise UsageError(text, f"{bare!r}: after the slash stands a number of bits", PEER_GRAMMAR)
    try:
        network = ipaddress.ip_network(bare)
    except ValueError as error:
        try:
            near = ipaddress.ip_network(bare, strict=False)
        except ValueError:
            raise UsageError(text, f"{bare!r} is no network", PEER_GRAMMAR) from error
        raise UsageError(text, f"{bare!r} is an address in a network", f"the network is {near}") from error
    if network.prefixlen >= 8 * len(MAPPED) and network.network_address.packed.startswith(MAPPED):
        raise _mapped(text, bare)
    return str(network)


def _ports(text: str, ports: str, grammar: str) -> Ports:
    if ports == "*":
        return Ports(0, MAX_PORT)
    found = _PORTS.match(ports)
    if found is None:
        raise UsageError(text, f"{ports!r} is no port", grammar)
    first, last = int(found[1]), int(found[2] or found[1])
    if not 0 < first <= last <= MAX_PORT:
        raise UsageError(text, f"{ports!r}: not 1 to {MAX_PORT}, the lower one first", grammar)
    return Ports(first, last)


@dataclass(frozen=True, slots=True)
class Line:
    """A compiled rule: the sockets of a protocol that are connected or bound to a network's ports are let, or denied.

    address: the struct sockaddr of the network's address, with port 0. prefix: its bits that count.
    """

    deny: bool
    bind: bool
    protocol: Protocol
    address: bytes
    prefix: int
    ports: Ports
    label: str


def compiled(
    peers: Sequence[PeerRule], binds: Sequence[BindRule], hosts: Mapping[str, Sequence[str]]
) -> tuple[Line, ...]:
    """Return the rules in the order in which they are to be tried.

    hosts: the addresses of each name. First what names a part of NOT_MEANT, then that none else reaches it, then the
    rest.
    Raises: UsageError for more than a plan takes.
    """
    narrow: list[Line] = []
    wide: list[Line] = []
    for rule in peers:
        for network, zone in _networks(rule, hosts):
            line = _line(network, rule.ports, rule.protocol, str(rule), zone=zone)
            (narrow if _is_narrow(rule, network, peers) else wide).append(line)
    every = Ports(0, MAX_PORT)
    denied = [
        _line(network, every, protocol, words, deny=True)
        for words, networks in _parsed_not_meant()
        for network in networks
        for protocol in dict.fromkeys(rule.protocol for rule in peers)
    ]
    bound = [line for rule in binds for line in _bind_lines(rule)]
    lines = (*narrow, *denied, *wide, *bound)
    if len(lines) > MAX_RULES:
        reason = f"they are {len(lines)} rules, and a plan takes {MAX_RULES}"
        raise UsageError("network.allow", reason, "name networks instead of many addresses")
    return lines


def _is_narrow(rule: PeerRule, network: Network, peers: Sequence[PeerRule]) -> bool:
    """Tell whether a rule names a part of NOT_MEANT; a name does only where an address' rule does as well."""
    if not_meant(network) is None:
        return False
    return rule.name is None or refused_address([str(network.network_address)], peers) is None


def _line(
    network: Network, ports: Ports, protocol: Protocol, label: str,
    *, deny: bool = False, bind: bool = False, zone: str = "",
) -> Line:  # fmt: skip
    address = sockaddr(Address(protocol, f"{network.network_address}{zone}", 0))
    return Line(deny, bind, protocol, address, network.prefixlen, ports, label)


def _networks(rule: PeerRule, hosts: Mapping[str, Sequence[str]]) -> Iterator[tuple[Network, str]]:
    import ipaddress

    if rule.host == EVERY_HOST:
        yield ipaddress.ip_network("0.0.0.0/0"), ""
        yield ipaddress.ip_network("::/0"), ""
        return
    for text in (rule.host,) if rule.name is None else hosts.get(rule.name, ()):
        bare, percent, zone = text.partition("%")
        yield ipaddress.ip_network(bare), percent + zone


def _bind_lines(rule: BindRule) -> Iterator[Line]:
    import ipaddress

    for text in (rule.address,) if rule.address else ("0.0.0.0/0", "::/0"):
        yield _line(ipaddress.ip_network(text), rule.ports, rule.protocol, str(rule), bind=True)


def _parsed_not_meant() -> Iterator[tuple[str, list[Network]]]:
    import ipaddress

    for words, texts in NOT_MEANT.items():
        yield words, [ipaddress.ip_network(text) for text in texts]


def not_meant(network: Network) -> str | None:
    """Return what a network is that a wide rule does not reach; None: an ordinary one, or one that only holds some."""
    for words, parts in _parsed_not_meant():
        for part in parts:
            if network.version == part.version and network.subnet_of(part):  # type: ignore[arg-type]
                return words
    return None


def not_routed(host: str) -> str | None:
    """Return what an address or network is that no router passes on; None: one does, or passes on a part of it."""
    import ipaddress

    if host == EVERY_HOST:
        return None
    network = ipaddress.ip_network(host.partition("%")[0])
    words = not_meant(network)
    stays = words in ("this host itself", "many hosts at once") or (network.version == 6 and network.is_link_local)
    return words if stays else None


def refused_address(addresses: Iterable[str], peers: Iterable[PeerRule]) -> tuple[str, str] | None:
    """Return an address of a name's that no name may lead to, and what it is; None if there is none.

    It may if a rule names that address, or a network of its kind that holds it: DNS is nobody's to decide that.
    """
    import ipaddress

    named = [network for rule in peers if rule.name is None for network, _ in _networks(rule, {})]
    meant = [network for network in named if not_meant(network) is not None]
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        words = not_meant(ipaddress.ip_network(address))
        if words is not None and not any(address in network for network in meant):
            return text, words
    return None


def hosts_text(hosts: Mapping[str, Sequence[str]]) -> str:
    """Return the child's /etc/hosts: its own name for itself, and the names that rules have."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    lines += [f"{address} {name}" for name, addresses in hosts.items() for address in addresses]
    return "\n".join(lines) + "\n"


def resolver_text(resolvers: Sequence[str]) -> str:
    """Return the child's /etc/resolv.conf. Without resolvers it names none, and the C library asks its own host."""
    return "".join(f"nameserver {address}\n" for address in resolvers)


def resolver_rules(resolvers: Sequence[str]) -> tuple[PeerRule, ...]:
    """Return the rules by which resolvers can be asked."""
    return tuple(
        PeerRule(protocol, host, Ports(53, 53)) for host in resolvers for protocol in (Protocol.UDP, Protocol.TCP)
    )
