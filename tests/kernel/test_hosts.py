"""What hosts, containers and other sandboxes refuse: either all works there, or the error says what refuses and why."""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

import sandbox
from sandbox.filesystem import FilesystemPolicy
from sandbox.plan import Plan
from sandbox.profile import NetworkMode
from sandbox.profile_files import default_search_path, load
from sandbox.resolve import Additions
from sandbox.syscall_table import NUMBERS
from tests.support import callers
from tests.support.callers import SANDBOX, Ended, launch, plan_of
from tests.support.probes import Probes, public_folder

ROOT: Final = os.geteuid() == 0
# The kinds as /proc/sys/user names them -> as messages do.
KINDS: Final = {
    "user": "user", "mnt": "mount", "pid": "pid", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup", "net": "network",
}  # fmt: skip
PACKAGES: Final = Path(sandbox.__file__).parent.parent


def walled(probes: Probes, marker: Path) -> Plan:
    """Return a plan with every wall whose command would leave the marker."""
    files = FilesystemPolicy(execute=(str(probes.folder),), write=(str(marker.parent),))
    additions = Additions(filesystem=files, network=NetworkMode.LOOPBACK)
    return plan_of([probes["mark"], marker], walls=True, additions=additions)


def within(script: str, *options: str) -> list[str]:
    """Return a wrapper: a user and a mount namespace, prepared by a script that then becomes its arguments."""
    return ["unshare", "--user", "--map-root-user", "--mount", *options, "sh", "-ec", f'{script}; exec "$@"', "sh"]


@pytest.mark.parametrize("kind", KINDS)
def test_namespace_that_the_host_has_no_more_of_is_named_with_its_setting(
    probes: Probes, marker: Path, kind: str
) -> None:
    """The settings are those of a user namespace that the test makes; the host's stay as they are."""

    def with_at_most(number: int) -> Ended:
        return launch(walled(probes, marker), before=within(f"echo {number} >/proc/sys/user/max_{kind}_namespaces"))

    ended = with_at_most(0)
    assert (ended.code, ended.out, marker.exists()) == (125, "", False)
    assert ended.err.startswith(f"sandbox: namespace: {KINDS[kind]}: there may be no more of them; ")
    assert f"user.max_{kind}_namespaces" in ended.err
    assert (with_at_most(20), marker.exists()) == (Ended(0, "", ""), True)


def test_no_namespace_is_blamed_when_no_process_can_be_made(probes: Probes, marker: Path) -> None:
    if ROOT:
        pytest.skip("needs an ordinary user: the limit of processes does not hold for root")

    def alone(most: int) -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))

    ended = launch(walled(probes, marker), setup=lambda: alone(1))
    assert (ended, marker.exists()) == (Ended(125, "", "sandbox: fork: Resource temporarily unavailable\n"), False)
    assert launch(walled(probes, marker), setup=lambda: alone(1000)) == Ended(0, "", "")


# What a user namespace may be kept from doing within itself (AppArmor's restriction, a filter) -> what is said of it.
WITHIN: Final = {
    "sethostname": "hostname: sandbox: ",
    "socket": "loopback: lo: ",
    "fsopen": "view: root: ",
    "pivot_root": "view: root: ",
}


@pytest.mark.parametrize("name", WITHIN)
@pytest.mark.parametrize("error", [errno.EPERM, errno.EACCES])
def test_restricted_user_namespace_is_named(probes: Probes, marker: Path, name: str, error: int) -> None:
    outer = [probes["outer"], str(NUMBERS[name]), str(error), "-"]
    ended = launch(walled(probes, marker), before=outer)
    assert (ended.code, ended.out, marker.exists()) == (125, "", False)
    assert ended.err.startswith(f"sandbox: {WITHIN[name]}{os.strerror(error)}; ")
    assert "kernel.apparmor_restrict_unprivileged_userns" in ended.err
    assert launch(walled(probes, marker), before=[probes["outer"], "-5", "1", "-"]) == Ended(0, "", "")


def test_proc_that_a_container_has_covered_in_part_is_named(probes: Probes, marker: Path) -> None:
    ended = launch(walled(probes, marker), before=within("mount -t tmpfs none /proc/fs"))
    assert (ended.code, ended.out, marker.exists()) == (125, "", False)
    assert ended.err.startswith(
        "sandbox: view: /proc: Operation not permitted; a container that covers parts of /proc "
    )
    assert launch(walled(probes, marker), before=within("true")) == Ended(0, "", "")


CONTAINERS: Final = {
    "a user namespace": ["unshare", "--user", "--map-root-user", "--mount"],
    "its own processes": ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"],
    "bubblewrap": ["bwrap", "--dev-bind", "/", "/", "--unshare-user"],
    "no CAP_SYS_ADMIN": ["setpriv", "--inh-caps=-sys_admin", "--bounding-set=-sys_admin"],
    "no capability but one": ["setpriv", "--inh-caps=-all", "--bounding-set=-all,+setfcap"],
}  # fmt: skip


@pytest.mark.parametrize("name", CONTAINERS)
def test_all_works_in_a_container_that_lets_namespaces_be_made(name: str) -> None:
    if name.startswith("no ") and not ROOT:
        pytest.skip("needs root: others have no capability to be without")
    command = [
        *CONTAINERS[name],
        *SANDBOX,
        "run",
        "-p",
        "untrusted",
        "--chdir",
        "/",
        "--net",
        "loopback",
        "--",
        "sh",
        "-c",
        "echo $$",
    ]
    assert callers.run(command) == Ended(0, "2\n", "")


def test_root_that_may_not_be_mapped_is_told_what_it_lacks() -> None:
    """user_namespaces(7): mapping user 0 takes CAP_SETFCAP since Linux 5.12."""
    if not ROOT:
        pytest.skip("needs root: nobody else maps user 0")
    command = [*SANDBOX, "run", "-p", "untrusted", "--chdir", "/", "--", "echo", "in"]
    ended = callers.run(["setpriv", "--bounding-set=-setfcap", *command])
    assert (ended.code, ended.out) == (125, "")
    assert ended.err.startswith("sandbox: namespace: user: Operation not permitted; ")
    assert "(root: CAP_SETFCAP), no chroot" in ended.err
    assert callers.run(command) == Ended(0, "in\n", "")


def test_chroot_is_named(folder: Path) -> None:
    """user_namespaces(7): in one, the kernel lets nobody make a user namespace."""
    inside = [
        "sh",
        "-c",
        'mount --rbind / "$0" && exec /usr/sbin/chroot "$0" "$@"',
        str(folder),
        *SANDBOX,
        "run",
        "--chdir",
        "/",
    ]
    ended = callers.run(["unshare", "--user", "--map-root-user", "--mount", *inside, "--", "true"])
    assert (ended.code, ended.out) == (125, "")
    assert ended.err.startswith("sandbox: namespace: user: Operation not permitted; ")
    assert ", no chroot; " in ended.err


def test_filter_without_clone3_is_lived_with(probes: Probes, marker: Path) -> None:
    """As those of container runtimes: its flags lie behind a pointer, so they say that there is none."""
    outer = [probes["outer"], str(NUMBERS["clone3"]), str(errno.ENOSYS), "-"]
    assert (launch(walled(probes, marker), before=outer), marker.exists()) == (Ended(0, "", ""), True)
    marker.unlink()
    refused = launch(walled(probes, marker), before=[*outer, probes["outer"], str(NUMBERS["clone"]), "1", "-"])
    assert (refused.code, marker.exists()) == (125, False)
    assert refused.err == "sandbox: fork: Operation not permitted\n"


# ---- another sandbox of ours ----


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as path:
        yield path


def own_folders() -> list[str]:
    """Return the options that show the command line under test to itself."""
    folders = {str(Path(place).resolve()) for place in (sys.prefix, sys.base_prefix, PACKAGES)}
    shown = [place for place in sorted(folders) if not place.startswith("/usr")]
    return [word for place in shown for word in ("--execute", place)]


def within_sandbox(outer: Sequence[str], command: Sequence[str], folder: Path) -> Ended:
    """Run a Python program of ours inside; root becomes nobody where the outer profile is for ordinary users only."""
    user = ["--user", "65534:65534"] if ROOT and "nested" in outer else []
    options = [*user, *own_folders(), "--env", "PYTHONPATH", "--chdir", str(folder)]
    return callers.run([*SANDBOX, "run", "-p", "untrusted", *outer, *options, "--", *command])


def nested(outer: Sequence[str], inner: Sequence[str], folder: Path) -> Ended:
    """Run the command line within itself."""
    return within_sandbox(outer, [*SANDBOX, "run", "-p", "untrusted", *inner, "--", "sh", "-c", "echo in"], folder)


def test_sandbox_in_one_that_refuses_namespaces_says_so(folder: Path) -> None:
    ended = nested(["-p", "untrusted"], [], folder)
    assert (ended.code, ended.out) == (125, "")
    assert ended.err.startswith("sandbox: namespace: user: Operation not permitted; ")
    assert "an outer container or sandbox must allow it (of ours, the profile nested does)" in ended.err


def profile(folder: Path, text: str) -> str:
    (folder / "inner.toml").write_text(text)
    (folder / "inner.toml").chmod(0o644)
    return str(folder / "inner.toml")


WITHOUT_VIEW: Final = '[filesystem]\nview = "host"\n[namespaces]\nshare = ["mount", "pid"]\n'


def test_sandbox_in_a_nested_one_works_without_gate_and_view(folder: Path) -> None:
    inner = profile(folder, 'extends = ["sealed"]\n' + WITHOUT_VIEW)
    assert nested(["-p", "nested"], ["-p", inner], folder) == Ended(0, "in\n", "")


def test_python_in_a_nested_one_gets_records(folder: Path) -> None:
    """The outer gate lets pass what the launcher's arguments name: the plan, and the status pipe."""
    inner = profile(folder, 'extends = ["sealed"]\n' + WITHOUT_VIEW)
    program = f"""
import sandbox
with sandbox.Popen(["sh", "-c", "exit 3"], profile={inner!r}) as process:
    print(process.wait(), [type(event).__name__ for event in process.events])
"""
    ended = within_sandbox(["-p", "nested"], [sys.executable, "-P", "-c", program], folder)
    assert ended == Ended(0, "3 ['Started', 'Exited']\n", "")


def test_sandbox_in_a_nested_one_says_what_cannot_be_there(folder: Path) -> None:
    view = nested(["-p", "nested"], ["-p", "sealed"], folder)
    assert (view.code, view.out) == (125, "")
    assert "openat2 is refused: by an older kernel, or by a sandbox around this one" in view.err
    inner = profile(folder, 'extends = ["base"]\n[process]\nexec = "allow"\n' + WITHOUT_VIEW)
    gate = nested(["-p", "nested"], ["-p", inner], folder)
    assert (gate.code, gate.out) == (125, "")
    assert gate.err.startswith("sandbox: gate: exec gate: Operation not permitted; ")
    assert 'inside another sandbox no second gate is possible: take a profile with process.exec = "once"' in gate.err


# What the outer profile delegates -> what is said of the plan, which comes to the launcher by a descriptor.
DELEGATED: Final = {
    "": "sandbox: plan: an outer sandbox lets no descriptor pass; its profile has to delegate dev-fd, ",
    '"pass-fds"': "sandbox: plan: its descriptor is not open; an outer sandbox closes what its profile lets no exec "
    "pass (dev-fd)\n",
    '"dev-fd"': "sandbox: namespace: user: Operation not permitted; ",
}


@pytest.mark.parametrize("names", DELEGATED)
def test_plan_that_an_outer_gate_closes_is_named(folder: Path, names: str) -> None:
    loaded = load("untrusted", search=default_search_path({}))
    lists = {"filesystem": ("execute", "read", "tmpfs"), "filter": ("allow",)}
    text = f'extends = ["base"]\n[descriptors]\ndelegate = [{names}]\n'
    for table, keys in lists.items():
        text += f"[{table}]\n" + "".join(f"{key} = {list(getattr(getattr(loaded, table), key))}\n" for key in keys)
    ended = nested(["-p", profile(folder, text)], [], folder)
    assert (ended.code, ended.out) == (125, "")
    assert ended.err.startswith(DELEGATED[names])
