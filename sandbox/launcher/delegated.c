/* delegated.c: looks for a cgroup of the caller's own in which one can be made. Documentation/admin-guide/cgroup-v2.rst,
 * "Delegation"; systemd marks the folders that it delegates. cgroups.py does the same for `sandbox run`. */
#include "delegated.h"

#include "report.h"
#include "sys.h"
#include "text.h"

#include <linux/mman.h>

enum { TEXT_ROOM = 1 << 20, WRITABLE = 2 /* W_OK */ };

static const char *const controllers[] = {"memory", "pids", "cpu"};

/* The whole file, in memory that is reserved; "" where it cannot be read. */
static const char *text_of(const char *path, char *room)
{
	int fd = sys_open(path, O_RDONLY | O_CLOEXEC, 0);
	size_t used = 0;
	long size;

	while (fd >= 0 && (size = sys_read(fd, room + used, TEXT_ROOM - 1 - used)) > 0)
		used += (size_t)size;
	if (fd >= 0)
		sys_close(fd);
	room[used] = '\0';
	return room;
}

static const char *next_line(const char *line)
{
	long end = text_find(line, '\n');

	return end < 0 ? line + text_length(line) : line + end + 1;
}

static bool holds_word(const char *words, const char *wanted)
{
	size_t length = text_length(wanted);

	for (; *words; words++) {
		if (text_same(words, wanted, length) && (words[length] <= ' '))
			return true;
		while (words[1] && *words > ' ')
			words++;
	}
	return false;
}

static bool starts_below(const char *path, const char *folder)
{
	size_t length = text_length(folder);

	if (length == 1)
		return true;
	return text_starts(path, folder) && (path[length] == '/' || path[length] == '\0');
}

/* A word of mountinfo, up to a blank, in which \040 is one. */
static const char *unescaped(char *to, const char *from)
{
	size_t used = 0;

	for (; *from > ' ' && used < DELEGATED_PATH - 1; from++)
		if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] && from[3]) {
			to[used++] = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
			from += 3;
		} else {
			to[used++] = *from;
		}
	to[used] = '\0';
	return *from == ' ' ? from + 1 : from;
}

static const char *skip_words(const char *text, int count)
{
	for (; count > 0 && *text && *text != '\n'; text++)
		count -= *text == ' ';
	return text;
}

/* "36 35 98:0 /root /point options tag - cgroup2 ...": its root and its point, if it is of version 2. */
static bool is_hierarchy(const char *line, char *root, char *point)
{
	const char *after = line;

	while (*after && *after != '\n' && !text_starts(after, " - "))
		after++;
	if (!text_starts(after, " - cgroup2 "))
		return false;
	unescaped(point, unescaped(root, skip_words(line, 3)));
	return true;
}

static void join(char *path, const char *folder, const char *rest)
{
	size_t length = text_length(folder), more = text_length(rest);

	if (length + more + 1 > DELEGATED_PATH) {
		*path = '\0'; /* no path of the kernel's is so long */
		return;
	}
	__builtin_memcpy(path, folder, length); /* no two of them overlap */
	__builtin_memcpy(path + length, rest, more + 1);
}

/* The mount of version 2, and the folder of this process in it. */
static bool own_folder(char *room, char *mount, char *own)
{
	static char inside[DELEGATED_PATH], root[DELEGATED_PATH];
	const char *line = text_of("/proc/self/cgroup", room);
	size_t length;
	bool found = false;

	for (; *line && !found; line = next_line(line))
		if ((found = text_starts(line, "0::/"))) {
			long end = text_find(line, '\n');

			length = (end < 0 ? text_length(line) : (size_t)end) - 3;
			if (length >= sizeof inside)
				return false;
			__builtin_memcpy(inside, line + 3, length);
			inside[length] = '\0';
		}
	for (line = found ? text_of("/proc/self/mountinfo", room) : ""; *line; line = next_line(line)) {
		if (!is_hierarchy(line, root, mount) || !starts_below(inside, root))
			continue;
		length = root[1] ? text_length(root) : 0;
		join(own, mount, inside[length] == '/' && !inside[length + 1] ? "" : inside + length);
		return *own;
	}
	return false;
}

static bool is_marked(const char *folder)
{
	static const char *const marks[] = {"user.delegate", "trusted.delegate"};
	char value[2];

	for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
		if (sys4(__NR_getxattr, addr(folder), addr(marks[i]), addr(value), sizeof value) == 1 && value[0] == '1')
			return true;
	return false;
}

static bool may_write(const char *folder, const char *name)
{
	static char path[DELEGATED_PATH];

	join(path, folder, name);
	return *path && sys3(__NR_faccessat, AT_FDCWD, addr(path), WRITABLE) == 0;
}

static const char *file_of(const char *folder, const char *name, char *room)
{
	static char path[DELEGATED_PATH];

	join(path, folder, name);
	return text_of(path, room);
}

/* Whether nobody but us is in the folder: then we can move on, and it pass controllers on. */
static bool is_alone(const char *folder, int pid, char *room)
{
	const char *line = file_of(folder, "/cgroup.procs", room);

	for (; *line; line = next_line(line)) {
		long number = 0;

		for (const char *digit = line; *digit >= '0' && *digit <= '9'; digit++)
			number = number * 10 + (*digit - '0');
		if (number != pid)
			return false;
	}
	return true;
}

/* Only the hierarchy's root has no type, and only it may hold processes and pass controllers on. */
static bool is_top(const char *folder)
{
	static char path[DELEGATED_PATH];

	join(path, folder, "/cgroup.type");
	return sys3(__NR_faccessat, AT_FDCWD, addr(path), 0) < 0;
}

static bool take(struct delegated *found, const char *folder, int pid, char *room)
{
	bool enabling, any = false;
	const char *words;

	if (!may_write(folder, "/.") || !may_write(folder, "/cgroup.procs") || !may_write(folder, "/cgroup.subtree_control"))
		return false;
	enabling = is_alone(folder, pid, room) || is_top(folder);
	words = file_of(folder, enabling ? "/cgroup.controllers" : "/cgroup.subtree_control", room);
	for (size_t i = 0; i < sizeof controllers / sizeof controllers[0]; i++)
		any = any || holds_word(words, controllers[i]);
	if (!any || text_length(words) >= sizeof found->controllers)
		return false;
	__builtin_memcpy(found->controllers, words, text_length(words) + 1);
	join(found->path, folder, "");
	return true;
}

void delegated_find(struct delegated *found, int pid)
{
	static char mount[DELEGATED_PATH], folder[DELEGATED_PATH];
	long mapped = sys6(__NR_mmap, 0, TEXT_ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *room = (char *)mapped;

	found->path[0] = '\0';
	if (mapped < 0 && mapped >= -SYS_MAX_ERRNO)
		fail_step(STEP_PLAN, (int)-mapped, 0);
	found->swap = sys3(__NR_faccessat, AT_FDCWD, addr("/proc/swaps"), 0) == 0;
	if (own_folder(room, mount, folder) && !take(found, folder, pid, room))
		while (text_length(folder) > text_length(mount)) {
			size_t end = text_length(folder);

			while (folder[end - 1] != '/')
				end--;
			folder[end - 1] = '\0';
			if (is_marked(folder) && take(found, folder, pid, room))
				break;
		}
	sys2(__NR_munmap, mapped, TEXT_ROOM);
}

bool delegated_has(const struct delegated *found, const char *file)
{
	char name[16];
	size_t length = 0;

	for (; file[length] && file[length] != '.' && length < sizeof name - 1; length++)
		name[length] = file[length];
	name[length] = '\0';
	return found->path[0] && holds_word(found->controllers, name);
}
