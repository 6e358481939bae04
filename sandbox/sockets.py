"""Socket addresses as grants name them: their text, and the struct sockaddr that the kernel gets.

Pure: a host's name is looked up elsewhere (addresses.py). Sources: ip(7), ipv6(7), unix(7).
"""

from __future__ import annotations

import enum
import os
import re
import struct
from dataclasses import dataclass
from typing import Final

from sandbox.errors import UsageError

AF_UNIX: Final = 1  # linux/socket.h
AF_INET: Final = 2
AF_INET6: Final = 10
MAX_PORT: Final = 65535
MAX_UNIX: Final = 107  # of struct sockaddr_un's 108 bytes one is left for the NUL
EVERY_HOST: Final = "*"
HOSTS: Final = "/etc/hosts"
RESOLV_CONF: Final = "/etc/resolv.conf"
_PORT = re.compile(r"[0-9]{1,5}\Z")
# Letters, digits, '-' and '.', RFC 1123; '_' stands in many names that are none by that.
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,252})\Z")


class Protocol(enum.StrEnum):
    """What an address begins with."""

    TCP = "tcp"
    UDP = "udp"
    UNIX = "unix"


@dataclass(frozen=True, slots=True)
class Address:
    """An address, as text says it. tcp, udp: a host and a port; unix: a path, or a name that begins with '@'.

    host: a name, an IPv4 or IPv6 address without brackets, or EVERY_HOST.
    """

    protocol: Protocol
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_path(self) -> bool:
        """It is a file."""
        return self.protocol is Protocol.UNIX and not self.path.startswith("@")

    @property
    def name(self) -> str | None:
        """The host's name where it has to be looked up, else None."""
        return self.host if self.host and self.host != EVERY_HOST and packed_host(self.host) is None else None

    def __str__(self) -> str:
        """Return the text; parse_address gives the address back."""
        if self.protocol is Protocol.UNIX:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}:{host}:{self.port}"


GRAMMAR: Final = "write tcp:HOST:PORT, udp:HOST:PORT, unix:/PATH or unix:@NAME, with an IPv6 address in brackets"


def parse_address(text: str) -> Address:
    """Parse `tcp:HOST:PORT`, `udp:HOST:PORT`, `unix:PATH` or `unix:@NAME`.

    Raises: UsageError that says what is wrong.
    """
    word, colon, rest = text.partition(":")
    if not colon or word not in list(Protocol):
        raise UsageError(text, "it is no address", GRAMMAR)
    if word == Protocol.UNIX:
        if rest in ("", "@") or "\0" in rest:
            raise UsageError(text, "the path is empty or holds a NUL byte", GRAMMAR)
        return Address(Protocol.UNIX, path=rest)
    host, colon, port = rest.rpartition(":")
    if not colon or not _PORT.match(port) or int(port) > MAX_PORT:
        raise UsageError(text, f"no port, or not 0 to {MAX_PORT}", GRAMMAR)
    if not host:
        raise UsageError(text, "it has no host", f"name one; {EVERY_HOST} is every address that this host has")
    bracketed = host.startswith("[") and host.endswith("]")
    found = Address(Protocol(word), host[1:-1] if bracketed else host, int(port))
    if bracketed is not (":" in found.host):
        raise UsageError(text, "brackets are for IPv6 addresses, and those need them", GRAMMAR)
    if found.host != EVERY_HOST and packed_host(found.host) is None and not is_host_name(found.host):
        raise UsageError(text, f"{found.host!r} is neither a host's name nor an address", GRAMMAR)
    return found


def is_host_name(host: str) -> bool:
    """Tell whether a text is a host's name: not an address, and not what was meant as one."""
    # All digits and dots is an address that was mistyped: the C library would read 127.1 and 2130706433 as one.
    return bool(_HOST.match(host)) and not host.replace(".", "").isdecimal() and "%" not in host


def packed_host(host: str) -> tuple[int, bytes, int] | None:
    """Return an address' family, its bytes and its zone (an interface's number); None if it is a name."""
    import ipaddress  # here, since it costs time at every start that has no socket to grant

    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv4Address):
        return AF_INET, found.packed, 0
    zone = found.scope_id or "0"
    return (AF_INET6, found.packed, int(zone)) if re.fullmatch(r"[0-9]{1,9}", zone) else None


def sockaddr(address: Address, host: str = "") -> bytes:
    """Return the bytes of the struct sockaddr; host: what a name was looked up to.

    Raises: UsageError if it is too long for the kernel.
    """
    if address.protocol is Protocol.UNIX:
        path = os.fsencode(address.path)
        if len(path) > MAX_UNIX:
            raise UsageError(
                str(address), f"it is longer than {MAX_UNIX} bytes", "the kernel takes no more; shorten it"
            )
        # An abstract name begins with a NUL and ends where the length says; a path ends with one.
        name = b"\0" + path[1:] if path.startswith(b"@") else path + b"\0"
        return struct.pack("=H", AF_UNIX) + name
    packed = packed_host("::" if address.host == EVERY_HOST else host or address.host)
    if packed is None:
        raise UsageError(str(address), "nobody has looked the host's name up", "give its address")
    family, data, zone = packed
    port = struct.pack("!H", address.port)
    if family == AF_INET:
        return struct.pack("=H", family) + port + data + bytes(8)
    return struct.pack("=H", family) + port + bytes(4) + data + struct.pack("=I", zone)


def split_sockaddrs(data: bytes) -> tuple[bytes, ...] | None:
    """Split addresses that stand one behind the other; None if they are malformed. plan.c, check_addresses().

    Post: each is of AF_INET or AF_INET6 and of that family's size, or there is one of AF_UNIX, with a name of 1 to 108
    bytes; a path ends with its only NUL.
    """
    if len(data) >= _FAMILY and _family_of(data) == AF_UNIX:
        name = data[_FAMILY:]
        ended = name[:1] == b"\0" or name.find(b"\0") == len(name) - 1
        return (data,) if 1 < len(name) <= MAX_UNIX + 1 and ended else None
    found = []
    while data:
        size = _SIZES.get(_family_of(data)) if len(data) >= _FAMILY else None
        if size is None or len(data) < size:
            return None
        found.append(data[:size])
        data = data[size:]
    return tuple(found) or None


_FAMILY: Final = 2
_SIZES: Final = {AF_INET: 16, AF_INET6: 28}


def _family_of(data: bytes) -> int:
    return int.from_bytes(data[:_FAMILY], "little")


def format_sockaddr(data: bytes) -> str:
    """Return a struct sockaddr as text for people."""
    family = _family_of(data)
    if family == AF_UNIX:
        name = data[_FAMILY:]
        text = b"@" + name[1:] if name.startswith(b"\0") else name.rstrip(b"\0")
        return f"unix:{os.fsdecode(text)}"
    import ipaddress

    port = int.from_bytes(data[2:4], "big")
    if family == AF_INET:
        return f"{ipaddress.IPv4Address(data[4:8])}:{port}"
    return f"[{ipaddress.IPv6Address(data[8:24])}]:{port}"
