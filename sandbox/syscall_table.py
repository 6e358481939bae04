"""The x86-64 syscall numbers, as data: every native entry of the kernel's table up to Linux 6.18.

Source: arch/x86/entry/syscalls/syscall_64.tbl, abi "common" and "64". The "x32" entries (512-547) are left out: they
are reached with bit 30 of the number set, and the filter refuses all of those.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# First number of a row -> the names from there on. 337-423 and, in 6.18, everything from 470 up are unassigned
# (listns, 470, came in 6.19).
_ROWS: Final = {
    0: "read write open close stat fstat lstat poll lseek mmap",
    10: "mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn ioctl pread64 pwrite64 readv",
    20: "writev access pipe select sched_yield mremap msync mincore madvise shmget",
    30: "shmat shmctl dup dup2 pause nanosleep getitimer alarm setitimer getpid",
    40: "sendfile socket connect accept sendto recvfrom sendmsg recvmsg shutdown bind",
    50: "listen getsockname getpeername socketpair setsockopt getsockopt clone fork vfork execve",
    60: "exit wait4 kill uname semget semop semctl shmdt msgget msgsnd",
    70: "msgrcv msgctl fcntl flock fsync fdatasync truncate ftruncate getdents getcwd",
    80: "chdir fchdir rename mkdir rmdir creat link unlink symlink readlink",
    90: "chmod fchmod chown fchown lchown umask gettimeofday getrlimit getrusage sysinfo",
    100: "times ptrace getuid syslog getgid setuid setgid geteuid getegid setpgid",
    110: "getppid getpgrp setsid setreuid setregid getgroups setgroups setresuid getresuid setresgid",
    120: "getresgid getpgid setfsuid setfsgid getsid capget capset rt_sigpending rt_sigtimedwait rt_sigqueueinfo",
    130: "rt_sigsuspend sigaltstack utime mknod uselib personality ustat statfs fstatfs sysfs",
    140: "getpriority setpriority sched_setparam sched_getparam sched_setscheduler sched_getscheduler",
    146: "sched_get_priority_max sched_get_priority_min sched_rr_get_interval mlock",
    150: "munlock mlockall munlockall vhangup modify_ldt pivot_root _sysctl prctl arch_prctl adjtimex",
    160: "setrlimit chroot sync acct settimeofday mount umount2 swapon swapoff reboot",
    170: "sethostname setdomainname iopl ioperm create_module init_module delete_module",
    177: "get_kernel_syms query_module quotactl nfsservctl getpmsg putpmsg afs_syscall tuxcall security",
    186: "gettid readahead setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr",
    194: "listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr",
    200: "tkill time futex sched_setaffinity sched_getaffinity set_thread_area io_setup io_destroy io_getevents",
    209: "io_submit io_cancel get_thread_area lookup_dcookie epoll_create epoll_ctl_old epoll_wait_old",
    216: "remap_file_pages getdents64 set_tid_address restart_syscall semtimedop fadvise64",
    222: "timer_create timer_settime timer_gettime timer_getoverrun timer_delete",
    227: "clock_settime clock_gettime clock_getres clock_nanosleep exit_group epoll_wait epoll_ctl tgkill",
    235: "utimes vserver mbind set_mempolicy get_mempolicy",
    240: "mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr kexec_load waitid add_key request_key",
    250: "keyctl ioprio_set ioprio_get inotify_init inotify_add_watch inotify_rm_watch migrate_pages",
    257: "openat mkdirat mknodat fchownat futimesat newfstatat unlinkat renameat linkat symlinkat readlinkat",
    268: "fchmodat faccessat pselect6 ppoll unshare set_robust_list get_robust_list splice tee sync_file_range",
    278: "vmsplice move_pages utimensat epoll_pwait signalfd timerfd_create eventfd fallocate",
    286: "timerfd_settime timerfd_gettime accept4 signalfd4 eventfd2 epoll_create1 dup3 pipe2 inotify_init1",
    295: "preadv pwritev rt_tgsigqueueinfo perf_event_open recvmmsg fanotify_init fanotify_mark prlimit64",
    303: "name_to_handle_at open_by_handle_at clock_adjtime syncfs sendmmsg setns getcpu",
    310: "process_vm_readv process_vm_writev kcmp finit_module sched_setattr sched_getattr renameat2 seccomp",
    318: "getrandom memfd_create kexec_file_load bpf execveat userfaultfd membarrier mlock2 copy_file_range",
    327: "preadv2 pwritev2 pkey_mprotect pkey_alloc pkey_free statx io_pgetevents rseq uretprobe uprobe",
    424: "pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree move_mount",
    430: "fsopen fsconfig fsmount fspick pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2",
    440: "process_madvise epoll_pwait2 mount_setattr quotactl_fd landlock_create_ruleset landlock_add_rule",
    446: "landlock_restrict_self memfd_secret process_mrelease futex_waitv set_mempolicy_home_node",
    451: "cachestat fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue statmount listmount",
    459: "lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal",
    463: "setxattrat getxattrat listxattrat removexattrat open_tree_attr file_getattr file_setattr",
}

NUMBERS: Final[Mapping[str, int]] = MappingProxyType(
    {name: first + place for first, row in _ROWS.items() for place, name in enumerate(row.split())}
)
"""Name -> number."""

NAMES: Final[Mapping[int, str]] = MappingProxyType({number: name for name, number in NUMBERS.items()})
"""Number -> name."""

_SINCE_ROWS: Final = {
    "5.17": "set_mempolicy_home_node",
    "6.5": "cachestat",
    "6.6": "fchmodat2 map_shadow_stack",
    "6.7": "futex_wake futex_wait futex_requeue",
    "6.8": "statmount listmount lsm_get_self_attr lsm_set_self_attr lsm_list_modules",
    "6.10": "mseal",
    "6.11": "uretprobe",
    "6.13": "setxattrat getxattrat listxattrat removexattrat",
    "6.15": "open_tree_attr",
    "6.17": "file_getattr file_setattr",
    "6.18": "uprobe",
}

SINCE: Final[Mapping[str, str]] = MappingProxyType(
    {name: version for version, row in _SINCE_ROWS.items() for name in row.split()}
)
"""Name -> the first kernel that has it, for those newer than 5.16. Source: syscalls(2), and the table's history."""
