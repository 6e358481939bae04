/* report.c: the one error exit, its one-line message, and the status records. */
#include "report.h"

#include "netreport.h"
#include "fd.h"
#include "sys.h"
#include "text.h"

#include <linux/poll.h>
#include <linux/time.h>

enum { LOOK_MS = 100 };

struct reporter reporter = {.status_fd = -1, .timer_fd = -1};

uint64_t report_asking_signals(void)
{
	static const int all[] = {SIGNAL_HANG_UP, SIGNAL_INTERRUPT, SIGNAL_QUIT, SIGNAL_TERMINATE};
	uint64_t asking = 0;

	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
		if (!sys_is_ignored(all[i]))
			asking |= (uint64_t)1 << (all[i] - 1);
	return asking;
}

int report_asked_by(void)
{
	uint64_t pending = 0;

	sys2(__NR_rt_sigpending, addr(&pending), sizeof pending);
	pending &= report_asking_signals();
	return pending ? __builtin_ctzll(pending) + 1 : 0;
}

bool report_is_ended(void)
{
	return report_asked_by() != 0;
}

/* A reader that is slow holds us up, as it does any program that writes to it; but neither signals nor the time limit
 * wait for one that does not read. What is written is no longer than PIPE_BUF, and so goes at once. */
static bool has_room(int fd)
{
	for (;;) {
		struct pollfd polled[] = {
			{.fd = fd, .events = POLLOUT},
			{.fd = reporter.timer_fd, .events = POLLIN},
		};
		long ready = sys3(__NR_poll, addr(polled), 2, LOOK_MS);

		if (ready < 0 && ready != -EINTR)
			return true; /* then writing says what is wrong */
		if (ready > 0 && polled[0].revents)
			return true;
		if ((ready > 0 && polled[1].revents) || report_is_ended())
			return false;
	}
}

/* Whoever does not read loses the rest. */
static void write_status(const void *record, size_t size)
{
	if (has_room(reporter.status_fd))
		sys_write_all(reporter.status_fd, record, size);
	else
		reporter.status_fd = -1;
}

const char *reason_text(int error)
{
	switch (error) {
	case REASON_WRONG_TYPE: return "the descriptor is of another type: ";
	case REASON_WRONG_ACCESS: return "the descriptor has another access mode: ";
	case REASON_UNEXPECTED_FD: return "an undeclared descriptor is left: ";
	case REASON_MISSING_FD: return "a declared descriptor is missing: ";
	case REASON_NOT_CLOSED: return "a descriptor has the wrong close-on-exec flag: ";
	case REASON_NOT_PROC: return "/proc is absent or is not procfs";
	case REASON_NOT_NULL_DEVICE: return "/dev/null is not the null device";
	case REASON_TOO_LARGE: return "the secret is larger than 1 MiB";
	case REASON_NO_VARIABLE: return "the variable is not set";
	case REASON_NO_INTERPRETER: return "the interpreter that the file names is missing";
	case REASON_PARENT_GONE: return "the parent process has ended";
	case REASON_NOT_SEALED: return "it is not a sealed memfd";
	case REASON_PLAN: return "";
	case REASON_PRIVILEGED: return "the launcher must not be set-uid, set-gid or hold file capabilities";
	case REASON_TOO_MANY: return "too many variables";
	case REASON_NO_PLAN: return "its descriptor is not open; an outer sandbox closes what its profile lets no exec pass (dev-fd)";
	case REASON_NO_OPENAT2: return "openat2 is refused: by an older kernel, or by a sandbox around this one, in which no view can be made";
	case REASON_NAMESPACES_FULL: return "there may be no more of them";
	case REASON_CHILD_VANISHED: return "the child ended before it could start the command";
	case REASON_COPY_TOO_LARGE: return "the file is larger than a copy may be";
	case REASON_IN_PROC: return "it is in /proc, and may be the launcher's own; a file's grant opens it all the same with raw";
	case REASON_MOVED: return "its path leads to another file by now, or to none; raw takes it as it is";
	case REASON_LOCKED: return "somebody holds the lock (flock) of its folder";
	case REASON_ASKED_TO_END: return "ended while it waited, by signal ";
	case REASON_NO_RELAY: return "what only appends, or is relayed, is copied by the supervisor from the start on; grant it at the start, or as it is: raw";
	case REASON_BOTH_WAYS: return "it is open both ways, and a relay goes one way; say which: read or write";
	case REASON_RECORDS: return "a relay keeps no records apart; it takes sockets of type SOCK_STREAM";
	case REASON_NO_MOUNT: return "it takes a mount of its own, and so a user namespace, which is refused here; raw does without";
	case REASON_DAMAGED: return "this file was changed, cut short or added to since it was sealed";
	case REASON_NO_VALUE: return "no absolute path stands for it here";
	case REASON_NO_CWD: return "the working directory is gone";
	case REASON_SHOWS_HOME: return "the working directory would show all of your home folder";
	case REASON_NOT_IN_VIEW: return "it is not in the view";
	case REASON_NOT_PASSED: return "no service manager has passed one descriptor of that name to this process";
	case REASON_NOT_ROOT: return "only root can become another";
	case REASON_FOR_ROOT: return "it does not hold root";
	case REASON_OLDER_KERNEL: return "an older kernel than the one that it was sealed for; its Landlock ABI is ";
	case REASON_NO_COMMAND: return "there is none";
	case REASON_COVERED: return "the working directory lies in what it hides or replaces";
	case REASON_NO_CPU_LIMIT: return "needs a delegated cgroup (version 2) with the cpu controller, found none, and no resource limit shares processors out";
	case REASON_NO_LIMIT_OF_ROOT: return "needs a delegated cgroup (version 2) with the pids controller, found none, and RLIMIT_NPROC does not hold for root";
	case REASON_NO_LIMIT_OF_ONE: return "needs a delegated cgroup (version 2) with the pids controller, found none, and RLIMIT_NPROC counts all of the user's";
	default: return NULL;
	}
}

const char *step_text(int step)
{
	static const char *const names[STEP_COUNT] = {"usage", "plan", "start", "fork", "supervise", "seal"};

	return step >= 0 && step < STEP_COUNT ? names[step] : "?";
}

int exit_code_of(const struct failure *failure)
{
	if (failure->error == REASON_ASKED_TO_END) /* as a program that had not seen to signals */
		return 128 + failure->detail;
	/* Killed within its exec, the command may well be executable. */
	if (failure->op < 0 || reporter.plan->ops[failure->op].code < OP_COMMAND || failure->error == REASON_CHILD_VANISHED)
		return 125;
	return failure->error == ENOENT ? 127 : 126;
}

static const char *failure_step(const struct failure *failure)
{
	return failure->op < 0 ? step_text(failure->step) : plan_step(reporter.plan->ops[failure->op].code);
}

static void failure_reason(struct line *line, const struct failure *failure)
{
	const char *own = reason_text(failure->error);

	if (!own) {
		line_errno(line, failure->error);
		return;
	}
	line_text(line, own);
	if (failure->error == REASON_PLAN)
		line_text(line, reporter.plan_error);
	else if (failure->error == REASON_WRONG_TYPE)
		line_text(line, fd_type_word((enum fd_type)failure->detail));
	else if (failure->error == REASON_WRONG_ACCESS)
		line_text(line, fd_access_word(failure->detail));
	else if ((failure->error <= REASON_UNEXPECTED_FD && failure->error >= REASON_NOT_CLOSED) ||
		 failure->error == REASON_ASKED_TO_END || failure->error == REASON_OLDER_KERNEL)
		line_number(line, failure->detail);
}

/* sandbox: <step>: <object>: <reason>; <hint> */
static void print_failure(const struct failure *failure)
{
	static struct line line;
	const struct op *op = failure->op < 0 ? NULL : &reporter.plan->ops[failure->op];

	line_text(&line, "sandbox: ");
	line_text(&line, failure_step(failure));
	line_text(&line, ": ");
	if (op && reporter.plan->data[op->label]) {
		line_text(&line, reporter.plan->data + op->label);
		line_text(&line, ": ");
	}
	failure_reason(&line, failure);
	if (op && reporter.plan->data[op->hint]) {
		line_text(&line, "; ");
		line_text(&line, reporter.plan->data + op->hint);
	}
	line_text(&line, "\n");
	if (has_room(2))
		sys_write_all(2, line.text, line.length);
}

static void add_number(struct line *line, const char *key, int64_t number)
{
	line_text(line, ",\"");
	line_text(line, key);
	line_text(line, "\":");
	line_number(line, number);
}

static void add_text(struct line *line, const char *key, const char *text)
{
	line_text(line, ",\"");
	line_text(line, key);
	line_text(line, "\":");
	line_json(line, text);
}

static const char *const net_calls[] = {"", "connect", "bind", "listen", "send", "socket", "option"};
static const char *const net_verdicts[] = {"", "allowed", "refused", "inside"};

static void write_json(const struct event *event)
{
	static const char *const names[] = {"", "started", "failed", "exited", "exec", "descriptor", "network"};
	static struct line line, reason;
	const struct failure failure = {event->op, event->error, event->detail, event->step};

	line.length = reason.length = 0;
	line_text(&line, "{\"event\":");
	line_json(&line, names[event->type]);
	add_number(&line, "time_ns", (int64_t)event->time_ns);
	add_number(&line, "pid", event->pid);
	if (event->type == EVENT_EXITED && !event->signal)
		add_number(&line, "code", event->code);
	if (event->signal)
		add_number(&line, "signal", event->signal);
	if (event->type == EVENT_EXITED && event->detail)
		add_number(&line, "timed_out", 1);
	if (event->type == EVENT_EXEC) {
		add_text(&line, "program", event->text);
		add_text(&line, "from", event->from);
		add_number(&line, "error", event->error);
	}
	if (event->type == EVENT_DESCRIPTOR) {
		add_number(&line, "number", event->detail);
		add_text(&line, "verdict", event->code == VERDICT_PASSED ? "passed" : "closed");
		add_text(&line, "object", event->text);
		if (event->code == VERDICT_PASSED)
			add_text(&line, "rule", reporter.plan->data + reporter.plan->ops[event->op].label);
	}
	if (event->type == EVENT_NETWORK) {
		add_text(&line, "program", event->from);
		add_text(&line, "call", net_calls[event->detail]);
		add_text(&line, "address", event->text);
		add_text(&line, "verdict", net_verdicts[event->code]);
		if (event->op >= 0)
			add_text(&line, "rule", reporter.plan->data + reporter.plan->ops[event->op].label);
		add_number(&line, "error", event->error);
	}
	if (event->type == EVENT_FAILED) {
		failure_reason(&reason, &failure);
		reason.text[reason.length] = '\0';
		add_number(&line, "code", exit_code_of(&failure));
		add_text(&line, "step", failure_step(&failure));
		add_text(&line, "reason", reason.text);
		if (event->op >= 0)
			add_text(&line, "object", reporter.plan->data + reporter.plan->ops[event->op].label);
	}
	line_text(&line, "}\n");
	write_status(line.text, line.length);
}

bool report_wants_execs(void)
{
	return (reporter.trace | reporter.told) & TELL_EXECS;
}

bool report_wants_network(void)
{
	return (reporter.trace | reporter.told) & TELL_NETWORK;
}

/* exec: PID PROGRAM, and below it a line for each descriptor that was open across it. */
static void describe_exec(struct line *line, const struct event *event)
{
	line_text(line, "exec: ");
	line_number(line, event->pid);
	line_text(line, event->type == EVENT_EXEC ? " " : ":   ");
	if (event->type == EVENT_DESCRIPTOR) {
		line_number(line, event->detail);
		line_text(line, event->code == VERDICT_PASSED ? " passed (" : " closed");
		if (event->code == VERDICT_PASSED) {
			line_text(line, reporter.plan->data + reporter.plan->ops[event->op].label);
			line_text(line, ")");
		}
		line_text(line, " -> ");
	}
	line_text(line, event->text);
	if (event->type == EVENT_EXEC && event->error) {
		line_text(line, ": ");
		line_errno(line, event->error);
	}
}

/* network: PID PROGRAM: CALL ADDRESS: VERDICT, and by which rule, or which one would allow it. */
static void describe_network(struct line *line, const struct event *event)
{
	bool connects = event->detail == NET_CONNECT || event->detail == NET_SEND;

	line_text(line, "network: ");
	line_number(line, event->pid);
	line_text(line, " ");
	line_text(line, event->from);
	line_text(line, ": ");
	line_text(line, net_calls[event->detail]);
	line_text(line, " ");
	line_text(line, event->text);
	line_text(line, ": ");
	line_text(line, net_verdicts[event->code]);
	if (event->op >= 0) {
		line_text(line, " (");
		line_text(line, reporter.plan->data + reporter.plan->ops[event->op].label);
		line_text(line, ")");
	}
	if (event->error && event->error != EINPROGRESS) {
		line_text(line, ": ");
		line_errno(line, event->error);
	}
	if (event->code == NET_REFUSED && (connects || event->detail == NET_BIND_TO || event->detail == NET_LISTEN)) {
		line_text(line, connects ? "; --net-allow '" : "; --net-bind '");
		line_text(line, event->text);
		line_text(line, "' allows it");
	}
}

static void print_trace(const struct event *event)
{
	static struct line line;

	line.length = 0;
	line_text(&line, "sandbox: ");
	if (event->type == EVENT_NETWORK)
		describe_network(&line, event);
	else
		describe_exec(&line, event);
	line_text(&line, reporter.is_raw && reporter.is_raw() ? "\r\n" : "\n");
	if (has_room(2))
		sys_write_all(2, line.text, line.length);
}

/* A reader that is gone (EPIPE) loses its records; the sandbox goes on, as a program does without its log. */
void report_event(struct event *event)
{
	struct __kernel_timespec now;
	unsigned kind = event->type == EVENT_NETWORK ? (unsigned)TELL_NETWORK : event->type >= EVENT_EXEC ? (unsigned)TELL_EXECS : 0;

	if (kind & reporter.trace)
		print_trace(event);
	if (reporter.status_fd < 0 || (kind && !(kind & reporter.told)))
		return;
	sys2(__NR_clock_gettime, CLOCK_REALTIME, addr(&now));
	event->size = sizeof *event;
	event->time_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	if (reporter.status_json)
		write_json(event);
	else
		write_status(event, sizeof *event);
}

/* What somebody has asked for, or a reader that is gone, is nobody's refusal. */
static bool is_asked_for(int signal)
{
	return signal == SIGNAL_HANG_UP || signal == SIGNAL_INTERRUPT || signal == SIGNAL_QUIT || signal == SIGNAL_PIPE ||
	       signal == SIGNAL_TERMINATE;
}

void report_pointer(const struct event *event)
{
	static struct line line;

	if (!(reporter.plan->header->flags & PLAN_POINT) || event->code == 0 ||
	    (is_asked_for(event->signal) && !event->detail))
		return;
	if (event->detail)
		line_text(&line, "sandbox: command: its time was up");
	else if (event->signal) {
		line_text(&line, "sandbox: command: it was ended by signal ");
		line_number(&line, event->signal);
	} else {
		line_text(&line, "sandbox: command: it ended with ");
		line_number(&line, event->code);
	}
	line_text(&line, "; whether the sandbox has refused it anything tells: sandbox run --explain\n");
	sys_write_all(2, line.text, line.length);
}

void report_loss(const char *what, const char *object, const char *reason, long error)
{
	static struct line line;

	if (reporter.quiet)
		return;
	line.length = 0;
	line_text(&line, "sandbox: ");
	line_text(&line, what);
	line_text(&line, ": ");
	line_text(&line, object);
	line_text(&line, ": ");
	if (reason)
		line_text(&line, reason);
	else
		line_errno(&line, (int)-error);
	line_text(&line, "\n");
	sys_write_all(2, line.text, line.length);
}

_Noreturn void fail_with(const struct failure *failure)
{
	struct event event = {.type = EVENT_FAILED,
			      .op = failure->op,
			      .error = failure->error,
			      .detail = failure->detail,
			      .step = failure->step};

	if (reporter.page) {
		reporter.page->failure = *failure;
		reporter.page->failed = 1;
		sys_exit(125);
	}
	if (reporter.ending)
		reporter.ending();
	report_event(&event);
	if (!reporter.quiet)
		print_failure(failure);
	sys_exit(exit_code_of(failure));
}

_Noreturn void fail(int op, int error, int detail)
{
	const struct failure failure = {.op = op, .error = error, .detail = detail};

	fail_with(&failure);
}

_Noreturn void fail_step(enum launcher_step step, int error, int detail)
{
	const struct failure failure = {.op = -1, .error = error, .detail = detail, .step = step};

	fail_with(&failure);
}
