"""A profile in the words of others: OCI and Docker seccomp profiles, an OCI configuration, systemd, bubblewrap.

Pure. What the other one has no words for is told beside the result, never left out in silence.
Sources: the OCI runtime specification, config-linux.md; seccomp_rule_add(3); bwrap(1).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from sandbox import landlock, walls
from sandbox.errors import UsageError
from sandbox.filesystem import Entry, Kind, Proc, Rights, View, entries, normal, split_optional
from sandbox.filter_rules import Condition, Rule, argument_rules
from sandbox.filtering import FilterPolicy
from sandbox.limits import Limits
from sandbox.plan import Namespace
from sandbox.profile import PATH_LISTS, ExecPolicy, NetworkMode, NetworkPolicy, Profile
from sandbox.syscalls import ENOSYS_ALWAYS
from sandbox.units import limit_lines

# What one entry of an allow-list demands of each argument: argument -> mask and value. No argument twice.
Box: TypeAlias = dict[int, tuple[int, int]]
MAX_ENTRIES: Final = 4096


@dataclass(frozen=True, slots=True)
class Export:
    """What the other program gets, and what it does not."""

    value: Any
    lost: tuple[str, ...]


# The filter, as one allow-list.


def allowed_boxes(rules: Iterable[Rule]) -> list[Box]:
    """Return what is left of a call's arguments when all that the rules refuse is taken away, as disjoint boxes.

    One list of allowed calls must say what two programs say here: allowed, unless a rule holds. A condition is bits of
    one argument, so what it leaves is again such: for each of its bits, that one differs and those above do not.
    Raises: UsageError if there are more than a runtime should be given.
    """
    boxes: list[Box] = [{}]
    for rule in sorted(rules, key=lambda rule: sum(condition.mask.bit_count() for condition in rule.conditions)):
        boxes = [left for box in boxes for left in _without(box, rule.conditions)]
        if len(boxes) > MAX_ENTRIES:
            raise UsageError("filter", f"{rule.syscall} comes to more than {MAX_ENTRIES} entries", _FEWER)
    return boxes


_FEWER: Final = "reserve fewer numbers, or some that lie side by side"


def _without(box: Box, conditions: Sequence[Condition]) -> Iterator[Box]:
    """Yield what a box is without what meets all conditions: itself, whole, where nothing in it does."""
    parts: list[Box] = []
    inside = box
    for condition in conditions:
        met = _narrowed(inside, condition.arg, condition.mask, condition.value)
        if met is None:
            yield box
            return
        parts += _differing(inside, condition)
        inside = met
    yield from parts


def _differing(box: Box, condition: Condition) -> Iterator[Box]:
    above = 0
    for bit in (1 << at for at in reversed(range(32)) if condition.mask & 1 << at):
        differs = _narrowed(box, condition.arg, above | bit, condition.value & above | (condition.value ^ bit) & bit)
        if differs is not None:
            yield differs
        above |= bit


def _narrowed(box: Box, arg: int, mask: int, value: int) -> Box | None:
    known_mask, known = box.get(arg, (0, 0))
    if (known ^ value) & mask & known_mask:
        return None
    return {**box, arg: (known_mask | mask, known | value)}


def seccomp_profile(policy: FilterPolicy) -> dict[str, Any]:
    """Return the filter as OCI's linux.seccomp; Docker and Kubernetes take the same.

    Raises: UsageError if it would be longer than runtimes take.
    """
    rules: dict[str, list[Rule]] = {}
    for rule in argument_rules(policy):
        rules.setdefault(rule.syscall, []).append(rule)
    plain = sorted(name for name in policy.allow if name not in rules)
    listed: list[dict[str, Any]] = [{"names": plain, "action": "SCMP_ACT_ALLOW"}]
    for name in sorted(policy.allow & rules.keys()):
        for box in allowed_boxes(rules[name]):
            args = [
                {"index": arg, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
                for arg, (mask, value) in sorted(box.items())
            ]
            listed.append({"names": [name], "action": "SCMP_ACT_ALLOW", **({"args": args} if args else {})})
    if len(listed) > MAX_ENTRIES:
        raise UsageError("filter", f"it comes to {len(listed)} entries", _FEWER)
    listed.append({"names": sorted(ENOSYS_ALWAYS), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.EPERM,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": listed,
    }


def lost_of_filter(profile: Profile) -> Iterator[str]:
    """Yield what a filter of another program does not hold."""
    yield "filter: a call of another architecture kills the program, where ours answers EPERM"
    yield "filter: a call that nobody knows answers EPERM, where ours answers ENOSYS (runc does so, too)"
    if profile.process.exec is ExecPolicy.ONCE:
        yield 'process.exec = "once": the runtime executes the command under the filter; any program can be executed'
    else:
        yield "exec gate: descriptors that nobody names pass at later execs; descriptors.delegate means nothing"


def docker(profile: Profile, policy: FilterPolicy) -> Export:
    """Return Docker's and Kubernetes' seccomp profile."""
    lost = [
        *lost_of_filter(profile), *lost_of_descriptors(profile), *lost_of_network(profile.network),
        "filesystem, network, namespaces, limits, landlock, environment, terminal: no filter's; tell the runtime",
    ]  # fmt: skip
    return Export(seccomp_profile(policy), tuple(lost))


# The rest.


def lost_of_descriptors(profile: Profile) -> Iterator[str]:
    """Yield what grants lose where nobody opens and numbers them."""
    for grant in profile.grants:
        yield f"grant {grant.name}: descriptors are not opened, checked or numbered"
    if profile.grants or profile.descriptors.reserve_stdio:
        yield "reserved numbers: the filter keeps them from being overwritten, and nobody puts grants there"


def lost_of_network(network: NetworkPolicy) -> Iterator[str]:
    """Yield what the network's rules lose without a supervisor."""
    if network.allow or network.bind or network.dns:
        yield "network.allow, allow_bind, dns: nobody connects for it; no peer is reached, or with mode host every one"
    if network.mode is NetworkMode.VETH:
        yield "network veth: the other one makes its own"


def _lost_of_walls(profile: Profile) -> Iterator[str]:
    yield from lost_of_network(profile.network)
    if landlock.governs_files(profile.filesystem) and profile.landlock.files:
        yield "landlock: files are held by mounts alone"
    for entry in entries(profile.filesystem):
        if entry.kind is Kind.COPY:
            yield f"filesystem.private {entry.path}: shown read-only; changes are refused"
    if any(entry.kind is Kind.HIDE for entry in entries(profile.filesystem)):
        yield "filesystem.hide: covered by empty folders and /dev/null, which can be read"
    network = profile.network
    if network.allow or network.bind or network.dns or network.mode is NetworkMode.VETH:
        yield f"network {network.mode}: its rules are nobody's; only what none, loopback or host say is expressed"
    if profile.limits.timeout is not None or profile.limits.output is not None:
        yield "limits.timeout, limits.output: nobody watches them"
    yield from lost_of_process(profile)


def lost_of_process(profile: Profile) -> Iterator[str]:
    """Yield what the child's surroundings lose where our launcher does not stand between."""
    if profile.process.notify or profile.descriptors.activation:
        yield "process.notify, descriptors.activation: the service manager's variables are not rewritten"
    yield "streams: files on 0, 1 and 2 are the caller's own"
    yield "environment: variables that carry descriptors are kept as they are"
    yield "terminal: a private one is not relayed"


_OCI_NAMESPACES: Final = {
    Namespace.MOUNT: "mount", Namespace.CGROUP: "cgroup", Namespace.UTS: "uts", Namespace.IPC: "ipc",
    Namespace.USER: "user", Namespace.PID: "pid", Namespace.NETWORK: "network",
}  # fmt: skip
_OCI_RLIMITS: Final = {
    "memory": "RLIMIT_AS", "cpu_time": "RLIMIT_CPU", "open_files": "RLIMIT_NOFILE", "file_size": "RLIMIT_FSIZE",
    "core_size": "RLIMIT_CORE",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Start:
    """What is started, for those who take that with the rest: with which variables, where, and as whom on the host."""

    command: Sequence[str]
    environ: Mapping[str, str]
    folder: str
    ids: tuple[int, int] = (0, 0)


def as_seen(profile: Profile, look: Callable[[str], str]) -> tuple[Profile, tuple[str, ...]]:
    """Return the profile without the optional paths that are not here, and the words for those.

    look: "folder", "file" or "" for a path of this host.
    """
    absent = [entry.path for entry in entries(profile.filesystem) if entry.optional and not look(entry.path)]

    def kept(texts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(text for text in texts if normal(split_optional(text)[0]) not in absent)

    lists: dict[str, Any] = {name: kept(getattr(profile.filesystem, name)) for name in PATH_LISTS}
    words = (f"filesystem: {', '.join(absent)}: not here, and so left out",) if absent else ()
    return replace(profile, filesystem=replace(profile.filesystem, **lists)), words


def oci(profile: Profile, policy: FilterPolicy, start: Start) -> Export:
    """Return a config.json: for a root folder that is empty but for what its mounts need.

    profile: as for_caller() returns it.
    """
    ids = start.ids
    if profile.filesystem.view is not View.PRIVATE:
        raise UsageError(
            "filesystem.view", "a container has a root of its own", 'only view = "private" can be exported'
        )
    own = walls.own_namespaces(profile)
    linux: dict[str, Any] = {
        "namespaces": [{"type": _OCI_NAMESPACES[namespace]} for namespace in own],
        "seccomp": seccomp_profile(policy),
        "resources": _oci_resources(profile.limits),
        "maskedPaths": [entry.path for entry in entries(profile.filesystem) if entry.kind is Kind.HIDE],
    }
    if Namespace.USER in own:
        linux["uidMappings"] = [{"containerID": ids[0], "hostID": ids[0], "size": 1}]
        linux["gidMappings"] = [{"containerID": ids[1], "hostID": ids[1], "size": 1}]
    value = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": ids[0], "gid": ids[1], "umask": profile.process.umask},
            "args": list(start.command) or ["/bin/sh"],
            "env": [f"{name}={text}" for name, text in start.environ.items()],
            "cwd": start.folder,
            "capabilities": {name: [] for name in ("bounding", "effective", "inheritable", "permitted", "ambient")},
            "noNewPrivileges": True,
            "rlimits": [
                {"type": kind, "hard": int(limit), "soft": int(limit)}
                for name, kind in _OCI_RLIMITS.items()
                if (limit := getattr(profile.limits, name)) is not None
            ],
        },
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [*_oci_mounts(profile)],
        "linux": linux,
    }
    if Namespace.UTS in own:
        value["hostname"] = profile.process.hostname
    lost = [*lost_of_filter(profile), *lost_of_descriptors(profile), *_lost_of_walls(profile)]
    if profile.network.mode is NetworkMode.LOOPBACK:
        lost.append("network loopback: the runtime brings lo up, or does not")
    if Namespace.USER in own and 0 not in ids:
        lost.append("user: runc takes no mapping without root in it, crun does")
    return Export(value, tuple(lost))


def _oci_resources(limits: Limits) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if limits.memory is not None:
        found["memory"] = {"limit": limits.memory, "swap": limits.memory}
    if limits.processes is not None:
        found["pids"] = {"limit": limits.processes}
    if limits.cpu is not None:
        found["cpu"] = {"quota": round(limits.cpu * 100_000), "period": 100_000}
    return found


def _oci_mounts(profile: Profile) -> Iterator[dict[str, Any]]:
    proc = ["nosuid", "nodev", "noexec"] + ([] if profile.filesystem.proc is Proc.WRITABLE else ["ro"])
    proc += ["subset=pid"] if profile.filesystem.proc is Proc.PROCESSES else []
    yield {"destination": "/proc", "type": "proc", "source": "proc", "options": proc}
    for entry in entries(profile.filesystem):
        if entry.path in ("/proc", "/dev") or entry.kind is Kind.HIDE:
            continue
        options = ["nosuid", "nodev"] + ([] if Rights.EXECUTE in entry.rights else ["noexec"])
        if entry.kind is Kind.TMPFS:
            mode = "mode=1777" if entry.path in ("/tmp", "/var/tmp", "/dev/shm", "/run/lock") else "mode=755"  # noqa: S108
            options += [mode, "size=64m"]
            yield {"destination": entry.path, "type": "tmpfs", "source": "tmpfs", "options": options}
        else:
            writes = entry.kind is Kind.BIND and Rights.WRITE in entry.rights
            options += ["rbind", "rprivate", "rw" if writes else "ro"]
            yield {"destination": entry.path, "type": "bind", "source": entry.path, "options": options}
    shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=64m"]
    dev = ["nosuid", "noexec", "mode=755", "size=64k"]
    yield {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": dev}
    yield {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": shm}  # noqa: S108


def bubblewrap(profile: Profile, start: Start, look: Callable[[str], str]) -> Export:
    """Return bubblewrap's command line. profile: as for_caller() returns it; look: as for as_seen()."""
    if profile.filesystem.view is not View.PRIVATE:
        raise UsageError("filesystem.view", "only a view of its own can be exported", 'view = "private"')
    words = ["bwrap", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    own = walls.own_namespaces(profile)
    words += [
        f"--unshare-{name}"
        for namespace, name in (
            (Namespace.USER, "user"), (Namespace.PID, "pid"), (Namespace.IPC, "ipc"), (Namespace.UTS, "uts"),
            (Namespace.CGROUP, "cgroup"), (Namespace.NETWORK, "net"),
        )
        if namespace in own
    ]  # fmt: skip
    if Namespace.UTS in own:
        words += ["--hostname", profile.process.hostname]
    words += ["--clearenv", *(word for name, text in start.environ.items() for word in ("--setenv", name, text))]
    words += ["--proc", "/proc", "--dev", "/dev"]
    for entry in entries(profile.filesystem):
        words += _bubblewrap_words(entry, look)
    words += ["--remount-ro", "/", "--chdir", start.folder, "--", *(start.command or ["/bin/sh"])]
    lost = [
        "filter: bubblewrap takes compiled programs (--add-seccomp-fd); none is loaded",
        *(line for line in lost_of_filter(profile) if not line.startswith("filter")), *lost_of_descriptors(profile),
        *_lost_of_walls(profile),
        "filesystem: what is shown without execute can be executed",
        "limits, umask, priority: set them around it (prlimit, systemd-run)",
    ]  # fmt: skip
    if profile.network.mode is NetworkMode.NONE:
        lost.append("network none: bubblewrap brings the loopback up")
    return Export(words, tuple(lost))


def _bubblewrap_words(entry: Entry, look: Callable[[str], str]) -> list[str]:
    if entry.path in ("/proc", "/dev"):
        return []
    match entry.kind:
        case Kind.TMPFS:
            return ["--tmpfs", entry.path]
        case Kind.HIDE:
            return ["--tmpfs", entry.path] if look(entry.path) == "folder" else ["--ro-bind", "/dev/null", entry.path]
        case Kind.BIND if Rights.WRITE in entry.rights:
            return ["--bind", entry.path, entry.path]
        case _:
            return ["--ro-bind", entry.path, entry.path]


def systemd(profile: Profile, policy: FilterPolicy) -> Export:
    """Return the lines of a [Service] section for a command that runs there without a launcher."""
    own = walls.own_namespaces(profile)
    lines = [
        "NoNewPrivileges=yes", "CapabilityBoundingSet=", "LockPersonality=yes", "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes", "SystemCallArchitectures=native", f"SystemCallFilter={' '.join(sorted(policy.allow))}",
        "SystemCallErrorNumber=EPERM", f"UMask={profile.process.umask:04o}",
        *limit_lines(profile.limits),
    ]  # fmt: skip
    if "unshare" not in policy.allow:
        lines.append("RestrictNamespaces=yes")
    if Namespace.IPC in own:
        lines.append("PrivateIPC=yes")
    if Namespace.USER in own:
        lines.append("PrivateUsers=yes")
    if profile.network.mode is not NetworkMode.HOST:
        lines.append("PrivateNetwork=yes")
    lost = [
        "filter: rules on arguments are not said; what is unknown to this version answers EPERM, too, not ENOSYS",
        *(line for line in lost_of_filter(profile) if not line.startswith("filter")),
        *lost_of_descriptors(profile), *_lost_of_walls(profile),
        "namespaces: those of processes and of the host's name are the host's",
    ]  # fmt: skip
    if profile.filesystem.view is View.PRIVATE:
        lines.append("TemporaryFileSystem=/:ro")
        lines += [_systemd_path(entry) for entry in entries(profile.filesystem)]
        lines += ["BindPaths=/proc /dev", "PrivateDevices=yes"]
    else:
        lost.append('filesystem: view = "host" is not expressed')
    return Export(lines, tuple(lost))


def _systemd_path(entry: Entry) -> str:
    mark = "-" if entry.optional else ""
    match entry.kind:
        case Kind.TMPFS:
            return f"TemporaryFileSystem={entry.path}"
        case Kind.HIDE:
            return f"InaccessiblePaths={mark}{entry.path}"
        case Kind.BIND if Rights.WRITE in entry.rights:
            return f"BindPaths={mark}{entry.path}"
        case _:
            return f"BindReadOnlyPaths={mark}{entry.path}"
