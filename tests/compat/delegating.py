"""Jobs of real programs that pass descriptors at exec, one at least for each delegation protocol."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

# protocol, or protocol:program -> a bash script for a fresh folder, and what it prints where the protocol holds. Unix
# sockets lie below /tmp, since their paths may be 107 bytes long. `wait_for` waits until a condition holds, at most 20
# seconds.
WAIT_FOR: Final = 'wait_for() { for n in $(seq 400); do ! eval "$1" || break; sleep 0.05; done; }\n'
SCRIPTS: Final = {
    "pass-fds": (
        """python3 - <<'END'
import os, subprocess, sys
r, w = os.pipe()
child = [sys.executable, "-c", f"import os; os.write({w}, b'told')"]
quiet = subprocess.DEVNULL
print(subprocess.run(child, pass_fds=[w], env={**os.environ, "SANDBOX_PASS_FDS": str(w)}, stderr=quiet).returncode)
os.close(w)
print(os.read(r, 9).decode())
END
        """,
        "0\ntold\n",
    ),
    "dev-fd": (
        """python3 - <<'END'
import os, subprocess
r, w = os.pipe()
print(subprocess.run(["cp", "/dev/stdin", f"/dev/fd/{w}"], pass_fds=[w], input=b"told").returncode)
os.close(w)
print(os.read(r, 9).decode())
END
        cat <(echo one) <(echo two); diff <(seq 3) <(seq 2 4); paste -d+ <(seq 2) <(sort -r <(seq 2))
        seq 9 | tee >(wc -l >n) >/dev/null; until [ -s n ]; do sleep 0.05; done; cat n
        """,
        "0\ntold\none\ntwo\n1d0\n< 1\n3a3\n> 4\n1+2\n2+1\n9\n",
    ),
    "shell-redirect": ("exec 7>file; sh -c 'echo told >&7'; cat file", "told\n"),
    # Without its pipe make works on alone, and says "jobserver unavailable".
    "jobserver": (
        """mkdir sub; printf 'all: ; @$(MAKE) -C sub\\n' >Makefile
        printf 'all: a b\\na b: ; @$(MAKE) -f leaf $@\\n' >sub/Makefile
        printf 'a b: ; @echo leaf $@\\n' >sub/leaf; make --no-print-directory -j2 2>&1 | sort
        """,
        "leaf a\nleaf b\n",
    ),
    "fd-value": (
        """exec 7< <(echo word); seq 9 | openssl enc -aes-128-cbc -pbkdf2 -pass fd:7 >secret
        openssl enc -d -aes-128-cbc -pbkdf2 -pass pass:word <secret
        """,
        "".join(f"{n}\n" for n in range(1, 10)),
    ),
    "gpg": (
        """export GNUPGHOME=$PWD/keys; mkdir -m 700 keys; trap 'gpgconf --kill all' EXIT
        quiet='gpg --batch --quiet --pinentry-mode loopback'
        exec 7< <(echo word) 8>status; echo text | $quiet --passphrase-fd 7 --status-fd 8 -c >secret
        exec 7< <(echo word); $quiet --passphrase-fd=7 -d secret; cut -d' ' -f2 status | sort -u
        """,
        "text\nBEGIN_ENCRYPTION\nEND_ENCRYPTION\nNEED_PASSPHRASE_SYM\n",
    ),
    "flock": ("exec 7>lock; flock -n 7 && echo locked; flock -n lock true || echo busy", "locked\nbusy\n"),
    # Where systemd is not installed, what it does is done in its place.
    "listen-fds": (
        """cat >server.py <<'END'
import os, socket
if os.environ.get("LISTEN_PID") == str(os.getpid()):
    with socket.socket(fileno=3) as listening, listening.accept()[0] as connection:
        connection.sendall(b"served by " + os.environ["LISTEN_FDS"].encode())
END
        cat >activate.py <<'END'
import os, select, socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
select.select([listening], [], [])
os.dup2(listening.fileno(), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execvp(sys.argv[2], sys.argv[2:])
END
        place=$(mktemp -d); activate='python3 activate.py'
        if command -v systemd-socket-activate >/dev/null; then activate='systemd-socket-activate -l'; fi
        $activate $place/socket python3 server.py 2>/dev/null & wait_for '[ -S $place/socket ]'
        cat >client.py <<'END'
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
try: print(client.recv(99).decode())
except ConnectionResetError: print("gone")
END
        python3 client.py $place/socket; wait; rm -r $place
        """,
        "served by 1\n",
    ),
    "node-channel": (
        """cat >parent.js <<'END'
const child = require("child_process").fork("child.js", {stdio: ["ignore", "inherit", "ignore", "ipc"]})
child.on("message", text => console.log(text)); child.on("exit", code => console.log("exit", code)); child.send("told")
END
        echo 'process.once("message", text => { process.send(text + " back"); process.disconnect() })' >child.js
        timeout 60 node parent.js
        """,
        "told back\nexit 0\n",
    ),
    # Shared memory makes both sides talk to the resource tracker.
    "python-multiprocessing": (
        """cat >job.py <<'END'
import multiprocessing as m
from multiprocessing import shared_memory
def work(queue, name):
    memory = shared_memory.SharedMemory(name)
    memory.buf[0] += 1
    memory.close()
    queue.put("told")
if __name__ == "__main__":
    memory = shared_memory.SharedMemory(create=True, size=1)
    for method in "spawn", "forkserver":
        context = m.get_context(method)
        queue = context.Queue()
        process = context.Process(target=work, args=(queue, memory.name))
        process.start()
        process.join(30)
        print(method, process.exitcode, queue.get(timeout=5), memory.buf[0])
    memory.close()
    memory.unlink()
END
        timeout 60 python3 job.py
        """,
        "spawn 0 told 1\nforkserver 0 told 2\n",
    ),
    "java-spawn": (
        """cat >Job.java <<'END'
public class Job {
    public static void main(String[] arguments) throws Exception {
        Process process = new ProcessBuilder("sh", "-c", "read line; echo $line back; exit 7").start();
        process.getOutputStream().write("told\\n".getBytes());
        process.getOutputStream().close();
        System.out.print(new String(process.getInputStream().readAllBytes()));
        System.out.println(process.waitFor());
    }
}
END
        java -XX:TieredStopAtLevel=1 Job.java
        """,
        "told back\n7\n",
    ),
    # The client is libwayland itself; a compositor that answers one request is enough for it.
    "wayland-socket": (
        """cat >client.py <<'END'
import ctypes
wayland = ctypes.CDLL("libwayland-client.so.0")
wayland.wl_display_connect.restype = ctypes.c_void_p
display = ctypes.c_void_p(wayland.wl_display_connect(None))
print("connected", bool(display) and wayland.wl_display_roundtrip(display) >= 0)
END
        python3 - <<'END'
import os, socket, struct, subprocess
ours, theirs = socket.socketpair()
environment = {**os.environ, "WAYLAND_SOCKET": str(theirs.fileno()), "XDG_RUNTIME_DIR": "/nowhere"}
with subprocess.Popen(["python3", "client.py"], pass_fds=[theirs.fileno()], env=environment):
    theirs.close()
    request = ours.recv(99)
    if request:  # wl_display.sync: its argument is the new object, a wl_callback, which is done
        (new,) = struct.unpack_from("=I", request, 8)
        ours.sendall(struct.pack("=III", new, 12 << 16, 1))
END
        """,
        "connected True\n",
    ),
    "displayfd": (
        """mkfifo number; options='-nolisten unix -nolisten tcp -screen 0 64x64x8'
        Xvfb -displayfd 7 $options 7>number 2>/dev/null & grep -c '^[0-9]*$' number; kill $! 2>/dev/null; wait
        """,
        "1\n",
    ),
    "git-remote-fd": (
        """git init -q -b main there
        git -C there -c user.name=n -c user.email=e commit -q --allow-empty -m told
        python3 - <<'END'
import os, subprocess
pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
serving = subprocess.Popen(["git", "upload-pack", "there"], stdin=pipe, stdout=pipe, stderr=quiet)
fds = serving.stdout.fileno(), serving.stdin.fileno()
clone = ["timeout", "-s", "KILL", "5", "git", "clone", "-q", "fd::%d,%d/any" % fds, "here"]
cloning = subprocess.Popen(clone, pass_fds=fds, stderr=quiet)
serving.stdout.close()
serving.stdin.close()
print(cloning.wait(), flush=True)
serving.kill()
END
        git -C here log --format=%s 2>/dev/null
        """,
        "0\ntold\n",
    ),
    # apt tells its caller and its hook, dpkg tells apt.
    "apt": (
        """export PATH=$PATH:/usr/sbin:/sbin; state=root/var/lib/dpkg
        mkdir -p deb/DEBIAN $state/{info,updates} apt/{lists/partial,cache/archives/partial,etc,log}; : >$state/status
        cat >deb/DEBIAN/control <<'END'
Package: told
Version: 1
Architecture: all
Maintainer: n <n@example.org>
Description: x
END
        dpkg-deb --root-owner-group -b deb told.deb >/dev/null
        cat >apt/conf <<END
Dir::State "$PWD/apt"; Dir::State::status "$PWD/$state/status"; Dir::Cache "$PWD/apt/cache"; Dir::Log "$PWD/apt/log";
Dir::Etc "$PWD/apt/etc"; APT::Sandbox::User ""; Debug::NoLocking "true"; DPkg::Use-Pty "false";
DPkg::Options { "--root=$PWD/root"; "--force-not-root"; "--force-script-chrootless"; "--log=/dev/null"; };
DPkg::Pre-Install-Pkgs { "$PWD/hook"; };
DPkg::Tools::options::$PWD/hook::InfoFD "20"; DPkg::Tools::options::$PWD/hook::Version "2";
END
        printf '#!/bin/sh\\nhead -1 /dev/fd/$APT_HOOK_INFO_FD >hooked\\n' >hook; chmod +x hook
        exec 7>status; APT_CONFIG=$PWD/apt/conf apt-get -qq -y -o APT::Status-Fd=7 install ./told.deb >out 2>&1
        cut -d: -f1 status | sort -u; cat hooked
        """,
        "dlstatus\npmstatus\nVERSION 2\n",
    ),
    # What follows the greeting needs privileges that nobody has in a sandbox; it comes after all that is passed.
    "sshd": (
        """export PATH=$PATH:/usr/sbin:/sbin; [ $(id -u) != 0 ] || [ -d /run/sshd ] || mkdir -m 755 /run/sshd
        ssh-keygen -q -t ed25519 -N '' -f key
        port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
        options="-h $PWD/key -o ListenAddress=127.0.0.1 -o Port=$port -o PidFile=$PWD/pid"
        $(command -v sshd) -De -f /dev/null $options 2>log & wait_for '[ -s pid ]'
        exec 7<>/dev/tcp/127.0.0.1/$port; head -c 8 <&7; kill $!; wait
        """,
        "SSH-2.0-",
    ),
    "dbus": (
        """place=$(mktemp -d); cat >bus.conf <<END
<busconfig><type>session</type><listen>unix:path=$place/bus</listen><auth>EXTERNAL</auth></busconfig>
END
        dbus-daemon --config-file=bus.conf --nofork --print-address=7 --print-pid 8 7>address 8>pid 2>/dev/null &
        wait_for '[ -s pid ] || ! kill -0 $! 2>/dev/null'
        cut -d, -f1 address | grep -c "^unix:path=$place/bus$"; [ "$(cat pid)" = $! ] && echo same
        kill $! 2>/dev/null; wait; rm -r $place
        """,
        "1\nsame\n",
    ),
    "server-restart:nginx": (
        """export PATH=$PATH:/usr/sbin:/sbin; mkdir logs; echo served >file
        port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
        cat >conf <<END
pid $PWD/pid; error_log $PWD/logs/error notice; user root; events { }
http { access_log off; server { listen 127.0.0.1:$port; root $PWD; } client_body_temp_path $PWD/logs/a;
proxy_temp_path $PWD/logs/b; fastcgi_temp_path $PWD/logs/c; uwsgi_temp_path $PWD/logs/d; scgi_temp_path $PWD/logs/e; }
END
        $(command -v nginx) -p $PWD -e logs/error -c $PWD/conf 2>/dev/null
        wait_for '[ -s pid ] && grep -q "start worker process " logs/error'; old=$(cat pid) # before it forgets signals
        kill -USR2 $old; wait_for '[ -s pid.oldbin ] && [ -s pid ] || grep -q "exited with code" logs/error'
        kill -QUIT $old; wait_for '! kill -0 $old 2>/dev/null'
        curl -sS http://127.0.0.1:$port/file; kill -QUIT $(cat pid)
        """,
        "served\n",
    ),
    "server-restart:gunicorn": (
        """cat >app.py <<'END'
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"served\\n"]
END
        export PYTHONPATH=$PWD place=$(mktemp -d)
        options='--pid pid --no-sendfile --worker-tmp-dir /tmp --worker-class gthread'
        timeout 60 gunicorn --bind unix:$place/socket $options app:app 2>log &
        wait_for '[ -S $place/socket ] && [ -s pid ]'; old=$(cat pid)
        kill -USR2 $old; wait_for '[ $(grep -c "Booting worker" log) = 2 ] || grep -q Traceback log'
        kill -TERM $old; wait_for '! kill -0 $old 2>/dev/null'
        curl -sS --unix-socket $place/socket http://x/; kill -TERM $(cat pid.2 pid 2>/dev/null | tail -1); wait
        rm -r $place
        """,
        "served\n",
    ),
    # It believes its variable; workers that find no socket there end at once.
    "server-restart:php-fpm": (
        """export PATH=$PATH:/usr/sbin:/sbin
        printf '[global]\\npid = %s/pid\\nerror_log = %s/log\\ndaemonize = no\\n' $PWD $PWD >conf
        printf '[www]\\nlisten = %s/socket\\npm = static\\npm.max_children = 1\\n' $PWD >>conf
        php-fpm8.2 -R -n -y conf 2>/dev/null & wait_for '[ -s pid ]'; sleep 0.3
        kill -USR2 $!; wait_for '[ $(grep -c "ready to handle" log) = 2 ]'
        sleep 0.3; grep -o 'using inherited socket' log; grep -c 'child .* exited' log; kill $!; wait
        """,
        "using inherited socket\n0\n",
    ),
    "devtools-pipe": (
        """cat >job.py <<'END'
import json, os, subprocess
(theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
theirs = [os.dup2(theirs_in, 20), os.dup2(theirs_out, 21)]
os.close(theirs_in)
os.close(theirs_out)
def place():
    os.dup2(20, 3)
    os.dup2(21, 4)
def say(number, method):
    try: os.write(ours_out, json.dumps({"id": number, "method": method}).encode() + b"\\0")
    except BrokenPipeError: pass
options = ["--headless", "--no-sandbox", "--no-zygote", "--disable-gpu", "--disable-dev-shm-usage",
           f"--user-data-dir={os.getcwd()}/data", "--remote-debugging-pipe"]
quiet = subprocess.DEVNULL
browser = subprocess.Popen(["chromium", *options], close_fds=False, preexec_fn=place, stdout=quiet, stderr=quiet)
for fd in theirs: os.close(fd)
say(1, "Browser.getVersion")
answer = b""
while not answer.endswith(b"\\0") and (more := os.read(ours_in, 4096)): answer += more
print(b'"product"' in answer)
if answer: say(2, "Browser.close")
else: browser.kill()
browser.wait()
END
        timeout 100 python3 job.py
        """,
        "True\n",
    ),
    "erlang-port": (
        """cat >job.escript <<'END'
#!/usr/bin/env escript
main(_) ->
    io:format("~s", [os:cmd("echo told")]),
    Port = open_port({spawn_executable, "/bin/sh"}, [nouse_stdio, exit_status, {args, ["job.sh"]}]),
    catch port_command(Port, "told\\n"),
    receive {Port, {data, Data}} -> io:format("~s", [Data]); {Port, {exit_status, _}} -> io:format("none~n")
    after 20000 -> io:format("nothing~n") end.
END
        echo 'read text <&3; echo $text back >&4' >job.sh; escript job.escript
        """,
        "told\ntold back\n",
    ),
    # Its zygote and its crash reporter; a page that it draws shows that they work together.
    "chromium": (
        """echo '<h1>told</h1>' >page.html
        timeout 100 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage \\
            --no-first-run --user-data-dir=$PWD/data --screenshot=$PWD/shot.png file://$PWD/page.html >/dev/null 2>&1
        head -c 4 shot.png | tail -c 3
        """,
        "PNG",
    ),
    "python-inherit": (
        """python3 - <<'END'
import os, subprocess
r, w = os.pipe()
child = ["sh", "-c", 'n=$1; eval "echo told >""&$n"', "sh", str(w)]
subprocess.run(child, pass_fds=[w], stderr=subprocess.DEVNULL)
os.close(w)
print(os.read(r, 9).decode())
END
        """,
        "told\n\n",
    ),
    "socat": (
        """printf '#!/bin/sh\\ncat <&3 >&4\\n' >filter; chmod +x filter
        echo told | socat - EXEC:./filter,fdin=3,fdout=4
        """,
        "told\n",
    ),
}

# What a script needs beside what tests/setup-system installs everywhere; where it is missing the script is left out.
NEEDED: Final = {
    "fd-value": ["openssl"], "gpg": ["gpg", "gpg-agent"], "node-channel": ["node"], "java-spawn": ["javac", "java"],
    "displayfd": ["Xvfb", "xkbcomp"], "apt": ["apt-get", "dpkg"], "sshd": ["sshd", "ssh-keygen"],
    "dbus": ["dbus-daemon"],
    "server-restart:nginx": ["nginx"], "server-restart:gunicorn": ["gunicorn"],
    "server-restart:php-fpm": ["php-fpm8.2"], "devtools-pipe": ["chromium"], "chromium": ["chromium"],
    "erlang-port": ["escript"], "socat": ["socat"],
}  # fmt: skip
PATH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

# What `sandbox run` is told beside the folder that can be written.
OPTIONS: Final = {
    "sshd": ["--net", "loopback", "--tmpfs", "/run/sshd"],
    "server-restart:nginx": ["--net", "loopback"],
}


def protocol_of(name: str) -> str:
    """Return the protocol that a script is about."""
    return name.partition(":")[0]


def is_present(name: str) -> bool:
    """Tell whether what a script needs is installed."""
    if name == "wayland-socket":
        return any(Path("/usr/lib").glob("*/libwayland-client.so.0"))
    return all(shutil.which(program, path=PATH) for program in NEEDED.get(name, ()))


PRESENT: Final = [name for name in SCRIPTS if is_present(name)]
