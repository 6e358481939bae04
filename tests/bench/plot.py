"""docs/performance.svg: four parts of the page as a picture. Needs matplotlib (the extra `bench`)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.bench import peers
from tests.bench.page import MOST_OF_BARE, Results
from tests.bench.starts import BARE, KEPT, LIBC, NAMESPACES, NOOP, READY, SEALED, ratio

OURS, THEIRS, PLAIN = "#1f5fa8", "#b9b9b9", "#e3a53a"
LINES: Final = {
    SEALED: OURS, KEPT: "#6fa8dc", peers.EQUAL: "#8a5a2b", peers.LEAST: "#d9a066", peers.NSJAIL: "#6a9a5b",
}  # fmt: skip


def colour(name: str) -> str:
    """Return a bar's colour."""
    return OURS if name.startswith("sandbox") else PLAIN if name in (BARE, LIBC, NAMESPACES, NOOP) else THEIRS


def draw(results: Results, file: Path) -> None:
    """Draw it; the same figures give the same bytes."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "sandbox", "svg.fonttype": "none", "font.size": 8, "axes.grid": True, "axes.axisbelow": True}
    )
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    _starts(axes[0][0], results)
    _lines(axes[0][1], results.starts.rates, "starts a second", "at once")
    memory = {number: {name: kept.own for name, kept in each.items()} for number, each in results.crowd.items()}
    axes[1][0].set_xscale("log")
    _lines(axes[1][0], memory, "kB of its own processes, for each that waits", "at once")
    _jobs(axes[1][1], results)
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def _starts(axes: Any, results: Results) -> None:  # noqa: ANN401 - matplotlib's
    costs = results.starts.costs[0]
    names = [name for name in costs if name != READY][::-1]
    values = [ratio(costs, name) for name in names]
    axes.grid(visible=False, axis="y")
    bars = axes.barh(names, values, color=[colour(name) for name in names])
    axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=2)
    axes.axvline(MOST_OF_BARE, color="black", linestyle=":")
    axes.set_title("start of a no-op, to plain C with the same steps (dotted: 1.2)")


def _lines(axes: Any, found: Mapping[int, Mapping[str, float]], title: str, label: str) -> None:  # noqa: ANN401
    for name in next(iter(found.values()), {}):
        style = "-" if name.startswith("sandbox") else "--"
        values = [each[name] for each in found.values()]
        axes.plot(list(found), values, style, marker="o", markersize=3, label=name, color=LINES.get(name))
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.set_ylim(bottom=0)
    axes.set_xticks(list(found), [f"{number:,}" for number in found])
    axes.legend(fontsize=7)


def _jobs(axes: Any, results: Results) -> None:  # noqa: ANN401 - matplotlib's
    names = list(results.jobs)[::-1]
    spreads = [results.jobs[name].wall for name in names]
    middles = [spread.middle for spread in spreads]
    errors = [[each.middle - each.low for each in spreads], [each.high - each.middle for each in spreads]]
    axes.errorbar(middles, names, xerr=errors, fmt="o", color=OURS, capsize=3)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.axvline(1.01, color="black", linestyle=":")
    axes.set_title("real jobs, inside : outside (dotted: 1.01; bars: quartiles)")
