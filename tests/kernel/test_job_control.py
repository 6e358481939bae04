"""At a terminal: what is typed reaches the command once, and a shell can stop and continue the job.

The commands do not fork once they have said that they run: dash loses a signal that comes while it does, without any
launcher, too.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pexpect
import pytest

from tests.support.callers import SANDBOX
from tests.support.probes import Probes

SECONDS = 30
PROMPT = "READY> "


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
def shell() -> Iterator[pexpect.spawn[str]]:
    """Run an interactive bash with job control; `sandbox` starts the command line under test."""
    with at_terminal("/bin/bash", "--norc", "--noprofile", "--noediting", "-i") as bash:
        bash.sendline(f"PS1='{PROMPT[:3]}''{PROMPT[3:]}'; sandbox() {{ {' '.join(SANDBOX)} \"$@\"; }}")
        bash.expect_exact(PROMPT)
        yield bash


def heard(child: pexpect.spawn[str]) -> str:
    """End the catch probe and return what it said."""
    child.expect_exact("end 0 0")
    return str(child.before)


@pytest.mark.parametrize(("typed", "number"), [("\x03", signal.SIGINT), ("\x1c", signal.SIGQUIT)])
def test_typed_signal_arrives_exactly_once(probes: Probes, typed: str, number: int) -> None:
    with at_terminal(*SANDBOX, "run", "--", probes["catch"]) as child:
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


def test_window_change_arrives_exactly_once(probes: Probes) -> None:
    with at_terminal(*SANDBOX, "run", "--", probes["catch"]) as child:
        child.expect_exact("ready ")
        child.setwinsize(33, 77)
        child.expect_exact(f"signal {int(signal.SIGWINCH)} 1\r\n")
        assert child.pid
        os.kill(child.pid, signal.SIGUSR2)
        assert "signal" not in heard(child)


def test_interrupt_typed_to_an_ordinary_command_ends_it() -> None:
    with at_terminal(*SANDBOX, "run", "--", "sh", "-c", "echo go; exec sleep 100") as child:
        child.expect_exact("go")
        child.send("\x03")
        child.expect(pexpect.EOF)
        child.wait()
        assert (child.exitstatus, child.signalstatus) == (128 + signal.SIGINT, None)


def test_hang_up_of_the_terminal_ends_the_command() -> None:
    with at_terminal(*SANDBOX, "run", "--", "sh", "-c", "echo pid $$; exec sleep 1000") as child:
        child.expect(r"pid (\d+)")
        assert isinstance(child.match, re.Match)
        pid = int(child.match[1])
    for _ in range(2000):
        if not os.path.exists(f"/proc/{pid}"):
            return
        os.sched_yield()
        signal.sigtimedwait([], 0.01)
    raise AssertionError("it is still there")


def test_stopped_job_is_seen_by_the_shell_and_continues_in_the_foreground() -> None:
    with shell() as bash:
        bash.sendline("sandbox run -- sh -c 'echo go; while read -r word; do echo $word; done; exit 7'")
        bash.expect_exact("go\r\n")
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


def test_stopped_job_continues_in_the_background_and_ends() -> None:
    with shell() as bash:
        code = 'print("go", flush=True); import time; time.sleep(0.5); raise SystemExit(5)'
        bash.sendline(f"sandbox run -- /usr/bin/python3 -c '{code}'")
        bash.expect_exact("go\r\n")
        bash.send("\x1a")
        bash.expect("Stopped.*" + PROMPT)
        bash.sendline("bg; wait %1; echo code $?")
        bash.expect_exact("code 5\r\n")


def test_job_in_the_background_is_ended_by_the_shell() -> None:
    with shell() as bash:
        bash.sendline("sandbox run -- sleep 1000 &")
        bash.expect_exact(PROMPT)
        bash.sendline("sleep 0.5; kill %1; wait %1; echo code $?")
        bash.expect_exact("code 143\r\n")


def test_stop_sent_to_the_launcher_stops_both() -> None:
    with shell() as bash:
        bash.sendline("sandbox run -- sh -c 'echo go; exec sleep 1000' &")
        bash.expect_exact("go\r\n")
        bash.sendline("kill -TSTP %1; sleep 0.3; jobs")
        bash.expect("Stopped")
        bash.sendline("kill -CONT %1; sleep 0.3; jobs")
        bash.expect("Running")
        bash.sendline("kill %1; wait %1; echo code $?")
        bash.expect_exact("code 143\r\n")


def test_terminal_cannot_be_fed_by_the_command() -> None:
    """TIOCSTI would type into the caller's shell (CVE-2017-5226)."""
    code = (
        "import fcntl, termios\n"
        "for _ in range(2):\n"
        "    try: fcntl.ioctl(0, termios.TIOCSTI, b'x'); print('typed')\n"
        "    except PermissionError: print('refused')\n"
        "print(fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))[:2])"
    )
    with at_terminal(*SANDBOX, "run", "--", sys.executable, "-c", code) as child:
        child.expect_exact("refused\r\nrefused\r\n")
        child.expect(r"b'.*'")
