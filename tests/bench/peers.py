"""Other launchers: their command lines that come nearest to a plan, and which of them are here."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from sandbox.plan import MountFlag, MountKind, OpCode, Plan
from sandbox.profile_files import default_search_path, load
from sandbox.syscall_table import NUMBERS
from sandbox.syscalls import expand
from tests.bench.steps import DEVICES, TMPFS_KIB, Place, places_of, variables_of

EQUAL, LEAST, FIREJAIL, NSJAIL = "bubblewrap, equal view", "bubblewrap --dev-bind / /", "firejail", "nsjail"
STREAMS: Final = ("stdin", "stdout", "stderr")


def bubblewrap(plan: Plan, command: list[str], filter_fds: list[int]) -> list[str]:
    """Return the command line of bubblewrap with the same namespaces, filters, environment and view, bind for bind."""
    words = ["/usr/bin/bwrap", "--unshare-user", "--unshare-all", "--hostname", "sandbox", "--new-session"]
    words += ["--die-with-parent", "--cap-drop", "ALL", "--clearenv"]
    for name, text in variables_of(plan, os.environ).items():
        words += ["--setenv", name, text]
    for place in places_of(plan):
        words += _bubblewrap_mount(place)
    words += ["--remount-ro", "/"]
    for op in plan.only(OpCode.CHDIR):
        words += ["--chdir", os.fsdecode(op.data)]
    for fd in filter_fds:
        words += ["--add-seccomp-fd", str(fd)]
    return [*words, *command]


def _bubblewrap_mount(place: Place) -> list[str]:
    if place.link:
        return ["--symlink", place.path, place.link]
    match place.kind:
        case MountKind.BIND:
            return ["--bind" if place.flags & MountFlag.WRITE else "--ro-bind", place.path, place.path]
        case MountKind.TMPFS:
            return ["--perms", f"{place.op.b:o}", "--size", str(TMPFS_KIB << 10), "--tmpfs", place.path]
        case MountKind.HIDE if place.is_folder:
            return ["--perms", "0", "--tmpfs", place.path]
        case MountKind.HIDE:
            return ["--ro-bind", "/dev/null", place.path]
        case MountKind.PROC:
            return ["--proc", place.path]
        case MountKind.DEV:
            return ["--dev", place.path]
        case MountKind.COPY:
            raise NotImplementedError(place.path)


def firejail(plan: Plan, command: list[str]) -> list[str]:
    """Return the command line of firejail that comes nearest: its own filter and devices, the same paths hidden."""
    words = ["/usr/bin/firejail", "--quiet", "--noprofile", "--net=none", "--ipc-namespace", "--hostname=sandbox"]
    words += ["--nonewprivs", "--noroot", "--caps.drop=all", "--seccomp", "--private-dev", "--read-only=/"]
    for place in places_of(plan):
        if place.kind is MountKind.HIDE:
            words.append(f"--blacklist={place.path}")
        elif place.kind is MountKind.TMPFS and place.path not in {"/tmp", "/dev/shm"}:
            words.append(f"--tmpfs={place.path}")
    return [*words, *command]


def nsjail(program: str, plan: Plan, command: list[str]) -> list[str]:
    """Return nsjail's command line for the same namespaces, view and environment; its own filter allows the same calls.

    It compiles the filter at each start; a file cannot be hidden but by one of /dev/null.
    """
    words = [program, "-Mo", "-Q", "--hostname", "sandbox", "--nice_level", "0", "--disable_rlimits", "--iface_no_lo"]
    for name, text in variables_of(plan, os.environ).items():
        words += ["-E", f"{name}={text}"]
    # Its root is a file system of its own in which it makes what is missing, so links come last, as everywhere.
    for place in places_of(plan):
        words += _nsjail_mount(place)
    for op in plan.only(OpCode.CHDIR):
        words += ["--cwd", os.fsdecode(op.data)]
    return [*words, "--seccomp_string", kafel_policy(), *command]


def _nsjail_mount(place: Place) -> list[str]:
    if place.link:
        return ["-s", f"{place.path}:{place.link}"]
    match place.kind:
        case MountKind.BIND:
            return ["-B" if place.flags & MountFlag.WRITE else "-R", place.path]
        case MountKind.TMPFS:
            return ["-m", f"none:{place.path}:tmpfs:size={TMPFS_KIB << 10},mode={place.op.b:o}"]
        case MountKind.HIDE if place.is_folder:
            return ["-m", f"none:{place.path}:tmpfs:size=4096,mode=0"]
        case MountKind.HIDE:
            return ["-R", f"/dev/null:{place.path}"]
        case MountKind.DEV:
            links = [("/proc/self/fd", "fd"), *((f"/proc/self/fd/{n}", name) for n, name in enumerate(STREAMS))]
            words = [word for name in DEVICES for word in ("-R", f"/dev/{name}")]
            return words + [word for target, name in links for word in ("-s", f"{target}:/dev/{name}")]
        case MountKind.PROC:
            return []  # it has one
        case MountKind.COPY:
            raise NotImplementedError(place.path)


def kafel_policy() -> str:
    """Return the calls that untrusted allows, in the language that nsjail compiles; by numbers, it knows few names."""
    allowed = expand(load("untrusted", search=default_search_path(os.environ)).filter.allow)
    numbers = ", ".join(f"SYSCALL[{NUMBERS[name]}]" for name in sorted(allowed))
    return f"ALLOW {{ {numbers} }} DEFAULT ERRNO(1)"


def peers(
    plan: Plan, command: list[str], filter_fds: list[int], nsjail_program: str | None
) -> Iterator[tuple[str, list[str]]]:
    """Yield name and command line of each peer."""
    yield EQUAL, bubblewrap(plan, command, filter_fds)
    yield LEAST, ["/usr/bin/bwrap", "--dev-bind", "/", "/", *command]
    if nsjail_program:
        yield NSJAIL, nsjail(nsjail_program, plan, command)
    yield FIREJAIL, firejail(plan, command)


def present(rows: Mapping[str, list[str]], fds: Sequence[int] = ()) -> dict[str, list[str]]:
    """Return the rows whose program is here and can start its command on this machine."""
    return {name: words for name, words in rows.items() if os.access(words[0], os.X_OK) and _works(words, fds)}


def _works(words: Sequence[str], fds: Sequence[int]) -> bool:
    for fd in fds:
        os.lseek(fd, 0, os.SEEK_SET)
    done = subprocess.run(words, pass_fds=fds, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode == 0
