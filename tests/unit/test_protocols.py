"""Delegation protocols: for every rule an exec that names a descriptor by it, and a twin that names none."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from sandbox import ops
from sandbox.plan import MAX_PROTOCOLS
from sandbox.protocols import PROTOCOLS, Place, Protocol, ProtocolRule, Shape
from tests.support.naming import Exec, named_by

TRACKER = "from multiprocessing.resource_tracker import main;main("
FORKSERVER = "from multiprocessing.forkserver import main; main("


@dataclasses.dataclass(frozen=True)
class Case:
    """One rule: an exec that names by it, what it names, and a like one that names nothing."""

    rule: int
    naming: Exec
    numbers: set[int] | None  # None: everything
    silent: Exec


def variable(rule: int, name: str, value: str, numbers: set[int], other: str) -> Case:
    return Case(rule, Exec(variables={name: value}), numbers, Exec(variables={name: other}))


def argument(rule: int, text: str, numbers: set[int] | None, other: str, program: str = "/bin/x") -> Case:
    name = program.rpartition("/")[2]
    return Case(rule, Exec((name, text), program=program), numbers, Exec((name, other), program=program))


def options(first: int, *names: str) -> list[Case]:
    """Return the cases of `--name=N` and `--name N`."""
    found = []
    for index, name in enumerate(names):
        joined, apart = first + 2 * index, first + 2 * index + 1
        found.append(argument(joined, f"{name}=7", {7}, f"{name}x=7"))
        found.append(Case(apart, Exec(("x", name, "7")), {7}, Exec(("x", name, "--", "7"))))
    return found


CASES: dict[str, list[Case]] = {
    "pass-fds": [variable(0, "SANDBOX_PASS_FDS", "3,5", {3, 5}, "")],
    "dev-fd": [
        argument(0, "/dev/fd/63", {63}, "/dev/fd/"), argument(1, "in=/proc/self/fd/9", {9}, "/proc/self/fdinfo/9"),
    ],
    "jobserver": [
        *(
            variable(rule, name, f"n -j4 {needle}=5,6 -- A=b", {5, 6}, f"n -j4 {needle}=fifo:/tmp/7")
            for rule, (needle, name) in enumerate(
                (needle, name)
                for needle in ("--jobserver-auth", "--jobserver-fds")
                for name in ("MAKEFLAGS", "MFLAGS", "CARGO_MAKEFLAGS")
            )
        )
    ],
    "listen-fds": [variable(0, "LISTEN_FDS", "3", {3, 4, 5}, "0")],
    "gpg": options(
        0, "--status-fd", "--passphrase-fd", "--command-fd", "--logger-fd", "--attribute-fd",
        "--override-session-key-fd",
    ),
    "fd-value": [argument(0, "fd:4", {4}, "-fd:4"), argument(1, "FD:4", {4}, "Fd:4")],
    "node-channel": [variable(0, "NODE_CHANNEL_FD", "3", {3}, "x3")],
    "python-multiprocessing": [
        argument(0, "--multiprocessing-fork", None, "multiprocessing-fork"),
        argument(1, f"{TRACKER}8)", {8}, f"{TRACKER})"),
        argument(2, f"{FORKSERVER}7, 9, ['__main__'], **{{}})", {7, 9}, f"{FORKSERVER}[], 7)"),
    ],
    "wayland-socket": [variable(0, "WAYLAND_SOCKET", "12", {12}, "wayland-1")],
    "displayfd": options(0, "-displayfd"),
    "git-remote-fd": [
        argument(0, "fd::7,8/name", {7, 8}, "ext::7,8"),
        Case(
            1, Exec(("git", "remote-fd", "r", "7,8/x"), caller=("/usr/bin/git", "git", "clone", "fd::7,8/x")), {7, 8},
            Exec(("git", "remote-fd", "r", "7,8/x"), caller=("/usr/bin/git", "git", "clone", "xfd::7,8/x")),
        ),
    ],
    "apt": [
        *options(0, "--status-fd"),
        argument(2, "-oAPT::Status-Fd=5", {5}, "-oAPT::Status-Fd="),
        argument(3, "-oAPT::Keep-Fds::=6", {6}, "-oAPT::Keep-Fds=6"),
        variable(4, "APT_HOOK_INFO_FD", "20", {20}, ""),
    ],
    "java-spawn": [
        Case(0, Exec((), program="/usr/lib/jvm/lib/jspawnhelper"), None, Exec((), program="/jspawnhelper/java")),
    ],
    "shell-redirect": [argument(0, "echo x >&3", {3}, "echo x >& 3"), argument(1, "read a <&4", {4}, "read a <4")],
    "flock": [Case(0, Exec(("flock", "-n", "9"), program="/usr/bin/flock"), {9}, Exec(("flock", "-n", "9")))],
    "sshd": [
        Case(rule, Exec(("sshd", "-D", "-R"), program=f"/usr/lib/{name}"), {3, 4, 5}, Exec((name, "-D", "-R")))
        for rule, name in enumerate(("sshd", "sshd-session", "sshd-auth"))
    ],
    "dbus": options(0, "--print-address", "--print-pid"),
    "server-restart": [
        variable(0, "NGINX", "6;7;", {6, 7}, ";"),
        variable(1, "GUNICORN_FD", "5,6", {5, 6}, ""),
        variable(2, "UNICORN_FD", "5", {5}, ""),
        variable(3, "FPM_SOCKETS", "/run/a=8,127.0.0.1:9000=9", {8, 9}, "127.0.0.1:9000"),
    ],
    "devtools-pipe": [argument(0, "--remote-debugging-pipe", {3, 4}, "--remote-debugging-port=4")],
    "erlang-port": [
        Case(0, Exec((), program="/lib/erl_child_setup"), {3}, Exec((), program="/bin/erl")),
        Case(
            1, Exec(caller=("/lib/erl_child_setup", "erl_child_setup", "1024")), {3, 4},
            Exec(caller=("/lib/erl_child_setup.old", "erl_child_setup", "1024")),
        ),
    ],
    "socat": [
        Case(
            rule, Exec(caller=(f"/usr/bin/{program}", program, "-", f"EXEC:x,pty,{needle}7,nofork")), {7},
            Exec(("socat", f"{needle}7"), caller=("/bin/bash", program, f"{needle}7")),
        )
        for rule, (program, needle) in enumerate(
            (program, needle) for program in ("socat", "socat1") for needle in ("fdin=", "fdout=")
        )
    ],
    **{
        name: [
            Case(
                index, Exec(caller=(f"/usr/lib/{rule.program}", rule.program, "x")), None,
                Exec((rule.program, "x"), caller=(f"/usr/lib/{rule.program}x", rule.program, "x")),
            )
            for index, rule in enumerate(PROTOCOLS[name].rules)
        ]
        for name in ("chromium", "python-inherit")
    },
}  # fmt: skip
EVERY = [(name, case) for name, cases in CASES.items() for case in cases]


def test_cases_above_have_every_rule_of_every_protocol() -> None:
    assert {name: [case.rule for case in cases] for name, cases in CASES.items()} == {
        name: list(range(len(protocol.rules))) for name, protocol in PROTOCOLS.items()
    }


@pytest.mark.parametrize(("name", "case"), EVERY, ids=[f"{name}-{case.rule}" for name, case in EVERY])
def test_rule_names_in_one_exec_and_not_in_its_twin(name: str, case: Case) -> None:
    named, silent = named_by([PROTOCOLS[name]], case.naming, case.silent)
    assert (silent.numbers, silent.everything) == (set(), None)
    if case.numbers is None:
        assert (named.numbers, named.everything) == (set(), case.rule)
    else:
        assert (named.numbers, named.everything) == (case.numbers, None)
        assert set(named.by_rule.values()) == {case.rule}


@pytest.mark.parametrize(("name", "case"), EVERY, ids=[f"{name}-{case.rule}" for name, case in EVERY])
def test_exec_names_nothing_where_its_protocol_is_not_admitted(name: str, case: Case) -> None:
    rule = PROTOCOLS[name].rules[case.rule]
    alike = {other for other, protocol in PROTOCOLS.items() if rule in protocol.rules}
    others = [protocol for other, protocol in PROTOCOLS.items() if other not in alike]
    # What these also say by another protocol: jobserver-like options are in one only, but sh text may hold a path.
    (named,) = named_by(others, case.naming)
    assert (named.numbers, named.everything) == (set(), None)


def test_ordinary_execs_name_nothing() -> None:
    environment = {"HOME": "/root", "PATH": "/usr/bin:/bin", "TERM": "xterm-256color", "COLUMNS": "80", "SHLVL": "3",
                   "MAKEFLAGS": "w -j4", "XLISTEN_FDS": "3", "LISTEN_FDSX": "3", "LISTEN_FDNAMES": "3"}  # fmt: skip
    for command in (["ls", "-l", "3"], ["sh", "-c", "make 3 4 2>&1 </dev/null"], ["cc", "-O3", "x=3"], []):
        (named,) = named_by(PROTOCOLS.values(), Exec(command, environment))
        assert (named.numbers, named.everything) == (set(), None), command


# --- the shapes and places, one by one


def rule_named(rule: ProtocolRule, *execs: Exec) -> list[set[int]]:
    return [named.numbers for named in named_by([Protocol("p", "", "", (rule,))], *execs)]


def values(shape: Shape, texts: Sequence[str], **more: object) -> list[set[int]]:
    rule = ProtocolRule(Place.VARIABLE, shape, variable="V", **more)  # type: ignore[arg-type]
    return rule_named(rule, *(Exec(variables={"V": text}) for text in texts))


NUMBERS = {
    "3": {3}, "4095": {4095}, "0003": {3}, "7 8": {7}, "7x": {7},
    "": set(), "0": set(), "1": set(), "2": set(), "4096": set(), "65536": set(), "-3": set(), "+3": set(), " 3": set(),
    "0x3": set(), "4294967299": set(), "18446744073709551619": set(), "9" * 200: set(), "0" * 200 + "3": {3},
}  # fmt: skip
LISTS = {
    "3": {3}, "3,5": {3, 5}, "3;5;": {3, 5}, "3:5": {3, 5}, "3 5": {3, 5}, "3, 5": {3, 5}, "3,,5": {3, 5},
    "3,x,5": {3}, "3x5": {3}, "3-5": {3}, "2,3": {3}, "4096,3": {3}, "99999999999999999999,3": {3},
    "": set(), ",3": set(), "x3": set(), "0,1,2": set(), ",".join(map(str, range(5000))): set(range(3, 4096)),
}  # fmt: skip
COUNTS = {
    "1": {3}, "3": {3, 4, 5}, "02": {3, 4}, "2x": {3, 4}, "4095": set(range(3, 4096)),
    "0": set(), "": set(), "-1": set(), "x": set(), "4096": set(), "4294967297": set(), "9" * 200: set(),
}  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "table"), [(Shape.NUMBER, NUMBERS), (Shape.LIST, LISTS), (Shape.COUNT, COUNTS)], ids=str
)
def test_shape_reads_these_numbers_and_no_others(shape: Shape, table: dict[str, set[int]]) -> None:
    assert dict(zip(table, values(shape, list(table)), strict=True)) == table


def test_shape_fixed_names_its_own_numbers_whatever_stands_there() -> None:
    found = values(Shape.FIXED, ["x", "7", ""], numbers=(3, 31))
    assert found == [{3, 31}, {3, 31}, set()]
    assert values(Shape.FIXED, ["x"], numbers=(0, 1, 2)) == [set()], "never the standard streams"


def test_shape_all_names_everything_but_tells_single_numbers_apart() -> None:
    every = ProtocolRule(Place.ARGUMENT, Shape.ALL, "--all")
    one = ProtocolRule(Place.ARGUMENT, Shape.NUMBER, "fd:")
    both = Protocol("p", "", "", (every, one))
    found = named_by([both], Exec(("x", "--all", "fd:5")), Exec(("x", "fd:5")))
    assert [(named.everything, named.by_rule) for named in found] == [(0, {5: 1}), (None, {5: 1})]


def test_number_named_twice_belongs_to_the_first_that_named_it() -> None:
    first, second = (Protocol(name, "", "", PROTOCOLS["dev-fd"].rules[:1]) for name in ("a", "b"))
    (named,) = named_by([first, second], Exec(("x", "/dev/fd/5 /dev/fd/5", "/dev/fd/5")))
    assert named.by_rule == {5: 0}


def test_needle_anywhere_is_found_each_time_and_else_only_at_the_start() -> None:
    execs = [Exec(("x", text)) for text in ("n=3", "an=3", "n=3n=4,n=5", "an=3 n=", "n", "")]
    rule = ProtocolRule(Place.ARGUMENT, Shape.NUMBER, "n=")
    assert rule_named(rule, *execs) == [{3}, set(), {3}, set(), set(), set()]
    anywhere = dataclasses.replace(rule, anywhere=True)
    assert rule_named(anywhere, *execs) == [{3}, {3}, {3, 4, 5}, {3}, set(), set()]


def test_next_argument_follows_the_whole_argument_at_once() -> None:
    rule = ProtocolRule(Place.NEXT_ARGUMENT, Shape.NUMBER, "--fd")
    commands = [("x", "--fd", "3"), ("x", "--fd", "3", "4"), ("x", "--fds", "3"), ("x", "a--fd", "3"), ("x", "--fd"),
                ("--fd", "3"), ("x", "--fd", "--fd", "3"), ("x", "--fd", "", "3")]  # fmt: skip
    found = rule_named(rule, *(Exec(command) for command in commands))
    assert found == [{3}, {3}, set(), set(), set(), {3}, {3}, set()]


@pytest.mark.parametrize("length", [62, 63, 64, 65, 200])
def test_next_argument_needle_longer_than_what_is_remembered_names_nothing(length: int) -> None:
    option = "-" * length
    rule = ProtocolRule(Place.NEXT_ARGUMENT, Shape.NUMBER, option)
    assert rule_named(rule, Exec(("x", option, "3"))) == [{3} if length < 64 else set()]


def test_program_is_the_last_component_of_the_path_whole() -> None:
    rule = ProtocolRule(Place.PROGRAM, Shape.FIXED, program="tool", numbers=(3,))
    paths = ["tool", "/tool", "/usr/bin/tool", "./tool", "/bin/tool2", "/bin/atool", "/tool/x", "/tool/", "", "/",
             "/" + "t" * 5000]  # fmt: skip
    assert rule_named(rule, *(Exec((), program=path) for path in paths)) == [{3}] * 4 + [set()] * 7


def test_program_limits_an_argument_s_rule_whatever_argv_0_says() -> None:
    rule = ProtocolRule(Place.ARGUMENT, Shape.NUMBER, "n=", program="tool")
    assert rule_named(rule, Exec(("other", "n=3"), program="/tool"), Exec(("tool", "n=3"))) == [{3}, set()]


def test_caller_is_the_last_component_of_its_own_path_whatever_argv_0_says() -> None:
    rule = ProtocolRule(Place.CALLER_ARGUMENT, Shape.NUMBER, "n=", program="tool")
    callers = [("/bin/tool", "x", "n=3"), ("tool", "x", "an=4", "n=5"), ("/bin/tool (deleted)", "tool", "n=3"),
               ("/bin/tool2", "tool", "n=3"), ("", "tool", "n=3"), ("/bin/tool",)]  # fmt: skip
    assert rule_named(rule, *(Exec(caller=caller) for caller in callers)) == [{3}, {5}, set(), set(), set(), set()]
    execs = Exec(("tool", "n=3"), {"n": "3"}, "/bin/tool"), Exec(("x",), caller=("/bin/y", "y", "n=3"))
    assert rule_named(rule, *execs) == [set(), set()], "not what is executed, not of another caller"
    assert rule_named(dataclasses.replace(rule, program=""), *execs) == [set(), {3}]
    assert rule_named(dataclasses.replace(rule, place=Place.ARGUMENT), *execs) == [{3}, set()]


def test_variable_s_name_is_whole_and_arguments_are_no_variables() -> None:
    rule = ProtocolRule(Place.VARIABLE, Shape.NUMBER, variable="V")
    execs = [Exec(variables={name: "3"}) for name in ("V", "VV", "VX3", "v", "AV", "")] + [Exec(("x", "V=3"))]
    assert rule_named(rule, *execs) == [{3}, set(), set(), set(), set(), set(), set()]
    assert rule_named(ProtocolRule(Place.ARGUMENT, Shape.NUMBER, "V="), execs[0], execs[-1]) == [set(), {3}]


def test_long_and_odd_texts_are_read_to_their_end() -> None:
    filler = "\udcff\n/dev/fd/x" * 3000
    (named,) = named_by(PROTOCOLS.values(), Exec(("x", filler + "/dev/fd/9"), {"A" * 30000: "3", "LISTEN_FDS": "1"}))
    assert named.numbers == {9, 3}


# --- the data


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (PROTOCOLS["pass-fds"].rules[0], "variable SANDBOX_PASS_FDS=N,N..."),
        (PROTOCOLS["jobserver"].rules[0], "variable MAKEFLAGS=...--jobserver-auth=N,N..."),
        (PROTOCOLS["listen-fds"].rules[0], "variable LISTEN_FDS=COUNT"),
        (PROTOCOLS["dev-fd"].rules[0], "argument .../dev/fd/N"),
        (PROTOCOLS["gpg"].rules[0], "argument --status-fd=N"),
        (PROTOCOLS["gpg"].rules[1], "argument N after --status-fd"),
        (PROTOCOLS["flock"].rules[0], "argument N of flock"),
        (PROTOCOLS["sshd"].rules[0], "argument -R of sshd: 3, 4, 5"),
        (PROTOCOLS["python-multiprocessing"].rules[0], "argument --multiprocessing-fork: all that is open"),
        (PROTOCOLS["erlang-port"].rules[0], "any exec of erl_child_setup: 3"),
        (PROTOCOLS["java-spawn"].rules[0], "any exec of jspawnhelper: all that is open"),
        (PROTOCOLS["socat"].rules[0], "argument ...fdin=N of the caller socat"),
        (PROTOCOLS["erlang-port"].rules[1], "any argument of the caller erl_child_setup: 3, 4"),
        (ProtocolRule(Place.CALLER_ARGUMENT, Shape.LIST, "--fds="), "argument --fds=N,N... of the caller"),
        (
            ProtocolRule(Place.NEXT_ARGUMENT, Shape.FIXED, "--pipe", numbers=(3,)),
            "argument after --pipe: 3",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_rule_describe_says_where_and_in_what_form(rule: ProtocolRule, words: str) -> None:
    assert rule.describe() == words


def test_protocols_rules_are_described_each_in_its_own_words() -> None:
    for protocol in PROTOCOLS.values():
        words = [rule.describe() for rule in protocol.rules]
        assert len(set(words)) == len(words), protocol.name


def test_protocols_are_frozen_and_say_where_they_come_from() -> None:
    for name, protocol in PROTOCOLS.items():
        assert (protocol.name, bool(protocol.purpose), bool(protocol.source)) == (name, True, True)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(protocol, "name", "x")  # noqa: B010


def test_protocols_rules_are_well_formed_and_fit_a_plan() -> None:
    rules = [rule for protocol in PROTOCOLS.values() for rule in protocol.rules]
    assert len(rules) <= MAX_PROTOCOLS
    for rule in rules:
        assert (rule.shape is Shape.FIXED) is bool(rule.numbers), rule
        assert all(3 <= number <= 31 for number in rule.numbers), rule
        assert (rule.place is Place.VARIABLE) is bool(rule.variable), rule
        assert rule.program or rule.place is not Place.PROGRAM, rule
        assert rule.needle or not rule.anywhere, "an empty needle is everywhere"
        assert len(rule.program) < 64, "the launcher remembers no longer one"
        assert rule.place is not Place.NEXT_ARGUMENT or 0 < len(rule.needle) < 64, rule
        assert ops.protocol("x", rule).data.count(b"\0") == 2
