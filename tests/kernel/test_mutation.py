"""Each mandatory op is needed: a build that takes partial plans shows what is lost without it, and by what op.

Table op -> what an observer sees without it:
  STDIO         a directory stands as standard input of the command
  SWEEP         VERIFY finds what is left (125); without both, the caller's descriptor is in the child
  VERIFY        a descriptor that slipped past the sweep would not be found: /proc may then be absent
  SIGNALS       the caller's ignored signals stay ignored, ours stay blocked
  UMASK         the caller's mask stays
  NO_NEW_PRIVS  the status bit is 0; ruleset and filters are refused by the kernel
  FILTER        F_SETFD clears the flag; dup2 replaces the grant
  EXEC_ONCE     a second exec works
  COMMAND       nothing is executed
  EXEC          the launcher refuses to go on
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.plan import MANDATORY, OpCode
from sandbox.profile import DescriptorPolicy
from sandbox.profile_files import default_search_path, load
from tests.support.callers import Ended, launch, plan_of
from tests.support.native import build_launcher
from tests.support.plans import CODE, less, taken_apart
from tests.support.probes import Probes, table, verdicts

EPERM = 1


@pytest.fixture(scope="module")
def partial() -> Path:
    return build_launcher(defines=("TEST_PARTIAL_PLANS",))


def status_of(ended: Ended) -> dict[str, str]:
    assert ended.code == 0, ended
    return {name: value.strip() for name, _, value in (line.partition(":") for line in ended.out.splitlines())}


def leak() -> None:
    os.dup2(os.open("/etc/passwd", os.O_RDONLY), 77)


@pytest.mark.parametrize("code", sorted(MANDATORY), ids=lambda code: code.name)
def test_installed_launcher_refuses_a_plan_without(probes: Probes, marker: Path, code: OpCode) -> None:
    plan = plan_of([probes["mark"], marker])
    assert launch(less(plan)) == Ended(0, "", "")
    marker.unlink()
    ended = launch(less(plan, code))
    assert ended == Ended(125, "", "sandbox: plan: a mandatory op is missing\n")
    assert not marker.exists()


def test_partial_build_runs_a_whole_plan_as_the_installed_one(probes: Probes, partial: Path) -> None:
    whole = plan_of([probes["fds"]], "a=file:/etc/passwd")
    for launcher in (None, partial):
        assert set(table(launch(less(whole), launcher=launcher, setup=leak).out).numbers) == {0, 1, 2, 3}


def test_without_stdio_a_directory_is_accepted(probes: Probes, partial: Path) -> None:
    hold = [probes["hold"], "directory", "0", "--"]
    plan = plan_of(["readlink", "/proc/self/fd/0"])
    assert launch(less(plan), launcher=partial, before=hold).code == 125
    assert launch(less(plan, OpCode.STDIO), launcher=partial, before=hold) == Ended(0, "/\n", "")


def test_without_sweep_verify_catches_it_and_without_both_it_is_seen(probes: Probes, partial: Path) -> None:
    plan = plan_of([probes["fds"]], "a=file:/etc/passwd")

    def seen(*codes: OpCode) -> Ended:
        return launch(less(plan, *codes), launcher=partial, setup=leak)

    assert set(table(seen().out).numbers) == {0, 1, 2, 3}
    ended = seen(OpCode.SWEEP)
    assert (ended.code, "verify: /proc/self/fd: an undeclared descriptor is left: " in ended.err) == (125, True)
    assert set(table(seen(OpCode.SWEEP, OpCode.VERIFY).out).numbers) >= {0, 1, 2, 3, 77}
    assert set(table(seen(OpCode.VERIFY).out).numbers) == {0, 1, 2, 3}


def test_without_verify_an_absent_proc_goes_unnoticed(probes: Probes, marker: Path, partial: Path) -> None:
    options = ["-m"] if os.geteuid() == 0 else ["-rm"]
    script = 'mount -t tmpfs none /proc; exec "$@"'
    wrapper = ["/usr/bin/unshare", *options, "--propagation", "private", "/bin/sh", "-ec", script, "sh"]
    plan = plan_of([probes["mark"], marker])
    assert launch(less(plan), launcher=partial, before=wrapper).code == 125
    assert not marker.exists()
    assert launch(less(plan, OpCode.VERIFY), launcher=partial, before=wrapper) == Ended(0, "", "")
    assert marker.exists()


def test_without_signals_mask_and_dispositions_stay(partial: Path) -> None:
    def caller() -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    plan = plan_of(["cat", "/proc/self/status"])
    whole = status_of(launch(less(plan), launcher=partial, setup=caller))
    assert (int(whole["SigBlk"], 16), int(whole["SigIgn"], 16)) == (0, 0)
    without = status_of(launch(less(plan, OpCode.SIGNALS), launcher=partial, setup=caller))
    assert int(without["SigBlk"], 16).bit_count() > 55
    assert int(without["SigIgn"], 16) & 1 << (signal.SIGUSR1 - 1)


def test_without_umask_the_callers_stays(partial: Path) -> None:
    plan = plan_of(["sh", "-c", "umask"], umask=0o027)

    def caller() -> None:
        os.umask(0o123)

    assert launch(less(plan), launcher=partial, setup=caller).out == "0027\n"
    assert launch(less(plan, OpCode.UMASK), launcher=partial, setup=caller).out == "0123\n"


def test_without_no_new_privs_the_bit_is_clear_or_the_filter_is_refused(partial: Path) -> None:
    plan = plan_of(["cat", "/proc/self/status"])
    assert status_of(launch(less(plan), launcher=partial))["NoNewPrivs"] == "1"
    # Root has lost its capabilities by then, so that the first op which needs the bit fails for everybody.
    confining = [OpCode.NO_NEW_PRIVS]
    for code, step in ((OpCode.RESTRICT, "landlock"), (OpCode.GATE, "gate"), (OpCode.FILTER, "filter")):
        ended = launch(less(plan, *confining), launcher=partial)
        assert (ended.code, ended.err.split(": ")[1]) == (125, step)
        confining += [code, OpCode.RULESET] if code is OpCode.RESTRICT else [code]
    assert status_of(launch(less(plan, *confining), launcher=partial))["NoNewPrivs"] == "0"


def test_without_filter_clearing_and_replacing_work(probes: Probes, partial: Path) -> None:
    loaded = load("untrusted", search=default_search_path(os.environ))
    ungated = replace(loaded, descriptors=DescriptorPolicy())
    plan = plan_of([probes["inside"], "3"], "a=file:/etc/passwd", profile=ungated)
    whole = verdicts(launch(less(plan), launcher=partial).out)
    without = verdicts(launch(less(plan, OpCode.FILTER), launcher=partial).out)
    for name, result in {"setfd-clear": 0, "fionclex": 0, "dup2-granted": 3, "dup3-granted": 3}.items():
        assert (whole[name].result, whole[name].errno) == (-1, EPERM)
        assert without[name].result == result


def test_each_filter_is_needed(probes: Probes, partial: Path) -> None:
    """The compiled policy is more than one program; leaving out any one lets something through."""
    plan = plan_of([probes["inside"], "3"], "a=file:/etc/passwd")
    whole = verdicts(launch(less(plan), launcher=partial).out)
    count = len(plan.only(OpCode.FILTER))
    for dropped in range(count):
        parts = taken_apart(plan)
        filters = [fields for fields in parts.ops if fields[CODE] == OpCode.FILTER]
        parts.ops.remove(filters[dropped])
        found = verdicts(launch(parts.joined(), launcher=partial).out)
        assert {name for name in whole if found.get(name) != whole[name]}, dropped


def test_without_exec_once_a_second_exec_works(probes: Probes, partial: Path) -> None:
    plan = plan_of([probes["again"], "/bin/true"], profile="sealed")
    assert verdicts(launch(less(plan), launcher=partial).out)["execve"].errno == EPERM
    assert verdicts(launch(less(plan, OpCode.EXEC_ONCE), launcher=partial).out)["execve"].errno == 0


def test_without_command_or_exec_nothing_is_executed(probes: Probes, marker: Path, partial: Path) -> None:
    plan = plan_of([probes["mark"], marker])
    for code, expected in ((OpCode.COMMAND, 127), (OpCode.EXEC, None)):
        ended = launch(less(plan, code), launcher=partial)
        assert ended.code == expected if expected else ended.code in {0, 1, 125, 126}
        assert not marker.exists()


def test_without_place_the_plan_is_refused(probes: Probes, marker: Path, partial: Path) -> None:
    plan = plan_of([probes["mark"], marker], "a=file:/etc/passwd")
    ended = launch(less(plan, OpCode.PLACE), launcher=partial)
    assert ended == Ended(125, "", "sandbox: plan: a slot is filled and not placed\n")
    assert not marker.exists()
