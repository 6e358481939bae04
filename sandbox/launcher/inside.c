/* inside.c: short-lived processes of ours that join the target's namespaces and do one thing there. */
#include "inside.h"

#include "namespace.h"
#include "report.h"
#include "sys.h"
#include "text.h"

#include <linux/capability.h>
#include <linux/ioctl.h>
#include <linux/prctl.h>

enum { MOST_CALLS = 64 }; /* at once: one that waits for a full backlog holds a process of the caller's */

static int calls;

/* A copy of this process; it shares the descriptors where `flags` says so, and dies with us. */
static long copy(uint64_t flags)
{
	const int parent = (int)sys0(__NR_getpid);
	struct clone_args args = {.flags = flags, .exit_signal = SIGNAL_CHILD};
	long pid = sys_clone(&args);

	if (pid != 0)
		return pid;
	sys5(__NR_prctl, PR_SET_PDEATHSIG, SIGNAL_KILL, 0, 0, 0);
	if (sys0(__NR_getppid) != parent)
		sys_exit(1);
	return 0;
}

/* Join those of the target's namespaces that are its own. The user namespace is among them where it has one: in it,
 * whoever made it may join the others. setns(2) with a pidfd is Linux 5.8. */
static long join(const struct plan *plan, struct target *target, uint64_t wanted)
{
	int pidfd = target_pidfd(target);

	return pidfd < 0 ? pidfd : sys2(__NR_setns, pidfd, (long)(namespace_flags(plan) & (wanted | CLONE_NEWUSER)));
}

int inside_socket(const struct plan *plan, struct target *target, unsigned family, unsigned type)
{
	/* The number that the copy is to fill: it shares our table, and tells nothing but that it ended well. */
	int place = (int)sys3(__NR_fcntl, target_pidfd(target), F_DUPFD_CLOEXEC, 3);
	int status = 0;
	long pid = place < 0 ? place : copy(CLONE_FILES);

	if (pid == 0) {
		long fd = join(plan, target, CLONE_NEWNET);

		if (fd >= 0)
			fd = sys3(__NR_socket, family, type | O_CLOEXEC, 0);
		if (fd >= 0)
			fd = sys3(__NR_dup3, fd, place, O_CLOEXEC) < 0 ? -EMFILE : sys_close((int)fd);
		sys_exit(fd < 0 ? (int)-fd : 0);
	}
	while (pid > 0 && sys4(__NR_wait4, pid, addr(&status), 0, 0) == -EINTR)
		;
	if (pid > 0 && status == 0)
		return place;
	if (place >= 0)
		sys_close(place);
	return pid < 0 ? (int)pid : (status & 0x7f) ? -EIO : -(status >> 8 & 0xff);
}

/* Root's supervisor becomes whom the target is; anybody else's is that already. IDs are the same inside and outside. */
static long become(int64_t uid, int64_t gid)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	const struct __user_cap_data_struct none[2] = {{0}};
	long failed = uid < 0 || gid < 0 ? -ESRCH : sys3(__NR_setresgid, gid, gid, gid);

	if (failed == 0)
		failed = sys3(__NR_setresuid, uid, uid, uid);
	return failed ? failed : sys2(__NR_capset, addr(&header), addr(none));
}

/* In the copy: stand where the target stands. */
static long enter(const struct plan *plan, struct target *target, int ruleset)
{
	int folder = target_open(target);
	int64_t mask = target_status(target, "\nUmask:\t", 8);
	int64_t uid = target_status(target, "\nUid:\t", 10), gid = target_status(target, "\nGid:\t", 10);
	long failed;

	if (folder < 0)
		return folder;
	folder = (int)sys4(__NR_openat, target->directory, addr("cwd"), O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	if (folder < 0)
		return folder;
	failed = join(plan, target, CLONE_NEWNS | CLONE_NEWNET);
	if (failed == 0)
		failed = sys1(__NR_fchdir, folder);
	sys1(__NR_umask, mask < 0 ? 0777 : (long)mask);
	if (failed == 0)
		failed = sys5(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (failed == 0)
		failed = become(uid, gid);
	if (failed == 0 && ruleset >= 0)
		failed = sys2(__NR_landlock_restrict_self, ruleset, 0);
	return failed;
}

int inside_run(const struct plan *plan, struct target *target, const struct inside_call *call, int ruleset)
{
	struct seccomp_notif_resp answer = {.id = target->request->id};
	long pid = calls < MOST_CALLS ? copy(0) : -EAGAIN, result;

	if (pid > 0)
		calls++;
	if (pid != 0)
		return pid < 0 ? (int)pid : 0;
	/* Of a bind Landlock says where the file may be made. It says nothing of who connects by a path; and of abstract names
	 * it would say that the socket is another domain's, since ours has only the same rules. */
	result = enter(plan, target, call->nr == __NR_bind ? ruleset : -1);
	if (result == 0)
		result = sys3(call->nr, call->socket, addr(call->argument), call->size);
	if (result < 0)
		answer.error = (int)result;
	else
		answer.val = result;
	sys3(__NR_ioctl, target->listener, SECCOMP_IOCTL_NOTIF_SEND, addr(&answer));
	sys_exit(0);
}

void inside_reaped(void)
{
	if (calls > 0)
		calls--;
}
