"""For any policy and any call the compiled programs decide as the policy does; attenuation never allows more."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox import bpf, filtering, seccomp
from sandbox.filtering import ALLOW, FilterPolicy, Verdict
from sandbox.sockets import Protocol
from sandbox.syscall_table import NUMBERS
from sandbox.syscalls import ENOSYS_ALWAYS, GROUPS, expand

# Compiling takes most of an example's time, so each one asks many calls.
SETTINGS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
FILTERABLE = sorted(NUMBERS.keys() - ENOSYS_ALWAYS.keys())
WITH_ARGUMENTS = (
    "fcntl",
    "ioctl",
    "dup2",
    "dup3",
    "clone",
    "seccomp",
    "connect",
    "listen",
    "sendto",
    "sendmsg",
    "sendmmsg",
    "setsockopt",
    "socket",
    "socketpair",
    "prctl",
    "personality",
    *filtering.CREATES,
)

U32 = st.integers(0, 2**32 - 1)
ARCHES = st.one_of(st.just(bpf.AUDIT_ARCH_X86_64), st.sampled_from([bpf.AUDIT_ARCH_I386, 0x4000003E, 0xC00000B7]), U32)
NUMBER = st.one_of(
    st.sampled_from([NUMBERS[name] for name in WITH_ARGUMENTS]),
    st.sampled_from(sorted(NUMBERS.values())),
    st.integers(0, 600),
    st.sampled_from(sorted(NUMBERS.values())).map(lambda number: number | filtering.X32_FIRST),
    st.integers(-4, 4),
    U32,
)
HIGH = st.one_of(st.just(0), st.sampled_from([1, 2, 0x5450, 0x80000000, 0xFFFFFFFF]), U32)
TERMINAL = [value + bias for _, value in filtering.TERMINAL_COMMANDS.values() for bias in (-1, 0, 1, 0xFF, 0x100)]
COMMANDS = [0, 1, 2, 3, filtering.FIONCLEX, 0x5451, filtering.TIOCSCTTY, *TERMINAL, 8, 9, 0x80000002, 0xFFFFFFFF]
FLAGS = [*filtering.CLONE_NEW.values(), 17, 0x80, 0x100, 0x10000]
FAMILIES = st.one_of(st.sampled_from([0, 1, 1, 2, 2, 9, 10, 10, 11, 16, 17, 38, 40]), U32)
MODES = st.one_of(st.sampled_from([0, 0o644, 0o1777, 0o2755, 0o4755, 0o6777, 0o104000]), U32)
PERSONALITIES = st.one_of(st.sampled_from([0, 8, 0xFFFFFFFF, 0x40000, 0x400008, 0xFFFFFFF7, 0x7FFFFFFF, 9]), U32)
RESERVED = st.lists(st.one_of(st.integers(0, 12), st.integers(0, 65535), st.integers(0, 2**31 - 1)), max_size=12)


SUPERVISED = [frozenset[Protocol](), frozenset({Protocol.TCP}), frozenset({Protocol.TCP, Protocol.UDP})]


@st.composite
def policies(draw: st.DrawFn) -> FilterPolicy:
    names = draw(st.lists(st.sampled_from([*GROUPS, *FILTERABLE]), max_size=30))
    usual = draw(st.sampled_from([(), WITH_ARGUMENTS, ("@base", "@process", "@sandbox")]))
    gated, strict, unix_sockets, offline, keeps_peers, keeps_listeners = (draw(st.booleans()) for _ in range(6))
    supervised = draw(st.sampled_from(SUPERVISED))
    return FilterPolicy(
        expand([*names, *usual]), tuple(draw(RESERVED)), gated, strict, unix_sockets, offline, keeps_peers,
        keeps_listeners, supervised,
    )  # fmt: skip


@st.composite
def calls(draw: st.DrawFn, policy: FilterPolicy) -> bpf.SeccompData:
    """Any call at all: each part is chosen for itself."""
    near = [number + bias for number in policy.reserved for bias in (-1, 0, 1) if number + bias >= 0]
    low = st.one_of(st.sampled_from([*COMMANDS, *near]), st.lists(st.sampled_from(FLAGS), unique=True).map(sum), U32)
    wide = st.builds(lambda upper, lower: upper << 32 | lower, HIGH, low)
    args = draw(st.tuples(wide, wide, wide, wide, wide, wide))
    return bpf.SeccompData(draw(NUMBER), draw(ARCHES), args, draw(st.integers(0, 2**64 - 1)))


@st.composite
def close_calls(draw: st.DrawFn, policy: FilterPolicy) -> bpf.SeccompData:  # noqa: C901, PLR0912 - one table
    """A call for which a rule nearly or just holds; the upper halves of its arguments are arbitrary."""
    near = [number + bias for number in (*policy.reserved, 5) for bias in (-1, 0, 1) if number + bias >= 0]
    name = draw(st.sampled_from(WITH_ARGUMENTS))
    low = [5, 0, 0, 0, 0, 0]
    match name:
        case "fcntl":
            low[0] = draw(st.sampled_from(near))
            low[1:3] = draw(st.sampled_from([0, 1, 2, 2, 3])), draw(st.one_of(st.integers(0, 3), U32))
        case "ioctl":
            low[:2] = draw(st.sampled_from(near)), draw(st.sampled_from(COMMANDS))
            low[2] = draw(st.sampled_from([0, 1, 2]))
        case "dup2" | "dup3":
            low[:2] = draw(st.sampled_from(near)), draw(st.sampled_from([*near, 0, 1, 2, 4, 1 << 31]))
            low[2] = draw(st.sampled_from([0, filtering.O_CLOEXEC, 0o4000]))
        case "clone":
            low[0] = sum(draw(st.lists(st.sampled_from(FLAGS), max_size=2, unique=True)))
        case "seccomp":
            low[1] = draw(st.integers(0, 31))
        case "prctl":
            low[0] = draw(
                st.sampled_from([option + bias for option in filtering.PRCTL_REFUSED.values() for bias in (-1, 0, 1)])
            )
        case "personality":
            low[0] = draw(PERSONALITIES)
        case "setsockopt":
            low[1:3] = draw(st.sampled_from([*filtering.REROUTES.values(), (1, 4), (0, 25), (41, 5), (0, 0), (41, 58)]))
        case _ if name in filtering.SENDS:
            low[filtering.SENDS[name]] = draw(
                st.sampled_from([0, filtering.MSG_FASTOPEN, 0x4000, 0x60004000, 0x1FFFFFFF, 0xDFFFFFFF])
            )
            low[5] = draw(st.sampled_from([0, 0, 1, 16, 28, 0x80000000]))
        case _ if name in filtering.MODES:
            low[filtering.MODES[name]] = draw(MODES)
        case _ if name in filtering.OPENS:
            place = filtering.OPENS[name]
            low[place : place + 2] = draw(st.sampled_from([0, 1, 0o100, 0o20200000, 0o2000000, 0o2000100])), draw(MODES)
        case _:
            low[0] = draw(FAMILIES)
            low[2] = draw(st.sampled_from([0, 6, 255, 256, 257, 261, 262, 263]))
            if name in filtering.CREATES:
                place, flag = filtering.CREATES[name]
                low[place] = draw(st.sampled_from([0, flag, flag | 1, flag | 2, 0xFFFFFFFF, 0xFFFFFFFF & ~flag]))
    a, b, c, d, e, f = (draw(HIGH) << 32 | value for value in low)
    return bpf.SeccompData(NUMBERS[name], args=(a, b, c, d, e, f))


def many_calls(policy: FilterPolicy) -> st.SearchStrategy[list[bpf.SeccompData]]:
    return st.lists(st.one_of(close_calls(policy), calls(policy)), min_size=20, max_size=40)


def decoded(policy: FilterPolicy) -> list[bpf.Program]:
    return [bpf.validate(bpf.decode(program)) for program in seccomp.compile_stack(policy)]


def simulate(programs: list[bpf.Program], data: bpf.SeccompData) -> Verdict:
    return filtering.verdict_of(bpf.combine(bpf.run(program, data) for program in programs))


@SETTINGS
@given(st.data(), policies())
def test_filter_any_call_decided_as_the_policy_says(data: st.DataObject, policy: FilterPolicy) -> None:
    programs = decoded(policy)
    for call in data.draw(many_calls(policy)):
        assert simulate(programs, call) == filtering.decide(policy, call.arch, call.nr, call.args), call


@SETTINGS
@given(st.data(), policies())
def test_filter_attenuated_policy_never_allows_more(data: st.DataObject, policy: FilterPolicy) -> None:
    kept = data.draw(st.frozensets(st.sampled_from(sorted(policy.allow)))) if policy.allow else policy.allow
    more_reserved = (*policy.reserved, *data.draw(RESERVED))
    attenuated = FilterPolicy(
        kept, more_reserved, gated=policy.gated and data.draw(st.booleans()),
        strict=policy.strict or data.draw(st.booleans()), unix_sockets=policy.unix_sockets and data.draw(st.booleans()),
        offline=policy.offline or data.draw(st.booleans()), keeps_peers=policy.keeps_peers or data.draw(st.booleans()),
        keeps_listeners=policy.keeps_listeners or data.draw(st.booleans()),
    )  # fmt: skip
    before, after = decoded(policy), decoded(attenuated)
    for call in data.draw(many_calls(attenuated)):
        if simulate(after, call) == ALLOW:
            assert simulate(before, call) == ALLOW, call


@settings(max_examples=10, deadline=None)
@given(policies())
def test_filter_every_syscall_decided_as_the_policy_says(policy: FilterPolicy) -> None:
    programs = decoded(policy)
    patterns = [(0,) * 6, (2,) * 6, (2**64 - 1,) * 6, (0, 2, 0, 0, 0, 0), (2**32,) * 6, (0, 3 << 32 | 4, 0, 0, 0, 0)]
    for number in [*range(-1, 600), *(filtering.X32_FIRST | number for number in range(600))]:
        for a, b, c, d, e, f in patterns:
            call = bpf.SeccompData(number, args=(a, b, c, d, e, f))
            assert simulate(programs, call) == filtering.decide(policy, call.arch, number, call.args), call


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64).map(lambda raw: raw[: len(raw) // 8 * 8]))
def test_bpf_decode_and_encode_are_inverse(raw: bytes) -> None:
    assert bpf.encode(bpf.decode(raw)) == raw
