"""The exported filter allows what the policy allows, and nothing more, whatever the policy and the call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox import bpf, filter_rules, filtering
from sandbox.errors import UsageError
from sandbox.exports import allowed_boxes, seccomp_profile
from sandbox.filtering import ALLOW, FilterPolicy
from sandbox.syscall_table import NAMES
from tests.property.test_filter import close_calls, policies

ALLOWED: Final = "SCMP_ACT_ALLOW"


def allows(profile: dict[str, Any], name: str, args: tuple[int, ...]) -> bool:
    """Decide as a runtime's documents say: an entry holds if all of its conditions do."""
    entries = [entry for entry in profile["syscalls"] if name in entry["names"]]
    assert len({entry["action"] for entry in entries}) <= 1
    held = [
        entry
        for entry in entries
        if all(args[arg["index"]] & arg["value"] == arg["valueTwo"] for arg in entry.get("args", ()))
    ]
    return bool(held) and held[0]["action"] == ALLOWED


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_exported_filter_decides_as_the_policy(data: st.DataObject) -> None:
    policy: FilterPolicy = data.draw(policies())
    numbers = data.draw(st.sets(st.integers(0, 9), max_size=2))
    policy = replace(policy, reserved=tuple(sorted(numbers)), supervised=frozenset())
    profile = seccomp_profile(policy)
    for _ in range(20):
        call = data.draw(close_calls(policy))
        name = NAMES.get(call.nr & filtering.LOW32)
        if name is None:
            continue
        args = tuple(arg & filtering.LOW32 for arg in call.args)  # the kernel looks at no more, and neither do we
        verdict = filtering.decide(policy, bpf.AUDIT_ARCH_X86_64, call.nr, args)
        assert allows(profile, name, args) is (verdict == ALLOW), (name, args)


def test_filter_that_no_runtime_should_be_given_is_refused() -> None:
    numbers = tuple(range(3, 65000, 131))
    with pytest.raises(UsageError, match="comes to more than 4096 entries; reserve fewer numbers"):
        seccomp_profile(FilterPolicy(frozenset({"fcntl", "dup2"}), numbers, gated=True))
    assert seccomp_profile(FilterPolicy(frozenset({"fcntl", "dup2"}), (3, 4, 5), gated=True))


def test_boxes_name_no_argument_twice_and_do_not_overlap() -> None:
    rules = [
        rule for rule in filter_rules.argument_rules(FilterPolicy(frozenset({"ioctl"}))) if rule.syscall == "ioctl"
    ]
    boxes = allowed_boxes(rules)
    assert len(boxes) > 1
    for at, one in enumerate(boxes):
        for other in boxes[:at]:
            assert any((one[arg][1] ^ other[arg][1]) & one[arg][0] & other[arg][0] for arg in one.keys() & other.keys())
