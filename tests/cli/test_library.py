"""The profile that is for a command is found by its name and told; wrappers run commands under it from the PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

Run: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def profiles(environment: dict[str, str]) -> Path:
    """Return the user's folder of profiles, with one that is for two commands; a variable tells that it was taken."""
    folder = Path(environment["HOME"]) / ".config/sandbox/profiles"
    folder.mkdir(parents=True)
    text = 'extends = ["untrusted"]\ncommands = ["printenv", "wc"]\n[environment]\nset = { UNDER = "mine" }\n'
    (folder / "mine.toml").write_text(text)
    return folder


HINT = "choose with -p NAME, hide this line with --quiet"
TAKING = f"sandbox: profile: {{}}: taking 'mine', the profile for this command; {HINT}\n"


def test_run_takes_the_profile_that_is_for_the_command_and_says_so(sandbox: Run) -> None:
    for command in ("printenv", "/usr/bin/printenv"):
        done = sandbox("run", command, "UNDER")
        assert (done.stdout, done.stderr) == ("mine\n", TAKING.format(command))
    for quiet in ("--quiet", "-q"):
        done = sandbox("run", quiet, "printenv", "UNDER")
        assert (done.stdout, done.stderr) == ("mine\n", "")


def test_run_takes_another_profile_where_one_is_named_and_none_where_none_is_for_it(sandbox: Run) -> None:
    done = sandbox("run", "-p", "untrusted", "printenv", "UNDER")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    done = sandbox("run", "env")
    assert ("UNDER=mine" in done.stdout, "HOME=" in done.stdout, done.stderr) == (False, True, "")
    assert sandbox("run", "-p", "mine", "printenv", "UNDER").stdout == "mine\n"


def test_run_takes_no_profile_for_a_file_that_has_only_the_name(sandbox: Run, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    other = tmp_path / "work/printenv"
    other.write_text("#!/bin/sh\necho under $UNDER\n")
    other.chmod(0o755)
    for command in ("./printenv", str(other)):
        done = sandbox("run", command, cwd=tmp_path / "work")
        assert (done.stdout, done.stderr) == ("under\n", "")
    done = sandbox("run", "-p", "mine", "./printenv", cwd=tmp_path / "work")
    assert done.stdout == "under mine\n"


def test_run_several_profiles_for_a_command_are_an_error_and_nothing_starts(
    sandbox: Run, profiles: Path, tmp_path: Path
) -> None:
    (profiles / "other.toml").write_text('extends = ["untrusted"]\ncommands = ["printenv"]\n')
    done = sandbox("run", "--write", str(tmp_path), "printenv", "UNDER")
    assert (done.returncode, done.stdout) == (125, "")
    assert (
        done.stderr == "sandbox: usage: command printenv: several profiles are for it: mine, other; name one: -p NAME\n"
    )
    assert sandbox("run", "-p", "mine", "printenv", "UNDER").stdout == "mine\n"
    assert sandbox("run", "-q", "wc", "/dev/null").returncode == 0


def test_explain_and_dry_run_take_the_same_profile(sandbox: Run, profiles: Path) -> None:
    assert sandbox("explain", "printenv").stdout.startswith(f"profile mine ({profiles}/mine.toml)")
    assert sandbox("explain", "-p", "sealed", "printenv").stdout.startswith("profile sealed (")
    assert sandbox("explain").stdout.startswith("profile untrusted (")
    assert "set UNDER=mine" in " ".join(sandbox("run", "--dry-run", "printenv").stdout.split())
    assert "UNDER" not in sandbox("run", "--dry-run", "env").stdout


def test_shipped_profile_is_found(sandbox: Run, tmp_path: Path) -> None:
    done = sandbox("run", "tar", "--version")
    assert done.stderr == TAKING.format("tar").replace("mine", "tar")
    (tmp_path / "work").mkdir()
    done = sandbox("run", "-q", "tar", "-cf", "a.tar", "-C", "/usr", "bin/env", cwd=tmp_path / "work")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "work/a.tar").stat().st_size > 10_000


def test_install_makes_a_wrapper_under_which_the_command_runs(shell: Run, environment: dict[str, str]) -> None:
    bin_folder = Path(environment["HOME"]) / ".local/bin"
    done = shell("sandbox install mine")
    assert sorted(done.stdout.splitlines()) == [
        f"installed {bin_folder}/printenv: {path_of('printenv')} under mine",
        f"installed {bin_folder}/wc: {path_of('wc')} under mine",
    ]
    assert done.stderr.startswith(f"sandbox: install: {bin_folder}: it is not in PATH; ")
    with_path = 'PATH="$HOME/.local/bin:$PATH"; '
    assert shell(with_path + "printenv UNDER; sandbox install mine").stdout.startswith("mine\ninstalled ")
    # The second one found the real command behind the first wrapper.
    assert path_of("printenv") in (bin_folder / "printenv").read_text()
    assert shell(with_path + "sandbox install mine").stderr == ""
    done = shell(with_path + "printf 'a b\\n' | wc -w; wc --no-such; echo $?")
    assert done.stdout == "2\n1\n"
    assert shell("printenv UNDER").stdout == "", "without the wrapper"
    assert shell("sandbox install --remove mine").stdout == f"removed {bin_folder}/printenv\nremoved {bin_folder}/wc\n"
    assert os.listdir(bin_folder) == []
    assert shell(with_path + "printenv UNDER").stdout == ""


def path_of(command: str) -> str:
    return subprocess.run(
        ["sh", "-c", f"command -v {command}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_install_chosen_commands_folder_and_options(shell: Run, tmp_path: Path) -> None:
    folder = tmp_path / "programs"
    done = shell(f"sandbox install --folder {folder} mine printenv tr --with '--env EXTRA=\"a b\"'")
    assert len(done.stdout.splitlines()) == 2
    assert shell(f"{folder}/printenv EXTRA").stdout == "a b\n"
    assert shell(f"echo x | {folder}/tr x y").stdout == "y\n"
    assert shell(f"sandbox install --remove --folder {folder} mine tr").returncode == 0
    assert os.listdir(folder) == ["printenv"]


def test_install_profile_by_path_works_from_anywhere(shell: Run, profiles: Path, tmp_path: Path) -> None:
    done = shell(f"cd {profiles}; sandbox install --folder {tmp_path}/programs ./mine.toml printenv")
    assert done.returncode == 0, done.stderr
    assert shell(f"cd /; {tmp_path}/programs/printenv UNDER").stdout == "mine\n"


def test_install_tells_where_the_path_leads_to_the_command_first(shell: Run, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    said = shell(f'PATH="$PATH:{programs}"; sandbox install --folder {programs} mine wc').stderr
    assert said == f"sandbox: install: {programs}: in PATH it comes after the folders of wc; put it before them\n"
    assert shell(f'PATH="{programs}:$PATH"; sandbox install --folder {programs} mine wc').stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine", "no-such-command"], "command no-such-command: it is not in PATH; *"),
        (["mine", "/usr/bin/wc"], "command '/usr/bin/wc': it is no command's name; *"),
        (["untrusted"], "profile untrusted: the profile is for no command; *"),
        (["absent"], "profile absent: none of its commands is in PATH; *"),
        (["mine", "--with", "--no-such"], "--no-such: no such option; *"),
        (["mine", "--with", "--net lan"], "--net: 'lan' is not one of *; *"),
        (["mine", "--with", "-q true"], "--with -q true: it holds more than options; *"),
        (["mine", "--with", "'"], "--with ': no closing quotation; *"),
        (["--remove", "mine"], "install */.local/bin: no wrapper of profile mine is there; *"),
    ],
)
def test_install_what_is_wrong_is_said_and_nothing_made(
    sandbox: Run, profiles: Path, environment: dict[str, str], arguments: list[str], said: str
) -> None:
    (profiles / "absent.toml").write_text('commands = ["no-such-command"]\nextends = ["base"]\n')
    done = sandbox("install", *arguments)
    assert (done.returncode, done.stdout) == (125, "")
    parts = f"sandbox: usage: {said}\n".split("*")
    assert done.stderr.startswith(parts[0])
    assert all(part in done.stderr for part in parts)
    assert not (Path(environment["HOME"]) / ".local").exists()


def test_install_leaves_a_file_that_is_not_ours(sandbox: Run, environment: dict[str, str]) -> None:
    bin_folder = Path(environment["HOME"]) / ".local/bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "wc").write_text("mine\n")
    for arguments in (["mine"], ["--remove", "mine", "wc"]):
        done = sandbox("install", *arguments)
        assert (done.returncode, done.stdout) == (125, "")
    assert os.listdir(bin_folder) == ["wc"]
    assert (bin_folder / "wc").read_text() == "mine\n"
    (bin_folder / "wc").unlink()
    assert sandbox("install", "mine").returncode == 0


def test_wrapper_starts_the_native_part_where_that_has_started_us(native_command: Path, tmp_path: Path) -> None:
    """So that a kept plan needs no Python."""
    native, python = tmp_path / "sandbox", tmp_path / "sandbox-python"
    shutil.copy(native_command, native)
    python.write_text(f"#!{sys.executable} -P\nimport sys\nfrom sandbox.cli import main\nsys.exit(main())\n")
    python.chmod(0o755)
    subprocess.run([native, "install", "untrusted", "true", "--folder", tmp_path], check=True, capture_output=True)
    assert f"exec {native} run -p untrusted -- " in (tmp_path / "true").read_text()
    assert subprocess.run([str(tmp_path / "true")], check=False, cwd="/usr").returncode == 0
