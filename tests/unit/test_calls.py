"""Calls as they are told: decoding, what is done with a path, and what a recording makes of them."""

from __future__ import annotations

import errno
import socket
import struct
from pathlib import Path

import pytest

from sandbox import calls
from sandbox.calls import Call, Named, Tell, Use, address_of, call_of, in_words, rows, use_of_open
from sandbox.recording import Recording
from sandbox.syscall_table import NUMBERS

HEADER = Path(__file__).resolve().parents[2] / "sandbox" / "launcher" / "tracer" / "record.h"
O_WRONLY, O_CREAT, O_EXCL, O_TRUNC = 1, 0o100, 0o200, 0o1000


def called(name: str, *arguments: int, texts: tuple[str, ...] = (), result: int = 0) -> Call:
    """Return what the tracer would tell of a call of /usr/bin/tool."""
    whole = (*arguments, *(0,) * (6 - len(arguments)))
    return call_of(7, NUMBERS[name], whole, result, [b"/usr/bin/tool", *(text.encode() for text in texts)])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (called("openat", -100, 0, O_WRONLY | O_CREAT, texts=("/a", "b")), 'openat("/a/b", O_WRONLY|O_CREAT)'),
        (called("open", 0, 0, texts=("/a", "/etc/../x")), 'open("/x", O_RDONLY)'),
        (called("newfstatat", -100, 0, texts=("/a", "../b")), 'newfstatat("/b")'),
        (called("faccessat", -100, 0, 2, texts=("/", "x")), 'faccessat("/x", W_OK)'),
        (called("rename", texts=("/a", "x", "/a", "y")), 'rename("/a/x", "/a/y")'),
        (called("socket", 16, 3), "socket(AF_NETLINK, SOCK_RAW)"),
        (called("fcntl", 5, 2, 0), "fcntl(5, F_SETFD, 0)"),
        (called("ioctl", 0, 0x5412), "ioctl(0, TIOCSTI)"),
        (called("dup2", 7, 0), "dup2(7, 0)"),
        (called("unshare", 0x10000000), "unshare(CLONE_NEWUSER)"),
        (called("openat", -100, 0, 0, texts=("/", 'a"\n')), 'openat("/a\\"\\n", O_RDONLY)'),
        (called("keyctl", 1), "keyctl()"),
    ],
)  # fmt: skip
def test_call_in_words(call: Call, words: str) -> None:
    assert in_words(call) == words
    assert in_words(call).isprintable()


def test_number_that_is_unknown_has_a_name() -> None:
    assert call_of(1, 511, (0,) * 6, -errno.ENOSYS, [b""]).name == "syscall_511"


def test_arguments_are_read_as_the_kernel_reads_them() -> None:
    assert called("dup2", (5 << 32) | 0xFFFFFF9C).number(0) == -100
    assert called("read", 0, result=-errno.EBADF).error == errno.EBADF
    assert called("mmap", result=-5000).error == 0, "an address"


@pytest.mark.parametrize(
    ("flags", "use"),
    [
        (0, Use.READ),
        (O_WRONLY, Use.WRITE),
        (2, Use.READ | Use.WRITE),
        (O_WRONLY | O_CREAT, Use.WRITE | Use.MAKE),
        (O_TRUNC, Use.READ | Use.WRITE),
        (0o10000000, Use.LOOK),
        (2 | calls.O_TMPFILE | 0o200000, Use.READ | Use.WRITE | Use.MAKE),
        (0o200000, Use.READ),
    ],
)
def test_use_of_open(flags: int, use: Use) -> None:
    assert use_of_open(flags) == use


def test_addresses() -> None:
    def said(data: bytes, kind: int = 0) -> str:
        return str(address_of(data, kind))

    four = struct.pack("<H", 2) + struct.pack(">H", 443) + bytes([192, 0, 2, 1])
    six = struct.pack("<H", 10) + struct.pack(">H", 53) + bytes(4) + socket.inet_pton(socket.AF_INET6, "::1") + bytes(4)
    mapped = struct.pack("<H", 10) + bytes(6) + socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.1") + bytes(4)
    assert (said(four), said(four, 1), said(six, 2)) == ("192.0.2.1:443", "tcp:192.0.2.1:443", "udp:[::1]:53")
    assert said(mapped, 1) == "tcp:192.0.2.1:0"
    assert said(b"\1\0/run/x\0rest") == "unix:/run/x"
    assert said(b"\1\0\0name") == "unix:@name"
    assert [address_of(data) for data in (b"", b"\1", b"\2\0\0", b"\x10\0" + bytes(10), b"\1\0\0\0")] == [None] * 5


def test_rows_fit_the_header() -> None:
    """Both sides count the same: 512 rows of 8 bytes, and the bits have the same values."""
    text = HEADER.read_text()
    assert "CALLS = 512, ARGUMENTS = 6" in text
    for name, tell in (
        ("TELL_SUCCESS", Tell.SUCCESS), ("TELL_FAILURE", Tell.FAILURE), ("READ_EARLY", Tell.EARLY),
        ("TELL_ONCE", Tell.ONCE), ("TELL_AGAIN", Tell.AGAIN), ("TELL_AND_WAIT", Tell.WAIT),
    ):  # fmt: skip
        assert f"{name} = {int(tell)}," in text
    for kind in calls.Kind:
        assert f"ARGUMENT_{kind.name} = {int(kind)}," in text
    for successes in (False, True):
        data = rows(successes=successes)
        assert len(data) == 512 * 8
        execve, wait = (data[8 * NUMBERS[name]] for name in ("execve", "wait4"))
        assert Tell(execve) & (Tell.EARLY | Tell.FAILURE) == Tell.EARLY | Tell.FAILURE
        assert bool(Tell(execve) & Tell.SUCCESS) is successes
        assert not Tell(wait) & Tell.FAILURE
        assert bool(Tell(wait) & Tell.WAIT) is not successes


def test_recording_tells_what_was_there_from_what_was_made() -> None:
    recording = Recording()
    recording.add(called("openat", -100, 0, 0, texts=("/w", "in"), result=3))
    recording.add(called("mkdir", texts=("/w", "out")))
    recording.add(called("openat", -100, 0, O_WRONLY | O_CREAT, texts=("/w", "out/x"), result=3))
    recording.add(called("openat", -100, 0, 0, texts=("/w", "out/x"), result=3))
    recording.add(called("openat", -100, 0, O_WRONLY | O_CREAT | O_TRUNC, texts=("/w", "in"), result=3))
    recording.add(called("openat", -100, 0, O_WRONLY | O_CREAT | O_EXCL, texts=("/w", "new"), result=3))
    recording.add(called("openat", -100, 0, 0, texts=("/w", "absent"), result=-errno.ENOENT))
    assert recording.uses == {"/w/in": Use.READ | Use.WRITE}
    assert recording.changed == {"/w"}
    assert recording.made == {"/w/out", "/w/out/x", "/w/new"}
    assert recording.is_made("/w/out/deeper")
    assert not recording.is_made("/w/in")


def test_recording_takes_what_was_refused_as_used_and_nothing_else_that_failed() -> None:
    recording = Recording()
    call = called("openat", -100, 0, 0, texts=("/h", "key"), result=-errno.ENOENT)
    recording.add(call)
    assert recording.uses == {}
    recording.add(call, refused=True)
    assert recording.uses == {"/h/key": Use.READ}


def test_recording_sums_up_addresses_programs_and_calls() -> None:
    recording, other = Recording(), Recording()
    address = struct.pack("<H", 2) + struct.pack(">H", 80) + bytes([127, 0, 0, 1]) + bytes(8)
    texts = [b"/usr/bin/tool", b"\1", address]
    recording.add(call_of(1, NUMBERS["bind"], (3, 0, 16, 0, 0, 0), 0, texts))
    other.add(call_of(1, NUMBERS["connect"], (3, 0, 16, 0, 0, 0), -errno.EINPROGRESS, texts))
    other.add(call_of(1, NUMBERS["execve"], (0,) * 6, 0, [b"/bin/dash", b"/w", b"script"]))
    whole = recording.merged([other])
    assert {str(each) for each in whole.bound} == {str(each) for each in whole.connected} == {"tcp:127.0.0.1:80"}
    assert whole.programs == {"/w/script", "/bin/dash"}
    assert whole.calls == {"bind", "connect", "execve"}


def test_named_path_is_whole_and_unknown_without_a_base() -> None:
    assert Named("/a", "b/../c", Use.READ).path == "/a/c"
    assert Named("/a", "//x", Use.READ).path == "/x"
    assert Named("", "x", Use.READ).path == ""
    assert Named("pipe:[1]", "x", Use.READ).path == ""
