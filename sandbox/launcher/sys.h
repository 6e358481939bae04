/* sys.h: the system calls the launcher makes, as thin wrappers that return -errno, and nothing else.
 *
 * No libc: a static glibc program keeps about 700 kB resident while it waits, this one a few pages, and
 * there is no code in the process that is not in this folder. x86-64 only: the filter's layout, the entry
 * point and the calling convention below are its own. Sources: syscall(2), the System V ABI AMD64. */
#ifndef SYS_H
#define SYS_H

#ifndef __x86_64__
#error "the launcher supports x86-64 only"
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <asm/stat.h>
#include <asm/statfs.h>
#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/signalfd.h>
#include <linux/uio.h>

#define SYS_MAX_ERRNO 4095 /* a return in [-4095, -1] is an error */

static inline long sys6(long nr, long a, long b, long c, long d, long e, long f)
{
	long ret;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

#define sys5(nr, a, b, c, d, e) sys6(nr, a, b, c, d, e, 0)
#define sys4(nr, a, b, c, d) sys6(nr, a, b, c, d, 0, 0)
#define sys3(nr, a, b, c) sys6(nr, a, b, c, 0, 0, 0)
#define sys2(nr, a, b) sys6(nr, a, b, 0, 0, 0, 0)
#define sys1(nr, a) sys6(nr, a, 0, 0, 0, 0, 0)
#define sys0(nr) sys6(nr, 0, 0, 0, 0, 0, 0)
#define addr(pointer) ((long)(pointer))

static inline _Noreturn void sys_exit(int code)
{
	for (;;) {
		sys1(__NR_exit_group, code);
		__builtin_trap(); /* only a filter that refuses exit_group gets here */
	}
}

static inline int sys_open(const char *path, int flags, unsigned mode)
{
	return (int)sys4(__NR_openat, AT_FDCWD, addr(path), flags, mode);
}

static inline int sys_close(int fd)
{
	return (int)sys1(__NR_close, fd);
}

static inline int sys_fcntl(int fd, int command, unsigned long arg)
{
	return (int)sys3(__NR_fcntl, fd, command, (long)arg);
}

static inline long sys_read(int fd, void *buffer, size_t size)
{
	return sys3(__NR_read, fd, addr(buffer), (long)size);
}

/* signal(7), x86-64; <linux/signal.h> would bring the kernel's own struct sigaction along. */
enum { SIGNAL_HANG_UP = 1, SIGNAL_INTERRUPT = 2, SIGNAL_QUIT = 3, SIGNAL_PIPE = 13, SIGNAL_TERMINATE = 15 };
enum { SIGNAL_KILL = 9, SIGNAL_ALARM = 14, SIGNAL_CHILD = 17, SIGNAL_CONTINUE = 18, SIGNAL_STOP = 19 };
enum { SIGNAL_WINDOW = 28, SIGNAL_LAST = 64 };

struct sys_action {
	uint64_t action, flags, restorer, mask; /* struct kernel_sigaction; action 0 is SIG_DFL, 1 SIG_IGN */
};

static inline int sys_default_action(int signal)
{
	const struct sys_action standard = {0};

	return (int)sys4(__NR_rt_sigaction, signal, addr(&standard), 0, sizeof standard.mask);
}

static inline bool sys_is_ignored(int signal)
{
	struct sys_action found = {0};

	sys4(__NR_rt_sigaction, signal, 0, addr(&found), sizeof found.mask);
	return found.action == 1;
}

/* Where an outer filter has no clone3 (ENOSYS: its flags lie behind a pointer, where a filter cannot look), clone does
 * what it can: the flags that only clone3 has are then taken out of args, as the new process sees them, too. */
static inline long sys_clone(struct clone_args *args)
{
	long pid = sys2(__NR_clone3, addr(args), sizeof *args);

	if (pid != -ENOSYS)
		return pid;
	args->flags &= 0xffffffff; /* CLONE_CLEAR_SIGHAND and CLONE_INTO_CGROUP are beyond */
	return sys5(__NR_clone, (long)(args->flags | args->exit_signal), 0, (long)args->pidfd, 0, 0);
}

/* Write all of it; pre: the descriptor blocks. Returns 0 or -errno. The only full-output loop. */
static inline int sys_write_all(int fd, const void *buffer, size_t size)
{
	const char *next = buffer;

	while (size > 0) {
		long done = sys3(__NR_write, fd, addr(next), (long)size);

		if (done == -EINTR)
			continue;
		if (done < 0)
			return (int)done;
		next += done;
		size -= (size_t)done;
	}
	return 0;
}

/* What getdents64(2) fills a buffer with. */
struct linux_dirent64 {
	uint64_t inode;
	int64_t next;
	uint16_t size;
	uint8_t type;
	char name[];
};

/* struct msghdr, and a cmsghdr with one descriptor, as the kernel has them (include/linux/socket.h). */
struct sys_message {
	void *name;
	uint32_t name_size;
	struct iovec *parts;
	size_t part_count;
	void *control;
	size_t control_size;
	uint32_t flags;
};

struct sys_rights {
	size_t size; /* of header and descriptor: 20, without the padding */
	int32_t level, type;
	int32_t fd, padding;
};

#define SYS_SOL_SOCKET 1
#define SYS_SCM_RIGHTS 1
#define SYS_RIGHTS_SIZE 20
#define SYS_MSG_DONTWAIT 0x40
#define SYS_MSG_NOSIGNAL 0x4000
#define SYS_MSG_CMSG_CLOEXEC 0x40000000

#endif
