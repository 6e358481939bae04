"""The options of `sandbox run` that move a wall: what is refused without one is allowed with it, and nothing more."""

from __future__ import annotations

import os
import pty
import re
import select
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import pytest

Run: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]
READ: Final = "cat data 2>&1 && echo READ"
WRITE: Final = "(echo new >data) 2>&1 && echo WRITTEN; cat data"
EXECUTE: Final = "./tool 2>&1 && echo EXECUTED"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Return a folder outside the view, with a file and a program."""
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "data").write_text("old\n")
    (folder / "tool").write_text("#!/bin/sh\necho tool\n")
    (folder / "tool").chmod(0o755)
    return folder


def in_view(sandbox: Run, there: Path, script: str, *options: str) -> str:
    done = sandbox("run", *options, "sh", "-c", f"cd {there} && {script}", cwd="/usr")
    assert done.returncode != 125, done.stderr
    return str(done.stdout)


def test_run_without_options_a_folder_elsewhere_is_not_there(sandbox: Run, there: Path) -> None:
    done = sandbox("run", "ls", str(there), cwd="/usr")
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such file or directory" in done.stderr


@pytest.mark.parametrize(
    ("option", "rights"), [("--read", "READ"), ("--write", "READ WRITTEN"), ("--execute", "READ EXECUTED")]
)
def test_run_path_option_allows_what_it_says_and_no_more(
    sandbox: Run, there: Path, option: str, rights: str
) -> None:  # fmt: skip
    said = in_view(sandbox, there, f"{READ}; {WRITE}; {EXECUTE}; true", option, str(there))
    assert re.findall("READ|WRITTEN|EXECUTED", said) == rights.split()
    assert (there / "data").read_text() == ("new\n" if "WRITTEN" in rights else "old\n")
    assert ("Permission denied" in said) == ("EXECUTED" not in rights)


def test_run_path_options_add_up_and_take_relative_and_marked_paths(sandbox: Run, there: Path) -> None:
    script = "./there/tool && echo new >there/data"
    options = ("--write", "there", "--execute", "./there/", "--read", "-nowhere")
    done = sandbox("run", "--chdir", str(there.parent), *options, "sh", "-c", script, cwd=there.parent)
    assert (done.stdout, done.stderr, (there / "data").read_text()) == ("tool\n", "", "new\n")


def test_run_tmpfs_is_empty_and_writable_and_gone(sandbox: Run, there: Path) -> None:
    assert in_view(sandbox, there, f"ls; {WRITE}", "--tmpfs", str(there)) == "WRITTEN\nnew\n"
    assert in_view(sandbox, there, "cat data", "--read", str(there)) == "old\n"


def test_run_private_shows_what_is_there_and_keeps_no_change(sandbox: Run, there: Path) -> None:
    assert in_view(sandbox, there, f"{READ}; {WRITE}", "--private", str(there)) == "old\nREAD\nWRITTEN\nnew\n"
    assert (there / "data").read_text() == "old\n"


def test_run_hide_takes_one_path_out(sandbox: Run, there: Path) -> None:
    hidden = in_view(sandbox, there, f"{READ}; ls tool", "--read", str(there), "--hide", f"{there}/data")
    assert hidden == "cat: data: Permission denied\ntool\n"
    assert in_view(sandbox, there, READ, "--read", str(there)) == "old\nREAD\n"


def test_run_home_is_empty_unless_it_is_named(sandbox: Run, environment: Mapping[str, str]) -> None:
    home = Path(environment["HOME"])
    (home / "key").write_text("secret\n")
    look = ("sh", "-c", "ls ~; echo x >~/new; ls ~")
    assert sandbox("run", *look, cwd="/usr").stdout == "new\n"
    assert not (home / "new").exists()
    assert sandbox("run", "--read", str(home), *look, cwd="/usr").stdout == "key\nkey\n"
    assert sandbox("run", "--write", str(home), *look, cwd="/usr").stdout == "key\nkey\nnew\n"
    assert (home / "new").exists()


CONNECT: Final = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5); print('connected')"
SELF: Final = """
import socket
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname(), 5)
print("connected")
"""


@pytest.mark.parametrize(
    ("net", "host", "own"), [("none", False, False), ("loopback", False, True), ("host", True, True)]
)
def test_run_net_reaches_what_it_says(sandbox: Run, net: str, host: bool, own: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        reached = sandbox("run", "--net", net, "/usr/bin/python3", "-c", CONNECT, port)
    assert (reached.stdout == "connected\n") == host
    assert host or re.search(r"(Permission denied|Connection refused|Network is unreachable)\n\Z", reached.stderr)
    inside = sandbox("run", "--net", net, "/usr/bin/python3", "-c", SELF)
    assert (inside.stdout == "connected\n") == own
    assert own or re.search("Permission denied|Network is unreachable", inside.stderr)


def test_run_unix_socket_is_reached_where_the_view_shows_it_as_explain_says(sandbox: Run, tmp_path: Path) -> None:
    script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1]); print('connected')"
    path = tmp_path / "there"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        look = ("/usr/bin/python3", "-c", script, str(path))
        assert "No such file or directory" in sandbox("run", *look, cwd="/usr").stderr
        assert sandbox("run", "--read", str(path), *look, cwd="/usr").stdout == "connected\n"
        hidden = sandbox("run", "--read", str(tmp_path), "--hide", str(path), *look, cwd="/usr")
        assert hidden.stderr.endswith(("Permission denied\n", "Connection refused\n"))
    words = "Unix sockets: one that lies in a path of the view can be connected to"
    assert words in sandbox("explain").stdout
    assert words not in sandbox("explain", "-p", "sealed").stdout


def test_run_without_net_is_none(sandbox: Run) -> None:
    assert sandbox("run", "cat", "/proc/net/dev").stdout.count(":") == 1  # a loopback that is down
    assert "Permission denied" in sandbox("run", "/usr/bin/python3", "-c", SELF).stderr


ALLOCATE: Final = ("/usr/bin/python3", "-c", "print(len(bytearray(300 << 20)) >> 20)")


def test_run_limit_of_memory(sandbox: Run) -> None:
    assert sandbox("run", "--limit", "memory=2G", *ALLOCATE).stdout == "300\n"
    done = sandbox("run", "--limit", "memory=200M", *ALLOCATE)
    # A cgroup kills, an address space that is full is refused.
    assert done.returncode == 137 or done.stderr.endswith("MemoryError\n")


def test_run_limit_of_open_files_and_file_size(sandbox: Run) -> None:
    script = "ulimit -n; cd /tmp; head -c 3000 /dev/zero >f; wc -c <f"
    assert sandbox("run", "--limit", "open_files=64", "sh", "-c", script).stdout == "64\n3000\n"
    assert sandbox("run", "--limit", "file_size=2K", "sh", "-c", script).stdout.endswith("\n2048\n")


def test_run_limit_of_processes_holds_or_is_refused_where_nothing_can_hold_it(
    sandbox: Run, ordinary_user: tuple[tuple[str, ...], Path]
) -> None:
    command, _ = ordinary_user
    script = "for n in 1 2 3 4 5 6 7 8; do sleep 0.2 & done; wait"
    for most, code in (("40", 0), ("5", 2)):
        words = [*command, "run", "--limit", f"processes={most}", "sh", "-c", script]
        done = subprocess.run(words, capture_output=True, text=True, cwd="/usr", check=False)
        assert done.returncode == code, done.stderr
        assert ("annot fork" in done.stderr) == (code != 0)
    done = sandbox("run", "--limit", "processes=5", "true")
    if os.geteuid() == 0 and done.returncode:  # no cgroup is delegated here
        assert re.match(r"sandbox: unsupported: limits\.processes: needs a delegated cgroup .*; have one", done.stderr)


@pytest.mark.parametrize("options", [("--timeout", "300ms"), ("--limit", "timeout=0.3")])
def test_run_timeout_ends_everything_with_124(sandbox: Run, options: tuple[str, ...]) -> None:
    begin = time.monotonic()
    done = sandbox("run", *options, "sh", "-c", "trap '' TERM; sleep 50 & sleep 50; echo late")
    assert (done.returncode, done.stdout) == (124, "")
    assert time.monotonic() - begin < 30
    assert sandbox("run", "--timeout", "1m", "sh", "-c", "exit 3").returncode == 3


def test_run_timeout_is_told_to_programs(shell: Run) -> None:
    done = shell("sandbox run --timeout 100ms --status-fd 9 sleep 50 9>&1")
    assert re.search(r'"event":"exited",.*"signal":9,"timed_out":1}\n\Z', done.stdout)


@pytest.mark.parametrize(
    ("tty", "wanted"),
    [("none", "not a tty"), ("private", "/dev/pts/0"), ("auto", "/dev/pts/0"), ("inherit", "not a tty")],
)
def test_run_tty(sandbox_command: Sequence[str], environment: Mapping[str, str], tty: str, wanted: str) -> None:
    """The caller's own terminal stays on 0, 1 and 2 unless it is private, and has no name in the view."""
    main, side = pty.openpty()
    script = "tty; test -t 1 && echo terminal; (: </dev/tty) 2>/dev/null && echo controlling; echo end"
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *sandbox_command, "run", "--tty", tty, "sh", "-c", script],
        stdin=side, stdout=side, stderr=side, env=dict(environment), cwd="/usr",
    )  # fmt: skip
    os.close(side)
    said = b""
    while not said.endswith(b"end\r\n") and select.select([main], [], [], 60)[0]:
        said += os.read(main, 1000)
    assert process.wait(60) == 0
    os.close(main)
    lines = said.decode().split("\r\n")
    assert wanted in lines[0]
    assert "terminal" in lines
    assert ("controlling" in lines) == (tty != "none")


def test_run_share_of_a_namespace(sandbox: Run) -> None:
    for name in ("uts", "ipc", "cgroup"):
        link = ("readlink", f"/proc/self/ns/{name}")
        host = os.readlink(f"/proc/self/ns/{name}")
        assert sandbox("run", *link).stdout != f"{host}\n"
        assert sandbox("run", "--share", name, *link).stdout == f"{host}\n"
    assert sandbox("run", "hostname").stdout == "sandbox\n"
    assert sandbox("run", "--share", "uts", "hostname").stdout == f"{socket.gethostname()}\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: others cannot become another user")
def test_run_user_as_root(sandbox: Run) -> None:
    look = ("sh", "-c", "id -u; id -g; id -G")
    assert sandbox("run", *look).stdout.split() == ["0", "0", "0"]
    assert sandbox("run", "--user", "65534", *look).stdout.split() == ["65534"] * 3
    assert sandbox("run", "--user", "nobody:1", *look).stdout.split() == ["65534", "1", "1"]


def test_run_user_as_an_ordinary_user(ordinary_user: tuple[tuple[str, ...], Path]) -> None:
    command, _ = ordinary_user

    def run(user: str) -> subprocess.CompletedProcess[str]:
        words = [*command, "run", "--user", user, "id", "-u"]
        return subprocess.run(words, capture_output=True, text=True, cwd="/usr", check=False)

    own = os.geteuid() or 65534
    assert run(f"{own}:{os.getegid() or 65534}").stdout == f"{own}\n"
    refused = run("0:0")
    assert refused.returncode == 125
    assert "user 0, group 0 is not the caller; only root can become another" in refused.stderr


def test_run_sees_only_its_own_processes_and_ends_them(sandbox: Run) -> None:
    done = sandbox("run", "sh", "-c", "sleep 50.77 & echo /proc/[0-9]*; kill -9 1; echo alive")
    names, alive = done.stdout.splitlines()
    assert {Path(name).name for name in names.split()} == {"1", "2", "3"}
    assert alive == "alive"
    living = [file for file in Path("/proc").glob("[0-9]*/cmdline") if b"50.77" in _read(file).split(b"\0")]
    assert living == []


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def test_run_inside_a_sandbox_is_refused_in_one_line(sandbox: Run) -> None:
    import sandbox as package

    launcher = str(Path(package.__file__).parent / "launcher" / "sandbox-launch")
    done = sandbox("run", "--execute", launcher, launcher, "4", cwd="/usr")
    assert done.returncode == 125
    assert done.stderr == (
        "sandbox: plan: its descriptor is not open; "
        "an outer sandbox closes what its profile lets no exec pass (dev-fd)\n"
    )
