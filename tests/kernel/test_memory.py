"""Grants that are memory: data and copies that nobody can change, scratch files that end at their limit, secrets."""

from __future__ import annotations

import dataclasses
import errno
import os
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox import CopyGrant, DataGrant, ScratchGrant
from sandbox.grants import MAX_COPY, MAX_DATA_TEXT, Grant
from sandbox.profile import Profile
from tests.support.callers import PYTHON, launch, plan_of, shown
from tests.support.callers import sandbox as command_line
from tests.support.native import ALL_SEALS
from tests.support.probes import SEALS_OF_A_FILE, Probes, public_folder, verdicts

REFUSED = (-1, errno.EPERM)
NOT_OPEN = (-1, errno.EBADF)


def run(*command: str, grants: list[Grant | str], **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
    return sandbox.run(
        list(command), grants=grants, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        **{**shown(*command), **options},
    )  # fmt: skip


def python(program: str, *grants: Grant | str, **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
    prelude = (
        "import errno, fcntl, mmap, os\n"
        "def try_(f, *args):\n"
        "    try: return f(*args)\n"
        "    except OSError as error: return errno.errorcode[error.errno]\n"
    )
    return run(PYTHON, "-S", "-c", prelude + program, grants=list(grants), **options)


# --- data and copies


@pytest.mark.parametrize("kind", ["data", "copy"])
def test_data_can_be_read_and_be_changed_by_nothing(probes: Probes, tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("value")
    grant = "d=data:value" if kind == "data" else f"d=copy:{tmp_path}/file"
    done = run(probes["access"], "3", "4", grants=[grant, f"f=file:{tmp_path}/file:read-write"])
    told = verdicts(done.stdout)
    assert (told.pop("4-seals"), told.pop("4-add-seals")) in SEALS_OF_A_FILE
    found = {name: (verdict.result, verdict.errno) for name, verdict in told.items()}
    seals = found.pop("3-seals")
    assert seals[0] & ALL_SEALS == ALL_SEALS
    assert found == {
        "3-read": (1, 0), "3-map-read": (0, 0), "3-map-write": (-1, errno.EACCES),
        "3-add-seals": REFUSED, "3-write": NOT_OPEN, "3-truncate": (-1, errno.EINVAL), "3-grow": (-1, errno.EINVAL),
        "4-read": (1, 0), "4-map-read": (0, 0), "4-map-write": (0, 0),
        "4-write": (1, 0), "4-truncate": (0, 0), "4-grow": (0, 0),
    }  # fmt: skip


def test_data_is_the_text_to_the_byte(tmp_path: Path) -> None:
    for text in ("", "é\n", "a:read,create", "x" * MAX_DATA_TEXT):
        (tmp_path / "wanted").write_bytes(text.encode())
        grants: list[Grant | str] = [DataGrant(name="d", data=text), f"w=file:{tmp_path}/wanted"]
        assert run("cmp", "/dev/fd/3", "/dev/fd/4", grants=grants).returncode == 0, text[:20]


@pytest.mark.parametrize("kind", ["data", "copy"])
def test_data_opened_anew_reads_and_does_not_write(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("value")
    grant = "d=data:value" if kind == "data" else f"d=copy:{tmp_path}/file"
    program = (
        "print(os.read(os.open('/dev/fd/3', os.O_RDONLY), 9), os.lseek(3, 0, 1), try_(os.open, '/dev/fd/3', os.O_RDWR),"
        " try_(os.fchmod, 3, 0o600), try_(os.write, os.open('/dev/fd/3', os.O_RDWR), b'x'))"
    )
    assert python(program, grant).stdout == "b'value' 0 EACCES None EPERM\n"


def test_copy_is_what_the_file_was_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    program = "import sys\nprint('ready', flush=True); sys.stdin.readline(); print(os.read(3, 99), os.read(4, 99))"
    with sandbox.Popen(
        [PYTHON, "-c", "import os\n" + program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        grants=[CopyGrant(name="copy", copy=str(path)), f"file=file:{path}"],
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        path.write_text("after!")
        assert process.communicate("\n")[0] == "b'before' b'after!'\n"


def test_copy_of_the_largest_size_is_given_and_of_one_byte_more_refused(
    probes: Probes, marker: Path, tmp_path: Path
) -> None:
    with open(tmp_path / "big", "wb") as file:
        file.truncate(MAX_COPY)
    grant = f"c=copy:{tmp_path}/big"
    assert run("wc", "-c", "/dev/fd/3", grants=[grant]).stdout.split()[0] == str(MAX_COPY)
    os.truncate(tmp_path / "big", MAX_COPY + 1)
    ended = launch(plan_of([probes["mark"], marker], grant))
    assert (ended.code, marker.exists()) == (125, False)
    assert ended.err.startswith(
        f"sandbox: data: grant c: copy of {tmp_path}/big: the file is larger than a copy may be; "
    )  # fmt: skip


def test_copy_of_what_is_no_file_is_refused(probes: Probes, marker: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("")
    cases = {
        "fifo": "the descriptor is of another type: pipe", ".": "the descriptor is of another type: directory",
        "none": "No such file or directory",
    }  # fmt: skip
    for name, reason in cases.items():
        ended = launch(plan_of([probes["mark"], marker], f"c=copy:{tmp_path / name}"))
        assert (ended.code, marker.exists()) == (125, False)
        assert f": {reason}; check the path and who may read it" in ended.err
    assert launch(plan_of([probes["mark"], marker], f"c=copy:{tmp_path}/file")).code == 0


# --- scratch files

FILL = """
done = 0
while isinstance(size := try_(os.write, 3, b"x" * 1000), int): done += size
print(done, size)
"""


@pytest.mark.parametrize("size", [4096, 65536, 1 << 20])
def test_scratch_grows_to_its_limit_and_no_further(size: int) -> None:
    assert python(FILL, ScratchGrant(name="s", scratch=size)).stdout == f"{size} ENOSPC\n"


def test_scratch_limit_counts_in_whole_pages() -> None:
    assert python(FILL, "s=scratch:1").stdout == "4096 ENOSPC\n"
    assert python(FILL, "s=scratch:4097").stdout == "8192 ENOSPC\n"


def test_scratch_appends_and_has_room_again_after_it_was_cut() -> None:
    program = """
fd = os.open("/dev/fd/3", os.O_RDWR | os.O_APPEND)
print([os.write(fd, b"y" * 3000), os.write(fd, b"z" * 3000), try_(os.write, fd, b"!")])
print(os.pread(3, 2, 2999), os.fstat(3).st_size)
os.ftruncate(fd, 100)
print(os.write(fd, b"!"), os.pread(3, 9, 99), os.read(3, 1))
"""
    assert python(program, "s=scratch:4K").stdout == "[3000, 1096, 'ENOSPC']\nb'yz' 4096\n1 b'y!' b'y'\n"


def test_scratch_memory_behind_the_limit_cannot_be_had_by_any_way() -> None:
    """By size, by reserving, by a mapping, or as attributes of the file; each within the limit is the twin."""
    program = """
def mapped(at):
    child = os.fork()
    if child == 0:
        mmap.mmap(3, 1 << 20)[at] = 1
        os._exit(0)
    return os.waitpid(child, 0)[1] & 0x7f
print(try_(os.posix_fallocate, 3, 0, 65536), try_(os.posix_fallocate, 3, 0, 65537))
os.ftruncate(3, 0)
print(try_(os.ftruncate, 3, 1 << 20), mapped(100), [mapped(at) for at in range(4096, 1 << 17, 4096)].count(7))
print({try_(os.setxattr, 3, f"user.{at}", b"x" * 1000) for at in range(100)} - {"ENOSPC", "EOPNOTSUPP"})
"""
    done = python(program, "s=scratch:64K")
    assert done.stdout.splitlines() == ["None ENOSPC", "None 0 16", "set()"]


def test_scratch_is_a_plain_file_for_programs_that_sort_and_write() -> None:
    script = "sort -o /dev/fd/3 /etc/passwd && sort -c /dev/fd/3 && echo more >>/dev/fd/3 && tail -n 1 /dev/fd/3"
    assert run("sh", "-c", script, grants=["s=scratch:1M"]).stdout == "more\n"


def test_scratch_is_empty_and_each_has_its_own() -> None:
    program = "print(os.write(3, b'abc'), os.fstat(3).st_size, os.fstat(4).st_size, os.fstat(3).st_nlink)"
    for _ in range(2):
        assert python(program, "a=scratch:4K", "b=scratch:4K").stdout == "3 3 0 0\n"


def test_scratch_can_neither_be_executed_nor_be_given_a_name(tmp_path: Path) -> None:
    program = f"""
os.write(3, b"#!/bin/sh\\n")
os.fchmod(3, 0o755)
print(try_(lambda: mmap.mmap(3, 9, prot=mmap.PROT_READ)) is not None, try_(os.execve, "/proc/self/fd/3", ["x"], {{}}))
print(try_(lambda: mmap.mmap(3, 9, prot=mmap.PROT_READ | mmap.PROT_EXEC)))
print(try_(lambda: os.link("/proc/self/fd/3", {str(tmp_path / "new")!r}, follow_symlinks=True)))
"""
    done = python(program, "s=scratch:4K", write=[str(tmp_path)])
    assert done.stdout.splitlines() == ["True EACCES", "EPERM", "EXDEV"], done.stderr


def test_scratch_belongs_to_whom_root_becomes() -> None:
    if os.geteuid():
        pytest.skip("needs root: another user")
    program = "print(os.fstat(3).st_uid, os.write(os.open('/dev/fd/3', os.O_RDWR), b'x'))"
    assert python(program, "s=scratch:4K", user="65534:65534", cwd="/").stdout == "65534 1\n"


def test_scratch_leaves_nothing_behind(probes: Probes, marker: Path) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    held = sorted(os.listdir("/proc/self/fd"))
    with sandbox.Popen(["sleep", "30"], grants=["s=scratch:64K"]) as process:
        assert Path("/proc/self/mountinfo").read_text() == mounts
        if os.geteuid() == 0:  # who may look from outside
            links = [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{process.pid}/fd")]
            assert [link for link in links if link.startswith("/#")] == []
        process.kill()
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert sorted(os.listdir("/proc/self/fd")) == held
    assert launch(plan_of([probes["mark"], marker], "s=scratch:64K")).code == 0


def test_memory_grants_of_the_command_line_and_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("copied")
    script = 'cat <&"$SANDBOX_FD_WORDS"; cat <&9; echo scratch >&"$1"; cat <"/dev/fd/$1"'
    ended = command_line(
        "--grant", "words=data:some: text\n", "--grant", f"copy@9=copy:{tmp_path}/file", "--grant", "s=scratch:64M",
        "--", "sh", "-c", script, "sh", "{fd:s}",
    )  # fmt: skip
    assert ended.out == "some: text\ncopiedscratch\n", ended


def test_memory_grants_close_at_a_later_exec_but_what_propagates() -> None:
    script = "ls /proc/self/fd; :"
    for kind in ("data:x", "copy:/etc/passwd", "scratch:4K"):
        assert run("sh", "-c", script, grants=[f"g={kind}"]).stdout.split() == ["0", "1", "2", "3"]
        assert run("sh", "-c", script, grants=[f"g+propagate={kind}"]).stdout.split() == ["0", "1", "2", "3", "4"]


# --- secrets and core dumps


def without_limits() -> Profile:
    untrusted = sandbox.load("untrusted", search=sandbox.default_search_path({}))
    return dataclasses.replace(untrusted, limits=sandbox.Limits())


def test_secret_takes_core_dumps_away_unless_the_profile_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hunter2")
    show = "import resource; print(*resource.getrlimit(resource.RLIMIT_CORE))"
    ours = " ".join(map(str, resource.getrlimit(resource.RLIMIT_CORE)))

    def shown_limit(*grants: str, **walls: Any) -> str:  # noqa: ANN401
        return python(show, *grants, profile=without_limits(), **walls).stdout.strip()

    # 1 keeps a handler behind a pipe away as well, which 0 does not (fs/coredump.c).
    assert shown_limit("s=secret:env:TOKEN") == "1 1"
    assert shown_limit("s=secret:env:TOKEN", limits={"core_size": "4K"}) == "4096 4096"
    assert shown_limit("d=data:x") == shown_limit() == ours


def test_secret_that_was_read_is_in_no_core_dump(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern != "core":
        pytest.skip("kernel lacks: a core_pattern that writes into the working directory")
    monkeypatch.setenv("TOKEN", "hunter2" * 100)
    crash = "kept = os.read(3, 9999); os.abort()"
    with public_folder() as folder:
        folder.chmod(0o777)
        options: dict[str, Any] = {"profile": without_limits(), "write": [str(folder)], "cwd": str(folder)}
        assert python(crash, "s=secret:env:TOKEN", **options).returncode == -6
        assert list(folder.iterdir()) == []
        assert python(crash, "s=secret:env:TOKEN", **options, limits={"core_size": "1G"}).returncode == -6
        (core,) = folder.iterdir()
        assert b"hunter2" * 100 in core.read_bytes()
