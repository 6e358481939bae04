"""Whom a list of rules lets a program reach: one table, for every way in which a list is held.

The hosts are those of a small internet (tests/support/internet.py): each address answers, on every port of PORTS. So
what is not reached was refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

# Documentation and private networks, and what no wide rule reaches: link-local, cloud metadata, NAT64, multicast.
ADDRESSES: Final = (
    "192.0.2.10", "192.0.2.11", "192.0.2.53", "198.51.100.20", "203.0.113.30", "10.1.2.3", "10.2.2.3",
    "169.254.1.1", "169.254.169.254", "100.100.100.200", "168.63.129.16",
    "2001:db8:1::10", "2001:db8:1::11", "2001:db8:2::20", "fd12:3456::1", "fd00:ec2::254", "64:ff9b::c000:20a",
)  # fmt: skip
PORTS: Final = {"tcp": (80, 443, 8080, 9000, 9010), "udp": (53, 5353)}
WEB: Final = "web.example"
"""A name of two hosts, one of each family: 192.0.2.10 and 2001:db8:1::10."""
NAMES: Final = {
    WEB: ("192.0.2.10", "2001:db8:1::10"), "other.example": ("192.0.2.11",), "metadata.example": ("169.254.169.254",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """Rules of network.allow, and what can be reached under them and what cannot: PROTOCOL:HOST:PORT."""

    rules: tuple[str, ...]
    reached: tuple[str, ...]
    refused: tuple[str, ...]

    @property
    def verdicts(self) -> dict[str, str]:
        """Return what the prober is to find: target -> "reached" or "refused"."""
        return dict.fromkeys(self.reached, "reached") | dict.fromkeys(self.refused, "refused")

    def __str__(self) -> str:
        """Return the rules; a test's name."""
        return " ".join(self.rules)


def _case(rules: str, reached: str, refused: str) -> Case:
    return Case(tuple(rules.split()), tuple(reached.split()), tuple(refused.split()))


NOT_REACHED_BY_WIDE: Final = (
    "tcp:169.254.169.254:80 tcp:169.254.1.1:80 tcp:100.100.100.200:80 tcp:168.63.129.16:80 tcp:[fd00:ec2::254]:80"
    " tcp:[64:ff9b::c000:20a]:80 tcp:[::ffff:169.254.169.254]:80"
)
CASES: Final = (
    # One address and one port.
    _case(
        "tcp:192.0.2.10:80",
        "tcp:192.0.2.10:80 tcp:[::ffff:192.0.2.10]:80",
        "tcp:192.0.2.10:443 tcp:192.0.2.11:80 tcp:[2001:db8:1::10]:80 udp:192.0.2.10:53 tcp:[::ffff:192.0.2.11]:80",
    ),
    _case(
        "tcp:[2001:db8:1::10]:443",
        "tcp:[2001:db8:1::10]:443",
        "tcp:[2001:db8:1::10]:80 tcp:[2001:db8:1::11]:443 tcp:192.0.2.10:443 udp:[2001:db8:1::10]:53",
    ),
    # Protocols are apart.
    _case(
        "udp:192.0.2.53:53",
        "udp:192.0.2.53:53",
        "udp:192.0.2.53:5353 udp:192.0.2.10:53 tcp:192.0.2.53:80 udp:[2001:db8:1::10]:53",
    ),
    _case(
        "tcp:192.0.2.10:80 udp:[2001:db8:1::10]:53",
        "tcp:192.0.2.10:80 udp:[2001:db8:1::10]:53",
        "udp:192.0.2.10:53 tcp:[2001:db8:1::10]:80",
    ),
    # Ranges of ports, and every port.
    _case(
        "tcp:192.0.2.10:9000-9010",
        "tcp:192.0.2.10:9000 tcp:192.0.2.10:9010",
        "tcp:192.0.2.10:80 tcp:192.0.2.10:8080",
    ),
    _case("tcp:192.0.2.10:*", "tcp:192.0.2.10:80 tcp:192.0.2.10:9010", "udp:192.0.2.10:53 tcp:192.0.2.11:80"),
    # Networks, whole bytes and not.
    _case(
        "tcp:10.1.0.0/16:80 tcp:[2001:db8:1::/64]:80",
        "tcp:10.1.2.3:80 tcp:[2001:db8:1::10]:80 tcp:[2001:db8:1::11]:80",
        "tcp:10.2.2.3:80 tcp:[2001:db8:2::20]:80 tcp:10.1.2.3:443",
    ),
    _case(
        "tcp:10.0.0.0/15:80 tcp:[2001:db8:2::/47]:80",
        "tcp:10.1.2.3:80 tcp:[2001:db8:2::20]:80",
        "tcp:10.2.2.3:80 tcp:[2001:db8:1::10]:80",
    ),
    # A wide rule does not reach what nobody means by it.
    _case(
        "tcp:*:80",
        "tcp:192.0.2.10:80 tcp:203.0.113.30:80 tcp:10.1.2.3:80 tcp:[2001:db8:2::20]:80 tcp:[fd12:3456::1]:80"
        " tcp:[::ffff:192.0.2.10]:80",
        f"{NOT_REACHED_BY_WIDE} tcp:192.0.2.10:443 udp:192.0.2.53:53",
    ),
    _case("tcp:0.0.0.0/0:80", "tcp:192.0.2.10:80", f"{NOT_REACHED_BY_WIDE} tcp:[2001:db8:1::10]:80"),
    _case("tcp:[fd00::/8]:80", "tcp:[fd12:3456::1]:80", "tcp:[fd00:ec2::254]:80 tcp:[2001:db8:1::10]:80"),
    _case("tcp:100.64.0.0/10:80 tcp:168.0.0.0/8:80", "", "tcp:100.100.100.200:80 tcp:168.63.129.16:80"),
    # Whoever names a part of it means it, and that part only, and no other port by way of the wide rule.
    _case(
        "tcp:*:80 tcp:169.254.169.254:443",
        "tcp:169.254.169.254:443 tcp:192.0.2.10:80",
        "tcp:169.254.169.254:80 tcp:169.254.1.1:443 tcp:169.254.1.1:80 tcp:192.0.2.10:443",
    ),
    _case(
        "tcp:169.254.0.0/16:80",
        "tcp:169.254.169.254:80 tcp:169.254.1.1:80 tcp:[::ffff:169.254.1.1]:80",
        "tcp:169.254.169.254:443 tcp:192.0.2.10:80",
    ),
    _case(
        "udp:*:53 tcp:169.254.169.254:80",
        "udp:192.0.2.53:53 udp:[2001:db8:1::10]:53 tcp:169.254.169.254:80",
        "udp:169.254.169.254:53 udp:192.0.2.53:5353 tcp:192.0.2.10:80",
    ),
    # Rules add up.
    _case(
        "tcp:192.0.2.10:80 tcp:192.0.2.10:443 tcp:198.51.100.20:443",
        "tcp:192.0.2.10:80 tcp:192.0.2.10:443 tcp:198.51.100.20:443",
        "tcp:198.51.100.20:80 tcp:192.0.2.11:80",
    ),
    # A name is its addresses at the start.
    _case(
        f"tcp:{WEB}:80",
        f"tcp:{WEB}:80 tcp:192.0.2.10:80 tcp:[2001:db8:1::10]:80",
        f"tcp:{WEB}:443 tcp:192.0.2.11:80 tcp:other.example:80 udp:192.0.2.10:53",
    ),
)

PROBER: Final = r"""
import json, re, socket, sys
def probe(target):
    protocol, rest = target.split(":", 1)
    host, _, port = rest.rpartition(":")
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=kind)
    except OSError:
        return "refused"
    for family, kind, number, _, address in found:
        with socket.socket(family, kind, number) as peer:
            peer.settimeout(3)
            try:
                peer.connect(address)
                peer.send(b"who are you?\n")
                if peer.recv(100).startswith(b"I am "):
                    return "reached"
            except OSError:
                pass
    return "refused"
json.dump({target: probe(target) for target in sys.argv[1:]}, sys.stdout)
"""
"""A Python program that tries each target of its arguments, and prints the verdicts that it finds as JSON."""


def verdicts_of(output: str) -> dict[str, str]:
    """Return what a prober printed."""
    found: dict[str, str] = json.loads(output)
    return found


def split_target(target: str) -> tuple[str, str, int]:
    """Return a target's protocol, host and port."""
    found = re.fullmatch(r"(tcp|udp):\[?([^\]]+)\]?:(\d+)", target)
    assert found is not None, target
    return found[1], found[2], int(found[3])
