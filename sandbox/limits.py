"""Limits as a value: their text, the ops that hold them, and by which mechanism of the kernel each is held. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

from sandbox import ops
from sandbox.errors import UnsupportedError, UsageError
from sandbox.plan import Op
from sandbox.sizes import format_size, parse_size

# getrlimit(2), include/uapi/asm-generic/resource.h.
_CPU, _FSIZE, _CORE, _NPROC, _NOFILE, _AS = 0, 1, 4, 6, 7, 9
# Documentation/admin-guide/cgroup-v2.rst: cpu.max is microseconds in each period; the kernel takes 1000 and more.
_PERIOD: Final = 100_000
_MILLISECONDS: Final = {"ms": 1, "s": 1000, "": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION: Final = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,3}))?(ms|s|m|h|d|)\Z")
_NUMBER: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,3})?\Z")
# The sandbox's init counts as a process, too.
_INIT: Final = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sandbox may use at most. None: no limit but the caller's own.

    memory: bytes. processes: threads count as well. cpu: processors' worth of time, 0.5 is half of one.
    cpu_time: seconds. open_files: descriptors of each process. file_size, core_size: bytes of each file; core_size 0
    also keeps a crashed program from the host's crash handler. timeout: milliseconds of wall time. output: bytes on
    each standard stream that can be written and is no terminal.
    """

    memory: int | None = None
    processes: int | None = None
    cpu: float | None = None
    cpu_time: int | None = None
    open_files: int | None = None
    file_size: int | None = None
    core_size: int | None = None
    timeout: int | None = None
    output: int | None = None


NAMES: Final = tuple(field.name for field in fields(Limits))
# Limits that a cgroup can hold, and the controller that does.
CONTROLLERS: Final = {"memory": "memory", "processes": "pids", "cpu": "cpu"}


@dataclass(frozen=True, slots=True)
class Delegated:
    """A folder of a cgroup v2 file system in which the caller may make cgroups, and what those can limit.

    swap: the kernel accounts for swap.
    """

    path: str
    controllers: frozenset[str]
    swap: bool = True


def parse_duration(text: str) -> int:
    """Return the milliseconds that `30s`, `1.5h` or `250ms` means; a number alone means seconds.

    Raises: UsageError that names the text, also for parts of a millisecond.
    """
    match = _DURATION.match(text)
    thousandths = 0 if match is None else int(match[1] + (match[2] or "").ljust(3, "0")) * _MILLISECONDS[match[3]]
    if match is None or thousandths % 1000:
        raise UsageError(repr(text), "it is not a duration", "write a number with ms, s, m, h or d: 30s")
    return thousandths // 1000


def format_duration(milliseconds: int) -> str:
    """Return a text that parse_duration() reads as that long."""
    for suffix in ("d", "h", "m", "s"):
        if milliseconds and milliseconds % _MILLISECONDS[suffix] == 0:
            return f"{milliseconds // _MILLISECONDS[suffix]}{suffix}"
    return f"{milliseconds}ms"


def parse(name: str, value: str | float) -> int | float:
    """Return what the limit `name` is set to by a profile's value or a command line's text.

    A number means the limit's own unit: bytes, pieces, processors; of times it means seconds.
    Raises: UsageError for a limit that is unknown, text that means nothing, and values out of range.
    """
    if name not in NAMES:
        raise UsageError(name, "there is no such limit", f"known here: {', '.join(NAMES)}")
    if isinstance(value, bool) or (isinstance(value, float) and name not in {"cpu", "cpu_time", "timeout"}):
        raise UsageError(name, f"{value!r} is not a whole number", "give a number or a text")
    text = str(value)
    parsed: int | float
    if name in {"memory", "file_size", "core_size", "output"}:
        parsed = parse_size(text)
    elif name in {"cpu_time", "timeout"}:
        parsed = parse_duration(text)
        if name == "cpu_time":
            parsed = _whole_seconds(text, parsed)
    elif not _NUMBER.match(text) or (name != "cpu" and "." in text):
        raise UsageError(
            repr(text),
            f"it is no number for {name}",
            "write 0.5, 1 or 2" if name == "cpu" else "write a whole number: 64",
        )
    else:
        parsed = float(text) if name == "cpu" else int(text)
    check(Limits(**{name: parsed}))  # type: ignore[arg-type]
    return parsed


def _whole_seconds(text: str, milliseconds: int) -> int:
    if milliseconds % 1000:
        raise UsageError(repr(text), "processor time is limited in whole seconds", "write 1s, 30s or 5m")
    return milliseconds // 1000


def format(name: str, value: float) -> str:  # noqa: A001 - parse and format are each other's reverse
    """Return a text that parse() reads as that value of the limit `name`."""
    if name in {"memory", "file_size", "core_size", "output"}:
        return format_size(int(value))
    if name in {"cpu_time", "timeout"}:
        return format_duration(int(value) * (1000 if name == "cpu_time" else 1))
    return f"{value:g}" if name == "cpu" else str(int(value))


# Least and most. The launcher needs a few descriptors itself before exec; a page is the least that memory can be.
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "memory": (4096, 1 << 62),
    "processes": (1, 4_000_000),
    "cpu": (0.01, 100_000),
    "cpu_time": (1, 1 << 31),
    "open_files": (16, 1 << 30),
    "file_size": (0, 1 << 62),
    "output": (1, 1 << 62),
    "core_size": (0, 1 << 62),
    "timeout": (1, (1 << 32) - 1),
}


def check(limits: Limits) -> None:
    """Refuse values that no mechanism of the kernel takes.

    Raises: UsageError that names the limit.
    """
    for name, (least, most) in _RANGES.items():
        value = getattr(limits, name)
        if value is not None and not least <= value <= most:
            raise UsageError(
                name, f"{format(name, value)} is out of range", f"from {format(name, least)} to {format(name, most)}"
            )  # fmt: skip


def wants_cgroup(limits: Limits) -> bool:
    """Tell whether a delegated cgroup would hold any of the limits: whether it is worth looking for one."""
    return any(getattr(limits, name) is not None for name in CONTROLLERS)


def _by_cgroup(limits: Limits, delegated: Delegated | None, name: str) -> bool:
    return (
        delegated is not None
        and getattr(limits, name) is not None
        and CONTROLLERS.get(name, "") in delegated.controllers
    )


def lacks_mechanism(
    limits: Limits, name: str, delegated: Delegated | None, uid: int, *, user_namespace: bool
) -> UnsupportedError | None:
    """Return the error of a limit that is set and that nothing can hold here, else None."""
    if getattr(limits, name) is None or _by_cgroup(limits, delegated, name):
        return None
    if name == "cpu":
        return _no_mechanism("limits.cpu", "the cpu controller", "no resource limit shares processors out")
    # kernel/fork.c: root is never refused; the count is of a user in a user namespace (5.14).
    if name == "processes" and uid == 0:
        return _no_mechanism("limits.processes", "the pids controller", "RLIMIT_NPROC does not hold for root")
    if name == "processes" and not user_namespace:
        return _no_mechanism("limits.processes", "the pids controller", "RLIMIT_NPROC counts all of the user's")
    return None


def limit_ops(
    limits: Limits, delegated: Delegated | None = None, *, uid: int, user_namespace: bool = True
) -> Iterator[Op]:
    """Yield the ops that hold the limits, ascending by code.

    uid: who the program is on the host. user_namespace: the sandbox has one of its own.
    Raises: UsageError for values out of range; UnsupportedError where no mechanism is left for a limit.
    """
    check(limits)
    if limits.timeout is not None:
        yield ops.timeout(limits.timeout)
    settings = list(_settings(limits, delegated))
    if settings and delegated is not None:
        yield ops.cgroup(delegated.path)
        for file, value in settings:
            yield ops.cgroup_set(file, value)
    for resource, number in sorted(_rlimits(limits, delegated, uid, user_namespace=user_namespace)):
        yield ops.rlimit(resource, number)


@dataclass(frozen=True, slots=True)
class Open:
    """A setting of a cgroup, for a start that finds one delegated or not.

    instead: the resource limit and its value that hold where it finds none; None: nothing does. error: what the start
    is refused with then, in words of lacks_mechanism(), None: it is not; of_root: root's only. beside: it belongs to
    the one before. swap: for a kernel that accounts for swap.
    """

    name: str
    file: str
    value: str
    instead: tuple[int, int] | None = None
    error: UnsupportedError | None = None
    of_root: bool = False
    beside: bool = False
    swap: bool = False


def open_settings(limits: Limits, *, user_namespace: bool) -> Iterator[Open]:
    """Yield what a cgroup would hold of the limits, and what holds where there is none: as limit_ops() decides.

    Raises: UsageError for values out of range.
    """
    check(limits)
    everything = Delegated("", frozenset(CONTROLLERS.values()))
    for name, controller in CONTROLLERS.items():
        if getattr(limits, name) is None:
            continue
        alone = Limits(**{name: getattr(limits, name)})
        refused = lacks_mechanism(alone, name, None, 1, user_namespace=user_namespace)
        for_root = lacks_mechanism(alone, name, None, 0, user_namespace=user_namespace)
        instead = None if refused else next(_rlimits(alone, None, 1, user_namespace=user_namespace))
        first, *more = (s for s in _settings(alone, everything) if s[0].startswith(controller))
        yield Open(name, *first, instead, refused or for_root, of_root=refused is None)
        yield from (Open(name, *setting, beside=True, swap="swap" in setting[0]) for setting in more)


def _settings(limits: Limits, delegated: Delegated | None) -> Iterator[tuple[str, str]]:
    """Yield the files of the new cgroup and what is written to each."""
    if _by_cgroup(limits, delegated, "memory"):
        yield "memory.max", str(limits.memory)
        if delegated is not None and delegated.swap:
            yield "memory.swap.max", "0"
        # A sandbox that has lost one of its processes is in no state that anybody has planned for.
        yield "memory.oom.group", "1"
    if _by_cgroup(limits, delegated, "processes"):
        yield "pids.max", str((limits.processes or 0) + _INIT)
    if _by_cgroup(limits, delegated, "cpu"):
        yield "cpu.max", f"{round((limits.cpu or 0) * _PERIOD)} {_PERIOD}"


def _rlimits(
    limits: Limits, delegated: Delegated | None, uid: int, *, user_namespace: bool
) -> Iterator[tuple[int, int]]:
    """Yield the resource limits of each process."""
    for name in CONTROLLERS:
        error = lacks_mechanism(limits, name, delegated, uid, user_namespace=user_namespace)
        if error is not None:
            raise error
    if limits.memory is not None and not _by_cgroup(limits, delegated, "memory"):
        yield _AS, limits.memory
    if limits.processes is not None and not _by_cgroup(limits, delegated, "processes"):
        yield _NPROC, limits.processes + _INIT
    if limits.cpu_time is not None:
        yield _CPU, limits.cpu_time
    if limits.open_files is not None:
        yield _NOFILE, limits.open_files
    if limits.file_size is not None:
        yield _FSIZE, limits.file_size
    if limits.core_size is not None:
        # fs/coredump.c: a handler behind a pipe is kept from a crash by the limit 1 and by no other; too small for
        # any file, it keeps those away as well.
        yield _CORE, limits.core_size or 1


def _no_mechanism(feature: str, controller: str, otherwise: str) -> UnsupportedError:
    return UnsupportedError(
        feature,
        f"a delegated cgroup (version 2) with {controller}",
        f"none, and {otherwise}",
        "have one delegated: systemd-run --user --scope -p Delegate=yes sandbox run ..., or leave the limit out",
    )


@dataclass(frozen=True, slots=True)
class Held:
    """One limit as `explain` tells it: its name, its value as text, and what holds it."""

    name: str
    value: str
    how: str


_RLIMIT_WORDS: Final = {
    "memory": "RLIMIT_AS: address space of each process, not of all together",
    "processes": "RLIMIT_NPROC: of the user in this sandbox, all together",
    "cpu_time": "RLIMIT_CPU: each process",
    "open_files": "RLIMIT_NOFILE: each process",
    "file_size": "RLIMIT_FSIZE: each file",
    "output": "the supervisor, which relays it: each stream",
    "core_size": "RLIMIT_CORE: each crash",
    "timeout": "the supervisor: everything is ended, exit code 124",
    "cpu": "nothing: it needs a delegated cgroup",
}
CGROUP_WORDS: Final = {
    "memory": "cgroup memory.max: all processes and their files in memory together",
    "processes": "cgroup pids.max: all together",
    "cpu": "cgroup cpu.max: all together",
}


def describe(limits: Limits, delegated: Delegated | None = None) -> tuple[Held, ...]:
    """Return each limit that is set, with the mechanism that holds it."""
    return tuple(
        Held(name, format(name, value), (CGROUP_WORDS if _by_cgroup(limits, delegated, name) else _RLIMIT_WORDS)[name])
        for name in NAMES
        if (value := getattr(limits, name)) is not None
    )
