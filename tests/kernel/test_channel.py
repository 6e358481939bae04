"""S1: grants sent while the sandbox runs are as strong as those of its start; nothing leaks on either side."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import pytest

import sandbox
from sandbox.channel import MAX_REVOCABLE
from sandbox.profile import ScmRights
from sandbox.resolve import for_caller
from tests.support.callers import PYTHON, Ended, opened
from tests.support.callers import sandbox as command_line
from tests.support.probes import Probes

PRELUDE: Final = """
import errno, fcntl, mmap, os, socket, sys
channel = socket.socket(fileno=int(os.environ["SANDBOX_FD_CHANNEL"]))
def take():
    name, fds, flags, _ = socket.recv_fds(channel, 64, 1, socket.MSG_CMSG_CLOEXEC)
    return name.decode(), fds[0] if fds else None
def say(value): channel.send(repr(value).encode())
def held(): return len(os.listdir("/proc/self/fd"))
def try_(f, *args):
    try: return f(*args)
    except OSError as error: return errno.errorcode[error.errno]
"""
# What can be done with a descriptor, but by opening it anew, which Landlock's rules of the start decide.
CAN: Final = """
def can(fd):
    os.set_blocking(fd, False)
    done = [try_(os.read, fd, 3), try_(os.lseek, fd, 0, 0), try_(os.write, fd, b"x"), try_(os.ftruncate, fd, 2)]
    done += [try_(os.fchmod, fd, 0o644), try_(os.utime, fd, (1, 1)), try_(os.setxattr, fd, "user.a", b"b")]
    done += [try_(fcntl.fcntl, fd, fcntl.F_GETFL), try_(fcntl.fcntl, fd, fcntl.F_GET_SEALS)]
    done += [try_(lambda: mmap.mmap(fd, 2, prot=p) and 0) for p in (mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC)]
    return done + [try_(os.execve, fd, ["x"], {})]
"""


def held() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def child(program: str, *, channel: Any = True, **options: Any) -> Iterator[sandbox.Popen]:  # noqa: ANN401
    """Start a program that speaks over its channel; afterwards this process holds what it held before."""
    before = held()
    command = [PYTHON, "-S", "-c", PRELUDE + program]
    with sandbox.Popen(command, channel=channel, **options) as process:
        try:
            yield process
            process.close_channel()
            process.wait(timeout=60)
        finally:
            process.kill()
    assert held() == before


def input_of(process: sandbox.Popen) -> IO[Any]:
    assert process.stdin is not None
    return process.stdin


def told(process: sandbox.Popen) -> Any:  # noqa: ANN401 - what the child said
    message = process.receive(timeout=60)
    assert message is not None
    assert message.descriptors == ()
    return eval(message.data, {})  # noqa: S307 - a literal of our own program


KINDS: Final = {
    "read": "file:{file}", "write": "file:{file}:write", "append": "file:{file}:append,raw",
    "both": "file:{file}:read-write", "new": "file:{file}-new:write,create", "raw": "file:{file}:raw",
    "secret": "secret:{file}", "variable": "secret:env:TOKEN",
    "data": "data:text", "copy": "copy:{file}", "scratch": "scratch:64K", "inherit": "inherit:{fd}:read,file",
    "inherit-raw": "inherit:{fd}:raw",
}  # fmt: skip


@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
def test_sent_grant_is_as_strong_as_one_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setenv("TOKEN", "value")
    path = tmp_path / "file"

    def fresh() -> None:
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        Path(f"{path}-new").unlink(missing_ok=True)

    fresh()
    fd = os.open(path, os.O_RDONLY)
    try:
        grant = words.format(file=path, fd=fd)
        with child(CAN + "say(can(int(os.environ['SANDBOX_FD_G'])))", grants=[f"g={grant}"]) as process:
            at_start = told(process)
        fresh()
        os.lseek(fd, 0, os.SEEK_SET)
        os.set_blocking(fd, True)
        with child(CAN + "name, fd = take(); say((name, can(fd)))") as process:
            process.send_grant(f"g={grant}")
            assert told(process) == ("g", at_start)
    finally:
        os.close(fd)
    assert len(at_start) == 13


def test_sent_file_is_opened_anew_as_it_was_granted_and_no_further(tmp_path: Path) -> None:
    """Also where nothing but its own mount holds it."""
    path = tmp_path / "file"
    path.write_text("text")
    program = """
for _ in range(2):
    link = f"/proc/self/fd/{take()[1]}"
    say([type(try_(os.open, link, flags)).__name__ for flags in (os.O_RDONLY, os.O_WRONLY)])
    say(try_(os.open, link, os.O_RDWR) == "EROFS")
"""
    bare = opened(sandbox.load("untrusted", search=sandbox.default_search_path({})))
    with child(program, profile=bare) as process:
        process.send_grant(sandbox.FileGrant(name="f", file=str(path)))
        assert [told(process), told(process)] == [["int", "str"], True]
        process.send_grant(f"f=file:{path}:read-write")
        assert [told(process), told(process)] == [["int", "int"], False]


def test_sent_relative_path_starts_at_this_process_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("text")
    with child("say(os.read(take()[1], 9))") as process:
        monkeypatch.chdir(tmp_path)
        process.send_grant("f=file:file")
        assert told(process) == b"text"


def test_ten_thousand_grants_sent_leave_both_sides_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    program = """
before, names = held(), set()
while True:
    name, fd = take()
    if fd is None: break
    assert os.pread(fd, 9, 0) == b"text"
    os.close(fd)
    names.add(name)
    if len(names) % 1000 == 0: say(held() - before)
"""
    grants = [f"file:{tmp_path}/file", "data:text"]
    with child(program) as process:
        before = held()
        for at in range(10_000):
            process.send_grant(f"g{at}={grants[at % 10 == 0]}", timeout=60)
            if at % 1000 == 999:
                assert (told(process), held()) == (0, before)


def send_until(process: sandbox.Popen, grant: str, ends: float) -> None:
    while time.monotonic() < ends:
        process.send_grant(grant)


def sent_until_full(process: sandbox.Popen) -> int:
    for sent in range(5000):
        try:
            process.send_grant(f"g{sent}=data:g{sent}", timeout=0.3)
        except sandbox.GrantError as error:
            return sent if error.reason == "the channel is full" else 0
    return 5000


def test_receiver_gone_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for ending in ("channel.close(); os.close(3); sys.stdin.read()", "os.kill(os.getpid(), 9)"):
        with child(ending, stdin=subprocess.PIPE) as process:
            before, ends = held(), time.monotonic() + 30
            with pytest.raises(sandbox.GrantError, match="f: the receiver is gone; "):
                send_until(process, f"f=file:{tmp_path}/file", ends)
            assert held() == before
            assert process.receive(timeout=5) is None
            input_of(process).close()


def test_full_channel_is_an_error_within_the_time_and_loses_nothing() -> None:
    program = """
sys.stdin.readline()
names = []
wanted = int(sys.stdin.readline())
while len(names) < wanted:
    name, fd = take()
    assert os.read(fd, 99) == name.encode()
    os.close(fd)
    names.append(name)
say(names == [f"g{at}" for at in range(len(names))])
say(take()[0])
"""
    with child(program, stdin=subprocess.PIPE, text=True) as process:
        before = held()
        sent = sent_until_full(process)
        assert held() == before
        assert 20 < sent < 5000
        print(f"go\n{sent}", file=input_of(process), flush=True)
        assert told(process) is True
        process.send_grant("after=data:after")
        assert told(process) == "after"


def test_flood_of_descriptors_towards_this_process_opens_none() -> None:
    program = """
import array, time
fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(int(sys.stdin.readline()))]
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
for at in range(10_000):
    # Sent and not received, so many of one user's descriptors are too many.
    while try_(channel.sendmsg, [b"%d" % at], rights) == "ETOOMANYREFS": time.sleep(0.01)
"""
    for taken, count in ((0, 200), (1, 5)):
        with child(program, stdin=subprocess.PIPE, text=True) as process:
            before = held()
            print(count, file=input_of(process), flush=True)
            for at in range(10_000):
                message = process.receive(timeout=60, descriptors=taken)
                assert message is not None
                assert (message.data, len(message.descriptors), held()) == (b"%d" % at, taken, before + taken)
                for fd in message.descriptors:
                    assert not os.get_inheritable(fd)
                    os.close(fd)
            assert process.receive(timeout=60) is None
            input_of(process).close()


def test_received_descriptor_is_the_child_s() -> None:
    program = "r, w = os.pipe(); os.write(w, b'from inside'); socket.send_fds(channel, [b'pipe'], [r])"
    with child(program) as process:
        message = process.receive(timeout=60, descriptors=1)
        assert message is not None
        assert message.data == b"pipe"
        assert os.read(message.descriptors[0], 99) == b"from inside"
        os.close(message.descriptors[0])


def test_message_too_large_is_told_and_lost_with_its_descriptors() -> None:
    program = """
socket.send_fds(channel, [b"x" * 5000], [0, 1])
channel.send(b"y" * 5000)
channel.send(b"")
"""
    with child(program) as process:
        before = held()
        with pytest.raises(sandbox.UsageError, match="more than 4096 bytes"):
            process.receive(timeout=60, descriptors=2)
        assert held() == before
        assert process.receive(timeout=60, size=5000) == sandbox.Received(b"y" * 5000)
        assert process.receive(timeout=60) is None


def test_receive_ends_with_its_time_and_refuses_what_is_out_of_range() -> None:
    with child("take()") as process:
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            process.receive(timeout=0.2)
        with pytest.raises(TimeoutError):
            process.receive(timeout=0)
        assert 0.2 <= time.monotonic() - start < 20
        for wrong in ({"size": 0}, {"size": 1 << 20}, {"descriptors": 254}, {"descriptors": -1}):
            with pytest.raises(sandbox.UsageError, match="out of range"):
                process.receive(**wrong)


def test_revoke_takes_sockets_back_and_says_so_of_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    program = """
_, fd = take()
_, file = take()
peer = socket.socket(fileno=fd)
say(peer.send(b"hello"))
say([peer.recv(9), peer.recv(9), try_(peer.send, b"x"), os.read(file, 9)])
take()
say(held())
"""
    ours, theirs = socket.socketpair()
    with ours, theirs, child(program) as process:
        process.send_grant(f"peer=inherit:{theirs.fileno()}:socket")
        process.send_grant(f"file=file:{tmp_path}/file")
        assert (told(process), ours.recv(9)) == (5, b"hello")
        ours.send(b"before")
        with pytest.raises(sandbox.GrantError, match="file: no socket of that name was sent, and nothing else can be"):
            process.revoke("file")
        process.revoke("peer")
        assert told(process) == [b"before", b"", "EPIPE", b"text"]
        assert ours.recv(9) == b""
        with pytest.raises(sandbox.GrantError, match="no socket of that name"):
            process.revoke("peer")
        process.revoke("channel")
        with pytest.raises(sandbox.UsageError, match="the channel is closed"):
            process.send_grant("d=data:x")


def test_sockets_that_can_be_taken_back_are_bounded() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, child("while (fd := take()[1]) is not None: os.close(fd)") as process:
        before = held()
        for _ in range(MAX_REVOCABLE):
            process.send_grant(f"s=inherit:{theirs.fileno()}:socket")
        assert held() == before + MAX_REVOCABLE
        with pytest.raises(sandbox.GrantError, match="512 sockets were sent and not taken back; revoke some first"):
            process.send_grant(f"s=inherit:{theirs.fileno()}:socket")
        assert held() == before + MAX_REVOCABLE
        process.revoke("s")
        assert (held(), ours.recv(1)) == (before, b"")
        process.send_grant(f"s=inherit:{theirs.fileno()}:socket")


def test_leaving_the_with_ends_the_channel_that_the_child_waits_for() -> None:
    command = [PYTHON, "-S", "-c", PRELUDE + "while take()[1] is not None: pass\nsys.exit(5)"]
    before = held()
    with sandbox.Popen(command, channel=True) as process:
        process.send_grant("d=data:x")
    assert (process.returncode, held()) == (5, before)


def test_received_grant_closes_at_the_receiver_s_next_exec_unless_it_is_named() -> None:
    program = """
fds = [take()[1] for _ in range(2)]
for fd in fds: os.set_inheritable(fd, True)
os.environ["SANDBOX_PASS_FDS"] = str(fds[1])
os.execv("/bin/sh", ["sh", "-c", "cat /dev/fd/$1 /dev/fd/$2", "-", *map(str, fds)])
"""
    with child(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.send_grant("a=data:first")
        process.send_grant("b=data:second")
        out, err = process.communicate(timeout=60)
    assert "first" not in out + err
    assert "No such file" in err
    # The shell has it by its name; cat, which the shell starts, has it by /dev/fd.
    assert out == "second"


@pytest.mark.parametrize(("channel", "passes"), [(True, False), ("propagate", True)])
def test_channel_reaches_the_command_and_what_it_starts_only_if_asked(channel: Any, passes: bool) -> None:  # noqa: ANN401
    # `test` is the shell's own; the number stands in no argument, which would name it.
    seen = 'test -S "/proc/self/fd/$SANDBOX_FD_CHANNEL" && echo'
    script = f"{seen} first; sh -c '{seen} second'; :"
    with sandbox.Popen(["sh", "-c", script], channel=channel, stdout=subprocess.PIPE, text=True) as process:
        assert process.communicate(timeout=60)[0].split() == ["first", "second"][: 1 + passes]


def test_channel_where_nothing_may_be_sent_is_refused() -> None:
    text = sandbox.load("untrusted", search=sandbox.default_search_path({}))
    for policy, wrong in ((ScmRights.DENY, True), (ScmRights.ALLOW, False)):
        descriptors = type(text.descriptors)(delegate=text.descriptors.delegate, scm_rights=policy)
        profile = sandbox.format_profile(text).replace('scm_rights = "allow"', f'scm_rights = "{policy}"')
        assert f'scm_rights = "{descriptors.scm_rights}"' in profile
        before = held()
        chosen = for_caller(text, sandbox.Caller.of_process(parent_pid=os.getppid()))
        chosen = type(chosen)(
            **{name: getattr(chosen, name) for name in chosen.__slots__} | {"descriptors": descriptors}
        )
        with contextlib.ExitStack() as refused:
            if wrong:
                refused.enter_context(pytest.raises(sandbox.UsageError, match="channel: scm_rights is denied"))
            with sandbox.Popen(["true"], profile=chosen, channel=True) as process:
                assert process.wait(timeout=60) == 0
        assert held() == before


def test_channel_whose_start_fails_leaves_nothing() -> None:
    before = held()
    for wrong in ({"command": ["/no/such/program"]}, {"command": ["true"], "grants": ["channel=file:/etc/passwd"]},
                  {"command": ["true"], "grants": ["a=inherit:987"]}):  # fmt: skip
        options: dict[str, Any] = dict(wrong)
        with pytest.raises(sandbox.SandboxError):
            sandbox.Popen(options.pop("command"), channel=True, **options)
        assert held() == before


def test_sending_without_a_channel_or_what_cannot_be_sent_is_refused() -> None:
    with sandbox.Popen(["sleep", "60"]) as process:
        for call in (lambda: process.send_grant("d=data:x"), process.receive, lambda: process.revoke("d")):
            with pytest.raises(sandbox.UsageError, match="there is no channel to the child"):
                call()
        process.kill()
    refusals = {
        "d@5=data:x": "number of a sent descriptor", "d+propagate=data:x": "does not propagate",
        "d=directory:/etc": "stand from the start on", "d=connect:tcp:127.0.0.1:9": "stand from the start on",
        "d=inherit:987": "Bad file descriptor",
        "d=file:/no/such": "No such file", "d=secret:env:NO_SUCH_VARIABLE": "the variable is not set",
        "d=file:/etc": "another type: directory", "d": "cannot read",
    }  # fmt: skip
    with child("say(take())") as process:
        before = held()
        for grant, reason in refusals.items():
            with pytest.raises(sandbox.SandboxError, match=reason):
                process.send_grant(grant)
            assert held() == before
        process.send_grant("d=data:x")
        assert told(process)[0] == "d"


def test_sending_from_the_streams_of_this_process(tmp_path: Path) -> None:
    """0, 1 and 2 are what this process has there, not what the launcher gets."""
    (tmp_path / "file").write_text("text")
    saved, other = os.dup(0), os.open(tmp_path / "file", os.O_RDONLY)
    os.dup2(other, 0)
    try:
        with child("say(os.read(take()[1], 9))", stdin=subprocess.DEVNULL) as process:
            process.send_grant("in=inherit:0")
            assert told(process) == b"text"
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(other)


# --- the command line


def channel_number(fd: int) -> Any:  # noqa: ANN401 - run()'s
    return lambda: os.dup2(fd, 77)


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_STREAM])
def test_command_line_channel_is_the_caller_s_socket(kind: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with ours, theirs, open("/etc/passwd", "rb") as passwd:
        socket.send_fds(ours, [b"passwd"], [passwd.fileno()])
        program = PRELUDE + "name, fd = take(); say((name, os.fstat(fd).st_ino))"
        ended = command_line(
            "--channel", "77", "--", PYTHON, "-S", "-c", program, setup=channel_number(theirs.fileno())
        )
        assert ended == Ended(0, "", "")
        assert ours.recv(99).decode() == repr(("passwd", os.fstat(passwd.fileno()).st_ino))


def test_command_line_channel_that_is_none_is_refused(probes: Probes, marker: Path) -> None:
    datagram, stream = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM), socket.socketpair()
    with contextlib.ExitStack() as opened:
        for end in (*datagram, *stream):
            opened.enter_context(end)
        unconnected = opened.enter_context(socket.socket(socket.AF_UNIX))
        file = opened.enter_context(open("/etc/passwd", "rb"))
        cases = {
            "Bad file descriptor": None, "it is no socket": file.fileno(), "it is not connected": unconnected.fileno(),
            "it is a socket of another type": datagram[0].fileno(),
        }  # fmt: skip
        for reason, fd in cases.items():
            setup = None if fd is None else channel_number(fd)
            ended = command_line("--channel", "77", "--", probes["mark"], marker, setup=setup)
            assert (ended.code, marker.exists()) == (125, False)
            assert ended.err == (
                f"sandbox: usage: --channel 77: {reason}; give a connected Unix socket, stream or seqpacket\n"
            )
        setup = channel_number(stream[0].fileno())
        assert command_line("--channel", "77", "--", probes["mark"], marker, setup=setup) == Ended(0, "", "")
        marker.unlink()
        denied = marker.parent / "denied.toml"
        denied.write_text('extends = ["untrusted"]\n[descriptors]\nscm_rights = "deny"\n')
        ended = command_line("-p", denied, "--channel", "77", "--", probes["mark"], marker, setup=setup)
        assert (ended.code, marker.exists()) == (125, False)
        assert "channel: scm_rights is denied" in ended.err
