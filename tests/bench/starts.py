"""Starts of a static no-op: alone, with inherited descriptors, many a second, and from a Python that is running."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sandbox.launch import seal
from sandbox.plan import OpCode
from sandbox.probe import launcher_path
from tests.bench import peers, steps
from tests.bench.tools import HERE, MILLION, SANDBOX, Cost, make_plan, medians, sealed, table, taking_turns

NOOP, LIBC, BARE = "fork + exec, nothing else", "static C program", "the same steps in plain C"
NAMESPACES: Final = "seven namespaces, nothing in them"
READY, SEALED, KEPT = "sandbox, ready plan", "sandbox, sealed", "sandbox run, kept plan"
API, SANDLOCK = "sandbox.run", "sandlock"
AT_ONCE: Final = (1, 2, 4, 8)
STARTS_OF_A_TURN: Final = 16
RATED: Final = (SEALED, KEPT, peers.EQUAL, peers.LEAST, peers.NSJAIL)


@dataclass(slots=True)
class Starts:
    """What was measured."""

    costs: dict[int, dict[str, Cost]] = field(default_factory=dict)  # by number of inherited descriptors
    rates: dict[int, dict[str, float]] = field(default_factory=dict)  # starts a second, by how many at once
    python: dict[str, Cost] = field(default_factory=dict)  # from one Python process
    absent: list[str] = field(default_factory=list)


@contextmanager
def commands(folder: Path, nsjail: str | None) -> Iterator[tuple[dict[str, list[str]], list[int]]]:
    """Yield the commands whose start is compared, and the descriptors that they need to inherit."""
    noop = str(folder / "noop")
    plan = make_plan([noop])
    fds = [seal(plan)]
    (folder / "steps").write_text(steps.Bare(plan, folder).text())
    fds += [os.open(folder / f"filter{n}", os.O_RDONLY) for n in range(len(plan.only(OpCode.FILTER)))]
    rows = {
        NOOP: [noop],
        NAMESPACES: [str(folder / "namespaces")],
        LIBC: [str(folder / "empty")],
        BARE: [str(folder / "bare"), str(folder / "steps")],
        READY: [str(launcher_path()), str(fds[0])],
        SEALED: [sealed(folder / "sealed", [noop])],
        KEPT: [SANDBOX, "run", noop],
    }
    try:
        yield peers.present(rows | dict(peers.peers(plan, [noop], fds[1:], nsjail)), fds), fds
    finally:
        for fd in fds:
            os.close(fd)


def measure(folder: Path, rounds: int, counts: Sequence[int], nsjail: str | None, sandlock: str) -> Starts:
    """Measure everything about starts; counts: of inherited descriptors. sandlock: a Python that may have it."""
    found = Starts()
    with commands(folder, nsjail) as (rows, fds):
        found.absent = [name for name in (peers.EQUAL, peers.LEAST, peers.FIREJAIL, peers.NSJAIL) if name not in rows]
        for count in counts:
            found.costs[count] = medians(taking_turns(folder, rows, rounds, fds=fds, extra=count))
        rated = {name: rows[name] for name in RATED if name in rows}
        for at_once in AT_ONCE:
            costs = medians(
                taking_turns(folder, rated, max(rounds, 1), fds=fds, at_once=at_once, starts=STARTS_OF_A_TURN)
            )
            found.rates[at_once] = {name: STARTS_OF_A_TURN * 1e9 / cost.wall for name, cost in costs.items()}
        found.python = from_python(folder, rows, rounds, fds[1:], sandlock)
    if SANDLOCK not in found.python:
        found.absent.append(SANDLOCK)
    return found


def from_python(
    folder: Path, rows: Mapping[str, Sequence[str]], rounds: int, fds: Sequence[int], sandlock: str
) -> dict[str, Cost]:
    """Let one Python process start what is compared, in turn."""
    asked = {name: rows[name] for name in (NOOP, NAMESPACES, BARE, SEALED, peers.EQUAL, peers.LEAST) if name in rows}
    words = [sandlock, str(HERE / "python_start.py"), str(rounds), str(folder / "noop"), str(folder)]
    env = {**os.environ, "BENCH_PACKAGES": sysconfig.get_path("purelib")}
    answer = subprocess.run(
        [*words, json.dumps(asked), *map(str, fds)], pass_fds=fds, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, env=env,
    )  # fmt: skip
    if answer.returncode:
        sys.exit(f"bench: {answer.stderr.strip()}")
    rows_found = json.loads(answer.stdout)
    return medians({name: [Cost(wall, 0) for wall in walls] for name, walls in rows_found.items()})


# ---- the page ----


def ratio(costs: Mapping[str, Cost], name: str) -> float:
    """Return a row's ratio to plain C."""
    return costs[name].wall / costs[BARE].wall


def fair_ratio(costs: Mapping[str, Cost]) -> tuple[float, float]:
    """Return the ready plan's ratio to plain C less what the C library takes for its own start: wall and processor."""
    wall = costs[BARE].wall - costs[LIBC].wall + costs[NOOP].wall
    processor = costs[BARE].processor - costs[LIBC].processor + costs[NOOP].processor
    return costs[READY].wall / wall, costs[READY].processor / processor


def start_table(found: Starts) -> str:
    """Return the table of starts."""
    first = found.costs[0]

    def cells(name: str) -> Iterator[str]:
        yield name
        yield f"{first[name].fast / first[BARE].fast:.2f}"
        for costs in found.costs.values():
            processor = costs[name].processor / costs[BARE].processor
            yield f"{ratio(costs, name):.2f} ({processor:.2f})"

    heads = ["ratio to plain C", "fastest tenth", *(f"{count:,} descriptors" for count in found.costs)]
    return table(heads, [list(cells(name)) for name in first])


def start_notes(found: Starts) -> str:
    """Return what the table's figures stand for, in milliseconds."""
    counts = list(found.costs)
    first, last = found.costs[counts[0]], found.costs[counts[-1]]
    bare = first[BARE]
    return (
        "In brackets: of processor time, of all its processes; fastest tenth: the tenth percentile with no descriptors,"
        f" nearer to an idle machine. At 0 descriptors 1.00 is {bare.wall / MILLION:.2f} ms"
        f" ({bare.processor / MILLION:.2f} ms; fastest tenth {bare.fast / MILLION:.2f} ms)."
        f" {counts[-1]:,} inherited descriptors add {(last[READY].wall - first[READY].wall) / MILLION:.2f} ms to a"
        f" sandbox's start, and {(last[NOOP].wall - first[NOOP].wall) / MILLION:.2f} ms to fork + exec alone."
    )


def python_table(found: Starts) -> str:
    """Return the table of what a Python process starts."""
    base, launcher = found.python[NOOP], found.python[SEALED]

    def cells(name: str, cost: Cost) -> list[str]:
        how = name if name in (API, SANDLOCK) else f"subprocess.run: {name}"
        ratios = (cost.wall / base.wall, cost.wall / launcher.wall)
        return [
            how,
            *(f"{each:.2f}" for each in ratios),
            f"{cost.fast / launcher.fast:.2f}",
            f"{cost.wall / MILLION:.2f}",
        ]

    heads = ("from a running Python", "to fork + exec", "to the sealed file", "the same, fastest tenth", "ms")
    return table(heads, [cells(name, cost) for name, cost in found.python.items()])


def rate_table(found: Starts) -> str:
    """Return the table of starts a second."""
    names = list(next(iter(found.rates.values())))
    heads = ("starts a second", *(f"{at_once} at once" for at_once in found.rates))
    return table(heads, [[name, *(f"{rates[name]:,.0f}" for rates in found.rates.values())] for name in names])
