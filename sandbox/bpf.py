"""Classic BPF as seccomp uses it: decode, check as the kernel does, run, combine, disassemble. Pure.

It knows nothing of libseccomp nor of policies, so that what the former made of the latter can be judged by it.
Source: struct sock_filter in linux/filter.h, opcodes in linux/bpf_common.h, struct seccomp_data in linux/seccomp.h.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from sandbox.errors import PlanError

INSTRUCTION_BYTES: Final = 8
MAX_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS, linux/bpf_common.h
DATA_BYTES: Final = 64  # sizeof(struct seccomp_data)
MEMORY_WORDS: Final = 16  # BPF_MEMWORDS, linux/filter.h
U32: Final = 0xFFFFFFFF

AUDIT_ARCH_X86_64: Final = 0xC000003E  # linux/audit.h
AUDIT_ARCH_I386: Final = 0x40000003

# Actions, linux/seccomp.h; the low 16 bits carry data (an errno for RET_ERRNO).
RET_KILL_PROCESS: Final = 0x80000000
RET_KILL_THREAD: Final = 0x00000000
RET_TRAP: Final = 0x00030000
RET_ERRNO: Final = 0x00050000
RET_USER_NOTIF: Final = 0x7FC00000
RET_TRACE: Final = 0x7FF00000
RET_LOG: Final = 0x7FFC0000
RET_ALLOW: Final = 0x7FFF0000
ACTION_MASK: Final = 0xFFFF0000
DATA_MASK: Final = 0x0000FFFF


class _Class:
    """The low three bits of an opcode."""

    LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)


class _Mode:
    """Where a load takes its value from: the high three bits of an opcode."""

    IMM, ABS, MEM, LEN = 0x00, 0x20, 0x60, 0x80


_X: Final = 0x08  # the operand is X, not k
_RET_A: Final = _Class.RET | 0x10
_JA: Final = _Class.JMP | 0x00
_NEG: Final = _Class.ALU | 0x80
_TAX: Final = _Class.MISC | 0x00
_TXA: Final = _Class.MISC | 0x80
_LOAD_MEMORY: Final = (_Class.LD | _Mode.MEM, _Class.LDX | _Mode.MEM)
_STORES: Final = (_Class.ST, _Class.STX)
_RETURNS: Final = (_Class.RET, _RET_A)

_ALU_OPERATIONS: Final[dict[int, tuple[str, Callable[[int, int], int]]]] = {
    0x00: ("add", operator.add),
    0x10: ("sub", operator.sub),
    0x20: ("mul", operator.mul),
    0x30: ("div", operator.floordiv),
    0x40: ("or", operator.or_),
    0x50: ("and", operator.and_),
    0x60: ("lsh", lambda a, b: a << (b & 31)),
    0x70: ("rsh", lambda a, b: a >> (b & 31)),
    0xA0: ("xor", operator.xor),
}
_DIV: Final = _Class.ALU | 0x30
_SHIFTS: Final = (_Class.ALU | 0x60, _Class.ALU | 0x70)
_JUMPS: Final[dict[int, tuple[str, Callable[[int, int], int]]]] = {
    0x10: ("jeq", operator.eq),
    0x20: ("jgt", operator.gt),
    0x30: ("jge", operator.ge),
    0x40: ("jset", operator.and_),
}

# What seccomp_check_filter (kernel/seccomp.c) lets through: word loads only, no modulo, no packet loads.
_PERMITTED: Final = frozenset(
    {_Class.LD | mode for mode in (_Mode.IMM, _Mode.ABS, _Mode.MEM, _Mode.LEN)}
    | {_Class.LDX | mode for mode in (_Mode.IMM, _Mode.MEM, _Mode.LEN)}
    | {_Class.ALU | operation | source for operation in _ALU_OPERATIONS for source in (0, _X)}
    | {_Class.JMP | operation | source for operation in _JUMPS for source in (0, _X)}
    | {_NEG, _JA, _TAX, _TXA, *_STORES, *_RETURNS}
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One struct sock_filter: opcode, jump distances if true and if false, and the constant."""

    code: int
    jt: int
    jf: int
    k: int


Program: TypeAlias = tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class SeccompData:
    """What a filter sees of a call: number and architecture (u32), six arguments and the return address (u64)."""

    nr: int
    arch: int = AUDIT_ARCH_X86_64
    args: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)
    instruction_pointer: int = 0

    def words(self) -> tuple[int, ...]:
        """Return struct seccomp_data as its sixteen little-endian 32-bit words."""
        wide = (self.instruction_pointer, *self.args)
        halves = (half for value in wide for half in (value & U32, value >> 32 & U32))
        return (self.nr & U32, self.arch & U32, *halves)


@dataclass(frozen=True, slots=True)
class Execution:
    """The raw u32 that a program returned, and the number of instructions that it took."""

    returned: int
    steps: int


def decode(code: bytes) -> Program:
    """Split bytes (little endian) into instructions; only the length is judged, see validate.

    Raises: PlanError if the length is no multiple of 8.
    """
    if len(code) % INSTRUCTION_BYTES:
        raise PlanError("filter", f"{len(code)} bytes are no whole number of instructions")
    return tuple(Instruction(*fields) for fields in struct.iter_unpack("<HBBI", code))


def encode(program: Program) -> bytes:
    """Return the bytes of a program; decode(encode(p)) == p."""
    return b"".join(struct.pack("<HBBI", i.code, i.jt, i.jf, i.k) for i in program)


def validate(program: Program) -> Program:
    """Return the program unchanged if the kernel would accept it.

    Establishes: 1 to 4096 instructions, all permitted; jumps go forward and stay inside; loads are aligned and inside
    struct seccomp_data; no scratch word is read before it is written; the last instruction returns.
    Raises: PlanError naming the first instruction that is wrong.
    Source: bpf_check_classic and check_load_and_stores (net/core/filter.c), seccomp_check_filter (kernel/seccomp.c).
    """
    if not 1 <= len(program) <= MAX_INSTRUCTIONS:
        raise PlanError("filter", f"{len(program)} instructions, the kernel takes 1 to {MAX_INSTRUCTIONS}")
    written = [U32] * len(program)  # scratch words that are written on every way to this instruction
    written[0] = 0
    for place, instruction in enumerate(program):
        if reason := _flaw(instruction, len(program) - place - 1, written[place]):
            raise PlanError("filter", f"instruction {place} ({_text(instruction, place)}): {reason}")
        after = written[place]
        if instruction.code in _STORES:
            after |= 1 << instruction.k
        for target in _targets(instruction, place):
            written[target] &= after
    return program


def _flaw(instruction: Instruction, left: int, written: int) -> str:
    """Return why the kernel would refuse the instruction with `left` more behind it, or "" if it would not."""
    code, k = instruction.code, instruction.k
    if code not in _PERMITTED:
        return f"opcode {code:#x} is not permitted"
    if code == _Class.LD | _Mode.ABS and (k % 4 or k >= DATA_BYTES):
        return "load outside struct seccomp_data, or not aligned"
    if code in (*_LOAD_MEMORY, *_STORES) and k >= MEMORY_WORDS:
        return "no such scratch word"
    if code in _LOAD_MEMORY and not written >> k & 1:
        return "reads a scratch word that may not have been written"
    if code == _DIV and k == 0:
        return "division by zero"
    if code in _SHIFTS and k >= 32:
        return "shift of 32 or more"
    if any(distance > left for distance in _distances(instruction)):
        return "goes beyond the end"
    return ""


def _distances(instruction: Instruction) -> tuple[int, ...]:
    """Return how far from this instruction the next ones may be, 1 being its neighbour; none for a return."""
    if instruction.code in _RETURNS:
        return ()
    if instruction.code == _JA:
        return (1 + instruction.k,)
    if instruction.code & 7 == _Class.JMP:
        return (1 + instruction.jt, 1 + instruction.jf)
    return (1,)


def _targets(instruction: Instruction, place: int) -> tuple[int, ...]:
    return tuple(place + distance for distance in _distances(instruction))


def run(program: Program, data: SeccompData) -> int:
    """Return the raw u32 that the program gives for a call; the program must be valid."""
    return execute(program, data.words()).returned


def execute(program: Program, words: Sequence[int]) -> Execution:
    """Run a valid program over the words of a struct seccomp_data, counting instructions.

    Source: Documentation/networking/filter.rst; a division by an X of zero returns 0, which is RET_KILL_THREAD
    (bpf_convert_filter in net/core/filter.c).
    """
    a = x = place = steps = 0
    memory = [0] * MEMORY_WORDS
    while True:
        code, jt, jf, k = (i := program[place]).code, i.jt, i.jf, i.k
        steps += 1
        place += 1
        operand = x if code & _X else k
        match code & 7:
            case _Class.JMP:
                place += k if code == _JA else jt if _JUMPS[code & 0xF0][1](a, operand) else jf
            case _Class.LD:
                a = _loaded(code, k, words, memory)
            case _Class.RET:
                return Execution(a if code == _RET_A else k, steps)
            case _Class.ALU:
                if code == _DIV | _X and x == 0:
                    return Execution(RET_KILL_THREAD, steps)
                a = (-a if code == _NEG else _ALU_OPERATIONS[code & 0xF0][1](a, operand)) & U32
            case _Class.LDX:
                x = _loaded(code, k, words, memory)
            case _Class.ST:
                memory[k] = a
            case _Class.STX:
                memory[k] = x
            case _:  # only MISC is left
                a, x = (x, x) if code == _TXA else (a, a)


def _loaded(code: int, k: int, words: Sequence[int], memory: Sequence[int]) -> int:
    match code & 0xE0:
        case _Mode.ABS:
            return words[k >> 2]
        case _Mode.MEM:
            return memory[k]
        case _Mode.LEN:
            return DATA_BYTES
        case _:  # only IMM is left
            return k


def combine(returned: Iterable[int]) -> int:
    """Return what the kernel makes of the returns of stacked programs, given in the order in which they were loaded.

    The most restrictive action wins: KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, USER_NOTIF, TRACE, LOG, ALLOW. Between
    equal actions that of the most recently loaded program wins, with its data. No program at all: RET_ALLOW.
    Source: seccomp(2), "SECCOMP_SET_MODE_FILTER"; seccomp_run_filters compares the actions as signed numbers.
    """
    result = RET_ALLOW
    for value in reversed(tuple(returned)):
        if _rank(value) < _rank(result):
            result = value
    return result


def _rank(value: int) -> int:
    action = value & ACTION_MASK
    return action - (1 << 32) if action >> 31 else action


def disassemble(program: Program) -> str:
    """Return one line per instruction, with absolute jump targets."""
    return "\n".join(f"{place:4}  {_text(instruction, place)}" for place, instruction in enumerate(program))


_FIELDS: Final = ("nr", "arch", "ip.lo", "ip.hi", *(f"args[{n}].{half}" for n in range(6) for half in ("lo", "hi")))
_ACTIONS: Final = {
    RET_KILL_PROCESS: "kill_process",
    RET_KILL_THREAD: "kill_thread",
    RET_TRAP: "trap",
    RET_ERRNO: "errno",
    RET_USER_NOTIF: "user_notif",
    RET_TRACE: "trace",
    RET_LOG: "log",
    RET_ALLOW: "allow",
}


def _text(instruction: Instruction, place: int) -> str:
    code, k = instruction.code, instruction.k
    operand = "x" if code & _X else f"{k:#x}"
    if code not in _PERMITTED:
        return f".code {code:#x} {instruction.jt} {instruction.jf} {k:#x}"
    match code & 7:
        case _Class.RET:
            return "ret a" if code == _RET_A else f"ret {_ACTIONS.get(k & ACTION_MASK, hex(k))} {k & DATA_MASK}"
        case _Class.JMP:
            if code == _JA:
                return f"ja {place + 1 + k}"
            target_true, target_false = _targets(instruction, place)
            return f"{_JUMPS[code & 0xF0][0]} {operand} ? {target_true} : {target_false}"
        case _Class.ALU:
            return "neg" if code == _NEG else f"{_ALU_OPERATIONS[code & 0xF0][0]} {operand}"
        case _Class.LD | _Class.LDX:
            return f"{'ldx' if code & 7 else 'ld'} {_source_text(code, k)}"
        case _Class.ST | _Class.STX:
            return f"{'st' if code == _Class.ST else 'stx'} M[{k}]"
        case _:
            return "txa" if code == _TXA else "tax"


def _source_text(code: int, k: int) -> str:
    match code & 0xE0:
        case _Mode.ABS:
            return _FIELDS[k >> 2] if k % 4 == 0 and k < DATA_BYTES else f"[{k}]"
        case _Mode.MEM:
            return f"M[{k}]"
        case _Mode.LEN:
            return "len"
        case _:
            return f"{k:#x}"
