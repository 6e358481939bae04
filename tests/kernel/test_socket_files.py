"""Files of Unix sockets that several want at once: one launcher has the path, and nobody's file is lost."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest

from sandbox.launch import seal
from sandbox.plan import Plan
from sandbox.probe import launcher_path
from sandbox.syscall_table import NUMBERS
from tests.support.callers import Ended, launch, plan_of, started
from tests.support.probes import Probes

ROUNDS: Final = 300
AT_ONCE: Final = 6
# All that start so begin at the moment in which the other end of the pipe closes.
AT_THE_WORD: Final = 'read -r word <"/dev/fd/$1"; shift; exec "$@"'


def left_over(path: Path) -> None:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))


def accepts(path: Path) -> bool:
    with closing(socket.socket(socket.AF_UNIX)) as client:
        return client.connect_ex(str(path)) == 0


@contextmanager
def raced(plan: Plan, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Start launchers at one moment; their command reads its input, which ends with the context."""
    plan_fd = seal(plan)
    (begin, go), (held, release) = os.pipe(), os.pipe()
    words = ["sh", "-c", AT_THE_WORD, "sh", str(begin), str(launcher_path()), str(plan_fd)]
    racers = [
        subprocess.Popen(words, stdin=held, stderr=subprocess.PIPE, pass_fds=[begin, plan_fd], text=True)
        for _ in range(count)
    ]
    for fd in (begin, plan_fd, held, go):
        os.close(fd)
    try:
        yield racers
    finally:
        os.close(release)
        for racer in racers:
            racer.wait(60)
            assert racer.stderr is not None
            racer.stderr.close()


def losers_of(racers: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    """Wait until all but one have ended, and a moment for the last one."""
    end = time.monotonic() + 20
    while sum(racer.poll() is not None for racer in racers) < len(racers) - 1 and time.monotonic() < end:
        time.sleep(0.001)
    return [racer for racer in racers if racer.poll() is not None]


def test_of_launchers_that_start_at_once_at_a_left_over_file_one_has_it(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    plan = plan_of(["cat"], f"s=listen:unix:{path}")
    for _ in range(ROUNDS):
        left_over(path)
        with raced(plan, AT_ONCE) as racers:
            losers = losers_of(racers)
            assert len(losers) == AT_ONCE - 1, [racer.poll() for racer in racers]
            for loser in losers:
                assert loser.stderr is not None
                said = loser.stderr.read()
                assert (loser.returncode, "Address already in use; " in said) == (125, True), said
            assert accepts(path)
        assert sorted(racer.returncode for racer in racers) == [0] + [125] * (AT_ONCE - 1)
        assert os.listdir(tmp_path) == []


def test_launchers_that_end_and_start_at_once_leave_each_other_s_file_alone(tmp_path: Path) -> None:
    """The end of one removes its file, and never that of the next, which is there by then."""
    path = tmp_path / "socket"
    plan = plan_of(["sh", "-c", "echo ready >&2; exec cat"], f"s+propagate=listen:unix:{path}")
    for _ in range(ROUNDS // 3):
        with raced(plan, 1) as (first,):
            assert said_by(first) == "ready\n"
            first.terminate()
            while True:
                with raced(plan, 1) as (second,):
                    if said_by(second) == "ready\n":
                        first.wait(60)
                        assert accepts(path)
                        break
        assert os.listdir(tmp_path) == []


def said_by(racer: subprocess.Popen[str]) -> str:
    assert racer.stderr is not None
    return racer.stderr.readline()


def until_accepted(path: Path) -> None:
    while not accepts(path):
        time.sleep(0.001)


def test_another_s_file_is_kept(probes: Probes, tmp_path: Path) -> None:
    """At each system call of the launcher's in turn, the left-over file is replaced by another's."""
    folder = tmp_path / "d"
    path, other, report = folder / "s", tmp_path / "other", tmp_path / "report"
    plan = plan_of(["true"], f"s=listen:unix:{path}")

    def put_at(index: int) -> tuple[Ended, list[str]]:
        folder.mkdir(exist_ok=True)
        for each in folder.iterdir():
            each.unlink()
        other.write_text("another's")
        left_over(path)
        action = f"put={other}={path}"
        ended = launch(plan, before=[probes["inject"], report, "launcher", str(index), action])
        return ended, report.read_text().splitlines()

    ended, calls = put_at(-1)
    assert (ended.code, list(folder.iterdir())) == (0, [])
    numbers = [int(line.split()[2]) for line in calls if line.startswith("launcher ")]
    first, last = numbers.index(NUMBERS["flock"]), len(numbers) - numbers[::-1].index(NUMBERS["listen"])
    assert last - first > 10
    refused = 0
    for index in range(first, last):
        ended, calls = put_at(index)
        assert "put 0" in calls
        assert ([*folder.iterdir()], path.read_text()) == ([path], "another's"), (index, ended)
        refused += ended.code == 125
    assert refused > 5


def test_folder_that_somebody_holds_locked_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    plan = plan_of(["echo", "executed"], f"s=listen:unix:{path}")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_SH)
        ended = launch(plan)
        said = f"sandbox: listen: grant s: unix:{path}: somebody holds the lock (flock) of its folder; "
        assert (ended.code, ended.out, ended.err.startswith(said)) == (125, "", True), ended
        with started(plan, stdout=subprocess.PIPE) as waits:
            time.sleep(0.2)
            assert (waits.poll(), path.exists()) == (None, False)
            fcntl.flock(folder, fcntl.LOCK_UN)
            assert waits.communicate(timeout=10)[0] == "executed\n"
    finally:
        os.close(folder)


# Signals while it waits


@contextmanager
def full(family: int, folder: Path) -> Iterator[str]:
    """Yield the grant of a connection that is not made: the queue is full."""
    with closing(socket.socket(family)) as listening:
        listening.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(folder / "full"))
        listening.listen(0)
        clients = [socket.socket(family) for _ in range(3)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(listening.getsockname())
        port = listening.getsockname()[1] if family == socket.AF_INET else 0
        yield f"c=connect:tcp:127.0.0.1:{port}" if port else f"c=connect:unix:{folder}/full"
        for client in clients:
            client.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_signal_ends_a_launcher_that_connects_and_its_files_go(tmp_path: Path, family: int, number: int) -> None:
    file = tmp_path / "socket"
    with full(family, tmp_path) as grant:
        plan = plan_of(["echo", "executed"], f"s=listen:unix:{file}", f"{grant}:timeout=600")
        with started(plan, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            until_accepted(file)
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (128 + number, "")
    assert f": ended while it waited, by signal {number}; " in err
    assert err.startswith("sandbox: connect: grant c: connection to ")
    assert not file.exists()


def test_signals_that_ask_for_no_end_or_are_ignored_do_not_end_it(tmp_path: Path) -> None:
    """The twin: they reach the command when it is there, as those of the start do."""
    for ignored, number in ((signal.SIG_DFL, signal.SIGCONT), (signal.SIG_IGN, signal.SIGHUP)):
        with full(socket.AF_INET, tmp_path) as grant:
            plan = plan_of(["echo", "executed"], f"s=listen:unix:{tmp_path}/socket", f"{grant}:timeout=1")

            def setup(handler: signal.Handlers = ignored, number: int = number) -> None:
                signal.signal(number, handler)

            with started(plan, stderr=subprocess.PIPE, setup=setup) as process:
                until_accepted(tmp_path / "socket")
                process.send_signal(number)
                _, err = process.communicate(timeout=30)
        assert process.returncode == 125
        assert "Connection timed out" in err
