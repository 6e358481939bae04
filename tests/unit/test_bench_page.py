"""The bench's page: it tells of every part, and of a target that is not met."""

from __future__ import annotations

from tests.bench import crowd, gate, jobs, peers, starts
from tests.bench.page import Results, page, targets
from tests.bench.tools import Cost, spread_of

OURS = (starts.READY, starts.SEALED, starts.KEPT)
NAMES = (starts.NOOP, starts.NAMESPACES, starts.LIBC, starts.BARE, *OURS, peers.EQUAL, peers.NSJAIL)


def results(api: float) -> Results:
    """Return figures as a run gives them; api: what sandbox.run took, in milliseconds."""
    costs = {name: Cost(1e6 * (at + 1), 1e5, 9e5) for at, name in enumerate(NAMES)}
    python = costs | {starts.API: Cost(api * 1e6, 0, 9e5), starts.SANDLOCK: Cost(3e6, 0, 2e6)}
    spread = spread_of([1.0, 1.004, 1.2])
    loop = {name: Cost(1e9, 1e9) for name in (gate.WITH, gate.WITHOUT, gate.OUTSIDE)}
    return Results(
        rounds=4, loads=["0.1"], absent=["firejail"],
        starts=starts.Starts({0: costs, 1000: costs}, {1: {starts.SEALED: 300.0}}, python),
        crowd={1: {crowd.SANDBOX: crowd.Kept(190, 500, 3)}, 1000: {crowd.SANDBOX: crowd.Kept(150, 600, 3)}},
        jobs={"make": jobs.Job(spread, spread, 1.0), jobs.WEB: jobs.Job(spread, spread, 2e-5)},
        gate=gate.Gate({"nothing": loop}, {}, {"launcher": {"resident": 9, "proportional": 6}}, {"resident": (1, 2)}),
    )  # fmt: skip


def test_page_tells_of_every_part() -> None:
    text = page(results(api=4))
    for name in (*NAMES, starts.API, starts.SANDLOCK, "firejail", "make", "1,000 at once", "performance.svg"):
        assert name in text
    assert "1.004 (1.000 to 1.200)" in text
    assert "{" not in text


def test_target_is_met_or_not_by_the_figure() -> None:
    words = "start from Python: at most 1.5 x subprocess.run of a sealed file"
    for api, met in ((6.1, True), (12.0, False)):
        (found,) = [met for name, _, met in targets(results(api)) if name == words]
        assert found is met
    assert all(met for name, _, met in targets(results(4)) if name.endswith("0.5 MB each"))
    too_much = results(4)
    too_much.crowd = {1: {crowd.SANDBOX: crowd.Kept(600, 700, 3)}}
    assert not all(met for name, _, met in targets(too_much) if name.endswith("0.5 MB each"))
