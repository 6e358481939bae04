"""The kernel's verdicts on the compiled programs, against the simulator's and the policy's; and real calls."""

from __future__ import annotations

import errno
import random
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from sandbox import bpf, filtering, seccomp
from sandbox.filtering import ALLOW, ASKED, Errno, FilterPolicy, Verdict
from sandbox.sockets import Protocol
from sandbox.syscall_table import NUMBERS
from sandbox.syscalls import ENOSYS_ALWAYS, GROUPS, expand

SOURCE = Path(__file__).parent / "probes" / "filterprobe.c"
NOTHING_DONE = -4000  # as in the probe: the programs let the call pass
CASES = 3000
NATIVE, I386 = 0, 1
# The kernel lets these two pass whatever a filter says (kernel/seccomp.c, seccomp_uprobe_exception).
UNFILTERED = {NUMBERS["uretprobe"], NUMBERS["uprobe"]}

Case = tuple[int, int, tuple[int, int, int, int, int, int]]


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary = tmp_path_factory.mktemp("probe") / "filterprobe"
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-static", "-pthread"]
    subprocess.run(["gcc", *flags, "-o", binary, SOURCE], check=True)
    return binary


@pytest.fixture(scope="module")
def has_i386(probe: Path) -> bool:
    return ask(probe, "features") == ["i386 1"]


def ask(probe: Path, *words: str | Path) -> list[str]:
    done = subprocess.run([probe, *words], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


def question(path: Path, programs: Sequence[bytes], cases: Sequence[Case] = ()) -> Path:
    parts = [struct.pack("<II", len(programs), len(cases))]
    parts += [struct.pack("<I", len(program) // 8) + program for program in programs]
    parts += [struct.pack("<II6Q", entry, nr, *args) for entry, nr, args in cases]
    path.write_bytes(b"".join(parts))
    return path


def random_policy(chance: random.Random, kind: Kind) -> FilterPolicy:
    names = [*chance.sample(list(GROUPS), 8), *chance.sample(sorted(NUMBERS.keys() - ENOSYS_ALWAYS.keys()), 40)]
    usual = (*POINTED, "listen", *CREATING)
    reserved = (*chance.sample(range(20), 4), *chance.sample(range(65536), 4))
    return FilterPolicy(expand([*names, *usual]), reserved, *kind)


# gated, strict, unix_sockets, offline, keeps_peers, keeps_listeners, supervised.
Kind = tuple[bool, bool, bool, bool, bool, bool, frozenset[Protocol]]
NOBODY: frozenset[Protocol] = frozenset()
KINDS: list[Kind] = [
    (False, False, True, False, False, False, NOBODY), (True, False, True, True, False, True, NOBODY),
    (True, True, False, True, True, False, NOBODY), (False, True, True, False, True, True, NOBODY),
    (True, False, True, False, False, False, frozenset({Protocol.TCP})),
    (True, True, True, False, False, False, frozenset({Protocol.TCP, Protocol.UDP})),
]  # fmt: skip
CREATING = ("socket", "socketpair", "openat", "pipe2", "memfd_create", "recvmsg", "dup", "accept4", "epoll_create1")


# Which argument the rules look at, and the values of its lower half that are at or near what they look for.
POINTED = {
    "fcntl": (1, [0, 1, 2, 2, 2, 3]),
    "ioctl": (1, [filtering.FIONCLEX, 0x5451, *(value for _, value in filtering.TERMINAL_COMMANDS.values()), 0x5413]),
    "dup2": (1, []),
    "dup3": (1, []),
    "clone": (0, [*filtering.CLONE_NEW.values(), 17, 0x80, 0x30020000]),
    "seccomp": (1, [0, 8, 9, 7, 16]),
    "connect": (1, []),
    "sendmsg": (2, [0, filtering.MSG_FASTOPEN, filtering.MSG_FASTOPEN | 0x4000, 0x10000000]),
    "sendto": (5, [0, 0, 1, 16, 1 << 31]),
    "setsockopt": (2, [4, 57, 6, 25, 62, 5]),
}


def random_case(chance: random.Random, policy: FilterPolicy, entries: Sequence[int]) -> Case:
    known = sorted(set(NUMBERS.values()) - UNFILTERED)
    if chance.random() < 0.5:
        name = chance.choice([*POINTED, *CREATING])
        nr = NUMBERS[name]
        if name in POINTED:
            place, near = POINTED[name]
            pointed = {place: chance.choice(near or [*policy.reserved, 21, 0, 2, 4, 1 << 31])}
            if name == "setsockopt":
                pointed[1] = chance.choice([0, 1, 41])
            if name == "sendto":
                pointed[3] = chance.choice([0, filtering.MSG_FASTOPEN, 0x4000])
            if name in ("fcntl", "ioctl"):
                pointed[0] = chance.choice([*policy.reserved, 21])
        else:
            place, flag = filtering.CREATES.get(name, (1, 0))
            pointed = {0: chance.choice([0, 1, 2])} | {place: chance.choice([0, flag, flag | 2, bpf.U32 & ~flag])}
    else:
        pointed = {}
        foreign = chance.choice(known) | filtering.X32_FIRST
        nr = chance.choice([*[chance.choice(known)] * 3, foreign, chance.randrange(470, 1024), chance.randrange(2**32)])

    def argument(place: int) -> int:
        low = pointed.get(place, chance.choice([0, 1, 2, 3, chance.randrange(2**32)]))
        return chance.choice([0, 0, 1, chance.randrange(2**32)]) << 32 | low

    args = (argument(0), argument(1), argument(2), argument(3), argument(4), argument(5))
    return chance.choice(entries), nr, args


def data_of(case: Case) -> bpf.SeccompData:
    entry, nr, args = case
    if entry == NATIVE:
        return bpf.SeccompData(nr, bpf.AUDIT_ARCH_X86_64, args)
    a, b, c, d, e, f = (arg & bpf.U32 for arg in args)
    return bpf.SeccompData(nr, bpf.AUDIT_ARCH_I386, (a, b, c, d, e, f))


def kernel_verdict(line: str) -> Verdict:
    return ALLOW if int(line) == NOTHING_DONE else Errno(-int(line))


@pytest.mark.parametrize(("seed", "kind"), list(enumerate(KINDS)))
def test_filter_kernel_and_simulator_and_policy_agree(
    probe: Path, tmp_path: Path, has_i386: bool, seed: int, kind: Kind
) -> None:
    chance = random.Random(seed)
    policy = random_policy(chance, kind)
    programs = [*seccomp.compile_stack(policy)]
    entries = (NATIVE, NATIVE, NATIVE, I386) if has_i386 else (NATIVE,)
    cases = [random_case(chance, policy, entries) for _ in range(CASES)]
    lines = ask(probe, "verdicts", question(tmp_path / "question", programs, cases))
    assert len(lines) == CASES
    decoded = [bpf.decode(program) for program in programs]
    verdicts = set()
    for case, line in zip(cases, lines, strict=True):
        data = data_of(case)
        wanted = filtering.decide(policy, data.arch, data.nr, data.args)
        # Of a call for which a supervisor is to be asked, and nobody listens, the kernel says ENOSYS.
        assert kernel_verdict(line) == (Errno(errno.ENOSYS) if wanted == ASKED else wanted), (seed, policy, case)
        assert filtering.verdict_of(bpf.combine(bpf.run(program, data) for program in decoded)) == wanted, case
        verdicts.add(wanted)
    assert verdicts == {ALLOW, Errno(errno.EPERM), Errno(errno.ENOSYS)} | ({ASKED} if policy.supervised else set())


@pytest.mark.parametrize("loaded", [[0], [1], [0, 1], [1, 0]])
def test_combine_kernel_takes_the_same_of_stacked_returns(probe: Path, tmp_path: Path, loaded: list[int]) -> None:
    # One program refuses read with errno 11, the other read with 22 and write with 33; all else passes.
    def program(*refusals: tuple[int, int]) -> bytes:
        tests = [
            step
            for nr, number in refusals
            for step in (bpf.Instruction(0x15, 0, 1, nr), bpf.Instruction(0x06, 0, 0, bpf.RET_ERRNO | number))
        ]
        return bpf.encode((bpf.Instruction(0x20, 0, 0, 0), *tests, bpf.Instruction(0x06, 0, 0, bpf.RET_ALLOW)))

    both = [program((0, 11)), program((0, 22), (1, 33))]
    programs = [both[place] for place in loaded]
    cases: list[Case] = [(NATIVE, nr, (0, 0, 0, 0, 0, 0)) for nr in (0, 1, 2)]
    lines = ask(probe, "verdicts", question(tmp_path / "question", programs, cases))
    for case, line in zip(cases, lines, strict=True):
        returned = [bpf.run(bpf.validate(bpf.decode(code)), data_of(case)) for code in programs]
        assert kernel_verdict(line) == filtering.verdict_of(bpf.combine(returned))


def live(probe: Path, path: Path, programs: Sequence[bytes]) -> dict[str, int]:
    lines = (line.split() for line in ask(probe, "live", question(path, programs)))
    return {name: int(value) for name, value in lines}


# Each denied call has an allowed one that differs from it only in what is refused. Numbers as in the probe.
RESERVED, FREE = 7, 8
ALLOWED = {
    "setfd-set": 0,
    "setfd-set-garbage": 0,
    "setfd-set-odd": 0,
    "getfd-after-clear": 1,
    "fioclex": 0,
    "getfd-after-fionclex": 1,
    "dup": 1,
    "dupfd": 20,
    "dup2-free": FREE,
    "dup2-free-garbage": FREE,
    "dup3-free": FREE,
    "tiocgwinsz": -errno.ENOTTY,
    "clone": 1,
    "clone-garbage": 1,
    "seccomp": 0,
    "openat": 1,
    "getppid": 1,
}
DENIED = {
    "setfd-clear": errno.EPERM,
    "setfd-clear-garbage": errno.EPERM,
    "setfd-clear-even": errno.EPERM,
    "setfd-clear-x32": errno.EPERM,
    "setfd-clear-i386": errno.EPERM,
    "fionclex": errno.EPERM,
    "fionclex-garbage": errno.EPERM,
    "dup2-reserved": errno.EPERM,
    "dup2-reserved-garbage": errno.EPERM,
    "dup3-reserved": errno.EPERM,
    "dup3-reserved-garbage": errno.EPERM,
    "dup2-reserved-x32": errno.EPERM,
    "dup2-reserved-i386": errno.EPERM,
    "tiocsti": errno.EPERM,
    "tioclinux-garbage": errno.EPERM,
    "clone-newuser": errno.EPERM,
    "clone-newuser-newnet-garbage": errno.EPERM,
    "seccomp-listener": errno.EPERM,
    "openat2": errno.ENOSYS,
    "clone3": errno.ENOSYS,
    "io_uring_setup": errno.ENOSYS,
    "io_uring_enter": errno.ENOSYS,
    "io_uring_register": errno.ENOSYS,
    "unknown": errno.ENOSYS,
    "minus-one": errno.ENOSYS,
    "ptrace": errno.EPERM,
}


def test_filter_real_calls_are_allowed_and_refused(probe: Path, tmp_path: Path, has_i386: bool) -> None:
    policy = FilterPolicy(expand(["@base", "@process", "@file-io", "@event", "@sandbox"]), reserved=(RESERVED,))
    wanted = ALLOWED | {name: -number for name, number in DENIED.items()}
    if not has_i386:
        wanted = {name: value for name, value in wanted.items() if not name.endswith("-i386")}
    assert live(probe, tmp_path / "question", seccomp.compile(policy)) == wanted


def test_filter_real_calls_without_it_are_not_refused(probe: Path, tmp_path: Path) -> None:
    found = live(probe, tmp_path / "question", [])
    same_anyway = {"unknown", "minus-one"}  # no kernel has these calls
    by_kernel = {
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "clone-newuser",
        "clone-newuser-newnet-garbage",
    }
    for name in DENIED.keys() & found.keys() - same_anyway - by_kernel:
        assert found[name] != -DENIED[name], name
    assert found["getfd-after-clear"] == found["getfd-after-fionclex"] == 0
