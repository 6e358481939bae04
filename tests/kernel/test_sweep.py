"""L1: whatever the caller holds, under whatever numbers, the child has its streams and its grants."""

from __future__ import annotations

import fcntl
import os
import pty
import resource
import select
import socket
import subprocess
import threading
from pathlib import Path

import pytest

import sandbox
from tests.support.callers import Ended, launch, plan_of, run, shown
from tests.support.callers import sandbox as command_line
from tests.support.probes import Probes, table

ALL_NUMBERS = 1 << 20


def every_kind() -> list[int]:
    """Open one descriptor of each kind that an ordinary user can have."""
    left, right = socket.socketpair()
    master, slave = pty.openpty()
    poll = select.epoll()
    return [
        os.open("/etc/passwd", os.O_RDONLY),
        os.open("/", os.O_RDONLY | os.O_DIRECTORY),
        os.open("/", os.O_PATH),
        os.open("/proc/self/ns/net", os.O_RDONLY),
        os.open("/proc/self/environ", os.O_RDONLY),
        *(s.detach() for s in (left, right, socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM))),
        *os.pipe(), master, slave,
        os.memfd_create("x"), os.pidfd_open(os.getpid()), os.eventfd(0), os.dup(poll.fileno()),
    ]  # fmt: skip


def spread(kinds: list[int], numbers: list[int]) -> None:
    for index, number in enumerate(numbers):
        os.dup2(kinds[index % len(kinds)], number, inheritable=True)
    for fd in kinds:
        os.set_inheritable(fd, True)


def hold_thousands() -> None:
    """Fill the table: what the kinds need, the named numbers, thousands between, the highest one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    highest = hard - 1
    numbers = [3, 4, 63, 255, 1023, 1024, 2048, highest]
    numbers += [n for n in range(300, min(highest, 8000)) if n % 5 and n not in numbers]
    kinds = [fcntl.fcntl(fd, fcntl.F_DUPFD, 8200 if highest > 9000 else 600) for fd in every_kind()]
    spread(kinds, numbers)


def seen(ended: Ended) -> set[int]:
    assert (ended.code, ended.err) == (0, ""), ended
    return set(table(ended.out).numbers)


@pytest.mark.parametrize("soft_limit", [None, 64])
def test_sweep_caller_holds_thousands_child_has_streams_and_grants(
    probes: Probes, tmp_path: Path, soft_limit: int | None
) -> None:
    (tmp_path / "input").write_text("x")
    plan = plan_of([probes["fds"], str(ALL_NUMBERS)], f"a=file:{tmp_path}/input", "b@900=inherit:1024:file")
    plan_numbers = {op.b for op in plan.ops if op.code.name == "PLACE"}
    assert plan_numbers == {3, 900}

    # Which kind stands at 1024 is the caller's; only a file is taken, so it is put there after the others.
    def prepare() -> None:
        hold_thousands()
        os.dup2(os.open("/etc/passwd", os.O_RDONLY), 1024)
        if soft_limit:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    assert seen(launch(plan, setup=prepare)) == {0, 1, 2, 3, 900}
    # The twin: the same caller without the launcher shows them, so that it is the sweep which is seen above.
    assert len(seen(run([probes["fds"], str(ALL_NUMBERS)], setup=prepare))) > 5000


def test_sweep_command_line_with_every_kind_child_has_streams_only(probes: Probes) -> None:
    def caller() -> None:
        spread(every_kind(), [3, 4, 63, 255, 1000])

    assert seen(command_line("--", probes["fds"], setup=caller)) == {0, 1, 2}
    assert len(seen(run([probes["fds"]], setup=caller))) > 20


def test_sweep_rare_kinds_child_has_streams_only(probes: Probes) -> None:
    rare = ["epoll", "timerfd", "signalfd", "inotify", "fanotify", "userfaultfd", "io_uring", "pidfd", "namespace"]
    held = [word for number, kind in enumerate([*rare, "path", "tty"], start=20) for word in (kind, str(number))]
    plan = plan_of([probes["fds"]])
    assert seen(launch(plan, before=[probes["hold"], *held, "--"])) == {0, 1, 2}
    twin = seen(run([probes["hold"], *held, "--", probes["fds"]]))
    assert set(range(20, 20 + len(rare) + 2)) <= twin


def test_sweep_child_inherits_nothing_of_launcher_at_a_second_exec(probes: Probes) -> None:
    assert seen(launch(plan_of(["sh", "-c", f"exec {probes['fds']}"]))) == {0, 1, 2}


def test_sweep_grants_survive_exec_and_are_not_close_on_exec(probes: Probes, tmp_path: Path) -> None:
    (tmp_path / "input").write_text("x")
    ended = launch(plan_of([probes["fds"]], f"a=file:{tmp_path}/input"))
    numbers = table(ended.out).numbers
    assert set(numbers) == {0, 1, 2, 3}
    assert not any(entry.cloexec for entry in numbers.values())


def test_sweep_placing_above_a_lowered_limit_works_and_limit_is_kept(probes: Probes, tmp_path: Path) -> None:
    (tmp_path / "input").write_text("x")

    def caller() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    ended = launch(plan_of(["sh", "-c", "ulimit -n; cat <&8"], f"a@8=file:{tmp_path}/input"), setup=caller)
    assert ended == Ended(0, "64\nx", "")
    ended = launch(plan_of([probes["fds"]], f"a@1000=file:{tmp_path}/input"), setup=caller)
    assert seen(ended) == {0, 1, 2, 1000}


def test_sweep_caller_with_many_descriptors_and_low_limit_child_can_open() -> None:
    """sandlock#191: numbers that the caller uses must not count against the child."""

    def caller() -> None:
        spread([os.open("/", os.O_PATH)], list(range(3, 100)))
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    script = "exec 3</dev/null 4</dev/null 5</dev/null 6</dev/null 7</dev/null 8</dev/null 9</dev/null; echo ok"
    assert launch(plan_of(["bash", "-c", script]), setup=caller) == Ended(0, "ok\n", "")


def test_sweep_thread_opens_inheritable_descriptors_no_child_sees_one(probes: Probes) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def churn() -> None:
        try:
            while not stop.is_set():
                fd = os.open("/etc/passwd", os.O_RDONLY)
                os.set_inheritable(fd, True)
                os.close(fd)
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(25):
            done = sandbox.run(
                [probes["fds"], "4096"],
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                **shown(probes["fds"]),
            )
            assert set(table(done.stdout).numbers) == {0, 1, 2}
    finally:
        stop.set()
        thread.join()
    assert not failures


def test_sweep_api_caller_with_leaky_descriptors_child_has_streams_only(probes: Probes) -> None:
    held = [os.dup(0) for _ in range(50)]
    try:
        for fd in held:
            os.set_inheritable(fd, True)
        done = sandbox.run(
            [probes["fds"]], capture_output=True, text=True, stdin=subprocess.DEVNULL, **shown(probes["fds"])
        )
        assert set(table(done.stdout).numbers) == {0, 1, 2}
    finally:
        for fd in held:
            os.close(fd)
