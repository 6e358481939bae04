"""Plans that a process has compiled: the next start of the same compiles none, unless what went into it has changed."""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

import sandbox
from sandbox import FileGrant, InheritGrant, kept, launch
from sandbox.build import build
from sandbox.profile_files import Trail

NEEDS_ROOT: Final = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes files of other users")


class Compiler:
    """Counts how often a plan is compiled, and lets it be."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        self.count += 1
        return build(*arguments, **options)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Compiler]:
    """Yield what counts, in a folder and with a home of the test's own."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    counting = Compiler()
    monkeypatch.setattr(launch, "build", counting)
    kept.clear()
    yield counting
    kept.clear()


@pytest.fixture
def is_kept(compiler: Compiler) -> Callable[..., bool]:
    """Return what runs a command and tells whether no plan was compiled."""

    def runs(*command: str, **options: Any) -> bool:  # noqa: ANN401
        before = compiler.count
        sandbox.run(list(command) or ["true"], check=True, **options)
        return compiler.count == before

    return runs


def umask(**options: Any) -> str:  # noqa: ANN401
    return str(sandbox.run(["sh", "-c", "umask"], capture_output=True, text=True, check=True, **options).stdout).strip()


IsKept = Callable[..., bool]


def test_second_start_says_the_same_and_compiles_nothing(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    for lang in ("a", "a"):
        monkeypatch.setenv("LANG", lang)
        done = sandbox.run(["sh", "-c", "echo $LANG; pwd; exit 3"], capture_output=True, text=True)
        said.append((done.returncode, done.stdout))
    assert said == [(3, f"a\n{os.getcwd()}\n")] * 2
    assert compiler.count == 1


def test_failures_are_told_in_the_same_words_each_time(compiler: Compiler) -> None:
    for options in ({"grants": ["x=file:/nowhere"]}, {"read": ["/nowhere"]}, {"cwd": "/nowhere"}):
        compiler.count = 0
        words = set()
        for _ in range(3):
            with pytest.raises(sandbox.LaunchError) as failed:
                sandbox.run(["true"], **options)
            words.add(str(failed.value))
        assert (len(words), compiler.count) == (1, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"env": {"X": "1"}}, {"env": {"X": "2"}}, {"cwd": "/usr"}, {"grants": ["d=data:x"]}, {"profile": "sealed"},
        {"read": ["/usr"]}, {"write": ["."]}, {"net": "loopback"}, {"limits": {"open_files": 64}}, {"tty": "none"},
        {"limits": {"open_files": 65}}, {"share": ["uts"]}, {"streams": "relay"}, {"delegate": ["dev-fd"]},
    ],
    ids=str,
)  # fmt: skip
def test_start_that_asks_for_something_else_is_compiled(is_kept: IsKept, options: dict[str, Any]) -> None:
    command = ["/usr/bin/true"]
    is_kept(*command)
    assert is_kept(*command)
    assert not is_kept(*command, **options)
    assert is_kept(*command, **options)
    assert is_kept(*command)
    assert not is_kept(*command, "x")


def test_lists_that_were_changed_are_other_ones(is_kept: IsKept) -> None:
    paths, variables = ["/usr"], {"X": "1"}
    assert not is_kept(read=paths, env=variables)
    assert is_kept(read=paths, env=variables)
    paths.append("/etc")
    assert not is_kept(read=paths, env=variables)
    variables["Y"] = "2"
    assert not is_kept(read=paths, env=variables)
    assert is_kept(read=paths, env=variables)
    assert not is_kept(limits={"timeout": 60})
    assert not is_kept(limits={"timeout": 60.0})  # one of another type is another one


def test_values_that_cannot_be_compared_are_compiled_each_time(is_kept: IsKept) -> None:
    def paths() -> Any:  # noqa: ANN401 - against its type on purpose
        return (path for path in ["/usr"])

    assert not is_kept(read=paths())
    assert not is_kept(read=paths())


@pytest.mark.parametrize("name", ["PATH", "HOME", "XDG_RUNTIME_DIR", "TMPDIR", "LISTEN_FDS", "MAKEFLAGS", "ANYTHING"])
def test_start_with_another_variable_is_compiled(
    is_kept: IsKept, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / "other").mkdir()
    command = ["/usr/bin/true"]
    is_kept(*command)
    assert is_kept(*command)
    monkeypatch.setenv(name, str(tmp_path / "other"))
    assert not is_kept(*command)
    assert is_kept(*command)


def test_start_elsewhere_is_compiled(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    def where() -> str:
        return str(sandbox.run(["pwd"], capture_output=True, text=True, check=True).stdout).strip()

    here = os.getcwd()
    assert [where(), where()] == [here, here]
    monkeypatch.chdir("/usr")
    assert [where(), where()] == ["/usr", "/usr"]
    monkeypatch.chdir(here)
    assert (where(), compiler.count) == (here, 2)


def test_working_folder_that_is_replaced_is_the_new_one(compiler: Compiler, tmp_path: Path) -> None:
    def listed() -> str:
        return str(sandbox.run(["ls"], cwd=tmp_path / "project", capture_output=True, text=True, check=True).stdout)

    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "old").touch()
    assert [listed(), listed()] == ["old\n", "old\n"]
    folder.rename(tmp_path / "before")
    folder.mkdir()
    (folder / "new").touch()
    assert (listed(), compiler.count) == ("new\n", 1)
    (folder / "new").unlink()
    folder.rmdir()
    with pytest.raises(sandbox.LaunchError):
        listed()


@pytest.mark.parametrize("which", ["mine", "parent"])
def test_changed_profile_is_compiled_whatever_its_times_say(compiler: Compiler, tmp_path: Path, which: str) -> None:
    (tmp_path / "parent.toml").write_text('extends = ["untrusted"]\ndescription = "a"\n[process]\numask = "022"\n')
    (tmp_path / "mine.toml").write_text('extends = ["./parent.toml"]\ndescription = "a"\n')
    profile, file = str(tmp_path / "mine.toml"), tmp_path / f"{which}.toml"
    assert [umask(profile=profile), umask(profile=profile), compiler.count] == ["0022", "0022", 1]
    before = file.stat()
    file.write_text(file.read_text().replace('"a"', '"b"').replace("022", "077"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert umask(profile=profile) == ("0077" if which == "parent" else "0022")
    assert umask(profile=profile)
    assert compiler.count == 2
    file.unlink()
    with pytest.raises(sandbox.ProfileError):
        umask(profile=profile)
    os.mkfifo(file)  # nobody waits for who writes there
    with pytest.raises(sandbox.ProfileError):
        umask(profile=profile)


def test_profile_that_comes_before_the_one_that_was_found_is_taken(compiler: Compiler) -> None:
    assert [umask(), umask(), compiler.count] == ["0022", "0022", 1]
    own = Path(os.environ["HOME"], ".config/sandbox/profiles")
    own.mkdir(parents=True)
    assert (umask(), compiler.count) == ("0022", 1)
    shipped = Path(sys.modules["sandbox"].__path__[0], "profiles/untrusted.toml").read_text()
    (own / "untrusted.toml").write_text(shipped.replace("[filesystem]", '[process]\numask = "077"\n[filesystem]'))
    assert umask() == "0077"
    (own / "untrusted.toml").unlink()
    (own / "untrusted.toml").symlink_to("nowhere")
    with pytest.raises(sandbox.ProfileError):
        umask()


@NEEDS_ROOT
def test_profile_that_others_can_write_to_by_now_is_refused_to_root(is_kept: IsKept, tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    folder.mkdir(mode=0o755)
    (folder / "mine.toml").write_text('extends = ["untrusted"]\n')
    profile = str(folder / "mine.toml")
    is_kept(profile=profile)
    changes: tuple[tuple[Callable[[], None], Callable[[], None]], ...] = (
        (lambda: folder.chmod(0o777), lambda: folder.chmod(0o755)),
        (lambda: os.chown(folder, 1000, 1000), lambda: os.chown(folder, 0, 0)),
        (lambda: (folder / "mine.toml").chmod(0o666), lambda: (folder / "mine.toml").chmod(0o644)),
    )
    for spoil, repair in changes:
        assert is_kept(profile=profile)
        spoil()
        with pytest.raises(sandbox.ProfileError):
            is_kept(profile=profile)
        repair()
        assert not is_kept(profile=profile)


def test_listed_folder_that_changes_does_not_hold(tmp_path: Path) -> None:
    trail = Trail()
    trail.look(tmp_path)
    assert trail.still_holds()
    (tmp_path / "new").touch()
    assert not trail.still_holds()


@pytest.mark.parametrize(
    "options",
    [
        {"limits": {"processes": 9, "memory": "1G"}}, {"net_allow": ["tcp:localhost:1"]}, {"dns": True},
        pytest.param({"net": "veth"}, marks=NEEDS_ROOT), pytest.param({"user": "nobody"}, marks=NEEDS_ROOT),
    ],
    ids=str,
)  # fmt: skip
def test_what_depends_on_more_is_compiled_each_time(compiler: Compiler, options: dict[str, Any]) -> None:
    for _ in range(2):
        with contextlib.suppress(sandbox.SandboxError):  # what this machine cannot give
            sandbox.run(["true"], **options)
    assert kept.clear() == 0
    sandbox.run(["true"], limits={"open_files": 99})
    assert kept.clear() == 1
    assert compiler.count > 0


def test_channel_is_compiled_each_time(compiler: Compiler) -> None:
    for _ in range(2):
        with sandbox.Popen(["sh", "-c", 'echo >&"$SANDBOX_FD_CHANNEL"'], channel=True) as process:
            assert process.receive(timeout=30) is not None
    assert (compiler.count, kept.clear()) == (2, 0)


def test_inherited_descriptor_is_what_the_number_is_at_each_start(compiler: Compiler, tmp_path: Path) -> None:
    grant = InheritGrant(name="d", inherit=200)
    for text in ("one", "two"):
        (tmp_path / text).write_text(text)
        with open(tmp_path / text, "rb") as file:
            os.dup2(file.fileno(), 200)
        try:
            assert sandbox.run(["cat", "/dev/fd/3"], grants=[grant], capture_output=True, text=True).stdout == text
        finally:
            os.close(200)
    assert compiler.count == 1
    with pytest.raises(sandbox.LaunchError, match="inherit"):
        sandbox.run(["true"], grants=[grant])
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    with ours, theirs:
        os.dup2(ours.fileno(), 200)
        try:
            with pytest.raises(sandbox.LaunchError, match="inherit"):
                sandbox.run(
                    ["cat", "/dev/fd/3"], grants=[InheritGrant(name="d", inherit=200, type=sandbox.FdType.FILE)]
                )
        finally:
            os.close(200)


def test_inherited_standard_stream_is_compiled_each_time(compiler: Compiler) -> None:
    for _ in range(2):
        sandbox.run(["true"], grants=[InheritGrant(name="i", inherit=2, raw=True)])
    assert compiler.count == 2


def test_status_descriptor_of_another_number_has_a_plan_of_its_own(compiler: Compiler) -> None:
    taken = []
    try:
        for _ in range(4):
            assert sandbox.run(["sh", "-c", "exit 7"]).returncode == 7
            taken.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for fd in taken:
            os.close(fd)
    assert compiler.count == 4
    assert sandbox.run(["sh", "-c", "exit 7"]).returncode == 7
    assert compiler.count == 4


def test_terminal_is_asked_for_at_each_start(compiler: Compiler) -> None:
    main, side = pty.openpty()
    saved = [os.dup(fd) for fd in (0, 1)]
    try:
        for terminal in (False, True, False, True):
            for fd in (0, 1):
                os.dup2(side if terminal else saved[fd], fd)
            sandbox.run(["true"])
    finally:
        for fd in (0, 1):
            os.dup2(saved[fd], fd)
        for fd in (*saved, main, side):
            os.close(fd)
    assert compiler.count == 2


def test_child_of_this_process_has_plans_of_its_own(is_kept: IsKept, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('extends = ["untrusted"]\n[process]\ndie_with_parent = true\n')
    profile = str(tmp_path / "mine.toml")
    assert not is_kept(profile=profile)
    assert is_kept(profile=profile)
    pid = os.fork()
    if pid == 0:  # the launcher's parent is another one: the plan of before would be refused
        code = 1
        try:
            code = 0 if not is_kept(profile=profile) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@NEEDS_ROOT
def test_other_user_is_another_caller(is_kept: IsKept) -> None:
    is_kept("/usr/bin/true")
    assert is_kept("/usr/bin/true")
    os.setresgid(65534, 65534, 0)
    os.setresuid(65534, 65534, 0)
    try:
        key = kept.key_of(["/usr/bin/true"])
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
    assert key is not None
    assert key != kept.key_of(["/usr/bin/true"])


def test_many_threads_share_what_is_kept(compiler: Compiler) -> None:
    barrier = threading.Barrier(4)

    def launched(index: int) -> str:
        barrier.wait()
        texts = set()
        for _ in range(5):
            grant = FileGrant(name="f", file=f"/proc/sys/kernel/{('ostype', 'hostname')[index % 2]}", raw=True)
            done = sandbox.run(["cat", "/dev/fd/3"], grants=[grant], capture_output=True, text=True, check=True)
            texts.add(str(done.stdout))
        (text,) = texts
        return text

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(launched, range(4)))
    assert said[0] == said[2] != said[1] == said[3]
    assert said[0] == "Linux\n"
    assert compiler.count < 20


def test_only_so_many_are_kept(is_kept: IsKept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_ENTRIES", 2)
    for name in ("a", "b", "a", "c"):
        is_kept("true", name)
    assert is_kept("true", "a")
    assert is_kept("true", "c")
    assert not is_kept("true", "b")


def test_plan_that_is_kept_leaves_no_descriptor_open(is_kept: IsKept) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        is_kept("true")
    assert set(os.listdir("/proc/self/fd")) == before


def test_starts_of_a_process_need_little_more_than_the_launcher(is_kept: IsKept) -> None:
    """No timing: the processes that are started are counted, since one more would double the time."""
    is_kept("true")
    script = "import sandbox, sys\nsandbox.run(['true'])\nprint('second', flush=True)\nsandbox.run(['true'])\n"
    done = subprocess.run(
        ["strace", "-f", "-e", "trace=execve", "-o", "trace", sys.executable, "-P", "-c", script], check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "second\n"
    execs = [line for line in Path("trace").read_text().splitlines() if "execve(" in line and " = 0" in line]
    assert sum("sandbox-launch" in line and "--probe" in line for line in execs) == 1
    assert sum("sandbox-launch" in line and "/dev/fd/" in line for line in execs) == 2
