/* child.c: the child's way from the fork to exec: the plan's ops in their order. */
#include "child.h"

#include "attributes.h"
#include "confine.h"
#include "fd.h"
#include "landlock.h"
#include "message.h"
#include "report.h"
#include "sys.h"
#include "terminal.h"
#include "text.h"

#include <linux/prctl.h>
#include <linux/stat.h>

/* What the ops leave for later ops; lives in the child only. */
struct progress {
	uint64_t cookie[3];
	const char *environment[MAX_ARGS + 1];
	uint32_t variables;
	const char *arguments[MAX_ARGS + 1];
	int exec_error; /* of the candidates so far */
};

static struct progress progress; /* 4 MiB of zero pages; only those used are ever touched */

static void add_variable(const struct op *op, const char *text)
{
	if (progress.variables >= MAX_ARGS)
		fail(op_index(op), REASON_TOO_MANY, 0);
	progress.environment[progress.variables++] = text;
}

static bool same_name(const char *variable, const char *other)
{
	size_t length = (size_t)text_find(other, '=') + 1;

	return text_same(variable, other, length < text_length(variable) ? length : text_length(variable));
}

/* Whether a variable has that name. */
static bool is_named(const char *variable, const char *name)
{
	return text_starts(variable, name) && variable[text_length(name)] == '=';
}

/* Whether a variable is not the caller's any more: another op sets it, or says that it goes. */
static bool is_replaced(const struct plan *plan, const char *variable)
{
	for_ops(plan, set, OP_ENV_SET) if (same_name(variable, op_text(plan, set))) return true;
	for_ops(plan, drop, OP_ENV_DROP) if (is_named(variable, op_text(plan, drop))) return true;
	for_ops(plan, pid, OP_ENV_PID) if (is_named(variable, op_text(plan, pid))) return true;
	return false;
}

/* NAME= and our own process ID, as this PID namespace has it: that of the command, since exec keeps it. */
static void add_pid(const struct plan *plan, const struct op *op)
{
	static char texts[MAX_PID_VARIABLES][128];
	static int used;
	char number[NUMBERED_PATH], *next = texts[used++];
	const char *name = op_text(plan, op), *digits = number;

	if (text_length(name) + NUMBERED_PATH > sizeof texts[0])
		fail(op_index(op), REASON_TOO_MANY, 0);
	text_numbered_path(number, "=", must(op, sys0(__NR_getpid)));
	add_variable(op, next);
	while (*name)
		*next++ = *name++;
	while ((*next++ = *digits++))
		;
}

/* ENV_KEEP: a name, or the start of one and '*'. A variable that two ops name, or that ENV_SET sets, comes once. */
static bool name_fits(const char *pattern, const char *variable)
{
	size_t at = 0;

	while (pattern[at] && pattern[at] != '*' && pattern[at] == variable[at])
		at++;
	return pattern[at] == '*' || (!pattern[at] && variable[at] == '=');
}

static void keep_variables(const struct plan *plan, const struct op *op, char **environment)
{
	for (; *environment; environment++) {
		bool wanted = true;

		if (!name_fits(op_text(plan, op), *environment) || text_find(*environment, '=') <= 0)
			continue;
		if (is_replaced(plan, *environment))
			wanted = false;
		for (uint32_t i = 0; wanted && i < progress.variables; i++)
			if (same_name(*environment, progress.environment[i]))
				wanted = false;
		if (wanted)
			add_variable(op, *environment);
	}
}

static void set_umask(const struct op *op)
{
	sys1(__NR_umask, op->a); /* cannot fail */
}

/* CLONE_CLEAR_SIGHAND leaves ignored signals ignored, as execve does (clone(2)), and Python ignores SIGPIPE. */
static void reset_signals(const struct op *op)
{
	const uint64_t none = 0;

	for (int signal = 1; signal <= SIGNAL_LAST; signal++)
		if (signal != SIGNAL_KILL && signal != SIGNAL_STOP)
			must(op, sys_default_action(signal));
	must(op, sys4(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, addr(&none), 0, sizeof none));
}

/* Give the supervisor the listener, and copies of the grants that propagate, to know them again. The child keeps no
 * listener: it could answer for itself. */
static void open_gate(const struct plan *plan, const struct op *op, int socket)
{
	int listener;

	for_ops(plan, place, OP_PLACE) if (place->flags & PLACE_PROPAGATE)
		must(op, message_send(socket, MESSAGE_GRANT, 0, (int)place->b));
	listener = confine_gate(plan, op, progress.cookie);
	must(op, message_send_past(socket, MESSAGE_LISTENER, 0, listener, progress.cookie));
	sys_close(listener);
}

/* No later exec; but where the supervisor connects, it is asked of that. */
static void exec_once(const struct plan *plan, const struct op *op, int socket)
{
	int listener = confine_exec_once(plan, op, progress.cookie);

	if (listener < 0)
		return;
	must(op, message_send_past(socket, MESSAGE_LISTENER, 0, listener, progress.cookie));
	sys_close(listener);
}

/* The supervisor acts inside the sandbox for programs, and then under the same rules. */
static void share_ruleset(const struct plan *plan, const struct op *op, int socket)
{
	if (plan_find(plan, OP_ALLOW_LIST))
		must(op, message_send(socket, MESSAGE_RULESET, 0, landlock_ruleset()));
}

static bool exists(const char *path)
{
	return sys3(__NR_faccessat, AT_FDCWD, addr(path), 0) == 0;
}

/* Try one candidate as execvp(3) does: go on when it is missing, remember when it may not be executed. */
static void try_command(const struct plan *plan, const struct op *op)
{
	const char *path = op_text(plan, op);
	long error = -sys6(__NR_execve, addr(path), addr(progress.arguments), addr(progress.environment),
			   (long)progress.cookie[0], (long)progress.cookie[1], (long)progress.cookie[2]);

	if (error == ENOENT && exists(path))
		fail(op_index(op), REASON_NO_INTERPRETER, 0);
	if (error == EACCES)
		progress.exec_error = EACCES;
	else if (error != ENOENT && error != ENOTDIR)
		fail(op_index(op), (int)error, 0);
}

static void build_arguments(const struct plan *plan, const struct op *op)
{
	const char *next = op_text(plan, op);

	for (uint32_t i = 0; i < op->a; i++) {
		progress.arguments[i] = next;
		next += text_length(next) + 1;
	}
}

static void run_op(const struct plan *plan, const struct op *op, const struct start *start)
{
	switch (op->code) {
	case OP_PLACE: fd_place(op, start->page->slots[op->a]); return;
	case OP_SWEEP: fd_sweep(plan, op, start->socket); return;
	case OP_VERIFY: fd_verify(plan, op, start->socket); return;
	case OP_SIGNALS: reset_signals(op); return;
	case OP_UMASK: set_umask(op); return;
	case OP_CHDIR: must(op, sys1(__NR_chdir, addr(op_text(plan, op)))); return;
	case OP_ENV_KEEP: keep_variables(plan, op, start->environment); return;
	case OP_ENV_SET: add_variable(op, op_text(plan, op)); return;
	case OP_ENV_PID: add_pid(plan, op); return;
	case OP_RESET: attributes_reset(op); return;
	case OP_RLIMIT: attributes_limit(op); return;
	case OP_SCHEDULING: attributes_scheduling(op); return;
	case OP_AFFINITY: attributes_affinity(plan, op); return;
	case OP_NO_NEW_PRIVS: confine_no_new_privs(op); return;
	case OP_RULESET: landlock_begin(op); return;
	case OP_PATH_RULE: landlock_allow_path(plan, op); return;
	case OP_PORT_RULE: landlock_allow_port(op); return;
	case OP_RESTRICT:
		share_ruleset(plan, op, start->socket);
		landlock_restrict(op);
		return;
	case OP_EXEC_ONCE: exec_once(plan, op, start->socket); return;
	case OP_GATE: open_gate(plan, op, start->socket); return;
	case OP_FILTER: confine_filter(plan, op); return;
	case OP_COMMAND: try_command(plan, op); return;
	case OP_EXEC: fail(op_index(op), progress.exec_error ? progress.exec_error : ENOENT, 0);
	default: return; /* the launcher's and the init's */
	}
}

/* Death with the init must be asked for before anything can go on without it. */
static void die_with(int parent)
{
	long failed = sys5(__NR_prctl, PR_SET_PDEATHSIG, SIGNAL_KILL, 0, 0, 0);

	if (failed < 0)
		fail_step(STEP_START, (int)-failed, 0);
	if (sys0(__NR_getppid) != parent)
		sys_exit(125);
}

_Noreturn void child_run(const struct plan *plan, const struct start *start, int parent)
{
	const struct op *exec = plan_find(plan, OP_EXEC), *terminal = plan_find(plan, OP_TERMINAL);
	bool limited = false;

	die_with(parent);
	if (terminal)
		terminal_join(terminal);
	if (exec)
		build_arguments(plan, exec);
	for (const struct op *op = plan->ops; op < plan->ops + plan->op_count; op++) {
		if (op->code < OP_PLACE)
			continue;
		/* Placing may need numbers above the soft limit; from here on the caller's limit holds again. */
		if (!limited && op->code >= OP_SIGNALS) {
			must(op, sys4(__NR_prlimit64, 0, RLIMIT_NOFILE, addr(start->nofile), 0));
			limited = true;
		}
		start->page->op = op_index(op);
		run_op(plan, op, start);
	}
	fail_step(STEP_START, ENOEXEC, 0); /* EXEC does not return */
}
