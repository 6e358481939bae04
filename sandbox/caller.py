"""The caller: the outside facts that a plan depends on, taken once and then a value."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Self

from sandbox import cgroups
from sandbox.errors import UsageError
from sandbox.limits import Delegated
from sandbox.probe import probe
from sandbox.sending import KeptHere

_ORDINARY: Final = frozenset({os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE})


@dataclass(frozen=True, slots=True)
class Joined(KeptHere):
    """Descriptors of this process: the network that the sandbox joins, and what has to stay open with it; 0: none.

    They are open while netns.joining() lasts, and are not part of what the caller itself has.
    """

    namespace: int
    keeper: int = 0

    def _held(self) -> str:
        return "the descriptors of a network"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who starts the sandbox: environment, folders, and the process that the launcher's parent is.

    cwd is "" when the working directory has been removed. landlock_abi: the kernel's, 0 where it has no Landlock.
    uid, gid: the effective ones. identity: whom the profile names, user and group (see becoming). interactive: standard
    input and output are terminals, None where that is not known yet. delegated: a cgroup in which the launcher can make
    one for the sandbox. nice, scheduling: this process's, of sched(7); a real-time policy counts as the ordinary one.
    pid: this process. hosts: the addresses of the names in socket grants, owners: the users and groups of their files;
    peers: the addresses of the names that the network's rules have, resolvers: whom this host asks
    (addresses.looked_up). joined: the network that the sandbox is to join; None: not made yet, or none.
    """

    environ: Mapping[str, str]
    cwd: str
    home: str
    runtime_dir: str
    tmp: str
    parent_pid: int
    landlock_abi: int = 0
    uid: int = 1000
    gid: int = 1000
    identity: tuple[int, int] | None = None
    interactive: bool | None = False
    delegated: Delegated | None = None
    nice: int = 0
    scheduling: int = os.SCHED_OTHER
    pid: int = 0
    hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    owners: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    peers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    resolvers: tuple[str, ...] = ()
    joined: Joined | None = None

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
            uid=os.geteuid(),
            gid=os.getegid(),
            interactive=os.isatty(0) and os.isatty(1),
            # The parent's child is the launcher itself where it takes this process's place.
            delegated=cgroups.find(alone=parent_pid == os.getppid()),
            nice=os.getpriority(os.PRIO_PROCESS, 0),
            pid=os.getpid(),
            scheduling=policy if (policy := os.sched_getscheduler(0)) in _ORDINARY else os.SCHED_OTHER,
        )

    def becoming(self, user: str | None, group: str | None) -> Self:
        """Look up whom a profile names, by name or number; a user's group is the one of the password file.

        Raises: UsageError for a name that nobody has, and for a number without a group.
        """
        if user is None and group is None:
            return self
        uid, own_group = (self.uid, self.gid) if user is None else _user(user)
        gid = own_group if group is None else _group(group)
        if gid is None:
            raise UsageError(f"user {user}", "the password file does not know its group", f"name one: {user}:GROUP")
        return replace(self, identity=(uid, gid))

    def owner(self, text: str) -> tuple[int, int]:
        """Look a file's owner up, `NAME[:GROUP]` by names or numbers.

        Raises: UsageError as becoming().
        """
        user, _, group = text.partition(":")
        named = self.becoming(user, group or None)
        assert named.identity is not None
        return named.identity

    def placeholders(self) -> dict[str, str]:
        """Return what `{home}`, `{cwd}`, `{runtime_dir}` and `{tmp}` stand for."""
        return {"home": self.home, "cwd": self.cwd, "runtime_dir": self.runtime_dir, "tmp": self.tmp}


def _home_of_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"


def _user(name: str) -> tuple[int, int | None]:
    """Return a user's number and group, None if it has a number only."""
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError as error:
        if name.isdecimal():
            return int(name), None
        raise UsageError(f"user {name}", "there is no such user", "give a name of /etc/passwd or a number") from error
    return entry.pw_uid, entry.pw_gid


def _group(name: str) -> int:
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise UsageError(f"group {name}", "there is no such group", "give a name of /etc/group or a number") from error
