"""Templates: their table, their bytes, their words; and what is refused when a profile is sealed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

import pytest

from sandbox import wire
from sandbox.allowlist import parse_bind, parse_peer
from sandbox.errors import PlanError, SandboxError
from sandbox.filesystem import FilesystemPolicy
from sandbox.grants import parse_grant
from sandbox.landlock import KERNELS
from sandbox.plan import Data, OpCode
from sandbox.profile import NetworkMode, NetworkPolicy, Profile
from sandbox.profile_files import default_search_path, load
from sandbox.resolve import Additions
from sandbox.seal import assemble, is_sealed, seal_profile, take_apart
from sandbox.template import (
    ITEM_DATA,
    Item,
    ItemCode,
    Template,
    as_profile,
    decode,
    encode,
    holds_placeholder,
)
from tests.support.native import LAUNCHER_SOURCES

UNTRUSTED: Final = load("untrusted", search=default_search_path({}))
NEWEST: Final = max(KERNELS)


def template_of(loaded: Profile, added: Additions | None = None, command: tuple[str, ...] = ("ls",)) -> Template:
    return seal_profile(loaded, added or Additions(), command, landlock_abi=NEWEST, version="x").template


def test_items_are_those_of_the_launcher() -> None:
    text = (LAUNCHER_SOURCES / "template.def").read_text()
    table = re.findall(r"^ITEM\((\w+), (0x\w+), (\w+), \"[a-z]+\"\)", text, re.MULTILINE)
    assert [(name, int(code, 16), Data[data]) for name, code, data in table] == [
        (code.name, code.value, ITEM_DATA[code]) for code in ItemCode
    ]
    assert not {*ItemCode} & {*OpCode}


def test_template_is_decoded_as_it_was_encoded() -> None:
    grants = tuple(
        map(parse_grant, ("a=file:x", "b=inherit:systemd:web", "d=inherit:systemd:state:stored", "c=listen:unix:s"))
    )
    process = replace(UNTRUSTED.process, notify=True, nice=3)
    loaded = replace(UNTRUSTED, process=process, environment=replace(UNTRUSTED.environment, keep=("PATH", "*")))
    template = template_of(loaded, Additions(grants=grants, limits={"cpu": 1}), ())
    assert {line.code for line in template.records} >= set(ItemCode)
    # Advice and objects are cut where a message would be.
    assert decode(encode(template)) == template
    assert len(template.describe()) == len(template.records)
    assert all("\n" not in line and "/{" not in line for line in template.describe())


def test_template_is_no_plan_and_a_plan_no_template() -> None:
    data = encode(template_of(UNTRUSTED))
    with pytest.raises(PlanError, match="this is not a plan"):
        wire.decode(data)
    with pytest.raises(PlanError, match="this is not a plan"):
        decode(wire.MAGIC + data[8:])
    unknown = Template((Item(ItemCode.ARGUMENTS),))
    raw = bytearray(encode(unknown))
    raw[64:66] = b"\xff\x02"
    raw[16:24] = wire.checksum(bytes(raw)).to_bytes(8, "little")
    with pytest.raises(PlanError, match="an op is unknown"):
        decode(bytes(raw))


@pytest.mark.parametrize(
    ("text", "shown"),
    [("/{home}/a", "{home}/a"), ("grant x: file /{cwd}", "grant x: file {cwd}"), ("/{other}", None), ("{home}", None)],
)
def test_placeholders_are_known_by_the_slash_before_them(text: str, shown: str | None) -> None:
    assert holds_placeholder(text) is (shown is not None)
    assert as_profile(text) == (text if shown is None else shown)


def test_rights_of_entries_are_landlocks() -> None:
    (view,) = (line for line in template_of(UNTRUSTED).records if line.code is ItemCode.VIEW)
    assert view.a & 0xFFFF == 0b1100
    assert view.a >> 16 & view.a & 0xFFFF == 0
    assert view.b & 0xFFFF == 0b1
    assert view.b >> 16 == 1 << 15


def grants(*texts: str) -> Additions:
    return Additions(grants=tuple(map(parse_grant, texts)))


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        (grants("x=connect:tcp:localhost:1"), "host localhost: a sealed launcher looks no names up"),
        (grants("x=listen:unix:/s:owner=root"), "looks no names up"),
        (Additions(user="nobody"), "looks no names up"),
        (Additions(user="1000"), "looks no names up"),
        (Additions(group="1000"), "looks no names up"),
        (Additions(filesystem=FilesystemPolicy(read=("{home}/x",))), "takes for a placeholder"),
        (Additions(filesystem=FilesystemPolicy(read=("../x",))), "leaves a folder that only the start can tell"),
        (Additions(chdir="{cwd}"), "takes for a placeholder"),
        (grants("x=file:{tmp}"), "takes for a placeholder"),
        (
            replace(grants("x=inherit:3"), keep=("MAKEFLAGS",)),
            "keeps MAKEFLAGS, which a sealed launcher does not rewrite",
        ),
        (Additions(allow=(parse_peer("tcp:localhost:1"),)), "network.allow: tcp:localhost:1: host localhost: a sealed"),
        (Additions(dns=True), "network.dns: which resolvers a host has, a sealed launcher does not look up"),
        (Additions(network=NetworkMode.VETH), "network.mode: veth: a sealed launcher makes no network"),
        (Additions(network=NetworkMode.VETH, netns="x"), "network.mode: veth: a sealed launcher makes no network"),
        (replace(grants("x=datagram:udp:127.0.0.1:1"), notify=True), "with a udp grant no call may name an address"),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_start_cannot_resolve_is_refused_when_it_is_sealed(added: Additions, reason: str) -> None:
    with pytest.raises(SandboxError, match=re.escape(reason)):
        template_of(UNTRUSTED, added)


@pytest.mark.parametrize(
    "added",
    [
        grants("x=connect:tcp:127.0.0.1:1"), grants("x=listen:unix:/s:owner=0:0"), Additions(user="1000", group="1000"),
        Additions(filesystem=FilesystemPolicy(read=("x", "a/../b"))), grants("x=inherit:3"),
        Additions(keep=("MAKEFLAGS",)), Additions(notify=True), grants("x=datagram:udp:127.0.0.1:1"),
        Additions(limits={"memory": "1G", "processes": 9, "cpu": 0.5}), Additions(network=NetworkMode.HOST),
        Additions(allow=(parse_peer("tcp:10.0.0.0/8:1-9"), parse_peer("udp:*:53")), bind=(parse_bind("tcp:80"),)),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_start_can_resolve_is_sealed(added: Additions) -> None:
    assert template_of(UNTRUSTED, added).records


def test_resolvers_that_the_profile_names_are_sealed() -> None:
    named = replace(UNTRUSTED, network=NetworkPolicy(dns=True, resolvers=("192.0.2.53",)))
    rules = [record for record in template_of(named).records if record.code == OpCode.NET_RULE]
    assert any("192.0.2.53" in record.label for record in rules)


def test_template_asks_for_no_newer_kernel_than_it_needs() -> None:
    """ABI 7 brought no right: what is sealed there starts on 6 as well."""

    def need(abi: int) -> int:
        template = seal_profile(UNTRUSTED, Additions(), ["x"], landlock_abi=abi, version="x").template
        return next(line.a for line in template.records if line.code is ItemCode.NEEDS)

    assert [need(abi) for abi in (0, 1, 6, 7)] == [0, 1, 6, 6]


def test_assembling_needs_one_place_for_the_seal() -> None:
    sealed = seal_profile(UNTRUSTED, Additions(), ["x"], landlock_abi=0, version="x")
    marker = b"sandbox-sealed:\n" + bytes(80)
    assert take_apart(assemble(b"\x7fELF" + bytes(4) + marker, sealed), "file") == sealed
    for launcher in (b"\x7fELF" + bytes(100), b"\x7fELF" + marker, b"\x7fELF" + bytes(4) + marker + marker):
        with pytest.raises(PlanError, match="it has no place for a seal"):
            assemble(launcher, sealed)
    assert not is_sealed(b"\x7fELF" + bytes(4) + marker)
    for data in (b"", b"#!/bin/sh\n", b"\x7fELF" + bytes(4) + marker, marker[:20]):
        with pytest.raises(SandboxError, match="it is no sealed file"):
            take_apart(data, "file")
