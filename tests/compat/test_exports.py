"""What is exported works where it is for: crun and runc refuse the same calls, bubblewrap shows the same files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from jsonschema import Draft4Validator
from referencing import Registry
from referencing.jsonschema import DRAFT4

from sandbox.errors import UsageError
from sandbox.imports import imported_filter
from sandbox.syscall_table import NUMBERS
from sandbox.syscalls import ENOSYS_ALWAYS
from tests.support.native import build_folder
from tests.support.probes import public_folder

NEEDS_BWRAP: Final = pytest.mark.skipif(shutil.which("bwrap") is None, reason="optional tool absent: bwrap")
NEEDS_ROOT: Final = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a runtime mounts what we export")
SANDBOX: Final = (sys.executable, "-P", "-m", "sandbox")
NOBODY: Final = 65534
Calls: TypeAlias = Sequence[tuple[str, tuple[int, ...]]]
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


def asked(calls: Calls) -> str:
    def line(name: str, args: Sequence[int]) -> str:
        return " ".join(map(str, [NUMBERS[name], *args, *[0] * (6 - len(args))]))

    return "".join(line(name, args) + "\n" for name, args in calls)


# What starts a bundle, by runtime, in a folder of its own. crun takes no host whose cgroups are of both versions.
RUNTIMES: Final = {
    "crun": 'crun --root "$0/state" --cgroup-manager=disabled run --bundle "$0" "sandbox-export-$$"',
    "runc": 'runc --root "$0/state" run --bundle "$0" "sandbox-export-$$"',
}
# Of each kind one: what is shown, what is served, what is built, what starts once.
PROFILES: Final = ("untrusted", "sealed", "reader", "writer", "builder", "client", "server")


def in_runtime(
    runtime: str, config: dict[str, Any], folder: Path, stdin: str, *, user: int | None = None
) -> subprocess.CompletedProcess[str]:
    (folder / "rootfs").mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    become = ""
    if user is not None:
        become = f"setpriv --reuid={user} --regid={user} --clear-groups env XDG_RUNTIME_DIR=$0 "
        for path in (folder, *folder.iterdir()):
            os.chown(path, user, user)
    script = (
        "umount -l -R /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 cgroup2 /sys/fs/cgroup\n"
        f"exec {become}{RUNTIMES[runtime]}"
    )
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, folder],
        input=stdin, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def in_ours(profile: str, probe: Path, calls: Calls) -> list[str]:
    """Return what each call gave in our sandbox."""
    done = subprocess.run(
        [*SANDBOX, "run", "-p", profile, *shown(probe), str(probe)],
        input=asked(calls), cwd="/", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def shown(probe: Path) -> tuple[str, ...]:
    return "--chdir", "/", "--execute", str(probe.parent)


@NEEDS_ROOT
@pytest.mark.parametrize("profile", PROFILES)
def test_runtimes_refuse_the_same_calls_under_what_is_exported(profile: str, tmp_path: Path, probe: Path) -> None:
    ours = in_ours(profile, probe, CALLS)
    config = json.loads(exported("--oci", *shown(probe), profile, "--", str(probe)).stdout)
    assert json.loads(exported("--docker", *shown(probe), profile).stdout) == config["linux"]["seccomp"]
    for runtime in RUNTIMES:
        (tmp_path / runtime).mkdir()
        theirs = in_runtime(runtime, config, tmp_path / runtime, asked(CALLS))
        assert theirs.returncode == 0, (runtime, theirs.stderr)
        assert [*zip(CALLS, theirs.stdout.split(), strict=True)] == [*zip(CALLS, ours, strict=True)], runtime
    assert {"0", "1", "38"} <= set(ours)


@NEEDS_ROOT
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_runtime_lets_through_what_only_the_filter_refuses(runtime: str, tmp_path: Path, probe: Path) -> None:
    """The twin: the runtime alone does not refuse these."""
    held = dict(zip(CALLS, in_ours("untrusted", probe, CALLS), strict=True))
    config = json.loads(exported("--oci", *shown(probe), "untrusted", "--", str(probe)).stdout)
    del config["linux"]["seccomp"]
    harmless = [call for call in CALLS if call[0] != "clone"]  # which makes processes then, that read the rest
    unfiltered = in_runtime(runtime, config, tmp_path, asked(harmless))
    assert unfiltered.returncode == 0, unfiltered.stderr
    differ = [call for call, said in zip(harmless, unfiltered.stdout.split(), strict=True) if said != held[call]]
    assert {"ioctl", "socket", "personality", "chmod", "unshare", "ptrace"} <= {name for name, _ in differ}


@NEEDS_ROOT
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_ordinary_user_s_runtime_refuses_the_same_calls(runtime: str, probe: Path) -> None:
    with public_folder() as folder:
        program = folder / "probe"
        shutil.copy(probe, program)
        program.chmod(0o755)
        ours = in_ours("untrusted", program, CALLS)
        config = json.loads(exported("--oci", *shown(program), "untrusted", "--", str(program)).stdout)
        inside = 0 if runtime == "runc" else NOBODY  # runc takes no mapping without root; what is lost tells of it
        for kind in ("uid", "gid"):
            config["linux"][f"{kind}Mappings"] = [{"containerID": inside, "hostID": NOBODY, "size": 1}]
            config["process"]["user"][kind] = inside
        bundle = folder / "bundle"
        bundle.mkdir()
        theirs = in_runtime(runtime, config, bundle, asked(CALLS), user=NOBODY)
    assert theirs.returncode == 0, theirs.stderr
    assert [*zip(CALLS, theirs.stdout.split(), strict=True)] == [*zip(CALLS, ours, strict=True)]


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


SCHEMAS: Final = Path("/usr/share/gocode/src/github.com/opencontainers/runtime-spec/schema")


def specified(name: str) -> Any:  # noqa: ANN401
    """Return a schema of the OCI runtime specification in which a word that it does not know is an error."""

    def strict(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, list):
            return [strict(each) for each in value]
        if not isinstance(value, dict):
            return value
        closed = {"additionalProperties": False} if "properties" in value and "allOf" not in value else {}
        return {**closed, **{key: strict(each) for key, each in value.items()}}

    return strict(json.loads((SCHEMAS / name).read_text()))


def invalid(schema: Any, value: Any) -> list[str]:  # noqa: ANN401
    schemas = [(path.name, DRAFT4.create_resource(specified(path.name))) for path in SCHEMAS.glob("*.json")]
    registry: Registry[Any] = Registry().with_resources(schemas)
    return [error.message for error in Draft4Validator(schema, registry=registry).iter_errors(value)]


@pytest.mark.parametrize("profile", [*PROFILES, "nested"])
def test_exports_are_what_the_runtime_specification_says(profile: str) -> None:
    limits = ("--limit", "memory=1G", "--limit", "processes=9", "--limit", "open_files=99", "--limit", "cpu=0.5")
    config = json.loads(exported("--oci", *limits, profile, "--", "true").stdout)
    assert invalid(specified("config-schema.json"), config) == []
    seccomp = specified("config-linux.json")["linux"]["properties"]["seccomp"]
    docker = json.loads(exported("--docker", profile).stdout)
    assert invalid(seccomp, docker) == []
    # The twins: a word that is none, and one that is missing.
    docker["syscalls"][0]["action"] = "SCMP_ACT_ALLOWED"
    config["linux"]["secomp"] = config["linux"].pop("seccomp")
    del config["root"]["path"]
    assert len(invalid(seccomp, docker)) == 1
    assert len(invalid(specified("config-schema.json"), config)) == 2


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
    allowed = {name for entry in docker["syscalls"] if entry["action"] == "SCMP_ACT_ALLOW" for name in entry["names"]}
    assert {"ioctl", "fcntl", "clone", "socket"} < set(made.value) <= allowed
    # What it holds by Landlock's lack; not every profile has these rules.
    assert made.lost == (f"{', '.join(sorted(allowed - set(made.value)))}: allowed on a condition only; not taken",)
    assert imported_filter({"linux": {"seccomp": docker}}).value == made.value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "it lists no syscalls"), ({"syscalls": {}}, "it lists no syscalls"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}, "its default is SCMP_ACT_ALLOW"),
        ({"syscalls": []}, "its default is None"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [3]}, "an entry is none"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"action": "SCMP_ACT_ALLOW"}]}, "an entry is none"),
    ],
)  # fmt: skip
def test_filter_that_allows_what_it_does_not_name_is_not_imported(value: Any, reason: str) -> None:  # noqa: ANN401
    with pytest.raises(UsageError, match=reason):
        imported_filter(value)


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
