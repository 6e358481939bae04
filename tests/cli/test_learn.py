"""`sandbox learn`: what it writes lets the command do the same again, and an impostor of it nothing else."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.cli.conftest import Run

TOOL = """#!/bin/sh
read name <list
sort "$name" >sorted
mkdir -p build/sub
printf '#!/bin/sh\\necho built\\n' >build/sub/made; chmod +x build/sub/made; build/sub/made
bash -c 'cat <(echo substituted)'
mktemp >/dev/null
[ -n "$TOOL_MODE" ] && echo "$TOOL_MODE"
grep -c processor /proc/cpuinfo >/dev/null
"""
TWIN = """#!/bin/sh
cat ~/key ~/.ssh/id_rsa
echo x >~/planted
echo x >../outside
python3 -c 'import socket; socket.create_connection(("127.0.0.1", %d)); print("connected")'
cat ../beside/secret
setsid sleep 1234.5 &
"""


@pytest.fixture
def work(environment: Mapping[str, str], tmp_path: Path) -> Path:
    """Return a project's folder with a tool, beside a home with secrets and another project."""
    folder, home = tmp_path / "work", Path(environment["HOME"])
    for each in (folder, home / ".ssh", tmp_path / "beside"):
        each.mkdir()
    for path in (home / "key", home / ".ssh/id_rsa", tmp_path / "beside/secret"):
        path.write_text("SECRET\n")
    (folder / "list").write_text("numbers\n")
    (folder / "numbers").write_text("2\n1\n")
    (folder / "tool").write_text(TOOL)
    (folder / "tool").chmod(0o755)
    return folder


def parsed(path: Path) -> dict[str, Any]:
    """Return a profile's tables."""
    return tomllib.loads(path.read_text())


def test_learned_profile_passes_check_and_lets_the_command_do_the_same(sandbox: Run, work: Path) -> None:
    extra = {"TOOL_MODE": "batch", "GITHUB_TOKEN": "t0ken", "UNUSED": "1"}
    taught = sandbox("learn", "--permissive", "-o", "tool.toml", "./tool", cwd=work, extra_env=extra)
    assert (taught.returncode, taught.stdout) == (0, "built\nsubstituted\nbatch\n"), taught.stderr
    assert "sandbox: learn: wrote tool.toml: " in taught.stderr
    found = parsed(work / "tool.toml")
    assert found["extends"] == ["base"]
    assert found["environment"]["keep"] == ["TOOL_MODE"]
    assert found["filesystem"]["write"] == ["{cwd}"]
    assert found["filesystem"]["tmpfs"] == ["/tmp"]
    assert found["filesystem"]["proc"] == "full"
    assert "dev-fd" in found["descriptors"]["delegate"]
    assert "network" not in found
    assert sandbox("check", "./tool.toml", cwd=work).stdout.startswith("ok tool ")
    for path in (work / "sorted", *sorted((work / "build").rglob("*"), reverse=True), work / "build"):
        path.rmdir() if path.is_dir() else path.unlink()
    again = sandbox("run", "-p", "./tool.toml", "./tool", cwd=work, extra_env=extra)
    assert (again.returncode, again.stdout, again.stderr) == (0, "built\nsubstituted\nbatch\n", "")
    assert (work / "sorted").read_text() == "1\n2\n"


def test_an_impostor_under_the_learned_profile_gets_at_nothing(sandbox: Run, work: Path) -> None:
    sandbox("learn", "--permissive", "-o", "tool.toml", "./tool", cwd=work)
    with socket.create_server(("127.0.0.1", 0)) as server:
        (work / "tool").write_text(TWIN % server.getsockname()[1])
        free = subprocess.run(["sh", "-c", f"cat {work.parent}/beside/secret"], capture_output=True, check=True)
        assert free.stdout == b"SECRET\n"
        done = sandbox("run", "-p", "./tool.toml", "./tool", cwd=work)
    assert "SECRET" not in done.stdout
    assert "connected" not in done.stdout
    assert not (work.parent / "outside").exists()
    assert not (work.parent / "home" / "planted").exists()
    assert subprocess.run(["pgrep", "-f", "sleep 1234.5"], check=False, stdout=subprocess.DEVNULL).returncode == 1


def test_learning_within_a_profile_refuses_and_learns_what_was_refused(sandbox: Run, work: Path) -> None:
    taught = sandbox("learn", "-o", "w.toml", "sh", "-c", "echo x >new || echo refused", cwd=work)
    assert (taught.returncode, taught.stdout) == (0, "refused\n")
    assert not (work / "new").exists()
    assert "untrusted has refused 1 call," in taught.stderr
    assert parsed(work / "w.toml")["filesystem"]["write"] == ["{cwd}"]
    done = sandbox("run", "-p", "./w.toml", "sh", "-c", "echo x >new || echo refused", cwd=work)
    assert (done.returncode, done.stdout) == (0, "")
    assert (work / "new").exists()


def test_permissive_alone_refuses_nothing(sandbox: Run, work: Path) -> None:
    taught = sandbox("learn", "--permissive", "-o", "w.toml", "sh", "-c", "cat ~/key; echo x >new", cwd=work)
    assert taught.stdout == "SECRET\n"
    assert (work / "new").exists()
    confined = sandbox("learn", "-o", "v.toml", "sh", "-c", "cat ~/key", cwd=work)
    assert "SECRET" not in confined.stdout


def test_secrets_and_sockets_that_speak_for_the_user_are_named_and_not_granted(sandbox: Run, work: Path) -> None:
    home = work.parent / "home"
    # Short: a socket's path has 107 bytes at most.
    with socket.socket(socket.AF_UNIX) as agent, tempfile.TemporaryDirectory(prefix="l-", dir="/tmp") as folder:
        agent.bind(f"{folder}/docker.sock")
        agent.listen()
        text = f"import socket; socket.socket(1).connect('{folder}/docker.sock')\n"
        text += f"open('{home}/.ssh/id_rsa'); open('{home}/key')"
        extra = {"SSH_AUTH_SOCK": "/x", "MY_TOKEN": "t"}
        script = work / "look.py"
        script.write_text(f"import os; os.environ.get('SSH_AUTH_SOCK'); os.environ.get('MY_TOKEN'); {text}\n")
        sandbox("learn", "--permissive", "-o", "s.toml", "/usr/bin/python3", "look.py", cwd=work, extra_env=extra)
    said, found = (work / "s.toml").read_text(), parsed(work / "s.toml")
    assert "-{home}/key" in found["filesystem"]["read"]
    everything = str(found)
    for name, what in (
        (".ssh/id_rsa", "SSH keys"), ("docker.sock", "root on this machine"), ("SSH_AUTH_SOCK", "ssh-agent"),
        ("MY_TOKEN", "a secret"),
    ):  # fmt: skip
        assert name not in everything
        assert re.search(rf"^# used, and not granted: .*{re.escape(name)}.*{re.escape(what)}", said, re.MULTILINE), said


def test_a_whole_home_is_never_learned(sandbox: Run, work: Path) -> None:
    home = work.parent / "home"
    command = "ls ~ / /etc >/dev/null; cd ~; cat one two three four >/dev/null; touch made; "
    command += "mkdir -p .cache/tool; echo x >.cache/tool/y"
    for name in ("one", "two", "three", "four"):
        (home / name).write_text("x")
    (home / ".cache").mkdir()
    (home / ".cache" / "tool").mkdir()
    sandbox("learn", "--permissive", "-o", "h.toml", "sh", "-c", command, cwd=work)
    files = parsed(work / "h.toml")["filesystem"]
    shown = [path.removeprefix("-") for name in ("read", "write", "execute") for path in files.get(name, ())]
    assert not {"{home}", "/", "/etc", str(home)} & set(shown)
    assert {"{home}/one", "{home}/four"} <= set(shown)
    assert files["tmpfs"] == ["{home}"]
    assert "{home}/.cache/tool" in shown
    assert re.search(r'^ *"-?\{home\}/.cache/tool",  # a cache', (work / "h.toml").read_text(), re.MULTILINE)


def test_runs_are_merged_by_update_which_shows_and_asks(
    sandbox: Run, sandbox_command: list[str], environment: Mapping[str, str], work: Path
) -> None:
    one, two = ("sh", "-c", "cat numbers >/dev/null"), ("sh", "-c", "cat ~/key >/dev/null; echo x >out")
    assert sandbox("learn", "--permissive", "-o", "m.toml", *one, cwd=work).returncode == 0
    before = (work / "m.toml").read_text()
    refused = sandbox("learn", "--permissive", "-o", "m.toml", *two, cwd=work)
    assert (refused.returncode, "m.toml: it exists" in refused.stderr) == (125, True)
    words = [*sandbox_command, "learn", "--permissive", "--update", "-o", "m.toml", *two]

    def answered(answer: str) -> str:
        child = pexpect.spawn(words[0], words[1:], cwd=str(work), env=dict(environment), encoding="utf-8", timeout=60)
        child.expect("write it\\?")
        child.sendline(answer)
        child.expect(pexpect.EOF)
        return str(child.before)

    answered("n")
    assert (work / "m.toml").read_text() == before
    answered("y")
    merged = parsed(work / "m.toml")
    assert "-{home}/key" in merged["filesystem"]["read"]
    assert merged["filesystem"]["write"] == ["{cwd}"]
    for command in (one, two):
        assert sandbox("run", "-p", "./m.toml", *command, cwd=work).returncode == 0
    same = sandbox("learn", "--permissive", "--update", "--yes", "-o", "m.toml", *two, cwd=work)
    assert "it needs no change" in same.stderr
    (work / "m.toml").write_text('extends = ["base"]\n[limits]\nmemory = "1G"\n')
    lost = sandbox("learn", "--permissive", "--update", "--yes", "-o", "m.toml", *one, cwd=work)
    assert (lost.returncode, "it holds limits" in lost.stderr) == (125, True)


def test_network_is_as_small_as_what_was_used(sandbox: Run, work: Path) -> None:
    own = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    sandbox("learn", "--permissive", "-o", "n.toml", "/usr/bin/python3", "-c", own, cwd=work)
    assert parsed(work / "n.toml")["network"]["mode"] == "loopback"
    with socket.create_server(("127.0.0.1", 0)) as server:
        other = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))"
        sandbox("learn", "--permissive", "-o", "o.toml", "/usr/bin/python3", "-c", other, cwd=work)
        assert parsed(work / "o.toml")["network"]["allow"] == [f"tcp:127.0.0.1:{server.getsockname()[1]}"]
        assert sandbox("run", "-p", "./o.toml", "/usr/bin/python3", "-c", other, cwd=work).returncode == 0
    assert sandbox("run", "-p", "./n.toml", "/usr/bin/python3", "-c", own, cwd=work).returncode == 0


def test_exit_code_is_the_commands(sandbox: Run, work: Path) -> None:
    assert sandbox("learn", "--permissive", "-o", "e.toml", "sh", "-c", "exit 7", cwd=work).returncode == 7
    assert sandbox("learn", "--permissive", "-o", "f.toml", "no-such-program", cwd=work).returncode == 127
    assert not (work / "f.toml").exists()


def test_without_an_output_it_goes_to_the_users_profiles(sandbox: Run, work: Path) -> None:
    assert sandbox("learn", "--permissive", "sort", "numbers", cwd=work).returncode == 0
    assert (work.parent / "home/.config/sandbox/profiles/sort.toml").exists()
    done = sandbox("run", "-p", "sort", "sort", "numbers", cwd=work)
    assert (done.returncode, done.stdout) == (0, "1\n2\n")
    assert parsed(work.parent / "home/.config/sandbox/profiles/sort.toml")["process"]["exec"] == "once"


def test_what_was_learned_is_told_as_json(sandbox: Run, work: Path) -> None:
    words = ("learn", "--json", "--permissive", "--yes", "-o", "tool.toml")
    first = sandbox(*words, "--", "./tool", cwd=work)
    told = json.loads(first.stderr.splitlines()[-1])
    assert (told["profile"], told["written"], told["within"], told["code"]) == (
        "tool.toml",
        True,
        None,
        first.returncode,
    )
    assert told["entries"] > 0
    assert told["calls"] > 0
    again = sandbox(*words, "--update", "--", "./tool", cwd=work)
    assert json.loads(again.stderr.splitlines()[-1])["written"] is False


def test_temporary_folder_that_is_looked_for_is_there(sandbox: Run, work: Path) -> None:
    """Some programs look for it and end where it is missing, though they make nothing in it (lynx)."""
    looking = ("sh", "-c", "test -d /tmp")
    assert sandbox("learn", "-o", "looks.toml", "--permissive", *looking, cwd=work).returncode == 0
    assert parsed(work / "looks.toml")["filesystem"]["tmpfs"] == ["/tmp"]
    assert sandbox("run", "-p", "./looks.toml", *looking, cwd=work).returncode == 0
    assert sandbox("learn", "-o", "blind.toml", "--permissive", "true", cwd=work).returncode == 0
    assert "tmpfs" not in parsed(work / "blind.toml")["filesystem"]


def test_profile_that_cannot_be_written_is_told_before_the_command_runs(sandbox: Run, work: Path) -> None:
    (work / "file").write_text("")
    for output in ("file/x.toml", "/proc/x/y.toml"):
        done = sandbox("learn", "--permissive", "-o", output, "sh", "-c", "echo ran", cwd=work)
        assert (done.returncode, done.stdout) == (125, "")
        assert re.match(rf"sandbox: usage: --output: {output}: .*; give a file that can be written\n$", done.stderr)
    done = sandbox("learn", "--permissive", "-o", "deep/er/x.toml", "sh", "-c", "echo ran", cwd=work)
    assert (done.returncode, done.stdout) == (0, "ran\n")


def test_command_that_is_not_there_is_told_once(sandbox: Run, work: Path) -> None:
    for more in ((), ("--permissive",)):
        done = sandbox("learn", *more, "-o", "x.toml", "no-such-program", cwd=work)
        assert done.returncode == 127
        assert done.stderr.count("no-such-program") == 1, done.stderr
