"""Which network a sandbox joins, where it is neither none, nor an empty one, nor the host's: a named one, or one made.

What it takes to make one is loaded only then (network.py).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from typing import Final

from sandbox.caller import Caller, Joined
from sandbox.errors import LaunchError, UsageError
from sandbox.profile import NetworkMode, NetworkPolicy

FOLDER: Final = "/run/netns"  # ip-netns(8)
_NS_GET_NSTYPE: Final = 0xB703  # ioctl_ns(2); Linux 4.11
_NETWORK: Final = 0x40000000  # CLONE_NEWNET


@contextlib.contextmanager
def joining(network: NetworkPolicy, caller: Caller) -> Iterator[Joined | None]:
    """Give the network that the sandbox is to join, if it is one; its descriptors are open within, and closed after.

    Raises: UsageError, LaunchError if it is not to be had.
    """
    if network.mode is not NetworkMode.VETH:
        yield None
        return
    if caller.uid:
        raise UsageError(
            "network.mode", "veth takes root", 'take mode "none" with allow, where the supervisor connects'
        )
    if network.netns is not None:
        namespace, keeper = _named(network.netns), 0
    else:
        from sandbox.network import made

        namespace, keeper = made(network, caller)
    try:
        yield Joined(namespace, keeper)
    finally:
        for fd in filter(None, (namespace, keeper)):
            os.close(fd)


def _named(name: str) -> int:
    path = f"{FOLDER}/{name}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        hint = f"ip netns add {name} makes one" if error.errno == errno.ENOENT else "check the path"
        raise LaunchError("network", path, error.errno or 0, hint=hint) from error
    try:
        found = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        found = 0
    if found != _NETWORK:
        os.close(fd)
        raise LaunchError("network", path, errno.EINVAL, "it is no network namespace", f"ip netns add {name} makes one")
    return fd
