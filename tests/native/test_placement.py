"""Placing descriptors: for any source -> number map the program holds exactly that map and nothing else."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sandbox import ops, wire
from sandbox.grants import SAFE_TYPES
from sandbox.plan import Plan, StatusFormat
from tests.support.native import build_harness, build_launcher, memfd_holding
from tests.support.plans import plan_for

OBJECTS = 24
PARKING = 3000  # where this process keeps the objects, out of the way of the numbers under test
HARD_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
HIGHEST = min(HARD_LIMIT, 65536) - 1


@dataclass(frozen=True)
class Stage:
    """What all examples share: the programs, and open files whose identity is known."""

    launcher: Path
    probe: Path
    objects: tuple[int, ...]
    identities: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Case:
    """grants: source number in the caller -> number in the child; extra: what the caller has open besides."""

    grants: Mapping[int, int]
    extra: frozenset[int] = frozenset()
    plan_number: int = 0
    status_number: int | None = None


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("objects")
    with contextlib.ExitStack() as opened:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        objects = []
        for index in range(OBJECTS):
            with open(folder / str(index), "w+b") as file:
                objects.append(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, PARKING))
            opened.callback(os.close, objects[-1])
        identities = tuple((os.fstat(fd).st_dev, os.fstat(fd).st_ino) for fd in objects)
        probe = build_harness("list_descriptors", (), ("-O1", "-static"))
        yield Stage(build_launcher(), probe, tuple(objects), identities)


@contextlib.contextmanager
def parked(fd: int) -> Iterator[int]:
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, PARKING)
    yield copy
    os.close(copy)


def plan_of(case: Case, probe: Path) -> Plan:
    sources = sorted(case.grants)
    by_number = sorted((number, sources.index(source)) for source, number in case.grants.items())
    status = [] if case.status_number is None else [ops.status(case.status_number, StatusFormat.RECORDS)]
    return plan_for(
        [str(probe)],
        launcher=status,
        grants=[
            *(ops.inherit(slot, source, SAFE_TYPES, None, "") for slot, source in enumerate(sources)),
            *(ops.place(slot, number, "") for number, slot in by_number),
        ],
    )


Action: TypeAlias = tuple[int, ...] | tuple[int, int, str, int, int]  # as os.posix_spawn has it


def spawned(argv: list[str], actions: Sequence[Action]) -> int:
    pid = os.posix_spawn(argv[0], argv, {}, file_actions=actions)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def stdio_at_null() -> list[Action]:
    return [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in range(3)]


def started(stage: Stage, case: Case, data: bytes, through: Sequence[str] = ()) -> tuple[int, str]:
    """Start the launcher with exactly the case's numbers open; return its exit code and what the child said."""
    sources = sorted(case.grants)
    used = {*sources, *case.extra, case.plan_number, case.status_number}
    with contextlib.ExitStack() as opened:
        out = os.memfd_create("out", os.MFD_CLOEXEC)
        opened.callback(os.close, out)
        kept = opened.enter_context(memfd_holding(data))
        parked_out, parked_plan = (opened.enter_context(parked(fd)) for fd in (out, kept))
        moves = [(parked_out, 1), (parked_out, 2)]
        moves += [(stage.objects[index], source) for index, source in enumerate(sources)]
        moves += [(stage.objects[-1], number) for number in case.extra]
        moves += [(parked_plan, case.plan_number)]
        if case.status_number is not None:
            moves += [(stage.objects[-2], case.status_number)]
        assert not used & {*stage.objects, parked_out, parked_plan}
        actions: list[Action] = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, *move) for move in moves]
        code = spawned([*through, str(stage.launcher), str(case.plan_number)], actions)
        return code, os.pread(out, 1 << 16, 0).decode()


def assert_placed(stage: Stage, case: Case) -> None:
    code, said = started(stage, case, wire.encode(plan_of(case, stage.probe)))
    assert code == 0, said
    found = {int(line.split()[0]): tuple(map(int, line.split()[1:])) for line in said.splitlines()}
    wanted = {
        case.grants[source]: (*stage.identities[index], 0)  # 0: close-on-exec is off
        for index, source in enumerate(sorted(case.grants))
    }
    assert {number: found[number] for number in found if number > 2} == wanted
    assert {number for number in found if number <= 2} == {0, 1, 2}


def _outside_parking(number: int) -> bool:
    return not PARKING <= number < PARKING + 2 * OBJECTS


LOW = st.integers(3, 14)
NUMBERS = st.one_of(LOW, LOW, st.integers(3, 300), st.integers(HIGHEST - 6, HIGHEST)).filter(_outside_parking)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sources = draw(st.lists(NUMBERS, unique=True, max_size=OBJECTS - 4))
    # Half of the time the numbers are the sources themselves in another order: swaps, cycles, fixed points.
    numbers = draw(st.permutations(sources) | st.just([]))
    if not numbers and sources:
        count = len(sources)
        numbers = draw(st.lists(NUMBERS, unique=True, min_size=count, max_size=count))
    free = NUMBERS.filter(lambda number: number not in sources)
    plan_number, status = draw(st.lists(free, unique=True, min_size=2, max_size=2))
    extra = frozenset(draw(st.sets(free, max_size=8))) - {plan_number, status}
    grants = dict(zip(sources, numbers, strict=True))
    return Case(grants, extra, plan_number, status if draw(st.booleans()) else None)


@given(cases())
@example(Case({3: 4, 4: 3}, plan_number=5))
@example(Case({3: 4, 4: 5, 5: 3}, frozenset({6, 7}), plan_number=8, status_number=9))
@example(Case({3: 3, 4: 4}, plan_number=5))
@example(Case({HIGHEST: 3, 3: HIGHEST}, frozenset({HIGHEST - 1}), plan_number=4))
@example(Case({10 + index: 3 + index for index in range(OBJECTS - 4)}, plan_number=3, status_number=4))
@example(Case({}, frozenset(range(3, 40)), plan_number=50))
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_placement_any_map_gives_exactly_that_map(stage: Stage, case: Case) -> None:
    assert_placed(stage, case)


@pytest.mark.parametrize("closed", range(3, 9))
@pytest.mark.parametrize("status", [None, 20])
def test_placement_source_closed_by_caller_is_refused_and_never_one_of_ours(
    stage: Stage, closed: int, status: int | None
) -> None:
    open_case = Case({closed: 30, 40: 31}, plan_number=50, status_number=status)
    data = wire.encode(plan_of(open_case, stage.probe))
    assert started(stage, open_case, data)[0] == 0  # the twin: it works when the source is open
    code, said = started(stage, Case({40: 31}, plan_number=50, status_number=status), data)
    assert (code, said.split(";")[0]) == (125, "sandbox: inherit: Bad file descriptor")


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_placement_stdio_source_closed_by_caller_is_refused(stage: Stage, closed: int) -> None:
    plan = plan_of(Case({closed: 5}), stage.probe)
    with memfd_holding(wire.encode(plan)) as fd, parked(fd) as plan_fd:
        hand_over = (os.POSIX_SPAWN_DUP2, plan_fd, 9)
        argv = [str(stage.launcher), "9"]
        codes = [spawned(argv, [*stdio_at_null(), *shut, hand_over]) for shut in ([], [(os.POSIX_SPAWN_CLOSE, closed)])]
    assert codes == [0, 125]


def test_placement_number_above_hard_limit_is_refused(stage: Stage) -> None:
    limited = ("/usr/bin/prlimit", "--nofile=64:64")
    inside, outside = (Case({5: number}, plan_number=6) for number in (63, 64))
    assert started(stage, inside, wire.encode(plan_of(inside, stage.probe)), limited)[0] == 0
    code, said = started(stage, outside, wire.encode(plan_of(outside, stage.probe)), limited)
    assert (code, said.split(";")[0]) == (125, "sandbox: place: Bad file descriptor")


def test_launch_plan_on_standard_input_is_refused(stage: Stage) -> None:
    with memfd_holding(wire.encode(plan_of(Case({}), stage.probe))) as fd:
        for number, code, said in ((0, 125, "sandbox: usage: Invalid argument\n"), (fd, 0, "")):
            done = subprocess.run(
                [stage.launcher, str(number)], stdin=fd, pass_fds=[fd], capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stderr) == (code, said)
