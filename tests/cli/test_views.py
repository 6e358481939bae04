"""The commands that only tell: help, explain, probe, profiles, check."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import pytest

Run: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]
DATA: Final = Path(__file__).parent / "data"
COMMANDS: Final = ("run", "check", "explain", "probe", "profiles", "completion")


def test_help_lists_every_command_with_a_line(sandbox: Run) -> None:
    done = sandbox("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for command in COMMANDS:
        assert re.search(rf"^  {command} +[A-Z]\w+,? .+", done.stdout, re.MULTILINE)
    assert sandbox("-h").stdout == done.stdout


@pytest.mark.parametrize("command", [*((name,) for name in COMMANDS), ("profiles", "list"), ("profiles", "show")])
def test_help_of_each_command_has_usage_text_and_width(sandbox: Run, command: tuple[str, ...]) -> None:
    done = sandbox(*command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: sandbox {' '.join(command)} ")
    assert len(done.stdout.splitlines()) > 4
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_help_of_run_tells_exit_codes_and_grant_words(sandbox: Run) -> None:
    text = " ".join(sandbox("run", "--help").stdout.split())
    for word in ("125", "126", "127", "128+N", "inherit:N", "file:PATH", "secret:PATH", "{fd:NAME}", "SANDBOX_FD_NAME"):
        assert word in text


def test_version_is_one_line(sandbox: Run) -> None:
    assert re.fullmatch(r"sandbox, version \d+\.\d+\.\d+\n", sandbox("--version").stdout)


def test_explain_sealed_is_the_golden_text(sandbox: Run) -> None:
    """A change of the text shows here; after a look, write the new one to tests/cli/data/explain-sealed.txt."""
    done = sandbox("explain", "-p", "sealed")
    assert (done.returncode, done.stderr) == (0, "")
    first, rest = done.stdout.split("\n", 1)
    assert re.fullmatch(r"profile sealed \(/.*/profiles/sealed\.toml\): .+", first)
    assert rest == (DATA / "explain-sealed.txt").read_text()


def test_explain_names_grants_residue_plan_and_what_is_open(sandbox: Run) -> None:
    done = sandbox("explain", "--grant", "hosts=file:/etc/hosts", "--", "wc", "-l", "/dev/fd/{fd:hosts}")
    text = done.stdout
    assert "3        grant hosts: file /etc/hosts, read; told by SANDBOX_FD_HOSTS" in text
    assert "cannot: write through 3 itself" in text
    assert "EPERM: dup2, dup3 onto 3" in text
    assert "network: every address that the host reaches can be reached" in text
    assert "exec            with arguments 'wc' '-l' '/dev/fd/3'" in text
    assert "Plan:" not in sandbox("explain").stdout


def test_explain_says_less_is_open_where_the_profile_closes_it(sandbox: Run) -> None:
    text = sandbox("explain", "-p", "sealed").stdout
    assert "network: every address" not in text
    assert "exec: the command itself, and no program after it" in text


def test_explain_error_prints_no_half_of_it(sandbox: Run) -> None:
    done = sandbox("explain", "--", "true", "{fd:none}")
    assert (done.returncode, done.stdout) == (125, "")


def test_probe_tells_features_and_what_profiles_lose(sandbox: Run) -> None:
    done = sandbox("probe")
    assert done.returncode == 0
    assert re.search(r"^  seccomp_filter +yes +\(since 3\.17; required\)", done.stdout, re.MULTILINE)
    for name in ("base", "untrusted", "sealed"):
        assert f"profile {name}: nothing lost\n" in done.stdout


def test_probe_json(sandbox: Run) -> None:
    told = json.loads(sandbox("probe", "--json").stdout)
    assert told["features"]["no_new_privs"] == 1
    assert told["profiles"]["untrusted"] == []


def test_profiles_list_show_path_and_schema(sandbox: Run, environment: dict[str, str]) -> None:
    folder = Path(environment["HOME"]) / ".config/sandbox/profiles"
    folder.mkdir(parents=True)
    (folder / "sealed.toml").write_text('description = "mine"\nextends = ["base"]\n')
    listed = sandbox("profiles", "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["sealed", "base", "sealed", "untrusted"]
    assert [line.endswith("(shadowed)") for line in listed] == [False, False, True, False]
    rows = json.loads(sandbox("profiles", "list", "--json").stdout)
    assert [row["shadowed"] for row in rows] == [False, False, True, False]
    assert sandbox("profiles", "path", "sealed").stdout == f"{folder}/sealed.toml\n"
    assert sandbox("profiles", "show", "sealed", "--source").stdout == (folder / "sealed.toml").read_text()
    merged = tomllib.loads(sandbox("profiles", "show", "sealed").stdout)
    assert merged["filter"]["allow"] == ["@base"]
    assert json.loads(sandbox("profiles", "schema").stdout)["title"] == "sandbox profile"


def test_check_says_ok_for_valid_profiles_and_stops_at_the_first_that_is_not(sandbox: Run, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text('extends = ["untrusted"]\n')
    bad.write_text('extends = ["untrusted"]\n[process]\nunmask = "022"\n')
    done = sandbox("check", "untrusted", str(good))
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["ok", "untrusted"], ["ok", "good"]]
    done = sandbox("check", str(bad), str(good))
    assert (done.returncode, done.stdout) == (125, "")
    assert re.fullmatch(r"sandbox: profile: .*bad\.toml: process\.unmask: unknown key; .*'umask'.*\n", done.stderr)
