"""systemd's units for a sealed launcher: what a profile says, in their words, as far as they have them. Pure.

Sources: systemd.service(5), systemd.socket(5), systemd.exec(5), systemd.resource-control(5), systemd.kill(5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from sandbox.errors import UsageError
from sandbox.grants import (
    Access,
    ConnectGrant,
    DatagramGrant,
    DirectoryGrant,
    FileGrant,
    InheritGrant,
    ListenGrant,
    is_stored,
)
from sandbox.limits import CONTROLLERS, Limits
from sandbox.profile import NetworkMode, Profile, SharedNamespace
from sandbox.sockets import Protocol

TYPES: Final = ("exec", "notify")
# The launcher, which supervises, and the init of the namespaces.
_OWN_TASKS: Final = 2
# What would break the launcher, or says less than the profile does.
LEFT_OUT: Final = {
    "ProtectKernelTunables=, ProtectKernelLogs=, ProtectProc=, ProcSubset=": (
        "they cover parts of /proc, and then the kernel lets the sandbox mount none of its own"
    ),
    "RestrictNamespaces=, PrivateUsers=, ProtectHostname=": "the launcher makes namespaces, and names its own host",
    "SystemCallFilter=": "the profile's filter is stricter, and a launcher needs more than its command",
    "RestrictSUIDSGID=": "it refuses openat2(2), by which the launcher finds paths; the view's mounts are nosuid",
    "KillMode=control-group": "the command would get each signal twice: from systemd, and from the launcher",
}


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit file: its name, and its text."""

    name: str
    text: str


def check_type(kind: str) -> None:
    """Refuse a service type under which the launcher is not what systemd takes it for.

    Raises: UsageError with the reason.
    """
    if kind == "forking":
        raise UsageError(
            "--type forking", "a sandbox ends with its command, and so does a daemon that goes to the background",
            "have it stay in the foreground: --type exec or notify",
        )  # fmt: skip
    if kind not in TYPES:
        raise UsageError(f"--type {kind}", "no such type here", "one of " + ", ".join(TYPES))


def units(
    profile: Profile,
    name: str,
    file: str,
    listen: Mapping[str, str],
    *,
    kind: str | None,
    reload: bool,
    user: str | None = None,
) -> tuple[Unit, ...]:
    """Return the units of a service: the sockets that its profile takes from systemd, and the service itself.

    profile: as load() returns it, with its placeholders. file: the sealed launcher's path. listen: an address, as of
    ListenStream=, for each `systemd:NAME`. kind: the service's type; None: notify where the profile says so. reload:
    SIGHUP has the command read its configuration anew. user: NAME[:GROUP], whom systemd starts it as.
    Raises: UsageError for a socket without an address, an address without a socket, a type that cannot be.
    """
    kind = kind or ("notify" if profile.process.notify else "exec")
    check_type(kind)
    if kind == "notify" and not profile.process.notify:
        raise UsageError("--type notify", "the profile lets nobody notify", "set process.notify in it")
    passed = [grant for grant in profile.grants if isinstance(grant, InheritGrant)]
    wanted = [grant.passed_as for grant in passed if grant.passed_as and not grant.stored]
    for missing in (one for one in wanted if one not in listen):
        raise UsageError(f"grant systemd:{missing}", "no address is said for it", f"--listen {missing}=ADDRESS")
    for extra in (one for one in listen if one not in wanted):
        known = ", ".join(wanted) or "none"
        raise UsageError(f"--listen {extra}", "the profile takes no such socket", f"it takes: {known}")
    sockets = tuple(_socket(name, one, listen[one]) for one in wanted)
    lines = [
        f"# For {file}, made of the profile {profile.name}.",
        *_section("Unit", _unit_lines(profile, sockets)),
        *_section("Service", _service_lines(profile, file, sockets, kind=kind, reload=reload, user=user)),
        *_section("Install", ["WantedBy=multi-user.target"]),
    ]
    return (*sockets, Unit(f"{name}.service", "\n".join(lines) + "\n"))


def _section(title: str, lines: Iterator[str] | list[str]) -> Iterator[str]:
    yield f"[{title}]"
    yield from lines
    yield ""


def _socket(name: str, fd_name: str, address: str) -> Unit:
    lines = [
        *_section("Socket", [f"ListenStream={address}", f"FileDescriptorName={fd_name}", f"Service={name}.service"]),
        *_section("Install", ["WantedBy=sockets.target"]),
    ]
    return Unit(f"{name}-{fd_name}.socket", "\n".join(lines))


def _unit_lines(profile: Profile, sockets: tuple[Unit, ...]) -> Iterator[str]:
    yield f"Description={_escaped(profile.description or profile.name)}"
    if sockets:
        names = " ".join(socket.name for socket in sockets)
        yield from (f"Requires={names}", f"After={names}")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "%%")


def _quoted(path: str) -> str:
    """Return a path as a word of a directive."""
    text = _escaped(path).replace('"', '\\"')
    return f'"{text}"' if any(c in text for c in " \t\"'") else text


def _service_lines(
    profile: Profile, file: str, sockets: tuple[Unit, ...], *, kind: str, reload: bool, user: str | None
) -> Iterator[str]:
    yield f"Type={kind}"
    yield from _user_lines(user)
    if profile.process.notify and SharedNamespace.MOUNT in profile.share:
        yield "# Who notifies is the command itself, and the main process is its launcher."
        yield "NotifyAccess=all"
    elif profile.process.notify and kind != "notify":
        yield "NotifyAccess=main"
    yield f"ExecStart={_quoted(file).replace('$', '$$')}"
    if reload:
        yield "ExecReload=/bin/kill -HUP $MAINPID"
    yield "# To end by SIGHUP, SIGINT, SIGPIPE or SIGTERM is to end well; the launcher exits with 128 and the number."
    yield "SuccessExitStatus=129 130 141 143"
    if sockets:
        yield "Sockets=" + " ".join(socket.name for socket in sockets)
    stored = sum(is_stored(grant) for grant in profile.grants)
    if stored:
        yield f"FileDescriptorStoreMax={stored}"
    yield "# A signal goes to the launcher, which forwards it; what is left is killed."
    yield "KillMode=mixed"
    yield f"UMask={profile.process.umask:04o}"
    yield "# The profile's own walls, once more around the launcher."
    yield from ("NoNewPrivileges=yes", "LockPersonality=yes", "RestrictRealtime=yes")
    yield from ("SystemCallArchitectures=native", "KeyringMode=private")
    controllers = [word for name, word in CONTROLLERS.items() if getattr(profile.limits, name) is not None]
    if controllers:
        yield "# Not ProtectControlGroups=: below the service's own the launcher makes one for the sandbox."
        yield f"Delegate={' '.join(controllers)}"
    else:
        yield "ProtectControlGroups=yes"
    yield from _device_lines(profile)
    yield from _view_lines(profile)
    yield from _network_lines(profile)
    yield from limit_lines(profile.limits)
    for names, reason in LEFT_OUT.items():
        yield f"# Not {names}: {reason}."


def _user_lines(user: str | None) -> Iterator[str]:
    if user is None:
        yield "# Not CapabilityBoundingSet=: started by root the launcher makes mounts, and maps IDs."
        return
    name, _, group = user.partition(":")
    yield f"User={_escaped(name)}"
    if group:
        yield f"Group={_escaped(group)}"
    yield "CapabilityBoundingSet="


def _device_lines(profile: Profile) -> Iterator[str]:
    """Yield what systemd says of devices, where the profile shows none but those of every view."""
    lists = ("read", "write", "execute", "private")
    shown = [text.removeprefix("-") for name in lists for text in getattr(profile.filesystem, name)]
    shown += [grant.file for grant in profile.grants if isinstance(grant, FileGrant)]
    if not any(path != "/dev/shm" and _is_below(path, ("/dev",)) for path in shown):  # noqa: S108 - a name
        yield from ("PrivateDevices=yes", "ProtectClock=yes")
    yield "ProtectKernelModules=yes"


def _view_lines(profile: Profile) -> Iterator[str]:
    files, granted = profile.filesystem, tuple(_written(profile))
    if any(text.removeprefix("-").startswith("{") for text in (*files.write, *granted)):
        yield "# Not ProtectSystem=, ProtectHome=, PrivateTmp=: where it writes, only the start can tell."
        return
    yield "ProtectSystem=strict"
    yield from (f"ReadWritePaths={_quoted(path)}" for path in (*files.write, *granted))
    shown = [
        text.removeprefix("-") for name in ("read", "write", "execute", "private") for text in getattr(files, name)
    ]
    shown += [*granted, *(grant.file for grant in profile.grants if isinstance(grant, FileGrant))]
    if not any(_is_below(path, ("/home", "/root", "/run/user", "{home}", "{runtime_dir}")) for path in shown):
        yield "ProtectHome=yes"
    if not any(_is_below(path, ("/tmp", "/var/tmp", "{tmp}")) for path in shown):  # noqa: S108 - names, not files
        yield "PrivateTmp=yes"


def _is_below(path: str, folders: tuple[str, ...]) -> bool:
    return path == "/" or any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _written(profile: Profile) -> Iterator[str]:
    for grant in profile.grants:
        match grant:
            case FileGrant() if grant.access is not Access.READ:
                yield grant.file
            case DirectoryGrant() if grant.write or grant.create:
                yield grant.directory
            case ListenGrant() if grant.address.is_path:
                yield grant.address.path.rpartition("/")[0] or "/"


def _network_lines(profile: Profile) -> Iterator[str]:
    sockets = [g for g in profile.grants if isinstance(g, ListenGrant | ConnectGrant | DatagramGrant)]
    inet = [grant for grant in sockets if grant.address.protocol is not Protocol.UNIX]
    # What the network's rules allow, the supervisor reaches, and it is the launcher.
    outside = bool(inet) or profile.network.is_supervised
    if profile.network.mode is not NetworkMode.HOST and not outside:
        yield "PrivateNetwork=yes"
    families = ["AF_UNIX"]
    if profile.network.mode is not NetworkMode.NONE or outside:
        families += ["AF_INET", "AF_INET6"]
    if profile.network.mode is NetworkMode.HOST:
        families.append("AF_NETLINK")
    yield f"RestrictAddressFamilies={' '.join(families)}"


def limit_lines(limits: Limits) -> Iterator[str]:
    """Yield the directives of limits: a service's cgroup holds for all processes together."""
    if limits.memory is not None:
        yield from (f"MemoryMax={limits.memory}", "MemorySwapMax=0")
    if limits.processes is not None:
        yield f"TasksMax={limits.processes + _OWN_TASKS}"
    if limits.cpu is not None:
        yield f"CPUQuota={limits.cpu * 100:g}%"
