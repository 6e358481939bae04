"""What keeps granted sockets to what was granted: they are the caller's network's, whatever network the child has.

Pure. Landlock holds TCP's ports and others' abstract names (landlock(7)); the filter holds what Landlock does not see.
It sees no address behind a pointer: it can refuse a call, a flag, or that any address is named, and nothing finer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sandbox import landlock, walls
from sandbox.grants import (
    SOCKET_TYPES,
    ConnectGrant,
    DatagramGrant,
    FdType,
    Grant,
    InheritGrant,
    ListenGrant,
    SocketGrant,
)
from sandbox.landlock import NetRight, Scope
from sandbox.profile import NetworkMode, NetworkPolicy, Profile
from sandbox.sockets import Protocol


@dataclass(frozen=True, slots=True)
class Held:
    """What is held of a child's sockets.

    tcp, abstract: by Landlock, no TCP port, and no abstract name of others, can be connected to or bound. offline: by
    the filter, no connection by TCP Fast Open, no route of its own. named: by the filter, no call names an address.
    listening: by the filter, no socket begins to listen. supervised: whoever connects, binds or names an address is the
    supervisor, by the rules of the network.
    """

    tcp: bool = False
    abstract: bool = False
    offline: bool = False
    named: bool = False
    listening: bool = False
    supervised: bool = False


def held(profile: Profile, grants: Sequence[Grant], landlock_abi: int) -> Held:
    """Return what a profile holds of its grants' sockets on a kernel with that Landlock.

    With a network of the host's, or a loopback, there is nothing to hold, or no means that would leave that network
    usable. A udp socket that receives from anyone must answer to anyone: beside one nothing is held of the others.
    """
    kept, _ = landlock.downgrade(walls.wanted_ruleset(profile), landlock_abi)
    abstract = Scope.ABSTRACT_UNIX_SOCKET in kept.scopes
    tcp = NetRight.CONNECT_TCP in kept.net and NetRight.BIND_TCP in kept.net
    if profile.network.is_supervised:
        return Held(tcp, abstract, supervised=True)
    if profile.network.mode is not NetworkMode.NONE:
        return Held(abstract=abstract)
    return Held(
        tcp, abstract, offline=True,
        named=not any(_receives_from_anyone(grant) for grant in grants)
        and any(_can_be_turned(grant, tcp=tcp, abstract=abstract) for grant in grants),
        listening=any(_is_tcp_connection(grant) for grant in grants) and not any(map(_may_listen, grants)),
    )  # fmt: skip


def supervised(network: NetworkPolicy, grants: Sequence[Grant]) -> frozenset[Protocol]:
    """Return the protocols whose sockets the supervisor makes: TCP's, and UDP's where rules or grants have any to do.

    A grant that may be a Unix socket may bring one: whoever has the other end can send it.
    """
    if not network.is_supervised:
        return frozenset()
    named = {rule.protocol for rule in network.allow} | {rule.protocol for rule in network.bind}
    datagrams = network.dns or Protocol.UDP in named or any(map(_may_bring_datagrams, grants))
    return frozenset({Protocol.TCP, *([Protocol.UDP] if datagrams else [])})


def _may_bring_datagrams(grant: Grant) -> bool:
    match grant:
        case ListenGrant() | ConnectGrant() | DatagramGrant():
            return grant.address.protocol is not Protocol.TCP
        case InheritGrant():
            return bool(SOCKET_TYPES & grant.given_types)
        case _:
            return False


def _receives_from_anyone(grant: Grant) -> bool:
    match grant:
        case ListenGrant():
            return grant.address.protocol is Protocol.UDP
        case InheritGrant():
            return FdType.SOCKET in grant.given_types
        case _:
            return False


def _can_be_turned(grant: Grant, *, tcp: bool, abstract: bool) -> bool:
    """Tell whether a socket can be given another peer, but for the rule that no call names an address."""
    match grant:
        case ListenGrant() | ConnectGrant():
            return grant.address.protocol is Protocol.TCP and not tcp
        case DatagramGrant():
            return grant.address.protocol is Protocol.UDP or not abstract
        case InheritGrant(relay=True):
            return False
        case InheritGrant(type=FdType.DATAGRAM):
            return True
        case InheritGrant(type=FdType.LISTENER | FdType.STREAM):
            return not tcp
        case _:
            return False


def _is_tcp_connection(grant: Grant) -> bool:
    return isinstance(grant, ConnectGrant) and grant.address.protocol is Protocol.TCP


def _may_listen(grant: Grant) -> bool:
    """Tell whether a grant may be a socket for which a program calls listen(2), as many do for those they are given."""
    match grant:
        case ListenGrant():
            return grant.address.protocol is not Protocol.UDP
        case InheritGrant():
            return bool({FdType.LISTENER, FdType.SOCKET} & grant.given_types)
        case _:
            return False


_INTERFACES: Final = "still: shows the interfaces and addresses of its network (ioctl SIOCGIFCONF)"


def residue(grant: SocketGrant, sockets: Held) -> Iterator[str]:
    """Yield what a program can do with a socket that the launcher made, and what it cannot."""
    protocol = grant.address.protocol
    match grant:
        case ListenGrant() if protocol is Protocol.UDP:
            yield "can: receive from anyone that reaches the address, and answer"
            yield "still: sends to, and can be connected to, every address that the caller's network reaches"
        case ListenGrant():
            yield "can: accept whoever reaches the address; the backlog can be changed"
        case ConnectGrant():
            yield "can: send and receive; end the connection"
        case DatagramGrant():
            yield "can: send to its peer and receive from it"
    if protocol is Protocol.TCP:
        yield from _tcp_residue(sockets)
    elif protocol is Protocol.UDP and isinstance(grant, DatagramGrant):
        yield from _udp_residue(sockets)
    elif protocol is Protocol.UNIX:
        yield from _unix_residue(grant, sockets)
    if protocol is not Protocol.UNIX:
        yield _INTERFACES


def inherited_residue(types: Collection[FdType], sockets: Held) -> Iterator[str]:
    """Yield what a program can do with an inherited descriptor that may be a socket of some types."""
    if {FdType.LISTENER, FdType.STREAM} & set(types):
        yield from (line.replace(": ", ": a TCP socket: ", 1) for line in _tcp_residue(sockets))
    if FdType.DATAGRAM in types:
        yield from (line.replace(": ", ": a datagram socket: ", 1) for line in _udp_residue(sockets))
    if FdType.SOCKET in types:
        yield "still: a socket without a peer: it can be given any that its network reaches, as far as Landlock lets it"
    if SOCKET_TYPES & set(types):
        yield "still: a Unix socket: descriptors can be sent and received over it, as the filter allows"
        yield _INTERFACES.replace(": ", ": a socket: ", 1)


def _tcp_residue(sockets: Held) -> Iterator[str]:
    """Yield what becomes of a TCP socket that was shut down, or disconnected by connect(2) to AF_UNSPEC."""
    if sockets.tcp or sockets.named:
        yield f"cannot: be connected elsewhere ({_means(landlock=sockets.tcp, filters=sockets.offline)})"
    else:
        yield "still: once disconnected, can be connected to every address that its network reaches"
    if sockets.tcp:
        yield "cannot: be bound to another port (Landlock)"
    else:
        yield "still: once disconnected, can be bound to another port"
    if sockets.listening:
        yield "cannot: begin to listen (filter)"
    else:
        yield "still: once disconnected, can listen on a port that the kernel chooses"


def _udp_residue(sockets: Held) -> Iterator[str]:
    if sockets.named:
        yield "cannot: be connected elsewhere, or send elsewhere (filter)"
    else:
        yield "still: can be connected, and sends, to every address that its network reaches"


def _unix_residue(grant: SocketGrant, sockets: Held) -> Iterator[str]:
    if isinstance(grant, DatagramGrant):
        if sockets.abstract or sockets.named:
            means = _means(landlock=sockets.abstract, filters=sockets.named)
            yield f"cannot: be connected, or send, to an abstract name of the host's ({means})"
        else:
            yield "still: can be connected, and sends, to abstract names of the host's"
    else:
        yield "cannot: be connected elsewhere (the kernel does not disconnect it)"
    yield "cannot: be bound to another name (it has one)"
    yield "still: descriptors can be sent and received over it, as the filter allows"


def _means(*, landlock: bool, filters: bool) -> str:
    return " and ".join(["Landlock"] * landlock + ["filter"] * filters)
