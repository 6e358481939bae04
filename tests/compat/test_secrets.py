"""Real programs take a secret by its number: gpg and openssl; it stands in no argument, variable or file of theirs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.callers import Ended, sandbox


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"optional tool absent: {program}")


def with_secret(secret: str, folder: Path, *command: object) -> Ended:
    """Run a command with a secret as descriptor 7, from a file that its view does not show."""
    (folder / "secret").write_text(secret)
    (folder / "work").mkdir(exist_ok=True)
    grant = f"key@7=secret:{folder}/secret"
    words = ["--write", str(folder / "work"), "--chdir", str(folder / "work"), "--grant", grant]
    return sandbox(*words, "--", *map(str, command))


def test_openssl_takes_the_passphrase_of_a_key(tmp_path: Path) -> None:
    needs("openssl")
    key = tmp_path / "work" / "key.pem"
    make = ["openssl", "genpkey", "-algorithm", "ED25519", "-aes-256-cbc", "-pass", "fd:7", "-out", key]
    assert with_secret("right\n", tmp_path, *make).code == 0
    assert "ENCRYPTED" in key.read_text()
    read = ["openssl", "pkey", "-in", key, "-passin", "fd:7", "-noout", "-text"]
    assert "ED25519 Private-Key" in with_secret("right\n", tmp_path, *read).out
    wrong = with_secret("wrong\n", tmp_path, *read)
    assert (wrong.code == 0, "ED25519" in wrong.out) == (False, False)


def test_gpg_takes_the_passphrase(tmp_path: Path) -> None:
    needs("gpg")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "text").write_text("what it says\n")
    gpg = [
        "gpg",
        "--homedir",
        "/tmp",
        "--no-permission-warning",
        "--batch",
        "--quiet",
        "--pinentry-mode",
        "loopback",
        "--passphrase-fd",
        "7",
    ]
    assert with_secret("right\n", tmp_path, *gpg, "-c", "-o", "text.gpg", "text").code == 0
    assert with_secret("right\n", tmp_path, *gpg, "-d", "text.gpg").out == "what it says\n"
    wrong = with_secret("wrong\n", tmp_path, *gpg, "-d", "text.gpg")
    assert (wrong.code == 0, wrong.out) == (False, "")


def test_curl_takes_credentials_from_a_descriptor(tmp_path: Path) -> None:
    """A configuration file that is a descriptor: the header is sent, and is in no argument."""
    needs("curl")
    server = ["python3", "-c", (
        "import http.server\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers()\n"
        "        self.wfile.write(str(self.headers['Authorization']).encode())\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), Handler)\n"
        "print(server.server_port, flush=True)\n"
        "server.serve_forever()\n"
    )]  # fmt: skip
    with subprocess.Popen(server, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        try:
            assert running.stdout is not None
            url = f"http://127.0.0.1:{int(running.stdout.readline())}/"
            (tmp_path / "secret").write_text('header = "Authorization: Bearer right"\n')
            for given, said in ((["--config", "/dev/fd/7"], "Bearer right"), ([], "None")):
                ended = sandbox(
                    "--net", "host", "--grant", f"key@7=secret:{tmp_path}/secret", "--",
                    "curl", "-q", "-s", "--noproxy", "*", *given, url,
                )  # fmt: skip
                assert ended.out == said
        finally:
            running.terminate()
