"""A declared view -> ops of the launcher, and the words that describe it."""

from __future__ import annotations

import pytest
from hypothesis import given

from sandbox import ops, wire
from sandbox.filesystem import FilesystemPolicy, Kind, Proc, Rights, View, entries, normal
from sandbox.mounts import describe, view_ops
from sandbox.plan import MountFlag, MountKind, Namespace, Op, OpCode
from tests.support.plans import plan_for
from tests.unit.test_filesystem import POLICIES

W, X, OPTIONAL = MountFlag.WRITE, MountFlag.EXECUTE, MountFlag.OPTIONAL
NONE = MountFlag(0)
DEV = ops.mount(MountKind.DEV, "/dev")
SHM = ops.mount(MountKind.TMPFS, "/dev/shm", W, mode=0o1777)
PROC = ops.mount(MountKind.PROC, "/proc")


def mounts(policy: FilesystemPolicy, *, terminals: bool = False) -> list[Op]:
    """Return the MOUNT ops of a view."""
    return [op for op in view_ops(policy, terminals=terminals) if op.code is OpCode.MOUNT]


def test_view_of_nothing_has_devices_and_processes() -> None:
    assert list(view_ops(FilesystemPolicy(), terminals=False)) == [ops.root(), DEV, SHM, PROC, ops.enter()]


def test_view_with_terminals_and_only_processes() -> None:
    assert mounts(FilesystemPolicy(proc=Proc.PROCESSES), terminals=True) == [
        ops.mount(MountKind.DEV, "/dev", MountFlag.TERMINALS),
        SHM,
        ops.mount(MountKind.PROC, "/proc", MountFlag.PROCESSES),
    ]


def test_view_entries_become_mounts_in_the_order_of_their_paths() -> None:
    policy = FilesystemPolicy(
        read=("/usr", "-/opt"), write=("/w",), execute=("/usr/bin",), tmpfs=("/tmp", "/t"), private=("/zz",),
        hide=("/usr/secret",),
    )  # fmt: skip
    assert mounts(policy) == [
        DEV,
        SHM,
        ops.mount(MountKind.BIND, "/opt", OPTIONAL),
        PROC,
        ops.mount(MountKind.TMPFS, "/t", W, mode=0o755),
        ops.mount(MountKind.TMPFS, "/tmp", W, mode=0o1777),
        ops.mount(MountKind.BIND, "/usr"),
        ops.mount(MountKind.BIND, "/usr/bin", X),
        ops.mount(MountKind.HIDE, "/usr/secret"),
        ops.mount(MountKind.BIND, "/w", W),
        ops.mount(MountKind.COPY, "/zz", W),
    ]


@pytest.mark.parametrize("path", ["/tmp", "/var/tmp", "/dev/shm", "/run/lock"])
def test_view_shared_folder_has_the_sticky_bit(path: str) -> None:
    (op,) = [op for op in mounts(FilesystemPolicy(tmpfs=(path, "/own"))) if op.label == path]
    assert op.b == 0o1777
    (own,) = [op for op in mounts(FilesystemPolicy(tmpfs=(path, "/own"))) if op.label == "/own"]
    assert own.b == 0o755


def test_view_what_is_declared_of_devices_replaces_what_is_given() -> None:
    assert mounts(FilesystemPolicy(write=("/dev/shm", "/dev/kvm"))) == [
        DEV, ops.mount(MountKind.BIND, "/dev/kvm", W), ops.mount(MountKind.BIND, "/dev/shm", W), PROC,
    ]  # fmt: skip
    assert mounts(FilesystemPolicy(hide=("/proc",), tmpfs=("/dev",))) == [
        ops.mount(MountKind.TMPFS, "/dev", W, mode=0o755), SHM, ops.mount(MountKind.HIDE, "/proc"),
    ]  # fmt: skip


def test_view_bind_of_proc_or_dev_is_never_the_hosts() -> None:
    assert mounts(FilesystemPolicy(write=("/proc", "/dev"))) == [DEV, SHM, PROC]
    root = ops.mount(MountKind.BIND, "/")
    assert mounts(FilesystemPolicy(read=("/",))) == [root, DEV, SHM, PROC]


def test_view_of_the_host_binds_what_is_declared_below_what_it_replaces() -> None:
    policy = FilesystemPolicy(
        View.HOST, read=("/t/r", "/t/h/r"), write=("/c/w", "/tea"), execute=("-/t/x/y",),
        tmpfs=("/t",), private=("/c",), hide=("/t/h",),
    )  # fmt: skip
    assert list(view_ops(policy, terminals=True)) == [
        ops.mount(MountKind.COPY, "/c", W),
        ops.mount(MountKind.BIND, "/c/w", W),
        PROC,
        ops.mount(MountKind.TMPFS, "/t", W, mode=0o755),
        ops.mount(MountKind.HIDE, "/t/h"),
        ops.mount(MountKind.BIND, "/t/r"),
        ops.mount(MountKind.BIND, "/t/x/y", X | OPTIONAL),
    ]


def test_view_of_the_host_has_no_root_and_no_binds() -> None:
    policy = FilesystemPolicy(View.HOST, read=("/usr",), write=("/w",), tmpfs=("/t",), private=("/c",), hide=("/h",))
    assert list(view_ops(policy, terminals=True)) == [
        ops.mount(MountKind.COPY, "/c", W),
        ops.mount(MountKind.HIDE, "/h"),
        PROC,
        ops.mount(MountKind.TMPFS, "/t", W, mode=0o755),
    ]


def lies_in_a_new_folder(policy: FilesystemPolicy, path: str) -> bool:
    """Tell by the text of the lists: of those but the shown ones, the longest that it lies in is tmpfs or private."""
    lists = {"tmpfs": policy.tmpfs, "private": policy.private, "hide": policy.hide}
    found = [
        (len(folder), name == "hide") for name, texts in lists.items() for folder in map(normal_of, texts)
        if path != folder and f"{path}/".startswith(folder.rstrip("/") + "/")
    ]  # fmt: skip
    return bool(found) and not max(found)[1]


def normal_of(text: str) -> str:
    return normal(text.removeprefix("-"))


@given(POLICIES)
def test_view_property_ops_are_a_plan_and_say_what_the_entries_do(policy: FilesystemPolicy) -> None:
    made = list(view_ops(policy, terminals=False))
    whole = plan_for(["prog"], walls=[ops.namespace(Namespace.MOUNT), *made])
    assert wire.decode(wire.encode(whole)) == whole
    paths = [op.data for op in made if op.code is OpCode.MOUNT]
    assert len(paths) == len(set(paths))
    assert paths == sorted(paths, key=lambda path: path.split(b"/"))
    flags = {op.label: MountFlag(op.flags) for op in made}
    for entry in entries(policy):
        if entry.kind is Kind.BIND and policy.view is View.HOST:
            assert (entry.path in flags) == lies_in_a_new_folder(policy, entry.path)
        else:
            assert (W in flags[entry.path]) == (Rights.WRITE in entry.rights)
            assert (X in flags[entry.path]) == (Rights.EXECUTE in entry.rights)
            assert (OPTIONAL in flags[entry.path]) == entry.optional


def test_describe_says_each_path_and_what_is_special() -> None:
    policy = FilesystemPolicy(
        read=("/r", "-/o"), write=("/w",), execute=("/x",), tmpfs=("/t",), private=("/c",), hide=("/h", "-/i")
    )
    *lines, devices, rest = describe(policy)
    assert lines == [
        "/c: read, write, changes are gone at the end",
        "/h: hidden",
        "/i: hidden, where it is there",
        "/o: read, where it is there",
        "/r: read",
        "/t: read, write, empty at first, gone at the end",
        "/w: read, write",
        "/x: read, execute",
    ]
    assert devices.startswith("/dev: null, ")
    assert rest == "nothing else is there: no other path of the host can be named"


def test_describe_of_the_host_promises_nothing_about_other_paths() -> None:
    assert list(describe(FilesystemPolicy(View.HOST, hide=("/h",)))) == [
        "/h: hidden",
        "the host's tree; /proc: the sandbox's processes",
    ]
