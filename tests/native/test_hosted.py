"""The whole launcher under the address and undefined-behaviour sanitizers: real plans, real failures, same results."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from sandbox import ops, wire
from sandbox.grants import SAFE_TYPES, Access, FdType
from sandbox.plan import NOTHING_TOLD, Op, OpCode, Plan, StatusFormat, Trace
from sandbox.protocols import PROTOCOLS
from tests.support.native import (
    SANITIZER_ENVIRONMENT,
    build_harness,
    build_launcher,
    hosted_files,
    memfd_holding,
    run_plan,
)
from tests.support.plans import ALLOW_ALL, plan_for

SH = "/bin/sh"
CLOSED = 987  # a number that nobody here has open


@pytest.fixture(scope="module", params=["freestanding", "sanitized"])
def program(request: pytest.FixtureRequest) -> Path:
    """Return the launcher as it is installed, and one that is watched: what one does, the other must do."""
    return build_launcher() if request.param == "freestanding" else build_harness("hosted_main", hosted_files())


def shell(script: str, *grants: Op, **more: object) -> Plan:
    return plan_for([SH, "-c", script], grants=grants, **more)  # type: ignore[arg-type]


def launched(
    program: Path, plan: Plan, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = run_plan(program, plan, environment={"PATH": os.defpath, **SANITIZER_ENVIRONMENT, **(environment or {})})
    assert "Sanitizer" not in done.stderr, done.stderr
    assert "runtime error" not in done.stderr, done.stderr
    return done


def test_hosted_grants_of_each_kind_arrive(program: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from a file")
    (tmp_path / "secret").write_text("from a secret file")
    left, right = socket.socketpair()
    with left, right, tempfile.TemporaryFile() as inherited:
        inherited.write(b"from the caller")
        inherited.seek(0)
        sources = sorted([left.fileno(), inherited.fileno()])
        slot_of = {fd: slot for slot, fd in enumerate(sources)}
        plan = shell(
            "cat <&3; echo; cat <&4; echo; cat <&5; echo; cat <&6; echo; echo out >&7; test -S /proc/self/fd/8",
            *(ops.inherit(slot, fd, SAFE_TYPES, None, "i", raw=True) for slot, fd in enumerate(sources)),
            ops.file(2, str(tmp_path / "in"), Access.READ, create=False, truncate=False, label="f"),
            ops.file(3, str(tmp_path / "out"), Access.APPEND, create=True, truncate=False, label="o"),
            ops.secret_file(4, str(tmp_path / "secret"), "s"),
            ops.secret_env(5, "TOKEN", "e"),
            ops.place(slot_of[inherited.fileno()], 3, "3"), ops.place(2, 4, "4"), ops.place(4, 5, "5"),
            ops.place(5, 6, "6"), ops.place(3, 7, "7"), ops.place(slot_of[left.fileno()], 8, "8"),
        )  # fmt: skip
        done = launched(program, plan, {"TOKEN": "from the environment"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["from the caller", "from a file", "from a secret file", "from the environment"]
    assert (tmp_path / "out").read_text() == "out\n"


def test_hosted_attributes_are_set(program: Path, tmp_path: Path) -> None:
    plan = shell(
        'umask; pwd; echo "$KEPT $SET ${LEFT-unset}"; env | grep -c "^KEPT="',
        attributes=[
            ops.chdir(str(tmp_path)), ops.env_keep("KEPT"), ops.env_keep("KE*"), ops.env_keep("SET"),
            ops.env_set("SET", "new"), ops.env_keep("PATH"),
        ],
        umask=0o27, confinement=[], filters=[ALLOW_ALL] * 4,
    )  # fmt: skip
    done = launched(program, plan, {"KEPT": "kept", "SET": "old", "LEFT": "left"})
    assert done.stdout.splitlines() == ["0027", str(tmp_path), "kept new unset", "1"]


def test_hosted_child_has_default_signals_whatever_the_caller_ignored_or_blocked(program: Path) -> None:
    plan = plan_for(["/bin/cat", "/proc/self/status"])
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    ignored = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGUSR2)}
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN  # Python's own doing
    try:
        with memfd_holding(wire.encode(plan)) as fd:
            done = subprocess.run(
                [program, str(fd)], pass_fds=[fd], restore_signals=False, capture_output=True, text=True, check=False,
                env=SANITIZER_ENVIRONMENT,
            )  # fmt: skip
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, action in ignored.items():
            signal.signal(number, action)
    status = dict(line.split(":\t") for line in done.stdout.splitlines())
    assert [status[name] for name in ("SigBlk", "SigIgn", "SigCgt", "NoNewPrivs")] == ["0" * 16] * 3 + ["1"]


def test_hosted_exec_once_lets_the_command_run_and_no_second_one(program: Path) -> None:
    script = "echo one; exec /bin/echo two"
    once = launched(program, shell(script, confinement=[ops.exec_once()]))
    assert (once.stdout, once.returncode) == ("one\n", 126)
    assert launched(program, shell(script)).stdout == "one\ntwo\n"


@pytest.mark.parametrize("code", [0, 1, 124, 125, 126, 127, 128, 255])
def test_hosted_exit_code_is_the_child_s(program: Path, code: int) -> None:
    assert launched(program, shell(f"exit {code}")).returncode == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGPIPE, 34, 64])
def test_hosted_death_by_signal_is_128_and_its_number(program: Path, number: int) -> None:
    assert launched(program, shell(f"kill -{int(number)} $$")).returncode == 128 + number


@dataclass(frozen=True)
class Failure:
    """A plan that fails: how it ends, and how its message starts."""

    plan: Plan
    message: str
    code: int = 125


def opened(path: Path | str, access: Access = Access.READ, *, create: bool = False) -> Plan:
    return shell("x", ops.file(0, str(path), access, create=create, truncate=False, label="f"), ops.place(0, 3, "p"))


def obtained(op: Op) -> Plan:
    return shell("x", op, ops.place(0, 3, "p"))


MISSING = "No such file or directory"
OTHER_TYPE = "the descriptor is of another type"
FAILURES: dict[str, Callable[[Path], Failure]] = {
    "inherit-closed": lambda _: Failure(
        obtained(ops.inherit(0, CLOSED, SAFE_TYPES, None, "i")), "inherit: i: Bad file"
    ),
    "file-missing": lambda at: Failure(opened(at / "none"), f"open: f: {MISSING}"),
    "file-directory": lambda at: Failure(opened(at), f"open: f: {OTHER_TYPE}: directory"),
    "file-fifo": lambda at: Failure(opened(at / "fifo"), f"open: f: {OTHER_TYPE}: pipe"),
    "file-device": lambda _: Failure(opened("/dev/null"), f"open: f: {OTHER_TYPE}: char-device"),
    "create-below-nothing": lambda at: Failure(
        opened(at / "none" / "file", Access.WRITE, create=True), f"open: f: {MISSING}"
    ),
    "create-over-directory": lambda at: Failure(opened(at, Access.WRITE, create=True), f"open: f: {OTHER_TYPE}"),
    "secret-unset": lambda _: Failure(obtained(ops.secret_env(0, "NOPE", "s")), "secret: s: the variable is not set"),
    "secret-too-large": lambda at: Failure(
        obtained(ops.secret_file(0, str(at / "large"), "s")), "secret: s: the secret is larger than 1 MiB"
    ),
    "stdio-type": lambda _: Failure(shell("x", stdio=[FdType.TTY]), f"stdio: standard stream: {OTHER_TYPE}: null"),
    "chdir-missing": lambda _: Failure(shell("x", attributes=[ops.chdir("/none")]), f"chdir: /none: {MISSING}"),
    "filter-invalid": lambda _: Failure(shell("x", filters=[b"\xff" * 8]), "filter: 1 instructions: Invalid argument"),
    "status-closed": lambda _: Failure(
        shell("x", launcher=[ops.status(CLOSED, StatusFormat.JSON)]), f"status: status descriptor {CLOSED}: Bad file"
    ),
    "parent-gone": lambda _: Failure(
        shell("x", launcher=[ops.die_with_parent(1)]), "parent: process 1: the parent process has ended"
    ),
    "command-missing": lambda _: Failure(plan_for(["/none", "x"]), f"exec: /none: {MISSING}", 127),
    "command-not-executable": lambda at: Failure(plan_for([str(at / "large")]), f"exec: {at}/large: Permission", 126),
    "command-directory": lambda _: Failure(plan_for(["/"]), "exec: /: Permission denied", 126),
    "command-interpreter-missing": lambda at: Failure(
        plan_for([str(at / "script")]), f"exec: {at}/script: the interpreter that the file names is missing", 126
    ),
    "command-garbage": lambda at: Failure(plan_for([str(at / "garbage")]), f"exec: {at}/garbage: Exec format", 126),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    for name, text in (("script", "#!/none/here\n"), ("garbage", "\x7fnothing")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("name", FAILURES)
def test_hosted_failing_step_is_named_and_nothing_runs(program: Path, folder: Path, name: str) -> None:
    failure = FAILURES[name](folder)
    done = launched(program, failure.plan)
    assert (done.returncode, done.stdout) == (failure.code, "")
    assert done.stderr.startswith("sandbox: " + failure.message), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("wanted", "flags", "good"),
    [
        (Access.READ, os.O_RDONLY, True),
        (Access.READ, os.O_RDWR, False),
        (Access.WRITE, os.O_WRONLY, True),
        (Access.WRITE, os.O_WRONLY | os.O_APPEND, False),
        (Access.APPEND, os.O_WRONLY | os.O_APPEND, True),
        (Access.APPEND, os.O_WRONLY, False),
        (Access.READ_WRITE, os.O_RDWR, True),
        (Access.READ_WRITE, os.O_RDONLY, False),
        (None, os.O_RDWR | os.O_APPEND, True),
    ],
)
def test_hosted_inherited_access_must_be_the_declared_one(
    program: Path, tmp_path: Path, wanted: Access | None, flags: int, good: bool
) -> None:
    fd = os.open(tmp_path / "file", flags | os.O_CREAT, 0o600)
    try:
        done = launched(program, obtained(ops.inherit(0, fd, SAFE_TYPES, wanted, "i")))
    finally:
        os.close(fd)
    refused = "sandbox: inherit: i: the descriptor has another access mode"
    assert done.stderr.startswith(refused) is not good


def test_hosted_path_search_goes_on_after_missing_and_forbidden_candidates(program: Path, folder: Path) -> None:
    candidates = ["/none/sh", f"{folder}/large/sh", f"{folder}/large", SH]
    done = launched(program, shell("echo found", candidates=candidates))
    assert (done.stdout, done.returncode) == ("found\n", 0)
    done = launched(program, shell("x", candidates=candidates[:3]))
    assert (done.returncode, done.stdout) == (126, "")
    done = launched(program, shell("x", candidates=candidates[:2]))
    assert (done.returncode, done.stdout) == (127, "")


class Running:
    """A launcher at work, its status pipe, and the records that came."""

    def __init__(
        self, program: Path, script: str, *grants: Op, form: StatusFormat = StatusFormat.RECORDS,
        told: Trace = NOTHING_TOLD, more_ops: Sequence[Op] = (), environment: Mapping[str, str] | None = None,
        **more: object,
    ) -> None:  # fmt: skip
        self.status, write_end = os.pipe()
        plan = shell(script, *grants, launcher=[ops.status(write_end, form, told), *more_ops], **more)
        inherited = [op.b for op in plan.only(OpCode.INHERIT) if op.b != CLOSED]
        with memfd_holding(wire.encode(plan)) as fd:
            self.process = subprocess.Popen(
                [program, str(fd)], pass_fds=[fd, write_end, *inherited], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env={"PATH": os.defpath, **SANITIZER_ENVIRONMENT, **(environment or {})},
            )  # fmt: skip
        os.close(write_end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        if self.status >= 0:
            os.close(self.status)

    def record(self) -> wire.Record:
        return wire.decode_record(os.read(self.status, wire.EVENT_SIZE))

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def close_status(self) -> None:
        os.close(self.status)
        self.status = -1

    def ended(self, timeout: float = 20) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err


LEAKING = "exec 7</etc/passwd 8</etc/group; /bin/ls -v /proc/self/fd /dev/fd/8; /bin/true"
DEV_FD = ops.protocol("dev-fd", PROTOCOLS["dev-fd"].rules[0])


def test_hosted_gate_closes_what_an_exec_does_not_name_and_tells_it(program: Path) -> None:
    read_end, write_end = os.pipe()
    launcher = [ops.status(write_end, StatusFormat.RECORDS, told=Trace.EXECS), DEV_FD]
    done = launched(program, shell(LEAKING, launcher=launcher))
    os.close(write_end)
    with open(read_end, "rb") as status:
        data = status.read()
    records = [wire.decode_record(data[at : at + wire.EVENT_SIZE]) for at in range(0, len(data), wire.EVENT_SIZE)]
    assert done.stdout.split() == ["/dev/fd/8", "/proc/self/fd:", "0", "1", "2", "3", "8"]
    assert [record.type for record in records] == [1, 4, 5, 5, 4, 5, 5, 3]
    assert [record.text for record in records if record.type == 4] == ["/bin/ls", "/bin/true"]
    told = [(record.detail, record.code, record.op >= 0, record.text) for record in records if record.type == 5]
    passwd, group = "/etc/passwd", "/etc/group"
    assert told == [(7, 2, False, passwd), (8, 1, True, group), (7, 2, False, passwd), (8, 2, False, group)]


def test_hosted_gate_that_observes_closes_nothing(program: Path) -> None:
    done = launched(program, shell(LEAKING, launcher=[DEV_FD], confinement=[ops.gate(observe=True)]))
    assert done.stdout.split() == ["/dev/fd/8", "/proc/self/fd:", "0", "1", "2", "3", "7", "8"]


def test_hosted_gate_tells_execs_as_json_and_on_standard_error(program: Path) -> None:
    with Running(program, LEAKING, form=StatusFormat.JSON, told=Trace.EXECS, more_ops=[ops.trace(), DEV_FD]) as running:
        code, _, err = running.ended()
        with open(os.dup(running.status), encoding="utf-8") as status:
            events = [json.loads(line) for line in status]
    assert code == 0
    assert [event["event"] for event in events] == [
        "started", "exec", "descriptor", "descriptor",
        "exec", "descriptor", "descriptor", "exited",
    ]  # fmt: skip
    assert (events[1]["program"], events[1]["error"]) == ("/bin/ls", 0)
    assert (events[2]["number"], events[2]["verdict"], events[2]["object"]) == (7, "closed", "/etc/passwd")
    assert (events[3]["number"], events[3]["verdict"], events[3]["rule"]) == (8, "passed", "dev-fd")
    assert "rule" not in events[2]
    pid = events[1]["pid"]
    assert err.splitlines()[:3] == [
        f"sandbox: exec: {pid} /bin/ls",
        f"sandbox: exec: {pid}:   7 closed -> /etc/passwd",
        f"sandbox: exec: {pid}:   8 passed (dev-fd) -> /etc/group",
    ]


def test_hosted_grant_that_propagates_passes_and_another_does_not(program: Path) -> None:
    def opened_at(slot: int) -> Op:
        return ops.file(slot, "/etc/passwd", Access.READ, create=False, truncate=False, label="f")

    grants = [opened_at(0), opened_at(1), ops.place(0, 5, "a"), ops.place(1, 6, "b", propagate=True)]
    done = launched(
        program, shell("/bin/ls -v /proc/self/fd; exec 6<&-; exec 6</etc/group; /bin/ls /proc/self/fd", *grants)
    )
    assert done.stdout.split() == ["0", "1", "2", "3", "6", "0", "1", "2", "3"]


def test_hosted_records_tell_start_and_end(program: Path) -> None:
    before = time.time_ns()
    with Running(program, "exit 7") as running:
        first, second = running.record(), running.record()
        assert running.ended() == (7, "", "")
        assert os.read(running.status, 1) == b""
    assert (first.type, second.type, second.code, second.signal) == (1, 3, 7, 0)
    assert first.pid == second.pid > 0
    assert before <= first.time_ns <= second.time_ns <= time.time_ns()


def test_hosted_record_of_a_failure_names_op_and_errno(program: Path) -> None:
    with Running(program, "x", attributes=[ops.chdir("/none")], quiet=True) as running:
        record = running.record()
        assert running.ended() == (125, "", "")
    plan = shell("x", launcher=[ops.status(9, StatusFormat.RECORDS)], attributes=[ops.chdir("/none")])
    assert (record.type, record.pid, record.error) == (2, 0, errno.ENOENT)
    assert plan.ops[record.op].code is OpCode.CHDIR


def test_hosted_failure_before_the_fork_reaches_the_status_descriptor(program: Path) -> None:
    grants = [ops.inherit(0, CLOSED, SAFE_TYPES, None, "i"), ops.place(0, 3, "p")]
    with Running(program, "x", *grants, quiet=True) as running:
        record = running.record()
        assert running.ended() == (125, "", "")
    assert (record.type, record.error) == (2, errno.EBADF)


def test_hosted_json_lines_are_json_even_with_hostile_labels(program: Path) -> None:
    label = '"\\\x01\x7fé' * 30
    grants = [ops.file(0, "/none", Access.READ, create=False, truncate=False, label=label), ops.place(0, 3, "p")]
    with Running(program, "x", *grants, form=StatusFormat.JSON) as running:
        event = json.loads(os.read(running.status, 8192))
        running.ended()
    assert (event["event"], event["code"], event["step"], event["object"]) == ("failed", 125, "open", label)
    with Running(program, "kill -9 $$", form=StatusFormat.JSON) as running:
        running.ended()
        events = [json.loads(line) for line in os.read(running.status, 8192).splitlines()]
    assert [event["event"] for event in events] == ["started", "exited"]
    assert (events[1]["signal"], "code" in events[1]) == (9, False)


def test_hosted_status_reader_that_is_gone_does_not_harm_the_child(program: Path) -> None:
    # The write of the record gives the supervisor a SIGPIPE, which is its own and no message to the child.
    with Running(program, "sleep 0.2; echo alive") as running:
        running.close_status()
        assert running.ended() == (0, "alive\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH, signal.SIGPIPE, 40])
def test_hosted_signals_are_forwarded(program: Path, number: int) -> None:
    # `wait` and not a foreground sleep: the shell runs its trap at once.
    with Running(program, f"trap 'echo got; exit 3' {int(number)}; echo ready; sleep 20 & wait") as running:
        assert running.line() == "ready\n"
        running.process.send_signal(number)
        assert running.line() == "got\n"
        assert running.process.wait(20) == 3


def test_hosted_alarm_of_the_caller_reaches_the_child(program: Path) -> None:
    with memfd_holding(wire.encode(shell("exec sleep 20"))) as fd:
        alarm = "import os, signal, sys; signal.alarm(1); os.execv(sys.argv[1], sys.argv[1:])"
        command: list[str | Path] = [sys.executable, "-c", alarm, program, str(fd)]
        done = subprocess.run(command, pass_fds=[fd], timeout=15, check=False, env=SANITIZER_ENVIRONMENT)
    assert done.returncode == 128 + signal.SIGALRM


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_hosted_launcher_stops_and_continues_with_the_child(program: Path) -> None:
    with Running(program, "echo ready; exec sleep 60") as running:
        pid = running.record().pid
        assert running.line() == "ready\n"
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: (state_of(pid), state_of(running.process.pid)) == ("T", "T"))
        running.process.send_signal(signal.SIGCONT)
        wait_until(lambda: "T" not in (state_of(pid), state_of(running.process.pid)))
        running.process.terminate()
        assert running.ended()[0] == 128 + signal.SIGTERM


def test_hosted_killed_launcher_takes_the_child_along(program: Path) -> None:
    with Running(program, "exec sleep 60") as running:
        pid = running.record().pid
        watched = os.pidfd_open(pid)
        running.process.kill()
        assert select.select([watched], [], [], 20)[0]
        os.close(watched)


@pytest.mark.parametrize(
    ("confinement", "propagate", "gates"),
    [([ops.exec_once()], False, 0), ([ops.gate()], False, 1), ([ops.gate()], True, 1)],
)
def test_hosted_supervisor_holds_nothing_of_the_child_s_but_what_propagates(
    program: Path, confinement: list[Op], propagate: bool, gates: int
) -> None:
    with tempfile.TemporaryFile() as inherited:
        grants = [
            ops.inherit(0, inherited.fileno(), SAFE_TYPES, None, "i", raw=True), ops.secret_env(1, "TOKEN", "e"),
            ops.place(0, 3, "p", propagate=propagate), ops.place(1, 4, "q"),
        ]  # fmt: skip
        more = {"confinement": confinement, "environment": {"TOKEN": "very secret"}}
        with Running(program, "read line", *grants, **more) as running:  # type: ignore[arg-type]
            running.record()  # it is told after the supervisor has closed its copies
            at = Path(f"/proc/{running.process.pid}")
            if os.geteuid() == 0:  # it is not dumpable: nobody else can look
                links = {int(link.name): os.readlink(link) for link in (at / "fd").iterdir()}
                status = os.readlink(f"/proc/self/fd/{running.status}")
                assert (links.pop(0), links.pop(1)) == ("/dev/null", "/dev/null")
                assert links.pop(2).startswith("pipe:")
                held = [os.readlink(f"/proc/self/fd/{inherited.fileno()}")] if propagate else []
                own = ["anon_inode:[signalfd]", "anon_inode:[pidfd]", "socket", status]
                own += ["anon_inode:seccomp notify"] * gates
                named = ["socket" if link.startswith("socket:") else link for link in links.values()]
                assert sorted(named) == sorted(own + held)
                assert b"very secret" not in (at / "environ").read_bytes()
            else:
                with pytest.raises(PermissionError):
                    (at / "environ").read_bytes()
            running.process.terminate()
            # Its standard input stays open until then: an end of file would race with the signal.
            assert running.process.wait(20) == 128 + signal.SIGTERM
