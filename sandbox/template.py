"""The template: a plan but for what only the start can tell, as a frozen value, and its bytes.

A template is records in the layout of a plan's (docs/template-format.md): ops, and items, which stand for what the
launcher puts in at the start. sandbox/launcher/template.def is the other side of the table; a test holds both together.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from sandbox import wire
from sandbox.errors import PlanError
from sandbox.plan import DATA_FILE, RULES, Data, Op, OpCode, Record

MAGIC: Final = b"SBXTMPL\n"
PLACEHOLDERS: Final = ("home", "cwd", "runtime_dir", "tmp")
# A placeholder has a slash of its own before it: it stands for a path from its root on.
STAND_INS: Final = {name: f"/{{{name}}}" for name in PLACEHOLDERS}
_STAND_IN: Final = re.compile(r"/\{(" + "|".join(PLACEHOLDERS) + r")\}")
EXPANDS: Final = 0x8000  # flags of a record: its texts hold placeholders
VARIES: Final = 0x4000  # flags of ENV_SET and ENV_PID: by what a service manager has stored, as field a says
ACTIVATED: Final = 1 << 31  # field b of STORED, beside its number: activation tells of it
SCHEDULING_CALLERS_POLICY: Final = 1
SCHEDULING_CALLERS_NICE: Final = 2
# Ops whose data is a path; DATA's is one only where it copies a file.
_PATHS: Final = frozenset(
    {OpCode.FILE, OpCode.SECRET_FILE, OpCode.DIRECTORY, OpCode.DATA, OpCode.LISTEN, OpCode.CONNECT, OpCode.CHDIR}
)


class ItemCode(enum.IntEnum):
    """What a template holds besides ops; its codes lie between STATUS's phase and the one that obtains."""

    NEEDS = 0x0201
    VIEW = 0x0202
    ENTRY = 0x0203
    ACTIVATED = 0x0204
    NOTIFY = 0x0205
    CARRIED = 0x0206
    SEARCH = 0x0207
    ARGUMENTS = 0x0208
    STORED = 0x0209
    LIMIT = 0x020A


ITEM_DATA: Final = {
    ItemCode.NEEDS: Data.NONE, ItemCode.VIEW: Data.NONE, ItemCode.ENTRY: Data.TEXT, ItemCode.ACTIVATED: Data.TEXT,
    ItemCode.NOTIFY: Data.NONE, ItemCode.CARRIED: Data.TEXT, ItemCode.SEARCH: Data.PAIR, ItemCode.ARGUMENTS: Data.NONE,
    ItemCode.STORED: Data.PAIR, ItemCode.LIMIT: Data.PAIR,
}  # fmt: skip


class ViewBit(enum.IntFlag):
    """Field c of VIEW."""

    PRIVATE = 1
    FILES = 2
    STARTS_ELSEWHERE = 4
    MOUNTS = 8


class EntryKind(enum.IntEnum):
    """Field a of ENTRY."""

    BIND = 0
    TMPFS = 1
    COPY = 2
    HIDE = 3


class LimitBit(enum.IntFlag):
    """Flags of LIMIT: what a start that finds no cgroup does about it; swap: it is for swap that is accounted for."""

    BESIDE = 1
    CGROUP_ONLY = 2
    NOT_ROOT = 4
    OF_USER = 8
    SWAP = 16


class Varying(enum.IntEnum):
    """Field a of an ENV_SET or ENV_PID that VARIES; from 3 up: the number that a stored grant has if all are there."""

    COUNT = 0
    NAMES = 1
    PID = 2


class EntryBit(enum.IntFlag):
    """Field c of ENTRY. added: by the command line. is_home, is_cwd: the profile's entry is just that folder."""

    OPTIONAL = 1
    ADDED = 2
    IS_HOME = 4
    IS_CWD = 8


@dataclass(frozen=True, slots=True)
class Item(Record):
    """One record that is no op."""

    code: ItemCode

    @property
    def kind(self) -> Data:
        """What the data is."""
        return ITEM_DATA[self.code]

    def describe(self) -> str:
        """Return one line that says what the launcher does."""
        return f"{self.code.name.lower():15} {_DESCRIBE[self.code](self)}"


Line: TypeAlias = Op | Item


@dataclass(frozen=True, slots=True)
class Template:
    """The records in their order."""

    records: tuple[Line, ...]
    quiet: bool = False
    point: bool = False

    def describe(self) -> tuple[str, ...]:
        """Return one line for each record, placeholders as a profile has them."""
        return tuple(as_profile(record.describe()) for record in self.records)


def as_profile(text: str) -> str:
    """Return a text with its placeholders as a profile writes them: {home}, and no slash before it."""
    return _STAND_IN.sub(lambda match: match[0][1:], text)


def holds_placeholder(text: str) -> bool:
    """Tell whether the launcher would find a placeholder in a text."""
    return bool(_STAND_IN.search(text))


def _entry_words(item: Item) -> str:
    letters = "".join(letter if item.b & bit else "-" for letter, bit in zip("rwx", (1, 2, 4), strict=True))
    optional = ", if it is there" if item.c & EntryBit.OPTIONAL else ""
    return f"{EntryKind(item.a).name.lower()} {letters} {os.fsdecode(item.data)!r}{optional}"


def _search_words(item: Item) -> str:
    name, path = (os.fsdecode(text) for text in item.data.split(b"\0")[:2])
    where = f"the caller's PATH, or in {path!r} where it has none" if item.flags else repr(path)
    return f"{repr(name) if name else 'the first argument'} in {where}"


_DESCRIBE: Final[dict[ItemCode, Callable[[Item], str]]] = {
    ItemCode.NEEDS: lambda item: f"a kernel with Landlock ABI {item.a} or newer" if item.a else "nothing of Landlock",
    ItemCode.VIEW: lambda _: "the entries make the mounts and Landlock's rules",
    ItemCode.ENTRY: _entry_words,
    ItemCode.ACTIVATED: lambda item: f"slot {item.a}: what a service manager passes as {os.fsdecode(item.data)!r}",
    ItemCode.NOTIFY: lambda _: "the caller's NOTIFY_SOCKET, if it has one",
    ItemCode.CARRIED: lambda item: (
        f"drop {os.fsdecode(item.data)}, whatever keeps it" + (", if it names a jobserver" if item.flags else "")
    ),
    ItemCode.SEARCH: _search_words,
    ItemCode.STORED: lambda item: (
        f"slot {item.a}: what a service manager keeps as {os.fsdecode(item.data.split(bytes(1))[0])!r}, if anything"
    ),
    ItemCode.LIMIT: lambda item: (
        " = ".join(os.fsdecode(text) for text in item.data.split(bytes(1))[:2])
        + ", where a cgroup is delegated to the start"
    ),
    ItemCode.ARGUMENTS: lambda _: "the start's arguments follow the command's",
}


def marked(op: Op) -> Op:
    """Return an op that says to the launcher whether its texts hold placeholders."""
    is_path = op.code in _PATHS and (op.code is not OpCode.DATA or op.flags == DATA_FILE)
    texts = (op.label, op.hint, os.fsdecode(op.data) if is_path else "")
    return replace(op, flags=op.flags | EXPANDS) if any(map(holds_placeholder, texts)) else op


def encode(template: Template) -> bytes:
    """Encode a template, a multiple of 8 bytes."""
    return wire.pack(template.records, MAGIC, wire.QUIET * template.quiet | wire.POINT * template.point)


def decode(data: bytes) -> Template:
    """Decode a template.

    Raises: PlanError if it is damaged, or of another version.
    """
    flags, count, area = wire.check_header(data, MAGIC)
    records = tuple(_decode(data, index, area) for index in range(count))
    return Template(records, quiet=bool(flags & wire.QUIET), point=bool(flags & wire.POINT))


def _decode(data: bytes, index: int, area: bytes) -> Line:
    code, flags, a, b, c, offset, size, label, hint = wire.record_of(data, index)
    texts = (os.fsdecode(wire.c_string(area, at)) for at in (label, hint))
    payload = area[offset : offset + size]
    if code in RULES:
        return Op(OpCode(code), a, b, c, flags, payload, *texts)
    if code in ITEM_DATA:
        return Item(ItemCode(code), a, b, c, flags, payload, *texts)
    raise PlanError("template", "an op is unknown")
