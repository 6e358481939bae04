"""Recording -> the smallest profile that lets it through, with what a reader should look at marked. Pure."""

from __future__ import annotations

import json
import posixpath
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Final

from sandbox import places, syscalls
from sandbox.caller import Caller
from sandbox.calls import Address, Use
from sandbox.errors import UsageError
from sandbox.profile import NetworkMode
from sandbox.recording import Recording, up_from
from sandbox.refusals import Host
from sandbox.syscall_table import NUMBERS

_CHANGES: Final = Use.WRITE | Use.MAKE | Use.CHANGE
_SYSTEM: Final = ("/usr", "-/bin", "-/sbin", "-/lib", "-/lib32", "-/lib64", "-/libx32")
# What the dynamic linker and links of the system lead through, without anybody naming it.
_ALWAYS: Final = ("-/etc/ld.so.cache", "-/etc/alternatives", "-/etc/localtime")
_PROC_OF_PROCESSES: Final = re.compile(r"/proc/(self|thread-self|\d+)(/|$)|/proc/?$")
_GIVEN_DEVICES: Final = re.compile(
    r"/dev/(null|zero|full|random|urandom|shm|pts|ptmx|tty|fd|stdin|stdout|stderr)(/|$)|/dev/?$"
)
_DOMAIN: Final = 53
_MODES: Final = (NetworkMode.NONE, NetworkMode.LOOPBACK, NetworkMode.HOST)


@dataclass(frozen=True, slots=True)
class Learned:
    """A profile as far as it is learned. Paths as profiles write them. marks: path or variable -> what it is.

    withheld: what was used and is not granted, with the reason; line by line, for whoever reads the profile.
    """

    name: str
    commands: tuple[str, ...] = ()
    execute: frozenset[str] = frozenset()
    read: frozenset[str] = frozenset()
    write: frozenset[str] = frozenset()
    tmpfs: frozenset[str] = frozenset()
    hide: frozenset[str] = frozenset()
    proc: str = "processes"
    network: NetworkMode = NetworkMode.NONE
    peers: frozenset[str] = frozenset()
    dns: bool = False
    allow: frozenset[str] = frozenset()
    delegate: frozenset[str] = frozenset()
    keep: frozenset[str] = frozenset()
    exec: str = "once"
    chdir: str | None = "/"
    marks: Mapping[str, str] = field(default_factory=dict)
    withheld: tuple[str, ...] = ()

    def merged(self, other: Learned) -> Learned:
        """Return what lets through what either does."""
        return Learned(
            name=self.name,
            commands=tuple(dict.fromkeys((*self.commands, *other.commands))),
            **{
                name: getattr(self, name) | getattr(other, name)
                for name in ("execute", "read", "write", "tmpfs", "hide", "allow", "delegate", "keep", "peers")
            },
            dns=self.dns or other.dns,
            proc=max(self.proc, other.proc, key=("processes", "full").index),
            network=max(self.network, other.network, key=_MODES.index),
            exec=min(self.exec, other.exec),  # allow, once
            chdir=self.chdir if self.chdir == other.chdir else None,
            marks={**self.marks, **other.marks},
            withheld=tuple(dict.fromkeys((*self.withheld, *other.withheld))),
        )


def learn(
    recording: Recording, command: str, name: str, caller: Caller, host: Host, mentions: Callable[[str], bool]
) -> Learned:  # fmt: skip
    """Return the smallest profile in which what was recorded works again.

    mentions: whether one of the programs that ran holds that text; a variable that none names is not kept.
    """
    lists = _Paths(recording, caller, host)
    lists.sort_out()
    allow, unheld = _allowed(recording)
    keep, secret_variables = _kept(caller, mentions)
    network, peers = _network(recording, host)
    inside = any(path.startswith("{cwd}") for each in (lists.execute, lists.read, lists.write) for path in each)
    return Learned(
        name=name,
        commands=(command,),
        execute=frozenset(lists.execute),
        read=frozenset(lists.read - lists.execute),
        write=frozenset(lists.write),
        tmpfs=frozenset(lists.tmpfs),
        proc="full" if lists.full_proc else "processes",
        network=network,
        peers=frozenset(str(peer) for peer in peers if peer.port != _DOMAIN),
        dns=any(peer.port == _DOMAIN for peer in peers),
        allow=allow,
        # With none named, close-on-exec could not even be cleared; what this one passes, a program names on purpose.
        delegate=frozenset(recording.protocols | ({"pass-fds"} if recording.execs > 1 else set())),
        keep=keep,
        exec="once" if recording.execs <= 1 else "allow",
        chdir=None if inside or lists.starts_inside() else "/",
        marks=lists.marks | dict.fromkeys((), "network"),
        withheld=(*lists.withheld, *unheld, *secret_variables, *_told(recording)),
    )


class _Paths:
    """Sorts what was used into the lists of a view."""

    def __init__(self, recording: Recording, caller: Caller, host: Host) -> None:
        self._recording, self._caller, self._host = recording, caller, host
        self.execute: set[str] = set(_SYSTEM)
        self.read: set[str] = set(_ALWAYS)
        self.write: set[str] = set()
        self.tmpfs: set[str] = set()
        self.marks: dict[str, str] = {}
        self.withheld: list[str] = []
        self.full_proc = False
        self._cwd = "" if caller.cwd in ("", "/") or places.is_whole_home(caller.cwd, caller.home) else caller.cwd

    def starts_inside(self) -> bool:
        """Tell whether the folder that the command starts in is of the view."""
        return any(places.below(self._caller.cwd, self._whole(path)) is not None for path in (*self.read, *self.write))

    def _whole(self, text: str) -> str:
        path = text.removeprefix("-")
        return path.replace("{home}", self._caller.home, 1).replace("{cwd}", self._caller.cwd, 1)

    def sort_out(self) -> None:
        """Fill the lists."""
        read, execute, write = set[str](), set[str](), set[str]()
        for said, use in self._recording.uses.items():
            path = self._outside(said)
            if path in (self._caller.tmp, *places.TEMPORARY):
                self._change(path, write)  # whoever looks for it wants it to be there
            if self._is_given(path, use):
                continue
            if (use & Use.EXECUTE and path in self._recording.programs) or self._is_library(path, use):
                execute.add(path)
            elif use & (Use.READ | Use.ENTER) or (use & Use.LOOK and not self._host.is_folder(path)):
                read.add(path)
            if use & _CHANGES and self._host.exists(path):
                write.add(path)
        for program in self._recording.programs:
            if not self._recording.is_made(program) and not self._is_given(program, Use.EXECUTE):
                execute.add(program)
        made_programs = [path for path in self._recording.programs if self._recording.is_made(path)]
        execute |= {self._first_changed(path) for path in made_programs} - {""}
        for folder in self._recording.changed:
            self._change(folder, write)
        if self._cwd and any(places.below(path, self._cwd) is not None for path in read | execute | write):
            # A project's folder is one thing: what lies in it is read together.
            (execute if any(places.below(path, self._cwd) is not None for path in execute) else read).add(self._cwd)
        self._list("read", self.read, self._folded(read, read - {self._cwd}), write)
        self._list("execute", self.execute, self._folded(execute), ())
        self._list("write", self.write, self._folded(write), ())

    def _outside(self, path: str) -> str:
        """Where a path leads, if that is another kind of place: /usr/lib has links to /etc, /etc one to /proc."""
        real = self._host.real(path)
        if any(places.below(real, folder) is not None for folder in ("/proc", "/dev")):
            return real
        return real if places.is_system(path) and not places.is_system(real) else path

    def _first_changed(self, path: str) -> str:
        """The folder, there before, in which the run has made what leads to a program."""
        return next((folder for folder in up_from(posixpath.dirname(path)) if not self._recording.is_made(folder)), "")

    def _is_library(self, path: str, use: Use) -> bool:
        name = posixpath.basename(path)
        return bool(use & Use.READ) and (name.endswith(".so") or ".so." in name)

    def _is_given(self, path: str, use: Use) -> bool:
        """Whether a path needs no line: the system's, the kernel's, or what every view has."""
        if places.below(path, "/proc") is not None:
            if not _PROC_OF_PROCESSES.match(path) and use & (Use.READ | Use.LOOK):
                self.full_proc = True
            return True
        if places.below(path, "/dev") is not None:
            if not _GIVEN_DEVICES.match(path) and use & (Use.READ | Use.WRITE):
                self.withheld.append(f"{path} is a device that no view has: grant a descriptor of it")
            return True
        return places.is_system(path) and self._opt(path)

    def _opt(self, path: str) -> bool:
        rest = places.below(path, "/opt")
        if rest:
            self.execute.add(f"-/opt/{rest.split('/')[0]}")
        return True

    def _change(self, folder: str, write: set[str]) -> None:
        """A folder in which names were made: what is temporary, and a whole home, becomes an empty one."""
        home = self._caller.home
        for place in dict.fromkeys((self._caller.tmp, *places.TEMPORARY)):
            if places.below(folder, place) == "":
                self.tmpfs.add("{tmp}" if place == self._caller.tmp and place not in places.TEMPORARY else place)
                return
        if self._is_given(folder, Use.MAKE):
            if places.is_system(folder):
                self.withheld.append(f"{folder} is the system's: what was made in it is not")
            return
        if places.is_whole_home(folder, home) or folder in places.NEVER_WHOLE:
            if folder == home:
                self.tmpfs.add("{home}")
                self.marks["{home}"] = "empty, and what is made in it is gone at the end"
            else:
                self.withheld.append(f"write {folder}: what was made in it would take the whole of it")
            return
        write.add(folder)

    def _folded(self, paths: Collection[str], ways: Collection[str] = ()) -> set[str]:
        """Return the paths with folders in place of the many that lie in them."""
        # Of those only names are needed: they are there, and what lies in them comes by itself or not.
        found = {self._cached(path) for path in paths if not self._is_only_way(path, paths, ways)}
        changed = True
        while changed:
            changed = False
            children: dict[str, set[str]] = {}
            for path in found:
                children.setdefault(posixpath.dirname(path), set()).add(path)
            for folder, inside in children.items():
                if (
                    len(inside) >= places.MANY
                    and folder not in found
                    and places.may_be_whole(folder, self._caller.home, self._caller.cwd)
                ):
                    found.add(folder)
                    changed = True
            found = {path for path in found if not any(step in found for step in up_from(posixpath.dirname(path)))}
        return found

    def _is_only_way(self, path: str, paths: Collection[str], ways: Collection[str]) -> bool:
        """Whether a folder was listed or entered that is not shown as a whole: it leads to others, or is too much."""
        if path == self._caller.home != "/":
            self.tmpfs.add("{home}")
        if self._caller.cwd and places.below(self._caller.cwd, path):
            return True
        used = self._recording.uses.get(path, Use(0)) if path in ways else Use(0)
        if used and not used & ~(Use.LOOK | Use.ENTER) and any(places.below(other, path) for other in paths):
            return True
        return places.is_whole_home(path, self._caller.home) or (
            path in places.NEVER_WHOLE and self._host.is_folder(path)
        )

    def _cached(self, path: str) -> str:
        cache = places.cache(path, self._caller.home)
        return cache if cache and posixpath.basename(cache) != ".cache" and self._host.exists(cache) else path

    def _list(self, name: str, target: set[str], paths: Iterable[str], covered: Collection[str]) -> None:
        home = self._caller.home
        for path in sorted(paths):
            secret, speaks = places.secret(path, home), places.speaks_for(path)
            short = places.shortened(path, home, self._cwd)
            if any(step in covered for step in up_from(path)):
                continue
            if secret or speaks:
                what = f"a secret ({secret})" if secret else f"a socket that speaks for you ({speaks})"
                self.withheld.append(f"filesystem.{name} = [{json.dumps(short)}]: {what}")
                continue
            if places.cache(path, home):
                self.marks[short] = "a cache: what one run leaves there, the next one trusts"
            target.add(short if path == self._cwd or short.startswith("{cwd}/") else f"-{short}")
            real = self._host.real(path)
            if real != path and not places.is_system(real) and not any(step in paths for step in up_from(real)):
                target.add(f"-{places.shortened(real, home, self._cwd)}")


def _allowed(recording: Recording) -> tuple[frozenset[str], list[str]]:
    """Return the groups and calls that the filter has to allow besides @base, and what it cannot."""
    base = syscalls.expand(["@base"])
    instead = {"clone3": "clone", "openat2": "openat"}
    used = {instead.get(name, name) for name in recording.calls} - base
    ordinary = [group for group in syscalls.GROUPS.values() if not group.refused_by_default]
    found: set[str] = set()
    unheld: list[str] = []
    for name in sorted(used):
        if name not in NUMBERS or name in syscalls.ENOSYS_ALWAYS:
            if name in recording.worked:
                unheld.append(f"{name}: no profile can allow it")
            continue
        groups = [group for group in ordinary if name in group.members]
        if groups:
            found.add(groups[0].name)
        elif name in recording.worked:
            unheld.append(f'filter.allow = ["{name}"]: {syscalls.reason_for(name)}')
    members = {word: syscalls.expand([word]) for word in found}
    smaller = {word for word in found if any(members[word] < members[other] for other in found)}
    return frozenset(found - smaller), unheld


def _kept(caller: Caller, mentions: Callable[[str], bool]) -> tuple[frozenset[str], list[str]]:
    base = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "COLORTERM", "NO_COLOR")
    ours = {"PWD", "OLDPWD", "SHLVL", "_"}
    names = [name for name in caller.environ if name not in base and not name.startswith("LC_") and name not in ours]
    used = sorted(name for name in names if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{2,}", name) and mentions(name))
    withheld = [name for name in used if places.is_secret_variable(name) or name in places.SPEAKING_VARIABLES]
    lines = []
    for name in withheld:
        what = places.SPEAKING_VARIABLES.get(name, "a secret, by its name")
        lines.append(f'environment.keep = ["{name}"]: {what}')
    return frozenset(used) - frozenset(withheld), lines


def _network(recording: Recording, host: Host) -> tuple[NetworkMode, list[Address]]:
    """Return the smallest network, and who is reached beside it: what was bound here before is our own."""
    ports = {address.port for address in recording.bound}
    peers: list[Address] = []
    mode = NetworkMode.LOOPBACK if recording.bound else NetworkMode.NONE
    for address in sorted(recording.connected, key=str):
        own = address.is_loopback or address.is_any
        if own and (address.port in ports or 0 in ports or not host.listens(address.port)):
            mode = max(mode, NetworkMode.LOOPBACK, key=_MODES.index)
        elif address.protocol:
            peers.append(address)
        else:
            mode = NetworkMode.HOST
    return (mode, []) if mode is NetworkMode.HOST else (mode, peers)


def _told(recording: Recording) -> Iterator[str]:
    for what in sorted(recording.leaked):
        yield f"descriptor {what}: open across an exec that did not name it, and so closed there"
    if recording.unseen:
        yield f"{recording.unseen} processes were more than could be looked at: what they used is missing here"


# --- text -------------------------------------------------------------------------------------------------------------


def as_text(learned: Learned) -> str:
    """Return the profile as TOML, with comments on what a reader should look at."""
    return "\n".join(_lines(learned)) + "\n"


def _lines(learned: Learned) -> Iterator[str]:
    yield f"# {learned.name}: written by `sandbox learn`: what was used, needed or not. Read it before you trust it."
    for command in learned.commands:
        yield f"# learned from: {_one_line(command)}"
    for line in learned.withheld:
        yield f"# used, and not granted: {_one_line(line)}"
    yield f"description = {json.dumps(f'learned: what {learned.name} has used')}"
    yield 'extends = ["base"]'
    yield from ("", "[process]", 'tty = "auto"')
    yield f'exec = "{learned.exec}"'
    if learned.chdir is not None:
        yield f"chdir = {json.dumps(learned.chdir)}"
    if learned.keep:
        yield from ("", "[environment]", f"keep = {_inline(learned.keep)}")
    yield from ("", "[filesystem]", f'proc = "{learned.proc}"')
    for name in ("execute", "read", "write", "tmpfs", "hide"):
        paths = getattr(learned, name)
        if paths:
            yield from _path_list(name, _uncovered(paths), learned.marks)
    if learned.network is not NetworkMode.NONE or learned.peers or learned.dns:
        yield from ("", "[network]", f'mode = "{learned.network}"')
    if learned.peers:
        yield "# The addresses that were met; a name in their place is looked up at each start."
        yield f"allow = {_inline(learned.peers)}"
    if learned.dns:
        yield "dns = true"
    if learned.delegate:
        yield from ("", "[descriptors]", f"delegate = {_inline(learned.delegate)}")
    yield from ("", "# Namespaces and the view hold what an older kernel's Landlock does not.")
    yield from ("[landlock]", 'optional = ["landlock"]', "", "[filter]", f"allow = {_inline(learned.allow)}")


def _uncovered(paths: Collection[str]) -> list[str]:
    plain = {path.removeprefix("-") for path in paths}
    return sorted(
        path for path in paths if not any(step in plain for step in up_from(posixpath.dirname(path.removeprefix("-"))))
    )


def _path_list(name: str, paths: Iterable[str], marks: Mapping[str, str]) -> Iterator[str]:
    yield f"{name} = ["
    for path in paths:
        mark = marks.get(path.removeprefix("-"))
        yield f"  {json.dumps(path, ensure_ascii=False)}," + (f"  # {mark}" if mark else "")
    yield "]"


def _inline(words: Iterable[str]) -> str:
    return "[" + ", ".join(json.dumps(word) for word in sorted(words)) + "]"


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


_TABLES: Final = {
    "description": (), "extends": (), "process": ("tty", "exec", "chdir"), "environment": ("keep",),
    "filesystem": ("proc", "execute", "read", "write", "tmpfs", "hide"), "network": ("mode", "allow", "dns"),
    "descriptors": ("delegate",), "landlock": ("optional",), "filter": ("allow",),
}  # fmt: skip


def from_text(text: str, name: str) -> Learned:
    """Return what a profile that was learned before says.

    Raises: UsageError if it holds what is not learned: to write it anew would lose that.
    """
    data = tomllib.loads(text)
    for key, table in data.items():
        inner = set(table) - set(_TABLES.get(key, ())) if isinstance(table, dict) else set()
        if key not in _TABLES or inner:
            unknown = f"{key}.{min(inner)}" if inner else key
            raise UsageError(name, f"it holds {unknown}, which learn does not write", "name another file: -o FILE")
    files, process = data.get("filesystem", {}), data.get("process", {})
    comments = re.findall(r"^# (learned from|used, and not granted): (.*)$", text, re.MULTILINE)
    marks = {path.removeprefix("-"): mark for path, mark in re.findall(r'^  "([^"]*)",  # (.*)$', text, re.MULTILINE)}
    return Learned(
        name=name,
        commands=tuple(what for kind, what in comments if kind == "learned from"),
        **{key: frozenset(files.get(key, ())) for key in ("execute", "read", "write", "tmpfs", "hide")},
        proc=files.get("proc", "full"),
        network=NetworkMode(data.get("network", {}).get("mode", "none")),
        peers=frozenset(data.get("network", {}).get("allow", ())),
        dns=data.get("network", {}).get("dns", False),
        allow=frozenset(data.get("filter", {}).get("allow", ())),
        delegate=frozenset(data.get("descriptors", {}).get("delegate", ())),
        keep=frozenset(data.get("environment", {}).get("keep", ())),
        exec=process.get("exec", "allow"),
        chdir=process.get("chdir"),
        marks=marks,
        withheld=tuple(what for kind, what in comments if kind != "learned from"),
    )


def size_of(learned: Learned) -> int:
    """Return how many paths, variables, protocols and groups it names."""
    counted = {each.name for each in fields(learned)} & {
        "execute", "read", "write", "tmpfs", "hide", "allow", "delegate", "keep", "peers",
    }  # fmt: skip
    return sum(len(getattr(learned, name)) for name in counted)


def named(learned: Learned, name: str) -> Learned:
    """Return the same under another name."""
    return replace(learned, name=name)
