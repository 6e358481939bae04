"""Running a command so that what is refused is told as it happens: the run itself is as without, but looked at."""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sandbox.build import build
from sandbox.caller import Caller
from sandbox.calls import Call
from sandbox.errors import EXIT_FAILED, CommandNotFoundError
from sandbox.events import Descriptor, Event, Failed
from sandbox.plan import StatusFormat, Trace
from sandbox.profile import Profile
from sandbox.refusals import Explainer, Refusal
from sandbox.trace import Became, Forked, Unseen, traced

Told: TypeAlias = Refusal | Event


@dataclass(slots=True)
class Explained(Iterator[Told]):
    """A run that is being explained: iterate over it to its end; then `code` is the exit code of `sandbox run`."""

    steps: Generator[Told, None, int]
    code: int = EXIT_FAILED

    def __next__(self) -> Told:
        """Wait for the next refusal or event."""
        try:
            return next(self.steps)
        except StopIteration as end:
            self.code = int(end.value)
            raise StopIteration from None


class Machine:
    """The machine as this process sees it: refusals.Host."""

    def exists(self, path: str) -> bool:
        """Tell whether there is something, a link that leads nowhere included."""
        return os.path.lexists(path)

    def is_folder(self, path: str) -> bool:
        """Tell whether it is a folder."""
        return os.path.isdir(path)

    def is_program(self, path: str) -> bool:
        """Tell whether it is a regular file that this user may execute."""
        return os.path.isfile(path) and os.access(path, os.X_OK, effective_ids=True)

    def may(self, path: str, mode: int) -> bool:
        """Tell whether this user may use it so."""
        return os.access(path, mode, effective_ids=True)

    def real(self, path: str) -> str:
        """Return the path with its links resolved."""
        try:
            return os.path.realpath(path)
        except OSError:  # a link of /proc that has gone while it was looked at
            return path

    def listens(self, port: int) -> bool:
        """Tell whether somebody listens on that TCP port (proc_pid_net(5): local address, state 0A)."""
        for name in ("tcp", "tcp6"):
            try:
                rows = Path(f"/proc/net/{name}").read_text("ascii").splitlines()[1:]
            except OSError:
                continue
            for row in rows:
                _, local, _, state = row.split()[:4]
                if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                    return True
        return False


def explained(
    profile: Profile, command: Sequence[str], caller: Caller, descriptors: Collection[int] = ()
) -> Explained:  # fmt: skip
    """Run a command under a profile; yield what the profile refuses, and the run's events, as they happen.

    profile: as for build(). descriptors: the caller's from 3 up.
    Raises: at the first step, what build() raises.
    """
    return Explained(_explained(profile, command, caller, descriptors))


def _explained(
    profile: Profile, command: Sequence[str], caller: Caller, descriptors: Collection[int]
) -> Generator[Told, None, int]:
    explainer = Explainer(profile, caller, Machine(), descriptors)
    run = traced(
        lambda status: build(profile, command, caller, status=(status, StatusFormat.RECORDS), told=Trace.EXECS),
        successes=False,
        inherited=descriptors,
    )
    while True:
        try:
            seen = next(run)
        except StopIteration as end:
            return int(end.value)
        match seen:
            case Call():
                refusal = explainer.explain(seen)
                if refusal is not None:
                    yield refusal
            case Forked(pid=pid, child=child):
                explainer.forked(pid, child)
            case Descriptor(passed_by=None):
                explainer.closed(seen.pid, seen.number, seen.object)
            case Failed(error=CommandNotFoundError()):
                yield seen
                refusal = explainer.not_found(command[0])
                if refusal is not None:
                    yield refusal
            case Became() | Unseen():
                continue
            case _:
                yield seen
