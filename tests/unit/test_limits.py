"""Limits: their text, the ops that hold them, the words for people; where a delegated cgroup is looked for."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import cgroups, limits, ops, plan, wire
from sandbox.errors import UnsupportedError, UsageError
from sandbox.limits import Delegated, Limits
from sandbox.plan import Op, OpCode
from sandbox.sizes import format_size, parse_size
from tests.support.plans import plan_for

ALL = Limits(
    memory=1 << 29,
    processes=50,
    cpu=1.5,
    cpu_time=60,
    open_files=256,
    file_size=1 << 20,
    core_size=0,
    timeout=30_000,
    output=1 << 20,
)
EVERYTHING = Delegated("/sys/fs/cgroup/mine", frozenset({"memory", "pids", "cpu"}))


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("4096", 4096), ("1K", 1024), ("512M", 512 << 20), ("3G", 3 << 30), ("1T", 1 << 40)]
)
def test_size_is_a_whole_number_with_a_power_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "1.5G", "-1", "+1", "1k", "1MB", "1 M", "0x10", "1M\n", "\u0661M", "9" * 19])
def test_size_refuses_other_text_and_names_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert caught.value.object == repr(text)
    assert "512M" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("250ms", 250), ("30s", 30_000), ("30", 30_000), ("1.5s", 1500), ("0.001", 1), ("5m", 300_000),
     ("1.5h", 5_400_000), ("2d", 172_800_000), ("0s", 0)],
)  # fmt: skip
def test_duration_has_a_unit_or_means_seconds(text: str, milliseconds: int) -> None:
    assert limits.parse_duration(text) == milliseconds


@pytest.mark.parametrize(
    "text", ["", "s", "1.", ".5s", "-1s", "1 s", "1S", "5min", "0.5ms", "1.2345s", "1e3", "1s\n", "nan"]
)
def test_duration_refuses_other_text_and_names_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        limits.parse_duration(text)
    assert caught.value.object == repr(text)


@given(st.integers(0, 1 << 59))
def test_size_text_means_the_same_size(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 1 << 39))
def test_duration_text_means_the_same_time(milliseconds: int) -> None:
    assert limits.parse_duration(limits.format_duration(milliseconds)) == milliseconds


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [("memory", "1G", 1 << 30), ("memory", 4096, 4096), ("processes", 10, 10), ("processes", "10", 10), ("cpu", 2, 2.0),
     ("cpu", 0.5, 0.5), ("cpu", "0.25", 0.25), ("cpu_time", "2m", 120), ("cpu_time", 3, 3), ("open_files", "64", 64),
     ("open_files", 1 << 20, 1 << 20), ("processes", 4_000_000, 4_000_000),
     ("file_size", "0", 0), ("core_size", 0, 0), ("timeout", "250ms", 250), ("timeout", 2, 2000),
     ("timeout", 0.5, 500)],
)  # fmt: skip
def test_parse_and_format_are_each_others_reverse(name: str, value: str | float, parsed: float) -> None:
    found = limits.parse(name, value)
    assert found == parsed
    assert type(found) is type(parsed)
    assert limits.parse(name, limits.format(name, found)) == found


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [("colour", "1", "colour"), ("memory", 1.5, "memory"), ("memory", True, "memory"), ("memory", "4095", "memory"),
     ("processes", "0", "processes"), ("processes", "1.5", "'1.5'"), ("processes", "-1", "'-1'"), ("cpu", "0", "cpu"),
     ("cpu", "many", "'many'"), ("cpu", "1/2", "'1/2'"), ("cpu_time", "1500ms", "'1500ms'"),
     ("cpu_time", 0, "cpu_time"), ("open_files", 15, "open_files"), ("timeout", "0s", "timeout"),
     ("timeout", "50d", "timeout"),
     ("timeout", float("nan"), "'nan'"), ("cpu", float("inf"), "'inf'")],
)  # fmt: skip
def test_parse_refuses_and_names_what_is_wrong(name: str, value: str | float, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        limits.parse(name, value)
    assert caught.value.object == named


@pytest.mark.parametrize("changes", [{"memory": -1}, {"cpu": float("nan")}, {"timeout": 1 << 32}, {"processes": 0}])
def test_values_out_of_range_become_no_ops(changes: dict[str, float]) -> None:
    wrong = replace(Limits(), **changes)  # type: ignore[arg-type]
    with pytest.raises(UsageError) as caught:
        list(limits.limit_ops(wrong, EVERYTHING, uid=1000))
    assert caught.value.object in changes


def test_no_limits_are_no_ops() -> None:
    assert list(limits.limit_ops(Limits(), EVERYTHING, uid=0)) == []
    assert limits.describe(Limits(), EVERYTHING) == ()


def test_ops_with_a_cgroup() -> None:
    assert list(limits.limit_ops(ALL, EVERYTHING, uid=0)) == [
        ops.timeout(30_000),
        ops.cgroup("/sys/fs/cgroup/mine"),
        ops.cgroup_set("memory.max", str(1 << 29)),
        ops.cgroup_set("memory.swap.max", "0"),
        ops.cgroup_set("memory.oom.group", "1"),
        ops.cgroup_set("pids.max", "51"),
        ops.cgroup_set("cpu.max", "150000 100000"),
        ops.rlimit(0, 60),
        ops.rlimit(1, 1 << 20),
        ops.rlimit(4, 1),
        ops.rlimit(7, 256),
    ]


def test_ops_without_a_cgroup() -> None:
    assert list(limits.limit_ops(replace(ALL, cpu=None), None, uid=1000)) == [
        ops.timeout(30_000),
        ops.rlimit(0, 60),
        ops.rlimit(1, 1 << 20),
        ops.rlimit(4, 1),
        ops.rlimit(6, 51),
        ops.rlimit(7, 256),
        ops.rlimit(9, 1 << 29),
    ]


def test_ops_choose_for_each_limit_by_itself() -> None:
    some = Limits(memory=1 << 29, processes=50)
    found = list(limits.limit_ops(some, Delegated("/mine", frozenset({"pids"})), uid=1000))
    assert found == [ops.cgroup("/mine"), ops.cgroup_set("pids.max", "51"), ops.rlimit(9, 1 << 29)]
    found = list(limits.limit_ops(some, Delegated("/mine", frozenset({"memory"}), swap=False), uid=1000))
    assert "memory.swap.max 0" not in [op.label for op in found]
    assert found[-1] == ops.rlimit(6, 51)
    # A cgroup that would hold none of them is not made.
    assert [op.code for op in limits.limit_ops(Limits(open_files=64), EVERYTHING, uid=0)] == [OpCode.RLIMIT]


def test_core_size_other_than_nothing_is_taken_as_it_is() -> None:
    assert list(limits.limit_ops(Limits(core_size=1 << 20), uid=1000)) == [ops.rlimit(4, 1 << 20)]


@pytest.mark.parametrize(
    ("wanted", "uid", "user_namespace", "feature", "why"),
    [
        (Limits(cpu=0.5), 1000, True, "limits.cpu", "no resource limit shares processors out"),
        (Limits(processes=5), 0, True, "limits.processes", "RLIMIT_NPROC does not hold for root"),
        (Limits(processes=5), 1000, False, "limits.processes", "RLIMIT_NPROC counts all of the user's"),
    ],
)
def test_a_limit_that_nothing_holds_is_an_error(
    wanted: Limits, uid: int, user_namespace: bool, feature: str, why: str
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        list(limits.limit_ops(wanted, None, uid=uid, user_namespace=user_namespace))
    assert caught.value.feature == feature
    assert why in caught.value.reason
    assert "Delegate=yes" in caught.value.hint
    assert list(limits.limit_ops(wanted, EVERYTHING, uid=uid, user_namespace=user_namespace))


def test_ops_fit_into_a_plan() -> None:
    for delegated in (None, EVERYTHING):
        found: list[Op] = list(limits.limit_ops(replace(ALL, cpu=None), delegated, uid=1000))
        assert [op.code for op in found] == sorted(op.code for op in found)
        whole = plan_for(["prog"], attributes=found)
        assert wire.decode(wire.encode(whole)) == whole


def test_describe_names_the_mechanism_of_each() -> None:
    by_cgroup = {held.name: held for held in limits.describe(ALL, EVERYTHING)}
    by_rlimit = {held.name: held for held in limits.describe(ALL, None)}
    assert tuple(by_cgroup) == tuple(by_rlimit) == limits.NAMES
    assert by_cgroup["memory"].value == "512M"
    assert by_cgroup["timeout"].value == "30s"
    for name, held in by_cgroup.items():
        assert held.how.startswith("cgroup ") is (name in limits.CONTROLLERS)
        assert not by_rlimit[name].how.startswith("cgroup ")
    # The words and the ops agree.
    files = [
        op.data.split(b"\0")[0].decode()
        for op in limits.limit_ops(ALL, EVERYTHING, uid=0)
        if op.code is OpCode.CGROUP_SET
    ]
    for name in limits.CONTROLLERS:
        assert by_cgroup[name].how.split()[1].rstrip(":") in files
    for op in limits.limit_ops(replace(ALL, cpu=None), None, uid=1000):
        if op.code is OpCode.RLIMIT:
            word = f"RLIMIT_{plan.RLIMIT_NAMES[op.a].upper()}"
            assert any(held.how.startswith(word) for held in by_rlimit.values()), word


def test_wants_cgroup_only_for_what_one_can_hold() -> None:
    assert not limits.wants_cgroup(Limits())
    assert not limits.wants_cgroup(Limits(cpu_time=1, open_files=64, file_size=1, core_size=0, timeout=1))
    assert all(limits.wants_cgroup(replace(Limits(), **{name: 4096})) for name in limits.CONTROLLERS)


class Tree:
    """A /proc and a cgroup file system made of plain files."""

    def __init__(self, folder: Path, own: str) -> None:
        self.proc, self.mount = folder / "proc", folder / "cgroup 2"
        (self.proc / "self").mkdir(parents=True)
        self.mount.mkdir()
        self.say(f"0::{own}\n")
        self.mounted("/")

    def say(self, cgroup: str) -> None:
        (self.proc / "self" / "cgroup").write_text(cgroup)

    def mounted(self, root: str) -> None:
        point = str(self.mount).replace(" ", "\\040")
        lines = ["22 1 0:20 / /proc rw - proc proc rw", f"30 1 0:26 {root} {point} rw,relatime shared:4 - cgroup2 c rw"]
        (self.proc / "self" / "mountinfo").write_text("\n".join(lines) + "\n")

    def add(self, path: str, *, enabled: str = "", procs: str = "", controllers: str = "cpu io memory pids") -> Path:
        folder = self.mount / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in [
            ("cgroup.controllers", controllers), ("cgroup.subtree_control", enabled), ("cgroup.procs", procs),
        ]:  # fmt: skip
            (folder / name).write_text(text)
        if path:
            (folder / "cgroup.type").write_text("domain\n")
        return folder

    def find(self, *, alone: bool = False) -> Delegated | None:
        return cgroups.find(alone=alone, proc=self.proc)


def test_cgroup_of_ones_own_that_passes_controllers_on(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "/unit")
    folder = tree.add("unit", enabled="memory pids io\n", procs="1\n")
    assert tree.find() == Delegated(str(folder), frozenset({"memory", "pids"}), swap=False)
    (tree.proc / "swaps").write_text("")
    assert tree.find() == Delegated(str(folder), frozenset({"memory", "pids"}), swap=True)


def test_cgroup_with_a_process_in_it_passes_nothing_on(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "/unit")
    folder = tree.add("unit", procs="1\n")
    assert tree.find(alone=True) is None
    (folder / "cgroup.procs").write_text(f"{os.getpid()}\n")
    assert tree.find(alone=False) is None
    assert tree.find(alone=True) == Delegated(str(folder), frozenset({"cpu", "memory", "pids"}), swap=False)


def test_cgroup_at_the_root_of_all_may_hold_processes(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "/")
    tree.add("", procs="1\n2\n")
    assert tree.find() == Delegated(str(tree.mount), frozenset({"cpu", "memory", "pids"}), swap=False)


def test_cgroup_above_counts_only_if_it_is_marked(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "/unit/group")
    tree.add("unit/group", procs="1\n")
    unit = tree.add("unit", enabled="pids", procs="2\n")
    assert tree.find() is None
    try:
        os.setxattr(unit, "user.delegate", b"1")
    except OSError:
        pytest.skip("kernel lacks: user.* attributes on the temporary folder's file system")
    assert tree.find() == Delegated(str(unit), frozenset({"pids"}), swap=False)


def test_cgroup_in_a_container_lies_below_the_mounts_root(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "/container/unit")
    folder = tree.add("unit", enabled="pids", procs="1\n")
    assert tree.find() is None
    tree.mounted("/container")
    assert tree.find() == Delegated(str(folder), frozenset({"pids"}), swap=False)
    tree.mounted("/container/other")
    assert tree.find() is None


def test_cgroup_that_the_user_may_not_change_is_no_use(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("needs an ordinary user: root may write everything")
    tree = Tree(tmp_path, "/unit")
    folder = tree.add("unit", enabled="pids")
    assert tree.find() is not None
    (folder / "cgroup.procs").chmod(0o444)
    assert tree.find() is None


def test_cgroup_none_without_version_2(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "/unit")
    tree.add("unit", enabled="pids")
    tree.say("4:memory:/unit\n")
    assert tree.find() is None
    assert cgroups.find(alone=True, proc=tmp_path / "missing") is None
