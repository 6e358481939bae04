"""Sealed launchers as services of a real systemd, which is process 1 of namespaces of its own."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from sandbox.errors import UsageError
from sandbox.grants import parse_grant
from sandbox.profile import Profile
from sandbox.profile_files import default_search_path, load, shipped_folder
from sandbox.units import units
from tests.support.booting import NEEDS_ROOT, NEEDS_SYSTEMD, ROOT, booted, write_units
from tests.support.sealing import sealed_file

SEARCH: Final = default_search_path({})
# Answers each connection with its process ID and how often it was reloaded; "hang" has it say nothing more to systemd.
SERVICE: Final = """
import os, signal, socket, time
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ["NOTIFY_SOCKET"])
reloads = 0
def reload(*_):
    global reloads
    notify.send(b"RELOADING=1")
    reloads += 1
    notify.send(b"READY=1\\nSTATUS=reloaded")
signal.signal(signal.SIGHUP, reload)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
assert os.environ["LISTEN_PID"] == str(os.getpid()), "LISTEN_PID"
assert os.environ["WATCHDOG_PID"] == str(os.getpid()), "WATCHDOG_PID"
listener = socket.socket(fileno=3)
listener.settimeout(0.2)
notify.send(b"READY=1\\nSTATUS=serving")
hangs = False
while True:
    if not hangs:
        notify.send(b"WATCHDOG=1")
    try:
        connection = listener.accept()[0]
    except TimeoutError:
        continue
    with connection:
        word = connection.recv(100)
        hangs = hangs or word == b"hang"
        connection.send(f"{os.getpid()} {reloads} {os.environ['LISTEN_FDNAMES']}".encode())
"""
ASK: Final = """
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.settimeout(30)
    s.connect("/run/web.sock")
    s.send(sys.argv[1].encode())
    print(sys.argv[1], s.recv(100).decode())
"""
SCRIPT: Final = """
ended() { [ "$(show "$1" ActiveState)" != active ]; }
ask() { python3 /run/test/ask.py "$1"; }
systemctl start web-http.socket
echo "before: $(show web ActiveState)"
ask first
echo "state: $(show web ActiveState) $(show web StatusText)"
echo "main: $(cat /proc/$(show web MainPID)/comm)"
main=$(show web MainPID)
systemctl reload web.service
ask second
echo "reloaded: $(show web StatusText)"
[ "$main" = "$(show web MainPID)" ] && echo "same main process"
systemctl restart web.service &
ask during
wait $!
[ "$main" != "$(show web MainPID)" ] && echo "another main process"
echo "listener: $(systemctl is-active web-http.socket)"
ask hang
until_is web NRestarts 1
until_is web ActiveState active
echo "after the watchdog: $(show web NRestarts) $(show web ActiveState)"
ask third
systemctl stop web-http.socket web.service
echo "stopped: $(show web ActiveState) $(show web Result)"
pgrep -c -f serve.py
for unit in code good missing term usr1; do
    systemctl start $unit.service
    until_true ended $unit
    echo "$unit: $(show $unit Result) $(show $unit ExecMainStatus)"
done
"""


def web_profile(tmp_path: Path) -> Profile:
    (tmp_path / "web.toml").write_text(
        """
        description = "serves 100% of what it is asked"
        extends = ["untrusted"]
        [process]
        notify = true
        chdir = "/"
        [filesystem]
        read = ["/run/test"]
        [descriptors]
        activation = true
        [limits]
        memory = "1G"
        processes = 50
        [grants.http]
        inherit = "systemd:http"
        type = "listener"
        """
    )
    return load(str(tmp_path / "web.toml"), search=SEARCH)


@NEEDS_SYSTEMD
@NEEDS_ROOT
def test_service_is_activated_reloaded_watched_restarted_and_stopped_by_systemd(folder: Path) -> None:
    here = folder / "units"
    profile = web_profile(folder)  # whose limit of processes does not hold root
    profile = replace(profile, limits=replace(profile.limits, processes=None))
    sealed_file(here / "web", profile, ["/usr/bin/python3", "/run/test/serve.py"])
    (here / "serve.py").write_text(SERVICE)
    (here / "ask.py").write_text(ASK)
    made = units(profile, "web", "/run/test/web", {"http": "/run/web.sock"}, kind=None, reload=True)
    write_units(here, made, web="WatchdogSec=3\nRestart=on-failure\nRestartSec=0")
    plain = load("untrusted", search=SEARCH)
    for name, command, more in (
        ("code", ["sh", "-c", "exit 42"], ""),
        ("good", ["sh", "-c", "exit 42"], "SuccessExitStatus=42"),
        ("missing", ["no-such-program"], ""),
        ("term", ["sh", "-c", "kill -TERM $$"], ""),
        ("usr1", ["sh", "-c", "kill -USR1 $$"], ""),
    ):
        sealed_file(here / name, plain, command)
        write_units(here, units(plain, name, f"/run/test/{name}", {}, kind="exec", reload=False), **{name: more})
    assert booted(folder, SCRIPT) == [
        "before: inactive",
        "first 2 0 http",
        "state: active serving",
        "main: web",
        "second 2 1 http",
        "reloaded: reloaded",
        "same main process",
        "during 2 0 http",
        "another main process",
        "listener: active",
        "hang 2 0 http",
        "after the watchdog: 1 active",
        "third 2 0 http",
        "stopped: inactive success",
        "0",
        "code: exit-code 42",
        "good: success 0",  # one that has ended well is forgotten, its status too
        "missing: exit-code 127",
        "term: success 0",
        "usr1: exit-code 138",
    ]


@NEEDS_SYSTEMD
@pytest.mark.parametrize(("notify", "kind"), [(True, None), (True, "notify"), (True, "exec"), (False, None)])
def test_units_are_what_systemd_verifies(folder: Path, notify: bool, kind: str | None) -> None:
    here = folder / "units"
    profile = web_profile(folder)
    profile = replace(profile, process=replace(profile.process, notify=notify))
    file = sealed_file(here / "a web %", profile, ["true"])
    made = units(profile, "web", str(file), {"http": "127.0.0.1:8080"}, kind=kind, reload=True)
    write_units(here, made)
    names = [str(here / unit.name) for unit in made]
    # Where it is told of no folder it looks at the host's, whose units are not ours to judge.
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names],
        env={"PATH": os.environ["PATH"], "SYSTEMD_UNIT_PATH": f"{here}:"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if str(here) in line or "web" in line]
    assert ours == []
    (here / "web.service").write_text((here / "web.service").read_text().replace("KillMode=mixed", "KillMode=wrong"))
    broken = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True, timeout=120, check=False
    )
    assert "Failed to parse kill mode" in broken.stderr


SERVERS: Final = sorted(
    path.stem for path in shipped_folder().glob("*.toml") if load(path.stem, search=SEARCH).descriptors.activation
)


@NEEDS_SYSTEMD
@pytest.mark.parametrize("user", [None, "www-data"])
def test_units_of_every_server_in_the_library_are_verified(folder: Path, user: str | None) -> None:
    assert {"nginx", "php-fpm", "postgresql", "redis", "server", "unbound", "uvicorn"} <= {*SERVERS}
    here, grant = folder / "units", parse_grant("x=inherit:systemd:x:listener")
    for name in SERVERS:
        profile = load(name, search=SEARCH)
        profile = replace(profile, grants=(*profile.grants, grant))
        write_units(here, units(profile, name, "/bin/true", {"x": "8080"}, kind=None, reload=True, user=user))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(path) for path in here.iterdir())],
        env={"PATH": os.environ["PATH"], "SYSTEMD_UNIT_PATH": f"{here}:"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert [line for line in done.stderr.splitlines() if str(here) in line or any(n in line for n in SERVERS)] == []
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", here / "server.service"],
        capture_output=True, text=True, timeout=120, check=False,
    ).stdout  # fmt: skip
    document = (ROOT / "docs" / "systemd.md").read_text()
    exposure = told.partition("server.service: ")[2].split(" ")[0]
    if "systemd 252 " in subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout:
        assert ("`server` comes to {} for root" if user is None else "to {} with `--user`").format(exposure) in document


def test_units_say_what_the_profile_says(folder: Path) -> None:
    profile = web_profile(folder)
    socket, service = units(profile, "web", "/usr/local/bin/web", {"http": "80"}, kind=None, reload=False)
    assert socket.name == "web-http.socket"
    assert "ListenStream=80\nFileDescriptorName=http\nService=web.service\n" in socket.text
    for line in (
        "Description=serves 100%% of what it is asked", "Requires=web-http.socket", "Type=notify",
        "ExecStart=/usr/local/bin/web", "KillMode=mixed", "UMask=0022", "MemoryMax=1073741824", "TasksMax=52",
        "Delegate=memory pids",
        "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "PrivateNetwork=yes",
        "RestrictAddressFamilies=AF_UNIX",
    ):  # fmt: skip
        assert f"{line}\n" in service.text
    assert "ExecReload" not in service.text
    assert "ProtectControlGroups=yes" not in service.text
    assert (
        "ProtectControlGroups=yes\n"
        in units(load("untrusted", search=SEARCH), "x", "/x", {}, kind=None, reload=False)[0].text
    )
    assert (
        "NotifyAccess" not in service.text
    )  # the launcher, which is the main process, hands on what the command tells
    told = units(profile, "web", "/web", {"http": "80"}, kind="exec", reload=False)[-1].text
    assert "NotifyAccess=main\n" in told
    state = parse_grant("state=inherit:systemd:state:memfd,stored")
    keeping = units(
        replace(profile, grants=(*profile.grants, state)), "web", "/web", {"http": "80"}, kind=None, reload=False
    )
    assert "FileDescriptorStoreMax=1\n" in keeping[-1].text


@pytest.mark.parametrize(
    ("listen", "kind", "reason"),
    [
        ({}, None, "grant systemd:http: no address is said for it"),
        ({"http": "80", "x": "81"}, None, "--listen x: the profile takes no such socket"),
        ({"http": "80"}, "forking", "a sandbox ends with its command"),
        ({"http": "80"}, "simple", "no such type here"),
    ],
)
def test_units_that_cannot_be_are_refused(folder: Path, listen: dict[str, str], kind: str | None, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        units(web_profile(folder), "web", "/web", listen, kind=kind, reload=False)
    with pytest.raises(UsageError, match="the profile lets nobody notify"):
        units(load("untrusted", search=SEARCH), "x", "/x", {}, kind="notify", reload=False)
