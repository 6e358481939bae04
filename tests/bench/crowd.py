"""Many sandboxes at once that wait: what each keeps of memory, and how long it takes until all of them run."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench import peers
from tests.bench.tools import make_plan, sealed, table

SANDBOX: Final = "sandbox, sealed"
NUMBERS: Final = (1, 10, 100, 1000)
REPEATS: Final = {1: 7, 10: 3}  # of the smaller numbers; the larger ones are means of many already
SETTLED: Final = 0.3  # seconds
AT_REST, PATIENCE = 256, 20  # kB in that time; how often to look
KERNEL: Final = ("SUnreclaim", "KernelStack", "PageTables", "Percpu")  # of /proc/meminfo


@dataclass(frozen=True, slots=True)
class Kept:
    """Of one sandbox: kB of its own processes (PSS) without its program, kB of the kernel with it, ms to start."""

    own: float
    kernel: float
    start: float


def measure(folder: Path) -> dict[int, dict[str, Kept]]:
    """Return what each keeps, by how many there are."""
    waiter = str(folder / "waiter")
    plan = make_plan([waiter])
    rows = {
        SANDBOX: [sealed(folder / "crowd", [waiter])],
        peers.EQUAL: peers.bubblewrap(plan, [waiter], []),  # without filters, which it reads from a descriptor once
        peers.LEAST: ["/usr/bin/bwrap", "--unshare-pid", "--dev-bind", "/", "/", waiter],
    }
    found: dict[int, dict[str, Kept]] = {}
    for number in NUMBERS:
        rounds: dict[str, list[Kept]] = {}
        for _ in range(REPEATS.get(number, 1)):
            for name, words in peers.present(rows).items():
                rounds.setdefault(name, []).append(looked_at(words, number, Path(waiter).name))
        found[number] = {name: middle(each) for name, each in rounds.items()}
    return found


def middle(each: Sequence[Kept]) -> Kept:
    """Return the one of the median start; its figures belong together."""
    return sorted(each, key=lambda kept: kept.start)[len(each) // 2]


def looked_at(words: Sequence[str], number: int, program: str) -> Kept:
    """Start so many, look, end them."""
    before = settled()
    began = time.perf_counter()
    with crowd(words, number) as pids:
        took = time.perf_counter() - began
        time.sleep(SETTLED)
        kernel = kernel_memory() - before
        families = [pid for one in pids for pid in family(one)]
        own = sum(proportional(pid) for pid in families if name_of(pid) != program)
    return Kept(own / number, kernel / number, took * 1e3 / number)


@contextlib.contextmanager
def crowd(words: Sequence[str], number: int) -> Iterator[list[int]]:
    """Start them one after the other, and yield their process IDs when all their programs have said that they run."""
    stop_read, stop_write = os.pipe()
    ready_read, ready_write = os.pipe()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes.extend(subprocess.Popen(words, stdin=stop_read, stdout=ready_write) for _ in range(number))
        left = number
        while left:
            left -= len(os.read(ready_read, left))
        yield [process.pid for process in processes]
    finally:
        os.close(stop_write)
        for process in processes:
            process.wait()
        for fd in (stop_read, ready_read, ready_write):
            os.close(fd)


def family(pid: int) -> Iterator[int]:
    """Yield a process and all below it."""
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from family(int(child))


def name_of(pid: int) -> str:
    """Return a process's name."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def proportional(pid: int) -> int:
    """Return a process's part of memory, in kB."""
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def kernel_memory() -> int:
    """Return what the kernel keeps for itself, in kB: for everything that runs, so that few sandboxes hardly show."""
    found = re.findall(rf"^(?:{'|'.join(KERNEL)}):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return sum(map(int, found))


def settled() -> int:
    """Return it when what ended before is gone: the kernel takes network namespaces apart later."""
    last = kernel_memory()
    for _ in range(PATIENCE):
        time.sleep(SETTLED)
        now = kernel_memory()
        if now > last - AT_REST:
            return now
        last = now
    return last


# ---- the page ----


def crowd_table(found: Mapping[int, Mapping[str, Kept]]) -> str:
    """Return the table."""
    heads = ["", *(f"{number:,} at once" for number in found)]
    rows = []
    for name in next(iter(found.values())):
        kept = [each[name] for each in found.values()]
        rows.append([f"{name}: own processes, kB", *(f"{one.own:,.0f}" for one in kept)])
        rows.append(["the kernel's part, kB", *(f"{one.kernel:,.0f}" for one in kept)])
        rows.append(["start, ms each", *(f"{one.start:.2f}" for one in kept)])
    return table(heads, rows)
