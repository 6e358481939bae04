"""The ops of a plan, by name: what each is given, what its failure is called, and the advice that goes with it."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from typing import Final

from sandbox.grants import Access, FdType
from sandbox.plan import (
    ACCESS_CODES,
    DATA_FILE,
    OPEN_FLAGS,
    OPEN_RAW,
    OPEN_RELAY,
    RLIMIT_NAMES,
    ListenFlag,
    ListFlag,
    MountFlag,
    MountKind,
    Namespace,
    NetFlag,
    Op,
    OpCode,
    SocketKind,
    StatusFormat,
    Streams,
    Terminal,
    Trace,
)
from sandbox.protocols import ProtocolRule


def status(fd: int, form: StatusFormat, told: Trace | int = 0) -> Op:
    """Write records of the run, and of what is `told`, to the caller's descriptor `fd`; the launcher takes it over."""
    hint = "give a descriptor that is open"
    return Op(OpCode.STATUS, a=fd, b=form, c=int(told), label=f"status descriptor {fd}", hint=hint)


def die_with_parent(pid: int) -> Op:
    """End the sandbox when process `pid`, the launcher's parent, ends."""
    return Op(OpCode.DIE_WITH_PARENT, a=pid, label=f"process {pid}")


def trace(told: Trace = Trace.EXECS) -> Op:
    """Tell what happens on standard error, for people."""
    return Op(OpCode.TRACE, a=int(told), label="standard error")


def protocol(name: str, rule: ProtocolRule) -> Op:
    """Let what an exec names by this rule of protocol `name` go along."""
    first = rule.variable or rule.program
    data = b"".join(os.fsencode(text) + b"\0" for text in (first, rule.needle))
    fixed = sum(1 << number for number in set(rule.numbers))
    return Op(OpCode.PROTOCOL, a=rule.place, b=rule.shape, c=fixed, flags=rule.anywhere, data=data, label=name)


def gate(*, observe: bool = False) -> Op:
    """Put every later exec under the supervisor's eyes; observe: only report what goes along."""
    hint = (
        "the kernel must be 5.19 or newer; inside another sandbox no second gate is possible:"
        ' take a profile with process.exec = "once" there, as sealed is'
    )
    return Op(OpCode.GATE, a=int(observe), label="exec gate", hint=hint)


_OUTER: Final = "an outer container or sandbox must allow it (of ours, the profile nested does)"
# What an unprivileged user namespace is kept from doing within itself, although it could be made.
_RESTRICTED: Final = (
    "the host restricts user namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns), or an outer sandbox does"
)
_USER_HINT: Final = (
    "let the user have user namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone,"
    " kernel.apparmor_restrict_unprivileged_userns (root: CAP_SETFCAP), no chroot;"
    f" {_OUTER}; or run as root and share it"
)
# namespaces(7), /proc/sys/user: one setting for each kind.
_SETTINGS: Final = {
    Namespace.MOUNT: "mnt", Namespace.PID: "pid", Namespace.IPC: "ipc", Namespace.UTS: "uts",
    Namespace.CGROUP: "cgroup", Namespace.NETWORK: "net",
}  # fmt: skip


def _namespace_hint(own: Namespace) -> str:
    if own is Namespace.USER:
        return _USER_HINT
    without = "network mode host" if own is Namespace.NETWORK else "share it"
    return (
        f"sysctl user.max_{_SETTINGS[own]}_namespaces must leave one more, kernel.apparmor_restrict_unprivileged_userns"
        f" must be 0; {_OUTER}; or {without}"
    )


MOUNT_HINTS: Final = {
    MountKind.BIND: "check the path and who may open it",
    MountKind.TMPFS: "it takes a folder, and none is made in what the view shows of the host: make it first",
    MountKind.COPY: "check the path and who may open it; a - before it skips what is not there",
    MountKind.HIDE: "check the path; a - before it skips what is not there",
    # mount_too_revealing() of fs/namespace.c.
    MountKind.PROC: "a container that covers parts of /proc lets no new one be mounted: have it show all of it there",
}


def timeout(milliseconds: int) -> Op:
    """End everything, and the launcher with code 124, after so long."""
    return Op(OpCode.TIMEOUT, a=milliseconds, label=f"{milliseconds / 1000:g} s")


def terminal(mode: Terminal) -> Op:
    """Say what the child has for a terminal."""
    hint = "the launcher needs /dev/ptmx for a private one" if mode is Terminal.PRIVATE else ""
    return Op(OpCode.TERMINAL, a=mode, label="terminal", hint=hint)


def cgroup(parent: str) -> Op:
    """Put the sandbox into a new cgroup below `parent`, a folder of version 2 that the user may change."""
    hint = "have one delegated (systemd-run --user --scope -p Delegate=yes), or leave the limit to rlimits"
    return Op(OpCode.CGROUP, data=os.fsencode(parent), label=parent, hint=hint)


def cgroup_set(file: str, value: str) -> Op:
    """Write a value into a file of the new cgroup."""
    data = os.fsencode(file) + b"\0" + os.fsencode(value) + b"\0"
    return Op(OpCode.CGROUP_SET, data=data, label=f"{file} {value}", hint="the cgroup must have that controller")


def namespace(own: Namespace) -> Op:
    """Give the sandbox one namespace of its own; user (Linux 3.8) lets anyone have the others."""
    return Op(OpCode.NAMESPACE, a=int(own), label=(own.name or "").lower(), hint=_namespace_hint(own))


def identity(uid: int, gid: int) -> Op:
    """Become another user, without supplementary groups; needs root."""
    return Op(OpCode.IDENTITY, a=uid, b=gid, label=f"user {uid}, group {gid}", hint="only root can change the user")


def hostname(name: str) -> Op:
    """Name the host in the sandbox."""
    hint = f"{_RESTRICTED}; or share uts"
    return Op(OpCode.HOSTNAME, data=os.fsencode(name), label=name, hint=hint)


def loopback() -> Op:
    """Bring the loopback interface up."""
    return Op(OpCode.LOOPBACK, label="lo", hint=f"{_RESTRICTED}; or network mode none")


def root() -> Op:
    """Begin an empty view."""
    return Op(OpCode.ROOT, label="root", hint=_RESTRICTED)


def mount(kind: MountKind, path: str, flags: MountFlag | int = 0, *, mode: int = 0, size: int = 0) -> Op:
    """Put something into the view at `path`; parents come before what lies in them. size: of a tmpfs, in KiB.

    mode: of a tmpfs' root.
    """
    hint = MOUNT_HINTS.get(kind, "")
    return Op(
        OpCode.MOUNT, a=kind, b=mode, c=size, flags=int(flags), data=os.fsencode(path), label=path, hint=hint
    )  # fmt: skip


def enter() -> Op:
    """Make the view the root of everything."""
    return Op(OpCode.ENTER, label="root", hint=_RESTRICTED)


def allow_list(flags: ListFlag | int) -> Op:
    """Have the supervisor make the sockets, and connect and bind them. Kernel: 5.14, SECCOMP_ADDFD_FLAG_SEND."""
    hint = "inside another sandbox that has a supervisor no second one is possible"
    return Op(OpCode.ALLOW_LIST, a=int(flags), label="network", hint=hint)


def net_rule(address: bytes, prefix: int, ports: tuple[int, int], label: str, flags: NetFlag | int = 0) -> Op:
    """Allow, or deny, a network's ports. address: one struct sockaddr; prefix: the bits of it that count."""
    return Op(OpCode.NET_RULE, a=prefix, b=ports[0], c=ports[1], flags=int(flags), data=address, label=label)


def netns(namespace: int, keeper: int, label: str) -> Op:
    """Be in the network of descriptor `namespace`, and keep another open as long as the sandbox lives; 0: none.

    Kernel: 3.0, setns(2).
    """
    hint = "it takes root, and CAP_SYS_ADMIN"
    return Op(OpCode.NETNS, a=namespace, b=keeper, label=label, hint=hint)


def text_file(path: str, text: str) -> Op:
    """Show a text as a file at `path`, whatever the view has there."""
    data = os.fsencode(path) + b"\0" + os.fsencode(text) + b"\0"
    return Op(OpCode.TEXT_FILE, data=data, label=path, hint="the host must have a file there")


def manager(path: str) -> Op:
    """Put a socket at `path`, of which the supervisor hands on to the caller's there what tells how the service is."""
    hint = "is the service manager there? start it without NOTIFY_SOCKET, or leave notify out"
    return Op(OpCode.MANAGER, data=os.fsencode(path), label="NOTIFY_SOCKET", hint=hint)


def store(name: str, types: Collection[FdType], label: str) -> Op:
    """Let the manager be given a descriptor to keep under a name, if it is of one of the types."""
    return Op(OpCode.STORE, a=mask_of(types), data=os.fsencode(name), label=label)


def notify_program(program: bytes) -> Op:
    """Ask the supervisor of the calls for which this program says so; it stands behind the exec gate's."""
    return Op(OpCode.NOTIFY, data=program, label=f"{len(program) // 8} instructions")


def capabilities() -> Op:
    """Drop every capability, and the ways to get one back."""
    return Op(OpCode.CAPABILITIES, label="capabilities")


def reset() -> Op:
    """Take back what survives exec besides descriptors: keyring, personality, timer slack, priorities."""
    return Op(OpCode.RESET, label="process attributes")


def rlimit(resource: int, value: int) -> Op:
    """Set a resource limit, soft and hard."""
    label = f"{RLIMIT_NAMES.get(resource, resource)} {value}"
    hint = "the caller's hard limit is lower"
    return Op(OpCode.RLIMIT, a=resource, b=value & 0xFFFFFFFF, c=value >> 32, label=label, hint=hint)


def scheduling(policy: int, nice: int) -> Op:
    """Set the scheduling policy (0 other, 3 batch, 5 idle) and niceness (-20 to 19)."""
    label, hint = (
        f"policy {policy}, niceness {nice}",
        "a sandbox has no right to raise a priority: start it with nice instead",
    )
    return Op(OpCode.SCHEDULING, a=policy, b=nice + 20, label=label, hint=hint)


def affinity(processors: str) -> Op:
    """Set the processors: a list of numbers and ranges such as 0-3,8."""
    return Op(OpCode.AFFINITY, data=os.fsencode(processors), label=processors, hint="none of these is there")


def oom_score(score: int) -> Op:
    """Set oom_score_adj, -1000 to 1000."""
    return Op(OpCode.OOM_SCORE, a=score + 1000, label=str(score), hint="only root can lower it")


def ruleset(file_rights: int, net_rights: int, scopes: int) -> Op:
    """Begin a Landlock ruleset that handles these rights. Kernel: 5.13; net 6.7, scopes 6.12."""
    return Op(
        OpCode.RULESET, a=file_rights & 0xFFFFFFFF, b=file_rights >> 32, c=net_rights | scopes << 16, label="ruleset",
        hint="the kernel needs Landlock (CONFIG_SECURITY_LANDLOCK, lsm=landlock) of that ABI",
    )  # fmt: skip


def path_rule(path: str, rights: int, *, optional: bool = False) -> Op:
    """Allow rights below a path."""
    return Op(
        OpCode.PATH_RULE, a=rights & 0xFFFFFFFF, b=rights >> 32, flags=int(optional), data=os.fsencode(path),
        label=path, hint="check the path and who may open it",
    )  # fmt: skip


def descriptor_rule(number: int, rights: int) -> Op:
    """Allow what a descriptor of the command's own refers to to be opened anew, with the rights that it has itself."""
    return Op(
        OpCode.PATH_RULE, a=rights & 0xFFFFFFFF, b=rights >> 32, c=number, flags=2,
        data=os.fsencode(f"/proc/self/fd/{number}"), label=f"descriptor {number}", hint="is /proc in the view?",
    )  # fmt: skip


def folder_rule(number: int, rights: int) -> Op:
    """Allow rights below the folder that a descriptor of the command's own stands for."""
    return replace(descriptor_rule(number, rights), flags=3)


def port_rule(port: int, rights: int) -> Op:
    """Allow rights on a TCP port."""
    return Op(OpCode.PORT_RULE, a=rights, b=port, label=f"TCP port {port}")


def restrict() -> Op:
    """Enforce the ruleset."""
    return Op(OpCode.RESTRICT, label="ruleset")


def stdio(types: Collection[FdType], streams: Streams = Streams.RAW, limit: int = 0) -> Op:
    """Refuse standard streams that are of none of `types`; limit: bytes of output on each, 0 for none."""
    hint = "redirect it from or to a file, a pipe, a connected socket or a terminal"
    return Op(
        OpCode.STDIO, a=mask_of(types), b=limit & 0xFFFFFFFF, c=limit >> 32, flags=streams,
        label="standard stream", hint=hint,
    )  # fmt: skip


def mask_of(types: Collection[FdType]) -> int:
    """Return the type mask of some types."""
    return sum(fd_type.bit for fd_type in set(types))


def inherit(
    slot: int, fd: int, types: frozenset[FdType], access: Access | None, label: str, *,
    raw: bool = False, relay: bool = False,
) -> Op:  # fmt: skip
    """Take the caller's descriptor `fd` if it is of one of the types and has exactly the access.

    A regular file is opened anew by its path, through a mount of its own, and relayed if it is open for appending only;
    raw: it is taken as it is. relay: the supervisor copies, one way, which the access says of what is open both ways.
    """
    hint = "open it in the caller, or declare its type and access as they are"
    flags = ACCESS_CODES[access] | (OPEN_RAW if raw else 0) | (OPEN_RELAY if relay else 0)
    return Op(OpCode.INHERIT, a=slot, b=fd, c=mask_of(types), flags=flags, label=label, hint=hint)


def file(slot: int, path: str, access: Access, *, create: bool, truncate: bool, label: str, raw: bool = False) -> Op:
    """Open a regular file once; through a mount of its own, and to append relayed, unless it is raw.

    Kernel: 5.12, mount_setattr(2).
    """
    flags = OPEN_FLAGS[access] | (os.O_CREAT if create else 0) | (os.O_TRUNC if truncate else 0)
    hint = "check the path and who may open it" + ("" if create or access is Access.READ else ", or add create")
    return Op(
        OpCode.FILE, a=slot, b=flags, c=0o666 if create else 0, flags=OPEN_RAW if raw else 0,
        data=os.fsencode(path), label=label, hint=hint,
    )  # fmt: skip


def directory(slot: int, path: str, *, write: bool, execute: bool, label: str) -> Op:
    """Open a folder through a mount of its own, which no `..` leaves."""
    flags = (MountFlag.WRITE if write else MountFlag(0)) | (MountFlag.EXECUTE if execute else MountFlag(0))
    hint = "check the path and who may open it"
    return Op(OpCode.DIRECTORY, a=slot, flags=int(flags), data=os.fsencode(path), label=label, hint=hint)


def secret_file(slot: int, path: str, label: str) -> Op:
    """Copy a file into a sealed memfd."""
    hint = "check the path and who may read it"
    return Op(OpCode.SECRET_FILE, a=slot, data=os.fsencode(path), label=label, hint=hint)


def secret_env(slot: int, variable: str, label: str) -> Op:
    """Copy a variable of the caller's environment into a sealed memfd."""
    hint = "set the variable for the caller"
    return Op(OpCode.SECRET_ENV, a=slot, data=os.fsencode(variable), label=label, hint=hint)


def listen(
    slot: int, address: bytes, label: str, *, backlog: int, flags: ListenFlag | int = 0, mode: int = 0
) -> Op:  # fmt: skip
    """Bind a socket, and listen if it takes connections. address: a struct sockaddr."""
    hint = "somebody has that address, or this host has not, or ports below 1024 are for root"
    if address[:2] == _UNIX:
        hint = "check the path, who may make a file there, and who listens there"
    return Op(
        OpCode.LISTEN, a=slot, b=mode, c=backlog, flags=int(flags), data=address, label=label, hint=hint
    )  # fmt: skip


_UNIX: Final = b"\x01\0"


def socket_owner(slot: int, uid: int, gid: int, label: str) -> Op:
    """Give the file of the slot's LISTEN op to a user and group."""
    return Op(OpCode.SOCKET_OWNER, a=slot, b=uid, c=gid, label=label)


def connect(slot: int, addresses: bytes, label: str, *, kind: SocketKind, milliseconds: int = 0) -> Op:
    """Connect a socket to the first address that answers. addresses: one struct sockaddr behind the other."""
    hint = "is the service there, and may the user reach it?"
    return Op(
        OpCode.CONNECT, a=slot, b=kind, c=milliseconds, data=addresses, label=label, hint=hint
    )  # fmt: skip


def data_text(slot: int, text: str, label: str) -> Op:
    """Put a text into a sealed memfd that is open for reading. Kernel: 3.17, memfd_create(2)."""
    return Op(OpCode.DATA, a=slot, data=os.fsencode(text), label=label)


def data_file(slot: int, path: str, most: int, label: str) -> Op:
    """Copy a file of at most `most` bytes into a sealed memfd that is open for reading."""
    hint = f"check the path and who may read it; at most {most >> 20} MiB are copied, a file grant gives any size"
    return Op(OpCode.DATA, a=slot, b=most, flags=DATA_FILE, data=os.fsencode(path), label=label, hint=hint)


def scratch(slot: int, size: int, label: str) -> Op:
    """Make an empty file in memory that grows to `size` bytes, in whole KiB, and no further. Kernel: 5.2, fsopen(2)."""
    hint = "the host must let a user namespace mount a tmpfs"
    return Op(OpCode.SCRATCH, a=slot, b=-(-size // 1024), label=label, hint=hint)


def place(slot: int, number: int, label: str, *, propagate: bool = False) -> Op:
    """Put a slot's descriptor at its number in the child; propagate: it passes at every exec."""
    hint = "choose a lower number, or raise the hard limit of open files"
    return Op(OpCode.PLACE, a=slot, b=number, flags=int(propagate), label=label, hint=hint)


def sweep() -> Op:
    """Close everything that is not declared."""
    hint = "the kernel must be 5.9 or newer, and no outer filter may refuse it"
    return Op(OpCode.SWEEP, label="close_range", hint=hint)


def verify() -> Op:
    """Read the descriptor table back and compare it."""
    return Op(OpCode.VERIFY, label="/proc/self/fd", hint="the launcher needs a readable /proc")


def signals() -> Op:
    """Default dispositions and an empty mask."""
    return Op(OpCode.SIGNALS, label="signal mask")


def umask(mask: int) -> Op:
    """Set the file mode creation mask."""
    return Op(OpCode.UMASK, a=mask, label=f"{mask:03o}")


def chdir(path: str) -> Op:
    """Change the working directory."""
    return Op(OpCode.CHDIR, data=os.fsencode(path), label=path, hint="the folder must exist and be open to the user")


def env_keep(pattern: str) -> Op:
    """Keep the caller's variables of that name, or of names with that start when it ends in '*'."""
    return Op(OpCode.ENV_KEEP, data=os.fsencode(pattern), label=pattern)


def env_set(name: str, value: str) -> Op:
    """Set a variable."""
    return Op(OpCode.ENV_SET, data=os.fsencode(f"{name}={value}"), label=name)


def env_drop(name: str) -> Op:
    """Keep a variable of the caller's from the child, whatever keeps it."""
    return Op(OpCode.ENV_DROP, data=os.fsencode(name), label=name)


def env_pid(name: str) -> Op:
    """Set a variable to the command's process ID, in its own PID namespace."""
    return Op(OpCode.ENV_PID, data=os.fsencode(name), label=name)


def no_new_privs() -> Op:
    """No privilege by exec from here on."""
    return Op(OpCode.NO_NEW_PRIVS, label="prctl")


def exec_once() -> Op:
    """Refuse every exec after the command's own."""
    return Op(OpCode.EXEC_ONCE, label="filter")


def filter_program(program: bytes) -> Op:
    """Load a filter: struct sock_filter records."""
    hint = "the kernel must have CONFIG_SECCOMP_FILTER"
    return Op(OpCode.FILTER, data=program, label=f"{len(program) // 8} instructions", hint=hint)


def command(path: str, name: str) -> Op:
    """Try to execute `path`."""
    return Op(OpCode.COMMAND, data=os.fsencode(path), label=name, hint="is it an executable file for this machine?")


def execute(arguments: Collection[str], name: str) -> Op:
    """Fail: none of the candidates could be executed; carries the arguments for all of them."""
    data = b"".join(os.fsencode(argument) + b"\0" for argument in arguments)
    hint = "check the name and PATH, or show it: --execute PATH"
    return Op(OpCode.EXEC, a=len(arguments), data=data, label=name, hint=hint)
