"""Real servers as services of a real systemd, through sealed launchers made of the library's profiles."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from sandbox.filesystem import FilesystemPolicy
from sandbox.profile_files import default_search_path, load
from sandbox.resolve import Additions
from sandbox.units import units
from tests.support.booting import NEEDS_ROOT, NEEDS_SYSTEMD, ROOT, booted, write_units
from tests.support.sealing import sealed_file

SEARCH: Final = default_search_path({})

# A client in a loop: tells how often nobody listened, and how often it was answered, until it is asked to end.
CLIENT: Final = """
import collections, os, socket
counts = collections.Counter()
while not os.path.exists("/run/test/enough"):
    try:
        with socket.create_connection(("127.0.0.1", 8080), 30) as s:
            s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            answer = b""
            while part := s.recv(4096):
                answer += part
        counts["answered" if answer.startswith(b"HTTP/1.1 200") else "lost"] += 1
    except ConnectionRefusedError:
        counts["refused"] += 1
    except OSError as error:
        counts[type(error).__name__] += 1
    with open("/run/test/counting", "w") as file:
        file.write(str(counts["answered"]))
    os.rename("/run/test/counting", "/run/test/counted")
refused = counts["refused"]
with open("/run/test/counts", "w") as file:
    print("refused:", "some" if refused else "none", "lost:", counts.total() - counts["answered"] - refused, file=file)
"""
NGINX_CONFIG: Final = """
daemon off; pid /tmp/nginx.pid; worker_processes 2; worker_rlimit_nofile 64;
events { worker_connections 16; }
http {
  access_log off;
  client_body_temp_path /tmp/a; proxy_temp_path /tmp/b; fastcgi_temp_path /tmp/c;
  uwsgi_temp_path /tmp/d; scgi_temp_path /tmp/e;
  server { listen 127.0.0.1:8080; location / { return 200 "first"; } }
}
"""
NGINX_PROFILE: Final = """
description = "nginx"
extends = ["nginx"]
[process]
chdir = "/run/test"
[grants.http]
inherit = "systemd:http"
type = "listener"
number = 3
"""
NGINX_SCRIPT: Final = """
ask() { curl -s --noproxy '*' --max-time 20 http://127.0.0.1:8080/; }
says() { [ "$(ask)" = "$1" ]; }
more() { now=$(cat /run/test/counted); [ "$now" -gt "$((before + 20))" ]; }
served() { before=$(cat /run/test/counted); until_true more; }
systemctl start nginx-http.socket
echo "before: $(show nginx ActiveState)"
echo "answer: $(ask)"
echo "main: $(show nginx ActiveState) $(cat /proc/$(show nginx MainPID)/comm)"
python3 /run/test/client.py & client=$!
until_true [ -e /run/test/counted ]
main=$(show nginx MainPID)
for word in second third; do
    sed -i "s/return 200 \\"[a-z]*\\"/return 200 \\"$word\\"/" /run/test/nginx.conf
    systemctl reload nginx.service
    until_true says $word
    served
    echo "reloaded: $(ask)"
done
[ "$main" = "$(show nginx MainPID)" ] && echo "same main process"
for _ in 1 2 3; do systemctl restart nginx.service; served; done
[ "$main" != "$(show nginx MainPID)" ] && echo "another main process"
touch /run/test/enough; wait $client; cat /run/test/counts
systemctl stop nginx-http.socket nginx.service
echo "stopped: $(show nginx ActiveState) $(show nginx Result); processes left: $(pgrep -c nginx)"
rm /run/test/enough; python3 /run/test/client.py & client=$!
sleep 0.3; touch /run/test/enough; wait $client
echo "when nobody listens, $(cat /run/test/counts)"
"""


@NEEDS_SYSTEMD
@NEEDS_ROOT
def test_nginx_serves_over_reloads_and_restarts_and_nobody_is_refused(folder: Path) -> None:
    if shutil.which("nginx", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("optional tool absent: nginx")
    here = folder / "units"
    (folder / "web.toml").write_text(NGINX_PROFILE)
    profile = load(str(folder / "web.toml"), search=SEARCH)
    command = ["/usr/sbin/nginx", "-e", "stderr", "-c", "/run/test/nginx.conf"]
    sealed_file(here / "nginx", profile, command)
    (here / "nginx.conf").write_text(NGINX_CONFIG)
    (here / "client.py").write_text(CLIENT)
    made = units(profile, "nginx", "/run/test/nginx", {"http": "127.0.0.1:8080"}, kind=None, reload=True, user="nobody")
    write_units(here, made, nginx="KillSignal=SIGQUIT")
    assert booted(folder, NGINX_SCRIPT) == [
        "before: inactive",
        "answer: first",
        "main: active nginx",
        "reloaded: second",
        "reloaded: third",
        "same main process",
        "another main process",
        "refused: none lost: 0",
        "stopped: inactive success; processes left: 0",
        "when nobody listens, refused: some lost: 0",
    ]


DOCUMENTED_SCRIPT: Final = """
ask() { curl -s --noproxy '*' --max-time 20 http://127.0.0.1:8080/; echo; }
says() { [ "$(ask)" = "$1" ]; }
cp /run/test/doc/site /usr/local/bin
cp /run/test/doc/site.conf /etc
mkdir -p /srv
cp -r /run/test/doc/www /srv
cp /run/test/doc/units/* /etc/systemd/system
({enable}) 2>/dev/null
ask
sed -i 's/root .srv.www;/return 200 new;/' /etc/site.conf
{reload}
# An old worker may take one more client before it ends.
until_true says new && echo new
{restart}
ask
{stop}
echo "$(show site ActiveState) $(systemctl is-active site-http.socket) $(pgrep -c nginx)"
"""


@NEEDS_SYSTEMD
@NEEDS_ROOT
def test_documented_server_is_started_reloaded_restarted_and_stopped(folder: Path) -> None:
    """Each command of docs/systemd.md, as it stands there."""
    if shutil.which("nginx", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("optional tool absent: nginx")
    section = (ROOT / "docs" / "systemd.md").read_text().partition("## A server, from the first step to the last\n")[2]
    lines = section.partition("```console\n")[2].partition("```")[0].splitlines()
    (folder / "units" / "doc" / "units").mkdir(parents=True)
    subprocess.run(
        ["sh", "-e"], input="".join(f"{line[2:]}\n" for line in lines if line.startswith(("$ ", "> "))), text=True,
        cwd=folder / "units" / "doc", env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}, check=True,
    )  # fmt: skip
    commands = re.findall(r"^\| `(systemctl [^`]+)` \|", section, re.MULTILINE)
    names = {"daemon-reload": "{enable}", "reload": "{reload}", "restart": "{restart}", "stop": "{stop}"}
    script = DOCUMENTED_SCRIPT
    for command in commands[: len(names)]:
        script = script.replace(names[command.split()[1].removesuffix(";")], command)
    assert booted(folder, script) == ["hello", "", "new", "new", "inactive inactive 0"]


# Deaf to SIGTERM, and so is what it leaves in a session of its own.
STUBBORN: Final = """
import signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["/bin/sh", "-c", "trap '' TERM; exec sleep 7654"], start_new_session=True)
open("/run/test/ready", "w").close()
while True:
    time.sleep(1)
"""
KILL_SCRIPT: Final = """
for unit in mixed control-group process plain; do
    rm -f /run/test/ready
    systemctl start $unit.service
    until_true [ -e /run/test/ready ]
    systemctl stop $unit.service
    echo "$unit: $(show $unit ActiveState) $(show $unit Result) $(pgrep -c -f 'sleep 7654')"
done
pkill -KILL -f 'sleep 7654'
"""


@NEEDS_SYSTEMD
@NEEDS_ROOT
def test_stop_leaves_no_process_whatever_the_kill_mode(folder: Path) -> None:
    """Of a service without a launcher, `process` leaves what has put itself into the background."""
    here = folder / "units"
    (here / "stubborn.py").write_text(STUBBORN)
    profile = load("untrusted", search=SEARCH)
    command = ["/usr/bin/python3", "/run/test/stubborn.py"]
    sealed_file(here / "sealed", profile, command, Additions(filesystem=FilesystemPolicy(write=("/run/test",))))
    for mode in ("mixed", "control-group", "process"):
        made = units(profile, mode, "/run/test/sealed", {}, kind="exec", reload=False)
        write_units(here, made, **{mode: f"KillMode={mode}\nTimeoutStopSec=1\nReadWritePaths=/run/test"})
    (here / "plain.service").write_text(
        f"[Service]\nExecStart={' '.join(command)}\nKillMode=process\nTimeoutStopSec=1\n"
    )
    assert booted(folder, KILL_SCRIPT) == [
        "mixed: failed timeout 0",
        "control-group: failed timeout 0",
        "process: failed timeout 0",
        "plain: failed timeout 1",
    ]


# Has its counter kept; counts its starts there, and says which file in memory it is.
KEEPER: Final = """
import array, os, socket, time
kept = int(os.environ.get("SANDBOX_FD_COUNT", -1))
old = kept >= 0
if not old:
    kept = os.memfd_create("count")
os.pwrite(kept, str(int(os.pread(kept, 9, 0) or 0) + 1).encode(), 0)
with open("/run/test/said", "a") as file:
    names = os.environ.get("LISTEN_FDNAMES", "none")
    print("given back" if old else "new", os.pread(kept, 9, 0).decode(), os.fstat(kept).st_ino, names, file=file)
one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for name in ("count", "other"):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [kept]))]
    one.sendmsg([f"FDSTORE=1\\nFDNAME={name}".encode()], rights, 0, os.environ["NOTIFY_SOCKET"])
one.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(1000)
"""
KEEPER_PROFILE: Final = """
description = "keeps its counter"
extends = ["untrusted"]
[process]
notify = true
chdir = "/"
[filesystem]
read = ["/run/test/keeper.py"]
write = ["/run/test/said"]
[descriptors]
activation = true
[grants.count]
inherit = "systemd:count"
type = "memfd"
stored = true
"""
KEEPER_SCRIPT: Final = """
systemctl start keeper.service
echo "kept: $(show keeper NFileDescriptorStore)"
systemctl restart keeper.service
systemctl kill --signal=KILL keeper.service
until_is keeper NRestarts 1
until_is keeper ActiveState active
echo "kept: $(show keeper NFileDescriptorStore)"
systemctl stop keeper.service
systemctl start keeper.service
"""


@NEEDS_SYSTEMD
@NEEDS_ROOT
def test_what_a_service_has_stored_is_given_back_at_its_next_start(folder: Path) -> None:
    """The same file in memory; what no grant declares is not kept, and after a stop there is none."""
    here = folder / "units"
    (here / "keeper.py").write_text(KEEPER)
    (here / "said").write_text("")
    (folder / "keeper.toml").write_text(KEEPER_PROFILE)
    profile = load(str(folder / "keeper.toml"), search=SEARCH)
    sealed_file(here / "keeper", profile, ["/usr/bin/python3", "/run/test/keeper.py"])
    made = units(profile, "keeper", "/run/test/keeper", {}, kind=None, reload=False)
    write_units(here, made, keeper="Restart=on-failure\nRestartSec=0\nFileDescriptorStoreMax=9")
    assert booted(folder, KEEPER_SCRIPT) == ["kept: 1", "kept: 1"]
    said = [line.split(" ") for line in (here / "said").read_text().splitlines()]
    inodes = [words.pop(-2) for words in said]
    assert [" ".join(words) for words in said] == [
        "new 1 none",
        "given back 2 count",
        "given back 3 count",
        "new 1 none",
    ]
    assert len(set(inodes[:3])) == 1
    assert inodes[3] != inodes[0]


FPM_CONFIG: Final = """
[global]
daemonize = no
error_log = /tmp/fpm.log
pid = /tmp/fpm.pid
[www]
listen = 127.0.0.1:9000
pm = static
pm.max_children = 2
"""
FPM_PROFILE: Final = """
description = "PHP"
extends = ["php-fpm"]
[process]
chdir = "/run/test"
[environment]
set = { FPM_SOCKETS = "127.0.0.1:9000=3" }
[grants.fpm]
inherit = "systemd:fpm"
type = "listener"
number = 3
"""
REDIS_PROFILE: Final = """
description = "Redis"
extends = ["redis"]
[process]
chdir = "/run/redis"
[filesystem]
read = ["/run/test"]
"""
# One page by FastCGI, as a web server asks for it: BEGIN_REQUEST, PARAMS, their end, STDIN's end.
FASTCGI: Final = """
import socket, struct
def record(kind, data):
    return struct.pack(">BBHHBx", 1, kind, 1, len(data), 0) + data
variables = {"REQUEST_METHOD": "GET", "SCRIPT_FILENAME": "/run/test/page.php"}
pairs = b"".join(bytes((len(k), len(v))) + (k + v).encode() for k, v in variables.items())
with socket.create_connection(("127.0.0.1", 9000), 30) as s:
    s.sendall(record(1, struct.pack(">HB5x", 1, 0)) + record(4, pairs) + record(4, b"") + record(5, b""))
    answer = b""
    while part := s.recv(4096):
        answer += part
print(answer.split(b"<<")[1].split(b">>")[0].decode())
"""
NOTIFYING_SCRIPT: Final = """
page() { python3 /run/test/fastcgi.py; }
redis() { redis-cli -s /run/redis/redis.sock "$@"; }
systemctl start fpm-fpm.socket redis.service
echo "fpm: $(page), $(show fpm ActiveState), $(show fpm StatusText | cut -d: -f1)"
systemctl restart fpm.service
echo "again: $(page) $(systemctl is-active fpm-fpm.socket)"
redis set word kept >/dev/null
echo "redis: $(show redis ActiveState) $(show redis StatusText)"
systemctl restart redis.service
echo "again: $(redis get word)"
systemctl stop fpm-fpm.socket fpm.service redis.service
echo "stopped: $(show fpm Result) $(show redis Result) $(pgrep -c -f 'php-fpm|redis')"
"""


@NEEDS_SYSTEMD
@NEEDS_ROOT
def test_php_fpm_and_redis_tell_systemd_that_they_are_ready(folder: Path) -> None:
    fpm = next((path for path in Path("/usr/sbin").glob("php-fpm*")), None)
    if fpm is None or shutil.which("redis-server") is None:
        pytest.skip("optional tool absent: php-fpm, redis-server")
    here = folder / "units"
    (here / "fpm.conf").write_text(FPM_CONFIG)
    (here / "redis.conf").write_text("port 0\nunixsocket redis.sock\nsupervised systemd\nsave 3600 1\n")
    (here / "page.php").write_text("<<<?php echo 6 * 7 ?>>>")
    (here / "fastcgi.py").write_text(FASTCGI)
    for name, text, command, listen, more in (
        ("fpm", FPM_PROFILE, [str(fpm), "-y", "/run/test/fpm.conf"], {"fpm": "127.0.0.1:9000"}, ""),
        (
            "redis", REDIS_PROFILE, ["redis-server", "/run/test/redis.conf"], {},
            "RuntimeDirectory=redis\nRuntimeDirectoryPreserve=yes",
        ),
    ):  # fmt: skip
        (folder / f"{name}.toml").write_text(text)
        profile = load(str(folder / f"{name}.toml"), search=SEARCH)
        sealed_file(here / name, profile, command)
        made = units(profile, name, f"/run/test/{name}", listen, kind=None, reload=False, user="nobody")
        write_units(here, made, **{name: more})
    assert booted(folder, NOTIFYING_SCRIPT) == [
        "fpm: 42, active, Ready to handle connections",
        "again: 42 active",
        "redis: active Ready to accept connections",
        "again: kept",
        "stopped: success success 0",
    ]
