"""Real programs that pass descriptors at exec: as outside under `untrusted`, and not at all without their protocol."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

import sandbox
from sandbox.protocols import PROTOCOLS
from tests.compat.delegating import OPTIONS, PRESENT, SCRIPTS, WAIT_FOR, protocol_of

DECLARED = [name for name, protocol in PROTOCOLS.items() if not protocol.names]  # untrusted does not admit them


def do(command: Sequence[str], script: str, folder: Path) -> tuple[str, str]:
    """Run a script in a fresh folder and return what it says: output, messages."""
    home = folder.with_name(f"{folder.name}-home")
    folder.mkdir()
    home.mkdir()
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "LC_ALL": "C", "PYTHONSAFEPATH": "1"}
    if "PYTHONPATH" in os.environ:  # where the installed package is, for another user
        env["PYTHONPATH"] = os.environ["PYTHONPATH"]
    done = subprocess.run(
        [*command, "bash", "-c", WAIT_FOR + script], cwd=folder, env=env, text=True, capture_output=True,
        stdin=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout, done.stderr


def run(
    command: Sequence[str], folder: Path, profile: Path | str = "untrusted", options: Sequence[str] = ()
) -> list[str]:
    """Return what starts a command in a sandbox where that folder, its working directory, can be written."""
    return [*command, "run", "-p", str(profile), "--write", str(folder), *options, "--"]


def admitting(names: Iterable[str], path: Path) -> Path:
    """Write a profile that is `untrusted` but for the protocols that it admits."""
    profile = sandbox.load("untrusted", search=sandbox.default_search_path({}))
    policy = dataclasses.replace(profile.descriptors, delegate=tuple(sorted(names)))
    path.write_text(sandbox.format_profile(dataclasses.replace(profile, descriptors=policy)))
    return path


def test_scripts_are_of_every_protocol() -> None:
    assert {protocol_of(name) for name in SCRIPTS} == set(PROTOCOLS)


@pytest.mark.parametrize("name", PRESENT)
def test_program_passes_descriptors_as_it_does_outside(
    sandbox_command: Sequence[str], tmp_path: Path, name: str
) -> None:
    script, wanted = SCRIPTS[name]
    outside = do([], script, tmp_path / "outside")
    assert outside[0] == wanted
    folder = tmp_path / "inside"
    options = [*OPTIONS.get(name, ()), *(["--delegate", name] if name in DECLARED else [])]
    assert do(run(sandbox_command, folder, options=options), script, folder) == outside


@pytest.mark.parametrize("name", PRESENT)
def test_program_passes_nothing_where_the_profile_lacks_the_protocol(
    sandbox_command: Sequence[str], tmp_path: Path, name: str
) -> None:
    script, wanted = SCRIPTS[name]
    others = set(PROTOCOLS) - {protocol_of(name), *DECLARED}
    for names, passes in ((others | {protocol_of(name)}, True), (others, False)):
        profile = admitting(names, tmp_path / "profile.toml")
        folder = tmp_path / f"inside-{passes}"
        out, err = do(run(sandbox_command, folder, profile, OPTIONS.get(name, ())), script, folder)
        assert (out == wanted) == passes, out + err


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
