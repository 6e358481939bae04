"""Plan <-> bytes, and events <- bytes. docs/plan-format.md is the layout; plan.c and report.h the other side."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sandbox.errors import PlanError
from sandbox.grants import FIRST_NUMBER, LAST_NUMBER
from sandbox.plan import (
    ACCESS_BITS,
    DATA_FILE,
    GATE_LENGTH,
    MAX_ARGS,
    MAX_FILTER_LENGTH,
    MAX_SLOTS,
    MAX_STORED_NAME,
    OBTAINING,
    OPEN_RAW,
    OPEN_RELAY,
    RLIMIT_NAMES,
    RULES,
    Data,
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
    Streams,
    Terminal,
    Trace,
)
from sandbox.protocols import Place, Shape
from sandbox.sockets import AF_INET6, AF_UNIX, MAX_PORT, split_sockaddrs

MAGIC: Final = b"SBXPLAN\n"
VERSION: Final = 1
QUIET: Final = 1
OBTAIN: Final = 2
POINT: Final = 256
MAX_SIZE: Final = 16 << 20
_HEADER: Final = struct.Struct("<8sIIQIIIIII16s")
_OP: Final = struct.Struct("<HHIIIIIII")
_EVENT: Final = struct.Struct("<IIQiiiiiii20s160s96s")
_CHECKSUM_WORD: Final = 2
_MASK: Final = (1 << 64) - 1
_OPEN_FLAGS: Final = os.O_ACCMODE | os.O_APPEND | os.O_CREAT | os.O_TRUNC
_MOUNT_FLAGS: Final = sum(MountFlag)
HEADER_SIZE: Final = _HEADER.size
OP_SIZE: Final = _OP.size
EVENT_SIZE: Final = _EVENT.size


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the status descriptor, as the launcher wrote it (struct event)."""

    type: int
    time_ns: int
    pid: int
    code: int
    signal: int
    op: int
    error: int
    detail: int
    step: int
    text: str = ""
    source: str = ""


def checksum(data: bytes | bytearray, skipped: int = _CHECKSUM_WORD) -> int:
    """Return the checksum of bytes: over 64-bit words, the one at index `skipped`, its own, taken as zero."""
    value = 0x9E3779B97F4A7C15
    for index, (word,) in enumerate(struct.iter_unpack("<Q", data)):
        value = ((value ^ (0 if index == skipped else word)) * 0xFF51AFD7ED558CCD) & _MASK
        value = ((value << 29) | (value >> 35)) & _MASK
    return value


class _DataArea:
    """The area behind the ops: offset 0 is the empty text; equal texts are stored once."""

    def __init__(self) -> None:
        self.bytes = bytearray(b"\0" * 8)
        self._offsets: dict[bytes, int] = {b"\0": 0}

    def add(self, data: bytes) -> int:
        if data not in self._offsets:
            self.bytes += b"\0" * (-len(self.bytes) % 8)
            self._offsets[data] = len(self.bytes)
            self.bytes += data
        return self._offsets[data]

    def add_text(self, text: bytes) -> int:
        return self.add(text + b"\0")


def _message(text: str) -> bytes:
    """A label or hint as the launcher prints it: one line, valid UTF-8, bounded."""
    clean = os.fsencode(text).decode("utf-8", "backslashreplace").replace("\0", "\\0").replace("\n", "\\n")
    return clean[:300].encode()


class Packable(Protocol):
    """What one record of 32 bytes is made of: an op's fields, or those of a template's item."""

    @property
    def code(self) -> int:
        """Its code."""

    @property
    def fields(self) -> tuple[int, int, int, int]:
        """The flags, a, b and c."""

    @property
    def data(self) -> bytes:
        """Its data; a text's NUL is not there."""

    @property
    def label(self) -> str:
        """The object of a message."""

    @property
    def hint(self) -> str:
        """The advice of a message."""

    @property
    def kind(self) -> Data:
        """What the data is."""


def pack(records: Sequence[Packable], magic: bytes, flags: int) -> bytes:
    """Lay records out as a plan's bytes, with a header that begins with `magic`; nothing is checked."""
    area = _DataArea()
    packed = bytearray()
    for one in records:
        data = area.add_text(one.data) if one.kind is Data.TEXT else area.add(one.data) if one.data else 0
        label, hint = area.add_text(_message(one.label)), area.add_text(_message(one.hint))
        packed += _OP.pack(one.code, *one.fields, data, len(one.data), label, hint)
    area.bytes += b"\0" * (8 - len(area.bytes) % 8)
    size = HEADER_SIZE + len(packed) + len(area.bytes)

    def header(total: int) -> bytes:
        return _HEADER.pack(
            magic, VERSION, flags, total, size, OP_SIZE, len(records), HEADER_SIZE,
            HEADER_SIZE + len(packed), len(area.bytes), b"",
        )  # fmt: skip

    body = bytes(packed) + bytes(area.bytes)
    return header(checksum(header(0) + body)) + body


def encode(plan: Plan) -> bytes:
    """Encode a plan.

    Returns: its bytes, a multiple of 8.
    Raises: PlanError if the launcher would refuse it.
    """
    encoded = pack(plan.ops, MAGIC, QUIET * plan.quiet | OBTAIN * plan.obtain | POINT * plan.point)
    decode(encoded)
    return encoded


def decode(data: bytes) -> Plan:
    """Decode and check a plan by the rules of the launcher's plan_check().

    Raises: PlanError if it is malformed, out of order, or lacks a mandatory op.
    """
    flags, op_count, area = check_header(data, MAGIC)
    ops = tuple(_decode_op(data, index, area) for index in range(op_count))
    for earlier, later in itertools.pairwise(ops):
        if later.code < earlier.code:
            raise _refuse("an op is out of order")
    _check_counts(ops, whole=not flags & OBTAIN)
    if flags & OBTAIN:
        _check_obtaining(ops)
    else:
        _check_later_execs(ops)
    _check_list({op.code for op in ops})
    _check_joined(ops)
    _check_slots(ops, placing=not flags & OBTAIN)
    return Plan(ops, quiet=bool(flags & QUIET), obtain=bool(flags & OBTAIN), point=bool(flags & POINT))


def _refuse(reason: str) -> PlanError:
    return PlanError("", reason)


def check_header(data: bytes, magic: bytes) -> tuple[int, int, bytes]:
    """Return flags, number of records and data area of bytes that pack() has laid out.

    Raises: PlanError if they are damaged, or something else.
    """
    if not HEADER_SIZE <= len(data) <= MAX_SIZE:
        raise _refuse("its size is impossible")
    found, version, flags, total, size, op_size, count, op_offset, data_offset, data_size, reserved = (
        _HEADER.unpack_from(data)
    )
    ops_end = HEADER_SIZE + count * OP_SIZE
    checks = (
        (found == magic, "this is not a plan"),
        (version == VERSION, "it has another format version"),
        (size == len(data) and size % 8 == 0, "it is truncated"),
        (op_size == OP_SIZE and op_offset == HEADER_SIZE, "its ops have another layout"),
        (ops_end <= size and data_offset == ops_end and data_size == size - ops_end, "its areas do not fit"),
        (not flags & ~(QUIET | OBTAIN | POINT) and not any(reserved), "a reserved field is used"),
        (data_size > 0, "its data area is empty"),
        (len(data) % 8 != 0 or checksum(data) == total, "its checksum does not match"),
        (data[-1] == 0, "its data area is not ended"),
    )
    for holds, reason in checks:
        if not holds:
            raise _refuse(reason)
    return flags, count, data[ops_end:]


def c_string(area: bytes, offset: int) -> bytes:
    """Return the text at an offset, without its NUL."""
    return area[offset : area.index(b"\0", offset)]


def record_of(data: bytes, index: int) -> tuple[int, ...]:
    """Return the fields of a record: code, flags, a, b, c, data's offset and size, label's and hint's offset."""
    return _OP.unpack_from(data, HEADER_SIZE + index * OP_SIZE)


def _decode_op(data: bytes, index: int, area: bytes) -> Op:
    code, flags, a, b, c, offset, length, label, hint = record_of(data, index)
    if code not in RULES:
        raise _refuse("an op is unknown")
    if label >= len(area) or hint >= len(area):
        raise _refuse("a message lies outside the data area")
    payload = _decode_data(area, OpCode(code), a, offset, length)
    texts = (os.fsdecode(c_string(area, at)) for at in (label, hint))
    op = Op(OpCode(code), a, b, c, flags, payload, *texts)
    _check_fields(op)
    return op


def _decode_data(area: bytes, code: OpCode, count: int, offset: int, length: int) -> bytes:
    kind = RULES[code].data
    if kind is Data.NONE:
        if offset or length:
            raise _refuse("an op carries data that it does not take")
        return b""
    # A text is followed by a NUL that its length does not count.
    room = len(area) - offset - (kind is Data.TEXT)
    payload = area[offset : offset + length]
    if offset >= len(area) or length > room or (kind is Data.FILTER and offset % 8):
        raise _refuse(f"{_DATA_WORDS[kind]} lies outside the data area".replace("arguments lies", "arguments lie"))
    if code is OpCode.NOTIFY and length // 8 > MAX_FILTER_LENGTH - GATE_LENGTH:
        raise _refuse("a filter has a wrong size")
    reason = _DATA_CHECKS[kind](area, payload, offset, count)
    if reason:
        raise _refuse(reason)
    return payload


def _text_reason(area: bytes, payload: bytes, offset: int, _: int) -> str:
    return "" if c_string(area, offset) == payload else "a text is not ended where it should be"


def _filter_reason(_: bytes, payload: bytes, __: int, ___: int) -> str:
    size = len(payload)
    return "a filter has a wrong size" if not size or size % 8 or size // 8 > MAX_FILTER_LENGTH else ""


def _argv_reason(_: bytes, payload: bytes, __: int, count: int) -> str:
    if not payload:
        return "the arguments lie outside the data area"
    if payload[-1] != 0:
        return "the arguments are not ended"
    return "the number of arguments is wrong" if payload.count(0) != count or count > MAX_ARGS else ""


def _pair_reason(_: bytes, payload: bytes, __: int, ___: int) -> str:
    if not payload:
        return "a pair of texts lies outside the data area"
    return "a pair of texts is not ended where it should be" if payload.count(0) != 2 or payload[-1] else ""


def _address_reason(_: bytes, payload: bytes, __: int, ___: int) -> str:
    return "" if split_sockaddrs(payload) else "an address is malformed"


_DATA_WORDS: Final = {
    Data.ADDRESS: "an address",
    Data.TEXT: "a text", Data.FILTER: "a filter", Data.ARGV: "the arguments", Data.PAIR: "a pair of texts",
}  # fmt: skip
_DATA_CHECKS: Final[dict[Data, Callable[[bytes, bytes, int, int], str]]] = {
    Data.ADDRESS: _address_reason,
    Data.TEXT: _text_reason, Data.FILTER: _filter_reason, Data.ARGV: _argv_reason, Data.PAIR: _pair_reason,
}  # fmt: skip


_UNIX: Final = AF_UNIX.to_bytes(2, "little")
_NOBODY: Final = 2**32 - 1  # chown(2): leave it as it is
_LISTEN_FLAGS: Final = sum(ListenFlag)


def _listen_is_wrong(op: Op, family: int) -> bool:
    datagram, mode = op.flags & ListenFlag.DATAGRAM, op.flags & ListenFlag.MODE
    is_path = family == AF_UNIX and op.data[2] != 0
    return bool(
        op.flags & ~_LISTEN_FLAGS
        or op.b > (0o777 if mode else 0)
        or bool(op.c) is bool(datagram)
        or op.c > 65535
        or (mode and not is_path)
        or (op.flags & ListenFlag.IPV6_ONLY and family != AF_INET6)
        or (family == AF_UNIX and op.flags & (ListenFlag.DATAGRAM | ListenFlag.REUSE_PORT))
        or len(split_sockaddrs(op.data) or ()) != 1
    )


def _rule_is_wrong(op: Op, family: int) -> bool:
    return bool(
        op.flags > sum(NetFlag)
        or (op.flags & NetFlag.DENY and op.flags & NetFlag.BIND)
        or not op.b <= op.c <= MAX_PORT
        or family == AF_UNIX
        or len(split_sockaddrs(op.data) or ()) != 1
        or op.a > (128 if family == AF_INET6 else 32)
    )


def _joined_is_wrong(namespace: int, keeper: int) -> bool:
    return not all(FIRST_NUMBER <= fd < 2**31 for fd in (namespace, keeper or FIRST_NUMBER)) or namespace == keeper


# What makes an op's fields wrong, and the words for it; plan.c, check_fields(), says the same.
_FIELDS: Final[dict[OpCode, tuple[Callable[[Op], object], str]]] = {
    OpCode.PROTOCOL: (
        lambda op: op.flags > 1 or op.a not in tuple(Place) or op.b not in tuple(Shape), "a protocol rule is unknown"
    ),
    OpCode.TIMEOUT: (lambda op: not op.a, "a time limit is out of range"),
    OpCode.TERMINAL: (lambda op: op.a not in tuple(Terminal) or not op.a, "a terminal's mode is unknown"),
    OpCode.NAMESPACE: (lambda op: op.a not in tuple(Namespace), "a namespace is unknown"),
    OpCode.MOUNT: (
        lambda op: (
            op.flags & ~_MOUNT_FLAGS or op.a not in tuple(MountKind) or op.b > 0o7777 or not op.data.startswith(b"/")
        ),
        "a mount is unknown",
    ),
    OpCode.RLIMIT: (lambda op: op.a not in RLIMIT_NAMES, "a limit is unknown"),
    OpCode.SCHEDULING: (lambda op: op.a > 5 or op.b > 39, "a scheduling policy is unknown"),
    OpCode.OOM_SCORE: (lambda op: op.a > 2000, "an oom score is out of range"),
    OpCode.PATH_RULE: (lambda op: op.flags > 3, "a path rule is unknown"),
    OpCode.PORT_RULE: (lambda op: op.b > 65535, "a port is out of range"),
    OpCode.GATE: (lambda op: op.a > 1, "a gate's mode is unknown"),
    OpCode.STATUS: (lambda op: op.b not in tuple(StatusFormat) or op.c > sum(Trace), "the status format is unknown"),
    OpCode.TRACE: (lambda op: not 0 < op.a <= sum(Trace), "what is told of is unknown"),
    OpCode.ALLOW_LIST: (lambda op: op.a > sum(ListFlag), "an allow-list is unknown"),
    OpCode.NET_RULE: (lambda op: _rule_is_wrong(op, int.from_bytes(op.data[:2], "little")), "a rule is unknown"),
    OpCode.NETNS: (lambda op: op.c or _joined_is_wrong(op.a, op.b), "a network is out of range"),
    OpCode.MANAGER: (lambda op: not op.data.startswith(b"/"), "a manager's socket has no place"),
    OpCode.STORE: (lambda op: not 0 < len(op.data) <= MAX_STORED_NAME, "a stored name is none"),
    OpCode.TEXT_FILE: (lambda op: not op.data.startswith(b"/"), "a text has no place"),
    OpCode.STDIO: (lambda op: op.flags not in tuple(Streams), "a mode of streams is unknown"),
    OpCode.INHERIT: (
        lambda op: op.flags > OPEN_RELAY | ACCESS_BITS or op.flags & ACCESS_BITS > 4 or op.b > 2**31 - 1,
        "an inherited descriptor is out of range",
    ),
    OpCode.FILE: (
        lambda op: (
            op.flags & ~OPEN_RAW or op.b & ~_OPEN_FLAGS or op.b & os.O_ACCMODE == os.O_ACCMODE or op.c > 0o777
        ),
        "open flags are unknown",
    ),
    OpCode.DIRECTORY: (lambda op: op.flags > MountFlag.WRITE | MountFlag.EXECUTE, "a folder's flags are unknown"),
    OpCode.SOCKET_OWNER: (lambda op: _NOBODY in (op.b, op.c), "an owner is out of range"),
    OpCode.LISTEN: (
        lambda op: _listen_is_wrong(op, int.from_bytes(op.data[:2], "little")), "a listening socket is unknown"
    ),
    OpCode.CONNECT: (
        lambda op: op.b not in tuple(SocketKind) or bool(op.c) is not (op.b == SocketKind.STREAM),
        "a connection is unknown",
    ),
    OpCode.DATA: (
        lambda op: op.flags > DATA_FILE or (not op.flags) != (not op.b), "data comes from an unknown place"
    ),
    OpCode.SCRATCH: (lambda op: not op.b, "a scratch file has no size"),
    OpCode.PLACE: (
        lambda op: op.flags > 1 or op.a >= MAX_SLOTS or not FIRST_NUMBER <= op.b <= LAST_NUMBER,
        "a number is out of range",
    ),
    OpCode.UMASK: (lambda op: op.a > 0o777, "the umask is out of range"),
    OpCode.ENV_DROP: (lambda op: not op.data or b"=" in op.data, "a variable's name is none"),
    OpCode.ENV_PID: (lambda op: not op.data or b"=" in op.data, "a variable's name is none"),
    OpCode.ENV_SET: (lambda op: op.data.find(b"=") <= 0, "a variable has no name"),
}  # fmt: skip
_FLAGGED: Final = frozenset(
    {
        OpCode.STDIO, OpCode.INHERIT, OpCode.FILE, OpCode.DIRECTORY, OpCode.PROTOCOL, OpCode.PLACE, OpCode.MOUNT,
            OpCode.PATH_RULE, OpCode.DATA, OpCode.LISTEN, OpCode.NET_RULE,
    }
)  # fmt: skip


def _check_fields(op: Op) -> None:
    if op.code in OBTAINING | {OpCode.SOCKET_OWNER} and op.a >= MAX_SLOTS:
        raise _refuse("a slot is out of range")
    if op.flags and op.code not in _FLAGGED:
        raise _refuse("an op carries flags that it does not take")
    if op.code in _FIELDS:
        is_wrong, reason = _FIELDS[op.code]
        if is_wrong(op):
            raise _refuse(reason)


def _check_counts(ops: tuple[Op, ...], *, whole: bool) -> None:
    for code, rule in RULES.items():
        count = sum(op.code is code for op in ops)
        if count > rule.most:
            raise _refuse("an op comes too often")
        if whole and count < rule.least:
            raise PlanError(code.name.lower(), "a mandatory op is missing")


def _check_list(codes: set[OpCode]) -> None:
    """The supervisor is asked, and has rules to answer by, or neither."""
    has_list = OpCode.ALLOW_LIST in codes
    if has_list is not (OpCode.NOTIFY in codes) or (OpCode.NET_RULE in codes and not has_list):
        raise _refuse("an allow-list is incomplete")


def _check_joined(ops: tuple[Op, ...]) -> None:
    """What a network is joined by is nothing else."""
    for joined in (op for op in ops if op.code is OpCode.NETNS):
        used = {op.b for op in ops if op.code is OpCode.INHERIT} | {op.a for op in ops if op.code is OpCode.STATUS}
        if {joined.a, joined.b or joined.a} & used:
            raise _refuse("a descriptor is used twice")


def _check_obtaining(ops: tuple[Op, ...]) -> None:
    """Nothing but obtaining, and something of it."""
    if any(op.code not in OBTAINING | {OpCode.STATUS} for op in ops):
        raise _refuse("an op has no place in a plan that only obtains")
    if not any(op.code in OBTAINING for op in ops):
        raise _refuse("a mandatory op is missing")


def _check_later_execs(ops: tuple[Op, ...]) -> None:
    """Later execs are watched, or there are none."""
    if not any(op.code in (OpCode.GATE, OpCode.EXEC_ONCE) for op in ops):
        raise PlanError("gate", "a mandatory op is missing")


def _check_slots(ops: tuple[Op, ...], *, placing: bool) -> None:
    sources = [op.b for op in ops if op.code is OpCode.INHERIT]
    status = [op.a for op in ops if op.code is OpCode.STATUS]
    numbers = [op.b for op in ops if op.code is OpCode.PLACE]
    filled = [op.a for op in ops if op.code in OBTAINING]
    placed = [op.a for op in ops if op.code is OpCode.PLACE]
    if sources != sorted(set(sources)) or set(sources) & set(status):
        raise _refuse("a descriptor is used twice")
    if len(filled) != len(set(filled)):
        raise _refuse("a slot is filled twice")
    if numbers != sorted(set(numbers)):
        raise _refuse("a number is used twice")
    if len(placed) != len(set(placed)) or set(placed) - set(filled):
        raise _refuse("a slot is placed that is not filled, or twice")
    if placing and set(filled) - set(placed):
        raise _refuse("a slot is filled and not placed")
    owned = [op.a for op in ops if op.code is OpCode.SOCKET_OWNER]
    paths = {op.a for op in ops if op.code is OpCode.LISTEN and op.data[:2] == _UNIX and op.data[2]}
    if len(owned) != len(set(owned)) or set(owned) - paths:
        raise _refuse("an owner is of no socket file, or of one that has two")


def decode_record(data: bytes) -> Record:
    """Decode one record of the status descriptor.

    Raises: PlanError if it is not EVENT_SIZE bytes of this version's layout.
    """
    if len(data) != EVENT_SIZE:
        raise PlanError("status record", f"it has {len(data)} bytes, not {EVENT_SIZE}")
    size, kind, *fields = _EVENT.unpack(data)
    if size != EVENT_SIZE:
        raise PlanError("status record", "launcher and library are of different versions")
    *numbers, _, text, source = fields
    values = [kind, *numbers, _cut(text), _cut(source)]
    return Record(*values)


def _cut(text: bytes) -> str:
    return os.fsdecode(text.partition(b"\0")[0])
