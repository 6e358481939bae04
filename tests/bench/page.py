"""docs/performance.md: the targets, and every part's tables."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.bench import crowd, gate, jobs, peers, starts
from tests.bench.starts import API, KEPT, NAMESPACES, NOOP, READY, SANDLOCK, SEALED
from tests.bench.tools import MILLION, table

MOST_OF_BARE: Final = 1.2
MOST_OF_SUBPROCESS: Final = 1.5
MOST_KIB: Final = 512
MOST_OF_JOB: Final = 1.01
MOST_OF_GATE: Final = 1.05


@dataclass(slots=True)
class Results:
    """All that the page tells. loads: the machine's, one after each part."""

    rounds: int
    starts: starts.Starts = field(default_factory=starts.Starts)
    crowd: Mapping[int, Mapping[str, crowd.Kept]] = field(default_factory=dict)
    jobs: Mapping[str, jobs.Job] = field(default_factory=dict)
    gate: gate.Gate = field(default_factory=gate.Gate)
    absent: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)

    def note_load(self) -> None:
        """Remember how busy the machine is."""
        self.loads.append(f"{os.getloadavg()[0]:.1f}")


def targets(results: Results) -> Iterator[tuple[str, str, bool]]:
    """Yield each target, what was measured, and whether that meets it."""
    found = results.starts
    first, last = found.costs[0], found.costs[max(found.costs)]
    for name in (SEALED, KEPT, READY):
        ratio = starts.ratio(first, name)
        yield f"start, {name}: at most {MOST_OF_BARE} x plain C", f"{ratio:.2f}", ratio <= MOST_OF_BARE
    wall, processor = starts.fair_ratio(first)
    yield f"the same, {READY}, less the C library's start", f"{wall:.2f}", wall <= MOST_OF_BARE
    yield "the same, of processor time", f"{processor:.2f}", processor <= MOST_OF_BARE
    for name in (peers.EQUAL, peers.LEAST, peers.NSJAIL, peers.FIREJAIL):
        if name in first:
            ratios = [first[own].wall / first[name].wall for own in (SEALED, KEPT)]
            yield f"start, sealed and kept: below {name}", f"{ratios[0]:.2f}, {ratios[1]:.2f}", max(ratios) < 1
    python = found.python
    if SANDLOCK in python:
        ratio = python[API].wall / python[SANDLOCK].wall
        yield f"start from Python: below {SANDLOCK}", f"{ratio:.2f}", ratio < 1
    for name, of in ((NOOP, "fork + exec"), (SEALED, "a sealed file")):
        ratio = python[API].wall / python[name].wall
        words = f"start from Python: at most {MOST_OF_SUBPROCESS} x subprocess.run of {of}"
        yield words, f"{ratio:.2f}", ratio <= MOST_OF_SUBPROCESS
    added = (last[READY].wall - first[READY].wall) / MILLION
    unavoidable = (last[NOOP].wall - first[NOOP].wall) / MILLION
    yield "as many descriptors as allowed add less than 1 ms", f"{added:.2f} ms", added < 1
    yield "the same, less what they add to fork + exec", f"{added - unavoidable:.2f} ms", added - unavoidable < 1
    for number, kept in results.crowd.items():
        own = kept[crowd.SANDBOX].own
        yield f"{number:,} that wait: at most 0.5 MB each", f"{own:.0f} kB", own <= MOST_KIB
    for name, job in results.jobs.items():
        yield f"{name}: at most {MOST_OF_JOB}", f"{job.wall.middle:.3f}", job.wall.middle <= MOST_OF_JOB
    if results.gate.builds:
        for words, spread in zip(("", ", of processor time"), gate.build_spread(results.gate), strict=True):
            text = f"gate: at most {MOST_OF_GATE} on configure and make{words}"
            yield text, f"{spread.middle:.3f}", spread.middle <= MOST_OF_GATE


PAGE: Final = """\
# Performance

Written by `make bench` on Linux {release}, {processors} processors, {rounds} rounds in which the commands took turns.
Figures are medians; compare the ratios, since single times vary with the machine and with what else it does
(load averages while this was measured: {load}).{absent}

![start, starts a second, memory, jobs](performance.svg)

{targets}

## Start

What is started is a static program that does nothing. *Ready plan*: the launcher with a plan; *sealed*: a
[sealed file](seal.md); *kept plan*: `sandbox run`, whose plan is [kept](command-line.md#the-second-start). Plain C is
`tests/bench/bare.c`: the steps of the same plan, written down without a plan to check, paths to resolve, grants,
messages, or a gate that answers: seven namespaces, each mount of the view, the Landlock rules, the filters, the gate's
listener, an init and a supervisor that wait. It is linked with the C library, whose own start the row *static C
program* shows; less that, the ready plan's ratio is {fair_wall:.2f} ({fair_processor:.2f}).

{starts}

{notes}

*bubblewrap, equal view* has the same namespaces, filters, environment, symlinks and as many mounts; it has no Landlock
rules and no exec gate. *bubblewrap --dev-bind / /* is the least that people use, and far less than the others do: a
mount namespace with one mount. *nsjail* has the same namespaces, view and environment, and a filter of the same calls,
which it compiles at each start. *firejail* has its own filter and devices, a network namespace, and the same paths
hidden.

## From Python

All were started by one Python process, in turn, with its packages imported. Of what `sandbox.run` takes beyond
`subprocess.run` of a program that does nothing, {python_share:.0%} is what a sealed file takes, too, without Python:
it is the kernel's. The namespaces alone, with nothing in them, are {namespaces:.1f} x fork + exec: no sandbox that has
them can be started in {most} x. sandlock has Landlock rules and a filter, but no namespaces.

{python}

## Starts a second

So many run at once, and each that ends is followed by the next.

{rates}

## Many at once

Each waits for its input. *Own processes*: what the launcher and its init keep, where a page that several processes have
counts for its part (PSS); the program is left out. *The kernel's part*: namespaces, mounts, stacks, page tables, those
of the program too; it is told for the whole machine, so that of few at once it is mostly noise. Here bubblewrap has no
filter.

{crowd}

{memory}

## Real jobs

Outside and in a sandbox, by turns. The median of the ratios of pairs, and the quartiles. nginx and `wrk` share the
processors; what counts is a request. *The start alone*: that part of the job which the sandbox takes once. Beyond it
the filters cost next to nothing (the kernel remembers which calls they always allow); Landlock looks, at each open, for
the rule of the nearest folder above.

{jobs}

## The exec gate

Two plans that differ in the gate only, in a build of the launcher that takes plans without one (`TEST_PARTIAL_PLANS`).
In brackets: processor time.

{gate}
"""


def page(results: Results) -> str:
    """Return the page."""
    found = results.starts
    fair = starts.fair_ratio(found.costs[0])
    python = found.python
    beyond = python[API].wall - python[NOOP].wall
    kernel = python[SEALED].wall - python[NOOP].wall
    start = (found.costs[0][SEALED].wall - found.costs[0][NOOP].wall) / 1e9
    rows = [[name, value, "met" if met else "**not met**"] for name, value, met in targets(results)]
    return PAGE.format(
        release=platform.release(), processors=os.cpu_count(), rounds=results.rounds, load=" ".join(results.loads),
        absent=f"\nAbsent here, and not measured: {', '.join(results.absent)}." if results.absent else "",
        targets=table(("target", "measured", ""), rows), fair_wall=fair[0], fair_processor=fair[1],
        starts=starts.start_table(found), notes=starts.start_notes(found), python=starts.python_table(found),
        python_share=min(1.0, kernel / beyond), namespaces=python[NAMESPACES].wall / python[NOOP].wall,
        most=MOST_OF_SUBPROCESS,
        rates=starts.rate_table(found), crowd=crowd.crowd_table(results.crowd),
        memory="\n".join(gate.memory_lines(results.gate)), jobs=jobs.job_table(results.jobs, start),
        gate="\n".join(gate.gate_lines(results.gate)),
    )  # fmt: skip
