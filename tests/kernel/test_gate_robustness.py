"""The exec gate under load and malice: no exec is lost, none hangs, and nothing goes along that was not named."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pyseccomp
import pytest

from sandbox import ops
from sandbox.plan import Namespace, Plan
from sandbox.protocols import PROTOCOLS
from tests.support.callers import Ended, launch, started
from tests.support.plans import plan_for
from tests.support.probes import Probes, table, verdicts
from tests.support.processes import all_end, children, descendants, status_of, wait_for_descendants, watched

BASH: Final = "/bin/bash"
STREAMS: Final = frozenset({0, 1, 2})
USER: Final = (Namespace.USER,)
ALONE: Final = (Namespace.USER, Namespace.PID)


def gated(command: Sequence[str], namespaces: Sequence[Namespace] = ()) -> Plan:
    """Return a plan with the gate, the protocol of `/dev/fd/N`, and these namespaces."""
    return plan_for(
        command,
        launcher=[ops.protocol("dev-fd", rule) for rule in PROTOCOLS["dev-fd"].rules],
        walls=[ops.namespace(namespace) for namespace in namespaces],
        attributes=[ops.env_keep("PATH")],
    )


class Shell:
    """A bash in a sandbox that runs the lines it is sent, descriptor 7 forgotten in it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self._stdin = process.stdin
        self._stdout = process.stdout

    def send(self, line: str) -> None:
        self._stdin.write(line + "\n")
        self._stdin.flush()

    def answers(self, seconds: float = 60) -> bool:
        return bool(select.select([self._stdout], [], [], seconds)[0])

    def answer(self) -> str:
        return self._stdout.readline().rstrip("\n")

    def ask(self, line: str) -> str:
        """Run a line and return the last line that it prints."""
        self.send(line)
        assert self.answers()
        return self.answer()


@contextlib.contextmanager
def shell(namespaces: Sequence[Namespace] = ()) -> Iterator[Shell]:
    plan = gated([BASH, "-c", 'exec 7</etc/passwd; while read -r line; do eval "$line"; done'], namespaces)
    with started(plan, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        bash = Shell(process)
        assert bash.ask("/bin/true; echo begun") == "begun"
        yield bash


def limit_descriptors(pid: int, count: int) -> int:
    """Set a process's soft limit, and return what it was."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, hard))
    return soft


# Load


def test_ten_thousand_execs_in_eight_shells_lose_none_and_leave_nothing() -> None:
    """A supervisor that kept one descriptor of an exec would have none left after 64."""
    loop = "for ((i = 0; i < 1250; i++)); do /bin/true || echo lost; done"
    with shell() as bash:
        limit_descriptors(bash.pid, 64)
        before = status_of(bash.pid, "VmRSS")
        assert bash.ask(f"for j in 1 2 3 4 5 6 7 8; do ({loop}) & done; wait; echo done") == "done"
        assert status_of(bash.pid, "VmRSS") <= before + 8


STORMS: Final = ("chain 2000", "rain 4 500 chain", "rain 4 500 again", "rain 2 20 slow", "preempt 500")


@pytest.mark.parametrize("namespaces", [(), ALONE], ids=["flat", "alone"])
@pytest.mark.parametrize("words", STORMS)
def test_signals_lose_no_exec(probes: Probes, words: str, namespaces: Sequence[Namespace]) -> None:
    assert launch(gated([probes["storm"], *words.split()], namespaces)) == Ended(0, "", "")


def test_storm_probe_sees_what_comes_along(probes: Probes) -> None:
    """The twin of those above: without the gate each of these programs says so."""
    once = [probes["storm"], "chain", "1"]
    assert launch(plan_for(once, confinement=[ops.gate(observe=True)])).code == 2
    assert launch(plan_for(once)).code == 0


def test_listener_is_not_asked_once_all_are_dead(tmp_path: Path) -> None:
    """Before Linux 6.11 that would wait for ever; since then it is told that there is nothing (ENOENT)."""
    trace = ["strace", "-qq", "-e", "trace=ioctl,exit_group", "-o", str(tmp_path / "trace")]
    for _ in range(5):
        assert launch(gated(["/bin/sh", "-c", "/bin/true; exit 3"]), before=trace).code == 3
        calls = (tmp_path / "trace").read_text()
        assert calls.count("SECCOMP_IOCTL_NOTIF_RECV") == calls.count("SECCOMP_IOCTL_NOTIF_SEND") == 1
        assert "exit_group(3)" in calls


def test_execs_killed_on_their_way_do_not_disturb_others() -> None:
    """Each timeout kills shells, and what they start, at no moment in particular."""
    storm = f"timeout -s KILL 0.0$1 {BASH} -c 'while :; do /bin/true; done'"
    with shell() as bash:
        limit_descriptors(bash.pid, 64)
        rounds = (
            f"storm() {{ {storm}; }}; for i in 1 2 3 4 5 6 7 8 9; do for j in 1 2 3 4 5; do storm $i & done; wait; done"
        )
        bash.send(f"{rounds} 2>/dev/null")
        assert bash.ask("/bin/true && echo $?") == "0"


# The supervisor in trouble


def test_exec_waits_while_the_supervisor_is_stopped() -> None:
    with shell() as bash:
        assert bash.ask("/bin/echo before") == "before"
        os.kill(bash.pid, signal.SIGSTOP)
        assert os.waitpid(bash.pid, os.WUNTRACED)[1] == (signal.SIGSTOP << 8 | 0x7F)
        bash.send("echo alive; /bin/echo after")
        assert bash.answer() == "alive"
        assert not bash.answers(0.2)
        os.kill(bash.pid, signal.SIGCONT)
        assert bash.answer() == "after"
        for _ in range(20):
            bash.send("/bin/echo again")
            os.kill(bash.pid, signal.SIGSTOP)
            os.kill(bash.pid, signal.SIGCONT)
            assert bash.answer() == "again"


def test_killed_supervisor_takes_the_sandbox_along() -> None:
    """In a PID namespace nobody is left, whoever started it and however it hides."""
    storm = "while :; do /bin/true; done"
    with shell(ALONE) as bash:
        bash.send(f"setsid {BASH} -c '{storm}' & ({storm}) & (sleep 999 &) & sleep 999")
        wait_for_descendants(bash.pid, "sleep", 2)
        lasting = [pid for pid in descendants(bash.pid) if _name_lasts(pid)]
        assert len(lasting) >= 6  # init, the shell, two that loop, two that sleep
        with watched(*lasting) as pidfds:
            os.kill(bash.pid, signal.SIGKILL)
            assert all_end(pidfds)


def _name_lasts(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text() != "true\n"
    return False


def test_killed_supervisor_without_a_namespace_lets_nobody_execute(tmp_path: Path) -> None:
    """The command itself dies; what it started goes on, but executes nothing any more."""
    report = tmp_path / "report"
    orphan = f"while [ ! -e {tmp_path}/go ]; do read -t 0.01 <>{tmp_path}/never; done; /bin/true; echo $? >{report}"
    os.mkfifo(tmp_path / "never")
    for killed, expected in ((False, "0\n"), (True, "126\n")):
        with shell() as bash:
            bash.send(f"({orphan}) & echo $!")
            child = int(bash.answer())
            (init,) = children(bash.pid)
            (command,) = children(init)
            with watched(child) as waiting, watched(command) as gone:
                if killed:
                    os.kill(bash.pid, signal.SIGKILL)
                    assert all_end(gone)
                (tmp_path / "go").touch()
                assert all_end(waiting)
        assert report.read_text() == expected
        (tmp_path / "go").unlink()


def test_supervisor_without_descriptors_refuses_and_recovers(probes: Probes) -> None:
    look = f"text=$({probes['fds']} 100); code=$?; case $text in *'fd 7'*) echo leak;; *) echo $code;; esac"
    outcomes: list[str] = []
    with shell() as bash:
        before = limit_descriptors(bash.pid, 1024)
        for count in (*range(5, 20), before):  # poll(2) takes no more entries than the limit
            limit_descriptors(bash.pid, count)
            outcomes.append(bash.ask(look))
    assert set(outcomes) == {"126", "0"}
    assert (outcomes[0], outcomes[-1]) == ("126", "0")


ID_VALID, ADDFD = 0x40082102, 0x40182103  # SECCOMP_IOCTL_NOTIF_*, linux/seccomp.h
CALLS: Final = {
    "pidfd_open": None, "pidfd_getfd": None, "ioctl ID_VALID": None, "ioctl ADDFD": None,
    # Then nothing is known of what the exec names, or whether its file is there.
    "process_vm_readv": STREAMS, "openat2": STREAMS | {7},
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_exec_is_refused_where_the_supervisor_fails(probes: Probes, call: str) -> None:
    """The filter of this test stands in for what may keep the supervisor from its work."""
    command = [BASH, "-c", 'exec 7</etc/passwd 8<&7; exec "$@"', BASH, probes["fds"], "100", "/dev/fd/7"]
    name, _, request = call.partition(" ")

    def forbid() -> None:
        rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        about = [pyseccomp.Arg(1, pyseccomp.EQ, globals()[request])] if request else []
        rules.add_rule(pyseccomp.ERRNO(errno.EPERM), name, *about)
        rules.load()

    expected = CALLS[call]
    assert set(table(launch(gated(command)).out).numbers) == STREAMS | {7}
    ended = launch(gated(command), setup=forbid)
    if expected is None:
        assert (ended.code, ended.out) == (126, "")
    else:
        assert set(table(ended.out).numbers) == expected, ended


# The process that executes in trouble


LIMITED: Final = """
import os, resource, sys
os.dup2(0, 7, True)
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
try: os.execv(sys.argv[2], sys.argv[2:])
except OSError as error: print("refused", error.errno)
"""


def test_number_above_the_limit_of_its_process_is_refused(probes: Probes) -> None:
    """A number cannot be put back there. One that needs no closing does not matter."""

    def execute(limit: str, *more: str) -> str:
        command = ["/usr/bin/python3", "-I", "-S", "-c", LIMITED, limit, probes["fds"], "100", *more]
        return launch(gated(command)).out

    assert execute("7") == f"refused {errno.EMFILE}\n"
    assert set(table(execute("8")).numbers) == STREAMS
    assert set(table(execute("7", "/dev/fd/7")).numbers) == STREAMS | {7}


def test_full_table_is_swept(probes: Probes) -> None:
    fill = 'ulimit -n 16; for n in 3 4 5 6 7 8 9 10 11 12 13 14 15; do eval "exec $n</dev/null"; done'
    ended = launch(gated([BASH, "-c", f'{fill}; exec "$0" 100', probes["fds"]]))
    assert set(table(ended.out).numbers) == STREAMS, ended.err


def expected_where_hidden(namespaces: Sequence[Namespace]) -> bool:
    """Tell whether the supervisor may look into a process that is not dumpable: it must own its user namespace."""
    return os.geteuid() == 0 or Namespace.USER in namespaces


@pytest.mark.parametrize("namespaces", [(), USER], ids=["flat", "user"])
@pytest.mark.parametrize("how", ["open", "undumpable", "unreadable"])
def test_hidden_process_is_swept_or_refused(probes: Probes, how: str, namespaces: Sequence[Namespace]) -> None:
    program = probes["gate_hidden"]
    if how == "unreadable":
        program = str(Path(probes.folder) / "unreadable")
        shutil.copy(probes["gate_hidden"], program)
        Path(program).chmod(0o111)
    ended = launch(gated([program, how, probes["fds"], "100", "/dev/fd/7"], namespaces))
    Path(program).chmod(0o755)
    if how == "open" or expected_where_hidden(namespaces):
        assert set(table(ended.out).numbers) == STREAMS | {7}, ended
    else:
        assert ended == Ended(0, f"refused {errno.EACCES}\n", "")


def test_program_that_its_namespace_does_not_own_hides_for_good(probes: Probes) -> None:
    """An unreadable file of another user's: the process belongs to the first user namespace whatever its own is."""
    if os.geteuid():
        pytest.skip("needs root: the file is root's and the user is not")
    program = Path(probes.folder) / "foreign"
    shutil.copy(probes["gate_hidden"], program)
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for mode, refused in ((0o755, False), (0o111, True)):
        program.chmod(mode)
        plan = gated([str(program), "open", probes["fds"], "100", "/dev/fd/7"], USER)
        ended = launch(plan, before=other)
        if refused:
            assert ended == Ended(0, f"refused {errno.EACCES}\n", "")
        else:
            assert set(table(ended.out).numbers) == STREAMS | {7}, ended


# Malice


HOSTILE: Final = {
    "unmapped": {"sound": 0, "array-at-edge": 0},
    "big": {"many-texts": 0, "many-names": 0b011},
    "race": {"unnamed": 0, "unexpected": 0, "after": 0b010},
}
FAILING: Final = {
    "unmapped": {"path", "argv", "argv-in-kernel", "envp", "text", "variable", "array-over-edge", "text-over-edge"},
    "big": {"one-text"},
    "race": set[str](),
}


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_hostile_arguments_fail_as_outside_and_pass_nothing(probes: Probes, kind: str) -> None:
    program = probes["gate_hostile"]
    outside = verdicts(subprocess.run([program, kind], capture_output=True, text=True, check=True).stdout)
    ended = launch(gated([program, kind]))
    inside = verdicts(ended.out)
    assert ended.code == 0
    assert {name: inside[name].result for name in HOSTILE[kind]} == HOSTILE[kind]
    assert {name for name, verdict in inside.items() if verdict.errno} == FAILING[kind]
    assert {name: inside[name] for name in FAILING[kind]} == {name: outside[name] for name in FAILING[kind]}


def test_record_lock_survives_a_path_search(tmp_path: Path) -> None:
    """A file that is missing, one that nobody may execute, a folder; then the search ends, and the process goes on."""
    tmp_path.chmod(0o755)
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir(mode=0o755)
    (tmp_path / "second" / "program").write_text("")
    (tmp_path / "third" / "program").mkdir()
    lock = tmp_path / "lock"
    lock.write_text("text")
    lock.chmod(0o666)
    found = ":".join(str(tmp_path / name) for name in ("first", "second", "third"))
    program = f"""
import fcntl, os, subprocess
fd = os.open({str(lock)!r}, os.O_RDWR)
os.set_inheritable(fd, True)
fcntl.lockf(fd, fcntl.LOCK_EX)
def is_locked():
    pid = os.fork()
    if pid == 0:
        try: fcntl.lockf(os.open({str(lock)!r}, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError: os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
try: os.execvpe("program", ["program"], {{"PATH": {found!r}}})
except OSError as error: print(error.errno, is_locked(), os.read(fd, 4), flush=True)
fcntl.lockf(fd, fcntl.LOCK_UN)
print(is_locked())
"""
    ended = launch(gated(["/usr/bin/python3", "-I", "-S", "-c", program]))
    assert ended == Ended(0, f"{errno.EACCES} 1 b'text'\n0\n", "")
