"""Running a command so that what it uses is recorded; and the profile that lets just that through."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from sandbox.build import build
from sandbox.caller import Caller
from sandbox.calls import Call, Use
from sandbox.events import Descriptor, Failed
from sandbox.explaining import Machine
from sandbox.learned import Learned, learn
from sandbox.mentions import words_of
from sandbox.observe import observation_plan
from sandbox.plan import Plan, StatusFormat, Trace
from sandbox.profile import Profile
from sandbox.recording import Recording
from sandbox.refusals import Explainer
from sandbox.trace import Became, Forked, Unseen, traced


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a run has taught: the profile, the exit code, how many calls were told, and how many refused meanwhile."""

    learned: Learned
    code: int
    calls: int
    refused: int


def learn_command(
    command: Sequence[str],
    name: str,
    caller: Caller,
    base: Profile | None,
    descriptors: Collection[int] = (),
    *,
    tell: Callable[[int, int], None] = lambda _calls, _execs: None,
) -> Lesson:
    """Run a command and return the profile that lets it do the same again.

    base: the profile, as for build(), that it runs in meanwhile; what that refuses counts as used. None: nothing is
    refused, and the command can do all that the caller can. descriptors: the caller's from 3 up. tell: is called as it
    goes on, with how many calls and execs there were.
    Raises: LaunchError and its kin if the command cannot be started; what build() raises.
    """
    # The launcher executes it; what the tracer sees then is the interpreter of a script, not the script.
    recording = Recording(programs={_found(command[0], caller)} - {""})
    explainer = None if base is None else Explainer(base, caller, Machine(), descriptors)

    def plan(status: int) -> Plan:
        if base is None:
            return observation_plan(command, caller, status, descriptors, apart=caller.uid != 0)
        plan = build(base, command, caller, status=(status, StatusFormat.RECORDS), told=Trace.EXECS)
        return replace(plan, quiet=True)  # what fails is raised here, and told once

    steps = traced(plan, successes=True, inherited=descriptors)
    calls = refused = code = 0
    while True:
        try:
            seen = next(steps)
        except StopIteration as end:
            code = int(end.value)
            break
        match seen:
            case Call():
                calls += 1
                stopped = explainer is not None and seen.error != 0 and explainer.explain(seen) is not None
                refused += stopped
                recording.add(seen, refused=stopped)
                tell(calls, recording.execs)
            case Became(program=program):
                recording.execs += 1
                recording.programs.add(program)
            case Forked(pid=pid, child=child) if explainer is not None:
                explainer.forked(pid, child)
            case Descriptor(passed_by=None):
                recording.leaked.add(f"{seen.number} ({_kind(seen.object)})")
            case Descriptor(passed_by=str(protocol)):
                recording.protocols.add(protocol)
            case Unseen():
                recording.unseen += 1
            case Failed(error=error):
                raise error
    machine = Machine()
    learned = learn(recording, shlex.join(command), name, caller, machine, _mentions(recording))
    return Lesson(learned, code, calls, refused)


def _found(name: str, caller: Caller) -> str:
    folders = [""] if "/" in name else caller.environ.get("PATH", os.defpath).split(os.pathsep)
    paths = [os.path.normpath(os.path.join(caller.cwd or "/", folder, name)) for folder in folders]
    return next((path for path in paths if Machine().is_program(path)), "")


def _kind(target: str) -> str:
    head = target.partition(":")[0]
    return head if head in ("pipe", "socket") else target


def _mentions(recording: Recording) -> Callable[[str], bool]:
    """Return a function that tells whether the programs that ran, or the scripts that they read, hold a word."""
    scripts = [path for path, use in recording.uses.items() if use & Use.READ]
    return words_of(recording.programs, scripts).__contains__


def default_name(command: Sequence[str]) -> str:
    """Return the name of a profile for a command: its file's, in the letters that names have."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", os.path.basename(command[0])).lstrip("-._0123456789")
    return name[:60] or "learned"
