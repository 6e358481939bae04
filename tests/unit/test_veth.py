"""The parts of a network of one's own: names, addresses that are free, rules, refusals, answers of the kernel."""

from __future__ import annotations

import struct
from ipaddress import ip_network
from typing import Final

import pytest

from sandbox import veth, walls
from sandbox.allowlist import NOT_MEANT, parse_peer
from sandbox.caller import Caller, Joined
from sandbox.errors import ProfileError, UsageError
from sandbox.network import listed_tables
from sandbox.plan import Namespace, OpCode
from sandbox.profile import FilterSection, NetworkMode, NetworkPolicy, Profile, SharedNamespace, check
from sandbox.profile_format import format_profile
from sandbox.profile_text import merge, parse
from sandbox.resolve import Additions, for_caller
from sandbox.veth import PAIRS, POOL4, POOL6, Pair, free_pairs, is_ours, lines_of

CALLER: Final = Caller({}, "/", "/home/u", "/run/u", "/tmp", 7)


def own(*rules: str, **more: object) -> NetworkPolicy:
    return NetworkPolicy(NetworkMode.VETH, allow=tuple(map(parse_peer, rules)), **more)  # type: ignore[arg-type]


def profile(network: NetworkPolicy, *share: SharedNamespace) -> Profile:
    return Profile("p", filter=FilterSection(("@base",)), network=network, share=share)


# ---- addresses ----


def test_pairs_have_names_and_addresses_of_their_own() -> None:
    pairs = list(free_pairs(PAIRS - 2, [], []))
    assert [pair.number for pair in pairs[:3]] == [PAIRS - 2, PAIRS - 1, 0]
    assert len({pair.name for pair in pairs}) == len({pair.network4 for pair in pairs}) == PAIRS
    assert all(is_ours(pair.name) and len(pair.name) < 16 for pair in pairs)
    assert all(pair.network4.subnet_of(POOL4) and pair.network6.subnet_of(POOL6) for pair in pairs)


@pytest.mark.parametrize("name", ["sandbox-0", "sandbox-00000", "sandbox-000G", "sandbox-0001x", "sandbox0001", "eth0"])
def test_other_names_are_not_taken_for_ours(name: str) -> None:
    assert not is_ours(name)
    assert is_ours("sandbox-0001")


@pytest.mark.parametrize(
    ("taken", "number"),
    [
        ("198.18.0.0/30", 1), ("198.18.0.1/32", 1), ("198.18.0.0/16", 1 << 14), ("198.0.0.0/8", None),
        ("fd8b:5c1e:d749::/64", 1), ("fd8b:5c1e:d749::/49", None), ("fd8b:5c1e::/32", None),
        ("198.18.0.4/30", 0), ("198.20.0.0/14", 0), ("0.0.0.0/0", 0), ("128.0.0.0/1", 0), ("fd00::/8", 0), ("::/0", 0),
    ],
)  # fmt: skip
def test_pair_collides_with_nothing_narrower_than_a_default_route(taken: str, number: int | None) -> None:
    assert next(free_pairs(0, [ip_network(taken)], []), None) == (None if number is None else Pair(number))


def test_pair_whose_name_is_taken_is_passed_over() -> None:
    assert next(free_pairs(0, [], ["sandbox-0000", "sandbox-0001", "eth0"])) == Pair(2)


# ---- rules ----


def test_without_rules_all_is_allowed_but_what_is_not_meant() -> None:
    lines = lines_of(own(), CALLER)
    assert {line.label for line in lines} == {*NOT_MEANT, "tcp:*:*", "udp:*:*"}
    assert [line.deny for line in lines] == sorted((line.deny for line in lines), reverse=True)
    asked = lines_of(own(dns=True, resolvers=("169.254.169.253",)), CALLER)
    assert [line.label for line in asked[:2]] == ["udp:169.254.169.253:53", "tcp:169.254.169.253:53"]
    assert not asked[0].deny


def test_denied_networks_are_denied_once_and_to_every_protocol() -> None:
    lines = lines_of(own("tcp:*:80", "udp:*:53"), CALLER)
    (output,) = (chain for chain in veth.inner_chains(lines, closed=True) if chain.name == "output")
    networks = {(line.address, line.prefix) for line in lines if line.deny}
    assert len([line for line in lines if line.deny]) == 2 * len(networks)
    assert len(output.rules) == 4 + len(networks) + 4 + 1  # loopback, known, 2 neighbours; both families
    assert output.policy == veth.DROP


# ---- what is refused before anything is made ----


@pytest.mark.parametrize(
    ("network", "key", "words"),
    [
        (own("tcp:127.0.0.1:80"), "network.allow[0]", "this host itself"),
        (own("tcp:192.0.2.1:80", "udp:[::1]:53"), "network.allow[1]", "this host itself"),
        (own("tcp:[fe80::1%2]:80"), "network.allow[0]", "link-local addresses"),
        (own("udp:224.0.0.0/4:5353"), "network.allow[0]", "many hosts at once"),
        (own(netns=".."), "network.netns", "is no name"),
        (own(netns="a/b"), "network.netns", "is no name"),
        (own(netns=""), "network.netns", "is no name"),
        (own("tcp:*:80", netns="blue"), "network.allow", "rules of its own"),
        (NetworkPolicy(NetworkMode.LOOPBACK, netns="blue"), "network.netns", "mode loopback joins none"),
        (NetworkPolicy(NetworkMode.HOST, netns="blue"), "network.netns", "mode host joins none"),
    ],
)
def test_check_refuses_what_mode_veth_cannot_hold(network: NetworkPolicy, key: str, words: str) -> None:
    with pytest.raises(ProfileError, match=words) as caught:
        check(profile(network))
    assert caught.value.key == key


def test_check_refuses_ports_to_bind_and_says_what_to_take() -> None:
    from sandbox.allowlist import parse_bind

    with pytest.raises(ProfileError, match="tcp:8080': nobody outside reaches a port of mode veth") as caught:
        check(profile(own(bind=(parse_bind("tcp:8080"),))))
    assert 'listen = "tcp:8080"' in caught.value.hint


@pytest.mark.parametrize(
    "network",
    [own(), own("tcp:169.254.169.254:80"), own("tcp:*:80", "tcp:0.0.0.0/0:1"), own(netns="blue"), own(dns=True)],
)
def test_check_accepts_what_it_can(network: NetworkPolicy) -> None:
    check(profile(network))


# ---- ops ----


def ops_of(network: NetworkPolicy, caller: Caller = CALLER, *share: SharedNamespace) -> dict[OpCode, list[str]]:
    found: dict[OpCode, list[str]] = {}
    for op in walls.network_ops(profile(network, *share), caller, ()):
        found.setdefault(op.code, []).append(op.label)
    return found


def test_network_is_joined_and_none_is_made_by_the_launcher() -> None:
    walled = profile(own())
    assert Namespace.NETWORK not in walls.own_namespaces(walled)
    made = Caller({}, "/", "/h", "/r", "/t", 7, joined=Joined(8, 9))
    (op,) = (op for op in walls.network_ops(walled, made, ()) if op.code is OpCode.NETNS)
    assert (op.a, op.b) == (8, 9)
    (op,) = (op for op in walls.network_ops(walled, CALLER, ()) if op.code is OpCode.NETNS)
    assert (op.a, op.b) == (0, 0), "no launcher takes it"
    assert not walls.wanted_ruleset(walled).net


def test_names_come_as_files_unless_the_network_is_somebody_elses() -> None:
    names = ["/etc/hosts", "/etc/resolv.conf"]
    assert ops_of(own()) == {OpCode.NETNS: ["a network of its own behind the caller's"], OpCode.TEXT_FILE: names}
    assert ops_of(own(netns="blue")) == {OpCode.NETNS: ["network namespace blue"]}
    assert ops_of(own(netns="blue", dns=True, resolvers=("127.0.0.1",)))[OpCode.TEXT_FILE] == names
    assert OpCode.TEXT_FILE not in ops_of(own(), CALLER, SharedNamespace.MOUNT)


@pytest.mark.parametrize("resolver", ["127.0.0.53", "::1", "fe80::1"])
def test_resolver_that_the_network_does_not_reach_is_named(resolver: str) -> None:
    with pytest.raises(UsageError, match=f"resolver {resolver}: ") as caught:
        ops_of(own(dns=True, resolvers=(resolver,)))
    assert caught.value.object == "network.dns"
    assert OpCode.NETNS in ops_of(own(dns=True, resolvers=("192.0.2.53",)))


# ---- answers of the kernel ----


def answer(kind: int, body: bytes = b"", flags: int = 2) -> bytes:
    return struct.pack("<IHHII", 16 + len(body), kind, flags, 0, 0) + body


def table(name: bytes, flags: int = 2) -> bytes:
    padded = name + bytes(-len(name) % 4 or 4)
    attributes = struct.pack("<HH", 4 + len(padded), 1) + padded + struct.pack("<HH", 8, 2)
    return struct.pack("<BBH", 1, 0, 0) + attributes + struct.pack(">I", flags)


DONE: Final = answer(3, bytes(4))


def test_tables_are_read_whole_or_not_at_all() -> None:
    """One that is missed in a list that was cut would be taken for that of a dead sandbox."""
    one, two = answer(0xA00, table(b"sandbox-0001")), answer(0xA00, table(b"mine", 0))
    datagrams = [one + two, DONE]
    found = listed_tables(iter(datagrams).__next__)
    assert found is not None
    assert [(row.name, row.flags) for row in found] == [("sandbox-0001", 2), ("mine", 0)]
    assert listed_tables(iter([one + answer(0xA00, table(b"mine"), 0x12), DONE]).__next__) is None
    assert listed_tables(iter([one, answer(3, bytes(4), 0x12)]).__next__) is None
    with pytest.raises(PermissionError):
        listed_tables(iter([one, answer(2, struct.pack("<i", -1) + bytes(16))]).__next__)


# ---- text ----


@pytest.mark.parametrize("network", [own("tcp:*:443"), own(netns="some network"), own(dns=True)])
def test_network_survives_being_written_and_read(network: NetworkPolicy) -> None:
    text = format_profile(profile(network))
    assert merge([parse(text, "p.toml")], "p").network == network


def test_added_netns_replaces_the_profiles() -> None:
    added = Additions(network=NetworkMode.VETH, netns="green")
    for first in (profile(own(netns="blue")), profile(NetworkPolicy())):
        assert for_caller(first, CALLER, added).network == own(netns="green")
    assert for_caller(profile(own(netns="blue")), CALLER).network == own(netns="blue")
