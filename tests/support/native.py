"""Native programs for tests: the launcher in variants, C harnesses built once a session, and running plans by them."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from sandbox import wire
from sandbox.plan import OpCode, Plan

ROOT: Final = Path(__file__).resolve().parents[2]
LAUNCHER_SOURCES: Final = ROOT / "sandbox" / "launcher"
NATIVE: Final = ROOT / "tests" / "native"
ALL_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
STRICT: Final = ("-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wconversion", "-Wmissing-prototypes", "-Wvla")
SANITIZE: Final = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
# As CMakeLists.txt has them: no libc, no stack protector, one static file at a fixed address.
FREESTANDING: Final = (
    "-O2", "-ffreestanding", "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-fno-pie", "-no-pie", "-static",
    "-nostdlib", "-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns", "-Wl,-z,noexecstack",
)  # fmt: skip
# Launchers never free, so the leak check would only tell that; and it needs ptrace, which a filter refuses.
SANITIZER_ENVIRONMENT: Final = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99",
    "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=99",
}


@functools.cache
def build_folder() -> Path:
    """Return a fresh folder, removed at exit, in which any user can execute what is built."""
    folder = Path(tempfile.mkdtemp(prefix="sandbox-native."))
    folder.chmod(0o755)
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child that exits must leave it to its parent
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def build_launcher(extra_flags: tuple[str, ...] = (), defines: tuple[str, ...] = ()) -> Path:
    """Build the launcher from its sources as the package does, with further flags and `-D` definitions.

    Returns: the executable; the same one for the same arguments.
    """
    sources = sorted(LAUNCHER_SOURCES.glob("*.c"))
    return _compile("gcc", "sandbox-launch", [*FREESTANDING, *extra_flags, *(f"-D{word}" for word in defines)], sources)


@functools.cache
def build_harness(
    name: str, launcher_files: tuple[str, ...], flags: tuple[str, ...] = SANITIZE, compiler: str = "gcc"
) -> Path:
    """Build tests/native/NAME.c against libc, together with some of the launcher's files, given without `.c`."""
    objects = [_launcher_object(file, flags, compiler) for file in launcher_files]
    return _compile(compiler, name, flags, [NATIVE / f"{name}.c", *objects])


@functools.cache
def _launcher_object(file: str, flags: tuple[str, ...], compiler: str) -> Path:
    # Freestanding: the kernel's headers leave out what libc's declare, once libc's are there.
    return _compile(compiler, f"{file}.o", [*flags, "-ffreestanding", "-c"], [LAUNCHER_SOURCES / f"{file}.c"])


def hosted_files() -> tuple[str, ...]:
    """Return the launcher's files that need no entry point of their own: all but start.c."""
    return tuple(sorted(path.stem for path in LAUNCHER_SOURCES.glob("*.c") if path.stem != "start"))


def can_compile(compiler: str, flags: Sequence[str]) -> bool:
    """Tell whether the compiler is there and can link a fuzz target with these flags."""
    if shutil.which(compiler) is None:
        return False
    target = "int LLVMFuzzerTestOneInput(const char *data, unsigned long size) { return !data && size; }"
    command = [compiler, *flags, "-x", "c", "-o", "/dev/null", "-"]
    return subprocess.run(command, input=target, capture_output=True, text=True, check=False).returncode == 0


def _compile(compiler: str, name: str, flags: Sequence[str], sources: Sequence[Path]) -> Path:
    output = Path(tempfile.mkdtemp(dir=build_folder()), name)
    output.parent.chmod(0o755)
    command: list[str | Path] = [
        compiler,
        "-std=gnu11",
        *STRICT,
        *flags,
        f"-I{LAUNCHER_SOURCES}",
        "-o",
        output,
        *sources,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


@contextlib.contextmanager
def memfd_holding(data: bytes, seals: int = ALL_SEALS) -> Iterator[int]:
    """Give a close-on-exec memfd that holds `data` and is sealed so."""
    fd = os.memfd_create("plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        if seals:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        yield fd
    finally:
        os.close(fd)


def run_plan(
    launcher: Path,
    plan: Plan | bytes,
    *,
    environment: Mapping[str, str] | None = None,
    stdin: int | IO[Any] | None = subprocess.DEVNULL,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run a plan; the descriptors that it names are taken from this process, under their numbers here."""
    data = plan if isinstance(plan, bytes) else wire.encode(plan)
    named = _named(plan) if isinstance(plan, Plan) else []
    with memfd_holding(data) as fd:
        return subprocess.run(
            [launcher, str(fd)], pass_fds=[fd, *named], env=environment, stdin=stdin,
            capture_output=True, text=True, errors="backslashreplace", timeout=timeout, check=False,
        )  # fmt: skip


def _named(plan: Plan) -> list[int]:
    """Return the descriptors that a plan names and this process has open."""
    named = {op.b for op in plan.only(OpCode.INHERIT)} | {op.a for op in plan.only(OpCode.STATUS)}
    return sorted(named & {int(name) for name in os.listdir("/proc/self/fd")})


def check_plan(launcher: Path, data: bytes, seals: int = ALL_SEALS) -> subprocess.CompletedProcess[str]:
    """Ask the launcher what it thinks of a plan's bytes in a memfd."""
    with memfd_holding(data, seals) as fd:
        return check_plan_fd(launcher, fd)


def check_plan_fd(launcher: Path, fd: int) -> subprocess.CompletedProcess[str]:
    """Ask the launcher what it thinks of the plan behind a descriptor of this process."""
    return subprocess.run(
        [launcher, "--check-plan", str(fd)], pass_fds=[fd], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
