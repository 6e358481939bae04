"""A path that others exchange all the while: a grant is the object that was meant, or nothing; 100,000 tries."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support.callers import launch, plan_of
from tests.support.probes import Probes

TRIES: Final = 12_500  # of each of the eight
AT_ONCE: Final = 200  # grants of one start, each a try of its own
FIRST: Final = 300  # the caller's numbers
# Exchanges two names and, mostly at once, exchanges them again.
SWAP: Final = """
import ctypes, os, random, sys, time
rename = ctypes.CDLL(None, use_errno=True).renameat2
one, other = map(os.fsencode, sys.argv[1:])
print(flush=True)
while True:
    for _ in range(2):
        if rename(-100, one, -100, other, 2):
            raise OSError(ctypes.get_errno(), "renameat2")
    time.sleep(random.random() / 500)
"""


@contextmanager
def exchanged(one: Path, other: Path) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-S", "-c", SWAP, one, other], stdout=subprocess.PIPE) as swapper:
        assert swapper.stdout is not None
        assert swapper.stdout.readline() == b"\n"
        try:
            yield
            assert swapper.poll() is None
        finally:
            swapper.kill()


def other_object(kind: str, path: Path) -> None:
    match kind:
        case "file":
            path.write_text("another one")
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(kind)


@pytest.mark.parametrize(
    ("grant", "kind"),
    [
        ("inherit", "file"), ("inherit", "fifo"), ("inherit", "/dev/null"),
        ("file", "fifo"), ("file", "folder"), ("file", "/dev/null"), ("file", "/proc/self/mem"),
        ("file", "/proc/self/fd/0"),
    ],
)  # fmt: skip
def test_exchanged_path_gives_what_was_meant_or_nothing(probes: Probes, tmp_path: Path, grant: str, kind: str) -> None:
    meant, other = tmp_path / "meant", tmp_path / "other"
    meant.write_text("the one")
    inode = meant.stat().st_ino
    other_object(kind, other)
    numbers = range(FIRST, FIRST + AT_ONCE)
    values = [f"inherit:{number}" if grant == "inherit" else f"file:{meant}" for number in numbers]
    plan = plan_of([probes["fds"], "600"], *(f"g{at}=" + value for at, value in enumerate(values)))
    held = os.open(meant, os.O_RDONLY)

    def setup() -> None:
        for number in numbers:
            os.dup2(held, number)

    tries = refused = 0
    with exchanged(meant, other):
        while tries < TRIES:
            ended = launch(plan, setup=setup if grant == "inherit" else None)
            got = re.findall(r"^fd (\d+) \d+ \d+ \d+ (\d+)$", ended.out, re.MULTILINE)
            granted = {int(found) for number, found in got if int(number) > 2}
            if ended.code == 0:
                assert granted == {inode}
                tries += AT_ONCE
            else:
                assert (ended.code, granted) == (125, set())
                failed = re.search(r"^sandbox: (open|inherit): grant g(\d+)", ended.err)
                assert failed, ended
                tries += int(failed[2]) + 1
                refused += 1
    os.close(held)
    assert refused, "the other object was never met"


@pytest.mark.parametrize("kind", ["file", "copy", "secret", "directory"])
def test_what_is_in_proc_is_refused_and_its_twin_is_given(probes: Probes, kind: str) -> None:
    """It may be the launcher's own: /proc/self is whoever asks."""
    name, twin = ("/proc", "/etc") if kind == "directory" else ("/proc/self/status", "/etc/passwd")
    ended = launch(plan_of([probes["fds"], "9"], f"g={kind}:{name}"))
    assert (ended.code, ended.out) == (125, "")
    assert "grant g: " in ended.err
    assert "it is in /proc, and may be the launcher's own" in ended.err
    assert "fd 3 " in launch(plan_of([probes["fds"], "9"], f"g={kind}:{twin}")).out
    if kind == "file":
        assert "fd 3 " in launch(plan_of([probes["fds"], "9"], f"g=file:{name}:raw")).out
