"""At a terminal: what is typed reaches the command once, and a shell can stop and continue the job.

The commands do not fork once they have said that they run: dash loses a signal that comes while it does, without any
launcher, too.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from tests.support.callers import SANDBOX, folders_in
from tests.support.probes import Probes

SECONDS = 30
PROMPT = "READY> "


@pytest.fixture(params=["inherit", "private"])
def tty(request: pytest.FixtureRequest) -> str:
    """Return the terminal's mode: what a user types and sees is the same with the caller's and with one of its own."""
    return str(request.param)


def command_line(tty: str, *words: str) -> list[str]:
    return [
        *SANDBOX,
        "run",
        "-p",
        "untrusted",
        "--tty",
        tty,
        *(f"--execute={folder}" for folder in folders_in(words)),
        "--",
        *words,
    ]


@contextmanager
def at_terminal(*argv: str) -> Iterator[pexpect.spawn[str]]:
    """Run a program as the leader of a session with a terminal of its own."""
    child = pexpect.spawn(argv[0], list(argv[1:]), timeout=SECONDS, echo=False, encoding="utf-8")
    child.delaybeforesend = None
    try:
        yield child
    finally:
        child.close(force=True)


@contextmanager
def shell(tty: str) -> Iterator[pexpect.spawn[str]]:
    """Run an interactive bash with job control; `sandbox` starts the command line under test."""
    with at_terminal("/bin/bash", "--norc", "--noprofile", "--noediting", "-i") as bash:
        bash.sendline(
            f"PS1='{PROMPT[:3]}''{PROMPT[3:]}'; sandbox() {{ {' '.join(SANDBOX)} run --tty {tty} -- \"$@\"; }}"
        )
        bash.expect_exact(PROMPT)
        yield bash


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def heard(child: pexpect.spawn[str]) -> str:
    """End the catch probe and return what it said."""
    child.expect_exact("end 0 0")
    return str(child.before)


@pytest.mark.parametrize(("typed", "number"), [("\x03", signal.SIGINT), ("\x1c", signal.SIGQUIT)])
def test_typed_signal_arrives_exactly_once(tty: str, probes: Probes, typed: str, number: int) -> None:
    with at_terminal(*command_line(tty, probes["catch"])) as child:
        child.expect_exact("ready ")
        for _ in range(3):
            child.send(typed)
            # From the terminal, not forwarded: its sender is the kernel.
            child.expect_exact(f"signal {int(number)} 1\r\n")
        assert child.pid
        os.kill(child.pid, signal.SIGUSR2)
        assert "signal" not in heard(child)
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0


def test_window_change_arrives_exactly_once(tty: str, probes: Probes) -> None:
    with at_terminal(*command_line(tty, probes["catch"])) as child:
        child.expect_exact("ready ")
        child.setwinsize(33, 77)
        child.expect_exact(f"signal {int(signal.SIGWINCH)} 1\r\n")
        assert child.pid
        os.kill(child.pid, signal.SIGUSR2)
        assert "signal" not in heard(child)


def test_interrupt_typed_to_an_ordinary_command_ends_it(tty: str) -> None:
    with at_terminal(*command_line(tty, "sh", "-c", "echo go; exec sleep 100")) as child:
        child.expect_exact("go")
        child.send("\x03")
        child.expect(pexpect.EOF)
        child.wait()
        assert (child.exitstatus, child.signalstatus) == (128 + signal.SIGINT, None)


def test_hang_up_of_the_terminal_ends_the_command(tty: str) -> None:
    with at_terminal(*command_line(tty, "sh", "-c", "echo go; exec sleep 1000")) as child:
        child.expect_exact("go")
        assert child.pid
        (init,) = children_of(child.pid)
        (command,) = children_of(init)
    for _ in range(2000):
        if not any(os.path.exists(f"/proc/{pid}") for pid in (child.pid, init, command)):
            return
        os.sched_yield()
        signal.sigtimedwait([], 0.01)
    raise AssertionError("it is still there")


def test_stopped_job_is_seen_by_the_shell_and_continues_in_the_foreground(tty: str) -> None:
    with shell(tty) as bash:
        bash.sendline("sandbox sh -c 'echo go; while read -r word; do echo $word; done; exit 7'")
        bash.expect_exact("go\r")
        for word in ("first", "second"):
            bash.send("\x1a")
            bash.expect("Stopped.*" + PROMPT)
            bash.sendline("jobs; kill -0 %1 && echo there")
            bash.expect("Stopped.*there.*" + PROMPT)
            bash.sendline("fg")
            bash.sendline(word)
            bash.expect(rf"\n{word}\r\n")
        bash.send("\x04")
        bash.expect_exact(PROMPT)
        bash.sendline("echo code $?")
        bash.expect_exact("code 7\r\n")


def test_stopped_job_continues_in_the_background_and_ends(tty: str) -> None:
    with shell(tty) as bash:
        code = 'print("go", flush=True); import time; time.sleep(0.5); raise SystemExit(5)'
        bash.sendline(f"sandbox /usr/bin/python3 -c '{code}'")
        bash.expect_exact("go\r")
        bash.send("\x1a")
        bash.expect("Stopped.*" + PROMPT)
        bash.sendline("bg; wait %1; echo code $?")
        bash.expect_exact("code 5\r\n")


def test_job_in_the_background_is_ended_by_the_shell(tty: str) -> None:
    with shell(tty) as bash:
        bash.sendline("sandbox sleep 1000 &")
        bash.expect_exact(PROMPT)
        bash.sendline("sleep 0.5; kill %1; wait %1; echo code $?")
        bash.expect_exact("code 143\r\n")


def test_stop_sent_to_the_launcher_stops_both(tty: str) -> None:
    with shell(tty) as bash:
        bash.sendline("sandbox sh -c 'echo go; exec sleep 1000' &")
        bash.expect_exact("go\r")
        bash.sendline("kill -TSTP %1; sleep 0.3; jobs")
        bash.expect("Stopped")
        bash.sendline("kill -CONT %1; sleep 0.3; jobs")
        bash.expect("Running")
        bash.sendline("kill %1; wait %1; echo code $?")
        bash.expect_exact("code 143\r\n")


def test_terminal_cannot_be_fed_by_the_command(tty: str) -> None:
    """TIOCSTI would type into the caller's shell (CVE-2017-5226)."""
    code = (
        "import fcntl, termios\n"
        "for _ in range(2):\n"
        "    try: fcntl.ioctl(0, termios.TIOCSTI, b'x'); print('typed')\n"
        "    except PermissionError: print('refused')\n"
        "print(fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))[:2])"
    )
    with at_terminal(*command_line(tty, "/usr/bin/python3", "-c", code)) as child:
        child.expect_exact("refused\r\nrefused\r\n")
        child.expect(r"b'.*'")
