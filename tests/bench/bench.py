"""Measure start-up and memory side by side in one run; print a table and write docs/performance.md.

    bench.py [--rounds N] [--output FILE]

Every figure is a ratio of medians of runs that took turns (A B C A B C ...), so that the machine's drift hits all
alike.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.build import build
from sandbox.caller import Caller
from sandbox.launch import Popen, seal
from sandbox.plan import OpCode, Plan
from sandbox.probe import launcher_path
from sandbox.profile_files import default_search_path, load
from sandbox.resolve import for_caller

HERE: Final = Path(__file__).resolve().parent
STATIC: Final = ("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static")
EXECS: Final = 200
SPARE_DESCRIPTORS: Final = 100  # left of the hard limit for what the programs themselves open


@dataclass(frozen=True, slots=True)
class Row:
    """One command of a comparison, and its medians in nanoseconds by number of inherited descriptors."""

    name: str
    command: tuple[str, ...]


def compile_tools(folder: Path) -> None:
    """Compile the harness, the no-op program and the plain C version of the launcher's steps."""
    for name in ("spawn", "bare"):
        subprocess.run([*STATIC, "-o", folder / name, HERE / f"{name}.c"], check=True)
    subprocess.run([*STATIC, "-nostdlib", "-ffreestanding", "-o", folder / "noop", HERE / "noop.c"], check=True)


def make_plan(command: list[str]) -> Plan:
    """Compile the plan of `sandbox run -p untrusted -- COMMAND`."""
    caller = Caller.of_process(parent_pid=os.getpid())
    profile = for_caller(load("untrusted", search=default_search_path(os.environ)), caller)
    return build(profile, command, caller)


@contextmanager
def comparison(folder: Path) -> Iterator[tuple[list[Row], list[int]]]:
    """Yield the commands to compare, and the descriptors that they need to inherit."""
    noop = str(folder / "noop")
    plan = make_plan([noop])
    filters = []
    for index, op in enumerate(plan.only(OpCode.FILTER)):
        (folder / f"filter{index}").write_bytes(op.data)
        filters.append(str(folder / f"filter{index}"))
    fd = seal(plan)
    os.set_inheritable(fd, True)
    rows = [
        Row("fork + exec, nothing else", (noop,)),
        Row("the same steps in plain C", (str(folder / "bare"), *filters, "++", noop)),
        Row("sandbox, ready plan", (str(launcher_path()), str(fd))),
        Row("setpriv --no-new-privs", ("/usr/bin/setpriv", "--no-new-privs", noop)),
        Row("bubblewrap --dev-bind / /", ("/usr/bin/bwrap", "--dev-bind", "/", "/", noop)),
    ]
    try:
        yield rows, [fd]
    finally:
        os.close(fd)


def measure(folder: Path, rows: list[Row], fds: list[int], extra: int, rounds: int) -> list[float]:
    """Run all commands in turn with `extra` inherited descriptors; return each one's median in nanoseconds."""
    words = [str(folder / "spawn"), str(rounds), str(extra)]
    for index, row in enumerate(rows):
        words += ["--"] * (index > 0) + list(row.command)
    answer = subprocess.run(words, pass_fds=fds, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if answer.returncode:
        sys.exit(f"bench: {answer.stderr.strip()}")
    table = [[int(cell) for cell in line.split()] for line in answer.stdout.splitlines()]
    return [statistics.median(column) for column in zip(*table, strict=True)]


def resident_bytes() -> dict[str, int]:
    """Return what the waiting launcher keeps: resident, of that anonymous, and page tables."""
    with Popen(["sleep", "60"]) as process:
        time.sleep(0.3)
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        process.kill()
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
    return {"resident": values["VmRSS"], "anonymous": values["RssAnon"], "page tables": values["VmPTE"]}


def gate_costs(folder: Path, rounds: int) -> dict[str, float]:
    """Return how much longer a shell takes for EXECS no-op programs inside a sandbox than outside, as ratios."""
    loop = f'for ((i = 0; i < {EXECS}; i++)); do "$0"; done'
    kinds = {"nothing to close": loop, "three descriptors to close": f"exec 5</dev/null 6<&5 7<&5; {loop}"}
    ratios = {}
    for kind, script in kinds.items():
        command = ["/bin/bash", "-c", script, str(folder / "noop")]
        fd = seal(make_plan(command))
        os.set_inheritable(fd, True)
        rows = [Row("outside", tuple(command)), Row("inside", (str(launcher_path()), str(fd)))]
        outside, inside = measure(folder, rows, [fd], 0, rounds)
        os.close(fd)
        ratios[kind] = inside / outside
    return ratios


def report(
    rows: list[Row],
    counts: list[int],
    medians: dict[int, list[float]],
    gate: dict[str, float],
    memory: dict[str, int],
    rounds: int,
) -> str:
    """Return the results as a page."""
    lines = [
        "# Performance",
        "",
        f"Written by `make bench` on Linux {platform.release()}, {os.cpu_count()} processors, {rounds} rounds in which",
        "the commands took turns. A figure is the median time from start to end of a static program that does nothing,",
        "and its ratio to the same steps written down in plain C (`tests/bench/bare.c`), which do not know plans,",
        "grants, status records or the exec gate. Single figures vary with the machine; compare the ratios.",
        "",
        "| inherited descriptors | " + " | ".join(f"{count:,}" for count in counts) + " |",
        "|---" * (len(counts) + 1) + "|",
    ]
    for index, row in enumerate(rows):
        cells = [f"{medians[n][index] / 1e6:.2f} ms, {medians[n][index] / medians[n][1]:.2f} x" for n in counts]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    ours = [medians[n][2] for n in counts]
    lines += [
        "",
        f"What {counts[-1]:,} inherited descriptors add to a sandbox's start: {(ours[-1] - ours[0]) / 1e6:.2f} ms; to",
        f"fork + exec alone: {(medians[counts[-1]][0] - medians[counts[0]][0]) / 1e6:.2f} ms.",
        "",
        f"A shell that executes {EXECS} such programs, inside a sandbox compared with outside:",
        *(f"{ratio:.2f} x with {kind};" for kind, ratio in gate.items()),
        "the gate looks at each exec.",
        "",
        "The waiting launcher keeps " + ", ".join(f"{value // 1024} kB {name}" for name, value in memory.items()) + ".",
        "",
        "bubblewrap has a mount namespace here and none of the other walls; it is listed as what people use today, not",
        "as the same work.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--output", type=Path, default=HERE.parent.parent / "docs" / "performance.md")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    counts = [0, 1000, hard - SPARE_DESCRIPTORS]
    with tempfile.TemporaryDirectory() as name, comparison(Path(name)) as (rows, fds):
        compile_tools(Path(name))
        medians = {count: measure(Path(name), rows, fds, count, options.rounds) for count in counts}
        gate = gate_costs(Path(name), max(options.rounds // 10, 5))
    page = report(rows, counts, medians, gate, resident_bytes(), options.rounds)
    options.output.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
