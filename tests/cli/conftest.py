"""Running the command line as a user does: from a shell, another directory, another user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from tests.support.native import build_launcher

Run: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]
ORDINARY_USER: Final = 65534  # nobody, as in tests/kernel/run-as-ordinary-user


@pytest.fixture(scope="session")
def native_command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the native command beside a Python part that works in this environment.

    As an ordinary user the scripts are not there (tests/kernel/run-as-ordinary-user), and it is built from its sources.
    """
    folder = tmp_path_factory.mktemp("native")
    folder.chmod(0o755)
    installed = Path(sysconfig.get_path("scripts"), "sandbox")
    front = installed if installed.exists() else build_launcher(defines=("FRONT",))
    shutil.copy(front, folder / "sandbox")
    _script(folder / "sandbox-python", f'exec {sys.executable} -P -m sandbox "$@"')
    return folder / "sandbox"


@pytest.fixture(scope="session")
def warmed_command(native_command: Path) -> Path:
    """Return a command that first has the plan of what it is to run kept, and then is the native one."""
    command = native_command.with_name("warmed")
    keep = f'case "$*" in *--help*) ;; run*) (shift; {native_command} cache add "$@") 2>/dev/null ;; esac'
    _script(command, f'{keep}\nexec {native_command} "$@"')
    return command


@pytest.fixture(scope="session", params=["python", "cached"])
def sandbox_command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Return what starts the command line: Python each time, or a plan that was kept, where one can be."""
    if request.param == "python":
        return (sys.executable, "-P", "-m", "sandbox")
    return (str(request.getfixturevalue("warmed_command")),)


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def sandbox(sandbox_command: Sequence[str], environment: Mapping[str, str]) -> Run:
    """Return a function that runs `sandbox ARGUMENTS` to its end; options are those of subprocess.run."""

    def run(*arguments: str | bytes, **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
        defaults: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        options["env"] = {**environment, **options.pop("extra_env", {})}
        return subprocess.run([*sandbox_command, *arguments], check=False, text=True, timeout=120, **defaults | options)

    return run


@pytest.fixture
def shell(sandbox_command: Sequence[str], environment: Mapping[str, str], tmp_path: Path) -> Run:
    """Return a function that runs a bash script in which `sandbox` is the command line."""

    def run(script: str, **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        command = folder / "sandbox"
        command.write_text(f'#!/bin/sh\nexec {" ".join(sandbox_command)} "$@"\n')
        command.chmod(0o755)
        env = {**environment, "PATH": f"{folder}:{environment['PATH']}"}
        return subprocess.run(
            ["bash", "--norc", "-c", script],
            check=False, text=True, timeout=120, env=env, capture_output=True, stdin=subprocess.DEVNULL, **options,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def ordinary_user() -> Iterator[tuple[tuple[str, ...], Path]]:
    """Return what starts the installed command line as a user without privileges, and that user's home.

    The checkout may lie where that user cannot look, so what is installed is copied.
    """
    stage = Path(tempfile.mkdtemp(prefix="sandbox-test-"))
    try:
        stage.chmod(0o755)
        home = stage / "home"
        home.mkdir()
        if os.geteuid() != 0:
            yield (sys.executable, "-P", "-m", "sandbox"), home
            return
        os.chown(home, ORDINARY_USER, ORDINARY_USER)
        packages = Path(sysconfig.get_path("purelib"))
        for name in ("sandbox", "click", "msgspec"):
            shutil.copytree(packages / name, stage / "packages" / name)
        for found in [*packages.glob("*seccomp*"), *packages.glob("sandbox_launcher-*")]:
            target = stage / "packages" / found.name
            shutil.copytree(found, target) if found.is_dir() else shutil.copy(found, target)
        base = os.path.realpath(sys._base_executable)  # type: ignore[attr-defined]
        drop = ("setpriv", f"--reuid={ORDINARY_USER}", f"--regid={ORDINARY_USER}", "--clear-groups", "--inh-caps=-all")
        python = ("env", "-i", "PATH=/usr/bin:/bin", f"HOME={home}", f"PYTHONPATH={stage / 'packages'}", base, "-P")
        yield (*drop, *python, "-m", "sandbox"), home
    finally:
        shutil.rmtree(stage)
