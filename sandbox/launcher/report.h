/* report.h: how a failure leaves the launcher, and the records on the status descriptor. */
#ifndef REPORT_H
#define REPORT_H

#include "plan.h"

#include <stdint.h>

/* Reasons of our own, as negative "errno"; texts in report.c, checked against the Python side by a test. */
enum reason {
	REASON_WRONG_TYPE = -1,	     /* detail: enum fd_type found */
	REASON_WRONG_ACCESS = -2,    /* detail: F_GETFL's O_ACCMODE found */
	REASON_UNEXPECTED_FD = -3,   /* detail: the number */
	REASON_MISSING_FD = -4,	     /* detail: the number */
	REASON_NOT_CLOSED = -5,	     /* detail: the number */
	REASON_NOT_PROC = -6,
	REASON_NOT_NULL_DEVICE = -7,
	REASON_TOO_LARGE = -8,
	REASON_NO_VARIABLE = -9,
	REASON_NO_INTERPRETER = -10,
	REASON_PARENT_GONE = -11,
	REASON_NOT_SEALED = -12,
	REASON_PLAN = -13, /* plan_check's text follows */
	REASON_PRIVILEGED = -14,
	REASON_TOO_MANY = -15,
	REASON_CHILD_VANISHED = -16,
	REASON_NO_PLAN = -17,
	REASON_NO_OPENAT2 = -18,
	REASON_NAMESPACES_FULL = -19,
	REASON_MOVED = -20,
	REASON_NO_MOUNT = -21,
	REASON_COPY_TOO_LARGE = -24,
	REASON_IN_PROC = -25,
	REASON_NO_RELAY = -30,
	REASON_BOTH_WAYS = -31,
	REASON_RECORDS = -32,
	REASON_LOCKED = -33,
	REASON_ASKED_TO_END = -34, /* detail: the signal */
	REASON_DAMAGED = -40,
	REASON_NO_COMMAND = -41,
	REASON_NO_VALUE = -42,
	REASON_NO_CWD = -43,
	REASON_SHOWS_HOME = -44,
	REASON_NOT_IN_VIEW = -45,
	REASON_NOT_PASSED = -46,
	REASON_NOT_ROOT = -47,
	REASON_FOR_ROOT = -48,
	REASON_OLDER_KERNEL = -49, /* detail: its Landlock's ABI */
	REASON_COVERED = -50,
	REASON_NO_CPU_LIMIT = -51,
	REASON_NO_LIMIT_OF_ROOT = -52,
	REASON_NO_LIMIT_OF_ONE = -53,
	REASON_END = -64, /* below all of them, which need not follow each other */
};

/* Whether a signal has come that asks us to end, while signals are blocked and we wait for something else. */
bool report_is_ended(void);
uint64_t report_asking_signals(void); /* those, less what the caller has us ignore; as sigset_t */
int report_asked_by(void);	      /* which of them has come, or 0 */

/* A step that failed. */
struct failure {
	int32_t op;    /* index in the plan, -1 for a step that is no op */
	int32_t error; /* errno, or an enum reason */
	int32_t detail;
	int32_t step; /* enum launcher_step when op is -1 */
};

/* Steps that belong to the launcher itself and not to an op. */
enum launcher_step { STEP_USAGE, STEP_PLAN, STEP_START, STEP_FORK, STEP_SUPERVISE, STEP_SEAL, STEP_COUNT };

enum event_type { EVENT_STARTED = 1, EVENT_FAILED = 2, EVENT_EXITED = 3, EVENT_EXEC = 4, EVENT_DESCRIPTOR = 5, EVENT_NETWORK = 6 };
enum verdict { VERDICT_PASSED = 1, VERDICT_CLOSED = 2 };

/* One record on the status descriptor; fixed size, native byte order (docs/plan-format.md). */
struct event {
	uint32_t size, type;
	uint64_t time_ns; /* CLOCK_REALTIME */
	int32_t pid;	  /* the child, or who executes, as the launcher sees it */
	int32_t code;	  /* EXITED: exit code, or -1; DESCRIPTOR: enum verdict; NETWORK: enum net_verdict */
	int32_t signal;	  /* EXITED: signal, or 0 */
	int32_t op;	  /* FAILED: as in struct failure; DESCRIPTOR passed, NETWORK: the op that decided, or -1 */
	int32_t error;	  /* FAILED: as in struct failure; EXEC, NETWORK: errno, else 0 */
	int32_t detail;	  /* FAILED: as in struct failure; DESCRIPTOR: the number; NETWORK: enum net_call */
	int32_t step;	  /* FAILED: as in struct failure */
	int32_t reserved[5];
	char text[160];	  /* EXEC: the path to execute; DESCRIPTOR: what it refers to; NETWORK: the address; cut */
	char from[96];	  /* EXEC, NETWORK: the program that does it; cut, NUL-terminated */
};

_Static_assert(sizeof(struct event) == 320, "docs/plan-format.md");

/* A page that child and supervisor share until exec gives the child another memory. The child tells its way here
 * and not by a pipe, since the filter may not let it write; a close-on-exec pipe only marks the moment. */
struct progress_page {
	int32_t op; /* the op that is being carried out; that of the last COMMAND op when exec succeeded */
	int32_t failed;
	struct failure failure;
	int slots[MAX_SLOTS]; /* what the grants' ops obtained */
	int streams[3];	      /* what 0-2 are opened anew as, or -1 */
};

/* Where reports go; one per process, set up by main and changed after the fork. */
struct reporter {
	const struct plan *plan; /* NULL until it is checked */
	const char *plan_error;
	struct progress_page *page;   /* in the init and the child; NULL in the launcher */
	struct progress_page *shared; /* the same, in the launcher: to read it */
	void (*ending)(void);	      /* in the launcher: what must be done before it exits after a failure, or NULL */
	bool (*is_raw)(void);	      /* in the launcher: whether standard error wants CR LF, or NULL */
	int status_fd;		    /* -1: none */
	int timer_fd;		    /* that of the time limit, or -1 */
	bool status_json;
	unsigned told;	  /* of the status descriptor: enum of plan.h, TELL_ */
	unsigned trace;	  /* of standard error, for people */
	bool quiet;
};

extern struct reporter reporter;

_Noreturn void fail(int op, int error, int detail);			/* an op of the plan failed */
_Noreturn void fail_step(enum launcher_step step, int error, int detail); /* the launcher itself failed */
_Noreturn void fail_with(const struct failure *failure);
int exit_code_of(const struct failure *failure);
void report_event(struct event *event);
bool report_wants_execs(void);
bool report_wants_network(void);
void report_pointer(const struct event *event); /* to standard error, where the plan says so */
/* "sandbox: WHAT: OBJECT: REASON", or the error's text where there is no reason, to standard error; nothing is ended by it. */
void report_loss(const char *what, const char *object, const char *reason, long error);
const char *reason_text(int error);
const char *step_text(int step);

static inline int op_index(const struct op *op)
{
	return (int)(op - reporter.plan->ops);
}

/* Fail the op if a call returned -errno; otherwise give the result on. */
static inline long must(const struct op *op, long result)
{
	if (result < 0)
		fail(op_index(op), (int)-result, 0);
	return result;
}

#endif
