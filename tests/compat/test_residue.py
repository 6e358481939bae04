"""What stays possible with a grant, line by line of `sandbox explain`: tried in the kernel, under each kind of profile.

Where Landlock governs files (`untrusted`, `sealed`), a descriptor can be opened anew only as it is open; where the view
is the host's and no path is declared, nothing governs them, and explain says so.
"""

from __future__ import annotations

import ast
import dataclasses
import fcntl
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Unpack

import pytest

import sandbox
from sandbox.explain import APPENDS, NO_FILE, NOT_CALLERS, RELAYED, UNCHANGED, explain, own_pipe, residue
from sandbox.launch import Walls
from sandbox.peers import Held, inherited_residue
from tests.support.callers import PYTHON

# Each probe is Python that runs in the sandbox with the grant on 3 and prints what it saw: a value, or an error's name.
# try_(f) gives "ok" or the error's name.
PRELUDE: Final = """
import array, errno, fcntl, mmap, os, socket, stat
def try_(f, *args):
    try:
        f(*args)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
def reopen(flags):
    fd = os.open("/proc/self/fd/3", flags)
    os.close(fd)
def mapped():
    return mmap.mmap(3, 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)[:3]
def sizes_after(*steps):
    return [(step(), os.fstat(3).st_size)[1] for step in steps]
def set_flags():  # FS_IOC_SETFLAGS, FS_NODUMP_FL: linux/fs.h
    return try_(fcntl.ioctl, 3, 0x40086602, array.array('l', [0x40]))
def mapped_behind():
    os.ftruncate(3, 1 << 17)
    child = os.fork()
    if child == 0:
        mmap.mmap(3, 1 << 17)[1 << 16] = 1
    return os.waitpid(child, 0)[1] & 0x7f
def within(name, flags):
    os.close(os.open(name, flags, dir_fd=3))
def metadata():
    return [try_(os.fchmod, 3, 0o640), try_(os.utime, 3, (1, 1)), try_(os.setxattr, 3, "user.a", b"b")]
"""
READ_ALL = """[os.read(3, 3), os.lseek(3, 0, 0), mapped(), try_(fcntl.flock, 3, fcntl.LOCK_EX)]"""
REOPEN = (
    "[try_(reopen, os.O_RDONLY), try_(reopen, os.O_WRONLY), try_(reopen, os.O_RDWR), "
    "try_(os.truncate, '/proc/self/fd/3', 1), try_(reopen, os.O_RDONLY | os.O_TRUNC)]"
)
STILL = "still: /proc/self/fd/3 opens the file anew, with any access that its mode gives the user"
CANNOT = "cannot: open or cut short the file by /proc/self/fd/3 with more access than 3 has, unless the view has it"
METADATA = "still: its mode, times and extended attributes can be changed, if the user owns it"
# What each access comes to where Landlock governs files: to read, to write, both, to cut short by name and by opening.
REOPENED = {
    "read": ["ok", "EACCES", "EACCES", "EACCES", "EACCES"],
    "append": ["EACCES", "ok", "EACCES", "ok", "EACCES"],
    "write": ["EACCES", "ok", "EACCES", "ok", "EACCES"],
    "read-write": ["ok", "ok", "ok", "ok", "ok"],
}


def file_rest(access: str) -> dict[str, tuple[str, object]]:
    """Return the lines that every file has."""
    return {
        STILL: (REOPEN, ["ok"] * 5), CANNOT: (REOPEN, REOPENED[access]), METADATA: ("metadata()", ["ok"] * 3),
    }  # fmt: skip


# What is written there goes through a pipe, which has no place, no size and no lock of the file's.
NOT_A_FILE: tuple[str, object] = (
    (
        "[try_(os.read, 3, 1), try_(os.pwrite, 3, b'y', 0), try_(os.ftruncate, 3, 1), try_(os.lseek, 3, 0, 0), "
        "try_(fcntl.fcntl, 3, fcntl.F_SETFL, 0), stat.S_ISFIFO(os.fstat(3).st_mode)]"
    ),
    ["EBADF", "ESPIPE", "EINVAL", "ESPIPE", "ok", True],
)
WRITES = "[try_(os.write, 3, b'x'), try_(os.ftruncate, 3, 0), try_(mmap.mmap, 3, 0)]"
# Python cannot link what a descriptor's link leads to; tests/kernel/test_cells.py does.
CHANGES = "[*metadata(), try_(os.execv, '/proc/self/fd/3', ['x'])]"
WRITE_ALL = (
    """[os.write(3, b"xyz"), try_(os.ftruncate, 3, 2), os.lseek(3, 0, 0), try_(fcntl.flock, 3, fcntl.LOCK_EX)]"""
)

MODE_ONLY = "still: its mode, times and flags can be changed; nobody else sees it"
MEMORY: dict[str, tuple[str, object]] = {
    "can: read, seek, map": ("[os.read(3, 3), os.lseek(3, 0, 0), mapped()]", [b"abc", 0, b"abc"]),
    "cannot: write, grow, shrink, unseal, by any means": (
        ("[try_(os.write, 3, b'x'), try_(os.ftruncate, 3, 0), try_(os.ftruncate, 3, 99), "
        "try_(reopen, os.O_RDWR), try_(os.fchmod, 3, 0o600), "
        "try_(os.write, os.open('/proc/self/fd/3', os.O_RDWR), b'x'), try_(os.truncate, '/proc/self/fd/3', 0), "
        "try_(fcntl.fcntl, 3, fcntl.F_ADD_SEALS, 0), fcntl.fcntl(3, fcntl.F_GET_SEALS) & 15]"),
        ["EBADF", "EINVAL", "EINVAL", "EACCES", "ok", "EPERM", "EPERM", "EPERM", 15],
    ),
    MODE_ONLY: ("[*metadata()[:2], set_flags()]", ["ok", "ok", "ok"]),
}  # fmt: skip

# grant's words -> line of its residue -> probe, and what it must print.
CLAIMS: Final[dict[str, dict[str, tuple[str, object]]]] = {
    "file:{file}:read": {
        "can: read, seek, map, lock": (READ_ALL, [b"abc", 0, b"abc", "ok"]),
        "cannot: write, by 3 or /proc/self/fd/3": (
            f"[{WRITES}, {REOPEN}]", [["EBADF", "EINVAL", "EACCES"], ["ok", *["EROFS_OR_EACCES"] * 4]],
        ),
        UNCHANGED: (CHANGES, ["EROFS", "EROFS", "EROFS", "EACCES_OR_EPERM"]),
    },
    "file:{file}:read,raw": {
        "can: read, seek, map, lock": (READ_ALL, [b"abc", 0, b"abc", "ok"]),
        "cannot: write through 3 itself": (WRITES, ["EBADF", "EINVAL", "EACCES"]),
        **file_rest("read"),
    },
    "directory:{folder}": {
        "can: list, read": ("[os.listdir(3), open('/proc/self/fd/3/file', 'rb').read(3)]", [["file"], b"abc"]),
        "cannot: write what is there, make, move and remove, execute": (
            ("[try_(within, 'file', os.O_WRONLY), try_(within, 'new', os.O_CREAT), "
            "try_(os.unlink, '/proc/self/fd/3/file')]"),
            ["EROFS_OR_EACCES"] * 3,
        ),
        "cannot: reach what lies above it": ("try_(within, '../above', os.O_RDONLY)", "ENOENT"),
    },
    "directory:{folder}:write,create,execute": {
        "can: list, read, write what is there, make, move and remove, execute": (
            ("[os.listdir(3), try_(within, 'file', os.O_WRONLY), try_(within, 'new', os.O_CREAT), "
            "try_(os.unlink, '/proc/self/fd/3/new'), os.access('/proc/self/fd/3/file', os.X_OK)]"),
            [["file"], "ok", "ok", "ok", True],
        ),
        "cannot: reach what lies above it": ("try_(within, '../above', os.O_RDONLY)", "ENOENT"),
        "still: modes, times and extended attributes of what the user owns can be changed": (
            "[try_(os.chmod, '/proc/self/fd/3/file', 0o700), try_(os.fchmod, 3, 0o700)]", ["ok", "ok"],
        ),
    },
    "file:{file}:append": {
        APPENDS: ("[os.write(3, b'x'), try_(reopen, os.O_WRONLY)]", [1, "ok"]),
        NO_FILE: NOT_A_FILE,
        own_pipe(3): ("try_(reopen, os.O_RDONLY)", "ok"),
    },
    "file:{file}:append,raw": {
        "can: append, truncate": (
            "sizes_after(lambda: os.write(3, b'x'), lambda: os.pwrite(3, b'y', 0), lambda: os.ftruncate(3, 1))",
            [7, 8, 1],
        ),
        "still: O_APPEND can be taken off 3; then any byte can be overwritten": (
            "sizes_after(lambda: fcntl.fcntl(3, fcntl.F_SETFL, 0), lambda: os.pwrite(3, b'y', 0))", [6, 6],
        ),
        **file_rest("append"),
    },
    "file:{file}:write": {
        "can: write, truncate, seek, lock": (WRITE_ALL, [3, "ok", 0, "ok"]),
        "cannot: read through 3 itself": ("[try_(os.read, 3, 1), try_(mmap.mmap, 3, 0)]", ["EBADF", "EACCES"]),
        **file_rest("write"),
    },
    "file:{file}:read-write": {
        "can: read, write, truncate, seek, map, lock": (
            f"[{READ_ALL}, {WRITE_ALL}]", [[b"abc", 0, b"abc", "ok"], [3, "ok", 0, "ok"]],
        ),
        **file_rest("read-write"),
    },
    "secret:{file}": {
        "can: read, map": ("[os.read(3, 9), mapped()]", [b"abcdef", b"abc"]),
        "cannot: write, grow, shrink, unseal": (
            ("[try_(os.write, 3, b'x'), try_(os.ftruncate, 3, 0), try_(os.ftruncate, 3, 99), "
            "try_(reopen, os.O_RDWR), try_(os.fchmod, 3, 0o600), "
            "try_(os.write, os.open('/proc/self/fd/3', os.O_RDWR), b'x'), "
            "try_(fcntl.fcntl, 3, fcntl.F_ADD_SEALS, 0), fcntl.fcntl(3, fcntl.F_GET_SEALS) & 15]"),
            ["EBADF_OR_EPERM", "EINVAL_OR_EPERM", "EINVAL_OR_EPERM", "EACCES", "ok", "EPERM", "EPERM", 15],
        ),
    },
    "data:abcdef": MEMORY,
    "copy:{file}": MEMORY,
    "scratch:64K": {
        "can: read, write, truncate, seek, map, lock": (
            f"[os.write(3, b'abcdef'), os.lseek(3, 0, 0), {READ_ALL}, {WRITE_ALL}]",
            [6, 0, [b"abc", 0, b"abc", "ok"], [3, "ok", 0, "ok"]],
        ),
        "cannot: hold more than its limit: a write fails (ENOSPC), a mapping behind it ends the program (SIGBUS)": (
            "[os.write(3, b'x' * 65536), try_(os.write, 3, b'x'), try_(reopen, os.O_RDWR), mapped_behind()]",
            [65536, "ENOSPC", "ok", 7],  # the signal
        ),
        "cannot: execute it": (
            ("[os.write(3, b'#!/bin/sh'), os.fchmod(3, 0o755), try_(os.execve, 3, ['x'], {}), "
            "try_(lambda: mmap.mmap(3, 9, prot=mmap.PROT_EXEC))]"),
            [9, None, "EACCES_OR_EPERM", "EPERM"],
        ),
        MODE_ONLY: ("[*metadata()[:2], set_flags()]", ["ok", "ok", "ok"]),
    },
}  # fmt: skip


HELD: Final = Held(tcp=True, abstract=True, offline=True)
# These have their tests in tests/kernel/test_sockets.py.
OF_SOCKETS: Final = {
    line
    for line in inherited_residue(frozenset(sandbox.FdType), HELD)
    if "descriptors can be sent" not in line
}  # fmt: skip
HOST_VIEW = "host view"  # no profile that is shipped: the calls of `untrusted`, the host's files, no path declared
PROFILES = ("untrusted", "sealed", HOST_VIEW)


def profile_named(name: str) -> sandbox.Profile:
    search = sandbox.default_search_path({})
    if name != HOST_VIEW:
        return sandbox.load(name, search=search)
    base, untrusted = (sandbox.load(name, search=search) for name in ("base", "untrusted"))
    view = dataclasses.replace(base.filesystem, view=sandbox.View.HOST)
    return dataclasses.replace(base, filesystem=view, filter=untrusted.filter)


def is_true_under(line: str, profile: str) -> bool:
    """Tell whether explain says a line on opening anew of a profile; it says the others of all."""
    plain = re.sub(": a file(?: that is open for writing)?: ", ": ", line, count=1)
    reopening = {STILL: True, CANNOT: False}.get(plain)
    return reopening is None or reopening == (profile == HOST_VIEW)


def seen(program: str, grant: str, profile: str, **walls: Unpack[Walls]) -> object:
    done = sandbox.run(
        [PYTHON, "-S", "-c", f"{PRELUDE}\nprint(repr({program}))"],
        grants=[f"g@3={grant}"], profile=profile_named(profile), capture_output=True, text=True, **walls,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    value: object = ast.literal_eval(done.stdout)
    return value


def fits(value: object, wanted: object) -> bool:
    """Compare; a wanted "A_OR_B" takes either error."""
    if isinstance(value, list) and isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(fits, value, wanted))
    return value in str(wanted).split("_OR_") if isinstance(value, str) else value == wanted


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "above").write_bytes(b"secret")
    for path in (tmp_path / "folder" / "file", tmp_path / "file"):
        path.write_bytes(b"abcdef")
        path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("words", "line", "profile"),
    [
        (words, line, profile)
        for words, lines in CLAIMS.items()
        for line in lines
        for profile in PROFILES
        if is_true_under(line, profile)
    ],
)
def test_residue_of_what_the_launcher_opens_is_true(file: Path, words: str, line: str, profile: str) -> None:
    program, wanted = CLAIMS[words][line]
    value = seen(program, words.format(file=file, folder=file.with_name("folder")), profile)
    assert fits(value, wanted), value


def numbered(words: str) -> sandbox.Grant:
    return sandbox.parse_grant(f"g@3={words}")


@pytest.mark.parametrize("words", CLAIMS)
def test_residue_lines_each_have_a_test(words: str) -> None:
    grant = numbered(words.format(file="/x", folder="/x"))
    for governed, profile in ((True, "untrusted"), (False, HOST_VIEW)):
        assert set(residue(grant, HELD, governed=governed)) == {
            line for line in CLAIMS[words] if is_true_under(line, profile)
        }


@pytest.mark.parametrize(
    ("profile", "abi", "line"),
    [
        ("untrusted", 7, CANNOT), ("untrusted", 3, CANNOT), ("untrusted", 2, STILL), ("untrusted", 0, STILL),
        (HOST_VIEW, 7, STILL),
    ],
)  # fmt: skip
def test_explain_claims_of_reopening_what_the_kernel_can_hold(profile: str, abi: int, line: str) -> None:
    """Landlock holds truncation since ABI 3; `untrusted` goes on without any of it."""
    granting = dataclasses.replace(profile_named(profile), grants=(numbered("file:/x:write"),))
    caller = dataclasses.replace(sandbox.Caller.of_process(parent_pid=os.getppid()), landlock_abi=abi)
    said = {text.strip() for text in explain(granting, (), caller)}
    assert said & {CANNOT, STILL} == {line}


def test_residue_reopening_goes_as_far_as_the_view(file: Path) -> None:
    """The denial is above: there the view does not have the file at all."""
    value = seen("try_(reopen, os.O_RDWR)", f"file:{file}:write,raw", "untrusted", write=[str(file.parent)])
    assert value == "ok"


@pytest.mark.parametrize("profile", PROFILES)
def test_residue_reopening_goes_no_further_than_the_mode(file: Path, profile: str) -> None:
    """The allow twin is above: there the mode gives the user everything. Root has no capability against it, either."""
    file.chmod(0o444)
    assert seen("try_(reopen, os.O_WRONLY)", f"file:{file}:read,raw", profile) == "EACCES"


# ---- inherited descriptors


def inherit(program: str, fd: int, profile: str = "untrusted", *, raw: bool = False) -> object:
    return seen(program, f"inherit:{fd}" + (":raw" if raw else ""), profile)


INHERITED: Final[dict[str, Callable[[Path], Iterator[tuple[object, object]]]]] = {}


def claim(line: str) -> Callable[[Callable[[Path], Iterator[tuple[object, object]]]], None]:
    def register(function: Callable[[Path], Iterator[tuple[object, object]]]) -> None:
        INHERITED[line] = function

    return register


SHARED: Final = "what the caller's descriptor can; offset, flags and locks are shared with the caller"


@claim(f"can: {SHARED}")
def _shared(path: Path) -> Iterator[tuple[object, object]]:
    with open(path, "r+b", buffering=0) as mine, open(path, "rb") as other:
        yield inherit("[os.read(3, 2), os.write(3, b'X')]", mine.fileno(), raw=True), [b"ab", 1]
        yield os.lseek(mine.fileno(), 0, os.SEEK_CUR), 3
        yield inherit("fcntl.fcntl(3, fcntl.F_SETFL, os.O_NONBLOCK)", mine.fileno(), raw=True), 0
        yield os.get_blocking(mine.fileno()), False
        fcntl.flock(mine, fcntl.LOCK_EX)
        yield inherit("try_(fcntl.flock, 3, fcntl.LOCK_UN)", mine.fileno(), raw=True), "ok"
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@claim(f"can: anything else: {SHARED}")
def _shared_by_others(_path: Path) -> Iterator[tuple[object, object]]:
    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0) as reader, open(write_end, "wb", buffering=0) as writer:
        yield inherit("[os.write(3, b'X'), fcntl.fcntl(3, fcntl.F_SETFL, os.O_NONBLOCK)]", writer.fileno()), [1, 0]
        yield reader.read(9), b"X"
        yield os.get_blocking(writer.fileno()), False


@claim("can: a file: what the caller's descriptor can; it is opened anew: offset, flags and locks are its own")
def _anew(path: Path) -> Iterator[tuple[object, object]]:
    with open(path, "r+b", buffering=0) as mine, open(path, "rb") as other:
        yield inherit("[os.read(3, 2), os.write(3, b'X')]", mine.fileno()), [b"ab", 1]
        yield os.lseek(mine.fileno(), 0, os.SEEK_CUR), 0
        yield inherit("fcntl.fcntl(3, fcntl.F_SETFL, os.O_NONBLOCK)", mine.fileno()), 0
        yield os.get_blocking(mine.fileno()), True
        fcntl.flock(mine, fcntl.LOCK_EX)
        yield inherit("try_(fcntl.flock, 3, fcntl.LOCK_UN)", mine.fileno()), "ok"
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@claim("cannot: a file that is open for reading only: be written or changed by any means")
def _held(path: Path) -> Iterator[tuple[object, object]]:
    with open(path, "rb") as mine:
        for profile in PROFILES:
            value = inherit(f"[{REOPEN}, {CHANGES}]", mine.fileno(), profile)
            changes = ["EROFS", "EROFS", "EROFS", "EACCES_OR_EPERM"]
            yield fits(value, [["ok", *["EROFS_OR_EACCES"] * 4], changes]), True


def of_files(line: str) -> tuple[str, str]:
    return tuple(line.replace(": ", f": a file{which}: ", 1) for which in ("", " that is open for writing"))  # type: ignore[return-value]


@claim(of_files(STILL)[0])
def _file(path: Path) -> Iterator[tuple[object, object]]:
    with open(path, "rb") as mine:
        yield inherit("try_(os.write, 3, b'x')", mine.fileno(), HOST_VIEW, raw=True), "EBADF"
        yield inherit(REOPEN, mine.fileno(), HOST_VIEW, raw=True), ["ok"] * 5


def of_appending(line: str) -> str:
    return line.replace(": ", ": a file that is open for appending: ", 1)


@claim(of_appending(APPENDS))
def _append(path: Path) -> Iterator[tuple[object, object]]:
    with open(path, "ab") as mine:
        for profile in PROFILES:
            before = path.read_bytes()
            yield inherit("os.write(3, b'x')", mine.fileno(), profile), 1
            yield path.read_bytes(), before + b"x"


@claim(of_appending(NO_FILE))
def _no_file(path: Path) -> Iterator[tuple[object, object]]:
    with open(path, "ab") as mine:
        for profile in PROFILES:
            yield inherit(NOT_A_FILE[0], mine.fileno(), profile), NOT_A_FILE[1]
            yield inherit("metadata()[:2]", mine.fileno(), profile), ["ok", "ok"]  # of the pipe
            yield (path.stat().st_mode & 0o777, path.stat().st_mtime > 1), (0o755, True)


@claim(RELAYED)
def _relayed(path: Path) -> Iterator[tuple[object, object]]:
    with open(path, "r+b", buffering=0) as mine:
        yield relayed("[os.read(3, 3), try_(os.write, 3, b'x')]", mine.fileno(), "read"), [b"abc", "EBADF"]
        yield relayed("[try_(os.read, 3, 3), os.write(3, b'X')]", mine.fileno(), "write"), ["EBADF", 1]
        yield path.read_bytes(), b"Xbcdef"


@claim(NOT_CALLERS)
def _not_callers(path: Path) -> Iterator[tuple[object, object]]:
    with open(path, "rb", buffering=0) as mine:
        program = "[os.read(3, 3), try_(os.lseek, 3, 0, 0), os.set_blocking(3, False), *metadata()[:2]]"
        yield relayed(program, mine.fileno(), "read"), [b"abc", "ESPIPE", None, "ok", "ok"]
        yield (os.lseek(mine.fileno(), 0, os.SEEK_CUR), os.get_blocking(mine.fileno())), (0, True)
        yield (path.stat().st_mode & 0o777, path.stat().st_mtime > 1), (0o755, True)


@claim(own_pipe(3))
def _own_pipe(_path: Path) -> Iterator[tuple[object, object]]:
    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0) as reader:
        with open(write_end, "wb"):
            program = "[os.write(os.open('/proc/self/fd/3', os.O_WRONLY), b'own'), os.read(3, 9)]"
            yield relayed(program, read_end, "read"), [3, b"own"]
        yield reader.read(9), b""


def relayed(program: str, fd: int, access: str) -> object:
    return seen(program, f"inherit:{fd}:{access},relay", "untrusted")


@claim(of_files(STILL)[1])
def _file_for_writing(path: Path) -> Iterator[tuple[object, object]]:
    with open(path, "wb") as mine:
        yield inherit(REOPEN, mine.fileno(), HOST_VIEW), ["ok"] * 5


@claim(of_files(CANNOT)[0])
def _file_that_is_held(path: Path) -> Iterator[tuple[object, object]]:
    for mode, access in (("rb", "read"), ("ab", "write"), ("r+b", "read-write")):
        with open(path, mode) as mine:
            yield inherit(REOPEN, mine.fileno(), raw=True), REOPENED[access]


@claim(of_files(CANNOT)[1])
def _file_for_writing_that_is_held(path: Path) -> Iterator[tuple[object, object]]:
    for mode, access in (("wb", "write"), ("r+b", "read-write")):
        with open(path, mode) as mine:
            yield inherit(REOPEN, mine.fileno()), REOPENED[access]


@claim(of_files(METADATA)[0])
def _metadata(path: Path) -> Iterator[tuple[object, object]]:
    with open(path, "rb") as mine:
        for profile in PROFILES:
            yield inherit("metadata()", mine.fileno(), profile, raw=True), ["ok"] * 3


@claim(of_files(METADATA)[1])
def _metadata_for_writing(path: Path) -> Iterator[tuple[object, object]]:
    with open(path, "r+b") as mine:
        for profile in PROFILES:
            yield inherit("metadata()", mine.fileno(), profile), ["ok"] * 3


@claim("still: a pipe: /proc/self/fd/3 opens the other end as well")
def _pipe(_path: Path) -> Iterator[tuple[object, object]]:
    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0) as reader, open(write_end, "wb"):
        yield inherit("try_(os.write, 3, b'x')", read_end), "EBADF"
        yield inherit("os.write(os.open('/proc/self/fd/3', os.O_WRONLY), b'other end')", read_end), 9
        yield reader.read(99), b"other end"


@claim("still: a Unix socket: descriptors can be sent and received over it, as the filter allows")
def _socket(_path: Path) -> Iterator[tuple[object, object]]:
    ours, theirs = socket.socketpair()
    send = "socket.send_fds(socket.socket(fileno=os.dup(3)), [b'x'], [os.open('/etc/passwd', os.O_RDONLY)])"
    with ours, theirs, open("/etc/passwd", "rb") as passwd:
        yield inherit(send, theirs.fileno()), 1
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        yield os.path.sameopenfile(fds[0], passwd.fileno()), True
        socket.send_fds(ours, [b"x"], fds)
        os.close(fds[0])
        receive = "os.fstat(socket.recv_fds(socket.socket(fileno=os.dup(3)), 1, 1)[1][0]).st_ino"
        yield inherit(receive, theirs.fileno()), os.fstat(passwd.fileno()).st_ino
        # The twin: `sealed` allows no calls of sockets.
        yield inherit("try_(os.write, 3, b'x')", theirs.fileno(), "sealed"), "ok"
        refused = sandbox.run(
            [PYTHON, "-S", "-c", f"{PRELUDE}\nprint(try_(lambda: {send}))"],
            grants=[f"g@3=inherit:{theirs.fileno()}"], profile="sealed", stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        yield refused.stdout, "EPERM\n"


@pytest.mark.parametrize("line", INHERITED)
def test_residue_of_an_inherited_descriptor_is_true(file: Path, line: str) -> None:
    for value, wanted in INHERITED[line](file):
        assert value == wanted


def test_residue_lines_of_inherited_descriptors_each_have_a_test() -> None:
    every = [
        residue(numbered(words), HELD, governed=governed)
        for words in ("inherit:9", "inherit:9:raw", "inherit:9:pipe", "inherit:9:relay")
        for governed in (False, True)
    ]
    assert set().union(*every) - OF_SOCKETS == set(INHERITED)
    for governed, profile in ((True, "untrusted"), (False, HOST_VIEW)):
        for fd_type in ("file", "pipe", "socket", "eventfd"):
            lines = residue(numbered(f"inherit:9:{fd_type}"), HELD, governed=governed)
            lines = tuple(line for line in lines if line not in OF_SOCKETS)
            assert set(lines) <= {line for line in INHERITED if is_true_under(line, profile)}
            others = [line for line in lines[1:] if not re.search(fd_type, line)]
            assert others == []
