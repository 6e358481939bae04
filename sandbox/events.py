"""Events: what the status descriptor tells of a run, as frozen values."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, TypeAlias

from sandbox.errors import LaunchError, PlanError, SandboxError, launch_error
from sandbox.grants import FdType
from sandbox.plan import Plan
from sandbox.sending import KeptHere
from sandbox.wire import Record

# Reasons of the launcher's own (report.h, enum reason): what it tells where there is no errno.
REASONS: Final = {
    -1: "the descriptor is of another type: ",
    -2: "the descriptor has another access mode: ",
    -3: "an undeclared descriptor is left: ",
    -4: "a declared descriptor is missing: ",
    -5: "a descriptor has the wrong close-on-exec flag: ",
    -6: "/proc is absent or is not procfs",
    -7: "/dev/null is not the null device",
    -8: "the secret is larger than 1 MiB",
    -9: "the variable is not set",
    -10: "the interpreter that the file names is missing",
    -11: "the parent process has ended",
    -12: "it is not a sealed memfd",
    -13: "",
    -14: "the launcher must not be set-uid, set-gid or hold file capabilities",
    -15: "too many variables",
    -16: "the child ended before it could start the command",
    -17: "its descriptor is not open; an outer sandbox closes what its profile lets no exec pass (dev-fd)",
    -18: "openat2 is refused: by an older kernel, or by a sandbox around this one, in which no view can be made",
    -19: "there may be no more of them",
    -20: "its path leads to another file by now, or to none; raw takes it as it is",
    -21: "it takes a mount of its own, and so a user namespace, which is refused here; raw does without",
    -24: "the file is larger than a copy may be",
    -25: "it is in /proc, and may be the launcher's own; a file's grant opens it all the same with raw",
    -30: (
        "what only appends, or is relayed, is copied by the supervisor from the start on;"
        " grant it at the start, or as it is: raw"
    ),
    -31: "it is open both ways, and a relay goes one way; say which: read or write",
    -32: "a relay keeps no records apart; it takes sockets of type SOCK_STREAM",
    -33: "somebody holds the lock (flock) of its folder",
    -34: "ended while it waited, by signal ",
    -40: "this file was changed, cut short or added to since it was sealed",
    -41: "there is none",
    -42: "no absolute path stands for it here",
    -43: "the working directory is gone",
    -44: "the working directory would show all of your home folder",
    -45: "it is not in the view",
    -46: "no service manager has passed one descriptor of that name to this process",
    -47: "only root can become another",
    -48: "it does not hold root",
    -49: "an older kernel than the one that it was sealed for; its Landlock ABI is ",
    -50: "the working directory lies in what it hides or replaces",
    -51: (
        "needs a delegated cgroup (version 2) with the cpu controller, "
        "found none, and no resource limit shares processors out"
    ),
    -52: (
        "needs a delegated cgroup (version 2) with the pids controller, "
        "found none, and RLIMIT_NPROC does not hold for root"
    ),
    -53: (
        "needs a delegated cgroup (version 2) with the pids controller, "
        "found none, and RLIMIT_NPROC counts all of the user's"
    ),
}
STEPS: Final = ("usage", "plan", "start", "fork", "supervise", "seal")
_WRONG_TYPE, _WRONG_ACCESS, _CHILD_VANISHED, _ASKED_TO_END, _OLDER_KERNEL = -1, -2, -16, -34, -49


@dataclass(frozen=True, slots=True)
class Started:
    """The command's exec succeeded; `pid` is the child as the launcher sees it."""

    time_ns: int
    pid: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A step failed before exec; nothing of the command was executed."""

    time_ns: int
    error: SandboxError


@dataclass(frozen=True, slots=True)
class Exited:
    """The child ended: `code` is None when it was killed by `signal`, and the other way round.

    timed_out: everything was ended because the time was up.
    """

    time_ns: int
    pid: int
    code: int | None
    signal: int | None
    timed_out: bool = False

    @property
    def returncode(self) -> int:
        """The end in the manner of subprocess: the code, or the negative signal."""
        return self.code if self.code is not None else -(self.signal or 0)


@dataclass(frozen=True, slots=True)
class Executed:
    """A process in the sandbox executes a program, after the command itself; the descriptors' events follow.

    error: the errno that the gate refused it with, or 0. What the kernel says afterwards is not known here.
    """

    time_ns: int
    pid: int
    program: str
    source: str
    error: int


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A descriptor that would have gone along. passed_by: the protocol or grant that let it; None: it was closed."""

    time_ns: int
    pid: int
    number: int
    object: str
    passed_by: str | None


@dataclass(frozen=True, slots=True)
class Received(KeptHere):
    """A message of a channel: its bytes, and descriptors, which are close-on-exec and the receiver's to close."""

    data: bytes
    descriptors: tuple[int, ...] = ()

    def _held(self) -> str:
        return "descriptors" if self.descriptors else ""


class NetworkCall(enum.StrEnum):
    """What a program wants of the network."""

    CONNECT = "connect"
    BIND = "bind"
    LISTEN = "listen"
    SEND = "send"
    SOCKET = "socket"
    OPTION = "option"


class NetworkVerdict(enum.StrEnum):
    """What became of it; inside: it happened in the sandbox's own network."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    INSIDE = "inside"


@dataclass(frozen=True, slots=True)
class Connection:
    """A program has named an address, or asked for a socket that it does not get.

    address: as in tcp:192.0.2.1:443. rule: the rule of the network that decided; None where none fits. program: its
    executable. error: what the call failed with, or 0; a connection that is still being made has EINPROGRESS.
    """

    time_ns: int
    pid: int
    program: str
    call: NetworkCall
    address: str
    verdict: NetworkVerdict
    rule: str | None
    error: int


Event: TypeAlias = Started | Failed | Exited | Executed | Descriptor | Connection


def event_of(record: Record, plan: Plan) -> Event:
    """Return what a record means for the plan that was run.

    Raises: PlanError if the record is of an unknown type.
    """
    match record.type:
        case 1:
            return Started(record.time_ns, record.pid)
        case 2:
            return Failed(record.time_ns, _failure(record, plan))
        case 3:
            code, signal = (None, record.signal) if record.signal else (record.code, None)
            return Exited(record.time_ns, record.pid, code, signal, record.detail == 1)
        case 4:
            return Executed(record.time_ns, record.pid, record.text, record.source, record.error)
        case 5:
            passed_by = plan.ops[record.op].label if record.op >= 0 else None
            return Descriptor(record.time_ns, record.pid, record.detail, record.text, passed_by)
        case 6:
            rule = plan.ops[record.op].label if record.op >= 0 else None
            call, verdict = list(NetworkCall)[record.detail - 1], list(NetworkVerdict)[record.code - 1]
            return Connection(
                record.time_ns, record.pid, record.source, call, record.text, verdict, rule, record.error
            )  # fmt: skip
    raise PlanError("status record", f"type {record.type} is unknown")


def _failure(record: Record, plan: Plan) -> SandboxError:
    reason = REASONS.get(record.error, "")
    if record.error == _WRONG_TYPE:
        reason += str(list(FdType)[record.detail])
    elif record.error == _WRONG_ACCESS:
        reason += ("read", "append" if record.detail & 0o2000 else "write", "read-write", "read-write")[
            record.detail & 3
        ]
    elif -5 <= record.error <= -3 or record.error in (_ASKED_TO_END, _OLDER_KERNEL):
        reason += str(record.detail)
    if record.op < 0:
        return launch_error(STEPS[record.step], "", max(record.error, 0), reason)
    op = plan.ops[record.op]
    if record.error == _CHILD_VANISHED:  # killed, which says nothing of the command, even within its exec
        return LaunchError(op.step, op.label, 0, reason, op.hint)
    return launch_error(op.step, op.label, max(record.error, 0), reason, op.hint)
