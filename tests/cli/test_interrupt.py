"""Ctrl-C while the command line starts: it ends as by SIGINT, without a traceback, however early that comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from sandbox.cli import HELD_OPTION

SLOW: Final = ("profiles", "--help")  # handed to Python
MOMENTS: Final = 25


def held(*, pending: bool) -> Callable[[], None]:
    """Return what makes a new process hold SIGINT back, with one that has come already."""

    def hold() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        if pending:
            os.kill(os.getpid(), signal.SIGINT)

    return hold


def is_ignored(pid: int) -> bool:
    """Tell whether a process ignores SIGINT."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn:"))
    return bool(int(line.split()[1], 16) & 1 << signal.SIGINT - 1)


def run(command: list[Any], environment: Mapping[str, str], **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
    return subprocess.run(
        command, env=dict(environment), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120,
        check=False, **options,
    )  # fmt: skip


def masks(script: Path, native_command: Path, environment: Mapping[str, str], **options: Any) -> tuple[str, bool]:  # noqa: ANN401
    """Return the first argument that the Python part gets, and whether SIGINT is held back there."""
    script.with_name("sandbox").write_bytes(native_command.read_bytes())
    script.with_name("sandbox").chmod(0o755)
    script.write_text(f"""#!{sys.executable}
import signal, sys
print(sys.argv[1], signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
""")
    script.chmod(0o755)
    first, is_held = run([script.with_name("sandbox"), "profiles"], environment, **options).stdout.split()
    return first, is_held == "True"


def test_native_command_holds_the_interrupt_back_for_python(
    native_command: Path, environment: Mapping[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "sandbox-python"
    assert masks(script, native_command, environment) == (HELD_OPTION, True)
    # The caller's own mask is the caller's: Python is not told to take it away.
    assert masks(script, native_command, environment, preexec_fn=held(pending=False)) == ("profiles", True)


def test_interrupt_that_was_held_back_ends_python_before_it_says_anything(environment: Mapping[str, str]) -> None:
    python = [sys.executable, "-P", "-m", "sandbox"]
    done = run([*python, HELD_OPTION, *SLOW], environment, preexec_fn=held(pending=True))
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
    done = run([*python, HELD_OPTION, *SLOW], environment, preexec_fn=held(pending=False))
    assert (done.returncode, done.stderr) == (0, "")
    done = run([*python, *SLOW], environment, preexec_fn=held(pending=True))  # whose caller holds it back
    assert (done.returncode, done.stderr) == (0, "")


def test_interrupt_that_the_caller_ignores_stays_ignored(native_command: Path, environment: Mapping[str, str]) -> None:
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", native_command, *SLOW], env=dict(environment),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not is_ignored(process.pid):  # before, the shell would end
        time.sleep(0.001)
    with process:
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.001)
        assert (process.returncode, process.stderr and process.stderr.read()) == (0, "")


def test_interrupt_at_any_moment_ends_without_a_traceback(native_command: Path, environment: Mapping[str, str]) -> None:
    """At moments spread over the time that a start takes here and now."""
    began = time.monotonic()
    said = run([native_command, *SLOW], environment).stdout
    whole = time.monotonic() - began
    codes = set()
    for moment in range(MOMENTS):
        process = subprocess.Popen(
            [native_command, *SLOW], env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(whole * moment / MOMENTS)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out, err) in {(-signal.SIGINT, "", ""), (0, said, ""), (-signal.SIGINT, said, "")}
        codes.add(process.returncode)
    assert -signal.SIGINT in codes


@pytest.mark.parametrize("arguments", [("true",), ("--help",), ("--", HELD_OPTION)], ids=" ".join)
def test_word_between_the_parts_is_no_option_of_the_user(
    native_command: Path, environment: Mapping[str, str], arguments: tuple[str, ...]
) -> None:
    done = run([native_command, HELD_OPTION, *arguments], environment)
    assert done.returncode == 125
    assert "no such option" in done.stderr
