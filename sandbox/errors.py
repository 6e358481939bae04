"""The error tree: each class says whose fault it is, and carries fields, not only text.

SandboxError            exit code 125 unless a class says otherwise
├ UsageError            the caller's arguments are wrong
├ ProfileError          a profile's text is wrong                      .path .key
├ GrantError            a grant cannot be declared or held             .grant
├ UnsupportedError      the kernel lacks a feature that is required    .feature .need .have
├ PlanError             a plan is malformed, out of order, incomplete
├ LaunchError           a step of the launcher failed before exec      .step .errno
│ ├ CommandNotFoundError        exit code 127, also a FileNotFoundError
│ └ CommandNotExecutableError   exit code 126, also a PermissionError
└ InternalError         should not happen; a bug of ours

Every message has one form: `<step>: <object>: <reason>; <hint>`.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import Any, Final

EXIT_FAILED: Final = 125
EXIT_NOT_EXECUTABLE: Final = 126
EXIT_NOT_FOUND: Final = 127
EXIT_SIGNAL_BASE: Final = 128


class SandboxError(Exception):
    """Base of all errors: a step failed on an object for a reason; a hint says what to do."""

    exit_code: int = EXIT_FAILED

    def __init__(self, step: str, obj: str, reason: str, hint: str = "") -> None:
        super().__init__(step, obj, reason, hint)
        self.step = step
        self.object = obj
        self.reason = reason
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by the arguments: most classes take others than these.
        return _again, (type(self), self.step, self.object, self.reason, self.hint), self.__dict__

    def __str__(self) -> str:
        """Return the one-line message, without the program's name."""
        text = ": ".join(part for part in (self.step, self.object, self.reason) if part)
        line = f"{text}; {self.hint}" if self.hint else text
        # A path or an argument may hold anything; a message stays one line and commands no terminal.
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


class UsageError(SandboxError):
    """The caller's arguments are wrong (command line or Python)."""

    def __init__(self, obj: str, reason: str, hint: str = "") -> None:
        super().__init__("usage", obj, reason, hint)


class ProfileError(SandboxError):
    """A profile's text is wrong, or it cannot be found or trusted.

    `path` is the file (or the name that was looked for), `key` the dotted key, "" for the whole file.
    """

    def __init__(self, path: str, key: str, reason: str, hint: str = "") -> None:
        super().__init__("profile", f"{path}: {key}" if key else path, reason, hint)
        self.path = path
        self.key = key


class GrantError(SandboxError):
    """A grant cannot be declared: wrong kind, doubled name or number, closed descriptor."""

    def __init__(self, grant: str, reason: str, hint: str = "") -> None:
        super().__init__("grant", grant, reason, hint)
        self.grant = grant


class UnsupportedError(SandboxError):
    """The kernel, or a library, lacks a feature that is required."""

    def __init__(self, feature: str, need: str, have: str, hint: str = "") -> None:
        super().__init__("unsupported", feature, f"needs {need}, found {have}", hint)
        self.feature = feature
        self.need = need
        self.have = have


class PlanError(SandboxError):
    """A plan is malformed, out of order, or lacks a mandatory op; nothing was started."""

    def __init__(self, obj: str, reason: str, hint: str = "") -> None:
        super().__init__("plan", obj, reason, hint)


class LaunchError(SandboxError):
    """A step of the launcher failed before the command ran; nothing of it was executed."""

    def __init__(self, step: str, obj: str, errno: int, reason: str = "", hint: str = "") -> None:
        super().__init__(step, obj, reason or os.strerror(errno), hint)
        self.errno: int | None = errno

    def __reduce__(self) -> tuple[Any, ...]:
        again, args, fields = super().__reduce__()
        return again, args, {**fields, "errno": self.errno}  # which OSError keeps where no dictionary has it


class CommandNotFoundError(LaunchError, FileNotFoundError):
    """The command does not exist (`ENOENT` at exec)."""

    exit_code = EXIT_NOT_FOUND


class CommandNotExecutableError(LaunchError, PermissionError):
    """The command exists and cannot be executed (`EACCES`, `ENOEXEC` ... at exec)."""

    exit_code = EXIT_NOT_EXECUTABLE


class InternalError(SandboxError):
    """Should not happen; please report it as a bug."""

    def __init__(self, obj: str, reason: str) -> None:
        super().__init__("internal", obj, reason, "this is a bug of sandbox, please report it")


def _again(kind: type[SandboxError], step: str, obj: str, reason: str, hint: str) -> SandboxError:
    """Return an error that another process had; its other fields follow."""
    error = kind.__new__(kind)
    SandboxError.__init__(error, step, obj, reason, hint)
    return error


def launch_error(step: str, obj: str, errno: int, reason: str = "", hint: str = "") -> LaunchError:
    """Return the class that fits a failed step: exec has two of its own, shared with the standard library."""
    kind: type[LaunchError] = LaunchError
    if step == "exec":
        kind = CommandNotFoundError if errno == _errno.ENOENT else CommandNotExecutableError
    return kind(step, obj, errno, reason, hint)
