"""The caller: the outside facts that a plan depends on, taken once and then a value."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from sandbox.probe import probe


@dataclass(frozen=True, slots=True)
class Caller:
    """Who starts the sandbox: environment, folders, and the process that the launcher's parent is.

    cwd is "" when the working directory has been removed. landlock_abi: the kernel's, 0 where it has no Landlock.
    """

    environ: Mapping[str, str]
    cwd: str
    home: str
    runtime_dir: str
    tmp: str
    parent_pid: int
    landlock_abi: int = 0

    @classmethod
    def of_process(cls, parent_pid: int, environ: Mapping[str, str] | None = None) -> Self:
        """Take the facts of this process; `environ` replaces os.environ where Python has changed that."""
        variables = dict(os.environ if environ is None else environ)
        try:
            cwd = os.getcwd()
        except FileNotFoundError:
            cwd = ""
        return cls(
            environ=variables,
            cwd=cwd,
            home=variables.get("HOME") or _home_of_user(),
            runtime_dir=variables.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}",
            tmp=variables.get("TMPDIR") or "/tmp",  # noqa: S108 - the name that the user's programs use
            parent_pid=parent_pid,
            landlock_abi=probe()["landlock_abi"],
        )

    def placeholders(self) -> dict[str, str]:
        """Return what `{home}`, `{cwd}`, `{runtime_dir}` and `{tmp}` stand for."""
        return {"home": self.home, "cwd": self.cwd, "runtime_dir": self.runtime_dir, "tmp": self.tmp}


def _home_of_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"
