"""A small internet of network namespaces: a host on which sandboxes are started, a router, and servers behind it.

All of it lives in namespaces of one process tree, also its mounts and, for an ordinary user, a user namespace in which
that user is root: the machine's own network is not touched, and the end of the tree is the end of all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.callers import Ended, run
from tests.support.verdicts import ADDRESSES, NAMES, PORTS

ROOT: Final = os.geteuid() == 0
IP: Final = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin") or "ip"  # an ordinary user's PATH may lack it
UPLINK: Final = "uplink"  # the host's interface
HOST4: Final = "203.0.113.2"
HOST6: Final = "2001:db8:ffff::2"

# Answers on each address and port with who it is and who asks; HTTP gets an answer, too.
SERVER: Final = r"""
import selectors, socket, sys
addresses, tcp, udp = (word.split(",") for word in sys.argv[1:4])
waiting = selectors.DefaultSelector()
for address in addresses:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for kind, ports in ((socket.SOCK_STREAM, tcp), (socket.SOCK_DGRAM, udp)):
        for port in ports:
            server = socket.socket(family, kind)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, int(port)))
            if kind == socket.SOCK_STREAM:
                server.listen(1024)
            server.setblocking(False)
            waiting.register(server, selectors.EVENT_READ, "tcp" if kind == socket.SOCK_STREAM else "udp")
def words(own, peer):
    return f"I am {own[0]} port {own[1]}, you are {peer[0]}\n".encode()
print("ready", flush=True)
while True:
    for key, _ in waiting.select():
        server = key.fileobj
        try:
            if key.data == "udp":
                _, peer = server.recvfrom(1000)
                server.sendto(words(server.getsockname(), peer), peer)
            elif key.data == "tcp":
                accepted, peer = server.accept()
                waiting.register(accepted, selectors.EVENT_READ, "client")
            else:
                asked = server.recv(4000)
                if asked:
                    said = words(server.getsockname(), server.getpeername())
                    if b"HTTP/1" in asked:
                        said = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said)
                    server.send(said)
                waiting.unregister(server)
                server.close()
        except OSError:
            pass
"""

# $1: the tree's own folder. The host stays the namespace that this runs in; the others are made beside it.
SET_UP: Final = r"""
PATH=$PATH:/usr/sbin:/sbin
mount -t tmpfs none /run
mkdir -p /run/netns
mount --bind "$1/hosts" /etc/hosts
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
ip link set lo up
for name in router servers; do
    ip netns add $name
    ip -n $name link set lo up
    ip netns exec $name sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
done
# link NAMESPACE INTERFACE ADDRESS ADDRESS
address() {
    space=$1 interface=$2
    shift 2
    for each; do ip $space address add $each dev $interface nodad; done
    ip $space link set $interface up
}
ip link add uplink type veth peer name host netns router
ip -n router link add servers type veth peer name uplink netns servers
address "" uplink 203.0.113.2/30 2001:db8:ffff::2/64
address "-n router" host 203.0.113.1/30 2001:db8:ffff::1/64
address "-n router" servers 203.0.113.5/30 2001:db8:fffe::1/64
address "-n servers" uplink 203.0.113.6/30 2001:db8:fffe::2/64
ip route add default via 203.0.113.1
ip -6 route add default via 2001:db8:ffff::1
ip -n router route add default via 203.0.113.6
ip -n router -6 route add default via 2001:db8:fffe::2
ip -n servers route add 203.0.113.0/30 via 203.0.113.5
ip -n servers -6 route add 2001:db8:ffff::/64 via 2001:db8:fffe::1
shift
for each; do
    case $each in
    *:*) ip -n servers address add $each/128 dev lo nodad ;;
    *) ip -n servers address add $each/32 dev lo ;;
    esac
done
"""


@dataclass(frozen=True, slots=True)
class Internet:
    """The running tree. pid: the process that holds the host's namespaces; folder: where the tree has files."""

    pid: int
    folder: Path

    def _enter(self) -> list[str]:
        user = [] if ROOT else [f"--user=/proc/{self.pid}/ns/user", "--preserve-credentials"]
        return [
            "nsenter", *user, f"--net=/proc/{self.pid}/ns/net", f"--mount=/proc/{self.pid}/ns/mnt",
            f"--wdns={os.getcwd()}",
        ]  # fmt: skip

    def command(self, *words: str | Path, within: str = "") -> list[str]:
        """Return what runs a command on the host, or in another of the namespaces."""
        other = [IP, "netns", "exec", within] if within else []
        return [*self._enter(), *other, *map(str, words)]

    def run(self, *words: str | Path, within: str = "", env: dict[str, str] | None = None) -> Ended:
        """Run a command there."""
        return run(self.command(*words, within=within), env=env)

    def says(self, *words: str | Path, within: str = "") -> str:
        """Return what a command there prints; it has to succeed."""
        ended = self.run(*words, within=within)
        assert ended.code == 0, (words, ended)
        return ended.out


@contextlib.contextmanager
def internet(folder: Path) -> Iterator[Internet]:
    """Make the namespaces and start the servers; folder: where the tree's own files may be written."""
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, found in NAMES.items() for address in found)]
    (folder / "hosts").write_text("\n".join(lines) + "\n")
    user = [] if ROOT else ["--user", "--map-root-user"]
    addresses = list(ADDRESSES)
    holder = subprocess.Popen(
        ["unshare", *user, "--net", "--mount", "--kill-child", "--fork", "sh", "-c", "echo ready; exec sleep infinity"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        (child,) = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        made = Internet(int(child), folder)
        made.says("sh", "-ec", SET_UP, "sh", str(folder), *addresses)
        with _served(made, addresses):
            yield made
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()


@contextlib.contextmanager
def _served(made: Internet, addresses: Sequence[str]) -> Iterator[None]:
    ports = [",".join(map(str, PORTS[protocol])) for protocol in ("tcp", "udp")]
    command = made.command("/usr/bin/python3", "-c", SERVER, ",".join(addresses), *ports, within="servers")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield
        finally:
            server.kill()
