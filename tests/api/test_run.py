"""sandbox.run and sandbox.Popen: the manner of subprocess, its exceptions, and that nothing is left behind."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox import FdType, FileGrant, InheritGrant, SecretGrant


def open_descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the folder's own
    return found


def children() -> list[str]:
    """Return pid and state of each child of this process, zombies included."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid():
            found.append(f"{name} {fields[0]}")
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    gc.collect()
    before, processes = open_descriptors(), children()
    yield
    gc.collect()
    assert open_descriptors() == before
    assert children() == processes


def sh(script: str, **options: Any) -> subprocess.CompletedProcess[Any]:  # noqa: ANN401
    return sandbox.run(["sh", "-c", script], **{"capture_output": True, "text": True} | options)


def test_run_captures_output_and_code() -> None:
    done = sh("echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)
    assert done.args == ["sh", "-c", "echo out; echo err >&2; exit 3"]


def test_run_gives_input_as_text_and_as_bytes() -> None:
    assert sandbox.run(["cat"], input="ä\n", stdout=subprocess.PIPE, text=True).stdout == "ä\n"
    assert sandbox.run(["cat"], input=b"\0\xff", stdout=subprocess.PIPE).stdout == b"\0\xff"
    assert sandbox.run(["cat"], input="ä", stdout=subprocess.PIPE, encoding="latin-1").stdout == "ä"


def test_run_large_input_and_output_pass_at_once() -> None:
    data = os.urandom(1 << 20)
    assert sandbox.run(["cat"], input=data, capture_output=True).stdout == data


def test_run_command_takes_bytes_and_paths() -> None:
    assert sandbox.run([Path("/bin/echo"), b"\xff"], capture_output=True).stdout == b"\xff\n"


@pytest.mark.parametrize("command", ["ls", b"ls", [], ()])
def test_run_command_that_is_no_list_is_refused(command: Any) -> None:  # noqa: ANN401 - wrong types on purpose
    with pytest.raises(sandbox.UsageError, match="a command is a list"):
        sandbox.run(command)


def test_run_check_raises_as_subprocess_does() -> None:
    assert sh("exit 0", check=True).returncode == 0
    with pytest.raises(subprocess.CalledProcessError) as caught:
        sh("echo out; exit 3", check=True)
    assert (caught.value.returncode, caught.value.stdout) == (3, "out\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGUSR1])
def test_run_returncode_is_negative_for_a_signal(number: int) -> None:
    assert sh(f"kill -{number} $$").returncode == -number


@pytest.mark.parametrize("code", [125, 126, 127, 128, 130, 137, 255])
def test_run_returncode_of_the_command_is_told_from_ours(code: int) -> None:
    assert sh(f"exit {code}").returncode == code


def test_run_contradicting_streams_are_refused() -> None:
    with pytest.raises(ValueError, match="stdin and input"):
        sandbox.run(["true"], input="", stdin=subprocess.PIPE)
    with pytest.raises(ValueError, match="capture_output"):
        sandbox.run(["true"], capture_output=True, stdout=subprocess.PIPE)


def test_run_missing_command_is_a_file_not_found_error() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        sandbox.run(["no-such-program"])
    assert isinstance(caught.value, sandbox.CommandNotFoundError)
    assert (caught.value.exit_code, caught.value.step, caught.value.object) == (127, "exec", "no-such-program")


def test_run_command_that_cannot_be_executed_is_a_permission_error() -> None:
    with pytest.raises(PermissionError) as caught:
        sandbox.run(["/etc/passwd"])
    assert isinstance(caught.value, sandbox.CommandNotExecutableError)
    assert caught.value.exit_code == 126


def test_run_bad_folder_profile_and_grant_are_named() -> None:
    with pytest.raises(sandbox.LaunchError, match="view: /nowhere: No such file"):
        sandbox.run(["true"], cwd="/nowhere")
    with pytest.raises(sandbox.ProfileError, match="did you mean 'untrusted'"):
        sandbox.run(["true"], profile="untrustd")
    with pytest.raises(sandbox.LaunchError, match="open: grant data: file /nowhere: No such file"):
        sandbox.run(["true"], grants=["data=file:/nowhere"])
    with pytest.raises(sandbox.GrantError, match="data"):
        sandbox.run(["true"], grants=["data=file"])


def test_run_errors_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError):
        sandbox.run(["no-such-program"])
    assert capfd.readouterr() == ("", "")


def test_run_timeout_kills_and_keeps_what_was_read() -> None:
    start = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        sh("echo early; sleep 60", timeout=1)
    assert time.monotonic() - start < 20
    assert caught.value.stdout == b"early\n"
    assert caught.value.cmd == ["sh", "-c", "echo early; sleep 60"]


def test_run_timeout_does_not_wait_for_programs_left_behind() -> None:
    start = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        sh("sleep 20 & sleep 20", timeout=0.5)
    assert time.monotonic() - start < 10


def test_run_environment_is_what_the_profile_keeps_and_env_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("LANG", "C.UTF-8")
    done = sh("env", env={"GIVEN": "a=b"})
    names = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert names["GIVEN"] == "a=b"
    assert names["LANG"] == "C.UTF-8"
    assert "SECRET_TOKEN" not in names


def test_run_cwd_is_the_childs(tmp_path: Path) -> None:
    assert sh("pwd", cwd=tmp_path).stdout == f"{tmp_path}\n"
    assert sh("pwd").stdout == f"{os.getcwd()}\n"


def test_run_profile_as_value_name_and_path(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('extends = ["untrusted"]\n[environment.set]\nA = "1"\n')
    assert sh("echo $A", profile=str(mine)).stdout == "1\n"
    loaded = sandbox.load("sealed", search=sandbox.default_search_path(os.environ))
    assert sandbox.run(["echo", "hello"], profile=loaded, capture_output=True).stdout == b"hello\n"
    assert sh("exec true", profile="sealed").returncode == 126
    assert sh("exec true", profile="untrusted").returncode == 0


# ---- grants


def test_run_file_grants_read_and_append(tmp_path: Path) -> None:
    data, log = tmp_path / "data", tmp_path / "log"
    data.write_text("content\n")
    log.write_text("first\n")
    grants = [FileGrant(name="data", file=str(data)), f"log@9=file:{log}:append"]
    done = sh('cat <&"$SANDBOX_FD_DATA"; echo second >&9; echo x >&3', grants=grants)
    assert (done.stdout, data.read_text()) == ("content\n", "content\n")
    assert "I/O error" in done.stderr
    assert log.read_text() == "first\nsecond\n"


def test_run_secret_comes_by_descriptor_and_leaves_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cret")
    grants = [SecretGrant(name="token", secret="env:TOKEN")]
    done = sh('cat <&"$SANDBOX_FD_TOKEN"; env | grep -c s3cret', grants=grants)
    assert done.stdout == "s3cret0\n"
    assert os.environ["TOKEN"] == "s3cret"


def test_run_inherited_descriptor_stays_the_callers(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w+") as file:
        grants = [InheritGrant(name="out", inherit=file.fileno(), type=FdType.FILE)]
        assert sh("echo hello >&3", grants=grants).returncode == 0
        assert not os.get_inheritable(file.fileno())
        assert os.pread(file.fileno(), 100, 0) == b"hello\n"


def test_run_inherited_swap_of_numbers(tmp_path: Path) -> None:
    with open(tmp_path / "a", "w+") as a, open(tmp_path / "b", "w+") as b:
        one, two = a.fileno(), b.fileno()
        grants = [f"one@{two}=inherit:{one}", f"two@{one}=inherit:{two}"]
        script = f"echo one >&{two}; echo two >&{one}"
        assert sandbox.run(["bash", "-c", script], grants=grants).returncode == 0
        assert (os.pread(one, 9, 0), os.pread(two, 9, 0)) == (b"one\n", b"two\n")


def test_run_inherited_socket_and_pipe_work() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        script = 'echo from-child >&"$SANDBOX_FD_S"; read line <&"$SANDBOX_FD_S"; echo "$line"'
        ours.send(b"to-child\n")
        done = sh(script, grants=[f"s=inherit:{theirs.fileno()}:socket"])
        assert (done.stdout, ours.recv(100)) == ("to-child\n", b"from-child\n")


def test_run_inherited_standard_stream_is_this_processs_own() -> None:
    read_end, write_end = os.pipe()
    keep = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    try:
        os.dup2(read_end, 0)
        os.write(write_end, b"mine\n")
        os.close(write_end)
        done = sh("cat <&3; cat", grants=["mine=inherit:0:pipe"], input="the child's\n")
        assert done.stdout == "mine\nthe child's\n"
    finally:
        os.dup2(keep, 0)
        os.close(keep)
        os.close(read_end)


def test_run_inherit_of_closed_number_is_named_and_never_taken_for_our_own() -> None:
    # The lowest free numbers are those that our own pipe and plan would get.
    closed = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(closed)
    for number in range(closed, closed + 8):
        with pytest.raises(sandbox.LaunchError, match=f"grant x: descriptor {number}: Bad file descriptor"):
            sh("true", grants=[f"x=inherit:{number}"])


@pytest.mark.parametrize(
    ("open_it", "fd_type"),
    [
        (lambda: os.open("/", os.O_RDONLY), "directory"),
        (lambda: os.open("/etc/hosts", os.O_PATH), "path"),
        (lambda: os.pidfd_open(os.getpid()), "pidfd"),
    ],
)
def test_run_inherit_of_an_unusual_type_must_be_asked_for(open_it: Callable[[], int], fd_type: str) -> None:
    fd = open_it()
    try:
        with pytest.raises(sandbox.LaunchError, match=f"grant x: .*another type: {fd_type}"):
            sh("true", grants=[f"x=inherit:{fd}"])
        raw = ",raw" if fd_type == "directory" else ""
        assert sh("true", grants=[f"x=inherit:{fd}:{fd_type}{raw}"]).returncode == 0
    finally:
        os.close(fd)


def test_run_inherit_twice_of_a_standard_stream_is_refused() -> None:
    with pytest.raises(sandbox.GrantError, match="used twice"):
        sh("true", grants=["a=inherit:2", "b=inherit:2"])


def test_run_child_holds_streams_and_grants_only(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    extra = [os.open("/etc/hosts", os.O_RDONLY) for _ in range(20)]
    ls = ["ls", "/proc/self/fd"]
    options: dict[str, Any] = {"capture_output": True, "text": True}
    try:
        for fd in extra:
            os.set_inheritable(fd, True)
        done = sandbox.run(ls, grants=[f"f=file:{tmp_path / 'f'}"], **options)
        below = [sh("ls /proc/self/fd; :", grants=[f"f{flag}=file:{tmp_path / 'f'}"]) for flag in ("", "+propagate")]
    finally:
        for fd in extra:
            os.close(fd)
    # The grant is 3, and ls opens the folder as the next number.
    assert done.stdout.split() == ["0", "1", "2", "3", "4"]
    # What the shell starts does not get the grant, unless it propagates.
    assert [each.stdout.split() for each in below] == [["0", "1", "2", "3"], ["0", "1", "2", "3", "4"]]


def test_run_grant_as_value_propagates_if_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("text\n")
    for propagate, wanted in ((False, 1), (True, 0)):
        grant = FileGrant(name="f", file=str(tmp_path / "f"), propagate=propagate)
        assert sh("exec sh -c 'readlink /proc/$$/fd/3 >/dev/null'", grants=[grant]).returncode == wanted


# ---- Popen


def test_popen_pipes_poll_and_wait() -> None:
    with sandbox.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert (process.poll(), process.returncode) == (None, None)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("line\n")
        process.stdin.close()
        assert process.stdout.read() == "line\n"
        assert process.wait(timeout=30) == 0
        assert process.poll() == process.returncode == 0
    started, exited = process.events
    assert isinstance(started, sandbox.Started)
    assert isinstance(exited, sandbox.Exited)
    assert started.pid == exited.pid == process.child_pid != process.pid
    assert started.time_ns <= exited.time_ns


def test_popen_wait_timeout_leaves_the_child_running() -> None:
    with sandbox.Popen(["sleep", "60"]) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
        assert process.poll() is None
        process.terminate()
        assert process.wait(timeout=30) == -signal.SIGTERM


def test_popen_communicate_after_timeout_goes_on() -> None:
    with sandbox.Popen(
        ["sh", "-c", "cat; sleep 1; echo late"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            process.communicate(b"early\n", timeout=0.2)
        assert caught.value.cmd == process.args
        assert process.communicate() == (b"early\nlate\n", None)
    assert process.returncode == 0


def test_popen_signals_reach_the_child() -> None:
    script = 'trap "echo usr1; exit 7" USR1; echo ready; while :; do sleep 0.05; done'
    with sandbox.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.communicate(timeout=30)[0] == "usr1\n"
    assert process.returncode == 7


def test_popen_kill_ends_launcher_and_child() -> None:
    with sandbox.Popen(["sleep", "60"]) as process:
        child = os.pidfd_open(process.child_pid)
        process.kill()
        assert process.wait(timeout=30) == -signal.SIGKILL
        process.kill()  # after the end: no error, as in subprocess
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            signal.pidfd_send_signal(child, 0)
        except ProcessLookupError:
            break
        time.sleep(0.01)
    else:
        pytest.fail("the child is alive")
    os.close(child)


def test_popen_constructor_returns_when_exec_succeeded() -> None:
    with sandbox.Popen(["sleep", "60"]) as process:
        assert Path(f"/proc/{process.child_pid}/comm").read_text() == "sleep\n"
        assert Path(f"/proc/{process.pid}/comm").read_text() == "sandbox-launch\n"
        process.kill()


def test_popen_stdout_and_stderr_together() -> None:
    with sandbox.Popen(["sh", "-c", "echo a; echo b >&2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.communicate() == (b"a\nb\n", None)


def test_popen_without_wait_warns_and_closes_its_descriptor() -> None:
    process = sandbox.Popen(["true"])
    inner = process._process
    with pytest.warns(ResourceWarning):  # noqa: PT031 - the object dies by one, and if it is in a cycle by the other
        del process
        gc.collect()
    inner.wait()


def test_popen_wait_from_many_threads_gives_one_answer() -> None:
    with sandbox.Popen(["sh", "-c", "sleep 0.3; exit 5"]) as process, ThreadPoolExecutor(8) as pool:
        assert {future.result() for future in [pool.submit(process.wait) for _ in range(8)]} == {5}


# ---- many at once, failures, odd callers


def test_run_many_at_once_in_threads_mixes_nothing_up(tmp_path: Path) -> None:
    def launch(index: int) -> tuple[str, str]:
        file = tmp_path / str(index)
        file.write_text(f"file {index}\n")
        done = sh(f'echo out {index}; cat <&"$SANDBOX_FD_F"; ls /proc/self/fd | wc -l', grants=[f"f=file:{file}"])
        return done.stdout, f"out {index}\nfile {index}\n4\n"

    with ThreadPoolExecutor(8) as pool:
        for got, wanted in pool.map(launch, range(100)):
            assert got == wanted


def test_run_failures_in_threads_leave_nothing() -> None:
    commands: list[tuple[list[str], list[str]]] = [
        (["no-such-program"], []),
        (["/etc/passwd"], []),
        (["true"], ["x=file:/nowhere"]),
        (["true"], ["x=inherit:900"]),
        (["true", "{fd:y}"], []),
    ]

    def fail(index: int) -> str:
        command, grants = commands[index % len(commands)]
        with pytest.raises(sandbox.SandboxError) as caught:
            sandbox.run(command, grants=grants, capture_output=True)
        return caught.value.step

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(fail, range(100))) == {"exec", "open", "inherit", "grant"}


def test_run_interrupted_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_self: sandbox.Popen) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(sandbox.Popen, "_await_start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sandbox.run(["sleep", "60"], capture_output=True)


ODD_CALLER = """
import os, subprocess, sys
closed = [int(word) for word in sys.argv[1].split(",")]
for fd in closed:
    os.close(fd)
import sandbox
done = sandbox.run(["sh", "-c", "ls -l /proc/self/fd; cat"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
links = {line.split()[-3]: line.split()[-1] for line in done.stdout.splitlines() if "->" in line}
wanted = {"0", "1", "2", "3"}
assert set(links) == wanted, links
assert links["0"] == "/dev/null", links
done = sandbox.run(["cat"], input="x", stdout=subprocess.PIPE, text=True)
assert done.stdout == "x", done
try:
    sandbox.run(["cat"], grants=["x=inherit:0"])
except sandbox.LaunchError as error:
    assert "grant x: descriptor 0: Bad file descriptor" in str(error), error
else:
    raise SystemExit("inherited a closed stream")
assert all(not os.path.exists(f"/proc/self/fd/{fd}") for fd in closed)
os._exit(42)
"""


@pytest.mark.parametrize("closed", ["0", "0,1", "0,2", "0,1,2"])
def test_run_from_a_caller_without_standard_streams(closed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", ODD_CALLER, closed], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert done.returncode == 42, done.stderr.decode()


def test_run_from_a_thread_that_ends_before_the_child() -> None:
    started: list[sandbox.Popen] = []
    profile = sandbox.load("untrusted", search=sandbox.default_search_path(os.environ))
    thread = threading.Thread(target=lambda: started.append(sandbox.Popen(["sleep", "0.3"], profile=profile)))
    thread.start()
    thread.join()
    with started[0] as process:
        assert process.wait(timeout=30) == 0


def test_run_rules_of_the_network_are_those_of_the_command_line() -> None:
    named = ["tcp:localhost:80", "tcp:127.0.0.1:80", "tcp:[::1]:80"]  # a name leads there since rules name it, too
    done = sh("cat /etc/hosts; echo; cat /etc/resolv.conf", net_allow=named, net_bind=["tcp:8080"], dns=True)
    hosts, resolvers = done.stdout.split("\n\n")
    assert hosts.startswith("127.0.0.1 localhost\n")
    assert len(hosts.splitlines()) > 2
    assert resolvers.startswith("nameserver ")
    assert sh("cat /etc/resolv.conf", net_allow=named).stdout == ""


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"net_allow": ["tcp:*:1", "icmp:h:1"]}, sandbox.UsageError, "icmp:h:1: 'icmp' is neither tcp nor udp"),
        ({"net_bind": ["tcp:h:1"]}, sandbox.UsageError, "tcp:h:1: 'h' is no address"),
        ({"net_allow": ["tcp:localhost:1"]}, sandbox.UsageError, "host localhost is .*: this host itself"),
        ({"net": "host", "dns": True}, sandbox.ProfileError, r"network\.dns: with mode host"),
        ({"net": "host", "net_bind": ["udp:1"]}, sandbox.ProfileError, r"network\.allow_bind\[0\]: 'udp:1'"),
    ],
)
def test_run_rules_of_the_network_that_are_wrong_are_refused(
    options: dict[str, Any], error: type[sandbox.SandboxError], words: str
) -> None:
    with pytest.raises(error, match=words):
        sandbox.run(["true"], **options)


@pytest.mark.parametrize("dies", [True, False])
def test_die_with_parent_ends_with_a_killed_process(dies: bool) -> None:
    command = 'trap "echo alive; exit" USR1; echo started; for i in $(seq 300); do sleep 0.1; done; echo outlived'
    script = (
        f"import os, sandbox, sys\nsandbox.Popen(['sh', '-c', {command!r}], die_with_parent={dies})\n"
        "sys.stdin.read()\nos.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-P", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        (launcher,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        parent.stdin.close()
        assert parent.wait() == -signal.SIGKILL
        if not dies:
            os.kill(int(launcher), signal.SIGUSR1)
        assert parent.stdout.read() == ("" if dies else "alive\n")
