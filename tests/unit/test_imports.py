"""What is taken of others' seccomp profiles: what a program here may do by them, and nothing beyond."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.bpf import AUDIT_ARCH_X86_64
from sandbox.filtering import Allow, FilterPolicy, decide
from sandbox.imports import imported_filter
from sandbox.syscall_table import NUMBERS

NAMESPACES: Final = 0x7E020000  # the CLONE_NEW* flags, as Docker's profile has them
ALLOW: Final = "SCMP_ACT_ALLOW"
# In the manner of Docker's own: each of its kinds of entry.
DOCKER: Final[dict[str, Any]] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 1,
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    "syscalls": [
        {"names": ["read", "write", "exit", "waitpid"], "action": ALLOW},
        {"names": ["ptrace"], "action": ALLOW, "includes": {"minKernel": "4.8"}},
        {"names": ["userfaultfd"], "action": ALLOW, "includes": {"minKernel": "7.4"}},
        {"names": ["vmsplice"], "action": ALLOW, "excludes": {"minKernel": "5.0"}},
        {"names": ["socket"], "action": ALLOW, "args": [{"index": 0, "value": 38, "op": "SCMP_CMP_LT"}]},
        {"names": ["socket"], "action": ALLOW, "args": [{"index": 0, "value": 39, "op": "SCMP_CMP_EQ"}]},
        {"names": ["personality"], "action": ALLOW, "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]},
        {"names": ["arch_prctl"], "action": ALLOW, "includes": {"arches": ["amd64", "x32"]}},
        {"names": ["cacheflush"], "action": ALLOW, "includes": {"arches": ["arm"]}},
        {"names": ["mount", "bpf", "clone", "clone3"], "action": ALLOW, "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {
            "names": ["clone"], "action": ALLOW,
            "args": [{"index": 0, "value": NAMESPACES, "op": "SCMP_CMP_MASKED_EQ"}],
            "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390", "s390x"]},
        },
        {
            "names": ["clone"], "action": ALLOW,
            "args": [{"index": 1, "value": NAMESPACES, "op": "SCMP_CMP_MASKED_EQ"}],
            "includes": {"arches": ["s390", "s390x"]}, "excludes": {"caps": ["CAP_SYS_ADMIN"]},
        },
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["syslog"], "action": "SCMP_ACT_LOG"},
        {"name": "getpid", "action": ALLOW},
    ],
}  # fmt: skip


def test_docker_s_profile_is_taken_as_far_as_a_program_here_may_use_it() -> None:
    made = imported_filter(DOCKER)
    assert made.value == ["arch_prctl", "clone", "exit", "getpid", "ptrace", "read", "socket", "write"]
    assert made.lost == (
        "userfaultfd: allowed on newer kernels only; not taken",
        "vmsplice: allowed on older kernels only; not taken",
        "cacheflush: allowed on other machines only; not taken",
        "bpf, clone3, mount: allowed with capabilities only; not taken",
        "syslog: SCMP_ACT_LOG is no answer here; not taken",
        "waitpid: unknown here, or never let through; not taken",
        "personality: allowed on a condition only; not taken",
    )


def test_condition_is_held_by_rules_that_unshare_takes_away() -> None:
    plain = {"names": ["unshare"], "action": ALLOW}
    made = imported_filter({**DOCKER, "syscalls": [*DOCKER["syscalls"], plain]})
    assert "clone" not in made.value  # with unshare, new namespaces are allowed, and the rules for clone are none
    assert "unshare" in made.value


@pytest.mark.parametrize(
    ("condition", "taken"),
    [
        ({"op": "SCMP_CMP_LT", "value": 16}, True), ({"op": "SCMP_CMP_LT", "value": 10}, False),
        ({"op": "SCMP_CMP_LE", "value": 15}, True), ({"op": "SCMP_CMP_LE", "value": 9}, False),
        ({"op": "SCMP_CMP_GT", "value": 0}, True), ({"op": "SCMP_CMP_GT", "value": 1}, False),
        ({"op": "SCMP_CMP_GE", "value": 1}, True), ({"op": "SCMP_CMP_GE", "value": 2}, False),
        ({"op": "SCMP_CMP_NE", "value": 40}, True), ({"op": "SCMP_CMP_NE", "value": 2}, False),
        ({"op": "SCMP_CMP_EQ", "value": 2}, False), ({"op": "SCMP_CMP_EQ", "value": 40}, False),
        ({"op": "SCMP_CMP_MASKED_EQ", "value": 0xF0, "valueTwo": 0}, True),
        ({"op": "SCMP_CMP_MASKED_EQ", "value": 0x02, "valueTwo": 0}, False),
        ({"op": "SCMP_CMP_LT", "value": 1 << 40}, False), ({"op": "SCMP_CMP_LIKE", "value": 16}, False),
    ],
)  # fmt: skip
def test_condition_is_met_by_the_families_that_are_let_through(condition: dict[str, Any], taken: bool) -> None:
    """They are 1, 2, and 10."""
    entry = {"names": ["socket"], "action": ALLOW, "args": [{"index": 0, **condition}]}
    made = imported_filter({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [entry]})
    assert made.value == (["socket"] if taken else [])
    assert bool(made.lost) is not taken


@pytest.mark.parametrize(
    ("args", "taken"),
    [
        ([{"index": 0, "op": "SCMP_CMP_EQ", "value": 16}, {"index": 2, "op": "SCMP_CMP_EQ", "value": 9}], True),
        ([{"index": 0, "op": "SCMP_CMP_EQ", "value": 2}, {"index": 2, "op": "SCMP_CMP_EQ", "value": 9}], False),
        (None, False),
    ],
)
def test_refusal_beside_what_is_allowed_counts(args: list[dict[str, Any]] | None, taken: bool) -> None:
    entries = [{"names": ["socket"], "action": ALLOW}, {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": args}]
    made = imported_filter({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": entries})
    assert made.value == (["socket"] if taken else [])


@given(st.integers(0, 2**32 - 1) | st.integers(0, 64), st.integers(0, 2**32 - 1))
def test_what_is_taken_allows_nothing_that_the_other_one_refuses(first: int, second: int) -> None:
    """By the values that the kernel looks at, which are the low halves."""
    policy = FilterPolicy(frozenset(imported_filter(DOCKER).value), gated=True)
    for name, allowed in (("socket", first < 38 or first == 39), ("clone", not first & NAMESPACES)):
        if isinstance(decide(policy, AUDIT_ARCH_X86_64, NUMBERS[name], (first, second, 0, 0, 0, 0)), Allow):
            assert allowed, (name, first)
