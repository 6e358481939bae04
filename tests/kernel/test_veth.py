"""A network of the sandbox's own: the same verdicts as the supervisor's, nothing else reached, nothing left behind.

Everything takes place in a small internet of the test's own (tests/support/internet.py), as root of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.callers import PYTHON, SANDBOX, Ended
from tests.support.internet import HOST4, HOST6, Internet, internet
from tests.support.probes import public_folder
from tests.support.verdicts import CASES, PORTS, PROBER, WEB, Case, verdicts_of

VETH: Final = ("run", "--chdir", "/", "--net", "veth")
OURS: Final = re.compile(r"sandbox-[0-9a-f]{4}")
PATIENCE: Final = 20  # seconds; the kernel takes a namespace apart when it gets to it


@pytest.fixture(scope="module")
def net() -> Iterator[Internet]:
    """Yield the internet that this file's tests share."""
    with public_folder() as folder, internet(folder) as made:
        yield made


def sandboxed(net: Internet, *words: str | Path) -> Ended:
    """Run `sandbox run --net veth WORD ...` on the host of the internet."""
    return net.run(*SANDBOX, *VETH, *words)


def left(net: Internet) -> set[str]:
    """Return what is there of sandboxes on the host: interfaces, addresses, routes, rules."""
    # nft(8) is not asked, for it is no part of what tests need: a table's name stands in the answer of netlink.
    listing = net.says(PYTHON, "-c", TABLES) + net.says(
        "sh", "-c", "ip addr; ip route show table all; ip -6 route show table all; ip rule; ls /run/netns"
    )
    return set(OURS.findall(listing)) | set(re.findall(r"198\.1[89]\.[0-9.]+|fd8b:[0-9a-f:]+", listing))


TABLES: Final = r"""
import socket, sys
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netfilter:
    netfilter.send(bytes([20, 0, 0, 0, 1, 10, 1, 3]) + bytes(12))
    data = b""
    while b"\3\0\2\0" not in data[-20:]:
        data += netfilter.recv(1 << 16)
sys.stdout.write(repr(data))
"""


def eventually(ask: Callable[[], object]) -> object:
    """Return the first answer that is empty, or the last after a while."""
    until = time.monotonic() + PATIENCE
    while (answer := ask()) and time.monotonic() < until:
        time.sleep(0.1)
    return answer


@pytest.mark.parametrize("case", CASES, ids=str)
def test_verdicts_are_those_of_the_table(net: Internet, case: Case) -> None:
    allowed = [word for rule in case.rules for word in ("--net-allow", rule)]
    ended = sandboxed(net, *allowed, "--", PYTHON, "-c", PROBER, *case.verdicts)
    assert (ended.code, ended.err) == (0, "")
    assert verdicts_of(ended.out) == case.verdicts
