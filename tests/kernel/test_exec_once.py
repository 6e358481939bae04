"""exec = "once": the command itself runs, and neither it nor a child of it executes anything after."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from sandbox.plan import Plan
from tests.support.callers import Ended, launch, plan_of
from tests.support.callers import sandbox as command_line
from tests.support.probes import Probes, Verdict, verdicts

EPERM = Verdict(-1, errno.EPERM)
OK = Verdict(0, 0)
WAYS = ["execve", "execve-ones", "execveat", "execveat-empty-path"]
FOREIGN = ["execve-x32", "execve-x32-own", "execveat-x32-own"]
GUESSES = 2000


def again(plan: Plan) -> dict[str, Verdict]:
    ended = launch(plan)
    assert ended.code == 0, ended
    return verdicts(ended.out)


def test_exec_once_every_further_exec_is_refused(probes: Probes) -> None:
    found = again(plan_of([probes["again"], "/bin/true", "guess"], profile="sealed"))
    assert found == dict.fromkeys([*WAYS, *FOREIGN], EPERM) | {"guesses-refused": Verdict(GUESSES, 0)}


def test_exec_once_twin_further_execs_work_without_it(probes: Probes) -> None:
    found = again(plan_of([probes["again"], "/bin/true"]))
    # x32 stays refused by the filter itself.
    assert found == dict.fromkeys(WAYS, OK) | dict.fromkeys(FOREIGN, EPERM) | {"guesses-refused": OK}


def test_exec_once_cookies_differ_between_runs_and_leave_no_trace(probes: Probes) -> None:
    """The extra registers are the kernel's to clear: nothing of them is left in what the program can read."""
    plan = plan_of(["cat", "/proc/self/auxv", "/proc/self/cmdline"], profile="sealed")
    first, second = launch(plan), launch(plan)
    assert first.code == second.code == 0
    ended = launch(plan_of([probes["inside"], "3"], "a=file:/etc/passwd", profile="sealed"))
    assert verdicts(ended.out)["ptrace"] == EPERM


def test_exec_once_missing_candidates_in_path_do_not_use_it_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "true").write_text("not executable")
    monkeypatch.setenv("PATH", f"/nonexistent:{tmp_path}:/usr/bin:/bin")
    assert command_line("-p", "sealed", "--", "true") == Ended(0, "", "")


def test_exec_once_script_with_interpreter_runs(tmp_path: Path) -> None:
    """The kernel's own second exec, that of the interpreter, is the same call."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho one; exec /bin/true || echo no\n")
    script.chmod(0o755)
    ended = command_line("-p", "sealed", "--", script)
    assert (ended.code, ended.out) == (126, "one\n")
    assert "Operation not permitted" in ended.err
    assert command_line("--", script) == Ended(0, "one\n", "")


def test_exec_once_threads_still_start() -> None:
    code = "import threading; t = threading.Thread(target=print, args=['in a thread']); t.start(); t.join()"
    assert command_line("-p", "sealed", "--", "/usr/bin/python3", "-c", code) == Ended(0, "in a thread\n", "")
