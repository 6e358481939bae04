"""`run --explain`: each typical refusal names the profile's line, and that line alone makes the program pass."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cli.conftest import Run

ROOT: Final = os.geteuid() == 0
SYSCALL: Final = (
    "import ctypes, os, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "r = libc.syscall(*(int(word) for word in sys.argv[1:]))\nsys.exit(0 if r >= 0 else ctypes.get_errno())\n"
)


@dataclass(frozen=True, slots=True)
class Case:
    """head: the profile that refuses. command: fails under it. line: what is told; it is added, and then it passes.

    {home}, {work}: folders; {port}: where somebody listens on the host's loopback. code: with which it passes.
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
    for path in (home / "tool", elsewhere / "program"):
        path.write_text("#!/bin/sh\nexit 0\n")
        path.chmod(0o755)
    listeners = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for listener, name in zip(listeners, ("socket", "docker.sock"), strict=True):
        listener.bind(os.fsencode(elsewhere / name))
        listener.listen()
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield {"home": str(home), "work": str(work), "elsewhere": str(elsewhere), "port": str(server.getsockname()[1])}
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
            ["sh", "-c", 'exec "$@" 7<numbers', "sh", *words], cwd=places["work"], env=dict(environment), check=False,
            text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=120,
        )  # fmt: skip

    refused = run(first, "--explain-output", str(told))
    assert refused.returncode != case.code, refused.stderr
    found: list[dict[str, Any]] = json.loads(told.read_text())
    by_line = {row["line"]: row for row in found}
    assert line in by_line, refused.stderr
    assert case.gives in by_line[line]["gives"]
    message = rf"^sandbox: refused: .*: {by_line[line]['error']}: .*{re.escape(line)}$"
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
    def said(code: int, *, terminal: bool) -> tuple[int, str]:
        ours, theirs = pty.openpty() if terminal else os.pipe()
        words = [*sandbox_command, "run", "--", "sh", "-c", f"exit {code}"]
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

    code, words = said(3, terminal=True)
    assert code == 3
    assert words.startswith("sandbox: command: it ended with 3; ")
    assert words.rstrip().endswith("sandbox run --explain")
    assert said(0, terminal=True) == (0, "")
    assert said(3, terminal=False) == (3, "")


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
