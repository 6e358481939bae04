"""Plans that are kept: the next start needs no Python, unless anything that went into the plan has changed."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from sandbox import carried
from sandbox.cache import MAX_ENTRIES, clear, entries, store
from sandbox.cli.app import KEY_OPTION
from sandbox.launch import original_environment
from sandbox.plan import Plan
from sandbox.profile_files import Trail
from tests.support.native import LAUNCHER_SOURCES
from tests.support.plans import plan_for

NEEDS_ROOT: Final = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes files of other users")


@dataclass(frozen=True, slots=True)
class Native:
    """The native command beside a Python part that leaves a mark when it is started."""

    folder: Path
    environment: Mapping[str, str]

    @property
    def command(self) -> Path:
        return self.folder / "sandbox"

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
        env = {**self.environment, **options.pop("env", {})}
        defaults: dict[str, Any] = {"cwd": "/usr", "stdin": subprocess.DEVNULL}
        return subprocess.run(
            [self.command, *arguments], env=env, capture_output=True, text=True, timeout=120, check=False,
            **defaults | options,
        )  # fmt: skip

    def python_was_started(self) -> bool:
        """Tell whether the Python part has been started since this was last asked."""
        mark = self.folder / "mark"
        started = mark.exists()
        mark.unlink(missing_ok=True)
        return started

    def is_kept(self, *arguments: str, **options: Any) -> bool:  # noqa: ANN401
        """Run; tell whether that took no Python."""
        self.python_was_started()
        done = self.run(*arguments, **options)
        assert done.returncode == 0, done.stderr
        return not self.python_was_started()

    @property
    def cache(self) -> Path:
        return Path(self.environment["HOME"], ".cache/sandbox")


def make_file(path: Path) -> Path:
    path.touch()
    return path


@pytest.fixture
def native(native_command: Path, tmp_path: Path, environment: dict[str, str]) -> Native:
    folder = tmp_path / "native"
    folder.mkdir()
    shutil.copy(native_command, folder / "sandbox")
    script = f'#!/bin/sh\n: >{folder}/mark\nexec {sys.executable} -P -m sandbox "$@"\n'
    (folder / "sandbox-python").write_text(script)
    (folder / "sandbox-python").chmod(0o755)
    return Native(folder, environment)


ECHO: Final = ("run", "sh", "-c", "echo $LANG; pwd; exit 3")


def test_second_start_says_the_same_without_python(native: Native) -> None:
    first = native.run(*ECHO, env={"LANG": "a"})
    assert native.python_was_started()
    second = native.run(*ECHO, env={"LANG": "b"})  # what is kept of the environment is taken at the start
    assert not native.python_was_started()
    assert (first.returncode, first.stdout, first.stderr) == (3, "a\n/usr\n", "")
    assert (second.returncode, second.stdout, second.stderr) == (3, "b\n/usr\n", "")


def test_failures_of_the_launcher_are_told_in_the_same_words(native: Native) -> None:
    for arguments in (
        ("run", "--grant", "x=inherit:3", "true"),
        ("run", "--grant", "x=file:/nowhere", "true"),
        ("run", "no-such-program"),
        ("run", "--read", "/nowhere", "true"),
        ("run", "--status-fd", "9", "true"),
    ):
        first, second = native.run(*arguments), native.run(*arguments)
        assert (first.returncode, first.stderr) == (second.returncode, second.stderr)
        assert first.returncode in (125, 127)
        native.python_was_started()
        native.run(*arguments)
        assert not native.python_was_started(), arguments


def test_descriptors_of_a_kept_start_are_those_of_any_other(native: Native, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("granted\n")
    arguments = (
        "run",
        "--grant",
        f"d=file:{tmp_path}/data",
        "--",
        "sh",
        "-c",
        "cat <&3; ls /proc/self/fd | tr '\\n' ' '",
    )
    with open("/etc/hosts", "rb") as leaked:
        for kept in (False, True):
            done = native.run(*arguments, pass_fds=[leaked.fileno()])
            assert (done.stdout, done.stderr) == ("granted\n0 1 2 3 ", "")
            assert native.python_was_started() is not kept
    closed = ["sh", "-c", f"exec {native.command} run readlink /proc/self/fd/0 /proc/self/fd/2 <&- 2>&-"]
    for _ in range(2):
        done = subprocess.run(
            closed, env=dict(native.environment), cwd="/usr", capture_output=True, text=True, check=False
        )
        assert done.stdout == "/dev/null\n/dev/null\n"


def test_kept_start_ends_with_its_own_parent(native: Native, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('extends = ["untrusted"]\n[process]\ndie_with_parent = true\n')
    arguments = ("run", "-p", str(tmp_path / "mine.toml"), "true")
    assert not native.is_kept(*arguments)
    assert native.is_kept(*arguments)  # of another parent: this would be refused where the first one's were waited for
    script = f"{native.command} {' '.join(arguments)}; echo $?"
    done = subprocess.run(
        ["sh", "-c", script], env=dict(native.environment), cwd="/usr", capture_output=True, text=True, check=False
    )
    assert done.stdout == "0\n"


# What the plan is made from.


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, "/x") for name in ("PATH", "XDG_RUNTIME_DIR", "TMPDIR", "XDG_CONFIG_HOME", "PYTHONHASHSEED", "LD_X")]
    + [(name, "1") for name in (*carried.NAMES, "SANDBOX_FD_X")],
)
def test_start_with_another_variable_that_counts_is_compiled(native: Native, name: str, value: str) -> None:
    arguments = ("run", "/usr/bin/true")
    value = "0" if name == "PYTHONHASHSEED" else value
    native.run(*arguments)
    assert native.is_kept(*arguments)
    assert native.is_kept(*arguments, env={"LANG": "C", "ANYTHING": "x"})
    assert not native.is_kept(*arguments, env={name: value})


def test_table_of_variables_has_every_one_that_python_looks_at() -> None:
    text = (LAUNCHER_SOURCES / "cached.c").read_text()
    listed = set(re.findall(r'"([A-Z_]+)"', text))
    assert listed >= {*carried.NAMES, carried.GRANTED}
    used = set()
    for file in ("caller", "build", "resolve", "profile_files", "carried", "cgroups"):
        source = Path(sys.modules["sandbox"].__path__[0], f"{file}.py").read_text()
        used |= set(re.findall(r'(?:environ|variables)(?:\.get\(|\[)"([A-Z_]+)"', source))
    assert used
    assert used <= listed


def test_start_elsewhere_or_with_other_arguments_is_compiled(native: Native) -> None:
    native.run("run", "true")
    assert native.is_kept("run", "true")
    assert not native.is_kept("run", "true", cwd="/usr/share")
    assert not native.is_kept("run", "true", "x")
    assert not native.is_kept("run", "--", "true")
    assert native.is_kept("run", "true", "x")


def test_start_on_a_terminal_is_compiled(native: Native) -> None:
    native.run("run", "true")
    main, side = pty.openpty()
    try:
        for kept in (False, True):
            native.python_was_started()
            done = subprocess.run(
                [native.command, "run", "true"],
                stdin=side, stdout=side, env=dict(native.environment), cwd="/usr", check=False,
            )  # fmt: skip
            assert done.returncode == 0
            assert native.python_was_started() is not kept
    finally:
        os.close(main)
        os.close(side)


def test_command_that_failed_is_pointed_at_more_on_a_terminal_only(native: Native) -> None:
    arguments = ("run", "sh", "-c", "exit 3")
    assert native.run(*arguments).stderr == ""
    main, side = pty.openpty()
    try:
        for kept in (False, True):
            native.python_was_started()
            done = subprocess.run(
                [native.command, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=side,
                env=dict(native.environment), cwd="/usr", check=False,
            )  # fmt: skip
            assert (done.returncode, native.python_was_started()) == (3, not kept)
            assert b"--explain" in os.read(main, 4096)
    finally:
        os.close(main)
        os.close(side)
    assert native.run(*arguments).stderr == ""
    assert not native.python_was_started()


def test_network_by_addresses_is_kept(native: Native) -> None:
    options = ("run", "--net-allow", "tcp:127.0.0.1:1", "--net-bind", "tcp:1-9", "true")
    native.run(*options)
    assert native.is_kept(*options)


def test_another_build_of_the_command_compiles_anew(native: Native) -> None:
    native.run("run", "true")
    assert native.is_kept("run", "true")
    shutil.copy(native.command, native.folder / "new")
    (native.folder / "new").rename(native.command)
    assert not native.is_kept("run", "true")


@pytest.mark.parametrize("which", ["mine", "parent"])
def test_changed_profile_is_compiled_whatever_its_times_say(native: Native, tmp_path: Path, which: str) -> None:
    (tmp_path / "parent.toml").write_text('extends = ["untrusted"]\ndescription = "a"\n[process]\numask = "022"\n')
    (tmp_path / "mine.toml").write_text('extends = ["./parent.toml"]\ndescription = "a"\n')
    arguments = ("run", "-p", str(tmp_path / "mine.toml"), "sh", "-c", "umask")
    native.run(*arguments)
    assert native.is_kept(*arguments)
    file = tmp_path / f"{which}.toml"
    before = file.stat()
    file.write_text(file.read_text().replace('"a"', '"b"').replace("022", "077"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    done = native.run(*arguments)
    assert native.python_was_started()
    assert done.stdout == ("0077\n" if which == "parent" else "0022\n")
    assert native.is_kept(*arguments)
    file.unlink()
    assert native.run(*arguments).returncode == 125


@pytest.mark.parametrize("named", [(), ("-p", "untrusted")], ids=["by the command", "by its name"])
def test_profile_that_comes_before_the_one_that_was_found_is_taken(native: Native, named: tuple[str, ...]) -> None:
    arguments = ("run", *named, "sh", "-c", "umask")
    native.run(*arguments)
    assert native.is_kept(*arguments)
    own = Path(native.environment["HOME"], ".config/sandbox/profiles")
    own.mkdir(parents=True)
    assert native.is_kept(*arguments) is bool(named)  # a profile there could be for that command
    assert native.is_kept(*arguments)
    shipped = Path(sys.modules["sandbox"].__path__[0], "profiles/untrusted.toml").read_text()
    (own / "untrusted.toml").write_text(shipped.replace("[filesystem]", '[process]\numask = "077"\n[filesystem]'))
    assert native.run(*arguments).stdout == "0077\n"
    (own / "untrusted.toml").unlink()
    (own / "untrusted.toml").symlink_to("nowhere")
    assert native.run(*arguments).returncode == 125  # as Python says it


def own_profiles(native: Native) -> Path:
    """Return the user's folder of profiles, with one that is for sh, and another that is for nothing."""
    own = Path(native.environment["HOME"], ".config/sandbox/profiles")
    own.mkdir(parents=True)
    (own / "shells.toml").write_text('extends = ["untrusted"]\ncommands = ["sh"]\n[process]\numask = "077"\n')
    (own / "other.toml").write_text('extends = ["untrusted"]\ncommands = ["hs"]\n[process]\numask = "027"\n')
    return own


def test_profile_that_the_command_s_name_leads_to_is_told_each_time(native: Native) -> None:
    own_profiles(native)
    arguments = ("sh", "-c", "umask")
    hint = "choose with -p NAME, hide this line with --quiet"
    taking = f"sandbox: profile: sh: taking 'shells', the profile for this command; {hint}\n"
    for options, told in (((), taking), (("--quiet",), ""), (("-p", "shells"), "")):
        for kept in (False, True):
            done = native.run("run", *options, *arguments)
            assert (done.returncode, done.stdout, done.stderr) == (0, "0077\n", told)
            assert native.python_was_started() is not kept
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", str(native.command), "run", *arguments],
        env=dict(native.environment), cwd="/usr", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, "0077\n", "")


Profiles = Callable[[Path], object]


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (lambda own: (own / "shells.toml").write_text('extends = ["untrusted"]\ncommands = ["hs"]\n'), (0, "0022\n")),
        (lambda own: (own / "shells.toml").rename(own / "shells"), (0, "0022\n")),
        (lambda own: own.rename(own.with_name("elsewhere")), (0, "0022\n")),
        (lambda own: (own / "untrusted.toml").write_text('commands = ["sh"]\n'), (125, "")),
        (lambda own: (own / "a.toml").write_text('extends = ["untrusted"]\ncommands = ["sh"]\n'), (125, "")),
        (lambda own: (own / "other.toml").write_text('extends = ["untrusted"]\ncommands = ["sh"]\n'), (125, "")),
        (lambda own: (own / "other.toml").write_text('"'), (0, "0077\n")),
    ],
    ids=["not for it", "not a profile", "all gone", "hides one", "new one", "another as well", "not one by now"],
)  # fmt: skip
def test_what_could_be_for_a_command_is_looked_at_each_time(
    native: Native, change: Profiles, outcome: tuple[int, str]
) -> None:
    own = own_profiles(native)
    arguments = ("run", "sh", "-c", "umask")
    native.run(*arguments)
    assert native.is_kept(*arguments)
    change(own)
    done = native.run(*arguments)
    assert native.python_was_started()
    assert (done.returncode, done.stdout) == outcome


def test_profiles_that_change_while_they_are_looked_at_are_looked_at_again(native: Native, tmp_path: Path) -> None:
    trail = Trail()
    trail.look(tmp_path / "gone")
    assert store("0" * 64, plan_for(["true"]), trail, native.environment)
    trail.look(make_file(tmp_path / "new"))
    assert not store("1" * 64, plan_for(["true"]), trail, native.environment)


@NEEDS_ROOT
def test_profile_that_others_can_write_to_by_now_is_refused_to_root(native: Native, tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    folder.mkdir(mode=0o755)
    (folder / "mine.toml").write_text('extends = ["untrusted"]\n')
    arguments = ("run", "-p", str(folder / "mine.toml"), "true")
    native.run(*arguments)
    changes: tuple[tuple[Callable[[], None], Callable[[], None]], ...] = (
        (lambda: folder.chmod(0o777), lambda: folder.chmod(0o755)),
        (lambda: os.chown(folder, 1000, 1000), lambda: os.chown(folder, 0, 0)),
        (lambda: (folder / "mine.toml").chmod(0o666), lambda: (folder / "mine.toml").chmod(0o644)),
    )
    for spoil, repair in changes:
        assert native.is_kept(*arguments)
        spoil()
        done = native.run(*arguments)
        assert (done.returncode, native.python_was_started()) == (125, True)
        repair()


@pytest.mark.parametrize(
    "options",
    [
        ("--limit", "memory=1G"), ("--limit", "cpu=1"), ("-v",), ("--dry-run",),
        ("--grant", "x=connect:tcp:localhost:1:timeout=1"), ("--net-allow", "tcp:localhost:1"),
        ("--dns",), ("--explain",),
        pytest.param(("--net", "veth"), marks=NEEDS_ROOT),
        pytest.param(("--user", "nobody"), marks=NEEDS_ROOT),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_depends_on_more_is_compiled_each_time(native: Native, options: tuple[str, ...]) -> None:
    for _ in range(2):
        native.run("run", *options, "true")
        assert native.python_was_started()
    assert not list(native.cache.glob("*"))
    native.run("run", "--limit", "open_files=99", "true")
    assert native.is_kept("run", "--limit", "open_files=99", "true")


def test_home_that_only_the_password_file_tells_is_looked_up_each_time(native: Native, tmp_path: Path) -> None:
    env = {"HOME": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert not native.is_kept("run", "true", env=env)
    assert not native.is_kept("run", "true", env=env)
    env["HOME"] = native.environment["HOME"]
    native.run("run", "true", env=env)
    assert native.is_kept("run", "true", env=env)


# Whom it trusts.

Change = Callable[[Path], None]


def put_behind_a_link(cache: Path) -> None:
    cache.rename(cache.with_name("moved"))
    cache.symlink_to("moved")


def each_file(change: Change) -> Change:
    def changed(cache: Path) -> None:
        for file in cache.iterdir():
            change(file)

    return changed


FOREIGN_FOLDERS: Final = [
    lambda cache: cache.chmod(0o720), lambda cache: cache.chmod(0o702), lambda cache: cache.parent.chmod(0o777),
    put_behind_a_link,
    pytest.param(lambda cache: os.chown(cache, 1000, 0), marks=NEEDS_ROOT),
    pytest.param(lambda cache: os.chown(cache.parent, 1000, 0), marks=NEEDS_ROOT),
]  # fmt: skip
FOREIGN_FILES: Final = [
    each_file(lambda file: file.chmod(0o620)), each_file(lambda file: file.chmod(0o602)),
    pytest.param(each_file(lambda file: os.chown(file, 1000, 0)), marks=NEEDS_ROOT),
]  # fmt: skip


@pytest.mark.parametrize("spoil", FOREIGN_FOLDERS)
def test_folder_that_others_can_write_to_is_neither_read_nor_written(native: Native, spoil: Change) -> None:
    native.run("run", "true")
    assert native.is_kept("run", "true")
    spoil(native.cache)
    before = [(file.name, file.stat().st_mtime_ns) for file in native.cache.iterdir()]
    assert not native.is_kept("run", "true")
    assert [(file.name, file.stat().st_mtime_ns) for file in native.cache.iterdir()] == before


@pytest.mark.parametrize("spoil", FOREIGN_FILES)
def test_entry_that_others_can_write_to_is_not_read(native: Native, spoil: Change) -> None:
    native.run("run", "true")
    assert native.is_kept("run", "true")
    spoil(native.cache)
    assert not native.is_kept("run", "true")
    assert native.is_kept("run", "true")  # it has been written anew


def test_cache_below_a_folder_for_all_is_used_where_only_owners_replace(native: Native) -> None:
    native.run("run", "true")
    native.cache.parent.chmod(0o1777)
    assert native.is_kept("run", "true")


def test_cache_folder_is_made_for_its_owner_alone(native: Native, tmp_path: Path) -> None:
    env = {"XDG_CACHE_HOME": str(tmp_path / "a/b")}
    native.run("run", "true", env=env)
    assert native.is_kept("run", "true", env=env)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/sandbox")] == [0o700] * 3
    assert [file.stat().st_mode & 0o777 for file in (tmp_path / "a/b/sandbox").iterdir()] == [0o600]
    assert not native.is_kept("run", "true", env={"XDG_CACHE_HOME": "/proc/nowhere"})


def test_damaged_entry_is_compiled_anew(native: Native) -> None:
    native.run("run", "echo", "right")
    (file,) = native.cache.iterdir()
    whole = file.read_bytes()
    places = [*range(0, 96, 5), *range(96, len(whole), len(whole) // 20), len(whole) - 1]
    variants = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in places]
    variants += [b"", whole[:64], whole[:-8], whole[:-1], whole + bytes(8)]
    for data in variants:
        file.write_bytes(data)
        done = native.run("run", "echo", "right")
        assert (done.returncode, done.stdout, done.stderr) == (0, "right\n", "")
        assert native.python_was_started()
        assert file.read_bytes() == whole
    assert native.is_kept("run", "echo", "right")


def test_entry_of_another_key_is_not_taken(native: Native) -> None:
    native.run("run", "echo", "one")
    (one,) = native.cache.iterdir()
    native.run("run", "echo", "two")
    (two,) = set(native.cache.iterdir()) - {one}
    two.write_bytes(one.read_bytes())
    assert native.run("run", "echo", "two").stdout == "two\n"


# The rest of the command.


def test_everything_else_is_pythons(native: Native) -> None:
    for arguments in (["--version"], ["profiles", "list"], ["run", "--help"], ["explain", "-p", "sealed"]):
        assert not native.is_kept(*arguments)
        assert not native.is_kept(*arguments)
    done = native.run()
    assert (done.returncode, done.stderr.split(";")[0]) == (125, "sandbox: usage: sandbox COMMAND: missing")


def test_command_without_its_python_part_says_so(native: Native) -> None:
    native.run("run", "true")
    (native.folder / "sandbox-python").unlink()
    assert native.is_kept("run", "true")
    done = native.run("run", "false")
    assert (done.returncode, done.stderr) == (125, "sandbox: start: No such file or directory\n")


def test_key_is_no_argument_of_the_command(native: Native) -> None:
    """The option that the native part gives to Python is taken from the first place only, and is no word of run's."""
    done = native.run("run", KEY_OPTION + "0" * 64, "true")
    assert done.returncode == 125
    assert "no such option" in done.stderr
    assert native.run("run", "echo", KEY_OPTION).stdout == f"{KEY_OPTION}\n"


def test_cache_add_keeps_and_starts_nothing(native: Native, tmp_path: Path) -> None:
    options = ("--write", str(tmp_path), "touch", str(tmp_path / "started"))
    assert native.run("cache", "add", *options).stdout == ""
    assert not (tmp_path / "started").exists()
    assert native.is_kept("run", *options)
    assert (tmp_path / "started").exists()
    refused = native.run("cache", "add", "--limit", "memory=1G", "true")
    assert (refused.returncode, refused.stderr.split(";")[0]) == (
        125, "sandbox: usage: cache add: such a plan is made at each start",
    )  # fmt: skip


def test_cache_is_shown_and_cleared(native: Native) -> None:
    native.run("run", "true")
    shown = native.run("cache", "show").stdout.splitlines()
    assert shown[0].startswith(f"{native.cache}: 1 plans, ")
    assert shown[1].split()[-1] == next(native.cache.iterdir()).name
    assert native.run("cache", "clear").stdout == "removed 1 plans\n"
    assert not list(native.cache.iterdir())
    assert native.run("cache", "clear").stdout == "removed 0 plans\n"
    assert not native.is_kept("run", "true")


def test_cache_keeps_the_newest_and_nothing_old(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    plan: Plan = plan_for(["true"])
    folder = tmp_path / "sandbox"
    folder.mkdir(mode=0o700)
    for number in range(MAX_ENTRIES + 3):
        file = folder / f"{number:064x}"
        file.write_bytes(b"")
        os.utime(file, (2e9 + number, 2e9 + number))
    old = folder / ("f" * 64)
    old.write_bytes(b"")
    os.utime(old, (1e9, 1e9))
    assert store("e" * 64, plan, Trail(), environ)
    names = {kept.name for kept in entries(environ)}
    assert names == {f"{number:064x}" for number in range(3, MAX_ENTRIES + 3)} | {"e" * 64}
    assert not store("../x", plan, Trail(), environ)
    assert clear(environ) == MAX_ENTRIES + 1
    assert not store("e" * 64, plan, Trail(), {"XDG_CACHE_HOME": "relative"})


def test_python_alone_keeps_nothing(native: Native) -> None:
    assert original_environment()
    command = [sys.executable, "-P", "-m", "sandbox", "run", "true"]
    assert subprocess.run(command, env=dict(native.environment), cwd="/usr", check=False).returncode == 0
    assert not native.cache.exists()
