"""`sandbox check` finds what is dangerous or useless, and nothing else; `sandbox diff` tells what is granted more."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cli.conftest import Run

ARGUMENT: Final = '{ description = "x", rules = [{ argument = "--fd=", shape = "number" }] }'
SYSTEM: Final = 'extends = ["base"]\nfilesystem.execute = ["/usr"]\n'
PROGRAM: Final = '{ description = "x", rules = [{ program = "%s", shape = "all" }] }'
# rule -> (what the profile says, the object that is found; what says nearly the same and is fine)
FOUND: Final = {
    "writable-executable": ('filesystem.write = ["{cwd}"]', "{cwd}", 'filesystem.write = ["{home}/out"]'),
    "writable-on-path": ('filesystem.write = ["{home}/bin"]', "HOME/bin", 'filesystem.read = ["{home}/bin"]'),
    "speaks-for-you": (
        'filesystem.read = ["-{home}/docker.sock"]',
        "HOME/docker.sock",
        'filesystem.read = ["-{home}/x.sock"]',
    ),
    "speaks-for-you by a variable": (
        'environment.keep = ["SSH_AUTH_SOCK"]',
        "environment.keep: SSH_AUTH_SOCK",
        'environment.keep = ["SSH_X"]',
    ),
    "speaks-for-you by a folder": (
        'filesystem.read = ["{home}/agent"]',
        "HOME/agent",
        'filesystem.read = ["{home}/agent"]\nfilesystem.hide = ["{home}/agent/ssh-x"]',
    ),
    "speaks-for-you by a grant": (
        'grants.d = { connect = "unix:/run/docker.sock" }',
        "grant d",
        'grants.d = { connect = "unix:/run/x.sock" }',
    ),
    "writes-profiles": (
        'filesystem.write = ["{home}/.config/sandbox"]',
        "HOME/.config/sandbox",
        'filesystem.write = ["{home}/.config/other"]',
    ),
    "writes-profiles by its own folder": (
        'filesystem.write = ["-{home}/mine"]',
        "HOME/mine",
        'filesystem.read = ["-{home}/mine"]',
    ),
    "writes-startup": (
        'filesystem.write = ["-{home}/.bashrc"]',
        "HOME/.bashrc",
        'filesystem.write = ["-{home}/notes"]',
    ),
    "shows-secret": (
        'filesystem.read = ["-{home}/.ssh"]',
        "HOME/.ssh",
        'filesystem.read = ["-{home}/.sshx"]',
    ),
    "shows-home": ('filesystem.private = ["{home}"]', "HOME", 'filesystem.private = ["{home}/out"]'),
    "keeps-secret": (
        'environment.keep = ["GH_TOKEN"]',
        "environment.keep: GH_TOKEN",
        'environment.keep = ["GH_HOST"]',
    ),
    "rare-call": ('filter.allow = ["ptrace"]', "filter.allow: ptrace", 'filter.allow = ["@aio"]'),
    "whole-network": ('network.mode = "host"', 'network.mode: "host"', 'network.mode = "loopback"'),
    "useless": ('filesystem.read = ["/etc/hosts"]', "/etc/hosts", 'filesystem.write = ["/etc/hosts"]'),
    "useless hide": (
        'filesystem.hide = ["/var/nothing-shows-it"]',
        "/var/nothing-shows-it",
        'filesystem.hide = ["-/var/x"]',
    ),
    "missing": ('filesystem.read = ["/nowhere"]', "/nowhere", 'filesystem.read = ["-/nowhere"]'),
    "overlapping-grants": (
        'grants.a = { file = "/etc/hosts" }\ngrants.b = { file = "/etc/hosts", access = "write" }',
        "grant b",
        'grants.a = { file = "/etc/hosts" }\ngrants.b = { file = "/etc/passwd", access = "write" }',
    ),
    "overlapping-grants by a path": (
        'grants.a = { file = "{home}/out/x" }\nfilesystem.write = ["{home}/out"]',
        "grant a",
        'grants.a = { file = "{home}/out/x" }\nfilesystem.read = ["{home}/out"]',
    ),
    "never-matches": ('process.exec = "once"', "descriptors.delegate", 'process.exec = "allow"'),
    "never-matches: not named": (
        f"protocols.mine = {ARGUMENT}",
        "protocols.mine",
        f'protocols.mine = {ARGUMENT}\ndescriptors.delegate = ["mine"]',
    ),
    "never-matches: no such program": (
        f'{SYSTEM}protocols.mine = {PROGRAM % "no-such"}\ndescriptors.delegate = ["mine"]',
        "protocols.mine",
        f'{SYSTEM}protocols.mine = {PROGRAM % "sh"}\ndescriptors.delegate = ["mine"]',
    ),
}


@pytest.fixture
def home(environment: Mapping[str, str]) -> Path:
    """Return a home folder with what the profiles name."""
    folder = Path(environment["HOME"])
    for name in ("bin", "out", "mine", "agent/ssh-x", ".config/sandbox", ".config/other"):
        (folder / name).mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", FOUND)
def test_check_finds_it_and_not_its_twin(name: str, sandbox: Run, home: Path) -> None:
    rule = name.partition(" ")[0].rstrip(":")
    with socket.socket(socket.AF_UNIX) as agent, contextlib.ExitStack() as opened:
        folder = os.open(home / "agent/ssh-x", os.O_PATH)
        opened.callback(os.close, folder)
        agent.bind(f"/proc/self/fd/{folder}/agent.1")  # short: a socket's path has 107 bytes at most
        extra = {"SSH_AUTH_SOCK": str(home / "agent/ssh-x/agent.1"), "PATH": f"{home}/bin:/usr/bin:/bin"}

        def findings(text: str, *options: str) -> tuple[int, list[dict[str, Any]]]:
            path = home / "mine" / "p.toml"
            path.write_text(text if text.startswith("extends") else f'extends = ["untrusted"]\n{text}\n')
            done = sandbox("check", "--json", *options, str(path), extra_env=extra, cwd="/")
            assert done.stderr == ""
            return done.returncode, json.loads(done.stdout)[0]["findings"]

        bad, object_, good = (text.replace("HOME", str(home)) for text in FOUND[name])
        assert (rule, object_) in {(row["rule"], row["object"]) for row in findings(bad)[1]}
        assert (rule, object_) not in {(row["rule"], row["object"]) for row in findings(good)[1]}
        assert findings(bad)[0] == 0
        assert findings(bad, "--strict")[0] == 1
        assert rule not in {row["rule"] for row in findings(bad, "--accept", rule)[1]}


def test_check_finds_nothing_in_shipped_profiles_but_what_nested_is_for(sandbox: Run) -> None:
    done = sandbox("check", "--strict", "base", "untrusted", "sealed")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 3)
    done = sandbox("check", "--strict", "nested")
    assert (done.returncode, {line.split(":")[0] for line in done.stdout.splitlines()[1:]}) == (1, {"  rare-call"})
    assert sandbox("check", "--strict", "--accept", "rare-call", "nested").returncode == 0


def test_check_of_an_invalid_profile_is_an_error_as_before(sandbox: Run, home: Path) -> None:
    (home / "p.toml").write_text("limits.memroy = 1\n")
    assert sandbox("check", str(home / "p.toml")).returncode == 125


# What B says besides A -> the line that tells it.
MORE: Final = {
    'filesystem.read = ["/srv"]': "filesystem: read /srv",
    'filesystem.write = ["{home}/x"]': "filesystem: read, write {home}/x",
    'filesystem.execute = ["/etc"]': "filesystem: execute /etc",
    'filesystem.proc = "writable"': "filesystem: /proc: writable",
    'network.mode = "loopback"': "network: a loopback of its own",
    'filter.allow = ["ptrace"]': "filter: ptrace (@debug: takes descriptors",
    'process.tty = "inherit"': "process: a terminal: inherit",
    'process.notify = true': "process: speak to",
    'environment.keep = ["X"]': "environment: see the variable X",
    'environment.set = { X = "1" }': "environment: see X=1",
    'descriptors.delegate = ["python-inherit"]': "descriptors: pass descriptors at an exec by python-inherit",
    'grants.x = { file = "/etc/hosts" }': 'grants: grant x: file /etc/hosts (file = "/etc/hosts", access = "read")',
    'limits.core_size = "1M"': "limits: core_size: 1M, not 0",
    'landlock.files = false': "landlock: mounts of its own",
}  # fmt: skip


@pytest.mark.parametrize("line", MORE)
def test_diff_tells_what_is_granted_more_and_not_what_is_less(line: str, sandbox: Run, home: Path) -> None:
    first, second = home / "a.toml", home / "b.toml"
    first.write_text('extends = ["untrusted"]\n')
    second.write_text(f'extends = ["untrusted"]\n{line}\n')
    done = sandbox("diff", str(first), str(second))
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith(MORE[line])
    assert sandbox("diff", str(second), str(first)).stdout == ""
    assert sandbox("diff", str(second), str(first)).returncode == 0


def test_diff_of_shipped_profiles(sandbox: Run) -> None:
    assert sandbox("diff", "untrusted", "untrusted").returncode == 0
    said = sandbox("diff", "--json", "sealed", "untrusted")
    rows = json.loads(said.stdout)
    assert {"area": "process", "what": "execute other programs"} in rows
    assert not any(row["area"] == "network" for row in rows)
