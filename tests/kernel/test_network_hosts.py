"""The network by rules on several hosts: the supervisor's verdicts are those of the shared table, for names as well.

In a small internet of the tests' own (tests/support/internet.py); an ordinary user is root of it, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.support.callers import PYTHON, SANDBOX, Ended
from tests.support.internet import Internet, internet
from tests.support.probes import public_folder
from tests.support.verdicts import CASES, PROBER, WEB, Case, verdicts_of


@pytest.fixture(scope="module")
def net() -> Iterator[Internet]:
    """Yield the internet that this file's tests share."""
    with public_folder() as folder, internet(folder) as made:
        yield made


def sandboxed(net: Internet, *words: str) -> Ended:
    """Run `sandbox run WORD ...` on the host of the internet."""
    return net.run(*SANDBOX, "run", "-p", "untrusted", "--chdir", "/", *words)


def allowing(*rules: str) -> list[str]:
    return [word for rule in rules for word in ("--net-allow", rule)]


@pytest.mark.parametrize("mode", ["none", "loopback"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_verdicts_are_those_of_the_table(net: Internet, case: Case, mode: str) -> None:
    ended = sandboxed(net, "--net", mode, *allowing(*case.rules), "--", PYTHON, "-c", PROBER, *case.verdicts)
    assert (ended.code, ended.err) == (0, "")
    assert verdicts_of(ended.out) == case.verdicts


def test_a_name_of_cloud_metadata_is_refused_unless_the_address_is_named(net: Internet) -> None:
    ended = sandboxed(net, *allowing("tcp:metadata.example:80"), "--", "true")
    assert ended.code == 125
    assert ended.err == (
        "sandbox: usage: network.allow: tcp:metadata.example:80: host metadata.example is 169.254.169.254: link-local"
        " addresses; no name leads there; allow the address itself if it is meant\n"
    )
    named = allowing("tcp:metadata.example:80", "tcp:169.254.169.254:80")
    ended = sandboxed(net, *named, "--", PYTHON, "-c", PROBER, "tcp:metadata.example:80")
    assert verdicts_of(ended.out) == {"tcp:metadata.example:80": "reached"}


def test_a_name_that_nobody_has_is_an_error(net: Internet) -> None:
    ended = sandboxed(net, *allowing("tcp:missing.example:80"), "--", "true")
    assert ended.code == 125
    assert ended.err.startswith("sandbox: usage: network.allow: tcp:missing.example:80: host missing.example: ")


LOOK_UP: Final = """
import socket, sys
for name in sys.argv[1:]:
    try:
        print(len(socket.getaddrinfo(name, 80)) > 0)
    except OSError:
        print(None)
"""


def test_the_child_has_the_names_of_its_rules_and_no_other(net: Internet) -> None:
    ended = sandboxed(net, *allowing(f"tcp:{WEB}:80"), "--", "cat", "/etc/hosts", "/etc/resolv.conf")
    assert sorted(ended.out.splitlines()) == [
        "127.0.0.1 localhost", "192.0.2.10 web.example", "2001:db8:1::10 web.example",
        "::1 localhost ip6-localhost ip6-loopback",
    ]  # fmt: skip
    ended = sandboxed(net, *allowing(f"tcp:{WEB}:80"), "--", PYTHON, "-c", LOOK_UP, WEB, "other.example", "localhost")
    assert ended.out.split() == ["True", "None", "True"]
