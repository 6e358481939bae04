"""Measure start-up, memory and the exec gate side by side in one run; print a page and write docs/performance.md.

    bench.py [--rounds N] [--builds N] [--source FOLDER] [--sandlock PYTHON] [--output FILE]

Every figure is a ratio of medians of runs that took turns (A B C A B C ...), so that the machine's drift hits all
alike. --source: an unpacked package to configure and make in place of a generated one. --sandlock: a Python that has
the package of that name.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from sandbox.build import build
from sandbox.caller import Caller
from sandbox.filesystem import FilesystemPolicy
from sandbox.launch import seal
from sandbox.plan import OpCode, Plan
from sandbox.probe import launcher_path
from sandbox.profile_files import default_search_path, load
from sandbox.resolve import Additions, for_caller

sys.path.append(str(Path(__file__).resolve().parents[2]))  # behind all others: `sandbox` is the installed one

from tests.bench import package, steps
from tests.support.native import build_launcher, memfd_holding
from tests.support.plans import CODE, taken_apart

HERE: Final = Path(__file__).resolve().parent
STATIC: Final = ("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static")
EXECS: Final = 1000  # of a shell's loop
MANY_EXECS: Final = 100_000
SPARE_DESCRIPTORS: Final = 100  # left of the hard limit for what the programs themselves open
MILLION: Final = 1e6
BARE, OURS, NOOP, LIBC = (
    "the same steps in plain C",
    "sandbox, ready plan",
    "fork + exec, nothing else",
    "static C program",
)
PEERS: Final = {"bubblewrap, equal view": "bwrap", "bubblewrap --dev-bind / /": "bwrap", "firejail": "firejail"}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took, in nanoseconds: from start to end, and of processors; fast: the tenth percentile of wall."""

    wall: float
    processor: float
    fast: float = 0


@dataclass(slots=True)
class Results:
    """All that the page tells."""

    rounds: int
    loads: list[str] = field(default_factory=list)  # one after each part
    starts: dict[int, dict[str, Cost]] = field(default_factory=dict)  # by number of inherited descriptors
    absent: list[str] = field(default_factory=list)
    sandlock: tuple[float, float] | None = None  # our start and sandlock's
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    loops: dict[str, dict[str, Cost]] = field(default_factory=dict)  # by what there is to close at each exec
    builds: dict[str, list[Cost]] = field(default_factory=dict)
    many: dict[str, tuple[int, int]] = field(default_factory=dict)  # before and after MANY_EXECS

    def note_load(self) -> None:
        """Remember how busy the machine is."""
        self.loads.append(f"{os.getloadavg()[0]:.1f}")


def compile_tools(folder: Path) -> None:
    """Compile the harness and what it starts."""
    for name in ("spawn", "bare", "execs"):
        subprocess.run([*STATIC, "-o", folder / name, HERE / f"{name}.c"], check=True)
    subprocess.run([*STATIC, "-nostdlib", "-ffreestanding", "-o", folder / "noop", HERE / "noop.c"], check=True)
    empty = "int main(void) { return 0; }"
    subprocess.run([*STATIC, "-o", folder / "empty", "-x", "c", "-"], check=True, input=empty, text=True)


def make_plan(command: Sequence[str], *, writable: Path | None = None) -> Plan:
    """Compile the plan of `sandbox run -p untrusted -- COMMAND`, which shows the current folder."""
    caller = Caller.of_process(parent_pid=os.getpid())
    own = (str(writable),) if writable else ()
    added = Additions(filesystem=FilesystemPolicy(write=own, execute=own))
    return build(for_caller(load("untrusted", search=default_search_path(os.environ)), caller, added), command, caller)


def ungated(plan: Plan) -> bytes:
    """Return a plan's bytes without the gate; only the test build of the launcher takes such a plan."""
    parts = taken_apart(plan)
    parts.ops = [fields for fields in parts.ops if fields[CODE] != OpCode.GATE]
    return parts.joined()


def sealed_noop(folder: Path, noop: str) -> Path:
    """Return a sealed file that starts the no-op."""
    file = folder / "sealed"
    command = [str(Path(sysconfig.get_path("scripts"), "sandbox")), "seal", "untrusted", "-o", str(file), "--", noop]
    subprocess.run(command, check=True)
    return file


@contextmanager
def commands(folder: Path) -> Iterator[tuple[dict[str, list[str]], list[int]]]:
    """Yield the commands whose start is compared, and the descriptors that they need to inherit."""
    noop = str(folder / "noop")
    plan = make_plan([noop])
    fds = [seal(plan)]
    (folder / "steps").write_text(steps.Bare(plan, folder).text())
    fds += [os.open(folder / f"filter{n}", os.O_RDONLY) for n in range(len(plan.only(OpCode.FILTER)))]
    rows = {
        NOOP: [noop],
        LIBC: [str(folder / "empty")],
        BARE: [str(folder / "bare"), str(folder / "steps")],
        OURS: [str(launcher_path()), str(fds[0])],
        "sandbox, sealed": [str(sealed_noop(folder, noop))],
        "sandbox run, kept plan": [str(Path(sysconfig.get_path("scripts"), "sandbox")), "run", noop],
        "bubblewrap, equal view": steps.bubblewrap(plan, [noop], fds[1:]),
        "bubblewrap --dev-bind / /": ["/usr/bin/bwrap", "--dev-bind", "/", "/", noop],
        "firejail": steps.firejail(plan, [noop]),
    }
    try:
        yield {name: words for name, words in rows.items() if os.access(words[0], os.X_OK)}, fds
    finally:
        for fd in fds:
            os.close(fd)


def measure(folder: Path, rows: dict[str, list[str]], fds: list[int], extra: int, rounds: int) -> dict[str, list[Cost]]:
    """Run all commands in turn with `extra` inherited descriptors; return what each took in each round."""
    words = [str(folder / "spawn"), str(rounds), str(extra)]
    for index, command in enumerate(rows.values()):
        words += ["--"] * (index > 0) + command
    answer = subprocess.run(words, pass_fds=fds, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if answer.returncode:
        sys.exit(f"bench: {answer.stderr.strip()}")
    columns = list(zip(*([int(cell) for cell in line.split()] for line in answer.stdout.splitlines()), strict=True))
    pairs = zip(columns[::2], columns[1::2], strict=True)
    return {name: [Cost(*cell) for cell in zip(*pair, strict=True)] for name, pair in zip(rows, pairs, strict=True)}


def medians(rounds: dict[str, list[Cost]]) -> dict[str, Cost]:
    """Return each command's medians."""
    return {
        name: Cost(
            median(cost.wall for cost in costs),
            median(cost.processor for cost in costs),
            sorted(cost.wall for cost in costs)[len(costs) // 10],
        )
        for name, costs in rounds.items()
    }


def measure_starts(folder: Path, results: Results, counts: list[int]) -> None:
    """Compare the start of a no-op with each number of inherited descriptors."""
    with commands(folder) as (rows, fds):
        results.absent += [name for name in PEERS if name not in rows]
        for count in counts:
            results.starts[count] = medians(measure(folder, rows, fds, count, results.rounds))


def measure_sandlock(folder: Path, results: Results, python: str) -> None:
    """Compare with sandlock, which is a library: both are started from a Python that has imported it."""
    noop = str(folder / "noop")
    fd = seal(make_plan([noop]))
    words = [python, str(HERE / "sandlock_start.py"), str(results.rounds), str(folder), noop, "--"]
    os.set_inheritable(fd, True)
    answer = subprocess.run(
        [*words, str(launcher_path()), str(fd)],
        pass_fds=[fd], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(fd)
    if answer.returncode:
        sys.exit(f"bench: {answer.stderr.strip()}")
    pairs = [[int(cell) for cell in line.split()] for line in answer.stdout.splitlines()]
    ours, theirs = (median(column) for column in zip(*pairs, strict=True))
    results.sandlock = (ours, theirs)


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


@contextmanager
def memfd_of(plan: Plan) -> Iterator[int]:
    """Yield a sealed plan."""
    fd = seal(plan)
    try:
        yield fd
    finally:
        os.close(fd)


def expect(process: subprocess.Popen[bytes], line: bytes) -> None:
    """Wait for what the program says next."""
    assert process.stdout is not None
    if (said := process.stdout.readline()) != line:
        sys.exit(f"bench: {line!r} expected, not {said!r}")


def measure_memory(folder: Path, results: Results) -> None:
    """Look at what waits: launcher and init; then at the launcher after many execs."""
    with waiting(folder, MANY_EXECS) as (process, init):
        time.sleep(0.2)
        for name, pid in (("launcher", process.pid), ("init", init)):
            figures = {"resident": kib(pid, "status", "VmRSS"), "proportional": kib(pid, "smaps_rollup", "Pss")}
            results.memory[name] = {**figures, "page tables": kib(pid, "status", "VmPTE")}

        def look() -> tuple[int, int]:
            return kib(process.pid, "status", "VmRSS"), len(os.listdir(f"/proc/{process.pid}/fd"))

        before = look()
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        expect(process, b"done\n")
        after = look()
        process.stdin.close()
    results.many = {"resident": (before[0], after[0]), "descriptors": (before[1], after[1])}


@contextmanager
def gated_and_not(command: list[str], writable: Path | None = None) -> Iterator[tuple[dict[str, list[str]], list[int]]]:
    """Yield a command outside, in a sandbox, and in one that differs in the gate only; and the descriptors for it."""
    plan = make_plan(command, writable=writable)
    partial = str(build_launcher(defines=("TEST_PARTIAL_PLANS",)))
    with memfd_of(plan) as whole, memfd_holding(ungated(plan)) as less:
        rows = {"outside": command, "without the gate": [partial, str(less)], "with the gate": [partial, str(whole)]}
        yield rows, [whole, less]


def measure_loops(folder: Path, results: Results, rounds: int) -> None:
    """Let a shell execute no-op programs in a loop."""
    loop = f'for ((i = 0; i < {EXECS}; i++)); do "$0"; done'
    kinds = {"nothing": loop, "three descriptors": f"exec 5</dev/null 6<&5 7<&5; {loop}"}
    for kind, script in kinds.items():
        with gated_and_not(["/bin/bash", "-c", script, str(folder / "noop")]) as (rows, fds):
            results.loops[kind] = medians(measure(folder, rows, fds, 0, rounds))


def measure_builds(folder: Path, results: Results, source: Path | None, builds: int) -> None:
    """Configure and make a package, each time in a new folder."""
    place = folder / "package"
    if source:
        shutil.copytree(source, place, symlinks=True)
    elif package.can_generate():
        package.generate(place)
    else:
        results.absent.append("configure and make (the GNU build system is not installed, no --source)")
        return
    script = 'cd "$0" && rm -rf made && mkdir made && cd made && ../configure --quiet && make --silent'
    command = ["/bin/sh", "-c", f"({script}) >/dev/null 2>&1", str(place)]
    with gated_and_not(command, place) as (rows, fds):
        del rows["outside"]
        results.builds = measure(folder, rows, fds, 0, builds)


def start_lines(results: Results) -> Iterator[str]:
    """Yield what starts cost."""
    counts = list(results.starts)
    heads = [f"{n:,} descriptors" for n in counts]
    yield "| ratio to plain C | fastest tenth | " + " | ".join(heads) + " |"
    yield "|---" * (len(counts) + 2) + "|"
    for name, cost in results.starts[0].items():
        cells = [(results.starts[n][name], results.starts[n][BARE]) for n in counts]
        texts = [f"{cost.fast / results.starts[0][BARE].fast:.2f}"]
        texts += [f"{own.wall / bare.wall:.2f} ({own.processor / bare.processor:.2f})" for own, bare in cells]
        yield f"| {name} | " + " | ".join(texts) + " |"
    first, last = (results.starts[counts[index]] for index in (0, -1))
    yield ""
    yield (
        "In brackets: of processor time, of all its processes; fastest tenth: the tenth percentile with no descriptors,"
        f" nearer to an idle machine. At 0 descriptors 1.00 is {first[BARE].wall / MILLION:.2f} ms"
        f" ({first[BARE].processor / MILLION:.2f} ms; fastest tenth {first[BARE].fast / MILLION:.2f} ms)."
        f" {counts[-1]:,} inherited descriptors add {(last[OURS].wall - first[OURS].wall) / MILLION:.2f} ms to a"
        f" sandbox's start, and {(last[NOOP].wall - first[NOOP].wall) / MILLION:.2f} ms to fork + exec alone."
    )


def fair_ratio(starts: dict[str, Cost]) -> tuple[float, float]:
    """Return our ratio to plain C less what the C library takes for its own start: wall and processor."""
    wall = starts[BARE].wall - starts[LIBC].wall + starts[NOOP].wall
    processor = starts[BARE].processor - starts[LIBC].processor + starts[NOOP].processor
    return starts[OURS].wall / wall, starts[OURS].processor / processor


def build_ratios(results: Results) -> tuple[list[float], list[float]]:
    """Return what configure and make take with the gate to without, of each pair: wall and processor time."""
    pairs = list(zip(results.builds["with the gate"], results.builds["without the gate"], strict=True))
    return [own.wall / less.wall for own, less in pairs], [own.processor / less.processor for own, less in pairs]


def gate_lines(results: Results) -> Iterator[str]:
    """Yield what the gate costs."""
    heads = (f"{EXECS:,} no-ops, to close at each", "with : without the gate", "the gate, per exec", "inside : outside")
    yield "| " + " | ".join(heads) + " |"
    yield "|---" * len(heads) + "|"
    for kind, costs in results.loops.items():
        own, less, outside = (costs[name] for name in ("with the gate", "without the gate", "outside"))
        added = [(own.wall - less.wall) / EXECS / 1e3, (own.processor - less.processor) / EXECS / 1e3]
        yield (
            f"| {kind} | {own.wall / less.wall:.2f} ({own.processor / less.processor:.2f})"
            f" | {added[0]:.0f} us ({added[1]:.0f} us) | {own.wall / outside.wall:.2f} |"
        )
    if results.builds:
        walls, processors = build_ratios(results)
        yield ""
        yield (
            f"`./configure && make` of a package, {len(walls)} pairs: {median(walls):.3f} ({median(processors):.3f}) is"
            f" the median of their ratios, of {min(walls):.3f} to {max(walls):.3f} ({min(processors):.3f} to"
            f" {max(processors):.3f}); {median(cost.wall for cost in results.builds['with the gate']) / 1e9:.1f} s"
            " each."
        )
    yield ""
    words = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in results.many.items())
    yield f"The launcher before and after {MANY_EXECS:,} execs: {words} (kB; number)."


def target_lines(results: Results) -> Iterator[str]:
    """Yield each target, and whether it is met."""
    first = results.starts[0]
    last = results.starts[max(results.starts)]
    added = (last[OURS].wall - first[OURS].wall) / MILLION
    unavoidable = (last[NOOP].wall - first[NOOP].wall) / MILLION
    together = sum(figures["proportional"] for figures in results.memory.values())
    plain, fair = first[OURS].wall / first[BARE].wall, fair_ratio(first)[0]
    rows = [
        ("start: at most 1.2 x plain C", f"{plain:.2f}", plain <= 1.2),
        ("the same, less the C library's start", f"{fair:.2f}", fair <= 1.2),
        ("the same, of processor time", f"{fair_ratio(first)[1]:.2f}", fair_ratio(first)[1] <= 1.2),
        ("as many descriptors as allowed add less than 1 ms", f"{added:.2f} ms", added < 1),
        ("the same, less what they add to fork + exec", f"{added - unavoidable:.2f} ms", added - unavoidable < 1),
        ("launcher and init keep at most 0.5 MB together", f"{together} kB", together <= 512),
    ]  # fmt: skip
    for name in PEERS:
        if name in first:
            ratio = first[OURS].wall / first[name].wall
            rows.append((f"start: below {name}", f"{ratio:.2f} x", ratio < 1))
    if results.sandlock:
        ratio = results.sandlock[0] / results.sandlock[1]
        rows.append(("start: below sandlock", f"{ratio:.2f} x", ratio < 1))
    if results.builds:
        for words, ratios in zip(("", ", of processor time"), build_ratios(results), strict=True):
            ratio = median(ratios)
            rows.append((f"gate: at most 1.05 on configure and make{words}", f"{ratio:.3f}", ratio <= 1.05))
    yield "| target | measured | |"
    yield "|---|---|---|"
    yield from (f"| {name} | {value} | {'met' if met else '**not met**'} |" for name, value, met in rows)


PREFACE: Final = """\
# Performance

Written by `make bench` on Linux {release}, {processors} processors, {rounds} rounds in which the commands took turns.
Figures are medians; compare the ratios, since single times vary with the machine and with what else it does
(load averages while this was measured: {load}).

{targets}

## Start

What is started is a static program that does nothing, from a plan that is ready (`sandbox run` itself first reads the
profile, in Python). Plain C is `tests/bench/bare.c`: the steps of the same plan, written down without a plan to check,
paths to resolve, grants, messages, or a gate that answers: seven namespaces, each mount of the view, the Landlock
rules, the filters, the gate's listener, an init and a supervisor that wait. It is linked with the C library, whose own
start the row *static C program* shows; less that, the ratio is {fair_wall:.2f} ({fair_processor:.2f}).

{starts}

*bubblewrap, equal view* has the same namespaces, filters, environment, symlinks and as many mounts; it has no Landlock
rules and no exec gate. *bubblewrap --dev-bind / /* is the least that people use, and far less than the others do: a
mount namespace with one mount. *firejail* has its own filter and devices, a network namespace, and the same paths
hidden. {sandlock}{absent}

## Memory

{memory}

## The exec gate

Two plans that differ in the gate only, in a build of the launcher that takes plans without one (`TEST_PARTIAL_PLANS`).
In brackets: processor time.

{gate}
"""


def report(results: Results) -> str:
    """Return the results as a page."""
    fair = fair_ratio(results.starts[0])
    sandlock = "*sandlock* was not measured: no `--sandlock` was given."
    if results.sandlock:
        ours, theirs = results.sandlock
        sandlock = (
            "sandlock is a Python library, so both were started from one Python process that had imported it, in turn:"
            f" a sandbox takes {ours / theirs:.2f} of its time. It has Landlock rules and a filter, but no namespaces."
        )
    together = {
        name: sum(figures[name] for figures in results.memory.values()) for name in ("resident", "proportional")
    }
    memory = [
        f"The {role} keeps " + ", ".join(f"{figures[kind]} kB {kind}" for kind in figures) + ","
        for role, figures in results.memory.items()
    ]
    memory.append(
        f"while the program waits. Together that is {together['resident']} kB, or {together['proportional']} kB where a"
        " page\nthat several processes have counts for its part (PSS)."
    )
    return PREFACE.format(
        release=platform.release(), processors=os.cpu_count(), rounds=results.rounds,
        load=" ".join(results.loads),
        targets="\n".join(target_lines(results)), fair_wall=fair[0], fair_processor=fair[1],
        starts="\n".join(start_lines(results)), sandlock=sandlock,
        absent=f"\nAbsent here, and not measured: {', '.join(results.absent)}." if results.absent else "",
        memory="\n".join(memory), gate="\n".join(gate_lines(results)),
    )  # fmt: skip


def main() -> None:
    """Run everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="of starts; loops take a tenth")
    parser.add_argument("--builds", type=int, default=10, help="pairs of configure and make; 0: none")
    parser.add_argument("--source", type=Path, help="an unpacked package with a configure script")
    parser.add_argument("--sandlock", metavar="PYTHON", help="a Python that has sandlock")
    parser.add_argument("--output", type=Path, default=HERE.parent.parent / "docs" / "performance.md")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    results = Results(options.rounds)
    output, source = options.output.resolve(), options.source and options.source.resolve()
    with tempfile.TemporaryDirectory(prefix="sandbox-bench-") as name:
        os.chdir(name)
        folder = Path(name)
        folder.chmod(0o755)
        compile_tools(folder)
        measure_starts(folder, results, [0, 1000, hard - SPARE_DESCRIPTORS])
        if options.sandlock:
            measure_sandlock(folder, results, options.sandlock)
        results.note_load()
        measure_loops(folder, results, max(options.rounds // 10, 5))
        results.note_load()
        if options.builds:
            measure_builds(folder, results, source, options.builds)
        measure_memory(folder, results)
        results.note_load()
        os.chdir("/")
    page = report(results)
    output.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
