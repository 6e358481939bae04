"""Asks the launcher's rules of the network (network.c, under sanitizers) what becomes of addresses."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sandbox import ops, wire
from sandbox.allowlist import Line
from sandbox.plan import NetFlag, OpCode, Plan
from sandbox.sockets import Protocol
from tests.support.native import SANITIZER_ENVIRONMENT, build_harness
from tests.support.plans import ALLOW_ALL, plan_for

FILES = ("network", "plan", "text")


def kind_of(protocol: Protocol, *, bind: bool) -> int:
    """Return the flags by which rules for that protocol and use are found."""
    return NetFlag.UDP * (protocol is Protocol.UDP) | NetFlag.BIND * bind


def plan_of(lines: Iterable[Line]) -> Plan:
    """Return a plan with these rules, in their order."""
    rules = [
        ops.net_rule(
            line.address, line.prefix, (line.ports.first, line.ports.last), line.label,
            kind_of(line.protocol, bind=line.bind) | NetFlag.DENY * line.deny,
        )
        for line in lines
    ]  # fmt: skip
    return plan_for(["x"], launcher=[ops.allow_list(0), *rules], confinement=[ops.notify_program(ALLOW_ALL)])


@dataclass(frozen=True, slots=True)
class Question:
    """An address, as a program gives it to a call, and what kind of rule it is asked of."""

    sockaddr: bytes
    protocol: Protocol = Protocol.TCP
    bind: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the launcher makes of it. rule: index of the line that decides; error: why the address cannot be read."""

    rule: int | None = None
    allowed: bool = False
    loopback: bool = False
    any: bool = False
    text: str = ""
    error: int = 0


def judged(lines: Sequence[Line], questions: Sequence[Question]) -> list[Answer]:
    """Return the launcher's answers, by these rules, to each question."""
    plan = plan_of(lines)
    data = wire.encode(plan)
    first = next((index for index, op in enumerate(plan.ops) if op.code is OpCode.NET_RULE), 0)
    asked = [
        struct.pack("<II", kind_of(question.protocol, bind=question.bind), len(question.sockaddr)) + question.sockaddr
        for question in questions
    ]
    done = subprocess.run(
        [build_harness("judge_peers", FILES)], input=struct.pack("<I", len(data)) + data + b"".join(asked),
        capture_output=True, env=os.environ | SANITIZER_ENVIRONMENT, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    answers = [_answer(line, first) for line in done.stdout.decode().splitlines()]
    assert len(answers) == len(questions)
    return answers


def _answer(line: str, first: int) -> Answer:
    if line == "unspecified":
        return Answer()
    if line.isdecimal():
        return Answer(error=int(line))
    _, rule, allowed, loopback, any_, text = line.split(" ")
    index = int(rule)
    return Answer(None if index < 0 else index - first, allowed == "1", loopback == "1", any_ == "1", text)
