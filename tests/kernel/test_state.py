"""Everything that survives exec besides descriptors: signals, umask, folder, environment, limits, privileges."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.profile import Environment, Profile
from sandbox.profile_files import default_search_path, load
from tests.support.callers import SANDBOX, Ended, launch, plan_of, run, shown
from tests.support.callers import sandbox as command_line
from tests.support.probes import Probes, public_folder

UNTRUSTED = load("untrusted", search=default_search_path(os.environ))
KILL_STOP = {signal.SIGKILL, signal.SIGSTOP}


def status(text: str) -> dict[str, str]:
    """Parse /proc/PID/status."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def hostile_signals() -> None:
    for number in signal.valid_signals() - KILL_STOP:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())


def test_signals_blocked_and_ignored_by_the_caller_are_as_new() -> None:
    twin = status(run(["cat", "/proc/self/status"], setup=hostile_signals).out)
    assert int(twin["SigBlk"], 16).bit_count() > 55
    assert int(twin["SigIgn"], 16).bit_count() > 55
    for ended in (
        launch(plan_of(["cat", "/proc/self/status"]), setup=hostile_signals),
        command_line("--", "cat", "/proc/self/status", setup=hostile_signals),
    ):
        assert ended.code == 0
        found = status(ended.out)
        assert {found[key] for key in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")} == {"0" * 16}


@pytest.mark.parametrize("code", [0, 1, 77])
def test_signals_sigchld_ignored_by_the_caller_exit_code_is_right(code: int) -> None:
    assert launch(plan_of(["sh", "-c", f"exit {code}"]), setup=hostile_signals).code == code


def test_signals_pending_in_the_caller_do_not_reach_the_child() -> None:
    def pending() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())

    ended = launch(plan_of(["sh", "-c", "sleep 0.1; echo lives"]), setup=pending)
    assert ended == Ended(0, "lives\n", "")


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_umask_is_the_profiles_and_not_the_callers(mask: int) -> None:
    plan = plan_of(["sh", "-c", "umask"], umask=mask)
    assert launch(plan, setup=lambda: os.umask(0o123)).out == f"{mask:04o}\n"


def test_chdir_is_declared_or_the_callers(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    plan = plan_of(["pwd", "-P"], chdir=str(tmp_path / "folder"))
    assert launch(plan).out == f"{tmp_path.resolve()}/folder\n"
    assert launch(plan_of(["pwd", "-P"]), cwd=tmp_path).out == f"{tmp_path.resolve()}\n"
    assert command_line("--chdir", "folder", "--", "pwd", "-P", cwd=tmp_path).out == f"{tmp_path.resolve()}/folder\n"


@pytest.mark.parametrize("name", ["missing", "file"])
def test_chdir_that_fails_starts_nothing(probes: Probes, marker: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    ended = launch(plan_of([probes["mark"], marker], chdir=str(tmp_path / name)))
    reason = {"missing": "No such file or directory", "file": "Not a directory"}[name]
    assert ended == Ended(
        125, "", f"sandbox: chdir: {tmp_path}/{name}: {reason}; the folder must exist and be open to the user\n"
    )  # fmt: skip
    assert not marker.exists()


def test_chdir_to_a_swept_descriptor_is_refused(probes: Probes, marker: Path) -> None:
    """CVE-2024-21626: a folder that leaked cannot be entered through /proc, since it is gone by then."""
    plan = plan_of([probes["mark"], marker], chdir="/proc/self/fd/7")
    ended = launch(plan, before=[probes["hold"], "directory", "7", "--"])
    assert (ended.code, marker.exists()) == (125, False)


def variables(ended: Ended) -> list[str]:
    assert ended.code == 0, ended
    return ended.out.split("\0")[:-1]


def with_environment(keep: tuple[str, ...], **values: str) -> Profile:
    return replace(UNTRUSTED, environment=Environment(keep=keep, set=tuple(values.items())))


def test_environment_is_exactly_what_is_declared() -> None:
    env = {
        "PATH": "/usr/bin:/bin", "HOME": "/h", "LC_ALL": "C", "LC_TIME": "x", "LC": "no", "XLC_ALL": "no",
        "LD_PRELOAD": "no", "SECRET": "no", "A": "caller", "EMPTY": "",
    }  # fmt: skip
    plan = plan_of(["env", "-0"], profile=with_environment(("PATH", "LC_*", "A", "EMPTY", "MISSING"), A="set", B=""))
    assert sorted(variables(launch(plan, env=env))) == sorted(
        ["PATH=/usr/bin:/bin", "LC_ALL=C", "LC_TIME=x", "EMPTY=", "A=set", "B="]
    )
    assert variables(launch(plan_of(["env", "-0"], profile=with_environment(())), env=env)) == []
    everything = variables(launch(plan_of(["env", "-0"], profile=with_environment(("*",))), env=env))
    assert sorted(everything) == sorted(f"{name}={value}" for name, value in env.items())


def test_environment_hostile_entries_do_not_get_through(probes: Probes) -> None:
    """Doubles: the first counts, once; entries without a name or without '=' never pass."""
    plan = plan_of(["env", "-0"], profile=with_environment(("A*", "PATH", "A", "*"), SET="ours"))
    entries = ["A=first", "A=second", "=noname", "noequals", "", "PATH=/bin", "SET=caller", "AB=x", "SET=caller2", "="]
    ended = launch(plan, before=[probes["environ"], *entries, "--"])
    assert sorted(variables(ended)) == sorted(["A=first", "AB=x", "PATH=/bin", "SET=ours"])


def test_environment_with_ten_thousand_variables() -> None:
    env = {f"V{number}": str(number) for number in range(10_000)}
    plan = plan_of(["env", "-0"], profile=with_environment(("V*",)))
    assert sorted(variables(launch(plan, env=env))) == sorted(f"{name}={value}" for name, value in env.items())
    assert variables(launch(plan_of(["env", "-0"], profile=with_environment(("V7",))), env=env)) == ["V7=7"]


def test_environment_of_the_command_line_holds_nothing_of_the_interpreters() -> None:
    """Python sets LC_CTYPE for itself (PEP 538); the child must not see it."""
    env = {"PATH": "/usr/bin:/bin", "LD_X": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    ended = run([*SANDBOX, "run", "--", "env", "-0"], env=env)
    assert variables(ended) == ["PATH=/usr/bin:/bin"]


def test_limits_and_priority_are_the_callers() -> None:
    def caller() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (123, 4000))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 31))
        os.nice(3)
        Path("/proc/self/oom_score_adj").write_text("321")

    script = "cat /proc/self/limits /proc/self/oom_score_adj; nice"
    assert launch(plan_of(["sh", "-c", script]), setup=caller).out == run(["sh", "-c", script], setup=caller).out


def test_process_belongs_to_the_callers_session_and_group() -> None:
    script = "cut -d' ' -f5,6 /proc/self/stat"
    ended = launch(plan_of(["sh", "-c", script]))
    assert ended.out == f"{os.getpgid(0)} {os.getsid(0)}\n"


def test_no_new_privs_is_set_and_a_filter_is_loaded() -> None:
    found = status(launch(plan_of(["cat", "/proc/self/status"])).out)
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    twin = status(run(["cat", "/proc/self/status"]).out)
    assert (twin["NoNewPrivs"], twin["Seccomp"]) == ("0", "0")


def effective_uid(pid: int, program: str) -> int:
    """Return the effective user ID once the process is that program and waits: its name comes before its IDs."""
    deadline = time.monotonic() + 20
    while True:
        shown = status(Path(f"/proc/{pid}/status").read_text())
        if (shown["Name"], shown["State"][0]) == (program, "S"):
            return int(shown["Uid"].split()[1])
        assert time.monotonic() < deadline, shown
        time.sleep(0.005)


def test_set_uid_program_of_the_system_gains_nothing() -> None:
    """`su` waits for a password, and shows meanwhile who it is."""
    if os.geteuid() == 0:
        pytest.skip("needs an ordinary user: root is not raised by a set-uid program of root's")
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(["/usr/bin/su"], **streams) as twin:
        assert effective_uid(twin.pid, "su") == 0
        assert twin.stdin is not None
        twin.stdin.close()
    with sandbox.Popen(["/usr/bin/su"], **streams) as confined:
        try:
            assert effective_uid(confined.child_pid, "su") == os.geteuid()
        except FileNotFoundError:
            assert confined.wait() != 0  # it has given up before it could be looked at
        assert confined.stdin is not None
        confined.stdin.close()


def test_set_uid_program_of_another_user_gains_nothing() -> None:
    if os.geteuid():
        pytest.skip("needs root: to make a set-uid copy of a program")
    with public_folder() as folder:
        program = folder / "id"
        shutil.copy("/usr/bin/id", program)
        os.chown(program, 65533, 65533)
        program.chmod(0o6755)
        # That the file system honours the bit is what the twin shows.
        assert run([program, "-u"]).out == "65533\n"
        assert launch(plan_of([program, "-u"])).out == "0\n"
        assert launch(plan_of([program, "-g"])).out == "0\n"


def test_set_uid_launcher_refuses(launcher: Path, probes: Probes, marker: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root: to make a set-uid copy")
    with public_folder() as folder:
        copy = folder / "sandbox-launch"
        shutil.copy(launcher, copy)
        copy.chmod(0o755)
        os.chown(copy, 65533, 65533)
        assert launch(plan_of([probes["mark"], marker]), launcher=copy) == Ended(0, "", "")
        marker.unlink()
        for mode in (0o4755, 0o2755):
            copy.chmod(mode)
            ended = launch(plan_of([probes["mark"], marker]), launcher=copy)
            assert ended == Ended(
                125, "", "sandbox: start: the launcher must not be set-uid, set-gid or hold file capabilities\n"
            )  # fmt: skip
            assert not marker.exists()


def test_command_found_by_the_childs_path_and_exit_codes_of_exec(tmp_path: Path) -> None:
    plain, bad = tmp_path / "plain", tmp_path / "bad"
    plain.write_text("#!/nonexistent/interpreter\n")
    plain.chmod(0o755)
    bad.write_bytes(b"\x7fELF not really")
    bad.chmod(0o755)
    folder = tmp_path / "folder"
    folder.mkdir()
    cases = {
        "/nonexistent": (127, "exec: /nonexistent: No such file or directory"),
        "no-such-command": (127, "exec: no-such-command: No such file or directory"),
        "/etc/passwd": (126, "exec: /etc/passwd: Permission denied"),
        str(folder): (126, f"exec: {folder}: Permission denied"),
        str(plain): (126, f"exec: {plain}: the interpreter that the file names is missing"),
        str(bad): (126, f"exec: {bad}: Exec format error"),
    }
    for command, (code, words) in cases.items():
        ended = launch(plan_of([command]))
        assert (ended.code, ended.out, ended.err.count("\n")) == (code, "", 1)
        assert ended.err.startswith(f"sandbox: {words}"), ended
        with pytest.raises(FileNotFoundError if code == 127 else PermissionError):
            sandbox.run([command], stdin=subprocess.DEVNULL, **shown(command))
