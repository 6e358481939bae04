"""Starting the launcher: seal a plan, hand it over, read the status; in the manner of `subprocess`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal as _signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, NoReturn, Self, TypeAlias

from sandbox import wire
from sandbox.build import build
from sandbox.caller import Caller
from sandbox.errors import InternalError, UnsupportedError, UsageError
from sandbox.events import Event, Exited, Failed, Started, event_of
from sandbox.grants import Grant, InheritGrant, parse_grant
from sandbox.plan import OpCode, Plan, StatusFormat
from sandbox.profile import Profile, for_caller
from sandbox.profile_files import default_search_path, load

Command: TypeAlias = Sequence[str | os.PathLike[str]]
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_LAUNCHER: Final = Path(__file__).parent / "launcher" / "sandbox-launch"


def launcher_path() -> Path:
    """Return the native launcher that was installed with the package.

    Raises: UnsupportedError if it is not there (a checkout that was not installed).
    """
    if not os.access(_LAUNCHER, os.X_OK):
        raise UnsupportedError(
            "native launcher", str(_LAUNCHER), "nothing there", "install the package (pip install .), it builds it"
        )
    return _LAUNCHER


def seal(plan: Plan) -> int:
    """Write a plan into a sealed memfd.

    Returns: a close-on-exec descriptor, owned by the caller; its number is 3 or more and none that the plan names,
    so that a descriptor which the plan names and nobody has open is found missing, not taken for the plan.
    Raises: PlanError if the launcher would refuse the plan.
    Kernel: 3.17. Source: memfd_create(2).
    """
    data = wire.encode(plan)
    named = {op.b for op in plan.only(OpCode.INHERIT)} | {op.a for op in plan.only(OpCode.STATUS)}
    with contextlib.ExitStack() as passing:
        fd = os.memfd_create("plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        passing.callback(os.close, fd)
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        while True:
            fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            if fd not in named:
                return fd
            passing.callback(os.close, fd)


def original_environment() -> dict[str, str]:
    """Return the environment that this process was started with.

    Python itself may have added to os.environ (PEP 538 sets LC_CTYPE); what the child keeps is the caller's.
    """
    entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    pairs = (entry.split(b"=", 1) for entry in entries if b"=" in entry[1:])
    return {os.fsdecode(name): os.fsdecode(value) for name, value in pairs}


def replace_process(plan: Plan, environment: Mapping[str, str]) -> NoReturn:
    """Become the launcher (execve): same process ID, no Python left. `environment` is the caller's, untouched.

    Raises: PlanError, OSError if the launcher cannot be executed; otherwise does not return.
    """
    fd = seal(plan)
    os.set_inheritable(fd, True)
    os.execve(launcher_path(), ["sandbox-launch", str(fd)], environment)


class Popen:
    """A program in a sandbox, in the manner of subprocess.Popen; the constructor returns when its exec succeeded.

    command: the program and its arguments; `{fd:NAME}` in an argument becomes the grant's number.
    profile: a name, a path or a Profile. grants: Grant values or their command-line form; an `inherit` grant names a
    descriptor of this process, which stays open and its owner's. env: variables to set besides those that the profile
    keeps. cwd: the child's working directory. stdin, stdout, stderr, text, encoding, errors, bufsize as in subprocess.

    Raises: CommandNotFoundError (a FileNotFoundError), CommandNotExecutableError (a PermissionError), LaunchError when
    another step failed, ProfileError, GrantError, PlanError. Nothing runs after an error.

    pid is the launcher's; signals sent to it are forwarded to the child, and the child dies with it.
    """

    def __init__(
        self,
        command: Command,
        *,
        profile: str | Profile = "untrusted",
        grants: Iterable[Grant | str] = (),
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        text: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        bufsize: int = -1,
    ) -> None:
        if isinstance(command, str | bytes) or not command:
            raise UsageError(repr(command), "a command is a list: the program and its arguments", 'as in ["ls", "-l"]')
        self.args: Command = command
        self.returncode: int | None = None
        self._events: list[Event] = []
        with contextlib.ExitStack() as opened:
            parsed = [_above_stdio(g, opened) for g in (parse_grant(g) if isinstance(g, str) else g for g in grants)]
            self._status, write_end = os.pipe()
            opened.callback(os.close, write_end)
            failed = opened.enter_context(contextlib.ExitStack())
            failed.callback(os.close, self._status)
            self._plan = _plan_for(command, profile, parsed, env or {}, cwd, write_end)
            plan_fd = seal(self._plan)
            opened.callback(os.close, plan_fd)
            inherited = [op.b for op in self._plan.only(OpCode.INHERIT)]
            self._process: subprocess.Popen[Any] = subprocess.Popen(
                [launcher_path(), str(plan_fd)], pass_fds=[plan_fd, write_end, *inherited],
                stdin=stdin, stdout=stdout, stderr=stderr,
                text=text, encoding=encoding, errors=errors, bufsize=bufsize,
            )  # fmt: skip
            failed.pop_all()
        self.stdin, self.stdout, self.stderr = self._process.stdin, self._process.stdout, self._process.stderr
        self.pid = self._process.pid
        self.child_pid = self._await_start()

    def _await_start(self) -> int:
        """Return the child's pid once its exec succeeded; raise what failed otherwise."""
        event = self._next_event()
        if isinstance(event, Started):
            return event.pid
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self._process.wait()
        self._finish()
        if isinstance(event, Failed):
            raise event.error
        raise InternalError("launcher", f"it ended ({self._process.returncode}) without a word")

    def _next_event(self) -> Event | None:
        data = b""
        while len(data) < wire.EVENT_SIZE:
            chunk = os.read(self._status, wire.EVENT_SIZE - len(data))
            if not chunk:
                return None
            data += chunk
        event = event_of(wire.decode_record(data), self._plan)
        self._events.append(event)
        return event

    def _finish(self) -> int:
        """The launcher has ended: read what is left, close the status descriptor, set the return code."""
        if self.returncode is None:
            while self._next_event() is not None:
                pass
            os.close(self._status)
            ends = [event.returncode for event in self._events if isinstance(event, Exited)]
            self.returncode = ends[-1] if ends else self._process.returncode
        return self.returncode

    @property
    def events(self) -> tuple[Event, ...]:
        """What the launcher has told so far: Started, then Exited."""
        return tuple(self._events)

    def poll(self) -> int | None:
        """Return the return code if the child has ended, else None; -N for death by signal N."""
        return None if self.returncode is None and self._process.poll() is None else self._finish()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises subprocess.TimeoutExpired after `timeout` seconds, and the child goes on."""
        with self._own_command():
            self._process.wait(timeout)
        return self._finish()

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Send `input`, read to the end of both streams, wait; as subprocess.Popen.communicate."""
        with self._own_command():
            out, err = self._process.communicate(input, timeout)
        self._finish()
        return out, err

    @contextlib.contextmanager
    def _own_command(self) -> Iterable[None]:  # type: ignore[misc]
        try:
            yield
        except subprocess.TimeoutExpired as expired:
            expired.cmd = self.args
            raise

    def send_signal(self, signal: int) -> None:
        """Send a signal to the launcher, which forwards it; SIGKILL ends the launcher and the child with it."""
        self._process.send_signal(signal)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(_signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(_signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        self._process.__exit__(kind, error, trace)
        if self._process.returncode is not None:
            self._finish()

    def __repr__(self) -> str:
        return f"<sandbox.Popen: returncode: {self.returncode} args: {self.args!r}>"


def _above_stdio(grant: Grant, opened: contextlib.ExitStack) -> Grant:
    """An inherited 0, 1 or 2 is this process's own stream, not the one that the child gets under that number."""
    if isinstance(grant, InheritGrant) and grant.inherit <= 2:
        try:
            copy = fcntl.fcntl(grant.inherit, fcntl.F_DUPFD_CLOEXEC, 3)
        except OSError:
            return grant  # closed: the launcher names it
        opened.callback(os.close, copy)
        return replace(grant, inherit=copy)
    return grant


def _plan_for(
    command: Command,
    profile: str | Profile,
    grants: Sequence[Grant],
    env: Mapping[str, str],
    cwd: str | os.PathLike[str] | None,
    status_fd: int,
) -> Plan:
    if isinstance(profile, str):
        profile = load(profile, search=default_search_path(os.environ))
    caller = Caller.of_process(parent_pid=os.getpid())
    folder = None if cwd is None else os.fspath(cwd)
    profile = for_caller(profile, caller, grants=grants, set_variables=env, chdir=folder)
    words = [os.fspath(word) for word in command]
    return build(profile, words, caller, status=(status_fd, StatusFormat.RECORDS), quiet=True)


def run(
    command: Command,
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    stdin: int | IO[Any] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a command in a sandbox and wait for it, in the manner of subprocess.run; `options` are those of Popen.

    Returns: a subprocess.CompletedProcess; returncode is -N for death by signal N.
    Raises: what Popen raises; subprocess.TimeoutExpired after killing the sandbox; subprocess.CalledProcessError with
    check=True and a return code that is not 0; ValueError for contradicting streams.
    """
    if input is not None and stdin is not None:
        raise ValueError("stdin and input arguments may not both be used.")
    if capture_output and (stdout is not None or stderr is not None):
        raise ValueError("stdout and stderr arguments may not be used with capture_output.")
    if input is not None:
        stdin = subprocess.PIPE
    if capture_output:
        stdout = stderr = subprocess.PIPE
    with Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except subprocess.TimeoutExpired as expired:
            process.kill()
            # As in subprocess.run: what was said until then belongs to the exception.
            expired.stdout, expired.stderr = process.communicate()
            raise
        except BaseException:
            process.kill()
            raise
    code = process.wait()
    if check and code:
        raise subprocess.CalledProcessError(code, command, out, err)
    return subprocess.CompletedProcess(command, code, out, err)
