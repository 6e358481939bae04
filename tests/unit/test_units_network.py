"""What a unit says of a network: no more than the launcher and its supervisor need."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from sandbox.allowlist import parse_bind, parse_peer
from sandbox.profile import NetworkMode, NetworkPolicy
from sandbox.profile_files import default_search_path, load
from sandbox.units import units

UNTRUSTED: Final = load("untrusted", search=default_search_path({}))
ALLOWED: Final = (parse_peer("tcp:192.0.2.1:443"),)


@pytest.mark.parametrize(
    ("network", "private", "families"),
    [
        (NetworkPolicy(), True, "AF_UNIX"),
        (NetworkPolicy(NetworkMode.LOOPBACK), True, "AF_UNIX AF_INET AF_INET6"),
        (NetworkPolicy(allow=ALLOWED), False, "AF_UNIX AF_INET AF_INET6"),
        (NetworkPolicy(NetworkMode.LOOPBACK, bind=(parse_bind("tcp:80"),)), False, "AF_UNIX AF_INET AF_INET6"),
        (NetworkPolicy(NetworkMode.HOST), False, "AF_UNIX AF_INET AF_INET6 AF_NETLINK"),
    ],
    ids=str,
)  # fmt: skip
def test_supervisor_keeps_the_network_that_rules_are_about(
    network: NetworkPolicy, private: bool, families: str
) -> None:
    (unit,) = units(replace(UNTRUSTED, network=network), "x", "/x", {}, kind=None, reload=False)
    lines = unit.text.splitlines()
    assert ("PrivateNetwork=yes" in lines) is private
    assert f"RestrictAddressFamilies={families}" in lines
