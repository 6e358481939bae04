"""The syscall table and its groups: right numbers, nothing unclassified, families whole, errors that help."""

from __future__ import annotations

import re
from pathlib import Path

import pyseccomp
import pytest

from sandbox.errors import ProfileError
from sandbox.syscall_table import NAMES, NUMBERS, SINCE
from sandbox.syscalls import ENOSYS_ALWAYS, GROUPS, expand, reason_for

HEADERS = (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h"))

# Calls that do the same in other ways, so that refusing one of them refuses nothing unless all are refused.
FAMILIES = [
    "read readv pread64 preadv preadv2",
    "write writev pwrite64 pwritev pwritev2",
    "open openat creat",
    "stat lstat newfstatat statx",
    "access faccessat faccessat2",
    "readlink readlinkat",
    "getdents getdents64",
    "rename renameat renameat2",
    "link linkat",
    "symlink symlinkat",
    "unlink unlinkat rmdir",
    "mkdir mkdirat",
    "mknod mknodat",
    "chmod fchmod fchmodat fchmodat2",
    "chown fchown lchown fchownat",
    "utime utimes futimesat utimensat",
    "chdir fchdir",
    "statfs fstatfs",
    "getxattr lgetxattr fgetxattr getxattrat",
    "setxattr lsetxattr fsetxattr setxattrat",
    "listxattr llistxattr flistxattr listxattrat",
    "removexattr lremovexattr fremovexattr removexattrat",
    "inotify_init inotify_init1",
    "dup dup2 dup3",
    "pipe pipe2",
    "poll ppoll",
    "select pselect6",
    "epoll_create epoll_create1",
    "epoll_wait epoll_pwait epoll_pwait2",
    "signalfd signalfd4",
    "eventfd eventfd2",
    "accept accept4",
    "sendto sendmsg sendmmsg",
    "recvfrom recvmsg recvmmsg",
    "execve execveat",
    "fork vfork clone",
    "wait4 waitid",
    "kill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal",
    "tkill tgkill",
    "exit exit_group",
    "futex futex_wait futex_wake futex_waitv futex_requeue",
    "mlock mlock2 mlockall",
    "semop semtimedop",
    "io_getevents io_pgetevents",
    "setuid setreuid setresuid setfsuid",
    "setgid setregid setresgid setfsgid",
    "gettimeofday clock_gettime time",
    "nanosleep clock_nanosleep",
    "settimeofday clock_settime adjtimex clock_adjtime",
    "getrlimit prlimit64",
    "init_module finit_module",
    "kexec_load kexec_file_load",
    "quotactl quotactl_fd",
    "process_vm_readv process_vm_writev",
    "mount fsopen fsmount move_mount open_tree open_tree_attr mount_setattr",
    "set_mempolicy set_mempolicy_home_node mbind",
    "sched_setscheduler sched_setattr sched_setparam",
    "sched_getscheduler sched_getattr sched_getparam",
]

# Names that look like variants of each other and are not, with the reason.
UNRELATED = {
    ("stat", "fstat"): "fstat looks at a descriptor that is held, stat finds a file",
    ("truncate", "ftruncate"): "ftruncate changes a descriptor that is held, truncate finds a file",
    ("sync", "fsync"): "fsync writes one held file back, sync everything",
}


def family_of(name: str) -> frozenset[str]:
    return next((frozenset(family.split()) for family in FAMILIES if name in family.split()), frozenset({name}))


def header_numbers() -> dict[str, int]:
    header = next(path for path in HEADERS if path.exists())
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", header.read_text())}


def test_table_kernel_header_agrees() -> None:
    header = header_numbers()
    assert len(header) > 350
    newest = max(header.values())
    ours = {name: number for name, number in NUMBERS.items() if number <= newest}
    assert {name: number for name, number in header.items() if name in ours} == {
        name: number for name, number in ours.items() if name in header
    }
    assert not {name for name in header.keys() - NUMBERS.keys() if header[name] <= max(NUMBERS.values())}
    assert ours.keys() - header.keys() <= SINCE.keys()


def test_table_libseccomp_agrees() -> None:
    known = {name: pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, name) for name in NUMBERS}
    assert {name for name, number in known.items() if number >= 0} > {"read", "clone3", "openat2"}
    assert {name: number for name, number in known.items() if number >= 0 and number != NUMBERS[name]} == {}
    assert {name for name, number in known.items() if number < 0} <= SINCE.keys()


def test_table_numbers_are_unique_and_native() -> None:
    assert len(NAMES) == len(NUMBERS) == 383
    assert not [number for number in NAMES if 337 <= number <= 423 or number > 469]


# Newer than the headers and the libseccomp of Debian 12, so nothing there would notice a wrong one.
NEWEST = {
    "uretprobe": 335, "uprobe": 336, "set_mempolicy_home_node": 450, "cachestat": 451, "fchmodat2": 452,
    "map_shadow_stack": 453, "futex_wake": 454, "futex_wait": 455, "futex_requeue": 456, "statmount": 457,
    "listmount": 458, "lsm_get_self_attr": 459, "lsm_set_self_attr": 460, "lsm_list_modules": 461, "mseal": 462,
    "setxattrat": 463, "getxattrat": 464, "listxattrat": 465, "removexattrat": 466, "open_tree_attr": 467,
    "file_getattr": 468, "file_setattr": 469,
}  # fmt: skip


def test_table_newest_names_have_their_numbers() -> None:
    assert {name: NUMBERS[name] for name in SINCE} == NEWEST


def test_since_names_are_in_the_table() -> None:
    assert SINCE.keys() <= NUMBERS.keys()
    assert {name for name, number in NUMBERS.items() if number > 449} <= SINCE.keys()


def test_groups_every_syscall_is_in_exactly_one() -> None:
    members = [member for group in GROUPS.values() for member in group.members if not member.startswith("@")]
    assert sorted(members) == sorted(NUMBERS.keys() - ENOSYS_ALWAYS.keys())


def test_groups_every_one_has_purpose_and_source() -> None:
    for name, group in GROUPS.items():
        assert name == group.name
        assert name.startswith("@")
        assert group.purpose
        assert re.search(r"\(\d\)", group.source), name
        assert group.members


def test_groups_refused_ones_are_included_by_no_other() -> None:
    refused = {name for name, group in GROUPS.items() if group.refused_by_default}
    assert refused >= {"@namespace", "@debug", "@keyring", "@module", "@bpf", "@raw-io", "@privileged", "@obsolete"}
    for group in GROUPS.values():
        assert not refused & set(group.members), group.name


# What must not be in reach of an unknown tool, whatever the groups are called.
OUTSIDE = [
    "ptrace process_vm_readv process_vm_writev pidfd_getfd kcmp bpf perf_event_open userfaultfd keyctl add_key",
    "request_key init_module finit_module delete_module mount umount2 fsopen fsconfig fsmount fspick move_mount",
    "open_tree open_tree_attr mount_setattr unshare setns open_by_handle_at name_to_handle_at clock_settime",
    "clock_adjtime adjtimex settimeofday reboot kexec_load kexec_file_load swapon swapoff quotactl quotactl_fd acct",
    "syslog chroot pivot_root iopl ioperm modify_ldt fanotify_init sethostname setdomainname vhangup io_uring_setup",
    "io_uring_enter io_uring_register clone3 openat2",
]


@pytest.mark.parametrize("name", [name for row in OUTSIDE for name in row.split()])
def test_what_reaches_outside_is_in_no_ordinary_group_and_has_a_reason(name: str) -> None:
    ordinary = expand(group.name for group in GROUPS.values() if not group.refused_by_default)
    assert name in NUMBERS
    assert name not in ordinary
    assert reason_for(name)


def test_reason_is_the_calls_own_where_it_has_one_and_else_its_groups() -> None:
    for group in GROUPS.values():
        assert group.reasons.keys() <= {*group.members}
        assert not group.reasons or group.refused_by_default
    assert reason_for("process_vm_readv") == GROUPS["@debug"].reason
    assert reason_for("kcmp") == GROUPS["@debug"].reasons["kcmp"] != GROUPS["@debug"].reason
    assert reason_for("clone3") == ENOSYS_ALWAYS["clone3"]
    assert reason_for("openat") == ""


@pytest.mark.parametrize("group", GROUPS)
def test_groups_families_are_whole(group: str) -> None:
    allowed = expand([group])
    for name in allowed:
        assert family_of(name) <= allowed, name


def test_families_names_with_a_common_stem_are_together() -> None:
    for name in NUMBERS.keys() - ENOSYS_ALWAYS.keys():
        variants = {name + end for end in ("at", "at2", "1", "2", "3", "4", "64")} | {"l" + name, "f" + name}
        for variant in variants & (NUMBERS.keys() - ENOSYS_ALWAYS.keys()):
            if (name, variant) not in UNRELATED:
                assert variant in family_of(name), (name, variant)


def test_expand_groups_and_names_gives_their_union() -> None:
    assert expand(["@swap", "ptrace", "@swap"]) == {"swapon", "swapoff", "ptrace"}
    assert expand([]) == frozenset()
    assert expand(["@file-io"]) == expand(["@file-open", "@file-change", "@file-watch"])


def test_expand_base_can_start_and_end_a_program() -> None:
    needed = {"execve", "exit_group", "write", "read", "mmap", "brk", "rt_sigreturn", "arch_prctl", "getrandom", "rseq"}
    assert needed <= expand(["@base"])
    assert "socket" not in expand(["@base"])
    assert "open" not in expand(["@base"])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("opnat", "'openat'"),
        ("base", "'@base'"),
        ("@proces", "'@process'"),
        ("@", "see "),
        ("", "see "),
        ("READ", "see "),
        ("openat ", "'openat'"),
    ],
)
def test_expand_unknown_name_is_refused_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(ProfileError) as caught:
        expand(["@base", name])
    assert caught.value.key == "allow"
    assert repr(name) in caught.value.reason
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", ENOSYS_ALWAYS)
def test_expand_name_that_cannot_be_filtered_is_refused_with_its_reason(name: str) -> None:
    with pytest.raises(ProfileError) as caught:
        expand([name])
    assert caught.value.hint == ENOSYS_ALWAYS[name]


def test_expand_near_name_of_one_that_cannot_be_allowed_is_not_suggested() -> None:
    with pytest.raises(ProfileError) as caught:
        expand(["openat3"])
    assert "openat2" not in caught.value.hint
