/* terminal.c: the child's own terminal, and the relay between it and the caller's. */
#include "terminal.h"

#include "fd.h"
#include "report.h"
#include "sys.h"

#include <linux/poll.h>
#include <linux/termios.h>
#include <linux/time.h>

enum { QUEUE_SIZE = 8192 };
enum { SIGNAL_TERMINAL_STOP = 20 };
enum { BLOCK = 0, UNBLOCK = 1 }; /* SIG_BLOCK, SIG_UNBLOCK */
/* Far more than the kernel keeps between the two ends (pty.c: 8 KiB, n_tty.c: 4): what comes after it when the child
 * has ended comes from somebody to whom the slave was sent, and there need be no end of it. */
enum { DRAIN_LIMIT = 1 << 20 };
enum { LOOK_MS = 500, STUCK_MS = 100, STUCK_TIMES = 10 };

/* What was read and is not yet written; filled only when it is empty. */
struct queue {
	uint32_t start, end;
	char bytes[QUEUE_SIZE];
};

static struct {
	unsigned streams; /* bit N: N is on the caller's terminal */
	int in, out;	  /* the caller's terminal, or -1 */
	bool shared;	  /* it could not be opened anew: others depend on the open file's flags, so it blocks */
	int master, slave;
	int timer; /* timerfd: look whether the terminal is ours again */
	bool ended;  /* the master had no more to read */
	bool raw;    /* the keyboard is ours */
	bool held;   /* `settings` are those to give back */
	bool hurried; /* do not wait for a terminal that takes nothing */
	struct termios2 settings;
	struct queue typed, shown;
} terminal = {.in = -1, .out = -1, .master = -1, .slave = -1, .timer = -1};

enum { POLL_MASTER, POLL_IN, POLL_OUT, POLL_TIMER };
_Static_assert(POLL_TIMER + 1 == TERMINAL_POLLS, "terminal.h");

static long control(int fd, unsigned command, long argument)
{
	return sys3(__NR_ioctl, fd, command, argument);
}

static void close_one(int *fd)
{
	if (*fd >= 0)
		sys_close(*fd);
	*fd = -1;
}

/* The number of the terminal that is meant, which for /dev/tty is not the file's own; 0: not a terminal. */
static uint32_t device_of(int fd)
{
	uint32_t device = 0;

	return control(fd, TIOCGDEV, addr(&device)) < 0 ? 0 : device;
}

/* An open file of our own, since the caller's shell shares the one behind 0-2 and must not find it non-blocking. Who
 * may not open the terminal's device, after su, may still open the same terminal as /dev/tty. -1: neither. */
static int open_own(int stream, uint32_t device)
{
	const int flags = O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC;
	char link[NUMBERED_PATH];
	int fd = sys_open("/dev/tty", flags, 0);

	if (fd >= 0 && device_of(fd) == device)
		return fd;
	close_one(&fd);
	fd_link(link, stream);
	fd = sys_open(link, flags, 0);
	if (fd >= 0 && device_of(fd) == device)
		return fd;
	close_one(&fd);
	return -1;
}

static bool is_writable(int fd)
{
	return (sys_fcntl(fd, F_GETFL, 0) & O_ACCMODE) != O_RDONLY;
}

static int parked(const struct op *op, int fd)
{
	return (int)must(op, fd_park(reporter.plan, fd));
}

void terminal_keep(const struct op *op)
{
	uint32_t device = 0;
	int own, first = -1, writable = -1;

	if (op->a != TERMINAL_PRIVATE)
		return;
	for (int fd = 0; fd <= 2; fd++) {
		uint32_t found = device_of(fd);

		if (!found || (device && found != device))
			continue;
		device = found;
		terminal.streams |= 1u << fd;
		first = first < 0 ? fd : first;
		writable = writable < 0 && is_writable(fd) ? fd : writable;
	}
	if (first < 0)
		return;
	own = open_own(first, device);
	terminal.shared = own < 0;
	/* The keyboard is for the child only if it could read it before. */
	if (terminal.streams & 1)
		terminal.in = parked(op, own < 0 ? 0 : own);
	if (own >= 0 || writable >= 0)
		terminal.out = parked(op, own < 0 ? writable : own);
	close_one(&own);
}

/* In the init, which has the caller's terminal still: what the child finds must be right from its first instruction. */
static void copy_settings(const struct op *op, int stream, int slave)
{
	struct termios2 settings;
	struct winsize size;

	must(op, control(stream, TCGETS2, addr(&settings)));
	must(op, control(slave, TCSETS2, addr(&settings)));
	must(op, control(stream, TIOCGWINSZ, addr(&size)));
	must(op, control(slave, TIOCSWINSZ, addr(&size)));
}

static int open_private(const struct op *op)
{
	const int unlocked = 0, flags = O_RDWR | O_NOCTTY | O_CLOEXEC;
	int master = (int)must(op, sys_open("/dev/ptmx", flags | O_NONBLOCK, 0));

	must(op, control(master, TIOCSPTLCK, addr(&unlocked)));
	/* By the master and not by its path: nothing in the view is trusted to be the slave. */
	terminal.slave = (int)must(op, control(master, TIOCGPTPEER, flags));
	return master;
}

int terminal_begin(const struct op *op)
{
	int master = -1;

	if (op->a == TERMINAL_INHERIT)
		return -1;
	must(op, sys0(__NR_setsid));
	if (!terminal.streams)
		return -1;
	master = open_private(op);
	copy_settings(op, __builtin_ctz(terminal.streams), terminal.slave);
	must(op, control(terminal.slave, TIOCSCTTY, 0));
	for (int fd = 0; fd <= 2; fd++)
		if (terminal.streams & (1u << fd))
			must(op, sys3(__NR_dup3, terminal.slave, fd, 0));
	close_one(&terminal.in);
	close_one(&terminal.out);
	return master;
}

int terminal_slave(void)
{
	return terminal.slave;
}

void terminal_join(const struct op *op)
{
	int group = (int)sys0(__NR_getpid);

	if (op->a == TERMINAL_INHERIT)
		return;
	must(op, sys2(__NR_setpgid, 0, 0));
	/* From the background: SIGTTOU is blocked here, and so does not come. */
	if (terminal.slave >= 0)
		must(op, control(terminal.slave, TIOCSPGRP, addr(&group)));
	close_one(&terminal.slave);
}

static bool is_queued(const struct queue *queue)
{
	return queue->start != queue->end;
}

/* Pre: empty. Returns the size read, or -errno. */
static long fill(struct queue *queue, int fd)
{
	long size = sys_read(fd, queue->bytes, sizeof queue->bytes);

	queue->start = 0;
	queue->end = size > 0 ? (uint32_t)size : 0;
	return size;
}

/* Write what goes at once. Returns 0, or -errno with the rest still queued. */
static long flush(struct queue *queue, int fd)
{
	while (is_queued(queue)) {
		long size = sys3(__NR_write, fd, addr(queue->bytes + queue->start), queue->end - queue->start);

		if (size == -EINTR)
			continue;
		if (size <= 0)
			return size < 0 ? size : -EAGAIN;
		queue->start += (uint32_t)size;
	}
	return 0;
}

static void forget(struct queue *queue)
{
	queue->start = queue->end = 0;
}

/* The caller's terminal is gone. So is the child's, then: the kernel tells the session's leader, our init. */
static void hang_up(void)
{
	close_one(&terminal.out);
	close_one(&terminal.in);
	close_one(&terminal.master);
	close_one(&terminal.timer);
	terminal.raw = terminal.held = false;
	forget(&terminal.typed);
	forget(&terminal.shown);
}

/* Where the terminal is not our controlling one (ENOTTY), job control asks nobody who reads it. */
static bool in_foreground(void)
{
	int group;

	return control(terminal.in, TIOCGPGRP, addr(&group)) < 0 || group == sys1(__NR_getpgid, 0);
}

/* As ssh(1) does: every byte comes as it was typed, and goes as the child's terminal has made it. The line itself
 * (speed, parity) is left alone, so nothing that is queued can be harmed and no drain is to be waited for. */
static void set_raw(void)
{
	struct termios2 raw = terminal.settings;

	raw.c_iflag |= IGNPAR;
	raw.c_iflag &= ~(tcflag_t)(ISTRIP | INLCR | IGNCR | ICRNL | IXON | IXANY | IXOFF | BRKINT | PARMRK);
	raw.c_lflag &= ~(tcflag_t)(ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHONL | IEXTEN);
	raw.c_oflag &= ~(tcflag_t)OPOST;
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	control(terminal.in, TCSETS2, addr(&raw));
}

static void look_again(bool wanted)
{
	const struct __kernel_timespec moment = {.tv_nsec = wanted ? LOOK_MS * 1000000 : 0};
	const struct __kernel_itimerspec times = {moment, moment};

	sys4(__NR_timerfd_settime, terminal.timer, 0, addr(&times), 0);
}

/* Raw mode while we are in the foreground. In the background the terminal is somebody else's. A shell that brings a
 * running job to the foreground tells nobody, so we look now and then. */
static void take_keyboard(void)
{
	bool ours = in_foreground();

	/* Not held: they are the caller's, and may have changed while it had them. Held: whoever stopped us, by SIGSTOP,
	 * may have left ours there. */
	if (ours && !terminal.held)
		terminal.held = control(terminal.in, TCGETS2, addr(&terminal.settings)) >= 0;
	terminal.raw = ours && terminal.held;
	if (terminal.raw)
		set_raw();
	look_again(!terminal.raw);
}

/* Only what is ours: in the background the terminal has other settings, and they are not our affair. */
static void give_keyboard(void)
{
	if (terminal.raw && in_foreground())
		control(terminal.in, TCSETS2, addr(&terminal.settings));
	if (terminal.raw)
		terminal.held = false;
	terminal.raw = false;
}

void terminal_refresh(void)
{
	struct winsize size;

	if (terminal.master < 0)
		return;
	if (control(terminal.out >= 0 ? terminal.out : terminal.in, TIOCGWINSZ, addr(&size)) >= 0)
		control(terminal.master, TIOCSWINSZ, addr(&size));
	if (terminal.in >= 0)
		take_keyboard();
}

void terminal_attach(const struct op *op, int master)
{
	terminal.master = master;
	if (terminal.in >= 0)
		terminal.timer = (int)must(op, sys2(__NR_timerfd_create, CLOCK_MONOTONIC, O_CLOEXEC | O_NONBLOCK));
	terminal_refresh();
}

static struct pollfd polling(int fd, bool reading, bool writing)
{
	short events = (short)((reading ? POLLIN : 0) | (writing ? POLLOUT : 0));

	/* A hang-up is told even where no event is asked for, and would come again and again. */
	return (struct pollfd){.fd = events ? fd : -1, .events = events};
}

int terminal_poll(struct pollfd *polled)
{
	bool typed = is_queued(&terminal.typed), shown = is_queued(&terminal.shown);

	if (terminal.master < 0)
		return 0;
	polled[POLL_MASTER] = polling(terminal.master, !shown && !terminal.ended, typed);
	polled[POLL_IN] = polling(terminal.in, terminal.raw && !typed, false);
	polled[POLL_OUT] = polling(terminal.out, false, shown);
	polled[POLL_TIMER] = polling(terminal.timer, true, false);
	return TERMINAL_POLLS;
}

static void read_keyboard(short events)
{
	long size = fill(&terminal.typed, terminal.in);

	if (size > 0 || size == -EAGAIN || size == -EINTR)
		return;
	if (size == -EIO && !in_foreground()) /* SIGTTIN is blocked, so the kernel says it this way */
		take_keyboard();
	else if (size < 0 || events & (POLLHUP | POLLERR))
		hang_up();
}

static void read_master(void)
{
	long size = fill(&terminal.shown, terminal.master);

	if (size <= 0 && size != -EAGAIN && size != -EINTR)
		terminal.ended = true; /* EIO: nobody has the slave any more */
}

/* Returns whether it failed for good. */
static bool write_some(struct queue *queue, int fd)
{
	long failed = flush(queue, fd);

	return failed && failed != -EAGAIN;
}

static void write_both(bool has_room)
{
	if (write_some(&terminal.typed, terminal.master))
		forget(&terminal.typed);
	if (terminal.out < 0)
		forget(&terminal.shown);
	else if ((!terminal.shared || has_room) && write_some(&terminal.shown, terminal.out))
		hang_up();
}

void terminal_relay(const struct pollfd *polled)
{
	uint64_t times;

	if (terminal.timer >= 0 && polled[POLL_TIMER].revents && sys_read(terminal.timer, &times, sizeof times) > 0)
		terminal_refresh();
	if (terminal.raw && polled[POLL_IN].revents && !is_queued(&terminal.typed))
		read_keyboard(polled[POLL_IN].revents);
	if (terminal.master < 0)
		return;
	if (polled[POLL_MASTER].revents & ~POLLOUT && !is_queued(&terminal.shown))
		read_master();
	write_both(polled[POLL_OUT].revents);
}

/* Wait until all is shown that was read, as the child itself would have waited. Returns false if the rest cannot be. */
static bool show_all(void)
{
	int stuck = 0;

	while (is_queued(&terminal.shown) && terminal.out >= 0) {
		struct pollfd polled = polling(terminal.out, false, true);
		long ready = sys3(__NR_poll, addr(&polled), 1, STUCK_MS);

		stuck = ready > 0 ? 0 : stuck + 1;
		if (ready > 0 && write_some(&terminal.shown, terminal.out))
			return false;
		if (stuck && (report_is_ended() || (terminal.hurried && stuck > STUCK_TIMES)))
			return false;
	}
	return terminal.out >= 0;
}

/* Show what the child has written so far, without waiting for more. */
static void drain(void)
{
	for (long left = DRAIN_LIMIT; show_all() && left > 0; left -= terminal.shown.end)
		if (fill(&terminal.shown, terminal.master) <= 0)
			return;
}

/* Returns whether we have been stopped and continued: SIGCONT is blocked, so it waits to be read. */
static bool stop_ourselves(long process, int signal)
{
	const uint64_t one = (uint64_t)1 << (SIGNAL_TERMINAL_STOP - 1);
	uint64_t pending = 0;

	sys2(__NR_kill, process, signal);
	sys4(__NR_rt_sigprocmask, UNBLOCK, addr(&one), 0, sizeof one);
	sys4(__NR_rt_sigprocmask, BLOCK, addr(&one), 0, sizeof one);
	sys2(__NR_rt_sigpending, addr(&pending), sizeof pending);
	return pending & (uint64_t)1 << (SIGNAL_CONTINUE - 1);
}

bool terminal_stop(int signal)
{
	bool job = terminal.raw, stopped;

	if (terminal.master >= 0)
		drain();
	give_keyboard();
	/* SIGTSTP with its default action does not stop a group that nobody could continue, as SIGSTOP would. What is
	 * typed would without us have stopped the whole job of which we are one process. */
	if (signal == SIGNAL_STOP)
		stopped = stop_ourselves(sys0(__NR_getpid), SIGNAL_STOP);
	else
		stopped = stop_ourselves(job ? 0 : sys0(__NR_getpid), SIGNAL_TERMINAL_STOP);
	if (stopped) /* whoever reads that SIGCONT does the rest, once: a second one would make vim draw again */
		return false;
	terminal_refresh();
	return signal == SIGNAL_TERMINAL_STOP;
}

bool terminal_is_raw(void)
{
	return terminal.raw;
}

void terminal_hurry(void)
{
	terminal.hurried = true;
}

void terminal_end(void)
{
	if (terminal.master >= 0)
		drain();
	give_keyboard();
	hang_up();
}
