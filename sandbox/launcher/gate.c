/* gate.c: the exec gate: reads a process's descriptor table at its exec and marks what may not go along. */
#include "gate.h"

#include "names.h"
#include "report.h"
#include "sys.h"
#include "text.h"

#include <linux/ioctl.h>
#include <linux/kcmp.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <linux/stat.h>
#include <linux/uio.h>

enum {
	PAGE = 4096,
	MAX_TEXTS = 8192,    /* of arguments, and again of variables; what comes after names nothing */
	TEXT_CHUNK = 512,    /* read at once of each text; longer ones are read on, up to LONG_TEXT */
	LONG_TEXT = 1 << 15,
	CALLER_TEXTS = 1 << 16, /* bytes of the caller's own arguments, as many as its cmdline gives at most */
	ALL_TEXTS = 1 << 20, /* bytes of all texts of one exec: pointers may repeat, and looking costs time */
	BATCH = 32,
	TABLE_MAX = 1 << 20, /* numbers from here on (sysctl fs.nr_open) are refused, not overlooked */
};

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS /* Linux 6.6 */
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP 1
#endif

static char page[LONG_TEXT + 1];
static uint32_t leaving[TABLE_MAX / 32]; /* numbers that would go along, as a bitmap */

void gate_prepare(struct gate *gate, const struct plan *plan)
{
	const struct op *op = plan_find(plan, OP_GATE);

	gate->plan = plan;
	gate->observe = op && op->a == GATE_OBSERVE;
	gate->listener = -1;
	gate->own_pid = (int)sys0(__NR_getpid);
	gate->held_count = 0;
	gate->asks_callers = false;
	for_ops(plan, rule, OP_PROTOCOL) if (rule->a == PLACE_CALLER_ARGUMENT)
		gate->asks_callers = true;
}

/* Whoever executes waits for us, and we for it: the same processor may serve both, and no other need be woken. Older
 * kernels refuse the flag, and lose only time. */
void gate_listen(struct gate *gate, int listener)
{
	gate->listener = listener;
	sys3(__NR_ioctl, listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
}

/* They come in the order of their PLACE ops. */
void gate_hold(struct gate *gate, int fd)
{
	uint32_t index = 0;

	for_ops(gate->plan, place, OP_PLACE) if (place->flags & PLACE_PROPAGATE && index++ == gate->held_count)
	{
		gate->held[gate->held_count++] = (struct held){fd, place};
		return;
	}
	sys_close(fd);
}

/* Whether 0, 1 and 2 are all that is open, without a look at each: since Linux 6.2 the size of /proc/PID/fd is how many
 * there are (proc_pid_fd(5)), and kcmp(2) refuses a number that is not open. In doubt, no. */
static bool has_streams_only(const struct gate *gate, const struct target *target)
{
	struct stat status;

	if (sys4(__NR_newfstatat, target->directory, addr("fd"), addr(&status), 0) < 0 || status.st_size != FIRST_NUMBER)
		return false;
	for (int fd = 0; fd < FIRST_NUMBER; fd++)
		if (sys5(__NR_kcmp, gate->own_pid, target->pid, KCMP_FILE, 0, fd) < 0)
			return false;
	return true;
}

/* Collect the numbers from 3 up without close-on-exec. Returns how many, or -errno.
 *
 * From /proc/PID/fdinfo, not /proc/PID/fd: when the process has made itself non-dumpable (ssh-agent, gpg-agent) both
 * belong to root, but anybody may open fdinfo who may read the process, and that is who owns its user namespace
 * (since Linux 5.14). */
static int find_leaving(struct target *target)
{
	static char buffer[32768] __attribute__((aligned(8)));
	int fds = (int)sys4(__NR_openat, target->directory, addr("fdinfo"), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	int count = 0;
	long size;

	if (fds < 0)
		return fds;
	while ((size = sys3(__NR_getdents64, fds, addr(buffer), sizeof buffer)) > 0) {
		for (long at = 0; at < size;) {
			struct linux_dirent64 *entry = (struct linux_dirent64 *)(void *)(buffer + at);
			long number = text_number(entry->name);
			int flags;

			at += entry->size;
			if (number < FIRST_NUMBER)
				continue;
			flags = number < TABLE_MAX ? target_flags(fds, entry->name) : -EMFILE;
			if (flags == -ENOENT) /* closed since, by another thread */
				continue;
			if (flags < 0) {
				sys_close(fds);
				__builtin_memset(leaving, 0, sizeof leaving);
				return flags;
			}
			if (flags & O_CLOEXEC)
				continue;
			leaving[number / 32] |= 1u << (number % 32);
			count++;
		}
	}
	sys_close(fds);
	return size < 0 ? (int)size : count;
}

static size_t to_page_end(uint64_t from, size_t most)
{
	size_t room = PAGE - (from & (PAGE - 1));

	return room < most ? room : most;
}

/* Read a text of which `have` bytes are in `page` already. Post: `page` is NUL-terminated. */
static void read_on(int pid, uint64_t from, size_t have)
{
	while (have < LONG_TEXT) {
		long size = target_read(pid, from + have, page + have, to_page_end(from + have, LONG_TEXT - have));

		if (size <= 0)
			break;
		for (long at = 0; at < size; at++)
			if (!page[have + (size_t)at])
				return;
		have += (size_t)size;
	}
	page[have] = '\0';
}

/* What one exec names, as it is read. */
struct reading {
	const struct plan *plan;
	struct names names;
	struct names_context context;
	size_t budget; /* bytes that may still be looked at */
};

typedef void visit_text(struct reading *reading, const char *text);

/* Visit each text of an argv or envp array in the target's memory. What cannot be read names nothing: the memory is
 * the program's own, it may change under us, and a descriptor that is not named is closed. */
static void visit_array(struct target *target, uint64_t array, visit_text *visit, struct reading *reading)
{
	static char texts[BATCH][TEXT_CHUNK + 1];

	for (uint32_t done = 0; array && done < MAX_TEXTS; done += BATCH) {
		uint64_t pointers[BATCH];
		struct iovec local[BATCH], remote[BATCH];
		uint64_t from = array + (uint64_t)done * sizeof pointers[0];
		size_t room = to_page_end(from, sizeof pointers), count = 0, complete = 0;
		long size = target_read(target->pid, from, pointers, room);

		if (size == (long)room && room < sizeof pointers) { /* the array goes on in the next page */
			long rest = target_read(target->pid, from + room, (char *)pointers + room, sizeof pointers - room);

			size += rest > 0 ? rest : 0;
		}
		while (size > 0 && count < (size_t)size / sizeof pointers[0] && pointers[count]) {
			size_t length = to_page_end(pointers[count], TEXT_CHUNK);

			local[count] = (struct iovec){texts[count], length};
			remote[count] = (struct iovec){(void *)(uintptr_t)pointers[count], length};
			texts[count][length] = '\0';
			count++;
		}
		size = count ? sys6(__NR_process_vm_readv, target->pid, addr(local), (long)count, addr(remote), (long)count, 0) : 0;
		for (size_t i = 0; i < count; i++) {
			complete += local[i].iov_len;
			if (size < (long)complete)
				return; /* unmapped: the exec itself will fail with EFAULT, or it changes as we look */
			const char *text = texts[i];

			if (text_length(text) >= local[i].iov_len) {
				__builtin_memcpy(page, text, local[i].iov_len);
				read_on(target->pid, pointers[i], local[i].iov_len);
				text = page;
			}
			if (text_length(text) >= reading->budget)
				return;
			reading->budget -= text_length(text) + 1;
			visit(reading, text);
		}
		if (count < BATCH)
			return;
	}
}

static void visit_variable(struct reading *reading, const char *text)
{
	names_from_variable(&reading->names, reading->plan, text);
}

static void visit_argument(struct reading *reading, const char *text)
{
	names_from_argument(&reading->names, reading->plan, &reading->context, text);
	names_remember(reading->context.previous, text);
}

/* Visit texts that follow each other, each ended by NUL, the last one perhaps by the end. Needs room for one NUL. */
static void visit_joined(char *texts, size_t size, visit_text *visit, struct reading *reading)
{
	texts[size] = '\0';
	for (size_t at = 0; at < size; at += text_length(texts + at) + 1)
		visit(reading, texts + at);
}

static void visit_caller_argument(struct reading *reading, const char *text)
{
	names_from_caller_argument(&reading->names, reading->plan, &reading->context, text);
}

/* What the process that executes was itself told: its arguments, as /proc/PID/cmdline has them (proc_pid_cmdline(5)).
 * It can rewrite them, and thereby name what it has open, as by any argument that it passes. The kernel reads no pages
 * of files there (CVE-2018-1120), so that no file system of the program's can keep us waiting. */
static void visit_caller(struct target *target, struct reading *reading)
{
	static char texts[CALLER_TEXTS + 1];
	size_t have = 0;
	long size = sys4(__NR_readlinkat, target->directory, addr("exe"), addr(page), LONG_TEXT);
	int fd;

	page[size > 0 ? size : 0] = '\0';
	if (!names_ask_caller(reading->plan, &reading->context, page))
		return;
	fd = (int)sys4(__NR_openat, target->directory, addr("cmdline"), O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return;
	while (have < CALLER_TEXTS && (size = sys_read(fd, texts + have, CALLER_TEXTS - have)) > 0)
		have += (size_t)size;
	sys_close(fd);
	while (size != 0 && have > 0 && texts[have - 1]) /* cut in a text: half a number would be another one */
		have--;
	visit_joined(texts, have, visit_caller_argument, reading);
}

/* An exec that will fail on its path is answered at once: a PATH search must not cost a sweep each, and a swept
 * descriptor loses its process's record locks. The answer is ours, not the kernel's: were it let go on, a file that
 * appears meanwhile would be executed unswept. Returns -ENOENT or the like, or 0 when it may succeed. */
static int missing(struct target *target, const char *path)
{
	struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};
	struct stat status;
	int root, found, failed = 0;

	/* Relative paths, and /proc/self and the links to it, would mean something else for us. */
	if (path[0] != '/' || text_starts(path, "/proc/") || text_starts(path, "/dev/"))
		return 0;
	root = (int)sys4(__NR_openat, target->directory, addr("root"), O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	if (root < 0)
		return root;
	found = (int)sys4(__NR_openat2, root, addr(path + 1), addr(&how), sizeof how);
	sys_close(root);
	if (found < 0)
		return found == -ENOENT || found == -ENOTDIR ? found : 0;
	if (sys2(__NR_fstat, found, addr(&status)) == 0 && !(S_ISREG(status.st_mode) && status.st_mode & 0111))
		failed = -EACCES; /* not a file, or executable for nobody: the kernel's own answer to anyone */
	sys_close(found);
	return failed;
}

/* Put the same open file back under the same number, marked close-on-exec. */
static int mark(struct gate *gate, struct target *target, uint32_t number)
{
	struct seccomp_notif_addfd request = {
		.id = target->request->id, .flags = SECCOMP_ADDFD_FLAG_SETFD, .newfd = number, .newfd_flags = O_CLOEXEC};
	int pidfd = target_pidfd(target), failed;
	int fd = pidfd < 0 ? pidfd : (int)sys3(__NR_pidfd_getfd, pidfd, number, 0);

	if (fd == -EBADF && pidfd >= 0) /* closed since, by another thread */
		return 0;
	if (fd < 0)
		return fd;
	request.srcfd = (uint32_t)fd;
	failed = (int)sys3(__NR_ioctl, gate->listener, SECCOMP_IOCTL_NOTIF_ADDFD, addr(&request));
	sys_close(fd);
	if (failed == -EBADF) /* the number lies above the process's limit, lowered since */
		return -EMFILE;
	return failed < 0 ? failed : 0;
}

/* The grant that may pass under that number, while the number still is that grant (DESIGN I3): kcmp(2) compares open
 * file descriptions, so that a number which was closed and filled with something else no longer counts. */
static const struct op *propagated(struct gate *gate, struct target *target, uint32_t number)
{
	for (uint32_t i = 0; i < gate->held_count; i++) {
		const struct held *held = &gate->held[i];

		if (held->place->b == number &&
		    sys5(__NR_kcmp, gate->own_pid, target->pid, KCMP_FILE, held->fd, number) == 0)
			return held->place;
	}
	return NULL;
}

/* What a number refers to, as text; "" if that cannot be told. */
static void read_object(struct target *target, uint32_t number, char *text, long size)
{
	char path[NUMBERED_PATH];
	int fd;

	text_numbered_path(path, "fd/", number);
	if (sys4(__NR_readlinkat, target->directory, addr(path), addr(text), size) != -EACCES)
		return;
	/* Its folder is closed to us, see find_leaving; a copy of ours is not. */
	fd = target_pidfd(target) < 0 ? -EPERM : (int)sys3(__NR_pidfd_getfd, target->pidfd, number, 0);
	if (fd < 0)
		return;
	text_numbered_path(path, "/proc/self/fd/", fd);
	sys4(__NR_readlinkat, AT_FDCWD, addr(path), addr(text), size);
	sys_close(fd);
}

/* A grant that has a mount of its own has no path in any view; its op knows what it is. */
static void name_grant(const struct plan *plan, uint32_t number, char *text, size_t size)
{
	for_ops(plan, place, OP_PLACE) if (place->b == number)
	{
		for (const struct op *op = plan->ops; op < place; op++) {
			bool opened = op->code == OP_FILE || op->code == OP_DIRECTORY;
			const char *name = opened ? op_text(plan, op) : plan->data + op->label;
			size_t length = text_length(name);

			if ((!opened && op->code != OP_INHERIT) || op->a != place->a)
				continue;
			length = length < size ? length : size - 1;
			__builtin_memcpy(text, name, length);
			text[length] = '\0';
		}
	}
}

static void report_descriptor(struct target *target, uint32_t number, const struct op *passed)
{
	struct event event = {.type = EVENT_DESCRIPTOR, .pid = target->pid, .detail = (int32_t)number};

	event.code = passed ? VERDICT_PASSED : VERDICT_CLOSED;
	event.op = passed ? op_index(passed) : -1;
	read_object(target, number, event.text, sizeof event.text - 1);
	if (text_equal(event.text, "/"))
		name_grant(reporter.plan, number, event.text, sizeof event.text);
	report_event(&event);
}

static void report_exec(struct target *target, const char *path, int failed)
{
	struct event event = {.type = EVENT_EXEC, .pid = target->pid, .op = -1, .error = -failed};
	size_t length = text_length(path);

	__builtin_memcpy(event.text, path, length < sizeof event.text ? length : sizeof event.text - 1);
	sys4(__NR_readlinkat, target->directory, addr("exe"), addr(event.from), sizeof event.from - 1);
	report_event(&event);
}

/* Decide for one number that would go along. */
static int decide(struct gate *gate, struct target *target, const struct names *names, uint32_t number)
{
	int rule = names_rule(names, number);
	const struct op *passed = rule >= 0 ? gate->plan->ops + rule : propagated(gate, target, number);

	if (report_wants_execs())
		report_descriptor(target, number, passed);
	return passed || gate->observe ? 0 : mark(gate, target, number);
}

static void read_names(struct gate *gate, struct target *target, struct reading *reading, bool at)
{
	const __u64 *args = target->request->data.args;

	names_from_program(&reading->names, gate->plan, &reading->context, page);
	visit_array(target, args[at + 1], visit_argument, reading);
	visit_array(target, args[at + 2], visit_variable, reading);
	if (gate->asks_callers)
		visit_caller(target, reading);
}

int gate_sweep(struct gate *gate, struct target *target)
{
	static struct reading reading;
	bool at = target->request->data.nr == __NR_execveat;
	int failed = target_open(target);
	int count = failed;

	if (!failed && !has_streams_only(gate, target))
		count = find_leaving(target);
	if (count < 0 || (count == 0 && !report_wants_execs()))
		return count;
	page[0] = '\0';
	read_on(target->pid, target->request->data.args[at], 0);
	failed = missing(target, page);
	if (report_wants_execs())
		report_exec(target, page, failed);
	if (!failed && count > 0) {
		__builtin_memset(&reading, 0, sizeof reading);
		reading.plan = gate->plan;
		reading.budget = ALL_TEXTS;
		read_names(gate, target, &reading, at);
	}
	for (uint32_t word = 0; count > 0 && word < TABLE_MAX / 32; word++) {
		for (; leaving[word]; leaving[word] &= leaving[word] - 1, count--) {
			uint32_t number = word * 32 + (uint32_t)__builtin_ctz(leaving[word]);

			if (!failed)
				failed = decide(gate, target, &reading.names, number);
		}
	}
	return failed;
}
