"""Looking up what socket grants name: hosts, and the owners of socket files. Once, when the plan is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from sandbox.caller import Caller
from sandbox.errors import GrantError, UsageError
from sandbox.grants import ConnectGrant, DatagramGrant, Grant, ListenGrant, SocketGrant
from sandbox.sockets import packed_host

MAX_ADDRESSES: Final = 16  # of one name; the rest would hardly be waited for


def looked_up(caller: Caller, grants: Iterable[Grant]) -> Caller:
    """Return the caller with the addresses of the hosts, and the users and groups, that the grants name.

    Raises: GrantError for a name that nobody has.
    """
    hosts, owners = dict(caller.hosts), dict(caller.owners)
    for grant in grants:
        if not isinstance(grant, ListenGrant | ConnectGrant | DatagramGrant):
            continue
        name = grant.address.name
        if name is not None and name not in hosts:
            hosts[name] = _addresses(grant, name)
        if isinstance(grant, ListenGrant) and grant.owner is not None:
            try:
                owners[grant.owner] = caller.owner(grant.owner)
            except UsageError as error:
                raise GrantError(grant.name, f"{error.object}: {error.reason}", error.hint) from error
    return replace(caller, hosts=hosts, owners=owners)


def _addresses(grant: SocketGrant, name: str) -> tuple[str, ...]:
    import socket  # here, since few starts have a name to look up

    kind = socket.SOCK_DGRAM if isinstance(grant, DatagramGrant) else socket.SOCK_STREAM
    try:
        found = socket.getaddrinfo(name, None, type=kind)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise GrantError(
            grant.name, f"host {name}: {reason}", "give its address, or a name that it has here"
        ) from error
    numeric = [str(sockaddr[0]) for *_, sockaddr in found]
    usable = [host for host in dict.fromkeys(numeric) if packed_host(host) is not None]
    if not usable:
        raise GrantError(grant.name, f"host {name}: its addresses need an interface", "give one: [fe80::1%2]")
    return tuple(usable[:MAX_ADDRESSES])
