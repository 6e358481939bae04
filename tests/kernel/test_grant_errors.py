"""A grant that cannot be held is one line that names it, exit code 125, and nothing started."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import sandbox
from sandbox.grants import SAFE_TYPES, FdType
from tests.support.callers import Ended, launch, plan_of
from tests.support.callers import sandbox as command_line
from tests.support.probes import Probes

UNSAFE = [str(kind) for kind in FdType if kind not in SAFE_TYPES and kind is not FdType.OTHER]


def refuse(
    probes: Probes, marker: Path, *grants: str, setup: Callable[[], None] | None = None, words: tuple[str, ...] = ()
) -> str:
    """Run a command that would show itself by the command line; return the one line that refuses it."""
    given = [word for grant in grants for word in ("--grant", grant)]
    ended = command_line(*given, *words, "--", probes["mark"], marker, setup=setup)
    return check(ended, marker)


def check(ended: Ended, marker: Path) -> str:
    assert ended.code == 125, ended
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert ended.err.endswith("\n")
    assert not marker.exists()
    return ended.err.rstrip("\n")


def test_refuse_twin_command_runs_without_the_grant(probes: Probes, marker: Path) -> None:
    assert command_line("--", probes["mark"], marker) == Ended(0, "", "")
    assert marker.exists()


@pytest.mark.parametrize("number", [3, 4, 5, 6, 7, 9, 63, 1000, 100000])
def test_inherit_closed_descriptor_is_refused(probes: Probes, marker: Path, number: int) -> None:
    """Above all the numbers that the interpreter or the launcher might use themselves."""
    line = refuse(probes, marker, f"log=inherit:{number}")
    assert line == (
        f"sandbox: inherit: grant log: descriptor {number}: Bad file descriptor; "
        "open it in the caller, or declare its type and access as they are"
    )


@pytest.mark.parametrize("kind", UNSAFE)
def test_inherit_untyped_of_a_dangerous_type_is_refused(probes: Probes, marker: Path, kind: str) -> None:
    ended = launch(plan_of([probes["mark"], marker], "a=inherit:9"), before=[probes["hold"], kind, "9", "--"])
    if ended.code == 77:
        pytest.skip(f"needs root: {kind}" if os.geteuid() else f"kernel lacks: {kind}")
    line = check(ended, marker)
    assert line.startswith(
        f"sandbox: inherit: grant a: descriptor 9: the descriptor is of another type: {kind}; "
    )  # fmt: skip


@pytest.mark.parametrize("held", ["file", "directory", "pipe", "socket", "memfd", "path", "epoll"])
def test_inherit_typed_as_something_else_is_refused(probes: Probes, marker: Path, held: str) -> None:
    asked = "eventfd" if held != "eventfd" else "pipe"
    plan = plan_of([probes["mark"], marker], f"a=inherit:9:{asked}")
    line = check(launch(plan, before=[probes["hold"], held, "9", "--"]), marker)
    assert f"another type: {held};" in line
    raw = ",raw" if held in ("file", "directory") else ""  # the probe's file has no name
    plan = plan_of([probes["mark"], marker], f"a=inherit:9:{held}{raw}")
    assert launch(plan, before=[probes["hold"], held, "9", "--"]) == Ended(0, "", "")


@pytest.mark.parametrize(
    ("asked", "flags", "found"),
    [
        ("read", os.O_RDWR, "read-write"),
        ("read", os.O_WRONLY, "write"),
        ("write", os.O_RDONLY, "read"),
        ("write", os.O_WRONLY | os.O_APPEND, "append"),
        ("append", os.O_WRONLY, "write"),
        ("read-write", os.O_RDONLY, "read"),
    ],
)
def test_inherit_with_another_access_is_refused(
    probes: Probes, marker: Path, tmp_path: Path, asked: str, flags: int, found: str
) -> None:
    (tmp_path / "f").write_text("")

    def caller() -> None:
        os.dup2(os.open(tmp_path / "f", flags), 9)

    line = check(launch(plan_of([probes["mark"], marker], f"a=inherit:9:{asked}"), setup=caller), marker)
    assert f"grant a: descriptor 9: the descriptor has another access mode: {found};" in line
    assert launch(plan_of([probes["mark"], marker], f"a=inherit:9:{found}"), setup=caller).code == 0


def test_file_missing_directory_or_dangling_is_refused(probes: Probes, marker: Path, tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "f").write_text("")
    cases = {
        "missing": "No such file or directory",
        "missing/below": "No such file or directory",
        "f/below": "Not a directory",
        "dangling": "No such file or directory",
        "loop": "Too many levels of symbolic links",
        ".": "the descriptor is of another type: directory",
        "n" * 300: "File name too long",
    }
    for name, reason in cases.items():
        path = tmp_path / name
        for access in ("read", "write", "append", "read-write"):
            plan = plan_of([probes["mark"], marker], f"cfg=file:{path}:{access}")
            line = check(launch(plan), marker)
            assert line.startswith("sandbox: open: grant cfg: file ")
            assert f": {reason}; check the path and who may open it" in line
    assert launch(plan_of([probes["mark"], marker], f"cfg=file:{tmp_path}/f:read-write")).code == 0


def test_file_create_where_it_cannot_be_is_refused(probes: Probes, marker: Path, tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "fifo")
    for name in ("missing/new", "dangling", "fifo", "."):
        check(launch(plan_of([probes["mark"], marker], f"cfg=file:{tmp_path}/{name}:write,create,truncate")), marker)
    # A dangling link must not be a way to make a file elsewhere.
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("access", ["read", "write", "read-write", "append"])
def test_file_fifo_socket_or_device_is_refused_without_opening_it(
    probes: Probes, marker: Path, tmp_path: Path, access: str
) -> None:
    fifo, bound = tmp_path / "fifo", tmp_path / "socket"
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(bound))
        cases = {fifo: "pipe", bound: "socket", Path("/dev/null"): "char-device", Path("/dev/tty"): "char-device"}
        for path, kind in cases.items():
            start = time.monotonic()
            line = check(launch(plan_of([probes["mark"], marker], f"cfg=file:{path}:{access}")), marker)
            assert f": the descriptor is of another type: {kind}; " in line
            assert time.monotonic() - start < 20


def test_file_truncate_does_not_happen_when_a_later_grant_fails(probes: Probes, marker: Path, tmp_path: Path) -> None:
    """Grants are obtained in order, so what a file grant does is done; a descriptor that is closed comes first."""
    (tmp_path / "kept").write_text("kept")
    check(launch(plan_of([probes["mark"], marker], f"f=file:{tmp_path}/kept:write,truncate", "a=inherit:9")), marker)
    assert (tmp_path / "kept").read_text() == "kept"


def test_file_unreadable_is_refused_for_an_ordinary_user(probes: Probes, marker: Path, tmp_path: Path) -> None:
    path = tmp_path / "locked"
    path.write_text("x")
    path.chmod(0)
    plan = plan_of([probes["mark"], marker], f"cfg=file:{path}")
    if os.geteuid() == 0:
        ended = launch(plan, before=["/usr/bin/setpriv", "--reuid", "65534", "--clear-groups"])
    else:
        ended = launch(plan)
    assert ": Permission denied; " in check(ended, marker)
    ended = launch(plan_of([probes["mark"], marker], f"s=secret:{path}")) if os.geteuid() else ended
    assert ": Permission denied; " in check(ended, marker)


@pytest.mark.parametrize(
    ("grants", "words"),
    [
        (["a=file:/etc/passwd", "a=file:/etc/group"], "grant: a: the name is used twice"),
        (["a@9=file:/etc/passwd", "b@9=file:/etc/group"], "grant: b: the number is used twice"),
        (["a=inherit:9", "b=inherit:9"], "grant: b: the descriptor is used twice"),
        (["a-b=file:/etc/passwd", "a.b=file:/etc/group"], "grant: a.b: its variable is that of another grant"),
        (["a@2=file:/etc/passwd"], "grant: a: number 2 is out of range"),
        (["a@65536=file:/etc/passwd"], "grant: a: number 65536 is out of range"),
        (["a=thing:/etc/passwd"], "grant: a: cannot read"),
        (["a"], "grant: a: cannot read"),
        (["a=inherit:x"], "grant: a: 'x' is not a descriptor number"),
    ],
)
def test_grants_that_contradict_are_refused(probes: Probes, marker: Path, grants: list[str], words: str) -> None:
    assert words in refuse(probes, marker, *grants)


def test_grant_number_above_the_hard_limit_is_refused(probes: Probes, marker: Path) -> None:
    def caller() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))

    plan = plan_of([probes["mark"], marker], "a@512=file:/etc/passwd")
    line = check(launch(plan, setup=caller), marker)
    assert line.startswith("sandbox: place: grant a: number 512: ")
    assert launch(plan_of([probes["mark"], marker], "a@511=file:/etc/passwd"), setup=caller) == Ended(0, "", "")


def test_secret_unset_or_too_large_is_refused(probes: Probes, marker: Path, tmp_path: Path) -> None:
    line = refuse(probes, marker, "key=secret:env:NO_SUCH_VARIABLE")
    assert line == (
        "sandbox: secret: grant key: variable NO_SUCH_VARIABLE: the variable is not set; "
        "set the variable for the caller"
    )
    (tmp_path / "large").write_bytes(b"x" * ((1 << 20) + 1))
    line = refuse(probes, marker, f"key=secret:{tmp_path}/large")
    assert f"grant key: file {tmp_path}/large: the secret is larger than 1 MiB" in line
    assert "another type: directory" in refuse(probes, marker, f"key=secret:{tmp_path}")


def test_secret_that_the_environment_keeps_is_refused(
    probes: Probes, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME_TOKEN", "x")
    line = refuse(probes, marker, "key=secret:env:HOME_TOKEN", words=("--env", "HOME_TOKEN"))
    assert line.startswith("sandbox: grant: key: the environment keeps 'HOME_TOKEN'")


@pytest.mark.parametrize("number", [3, 5, 9, 100])
def test_status_descriptor_closed_is_refused(probes: Probes, marker: Path, number: int) -> None:
    line = refuse(probes, marker, words=("--status-fd", str(number)))
    assert line == (
        f"sandbox: status: status descriptor {number}: Bad file descriptor; give a descriptor that is open"
    )  # fmt: skip


def test_status_descriptor_that_is_a_grant_is_refused(probes: Probes, marker: Path) -> None:
    line = refuse(probes, marker, "a=inherit:9", words=("--status-fd", "9"))
    assert line.startswith("sandbox: grant: a: descriptor 9 is the status descriptor")


def test_placeholder_of_an_unknown_grant_is_refused(probes: Probes, marker: Path) -> None:
    ended = command_line("--", probes["mark"], marker, "{fd:nothing}")
    assert "grant: nothing: no such grant, in argument '{fd:nothing}'" in check(ended, marker)


def test_api_raises_grant_and_launch_errors(probes: Probes, marker: Path) -> None:
    with pytest.raises(sandbox.GrantError, match="the name is used twice") as refused:
        sandbox.run([probes["mark"], str(marker)], grants=["a=file:/etc/passwd", "a=file:/etc/group"])
    assert refused.value.grant == "a"
    with pytest.raises(sandbox.LaunchError) as failed:
        sandbox.run([probes["mark"], str(marker)], grants=["cfg=file:/nonexistent"], stdin=subprocess.DEVNULL)
    assert (failed.value.step, failed.value.object) == ("open", "grant cfg: file /nonexistent")
    assert not marker.exists()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_api_inherit_of_a_stream_that_is_closed_here_is_refused(probes: Probes, marker: Path, number: int) -> None:
    script = (
        f"import os, sandbox\nos.close({number})\n"
        f"try: sandbox.run([{probes['mark']!r}, {str(marker)!r}], grants=['a=inherit:{number}'])\n"
        "except sandbox.LaunchError as error: os._exit(40)\nos._exit(41)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", script], check=False).returncode == 40
    assert not marker.exists()


@pytest.mark.parametrize("offset", range(6))
def test_api_inherit_of_a_closed_descriptor_is_refused_though_ours_take_its_number(
    probes: Probes, marker: Path, offset: int
) -> None:
    lowest = os.open("/", os.O_PATH)
    os.close(lowest)
    with pytest.raises(sandbox.LaunchError, match=f"grant a: descriptor {lowest + offset}: Bad file descriptor"):
        sandbox.run([probes["mark"], str(marker)], grants=[f"a=inherit:{lowest + offset}"], stdin=subprocess.PIPE)
    assert not marker.exists()


def test_api_with_closed_streams_child_cannot_write_into_the_status() -> None:
    script = (
        "import os, sandbox\nfor fd in (0, 1, 2): os.close(fd)\n"
        "done = sandbox.run(['sh', '-c', 'echo forged; echo forged >&2; echo forged >&0; exit 3'])\n"
        "os._exit(40 + done.returncode)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", script], check=False).returncode == 43
