"""Starting the launcher: seal a plan, hand it over, read the status; in the manner of `subprocess`."""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import io
import os
import signal as _signal
import subprocess
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import (
    IO,
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    NoReturn,
    Self,
    SupportsIndex,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
)

from sandbox import kept, wire
from sandbox.addresses import looked_up
from sandbox.allowlist import parse_bind, parse_peer
from sandbox.build import build, build_obtaining, grant_label
from sandbox.caller import Caller, Joined
from sandbox.errors import GrantError, InternalError, LaunchError, UsageError
from sandbox.events import Event, Exited, Failed, Received, Started, event_of
from sandbox.filesystem import FilesystemPolicy
from sandbox.grants import (
    ABSENT,
    Access,
    DirectoryGrant,
    FdType,
    FileGrant,
    Grant,
    InheritGrant,
    SocketGrant,
    checked,
    parse_grant,
)
from sandbox.kept import Compiled, Kept
from sandbox.plan import OpCode, Plan, StatusFormat
from sandbox.probe import launcher_path
from sandbox.profile import (
    PATH_LISTS,
    NetworkMode,
    Profile,
    ScmRights,
    SharedNamespace,
    StreamsPolicy,
    Tty,
    check,
)
from sandbox.profile_files import Trail, default_search_path, load
from sandbox.resolve import Additions, for_caller, grant_for_caller, passed_grants
from sandbox.sending import not_sent

if TYPE_CHECKING:
    from sandbox.channel import Channel  # it imports socket, which not every start needs

Command: TypeAlias = Sequence[str | bytes | os.PathLike[str]]
Stream: TypeAlias = int | IO[Any] | None
Paths: TypeAlias = Sequence[str | os.PathLike[str]]
Member = TypeVar("Member", bound=enum.StrEnum)
_LAST_STREAM: Final = 2
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def seal(plan: Plan) -> int:
    """Write a plan into a sealed memfd.

    Returns: a close-on-exec descriptor, owned by the caller; its number is 3 or more and none that the plan names,
    so that a descriptor which the plan names and nobody has open is found missing, not taken for the plan.
    Raises: PlanError if the launcher would refuse the plan.
    Kernel: 3.17. Source: memfd_create(2).
    """
    return _seal_bytes(wire.encode(plan), set(plan.needed()))


def _seal_bytes(data: bytes, named: Collection[int]) -> int:
    fd = os.memfd_create("plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return _copy_above(fd, named)
    finally:
        os.close(fd)


def _copy_above(fd: int, avoid: Collection[int]) -> int:
    """Return a close-on-exec copy whose number is 3 or more and not in `avoid`; the caller owns it."""
    with contextlib.ExitStack() as passed_over:
        while True:
            copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            if copy not in avoid:
                return copy
            passed_over.callback(os.close, copy)


def original_environment() -> dict[str, str]:
    """Return the environment that this process was started with.

    Python itself may have added to os.environ (PEP 538 sets LC_CTYPE); what the child keeps is the caller's.
    """
    entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    pairs = (entry.split(b"=", 1) for entry in entries if b"=" in entry[1:])
    return {os.fsdecode(name): os.fsdecode(value) for name, value in pairs}


def launcher_arguments(plan: Plan, fd: int) -> list[str]:
    """Return what the launcher is told: where its plan is, and, in words of the protocol dev-fd, what else it needs.

    Inside another sandbox, the exec gate there lets just that pass.
    """
    return [f"/dev/fd/{number}" for number in (fd, *plan.needed()) if number > _LAST_STREAM]


@contextlib.contextmanager
def network_for(profile: Profile, caller: Caller, *, status: int | None = None) -> Iterator[Caller]:
    """Open or make the network that a profile's sandbox is to join, and give the caller's facts with it.

    Within, a plan can be built and started; the sandbox then keeps what it needs, and without one all goes at the end.
    Raises: UsageError, LaunchError for what cannot be had.
    """
    from sandbox.netns import joining

    profile = passed_grants(profile, caller)
    check(profile)
    avoid = {grant.fd for grant in profile.grants if isinstance(grant, InheritGrant)} | {status or 0}
    with joining(profile.network, caller) as joined, contextlib.ExitStack() as ours:
        if joined is None:
            yield caller
            return
        copies = [_copy_above(fd, avoid) if fd else 0 for fd in (joined.namespace, joined.keeper)]
        for copy in filter(None, copies):
            ours.callback(os.close, copy)
        yield replace(caller, joined=Joined(*copies))


def replace_process(plan: Plan, environment: Mapping[str, str]) -> NoReturn:
    """Become the launcher (execve): same process ID, no Python left. `environment` is the caller's, untouched.

    Raises: PlanError, LaunchError if an outer sandbox lets no descriptor be passed, OSError if the launcher cannot be
    executed; otherwise does not return.
    """
    fd = seal(plan)
    try:
        for passed in (fd, *plan.joined()):
            os.set_inheritable(passed, True)
    except PermissionError as error:
        hint = "its profile has to delegate dev-fd, as untrusted does"
        raise LaunchError("plan", "", errno.EPERM, "an outer sandbox lets no descriptor pass", hint) from error
    os.execve(launcher_path(), ["sandbox-launch", *launcher_arguments(plan, fd)], environment)


class Walls(TypedDict, total=False):
    """What Popen and run add to a profile's walls; each as the option of `sandbox run` of that name, if there is one.

    read, write, execute, tmpfs, private, hide: paths; limits: by name, as in {"memory": "512M"}; user: "NAME[:GROUP]".
    activation: tell the child of its sockets by LISTEN_FDS; notify: it may use the caller's NOTIFY_SOCKET.
    die_with_parent: everything ends when this process does, however that comes.
    """

    read: Paths
    write: Paths
    execute: Paths
    tmpfs: Paths
    private: Paths
    hide: Paths
    net: str
    net_allow: Sequence[str]
    net_bind: Sequence[str]
    dns: bool
    netns: str
    share: Sequence[str]
    delegate: Sequence[str]
    limits: Mapping[str, str | float]
    tty: str
    streams: str
    user: str
    activation: bool
    notify: bool
    die_with_parent: bool


class Popen:
    """A program in a sandbox, in the manner of subprocess.Popen; the constructor returns when its exec succeeded.

    command: the program and its arguments; `{fd:NAME}` in an argument becomes the grant's number.
    profile: a name, a path or a Profile. grants: Grant values or their command-line form; an `inherit` grant names a
    descriptor of this process, which stays open and its owner's. env: variables to set besides those that the profile
    keeps. cwd: the child's working directory. walls: as in Walls. channel: a socket to the child, its grant `channel`,
    for send_grant(), receive() and revoke(); "propagate": that grant propagates. stdin, stdout, stderr, text,
    encoding, errors, bufsize as in subprocess.

    Raises: CommandNotFoundError (a FileNotFoundError), CommandNotExecutableError (a PermissionError), LaunchError when
    another step failed, ProfileError, GrantError, PlanError, UsageError. Nothing runs after an error.

    pid is the launcher's; signals sent to it are forwarded to the child, and the child dies with it. child_pid is the
    child's. returncode is None until poll(), wait() or communicate() has seen the end; -N for death by signal N.
    """

    def __init__(
        self,
        command: Command,
        *,
        profile: str | Profile = "untrusted",
        grants: Iterable[Grant | str] = (),
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        text: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        bufsize: int = -1,
        channel: bool | Literal["propagate"] = False,
        **walls: Unpack[Walls],
    ) -> None:
        if isinstance(command, str | bytes) or not command:
            raise UsageError(repr(command), "a command is a list: the program and its arguments", 'as in ["ls", "-l"]')
        self.args: Command = command
        self.returncode: int | None = None
        self._events: list[Event] = []
        self._ending = threading.Lock()
        self._channel: Channel | None = None
        words, grants = [os.fsdecode(word) for word in command], tuple(grants)
        # The child's terminal is ours only where its streams are.
        own_streams = stdin is None and stdout is None
        key = None if channel else kept.key_of(words, profile, grants, env or {}, cwd, walls, own_streams)
        start = kept.find(key)
        if start is None:
            start = _start_of(profile, grants, env or {}, cwd, walls, own_streams=own_streams)
            if not _needs_copies(start.profile):
                kept.keep(key, start)
        with contextlib.ExitStack() as ours:
            chosen = _above_streams(start.profile, ours)
            if channel:
                chosen = self._open_channel(chosen, ours, propagate=channel == "propagate")
            read_end, write_end = status_pipe({g.fd for g in chosen.grants if isinstance(g, InheritGrant)})
            ours.callback(os.close, write_end)
            # Unbuffered; a file, so that it is closed even if nobody ever waits.
            self._status = io.FileIO(read_end)
            with _closed_on_error(self._status), self._closing_channel(), contextlib.ExitStack() as network:
                compiled = start.plans.get(write_end)
                if compiled is None:
                    caller = network.enter_context(network_for(chosen, start.caller))
                    compiled = _compiled(chosen, words, caller, write_end)
                    start.add(write_end, compiled)
                self._plan = compiled.plan
                plan_fd = _seal_bytes(compiled.data, set(self._plan.needed()))
                ours.callback(os.close, plan_fd)
                inherited = filter(_is_open, [op.b for op in self._plan.only(OpCode.INHERIT)])
                self._process: subprocess.Popen[Any] = subprocess.Popen(
                    [launcher_path(), *launcher_arguments(self._plan, plan_fd)],
                    pass_fds=[plan_fd, write_end, *inherited, *self._plan.joined()],
                    stdin=stdin, stdout=stdout, stderr=stderr,
                    text=text, encoding=encoding, errors=errors, bufsize=bufsize,
                )  # fmt: skip
        self.stdin, self.stdout, self.stderr = self._process.stdin, self._process.stdout, self._process.stderr
        self.pid = self._process.pid
        try:
            self.child_pid = self._await_start()
        except BaseException:
            self._abandon()
            raise

    def _await_start(self) -> int:
        """Return the child's pid once its exec succeeded; raise what failed otherwise."""
        match self._next_event():
            case Started(pid=pid):
                return pid
            case Failed(error=error):
                raise error
        raise InternalError("launcher", f"it ended ({self._process.wait()}) without a word")

    def _abandon(self) -> None:
        """Leave nothing behind: no process, zombie or descriptor."""
        self._process.kill()
        self._process.wait()
        self.close_channel()
        self._status.close()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()

    def _next_event(self) -> Event | None:
        """Read one record; None at the end, or when nothing is there and the descriptor does not block."""
        data = b""
        while len(data) < wire.EVENT_SIZE:
            chunk = self._status.read(wire.EVENT_SIZE - len(data))
            if not chunk:
                return None
            data += chunk
        event = event_of(wire.decode_record(data), self._plan)
        self._events.append(event)
        return event

    def _finish(self) -> int:
        """The launcher has ended: read what is left, close the status descriptor, set the return code."""
        with self._ending:
            if self.returncode is None:
                # All is written by now. The end of the pipe may not be: a fork elsewhere in this process has copies.
                os.set_blocking(self._status.fileno(), False)
                while self._next_event() is not None:
                    pass
                self._status.close()
                ends = [event.returncode for event in self._events if isinstance(event, Exited)]
                self.returncode = ends[-1] if ends else self._process.returncode
            return self.returncode

    @property
    def events(self) -> tuple[Event, ...]:
        """What the launcher has told so far: Started, then Exited."""
        return tuple(self._events)

    def poll(self) -> int | None:
        """Return the return code if the child has ended, else None; -N for death by signal N."""
        return None if self.returncode is None and self._process.poll() is None else self._finish()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises subprocess.TimeoutExpired after `timeout` seconds, and the child goes on."""
        with self._own_words(timeout):
            self._process.wait(timeout)
        return self._finish()

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:  # noqa: ANN401 - str or bytes
        """Send `input`, read to the end of both streams, wait; as subprocess.Popen.communicate."""
        with self._own_words(timeout):
            out, err = self._process.communicate(input, timeout)
        self._finish()
        return out, err

    @contextlib.contextmanager
    def _own_words(self, timeout: float | None) -> Iterator[None]:
        """Let an exception tell of our command and of the whole time, not of the launcher and of what was left."""
        try:
            yield
        except subprocess.TimeoutExpired as expired:
            expired.cmd = self.args
            if timeout is not None:
                expired.timeout = timeout
            raise

    def _open_channel(self, profile: Profile, ours: contextlib.ExitStack, *, propagate: bool) -> Profile:
        """Return the profile with the child's end as a grant; our end is self._channel."""
        if profile.descriptors.scm_rights is ScmRights.DENY:
            raise UsageError(
                "channel", "scm_rights is denied, so nothing can be sent", "choose a profile that allows it"
            )
        from sandbox.channel import Channel, pair

        mine, theirs = pair()
        self._channel = Channel(mine)
        with self._closing_channel(), theirs:
            end = _copy_above(theirs.fileno(), {g.fd for g in profile.grants if isinstance(g, InheritGrant)})
        ours.callback(os.close, end)
        grant = InheritGrant(name=CHANNEL, inherit=end, type=FdType.SOCKET, propagate=propagate)
        return replace(profile, grants=(*profile.grants, grant))

    @contextlib.contextmanager
    def _closing_channel(self) -> Iterator[None]:
        """Close our end if an exception passes."""
        try:
            yield
        except BaseException:
            self.close_channel()
            raise

    def _channel_for(self, what: str) -> Channel:
        if self._channel is None:
            raise UsageError(what, "there is no channel to the child", "start it with Popen(..., channel=True)")
        return self._channel

    def send_grant(self, grant: Grant | str, *, timeout: float | None = 30) -> None:
        """Open a grant as at the start, and send it to the child: a message with the grant's name and one descriptor.

        It is exactly as strong as one of the start; the receiver's number is whichever is free, and at the receiver's
        next exec it closes. Nothing of it stays open here, but for a socket, which revoke() can shut down.
        Raises: GrantError for what cannot be sent, a receiver that is gone, or takes nothing for `timeout` seconds;
        LaunchError if the grant cannot be obtained.
        """
        channel, given = self._channel_for("send_grant"), parse_grant(grant) if isinstance(grant, str) else grant
        _refuse_unsendable(given)
        ends = None if timeout is None else time.monotonic() + timeout
        fd = obtain_grant(grant_for_caller(given, Caller.of_process(parent_pid=os.getpid())), timeout=timeout)
        try:
            channel.send(given.name, fd, None if ends is None else max(0.0, ends - time.monotonic()))
        finally:
            os.close(fd)

    def receive(
        self, *, timeout: float | None = None, size: int = 4096, descriptors: int = 0
    ) -> Received | None:  # fmt: skip
        """Return the next message of the child, at most `size` bytes of it; None when it has closed its end.

        At most so many `descriptors` of a message are taken, and are the caller's to close; the others never get here.
        Raises: TimeoutError after `timeout` seconds; UsageError for a message that is longer.
        """
        return self._channel_for("receive").receive(timeout, size, descriptors)

    def revoke(self, name: str) -> None:
        """Take back what was sent under a name: sockets are shut down, for whoever holds them. "channel": the channel.

        Raises: GrantError for everything else, which the kernel leaves with whom it was given to.
        """
        channel = self._channel_for("revoke")
        if name == CHANNEL:
            channel.close()
        else:
            channel.revoke(name)

    def close_channel(self) -> None:
        """Close our end of the channel, if there is one; the child's receives come to an end."""
        if self._channel is not None:
            self._channel.close()

    def send_signal(self, signal: int) -> None:
        """Send a signal to the launcher, which forwards it; SIGKILL ends the launcher and the child with it."""
        self._process.send_signal(signal)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(_signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(_signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        self.close_channel()  # before the wait: the end of the channel may be what the child waits for
        self._process.__exit__(kind, error, trace)
        if self._process.returncode is not None:
            self._finish()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        hint = "send its command and profile, and start it there; what can be sent are its events and its end"
        raise not_sent("Popen", "a running process and its descriptors", hint)

    def __repr__(self) -> str:
        return f"<sandbox.Popen: returncode: {self.returncode} args: {self.args!r}>"


CHANNEL: Final = "channel"  # the grant's name; the child finds it by SANDBOX_FD_CHANNEL


def _refuse_unsendable(grant: Grant) -> None:
    """Refuse what a grant says of the start, and what would not be as strong as it says.

    A folder's rights are Landlock's, and a socket's peer is kept by the filter; both stand from the start on.
    """
    checked(grant)
    if grant.number is not None:
        raise GrantError(grant.name, "the number of a sent descriptor cannot be chosen", "the receiver learns it")
    if grant.propagate:
        raise GrantError(grant.name, "a sent descriptor does not propagate", "the receiver names it at its exec")
    if isinstance(grant, DirectoryGrant):
        raise GrantError(
            grant.name, "the rules for what lies in a folder stand from the start on", "grant it at the start"
        )  # fmt: skip
    match grant:
        case FileGrant(access=Access.APPEND, raw=False) | InheritGrant(relay=True):
            raise GrantError(
                grant.name, "the supervisor copies what is relayed, or appended, from the start on",
                "grant it at the start, or give the file or descriptor as it is: raw",
            )  # fmt: skip
    if isinstance(grant, SocketGrant):
        raise GrantError(
            grant.name, "the rules for the peers of a socket stand from the start on",
            "grant it at the start, or make it in this process and send it with inherit",
        )  # fmt: skip


def obtain_grant(grant: Grant, *, timeout: float | None = 30) -> int:
    """Open a grant as the start of a sandbox does, by the launcher, and return its descriptor, the caller's to close.

    Raises: LaunchError if that fails; GrantError if it takes longer.
    """
    from sandbox.channel import obtained

    if isinstance(grant, InheritGrant) and not _is_open(grant.fd):
        raise LaunchError("inherit", grant_label(grant), errno.EBADF, hint="open it in this process")
    with contextlib.ExitStack() as ours:
        grant = _copied_above_streams(grant, {0, 1, 2}, ours)
        read_end, write_end = status_pipe(())
        status = ours.enter_context(io.FileIO(read_end))
        with io.FileIO(write_end, "w"):
            plan = build_obtaining(grant, write_end)
            plan_fd = seal(plan)
            ours.callback(os.close, plan_fd)

            def start(socket: int) -> None:
                named, *others = launcher_arguments(plan, plan_fd)
                inherited = [op.b for op in plan.only(OpCode.INHERIT)]
                subprocess.run(
                    [launcher_path(), "--obtain", named, f"/dev/fd/{socket}", *others], timeout=timeout, check=False,
                    pass_fds=[plan_fd, socket, write_end, *inherited],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip

            try:
                fd = obtained(start)
            except subprocess.TimeoutExpired as expired:
                raise GrantError(grant.name, "it was not opened in time", "give it more time") from expired
        if fd is not None:
            return fd
        os.set_blocking(status.fileno(), False)  # a fork elsewhere in this process has copies of the other end
        record = status.read(wire.EVENT_SIZE)
        if not record:
            raise InternalError("launcher", "it obtained nothing, without a word")
        event = event_of(wire.decode_record(record), plan)
        raise event.error if isinstance(event, Failed) else InternalError("launcher", "it told of a start")


def channel_grant(fd: int) -> InheritGrant:
    """Return the grant `channel` of a descriptor that this process was started with, as `sandbox run --channel` does.

    Raises: UsageError unless it is a connected Unix socket, stream or seqpacket.
    """
    from sandbox.channel import check_channel

    check_channel(fd)
    return InheritGrant(name=CHANNEL, inherit=fd, type=FdType.SOCKET)


def _start_of(
    profile: str | Profile,
    grants: Iterable[Grant | str],
    env: Mapping[str, str],
    cwd: str | os.PathLike[str] | None,
    walls: Walls,
    *,
    own_streams: bool,
) -> Kept:
    """Return the profile with what the Python caller adds, and what that was made of; without a plan so far.

    Grants are still numbered as this process has them.
    """
    caller, trail = Caller.of_process(parent_pid=os.getpid()), Trail()
    caller = replace(caller, interactive=caller.interactive and own_streams)
    if isinstance(profile, str):
        profile = load(profile, search=default_search_path(os.environ), trail=trail)
    user, _, group = (walls.get("user") or "").partition(":")
    net, tty, streams = walls.get("net"), walls.get("tty"), walls.get("streams")
    added = Additions(
        grants=tuple(parse_grant(grant) if isinstance(grant, str) else grant for grant in grants),
        variables=env,
        chdir=None if cwd is None else os.fspath(cwd),
        filesystem=_lists(walls),
        network=None if net is None else _member(NetworkMode, "net", net),
        allow=tuple(map(parse_peer, walls.get("net_allow", ()))),
        bind=tuple(map(parse_bind, walls.get("net_bind", ()))),
        dns=walls.get("dns", False),
        netns=walls.get("netns"),
        share=tuple(_member(SharedNamespace, "share", word) for word in walls.get("share", ())),
        delegate=tuple(walls.get("delegate", ())),
        limits=walls.get("limits", {}),
        tty=None if tty is None else _member(Tty, "tty", tty),
        streams=None if streams is None else _member(StreamsPolicy, "streams", streams),
        activation=walls.get("activation", False),
        notify=walls.get("notify", False),
        die_with_parent=walls.get("die_with_parent", False),
        user=user or None,
        group=group or None,
    )
    chosen = passed_grants(for_caller(profile, caller, added), caller)
    check(chosen)
    caller = caller.becoming(chosen.process.user, chosen.process.group)
    return Kept(chosen, looked_up(caller, chosen.grants, chosen.network), trail)


def _compiled(profile: Profile, words: Sequence[str], caller: Caller, status: int) -> Compiled:
    plan = build(profile, words, caller, status=(status, StatusFormat.RECORDS), quiet=True)
    return Compiled(plan, wire.encode(plan))


def _lists(walls: Walls) -> FilesystemPolicy:
    def paths(name: str, value: Paths) -> tuple[str, ...]:
        if isinstance(value, str | os.PathLike):
            raise UsageError(f"{name}={value!r}", "it is one path", f"give a list: {name}=[{os.fspath(value)!r}]")
        return tuple(os.fspath(path) for path in value)

    return FilesystemPolicy(**{name: paths(name, walls.get(name, ())) for name in PATH_LISTS})  # type: ignore[arg-type]


def _member(kind: type[Member], name: str, word: str) -> Member:
    try:
        return kind(word)
    except ValueError as error:
        raise UsageError(f"{name}={word!r}", "no such word", "one of " + ", ".join(kind)) from error


def _needs_copies(profile: Profile) -> bool:
    return any(isinstance(grant, InheritGrant) and grant.fd <= _LAST_STREAM for grant in profile.grants)


def _above_streams(profile: Profile, ours: contextlib.ExitStack) -> Profile:
    """Copy what is inherited from 0, 1 and 2: those are this process's streams, not those that the child gets there."""
    if not _needs_copies(profile):
        return profile
    named = {grant.fd for grant in profile.grants if isinstance(grant, InheritGrant)}
    return replace(profile, grants=tuple(_copied_above_streams(grant, named, ours) for grant in profile.grants))


def _copied_above_streams(grant: Grant, avoid: Collection[int], ours: contextlib.ExitStack) -> Grant:
    if not isinstance(grant, InheritGrant) or grant.fd == ABSENT or grant.fd > 2:
        return grant
    if not _is_open(grant.fd):
        raise LaunchError("inherit", grant_label(grant), errno.EBADF, hint="open it in this process")
    copy = _copy_above(grant.fd, avoid)
    ours.callback(os.close, copy)
    return replace(grant, inherit=copy)


def status_pipe(avoid: Collection[int]) -> tuple[int, int]:
    """Return both ends of a pipe, above the standard streams and off the numbers that grants name."""
    with contextlib.ExitStack() as first:
        ends = os.pipe()
        for end in ends:
            first.callback(os.close, end)
        read_end = _copy_above(ends[0], avoid)
        try:
            return read_end, _copy_above(ends[1], avoid)
        except OSError:
            os.close(read_end)
            raise


def _is_open(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _closed_on_error(file: io.FileIO) -> Iterator[None]:
    try:
        yield
    except BaseException:
        file.close()
        raise


def run(
    command: Command,
    *,
    profile: str | Profile = "untrusted",
    grants: Iterable[Grant | str] = (),
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    input: Any = None,  # noqa: ANN401 - str or bytes
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    stdin: Stream = None,
    stdout: Stream = None,
    stderr: Stream = None,
    text: bool | None = None,
    encoding: str | None = None,
    errors: str | None = None,
    **walls: Unpack[Walls],
) -> subprocess.CompletedProcess[Any]:
    """Run a command in a sandbox and wait for it, in the manner of subprocess.run; the rest is as for Popen.

    timeout: in seconds. Returns: a subprocess.CompletedProcess; returncode is -N for death by signal N.
    Raises: what Popen raises; subprocess.TimeoutExpired after killing the sandbox; subprocess.CalledProcessError with
    check=True and a return code that is not 0; ValueError for contradicting streams.
    """
    if input is not None and stdin is not None:
        raise ValueError("stdin and input arguments may not both be used.")
    if capture_output and (stdout is not None or stderr is not None):
        raise ValueError("stdout and stderr arguments may not be used with capture_output.")
    if input is not None:
        stdin = subprocess.PIPE
    if capture_output:
        stdout = stderr = subprocess.PIPE
    with Popen(
        command, profile=profile, grants=grants, env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr,
        text=text, encoding=encoding, errors=errors, **walls,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            # What was read until a timeout is in its exception already. Programs that the child left behind may hold
            # the streams open, so nobody waits for their end.
            process.kill()
            process.wait()
            raise
    code = process.wait()
    if check and code:
        raise subprocess.CalledProcessError(code, process.args, out, err)
    return subprocess.CompletedProcess(process.args, code, out, err)


@contextlib.contextmanager
def outliving_terminal() -> Iterator[None]:
    """Let SIGINT and SIGQUIT end the command and not us: a terminal sends them to both, and we tell how it ended.

    What is ignored stays ignored, in the command as well. In another thread than the main one it does nothing.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (_signal.SIGINT, _signal.SIGQUIT):
            if _signal.getsignal(number) is not _signal.SIG_IGN:
                before[number] = _signal.signal(number, lambda *_: None)  # a function: the command does not inherit it
    try:
        yield
    finally:
        for number, handler in before.items():
            _signal.signal(number, handler)
