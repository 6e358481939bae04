"""Two profiles: what a program can do under the second that it cannot under the first. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sandbox import limits, places, syscalls
from sandbox.build import grant_label, keeps
from sandbox.filesystem import Entry, Kind, Proc, Rights, View, entries
from sandbox.profile import ExecPolicy, NetworkMode, Profile, ScmRights, StreamsPolicy, Tty
from sandbox.profile_format import grant_lines


@dataclass(frozen=True, slots=True)
class More:
    """One thing that can be done more. area: the profile's table."""

    area: str
    what: str

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.area}: {self.what}"


_RIGHTS: Final = ((Rights.READ, "read"), (Rights.WRITE, "write"), (Rights.EXECUTE, "execute"))
_NETWORKS: Final = (NetworkMode.NONE, NetworkMode.LOOPBACK, NetworkMode.VETH, NetworkMode.HOST)
_PROCS: Final = (Proc.PROCESSES, Proc.FULL, Proc.WRITABLE)
_TERMINALS: Final = (Tty.NONE, Tty.AUTO, Tty.PRIVATE, Tty.INHERIT)
_STREAMS: Final = (StreamsPolicy.RELAY, StreamsPolicy.SAFE, StreamsPolicy.RAW)


def more(first: Profile, second: Profile) -> tuple[More, ...]:
    """Return what the second profile lets a program do and the first does not.

    Both as they are for one caller, or both with their placeholders.
    """
    return tuple(
        More(area, what)
        for area, lines in (
            ("filesystem", _files(first, second)),
            ("network", _network(first, second)),
            ("namespaces", (f"the host's {name}" for name in second.share if name not in first.share)),
            ("filter", _calls(first, second)),
            ("process", _process(first, second)),
            ("environment", _environment(first, second)),
            ("descriptors", _descriptors(first, second)),
            ("grants", _grants(first, second)),
            ("limits", _limits(first, second)),
            ("landlock", _landlock(first, second)),
        )
        for what in lines
    )


def _said(path: str) -> str:
    return path[1:] if path.startswith("/{") else path


def _files(first: Profile, second: Profile) -> Iterator[str]:
    before, after = entries(first.filesystem), entries(second.filesystem)
    hosts = first.filesystem.view is View.HOST
    if second.filesystem.view is View.HOST and not hosts:
        yield "see the names of the whole tree"
    if _PROCS.index(second.filesystem.proc) > _PROCS.index(first.filesystem.proc):
        yield f"/proc: {second.filesystem.proc}"
    for entry in after:
        kind, rights = _at(before, entry.path)
        if entry.kind is Kind.TMPFS:
            if kind is None:
                yield f"write {_said(entry.path)}, an empty folder that is gone at the end"
            continue
        new = entry.rights & ~(rights if kind in (Kind.BIND, Kind.COPY) else Rights(0))
        if entry.kind is Kind.COPY and kind is Kind.COPY:
            new = Rights(0)
        words = [word for right, word in _RIGHTS if right in new]
        if words:
            lasting = ", changes gone at the end" if entry.kind is Kind.COPY else ""
            yield f"{', '.join(words)} {_said(entry.path)}{lasting}"
    for entry in before:
        if entry.kind in (Kind.HIDE, Kind.TMPFS):
            kind, rights = _at(after, entry.path)
            if kind is Kind.BIND and not any(other.path == entry.path for other in after):
                yield f"read {_said(entry.path)}, which was {'hidden' if entry.kind is Kind.HIDE else 'empty'}"


def _at(found: tuple[Entry, ...], path: str) -> tuple[Kind | None, Rights]:
    above = [entry for entry in found if places.below(path, entry.path) is not None]
    if not above:
        return None, Rights(0)
    hidden = next((entry for entry in above if entry.kind is Kind.HIDE), None)
    nearest = hidden or above[-1]
    return nearest.kind, nearest.rights


def _network(first: Profile, second: Profile) -> Iterator[str]:
    a, b = first.network, second.network
    if _NETWORKS.index(b.mode) > _NETWORKS.index(a.mode):
        rules = ", as far as its rules say" if b.allow or b.bind else ", and all that it reaches"
        yield {
            NetworkMode.LOOPBACK: "a loopback of its own",
            NetworkMode.VETH: f"a network of its own behind the host's{rules}",
            NetworkMode.HOST: f"the host's network{rules}",
            NetworkMode.NONE: "",
        }[b.mode]
    if a.mode is b.mode and a.allow and not b.allow and b.mode in (NetworkMode.HOST, NetworkMode.VETH):
        yield "reach whoever there is: the rules are gone"
    if a.mode is NetworkMode.HOST and not a.allow:
        return
    yield from (f"reach {rule}" for rule in b.allow if rule not in a.allow)
    yield from (f"be reached at {rule}" for rule in b.bind if rule not in a.bind)
    if b.dns and not a.dns:
        yield "ask resolvers"


def _calls(first: Profile, second: Profile) -> Iterator[str]:
    before = syscalls.expand(first.filter.allow)
    new = syscalls.expand(second.filter.allow) - before
    for group in syscalls.GROUPS.values():
        own = sorted(name for name in group.members if name in new)
        if not own:
            continue
        new -= frozenset(own)
        why = syscalls.reason_for(own[0]) or group.purpose
        yield f"{', '.join(own)} ({group.name}: {why})"


def _process(first: Profile, second: Profile) -> Iterator[str]:
    a, b = first.process, second.process
    if b.exec is ExecPolicy.ALLOW and a.exec is ExecPolicy.ONCE:
        yield "execute other programs"
    if _TERMINALS.index(b.tty) > _TERMINALS.index(a.tty):
        yield f"a terminal: {b.tty}"
    if _STREAMS.index(b.streams) > _STREAMS.index(a.streams):
        yield f"streams: {b.streams}"
    if b.notify and not a.notify:
        yield "speak to the caller's service manager"
    if (b.user, b.group) != (a.user, a.group):
        yield f"run as user {b.user or 'the caller'}, group {b.group or 'its own'}"
    for name in ("nice", "oom_score_adj"):
        old, new = getattr(a, name), getattr(b, name)
        if new is not None and (old is None or new < old) and new < 0:
            yield f"{name} {new}"


def _environment(first: Profile, second: Profile) -> Iterator[str]:
    for pattern in second.environment.keep:
        if not any(keeps(known, pattern.rstrip("*")) or known == pattern for known in first.environment.keep):
            yield f"see the variable {pattern}"
    before = dict(first.environment.set)
    for name, value in second.environment.set:
        if before.get(name) != value:
            yield f"see {name}={value}"


def _descriptors(first: Profile, second: Profile) -> Iterator[str]:
    a, b = first.descriptors, second.descriptors
    for name in b.delegate:
        if name not in a.delegate:
            yield f"pass descriptors at an exec by {name}"
    if b.scm_rights is ScmRights.ALLOW and a.scm_rights is ScmRights.DENY:
        yield "send and receive descriptors over Unix sockets"
    if a.strict and not b.strict:
        yield "make descriptors without close-on-exec"
    if a.reserve_stdio and not b.reserve_stdio:
        yield "put others onto 0, 1 and 2"


def _grants(first: Profile, second: Profile) -> Iterator[str]:
    before = {grant.name: grant for grant in first.grants}
    for grant in second.grants:
        if before.get(grant.name) != grant:
            yield f"{grant_label(grant)} ({', '.join(grant_lines(grant))})"


def _limits(first: Profile, second: Profile) -> Iterator[str]:
    for name in limits.NAMES:
        old, new = getattr(first.limits, name), getattr(second.limits, name)
        if old is not None and (new is None or new > old):
            said = "unlimited" if new is None else limits.format(name, new)
            yield f"{name}: {said}, not {limits.format(name, old)}"


def _landlock(first: Profile, second: Profile) -> Iterator[str]:
    if first.landlock.files and not second.landlock.files:
        yield "mounts of its own, where the filter lets it: Landlock does not govern files"
    new = [name for name in second.landlock.optional if name not in first.landlock.optional]
    if new and "landlock" not in first.landlock.optional:
        yield f"start where the kernel lacks {', '.join(new)}"
