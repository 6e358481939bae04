"""A1, A2: what can be done with a granted file or folder, operation by operation, and what the caller's keeps.

The tables are the claim: for each grant the operations that go through; every other of the probe's is refused.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from sandbox.errors import GrantError
from sandbox.filesystem import FilesystemPolicy
from sandbox.landlock import LandlockPolicy
from sandbox.profile import Profile
from sandbox.profile_files import default_search_path, load
from sandbox.resolve import Additions
from tests.support.callers import PYTHON, Ended, held_open, launch, opened, plan_of
from tests.support.probes import Probes, as_table, public_folder, verdicts

METADATA: Final = frozenset({"chmod", "chown", "utimes", "xattr", "setflags"})
ANY: Final = frozenset({"seek", "lock", "getflags"})  # what no access is needed for
READ: Final = ANY | {"read", "record-lock", "map-read", "reopen-read"}
WRITE: Final = ANY | METADATA | {"write", "truncate", "punch", "reopen-write", "truncate-by-link"}
# Opened anew with O_TRUNC: Landlock looks at it as at writing and truncating.
TRUNCATE: Final = frozenset({"reopen-truncate"})
RAW: Final = METADATA | {"map-execute", "link", "link-empty", "execute"}
LIST: Final = frozenset({"list", "read", "read-below", "parent-is-itself", "getflags"})
MAKE: Final = frozenset({"make", "make-folder", "link", "symlink", "rename", "rename-back", "remove"})
WITHIN: Final = METADATA | {"chmod-within"}

FILES: Final = {
    "read": READ,
    "write": WRITE | TRUNCATE,
    "read-write": READ | WRITE | TRUNCATE | {"map-write"},
}
FOLDERS: Final = {
    "read": LIST,
    "execute": LIST | {"execute"},
    "write": LIST | WITHIN | {"write", "truncate"},
    "create": LIST | WITHIN | MAKE,
    "write,create,execute": LIST | WITHIN | MAKE | {"write", "truncate", "execute"},
}

SEALED: Final = READ | METADATA - {"xattr"} | {"map-execute"}
MEMORY: Final = {
    "secret": SEALED,
    "data": SEALED,
    "copy": SEALED,
    "scratch": READ | WRITE - {"xattr"} | TRUNCATE | {"map-write"},
}


@pytest.fixture
def place() -> Iterator[Path]:
    """Yield a folder of the user's own: `folder` with a text, a tool and a folder in it, `file`, and `secret` above."""
    with public_folder() as path:
        (path / "secret").write_text("above")
        (path / "file").write_bytes(Path("/bin/true").read_bytes())
        (path / "file").chmod(0o755)
        folder = path / "folder"
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "inner").write_text("inner")
        (folder / "text").write_text("text")
        (folder / "tool").write_bytes(Path("/bin/true").read_bytes())
        (folder / "tool").chmod(0o755)
        yield path


def profile_named(name: str) -> Profile:
    """Return untrusted; or without Landlock's hold on files; or without any wall."""
    untrusted = load("untrusted", search=default_search_path({}))
    if name == "view":
        return replace(untrusted, landlock=LandlockPolicy(files=False))
    return opened(untrusted) if name == "open" else untrusted


def allowed(ended: Ended) -> frozenset[str]:
    assert (ended.code, ended.err) == (0, ""), ended
    found = verdicts(ended.out)
    assert len(found) > 10
    return frozenset(name for name, verdict in found.items() if verdict.result != -1)


def cells(probes: Probes, grant: str, kind: str, profile: str) -> frozenset[str]:
    """Return the operations that go through on number 3."""
    shown = Additions(filesystem=FilesystemPolicy(execute=(str(probes.folder),)))
    plan = plan_of(
        [probes["cells"], "3", kind], grant, profile=profile_named(profile), walls=profile != "open", chdir="/tmp",
        additions=None if profile == "open" else shown,
    )  # fmt: skip
    return allowed(launch(plan))


@pytest.mark.parametrize("kind", MEMORY)
def test_memory_can_what_its_kind_says_and_nothing_else(probes: Probes, place: Path, kind: str) -> None:
    grant = {"data": "f=data:text", "scratch": "f=scratch:64K"}.get(kind, f"f={kind}:{place}/file")
    for profile in ("untrusted", "view", "open"):
        assert cells(probes, grant, "file", profile) == MEMORY[kind], profile


# What is there for whoever has an end of a pipe, and what of it reaches the caller's own.
OF_A_PIPE: Final = frozenset({"reopen", "reopen-other"})
CALLERS: Final = frozenset({"mode", "times", "blocking", "size", "lock", "other-way"})
PIPES: Final = {
    "pipe, read": OF_A_PIPE | CALLERS | {"read"},
    "pipe, write": OF_A_PIPE | CALLERS | {"write"},
    "relay, read": OF_A_PIPE | {"read"},
    "relay, write": OF_A_PIPE | {"write"},
    "append": OF_A_PIPE | {"write"},
}


def reached(mine: int, path: str, *, other_way: bool) -> frozenset[str]:
    """Return what has become of the caller's own: its inode, its open file, and what went the other way."""
    status = os.fstat(mine)
    found = {
        "mode": status.st_mode & 0o777 == 0o700, "times": status.st_mtime == 1, "other-way": other_way,
        "blocking": not os.get_blocking(mine), "size": stat.S_ISFIFO(status.st_mode) and buffer_of(mine) == 8192,
    }  # fmt: skip
    again = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        found["lock"] = True
    finally:
        os.close(again)
    return frozenset(name for name, holds in found.items() if holds)


def buffer_of(fd: int) -> int:
    size: int = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    return size


@pytest.mark.parametrize("profile", ["untrusted", "open"])
@pytest.mark.parametrize("kind", PIPES)
def test_pipe_can_what_its_kind_says_and_nothing_else(probes: Probes, place: Path, kind: str, profile: str) -> None:
    what, _, way = kind.partition(", ")
    if what == "append":
        (place / "file").write_bytes(b"CALLER")
        with held_open(place / "file", os.O_RDWR) as mine:
            can = cells(probes, f"f=file:{place}/file:append", "pipe", profile)
            passed = os.pread(mine, 99, 0)
            assert can | reached(mine, f"{place}/file", other_way=passed != b"CALLERW") == PIPES[kind]
        return
    reader, writer = os.pipe()
    try:
        os.write(writer, b"CALLER")
        mine = reader if way == "read" else writer
        os.set_inheritable(mine, True)
        can = cells(probes, f"f=inherit:{mine}" + (":relay" if what == "relay" else ""), "pipe", profile)
        os.write(writer, b".")
        left = os.read(reader, 99)
        other_way = b"B" in left if way == "read" else b"CALLER" not in left
        assert can | reached(mine, f"/proc/self/fd/{mine}", other_way=other_way) == PIPES[kind]
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("access", FILES)
def test_file_can_what_its_access_says_and_nothing_else(probes: Probes, place: Path, access: str) -> None:
    assert cells(probes, f"f=file:{place}/file:{access}", "file", "untrusted") == FILES[access]
    # Without Landlock the mount alone holds: what may be written there may be opened anew for reading, too.
    alone = FILES[access] | ({"reopen-read"} if access == "write" else frozenset())
    assert cells(probes, f"f=file:{place}/file:{access}", "file", "view") == alone
    assert cells(probes, f"f=file:{place}/file:{access}", "file", "open") == alone


@pytest.mark.parametrize("access", ["read", "read-write"])
def test_inherited_file_is_opened_anew_and_as_small(probes: Probes, place: Path, access: str) -> None:
    with held_open(place / "file", os.O_RDONLY if access == "read" else os.O_RDWR, inherits=True) as fd:
        for profile in ("untrusted", "view", "open"):
            assert cells(probes, f"f=inherit:{fd}:file", "file", profile) == FILES[access], profile


def test_raw_file_can_what_the_callers_mount_lets(probes: Probes, place: Path) -> None:
    """The twin of all above: without the mount of its own a file that is open for reading is changed by these."""
    for grant in (f"f=file:{place}/file:read,raw", "f=inherit:{fd}:file,raw"):
        with held_open(place / "file", os.O_RDONLY, inherits=True) as fd:
            words = grant.format(fd=fd)
            found = cells(probes, words, "file", "open")
            assert found >= READ | METADATA | {"reopen-write", "reopen-truncate", "truncate-by-link", "map-execute"}
            (place / "file").write_bytes(Path("/bin/true").read_bytes())


@pytest.mark.parametrize("rights", FOLDERS)
def test_folder_can_what_its_words_say_and_nothing_else(probes: Probes, place: Path, rights: str) -> None:
    assert cells(probes, f"d=directory:{place}/folder:{rights}", "folder", "untrusted") == FOLDERS[rights]


def test_folder_without_landlock_is_held_by_its_mount(probes: Probes, place: Path) -> None:
    for profile in ("view", "open"):
        assert cells(probes, f"d=directory:{place}/folder", "folder", profile) == LIST
    for rights in ("write", "create"):
        with pytest.raises(GrantError, match=r"without Landlock .* say both"):
            cells(probes, f"d=directory:{place}/folder:{rights}", "folder", "open")
    everything = FOLDERS["write,create,execute"]
    assert cells(probes, f"d=directory:{place}/folder:write,create,execute", "folder", "view") == everything


def test_raw_folder_leads_to_those_above_it(probes: Probes, place: Path) -> None:
    """The twin of a folder that is granted by its path."""
    with held_open(place / "folder", os.O_RDONLY | os.O_DIRECTORY, inherits=True) as fd:
        found = cells(probes, f"d=inherit:{fd}:directory,raw", "folder", "open")
    assert found >= {"above", "above-twice", "change-above", "write", "make"}
    assert "parent-is-itself" not in found


def test_callers_offset_flags_and_locks_stay(place: Path) -> None:
    script = "import fcntl, os; os.lseek(3, 9, 0); fcntl.fcntl(3, fcntl.F_SETFL, os.O_NONBLOCK); os.read(3, 1)"
    unlock = "; fcntl.flock(3, fcntl.LOCK_UN)"
    with held_open(place / "file", os.O_RDWR, inherits=True) as mine, held_open(place / "file", os.O_RDONLY) as other:
        for words, kept in (("", True), (",raw", False)):
            os.lseek(mine, 4, os.SEEK_SET)
            os.set_blocking(mine, True)
            fcntl.flock(mine, fcntl.LOCK_EX)
            plan = plan_of([PYTHON, "-c", script + unlock], f"f=inherit:{mine}:file{words}")
            assert launch(plan) == Ended(0, "", "")
            assert (os.lseek(mine, 0, os.SEEK_CUR) == 4) is kept
            assert os.get_blocking(mine) is kept
            if kept:
                with pytest.raises(BlockingIOError):
                    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_inherited_file_begins_where_the_caller_stands(place: Path) -> None:
    (place / "file").write_text("0123456789")
    with held_open(place / "file", os.O_RDONLY, inherits=True) as mine:
        os.lseek(mine, 6, os.SEEK_SET)
        plan = plan_of(["/bin/sh", "-c", "head -c 3 <&3"], f"f=inherit:{mine}:file")
        assert launch(plan) == Ended(0, "678", "")


@pytest.mark.parametrize("change", ["removed", "replaced", "renamed"])
def test_inherited_file_that_its_path_does_not_lead_to_is_refused(place: Path, change: str) -> None:
    file = place / "file"
    with held_open(file, os.O_RDONLY, inherits=True) as mine:
        plan = plan_of(["/bin/true"], f"f=inherit:{mine}:file")
        raw = plan_of(["/bin/true"], f"f=inherit:{mine}:file,raw")
        assert launch(plan) == Ended(0, "", "")
        if change == "renamed":  # the kernel knows the new path
            file.rename(place / "other")
            assert launch(plan) == Ended(0, "", "")
            return
        file.unlink()
        if change == "replaced":
            file.write_text("another")
        ended = launch(plan)
        assert ended.code == 125
        assert "its path leads to another file by now, or to none; raw takes it as it is; " in ended.err
        assert launch(raw) == Ended(0, "", "")


DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "grants.md"
FILE_ROWS: Final = {
    "read": "read", "map for reading": "map-read", "write": "write", "map for writing": "map-write",
    "seek": "seek", "lock": "lock", "lock a range": "record-lock", "truncate": "truncate", "punch a hole": "punch",
    "open anew for reading": "reopen-read", "open anew for writing": "reopen-write",
    "open anew, emptying it": "reopen-truncate", "truncate by its link": "truncate-by-link",
    "mode": "chmod", "owner": "chown", "times": "utimes", "extended attribute": "xattr", "flags (chattr)": "setflags",
    "link elsewhere": "link", "link elsewhere, by number": "link-empty", "map for execution": "map-execute",
    "execute": "execute", "the folder above": "parent",
}  # fmt: skip
FOLDER_ROWS: Final = {
    "list": "list", "read a file": "read", "read a file below": "read-below", "write a file": "write",
    "empty a file": "truncate", "execute a file": "execute", "make a file": "make", "make a folder": "make-folder",
    "link within": "link", "make a symlink": "symlink", "rename within": "rename", "remove": "remove",
    "make a device": "device", "mode of a file within": "chmod-within", "its own mode": "chmod", "owner": "chown",
    "times": "utimes", "extended attribute": "xattr", "flags (chattr)": "setflags", "read above it, by ..": "above",
    "change the folder to above it": "change-above",
}  # fmt: skip


PIPE_ROWS: Final = {
    "read": "read", "write": "write", "seek": "seek", "truncate": "truncate", "punch a hole": "punch",
    "map for reading": "map-read", "map for writing": "map-write", "extended attribute": "xattr",
    "link elsewhere": "link", "link elsewhere, by number": "link-empty", "execute": "execute",
    "the folder above": "parent", "open anew": "reopen", "open the other end": "reopen-other",
    "the caller's: pass bytes the other way": "other-way", "the caller's: mode": "mode", "the caller's: times": "times",
    "the caller's: `O_NONBLOCK`": "blocking", "the caller's: size of its buffer": "size", "the caller's: lock": "lock",
}  # fmt: skip


def test_document_has_the_tables_that_are_tested() -> None:
    text = DOCUMENT.read_text()
    tables = [
        as_table("of a file", FILE_ROWS, FILES), as_table("of a folder", FOLDER_ROWS, FOLDERS),
        as_table("of memory", FILE_ROWS, MEMORY), as_table("of a pipe", PIPE_ROWS, PIPES),
    ]  # fmt: skip
    for lines in tables:
        assert "\n".join(lines) in text, "\n".join(lines)
    named = {*FILE_ROWS.values(), *FOLDER_ROWS.values()}
    assert set().union(*FILES.values(), *FOLDERS.values(), RAW) - named == {
        "getflags",
        "parent-is-itself",
        "rename-back",
    }
