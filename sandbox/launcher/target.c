/* target.c: a thread that waits for an answer: its folder in /proc, its pidfd, its memory, its descriptors. */
#include "target.h"

#include "plan.h"
#include "sys.h"
#include "text.h"

#include <linux/ioctl.h>
#include <linux/kcmp.h>

bool target_is_there(const struct target *target)
{
	return sys3(__NR_ioctl, target->listener, SECCOMP_IOCTL_NOTIF_ID_VALID, addr(&target->request->id)) == 0;
}

int target_open(struct target *target)
{
	char path[NUMBERED_PATH];

	if (target->directory >= 0)
		return 0;
	text_numbered_path(path, "/proc/", target->pid);
	target->directory = sys_open(path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	if (target->directory < 0)
		return target->directory;
	/* Only now: if the notification still stands, the folder is that of the process that waits for us. */
	return (int)sys3(__NR_ioctl, target->listener, SECCOMP_IOCTL_NOTIF_ID_VALID, addr(&target->request->id));
}

void target_close(struct target *target)
{
	if (target->pidfd >= 0)
		sys_close(target->pidfd);
	if (target->directory >= 0)
		sys_close(target->directory);
	target->pidfd = target->directory = -1;
}

int target_flags(int folder, const char *name)
{
	char text[128];
	long size, flags = 0;
	int fd = (int)sys4(__NR_openat, folder, addr(name), O_RDONLY | O_CLOEXEC, 0);

	if (fd < 0)
		return fd;
	size = sys_read(fd, text, sizeof text - 1);
	sys_close(fd);
	if (size < 0)
		return (int)size;
	text[size] = '\0';
	/* pos:\t0\nflags:\t02100002\nmnt_id:... (proc_pid_fdinfo(5)); the flags are octal */
	for (char *at = text; *at; at++) {
		if (!text_starts(at, "flags:\t"))
			continue;
		for (at += 7; *at >= '0' && *at <= '7'; at++)
			flags = flags * 8 + (*at - '0');
		return (int)flags;
	}
	return -EIO;
}

long target_read(int pid, uint64_t from, void *to, size_t size)
{
	struct iovec local = {to, size}, remote = {(void *)(uintptr_t)from, size};

	return sys6(__NR_process_vm_readv, pid, addr(&local), 1, addr(&remote), 1, 0);
}

int64_t target_status(struct target *target, const char *name, int base)
{
	static char text[4096];
	int fd = target_open(target) < 0 ? -1 : (int)sys4(__NR_openat, target->directory, addr("status"), O_RDONLY | O_CLOEXEC, 0);
	long size = fd < 0 ? 0 : sys_read(fd, text, sizeof text - 1);
	int64_t number = 0;

	if (fd >= 0)
		sys_close(fd);
	text[size > 0 ? size : 0] = '\0';
	for (char *at = text; *at; at++) {
		if (!text_starts(at, name))
			continue;
		for (at += text_length(name); (*at >= '0' && *at <= '9') || (base == 16 && *at >= 'a' && *at <= 'f'); at++)
			number = number * base + (*at <= '9' ? *at - '0' : *at - 'a' + 10);
		return number;
	}
	return -1;
}

int target_threads(struct target *target)
{
	return (int)target_status(target, "\nThreads:\t", 10);
}

bool target_is_signalled(struct target *target)
{
	/* SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU stop a process that has no handler for them. */
	const uint64_t stops = 1u << 18 | 1u << 19 | 1u << 20 | 1u << 21;
	uint64_t waiting;

	waiting = (uint64_t)target_status(target, "\nSigPnd:\t", 16) | (uint64_t)target_status(target, "\nShdPnd:\t", 16);
	waiting &= ~(uint64_t)target_status(target, "\nSigBlk:\t", 16) & ~(uint64_t)target_status(target, "\nSigIgn:\t", 16);
	return waiting && waiting & ((uint64_t)target_status(target, "\nSigCgt:\t", 16) | stops);
}

static int leader_of(struct target *target)
{
	int64_t leader = target_status(target, "\nTgid:\t", 10);

	return leader < 0 ? 0 : (int)leader;
}

/* The notification names a thread, which may have a descriptor table of its own: PIDFD_THREAD (O_EXCL), since 6.9.
 * Before that a pidfd stands for a whole process, and will do if the thread shares its table. */
static int open_pidfd(struct target *target)
{
	int fd = -EINVAL, leader;

#ifndef TEST_OLD_PIDFD /* the tests' stand-in for a kernel before 6.9 */
	fd = (int)sys2(__NR_pidfd_open, target->pid, O_EXCL);
#endif
	if (fd != -EINVAL)
		return fd;
	leader = leader_of(target);
	if (leader != target->pid && sys5(__NR_kcmp, target->pid, leader, KCMP_FILES, 0, 0) != 0)
		return -EPERM;
	return (int)sys2(__NR_pidfd_open, leader, 0);
}

int target_pidfd(struct target *target)
{
	if (target->pidfd < 0)
		target->pidfd = open_pidfd(target);
	return target->pidfd;
}

int target_take(struct target *target, uint32_t number)
{
	int pidfd = target_pidfd(target);

	return pidfd < 0 ? pidfd : (int)sys3(__NR_pidfd_getfd, pidfd, number, 0);
}

