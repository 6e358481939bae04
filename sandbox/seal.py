"""Sealing: a profile and a command become one executable, launcher and template; and what such a file holds.

A template is made by the same way down as a plan, for a caller whose folders are placeholders; what cannot wait for the
start is refused here. What the start adds is sandbox/launcher/template.c's.
"""

from __future__ import annotations

import os
import shlex
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sandbox import carried, landlock, limits, ops, walls, wire
from sandbox.build import build, child_path, filter_policy, keeps
from sandbox.caller import Caller
from sandbox.carried import LISTEN_FDNAMES, LISTEN_FDS, LISTEN_PID
from sandbox.errors import GrantError, PlanError, SandboxError, UsageError
from sandbox.explain import explain
from sandbox.filesystem import Entry, FilesystemPolicy, Kind, Rights, View, entries, normal, split_optional
from sandbox.grants import (
    ConnectGrant,
    CopyGrant,
    DatagramGrant,
    DirectoryGrant,
    FileGrant,
    Grant,
    InheritGrant,
    ListenGrant,
    SecretGrant,
    is_activated,
    is_stored,
    number_of,
    variable_for,
)
from sandbox.landlock import FileRight
from sandbox.mounts import view_ops
from sandbox.plan import MountKind, Namespace, Op, OpCode, Plan
from sandbox.profile import PATH_LISTS, NetworkMode, NetworkPolicy, Profile, SharedNamespace, numbered
from sandbox.profile_format import format_profile
from sandbox.resolve import Additions, for_caller
from sandbox.template import (
    ACTIVATED,
    SCHEDULING_CALLERS_NICE,
    SCHEDULING_CALLERS_POLICY,
    STAND_INS,
    VARIES,
    EntryBit,
    EntryKind,
    Item,
    ItemCode,
    LimitBit,
    Line,
    Template,
    Varying,
    ViewBit,
    as_profile,
    decode,
    encode,
    holds_placeholder,
    marked,
)

SEAL_VERSION: Final = 1
_MAGIC: Final = b"sandbox-sealed:\n"
_SEAL: Final = struct.Struct("<16s10Q")  # struct seal of seal.c
_CHECKSUM_AT: Final = 16 + 3 * 8
_NOT_YET: Final = 1 << 20  # from here up: numbers that only the start can tell
_PARENT: Final = 0
_ENTRIES: Final = {
    "read": (EntryKind.BIND, Rights.READ),
    "write": (EntryKind.BIND, Rights.READ | Rights.WRITE),
    "execute": (EntryKind.BIND, Rights.READ | Rights.EXECUTE),
    "tmpfs": (EntryKind.TMPFS, Rights.READ | Rights.WRITE),
    "private": (EntryKind.COPY, Rights.READ | Rights.WRITE),
    "hide": (EntryKind.HIDE, Rights(0)),
}


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a sealed file holds besides the launcher: the template, what it says of itself, the profile as TOML."""

    template: Template
    explanation: str
    profile: str


def seal_profile(
    loaded: Profile, added: Additions, command: Sequence[str], *, landlock_abi: int, version: str
) -> Sealed:
    """Compile a profile, what the command line adds and a command into what a sealed file holds.

    loaded: as load() returns it, with its placeholders. command: may be empty; then the start's arguments are it.
    landlock_abi: of the kernel that it is made for; older ones refuse it.
    Raises: what build() raises, and UsageError, GrantError for what the start cannot resolve.
    """
    _refuse_unresolvable(loaded, added)
    caller = _stand_in(loaded, added, landlock_abi)
    profile = _with_stand_in_numbers(for_caller(loaded, caller, added))
    caller = _with_identity(caller, profile)
    _refuse_rewritten(profile)
    _refuse_unresolvable_network(profile.network)
    grants = numbered(profile)
    if profile.process.notify and filter_policy(profile, grants, landlock_abi).keeps_peers:
        reason = "with a udp grant no call may name an address, and sd_notify(3) does"
        raise UsageError("process.notify", reason, "leave notify or the grant out")
    # Where it starts is looked at when that is known.
    unlimited = replace(profile.limits, **dict.fromkeys(limits.CONTROLLERS))
    plan = build(
        replace(profile, process=replace(profile.process, chdir="/"), limits=unlimited), command or ["/"], caller
    )
    need = _least_abi(profile, landlock_abi) if plan.only(OpCode.RULESET) else 0
    lines = [
        Item(ItemCode.NEEDS, a=need, label="this file", hint="seal it on this kernel, or by --landlock-abi"),
        *_view_items(loaded, added, profile),
        *_start_items(profile, plan),
        *_limit_items(profile),
        *_command_items(profile, command, caller),
        *_adapted(profile, plan, command, searched=_is_searched(profile, command)),
    ]
    template = Template(tuple(sorted(lines, key=lambda line: line.code)))
    words = _words(profile, template, caller, need, version)
    heading = [f"# profile {loaded.name}, sealed by sandbox {version}", f"# command: {_shown(command)}", ""]
    text = as_profile("\n".join(heading) + format_profile(_without_numbers(profile)))
    return Sealed(template, as_profile("\n".join(words) + "\n"), text)


def _shown(command: Sequence[str]) -> str:
    return shlex.join(command).replace("\n", " ") if command else "the start's arguments"


def _stand_in(loaded: Profile, added: Additions, landlock_abi: int) -> Caller:
    """Return a caller whose folders are placeholders, and who may what only root may if the profile asks for that."""
    as_root = bool(added.user or loaded.process.user) or SharedNamespace.USER in {*loaded.share, *added.share}
    return Caller(
        environ={}, cwd=STAND_INS["cwd"], home=STAND_INS["home"], runtime_dir=STAND_INS["runtime_dir"],
        tmp=STAND_INS["tmp"], parent_pid=_PARENT, landlock_abi=landlock_abi, uid=0 if as_root else 1000,
        gid=0 if as_root else 1000, interactive=None,
    )  # fmt: skip


def _with_identity(caller: Caller, profile: Profile) -> Caller:
    owners = {g.owner: _numbers(f"grant {g.name}", g.owner) for g in profile.grants
              if isinstance(g, ListenGrant) and g.owner is not None}  # fmt: skip
    user, group = profile.process.user, profile.process.group
    if user is None and group is None:
        return replace(caller, owners=owners)
    return replace(caller, owners=owners, identity=_numbers("process.user", f"{user or ''}:{group or ''}"))


def _numbers(what: str, text: str) -> tuple[int, int]:
    """Return a user and a group that are given by numbers: names may be others' where the file is started."""
    user, _, group = text.partition(":")
    if not user.isdecimal() or not group.isdecimal():
        raise UsageError(what, f"{text!r}: a sealed launcher looks no names up", "give numbers: 1000:1000")
    return int(user), int(group)


def _paths_of(added: Additions) -> Iterator[str]:
    for name in PATH_LISTS:
        yield from getattr(added.filesystem, name)
    if added.chdir is not None:
        yield added.chdir
    for grant in added.grants:
        match grant:
            case FileGrant():
                yield grant.file
            case DirectoryGrant():
                yield grant.directory
            case CopyGrant():
                yield grant.copy
            case SecretGrant(variable=None):
                yield grant.secret
            case ListenGrant() | ConnectGrant() | DatagramGrant():
                yield grant.address.path


def _refuse_unresolvable(loaded: Profile, added: Additions) -> None:
    for path in _paths_of(added):
        if holds_placeholder("/" + path):
            raise UsageError(path, "it holds what a sealed launcher takes for a placeholder", "say it in a profile")
    for grant in (*loaded.grants, *added.grants):
        if isinstance(grant, ListenGrant | ConnectGrant | DatagramGrant) and grant.address.name is not None:
            raise GrantError(
                grant.name, f"host {grant.address.name}: a sealed launcher looks no names up", "give its address"
            )


def _refuse_unresolvable_network(network: NetworkPolicy) -> None:
    if network.mode is NetworkMode.VETH:
        raise UsageError(
            "network.mode", "veth: a sealed launcher makes no network, and joins none",
            'take mode "none" with allow, where the supervisor connects',
        )  # fmt: skip
    for rule in network.allow:
        if rule.name is not None:
            raise UsageError(
                f"network.allow: {rule}", f"host {rule.name}: a sealed launcher looks no names up", "give its addresses"
            )
    if network.dns and not network.resolvers:
        raise UsageError(
            "network.dns", "which resolvers a host has, a sealed launcher does not look up",
            'name them in the profile: resolvers = ["192.0.2.53"]',
        )  # fmt: skip


def _refuse_rewritten(profile: Profile) -> None:
    """A kept variable that carries numbers of inherited descriptors would have to be rewritten."""
    inherited = [grant for grant in profile.grants if isinstance(grant, InheritGrant)]
    for name in profile.environment.keep:
        if inherited and name in carried.NAMES:
            raise GrantError(
                inherited[0].name, f"the environment keeps {name}, which a sealed launcher does not rewrite",
                "set it in environment.set, or leave it out of environment.keep",
            )  # fmt: skip


def _with_stand_in_numbers(profile: Profile) -> Profile:
    """Give each descriptor that a service manager passes a number that no caller has."""

    def numbered_apart(at: int, grant: Grant) -> Grant:
        if isinstance(grant, InheritGrant) and grant.passed_as is not None:
            return replace(grant, passed_fd=_NOT_YET + at)
        return grant

    return replace(profile, grants=tuple(numbered_apart(at, grant) for at, grant in enumerate(profile.grants)))


def _without_numbers(profile: Profile) -> Profile:
    return replace(
        profile,
        grants=tuple(replace(g, passed_fd=None) if isinstance(g, InheritGrant) else g for g in profile.grants),
    )


def _least_abi(profile: Profile, landlock_abi: int) -> int:
    """Return the oldest ABI that holds the same: a newer one may have brought nothing that is used."""
    wanted = walls.wanted_ruleset(profile)
    kept = landlock.downgrade(wanted, landlock_abi)[0]
    return next(abi for abi in range(landlock_abi + 1) if landlock.downgrade(wanted, abi)[0] == kept)


def _view_items(loaded: Profile, added: Additions, profile: Profile) -> Iterator[Item]:
    """Yield the view as it is declared: which paths are the same, or lie in others, only the start can tell."""
    bits = ViewBit.PRIVATE if profile.filesystem.view is View.PRIVATE else ViewBit(0)
    bits |= ViewBit.STARTS_ELSEWHERE if profile.process.chdir is not None else ViewBit(0)
    bits |= ViewBit.MOUNTS if SharedNamespace.MOUNT not in profile.share else ViewBit(0)
    bits |= ViewBit.FILES if walls.governs_files(profile) else ViewBit(0)
    read, write, execute, device = _right_sets()
    hint = "show that folder, or start elsewhere: chdir"
    yield Item(ItemCode.VIEW, a=read | write << 16, b=execute | device << 16, c=bits, label="view", hint=hint)
    started_in = profile.process.chdir or STAND_INS["cwd"]
    found = [
        _entry(name, text, started_in, is_added=False)
        for name in PATH_LISTS
        for text in getattr(loaded.filesystem, name)
    ]
    found += [
        _entry(name, text, started_in, is_added=True) for name in PATH_LISTS for text in getattr(added.filesystem, name)
    ]
    yield from sorted(found, key=lambda item: item.data.split(b"/"))


def _right_sets() -> tuple[int, int, int, int]:
    """Return Landlock's rights of a path that is read, and what writing, executing, and a device add to them."""

    def of(path: str, rights: Rights) -> FileRight:
        return landlock.rights_of(Entry(path, Kind.BIND, rights))

    read, write = of("/x", Rights.READ), of("/x", Rights.WRITE)
    execute, device = of("/x", Rights.EXECUTE), of("/dev/x", Rights.WRITE)
    return int(read), int(write & ~read), int(execute & ~read), int(device & ~write)


def _entry(name: str, text: str, started_in: str, *, is_added: bool) -> Item:
    path, optional = split_optional(text)
    kind, rights = _ENTRIES[name]
    bits = (EntryBit.OPTIONAL if optional else EntryBit(0)) | (EntryBit.ADDED if is_added else EntryBit(0))
    if is_added:
        where = os.path.join(STAND_INS["cwd"], path)
    else:
        bits |= EntryBit.IS_HOME if path == "{home}" else EntryBit.IS_CWD if path == "{cwd}" else EntryBit(0)
        stand_ins = {**STAND_INS, "cwd": started_in}
        word, brace, rest = path.removeprefix("{").partition("}")
        where = stand_ins[word] + rest if path.startswith("{") and brace else path
    if holds_placeholder(where) and not holds_placeholder(normal(where)):
        raise UsageError(path, "it leaves a folder that only the start can tell", "give the path itself")
    hint = ops.MOUNT_HINTS[MountKind[kind.name]]
    if bits & EntryBit.IS_CWD:
        hint = "start in a project's folder, or name one by chdir when it is sealed"
    data = os.fsencode(where)
    return Item(ItemCode.ENTRY, a=kind, b=int(rights), c=int(bits), data=data, label=as_profile(where), hint=hint)


def _start_items(profile: Profile, plan: Plan) -> Iterator[Item]:
    passed = {g.fd: g for g in numbered(profile) if isinstance(g, InheritGrant) and g.passed_as is not None}
    for op in plan.only(OpCode.INHERIT):
        grant = passed.get(op.b)
        if grant is not None and grant.stored:
            yield _stored_item(profile, op, grant)
        elif grant is not None:
            hint = "start it by a socket unit, or systemd-socket-activate; see FileDescriptorName= of systemd.socket(5)"
            data = (grant.passed_as or "").encode()
            yield Item(ItemCode.ACTIVATED, a=op.a, c=op.c, flags=op.flags, data=data, label=op.label, hint=hint)
    if profile.process.notify:
        hint = "abstract names are not reached from a sandbox; leave notify out"
        yield Item(ItemCode.NOTIFY, label="NOTIFY_SOCKET", hint=hint)
    for name in (*carried.NAMES, f"{carried.GRANTED}*"):
        if _may_be_kept(profile, name):
            is_flags = name in carried.OF_JOBSERVERS
            yield Item(ItemCode.CARRIED, flags=int(is_flags), data=name.encode(), label=name)


def _limit_items(profile: Profile) -> Iterator[Item]:
    """Yield the limits for which the start looks for a cgroup, and what it does where it finds none."""
    own_users = Namespace.USER in walls.own_namespaces(profile)
    for found in limits.open_settings(profile.limits, user_namespace=own_users):
        resource, value = found.instead or (0, 0)
        flags = LimitBit.BESIDE if found.beside else LimitBit(0)
        flags |= LimitBit.SWAP if found.swap else LimitBit(0)
        if found.error is not None:
            only = LimitBit.CGROUP_ONLY if found.name == "cpu" else LimitBit.OF_USER
            flags |= LimitBit.NOT_ROOT if found.of_root else only
        yield Item(
            ItemCode.LIMIT, a=resource, b=value & 0xFFFFFFFF, c=value >> 32, flags=int(flags),
            data=f"{found.file}\0{found.value}\0".encode(), label=f"limits.{found.name}",
            hint=found.error.hint if found.error is not None else "have a cgroup delegated, or leave the limit out",
        )  # fmt: skip


def _stored_item(profile: Profile, op: Op, grant: InheritGrant) -> Item:
    told = ACTIVATED if profile.descriptors.activation and is_activated(grant) else 0
    data = f"{grant.passed_as}\0{grant.name}\0".encode()
    hint = "store one under a name, and let the service manager pass it to this process: FileDescriptorStoreMax="
    return Item(
        ItemCode.STORED, a=op.a, b=number_of(grant) | told, c=op.c, flags=op.flags, data=data, label=op.label, hint=hint
    )  # fmt: skip


def _varying(profile: Profile, op: Op) -> Op:
    """Mark a variable whose value is what a service manager has stored: of how many descriptors, by which numbers."""
    name = op.data.partition(b"=")[0]
    stored = [grant for grant in numbered(profile) if is_stored(grant)]
    told = [g for g in numbered(profile) if profile.descriptors.activation and is_activated(g)]
    fixed = [grant.name for grant in told if not is_stored(grant)]
    for grant in stored:
        if name == variable_for(grant.name).encode():
            return replace(op, flags=VARIES, a=number_of(grant), data=name + b"=")
    if len(fixed) == len(told):
        return op
    texts = {
        LISTEN_FDS: (Varying.COUNT, ""),
        LISTEN_FDNAMES: (Varying.NAMES, ":".join(fixed)),
        LISTEN_PID: (Varying.PID, ""),
    }
    kind, text = texts.get(name.decode(), (None, ""))
    if kind is None:
        return op
    data = op.data if kind is Varying.PID else name + b"=" + text.encode()
    return replace(op, flags=VARIES, a=kind, b=len(fixed), data=data)


def _may_be_kept(profile: Profile, name: str) -> bool:
    """Tell whether environment.keep lets a variable through, or one that starts so where the name ends with '*'."""
    start = name.removesuffix("*")
    return any(
        keeps(pattern, name) or (start != name and (pattern.startswith(start) or keeps(pattern, start)))
        for pattern in profile.environment.keep
    )


def _is_searched(profile: Profile, command: Sequence[str]) -> bool:
    """Tell whether the command is looked up at the start: its name is not known, or PATH is the caller's."""
    return not command or ("/" not in command[0] and _path_is_callers(profile))


def _path_is_callers(profile: Profile) -> bool:
    is_set = "PATH" in dict(profile.environment.set)
    return not is_set and any(keeps(pattern, "PATH") for pattern in profile.environment.keep)


def _command_items(profile: Profile, command: Sequence[str], caller: Caller) -> Iterator[Item]:
    yield Item(ItemCode.ARGUMENTS, label="arguments")
    if _is_searched(profile, command):
        name = command[0] if command else ""
        path = child_path(profile, caller)
        data = os.fsencode(name) + b"\0" + os.fsencode(path) + b"\0"
        hint = "is it an executable file for this machine?" if command else "give one: FILE COMMAND [ARGUMENT ...]"
        yield Item(
            ItemCode.SEARCH, flags=int(_path_is_callers(profile)), data=data, label=name or "command", hint=hint
        )  # fmt: skip


def _adapted(profile: Profile, plan: Plan, command: Sequence[str], *, searched: bool) -> Iterator[Line]:
    """Yield the plan's ops as the template has them: less what the items make, with placeholders marked."""
    made = _made_by_entries(profile, plan)
    passed = {grant.fd for grant in profile.grants if isinstance(grant, InheritGrant) and grant.passed_as is not None}
    if SharedNamespace.MOUNT not in profile.share:
        yield from _given_mounts(profile)
    for op in plan.ops:
        if made[op]:
            made[op] -= 1
        elif not (
            op.code is OpCode.MOUNT
            or (op.code is OpCode.INHERIT and op.b in passed)
            or (op.code is OpCode.COMMAND and searched)
        ):
            yield from _line(profile, op, command)


def _made_by_entries(profile: Profile, plan: Plan) -> Counter[Op]:
    rulesets = plan.only(OpCode.RULESET)
    files = FileRight(rulesets[0].a) if rulesets else FileRight(0)
    return Counter(
        ops.path_rule(entry.path, int(landlock.rights_of(entry) & files), optional=entry.optional)
        for entry in entries(profile.filesystem)
        if entry.kind is not Kind.HIDE
    )


def _given_mounts(profile: Profile) -> Iterator[Op]:
    """Yield what every view has, whatever is declared."""
    nothing = FilesystemPolicy(view=profile.filesystem.view, proc=profile.filesystem.proc)
    for op in view_ops(nothing, terminals=True):
        if op.code is OpCode.MOUNT and not (SharedNamespace.PID in profile.share and op.a == MountKind.PROC):
            yield op


def _line(profile: Profile, op: Op, command: Sequence[str]) -> Iterator[Line]:
    process = profile.process
    match op.code:
        case OpCode.CHDIR:
            if process.chdir is not None or profile.filesystem.view is View.PRIVATE:
                folder = process.chdir or STAND_INS["cwd"]
                hint = "it must exist, be open to the user and lie in the view; show it, or name another folder: chdir"
                yield marked(replace(ops.chdir(folder), hint=hint))
        case OpCode.SCHEDULING:
            flags = SCHEDULING_CALLERS_POLICY if process.scheduling is None else 0
            flags |= SCHEDULING_CALLERS_NICE if process.nice is None else 0
            policy = "the caller's policy" if process.scheduling is None else f"policy {op.a}"
            nice = "the caller's niceness" if process.nice is None else f"niceness {process.nice}"
            yield replace(op, flags=flags, label=f"{policy}, {nice}")
        case OpCode.ENV_SET | OpCode.ENV_PID:
            yield marked(_varying(profile, op))
        case OpCode.EXEC if not command:
            yield replace(op, a=0, data=b"", label="command")
        case _:
            yield marked(op)


def _words(profile: Profile, template: Template, caller: Caller, need: int, version: str) -> Iterator[str]:
    since = f"; needs Landlock ABI {need} (Linux {landlock.KERNELS[need]}) or newer" if need else ""
    yield f"sealed by sandbox {version}{since}"
    yield "{home}, {cwd}, {runtime_dir}, {tmp}, PATH, IDs, streams and descriptors are those of each start"
    yield from explain(replace(profile, source_path="in this file"), (), caller)
    for limit in limits.describe(profile.limits):
        if limit.name in limits.CONTROLLERS:
            yield f"  {limit.name}: where a cgroup is delegated to the start, by {limits.CGROUP_WORDS[limit.name]}"
    yield from ("", "Plan, completed at the start:", *(f"  {line}" for line in template.describe()))


# The file.


def assemble(launcher: bytes, sealed: Sealed) -> bytes:
    """Return the bytes of an executable: a launcher with what it carries. The same input gives the same bytes.

    Raises: PlanError if the launcher cannot carry anything.
    """
    place = launcher.find(_MAGIC)
    if place < 0 or place % 8 or launcher.find(_MAGIC, place + 1) >= 0:
        raise PlanError("launcher", "it has no place for a seal", "install the package anew")
    body, at = bytearray(launcher), []
    for part in (encode(sealed.template), sealed.explanation.encode(), sealed.profile.encode()):
        body += b"\0" * (-len(body) % 8)
        at += [len(body), len(part)]
        body += part
    body += b"\0" * (-len(body) % 8)

    def fill(checksum: int) -> None:
        _SEAL.pack_into(body, place, _MAGIC, SEAL_VERSION, place, len(body), checksum, *at)

    fill(0)
    fill(wire.checksum(body, skipped=(place + _CHECKSUM_AT) // 8))
    return bytes(body)


def is_sealed(data: bytes) -> bool:
    """Tell whether bytes look like a sealed file, damaged or not."""
    return _sealed_at(data) is not None


def _sealed_at(data: bytes) -> int | None:
    """Return where the structure lies that sealing has filled in."""
    place = data.find(_MAGIC)
    there = 0 <= place <= len(data) - _SEAL.size and _SEAL.unpack_from(data, place)[3]
    return place if there else None


def take_apart(data: bytes, name: str) -> Sealed:
    """Return what a sealed file holds; name: the file's, for messages.

    Raises: SandboxError if it is none, is damaged, or was sealed in another format.
    """

    def refuse(reason: str, hint: str = "give a file that sandbox seal has made") -> SandboxError:
        return SandboxError("seal", name, reason, hint)

    place = _sealed_at(data)
    if place is None or not data.startswith(b"\x7fELF"):
        raise refuse("it is no sealed file")
    _, version, said, size, checksum, *at = _SEAL.unpack_from(data, place)
    field = (place + _CHECKSUM_AT) // 8
    if size != len(data) or said != place or size % 8 or wire.checksum(data, skipped=field) != checksum:
        raise refuse("this file was changed, cut short or added to since it was sealed", "seal it again")
    if version != SEAL_VERSION:
        raise refuse("it was sealed in another format", "unseal it by the sandbox that has sealed it")
    plan, text, profile = (data[start : start + length] for start, length in zip(at[::2], at[1::2], strict=True))
    return Sealed(decode(plan), text.decode(), profile.decode())
