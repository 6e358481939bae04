"""What lies outside is out of reach: each way to it is tried inside, where it must fail, and outside, where it works.

Mutation: with any op that confines left out, the way that it closes is open.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from sandbox import filter_rules, filtering, landlock, ops, seccomp
from sandbox.caller import Caller
from sandbox.filesystem import FilesystemPolicy
from sandbox.plan import RULES, MountKind, Namespace, OpCode, Plan
from sandbox.profile import NetworkMode, Profile
from sandbox.profile_files import default_search_path, load
from sandbox.resolve import Additions
from sandbox.syscall_table import NUMBERS
from sandbox.syscalls import ENOSYS_ALWAYS, GROUPS
from tests.support.callers import Ended, launch, plan_of, run
from tests.support.native import build_launcher
from tests.support.plans import CODE, A, taken_apart
from tests.support.probes import Probes, Verdict, public_folder, verdicts

OK: Final = Verdict(0, 0)
LEAKED: Final = 77
KEY: Final = 0x5A17D000 + os.getpid()
NAME: Final = f"/sandbox-walls-{os.getpid()}"
ROOT: Final = os.geteuid() == 0
CORE: Final = 0


def refused(number: int) -> Verdict:
    return Verdict(-1, number)


EPERM, EACCES, ENOENT = refused(errno.EPERM), refused(errno.EACCES), refused(errno.ENOENT)
ESRCH, EXDEV, EROFS = refused(errno.ESRCH), refused(errno.EXDEV), refused(errno.EROFS)
ENOSYS = refused(errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class World:
    """What the host has: folders that are shown, given and not shown, and what else a program could reach for."""

    probe: str
    folder: Path
    outsider: int
    tcp: int
    udp: socket.socket

    def words(self, way: str) -> list[str]:
        """Return the probe's arguments for ways such as `read {secret}`; no path holds a space."""
        places = {
            "secret": self.folder / "hidden" / "secret",
            "hidden": self.folder / "hidden",
            "shown": self.folder / "shown",
            "given": self.folder / "given",
            "hide": self.folder / "shown" / "hide",
            "core": CORE,
            "outsider": self.outsider,
            "tcp": self.tcp,
            "udp": self.udp.getsockname()[1],
            "host": socket.gethostname(),
            "name": NAME,
            "key": KEY,
            **{f"ns_{kind}": os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("user", "cgroup", "uts", "mnt")},
        }
        return [word.format_map(places) for word in way.split(" ")]

    def plan(
        self, way: str, *grants: str, network: NetworkMode = NetworkMode.NONE, profile: Profile | str = "untrusted"
    ) -> Plan:
        """Return the plan of the probe under `untrusted`, with one folder to read and one to write."""
        files = FilesystemPolicy(
            hide=(str(self.folder / "shown" / "hide"),),
            read=(str(self.folder / "shown"),),
            write=(str(self.folder / "given"),),
            execute=(str(Path(self.probe).parent),),
        )
        additions = Additions(filesystem=files, network=network)
        return plan_of([self.probe, *self.words(way)], *grants, profile=profile, walls=True, additions=additions)

    def outside(self, way: str) -> Verdict:
        """Try without any sandbox."""
        return only(run([self.probe, *self.words(way)]))


def only(ended: Ended) -> Verdict:
    """Return the one verdict of a run."""
    assert (ended.code, ended.err) == (0, ""), ended
    (verdict,) = verdicts(ended.out).values()
    return verdict


@pytest.fixture(scope="module")
def world(probes: Probes) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(public_folder())
        for name in ("shown", "given", "hidden"):
            (folder / name).mkdir()
            (folder / name / "file").write_text("content")
        (folder / "hidden" / "secret").write_text("secret")
        (folder / "another").write_text("secret")
        (folder / "shown" / "hide").write_text("secret")
        outsider = stack.enter_context(subprocess.Popen(["sleep", "300"], stdin=subprocess.DEVNULL))
        stack.callback(outsider.kill)
        listeners: dict[str, tuple[int, int, tuple[str, int] | str]] = {
            "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, "\0" + NAME),
            "unix": (socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "hidden" / "socket")),
        }
        sockets = {}
        for name, (family, kind, address) in listeners.items():
            sockets[name] = stack.enter_context(socket.socket(family, kind))
            sockets[name].bind(address)
            if kind == socket.SOCK_STREAM:
                sockets[name].listen(128)
        for objects in IPC:
            made = World(probes["wall"], folder, 0, 0, sockets["udp"])
            assert made.outside(objects.format("make")) == OK
            stack.callback(made.outside, objects.format("drop"))
        yield World(probes["wall"], folder, outsider.pid, sockets["tcp"].getsockname()[1], sockets["udp"])


# One that leads to the kernel's or the machine's memory, disks or log; which of them there is differs.
DEVICES: Final = ("/dev/mem", "/dev/kmsg", "/dev/port", "/dev/loop-control", "/dev/fuse", "/dev/console")
DEVICE: Final = next(device for device in DEVICES if os.path.exists(device))
IPC: Final = ("shm {} {{key}}", "sem {} {{key}}", "msg {} {{key}}", "mq {} {{name}}", "posix-shm {} {{name}}")

# Landlock refuses a port before the network namespace finds that there is no way (ABI 4, Linux 6.7).
ABI: Final = Caller.of_process(parent_pid=os.getpid()).landlock_abi
PORTS: Final = landlock.ABI_OF["connect_tcp"] <= ABI
SCOPES: Final = landlock.ABI_OF["signal"] <= ABI

# Ways out, and what comes of each inside; outside every one of them works.
WAYS: Final = {
    "read {secret}": ENOENT,
    "write {secret}": ENOENT,
    "exists {secret}": ENOENT,
    "touch {secret}": ENOENT,
    "chmod {secret} 600": ENOENT,
    "read {shown}/../hidden/secret": ENOENT,
    "read {given}/../hidden/secret": ENOENT,
    "read /proc/self/root{secret}": ENOENT,
    "through-link {secret} {given}/symlink": ENOENT,
    "through-link ../hidden/secret {given}/symlink": ENOENT,
    "write {shown}/file": EROFS,
    "touch {shown}/file": EROFS,
    "chmod {shown}/file 644": EROFS,
    "born {given}/set-uid 4755": EPERM,
    "born {given}/set-gid 2755": EPERM,
    "chmod {given}/file 4755": EPERM,
    "chmod {given}/file 2755": EPERM,
    "set-uid-counts {given}": EPERM,
    "read /proc/{outsider}/environ": ENOENT,
    "read /proc/{outsider}/mem": ENOENT,
    "exists /proc/{outsider}": ENOENT,
    "signal {outsider} 0": ESRCH,
    "signal -1 0": ESRCH,
    "limits {outsider}": ESRCH,
    "affinity {outsider}": ESRCH,
    "pidfd {outsider}": ESRCH,
    "tcp {tcp}": EACCES if PORTS else refused(errno.ENETUNREACH),
    "udp {udp}": refused(errno.ENETUNREACH),
    "unix {hidden}/socket": ENOENT,
    "abstract {name}": refused(errno.ECONNREFUSED),
    "exists /sys/fs/cgroup": ENOENT,
    f"exists {DEVICE}": ENOENT,
    "hostname {host}": ENOENT,
    "namespace user {ns_user}": ENOENT,
    "namespace cgroup {ns_cgroup}": ENOENT,
    "namespace mnt {ns_mnt}": ENOENT,
    **{objects.format("find"): ENOENT for objects in IPC},
}  # fmt: skip
# What works inside all the same: the nearest thing to a way out that stays within.
WITHIN: Final = (
    "read {shown}/file",
    "read {shown}/../shown/file",
    "read /proc/self/root{shown}/file",
    "write {given}/file",
    "touch {given}/file",
    "create {given}/new",
    "link {given}/file {given}/link",
    "through-link {given}/file {given}/symlink",
    "through-link {shown}/file {given}/symlink",
    "born {given}/plain 755",
    "chmod {given}/file 755",
    "read /proc/self/environ",
    "read /proc/self/mem",
    "own-child 15",
    "limits 0",
    "own-session",
    "read /dev/null",
    # Not mq: Landlock refuses to open any message queue, since no path leads to one.
    *(objects.format("make") for objects in IPC if not objects.startswith("mq")),
)


@pytest.mark.parametrize("way", WAYS)
def test_way_out_is_closed(world: World, way: str) -> None:
    assert world.outside(way) == OK
    assert only(launch(world.plan(way))) == WAYS[way]


def test_what_stays_within_is_open(world: World) -> None:
    found = verdicts(launch(world.plan(" ".join(WITHIN))).out)
    assert dict(zip(WITHIN, found.values(), strict=True)) == dict.fromkeys(WITHIN, OK)


@pytest.mark.parametrize("name", ["environ", "mem", "maps", "root/etc/passwd", "cwd/.", "exe"])
def test_init_cannot_be_looked_into(world: World, name: str) -> None:
    """Neither can the supervisor, where its processes are shared."""
    assert only(launch(world.plan(f"read /proc/1/{name}"))) in (EACCES, EPERM)
    shared = plan_of([world.probe, "supervisor", name])
    assert only(launch(shared)) in (EACCES, EPERM)
    assert world.outside(f"read /proc/{{outsider}}/{name}") == OK


def test_environment_of_the_caller_is_nowhere_inside() -> None:
    env = os.environ | {"SANDBOX_TEST_SECRET": "much-hidden"}
    script = "cat /proc/[0-9]*/environ /proc/self/environ; env; echo done"
    ended = launch(plan_of(["sh", "-c", script], walls=True), env=env)
    assert ended.out.endswith("done\n")
    assert "PATH=" in ended.out
    assert "much-hidden" not in ended.out
    assert "much-hidden" in run(["sh", "-c", script], env=env).out


@pytest.mark.parametrize("setting", ["kernel/core_pattern", "kernel/hostname", "vm/overcommit_memory"])
def test_settings_of_the_kernel_cannot_be_written(world: World, setting: str) -> None:
    """Not by root either, whom the kernel lets write to them without any capability."""
    way = f"write /proc/sys/{setting}"
    assert only(launch(world.plan(way))) in (EACCES, EROFS)
    assert world.outside(way) == (OK if ROOT else EACCES)
    assert only(launch(world.plan("read /proc/sys/kernel/core_pattern"))) == OK


def test_hard_link_leads_nothing_into_a_writable_folder(world: World) -> None:
    way = "link {shown}/file {given}/hard"
    assert only(launch(world.plan(way))) == EXDEV
    assert world.outside(way) == OK
    (world.folder / "given" / "hard").unlink()


def test_set_uid_program_gives_nothing(world: World) -> None:
    if not ROOT:
        pytest.skip("needs root: to make a set-uid program of another user's")
    program = world.folder / "shown" / "set-uid"
    shutil.copy(world.probe, program)
    os.chown(program, 65533, 65533)
    program.chmod(0o4755)
    files = FilesystemPolicy(execute=(str(program.parent), str(Path(world.probe).parent)))

    def inside(user: int) -> Verdict:
        words = [world.probe, "runs-as", str(program), str(user)]
        return only(launch(plan_of(words, walls=True, additions=Additions(filesystem=files))))

    assert world.outside(f"runs-as {program} 65533") == OK
    assert inside(65533) == EPERM
    assert inside(0) == OK


def test_udp_of_the_host_hears_nothing(world: World) -> None:
    """A loopback of one's own lets it be sent, and it arrives nowhere."""
    world.udp.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while world.udp.recv(16):
            pass
    assert only(launch(world.plan("udp {udp}", network=NetworkMode.LOOPBACK))) == OK
    with pytest.raises(BlockingIOError):
        world.udp.recv(16)
    assert only(launch(world.plan("udp {udp}", network=NetworkMode.HOST))) == OK
    assert world.udp.recv(16) == b"inside"


def test_tcp_of_the_host_is_not_on_ones_own_loopback(world: World) -> None:
    assert only(launch(world.plan("tcp {tcp}", network=NetworkMode.LOOPBACK))) == refused(errno.ECONNREFUSED)
    assert only(launch(world.plan("own-tcp", network=NetworkMode.LOOPBACK))) == OK
    assert only(launch(world.plan("tcp {tcp}", network=NetworkMode.HOST))) == OK


def lives_beside(plan: Plan | bytes, launcher: Path | None = None) -> bool:
    """Tell whether a process of the launcher's own group is still there after the run."""
    script = 'sleep 60 & "$@"; kill -0 $! && echo lives; kill -9 $!'
    return launch(plan, launcher=launcher, before=["setsid", "-w", "sh", "-c", script, "sh"]).out.endswith("lives\n")


def less(plan: Plan, *dropped: OpCode | Namespace | MountKind) -> bytes:
    """Return the plan's bytes less all ops of these codes, those namespaces and mounts; nothing checks them."""

    def goes(fields: list[int]) -> bool:
        kind = {OpCode.NAMESPACE: Namespace, OpCode.MOUNT: MountKind}.get(OpCode(fields[CODE]))
        return fields[CODE] in codes or (kind is not None and kind(fields[A]) in parts_of_ops)

    codes = [one for one in dropped if isinstance(one, OpCode)]
    parts_of_ops = [one for one in dropped if not isinstance(one, OpCode)]
    parts = taken_apart(plan)
    parts.ops = [fields for fields in parts.ops if not goes(fields)]
    return parts.joined()


@pytest.fixture(scope="module")
def partial() -> Path:
    return build_launcher(defines=("TEST_PARTIAL_PLANS",))


LANDLOCK: Final = tuple(code for code, rule in RULES.items() if rule.step == "landlock")
VIEW: Final = (OpCode.ROOT, OpCode.MOUNT, OpCode.ENTER)


def test_signal_to_ones_own_group_stays_inside(world: World, partial: Path) -> None:
    """Two walls: a group of its own, and the scope of signals. Without both, the caller's group is hit."""
    plan = world.plan("signal-group 15")
    assert lives_beside(plan)
    assert lives_beside(less(plan, OpCode.TERMINAL), partial) is SCOPES
    assert lives_beside(less(plan, *LANDLOCK), partial)
    assert not lives_beside(less(plan, OpCode.TERMINAL, *LANDLOCK), partial)


# A folder of the host that has leaked: past gate, sweep and view.
LEAKS: Final = (
    "read /proc/self/fd/77/secret",
    "read /proc/self/fd/77/../another",
    "read-at 77 secret",
    "read-at 77 ../another",
    "fchdir 77 secret",
    "fchdir 77 ../another",
)


@pytest.mark.parametrize("way", LEAKS)
def test_leaked_folder_leads_nowhere(world: World, partial: Path, way: str) -> None:
    """The sweep closes it; without, Landlock stands alone."""
    plan = world.plan(way)

    def leak() -> None:
        os.dup2(os.open(world.folder / "hidden", os.O_RDONLY), LEAKED)

    def found(*dropped: OpCode) -> Verdict:
        return only(launch(less(plan, *dropped), launcher=partial, setup=leak))

    assert found() == (ENOENT if "/proc/" in way else refused(errno.EBADF))
    assert found(OpCode.SWEEP, OpCode.VERIFY) == EACCES
    assert found(OpCode.SWEEP, OpCode.VERIFY, *LANDLOCK) == OK
    assert found(OpCode.SWEEP, OpCode.VERIFY, OpCode.RESTRICT) == OK


@pytest.mark.parametrize("name", ["secret", "../another"])
def test_folder_that_is_sent_leads_nowhere(world: World, partial: Path, name: str) -> None:
    """Over a socket that is granted; nobody but Landlock looks at what comes."""
    plan = world.plan(f"received 3 {name}", "pipe@3=inherit:9")
    ours, theirs = socket.socketpair()
    hidden = os.open(world.folder / "hidden", os.O_RDONLY | os.O_DIRECTORY)
    with ours, theirs:
        ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [hidden]))])
        os.close(hidden)

        def found(*dropped: OpCode) -> Verdict:
            return only(launch(less(plan, *dropped), launcher=partial, setup=lambda: os.dup2(theirs.fileno(), 9)))

        assert found() == EACCES
        assert found(*LANDLOCK) == OK


def test_each_of_view_and_landlock_holds_files_alone(world: World, partial: Path) -> None:
    plan = world.plan("read {secret}", profile=without_tmpfs())

    def found(*dropped: OpCode) -> Verdict:
        return only(launch(less(plan, *dropped), launcher=partial))

    assert found(*LANDLOCK) == ENOENT
    assert found(*VIEW) == EACCES
    assert found(*VIEW, *LANDLOCK) == OK


def without_tmpfs() -> Profile:
    """Return `untrusted` without the host's folder for temporary files, in which the tests' own lie."""
    loaded = load("untrusted", search=default_search_path(os.environ))
    return replace(loaded, filesystem=replace(loaded.filesystem, tmpfs=()))


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is left out of a plan, and the way out that is open then; `behind` is left out of both."""

    dropped: tuple[OpCode | Namespace | MountKind, ...]
    way: str
    verdict: Verdict
    behind: tuple[OpCode, ...] = ()


MUTANTS: Final = {
    "network namespace": Mutant((Namespace.NETWORK,), "udp {udp}", refused(errno.ENETUNREACH)),
    "PID namespace": Mutant((Namespace.PID,), "limits {outsider}", ESRCH, VIEW),
    "IPC namespace": Mutant((Namespace.IPC,), "shm find {key}", ENOENT),
    "UTS namespace": Mutant((Namespace.UTS, OpCode.HOSTNAME), "hostname {host}", ENOENT),
    "cgroup namespace": Mutant((Namespace.CGROUP,), "namespace cgroup {ns_cgroup}", ENOENT),
    "mount namespace": Mutant((Namespace.MOUNT,), "namespace mnt {ns_mnt}", ENOENT, VIEW),
    "user namespace": Mutant((Namespace.USER,), "namespace user {ns_user}", ENOENT),
    "host name": Mutant((OpCode.HOSTNAME,), "hostname {host}", ENOENT),
    "view": Mutant(VIEW, "exists {secret}", ENOENT),
    "hidden path": Mutant((MountKind.HIDE,), "read {hide}", EACCES),
    "limits": Mutant((OpCode.RLIMIT,), "limit 4 {core}", ENOENT),
    "capabilities": Mutant((OpCode.CAPABILITIES,), "capable", EPERM),
    "entering the view": Mutant((OpCode.ENTER,), "exists {secret}", ENOENT),
    "session": Mutant((OpCode.TERMINAL,), "foreign-session", EPERM),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_without_any_op_that_confines_a_way_is_open(world: World, partial: Path, name: str) -> None:
    mutant = MUTANTS[name]
    plan = world.plan(mutant.way)

    def found(*dropped: OpCode | Namespace | MountKind) -> Ended:
        return launch(less(plan, *mutant.behind, *dropped), launcher=partial, setup=limited)

    assert only(found()) == mutant.verdict
    if name == "user namespace" and not ROOT:
        assert (found(*mutant.dropped).code, found(*mutant.dropped).out) == (125, "")  # nobody but root has the others
    else:
        assert only(found(*mutant.dropped)) == OK


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (CORE, resource.getrlimit(resource.RLIMIT_CORE)[1]))


@pytest.mark.parametrize(
    "dropped",
    [Namespace.MOUNT, Namespace.PID, MountKind.PROC, OpCode.ROOT, OpCode.RULESET, OpCode.PATH_RULE],
    ids=str,
)
def test_without_what_the_view_needs_nothing_is_executed(
    world: World, partial: Path, dropped: OpCode | Namespace | MountKind
) -> None:
    plan = world.plan("create {given}/executed")
    ended = launch(less(plan, dropped), launcher=partial)
    # Without its rules, Landlock lets nothing be executed.
    assert (ended.code, ended.out) == (126 if dropped is OpCode.PATH_RULE else 125, "")
    assert not (world.folder / "given" / "executed").exists()
    assert only(launch(less(plan), launcher=partial)) == OK
    (world.folder / "given" / "executed").unlink()


def said(plan: Plan, partial: Path, *dropped: OpCode) -> tuple[int, str]:
    ended = launch(less(plan, *dropped), launcher=partial)
    return ended.code, ended.out


def test_without_timeout_it_goes_on(partial: Path) -> None:
    plan = plan_of(["sleep", "1"], walls=True, additions=Additions(limits={"timeout": "300ms"}))
    assert said(plan, partial) == (124, "")
    assert said(plan, partial, OpCode.TIMEOUT) == (0, "")


def test_without_chdir_it_starts_at_the_root(partial: Path) -> None:
    plan = plan_of(["pwd"], walls=True, chdir="/usr")
    assert said(plan, partial) == (0, "/usr\n")
    assert said(plan, partial, OpCode.CHDIR) == (0, "/\n")


def test_without_gate_a_descriptor_goes_along_at_a_later_exec(partial: Path) -> None:
    look = "[ -e /proc/$$/fd/7 ] && echo there || echo gone"
    plan = plan_of(["bash", "-c", f"exec 7</etc/passwd; exec bash -c '{look}'"], walls=True)
    assert said(plan, partial) == (0, "gone\n")
    assert said(plan, partial, OpCode.GATE) == (0, "there\n")


def test_without_loopback_there_is_no_way_to_oneself(world: World, partial: Path) -> None:
    plan = world.plan("own-tcp", network=NetworkMode.LOOPBACK)
    assert only(launch(less(plan), launcher=partial)) == OK
    assert only(launch(less(plan, OpCode.LOOPBACK), launcher=partial)) == refused(errno.ENETUNREACH)


def test_without_identity_root_stays_root(partial: Path) -> None:
    if not ROOT:
        pytest.skip("needs root: nobody else becomes another user")
    plan = plan_of(["id", "-u"], walls=True)
    plan = replace(plan, ops=tuple(sorted((*plan.ops, ops.identity(65534, 65534)), key=lambda op: op.code)))
    assert said(plan, partial) == (0, "65534\n")
    assert said(plan, partial, OpCode.IDENTITY) == (0, "0\n")


# Every op -> the test that fails when it is left out; an op that confines nothing gives, or tells.
ELSEWHERE: Final = {
    "test_mutation": {
        OpCode.STDIO, OpCode.PLACE, OpCode.SWEEP, OpCode.VERIFY, OpCode.EXEC_ONCE, OpCode.FILTER, OpCode.COMMAND,
        OpCode.EXEC,
    },
    "test_attributes": {
        OpCode.UMASK, OpCode.SIGNALS, OpCode.RESET, OpCode.RLIMIT, OpCode.NO_NEW_PRIVS, OpCode.TERMINAL,
        OpCode.SCHEDULING, OpCode.AFFINITY, OpCode.OOM_SCORE, OpCode.ENV_DROP,
    },
    "test_cgroup": {OpCode.CGROUP, OpCode.CGROUP_SET},
    "test_supervisor": {OpCode.DIE_WITH_PARENT},
    "test_network": {OpCode.ALLOW_LIST, OpCode.NET_RULE, OpCode.TEXT_FILE, OpCode.NOTIFY},
    "test_veth": {OpCode.NETNS},
    "test_manager": {OpCode.MANAGER, OpCode.STORE},
    "gives or tells": {
        OpCode.STATUS, OpCode.TRACE, OpCode.PROTOCOL, OpCode.INHERIT, OpCode.FILE, OpCode.SECRET_FILE,
        OpCode.SECRET_ENV, OpCode.DIRECTORY, OpCode.ENV_KEEP, OpCode.ENV_SET, OpCode.PORT_RULE, OpCode.DATA,
        OpCode.SCRATCH, OpCode.SOCKET_OWNER, OpCode.LISTEN, OpCode.CONNECT, OpCode.ENV_PID,
    },
}  # fmt: skip
HERE: Final = {
    OpCode.TIMEOUT, OpCode.CHDIR, OpCode.GATE, OpCode.LOOPBACK, OpCode.IDENTITY, OpCode.RESTRICT, OpCode.ROOT,
    OpCode.RULESET, OpCode.PATH_RULE,
    OpCode.NAMESPACE, OpCode.MOUNT,  # each kind by itself
    *(one for mutant in MUTANTS.values() for one in mutant.dropped if isinstance(one, OpCode)),
}  # fmt: skip


def test_every_op_is_left_out_somewhere() -> None:
    assert HERE.union(*ELSEWHERE.values()) == set(OpCode)
    dropped = {one for mutant in MUTANTS.values() for one in mutant.dropped}
    assert dropped >= set(Namespace)


# Calls, with arguments of which the kernel itself says something other than EPERM, and which do no harm.
Call: TypeAlias = tuple[str, tuple[int, ...]]
BAD: Final = 0xFFFF_FFFF_FFFF_F000
ANY: Final = 2**64 - 1
CALLS: Final[dict[str, tuple[int, ...]]] = {
    "unshare": (0,), "setns": (ANY, 0), "mount": (BAD, BAD), "umount2": (BAD, ANY), "pivot_root": (BAD, BAD),
    "chroot": (BAD,), "open_tree": (ANY, BAD, ANY), "move_mount": (ANY, BAD, ANY, BAD, ANY), "fsopen": (BAD, ANY),
    "mount_setattr": (ANY, BAD, ANY, BAD, 0), "fsconfig": (ANY, ANY), "fsmount": (ANY, ANY), "fspick": (ANY, BAD, ANY),
    "ptrace": (ANY, ANY), "process_vm_readv": (0, 0, 0, 0, 0, ANY), "process_vm_writev": (0, 0, 0, 0, 0, ANY),
    "pidfd_getfd": (ANY, 0, 0), "kcmp": (ANY, ANY, ANY), "perf_event_open": (BAD, 0, 0, ANY, ANY),
    "userfaultfd": (ANY,), "add_key": (BAD, BAD), "request_key": (BAD, BAD), "keyctl": (ANY,), "bpf": (ANY, BAD, 0),
    "settimeofday": (BAD, 0), "clock_settime": (ANY, BAD), "clock_adjtime": (ANY, BAD), "adjtimex": (BAD,),
    "reboot": (0, 0, 0), "swapon": (BAD, 0), "swapoff": (BAD,), "iopl": (4,), "ioperm": (ANY, ANY, 1),
    "acct": (BAD,), "quotactl": (ANY, BAD), "syslog": (99,), "sethostname": (BAD, ANY), "setdomainname": (BAD, ANY),
    "open_by_handle_at": (ANY, BAD, 0), "name_to_handle_at": (ANY, BAD, BAD, BAD, 0), "fanotify_init": (ANY, ANY),
    "fanotify_mark": (ANY, 0), "io_uring_setup": (0, BAD), "io_uring_enter": (ANY, 0), "io_uring_register": (ANY, 0),
    "clone3": (BAD, 0), "openat2": (ANY, BAD, BAD, 24),
}  # fmt: skip
# Of calls that are allowed: what a rule on their arguments refuses, and beside it what none does.
CREATE: Final = os.O_CREAT
RULED: Final[dict[str, tuple[list[tuple[int, ...]], list[tuple[int, ...]]]]] = {
    # netlink, packet, Bluetooth, kernel crypto, virtual machines; MPTCP and SMC.
    "socket": ([(16, 3), (17, 3), (31, 3), (38, 5), (40, 1), (2, 1, 262), (2, 1, 256)], [(1, 1), (2, 1), (10, 2)]),
    "socketpair": ([(30, 1, 0, BAD), (16, 3, 0, BAD)], [(1, 1, 0, BAD)]),
    "clone": ([(flag | 0x800,) for flag in filtering.CLONE_NEW.values()], [(0x800,)]),  # CLONE_SIGHAND alone: EINVAL
    "prctl": ([(35, ANY, 0, 0, 1), (0x59616D61, 2**31)], [(3,), (15, BAD)]),
    "personality": ([(0x400000,), (0x40000,), (0x100000,)], [(0xFFFFFFFF,), (0,), (8,)]),
    "chmod": ([(BAD, 0o4755), (BAD, 0o2755)], [(BAD, 0o1755)]),
    "fchmod": ([(ANY, 0o4755)], [(ANY, 0o755)]),
    "fchmodat": ([(ANY, BAD, 0o4755)], [(ANY, BAD, 0o755)]),
    "fchmodat2": ([(ANY, BAD, 0o4755, ANY)], [(ANY, BAD, 0o755, ANY)]),
    "creat": ([(BAD, 0o4755)], [(BAD, 0o755)]),
    "mknod": ([(BAD, 0o104755, 0)], [(BAD, 0o100755, 0)]),
    "mknodat": ([(ANY, BAD, 0o104755, 0)], [(ANY, BAD, 0o100755, 0)]),
    "open": ([(BAD, CREATE, 0o4755), (BAD, os.O_TMPFILE | 2, 0o2755)], [(BAD, CREATE, 0o755), (BAD, 0, 0o4755)]),
    "openat": ([(ANY, BAD, CREATE, 0o4755)], [(ANY, BAD, CREATE, 0o755), (ANY, BAD, 0, 0o4755)]),
    "ioctl": ([(0, 0x5412, BAD), (0, 0x541C, BAD)], [(0, 0x5401, BAD), (0, 0x5413, BAD)]),
    "seccomp": ([(1, 8, BAD)], [(1, 0, BAD)]),
}  # fmt: skip
BY_NATURE: Final = {
    name for group in GROUPS.values() if group.refused_by_default for name in group.members
} | ENOSYS_ALWAYS.keys()


def arguments(probes: Probes, calls: Sequence[Call]) -> list[str]:
    numbered = [":".join(map(str, (at, NUMBERS[name], *args))) for at, (name, args) in enumerate(calls)]
    return [probes["wall_calls"], *numbered]


def made(probes: Probes, calls: Sequence[Call], profile: Profile | str = "untrusted") -> list[Verdict]:
    """Return the verdict on each call, inside."""
    additions = Additions(filesystem=FilesystemPolicy(execute=(str(probes.folder),)))
    ended = launch(plan_of(arguments(probes, calls), profile=profile, walls=True, additions=additions))
    assert (ended.code, ended.err) == (0, ""), ended
    return list(verdicts(ended.out).values())


def made_outside(probes: Probes, calls: Sequence[Call]) -> list[Verdict]:
    """Return the verdict on each call without a sandbox."""
    return list(verdicts(run(arguments(probes, calls)).out).values())


def test_calls_that_reach_outside_by_their_nature_are_refused(probes: Probes) -> None:
    inside_only = [(name, (BAD,) * 6) for name in sorted(BY_NATURE - CALLS.keys())]
    calls = [*CALLS.items(), *inside_only]
    wanted = [ENOSYS if name in ENOSYS_ALWAYS else EPERM for name, _ in calls]
    assert made(probes, calls) == wanted
    outside = dict(zip(CALLS, made_outside(probes, [*CALLS.items()]), strict=True))
    same = {name for name, verdict in zip(CALLS, wanted, strict=False) if outside[name] == verdict}
    assert same <= (set() if ROOT else NEED_PRIVILEGE), "the kernel refuses these by itself, so nothing is shown"


# Calls that the kernel refuses an ordinary user before it looks at their arguments.
NEED_PRIVILEGE: Final = {
    "mount", "umount2", "pivot_root", "chroot", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick",
    "mount_setattr", "open_tree", "perf_event_open", "userfaultfd", "bpf", "settimeofday", "clock_settime",
    "clock_adjtime", "reboot", "swapon", "swapoff", "iopl", "ioperm", "acct", "quotactl", "syslog", "sethostname",
    "setdomainname", "open_by_handle_at", "fanotify_init",
}  # fmt: skip


def test_calls_by_other_entries_are_refused(probes: Probes) -> None:
    """The same calls by x32's numbers and by the entry of i386, where the kernel has them."""
    x32 = [raised(name) for name in ("getpid", "openat", "ptrace")]
    calls = [probes["wall_calls"], *x32]
    additions = Additions(filesystem=FilesystemPolicy(execute=(str(probes.folder),)))
    inside = launch(plan_of(calls, walls=True, additions=additions))
    assert list(verdicts(inside.out).values()) == [EPERM] * len(x32)
    assert EPERM not in verdicts(run(calls).out).values()
    assert made(probes, [("getpid", ())]) == [OK]
    i386 = launch(plan_of([probes["inside"], "3"], walls=True, additions=additions))
    found = {name: verdict for name, verdict in verdicts(i386.out).items() if name.endswith("-i386")}
    assert set(found.values()) <= {EPERM}
    assert found.keys() == {name for name in verdicts(run([probes["inside"], "3"]).out) if name.endswith("-i386")}


def raised(name: str) -> str:
    return f"{name}:{NUMBERS[name] | filtering.X32_FIRST}"


@pytest.mark.parametrize("name", RULED)
def test_call_with_arguments_that_reach_outside_is_refused_by_its_rules(
    probes: Probes, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    wrong, right = ([(name, args) for args in some] for some in RULED[name])
    assert made(probes, wrong) == [EPERM] * len(wrong)
    allowed = made(probes, right)
    assert allowed == made_outside(probes, right)
    assert EPERM not in allowed
    rules = filter_rules.argument_rules
    monkeypatch.setattr(seccomp, "_verify", lambda *_: None)
    monkeypatch.setattr(
        seccomp, "argument_rules", lambda policy: [rule for rule in rules(policy) if rule.syscall != name]
    )
    without = made(probes, wrong)
    assert without != [EPERM] * len(wrong)
    assert [verdict for verdict in without if verdict == EPERM] == [EPERM] * BY_KERNEL.get(name, 0)


# How many of the wrong ones the kernel refuses a process without capabilities all the same: packet sockets.
BY_KERNEL: Final = {"socket": 1}


# All calls of the others need capabilities.
NEEDS_NONE: Final = [
    name for name, group in GROUPS.items() if group.refused_by_default and name not in {"@reboot", "@swap", "@module"}
]


@pytest.mark.parametrize("group", NEEDS_NONE)
def test_group_that_a_profile_allows_is_not_refused(probes: Probes, group: str) -> None:
    """So it is the group that refuses, and not the kernel by itself."""
    loaded = load("untrusted", search=default_search_path(os.environ))
    allowing = replace(loaded, filter=replace(loaded.filter, allow=(*loaded.filter.allow, group)))
    calls = [(name, CALLS.get(name, (BAD,) * 6)) for name in GROUPS[group].members if name != "vhangup"]
    assert set(made(probes, calls)) == {EPERM}
    assert set(made(probes, calls, profile=allowing)) != {EPERM}
