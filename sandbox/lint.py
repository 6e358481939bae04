"""What is dangerous or useless in a valid profile. Pure, with a Host."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from sandbox import places, syscalls
from sandbox.build import keeps
from sandbox.caller import Caller
from sandbox.filesystem import Entry, Kind, Rights, View, entries
from sandbox.grants import ConnectGrant, DatagramGrant, DirectoryGrant, FileGrant, Grant
from sandbox.profile import ExecPolicy, NetworkMode, Profile, delegated
from sandbox.protocols import Protocol
from sandbox.refusals import Host
from sandbox.resolve import for_caller
from sandbox.sockets import EVERY_HOST

_CWD: Final = "/{cwd}"  # no folder: what a profile says of the one that a command starts in holds for any
# Read at a login, at a start of a program, or by somebody else's program: who writes there acts as the user later.
_STARTUP: Final = (
    ".bashrc", ".bash_profile", ".bash_login", ".profile", ".zshrc", ".zprofile", ".zshenv", ".config/fish",
    ".config/autostart", ".config/systemd/user", ".local/share/systemd/user", ".config/environment.d",
    ".pam_environment",
    ".ssh/authorized_keys", ".ssh/config", ".gitconfig", ".config/git/config", ".vimrc", ".xprofile", ".Xresources",
)  # fmt: skip
_KNOWN_SOCKETS: Final = (
    "/run/docker.sock", "/var/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock",
    "/run/dbus/system_bus_socket", "/run/systemd/private", "/tmp/.X11-unix",  # noqa: S108 - names
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a profile's author should look at. object: the path, grant or word that it is about."""

    rule: str
    object: str
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        """Return it as one line."""
        line = f"{self.rule}: {self.object}: {self.reason}"
        return f"{line}; {self.hint}" if self.hint else line


def lint(profile: Profile, caller: Caller, host: Host, profile_folders: Iterable[str] = ()) -> tuple[Finding, ...]:
    """Return what is dangerous or useless in a profile; its placeholders stand for the caller's folders.

    profile_folders: where profiles are looked for, and this one's own.
    """
    where = replace(caller, cwd=_CWD)
    usual = (posixpath.join(caller.home, ".config/sandbox"), "/etc/sandbox")
    folders = tuple(_from_cwd(folder, caller.cwd) for folder in (*profile_folders, *usual))
    state = _Lint(for_caller(profile, where), where, host, folders)
    return tuple(finding for rule in _RULES for finding in rule(state))


def _from_cwd(folder: str, cwd: str) -> str:
    inside = places.below(folder, cwd) if cwd not in ("", "/") else None
    return folder if inside is None else posixpath.join(_CWD, inside).rstrip("/")


@dataclass(frozen=True, slots=True)
class _Lint:
    profile: Profile
    caller: Caller
    host: Host
    folders: tuple[str, ...]

    @property
    def entries(self) -> tuple[Entry, ...]:
        return entries(self.profile.filesystem)

    def shown(self, rights: Rights) -> Iterator[str]:
        """Yield the paths of the host that are shown with all of these rights."""
        for entry in self.entries:
            lasting = Kind.BIND if rights & Rights.WRITE else entry.kind
            if entry.kind is lasting and entry.kind in (Kind.BIND, Kind.COPY) and rights in entry.rights:
                yield entry.path

    def hides(self, path: str) -> bool:
        """Tell whether something nearer than what shows it hides or replaces a path."""
        above = [entry for entry in self.entries if places.below(path, entry.path) is not None]
        return bool(above) and above[-1].kind in (Kind.HIDE, Kind.TMPFS)


def _said(path: str) -> str:
    return path.replace(_CWD, "{cwd}", 1) if path.startswith(_CWD) else path


def _writable_and_executable(state: _Lint) -> Iterator[Finding]:
    for path in state.shown(Rights.WRITE | Rights.EXECUTE):
        yield Finding(
            "writable-executable", _said(path), "what a program writes there, it can execute",
            "build in one folder and execute in another, where that will do",
        )  # fmt: skip


def _writable_path(state: _Lint) -> Iterator[Finding]:
    folders = [folder for folder in state.caller.environ.get("PATH", "").split(":") if folder.startswith("/")]
    for path in state.shown(Rights.WRITE):
        for folder in folders:
            if places.below(folder, path) is not None or places.below(path, folder) is not None:
                yield Finding(
                    "writable-on-path", _said(path), f"your PATH looks for programs in {folder}", "write elsewhere"
                )


def _speaks(state: _Lint) -> Iterator[Finding]:
    known = [*_KNOWN_SOCKETS, f"/run/user/{state.caller.uid}/bus", state.caller.environ.get("SSH_AUTH_SOCK", "")]
    for path in state.shown(Rights.READ):
        what = places.speaks_for(path)
        if what:
            yield Finding("speaks-for-you", _said(path), what, "grant a connection to what is needed, or leave it out")
        for socket in known if not what else ():
            inside = socket != "" and places.below(socket, path) is not None
            if inside and state.host.exists(socket) and not state.hides(socket):
                said = places.speaks_for(socket) or "a socket that speaks for you"
                yield Finding("speaks-for-you", _said(path), f"it holds {socket}: {said}", f"hide {socket}")
    for grant in state.profile.grants:
        if isinstance(grant, ConnectGrant | DatagramGrant) and grant.address.is_path:
            what = places.speaks_for(grant.address.path)
            if what:
                yield Finding("speaks-for-you", f"grant {grant.name}", what)
    for name in places.SPEAKING_VARIABLES:
        if any(keeps(pattern, name) and pattern != "*" for pattern in state.profile.environment.keep):
            yield Finding("speaks-for-you", f"environment.keep: {name}", places.SPEAKING_VARIABLES[name])


def _own_profiles(state: _Lint) -> Iterator[Finding]:
    for path in state.shown(Rights.WRITE):
        found = next((folder for folder in state.folders if _overlap(path, folder)), None)
        if found is not None:
            yield Finding(
                "writes-profiles",
                _said(path),
                f"profiles are read from {_said(found)}: it can give itself more",
            )


def _overlap(path: str, folder: str) -> bool:
    return places.below(folder, path) is not None or places.below(path, folder) is not None


def _startup(state: _Lint) -> Iterator[Finding]:
    home = state.caller.home
    for path in state.shown(Rights.WRITE):
        for name in _STARTUP if home not in ("", "/") else ():
            target = posixpath.join(home, name)
            if places.below(target, path) is not None or places.below(path, target) is not None:
                yield Finding("writes-startup", _said(path), f"{target} is read outside of the sandbox, as you")
                break


def _secrets(state: _Lint) -> Iterator[Finding]:
    for path in state.shown(Rights.READ):
        secret = places.secret(path, state.caller.home)
        if secret:
            yield Finding("shows-secret", _said(path), secret, "a secret grant copies one, and tells nobody else")
        elif places.is_whole_home(path, state.caller.home):
            yield Finding("shows-home", _said(path), "all of the home folder", "name what is needed")
    for pattern in state.profile.environment.keep:
        if places.is_secret_variable(pattern.rstrip("*")) or pattern == "*":
            yield Finding("keeps-secret", f"environment.keep: {pattern}", "a secret of the environment", "grant it")


def _dangerous_calls(state: _Lint) -> Iterator[Finding]:
    for name in state.profile.filter.allow:
        why = syscalls.reason_for(name) if not name.startswith("@") else syscalls.GROUPS[name].reason
        if why:
            yield Finding("rare-call", f"filter.allow: {name}", why)


def _useless_paths(state: _Lint) -> Iterator[Finding]:
    shown = [entry for entry in state.entries if entry.kind is Kind.BIND]
    own = {entry.path: _own_rights(state.profile, entry.path) for entry in shown}
    for entry in shown:
        above = [
            other for other in shown
            if other.path != entry.path and places.below(entry.path, other.path) is not None
        ]  # fmt: skip
        between = [other for other in state.entries if other.kind is not Kind.BIND and _lies(entry, other, above)]
        if above and not between and own[entry.path] in above[-1].rights:
            yield Finding("useless", _said(entry.path), f"{_said(above[-1].path)} shows it already", "leave it out")
    for entry in state.entries:
        if entry.path.startswith(_CWD) or entry.optional or entry.kind is Kind.TMPFS or state.host.exists(entry.path):
            continue
        yield Finding("missing", entry.path, "it is not there, and then nothing starts", f'"-{entry.path}" skips it')
    for entry in state.entries if state.profile.filesystem.view is View.PRIVATE else ():
        covered = any(other.kind is not Kind.HIDE and places.below(entry.path, other.path) for other in state.entries)
        if entry.kind is Kind.HIDE and not covered and not entry.optional:
            yield Finding("useless", _said(entry.path), "it is hidden, and nothing shows it", "leave it out")


def _lies(entry: Entry, other: Entry, above: Iterable[Entry]) -> bool:
    """Whether `other` covers what the nearest of `above` shows of `entry`."""
    nearest = list(above)[-1:] or [entry]
    return places.below(entry.path, other.path) is not None and places.below(other.path, nearest[0].path) is not None


def _own_rights(profile: Profile, path: str) -> Rights:
    rights = Rights(0)
    for name, added in (
        ("read", Rights.READ), ("write", Rights.READ | Rights.WRITE), ("execute", Rights.READ | Rights.EXECUTE),
    ):  # fmt: skip
        if path in {text.removeprefix("-") for text in getattr(profile.filesystem, name)}:
            rights |= added
    return rights


def _overlapping_grants(state: _Lint) -> Iterator[Finding]:
    held = [(grant, _path_of(grant)) for grant in state.profile.grants]
    for index, (grant, path) in enumerate(held):
        for other, where in held[:index]:
            if path and where and (path == where or (isinstance(other, DirectoryGrant) and _overlap(path, where))):
                yield Finding(
                    "overlapping-grants", f"grant {grant.name}", f"grant {other.name} reaches the same: {_said(path)}"
                )
        if path and any(places.below(path, shown) is not None for shown in state.shown(Rights.WRITE)):
            yield Finding(
                "overlapping-grants", f"grant {grant.name}", f"{_said(path)} can be written by its path as well",
                "leave the grant out, or the path",
            )  # fmt: skip


def _path_of(grant: Grant) -> str:
    if isinstance(grant, FileGrant):
        return grant.file
    return grant.directory if isinstance(grant, DirectoryGrant) else ""


def _protocols(state: _Lint) -> Iterator[Finding]:
    profile = state.profile
    if profile.process.exec is ExecPolicy.ONCE and profile.descriptors.delegate:
        yield Finding("never-matches", "descriptors.delegate", 'exec = "once": there is no later exec', "leave it out")
    for protocol in profile.protocols:
        if protocol.name not in profile.descriptors.delegate:
            yield Finding("never-matches", f"protocols.{protocol.name}", "descriptors.delegate does not name it")
    own = {protocol.name for protocol in profile.protocols}
    for protocol in delegated(profile):
        programs = _programs(protocol)
        if protocol.name in own and programs and not any(_is_in_view(state, program) for program in programs):
            reason = f"no program of the view is named {' or '.join(sorted(programs))}"
            yield Finding("never-matches", f"protocols.{protocol.name}", reason, "show it, or leave the protocol out")


def _programs(protocol: Protocol) -> set[str]:
    programs = {rule.program for rule in protocol.rules}
    return set() if "" in programs else programs


def _is_in_view(state: _Lint, program: str) -> bool:
    folders = [folder for folder in state.caller.environ.get("PATH", "").split(":") if folder.startswith("/")]
    for path in state.shown(Rights.EXECUTE):
        if path.startswith(_CWD) or posixpath.basename(path) == program:
            return True
        if any(_overlap(path, f) and state.host.exists(posixpath.join(f, program)) for f in folders):
            return True
    return False


def _whole_network(state: _Lint) -> Iterator[Finding]:
    policy = state.profile.network
    for rule in policy.allow:
        if rule.host == EVERY_HOST:
            yield Finding("whole-network", f"network.allow: {rule}", "any host", "name those that are needed")
    if policy.mode is NetworkMode.HOST and not policy.allow:
        yield Finding(
            "whole-network", 'network.mode: "host"', "all that the host reaches, its own services included",
            "name peers: network.allow; or grant sockets",
        )  # fmt: skip


_RULES: Final[tuple[Callable[[_Lint], Iterator[Finding]], ...]] = (
    _writable_and_executable, _writable_path, _speaks, _own_profiles, _startup, _secrets, _dangerous_calls,
    _whole_network, _useless_paths, _overlapping_grants, _protocols,
)  # fmt: skip
NAMES: Final = (
    "writable-executable", "writable-on-path", "speaks-for-you", "writes-profiles", "writes-startup", "shows-secret",
    "shows-home", "keeps-secret", "rare-call", "whole-network", "useless", "missing",
    "overlapping-grants", "never-matches",
)  # fmt: skip
