/* supervise.c: the supervisor: forwards signals, stops with the child, tells how it ended, exits as it did. */
#include "supervise.h"

#include "child.h"
#include "report.h"
#include "sys.h"

#include <linux/poll.h>
#include <linux/wait.h>

enum { SENT_BY_KERNEL = 0x80 /* SI_KERNEL */ };
enum { EXIT_SIGNAL_BASE = 128 };

/* wait status bits, wait(2) */
static bool has_exited(int status) { return (status & 0x7f) == 0; }
static bool is_stopped(int status) { return (status & 0xff) == 0x7f; }
static int exit_code(int status) { return (status >> 8) & 0xff; }
static int death_signal(int status) { return status & 0x7f; }

/* A child that dies within its execve leaves the same traces as one that ends soon after it, but for this: setpgid(2)
 * refuses a child that has executed (EACCES, or EPERM if it has begun a session since) and lets pass, changing nothing
 * here, one that has not. Pre: the child is not reaped. */
static bool has_executed(int pid)
{
	long result = sys2(__NR_setpgid, pid, sys1(__NR_getpgid, 0));

	return result == -EACCES || result == -EPERM;
}

/* The socket has ended: exec succeeded, a step failed, or the child died on the way; the shared page tells which. */
static void read_start(struct watched *watched)
{
	const struct op *reached = reporter.plan->ops + watched->page->op;
	struct event event = {.type = EVENT_STARTED, .pid = watched->pid};

	sys_close(watched->exec_fd);
	watched->exec_fd = -1;
	if (watched->page->failed) {
		sys4(__NR_wait4, watched->pid, 0, 0, 0);
		fail_with(&watched->page->failure);
	}
	if (reached->code != OP_COMMAND || !has_executed(watched->pid))
		fail(watched->page->op, REASON_CHILD_VANISHED, 0);
	report_event(&event);
}

/* Take what the child has sent for the gate before its exec, and notice the exec itself. Never blocks. */
static void read_messages(struct watched *watched)
{
	while (watched->exec_fd >= 0) {
		char what = 0;
		struct sys_rights rights = {0};
		struct iovec part = {&what, 1};
		struct sys_message message = {.parts = &part, .part_count = 1, .control = &rights, .control_size = sizeof rights};
		long size = sys3(__NR_recvmsg, watched->exec_fd, addr(&message), SYS_MSG_DONTWAIT | SYS_MSG_CMSG_CLOEXEC);

		if (size == -EAGAIN || size == -EINTR)
			return;
		if (size <= 0 || message.control_size < SYS_RIGHTS_SIZE || rights.type != SYS_SCM_RIGHTS)
			read_start(watched);
		else if (what == MESSAGE_LISTENER)
			watched->gate.listener = rights.fd;
		else
			gate_hold(&watched->gate, rights.fd);
	}
}

static _Noreturn void end_as_child(struct watched *watched, int status)
{
	struct event event = {.type = EVENT_EXITED, .pid = watched->pid, .code = -1};

	if (has_exited(status))
		event.code = exit_code(status);
	else
		event.signal = death_signal(status);
	report_event(&event);
	sys_exit(has_exited(status) ? event.code : EXIT_SIGNAL_BASE + event.signal);
}

static void reap(struct watched *watched)
{
	int status;

	read_messages(watched); /* a dead child's socket has ended before its signal came */
	for (;;) {
		long pid = sys4(__NR_wait4, -1, addr(&status), WNOHANG | WUNTRACED, 0);

		/* Orphans of the sandbox become ours (PR_SET_CHILD_SUBREAPER). */
		if (pid == -EINTR || (pid > 0 && pid != watched->pid))
			continue;
		if (pid < 0)
			fail_step(STEP_SUPERVISE, (int)-pid, 0);
		if (pid == 0)
			return;
		if (is_stopped(status)) { /* stop as well, so that a shell sees a stopped job */
			sys2(__NR_kill, sys0(__NR_getpid), SIGNAL_STOP);
			continue;
		}
		end_as_child(watched, status);
	}
}

/* What the terminal sends (SI_KERNEL) reaches the child by itself, as a member of the same foreground group; an alarm
 * that the caller set before its exec does not. SIGPIPE and SIGXFSZ for our own write of a status record come as if we
 * had sent them. */
static bool is_for_child(const struct signalfd_siginfo *info)
{
	if (info->ssi_code == SENT_BY_KERNEL)
		return info->ssi_signo == SIGNAL_ALARM;
	return info->ssi_pid != (uint32_t)sys0(__NR_getpid);
}

static void forward(struct watched *watched)
{
	struct signalfd_siginfo info;

	while (sys_read(watched->signal_fd, &info, sizeof info) == sizeof info) {
		if (info.ssi_signo == SIGNAL_CHILD)
			reap(watched);
		else if (is_for_child(&info))
			sys2(__NR_kill, watched->pid, (long)info.ssi_signo);
	}
}

_Noreturn void supervise(struct watched *watched)
{
	for (;;) {
		struct pollfd polled[] = {
			{.fd = watched->signal_fd, .events = POLLIN},
			{.fd = watched->exec_fd, .events = POLLIN},
			{.fd = watched->parent_fd, .events = POLLIN},
			{.fd = watched->gate.listener, .events = POLLIN},
		};
		long ready = sys3(__NR_poll, addr(polled), 4, -1);

		if (ready < 0 && ready != -EINTR)
			fail_step(STEP_SUPERVISE, (int)-ready, 0);
		if (polled[2].revents) {
			sys2(__NR_kill, watched->pid, SIGNAL_KILL);
			watched->parent_fd = -1;
		}
		if (polled[1].revents)
			read_messages(watched);
		if (polled[3].revents && !gate_answer(&watched->gate))
			watched->gate.listener = -1;
		if (polled[0].revents)
			forward(watched);
	}
}
