/* trace.c: sandbox-trace: starts the launcher and tells what system calls the command makes, with what they came to.
 *
 *     sandbox-trace IN OUT LAUNCHER [ARGUMENT ...]
 *
 * A looker-on and no wall: it decides nothing, changes no register and no memory, and what it reads of a program's
 * memory is only told. All that a sandbox refuses is refused by the same means as without it. If it dies, all that it
 * looks at dies (PTRACE_O_EXITKILL). ptrace(2); each stop is two switches of the processor, so programs take several
 * times as long. */
#include "../main.h"
#include "../sys.h"
#include "../text.h"
#include "record.h"

#include <linux/ptrace.h>
#include <linux/sched.h>
#include <linux/wait.h>

enum {
	MAX_TASKS = 8192,
	PIDS = 1 << 22, /* PID_MAX_LIMIT, linux/threads.h */
	PAGE = 4096,
	LONGEST = 4096, /* of a text: PATH_MAX */
	EARLY = 512,	/* of a text that is read early */
	EXIT_FAILED = 125,
	SIGNAL_BASE = 128,
	RESTARTS = 512, /* ERESTARTSYS, linux/errno.h: the call is made again */
	RESTARTS_END = 516,
	TRACE_STOP = 0x80, /* PTRACE_O_TRACESYSGOOD marks the stops of system calls */
	SIGNAL_TRAP = 5,
	WALL = 0x40000000, /* __WALL: threads too */
};

/* A thread of the command, or a process of the launcher's. */
struct task {
	int pid; /* 0: free */
	bool followed, inside, thread; /* thread: ends with its process, which is told */
	bool waiting;		       /* seen before its parent's word of it */
	int nr;
	uint64_t arguments[ARGUMENTS];
	char early[EARLY], base[EARLY];
};

static struct task tasks[MAX_TASKS];
static uint16_t place_of[PIDS]; /* of a pid, its place in tasks plus 1; only the pages in use are ever touched */
static struct row rows[CALLS];
static int out, in;
static int launcher;

static struct {
	struct record head;
	char texts[5 * LONGEST];
} record;
static size_t used;

static long ptrace(long request, int pid, long at, long data) { return sys4(__NR_ptrace, request, pid, at, data); }

static struct task *task_of(int pid)
{
	return pid > 0 && pid < PIDS && place_of[pid] ? &tasks[place_of[pid] - 1] : NULL;
}

static struct task *task_new(int pid)
{
	static uint32_t next;

	for (uint32_t tries = 0; pid > 0 && pid < PIDS && tries < MAX_TASKS; tries++) {
		struct task *task = &tasks[next];

		next = (next + 1) % MAX_TASKS;
		if (task->pid)
			continue;
		__builtin_memset(task, 0, sizeof *task);
		task->pid = pid;
		place_of[pid] = (uint16_t)(task - tasks + 1);
		return task;
	}
	return NULL;
}

static void task_end(int pid)
{
	struct task *task = task_of(pid);

	if (!task)
		return;
	task->pid = 0;
	place_of[pid] = 0;
}

static void begin_record(enum record_type type, int pid)
{
	__builtin_memset(&record.head, 0, sizeof record.head);
	record.head.type = type;
	record.head.pid = pid;
	used = 0;
}

static void add_text(const char *text, size_t length)
{
	uint16_t size = (uint16_t)(length > LONGEST ? LONGEST : length);

	if (used + sizeof size + size > sizeof record.texts)
		size = 0;
	__builtin_memcpy(record.texts + used, &size, sizeof size);
	__builtin_memcpy(record.texts + used + sizeof size, text, size);
	used += sizeof size + size;
}

/* Nobody reads any more: the looking-on has no purpose, and the command ends with it. */
static void send_record(void)
{
	record.head.size = (uint32_t)(sizeof record.head + used);
	if (sys_write_all(out, &record, record.head.size) < 0)
		sys_exit(EXIT_FAILED);
}

static void add_link(int pid, const char *name)
{
	static char path[NUMBERED_PATH + 32], target[LONGEST];
	size_t length;
	long size;

	text_numbered_path(path, "/proc/", pid);
	length = text_length(path);
	path[length] = '/';
	__builtin_memcpy(path + length + 1, name, text_length(name) + 1);
	size = sys4(__NR_readlinkat, AT_FDCWD, addr(path), addr(target), sizeof target);
	add_text(target, size > 0 ? (size_t)size : 0);
}

static void add_descriptor(int pid, uint64_t number)
{
	char name[NUMBERED_PATH];

	if ((int)number == AT_FDCWD) {
		add_link(pid, "cwd");
		return;
	}
	text_numbered_path(name, "fd/", (int)number);
	add_link(pid, name);
}

static long read_memory(int pid, uint64_t from, void *to, size_t size)
{
	struct iovec local = {to, size}, remote = {(void *)(uintptr_t)from, size};

	return sys6(__NR_process_vm_readv, pid, addr(&local), 1, addr(&remote), 1, 0);
}

/* Returns the length; what cannot be read is "". */
static size_t read_text(int pid, uint64_t from, char *to, size_t most)
{
	size_t have = 0;

	while (have < most) {
		size_t room = PAGE - ((from + have) & (PAGE - 1));
		long size = read_memory(pid, from + have, to + have, room < most - have ? room : most - have);

		if (size <= 0)
			break;
		for (long at = 0; at < size; at++)
			if (!to[have + (size_t)at])
				return have + (size_t)at;
		have += (size_t)size;
	}
	return have;
}

static void add_memory_text(int pid, uint64_t from)
{
	static char text[LONGEST];

	add_text(text, read_text(pid, from, text, sizeof text));
}

/* SOCK_STREAM and so on: of a copy, which is closed again. Before Linux 6.9 only a process's first thread can be asked. */
static void add_socket_type(int pid, uint64_t number)
{
	int type = 0, size = sizeof type;
	int pidfd = (int)sys2(__NR_pidfd_open, pid, O_EXCL), fd = -1;

	if (pidfd == -EINVAL)
		pidfd = (int)sys2(__NR_pidfd_open, pid, 0);
	if (pidfd >= 0) {
		fd = (int)sys3(__NR_pidfd_getfd, pidfd, (int)number, 0);
		sys_close(pidfd);
	}
	if (fd >= 0) {
		sys5(__NR_getsockopt, fd, SYS_SOL_SOCKET, 3 /* SO_TYPE */, addr(&type), addr(&size));
		sys_close(fd);
	}
	add_text((const char *)&type, 1);
}

static void add_address(int pid, uint64_t from, uint64_t size)
{
	char bytes[128];
	long have = from && size ? read_memory(pid, from, bytes, size < sizeof bytes ? size : sizeof bytes) : 0;

	add_text(bytes, have > 0 ? (size_t)have : 0);
}

/* struct msghdr begins with the address and its size (sendmsg(2)). */
static void add_message(int pid, uint64_t from)
{
	uint64_t head[2] = {0};

	read_memory(pid, from, head, sizeof head);
	add_address(pid, head[0], (uint32_t)head[1]);
}

static void add_argument(const struct task *task, enum argument kind, int at)
{
	const uint64_t *arguments = task->arguments;

	switch (kind) {
	case ARGUMENT_PATH: add_link(task->pid, "cwd"); break;
	case ARGUMENT_PATH_AT: add_descriptor(task->pid, at ? arguments[at - 1] : 0); break;
	case ARGUMENT_ADDRESS:
	case ARGUMENT_MESSAGE:
		add_socket_type(task->pid, arguments[0]);
		if (kind == ARGUMENT_MESSAGE)
			add_message(task->pid, arguments[at]);
		else
			add_address(task->pid, arguments[at], at < 5 ? (uint32_t)arguments[at + 1] : 0);
		return;
	case ARGUMENT_DESCRIPTOR: add_descriptor(task->pid, arguments[at]); return;
	default: return;
	}
	add_memory_text(task->pid, arguments[at]);
}

static struct row *row_of(int nr)
{
	static struct row unknown = {.tell = TELL_FAILURE};

	return nr >= 0 && nr < CALLS ? &rows[nr] : &unknown;
}

/* The texts of an exec, before it replaces the memory that they are in. */
static void read_early(struct task *task)
{
	bool at = task->nr == __NR_execveat;

	task->early[read_text(task->pid, task->arguments[at], task->early, sizeof task->early - 1)] = '\0';
	begin_record(RECORD_CALL, task->pid);
	add_descriptor(task->pid, at ? task->arguments[0] : (uint64_t)AT_FDCWD);
	__builtin_memset(task->base, 0, sizeof task->base);
	used = used < sizeof task->base ? used : sizeof task->base;
	__builtin_memcpy(task->base, record.texts + sizeof(uint16_t), used - sizeof(uint16_t));
}

static bool is_told(struct row *row, int64_t result)
{
	if (row->tell & TELL_ONCE) {
		row->tell &= (uint8_t)~TELL_ONCE;
		return true;
	}
	if (result >= 0 || result < -SYS_MAX_ERRNO)
		return row->tell & TELL_SUCCESS;
	if (result == -EAGAIN)
		return row->tell & TELL_AGAIN;
	if (result == -EINTR || (result <= -RESTARTS && result >= -RESTARTS_END))
		return false;
	return row->tell & TELL_FAILURE;
}

static void tell_call(const struct task *task, int64_t result)
{
	struct row *row = row_of(task->nr);

	if (!is_told(row, result))
		return;
	begin_record(RECORD_CALL, task->pid);
	record.head.nr = task->nr;
	record.head.result = result;
	__builtin_memcpy(record.head.arguments, task->arguments, sizeof task->arguments);
	add_link(task->pid, "exe");
	if (row->tell & READ_EARLY) {
		add_text(task->base, text_length(task->base));
		add_text(task->early, text_length(task->early));
	} else {
		for (int at = 0; at < ARGUMENTS; at++)
			add_argument(task, (enum argument)row->kinds[at], at);
	}
	send_record();
	if (row->tell & TELL_AND_WAIT) {
		char go;

		while (sys_read(in, &go, 1) == -EINTR)
			;
	}
}

static void take_call(struct task *task)
{
	struct ptrace_syscall_info info;

	if (ptrace(PTRACE_GET_SYSCALL_INFO, task->pid, sizeof info, addr(&info)) <= 0)
		return;
	if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
		task->inside = true;
		task->nr = (int)info.entry.nr;
		__builtin_memcpy(task->arguments, info.entry.args, sizeof task->arguments);
		if (row_of(task->nr)->tell & READ_EARLY)
			read_early(task);
	} else if (info.op == PTRACE_SYSCALL_INFO_EXIT && task->inside) {
		task->inside = false;
		tell_call(task, info.exit.rval);
	}
}

static void resume(const struct task *task, int signal)
{
	ptrace(task->followed ? PTRACE_SYSCALL : PTRACE_CONT, task->pid, 0, signal);
}

/* Its parent's word: now it is known whether it is followed. It may have stopped before. */
static void take_fork(const struct task *parent)
{
	struct task *child;
	bool waits;
	uint64_t pid = 0;

	if (ptrace(PTRACE_GETEVENTMSG, parent->pid, 0, addr(&pid)) < 0 || pid == 0)
		return;
	child = task_of((int)pid);
	waits = child && child->waiting;
	if (!child)
		child = task_new((int)pid);
	begin_record(child ? RECORD_FORK : RECORD_OVERFLOW, parent->pid);
	record.head.result = (int64_t)pid;
	if (parent->followed || !child)
		send_record();
	if (!child)
		return;
	child->followed = parent->followed;
	child->thread = parent->nr == __NR_clone && parent->arguments[0] & CLONE_THREAD;
	child->waiting = false;
	if (waits)
		resume(child, 0);
}

/* The first exec that is not the launcher's own is the command's: from there on all is told. A thread that executes takes
 * the number of its process. */
static void take_exec(struct task *task)
{
	uint64_t former = 0;

	if (ptrace(PTRACE_GETEVENTMSG, task->pid, 0, addr(&former)) == 0 && (int)former != task->pid) {
		const struct task *thread = task_of((int)former);

		if (thread) {
			int pid = task->pid;

			*task = *thread;
			task->pid = pid;
			task->thread = false;
			task_end((int)former);
		}
	}
	if (task->pid == launcher)
		return;
	task->followed = true;
	begin_record(RECORD_EXEC, task->pid);
	add_link(task->pid, "exe");
	send_record();
}

/* Group-stop: stays stopped, and is seen again when it continues. */
static void take_stop(struct task *task, int signal)
{
	if (signal == SIGNAL_TRAP) {
		resume(task, 0);
		return;
	}
	ptrace(PTRACE_LISTEN, task->pid, 0, 0);
	if (task->pid != launcher)
		return;
	begin_record(RECORD_STOPPED, task->pid);
	record.head.result = signal;
	send_record();
}

static void take_event(struct task *task, int event, int signal)
{
	switch (event) {
	case PTRACE_EVENT_FORK:
	case PTRACE_EVENT_VFORK:
	case PTRACE_EVENT_CLONE: take_fork(task); break;
	case PTRACE_EVENT_EXEC: take_exec(task); break;
	case PTRACE_EVENT_STOP: take_stop(task, signal); return;
	default: break;
	}
	resume(task, 0);
}

/* What the signal has ended has no memory and no program any more: only its number is told. */
static void tell_end(const struct task *task, int signal)
{
	if (!task || !task->followed || task->thread || !signal)
		return;
	begin_record(RECORD_KILLED, task->pid);
	record.head.result = signal;
	send_record();
}

static void take_status(int pid, int status)
{
	struct task *task = task_of(pid);
	int signal = (status >> 8) & 0xff, event = (status >> 16) & 0xff;

	if ((status & 0xff) != 0x7f) { /* it has ended */
		tell_end(task, status & 0x7f);
		task_end(pid);
		return;
	}
	if (!task) {
		task = task_new(pid);
		if (!task) {
			ptrace(PTRACE_DETACH, pid, 0, 0);
			return;
		}
		task->waiting = true;
		return;
	}
	if (event)
		take_event(task, event, signal);
	else if (signal == (SIGNAL_TRAP | TRACE_STOP)) {
		take_call(task);
		resume(task, 0);
	} else
		resume(task, signal);
}

/* The signals are blocked here: a terminal's are the launcher's, which has what the caller's mask was. */
static _Noreturn void execute(char **arguments, char **environment, int gate, const uint64_t *mask)
{
	char go;

	if (sys_read(gate, &go, 1) != 1) /* the tracer has died */
		sys_exit(EXIT_FAILED);
	sys_close(gate);
	sys4(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, addr(mask), 0, sizeof *mask);
	sys3(__NR_execve, addr(arguments[0]), addr(arguments), addr(environment));
	sys_exit(EXIT_FAILED);
}

static bool start(char **arguments, char **environment)
{
	const long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |
			     PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
	uint64_t all = ~(uint64_t)0, mask = 0;
	int ends[2];

	if (sys2(__NR_pipe2, addr(ends), O_CLOEXEC) < 0 ||
	    sys4(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, addr(&all), addr(&mask), sizeof all) < 0)
		return false;
	launcher = (int)sys0(__NR_fork);
	if (launcher == 0) {
		sys_close(ends[1]);
		sys_fcntl(in, F_SETFD, FD_CLOEXEC);
		sys_fcntl(out, F_SETFD, FD_CLOEXEC);
		execute(arguments, environment, ends[0], &mask);
	}
	sys_close(ends[0]);
	if (launcher < 0 || !task_new(launcher) || ptrace(PTRACE_SEIZE, launcher, 0, options) < 0)
		return false;
	begin_record(RECORD_LAUNCHER, launcher);
	send_record();
	return sys_write_all(ends[1], "", 1) == 0 && sys_close(ends[1]) == 0;
}

static bool read_rows(void)
{
	size_t have = 0;
	long size;

	while (have < sizeof rows && (size = sys_read(in, (char *)rows + have, sizeof rows - have)) > 0)
		have += (size_t)size;
	return have == sizeof rows;
}

/* Returns the exit code of the launcher when that has ended; what it has left behind, without namespaces, ends with us. */
int launcher_main(int argc, char **argv, char **environment, bool privileged)
{
	int status = 0;
	long pid;

	if (privileged || argc < 4)
		return EXIT_FAILED;
	in = (int)text_number(argv[1]);
	out = (int)text_number(argv[2]);
	if (in < 0 || out < 0 || !read_rows() || !start(argv + 3, environment))
		return EXIT_FAILED;
	while ((pid = sys4(__NR_wait4, -1, addr(&status), WALL, 0)) > 0 || pid == -EINTR) {
		if (pid <= 0)
			continue;
		take_status((int)pid, status);
		if ((int)pid == launcher && (status & 0xff) != 0x7f)
			return status & 0x7f ? SIGNAL_BASE + (status & 0x7f) : (status >> 8) & 0xff;
	}
	return EXIT_FAILED;
}
