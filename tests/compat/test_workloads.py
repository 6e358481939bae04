"""The jobs of tests/workloads under `untrusted`: they are done as without a sandbox, but for those that are listed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.workloads import WAYS, expected, jobs, run, run_way, stage_command, staged, whole_job

# What tests/setup-system installs is enough for so many; all programs are there after `make compat`.
LEAST: Final = 40
USER: Final = "nobody" if os.geteuid() == 0 else None


@pytest.fixture(scope="module")
def stage() -> Iterator[Path]:
    with staged(USER) as folder:
        stage_command(folder)
        yield folder


@pytest.mark.parametrize("way", WAYS)
def test_jobs_are_done_but_for_those_that_are_listed(stage: Path, way: str) -> None:
    done = run_way(way, str(stage / "sandbox"), stage, USER)
    known = expected(way)
    assert len(done) >= LEAST, sorted(done)
    failed = {name: end.said for name, end in done.items() if not end.right and name not in known}
    assert failed == {}, "not done, and not listed in tests/workloads/expected.toml"
    fine = [name for name, row in known.items() if name in done and done[name].right and not row.races]
    assert fine == [], "listed as not done, and done"


def test_jobs_that_are_not_done_are_with_the_options_that_the_list_names(stage: Path) -> None:
    every = {job.name: job for job in jobs(stage / "workloads")}
    for name, row in expected("whole").items():
        if row.options and run(every[name], stage, user=USER).right:
            launcher = whole_job(str(stage / "sandbox"), stage / "workloads" / "jobs", row.options)
            assert run(every[name], stage, launcher=launcher, user=USER).right, (name, row.options)


def test_page_lists_each_job_and_each_cause(root: Path) -> None:
    page = (root / "docs" / "compatibility.md").read_text()
    row_of = re.compile(r"^\| ([\w-]+) \| \w \| .* \| (\w.*?) \| (\w.*?) \|$", re.MULTILINE)
    rows = {name: cells for name, *cells in row_of.findall(page)}
    assert set(rows) == {job.name for job in jobs()}
    for index, way in enumerate(WAYS):
        known = expected(way)
        assert {name for name, row in rows.items() if row[index] != "done"} == set(known)
        assert all(known[name].cause in rows[name][index] for name in known)
        assert f"{way}: {len(rows) - len(known)} of {len(rows)}" in page


def test_runner_tells_a_job_that_is_not_done(stage: Path) -> None:
    """A wrong result, a missing launcher and a launcher that refuses are failures."""
    job = next(job for job in jobs(stage / "workloads") if job.name == "sh-dash")
    assert run(job, stage, user=USER).right
    assert not run(job, stage, launcher="/nonexistent/launcher", user=USER).right
    assert not run(job, stage, launcher="/nonexistent/launcher", each=True, user=USER).right
    assert run(job, stage, launcher="false", user=USER).code == 1
