"""Terminals: none, private, the caller's; what is typed and shown, who stops, and what the caller's is afterwards.

Bytes are text in Latin-1 here, one character each.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import select
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest

from sandbox import ops, seccomp, wire
from sandbox.filtering import FilterPolicy
from sandbox.plan import Namespace, Op, Terminal
from sandbox.probe import launcher_path
from sandbox.syscalls import GROUPS, expand
from tests.support.native import build_launcher
from tests.support.plans import ALLOW_ALL, plan_for
from tests.support.probes import Probes, Verdict, public_folder, verdicts
from tests.support.processes import children

SECONDS = 30
PROMPT = "READY> "
# Makes the plan's file a sealed memfd and becomes the launcher.
START = """
import fcntl, os, sys
fd = os.memfd_create("plan", os.MFD_ALLOW_SEALING)
os.write(fd, open(sys.argv[2], "rb").read())
fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 15)
os.execv(sys.argv[1], [sys.argv[1], str(fd)])
"""
PYTHON = "/usr/bin/python3"


@pytest.fixture
def shared() -> Iterator[Path]:
    """Yield a folder for plans that another user may look into."""
    with public_folder() as folder:
        yield folder


def words(
    folder: Path,
    command: Sequence[str],
    mode: Terminal | None = Terminal.PRIVATE,
    *,
    filters: Sequence[bytes] = (ALLOW_ALL,),
    launcher: Path | None = None,
    more: Sequence[Op] = (),
    namespaces: Sequence[Namespace] = tuple(Namespace),
    confinement: Sequence[Op] = (),
) -> list[str]:
    """Return a command that starts `command` in a sandbox with all namespaces, the host's files, and this terminal."""
    plan = plan_for(
        [shutil.which(command[0]) or command[0], *command[1:]],
        launcher=[*([] if mode is None else [ops.terminal(mode)]), *more],
        walls=[ops.namespace(namespace) for namespace in namespaces],
        attributes=[ops.env_keep("*")],
        filters=filters,
        confinement=confinement,
    )
    data = wire.encode(plan)
    file = folder / f"{hashlib.sha256(data).hexdigest()[:12]}.plan"
    file.write_bytes(data)
    return [PYTHON, "-I", "-S", "-c", START, str(launcher or launcher_path()), str(file)]


def line_of(folder: Path, command: Sequence[str], mode: Terminal | None = Terminal.PRIVATE, **more: Any) -> str:  # noqa: ANN401 - words()'s
    """Return the same as a script to name in a shell."""
    argv = words(folder, command, mode, **more)
    script = Path(argv[-1]).with_suffix(".sh")
    (folder / "start.py").write_text(START)
    script.write_text(f"#!/bin/sh\nexec {PYTHON} -I -S {folder}/start.py {argv[-2]} {argv[-1]}\n")
    script.chmod(0o755)
    return str(script)


@contextmanager
def at_terminal(
    argv: Sequence[str],
    **options: Any,  # noqa: ANN401 - pexpect's
) -> Iterator[pexpect.spawn[str]]:
    """Run a program as the leader of a session with a terminal of its own."""
    child = pexpect.spawn(argv[0], list(argv[1:]), timeout=SECONDS, encoding="latin-1", **options)
    child.delaybeforesend = None
    try:
        yield child
    finally:
        child.close(force=True)


@contextmanager
def shell() -> Iterator[pexpect.spawn[str]]:
    """Run an interactive bash with job control."""
    with at_terminal(["/bin/bash", "--norc", "--noprofile", "--noediting", "-i"], echo=False) as bash:
        bash.sendline(f"PS1='{PROMPT[:3]}''{PROMPT[3:]}'")
        bash.expect_exact(PROMPT)
        yield bash


def settings(bash: pexpect.spawn[str]) -> str:
    """Ask for the settings of the shell's terminal."""
    bash.sendline("stty -g")
    bash.expect(r"([0-9a-f]+(:[0-9a-f]+)+)\r\n")
    assert isinstance(bash.match, re.Match)
    found = str(bash.match[1])
    bash.expect_exact(PROMPT)
    return found


def rest(child: pexpect.spawn[str]) -> tuple[str, int | None]:
    """Read to the end; return the text and the exit code."""
    child.expect(pexpect.EOF)
    child.wait()
    return str(child.before).replace("\r\n", "\n"), child.exitstatus


def report(
    folder: Path, probes: Probes, mode: Terminal | None, filters: Sequence[bytes] = (ALLOW_ALL,)
) -> dict[str, Verdict]:
    """Return what the terminal probe says in this mode."""
    with at_terminal(words(folder, [probes["terminal"]], mode, filters=filters), dimensions=(31, 97)) as child:
        text, code = rest(child)
    assert code == 0, text
    # What the probe could type in front of a line of its own.
    return verdicts(re.sub(r"^x+", "", text, flags=re.MULTILINE))


# Modes.


def test_terminal_none_is_a_session_without_one_and_the_stream_still_works(shared: Path, probes: Probes) -> None:
    found = report(shared, probes, Terminal.NONE)
    assert found["dev-tty"].errno == errno.ENXIO
    assert found["take-foreground"].errno == errno.ENOTTY
    assert (found["own-group"].result, found["rows"].result, found["settings"].result) == (1, 31, 0)
    assert found["take"].errno == found["take-by-force"].errno == errno.EPERM
    assert found["take-own"].result == 0


@pytest.mark.parametrize("mode", [Terminal.INHERIT, None])
def test_terminal_of_the_caller_is_the_controlling_one(shared: Path, probes: Probes, mode: Terminal | None) -> None:
    found = report(shared, probes, mode)
    assert found["dev-tty"].result == 0
    assert (found["own-group"].result, found["foreground"].result, found["rows"].result) == (0, 0, 31)


def test_terminal_private_is_the_controlling_one_of_a_session_of_its_own(shared: Path, probes: Probes) -> None:
    found = report(shared, probes, Terminal.PRIVATE)
    assert found["dev-tty"].result == 0
    # Not the leader: that is the init, in another group, so that the child's group is not orphaned.
    assert [found[name].result for name in ("leader", "own-group", "foreground", "take-foreground")] == [0, 1, 0, 0]
    # Its size is right from the first instruction on.
    assert (found["rows"].result, found["take"].errno, found["take-own"].result) == (31, errno.EPERM, 0)


def test_terminal_private_is_another_one_with_the_caller_s_settings(shared: Path) -> None:
    script = "stty erase ^X intr ^Y -ixany iutf8; stty -g; tty; "
    with at_terminal(["/bin/sh", "-c", script + line_of(shared, ["sh", "-c", "stty -g; tty"])]) as child:
        (ours, name, theirs, other), code = rest(child)[0].split(), child.exitstatus
    assert (theirs, code) == (ours, 0)
    assert other != name
    assert re.fullmatch(r"/dev/pts/\d+", other)


def test_terminal_private_without_any_stream_on_one_is_none(shared: Path) -> None:
    script = "(: </dev/tty) && echo has one; [ -t 0 ] || [ -t 1 ] || [ -t 2 ] || echo no stream"
    argv = words(shared, ["sh", "-c", script])
    with at_terminal(["/bin/sh", "-c", '"$@" </dev/null 2>&1 | cat', "sh", *argv]) as child:
        text, _ = rest(child)
    assert "no stream" in text
    assert "has one" not in text
    assert "No such device or address" in text


def test_terminal_private_opened_as_dev_tty_is_the_same_one(shared: Path) -> None:
    job = line_of(shared, ["sh", "-c", "tty; [ -t 1 ] && [ -t 2 ] && echo all; read -r word; echo got-$word"])
    with at_terminal(["/bin/sh", "-c", f"{job} </dev/tty"], echo=False) as child:
        child.expect_exact("all\r\n")
        child.sendline("typed")
        assert "got-typed" in rest(child)[0]


def test_terminal_private_leaves_streams_alone_that_are_elsewhere(shared: Path) -> None:
    """A file, a pipe, and another terminal stay; only what is on the relayed terminal is replaced."""
    leader, follower = os.openpty()
    name = os.ttyname(follower)
    job = line_of(shared, ["sh", "-c", "tty <&2; [ -t 1 ] && echo one; cat <&0 >&2"])
    try:
        with at_terminal(["/bin/sh", "-c", f"echo piped | {job} 2>{name}"]) as child:
            text, code = rest(child)
        assert (text.split(), code) == ([name, "one"], 0)
        assert os.read(leader, 100) == b"piped\r\n"
    finally:
        os.close(leader)
        os.close(follower)


def test_terminal_private_output_only_leaves_the_keyboard_to_others(shared: Path) -> None:
    """Input comes from elsewhere: another process of the same job reads what is typed, with its own settings."""
    job = line_of(shared, ["sh", "-c", "echo go; exec sleep 100"])
    script = f"stty -g; {job} </dev/null & sleep 1; stty -g; read -r word; echo got-$word; kill $!; wait; stty -g"
    with at_terminal(["/bin/sh", "-c", script], echo=False) as child:
        child.expect_exact("go")
        child.sendline("word")
        text, _ = rest(child)
    assert "got-word" in text
    before, after = re.findall(r"[0-9a-f]+(?::[0-9a-f]+){30,}", text)
    assert before == after


def test_terminal_private_output_only_typed_signal_reaches_the_child(shared: Path) -> None:
    job = line_of(shared, ["sh", "-c", "trap 'echo caught; exit 3' INT; echo go; while :; do sleep 0.05; done"])
    with shell() as bash:
        bash.sendline(f"{job} </dev/null; echo code $?")
        bash.expect_exact("go")
        bash.send("\x03")
        bash.expect_exact("caught")
        bash.expect_exact("code 3")


def test_terminal_private_child_has_no_descriptor_of_the_caller_s_and_none_of_the_master(
    shared: Path, probes: Probes
) -> None:
    with at_terminal(words(shared, [probes["fds"]])) as child:
        text, _ = rest(child)
    found = {int(fd) for fd in re.findall(r"^fd (\d+) ", text, re.MULTILINE)}
    assert found == {0, 1, 2}
    identities = set(re.findall(r"^fd \d+ \d+ \d+ (\d+ \d+)$", text, re.MULTILINE))
    assert len(identities) == 1


# Commands that would reach beyond.

REFUSED = ("type", "linux", "console", "exclusive", "discipline", "keyboard-mode", "consoles")
ALLOWED = ("settings", "size", "not-exclusive", "take-own")


@pytest.mark.parametrize("mode", [Terminal.NONE, Terminal.PRIVATE, Terminal.INHERIT])
def test_terminal_commands_that_reach_beyond_are_refused_by_the_filter(
    shared: Path, probes: Probes, mode: Terminal
) -> None:
    programs = seccomp.compile(FilterPolicy(expand([*GROUPS])))
    found, bare = report(shared, probes, mode, programs), report(shared, probes, mode)
    for name in REFUSED:
        assert found[name] == found[f"{name}-wide"] == Verdict(-1, errno.EPERM), name
    with at_terminal([probes["terminal"]]) as child:
        outside = verdicts(re.sub(r"^x+", "", rest(child)[0], flags=re.MULTILINE))
    for name in ("type-x32", "type-i386", "linux-x32", "linux-i386"):
        assert found[name] == Verdict(-1, errno.EPERM), name
        assert outside[name].errno != errno.EPERM, name
    for name in ALLOWED:
        assert found[name].result == bare[name].result == 0, name
    assert found["take-by-force"].errno == errno.EPERM
    # Without the filter the kernel itself carries these out, or finds that this is no virtual console.
    assert [bare[name].result for name in ("exclusive", "discipline")] == [0, 0]
    assert [bare[name].errno for name in ("keyboard-mode", "consoles")] == [errno.ENOTTY] * 2
    assert bare["linux"].errno in (errno.ENOTTY, errno.EINVAL)
    if mode is not Terminal.NONE:
        assert bare["type"].errno != errno.EPERM


# What passes through.


def test_relay_passes_every_byte_both_ways(shared: Path) -> None:
    script = f"stty raw -echo; echo go; head -c 512 | od -An -v -tx1; head -c 256 {shared}/bytes; echo end"
    every = bytes(range(256))
    (shared / "bytes").write_bytes(every)
    with at_terminal(words(shared, ["sh", "-c", script])) as child:
        child.expect_exact("go\n")
        child.send((every + every[::-1]).decode("latin-1"))
        child.expect_exact("end\n")
        seen = str(child.before)
    typed, shown = seen[:-256], seen[-256:]
    assert bytes.fromhex(typed) == every + every[::-1]
    assert shown.encode("latin-1") == every


def test_relay_loses_nothing_that_is_written_just_before_the_end(shared: Path) -> None:
    """The reader is slow, so that most is still on its way when the child has ended."""
    size = 300_000
    script = f"stty raw; yes 0123456789 | head -c {size}"
    with at_terminal(words(shared, ["sh", "-c", script])) as child:
        time.sleep(0.5)
        text = ""
        while True:
            try:
                text += child.read_nonblocking(3000, timeout=SECONDS)
            except pexpect.EOF:
                break
            time.sleep(0.001)
        child.wait()
    assert (len(text), child.exitstatus) == (size, 0)
    assert text == ("0123456789\n" * size)[:size]


def gone(child: pexpect.spawn[str], seconds: float) -> bool:
    """Tell whether it ends within this time; it stays to be waited for."""
    assert child.pid
    for _ in range(int(seconds * 100)):
        if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_relay_to_a_terminal_that_takes_nothing_ends_by_a_signal(shared: Path, number: signal.Signals) -> None:
    """Nobody reads, and the child has ended: what it wrote is waited for, but not against the caller's will."""
    size = 24_000  # more than the outer terminal holds, less than both
    script = f"stty raw; head -c {size} /dev/zero; echo >{shared}/done"
    for signalled in (False, True):
        with at_terminal(words(shared, ["sh", "-c", script])) as child:
            while not (shared / "done").exists():
                time.sleep(0.01)
            (shared / "done").unlink()
            assert not gone(child, 0.3 if signalled else 1.5)
            if signalled:
                child.kill(number)
                assert gone(child, SECONDS)
            else:
                assert len(rest(child)[0]) == size


def ticks(pid: int) -> int:
    """Return the processor time that a process has used, in hundredths of a second, as proc_pid_stat(5) has it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


STARTS = {
    "controlling": [],
    "not controlling": ["setsid", "--wait"],
    "another user's": ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
}


@pytest.mark.parametrize("start", STARTS)
def test_supervisor_works_on_while_the_terminal_takes_nothing(shared: Path, start: str) -> None:
    """It has an open file of its own, that does not block, wherever the terminal can be opened anew."""
    if start == "another user's" and os.geteuid() != 0:
        pytest.skip("needs root: a terminal that another user may open as /dev/tty only")
    launcher, number = shared / "launcher", shared / "pid"
    shutil.copy(launcher_path(), launcher)
    number.touch()
    number.chmod(0o666)
    argv = words(shared, ["sh", "-c", "echo go; exec yes"], launcher=launcher)
    with at_terminal([*STARTS[start], "sh", "-c", f'echo $$ >{number}; exec "$@"', "sh", *argv]) as child:
        child.expect_exact("go")
        assert not gone(child, 0.5)
        assert ticks(int(number.read_text())) < 20  # it sleeps
        for _ in range(2):  # the first for the child, the other for the rest of its output
            os.kill(int(number.read_text()), signal.SIGTERM)
            time.sleep(0.5)
        assert gone(child, SECONDS)


def test_relay_passes_much_input_to_a_slow_child(shared: Path) -> None:
    size = 100_000
    script = f"stty raw -echo; echo go; sleep 1; head -c {size} | sha256sum"
    data = ("abcdefghijklmnopqrstuvwxyz\r" * size)[:size]
    with at_terminal(words(shared, ["sh", "-c", script])) as child:
        child.expect_exact("go\n")
        child.send(data)
        assert hashlib.sha256(data.encode()).hexdigest() in rest(child)[0]


def test_relay_passes_output_while_the_child_reads_nothing(shared: Path) -> None:
    """Neither direction waits for the other."""
    script = "stty raw -echo; echo go; for n in 1 2 3 4 5; do sleep 0.1; seq 2000; done; echo end"
    with at_terminal(words(shared, ["sh", "-c", script])) as child:
        child.expect_exact("go\n")
        os.set_blocking(child.child_fd, False)
        sent = 0
        for _ in range(200):
            try:
                sent += os.write(child.child_fd, b"x" * 4096)
            except BlockingIOError:
                break
        os.set_blocking(child.child_fd, True)
        child.expect_exact("end\n")
    assert sent > 4096


def test_relay_end_of_input_is_typed(shared: Path) -> None:
    with at_terminal(words(shared, ["sh", "-c", "echo go; cat; echo end; exit 4"])) as child:
        child.expect_exact("go")
        child.send("some\x04\x04")
        text, code = rest(child)
    assert text.endswith("someend\n")
    assert code == 4


@pytest.mark.parametrize(("typed", "number"), [("\x03", signal.SIGINT), ("\x1c", signal.SIGQUIT)])
def test_relay_typed_signals_reach_the_foreground_inside(shared: Path, typed: str, number: int) -> None:
    with at_terminal(
        words(shared, ["sh", "-c", f"trap 'echo got; exit 5' {int(number)}; echo go; read -r _"])
    ) as child:
        child.expect_exact("go")
        child.send(typed)
        text, code = rest(child)
    assert "got" in text
    assert code == 5


def test_relay_window_size_follows(shared: Path) -> None:
    script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.05; done"
    with at_terminal(words(shared, ["sh", "-c", script]), dimensions=(20, 40)) as child:
        child.expect_exact("20 40")
        for rows, columns in ((33, 77), (5, 10)):
            child.setwinsize(rows, columns)
            child.expect_exact(f"{rows} {columns}")


def test_relay_child_that_closes_its_terminal_finds_it_again(shared: Path) -> None:
    script = "exec 0<&- 1>&- 2>&-; sleep 0.3; echo back >/dev/tty; sleep 0.3; read -r x </dev/tty; echo <$x> >/dev/tty"
    with at_terminal(words(shared, ["bash", "-c", script.replace("<$x>", "got-$x")])) as child:
        child.expect_exact("back")
        child.sendline("me")
        child.expect_exact("got-me")
        assert rest(child)[1] == 0


def test_relay_ends_with_the_child_whoever_holds_the_terminal(shared: Path) -> None:
    script = "setsid sh -c 'trap \"\" HUP TERM; echo held; exec sleep 1000' & sleep 0.3; echo end"
    with at_terminal(words(shared, ["sh", "-c", script])) as child:
        text, code = rest(child)
    assert text.split() == ["held", "end"]
    assert code == 0


def test_relay_job_control_works_inside(shared: Path) -> None:
    inner = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
    with at_terminal(words(shared, inner), echo=False) as bash:
        bash.sendline(f"PS1='{PROMPT[:3]}''{PROMPT[3:]}'")
        bash.expect_exact(PROMPT)
        for _ in range(2):
            bash.sendline("sh -c 'echo go; exec cat'")
            bash.expect_exact("go\r\n")
            bash.send("\x1a")
            bash.expect("Stopped.*" + PROMPT)
            bash.sendline("jobs; fg")
            bash.expect_exact("cat")
            bash.sendline("hello")
            bash.expect_exact("hello\r\n")
            bash.send("\x03")
            bash.expect_exact(PROMPT)
        bash.sendline("exit 9")
        assert rest(bash)[1] == 9


# The caller's shell.


def test_stop_typed_gives_the_caller_s_shell_its_terminal_and_fg_goes_on(shared: Path) -> None:
    job = line_of(shared, ["sh", "-c", 'echo go; while read -r word; do echo "<$word>"; done; exit 7'])
    with shell() as bash:
        before = settings(bash)
        bash.sendline(job)
        bash.expect_exact("go\r\n")
        for word in ("first", "second"):
            bash.send("\x1a")
            bash.expect("Stopped.*" + PROMPT)
            assert settings(bash) == before
            bash.sendline("fg")
            bash.sendline(word)
            bash.expect_exact(f"<{word}>\r\n")
        bash.send("\x04")
        bash.expect_exact(PROMPT)
        bash.sendline("echo code $?")
        bash.expect_exact("code 7\r\n")
        assert settings(bash) == before


def test_stop_typed_and_continued_is_told_to_the_child_once(shared: Path) -> None:
    """A second SIGCONT would make full-screen programs draw again, over what they have said since."""
    code = (
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT]); print('go', flush=True)\n"
        "while True: print('told', signal.sigwait([signal.SIGCONT]), flush=True)"
    )
    job = line_of(shared, [PYTHON, "-c", code])
    with shell() as bash:
        bash.sendline(job)
        bash.expect_exact("go\r\n")
        for _ in range(3):
            bash.send("\x1a")
            bash.expect("Stopped.*" + PROMPT)
            bash.sendline("fg")
            bash.expect_exact("told")
            assert bash.expect_exact(["told", pexpect.TIMEOUT], timeout=0.3) == 1


def test_stop_typed_stops_the_whole_job_of_the_caller_s_shell(shared: Path) -> None:
    job = line_of(shared, ["sh", "-c", 'echo go; read -r word; echo "<$word>"'])
    with shell() as bash:
        bash.sendline(f"(trap 'echo never' EXIT; {job}; echo after)")
        bash.expect_exact("go\r\n")
        bash.send("\x1a")
        bash.expect("Stopped.*" + PROMPT)
        bash.sendline("fg")
        bash.sendline("word")
        bash.expect_exact("<word>\r\n")
        bash.expect_exact("after\r\n")


# A shell as far as stopping goes: unlike bash it leaves the settings of its terminal alone.
STOPPING_SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if not job:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
os.waitpid(job, os.WUNTRACED)
os.tcsetpgrp(0, os.getpgrp())
os.system("stty -ixon quit ^X rows 44 cols 99; stty -g; echo again")
os.tcsetpgrp(0, job)
os.kill(-job, signal.SIGCONT)
os.waitpid(job, 0)
os.tcsetpgrp(0, os.getpgrp())
os.system("stty -g")
"""


def test_settings_and_size_changed_while_stopped_are_those_of_afterwards(shared: Path) -> None:
    job = line_of(shared, ["sh", "-c", "echo go; while read -r word; do stty size; done"])
    with at_terminal([PYTHON, "-c", STOPPING_SHELL, job], echo=False) as child:
        child.expect_exact("go\r\n")
        child.send("\x1a")
        child.expect(r"[0-9a-f]+(:[0-9a-f]+)+\r\n")
        changed = str(child.after)
        child.expect_exact("again\r\n")
        time.sleep(0.2)
        child.sendline("")
        child.expect_exact("44 99\r\n")
        child.send("\x04")
        child.expect_exact(changed)


def test_background_sandbox_leaves_the_keyboard_to_the_shell_and_gets_it_with_fg(shared: Path) -> None:
    job = line_of(shared, ["sh", "-c", 'echo go; read -r word; echo "<$word>"'])
    with shell() as bash:
        before = settings(bash)
        for how in ("begun", "continued"):
            bash.sendline(f"{job} &" if how == "begun" else job)
            bash.expect_exact("go\r")
            if how == "continued":
                bash.send("\x1a")
                bash.expect("Stopped.*" + PROMPT)
                bash.sendline("bg")
            for word in ("these", "are", "the", "shell's"):
                bash.sendline(f'echo "{word}"')
                bash.expect_exact(f"{word}\r\n")
                bash.expect_exact(PROMPT)
            assert settings(bash) == before
            # The job is running, so no SIGCONT tells it: it has to look.
            bash.sendline("fg")
            time.sleep(1.2)
            bash.sendline("word")
            bash.expect_exact("<word>\r\n")
            bash.expect_exact(PROMPT)
            assert settings(bash) == before


def test_stop_of_the_launcher_by_somebody_else_is_survived(shared: Path) -> None:
    job = line_of(shared, ["sh", "-c", 'echo go; read -r word; echo "<$word>"'])
    with shell() as bash:
        before = settings(bash)
        bash.sendline(f"(sleep 0.7; kill -STOP $(cat {shared}/pid)) & sh -c 'echo $$ >{shared}/pid; exec {job}'")
        bash.expect_exact("go\r\n")
        bash.expect("Stopped.*" + PROMPT)
        assert settings(bash) == before
        bash.sendline("fg %sh")
        bash.sendline("word")
        bash.expect_exact("<word>\r\n")
        bash.expect_exact(PROMPT)
        assert settings(bash) == before


def test_stop_typed_where_nobody_could_continue_does_not_stop(shared: Path) -> None:
    """An orphaned process group (a window of its own, a service) ignores SIGTSTP; so does the child, then."""
    script = 'echo go; while read -r word; do echo "<$word>"; done'
    with at_terminal(words(shared, ["sh", "-c", script])) as child:
        child.expect_exact("go")
        child.send("\x1a")
        time.sleep(0.3)
        child.sendline("word")
        child.expect_exact("<word>")


@pytest.mark.parametrize(
    ("script", "code", "more"),
    [
        ("stty raw -echo; exit 3", 3, []),
        ("stty raw -echo; kill -9 $$", 137, []),
        ("stty raw -echo; kill -SEGV $$", 139, []),
        ("stty raw -echo; exec /none", 127, []),
        ("stty raw -echo; sleep 60", 124, [ops.timeout(1500)]),
    ],
)
def test_settings_afterwards_are_as_before(shared: Path, script: str, code: int, more: list[Op]) -> None:
    job = line_of(shared, ["sh", "-c", script], more=more)
    with shell() as bash:
        before = settings(bash)
        # In a script: an interactive shell would repair its terminal itself.
        bash.sendline(f"sh -c '{job} 2>/dev/null; echo code $?; stty -g'")
        bash.expect_exact(f"code {code}\r\n")
        bash.expect_exact(before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_settings_after_a_signal_to_the_launcher_are_as_before(shared: Path, number: signal.Signals) -> None:
    job = line_of(shared, ["sh", "-c", "stty raw -echo; echo go; exec sleep 60"])
    (shared / "inner").write_text(f"echo $$ >{shared}/pid; exec {job}\n")
    (shared / "outer").write_text(f"stty -g; sh {shared}/inner; echo code $?; stty -g\n")
    with at_terminal(["/bin/sh", str(shared / "outer")], echo=False) as child:
        child.expect(r"[0-9a-f:]+\r\n")
        before = str(child.after)
        child.expect_exact("go\n")
        os.kill(int((shared / "pid").read_text()), number)
        child.expect_exact(f"code {128 + number}\r\n{before}")


def test_settings_after_the_init_is_killed_are_as_before(shared: Path) -> None:
    job = line_of(shared, ["sh", "-c", "stty raw -echo; echo go; exec sleep 60"])
    (shared / "inner").write_text(f"echo $$ >{shared}/pid; exec {job}\n")
    (shared / "outer").write_text(f"stty -g; sh {shared}/inner; echo code $?; stty -g\n")
    with at_terminal(["/bin/sh", str(shared / "outer")], echo=False) as child:
        child.expect(r"[0-9a-f:]+\r\n")
        before = str(child.after)
        child.expect_exact("go\n")
        (init,) = children(int((shared / "pid").read_text()))
        os.kill(init, signal.SIGKILL)
        child.expect_exact(f"code {128 + signal.SIGKILL}\r\n{before}")


def test_settings_after_a_failed_start_are_as_before(shared: Path) -> None:
    job = line_of(shared, ["/none"])
    with shell() as bash:
        before = settings(bash)
        bash.sendline(f"sh -c '{job}; echo code $?; stty -g'")
        bash.expect("exec: /none: No such file or directory;[^\r\n]*\r\ncode 127\r\n")
        bash.expect_exact(before)


def test_caller_s_streams_stay_blocking(shared: Path) -> None:
    """The relay has an open file of its own: O_NONBLOCK on the caller's would harm the shell that shares it."""
    job = line_of(shared, ["sh", "-c", "echo go; sleep 0.6"])
    code = "import fcntl, os; print('flags', *(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK for fd in (0, 1, 2)))"
    look = f'{PYTHON} -c "{code}"'
    with at_terminal(["/bin/sh", "-c", f"{job} & sleep 0.3; {look}; wait; {look}"]) as child:
        text, _ = rest(child)
    assert re.findall(r"flags .*", text) == ["flags 0 0 0"] * 2


def ended(reader: int) -> bool:
    """Tell whether the last process that had the other end is gone in time.

    What it says before does not count: a read in the very moment of the hang-up fails (EIO), as without any sandbox.
    """
    while select.select([reader], [], [], SECONDS)[0]:
        if not os.read(reader, 4096):
            return True
    return False


def test_hang_up_of_the_caller_s_terminal_ends_the_child(shared: Path) -> None:
    os.mkfifo(shared / "fifo")
    reader = os.open(shared / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with at_terminal(words(shared, ["sh", "-c", f"exec 2>{shared}/fifo; echo go; exec sleep 1000"])) as child:
        child.expect_exact("go")
        child.close(force=False)
        assert ended(reader)
    os.close(reader)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a terminal that another user may not open")
def test_terminal_that_cannot_be_opened_anew_is_relayed_all_the_same(shared: Path) -> None:
    """As after su -c: the streams are another user's terminal, and it is nobody's controlling one."""
    launcher = shared / "launcher"
    shutil.copy(build_launcher(), launcher)
    launcher.chmod(0o755)
    argv = words(shared, ["sh", "-c", "tty; echo go; read -r x; seq 30000; echo got-$x"], launcher=launcher)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "setsid", "--wait"]
    with at_terminal([*user, *argv], echo=False) as child:
        child.expect_exact("go\r\n")
        child.sendline("word")
        text, code = rest(child)
    assert text.split() == [*map(str, range(1, 30001)), "got-word"]
    assert code == 0


def test_hang_up_of_the_caller_s_terminal_is_one_of_the_child_s(shared: Path) -> None:
    """A child that ignores the signal finds the end of its input."""
    os.mkfifo(shared / "fifo")
    reader = os.open(shared / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    script = f"trap '' HUP INT; exec 2>{shared}/fifo; echo go; exec cat"
    with at_terminal(
        ["/bin/sh", "-c", 'trap "" HUP INT; exec "$@"', "sh", *words(shared, ["sh", "-c", script])]
    ) as child:
        child.expect_exact("go")
        os.dup2(reader, child.child_fd)  # so that the other end is closed
        assert ended(reader)
    os.close(reader)


def test_terminal_exclusive_one_is_relayed_by_the_caller_s_own_open_file(shared: Path) -> None:
    """An ordinary user may not open it a second time (EBUSY, TIOCEXCL)."""
    job = line_of(shared, ["sh", "-c", "echo go; read -r x; echo got-$x"])
    code = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCEXCL)"
    with at_terminal(["/bin/sh", "-c", f"{PYTHON} -c '{code}'; exec {job}"], echo=False) as child:
        child.expect_exact("go\r\n")
        child.sendline("word")
        child.expect_exact("got-word")
        assert rest(child)[1] == 0


def test_stop_typed_at_the_caller_s_terminal_stops_a_sandbox_without_one(shared: Path) -> None:
    """The child is in another session, so that the supervisor has to tell it."""
    job = line_of(shared, ["sh", "-c", 'echo go; read -r word; echo "<$word>"'], Terminal.NONE)
    with shell() as bash:
        bash.sendline(job)
        bash.expect_exact("go\r\n")
        bash.send("\x1a")
        bash.expect("Stopped.*" + PROMPT)
        bash.sendline("fg")
        bash.sendline("word")
        bash.expect_exact("<word>\r\n")
        bash.expect_exact(PROMPT)
        bash.sendline(job)
        bash.expect_exact("go\r\n")
        bash.send("\x03")
        bash.expect_exact(PROMPT)
        bash.sendline("echo code $?")
        bash.expect_exact("code 130\r\n")


def test_terminal_nested_sandboxes_relay_twice(shared: Path) -> None:
    code = "import os; print(*os.get_terminal_size(), os.ttyname(0), flush=True); print('got-' + input())"
    inner = line_of(shared, [PYTHON, "-c", code], namespaces=[], confinement=[ops.exec_once()])
    # An outer gate that closes would close the inner launcher's plan, and there can be one gate only.
    outer = words(shared, ["sh", "-c", f"exec {inner}"], confinement=[ops.gate(observe=True)])
    with at_terminal(outer, dimensions=(22, 66), echo=False) as child:
        child.expect_exact("66 22 /dev/pts/")
        child.sendline("word")
        child.expect_exact("got-word\r\n")
        assert rest(child)[1] == 0
