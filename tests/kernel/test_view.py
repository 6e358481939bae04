"""The file view against the real kernel: what is there, what may be done with it, no way out."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from sandbox import ops, wire
from sandbox.filesystem import FilesystemPolicy, Proc, View
from sandbox.grants import FdType
from sandbox.mounts import view_ops
from sandbox.plan import MountFlag, MountKind, Namespace, Op, Plan
from sandbox.probe import launcher_path
from sandbox.resolve import Additions
from tests.support.callers import TIMEOUT, Ended, launch, plan_of, run, started
from tests.support.native import memfd_holding
from tests.support.plans import plan_for
from tests.support.probes import Probes, verdicts

OWN: Final = (Namespace.MOUNT, Namespace.USER, Namespace.PID)
EACCES, EPERM, EROFS, ENOENT, EINVAL = (
    errno.errorcode[number] for number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EINVAL)
)
# A caller that may mount, whoever runs the tests; its mounts are seen by nobody else.
MOUNTER: Final = ("unshare", "--user", "--map-root-user", "--mount")
PLAIN: Final = {"nosuid", "nodev"}
SEALED: Final = PLAIN | {"ro", "noexec"}
INNER_PLAN: Final = 9


def namespaces(*which: Namespace) -> list[Op]:
    return [ops.namespace(namespace) for namespace in which or OWN]


def words(tries: Sequence[str]) -> list[str]:
    """Return the probe's arguments for tries such as `read /some/file`; no path holds a space."""
    return [word for one in tries for word in one.split(" ")]


@dataclass(frozen=True, slots=True)
class Looker:
    """Looks around in views; its program is in each of them, wherever it lies."""

    program: str

    def plan(
        self,
        policy: FilesystemPolicy,
        *tries: str,
        terminals: bool = False,
        walls: Sequence[Op] = (),
        confinement: Sequence[Op] = (),
    ) -> Plan:
        shown = replace(policy, execute=(*policy.execute, self.program))
        all_walls = [*namespaces(), *walls, *view_ops(shown, terminals=terminals)]
        return self.plan_with(all_walls, *tries, confinement=confinement)

    def plan_of_mounts(self, *mounts: Op, tries: Sequence[str]) -> Plan:
        """Return the plan of a view that holds these mounts, /proc and the program, with nothing put right before."""
        program = ops.mount(MountKind.BIND, self.program, MountFlag.EXECUTE)
        proc = ops.mount(MountKind.PROC, "/proc")
        return self.plan_with([*namespaces(), ops.root(), *mounts, proc, program, ops.enter()], *tries)

    def plan_with(self, walls: Sequence[Op], *tries: str, confinement: Sequence[Op] = ()) -> Plan:
        return plan_for([self.program, *words(tries)], walls=walls, confinement=confinement)

    def look(
        self,
        policy: FilesystemPolicy,
        *tries: str,
        terminals: bool = False,
        **options: Any,  # noqa: ANN401 - launch()'s
    ) -> dict[str, str]:
        """Return what each try found: the text, the name of the errno, or `ok`."""
        return outcomes(launch(self.plan(policy, *tries, terminals=terminals), **options), tries)

    def outside(self, *tries: str, before: Sequence[str] = ()) -> dict[str, str]:
        """Return what the same finds without a launcher."""
        return outcomes(run([*before, self.program, *words(tries)]), tries)


def outcomes(ended: Ended, tries: Sequence[str]) -> dict[str, str]:
    assert (ended.code, ended.err) == (0, ""), ended
    found: list[str] = []
    text: list[str] = []
    for line in ended.out.splitlines():
        if line.startswith("| "):
            text.append(line[2:])
        else:
            (verdict,) = verdicts(line).values()
            found.append(errno.errorcode[verdict.errno] if verdict.result else "\n".join(text) or "ok")
            text = []
    return dict(zip(tries, found, strict=True))


@pytest.fixture
def looker(probes: Probes) -> Looker:
    return Looker(probes["view"])


@pytest.fixture
def place(tmp_path: Path, looker: Looker) -> Path:
    """Return a folder with three alike: a, b and c."""
    for name in "abc":
        folder(tmp_path / name, looker)
    return tmp_path


def folder(path: Path, looker: Looker) -> None:
    (path / "sub").mkdir(parents=True)
    (path / "file").write_text(path.name)
    (path / "old").write_text("old")
    (path / "sub" / "deep").write_text(f"{path.name} deep")
    shutil.copy(looker.program, path / "program")


def contents(path: Path) -> dict[str, str]:
    """Return the texts of a folder's files, by name."""
    return {each.name: each.read_text() for each in path.iterdir() if each.is_file() and each.name != "program"}


def refused(looker: Looker, policy: FilesystemPolicy, path: Path | str, reason: str) -> None:
    """Assert that nothing is executed, and that the message names the entry."""
    ended = launch(looker.plan(policy, "user -"))
    assert (ended.code, ended.out) == (125, "")
    assert ended.err.startswith(f"sandbox: view: {path}: {reason}"), ended.err


# ---- what each list gives ----


def test_read_shows_and_refuses_every_change_write_allows_it(looker: Looker, place: Path) -> None:
    a, b = place / "a", place / "b"
    changes = [
        "write {}/file",
        "create {}/new",
        "mkdir {}/folder",
        "remove {}/old",
        "mode {}/file",
        "write {}/sub/deep",
    ]
    policy = FilesystemPolicy(read=(str(a),), write=(str(b),))
    found = looker.look(policy, *(change.format(each) for each in (a, b) for change in changes), f"read {a}/sub/deep")
    assert found == {
        **{change.format(a): EROFS for change in changes},
        **{change.format(b): "ok" for change in changes},
        f"read {a}/sub/deep": "a deep",
    }
    assert contents(a) == {"file": "a", "old": "old"}
    assert contents(b) == {"file": "b", "new": ""}


def test_single_files_have_rights_and_no_neighbours(looker: Looker, place: Path) -> None:
    policy = FilesystemPolicy(read=(f"{place}/a/file",), write=(f"{place}/b/file",))
    assert looker.look(
        policy, f"read {place}/a/file", f"write {place}/a/file", f"list {place}/a", f"list {place}",
        f"fill {place}/b/file", f"remove {place}/b/file", f"create {place}/b/new",
    ) == {
        f"read {place}/a/file": "a",
        f"write {place}/a/file": EROFS,
        f"list {place}/a": "file",
        f"list {place}": "a\nb",
        f"fill {place}/b/file": "ok",
        f"remove {place}/b/file": EROFS,
        f"create {place}/b/new": EROFS,
    }  # fmt: skip
    assert (place / "b" / "file").read_text() == "inside"


@pytest.mark.parametrize("files", ["", "/program"])
def test_execute_is_needed_to_execute(looker: Looker, place: Path, files: str) -> None:
    a, b, c = (f"{place}/{name}{files}" for name in "abc")
    programs = [f"execute {place}/{name}/program" for name in "abc"]
    found = looker.look(FilesystemPolicy(read=(a,), write=(b,), execute=(c,)), *programs)
    assert list(found.values()) == [EACCES, EACCES, "ok"]
    found = looker.look(FilesystemPolicy(execute=(a, b), write=(b,)), *programs[:2], f"write {place}/a/file")
    assert list(found.values()) == ["ok", "ok", ENOENT if files else EROFS]


def test_rights_below_differ_from_those_above(looker: Looker, place: Path) -> None:
    policy = FilesystemPolicy(read=(str(place),), write=(f"{place}/a/sub",), execute=(f"{place}/b",))
    assert looker.look(
        policy, f"create {place}/a/x", f"create {place}/a/sub/x",
        f"execute {place}/a/program", f"execute {place}/b/program",
    ) == {
        f"create {place}/a/x": EROFS,
        f"create {place}/a/sub/x": "ok",
        f"execute {place}/a/program": EACCES,
        f"execute {place}/b/program": "ok",
    }  # fmt: skip


def test_tmpfs_is_empty_writable_and_gone_at_the_end(looker: Looker, place: Path) -> None:
    a, new = place / "a", place / "new"
    policy = FilesystemPolicy(tmpfs=(str(a), str(new), "/var/tmp"))
    for _ in range(2):
        assert looker.look(
            policy, f"list {a}", f"fill {a}/x", f"read {a}/x", f"mkdir {new}/y", f"list {new}", f"stat {a}",
            "stat /var/tmp",
        ) == {
            f"list {a}": "ok",
            f"fill {a}/x": "ok",
            f"read {a}/x": "inside",
            f"mkdir {new}/y": "ok",
            f"list {new}": "y",
            f"stat {a}": "40755",
            "stat /var/tmp": "41777",
        }  # fmt: skip
    assert contents(a) == {"file": "a", "old": "old"}
    assert not new.exists()


def test_tmpfs_has_a_size(looker: Looker, tmp_path: Path) -> None:
    tries = [f"fill {tmp_path}/x", f"fill {tmp_path}/y"]
    for kib, found in ((4, "ENOSPC"), (8, "ok")):
        small = ops.mount(MountKind.TMPFS, str(tmp_path), MountFlag.WRITE, mode=0o700, size=kib)
        assert list(outcomes(launch(looker.plan_of_mounts(small, tries=tries)), tries).values()) == ["ok", found]


def test_private_changes_are_seen_inside_and_nowhere_else(looker: Looker, place: Path) -> None:
    a, b, file = place / "a", place / "b", place / "c" / "file"
    tries = [
        "read {}/file",
        "fill {}/file",
        "read {}/file",
        "create {}/new",
        "remove {}/old",
        "mode {}/file",
        "list {}",
    ]
    policy = FilesystemPolicy(private=(str(a), str(file)), write=(str(b),))
    plan = looker.plan(policy, *(one.format(each) for each in (a, b) for one in tries), f"read {file}", f"fill {file}")
    assert launch(plan).out.count("inside") == 2
    found = looker.look(policy, f"list {a}", f"read {a}/file", f"list {b}", f"read {b}/file", f"read {file}")
    assert found == {
        f"list {a}": "file\nold\nprogram\nsub",
        f"read {a}/file": "a",
        f"list {b}": "file\nnew\nprogram\nsub",
        f"read {b}/file": "inside",
        f"read {file}": "c",
    }
    assert contents(a) == {"file": "a", "old": "old"}
    assert contents(b) == {"file": "inside", "new": ""}
    assert file.read_text() == "c"


def test_private_file_can_be_filled_and_keeps_its_mode(looker: Looker, place: Path) -> None:
    (place / "a" / "file").chmod(0o640)
    for name in ("file", "program"):
        path = f"{place}/a/{name}"
        assert looker.look(FilesystemPolicy(private=(path,)), f"stat {path}", f"fill {path}", f"read {path}") == {
            f"stat {path}": f"{(place / 'a' / name).stat().st_mode:o}",
            f"fill {path}": "ok",
            f"read {path}": "inside",
        }
    assert (place / "a" / "file").read_text() == "a"


def test_private_is_executable_where_what_it_copies_is(looker: Looker, place: Path) -> None:
    programs = [f"execute {place}/{name}/program" for name in "abc"]
    private = (f"{place}/a", f"{place}/b", f"{place}/c/program")
    found = looker.look(FilesystemPolicy(private=private, execute=(f"{place}/b", f"{place}/c")), *programs)
    assert list(found.values()) == [EACCES, "ok", "ok"]


def test_private_refuses_what_it_cannot_copy(looker: Looker, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    refused(looker, FilesystemPolicy(private=(f"{tmp_path}/fifo",)), tmp_path / "fifo", "the descriptor is of another")


def test_hide_leaves_nothing_to_read_or_to_list(looker: Looker, place: Path) -> None:
    a, b, c = f"{place}/a", f"{place}/b", f"{place}/c"
    tries = [f"list {a}/sub", f"read {a}/sub/deep", f"open {b}/file", f"mode {b}/file", f"list {c}", f"write {c}/file"]
    show = FilesystemPolicy(write=(str(place),))
    assert list(looker.look(show, *tries).values())[1:3] == ["a deep", "ok"]
    found = looker.look(replace(show, hide=(f"{a}/sub", f"{b}/file", c)), *tries, f"read {a}/file", f"list {place}")
    assert list(found.values()) == [EACCES, EACCES, EACCES, EROFS, EACCES, EACCES, "a", "a\nb\nc"]


def test_hide_wins_over_every_other_list(looker: Looker, place: Path) -> None:
    a, b, c = (f"{place}/{name}" for name in "abc")
    policy = FilesystemPolicy(write=(a,), tmpfs=(b,), private=(c,))
    tries = [f"list {path}" for path in (a, b, c)]
    assert EACCES not in looker.look(policy, *tries).values()
    assert set(looker.look(replace(policy, hide=(a, b, c)), *tries).values()) == {ENOENT}
    above = FilesystemPolicy(write=(a, str(place)), tmpfs=(b,), private=(c,), hide=(a, b, c))
    assert set(looker.look(above, *tries).values()) == {EACCES}


def test_hide_of_what_no_entry_shows_is_no_error(looker: Looker, place: Path) -> None:
    assert looker.look(FilesystemPolicy(hide=(f"{place}/a",)), f"list {place}") == {f"list {place}": ENOENT}


# ---- what is not there, and links ----


@pytest.mark.parametrize("name", ["read", "write", "execute", "private", "hide"])
def test_missing_path_is_an_error_that_names_it_or_is_skipped(looker: Looker, place: Path, name: str) -> None:
    for missing in (f"{place}/missing", f"{place}/a/file/below"):
        strict = FilesystemPolicy(**{name: (missing,)})  # type: ignore[arg-type]
        refused(looker, strict, missing, "No such" if missing.endswith("missing") else "Not a directory")
        lax = FilesystemPolicy(**{name: (f"-{missing}",)}, tmpfs=("/t",))  # type: ignore[arg-type]
        assert looker.look(lax, f"open {missing}", "create /t/x") == {f"open {missing}": ENOENT, "create /t/x": "ok"}


def test_optional_path_that_is_there_is_shown(looker: Looker, place: Path) -> None:
    a, b, c = (f"{place}/{name}" for name in "abc")
    policy = FilesystemPolicy(read=(f"-{a}", f"-{place}/x"), tmpfs=(f"-{b}", f"-{place}/y"), hide=(f"-{a}/sub",))
    found = looker.look(policy, f"list {place}", f"create {b}/x", f"list {a}/sub", f"list {c}")
    assert list(found.values()) == ["a\nb", "ok", EACCES, ENOENT]


def test_links_lead_to_what_they_lead_to_outside(looker: Looker, place: Path) -> None:
    (place / "folder").symlink_to("a")
    (place / "usr").mkdir()
    (place / "usr" / "bin").symlink_to(place / "b")
    (place / "bin").symlink_to("usr/bin")
    (place / "deep").symlink_to(f"{place}/folder/sub/deep")
    policy = FilesystemPolicy(
        read=(f"{place}/folder", f"{place}/deep"), write=(f"{place}/bin",), tmpfs=(f"{place}/bin/t",)
    )
    (place / "b" / "t").mkdir()
    assert looker.look(
        policy, f"list {place}", f"read {place}/folder/file", f"read {place}/a/file", f"write {place}/folder/file",
        f"read {place}/deep", f"create {place}/bin/new", f"link {place}/bin",
        f"list {place}/bin/t", f"fill {place}/bin/t/x",
    ) == {
        f"list {place}": "a\nb\nbin\ndeep\nfolder",
        f"read {place}/folder/file": "a",
        f"read {place}/a/file": "a",
        f"write {place}/folder/file": EROFS,
        f"read {place}/deep": "a deep",
        f"create {place}/bin/new": "ok",
        f"link {place}/bin": f"{place}/b",
        f"list {place}/bin/t": "ok",
        f"fill {place}/bin/t/x": "ok",
    }  # fmt: skip
    assert (place / "b" / "new").exists()
    assert list((place / "b" / "t").iterdir()) == []


def test_link_and_an_entry_below_it_are_both_there(looker: Looker, place: Path) -> None:
    """The real path of the lower one comes first: it must not be taken for a folder that has to be made."""
    (place / "link").symlink_to("c")
    (place / "c" / "other").symlink_to(place / "a" / "file")
    policy = FilesystemPolicy(read=(f"{place}/link", f"{place}/link/other"))
    assert looker.look(policy, f"read {place}/link/other", f"read {place}/link/file", f"link {place}/link") == {
        f"read {place}/link/other": "a",
        f"read {place}/link/file": "c",
        f"link {place}/link": f"{place}/c",
    }


def test_links_in_a_shown_folder_lead_to_nothing_that_is_not_shown(looker: Looker, place: Path) -> None:
    for name, target in {"abs": f"{place}/b/file", "rel": "../b/file", "up": "../../../../../../../../.."}.items():
        (place / "a" / name).symlink_to(target)
    tries = [f"open {place}/a/abs", f"open {place}/a/rel", f"list {place}/a/up/{place}"]
    only_a = FilesystemPolicy(read=(f"{place}/a",))
    assert list(looker.look(only_a, *tries).values()) == [ENOENT, ENOENT, "a"]
    both = looker.look(replace(only_a, read=(f"{place}/a", f"{place}/b")), *tries)
    assert list(both.values()) == ["ok", "ok", "a\nb"]


def test_dangling_link_is_missing(looker: Looker, place: Path) -> None:
    (place / "dangling").symlink_to("nothing")
    refused(looker, FilesystemPolicy(read=(f"{place}/dangling",)), place / "dangling", "No such file")
    found = looker.look(FilesystemPolicy(read=(f"-{place}/dangling", f"{place}/a")), f"list {place}")
    assert found == {f"list {place}": "a"}


def test_hide_through_a_link_hides_what_it_leads_to(looker: Looker, place: Path) -> None:
    (place / "link").symlink_to("a/file")
    tries = [f"open {place}/a/file", f"open {place}/link", f"open {place}/b/file"]
    policy = FilesystemPolicy(read=(str(place),))
    assert list(looker.look(policy, *tries).values()) == ["ok", "ok", "ok"]
    assert list(looker.look(replace(policy, hide=(f"{place}/link",)), *tries).values()) == [EACCES, EACCES, "ok"]


def test_link_swapped_later_changes_nothing(looker: Looker, place: Path) -> None:
    link, fifo = place / "link", place / "fifo"
    link.symlink_to("a")
    os.mkfifo(fifo)
    tries = [f"read {fifo}", f"read {link}/file"]
    policy = FilesystemPolicy(read=(str(link), str(fifo)))
    with started(looker.plan(policy, *tries), stdout=subprocess.PIPE) as process:
        with fifo.open("w") as file:  # waits until the child reads
            link.unlink()
            link.symlink_to("b")
            file.write("swapped\n")
        out, _ = process.communicate(timeout=TIMEOUT)
    assert outcomes(Ended(process.returncode, out, ""), tries) == {tries[0]: "swapped", tries[1]: "a"}
    assert looker.look(policy, tries[1]) == {tries[1]: "b"}


@pytest.mark.parametrize("path", ["/a/../b", "/a//b", "/a/", "/./a", "/a/..", "//"])
def test_path_that_is_not_normal_is_refused(looker: Looker, path: str) -> None:
    for given, code in ((path, 125), ("/a...b/..c", 0)):
        mount = ops.mount(MountKind.TMPFS, given, MountFlag.WRITE, mode=0o700)
        ended = launch(looker.plan_of_mounts(mount, tries=["user -"]))
        assert ended.code == code
        assert ("Invalid argument" in ended.err) == (code == 125)


def test_entries_below_other_entries_find_or_get_a_mount_point(looker: Looker, place: Path) -> None:
    policy = FilesystemPolicy(
        read=(f"{place}/t/x/y", f"{place}/a/file"), tmpfs=(f"{place}/t",), private=(f"{place}/a",)
    )
    (place / "t" / "x" / "y").mkdir(parents=True)
    (place / "t" / "x" / "y" / "file").write_text("y")
    found = looker.look(policy, f"list {place}/t", f"read {place}/t/x/y/file", f"create {place}/t/x/y/new")
    assert list(found.values()) == ["x", "y", EROFS]
    found = looker.look(replace(policy, tmpfs=(f"{place}/a/new/t", f"{place}/t")), f"create {place}/a/new/t/x")
    assert list(found.values()) == ["ok"]
    assert not (place / "a" / "new").exists()


@pytest.mark.parametrize("name", ["read", "write"])
def test_mount_point_missing_on_the_host_is_an_error_and_is_not_made(looker: Looker, place: Path, name: str) -> None:
    for missing in (f"{place}/a/missing", f"{place}/a/missing/too"):
        policy = FilesystemPolicy(**{name: (f"{place}/a",)}, tmpfs=(missing,))  # type: ignore[arg-type]
        refused(looker, policy, missing, "No such file")
        found = looker.look(replace(policy, tmpfs=(f"-{missing}", f"{place}/a/sub")), f"create {place}/a/sub/x")
        assert list(found.values()) == ["ok"]
    assert not (place / "a" / "missing").exists()


# ---- no way out ----


def mounts(text: str) -> dict[str, set[str]]:
    """Parse mountinfo: the options of the topmost mount at each place, without those of access times."""
    rows = [line.split(" ") for line in text.splitlines()]
    return {row[4]: set(row[5].split(",")) - {"rw", "relatime", "noatime", "nodiratime"} for row in rows}


DEVICES: Final = {f"/dev/{name}": {"ro", "nosuid", "noexec"} for name in ("null", "zero", "full", "random", "urandom")}


def test_mounts_are_those_of_the_view_and_each_is_restricted(looker: Looker, place: Path) -> None:
    policy = FilesystemPolicy(
        read=(f"{place}/a",), write=(f"{place}/b",), execute=(f"{place}/c",), tmpfs=(f"{place}/t",),
        private=(f"{place}/a/sub", f"{place}/c/file"), hide=(f"{place}/a/file",),
    )  # fmt: skip
    (text,) = looker.look(policy, "read /proc/self/mountinfo", terminals=True).values()
    assert mounts(text) == {
        "/": SEALED,
        "/dev/shm": PLAIN | {"noexec"},
        "/dev/pts": {"nosuid", "noexec"},
        "/dev/tty": {"ro", "nosuid", "noexec"},
        **DEVICES,
        "/proc": SEALED,
        looker.program: PLAIN | {"ro"},
        f"{place}/a": SEALED,
        f"{place}/a/file": SEALED,
        f"{place}/a/sub": PLAIN | {"noexec"},
        f"{place}/b": PLAIN | {"noexec"},
        f"{place}/c": PLAIN | {"ro"},
        f"{place}/c/file": PLAIN,
        f"{place}/t": PLAIN | {"noexec"},
    }
    assert len(text.splitlines()) == len(mounts(text)), "a mount lies over another"
    assert "/sys" in mounts(Path("/proc/self/mountinfo").read_text())


def test_root_shows_the_declared_only_and_is_read_only(looker: Looker, place: Path) -> None:
    def top(path: str) -> str:
        return "/" + path.split("/")[1]

    found = looker.look(
        FilesystemPolicy(read=(f"{place}/a",), tmpfs=("/t",)), "list /", "create /x", "mkdir /y", "mode /", "mode /dev",
        "create /dev/x", f"create {place}/x", "open /etc/passwd", "list /sys", "create /t/x",
    )  # fmt: skip
    tops = {"/dev", "/proc", "/t", top(str(place)), top(looker.program)}
    assert found.pop("list /") == "\n".join(sorted(path[1:] for path in tops))
    assert list(found.values()) == [*[EROFS] * 6, ENOENT, ENOENT, "ok"]
    outside = looker.outside("open /etc/passwd", "list /sys")
    assert outside["open /etc/passwd"] == "ok"
    assert "kernel" in outside["list /sys"]


def test_dots_and_the_kernels_links_lead_nowhere_else(looker: Looker, place: Path) -> None:
    """The caller's working directory is outside, and the init's links are not for its children."""
    policy = FilesystemPolicy(read=(f"{place}/a",))
    root, *found = looker.look(
        policy, "list /", "list /..", f"list {place}/a/../../../../../../../..", "list /proc/self/root/..",
        "list /proc/self/root/proc/self/cwd/..", "list .", "list ..", "link /proc/self/cwd", "open file",
        f"list {place}",
        "list /proc/1/root", "list /proc/1/cwd", "list /proc/1/task/1/root",
        cwd=place / "b",
    ).values()  # fmt: skip
    assert found == [*[root] * 6, "/", ENOENT, "a", *[EACCES] * 3]
    assert looker.look(FilesystemPolicy(View.HOST), "open file", cwd=place / "b") == {"open file": "ok"}


def test_own_descriptors_links_do_not_lead_to_their_folders(looker: Looker, place: Path) -> None:
    with (place / "b" / "file").open() as file:
        found = looker.look(
            FilesystemPolicy(), "read /proc/self/fd/0", "read /dev/stdin", "open /proc/self/fd/0/../old", stdin=file
        )
    assert list(found.values()) == ["b", "b", "ENOTDIR"]


def test_processes_of_the_host_are_not_in_proc(looker: Looker) -> None:
    def seen(text: str) -> set[str]:
        return set(text.split("\n"))

    for policy in (FilesystemPolicy(), FilesystemPolicy(View.HOST), FilesystemPolicy(read=("/proc",))):
        names = seen(looker.look(policy, "list /proc")["list /proc"])
        assert {name for name in names if name.isdigit()} == {"1", "2"}
        assert "meminfo" in names
    names = seen(looker.look(FilesystemPolicy(proc=Proc.PROCESSES), "list /proc")["list /proc"])
    assert names == {"1", "2", "self", "thread-self"}
    assert str(os.getpid()) in seen(looker.outside("list /proc")["list /proc"])


def test_proc_is_read_only(looker: Looker) -> None:
    tries = ["read /proc/sys/kernel/ostype", "write /proc/sys/kernel/core_pattern", "write /proc/self/comm"]
    system = EACCES if os.geteuid() else EROFS  # root's files, which root without capabilities may write to
    assert list(looker.look(FilesystemPolicy(), *tries).values()) == ["Linux", system, EROFS]
    assert looker.outside(tries[2]) == {tries[2]: "ok"}


LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}


@pytest.mark.parametrize("root", ["", "/"])
@pytest.mark.parametrize("terminals", [False, True])
def test_devices_are_exactly_these(looker: Looker, root: str, *, terminals: bool) -> None:
    policy = FilesystemPolicy(read=(root,) if root else ())
    names = {"null", "zero", "full", "random", "urandom", "shm", *LINKS} | (
        {"tty", "pts", "ptmx"} if terminals else set()
    )
    found = looker.look(
        policy, "list /dev", *(f"link /dev/{name}" for name in LINKS), "fill /dev/null", "fill /dev/full",
        "open /dev/zero", "open /dev/urandom", "create /dev/x", "remove /dev/null", "mode /dev/null",
        "create /dev/shm/x", "stat /dev/shm", terminals=terminals,
    )  # fmt: skip
    assert set(found.pop("list /dev").split("\n")) == names
    assert list(found.values()) == [
        *LINKS.values(), "ok", "ENOSPC", "ok", "ok", EROFS, EROFS, EROFS, "ok", "41777",
    ]  # fmt: skip


def test_terminals_are_the_sandboxs_own(looker: Looker) -> None:
    master, slave = os.openpty()
    name = os.ttyname(slave)
    tries = ["open /dev/ptmx", "list /dev/pts", f"open {name}", "link /dev/ptmx", "stat /dev/tty"]
    found = looker.look(FilesystemPolicy(), *tries, terminals=True)
    assert list(found.values()) == ["ok", "ptmx", ENOENT, "pts/ptmx", f"{Path('/dev/tty').stat().st_mode:o}"]
    assert set(looker.look(FilesystemPolicy(), *tries).values()) == {ENOENT}
    assert looker.outside(tries[2]) == {tries[2]: "ok"}
    os.close(master)
    os.close(slave)


# ---- what is mounted on the host ----


def with_mounts(script: str) -> list[str]:
    """Return a wrapper that mounts as a script says, in a mount namespace of its own, and then executes."""
    return [*MOUNTER, "sh", "-euc", f'{script}\nexec "$@"', "sh"]


def test_what_is_mounted_below_a_bind_is_shown_and_restricted_too(looker: Looker, place: Path) -> None:
    a, b = place / "a", place / "b"
    script = "".join(
        f"mount -t tmpfs none {each}/sub; mkdir {each}/sub/two; mount -t tmpfs none {each}/sub/two;"
        f"echo mounted >{each}/sub/two/file; cp {looker.program} {each}/sub/two/program;"
        for each in (a, b)
    )
    each = ["read {}/sub/two/file", "write {}/sub/two/file", "execute {}/sub/two/program"]
    tries = [one.format(path) for path in (a, b) for one in each]
    policy = FilesystemPolicy(read=(str(a),), write=(str(b),), execute=(str(b),))
    before = with_mounts(script)
    found = looker.look(policy, *tries, "read /proc/self/mountinfo", before=before)
    options = mounts(found.pop("read /proc/self/mountinfo"))
    assert list(found.values()) == ["mounted", EROFS, EACCES, "mounted", "ok", "ok"]
    assert options[f"{a}/sub"] == options[f"{a}/sub/two"] == SEALED
    assert options[f"{b}/sub"] == options[f"{b}/sub/two"] == PLAIN
    assert list(looker.outside(*tries, before=before).values()) == ["mounted", "ok", "ok"] * 2


def test_device_in_a_shown_folder_cannot_be_opened_unless_it_is_declared_itself(looker: Looker, place: Path) -> None:
    """A mount of the caller's brings the device there, since only root can make one."""
    null = f"{place}/a/file"
    before = with_mounts(f"mount --bind /dev/null {null}")
    for name in ("read", "write"):
        policy = FilesystemPolicy(**{name: (f"{place}/a",)})  # type: ignore[arg-type]
        assert looker.look(policy, f"stat {null}", f"open {null}", before=before) == {
            f"stat {null}": "20666",
            f"open {null}": EACCES,
        }
        policy = FilesystemPolicy(**{name: (null, f"{place}/a")})  # type: ignore[arg-type]
        assert looker.look(policy, f"fill {null}", before=before) == {f"fill {null}": "ok"}
    assert looker.outside(f"open {null}", before=before) == {f"open {null}": "ok"}


@pytest.fixture
def roots_folder(looker: Looker) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("needs root: to make device nodes and files of another user")
    path = Path(looker.program).parent / "roots"
    path.mkdir(mode=0o755)
    yield path
    shutil.rmtree(path)


def test_device_node_in_a_shown_or_copied_folder_cannot_be_opened(looker: Looker, roots_folder: Path) -> None:
    node = roots_folder / "node"
    os.mknod(node, 0o20666, os.makedev(1, 3))
    node.chmod(0o666)
    for name in ("read", "write", "execute", "private"):
        policy = FilesystemPolicy(**{name: (str(roots_folder),)})  # type: ignore[arg-type]
        assert looker.look(policy, f"stat {node}", f"open {node}") == {f"stat {node}": "20666", f"open {node}": EACCES}
    assert looker.look(FilesystemPolicy(read=(str(node),)), f"fill {node}") == {f"fill {node}": "ok"}
    assert looker.outside(f"fill {node}") == {f"fill {node}": "ok"}


@pytest.mark.parametrize("own", [OWN, (Namespace.MOUNT, Namespace.PID)])
def test_set_uid_program_gains_nothing(looker: Looker, roots_folder: Path, own: tuple[Namespace, ...]) -> None:
    raised = roots_folder / "raised"
    shutil.copy(looker.program, raised)
    os.chown(raised, 65533, 65533)
    raised.chmod(0o6755)
    policy = FilesystemPolicy(execute=(str(raised),))
    plan = plan_for([str(raised), "user", "-"], walls=[*namespaces(*own), *view_ops(policy, terminals=False)])
    assert outcomes(launch(plan), ["user"]) == {"user": "0 0"}
    assert outcomes(run([raised, "user", "-"]), ["user"]) == {"user": "65533 65533"}


def test_identity_owns_what_is_new_and_no_more_of_the_rest(looker: Looker, roots_folder: Path) -> None:
    (roots_folder / "theirs").mkdir(mode=0o700)
    (roots_folder / "mine").mkdir(mode=0o700)
    os.chown(roots_folder / "mine", 65533, 65533)
    policy = FilesystemPolicy(write=(str(roots_folder),), tmpfs=("/t",))
    tries = ["user -", "create /t/x", f"list {roots_folder}/mine", f"list {roots_folder}/theirs"]
    other = outcomes(launch(looker.plan(policy, *tries, walls=[ops.identity(65533, 65533)])), tries)
    assert list(other.values()) == ["65533 65533", "ok", "ok", EACCES]
    root = outcomes(launch(looker.plan(policy, *tries)), tries)
    assert list(root.values()) == ["0 0", "ok", EACCES, "ok"]


def test_private_folder_with_mounts_in_it_is_refused(looker: Looker, place: Path) -> None:
    """The kernel would have to show what the mounts cover (clone_private_mount, fs/namespace.c)."""
    policy = FilesystemPolicy(private=(f"{place}/a",))
    assert looker.look(policy, f"read {place}/a/file") == {f"read {place}/a/file": "a"}
    ended = launch(looker.plan(policy, "user -"), before=with_mounts(f"mount -t tmpfs none {place}/a/sub"))
    assert (ended.code, ended.out) == (125, "")
    assert ended.err.startswith(f"sandbox: view: {place}/a: Invalid argument")


# ---- attempts to change it ----

CHANGES: Final = {"umount": EPERM, "remount": EPERM, "setattr": EPERM, "cover": EPERM, "chroot": EPERM}
# In a user namespace of its own it has the capabilities, but the mounts are locked: mount_namespaces(7).
OWN_CHANGES: Final = {"own-umount": EINVAL, "own-remount": EPERM, "own-setattr": EPERM, "own-cover": "ok"}


def test_view_cannot_be_changed_from_inside(looker: Looker, place: Path) -> None:
    policy = FilesystemPolicy(read=(f"{place}/a", f"{place}/b"), hide=(f"{place}/b/sub",))
    for where, chroot in ((f"{place}/a", EPERM), (f"{place}/b/sub", EACCES)):
        wanted = {f"{verb} {where}": found for verb, found in (CHANGES | {"chroot": chroot} | OWN_CHANGES).items()}
        assert looker.look(policy, *wanted) == wanted
    before = with_mounts(f"mount -t tmpfs -o ro,noexec none {place}/a")
    tries = [f"{verb} {place}/a" for verb in ("setattr", "remount", "cover", "umount", "chroot")]
    assert set(looker.outside(*tries, before=before).values()) == {"ok"}


def test_mounts_of_the_host_stay_as_they_are_and_later_ones_do_not_come_in(looker: Looker, place: Path) -> None:
    """Even where mounts are shared, and without a user namespace between caller and sandbox."""
    begin, end = place / "begin", place / "end"
    os.mkfifo(begin)
    os.mkfifo(end)
    walls = [
        *namespaces(Namespace.MOUNT, Namespace.PID),
        *view_ops(
            FilesystemPolicy(
                read=(f"{place}/a", str(end)), write=(str(begin),), execute=(looker.program,), private=(f"{place}/b",),
                hide=(f"{place}/a/old",),
            ),
            terminals=False,
        ),
    ]  # fmt: skip
    tries = [f"fill {begin}", f"read {end}", f"list {place}/a/sub"]
    script = (
        f'cat /proc/self/mountinfo >{place}/1; "$@" & cat {begin} >{place}/begun; cat /proc/self/mountinfo >{place}/2;'
        f"mount -t tmpfs none {place}/a/sub; echo end >{end}; wait $!; ls {place}/a/sub >{place}/3"
    )
    before = [*MOUNTER, "--propagation", "shared", "sh", "-euc", script, "sh"]
    found = outcomes(launch(looker.plan_with(walls, *tries), before=before), tries)
    assert list(found.values()) == ["ok", "end", "deep"]
    assert "shared:" in (place / "1").read_text()
    assert (place / "1").read_text() == (place / "2").read_text()
    assert (place / "3").read_text() == ""


def test_view_without_a_mount_namespace_is_refused(looker: Looker, place: Path) -> None:
    for policy in (FilesystemPolicy(tmpfs=(f"{place}/a",)), FilesystemPolicy(View.HOST, tmpfs=(f"{place}/a",))):
        walls = [*namespaces(Namespace.USER, Namespace.PID), *view_ops(policy, terminals=False)]
        ended = launch(looker.plan_with(walls, "user -"), before=[*MOUNTER])
        assert (ended.code, ended.out) == (125, "")
        assert "sandbox: view: " in ended.err
        assert ": Operation not permitted" in ended.err


# ---- the host's tree ----


def test_host_view_hides_copies_and_replaces(looker: Looker, place: Path) -> None:
    a, b, c = (f"{place}/{name}" for name in "abc")
    tries = [
        f"list {a}", f"fill {b}/file", f"read {b}/file", f"list {c}", f"fill {c}/x", f"open {place}/b/sub/deep",
        "open /etc/passwd", f"create {place}/new",
    ]  # fmt: skip
    policy = FilesystemPolicy(View.HOST, hide=(a, f"{b}/sub"), private=(b,), tmpfs=(c,))
    found = looker.look(policy, *tries)
    assert list(found.values()) == [EACCES, "ok", "inside", "ok", "ok", EACCES, "ok", "ok"]
    assert contents(place / "b") == {"file": "b", "old": "old"}
    assert contents(place / "c") == {"file": "c", "old": "old"}
    assert (place / "new").exists()
    tries = [f"list {a}", f"read {b}/file", f"open {b}/sub/deep"]
    assert list(looker.look(FilesystemPolicy(View.HOST), *tries).values())[1:] == ["b", "ok"]


def test_host_view_shows_what_is_declared_below_an_empty_or_private_folder(looker: Looker, place: Path) -> None:
    """The start used to fail at Landlock, which found the path empty; below `private` what was written was lost."""
    policy = FilesystemPolicy(
        View.HOST, tmpfs=(str(place),), private=(f"{place}/b",), write=(f"{place}/a", f"{place}/b/sub")
    )
    tries = [
        f"list {place}", f"open {place}/a/sub/deep", f"create {place}/a/new", f"open {place}/c/file",
        f"create {place}/b/sub/new", f"create {place}/b/lost", "open sub/deep",
    ]  # fmt: skip
    found = looker.look(policy, *tries, cwd=place / "a")
    assert list(found.values()) == ["a\nb", "ok", "ok", ENOENT, "ok", "ok", "ok"]
    assert (place / "a" / "new").exists()
    assert (place / "b" / "sub" / "new").exists()
    assert not (place / "b" / "lost").exists()


@pytest.mark.parametrize("name", ["hide", "tmpfs"])
def test_host_view_working_directory_is_not_a_way_below_what_covers_it(looker: Looker, place: Path, name: str) -> None:
    for covered in (f"{place}/a", f"{place}/a/sub"):
        policy = FilesystemPolicy(View.HOST, **{name: (covered,)})  # type: ignore[arg-type]
        tries = ["open deep", f"open {place}/b/file"]
        wanted = EACCES if name == "hide" and covered.endswith("sub") else ENOENT
        assert list(looker.look(policy, *tries, cwd=place / "a" / "sub").values()) == [wanted, "ok"]
        found = looker.look(policy, "open file", "link /proc/self/cwd", cwd=place / "b")
        assert list(found.values()) == ["ok", f"{place}/b"]


@pytest.mark.parametrize("name", ["hide", "tmpfs", "private"])
def test_host_view_refuses_to_cover_its_root(looker: Looker, place: Path, name: str) -> None:
    policy = FilesystemPolicy(View.HOST, **{name: ("/",)})  # type: ignore[arg-type]
    refused(looker, policy, "/", "Invalid argument")
    below = FilesystemPolicy(View.HOST, **{name: (f"{place}/a",)})  # type: ignore[arg-type]
    assert looker.look(below, f"open {place}/b/file") == {f"open {place}/b/file": "ok"}


def test_root_itself_can_be_shown_or_new_but_not_hidden(looker: Looker, place: Path) -> None:
    tries = [f"read {place}/a/file", f"create {place}/a/new", "create /new", f"open {place}/b/file"]
    shown = looker.look(FilesystemPolicy(read=("/",), hide=(f"{place}/b",)), *tries)
    assert list(shown.values()) == ["a", EROFS, EROFS, EACCES]
    new = looker.look(FilesystemPolicy(tmpfs=("/",), read=(f"{place}/a",)), *tries)
    assert list(new.values()) == ["a", EROFS, "ok", ENOENT]
    assert not Path("/new").exists()
    refused(looker, FilesystemPolicy(hide=("/",)), "/", "Invalid argument")


# ---- at work ----


def test_view_with_a_hundred_entries(looker: Looker, tmp_path: Path) -> None:
    paths = [f"{tmp_path}/{number % 10}/{number}" for number in range(100)]
    for path in paths:
        Path(path).mkdir(parents=True)
        (Path(path) / "file").write_text(path)
    policy = FilesystemPolicy(read=tuple(reversed(paths)))
    found = looker.look(policy, *(f"read {path}/file" for path in paths), *(f"create {path}/x" for path in paths))
    assert list(found.values()) == [*paths, *[EROFS] * 100]


def test_view_leaves_no_mount_and_no_descriptor_behind(looker: Looker, place: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    policy = FilesystemPolicy(read=(f"{place}/a",), private=(f"{place}/b",), hide=(f"{place}/a/sub",), tmpfs=("/t",))
    found = looker.look(policy, "list /proc/self/fd", "list /t")
    assert found["list /proc/self/fd"].split("\n") == ["0", "1", "2", "3"]  # 3 is the probe's own, which lists
    assert Path("/proc/self/mountinfo").read_text() == before


def nested(looker: Looker, inner: Plan, outer: FilesystemPolicy) -> Ended:
    """Run a plan by the launcher within a view of the launcher's."""
    launcher = str(launcher_path())
    shown = replace(outer, execute=(*outer.execute, launcher, looker.program))
    plan = plan_for(
        [launcher, str(INNER_PLAN)],
        grants=[ops.inherit(0, INNER_PLAN, frozenset({FdType.MEMFD}), None, "plan"), ops.place(0, INNER_PLAN, "plan")],
        walls=[*namespaces(), *view_ops(shown, terminals=False)],
    )
    with memfd_holding(wire.encode(inner)) as fd:
        return launch(plan, setup=lambda: os.dup2(fd, INNER_PLAN))


def test_view_within_a_view_has_no_user_namespace_of_its_own(looker: Looker, place: Path) -> None:
    """Its IDs would have to be written to /proc, which is read-only; the message says that."""
    tries = [f"read {place}/a/file", f"write {place}/a/file", f"list {place}/b"]
    policy = FilesystemPolicy(read=(f"{place}/a",))
    inner = looker.plan(policy, *tries, confinement=[ops.exec_once()])
    assert list(outcomes(launch(inner), tries).values()) == ["a", EROFS, ENOENT]
    ended = nested(looker, inner, policy)
    assert (ended.code, ended.out) == (125, "")
    assert ended.err.startswith("sandbox: namespace: user: Read-only file system; ")


def test_start_that_hides_something_unmounts_once(place: Path, tmp_path: Path) -> None:
    """Each umount2() waits for the whole machine; what was mounted to be cloned goes with the host's tree."""
    report = tmp_path / "calls"
    before: list[str | Path] = ["/usr/bin/strace", "-f", "--trace=umount2", "-o", report]
    policy = FilesystemPolicy(read=(f"{place}/a",), hide=(f"{place}/a/file", f"{place}/a/sub"))
    plan = plan_of(["true"], walls=True, additions=Additions(filesystem=policy))
    assert launch(plan, before=before) == Ended(0, "", "")
    assert report.read_text().count("umount2(") == 1
