"""Looking up what grants and the network's rules name: hosts, and owners of socket files. Once, for the plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from sandbox.allowlist import PeerRule, refused_address
from sandbox.caller import Caller
from sandbox.errors import GrantError, UsageError
from sandbox.grants import ConnectGrant, DatagramGrant, Grant, ListenGrant, SocketGrant
from sandbox.profile import NetworkPolicy
from sandbox.sockets import RESOLV_CONF, Protocol, packed_host

MAX_ADDRESSES: Final = 16  # of one name; the rest would hardly be waited for


def looked_up(caller: Caller, grants: Iterable[Grant], network: NetworkPolicy | None = None) -> Caller:
    """Return the caller with the addresses of the hosts, and the users and groups, that grants and network name.

    Raises: GrantError, UsageError for a name that nobody has, or that leads where no name may.
    """
    hosts, owners = dict(caller.hosts), dict(caller.owners)
    for grant in grants:
        if not isinstance(grant, ListenGrant | ConnectGrant | DatagramGrant):
            continue
        name = grant.address.name
        if name is not None and name not in hosts:
            hosts[name] = _of_grant(grant, name)
        if isinstance(grant, ListenGrant) and grant.owner is not None:
            try:
                owners[grant.owner] = caller.owner(grant.owner)
            except UsageError as error:
                raise GrantError(grant.name, f"{error.object}: {error.reason}", error.hint) from error
    peers = network.allow if network is not None else ()
    named = {rule.name: _of_rule(rule, rule.name, peers) for rule in peers if rule.name is not None}
    resolvers = _resolvers() if network is not None and network.dns and not network.resolvers else ()
    return replace(caller, hosts=hosts, owners=owners, peers=named, resolvers=resolvers)


def _of_rule(rule: PeerRule, name: str, peers: Sequence[PeerRule]) -> tuple[str, ...]:
    where = f"network.allow: {rule}"
    try:
        found = _addresses(name, datagrams=rule.protocol is Protocol.UDP)
    except UsageError as error:
        raise UsageError(where, error.reason, error.hint) from error
    refused = refused_address(found, peers)
    if refused is not None:
        address, what = refused
        raise UsageError(
            where, f"host {name} is {address}: {what}", "no name leads there; allow the address itself if it is meant"
        )
    return found


def _resolvers() -> tuple[str, ...]:
    """Return the resolvers of resolv.conf(5); without one the C library asks this host."""
    try:
        with open(RESOLV_CONF, encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise UsageError("network.dns", f"{RESOLV_CONF}: {error.strerror}", "name the resolvers") from error
    found = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    return tuple(host for host in found if packed_host(host) is not None) or ("127.0.0.1",)


def _of_grant(grant: SocketGrant, name: str) -> tuple[str, ...]:
    try:
        return _addresses(name, datagrams=isinstance(grant, DatagramGrant))
    except UsageError as error:
        raise GrantError(grant.name, error.reason, error.hint) from error


def _addresses(name: str, *, datagrams: bool) -> tuple[str, ...]:
    import socket  # here, since few starts have a name to look up

    kind = socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM
    try:
        found = socket.getaddrinfo(name, None, type=kind)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(name, f"host {name}: {reason}", "give its address, or a name that it has here") from error
    numeric = [str(sockaddr[0]) for *_, sockaddr in found]
    usable = [host for host in dict.fromkeys(numeric) if packed_host(host) is not None]
    if not usable:
        raise UsageError(name, f"host {name}: its addresses need an interface", "give one: [fe80::1%2]")
    return tuple(usable[:MAX_ADDRESSES])
