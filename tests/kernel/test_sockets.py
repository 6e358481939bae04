"""Socket grants: made in the caller's network, given to a child that has none; and kept to what was granted."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

import sandbox
from sandbox import Caller
from sandbox.addresses import looked_up
from sandbox.build import build
from sandbox.grants import parse_grant
from sandbox.launch import Walls
from sandbox.plan import Plan
from sandbox.profile_files import default_search_path, load
from sandbox.resolve import Additions, for_caller
from tests.support.callers import PYTHON, Ended, folders_in, launch, plan_of, shown, started
from tests.support.probes import Probes, as_table, verdicts

TELL: Final = """
import os, socket, sys
for number in map(int, sys.argv[1:]):
    one = socket.socket(fileno=number)
    try:
        peer = one.getpeername()
    except OSError:
        peer = None
    kinds = one.family.name, one.type.name, one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    print(number, *kinds, one.getsockname(), peer, os.get_blocking(number), sep="|")
"""


def told(*grants: str, numbers: int = 1) -> list[str]:
    """Return what the grants' sockets are, as the child sees them."""
    words = [PYTHON, "-S", "-c", TELL, *(str(3 + at) for at in range(numbers))]
    done = sandbox.run(words, grants=grants, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, "")
    lines: list[str] = done.stdout.splitlines()
    return lines


def beside(net: str, probes: Probes) -> Walls:
    walls = shown(probes["sock"])
    walls["net"] = net
    return walls


def steps(probes: Probes, grant: str, *words: str, net: str = "none") -> dict[str, int]:
    """Try steps of the sock probe on a grant's socket, on 3; return each one's errno, or 0."""
    done = sandbox.run(
        [probes["sock"], *words], grants=[f"g={grant}"], capture_output=True, text=True, stdin=subprocess.DEVNULL,
        **beside(net, probes),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = verdicts(done.stdout)
    assert len(found) == len(set(words)), done.stdout
    return {name: verdict.errno for name, verdict in found.items()}


def port_of(one: socket.socket) -> int:
    port: int = one.getsockname()[1]
    return port


@dataclass(frozen=True, slots=True)
class Host:
    """Sockets of the host's: those that grants lead to, and others."""

    tcp: socket.socket
    other_tcp: socket.socket
    udp: socket.socket
    other_udp: socket.socket
    stream: socket.socket
    datagram: socket.socket
    other_datagram: socket.socket
    other_stream: socket.socket


@pytest.fixture
def host() -> Iterator[Host]:
    with ExitStack() as stack:

        def made(family: int, kind: int, address: tuple[str, int] | str) -> socket.socket:
            one = stack.enter_context(closing(socket.socket(family, kind)))
            one.bind(address)
            if kind == socket.SOCK_STREAM:
                one.listen()
            one.settimeout(0.1)
            return one

        inet, unix, stream, datagram = socket.AF_INET, socket.AF_UNIX, socket.SOCK_STREAM, socket.SOCK_DGRAM
        local = ("127.0.0.1", 0)
        name = f"\0sandbox-test-{os.getpid()}"
        yield Host(
            made(inet, stream, local), made(inet, stream, local), made(inet, datagram, local),
            made(inet, datagram, local), made(unix, stream, f"{name}-s"), made(unix, datagram, f"{name}-d"),
            made(unix, datagram, f"{name}-o"), made(unix, stream, f"{name}-t"),
        )  # fmt: skip


def text_of(one: socket.socket) -> str:
    """Return a Unix socket's abstract name as grants have it."""
    name: bytes = one.getsockname()
    return "@" + name[1:].decode()


def nothing_came(one: socket.socket) -> bool:
    try:
        if one.type == socket.SOCK_STREAM:
            one.accept()[0].close()
        else:
            one.recv(9)
    except TimeoutError:
        return True
    return False


# What the child gets


def test_listen_gives_a_listening_socket_of_the_callers_network(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    lines = told(
        "a=listen:tcp:127.0.0.1:0", "b=listen:tcp:[::1]:0", "c=listen:tcp:*:0", "d=listen:udp:127.0.0.1:0",
        f"e=listen:unix:{path}", f"f=listen:unix:@sandbox-test-{os.getpid()}", numbers=6,
    )  # fmt: skip
    assert re.fullmatch(r"3\|AF_INET\|SOCK_STREAM\|1\|\('127.0.0.1', \d+\)\|None\|True", lines[0])
    assert re.fullmatch(r"4\|AF_INET6\|SOCK_STREAM\|1\|\('::1', \d+, 0, 0\)\|None\|True", lines[1])
    assert re.fullmatch(r"5\|AF_INET6\|SOCK_STREAM\|1\|\('::', \d+, 0, 0\)\|None\|True", lines[2])
    assert re.fullmatch(r"6\|AF_INET\|SOCK_DGRAM\|0\|\('127.0.0.1', \d+\)\|None\|True", lines[3])
    assert lines[4:] == [
        f"7|AF_UNIX|SOCK_STREAM|1|{path}|None|True",
        f"8|AF_UNIX|SOCK_STREAM|1|b'\\x00sandbox-test-{os.getpid()}'|None|True",
    ]


def test_connect_and_datagram_give_sockets_with_their_peers(host: Host) -> None:
    lines = told(
        f"a=connect:tcp:127.0.0.1:{port_of(host.tcp)}", f"b=connect:unix:{text_of(host.stream)}",
        f"c=datagram:udp:127.0.0.1:{port_of(host.udp)}", f"d=datagram:unix:{text_of(host.datagram)}", numbers=4,
    )  # fmt: skip
    peers = [("127.0.0.1", port_of(host.tcp)), host.stream.getsockname(), ("127.0.0.1", port_of(host.udp))]
    peers.append(host.datagram.getsockname())
    kinds = ["AF_INET|SOCK_STREAM", "AF_UNIX|SOCK_STREAM", "AF_INET|SOCK_DGRAM", "AF_UNIX|SOCK_DGRAM"]
    for line, kind, peer in zip(lines, kinds, peers, strict=True):
        assert f"|{kind}|0|" in line
        assert line.endswith(f"|{peer}|True"), line


SERVE: Final = """
import socket
with socket.socket(fileno=3) as listening:
    if listening.type == socket.SOCK_DGRAM:
        data, peer = listening.recvfrom(99)
        listening.sendto(data.upper(), peer)
    else:
        with listening.accept()[0] as one:
            one.sendall(one.recv(99).upper())
"""


@pytest.mark.parametrize("address", ["tcp:127.0.0.1:0", "udp:127.0.0.1:0", "unix:{path}", "unix:@{name}"])
def test_listen_serves_the_host_from_no_network(tmp_path: Path, address: str) -> None:
    name = f"sandbox-test-{os.getpid()}"
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM if "tcp" in address else socket.SOCK_DGRAM)) as free:
        free.bind(("127.0.0.1", 0))
        port = port_of(free)
    text = address.format(path=tmp_path / "socket", name=name).replace(":0", f":{port}")
    with sandbox.Popen([PYTHON, "-S", "-c", SERVE], grants=[f"s=listen:{text}"]) as server:
        family = socket.AF_UNIX if "unix" in text else socket.AF_INET
        kind = socket.SOCK_DGRAM if "udp" in text else socket.SOCK_STREAM
        with socket.socket(family, kind) as client:
            client.settimeout(10)
            client.connect(
                ("127.0.0.1", port) if family == socket.AF_INET
                else "\0" + name if "@" in text else str(tmp_path / "socket")
            )  # fmt: skip
            client.sendall(b"told")
            assert client.recv(99) == b"TOLD"
        assert server.wait(10) == 0


def test_listen_ipv6_only_takes_no_ipv4_and_its_twin_does() -> None:
    def takes_ipv4(words: str) -> bool:
        with closing(socket.socket(socket.AF_INET6)) as free:
            free.bind(("::", 0))
            port = port_of(free)
        with (
            sandbox.Popen(["sleep", "30"], grants=[f"s=listen:tcp:[::]:{port}{words}"]) as server,
            socket.socket() as client,
        ):
            try:
                return client.connect_ex(("127.0.0.1", port)) == 0
            finally:
                server.kill()

    assert takes_ipv4("") is True
    assert takes_ipv4(":ipv6_only") is False


def test_listen_reuse_port_shares_with_its_like_only() -> None:
    with socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        first.bind(("127.0.0.1", 0))
        first.listen()
        address = f"tcp:127.0.0.1:{port_of(first)}"
        assert launch(plan_of(["true"], f"s=listen:{address}:reuse_port")).code == 0
        ended = launch(plan_of(["true"], f"s=listen:{address}"))
        assert (ended.code, ended.err.split(";")[0]) == (
            125, f"sandbox: listen: grant s: {address}: Address already in use",
        )  # fmt: skip


def test_listen_again_at_once_after_connections(probes: Probes) -> None:
    """The kernel still winds up connections of the first run, on the same port."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = port_of(free)
    for _ in range(2):
        words = [probes["sock"], "accept:3"]
        with (
            sandbox.Popen(words, grants=[f"s=listen:tcp:127.0.0.1:{port}"], stdout=subprocess.DEVNULL, **shown(*words))
            as server,
            socket.create_connection(("127.0.0.1", port)) as client,
        ):  # fmt: skip
            assert server.wait(10) == 0
            client.settimeout(10)
            assert client.recv(1) == b""


def test_connect_with_several_addresses_takes_the_first_that_answers(host: Host) -> None:
    caller = replace(Caller.of_process(parent_pid=os.getpid()), hosts={"some": ("127.0.0.2", "::1", "127.0.0.1")})
    profile = for_caller(
        load("untrusted", search=default_search_path(os.environ)), caller,
        Additions(grants=(parse_grant(f"a=connect:tcp:some:{port_of(host.tcp)}"),)),
    )  # fmt: skip
    ended = launch(build(profile, [PYTHON, "-S", "-c", TELL, "3"], caller))
    assert (ended.code, ended.err) == (0, "")
    assert f"|('127.0.0.1', {port_of(host.tcp)})|True" in ended.out


def test_connect_to_nobody_is_refused_and_names_the_grant(host: Host, tmp_path: Path) -> None:
    port = port_of(host.tcp)
    host.tcp.close()
    cases = {
        f"connect:tcp:127.0.0.1:{port}": (f"connection to tcp:127.0.0.1:{port}", errno.ECONNREFUSED),
        f"connect:unix:{tmp_path}/none": (f"connection to unix:{tmp_path}/none", errno.ENOENT),
        f"connect:unix:{text_of(host.datagram)}": (f"connection to unix:{text_of(host.datagram)}", errno.ECONNREFUSED),
        f"datagram:unix:@nobody-{os.getpid()}": (f"datagrams to unix:@nobody-{os.getpid()}", errno.ECONNREFUSED),
    }
    for grant, (label, error) in cases.items():
        ended = launch(plan_of(["echo", "executed"], f"a={grant}"))
        line = f"sandbox: connect: grant a: {label}: {os.strerror(error)}; is the service there, and may the user"
        assert (ended.code, ended.out, ended.err.startswith(line)) == (125, "", True), ended
    assert launch(plan_of(["echo", "executed"], f"a=connect:unix:{text_of(host.stream)}")).out == "executed\n"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_connect_to_one_that_does_not_answer_ends_in_time(family: int, tmp_path: Path) -> None:
    with ExitStack() as stack:
        full = stack.enter_context(closing(socket.socket(family)))
        full.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "full"))
        full.listen(0)
        for _ in range(3):  # what a queue of none takes, and more
            one = stack.enter_context(closing(socket.socket(family)))
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        where = f"tcp:127.0.0.1:{port_of(full)}" if family == socket.AF_INET else f"unix:{tmp_path}/full"
        begun = time.monotonic()
        ended = launch(plan_of(["echo", "executed"], f"a=connect:{where}:timeout=0.4"))
        assert (ended.code, ended.out) == (125, "")
        assert "Connection timed out" in ended.err
        assert 0.3 < time.monotonic() - begun < 5


def test_connect_leaves_no_time_limit_on_the_socket(host: Host) -> None:
    script = "import socket; print(socket.socket(fileno=3).getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16))"
    for grant in (f"connect:tcp:127.0.0.1:{port_of(host.tcp)}", f"connect:unix:{text_of(host.stream)}"):
        done = sandbox.run([PYTHON, "-S", "-c", script], grants=[f"a={grant}"], capture_output=True, text=True)
        assert done.stdout == f"{bytes(16)!r}\n"


# What can be done with each kind, and what cannot: each cell is a start of its own, since the steps change the socket

TABLE: Final = {
    "send": ["send:3"],
    "end it": ["shutdown:3"],
    "connect it elsewhere": ["connect:3:OTHER", "send:3"],
    "disconnect it (`AF_UNSPEC`)": ["disconnect:3"],
    "connect it elsewhere, disconnected": ["disconnect:3", "connect:3:OTHER", "send:3"],
    "connect it elsewhere, shut down": ["shutdown:3", "connect:3:OTHER", "send:3"],
    "connect it by Fast Open, disconnected": ["disconnect:3", "fastopen:3:OTHER"],
    "the same by `sendmsg`": ["disconnect:3", "fastmsg:3:OTHER"],
    "send elsewhere: `sendto`": ["sendto:3:OTHER"],
    "send elsewhere: `sendmsg`": ["sendmsg:3:OTHER"],
    "send elsewhere: `sendmmsg`": ["sendmmsg:3:OTHER"],
    "bind it elsewhere": ["bind:3:FREE"],
    "bind it elsewhere, disconnected": ["disconnect:3", "bind:3:FREE"],
    "have it listen": ["listen:3"],
    "have it listen, disconnected": ["disconnect:3", "listen:3"],
    "choose its interface": ["device:3"],
    "open it anew by its link": ["reopen:3"],
    "see the interfaces of its network": ["interfaces:3"],
    "its mode, which nothing looks at": ["chmod:3"],
}
EVERY: Final = frozenset({"see the interfaces of its network", "its mode, which nothing looks at"})
TALKS: Final = EVERY | {"send", "end it"}
LISTENS: Final = EVERY | {"end it", "have it listen"}
KINDS: Final = {
    "listen tcp": LISTENS | {"disconnect it (`AF_UNSPEC`)", "have it listen, disconnected"},
    # Who receives from anyone must be able to answer anyone.
    "listen udp": EVERY | {
        "connect it elsewhere", "disconnect it (`AF_UNSPEC`)", "connect it elsewhere, disconnected",
        "send elsewhere: `sendto`", "send elsewhere: `sendmsg`", "send elsewhere: `sendmmsg`",
        "bind it elsewhere, disconnected",
    },
    "listen unix": LISTENS | {"have it listen, disconnected"},
    "connect tcp": TALKS | {"disconnect it (`AF_UNSPEC`)"},
    "connect unix": TALKS,
    "datagram udp": TALKS,
    "datagram unix": TALKS | {"disconnect it (`AF_UNSPEC`)"},
}  # fmt: skip


def goes_through(probes: Probes, grant: str, other: socket.socket, free: str, words: list[str]) -> bool:
    """Tell whether the last of some steps goes through and, where it leads elsewhere, something comes there."""
    where = text_of(other) if other.family == socket.AF_UNIX else str(port_of(other))
    found = steps(probes, grant, *(word.replace("OTHER", where).replace("FREE", free) for word in words))
    if any("OTHER" in word for word in words):
        return not nothing_came(other)
    return list(found.values())[-1] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_socket_can_what_its_kind_says_and_nothing_else(probes: Probes, host: Host, tmp_path: Path, kind: str) -> None:
    name = f"@sandbox-test-{os.getpid()}-free"
    grant, other, free = {
        "listen tcp": ("tcp:127.0.0.1:0", host.other_tcp, "0"),
        "listen udp": ("udp:127.0.0.1:0", host.other_udp, "0"),
        "listen unix": (f"unix:{tmp_path}/socket", host.stream, name),
        "connect tcp": (f"tcp:127.0.0.1:{port_of(host.tcp)}", host.other_tcp, "0"),
        "connect unix": (f"unix:{text_of(host.stream)}", host.other_stream, name),
        "datagram udp": (f"udp:127.0.0.1:{port_of(host.udp)}", host.other_udp, "0"),
        "datagram unix": (f"unix:{text_of(host.datagram)}", host.other_datagram, name),
    }[kind]
    grant = f"{kind.partition(' ')[0]}:{grant}"
    can = {row for row, words in TABLE.items() if goes_through(probes, grant, other, free, words)}
    assert can == KINDS[kind]


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("connect tcp", "connect it elsewhere, disconnected"),
        ("datagram udp", "connect it elsewhere"), ("datagram udp", "send elsewhere: `sendto`"),
        ("datagram udp", "send elsewhere: `sendmsg`"), ("datagram udp", "send elsewhere: `sendmmsg`"),
        ("connect tcp", "have it listen, disconnected"), ("connect tcp", "connect it by Fast Open, disconnected"),
    ],
)  # fmt: skip
def test_socket_that_nothing_holds_can_be_turned(probes: Probes, host: Host, kind: str, row: str) -> None:
    """The twin: with the host's network nothing of this is held, and so the steps do what they say."""
    at, other = (host.tcp, host.other_tcp) if kind == "connect tcp" else (host.udp, host.other_udp)
    grant = f"{kind.replace(' ', ':')}:127.0.0.1:{port_of(at)}"
    words = [word.replace("OTHER", str(port_of(other))) for word in TABLE[row]]
    found = list(steps(probes, grant, *words, net="host").values())
    assert (found[-1], "OTHER" in "".join(TABLE[row]) and nothing_came(other)) == (0, False)


def test_document_has_the_table_that_is_tested() -> None:
    lines = as_table("of a socket", {row: row for row in TABLE}, KINDS)
    assert "\n".join(lines) in (Path(__file__).resolve().parents[2] / "docs" / "sockets.md").read_text()


# Files of Unix sockets


def test_listen_file_has_the_mode_and_the_owner_and_goes_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    owner = "65534:12" if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"
    caller = looked_up(Caller.of_process(parent_pid=os.getpid()), [parse_grant(f"s=listen:unix:/x:owner={owner}")])
    plan = built(caller, f"s=listen:unix:{path}:mode=620,owner={owner}", command=["sleep", "30"])
    with started(plan, setup=lambda: os.umask(0o777)) as process:
        until(path.exists)
        until(lambda: path.stat().st_mode & 0o777 == 0o620 and f"{path.stat().st_uid}:{path.stat().st_gid}" == owner)
        process.terminate()
        process.wait(10)
    assert not path.exists()


def built(caller: Caller, *grants: str, command: list[str]) -> Plan:
    profile = load("untrusted", search=default_search_path(os.environ))
    added = Additions(grants=tuple(map(parse_grant, grants)), chdir="/")
    return build(for_caller(profile, caller, added), command, caller)


def until(holds: object) -> None:
    end = time.monotonic() + 10
    assert callable(holds)
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_listen_file_without_mode_obeys_the_umask_and_the_umask_stays(tmp_path: Path) -> None:
    for mask in (0o077, 0o002):
        path = tmp_path / "socket"
        words = [f"s=listen:unix:{path}", f"t=listen:unix:{path}-2:mode=600", f"u=file:{path}-3:write,create"]
        plan = plan_of(["stat", "-c", "%a", path, f"{path}-2", f"{path}-3"], *words)
        ended = launch(plan, setup=lambda mask=mask: os.umask(mask))  # type: ignore[misc]
        assert ended == Ended(0, f"{0o777 & ~mask:o}\n600\n{0o666 & ~mask:o}\n", "")
        Path(f"{path}-3").unlink()


def test_listen_owner_that_may_not_be_given_is_an_error_and_nothing_stays(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("needs an ordinary user: root may give files away")
    path = tmp_path / "socket"
    caller = replace(Caller.of_process(parent_pid=os.getpid()), owners={"root": (0, 0)})
    ended = launch(built(caller, f"s=listen:unix:{path}:owner=root", command=["true"]))
    assert (ended.code, path.exists()) == (125, False)
    assert ended.err == f"sandbox: listen: grant s: unix:{path}: Operation not permitted\n"


def test_listen_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    before = path.stat().st_ino
    lines = told(f"s=listen:unix:{path}")
    assert lines == [f"3|AF_UNIX|SOCK_STREAM|1|{path}|None|True"]
    assert before
    assert not path.exists()


@pytest.mark.parametrize("held", ["listens", "full", "bound", "datagram", "file", "folder", "link", "fifo"])
def test_listen_what_is_somebodys_is_left_alone(tmp_path: Path, held: str) -> None:
    path = tmp_path / "socket"
    with ExitStack() as stack:
        if held in ("listens", "full", "bound", "datagram"):
            kind = socket.SOCK_DGRAM if held == "datagram" else socket.SOCK_STREAM
            one = stack.enter_context(closing(socket.socket(socket.AF_UNIX, kind)))
            one.bind(str(path))
            if held in ("listens", "full"):
                one.listen(0)
            for _ in range(3 if held == "full" else 0):
                client = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
                client.setblocking(False)
                client.connect_ex(str(path))
        elif held == "file":
            path.write_text("kept")
        elif held == "folder":
            path.mkdir()
        elif held == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to(tmp_path / "elsewhere")
        before = path.lstat()
        ended = launch(plan_of(["echo", "executed"], f"s=listen:unix:{path}"))
        if held == "bound":  # nobody can be told from one that has bound and not called listen() yet
            assert ended == Ended(0, "executed\n", "")
            return
        socketlike = held in ("listens", "full", "datagram")
        reason = "Address already in use" if socketlike else "Socket operation on non-socket"
        assert (ended.code, ended.out) == (125, "")
        assert f"sandbox: listen: grant s: unix:{path}: {reason}; " in ended.err
        after = path.lstat()
        assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)


def test_listen_file_that_was_replaced_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with started(plan_of(["sleep", "30"], f"s=listen:unix:{path}")) as process:
        until(path.exists)
        path.unlink()
        path.write_text("another's")
        process.terminate()
        process.wait(10)
    assert path.read_text() == "another's"


def test_listen_file_goes_when_a_later_step_fails_or_the_command_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    for command, later in (("true", "t=connect:unix:@nobody-at-all"), ("/no/such/program", "t=file:/etc/passwd")):
        assert launch(plan_of([command], f"s=listen:unix:{path}", later)).code in (125, 127)
        assert not path.exists()


def test_listen_file_of_a_killed_launcher_stays_and_is_replaced_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with started(plan_of(["sleep", "30"], f"s=listen:unix:{path}")) as process:
        until(path.exists)
        process.kill()
        process.wait(10)
    assert path.exists()
    until(lambda: told(f"s=listen:unix:{path}") and not path.exists())


# Inherited sockets

HELD: Final = {
    "listener": "listener", "stream": "stream", "datagram": "datagram", "raw-socket": "raw-socket", "socket": "socket",
    "unconnected-datagram": "socket", "unconnected-stream": "socket", "ip": "raw-socket", "packet": "raw-socket",
    "mptcp": "raw-socket",
}  # fmt: skip
ACCEPTING: Final = {
    "": {"listener", "stream"},
    "socket": {"listener", "stream", "datagram", "socket"},
    "listener": {"listener"}, "stream": {"stream"}, "datagram": {"datagram"}, "raw-socket": {"raw-socket"},
}  # fmt: skip


@pytest.mark.parametrize("declared", ACCEPTING)
@pytest.mark.parametrize("held", HELD)
def test_inherited_socket_is_of_the_declared_type(probes: Probes, held: str, declared: str) -> None:
    plan = plan_of(["true"], f"a=inherit:9{':' * bool(declared)}{declared}")
    ended = launch(plan, before=[probes["hold"], held, "9", "--"])
    if ended.code == 77:
        pytest.skip(f"needs root: {held}" if os.geteuid() else f"kernel lacks: {held}")
    if HELD[held] in ACCEPTING[declared]:
        assert ended == Ended(0, "", "")
        return
    line = f"sandbox: inherit: grant a: descriptor 9: the descriptor is of another type: {HELD[held]}; "
    assert (ended.code, ended.err.startswith(line)) == (125, True), ended


@pytest.mark.parametrize("held", ["socket", "datagram", "raw-socket", "unconnected-stream"])
def test_standard_stream_that_leads_further_is_refused(probes: Probes, held: str) -> None:
    ended = launch(plan_of(["true"]), before=[probes["hold"], held, "0", "--"])
    assert (ended.code, f"another type: {HELD[held]}" in ended.err) == (125, True)
    assert launch(plan_of(["true"]), before=[probes["hold"], "stream", "0", "--"]) == Ended(0, "", "")


# Kept to what was granted: each denial, and below `host` its twin


@pytest.mark.parametrize("net", ["none", "host"])
def test_tcp_connection_cannot_be_turned(probes: Probes, host: Host, net: str) -> None:
    other = port_of(host.other_tcp)
    grant = f"connect:tcp:127.0.0.1:{port_of(host.tcp)}"
    found = steps(probes, grant, "write:3", "disconnect:3", f"connect:3:{other}", net=net)
    assert found == {"write:3": 0, "disconnect:3": 0, f"connect:3:{other}": errno.EACCES if net == "none" else 0}
    assert nothing_came(host.other_tcp) is (net == "none")
    for words in (f"fastopen:3:{other}", f"fastmsg:3:{other}"):
        found = steps(probes, grant, "write:3", "disconnect:3", words, net=net)
        assert found["write:3"] == found["disconnect:3"] == 0
        assert found[words] in ({errno.EPERM} if net == "none" else {0, errno.EINPROGRESS})
        assert nothing_came(host.other_tcp) is (net == "none")
    found = steps(probes, grant, "disconnect:3", "bind:3:0", "listen:3", net=net)
    assert found == {
        "disconnect:3": 0,
        "bind:3:0": errno.EACCES if net == "none" else 0,
        "listen:3": errno.EPERM if net == "none" else 0,
    }


@pytest.mark.parametrize("net", ["none", "host"])
@pytest.mark.parametrize("undone", ["disconnect:3", "shutdown:3"])
def test_tcp_listener_cannot_be_turned(probes: Probes, host: Host, net: str, undone: str) -> None:
    other = port_of(host.other_tcp)
    for words in (f"connect:3:{other}", f"fastopen:3:{other}", f"fastmsg:3:{other}"):
        found = steps(probes, "listen:tcp:127.0.0.1:0", "listen:3", undone, words, net=net)
        assert found["listen:3"] == found[undone] == 0, "servers call listen() for a socket that listens"
        refused = errno.EACCES if words.startswith("connect") else errno.EPERM
        assert found[words] in ({refused} if net == "none" else {0, errno.EINPROGRESS}), words
        assert nothing_came(host.other_tcp) is (net == "none")


@pytest.mark.parametrize("net", ["none", "host"])
def test_accepted_tcp_connection_cannot_be_turned(probes: Probes, host: Host, net: str) -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = port_of(free)
    other = port_of(host.other_tcp)
    words = [probes["sock"], "accept:3", "disconnect:4", f"connect:4:{other}"]
    with (
        sandbox.Popen(
            words,
            grants=[f"s=listen:tcp:127.0.0.1:{port}"],
            stdout=subprocess.PIPE,
            text=True,
            **beside(net, probes),
        ) as server,
        socket.create_connection(("127.0.0.1", port)),
    ):
        out, _ = server.communicate(timeout=10)
    found = {name: verdict.errno for name, verdict in verdicts(out).items()}
    refused = errno.EACCES if net == "none" else 0
    assert found == {"accept:3": 0, "disconnect:4": 0, f"connect:4:{other}": refused}
    assert nothing_came(host.other_tcp) is (net == "none")


@pytest.mark.parametrize("net", ["none", "host"])
def test_udp_socket_cannot_be_turned_and_its_copies_neither(probes: Probes, host: Host, net: str) -> None:
    other = port_of(host.other_udp)
    turning = ["sendto:{}:{}", "sendmsg:{}:{}", "sendmmsg:{}:{}", "disconnect:{}", "connect:{}:{}"]
    words = [word.format(number, other) for number in (3, 9) for word in turning]
    found = steps(
        probes, f"datagram:udp:127.0.0.1:{port_of(host.udp)}", "send:3", "write:3", "dup:3:9", *words, net=net
    )  # fmt: skip
    assert [found[word] for word in ("send:3", "write:3", "dup:3:9")] == [0, 0, 0]
    assert {found[word] for word in words} == ({errno.EPERM} if net == "none" else {0})
    assert [host.udp.recv(9), host.udp.recv(9)] == [b"s", b"w"]
    assert nothing_came(host.other_udp) is (net == "none")


def test_udp_socket_that_receives_from_anyone_answers_anyone(probes: Probes, host: Host) -> None:
    """What explain says of it: nothing holds it, since it must name whom it answers."""
    other = port_of(host.other_udp)
    found = steps(probes, "listen:udp:127.0.0.1:0", f"sendto:3:{other}", f"sendmsg:3:{other}", f"connect:3:{other}")
    assert set(found.values()) == {0}
    assert not nothing_came(host.other_udp)


@pytest.mark.parametrize("scoped", [True, False])
def test_unix_datagram_socket_reaches_no_other_name_of_the_host(probes: Probes, host: Host, scoped: bool) -> None:
    """By Landlock; its twin is a kernel that is said to have none: then the filter does it, and no address is named."""
    other = text_of(host.other_datagram)
    words = ["send:3", f"sendto:3:{other}", f"sendmsg:3:{other}", f"connect:3:{other}", f"bind:3:{other}-mine"]
    plan = walled(probes, f"datagram:unix:{text_of(host.datagram)}", words, landlock_abi=None if scoped else 0)
    found = {name: verdict.errno for name, verdict in verdicts(launch(plan).out).items()}
    assert found == dict(zip(words, [0, errno.EPERM, errno.EPERM, errno.EPERM, errno.EINVAL], strict=True))
    assert (host.datagram.recv(9), nothing_came(host.other_datagram)) == (b"s", True)


@pytest.mark.parametrize("grant", ["connect", "listen"])
def test_unix_stream_socket_cannot_be_turned(probes: Probes, host: Host, grant: str) -> None:
    where = text_of(host.stream) if grant == "connect" else f"@sandbox-test-{os.getpid()}-l"
    other = text_of(host.stream)
    words = ["disconnect:3", f"connect:3:{other}", f"bind:3:{other}-mine", "shutdown:3", f"bind:3:{other}-more"]
    found = steps(probes, f"{grant}:unix:{where}", *words, net="host")
    assert found["shutdown:3"] == 0
    assert found[f"bind:3:{other}-mine"] == found[f"bind:3:{other}-more"] == errno.EINVAL, "it has a name"
    assert found["disconnect:3"] == errno.EINVAL
    assert found[f"connect:3:{other}"] in (errno.EISCONN, errno.EINVAL)
    twin = steps(probes, f"{grant}:unix:{where}", f"own:1:{other}", net="host")
    assert twin == {f"own:1:{other}": errno.EPERM}, "not even by a socket of its own: Landlock's scope"


def walled(probes: Probes, grant: str, words: list[str], *, landlock_abi: int | None = None) -> Plan:
    """Return the plan of the sock probe under `untrusted`, as on a kernel whose Landlock has that ABI."""
    caller = Caller.of_process(parent_pid=os.getpid())
    if landlock_abi is not None:
        caller = replace(caller, landlock_abi=landlock_abi)
    folders = tuple(folders_in([probes["sock"]]))
    added = Additions(
        grants=(parse_grant(f"g={grant}"),), filesystem=sandbox.FilesystemPolicy(execute=folders), chdir="/"
    )
    profile = for_caller(load("untrusted", search=default_search_path(os.environ)), caller, added)
    return build(profile, [probes["sock"], *words], caller)


def test_tcp_sockets_are_kept_by_the_filter_where_landlock_cannot(probes: Probes, host: Host) -> None:
    """ABI 3 has no rights on ports. The twin is ABI 4, above: there connect() to a socket of one's own is possible."""
    other = port_of(host.other_tcp)
    words = ["write:3", "disconnect:3", "shutdown:3", f"connect:3:{other}", f"own:1:{other}"]
    ended = launch(walled(probes, f"connect:tcp:127.0.0.1:{port_of(host.tcp)}", words, landlock_abi=3))
    found = {name: verdict.errno for name, verdict in verdicts(ended.out).items()}
    assert found == dict(zip(words, [0, errno.EPERM, 0, errno.EPERM, errno.EPERM], strict=True))
    words = ["write:3", "own:1:1"]
    ended = launch(walled(probes, f"connect:tcp:127.0.0.1:{port_of(host.tcp)}", words, landlock_abi=4))
    found = {name: verdict.errno for name, verdict in verdicts(ended.out).items()}
    assert found == {"write:3": 0, "own:1:1": errno.EACCES}
    assert nothing_came(host.other_tcp)


INSIDE: Final = """
import socket
listening, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
listening.bind("/tmp/s")
listening.listen()
client.connect("/tmp/s")
client.send(b"in")
print(listening.accept()[0].recv(9))
"""


def test_connection_leaves_unix_sockets_inside_usable(host: Host) -> None:
    """A client that can only connect to a path is served by a relay inside: connect() must stay possible for it."""
    for grant in (f"connect:unix:{text_of(host.stream)}", "listen:tcp:127.0.0.1:0"):
        done = sandbox.run([PYTHON, "-S", "-c", INSIDE], grants=[f"g={grant}"], capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("b'in'\n", "")


ROUTES: Final = """
import errno, socket
one = socket.socket(fileno=3)
options = (0, 4, bytes(4)), (0, 50, 0), (1, 62, 0), (1, 25, b"lo"), (41, 57, bytes(8)), (41, 6, bytes(8)), (1, 9, 1)
for level, option, value in options:
    try:
        one.setsockopt(level, option, value)
        print(level, option, 0)
    except OSError as error:
        print(level, option, errno.errorcode[error.errno])
"""


def test_socket_takes_no_route_of_its_own(host: Host) -> None:
    def tried(net: str) -> list[str]:
        done = sandbox.run(
            [PYTHON, "-S", "-c", ROUTES], grants=[f"g=connect:tcp:127.0.0.1:{port_of(host.tcp)}"], net=net,
            capture_output=True, text=True,
        )  # fmt: skip
        lines: list[str] = done.stdout.splitlines()
        return lines

    assert tried("none") == [
        "0 4 EPERM",
        "0 50 EPERM",
        "1 62 EPERM",
        "1 25 EPERM",
        "41 57 EPERM",
        "41 6 EPERM",
        "1 9 0",
    ]
    assert tried("host") == ["0 4 0", "0 50 0", "1 62 0", "1 25 0", "41 57 ENOPROTOOPT", "41 6 ENOPROTOOPT", "1 9 0"]


INTERFACES: Final = """
import array, fcntl, socket, struct
names = array.array("B", bytes(4000))
asked = struct.pack("iL", 4000, names.buffer_info()[0])
size = struct.unpack("iL", fcntl.ioctl(3, 0x8912, asked))[0]
print(names.tobytes()[:size].count(socket.inet_aton("127.0.0.1")))
own = socket.socket()
print(struct.unpack("iL", fcntl.ioctl(own.fileno(), 0x8912, asked))[0])
"""


def test_socket_shows_the_interfaces_of_its_network(host: Host) -> None:
    """What explain says of it; the sandbox' own network has none that is up."""
    grant = f"g=connect:tcp:127.0.0.1:{port_of(host.tcp)}"
    done = sandbox.run([PYTHON, "-S", "-c", INTERFACES], grants=[grant], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1\n0\n", "")
