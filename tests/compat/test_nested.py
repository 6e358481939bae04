"""Programs that make sandboxes or trace others, under the profile nested: they work, and reach nothing new."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.support import callers
from tests.support.callers import SANDBOX, Ended
from tests.support.probes import public_folder

# Root has to name somebody else: with its ID, a writable /proc would change the host's settings.
AS_USER: Final = ("--user", "65534:65534") if os.geteuid() == 0 else ()
# A user namespace within the sandbox, all capabilities in it.
CAPABLE: Final = ("unshare", "--user", "--map-root-user", "--mount")
REFUSED: Final = {
    "unshare": "unshare failed: Operation not permitted",
    "bwrap": "No permissions to create new namespace",
    "strace": "Operation not permitted",
}
JOBS: Final = {
    "unshare": (["unshare", "-Urpf", "--mount-proc", "sh", "-c", "id -u; echo $$"], "0\n1\n"),
    "bwrap": (
        [
            "bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/mnt", "--unshare-pid",
            "sh", "-c", "echo $$; ls /mnt; touch /mnt/x && echo made",
        ],
        "2\nmade\n",
    ),
    "strace": (["strace", "-f", "-qq", "-e", "trace=openat", "-o", "/dev/null", "sh", "-c", "echo a | cat"], "a\n"),
}  # fmt: skip


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as path:
        path.chmod(0o777)
        yield path


def run(profile: str, folder: Path, *command: str, options: Sequence[str] = AS_USER) -> Ended:
    """Run a command that starts in `folder`, which untrusted shows; no other folder of the tests is in the view."""
    return callers.run([*SANDBOX, "run", "-p", profile, *options, "--chdir", folder, "--", *command])


@pytest.mark.parametrize("tool", JOBS)
def test_tool_works_nested_and_is_refused_in_untrusted(folder: Path, tool: str) -> None:
    assert shutil.which(tool), f"install {tool} (tests/setup-system)"
    command, wanted = JOBS[tool]
    assert run("nested", folder, *command) == Ended(0, wanted, "")
    refused = run("untrusted", folder, *command)
    assert refused.code != 0
    assert REFUSED[tool] in refused.err


def test_capabilities_within_show_nothing_of_the_host(folder: Path) -> None:
    """Taking mounts away, entering other processes' namespaces, leaving by /proc: what is in the view stays all."""
    with public_folder() as outside:
        (outside / "secret").write_text("word")
        _try_to_leave(folder, outside / "secret")


def _try_to_leave(folder: Path, secret: Path) -> None:
    host = os.stat("/proc/self/ns/mnt").st_ino
    script = f"""
        mkdir -p /tmp/place && mount --bind /usr /tmp/place && ls /tmp/place >/dev/null && echo bound
        umount -l / || echo kept
        for path in {secret} /proc/1/root{secret} /proc/self/root{secret} ../../../../../../..{secret}; do
            cat $path && echo leaked
        done
        nsenter -t 1 -m true && echo entered
        for process in /proc/[0-9]*; do readlink $process/ns/mnt; done | grep -c {host}
        [ "$(ls -d /proc/[0-9]* | wc -l)" -lt 12 ] && echo few
        (echo 1 >/proc/sys/kernel/panic) || echo unchanged
    """
    ended = run("nested", folder, *CAPABLE, "bash", "-c", script)
    assert ended.out == "bound\nkept\n0\nfew\nunchanged\n", ended
    (folder / "shown").write_text("word")
    assert run("nested", folder, *CAPABLE, "cat", f"{folder}/shown") == Ended(0, "word", "")


@pytest.mark.parametrize("nested", [(), CAPABLE])
def test_gate_holds_in_a_namespace_within(folder: Path, nested: tuple[str, ...]) -> None:
    """The supervisor reads and marks the tables of processes that are root in a user namespace of their own."""
    leak = "exec 7</etc/passwd; exec bash -c '[ -e /proc/$$/fd/7 ] && echo there || echo gone' {}"
    said = [run("nested", folder, *nested, "bash", "-c", leak.format(word)).out for word in ("-", "/dev/fd/7")]
    assert said == ["gone\n", "there\n"]


def test_listener_is_refused_to_whoever_has_capabilities_within(folder: Path) -> None:
    """SECCOMP_SET_MODE_FILTER (1) with SECCOMP_FILTER_FLAG_NEW_LISTENER (8) is refused, without it EFAULT."""
    program = "import ctypes; c = ctypes.CDLL(None, use_errno=True)\n" + "".join(
        f"c.syscall(317, 1, {flags}, None); print(ctypes.get_errno())\n" for flags in (8, 0)
    )
    assert run("nested", folder, *CAPABLE, "/usr/bin/python3", "-c", program).out == "1\n14\n"


def test_root_has_to_name_a_user(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: an ordinary user has no settings to change")
    ended = run("nested", folder, "true", options=())
    assert (ended.code, ended.out) == (125, "")
    assert "filesystem.proc: writable, it lets root change the host's settings in /proc/sys" in ended.err
    assert run("nested", folder, "true") == Ended(0, "", "")
