"""A plan's steps for others to carry out: for bare.c all, for bubblewrap and firejail what they have options for.

The view is worked out here as the launcher does it while it starts (sandbox/launcher/view.c): what is missing, what is
a symlink, what another entry shows already.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from sandbox.build import keeps
from sandbox.plan import MountFlag, MountKind, Op, OpCode, Plan

READ_ONLY, NO_SUID, NO_DEVICES, NO_EXECUTE = 1, 2, 4, 8  # linux/mount.h: MOUNT_ATTR_*
PLAIN: Final = NO_SUID | NO_DEVICES
TMPFS_KIB: Final = 64 << 10  # where the op does not say
DEVICES: Final = ("null", "zero", "full", "random", "urandom")
RIGHTS: Final = MountFlag.WRITE | MountFlag.EXECUTE


@dataclass(frozen=True, slots=True)
class Place:
    """One entry of the view at its real path; link: the declared path, where that is another."""

    op: Op
    path: str
    kind: MountKind
    flags: int
    link: str = ""

    @property
    def is_folder(self) -> bool:
        """What is at the path on the host."""
        return os.path.isdir(self.path)


def parts(path: str) -> tuple[str, ...]:
    """Return a path's parts, by which entries are sorted."""
    return PurePosixPath(path).parts


def places_of(plan: Plan) -> list[Place]:
    """Return what the launcher puts into the view, in its order; then the symlinks that it makes."""
    found: dict[str, Place] = {}
    links = []
    for op in plan.only(OpCode.MOUNT):
        declared = os.fsdecode(op.data)
        kind = MountKind(op.a)
        real = os.path.realpath(declared) if kind in {MountKind.BIND, MountKind.HIDE, MountKind.TMPFS} else declared
        if op.flags & MountFlag.OPTIONAL and not os.path.exists(real):
            continue
        place = Place(op, real, kind, op.flags, declared if real != declared else "")
        if place.link:
            links.append(place)
        before = found.get(real)
        if before is not None:
            kind = max(before.kind, kind)
            place = replace(place, kind=kind, flags=before.flags | place.flags & RIGHTS)
        found[real] = place
    shown: list[Place] = []
    for place in sorted(found.values(), key=lambda place: parts(place.path)):
        above = above_of(shown, place.path)
        same = above is not None and above.kind is MountKind.BIND and not (above.flags ^ place.flags) & RIGHTS
        if not (place.kind is MountKind.BIND and same) and not (place.kind is MountKind.HIDE and above is None):
            shown.append(replace(place, link=""))
    return shown + links


def above_of(shown: list[Place], path: str) -> Place | None:
    """Return the nearest entry that a path lies in."""
    holders = [place for place in shown if parts(path)[: len(parts(place.path))] == parts(place.path)]
    return max(holders, key=lambda place: len(parts(place.path)), default=None)


def attributes(flags: int) -> int:
    """Return mount_setattr(2)'s attributes for an entry's flags."""
    return PLAIN | (0 if flags & MountFlag.WRITE else READ_ONLY) | (0 if flags & MountFlag.EXECUTE else NO_EXECUTE)


def variables_of(plan: Plan, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that the command gets; variables with spaces, which bare.c cannot read, are left out."""
    patterns = [os.fsdecode(op.data) for op in plan.only(OpCode.ENV_KEEP)]
    kept = {name: text for name, text in environment.items() if any(keeps(pattern, name) for pattern in patterns)}
    for op in plan.only(OpCode.ENV_SET):
        name, _, text = os.fsdecode(op.data).partition("=")
        kept[name] = text
    return {name: text for name, text in kept.items() if not text.split()[1:]}


class Bare:
    """The lines of bare.c's file."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.made = {"/"}

    def text(self) -> str:
        """Return the file; filters are written beside it."""
        return "\n".join([*self._init(), *self._child()]) + "\n"

    def _init(self) -> Iterator[str]:
        flags = 0
        for op in self.plan.only(OpCode.NAMESPACE):
            flags |= op.a
        yield f"namespaces {flags:#x}"
        yield f"user {os.geteuid()} {os.getegid()}"
        yield from (f"hostname {os.fsdecode(op.data)}" for op in self.plan.only(OpCode.HOSTNAME))
        yield "root"
        places = places_of(self.plan)
        for index, place in enumerate(places):
            above = above_of(places[:index], os.path.dirname(place.path))
            if place.link:
                yield f"link {place.path} {place.link[1:]}"
            elif place.kind is not MountKind.HIDE and (above is None or above.kind is not MountKind.BIND):
                yield from self._folders(os.path.dirname(place.path))
                yield f"{'file' if place.kind is MountKind.BIND and not place.is_folder else 'folder'} {place.path[1:]}"
                self.made.add(place.path)
            yield from self._mount(place) if not place.link else ()
        yield "enter"
        yield "capabilities"

    def _folders(self, path: str) -> Iterator[str]:
        if path not in self.made:
            self.made.add(path)
            yield from self._folders(os.path.dirname(path))
            yield f"folder {path[1:]}"

    def _mount(self, place: Place) -> Iterator[str]:
        name, wanted = place.path[1:], attributes(place.flags)
        match place.kind:
            case MountKind.BIND:
                yield f"bind {wanted} {place.path} {name}"
            case MountKind.TMPFS:
                yield f"tmpfs {wanted} {place.op.b:o} {place.op.c or TMPFS_KIB} {name}"
            case MountKind.PROC:
                yield f"proc {attributes(place.flags & MountFlag.WRITE)} {name}"
            case MountKind.HIDE:
                yield f"hide {'folder' if place.is_folder else 'file'} {name}"
            case MountKind.DEV:
                yield from self._devices(terminals=bool(place.flags & MountFlag.TERMINALS))
            case MountKind.COPY:
                raise NotImplementedError(place.path)

    @staticmethod
    def _devices(*, terminals: bool) -> Iterator[str]:
        for name in (*DEVICES, *(["tty"] if terminals else [])):
            yield f"file dev/{name}"
            yield f"bind {READ_ONLY | NO_SUID | NO_EXECUTE} /dev/{name} dev/{name}"
        yield "link /proc/self/fd dev/fd"
        yield from (f"link /proc/self/fd/{n} dev/{name}" for n, name in enumerate(("stdin", "stdout", "stderr")))
        if terminals:
            yield "folder dev/pts"
            yield "devpts dev/pts"
            yield "link pts/ptmx dev/ptmx"

    def _child(self) -> Iterator[str]:
        yield from (f"umask {op.a:#o}".replace("0o", "0") for op in self.plan.only(OpCode.UMASK))
        yield from (f"chdir {os.fsdecode(op.data)}" for op in self.plan.only(OpCode.CHDIR))
        yield from (f"variable {name}={text}" for name, text in variables_of(self.plan, os.environ).items())
        yield "reset"
        yield from (f"limit {op.a} {op.b | op.c << 32}" for op in self.plan.only(OpCode.RLIMIT))
        yield "no_new_privs"
        for op in self.plan.only(OpCode.RULESET):
            yield f"ruleset {op.a | op.b << 32} {op.c & 0xFFFF} {op.c >> 16}"
        for op in self.plan.only(OpCode.PATH_RULE):
            yield f"rule {op.a | op.b << 32} {os.fsdecode(op.data)}"
        yield from ("restrict" for _ in self.plan.only(OpCode.RESTRICT))
        yield from ("gate" for _ in self.plan.only(OpCode.GATE))
        for index, op in enumerate(self.plan.only(OpCode.FILTER)):
            file = self.folder / f"filter{index}"
            file.write_bytes(op.data)
            yield f"filter {file}"
        yield f"exec {os.fsdecode(self.plan.only(OpCode.COMMAND)[0].data)}"
