"""An attack: what hostile code is let loose on, and what it got done, looked at from outside."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

SCRIPT: Final = Path(__file__).resolve().parent.parent / "profiles" / "attack.py"
ATTEMPTS: Final = ("reads", "writes", "connects", "stays", "looks aside", "speaks", "sees")
"""A key of the home folder; outside; to servers of the host; on, when all is over; at another project; to agents that
act for the user; into other processes."""
SECONDS: Final = 120


@dataclass
class Host:
    """What hostile code could reach on the host: servers of three kinds, which remember what they were told."""

    heard: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Bind the sockets and listen."""
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX)
        self.name = f"sandbox-library-{secrets.token_hex(8)}"
        self.unix.bind(f"\0{self.name}")
        self.unix.listen()
        for target in (self._hear_tcp, self._hear_unix, self._hear_udp):
            threading.Thread(target=target, daemon=True).start()

    def _hear_tcp(self) -> None:
        self._accept(self.tcp)

    def _hear_unix(self) -> None:
        self._accept(self.unix)

    def listen(self, path: Path) -> None:
        """Listen at a path, too, as an agent does."""
        server = socket.socket(socket.AF_UNIX)
        server.bind(bytes(path))
        path.chmod(0o777)
        server.listen()
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = server.accept()
                with peer:
                    peer.settimeout(5)
                    self.heard.add(peer.recv(64))

    def _hear_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.heard.add(self.udp.recv(64))

    def settle(self) -> None:
        """Return once all that was sent until now is heard: what is sent last is heard last."""
        marks = [secrets.token_bytes(16) for _ in range(3)]
        with socket.create_connection(self.tcp.getsockname()) as client:
            client.sendall(marks[0])
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"\0{self.name}")
            client.sendall(marks[1])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(marks[2], self.udp.getsockname())
        end = time.monotonic() + SECONDS
        while not self.heard.issuperset(marks):
            assert time.monotonic() < end, "a server of the host does not answer"
            time.sleep(0.01)

    def close(self) -> None:
        """End the servers."""
        for server in (self.tcp, self.udp, self.unix):
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What hostile code got done, looked at from outside.

    ran: it was executed at all; changed: it wrote into the working folder.
    """

    ran: bool
    changed: bool
    done: frozenset[str]
    said: str


class Aim:
    """What an attack is aimed at, in a folder of its own: a home with a secret and agents, a project, a process."""

    def __init__(self, folder: Path, work: Path, host: Host, user: str | None) -> None:
        """work: the folder that the attack's code is put into. user: whom all belongs to, and who runs it."""
        self.work, self.host = work, host
        self.secret, self.token, self.beside, self.hidden = (secrets.token_hex(16) for _ in range(4))
        self.stay = f"86400.{int(self.token[:8], 16)}"
        self.home, outside, aside = (folder / name for name in ("home", "outside", "aside"))
        self.agents = (self.home / ".gnupg/S.gpg-agent", folder / "ssh-a/agent.1")
        for path in (self.home, outside, aside, self.home / ".ssh", *(agent.parent for agent in self.agents)):
            path.mkdir()
        self.secret_file, self.planted, self.profile = (
            self.home / ".ssh/id",
            outside / "planted",
            self.home / ".profile",
        )
        self.secret_file.write_text(self.secret)
        self.profile.write_text("# mine\n")
        (aside / "notes").write_text(self.beside)
        for agent in self.agents:
            host.listen(agent)
        self.identity: dict[str, Any] = {}
        if user is not None:
            entry = pwd.getpwnam(user)
            self.identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self.other = subprocess.Popen(["sleep", "86400"], env={"HIDDEN": self.hidden}, **self.identity)
        self._plant(aside / "notes")
        for path in (folder, *folder.rglob("*")) if user is not None else ():
            os.chown(path, self.identity["user"], self.identity["group"])

    def _plant(self, notes: Path) -> None:
        attack = self.work / "attack.py"
        shutil.copy(SCRIPT, attack)
        attack.chmod(0o755)
        aim = {
            "secret": str(self.secret_file), "files": [str(self.planted), str(self.profile)], "beside": str(notes),
            "tcp": self.host.tcp.getsockname(), "udp": self.host.udp.getsockname(), "unix": f"\0{self.host.name}",
            "agents": [str(agent) for agent in self.agents], "other": self.other.pid,
            "token": self.token, "stay": self.stay,
        }  # fmt: skip
        (self.work / "attack.json").write_text(json.dumps(aim))

    def verdict(self, said: str) -> Verdict:
        """Look at what the hostile code has done; what it left running is ended."""
        self.host.settle()
        report = self.work / "attacked"
        text = said + (report.read_text() if report.exists() else "")
        left = _processes(self.stay)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        done = {
            "reads": self.secret in text,
            "writes": self.planted.exists() or self.token in self.profile.read_text(),
            "connects": self.token.encode() in self.host.heard,
            "stays": bool(left),
            "looks aside": self.beside in text,
            "speaks": f"agent {self.token}".encode() in self.host.heard,
            "sees": self.hidden in text,
        }
        assert tuple(done) == ATTEMPTS
        return Verdict(
            f"ran {self.token}" in text, report.exists(), frozenset(word for word, holds in done.items() if holds), text
        )

    def close(self) -> None:
        """End the other process."""
        self.other.kill()
        self.other.wait()


def _processes(argument: str) -> list[int]:
    """Return the processes that have this argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if argument.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found
