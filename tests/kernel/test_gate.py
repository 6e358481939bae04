"""The exec gate: what goes along at later execs, of any unmodified program (DESIGN G1-G6, I1-I4, S1)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from sandbox.plan import OpCode
from tests.support.callers import PYTHON, Ended, launch, plan_of, sandbox
from tests.support.native import build_launcher
from tests.support.plans import CODE, taken_apart
from tests.support.probes import Probes, table, verdicts

METHODS = ("exec", "fork", "vfork", "spawn", "thread", "execveat")
BASH, SH = "/bin/bash", "/bin/sh"


def without_gate(plan: object) -> bytes:
    """Return a plan's bytes without the gate, for the build that takes partial plans."""
    parts = taken_apart(plan)  # type: ignore[arg-type]
    parts.ops = [fields for fields in parts.ops if fields[CODE] != OpCode.GATE]
    return parts.joined()


@pytest.fixture(scope="module")
def partial() -> Path:
    return build_launcher(defines=("TEST_PARTIAL_PLANS",))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_forgotten_descriptors_are_closed_at_every_exec(
    probes: Probes, partial: Path, method: str, depth: int
) -> None:  # fmt: skip
    plan = plan_of([probes["pass"], method, str(depth), probes["fds"]])
    assert set(table(launch(plan).out).numbers) == {0, 1, 2}
    # Without the gate they are all there: one of each program in the row.
    leaked = launch(without_gate(plan), launcher=partial)
    assert set(table(leaked.out).numbers) == {0, 1, 2, *range(3, 3 + depth)}


@pytest.mark.parametrize("method", METHODS)
def test_kernel_without_thread_pidfds_closes_as_well(probes: Probes, method: str) -> None:
    """Before Linux 6.9 a pidfd stands for a process; the executing thread must then share its table."""
    older = build_launcher(defines=("TEST_OLD_PIDFD",))
    ended = launch(plan_of([probes["pass"], method, "2", probes["fds"]]), launcher=older)
    assert set(table(ended.out).numbers) == {0, 1, 2}, ended


LEAKERS = {
    "bash": [BASH, "-c", 'exec 7</etc/passwd; "$0"'],
    "dash": [SH, "-c", 'exec 7</etc/passwd; "$0"; :'],
    "perl": ["perl", "-e", '$^F = 20; open(F, "<", "/etc/passwd"); system($ARGV[0])'],
    "python": [
        PYTHON,
        "-c",
        "import os, sys; os.set_inheritable(os.open('/etc/passwd', 0), True); os.execv(sys.argv[1], sys.argv[1:])",
    ],
}  # fmt: skip


@pytest.mark.parametrize("language", sorted(LEAKERS))
def test_unmodified_program_leaks_nothing(probes: Probes, partial: Path, language: str) -> None:
    plan = plan_of([*LEAKERS[language], probes["fds"]])
    assert set(table(launch(plan).out).numbers) == {0, 1, 2}
    assert len(table(launch(without_gate(plan), launcher=partial).out).numbers) > 3


@pytest.mark.parametrize("closed", [0, 2])
def test_three_descriptors_are_not_taken_for_the_streams(probes: Probes, partial: Path, closed: int) -> None:
    """Where 0, 1 and 2 are all there is the gate need not look at each; here as many are open."""
    plan = plan_of([BASH, "-c", f'exec 7</etc/passwd {closed}>&-; exec "$0"', probes["fds"]])
    assert set(table(launch(without_gate(plan), launcher=partial).out).numbers) == {0, 1, 2, 7} - {closed}
    assert set(table(launch(plan).out).numbers) == {0, 1, 2} - {closed}


def test_script_and_loader_leak_nothing(probes: Probes, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\nexec {probes['fds']}\n")
    script.chmod(0o755)
    assert set(table(sandbox("--", probes["pass"], "exec", "1", script).out).numbers) == {0, 1, 2}
    ended = sandbox("--", probes["pass"], "exec", "1", "/lib64/ld-linux-x86-64.so.2", "/bin/ls", "/proc/self/fd")
    assert ended.out.split() == ["0", "1", "2", "3"]  # 3 is the folder that ls reads


def test_named_descriptor_goes_along_and_must_be_named_again(probes: Probes) -> None:
    opening = "exec 7</etc/passwd 8</etc/group; "
    named = sandbox("--", BASH, "-c", opening + 'exec "$0" 70000 /dev/fd/7', probes["fds"])
    assert set(table(named.out).numbers) == {0, 1, 2, 7}
    # What passed is close-on-exec again at the exec after (G2): the shell between had it named, what it starts has not.
    inner = f"{probes['fds']}; :"
    again = sandbox("--", BASH, "-c", opening + f"exec sh -c '{inner}' sh /dev/fd/7")
    assert set(table(again.out).numbers) == {0, 1, 2}


def test_process_substitution_works_and_other_numbers_stay_closed() -> None:
    ended = sandbox(
        "--", BASH, "-c", "exec 7</etc/passwd; cat <(echo one) <(echo two); ls /proc/self/fd | tr '\\n' ' '"
    )
    assert ended == Ended(0, "one\ntwo\n0 1 2 3 ", "")


def test_grant_reaches_the_first_program_only_unless_it_propagates(probes: Probes) -> None:
    for grant, expected in (("a=file:/etc/passwd", {0, 1, 2}), ("a+propagate=file:/etc/passwd", {0, 1, 2, 3})):
        assert set(table(sandbox("--grant", grant, "--", probes["fds"]).out).numbers) == {0, 1, 2, 3}
        for shell in ('"$0"; :', '(exec "$0"); :', 'sh -c "$0; :"; :'):
            ended = sandbox("--grant", grant, "--", SH, "-c", shell, probes["fds"])
            assert set(table(ended.out).numbers) == expected, (grant, shell)


def test_propagating_number_that_was_filled_anew_stops(probes: Probes) -> None:
    for shell, expected in (("exec", {0, 1, 2, 3}), ("exec 3<&-; exec", {0, 1, 2})):
        # `pass` opens the very file of the grant; where 3 was free it gets that number.
        ended = sandbox("--grant", "a+propagate=file:/etc/passwd", "--",
                        SH, "-c", f'{shell} "$0" exec 1 "$1"', probes["pass"], probes["fds"])  # fmt: skip
        assert set(table(ended.out).numbers) == expected, shell


def test_received_descriptor_works_and_closes_at_exec(probes: Probes) -> None:
    program = (
        "import array, os, socket, sys\n"
        "a, b = socket.socketpair()\n"
        "socket.send_fds(a, [b'x'], [os.open('/etc/passwd', 0)])\n"
        "_, fds, _, _ = socket.recv_fds(b, 1, 1)\n"
        "assert os.read(fds[0], 4) == b'root'\n"
        "os.set_inheritable(fds[0], True)\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    ended = sandbox("--", PYTHON, "-c", program, probes["fds"])
    assert set(table(ended.out).numbers) == {0, 1, 2}, ended.err


def test_failed_exec_leaves_the_process_as_it_was(probes: Probes, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    tmp_path.chmod(0o777)
    file.chmod(0o666)
    missing, plain, folder = "/nonexistent/program", str(file), str(tmp_path)
    ended = sandbox("--", probes["locked"], file, missing, plain, folder)
    rows = ended.out.split("\n")
    assert rows[0] == "lock 0 0"
    # The record lock survives each of them: a PATH search must not cost it.
    assert [row for row in rows if row.startswith("held")] == ["held 1 0"] * 3
    assert verdicts(ended.out)["readable"].result == 1


def test_bad_format_fails_as_without_a_gate(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(0o755)
    program = f"import os\ntry: os.execv({str(broken)!r}, ['x'])\nexcept OSError as e: print(e.errno)"
    assert sandbox("--", PYTHON, "-c", program) == Ended(0, "8\n", "")


@pytest.mark.parametrize("place", ["argument", "variable"])
def test_hostile_arguments_neither_stall_nor_pass(probes: Probes, place: str) -> None:
    long = "x" * 100_000 + "/dev/fd/7"
    program = (
        "import os, sys\n"
        "os.dup2(os.open('/etc/passwd', 0), 7, True)\n"
        f"arguments = [sys.argv[1], '70000', {long!r} if {place == 'argument'} else '']\n"
        f"variables = {{'SANDBOX_PASS_FDS': 'x' * 100000 + '7'}} if {place == 'variable'} else {{}}\n"
        "os.execve(sys.argv[1], arguments, variables)\n"
    )
    ended = sandbox("--", PYTHON, "-c", program, probes["fds"])
    assert set(table(ended.out).numbers) == {0, 1, 2}, ended.err


def test_repeated_long_arguments_cost_bounded_time(probes: Probes) -> None:
    """Eight thousand pointers to one long text: the kernel refuses the exec (E2BIG), and the gate is not held up."""
    program = (
        "import os, sys\n"
        "os.dup2(os.open('/etc/passwd', 0), 7, True)\n"
        "try: os.execv(sys.argv[1], [sys.argv[1]] + ['>&/dev/fd/' * 3000] * 8000)\n"
        "except OSError as error: print(error.errno, flush=True)\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    ended = sandbox("--", PYTHON, "-c", program, probes["fds"])
    assert ended.out.startswith("7\n")  # E2BIG
    assert set(table(ended.out).numbers) == {0, 1, 2}


CALLER_PROFILE = """
extends = ["untrusted"]
[descriptors]
delegate = ["own"]
[protocols.own]
rules = [{ caller_argument = "pass=", program = "perl", shape = "number" }]
"""
SEVEN = "$^F = 99; use POSIX; open($f, '<', '/etc/passwd'); POSIX::dup2(fileno($f), 7); {} exec(@{{[$ENV{{PROBE}}]}})"


def open_seven_and_execute(probes: Probes, tmp_path: Path, before: str, arguments: Sequence[str]) -> set[int]:
    """Let perl open 7 and execute the probe, as cmdline has it with these arguments; return what the probe has."""
    profile = tmp_path / "own.toml"
    profile.write_text(CALLER_PROFILE)
    options = ["-p", str(profile), "--execute", str(probes.folder), "--env", f"PROBE={probes['fds']}"]
    ended = sandbox(*options, "--", "perl", "-e", SEVEN.format(before), *arguments)
    found = set(table(ended.out).numbers)
    assert found, ended.err
    return found - {0, 1, 2}


@pytest.mark.parametrize(
    ("arguments", "before", "passes"),
    [
        (["pass=7"], "", True),
        (["pass=8"], "", False),  # not what is open: nothing is given to it
        (["xpass=7"], "", False),
        (["x" * 60000, "pass=7"], "", True),
        (["x" * 70000, "pass=7"], "", False),  # behind what is read
        (["x"] * 40000 + ["pass=7"], "", False),
        (["pass=8" + "x" * 99], '$0 = "pass=7";', True),  # rewritten
        (["pass=7" + "x" * 99], '$0 = "x" x 90;', False),
        (["pass=9"], "open($also, '<', '/etc/group'); POSIX::dup2(fileno($also), 9);", False),
    ],
)  # fmt: skip
def test_caller_s_own_arguments_name_what_it_has_open(
    probes: Probes, tmp_path: Path, arguments: list[str], before: str, passes: bool
) -> None:
    found = open_seven_and_execute(probes, tmp_path, before, arguments)
    assert found == ({7} if passes else set()) | ({9} if "$also" in before else set())


def test_caller_s_argument_that_is_cut_names_nothing(probes: Probes, tmp_path: Path) -> None:
    """Of 64 KiB: a number whose end lies behind them could have been any."""
    start = len("perl\0-e\0" + SEVEN.format("") + "\0")
    for number, ending, numbers in (("7", 1, {7}), ("7", 0, set()), ("71", 0, set())):
        filler = "x" * (65536 - start - len("\0pass=7") - ending)  # so many bytes of the limit are left behind the 7
        assert open_seven_and_execute(probes, tmp_path, "", [filler, f"pass={number}"]) == numbers


def test_gate_is_needed_or_exec_once() -> None:
    ended = launch(without_gate(plan_of(["true"])))
    assert ended == Ended(125, "", "sandbox: plan: a mandatory op is missing\n")


def test_events_tell_each_exec_and_descriptor(tmp_path: Path) -> None:
    status = tmp_path / "status"
    script = "exec 7</etc/passwd; cat <(echo x) >/dev/null"
    with status.open("w") as file:
        os.set_inheritable(file.fileno(), True)
        ended = sandbox("--trace-exec", "--status-fd", str(file.fileno()), "--", BASH, "-c", script)
    assert ended.code == 0
    rows = [json.loads(line) for line in status.read_text().splitlines()]
    exec_row = next(row for row in rows if row["event"] == "exec")
    assert (os.path.basename(exec_row["program"]), os.path.basename(exec_row["from"])) == ("cat", "bash")
    told = {row["number"]: (row["verdict"], row.get("rule")) for row in rows if row["event"] == "descriptor"}
    assert told == {7: ("closed", None), 63: ("passed", "dev-fd")}
    assert f"sandbox: exec: {exec_row['pid']}:   7 closed -> /etc/passwd\n" in ended.err
    assert "63 passed (dev-fd)" in ended.err
