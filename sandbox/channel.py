"""The channel of a running sandbox: this process's end of the socket, what is sent over it, received and taken back."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import socket
import stat
import time
from collections.abc import Callable
from typing import Final

from sandbox.errors import GrantError, UsageError
from sandbox.events import Received

MAX_MESSAGE: Final = 65536
MAX_RECEIVED: Final = 253  # SCM_MAX_FD, include/net/scm.h: the kernel takes no more in one message
MAX_REVOCABLE: Final = 512
# unix(7): the user has more descriptors in flight than it may have open, until a receiver takes some.
_WAIT: Final = (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS)
_PAUSE: Final = 0.01


class Channel:
    """Our end of a SOCK_SEQPACKET pair; the other one is the child's grant `channel`."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)  # of our end alone: the child's has a flag of its own
        self._end = end
        self._revocable: dict[str, list[socket.socket]] = {}

    def send(self, name: str, fd: int, timeout: float | None) -> None:
        """Send one message: the name, and a copy of a descriptor. Of a socket another copy is kept, for revoke().

        Raises: GrantError if the receiver is gone, or takes nothing until the time is up.
        """
        kept = self._copy_of_socket(name, fd)
        try:
            self._send(name, fd, timeout)
        except BaseException:
            if kept is not None:
                kept.close()
            raise
        if kept is not None:
            self._revocable.setdefault(name, []).append(kept)

    def _copy_of_socket(self, name: str, fd: int) -> socket.socket | None:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return None
        if sum(map(len, self._revocable.values())) >= MAX_REVOCABLE:
            raise GrantError(name, f"{MAX_REVOCABLE} sockets were sent and not taken back", "revoke some first")
        return socket.socket(fileno=os.dup(fd))

    def _send(self, name: str, fd: int, timeout: float | None) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        ends = _deadline(timeout)
        while True:
            try:
                self._open(name).sendmsg([name.encode()], rights, socket.MSG_NOSIGNAL)
            except OSError as error:
                full = error.errno == errno.EAGAIN
                if error.errno not in _WAIT:
                    reason = "the receiver is gone" if error.errno in _GONE else error.strerror or "it cannot be sent"
                    raise GrantError(name, reason, "it closed its end of the channel, or has ended") from error
            else:
                return
            if _left(ends) == 0:
                raise GrantError(name, "the channel is full", "the receiver takes nothing; give it more time")
            self._wait(select.POLLOUT if full else 0, ends, at_most=None if full else _PAUSE)

    def receive(self, timeout: float | None, size: int, descriptors: int) -> Received | None:
        """Return the next message; None at the end: the child's ends are closed, or it sent an empty message.

        Only as many descriptors as are asked for ever reach this process: the kernel drops the others.
        Raises: TimeoutError; UsageError for a message that is larger than `size`, which is lost.
        """
        if not (0 < size <= MAX_MESSAGE and 0 <= descriptors <= MAX_RECEIVED):
            raise UsageError(
                f"receive({size}, {descriptors})", "out of range",
                f"1 to {MAX_MESSAGE} bytes, 0 to {MAX_RECEIVED} descriptors",
            )  # fmt: skip
        ends = _deadline(timeout)
        room = socket.CMSG_LEN(4 * descriptors) if descriptors else 0  # not CMSG_SPACE: its padding would hold one more
        while True:
            with contextlib.suppress(BlockingIOError):
                try:
                    data, rights, flags, _ = self._open("receive").recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
                except ConnectionResetError:
                    return None  # it ended and left messages of ours unread
                return self._checked(data, _numbers_in(rights), flags, size)
            if _left(ends) == 0:
                raise TimeoutError(f"nothing came over the channel in {timeout} seconds")
            self._wait(select.POLLIN, ends)

    @staticmethod
    def _checked(data: bytes, numbers: tuple[int, ...], flags: int, size: int) -> Received | None:
        if flags & socket.MSG_TRUNC or not data:
            for number in numbers:
                os.close(number)
        if flags & socket.MSG_TRUNC:
            raise UsageError(
                "receive", f"the child sent a message of more than {size} bytes", "it is lost; ask for more"
            )
        return Received(data, numbers) if data else None

    def revoke(self, name: str) -> None:
        """Shut down what was sent under that name, for everybody who has it; only sockets can be.

        Raises: GrantError if no socket was.
        """
        if name not in self._revocable:
            raise GrantError(
                name, "no socket of that name was sent, and nothing else can be taken back",
                "the kernel has no way to close another process's file; send a socket, or end the sandbox",
            )  # fmt: skip
        for sent in self._revocable.pop(name):
            with sent, contextlib.suppress(OSError):  # it was not connected, or the peer is gone: nothing to shut down
                sent.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close our end, and the copies of the sockets that were sent, which stay as they are."""
        self._end.close()
        for sent in self._revocable.values():
            for each in sent:
                each.close()
        self._revocable.clear()

    def fileno(self) -> int:
        """Return our end's number, for select and the like; -1 when it is closed."""
        return self._end.fileno()

    def _open(self, obj: str) -> socket.socket:
        if self._end.fileno() < 0:
            raise UsageError(obj, "the channel is closed", "send and receive before that")
        return self._end

    def _wait(self, event: int, ends: float | None, at_most: float | None = None) -> None:
        left = _left(ends)
        seconds = min((part for part in (left, at_most) if part is not None), default=None)
        poll = select.poll()
        poll.register(self._end, event)  # the end of the peer wakes in any case
        poll.poll(None if seconds is None else seconds * 1000)


_GONE: Final = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ECONNREFUSED)


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _left(ends: float | None) -> float | None:
    return None if ends is None else max(0.0, ends - time.monotonic())


def _numbers_in(rights: list[tuple[int, int, bytes]]) -> tuple[int, ...]:
    found = array.array("i")
    for level, kind, data in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return tuple(found)


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a new channel, close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def check_channel(fd: int) -> None:
    """Refuse a descriptor that cannot be a channel.

    Raises: UsageError unless it is a connected Unix socket, stream or seqpacket.
    """
    obj, hint = f"--channel {fd}", "give a connected Unix socket, stream or seqpacket"
    try:
        copy = os.dup(fd)
    except OSError as error:
        raise UsageError(obj, error.strerror or "it is not open", hint) from error
    try:
        checked = socket.socket(fileno=copy)
    except OSError as error:
        os.close(copy)
        raise UsageError(obj, "it is no socket", hint) from error
    with checked:
        if checked.family != socket.AF_UNIX or checked.type not in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            raise UsageError(obj, "it is a socket of another type", hint)
        try:
            checked.getpeername()
        except OSError as error:
            raise UsageError(obj, "it is not connected", hint) from error


def obtained(start: Callable[[int], None]) -> int | None:
    """Return the one descriptor that whoever `start` starts sends over the socket it is given; None if it sent none."""
    ours, theirs = pair()
    with ours:
        with theirs:
            start(theirs.fileno())
        try:
            _, rights, _, _ = ours.recvmsg(8, socket.CMSG_LEN(4), socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionResetError):
            return None
    numbers = _numbers_in(rights)
    return numbers[0] if numbers else None
