"""Socket addresses: their text, the kernel's bytes for them, and those bytes as text again."""

from __future__ import annotations

import dataclasses
import socket
from typing import Final

import pytest

from sandbox.addresses import looked_up
from sandbox.caller import Caller
from sandbox.errors import GrantError
from sandbox.grants import ConnectGrant, DatagramGrant, FileGrant, Grant, ListenGrant
from sandbox.sockets import (
    Address,
    Protocol,
    format_sockaddr,
    packed_host,
    parse_address,
    sockaddr,
    split_sockaddrs,
)

CALLER: Final = Caller(environ={}, cwd="/", home="/", runtime_dir="/r", tmp="/t", parent_pid=1)
TEXTS: Final = {
    "tcp:127.0.0.1:80": Address(Protocol.TCP, "127.0.0.1", 80),
    "udp:[::1]:53": Address(Protocol.UDP, "::1", 53),
    "tcp:[fe80::1%3]:1": Address(Protocol.TCP, "fe80::1%3", 1),
    "tcp:*:0": Address(Protocol.TCP, "*", 0),
    "tcp:my_host.example:65535": Address(Protocol.TCP, "my_host.example", 65535),
    "unix:/a:b c": Address(Protocol.UNIX, path="/a:b c"),
    "unix:relative": Address(Protocol.UNIX, path="relative"),
    "unix:@name": Address(Protocol.UNIX, path="@name"),
}


@pytest.mark.parametrize("text", TEXTS)
def test_address_text_is_parsed_and_given_back(text: str) -> None:
    assert parse_address(text) == TEXTS[text]
    assert str(TEXTS[text]) == text


def test_address_knows_what_must_be_looked_up_and_what_is_a_file() -> None:
    assert [address.name for address in TEXTS.values()] == [None] * 4 + ["my_host.example"] + [None] * 3
    assert [address.is_path for address in TEXTS.values()] == [False] * 5 + [True, True, False]


@pytest.mark.parametrize("text", ["127.0.0.1", "10.255.0.3", "::1", "fe80::1%3", "2001:db8::42"])
def test_sockaddr_is_what_the_kernel_takes(text: str) -> None:
    """The reference is the C library's own reading of the text."""
    packed = packed_host(text)
    assert packed is not None
    family, data, zone = packed
    assert (family, data) == (int(socket.getaddrinfo(text, 1)[0][0]), socket.inet_pton(family, text.partition("%")[0]))
    found = sockaddr(Address(Protocol.TCP, text, 513))
    assert found[:4] == family.to_bytes(2, "little") + b"\x02\x01"
    assert found[4:8] == data or (found[4:8], found[8:24]) == (bytes(4), data)
    assert (len(found), int.from_bytes(found[24:], "little")) == ((16, 0) if family == 2 else (28, zone))
    assert split_sockaddrs(found) == (found,)


def test_sockaddr_of_every_host_is_the_ipv6_one() -> None:
    assert sockaddr(parse_address("tcp:*:80")) == sockaddr(parse_address("tcp:[::]:80"))


@pytest.mark.parametrize("text", ["127.1", "1", "0x7f000001", "::1%eth0", "1.2.3.4.5", "host", ""])
def test_packed_host_knows_no_other_notation(text: str) -> None:
    assert packed_host(text) is None


def test_format_sockaddr_gives_people_the_address() -> None:
    for text in ("tcp:127.0.0.1:80", "udp:[::1]:53"):
        assert format_sockaddr(sockaddr(parse_address(text))) == text.partition(":")[2]
    for text in ("unix:/a:b c", "unix:@name"):
        assert format_sockaddr(sockaddr(parse_address(text))) == text


def test_looked_up_finds_hosts_and_owners_once() -> None:
    grants: list[Grant] = [
        FileGrant(name="f", file="/x"),
        ListenGrant(name="a", listen="unix:/x", owner="root"),
        ListenGrant(name="b", listen="unix:/y", owner="7:8"),
        ConnectGrant(name="c", connect="tcp:localhost:1"),
        DatagramGrant(name="d", datagram="udp:127.0.0.1:1"),
    ]
    found = looked_up(CALLER, grants)
    assert found.owners == {"root": (0, 0), "7:8": (7, 8)}
    assert set(found.hosts) == {"localhost"}
    assert {"127.0.0.1", "::1"} >= set(found.hosts["localhost"]) != set()
    known = dataclasses.replace(CALLER, hosts={"localhost": ("192.0.2.1",)})
    assert looked_up(known, grants).hosts == {"localhost": ("192.0.2.1",)}


def test_looked_up_refuses_what_nobody_has() -> None:
    with pytest.raises(GrantError, match=r"grant: c: host no-such-host.invalid: ") as caught:
        looked_up(CALLER, [ConnectGrant(name="c", connect="tcp:no-such-host.invalid:1")])
    assert caught.value.hint
    with pytest.raises(GrantError, match=r"grant: a: user no-such-user: there is no such user"):
        looked_up(CALLER, [ListenGrant(name="a", listen="unix:/x", owner="no-such-user")])
    with pytest.raises(GrantError, match=r"grant: a: user 4242424: the password file does not know its group"):
        looked_up(CALLER, [ListenGrant(name="a", listen="unix:/x", owner="4242424")])
