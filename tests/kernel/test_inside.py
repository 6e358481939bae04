"""I1, I2, I4 and the filter, in a child that the launcher started under the shipped profile."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.profile import DescriptorPolicy, Profile
from sandbox.profile_files import default_search_path, load
from tests.support.callers import launch, plan_of, run
from tests.support.probes import Probes, Verdict, verdicts

OK = Verdict(0, 0)
SET = Verdict(1, 0)
EPERM = Verdict(-1, errno.EPERM)
ENOSYS = Verdict(-1, errno.ENOSYS)

# Each refusal, and what the same call returns without a filter (None: it depends on the kernel, but not EPERM).
REFUSED = {
    "setfd-clear": EPERM,
    "setfd-clear-granted": EPERM,
    "setfd-clear-garbage": EPERM,
    "setfd-clear-other-bits": EPERM,
    "setfd-clear-x32": EPERM,
    "fionclex": EPERM,
    "fionclex-garbage": EPERM,
    "fionclex-x32": EPERM,
    "dup2-granted": EPERM,
    "dup2-granted-garbage": EPERM,
    "dup2-granted-x32": EPERM,
    "dup3-granted": EPERM,
    "dup3-granted-cloexec": EPERM,
    "dup3-granted-garbage": EPERM,
    "getpid-x32": EPERM,
    "clone3": ENOSYS,
    "openat2": ENOSYS,
    "io_uring_setup": ENOSYS,
    "io_uring_enter": ENOSYS,
    "io_uring_register": ENOSYS,
    "ptrace": EPERM,
    "process_vm_readv": EPERM,
    "pidfd_getfd": EPERM,
    "unshare": EPERM,
    "setns": EPERM,
    "mount": EPERM,
    "umount2": EPERM,
    "open_tree": EPERM,
    "chroot": EPERM,
    "bpf": EPERM,
    "perf_event_open": EPERM,
    "userfaultfd": EPERM,
    "keyctl": EPERM,
    "clone-newuser": EPERM,
    "clone-newuser-garbage": EPERM,
    "unknown-511": ENOSYS,
    "unknown-9999": ENOSYS,
    "unknown-minus-one": ENOSYS,
}
REFUSED_I386 = {
    "setfd-clear-i386": EPERM,
    "fionclex-i386": EPERM,
    "dup2-granted-i386": EPERM,
    "dup3-granted-i386": EPERM,
    "getpid-i386": EPERM,
    "execve-i386": EPERM,
}
ALLOWED = {
    "flag-after-clearing": SET,
    "setfd-set": OK,
    "setfd-set-garbage": OK,
    "flag-before-setting": OK,
    "fioclex": OK,
    "flag-after-setting": SET,
    "dup2-elsewhere": OK,
    "dup2-elsewhere-garbage": OK,
    "dup3-elsewhere": OK,
    "dup": OK,
    "dupfd": OK,
    "dupfd-cloexec": OK,
    "getpid": OK,
    "scm-rights-send": OK,
    "scm-rights": OK,
    "clone-bad-flags": Verdict(-1, errno.EINVAL),
    "openat": OK,
    "fork": OK,
}
NO_SUCH_CALL = {"unknown-511", "unknown-9999", "unknown-minus-one"}


def ungated() -> Profile:
    """Return `untrusted` without delegation protocols: close-on-exec can then be cleared on no number at all."""
    loaded = load("untrusted", search=default_search_path(os.environ))
    return replace(loaded, descriptors=DescriptorPolicy())


def without_i386(found: dict[str, Verdict]) -> bool:
    """Tell whether the kernel has no 32-bit entry; the probe then says `NAME absent 0`, which is no verdict."""
    return "getpid-i386" not in found


@pytest.mark.parametrize("number", [3, 9, 700])
def test_filter_of_untrusted_refuses_and_allows(probes: Probes, number: int) -> None:
    ended = launch(plan_of([probes["inside"], str(number)], f"a@{number}=file:/etc/passwd", profile=ungated()))
    assert (ended.code, ended.err) == (0, "")
    found = verdicts(ended.out)
    expected = REFUSED | ALLOWED | ({} if without_i386(found) else REFUSED_I386)
    assert found == expected


def test_filter_twin_nothing_is_refused_without_the_launcher(probes: Probes) -> None:
    found = verdicts(run(["sh", "-c", f"exec {probes['inside']} 3 3</etc/passwd"]).out)
    refused = REFUSED | ({} if without_i386(found) else REFUSED_I386)
    assert found.keys() == refused.keys() | ALLOWED.keys()
    by_kernel = {"io_uring_setup", "perf_event_open", "userfaultfd", "bpf", "chroot", "clone-newuser", "unshare"}
    for name in refused.keys() - NO_SUCH_CALL - by_kernel:
        # x32 is absent from usual kernels: its calls fail otherwise there, too, but not by a rule.
        assert found[name] != refused[name], name
    assert found["flag-after-clearing"] == OK
    assert found["dup2-granted"] == Verdict(3, 0)


def test_filter_number_that_is_not_granted_may_be_replaced(probes: Probes) -> None:
    """The same probe, told a number that the profile does not reserve."""
    plan = plan_of(["sh", "-c", f"exec {probes['inside']} 3 3</etc/passwd"], "a@9=file:/etc/passwd")
    found = verdicts(launch(plan).out)
    assert found["dup2-granted"] == Verdict(3, 0)
    assert found["dup3-granted"] == Verdict(3, 0)
    assert found["dup2-elsewhere"] == OK


def test_filter_shell_cannot_replace_a_grant_and_can_use_it(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("granted")
    script = "bash -c 'exec 3</etc/passwd' 2>/dev/null; cat <&3; exec 8</etc/hostname && echo ' eight'"
    ended = launch(plan_of(["bash", "-c", script], f"a=file:{tmp_path}/f"))
    assert (ended.code, ended.out) == (0, "granted eight\n")


@pytest.mark.parametrize("profile", ["untrusted", "sealed"])
def test_filter_stays_over_exec_and_fork(probes: Probes, profile: str) -> None:
    command = ["sh", "-c", f"{probes['inside']} 3"] if profile == "untrusted" else [probes["inside"], "3"]
    chosen = ungated() if profile == "untrusted" else profile
    found = verdicts(launch(plan_of(command, "a+propagate=file:/etc/passwd", profile=chosen)).out)
    assert found["setfd-clear"] == found["dup2-granted"] == found["ptrace"] == EPERM
    assert found["setfd-set"] == found["dup"] == found["openat"] == found["fork"] == OK
    assert found["scm-rights-send" if profile == "untrusted" else "scm-rights"] == (
        OK if profile == "untrusted" else EPERM
    )  # fmt: skip
