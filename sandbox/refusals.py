"""Refusals: which rule of a profile a failed call has run into, what line would allow it, and what that gives away.

Pure: what it needs to know of the machine it asks a Host. It tells, and decides nothing.
"""

from __future__ import annotations

import errno
import json
import os
import posixpath
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from sandbox import bpf, filter_rules, filtering, places, syscalls
from sandbox.build import filter_policy, grant_label
from sandbox.caller import Caller
from sandbox.calls import Address, Call, Named, Use, address_of, error_name, in_words
from sandbox.filesystem import Entry, Kind, Proc, Rights, View, entries
from sandbox.grants import Access, FileGrant, Grant, number_of
from sandbox.limits import format as format_limit
from sandbox.profile import ExecPolicy, NetworkMode, Profile, SharedNamespace, Tty, numbered
from sandbox.profile_format import grant_lines
from sandbox.syscall_table import NUMBERS


class Host(Protocol):
    """What is asked of the machine outside of the sandbox, as the caller sees it."""

    def exists(self, path: str) -> bool:
        """Tell whether there is something, a link that leads nowhere included."""

    def is_folder(self, path: str) -> bool:
        """Tell whether it is a folder."""

    def is_program(self, path: str) -> bool:
        """Tell whether it is a regular file that the caller may execute."""

    def may(self, path: str, mode: int) -> bool:
        """Tell whether the caller may use it so: of os.R_OK, os.W_OK, os.X_OK."""

    def real(self, path: str) -> str:
        """Return the path with its links resolved."""

    def listens(self, port: int) -> bool:
        """Tell whether somebody listens on that TCP port."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One call that a rule of the profile has refused.

    rule: what refused it, in words. line: the profile's line that would allow it, as TOML that can stand at a profile's
    top; "" if none can. option: the same for `sandbox run`. gives: what that would give away, or why there is no line.
    access, path: the list that a path would have to stand in, where it is that.
    """

    program: str
    pid: int
    call: str
    error: str
    rule: str
    line: str = ""
    option: str = ""
    gives: str = ""
    access: str = ""
    path: str = ""

    @property
    def cause(self) -> tuple[str, str]:
        """What refusals of one cause have in common."""
        return (self.rule, self.line)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is refused, in the words of a Refusal."""

    rule: str
    line: str = ""
    option: str = ""
    gives: str = ""
    access: str = ""
    path: str = ""

    @property
    def fields(self) -> tuple[str, str, str, str, str, str]:
        """The last six of a Refusal's."""
        return self.rule, self.line, self.option, self.gives, self.access, self.path


_NO_LOOPBACK: Final = Reason(
    'network.mode = "none": no network, not even a loopback', 'network.mode = "loopback"', "--net loopback",
    "programs of this sandbox reach each other, and nobody else",
)  # fmt: skip
_DOMAIN: Final = 53
_FREE_PORTS: Final = 1024  # from here on a port takes no capability, ip(7)
_REFUSALS: Final = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOENT, errno.EROFS, errno.ENOSYS, errno.EBADF, errno.ENXIO, errno.EMFILE,
     errno.ENOMEM, errno.EAGAIN, errno.EFBIG, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED,
     errno.EADDRNOTAVAIL, errno.ESRCH}
)  # fmt: skip
_FALL_BACK: Final = frozenset({"clone3", "openat2"})
"""Absent for every profile, and every C library knows what to do then: no news."""
_ADDRESSED: Final = frozenset({"connect", "bind", "sendto", "sendmsg"})
_STREAMS: Final = 3
_TRANSFERS: Final = {
    "read": Use.READ, "readv": Use.READ, "pread64": Use.READ,
    "write": Use.WRITE, "writev": Use.WRITE, "pwrite64": Use.WRITE,
}  # fmt: skip
_PROT_EXEC: Final = 4
_DONE: Final = {"read": "read", "write": "written", "execute": "executed"}
_OF_PROCESSES: Final = frozenset({"kill", "pidfd_open", "prlimit64", "getpgid", "getsid"})
"""Calls whose first argument names a process."""
_FIRST_PROCESSES: Final = 16
"""So many process IDs, with those that are seen to be made, may have been the sandbox's own."""


class Explainer:
    """Explains the calls of one run; it remembers which descriptors its execs have closed."""

    def __init__(self, profile: Profile, caller: Caller, host: Host, descriptors: Collection[int] = ()) -> None:
        """profile: as it is for the caller. descriptors: the caller's from 3 up, of which the grants are a part."""
        self._profile, self._caller, self._host = profile, caller, host
        self._grants = {number_of(grant): grant for grant in numbered(profile)}
        self._policy = filter_policy(profile, tuple(self._grants.values()), caller.landlock_abi)
        self._entries = entries(profile.filesystem)
        self._dropped = frozenset(descriptors) - self._grants.keys()
        self._closed: dict[int, dict[int, str]] = {}
        self._ports: set[int] = set()
        self._made = _FIRST_PROCESSES

    def forked(self, pid: int, child: int) -> None:
        """A process has made another, from which the same descriptors have been kept."""
        self._made += 1
        if pid in self._closed:
            self._closed[child] = dict(self._closed[pid])

    def closed(self, pid: int, number: int, what: str) -> None:
        """At its exec a process has lost a descriptor."""
        self._closed.setdefault(pid, {})[number] = what

    def explain(self, call: Call) -> Refusal | None:
        """Return which rule has refused a call, None if none of the profile's has."""
        if call.error not in _REFUSALS:
            return None
        reason = self._reason(call)
        if reason is None:
            return None
        return Refusal(call.program, call.pid, in_words(call), error_name(call.error), *reason.fields)

    def not_found(self, name: str) -> Refusal | None:
        """Explain a command that is not in the view and is on the caller's own PATH."""
        folders = self._caller.environ.get("PATH", "").split(":") if "/" not in name else [""]
        for folder in folders:
            path = posixpath.join(self._caller.cwd, folder, name)
            if self._host.is_program(path):
                reason = self._shown(path, Use.EXECUTE, "is not in the view")
                return Refusal("sandbox", 0, f'execve("{path}")', "ENOENT", *reason.fields)
        return None

    def _reason(self, call: Call) -> Reason | None:
        nr = NUMBERS.get(call.name, -1)
        verdict = filtering.decide(self._policy, bpf.AUDIT_ARCH_X86_64, nr, call.arguments)
        if verdict == filtering.Errno(call.error) and not call.name.startswith("execve"):
            return self._filtered(call)
        if call.name.startswith("execve") and call.error == errno.EPERM:
            return self._exec_once()
        if call.error == errno.EBADF:
            return self._bad_descriptor(call)
        if call.error == errno.ESRCH:
            return self._unseen(abs(call.number(0))) if call.name in _OF_PROCESSES else None
        limit = self._limited(call)
        if limit is not None:
            return limit
        if call.name in _ADDRESSED and call.address:
            address = address_of(call.address, call.socket_type)
            return self._addressed(call, address) if address else None
        for named in call.paths:
            reason = self._path(call, named)
            if reason is not None:
                return reason
        return self._by_descriptor(call)

    # --- the filter

    def _filtered(self, call: Call) -> Reason | None:
        name = call.name
        if name in _FALL_BACK:
            return None
        if name not in NUMBERS or name in syscalls.ENOSYS_ALWAYS:
            why = syscalls.ENOSYS_ALWAYS.get(name, "a call that Linux 6.18 does not have")
            return Reason(f"the filter has no {name} for any program", gives=f"no line allows it: {why}")
        if name not in self._policy.allow:
            return _allowing(name)
        return self._by_arguments(call)

    def _by_arguments(self, call: Call) -> Reason:
        policy, descriptors = self._policy, self._profile.descriptors
        low = [argument & filtering.LOW32 for argument in call.arguments]
        if descriptors.strict and not _refused_otherwise(policy, call):
            return Reason(
                "strict: a call that makes a descriptor must set close-on-exec",
                "descriptors.strict = false",
                gives="a thread that opens a descriptor while another executes can let it go along",
            )
        match call.name:
            case "clone":
                return _allowing("unshare", "the filter refuses new namespaces (CLONE_NEW*)")
            case "socket" | "socketpair" if low[0] == filtering.AF_UNIX and not policy.unix_sockets:
                return Reason(
                    "scm_rights is denied: no Unix sockets", 'descriptors.scm_rights = "allow"',
                    gives="descriptors can be sent and received",
                )  # fmt: skip
            case "socket" | "socketpair":
                families = ", ".join(filtering.FAMILIES)
                return Reason(
                    f"the filter lets sockets be of {families} only",
                    gives="no line allows it: the others reach the kernel's own, raw and other machines' networks",
                )
            case "dup2" | "dup3":
                grant = self._grants.get(low[1])
                what = grant_label(grant) if grant else "reserve_stdio"
                return Reason(
                    f"the number {low[1]} is reserved ({what})", gives="no line allows it: use another number"
                )
            case "fcntl" | "ioctl" if low[1] in (filtering.F_SETFD, filtering.FIONCLEX):
                if policy.gated:
                    return Reason(
                        f"close-on-exec is not cleared on the reserved number {low[0]}",
                        gives="no line allows it: +propagate lets a grant pass",
                    )
                return Reason(
                    "close-on-exec is not cleared where no delegation protocol is named",
                    'descriptors.delegate = ["pass-fds"]', "--delegate pass-fds",
                    gives="descriptors that an exec names (SANDBOX_PASS_FDS) go along",
                )  # fmt: skip
        words = next(
            (line for line in filter_rules.describe(policy) if call.name in line and line.startswith("EPERM")), ""
        )
        return Reason(f"the filter refuses these arguments of {call.name}", gives=f"no line allows it: {words[7:]}")

    def _exec_once(self) -> Reason | None:
        if self._profile.process.exec is not ExecPolicy.ONCE:
            return None
        return Reason(
            'exec = "once": no program after the command', 'process.exec = "allow"',
            gives="other programs of the view are executed",
        )  # fmt: skip

    # --- descriptors

    def _bad_descriptor(self, call: Call) -> Reason | None:
        number = call.number(0)
        grant = self._grants.get(number)
        if call.name in _TRANSFERS:
            return self._other_way(number, call)
        if number < _STREAMS:
            return None
        closed = self._closed.get(call.pid, {}).get(number)
        if closed is not None and grant is not None:
            line = self._grant_line(replace(grant, propagate=True))
            gives = "every later program gets it too"
            return Reason(f"{grant_label(grant)} does not propagate: an exec has closed {number}", line, gives=gives)
        if closed is not None:
            return Reason(
                f"descriptor {number} ({closed}) was closed at an exec that did not name it",
                gives=f"no line allows it: SANDBOX_PASS_FDS={number} in that exec's environment names it (pass-fds)",
            )
        if number in self._dropped:
            return Reason(
                f"descriptor {number} of the caller is not granted",
                f"grants.fd{number} = {{ inherit = {number}, number = {number} }}",
                f"--grant fd{number}@{number}=inherit:{number}",
                "what that descriptor can do",
            )
        return None

    def _other_way(self, number: int, call: Call) -> Reason | None:
        """A descriptor that is open, and not for that: of a grant, or a copy of one, which its mount leaves no name."""
        use = _TRANSFERS[call.name]
        files = {of: grant for of, grant in self._grants.items() if isinstance(grant, FileGrant)}
        fitting = [grant for grant in files.values() if (grant.access is Access.READ) == (use is Use.WRITE)]
        if number in files:
            return self._access_of(files[number], use)
        return self._access_of(fitting[0], use) if call.descriptor == "/" and len(fitting) == 1 else None

    def _access_of(self, grant: Grant, use: Use) -> Reason | None:
        if not isinstance(grant, FileGrant):
            return None
        verb = "written" if use & Use.WRITE else "read"
        line = self._grant_line(replace(grant, access=Access.READ_WRITE))
        return Reason(f"{grant_label(grant)} is for {grant.access}", line, gives=f"it can be {verb}")

    def _grant_line(self, grant: Grant) -> str:
        if isinstance(grant, FileGrant):
            grant = replace(grant, file=self._short(grant.file))
        return f"grants.{grant.name} = {{ {', '.join(grant_lines(grant))} }}"

    def _by_descriptor(self, call: Call) -> Reason | None:
        path = call.descriptor
        if not path.startswith("/"):
            return None
        if call.name == "mmap" and call.error == errno.EPERM and call.number(2) & _PROT_EXEC:
            return self._shown(path, Use.EXECUTE, "is not to be executed")
        if call.error == errno.EROFS:
            return self._path(call, Named("/", path, Use.CHANGE))
        return None

    # --- limits

    def _limited(self, call: Call) -> Reason | None:
        limits = self._profile.limits
        found = {
            errno.EMFILE: ("open_files", limits.open_files),
            errno.ENOMEM: ("memory", limits.memory),
            errno.EFBIG: ("file_size", limits.file_size),
            errno.EAGAIN: ("processes", limits.processes if call.name in ("fork", "vfork", "clone") else None),
        }.get(call.error)
        if found is None or found[1] is None:
            return None
        return over_limit(found[0], int(found[1]))

    # --- processes

    def _unseen(self, pid: int) -> Reason | None:
        """Return the reason that a process is not there. Own ones that have ended are not there for anybody."""
        shared = SharedNamespace.PID in self._profile.share
        if shared or pid <= self._made or not self._host.exists(f"/proc/{pid}"):
            return None
        rule = f"processes of the host are not seen ({pid})"
        if self._profile.filesystem.view is View.HOST:
            gives = "the host's processes are seen, and yours signalled"
            return Reason(rule, 'namespaces.share = ["pid"]', "--share pid", gives)
        return Reason(
            rule,
            gives='no line allows it: a view of its own shows its own processes only; with filesystem.view = "host",'
            ' namespaces.share = ["pid"] does',
        )

    # --- sockets

    def _addressed(self, call: Call, address: Address) -> Reason | None:
        if address.family == 1:
            return self._unix_socket(call, address)
        policy, port = self._profile.network, address.port
        if call.error not in _NETWORK_ERRORS or (policy.mode is NetworkMode.HOST and not (policy.allow or policy.bind)):
            return None
        own = address.is_loopback or address.is_any
        if call.name == "bind":
            return self._bound(call, address, own=own)
        if policy.mode is NetworkMode.LOOPBACK and own and not self._host.listens(port):
            return None
        if policy.mode is NetworkMode.NONE and own and (port in self._ports or not self._host.listens(port)):
            return _NO_LOOPBACK
        rule = f'network.mode = "{policy.mode}": no rule of the network names {address}'
        if port == _DOMAIN and not own:
            return Reason(rule, "network.dns = true", "--dns", "names are asked for: who serves a name is told that")
        if not address.protocol:
            return Reason(rule, 'network.mode = "host"', "--net host", "all that this host reaches")
        peer = f"tcp:*:{port}" if policy.mode is NetworkMode.HOST else str(address)
        gives = "what is there can be told everything, and tells what it serves"
        return Reason(rule, f"network.allow = [{_toml(peer)}]", f"--net-allow {shlex.quote(peer)}", gives)

    def _bound(self, call: Call, address: Address, *, own: bool) -> Reason | None:
        mode, port = self._profile.network.mode, address.port
        if own and mode is NetworkMode.NONE:
            self._ports.add(port)
            return _NO_LOOPBACK
        if own and mode is NetworkMode.LOOPBACK and not (call.error == errno.EACCES and 0 < port < _FREE_PORTS):
            return None
        if not address.protocol or port == 0:
            return None
        rule = f"{address.protocol}:{port}" if address.is_any else str(address)
        return Reason(
            f"the network has no place {address} to be bound", f"network.allow_bind = [{_toml(rule)}]",
            f"--net-bind {shlex.quote(rule)}", "whoever reaches this host there reaches the program",
        )  # fmt: skip

    def _unix_socket(self, call: Call, address: Address) -> Reason | None:
        if address.abstract:
            if call.name == "bind" or self._profile.network.mode is NetworkMode.HOST:
                return None
            return Reason(
                f"abstract Unix sockets of others are out of reach ({address.host})",
                gives="no line allows it: a socket by path is reached where its path is shown",
            )
        base = call.paths[0].base if call.paths else self._caller.cwd
        use = Use.MAKE if call.name == "bind" else Use.LOOK
        return self._path(call, Named(base, address.host, use))

    # --- paths

    def _path(self, call: Call, named: Named) -> Reason | None:
        path, use = named.path, named.use
        if not path:
            return None
        numbered_link = _descriptor_link(path)
        if numbered_link in self._grants and call.error in (errno.EACCES, errno.EROFS):
            return self._access_of(self._grants[numbered_link], use)
        if path == "/dev/tty" and call.error == errno.ENXIO:
            return self._no_terminal()
        for folder, explain in (("/proc", self._proc), ("/dev", self._device)):
            if places.below(path, folder) is not None and places.below(path, "/dev/shm") is None:  # noqa: S108
                return explain(call, path, use)
        match call.error:
            case errno.ENOENT:
                return self._missing(path, use)
            case errno.EACCES:
                return self._denied(path, use)
            case errno.EROFS:
                return self._read_only(path, use)
        return None

    def _no_terminal(self) -> Reason | None:
        if self._profile.process.tty is not Tty.NONE:
            return None  # there is none to be had: the caller's streams are none
        return Reason(
            'tty = "none": there is no controlling terminal', 'process.tty = "auto"', "--tty auto",
            "a terminal of its own, where your input and output are one",
        )  # fmt: skip

    def _proc(self, call: Call, path: str, use: Use) -> Reason | None:
        first = path.split("/")[2] if path.count("/") > 1 else ""
        proc = self._profile.filesystem.proc
        if call.error == errno.ENOENT and first.isdecimal():
            return self._unseen(int(first))
        if call.error == errno.ENOENT and proc is Proc.PROCESSES and not first.isdecimal() and self._host.exists(path):
            return Reason(
                f'proc = "processes": {path} is not there', 'filesystem.proc = "full"',
                gives="what /proc tells of the machine: processors, memory, mounts, load",
            )  # fmt: skip
        writes = use & (Use.WRITE | Use.MAKE | Use.CHANGE)
        if call.error in (errno.EROFS, errno.EACCES) and writes and proc is not Proc.WRITABLE and self._caller.uid:
            return Reason(
                "/proc is read-only", 'filesystem.proc = "writable"',
                gives="its own user namespaces can be set up, with most of the kernel in reach",
            )  # fmt: skip
        return None

    def _device(self, call: Call, path: str, _use: Use) -> Reason | None:
        if call.error != errno.ENOENT or not self._host.exists(path) or _descriptor_link(path) is not None:
            return None
        return Reason(
            f"{path} is not among the devices of a view",
            gives="no line allows it: a descriptor that you open can be granted: inherit, with the type named",
        )

    def _governing(self, path: str) -> Entry | None:
        above = [entry for entry in self._entries if places.below(path, entry.path) is not None]
        hidden = [entry for entry in above if entry.kind is Kind.HIDE]
        found = hidden or above
        return found[-1] if found else None

    def _missing(self, path: str, use: Use) -> Reason | None:
        real = self._host.real(path)
        if self._host.exists(path):
            entry = self._governing(path)
            if entry is not None and entry.kind is Kind.HIDE:
                return self._hidden(path, entry)
            if not self._may(path, use):
                return None
            if entry is not None and entry.kind is Kind.BIND and self._profile.filesystem.view is View.PRIVATE:
                if self._is_shown(real):
                    return None  # it is there: made since, or gone meanwhile
                path = real
            return self._shown(path, use, "is not in the view")
        folder = posixpath.dirname(path)
        if use & Use.MAKE and self._host.is_folder(folder) and not self._is_shown(self._host.real(folder)):
            return self._shown(folder, Use.MAKE, "is not in the view")
        return None

    def _is_shown(self, path: str) -> bool:
        entry = self._governing(path)
        return entry is not None and entry.kind in (Kind.BIND, Kind.COPY)

    def _denied(self, path: str, use: Use) -> Reason | None:
        entry = self._governing(path)
        if entry is not None and entry.kind is Kind.HIDE:
            return self._hidden(path, entry)
        if not self._may(path, use):
            return None
        rights = Rights(0) if entry is None else entry.rights
        needed = _rights_for(use)
        if needed & ~rights:
            what = "is not to be executed" if use & Use.EXECUTE else "is not declared"
            return self._shown(self._place_of(path, use), use, what)
        return None

    def _hidden(self, path: str, entry: Entry) -> Reason:
        where = "" if entry.path == path else f", as {entry.path} is"
        return Reason(
            f"filesystem.hide: {path} is hidden{where}",
            gives="no line allows it, since lists add up: take it out of hide where it stands",
        )

    def _read_only(self, path: str, use: Use) -> Reason | None:
        target = self._place_of(path, use)
        entry = self._governing(target)
        if entry is not None and Rights.WRITE in entry.rights:
            return None
        if not self._host.may(target, os.W_OK):
            return None
        return self._shown(target, Use.WRITE, "is shown to read, not to write")

    def _place_of(self, path: str, use: Use) -> str:
        """The path that has to be writable: of a name that is made or taken away, the folder."""
        opened = use & (Use.READ | Use.WRITE)
        if use & Use.MAKE and not (opened and self._host.exists(path)):
            return posixpath.dirname(path)
        return path

    def _may(self, path: str, use: Use) -> bool:
        mode = os.R_OK if use & Use.READ else 0
        mode |= os.W_OK if use & (Use.WRITE | Use.MAKE | Use.CHANGE) else 0
        mode |= os.X_OK if use & Use.EXECUTE else 0
        return self._host.may(self._place_of(path, use), mode)

    def _shown(self, path: str, use: Use, what: str) -> Reason:
        """Return the reason that a path is not shown so, with the line that shows it."""
        home = self._caller.home
        name = self._list_for(path, use)
        rule = f"{path} {what}"
        if path == "/":
            return Reason(rule, gives="no line allows it: name a folder, not the whole tree")
        if name == "write" and path in (*places.TEMPORARY, self._caller.tmp):
            line = f"filesystem.tmpfs = [{_toml(path)}]"
            return Reason(rule, line, f"--tmpfs {shlex.quote(path)}", "nothing: an empty folder, gone at the end")
        return in_list(rule, name, path, home, self._started_in())

    def _list_for(self, path: str, use: Use) -> str:
        if use & (Use.WRITE | Use.MAKE | Use.CHANGE):
            return "write"
        library = path.endswith(".so") or ".so." in posixpath.basename(path)
        return "execute" if use & Use.EXECUTE or library or self._host.is_program(path) else "read"

    def folded(self, found: Sequence[Refusal]) -> list[Refusal]:
        """Return refusals with a folder in place of the many paths in it that were refused, as learning has it."""
        home, cwd = self._caller.home, self._started_in()
        inside: dict[tuple[str, str], set[str]] = {}
        for each in found:
            inside.setdefault((each.access, posixpath.dirname(each.path)), set()).add(each.path)
        whole = {
            key: in_list(f"{len(paths)} paths in {key[1]} are not shown to be {_DONE[key[0]]}", *key, home, cwd)
            for key, paths in inside.items()
            if key[0] and len(paths) >= places.MANY and places.may_be_whole(key[1], home, cwd)
        }

        def fold(each: Refusal) -> Refusal:
            for key in ((each.access, posixpath.dirname(each.path)), (each.access, each.path)):
                if key in whole:
                    reason = whole[key]
                    return replace(
                        each, rule=reason.rule, line=reason.line, option=reason.option, gives=reason.gives,
                        path=reason.path,
                    )  # fmt: skip
            return each

        return [fold(each) for each in found]

    def _short(self, path: str) -> str:
        return places.shortened(path, self._caller.home, self._started_in())

    def _started_in(self) -> str:
        return self._profile.process.chdir or self._caller.cwd


_NETWORK_ERRORS: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.EADDRNOTAVAIL}
)


def in_list(rule: str, name: str, path: str, home: str, cwd: str) -> Reason:
    """Return the reason of a path that has to stand in a list: `read`, `write`, `execute`."""
    line = f"filesystem.{name} = [{_toml(places.shortened(path, home, cwd))}]"
    return Reason(rule, line, f"--{name} {shlex.quote(path)}", gives(path, name, home), name, path)


def gives(path: str, name: str, home: str) -> str:
    """Return what showing a path in a list (`read`, `write`, `execute`) gives away."""
    secret, speaks = places.secret(path, home), places.speaks_for(path)
    if speaks:
        return f"a socket that speaks for you: {speaks}"
    whole = "ALL of your home folder; " if places.is_whole_home(path, home) else ""
    kind = f"a secret: {secret}; " if secret else whole
    return (
        kind
        + {
            "read": "it is read, and told to whoever reads the output or is reached",
            "write": "it is changed or deleted; what you execute or open there later may be the program's",
            "execute": "it is read and executed, within the sandbox",
        }[name]
    )


def over_limit(name: str, value: int) -> Reason:
    """Return the reason that a limit gives which was reached, with the line that doubles it."""
    twice = format_limit(name, 2 * value)
    return Reason(
        f"limit {name} is {format_limit(name, value)}",
        f"limits.{name} = {twice if twice.isdecimal() else _toml(twice)}",
        f"--limit {name}={twice}",
        "it can use up more of what others need",
    )


def _refused_otherwise(policy: filtering.FilterPolicy, call: Call) -> bool:
    """Whether a call is refused by more than `strict`."""
    verdict = filtering.decide(
        replace(policy, strict=False), bpf.AUDIT_ARCH_X86_64, NUMBERS.get(call.name, -1), call.arguments
    )
    return verdict != filtering.ALLOW


def _allowing(name: str, rule: str = "") -> Reason:
    """Return the reason for a call that the filter lacks: an ordinary one by its group, any other by its name."""
    group = next((group for group in syscalls.GROUPS.values() if name in group.members), None)
    word = group.name if group is not None and not group.refused_by_default else name
    why = syscalls.reason_for(name) or (group.purpose if group else "")
    return Reason(rule or f"the filter does not allow {name}", f'filter.allow = ["{word}"]', gives=why)


def _rights_for(use: Use) -> Rights:
    rights = Rights.READ
    if use & (Use.WRITE | Use.MAKE | Use.CHANGE):
        rights |= Rights.WRITE
    return rights | Rights.EXECUTE if use & Use.EXECUTE else rights


def _descriptor_link(path: str) -> int | None:
    """Return the number that a path below /dev/fd or /proc/PID/fd stands for."""
    folder, _, name = path.rpartition("/")
    is_link = folder == "/dev/fd" or (folder.startswith("/proc/") and folder.endswith("/fd"))
    return int(name) if is_link and name.isdecimal() else None


def _toml(value: str | float) -> str:
    return json.dumps(value, ensure_ascii=False)


# --- for people -------------------------------------------------------------------------------------------------------


def as_line(refusal: Refusal) -> str:
    """Return a refusal as one message, without the program's name in front."""
    program = posixpath.basename(refusal.program) or "?"
    hint = f"to allow it: {refusal.line}" if refusal.line else refusal.gives
    what = ": ".join(word for word in (program, refusal.call, refusal.error, refusal.rule) if word)
    return f"refused: {what}; {hint}"


def summary(found: Collection[Refusal], name: str) -> Iterator[str]:
    """Yield what was refused, once for each cause, with what its line gives away."""
    causes: dict[tuple[str, str], list[Refusal]] = {}
    for refusal in found:
        causes.setdefault(refusal.cause, []).append(refusal)
    if not causes:
        yield f"explain: profile {name} has refused nothing that the command asked for"
        return
    yield f"explain: profile {name} has refused, for {len(causes)} cause{'s' if len(causes) > 1 else ''}:"
    for index, (cause, refusals) in enumerate(causes.items(), 1):
        first = refusals[0]
        programs = ", ".join(sorted({posixpath.basename(each.program) or "?" for each in refusals}))
        times = f"; {len(refusals)} x {first.error}" if first.error else ""
        yield f"explain: {index}. {cause[0]} ({programs}{times})"
        if first.line:
            option = f"   or: {first.option}" if first.option else ""
            yield f"explain:    line: {first.line}{option}"
            yield f"explain:    gives away: {first.gives}"
        else:
            yield f"explain:    {first.gives}"
