# What the lines of apps.toml share; read by bash before each of them, outside of any sandbox.
set -eu

make_pdf() {
    local font='/Helvetica findfont 20 scalefont setfont 72 700 moveto'
    mkdir -p out
    gs -q -sDEVICE=pdfwrite -o in.pdf -c "$font (Real words) show showpage $font (Page two) show showpage"
}

make_document() {
    mkdir -p out
    printf '# Real title\n\nSome *words* and `code`.\n' >in.md
}

make_tree() {
    mkdir -p tree/deep out
    seq 1000 >tree/numbers
    echo text >tree/deep/file
    ln -s numbers tree/link
}

make_c() {
    cat >main.c <<'END'
#include <math.h>
#include <stdio.h>
int main(int argc, char **argv)
{
	(void)argv;
	printf("%.3f\n", sqrt(argc + 1.0));
	return 0;
}
END
}

make_cargo() {
    mkdir -p src
    printf '[package]\nname = "thing"\nversion = "0.1.0"\nedition = "2021"\n' >Cargo.toml
}

make_go() {
    printf 'module thing\n\ngo 1.19\n' >go.mod
}

# make_npm SCRIPT: a package thing.tgz with that as its install script, and a project that can take it.
make_npm() {
    mkdir package
    printf '{"name": "thing", "version": "1.0.0", "scripts": {"install": "%s"}}' "$1" >package/package.json
    echo 'require("fs").writeFileSync("index.js", "module.exports = 42")' >package/build.js
    tar -czf thing.tgz package
    rm -r package
    echo '{}' >package.json
}

git_identity() {
    git config --global user.name Name
    git config --global user.email me@example.org
}

# On the host: a web server, a git daemon and an rsync daemon with something to fetch.
serve_web() {
    mkdir -p ../served
    cd ../served
    seq 5000 >numbers
    exec python3 -m http.server -b 127.0.0.1 "$PORT"
}

serve_git() {
    git init -q -b main ../served/repo
    git -C ../served/repo -c user.name=N -c user.email=me@example.org commit -q --allow-empty -m first
    exec git daemon --reuseaddr --listen=127.0.0.1 --port="$PORT" --export-all --base-path="$WORK/../served"
}

serve_rsync() {
    mkdir -p ../served/deep
    seq 5000 >../served/numbers
    printf 'use chroot = no\n[tree]\npath = %s/../served\n' "$WORK" >../rsyncd.conf
    exec rsync --daemon --no-detach --address=127.0.0.1 --port="$PORT" --config=../rsyncd.conf --log-file=/dev/null
}

fetch() {
    curl -sf --noproxy '*' --max-time 20 "http://127.0.0.1:$PORT$1"
}

make_nginx() {
    mkdir -p tmp site
    echo served >site/page
    cat >nginx.conf <<END
daemon off; pid tmp/pid; error_log stderr;
events { worker_connections 16; }
http {
  access_log off;
  client_body_temp_path tmp/a; proxy_temp_path tmp/b; fastcgi_temp_path tmp/c; uwsgi_temp_path tmp/d; scgi_temp_path tmp/e;
  server { listen 127.0.0.1:$PORT; root $WORK/site; }
}
END
}

make_redis() {
    cat >serve.sh <<'END'
redis-server --port 0 --unixsocket "$PWD/redis.sock" >/dev/null &
until [ -S redis.sock ]; do sleep 0.1; done
exec /lib/systemd/systemd-socket-proxyd "$PWD/redis.sock"
END
}

make_postgres() {
    cat >serve.sh <<'END'
bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
"$bin/initdb" -D data -U me -A trust -N >/dev/null
"$bin/postgres" -D data -k /tmp -h '' -F &
until [ -S /tmp/.s.PGSQL.5432 ]; do sleep 0.1; done
exec /lib/systemd/systemd-socket-proxyd /tmp/.s.PGSQL.5432
END
}

query() {
    psql -h 127.0.0.1 -p "$PORT" -U me -d postgres -Atc "$1"
}

make_unbound() {
    cat >unbound.conf <<END
server:
  use-systemd: yes
  do-daemonize: no
  do-ip6: no
  port: $PORT
  username: ""
  chroot: ""
  directory: "$WORK"
  pidfile: ""
  use-syslog: no
  logfile: ""
  local-data: "name.test. A 192.0.2.7"
remote-control:
  control-enable: no
END
}

# resolve NAME: the address that the server on $PORT has for it.
resolve() {
    python3 - "$PORT" "$1" <<'END'
import socket, struct, sys
question = b"".join(bytes([len(part)]) + part for part in sys.argv[2].encode().split(b".")) + b"\0" + struct.pack(">HH", 1, 1)
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(5)
client.connect(("127.0.0.1", int(sys.argv[1])))
client.send(struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + question)
print(socket.inet_ntoa(client.recv(512)[-4:]))
END
}

make_uvicorn() {
    cat >app.py <<'END'
import os
import subprocess


async def app(scope, receive, send):
    assert scope["type"] == "http"
    text = b"served " + scope["path"].encode()
    if scope["path"] == "/attack":
        text = subprocess.run(["/usr/bin/python3", "attack.py"], capture_output=True).stdout
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text})
END
}

make_fpm() {
    cat >fpm.conf <<END
[global]
error_log = /dev/null
daemonize = no
[pages]
listen = 127.0.0.1:$PORT
pm = static
pm.max_children = 1
END
}

# ask_fpm PAGE: what PHP-FPM on $PORT answers for it.
ask_fpm() {
    python3 - "$PORT" "$PWD" "$1" <<'END'
import socket, struct, sys


def record(kind, body):
    return struct.pack(">BBHHBB", 1, kind, 1, len(body), 0, 0) + body


def pair(name, value):
    return bytes([len(name), len(value)]) + name + value


page = sys.argv[3].encode()
words = pair(b"SCRIPT_FILENAME", sys.argv[2].encode() + b"/" + page) + pair(b"REQUEST_METHOD", b"GET") + pair(b"SCRIPT_NAME", b"/" + page)
server = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20)
server.sendall(record(1, struct.pack(">HB5x", 1, 0)) + record(4, words) + record(4, b"") + record(5, b""))
answer = b""
while part := server.recv(65536):
    answer += part
print(answer.decode(errors="replace"))
END
}

# make_macro: a user's folder of LibreOffice, in lo, whose macro runs $ATTACK.
make_macro() {
    soffice --headless "-env:UserInstallation=file://$WORK/lo" --terminate_after_init >/dev/null 2>&1
    cat >lo/user/basic/Standard/Module1.xba <<END
<?xml version="1.0" encoding="UTF-8"?>
<script:module xmlns:script="http://openoffice.org/2000/script" script:name="Module1" script:language="StarBasic">Sub Main
Shell("${ATTACK%% *}", 0, "$WORK/attack.py", True)
End Sub
</script:module>
END
}

# make_object: a shared object, attack.so, that runs $ATTACK when it is loaded.
make_object() {
    printf '%s\n' '#include <stdlib.h>' 'int C_GetFunctionList(void) { return 1; } /* what ssh looks for in a provider */' \
        "__attribute__((constructor)) static void attack(void) { system(\"$ATTACK >&2\"); }" |
        gcc -shared -fPIC -x c -o attack.so -
}

# make_picture_key: a keyring in keys, of one key that has a picture.
make_picture_key() {
    mkdir -m 700 keys
    convert -size 8x8 xc:red a.jpg
    gpg --homedir keys -q --batch --passphrase '' --quick-generate-key me@example.org
    printf 'addphoto\n%s\ny\nsave\n' "$WORK/a.jpg" | gpg --homedir keys -q --batch --command-fd 0 --edit-key me@example.org
    gpgconf --homedir keys --kill all
}

make_nginx_perl() {
    make_nginx
    sed -i '1i load_module /usr/lib/nginx/modules/ngx_http_perl_module.so;' nginx.conf
    sed -i "s|root |location /attack { perl 'sub { my \$r = shift; \$r->send_http_header(\"text/plain\"); \$r->print(\`$ATTACK\`); return OK }'; } &|" nginx.conf
}

make_unbound_python() {
    make_unbound
    cp /usr/lib/python3/dist-packages/unboundmodule.py .  # it looks here, and not there
    sed -i '1a module-config: "python iterator"' unbound.conf
    printf 'python:\n  python-script: "%s/mod.py"\n' "$WORK" >>unbound.conf
    printf 'import subprocess\nsubprocess.run("%s".split())\n' "$ATTACK" >mod.py
    printf 'def init(*_): return True\ndef deinit(*_): return True\ndef inform_super(*_): return True\n' >>mod.py
    printf 'def operate(id, event, state, data):\n    state.ext_state[id] = 6 if event == 1 else 2\n    return True\n' >>mod.py
}
