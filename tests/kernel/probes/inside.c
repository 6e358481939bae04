/* inside.c: what the filter refuses, and for each refusal a call that differs in just that. Usage: inside GRANTED
 *
 * GRANTED is a reserved number that is open. Calls whose arguments would do harm get impossible ones: a verdict other
 * than EPERM or ENOSYS then shows that the kernel saw the call. Only arguments that a rule looks at are real. */
#define _GNU_SOURCE
#include "probe.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define GARBAGE (UINT64_C(0xdeadbeef) << 32)
#define X32 0x40000000

static int free_number(void)
{
	int fd = fcntl(0, F_DUPFD, 500);

	close(fd);
	return fd;
}

static int flag_of(int fd)
{
	return fcntl(fd, F_GETFD);
}

static void close_on_exec(int granted)
{
	int own = open("/dev/null", O_RDONLY | O_CLOEXEC);

	verdict("setfd-clear", raw(SYS_fcntl, (uint64_t)own, F_SETFD, 0, 0, 0, 0));
	verdict("setfd-clear-granted", raw(SYS_fcntl, (uint64_t)granted, F_SETFD, 0, 0, 0, 0));
	verdict("setfd-clear-garbage", raw(SYS_fcntl, GARBAGE | (uint64_t)own, GARBAGE | F_SETFD, GARBAGE, ~0ull, ~0ull, ~0ull));
	verdict("setfd-clear-other-bits", raw(SYS_fcntl, (uint64_t)own, F_SETFD, 0xfffffffe, 0, 0, 0));
	verdict("setfd-clear-x32", raw(SYS_fcntl | X32, (uint64_t)own, F_SETFD, 0, 0, 0, 0));
	verdict("fionclex", raw(SYS_ioctl, (uint64_t)own, FIONCLEX, 0, 0, 0, 0));
	verdict("fionclex-garbage", raw(SYS_ioctl, GARBAGE | (uint64_t)own, GARBAGE | FIONCLEX, GARBAGE, GARBAGE, 0, 0));
	verdict("fionclex-x32", raw(514 | X32 /* x32's own ioctl */, (uint64_t)own, FIONCLEX, 0, 0, 0, 0));
	verdict("flag-after-clearing", flag_of(own));
	verdict("setfd-set", raw(SYS_fcntl, (uint64_t)own, F_SETFD, FD_CLOEXEC, 0, 0, 0));
	verdict("setfd-set-garbage", raw(SYS_fcntl, GARBAGE | (uint64_t)own, GARBAGE | F_SETFD, GARBAGE | FD_CLOEXEC, 0, 0, 0));
	close(own);
	own = open("/dev/null", O_RDONLY);
	verdict("flag-before-setting", flag_of(own));
	verdict("fioclex", raw(SYS_ioctl, (uint64_t)own, FIOCLEX, 0, 0, 0, 0));
	verdict("flag-after-setting", flag_of(own));
	close(own);
}

static void duplicates(int granted)
{
	uint64_t target = (uint64_t)free_number(), onto = (uint64_t)granted;

	verdict("dup2-granted", raw(SYS_dup2, 0, onto, 0, 0, 0, 0));
	verdict("dup2-granted-garbage", raw(SYS_dup2, GARBAGE, GARBAGE | onto, GARBAGE, 0, 0, 0));
	verdict("dup2-granted-x32", raw(SYS_dup2 | X32, 0, onto, 0, 0, 0, 0));
	verdict("dup3-granted", raw(SYS_dup3, 0, onto, 0, 0, 0, 0));
	verdict("dup3-granted-cloexec", raw(SYS_dup3, 0, onto, O_CLOEXEC, 0, 0, 0));
	verdict("dup3-granted-garbage", raw(SYS_dup3, GARBAGE, GARBAGE | onto, GARBAGE, 0, 0, 0));
	verdict("dup2-elsewhere", raw(SYS_dup2, 0, target, 0, 0, 0, 0) == (long)target ? 0 : -1);
	verdict("dup2-elsewhere-garbage", raw(SYS_dup2, GARBAGE, GARBAGE | target, 0, 0, 0, 0) == (long)target ? 0 : -1);
	verdict("dup3-elsewhere", raw(SYS_dup3, 0, target, O_CLOEXEC, 0, 0, 0) == (long)target ? 0 : -1);
	close((int)target);
	verdict("dup", dup(granted) > 2 ? 0 : -1);
	verdict("dupfd", fcntl(granted, F_DUPFD, 300) >= 300 ? 0 : -1);
	verdict("dupfd-cloexec", fcntl(granted, F_DUPFD_CLOEXEC, 400) >= 400 ? 0 : -1);
}

/* In a child: where the kernel has no 32-bit entry, the instruction is a fault. */
static void i386(const char *name, long nr, long a, long b, long c)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		long ret;

		__asm__ volatile("int $0x80" : "=a"(ret) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
		_exit(ret < 0 && ret >= -255 ? (int)-ret : 0);
	}
	waitpid(pid, &status, 0);
	if (WIFSIGNALED(status)) {
		printf("%s absent 0\n", name);
	} else {
		errno = WEXITSTATUS(status);
		verdict(name, errno ? -1 : 0);
	}
}

static void foreign(int granted)
{
	i386("setfd-clear-i386", 55, granted, F_SETFD, 0);
	i386("fionclex-i386", 54, granted, FIONCLEX, 0);
	i386("dup2-granted-i386", 63, 0, granted, 0);
	i386("dup3-granted-i386", 330, 0, granted, 0);
	i386("getpid-i386", 20, 0, 0, 0);
	i386("execve-i386", 11, 0, 0, 0);
	verdict("getpid-x32", raw(SYS_getpid | X32, 0, 0, 0, 0, 0, 0));
	verdict("getpid", raw(SYS_getpid, 0, 0, 0, 0, 0, 0) > 0 ? 0 : -1);
}

/* Send descriptor 0 through a socketpair and receive it: passing on purpose stays possible. */
static void sending(void)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
	char byte = 'x';
	struct iovec data = {&byte, 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	int pair[2], got = -1;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0) {
		verdict("scm-rights", -1);
		return;
	}
	memcpy(CMSG_DATA(&control.header), &(int){0}, sizeof(int));
	verdict("scm-rights-send", sendmsg(pair[0], &message, 0) == 1 ? 0 : -1);
	if (recvmsg(pair[1], &message, MSG_CMSG_CLOEXEC) == 1 && message.msg_controllen)
		memcpy(&got, CMSG_DATA(&control.header), sizeof got);
	verdict("scm-rights", got > 2 && fcntl(got, F_GETFD) == FD_CLOEXEC ? 0 : -1);
}

static void without_arguments(void)
{
	/* clone3, openat2 and io_uring carry what a filter cannot see: absent, so that programs fall back. */
	verdict("clone3", raw(SYS_clone3, 0, 0, 0, 0, 0, 0));
	verdict("openat2", raw(SYS_openat2, 0, 0, 0, 0, 0, 0));
	verdict("io_uring_setup", raw(SYS_io_uring_setup, 0, 0, 0, 0, 0, 0));
	verdict("io_uring_enter", raw(SYS_io_uring_enter, ~0ull, 0, 0, 0, 0, 0));
	verdict("io_uring_register", raw(SYS_io_uring_register, ~0ull, 0, 0, 0, 0, 0));
	verdict("unknown-511", raw(511, 0, 0, 0, 0, 0, 0));
	verdict("unknown-9999", raw(9999, 0, 0, 0, 0, 0, 0));
	verdict("unknown-minus-one", raw(-1, 0, 0, 0, 0, 0, 0));
	verdict("ptrace", raw(SYS_ptrace, ~0ull, 0, 0, 0, 0, 0));
	verdict("process_vm_readv", raw(SYS_process_vm_readv, 0, 0, 0, 0, 0, ~0ull));
	verdict("pidfd_getfd", raw(SYS_pidfd_getfd, ~0ull, 0, 0, 0, 0, 0));
	verdict("unshare", raw(SYS_unshare, 0, 0, 0, 0, 0, 0));
	verdict("setns", raw(SYS_setns, ~0ull, 0, 0, 0, 0, 0));
	verdict("mount", raw(SYS_mount, 0, 0, 0, 0, 0, 0));
	verdict("umount2", raw(SYS_umount2, 0, ~0ull, 0, 0, 0, 0));
	verdict("open_tree", raw(SYS_open_tree, ~0ull, 0, ~0ull, 0, 0, 0));
	verdict("chroot", raw(SYS_chroot, 0, 0, 0, 0, 0, 0));
	verdict("bpf", raw(SYS_bpf, ~0ull, 0, 0, 0, 0, 0));
	verdict("perf_event_open", raw(SYS_perf_event_open, 0, 0, 0, 0, ~0ull, 0));
	verdict("userfaultfd", raw(SYS_userfaultfd, ~0ull, 0, 0, 0, 0, 0));
	verdict("keyctl", raw(SYS_keyctl, ~0ull, 0, 0, 0, 0, 0));
	verdict("clone-newuser", raw(SYS_clone, CLONE_NEWUSER | CLONE_SIGHAND, 0, 0, 0, 0, 0));
	verdict("clone-newuser-garbage", raw(SYS_clone, GARBAGE | CLONE_NEWUSER | CLONE_SIGHAND, 0, 0, 0, 0, 0));
	verdict("clone-bad-flags", raw(SYS_clone, CLONE_SIGHAND, 0, 0, 0, 0, 0));
	verdict("openat", open("/dev/null", O_RDONLY) > 2 ? 0 : -1);
}

int main(int argc, char **argv)
{
	int granted = argc > 1 ? atoi(argv[1]) : 3, status = 0;
	pid_t pid;

	probe_open();
	close_on_exec(granted);
	duplicates(granted);
	foreign(granted);
	sending();
	without_arguments();
	pid = fork();
	if (pid == 0)
		_exit(7);
	waitpid(pid, &status, 0);
	verdict("fork", WIFEXITED(status) && WEXITSTATUS(status) == 7 ? 0 : -1);
	return 0;
}
