"""L2 and the STDIO op: 0, 1 and 2 always exist, nothing of ours or of the grants lands there, odd types are refused."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import sandbox
from sandbox.plan import StatusFormat
from tests.support.callers import Ended, json_lines, launch, plan_of, run
from tests.support.callers import sandbox as command_line
from tests.support.probes import Probes, Table, table

SUBSETS = [subset for size in range(4) for subset in itertools.combinations(range(3), size)]
NULL = os.stat("/dev/null")
REFUSED = ["directory", "path", "block-device", "char-device", "namespace", "pidfd", "epoll", "timerfd", "signalfd",
           "inotify", "fanotify", "userfaultfd", "io_uring", "seccomp-listener", "bpf"]  # fmt: skip
ACCEPTED = ["file", "pipe", "listener", "stream", "memfd", "eventfd", "null", "tty"]


def closing(numbers: tuple[int, ...]) -> Callable[[], None]:
    def close() -> None:
        for fd in numbers:
            os.close(fd)

    return close


def check_streams(found: Table, closed: tuple[int, ...]) -> None:
    for fd in closed:
        assert found.numbers[fd].identity == (NULL.st_dev, NULL.st_ino)
        assert found.numbers[fd].mode == os.O_RDWR
        assert not found.numbers[fd].cloexec
    for fd in {0, 1, 2} - set(closed):
        assert found.numbers[fd].identity != (NULL.st_dev, NULL.st_ino)


@pytest.mark.parametrize("closed", SUBSETS)
def test_stdio_closed_by_caller_is_the_null_device(probes: Probes, tmp_path: Path, closed: tuple[int, ...]) -> None:
    out = tmp_path / "out"
    plan = plan_of([probes["fds"]], f"out@5=file:{out}:write,create", "in=file:/etc/passwd")
    ended = launch(plan, setup=closing(closed))
    assert ended == Ended(0, "", "")
    found = table(out.read_text())
    assert set(found.numbers) == {0, 1, 2, 3, 5}
    check_streams(found, closed)
    assert found.numbers[3].identity == (os.stat("/etc/passwd").st_dev, os.stat("/etc/passwd").st_ino)


@pytest.mark.parametrize("closed", SUBSETS)
def test_stdio_closed_for_command_line_with_status_descriptor(
    probes: Probes, tmp_path: Path, closed: tuple[int, ...]
) -> None:
    """The interpreter itself must not let the status descriptor, the plan or a grant slip onto a closed stream."""
    out, (reader, writer) = tmp_path / "out", os.pipe()

    def caller() -> None:
        os.dup2(writer, 9)
        closing(closed)()

    words = ["--status-fd", "9", "--grant", f"out=file:{out}:write,create", "--", probes["fds"]]
    ended = command_line(*words, setup=caller)
    os.close(writer)
    events = json_lines(reader)
    os.close(reader)
    assert ended == Ended(0, "", "")
    assert [event["event"] for event in events] == ["started", "exited"]
    found = table(out.read_text())
    assert set(found.numbers) == {0, 1, 2, 3}
    check_streams(found, closed)


@pytest.mark.parametrize("fd", [0, 1, 2])
def test_stdio_grant_of_a_stream_by_number_open_is_given_closed_is_refused(
    probes: Probes, tmp_path: Path, fd: int
) -> None:
    out = tmp_path / "out"
    plan = plan_of([probes["fds"]], f"out@9=file:{out}:write,create", f"a=inherit:{fd}")
    assert launch(plan) == Ended(0, "", "")
    found = table(out.read_text())
    assert found.numbers[3].identity == found.numbers[fd].identity
    check_streams(found, ())
    # The null device that we put there ourselves is not the caller's.
    out.unlink()
    ended = launch(plan, setup=closing((fd,)))
    assert ended.code == 125
    assert not out.exists()


def test_stdio_first_file_opened_by_child_is_not_a_stream(tmp_path: Path) -> None:
    script = (
        f'exec 2>{tmp_path}/said; /usr/bin/python3 -c \'import os; os.write(9, b"%d" % os.open("/", os.O_RDONLY))\''
    )
    ended = launch(
        plan_of(["sh", "-c", script], f"out@9+propagate=file:{tmp_path}/out:write,create"), setup=closing((0, 1, 2))
    )  # fmt: skip
    assert ended.code == 0
    assert int((tmp_path / "out").read_text()) >= 3


def missing(kind: str, ended: Ended) -> None:
    """Skip if this user or kernel has none of a kind; the hold probe says so with exit code 77."""
    if ended.code == 77:
        if os.geteuid() and kind in {"block-device", "bpf", "char-device"}:
            pytest.skip(f"needs root: {kind}")
        pytest.skip(f"kernel lacks: {kind}")


@pytest.mark.parametrize("fd", [0, 1])
@pytest.mark.parametrize("kind", REFUSED)
def test_stdio_of_another_type_is_refused(probes: Probes, marker: Path, kind: str, fd: int) -> None:
    plan = plan_of([probes["mark"], marker])
    ended = launch(plan, before=[probes["hold"], kind, str(fd), "--"])
    missing(kind, ended)
    assert ended.code == 125
    assert ended.err == (
        f"sandbox: stdio: standard stream: the descriptor is of another type: {kind}; "
        "redirect it from or to a file, a pipe, a connected socket or a terminal\n"
    )
    assert not marker.exists()


@pytest.mark.parametrize("fd", [0, 1, 2])
@pytest.mark.parametrize("kind", ACCEPTED)
def test_stdio_of_an_usual_type_is_accepted(probes: Probes, marker: Path, kind: str, fd: int) -> None:
    ended = launch(plan_of([probes["mark"], marker]), before=[probes["hold"], kind, str(fd), "--"])
    assert ended.code == 0
    assert marker.exists()


def test_stdio_directory_as_standard_error_is_refused(probes: Probes, marker: Path) -> None:
    reader, writer = os.pipe()
    plan = plan_of([probes["mark"], marker], status=(9, StatusFormat.JSON))
    ended = launch(plan, before=[probes["hold"], "directory", "2", "--"], setup=lambda: os.dup2(writer, 9))
    os.close(writer)
    (event,) = json_lines(reader)
    os.close(reader)
    assert (ended.code, event["step"], event["object"]) == (125, "stdio", "standard stream")
    assert event["reason"] == "the descriptor is of another type: directory"
    assert not marker.exists()


def test_stdio_file_from_shell_redirection_through_command_line(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello")
    with (tmp_path / "in").open() as source, (tmp_path / "out").open("w") as target:
        assert command_line("--", "cat", stdin=source, stdout=target) == Ended(0, "", "")
    assert (tmp_path / "out").read_text() == "hello"


def test_stdio_directory_through_api_is_a_launch_error() -> None:
    folder = os.open("/", os.O_RDONLY)
    try:
        with pytest.raises(sandbox.LaunchError, match="another type: directory"):
            sandbox.run(["cat"], stdin=folder)
    finally:
        os.close(folder)


def test_stdio_socket_of_a_service_works() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"hello\n")
        ours.shutdown(socket.SHUT_WR)
        done = sandbox.run(["cat"], stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.DEVNULL)
        assert done.returncode == 0
        assert ours.recv(100) == b"hello\n"


def test_stdio_without_launcher_keeps_what_it_refuses(probes: Probes) -> None:
    ended = run([probes["hold"], "directory", "0", "--", "/bin/sh", "-c", "readlink /proc/self/fd/0"])
    assert ended == Ended(0, "/\n", "")
