"""`sandbox run --explain`: what is refused, as it happens and in sum."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from typing import TextIO

from sandbox import Caller, Profile, open_descriptors
from sandbox.cli.output import open_result, say_beside
from sandbox.explaining import explained
from sandbox.refusals import Refusal, as_line, summary


def run_explained(profile: Profile, command: Sequence[str], caller: Caller, output: str | None) -> int:
    """Run a command, tell what is refused on standard error, and return its exit code."""
    file = None if output is None else open_result(output)
    found: list[Refusal] = []
    told: set[tuple[str, tuple[str, str]]] = set()
    run = explained(profile, command, caller, open_descriptors())
    for event in run:
        if not isinstance(event, Refusal):
            continue
        found.append(event)
        if (event.program, event.cause) not in told:
            told.add((event.program, event.cause))
            say_beside(as_line(event))
    found = run.explainer.folded(found)
    for line in summary(found, profile.name):
        say_beside(line)
    if file is not None:
        _write(found, file)
    return run.code


def _write(found: Sequence[Refusal], file: TextIO) -> None:
    times = Counter(refusal.cause for refusal in found)
    first = {refusal.cause: refusal for refusal in reversed(found)}
    rows = [dataclasses.asdict(first[cause]) | {"times": times[cause]} for cause in times]
    with file:
        file.write(json.dumps(rows, indent=2) + "\n")
