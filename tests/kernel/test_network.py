"""The network by rules, without root: the supervisor connects, binds and sends; what no rule names is not reached.

Peers are ports of the host's loopback, so that an ordinary user can run this: with a network of the sandbox's own, what
is reached there is reached by the supervisor only. Hosts and names: test_network_hosts.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

import sandbox
from sandbox.launch import Walls
from tests.support.callers import PYTHON, SANDBOX, Ended, run, shown
from tests.support.probes import Probes, public_folder, verdicts

RACES: Final = 1_000_000 if os.geteuid() == 0 else 100_000  # both would take a minute of the same
STARTED: Final = 60

PRELUDE: Final = r"""
import contextlib, ctypes, errno, os, select, signal, socket, struct, sys, threading, time
STREAM, DGRAM, V4, V6, UNIX = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
FASTOPEN = 0x20000000
LOCAL, LIBC = "127.0.0.1", ctypes.CDLL(None, use_errno=True)
TCP, OTHER_TCP, UDP, OTHER_UDP = map(int, sys.argv[1:5])
def made(family=V4, kind=STREAM):
    return socket.socket(family, kind)
def connected(port, family=V4, kind=STREAM, host=LOCAL):
    one = made(family, kind)
    one.connect((host, port))
    return one
def disconnected(one):
    assert LIBC.connect(one.fileno(), bytes(16), 16) == 0
    return one
def raw_connect(one, address):
    if LIBC.connect(one.fileno(), address, len(address)):
        raise OSError(ctypes.get_errno(), "connect")
def raw_send(one, address):
    if LIBC.sendto(one.fileno(), b"x", 1, 0, address, len(address)) != 1:
        raise OSError(ctypes.get_errno(), "sendto")
def inet(port, family=V4, host=LOCAL):
    return struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)
@contextlib.contextmanager
def threads():
    end = threading.Event()
    second = threading.Thread(target=end.wait)
    second.start()
    try:
        yield
    finally:
        end.set()
        second.join()
def attempt(name, what):
    try:
        found = what()
        print(name, "ok" if found is None or isinstance(found, (socket.socket, int)) else found, flush=True)
    except OSError as error:
        print(name, errno.errorcode.get(error.errno, type(error).__name__), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Peers:
    """The host's ports: one of each kind that rules name, one that they do not."""

    tcp: int
    other_tcp: int
    udp: int
    other_udp: int

    @property
    def rules(self) -> tuple[str, ...]:
        """Return the rules that name the first of each."""
        return (f"tcp:127.0.0.1:{self.tcp}", f"udp:127.0.0.1:{self.udp}")

    @property
    def words(self) -> tuple[str, ...]:
        """Return what PRELUDE takes."""
        return tuple(map(str, (self.tcp, self.other_tcp, self.udp, self.other_udp)))


def port_of(one: socket.socket) -> int:
    port: int = one.getsockname()[1]
    return port


def answer(listener: socket.socket) -> None:
    """Accept whoever comes, and say something; ends with the listener."""
    while True:
        try:
            one, _ = listener.accept()
        except OSError:
            return
        with one:
            try:
                one.recv(100)
                one.sendall(b"hello")
            except OSError:
                pass


@pytest.fixture
def peers() -> Iterator[Peers]:
    with ExitStack() as stack:
        ports = []
        for kind in (socket.SOCK_STREAM, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_DGRAM):
            one = stack.enter_context(closing(socket.socket(socket.AF_INET, kind)))
            one.bind(("127.0.0.1", 0))
            ports.append(port_of(one))
            if kind == socket.SOCK_STREAM:
                one.listen(1024)
                stack.callback(one.shutdown, socket.SHUT_RDWR)
                threading.Thread(target=answer, args=(one,), daemon=True).start()
        yield Peers(*ports)


def inside(
    code: str,
    peers: Peers,
    *,
    rules: Sequence[str] | None = None,
    net: str = "none",
    **options: Any,  # noqa: ANN401
) -> sandbox.Popen:
    """Start Python code in a sandbox with the network's rules."""
    return sandbox.Popen(
        [PYTHON, "-S", "-c", PRELUDE + code, *peers.words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, net=net, net_allow=peers.rules if rules is None else rules, **options,
    )  # fmt: skip


def found(code: str, peers: Peers, **options: Any) -> dict[str, str]:  # noqa: ANN401 - Popen's
    """Run Python code in a sandbox with the network's rules; return what each attempt came to."""
    with inside(code, peers, **options) as process:
        out, err = process.communicate(timeout=STARTED)
    assert (process.returncode, err) == (0, ""), out
    return dict(line.split(" ", 1) for line in out.splitlines())


def indented(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.strip().splitlines())


ATTEMPTS: Final = r"""
attempt("tcp", lambda: connected(TCP))
attempt("tcp-other", lambda: connected(OTHER_TCP))
attempt("tcp-mapped", lambda: connected(TCP, V6, host="::ffff:127.0.0.1"))
attempt("tcp-mapped-other", lambda: connected(OTHER_TCP, V6, host="::ffff:127.0.0.1"))
attempt("tcp-v4-in-v6", lambda: raw_connect(made(V6), inet(OTHER_TCP)))
attempt("tcp-any", lambda: connected(OTHER_TCP, host="0.0.0.0"))
attempt("tcp-any6", lambda: connected(OTHER_TCP, V6, host="::"))
attempt("tcp-octal", lambda: connected(OTHER_TCP, host="0177.0.0.1"))
attempt("tcp-integer", lambda: connected(OTHER_TCP, host="2130706433"))
attempt("tcp-long", lambda: raw_connect(made(), inet(TCP) + bytes(100)))
attempt("tcp-long-other", lambda: raw_connect(made(), inet(OTHER_TCP) + bytes(100)))
attempt("tcp-short", lambda: raw_connect(made(), inet(TCP)[:15]))
attempt("tcp-unix-address", lambda: raw_connect(made(), b"\1\0/tmp/none" + bytes(20)))
attempt("tcp-zone", lambda: made(V6).connect(("fe80::1", TCP, 0, 1)))
attempt("again", lambda: connected(TCP).connect((LOCAL, OTHER_TCP)))
attempt("turned", lambda: disconnected(connected(TCP)).connect((LOCAL, OTHER_TCP)))
attempt("turned-back", lambda: disconnected(connected(TCP)).connect((LOCAL, TCP)))
attempt("fast", lambda: made().sendto(b"x", FASTOPEN, (LOCAL, TCP)))
attempt("fast-other", lambda: made().sendto(b"x", FASTOPEN, (LOCAL, OTHER_TCP)))
attempt("fast-message", lambda: made().sendmsg([b"x"], [], FASTOPEN, (LOCAL, TCP)))
attempt("fast-message-other", lambda: made().sendmsg([b"x"], [], FASTOPEN, (LOCAL, OTHER_TCP)))
attempt("named", lambda: connected(TCP).sendto(b"x", (LOCAL, OTHER_TCP)))
attempt("udp", lambda: made(kind=DGRAM).sendto(b"x", (LOCAL, UDP)))
attempt("udp-other", lambda: made(kind=DGRAM).sendto(b"x", (LOCAL, OTHER_UDP)))
attempt("udp-message", lambda: made(kind=DGRAM).sendmsg([b"x", b"y"], [], 0, (LOCAL, UDP)))
attempt("udp-message-other", lambda: made(kind=DGRAM).sendmsg([b"x"], [], 0, (LOCAL, OTHER_UDP)))
attempt("udp-connected", lambda: connected(UDP, kind=DGRAM).send(b"x"))
attempt("udp-connected-message", lambda: connected(UDP, kind=DGRAM).sendmsg([b"x"]))
attempt("udp-connect-other", lambda: connected(OTHER_UDP, kind=DGRAM))
attempt("udp-connected-elsewhere", lambda: connected(UDP, kind=DGRAM).sendto(b"x", (LOCAL, OTHER_UDP)))
attempt("udp-bound", lambda: [one.bind(("", 0)) or one.sendto(b"x", (LOCAL, UDP)) for one in [made(kind=DGRAM)]][0])
attempt("udp-tcp-port", lambda: made(kind=DGRAM).sendto(b"x", (LOCAL, TCP)))
attempt("udp-unspecified", lambda: raw_send(made(kind=DGRAM), inet(UDP, 0)))
attempt("udp-unspecified-other", lambda: raw_send(made(kind=DGRAM), inet(OTHER_UDP, 0)))
attempt("unix", lambda: [one.send(b"x") and two.recv(1) for one, two in [socket.socketpair()]] == [b"x"] and "ok")
"""
EXPECTED: Final = {
    "tcp": "ok", "tcp-other": "EACCES", "tcp-mapped": "ok", "tcp-mapped-other": "EACCES", "tcp-v4-in-v6": "EACCES",
    "tcp-any": "EACCES", "tcp-any6": "EACCES", "tcp-octal": "EACCES", "tcp-integer": "EACCES",
    "tcp-long": "ok", "tcp-long-other": "EACCES", "tcp-short": "EINVAL", "tcp-unix-address": "EAFNOSUPPORT",
    "tcp-zone": "EACCES", "again": "EACCES", "turned": "EACCES", "turned-back": "ok",
    "fast": "ok", "fast-other": "EACCES", "fast-message": "ok", "fast-message-other": "EACCES", "named": "ok",
    "udp": "ok", "udp-other": "EACCES", "udp-message": "ok", "udp-message-other": "EACCES", "udp-connected": "ok",
    "udp-connected-message": "ok", "udp-connect-other": "EACCES", "udp-connected-elsewhere": "EACCES",
    "udp-bound": "ok", "udp-tcp-port": "EACCES", "udp-unspecified": "ok", "udp-unspecified-other": "EACCES",
    "unix": "ok",
}  # fmt: skip


@pytest.mark.parametrize("with_threads", [False, True], ids=["alone", "threads"])
def test_what_a_rule_names_is_reached_and_nothing_else(peers: Peers, with_threads: bool) -> None:
    code = ATTEMPTS
    if with_threads:
        code = "with threads():\n" + indented(ATTEMPTS)
    assert found(code, peers) == EXPECTED


def test_without_a_rule_for_datagrams_they_have_no_network(peers: Peers) -> None:
    verdict = found(ATTEMPTS, peers, rules=peers.rules[:1])
    assert {verdict[name] for name in EXPECTED if name.startswith("udp")} == {"ENETUNREACH"}
    assert {name: value for name, value in verdict.items() if not name.startswith("udp")} == {
        name: value for name, value in EXPECTED.items() if not name.startswith("udp")
    }


BINDS: Final = r"""
def listening(port, host=LOCAL):
    one = made()
    one.bind((host, port))
    one.listen()
    return one
attempt("listen-named", lambda: listening(int(sys.argv[5])))
attempt("listen-other", lambda: listening(int(sys.argv[6])))
attempt("listen-any", lambda: listening(0))
attempt("listen-unbound", lambda: made().listen())
attempt("bind-udp", lambda: made(kind=DGRAM).bind((LOCAL, int(sys.argv[5]))))
attempt("listen-turned", lambda: disconnected(connected(TCP)).listen())
"""


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        ones = [stack.enter_context(closing(socket.create_server(("127.0.0.1", 0)))) for _ in range(count)]
        return [port_of(one) for one in ones]


def bound(peers: Peers, code: str, *, net: str, ports: Sequence[int]) -> dict[str, str]:
    command = [PYTHON, "-S", "-c", PRELUDE + code, *peers.words, *map(str, ports)]
    done = sandbox.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, net=net, net_allow=peers.rules,
        net_bind=[f"tcp:{ports[0]}"],
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def test_a_port_is_bound_where_a_rule_names_it(peers: Peers) -> None:
    assert bound(peers, BINDS, net="none", ports=free_ports(2)) == {
        "listen-named": "ok", "listen-other": "EACCES", "listen-any": "EACCES", "listen-unbound": "EACCES",
        "bind-udp": "EACCES", "listen-turned": "EACCES",
    }  # fmt: skip


def test_the_port_is_the_hosts(peers: Peers) -> None:
    port = free_ports(1)[0]
    code = """
one = made()
one.bind(('', int(sys.argv[5])))
one.listen()
print('up', flush=True)
one.accept()[0].send(b'hello')
"""
    with sandbox.Popen(
        [PYTHON, "-S", "-c", PRELUDE + code, *peers.words, str(port)], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, text=True, net="none", net_bind=[f"tcp:{port}"],
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        with socket.create_connection(("127.0.0.1", port), 10) as one:
            assert one.recv(10) == b"hello"


INSIDE: Final = r"""
def meets(host, port=0, kind=STREAM, family=V4, to=LOCAL):
    server = made(family, kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, port))
    if kind == DGRAM:
        made(family, kind).sendto(b"x", (to, server.getsockname()[1]))
        return server.recv(1) == b"x" and "met"
    server.listen()
    client = connected(server.getsockname()[1], family, host=to)
    client.send(b"x")
    return server.accept()[0].recv(1) == b"x" and "met"
attempt("loopback", lambda: meets(LOCAL))
attempt("every-address", lambda: meets(""))
attempt("own-port", lambda: meets(LOCAL, OTHER_TCP))
attempt("six", lambda: meets("::1", family=V6, to="::1"))
attempt("datagrams", lambda: meets(LOCAL, kind=DGRAM))
attempt("the-hosts-other", lambda: connected(OTHER_TCP))
attempt("the-hosts", lambda: connected(TCP).send(b"x"))
attempt("keeps", lambda: connected(TCP).connect((LOCAL, OTHER_TCP)))
"""


@pytest.mark.parametrize("with_threads", [False, True], ids=["alone", "threads"])
def test_with_a_loopback_what_no_rule_names_happens_inside(peers: Peers, with_threads: bool) -> None:
    code = INSIDE
    if with_threads:
        head, _, calls = INSIDE.partition("attempt(")
        code = head + "with threads():\n" + indented(f"attempt({calls}")
    assert found(code, peers, net="loopback") == {
        "loopback": "met", "every-address": "met", "own-port": "met", "six": "met", "datagrams": "met",
        "the-hosts-other": "ECONNREFUSED", "the-hosts": "ok", "keeps": "EISCONN",
    }  # fmt: skip


UNIX: Final = r"""
def meets(path, kind=STREAM):
    server, client = made(UNIX, kind), made(UNIX, kind)
    server.bind(path)
    if kind == DGRAM:
        client.sendto(b"a", path)
        client.sendmsg([b"b"], [], 0, path)
        got = server.recv(1) + server.recv(1)
    else:
        server.listen()
        client.connect(path)
        other, _ = server.accept()
        socket.send_fds(client, [b"a"], [0, 1])
        message, numbers, *_ = socket.recv_fds(other, 1, 4)
        other.sendmsg([b"b"])
        got = message + client.recv(1)
        assert len(numbers) == 2
    return got == b"ab" and "met"
def large():
    one, two = socket.socketpair()
    reader = threading.Thread(target=lambda: [None for _ in iter(lambda: two.recv(1 << 16), b"")], daemon=True)
    reader.start()
    return one.sendmsg([bytes(1 << 20)]) > 0 and "sent"
os.chdir("/tmp")
attempt("stream", lambda: meets("/tmp/stream"))
attempt("datagram", lambda: meets("/tmp/datagram", DGRAM))
attempt("relative", lambda: meets("relative"))
attempt("abstract", lambda: meets("\0abstract"))
attempt("missing", lambda: made(UNIX).connect("/tmp/missing"))
attempt("unwritable", lambda: made(UNIX).bind("/usr/unwritable"))
os.umask(0o077)
attempt("mask", lambda: meets("/tmp/masked") and oct(os.stat("/tmp/masked").st_mode & 0o777))
attempt("large", large)
"""


@pytest.mark.parametrize("rules", [1, 2], ids=["tcp", "tcp-and-udp"])
@pytest.mark.parametrize("with_threads", [False, True], ids=["alone", "threads"])
def test_unix_sockets_are_as_ever(peers: Peers, with_threads: bool, rules: int) -> None:
    head, _, calls = UNIX.partition("os.chdir(")
    block = "with threads():\n" if with_threads else "if True:\n"
    code = head + block + indented(f"os.chdir({calls}")
    assert found(code, peers, rules=peers.rules[:rules], tmpfs=["/tmp"]) == {
        "stream": "met", "datagram": "met", "relative": "met", "abstract": "met", "missing": "ENOENT",
        "unwritable": "EROFS", "mask": "0o700", "large": "sent",
    }  # fmt: skip


@pytest.fixture
def deaf() -> Iterator[socket.socket]:
    """Yield a listener whose backlog is full: whoever connects waits."""
    with ExitStack() as stack:
        one = stack.enter_context(closing(socket.socket()))
        one.bind(("127.0.0.1", 0))
        one.listen(0)
        for _ in range(3):
            filler = stack.enter_context(closing(socket.socket()))
            filler.setblocking(False)
            filler.connect_ex(one.getsockname())
        time.sleep(0.1)
        yield one


WAITING: Final = r"""
DEAF = int(sys.argv[5])
def interrupted():
    def handle(*_):
        raise InterruptedError(errno.EINTR, "here")
    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    connected(DEAF)
attempt("interrupted", interrupted)
def limited(*signals):
    if signals:
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.siginterrupt(signal.SIGALRM, False)
        signal.setitimer(signal.ITIMER_REAL, *signals)
    one = made()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("=qq", 1, 0))
    try:
        raw_connect(one, inet(DEAF))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
attempt("limited", limited)
attempt("limited-and-interrupted", lambda: limited(0.2))
def restarted():
    seen = []
    signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
    print("soon", "it is heard", flush=True)
    raw_connect(made(), inet(DEAF))
    signal.setitimer(signal.ITIMER_REAL, 0)
    return bool(seen) and "restarted"
attempt("restarted", restarted)
def polled():
    one = made()
    one.setblocking(False)
    with select.epoll() as watcher:
        watcher.register(one, select.EPOLLOUT)
        assert one.connect_ex((LOCAL, TCP)) == errno.EINPROGRESS
        assert watcher.poll(5)[0][0] == one.fileno()
    return one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
attempt("polled", polled)
attempt("blocking-again", lambda: connected(TCP).getblocking() and "blocks")
attempt("refused", lambda: connected(int(sys.argv[6])))
"""


def hear(listener: socket.socket) -> None:
    """Accept all that come, so that who waits is let in."""
    with ExitStack() as stack, contextlib.suppress(OSError):
        listener.settimeout(10)
        while True:
            stack.enter_context(closing(listener.accept()[0]))


def test_connections_wait_as_their_sockets_do(peers: Peers, deaf: socket.socket) -> None:
    closed = free_ports(1)[0]
    rules = [*peers.rules, f"tcp:127.0.0.1:{port_of(deaf)}", f"tcp:127.0.0.1:{closed}"]
    told = {}
    with sandbox.Popen(
        [PYTHON, "-S", "-c", PRELUDE + WAITING, *peers.words, str(port_of(deaf)), str(closed)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, net_allow=rules,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            name, value = line.rstrip("\n").split(" ", 1)
            told[name] = value
            if name == "soon":
                time.sleep(0.5)
                threading.Thread(target=hear, args=(deaf,), daemon=True).start()
    assert told == {
        "interrupted": "EINTR", "limited": "EINPROGRESS", "limited-and-interrupted": "EINTR", "soon": "it is heard",
        "restarted": "restarted", "polled": "ok", "blocking-again": "blocks", "refused": "ECONNREFUSED",
    }  # fmt: skip


def descriptors_of(pid: int) -> int:
    """Return how many a launcher has that is not just at work: what answers a call closes its own after the answer."""
    counts = []
    for _ in range(10):
        counts.append(len(os.listdir(f"/proc/{pid}/fd")))
        time.sleep(0.01)
    return min(counts)


HUNDREDS: Final = r"""
def wait():
    try:
        connected(int(sys.argv[5]))
    except OSError:
        pass
for _ in range(200):
    threading.Thread(target=wait, daemon=True).start()
time.sleep(0.5)
for _ in range(20):
    assert os.spawnv(os.P_WAIT, "/usr/bin/true", ["true"]) == 0
attempt("beside", lambda: connected(TCP))
print("up", flush=True)
sys.stdin.read()
os._exit(0)
"""


def test_connections_that_wait_hold_up_nothing_and_leave_nothing(peers: Peers, deaf: socket.socket) -> None:
    with sandbox.Popen(
        [PYTHON, "-S", "-c", PRELUDE + HUNDREDS, *peers.words, str(port_of(deaf))], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, net_allow=[*peers.rules, f"tcp:127.0.0.1:{port_of(deaf)}"],
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "beside ok\n"
        assert process.stdout.readline() == "up\n"
        if os.geteuid() == 0:  # the launcher is opaque to its own user
            assert descriptors_of(process.pid) > 200
        process.stdin.close()
        assert process.wait(STARTED) == 0


def counts_after_rounds(process: sandbox.Popen) -> list[int]:
    """Return how many descriptors the launcher has after each of three rounds of a program that waits for lines."""
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    counts = []
    for _ in range(3):
        process.stdin.write("go\n")
        process.stdin.flush()
        process.stdout.readline()
        counts.append(descriptors_of(process.pid))
    process.stdin.close()
    return counts


ROUNDS: Final = r"""
print("up", flush=True)
for line in sys.stdin:
    for _ in range(300):
        connected(TCP).close()
        made(kind=DGRAM).sendto(b"x", (LOCAL, UDP))
        attempt_quietly = made().connect_ex((LOCAL, OTHER_TCP))
    print("done", flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the launcher is opaque to its own user")
def test_the_supervisor_keeps_no_descriptor_of_what_is_over(peers: Peers) -> None:
    with sandbox.Popen(
        [PYTHON, "-S", "-c", PRELUDE + ROUNDS, *peers.words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        net_allow=peers.rules,
    ) as process:  # fmt: skip
        counts = counts_after_rounds(process)
        assert counts == counts[:1] * 3


INTERRUPTIONS: Final = r"""
def handle(*_):
    raise InterruptedError(errno.EINTR, "here")
signal.signal(signal.SIGALRM, handle)
print("up", flush=True)
for line in sys.stdin:
    for _ in range(5):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            connected(int(sys.argv[5]))
        except OSError:
            pass
    print("done", flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the launcher is opaque to its own user")
def test_the_supervisor_keeps_no_descriptor_of_what_was_interrupted(peers: Peers, deaf: socket.socket) -> None:
    with sandbox.Popen(
        [PYTHON, "-S", "-c", PRELUDE + INTERRUPTIONS, *peers.words, str(port_of(deaf))], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, net_allow=[f"tcp:127.0.0.1:{port_of(deaf)}"],
    ) as process:  # fmt: skip
        counts = counts_after_rounds(process)
        assert counts == counts[:1] * 3


THOUSAND: Final = r"""
ones = []
for _ in range(1000):
    one = made()
    one.setblocking(False)
    one.connect_ex((LOCAL, TCP))
    ones.append(one)
for one in ones:
    select.select([], [one], [], 30)
    assert one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    one.setblocking(True)
    one.sendall(b"x")
print("answered", sum(one.recv(5) == b"hello" for one in ones))
"""


def test_a_thousand_connections_at_once(peers: Peers) -> None:
    assert found("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (2000, 2000))\n" + THOUSAND, peers) == {
        "answered": "1000"
    }


REFUSED_OPTIONS: Final = r"""
attempt("raw", lambda: socket.socket(V4, socket.SOCK_RAW, 1))
attempt("ping", lambda: socket.socket(V4, DGRAM, 1))
attempt("netlink", lambda: socket.socket(16, socket.SOCK_RAW, 0))
attempt("vsock", lambda: socket.socket(40, STREAM, 0))
attempt("packet", lambda: socket.socket(17, socket.SOCK_RAW, 0))
attempt("multipath", lambda: socket.socket(V4, STREAM, 262))
attempt("device", lambda: made().setsockopt(socket.SOL_SOCKET, 25, b"lo\0"))
attempt("route", lambda: made().setsockopt(0, 4, bytes([131, 7, 4, 127, 0, 0, 1, 0])))
attempt("group", lambda: made(kind=DGRAM).setsockopt(0, 35, bytes([224, 0, 0, 251]) + bytes(8)))
attempt("cmsg-route", lambda: connected(UDP, kind=DGRAM).sendmsg([b"x"], [(0, 7, bytes([131, 7, 4, 127, 0, 0, 1, 0]))]))
attempt("cmsg-plain", lambda: connected(UDP, kind=DGRAM).sendmsg([b"x"], [(0, 1, struct.pack("=i", 8))]))
attempt("option", lambda: made().setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
"""


def test_other_families_and_ways_round_are_refused(peers: Peers) -> None:
    assert found(REFUSED_OPTIONS, peers) == {
        "raw": "EPERM", "ping": "EPROTONOSUPPORT", "netlink": "EPERM", "vsock": "EPERM", "packet": "EPERM",
        "multipath": "EPERM", "device": "EPERM", "route": "EPERM", "group": "EPERM", "cmsg-route": "EPERM",
        "cmsg-plain": "ok", "option": "ok",
    }  # fmt: skip


def test_a_socket_that_somebody_sent_goes_nowhere_else(peers: Peers) -> None:
    code = r"""
where = socket.socket(fileno=int(os.environ["SANDBOX_FD_CHANNEL"]))
_, numbers, *_ = socket.recv_fds(where, 10, 2)
stream, datagram = (socket.socket(fileno=number) for number in numbers)
attempt("stream", lambda: stream.connect((LOCAL, TCP)))
attempt("stream-other", lambda: disconnected(stream).connect((LOCAL, OTHER_TCP)))
attempt("datagram", lambda: datagram.sendto(b"x", (LOCAL, UDP)))
attempt("datagram-other", lambda: datagram.sendto(b"x", (LOCAL, OTHER_UDP)))
attempt("datagram-message-other", lambda: datagram.sendmsg([b"x"], [], 0, (LOCAL, OTHER_UDP)))
"""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
        socket.send_fds(ours, [b"two"], [stream.fileno(), datagram.fileno()])
        grant = sandbox.InheritGrant(name="channel", inherit=theirs.fileno(), type=sandbox.FdType.SOCKET)
        verdict = found(code, peers, rules=peers.rules[:1], grants=[grant])
    assert verdict == {
        "stream": "ok", "stream-other": "EACCES", "datagram": "EACCES", "datagram-other": "EACCES",
        "datagram-message-other": "EACCES",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("what", ["address", "exchange"])
def test_a_second_thread_changes_no_verdict(peers: Peers, probes: Probes, what: str, kind: str) -> None:
    # TCP connections are made for real, and take a port each; so there are fewer of them.
    tries = RACES if kind == "udp" and what == "address" else RACES // 50
    allowed, forbidden = (peers.tcp, peers.other_tcp) if kind == "tcp" else (peers.udp, peers.other_udp)
    done = sandbox.run(
        [probes["netrace"], what, str(tries), kind, str(allowed), str(forbidden)], capture_output=True, text=True,
        stdin=subprocess.DEVNULL, **beside(peers.rules, probes["netrace"]),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    counted = verdicts(done.stdout)
    assert counted["reached"].result == 0
    assert counted["went"].result + counted["refused"].result == tries
    if what == "address":
        assert counted["went"].result > 0
        assert counted["refused"].result > 0


def test_the_race_is_won_where_nobody_decides(peers: Peers, probes: Probes) -> None:
    words = [probes["netrace"], "address", "20000", "udp", str(peers.udp), str(peers.other_udp)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert verdicts(done.stdout)["reached"].result > 0


def beside(rules: Sequence[str], probe: str) -> Walls:
    walls = shown(probe)
    walls["net_allow"] = rules
    return walls


def traced(code: str, peers: Peers, *options: str) -> Ended:
    allowed = [word for rule in peers.rules for word in ("--net-allow", rule)]
    return run(
        [*SANDBOX, "run", "-p", "untrusted", *allowed, *options, "--", PYTHON, "-S", "-c", PRELUDE + code, *peers.words]
    )


TOLD: Final = """
attempt("tcp", lambda: connected(TCP))
attempt("tcp-other", lambda: connected(OTHER_TCP))
attempt("bind", lambda: made().bind((LOCAL, OTHER_TCP)))
attempt("raw", lambda: socket.socket(V4, socket.SOCK_RAW, 1))
attempt("device", lambda: made().setsockopt(socket.SOL_SOCKET, 25, b"lo"))
for _ in range(100):
    made(kind=DGRAM).sendto(b"x", (LOCAL, UDP))
"""


def test_every_attempt_is_told_with_what_would_allow_it(peers: Peers) -> None:
    lines = traced(TOLD, peers, "--trace-net").err.splitlines()
    own = [line.split(": ", 3)[3] for line in lines if line.startswith("sandbox: network: ")]
    other = f"tcp:127.0.0.1:{peers.other_tcp}"
    assert own == [
        f"connect tcp:127.0.0.1:{peers.tcp}: allowed (tcp:127.0.0.1:{peers.tcp})",
        f"connect {other}: refused (this host itself): Permission denied; --net-allow '{other}' allows it",
        f"bind {other}: refused: Permission denied; --net-bind '{other}' allows it",
        "socket family 2, type 3: refused: Operation not permitted",
        "option level 1, option 25: refused: Operation not permitted",
        f"send udp:127.0.0.1:{peers.udp}: allowed (udp:127.0.0.1:{peers.udp})",
    ]
    assert len(own) == len(lines)


def test_the_line_that_a_refusal_names_makes_it_pass(peers: Peers) -> None:
    line = next(line for line in traced(TOLD, peers, "--trace-net").err.splitlines() if "--net-allow" in line)
    rule = line.split("'")[1]
    assert "tcp-other EACCES\n" in traced(TOLD, peers).out
    assert "tcp-other ok\n" in traced(TOLD, peers, "--net-allow", rule).out


def test_status_lines_tell_of_the_network(peers: Peers, tmp_path: Path) -> None:
    path = tmp_path / "status"
    with path.open("w") as file:
        os.set_inheritable(file.fileno(), True)
        traced(TOLD, peers, "--status-fd", str(file.fileno()))
    events = [json.loads(line) for line in path.read_text().splitlines()]
    network = [event for event in events if event["event"] == "network"]
    assert [(event["call"], event["verdict"], event.get("rule"), event["error"]) for event in network[:2]] == [
        ("connect", "allowed", f"tcp:127.0.0.1:{peers.tcp}", network[0]["error"]),
        ("connect", "refused", "this host itself", 13),
    ]
    assert all(event["program"].startswith("/usr/bin/python3") for event in network)


def test_a_program_that_hides_its_memory_is_served_too(peers: Peers) -> None:
    code = """
LIBC.prctl(4, 0, 0, 0, 0)
attempt("hidden", lambda: connected(TCP))
attempt("other", lambda: connected(OTHER_TCP))
"""
    assert found(code, peers) == {"hidden": "ok", "other": "EACCES"}


def test_a_program_after_another_exec_is_served_too(peers: Peers) -> None:
    code = """
attempt('first', lambda: connected(TCP))
os.execv(sys.executable, [sys.executable, '-S', '-c', os.environ['NEXT'], *sys.argv[1:]])
"""
    later = PRELUDE + "attempt('second', lambda: connected(TCP))\nattempt('other', lambda: connected(OTHER_TCP))"
    assert found(code, peers, env={"NEXT": later}) == {"first": "ok", "second": "ok", "other": "EACCES"}


def test_with_one_exec_the_supervisor_is_asked_all_the_same(peers: Peers, tmp_path: Path) -> None:
    profile = tmp_path / "once.toml"
    profile.write_text(
        'extends = ["untrusted"]\n[process]\nexec = "once"\n[descriptors]\ndelegate = []\n', encoding="utf-8"
    )
    code = (
        "attempt('tcp', lambda: connected(TCP))\nattempt('other', lambda: connected(OTHER_TCP))\n"
        "attempt('exec', lambda: os.execv('/usr/bin/true', ['true']))"
    )
    assert found(code, peers, profile=str(profile)) == {"tcp": "ok", "other": "EACCES", "exec": "EPERM"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root becomes another user")
def test_another_users_sockets_are_that_users(peers: Peers) -> None:
    owner = """
one = made()
print("owner", os.fstat(one.fileno()).st_uid)
attempt("tcp", lambda: connected(TCP))
"""
    with_threads = """
with threads():
    made(UNIX).bind("/tmp/with-threads")
    print("file", os.stat("/tmp/with-threads").st_uid, os.stat("/tmp/with-threads").st_gid)
"""
    verdict = found(owner + UNIX + with_threads, peers, user="65534:65534", tmpfs=["/tmp"])
    assert (verdict["tcp"], verdict["owner"], verdict["stream"]) == ("ok", "65534", "met")
    assert verdict["file"] == "65534 65534"


@pytest.mark.parametrize("with_threads", [False, True], ids=["alone", "threads"])
def test_landlock_says_where_a_unix_socket_may_be_bound(peers: Peers, tmp_path: Path, with_threads: bool) -> None:
    (tmp_path / "may").mkdir()
    places = {"may": f"{tmp_path}/may/socket", "may-not": f"/run/lock/sandbox-test-{os.getpid()}"}  # anybody's folder
    profile = tmp_path / "host.toml"
    profile.write_text(
        f'extends = ["untrusted"]\n[filesystem]\nview = "host"\nwrite = ["{tmp_path}/may"]\n'
        '[process]\nchdir = "/usr"\n', encoding="utf-8",
    )  # fmt: skip
    code = "with threads():\n" if with_threads else "if True:\n"
    for name, path in places.items():
        code += f"    attempt('{name}', lambda: made(UNIX).bind('{path}'))\n"
    assert found(code, peers, profile=str(profile)) == {"may": "ok", "may-not": "EACCES"}


def test_a_granted_socket_stays_on_its_number(peers: Peers) -> None:
    code = """
granted = socket.socket(fileno=int(os.environ["SANDBOX_FD_PEER"]))
attempt("granted", lambda: granted.send(b"x"))
attempt("elsewhere", lambda: disconnected(granted).connect((LOCAL, OTHER_TCP)))
attempt("another", lambda: disconnected(connected(TCP)).connect((LOCAL, OTHER_TCP)))
attempt("back", lambda: granted.connect((LOCAL, TCP)))
"""
    verdict = found(code, peers, net="loopback", grants=[f"peer=connect:tcp:127.0.0.1:{peers.tcp}"])
    assert verdict == {"granted": "ok", "elsewhere": "EACCES", "another": "ECONNREFUSED", "back": "ok"}


def test_in_the_hosts_network_rules_hold_ports(peers: Peers) -> None:
    other, free = free_ports(2)
    code = """
attempt("tcp", lambda: connected(TCP))
attempt("tcp-other", lambda: connected(OTHER_TCP))
attempt("bind", lambda: made().bind((LOCAL, int(sys.argv[5]))))
attempt("bind-other", lambda: made().bind((LOCAL, int(sys.argv[6]))))
attempt("udp-other", lambda: made(kind=DGRAM).sendto(b"x", (LOCAL, OTHER_UDP)))
"""
    done = sandbox.run(
        [PYTHON, "-S", "-c", PRELUDE + code, *peers.words, str(other), str(free)], capture_output=True, text=True,
        stdin=subprocess.DEVNULL, net="host", net_allow=[f"tcp:*:{peers.tcp}"], net_bind=[f"tcp:{other}"],
    )  # fmt: skip
    assert dict(line.split(" ", 1) for line in done.stdout.splitlines()) == {
        "tcp": "ok", "tcp-other": "EACCES", "bind": "ok", "bind-other": "EACCES", "udp-other": "ok",
    }, done.stderr  # fmt: skip


def test_a_killed_program_that_waits_leaves_its_launcher_in_order(peers: Peers, deaf: socket.socket) -> None:
    code = f"connected({port_of(deaf)})"
    rules = [f"tcp:127.0.0.1:{port_of(deaf)}"]
    with inside(code, peers, rules=rules) as process:
        time.sleep(0.3)
        process.terminate()
        assert process.wait(STARTED) == -signal.SIGTERM


def test_names_are_in_the_childs_own_hosts_file_and_no_resolver(peers: Peers) -> None:
    done = sandbox.run(
        ["cat", "/etc/hosts", "/etc/resolv.conf"], capture_output=True, text=True, stdin=subprocess.DEVNULL,
        net_allow=peers.rules,
    )  # fmt: skip
    assert done.stdout == "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


def test_a_name_that_leads_to_this_host_is_refused() -> None:
    with pytest.raises(sandbox.UsageError, match=r"localhost is .*: this host itself; no name leads there"):
        sandbox.run(["true"], net_allow=["tcp:localhost:80"])
    done = sandbox.run(["true"], net_allow=["tcp:localhost:80", "tcp:127.0.0.0/8:80", "tcp:[::1]:80"])
    assert done.returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root becomes another user")
def test_the_supervisors_groups_open_no_unix_socket(peers: Peers) -> None:
    code = "with threads():\n    attempt('socket', lambda: made(UNIX).connect(sys.argv[5]))\n"
    with public_folder() as folder, socket.socket(socket.AF_UNIX) as server:
        path = folder / "socket"
        server.bind(str(path))
        server.listen()
        os.chown(path, 0, 4)
        said = {}
        for mode in (0o770, 0o777):
            path.chmod(mode)
            allowed = [word for rule in peers.rules for word in ("--net-allow", rule)]
            ended = run(
                [*SANDBOX, "run", "-p", "untrusted", "--user", "65534:65534", "--read", folder, *allowed, "--",
                 PYTHON, "-S", "-c", PRELUDE + code, *peers.words, path], setup=lambda: os.setgroups([4]),
            )  # fmt: skip
            assert ended.err == ""
            said[mode] = ended.out
    assert said == {0o770: "socket EACCES\n", 0o777: "socket ok\n"}
