"""Plans for tests: the smallest one, random ones, and plans' bytes taken apart and put together without any check."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from hypothesis import strategies as st

from sandbox import ops, wire
from sandbox.grants import SAFE_TYPES, STDIO_TYPES, Access, FdType
from sandbox.plan import (
    MAX_SLOTS,
    NOTHING_TOLD,
    ListenFlag,
    ListFlag,
    MountFlag,
    MountKind,
    Namespace,
    NetFlag,
    Op,
    OpCode,
    Plan,
    SocketKind,
    StatusFormat,
    Terminal,
    Trace,
)
from sandbox.protocols import Place, ProtocolRule, Shape

# seccomp(2): one instruction, `return SECCOMP_RET_ALLOW`.
ALLOW_ALL: Final = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)
HEADER: Final = struct.Struct("<8sIIQIIIIII16s")
RECORD: Final = struct.Struct("<HHIIIIIII")
CODE, FLAGS, A, B, C, DATA, SIZE, LABEL, HINT = range(9)
VERSION, HEADER_FLAGS, CHECKSUM, TOTAL, OP_SIZE, COUNT, OP_OFFSET, DATA_OFFSET, DATA_SIZE, RESERVED = range(1, 11)

# struct sockaddr_un, _in and _in6, by hand: what sockets.py makes is held against the kernel elsewhere.
_UNIX_PATH: Final = b"\x01\0/run/some/socket\0"
_UNIX_NAME: Final = b"\x01\0\0abstract"
_INET: Final = b"\x02\0" + b"\x1f\x90" + b"\x7f\0\0\x01" + bytes(8)
_INET6: Final = b"\x0a\0" + b"\x1f\x90" + bytes(4) + bytes(15) + b"\x01" + bytes(4)


def plan_for(
    command: Sequence[str],
    *,
    launcher: Sequence[Op] = (),
    grants: Sequence[Op] = (),
    walls: Sequence[Op] = (),
    attributes: Sequence[Op] = (),
    confinement: Sequence[Op] = (),
    candidates: Sequence[str] | None = None,
    filters: Sequence[bytes] = (ALLOW_ALL,),
    stdio: Sequence[FdType] = tuple(FdType),
    umask: int = 0o22,
    quiet: bool = False,
) -> Plan:
    """Return the plan of the mandatory ops around those given; every op in its place by code.

    Later execs are gated unless `confinement` says what becomes of them.
    """
    if not {op.code for op in confinement} & {OpCode.EXEC_ONCE, OpCode.GATE}:
        confinement = [*confinement, ops.gate()]
    all_ops = [
        *launcher, ops.stdio(stdio), *grants, *walls, ops.capabilities(), ops.sweep(), ops.verify(), ops.signals(),
        ops.umask(umask), *attributes, ops.reset(), ops.no_new_privs(), *confinement,
        *(ops.filter_program(program) for program in filters),
        *(ops.command(path, path) for path in candidates or [command[0]]), ops.execute(command, command[0]),
    ]  # fmt: skip
    return Plan(tuple(sorted(all_ops, key=lambda op: op.code)), quiet)


def full_plan() -> Plan:
    """Return a plan that holds every op there is."""
    return plan_for(
        ["prog", "-x", ""],
        launcher=[
            ops.status(9, StatusFormat.JSON, told=Trace.EXECS),
            ops.die_with_parent(1234),
            ops.trace(),
            ops.timeout(1500),
            ops.terminal(Terminal.PRIVATE),
            ops.cgroup("/sys/fs/cgroup/some"),
            ops.cgroup_set("pids.max", "64"),
            ops.oom_score(500),
            ops.netns(20, 21, "a network"),
            ops.store("state", {FdType.MEMFD}, "grant state: systemd:state"),
            ops.protocol("first", ProtocolRule(Place.VARIABLE, Shape.LIST, "--auth=", "FLAGS", anywhere=True)),
            ops.protocol("second", ProtocolRule(Place.PROGRAM, Shape.FIXED, program="prog", numbers=(3, 31))),
            ops.allow_list(ListFlag.UDP | ListFlag.LOOPBACK),
            ops.net_rule(_INET, 8, (1, 65535), "this host itself", NetFlag.DENY),
            ops.net_rule(_INET6, 128, (53, 53), "udp:[::1]:53", NetFlag.UDP),
            ops.net_rule(_INET, 0, (8080, 8088), "tcp:8080-8088", NetFlag.BIND),
        ],
        grants=[
            ops.inherit(0, 5, SAFE_TYPES, None, "grant a"),
            ops.inherit(1, 7, frozenset({FdType.TTY}), Access.READ_WRITE, "grant b"),
            ops.inherit(13, 8, frozenset({FdType.STREAM}), Access.WRITE, "grant n", relay=True),
            ops.file(2, "/some/file", Access.APPEND, create=True, truncate=False, label="grant c"),
            ops.secret_file(3, "/some/secret", "grant d"),
            ops.secret_env(4, "TOKEN", "grant e"),
            ops.socket_owner(5, 33, 34, "grant f"),
            ops.listen(5, _UNIX_PATH, "grant f", backlog=16, flags=ListenFlag.MODE, mode=0o660),
            ops.listen(6, _INET6, "grant g", backlog=0, flags=ListenFlag.DATAGRAM | ListenFlag.IPV6_ONLY),
            ops.connect(7, _INET + _INET6, "grant h", kind=SocketKind.STREAM, milliseconds=1500),
            ops.connect(8, _UNIX_NAME, "grant i", kind=SocketKind.DATAGRAM),
            ops.directory(9, "/some/folder", write=True, execute=False, label="grant j"),
            ops.data_text(10, "some text", "grant k"),
            ops.data_file(11, "/some/data", 1 << 20, "grant l"),
            ops.scratch(12, 1 << 20, "grant m"),
            *(
                ops.place(slot, number, f"number {number}", propagate=number == 5)
                for slot, number in [
                    (4, 3),
                    (0, 4),
                    (2, 5),
                    (3, 9),
                    (5, 10),
                    (6, 11),
                    (7, 12),
                    (8, 13),
                    (1, 70),
                    (9, 71),
                    (10, 72),
                    (11, 73),
                    (12, 74),
                    (13, 75),
                ]
            ),
        ],
        walls=[
            *(ops.namespace(namespace) for namespace in Namespace),
            ops.identity(1000, 1001),
            ops.hostname("sandbox"),
            ops.loopback(),
            ops.root(),
            ops.mount(MountKind.BIND, "/usr", MountFlag.EXECUTE),
            ops.mount(MountKind.TMPFS, "/tmp", MountFlag.WRITE, mode=0o1777, size=1 << 16),
            ops.mount(MountKind.COPY, "/etc", MountFlag.WRITE | MountFlag.OPTIONAL),
            ops.mount(MountKind.DEV, "/dev", MountFlag.TERMINALS),
            ops.mount(MountKind.PROC, "/proc", MountFlag.PROCESSES),
            ops.mount(MountKind.HIDE, "/etc/shadow"),
            ops.enter(),
            ops.text_file("/etc/hosts", "127.0.0.1 localhost\n"),
            ops.manager("/run/systemd/notify"),
        ],
        attributes=[
            ops.rlimit(7, 1 << 40),
            ops.scheduling(3, -5),
            ops.affinity("0-3,8"),
            ops.chdir("/"),
            ops.env_keep("LC_*"),
            ops.env_set("A", "b=c"),
            ops.env_keep("PATH"),
            ops.env_drop("MAKEFLAGS"),
            ops.env_pid("LISTEN_PID"),
        ],
        confinement=[
            ops.ruleset((1 << 40) - 1, 3, 3),
            ops.path_rule("/usr", 1 << 33, optional=True),
            ops.port_rule(443, 2),
            ops.restrict(),
            ops.exec_once(),
            ops.gate(observe=True),
            ops.notify_program(ALLOW_ALL * 2),
        ],
        candidates=["/bin/prog", "/usr/bin/prog"],
        filters=[ALLOW_ALL, ALLOW_ALL * 3],
        stdio=sorted(STDIO_TYPES),
    )


@dataclass(slots=True)
class Parts:
    """A plan's bytes, taken apart: what a record's data offsets mean does not depend on the number of ops."""

    ops: list[list[int]]
    area: bytes
    quiet: bool = False

    def op(self, code: OpCode, nth: int = 0) -> list[int]:
        """Return the fields of the nth op of that code."""
        return [fields for fields in self.ops if fields[CODE] == code][nth]

    def joined(self, overrides: dict[int, int | bytes] | None = None, *, fix: bool = True) -> bytes:
        """Return the bytes, some header fields replaced, with a checksum that is right unless fix is False."""
        body = b"".join(RECORD.pack(*fields) for fields in self.ops) + self.area
        ops_end = HEADER.size + RECORD.size * len(self.ops)
        header: list[int | bytes] = [
            wire.MAGIC, wire.VERSION, int(self.quiet), 0, HEADER.size + len(body), RECORD.size, len(self.ops),
            HEADER.size, ops_end, len(self.area), b"",
        ]  # fmt: skip
        for index, value in (overrides or {}).items():
            header[index] = value
        data = HEADER.pack(*header) + body
        return with_checksum(data) if fix else data


def taken_apart(plan: Plan) -> Parts:
    """Return the parts of an encoded plan."""
    data = wire.encode(plan)
    count = HEADER.unpack_from(data)[COUNT]
    records = [list(RECORD.unpack_from(data, HEADER.size + RECORD.size * index)) for index in range(count)]
    return Parts(records, data[HEADER.size + RECORD.size * count :], plan.quiet)


def less(plan: Plan, *codes: OpCode) -> bytes:
    """Return the plan's bytes less all ops of these codes; no check of ours sees them."""
    parts = taken_apart(plan)
    parts.ops = [fields for fields in parts.ops if fields[CODE] not in codes]
    return parts.joined()


def with_checksum(data: bytes) -> bytes:
    """Return the same bytes with their checksum in its place, by the document's formula."""
    value = 0x9E3779B97F4A7C15
    for at in range(0, len(data) - 7, 8):
        word = 0 if at == 16 else int.from_bytes(data[at : at + 8], "little")
        value = ((value ^ word) * 0xFF51AFD7ED558CCD) % 2**64
        value = (value << 29 | value >> 35) % 2**64
    return data[:16] + value.to_bytes(8, "little") + data[24:] if len(data) >= 24 else data


_TEXT = st.text(st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]), max_size=20)
_BYTES_TEXT = st.binary(max_size=20).map(lambda data: data.replace(b"\0", b"?")).map(os.fsdecode)
_NAME = st.text("ABCDEFXYZ_", min_size=1, max_size=8)
_TOLD = st.sampled_from([NOTHING_TOLD, Trace.EXECS, Trace.NETWORK, Trace.EXECS | Trace.NETWORK])
_FORMATS = st.sampled_from(list(StatusFormat))
_LENGTHS = st.integers(1, 5)
_HOW = st.sampled_from([{}, {"raw": True}, {"relay": True}])
_TYPES = st.frozensets(st.sampled_from(list(FdType)))


_SOCKADDRS = st.builds(
    lambda port, host: (
        b"\x02\0" + port + host[:4] + bytes(8) if len(host) < 16 else b"\x0a\0" + port + bytes(4) + host[:16] + bytes(4)
    ),
    st.binary(min_size=2, max_size=2),
    st.sampled_from([4, 16]).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
)
_NAMES = st.binary(min_size=1, max_size=107)
_ADDRESSES = (
    _SOCKADDRS
    | _NAMES.map(lambda name: b"\x01\0" + name.replace(b"\0", b"/") + b"\0")
    | _NAMES.map(lambda name: b"\x01\0\0" + name)
)
_SEVERAL = st.lists(_SOCKADDRS, min_size=1, max_size=3).map(b"".join)


@st.composite
def _obtaining(draw: st.DrawFn, slots: Sequence[int], status: int | None) -> list[Op]:
    count = draw(st.integers(0, len(slots)))
    numbers = st.integers(0, 2**31 - 1).filter(lambda number: number != status)
    sources = sorted(draw(st.sets(numbers | st.integers(3, 9).filter(lambda n: n != status), max_size=count)))
    access = st.sampled_from(list(Access))
    found = [
        ops.inherit(slot, fd, draw(_TYPES), draw(st.none() | access), draw(_TEXT), **draw(_HOW))
        for slot, fd in zip(slots, sources, strict=False)
    ]
    for slot in slots[len(found) :]:
        path, label = draw(_BYTES_TEXT), draw(_TEXT)
        found.append(
            draw(
                st.sampled_from(
                    [
                        ops.file(
                            slot,
                            path,
                            draw(access),
                            create=draw(st.booleans()),
                            truncate=False,
                            label=label,
                            raw=draw(st.booleans()),
                        ),
                        ops.directory(slot, path, write=draw(st.booleans()), execute=draw(st.booleans()), label=label),
                        ops.secret_file(slot, path, label),
                        ops.secret_env(slot, path, label),
                        ops.listen(slot, draw(_ADDRESSES), label, backlog=draw(st.integers(1, 65535))),
                        ops.connect(
                            slot,
                            draw(_ADDRESSES | _SEVERAL),
                            label,
                            kind=SocketKind.STREAM,
                            milliseconds=draw(st.integers(1, 2**32 - 1)),
                        ),
                        ops.data_text(slot, path, label),
                        ops.data_file(slot, path, draw(st.integers(1, 2**32 - 1)), label),
                        ops.scratch(slot, draw(st.integers(1, 1 << 41)), label),
                    ]
                )
            )
        )
    return found


_RULES = st.builds(
    ProtocolRule,
    place=st.sampled_from(Place),
    shape=st.sampled_from(Shape),
    needle=_BYTES_TEXT,
    variable=_NAME | st.just(""),
    program=_BYTES_TEXT,
    anywhere=st.booleans(),
    numbers=st.sets(st.integers(3, 31), max_size=3).map(sorted).map(tuple),
)
_KINDS = st.sampled_from([0, NetFlag.DENY, NetFlag.BIND, NetFlag.UDP, NetFlag.UDP | NetFlag.DENY])
_NET_RULES = st.builds(
    lambda address, prefix, ports, label, kind: ops.net_rule(
        address, prefix % (33 if address[0] == 2 else 129), (min(ports), max(ports)), label, kind
    ),
    _SOCKADDRS,
    st.integers(0, 128),
    st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    _TEXT,
    _KINDS,
)
_LISTS = st.builds(ops.allow_list, st.integers(0, sum(ListFlag)))
# At least one of the two: without both, later execs would be unwatched.
_LATER_EXECS = st.sampled_from(
    [[ops.exec_once()], [ops.gate()], [ops.gate(observe=True)], [ops.exec_once(), ops.gate()]]
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw a plan that the launcher accepts."""
    status = draw(st.none() | st.integers(0, 2**32 - 1))
    slots = draw(st.lists(st.integers(0, MAX_SLOTS - 1), unique=True, max_size=6))
    numbers = draw(st.sets(st.integers(3, 65535) | st.integers(3, 12), min_size=len(slots), max_size=len(slots)))
    order = draw(st.permutations(slots))
    supervision = draw(st.lists(_LISTS, max_size=1))
    drawn = plan_for(
        [draw(_BYTES_TEXT) for _ in range(draw(st.integers(1, 4)))],
        launcher=[
            *([] if status is None else [ops.status(status, draw(_FORMATS), told=draw(_TOLD))]),
            *draw(st.lists(st.builds(ops.die_with_parent, st.integers(0, 2**31 - 1)), max_size=1)),
            *draw(st.lists(st.builds(ops.trace, _TOLD.filter(bool)), max_size=1)),
            *draw(st.lists(st.builds(ops.protocol, _TEXT, _RULES), max_size=4)),
            *supervision,
            *(draw(st.lists(_NET_RULES, max_size=4)) if supervision else []),
        ],
        walls=draw(st.lists(st.builds(ops.text_file, _BYTES_TEXT.map("/{}".format), _BYTES_TEXT), max_size=2)),
        grants=[
            *draw(_obtaining(slots, status)),
            *(
                ops.place(slot, number, draw(_TEXT), propagate=draw(st.booleans()))
                for slot, number in zip(order, sorted(numbers), strict=True)
            ),
        ],
        attributes=[
            *draw(st.lists(st.builds(ops.chdir, _BYTES_TEXT), max_size=1)),
            *draw(st.lists(st.builds(ops.env_keep, _BYTES_TEXT), max_size=3)),
            *draw(st.lists(st.builds(ops.env_set, _NAME, _BYTES_TEXT), max_size=3)),
        ],
        confinement=[*draw(_LATER_EXECS), *(ops.notify_program(ALLOW_ALL * draw(_LENGTHS)) for _ in supervision)],
        candidates=draw(st.lists(_BYTES_TEXT, min_size=1, max_size=3)),
        filters=draw(st.lists(_LENGTHS.map(lambda count: ALLOW_ALL * count), min_size=1, max_size=4)),
        stdio=sorted(draw(_TYPES)),
        umask=draw(st.integers(0, 0o777)),
        quiet=draw(st.booleans()),
    )
    point = draw(st.booleans())
    return replace(drawn, point=point, ops=tuple(replace(op, label=_printable(op.label)) for op in drawn.ops))


def _printable(label: str) -> str:
    """Return a label as a message shows it; encoding makes it so, and would otherwise change the plan."""
    return os.fsencode(label).decode("utf-8", "backslashreplace").replace("\n", "\\n")


def mandatory_rules_hold(plan: Plan) -> bool:
    """Say the format's mandatory rules once more, in other words than wire.py's."""
    codes = [int(op.code) for op in plan.ops]
    once = [0x0301, 0x0502, 0x0503, 0x0601, 0x0602, 0x0408, 0x0606, 0x0701, 0x0802]
    at_most_once = [0x0101, 0x0102, 0x0103, 0x010A, 0x0603, 0x0706, 0x0707, 0x0709]
    rules = [op for op in plan.ops if op.code == 0x0104]
    filled = sorted(op.a for op in plan.ops if 0x0302 <= op.code <= 0x03FF and op.code != 0x0310)
    placed = sorted(op.a for op in plan.ops if op.code == 0x0501)
    numbers = [op.b for op in plan.ops if op.code == 0x0501]
    return (
        codes == sorted(codes)
        and all(codes.count(code) == 1 for code in once)
        and all(codes.count(code) <= 1 for code in at_most_once)
        and (0x0706 in codes or 0x0707 in codes)
        and 1 <= codes.count(0x0708) <= 4
        and 1 <= codes.count(0x0801) <= 64
        and filled == placed == sorted(set(filled))
        and all(low < high for low, high in itertools.pairwise(numbers))
        and all(3 <= number <= 65535 for number in numbers)
        and len(rules) <= 256
        and all(1 <= op.a <= 5 and 1 <= op.b <= 5 and op.flags <= 1 and op.data.count(0) == 2 for op in rules)
        and all(op.a <= 1 for op in plan.ops if op.code == 0x0707)
        and all(op.flags <= 1 for op in plan.ops if op.code == 0x0501)
        and all(op.c <= 3 for op in plan.ops if op.code == 0x0101)
        and all(1 <= op.a <= 3 for op in plan.ops if op.code == 0x0103)
        and (0x010A in codes) is (0x0709 in codes)
        and (0x010A in codes or 0x010B not in codes)
        and all(op.a <= 7 for op in plan.ops if op.code == 0x010A)
        and all(_net_rule_holds(op) for op in plan.ops if op.code == 0x010B)
        and all(op.data[:1] == b"/" and op.data.count(0) == 2 for op in plan.ops if op.code == 0x0409)
        and all(0 < len(op.data) <= 8 * (4096 - 25) for op in plan.ops if op.code == 0x0709)
    )


def _net_rule_holds(op: Op) -> bool:
    bits = {(2, 16): 32, (10, 28): 128}.get((int.from_bytes(op.data[:2], "little"), len(op.data)), -1)
    return op.flags < 8 and op.flags & 3 != 3 and op.a <= bits and op.b <= op.c <= 65535
