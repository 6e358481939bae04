"""Real clients under the network's rules: they reach real servers that a rule names, and nothing else.

nginx, dnsmasq, OpenSSH and PostgreSQL stand in a small internet of the tests' own (tests/support/internet.py).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support.callers import PYTHON, SANDBOX, Ended
from tests.support.internet import Internet, internet
from tests.support.probes import public_folder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: servers that become other users")
ALLOWED, FORBIDDEN, INFRA = "192.0.2.10", "192.0.2.11", "192.0.2.60"
WEB_PORT: Final = 8088
PAGE: Final = "the page\n"
NAME: Final = "web.example"
NGINX: Final = """
daemon off; pid {folder}/nginx.pid; error_log stderr; worker_processes 1; user nobody nogroup;
events {{ worker_connections 2048; }}
http {{
  access_log off; client_body_temp_path {folder}/t; proxy_temp_path {folder}/t; fastcgi_temp_path {folder}/t;
  uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
  server {{
    listen {allowed}:{port}; listen {forbidden}:{port}; listen [2001:db8:1::10]:{port};
    root {folder}/www;
    location /away {{ return 302 http://{forbidden}:{port}/page; }}
    location /metadata {{ return 302 http://169.254.169.254/latest; }}
  }}
}}
"""
DNS: Final = (
    "--no-daemon", "--no-resolv", "--no-hosts", f"--listen-address={INFRA}", "--bind-interfaces", "--port=53",
    f"--address=/{NAME}/{ALLOWED}", f"--address=/away.example/{FORBIDDEN}", "--address=/rebound.example/127.0.0.1",
    "--address=/metadata2.example/169.254.169.254", "--user=root",
)  # fmt: skip
SSHD: Final = """
ListenAddress {infra}:2222
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
StrictModes no
PidFile none
UsePAM no
PermitRootLogin prohibit-password
"""


@dataclass(frozen=True, slots=True)
class Servers:
    """The internet with its servers. folder: where the client's files are, shown to it."""

    net: Internet
    folder: Path


def waited(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def answers(net: Internet, host: str, port: int) -> bool:
    code = f"import socket; socket.create_connection(({host!r}, {port}), 1)"
    return net.run(PYTHON, "-c", code).code == 0


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    for needed in ("nginx", "dnsmasq", "sshd"):
        if shutil.which(needed, path="/usr/sbin:/usr/bin") is None:
            pytest.skip(f"optional tool absent: {needed}")
    with ExitStack() as stack:
        folder = stack.enter_context(public_folder())
        net = stack.enter_context(internet(folder))
        shown = folder / "shown"
        shown.mkdir()
        (folder / "t").mkdir()
        net.says("ip", "-n", "servers", "address", "add", f"{INFRA}/32", "dev", "lo")

        def serve(*words: str | Path, cwd: str | None = None) -> None:
            started = subprocess.Popen(
                net.command(*words, within="servers"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, cwd=cwd,
            )  # fmt: skip
            stack.callback(started.wait)
            stack.callback(started.send_signal, signal.SIGTERM)

        www = folder / "www"
        www.mkdir(mode=0o755)
        (www / "page").write_text(PAGE)
        made_repository(folder, www)
        conf = NGINX.format(folder=folder, allowed=ALLOWED, forbidden=FORBIDDEN, port=WEB_PORT)
        (folder / "nginx.conf").write_text(conf)
        serve("/usr/sbin/nginx", "-e", "stderr", "-c", folder / "nginx.conf")
        serve("/usr/sbin/dnsmasq", *DNS)
        for key in ("host", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        shutil.copy(folder / "key", shown / "key")
        (folder / "sshd_config").write_text(SSHD.format(infra=INFRA, folder=folder))
        serve("sh", "-c", f"mkdir -p /run/sshd; exec /usr/sbin/sshd -D -f {folder}/sshd_config")
        database(net, folder, serve)
        waited(lambda: answers(net, ALLOWED, WEB_PORT) and answers(net, INFRA, 2222) and answers(net, INFRA, 53))
        yield Servers(net, shown)


def made_repository(folder: Path, www: Path) -> None:
    script = (
        "git init -q work; cd work; git -c user.name=me -c user.email=me@example commit -q --allow-empty -m first;"
        f"cd ..; git clone -q --bare work {www}/repo.git; cd {www}/repo.git; git update-server-info; chmod -R a+rX ."
    )
    subprocess.run(["sh", "-ec", script], cwd=folder, check=True)


def database(net: Internet, folder: Path, serve: Callable[..., None]) -> None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        return
    data = folder / "data"
    data.mkdir(mode=0o700)
    os.chown(data, 65534, 65534)
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command: list[str | Path] = [*as_nobody, found[-1], "-D", data, "-U", "me", "-A", "trust", "-N"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    with (data / "pg_hba.conf").open("a") as file:
        file.write("host all all 0.0.0.0/0 trust\n")
    serve(*as_nobody, found[-1].parent / "postgres", "-D", data, "-k", "", "-h", INFRA, "-F", cwd="/")
    waited(lambda: answers(net, INFRA, 5432))


def sandboxed(servers: Servers, rules: Sequence[str], *command: str, options: Sequence[str] = ()) -> Ended:
    allowed = [word for rule in rules for word in ("--net-allow", rule)]
    return servers.net.run(
        *SANDBOX, "run", "-p", "untrusted",
        "--chdir", servers.folder, "--write", servers.folder, "--timeout", "50", *options, *allowed,
        "--", *command,
    )  # fmt: skip


ASYNC: Final = """
import asyncio, sys
async def fetch(host, port):
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /page HTTP/1.0\\r\\n\\r\\n")
    print((await reader.read()).decode().split("\\r\\n\\r\\n")[1], end="")
host, _, port = sys.argv[1].split("/")[2].partition(":")
asyncio.run(fetch(host, int(port)))
"""
URLLIB: Final = (
    "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode(), end='')"
)
FETCH: Final = "fetch(process.argv[1]).then(r => r.text()).then(t => process.stdout.write(t))"
JAVA: Final = """
import java.net.*; import java.net.http.*;
public class Get { public static void main(String[] words) throws Exception {
    var request = HttpRequest.newBuilder(URI.create(words[0])).build();
    System.out.print(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());
} }
"""
CLIENTS: Final[dict[str, tuple[str, ...]]] = {
    "curl": ("curl", "--silent", "--show-error", "--max-time", "20"),
    "wget": ("wget", "--quiet", "--tries=1", "--timeout=10", "--output-document=-"),
    "urllib": (PYTHON, "-c", URLLIB),
    "asyncio": (PYTHON, "-c", ASYNC),
    "node": ("node", "-e", FETCH),
    "java": ("java", "-XX:TieredStopAtLevel=1", "Get.java"),
    "php": ("php", "-r", "$t = file_get_contents($argv[1]); if ($t === false) exit(1); echo $t;", "--"),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_client_gets_the_page_that_a_rule_names_and_no_other(servers: Servers, client: str) -> None:
    command = CLIENTS[client]
    if shutil.which(command[0]) is None:
        pytest.skip(f"optional tool absent: {command[0]}")
    (servers.folder / "Get.java").write_text(JAVA)
    rules = [f"tcp:{NAME}:{WEB_PORT}"]
    got = sandboxed(servers, rules, *command, f"http://{NAME}:{WEB_PORT}/page")
    assert (got.code, got.out) == (0, PAGE), got.err
    other = sandboxed(servers, rules, *command, f"http://{FORBIDDEN}:{WEB_PORT}/page")
    assert other.code != 0
    assert PAGE not in other.out
    assert servers.net.run(*CLIENTS["curl"], f"http://{FORBIDDEN}:{WEB_PORT}/page").out == PAGE


@pytest.mark.parametrize("place", ["away", "metadata"])
def test_a_redirect_leads_nowhere_else(servers: Servers, place: str) -> None:
    rules = [f"tcp:{NAME}:{WEB_PORT}", "tcp:*:80"]
    ended = sandboxed(servers, rules, *CLIENTS["curl"], "--location", f"http://{NAME}:{WEB_PORT}/{place}")
    assert ended.code == 7
    plain = servers.net.run(*CLIENTS["curl"], "--location", f"http://{NAME}:{WEB_PORT}/{place}")
    assert plain.code == 0


def test_git_clones_over_http(servers: Servers) -> None:
    rules = [f"tcp:{NAME}:{WEB_PORT}"]
    shutil.rmtree(servers.folder / "clone", ignore_errors=True)
    got = sandboxed(servers, rules, "git", "clone", "-q", f"http://{NAME}:{WEB_PORT}/repo.git", "clone")
    assert got.code == 0, got.err
    assert (servers.folder / "clone" / ".git").is_dir()
    other = sandboxed(servers, rules, "git", "clone", "-q", f"http://{FORBIDDEN}:{WEB_PORT}/repo.git", "clone2")
    assert other.code != 0


def test_psql_reaches_its_server_and_no_other(servers: Servers) -> None:
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("optional tool absent: postgres")
    query = ("psql", "-U", "me", "-d", "postgres", "-Atc", "select 6 * 7", "-h", INFRA)
    assert sandboxed(servers, [f"tcp:{INFRA}:5432"], *query).out == "42\n"
    assert sandboxed(servers, [f"tcp:{INFRA}:5433"], *query).code == 2


def test_ssh_reaches_its_server_and_no_other(servers: Servers) -> None:
    command = (
        "ssh", "-F", "none", "-i", "key", "-p", "2222", "-o", "StrictHostKeyChecking=no", "-o",
        "UserKnownHostsFile=known", "-o", "BatchMode=yes", f"root@{INFRA}", "echo over there",
    )  # fmt: skip
    assert sandboxed(servers, [f"tcp:{INFRA}:2222"], *command).out == "over there\n"
    assert sandboxed(servers, [f"tcp:{INFRA}:22"], *command).code == 255


def test_with_dns_the_named_resolver_is_asked_and_leads_nowhere_by_itself(servers: Servers) -> None:
    profile = servers.folder / "dns.toml"
    profile.write_text(
        'extends = ["untrusted"]\n[network]\n'
        f'allow = ["tcp:{ALLOWED}:{WEB_PORT}", "tcp:*:80"]\ndns = true\nresolvers = ["{INFRA}"]\n'
    )
    options = ("--profile", str(profile))

    def curl(name: str, port: int = WEB_PORT) -> int:
        return sandboxed(servers, [], *CLIENTS["curl"], f"http://{name}:{port}/page", options=options).code

    assert curl(NAME) == 0
    assert curl("away.example") == 7  # it has an address, and no rule names that
    assert curl("rebound.example", 80) == 7
    assert curl("metadata2.example", 80) == 7
    without = sandboxed(servers, [f"tcp:{ALLOWED}:{WEB_PORT}"], *CLIENTS["curl"], "http://away.example/")
    assert without.code == 6  # no name at all


def test_a_thousand_requests_at_once(servers: Servers) -> None:
    code = """
import asyncio, sys
async def fetch():
    reader, writer = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    writer.write(b"GET /page HTTP/1.0\\r\\n\\r\\n")
    return (await reader.read()).endswith(b"the page\\n")
async def all_of_them():
    print(sum(await asyncio.gather(*(fetch() for _ in range(1000)))))
asyncio.run(all_of_them())
"""
    ended = sandboxed(servers, [f"tcp:{ALLOWED}:{WEB_PORT}"], PYTHON, "-c", code, ALLOWED, str(WEB_PORT))
    assert (ended.code, ended.out) == (0, "1000\n"), ended.err
