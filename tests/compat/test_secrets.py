"""Real programs take a secret by its number, no shell between: gpg, openssl, curl; it stands in no argument."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

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


TLS_SERVER: Final = """
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(repr(self.connection.getpeercert()["subject"]).encode())
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("server.pem")
context.load_verify_locations("client.crt")
context.verify_mode = ssl.CERT_REQUIRED
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


def make_certificate(folder: Path, name: str) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{name}.key", "-out", f"{name}.crt"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    (folder / f"{name}.pem").write_text((folder / f"{name}.key").read_text() + (folder / f"{name}.crt").read_text())


def test_curl_takes_its_key_and_certificate_from_a_secret(tmp_path: Path) -> None:
    """`--cert` opens what it is told several times, by its name: /dev/fd/N opens the sealed copy anew each time."""
    needs("curl")
    needs("openssl")
    for name in ("server", "client"):
        make_certificate(tmp_path, name)
    server = ["python3", "-c", TLS_SERVER]
    with subprocess.Popen(
        server, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:  # fmt: skip
        try:
            assert running.stdout is not None
            url = f"https://127.0.0.1:{int(running.stdout.readline())}/"
            for given, code in ((["--cert", "/dev/fd/7"], 0), ([], 56)):
                ended = sandbox(
                    "--net", "host", "--grant", f"key@7=secret:{tmp_path}/client.pem",
                    "--grant", f"ca@8=copy:{tmp_path}/server.crt", "--",
                    "curl", "-q", "-s", "--noproxy", "*", "--cacert", "/dev/fd/8", *given, url,
                )  # fmt: skip
                assert (ended.code == 0, "client" in ended.out) == (code == 0, code == 0), ended
        finally:
            running.terminate()
