"""`sandbox run` as a user meets it: what the command gets, what is told, and what is left of us."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Run: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]


def test_run_options_after_the_command_belong_to_it(sandbox: Run) -> None:
    wanted = "--help -p x --\n"
    assert sandbox("run", "echo", "--help", "-p", "x", "--").stdout == wanted
    assert sandbox("run", "--", "echo", "--help", "-p", "x", "--").stdout == wanted
    assert sandbox("run", "-p", "untrusted", "printf", "%s\n", "--").stdout == "--\n"
    assert sandbox("run", "--", "--").returncode == 127


@pytest.mark.parametrize("code", [0, 1, 3, 124, 125, 126, 127, 128, 255])
def test_run_exits_as_the_command_did(sandbox: Run, code: int) -> None:
    done = sandbox("run", "sh", "-c", f"exit {code}")
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGABRT])
def test_run_death_by_signal_is_128_and_its_number(sandbox: Run, number: int) -> None:
    assert sandbox("run", "sh", "-c", f"kill -{number} $$").returncode == 128 + number


def test_run_becomes_the_launcher_with_the_same_pid_and_no_python(
    sandbox_command: Sequence[str], environment: Mapping[str, str]
) -> None:
    process = subprocess.Popen(
        [*sandbox_command, "run", "sh", "-c", "echo $PPID; read x"],  # its parent is the sandbox's init
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(environment),
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    assert Path(f"/proc/{process.pid}/comm").read_text() == "sandbox-launch\n"
    if os.geteuid() == 0:  # the launcher lets nobody else look into it
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        files = {line.split()[5] for line in maps.splitlines() if "/" in line}
        assert {os.path.basename(file) for file in files} <= {"sandbox-launch", "sandbox", "memfd:plan", "zero"}
    tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(tasks) == 1
    process.communicate("\n")
    assert process.returncode == 0


def test_run_from_another_directory_takes_relative_paths_from_there(sandbox: Run, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("content\n")
    (tmp_path / "mine.toml").write_text('extends = ["sealed"]\n')
    command = ("run", "-p", "./mine.toml", "--grant", "data=file:data", "cat", "/dev/fd/{fd:data}")
    done = sandbox(*command, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("content\n", "")
    assert sandbox(*command, cwd="/").returncode == 125


def test_run_from_a_removed_directory_needs_another(shell: Run, tmp_path: Path) -> None:
    gone = f"mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir {tmp_path}/gone"
    for profile, step in (("untrusted", "profile: /.*: filesystem.execute.*"), ("base", "usage: chdir")):
        done = shell(f"{gone}; sandbox run -p {profile} echo hello")
        assert (done.stdout, done.returncode) == ("", 125)
        assert re.fullmatch(
            f"sandbox: {step}: the working directory is gone; name one: --chdir /", done.stderr.splitlines()[-1]
        )
    done = shell(f"{gone}; sandbox run --chdir / pwd")
    assert (done.stdout, done.returncode) == ("/\n", 0)


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1", "0 1 2"])
def test_run_with_closed_standard_streams_gives_the_null_device(shell: Run, tmp_path: Path, closed: str) -> None:
    out = tmp_path / "out"
    redirections = " ".join(f"{fd}>&-" for fd in closed.split())
    script = f"for n in 0 1 2 3 4; do readlink /proc/self/fd/$n; done >{out}; true"
    assert shell(f"sandbox run --write {tmp_path} sh -c '{script}' </etc/hosts {redirections}").returncode == 0
    lines = out.read_text().splitlines()
    nulls = [line for line in lines if line == "/dev/null"]
    # readlink's own 1 is `out`; the loop's descriptor is the only other one.
    assert len(nulls) == len(set(closed.split()) - {"1"})


def test_run_environment_is_the_callers_as_kept(sandbox: Run) -> None:
    keep = {"LANG": "C", "LC_TIME": "C", "TERM": "dumb"}
    names = sandbox("run", "env", extra_env={**keep, "SECRET": "x"}).stdout.splitlines()
    assert {f"{name}={value}" for name, value in keep.items()} <= set(names)
    assert not [name for name in names if name.startswith(("SECRET", "PYTHON"))]


def test_run_environment_lacks_what_python_adds(sandbox: Run) -> None:
    # PEP 538: with the C locale the interpreter sets LC_CTYPE in its environment, and the profile keeps LC_*.
    assert "LC_CTYPE" not in sandbox("run", "env").stdout
    assert "LC_CTYPE=C.UTF-8\n" in sandbox("run", "env", extra_env={"LC_CTYPE": "C.UTF-8"}).stdout


def test_run_env_option_sets_and_keeps(sandbox: Run) -> None:
    extra = {"KEPT": "from the caller", "OTHER": "x"}
    done = sandbox("run", "--env", "SET=a=b", "--env", "KEPT", "--env", "EMPTY=", "env", extra_env=extra)
    assert {"SET=a=b", "KEPT=from the caller", "EMPTY="} <= set(done.stdout.splitlines())
    assert "OTHER" not in done.stdout


def test_run_environment_that_is_no_text_is_kept(shell: Run) -> None:
    done = shell(r"A=$'\xff' sandbox run --env A sh -c 'printf %s $A | od -An -tx1'")
    assert done.stdout.split() == ["ff"]


def test_run_chdir(sandbox: Run, tmp_path: Path) -> None:
    assert sandbox("run", "--chdir", str(tmp_path), "pwd").stdout == f"{tmp_path}\n"
    assert sandbox("run", "--chdir", ".", "pwd", cwd=tmp_path).stdout == f"{tmp_path}\n"


def test_run_number_of_a_grant_is_told_in_arguments_and_environment(sandbox: Run, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    done = sandbox(
        "run", "--grant", f"a-b=file:{tmp_path / 'f'}", "--grant", f"c@200=file:{tmp_path / 'f'}",
        "sh", "-c", 'echo "$0 $1 $SANDBOX_FD_A_B $SANDBOX_FD_C"', "{fd:a-b}", "x{fd:c}y",
    )  # fmt: skip
    assert done.stdout == "3 x200y 3 200\n"


def test_run_verbose_tells_what_is_closed_and_granted(shell: Run, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    done = shell(
        f"exec 7</etc/hosts 8>{tmp_path}/out 9</; sandbox run -v --grant out=inherit:8 --grant f=file:{tmp_path}/f true"
    )
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert "sandbox: descriptor 0: /dev/null (read-write): kept" in lines
    assert "sandbox: descriptor 7: /etc/hosts (read): closed" in lines
    assert f"sandbox: descriptor 8: {tmp_path}/out (write): granted as 3 (grant out: descriptor 8)" in lines
    assert "sandbox: descriptor 9: / (directory): closed" in lines
    assert f"sandbox: opened by the launcher: granted as 4 (grant f: file {tmp_path}/f)" in lines


def test_run_verbose_with_closed_stream_and_many_descriptors(shell: Run) -> None:
    done = shell('for n in {10..99}; do eval "exec $n</etc/hosts"; done; sandbox run -v true <&-')
    lines = done.stderr.splitlines()
    assert lines[0] == "sandbox: descriptor 0: closed: /dev/null instead"
    assert len([line for line in lines if line.endswith("(read): closed")]) == 32
    assert lines[-1] == "sandbox: descriptors 42 to 99: 58 more: closed"


def test_run_verbose_tells_the_truth(shell: Run) -> None:
    done = shell("exec 7</etc/hosts; sandbox run -v ls /proc/self/fd; sandbox run ls /proc/self/fd | wc -l")
    assert "descriptor 7: /etc/hosts (read): closed" in done.stderr
    assert done.stdout.split() == ["0", "1", "2", "3", "4"]


def test_run_dry_run_prints_the_plan(sandbox: Run) -> None:
    done = sandbox("run", "--dry-run", "--grant", "hosts=file:/etc/hosts", "cat", "/dev/fd/{fd:hosts}")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    steps = [line.split()[0] for line in lines]
    ours = (
        "protocol",
        "stdio",
        "file",
        "place",
        "sweep",
        "verify",
        "no_new_privs",
        "gate",
        "filter",
        "command",
        "exec",
    )
    assert list(dict.fromkeys(step for step in steps if step in ours)) == list(ours)
    assert "protocol        dev-fd: /dev/fd/" in lines
    assert "file            slot 0: open '/etc/hosts' for read" in lines
    assert "place           slot 0 becomes descriptor 3" in lines
    assert lines[-1] == "exec            with arguments 'cat' '/dev/fd/3'"


def test_run_status_lines_are_json(shell: Run) -> None:
    done = shell("sandbox run --status-fd 9 sh -c 'exit 7' 9>&1 >/dev/null; echo code $?")
    *records, last = done.stdout.splitlines()
    assert last == "code 7"
    started, exited = map(json.loads, records)
    assert (started["event"], exited["event"], exited["code"]) == ("started", "exited", 7)
    assert started["pid"] == exited["pid"]


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_run_status_lines_tell_each_later_exec_and_its_descriptors(shell: Run, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    script = "exec 7</etc/hosts 8</etc/passwd; (exec cat /dev/fd/8 >/dev/null); exec true"
    done = shell(f"sandbox run --status-fd 9 --grant f+propagate=file:{tmp_path}/f bash -c '{script}' 9>&1")
    assert (done.returncode, done.stderr) == (0, "")
    first, *told, last = events(done.stdout)
    assert (first["event"], last["event"]) == ("started", "exited")
    execs = [event for event in told if event["event"] == "exec"]
    assert [os.path.basename(event["program"]) for event in execs] == ["cat", "true"]
    assert {os.path.basename(event["from"]) for event in execs} == {"bash"}
    assert [event["error"] for event in execs] == [0, 0]
    assert execs[0]["pid"] != first["pid"] == execs[1]["pid"]
    rows = [
        (event["pid"] == first["pid"], event["number"], event["verdict"], event.get("rule"), event["object"])
        for event in told
        if event["event"] == "descriptor"
    ]
    grant = ("passed", "grant f: number 3", f"{tmp_path}/f")
    assert rows == [
        (False, 3, *grant), (False, 7, "closed", None, "/etc/hosts"), (False, 8, "passed", "dev-fd", "/etc/passwd"),
        (True, 3, *grant), (True, 7, "closed", None, "/etc/hosts"), (True, 8, "closed", None, "/etc/passwd"),
    ]  # fmt: skip


def test_run_status_lines_tell_an_exec_that_fails_on_its_path(shell: Run) -> None:
    done = shell("sandbox run --status-fd 9 bash -c 'exec 7</etc/hosts; exec /no/such/program' 9>&1 2>/dev/null")
    assert done.returncode == 127
    told = [(e["event"], e.get("error"), e.get("program")) for e in events(done.stdout)]
    assert told == [("started", None, None), ("exec", 2, "/no/such/program"), ("exited", None, None)]


def test_run_trace_exec_tells_what_passes_and_what_is_closed(shell: Run) -> None:
    script = "exec 7</etc/hosts; echo $$; exec cat <(echo hello)"
    done = shell(f"exec 8</etc/passwd; sandbox run --trace-exec -- bash -c '{script}'")
    inside, said = done.stdout.split()
    assert said == "hello"
    told = re.search(r"exec: (\d+) /\S+/cat\n", done.stderr)
    assert told is not None
    pid = told[1]  # told as the host has it
    assert (inside, pid != inside) == ("2", True)
    own = [line for line in done.stderr.splitlines() if line.startswith(f"sandbox: exec: {pid}")]
    wanted = [
        rf"sandbox: exec: {pid} /\S+/cat",
        rf"sandbox: exec: {pid}:   7 closed -> /etc/hosts",
        rf"sandbox: exec: {pid}:   63 passed \(dev-fd\) -> pipe:\[\d+\]",
    ]
    assert len(own) == len(wanted)
    assert all(map(re.fullmatch, wanted, own)), own


def test_run_trace_exec_tells_the_reason_of_an_exec_that_is_answered(sandbox: Run) -> None:
    done = sandbox("run", "--trace-exec", "sh", "-c", "exec /no/such/program")
    assert done.returncode == 127
    assert re.match(r"sandbox: exec: \d+ /no/such/program: No such file or directory\n", done.stderr), done.stderr


def test_run_without_trace_exec_tells_nothing(sandbox: Run) -> None:
    done = sandbox("run", "bash", "-c", "exec 7</etc/hosts; exec cat <(echo hello)")
    assert (done.stdout, done.stderr) == ("hello\n", "")


def test_run_trace_exec_of_a_sealed_program_has_nothing_to_tell(sandbox: Run) -> None:
    done = sandbox("run", "-p", "sealed", "--trace-exec", "true")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("flag", "seen"), [("", "0 1 2 3 "), ("+propagate", "0 1 2 3 4 ")])
def test_run_grant_reaches_the_command_and_later_programs_if_it_propagates(
    sandbox: Run, tmp_path: Path, flag: str, seen: str
) -> None:
    (tmp_path / "f").write_text("text\n")
    script = "cat <&3; ls /proc/self/fd | tr '\\n' ' '"  # ls has the folder open, too
    done = sandbox("run", "--grant", f"f{flag}=file:{tmp_path}/f", "--", "sh", "-c", script)
    assert (done.stdout, done.stderr) == (f"text\n{seen}", "")


def test_run_status_line_of_a_failure_names_the_step(shell: Run) -> None:
    done = shell("sandbox run --status-fd 9 --grant x=file:/nowhere true 9>&1 2>/dev/null; echo code $?")
    record, last = done.stdout.splitlines()
    assert last == "code 125"
    failed = json.loads(record)
    assert (failed["event"], failed["step"], failed["code"]) == ("failed", "open", 125)


def test_run_status_descriptor_is_not_the_childs(shell: Run) -> None:
    done = shell("sandbox run --status-fd 9 sh -c 'echo x >&9' 9>/dev/null; sandbox run sh -c 'echo x >&2'")
    assert "Bad file descriptor" in done.stderr or "I/O error" in done.stderr


def test_run_reads_the_callers_standard_input(shell: Run) -> None:
    assert shell("printf 'b\\na\\n' | sandbox run sort | sandbox run head -1").stdout == "a\n"


def test_run_on_a_terminal_keeps_it(sandbox_command: Sequence[str], environment: Mapping[str, str]) -> None:
    main, side = pty.openpty()
    process = subprocess.Popen(
        [*sandbox_command, "run", "sh", "-c", "tty -s && echo terminal"],
        stdin=side, stdout=side, stderr=side, env=dict(environment),
    )  # fmt: skip
    os.close(side)
    assert process.wait(60) == 0
    assert os.read(main, 100) == b"terminal\r\n"
    os.close(main)


def living(word: str) -> list[str]:
    """Return the processes, dead ones left out, that have this argument."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word.encode() in file.read_bytes().split(b"\0"):
                found.append(file.parent.name)
    return found


@pytest.mark.parametrize("moment", [*range(0, 200, 20), None])
def test_run_terminated_at_any_moment_leaves_no_child(
    sandbox_command: Sequence[str], environment: Mapping[str, str], moment: int | None
) -> None:
    word = f"60.{os.getpid()}{moment or 999}"
    process = subprocess.Popen([*sandbox_command, "run", "sleep", word], env=dict(environment), stderr=subprocess.PIPE)
    if moment is None:
        deadline = time.monotonic() + 30
        while not set(living(word)) - {str(process.pid)}:  # the launcher may have the words of the command as well
            assert time.monotonic() < deadline
            time.sleep(0.01)
    else:
        time.sleep(moment / 1000)
    process.kill()
    process.communicate(timeout=30)
    deadline = time.monotonic() + 30
    while living(word) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert living(word) == []


def test_run_as_an_ordinary_user(ordinary_user: tuple[tuple[str, ...], Path]) -> None:
    command, home = ordinary_user

    def run(*arguments: str, cwd: Path = Path("/usr")) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "HOME": str(home)}
        return subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=cwd, env=env, check=False)

    profiles = home / ".config/sandbox/profiles"
    script = f"mkdir -p {profiles}; echo 'extends = [\"untrusted\"]' >{profiles}/own.toml; id -u"
    refused = run("run", "sh", "-c", script, cwd=home)
    assert refused.returncode == 125
    assert "which would show all of your home folder; change into a project's folder" in refused.stderr
    done = run("run", "--write", ".", "sh", "-c", script, cwd=home)
    assert (done.stdout, done.stderr) == (f"{os.geteuid() or 65534}\n", "")
    assert run("run", "-p", "own", "echo", "hello").stdout == "hello\n"
    assert run("profiles", "list").stdout.startswith("own ")
    assert run("probe").returncode == 0
    assert run("explain", "-p", "sealed").returncode == 0
    refused = run("run", "--grant", "s=file:/etc/shadow", "true")
    assert refused.returncode == (125 if os.geteuid() == 0 else refused.returncode)
    assert "grant s: file /etc/shadow: Permission denied" in refused.stderr
    # Nothing that a set-uid file would give.
    assert run("run", "grep", "NoNewPrivs", "/proc/self/status").stdout.split() == ["NoNewPrivs:", "1"]
