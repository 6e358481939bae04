"""Socket activation as the child sees it, descriptors of a service manager, NOTIFY_SOCKET, and no stale number."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

import sandbox
from tests.support.callers import PYTHON, SANDBOX, Ended, run

TOLD: Final = """
import os, socket
print(os.environ.get("LISTEN_PID") == str(os.getpid()), os.environ.get("LISTEN_FDS"), os.environ.get("LISTEN_FDNAMES"))
for number in range(3, 3 + int(os.environ.get("LISTEN_FDS", 0))):
    one = socket.socket(fileno=number)
    print(number, one.family.name, one.type.name, one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
print(sorted(name for name in os.environ if name.startswith(("LISTEN", "NOTIFY", "WATCHDOG", "MAKEFLAGS", "SANDBOX"))))
"""
# Becomes what it is told, as systemd would start it: LISTEN_PID is this process, and it keeps its number.
MANAGER: Final = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])
"""


def as_service(*words: str, descriptors: list[int], other: int = 0, environment: Mapping[str, str]) -> Ended:
    """Run the command line as a service manager would: descriptors from 3 up, LISTEN_PID its own, plus `other`."""

    def place() -> None:
        held = [os.dup2(fd, 100 + at) for at, fd in enumerate(descriptors)]
        for number, fd in enumerate(held, 3):
            os.dup2(fd, number)

    command = [PYTHON, "-S", "-c", MANAGER, str(other), *SANDBOX, "run", "-p", "untrusted", *words]
    return run(command, setup=place, env={**os.environ, **environment})


def test_activation_tells_pid_count_and_names_as_the_child_has_them(tmp_path: Path) -> None:
    """The process ID is that of its own PID namespace."""
    words = ["--grant", "f=file:/etc/passwd", "--grant", "web=listen:tcp:127.0.0.1:0"]
    words += ["--grant", f"ctl=listen:unix:{tmp_path}/s", "--activation"]
    command = [*SANDBOX, "run", "-p", "untrusted", *words, PYTHON, "-S", "-c", TOLD]
    ended = run(command, env={**os.environ, "LISTEN_FDS": "9", "LISTEN_PID": "1", "LISTEN_FDNAMES": "x"})
    assert ended == Ended(
        0,
        "True 2 web:ctl\n3 AF_INET SOCK_STREAM 1\n4 AF_UNIX SOCK_STREAM 1\n"
        "['LISTEN_FDNAMES', 'LISTEN_FDS', 'LISTEN_PID', 'SANDBOX_FD_CTL', 'SANDBOX_FD_F', 'SANDBOX_FD_WEB']\n",
        "",
    )


def test_without_activation_nothing_is_told_whatever_is_kept() -> None:
    given = {
        "LISTEN_FDS": "1",
        "LISTEN_PID": "1",
        "NOTIFY_SOCKET": "/n",
        "WATCHDOG_USEC": "1",
        "MAKEFLAGS": "--jobserver-auth=8,9",
    }
    command = [*SANDBOX, "run", "-p", "untrusted", "--env", "*", PYTHON, "-S", "-c", TOLD]
    assert run(command, env={**os.environ, **given}) == Ended(0, "False None None\n[]\n", "")
    kept = run(
        [*SANDBOX, "run", "-p", "untrusted", "--env", "*", "sh", "-c", "echo $OTHER"],
        env={**os.environ, "OTHER": "kept"},
    )
    assert kept.out == "kept\n"


def test_service_managers_descriptor_is_taken_by_its_name_and_told_on() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as one, closing(socket.create_server(("127.0.0.1", 0))) as two:
        script = "import socket; print(socket.socket(fileno=3).getsockname()[1])"
        named = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "first:second"}
        for name, wanted in (("first", one), ("second", two)):
            ended = as_service(
                "--grant", f"a=inherit:systemd:{name}", PYTHON, "-S", "-c", script,
                descriptors=[one.fileno(), two.fileno()], environment=named,
            )  # fmt: skip
            assert ended == Ended(0, f"{wanted.getsockname()[1]}\n", "")
        ended = as_service(
            "--activation", "--grant", "b=inherit:systemd:second", "--grant", "a=inherit:systemd:first",
            PYTHON, "-S", "-c", TOLD, descriptors=[one.fileno(), two.fileno()], environment=named,
        )  # fmt: skip
        assert ended.out.splitlines()[0] == "True 2 b:a"


def test_service_managers_descriptor_for_another_process_is_refused() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as one:
        words = ["--grant", "a=inherit:systemd:web", "echo", "executed"]
        named = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}
        ended = as_service(*words, descriptors=[one.fileno()], environment=named, other=1)
        assert (ended.code, ended.out) == (125, "")
        assert ended.err.startswith("sandbox: grant: a: systemd:web: what a service manager has passed is for process ")
        assert as_service(*words, descriptors=[one.fileno()], environment=named) == Ended(0, "executed\n", "")


def test_service_managers_descriptor_is_checked_as_any_inherited_one() -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as udp:
        udp.bind(("127.0.0.1", 0))
        named = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "dns"}
        ended = as_service("--grant", "a=inherit:systemd:dns", "true", descriptors=[udp.fileno()], environment=named)
        assert (ended.code, "grant a: systemd:dns: the descriptor is of another type: socket" in ended.err) == (
            125,
            True,
        )
        twin = as_service(
            "--grant", "a=inherit:systemd:dns:socket", "true", descriptors=[udp.fileno()], environment=named
        )
        assert twin == Ended(0, "", "")


NOTIFY: Final = """
import os, socket
one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
try:
    one.sendto(b"READY=1", os.environ.get("NOTIFY_SOCKET", "/none"))
    print("sent", os.environ.get("WATCHDOG_PID") == str(os.getpid()), os.environ.get("WATCHDOG_USEC"))
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("notify", [True, False])
def test_notify_socket_works_where_it_is_asked_for(tmp_path: Path, notify: bool) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(0.2)
        manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        script = MANAGER.replace("LISTEN_PID", "WATCHDOG_PID")
        words = ["--notify"] * notify
        ended = run(
            [
                PYTHON,
                "-S",
                "-c",
                script,
                "0",
                *SANDBOX,
                "run",
                "-p",
                "untrusted",
                "--env",
                "*",
                *words,
                PYTHON,
                "-S",
                "-c",
                NOTIFY,
            ],
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "5000000"},
        )
        if notify:
            assert ended == Ended(0, "sent True 5000000\n", "")
            assert manager.recv(99) == b"READY=1"
            return
        assert ended == Ended(0, "No such file or directory\n", "")
        with pytest.raises(TimeoutError):
            manager.recv(99)


def test_notify_without_a_service_manager_changes_nothing_and_an_abstract_name_is_refused() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    assert run([*SANDBOX, "run", "-p", "untrusted", "--notify", "true"], env=environment) == Ended(0, "", "")
    ended = run(
        [*SANDBOX, "run", "-p", "untrusted", "--notify", "true"], env={**environment, "NOTIFY_SOCKET": "@abstract"}
    )
    line = "sandbox: usage: process.notify: NOTIFY_SOCKET is '@abstract', which is no path; "
    assert (ended.code, ended.err.startswith(line)) == (125, True)


def test_jobserver_of_inherited_grants_works_under_their_new_numbers(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("all: a b\na b: ; @echo leaf $@\n")
    read_end, write_end = os.pipe()
    os.write(write_end, b"+")
    try:
        done = subprocess.run(
            [
                *SANDBOX, "run", "-p", "untrusted", "--env", "*", "--grant", f"r@5+propagate=inherit:{read_end}",
                "--grant", f"w@6+propagate=inherit:{write_end}", "--chdir", str(tmp_path), "--execute", str(tmp_path),
                "sh", "-c", 'echo "$MAKEFLAGS"; make -s; exit 0',
            ],
            env={**os.environ, "MAKEFLAGS": f" -j --jobserver-auth={read_end},{write_end}"},
            pass_fds=[read_end, write_end], capture_output=True, text=True, check=False,
        )  # fmt: skip
        lines = done.stdout.splitlines()
        assert (lines[0], sorted(lines[1:]), done.stderr) == (" -j --jobserver-auth=5,6", ["leaf a", "leaf b"], "")
        assert os.read(read_end, 9) == b"+", "the token came back"
    finally:
        os.close(read_end)
        os.close(write_end)


def test_python_popen_inherits_by_a_managers_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptors are this process's, as LISTEN_PID says; which here has 3 for something else, so none is taken."""
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "web")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    with pytest.raises(sandbox.GrantError, match="is for process"):
        sandbox.run(["true"], grants=["a=inherit:systemd:web"])
