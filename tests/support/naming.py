"""Asks the launcher's matcher (names.c, under sanitizers) what an exec names by the rules of some protocols."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sandbox import ops, wire
from sandbox.plan import OpCode, Plan
from sandbox.protocols import Protocol
from tests.support.native import SANITIZER_ENVIRONMENT, build_harness
from tests.support.plans import plan_for

FILES = ("names", "plan", "text")


@dataclass(frozen=True, slots=True)
class Exec:
    """A program's path, its arguments from argv[0] on, its environment; duplicates and oddities as extra texts.

    caller: the path of the program that executes it, and that one's own arguments.
    """

    arguments: Sequence[str] = ("x",)
    variables: Mapping[str, str] = field(default_factory=dict)
    program: str = "/bin/x"
    caller: Sequence[str] = ("/bin/caller", "caller")


@dataclass(frozen=True, slots=True)
class Named:
    """The numbers, each by the index of the rule that named it; everything: the index of the rule that named all."""

    by_rule: Mapping[int, int]
    everything: int | None = None

    @property
    def numbers(self) -> set[int]:
        """The numbers alone."""
        return set(self.by_rule)


def plan_of(protocols: Iterable[Protocol]) -> Plan:
    """Return a plan with all rules of the protocols, in their order."""
    rules = [ops.protocol(protocol.name, rule) for protocol in protocols for rule in protocol.rules]
    return plan_for(["x"], launcher=rules)


def _sized(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _request(exec_: Exec) -> bytes:
    variables = [f"{name}={value}" for name, value in exec_.variables.items()]
    texts = [exec_.program, *exec_.arguments, *variables, *exec_.caller]
    counts = struct.pack("<IIIII", 1, len(exec_.arguments), len(variables), 1, len(exec_.caller) - 1)
    return counts + b"".join(_sized(os.fsencode(text)) for text in texts)


def named_by(protocols: Iterable[Protocol], *execs: Exec) -> list[Named]:
    """Return what each exec names; the rules are counted from 0 over all protocols."""
    plan = plan_of(protocols)
    first = [op.code for op in plan.ops].index(OpCode.PROTOCOL)
    done = subprocess.run(
        [build_harness("name_execs", FILES)], input=_sized(wire.encode(plan)) + b"".join(map(_request, execs)),
        capture_output=True, check=False, timeout=120, env=os.environ | SANITIZER_ENVIRONMENT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode(errors="replace")
    return [_parse(line, first) for line in done.stdout.decode().splitlines()]


def _parse(line: str, first: int) -> Named:
    found = {name: int(op) - first for name, _, op in (word.partition("=") for word in line.split())}
    everything = found.pop("all", None)
    return Named({int(number): rule for number, rule in found.items()}, everything)
