"""`run --explain`: each typical refusal names the profile's line, and that line alone makes the program pass."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import pytest

from tests.cli.conftest import Run

ROOT: Final = os.geteuid() == 0
SYSCALL: Final = (
    "import ctypes, os, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "r = libc.syscall(*(int(word) for word in sys.argv[1:]))\nsys.exit(0 if r >= 0 else ctypes.get_errno())\n"
)
OWN_FILTER: Final = """
import ctypes, os, struct
# Load the number; getppid ends the process, everything else is allowed (linux/filter.h, linux/seccomp.h).
code = (0x20, 0, 0, 0), (0x15, 0, 1, 110), (6, 0, 0, 0x80000000), (6, 0, 0, 0x7FFF0000)
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in code))
program = struct.pack("HxxxxxxP", 4, ctypes.addressof(code))
assert ctypes.CDLL(None).prctl(22, 2, ctypes.c_char_p(program)) == 0
os.getppid()
"""


@dataclass(frozen=True, slots=True)
class Case:
    """head: the profile that refuses. command: fails under it. line: what is told; it is added, and then it passes.

    {home}, {work}: folders; {port}: where somebody listens on the host's loopback; {pid}: a process of the host.
    code: with which it passes.
    """

    name: str
    command: str
    line: str
    head: str = ""
    base: str = "untrusted"
    gives: str = ""
    code: int = 0


def net(what: str) -> str:
    return f"python3 -c 'import socket; s = socket.socket(); {what}'"


CASES: Final = (
    Case("open a file of the home folder", "cat ~/key", 'filesystem.read = ["{{home}}/key"]'),
    Case("open a secret", "cat ~/.ssh/id_rsa", 'filesystem.read = ["{{home}}/.ssh/id_rsa"]', gives="SSH keys"),
    Case("look for a file", "test -e ~/key", 'filesystem.read = ["{{home}}/key"]'),
    Case("list a folder elsewhere", "ls {elsewhere}", 'filesystem.read = ["{elsewhere}"]'),
    Case("enter a folder", "cd {elsewhere}", 'filesystem.read = ["{elsewhere}"]'),
    Case("follow a link out of the folder", "cat link", 'filesystem.read = ["{elsewhere}/data"]'),
    Case("execute a program of the home folder", "~/tool", 'filesystem.execute = ["{{home}}/tool"]'),
    Case("execute a program by PATH", "PATH={elsewhere}; program", 'filesystem.execute = ["{elsewhere}/program"]'),
    Case(
        "execute what lies in a writable folder",
        "{elsewhere}/program",
        'filesystem.execute = ["{elsewhere}/program"]',
        head='filesystem.write = ["{elsewhere}"]',
    ),
    Case("write to a file of the folder", "echo x >numbers", 'filesystem.write = ["{{cwd}}/numbers"]'),
    Case("make a file in the folder", "echo x >new", 'filesystem.write = ["{{cwd}}"]'),
    Case("make a folder", "mkdir sub/new", 'filesystem.write = ["{{cwd}}/sub"]'),
    Case("make a file elsewhere", "echo x >{elsewhere}/new", 'filesystem.write = ["{elsewhere}"]'),
    Case("delete a file", "rm -f sub/old", 'filesystem.write = ["{{cwd}}/sub"]'),
    Case("rename a file", "mv sub/old sub/newer", 'filesystem.write = ["{{cwd}}/sub"]'),
    Case("change a mode", "chmod 600 numbers", 'filesystem.write = ["{{cwd}}/numbers"]'),
    Case("change a time", "touch -d @0 numbers", 'filesystem.write = ["{{cwd}}/numbers"]'),
    Case(
        "a view of the host: read what is not declared",
        "cat {elsewhere}/data",
        'filesystem.read = ["{elsewhere}/data"]',
        head='filesystem = {{ view = "host", execute = ["/usr", "/bin", "/lib", "-/lib64"], read = ["{{cwd}}"] }}',
        base="hostlike",
    ),
    Case("listen on the loopback", net('s.bind(("127.0.0.1", 0))'), 'network.mode = "loopback"'),
    Case(
        "connect to a service of this host",
        net('s.connect(("127.0.0.1", {port}))'),
        'network.allow = ["tcp:127.0.0.1:{port}"]',
    ),
    Case(
        "connect to one that no rule names",
        net('s.connect(("127.0.0.1", {port}))'),
        'network.allow = ["tcp:127.0.0.1:{port}"]',
        head='network.allow = ["tcp:127.0.0.1:1"]',
    ),
    Case(
        "connect to a service of this host from a loopback",
        net('s.connect(("127.0.0.1", {port}))'),
        'network.allow = ["tcp:127.0.0.1:{port}"]',
        head='network.mode = "loopback"',
    ),
    Case(
        "datagrams",
        "python3 -c 'import socket; s = socket.socket(2, 2); s.connect((\"127.0.0.1\", 9))'",
        'network.mode = "loopback"',
    ),
    Case(
        "connect to a Unix socket",
        "python3 -c 'import socket; socket.socket(1).connect(\"{elsewhere}/socket\")'",
        'filesystem.read = ["{elsewhere}/socket"]',
    ),
    Case(
        "connect to a socket that speaks for the user",
        "python3 -c 'import socket; socket.socket(1).connect(\"{elsewhere}/docker.sock\")'",
        'filesystem.read = ["{elsewhere}/docker.sock"]',
        gives="root on this machine",
    ),
    Case("a namespace of its own", "unshare --user true", 'filter.allow = ["unshare"]'),
    Case("the kernel's keys", "python3 call.py 250 0 -4 0", 'filter.allow = ["keyctl"]', gives="authority"),
    Case("sockets in a profile without", "exec " + net("pass"), 'filter.allow = ["@network"]', base="sealed-shell"),
    Case("a signal", "kill -0 $$", 'filter.allow = ["@process"]', base="sealed-shell"),
    Case("memory that stays", "exec python3 call.py 149 0 0", 'filter.allow = ["@memory-lock"]', base="sealed-shell"),
    Case("a later exec", "/bin/true", 'process.exec = "allow"', head='process.exec = "once"'),
    Case(
        "clear close-on-exec",
        "python3 -c 'import os; os.set_inheritable(os.open(\"/\", 0), True)'",
        'descriptors.delegate = ["pass-fds"]',
        base="undelegated",
    ),
    Case(
        "a Unix socket",
        net("socket.socket(1)"),
        'descriptors.scm_rights = "allow"',
        head='descriptors.scm_rights = "deny"',
    ),
    Case(
        "a descriptor without close-on-exec",
        "python3 call.py 32 0",
        "descriptors.strict = false",
        head="descriptors.strict = true",
    ),
    Case("a descriptor of the caller", "cat <&7", "grants.fd7 = {{ inherit = 7, number = 7 }}"),
    Case(
        "a grant that does not propagate",
        "sh read.sh",
        'grants.input = {{ file = "{{cwd}}/numbers", access = "read", number = 3, propagate = true }}',
        head='grants.input = {{ file = "{work}/numbers", number = 3 }}',
    ),
    Case(
        "a grant for reading, written",
        "echo x >&3",
        'grants.input = {{ file = "{{cwd}}/numbers", access = "read-write", number = 3 }}',
        head='grants.input = {{ file = "{{cwd}}/numbers" }}',
    ),
    Case(
        "what /proc tells of the machine",
        "cat /proc/meminfo",
        'filesystem.proc = "full"',
        head='filesystem.proc = "processes"',
    ),
    Case(
        "a signal to a process of the host",
        "kill -0 {pid}",
        'namespaces.share = ["pid"]',
        head='filesystem = {{ view = "host", execute = ["/usr", "/bin", "/lib", "-/lib64"], read = ["{{cwd}}"] }}',
        base="hostlike",
        gives="signalled",
    ),
    Case(
        "a process of the host in /proc",
        "test -e /proc/{pid}",
        'namespaces.share = ["pid"]',
        head='filesystem = {{ view = "host", execute = ["/usr", "/bin", "/lib", "-/lib64"], read = ["{{cwd}}"] }}',
        base="hostlike",
    ),
    Case("a variable", 'test "$TOOL_HOME" = /opt/tool', 'environment.keep = ["TOOL_HOME"]'),
    Case("a secret variable", "python3 token.py", 'environment.keep = ["API_TOKEN"]', gives="a secret, by its name"),
    Case(
        "an agent by its variable",
        'test "$SSH_AUTH_SOCK" = /nowhere',
        'environment.keep = ["SSH_AUTH_SOCK"]',
        gives="ssh-agent",
    ),
    Case(
        "more memory",
        "python3 -c 'bytearray(80 << 20)'",
        'limits.memory = "120M"',
        head='limits.memory = "60M"',
    ),
    Case(
        "more time of a processor",
        "test $(ulimit -t) -ge 2 || while :; do :; done",
        'limits.cpu_time = "2s"',
        head='limits.cpu_time = "1s"',
    ),
    Case(
        "a larger file",
        "head -c 3000 /dev/zero >{elsewhere}/large",
        'limits.file_size = "4K"',
        head='limits.file_size = "2K"\nfilesystem.write = ["{elsewhere}"]',
    ),
    Case(
        "more open files",
        "python3 -c 'import os; [os.dup(0) for _ in range(40)]'",
        "limits.open_files = 64",
        head="limits.open_files = 32",
    ),
)
BASES: Final = {
    "hostlike": 'extends = ["base"]\nfilter.allow = ["@file-io", "@process", "@event", "@timer"]',
    "sealed-shell": 'extends = ["sealed"]\nprocess.exec = "allow"\nfilesystem.execute = ["{cwd}"]\n'
    'process.chdir = "{cwd}"',
    "undelegated": 'extends = ["base"]\nfilter.allow = ["@file-io", "@process", "@event", "@timer"]\n'
    'filesystem.execute = ["/usr", "-/bin", "-/lib", "-/lib64", "{cwd}"]',
}


@pytest.fixture
def places(tmp_path: Path, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield a home, a folder to work in, one elsewhere, and a port on which somebody listens."""
    home, work = Path(environment["HOME"]), tmp_path / "work"
    elsewhere = Path(tempfile.mkdtemp(prefix="e-", dir="/tmp"))  # short: a socket's path has 107 bytes at most
    for folder in (work / "sub", home / ".ssh"):
        folder.mkdir(parents=True)
    for path in (home / "key", home / ".ssh/id_rsa", work / "numbers", work / "sub/old", elsewhere / "data"):
        path.write_text("1\n")
    (work / "link").symlink_to(elsewhere / "data")
    (work / "read.sh").write_text("read line <&3\n")
    (work / "call.py").write_text(SYSCALL)
    (work / "token.py").write_text("import os, sys; sys.exit(os.environ.get('API_TOKEN') != 'x')\n")
    for path in (home / "tool", elsewhere / "program"):
        path.write_text("#!/bin/sh\nexit 0\n")
        path.chmod(0o755)
    listeners = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for listener, name in zip(listeners, ("socket", "docker.sock"), strict=True):
        listener.bind(os.fsencode(elsewhere / name))
        listener.listen()
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield {
            "home": str(home), "work": str(work), "elsewhere": str(elsewhere), "port": str(server.getsockname()[1]),
            "pid": str(os.getpid()),
        }  # fmt: skip
    for listener in listeners:
        listener.close()
    shutil.rmtree(elsewhere)


def profile(folder: Path, name: str, base: str, *lines: str) -> str:
    """Write a profile and return its path."""
    path = folder / f"{name}.toml"
    path.write_text(BASES[base] + "\n" if base in BASES else f'extends = ["{base}"]\n')
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)
    return str(path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_line_that_is_told_makes_the_program_pass(
    case: Case, sandbox_command: Sequence[str], environment: Mapping[str, str], places: dict[str, str], tmp_path: Path
) -> None:
    command, head, line = (text.format(**places) for text in (case.command, case.head, case.line))
    first = profile(tmp_path, "first", case.base, head)
    told = tmp_path / "told.json"

    def run(chosen: str, *options: str) -> subprocess.CompletedProcess[str]:
        words = (*sandbox_command, "run", "-p", chosen, *options, "--", "sh", "-c", command)
        return subprocess.run(
            ["sh", "-c", 'exec "$@" 7<numbers', "sh", *words], cwd=places["work"], check=False, text=True,
            env=dict(environment) | {"TOOL_HOME": "/opt/tool", "API_TOKEN": "x", "SSH_AUTH_SOCK": "/nowhere"},
            capture_output=True, stdin=subprocess.DEVNULL, timeout=120,
        )  # fmt: skip

    refused = run(first, "--explain-output", str(told))
    assert refused.returncode != case.code, refused.stderr
    found: list[dict[str, Any]] = json.loads(told.read_text())
    by_line = {row["line"]: row for row in found}
    assert line in by_line, refused.stderr
    assert case.gives in by_line[line]["gives"]
    error = f"{by_line[line]['error']}: ".lstrip(": ")  # none of what no call tells
    message = rf"^sandbox: refused: .*: {error}.*{re.escape(line)}$"
    assert re.search(message, refused.stderr, re.MULTILINE), refused.stderr
    allowed = run(profile(tmp_path, "second", "./first.toml", line))
    assert (allowed.returncode, allowed.stderr) == (case.code, ""), allowed.stderr


def test_table_is_of_at_least_25_refusals() -> None:
    assert len({case.name for case in CASES}) >= 25


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return a folder that is no home."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def test_command_that_fails_is_followed_by_a_pointer_on_a_terminal_alone(
    sandbox_command: Sequence[str], environment: Mapping[str, str], work: Path
) -> None:
    def said(script: str, *options: str, terminal: bool) -> tuple[int, str]:
        ours, theirs = pty.openpty() if terminal else os.pipe()
        words = [*sandbox_command, "run", *options, "--", "sh", "-c", script]
        done = subprocess.run(
            words, cwd=work, env=dict(environment), check=False, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=theirs, timeout=120,
        )  # fmt: skip
        os.close(theirs)
        try:
            return done.returncode, os.read(ours, 4096).decode()
        except OSError:  # EIO: nobody has written to the terminal
            return done.returncode, ""
        finally:
            os.close(ours)

    for script, options, end, told in (
        ("exit 3", (), 3, "it ended with 3; "),
        ("kill -SEGV $$", (), 139, "it was ended by signal 11; "),
        ("kill -KILL $$", (), 137, "it was ended by signal 9; "),
        ("while :; do :; done", ("--limit", "cpu_time=1s"), 152, "it was ended by signal 24; "),
        ("sleep 99", ("--timeout", "300ms"), 124, "its time was up; "),
    ):
        code, words = said(script, *options, terminal=True)
        assert code == end
        assert words.startswith(f"sandbox: command: {told}"), words
        assert words.rstrip().endswith("sandbox run --explain")
        assert said(script, *options, terminal=False) == (end, "")
    assert said("exit 0", terminal=True) == (0, "")
    # Asked for, or a reader that has gone: nobody's refusal.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTERM):
        assert said(f"trap - {number:d}; kill -{number:d} $$", terminal=True) == (128 + number, "")


def test_run_is_the_same_with_explain(sandbox: Run, work: Path) -> None:
    """Exit code, standard streams, death by a signal, time limit; and what was refused stays refused."""
    for words, code in (
        (("sh", "-c", "read line; echo $line; exit 7"), 7),
        (("sh", "-c", "kill -TERM $$"), 143),
        (("--timeout", "300ms", "sleep", "9"), 124),
        (("no-such-program",), 127),
        (("/etc/passwd",), 126),
    ):
        plain = sandbox("run", *words, stdin=None, input="word\n", cwd=work)
        looked_at = sandbox("run", "--explain", *words, stdin=None, input="word\n", cwd=work)
        assert (looked_at.returncode, looked_at.stdout) == (plain.returncode, plain.stdout) == (code, plain.stdout)
        assert "sandbox: explain: " in looked_at.stderr
    done = sandbox("run", "--explain", "sh", "-c", "echo x >new; test -e new", cwd=work)
    assert done.returncode == 1
    assert not (work / "new").exists()


def test_explain_follows_threads_and_children_to_their_end(sandbox: Run, work: Path) -> None:
    text = (
        "import os, subprocess, threading\n"
        "def look(): subprocess.run(['cat', '/root/nothing-there', os.environ['HOME'] + '/key'])\n"
        "threads = [threading.Thread(target=look) for _ in range(8)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "os.execvp('sh', ['sh', '-c', 'cat ~/key'])\n"
    )
    (work.parent / "home" / "key").write_text("1")
    done = sandbox("run", "--explain", "/usr/bin/python3", "-c", text, cwd=work)
    assert done.returncode == 1
    assert "(cat; 9 x ENOENT)" in done.stderr


def test_explain_and_records_of_the_run_exclude_each_other(sandbox: Run) -> None:
    done = sandbox("run", "--explain", "--trace-exec", "true")
    assert done.returncode == 125
    assert done.stderr.startswith("sandbox: usage: --explain: ")
    assert sandbox("run", "--trace-exec", "true").returncode == 0


def test_what_no_line_allows_says_why(sandbox: Run, work: Path) -> None:
    done = sandbox("run", "--explain", "python3", "-c", "import socket; socket.socket(16, 3)", cwd=work)
    assert re.search(r"refused: python3.*: socket\(AF_NETLINK, SOCK_RAW\): EPERM: .*; no line allows it: ", done.stderr)
    done = sandbox("run", "--explain", "cat", "/etc/shadow", cwd=work)
    assert "/etc/shadow is hidden" in done.stderr
    assert "take it out of hide" in done.stderr


def is_over(stat: IO[str]) -> bool:
    """Wait until the process of an open /proc/PID/stat has ended; nobody may have taken note of its end yet (Z)."""
    for _ in range(300):
        stat.seek(0)
        try:
            state = stat.read().rpartition(")")[2].split()[0]
        except ProcessLookupError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.1)
    return False


def test_what_asks_for_an_end_reaches_the_command_and_a_dead_tracer_ends_it(
    sandbox_command: Sequence[str], environment: Mapping[str, str], work: Path
) -> None:
    script = "trap 'echo ended; exit 9' TERM; echo $$; while :; do sleep 0.05; done"
    words = [*sandbox_command, "run", "--explain", "--share", "pid", "-p", "./shared.toml", "sh", "-c", script]
    # With the host's process IDs the command can be looked for.
    (work / "shared.toml").write_text(
        'extends = ["base"]\nfilesystem = { view = "host", execute = ["/usr", "/bin", "/lib", "-/lib64"] }\n'
        'filter.allow = ["@file-io", "@process"]\nnamespaces.share = ["pid"]\nlandlock.optional = ["landlock"]\n'
    )

    def started() -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            words, cwd=work, env=dict(environment), text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    process, _ = started()
    process.terminate()
    said, messages = process.communicate(timeout=60)
    assert (process.returncode, said) == (9, "ended\n"), messages
    process, pid = started()
    tracer = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    assert Path(f"/proc/{tracer}/comm").read_text() == "sandbox-trace\n"
    with open(f"/proc/{pid}/stat") as command:
        assert command.read().startswith(f"{pid} (sh)")
        os.kill(tracer, signal.SIGKILL)
        process.communicate(timeout=60)
        assert is_over(command)
    assert process.returncode != 0


def test_variables_are_told_of_a_command_that_fails_alone_and_never_their_values(sandbox: Run, work: Path) -> None:
    variables = {f"TOOL_{letter}": "the value" for letter in "GFEDCBA"} | {"OTHER": "the value", "LANG": "C.UTF-8"}
    script = f"exit $1; {' '.join(variables)}; $PWD"
    fine = sandbox("run", "--explain", "sh", "-c", script, "sh", "0", cwd=work, extra_env=variables)
    assert (fine.returncode, "TOOL_" in fine.stderr) == (0, False), fine.stderr
    done = sandbox("run", "--explain", "sh", "-c", script, "sh", "1", cwd=work, extra_env=variables)
    assert "the value" not in done.stderr
    named = "OTHER, TOOL_A, TOOL_B, TOOL_C, TOOL_D"
    assert f"variables of yours that it names are not kept: {named}, and 3 more (sh)" in done.stderr
    kept = ["--env", "TOOL_*", "--env", "OTHER"]
    done = sandbox("run", "--explain", *kept, "sh", "-c", script, "sh", "1", cwd=work, extra_env=variables)
    assert "not kept" not in done.stderr


def test_processes_that_are_not_seen_are_told_and_ones_that_ended_are_not(sandbox: Run, work: Path) -> None:
    script = "sleep 0 & wait; kill -0 $!; kill -0 $1; test -e /proc/$1"
    done = sandbox("run", "--explain", "sh", "-c", script, "sh", str(os.getpid()), cwd=work)
    assert f"processes of the host are not seen ({os.getpid()}) (dash; 2 x ESRCH)" in done.stderr
    assert done.stderr.count("ESRCH") == 2, done.stderr  # as it happens, and in sum
    assert "no line allows it: a view of its own shows its own processes only" in done.stderr
    done = sandbox("run", "--explain", "sh", "-c", "kill -0 $$; test -e /proc/$$", cwd=work)
    assert (done.returncode, "not seen" in done.stderr) == (0, False)


def test_time_that_is_up_and_signals_that_no_rule_sends_are_told_as_that(sandbox: Run, work: Path) -> None:
    done = sandbox("run", "--explain", "--timeout", "400ms", "sleep", "99", cwd=work)
    assert done.returncode == 124
    assert 'sleep: SIGKILL: limit timeout is 400ms; to allow it: limits.timeout = "800ms"' in done.stderr
    for script in ("kill -XCPU $$", "kill -XFSZ $$", "kill -KILL $$", "kill -SYS $$", "(sleep 99 &)"):
        limits = [f"--limit={word}" for word in ("timeout=99s", "cpu_time=99s", "file_size=1G", "memory=4G")]
        done = sandbox("run", "--explain", *limits, "sh", "-c", script, cwd=work)
        assert "has refused nothing" in done.stderr, done.stderr
    done = sandbox("run", "--explain", "-p", "untrusted", "/usr/bin/python3", "-c", OWN_FILTER, cwd=work)
    assert done.returncode == 128 + signal.SIGSYS
    assert "python3.11: SIGSYS: a filter that the program has set itself has ended it; no line allows" in done.stderr


def test_limit_of_processes_is_told(ordinary_user: tuple[tuple[str, ...], Path]) -> None:
    command, home = ordinary_user
    script = "sleep 99 & sleep 99 & sleep 99 & sleep 99 & exit 0"
    words = [*command, "run", "--limit", "processes=4", "--explain", "sh", "-c", script]
    done = subprocess.run(words, cwd="/usr", check=False, capture_output=True, text=True, timeout=120)
    assert re.search(
        r"(?:vfork|clone)\(.*\): EAGAIN: limit processes is 4; to allow it: limits.processes = 8$",
        done.stderr,
        re.MULTILINE,
    )
    words[words.index("processes=4")] = "processes=8"
    done = subprocess.run(words, cwd="/usr", check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "EAGAIN" in done.stderr) == (0, False), done.stderr
    assert home.is_dir()


def test_many_paths_of_a_folder_are_one_cause_unless_it_is_not_theirs_alone(sandbox: Run, work: Path) -> None:
    shared, home = work.parent / "shared", work.parent / "home"
    (home / ".ssh").mkdir(parents=True)
    shared.mkdir()
    for folder in (shared, home, home / ".ssh"):
        for name in "abc":
            (folder / name).write_text("1")
    done = sandbox("run", "--explain", "sh", "-c", f"cat {shared}/a {shared}/b", cwd=work)
    assert f"1. {shared}/a is not in the view (cat; 1 x ENOENT)" in done.stderr
    done = sandbox("run", "--explain", "sh", "-c", f"cat {shared}/?; cat {shared}/a {shared}/b {shared}/c", cwd=work)
    assert f'openat("{shared}/c", O_RDONLY): ENOENT: {shared}/c is not in the view' in done.stderr, "as it happens"
    # With the folder itself, which the shell has listed.
    assert f"explain: 1. 3 paths in {shared} are not shown to be read (cat, dash; 4 x ENOENT)" in done.stderr
    assert f'line: filesystem.read = ["{shared}"]   or: --read {shared}' in done.stderr
    assert "for 1 cause:" in done.stderr
    secrets = sandbox("run", "--explain", "cat", *(str(home / ".ssh" / name) for name in "abc"), cwd=work)
    assert "for 3 causes" in secrets.stderr
    own = sandbox("run", "--explain", "cat", *(str(home / name) for name in "abc"), cwd=work)
    assert "for 3 causes" in own.stderr


def test_what_nobody_lets_the_caller_do_is_not_told(ordinary_user: tuple[tuple[str, ...], Path]) -> None:
    command, home = ordinary_user
    script = f"test -w /var/cache/apt; test -w {home}; true"
    words = [*command, "run", "--explain", "-p", "sealed", "--execute", "/usr", "sh", "-c", script]
    done = subprocess.run(words, cwd="/usr", check=False, capture_output=True, text=True, timeout=120)
    assert f"or: --write {home}\n" in done.stderr, done.stderr
    assert "/var/cache/apt" not in done.stderr
