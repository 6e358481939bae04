/* probe.c: what this launcher and this kernel are, as text for the Python side. */
#include "probe.h"

#include "fd.h"
#include "plan.h"
#include "report.h"
#include "sys.h"
#include "text.h"

#include <linux/memfd.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>

static void print(const char *name, int64_t value, const char *word)
{
	static struct line line;

	line.length = 0;
	line_text(&line, name);
	line_text(&line, " ");
	line_number(&line, value);
	if (word) {
		line_text(&line, " ");
		line_text(&line, word);
	}
	line_text(&line, "\n");
	sys_write_all(1, line.text, line.length);
}

int probe_dump_abi(void)
{
	print("version", PLAN_VERSION, NULL);
	print("header_size", sizeof(struct plan_header), NULL);
	print("op_size", sizeof(struct op), NULL);
	print("event_size", sizeof(struct event), NULL);
	print("max_size", PLAN_MAX_SIZE, NULL);
	print("max_slots", MAX_SLOTS, NULL);
	print("max_args", MAX_ARGS, NULL);
	print("max_commands", MAX_COMMANDS, NULL);
	print("max_filters", MAX_FILTERS, NULL);
	print("max_env_ops", MAX_ENV_OPS, NULL);
	print("first_number", FIRST_NUMBER, NULL);
	print("last_number", LAST_NUMBER, NULL);
#define OP(name, code, step, least, most, data) print("op." #name, code, step);
#include "ops.def"
#undef OP
#define FDTYPE(name, bit, word) print("fdtype." #name, bit, word);
#include "fdtypes.def"
#undef FDTYPE
	for (int reason = REASON_WRONG_TYPE; reason > REASON_END; reason--)
		if (reason_text(reason))
			print("reason", reason, reason_text(reason));
	for (int step = 0; step < STEP_COUNT; step++)
		print("step", step, step_text(step));
	return 0;
}

/* 1 if a call with these arguments is known to the kernel, whatever it says of them. */
static bool known(long result)
{
	return result != -ENOSYS;
}

static bool action_known(uint32_t action)
{
	return sys3(__NR_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, addr(&action)) == 0;
}

int probe_kernel(void)
{
	long landlock = sys3(444 /* landlock_create_ruleset */, 0, 0, 1 /* LANDLOCK_CREATE_RULESET_VERSION */);
	struct clone_args bad = {.flags = CLONE_CLEAR_SIGHAND | CLONE_SIGHAND}; /* EINVAL by rule, never a process */
	int memfd = (int)sys2(__NR_memfd_create, addr("probe"), MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int proc = sys_open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

	print("no_new_privs", sys5(__NR_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) >= 0, "3.5");
	print("seccomp_filter", action_known(SECCOMP_RET_ERRNO), "3.17");
	print("seccomp_user_notify", action_known(SECCOMP_RET_USER_NOTIF), "5.0");
	print("close_range", sys3(__NR_close_range, ~0u, ~0u, 0) == 0, "5.9");
	print("clone3_clear_sighand", sys2(__NR_clone3, addr(&bad), sizeof bad) == -EINVAL, "5.5");
	print("pidfd_open", sys2(__NR_pidfd_open, sys0(__NR_getpid), 0) >= 0, "5.3");
	print("pidfd_getfd", known(sys3(__NR_pidfd_getfd, -1, 0, 0)), "5.6");
	print("memfd_seals", memfd >= 0 && sys_fcntl(memfd, F_ADD_SEALS, F_SEAL_WRITE) == 0, "3.17");
	print("procfs", proc >= 0, "2.6");
	print("mount_setattr", known(sys5(__NR_mount_setattr, -1, addr(""), 0, 0, 0)), "5.12");
	print("landlock_abi", landlock < 0 ? 0 : landlock, "5.13");
	return 0;
}
