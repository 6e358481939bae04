"""The byte format: the document's tables, plan.py and the launcher agree; each refusal has bytes that cause it."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from sandbox import events, grants, ops, plan, wire
from sandbox.errors import PlanError
from sandbox.grants import Access, FdType
from sandbox.plan import (
    GATE_LENGTH,
    MANDATORY,
    MAX_ARGS,
    MAX_COMMANDS,
    MAX_ENV_OPS,
    MAX_FILTER_LENGTH,
    MAX_FILTERS,
    MAX_SLOTS,
    MAX_STORED_NAME,
    OBTAINING,
    RULES,
    ListFlag,
    NetFlag,
    Op,
    OpCode,
    Plan,
    StatusFormat,
    Trace,
)
from sandbox.protocols import Place, Shape
from tests.support import plans
from tests.support.native import (
    ALL_SEALS,
    LAUNCHER_SOURCES,
    ROOT,
    build_launcher,
    check_plan,
    check_plan_fd,
    memfd_holding,
)
from tests.support.plans import ALLOW_ALL, Parts, full_plan, plan_for, taken_apart

DOCUMENT: Final = (ROOT / "docs" / "plan-format.md").read_text()


def table(heading: str, nth: int = 0) -> list[list[str]]:
    """Return the cells of the nth table below a heading of the document, without its head."""
    section = DOCUMENT.split(f"## {heading}")[1].split("\n## ")[0]
    found = [block for block in section.split("\n\n") if block.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[nth].splitlines()[2:]]


@pytest.fixture(scope="module")
def abi() -> dict[str, list[str]]:
    """Return what the launcher says of itself: each line's last words by its name."""
    done = subprocess.run([build_launcher(), "--dump-abi"], capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _, rest = line.partition(" ")
        found.setdefault(name, []).append(rest)
    return found


def documented_ops() -> list[tuple[str, int, str, int, int]]:
    rows = []
    for name, code, step, times, *_ in table("Op, 32 bytes", 1):
        least, _, most = times.partition("-")
        rows.append((name, int(code, 16), step, int(least), int(most or least)))
    return rows


def test_ops_document_and_plan_and_launcher_agree(abi: dict[str, list[str]]) -> None:
    ours = [(code.name, int(code), rule.step, rule.least, rule.most) for code, rule in RULES.items()]
    assert documented_ops() == ours
    theirs = {name[3:]: words for name, words in abi.items() if name.startswith("op.")}
    assert theirs == {name: [f"{code} {step}"] for name, code, step, *_ in ours}


def test_ops_table_in_c_has_the_same_counts_and_data() -> None:
    text = (LAUNCHER_SOURCES / "ops.def").read_text()
    rows = re.findall(r'^OP\((\w+), (\w+), "(\w+)", (\w+), (\w+), (\w+)\)$', text, flags=re.MULTILINE)
    theirs = [(name, int(code, 16), int(least), int(most) if most.isdigit() else getattr(plan, most), data)
              for name, code, _, least, most, data in rows]  # fmt: skip
    assert theirs == [(code.name, int(code), rule.least, rule.most, rule.data.name) for code, rule in RULES.items()]


def test_ops_mandatory_ones_are_those_that_the_document_demands() -> None:
    assert {OpCode[name] for name, _, _, least, _ in documented_ops() if least} == MANDATORY


def test_fd_types_document_and_grants_and_launcher_agree(abi: dict[str, list[str]]) -> None:
    cells = [(row[at], row[at + 1]) for row in table("Op, 32 bytes", 2) for at in (0, 2, 4)]
    documented = {word: int(bit) for bit, word in cells if bit}
    assert documented == {str(fd_type): fd_type.bit.bit_length() - 1 for fd_type in FdType}
    theirs = {words[0] for name, words in abi.items() if name.startswith("fdtype.")}
    assert theirs == {f"{bit} {word}" for word, bit in documented.items()}


def test_limits_document_and_plan_and_launcher_agree(abi: dict[str, list[str]]) -> None:
    ours = {
        "version": wire.VERSION, "header_size": wire.HEADER_SIZE, "op_size": wire.OP_SIZE,
        "event_size": wire.EVENT_SIZE, "max_size": wire.MAX_SIZE, "max_slots": MAX_SLOTS,
        "max_args": MAX_ARGS, "max_commands": MAX_COMMANDS, "max_filters": MAX_FILTERS,
        "max_env_ops": MAX_ENV_OPS, "first_number": grants.FIRST_NUMBER, "last_number": grants.LAST_NUMBER,
    }  # fmt: skip
    assert {name: [str(value)] for name, value in ours.items()} == {name: abi[name] for name in ours}
    left = {name for name in abi if not name.startswith(("op.", "fdtype."))} - ours.keys()
    assert left == {"reason", "step"}, "something new in --dump-abi that nothing compares"
    assert f"at most {wire.MAX_SIZE >> 20} MiB" in DOCUMENT
    assert f"slot (0-{MAX_SLOTS - 1})" in DOCUMENT
    assert grants.MAX_GRANTS == MAX_SLOTS


def test_reasons_and_steps_agree_with_the_launcher(abi: dict[str, list[str]]) -> None:
    assert abi["reason"] == [f"{number} {text}" for number, text in events.REASONS.items()]
    assert abi["step"] == [f"{number} {text}" for number, text in enumerate(events.STEPS)]
    assert f"no op failed: {', '.join(events.STEPS)} (type 2)" in DOCUMENT


def test_status_formats_agree_with_the_document() -> None:
    cell = next(row[4] for row in table("Op, 32 bytes", 1) if row[0] == "STATUS")
    assert f"b format: {StatusFormat.RECORDS:d} records, {StatusFormat.JSON:d} JSON lines" in cell


@pytest.mark.parametrize(("ours", "prefix", "word"), [(Place, "PLACE", "places"), (Shape, "SHAPE", "shapes")])
def test_protocol_places_and_shapes_agree_with_the_document_and_the_launcher(
    ours: type[Place | Shape], prefix: str, word: str
) -> None:
    listed = ", ".join(f"{member:d} {member.name.lower().replace('_', ' ')}" for member in ours)
    assert f"{word}: {listed}" in " ".join(DOCUMENT.split())
    text = (LAUNCHER_SOURCES / "plan.h").read_text()
    theirs = {name: int(value) for name, value in re.findall(rf"\b{prefix}_([A-Z_]+) = (\d+)", text)}
    assert theirs == {member.name: int(member) for member in ours}


def test_record_types_and_verdicts_agree_with_the_document_and_the_launcher() -> None:
    text = (LAUNCHER_SOURCES / "report.h").read_text()
    meanings = {int(offset): meaning for offset, _, meaning in table("Status records, 320 bytes each")}
    types = ", ".join(f"{number} {name.lower()}" for name, number in re.findall(r"\bEVENT_([A-Z]+) = (\d+)", text))
    verdicts = ", ".join(f"{number} {word.lower()}" for word, number in re.findall(r"\bVERDICT_([A-Z]+) = (\d+)", text))
    assert f"type: {types}" in meanings[4]
    assert f"{verdicts} (type 5)" in meanings[20]


def test_records_of_the_network_agree_with_the_document_and_the_launcher() -> None:
    text = (LAUNCHER_SOURCES / "netreport.h").read_text()
    meanings = {int(offset): meaning for offset, _, meaning in table("Status records, 320 bytes each")}
    kinds: list[tuple[str, type[events.NetworkCall | events.NetworkVerdict], int]] = [
        ("net_call", events.NetworkCall, 36), ("net_verdict", events.NetworkVerdict, 20),
    ]  # fmt: skip
    for name, ours, offset in kinds:
        (listed,) = re.findall(rf"enum {name} {{([^}}]+)}}", text)
        theirs = re.findall(r"\bNET_([A-Z]+)(?:_TO)? = (\d+)", listed)
        assert [(word.lower(), int(number)) for word, number in theirs] == [
            (str(member), number) for number, member in enumerate(ours, 1)
        ]
        assert (
            ", ".join(f"{number} {member}" for number, member in enumerate(ours, 1)) + " (type 6)" in meanings[offset]
        )
    shown = (LAUNCHER_SOURCES / "report.c").read_text()
    for array, words in (("net_calls", events.NetworkCall), ("net_verdicts", events.NetworkVerdict)):
        (listed,) = re.findall(rf"\b{array}\[\] = {{([^}}]+)}}", shown)
        assert re.findall(r'"(\w*)"', listed) == ["", *words]


def test_flags_of_the_network_agree_with_the_document_and_the_launcher() -> None:
    cells = {row[0]: row[4] for row in table("Op, 32 bytes", 1)}
    text = (LAUNCHER_SOURCES / "plan.h").read_text()
    kinds: list[tuple[str, type[NetFlag | ListFlag | Trace]]] = [
        ("NET", NetFlag), ("LIST", ListFlag), ("TELL", Trace),
    ]  # fmt: skip
    for prefix, ours in kinds:
        (listed,) = [line for line in re.findall(r"^enum {(.+)};", text, re.MULTILINE) if f" {prefix}_" in line]
        theirs = {name: int(value) for name, value in re.findall(rf"\b{prefix}_([A-Z]+) = (\d+)", listed)}
        assert theirs == {str(member.name): int(member) for member in ours} | {
            "ALL" if ours is Trace else "FLAGS": sum(ours)
        }
    assert "flags: 1 deny, 2 bind, 4 UDP" in cells["NET_RULE"]
    assert "flags: 1 UDP, 2 loopback, 4 ungoverned" in cells["ALLOW_LIST"]
    assert "flags: 1 execs, 2 network calls" in cells["STATUS"]
    (length,) = re.findall(r"GATE_LENGTH = (\d+)", text)
    assert int(length) == GATE_LENGTH
    assert f"the exec gate's {length} instructions in one filter, which has at most {MAX_FILTER_LENGTH}" in DOCUMENT


def sizes(rows: list[list[str]]) -> list[int]:
    return [int(size) for _, size, *_ in rows]


@pytest.mark.parametrize(
    ("heading", "native", "whole"),
    [
        ("Header, 64 bytes", plans.HEADER, wire.HEADER_SIZE),
        ("Op, 32 bytes", plans.RECORD, wire.OP_SIZE),
        ("Status records, 320 bytes each", struct.Struct("<IIQiiiiiii20s160s96s"), wire.EVENT_SIZE),
    ],
)
def test_layouts_of_the_document_add_up(heading: str, native: struct.Struct, whole: int) -> None:
    rows = table(heading)
    assert [int(offset) for offset, *_ in rows] == [sum(sizes(rows)[:index]) for index in range(len(rows))]
    assert sum(sizes(rows)) == native.size == whole
    assert f"{whole} bytes" in heading


def test_header_lies_where_the_document_says() -> None:
    data = wire.encode(full_plan())
    at = {field.split(";")[0]: int(offset) for offset, _, field, *_ in table("Header, 64 bytes")}

    def number(field: str) -> int:
        return int(struct.unpack_from("<I", data, at[field])[0])

    assert data[at["magic"] :][:8] == b"SBXPLAN\n"
    assert (number("version"), number("flags"), number("size"), number("op size")) == (1, 0, len(data), 32)
    count = len(full_plan().ops)
    assert (number("op count"), number("op offset"), number("data offset")) == (count, 64, 64 + 32 * count)
    assert number("data size") == len(data) - number("data offset")
    assert plans.with_checksum(data) == data


OBTAIN: Final = Plan((ops.status(9, StatusFormat.RECORDS), ops.data_text(0, "text", "grant d")), obtain=True)
POINT: Final = replace(plan_for(["x"]), point=True)


@pytest.mark.parametrize("plan", [full_plan(), plan_for(["x"]), plan_for(["x"], quiet=True), OBTAIN, POINT])
def test_wire_decode_of_encode_is_the_plan(plan: Plan) -> None:
    data = wire.encode(plan)
    assert wire.decode(data) == plan
    assert len(data) % 8 == 0
    assert check_plan(build_launcher(), data).returncode == 0


def test_wire_messages_are_bounded_single_lines() -> None:
    plan = plan_for(["x"], attributes=[Op(OpCode.CHDIR, data=b"/", label="a\nb\0c\udcff" + "é" * 400)])
    label = next(op.label for op in wire.decode(wire.encode(plan)).ops if op.code is OpCode.CHDIR)
    assert label == ("a\\nb\\0c\\xff" + "é" * 400)[:300]


def test_wire_equal_texts_are_stored_once() -> None:
    one = wire.encode(plan_for(["x"], attributes=[ops.env_keep("A" * 200)]))
    two = wire.encode(plan_for(["x"], attributes=[ops.env_keep("A" * 200)] * 2))
    assert len(two) == len(one) + wire.OP_SIZE


# --- refusals: one entry for each text that plan.c can return


def changed(code: OpCode, field: int, value: int, nth: int = 0) -> Callable[[], bytes]:
    """Return the full plan's bytes with one field of one op replaced."""

    def build() -> bytes:
        parts = taken_apart(full_plan())
        parts.op(code, nth)[field] = value
        return parts.joined()

    return build


def header(overrides: dict[int, int | bytes], *, fix: bool = True) -> Callable[[], bytes]:
    return lambda: taken_apart(full_plan()).joined(overrides, fix=fix)


def with_parts(change: Callable[[Parts], object]) -> Callable[[], bytes]:
    def build() -> bytes:
        parts = taken_apart(full_plan())
        change(parts)
        return parts.joined()

    return build


def swap_ops(parts: Parts) -> None:
    parts.ops[3], parts.ops[-1] = parts.ops[-1], parts.ops[3]


def repeat(code: OpCode, times: int) -> Callable[[], bytes]:
    """Return the full plan's bytes with an op repeated, the original included."""

    def build() -> bytes:
        parts = taken_apart(full_plan())
        first = parts.op(code)
        at = parts.ops.index(first)
        parts.ops = [fields for fields in parts.ops if fields[plans.CODE] != code]
        parts.ops[at:at] = [list(first) for _ in range(times)]
        return parts.joined()

    return build


def text_longer_than_said(parts: Parts) -> None:
    parts.op(OpCode.CHDIR)[plans.SIZE] = 0


def text_with_nul(parts: Parts) -> None:
    argv = parts.op(OpCode.EXEC)  # "prog\0-x\0\0": a NUL stands inside and at the end
    parts.op(OpCode.COMMAND)[plans.DATA : plans.SIZE + 1] = [argv[plans.DATA], argv[plans.SIZE] - 1]


def shift_text_to_the_end(parts: Parts) -> None:
    parts.op(OpCode.CHDIR)[plans.DATA : plans.SIZE + 1] = [len(parts.area) - 1, 1]


def arguments_unended(parts: Parts) -> None:
    parts.op(OpCode.EXEC)[plans.SIZE] -= 2
    parts.op(OpCode.EXEC)[plans.A] = 2


def mount_at_a_relative_path(parts: Parts) -> None:
    parts.op(OpCode.MOUNT)[plans.DATA] += 1
    parts.op(OpCode.MOUNT)[plans.SIZE] -= 1


def text_at_a_relative_path(parts: Parts) -> None:
    parts.op(OpCode.TEXT_FILE)[plans.DATA] += 1
    parts.op(OpCode.TEXT_FILE)[plans.SIZE] -= 1


def variable_without_name(parts: Parts) -> None:
    parts.op(OpCode.ENV_SET)[plans.DATA] += 1
    parts.op(OpCode.ENV_SET)[plans.SIZE] -= 1


def name_from_a_setting(code: OpCode) -> Callable[[], bytes]:
    """Return the full plan's bytes with `A=b=c` for the name of a variable."""

    def change(parts: Parts) -> None:
        parts.op(code)[plans.DATA : plans.SIZE + 1] = parts.op(OpCode.ENV_SET)[plans.DATA : plans.SIZE + 1]

    return with_parts(change)


def many_arguments() -> bytes:
    parts = taken_apart(full_plan())
    count = MAX_ARGS + 1
    parts.op(OpCode.EXEC)[plans.DATA : plans.SIZE + 1] = [len(parts.area), count]
    parts.op(OpCode.EXEC)[plans.A] = count
    parts.area += bytes(count + -count % 8)
    return parts.joined()


def long_filter(length: int, code: OpCode = OpCode.FILTER) -> Callable[[], bytes]:
    def build() -> bytes:
        parts = taken_apart(full_plan())
        parts.op(code)[plans.DATA : plans.SIZE + 1] = [len(parts.area), 8 * length]
        parts.area += ALLOW_ALL * length + bytes(8)
        return parts.joined()

    return build


def pair_of(data: bytes) -> Callable[[], bytes]:
    """Return the full plan's bytes with other texts for its first protocol rule."""
    return data_of(OpCode.PROTOCOL, data)


def without(*codes: OpCode) -> Callable[[], bytes]:
    return with_parts(
        lambda parts: setattr(parts, "ops", [fields for fields in parts.ops if fields[plans.CODE] not in codes])
    )


def data_of(code: OpCode, data: bytes, nth: int = 0) -> Callable[[], bytes]:
    """Return the full plan's bytes with other data in an op."""

    def build() -> bytes:
        parts = taken_apart(full_plan())
        parts.op(code, nth)[plans.DATA : plans.SIZE + 1] = [len(parts.area), len(data)]
        parts.area += data + bytes(8 - len(data) % 8)
        return parts.joined()

    return build


def obtaining(*more: Op, without: OpCode | None = None) -> Callable[[], bytes]:
    """Return the bytes of a plan that only obtains, changed."""

    def build() -> bytes:
        parts = taken_apart(OBTAIN)
        parts.ops = [fields for fields in parts.ops if fields[plans.CODE] != without]
        parts.ops += [[op.code, op.flags, op.a, op.b, op.c, 0, 0, 0, 0] for op in more]
        return parts.joined({plans.HEADER_FLAGS: wire.OBTAIN})

    return build


INET, INET6 = b"\x02\0" + bytes(14), b"\x0a\0" + bytes(26)
OUTSIDE: Final = 1 << 20
REFUSALS: Final[list[tuple[str, Callable[[], bytes]]]] = [
    ("its size is impossible", lambda: wire.encode(full_plan())[:56]),
    ("its size is impossible", lambda: wire.encode(full_plan()) + bytes(wire.MAX_SIZE)),
    ("this is not a plan", header({0: b"SBXPLAN\0"})),
    ("it has another format version", header({plans.VERSION: 2})),
    ("it has another format version", header({plans.VERSION: 0})),
    ("it is truncated", lambda: wire.encode(full_plan())[:-8]),
    ("it is truncated", lambda: wire.encode(full_plan())[:-1]),
    ("it is truncated", lambda: wire.encode(full_plan()) + bytes(8)),
    ("it is truncated", with_parts(lambda parts: setattr(parts, "area", parts.area + b"\0"))),
    ("its ops have another layout", header({plans.OP_SIZE: 40})),
    ("its ops have another layout", header({plans.OP_OFFSET: 72})),
    ("its areas do not fit", header({plans.COUNT: 1})),
    ("its areas do not fit", header({plans.COUNT: 2**32 - 1})),
    ("its areas do not fit", header({plans.COUNT: 2**27})),  # 32 times that is 0 in 32 bits
    ("its areas do not fit", header({plans.DATA_OFFSET: 64})),
    ("its areas do not fit", header({plans.DATA_SIZE: 8})),
    ("a reserved field is used", header({plans.HEADER_FLAGS: 4})),
    ("an op has no place in a plan that only obtains", header({plans.HEADER_FLAGS: 2})),
    ("an op has no place in a plan that only obtains", obtaining(ops.place(0, 3, ""))),
    ("a mandatory op is missing", obtaining(without=OpCode.DATA)),
    ("a reserved field is used", header({plans.RESERVED: b"\0" * 15 + b"\1"})),
    ("its data area is empty", with_parts(lambda parts: setattr(parts, "area", b""))),
    ("its checksum does not match", header({}, fix=False)),
    ("its data area is not ended", with_parts(lambda parts: setattr(parts, "area", parts.area[:-1] + b"x"))),
    ("an op is unknown", changed(OpCode.UMASK, plans.CODE, 0x0699)),
    ("an op is unknown", changed(OpCode.UMASK, plans.CODE, 0)),
    ("an op is out of order", with_parts(swap_ops)),
    ("a message lies outside the data area", changed(OpCode.UMASK, plans.LABEL, OUTSIDE)),
    ("a message lies outside the data area", changed(OpCode.UMASK, plans.HINT, 2**32 - 1)),
    ("an op carries data that it does not take", changed(OpCode.SWEEP, plans.DATA, 8)),
    ("an op carries data that it does not take", changed(OpCode.SWEEP, plans.SIZE, 1)),
    ("a text lies outside the data area", changed(OpCode.CHDIR, plans.DATA, OUTSIDE)),
    ("a text lies outside the data area", changed(OpCode.CHDIR, plans.SIZE, 2**32 - 1)),
    ("a text lies outside the data area", with_parts(shift_text_to_the_end)),
    ("a text is not ended where it should be", with_parts(text_longer_than_said)),
    ("a text is not ended where it should be", with_parts(text_with_nul)),
    ("the arguments lie outside the data area", changed(OpCode.EXEC, plans.DATA, OUTSIDE)),
    ("the arguments lie outside the data area", changed(OpCode.EXEC, plans.SIZE, 2**32 - 1)),
    ("the arguments lie outside the data area", changed(OpCode.EXEC, plans.SIZE, 0)),
    ("the arguments are not ended", with_parts(arguments_unended)),
    ("the number of arguments is wrong", changed(OpCode.EXEC, plans.A, 2)),
    ("the number of arguments is wrong", many_arguments),
    ("a filter lies outside the data area", changed(OpCode.FILTER, plans.DATA, OUTSIDE)),
    ("a filter lies outside the data area", changed(OpCode.FILTER, plans.SIZE, 2**32 - 8)),
    ("a filter lies outside the data area", with_parts(lambda p: p.op(OpCode.FILTER).__setitem__(plans.DATA, 4))),
    ("a filter has a wrong size", changed(OpCode.FILTER, plans.SIZE, 0)),
    ("a filter has a wrong size", changed(OpCode.FILTER, plans.SIZE, 12, 1)),
    ("a filter has a wrong size", long_filter(MAX_FILTER_LENGTH + 1)),
    ("a pair of texts lies outside the data area", changed(OpCode.PROTOCOL, plans.DATA, OUTSIDE)),
    ("a pair of texts lies outside the data area", changed(OpCode.PROTOCOL, plans.SIZE, 2**32 - 1)),
    ("a pair of texts lies outside the data area", changed(OpCode.PROTOCOL, plans.SIZE, 0)),
    ("a pair of texts is not ended where it should be", pair_of(b"a\0")),
    ("a pair of texts is not ended where it should be", pair_of(b"a\0b")),
    ("a pair of texts is not ended where it should be", pair_of(b"a\0b\0c")),
    ("a pair of texts is not ended where it should be", pair_of(b"a\0b\0c\0")),
    ("a pair of texts is not ended where it should be", pair_of(b"ab")),
    *(
        ("a slot is out of range", changed(code, plans.A, MAX_SLOTS))
        for code in (*sorted(OBTAINING), OpCode.SOCKET_OWNER)
    ),
    ("an address lies outside the data area", changed(OpCode.LISTEN, plans.DATA, OUTSIDE)),
    ("an address lies outside the data area", changed(OpCode.CONNECT, plans.SIZE, 2**32 - 1)),
    *(
        ("an address is malformed", data_of(OpCode.CONNECT, data))
        for data in (
            b"", b"\x02", b"\0\0" + bytes(14), b"\x10\0" + bytes(14), INET[:-1], INET + b"\0", INET + INET6[:-1],
            INET + b"\x01\0/x\0", b"\x01\0", b"\x01\0\0", b"\x01\0/x", b"\x01\0/\0x\0", b"\x01\0" + b"x" * 108 + b"\0",
            b"\x01\0\0" + b"x" * 108, b"\x01\0/x\0\0",
        )
    ),
    ("an owner is out of range", changed(OpCode.SOCKET_OWNER, plans.B, 2**32 - 1)),
    ("an owner is out of range", changed(OpCode.SOCKET_OWNER, plans.C, 2**32 - 1)),
    ("an owner is of no socket file, or of one that has two", repeat(OpCode.SOCKET_OWNER, 2)),
    ("an owner is of no socket file, or of one that has two", changed(OpCode.SOCKET_OWNER, plans.A, 6)),
    ("a listening socket is unknown", changed(OpCode.LISTEN, plans.FLAGS, 16)),
    ("a listening socket is unknown", changed(OpCode.LISTEN, plans.FLAGS, 0)),  # b is a mode then, and not said so
    ("a listening socket is unknown", changed(OpCode.LISTEN, plans.FLAGS, 8 | 1)),
    ("a listening socket is unknown", changed(OpCode.LISTEN, plans.FLAGS, 8 | 2)),
    ("a listening socket is unknown", changed(OpCode.LISTEN, plans.FLAGS, 8 | 4)),
    ("a listening socket is unknown", changed(OpCode.LISTEN, plans.B, 0o1000)),
    ("a listening socket is unknown", changed(OpCode.LISTEN, plans.C, 0)),
    ("a listening socket is unknown", changed(OpCode.LISTEN, plans.C, 65536)),
    ("a listening socket is unknown", changed(OpCode.LISTEN, plans.C, 1, 1)),
    ("a listening socket is unknown", changed(OpCode.LISTEN, plans.FLAGS, 4 | 8, 1)),
    ("a listening socket is unknown", data_of(OpCode.LISTEN, b"\x01\0\0name")),
    ("a listening socket is unknown", data_of(OpCode.LISTEN, INET6 + INET6, 1)),
    ("a listening socket is unknown", data_of(OpCode.LISTEN, INET, 1)),  # ipv6_only
    ("a connection is unknown", changed(OpCode.CONNECT, plans.B, 0)),
    ("a connection is unknown", changed(OpCode.CONNECT, plans.B, 3)),
    ("a connection is unknown", changed(OpCode.CONNECT, plans.B, 2)),
    ("a connection is unknown", changed(OpCode.CONNECT, plans.C, 0)),
    ("a connection is unknown", changed(OpCode.CONNECT, plans.C, 1, 1)),
    *(
        ("an op carries flags that it does not take", changed(code, plans.FLAGS, 1))
        for code in OpCode
        if code
        not in {
            OpCode.STDIO, OpCode.INHERIT, OpCode.FILE, OpCode.DIRECTORY, OpCode.PROTOCOL, OpCode.PLACE, OpCode.MOUNT,
            OpCode.PATH_RULE, OpCode.LISTEN, OpCode.DATA, OpCode.NET_RULE,
        }
    ),
    ("a protocol rule is unknown", changed(OpCode.PROTOCOL, plans.FLAGS, 2)),
    ("a protocol rule is unknown", changed(OpCode.PROTOCOL, plans.A, 0)),
    ("a protocol rule is unknown", changed(OpCode.PROTOCOL, plans.A, 6, 1)),
    ("a protocol rule is unknown", changed(OpCode.PROTOCOL, plans.B, 0)),
    ("a protocol rule is unknown", changed(OpCode.PROTOCOL, plans.B, 6, 1)),
    ("a time limit is out of range", changed(OpCode.TIMEOUT, plans.A, 0)),
    ("a terminal's mode is unknown", changed(OpCode.TERMINAL, plans.A, 0)),
    ("a terminal's mode is unknown", changed(OpCode.TERMINAL, plans.A, 4)),
    ("a namespace is unknown", changed(OpCode.NAMESPACE, plans.A, 0)),
    ("a namespace is unknown", changed(OpCode.NAMESPACE, plans.A, 0x30000000)),  # two of them
    ("a namespace is unknown", changed(OpCode.NAMESPACE, plans.A, 0x100)),  # CLONE_VM
    ("a mount is unknown", changed(OpCode.MOUNT, plans.A, 0)),
    ("a mount is unknown", changed(OpCode.MOUNT, plans.A, 7)),
    ("a mount is unknown", changed(OpCode.MOUNT, plans.B, 0o10000)),
    ("a mount is unknown", changed(OpCode.MOUNT, plans.FLAGS, 32)),
    ("a mount is unknown", with_parts(mount_at_a_relative_path)),
    ("a limit is unknown", changed(OpCode.RLIMIT, plans.A, 16)),
    ("a scheduling policy is unknown", changed(OpCode.SCHEDULING, plans.A, 6)),
    ("a scheduling policy is unknown", changed(OpCode.SCHEDULING, plans.B, 40)),
    ("an oom score is out of range", changed(OpCode.OOM_SCORE, plans.A, 2001)),
    ("a path rule is unknown", changed(OpCode.PATH_RULE, plans.FLAGS, 4)),
    ("a port is out of range", changed(OpCode.PORT_RULE, plans.B, 65536)),
    ("a gate's mode is unknown", changed(OpCode.GATE, plans.A, 2)),
    ("the status format is unknown", changed(OpCode.STATUS, plans.B, 0)),
    ("the status format is unknown", changed(OpCode.STATUS, plans.B, 3)),
    ("the status format is unknown", changed(OpCode.STATUS, plans.C, 4)),
    ("what is told of is unknown", changed(OpCode.TRACE, plans.A, 0)),
    ("what is told of is unknown", changed(OpCode.TRACE, plans.A, 4)),
    ("an allow-list is unknown", changed(OpCode.ALLOW_LIST, plans.A, 8)),
    ("an allow-list is unknown", changed(OpCode.ALLOW_LIST, plans.A, 2**31)),
    ("an allow-list is incomplete", without(OpCode.ALLOW_LIST)),
    ("an allow-list is incomplete", without(OpCode.ALLOW_LIST, OpCode.NOTIFY)),  # rules are left
    ("an allow-list is incomplete", without(OpCode.ALLOW_LIST, OpCode.NET_RULE)),  # the filter asks
    ("an allow-list is incomplete", without(OpCode.NOTIFY)),
    ("a rule is unknown", changed(OpCode.NET_RULE, plans.FLAGS, 8)),
    ("a rule is unknown", changed(OpCode.NET_RULE, plans.FLAGS, 1 | 2)),  # what no rule binds is refused anyway
    ("a rule is unknown", changed(OpCode.NET_RULE, plans.A, 33)),
    ("a rule is unknown", changed(OpCode.NET_RULE, plans.A, 129, 1)),
    ("a rule is unknown", changed(OpCode.NET_RULE, plans.B, 54, 1)),
    ("a rule is unknown", changed(OpCode.NET_RULE, plans.C, 65536)),
    ("a rule is unknown", data_of(OpCode.NET_RULE, b"\x01\0/x\0")),
    ("a rule is unknown", data_of(OpCode.NET_RULE, INET + INET)),
    ("a rule is unknown", data_of(OpCode.NET_RULE, INET6 + INET, 1)),
    ("an address is malformed", data_of(OpCode.NET_RULE, INET6[:-1])),
    ("a manager's socket has no place", data_of(OpCode.MANAGER, b"n")),
    ("a manager's socket has no place", data_of(OpCode.MANAGER, b"")),
    ("a stored name is none", data_of(OpCode.STORE, b"")),
    ("a stored name is none", data_of(OpCode.STORE, b"n" * (MAX_STORED_NAME + 1))),
    ("a text has no place", with_parts(text_at_a_relative_path)),
    ("a text has no place", data_of(OpCode.TEXT_FILE, b"\0text\0")),
    ("a filter has a wrong size", changed(OpCode.NOTIFY, plans.SIZE, 0)),
    ("a filter has a wrong size", long_filter(MAX_FILTER_LENGTH - GATE_LENGTH + 1, OpCode.NOTIFY)),
    ("a mode of streams is unknown", changed(OpCode.STDIO, plans.FLAGS, 3)),
    ("an inherited descriptor is out of range", changed(OpCode.INHERIT, plans.B, 2**31)),
    ("an inherited descriptor is out of range", changed(OpCode.INHERIT, plans.FLAGS, 5)),
    ("an inherited descriptor is out of range", changed(OpCode.INHERIT, plans.FLAGS, 13)),
    ("an inherited descriptor is out of range", changed(OpCode.INHERIT, plans.FLAGS, 24)),
    ("an inherited descriptor is out of range", changed(OpCode.INHERIT, plans.FLAGS, 21)),
    ("an inherited descriptor is out of range", changed(OpCode.INHERIT, plans.FLAGS, 32)),
    ("open flags are unknown", changed(OpCode.FILE, plans.FLAGS, 1)),
    ("open flags are unknown", changed(OpCode.FILE, plans.FLAGS, 16)),
    ("a folder's flags are unknown", changed(OpCode.DIRECTORY, plans.FLAGS, 4)),
    ("open flags are unknown", changed(OpCode.FILE, plans.B, os.O_ACCMODE)),
    ("open flags are unknown", changed(OpCode.FILE, plans.B, os.O_DIRECTORY)),
    ("open flags are unknown", changed(OpCode.FILE, plans.C, 0o1000)),
    ("data comes from an unknown place", changed(OpCode.DATA, plans.FLAGS, 2)),
    ("data comes from an unknown place", changed(OpCode.DATA, plans.FLAGS, 1)),  # a file without a limit
    ("data comes from an unknown place", changed(OpCode.DATA, plans.FLAGS, 0, 1)),
    ("a scratch file has no size", changed(OpCode.SCRATCH, plans.B, 0)),
    ("a network is out of range", changed(OpCode.NETNS, plans.A, 2)),
    ("a network is out of range", changed(OpCode.NETNS, plans.A, 2**31)),
    ("a network is out of range", changed(OpCode.NETNS, plans.B, 2)),
    ("a network is out of range", changed(OpCode.NETNS, plans.B, 2**31)),
    ("a network is out of range", changed(OpCode.NETNS, plans.A, 21)),  # that of B
    ("a network is out of range", changed(OpCode.NETNS, plans.C, 1)),
    ("a number is out of range", changed(OpCode.PLACE, plans.B, 2)),
    ("a number is out of range", changed(OpCode.PLACE, plans.B, 65536, 4)),
    ("a number is out of range", changed(OpCode.PLACE, plans.A, MAX_SLOTS)),
    ("a number is out of range", changed(OpCode.PLACE, plans.FLAGS, 2)),
    ("the umask is out of range", changed(OpCode.UMASK, plans.A, 0o1000)),
    ("a variable has no name", with_parts(variable_without_name)),
    ("a variable's name is none", name_from_a_setting(OpCode.ENV_DROP)),
    ("a variable's name is none", name_from_a_setting(OpCode.ENV_PID)),
    *(("an op comes too often", repeat(code, rule.most + 1)) for code, rule in RULES.items()),
    *(
        ("a mandatory op is missing", repeat(code, 0))
        for code in sorted(MANDATORY)
    ),
    ("a mandatory op is missing", without(OpCode.GATE, OpCode.EXEC_ONCE)),
    ("a descriptor is used twice", changed(OpCode.INHERIT, plans.B, 5, 1)),
    ("a descriptor is used twice", changed(OpCode.INHERIT, plans.B, 4, 1)),  # they must ascend
    ("a descriptor is used twice", changed(OpCode.STATUS, plans.A, 7)),
    ("a descriptor is used twice", changed(OpCode.NETNS, plans.A, 7)),  # a grant's
    ("a descriptor is used twice", changed(OpCode.NETNS, plans.B, 7)),
    ("a descriptor is used twice", changed(OpCode.NETNS, plans.A, 9)),  # of the status
    ("a descriptor is used twice", changed(OpCode.NETNS, plans.B, 9)),
    ("a slot is filled twice", changed(OpCode.FILE, plans.A, 0)),
    ("a number is used twice", changed(OpCode.PLACE, plans.B, 3, 1)),
    ("a number is used twice", changed(OpCode.PLACE, plans.B, 8, 4)),  # they must ascend
    ("a slot is placed that is not filled, or twice", changed(OpCode.PLACE, plans.A, 99)),
    ("a slot is placed that is not filled, or twice", changed(OpCode.PLACE, plans.A, 4, 1)),
    ("a slot is filled and not placed", with_parts(lambda parts: parts.ops.remove(parts.op(OpCode.PLACE)))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "build"), REFUSALS, ids=[f"{at}-{reason.replace(' ', '-')}" for at, (reason, _) in enumerate(REFUSALS)]
)
def test_plan_is_refused_by_both_sides_for_the_same_reason(reason: str, build: Callable[[], bytes]) -> None:
    data = build()
    with pytest.raises(PlanError) as caught:
        wire.decode(data)
    done = check_plan(build_launcher(), data)
    assert (done.returncode, done.stderr) == (125, f"sandbox: plan: {reason}\n")
    assert caught.value.reason == reason


def test_refusals_cover_every_text_of_the_launcher() -> None:
    text = (LAUNCHER_SOURCES / "plan.c").read_text()
    assert {reason for reason, _ in REFUSALS} == set(re.findall(r'(?:return|\?|:) "([^"?]+)"', text))


def test_refused_plan_less_its_fault_is_accepted() -> None:
    """The twins: what the entries above change does no harm by being taken apart and joined again."""
    parts = taken_apart(full_plan())
    assert wire.decode(parts.joined()) == full_plan()
    assert wire.decode(long_filter(MAX_FILTER_LENGTH)()).only(OpCode.FILTER)[0].data
    longest = long_filter(MAX_FILTER_LENGTH - GATE_LENGTH, OpCode.NOTIFY)()
    assert wire.decode(longest).only(OpCode.NOTIFY)[0].data
    assert check_plan(build_launcher(), longest).returncode == 0
    for code, rule in RULES.items():
        if code not in OBTAINING | {OpCode.PLACE, OpCode.SOCKET_OWNER}:
            data = repeat(code, rule.most)()
            assert len(wire.decode(data).only(code)) == rule.most
            assert check_plan(build_launcher(), data).returncode == 0


@pytest.mark.parametrize(
    "build",
    [
        without(OpCode.GATE),
        without(OpCode.EXEC_ONCE),
        changed(OpCode.GATE, plans.A, 0),
        changed(OpCode.STATUS, plans.C, 0),
        changed(OpCode.STATUS, plans.C, 3),
        changed(OpCode.TRACE, plans.A, 3),
        changed(OpCode.ALLOW_LIST, plans.A, 0),
        changed(OpCode.ALLOW_LIST, plans.A, 7),
        without(OpCode.NET_RULE),
        without(OpCode.ALLOW_LIST, OpCode.NET_RULE, OpCode.NOTIFY),
        *(changed(OpCode.NET_RULE, plans.FLAGS, flags) for flags in (0, 1, 2, 4, 5, 6)),
        changed(OpCode.NET_RULE, plans.A, 32),
        changed(OpCode.NET_RULE, plans.B, 53, 1),
        changed(OpCode.NET_RULE, plans.B, 0),
        data_of(OpCode.NET_RULE, INET6),
        data_of(OpCode.TEXT_FILE, b"/\0\0"),
        data_of(OpCode.MANAGER, b"/"),
        data_of(OpCode.STORE, b"n" * MAX_STORED_NAME),
        changed(OpCode.PLACE, plans.FLAGS, 1),
        changed(OpCode.INHERIT, plans.FLAGS, 12),
        changed(OpCode.STDIO, plans.FLAGS, 2),
        changed(OpCode.STDIO, plans.C, 2**32 - 1),
        changed(OpCode.FILE, plans.FLAGS, 8),
        changed(OpCode.DIRECTORY, plans.FLAGS, 3),
        changed(OpCode.NETNS, plans.B, 0),
        changed(OpCode.PROTOCOL, plans.FLAGS, 0),
        changed(OpCode.PROTOCOL, plans.C, 2**32 - 1),
        data_of(OpCode.CONNECT, INET + INET6 + INET),
        data_of(OpCode.CONNECT, b"\x01\0" + b"x" * 107 + b"\0"),
        data_of(OpCode.CONNECT, b"\x01\0\0" + b"\0" * 107),
        data_of(OpCode.CONNECT, b"\x01\0\0x"),
        data_of(OpCode.LISTEN, INET6, 1),
        pair_of(b"\0\0"),
        pair_of(b"a\0\0"),
        pair_of(b"\0b\0"),
        *(changed(OpCode.PROTOCOL, plans.A, place) for place in Place),
        *(changed(OpCode.PROTOCOL, plans.B, shape) for shape in Shape),
    ],
)
def test_plan_with_a_permitted_change_is_accepted_by_both_sides(build: Callable[[], bytes]) -> None:
    data = build()
    assert wire.encode(wire.decode(data)), "it can be encoded again"
    assert check_plan(build_launcher(), data).returncode == 0


def test_plan_with_every_slot_and_number_in_use_is_accepted() -> None:
    slots = range(MAX_SLOTS)
    full = plan_for(
        ["x"],
        grants=[
            *(ops.secret_file(slot, "/s", "") for slot in slots),
            *(ops.place(slot, 65535 - MAX_SLOTS + 1 + slot, "") for slot in slots),
        ],
    )
    data = wire.encode(full)
    assert wire.decode(data) == full
    assert check_plan(build_launcher(), data).returncode == 0


def test_encode_of_a_plan_that_the_launcher_would_refuse_raises() -> None:
    plan = plan_for(["x"], grants=[ops.file(0, "/x", Access.READ, create=False, truncate=False, label="")])
    with pytest.raises(PlanError, match="a slot is filled and not placed"):
        wire.encode(plan)


@pytest.mark.parametrize("plan", [plan_for(["x"]), full_plan()])
def test_plan_truncated_anywhere_is_refused(plan: Plan) -> None:
    data = wire.encode(plan)
    for length in range(len(data)):
        with pytest.raises(PlanError):
            wire.decode(data[:length])


# --- where the bytes come from


def test_plan_sealed_is_accepted() -> None:
    assert check_plan(build_launcher(), wire.encode(full_plan()), ALL_SEALS).returncode == 0


@pytest.mark.parametrize(
    "missing", [fcntl.F_SEAL_WRITE, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_SEAL, ALL_SEALS]
)
def test_plan_less_a_seal_is_refused(missing: int) -> None:
    done = check_plan(build_launcher(), wire.encode(full_plan()), ALL_SEALS & ~missing)
    assert (done.returncode, done.stderr) == (125, "sandbox: plan: it is not a sealed memfd\n")


def test_plan_that_is_no_memfd_is_refused() -> None:
    data = wire.encode(plan_for(["x"]))
    read_end, write_end = os.pipe()
    try:
        with tempfile.TemporaryFile() as file, open(os.devnull, "rb") as null:
            file.write(data)
            file.flush()
            os.write(write_end, data)
            for fd in (file.fileno(), read_end, null.fileno()):
                done = check_plan_fd(build_launcher(), fd)
                assert (done.returncode, done.stderr) == (125, "sandbox: plan: it is not a sealed memfd\n")
    finally:
        os.close(read_end)
        os.close(write_end)


def test_plan_of_no_bytes_is_refused() -> None:
    done = check_plan(build_launcher(), b"")
    assert (done.returncode, done.stderr) == (125, "sandbox: plan: its size is impossible\n")


def run_launcher(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([build_launcher(), *arguments], capture_output=True, text=True, check=False)


def test_plan_on_a_closed_descriptor_is_refused() -> None:
    for arguments in (["--check-plan", "987"], ["987"], ["/dev/fd/987"], ["987", "/dev/fd/988"]):
        done = run_launcher(*arguments)
        assert (done.returncode, done.stderr) == (125, f"sandbox: plan: {events.REASONS[-17]}\n")


@pytest.mark.parametrize(
    "arguments",
    [[], [""], ["-1"], ["3x"], ["99999999999"], ["3", "4"], ["/dev/fd/"], ["/dev/fd/3x"],
     ["3", "/dev/fd/4", "/dev/fd/"], ["--check-plan"], ["--check-plan", "x"], ["--help"],
     ["--check-plan", "3", "4"], ["--obtain"], ["--obtain", "3"], ["--obtain", "2", "3"], ["--obtain", "3", "x"],
     ["--obtain", "3", "4", "5"]],
)  # fmt: skip
def test_launcher_with_other_arguments_refuses(arguments: list[str]) -> None:
    done = run_launcher(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (125, "", "sandbox: usage: Invalid argument\n")


def test_plan_for_another_use_is_refused() -> None:
    launcher = build_launcher()
    for other, before, after in ((OBTAIN, [], []), (full_plan(), ["--obtain"], ["1"])):
        with memfd_holding(wire.encode(other)) as fd:
            done = subprocess.run(
                [launcher, *before, str(fd), *after], pass_fds=[fd], capture_output=True, text=True, check=False
            )
        assert (done.returncode, done.stdout) == (125, "")
        assert done.stderr == "sandbox: plan: it is for another use\n"


# --- status records


def record_bytes(size: int = wire.EVENT_SIZE, text: bytes = b"", source: bytes = b"") -> bytes:
    return struct.pack("<IIQiiiiiii20s160s96s", size, 2, 123, 0, -1, 0, 4, 13, 5, 6, b"", text, source)


def test_record_fields_are_in_the_document_s_order() -> None:
    assert wire.decode_record(record_bytes(text=b"/bin/x", source=b"/bin/sh")) == wire.Record(
        type=2, time_ns=123, pid=0, code=-1, signal=0, op=4, error=13, detail=5, step=6, text="/bin/x", source="/bin/sh"
    )


def test_record_texts_end_at_their_nul_or_their_field_and_keep_their_bytes() -> None:
    record = wire.decode_record(record_bytes(text=b"a\0left over", source=b"s" * 96))
    assert (record.text, record.source) == ("a", "s" * 96)
    record = wire.decode_record(record_bytes(text=b"\xff" * 160))
    assert (os.fsencode(record.text), record.source) == (b"\xff" * 160, "")


@pytest.mark.parametrize(
    "data", [b"", record_bytes()[:64], record_bytes()[:-1], record_bytes() + b"\0", record_bytes(64)]
)
def test_record_of_another_size_is_refused(data: bytes) -> None:
    with pytest.raises(PlanError):
        wire.decode_record(data)
