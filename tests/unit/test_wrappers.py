"""Wrappers: what is found in a PATH, what is made, what is never replaced or removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.errors import UsageError
from sandbox.wrappers import Wrapper, find_commands, install_wrappers, profile_of, remove_wrappers

STARTER = ("/opt/a b/sandbox",)


def program(path: Path, mode: int = 0o755, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def install(
    folder: Path, profile: str = "tools", command: str = "/usr/bin/tool", **options: list[str]
) -> list[Wrapper]:
    return list(install_wrappers({os.path.basename(command): command}, profile, folder, starter=STARTER, **options))


def test_find_commands_takes_the_first_of_the_path_and_passes_over_what_is_no_command(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    program(first / "data", 0o644)
    (first / "folder").mkdir()
    for name in ("tool", "data", "folder", "tool3.11", "tool-4", "toolbox"):
        program(second / name)
    program(first / "tool-4")
    path_variable = f"{first}::relative:{tmp_path}/absent:{second}"
    names = ["tool", "data", "folder", "absent"]
    assert find_commands(names, path_variable, versions=False) == {
        name: str(second / name) for name in ("tool", "data", "folder")
    }
    assert find_commands(["tool"], path_variable, versions=True) == {
        "tool": str(second / "tool"), "tool3.11": str(second / "tool3.11"), "tool-4": str(first / "tool-4"),
    }  # fmt: skip


def test_find_commands_passes_over_wrappers_so_that_none_finds_itself(tmp_path: Path) -> None:
    real = program(tmp_path / "real/tool")
    install(tmp_path / "bin")
    assert find_commands(["tool"], f"{tmp_path}/bin:{tmp_path}/real", versions=False) == {"tool": str(real)}
    program(tmp_path / "bin/tool")
    assert find_commands(["tool"], f"{tmp_path}/bin:{tmp_path}/real", versions=False) == {
        "tool": str(tmp_path / "bin/tool")
    }


def test_install_wrapper_is_a_script_that_names_all_absolute(tmp_path: Path) -> None:
    (made,) = install(tmp_path / "new/bin", "/p/my tools.toml", "/usr/bin/a tool", options=["--write", "."])
    assert made == Wrapper(tmp_path / "new/bin/a tool", "/p/my tools.toml", "/usr/bin/a tool")
    text = made.path.read_text()
    assert text.startswith("#!/bin/sh\n# ")
    last = "exec '/opt/a b/sandbox' run -p '/p/my tools.toml' --write . -- '/usr/bin/a tool' \"$@\"\n"
    assert text.splitlines(keepends=True)[-1] == last
    assert made.path.stat().st_mode & 0o777 == 0o755
    assert profile_of(made.path) == "/p/my tools.toml"
    assert os.listdir(tmp_path / "new/bin") == ["a tool"], "nothing temporary is left"


def test_install_replaces_a_wrapper_of_ours_and_no_other_file(tmp_path: Path) -> None:
    install(tmp_path, "old")
    install(tmp_path, "new")
    assert profile_of(tmp_path / "tool") == "new"
    for put in (
        lambda path: path.write_text("mine"),
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to(tmp_path / "tool"),
        lambda path: path.mkdir(),
        os.mkfifo,
    ):
        other = tmp_path / "other"
        put(other)
        before = other.lstat()
        commands = {"fresh": "/usr/bin/fresh", "other": "/usr/bin/other"}
        with pytest.raises(UsageError, match="no wrapper of ours"):
            list(install_wrappers(commands, "new", tmp_path, starter=STARTER))
        assert other.lstat() == before
        assert not (tmp_path / "fresh").exists(), "nothing is made before all is looked at"
        other.rmdir() if other.is_dir() and not other.is_symlink() else other.unlink()


def test_install_file_that_comes_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    made = install_wrappers({"a": "/usr/bin/a", "b": "/usr/bin/b"}, "tools", tmp_path, starter=STARTER)
    next(made)
    (tmp_path / "b").write_text("mine")
    with pytest.raises(UsageError, match="no wrapper of ours"):
        next(made)
    assert (tmp_path / "b").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize(("profile", "fine"), [("a\nrm -rf x", False), ("a\x1b", False), ("a'b $(c)", True)])
def test_install_profile_that_a_script_cannot_name_is_refused(tmp_path: Path, profile: str, fine: bool) -> None:
    if fine:
        install(tmp_path, profile)
        assert profile_of(tmp_path / "tool") == profile
        return
    with pytest.raises(UsageError, match="cannot name"):
        install(tmp_path, profile)


def test_remove_takes_the_wrappers_of_that_profile_and_nothing_else(tmp_path: Path) -> None:
    for name, profile in (("a", "tools"), ("b", "tools"), ("c", "others"), ("d", "tools")):
        install(tmp_path, profile, f"/usr/bin/{name}")
    program(tmp_path / "mine")
    for name in ("c", "mine", "absent"):
        with pytest.raises(UsageError, match="no wrapper of profile tools"):
            list(remove_wrappers("tools", tmp_path, ["a", name]))
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c", "d", "mine"]
    assert list(remove_wrappers("tools", tmp_path, ["b"])) == [tmp_path / "b"]
    assert list(remove_wrappers("tools", tmp_path)) == [tmp_path / "a", tmp_path / "d"]
    assert sorted(os.listdir(tmp_path)) == ["c", "mine"]
    with pytest.raises(UsageError, match="no wrapper of profile tools"):
        list(remove_wrappers("tools", tmp_path))


@pytest.mark.parametrize("text", ["", "#!/bin/sh\n", "#!/bin/sh\n# Made by `sandbox install`\n", "#!/bin/sh\nexec x\n"])
def test_profile_of_other_scripts_is_none(tmp_path: Path, text: str) -> None:
    assert profile_of(program(tmp_path / "x", text=text)) is None
    (made,) = install(tmp_path)
    assert profile_of(made.path) == "tools"
    made.path.write_text(made.path.read_text().replace("profile tools", "profile 'tools"))
    assert profile_of(made.path) is None
