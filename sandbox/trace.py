"""Running the launcher under the tracer: every call that the command makes, with what it came to, as values."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import subprocess
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from sandbox import calls, wire
from sandbox.calls import Call
from sandbox.errors import LaunchError
from sandbox.events import Event, event_of
from sandbox.launch import launcher_arguments, outliving_terminal, seal, status_pipe
from sandbox.plan import Plan
from sandbox.probe import launcher_path, tracer_path

_HEAD: Final = struct.Struct("=IIiiq6Q")  # struct record, launcher/tracer/record.h
_FORWARDED: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True, slots=True)
class Forked:
    """A thread of the command has made another, or a process."""

    pid: int
    child: int


@dataclass(frozen=True, slots=True)
class Became:
    """A process executes `program` from now on."""

    pid: int
    program: str


@dataclass(frozen=True, slots=True)
class Unseen:
    """The tracer could not follow a process: more than 8,192 at once."""

    pid: int


@dataclass(frozen=True, slots=True)
class Killed:
    """A signal has ended a process."""

    pid: int
    signal: int


Seen: TypeAlias = Call | Forked | Became | Unseen | Killed | Event


def traced(
    make_plan: Callable[[int], Plan], *, successes: bool, inherited: Collection[int] = ()
) -> Generator[Seen, None, int]:  # fmt: skip
    """Run a plan's command to its end under the tracer; yield what it does, as it does it. Returns the exit code.

    make_plan: gets the descriptor for status records, which it must name, and returns the plan.
    successes: calls on paths are told also when they succeed. inherited: descriptors that the plan names.
    Raises: LaunchError if the tracer cannot start. The launcher's own failure is an event.
    """
    status_end, status = status_pipe(inherited)
    told_end, told = status_pipe(inherited)
    rows_end, rows = status_pipe(inherited)
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        ours.enter_context(_Closing(status_end, told_end, rows))
        theirs.enter_context(_Closing(status, told, rows_end))
        os.write(rows, calls.rows(successes=successes))  # 4 KiB: a pipe holds it
        plan = make_plan(status)
        plan_fd = seal(plan)
        theirs.enter_context(_Closing(plan_fd))
        arguments = [tracer_path(), str(rows_end), str(told), launcher_path(), *launcher_arguments(plan, plan_fd)]
        with _signals() as forward_to:
            process = subprocess.Popen(
                [str(word) for word in arguments], pass_fds=[rows_end, told, plan_fd, *filter(_is_open, plan.needed())]
            )
            try:
                theirs.close()
                for seen in _read(told_end, status_end, plan, forward_to):
                    yield seen
                    if isinstance(seen, Call) and not successes:
                        _let_go_on(rows)
                code = process.wait()
            except BaseException:
                process.kill()
                process.wait()
                raise
        return code


def _let_go_on(waiting: int) -> None:
    # The command can be killed while it waits for this.
    with contextlib.suppress(BrokenPipeError):
        os.write(waiting, b".")


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class _Closing(contextlib.ExitStack):
    """Closes descriptors at the end."""

    def __init__(self, *fds: int) -> None:
        super().__init__()
        for fd in fds:
            self.callback(os.close, fd)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Forward what asks for an end to the process that the list names, once there is one."""
    target: list[int] = []

    def forward(number: int, _frame: object) -> None:
        if target:
            with contextlib.suppress(ProcessLookupError):
                os.kill(target[0], number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED if _is_taken(number)}
    try:
        with outliving_terminal():
            yield target
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_taken(number: int) -> bool:
    return signal.getsignal(number) is not signal.SIG_IGN


def _read(told: int, status: int, plan: Plan, forward_to: list[int]) -> Iterator[Seen]:
    """Yield both streams until both have ended; what an exec closes comes before what its program does then."""
    buffers = {told: b"", status: b""}
    poll = select.poll()
    for fd in buffers:
        poll.register(fd, select.POLLIN)
    while buffers:
        for fd in sorted((fd for fd, _ in poll.poll()), key=lambda fd: fd != status):
            data = os.read(fd, 1 << 16)
            if not data:
                poll.unregister(fd)
                del buffers[fd]
                continue
            take = _status_events if fd == status else _tracer_records
            buffers[fd] = yield from take(buffers[fd] + data, plan, forward_to)


def _status_events(data: bytes, plan: Plan, _forward_to: list[int]) -> Generator[Seen, None, bytes]:
    at = 0
    while len(data) - at >= wire.EVENT_SIZE:
        yield event_of(wire.decode_record(data[at : at + wire.EVENT_SIZE]), plan)
        at += wire.EVENT_SIZE
    return data[at:]


def _tracer_records(data: bytes, _plan: Plan, forward_to: list[int]) -> Generator[Seen, None, bytes]:
    at = 0
    while len(data) - at >= _HEAD.size:
        size, kind, pid, nr, result, *arguments = _HEAD.unpack_from(data, at)
        if len(data) - at < size:
            break
        texts = _texts(data[at + _HEAD.size : at + size])
        at += size
        match kind:
            case 1:
                forward_to.append(pid)
            case 2:
                yield Forked(pid, result)
            case 3:
                yield Became(pid, texts[0].decode("utf-8", "surrogateescape"))
            case 4:
                yield calls.call_of(pid, nr, tuple(arguments), result, texts)
            case 5:
                _stop_as(pid)
            case 6:
                yield Unseen(result)
            case 7:
                yield Killed(pid, result)
            case _:
                raise LaunchError("trace", "the tracer", 0, f"record {kind} is unknown")
    return data[at:]


def _stop_as(launcher: int) -> None:
    """The launcher has stopped as a job of the caller's shell, which knows us and not it."""
    os.kill(os.getpid(), signal.SIGSTOP)
    with contextlib.suppress(ProcessLookupError):
        os.kill(launcher, signal.SIGCONT)


def _texts(data: bytes) -> list[bytes]:
    found, at = [], 0
    while at + 2 <= len(data):
        size = int.from_bytes(data[at : at + 2], "little")
        found.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return found
