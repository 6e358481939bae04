/* attributes.c: what survives exec besides descriptors (execve(2), "Effect on process attributes").
 *
 * Taken back is what gives access (the session keyring), what weakens a program (personality, memory merging) and what
 * gives priority. What only restricts stays the caller's: niceness, affinity, memory policy, limits. */
#include "attributes.h"

#include "report.h"
#include "sys.h"
#include "text.h"

#include <linux/ioprio.h>
#include <linux/keyctl.h>
#include <linux/prctl.h>

#ifndef PR_SET_MEMORY_MERGE /* Linux 6.4 */
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif

#define DEFAULT_TIMER_SLACK 50000 /* init/init_task.c: nanoseconds */

/* A filter around the launcher refuses before the kernel reads the bad address. */
static bool is_refused(long syscall)
{
	long result = sys5(syscall, 0, 0, 0, 0, 0);

	return result == -EPERM || result == -ENOSYS;
}

/* Containers refuse keyctl, and with it the other two: then no keyring can be reached, and none need be left. */
static void leave_keyring(const struct op *op)
{
	long result = sys2(__NR_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0);

	if ((result == -EPERM || result == -ENOSYS) && is_refused(__NR_add_key) && is_refused(__NR_request_key))
		return;
	must(op, result);
}

static void drop_limit(const struct op *op, int resource)
{
	const struct rlimit64 none = {0, 0};

	must(op, sys4(__NR_prlimit64, 0, resource, addr(&none), 0));
}

/* A real-time program can keep every other from running. The limits by which one may become real-time go, too. */
static void drop_priority(const struct op *op)
{
	const int priority = 0;
	long policy = must(op, sys1(__NR_sched_getscheduler, 0)) & ~SCHED_RESET_ON_FORK;
	long io = must(op, sys2(__NR_ioprio_get, IOPRIO_WHO_PROCESS, 0));

	if (policy == SCHED_FIFO || policy == SCHED_RR || policy == SCHED_DEADLINE)
		must(op, sys3(__NR_sched_setscheduler, 0, SCHED_NORMAL, addr(&priority)));
	if (IOPRIO_PRIO_CLASS(io) == IOPRIO_CLASS_RT)
		must(op, sys3(__NR_ioprio_set, IOPRIO_WHO_PROCESS, 0, 0));
	drop_limit(op, RLIMIT_NICE);
	drop_limit(op, RLIMIT_RTPRIO);
}

void attributes_reset(const struct op *op)
{
	long merged;

	leave_keyring(op);
	must(op, sys1(__NR_personality, 0));
	/* 0 would be what the caller had at the fork, not the system's default. */
	must(op, sys5(__NR_prctl, PR_SET_TIMERSLACK, DEFAULT_TIMER_SLACK, 0, 0, 0));
	/* Whether a page could be merged tells what another process holds. Older kernels merge none (EINVAL). */
	merged = sys5(__NR_prctl, PR_GET_MEMORY_MERGE, 0, 0, 0, 0);
	if (merged != -EINVAL && must(op, merged) > 0)
		must(op, sys5(__NR_prctl, PR_SET_MEMORY_MERGE, 0, 0, 0, 0));
	drop_priority(op);
}

/* At the hard limit of processor time the kernel kills; a second before it comes the signal that names the cause. */
static uint64_t hard_limit(const struct op *op, uint64_t value)
{
	struct rlimit64 now;

	if (op->a != RLIMIT_CPU)
		return value;
	must(op, sys4(__NR_prlimit64, 0, RLIMIT_CPU, 0, addr(&now)));
	return now.rlim_max > value ? value + 1 : value;
}

void attributes_limit(const struct op *op)
{
	uint64_t value = op->b | (uint64_t)op->c << 32;
	const struct rlimit64 limit = {.rlim_cur = value, .rlim_max = hard_limit(op, value)};

	must(op, sys4(__NR_prlimit64, 0, op->a, addr(&limit), 0));
}

void attributes_scheduling(const struct op *op)
{
	const int priority = 0;

	must(op, sys3(__NR_setpriority, 0 /* PRIO_PROCESS */, 0, (long)op->b - 20));
	must(op, sys3(__NR_sched_setscheduler, 0, op->a, addr(&priority)));
}

enum { MAX_PROCESSORS = 1024, WORD_BITS = 64 };

/* Read a decimal number below MAX_PROCESSORS; returns where it ends, or NULL. */
static const char *read_number(const char *text, uint32_t *number)
{
	const char *next = text;

	for (*number = 0; *next >= '0' && *next <= '9' && *number < MAX_PROCESSORS; next++)
		*number = *number * 10 + (uint32_t)(*next - '0');
	return next > text && *number < MAX_PROCESSORS ? next : NULL;
}

/* "0-3,8" */
static bool read_processors(const char *text, uint64_t mask[MAX_PROCESSORS / WORD_BITS])
{
	for (;;) {
		uint32_t first, last;

		text = read_number(text, &first);
		if (!text)
			return false;
		last = first;
		if (*text == '-')
			text = read_number(text + 1, &last);
		if (!text || last < first)
			return false;
		for (; first <= last; first++)
			mask[first / WORD_BITS] |= (uint64_t)1 << first % WORD_BITS;
		if (*text == '\0')
			return true;
		if (*text++ != ',')
			return false;
	}
}

void attributes_affinity(const struct plan *plan, const struct op *op)
{
	uint64_t mask[MAX_PROCESSORS / WORD_BITS] = {0};

	if (!read_processors(op_text(plan, op), mask))
		fail(op_index(op), EINVAL, 0);
	must(op, sys3(__NR_sched_setaffinity, 0, sizeof mask, addr(mask)));
}

static struct {
	int fd;
	char text[16];
	size_t length;
} before; /* the launcher's own score */

void attributes_oom_score(const struct plan *plan)
{
	const struct op *op = plan_find(plan, OP_OOM_SCORE);
	char text[NUMBERED_PATH];

	if (!op)
		return;
	before.fd = (int)must(op, sys_open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC, 0));
	before.length = (size_t)must(op, sys_read(before.fd, before.text, sizeof before.text));
	text_numbered_path(text, "", (int64_t)op->a - 1000);
	must(op, sys_write_all(before.fd, text, text_length(text)));
}

void attributes_oom_keep(const struct plan *plan)
{
	const struct op *op = plan_find(plan, OP_OOM_SCORE);

	if (!op)
		return;
	must(op, sys_write_all(before.fd, before.text, before.length));
	sys_close(before.fd);
}
