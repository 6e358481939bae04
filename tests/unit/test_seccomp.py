"""The filter: a table of calls with their verdicts, held against `decide` and against the compiled programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import pytest

from sandbox import bpf, filter_rules, filtering, seccomp
from sandbox.errors import InternalError, UnsupportedError, UsageError
from sandbox.filtering import ABSENT, ALLOW, REFUSED, FilterPolicy, Verdict
from sandbox.sockets import Protocol
from sandbox.syscall_table import NUMBERS
from sandbox.syscalls import GROUPS, expand

X86_64, I386, ARM64 = bpf.AUDIT_ARCH_X86_64, bpf.AUDIT_ARCH_I386, 0xC00000B7
GARBAGE = 0xDEADBEEF_00000000
POLICY = FilterPolicy(expand(["@base", "@process", "@file-io", "@sandbox", "mseal"]), reserved=(3, 4, 9, 1000))
WITH_NAMESPACES = replace(POLICY, allow=POLICY.allow | {"unshare"})


@cache
def decoded(program: bytes) -> bpf.Program:
    return bpf.validate(bpf.decode(program))


def simulate(programs: tuple[bytes, ...], data: bpf.SeccompData) -> Verdict:
    return filtering.verdict_of(bpf.combine(bpf.run(decoded(program), data) for program in programs))


@pytest.fixture(scope="module")
def programs() -> tuple[bytes, ...]:
    return seccomp.compile(POLICY)


@pytest.fixture(scope="module")
def programs_with_namespaces() -> tuple[bytes, ...]:
    return seccomp.compile(WITH_NAMESPACES)


# Names, arguments and verdict of calls; each refused one has an allowed one beside it that differs in what is refused.
CASES = [
    ("fcntl", (5, 2, 0), REFUSED),
    ("fcntl", (5, 2, 2), REFUSED),
    ("fcntl", (5, 2, 0xFFFFFFFE), REFUSED),
    ("fcntl", (5, 2 | GARBAGE, GARBAGE), REFUSED),
    ("fcntl", (5 | GARBAGE, 2, 1 << 32), REFUSED),
    ("fcntl", (5, 2, 1), ALLOW),
    ("fcntl", (5, 2, 3), ALLOW),
    ("fcntl", (5, 2 | GARBAGE, 1 | GARBAGE), ALLOW),
    ("fcntl", (5, 1, 0), ALLOW),
    ("fcntl", (5, 3, 0), ALLOW),
    ("fcntl", (5, 0, 0), ALLOW),
    ("fcntl", (5, 2 << 32, 0), ALLOW),
    ("ioctl", (5, 0x5450, 0), REFUSED),
    ("ioctl", (5, 0x5450 | GARBAGE, 0), REFUSED),
    ("ioctl", (5, 0x5451, 0), ALLOW),
    ("ioctl", (5, 0x5412, 0), REFUSED),
    ("ioctl", (5, 0x541C | GARBAGE, 0), REFUSED),
    ("ioctl", (5, 0x5413, 0), ALLOW),
    ("ioctl", (5, 0x5411 | GARBAGE, 0), ALLOW),
    ("ioctl", (5, 0x541D, 0), REFUSED),
    ("ioctl", (5, 0x541D | GARBAGE, 0), REFUSED),
    ("ioctl", (5, 0x541E, 0), ALLOW),
    ("ioctl", (5, 0x540C | GARBAGE, 0), REFUSED),
    ("ioctl", (5, 0x540D, 0), ALLOW),
    ("ioctl", (5, 0x5423 | GARBAGE, 0), REFUSED),
    ("ioctl", (5, 0x5424, 0), ALLOW),
    ("ioctl", (5, 0x5422, 0), ALLOW),
    ("ioctl", (5, 0x540E, 0), ALLOW),
    ("ioctl", (5, 0x540E, 1), REFUSED),
    ("ioctl", (5, 0x540E | GARBAGE, 1), REFUSED),
    ("ioctl", (5, 0x540E, 2), ALLOW),
    ("ioctl", (5, 0x540F, 1), ALLOW),
    ("ioctl", (5, 0x5410, 1), ALLOW),
    *(("ioctl", (5, command | GARBAGE, 0), REFUSED) for command in (0x4B00, 0x4B3A, 0x4B49, 0x4BFF)),
    *(("ioctl", (5, command, 0), REFUSED) for command in (0x5600, 0x5605, 0x5606, 0x56FF)),
    *(("ioctl", (5, command, 0), ALLOW) for command in (0x4AFF, 0x4C00, 0x55FF, 0x5700, 0xC0405602, 0x14B00)),
    *(("ioctl", (5, command, 0), ALLOW) for command in (0x5401, 0x5402, 0x5403, 0x5413, 0x5414, 0x5430, 0x5431)),
    ("ioctl", (0x5412, 0, 0x5412), ALLOW),
    ("dup2", (0, 3), REFUSED),
    ("dup2", (0, 9 | GARBAGE), REFUSED),
    ("dup2", (0, 1000), REFUSED),
    ("dup2", (0, 5), ALLOW),
    ("dup2", (3, 5), ALLOW),
    ("dup2", (0, 2), ALLOW),
    ("dup2", (0, 5 | 3 << 32), ALLOW),
    ("dup3", (0, 4, 0o2000000), REFUSED),
    ("dup3", (0, 4 | GARBAGE, 0), REFUSED),
    ("dup3", (4, 10, 3), ALLOW),
    ("dup", (3,), ALLOW),
    *(("clone", (flag | 17,), REFUSED) for flag in filtering.CLONE_NEW.values()),
    ("clone", (0x7E020000 | GARBAGE,), REFUSED),
    ("clone", (0x003D0F00,), ALLOW),
    ("clone", (0x10000000 << 32 | 17,), ALLOW),
    ("clone", (0x80 | 17,), ALLOW),
    ("seccomp", (1, 8), REFUSED),
    ("seccomp", (1, 8 | 1 | GARBAGE), REFUSED),
    ("seccomp", (1, 1 | 2 | 4 | 16), ALLOW),
    ("seccomp", (8, 0), ALLOW),
    ("read", (), ALLOW),
    ("mseal", (), ALLOW),
    ("cachestat", (), ALLOW),
    ("file_setattr", (), ALLOW),
    ("ptrace", (), REFUSED),
    ("unshare", (), REFUSED),
    ("socket", (), REFUSED),
    ("set_mempolicy_home_node", (), ALLOW),
    ("open_tree_attr", (), REFUSED),
    ("prctl", (15,), ALLOW),
    ("prctl", (4, 0), ALLOW),
    ("prctl", (0x59616D60,), ALLOW),
    ("prctl", (15, 35), ALLOW),
    ("prctl", (35 << 32 | 36,), ALLOW),
    ("prctl", (35,), REFUSED),
    ("prctl", (35 | GARBAGE, 8), REFUSED),
    ("prctl", (0x59616D61,), REFUSED),
    ("prctl", (0x59616D61 | GARBAGE, 2**64 - 1), REFUSED),
    *(("personality", (value,), ALLOW) for value in (0, 8, 0xFFFFFFFF, GARBAGE, 8 | GARBAGE, 2**64 - 1)),
    # Executable data, no randomised addresses, a page at 0; of each with what could hide it.
    *(("personality", (value,), REFUSED) for value in (0x400000, 0x40000, 0x100000, 0x40000 | GARBAGE, 0x400008)),
    *(("personality", (0xFFFFFFFF & ~(1 << bit),), REFUSED) for bit in range(32)),
    *(("personality", (1 << bit | GARBAGE,), REFUSED) for bit in range(32) if bit != 3),
    ("name_to_handle_at", (), REFUSED),
    # A mode in each place: set-uid, set-gid, both, hidden behind other bits; beside one with neither.
    *(
        (name, (*[0] * place, mode), verdict)
        for name, place in {
            "chmod": 1,
            "fchmod": 1,
            "fchmodat": 2,
            "fchmodat2": 2,
            "creat": 1,
            "mknod": 1,
            "mknodat": 2,
        }.items()
        for mode, verdict in {
            0o4755: REFUSED,
            0o2755: REFUSED,
            0o6000: REFUSED,
            0o104000 | GARBAGE: REFUSED,
            2**64 - 1: REFUSED,
            0o755: ALLOW,
            0o1777: ALLOW,
            0o100644: ALLOW,
            0o6000 << 32: ALLOW,
        }.items()
    ),
    *(
        (name, (*[0] * place, flags, mode), verdict)
        for name, place in {"open": 1, "openat": 2}.items()
        for flags, mode, verdict in [
            (0o100, 0o4755, REFUSED),
            (0o101 | GARBAGE, 0o2000 | GARBAGE, REFUSED),
            (0o20200002, 0o4000, REFUSED),
            (0o100, 0o1777, ALLOW),
            (0o2, 0o6777, ALLOW),
            (0o100 << 32, 0o6777, ALLOW),
            (0o20200002, 0o6000 << 32, ALLOW),
        ]
    ),
    ("clone3", (), ABSENT),
    ("openat2", (), ABSENT),
    ("openat", (), ALLOW),
    ("io_uring_setup", (), ABSENT),
    ("io_uring_enter", (), ABSENT),
    ("io_uring_register", (), ABSENT),
]


GATED = FilterPolicy(POLICY.allow, POLICY.reserved, gated=True)
STRICT = FilterPolicy(expand([*GROUPS]), POLICY.reserved, strict=True)
WITHOUT_UNIX = FilterPolicy(expand(["@base", "@network"]), unix_sockets=False)
NETWORK = replace(WITHOUT_UNIX, unix_sockets=True)
OFFLINE = replace(NETWORK, offline=True)
KEEPS_PEERS = replace(OFFLINE, keeps_peers=True)
KEEPS_LISTENERS = replace(OFFLINE, keeps_listeners=True)
FAST_OPEN = [
    ("sendto", (5, 0, 1, 0x20000000, 0, 16)), ("sendto", (5, 0, 1, 0x20004000 | GARBAGE, 0, 16)),
    ("sendmsg", (5, 0, 0x20000000)), ("sendmmsg", (5, 0, 1, 0x60000000)),
]  # fmt: skip
# All that there are (16 is AF_NETLINK, 17 AF_PACKET, 38 AF_ALG, 40 AF_VSOCK, 44 AF_XDP), none, and what is no family.
OTHER_FAMILIES = [*({*range(64)} - {1, 2, 10}), 16 | GARBAGE, *(1 << bit | 2 for bit in range(4, 32)), 2**32 - 1]
CLOEXEC = 0o2000000
# As above, under other policies.
POLICY_CASES = [
    (GATED, "fcntl", (5, 2, 0), ALLOW),
    (GATED, "fcntl", (5 | GARBAGE, 2, 0), ALLOW),
    (GATED, "fcntl", (3, 2, 0), REFUSED),
    (GATED, "fcntl", (3 | GARBAGE, 2 | GARBAGE, GARBAGE), REFUSED),
    (GATED, "fcntl", (1000, 2, 0xFFFFFFFE), REFUSED),
    (GATED, "fcntl", (3, 2, 1), ALLOW),
    (GATED, "fcntl", (3, 0, 0), ALLOW),
    (GATED, "ioctl", (5, 0x5450), ALLOW),
    (GATED, "ioctl", (4 | GARBAGE, 0x5450 | GARBAGE), REFUSED),
    (GATED, "ioctl", (4, 0x5451), ALLOW),
    (GATED, "ioctl", (5, 0x5412), REFUSED),
    (GATED, "dup2", (0, 3), REFUSED),
    (GATED, "seccomp", (1, 8), REFUSED),
    (WITHOUT_UNIX, "socket", (1, 1), REFUSED),
    (WITHOUT_UNIX, "socket", (1 | GARBAGE, 1), REFUSED),
    (WITHOUT_UNIX, "socketpair", (1, 2), REFUSED),
    (WITHOUT_UNIX, "socket", (2, 1), ALLOW),
    (WITHOUT_UNIX, "socket", (1 << 32 | 10, 1), ALLOW),
    *((NETWORK, "socket", (family, 1), ALLOW) for family in (1, 2, 10, 1 | GARBAGE, 10 | GARBAGE)),
    *((NETWORK, "socket", (2, 1, protocol), ALLOW) for protocol in (0, 6, 17, 255, 257, 261, 263, 262 << 32)),
    *((NETWORK, name, (family, 1), REFUSED) for name in ("socket", "socketpair") for family in OTHER_FAMILIES),
    *((NETWORK, "socket", (2, 1, protocol), REFUSED) for protocol in (256, 262, 262 | GARBAGE)),
    (NETWORK, "socketpair", (1, 1), ALLOW),
    *((OFFLINE, name, args, REFUSED) for name, args in FAST_OPEN),
    *((NETWORK, name, args, ALLOW) for name, args in FAST_OPEN),
    (OFFLINE, "sendto", (5, 0, 1, 0x4000, 0, 16), ALLOW),
    (OFFLINE, "sendmsg", (5, 0, 0xDFFFFFFF), ALLOW),
    (OFFLINE, "connect", (5, 0, 16), ALLOW),
    *((OFFLINE, "setsockopt", (5, *pair), REFUSED) for pair in filtering.REROUTES.values()),
    *((NETWORK, "setsockopt", (5, *pair), ALLOW) for pair in filtering.REROUTES.values()),
    (OFFLINE, "setsockopt", (5, GARBAGE, 4 | GARBAGE), REFUSED),
    (OFFLINE, "setsockopt", (5, 6, 4), ALLOW),
    (OFFLINE, "setsockopt", (5, 1, 9), ALLOW),
    *((KEEPS_PEERS, name, (5, 0, 0), REFUSED) for name in ("connect", "sendmsg", "sendmmsg")),
    *((KEEPS_PEERS, "sendto", (5, 0, 1, 0, 0, 1 << bit), REFUSED) for bit in range(32)),
    (KEEPS_PEERS, "sendto", (5, 0, 1, 0, 1, GARBAGE), ALLOW),
    (KEEPS_PEERS, "sendto", (5, 0, 1, 0, 0, 0), ALLOW),
    (KEEPS_PEERS, "listen", (5, 1), ALLOW),
    (KEEPS_LISTENERS, "listen", (5, 1), REFUSED),
    (KEEPS_LISTENERS, "connect", (5, 0, 16), ALLOW),
    (STRICT, "fcntl", (5, 0, 9), REFUSED),
    (STRICT, "fcntl", (5, 1030, 9), ALLOW),
    (STRICT, "fcntl", (5, 2, 0), REFUSED),
    (STRICT, "dup2", (5, 0), ALLOW),
    (STRICT, "dup2", (5, 2), ALLOW),
    (STRICT, "dup2", (5, 8), REFUSED),
    (STRICT, "dup2", (5, 7 | GARBAGE), REFUSED),
    (STRICT, "dup2", (5, 0x80000000), REFUSED),
    (STRICT, "dup3", (5, 2, 0), ALLOW),
    (STRICT, "dup3", (5, 8, 0), REFUSED),
    (STRICT, "dup3", (5, 8, CLOEXEC), ALLOW),
    (STRICT, "dup3", (5, 7, CLOEXEC << 32), REFUSED),
    (STRICT, "dup3", (5, 3, CLOEXEC), REFUSED),
]
# Every call of Linux 6.18 that gives the caller a new descriptor and lets it be without close-on-exec, written down
# apart from the table of the module: the argument that holds the flag, and the flag, or None for a call without one.
# Not here: those that always set it (pidfd_open, pidfd_getfd, bpf, mq_open, landlock_create_ruleset).
CREATING = {
    "open": (1, CLOEXEC), "openat": (2, CLOEXEC), "open_by_handle_at": (2, CLOEXEC), "creat": None,
    "dup": None, "pipe": None, "pipe2": (1, CLOEXEC), "socket": (1, CLOEXEC), "socketpair": (1, CLOEXEC),
    "accept": None, "accept4": (3, CLOEXEC), "eventfd": None, "eventfd2": (1, CLOEXEC), "epoll_create": None,
    "epoll_create1": (0, CLOEXEC), "signalfd": None, "signalfd4": (3, CLOEXEC), "timerfd_create": (1, CLOEXEC),
    "inotify_init": None, "inotify_init1": (0, CLOEXEC), "fanotify_init": (0, 1), "memfd_create": (1, 1),
    "memfd_secret": (0, CLOEXEC), "userfaultfd": (0, CLOEXEC), "perf_event_open": (4, 8), "recvmsg": (2, 0x40000000),
    "recvmmsg": (3, 0x40000000), "open_tree": (2, CLOEXEC), "open_tree_attr": (2, CLOEXEC), "fsopen": (1, 1),
    "fsmount": (1, 1), "fspick": (2, 1),
}  # fmt: skip


@cache
def compiled(policy: FilterPolicy) -> tuple[bytes, ...]:
    return seccomp.compile(policy)


@pytest.mark.parametrize(("policy", "name", "args", "verdict"), POLICY_CASES)
def test_filter_call_gets_its_verdict_under_each_policy(
    policy: FilterPolicy, name: str, args: tuple[int, ...], verdict: Verdict
) -> None:
    data = bpf.SeccompData(NUMBERS[name], X86_64, padded(args))
    assert filtering.decide(policy, data.arch, data.nr, data.args) == verdict
    assert simulate(compiled(policy), data) == verdict


@pytest.mark.parametrize(("name", "flag"), CREATING.items(), ids=CREATING)
def test_filter_strict_lets_a_call_create_only_what_closes_at_exec(name: str, flag: tuple[int, int] | None) -> None:
    lax = replace(STRICT, strict=False)
    place, bit = flag or (0, 0)
    before = ([2] if name in ("socket", "socketpair") else [0] * place)[:place]
    for wanted, value in ((REFUSED, 0), (REFUSED, bit << 32), (REFUSED, GARBAGE), (ALLOW if bit else REFUSED, bit)):
        data = bpf.SeccompData(NUMBERS[name], X86_64, padded((*before, value)))
        assert simulate(compiled(STRICT), data) == filtering.decide(STRICT, X86_64, data.nr, data.args) == wanted
        assert simulate(compiled(lax), data) == filtering.decide(lax, X86_64, data.nr, data.args) == ALLOW
    clear_others = filtering.LOW32 & ~bit
    data = bpf.SeccompData(NUMBERS[name], X86_64, padded((*before, clear_others)))
    assert simulate(compiled(STRICT), data) == REFUSED


def test_compile_every_policy_makes_programs_that_the_kernel_takes() -> None:
    worst = FilterPolicy(STRICT.allow - {"unshare"}, (0, 1, 2, *range(3, 515)), True, True, False)
    for policy in (GATED, STRICT, WITHOUT_UNIX, worst):
        assert all(len(decoded(program)) <= bpf.MAX_INSTRUCTIONS for program in compiled(policy))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    "numbers", [range(3, 515), (3, 4, 6, 7, 8, 9), (4, 5, 6, 7), (0, 2**31 - 1), (5, 5, 4, 1024, 1025, 1027), ()]
)
def test_compile_reserved_numbers_are_just_those_whatever_their_neighbours(numbers: Iterable[int], gated: bool) -> None:
    policy = replace(POLICY, reserved=tuple(numbers), gated=gated)
    near = {number + bias for number in policy.reserved for bias in (-1, 0, 1)} | {0, 1, 2, 3, 4}
    for number in sorted(near - {-1}):
        wanted = REFUSED if number in policy.reserved else ALLOW
        for name in ("dup2", "dup3"):
            assert simulate(compiled(policy), bpf.SeccompData(NUMBERS[name], args=padded((0, number)))) == wanted
        cleared = simulate(compiled(policy), bpf.SeccompData(NUMBERS["fcntl"], args=padded((number, 2))))
        assert cleared == (wanted if gated else REFUSED)


def test_compile_more_scattered_numbers_than_a_program_holds_are_refused() -> None:
    with pytest.raises(UsageError, match="too many scattered numbers are reserved") as caught:
        seccomp.compile(replace(GATED, reserved=tuple(range(3, 3 + 512 * 127, 127))))
    assert "neighbouring" in caught.value.hint
    assert seccomp.compile(replace(GATED, reserved=tuple(range(3, 3 + 128 * 127, 127))))


def padded(args: tuple[int, ...]) -> tuple[int, int, int, int, int, int]:
    a, b, c, d, e, f = (*args, *[0] * (6 - len(args)))
    return a, b, c, d, e, f


@pytest.mark.parametrize(("name", "args", "verdict"), CASES)
def test_filter_call_gets_its_verdict(
    programs: tuple[bytes, ...], name: str, args: tuple[int, ...], verdict: Verdict
) -> None:
    data = bpf.SeccompData(NUMBERS[name], X86_64, padded(args))
    assert filtering.decide(POLICY, data.arch, data.nr, data.args) == verdict
    assert simulate(programs, data) == verdict


@pytest.mark.parametrize(
    ("arch", "nr", "verdict"),
    [
        (X86_64, 0, ALLOW),
        (I386, 0, REFUSED),
        (I386, 3, REFUSED),
        (ARM64, 0, REFUSED),
        (0, 0, REFUSED),
        (X86_64, 0x40000000, REFUSED),
        (X86_64, 0x40000000 | 72, REFUSED),
        (X86_64, 0x40000000 | 512, REFUSED),
        (X86_64, 0x3FFFFFFF, ABSENT),
        (X86_64, 0x80000000, REFUSED),
        (X86_64, 0xC0000000, REFUSED),
        (X86_64, 0xFFFFFFFE, REFUSED),
        (X86_64, 0xFFFFFFFF, ABSENT),
        (X86_64, -1, ABSENT),
        (X86_64, 337, ABSENT),
        (X86_64, 470, ABSENT),
        (X86_64, 512, ABSENT),
        (X86_64, 5000, ABSENT),
    ],
)
def test_filter_foreign_and_unknown_numbers_get_their_verdict(
    programs: tuple[bytes, ...], arch: int, nr: int, verdict: Verdict
) -> None:
    assert filtering.decide(POLICY, arch, nr, (0,) * 6) == verdict
    assert simulate(programs, bpf.SeccompData(nr, arch)) == verdict


@pytest.mark.parametrize("flag", filtering.CLONE_NEW.values())
def test_filter_clone_with_namespaces_is_allowed_where_unshare_is(
    programs_with_namespaces: tuple[bytes, ...], flag: int
) -> None:
    data = bpf.SeccompData(NUMBERS["clone"], args=padded((flag,)))
    assert filtering.decide(WITH_NAMESPACES, data.arch, data.nr, data.args) == ALLOW
    assert simulate(programs_with_namespaces, data) == ALLOW


def test_compile_makes_small_programs_that_the_kernel_takes(programs: tuple[bytes, ...]) -> None:
    assert len(programs) == 2
    assert [len(decoded(program)) < 600 for program in programs] == [True, True]
    assert seccomp.compile(POLICY) == programs


def test_compile_as_many_reserved_numbers_as_a_profile_can_have_fits() -> None:
    policy = replace(POLICY, reserved=tuple(range(3, 3 + 512 * 127, 127)))
    programs = seccomp.compile(policy)
    for number in (*policy.reserved, 2, 4, 65000, 65535):
        for name in ("dup2", "dup3"):
            data = bpf.SeccompData(NUMBERS[name], args=padded((0, number)))
            assert simulate(programs, data) == (REFUSED if number in policy.reserved else ALLOW)


def test_compile_the_hot_calls_take_few_steps(programs: tuple[bytes, ...]) -> None:
    for name in ("read", "write", "openat", "close", "futex", "mmap"):
        words = bpf.SeccompData(NUMBERS[name]).words()
        assert sum(bpf.execute(decoded(program), words).steps for program in programs) <= 36


def test_compile_leaves_no_descriptor_open() -> None:
    before = os.listdir("/proc/self/fd")
    seccomp.compile(POLICY)
    assert os.listdir("/proc/self/fd") == before


def test_compile_without_library_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    with pytest.raises(UnsupportedError) as caught:
        seccomp.compile(POLICY)
    assert caught.value.feature == "filter"
    assert "libseccomp" in caught.value.hint


def test_verify_programs_of_another_policy_are_refused(programs: tuple[bytes, ...]) -> None:
    seccomp._verify(POLICY, programs)
    weaker = replace(POLICY, allow=POLICY.allow - {"mseal"})
    with pytest.raises(InternalError, match="mseal"):
        seccomp._verify(weaker, programs)
    with pytest.raises(InternalError, match="made Allow"):
        seccomp._verify(POLICY, programs[:1])
    with pytest.raises(InternalError, match="invalid program"):
        seccomp._verify(POLICY, [programs[0][:-8]])


def test_compile_weakened_program_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_allow_list = seccomp._compile_allow_list
    weaker = replace(POLICY, allow=POLICY.allow | {"ptrace"})
    monkeypatch.setattr(seccomp, "_compile_allow_list", lambda library, _: compile_allow_list(library, weaker))
    with pytest.raises(InternalError, match="ptrace"):
        seccomp.compile(POLICY)
    assert seccomp.compile(weaker)


def test_compile_number_that_libseccomp_contradicts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "NUMBERS", {**NUMBERS, "read": NUMBERS["write"], "write": NUMBERS["read"]})
    with pytest.raises(InternalError, match="read is 1 in our table and 0 in libseccomp"):
        seccomp.compile(FilterPolicy(frozenset({"getpid"})))


@pytest.mark.parametrize(
    ("allow", "reserved", "word"),
    [
        ({"raed"}, (), "raed"),
        ({"@base"}, (), "@base"),
        ({"clone3"}, (), "clone3"),
        ({"read"}, (-1,), "-1"),
        ({"read"}, (2**31,), "2147483648"),
    ],
)
def test_policy_what_cannot_be_enforced_is_refused(allow: set[str], reserved: tuple[int, ...], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        FilterPolicy(frozenset(allow), reserved)
    assert FilterPolicy(frozenset({"read"}), (0, 2**31 - 1)).reserved == (0, 2**31 - 1)


def test_verdict_of_unexpected_action_is_refused() -> None:
    assert filtering.verdict_of(bpf.RET_ERRNO | 13) == filtering.Errno(13)
    with pytest.raises(InternalError):
        filtering.verdict_of(bpf.RET_LOG)


def test_describe_says_what_is_allowed_and_refused() -> None:
    text = "\n".join(filter_rules.describe(POLICY))
    assert "dup2, dup3 onto 3-4, 9, 1000" in text
    assert "allowed: @base:" in text
    assert "EPERM: @network" in text
    assert "EPERM: @debug: takes descriptors" in text
    assert "ENOSYS: io_uring_setup, io_uring_enter, io_uring_register:" in text
    assert "EPERM: ioctl of TIOCSTI, TIOCLINUX, " in text
    assert "CLONE_NEW*" in text
    assert "CLONE_NEW*" not in "\n".join(filter_rules.describe(WITH_NAMESPACES))
    assert "allowed: of @namespace only unshare" in filter_rules.describe(WITH_NAMESPACES)
    assert ": close-on-exec is not cleared" in text
    assert "on reserved numbers: others are the exec gate's" in "\n".join(filter_rules.describe(GATED))
    assert "every call that creates a descriptor without close-on-exec" in "\n".join(filter_rules.describe(STRICT))
    assert "AF_UNIX: no descriptors are sent" in "\n".join(filter_rules.describe(WITHOUT_UNIX))
    assert "of AF_UNIX: no" not in text
    of_network = "\n".join(filter_rules.describe(NETWORK))
    for words in (
        "any family but AF_UNIX, AF_INET, AF_INET6: ",
        "socket of IPPROTO_SMC, IPPROTO_MPTCP: ",
        "PR_SET_MM, ",
    ):
        assert words in of_network
    assert "with MSG_FASTOPEN: no TCP connection but by connect" in "\n".join(filter_rules.describe(OFFLINE))
    assert "setsockopt of IP_OPTIONS, " in "\n".join(filter_rules.describe(OFFLINE))
    assert "connect, sendmsg, sendmmsg, and sendto with an address: " in "\n".join(filter_rules.describe(KEEPS_PEERS))
    assert "EPERM: listen: " in "\n".join(filter_rules.describe(KEEPS_LISTENERS))
    for words in ("MSG_FASTOPEN", "IP_OPTIONS", "sendto with", "EPERM: listen"):
        assert words not in of_network
    assert "set-uid and set-gid bits in the modes of chmod, " in text
    assert "personality but for" in text
    assert "personality but for" not in of_network
    assert "creates a descriptor" not in text
    assert "dup2" not in "\n".join(filter_rules.describe(replace(POLICY, reserved=())))


def test_describe_tells_the_reason_of_every_call_that_is_refused_by_its_nature() -> None:
    lines = filter_rules.describe(POLICY)
    for group in GROUPS.values():
        if group.refused_by_default:
            assert f"EPERM: {group.name}: {group.reason}" in lines
        for name, reason in group.reasons.items():
            assert [line for line in lines if name in line and line.endswith(f": {reason}")], name


@pytest.mark.parametrize("unix_sockets", [False, True])
@pytest.mark.parametrize("supervised", [frozenset[Protocol](), frozenset({Protocol.TCP})], ids=["alone", "supervised"])
def test_unix_sockets_are_refused_where_none_may_be_made(unix_sockets: bool, supervised: frozenset[Protocol]) -> None:
    policy = FilterPolicy(expand(["@base", "@network"]), unix_sockets=unix_sockets, supervised=supervised)
    programs = [bpf.decode(program) for program in seccomp.compile_stack(policy)]
    data = bpf.SeccompData(NUMBERS["socket"], args=(1, 1, 0, 0, 0, 0))
    found = filtering.verdict_of(bpf.combine(bpf.run(program, data) for program in programs))
    assert found == (filtering.ALLOW if unix_sockets else filtering.REFUSED)
