"""Real servers and clients on granted sockets, with no network: nginx, Python, PostgreSQL, systemd-socket-activate."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import sandbox
from tests.support.callers import PYTHON, SANDBOX

# What each of them serves; then it tries to reach the host by itself, and says how that went.
ASYNCIO: Final = """
import asyncio, os, socket
async def answer(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    try:
        (await asyncio.open_connection("127.0.0.1", int(os.environ["ELSEWHERE"])))[1].close()
        word = b"reached"
    except OSError as error:
        word = type(error).__name__.encode()
    writer.write(b"HTTP/1.0 200 OK\\r\\n\\r\\nasyncio " + word)
    writer.close()
async def main():
    server = await asyncio.start_server(answer, sock=socket.socket(fileno=int(os.environ["SANDBOX_FD_WEB"])))
    await server.serve_forever()
asyncio.run(main())
"""
HTTP: Final = """
import http.server, os, socket
assert os.environ["LISTEN_PID"] == str(os.getpid()) and os.environ["LISTEN_FDNAMES"] == "web", os.environ
class Server(http.server.HTTPServer):
    def __init__(self, address, handler):
        super().__init__(address, handler, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=3)
os.chdir("/srv")
Server(("", 0), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
NGINX_CONFIG: Final = """
daemon off; {user} pid {folder}/pid; error_log stderr; worker_rlimit_nofile 64;
events {{ worker_connections 16; }}
http {{
  access_log off;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "nginx"; }}
            location /elsewhere {{ proxy_pass http://127.0.0.1:{elsewhere}; }} }}
}}
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """Yield the port of a server that the host has, and that nobody has granted."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def fetched(port: int, path: str = "/") -> str:
    """Return what a web server answers, once it is there."""
    end = time.monotonic() + 20
    while True:
        done = subprocess.run(
            ["curl", "-s", "--noproxy", "*", "--max-time", "10", f"http://127.0.0.1:{port}{path}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0 or time.monotonic() > end:
            assert done.returncode == 0, done
            return done.stdout
        time.sleep(0.05)


@contextlib.contextmanager
def serving(command: list[str], **options: Any) -> Iterator[None]:  # noqa: ANN401 - Popen's
    with sandbox.Popen(command, stdin=subprocess.DEVNULL, **options) as server:
        try:
            yield
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


def test_asyncio_server_on_a_granted_listener_reaches_nothing_else(elsewhere: int) -> None:
    port = free_port()
    for net, word in (("none", "PermissionError"), ("host", "reached")):
        with serving(
            [PYTHON, "-c", ASYNCIO], grants=[f"web=listen:tcp:127.0.0.1:{port}"], net=net,
            env={"ELSEWHERE": str(elsewhere)},
        ):  # fmt: skip
            assert fetched(port) == f"asyncio {word}"


def test_http_server_is_activated_by_the_real_systemd_socket_activate(tmp_path: Path) -> None:
    if shutil.which("systemd-socket-activate") is None:
        pytest.skip("optional tool absent: systemd-socket-activate")
    (tmp_path / "page").write_text("served\n")
    port = free_port()
    command = [
        "systemd-socket-activate", f"--listen=127.0.0.1:{port}", "--fdname=outer",
        *(["--setenv=PYTHONPATH"] if "PYTHONPATH" in os.environ else []),
        *SANDBOX, "run", "-p", "untrusted", "--activation",
        "--grant", "web=inherit:systemd:outer:listener", "--read", str(tmp_path), "--tmpfs", "/srv",
        PYTHON, "-c", HTTP.replace("/srv", str(tmp_path)),
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            assert fetched(port, "/page") == "served\n"
            assert fetched(port, "/page") == "served\n"
        finally:
            server.terminate()
            server.wait(10)


def test_nginx_on_a_granted_listener_reaches_nothing_else(tmp_path: Path, elsewhere: int) -> None:
    if shutil.which("nginx", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("optional tool absent: nginx")
    port = free_port()
    user = "user root root;" if os.geteuid() == 0 else ""  # the sandbox has no other
    (tmp_path / "conf").write_text(NGINX_CONFIG.format(folder=tmp_path, port=port, elsewhere=elsewhere, user=user))
    with serving(
        ["/usr/sbin/nginx", "-e", "stderr", "-c", str(tmp_path / "conf")],
        grants=[f"web@3=listen:tcp:127.0.0.1:{port}"], env={"NGINX": "3;"}, write=[str(tmp_path)],
        stderr=subprocess.DEVNULL,
    ):  # fmt: skip
        assert fetched(port) == "nginx"
        assert "502 Bad Gateway" in fetched(port, "/elsewhere")


# PostgreSQL: a server on the host; inside, a client with one granted connection. It can only be given a path, so that
# a relay of a few lines stands in its own /tmp.
RELAY: Final = """
import os, socket, subprocess, sys, threading
granted = socket.socket(fileno=int(os.environ["SANDBOX_FD_DB"]))
listening = socket.socket(socket.AF_UNIX)
listening.bind("/tmp/.s.PGSQL.5432")
listening.listen()
def pump(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)
def serve():
    client = listening.accept()[0]
    threading.Thread(target=pump, args=(granted, client), daemon=True).start()
    pump(client, granted)
threading.Thread(target=serve, daemon=True).start()
sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""


def programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@pytest.fixture
def database() -> Iterator[Path]:
    """Yield the folder of the socket of a PostgreSQL server, of which there is no other way in."""
    binaries = programs()
    if binaries is None:
        pytest.skip("optional tool absent: postgres")
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    as_user: dict[str, Any] = (
        {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    )
    folder = Path(tempfile.mkdtemp(prefix="sandbox-test-pg-"))
    try:
        os.chown(folder, user.pw_uid, user.pw_gid)
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": str(folder)}
        subprocess.run(
            [binaries / "initdb", "-D", folder / "data", "-U", "me", "-A", "trust", "-N"],
            check=True, env=environment, **as_user, **quiet,
        )  # fmt: skip
        with subprocess.Popen(
            [binaries / "postgres", "-D", folder / "data", "-k", folder, "-h", "", "-F"],
            env=environment, **as_user, **quiet,
        ) as server:  # fmt: skip
            try:
                await_((folder / ".s.PGSQL.5432").exists)
                yield folder
            finally:
                server.send_signal(signal.SIGINT)
                server.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def await_(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_psql_with_a_granted_connection_talks_to_that_database_and_to_nothing_else(
    database: Path, elsewhere: int
) -> None:
    query = ["psql", "-h", "/tmp", "-U", "me", "-d", "postgres", "-At", "-c", "select 6 * 7"]
    options: dict[str, Any] = {
        "grants": [f"db=connect:unix:{database}/.s.PGSQL.5432"], "capture_output": True, "text": True,
        "stdin": subprocess.DEVNULL,
    }  # fmt: skip

    def ready() -> bool:
        done = sandbox.run([PYTHON, "-c", RELAY, *query], **options)
        return (done.returncode, done.stdout) == (0, "42\n")

    await_(ready)
    by_itself = sandbox.run(["psql", *query[1:2], str(database), *query[3:]], **options)
    assert by_itself.returncode != 0
    assert "No such file or directory" in by_itself.stderr
    other = sandbox.run(["psql", "-h", "127.0.0.1", "-p", str(elsewhere), *query[3:]], **options)
    assert other.returncode != 0
    assert "Permission denied" in other.stderr


PROXY: Final = Path("/lib/systemd/systemd-socket-proxyd")


@pytest.mark.parametrize(("net", "reached"), [("none", False), ("host", True)])
def test_postgres_serves_on_a_granted_listener_and_reaches_nothing_else(
    elsewhere: int, net: str, reached: bool
) -> None:
    """It makes its sockets itself and takes none, so that systemd's proxy stands before it, in the same sandbox."""
    binaries = programs()
    if binaries is None or not PROXY.exists():
        pytest.skip("optional tool absent: postgres, systemd-socket-proxyd")
    port, root = free_port(), os.geteuid() == 0
    folder = Path(tempfile.mkdtemp(prefix="sandbox-test-pg-"))
    script = f"""
        {binaries}/initdb -D {folder}/data -U me -A trust -N
        {binaries}/postgres -D {folder}/data -k /tmp -h "" -F &
        until [ -S /tmp/.s.PGSQL.5432 ]; do sleep 0.1; done
        exec {PROXY} /tmp/.s.PGSQL.5432
    """

    def asked(query: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "me", "-d", "postgres", "-Atc", query],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    try:
        if root:
            shutil.chown(folder, "nobody")
        with serving(
            ["sh", "-ec", script], grants=[f"db+propagate=listen:tcp:127.0.0.1:{port}"], activation=True,
            net=net, write=[str(folder)], user="nobody" if root else None,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ):  # fmt: skip
            await_(lambda: asked("select 6 * 7").stdout == "42\n")
            assert asked("copy (select 1) to program 'cat >/dev/null'").stdout == "COPY 1\n"
            reach = asked(f"copy (select 1) to program 'bash -c \"cat >/dev/tcp/127.0.0.1/{elsewhere}\"'")
            assert reach.stdout == ("COPY 1\n" if reached else "")
            assert ("child process exited with exit code 1" in reach.stderr) is not reached
    finally:
        shutil.rmtree(folder, ignore_errors=True)
