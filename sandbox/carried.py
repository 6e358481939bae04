"""Environment variables that carry descriptor numbers: rewritten to the child's, or dropped; never stale. Pure.

A number that means another descriptor is worse than none: a program closes it, or writes its data there. So each of
these leaves the environment, whatever keeps it, unless all that it names are inherited grants.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

# The caller's descriptor -> its number in the child.
Numbers: TypeAlias = Mapping[int, int]
LISTEN_FDS: Final = "LISTEN_FDS"
LISTEN_FDNAMES: Final = "LISTEN_FDNAMES"
LISTEN_PID: Final = "LISTEN_PID"
NOTIFY_SOCKET: Final = "NOTIFY_SOCKET"
WATCHDOG_USEC: Final = "WATCHDOG_USEC"
WATCHDOG_PID: Final = "WATCHDOG_PID"
GRANTED: Final = "SANDBOX_FD_"  # of a sandbox around this one
_NUMBER = re.compile(r"[0-9]{1,10}")
_JOBSERVER = re.compile(r"(?:^|(?<=\s))--jobserver-(?:auth|fds)=(\d+),(\d+)(?=\s|\Z)")
# A make that is told of jobs and of no jobserver starts as many as it likes (-j), or warns (-jN).
_JOBS = re.compile(r"(?:^|(?<=\s))-j\d*(?=\s|\Z)\s?")


def _numbers(value: str, numbers: Numbers) -> str | None:
    """Numbers with anything but letters and digits between them: `7`, `3,4`, `3;4;`."""
    if re.search(r"[^\d,;:]", value) or any(int(found) not in numbers for found in _NUMBER.findall(value)):
        return None
    return _NUMBER.sub(lambda match: str(numbers[int(match[0])]), value) if value else None


def _flags(value: str, numbers: Numbers) -> str | None:
    """Make's flags: without a jobserver that is granted, they are as if there were none."""
    named = _JOBSERVER.findall(value)
    if all(int(number) in numbers for pair in named for number in pair):
        return _JOBSERVER.sub(lambda match: _NUMBER.sub(lambda at: str(numbers[int(at[0])]), match[0]), value)
    return _JOBS.sub("", _JOBSERVER.sub("", value)).rstrip() or None


def _none(_value: str, _numbers: Numbers) -> None:
    """What is only true of the process that it was made for."""


# variable -> what it is for the child: a new value, the same, or None: it is dropped. Sources: sd_listen_fds(3),
# sd_notify(3), sd_watchdog_enabled(3), make's manual ("POSIX Jobserver"), Node's child_process, wl_display_connect(3),
# and those of protocols.py.
_REWRITTEN: Final[dict[str, Callable[[str, Numbers], str | None]]] = {
    LISTEN_FDS: _none, LISTEN_FDNAMES: _none, LISTEN_PID: _none, "LISTEN_PIDFDID": _none,
    NOTIFY_SOCKET: _none, WATCHDOG_USEC: _none, WATCHDOG_PID: _none, "FPM_SOCKETS": _none,
    "MAKEFLAGS": _flags, "MFLAGS": _flags, "CARGO_MAKEFLAGS": _flags,
    "NODE_CHANNEL_FD": _numbers, "WAYLAND_SOCKET": _numbers, "NGINX": _numbers, "GUNICORN_FD": _numbers,
    "UNICORN_FD": _numbers, "APT_HOOK_INFO_FD": _numbers, "SANDBOX_PASS_FDS": _numbers,
}  # fmt: skip
NAMES: Final = tuple(_REWRITTEN)
# Those that carry numbers only where they name a jobserver.
OF_JOBSERVERS: Final = tuple(name for name, rewrite in _REWRITTEN.items() if rewrite is _flags)


def rewritten(environ: Mapping[str, str], numbers: Numbers) -> dict[str, str | None]:
    """Return what becomes of those of the caller's variables that carry numbers; None: dropped. Others are left out."""
    found: dict[str, str | None] = {}
    for name, value in environ.items():
        if name.startswith(GRANTED):
            found[name] = None
        elif name in _REWRITTEN:
            new = _REWRITTEN[name](value, numbers)
            if new != value:
                found[name] = new
    return found


def passed_by_manager(environ: Mapping[str, str], pid: int) -> dict[str, list[int]] | str:
    """Return the descriptors that a service manager has passed to process `pid`, by name; or why there are none.

    Source: sd_listen_fds_with_names(3); a descriptor without a name is called `unknown` there.
    """
    if LISTEN_FDS not in environ or LISTEN_PID not in environ:
        return "no service manager has passed descriptors: LISTEN_FDS or LISTEN_PID is not set"
    if environ[LISTEN_PID] != str(pid):
        return f"what a service manager has passed is for process {environ[LISTEN_PID]}, and this is {pid}"
    if not re.fullmatch(r"[0-9]{1,4}", environ[LISTEN_FDS]):
        return f"LISTEN_FDS is no number: {environ[LISTEN_FDS]!r}"
    count = int(environ[LISTEN_FDS])
    names = environ[LISTEN_FDNAMES].split(":") if LISTEN_FDNAMES in environ else ["unknown"] * count
    if len(names) != count:
        return f"LISTEN_FDNAMES has {len(names)} names, and LISTEN_FDS says {count}"
    found: dict[str, list[int]] = {}
    for number, name in enumerate(names, 3):
        found.setdefault(name or "unknown", []).append(number)
    return found
