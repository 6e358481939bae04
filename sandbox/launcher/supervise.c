/* supervise.c: the supervisor: forwards signals, stops with the child, tells how it ended, exits as it did. */
#include "supervise.h"

#include "cgroup.h"
#include "inside.h"
#include "manager.h"
#include "message.h"
#include "netcall.h"
#include "notify.h"
#include "relay.h"
#include "report.h"
#include "socket.h"
#include "sys.h"
#include "terminal.h"
#include "text.h"

#include <linux/poll.h>
#include <linux/wait.h>

enum { SENT_BY_KERNEL = 0x80 /* SI_KERNEL */ };
enum { EXIT_SIGNAL_BASE = 128, EXIT_TIMED_OUT = 124 };
enum { TO_GROUP = 1u << 2 /* PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9 */ };

/* wait status bits, wait(2) */
static bool has_exited(int status) { return (status & 0x7f) == 0; }
static int exit_code(int status) { return (status >> 8) & 0xff; }
static int death_signal(int status) { return status & 0x7f; }

/* The process that a pidfd stands for, as we see it. pidfd_open(2) */
static int pid_of(int pidfd)
{
	char path[NUMBERED_PATH], text[256];
	long size;
	int fd;

	text_numbered_path(path, "/proc/self/fdinfo/", pidfd);
	fd = sys_open(path, O_RDONLY | O_CLOEXEC, 0);
	size = fd < 0 ? 0 : sys_read(fd, text, sizeof text - 1);
	if (fd >= 0)
		sys_close(fd);
	text[size > 0 ? size : 0] = '\0';
	for (char *at = text; *at; at++) {
		char *end = at + 6;

		if (!text_starts(at, "\nPid:\t"))
			continue;
		while (*end >= '0' && *end <= '9')
			end++;
		*end = '\0';
		return (int)text_number(at + 6);
	}
	return 0;
}

static bool asks_for_an_end(uint32_t signal)
{
	return signal == SIGNAL_HANG_UP || signal == SIGNAL_INTERRUPT || signal == SIGNAL_QUIT || signal == SIGNAL_TERMINATE;
}

/* A terminal signals groups, and so does a shell that continues a job; kill(2) means one process. */
static void signal_child(struct watched *watched, unsigned signal, bool group)
{
	long failed;

	/* What asks for an end then means what is still to be written. */
	if (watched->has_ended && asks_for_an_end(signal))
		relay_hurry();
	if (watched->has_ended)
		return;
	if (watched->child_fd < 0) {
		watched->early |= (uint64_t)1 << (signal - 1);
		return;
	}
	group = group && watched->own_group;
	failed = sys4(__NR_pidfd_send_signal, watched->child_fd, signal, 0, group ? TO_GROUP : 0);
	/* Before 6.9 by number: should the init have reaped the child this very moment, the number stays unused for as long
	 * as it takes all others to be used (they are given out in a circle). */
	if (failed == -EINVAL && group)
		sys2(__NR_kill, -watched->child, signal);
	/* It is dead, and its end on its way to us. */
	if (failed == -ESRCH && asks_for_an_end(signal))
		relay_hurry();
}

static void take_start(struct watched *watched, int pidfd)
{
	struct event event = {.type = EVENT_STARTED};

	watched->child_fd = pidfd;
	watched->child = event.pid = pid_of(pidfd);
	sys3(__NR_write, watched->socket, addr(""), 1); /* the init waits for this before it reaps */
	report_event(&event);
	for (; watched->early; watched->early &= watched->early - 1)
		signal_child(watched, (unsigned)__builtin_ctzll(watched->early) + 1, false);
}

/* A shell that waits for us must see a stopped job. */
static void stop_as_child(struct watched *watched, int status)
{
	if (terminal_stop(status >> 8 & 0xff))
		signal_child(watched, SIGNAL_CONTINUE, true);
}

static void take_message(struct watched *watched, const struct message *message, int fd)
{
	switch (message->type) {
	case MESSAGE_GRANT: gate_hold(&watched->gate, fd); return;
	case MESSAGE_LISTENER: gate_listen(&watched->gate, fd); return;
	case MESSAGE_RULESET: netcall_hold_ruleset(fd); return;
	case MESSAGE_MANAGER: manager_attach(fd); return;
	case MESSAGE_TERMINAL: terminal_attach(plan_find(reporter.plan, OP_TERMINAL), fd); return;
	case MESSAGE_STARTED: take_start(watched, fd); return;
	case MESSAGE_STOPPED: stop_as_child(watched, message->status); return;
	case MESSAGE_ENDED:
		watched->has_ended = true;
		watched->status = message->status;
		return;
	default: return;
	}
}

/* Take what init and child have sent. Never blocks. The end of the socket is the end of both, or of the init's work
 * before the child's exec. */
static void read_messages(struct watched *watched)
{
	while (watched->socket >= 0) {
		struct message message;
		int fd;
		long size = message_receive(watched->socket, &message, &fd);

		if (size == -EAGAIN || size == -EINTR)
			return;
		if (size == sizeof message) {
			take_message(watched, &message, fd);
			continue;
		}
		sys_close(watched->socket);
		watched->socket = -1;
	}
}

/* The init is dead, and with it all of its PID namespace. */
static _Noreturn void end_as_child(struct watched *watched, const struct progress_page *page, int init_status)
{
	struct event event = {.type = EVENT_EXITED, .pid = watched->child, .code = -1};
	int status = watched->has_ended ? watched->status : init_status;

	terminal_end();
	relay_end();
	manager_end();
	cgroup_end();
	socket_end();
	if (watched->child_fd < 0) {
		if (page->failed)
			fail_with(&page->failure);
		fail(page->op, REASON_CHILD_VANISHED, 0);
	}
	if (has_exited(status))
		event.code = exit_code(status);
	else
		event.signal = death_signal(status);
	event.detail = watched->timed_out;
	report_event(&event);
	report_pointer(&event);
	if (watched->timed_out)
		sys_exit(EXIT_TIMED_OUT);
	sys_exit(has_exited(status) ? event.code : EXIT_SIGNAL_BASE + event.signal);
}

static void reap(struct watched *watched)
{
	int status;

	for (;;) {
		long pid = sys4(__NR_wait4, -1, addr(&status), WNOHANG, 0);

		/* Orphans of a sandbox without a PID namespace may become ours (PR_SET_CHILD_SUBREAPER). */
		if (pid > 0 && pid != watched->init)
			inside_reaped();
		if (pid == -EINTR || (pid > 0 && pid != watched->init))
			continue;
		if (pid < 0)
			fail_step(STEP_SUPERVISE, (int)-pid, 0);
		if (pid == 0)
			return;
		read_messages(watched); /* a dead init's last word came before its signal */
		end_as_child(watched, reporter.shared, status);
	}
}

/* What the terminal sends (SI_KERNEL) reaches the child by itself where it is a member of the same foreground group; an
 * alarm that the caller set before its exec never does. A private terminal tells its size itself. SIGPIPE and SIGXFSZ
 * for our own write of a status record come as if we had sent them. */
static bool is_for_child(const struct watched *watched, const struct signalfd_siginfo *info)
{
	if (info->ssi_signo == SIGNAL_WINDOW && watched->terminal == TERMINAL_PRIVATE)
		return false;
	if (info->ssi_code == SENT_BY_KERNEL)
		return watched->own_group || info->ssi_signo == SIGNAL_ALARM;
	return info->ssi_pid != (uint32_t)sys0(__NR_getpid);
}

static void forward(struct watched *watched)
{
	struct signalfd_siginfo info;

	while (sys_read(watched->signal_fd, &info, sizeof info) == sizeof info) {
		bool group = info.ssi_code == SENT_BY_KERNEL || info.ssi_signo == SIGNAL_CONTINUE;

		if (info.ssi_signo == SIGNAL_CHILD) {
			reap(watched);
			continue;
		}
		if (info.ssi_signo == SIGNAL_WINDOW || info.ssi_signo == SIGNAL_CONTINUE)
			terminal_refresh();
		if (asks_for_an_end(info.ssi_signo))
			terminal_hurry();
		if (is_for_child(watched, &info))
			signal_child(watched, info.ssi_signo, group);
	}
}

/* The init first: PID 1 takes its namespace along. */
static void kill_all(struct watched *watched)
{
	terminal_hurry();
	relay_hurry();
	sys2(__NR_kill, watched->init, SIGNAL_KILL);
	if (watched->child_fd >= 0)
		sys4(__NR_pidfd_send_signal, watched->child_fd, SIGNAL_KILL, 0, 0);
}

/* A hang-up: all that it could ask for are dead. Before Linux 6.11, to receive would then block for ever. */
static void answer_gate(struct watched *watched, short events)
{
	if (!(events & POLLIN) || !notify_answer(&watched->gate))
		watched->gate.listener = -1;
}

enum { OWN_POLLS = 5 }; /* poll(2) takes no more than RLIMIT_NOFILE, so that nothing is polled that is not there */

_Noreturn void supervise(struct watched *watched)
{
	for (;;) {
		struct pollfd polled[OWN_POLLS + NETCALL_POLLS + TERMINAL_POLLS + RELAY_POLLS + MANAGER_POLLS] = {
			{.fd = watched->signal_fd, .events = POLLIN},
			{.fd = watched->socket, .events = POLLIN},
			{.fd = watched->parent_fd, .events = POLLIN},
			/* The command's own exec is told before any that it makes itself. */
			{.fd = watched->child_fd < 0 ? -1 : watched->gate.listener, .events = POLLIN},
			{.fd = watched->timer_fd, .events = POLLIN},
		};
		int networks = OWN_POLLS + netcall_poll(polled + OWN_POLLS), terminals = terminal_poll(polled + networks);
		int relays = relay_poll(polled + networks + terminals), managers;
		long ready;

		managers = manager_poll(polled + networks + terminals + relays);
		ready = sys3(__NR_poll, addr(polled), networks + terminals + relays + managers, netcall_timeout());

		if (ready < 0 && ready != -EINTR)
			fail_step(STEP_SUPERVISE, (int)-ready, 0);
		if ((networks > OWN_POLLS && polled[OWN_POLLS].revents) || ready == 0)
			netcall_go_on();
		if (ready <= 0)
			continue;
		if (polled[2].revents || polled[4].revents) {
			watched->timed_out = polled[4].revents != 0;
			watched->parent_fd = watched->timer_fd = -1;
			kill_all(watched);
		}
		if (polled[1].revents)
			read_messages(watched);
		if (polled[3].revents)
			answer_gate(watched, polled[3].revents);
		if (terminals)
			terminal_relay(polled + networks);
		if (relays)
			relay_move(polled + networks + terminals);
		if (managers)
			manager_move(polled + networks + terminals + relays);
		if (polled[0].revents)
			forward(watched);
	}
}
