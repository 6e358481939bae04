/* mount.c: new mounts as descriptors. fsopen(2), open_tree(2), mount_setattr(2), move_mount(2). */
#include "mount.h"

#include "fd.h"
#include "report.h"
#include "sys.h"
#include "text.h"

#include <linux/stat.h>

#define MNT_DETACH 2 /* include/linux/fs.h */

enum {
	KIB_PER_INODE = 4,	/* an empty file takes memory too, and before 6.6 none that the size counts */
	LEAST_INODES = 64,
	TERMINALS_AT_MOST = 256, /* of the 4096 that the host has in all */
};

uint64_t mount_attributes(unsigned flags)
{
	return (uint64_t)MOUNT_PLAIN | (flags & MOUNT_WRITE ? 0 : MOUNT_ATTR_RDONLY) |
	       (flags & MOUNT_EXECUTE ? 0 : MOUNT_ATTR_NOEXEC);
}

static int begin(const struct op *op, const char *type)
{
	return (int)must(op, sys2(__NR_fsopen, addr(type), FSOPEN_CLOEXEC));
}

static void set(const struct op *op, int context, const char *key, const char *value)
{
	must(op, sys5(__NR_fsconfig, context, value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, addr(key), addr(value), 0));
}

static int end(const struct op *op, int context, uint64_t attributes)
{
	int mount;

	must(op, sys5(__NR_fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0));
	mount = (int)must(op, sys3(__NR_fsmount, context, FSMOUNT_CLOEXEC, (long)attributes));
	sys_close(context);
	return mount;
}

static void set_number(const struct op *op, int context, const char *key, uint64_t number, const char *unit)
{
	char text[NUMBERED_PATH];

	text_numbered_path(text, "", (int64_t)number);
	__builtin_memcpy(text + text_length(text), unit, text_length(unit) + 1);
	set(op, context, key, text);
}

static void set_mode(const struct op *op, int context, unsigned mode)
{
	const char octal[] = {
		'0', (char)('0' + (mode >> 9 & 7)), (char)('0' + (mode >> 6 & 7)), (char)('0' + (mode >> 3 & 7)),
		(char)('0' + (mode & 7)), '\0',
	};

	set(op, context, "mode", octal);
}

int mount_tmpfs(const struct op *op, unsigned mode, uint32_t kib, uint64_t attributes)
{
	int context = begin(op, "tmpfs");

	set_mode(op, context, mode);
	if (kib) {
		set_number(op, context, "size", kib, "k");
		set_number(op, context, "nr_inodes", kib / KIB_PER_INODE + LEAST_INODES, "");
	}
	return end(op, context, attributes);
}

int mount_scratch(const struct op *op, uint32_t kib)
{
	int context = begin(op, "tmpfs");

	set_mode(op, context, 0700);
	set_number(op, context, "size", kib, "k");
	set_number(op, context, "nr_inodes", 2, ""); /* the root's and the file's; extended attributes count as more of them */
	return end(op, context, MOUNT_PLAIN | MOUNT_ATTR_NOEXEC);
}

int mount_try_clone(int folder, const char *path, uint64_t attributes)
{
	const unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE;
	const struct mount_attr wanted = {.attr_set = attributes};
	int mount = (int)sys3(__NR_open_tree, folder, addr(path), flags), failed;

	if (mount < 0)
		return mount;
	failed = (int)sys5(__NR_mount_setattr, mount, addr(""), AT_EMPTY_PATH | AT_RECURSIVE, addr(&wanted), sizeof wanted);
	if (failed < 0)
		sys_close(mount);
	return failed < 0 ? failed : mount;
}

int mount_clone(const struct op *op, int folder, const char *path, uint64_t attributes)
{
	return (int)must(op, mount_try_clone(folder, path, attributes));
}

void mount_move(const struct op *op, int mount, int folder, const char *name)
{
	must(op, sys5(__NR_move_mount, mount, addr(""), folder, addr(name), MOVE_MOUNT_F_EMPTY_PATH));
}

void mount_drop(const struct op *op, int mount)
{
	char link[NUMBERED_PATH];

	fd_link(link, mount);
	must(op, sys2(__NR_umount2, addr(link), MNT_DETACH));
	sys_close(mount);
}

/* Overlay layers and the source of a clone must be attached (before 6.15). The view's root is no worse a place than
 * any other: no path leads into what covers it. */
static int attached_tmpfs(const struct op *op, unsigned mode, uint64_t attributes)
{
	int mount = mount_tmpfs(op, mode, mount_size(op), attributes);

	mount_move(op, mount, AT_FDCWD, "/");
	return mount;
}

static int layer(const struct op *op, int context, const char *key, int folder, const char *name, unsigned mode)
{
	char link[NUMBERED_PATH];
	int fd;

	must(op, sys3(__NR_mkdirat, folder, addr(name), mode));
	fd = (int)must(op, sys4(__NR_openat, folder, addr(name), O_PATH | O_DIRECTORY | O_CLOEXEC, 0));
	fd_link(link, fd);
	set(op, context, key, link);
	return fd;
}

/* The kernel looks the layers up when they are set or, before 6.5, when the mount is made: they stay open so long. */
static int copy_folder(const struct op *op, int source, unsigned mode, uint64_t attributes)
{
	int layers = attached_tmpfs(op, 0700, attributes);
	int context = begin(op, "overlay");
	int upper, work, mount;
	char link[NUMBERED_PATH];

	fd_link(link, source);
	set(op, context, "lowerdir", link);
	upper = layer(op, context, "upperdir", layers, "upper", mode);
	work = layer(op, context, "workdir", layers, "work", 0700);
	set(op, context, "userxattr", NULL); /* trusted.* is not for a user namespace */
	mount = end(op, context, attributes);
	sys_close(upper);
	sys_close(work);
	mount_drop(op, layers);
	return mount;
}

static int copy_file(const struct op *op, int source, unsigned mode, uint64_t attributes)
{
	int holder = attached_tmpfs(op, 0700, attributes);
	char link[NUMBERED_PATH];
	int from, to, mount;

	fd_link(link, source);
	from = (int)must(op, sys_open(link, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0));
	to = (int)must(op, sys4(__NR_openat, holder, addr("file"), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
	while (must(op, sys4(__NR_sendfile, to, from, 0, 1 << 30)) > 0)
		;
	sys_close(from);
	sys_close(to);
	mount = mount_clone(op, holder, "file", attributes);
	mount_drop(op, holder);
	return mount;
}

int mount_copy(const struct op *op, int source, unsigned mode, uint64_t attributes)
{
	if (S_ISDIR(mode))
		return copy_folder(op, source, mode & 07777, attributes);
	if (!S_ISREG(mode))
		fail(op_index(op), REASON_WRONG_TYPE, FD_OTHER);
	return copy_file(op, source, mode & 0777, attributes);
}

/* Without MOUNT_WRITE, since with the root user's ID, and no capability at all, /proc/sys could be written. */
int mount_proc(const struct op *op)
{
	int context = begin(op, "proc");

	if (op->flags & MOUNT_PROCESSES)
		set(op, context, "subset", "pid");
	return end(op, context, mount_attributes(op->flags & MOUNT_WRITE));
}

int mount_terminals(const struct op *op)
{
	int context = begin(op, "devpts");

	set(op, context, "ptmxmode", "0666");
	set_number(op, context, "max", TERMINALS_AT_MOST, "");
	return end(op, context, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
}
