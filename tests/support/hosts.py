"""Hosts to log in to: each an OpenSSH server with its own users' homes, processes, name and address.

They are namespaces of this machine. The programs are the machine's; of this project a host has what is brought there.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

USER: Final = "guest"
UID: Final = 2001
SSHD: Final = """
ListenAddress {address}:{port}
HostKey /run/host/host_key
AuthorizedKeysFile /run/host/key.pub
StrictModes no
PidFile none
UsePAM no
PrintMotd no
"""
CLIENT: Final = """
Host {name}
  HostName {address}
  HostKeyAlias fleet
"""
CLIENTS: Final = """
Host *
  Port {port}
  User {user}
  IdentityFile {folder}/key
  UserKnownHostsFile {folder}/known
  LogLevel ERROR
"""
# $1: the host's files; $2: its name; $3 and on: folders of this project.
BOOT: Final = """
set -e
files=$1 name=$2
shift 2
mount --make-rprivate /
mount -t proc proc /proc
hostname "$name"
mount -t tmpfs none /run
mkdir -p /run/sshd /run/host
mount --bind "$files" /run/host
for hidden in /home /root /tmp /var/tmp "$@"; do
    [ ! -d "$hidden" ] || mount -t tmpfs none "$hidden" # it may have lain below another
done
chmod 1777 /tmp /var/tmp
mount --bind /run/host/passwd /etc/passwd
mkdir -m 700 /home/$USER_NAME
chown $USER_ID:$USER_ID /home/$USER_NAME
exec /usr/sbin/sshd -D -e -f /run/host/sshd_config
"""


@dataclass(frozen=True, slots=True)
class Host:
    """A running one. pid: of its first process, in this machine's own numbers."""

    name: str
    pid: int

    def run(self, *command: str) -> str:
        """Return what a command there prints, as root and not by way of ssh."""
        words = ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--pid", "--", *command]
        return subprocess.run(words, cwd="/", check=True, capture_output=True, text=True, timeout=60).stdout

    def processes(self) -> list[str]:
        """Return the command lines of the user's processes there."""
        found = self.run("sh", "-c", f"ps -U {UID} -o args= || :")
        return found.splitlines()

    def files(self) -> list[str]:
        """Return what lies in the user's home there."""
        return sorted(self.run("find", f"/home/{USER}", "-mindepth", "1", "-printf", r"%P\n").splitlines())


@dataclass(frozen=True, slots=True)
class Fleet:
    """The running hosts. ssh: how they are reached, for $PARALLEL_SSH."""

    hosts: tuple[Host, ...]
    ssh: str


@contextlib.contextmanager
def fleet(folder: Path, names: Sequence[str]) -> Iterator[Fleet]:
    """Start the hosts; folder: where their files and the client's may be written."""
    for key in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    addresses = {name: f"127.0.0.{number}" for number, name in enumerate(names, 2)}
    blocks = [CLIENT.format(name=name, address=address) for name, address in addresses.items()]
    (folder / "ssh_config").write_text("".join(blocks) + CLIENTS.format(port=port, user=USER, folder=folder))
    (folder / "known").write_text("fleet " + (folder / "host_key.pub").read_text())
    with contextlib.ExitStack() as stack:
        hosts = [
            stack.enter_context(_host(folder / name, name, SSHD.format(address=address, port=port)))
            for name, address in addresses.items()
        ]
        yield Fleet(tuple(hosts), f"ssh -F {folder / 'ssh_config'}")


@contextlib.contextmanager
def _host(files: Path, name: str, config: str) -> Iterator[Host]:
    files.mkdir()
    (files / "sshd_config").write_text(config)
    for key in ("host_key", "key.pub"):
        shutil.copy(files.parent / key, files)
    user = f"{USER}:*:{UID}:{UID}::/home/{USER}:/bin/sh\n"
    (files / "passwd").write_text(Path("/etc/passwd").read_text() + user)
    hidden = [sys.prefix] if Path(sys.prefix).resolve() != Path("/usr") else []
    spaces = ("--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
    holder = subprocess.Popen(
        ["unshare", *spaces, "sh", "-c", BOOT, "sh", files, name, *hidden],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "USER_NAME": USER, "USER_ID": str(UID)},
        cwd="/", stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stderr is not None
        said = ""
        while "Server listening" not in said:
            line = holder.stderr.readline()
            assert line, said
            said += line
        (child,) = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        yield Host(name, int(child))
    finally:
        holder.kill()
        holder.wait()
        if holder.stderr is not None:
            holder.stderr.close()
