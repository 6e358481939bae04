"""What the benches share: the harness that lets commands take turns, what it returns, plans, and compiled helpers."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, TypeAlias

from sandbox.build import build
from sandbox.caller import Caller
from sandbox.filesystem import FilesystemPolicy
from sandbox.launch import seal
from sandbox.plan import Plan
from sandbox.profile_files import default_search_path, load
from sandbox.resolve import Additions, for_caller

HERE: Final = Path(__file__).resolve().parent
SANDBOX: Final = str(Path(sysconfig.get_path("scripts"), "sandbox"))
STATIC: Final = ("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static")
MILLION: Final = 1e6
Rows: TypeAlias = Mapping[str, Sequence[str]]  # commands by their names on the page


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took, in nanoseconds: from start to end, and of processors; fast: the tenth percentile of wall."""

    wall: float
    processor: float
    fast: float = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of ratios of pairs, and the quartiles around it."""

    middle: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        """As the page has it."""
        return f"{self.middle:.3f} ({self.low:.3f} to {self.high:.3f})"


def spread_of(ratios: Sequence[float]) -> Spread:
    """Return the median and the quartiles."""
    ordered = sorted(ratios)
    return Spread(median(ordered), ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4], len(ordered))


def compile_tools(folder: Path) -> None:
    """Compile the harness and what it starts."""
    for name in ("spawn", "bare", "execs"):
        subprocess.run([*STATIC, "-o", folder / name, HERE / f"{name}.c"], check=True)
    for name in ("noop", "waiter", "namespaces"):
        subprocess.run([*STATIC, "-nostdlib", "-ffreestanding", "-o", folder / name, HERE / f"{name}.c"], check=True)
    empty = "int main(void) { return 0; }"
    subprocess.run([*STATIC, "-o", folder / "empty", "-x", "c", "-"], check=True, input=empty, text=True)


def make_plan(command: Sequence[str], *, writable: Path | None = None) -> Plan:
    """Compile the plan of `sandbox run -p untrusted -- COMMAND`, which shows the current folder."""
    caller = Caller.of_process(parent_pid=os.getpid())
    own = (str(writable),) if writable else ()
    added = Additions(filesystem=FilesystemPolicy(write=own, execute=own))
    return build(for_caller(load("untrusted", search=default_search_path(os.environ)), caller, added), command, caller)


def sealed(file: Path, command: Sequence[str], *options: str, profile: str = "untrusted") -> str:
    """Make a sealed file that starts a command, and return its path."""
    subprocess.run([SANDBOX, "seal", *options, profile, "-o", str(file), "--", *command], check=True)
    return str(file)


@contextmanager
def memfd_of(plan: Plan) -> Iterator[int]:
    """Yield a sealed plan."""
    fd = seal(plan)
    try:
        yield fd
    finally:
        os.close(fd)


def taking_turns(
    folder: Path, rows: Rows, rounds: int, *, fds: Sequence[int] = (), extra: int = 0, at_once: int = 1, starts: int = 1
) -> dict[str, list[Cost]]:
    """Start all commands in turn, `rounds` times; return what each took in each round.

    fds: what they inherit; extra: how many descriptors more. In a round each is started `starts` times, `at_once`
    together.
    """
    words = [str(folder / "spawn"), str(rounds), str(extra), str(at_once), str(starts)]
    for index, command in enumerate(rows.values()):
        words += ["--"] * (index > 0) + list(command)
    answer = subprocess.run(words, pass_fds=fds, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if answer.returncode:
        sys.exit(f"bench: {answer.stderr.strip()}")
    columns = list(zip(*([int(cell) for cell in line.split()] for line in answer.stdout.splitlines()), strict=True))
    pairs = zip(columns[::2], columns[1::2], strict=True)
    return {name: [Cost(*cell) for cell in zip(*pair, strict=True)] for name, pair in zip(rows, pairs, strict=True)}


def medians(rounds: Mapping[str, Sequence[Cost]]) -> dict[str, Cost]:
    """Return each command's medians."""
    return {
        name: Cost(
            median(cost.wall for cost in costs),
            median(cost.processor for cost in costs),
            sorted(cost.wall for cost in costs)[len(costs) // 10],
        )
        for name, costs in rounds.items()
    }


def table(heads: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    """Return a table of the page."""
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(cells)} |" for cells in rows)]
    return "\n".join(lines)
