"""Real programs doing real jobs under `untrusted`: what they say and leave behind is what they do unconfined."""

from __future__ import annotations

import hashlib
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import pytest

# program -> the package that brings it; tests/setup-system installs what is missing.
PACKAGES: Final = {
    "bash": "bash", "git": "git", "python3": "python3", "tar": "tar", "sqlite3": "sqlite3", "curl": "curl",
    "gcc": "gcc", "make": "make", "perl": "perl-base", "awk": "mawk", "sed": "sed", "find": "findutils",
    "xargs": "findutils", "sort": "coreutils", "gzip": "gzip",
}  # fmt: skip

# Jobs are bash scripts run in a fresh folder; their output and the files that they leave are compared.
JOBS: Final = {
    "git": """
        git init -q -b main repo; cd repo
        printf 'one\\ntwo\\n' >file; git add file; git commit -q -m first
        git checkout -q -b side; echo three >>file; git commit -qam second
        git checkout -q main; git merge -q side; git log --format='%h %s' --stat; git diff HEAD~1; git fsck
        git clone -q . ../copy; git -C ../copy log --oneline; git gc -q; git archive HEAD | tar -t
    """,
    "python3": """
        cat >job.py <<'END'
import hashlib, json, multiprocessing, os, sqlite3, subprocess, tempfile, threading, zlib
def square(n): return n * n
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(square, range(10)))
    print(subprocess.run(["sort"], input="b\\na\\n", text=True, capture_output=True).stdout)
    threads = [threading.Thread(target=sum, args=([1],)) for _ in range(3)]
    [t.start() for t in threads]; [t.join() for t in threads]
    with tempfile.TemporaryFile() as file: file.write(b"x"); file.seek(0); print(file.read())
    print(zlib.crc32(b"x"), hashlib.sha256(b"x").hexdigest())
    print(sqlite3.connect(":memory:").execute("select 1+1").fetchone(), json.dumps(sorted(os.listdir("."))))
END
        python3 -P job.py
    """,
    "tar": """
        mkdir -p in/deep; for n in 1 2 3; do seq $n 1000 >in/deep/$n; done; ln -s 1 in/deep/link; chmod 600 in/deep/2
        tar --sort=name --mtime=@0 --owner=0 --group=0 -czf out.tar.gz in; mkdir out; tar -xzf out.tar.gz -C out
        tar -tvzf out.tar.gz --utc; diff -r in out/in && echo same; gzip -t out.tar.gz && rm out.tar.gz
    """,
    "sqlite3": """
        sqlite3 db 'create table t(a integer primary key, b text); pragma journal_mode=wal;'
        for n in $(seq 20); do echo "insert into t(b) values(hex($n*$n));"; done | sqlite3 db
        sqlite3 db 'select count(*), sum(a), group_concat(b) from t'; sqlite3 db .dump | md5sum
        sqlite3 db 'pragma integrity_check'
    """,
    "bash": """
        cat <<END | tr a-z A-Z
here-document $((6 * 7))
END
        cat <<<here-string; diff <(seq 5) <(seq 2 6); tee >(wc -l >lines) <<<'x' >/dev/null
        until [ -s lines ]; do sleep 0.05; done; cat lines
        printf 'a\\nb\\n' >job.txt; exec {fd}<job.txt; read -u $fd line; echo $line; exec {fd}<&-
        seq 10000 | sort -rn | head -3 | paste -sd+ | sed 's/+/ + /g'
        coproc cat; echo coproc >&${COPROC[1]}; read -u ${COPROC[0]} x; echo $x; eval "exec ${COPROC[1]}>&-"; wait
        (sleep 0.1; exit 3) & wait $!; echo $?; trap 'echo term' TERM; kill -TERM $$
        set -o pipefail; false | true; echo $?; exec 3>&1 1>&2 2>&3; echo swapped >&2
        for n in 1 2 3; do echo $n & done 2>&1 | sort >&2; wait
    """,
    "gcc": """
        cat >a.c <<'END'
#include <stdio.h>
#include <math.h>
int main(int argc, char **argv) { (void)argv; printf("%.3f\\\\n", sqrt(argc + 1)); return 7; }
END
        gcc -O2 -Wall -pipe -o a a.c -lm && ./a; echo $?; gcc -c a.c && nm a.o | grep -c main
        gcc -E a.c | tail -1; rm a a.o
    """,
    "make": """
        for n in 1 2 3 4 5 6; do echo "int f$n(void) { return $n; }" >f$n.c; done
        cat >m.c <<'END'
int f1(void), f2(void), f3(void), f4(void), f5(void), f6(void);
int main(void) { return f1() + f2() + f3() + f4() + f5() + f6(); }
END
        cat >Makefile <<'END'
.RECIPEPREFIX = >
OBJECTS = $(patsubst %.c,%.o,$(sort $(wildcard *.c)))
all: m
m: $(OBJECTS)
> gcc -o $@ $^
%.o: %.c
> gcc -c -o $@ $<
END
        make -s; ./m; echo $?; rm *.o m; make -j2 -O | sort; ./m; echo $?; make -q && echo done; rm *.o m
    """,
    "perl": """
        seq 100 | perl -ne '$s += $_; END { print "$s\\n"; open(my $p, "-|", "echo", "pipe"); print <$p> }'
        perl -e 'print sort { $b <=> $a } 1..3; if (fork) { wait; print $? >> 8, "\\n" } else { exit 5 }'
    """,
    "awk": """
        awk -F: '{ n[$NF]++ } END { for (s in n) print n[s], s | "sort" }' /etc/passwd
        awk 'BEGIN { "echo sub" | getline x; print x; print "a b" | "tr a-z A-Z" }'
    """,
    "sed": """
        seq 5 >n; sed -i.orig -e '2d' -e 's/4/four/w changed' n; cat n n.orig changed; sed -n '$=' n
    """,
    "find": """
        mkdir -p d/{a,b,c}; for n in 1 2 3; do seq $n 50 >d/a/$n; seq 9 >d/b/$n; done
        find d -type f -print0 | sort -z | xargs -0 -P4 -n1 md5sum | sort
        find d -name 2 -exec wc -l {} + | sort; find d -empty -delete
    """,
}  # fmt: skip


def tree(folder: Path) -> dict[str, str]:
    """Return mode and digest of every file; what programs stamp with times and numbers (.git, WAL) is left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if ".git" not in path.parts and path.is_file() and not name.startswith("db"):
            found[name] = f"{path.stat().st_mode:o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return found


def do(
    command: Sequence[str], script: str, folder: Path, *, extra: Sequence[str] = ()
) -> tuple[int, str, str, dict[str, str]]:  # fmt: skip
    home = folder.with_name(f"{folder.name}-home")
    folder.mkdir()
    home.mkdir()
    person = {"NAME": "n", "EMAIL": "e@example.org", "DATE": "2020-01-01T00:00:00Z"}
    git = {f"GIT_{who}_{what}": text for who in ("AUTHOR", "COMMITTER") for what, text in person.items()}
    env = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(home), "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1", "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1", **git,
    }  # fmt: skip
    if "PYTHONPATH" in os.environ:  # where the installed package is, for another user
        env["PYTHONPATH"] = os.environ["PYTHONPATH"]
    done = subprocess.run(
        [*command, "bash", "-c", script, *extra], cwd=folder, env=env, text=True, capture_output=True,
        stdin=subprocess.DEVNULL, timeout=300, check=False,
    )  # fmt: skip
    place = str(folder)
    return done.returncode, done.stdout.replace(place, "@"), done.stderr.replace(place, "@"), tree(folder)


@pytest.fixture
def confined(sandbox_command: Sequence[str], tmp_path: Path) -> list[str]:
    """Return what starts a command in a sandbox in which tmp_path / "inside" can be written."""
    kept = [f"--env={name}" for name in ("GIT_*", "PYTHONDONTWRITEBYTECODE")]
    return [*sandbox_command, "run", "-p", "untrusted", *kept, "--write", str(tmp_path / "inside")]


@pytest.mark.parametrize("program", PACKAGES)
def test_program_is_installed(program: str) -> None:
    assert shutil.which(program), f"install the package {PACKAGES[program]} (tests/setup-system)"


@pytest.mark.parametrize("job", JOBS)
def test_program_does_in_the_sandbox_what_it_does_outside(confined: list[str], tmp_path: Path, job: str) -> None:
    outside = do([], JOBS[job], tmp_path / "outside")
    inside = do([*confined, "--"], JOBS[job], tmp_path / "inside")
    assert outside[1], "the job says nothing"
    assert inside == outside


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "file").write_bytes(os.urandom(1 << 16))
    handler = partial(QuietServer, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


class QuietServer(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_curl_fetches_from_a_local_server(confined: list[str], tmp_path: Path, server: str) -> None:
    script = """
        curl -sS -o file "$0/file"
        curl -sS --no-progress-meter --parallel "$0/file" -o a "$0/file" -o b; cmp a b && echo same
        curl -sS -w '%{http_code}\\n' -o /dev/null "$0/none"
    """
    outside = do([], script, tmp_path / "outside", extra=[server])
    inside = do([*confined, "--net", "host", "--"], script, tmp_path / "inside", extra=[server])
    assert inside == outside
    assert inside[1] == "same\n404\n"
    assert (tmp_path / "inside/file").read_bytes() == (tmp_path / "served/file").read_bytes()


@pytest.mark.parametrize("network", ["none", "loopback"])
def test_curl_reaches_no_server_of_the_host_without_its_network(
    confined: list[str], tmp_path: Path, server: str, network: str
) -> None:
    fetch = 'curl -sS -o file "$0/file"; echo $?'
    code, out, err, files = do([*confined, "--net", network, "--"], fetch, tmp_path / "inside", extra=[server])
    assert (code, out, files) == (0, "7\n", {}), err  # CURLE_COULDNT_CONNECT


def test_openssl_hashes_and_encrypts(confined: list[str], tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        return  # not among what setup-system installs
    cipher = "openssl enc -aes-128-cbc -pbkdf2 -k x"
    script = f"seq 9 | openssl sha256; seq 9 | {cipher} | {cipher} -d"
    assert do([*confined, "--"], script, tmp_path / "inside") == do([], script, tmp_path / "outside")
