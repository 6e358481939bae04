"""Standard streams: behind 0, 1 and 2 there is nothing of the caller's but the bytes that pass."""

from __future__ import annotations

import fcntl
import hashlib
import os
import resource
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from tests.support.callers import PYTHON, SANDBOX, Ended, held_open, launch, plan_of, run

# What a program tries with a stream that it has on a file of the caller's.
TRY: Final = """
import errno, os, sys
def attempt(name, call, *arguments):
    try: call(*arguments); said = "ok"
    except OSError as error: said = errno.errorcode[error.errno]
    print(name, said, file=sys.stderr)
"""


def sandbox(*words: str, streams: str = "safe") -> list[str]:
    return [*SANDBOX, "run", "-p", "untrusted", "--streams", streams, "--chdir", "/", "--", *words]


def tried(text: str) -> dict[str, str]:
    return dict(line.split() for line in text.splitlines())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("0123456789")
    return path


@pytest.mark.parametrize(("streams", "kept"), [("safe", True), ("raw", False)])
def test_file_that_is_read_keeps_its_offset_and_cannot_be_changed(file: Path, streams: str, kept: bool) -> None:
    program = TRY + (
        "os.read(0, 3); attempt('chmod', os.fchmod, 0, 0o600); "
        "attempt('write', os.open, '/proc/self/fd/0', os.O_WRONLY); os.lseek(0, 9, 0)"
    )
    with held_open(file, os.O_RDONLY) as fd:
        os.lseek(fd, 2, os.SEEK_SET)
        ended = run(sandbox(PYTHON, "-c", program, streams=streams), stdin=fd)
        assert os.lseek(fd, 0, os.SEEK_CUR) == (2 if kept else 9)
    found = tried(ended.err)
    assert found["chmod"] == ("EROFS" if kept else "ok")
    # Landlock holds what the view does not have, whatever the stream is.
    assert found["write"] == ("EROFS" if kept else "EACCES")


def test_file_that_is_read_begins_where_the_caller_stands_and_can_be_sought_in(file: Path) -> None:
    with held_open(file, os.O_RDONLY) as fd:
        os.lseek(fd, 4, os.SEEK_SET)
        program = "import os; print(os.read(0, 2), os.lseek(0, 0, 0), os.read(0, 2))"
        assert run(sandbox(PYTHON, "-c", program), stdin=fd).out == "b'45' 0 b'01'\n"


def test_file_without_a_name_is_relayed(file: Path) -> None:
    with held_open(file, os.O_RDONLY) as fd:
        file.unlink()
        os.lseek(fd, 4, os.SEEK_SET)
        assert run(sandbox("cat"), stdin=fd) == Ended(0, "456789", "")
        assert os.lseek(fd, 0, os.SEEK_CUR) == 4


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_WRONLY | os.O_APPEND])
def test_file_that_is_written_gets_what_is_written_in_its_place(file: Path, flags: int) -> None:
    with held_open(file, flags) as fd:
        os.lseek(fd, 0, os.SEEK_END)
        os.write(fd, b" before")
        assert run(sandbox("sh", "-c", "echo ' out'; echo err >&2; echo out"), stdout=fd, stderr=fd).code == 0
        os.write(fd, b"after")
    assert file.read_text() == "0123456789 before out\nerr\nout\nafter"


@pytest.mark.parametrize(("streams", "kept"), [("safe", True), ("raw", False)])
def test_file_that_is_written_shows_nothing_and_loses_nothing(file: Path, streams: str, kept: bool) -> None:
    program = TRY + (
        "attempt('seek', os.lseek, 1, 0, 0); attempt('truncate', os.ftruncate, 1, 0)\n"
        "attempt('chmod', os.fchmod, 1, 0o777)"
    )
    with held_open(file, os.O_RDWR) as fd:
        os.lseek(fd, 0, os.SEEK_END)
        ended = run(sandbox(PYTHON, "-c", program, streams=streams), stdout=fd)
    assert tried(ended.err)["truncate"] == ("EINVAL" if kept else "ok")
    assert tried(ended.err)["seek"] == ("ESPIPE" if kept else "ok")
    assert file.read_text() == ("0123456789" if kept else "")
    assert (file.stat().st_mode & 0o777 == 0o777) is not kept


def test_stream_can_be_opened_by_its_name(file: Path) -> None:
    script = "cat </dev/stdin >/dev/stdout; echo err >/dev/stderr"
    with held_open(file, os.O_RDONLY) as given, held_open(file.with_name("out"), os.O_WRONLY | os.O_CREAT) as out:
        assert run(sandbox("sh", "-c", script), stdin=given, stdout=out).err == "err\n"
    assert file.with_name("out").read_text() == "0123456789"


@pytest.mark.parametrize("streams", ["safe", "relay"])
def test_megabytes_pass_whole_in_both_directions(tmp_path: Path, streams: str) -> None:
    given, result = tmp_path / "in", tmp_path / "out"
    given.write_bytes(os.urandom(9_000_001))
    with open(given, "rb") as source, open(result, "wb") as sink:
        if streams == "safe":
            assert run(sandbox("cat"), stdin=source, stdout=sink) == Ended(0, "", "")
        else:
            first = subprocess.Popen(["cat", given], stdout=subprocess.PIPE)
            second = subprocess.Popen(sandbox("cat", streams="relay"), stdin=first.stdout, stdout=subprocess.PIPE)
            assert first.stdout is not None
            assert second.stdout is not None
            first.stdout.close()
            sink.write(second.stdout.read())
            second.stdout.close()
            assert (first.wait(60), second.wait(60)) == (0, 0)
    assert hashlib.sha256(result.read_bytes()).digest() == hashlib.sha256(given.read_bytes()).digest()


def test_pipe_is_the_callers_own_unless_it_is_relayed() -> None:
    for streams, own in (("safe", True), ("relay", False)):
        read_end, write_end = os.pipe()
        try:
            link = os.readlink(f"/proc/self/fd/{write_end}")
            os.set_blocking(write_end, True)
            program = "import os; os.set_blocking(1, False); print(os.readlink('/proc/self/fd/1'), flush=True)"
            assert run(sandbox(PYTHON, "-c", program, streams=streams), stdout=write_end).code == 0
            assert (os.read(read_end, 100).decode() == f"{link}\n") is own
            assert os.get_blocking(write_end) is not own
        finally:
            os.close(read_end)
            os.close(write_end)


@pytest.mark.parametrize(("streams", "own"), [("safe", True), ("relay", False)])
def test_socket_is_the_callers_own_unless_it_is_relayed(streams: str, own: bool) -> None:
    program = "import os; said = os.readlink('/proc/self/fd/1'); os.write(1, os.read(0, 9) + said.encode())"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(b"given ")
        ours.shutdown(socket.SHUT_WR)
        command = sandbox(PYTHON, "-c", program, streams=streams)
        assert run(command, stdin=theirs.fileno(), stdout=theirs.fileno()) == Ended(0, "", "")
        link = os.readlink(f"/proc/self/fd/{theirs.fileno()}")
        theirs.shutdown(socket.SHUT_WR)
        assert (ours.recv(99).decode() == f"given {link}") is own


def limited(*words: str) -> list[str]:
    return [*SANDBOX, "run", "-p", "untrusted", "--chdir", "/", "--limit", "output=1000", "--", *words]


@pytest.mark.parametrize("into", ["file", "pipe"])
def test_output_beyond_its_limit_is_refused_and_within_it_passes(tmp_path: Path, into: str) -> None:
    for count, code, told in (
        (1000, 0, ""),
        (1001, 0, "more than limits.output"),
        (10_000_000, 141, "more than limits"),
    ):
        with open(tmp_path / "out", "w+b") as out:
            command = limited("sh", "-c", f"exec head -c {count} /dev/zero")
            ended = run(command, stdout=out if into == "file" else subprocess.PIPE)
            written = out.tell() if into == "file" else len(ended.out)
        assert written == min(count, 1000)
        assert ended.code == code
        assert told in ended.err
        assert bool(told) == bool(ended.err)


def test_slow_reader_holds_up_neither_the_gate_nor_the_end_by_time() -> None:
    """A relayed stream that nobody reads fills up; other programs of the sandbox execute, and --timeout ends it all."""
    read_end, write_end = os.pipe()
    script = "yes & sleep 0.3; for n in 1 2 3; do /bin/true || exit 9; done; echo through >&2; wait"
    try:
        command = [
            *SANDBOX,
            "run",
            "-p",
            "untrusted",
            "--streams",
            "relay",
            "--timeout",
            "2",
            "--chdir",
            "/",
            "--",
            "sh",
            "-c",
            script,
        ]
        before = time.monotonic()
        ended = run(command, stdout=write_end)
        assert (ended.code, ended.err) == (124, "through\n")
        assert time.monotonic() - before < 30
    finally:
        os.close(read_end)
        os.close(write_end)


def test_reader_that_goes_ends_the_writer() -> None:
    process = subprocess.Popen(sandbox("yes", streams="relay"), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(2) == b"y\n"
    process.stdout.close()
    assert process.wait(60) == 141


def test_file_that_takes_no_more_is_told(file: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    with held_open(file, os.O_WRONLY) as fd:
        ended = launch(plan_of(["head", "-c", "5000", "/dev/zero"]), stdout=fd, setup=small_files)
    assert ended.err == "sandbox: relay: standard output: File too large\n"
    assert file.stat().st_size == 100


def test_callers_blocking_mode_and_locks_stay(file: Path) -> None:
    with held_open(file, os.O_RDONLY) as fd, held_open(file, os.O_RDONLY) as other:
        fcntl.flock(fd, fcntl.LOCK_EX)
        program = "import fcntl, os; os.set_blocking(0, False); fcntl.flock(0, fcntl.LOCK_UN)"
        assert run(sandbox(PYTHON, "-c", program), stdin=fd) == Ended(0, "", "")
        assert os.get_blocking(fd)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert run(sandbox(PYTHON, "-c", program, streams="raw"), stdin=fd) == Ended(0, "", "")
        assert not os.get_blocking(fd)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
