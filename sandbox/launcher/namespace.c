/* namespace.c: namespaces, user and group IDs, host name, loopback, capabilities. namespaces(7), capabilities(7) */
#include "namespace.h"

#include "report.h"
#include "sys.h"
#include "text.h"

#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/securebits.h>
#include <linux/wait.h>

uint64_t namespace_flags(const struct plan *plan)
{
	uint64_t flags = 0;

	for_ops(plan, op, OP_NAMESPACE) flags |= op->a;
	return flags;
}

/* Can a process have these namespaces? Returns 0 or -errno. The process that tries ends at once. */
static long try_namespaces(uint64_t flags)
{
	struct clone_args args = {.flags = flags, .exit_signal = SIGNAL_CHILD};
	long pid = sys_clone(&args);

	if (pid == 0)
		sys_exit(0);
	if (pid > 0)
		sys4(__NR_wait4, pid, 0, 0, 0);
	return pid < 0 ? pid : 0;
}

/* ENOSPC: a limit of /proc/sys/user, or the deepest nesting. clone(2) */
static _Noreturn void fail_refused(const struct op *op, long error)
{
	fail(op_index(op), error == ENOSPC ? REASON_NAMESPACES_FULL : (int)error, 0);
}

_Noreturn void namespace_refused(const struct plan *plan, int error)
{
	uint64_t user = namespace_flags(plan) & CLONE_NEWUSER;
	long found = try_namespaces(0);

	if (found < 0) /* no process at all: not the namespaces' fault */
		fail_step(STEP_FORK, (int)-found, 0);
	/* The user namespace first: without it an ordinary user can have none of the others. */
	for_ops(plan, op, OP_NAMESPACE) if (op->a == CLONE_NEWUSER && (found = try_namespaces(user)) < 0)
		fail_refused(op, -found);
	for_ops(plan, op, OP_NAMESPACE) if ((found = try_namespaces(user | op->a)) < 0)
		fail_refused(op, -found);
	fail_step(STEP_FORK, error, 0);
}

static void write_file(const struct op *op, int folder, const char *name, const char *text)
{
	int fd = (int)must(op, sys4(__NR_openat, folder, addr(name), O_WRONLY | O_CLOEXEC, 0));

	must(op, sys_write_all(fd, text, text_length(text)));
	sys_close(fd);
}

/* "ID ID 1": the same inside as outside. */
static void write_map(const struct op *op, int folder, const char *name, uint32_t id)
{
	static struct line line;

	line.length = 0;
	line_number(&line, id);
	line_text(&line, " ");
	line_number(&line, id);
	line_text(&line, " 1");
	line.text[line.length] = '\0';
	write_file(op, folder, name, line.text);
}

void namespace_map_own(const struct op *op, const struct start *start)
{
	int folder;

	/* /proc/self belongs to root while we are not dumpable. Nobody is in the sandbox yet to make use of it. */
	must(op, sys5(__NR_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0));
	folder = (int)must(op, sys_open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC, 0));
	write_file(op, folder, "setgroups", "deny"); /* or an ordinary user may not map a group, user_namespaces(7) */
	write_map(op, folder, "uid_map", start->uid);
	write_map(op, folder, "gid_map", start->gid);
	sys_close(folder);
	must(op, sys5(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0));
}

static bool has_capability(const struct __user_cap_data_struct *data, int capability)
{
	return data[capability / 32].effective & (1u << (capability % 32));
}

/* Whether the calling process may change its groups: by its capability, and its user namespace lets it. */
static bool may_leave_groups(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];
	char text[8] = {0};
	int fd = sys_open("/proc/self/setgroups", O_RDONLY | O_CLOEXEC, 0);

	if (fd < 0)
		return false; /* without /proc VERIFY fails, and says so */
	sys_read(fd, text, sizeof text - 1);
	sys_close(fd);
	return sys2(__NR_capget, addr(&header), addr(data)) < 0 ||
	       (has_capability(data, CAP_SETGID) && !text_starts(text, "deny"));
}

bool namespace_may_mount(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	return sys2(__NR_capget, addr(&header), addr(data)) == 0 && has_capability(data, CAP_SYS_ADMIN);
}

void namespace_leave_groups(void)
{
	long failed = sys2(__NR_setgroups, 0, 0);

	if (failed < 0 && (failed != -EPERM || may_leave_groups()))
		fail_step(STEP_START, (int)-failed, 0);
}

void namespace_map(const struct op *op, int pid)
{
	char path[NUMBERED_PATH];
	int folder;

	text_numbered_path(path, "/proc/", pid);
	folder = (int)must(op, sys_open(path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0));
	write_map(op, folder, "uid_map", op->a);
	write_map(op, folder, "gid_map", op->b);
	sys_close(folder);
}

void namespace_identity(const struct op *op, const struct start *start)
{
	if (start->own_user) { /* the supervisor maps them */
		char done;

		if (must(op, sys_read(start->socket, &done, 1)) != 1)
			sys_exit(125); /* it has failed, and said why */
	}
	must(op, sys5(__NR_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0)); /* the view is still to be made */
	must(op, sys2(__NR_setgroups, 0, 0));
	must(op, sys3(__NR_setresgid, op->b, op->b, op->b));
	must(op, sys3(__NR_setresuid, op->a, op->a, op->a));
	{
		struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
		struct __user_cap_data_struct data[2];

		must(op, sys2(__NR_capget, addr(&header), addr(data)));
		data[0].effective = data[0].permitted;
		data[1].effective = data[1].permitted;
		must(op, sys2(__NR_capset, addr(&header), addr(data)));
	}
}

/* Root could change the host itself. */
static void require_own(const struct plan *plan, const struct op *op, uint64_t namespace)
{
	if (!(namespace_flags(plan) & namespace))
		fail(op_index(op), EPERM, 0);
}

void namespace_hostname(const struct plan *plan, const struct op *op)
{
	require_own(plan, op, CLONE_NEWUTS);
	must(op, sys2(__NR_sethostname, addr(op_text(plan, op)), op->data_size));
	must(op, sys2(__NR_setdomainname, addr("(none)"), 6));
}

static int outside = -1; /* the caller's network, while we are in another */

/* Here and not in the init: whoever has a user namespace of its own has no right to join what lies outside it. */
void namespace_enter_network(const struct plan *plan)
{
	const struct op *op = plan_find(plan, OP_NETNS);

	if (!op)
		return;
	outside = (int)must(op, sys_open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC, 0));
	must(op, sys2(__NR_setns, op->a, CLONE_NEWNET)); /* EINVAL: it is no network namespace */
}

/* What else NETNS names stays open until we end: what belongs to it is there as long as we are. */
void namespace_leave_network(const struct plan *plan)
{
	const struct op *op = plan_find(plan, OP_NETNS);

	if (!op)
		return;
	must(op, sys2(__NR_setns, outside, CLONE_NEWNET));
	sys_close(outside);
	sys_close((int)op->a);
}

void namespace_loopback(const struct plan *plan, const struct op *op)
{
	struct {
		char name[16];
		int16_t flags;
		char rest[22];
	} request = {.name = "lo"}; /* struct ifreq, netdevice(7) */
	enum { GET_FLAGS = 0x8913, SET_FLAGS = 0x8914, UP = 1 };
	int fd;

	require_own(plan, op, CLONE_NEWNET);
	fd = (int)must(op, sys3(__NR_socket, 2 /* AF_INET */, 2 /* SOCK_DGRAM */ | O_CLOEXEC, 0));
	must(op, sys3(__NR_ioctl, fd, GET_FLAGS, addr(&request)));
	request.flags |= UP;
	must(op, sys3(__NR_ioctl, fd, SET_FLAGS, addr(&request)));
	sys_close(fd);
}

/* Nothing now, and no way to get one back: not by being user 0, not by a file, not by inheriting one. Who may not lower
 * the bounding set has no capability to lose, and no_new_privs keeps files from giving one. */
void namespace_drop_capabilities(const struct op *op)
{
	const long bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED |
			  SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	must(op, sys2(__NR_capget, addr(&header), addr(data)));
	if (has_capability(data, CAP_SETPCAP)) {
		long dropped = 0;

		for (int capability = 0; dropped == 0; capability++)
			dropped = sys5(__NR_prctl, PR_CAPBSET_DROP, capability, 0, 0, 0);
		must(op, dropped == -EINVAL ? 0 : dropped); /* EINVAL: past the last that this kernel knows */
		must(op, sys5(__NR_prctl, PR_SET_SECUREBITS, bits, 0, 0, 0));
	}
	__builtin_memset(data, 0, sizeof data);
	must(op, sys5(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
	must(op, sys2(__NR_capset, addr(&header), addr(data)));
}
