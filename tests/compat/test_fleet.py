"""Untrusted jobs through existing engines, with the sandbox around each: docs/fleet.md, and what it claims."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import ROOT
from tests.support.documents import assert_examples, examples
from tests.support.hosts import Fleet, Host, fleet

PAGE: Final = ROOT / "docs" / "fleet.md"
SANDBOX: Final = (sys.executable, "-P", "-m", "sandbox")
HOSTS: Final = ("host1", "host2", "host3")
NEEDS_ROOT: Final = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: hosts have users of their own")


def heredoc(name: str) -> str:
    """Return a file that the document makes."""
    for command, _ in examples(PAGE.read_text()):
        if found := re.fullmatch(rf"cat >{re.escape(name)} <<'END'\n(.*\n)END", command, re.DOTALL):
            return found[1]
    raise AssertionError(name)


def waited(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 60
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(0.1)
    return held


def idle(host: Host) -> bool:
    return waited(lambda: not host.processes())


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("hosts"), HOSTS) as started:
        yield started


# The document.


@NEEDS_ROOT
def test_fleet_document_examples_say_what_is_written(
    sandbox_command: Sequence[str], environment: dict[str, str], hosts: Fleet, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "hosts").write_text("".join(f"{host.name}\n" for host in hosts.hosts))
    assert_examples(PAGE, sandbox_command, {**environment, "PARALLEL_SSH": hosts.ssh}, tmp_path)
    for host in hosts.hosts:
        assert idle(host), (host.name, host.processes())


# Dask.

# Beside the document's jobs.py; each function is what a Dask worker runs.
PROGRAM: Final = """
import json, os, signal, subprocess, sys, time
import jobs
from distributed import Client, LocalCluster

ATTACK = '''
import json, os, socket, sys
def done(attempt):
    try:
        return bool(attempt())
    except OSError:
        return False
def connects():
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5)
    return True
print(json.dumps({
    "reads": done(lambda: open(os.environ["HOME"] + "/key").read()),
    "other jobs": done(lambda: [name for name in os.listdir(sys.argv[2]) if name not in os.getcwd()]),
    "sees": any(done(lambda: b"program.py" in open(f"/proc/{n}/cmdline", "rb").read()) for n in os.listdir("/proc")),
    "connects": done(connects),
}))
'''

KILLED, CANCELLED = (f"{os.environ['SECONDS_OF_TEST']}.{end}" for end in (25, 75))  # nobody else sleeps so long
LONG = {"limits": {"timeout": "10m"}}  # no limit ends it, while this looks


def plain(command, data):
    return subprocess.run(command, input=data, capture_output=True)


def flaky(path):
    if not os.path.exists(path):
        open(path, "w").close()
        raise RuntimeError("once")
    return jobs.run(["echo", "second"]).stdout.decode()


def killed(path):
    if os.path.exists(path):
        return jobs.run(["echo", "again"]).stdout.decode()
    with open(path + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".new", path)
    return jobs.run(["sleep", KILLED], **LONG).stdout.decode()


def running(pattern):
    return subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True).stdout.split()


def until(holds):
    end = time.monotonic() + 60
    while not holds() and time.monotonic() < end:
        time.sleep(0.1)
    return holds()


def main():
    scratch = sys.argv[1]
    os.environ["TMPDIR"] = scratch + "/jobs"
    os.mkdir(os.environ["TMPDIR"])
    said = {}
    options = {"dashboard_address": None, "silence_logs": 50}
    cluster = LocalCluster(n_workers=2, threads_per_worker=2, **options)
    with cluster, Client(cluster) as client:
        port = cluster.scheduler_address.rpartition(":")[2]
        command = [sys._base_executable, "-", port, os.environ["TMPDIR"]]
        waits = client.submit(jobs.run, ["sleep", "5"])
        until(lambda: os.listdir(os.environ["TMPDIR"]))
        attack = [client.submit(how, command, ATTACK.encode()) for how in (jobs.run, plain)]
        said["attack"] = [json.loads(future.result().stdout) for future in attack]
        waits.result()
        said["folders"] = [name for name in os.listdir(os.environ["TMPDIR"]) if "dask" not in name]

        hog = client.submit(jobs.run, [sys._base_executable, "-c", "bytearray(1 << 30)"], limits={"memory": "256M"})
        flood = client.submit(jobs.run, ["yes"], limits={"output": "1M", "timeout": "20s"})
        good = client.map(lambda n: jobs.run(["sh", "-c", "cat; echo $0", str(n)], b"in ").stdout.decode(), range(20))
        said["good"] = client.gather(good)
        said["hog"] = "MemoryError" in hog.result().stderr.decode()
        said["flood"] = len(flood.result().stdout)

        said["flaky"] = client.submit(flaky, scratch + "/flaky", retries=2).result()
        again = client.submit(killed, scratch + "/killed")
        until(lambda: os.path.exists(scratch + "/killed") and running("^sleep " + KILLED))
        os.kill(int(open(scratch + "/killed").read()), signal.SIGKILL)
        said["killed"] = again.result()
        said["left"] = until(lambda: not running("^sleep " + KILLED))

        cancelled = client.submit(jobs.run, ["sleep", CANCELLED], **LONG)
        until(lambda: running("^sleep " + CANCELLED))
        cancelled.cancel()
        said["cancelled"] = until(lambda: not running("^sleep " + CANCELLED))
    print(json.dumps(said))


if __name__ == "__main__":
    main()
"""


def test_dask_keeps_jobs_apart_and_loses_none(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(heredoc("jobs.py"))
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "home" / "key").write_text("secret\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [environment.get("PYTHONPATH")])])
    env = {**environment, "PYTHONPATH": path, "SECONDS_OF_TEST": f"9{os.getpid()}"}
    done = subprocess.run(
        [sys.executable, "-P", tmp_path / "program.py", tmp_path],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    held, twin = said.pop("attack")
    assert held == dict.fromkeys(twin, False)
    assert twin == dict.fromkeys(("reads", "other jobs", "sees", "connects"), True)
    assert said == {
        "folders": [], "good": [f"in {n}\n" for n in range(20)], "hog": True, "flood": 1 << 20, "flaky": "second\n",
        "killed": "again\n", "left": True, "cancelled": True,
    }  # fmt: skip


# GNU parallel.

BOMB: Final = """#!/bin/sh
case $1 in
*1) b() { b | b & }; b; sleep 60 ;;
*2) echo $$; sleep 600 ;;
esac
cat "$1"
"""


def parallel(
    hosts: Fleet, folder: Path, environment: dict[str, str], *options: str, inputs: Sequence[str]
) -> subprocess.Popen[str]:  # fmt: skip
    command = [
        "parallel", "--sshlogin", ",".join(f"1/{host.name}" for host in hosts.hosts), "--workdir", "...",
        "--transferfile", "boxed", "--transferfile", "job", "--transferfile", "{}", "--cleanup", "--joblog", "log",
        *options, "./boxed", "./job", "{}", ":::", *inputs,
    ]  # fmt: skip
    return subprocess.Popen(
        command, cwd=folder, env={**environment, "PARALLEL_SSH": hosts.ssh}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def log_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Return exit code and signal of each job, by its input."""
    if not (folder / "log").exists():
        return {}
    rows = [line.split("\t") for line in (folder / "log").read_text().splitlines()[1:]]
    return {row[8].split()[2]: (int(row[6]), int(row[7])) for row in rows}


def prepared(folder: Path, environment: dict[str, str], job: str, *, seconds: int, count: int) -> list[str]:
    folder.mkdir()
    (folder / "boxed.toml").write_text(heredoc("boxed.toml").replace("3s", f"{seconds}s"))
    (folder / "job").write_text(job)
    (folder / "job").chmod(0o755)
    for number in range(1, count + 1):
        (folder / f"in{number}").write_text(f"{number}\n")
    words = [*SANDBOX, "seal", "./boxed.toml", "-o", "boxed"]
    subprocess.run(words, cwd=folder, env=environment, check=True, timeout=60)
    return [f"in{number}" for number in range(1, count + 1)]


@NEEDS_ROOT
def test_parallel_bomb_on_a_host_ends_with_its_sandbox(
    hosts: Fleet, environment: dict[str, str], tmp_path: Path
) -> None:
    for host in hosts.hosts:
        # Nothing of this project is there: an empty folder, or none.
        assert host.run("sh", "-c", 'ls -A "$1" 2>/dev/null || :', "sh", sys.prefix) == ""
    before = {host.name: host.files() for host in hosts.hosts}  # jobs that were ended by --halt may leave some
    inputs = prepared(tmp_path / "jobs", environment, BOMB, seconds=5, count=6)
    with parallel(hosts, tmp_path / "jobs", environment, inputs=inputs) as started:
        out, err = started.communicate(timeout=240)
    assert log_of(tmp_path / "jobs") == {"in1": (124, 0), "in2": (124, 0), **dict.fromkeys(inputs[2:], (0, 0))}
    assert started.returncode == 2
    assert sorted(out.split())[-4:] == ["3", "4", "5", "6"], err
    for host in hosts.hosts:
        assert idle(host), (host.name, host.processes())
        left = set(host.files()) - set(before[host.name])
        assert not [path for path in left if "/tmp/" in path and path.endswith("job")]


@NEEDS_ROOT
def test_parallel_connection_that_is_lost_takes_the_sandbox_along(
    hosts: Fleet, environment: dict[str, str], tmp_path: Path
) -> None:
    job = '#!/bin/sh\nsetsid sleep 4321 & [ "$1" != in1 ] || sleep 4321\ncat "$1"\n'
    inputs = prepared(tmp_path / "jobs", environment, job, seconds=600, count=3)
    with parallel(hosts, tmp_path / "jobs", environment, inputs=inputs) as started:
        assert waited(lambda: len(log_of(tmp_path / "jobs")) == 2)
        busy = [host for host in hosts.hosts if any("sleep 4321" in line for line in host.processes())]
        assert len(busy) == 1
        busy[0].run("pkill", "-KILL", "-f", "sshd: guest")
        out, _ = started.communicate(timeout=240)
    assert sorted(out.split()) == ["2", "3"]
    assert log_of(tmp_path / "jobs") == {"in1": (255, 0), "in2": (0, 0), "in3": (0, 0)}
    assert idle(busy[0]), busy[0].processes()
