/* confine.c: no_new_privs, the filters, and the one exec that a plan may allow. */
#include "confine.h"

#include "report.h"
#include "sys.h"

#include <linux/audit.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>

void confine_no_new_privs(const struct op *op)
{
	must(op, sys5(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static long load(const struct op *op, const struct sock_filter *program, uint32_t length, unsigned flags)
{
	struct sock_fprog filter = {.len = (unsigned short)length, .filter = (struct sock_filter *)(uintptr_t)program};

	return must(op, sys3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags, addr(&filter)));
}

void confine_filter(const struct plan *plan, const struct op *op)
{
	load(op, (const struct sock_filter *)(const void *)op_text(plan, op), op->data_size / 8, 0);
}

#define DATA(field) ((uint32_t)offsetof(struct seccomp_data, field))
#define REFUSE BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define LOAD(offset) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (offset))
#define EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), (yes), (no))
#define HALF(n) (DATA(args) + 12 * 2 + 4 * (n)) /* 32-bit halves of args[3] to args[5] */

enum { NO_CALL = 0x3fffffff };

static struct sock_filter program[MAX_FILTER_LENGTH];

/* What stands behind the gate's own part: the program that asks of other calls, or nothing but ALLOW. */
static uint32_t append(const struct plan *plan, uint32_t length)
{
	const struct op *asking = plan_find(plan, OP_NOTIFY);
	const struct sock_filter allow = ALLOW;
	uint32_t size = asking ? asking->data_size : (uint32_t)sizeof allow;

	__builtin_memcpy(program + length, asking ? op_text(plan, asking) : (const char *)&allow, size);
	return length + size / (uint32_t)sizeof program[0];
}

/* execve(2) and sendmsg(2) take three arguments; what stands in the other three argument registers the kernel ignores and
 * a filter sees. So the launcher's own exec, and the message that brings the listener, carry 192 random bits there. They
 * live in its memory and in the filter: the first is gone when that exec succeeds, the second cannot be read without
 * CAP_SYS_ADMIN in the first user namespace (PTRACE_SECCOMP_GET_FILTER, ptrace(2)), and ptrace is refused. */
static long load_exec_filter(const struct plan *plan, const struct op *op, uint64_t cookie[3], uint32_t answer, unsigned flags)
{
	struct sock_fprog filter = {.filter = program};
	/* Without a program that asks of sendmsg it is looked at no further: what is always allowed costs nothing. */
	const uint32_t message = plan_find(plan, OP_NOTIFY) ? __NR_sendmsg : NO_CALL;
	uint32_t half[6];

	if (must(op, sys3(__NR_getrandom, addr(cookie), 3 * sizeof cookie[0], 0)) != 3 * sizeof cookie[0])
		fail(op_index(op), EIO, 0);
	__builtin_memcpy(half, cookie, sizeof half);
	{
		const struct sock_filter gate[GATE_LENGTH] = {
			LOAD(DATA(arch)),
			EQUAL(AUDIT_ARCH_X86_64, 1, 0),
			REFUSE,
			LOAD(DATA(nr)),
			BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 19, 0), /* x32, and -1: a call that a tracer took away */
			EQUAL(__NR_execveat, 2, 0),
			EQUAL(__NR_execve, 1, 0),
			EQUAL(message, 0, 17),
			LOAD(HALF(0)), EQUAL(half[0], 0, 11),
			LOAD(HALF(1)), EQUAL(half[1], 0, 9),
			LOAD(HALF(2)), EQUAL(half[2], 0, 7),
			LOAD(HALF(3)), EQUAL(half[3], 0, 5),
			LOAD(HALF(4)), EQUAL(half[4], 0, 3),
			LOAD(HALF(5)), EQUAL(half[5], 0, 1),
			ALLOW,
			LOAD(DATA(nr)),
			EQUAL(message, 2, 0),
			BPF_STMT(BPF_RET | BPF_K, answer),
			REFUSE,
		};

		__builtin_memcpy(program, gate, sizeof gate);
	}
	filter.len = (unsigned short)append(plan, GATE_LENGTH);
	return must(op, sys3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags, addr(&filter)));
}

enum { LISTENING = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV };

int confine_exec_once(const struct plan *plan, const struct op *op, uint64_t cookie[3])
{
	bool asks = plan_find(plan, OP_NOTIFY);
	long listener = load_exec_filter(plan, op, cookie, SECCOMP_RET_ERRNO | EPERM, asks ? LISTENING : 0);

	return asks ? (int)listener : -1;
}

int confine_gate(const struct plan *plan, const struct op *op, uint64_t cookie[3])
{
	return (int)load_exec_filter(plan, op, cookie, SECCOMP_RET_USER_NOTIF, LISTENING);
}
