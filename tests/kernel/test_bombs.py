"""Programs that take what they can get, and programs that want to stay: held or ended, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from sandbox import limits, ops
from sandbox.limits import Limits
from sandbox.plan import MountFlag, MountKind, Namespace, Op, OpCode, Plan
from tests.support.callers import Ended, launch, started
from tests.support.plans import plan_for
from tests.support.probes import Probes, Verdict, public_folder, verdicts

NOBODY: Final = 65534
MIB: Final = 1 << 20
SECONDS: Final = 30  # until a test gives up
OK: Final = Verdict(0, 0)


def plan_with(command: Sequence[str], limit: Limits, walls: Sequence[Op] = ()) -> Plan:
    """Return a plan with all namespaces and these limits, held without a cgroup.

    Root becomes nobody, since the limit of processes does not hold for root.
    """
    is_root = os.geteuid() == 0
    uid = NOBODY if is_root else os.geteuid()
    own: list[Op] = [ops.namespace(namespace) for namespace in Namespace]
    if is_root:
        own.append(ops.identity(NOBODY, NOBODY))
    return plan_for(command, launcher=list(limits.limit_ops(limit, uid=uid)), walls=[*own, *walls])


def marked(marker: str) -> list[int]:
    """Return the processes of the host that have the marker among their arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def left(marker: str) -> list[int]:
    """Return those of them that are still there when there was time to end. They are killed: a test has failed."""
    deadline = time.monotonic() + SECONDS
    while marked(marker) and time.monotonic() < deadline:
        time.sleep(0.01)
    found = marked(marker)
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return found


@pytest.fixture
def marker(request: pytest.FixtureRequest) -> str:
    return f"marker-{os.getpid()}-{request.node.name}"


@contextmanager
def held(plan: Plan) -> Iterator[tuple[subprocess.Popen[str], Verdict]]:
    """Start a plan and yield it with the first verdict of its command, which goes on."""
    with started(plan, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        (verdict,) = verdicts(process.stdout.readline()).values()
        yield process, verdict


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_fork_bomb_is_held_and_gone_with_its_launcher(probes: Probes, marker: str, number: signal.Signals) -> None:
    """SIGTERM is passed on, and ignored; the time limit then ends it."""
    limit = Limits(processes=12, timeout=2000)
    with held(plan_with([probes["wall_bomb"], "forks", marker], limit)) as (process, verdict):
        assert verdict == Verdict(-1, errno.EAGAIN)
        assert 1 < len(marked(marker)) <= 12
        process.send_signal(number)
        assert process.wait(SECONDS) == (-signal.SIGKILL if number == signal.SIGKILL else 124)
    assert left(marker) == []


def test_limit_of_processes_lets_fewer_be_made(probes: Probes, marker: str) -> None:
    ended = launch(plan_with([probes["wall_bomb"], "some-forks", marker], Limits(processes=12)))
    assert (ended.code, ended.out) == (0, "fork 0 0\n" * 4)
    assert "fork -1 11\n" in launch(plan_with([probes["wall_bomb"], "some-forks", marker], Limits(processes=3))).out
    assert left(marker) == []


def test_memory_bomb_is_held(probes: Probes, marker: str) -> None:
    limit = Limits(memory=64 * MIB)
    assert launch(plan_with([probes["wall_bomb"], "memory", marker], limit)) == Ended(0, "held -1 12\n", "")
    assert launch(plan_with([probes["wall_bomb"], "some-memory", marker], limit)) == Ended(0, "taken 0 0\n", "")


def test_endless_writer_of_a_file_is_ended(probes: Probes) -> None:
    with public_folder() as folder:
        folder.chmod(0o777)
        file = folder / "file"
        ended = launch(plan_with([probes["wall_bomb"], "write", str(file)], Limits(file_size=MIB)))
        assert ended.code == 128 + signal.SIGXFSZ
        assert file.stat().st_size == MIB
        within = plan_with(["/usr/bin/head", "-c", str(MIB), "/dev/zero"], Limits(file_size=MIB))
        with (folder / "output").open("w") as output:
            assert launch(within, stdout=output).code == 0


def test_endless_writer_into_an_empty_folder_finds_it_full(probes: Probes) -> None:
    mounts = [ops.mount(MountKind.BIND, str(probes.folder), MountFlag.EXECUTE), ops.mount(MountKind.PROC, "/proc")]
    for size in (64, 1024):
        folder = ops.mount(MountKind.TMPFS, "/full", MountFlag.WRITE, mode=0o1777, size=size)
        view = [ops.root(), folder, *mounts, ops.enter()]
        plan = plan_with([probes["wall_bomb"], "write", "/full/file"], Limits(), view)
        assert launch(plan) == Ended(0, f"held -1 {errno.ENOSPC}\n", "")


def test_endless_writer_of_output_is_ended_by_time(marker: str) -> None:
    plan = plan_with(["/bin/sh", "-c", "trap '' TERM PIPE; while :; do echo; done 2>&-", marker], Limits(timeout=200))
    assert launch(plan, stdout=subprocess.DEVNULL).code == 124
    assert left(marker) == []


def test_endless_loop_is_ended_by_its_processor_time(probes: Probes, marker: str) -> None:
    plan = plan_with([probes["wall_bomb"], "spin", marker], Limits(cpu_time=1))
    assert launch(plan).code == 128 + signal.SIGXCPU
    assert left(marker) == []


def test_daemons_that_ignore_all_or_are_stopped_end_with_their_sandbox(probes: Probes, marker: str) -> None:
    plan = plan_with([probes["wall_bomb"], "daemons", marker], Limits())
    assert launch(plan) == Ended(0, "daemons 0 0\n", "")
    assert left(marker) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_daemons_end_when_the_launcher_is_killed_or_told_to(
    probes: Probes, marker: str, number: signal.Signals
) -> None:
    script = 'trap "" HUP; "$0" daemons "$1"; exec sleep 1000'
    with held(plan_with(["/bin/sh", "-c", script, probes["wall_bomb"], marker], Limits())) as (process, verdict):
        assert verdict == OK
        assert len(marked(marker)) >= 4
        process.send_signal(number)
        process.wait(SECONDS)
    assert left(marker) == []


# Four orphans that end at once, or as many children that nobody waits for; then the zombies that there are.
ENDED: Final = """
import glob, os, sys, time
if os.fork() == 0:
    for _ in range(4):
        if os.fork() == 0:
            os._exit(0)
    if sys.argv[1] == "orphans":
        os._exit(0)
    time.sleep(60)
if sys.argv[1] == "orphans":
    os.wait()
def state(path):
    try:
        return open(path).read().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"
def zombies():
    return [state(path) for path in glob.glob("/proc/[0-9]*/stat")].count("Z")
wanted = 0 if sys.argv[1] == "orphans" else 4
end = time.monotonic() + 20
while zombies() != wanted and time.monotonic() < end:
    time.sleep(0.01)
print(zombies())
"""


@pytest.mark.parametrize(("kind", "count"), [("orphans", 0), ("children", 4)])
def test_init_reaps_orphans_and_nobody_elses_children(kind: str, count: int) -> None:
    own = [ops.mount(MountKind.BIND, path, MountFlag.EXECUTE) for path in ("/usr", "/lib", "/lib64")]
    view = [ops.root(), *own, ops.mount(MountKind.PROC, "/proc"), ops.enter()]
    assert launch(plan_with(["/usr/bin/python3", "-c", ENDED, kind], Limits(), view)) == Ended(0, f"{count}\n", "")


def test_without_a_pid_namespace_daemons_stay(probes: Probes, marker: str) -> None:
    """What shows that the others would have."""
    plan = plan_with([probes["wall_bomb"], "daemons", marker], Limits())
    shared = replace(plan, ops=tuple(op for op in plan.ops if op.code is not OpCode.NAMESPACE or op.a != Namespace.PID))
    assert launch(shared, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).code == 0
    assert len(marked(marker)) == 4
    for pid in marked(marker):
        os.kill(pid, signal.SIGKILL)
