"""The exec gate: what it adds to each exec and to a build, and what the launcher keeps after many."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from sandbox.plan import OpCode, Plan
from sandbox.probe import launcher_path
from tests.bench import package
from tests.bench.tools import Cost, Spread, make_plan, medians, memfd_of, spread_of, table, taking_turns
from tests.support.native import build_launcher, memfd_holding
from tests.support.plans import CODE, taken_apart

EXECS: Final = 1000  # of a shell's loop
MANY_EXECS: Final = 100_000
WITH, WITHOUT, OUTSIDE = "with the gate", "without the gate", "outside"


@dataclass(slots=True)
class Gate:
    """What was measured. loops: by what there is to close at each exec; many: before and after MANY_EXECS."""

    loops: dict[str, dict[str, Cost]] = field(default_factory=dict)
    builds: dict[str, list[Cost]] = field(default_factory=dict)
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    many: dict[str, tuple[int, int]] = field(default_factory=dict)


def ungated(plan: Plan) -> bytes:
    """Return a plan's bytes without the gate; only the test build of the launcher takes such a plan."""
    parts = taken_apart(plan)
    parts.ops = [fields for fields in parts.ops if fields[CODE] != OpCode.GATE]
    return parts.joined()


@contextmanager
def gated_and_not(command: list[str], writable: Path | None = None) -> Iterator[tuple[dict[str, list[str]], list[int]]]:
    """Yield a command outside, in a sandbox, and in one that differs in the gate only; and the descriptors for it."""
    plan = make_plan(command, writable=writable)
    partial = str(build_launcher(defines=("TEST_PARTIAL_PLANS",)))
    with memfd_of(plan) as whole, memfd_holding(ungated(plan)) as less:
        yield {OUTSIDE: command, WITHOUT: [partial, str(less)], WITH: [partial, str(whole)]}, [whole, less]


def measure(folder: Path, rounds: int, source: Path | None, builds: int) -> Gate:
    """Measure loops of execs, configure and make, and what the launcher keeps."""
    found = Gate()
    loop = f'for ((i = 0; i < {EXECS}; i++)); do "$0"; done'
    for kind, script in {"nothing": loop, "three descriptors": f"exec 5</dev/null 6<&5 7<&5; {loop}"}.items():
        with gated_and_not(["/bin/bash", "-c", script, str(folder / "noop")]) as (rows, fds):
            found.loops[kind] = medians(taking_turns(folder, rows, rounds, fds=fds))
    if builds:
        found.builds = measure_builds(folder, source, builds)
    measure_memory(folder, found)
    return found


def measure_builds(folder: Path, source: Path | None, builds: int) -> dict[str, list[Cost]]:
    """Configure and make a package, each time in a new folder."""
    place = folder / "package"
    if source:
        shutil.copytree(source, place, symlinks=True)
    else:
        package.generate(place)
    script = 'cd "$0" && rm -rf made && mkdir made && cd made && ../configure --quiet && make --silent'
    command = ["/bin/sh", "-c", f"({script}) >/dev/null 2>&1", str(place)]
    with gated_and_not(command, place) as (rows, fds):
        del rows[OUTSIDE]
        return taking_turns(folder, rows, builds, fds=fds)


def kib(pid: int, file: str, name: str) -> int:
    """Return a figure of /proc/PID/FILE."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


@contextmanager
def waiting(folder: Path, count: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Yield a sandbox that waits before COUNT execs, and the process ID of its init."""
    with memfd_of(make_plan([str(folder / "execs"), str(count), str(folder / "noop")])) as fd:
        process = subprocess.Popen(
            [launcher_path(), str(fd)], pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with process:
            expect(process, b"ready\n")
            yield process, int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def expect(process: subprocess.Popen[bytes], line: bytes) -> None:
    """Wait for what the program says next."""
    assert process.stdout is not None
    if (said := process.stdout.readline()) != line:
        sys.exit(f"bench: {line!r} expected, not {said!r}")


def measure_memory(folder: Path, found: Gate) -> None:
    """Look at what waits: launcher and init; then at the launcher after many execs."""
    with waiting(folder, MANY_EXECS) as (process, init):
        time.sleep(0.2)
        for name, pid in (("launcher", process.pid), ("init", init)):
            figures = {"resident": kib(pid, "status", "VmRSS"), "proportional": kib(pid, "smaps_rollup", "Pss")}
            found.memory[name] = {**figures, "page tables": kib(pid, "status", "VmPTE")}

        def look() -> tuple[int, int]:
            return kib(process.pid, "status", "VmRSS"), len(os.listdir(f"/proc/{process.pid}/fd"))

        before = look()
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        expect(process, b"done\n")
        after = look()
        process.stdin.close()
    found.many = {"resident": (before[0], after[0]), "descriptors": (before[1], after[1])}


# ---- the page ----


def together(found: Gate) -> int:
    """Return what launcher and init keep, in kB."""
    return sum(figures["proportional"] for figures in found.memory.values())


def build_spread(found: Gate) -> tuple[Spread, Spread]:
    """Return what configure and make take with the gate to without: wall and processor time."""
    pairs = list(zip(found.builds[WITH], found.builds[WITHOUT], strict=True))
    return (
        spread_of([own.wall / less.wall for own, less in pairs]),
        spread_of([own.processor / less.processor for own, less in pairs]),
    )


def gate_lines(found: Gate) -> Iterator[str]:
    """Yield what the gate costs."""
    heads = (f"{EXECS:,} no-ops, to close at each", "with : without the gate", "the gate, per exec", "inside : outside")
    rows = []
    for kind, costs in found.loops.items():
        own, less, outside = costs[WITH], costs[WITHOUT], costs[OUTSIDE]
        added = [(own.wall - less.wall) / EXECS / 1e3, (own.processor - less.processor) / EXECS / 1e3]
        rows.append(
            [
                kind, f"{own.wall / less.wall:.2f} ({own.processor / less.processor:.2f})",
                f"{added[0]:.0f} us ({added[1]:.0f} us)", f"{own.wall / outside.wall:.2f}",
            ]
        )  # fmt: skip
    yield table(heads, rows)
    if found.builds:
        walls, processors = build_spread(found)
        each = median(cost.wall for cost in found.builds[WITH]) / 1e9
        yield ""
        yield (
            f"`./configure && make` of a package, {walls.count} pairs: {walls}, of processor time {processors}; the"
            f" medians of their ratios, and the quartiles. {each:.1f} s each."
        )
    yield ""
    words = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in found.many.items())
    yield f"The launcher before and after {MANY_EXECS:,} execs: {words} (kB; number)."


def memory_lines(found: Gate) -> Iterator[str]:
    """Yield what launcher and init keep."""
    for role, figures in found.memory.items():
        yield f"The {role} keeps " + ", ".join(f"{figures[kind]} kB {kind}" for kind in figures) + ","
    resident = sum(figures["resident"] for figures in found.memory.values())
    yield f"while the program waits. Together that is {resident} kB, or {together(found)} kB where a page"
    yield "that several processes have counts for its part (PSS)."
