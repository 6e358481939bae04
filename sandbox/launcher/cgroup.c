/* cgroup.c: the sandbox's own cgroup. Documentation/admin-guide/cgroup-v2.rst. */
#include "cgroup.h"

#include "report.h"
#include "sys.h"
#include "text.h"

#include <linux/magic.h>
#include <linux/poll.h>

#define NAME_START "sandbox-"
/* The launcher's own place: a cgroup that passes controllers on may hold no process itself. Not one of those above. */
#define ASIDE "sandbox.supervisor"

enum { NAMES_TRIED = 26, WAIT_ROUNDS = 50, WAIT_MILLISECONDS = 100 };

static struct {
	int fd, parent; /* fd: -1 when there is none */
	char name[NUMBERED_PATH];
} own = {.fd = -1};

/* What fails after the folder is there must not leave it behind. */
static long require(const struct op *op, long result)
{
	if (result < 0)
		cgroup_end();
	return must(op, result);
}

static long write_file(int folder, const char *file, const char *value)
{
	int fd = (int)sys4(__NR_openat, folder, addr(file), O_WRONLY | O_CLOEXEC, 0);
	long written = fd;

	if (fd >= 0) {
		written = sys_write_all(fd, value, text_length(value));
		sys_close(fd);
	}
	return written;
}

static bool has_file(int folder, const char *file)
{
	return sys3(__NR_faccessat, folder, addr(file), 0) == 0;
}

static int open_folder(int parent, const char *name)
{
	return (int)sys4(__NR_openat, parent, addr(name), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
}

/* The launcher and what it forks hold the lock as long as one of them lives. */
static bool take_lock(int folder)
{
	return sys2(__NR_flock, folder, LOCK_EX | LOCK_NB) == 0;
}

static void remove_if_stale(int parent, const char *name)
{
	int folder = open_folder(parent, name);

	if (folder < 0)
		return;
	if (take_lock(folder))
		sys3(__NR_unlinkat, parent, addr(name), AT_REMOVEDIR); /* fails where a process is left */
	sys_close(folder);
}

/* A launcher that was killed could not remove its own. */
static void remove_stale(int parent)
{
	static char buffer[4096] __attribute__((aligned(8)));
	long size;

	while ((size = sys3(__NR_getdents64, parent, addr(buffer), sizeof buffer)) > 0)
		for (long at = 0; at < size;) {
			const struct linux_dirent64 *entry = (const void *)(buffer + at);

			if (text_starts(entry->name, NAME_START))
				remove_if_stale(parent, entry->name);
			at += entry->size;
		}
}

/* Another launcher may take the new folder for a stale one until it is locked, and remove it. */
static bool try_name(const struct op *op)
{
	long made = sys3(__NR_mkdirat, own.parent, addr(own.name), 0755);
	int folder;

	if (made == -EEXIST)
		return false;
	must(op, made);
	folder = open_folder(own.parent, own.name);
	if (folder < 0)
		return false;
	if (!take_lock(folder) || !has_file(folder, "cgroup.procs")) {
		sys_close(folder);
		return false;
	}
	own.fd = folder;
	return true;
}

static void make_folder(const struct op *op)
{
	size_t end;

	text_numbered_path(own.name, NAME_START, sys0(__NR_getpid));
	end = text_length(own.name);
	for (int i = 0; i < NAMES_TRIED; i++) {
		own.name[end] = (char)('a' + i);
		own.name[end + 1] = '\0';
		if (try_name(op))
			return;
	}
	fail(op_index(op), EEXIST, 0);
}

/* "+memory", of "memory.max" */
static void controller_word(char word[NUMBERED_PATH], const char *file)
{
	size_t length = 0;

	*word++ = '+';
	for (; file[length] && file[length] != '.' && length < NUMBERED_PATH - 2; length++)
		*word++ = file[length];
	*word = '\0';
}

static long step_aside(void)
{
	long result = sys3(__NR_mkdirat, own.parent, addr(ASIDE), 0755);
	int aside = result < 0 && result != -EEXIST ? (int)result : open_folder(own.parent, ASIDE);

	result = aside;
	if (aside >= 0) {
		result = write_file(aside, "cgroup.procs", "0");
		sys_close(aside);
	}
	return result;
}

/* Have the parent pass the file's controller on. */
static void enable(const struct op *op, const char *file)
{
	char word[NUMBERED_PATH];
	long result;

	controller_word(word, file);
	result = write_file(own.parent, "cgroup.subtree_control", word);
	if (result == -EBUSY) {
		require(op, step_aside());
		result = write_file(own.parent, "cgroup.subtree_control", word);
	}
	require(op, result);
}

int cgroup_make(const struct plan *plan)
{
	const struct op *op = plan_find(plan, OP_CGROUP);
	struct statfs status;

	if (!op)
		return -1;
	own.parent = (int)must(op, sys_open(op_text(plan, op), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0));
	must(op, sys2(__NR_fstatfs, own.parent, addr(&status)));
	if (status.f_type != CGROUP2_SUPER_MAGIC)
		fail(op_index(op), EOPNOTSUPP, 0);
	remove_stale(own.parent);
	make_folder(op);
	for_ops(plan, setting, OP_CGROUP_SET) {
		const char *file = op_text(plan, setting);

		if (!has_file(own.fd, file))
			enable(setting, file);
		require(setting, write_file(own.fd, file, file + text_length(file) + 1));
	}
	return own.fd;
}

void cgroup_join(const struct plan *plan)
{
	must(plan_find(plan, OP_CGROUP), write_file(own.fd, "cgroup.procs", "0"));
}

static bool is_populated(int events)
{
	char text[64] = {0};

	sys4(__NR_pread64, events, addr(text), sizeof text - 1, 0);
	return !text_starts(text, "populated 0");
}

/* A process in an uninterruptible call ends late; the next launcher will remove what is left then. */
static void wait_until_empty(void)
{
	struct pollfd polled = {.fd = (int)sys4(__NR_openat, own.fd, addr("cgroup.events"), O_RDONLY | O_CLOEXEC, 0)};

	if (polled.fd < 0)
		return;
	polled.events = POLLPRI;
	for (int i = 0; i < WAIT_ROUNDS && is_populated(polled.fd); i++)
		sys3(__NR_poll, addr(&polled), 1, WAIT_MILLISECONDS);
	sys_close(polled.fd);
}

void cgroup_end(void)
{
	if (own.fd < 0)
		return;
	write_file(own.fd, "cgroup.kill", "1"); /* Linux 5.14; without it the PID namespace's end has to do */
	wait_until_empty();
	sys3(__NR_unlinkat, own.parent, addr(own.name), AT_REMOVEDIR);
	sys_close(own.fd);
	sys_close(own.parent);
	own.fd = -1;
}
