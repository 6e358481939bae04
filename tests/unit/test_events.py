"""Events: what the launcher's records mean for the plan that was run."""

from __future__ import annotations

import errno
import os

import pytest

from sandbox import errors, ops
from sandbox.errors import PlanError
from sandbox.events import (
    REASONS,
    STEPS,
    Connection,
    Descriptor,
    Executed,
    Exited,
    Failed,
    NetworkCall,
    NetworkVerdict,
    Started,
    event_of,
)
from sandbox.grants import FdType
from sandbox.plan import OpCode
from sandbox.wire import Record
from tests.support.plans import full_plan

PLAN = full_plan()


def record(
    kind: int, pid: int = 0, code: int = 0, signal: int = 0, op: int = 0, error: int = 0, detail: int = 0,
    step: int = 0, text: str = "", source: str = "",
) -> Record:  # fmt: skip
    return Record(kind, 5, pid, code, signal, op, error, detail, step, text, source)


def index_of(code: OpCode) -> int:
    return next(index for index, op in enumerate(PLAN.ops) if op.code is code)


def failure(code: OpCode | None, error: int, detail: int = 0, step: int = 0) -> errors.SandboxError:
    op = -1 if code is None else index_of(code)
    event = event_of(record(2, op=op, error=error, detail=detail, step=step), PLAN)
    assert isinstance(event, Failed)
    assert event.time_ns == 5
    return event.error


def test_event_started_has_time_and_pid() -> None:
    assert event_of(record(1, pid=42), PLAN) == Started(5, 42)


@pytest.mark.parametrize("code", [0, 1, 125, 255])
def test_event_exited_with_code(code: int) -> None:
    event = event_of(record(3, pid=42, code=code), PLAN)
    assert event == Exited(5, 42, code, None)
    assert isinstance(event, Exited)
    assert event.returncode == code


@pytest.mark.parametrize("signal", [1, 9, 31, 64])
def test_event_exited_by_signal_is_negative_as_in_subprocess(signal: int) -> None:
    event = event_of(record(3, pid=42, code=-1, signal=signal), PLAN)
    assert event == Exited(5, 42, None, signal)
    assert isinstance(event, Exited)
    assert event.returncode == -signal


@pytest.mark.parametrize("error", [0, errno.ENOENT, errno.EACCES])
def test_event_executed_has_program_source_and_the_gate_s_refusal(error: int) -> None:
    event = event_of(record(4, pid=42, op=-1, error=error, text="/bin/ls", source="/bin/bash"), PLAN)
    assert event == Executed(5, 42, "/bin/ls", "/bin/bash", error)


def test_event_descriptor_passed_names_the_protocol_or_grant_of_its_op() -> None:
    named = event_of(record(5, pid=42, code=1, op=index_of(OpCode.PROTOCOL), detail=7, text="pipe:[3]"), PLAN)
    assert named == Descriptor(5, 42, 7, "pipe:[3]", "first")
    granted = event_of(record(5, pid=42, code=1, op=index_of(OpCode.PLACE), detail=3, text="/f"), PLAN)
    assert granted == Descriptor(5, 42, 3, "/f", "number 3")


def test_event_descriptor_closed_was_passed_by_nothing() -> None:
    event = event_of(record(5, pid=42, code=2, op=-1, detail=7, text="/f"), PLAN)
    assert event == Descriptor(5, 42, 7, "/f", None)


@pytest.mark.parametrize(("number", "call"), list(enumerate(NetworkCall, 1)))
def test_event_connection_names_program_call_address_and_the_rule_of_its_op(number: int, call: NetworkCall) -> None:
    told = record(
        6, pid=42, code=1, op=index_of(OpCode.NET_RULE), error=errno.EINPROGRESS, detail=number,
        text="tcp:127.0.0.1:80", source="/bin/curl",
    )  # fmt: skip
    assert event_of(told, PLAN) == Connection(
        5, 42, "/bin/curl", call, "tcp:127.0.0.1:80", NetworkVerdict.ALLOWED, "this host itself", errno.EINPROGRESS
    )


@pytest.mark.parametrize(("number", "verdict"), list(enumerate(NetworkVerdict, 1)))
def test_event_connection_that_no_rule_fits_has_none(number: int, verdict: NetworkVerdict) -> None:
    event = event_of(record(6, code=number, op=-1, detail=1, error=errno.EACCES, text="udp:[::1]:5"), PLAN)
    assert event == Connection(5, 0, "", NetworkCall.CONNECT, "udp:[::1]:5", verdict, None, errno.EACCES)


@pytest.mark.parametrize("kind", [0, 7, 2**32 - 1])
def test_event_of_unknown_type_is_refused(kind: int) -> None:
    with pytest.raises(PlanError, match="unknown"):
        event_of(record(kind), PLAN)


def test_failure_by_errno_has_step_object_reason_and_hint() -> None:
    error = failure(OpCode.FILE, errno.ENOENT)
    op = PLAN.ops[index_of(OpCode.FILE)]
    assert isinstance(error, errors.LaunchError)
    assert not isinstance(error, errors.CommandNotFoundError)
    assert (error.step, error.object, error.errno) == ("open", "grant c", errno.ENOENT)
    assert (error.reason, error.hint) == (os.strerror(errno.ENOENT), op.hint)
    assert error.exit_code == 125


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (errno.ENOENT, errors.CommandNotFoundError, 127),
        (errno.EACCES, errors.CommandNotExecutableError, 126),
        (errno.ENOEXEC, errors.CommandNotExecutableError, 126),
        (-10, errors.CommandNotExecutableError, 126),
    ],
)
@pytest.mark.parametrize("op", [OpCode.COMMAND, OpCode.EXEC])
def test_failure_of_exec_is_told_apart(op: OpCode, error: int, kind: type[errors.LaunchError], code: int) -> None:
    found = failure(op, error)
    assert type(found) is kind
    assert found.exit_code == code


@pytest.mark.parametrize("number", [number for number in REASONS if number not in {-1, -2, -3, -4, -5, -13, -34, -49}])
def test_failure_for_a_reason_of_the_launcher_s_own_says_it(number: int) -> None:
    error = failure(OpCode.SECRET_ENV, number)
    assert error.reason == REASONS[number]
    assert isinstance(error, errors.LaunchError)
    assert error.errno == 0


def test_failure_by_a_signal_names_it() -> None:
    assert failure(OpCode.CONNECT, -34, 15).reason == "ended while it waited, by signal 15"


@pytest.mark.parametrize("fd_type", list(FdType))
def test_failure_by_type_names_the_type_found(fd_type: FdType) -> None:
    error = failure(OpCode.INHERIT, -1, fd_type.bit.bit_length() - 1)
    assert error.reason == f"the descriptor is of another type: {fd_type}"


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (os.O_RDONLY, "read"),
        (os.O_WRONLY, "write"),
        (os.O_WRONLY | os.O_APPEND, "append"),
        (os.O_RDWR, "read-write"),
        (os.O_RDWR | os.O_APPEND, "read-write"),
        (os.O_RDONLY | os.O_APPEND, "read"),
        (os.O_ACCMODE, "read-write"),  # open(2): 3 is a mode of its own, for ioctl only; as in fd_access_word()
    ],
)
def test_failure_by_access_names_the_mode_found(flags: int, word: str) -> None:
    assert failure(OpCode.INHERIT, -2, flags).reason == f"the descriptor has another access mode: {word}"


@pytest.mark.parametrize("number", [-3, -4, -5])
def test_failure_of_verify_names_the_number(number: int) -> None:
    assert failure(OpCode.VERIFY, number, 17).reason == f"{REASONS[number]}17"


@pytest.mark.parametrize(("step", "name"), list(enumerate(STEPS)))
def test_failure_of_no_op_names_the_launcher_s_step(step: int, name: str) -> None:
    error = failure(None, errno.EMFILE, step=step)
    assert (error.step, error.object, error.reason) == (name, "", os.strerror(errno.EMFILE))


def test_failure_message_is_the_launcher_s_own() -> None:
    op = ops.chdir("/d")
    error = failure(OpCode.CHDIR, errno.EACCES)
    assert str(error) == f"chdir: /: {os.strerror(errno.EACCES)}; {op.hint}"
