"""The sandbox's own cgroup, on the kernel's own hierarchy of version 2: made, limited, emptied and removed.

Root uses the hierarchy's top; for an ordinary user run-as-ordinary-user has a folder delegated. Which controllers there
are depends on the host: where version 1 has them, version 2 has the cgroups and no limit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from sandbox import limits, ops, wire
from sandbox.filesystem import FilesystemPolicy
from sandbox.limits import Delegated, Limits
from sandbox.plan import Namespace, Op, OpCode, Plan
from sandbox.profile_files import default_search_path, load
from sandbox.resolve import Additions
from sandbox.syscall_table import NUMBERS
from tests.support.callers import SANDBOX, Ended, launch, run, started
from tests.support.plans import plan_for
from tests.support.probes import Probes, Verdict, verdicts
from tests.support.processes import SECONDS
from tests.support.sealing import sealed_file

ROOT: Final = os.geteuid() == 0
MIB: Final = 1 << 20
# Of the kernel's own, there whatever the controllers: how many cgroups there may be below.
PLAIN_SETTING: Final = ("cgroup.max.descendants", "7")


def hierarchy() -> Path:
    """Return where version 2 is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 ") and os.path.isdir(before.split()[4]):
            return Path(before.split()[4])
    pytest.skip("kernel lacks: a cgroup version 2 hierarchy that is mounted")


def own_folder() -> Path:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return hierarchy() / next(line[3:] for line in lines if line.startswith("0::")).lstrip("/")


@pytest.fixture
def delegated() -> Iterator[Path]:
    """Yield an empty cgroup in which this user may make others."""
    above = hierarchy() if ROOT else own_folder().parent
    if not os.access(above / "cgroup.procs", os.W_OK):
        pytest.skip("kernel lacks: a delegated cgroup; run-as-ordinary-user has one made")
    folder = above / f"sandbox-test-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        (folder / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + SECONDS
        while "populated 1" in (folder / "cgroup.events").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        for below, _, _ in os.walk(folder, topdown=False):
            os.rmdir(below)


def plan_with(command: Sequence[str], walls: Sequence[Op] = (), *, launcher: Sequence[Op]) -> Plan:
    return plan_for(command, launcher=launcher, walls=walls)


def joined(folder: Path) -> Callable[[], None]:
    """Return what moves a process there."""

    def move() -> None:
        (folder / "cgroup.procs").write_text("0")

    return move


def below(folder: Path) -> list[str]:
    """Return the sandboxes' folders."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name.startswith("sandbox-"))


def inside(folder: Path) -> str:
    """Return what /proc/self/cgroup says of processes in it."""
    return f"0::/{folder.relative_to(hierarchy())}"


def test_sandbox_lives_in_a_cgroup_of_its_own_that_is_gone_afterwards(delegated: Path) -> None:
    show = ["/bin/sh", "-c", "grep 0:: /proc/self/cgroup /proc/$PPID/cgroup"]
    ended = launch(plan_with(show, launcher=[ops.cgroup(str(delegated))]))
    assert (ended.code, ended.err) == (0, "")
    # The init, which this plan lets it see, is in there as well.
    assert len({line.partition(":")[2] for line in ended.out.split()}) == 1
    assert ended.out.count(f"{inside(delegated)}/sandbox-") == 2
    assert below(delegated) == []
    assert inside(delegated) not in launch(plan_with(show, launcher=[])).out


def test_cgroup_namespace_hides_where_it_lies(delegated: Path) -> None:
    own = [ops.namespace(Namespace.USER), ops.namespace(Namespace.CGROUP)]
    show = ["/bin/grep", "0::", "/proc/self/cgroup"]
    assert launch(plan_with(show, own, launcher=[ops.cgroup(str(delegated))])).out == "0::/\n"
    without = launch(plan_with(show, own[:1], launcher=[ops.cgroup(str(delegated))])).out
    assert without.startswith(f"{inside(delegated)}/sandbox-")


def test_without_clone3_the_init_goes_there_itself(probes: Probes, delegated: Path) -> None:
    outer = [probes["outer"], str(NUMBERS["clone3"]), str(errno.ENOSYS), "-"]
    plan = plan_with(["/bin/grep", "0::", "/proc/self/cgroup"], launcher=[ops.cgroup(str(delegated))])
    ended = launch(plan, before=outer)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"{inside(delegated)}/sandbox-")
    assert below(delegated) == []


def test_setting_is_made_before_the_command_runs(delegated: Path) -> None:
    path = f"{delegated}/sandbox-*/{PLAIN_SETTING[0]}"
    launcher = [ops.cgroup(str(delegated)), ops.cgroup_set(*PLAIN_SETTING)]
    show = ["/bin/sh", "-c", f"cat {path}"]
    assert launch(plan_with(show, launcher=launcher)) == Ended(0, f"{PLAIN_SETTING[1]}\n", "")
    assert launch(plan_with(show, launcher=launcher[:1])) == Ended(0, "max\n", "")


def left(marker: str) -> list[int]:
    """Return what is left of the marked processes, and kill it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if marker.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
                os.kill(int(process.name), signal.SIGKILL)
    return found


@pytest.mark.parametrize("own", [True, False])
def test_daemons_end_with_the_cgroup_alone(probes: Probes, delegated: Path, own: bool) -> None:
    """No PID namespace: sessions of their own, deaf, half of them stopped. Without the cgroup they stay."""
    marker = f"cgroup-{os.getpid()}-{own}"
    launcher = [ops.cgroup(str(delegated))] if own else []
    plan = plan_with([probes["wall_bomb"], "daemons", marker], launcher=launcher)
    ended = launch(plan, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert ended.code == 0
    assert len(left(marker)) == (0 if own else 4)
    assert below(delegated) == []


def test_time_that_is_up_ends_all_of_the_cgroup(probes: Probes, delegated: Path) -> None:
    marker = f"cgroup-{os.getpid()}-time"
    script = '"$0" daemons "$1" >/dev/null; exec sleep 1000'
    plan = plan_with(
        ["/bin/sh", "-c", script, probes["wall_bomb"], marker], launcher=[ops.timeout(500), ops.cgroup(str(delegated))]
    )
    assert launch(plan).code == 124
    assert (left(marker), below(delegated)) == ([], [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_leaves_no_cgroup_behind(delegated: Path, number: signal.Signals) -> None:
    plan = plan_with(["/bin/sh", "-c", "echo; exec sleep 1000"], launcher=[ops.cgroup(str(delegated))])
    with started(plan, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(below(delegated)) == 1
        process.send_signal(number)
        assert process.wait(SECONDS) == 128 + number
    assert below(delegated) == []


def test_what_a_killed_launcher_left_is_removed_by_the_next_and_what_lives_is_not(delegated: Path) -> None:
    plan = plan_with(["/bin/sh", "-c", "echo; exec sleep 1000"], launcher=[ops.cgroup(str(delegated))])
    with started(plan, stdout=subprocess.PIPE) as killed, started(plan, stdout=subprocess.PIPE) as lives:
        for process in (killed, lives):
            assert process.stdout is not None
            process.stdout.readline()
        both = below(delegated)
        assert len(both) == 2
        killed.kill()
        killed.wait()
        assert below(delegated) == both
        gone = next(name for name in both if name.startswith(f"sandbox-{killed.pid}"))
        deadline = time.monotonic() + SECONDS
        while "populated 1" in (delegated / gone / "cgroup.events").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert launch(plan_with(["/bin/true"], launcher=[ops.cgroup(str(delegated))])) == Ended(0, "", "")
        assert below(delegated) == [name for name in both if name != gone]


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("/tmp", "Operation not supported"), ("/nowhere", "No such file or directory")],
)
def test_folder_that_is_none_is_an_error(marker: Path, folder: str, reason: str) -> None:
    ended = launch(plan_with(["/bin/touch", str(marker)], launcher=[ops.cgroup(folder)]))
    assert (ended.code, ended.out, marker.exists()) == (125, "", False)
    assert ended.err.startswith(f"sandbox: cgroup: {folder}: {reason}; have one delegated (systemd-run ")


def test_setting_that_cannot_be_made_is_an_error_and_leaves_nothing(delegated: Path, marker: Path) -> None:
    command = ["/bin/touch", str(marker)]
    for file, value in (("nothing.max", "1"), (PLAIN_SETTING[0], "many")):
        ended = launch(plan_with(command, launcher=[ops.cgroup(str(delegated)), ops.cgroup_set(file, value)]))
        assert (ended.code, ended.out, marker.exists(), below(delegated)) == (125, "", False, [])
        assert ended.err.startswith(f"sandbox: cgroup: {file} {value}: ")
    launcher = [ops.cgroup(str(delegated)), ops.cgroup_set(*PLAIN_SETTING)]
    assert (launch(plan_with(command, launcher=launcher)), marker.exists()) == (Ended(0, "", ""), True)


def test_start_that_fails_leaves_no_cgroup(delegated: Path) -> None:
    launcher = [ops.cgroup(str(delegated))]
    assert launch(plan_with(["/nowhere"], launcher=launcher)).code == 127
    failing = plan_for(["/bin/true"], launcher=launcher, attributes=[ops.chdir("/nowhere")])
    assert launch(failing).code == 125
    assert below(delegated) == []


# ---- with controllers ----


def with_controllers(folder: Path, *names: str) -> Delegated:
    """Return the folder as delegated, skipping where this host's version 2 has not these controllers."""
    for name in names:
        if name not in (folder / "cgroup.controllers").read_text().split():
            pytest.skip(f"kernel lacks: controller {name} in cgroup version 2 (version 1 has it)")
    return Delegated(str(folder), frozenset(names), swap=Path("/proc/swaps").exists())


def limited(command: Sequence[str], limit: Limits, delegated: Delegated) -> Plan:
    found = list(limits.limit_ops(limit, delegated, uid=os.geteuid()))
    assert OpCode.CGROUP in {op.code for op in found}
    return plan_for(command, launcher=found, walls=[ops.namespace(namespace) for namespace in Namespace])


def test_memory_of_all_together_is_held(probes: Probes, delegated: Path) -> None:
    """Each of the processes takes 20 MiB, which no limit of one would refuse."""
    folder = with_controllers(delegated, "memory")
    bomb = limited([probes["wall_bomb"], "memory", "bomb"], Limits(memory=64 * MIB), folder)
    assert launch(bomb).code == 128 + signal.SIGKILL
    script = ["/usr/bin/python3", "-c", TOGETHER]
    assert launch(limited(script, Limits(memory=64 * MIB), folder)).code == 128 + signal.SIGKILL
    assert launch(limited(script, Limits(memory=400 * MIB), folder)) == Ended(0, "done\n", "")
    assert below(delegated) == []


# Six processes, 20 MiB each, at the same time.
TOGETHER: Final = """
import os
ends = [os.pipe() for _ in range(6)]
for reading, writing in ends:
    if os.fork() == 0:
        held = bytearray(b"x") * (20 << 20)
        os.write(writing, b"x")
        os.read(os.pipe()[0], 1)
for reading, writing in ends:
    os.read(reading, 1)
print("done")
"""


def test_processes_are_counted_together(probes: Probes, delegated: Path) -> None:
    """Root's, too, of whom the resource limit counts none."""
    folder = with_controllers(delegated, "pids")
    few = launch(limited([probes["wall_bomb"], "some-forks", "few"], Limits(processes=3), folder))
    assert verdicts(few.out)["fork"] == Verdict(-1, errno.EAGAIN)
    assert few.out.startswith("fork 0 0\nfork 0 0\nfork -1 ")
    assert launch(limited([probes["wall_bomb"], "some-forks", "many"], Limits(processes=12), folder)) == Ended(
        0, "fork 0 0\n" * 4, ""
    )


def test_fork_bomb_is_held_and_gone(probes: Probes, delegated: Path) -> None:
    folder = with_controllers(delegated, "pids")
    marker = f"cgroup-{os.getpid()}-bomb"
    plan = limited([probes["wall_bomb"], "forks", marker], Limits(processes=20, timeout=1500), folder)
    ended = launch(plan)
    assert (ended.code, ended.out) == (124, f"held -1 {errno.EAGAIN}\n")
    assert (left(marker), below(delegated)) == ([], [])


def test_processors_are_shared_out(delegated: Path) -> None:
    folder = with_controllers(delegated, "cpu")

    path = f"{delegated}/sandbox-*/cpu.stat"
    script = (
        f"i=0; while [ $((i += 1)) -lt 400 ] && ! grep -q 'nr_throttled [1-9]' {path}; do :; done; grep nr_thr {path}"
    )
    throttled = launch(limited(["/bin/sh", "-c", script], Limits(cpu=0.1), folder))
    assert throttled.code == 0
    assert int(throttled.out.split()[1]) > 0
    short = script.replace("400", "20")
    assert launch(limited(["/bin/sh", "-c", short], Limits(cpu=8), folder)).out == "nr_throttled 0\n"


def test_command_line_finds_the_folder_it_is_in_and_says_so(delegated: Path) -> None:
    """The folder has but this process, which the launcher takes aside."""
    with_controllers(delegated, "memory", "pids", "cpu")
    options = ["--limit", "memory=256M", "--limit", "processes=50", "--limit", "cpu=1", "--chdir", "/"]
    told = run([*SANDBOX, "explain", *options[:6]], setup=joined(delegated)).out
    assert "memory: 256M, by cgroup memory.max" in told
    assert "processes: 50, by cgroup pids.max" in told
    ended = run(
        [*SANDBOX, "run", *options, "--", "cat", "/proc/self/cgroup", "/proc/self/limits"], setup=joined(delegated)
    )
    assert (ended.code, ended.err) == (0, "")
    assert "0::/\n" in ended.out
    assert "Max address space         unlimited" in ended.out
    assert below(delegated) == []
    with beside(delegated) as other:
        assert "memory: 256M, by RLIMIT_AS" in run([*SANDBOX, "explain", *options[:2]], setup=joined(other)).out


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """Yield a folder that passes no controller on, and cannot, since there is always a process in it."""
    other = folder / "beside"
    other.mkdir()
    with subprocess.Popen(["sleep", "60"], preexec_fn=joined(other)) as sleeping:  # noqa: PLW1509
        yield other
        sleeping.kill()


# ---- sealed files, which look for the folder at their start ----

UNTRUSTED: Final = load("untrusted", search=default_search_path({}))
LIMITED: Final = Additions(limits={"memory": "64M", "processes": 20, "cpu": 0.5}, chdir="/")


def planned_both(file: Path, folder: Path, prefix: Sequence[str], names: Sequence[str]) -> tuple[object, object]:
    """Return the limits' ops that a sealed file would carry out in a folder, and those of `sandbox run` there."""
    codes = (OpCode.CGROUP, OpCode.CGROUP_SET, OpCode.RLIMIT)
    apart = ["unshare", "--mount", "--propagation", "private"] if prefix else []  # nothing of it stays here
    enter = [*apart, "sh", "-ec", f'{" ".join(prefix)} echo 0 >{folder}/cgroup.procs; exec "$@"', "-"]
    done = subprocess.run([*enter, file, "--sandbox-plan"], capture_output=True, check=False, timeout=SECONDS)
    ours: object = done.stderr.decode()
    if done.returncode == 0:
        ours = [op.describe() for op in wire.decode(done.stdout).ops if op.code in codes]
    options = [word for name in names for word in ("--limit", f"{name}={LIMITED.limits[name]}")]
    shown = subprocess.run(
        [*enter, *SANDBOX, "run", "--dry-run", "--chdir", "/", *options, "true"],
        capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    words = ("cgroup ", "cgroup_set ", "rlimit ")
    theirs: object = shown.stderr
    if shown.returncode == 0:
        theirs = [line.strip() for line in shown.stdout.splitlines() if line.strip().startswith(words)]
    return ours, theirs


ALL: Final = ("memory", "processes", "cpu")


@pytest.mark.parametrize(
    ("names", "claimed", "where"),
    [
        *((names, "", "alone") for names in (("memory",), ("processes",), ("cpu",))),
        *((ALL, "memory pids cpu", where) for where in ("alone", "beside", "below")),
        *((names, "cpuset cpu", "alone") for names in (("memory",), ("memory", "cpu"), ("processes", "cpu"))),
        (("processes",), "pids", "below"),
        (("memory", "processes"), "pids", "beside"),
    ],
    ids=str,
)  # fmt: skip
def test_sealed_file_decides_as_run_does(
    tmp_path: Path, delegated: Path, names: Sequence[str], claimed: str, where: str
) -> None:
    """What the folder says that it has is covered by what it would say elsewhere: then nothing is carried out."""
    if claimed and not ROOT:
        pytest.skip("needs root: it mounts another file over cgroup.controllers")
    file = sealed_file(
        tmp_path / "sealed", UNTRUSTED, ["true"], replace(LIMITED, limits={n: LIMITED.limits[n] for n in names})
    )
    said = tmp_path / "said"
    said.write_text(f"{claimed}\n")
    prefix: list[str] = []
    with contextlib.ExitStack() as ours:
        folder = delegated
        if where == "beside":
            folder = ours.enter_context(beside(delegated))
        if where == "below":
            folder = delegated / "below"
            folder.mkdir()
            if ROOT:
                os.setxattr(delegated, "trusted.delegate", b"1")
            os.chmod(folder / "cgroup.subtree_control", 0o444)
        if claimed:
            for one in {delegated, folder}:
                for name in ("cgroup.controllers", "cgroup.subtree_control"):
                    prefix += ["mount", "--bind", str(said), str(one / name), ";"]
        sealed, of_run = planned_both(file, folder, prefix, names)
    assert sealed == of_run
    if claimed == "memory pids cpu":
        assert isinstance(sealed, list)
        assert [line.split()[0] for line in sealed][:2] == ["cgroup", "cgroup_set"]


def test_sealed_file_is_held_by_a_cgroup_where_one_is_delegated(
    probes: Probes, tmp_path: Path, delegated: Path
) -> None:
    with_controllers(delegated, "memory", "pids", "cpu")
    show = "cat /proc/self/cgroup; grep 'address space' /proc/self/limits"
    added = replace(LIMITED, filesystem=FilesystemPolicy(read=(str(delegated),), execute=(probes["wall_bomb"],)))
    file = sealed_file(
        tmp_path / "sealed", UNTRUSTED, ["sh", "-c", f"{show}; cat {delegated}/sandbox-*/pids.max"], added
    )
    ended = run([str(file)], setup=joined(delegated))
    assert (ended.code, ended.err) == (0, "")
    assert "0::/\n" in ended.out
    assert "unlimited" in ended.out
    assert ended.out.endswith("21\n")
    bomb = sealed_file(tmp_path / "bomb", UNTRUSTED, [probes["wall_bomb"], "memory", "bomb"], added)
    assert run([str(bomb)], setup=joined(delegated)).code == 128 + signal.SIGKILL
    assert below(delegated) == []
