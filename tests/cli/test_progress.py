"""Progress on long work: a line on a terminal's standard error, nothing anywhere else, and the result is the same."""

from __future__ import annotations

import os
import pty
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.cli.conftest import Run


def told(words: Sequence[str], environment: Mapping[str, str], folder: Path, *, output: bool) -> tuple[str, str]:
    """Run words with standard error on a terminal; return what came there, and what was the output if that is none."""
    ours, theirs = pty.openpty()
    env = dict(environment) | {"TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(
        words, cwd=folder, env=env, text=True, stdin=subprocess.DEVNULL, stderr=theirs,
        stdout=theirs if output else subprocess.PIPE,
    )  # fmt: skip
    os.close(theirs)
    found = bytearray()

    def read() -> None:
        try:
            while data := os.read(ours, 4096):
                found.extend(data)
        except OSError:  # EIO: nobody has the terminal any more
            pass

    reader = threading.Thread(target=read)
    reader.start()
    out, _ = process.communicate(timeout=120)
    reader.join(60)
    os.close(ours)
    assert process.returncode == 0, found
    return found.decode(), out or ""


LEARN: Final = ("learn", "--permissive", "--update", "--yes", "-o", "new.toml")
CALLS: Final = {
    "learn": ((*LEARN, "sh", "-c", "echo said; /bin/true"), "learning sh"),
    "survey": (("survey", "sh", "-c", "echo said; /bin/true"), "surveying sh"),
    "check": (("check", "untrusted", "sealed"), "checking"),
}


@pytest.mark.parametrize("name", CALLS)
def test_progress_is_shown_on_a_terminal_that_nothing_else_is_written_to(
    name: str, sandbox_command: Sequence[str], environment: Mapping[str, str], sandbox: Run, tmp_path: Path
) -> None:
    arguments, line = CALLS[name]
    words = (*sandbox_command, *arguments)
    shown, out = told(words, environment, tmp_path, output=False)
    assert line in shown
    assert "said" in out or name == "check"
    both, _ = told(words, environment, tmp_path, output=True)
    assert line not in both
    plain = sandbox(*arguments, cwd=tmp_path)
    assert line not in plain.stderr + plain.stdout
    assert plain.stdout == out
