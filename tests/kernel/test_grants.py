"""L3: each grant gives its object under its number with its access, and nothing more."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox import Access, FdType, FileGrant, InheritGrant, SecretGrant
from sandbox.grants import Grant
from sandbox.profile import ExecPolicy
from tests.support.callers import Ended, held_open, launch, plan_of, shown
from tests.support.callers import sandbox as command_line
from tests.support.probes import SEALS_OF_A_FILE, Probes, table, verdicts

SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def run(*command: str, grants: list[Grant | str]) -> subprocess.CompletedProcess[str]:
    return sandbox.run(
        list(command), grants=grants, capture_output=True, text=True, stdin=subprocess.DEVNULL, **shown(*command)
    )  # fmt: skip


def identity(path: Path) -> tuple[int, int]:
    return os.stat(path).st_dev, os.stat(path).st_ino


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_text("0123456789")
    return path


@pytest.mark.parametrize("inherited", [False, True])
@pytest.mark.parametrize(
    ("access", "flags", "may_read", "may_write"),
    [
        (Access.READ, os.O_RDONLY, True, False),
        (Access.WRITE, os.O_WRONLY, False, True),
        (Access.READ_WRITE, os.O_RDWR, True, True),
    ],
)
def test_grant_access_does_what_it_says_and_not_more(
    probes: Probes, data: Path, inherited: bool, access: Access, flags: int, may_read: bool, may_write: bool
) -> None:
    with held_open(data, flags) as fd:
        grant: Grant = InheritGrant(name="a", inherit=fd, access=access)
        if not inherited:
            grant = FileGrant(name="a", file=str(data), access=access)
        done = run(probes["access"], "3", grants=[grant])
        listed = run(probes["fds"], grants=[grant])
    assert (done.returncode, done.stderr) == (0, "")
    found = verdicts(done.stdout)
    assert (found["3-read"].result, found["3-read"].errno) == ((1, 0) if may_read else (-1, errno.EBADF))
    assert (found["3-write"].result, found["3-write"].errno) == ((1, 0) if may_write else (-1, errno.EBADF))
    assert (found["3-truncate"].errno == 0) is may_write
    assert (found["3-map-write"].errno == 0) is (may_read and may_write)
    assert table(listed.stdout).numbers[3].mode == flags
    assert table(listed.stdout).numbers[3].identity == identity(data)


def test_grant_append_writes_at_the_end_and_write_at_the_start(data: Path) -> None:
    script = "printf X >&3; printf Y >&4"
    run("sh", "-c", script, grants=[f"a=file:{data}:append", f"b=file:{data}:write"])
    assert data.read_text() == "Y123456789X"


def test_grant_create_makes_a_file_that_obeys_the_umask_and_truncate_empties(tmp_path: Path, data: Path) -> None:
    new = tmp_path / "new"
    plan = plan_of(["sh", "-c", "printf N >&3"], f"a=file:{new}:write,create", f"b=file:{data}:write,truncate")
    for mask, mode in ((0o077, 0o600), (0o022, 0o644), (0o000, 0o666)):
        new.unlink(missing_ok=True)
        assert launch(plan, setup=partial(os.umask, mask)).code == 0
        assert (new.read_text(), new.stat().st_mode & 0o777) == ("N", mode)
    assert data.read_text() == ""
    data.write_text("kept")
    run("true", grants=[f"a=file:{data}:write,create"])
    assert data.read_text() == "kept"
    data.chmod(0o640)
    run("true", grants=[f"a=file:{data}:write,create,truncate"])
    assert (data.read_text(), data.stat().st_mode & 0o777) == ("", 0o640)


@pytest.mark.parametrize(("raw", "after"), [("", 4), (":raw", 6)])
def test_grant_file_has_its_own_offset_and_a_raw_one_shares_the_callers(data: Path, raw: str, after: int) -> None:
    with held_open(data, os.O_RDONLY) as fd:
        os.lseek(fd, 4, os.SEEK_SET)
        done = run("sh", "-c", "head -c 2 <&3; head -c 2 <&4", grants=[f"a=file:{data}", f"b=inherit:{fd}{raw}"])
        assert done.stdout == "0145"
        assert os.lseek(fd, 0, os.SEEK_CUR) == after


def test_grant_numbers_names_and_placeholders_reach_the_child(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    grants = [f"first=file:{tmp_path}/a", f"my-log.x@40=file:{tmp_path}/b", f"third=file:{tmp_path}/c"]
    script = 'cat <&"$SANDBOX_FD_FIRST" /dev/fd/$SANDBOX_FD_MY_LOG_X - <"/dev/fd/$SANDBOX_FD_THIRD"; echo " $*"'
    words = ["--grant", grants[0], "--grant", grants[1], "--grant", grants[2], "--"]
    ended = command_line(*words, "sh", "-c", script, "sh", "{fd:my-log.x}", "x{fd:first}y{fd:third}")
    assert ended == Ended(0, "bc 40 x3y4\n", "") or ended.out.endswith(" 40 x3y4\n"), ended
    done = run("env", grants=list(grants))
    assert {line for line in done.stdout.splitlines() if line.startswith("SANDBOX_FD_")} == {
        "SANDBOX_FD_FIRST=3", "SANDBOX_FD_MY_LOG_X=40", "SANDBOX_FD_THIRD=4",
    }  # fmt: skip


def test_grant_inherited_numbers_are_swapped_and_rotated_by_the_launcher(probes: Probes, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abcd"]
    for path in paths:
        path.write_text(path.name)
    fds = dict(zip((3, 4, 5, 60), paths, strict=True))

    def caller() -> None:
        for number, path in fds.items():
            copy = fcntl.fcntl(os.open(path, os.O_RDONLY), fcntl.F_DUPFD, 100)
            os.dup2(copy, number)

    for order in ((4, 3, 5, 60), (4, 5, 3, 60), (60, 3, 4, 5), (5, 60, 3, 4), (3, 4, 5, 60)):
        targets = dict(zip(fds, order, strict=True))
        plan = plan_of([probes["fds"]], *(f"g{fd}@{number}=inherit:{fd}" for fd, number in targets.items()))
        ended = launch(plan, setup=caller)
        assert (ended.code, ended.err) == (0, "")
        numbers = table(ended.out).numbers
        assert set(numbers) == {0, 1, 2, *order}
        for fd, number in targets.items():
            assert numbers[number].identity == identity(fds[fd])


def test_grant_inherited_by_api_stays_open_in_the_caller(data: Path) -> None:
    with held_open(data, os.O_RDONLY) as fd:
        assert run("cat", "/dev/fd/3", grants=[InheritGrant(name="a", inherit=fd)]).stdout == "0123456789"
        assert os.pread(fd, 1, 0) == b"0"
        assert not os.get_inheritable(fd)


@pytest.mark.parametrize("kind", [t for t in FdType if t not in (FdType.OTHER, FdType.BLOCK_DEVICE)])
def test_grant_inherit_typed_accepts_its_type(probes: Probes, kind: FdType) -> None:
    # Below somebody's listener no second one can be had, and so no gate; the command can do without later execs.
    once: dict[str, Any] = {"exec": ExecPolicy.ONCE} if kind is FdType.SECCOMP_LISTENER else {}
    raw = ",raw" if kind in (FdType.FILE, FdType.DIRECTORY) else ""
    plan = plan_of([probes["fds"], "10"], f"a@5=inherit:9:{kind}{raw}", **once)
    ended = launch(plan, before=[probes["hold"], kind, "9", "--"])
    if ended.code == 77:
        pytest.skip(f"needs root: {kind}" if os.geteuid() else f"kernel lacks: {kind}")
    assert (ended.code, ended.err) == (0, "")
    assert set(table(ended.out).numbers) == {0, 1, 2, 5}


def test_grant_inherit_block_device_only_when_asked_for(probes: Probes) -> None:
    hold = [probes["hold"], "block-device", "9", "--"]
    typed = launch(plan_of([probes["fds"], "10"], "a=inherit:9:block-device"), before=hold)
    if typed.code == 77:
        pytest.skip("needs root: a block device" if os.geteuid() else "kernel lacks: block devices")
    assert typed.code == 0
    untyped = launch(plan_of([probes["fds"], "10"], "a=inherit:9"), before=hold)
    assert (untyped.code, "another type: block-device" in untyped.err) == (125, True)


@pytest.mark.parametrize("source", ["file", "variable", "fifo", "proc"])
def test_secret_is_sealed_and_appears_nowhere_else(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = "hunter2-" + "0123456789abcdef" * 2000
    path = tmp_path / "secret"
    grant = f"s=secret:{path}"
    monkeypatch.setenv("TOKEN", value)
    with ExitStack() as given:
        if source == "variable":
            grant = "s=secret:env:TOKEN"
        elif source == "file":
            path.write_text(value)
        elif source == "fifo":
            os.mkfifo(path)
            writer_process = given.enter_context(subprocess.Popen(["sh", "-c", f'printf %s "$TOKEN" >{path}']))
            given.callback(writer_process.kill)  # it would wait for a reader that a failed start never was
        else:
            value = value[:9000]
            reader, writer = os.pipe()
            given.callback(os.close, reader)
            os.write(writer, value.encode())
            os.close(writer)
            grant = f"s=secret:/proc/{os.getpid()}/fd/{reader}"
        done = run("sh", "-c", "cat <&3; env >&2; tr '\\0' '\\n' </proc/$$/cmdline >&2", grants=[grant])
    assert (done.returncode, done.stdout) == (0, value)
    assert "hunter2" not in done.stderr
    assert "TOKEN" not in done.stderr
    assert "SANDBOX_FD_S=3" in done.stderr


def test_secret_can_be_read_and_nothing_else_be_done_with_it(probes: Probes, tmp_path: Path) -> None:
    secret, plain = tmp_path / "secret", tmp_path / "plain"
    secret.write_text("value")
    plain.write_text("value")
    done = run(probes["access"], "3", "4", grants=[f"s=secret:{secret}", f"f=file:{plain}:read-write"])
    told = verdicts(done.stdout)
    assert (told.pop("4-seals"), told.pop("4-add-seals")) in SEALS_OF_A_FILE
    found = {name: (verdict.result, verdict.errno) for name, verdict in told.items()}
    refused = (-1, errno.EPERM)
    seals = found.pop("3-seals")
    assert seals[0] & SEALS == SEALS  # the kernel may add one against execution
    assert found == {
        "3-read": (1, 0), "3-map-read": (0, 0), "3-map-write": refused,
        "3-add-seals": refused, "3-write": refused, "3-truncate": refused, "3-grow": refused,
        "4-read": (1, 0), "4-map-read": (0, 0), "4-map-write": (0, 0),
        "4-write": (1, 0), "4-truncate": (0, 0), "4-grow": (0, 0),
    }  # fmt: skip
    assert secret.read_text() == "value"


def test_secret_cannot_be_read_from_the_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor was started with the variable; it overwrites it, and nobody in the sandbox can look at all."""
    monkeypatch.setenv("TOKEN", "hunter2")
    monkeypatch.setenv("OTHER", "plain")
    script = "for pid in $PPID $$; do tr '\\0' '\\n' </proc/$pid/environ; done"
    for walls in (False, True):
        ended = launch(plan_of(["sh", "-c", script], "s=secret:env:TOKEN", "n@4=file:/etc/passwd", walls=walls))
        assert "hunter2" not in ended.out
        assert "OTHER=" not in ended.out
        assert "SANDBOX_FD_S=3" in ended.out, "its own environment can be read"
        assert "Permission denied" in ended.err
    if os.geteuid() == 0:  # who may look from outside
        with sandbox.Popen(["sleep", "30"], grants=["s=secret:env:TOKEN"]) as process:
            seen = Path(f"/proc/{process.pid}/environ").read_text()
            process.kill()
        assert "OTHER=plain" in seen
        assert "TOKEN=xxxxxxx" in seen


def test_secret_of_exactly_the_largest_size_is_given(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * (1 << 20))
    assert run("wc", "-c", "/dev/fd/3", grants=[f"s=secret:{tmp_path}/big"]).stdout.split()[0] == str(1 << 20)
    (tmp_path / "empty").write_bytes(b"")
    assert run("wc", "-c", "/dev/fd/3", grants=[SecretGrant(name="s", secret=f"{tmp_path}/empty")]).stdout[0] == "0"
