"""Endings: what is told only when a program, or the run, is over: limits that end, variables that are not kept. Pure.

The environment is read without a call, so a variable that is missing is nowhere seen. What can be said is which of the
caller's the programs name: names alone, and only of a run that has failed.
"""

from __future__ import annotations

import json
import posixpath
import signal
from collections.abc import Collection, Iterable
from typing import Final

from sandbox import places
from sandbox.build import keeps
from sandbox.caller import Caller
from sandbox.profile import Profile
from sandbox.refusals import Reason, Refusal, over_limit

_MOST: Final = 5
_ALWAYS_MADE: Final = frozenset({"PWD", "OLDPWD", "SHLVL", "IFS"})
_OF_A_SESSION: Final = _ALWAYS_MADE | {
    "MAIL", "SHELL", "HOSTNAME", "HOSTTYPE", "MACHTYPE", "OSTYPE", "PS1", "PS2", "PS4", "LINES", "COLUMNS", "HISTFILE",
    "HISTSIZE", "HISTFILESIZE", "HISTCONTROL", "INPUTRC", "PROMPT_COMMAND", "LS_COLORS", "EDITOR", "VISUAL", "PAGER",
    "BROWSER", "WINDOWID", "SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY",
}  # fmt: skip
"""A shell or a session makes them, and many programs name them: none fails for lack of one."""
_SHELLS: Final = frozenset({"sh", "dash", "bash", "zsh", "ksh", "fish", "busybox", "env", "sudo", "su"})
"""They name many variables, of which their scripts may use none."""
_BY_LIMIT: Final[dict[int, str]] = {signal.SIGXCPU: "cpu_time", signal.SIGXFSZ: "file_size"}


def of_signal(profile: Profile, program: str, pid: int, number: int) -> Refusal | None:
    """Return which rule has sent a signal that has ended a program, None if none of the profile's sends it."""
    limit = _BY_LIMIT.get(number)
    value = getattr(profile.limits, limit) if limit else None
    if limit and value is not None:
        return Refusal(program, pid, "", signal.Signals(number).name, *over_limit(limit, value).fields)
    if number == signal.SIGSYS:
        gives = "no line allows it: the sandbox's own filter answers with an error, and ends nobody"
        reason = Reason("a filter that the program has set itself has ended it", gives=gives)
        return Refusal(program, pid, "", "SIGSYS", *reason.fields)
    return None


def of_memory(profile: Profile, program: str, pid: int) -> Refusal | None:
    """Return the refusal of a program that the kernel has ended since its cgroup was out of memory."""
    if profile.limits.memory is None:
        return None
    return Refusal(program, pid, "", "SIGKILL", *over_limit("memory", profile.limits.memory).fields)


def of_time(profile: Profile, program: str) -> Refusal | None:
    """Return the refusal of a command whose time was up."""
    if profile.limits.timeout is None:
        return None
    return Refusal(program, 0, "", "SIGKILL", *over_limit("timeout", profile.limits.timeout).fields)


def is_searched(program: str) -> bool:
    """Tell whether the variables that a program's file names say anything of what it needs."""
    return posixpath.basename(program) not in _SHELLS


def of_variables(profile: Profile, caller: Caller, program: str, said: Iterable[Collection[str]]) -> Refusal | None:
    """Return which of the caller's variables are not kept, though the programs name them.

    said: words; of the command line and its scripts, and of programs, which count where those name none.
    """
    kept, variables = profile.environment.keep, dict(profile.environment.set)
    dropped = [
        name for name in caller.environ if name not in variables and not any(keeps(pattern, name) for pattern in kept)
    ]
    own = posixpath.basename(program).upper().replace("-", "_").split(".")[0]
    named: list[str] = []
    for index, words in enumerate(said):
        ordinary = _OF_A_SESSION if index else _ALWAYS_MADE
        named = sorted(name for name in dropped if name in words and name not in ordinary)
        if named:
            break
    if not named:
        return None
    named.sort(key=lambda name: not name.startswith(own))
    chosen = named[:_MOST]
    more = f", and {len(named) - _MOST} more" if len(named) > _MOST else ""
    return Refusal(
        program, 0, "", "",
        f"variables of yours that it names are not kept: {', '.join(chosen)}{more}",
        f"environment.keep = {json.dumps(chosen)}",
        " ".join(f"--env {name}" for name in chosen),
        "; ".join(filter(None, map(_what, chosen))) or "their values are the program's to read",
    )  # fmt: skip


def _what(name: str) -> str:
    if name in places.SPEAKING_VARIABLES:
        return f"{name} leads to {places.SPEAKING_VARIABLES[name]}"
    return f"{name} is a secret, by its name" if places.is_secret_variable(name) else ""
