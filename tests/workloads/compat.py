"""Run every job of this folder in a sandbox, and write docs/compatibility.md.

    compat.py [--user NAME] [--output FILE]

Ends with 1 if a job is not done that expected.toml does not list, or is done that it lists.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # at the end: sandbox is what is installed

from tests.support.workloads import WAYS, Done, Expected, Job, expected, jobs, run_way, stage_command, staged  # noqa: E402

PAGE: Final = ROOT / "docs" / "compatibility.md"


def page(every: list[Job], results: Mapping[str, Mapping[str, Done]]) -> Iterator[str]:
    """Yield the page's lines."""
    yield "# Compatibility"
    yield ""
    total, kernel = len(every), platform.release().partition("-")[0]
    yield f"Written by `make compat`, as an ordinary user, on Linux {kernel}. {total} real jobs by"
    yield "real programs, with checked output (`tests/workloads/jobs`), in two ways:"
    yield ""
    counts = [sum(done.right and name not in expected(way) for name, done in results[way].items()) for way in WAYS]
    whole, each = (f"{count} of {total}" for count in counts)
    yield f"- whole: {whole} are done under `untrusted`, the whole job in one sandbox, its folder writable,"
    yield "  with a loopback of its own;"
    yield f"- each: {each} with every program of the job in a sandbox of its own, with the exec gate and the filter"
    yield "  of `untrusted` and without its walls: they work together on files, ports and processes."
    yield ""
    yield "Class P passes descriptors from 3 up across exec on purpose, class A does not. For a job that is not done"
    yield "the cause is told, and the options of `sandbox run` with which it is, if there are any."
    yield ""
    yield "| job | class | what it does | whole | each |"
    yield "|---|---|---|---|---|"
    known = {way: expected(way) for way in WAYS}
    for job in every:
        cells = [_cell(known[way], results[way].get(job.name)) for way in WAYS]
        purpose = job.purpose.replace("|", "\\|")
        yield "| " + " | ".join([job.name, job.kind, purpose, *cells]) + " |"


def _cell(known: Mapping[str, Expected], done: Done | None) -> str:
    if done is None:
        return "not run: not done without the launcher either"
    row = known.get(done.job.name)
    if done.right and not (row and row.races):
        return "done"
    if row is None:
        return f"not done: {done.said or done.code}"
    return row.cause + (f"; done with `{row.options}`" if row.options else "")


def main() -> int:
    """Run everything, write the page, tell what is not as listed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--user", default="nobody" if os.geteuid() == 0 else None)
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    with staged(options.user) as stage:
        command = stage_command(stage)
        results = {way: run_way(way, command, stage, options.user) for way in WAYS}
    options.output.write_text("\n".join(page(jobs(), results)) + "\n")
    wrong = 0
    for way in WAYS:
        known = expected(way)
        for name, done in results[way].items():
            if done.right == (name in known) and not (name in known and known[name].races):
                wrong += 1
                print(f"{way}: {name}: {'done, and listed as not' if done.right else f'not done: {done.said}'}")
        print(f"{way}: {sum(done.right for done in results[way].values())} done of {len(results[way])} run")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
