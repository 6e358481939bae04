"""Fail closed: whichever call of launcher or child fails, wherever either is killed, nothing half-prepared runs."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sandbox import wire
from sandbox.build import build_obtaining
from sandbox.filesystem import FilesystemPolicy
from sandbox.grants import parse_grant
from sandbox.plan import Plan
from sandbox.probe import launcher_path
from sandbox.profile import NetworkMode, Tty
from sandbox.resolve import Additions
from sandbox.syscall_table import NUMBERS
from tests.support.callers import PLAN_FD, Ended, launch, niceness, plan_of, run
from tests.support.native import memfd_holding
from tests.support.probes import Probes

NAMES = {number: name for name, number in NUMBERS.items()}
FCNTL = {
    fcntl.F_GETFD: "F_GETFD",
    fcntl.F_GETFL: "F_GETFL",
    fcntl.F_GET_SEALS: "F_GET_SEALS",
    fcntl.F_SETPIPE_SZ: "F_SETPIPE_SZ",
}
FAULTS = [errno.EPERM, errno.ENOSYS, errno.ENOMEM]
SOCKET = 251  # where what is only obtained goes
GRANT = 9  # a descriptor of the caller's that the plan inherits

# Calls whose failure changes nothing of what the child gets, and why; any other must stop the launch.
HARMLESS = {
    # The kernel frees the number whatever it returns (close(2)); what stays open the sweep closes, and VERIFY sees.
    ("launcher", "close"),
    ("init", "close"),
    ("child", "close"),
    ("apart", "close"),
    # Mounts are then made by another process, in a namespace where that is allowed.
    ("launcher", "capget"),
    # None of these can fail. A wrong process ID would make every comparison of a propagating grant fail, and close it.
    ("launcher", "getpid"),
    ("launcher", "geteuid"),
    ("launcher", "getegid"),
    ("child", "getpid"),
    ("init", "umask"),
    ("child", "umask"),
    # 0, 1 and 2 are then no terminals to relay; the child's own is there all the same.
    ("launcher", "ioctl"),
    # A symlink above a new file system stays unresolved, and mounting there refuses any (RESOLVE_NO_SYMLINKS).
    ("init", "openat2"),
    # Of ENOSYS: clone takes its place, and what that cannot do is done otherwise.
    ("launcher", "clone3"),
    ("init", "clone3"),
    # A memfd is then taken for a file; both are safe types.
    ("launcher", "fcntl F_GET_SEALS"),
    ("apart", "fcntl F_GET_SEALS"),
    # A relay's pipe is then smaller.
    ("launcher", "fcntl F_SETPIPE_SZ"),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call on the way to exec."""

    role: str
    index: int
    name: str
    second: int

    @property
    def kind(self) -> str:
        """The call, with the command where that decides what it does."""
        return f"fcntl {FCNTL.get(self.second, self.second)}" if self.name == "fcntl" else self.name


@dataclass(frozen=True, slots=True)
class Injected:
    """A run under the injector."""

    ended: Ended
    calls: tuple[Call, ...]
    executed: bool


def inject(
    probes: Probes, plan: Plan | bytes, report: Path, role: str = "none", index: int = -1, action: str = "0"
) -> Injected:
    """Run the launcher with a fault; `executed` is what the kernel told of the child's exec."""
    (report.parent / "new").unlink(missing_ok=True)  # or the next run would take another way
    (report.parent / "stale").unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(report.parent / "stale"))
    ended = launch(
        plan,
        launcher=launcher_path(),
        before=[probes["inject"], report, role, str(index), action],
        setup=lambda: os.dup2(os.open("/etc/passwd", os.O_RDONLY), GRANT),
    )
    text = report.read_text()
    rows = re.findall(r"^(launcher|apart|init|child) (\d+) (-?\d+) (-?\d+)$", text, re.MULTILINE)
    calls = tuple(Call(role, int(at), NAMES.get(int(nr), nr), int(second)) for role, at, nr, second in rows)
    return Injected(ended, calls, "executed" in text.splitlines())


@pytest.fixture(params=["descriptors", "walls"])
def plan(
    probes: Probes, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[bytes]:
    """Yield a plan that holds ops of every kind, and whose command would show itself."""
    (tmp_path / "secret").write_text("x" * 20_000)
    (tmp_path / "data").write_text("data")
    monkeypatch.setenv("TOKEN", "value")
    grants = [
        f"i=inherit:{GRANT}", f"f=file:{tmp_path}/data", f"n=file:{tmp_path}/new:write,create",
        f"s=secret:{tmp_path}/secret", "e@40=secret:env:TOKEN",
        f"o=directory:{tmp_path}", f"r=file:{tmp_path}/data:raw",
        f"l=listen:unix:{tmp_path}/stale:mode=600,owner={os.geteuid()}:{os.getegid()}",
        "t=listen:tcp:[::1]:0:ipv6_only,reuse_port", f"c=connect:unix:{tmp_path}/listening",
        f"d=datagram:unix:{tmp_path}/receiving",
        "text=data:some text", f"cp=copy:{tmp_path}/secret", "x=scratch:64K", f"a=file:{tmp_path}/data:append",
    ]  # fmt: skip
    additions = Additions(
        filesystem=FilesystemPolicy(execute=(str(probes.folder),), write=(str(tmp_path),)),
        network=NetworkMode.LOOPBACK,
        limits={"open_files": 100, "timeout": "1h"},
    )
    walls = request.param == "walls"
    attributes: dict[str, Any] = {"nice": niceness(1), "cpus": "0", "tty": Tty.PRIVATE, "notify": True} if walls else {}
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "receiving"))
    command = [probes["mark"], str(marker)]
    with socket.socket(socket.AF_UNIX) as stream, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
        stream.bind(str(tmp_path / "listening"))
        stream.listen(4096)
        datagram.bind(str(tmp_path / "receiving"))
        yield wire.encode(
            plan_of(
                command, *grants, walls=walls, additions=additions if walls else None, chdir=str(tmp_path), **attributes
            )
        )


def up_to_fork(calls: Sequence[Call]) -> list[Call]:
    """Return the calls of launcher and init up to their (last) forks and all of the others', without the two execs."""
    forks = {
        role: max(c.index for c in calls if c.role == role and c.name == "clone3") for role in ("launcher", "init")
    }
    return [
        call
        for call in calls
        if (call.index <= forks[call.role] if call.role in forks else call.name != "execve")
    ]  # fmt: skip


def test_fault_none_the_command_runs(probes: Probes, plan: bytes, marker: Path, tmp_path: Path) -> None:
    whole = inject(probes, plan, tmp_path / "report")
    assert (whole.ended, whole.executed, marker.exists()) == (Ended(0, "", ""), True, True)
    assert {call.name for call in whole.calls} >= {
        "fcntl", "fstat", "mmap", "prlimit64", "close_range", "signalfd4",
        "socketpair", "sendmsg", "prctl", "clone3", "dup3", "openat",
        "getdents64", "memfd_create", "fchmod", "read", "write", "chdir", "umask", "rt_sigprocmask", "seccomp",
        "execve",
        "socket", "bind", "listen", "connect", "setsockopt", "fchownat", "clock_gettime", "unlinkat",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("plan", "error"), [*(("descriptors", error) for error in FAULTS), ("walls", FAULTS[0])], indirect=["plan"]
)
def test_fault_at_each_call_nothing_is_executed(
    probes: Probes, plan: bytes, marker: Path, tmp_path: Path, error: int
) -> None:
    report = tmp_path / "report"
    calls = up_to_fork(inject(probes, plan, report).calls)
    assert len(calls) > 60
    passed: set[tuple[str, str]] = set()
    for call in calls:
        marker.unlink(missing_ok=True)
        faulty = inject(probes, plan, report, call.role, call.index, str(error))
        if faulty.executed:
            assert faulty.ended.code == 0, call
            passed.add((call.role, call.kind))
            continue
        assert not marker.exists(), call
        assert faulty.ended.code == 125, (call, faulty.ended)
        assert re.fullmatch(r"sandbox: [a-z_]+: [^\n]+\n", faulty.ended.err), (call, faulty.ended)
    assert passed <= HARMLESS, passed - HARMLESS


def test_fault_where_a_scratch_file_is_made_nothing_is_executed(probes: Probes, marker: Path, tmp_path: Path) -> None:
    """Alone: of an ordinary user's launcher, the only process apart is then the one that makes it."""
    report, role = tmp_path / "report", "apart" if os.geteuid() else "launcher"
    plan = wire.encode(plan_of([probes["mark"], str(marker)], "x=scratch:64K", profile="untrusted"))
    whole = inject(probes, plan, report)
    assert whole.executed
    calls = [call for call in up_to_fork(whole.calls) if call.role == role]
    assert {call.name for call in calls} >= {"fsopen", "fsconfig", "fsmount", "openat"}
    for call in calls:
        marker.unlink(missing_ok=True)
        for action in (str(errno.EPERM), "kill"):
            faulty = inject(probes, plan, report, role, call.index, action)
            assert faulty.executed == marker.exists()
            if faulty.executed:
                assert (action, (role, call.kind) in HARMLESS) == (str(errno.EPERM), True), call
                marker.unlink()
                continue
            assert faulty.ended.code == (209 if action == "kill" and role == "launcher" else 125), (call, faulty)
        if call.name in ("fsopen", "fsconfig", "fsmount"):
            ended = inject(probes, plan, report, role, call.index, str(errno.EPERM)).ended
            assert ended.err.startswith("sandbox: scratch: grant x: scratch file of 64K: Operation not permitted; ")


@pytest.mark.parametrize(
    "name",
    [
        "close_range", "dup3", "getdents64", "seccomp", "clone3", "socketpair", "sendmsg", "memfd_create", "chdir",
        "listen", "connect",
    ],
)  # fmt: skip
def test_fault_message_names_the_step(probes: Probes, plan: bytes, marker: Path, tmp_path: Path, name: str) -> None:
    steps = {
        "close_range": {"sweep"}, "dup3": {"place"}, "getdents64": {"verify"}, "seccomp": {"gate", "filter"},
        "clone3": {"fork"}, "socketpair": {"start"}, "sendmsg": {"gate", "notify"}, "memfd_create": {"secret", "data"},
        "chdir": {"chdir", "view"}, "listen": {"listen"}, "connect": {"connect", "listen", "notify"},
    }  # fmt: skip
    report = tmp_path / "report"
    calls = [call for call in up_to_fork(inject(probes, plan, report).calls) if call.name == name]
    assert calls
    marker.unlink()
    for call in calls:
        ended = inject(probes, plan, report, call.role, call.index, str(errno.EPERM)).ended
        step, text = ended.err.split(": ")[1], ended.err
        if os.geteuid() and name == "clone3" and step in ("inherit", "scratch"):  # the processes apart
            assert "it takes a mount of its own, and so a user namespace, which is refused here" in text
            continue
        assert step in steps[name], ended
        # Whether a socket is left over is asked by connecting to it; any answer but the one is taken for no.
        asked = (name, step) == ("connect", "listen")
        assert ("Address already in use" if asked else "Operation not permitted") in text
    assert not marker.exists()


def test_fault_of_exec_itself_is_126_or_127(probes: Probes, plan: bytes, marker: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"
    (call,) = [c for c in inject(probes, plan, report).calls if c.role == "child" and c.name == "execve"]
    marker.unlink()
    for error, code in ((errno.EPERM, 126), (errno.EACCES, 126), (errno.E2BIG, 126), (errno.ENOMEM, 126)):
        faulty = inject(probes, plan, report, "child", call.index, str(error))
        assert (faulty.ended.code, faulty.executed, marker.exists()) == (code, False, False)
        assert faulty.ended.err.startswith(f"sandbox: exec: {probes['mark']}: ")
        assert os.strerror(error) in faulty.ended.err


def test_kill_of_child_at_each_call_is_a_failed_start(
    probes: Probes, plan: bytes, marker: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    calls = [call for call in inject(probes, plan, report).calls if call.role == "child"]
    marker.unlink()
    for call in calls:
        killed = inject(probes, plan, report, "child", call.index, "kill")
        assert (killed.executed, marker.exists()) == (False, False), call
        assert killed.ended.code == 125, (call, killed.ended)
        assert "the child ended before it could start the command" in killed.ended.err


def test_kill_of_launcher_at_each_call_leaves_no_command(
    probes: Probes, plan: bytes, marker: Path, tmp_path: Path
) -> None:
    """Up to its fork the launcher is alone; after it the child dies with it, before or after its exec."""
    report = tmp_path / "report"
    calls = [call for call in up_to_fork(inject(probes, plan, report).calls) if call.role == "launcher"]
    marker.unlink()
    for call in calls:
        killed = inject(probes, plan, report, "launcher", call.index, "kill")
        assert (killed.ended.code, killed.executed, marker.exists()) == (209, False, False), call


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM])
@pytest.mark.parametrize("name", ["close_range", "clone3", "signalfd4", "memfd_create", "rt_sigprocmask"])
def test_outer_filter_that_refuses_a_call_nothing_is_executed(
    probes: Probes, plan: bytes, marker: Path, name: str, error: int
) -> None:
    def caller() -> None:
        os.dup2(os.open("/etc/passwd", os.O_RDONLY), GRANT)

    outer = [probes["outer"], str(NUMBERS[name]), str(error), "-"]
    ended = launch(plan, before=outer, setup=caller)
    if (name, error) == ("clone3", errno.ENOSYS):  # clone takes its place
        assert (ended, marker.exists()) == (Ended(0, "", ""), True)
        return
    assert (ended.code, marker.exists()) == (125, False)
    apart = os.geteuid() and name == "clone3"  # refused where files are opened, before anything else
    assert ("so a user namespace, which is refused here" if apart else os.strerror(error)) in ended.err
    twin = launch(plan, before=[probes["outer"], str(NUMBERS["reboot"]), str(error), "-"], setup=caller)
    assert (twin, marker.exists()) == (Ended(0, "", ""), True)


def unshared(script: str) -> list[str]:
    """Return a wrapper: a mount namespace of its own, prepared by a script that then becomes its arguments."""
    options = ["-m"] if os.geteuid() == 0 else ["-rm"]
    return ["/usr/bin/unshare", *options, "--propagation", "private", "/bin/sh", "-ec", script + '; exec "$@"', "sh"]


@pytest.mark.parametrize("prepare", ["mount -t tmpfs none /proc", "mount --bind /tmp /proc"])
def test_proc_absent_or_another_file_system_nothing_is_executed(probes: Probes, marker: Path, prepare: str) -> None:
    plan = plan_of([probes["mark"], marker])
    assert launch(plan, before=unshared("true")) == Ended(0, "", "")
    marker.unlink()
    ended = launch(plan, before=unshared(prepare))
    assert (ended.code, marker.exists()) == (125, False)
    assert ended.err == (
        "sandbox: verify: /proc/self/fd: /proc is absent or is not procfs; the launcher needs a readable /proc\n"
    )  # fmt: skip


def test_null_device_replaced_nothing_is_executed_when_it_is_needed(
    probes: Probes, marker: Path, tmp_path: Path
) -> None:
    (tmp_path / "fake").write_text("secret of somebody\n")
    plan = plan_of([probes["mark"], marker])
    wrapper = unshared(f"mount --bind {tmp_path}/fake /dev/null")
    closed = ["/bin/sh", "-c", 'exec "$@" <&-', "sh"]
    ended = launch(plan, before=[*wrapper, *closed])
    assert (ended.code, marker.exists()) == (125, False)
    assert ended.err == "sandbox: start: /dev/null is not the null device\n"
    assert launch(plan, before=[*unshared("true"), *closed]) == Ended(0, "", "")


def obtained_under_faults(probes: Probes, plan: bytes, report: Path, index: int, action: str) -> tuple[Ended, bool]:
    """Run the launcher so that it only obtains, with a fault; whether a descriptor came."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def setup() -> None:
        os.dup2(theirs.fileno(), SOCKET)
        os.dup2(plan_fd, PLAN_FD)

    with ours, theirs, memfd_holding(plan) as plan_fd:
        before: list[str | Path] = [probes["inject"], report, "launcher", str(index), action]
        ended = run([*before, launcher_path(), "--obtain", str(PLAN_FD), str(SOCKET)], setup=setup)
        theirs.close()
        fds = socket.recv_fds(ours, 8, 1)[1]
        for fd in fds:
            os.close(fd)
        return ended, len(fds) == 1


@pytest.mark.parametrize("words", ["file:{}/data", "data:text", "copy:{}/data", "scratch:64K", "secret:{}/data"])
def test_fault_where_a_grant_is_only_obtained_nothing_is_sent(probes: Probes, tmp_path: Path, words: str) -> None:
    (tmp_path / "data").write_text("data")
    grant = parse_grant("g=" + words.format(tmp_path))
    plan = wire.encode(replace(build_obtaining(grant, 1), quiet=False))
    report = tmp_path / "report"
    assert obtained_under_faults(probes, plan, report, -1, "0") == (Ended(0, "", ""), True)
    calls = [line.split() for line in report.read_text().splitlines() if line.startswith("launcher ")]
    assert len(calls) > 10
    for _, index, number, second in calls[:-1]:  # the last one is its end
        for action in (str(errno.EPERM), "kill"):
            ended, came = obtained_under_faults(probes, plan, report, int(index), action)
            call = Call("launcher", int(index), NAMES.get(int(number), number), int(second))
            if action == "kill":
                assert (ended.code, came) == (209, False), call
            else:
                assert ended.code == (0 if came else 125), (call, ended)
                assert not came or ("launcher", call.kind) in HARMLESS, call
