"""Real programs that pass descriptors at exec: as outside under `untrusted`, and not at all without their protocol."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import pytest

import sandbox
from sandbox.protocols import PROTOCOLS

# protocol -> a bash script, and what it prints where the protocol holds.
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
}
NEEDED: Final = {"fd-value": "openssl", "gpg": "gpg"}
PRESENT: Final = [name for name in SCRIPTS if name not in NEEDED or shutil.which(NEEDED[name])]


def do(command: Sequence[str], script: str, folder: Path) -> tuple[str, str]:
    """Run a script in a fresh folder and return what it says: output, messages."""
    home = folder.with_name(f"{folder.name}-home")
    folder.mkdir()
    home.mkdir()
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "LC_ALL": "C", "PYTHONSAFEPATH": "1"}
    if "PYTHONPATH" in os.environ:  # where the installed package is, for another user
        env["PYTHONPATH"] = os.environ["PYTHONPATH"]
    done = subprocess.run(
        [*command, "bash", "-c", script], cwd=folder, env=env, text=True, capture_output=True,
        stdin=subprocess.DEVNULL, timeout=120, check=False,
    )  # fmt: skip
    return done.stdout, done.stderr


def run(command: Sequence[str], folder: Path, profile: Path | str = "untrusted") -> list[str]:
    """Return what starts a command in a sandbox where that folder, its working directory, can be written."""
    return [*command, "run", "-p", str(profile), "--write", str(folder), "--"]


def admitting(names: Iterable[str], path: Path) -> Path:
    """Write a profile that is `untrusted` but for the protocols that it admits."""
    profile = sandbox.load("untrusted", search=sandbox.default_search_path({}))
    policy = dataclasses.replace(profile.descriptors, delegate=tuple(sorted(names)))
    path.write_text(sandbox.format_profile(dataclasses.replace(profile, descriptors=policy)))
    return path


@pytest.mark.parametrize("protocol", PRESENT)
def test_program_passes_descriptors_as_it_does_outside(
    sandbox_command: Sequence[str], tmp_path: Path, protocol: str
) -> None:
    script, wanted = SCRIPTS[protocol]
    outside = do([], script, tmp_path / "outside")
    assert outside[0] == wanted
    folder = tmp_path / "inside"
    assert do(run(sandbox_command, folder), script, folder) == outside


@pytest.mark.parametrize("protocol", PRESENT)
def test_program_passes_nothing_where_the_profile_lacks_the_protocol(
    sandbox_command: Sequence[str], tmp_path: Path, protocol: str
) -> None:
    script, wanted = SCRIPTS[protocol]
    for names, passes in ((set(PROTOCOLS), True), (set(PROTOCOLS) - {protocol}, False)):
        profile = admitting(names, tmp_path / "profile.toml")
        folder = tmp_path / f"inside-{passes}"
        out, _ = do(run(sandbox_command, folder, profile), script, folder)
        assert (out == wanted) == passes, out


def test_make_without_its_pipe_says_so(sandbox_command: Sequence[str], tmp_path: Path) -> None:
    """What the job above looks for: the warning is make's, and it is there when nothing passes."""
    folder = tmp_path / "inside"
    profile = admitting((), tmp_path / "profile.toml")
    out, _ = do(run(sandbox_command, folder, profile), SCRIPTS["jobserver"][0], folder)
    assert "jobserver unavailable" in out


def test_python_pass_fds_alone_names_nothing(sandbox_command: Sequence[str], tmp_path: Path) -> None:
    """Clearing close-on-exec is let through, since the gate decides; a number that nothing names does not go along."""
    script = """python3 - <<'END'
import os, subprocess
r, w = os.pipe()
for options in {}, {"env": {**os.environ, "SANDBOX_PASS_FDS": f"{r},{w}"}}:
    done = subprocess.run(["ls", "/proc/self/fd"], pass_fds=[r, w], capture_output=True, text=True, **options)
    print(done.returncode, {str(r), str(w)} <= set(done.stdout.split()))
END"""
    # r is 3 or so, which is what ls itself opens when it is free; so both must be there.
    assert do([], script, tmp_path / "outside") == ("0 True\n0 True\n", "")
    folder = tmp_path / "inside"
    assert do(run(sandbox_command, folder), script, folder) == ("0 False\n0 True\n", "")
