"""build() turns a profile and a command into a plan: order, slots, numbers, labels, and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools
import os
from typing import Final

import pytest

from sandbox import bpf, seccomp, wire
from sandbox.build import DEFAULT_PATH, build, child_path, environment_set, filter_policy, grant_label
from sandbox.caller import Caller
from sandbox.errors import GrantError, PlanError, ProfileError, UsageError
from sandbox.grants import SAFE_TYPES, Access, FdType, FileGrant, Grant, InheritGrant, SecretGrant, number_grants
from sandbox.plan import MANDATORY, MAX_ARGS, MAX_COMMANDS, MAX_ENV_OPS, OBTAINING, OpCode, Plan, StatusFormat, mask_of
from sandbox.profile import Environment, ExecPolicy, FilterSection, ProcessPolicy, Profile
from sandbox.syscall_table import NUMBERS

CALLER: Final = Caller(
    environ={"PATH": "/caller/bin:/caller/sbin"}, cwd="/c", home="/h", runtime_dir="/r", tmp="/t", parent_pid=4711
)
GRANTS: Final[tuple[Grant, ...]] = (
    InheritGrant(name="late", inherit=90, number=20),
    SecretGrant(name="token", secret="env:TOKEN"),
    FileGrant(name="log", file="/var/log/x", access=Access.APPEND, create=True),
    InheritGrant(name="early", inherit=7, type=FdType.PIPE, access=Access.READ),
    SecretGrant(name="key", secret="/etc/key", number=3),
)


def profile_of(
    *grants: Grant,
    process: ProcessPolicy | None = None,
    keep: tuple[str, ...] = ("PATH",),
    variables: tuple[tuple[str, str], ...] = (),
) -> Profile:
    return Profile(
        "p",
        process=process or ProcessPolicy(),
        environment=Environment(keep, variables),
        filter=FilterSection(("@base", "@file-io")),
        grants=grants,
    )


def plan_of(*grants: Grant, command: tuple[str, ...] = ("tool",)) -> Plan:
    return build(profile_of(*grants), command, CALLER)


def texts(plan: Plan, code: OpCode) -> list[str]:
    return [os.fsdecode(op.data) for op in plan.only(code)]


def test_build_codes_never_descend_and_mandatory_ops_are_there() -> None:
    codes = [op.code for op in plan_of(*GRANTS).ops]
    assert codes == sorted(codes)
    assert set(codes) >= MANDATORY


def test_build_without_grants_obtains_and_places_nothing() -> None:
    plan = plan_of()
    assert {op.code for op in plan.ops}.isdisjoint(OBTAINING | {OpCode.PLACE})
    assert plan.only(OpCode.SWEEP)
    assert plan.only(OpCode.VERIFY)


def test_build_each_slot_is_obtained_once_and_placed_once() -> None:
    plan = plan_of(*GRANTS)
    slots = list(range(len(GRANTS)))
    assert sorted(op.a for op in plan.ops if op.code in OBTAINING) == slots
    assert [op.a for op in plan.only(OpCode.PLACE)] == slots


def test_build_places_each_object_at_the_number_of_its_grant() -> None:
    plan = plan_of(*GRANTS)
    number = {op.a: op.b for op in plan.only(OpCode.PLACE)}
    placed = {op.label: number[op.a] for op in plan.ops if op.code in OBTAINING}
    assert placed == {grant_label(grant): grant.number for grant in number_grants(GRANTS)}
    assert placed["grant key: file /etc/key"] == 3
    assert placed["grant late: descriptor 90"] == 20


def test_build_inherited_descriptors_ascend_by_the_callers_number() -> None:
    grants = [InheritGrant(name=f"g{fd}", inherit=fd) for fd in (90, 5, 1000, 7)]
    assert [op.b for op in plan_of(*grants).only(OpCode.INHERIT)] == [5, 7, 90, 1000]


def test_build_inherit_without_a_type_takes_the_safe_ones_only() -> None:
    untyped, typed = plan_of(
        InheritGrant(name="a", inherit=5), InheritGrant(name="b", inherit=6, type=FdType.DIRECTORY)
    ).only(OpCode.INHERIT)
    assert untyped.c == mask_of(SAFE_TYPES)
    assert typed.c == FdType.DIRECTORY.bit


def test_build_file_is_opened_as_its_grant_says() -> None:
    grants = [
        FileGrant(name="r", file="/a"),
        FileGrant(name="w", file="/b", access=Access.WRITE, truncate=True),
        FileGrant(name="a", file="/c", access=Access.APPEND, create=True),
        FileGrant(name="rw", file="/d", access=Access.READ_WRITE),
    ]
    assert [(os.fsdecode(op.data), op.b, op.c) for op in plan_of(*grants).only(OpCode.FILE)] == [
        ("/a", os.O_RDONLY, 0),
        ("/b", os.O_WRONLY | os.O_TRUNC, 0),
        ("/c", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666),
        ("/d", os.O_RDWR, 0),
    ]


def test_build_secret_travels_by_name_and_never_by_value() -> None:
    caller = dataclasses.replace(CALLER, environ={"TOKEN": "s3cr3t-value", "PATH": "/bin"})
    plan = build(profile_of(SecretGrant(name="token", secret="env:TOKEN")), ["tool"], caller)
    assert texts(plan, OpCode.SECRET_ENV) == ["TOKEN"]
    assert b"s3cr3t-value" not in wire.encode(plan)


@pytest.mark.parametrize(
    ("grant", "label"),
    [
        (InheritGrant(name="in", inherit=5), "grant in: descriptor 5"),
        (FileGrant(name="log", file="/a b"), "grant log: file /a b"),
        (SecretGrant(name="k", secret="/k"), "grant k: file /k"),
        (SecretGrant(name="k", secret="env:K"), "grant k: variable K"),
    ],
)
def test_build_label_names_grant_and_object(grant: Grant, label: str) -> None:
    plan = plan_of(grant)
    assert [op.label for op in plan.ops if op.code in OBTAINING] == [label]
    assert [op.label for op in plan.only(OpCode.PLACE)] == [f"grant {grant.name}: number 3"]


def test_build_child_is_told_numbers_by_environment_and_arguments() -> None:
    grants = (FileGrant(name="log", file="/l"), FileGrant(name="in-put", file="/i", number=9))
    plan = plan_of(*grants, command=("tool", "--log={fd:log}", "/dev/fd/{fd:in-put}", "{other}"))
    assert texts(plan, OpCode.ENV_SET) == ["SANDBOX_FD_LOG=3", "SANDBOX_FD_IN_PUT=9"]
    assert plan.only(OpCode.EXEC)[0].data == b"tool\0--log=3\0/dev/fd/9\0{other}\0"
    assert plan.only(OpCode.EXEC)[0].a == 4


def test_build_environment_keeps_and_sets_what_the_profile_names() -> None:
    profile = profile_of(keep=("PATH", "LC_*"), variables=(("A", "1"), ("B", "x=y")))
    plan = build(profile, ["tool"], CALLER)
    assert texts(plan, OpCode.ENV_KEEP) == ["PATH", "LC_*"]
    assert texts(plan, OpCode.ENV_SET) == ["A=1", "B=x=y"]


def test_build_grants_variable_wins_over_one_that_is_set() -> None:
    profile = profile_of(FileGrant(name="log", file="/l"), variables=(("SANDBOX_FD_LOG", "77"),))
    assert environment_set(profile, number_grants(profile.grants)) == {"SANDBOX_FD_LOG": "3"}
    assert texts(build(profile, ["tool"], CALLER), OpCode.ENV_SET) == ["SANDBOX_FD_LOG=3"]


@pytest.mark.parametrize("pattern", ["TOKEN", "TOK*", "*"])
def test_build_secret_that_the_environment_keeps_is_refused(pattern: str) -> None:
    profile = profile_of(SecretGrant(name="token", secret="env:TOKEN"), keep=("PATH", pattern))
    with pytest.raises(GrantError) as caught:
        build(profile, ["tool"], CALLER)
    assert caught.value.grant == "token"
    assert repr(pattern) in caught.value.reason
    assert "environment.keep" in caught.value.hint


@pytest.mark.parametrize("pattern", ["TOKENS", "TOKEN_*", "token", "TO"])
def test_build_secret_beside_other_kept_names_is_accepted(pattern: str) -> None:
    profile = profile_of(SecretGrant(name="token", secret="env:TOKEN"), keep=("PATH", pattern))
    assert pattern in texts(build(profile, ["tool"], CALLER), OpCode.ENV_KEEP)


def test_build_secret_of_a_file_may_share_its_name_with_a_kept_variable() -> None:
    profile = profile_of(SecretGrant(name="TOKEN", secret="/TOKEN"), keep=("TOKEN",))
    assert texts(build(profile, ["tool"], CALLER), OpCode.SECRET_FILE) == ["/TOKEN"]


def test_build_too_many_variables_are_refused() -> None:
    words = tuple(f"V{index}" for index in range(MAX_ENV_OPS + 1))
    for environment in (Environment(keep=words), Environment(set=tuple((word, "") for word in words))):
        with pytest.raises(PlanError, match=str(MAX_ENV_OPS)):
            build(dataclasses.replace(profile_of(), environment=environment), ["tool"], CALLER)
    fitting = dataclasses.replace(profile_of(), environment=Environment(keep=words[1:]))
    assert len(build(fitting, ["tool"], CALLER).only(OpCode.ENV_KEEP)) == MAX_ENV_OPS


def test_build_path_of_the_child_is_the_one_it_will_have() -> None:
    kept, not_kept = profile_of(keep=("PATH",)), profile_of(keep=("HOME", "PATHS"))
    assert child_path(kept, CALLER) == "/caller/bin:/caller/sbin"
    assert child_path(profile_of(keep=("PA*",)), CALLER) == "/caller/bin:/caller/sbin"
    assert child_path(not_kept, CALLER) == DEFAULT_PATH
    assert child_path(profile_of(variables=(("PATH", "/set"),)), CALLER) == "/set"
    assert child_path(kept, dataclasses.replace(CALLER, environ={})) == DEFAULT_PATH


def test_build_bare_name_is_tried_in_each_folder_of_the_path_once() -> None:
    caller = dataclasses.replace(CALLER, environ={"PATH": "/a:/b::/a"})
    assert texts(build(profile_of(), ["tool"], caller), OpCode.COMMAND) == ["/a/tool", "/b/tool", "./tool"]


@pytest.mark.parametrize("name", ["/bin/tool", "./tool", "dir/tool"])
def test_build_name_with_a_slash_is_tried_as_it_stands(name: str) -> None:
    assert texts(plan_of(command=(name,)), OpCode.COMMAND) == [name]


def test_build_path_with_too_many_folders_is_refused() -> None:
    folders = [f"/{index}" for index in range(MAX_COMMANDS + 1)]
    with pytest.raises(UsageError, match=f"PATH: it has more than {MAX_COMMANDS} folders"):
        build(profile_of(), ["tool"], dataclasses.replace(CALLER, environ={"PATH": ":".join(folders)}))
    fitting = dataclasses.replace(CALLER, environ={"PATH": ":".join(folders[1:])})
    assert len(build(profile_of(), ["tool"], fitting).only(OpCode.COMMAND)) == MAX_COMMANDS


def test_build_too_many_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match=f"more than {MAX_ARGS} arguments"):
        build(profile_of(), ["tool"] + ["x"] * MAX_ARGS, CALLER)
    fitting = build(profile_of(), ["tool"] + ["x"] * (MAX_ARGS - 1), CALLER)
    assert fitting.only(OpCode.EXEC)[0].a == MAX_ARGS


@pytest.mark.parametrize("command", [(), ("",), ("", "x")])
def test_build_empty_command_is_refused(command: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="command: it is empty"):
        plan_of(command=command)


def test_build_empty_argument_is_accepted() -> None:
    assert plan_of(command=("tool", "", "x")).only(OpCode.EXEC)[0].data == b"tool\0\0x\0"


def test_build_argument_with_a_nul_byte_is_refused() -> None:
    with pytest.raises(UsageError, match="NUL"):
        plan_of(command=("tool", "a\0b"))


def test_build_argument_that_names_no_grant_is_refused() -> None:
    with pytest.raises(GrantError, match="no such grant") as caught:
        plan_of(FileGrant(name="log", file="/l"), command=("tool", "{fd:lag}"))
    assert caught.value.grant == "lag"
    assert "log" in caught.value.hint


def test_build_status_descriptor_comes_first() -> None:
    plan = build(profile_of(*GRANTS), ["tool"], CALLER, status=(8, StatusFormat.JSON))
    first = plan.ops[0]
    assert (first.code, first.a, first.b) == (OpCode.STATUS, 8, StatusFormat.JSON)
    assert plan_of(*GRANTS).only(OpCode.STATUS) == ()


def test_build_status_descriptor_that_is_granted_is_refused() -> None:
    profile = profile_of(InheritGrant(name="log", inherit=8))
    with pytest.raises(GrantError, match="8 is the status descriptor") as caught:
        build(profile, ["tool"], CALLER, status=(8, StatusFormat.RECORDS))
    assert caught.value.grant == "log"


def test_build_status_descriptor_may_equal_a_number_in_the_child() -> None:
    profile = profile_of(InheritGrant(name="log", inherit=9, number=8))
    plan = build(profile, ["tool"], CALLER, status=(8, StatusFormat.RECORDS))
    assert [op.b for op in plan.only(OpCode.PLACE)] == [8]


def test_build_process_policy_becomes_ops() -> None:
    policy = ProcessPolicy(umask=0o077, chdir="/srv", die_with_parent=True, exec=ExecPolicy.ONCE)
    plan = build(profile_of(process=policy), ["tool"], CALLER)
    assert [op.a for op in plan.only(OpCode.UMASK)] == [0o077]
    assert texts(plan, OpCode.CHDIR) == ["/srv"]
    assert [op.a for op in plan.only(OpCode.DIE_WITH_PARENT)] == [CALLER.parent_pid]
    assert len(plan.only(OpCode.EXEC_ONCE)) == 1


def test_build_unasked_process_ops_are_absent() -> None:
    plan = plan_of()
    assert [op.a for op in plan.only(OpCode.UMASK)] == [0o022]
    assert not [*plan.only(OpCode.CHDIR), *plan.only(OpCode.DIE_WITH_PARENT), *plan.only(OpCode.EXEC_ONCE)]


def test_build_filter_reserves_exactly_the_numbers_of_the_grants() -> None:
    grants = number_grants(GRANTS)
    profile = profile_of(*GRANTS)
    assert filter_policy(profile, grants).reserved == tuple(grant.number for grant in grants)
    plan = build(profile, ["tool"], CALLER)
    assert tuple(op.data for op in plan.only(OpCode.FILTER)) == tuple(seccomp.compile(filter_policy(profile, grants)))


@pytest.mark.parametrize("number", [3, 4, 5, 6, 7, 19, 20, 21])
def test_build_filter_refuses_dup2_onto_placed_numbers_only(number: int) -> None:
    plan = plan_of(*GRANTS)
    programs = [bpf.validate(bpf.decode(op.data)) for op in plan.only(OpCode.FILTER)]
    call = bpf.SeccompData(NUMBERS["dup2"], bpf.AUDIT_ARCH_X86_64, (1, number, 0, 0, 0, 0), 0)
    verdict = seccomp.verdict_of(bpf.combine(bpf.run(program, call) for program in programs))
    placed = {op.b for op in plan.only(OpCode.PLACE)}
    assert placed == {3, 4, 5, 6, 20}
    assert (verdict == seccomp.ALLOW) is (number not in placed)


def test_build_profile_under_which_nothing_could_start_is_refused() -> None:
    profile = dataclasses.replace(profile_of(), filter=FilterSection(("@file-io",)))
    with pytest.raises(ProfileError, match=r"execve.*nothing could start"):
        build(profile, ["tool"], CALLER)


def test_build_grants_that_collide_are_refused() -> None:
    with pytest.raises(GrantError, match="number is used twice"):
        plan_of(FileGrant(name="a", file="/a", number=5), FileGrant(name="b", file="/b", number=5))


@pytest.mark.parametrize("quiet", [False, True])
def test_build_quiet_is_carried_by_the_plan(quiet: bool) -> None:
    assert build(profile_of(), ["tool"], CALLER, quiet=quiet).quiet is quiet


def test_build_is_pure_and_its_plan_survives_the_bytes() -> None:
    plan = plan_of(*GRANTS)
    assert plan == plan_of(*GRANTS)
    assert wire.decode(wire.encode(plan)) == plan


def test_build_order_of_declaration_does_not_change_who_gets_a_given_number() -> None:
    given = [FileGrant(name="a", file="/a", number=4), FileGrant(name="b", file="/b", number=3)]
    expected = {"grant a: file /a": 4, "grant b: file /b": 3}
    for grants in itertools.permutations(given):
        plan = plan_of(*grants)
        number = {op.a: op.b for op in plan.only(OpCode.PLACE)}
        assert {op.label: number[op.a] for op in plan.only(OpCode.FILE)} == expected
