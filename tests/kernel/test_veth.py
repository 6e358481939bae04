"""A network of the sandbox's own: the same verdicts as the supervisor's, nothing else reached, nothing left behind.

Everything takes place in a small internet of the test's own (tests/support/internet.py), as root of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from sandbox import ops
from sandbox.plan import OpCode, Plan
from sandbox.profile import NetworkMode
from sandbox.resolve import Additions
from sandbox.syscall_table import NUMBERS
from tests.support.callers import PYTHON, SANDBOX, Ended, launch, plan_of, run
from tests.support.internet import HOST4, HOST6, ROOT, Internet, internet
from tests.support.plans import less
from tests.support.probes import Probes, public_folder
from tests.support.verdicts import CASES, PROBER, WEB, Case, verdicts_of

VETH: Final = ("run", "-p", "untrusted", "--chdir", "/", "--net", "veth")
OURS: Final = re.compile(r"sandbox-[0-9a-f]{4}")
PATIENCE: Final = 20  # seconds; the kernel takes a namespace apart when it gets to it


@pytest.fixture(scope="module")
def net() -> Iterator[Internet]:
    """Yield the internet that this file's tests share."""
    with public_folder() as folder, internet(folder) as made:
        yield made


def sandboxed(net: Internet, *words: str | Path) -> Ended:
    """Run `sandbox run --net veth WORD ...` on the host of the internet."""
    return net.run(*SANDBOX, *VETH, *words)


def left(net: Internet) -> set[str]:
    """Return what is there of sandboxes on the host: interfaces, addresses, routes, rules."""
    # nft(8) is not asked, for it is no part of what tests need: a table's name stands in the answer of netlink.
    listing = net.says(PYTHON, "-c", TABLES) + net.says(
        "sh",
        "-c",
        "PATH=$PATH:/usr/sbin; ip addr; ip route show table all; ip -6 route show table all; ip rule; ls /run/netns",
    )
    return set(OURS.findall(listing)) | set(re.findall(r"198\.1[89]\.[0-9.]+|fd8b:[0-9a-f:]+", listing))


TABLES: Final = r"""
import socket, sys
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netfilter:
    netfilter.send(bytes([20, 0, 0, 0, 1, 10, 1, 3]) + bytes(12))
    data = b""
    while b"\3\0\2\0" not in data[-20:]:
        data += netfilter.recv(1 << 16)
sys.stdout.write(repr(data))
"""


def eventually(ask: Callable[[], object]) -> object:
    """Return the first answer that is empty, or the last after a while."""
    until = time.monotonic() + PATIENCE
    while (answer := ask()) and time.monotonic() < until:
        time.sleep(0.1)
    return answer


@pytest.mark.parametrize("case", CASES, ids=str)
def test_verdicts_are_those_of_the_table(net: Internet, case: Case) -> None:
    allowed = [word for rule in case.rules for word in ("--net-allow", rule)]
    ended = sandboxed(net, *allowed, "--", PYTHON, "-c", PROBER, *case.verdicts)
    assert (ended.code, ended.err) == (0, "")
    assert verdicts_of(ended.out) == case.verdicts


def probed(net: Internet, rules: str, *targets: str, options: tuple[str, ...] = ()) -> dict[str, str]:
    """Return what a program can reach under some rules."""
    allowed = [word for rule in rules.split() for word in ("--net-allow", rule)]
    ended = sandboxed(net, *allowed, *options, "--", PYTHON, "-c", PROBER, *targets)
    assert (ended.code, ended.err) == (0, "")
    return verdicts_of(ended.out)


def test_without_rules_all_is_reached_but_what_nobody_means(net: Internet) -> None:
    reached = ["tcp:192.0.2.10:80", "udp:192.0.2.53:53", "tcp:10.2.2.3:9000", "tcp:[2001:db8:2::20]:443"]
    refused = ["tcp:169.254.169.254:80", "udp:169.254.169.254:53", "tcp:[fd00:ec2::254]:80", "tcp:100.100.100.200:80"]
    found = probed(net, "", *reached, *refused)
    assert found == dict.fromkeys(reached, "reached") | dict.fromkeys(refused, "refused")


def test_long_list_holds_to_its_end(net: Internet) -> None:
    """It takes several messages to the kernel."""
    many = " ".join(f"tcp:10.{number // 256}.{number % 256}.1:80" for number in range(900))
    found = probed(net, f"{many} tcp:192.0.2.10:80", "tcp:192.0.2.10:80", "tcp:192.0.2.11:80", "tcp:10.1.2.3:80")
    assert list(found.values()) == ["reached", "refused", "refused"]


CURL: Final = "curl --silent --show-error --max-time 10"


def test_curl_gets_a_page_and_the_server_sees_the_host(net: Internet) -> None:
    pages = {"http://192.0.2.10/": HOST4, "http://[2001:db8:1::10]/": HOST6, f"http://{WEB}:443/": "203.0.113.2"}
    for page, seen in pages.items():
        rules = ["--net-allow", "tcp:192.0.2.10:80", "--net-allow", "tcp:[2001:db8:1::10]:80"]
        ended = sandboxed(
            net,
            *rules,
            "--net-allow",
            f"tcp:{WEB}:443",
            "--",
            "sh",
            "-c",
            f"{CURL} --ipv{4 if seen == HOST4 else 6} '{page}'" if WEB not in page else f"{CURL} --ipv4 '{page}'",
        )
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.endswith(f"you are {seen}\n")


def test_refused_connection_ends_at_once_and_datagrams_fail(net: Internet) -> None:
    program = """
import errno, socket, time
began = time.monotonic()
for family, host in ((socket.AF_INET, "192.0.2.11"), (socket.AF_INET6, "2001:db8:1::11")):
    with socket.socket(family, socket.SOCK_STREAM) as stream, socket.socket(family, socket.SOCK_DGRAM) as datagrams:
        print(errno.errorcode[stream.connect_ex((host, 80))])
        try:
            datagrams.sendto(b"x", (host, 53))
        except OSError as error:
            print(errno.errorcode[error.errno])
print(time.monotonic() - began < 1)
"""
    ended = sandboxed(net, "--net-allow", "tcp:192.0.2.10:80", "--", PYTHON, "-c", program)
    assert ended == Ended(0, "ECONNREFUSED\nEPERM\nECONNREFUSED\nEPERM\nTrue\n", "")


def test_socket_that_was_let_go_to_one_peer_goes_to_no_other(net: Internet) -> None:
    program = """
import ctypes, socket
def told(call, *arguments):
    try:
        call(*arguments)
        return "done"
    except OSError as error:
        return "refused"
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
    datagrams.connect(("192.0.2.53", 53))
    print(told(datagrams.send, b"x"), told(datagrams.sendto, b"x", ("192.0.2.53", 53)))
    print(told(datagrams.sendto, b"x", ("192.0.2.10", 53)), told(datagrams.sendto, b"x", ("192.0.2.53", 5353)))
    print(told(datagrams.sendmsg, [b"x"], [], 0, ("169.254.169.254", 53)))
with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
    stream.connect(("192.0.2.10", 80))
    nobody = bytes(16)  # AF_UNSPEC: let go of the peer
    print(ctypes.CDLL(None).connect(stream.fileno(), nobody, 16))
    print(told(stream.connect, ("192.0.2.11", 80)))
"""
    rules = ("--net-allow", "udp:192.0.2.53:53", "--net-allow", "tcp:192.0.2.10:80")
    ended = sandboxed(net, *rules, "--", PYTHON, "-c", program)
    assert ended == Ended(0, "done done\nrefused refused\nrefused\n0\nrefused\n", "")


@contextlib.contextmanager
def listening(net: Internet, address: str, port: int) -> Iterator[None]:
    """Have a program of the host's listen, and greet."""
    program = f"""
import socket
with socket.socket() as server:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("{address}", {port}))
    server.listen()
    print("ready", flush=True)
    while True:
        accepted, _ = server.accept()
        accepted.send(b"I am the host's")
        accepted.close()
"""
    with subprocess.Popen(net.command(PYTHON, "-c", program), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield
        finally:
            server.kill()


def test_loopback_is_the_sandboxes_own_and_the_host_is_reached_by_its_address_only(net: Internet) -> None:
    with listening(net, "0.0.0.0", 8081):
        assert net.says(PYTHON, "-c", PROBER, "tcp:127.0.0.1:8081") == '{"tcp:127.0.0.1:8081": "reached"}'
        targets = ("tcp:127.0.0.1:8081", f"tcp:{HOST4}:8081", "tcp:0.0.0.0:8081")
        assert list(probed(net, "tcp:*:8081", *targets).values()) == ["refused", "reached", "refused"]
        assert list(probed(net, "tcp:192.0.2.10:80", *targets).values()) == ["refused"] * 3
    own = """
import socket
with socket.create_server(("", 0)) as server:
    for host in ("127.0.0.1", socket.gethostbyname("localhost")):
        socket.create_connection((host, server.getsockname()[1])).close()
print("met")
"""
    assert sandboxed(net, "--net-allow", "tcp:192.0.2.10:80", "--", PYTHON, "-c", own) == Ended(0, "met\n", "")


LISTENER: Final = """
import socket, sys
with socket.create_server(("", 8000)) as server:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as known:
        known.connect(("192.0.2.53", 53))
        print(known.getsockname()[0], flush=True)
    sys.stdin.readline()
    server.settimeout(1)
    try:
        print("met", server.accept()[1][0])
    except TimeoutError:
        print("alone")
"""


def test_nobody_outside_reaches_what_a_sandbox_binds(net: Internet) -> None:
    """From the host, and from another sandbox that may send anywhere."""
    command = net.command(*SANDBOX, *VETH, "--", PYTHON, "-c", LISTENER)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("198.1")
        target = f"tcp:{address}:8000"
        assert net.says(PYTHON, "-c", PROBER, target) == f'{{"{target}": "refused"}}'
        assert probed(net, "tcp:*:8000", target) == {target: "refused"}
        assert process.communicate("go\n")[0] == "alone\n"
    within = LISTENER.replace("sys.stdin.readline()", "peer = socket.create_connection((address, 8000))").replace(
        "print(known", "address = known.getsockname()[0]; print(known"
    )
    ended = sandboxed(net, "--", PYTHON, "-c", within)
    assert re.fullmatch(r"198\.1[89]\.\S+\nmet 198\.1[89]\.\S+\n", ended.out), ended


def test_program_cannot_change_its_network(net: Internet) -> None:
    """Its network belongs to another user namespace, and it has no capability there; the filter knows no netlink."""
    program = """
import fcntl, socket, struct
def told(call, *arguments):
    try:
        call(*arguments)
        return "done"
    except OSError as error:
        return error.strerror
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    up = struct.pack("16sh22x", b"lo", 0)
    print(told(fcntl.ioctl, any_socket, 0x8914, up))  # SIOCSIFFLAGS
    print(told(any_socket.setsockopt, socket.SOL_SOCKET, 36, 1))  # SO_MARK
print(told(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 12))
print(told(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0))
print(told(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1))
print(told(open, "/proc/sys/net/ipv4/ip_forward", "w"))
print(told(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))
"""
    ended = sandboxed(net, "--", PYTHON, "-c", program)
    refused = "Operation not permitted\n"
    assert ended == Ended(0, f"{refused * 5}Read-only file system\ndone\n", "")


# ---- names ----


def test_names_are_in_the_hosts_file_and_resolvers_only_where_dns_is_open(net: Internet) -> None:
    show = ("--", "cat", "/etc/hosts", "/etc/resolv.conf")
    hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
    named = f"192.0.2.10 {WEB}\n2001:db8:1::10 {WEB}\n"
    ended = sandboxed(net, "--net-allow", f"tcp:{WEB}:80", *show)
    assert (ended.code, ended.err) == (0, "")
    assert sorted(ended.out.splitlines()) == sorted((hosts + named).splitlines())
    (written := Path(net.folder, "resolv.conf")).write_text("nameserver 192.0.2.53\n")
    with mounted(net, written, "/etc/resolv.conf"):
        ended = sandboxed(net, "--net-allow", "tcp:192.0.2.10:80", "--dns", *show)
        assert ended == Ended(0, f"{hosts}nameserver 192.0.2.53\n", "")
        targets = ("udp:192.0.2.53:53", "udp:192.0.2.10:53")
        assert list(probed(net, "tcp:*:80", *targets, options=("--dns",)).values()) == ["reached", "refused"]
        written.write_text("nameserver 127.0.0.53\n")
        refused = sandboxed(net, "--dns", *show)
        assert (refused.code, refused.out) == (125, "")
        assert refused.err.startswith("sandbox: usage: network.dns: resolver 127.0.0.53: this host itself: ")


@contextlib.contextmanager
def mounted(net: Internet, file: Path, place: str) -> Iterator[None]:
    """Show a file in the place of another, to the host."""
    net.says("mount", "--bind", file, place)
    try:
        yield
    finally:
        net.says("umount", place)


def test_name_that_leads_to_metadata_is_refused_at_the_start(net: Internet) -> None:
    ended = sandboxed(net, "--net-allow", "tcp:metadata.example:80", "--", "true")
    assert (ended.code, ended.out) == (125, "")
    assert "host metadata.example is 169.254.169.254: link-local addresses" in ended.err
    assert left(net) == set()
    assert sandboxed(net, "--net-allow", f"tcp:{WEB}:80", "--", "true") == Ended(0, "", "")


# ---- it goes with the sandbox ----

MANY: Final = """
import random, sandbox, sys, time
drawn = random.Random(int(sys.argv[1]))
for number in range(int(sys.argv[2])):
    process = sandbox.Popen(["sleep", "0.1"], cwd="/", net="veth", net_allow=["tcp:192.0.2.10:80"] * (number % 2))
    if number % 2:
        time.sleep(drawn.random() / 10)
        process.kill()
    code = process.wait()
    assert code in (0, -9), code
"""


def test_nothing_is_left_of_200_runs_of_which_some_are_killed(net: Internet) -> None:
    drawn = random.Random(os.getpid())
    with contextlib.ExitStack() as ended:
        drivers = [
            subprocess.Popen(net.command(sys.executable, "-P", "-c", MANY, str(drawn.random())[2:9], "40"))
            for _ in range(4)
        ]
        for driver in drivers:
            ended.callback(driver.kill)
        seen = left(net)
        for _ in range(40):  # killed anywhere on the way, also before there is a launcher
            process = subprocess.Popen(net.command(*SANDBOX, *VETH, "--", "sleep", "0.2"))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(drawn.random())
            seen |= left(net)
            process.kill()
            process.wait()
        assert [driver.wait() for driver in drivers] == [0] * 4
        ended.pop_all()
    assert seen, "no run was seen at all"
    assert eventually(lambda: left(net)) == set()


PERSISTENT: Final = """
import sys
sys.argv = ["", "x"]
from sandbox import network
with network._netfilter() as netfilter:
    network._add_table(netfilter, "sandbox-0001", 0, ())
    network._add_table(netfilter, "sandbox-mine", 0, ())
"""


def test_what_a_dead_sandbox_left_is_removed_at_the_next_start(net: Internet) -> None:
    """As after a crash: an interface whose table is gone, and a table that nobody owns, as one that was restored."""
    others = ("sandbox-mine", "sandbox-0003", "sandboxes")
    script = f"""
        PATH=$PATH:/usr/sbin
        ip link add sandbox-0002 type veth peer name stale
        ip link add {others[0]} type veth peer name other
        ip link add {others[1]} type bridge
        ip link add {others[2]} type bridge
    """
    net.says("sh", "-ec", script)
    net.says(sys.executable, "-P", "-c", PERSISTENT)
    command = net.command(*SANDBOX, *VETH, "--", "sh", "-c", "echo up; read end")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as living:
        assert living.stdout is not None
        assert living.stdout.readline() == "up\n"
        (own,) = {name for name in left(net) if OURS.fullmatch(name)} - {"sandbox-0003"}
        assert own not in ("sandbox-0001", "sandbox-0002")
        assert sandboxed(net, "--", "true") == Ended(0, "", "")
        assert own in left(net), "another start has removed what is in use"
        there = net.says("sh", "-c", "PATH=$PATH:/usr/sbin; ip -br link")
        assert all(name in there for name in others)
        assert "stale" not in there
        assert b"sandbox-mine" in net.says(PYTHON, "-c", TABLES).encode()
        living.communicate("end\n")
    net.says("sh", "-ec", "PATH=$PATH:/usr/sbin; for each; do ip link del $each; done", "sh", *others)
    assert eventually(lambda: left(net)) == set()


KEPT: Final = """
import array, socket, sys
with socket.socket(fileno=int(sys.argv[1])) as outside, socket.socket() as ours:
    outside.sendmsg([b"take it"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [ours.fileno()]))])
"""
KEEPER: Final = f"""
import sandbox, socket, sys
command = [{PYTHON!r}, "-c", {KEPT!r}, "{{fd:channel}}"]
with sandbox.Popen(command, cwd="/", net="veth", channel=True) as process:
    received = process.receive(descriptors=1)
    process.wait()
    print("up", flush=True)
    sys.stdin.readline()
"""


def test_interface_that_a_socket_outside_keeps_goes_at_the_next_start(net: Internet) -> None:
    """Whoever holds a socket of a network holds the network; its table is gone, so nothing passes any more."""
    with subprocess.Popen(
        net.command(sys.executable, "-P", "-c", KEEPER), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        (kept,) = {name for name in left(net) if OURS.fullmatch(name)}
        assert kept not in net.says(PYTHON, "-c", TABLES)
        assert sandboxed(net, "--", "true") == Ended(0, "", "")
        assert eventually(lambda: left(net)) == set()
        holder.communicate("end\n")


def test_addresses_are_chosen_beside_the_hosts_routes(net: Internet) -> None:
    def address() -> str:
        ended = sandboxed(
            net, "--", PYTHON, "-c", LISTENER.replace("sys.stdin.readline()", "server.close(); sys.exit()")
        )
        assert ended.code == 0, ended
        return ended.out

    def route(verb: str, *networks: str) -> None:
        for network in networks:
            net.says("sh", "-c", f"PATH=$PATH:/usr/sbin; ip route {verb} {network} via 203.0.113.1")

    route("add", "198.18.0.0/16", "198.19.0.0/17", "198.19.128.0/18")
    assert address().startswith("198.19.")
    route("add", "198.19.192.0/18")
    ended = sandboxed(net, "--", "true")
    assert (ended.code, ended.out) == (125, "")
    assert ended.err.startswith("sandbox: usage: network.mode: no address is free: they come from 198.18.0.0/15 ")
    route("del", "198.18.0.0/16", "198.19.0.0/17", "198.19.128.0/18", "198.19.192.0/18")
    named = sandboxed(net, "--net-allow", "tcp:198.18.0.0/15:80", "--", "true")
    assert named.err.startswith("sandbox: usage: network.mode: no address is free: ")
    assert address().startswith("198.1")


def test_plan_to_be_read_makes_nothing(net: Internet) -> None:
    """Nor does it need root, nor a host that forwards."""
    line = "netns           join a network of its own behind the caller's"
    for ended in (sandboxed(net, "--dry-run", "--", "true"), run([*SANDBOX, *VETH, "--dry-run", "--", "true"])):
        assert (ended.code, ended.err, line in ended.out.splitlines()) == (0, "", True)
    named = run([*SANDBOX, *VETH, "--netns", "blue", "--dry-run", "--", "true"])
    assert "netns           join network namespace blue" in named.out.splitlines()
    assert left(net) == set()


# ---- a network that is there ----


def test_netns_joins_a_network_and_leaves_it_as_it_is(net: Internet) -> None:
    show = ("--", "cut", "-s", "-d:", "-f1", "/proc/net/dev")
    before = net.says("cat", "/proc/net/dev", within="router").count(":")
    ended = sandboxed(net, "--netns", "router", *show)
    assert (ended.code, ended.err) == (0, "")
    assert {word.strip() for word in ended.out.splitlines()} == {"lo", "host", "servers"}
    reached = sandboxed(net, "--netns", "router", "--", PYTHON, "-c", PROBER, "tcp:192.0.2.10:80", "tcp:169.254.1.1:80")
    assert set(verdicts_of(reached.out).values()) == {"reached"}
    assert net.says("cat", "/proc/net/dev", within="router").count(":") == before
    own = sandboxed(net, *show)
    assert {word.strip() for word in own.out.splitlines()} == {"lo", "eth0"}


def test_netns_that_is_none_is_named(net: Internet) -> None:
    net.says("touch", "/run/netns/file")
    net.says("sh", "-ec", "touch /run/netns/names; mount --bind /proc/self/ns/uts /run/netns/names")
    missing = sandboxed(net, "--netns", "blue", "--", "true")
    assert missing == Ended(
        125, "", "sandbox: network: /run/netns/blue: No such file or directory; ip netns add blue makes one\n"
    )
    for name in ("file", "names"):
        refused = sandboxed(net, "--netns", name, "--", "true")
        assert refused.err == (
            f"sandbox: network: /run/netns/{name}: it is no network namespace; ip netns add {name} makes one\n"
        )
    for name in ("../netns/router", ".", ".."):
        refused = sandboxed(net, "--netns", name, "--", "true")
        assert (refused.code, "is no name; one of ip netns list" in refused.err) == (125, True)
    net.says("umount", "/run/netns/names")
    net.says("rm", "/run/netns/names", "/run/netns/file")


# ---- what is refused ----


def test_host_that_does_not_forward_is_named(net: Internet) -> None:
    settings = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}

    def forward(**on: int) -> None:
        for version, setting in settings.items():
            net.says("sh", "-c", f"PATH=$PATH:/usr/sbin; sysctl -qw {setting}={on[f'v{version}']}")

    def refusal(rule: str) -> str:
        ended = sandboxed(net, "--net-allow", rule, "--", "true")
        assert (ended.code, ended.out) == (125, "")
        return ended.err

    try:
        forward(v4=0, v6=0)
        assert "this host forwards nothing, " in refusal("tcp:*:80")
        assert "sysctl -w net.ipv4.ip_forward=1" in refusal("tcp:*:80")
        forward(v4=1, v6=0)
        six = "sandbox: usage: network.allow: tcp:[2001:db8:1::10]:80: this host does not forward IPv6; "
        assert refusal("tcp:[2001:db8:1::10]:80") == f"{six}sysctl -w {settings[6]}=1\n"
        targets = ("tcp:192.0.2.10:80", "tcp:[2001:db8:1::10]:80")
        assert list(probed(net, "tcp:*:80", *targets).values()) == ["reached", "refused"]
        forward(v4=0, v6=1)
        assert f"this host does not forward IPv4; sysctl -w {settings[4]}=1" in refusal("tcp:192.0.2.10:80")
        assert list(probed(net, "tcp:*:80", *targets).values()) == ["refused", "reached"]
    finally:
        forward(v4=1, v6=1)
    assert list(probed(net, "tcp:*:80", *targets).values()) == ["reached", "reached"]
    assert eventually(lambda: left(net)) == set()


def test_ordinary_user_is_told_what_to_take_instead(net: Internet) -> None:
    words = [*SANDBOX, "run", "--chdir", "/", "--net", "veth", "--", "true"]
    as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if ROOT else []
    ended = run([*as_user, *words])
    assert ended == Ended(
        125, "",
        'sandbox: usage: network.mode: veth takes root; take mode "none" with allow, where the supervisor connects\n',
    )  # fmt: skip
    assert net.run(*words) == Ended(0, "", "")


def test_root_without_the_capability_is_told_so(net: Internet) -> None:
    bound = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    ended = net.run(*bound, *SANDBOX, *VETH, "--", "true")
    assert (ended.code, ended.out) == (125, "")
    assert ended.err.startswith("sandbox: network: a namespace: Operation not permitted; it takes root, ")
    bound = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    ended = net.run(*bound, *SANDBOX, *VETH, "--", "true")
    assert (ended.code, ended.out) == (125, "")
    assert ended.err.startswith(
        "sandbox: network: what earlier sandboxes left: Operation not permitted; it takes root, "
    )
    assert left(net) == set()


def test_kernel_that_has_no_more_of_it_is_named(net: Internet, probes: Probes) -> None:
    """Settings of a user namespace of the test's own, and a filter that stands for a kernel without netlink."""
    own = 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo $0 >/proc/sys/user/max_net_namespaces; exec "$@"'

    def with_at_most(number: int, *before: str) -> Ended:
        inside = ["unshare", "--user", "--map-root-user", "--net", "sh", "-ec", own, str(number), *before]
        return run([*inside, *SANDBOX, *VETH, "--", "true"])

    ended = with_at_most(0)
    assert (ended.code, ended.out) == (125, "")
    assert ended.err.startswith(
        "sandbox: network: a namespace: No space left on device; sysctl user.max_net_namespaces must leave one more"
    )
    assert with_at_most(20) == Ended(0, "", "")
    ended = with_at_most(20, probes["outer"], str(NUMBERS["socket"]), str(errno.EAFNOSUPPORT), "16")
    assert ended == Ended(125, "", "sandbox: network: netlink: Address family not supported by protocol\n")
    assert left(net) == set()


# ---- the op ----


def joining(command: list[str | Path], number: int) -> Plan:
    """Return a plan that joins the network of a descriptor."""
    plan = plan_of(command, walls=True, additions=Additions(network=NetworkMode.HOST), chdir="/")
    found = (*plan.ops, ops.netns(number, 0, "some network"))
    return Plan(tuple(sorted(found, key=lambda op: op.code)))


def in_host(net: Internet, file: str, *before: str) -> list[str]:
    """Return a wrapper that gives a program descriptor 9 of a file of the host's, which it opens itself."""
    return net.command("sh", "-c", 'exec 9<"$0"; exec "$@"', file, *before)


def test_plan_joins_the_network_of_a_descriptor_and_without_the_op_does_not(net: Internet) -> None:
    plan = joining(["cut", "-s", "-d:", "-f1", "/proc/net/dev"], 9)
    joined = launch(plan, before=in_host(net, "/run/netns/router"))
    assert (joined.code, joined.err, "servers" in joined.out) == (0, "", True)
    beside = launch(less(plan, OpCode.NETNS), before=in_host(net, "/run/netns/router"))
    assert (beside.code, beside.err, "servers" in beside.out, "uplink" in beside.out) == (0, "", False, True)


def test_descriptor_of_no_network_is_refused_and_nothing_is_executed(net: Internet, probes: Probes) -> None:
    marker = probes.folder / "joined"
    plan = joining([probes["mark"], marker], 9)
    for file in ("/proc/self/ns/uts", "/dev/null"):
        ended = launch(plan, before=in_host(net, file))
        assert ended.err.startswith("sandbox: network: some network: Invalid argument; ")
        assert (ended.code, marker.exists()) == (125, False)
    closed = launch(joining([probes["mark"], marker], 77), before=in_host(net, "/dev/null"))
    assert closed.err.startswith("sandbox: network: some network: Bad file descriptor; ")
    assert (closed.code, marker.exists()) == (125, False)


def test_network_that_cannot_be_joined_stops_the_start(net: Internet, probes: Probes) -> None:
    plan = joining(["cat", "/proc/net/dev"], 9)
    refusing = [probes["outer"], str(NUMBERS["setns"]), str(errno.EPERM), "-"]
    ended = launch(plan, before=in_host(net, "/run/netns/router", *refusing))
    assert ended == Ended(
        125, "",
        "sandbox: network: some network: Operation not permitted; it takes root, and CAP_SYS_ADMIN\n",
    )  # fmt: skip
    allowing = [probes["outer"], "-5", str(errno.EPERM), "-"]
    assert launch(plan, before=in_host(net, "/run/netns/router", *allowing)).code == 0
