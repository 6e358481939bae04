"""Full-screen programs and shells in a private terminal, used by keyboard in a tmux window."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support.callers import SANDBOX

# program -> the package that brings it; tests/setup-system installs what is missing.
PACKAGES: Final = {
    "tmux": "tmux", "vim": "vim", "top": "procps", "less": "less", "bash": "bash", "script": "bsdutils",
}  # fmt: skip
COMMAND: Final = (*SANDBOX, "run", "-p", "untrusted", "--tty", "private", "--write", ".", "--")
PROMPT: Final = "READY>"
SECONDS: Final = 30
ROWS, COLUMNS = 30, 100


class Window:
    """A tmux window with a shell in it; `box` is the command line under test there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._socket = folder / "tmux"

    def tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, "-f", "/dev/null", *words],
            capture_output=True, text=True, timeout=SECONDS, check=False, cwd=self.folder / "work",
            env={**os.environ, "LANG": "C.UTF-8", "SHELL": "/bin/bash", "TERM": "xterm"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    def wait(self, holds: Callable[[str], bool]) -> str:
        deadline = time.monotonic() + SECONDS
        while not holds(screen := self.screen()):
            assert time.monotonic() < deadline, screen
            time.sleep(0.03)
        return screen

    def shows(self, text: str) -> str:
        return self.wait(lambda screen: text in screen)

    def keys(self, *names: str) -> None:
        """Press keys that have names."""
        self.tmux("send-keys", *names)

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-l", text)

    def line(self, text: str) -> None:
        """Type a command line and press Enter."""
        self.type(text)
        self.keys("Enter")

    def ask(self, command: str) -> str:
        """Run a command in the window's shell, and return what it said there."""
        answer = self.folder / "answer"
        answer.unlink(missing_ok=True)
        self.line(f" clear; ({command}) >{answer}.new; mv {answer}.new {answer}")
        deadline = time.monotonic() + SECONDS
        while not answer.exists():
            assert time.monotonic() < deadline, self.screen()
            time.sleep(0.03)
        return answer.read_text().strip()

    def prompt(self) -> str:
        return self.wait(lambda screen: screen.rstrip().endswith(PROMPT))


@contextmanager
def opened(folder: Path) -> Iterator[Window]:
    (folder / "work").mkdir()
    (folder / "rc").write_text(f"PS1='{PROMPT} '\nbox() {{ {shlex.join(COMMAND)} \"$@\"; }}\n")
    window = Window(folder)
    window.tmux(
        "new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), f"exec bash --rcfile {folder}/rc --noprofile -i"
    )
    try:
        window.prompt()
        yield window
    finally:
        window.tmux("kill-server")


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Window]:
    """Yield a window whose terminal must be after the test what it was before."""
    missing = sorted({package for program, package in PACKAGES.items() if not shutil.which(program)})
    assert not missing, f"install {' '.join(missing)}"
    with opened(tmp_path) as window:
        before = window.ask("stty -g </dev/tty")
        yield window
        assert window.ask("stty -g </dev/tty") == before


def test_vim_edits_a_file_stops_continues_and_follows_the_window(window: Window) -> None:
    window.line(" clear; box vim -N -u NONE -i NONE note")
    window.shows("~")
    window.type("ihello from inside")
    window.keys("Escape")
    window.shows("hello from inside")
    window.keys("C-z")
    window.shows("Stopped")
    window.prompt()
    assert window.ask("echo still $((40 + 2))") == "still 42"
    window.tmux("resize-window", "-x", "70", "-y", "20")
    window.line("fg; echo code $?")
    window.shows("hello from inside")
    window.type(":echo &lines 'by' &columns")
    window.keys("Enter")
    window.shows("20 by 70")
    window.tmux("resize-window", "-x", "90", "-y", "25")
    time.sleep(0.3)
    window.type(":echo &lines 'by' &columns")
    window.keys("Enter")
    window.shows("25 by 90")
    window.type(":wq")
    window.keys("Enter")
    window.shows("code 0")
    assert (window.folder / "work" / "note").read_text() == "hello from inside\n"


def test_vim_killed_leaves_the_terminal_as_it_was(window: Window) -> None:
    window.line(" clear; box vim -N -u NONE -i NONE; echo code $?")
    window.shows("~")
    window.type(":!kill -KILL $PPID")
    window.keys("Enter")
    window.shows("code 137")


def test_less_shows_searches_and_ends(window: Window) -> None:
    (window.folder / "work" / "numbers").write_text("".join(f"line {number}\n" for number in range(1, 2001)))
    window.line(" clear; box less numbers; echo code $?")
    window.shows("line 25")
    window.keys("Space")
    window.shows("line 50")
    window.type("/1234")
    window.keys("Enter")
    window.shows("line 1234")
    window.type("G")
    window.shows("line 2000")
    window.type("q")
    window.shows("code 0")


def test_top_shows_the_sandbox_and_ends(window: Window) -> None:
    window.line(" clear; box top -d 1")
    screen = window.wait(lambda screen: "Tasks:" in screen and " top" in screen)
    # The init, top, and nobody of outside.
    assert "tmux" not in screen
    window.keys("C-z")
    window.shows("Stopped")
    window.line("clear; fg; echo code $?")
    window.wait(lambda screen: "Tasks:" in screen)
    window.type("q")
    window.shows("code 0")


def test_bash_has_job_control(window: Window) -> None:
    window.line(" clear; box bash --norc --noprofile -i")
    window.line("PS1='IN''SIDE> '")
    window.shows("INSIDE>\n")
    window.line("sleep 1000")
    time.sleep(0.3)
    window.keys("C-z")
    window.shows("Stopped")
    window.line("bg; jobs")
    window.shows("Running")
    window.line("fg")
    time.sleep(0.3)
    window.keys("C-c")
    window.line("echo inter$((1))rupted $?")
    window.shows("inter1rupted 130")
    # Line editing: the left arrow, a history search.
    window.type("echo ac")
    window.keys("Left")
    window.type("b")
    window.keys("Enter")
    window.shows("\nabc")
    window.line("suspend -f")
    window.prompt()
    window.line("fg; echo code $?")
    window.line("echo back$((2))")
    window.shows("back2")
    window.line("exit 9")
    window.shows("code 9")


def test_programs_inside_open_terminals_of_their_own(window: Window) -> None:
    """The filter leaves TIOCSCTTY to them."""
    window.line(" clear; box script -qec 'tty; echo in$((3))side; stty size' /dev/null; echo code $?")
    screen = window.shows("code 0")
    assert "in3side" in screen
    assert f"{ROWS} {COLUMNS}" in screen
