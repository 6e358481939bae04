"""Time sandlock's start against a command's, both from this process and in turn; run by the Python that has sandlock.

sandlock_start.py ROUNDS FOLDER NOOP -- COMMAND ...

Prints a line a round: nanoseconds of the command, and of sandlock's start of NOOP to its end.
"""

from __future__ import annotations

import importlib
import os
import sys
import time


def main() -> None:
    """Take turns."""
    split = sys.argv.index("--")
    rounds, folder, noop = sys.argv[1:split]
    command = sys.argv[split + 1 :]
    box = importlib.import_module("sandlock").Sandbox(
        fs_readable=["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/proc", "/dev", folder], fs_writable=["/tmp"]
    )
    for turn in range(-1, int(rounds)):
        start = time.perf_counter_ns()
        pid = os.posix_spawn(command[0], command, os.environ)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]
        between = time.perf_counter_ns()
        codes.append(box.run_interactive([noop]))
        end = time.perf_counter_ns()
        if any(codes):
            sys.exit(f"sandlock_start: exit codes {codes}")
        if turn >= 0:
            print(between - start, end - between)


if __name__ == "__main__":
    main()
