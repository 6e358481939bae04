"""Real jobs, outside and in a sandbox by turns: what each loses."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.crowd import family
from tests.bench.tools import Cost, Spread, sealed, spread_of, table, taking_turns

FOLDERS, FILES = 600, 100  # of the large repository
MODULES: Final = 24
ROWS: Final = 150_000
LINE: Final = "the quick brown fox jumps over the lazy dog\n"
MODULE: Final = """\
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b) {{ return strcmp(*(char *const *)a, *(char *const *)b); }}

int part_{n}(int argc, char **argv)
{{
	char text[64];

	qsort(argv, (size_t)argc, sizeof *argv, compare);
	snprintf(text, sizeof text, "%d", argc + {n});
	return atoi(text) + (int)strlen(text);
}}
"""
SQL: Final = f"""
PRAGMA journal_mode = WAL;
CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, value REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
  INSERT INTO t SELECT i, 'name ' || (i * 7919 % {ROWS}), i * 0.5 FROM n;
CREATE INDEX by_name ON t (name);
SELECT count(*), sum(value) FROM t WHERE name BETWEEN 'name 1' AND 'name 5';
SELECT max(a.value) FROM t a JOIN t b ON a.name = 'name ' || b.id WHERE b.id % 11 = 0;
UPDATE t SET value = value + 1 WHERE id % 3 = 0;
"""
NGINX: Final = """
daemon off; pid {folder}/pid; error_log stderr; worker_processes 1; {user}
events {{ worker_connections 512; }}
http {{
  access_log off; keepalive_requests 1000000; client_body_temp_path {folder}/t; proxy_temp_path {folder}/t;
  fastcgi_temp_path {folder}/t; uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
  server {{ listen 127.0.0.1:{port}; root {folder}/www; }}
}}
"""
LOAD: Final = ("wrk", "-t1", "-c16", "-d1s")
WEB: Final = "nginx, 16 connections"


@dataclass(frozen=True, slots=True)
class Job:
    """A job's ratios, inside to outside, of time and of processor time; seconds: of one outside."""

    wall: Spread
    processor: Spread
    seconds: float


def measure(folder: Path, pairs: int) -> tuple[dict[str, Job], list[str]]:
    """Return what each job loses, and which could not be measured."""
    found: dict[str, Job] = {}
    absent = []
    makers: dict[str, tuple[str, Callable[[Path], tuple[list[str], Path | None]]]] = {
        f"git status, {FOLDERS * FILES:,} files": ("git", _git),
        "ripgrep, the same files": ("rg", _ripgrep),
        f"make, {MODULES} C files": ("make", _make),
        f"sqlite3, {ROWS:,} rows": ("sqlite3", _sqlite),
    }
    for name, (program, make) in makers.items():
        if shutil.which(program) is None:
            absent.append(name)
            continue
        command, writable = make(folder)
        options = ("--write", str(writable)) if writable else ()
        shown = ("--read", str(folder))
        inside = sealed(folder / f"job-{program}", command, *shown, *options)
        found[name] = _job(taking_turns(folder, {"outside": command, "inside": [inside]}, pairs))
    if shutil.which(LOAD[0]) and os.access("/usr/sbin/nginx", os.X_OK):
        found[WEB] = _web(folder, pairs)
    else:
        absent.append(WEB)
    return found, absent


def _job(costs: Mapping[str, Sequence[Cost]]) -> Job:
    pairs = list(zip(costs["inside"], costs["outside"], strict=True))
    outside = sorted(cost.wall for cost in costs["outside"])
    return Job(
        spread_of([own.wall / other.wall for own, other in pairs]),
        spread_of([own.processor / other.processor for own, other in pairs]),
        outside[len(outside) // 2] / 1e9,
    )


def _quietly(*words: str) -> list[str]:
    return ["/bin/sh", "-c", '"$@" >/dev/null', "sh", *words]


def _tree(folder: Path) -> Path:
    tree = folder / "tree"
    if tree.exists():
        return tree
    for at in range(FOLDERS):
        below = tree / f"part{at}"
        below.mkdir(parents=True)
        for number in range(FILES):
            (below / f"file{number}.txt").write_text(f"{at} {number}\n{LINE * 20}")
    return tree


def _git(folder: Path) -> tuple[list[str], Path | None]:
    tree = _tree(folder)
    git = ["git", "-C", str(tree), "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    time.sleep(1.1)  # a file as young as the index is read again each time
    subprocess.run([*git, "status"], check=True, capture_output=True)
    return _quietly("git", "-C", str(tree), "--no-optional-locks", "status", "--porcelain"), None


def _ripgrep(folder: Path) -> tuple[list[str], Path | None]:
    return _quietly("rg", "-c", "lazy (cat|dog)", str(_tree(folder))), None


def _make(folder: Path) -> tuple[list[str], Path | None]:
    place = folder / "project"
    place.mkdir()
    names = [f"part_{n}" for n in range(MODULES)]
    for n, name in enumerate(names):
        (place / f"{name}.c").write_text(MODULE.format(n=n))
    objects = " ".join(f"{name}.o" for name in names)
    (place / "Makefile").write_text(f"CFLAGS = -O2\nparts.a: {objects}\n\tar rc $@ $^\n")
    return _quietly("make", "-s", "-B", "-C", str(place)), place


def _sqlite(folder: Path) -> tuple[list[str], Path | None]:
    place = folder / "database"
    place.mkdir()
    (place / "script").write_text(SQL)
    script = 'cd "$0" && rm -f data* && sqlite3 data <script >/dev/null'
    return ["/bin/sh", "-c", script, str(place)], place


def _web(folder: Path, pairs: int) -> Job:
    with ExitStack() as running:
        inside = running.enter_context(_server(folder / "inside", inside=True))
        outside = running.enter_context(_server(folder / "outside", inside=False))
        costs = [(_cost(*inside), _cost(*outside)) for _ in range(pairs + 1)][1:]
    return _job({"inside": [own for own, _ in costs], "outside": [other for _, other in costs]})


@contextmanager
def _server(place: Path, *, inside: bool) -> Iterator[tuple[int, int]]:
    """Serve a small file; yield the port, and the process ID of what serves it, or of its launcher."""
    (place / "www").mkdir(parents=True)
    (place / "www" / "small").write_bytes(bytes(1000))
    with closing(socket.create_server(("127.0.0.1", 0))) as one:
        port: int = one.getsockname()[1]
    user = "user root;" if os.geteuid() == 0 else ""
    (place / "conf").write_text(NGINX.format(folder=place, port=port, user=user))
    command = ["/usr/sbin/nginx", "-e", "stderr", "-c", str(place / "conf")]
    if inside:
        command = [sealed(place / "sealed", command, "--write", str(place), "--net", "host")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _await_port(port, process)
            yield port, process.pid
        finally:
            process.terminate()


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("bench: nginx: it ended")


def _cost(port: int, pid: int) -> Cost:
    """Return what one request takes: time, and processor time of all processes of the server."""
    before = _processor_time(pid)
    answer = subprocess.run([*LOAD, f"http://127.0.0.1:{port}/small"], capture_output=True, text=True, check=True)
    found = re.search(r"Requests/sec:\s+([\d.]+)", answer.stdout)
    if found is None or "Non-2xx" in answer.stdout:
        raise SystemExit(f"bench: wrk: {answer.stdout}")
    requests = re.search(r"(\d+) requests in", answer.stdout)
    assert requests is not None
    return Cost(1e9 / float(found[1]), (_processor_time(pid) - before) / int(requests[1]))


def _processor_time(pid: int) -> int:
    """Return what a process and all below it have used, in nanoseconds."""
    return sum(int(Path(f"/proc/{one}/schedstat").read_text().split()[0]) for one in family(pid))


# ---- the page ----


def job_table(found: Mapping[str, Job], start: float) -> str:
    """Return the table; start: what the start of a sandbox takes, in seconds."""
    heads = ("job", "inside : outside", "of processor time", "the start alone", "pairs", "each")
    rows = []
    for name, job in found.items():
        each, part = f"{job.seconds:.2f} s", f"{start / job.seconds:.3f}"
        if name == WEB:
            each, part = f"{job.seconds * 1e6:.0f} us", "-"
        rows.append([name, str(job.wall), str(job.processor), part, str(job.wall.count), each])
    return table(heads, rows)
