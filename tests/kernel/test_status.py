"""The status descriptor: records and JSON lines tell how a run went, and neither disturbs it nor reaches the child."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox import Exited, Failed, Started, ops, wire
from sandbox.errors import LaunchError
from sandbox.plan import StatusFormat
from tests.support.callers import Ended, json_lines, launch, plan_of, records, started
from tests.support.callers import sandbox as command_line
from tests.support.probes import Probes, table


def told(*words: str | Path) -> tuple[Ended, list[dict[str, Any]]]:
    reader, writer = os.pipe()

    def caller() -> None:
        os.dup2(writer, 9)

    ended = command_line("--status-fd", "9", *words, setup=caller)
    os.close(writer)
    events = json_lines(reader)
    os.close(reader)
    return ended, events


def test_json_lines_of_a_run() -> None:
    ended, events = told("--", "sh", "-c", "exit 7")
    assert ended == Ended(7, "", "")
    begin, end = events
    assert set(begin) == {"event", "time_ns", "pid"}
    assert set(end) == {"event", "time_ns", "pid", "code"}
    assert (begin["event"], end["event"], end["code"]) == ("started", "exited", 7)
    assert begin["pid"] == end["pid"] > 0
    assert 0 < begin["time_ns"] <= end["time_ns"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b'quote" back\\slash', 'quote" back\\slash'),
        (b"new\nline\ttab\x01", "new\\nline\ttab\x01"),
        ("ümläut €".encode(), "ümläut €"),
        (b"not \xff\xfe utf-8", "not \\xff\\xfe utf-8"),
        (b"x" * 3000, None),
    ],
)
def test_json_lines_of_a_failure_parse_whatever_the_path(tmp_path: Path, name: bytes, shown: str | None) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    ended, events = told("--grant", f"cfg=file:{path}", "--", "true")
    assert ended.code == 125
    assert ended.err.count("\n") == 1
    (event,) = events
    assert (event["event"], event["code"], event["step"]) == ("failed", 125, "open")
    assert event["reason"] == ("No such file or directory" if shown is not None else "File name too long")
    if shown is not None:
        assert event["object"] == f"grant cfg: file {tmp_path}/{shown}"


@pytest.mark.parametrize(("command", "code"), [("/nonexistent", 127), ("/etc/passwd", 126)])
def test_json_lines_of_a_command_that_cannot_be_executed(command: str, code: int) -> None:
    ended, (event,) = told("--", command)
    assert (ended.code, event["event"], event["code"], event["step"]) == (code, "failed", code, "exec")
    assert event["object"] == command


def test_records_of_a_failure_carry_the_error() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    plan = plan_of(["true"], "a=file:/nonexistent", status=(writer, StatusFormat.RECORDS))
    assert launch(plan).code == 125
    os.close(writer)
    (event,) = records(reader, plan)
    os.close(reader)
    assert isinstance(event, Failed)
    assert isinstance(event.error, LaunchError)
    assert (event.error.step, event.error.object, event.error.errno) == ("open", "grant a: file /nonexistent", 2)


@pytest.mark.parametrize("form", list(StatusFormat))
def test_reader_that_is_gone_does_not_disturb(form: StatusFormat) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.set_inheritable(writer, True)
    assert launch(plan_of(["sh", "-c", "echo works; exit 4"], status=(writer, form))) == Ended(4, "works\n", "")
    assert launch(plan_of(["true"], "a=file:/nonexistent", status=(writer, form))).code == 125
    os.close(writer)


def test_status_descriptor_that_is_full_or_read_only_does_not_disturb() -> None:
    read_only = os.open("/dev/null", os.O_RDONLY)
    full = os.open("/dev/full", os.O_WRONLY)
    for fd in (read_only, full):
        os.set_inheritable(fd, True)
        assert launch(plan_of(["sh", "-c", "exit 4"], status=(fd, StatusFormat.JSON))) == Ended(4, "", "")
        os.close(fd)


def filled_pipe() -> tuple[int, int]:
    """Return a pipe that takes nothing more, its writing end inheritable and blocking."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    os.set_inheritable(writer, True)
    return reader, writer


@pytest.mark.parametrize("form", list(StatusFormat))
def test_reader_that_does_not_read_holds_up_neither_time_limit_nor_signals(form: StatusFormat) -> None:
    reader, writer = filled_pipe()
    limited = plan_of(["sleep", "60"], status=(writer, form))
    timed = replace(limited, ops=tuple(sorted((*limited.ops, ops.timeout(300)), key=lambda op: op.code)))
    assert launch(timed).code == 124
    with started(limited) as process:
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    os.close(reader)
    os.close(writer)


def test_message_that_nobody_reads_does_not_hold_a_failed_start() -> None:
    reader, writer = filled_pipe()
    with started(plan_of(["/nowhere"]), stderr=writer) as process:
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 127
    os.close(reader)
    os.close(writer)


def test_reader_that_is_slow_gets_all() -> None:
    reader, writer = filled_pipe()
    plan = plan_of(["sh", "-c", "exit 4"], status=(writer, StatusFormat.RECORDS))
    with started(plan) as process:
        os.close(writer)
        time.sleep(0.5)
        assert process.poll() is None
        data = b""
        while chunk := os.read(reader, 65536):
            data += chunk
        assert process.wait(30) == 4
    os.close(reader)
    assert len(data.lstrip(b"x")) == 2 * wire.EVENT_SIZE


@pytest.mark.parametrize("number", [3, 4, 9, 200])
def test_status_descriptor_is_not_the_childs(probes: Probes, number: int) -> None:
    reader, writer = os.pipe()

    def caller() -> None:
        os.dup2(writer, number)

    plan = plan_of([probes["fds"]], "a=file:/etc/passwd", status=(number, StatusFormat.JSON))
    ended = launch(plan, setup=caller)
    os.close(writer)
    events = json_lines(reader)
    os.close(reader)
    assert set(table(ended.out).numbers) == {0, 1, 2, 3}
    assert table(ended.out).numbers[3].mode == os.O_RDONLY
    assert [event["event"] for event in events] == ["started", "exited"]


def test_started_comes_before_the_end_and_only_once_exec_succeeded() -> None:
    """A reader learns of the start while the command still runs."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    plan = plan_of(["sleep", "20"], status=(writer, StatusFormat.RECORDS))
    with started(plan) as process:
        os.close(writer)
        first = os.read(reader, wire.EVENT_SIZE)
        assert len(first) == wire.EVENT_SIZE
        assert process.poll() is None
    events = records(reader, plan)
    os.close(reader)
    assert not any(isinstance(event, Started) for event in events)
    assert all(isinstance(event, Exited) for event in events)
