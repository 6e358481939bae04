"""A3, A4: grants that the supervisor copies, one way: nothing of the caller is behind them but the bytes that pass."""

from __future__ import annotations

import fcntl
import hashlib
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

import sandbox
from sandbox.errors import GrantError, LaunchError
from sandbox.grants import parse_grant
from sandbox.plan import Plan
from tests.support.callers import PYTHON, SANDBOX, held_open, launch, plan_of, started
from tests.support.callers import sandbox as command_line
from tests.support.processes import wait_for_descendants

# What undoes O_APPEND on a file's own descriptor, and then overwrites its first byte.
UNDO: Final = "import fcntl, os; fcntl.fcntl(3, fcntl.F_SETFL, 0); os.write(3, b'X')"


def python(program: str, *grants: str, **options: Any) -> subprocess.CompletedProcess[bytes]:  # noqa: ANN401
    options = {"capture_output": True, "stdin": subprocess.DEVNULL, **options}
    return sandbox.run([PYTHON, "-S", "-c", program], grants=grants, **options)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Yield both ends; whoever closes one says so by setting it to nothing."""
    with ExitStack() as stack:
        ends = os.pipe()
        for end in ends:
            stack.callback(close_if_open, end)
        yield ends


def close_if_open(fd: int) -> None:
    with suppress(OSError):
        os.close(fd)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("0123456789")
    return path


# Append


@pytest.mark.parametrize("inherited", [False, True])
def test_append_cannot_be_undone_and_raw_can(file: Path, inherited: bool) -> None:
    for words, after in (("append", "0123456789XX"), ("append,raw", "X123456789")):
        file.write_text("0123456789")
        with held_open(file, os.O_WRONLY | os.O_APPEND) as fd:
            grant = f"log=inherit:{fd}:{words}" if inherited else f"log=file:{file}:{words}"
            done = python(f"{UNDO} if {'raw' in words} else os.write(3, b'X')", grant)
            assert (done.returncode, done.stderr) == (0, b"")
            if "raw" not in words:
                undone = python("import fcntl, os; print(fcntl.fcntl(3, fcntl.F_GETFL) & os.O_APPEND)\n" + UNDO, grant)
                assert undone.stdout == b"0\n"
        assert file.read_text() == after


def test_file_that_is_inherited_for_appending_only_is_relayed_whatever_is_said_of_it(file: Path) -> None:
    tell = "import os, stat; print(stat.S_ISFIFO(os.fstat(3).st_mode))"
    for flags, relayed in ((os.O_WRONLY | os.O_APPEND, b"True\n"), (os.O_WRONLY, b"False\n"), (os.O_RDWR, b"False\n")):
        with held_open(file, flags) as fd:
            assert python(tell, f"log=inherit:{fd}").stdout == relayed
    with held_open(file, os.O_WRONLY | os.O_APPEND) as fd:
        file.unlink()  # opened anew it cannot be; it is not
        assert python(tell, f"log=inherit:{fd}").stdout == b"True\n"


def test_append_makes_and_empties_a_file_first(tmp_path: Path, file: Path) -> None:
    script = "echo more >&3; echo new >&4"
    grants = (f"a=file:{file}:append,truncate", f"b=file:{tmp_path}/new:append,create")
    assert sandbox.run(["sh", "-c", script], grants=grants).returncode == 0
    assert (file.read_text(), (tmp_path / "new").read_text()) == ("more\n", "new\n")


def test_append_by_its_name_and_in_every_program_that_it_passes_to(file: Path) -> None:
    script = "sh -c 'echo one >&3'; echo two >/dev/fd/3; echo three >>/dev/fd/3"
    assert sandbox.run(["sh", "-c", script], grants=[f"log+propagate=file:{file}:append"]).returncode == 0
    assert file.read_text() == "0123456789one\ntwo\nthree\n"


# Relay


def test_pipe_that_is_relayed_is_not_the_callers() -> None:
    program = "import os; print(os.fstat(3).st_ino); os.set_blocking(3, False)"
    for words, own in ((":relay", False), ("", True)):
        with pipe() as (reader, _):
            os.set_blocking(reader, True)
            done = python(program, f"g=inherit:{reader}{words}")
            assert (int(done.stdout) == os.fstat(reader).st_ino) is own
            assert os.get_blocking(reader) is not own


def test_relay_goes_one_way_and_its_twin_both() -> None:
    """A socket is open both ways, a pipe can be opened the other way: what is relayed is neither."""
    back = "import os; os.write(os.open('/proc/self/fd/3', os.O_WRONLY), b'back'); "
    for words, came in ((":relay", b""), ("", b"back")):
        with pipe() as (reader, writer):
            assert python(back, f"g=inherit:{reader}{words}").returncode == 0
            os.close(writer)
            assert os.read(reader, 9) == came
    answer = "import os\ntry: os.write(3, b'back')\nexcept OSError as error: print(error.errno)"
    for words, came in ((":read,relay", b""), ("", b"back")):
        ours, theirs = socket.socketpair()
        with ours:
            python(answer, f"g=inherit:{theirs.fileno()}{words}")
            theirs.close()
            assert ours.recv(9) == came


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_megabytes_pass_whole_both_ways_and_the_end_with_them(kind: str) -> None:
    given, result = os.urandom(5_000_001), []
    with ExitStack() as stack:
        if kind == "pipe":
            (source, feed), (drain, sink) = os.pipe(), os.pipe()
        else:
            pairs = [socket.socketpair() for _ in range(2)]
            (source, feed), (drain, sink) = ((left.detach(), right.detach()) for left, right in pairs)
        for end in (source, feed, drain, sink):
            stack.callback(close_if_open, end)
        grants = [f"in=inherit:{source}:read,relay", f"out=inherit:{sink}:write,relay"]
        # It exits at once when all is written: what the supervisor still has goes before the launcher ends.
        with sandbox.Popen(["sh", "-c", "exec cat <&3 >&4"], grants=grants) as process:
            os.close(source)
            os.close(sink)

            def fill() -> None:
                with open(feed, "wb") as file:
                    file.write(given)

            feeding = threading.Thread(target=fill)
            feeding.start()
            with open(drain, "rb") as file:
                result.append(file.read())
            feeding.join()
            assert process.wait(60) == 0
    assert hashlib.sha256(result[0]).digest() == hashlib.sha256(given).digest()


def test_end_of_an_input_and_of_an_output_are_told_while_the_command_goes_on() -> None:
    program = "import os; assert os.read(3, 9) == b''; os.close(4); os.read(0, 1)"
    with pipe() as (source, feed), pipe() as (drain, sink):
        grants = [f"in=inherit:{source}:relay", f"out=inherit:{sink}:relay"]
        with sandbox.Popen([PYTHON, "-S", "-c", program], grants=grants, stdin=subprocess.PIPE) as process:
            os.close(feed)
            os.close(sink)
            assert os.read(drain, 9) == b""
            assert process.poll() is None
            process.communicate(b"x", timeout=60)
        assert process.returncode == 0


def test_file_is_read_and_written_where_the_caller_stands_and_the_caller_stays_there(file: Path) -> None:
    with (
        held_open(file, os.O_RDONLY) as source,
        held_open(file, os.O_WRONLY) as sink,
        held_open(file, os.O_RDWR) as both,
    ):
        os.lseek(source, 4, os.SEEK_SET)
        file.unlink()
        assert python("import os; print(os.read(3, 99))", f"g=inherit:{source}:relay").stdout == b"b'456789'\n"
        assert python("import os; print(os.read(3, 99))", f"g=inherit:{both}:read,relay").stdout == b"b'0123456789'\n"
        os.lseek(sink, 2, os.SEEK_SET)
        assert python("import os; os.write(3, b'A'); os.write(3, b'B')", f"g=inherit:{sink}:relay").returncode == 0
        assert [os.lseek(fd, 0, os.SEEK_CUR) for fd in (source, sink, both)] == [4, 2, 0]
        assert os.pread(source, 99, 0) == b"01AB456789"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("relay", "it is open both ways, and a relay goes one way; say which: read or write; "),
        ("append,relay", "the descriptor has another access mode: read-write; "),
    ],
)
def test_relay_of_what_is_open_both_ways_needs_to_know_which(file: Path, words: str, reason: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, held_open(file, os.O_RDWR) as fd:
        for number in (theirs.fileno(), fd):
            with pytest.raises(LaunchError) as caught:
                python("pass", f"g=inherit:{number}:{words}")
            assert f"inherit: grant g: descriptor {number}: {reason}" in f"{caught.value}"
        assert python("import os; os.write(3, b'x')", f"g=inherit:{theirs.fileno()}:write,relay").returncode == 0
        assert ours.recv(9) == b"x"


def test_relay_takes_what_is_a_stream_of_bytes_and_nothing_else() -> None:
    with ExitStack() as stack:
        records = [stack.enter_context(each) for each in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
        listener = stack.enter_context(closing(socket.socket()))
        listener.listen()
        event = os.eventfd(0)
        stack.callback(os.close, event)
        null = stack.enter_context(held_open(Path("/dev/null"), os.O_RDONLY))
        for fd, reason in (
            (records[0].fileno(), "a relay keeps no records apart"), (listener.fileno(), "another type: listener"),
            (event, "another type: eventfd"), (null, "another type: null"),
        ):  # fmt: skip
            with pytest.raises(LaunchError, match=reason):
                python("pass", f"g=inherit:{fd}:read,relay")
            assert python("pass", f"g=inherit:{fd}").returncode == 0
    for words, reason in (
        ("relay,raw", "raw is the caller's own"), ("read-write,relay", "goes one way"), ("relay,tty", "a tty has none"),
    ):  # fmt: skip
        with pytest.raises(GrantError, match=reason):
            parse_grant(f"g=inherit:9:{words}")


def test_relay_does_not_need_the_rights_that_sending_would() -> None:
    """A relayed socket is a pipe there: where nothing may be sent over sockets, it is given all the same."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        grants = [f"g=inherit:{theirs.fileno()}:write,relay"]
        assert sandbox.run(["sh", "-c", "echo through >&3"], profile="sealed", grants=grants).returncode == 0
        assert ours.recv(99) == b"through\n"


# Bounds


@pytest.mark.parametrize("kind", ["append", "pipe"])
def test_limit_of_output_holds_for_each_relay(file: Path, kind: str) -> None:
    for count, code, told in ((1000, 0, ""), (1001, 0, "more than limits.output"), (9_000_000, 141, "more than")):
        file.write_bytes(b"")
        with pipe() as (reader, writer):
            os.set_inheritable(writer, True)
            grant = f"g=file:{file}:append" if kind == "append" else f"g=inherit:{writer}:relay"
            script = f"echo out; exec head -c {count} /dev/zero >&3"
            ended = command_line("--limit", "output=1000", "--grant", grant, "--", "sh", "-c", script)
            came = os.read(reader, 9999) if kind == "pipe" else file.read_bytes()
        assert len(came) == min(count, 1000)
        assert (ended.code, ended.out) == (code, "out\n")
        assert (told in ended.err, bool(told)) == (True, bool(ended.err))
        assert not told or "sandbox: relay: grant g: " in ended.err


def test_slow_reader_holds_up_no_other_relay_nor_the_gate_nor_the_end_by_time(file: Path) -> None:
    """One relay is never read, and another passes megabytes; programs execute; the time ends it all."""
    script = "cat /dev/zero >&3 & /bin/true; head -c 3000000 /dev/zero >&4; /bin/echo passed; wait"
    with pipe() as (_, stuck):
        grants = [f"stuck=inherit:{stuck}:relay", f"log=file:{file}:append"]
        done = sandbox.run(
            ["sh", "-c", script], grants=grants, limits={"timeout": "3s"}, stdout=subprocess.PIPE, timeout=60
        )  # fmt: skip
    assert done.stdout == b"passed\n"
    assert file.stat().st_size == 3_000_010


def test_slow_reader_holds_up_no_other_relay_at_the_end() -> None:
    """The command has ended; what it left in one relay nobody reads yet, and that of the other goes on."""
    script = "head -c 400000 /dev/zero >&3; head -c 200000 /dev/zero >&4"
    with pipe() as (slow, one), pipe() as (quick, two):
        fcntl.fcntl(one, fcntl.F_SETPIPE_SZ, 1 << 18)
        grants = [f"slow=inherit:{one}:relay", f"quick=inherit:{two}:relay"]
        with sandbox.Popen(["sh", "-c", script], grants=grants) as process:
            os.close(one)
            os.close(two)
            while Path(f"/proc/{process.child_pid}").exists():
                time.sleep(0.01)
            with open(quick, "rb", closefd=False) as file:
                assert len(file.read()) == 200_000
            assert process.poll() is None  # it waits for the slow one, as the command would have
            with open(slow, "rb", closefd=False) as file:
                assert len(file.read()) == 400_000
            assert process.wait(60) == 0


def test_signal_ends_a_launcher_that_waits_for_a_reader() -> None:
    command = ["sh", "-c", "head -c 300000 /dev/zero >&3"]
    with pipe() as (_, writer), sandbox.Popen(command, grants=[f"g=inherit:{writer}:relay"]) as process:
        while Path(f"/proc/{process.child_pid}").exists():
            time.sleep(0.01)
        assert process.poll() is None
        process.terminate()
        assert process.wait(60) == 0


def test_signal_between_the_end_of_the_command_and_that_of_the_init_is_not_lost() -> None:
    """The init tells how the command ended, and ends a moment later: a second here, since its exit is held up."""
    trace = ["strace", "-D", "-f", "-o", "/dev/null", "-e", "trace=exit_group"]
    trace += ["-e", "inject=exit_group:delay_enter=1000000"]
    command = [*trace, *SANDBOX, "run", "-q", "sh", "-c", "exec head -c 300000 /dev/zero >&3"]
    with pipe() as (_, writer):
        command[-3:-3] = ["--grant", f"g=inherit:{writer}:relay", "--"]
        with subprocess.Popen(command, pass_fds=[writer]) as process:
            try:
                (head,) = wait_for_descendants(process.pid, "head")
                while Path(f"/proc/{head}").exists():
                    time.sleep(0.01)
                process.terminate()
                assert process.wait(60) == 0
            finally:
                process.kill()


def test_reader_that_goes_ends_the_writer() -> None:
    command = ["sh", "-c", "exec cat /dev/zero >&3"]
    with pipe() as (reader, writer), sandbox.Popen(command, grants=[f"g=inherit:{writer}:relay"]) as process:
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        assert process.wait(60) == -signal.SIGPIPE


def test_file_that_takes_no_more_is_told(file: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    plan = plan_of(["sh", "-c", "head -c 5000 /dev/zero >&3; echo $?"], f"log=file:{file}:append")
    ended = launch(plan, setup=small_files)
    assert ended.err == f"sandbox: relay: grant log: file {file}: File too large\n"
    assert file.stat().st_size == 100


def test_hundreds_of_relays_at_once() -> None:
    with ExitStack() as stack:
        pairs = [stack.enter_context(pipe()) for _ in range(300)]
        grants = [f"g{at}=inherit:{writer}:relay" for at, (_, writer) in enumerate(pairs)]
        program = "import os\nfor fd in range(3, 303): os.write(fd, b'%d' % fd)"
        assert python(program, *grants).returncode == 0
        assert [os.read(reader, 9) for reader, _ in pairs] == [b"%d" % fd for fd in range(3, 303)]


def test_pipe_of_another_user_is_relayed_and_never_waited_for() -> None:
    """It cannot be opened anew to be non-blocking: then a page is written at a time, where there is room."""
    if os.geteuid():
        pytest.skip("needs root: a pipe of another user's")

    def become_nobody() -> None:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)

    script = "cat /dev/zero >&3 & sleep 0.3; /bin/echo executed; wait"
    with pipe() as (reader, writer):
        os.set_inheritable(writer, True)
        plan = plan_of(["sh", "-c", script], f"g=inherit:{writer}:relay")
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            run_for_a_while(plan, become_nobody)
        assert caught.value.stdout == b"executed\n"
        assert len(os.read(reader, 1 << 20)) >= 4096


def run_for_a_while(plan: Plan, setup: Callable[[], None]) -> None:
    with started(plan, setup=setup, stdout=subprocess.PIPE) as process:
        process.communicate(timeout=3)


# What cannot be


def test_relay_cannot_be_sent_and_raw_can(file: Path) -> None:
    with (
        pipe() as (reader, _), held_open(file, os.O_WRONLY | os.O_APPEND) as fd,
        sandbox.Popen(["sleep", "30"], channel=True) as process,
    ):  # fmt: skip
        for grant in (f"g=file:{file}:append", f"g=inherit:{reader}:relay"):
            with pytest.raises(GrantError, match="copies what is relayed, or appended, from the start on"):
                process.send_grant(grant)
        # What it is, only the launcher sees.
        with pytest.raises(LaunchError, match="what only appends, or is relayed, is copied by the supervisor"):
            process.send_grant(f"g=inherit:{fd}")
        for grant in (f"g=file:{file}:append,raw", f"g=inherit:{fd}:raw", f"g=inherit:{reader}"):
            process.send_grant(grant)
        process.kill()
