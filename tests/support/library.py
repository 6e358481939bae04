"""The library's applications: their table, how a job of one is run, and what hostile code in its place gets done."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.profile_files import default_search_path, load, shipped_folder
from tests.support.attack import ATTEMPTS, Aim, Host, Verdict
from tests.support.workloads import stage_command

FOLDER: Final = Path(__file__).resolve().parent.parent / "profiles"
PATH: Final = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ALL: Final = "all"
ATTACK: Final = "/usr/bin/python3 attack.py"
SECONDS: Final = 120
CLIENT_OPTIONS: Final = "--net-allow tcp:127.0.0.1:$PORT"
PAGE: Final = FOLDER.parent.parent / "docs" / "profiles.md"
BEGIN, END = "<!-- the table: written by `make library` -->", "<!-- the end of the table -->"
MOST_COMMANDS: Final = 4


@dataclass(frozen=True, slots=True)
class App:
    """An application under its profile; the fields are those of apps.toml."""

    profile: str
    program: str
    job: str
    command: str
    prepare: str = ":"
    options: str = ""
    check: str = ":"
    ask: str = ""
    host: str = ""
    means: str = ""
    hostile_prepare: str = ":"
    hostile: str = "$ATTACK"
    hostile_ask: str = ""
    client: bool = False

    @property
    def named(self) -> bool:
        """Whether its options name the profile; otherwise the command's name has to find it."""
        return self.options.startswith("-p ")

    def line(self) -> str:
        """Return the job's line, as a user types it."""
        return f"sandbox run {self._options()} -- {self.command.strip()}"

    def hostile_line(self) -> str:
        """Return the line that runs the hostile code under the same profile and options."""
        profile = "" if self.named else f"-p {self.profile}"
        return f"sandbox run {profile} {self._options()} -- {self.hostile}"

    def _options(self) -> str:
        return f"{self.options} {CLIENT_OPTIONS if self.client else ''}"


@dataclass(frozen=True, slots=True)
class Input:
    """Hostile input for an application; does: the attempt in which it succeeds with it, outside, or all of them."""

    profile: str
    does: str
    input: str
    prepare: str
    command: str

    @property
    def attempts(self) -> frozenset[str]:
        """What is done outside."""
        return frozenset(ATTEMPTS) if self.does == ALL else frozenset({self.does})


def apps() -> list[App]:
    """Return the table of applications."""
    return [App(**row) for row in tomllib.loads((FOLDER / "apps.toml").read_text())["app"]]


def inputs() -> list[Input]:
    """Return the table of hostile input."""
    return [Input(**row) for row in tomllib.loads((FOLDER / "apps.toml").read_text())["input"]]


@dataclass(frozen=True, slots=True)
class Said:
    """How a line ended, and what it said."""

    code: int
    out: str
    err: str


class Place:
    """A user's place for one line: a home folder with a secret, a working folder, a folder outside of both."""

    def __init__(self, folder: Path, command: Path, user: str | None, host: Host) -> None:
        self.folder, self.host = folder, host
        self.work = folder / "work"
        self.work.mkdir()
        self.aim = Aim(folder, self.work, host, user)
        self.home, self.identity = self.aim.home, self.aim.identity
        self.port = _free_port()
        self.env = {
            "PATH": f"{command.parent}:{PATH}", "HOME": str(self.home), "LC_ALL": "C.UTF-8", "PYTHONSAFEPATH": "",
            "PORT": str(self.port), "WORK": str(self.work), "ATTACK": ATTACK,
            "SECRET": str(self.aim.secret_file), "OUTSIDE": str(self.aim.planted),
        }  # fmt: skip

    def start(self, line: str) -> subprocess.Popen[str]:
        """Start a line of bash, after the prelude, in the working folder."""
        prelude = (FOLDER / "prelude.sh").read_text()
        return subprocess.Popen(
            ["bash", "-c", f"{prelude}\n{line}\n"], cwd=self.work, env=self.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
            **self.identity,
        )  # fmt: skip

    def run(self, line: str) -> Said:
        """Run a line to its end."""
        process = self.start(line)
        try:
            out, err = process.communicate(timeout=SECONDS)
        finally:
            _end(process)
        return Said(process.returncode, out, err)

    @contextlib.contextmanager
    def running(self, line: str) -> Iterator[subprocess.Popen[str]]:
        """Start a server, and end it as a service manager does."""
        process = self.start(line)
        try:
            yield process
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=20)
            _end(process)

    def await_port(self) -> None:
        """Return once a server of the host listens."""
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert time.monotonic() < end, "no server on the host"
            time.sleep(0.05)

    def asked(self, server: subprocess.Popen[str], line: str) -> Said:
        """Ask a server until it answers, or has ended."""
        end = time.monotonic() + 60
        while True:
            said = self.run(line)
            if said.code == 0 or time.monotonic() > end or server.poll() is not None:
                return said
            time.sleep(0.1)

    def verdict(self, said: Said) -> Verdict:
        """Look at what the hostile code has done; what it left running is ended."""
        return self.aim.verdict(said.out + said.err)


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Library:
    """Runs the applications, each in a place of its own, by an ordinary user."""

    def __init__(self, stage: Path, user: str | None) -> None:
        self.stage, self.user, self.host = stage, user, Host()
        self.command = Path(stage_command(stage))

    @contextlib.contextmanager
    def place(self) -> Iterator[Place]:
        """Yield a fresh place."""
        folder = Path(tempfile.mkdtemp(prefix="a", dir=self.stage))
        folder.chmod(0o755)
        place = Place(folder, self.command, self.user, self.host)
        try:
            yield place
        finally:
            place.aim.close()
            shutil.rmtree(folder, ignore_errors=True)

    def do_job(self, app: App) -> Said:
        """Prepare, run and check an application's real job; what it says is that of the first line that fails."""
        with self.place() as place, contextlib.ExitStack() as meanwhile:
            if (prepared := place.run(app.prepare)).code:
                return prepared
            if app.host:
                meanwhile.enter_context(place.running(app.host))
                place.await_port()
            if app.ask:
                with place.running(app.line()) as server:
                    said = place.asked(server, app.ask)
                    if said.code:
                        server.terminate()
                        out, err = server.communicate(timeout=20)
                        return Said(said.code, said.out + out, said.err + err)
                return Said(0, said.out, said.err)
            said = place.run(app.line())
            if said.code:
                return said
            (place.work / "said").write_text(said.out)
            checked = place.run(app.check)
            return Said(checked.code, said.out + checked.out, said.err + checked.err)

    def attack(self, app: App, *, inside: bool) -> Verdict:
        """Let hostile code run as the application would, under its profile or without any sandbox."""
        with self.place() as place:
            prepared = place.run(f"mkdir -p out tmp\n{app.hostile_prepare}")
            assert prepared.code == 0, prepared
            if not inside:
                # A server has its sockets by the sandbox only: there the code runs by itself.
                return place.verdict(place.run("$ATTACK" if app.hostile_ask else app.hostile))
            if not app.hostile_ask:
                return place.verdict(place.run(app.hostile_line()))
            with place.running(app.hostile_line()) as server:
                said = place.asked(server, app.hostile_ask)
                server.terminate()
                out, err = server.communicate(timeout=20)
            return place.verdict(Said(said.code, said.out + out, said.err + err))

    def feed(self, given: Input, *, inside: bool) -> frozenset[str]:
        """Let an application have hostile input, under its profile or without any sandbox; return what it did."""
        with self.place() as place:
            prepared = place.run(given.prepare)
            assert prepared.code == 0, prepared
            assert not place.verdict(prepared).done, "it is done before the application has it"
            prefix = f"sandbox run -p {given.profile} -- " if inside else ""
            return place.verdict(place.run(prefix + given.command)).done


@contextlib.contextmanager
def library() -> Iterator[Library]:
    """Yield what runs the applications; root becomes nobody."""
    stage = Path(tempfile.mkdtemp(prefix="lib-"))  # short: programs make sockets below it, of 107 bytes at most
    stage.chmod(0o755)
    found = Library(stage, "nobody" if os.geteuid() == 0 else None)
    try:
        yield found
    finally:
        found.host.close()
        shutil.rmtree(stage, ignore_errors=True)


def versions_of(profile: str) -> str:
    """Return the versions that a shipped profile's header names."""
    header = (shipped_folder() / f"{profile}.toml").read_text().split("\ndescription")[0]
    found = re.search(r"^# Tested with: (.+?)\.?$", header, re.MULTILINE)
    assert found is not None, f"{profile}: its header does not say what it was tested with"
    return found[1]


def folder_rights(profile: str) -> str:
    """Return what may be done in the working folder, in words."""
    files = load(profile, search=default_search_path({})).filesystem
    words = [name for name in ("read", "write", "execute") if "{cwd}" in getattr(files, name)]
    return ", ".join(words)


def table(every: Iterable[App]) -> Iterator[str]:
    """Yield the lines of the table in docs/profiles.md."""
    search = default_search_path({})
    yield "| profile | for | working folder | real job | hostile code runs | tested with |"
    yield "|---|---|---|---|---|---|"
    for app in every:
        commands = load(app.profile, search=search).commands
        shown = " ".join(f"`{name}`" for name in commands[:MOST_COMMANDS]) + " ..." * (len(commands) > MOST_COMMANDS)
        cells = (f"`{app.profile}`", shown or "by name", folder_rights(app.profile), app.job)
        yield f"| {' | '.join(cells)} | {app.means or 'in its place'} | {versions_of(app.profile)} |"


def input_table(every: Iterable[Input]) -> Iterator[str]:
    """Yield the lines of the table of hostile input."""
    yield "| profile | input | outside it |"
    yield "|---|---|---|"
    told = {
        "reads": "reads the key", "writes": "writes outside of the working folder",
        ALL: "runs the hostile code",
    }  # fmt: skip
    yield from (f"| `{given.profile}` | {given.input} | {told[given.does]} |" for given in every)


def page_with_table(page: str) -> str:
    """Return the page with the table between its markers."""
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    between = "Input can be hostile by itself. Under the profile none of this does what it does without:"
    return "\n".join((before + BEGIN, *table(apps()), "", between, "", *input_table(inputs()), END)) + after


def fares(found: Library, app: App) -> tuple[bool, str]:
    """Run an application's job and attacks; return whether all is well, and what is to be told."""
    start = time.monotonic()
    said = found.do_job(app)
    middle = time.monotonic()
    outside, inside = found.attack(app, inside=False), found.attack(app, inside=True)
    held = inside.ran and not inside.done and outside.done == set(ATTEMPTS)
    line = f"{app.profile:12} job {middle - start:.1f} s, attacks {time.monotonic() - middle:.1f} s"
    if said.code == 0 and held:
        return True, f"ok   {line}"
    got = f"outside {sorted(outside.done)}, inside {sorted(inside.done)}, ran {inside.ran}"
    return False, "\n---\n".join((f"FAIL {line}, exit code {said.code}, {got}", str(said), outside.said, inside.said))


def main(names: list[str]) -> None:
    """Tell how the applications of these names fare, or all; then, if they fare well, write the table."""
    failed = False
    with library() as found:
        for app in apps():
            if not names or app.profile in names:
                fine, told = fares(found, app)
                failed |= not fine
                print(told, flush=True)
    if failed:
        sys.exit(1)
    if not names:
        PAGE.write_text(page_with_table(PAGE.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
