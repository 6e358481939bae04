"""What is exported works where it is for: crun refuses the same calls, bubblewrap shows the same files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from sandbox.errors import UsageError
from sandbox.exports import imported_filter
from sandbox.syscall_table import NUMBERS
from sandbox.syscalls import ENOSYS_ALWAYS
from tests.support.native import build_folder

NEEDS_CRUN: Final = pytest.mark.skipif(shutil.which("crun") is None, reason="optional tool absent: crun")
NEEDS_BWRAP: Final = pytest.mark.skipif(shutil.which("bwrap") is None, reason="optional tool absent: bwrap")
NEEDS_ROOT: Final = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: crun mounts what we export")
SANDBOX: Final = (sys.executable, "-P", "-m", "sandbox")
ALL: Final = 2**64 - 1
BAD: Final = 0xFFFF_FFFF_FFFF_F000

# Calls that do no harm where they are let through, on both sides of each rule; and what no profile lets through.
CALLS: Final[list[tuple[str, tuple[int, ...]]]] = [
    ("getpid", ()), ("fcntl", (0, 1)), ("fcntl", (0, 2, 0)), ("fcntl", (0, 2, 1)),
    ("fcntl", (0, 0x100000002, 0)), ("ioctl", (ALL, 0x5450)), ("ioctl", (ALL, 0x5451)),
    ("ioctl", (ALL, 0x5412)), ("ioctl", (ALL, 0x5401)), ("ioctl", (ALL, 0x540E, 1)),
    ("ioctl", (ALL, 0x540E, 0)), ("ioctl", (ALL, 0x4B01)), ("ioctl", (ALL, 0x4A01)), ("ioctl", (ALL, 0x5603)),
    ("ioctl", (ALL, 0x5703)), ("ioctl", (ALL, 0x541C)), ("ioctl", (ALL, 0x541B)), ("socket", (1, 1, 0)),
    ("socket", (2, 1, 0)), ("socket", (10, 1, 0)), ("socket", (16, 3, 0)), ("socket", (17, 3, 0)),
    ("socket", (38, 5, 0)), ("socket", (40, 1, 0)), ("socket", (2, 1, 262)), ("socket", (2, 1, 256)),
    ("socket", (2, 1, 6)), ("prctl", (35, 1, 0)), ("prctl", (0x59616D61, 1)), ("prctl", (39, 0, 0, 0, 0)),
    ("prctl", (3,)), ("prctl", (0x59616D60,)), ("personality", (0xFFFFFFFF,)), ("personality", (0x0040000,)),
    ("personality", (0,)), ("personality", (4,)), ("clone", (0x10000000,)), ("clone", (0x20000011,)),
    ("seccomp", (1, 8, 0)), ("seccomp", (2, 0, BAD)), ("chmod", (BAD, 0o4755)), ("chmod", (BAD, 0o755)),
    ("fchmod", (ALL, 0o2755)), ("fchmod", (ALL, 0o755)), ("openat", (ALL, BAD, 0o100, 0o4755)),
    ("openat", (ALL, BAD, 0o100, 0o755)), ("openat", (ALL, BAD, 0, 0o4755)), ("dup2", (ALL, 3)),
    ("unshare", (0,)), ("setns", (ALL, 0)), ("mount", (BAD, BAD)), ("umount2", (BAD, ALL)),
    ("pivot_root", (BAD, BAD)), ("chroot", (BAD,)), ("ptrace", (ALL, ALL)), ("bpf", (ALL, BAD, 0)),
    ("keyctl", (ALL,)), ("add_key", (BAD, BAD)), ("init_module", (BAD, 0, BAD)),
    ("kexec_load", (0, ALL, BAD, ALL)), ("iopl", (4,)), ("settimeofday", (BAD, 0)), ("reboot", (0, 0, 0)),
    ("swapon", (BAD, 0)), ("perf_event_open", (BAD, 0, 0, ALL, ALL)), ("userfaultfd", (ALL,)),
    ("process_vm_readv", (0, 0, 0, 0, 0, ALL)), ("name_to_handle_at", (ALL, BAD, BAD, BAD, ALL)),
    *((name, (ALL, BAD)) for name in sorted(ENOSYS_ALWAYS)),
]  # fmt: skip
PROBE: Final = """
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <unistd.h>
int main(void)
{
	long nr;
	unsigned long a[6];
	while (scanf("%ld %lu %lu %lu %lu %lu %lu", &nr, a, a + 1, a + 2, a + 3, a + 4, a + 5) == 7) {
		errno = 0;
		long done = syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
		dprintf(1, "%d\\n", done == -1 ? errno : 0);
	}
	return 0;
}
"""


def exported(form: str, *arguments: str, cwd: str | Path = "/usr") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SANDBOX, "export", form, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=True
    )  # fmt: skip


@pytest.fixture(scope="module")
def probe() -> Path:
    """Return a program that makes the calls that it reads, and says what each gave."""
    folder = build_folder() / "calls"
    folder.mkdir(exist_ok=True)
    (folder / "probe.c").write_text(PROBE)
    subprocess.run(["gcc", "-O1", "-static", "-o", folder / "probe", folder / "probe.c"], check=True)
    return folder / "probe"


def asked(calls: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    def line(name: str, args: Sequence[int]) -> str:
        return " ".join(map(str, [NUMBERS[name], *args, *[0] * (6 - len(args))]))

    return "".join(line(name, args) + "\n" for name, args in calls)


def in_crun(config: dict[str, Any], folder: Path, stdin: str) -> subprocess.CompletedProcess[str]:
    (folder / "rootfs").mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    # crun takes no host whose cgroups are of both versions.
    script = (
        "umount -l -R /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 cgroup2 /sys/fs/cgroup\n"
        'exec crun --root "$0/state" --cgroup-manager=disabled run --bundle "$0" "sandbox-export-$$"'
    )
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, folder],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@NEEDS_CRUN
@NEEDS_ROOT
def test_crun_refuses_the_same_calls_under_what_is_exported(tmp_path: Path, probe: Path) -> None:
    ours = subprocess.run(
        [*SANDBOX, "run", str(probe)],
        input=asked(CALLS),
        cwd=probe.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ours.returncode, ours.stderr) == (0, "")
    config = json.loads(exported("--oci", "untrusted", "--", str(probe), cwd=probe.parent).stdout)
    theirs = in_crun(config, tmp_path, asked(CALLS))
    assert theirs.returncode == 0, theirs.stderr
    assert [*zip(CALLS, theirs.stdout.split(), strict=True)] == [*zip(CALLS, ours.stdout.split(), strict=True)]
    assert {"0", "1", "38"} <= set(ours.stdout.split())
    # The twin: without the filter, crun lets through what only the filter refuses.
    del config["linux"]["seccomp"]
    (tmp_path / "open").mkdir()
    harmless = [call for call in CALLS if call[0] != "clone"]  # which makes processes then, that read the rest
    unfiltered = in_crun(config, tmp_path / "open", asked(harmless))
    assert unfiltered.returncode == 0, unfiltered.stderr
    held = dict(zip(CALLS, ours.stdout.split(), strict=True))
    differ = [call for call, said in zip(harmless, unfiltered.stdout.split(), strict=True) if said != held[call]]
    assert {"ioctl", "socket", "personality", "chmod", "unshare", "ptrace"} <= {name for name, _ in differ}


@NEEDS_BWRAP
def test_bubblewrap_shows_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("here\n")
    script = "cat data; ls -A / ~; ls /etc/ssh 2>&1 | head -3; cat /etc/shadow; echo x >data"
    done = exported("--bwrap", "untrusted", "--", "sh", "-c", script, cwd=tmp_path)
    theirs = subprocess.run(
        ["sh", "-c", done.stdout], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    ours = subprocess.run(
        [*SANDBOX, "run", "sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert theirs.stdout == ours.stdout
    assert "Read-only file system" in theirs.stderr
    assert (tmp_path / "data").read_text() == "here\n"


def test_each_export_tells_what_it_leaves_out() -> None:
    for form, words in (
        ("--docker", ["exec gate", "no filter's"]),
        ("--oci", ["exec gate", "landlock", "streams", "terminal"]),
        ("--bwrap", ["filter: bubblewrap", "exec gate", "limits"]),
        ("--systemd", ["filter: rules on arguments", "exec gate", "namespaces"]),
    ):
        said = exported(form, "untrusted", "--", "true").stderr
        assert all(line.startswith("sandbox: export: not expressed: ") for line in said.splitlines())
        for word in words:
            assert f"not expressed: {word}" in said or word in said, (form, word)
    once = exported("--docker", "sealed").stderr
    assert 'process.exec = "once"' in once
    assert (
        "network none: its rules are nobody's"
        in exported("--oci", "--net-allow", "tcp:127.0.0.1:80", "untrusted").stderr
    )
    grant = exported("--oci", "--grant", "x=file:/etc/hosts", "untrusted").stderr
    assert "grant x: descriptors are not opened" in grant


def test_exported_limits_are_those_of_the_profile() -> None:
    limits = ("--limit", "memory=1G", "--limit", "processes=9", "--limit", "open_files=99", "--limit", "timeout=5s")
    config = json.loads(exported("--oci", *limits, "untrusted").stdout)
    assert config["linux"]["resources"] == {"memory": {"limit": 1 << 30, "swap": 1 << 30}, "pids": {"limit": 9}}
    assert {"type": "RLIMIT_NOFILE", "hard": 99, "soft": 99} in config["process"]["rlimits"]
    assert config["process"]["noNewPrivileges"]
    assert not any(config["process"]["capabilities"].values())
    done = exported("--systemd", *limits, "untrusted")
    assert "MemoryMax=1073741824\n" in done.stdout
    assert "timeout" in done.stderr


def test_filter_is_imported_as_it_was_exported() -> None:
    docker = json.loads(exported("--docker", "untrusted").stdout)
    made = imported_filter(docker)
    plain = next(entry for entry in docker["syscalls"] if "args" not in entry and len(entry["names"]) > 9)
    assert made.value == plain["names"]
    assert any(line.startswith("ioctl: allowed on a condition only") for line in made.lost)
    assert imported_filter({"linux": {"seccomp": docker}}).value == made.value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "it lists no syscalls"), ({"syscalls": {}}, "it lists no syscalls"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}, "its default is SCMP_ACT_ALLOW"),
        ({"syscalls": []}, "its default is None"),
    ],
)  # fmt: skip
def test_filter_that_allows_what_it_does_not_name_is_not_imported(value: Any, reason: str) -> None:  # noqa: ANN401
    with pytest.raises(UsageError, match=reason):
        imported_filter(value)


def test_imported_filter_leaves_out_what_it_does_not_know() -> None:
    value = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["read", "no_such_call", "clone3"], "action": "SCMP_ACT_ALLOW"},
            {"name": "write", "action": "SCMP_ACT_ALLOW"},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["bpf"], "action": "SCMP_ACT_LOG"},
            {"names": ["mount"], "action": "SCMP_ACT_ERRNO"},
        ],
    }
    made = imported_filter(value)
    assert made.value == ["read", "write"]
    assert [line.split(":")[0] for line in made.lost] == ["ptrace", "bpf", "clone3, no_such_call"]


def test_profile_with_an_imported_filter_is_one(tmp_path: Path) -> None:
    (tmp_path / "filter.json").write_text(exported("--docker", "untrusted").stdout)
    done = subprocess.run(
        [*SANDBOX, "profiles", "import", str(tmp_path / "filter.json")], capture_output=True, text=True, check=True
    )
    (tmp_path / "mine.toml").write_text(f'description = "imported"\nextends = ["base"]\n{done.stdout}')
    checked = subprocess.run(
        [*SANDBOX, "check", str(tmp_path / "mine.toml")], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout[:7]) == (0, "ok mine")
