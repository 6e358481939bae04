"""The supervisor: it ends as the child did, forwards each signal once, and neither outlives nor loses the other."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

import sandbox
from sandbox import Exited, Started, wire
from sandbox.plan import StatusFormat
from sandbox.probe import launcher_path
from tests.support.callers import SANDBOX, Ended, json_lines, launch, plan_of, records, run, shown, started
from tests.support.callers import sandbox as command_line
from tests.support.probes import Probes

FATAL = sorted(
    signal.valid_signals()
    - {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    - {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
)
FORWARDED = sorted(
    signal.valid_signals()
    - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGUSR2}
    - {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
)
PIPES: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(*pids: int, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.005)
    return not any(map(is_alive, pids))


def links_in(folder: Path) -> Iterator[str]:
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(folder / name)


def lines_of(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def test_exit_codes_all_of_them_are_the_childs(probes: Probes) -> None:
    plan = wire.encode(plan_of([probes["end"]]))
    assert [launch(plan, input=f"exit {code}").code for code in range(256)] == list(range(256))


@pytest.mark.parametrize("code", [0, 1, 2, 124, 125, 126, 127, 128, 255])
def test_exit_code_by_command_line_api_and_event(code: int) -> None:
    assert command_line("--", "sh", "-c", f"exit {code}") == Ended(code, "", "")
    with sandbox.Popen(["sh", "-c", f"exit {code}"]) as process:
        assert process.wait() == process.returncode == code
    begin, end = process.events
    assert isinstance(begin, Started)
    assert isinstance(end, Exited)
    assert (end.code, end.signal, end.returncode, end.pid) == (code, None, code, begin.pid)


@pytest.mark.parametrize("number", FATAL)
def test_death_by_signal_is_reported_in_each_way(probes: Probes, number: int) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    ended = launch(plan_of([probes["end"]], status=(writer, StatusFormat.JSON)), input=f"kill {number}")
    os.close(writer)
    _, event = json_lines(reader)
    os.close(reader)
    assert ended == Ended(128 + number, "", "")
    assert (event["event"], event["signal"], "code" in event) == ("exited", number, False)
    with sandbox.Popen([probes["end"]], stdin=subprocess.PIPE, text=True, **shown(probes["end"])) as process:
        process.communicate(f"kill {number}", 20)
        assert process.returncode == -number
    end = process.events[-1]
    assert isinstance(end, Exited)
    assert (end.code, end.signal) == (None, number)


def test_death_by_signal_through_the_command_line() -> None:
    assert command_line("--", "sh", "-c", "kill -TERM $$").code == 143
    assert command_line("--", "sh", "-c", "kill -KILL $$").code == 137


def test_signals_sent_to_the_launcher_arrive_once_each(probes: Probes) -> None:
    with started(plan_of([probes["catch"]]), **PIPES) as process:
        out = lines_of(process.stdout)
        assert out.readline().startswith("ready ")
        for number in FORWARDED:
            process.send_signal(number)
            assert out.readline() == f"signal {number} 0\n"
        process.send_signal(signal.SIGUSR2)
        assert out.readline() == "end 0 0\n"
        assert process.wait(20) == 0


def test_supervisor_sleeps_while_a_sandbox_comes_down(tmp_path: Path) -> None:
    """With nobody left who could exec, the gate's listener is ready for ever (POLLHUP): it must not be asked."""
    report = tmp_path / "calls"
    before: list[str | Path] = ["/usr/bin/strace", "--trace=poll,ioctl", "-o", report]  # the launcher only
    assert launch(plan_of(["true"], walls=True), before=before) == Ended(0, "", "")
    calls = report.read_text()
    assert 2 <= calls.count("poll(") < 20, calls[:4000]
    assert calls.count("NOTIF_RECV") < 5, calls[:4000]


def test_signals_that_came_with_the_launchers_start_are_not_lost() -> None:
    """The launcher dies of it, or forwards it: to a child on its way (a failed start), or to the command."""
    plan = plan_of(["sleep", "20"])
    for attempt in range(20):
        with started(plan, **PIPES) as process:
            time.sleep(0.0005 * (attempt % 8))
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) in {128 + signal.SIGTERM, -signal.SIGTERM, 125}


def test_signal_default_death_of_child_is_death_of_launcher_as_a_code() -> None:
    with sandbox.Popen(["sleep", "30"]) as process:
        process.terminate()
        assert process.wait(20) == -signal.SIGTERM


def test_kill_of_launcher_takes_the_child_along() -> None:
    with sandbox.Popen(["sleep", "30"]) as process:
        child = process.child_pid
        assert is_alive(child)
        process.kill()
        assert wait_until_gone(child)
        assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("part", range(4))
def test_kill_of_launcher_at_any_moment_leaves_nothing_behind(part: int) -> None:
    """The program that would be left over holds a pipe: its end of file says that all are gone."""
    plan = plan_of(["sleep", "1000"])
    for step in range(12):
        reader, writer = os.pipe()
        with started(plan, stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.DEVNULL) as process:
            os.close(writer)
            time.sleep(0.0002 * (part * 12 + step))
            process.kill()
            ready, _, _ = select.select([reader], [], [], 20)
            assert ready == [reader]
            assert os.read(reader, 1) == b""
        os.close(reader)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_die_with_parent_sandbox_ends_with_the_starting_process(probes: Probes) -> None:
    script = (
        "import os, subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-P', '-m', 'sandbox', 'run', '-p', sys.argv[1], '--', 'sh', '-c', "
        "'echo $$; exec sleep 1000'], stdin=subprocess.DEVNULL)\n"
        "sys.stdin.read()"
    )
    for die, expected in (("true", True), ("false", False)):
        profile = Path(probes.folder) / f"die-{die}.toml"
        profile.write_text(
            f'extends = ["untrusted"]\n[process]\ndie_with_parent = {die}\nchdir = "/usr"\n'
            '[filesystem]\nview = "host"\ntmpfs = []\n[namespaces]\nshare = ["pid"]\n'  # $$ means something to us
        )
        parent = subprocess.Popen(
            [sys.executable, "-P", "-c", script, profile], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        child = int(lines_of(parent.stdout).readline())
        launcher = parent_of(parent_of(child))
        parent.kill()
        parent.wait()
        assert wait_until_gone(child, launcher, seconds=20 if expected else 0.3) is expected
        if not expected:
            os.kill(launcher, signal.SIGKILL)
            assert wait_until_gone(child, launcher)
        for stream in (parent.stdin, parent.stdout):
            lines_of(stream).close()


@pytest.mark.parametrize("die", [True, False])
def test_thread_that_started_it_may_end(die: bool) -> None:
    """bubblewrap#692: a death signal of the parent's *thread* must not count."""
    from dataclasses import replace

    from sandbox.profile_files import default_search_path, load

    profile = load("untrusted", search=default_search_path(os.environ))
    profile = replace(profile, process=replace(profile.process, die_with_parent=die))
    made: list[sandbox.Popen] = []
    thread = threading.Thread(target=lambda: made.append(sandbox.Popen(["sleep", "0.5"], profile=profile)))
    thread.start()
    thread.join()
    with made[0] as process:
        assert process.wait(20) == 0


def test_die_with_parent_that_is_gone_already_starts_nothing(probes: Probes, marker: Path) -> None:
    for parent in (1, os.getppid(), 2**22 - 1):
        ended = launch(plan_of([probes["mark"], marker], parent=parent, die_with_parent=True))
        assert ended.code == 125
        assert ended.err.startswith(f"sandbox: parent: process {parent}: ")
        assert not marker.exists()
    assert launch(plan_of([probes["mark"], marker], die_with_parent=True)) == Ended(0, "", "")


def test_closed_output_pipe_ends_the_child_by_sigpipe() -> None:
    words = " ".join(SANDBOX)
    ended = run(["bash", "-c", f"{words} run -- yes | head -1; echo ${{PIPESTATUS[0]}}"])
    assert ended == Ended(0, "y\n141\n", "")


def test_child_that_closes_its_output_gives_the_reader_an_end_while_it_runs() -> None:
    """The supervisor holds no copy of the streams 0 and 1."""
    with started(
        plan_of(["sh", "-c", "exec <&- >&-; exec sleep 30"]), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as p:
        ready, _, _ = select.select([lines_of(p.stdout)], [], [], 20)
        assert ready
        assert lines_of(p.stdout).read() == ""
        assert p.poll() is None


def test_child_stopped_and_continued_many_times_ends_right() -> None:
    with started(plan_of(["sh", "-c", "kill -STOP $$; kill -STOP $$; kill -STOP $$; exit 5"]), **PIPES) as process:
        for _ in range(3):
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            os.kill(process.pid, signal.SIGCONT)
        assert process.wait(20) == 5


def test_grandchildren_reparented_do_not_disturb() -> None:
    assert launch(plan_of(["sh", "-c", "(sleep 0.05 &) ; exit 9"])).code == 9


def bare(links: Iterable[str]) -> list[str]:
    """Return links with sockets' numbers taken off, sorted."""
    return sorted("socket:[]" if link.startswith("socket:[") else link for link in links)


@pytest.mark.parametrize("told", [False, True])
def test_supervisor_holds_no_descriptor_but_its_own(tmp_path: Path, told: bool) -> None:
    if os.geteuid():
        pytest.skip("needs root: the supervisor's descriptors are hidden from ordinary users")
    (tmp_path / "f").write_text("")
    held = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(held, True)
    grants = [f"a=file:{tmp_path}/f:read-write", f"s=secret:{tmp_path}/f", f"i=inherit:{held}"]
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    plan = plan_of(
        ["sh", "-c", "echo; exec sleep 30"], *grants, status=(writer, StatusFormat.RECORDS) if told else None
    )
    with started(plan, **PIPES) as process:
        lines_of(process.stdout).readline()
        folder = Path(f"/proc/{process.pid}/fd")
        expected = ["/dev/null", "/dev/null", os.readlink(f"/proc/self/fd/{lines_of(process.stderr).fileno()}")]
        expected += ["anon_inode:[signalfd]", "anon_inode:seccomp notify"]
        expected += ["anon_inode:[pidfd]", "socket:[]"]  # the child, and what its init says
        expected += [os.readlink(f"/proc/self/fd/{writer}")] if told else []
        deadline = time.monotonic() + 10
        while (links := bare(links_in(folder))) != sorted(expected) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert links == sorted(expected)
    for fd in (held, reader, writer):
        os.close(fd)


def test_supervisor_is_hidden_from_an_ordinary_child() -> None:
    script = "for f in fd mem environ maps; do cat /proc/$PPID/$f 2>&1 | head -c 200; ls /proc/$PPID/fd 2>&1; done"
    ended = launch(plan_of(["sh", "-c", "cat /proc/$PPID/environ >/dev/null 2>&1 && echo seen; " + script]))
    if os.geteuid():
        assert "seen" not in ended.out
        assert "Permission denied" in ended.out
    assert "Dumpable" not in ended.err


def test_status_records_and_supervisor_agree_for_a_run_by_hand() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    plan = plan_of(["sh", "-c", "exit 3"], status=(writer, StatusFormat.RECORDS))
    assert launch(plan).code == 3
    os.close(writer)
    begin, end = records(reader, plan)
    os.close(reader)
    assert isinstance(begin, Started)
    assert isinstance(end, Exited)
    assert begin.pid == end.pid
    assert begin.time_ns <= end.time_ns
    assert end.returncode == 3


def test_launcher_replaces_the_command_line_process() -> None:
    """The pid that a service manager knows is the supervisor's, and no interpreter is left."""
    process = subprocess.Popen(
        [*SANDBOX, "run", "--", "sh", "-c", "echo $PPID; read x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert lines_of(process.stdout).readline() == "1\n"
    assert Path(f"/proc/{process.pid}/comm").read_text() == "sandbox-launch\n"
    if os.geteuid() == 0:
        assert os.readlink(f"/proc/{process.pid}/exe") == str(launcher_path())
    out, _ = process.communicate("\n", 20)
    assert (process.returncode, out) == (0, "")
