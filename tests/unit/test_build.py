"""build() turns a profile and a command into a plan: order, slots, numbers, labels, and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools
import os
from typing import Any, Final

import pytest

from sandbox import bpf, filtering, seccomp, wire
from sandbox.allowlist import parse_peer
from sandbox.build import DEFAULT_PATH, build, child_path, environment_set, filter_policy, grant_label
from sandbox.caller import Caller
from sandbox.errors import GrantError, InternalError, PlanError, ProfileError, UsageError
from sandbox.filesystem import FilesystemPolicy
from sandbox.grants import (
    SAFE_TYPES,
    SOCKET_TYPES,
    STDIO_TYPES,
    Access,
    ConnectGrant,
    CopyGrant,
    DatagramGrant,
    DataGrant,
    DirectoryGrant,
    FdType,
    FileGrant,
    Grant,
    InheritGrant,
    ListenGrant,
    ScratchGrant,
    SecretGrant,
    number_grants,
)
from sandbox.limits import Delegated, Limits
from sandbox.ops import mask_of
from sandbox.plan import (
    MANDATORY,
    MAX_ARGS,
    MAX_COMMANDS,
    MAX_ENV_OPS,
    MAX_PROTOCOLS,
    NOTHING_TOLD,
    OBTAINING,
    ListenFlag,
    OpCode,
    Plan,
    StatusFormat,
    Trace,
)
from sandbox.profile import (
    DescriptorPolicy,
    Environment,
    ExecPolicy,
    FilterSection,
    NetworkMode,
    NetworkPolicy,
    ProcessPolicy,
    Profile,
    ScmRights,
    Tty,
)
from sandbox.protocols import PROTOCOLS, Place, Protocol, ProtocolRule, Shape
from sandbox.syscall_table import NUMBERS
from tests.support.callers import opened

CALLER: Final = Caller(
    environ={"PATH": "/caller/bin:/caller/sbin"},
    cwd="/c",
    home="/h",
    runtime_dir="/r",
    tmp="/t",
    parent_pid=4711,
    landlock_abi=7,
)
GRANTS: Final[tuple[Grant, ...]] = (
    InheritGrant(name="late", inherit=90, number=20),
    SecretGrant(name="token", secret="env:TOKEN"),
    FileGrant(name="log", file="/var/log/x", access=Access.APPEND, create=True),
    InheritGrant(name="early", inherit=7, type=FdType.PIPE, access=Access.READ),
    SecretGrant(name="key", secret="/etc/key", number=3),
    DirectoryGrant(name="folder", directory="/srv", write=True, create=True),
)
MEMORY: Final[tuple[Grant, ...]] = (
    DataGrant(name="words", data="a few"),
    CopyGrant(name="snapshot", copy="/etc/hosts"),
    ScratchGrant(name="room", scratch=64 << 20),
)

SOCKETS: Final[tuple[Grant, ...]] = (
    ListenGrant(name="admin", listen="unix:/run/x", backlog=9, mode="660", owner="www"),
    ListenGrant(name="web", listen="tcp:*:80", ipv6_only=True, reuse_port=True),
    ListenGrant(name="name-service", listen="udp:127.0.0.1:53"),
    ConnectGrant(name="database", connect="tcp:db.example:5432", timeout=2.5),
    DatagramGrant(name="log", datagram="unix:@log"),
)
LOOKED_UP: Final[Any] = {"hosts": {"db.example": ("192.0.2.7", "2001:db8::7")}, "owners": {"www": (33, 34)}}
INET: Final = b"\x02\0"


def profile_of(
    *grants: Grant,
    process: ProcessPolicy | None = None,
    keep: tuple[str, ...] = ("PATH",),
    variables: tuple[tuple[str, str], ...] = (),
    descriptors: DescriptorPolicy | None = None,
    protocols: tuple[Protocol, ...] = (),
) -> Profile:
    return opened(
        Profile(
            "p",
            process=process or ProcessPolicy(),
            environment=Environment(keep, variables),
            filter=FilterSection(("@base", "@file-io")),
            grants=grants,
            descriptors=descriptors or DescriptorPolicy(),
            protocols=protocols,
        )
    )


def plan_of(*grants: Grant, command: tuple[str, ...] = ("tool",)) -> Plan:
    return build(profile_of(*grants), command, CALLER)


def texts(plan: Plan, code: OpCode) -> list[str]:
    return [os.fsdecode(op.data) for op in plan.only(code)]


STORED: Final = InheritGrant(name="state", inherit="systemd:state", stored=True)
EVERY_PROTOCOL: Final = DescriptorPolicy(delegate=tuple(PROTOCOLS))


def test_build_codes_never_descend_and_mandatory_ops_are_there() -> None:
    codes = [op.code for op in plan_of(*GRANTS).ops]
    assert codes == sorted(codes)
    assert set(codes) >= MANDATORY
    process = ProcessPolicy(
        chdir="/", die_with_parent=True, user="u", nice=3, cpus="0", oom_score_adj=1, tty=Tty.PRIVATE,
        notify=True,
    )  # fmt: skip
    walled = dataclasses.replace(
        profile_of(*GRANTS, *SOCKETS[:-1], *MEMORY, STORED, keep=("PATH", "LISTEN_*"), descriptors=EVERY_PROTOCOL),
        process=process,
        filesystem=FilesystemPolicy(read=("/etc",)),
        network=NetworkPolicy(NetworkMode.LOOPBACK, (parse_peer("tcp:db.example:5432"),), dns=True),
        share=(),
        limits=Limits(processes=5, timeout=1000, open_files=99),
    )
    caller = dataclasses.replace(
        CALLER,
        uid=0,
        gid=0,
        identity=(5, 6),
        **LOOKED_UP,
        peers={"db.example": ("192.0.2.7",)},
        resolvers=("192.0.2.53",),
        delegated=Delegated("/cg", frozenset({"pids"})),
        environ={"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "0", "LISTEN_FDNAMES": "x"},
    )
    everything = build(
        walled, ["tool"], caller, status=(8, StatusFormat.JSON), told=Trace.EXECS, trace=Trace.EXECS
    )  # fmt: skip
    codes = [op.code for op in everything.ops]
    assert codes == sorted(codes)
    assert set(OpCode) - set(codes) == {OpCode.EXEC_ONCE, OpCode.PORT_RULE, OpCode.NETNS}
    assert wire.decode(wire.encode(everything)) == everything


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
        InheritGrant(name="a", inherit=5), InheritGrant(name="b", inherit=6, type=FdType.DIRECTORY, raw=True)
    ).only(OpCode.INHERIT)
    assert untyped.c == mask_of(SAFE_TYPES)
    assert typed.c == FdType.DIRECTORY.bit


def test_build_relay_takes_streams_of_bytes_only_and_says_which_way() -> None:
    untyped, typed = plan_of(
        InheritGrant(name="a", inherit=5, relay=True),
        InheritGrant(name="b", inherit=6, type=FdType.SOCKET, access=Access.WRITE, relay=True),
    ).only(OpCode.INHERIT)
    assert untyped.c == FdType.FILE.bit | FdType.PIPE.bit | FdType.STREAM.bit
    assert typed.c == FdType.STREAM.bit
    assert (untyped.flags, typed.flags) == (16, 18)


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
        (DataGrant(name="d", data="text: no part of a label"), "grant d: text"),
        (CopyGrant(name="c", copy="/c"), "grant c: copy of /c"),
        (ScratchGrant(name="s", scratch=64 << 20), "grant s: scratch file of 64M"),
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
    assert not plan.only(OpCode.GATE)


def test_build_unasked_process_ops_are_absent() -> None:
    plan = plan_of()
    assert [op.a for op in plan.only(OpCode.UMASK)] == [0o022]
    assert not [*plan.only(OpCode.CHDIR), *plan.only(OpCode.DIE_WITH_PARENT), *plan.only(OpCode.EXEC_ONCE)]


# Later execs


@pytest.mark.parametrize("delegate", [(), ("gpg",)])
def test_build_later_execs_are_watched_unless_there_are_none(delegate: tuple[str, ...]) -> None:
    descriptors = DescriptorPolicy(delegate=delegate)
    watched = build(profile_of(descriptors=descriptors), ["tool"], CALLER)
    assert [op.a for op in watched.only(OpCode.GATE)] == [0]
    assert not watched.only(OpCode.EXEC_ONCE)
    once = build(profile_of(descriptors=descriptors, process=ProcessPolicy(exec=ExecPolicy.ONCE)), ["tool"], CALLER)
    assert (len(once.only(OpCode.GATE)), len(once.only(OpCode.EXEC_ONCE))) == (0, 1)


def test_build_gate_is_loaded_before_the_filters() -> None:
    # A filter refuses a listener of the child's, and would refuse the gate's own.
    codes = [op.code for op in plan_of().ops]
    assert codes.index(OpCode.NO_NEW_PRIVS) < codes.index(OpCode.GATE) < codes.index(OpCode.FILTER)


def test_build_protocols_become_ops_in_the_order_of_the_profile() -> None:
    mine = Protocol(
        "own", "", "", (
            ProtocolRule(Place.ARGUMENT, Shape.FIXED, "-R", program="tool", numbers=(3, 5, 31)),
            ProtocolRule(Place.VARIABLE, Shape.LIST, "fds=", "OWN", anywhere=True),
        ),
    )  # fmt: skip
    profile = profile_of(descriptors=DescriptorPolicy(delegate=("listen-fds", "own", "displayfd")), protocols=(mine,))
    made = build(profile, ["tool"], CALLER).only(OpCode.PROTOCOL)
    assert [(op.label, op.a, op.b, op.c, op.flags, op.data) for op in made] == [
        ("listen-fds", Place.VARIABLE, Shape.COUNT, 0, 0, b"LISTEN_FDS\0\0"),
        ("own", Place.ARGUMENT, Shape.FIXED, 1 << 3 | 1 << 5 | 1 << 31, 0, b"tool\0-R\0"),
        ("own", Place.VARIABLE, Shape.LIST, 0, 1, b"OWN\0fds=\0"),
        ("displayfd", Place.ARGUMENT, Shape.NUMBER, 0, 0, b"\0-displayfd=\0"),
        ("displayfd", Place.NEXT_ARGUMENT, Shape.NUMBER, 0, 0, b"\0-displayfd\0"),
    ]


def test_build_protocol_number_that_is_said_twice_is_still_that_number() -> None:
    doubled = Protocol("own", "", "", (ProtocolRule(Place.PROGRAM, Shape.FIXED, program="tool", numbers=(3, 3)),))
    profile = profile_of(descriptors=DescriptorPolicy(delegate=("own",)), protocols=(doubled,))
    assert [op.c for op in build(profile, ["tool"], CALLER).only(OpCode.PROTOCOL)] == [1 << 3]


def test_build_protocols_that_are_not_admitted_make_no_ops() -> None:
    mine = Protocol("own", "", "", (ProtocolRule(Place.PROGRAM, Shape.ALL, program="tool"),))
    assert not build(profile_of(protocols=(mine,)), ["tool"], CALLER).only(OpCode.PROTOCOL)
    every = build(profile_of(descriptors=EVERY_PROTOCOL), ["tool"], CALLER).only(OpCode.PROTOCOL)
    assert len(every) == sum(len(protocol.rules) for protocol in PROTOCOLS.values())


def test_build_protocol_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ProfileError, match="no protocol 'own'"):
        build(profile_of(descriptors=DescriptorPolicy(delegate=("own",))), ["tool"], CALLER)


def test_build_too_many_protocol_rules_are_refused() -> None:
    def rules(count: int) -> Profile:
        mine = Protocol("own", "", "", (ProtocolRule(Place.ARGUMENT, Shape.NUMBER, "x"),) * count)
        return profile_of(descriptors=DescriptorPolicy(delegate=("own",)), protocols=(mine,))

    assert len(build(rules(MAX_PROTOCOLS), ["tool"], CALLER).only(OpCode.PROTOCOL)) == MAX_PROTOCOLS
    with pytest.raises(PlanError, match=f"more than {MAX_PROTOCOLS} rules"):
        build(rules(MAX_PROTOCOLS + 1), ["tool"], CALLER)


def test_build_only_a_grant_that_says_so_passes_at_every_exec() -> None:
    grants: list[Grant] = [
        FileGrant(name="a", file="/a", propagate=True), FileGrant(name="b", file="/b"),
        SecretGrant(name="c", secret="/c", propagate=True), InheritGrant(name="d", inherit=9, propagate=True),
        InheritGrant(name="e", inherit=8),
    ]  # fmt: skip
    placed = {op.label: op.flags for op in plan_of(*grants).only(OpCode.PLACE)}
    assert placed == {f"grant {grant.name}: number {n}": int(grant.propagate) for n, grant in enumerate(grants, 3)}


@pytest.mark.parametrize("told", [NOTHING_TOLD, Trace.EXECS, Trace.NETWORK])
def test_build_what_is_told_goes_to_the_status_descriptor(told: Trace) -> None:
    plan = build(profile_of(), ["tool"], CALLER, status=(8, StatusFormat.RECORDS), told=told)
    assert [op.c for op in plan.only(OpCode.STATUS)] == [int(told)]


@pytest.mark.parametrize("trace", [NOTHING_TOLD, Trace.EXECS, Trace.EXECS | Trace.NETWORK])
def test_build_trace_is_an_op_of_its_own(trace: Trace) -> None:
    assert [op.a for op in build(profile_of(), ["tool"], CALLER, trace=trace).only(OpCode.TRACE)] == [trace][
        : int(trace)
    ]


# The filter


@pytest.mark.parametrize(
    ("descriptors", "process", "gated"),
    [
        (DescriptorPolicy(), None, False),
        (DescriptorPolicy(delegate=("gpg",)), None, True),
        (DescriptorPolicy(delegate=("gpg",)), ProcessPolicy(exec=ExecPolicy.ONCE), False),
    ],
)
def test_build_close_on_exec_may_be_cleared_only_where_the_gate_decides(
    descriptors: DescriptorPolicy, process: ProcessPolicy | None, gated: bool
) -> None:
    profile = profile_of(FileGrant(name="a", file="/a"), descriptors=descriptors, process=process)
    assert filter_policy(profile, number_grants(profile.grants), 7).gated is gated
    programs = [bpf.validate(bpf.decode(op.data)) for op in build(profile, ["tool"], CALLER).only(OpCode.FILTER)]

    def clearing(number: int) -> filtering.Verdict:
        call = bpf.SeccompData(NUMBERS["fcntl"], args=(number, filtering.F_SETFD, 0, 0, 0, 0))
        return filtering.verdict_of(bpf.combine(bpf.run(program, call) for program in programs))

    assert clearing(3) == filtering.REFUSED
    assert clearing(4) == (filtering.ALLOW if gated else filtering.REFUSED)


def test_build_standard_streams_are_reserved_where_the_profile_says_so() -> None:
    grants = number_grants([FileGrant(name="a", file="/a")])
    assert filter_policy(profile_of(descriptors=DescriptorPolicy(reserve_stdio=True)), grants, 7).reserved == (
        0,
        1,
        2,
        3,
    )
    assert filter_policy(profile_of(), grants, 7).reserved == (3,)


def test_build_strict_and_scm_rights_reach_the_filter() -> None:
    policy = filter_policy(profile_of(descriptors=DescriptorPolicy(strict=True, scm_rights=ScmRights.DENY)), (), 7)
    assert (policy.strict, policy.unix_sockets) == (True, False)
    policy = filter_policy(profile_of(), (), 7)
    assert (policy.strict, policy.unix_sockets) == (False, True)


def test_build_standard_stream_is_no_socket_where_nothing_may_be_sent() -> None:
    denied = build(profile_of(descriptors=DescriptorPolicy(scm_rights=ScmRights.DENY)), ["tool"], CALLER)
    assert [op.a for op in denied.only(OpCode.STDIO)] == [mask_of(STDIO_TYPES - SOCKET_TYPES)]
    assert [op.a for op in plan_of().only(OpCode.STDIO)] == [mask_of(STDIO_TYPES)]


def test_build_filter_reserves_exactly_the_numbers_of_the_grants() -> None:
    grants = number_grants(GRANTS)
    profile = profile_of(*GRANTS)
    assert filter_policy(profile, grants, 7).reserved == tuple(grant.number for grant in grants)
    plan = build(profile, ["tool"], CALLER)
    assert tuple(op.data for op in plan.only(OpCode.FILTER)) == tuple(
        seccomp.compile(filter_policy(profile, grants, 7))
    )


@pytest.mark.parametrize("number", [3, 4, 5, 6, 7, 8, 19, 20, 21])
def test_build_filter_refuses_dup2_onto_placed_numbers_only(number: int) -> None:
    plan = plan_of(*GRANTS)
    programs = [bpf.validate(bpf.decode(op.data)) for op in plan.only(OpCode.FILTER)]
    call = bpf.SeccompData(NUMBERS["dup2"], bpf.AUDIT_ARCH_X86_64, (1, number, 0, 0, 0, 0), 0)
    verdict = filtering.verdict_of(bpf.combine(bpf.run(program, call) for program in programs))
    placed = {op.b for op in plan.only(OpCode.PLACE)}
    assert placed == {3, 4, 5, 6, 7, 20}
    assert (verdict == filtering.ALLOW) is (number not in placed)


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


# Sockets


def test_build_socket_grants_become_ops_with_the_addresses_that_the_kernel_takes() -> None:
    caller = dataclasses.replace(CALLER, **LOOKED_UP)
    plan = build(profile_of(*SOCKETS), ["tool"], caller)
    names = {op.a: op.label.split(": ")[1] for op in plan.ops if op.code in OBTAINING}
    assert names == {
        0: "unix:/run/x", 1: "tcp:*:80", 2: "udp:127.0.0.1:53", 3: "connection to tcp:db.example:5432",
        4: "datagrams to unix:@log",
    }  # fmt: skip
    assert [(op.a, op.b, op.c) for op in plan.only(OpCode.SOCKET_OWNER)] == [(0, 33, 34)]
    path, every, udp = plan.only(OpCode.LISTEN)
    assert (path.b, path.c, path.flags, path.data) == (0o660, 9, ListenFlag.MODE, b"\x01\0/run/x\0")
    flags = ListenFlag.REUSE_PORT | ListenFlag.IPV6_ONLY
    assert (every.b, every.c, every.flags, every.data) == (0, 4096, flags, b"\x0a\0\0\x50" + bytes(24))
    address = INET + b"\0\x35\x7f\0\0\x01" + bytes(8)
    assert (udp.b, udp.c, udp.flags, udp.data) == (0, 0, ListenFlag.DATAGRAM, address)
    stream, datagram = plan.only(OpCode.CONNECT)
    first = INET + b"\x15\x38\xc0\0\x02\x07" + bytes(8)
    second = b"\x0a\0\x15\x38" + bytes(4) + b"\x20\x01\x0d\xb8" + bytes(11) + b"\x07" + bytes(4)
    assert (stream.b, stream.c, stream.data) == (1, 2500, first + second)
    assert (datagram.b, datagram.c, datagram.data) == (2, 0, b"\x01\0\0log")


@pytest.mark.parametrize("missing", ["hosts", "owners"])
def test_build_socket_grant_that_nobody_has_looked_up_is_a_bug(missing: str) -> None:
    with pytest.raises(InternalError, match="nobody has looked it up"):
        build(profile_of(*SOCKETS), ["tool"], dataclasses.replace(CALLER, **(LOOKED_UP | {missing: {}})))


def test_build_socket_path_is_as_long_as_the_kernel_takes() -> None:
    path = "/" + "x" * 106
    plan = plan_of(ListenGrant(name="a", listen=f"unix:{path}"))
    assert plan.only(OpCode.LISTEN)[0].data == b"\x01\0" + path.encode() + b"\0"
    with pytest.raises(GrantError, match=f"grant: a: unix:{path}x: it is longer than 107 bytes"):
        plan_of(ListenGrant(name="a", listen=f"unix:{path}x"))


def test_build_inherited_socket_is_of_the_types_that_its_word_means() -> None:
    def accepted(fd_type: FdType | None) -> int:
        return plan_of(InheritGrant(name="a", inherit=5, type=fd_type)).only(OpCode.INHERIT)[0].c

    assert not accepted(None) & mask_of([FdType.SOCKET, FdType.DATAGRAM, FdType.RAW_SOCKET])
    assert accepted(None) & mask_of([FdType.LISTENER, FdType.STREAM]) == mask_of([FdType.LISTENER, FdType.STREAM])
    every = [FdType.SOCKET, FdType.LISTENER, FdType.STREAM, FdType.DATAGRAM]
    assert accepted(FdType.SOCKET) == mask_of(every)
    for one in (FdType.LISTENER, FdType.STREAM, FdType.DATAGRAM, FdType.RAW_SOCKET):
        assert accepted(one) == one.bit


# Socket activation and what variables carry


def variables_of(plan: Plan) -> dict[str, str]:
    return dict(text.split("=", 1) for text in texts(plan, OpCode.ENV_SET))


def test_build_activation_tells_of_the_sockets_and_of_nothing_else() -> None:
    grants: list[Grant] = [
        FileGrant(name="f", file="/x"),
        ListenGrant(name="web", listen="tcp:*:80"),
        ListenGrant(name="x", listen="unix:/x"),
    ]
    for activation in (True, False):
        profile = profile_of(*grants, descriptors=DescriptorPolicy(activation=activation))
        plan = build(profile, ["tool"], CALLER)
        told = {name: value for name, value in variables_of(plan).items() if name.startswith("LISTEN")}
        assert told == ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:x"} if activation else {})
        assert texts(plan, OpCode.ENV_PID) == (["LISTEN_PID"] if activation else [])
    none = build(profile_of(grants[0], descriptors=DescriptorPolicy(activation=True)), ["tool"], CALLER)
    assert (texts(none, OpCode.ENV_PID), "LISTEN_FDS" in variables_of(none)) == ([], False)


def test_build_inherited_from_a_service_manager() -> None:
    environ = {"LISTEN_FDS": "2", "LISTEN_PID": "42", "LISTEN_FDNAMES": "web:log"}
    caller = dataclasses.replace(CALLER, environ=environ, pid=42)
    grant = InheritGrant(name="a", inherit="systemd:log")
    op = build(profile_of(grant), ["tool"], caller).only(OpCode.INHERIT)[0]
    assert (op.b, op.label) == (4, "grant a: systemd:log")
    for changed, reason in (
        ({"pid": 43}, "a: systemd:log: what a service manager has passed is for process 42, and this is 43"),
        ({"environ": {}}, "a: systemd:log: no service manager has passed descriptors"),
        (
            {"environ": environ | {"LISTEN_FDNAMES": "web:web"}},
            "a: systemd:log: no descriptor has that name; passed are web",
        ),
        ({"environ": environ | {"LISTEN_FDNAMES": "log:log"}}, "a: systemd:log: 2 descriptors have that name"),
    ):
        with pytest.raises(GrantError, match=f"grant: {reason}"):
            build(profile_of(grant), ["tool"], dataclasses.replace(caller, **changed))


def test_build_variables_that_carry_descriptors_are_dropped_or_rewritten_where_they_would_be_kept() -> None:
    environ = {
        "LISTEN_FDS": "1", "MAKEFLAGS": "-j --jobserver-auth=7,8", "WAYLAND_SOCKET": "5", "NODE_CHANNEL_FD": "9",
        "NOTIFY_SOCKET": "/n", "HOME": "/h",
    }  # fmt: skip
    caller = dataclasses.replace(CALLER, environ=environ)
    grants = [InheritGrant(name="a", inherit=7), InheritGrant(name="b", inherit=8, number=9)]
    for keep, dropped in (
        (("*",), {"LISTEN_FDS", "WAYLAND_SOCKET", "NODE_CHANNEL_FD", "NOTIFY_SOCKET"}), (("LISTEN_*",), {"LISTEN_FDS"}),
        (("HOME",), set()),
    ):  # fmt: skip
        plan = build(profile_of(*grants, keep=keep), ["tool"], caller)
        assert set(texts(plan, OpCode.ENV_DROP)) == dropped
        assert variables_of(plan).get("MAKEFLAGS") == ("-j --jobserver-auth=3,9" if keep == ("*",) else None)
    said = build(profile_of(keep=("*",), variables=(("WAYLAND_SOCKET", "3"),)), ["tool"], caller)
    assert (variables_of(said)["WAYLAND_SOCKET"], "WAYLAND_SOCKET" in texts(said, OpCode.ENV_DROP)) == ("3", False)


def test_build_notify_keeps_what_the_service_manager_said_to_us() -> None:
    def built(environ: dict[str, str], *grants: Grant, notify: bool = True) -> Plan:
        caller = dataclasses.replace(CALLER, environ=environ, pid=42)
        return build(profile_of(*grants, keep=("*",), process=ProcessPolicy(notify=notify)), ["tool"], caller)

    environ = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "9", "WATCHDOG_PID": "42"}
    plan = built(environ)
    assert variables_of(plan) == {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "9"}
    assert (texts(plan, OpCode.ENV_PID), texts(plan, OpCode.ENV_DROP)) == (["WATCHDOG_PID"], [])
    another = built(environ | {"WATCHDOG_PID": "41"})
    assert variables_of(another) == {"NOTIFY_SOCKET": "/run/n"}
    assert set(texts(another, OpCode.ENV_DROP)) == {"WATCHDOG_USEC", "WATCHDOG_PID"}
    assert variables_of(built({})) == {}
    plan = built(environ, notify=False)
    assert (variables_of(plan), set(texts(plan, OpCode.ENV_DROP))) == ({}, set(environ))


def test_build_notify_and_a_socket_that_keeps_its_peer_do_not_go_together() -> None:
    caller = dataclasses.replace(CALLER, environ={"NOTIFY_SOCKET": "/run/n"})
    grant = DatagramGrant(name="a", datagram="udp:127.0.0.1:9")
    profile = dataclasses.replace(
        profile_of(grant, process=ProcessPolicy(notify=True)), network=NetworkPolicy(NetworkMode.NONE), share=()
    )
    with pytest.raises(UsageError, match=r"process.notify: with a udp grant no call may name an address"):
        build(profile, ["tool"], caller)
    assert build(dataclasses.replace(profile, grants=()), ["tool"], caller).ops
