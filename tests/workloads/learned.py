"""Learn every job of this folder, run each under what was learned, and write docs/learned-jobs.md.

learned.py [--user NAME] [--output FILE]
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # at the end: sandbox is what is installed

from tests.support.attack import ATTEMPTS, Verdict  # noqa: E402
from tests.support.impostor import impostor  # noqa: E402
from tests.support.workloads import TIMED_OUT, TIMEOUT, Taught, jobs, stage_command, staged, teach  # noqa: E402

PAGE: Final = ROOT / "docs" / "learned-jobs.md"


def page(taught: Mapping[str, Taught], attacked: Mapping[str, Verdict]) -> Iterator[str]:
    """Yield the page's lines. attacked: what hostile code got done in the place of each job."""
    done = [each for each in taught.values() if each.again.right]
    slower = median(each.seconds[1] / each.seconds[0] for each in taught.values())
    kernel = platform.release().partition("-")[0]
    yield "# Learned jobs"
    yield ""
    yield f"Written by `make learned`, as an ordinary user, on Linux {kernel}: each job of"
    yield "[compatibility.md](compatibility.md) is run by `sandbox learn --permissive`, once, and then, in a new"
    yield "folder, under the profile that this has written."
    yield ""
    entries = median(each.entries for each in taught.values())
    yield f"{len(done)} of {len(taught)} are done at the first try. Learning takes {slower:.1f} times as long as the"
    yield f"job itself (median); a profile has {entries:.0f} entries (median): paths, variables, protocols, groups of"
    size = median(len(each.profile.encode()) for each in taught.values() if each.profile)
    yield f"calls; and {size / 1024:.1f} KiB with its comments. Two jobs at once on two processors: times are rough."
    yield ""
    held = [name for name, verdict in attacked.items() if verdict.ran and not verdict.done]
    yield "In the place of each job hostile code is run under its profile, by the same words: it reads a key of the"
    yield "home folder and a file of another project, writes outside, connects to servers of the host, speaks to the"
    yield "sockets of agents, looks into another process, and leaves one behind. Without a sandbox it gets all of it"
    yield f"done, under {len(held)} of {len(attacked)} profiles nothing."
    yield ""
    yield "| job | under the profile | plain | learning | under it | entries | bytes | hostile code |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, each in sorted(taught.items()):
        result = "done" if each.again.right else f"not done: {_cause(each)}"
        times = " | ".join(f"{seconds:.1f} s" for seconds in each.seconds)
        size = len(each.profile.encode())
        yield f"| {name} | {result} | {times} | {each.entries} | {size} | {_got(attacked.get(name))} |"


def _got(verdict: Verdict | None) -> str:
    """Return what hostile code got done, as a cell."""
    if verdict is None:
        return "no profile"
    return (", ".join(sorted(verdict.done)) or "nothing") if verdict.ran else "cannot run"


def _cause(each: Taught) -> str:
    """Return why a job is not done under what was learned, as a cell."""
    if each.learned.code == TIMED_OUT:
        return f"learning was not at its end after {TIMEOUT:.0f} s"
    done = each.again if each.profile else each.learned
    return re.sub(r"/tmp/jobs-[^/]*/", ".../", done.said or f"exit code {done.code}").replace("|", "\\|")[:90]


def attack(stage: Path, command: str, user: str | None, names: list[str]) -> dict[str, Verdict]:
    """Run hostile code in the place of these jobs, under what they have taught."""
    with impostor(stage, user) as hostile:
        outside = hostile.attack()
        assert outside.done == set(ATTEMPTS), outside.said
        launchers = {
            name: shlex.join([command, "run", "-p", str(stage / "scratch" / f"{name}.toml")]) for name in names
        }
        return {name: hostile.attack(launcher) for name, launcher in launchers.items()}


def main() -> int:
    """Run everything, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--user", default="nobody" if os.geteuid() == 0 else None)
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    with staged(options.user) as stage, ThreadPoolExecutor(2) as pool:
        command = stage_command(stage)
        every = pool.map(lambda job: (job.name, teach(job, command, stage, options.user)), jobs(stage / "workloads"))
        taught = {name: each for name, each in every if each is not None}
        attacked = attack(stage, command, options.user, [name for name, each in taught.items() if each.profile])
    options.output.write_text("\n".join(page(taught, attacked)) + "\n")
    print(f"{sum(each.again.right for each in taught.values())} done of {len(taught)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
