#!/usr/bin/python3
"""What hostile code attempts, and says how it went. The test looks at what was done."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
AIM = json.loads((HERE / "attack.json").read_text())
TOKEN = AIM["token"]
said = [f"ran {TOKEN}"]


def reads(path: str) -> str:
    return Path(path).read_text()


def writes(path: str) -> None:
    with open(path, "a") as file:
        file.write(TOKEN)


def connects(kind: socket.SocketKind, address: list[str | int] | str) -> None:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, kind) as client:
        client.settimeout(5)
        client.connect(address if isinstance(address, str) else tuple(address))
        client.send(TOKEN.encode())


def speaks(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(path)
        client.send(f"agent {TOKEN}".encode())


def stays(argument: str) -> None:
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(["sleep", argument], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    while argument not in Path(f"/proc/{child.pid}/cmdline").read_text():
        pass  # the kernel sets it a moment after the exec


attempts: tuple[Callable[[], object], ...] = (
    lambda: reads(AIM["secret"]),
    *(lambda path=path: writes(path) for path in AIM["files"]),
    lambda: connects(socket.SOCK_STREAM, AIM["tcp"]),
    lambda: connects(socket.SOCK_DGRAM, AIM["udp"]),
    lambda: connects(socket.SOCK_STREAM, AIM["unix"]),
    lambda: stays(AIM["stay"]),
    lambda: reads(AIM["beside"]),
    *(lambda path=path: speaks(path) for path in AIM["agents"]),
    lambda: reads(f"/proc/{AIM['other']}/environ"),
)
for attempt in attempts:
    try:
        said.append(str(attempt()))
    except OSError as error:
        said.append(str(error))

text = " | ".join(said) + "\n"
with contextlib.suppress(OSError):
    (HERE / "attacked").write_text(text)
for fd in (2, 1):  # whoever reads standard output may not expect this, and end it
    with contextlib.suppress(OSError):
        os.write(fd, text.encode())
os._exit(0)
