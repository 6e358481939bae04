"""Survey: what descriptors survive which execs of a command, who names them and who leaks them; from events, pure."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from sandbox.events import Descriptor, Event, Executed


@dataclass(frozen=True, slots=True)
class Leak:
    """Descriptors of one kind that one program let through to another without naming them."""

    source: str
    program: str
    number: int
    object: str
    times: int


@dataclass(frozen=True, slots=True)
class Survey:
    """The sums over all execs after the command's own."""

    execs: int
    execs_without: int
    survivors: int
    named: int
    by_protocol: tuple[tuple[str, int], ...]
    leaks: tuple[Leak, ...]


def summarise(events: Iterable[Event]) -> Survey:
    """Sum up the events of an observed run."""
    execs = survivors = 0
    latest = -1
    protocols: Counter[str] = Counter()
    leaks: Counter[tuple[str, str, int, str]] = Counter()
    current: dict[int, Executed] = {}
    seen_by_exec: Counter[int] = Counter()
    for index, event in enumerate(events):
        match event:
            case Executed(error=0):
                execs += 1
                current[event.pid] = event
                seen_by_exec[index] = 0
                latest = index
            case Descriptor():
                survivors += 1
                seen_by_exec[latest] += 1
                if event.passed_by is not None:
                    protocols[event.passed_by] += 1
                else:
                    exec_ = current[event.pid]
                    names = (os.path.basename(exec_.source), os.path.basename(exec_.program))
                    leaks[(*names, event.number, kind_of_object(event.object))] += 1
    without = sum(count == 0 for count in seen_by_exec.values())
    rows = tuple(Leak(*key, times=times) for key, times in leaks.most_common())
    return Survey(execs, without, survivors, sum(protocols.values()), tuple(protocols.most_common()), rows)


def kind_of_object(target: str) -> str:
    """Return what a descriptor refers to without what differs from run to run: `pipe`, `socket`, or the path."""
    head = target.partition(":")[0]
    return head if head in ("pipe", "socket") else target


def format_survey(survey: Survey) -> Iterable[str]:
    """Yield the survey as lines for people."""
    if not survey.execs:
        yield "the command executed no other program"
        return
    share = 100 * survey.execs_without / survey.execs
    yield f"execs after the command's own: {survey.execs}"
    yield f"  with no descriptor from 3 up going along: {survey.execs_without} ({share:.0f} %)"
    yield f"  descriptors that went along: {survey.survivors} ({survey.survivors / survey.execs:.2f} an exec)"
    share = 100 * survey.named / survey.survivors if survey.survivors else 0
    yield f"  of these named by the exec: {survey.named} ({share:.0f} %)"
    for name, times in survey.by_protocol:
        yield f"    {times:6}  {name}"
    if survey.leaks:
        yield "not named by anything (a sandbox closes these):"
    for leak in survey.leaks:
        yield f"  {leak.times:6}  {leak.source} -> {leak.program}: {leak.number} {leak.object}"
