"""Measure what rules of the network cost, side by side in one run; write the table into docs/network.md.

    network.py [--rounds N] [--output FILE]

nginx serves on this host's loopback. The same client runs bare and in a sandbox that may reach it, taking turns; its
own figures count, so that no start is among them.
"""

from __future__ import annotations

import argparse
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Final

HERE: Final = Path(__file__).resolve().parent
PAGE: Final = HERE.parents[1] / "docs" / "network.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NGINX: Final = """
daemon off; pid {folder}/pid; error_log stderr; worker_processes 1;
events {{ worker_connections 2048; }}
http {{
  access_log off; keepalive_requests 1000000; client_body_temp_path {folder}/t; proxy_temp_path {folder}/t;
  fastcgi_temp_path {folder}/t; uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
  server {{ listen 127.0.0.1:{port} backlog=4096; root {folder}/www; }}
}}
"""
CONNECTS: Final = 5000


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as one:
        port: int = one.getsockname()[1]
    return port


@contextmanager
def server(folder: Path) -> Iterator[int]:
    """Serve a small and a large file; yield the port."""
    port, www = free_port(), folder / "www"
    www.mkdir()
    (www / "small").write_bytes(bytes(1000))
    (www / "large").write_bytes(bytes(4 << 20))
    (folder / "conf").write_text(NGINX.format(folder=folder, port=port))
    command = ["/usr/sbin/nginx", "-e", "stderr", "-c", str(folder / "conf")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            time.sleep(1)
            yield port
        finally:
            process.terminate()


def figure(command: Sequence[str], pattern: str) -> float:
    done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    found = re.search(pattern, done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    return float(found[1])


def rows(folder: Path, port: int) -> Iterator[tuple[str, str, list[str], str, bool]]:
    """Yield what is measured: words, unit, the client, where its figure stands, and whether more is better."""
    url = f"http://127.0.0.1:{port}"
    rate, transfer = r"^Requests per second: +([\d.]+)", r"^Transfer rate: +([\d.]+)"
    quiet = ["ab", "-q", "-r"]
    yield "requests on 16 kept connections", "/s", [*quiet, "-k", "-c16", "-n150000", f"{url}/small"], rate, True
    yield "4 MiB files on 4 kept connections", "KB/s", [*quiet, "-k", "-c4", "-n1000", f"{url}/large"], transfer, True
    yield "requests, each on a connection of its own", "/s", [*quiet, "-c16", "-n8000", f"{url}/small"], rate, True
    connect = [str(folder / "connect"), str(CONNECTS), str(port)]
    yield "socket and connect, median", "ns", connect, r"^(\d+)$", False


def measured(rounds: int) -> Iterator[str]:
    yield "| | no sandbox | `--net host` | rules | rules to `--net host` | rules to no sandbox |"
    yield "|---|---|---|---|---|---|"
    sandbox = str(Path(sys.executable).with_name("sandbox"))
    with tempfile.TemporaryDirectory(prefix="sandbox-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        tool = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", f"{folder}/connect"]
        subprocess.run([*tool, f"{HERE}/connect.c"], check=True)
        with server(folder) as port:
            start = [sandbox, "run", "-p", "untrusted", "--execute", str(folder)]
            ways = {
                "bare": [], "host": [*start, "--net", "host", "--"],
                "rules": [*start, "--net-allow", f"tcp:127.0.0.1:{port}", "--"],
            }  # fmt: skip
            for words, unit, client, pattern, more in rows(folder, port):
                found: dict[str, list[float]] = {way: [] for way in ways}
                for _ in range(rounds):
                    for way, before in ways.items():
                        found[way].append(figure([*before, *client], pattern))
                better = "" if more else " (less is better)"
                figures = [f"{median(values):,.0f} {unit}" for values in found.values()]
                ratios = [spread(found[other], found["rules"]) for other in ("host", "bare")]
                yield f"| {words}{better} | {' | '.join((*figures, *ratios))} |"


def spread(ones: Sequence[float], others: Sequence[float]) -> str:
    """Return the ratio of pairs: its median and range."""
    ratios = [right / left for left, right in zip(ones, others, strict=True)]
    return f"{median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    for needed in ("ab", "nginx"):
        if shutil.which(needed, path="/usr/sbin:/usr/bin:/bin") is None:
            sys.exit(f"network.py: {needed} is missing; install apache2-utils and nginx-light")
    lines = [*measured(options.rounds), "", f"Medians of {options.rounds} runs that took turns, on {machine()}."]
    text = options.output.read_text()
    head, rest = text.split(BEGIN)
    options.output.write_text(head + BEGIN + "\n" + "\n".join(lines) + "\n" + END + rest.split(END)[1])
    print("\n".join(lines))


def machine() -> str:
    import os
    import platform

    return f"{os.cpu_count()} processors, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
