"""Named groups of syscalls, as data with sources; and the way from a profile's list of names to a set of syscalls.

Every syscall of the table is a direct member of exactly one group, or in ENOSYS_ALWAYS; groups may include groups. A
group with a `reason` is one that the shipped profiles do not allow; the reason says why, and `reasons` says it of the
calls that have one of their own.

Sources: the syscalls' man pages, section 2, named per group; compared with the sets of systemd.exec(5),
"SystemCallFilter=", and with the default seccomp profile of container runtimes (docs.docker.com, "Seccomp security
profiles for Docker"). The division is our own.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sandbox.errors import ProfileError
from sandbox.syscall_table import NUMBERS


@dataclass(frozen=True, slots=True)
class Group:
    """A named set of syscalls: `members` are syscalls, and groups by their `@name`."""

    name: str
    purpose: str
    source: str
    members: tuple[str, ...]
    reason: str
    reasons: Mapping[str, str]

    @property
    def refused_by_default(self) -> bool:
        """Whether the shipped profiles leave the group out."""
        return bool(self.reason)


def _group(
    name: str, purpose: str, source: str, *rows: str, reason: str = "", reasons: Mapping[str, str] | None = None
) -> Group:
    """Make a group of rows of names; `reasons` has rows of names as well, which are members too."""
    each = {member: words for row, words in (reasons or {}).items() for member in row.split()}
    members = (*(member for row in rows for member in row.split()), *each)
    return Group(name, purpose, source, members, reason, MappingProxyType(each))


_ORDINARY: Final = (
    _group(
        "@base",
        "what any program needs: memory, descriptors it holds, its own signals, threads' locks, time, its own end",
        "syscalls(2), ld.so(8)",
        "@memory @io",
        # execve: the filter is loaded before the first program is executed.
        "execve execveat exit exit_group",
        # tkill and tgkill: raise(3) and abort(3) use them. They reach other processes too, as kill does.
        "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack",
        "tkill tgkill pause restart_syscall",
        # uretprobe and uprobe: entered only from a trampoline that the kernel itself has placed, so refusing them would
        # kill a program that somebody observes; called from elsewhere they fail (SIGILL, ENXIO).
        "uretprobe uprobe",
        "futex futex_wait futex_wake futex_waitv futex_requeue set_robust_list get_robust_list",
        "rseq set_tid_address arch_prctl prctl",
        "clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getcpu",
        "getpid gettid getppid getpgrp getpgid getsid getuid geteuid getgid getegid getresuid getresgid getgroups",
        "capget getrandom uname sysinfo getrusage sched_yield",
        # prlimit64 also sets limits; the C library's getrlimit is made of it.
        "getrlimit prlimit64 getpriority ioprio_get",
        "sched_getaffinity sched_getparam sched_getscheduler sched_getattr sched_rr_get_interval",
        "sched_get_priority_max sched_get_priority_min",
    ),
    _group(
        "@memory",
        "the program's own address space",
        "mmap(2), mprotect(2), madvise(2), pkeys(7), mseal(2)",
        "brk mmap munmap mremap mprotect msync mincore madvise membarrier",
        "pkey_alloc pkey_free pkey_mprotect mseal map_shadow_stack",
    ),
    _group(
        "@io",
        "transfers on descriptors that the program holds; pipes; copies of descriptors",
        "read(2), fcntl(2), ioctl(2), dup(2), pipe(2), splice(2)",
        "read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek",
        "sendfile splice tee vmsplice copy_file_range",
        "close close_range dup dup2 dup3 fcntl ioctl pipe pipe2",
        "fstat fsync fdatasync sync_file_range ftruncate fallocate fadvise64 readahead cachestat",
    ),
    _group(
        "@file-open",
        "find and open files, as the dynamic linker does too; opening for writing and creating included",
        "open(2), stat(2), access(2), readlink(2), getdents(2), getxattr(2)",
        "open openat creat stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat",
        "getdents getdents64 getcwd chdir fchdir statfs fstatfs",
        "getxattr lgetxattr fgetxattr getxattrat listxattr llistxattr flistxattr listxattrat file_getattr",
        # The same that /proc/self/mountinfo tells.
        "statmount listmount",
    ),
    _group(
        "@file-change",
        "change the file tree: names, directories, links, modes, times, sizes, attributes, locks",
        "rename(2), link(2), mkdir(2), chmod(2), utimensat(2), setxattr(2), flock(2)",
        "rename renameat renameat2 link linkat symlink symlinkat unlink unlinkat mkdir mkdirat rmdir mknod mknodat",
        "chmod fchmod fchmodat fchmodat2 umask truncate utime utimes futimesat utimensat",
        "setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat file_setattr",
        "flock sync syncfs",
    ),
    _group(
        "@file-watch",
        "be told of changes to files",
        "inotify(7)",
        "inotify_init inotify_init1 inotify_add_watch inotify_rm_watch",
    ),
    _group("@file-io", "everything ordinary with files", "path_resolution(7)", "@file-open @file-change @file-watch"),
    _group(
        "@chown",
        "change the owner of files",
        "chown(2)",
        "chown fchown lchown fchownat",
    ),
    _group(
        "@process",
        "make processes and threads, wait for them, signal them, sessions",
        "fork(2), clone(2), wait(2), kill(2), pidfd_open(2), setsid(2), personality(2)",
        "@resources",
        "clone fork vfork wait4 waitid kill rt_sigqueueinfo rt_tgsigqueueinfo",
        "pidfd_open pidfd_send_signal process_mrelease setpgid setsid personality",
    ),
    _group(
        "@resources",
        "limits, priorities, processors and memory nodes",
        "setrlimit(2), sched(7), ioprio_set(2), numa(7)",
        "setrlimit setpriority ioprio_set",
        "sched_setaffinity sched_setparam sched_setscheduler sched_setattr",
        "get_mempolicy set_mempolicy set_mempolicy_home_node mbind migrate_pages move_pages process_madvise",
    ),
    _group(
        "@socket-io",
        "use sockets that the program holds, and make connected pairs",
        "send(2), recv(2), accept(2), getsockopt(2), socketpair(2)",
        "sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg shutdown accept accept4",
        "getsockopt setsockopt getsockname getpeername socketpair",
    ),
    _group(
        "@network",
        "make sockets of its own, of AF_UNIX, AF_INET and AF_INET6, and connect them",
        "socket(2), connect(2), bind(2), listen(2)",
        "@socket-io",
        "socket connect bind listen",
    ),
    _group(
        "@ipc",
        "shared memory, System V and POSIX message queues and semaphores",
        "sysvipc(7), mq_overview(7), memfd_create(2)",
        "shmget shmat shmdt shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl",
        "mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr memfd_create",
    ),
    _group(
        "@timer",
        "be signalled after a time",
        "setitimer(2), timer_create(2)",
        "alarm getitimer setitimer timer_create timer_settime timer_gettime timer_getoverrun timer_delete",
    ),
    _group(
        "@event",
        "wait for several descriptors; descriptors for signals, time and counters",
        "poll(2), select(2), epoll(7), signalfd(2), eventfd(2), timerfd_create(2)",
        "poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2",
        "signalfd signalfd4 eventfd eventfd2 timerfd_create timerfd_settime timerfd_gettime",
    ),
    _group(
        "@identity",
        "change user, group and capabilities (reading them is in @base)",
        "credentials(7), capabilities(7)",
        "setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset",
    ),
    _group(
        "@aio",
        "the older asynchronous file I/O",
        "io_setup(2)",
        "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents",
    ),
    _group(
        "@sandbox",
        "confine itself further",
        "seccomp(2), landlock(7), lsm_set_self_attr(2)",
        "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
        "lsm_get_self_attr lsm_set_self_attr lsm_list_modules",
    ),
    _group(
        "@memory-lock",
        "keep memory from being swapped out, or from the kernel's own view",
        "mlock(2), memfd_secret(2)",
        "mlock mlock2 mlockall munlock munlockall memfd_secret",
    ),
)

_REFUSED: Final = (
    _group(
        "@namespace",
        "namespaces, mounts and roots; also clone with CLONE_NEW* flags, when unshare is allowed",
        "namespaces(7), mount(2), mount_namespaces(7), pivot_root(2), chroot(2)",
        "unshare",
        reason="a new user namespace holds every capability within itself, and with it most of the kernel is in reach",
        reasons={
            "setns": "enters namespaces of others, up to the host's",
            "pivot_root chroot": "another root is no wall (fchdir leads out of it), and misleads programs",
            "mount umount2 open_tree open_tree_attr move_mount mount_setattr fsopen fsconfig fsmount fspick": (
                "changes what paths lead to, for this and other programs; file systems parse what they are given"
            ),
        },
    ),
    _group(
        "@debug",
        "look into and change other processes",
        "ptrace(2), process_vm_readv(2), pidfd_getfd(2), kcmp(2), perf_event_open(2), userfaultfd(2)",
        "ptrace process_vm_readv process_vm_writev pidfd_getfd",
        reason="takes descriptors and memory from processes that did not send them",
        reasons={
            "kcmp": "tells which processes share what, and the order of the kernel's addresses",
            "perf_event_open": "counts and samples what other programs and the kernel do; a large part of the kernel",
            "userfaultfd": "holds the kernel up in the middle of a copy, which makes its races usable",
        },
    ),
    _group(
        "@keyring",
        "the kernel's key store",
        "keyrings(7)",
        "add_key request_key keyctl",
        reason="keys of the user and the session are authority that no descriptor stands for",
    ),
    _group(
        "@module",
        "load and unload kernel modules",
        "init_module(2)",
        "init_module finit_module delete_module",
        reason="changes the kernel itself",
    ),
    _group(
        "@clock",
        "set the system's clock",
        "settimeofday(2), clock_settime(2), adjtimex(2)",
        "settimeofday clock_settime clock_adjtime adjtimex",
        reason="changes the time for everybody",
    ),
    _group(
        "@reboot",
        "restart the machine, or prepare another kernel",
        "reboot(2), kexec_load(2)",
        "reboot kexec_load kexec_file_load",
        reason="ends everything that runs",
    ),
    _group("@swap", "swap areas", "swapon(2)", "swapon swapoff", reason="changes the memory of the whole machine"),
    _group(
        "@raw-io",
        "I/O ports and segment descriptors",
        "ioperm(2), iopl(2), modify_ldt(2)",
        "iopl ioperm modify_ldt",
        reason="reaches hardware past the kernel; segments were a way into it more than once",
    ),
    _group(
        "@bpf",
        "load programs into the kernel",
        "bpf(2)",
        "bpf",
        reason="runs code in the kernel and sees what others do",
    ),
    _group(
        "@privileged",
        "administration: accounting, quotas, host name, kernel log, files by handle, watching whole mounts",
        "acct(2), quotactl(2), sethostname(2), syslog(2), open_by_handle_at(2), fanotify(7), vhangup(2)",
        "acct quotactl quotactl_fd sethostname setdomainname vhangup",
        reason="acts on the whole system",
        reasons={
            "syslog": "the kernel's log tells what others do, and addresses",
            "name_to_handle_at open_by_handle_at": "opens files without a path or descriptor that leads to them",
            "fanotify_init fanotify_mark": "opens what others open, wherever it lies",
        },
    ),
    _group(
        "@obsolete",
        "calls that no current program needs; most are no longer implemented",
        "unimplemented(2), syscalls(2), sysfs(2), ustat(2), uselib(2), remap_file_pages(2)",
        "uselib ustat sysfs _sysctl remap_file_pages lookup_dcookie nfsservctl vserver",
        "create_module query_module get_kernel_syms set_thread_area get_thread_area epoll_ctl_old epoll_wait_old",
        "getpmsg putpmsg afs_syscall tuxcall security",
        reason="rarely used code in the kernel that nobody needs",
    ),
)

GROUPS: Final[Mapping[str, Group]] = MappingProxyType({group.name: group for group in (*_ORDINARY, *_REFUSED)})
"""Name with `@` -> group; first the ordinary ones, then those that shipped profiles leave out."""

_URING: Final = "it performs calls that the filter never sees"
ENOSYS_ALWAYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "io_uring_setup": _URING,
        "io_uring_enter": _URING,
        "io_uring_register": _URING,
        "clone3": "its flags lie behind a pointer, where a filter cannot look; programs fall back to clone",
        "openat2": "its flags lie behind a pointer, where a filter cannot look; programs fall back to openat",
    }
)
"""Syscalls that no profile can allow, as if the kernel had none of them, each with the reason."""


def reason_for(name: str) -> str:
    """Return why a syscall is not allowed by the shipped profiles, or by none; empty for one that they do allow."""
    if name in ENOSYS_ALWAYS:
        return ENOSYS_ALWAYS[name]
    group = next(group for group in GROUPS.values() if name in group.members)
    return group.reasons.get(name, group.reason)


def expand(names: Iterable[str]) -> frozenset[str]:
    """Return the syscalls that groups (`@name`) and plain syscall names stand for, together.

    Establishes: the result is a subset of the table and holds nothing of ENOSYS_ALWAYS.
    Raises: ProfileError for an unknown name, with the nearest right one, and for a name in ENOSYS_ALWAYS.
    """
    found: set[str] = set()
    for name in names:
        found |= _members(name)
    return frozenset(found)


def _members(name: str) -> frozenset[str]:
    if name in GROUPS:
        return expand(GROUPS[name].members)
    if name in ENOSYS_ALWAYS:
        raise ProfileError("filter", "allow", f"{name} cannot be allowed", ENOSYS_ALWAYS[name])
    if name not in NUMBERS:
        raise ProfileError("filter", "allow", f"no syscall or group {name!r}", _nearest(name))
    return frozenset({name})


def _nearest(name: str) -> str:
    if f"@{name}" in GROUPS:
        return f"did you mean '@{name}'?"
    close = difflib.get_close_matches(name, (*GROUPS, *(NUMBERS.keys() - ENOSYS_ALWAYS.keys())), n=1)
    return f"did you mean {close[0]!r}?" if close else "see `sandbox explain` for groups, syscalls(2) for names"
