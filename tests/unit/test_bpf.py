"""The BPF simulator: decoding, the kernel's rules for programs, execution, precedence of stacked returns."""

from __future__ import annotations

import pytest

from sandbox import bpf
from sandbox.bpf import Instruction as I  # noqa: N817 - programs are tables
from sandbox.errors import PlanError

# Opcodes as linux/bpf_common.h writes them.
LD_ABS, LD_IMM, LD_MEM, LD_LEN = 0x20, 0x00, 0x60, 0x80
LDX_IMM, LDX_MEM, LDX_LEN = 0x01, 0x61, 0x81
ST, STX = 0x02, 0x03
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, MOD, XOR = (0x04 | n << 4 for n in range(11))
JA, JEQ, JGT, JGE, JSET = (0x05 | n << 4 for n in range(5))
RET, RET_A = 0x06, 0x16
TAX, TXA = 0x07, 0x87
X = 0x08

DATA = bpf.SeccompData(
    nr=-2, arch=bpf.AUDIT_ARCH_X86_64, args=(0x1111111122222222, 2**64 - 1, 3, 4, 5, 0x66666666_00000001),
    instruction_pointer=0xAAAAAAAABBBBBBBB,
)  # fmt: skip


def code(*instructions: bpf.Instruction) -> bpf.Program:
    return bpf.validate(instructions)


def result(*instructions: bpf.Instruction) -> int:
    return bpf.run(code(*instructions, I(RET_A, 0, 0, 0)), DATA)


def test_decode_encode_round_trip() -> None:
    raw = bytes.fromhex("200000000000000015000102020000000600000000000500060000000000ff7f")
    program = bpf.decode(raw)
    assert program == (I(LD_ABS, 0, 0, 0), I(JEQ, 1, 2, 2), I(RET, 0, 0, 0x50000), I(RET, 0, 0, 0x7FFF0000))
    assert bpf.encode(program) == raw


@pytest.mark.parametrize("length", [1, 7, 9])
def test_decode_partial_instruction_is_refused(length: int) -> None:
    with pytest.raises(PlanError):
        bpf.decode(bytes(length))
    assert len(bpf.decode(bytes(8))) == 1


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, 0xFFFFFFFE),
        (4, 0xC000003E),
        (8, 0xBBBBBBBB),
        (12, 0xAAAAAAAA),
        (16, 0x22222222),
        (20, 0x11111111),
        (24, 0xFFFFFFFF),
        (28, 0xFFFFFFFF),
        (32, 3),
        (36, 0),
        (56, 1),
        (60, 0x66666666),
    ],
)
def test_run_load_gives_the_word_of_seccomp_data(offset: int, value: int) -> None:
    assert result(I(LD_ABS, 0, 0, offset)) == value


@pytest.mark.parametrize(
    ("opcode", "a", "operand", "value"),
    [
        (ADD, 0xFFFFFFFF, 2, 1),
        (SUB, 1, 2, 0xFFFFFFFF),
        (MUL, 0x80000001, 2, 2),
        (DIV, 7, 2, 3),
        (DIV, 0xFFFFFFFE, 2, 0x7FFFFFFF),
        (OR, 5, 10, 15),
        (AND, 0xF0F0, 0xFF, 0xF0),
        (LSH, 0x80000001, 1, 2),
        (RSH, 0x80000001, 1, 0x40000000),
        (XOR, 0xFF, 0x0F, 0xF0),
    ],
)
@pytest.mark.parametrize("source", [0, X])
def test_run_arithmetic_is_32_bit_and_unsigned(opcode: int, a: int, operand: int, value: int, source: int) -> None:
    k = 1 if source else operand
    assert result(I(LDX_IMM, 0, 0, operand), I(LD_IMM, 0, 0, a), I(opcode | source, 0, 0, k)) == value


def test_run_negation_and_registers() -> None:
    assert result(I(LD_IMM, 0, 0, 1), I(NEG, 0, 0, 0)) == 0xFFFFFFFF
    assert result(I(LD_IMM, 0, 0, 9), I(TAX, 0, 0, 0), I(LD_IMM, 0, 0, 1), I(TXA, 0, 0, 0)) == 9
    assert result(I(LD_IMM, 0, 0, 9), I(TAX, 0, 0, 0)) == 9
    assert result(I(LD_LEN, 0, 0, 0)) == 64
    assert result(I(LDX_LEN, 0, 0, 0), I(TXA, 0, 0, 0)) == 64


def test_run_scratch_words_keep_what_was_stored() -> None:
    assert result(I(LD_IMM, 0, 0, 7), I(ST, 0, 0, 15), I(LD_IMM, 0, 0, 1), I(LD_MEM, 0, 0, 15)) == 7
    assert result(I(LDX_IMM, 0, 0, 8), I(STX, 0, 0, 3), I(LDX_IMM, 0, 0, 1), I(LDX_MEM, 0, 0, 3), I(TXA, 0, 0, 0)) == 8


def test_run_division_by_register_of_zero_kills() -> None:
    assert result(I(LD_IMM, 0, 0, 7), I(LDX_IMM, 0, 0, 0), I(DIV | X, 0, 0, 0), I(LD_IMM, 0, 0, 7)) == 0
    assert result(I(LD_IMM, 0, 0, 7), I(LDX_IMM, 0, 0, 7), I(DIV | X, 0, 0, 0)) == 1


@pytest.mark.parametrize("bias", [-1, 0, 1])
@pytest.mark.parametrize("source", [0, X])
@pytest.mark.parametrize("base", [1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE])
@pytest.mark.parametrize("jump", ["jeq", "jgt", "jge", "jset"])
def test_run_jump_compares_unsigned(jump: str, base: int, source: int, bias: int) -> None:
    a = base + bias
    opcode, taken = {
        "jeq": (JEQ, a == base),
        "jgt": (JGT, a > base),
        "jge": (JGE, a >= base),
        "jset": (JSET, a & base != 0),
    }[jump]
    program = code(
        I(LDX_IMM, 0, 0, base), I(LD_IMM, 0, 0, a), I(opcode | source, 1, 0, 0 if source else base),
        I(RET, 0, 0, 100), I(RET, 0, 0, 200),
    )  # fmt: skip
    assert bpf.run(program, DATA) == (200 if taken else 100)


def test_execute_counts_instructions_and_jumps_over_others() -> None:
    program = code(I(JA, 0, 0, 2), I(RET, 0, 0, 1), I(RET, 0, 0, 2), I(RET, 0, 0, 3))
    assert bpf.execute(program, DATA.words()) == bpf.Execution(3, 2)


FINE = I(RET, 0, 0, bpf.RET_ALLOW)


@pytest.mark.parametrize(
    ("reason", "refused", "accepted"),
    [
        ("kernel takes", (), (FINE,)),
        ("kernel takes", (FINE,) * 4097, (FINE,) * 4096),
        ("beyond the end", (FINE, I(LD_ABS, 0, 0, 0)), (I(LD_ABS, 0, 0, 0), FINE)),
        ("beyond the end", (I(JEQ, 1, 0, 0), FINE), (I(JEQ, 0, 0, 0), FINE)),
        ("beyond the end", (I(JEQ, 0, 2, 0), FINE, FINE), (I(JEQ, 0, 1, 0), FINE, FINE)),
        ("beyond the end", (I(JA, 0, 0, 0xFFFFFFFF), FINE), (I(JA, 0, 0, 0), FINE)),
        ("load outside", (I(LD_ABS, 0, 0, 64), FINE), (I(LD_ABS, 0, 0, 60), FINE)),
        ("load outside", (I(LD_ABS, 0, 0, 2), FINE), (I(LD_ABS, 0, 0, 4), FINE)),
        ("not permitted", (I(0x28, 0, 0, 0), FINE), (I(0x20, 0, 0, 0), FINE)),  # half-word load
        ("not permitted", (I(0x40, 0, 0, 0), FINE), (I(0x60, 0, 0, 0), FINE)[1:]),  # indirect load
        ("not permitted", (I(MOD, 0, 0, 1), FINE), (I(XOR, 0, 0, 1), FINE)),
        ("not permitted", (I(0x0E, 0, 0, 0), FINE), (I(RET_A, 0, 0, 0), FINE)),  # return X
        ("not permitted", (I(0x106, 0, 0, 0), FINE), (I(0x06, 0, 0, 0), FINE)),
        ("division by zero", (I(DIV, 0, 0, 0), FINE), (I(DIV, 0, 0, 1), FINE)),
        ("shift", (I(LSH, 0, 0, 32), FINE), (I(LSH, 0, 0, 31), FINE)),
        ("shift", (I(RSH, 0, 0, 32), FINE), (I(RSH, 0, 0, 31), FINE)),
        ("no such scratch", (I(ST, 0, 0, 16), FINE), (I(ST, 0, 0, 15), FINE)),
        ("not have been written", (I(LD_MEM, 0, 0, 1), FINE), (I(ST, 0, 0, 1), I(LD_MEM, 0, 0, 1), FINE)),
        (
            "not have been written",
            (I(JEQ, 1, 0, 0), I(ST, 0, 0, 1), I(LDX_MEM, 0, 0, 1), FINE),
            (I(JEQ, 0, 0, 0), I(ST, 0, 0, 1), I(LDX_MEM, 0, 0, 1), FINE),
        ),
    ],
)
def test_validate_what_the_kernel_refuses_is_refused(reason: str, refused: bpf.Program, accepted: bpf.Program) -> None:
    with pytest.raises(PlanError, match=reason):
        bpf.validate(refused)
    assert bpf.validate(accepted) == accepted


ORDER = [
    bpf.RET_KILL_PROCESS,
    bpf.RET_KILL_THREAD,
    bpf.RET_TRAP,
    bpf.RET_ERRNO,
    bpf.RET_USER_NOTIF,
    bpf.RET_TRACE,
    bpf.RET_LOG,
    bpf.RET_ALLOW,
]


@pytest.mark.parametrize("weaker", range(8))
@pytest.mark.parametrize("stronger", range(8))
def test_combine_more_restrictive_action_wins_in_any_order(stronger: int, weaker: int) -> None:
    winner = ORDER[min(stronger, weaker)]
    assert bpf.combine([ORDER[stronger], ORDER[weaker]]) == winner
    assert bpf.combine([ORDER[weaker], ORDER[stronger]]) == winner


def test_combine_equal_actions_give_the_last_loaded() -> None:
    assert bpf.combine([bpf.RET_ERRNO | 1, bpf.RET_ERRNO | 38]) == bpf.RET_ERRNO | 38
    assert bpf.combine([bpf.RET_ERRNO | 38, bpf.RET_ERRNO | 1, bpf.RET_ALLOW]) == bpf.RET_ERRNO | 1
    assert bpf.combine([]) == bpf.RET_ALLOW


def test_disassemble_every_kind_is_readable() -> None:
    program = (
        I(LD_ABS, 0, 0, 0), I(LD_ABS, 0, 0, 28), I(LD_LEN, 0, 0, 0), I(LDX_IMM, 0, 0, 5), I(ST, 0, 0, 1),
        I(STX, 0, 0, 2), I(LD_MEM, 0, 0, 1), I(AND, 0, 0, 255), I(ADD | X, 0, 0, 0), I(NEG, 0, 0, 0), I(TAX, 0, 0, 0),
        I(TXA, 0, 0, 0), I(JEQ, 1, 0, 7), I(JA, 0, 0, 0), I(RET, 0, 0, 0x50001), I(RET_A, 0, 0, 0), I(0x28, 1, 2, 3),
    )  # fmt: skip
    assert [line.split(maxsplit=1)[1] for line in bpf.disassemble(program).splitlines()] == [
        "ld nr", "ld args[1].hi", "ld len", "ldx 0x5", "st M[1]",
        "stx M[2]", "ld M[1]", "and 0xff", "add x", "neg", "tax",
        "txa", "jeq 0x7 ? 14 : 13", "ja 14", "ret errno 1", "ret a", ".code 0x28 1 2 0x3",
    ]  # fmt: skip
