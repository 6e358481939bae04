"""Callers: processes that bring themselves into some state and then become the launcher or the command line."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

from sandbox import wire
from sandbox.addresses import looked_up
from sandbox.build import build
from sandbox.caller import Caller
from sandbox.events import Event, event_of
from sandbox.filesystem import FilesystemPolicy, View
from sandbox.grants import Grant, parse_grant
from sandbox.launch import Walls, seal
from sandbox.limits import Limits
from sandbox.plan import Plan, StatusFormat
from sandbox.probe import launcher_path
from sandbox.profile import NetworkMode, NetworkPolicy, Profile, SharedNamespace, Tty
from sandbox.profile_files import default_search_path, load
from sandbox.resolve import Additions, for_caller
from tests.support.native import memfd_holding

SANDBOX: Final = (sys.executable, "-P", "-m", "sandbox")
PLAN_FD: Final = 250  # a number that no test uses otherwise
PYTHON: Final = "/usr/bin/python3"  # the system's: an environment of ours lies in no view
TIMEOUT: Final = 60
_OWN_FOLDER: Final = re.compile(re.escape(tempfile.gettempdir()) + r"/(?:sandbox-test-|pytest-)[\w-]+")
Stream: TypeAlias = int | IO[Any] | None


def niceness(more: int) -> int:
    """Return a niceness that is more than this process's own by so much: nobody may have less without privilege."""
    return min(19, os.getpriority(os.PRIO_PROCESS, 0) + more)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended, in subprocess's words, and what it said."""

    code: int
    out: str
    err: str


def run(
    argv: Sequence[str | Path],
    *,
    setup: Callable[[], object] | None = None,
    env: Mapping[str, str] | None = None,
    input: str | None = "",
    stdin: Stream = None,
    stdout: Stream = subprocess.PIPE,
    stderr: Stream = subprocess.PIPE,
    cwd: str | Path | None = None,
) -> Ended:
    """Run `argv` in a process that calls `setup` just before its exec, and keeps every descriptor that stands then."""
    streams: dict[str, Any] = {"stdin": stdin} if stdin is not None else {"input": input}
    done = subprocess.run(
        [str(word) for word in argv], env=env, stdout=stdout, stderr=stderr, cwd=cwd,
        preexec_fn=setup, close_fds=False,
        text=True, errors="surrogateescape", timeout=TIMEOUT, check=False, **streams,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout or "", done.stderr or "")


@contextlib.contextmanager
def held_open(path: Path, flags: int, *, inherits: bool = False) -> Iterator[int]:
    """Yield a descriptor of a file. inherits: whatever run() starts has it, too."""
    fd = os.open(path, flags, 0o600)
    os.set_inheritable(fd, inherits)
    try:
        yield fd
    finally:
        os.close(fd)


def folders_in(words: Iterable[str | Path]) -> list[str]:
    """Return the tests' own folders that words name: probes and temporary files, which no view shows by itself."""
    return sorted(set(_OWN_FOLDER.findall(" ".join(map(str, words)))))


def shown(*words: str | Path) -> Walls:
    """Return what lets a program of Popen's use the tests' own folders that words name."""
    return {"execute": folders_in(words), "write": folders_in(words)}


def sandbox(*words: str | Path, **options: Any) -> Ended:  # noqa: ANN401 - run()'s
    """Run the command line `sandbox run WORD ...`; the tests' own folders that words name are in the view."""
    own = [option for folder in folders_in(words) for option in ("--execute", folder, "--write", folder)]
    return run([*SANDBOX, "run", "-p", "untrusted", *own, *words], **options)


def opened(profile: Profile) -> Profile:
    """Return a profile without its walls: then descriptors and the filter hold by themselves."""
    return replace(
        profile,
        process=replace(profile.process, tty=Tty.INHERIT),
        filesystem=FilesystemPolicy(view=View.HOST),
        network=NetworkPolicy(NetworkMode.HOST),
        share=tuple(SharedNamespace),
        limits=Limits(),
    )


def plan_of(
    command: Sequence[str | Path],
    *grants: Grant | str,
    profile: str | Profile = "untrusted",
    status: tuple[int, StatusFormat] | None = None,
    parent: int | None = None,
    walls: bool = False,
    additions: Additions | None = None,
    **changes: Any,  # noqa: ANN401 - ProcessPolicy's
) -> Plan:
    """Build the plan of a command as the command line does; `changes` replace fields of profile.process.

    walls: with those of the profile; otherwise of them there is none.
    """
    caller = Caller.of_process(parent_pid=os.getpid() if parent is None else parent)
    loaded = load(profile, search=default_search_path(os.environ)) if isinstance(profile, str) else profile
    parsed = [parse_grant(grant) if isinstance(grant, str) else grant for grant in grants]
    loaded = for_caller(
        loaded if walls else opened(loaded), caller, replace(additions or Additions(), grants=tuple(parsed))
    )
    loaded = replace(loaded, process=replace(loaded.process, **changes))
    caller = looked_up(caller, loaded.grants)
    return build(loaded, [str(word) for word in command], caller, status=status)


def launch(
    plan: Plan | bytes,
    *,
    launcher: str | Path | None = None,
    before: Sequence[str | Path] = (),
    setup: Callable[[], object] | None = None,
    **options: Any,  # noqa: ANN401 - run()'s
) -> Ended:
    """Start the launcher with a plan, `before` in front of its argv (a wrapper that execs); as in run()."""
    data = plan if isinstance(plan, bytes) else wire.encode(plan)

    def prepare() -> None:
        os.dup2(fd, PLAN_FD)
        if setup is not None:
            setup()

    with memfd_holding(data) as fd:
        return run([*before, launcher or launcher_path(), str(PLAN_FD)], setup=prepare, **options)


@contextlib.contextmanager
def started(
    plan: Plan,
    *,
    setup: Callable[[], object] | None = None,
    env: Mapping[str, str] | None = None,
    **streams: Any,  # noqa: ANN401 - Popen's
) -> Iterator[subprocess.Popen[str]]:
    """Start the launcher with a plan and yield the subprocess.Popen; killed and reaped at the end."""
    fd = seal(plan)
    os.set_inheritable(fd, True)
    process: subprocess.Popen[str] = subprocess.Popen(
        [launcher_path(), str(fd)], env=env, text=True,
        preexec_fn=setup, close_fds=False, **streams,  # noqa: PLW1509 - as in run()
    )  # fmt: skip
    os.close(fd)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def records(fd: int, plan: Plan) -> list[Event]:
    """Read fixed records up to the end of file."""
    data = b""
    while chunk := os.read(fd, 65536):
        data += chunk
    return [
        event_of(wire.decode_record(data[at : at + wire.EVENT_SIZE]), plan)
        for at in range(0, len(data), wire.EVENT_SIZE)
    ]


def json_lines(fd: int) -> list[dict[str, Any]]:
    """Read JSON lines up to the end of file; each must be an object and end in a newline."""
    data = b""
    while chunk := os.read(fd, 65536):
        data += chunk
    assert data.endswith(b"\n") or not data
    return [json.loads(line) for line in data.splitlines()]
