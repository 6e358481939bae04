"""Real jobs by real programs with checked output: which there are, and running one plain or under a launcher."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sandbox import NetworkMode, NetworkPolicy, SharedNamespace, Tty, View, default_search_path, format_profile, load
from sandbox.filesystem import FilesystemPolicy
from sandbox.landlock import LandlockPolicy
from sandbox.profile import Environment

FOLDER: Final = Path(__file__).resolve().parent.parent / "workloads"
PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
TIMEOUT: Final = 120.0
TIMED_OUT: Final = 124


@dataclass(frozen=True, slots=True)
class Job:
    """A script that exits 0 when the job was done right. kind: A ordinary, P passes descriptors on purpose."""

    path: Path

    @property
    def name(self) -> str:
        """The script's name."""
        return self.path.stem

    @property
    def kind(self) -> str:
        """The class that its second line names."""
        return self.path.read_text().splitlines()[1].removeprefix("# class: ")

    @property
    def purpose(self) -> str:
        """What its third line says."""
        return self.path.read_text().splitlines()[2].removeprefix("# ")


@dataclass(frozen=True, slots=True)
class Done:
    """How a job ended, the last line that it said, and all of it."""

    job: Job
    code: int
    said: str
    output: str = ""

    @property
    def right(self) -> bool:
        """Whether the job was done."""
        return self.code == 0


def jobs(folder: Path = FOLDER) -> list[Job]:
    """Return all jobs, by name."""
    return [Job(path) for path in sorted((folder / "jobs").glob("*.sh")) if path.name != "lib.sh"]


def open_profile() -> str:
    """Return the text of a profile with the gate and the filter of `untrusted`, and no walls.

    Programs that each have a sandbox of their own, and yet work together on files, ports and process IDs, need it. The
    user namespace stays: it is what lets the gate look into processes that are not dumpable.
    """
    untrusted = load("untrusted", search=default_search_path({}))
    return format_profile(
        replace(
            untrusted,
            description="the gate and the filter of untrusted, without its walls",
            process=replace(untrusted.process, tty=Tty.INHERIT),
            filesystem=FilesystemPolicy(view=View.HOST),
            network=NetworkPolicy(NetworkMode.HOST),
            share=tuple(name for name in SharedNamespace if name is not SharedNamespace.USER),
            landlock=LandlockPolicy(optional=("landlock",)),
            environment=Environment(keep=("*",)),
        )
    )


def whole_job(command: str, jobs_folder: Path, options: str = "") -> str:
    """Return the launcher that puts a whole job into one sandbox; {scratch} stands for the job's own folder."""
    own = ("{scratch}", str(jobs_folder.parent))
    shown = [word for folder in own for word in ("--execute", folder)]
    words = [command, "run", "--net", "loopback", *shown, "--write", "{scratch}", "--chdir", "{scratch}"]
    return shlex.join([*words, "--env", "GATE", *shlex.split(options), "--"])


@contextmanager
def staged(user: str | None) -> Iterator[Path]:
    """Yield a folder with a copy of the jobs that the user can read; where the checkout lies nobody else may look."""
    stage = Path(tempfile.mkdtemp(prefix="jobs-"))  # short: programs make sockets below it, of 107 bytes at most
    try:
        stage.chmod(0o755)
        shutil.copytree(FOLDER, stage / "workloads", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        (stage / "open.toml").write_text(open_profile())
        (stage / "scratch").mkdir()
        if user is not None:
            shutil.chown(stage / "scratch", user)
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def run(
    job: Job, stage: Path, *, launcher: str = "", each: bool = False, user: str | None = None,
    environ: Mapping[str, str] | None = None, apart: bool = True,
) -> Done:  # fmt: skip
    """Run a job to its end and return how it went.

    launcher: words before the job, or with `each` before each of its programs. user: whom root becomes; root also
    gives each job a network of its own with a loopback, so that jobs do not meet on a port, unless it is not `apart`.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f"{job.name}-", dir=stage / "scratch"))
    scratch.chmod(0o755)
    words = shlex.split(launcher.replace("{scratch}", str(scratch)))
    env = {
        "PATH": PATH, "HOME": "/home/somebody", "TERM": "xterm", "LC_ALL": "C.UTF-8", "SHELL": "/bin/bash",
        "GATE": shlex.join(words) if each else "", **(environ or {}),
    }  # fmt: skip
    command = [*([] if each else words), "/bin/bash", str(job.path), str(scratch)]
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(scratch, entry.pw_uid, entry.pw_gid)
        env |= {"USER": user, "LOGNAME": user}
        command = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "--", *command]
    if os.geteuid() == 0 and apart:
        command = ["unshare", "-n", "-i", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]
    try:
        return Done(job, *_run(command, scratch, env))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(command: Sequence[str], scratch: Path, env: Mapping[str, str]) -> tuple[int, str, str]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=scratch, start_new_session=True
        )
        try:
            code = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            code = TIMED_OUT
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.seek(0)
        output = log.read().decode(errors="replace")
    said = re.sub(r"\s+", " ", output.strip().rpartition("\n")[2])
    return code, "" if code == 0 else said[:160], output


WAYS: Final = ("whole", "each")


@dataclass(frozen=True, slots=True)
class Expected:
    """A job that is not done: the cause, options with which it is ("": none), whether it depends on who is faster."""

    cause: str
    options: str = ""
    races: bool = False


def expected(way: str) -> dict[str, Expected]:
    """Return the jobs that are not done in that way, by name."""
    table = tomllib.loads((FOLDER / "expected.toml").read_text())
    return {name: Expected(**row) for name, row in table[way].items()}


def run_way(way: str, command: str, stage: Path, user: str | None, *, at_once: int = 2) -> dict[str, Done]:
    """Run all jobs under the launcher; leave out those that are not done without it either (a program is missing).

    way: whole, or each. A job that is not done beside another is tried again alone: some wait for fixed times only.
    """
    every = jobs(stage / "workloads")
    own = shlex.join([command, "run", "-p", str(stage / "open.toml"), "--"])
    launcher = whole_job(command, stage / "workloads" / "jobs") if way == "whole" else own

    def confined(job: Job) -> Done:
        return run(job, stage, launcher=launcher, each=way == "each", user=user)

    with ThreadPoolExecutor(at_once) as pool:
        found = {done.job.name: done for done in pool.map(confined, every)}
    known = expected(way)
    for name, done in list(found.items()):
        if not done.right and name not in known:
            found[name] = confined(done.job)
    return {
        name: done for name, done in found.items() if done.right or run(done.job, stage, user=user).right
    }  # fmt: skip


def stage_command(stage: Path) -> str:
    """Copy the installed command line to where every user can start it, and return its path."""
    packages = Path(sysconfig.get_path("purelib"))
    for pattern in ("sandbox", "click", "msgspec", "*seccomp*", "sandbox_launcher-*"):
        for found in packages.glob(pattern):
            target = stage / "packages" / found.name
            target.parent.mkdir(exist_ok=True)
            shutil.copytree(found, target) if found.is_dir() else shutil.copy(found, target)
    command = stage / "sandbox"
    command.write_text(
        f"#!{os.path.realpath(sys._base_executable)} -IP\n"  # type: ignore[attr-defined]
        f"import sys\nsys.path.insert(0, {str(stage / 'packages')!r})\n"
        "from sandbox.cli import main\nsys.exit(main())\n"
    )
    command.chmod(0o755)
    return str(command)


@dataclass(frozen=True, slots=True)
class Taught:
    """How a job went plain, while it was learned, and under what was learned: each with its seconds; and that text."""

    plain: Done
    learned: Done
    again: Done
    seconds: tuple[float, float, float]
    profile: str

    @property
    def entries(self) -> int:
        """How many paths, variables, protocols and groups the profile names."""
        tables = tomllib.loads(self.profile)
        return sum(
            len(value) for table in tables.values() if isinstance(table, dict) for value in table.values()
            if isinstance(value, list)
        )  # fmt: skip


def teach(job: Job, command: str, stage: Path, user: str | None) -> Taught | None:
    """Run a job plain, learn it, and run it under what was learned; None if it is not done without us either.

    The profile is left in the stage, as NAME.toml, for others to try.
    """
    path = stage / "scratch" / f"{job.name}.toml"
    times: list[float] = []

    def timed(launcher: str) -> Done:
        start = time.monotonic()
        done = run(job, stage, launcher=launcher, user=user)
        times.append(time.monotonic() - start)
        return done

    plain = timed("")
    if not plain.right:
        return None
    learned = timed(shlex.join([command, "learn", "--permissive", "-o", str(path), "--"]))
    again = timed(shlex.join([command, "run", "-p", str(path), "--"]))
    text = path.read_text() if path.exists() else ""
    return Taught(plain, learned, again, (times[0], times[1], times[2]), text)
