"""Making a network of a sandbox's own (root): a namespace, a pair of interfaces, addresses, routes and rules.

All of it goes with the sandbox, however that ends. The interfaces, routes and rules inside go with the namespace, and
the kernel takes the interface here along with its other end. The table here belongs to a netlink socket
(NFT_TABLE_F_OWNER, Linux 5.12), which the launcher keeps open: when it is gone, so is the table. That table is also the
sign of life: an interface of ours without it, or a table without an owner, is left from a sandbox that is no more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from pyroute2 import IPRoute, netns
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import nfgen_msg
from pyroute2.netlink.nfnetlink.nftsocket import nft_chain_msg, nft_rule_msg, nft_table_msg

from sandbox.allowlist import Line
from sandbox.caller import Caller
from sandbox.errors import LaunchError, UsageError
from sandbox.probe import launcher_path
from sandbox.profile import NetworkPolicy
from sandbox.veth import (
    INNER_NAME,
    PAIRS,
    POOL4,
    POOL6,
    Chain,
    Network,
    Pair,
    free_pairs,
    inner_chains,
    is_ours,
    lines_of,
    networks_of,
    outer_chains,
)

T = TypeVar("T")
Message: TypeAlias = Any  # of pyroute2, which has no types
Attributes: TypeAlias = list[tuple[str, Any]]
_FORWARDING: Final = {4: "/proc/sys/net/ipv4/ip_forward", 6: "/proc/sys/net/ipv6/conf/all/forwarding"}
_NO_IPV6: Final = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
_STEP: Final = "network"
_TRIES: Final = 8
_PATIENCE: Final = 30  # seconds; the kernel answers within milliseconds
_NO_DAD: Final = 2  # <linux/if_addr.h>, IFA_F_NODAD: nobody else is there who could have the address
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


def made(network: NetworkPolicy, caller: Caller) -> tuple[int, int]:
    """Make the network of a profile with mode "veth".

    Returns: its namespace, and the socket by which its table lives here; close-on-exec, both the caller's to close.
    Raises: UsageError for what the host does not let through; LaunchError naming the step that failed.
    """
    lines = lines_of(network, caller)
    versions = _versions(network, lines)
    namespace = _namespace()
    with contextlib.ExitStack() as undone:
        undone.callback(os.close, namespace)
        # Threads of their own: pyroute2 brings an event loop, where the caller may run one; a network is a thread's.
        pair, keeper = _in_thread(lambda: _outside(namespace, lines, versions))
        undone.callback(keeper.close)
        _in_thread(lambda: _inside(namespace, pair, versions, inner_chains(lines, closed=bool(network.allow))))
        undone.pop_all()
    return namespace, keeper.detach()


def _in_thread(work: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as one:
        return one.submit(work).result()


# ---- what the host has to let through ----


def _is_on(path: str) -> bool:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip() not in ("0", "")
    except FileNotFoundError:
        return False


def _versions(network: NetworkPolicy, lines: Sequence[Line]) -> tuple[int, ...]:
    """Return the versions of IP that this host forwards; it is not made to, as nothing would undo that in time."""
    found = [version for version, path in _FORWARDING.items() if _is_on(path)]
    if _is_on(_NO_IPV6):
        found = [version for version in found if version != 6]
    if not found:
        raise UsageError(
            "network.mode", "this host forwards nothing, so nothing would get out of the sandbox's network",
            "sysctl -w net.ipv4.ip_forward=1, and net.ipv6.conf.all.forwarding=1 for IPv6",
        )  # fmt: skip
    by_rule: dict[str, set[int]] = {}
    for line in lines:
        if not line.deny:
            by_rule.setdefault(line.label, set()).update(other.version for other in networks_of([line]))
    for rule, wanted in by_rule.items():
        if network.allow and not wanted & set(found):
            setting = "net.ipv4.ip_forward" if 4 in wanted else "net.ipv6.conf.all.forwarding"
            raise UsageError(
                f"network.allow: {rule}", f"this host does not forward IPv{min(wanted)}", f"sysctl -w {setting}=1"
            )
    return tuple(found)


# ---- the steps ----


@contextlib.contextmanager
def _step(what: str, hint: str = "") -> Iterator[None]:
    """Tell what failed, in words of what the user can change."""
    try:
        yield
    except NetlinkError as error:
        raise _failed(what, int(error.code), hint) from error
    except OSError as error:
        raise _failed(what, error.errno or 0, hint) from error


def _failed(what: str, number: int, hint: str) -> LaunchError:
    if number == errno.EPERM:
        hint = "it takes root, and in a container CAP_NET_ADMIN and CAP_SYS_ADMIN"
    elif number in (errno.ENOSPC, errno.EMFILE, errno.ENFILE):
        hint = "sysctl user.max_net_namespaces must leave one more, and the limit of open files as well"
    return LaunchError(_STEP, what, number, hint=hint)


def _namespace() -> int:
    """Return a new network namespace, which the launcher makes: Python learns of unshare(2) in 3.12 only."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            subprocess.run(
                [launcher_path(), "--network", f"/dev/fd/{theirs.fileno()}"], pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False,
            )  # fmt: skip
        said, fds, _, _ = socket.recv_fds(ours, 8, 1, socket.MSG_CMSG_CLOEXEC)
    if fds:
        return fds[0]
    raise _failed("a namespace", struct.unpack("ii", said)[1] if len(said) == 8 else errno.EIO, "")


def _outside(namespace: int, lines: Sequence[Line], versions: tuple[int, ...]) -> tuple[Pair, socket.socket]:
    """Take a pair that is free, with its table and interfaces."""
    with _step("netlink"), IPRoute() as ip:
        with _step("what earlier sandboxes left", "the kernel needs CONFIG_NF_TABLES"):
            _remove_stale(ip)
        with _step("this host's routes"):
            taken = [*_routes(ip), *networks_of(lines)]
            names = {_attribute(link, "IFLA_IFNAME") for link in ip.get_links()} | {table.name for table in _tables()}
        pairs = free_pairs(random.randrange(PAIRS), taken, names)
        for pair, last in zip(pairs, [False] * (_TRIES - 1) + [True], strict=False):
            keeper = _claimed(ip, namespace, pair, versions, last=last)
            if keeper is None:
                continue
            try:
                with _step(f"interface {pair.name}"):
                    _set_up(ip, pair.name, [(str(pair.ends(v)[0]), v, 30 if v == 4 else 64) for v in versions])
            except BaseException:
                keeper.close()
                raise
            return pair, keeper
    raise UsageError(
        "network.mode", f"no address is free: they come from {POOL4} and {POOL6}",
        "routes of this host, or rules of the profile, must leave some of these",
    )  # fmt: skip


def _claimed(
    ip: IPRoute, namespace: int, pair: Pair, versions: tuple[int, ...], *, last: bool
) -> socket.socket | None:  # fmt: skip
    """Make a pair's table, which but one can have, then its interfaces; None if somebody else was faster."""
    keeper = _netfilter()
    try:
        with _step(f"table {pair.name}", "the kernel needs CONFIG_NF_TABLES_INET, NFT_MASQ and NF_NAT"):
            _add_table(keeper, pair.name, _OWNED, outer_chains(pair, versions))
        with _step(f"interface {pair.name}", "the kernel needs CONFIG_VETH"):
            ip.link("add", kind="veth", ifname=pair.name, peer={"ifname": INNER_NAME, "net_ns_fd": namespace})
    except LaunchError as error:
        keeper.close()
        # EPERM: the table is another's, if it is not that we may not have one at all.
        if error.errno in (errno.EEXIST, errno.EPERM) and not last:
            return None
        raise
    except BaseException:
        keeper.close()
        raise
    return keeper


def _inside(namespace: int, pair: Pair, versions: tuple[int, ...], chains: Sequence[Chain]) -> None:
    """Set up the other end, within the namespace; this thread stays in it, and ends."""
    with _step("the sandbox's namespace"):
        netns.setns(namespace)
    hint = "the kernel needs CONFIG_NF_TABLES_INET, NFT_CT and NFT_REJECT_INET"
    with _step("the sandbox's rules", hint), _netfilter() as rules:
        _add_table(rules, "sandbox", 0, chains)
    with IPRoute() as ip, _step("the sandbox's interface"):
        ip.link("set", index=1, state="up")
        addresses = [(str(pair.ends(v)[1]), v, 30 if v == 4 else 64) for v in versions]
        index = _set_up(ip, INNER_NAME, addresses)
        for version in versions:
            ip.route(
                "add", family=_FAMILIES[version], dst="0.0.0.0/0" if version == 4 else "::/0", oif=index,
                gateway=str(pair.ends(version)[0]),
            )  # fmt: skip


def _set_up(ip: IPRoute, name: str, addresses: Iterable[tuple[str, int, int]]) -> int:
    """Bring an interface up, with its addresses; return its index."""
    index: int = next(iter(ip.link_lookup(ifname=name)), 0)
    if not index:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    ip.link("set", index=index, state="up")
    for address, version, bits in addresses:
        flags = {"flags": _NO_DAD} if version == 6 else {}
        ip.addr("add", index=index, family=_FAMILIES[version], address=address, prefixlen=bits, **flags)
    return index


def _routes(ip: IPRoute) -> Iterator[Network]:
    """Yield where this host sends to, and its own addresses, which are routes as well."""
    for family in _FAMILIES.values():
        for route in ip.get_routes(family=family):
            target = _attribute(route, "RTA_DST")
            if target:
                yield ip_network(f"{target}/{route['dst_len']}", strict=False)


def _attribute(message: Message, name: str) -> Message:
    return message.get_attr(name)


# ---- what a sandbox that is no more has left ----


def _remove_stale(ip: IPRoute) -> None:
    """Remove interfaces and tables of ours whose sandbox has ended.

    Interfaces are listed before tables: a sandbox makes its table first, so one that lives is never without.
    """
    links = [(_attribute(link, "IFLA_IFNAME"), link["index"], _kind(link)) for link in ip.get_links()]
    tables = _tables()
    alive = {table.name for table in tables if table.flags & _OWNED}
    for name, index, kind in links:
        if is_ours(name) and kind == "veth" and name not in alive:
            with contextlib.suppress(NetlinkError):  # it may have gone by itself
                ip.link("del", index=index)
    for table in tables:
        if is_ours(table.name) and not table.flags & _OWNED:
            with _netfilter() as netfilter, contextlib.suppress(FileNotFoundError):
                _send(netfilter, [_message(nft_table_msg, _DELTABLE, 0, [("NFTA_TABLE_HANDLE", table.number)])])


def _kind(link: Message) -> str | None:
    info = _attribute(link, "IFLA_LINKINFO")
    return None if info is None else _attribute(info, "IFLA_INFO_KIND")


# ---- nftables by netlink: nfnetlink has transactions, of all messages between a begin and an end ----

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
_BEGIN, _END = 16, 17
_NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE = 0, 1, 2, 3, 6
_INET: Final = 1
_OWNED: Final = 2  # NFT_TABLE_F_OWNER
_REQUEST, _ACK, _EXCLUSIVE, _CREATE, _APPEND, _DUMP = 1, 4, 0x200, 0x400, 0x800, 0x300
_ERROR, _DONE = 2, 3
_INTERRUPTED: Final = 0x10  # NLM_F_DUMP_INTR
_ROOM: Final = 1 << 20
_MOST: Final = 64 << 10  # bytes of one transaction; what a socket sends at once is limited


def _netfilter() -> socket.socket:
    with _step("nftables", "the kernel needs CONFIG_NF_TABLES"):
        made_socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    made_socket.settimeout(_PATIENCE)
    return made_socket


def _message(kind: Callable[[], Message], number: int, flags: int, attributes: Attributes) -> bytes:
    message = kind()
    message["attrs"] = attributes
    message["nfgen_family"] = _INET
    message["header"]["type"] = _SUBSYSTEM << 8 | number
    message["header"]["flags"] = _REQUEST | flags
    message.encode()
    return bytes(message.data)


def _edge(number: int) -> bytes:
    message = nfgen_msg()
    message["res_id"] = _SUBSYSTEM
    message["header"]["type"], message["header"]["flags"] = number, _REQUEST
    message.encode()
    return bytes(message.data)


def _add_table(netfilter: socket.socket, name: str, flags: int, chains: Sequence[Chain]) -> None:
    table: Attributes = [("NFTA_TABLE_NAME", name), ("NFTA_TABLE_FLAGS", flags)]
    messages = [_message(nft_table_msg, _NEWTABLE, _CREATE | _EXCLUSIVE, table)]
    for chain in chains:
        attributes: Attributes = [("NFTA_CHAIN_TABLE", name), ("NFTA_CHAIN_NAME", chain.name)]
        if chain.hook is not None:
            where = [("NFTA_HOOK_HOOKNUM", chain.hook), ("NFTA_HOOK_PRIORITY", chain.priority)]
            attributes += [
                ("NFTA_CHAIN_HOOK", {"attrs": where}), ("NFTA_CHAIN_POLICY", chain.policy),
                ("NFTA_CHAIN_TYPE", chain.kind),
            ]  # fmt: skip
        messages.append(_message(nft_chain_msg, _NEWCHAIN, _CREATE, attributes))
    for chain in chains:
        rule_of: Attributes = [("NFTA_RULE_TABLE", name), ("NFTA_RULE_CHAIN", chain.name)]
        messages += [
            _message(nft_rule_msg, _NEWRULE, _CREATE | _APPEND, [*rule_of, ("NFTA_RULE_EXPRESSIONS", list(rule))])
            for rule in chain.rules
        ]
    _send(netfilter, messages)


def _send(netfilter: socket.socket, messages: Sequence[bytes]) -> None:
    """Carry messages out, in transactions that a socket can take; raises OSError for the first that is refused."""
    part: list[bytes] = []
    for index, message in enumerate(messages):
        part.append(message)
        if index + 1 == len(messages) or sum(map(len, part)) + len(messages[index + 1]) > _MOST:
            _transact(netfilter, part)
            part = []


_HEADER: Final = struct.Struct("<IHHII")  # struct nlmsghdr: length, type, flags, sequence, port


def _transact(netfilter: socket.socket, messages: Sequence[bytes]) -> None:
    numbered = []
    for number, message in enumerate([_edge(_BEGIN), *messages, _edge(_END)]):
        size, kind, flags, _, port = _HEADER.unpack_from(message)
        flags |= _ACK if number == len(messages) else 0
        numbered.append(_HEADER.pack(size, kind, flags, number, port) + message[_HEADER.size :])
    netfilter.send(b"".join(numbered))
    while True:
        for answer in _answers(netfilter.recv(_ROOM)):
            if answer.kind == _ERROR and answer.number == len(messages):
                return


@dataclass(frozen=True, slots=True)
class _Answer:
    """One message of the kernel's."""

    kind: int
    flags: int
    number: int
    body: bytes


def _answers(datagram: bytes) -> Iterator[_Answer]:
    """Yield a datagram's messages; raises OSError for one that tells of an error."""
    while len(datagram) >= _HEADER.size:
        size, kind, flags, number, _ = _HEADER.unpack_from(datagram)
        answer = _Answer(kind, flags, number, datagram[_HEADER.size : size])
        if kind == _ERROR and (code := -struct.unpack_from("<i", answer.body)[0]):
            raise OSError(code, os.strerror(code))
        yield answer
        datagram = datagram[(size + 3) & ~3 :]


class Table(NamedTuple):
    """A table of rules that is here."""

    name: str
    number: int
    flags: int


def _tables() -> list[Table]:
    """Return the tables for both families, as they are at one moment: one that is missed would be taken for gone."""
    with _netfilter() as netfilter:
        for _ in range(_TRIES):
            netfilter.send(_message(nft_table_msg, _GETTABLE, _DUMP, []))
            found = listed_tables(lambda: netfilter.recv(_ROOM))
            if found is not None:
                return found
    raise OSError(errno.EAGAIN, "tables come and go too fast to be listed")


def listed_tables(receive: Callable[[], bytes]) -> list[Table] | None:
    """Read the answer to a request for all tables; None if they have changed meanwhile."""
    found: list[Table] = []
    whole = True
    while True:
        for answer in _answers(receive()):
            whole = whole and not answer.flags & _INTERRUPTED
            if answer.kind == _DONE:
                return found if whole else None
            message = nft_table_msg(_HEADER.pack(_HEADER.size + len(answer.body), 0, 0, 0, 0) + answer.body)
            message.decode()
            name, number = (_attribute(message, f"NFTA_TABLE_{key}") for key in ("NAME", "HANDLE"))
            found.append(Table(name, number, _attribute(message, "NFTA_TABLE_FLAGS") or 0))
