"""Start a no-op in several ways from this process, in turn; run by a Python that may have sandlock.

python_start.py ROUNDS NOOP FOLDER COMMANDS [DESCRIPTOR ...]

COMMANDS: JSON, name -> words, started by subprocess.run with the descriptors. Prints JSON: name -> nanoseconds of each
round; `sandbox.run` and, where it is installed, `sandlock` beside the commands. BENCH_PACKAGES: where `sandbox` is,
if this Python has it not.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypeAlias

Start: TypeAlias = Callable[[], int]


def main() -> None:
    """Take turns."""
    rounds, noop, folder, commands, *numbers = sys.argv[1:]
    fds = [int(number) for number in numbers]
    sys.path.append(os.environ["BENCH_PACKAGES"])
    rows = {name: started(words, fds) for name, words in json.loads(commands).items()}
    rows |= {"sandbox.run": api(noop), **sandlock(noop, folder)}
    walls: dict[str, list[int]] = {name: [] for name in rows}
    for turn in range(-1, int(rounds)):
        for name, start in rows.items():
            for fd in fds:
                os.lseek(fd, 0, os.SEEK_SET)
            begun = time.perf_counter_ns()
            code = start()
            taken = time.perf_counter_ns() - begun
            if code:
                sys.exit(f"python_start: {name}: exit code {code}")
            if turn >= 0:
                walls[name].append(taken)
    print(json.dumps(walls))


def started(words: list[str], fds: list[int]) -> Start:
    """Return what starts a command as any other."""
    return lambda: subprocess.run(words, pass_fds=fds, check=False).returncode


def api(noop: str) -> Start:
    """Return what starts it by our Python functions."""
    run: Any = importlib.import_module("sandbox").run
    return lambda: int(run([noop]).returncode)


def sandlock(noop: str, folder: str) -> dict[str, Start]:
    """Return what starts it by sandlock: the system to read, a folder to write, no network, a clean environment."""
    try:
        package: Any = importlib.import_module("sandlock")
    except ImportError:
        return {}
    readable = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/proc", "/dev", folder]
    box = package.Sandbox(fs_readable=readable, fs_writable=["/tmp"], clean_env=True, no_coredump=True)
    try:
        works = box.run_interactive([noop]) == 0
    except Exception:  # noqa: BLE001 - whatever keeps it from starting a program here
        works = False
    return {"sandlock": lambda: int(box.run_interactive([noop]))} if works else {}


if __name__ == "__main__":
    main()
