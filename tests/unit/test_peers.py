"""What keeps granted sockets to what was granted: which means hold, and the lines that say so."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from sandbox.grants import FdType, InheritGrant, parse_grant
from sandbox.landlock import LandlockPolicy
from sandbox.peers import Held, held, inherited_residue, residue
from sandbox.profile import FilterSection, NetworkMode, NetworkPolicy, Profile

PROFILE: Final = Profile("p", filter=FilterSection(("@base",)), landlock=LandlockPolicy(optional=("landlock",)))
LISTEN_TCP, LISTEN_UDP, LISTEN_UNIX = "a=listen:tcp:h:1", "b=listen:udp:h:1", "c=listen:unix:/x"
TCP, UNIX, UDP, LOG = "d=connect:tcp:h:1", "e=connect:unix:/x", "f=datagram:udp:h:1", "g=datagram:unix:/x"

# grants, Landlock's ABI -> named, listening
RULES: Final[list[tuple[tuple[str, ...], int, bool, bool]]] = [
    ((), 7, False, False),
    (("a=file:/x", "s=secret:/x"), 0, False, False),
    ((LISTEN_TCP,), 7, False, False),
    ((LISTEN_TCP,), 4, False, False),
    ((LISTEN_TCP,), 3, True, False),
    ((LISTEN_UNIX,), 0, False, False),
    ((UNIX,), 0, False, False),
    ((TCP,), 7, False, True),
    ((TCP,), 3, True, True),
    ((TCP, LISTEN_TCP), 7, False, False),
    ((TCP, LISTEN_UNIX), 7, False, False),
    ((TCP, LISTEN_UDP), 7, False, True),
    ((TCP, UNIX), 7, False, True),
    ((TCP, "i=inherit:5"), 7, False, False),
    ((TCP, "i=inherit:5:stream"), 7, False, True),
    ((UDP,), 7, True, False),
    ((UDP, TCP), 7, True, True),
    ((UDP, LISTEN_UDP), 7, False, False),
    ((UDP, "i=inherit:5:socket"), 7, False, False),
    ((LOG,), 7, False, False),
    ((LOG,), 6, False, False),
    ((LOG,), 5, True, False),
    (("i=inherit:5",), 0, False, False),
    (("i=inherit:5:datagram",), 7, True, False),
    (("i=inherit:5:stream",), 7, False, False),
    (("i=inherit:5:stream",), 3, True, False),
    (("i=inherit:5:listener",), 3, True, False),
]


@pytest.mark.parametrize(("texts", "abi", "named", "listening"), RULES)
def test_held_without_a_network(texts: tuple[str, ...], abi: int, named: bool, listening: bool) -> None:
    grants = [parse_grant(text) for text in texts]
    found = held(PROFILE, grants, abi)
    assert found == Held(tcp=abi >= 4, abstract=abi >= 6, offline=True, named=named, listening=listening)
    for network in (NetworkMode.LOOPBACK, NetworkMode.HOST):
        assert held(replace(PROFILE, network=NetworkPolicy(network)), grants, abi) == Held(abstract=abi >= 6)


OFFLINE: Final = Held(tcp=True, abstract=True, offline=True)
LINES: Final[list[tuple[str, Held, list[str]]]] = [
    (LISTEN_TCP, OFFLINE, [
        "can: accept whoever reaches the address; the backlog can be changed",
        "cannot: be connected elsewhere (Landlock and filter)",
        "cannot: be bound to another port (Landlock)",
        "still: once disconnected, can listen on a port that the kernel chooses",
        "still: shows the interfaces and addresses of its network (ioctl SIOCGIFCONF)",
    ]),
    (TCP, replace(OFFLINE, listening=True), [
        "can: send and receive; end the connection",
        "cannot: be connected elsewhere (Landlock and filter)",
        "cannot: be bound to another port (Landlock)",
        "cannot: begin to listen (filter)",
        "still: shows the interfaces and addresses of its network (ioctl SIOCGIFCONF)",
    ]),
    (TCP, Held(), [
        "can: send and receive; end the connection",
        "still: once disconnected, can be connected to every address that its network reaches",
        "still: once disconnected, can be bound to another port",
        "still: once disconnected, can listen on a port that the kernel chooses",
        "still: shows the interfaces and addresses of its network (ioctl SIOCGIFCONF)",
    ]),
    (TCP, Held(offline=True, named=True), [
        "can: send and receive; end the connection",
        "cannot: be connected elsewhere (filter)",
        "still: once disconnected, can be bound to another port",
        "still: once disconnected, can listen on a port that the kernel chooses",
        "still: shows the interfaces and addresses of its network (ioctl SIOCGIFCONF)",
    ]),
    (UDP, replace(OFFLINE, named=True), [
        "can: send to its peer and receive from it",
        "cannot: be connected elsewhere, or send elsewhere (filter)",
        "still: shows the interfaces and addresses of its network (ioctl SIOCGIFCONF)",
    ]),
    (UDP, OFFLINE, [
        "can: send to its peer and receive from it",
        "still: can be connected, and sends, to every address that its network reaches",
        "still: shows the interfaces and addresses of its network (ioctl SIOCGIFCONF)",
    ]),
    (LISTEN_UDP, OFFLINE, [
        "can: receive from anyone that reaches the address, and answer",
        "still: sends to, and can be connected to, every address that the caller's network reaches",
        "still: shows the interfaces and addresses of its network (ioctl SIOCGIFCONF)",
    ]),
    (UNIX, OFFLINE, [
        "can: send and receive; end the connection",
        "cannot: be connected elsewhere (the kernel does not disconnect it)",
        "cannot: be bound to another name (it has one)",
        "still: descriptors can be sent and received over it, as the filter allows",
    ]),
    (LOG, OFFLINE, [
        "can: send to its peer and receive from it",
        "cannot: be connected, or send, to an abstract name of the host's (Landlock)",
        "cannot: be bound to another name (it has one)",
        "still: descriptors can be sent and received over it, as the filter allows",
    ]),
    (LOG, Held(), [
        "can: send to its peer and receive from it",
        "still: can be connected, and sends, to abstract names of the host's",
        "cannot: be bound to another name (it has one)",
        "still: descriptors can be sent and received over it, as the filter allows",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sockets", "lines"), LINES)
def test_residue_of_sockets(text: str, sockets: Held, lines: list[str]) -> None:
    grant = parse_grant(text)
    assert not isinstance(grant, InheritGrant)
    assert list(residue(grant, sockets)) == lines  # type: ignore[arg-type]


def test_residue_of_inherited_sockets_names_the_type_of_each_line() -> None:
    every = list(inherited_residue(set(FdType), OFFLINE))
    assert all(": a TCP socket: " in line for line in every[:3])
    assert ": a datagram socket: " in every[3]
    assert every[4].startswith("still: a socket without a peer: ")
    assert list(inherited_residue({FdType.FILE, FdType.PIPE}, OFFLINE)) == []
    assert len(list(inherited_residue({FdType.LISTENER}, OFFLINE))) == 5
