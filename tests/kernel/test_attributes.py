"""What a process has from its caller besides descriptors and environment: nothing that gives or tells anything."""

from __future__ import annotations

import os
import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from sandbox import ops
from sandbox.filesystem import FilesystemPolicy
from sandbox.plan import RULES, OpCode, Plan
from sandbox.profile import Scheduling
from sandbox.resolve import Additions
from tests.support.callers import Ended, launch, niceness, plan_of, run
from tests.support.native import build_launcher
from tests.support.plans import less, plan_for
from tests.support.probes import Probes, verdicts

ROOT: Final = os.geteuid() == 0
NOBODY: Final = 65534
GROUPS: Final = [1, 2, 3]
# Programs that bring themselves into a state that Python cannot.
WRAPPERS: Final = ("setpriv", "--pdeathsig", "USR1", "setarch", "-R")
# What the caller is like, and what its child is like all the same.
CALLER: Final = {
    "umask": 0, "blocked": 60, "ignored": 60, "timer": 1, "alarm": 1, "slack": 777, "parent-death": signal.SIGUSR1,
    "personality": 0x40000, "own-group": 0, "no-new-privileges": 0,
}  # fmt: skip
CHILD: Final = {
    "umask": 0o22, "blocked": 0, "ignored": 0, "timer": 0, "alarm": 0, "slack": 50000, "parent-death": signal.SIGKILL,
    "personality": 0, "own-group": 1, "no-new-privileges": 1, "pending": 0, "own-session": 1, "subreaper": 0,
    "dumpable": 1, "core": 1, "rtprio": 0,
}  # fmt: skip
# What only restricts stays as the caller has it, unless the profile says something else.
KEPT: Final = {"policy": os.SCHED_BATCH, "nice": niceness(3), "processors": 1, "oom_score_adj": 321, "nofile": 123}


def hostile() -> None:
    os.umask(0)
    signal.setitimer(signal.ITIMER_REAL, 500)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    Path("/proc/self/timerslack_ns").write_text("777")
    Path("/proc/self/oom_score_adj").write_text("321")
    os.nice(3)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    resource.setrlimit(resource.RLIMIT_NOFILE, (123, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def plan_with(probes: Probes, **changes: Any) -> Plan:  # noqa: ANN401 - ProcessPolicy's
    additions = Additions(filesystem=FilesystemPolicy(execute=(str(probes.folder),)))
    return plan_of([probes["wall_attributes"]], walls=True, additions=additions, **changes)


def told(ended: Ended) -> dict[str, int]:
    assert (ended.code, ended.err) == (0, ""), ended
    return {name: verdict.result for name, verdict in verdicts(ended.out).items()}


@pytest.fixture(scope="module")
def partial() -> Path:
    return build_launcher(defines=("TEST_PARTIAL_PLANS",))


def test_child_has_nothing_of_its_callers_state_that_gives_or_tells(probes: Probes) -> None:
    twin = told(run([*WRAPPERS, probes["wall_attributes"]], setup=hostile))
    assert {name: twin[name] for name in CALLER} == CALLER
    assert {name: twin[name] for name in KEPT} == KEPT
    found = told(launch(plan_with(probes), setup=hostile, before=WRAPPERS))
    assert {name: found[name] for name in CHILD} == CHILD
    assert {name: found[name] for name in KEPT} == KEPT


def test_profile_sets_niceness_policy_processors_and_score(probes: Probes) -> None:
    wanted = {"nice": niceness(7), "policy": os.SCHED_IDLE, "processors": 1, "oom_score_adj": 400}
    cpus = str(max(os.sched_getaffinity(0)))
    plan = plan_with(probes, nice=niceness(7), scheduling=Scheduling.IDLE, cpus=cpus, oom_score_adj=400)
    found = told(launch(plan))
    assert {name: found[name] for name in wanted} == wanted
    own = told(launch(plan_with(probes)))
    assert own["policy"] == os.sched_getscheduler(0)
    assert own["nice"] == os.getpriority(os.PRIO_PROCESS, 0)
    assert own["processors"] == len(os.sched_getaffinity(0))


# The op -> the attributes that are the caller's without it.
OWNERS: Final = {
    OpCode.UMASK: {"umask"},
    OpCode.SIGNALS: {"blocked", "ignored"},
    OpCode.RESET: {"slack", "personality"},
    OpCode.RLIMIT: {"core"},
    OpCode.NO_NEW_PRIVS: {"no-new-privileges"},
    OpCode.TERMINAL: {"own-session", "own-group"},
}


@pytest.mark.parametrize("code", OWNERS, ids=lambda code: code.name)
def test_without_its_op_an_attribute_is_the_callers(probes: Probes, partial: Path, code: OpCode) -> None:
    if code is OpCode.NO_NEW_PRIVS and not ROOT:
        pytest.skip("needs root: the kernel takes an ordinary user's filter and ruleset only after no_new_privs")
    plan = plan_with(probes)
    dropped = [code] if code is not OpCode.NO_NEW_PRIVS else [code, *without_privileges()]

    def seen(*codes: OpCode) -> dict[str, int]:
        return told(launch(less(plan, *codes), launcher=partial, setup=hostile, before=WRAPPERS))

    whole, mutant = seen(), seen(*dropped)
    differing = {name for name in CHILD if whole[name] != mutant[name]}
    assert differing == OWNERS[code]


# What the profile sets -> the attributes that are the caller's without its op.
SET: Final = {
    OpCode.SCHEDULING: {"nice", "policy"},
    OpCode.AFFINITY: {"processors"},
    OpCode.OOM_SCORE: {"oom_score_adj"},
}


@pytest.mark.parametrize("code", SET, ids=lambda code: code.name)
def test_without_its_op_what_the_profile_sets_is_the_callers(probes: Probes, partial: Path, code: OpCode) -> None:
    if code is OpCode.AFFINITY and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("kernel lacks: a second processor")
    cpus = str(max(os.sched_getaffinity(0)))
    plan = plan_with(probes, nice=niceness(7), scheduling=Scheduling.IDLE, cpus=cpus, oom_score_adj=400)

    def seen(*codes: OpCode) -> dict[str, int]:
        return told(launch(less(plan, *codes), launcher=partial))

    whole, mutant = seen(), seen(code)
    assert {name for name in whole if whole[name] != mutant[name] and name != "keyring"} == SET[code]


def without_privileges() -> list[OpCode]:
    """Return the ops that a process without capabilities can do only after no_new_privs."""
    landlock = [code for code, rule in RULES.items() if rule.step == "landlock"]
    return [*landlock, OpCode.GATE, OpCode.FILTER]


def test_session_keyring_is_its_own(probes: Probes, partial: Path) -> None:
    """Under a filter that lets it be asked; the shipped ones refuse keyctl altogether."""
    plan = plan_for([probes["wall_attributes"]])
    caller = told(run([probes["wall_attributes"]]))["keyring"]
    assert caller > 0
    found = [told(launch(plan))["keyring"] for _ in range(2)]
    assert len({caller, *found}) == 3
    assert told(launch(less(plan, OpCode.RESET), launcher=partial))["keyring"] == caller
    assert told(launch(plan_with(probes)))["keyring"] == -1


def test_real_time_priority_is_taken_back(probes: Probes, partial: Path) -> None:
    if not ROOT:
        pytest.skip("needs root: to have a real-time priority")
    real_time = ["chrt", "--fifo", "5"]
    plan = plan_with(probes)
    assert told(run([*real_time, probes["wall_attributes"]]))["policy"] == os.SCHED_FIFO
    assert told(launch(plan, before=real_time))["policy"] == os.SCHED_OTHER
    without = less(plan, OpCode.RESET)
    assert told(launch(without, launcher=partial, before=real_time))["policy"] == os.SCHED_FIFO


def in_groups() -> None:
    os.setgroups(GROUPS)


def test_another_user_has_none_of_roots_groups(probes: Probes) -> None:
    if not ROOT:
        pytest.skip("needs root: nobody else can become another user, nor leave a group")
    plan = plan_with(probes)
    identity = replace(plan, ops=tuple(sorted((*plan.ops, ops.identity(NOBODY, NOBODY)), key=lambda op: op.code)))
    found = told(launch(identity, setup=in_groups))
    assert (found["user"], found["groups"]) == (NOBODY, 0)
    assert told(run([probes["wall_attributes"]], setup=in_groups))["groups"] == len(GROUPS)
    plain = told(launch(plan, setup=in_groups))
    assert (plain["user"], plain["groups"]) == (0, 0)


def test_without_env_drop_a_variable_that_told_the_caller_of_descriptors_is_kept(
    monkeypatch: pytest.MonkeyPatch, partial: Path
) -> None:
    names = {"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}
    for name in (*names, "OTHER"):
        monkeypatch.setenv(name, "1")
    plan = plan_of(["/usr/bin/env"], additions=Additions(keep=("*",)))

    def told(plan: Plan | bytes) -> set[str]:
        lines = launch(plan, launcher=partial).out.splitlines()
        return {line.partition("=")[0] for line in lines} & {*names, "OTHER"}

    assert told(plan) == {"OTHER"}
    assert told(less(plan, OpCode.ENV_DROP)) == {"OTHER", *names}
