/* init.c: the sandbox's init: puts the walls up, starts the child, reaps, ends when the child has ended. */
#include "init.h"

#include "message.h"
#include "namespace.h"
#include "relay.h"
#include "report.h"
#include "sys.h"
#include "terminal.h"
#include "view.h"

#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/wait.h>

struct siginfo_head {
	int32_t signal, error, code, padding, pid;
	char rest[108]; /* struct siginfo, as waitid(2) fills it in */
};

_Static_assert(sizeof(struct siginfo_head) == 128, "sigaction(2)");

/* When the launcher dies, so does the init, and with PID 1 all of its namespace. Asked for again after identity,
 * since a change of IDs takes it back (prctl(2)). */
static void die_with_launcher(const struct start *start)
{
	struct pollfd far_end = {.fd = start->socket, .events = 0};
	long failed = sys5(__NR_prctl, PR_SET_PDEATHSIG, SIGNAL_KILL, 0, 0, 0);

	if (failed < 0)
		fail_step(STEP_START, (int)-failed, 0);
	/* getppid() tells nothing about a parent in another PID namespace; the far end of the socket is the launcher's only. */
	if (sys3(__NR_poll, addr(&far_end), 1, 0) != 0)
		sys_exit(125);
}

static void run_op(const struct plan *plan, const struct op *op, const struct start *start)
{
	switch (op->code) {
	case OP_STDIO: relay_enter(op); return;
	case OP_NAMESPACE:
		if (op->a == CLONE_NEWUSER && !plan_find(plan, OP_IDENTITY))
			namespace_map_own(op, start);
		return;
	case OP_IDENTITY:
		namespace_identity(op, start);
		die_with_launcher(start);
		return;
	case OP_HOSTNAME: namespace_hostname(plan, op); return;
	case OP_LOOPBACK: namespace_loopback(plan, op); return;
	case OP_ROOT: view_begin(op); return;
	case OP_MOUNT: view_mount(plan, op); return;
	case OP_ENTER: view_enter(op); return;
	case OP_CAPABILITIES: namespace_drop_capabilities(op); return;
	default: return;
	}
}

/* A child that dies within its execve leaves the same traces as one that ends soon after it, but for this: setpgid(2)
 * refuses a child that has executed (EACCES, or EPERM if it has begun a session since) and lets pass, changing nothing
 * here, one that has not. A group outside our PID namespace is 0 for us, which setpgid() would take for the child's own
 * number; no process has the greatest number, and that is found out last. Pre: the child is not reaped. */
static bool has_executed(long pid)
{
	long group = sys1(__NR_getpgid, pid);
	long result = sys2(__NR_setpgid, pid, group ? group : INT32_MAX);

	if (result == -EPERM && !group)
		return sys1(__NR_getsid, pid) != sys1(__NR_getsid, 0);
	return result == -EACCES || result == -EPERM;
}

/* Wait until the child has executed, or is dead. CLONE_VFORK brings us here when its old memory is gone, which is a
 * moment before the kernel notes the exec. */
static bool await_exec(long pid)
{
	for (;;) {
		struct siginfo_head dead = {0};

		sys5(__NR_waitid, P_PID, pid, addr(&dead), WEXITED | WNOHANG | WNOWAIT, 0);
		if (has_executed(pid))
			return true;
		if (dead.pid)
			return false;
		sys0(__NR_sched_yield);
	}
}

/* The child goes on alone at once (CLONE_VFORK): when this returns, it executes or is dead. */
static long fork_child(const struct plan *plan, const struct start *start, int *pidfd)
{
	long self = sys0(__NR_getpid);
	struct clone_args args = {
		.flags = CLONE_VFORK | CLONE_PIDFD | (plan_find(plan, OP_SIGNALS) ? CLONE_CLEAR_SIGHAND : 0),
		.pidfd = (uint64_t)(uintptr_t)pidfd,
		.exit_signal = SIGNAL_CHILD,
	};
	long pid = sys_clone(&args);

	if (pid == 0)
		child_run(plan, start, (int)self);
	if (pid < 0)
		fail_step(STEP_FORK, (int)-pid, 0);
	return pid;
}

/* The init keeps nothing of the caller's: no stream, no grant. */
static void close_all_but(int socket, int slave)
{
	int low = slave >= 0 && slave < socket ? slave : socket, high = slave > socket ? slave : socket;

	sys3(__NR_close_range, 0, low - 1, 0);
	if (high > low + 1)
		sys3(__NR_close_range, low + 1, high - 1, 0);
	sys3(__NR_close_range, high + 1, ~0u, 0);
}

/* Tell that the command's exec succeeded, and do not reap it before the supervisor has its pid: that of a process
 * which is reaped cannot be learnt from a pidfd. */
static void tell_start(int socket, int pidfd)
{
	char seen;

	message_send(socket, MESSAGE_STARTED, 0, pidfd);
	sys_read(socket, &seen, 1);
}

static _Noreturn void reap(int socket, long child)
{
	for (;;) {
		int status;
		long pid = sys4(__NR_wait4, -1, addr(&status), WUNTRACED | __WALL, 0);

		if (pid == child && (status & 0xff) == 0x7f) {
			message_send(socket, MESSAGE_STOPPED, status, -1);
		} else if (pid == child || pid == -ECHILD) {
			message_send(socket, MESSAGE_ENDED, status, -1);
			sys_exit(0);
		}
	}
}

_Noreturn void init_run(const struct plan *plan, const struct start *start)
{
	const struct op *terminal = plan_find(plan, OP_TERMINAL);
	int pidfd = -1, master;
	long child, failed;

	sys_close(start->far_end);
	die_with_launcher(start);
	for (const struct op *op = plan->ops; op < plan->ops + plan->op_count; op++) {
		start->page->op = op_index(op);
		run_op(plan, op, start);
	}
	if (view_socket() >= 0) {
		must(plan_find(plan, OP_MANAGER), message_send(start->socket, MESSAGE_MANAGER, 0, view_socket()));
		sys_close(view_socket());
	}
	if (terminal) {
		start->page->op = op_index(terminal);
		master = terminal_begin(terminal);
		if (master >= 0) {
			must(terminal, message_send(start->socket, MESSAGE_TERMINAL, 0, master));
			sys_close(master);
		}
	}
	/* Without a PID namespace, orphans of the sandbox come to us and not to the host's init. */
	failed = sys5(__NR_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	if (failed < 0)
		fail_step(STEP_START, (int)-failed, 0);
	child = fork_child(plan, start, &pidfd);
	if (!start->page->failed && await_exec(child))
		tell_start(start->socket, pidfd);
	close_all_but(start->socket, terminal_slave());
	reap(start->socket, child);
}
