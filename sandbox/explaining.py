"""Running a command so that what is refused is told as it happens: the run itself is as without, but looked at."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from sandbox import cgroups
from sandbox.build import build
from sandbox.caller import Caller
from sandbox.calls import Call, signal_sent
from sandbox.endings import is_searched, of_memory, of_signal, of_time, of_variables
from sandbox.errors import EXIT_FAILED, CommandNotFoundError
from sandbox.events import Descriptor, Event, Executed, Exited, Failed
from sandbox.mentions import words_in, words_of
from sandbox.plan import StatusFormat, Trace
from sandbox.profile import Profile
from sandbox.refusals import Explainer, Refusal
from sandbox.trace import Became, Forked, Killed, Seen, Unseen, traced

Told: TypeAlias = Refusal | Event
_TIMED_OUT: Final = 124


@dataclass(slots=True)
class Explained(Iterator[Told]):
    """A run that is being explained: iterate over it to its end; then `code` is the exit code of `sandbox run`."""

    steps: Generator[Told, None, int]
    explainer: Explainer
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
    explainer = Explainer(profile, caller, Machine(), descriptors)
    return Explained(_explained(profile, command, caller, descriptors, explainer), explainer)


def _explained(
    profile: Profile, command: Sequence[str], caller: Caller, descriptors: Collection[int], explainer: Explainer
) -> Generator[Told, None, int]:
    seen_end = _End(profile, caller, command)
    run = traced(
        lambda status: build(profile, command, caller, status=(status, StatusFormat.RECORDS), told=Trace.EXECS),
        successes=False,
        inherited=descriptors,
    )
    while True:
        try:
            seen = next(run)
        except StopIteration as end:
            yield from seen_end.told(int(end.value))
            return int(end.value)
        refusal = seen_end.take(seen)
        if refusal is not None:
            yield refusal
        match seen:
            case Call(error=0):
                continue
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
            case Became() | Killed() | Unseen():
                continue
            case _:
                yield seen


class _End:
    """What is known of the ends of programs, and of the run's, while it runs."""

    def __init__(self, profile: Profile, caller: Caller, command: Sequence[str]) -> None:
        self._profile, self._caller, self._command = profile, caller, command
        self._programs: dict[int, str] = {}
        self._ran: dict[str, None] = {}
        self._sent: set[int] = set()
        self._killed: list[int] = []
        self._timed_out = False
        self._short_of_memory = cgroups.times_out_of_memory(caller.delegated)

    def take(self, seen: Seen) -> Refusal | None:
        """Take in what was seen; return what is to be told at once."""
        match seen:
            case Call():
                self._sent.add(signal_sent(seen))
            case Became(pid=pid, program=program):
                self._programs[pid] = program
                self._ran[program] = None
            case Executed(program=program):
                self._ran[program] = None
            case Forked(pid=pid, child=child):
                self._programs[child] = self._programs.get(pid, "")
            case Killed(pid=pid, signal=signal.SIGKILL):
                self._killed.append(pid)
            case Killed(pid=pid, signal=number) if number not in self._sent:
                return of_signal(self._profile, self._programs.get(pid, ""), pid, number)
            case Exited(timed_out=True):
                self._timed_out = True
        return None

    def told(self, code: int) -> Iterator[Refusal]:
        """Yield what is to be told at the end."""
        name = self._command[0]
        found: list[Refusal | None] = []
        if self._timed_out:
            found.append(of_time(self._profile, name))
        elif self._killed and cgroups.times_out_of_memory(self._caller.delegated) > self._short_of_memory:
            first = self._killed[0]
            found.append(of_memory(self._profile, self._programs.get(first, ""), first))
        if 0 < code < _TIMED_OUT:  # its own: what a signal has ended did not lack a variable
            found.append(of_variables(self._profile, self._caller, name, self._words()))
        yield from (refusal for refusal in found if refusal is not None)

    def _words(self) -> Iterator[frozenset[str]]:
        cwd = self._profile.process.chdir or self._caller.cwd
        words = (word for text in self._command for word in (text, *text.split()))
        files = [os.path.join(cwd, word) for word in (*words, *self._ran)]
        yield words_in(" ".join(self._command)) | words_of((), files)
        yield words_of(filter(is_searched, self._ran), ())
