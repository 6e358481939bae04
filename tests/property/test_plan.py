"""For any plan, encoding loses nothing; any damage to its bytes is refused, or leaves a plan that keeps the rules.

The launcher's check and wire.py's answer alike. Here plan.c runs under sanitizers, on buffers of exactly the size.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox import wire
from sandbox.errors import PlanError
from sandbox.plan import Plan
from tests.support.native import SANITIZER_ENVIRONMENT, build_harness
from tests.support.plans import full_plan, mandatory_rules_hold, plan_for, plans, with_checksum

ACCEPTED = "accepted"
SETTINGS = settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


class Checker:
    """plan_check in a process of its own: one verdict for each candidate."""

    def __init__(self, program: Path, errors: Path) -> None:
        self._errors = errors
        with errors.open("wb") as stderr:
            self.process = subprocess.Popen(
                [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
                env=os.environ | SANITIZER_ENVIRONMENT,
            )  # fmt: skip

    def verdict(self, data: bytes) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(len(data).to_bytes(4, "little") + data)
        self.process.stdin.flush()
        line = self.process.stdout.readline().decode()
        assert line, f"plan_check died of {data!r}: {self._errors.read_text()}"
        return line.removesuffix("\n")

    def close(self) -> int:
        self.process.communicate()
        return self.process.returncode


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checker]:
    errors = tmp_path_factory.mktemp("checker") / "errors"
    checker = Checker(build_harness("check_plans", ("plan", "text")), errors)
    yield checker
    assert (checker.close(), errors.read_text()) == (0, "")


def decoded(data: bytes) -> Plan | None:
    try:
        return wire.decode(data)
    except PlanError:
        return None


def assert_alike(checker: Checker, data: bytes) -> bool:
    """Both sides accept, and the rules hold, or both refuse; return whether they accept."""
    plan, verdict = decoded(data), checker.verdict(data)
    assert (plan is not None) is (verdict == ACCEPTED), verdict
    assert plan is None or mandatory_rules_hold(plan)
    return plan is not None


@given(plans())
@SETTINGS
def test_plan_decoded_is_the_plan_that_was_encoded(checker: Checker, plan: Plan) -> None:
    data = wire.encode(plan)
    assert wire.decode(data) == plan
    assert wire.encode(wire.decode(data)) == data
    assert mandatory_rules_hold(plan)
    assert checker.verdict(data) == ACCEPTED


@given(plans(), st.data())
@SETTINGS
def test_plan_truncated_is_refused(checker: Checker, plan: Plan, data: st.DataObject) -> None:
    encoded = wire.encode(plan)
    for length in data.draw(st.lists(st.integers(0, len(encoded) - 1), min_size=1, max_size=20)):
        assert not assert_alike(checker, encoded[:length])
        assert not assert_alike(checker, with_checksum(encoded[:length]))


@given(plans(), st.data())
@SETTINGS
def test_plan_with_one_byte_changed_is_refused_when_its_checksum_is_not_renewed(
    checker: Checker, plan: Plan, data: st.DataObject
) -> None:
    encoded = wire.encode(plan)
    for at, mask in data.draw(st.lists(changes(len(encoded)), min_size=1, max_size=20)):
        assert not assert_alike(checker, changed(encoded, at, mask))


@given(plans(), st.data())
@SETTINGS
def test_plan_with_bytes_changed_is_refused_or_keeps_the_rules(
    checker: Checker, plan: Plan, data: st.DataObject
) -> None:
    encoded = wire.encode(plan)
    for at, mask in data.draw(st.lists(changes(len(encoded)), min_size=1, max_size=30)):
        assert_alike(checker, with_checksum(changed(encoded, at, mask)))
        # And the changes one on another.
        encoded = changed(encoded, at, mask)
        assert_alike(checker, with_checksum(encoded))


@pytest.mark.parametrize("plan", [plan_for(["x"]), full_plan()])
def test_plan_with_any_byte_of_frame_or_ops_changed_is_refused_or_keeps_the_rules(checker: Checker, plan: Plan) -> None:
    encoded = wire.encode(plan)
    accepted = [
        assert_alike(checker, with_checksum(changed(encoded, at, mask)))
        for at in range(wire.HEADER_SIZE + wire.OP_SIZE * len(plan.ops))
        for mask in (0x01, 0x10, 0x80, 0xFF)
    ]
    # Both answers occur, so the check above has looked at both.
    assert True in accepted
    assert False in accepted


def test_plan_truncated_at_every_length_is_refused(checker: Checker) -> None:
    encoded = wire.encode(full_plan())
    assert assert_alike(checker, encoded)
    assert not any(assert_alike(checker, encoded[:length]) for length in range(len(encoded)))


def changes(size: int) -> st.SearchStrategy[tuple[int, int]]:
    """Draw a place and what is flipped there; the frame and the ops come up often."""
    places = st.integers(0, size - 1) | st.integers(0, min(size, 800) - 1)
    return st.tuples(places, st.sampled_from([1 << bit for bit in range(8)]) | st.integers(1, 255))


def changed(data: bytes, at: int, mask: int) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]
