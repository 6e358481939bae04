"""Measure start-up, memory, real jobs and the exec gate in one run; write docs/performance.md and its plot.

    bench.py [--rounds N] [--pairs N] [--builds N] [--source FOLDER] [--nsjail PROGRAM] [--sandlock PYTHON]
             [--output FILE]

Every figure is a ratio of medians, or a median of ratios, of runs that took turns (A B C A B C ...), so that the
machine's drift hits all alike. A peer that is not here is left out, and the page says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[2]))  # behind all others: `sandbox` is the installed one

from tests.bench import crowd, gate, jobs, package, starts
from tests.bench.page import Results, page
from tests.bench.plot import draw
from tests.bench.tools import HERE, compile_tools

SPARE_DESCRIPTORS: Final = 100  # left of the hard limit for what the programs themselves open


def parsed() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="of starts; loops of execs take a tenth")
    parser.add_argument("--pairs", type=int, default=40, help="of real jobs")
    parser.add_argument("--builds", type=int, default=6, help="pairs of configure and make; 0: none")
    parser.add_argument("--source", type=Path, help="an unpacked package with a configure script")
    parser.add_argument("--nsjail", metavar="PROGRAM", default=shutil.which("nsjail"), help="nsjail, if not in PATH")
    parser.add_argument("--sandlock", metavar="PYTHON", default=sys.executable, help="a Python that has sandlock")
    parser.add_argument("--output", type=Path, default=HERE.parents[1] / "docs" / "performance.md")
    options = parser.parse_args()
    for name in ("output", "source", "nsjail"):
        if getattr(options, name):
            setattr(options, name, Path(getattr(options, name)).resolve())
    return options


def measure(folder: Path, options: argparse.Namespace) -> Results:
    """Run every part; say which one is begun."""
    results = Results(options.rounds)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    nsjail = str(options.nsjail) if options.nsjail else None
    builds = options.builds if options.source or package.can_generate() else 0
    began = time.monotonic()

    def begin(part: str) -> None:
        print(f"bench: {time.monotonic() - began:4.0f} s: {part}", file=sys.stderr, flush=True)
        results.note_load()

    begin("starts")
    results.starts = starts.measure(
        folder, options.rounds, [0, 1000, hard - SPARE_DESCRIPTORS], nsjail, options.sandlock
    )
    begin("many at once")
    results.crowd = crowd.measure(folder)
    begin("real jobs")
    results.jobs, without = jobs.measure(folder, options.pairs)
    begin("the exec gate")
    results.gate = gate.measure(folder, max(options.rounds // 10, 5), options.source, builds)
    begin("done")
    results.absent = [*results.starts.absent, *without]
    if options.builds and not builds:
        results.absent.append("configure and make (the GNU build system is not installed, no --source)")
    return results


def main() -> None:
    """Run everything, write the page and its plot."""
    options = parsed()
    with tempfile.TemporaryDirectory(prefix="sandbox-bench-") as name:
        os.chdir(name)
        folder = Path(name)
        folder.chmod(0o755)
        compile_tools(folder)
        results = measure(folder, options)
        os.chdir("/")
    text = page(results)
    options.output.write_text(text)
    if importlib.util.find_spec("matplotlib"):
        draw(results, options.output.with_suffix(".svg"))
    else:
        print("bench: without matplotlib no plot is drawn", file=sys.stderr)
    print(text)


if __name__ == "__main__":
    main()
