"""The ops of namespaces, identity, view, Landlock and terminal that a profile comes to."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from sandbox import walls
from sandbox.allowlist import parse_bind, parse_peer
from sandbox.caller import Caller
from sandbox.errors import LaunchError, ProfileError, SandboxError, UnsupportedError, UsageError
from sandbox.filesystem import FilesystemPolicy, Proc, View
from sandbox.grants import FileGrant, Grant, SecretGrant, number_grants
from sandbox.landlock import LandlockPolicy, NetRight, Scope
from sandbox.limits import Limits
from sandbox.plan import MAX_PORT_RULES, ListFlag, MountFlag, MountKind, Namespace, NetFlag, Op, OpCode, Terminal
from sandbox.profile import (
    FilterSection,
    NetworkMode,
    NetworkPolicy,
    ProcessPolicy,
    Profile,
    Scheduling,
    SharedNamespace,
    Tty,
    check,
)
from sandbox.sockets import Protocol

CALLER: Final = Caller(
    environ={}, cwd="/src", home="/h", runtime_dir="/r", tmp="/t", parent_pid=1, landlock_abi=7, nice=4
)
ROOT: Final = replace(CALLER, uid=0, gid=0)
LOOKED_UP: Final = replace(CALLER, peers={"db": ("192.0.2.7",)}, resolvers=("192.0.2.53",))
PROFILE: Final = Profile("p", filesystem=FilesystemPolicy(read=("/src",)), filter=FilterSection(("@base",)))
HOST: Final = replace(PROFILE, filesystem=FilesystemPolicy(View.HOST))


def ops_of(profile: Profile, caller: Caller = CALLER) -> list[Op]:
    return list(walls.wall_ops(profile, caller))


def only(profile: Profile, code: OpCode, caller: Caller = CALLER) -> list[Op]:
    return [op for op in ops_of(profile, caller) if op.code is code]


def sharing(*names: SharedNamespace, profile: Profile = PROFILE) -> Profile:
    return replace(profile, share=names)


def process(profile: Profile = PROFILE, **changes: object) -> Profile:
    return replace(profile, process=replace(profile.process, **changes))  # type: ignore[arg-type]


def test_every_namespace_is_the_sandboxs_own_unless_shared() -> None:
    assert {op.a for op in only(PROFILE, OpCode.NAMESPACE)} == set(Namespace)
    for name in SharedNamespace:
        shared = {op.a for op in only(sharing(name, profile=HOST), OpCode.NAMESPACE, ROOT)}
        assert set(Namespace) - shared == {Namespace[name.name]}
    host = replace(PROFILE, network=NetworkPolicy(NetworkMode.HOST))
    assert set(Namespace) - {op.a for op in only(host, OpCode.NAMESPACE)} == {Namespace.NETWORK}


def test_loopback_is_up_only_where_it_is_wanted() -> None:
    for mode in NetworkMode:
        ops = only(replace(PROFILE, network=NetworkPolicy(mode)), OpCode.LOOPBACK)
        assert len(ops) == (mode is NetworkMode.LOOPBACK)


def test_host_name_is_set_in_a_namespace_of_its_own_only() -> None:
    assert [op.data for op in only(process(hostname="box"), OpCode.HOSTNAME)] == [b"box"]
    assert only(sharing(SharedNamespace.UTS), OpCode.HOSTNAME) == []


def test_view_of_shared_mounts_is_not_made_and_proc_of_shared_processes_is_not_mounted() -> None:
    assert only(PROFILE, OpCode.ROOT)
    assert b"/proc" in [op.data for op in only(PROFILE, OpCode.MOUNT)]
    shared = sharing(SharedNamespace.PID, profile=HOST)
    assert b"/proc" not in [op.data for op in only(shared, OpCode.MOUNT)]
    both = sharing(SharedNamespace.PID, SharedNamespace.MOUNT, profile=HOST)
    assert only(both, OpCode.MOUNT) == []


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        (sharing(SharedNamespace.MOUNT, SharedNamespace.PID), "mount namespace of its own"),
        (
            replace(
                sharing(SharedNamespace.MOUNT, SharedNamespace.PID, profile=HOST),
                filesystem=FilesystemPolicy(View.HOST, hide=("/a",)),
            ),
            "mount namespace of its own",
        ),
        (sharing(SharedNamespace.PID), "one PID namespace"),
        (sharing(SharedNamespace.MOUNT, profile=HOST), "one PID namespace"),
    ],
)
def test_view_that_its_namespaces_cannot_hold_is_refused(profile: Profile, reason: str) -> None:
    profile = replace(profile, filter=FilterSection(("@base",)))
    with pytest.raises(ProfileError, match=reason) as caught:
        check(profile)
    assert caught.value.key == "namespaces.share"
    check(replace(profile, share=()))
    both = sharing(SharedNamespace.MOUNT, SharedNamespace.PID, profile=HOST)
    check(replace(both, filter=FilterSection(("@base",))))


def test_limit_of_open_files_below_a_grants_number_is_refused() -> None:
    grant = FileGrant(name="a", file="/a", number=20)
    profile = replace(PROFILE, grants=(grant,), limits=Limits(open_files=20))
    with pytest.raises(ProfileError, match="a grant has number 20"):
        check(profile)
    check(replace(profile, limits=Limits(open_files=21)))


def test_ordinary_user_without_a_user_namespace_is_told_so() -> None:
    with pytest.raises(UsageError, match="only root gets the others"):
        ops_of(sharing(SharedNamespace.USER))
    assert Namespace.USER not in {op.a for op in only(sharing(SharedNamespace.USER), OpCode.NAMESPACE, ROOT)}
    everything = replace(sharing(*SharedNamespace, profile=HOST), network=NetworkPolicy(NetworkMode.HOST))
    assert only(everything, OpCode.NAMESPACE) == []


def test_only_root_becomes_another_user() -> None:
    other = process(user="x")
    (op,) = only(other, OpCode.IDENTITY, replace(ROOT, identity=(5, 6)))
    assert (op.a, op.b) == (5, 6)
    with pytest.raises(UsageError, match="only root can become another"):
        ops_of(other, replace(CALLER, identity=(5, 6)))
    assert only(other, OpCode.IDENTITY, replace(CALLER, identity=(CALLER.uid, CALLER.gid))) == []
    assert only(PROFILE, OpCode.IDENTITY, ROOT) == []
    with pytest.raises(SandboxError, match="nobody has looked it up"):
        ops_of(other, ROOT)


@pytest.mark.parametrize(
    ("tty", "interactive", "mode"),
    [
        (Tty.AUTO, True, Terminal.PRIVATE),
        (Tty.AUTO, False, Terminal.NONE),
        (Tty.NONE, True, Terminal.NONE),
        (Tty.PRIVATE, False, Terminal.PRIVATE),
        (Tty.INHERIT, True, Terminal.INHERIT),
    ],
)
def test_terminal_is_private_by_itself_only_for_a_person(tty: Tty, interactive: bool, mode: Terminal) -> None:
    (op,) = only(process(tty=tty), OpCode.TERMINAL, replace(CALLER, interactive=interactive))
    assert op.a == mode


def test_scheduling_keeps_of_the_callers_what_is_not_said() -> None:
    def said(**changes: object) -> list[tuple[int, int]]:
        return [(op.a, op.b - 20) for op in only(process(PROFILE, **changes), OpCode.SCHEDULING)]

    assert said() == []
    assert said(nice=7) == [(0, 7)]
    assert said(scheduling=Scheduling.IDLE) == [(5, 4)]
    assert [op.data for op in only(process(cpus="0-1"), OpCode.AFFINITY)] == [b"0-1"]
    assert [op.a for op in only(process(oom_score_adj=-5), OpCode.OOM_SCORE)] == [995]


def landlock(profile: Profile, *grants: Grant, abi: int = 7) -> list[Op]:
    return list(walls.landlock_ops(profile, number_grants(grants), replace(CALLER, landlock_abi=abi)))


def test_landlock_holds_ports_without_a_network_and_signals_with_processes_of_its_own() -> None:
    assert walls.wanted_ruleset(PROFILE).net
    assert not walls.wanted_ruleset(replace(PROFILE, network=NetworkPolicy(NetworkMode.LOOPBACK))).net
    assert walls.wanted_ruleset(PROFILE).scopes & Scope.SIGNAL
    assert not walls.wanted_ruleset(sharing(SharedNamespace.PID, profile=HOST)).scopes & Scope.SIGNAL


def supervised(*peers: str, **changes: object) -> Profile:
    policy = NetworkPolicy(allow=tuple(map(parse_peer, peers)))
    return replace(PROFILE, network=replace(policy, **changes))  # type: ignore[arg-type]


def network(profile: Profile, *protocols: Protocol, caller: Caller = CALLER) -> list[Op]:
    return list(walls.network_ops(profile, caller, protocols))


def test_network_without_rules_has_no_list_and_the_hosts_has_none_either() -> None:
    assert network(PROFILE, Protocol.TCP) == []
    assert network(supervised("tcp:*:1", mode=NetworkMode.HOST), Protocol.TCP) == []
    assert network(supervised("tcp:192.0.2.7:1"), Protocol.TCP)[0].code is OpCode.ALLOW_LIST
    assert network(supervised(bind=(parse_bind("tcp:1"),)), Protocol.TCP)
    assert network(supervised(dns=True), Protocol.TCP)


def test_network_list_says_what_is_asked_where_refusals_go_and_what_landlock_holds() -> None:
    def flags(profile: Profile, *protocols: Protocol, abi: int = 7) -> int:
        return network(profile, *protocols, caller=replace(CALLER, landlock_abi=abi))[0].a

    plain, loopback = supervised("tcp:192.0.2.7:1"), supervised("tcp:192.0.2.7:1", mode=NetworkMode.LOOPBACK)
    assert flags(plain, Protocol.TCP) == 0
    assert flags(plain, Protocol.TCP, Protocol.UDP) == ListFlag.UDP
    assert flags(loopback, Protocol.TCP) == ListFlag.LOOPBACK
    assert flags(plain, Protocol.TCP, abi=3) == ListFlag.UNGOVERNED
    assert flags(plain, Protocol.TCP, abi=4) == 0


def test_network_rules_are_the_compiled_ones_in_their_order() -> None:
    profile = supervised("tcp:db:5432", "udp:[2001:db8::/32]:1-9", bind=(parse_bind("tcp:127.0.0.1:80"),))
    rules = [op for op in network(profile, Protocol.TCP, caller=LOOKED_UP) if op.code is OpCode.NET_RULE]
    assert [op.label for op in rules if not op.flags & NetFlag.DENY] == [
        "tcp:db:5432", "udp:[2001:db8::/32]:1-9", "tcp:127.0.0.1:80",
    ]  # fmt: skip
    udp, bind = rules[-2], rules[-1]
    assert (udp.a, udp.b, udp.c, udp.flags, udp.data[8:12].hex()) == (32, 1, 9, NetFlag.UDP, "20010db8")
    assert (bind.a, bind.b, bind.c, bind.flags, bind.data[4:8]) == (32, 80, 80, NetFlag.BIND, b"\x7f\0\0\x01")
    denied = {op.flags for op in rules if op.flags & NetFlag.DENY}
    assert denied == {NetFlag.DENY, NetFlag.DENY | NetFlag.UDP}


def test_network_files_show_the_names_and_resolvers_that_there_are() -> None:
    def texts(profile: Profile) -> dict[str, bytes]:
        found = network(profile, Protocol.TCP, caller=LOOKED_UP)
        return {op.label: op.data.split(b"\0")[1] for op in found if op.code is OpCode.TEXT_FILE}

    named = texts(supervised("tcp:db:5432"))
    assert b"192.0.2.7 db\n" in named["/etc/hosts"]
    assert named["/etc/resolv.conf"] == b""
    assert texts(supervised(dns=True))["/etc/resolv.conf"] == b"nameserver 192.0.2.53\n"
    own = supervised(dns=True, resolvers=("192.0.2.1",))
    assert texts(own)["/etc/resolv.conf"] == b"nameserver 192.0.2.1\n"
    labels = [op.label for op in network(own, Protocol.TCP) if op.code is OpCode.NET_RULE and not op.flags & 1]
    assert labels == ["udp:192.0.2.1:53", "tcp:192.0.2.1:53"]
    shared = sharing(SharedNamespace.MOUNT, SharedNamespace.PID, profile=replace(HOST, network=own.network))
    assert texts(shared) == {}


def test_landlock_holds_every_tcp_port_where_the_supervisor_connects_and_reads_its_files() -> None:
    (ruleset,) = [op for op in landlock(supervised("tcp:192.0.2.7:1")) if op.code is OpCode.RULESET]
    assert ruleset.c & 3 == 3
    assert [op for op in landlock(supervised("tcp:192.0.2.7:1")) if op.code is OpCode.PORT_RULE] == []
    shown = {op.data for op in landlock(supervised("tcp:192.0.2.7:1"))} - {op.data for op in landlock(PROFILE)}
    assert shown == {b"/etc/hosts", b"/etc/resolv.conf"}


def test_landlock_holds_the_ports_of_the_hosts_network() -> None:
    policy = NetworkPolicy(
        NetworkMode.HOST, (parse_peer("tcp:*:443"), parse_peer("tcp:*:80-81")), (parse_bind("tcp:443"),)
    )
    profile = replace(PROFILE, network=policy)
    rules = {op.b: op.a for op in landlock(profile) if op.code is OpCode.PORT_RULE}
    assert rules == {80: NetRight.CONNECT_TCP, 81: NetRight.CONNECT_TCP, 443: NetRight.CONNECT_TCP | NetRight.BIND_TCP}
    only_connects = replace(profile, network=replace(policy, bind=()))
    assert walls.wanted_ruleset(only_connects).net == NetRight.CONNECT_TCP
    assert walls.wanted_ruleset(replace(PROFILE, network=NetworkPolicy(NetworkMode.HOST))).net == NetRight(0)
    many = replace(policy, allow=(parse_peer(f"tcp:*:1-{MAX_PORT_RULES}"),))
    assert walls.wanted_ruleset(replace(profile, network=many))
    with pytest.raises(UsageError, match=r"network\.allow: they are 1025 ports, each a rule of Landlock's"):
        walls.wanted_ruleset(replace(profile, network=replace(many, bind=(parse_bind("tcp:1025"),))))


def test_landlock_lets_descriptors_be_opened_anew_before_it_is_enforced() -> None:
    file, secret = FileGrant(name="a", file="/a", number=9), SecretGrant(name="s", secret="/s")
    ops = landlock(PROFILE, file, secret)
    assert [op.c for op in ops if op.flags == 2] == [0, 1, 2, 9]
    assert ops[-1].code is OpCode.RESTRICT
    assert not any(op.flags == 2 for op in landlock(HOST, file)), "files are not governed there"


def test_landlock_leaves_files_to_the_view_where_the_profile_says_so() -> None:
    alone = replace(PROFILE, landlock=LandlockPolicy(files=False))
    assert walls.governs_files(PROFILE)
    assert not walls.governs_files(alone)
    assert not any(op.code is OpCode.PATH_RULE for op in landlock(alone))
    assert walls.wanted_ruleset(alone).scopes == walls.wanted_ruleset(PROFILE).scopes
    with pytest.raises(ProfileError, match=r"landlock\.files"):
        check(replace(HOST, filesystem=replace(HOST.filesystem, read=("/usr",)), landlock=LandlockPolicy(files=False)))
    check(replace(HOST, filesystem=replace(HOST.filesystem, read=("/usr",))))


def test_writable_proc_is_for_all_but_root() -> None:
    writable = replace(PROFILE, filesystem=replace(PROFILE.filesystem, proc=Proc.WRITABLE))
    proc = [op for op in walls.wall_ops(writable, CALLER) if op.data == b"/proc"]
    assert [(op.a, op.flags) for op in proc] == [(MountKind.PROC, MountFlag.WRITE)]
    with pytest.raises(UsageError, match=r"/proc/sys"):
        list(walls.wall_ops(writable, replace(CALLER, uid=0)))
    other = replace(writable, process=replace(writable.process, user="u"))
    assert list(walls.wall_ops(other, replace(CALLER, uid=0, identity=(1000, 1000))))


def test_landlock_that_the_kernel_lacks_is_an_error_unless_optional() -> None:
    with pytest.raises(UnsupportedError, match="landlock"):
        landlock(PROFILE, abi=0)
    with pytest.raises(UnsupportedError, match="ioctl_dev"):
        landlock(PROFILE, abi=4)
    assert landlock(replace(PROFILE, landlock=LandlockPolicy(("landlock",))), abi=0) == []
    assert landlock(replace(PROFILE, landlock=LandlockPolicy(("landlock",))), abi=4)


def test_working_directory_lies_in_the_view() -> None:
    assert walls.working_directory(PROFILE, CALLER) == "/src"
    assert walls.working_directory(process(chdir="/"), CALLER) == "/"
    with pytest.raises(LaunchError, match="chdir: /elsewhere: it is not in the view; show it: --read /elsewhere"):
        walls.working_directory(PROFILE, replace(CALLER, cwd="/elsewhere"))
    with pytest.raises(UsageError, match="the working directory is gone"):
        walls.working_directory(PROFILE, replace(CALLER, cwd=""))
    assert walls.working_directory(HOST, CALLER) is None


def test_working_directory_that_an_empty_folder_covers_is_an_error_in_the_hosts_tree_too() -> None:
    def start_in(folder: str, *, named: bool, **lists: tuple[str, ...]) -> str | None:
        profile = replace(HOST, filesystem=FilesystemPolicy(View.HOST, **lists))  # type: ignore[arg-type]
        profile = replace(profile, process=ProcessPolicy(chdir=folder if named else None))
        return walls.working_directory(profile, replace(CALLER, cwd="/" if named else folder))

    shown = "show it: --read /t/x; or start elsewhere: --chdir /"
    for lists, reason in (
        ({"tmpfs": ("/t",)}, f"tmpfs /t covers it; {shown}"),
        ({"hide": ("/t",)}, f"hide /t hides it; {shown}"),
        ({"hide": ("/t/x",)}, f"hide /t/x hides it; {shown}"),
        ({"read": ("/t/x",), "tmpfs": ("/t", "/t/x")}, None),
        ({"read": ("/t/x",), "tmpfs": ("/t",)}, None),
        ({"tmpfs": ("/t/x",)}, None),
        ({"private": ("/t",)}, None),
        ({"tmpfs": ("/tea",)}, None),
    ):
        if reason is None:
            assert start_in("/t/x", named=False, **lists) is None
            assert start_in("/t/x", named=True, **lists) == "/t/x"
            continue
        for named in (False, True):
            with pytest.raises(LaunchError) as caught:
                start_in("/t/x", named=named, **lists)
            assert str(caught.value) == f"chdir: /t/x: {reason}"
    assert walls.working_directory(process(HOST, chdir="/x"), CALLER) == "/x"


def test_values_of_the_process_policy_are_the_callers_by_default() -> None:
    policy = ProcessPolicy()
    assert (policy.nice, policy.scheduling, policy.cpus, policy.oom_score_adj, policy.user) == (None,) * 5
