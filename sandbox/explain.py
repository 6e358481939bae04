"""Views: what a profile grants and refuses, in words; the caller's descriptors and what becomes of them."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator, Sequence

from sandbox import seccomp
from sandbox.build import build, environment_set, filter_policy, grant_label
from sandbox.caller import Caller
from sandbox.grants import Access, FileGrant, Grant, InheritGrant, SecretGrant, number_grants, number_of, variable_for
from sandbox.plan import OpCode, Plan
from sandbox.profile import ExecPolicy, Profile, check

# What no profile of this version restrains; said in every explanation, so that nobody relies on it.
NOT_PROTECTED = (
    "files: every path that the user may open can be opened",
    "network: every address that the host reaches can be reached",
    "processes: signals to the user's other processes are possible",
    "later programs: what the command hands to programs that it starts is not yet swept",
)


def explain(profile: Profile, command: Sequence[str], caller: Caller) -> Iterator[str]:
    """Yield the lines of an explanation; with a command also its plan.

    Raises: what check and build raise.
    """
    check(profile)
    grants = number_grants(profile.grants)
    yield f"profile {profile.name} ({profile.source_path}): {profile.description}"
    yield ""
    yield "Descriptors in the child:"
    yield "  0, 1, 2  the caller's standard streams, /dev/null where it has none"
    for grant in grants:
        yield f"  {number_of(grant):<8} {grant_label(grant)}; told by {variable_for(grant.name)}"
        yield from (f"             {line}" for line in residue(grant))
    yield "  every other descriptor of the caller is closed"
    yield ""
    yield "Environment:"
    yield "  kept from the caller: " + (", ".join(profile.environment.keep) or "nothing")
    yield "  set: " + (", ".join(environment_set(profile, grants)) or "nothing")
    yield ""
    yield "Process:"
    yield f"  umask {profile.process.umask:03o}, working directory {profile.process.chdir or 'the caller' + chr(39) + 's'}"
    yield "  no new privileges; signal dispositions and mask as new"
    if profile.process.exec is ExecPolicy.ONCE:
        yield "  the command cannot start another program"
    if profile.process.die_with_parent:
        yield "  ends with the caller"
    yield ""
    yield "Filter:"
    yield from (f"  {line}" for line in seccomp.describe(filter_policy(profile, grants)))
    yield ""
    yield "Not protected by this version:"
    yield from (f"  {line}" for line in NOT_PROTECTED)
    if command:
        yield ""
        yield "Plan:"
        yield from (f"  {line}" for line in build(profile, command, caller).describe())


def residue(grant: Grant) -> tuple[str, ...]:
    """Return what a program can do with a grant beyond what its name says; each line has a test."""
    n = number_of(grant)
    reopen = f"/proc/self/fd/{n} can be opened anew, with every access that the file's mode gives the user"
    metadata = "mode, owner, times and extended attributes can be changed as the file's owner may"
    match grant:
        case FileGrant(access=Access.READ):
            return (
                "can: read, seek, map, lock",
                f"cannot: write through {n} itself",
                f"still: {reopen}",
                f"still: {metadata}",
            )
        case FileGrant(access=Access.APPEND):
            return (
                "can: append",
                f"still: O_APPEND can be cleared, then written anywhere; {reopen}",
                f"still: {metadata}",
            )
        case FileGrant():
            return ("can: " + ("read, " if grant.access is Access.READ_WRITE else "") + "write, truncate, seek, lock",
                    f"still: {reopen}", f"still: {metadata}")  # fmt: skip
        case SecretGrant():
            return ("can: read", "cannot: write, grow, shrink, unseal")
        case InheritGrant():
            return ("can: what the caller's descriptor can; offset, flags and locks are shared with the caller",)


def descriptor_table(plan: Plan) -> Iterator[str]:
    """Yield one line for each descriptor that the caller handed us, and what becomes of it (run --verbose)."""
    inherited = {op.b: op for op in plan.only(OpCode.INHERIT)}
    statuses = {op.a for op in plan.only(OpCode.STATUS)}
    placed = {op.a: op.b for op in plan.only(OpCode.PLACE)}
    for fd in _open_descriptors():
        if fd <= 2:
            verdict = f"stays {fd}"
        elif fd in inherited:
            verdict = f"granted as {placed[inherited[fd].a]} ({inherited[fd].label})"
        elif fd in statuses:
            verdict = "taken by the launcher for status lines"
        else:
            verdict = "closed"
        yield f"sandbox: descriptor {fd} -> {describe_descriptor(fd)}: {verdict}"
    for op in plan.ops:
        if op.code in (OpCode.FILE, OpCode.SECRET_FILE, OpCode.SECRET_ENV):
            yield f"sandbox: descriptor {placed[op.a]} in the child: {op.label}"


def _open_descriptors() -> list[int]:
    """The descriptors that we were started with: Python's own are close-on-exec, the caller's cannot be."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if not fcntl.fcntl(int(name), fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                found.append(int(name))
        except OSError:
            continue  # the folder's own, closed since
    return sorted(found)


def describe_descriptor(fd: int) -> str:
    """Return what a descriptor refers to and how it is open, as text for people."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    access = ("read", "write", "read-write", "?")[flags & os.O_ACCMODE]
    target = os.readlink(f"/proc/self/fd/{fd}")
    if flags & os.O_PATH:
        access = "path only"
    elif stat.S_ISDIR(os.fstat(fd).st_mode):
        access = "directory"
    return f"{target} ({access})"
