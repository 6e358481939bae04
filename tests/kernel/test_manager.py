"""What a command tells its service manager: what is handed on and what is not; what is stored, and given back."""

from __future__ import annotations

import array
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from sandbox.caller import Caller
from sandbox.errors import GrantError
from sandbox.filesystem import FilesystemPolicy, View
from sandbox.grants import parse_grant
from sandbox.plan import OpCode
from sandbox.profile import ScmRights, SharedNamespace, check
from sandbox.profile_files import default_search_path, load
from sandbox.resolve import Additions, for_caller
from tests.support.callers import PYTHON, SANDBOX, Ended, launch, plan_of, run
from tests.support.processes import SECONDS
from tests.support.sealing import sealed_file

UNTRUSTED: Final = load("untrusted", search=default_search_path({}))
STORED: Final = "state=inherit:systemd:state:memfd,stored"

# Sends each message that it is told, hexadecimal, with so many memfds.
TELL: Final = """
import array, os, socket, sys
one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for text, count, kind in zip(*[iter(sys.argv[1:])] * 3):
    fds = [os.memfd_create("kept") if kind == "memfd" else os.pipe()[0] for _ in range(int(count))]
    if kind == "memfd":
        for fd in fds:
            os.write(fd, b"what was stored")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    one.sendmsg([bytes.fromhex(text)], rights, 0, os.environ["NOTIFY_SOCKET"])
"""


@dataclass(frozen=True, slots=True)
class Told:
    """A message that came to the manager; pid: who sent it, as the kernel says."""

    text: str
    fds: tuple[int, ...]
    pid: int


class Manager:
    """The socket of a service manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.setblocking(False)

    def taken(self) -> list[Told]:
        """Return what has come."""
        found: list[Told] = []
        while True:
            try:
                data, control, _, _ = self.socket.recvmsg(8192, 4096)
            except BlockingIOError:
                return found
            fds, pid = array.array("i"), 0
            for _, kind, content in control:
                if kind == socket.SCM_RIGHTS:
                    fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                else:
                    pid = int.from_bytes(content[:4], "little")
            found.append(Told(data.decode(), tuple(fds), pid))


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.socket.close()


def telling(*messages: tuple[str, int, str]) -> list[str]:
    return [PYTHON, "-S", "-c", TELL, *(word for text, count, kind in messages
                                        for word in (text.encode().hex(), str(count), kind))]  # fmt: skip


def notifying(manager: Manager, words: Sequence[str], command: Sequence[str]) -> Ended:
    return run(
        [*SANDBOX, "run", "-p", "untrusted", "--notify", *words, *command],
        env={**os.environ, "NOTIFY_SOCKET": str(manager.path)},
    )  # fmt: skip


def test_manager_hears_how_the_service_is_from_its_main_process_and_nothing_else(manager: Manager) -> None:
    messages = ["READY=1\nSTATUS=a\tb", "MAINPID=1\nWATCHDOG=1\nNOTIFYACCESS=all", "MAINPID=1"]
    messages += ["RELOADING=1\nMONOTONIC_USEC=5\n"]
    command = ["/usr/bin/env", f"NOTIFY_SOCKET={manager.path}"]
    process = subprocess.Popen(
        [*command, *SANDBOX, "run", "-p", "untrusted", "--notify", *telling(*((text, 0, "memfd") for text in messages))]
    )  # fmt: skip
    assert process.wait(SECONDS) == 0
    assert manager.taken() == [
        Told("READY=1\nSTATUS=a\tb", (), process.pid),
        Told("WATCHDOG=1", (), process.pid),
        Told("RELOADING=1\nMONOTONIC_USEC=5", (), process.pid),
    ]


def test_only_a_declared_descriptor_is_stored(manager: Manager) -> None:
    declared = ("FDSTORE=1\nFDNAME=state\nREADY=1", 1, "memfd")
    refused = {
        "no grant declares that": [
            ("FDSTORE=1\nFDNAME=other\nREADY=1", 1, "memfd"), ("FDSTORE=1\nREADY=1", 1, "memfd"),
        ],
        "is of another type than its grant": [("FDSTORE=1\nFDNAME=state\nREADY=1", 1, "pipe")],
        "one descriptor can be stored under a name": [
            ("FDSTORE=1\nFDNAME=state\nREADY=1", 2, "memfd"), ("FDSTORE=1\nFDNAME=state\nREADY=1", 0, "memfd"),
        ],
    }  # fmt: skip
    assert notifying(manager, ["--grant", STORED], telling(declared)) == Ended(0, "", "")
    removed, stored = manager.taken()
    assert (removed.text, removed.fds) == ("FDSTOREREMOVE=1\nFDNAME=state", ())
    assert stored.text == "READY=1\nFDSTORE=1\nFDNAME=state"
    assert [os.pread(fd, 99, 0) for fd in stored.fds] == [b"what was stored"]
    os.close(stored.fds[0])
    for reason, messages in refused.items():
        for message in messages:
            ended = notifying(manager, ["--grant", STORED], telling(message))
            assert (ended.code, reason in ended.err) == (0, True), ended
            assert [(told.text, told.fds) for told in manager.taken()] == [("READY=1", ())]
    # What is not said to be stored is no way either; a barrier is answered, and its descriptor goes no further.
    for text in ("READY=1", "BARRIER=1\nREADY=1", "FDSTORE=0\nREADY=1"):
        assert notifying(manager, ["--grant", STORED], telling((text, 1, "memfd"))).code == 0
        assert [(told.text, told.fds) for told in manager.taken()] == [("READY=1", ())]


def test_only_what_was_declared_is_removed(manager: Manager) -> None:
    for name, taken in (("state", ["FDSTOREREMOVE=1\nFDNAME=state"]), ("other", [])):
        message = (f"FDSTOREREMOVE=1\nFDNAME={name}", 0, "memfd")
        assert notifying(manager, ["--grant", STORED], telling(message)) == Ended(0, "", "")
        assert [told.text for told in manager.taken()] == taken


def test_barrier_ends_and_the_last_words_arrive(manager: Manager) -> None:
    """systemd-notify waits for its barrier; STOPPING=1 is told a moment before the end."""
    script = """
import array, os, socket
one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
read, write = os.pipe()
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write]))]
one.sendmsg([b"BARRIER=1"], rights, 0, os.environ["NOTIFY_SOCKET"])
os.close(write)
assert os.read(read, 1) == b""
one.sendto(b"STOPPING=1", os.environ["NOTIFY_SOCKET"])
"""
    assert notifying(manager, [], [PYTHON, "-S", "-c", script]) == Ended(0, "", "")
    assert [told.text for told in manager.taken()] == ["STOPPING=1"]


@pytest.mark.parametrize("words", [(), ("--net-allow", "tcp:127.0.0.1:9")], ids=str)
def test_manager_that_reads_late_misses_nothing(manager: Manager, words: Sequence[str]) -> None:
    """More than its queue holds: the command waits, as it would for the manager itself, and nothing is lost."""
    texts = [f"STATUS={number}" for number in range(200)]
    with subprocess.Popen(
        [*SANDBOX, "run", "-q", "-p", "untrusted", "--notify", *words, *telling(*((t, 0, "memfd") for t in texts))],
        env={**os.environ, "NOTIFY_SOCKET": str(manager.path)},
    ) as process:  # fmt: skip
        manager.socket.settimeout(SECONDS)
        assert [manager.socket.recv(99).decode() for _ in texts] == texts
        assert process.wait(SECONDS) == 0


def test_command_cannot_reach_the_managers_own_socket(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without op MANAGER there is no socket at all; with it, the one there is the supervisor's."""
    script = "import os; print(os.stat(os.environ['NOTIFY_SOCKET']).st_ino)"
    ended = notifying(manager, [], [PYTHON, "-S", "-c", script])
    assert (ended.code, ended.err) == (0, "")
    assert int(ended.out) != manager.path.stat().st_ino
    monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
    plan = plan_of(telling(("READY=1", 0, "memfd")), walls=True, notify=True)
    assert launch(plan).code == 0
    assert [told.text for told in manager.taken()] == ["READY=1"]
    without = replace(plan, ops=tuple(op for op in plan.ops if op.code is not OpCode.MANAGER))
    assert launch(without).code == 1
    assert manager.taken() == []


def test_manager_that_is_not_there_is_an_error(tmp_path: Path, marker: Path) -> None:
    ended = run([*SANDBOX, "run", "-p", "untrusted", "--notify", "touch", str(marker)],
                env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "none")})  # fmt: skip
    assert (ended.code, marker.exists()) == (125, False)
    assert ended.err.startswith("sandbox: notify: NOTIFY_SOCKET: No such file or directory; ")


# Given back.

SHOW: Final = """
import os
names = sorted(name for name in os.environ if name.startswith(("LISTEN", "SANDBOX_FD")) and name != "LISTEN_PID")
print(" ".join(f"{name}={os.environ[name]}" for name in names))
print("LISTEN_PID" in os.environ and os.environ["LISTEN_PID"] == str(os.getpid()))
for number in sorted(int(name) for name in os.listdir("/proc/self/fd")):
    if number > 2 and os.path.exists(f"/proc/self/fd/{number}"):
        print(number, os.fstat(number).st_ino)
"""
BECOME: Final = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[1], sys.argv[1:])
"""
GRANTS: Final = (
    "one=inherit:systemd:one:memfd,stored",
    "web=inherit:systemd:web:listener",
    "two=inherit:systemd:two:memfd,stored",
)


def started_with(start: Sequence[str], given: dict[str, int]) -> Ended:
    """Start it as a service manager does, with these descriptors by name."""

    def place() -> None:
        held = [os.dup2(fd, 100 + at) for at, fd in enumerate(given.values())]
        for number, fd in enumerate(held, 3):
            os.dup2(fd, number)

    environment = {**os.environ, "LISTEN_FDS": str(len(given)), "LISTEN_FDNAMES": ":".join(given)} if given else None
    return run([PYTHON, "-S", "-c", BECOME, *start], setup=place, env=environment)


@pytest.mark.parametrize("activation", [True, False])
@pytest.mark.parametrize("way", ["run", "sealed"])
def test_stored_grant_is_given_back_where_it_is_there(tmp_path: Path, way: str, activation: bool) -> None:
    words = [word for grant in GRANTS for word in ("--grant", grant)]
    command = [PYTHON, "-S", "-c", SHOW]
    if way == "run":
        start = [*SANDBOX, "run", "-q", "-p", "untrusted", "--notify", *["--activation"] * activation, *words, *command]
    else:
        added = Additions(grants=tuple(map(parse_grant, GRANTS)), notify=True, activation=activation)
        start = [str(sealed_file(tmp_path / "sealed", UNTRUSTED, command, added))]
    one, two = os.memfd_create("one"), os.memfd_create("two")
    with socket.create_server(("127.0.0.1", 0)) as server:
        fds = {"one": one, "two": two, "web": server.fileno()}
        inode = {name: os.fstat(fd).st_ino for name, fd in fds.items()}
        numbers = {"web": 3, "one": 4, "two": 5} if activation else {"one": 3, "web": 4, "two": 5}
        for names in (["web"], ["one", "web"], ["two", "web"], ["web", "two", "one"]):
            ended = started_with(start, {name: fds[name] for name in names})
            now = dict(numbers)
            if activation and names == ["two", "web"]:
                now["two"] = 4
            told = sorted((now[name], name) for name in names)
            shown = [f"SANDBOX_FD_{name.upper()}={now[name]}" for name in sorted(names)]
            if activation:
                shown = [f"LISTEN_FDNAMES={':'.join(name for _, name in told)}", f"LISTEN_FDS={len(told)}", *shown]
            lines = [" ".join(shown), str(activation), *(f"{number} {inode[name]}" for number, name in told)]
            assert ended == Ended(0, "\n".join(lines) + "\n", ""), names
        for wrong in ({}, {"one": one}):
            assert started_with(start, wrong).code == 125  # web is no stored one
    for fd in (one, two):
        os.close(fd)


@pytest.mark.parametrize("way", ["run", "sealed"])
def test_stored_grant_of_another_type_or_that_several_have_is_refused(tmp_path: Path, way: str) -> None:
    command = ["echo", "executed"]
    if way == "run":
        start = [*SANDBOX, "run", "-q", "-p", "untrusted", "--notify", "--grant", STORED, *command]
    else:
        added = Additions(grants=(parse_grant(STORED),), notify=True)
        start = [str(sealed_file(tmp_path / "sealed", UNTRUSTED, command, added))]
    memfd, (reading, writing) = os.memfd_create("kept"), os.pipe()
    assert started_with(start, {}) == Ended(0, "executed\n", "")
    assert started_with(start, {"state": memfd}) == Ended(0, "executed\n", "")
    ended = started_with(start, {"state": reading})
    assert (ended.code, ended.out, "is of another type: pipe" in ended.err) == (125, "", True)

    def place() -> None:
        os.dup2(memfd, 3)
        os.dup2(reading, 4)

    named = {**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "state:state"}
    twice = run([PYTHON, "-S", "-c", BECOME, *start], setup=place, env=named)
    assert (twice.code, twice.out) == (125, "")
    for fd in (memfd, reading, writing):
        os.close(fd)


@pytest.mark.parametrize(
    ("grant", "changes", "reason"),
    [
        (STORED, {}, "the service manager is told nothing"),
        (STORED, {"notify": True, "scm": True}, "scm_rights is denied"),
        (STORED, {"notify": True, "share": True}, "the command reaches the manager itself"),
        ("state=inherit:5:stored", {"notify": True}, "nobody gives a number back"),
        ("state@9=inherit:systemd:state:memfd,stored", {"notify": True, "activation": True}, "activation numbers"),
    ],
)
def test_stored_grant_that_cannot_be_is_refused(grant: str, changes: dict[str, Any], reason: str) -> None:
    loaded = UNTRUSTED
    if "scm" in changes:
        loaded = replace(loaded, descriptors=replace(loaded.descriptors, scm_rights=ScmRights.DENY))
    if "share" in changes:
        shared = (SharedNamespace.MOUNT, SharedNamespace.PID)
        loaded = replace(loaded, share=shared, filesystem=FilesystemPolicy(view=View.HOST))

    def use() -> None:
        added = Additions(
            grants=(parse_grant(grant),), notify=changes.get("notify", False),
            activation=changes.get("activation", False),
        )  # fmt: skip
        check(for_caller(loaded, Caller.of_process(0), added))

    with pytest.raises(GrantError, match=reason):
        use()
