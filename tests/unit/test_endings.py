"""Endings: which limit has ended a program, and which variables are told; nothing else is."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Final

from sandbox.caller import Caller
from sandbox.cgroups import times_out_of_memory
from sandbox.endings import is_searched, of_memory, of_signal, of_time, of_variables
from sandbox.limits import Delegated, Limits
from sandbox.profile import Environment, Profile
from sandbox.refusals import Refusal

LIMITED: Final = Profile(
    name="limited", limits=Limits(memory=1 << 20, cpu_time=3, file_size=1 << 10, timeout=1500)
)  # fmt: skip
CALLER: Final = Caller({}, "/project", "/home/me", "/run/user/1000", "/tmp", 1)


def line(refusal: Refusal | None) -> str | None:
    return None if refusal is None else refusal.line


def test_limits_that_end_a_program_name_their_line_and_without_them_nobody_is_told() -> None:
    free = Profile(name="free")
    for ended_by, told in ((signal.SIGXCPU, 'limits.cpu_time = "6s"'), (signal.SIGXFSZ, 'limits.file_size = "2K"')):
        assert line(of_signal(LIMITED, "/bin/x", 7, ended_by)) == told
        assert of_signal(free, "/bin/x", 7, ended_by) is None
    others: tuple[int, ...] = (signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM, 34, 64)
    for number in others:  # real-time ones have no name
        assert of_signal(LIMITED, "/bin/x", 7, number) is None
    assert line(of_signal(free, "/bin/x", 7, signal.SIGSYS)) == ""
    assert line(of_memory(LIMITED, "/bin/x", 7)) == 'limits.memory = "2M"'
    assert line(of_time(LIMITED, "x")) == 'limits.timeout = "3s"'
    assert (of_memory(free, "/bin/x", 7), of_time(free, "x")) == (None, None)


def variables(
    environ: dict[str, str], *said: set[str], keep: tuple[str, ...] = (), program: str = "tool"
) -> str | None:
    profile = Profile(name="p", environment=Environment(keep=keep, set=(("SET", "1"),)))
    return line(of_variables(profile, replace(CALLER, environ=environ), program, said))


def test_variables_that_the_command_line_names_are_told_before_those_of_programs() -> None:
    environ = dict.fromkeys(("A_B", "C_D", "KEPT", "KEEP_IT", "SET", "PWD", "EDITOR"), "value")
    assert variables(environ, {"A_B"}, {"C_D"}) == 'environment.keep = ["A_B"]'
    assert variables(environ, set(), {"C_D"}) == 'environment.keep = ["C_D"]'
    assert variables(environ, {"A_B", "KEPT", "KEEP_IT"}, keep=("KEPT", "KEEP_*")) == 'environment.keep = ["A_B"]'
    assert variables(environ, {"SET", "PWD"}, {"SET", "PWD", "EDITOR"}) is None
    assert variables(environ, {"EDITOR"}) == 'environment.keep = ["EDITOR"]', "a script that names it means it"
    assert variables(environ, {"NOT_THERE"}) is None


def test_variables_of_the_programs_own_name_come_first() -> None:
    environ = dict.fromkeys(("A1", "A2", "A3", "A4", "A5", "MY_TOOL_HOME"), "value")
    told = variables(environ, set(environ), program="/opt/my-tool.py")
    assert told == 'environment.keep = ["MY_TOOL_HOME", "A1", "A2", "A3", "A4"]'


def test_shells_are_not_searched() -> None:
    assert [is_searched(path) for path in ("/usr/bin/dash", "/bin/bash", "/usr/bin/git")] == [False, False, True]


def test_ends_for_want_of_memory_are_counted_where_the_kernel_tells(tmp_path: Path) -> None:
    delegated = Delegated(str(tmp_path), frozenset({"memory"}))
    assert times_out_of_memory(delegated) == times_out_of_memory(None) == 0
    (tmp_path / "memory.events").write_text("low 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n")
    assert times_out_of_memory(delegated) == 2
