"""Running a command under observation: nothing is refused or closed, every exec's descriptors are told."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Collection, Iterator, Sequence

from sandbox import ops, wire
from sandbox.build import command_ops
from sandbox.caller import Caller
from sandbox.events import Event, Executed, Exited, Failed, event_of
from sandbox.grants import FIRST_NUMBER, LAST_NUMBER, FdType
from sandbox.launch import outliving_terminal, seal, status_pipe
from sandbox.plan import Namespace, Plan, StatusFormat, Trace
from sandbox.probe import launcher_path
from sandbox.protocols import PROTOCOLS
from sandbox.survey import Survey, summarise

# struct sock_filter: BPF_RET | BPF_K, SECCOMP_RET_ALLOW. A plan must have a filter; this one lets everything through.
_ALLOW_ALL = (6).to_bytes(8, "little")[:4] + (0x7FFF0000).to_bytes(4, "little")


def survey_command(
    command: Sequence[str],
    caller: Caller,
    inherited: Collection[int] = (),
    *,
    tell: Callable[[int], None] = lambda _execs: None,
) -> tuple[Survey, int]:
    """Run a command to its end with all its descriptors, and sum up what went along at its later execs.

    inherited: the caller's descriptors from 3 up, which the command gets under their own numbers. tell: is called at
    each later exec, with how many there were.
    Returns: the survey, and the command's return code in the manner of subprocess.
    Raises: LaunchError and its kin if the command cannot be started.
    """
    read_end, write_end = status_pipe(inherited)
    plan = observation_plan(command, caller, write_end, inherited)
    plan_fd = seal(plan)
    with outliving_terminal():
        try:
            process = subprocess.Popen([launcher_path(), str(plan_fd)], pass_fds=[plan_fd, write_end, *inherited])
        finally:
            os.close(write_end)
            os.close(plan_fd)
        with open(read_end, "rb", buffering=0) as status:
            events, execs = [], 0
            for event in _read_events(status.fileno(), plan):
                events.append(event)
                if isinstance(event, Executed):
                    execs += 1
                    tell(execs)
        process.wait()
    for event in events:
        if isinstance(event, Failed):
            raise event.error
    ends = [event.returncode for event in events if isinstance(event, Exited)]
    return summarise(events), ends[-1] if ends else process.returncode


def observation_plan(
    command: Sequence[str], caller: Caller, status_fd: int, inherited: Collection[int], *, apart: bool = False
) -> Plan:
    """Return a plan that changes as little as a plan can: everything passes, the gate only watches.

    apart: in a user namespace of its own, whose owner the gate is, so that it sees into those that made themselves
    non-dumpable. Other users' names are not there then.
    """
    every = frozenset(FdType)
    numbers = sorted(fd for fd in inherited if FIRST_NUMBER <= fd <= LAST_NUMBER)
    return Plan(
        (
            ops.status(status_fd, StatusFormat.RECORDS, Trace.EXECS),
            *(
                ops.protocol(protocol.name, rule)
                for protocol in PROTOCOLS.values()
                for rule in protocol.rules
                if protocol.names
            ),
            ops.stdio(every),
            *(ops.inherit(slot, fd, every, None, f"descriptor {fd}", raw=True) for slot, fd in enumerate(numbers)),
            *([ops.namespace(Namespace.USER)] if apart else []),
            ops.capabilities(),
            *(ops.place(slot, fd, f"descriptor {fd}") for slot, fd in enumerate(numbers)),
            ops.sweep(),
            ops.verify(),
            ops.signals(),
            ops.umask(_current_umask()),
            ops.env_keep("*"),
            ops.reset(),
            ops.no_new_privs(),
            ops.gate(observe=True),
            ops.filter_program(_ALLOW_ALL),
            *command_ops(command, caller.environ.get("PATH", os.defpath)),
        ),
        quiet=True,
    )


def _current_umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _read_events(fd: int, plan: Plan) -> Iterator[Event]:
    data = b""
    while chunk := os.read(fd, 65536):
        data += chunk
        while len(data) >= wire.EVENT_SIZE:
            yield event_of(wire.decode_record(data[: wire.EVENT_SIZE]), plan)
            data = data[wire.EVENT_SIZE :]


def open_descriptors() -> list[int]:
    """Return the descriptors from 3 up that this process was started with: its own are close-on-exec."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) >= FIRST_NUMBER and not fcntl.fcntl(int(name), fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                found.append(int(name))
        except OSError:
            continue  # the folder's own, closed since
    return sorted(found)
