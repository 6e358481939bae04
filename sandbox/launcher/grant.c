/* grant.c: obtaining what a grant declares: a caller's descriptor, a file, a secret. */
#include "grant.h"

#include "fd.h"
#include "mount.h"
#include "report.h"
#include "sys.h"
#include "text.h"

#include <linux/magic.h>
#include <linux/memfd.h>
#include <linux/stat.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u /* linux/memfd.h, since 6.3 */
#endif

enum { SECRET_MAX = 1 << 20 };

static int parked(const struct plan *plan, const struct op *op, int fd)
{
	int away = (int)must(op, fd_park(plan, fd));

	sys_close(fd);
	return away;
}

/* A relay goes one way: what is open both ways fits either. */
static bool access_fits(uint16_t wanted, int flags, bool relayed)
{
	if (relayed && (flags & O_ACCMODE) == O_RDWR)
		return wanted != ACCESS_APPEND;
	switch (wanted) {
	case ACCESS_READ: return (flags & O_ACCMODE) == O_RDONLY;
	case ACCESS_WRITE: return (flags & O_ACCMODE) == O_WRONLY && !(flags & O_APPEND);
	case ACCESS_APPEND: return (flags & O_ACCMODE) == O_WRONLY && (flags & O_APPEND);
	case ACCESS_READ_WRITE: return (flags & O_ACCMODE) == O_RDWR;
	default: return true;
	}
}

int grant_inherit(const struct plan *plan, const struct op *op)
{
	int fd = (int)op->b;
	int flags = (int)must(op, sys_fcntl(fd, F_GETFL, 0));

	fd_check_type(op, fd, op->c);
	if (!access_fits(op->flags & ACCESS_BITS, flags, op->flags & OPEN_RELAY))
		fail(op_index(op), REASON_WRONG_ACCESS, flags & (O_ACCMODE | O_APPEND));
	return (int)must(op, fd_park(plan, fd));
}

/* The type that a mode alone tells: fd_type() calls an O_PATH descriptor just that. */
static enum fd_type type_by_mode(unsigned mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG: return FD_FILE;
	case S_IFDIR: return FD_DIRECTORY;
	case S_IFIFO: return FD_PIPE;
	case S_IFSOCK: return FD_SOCKET;
	case S_IFBLK: return FD_BLOCK_DEVICE;
	case S_IFCHR: return FD_CHAR_DEVICE;
	default: return FD_OTHER;
	}
}

/* A link to /proc/self/mem, put there by somebody else, would lead to this very process. */
static void refuse_proc(const struct op *op, int found)
{
	struct statfs fs;

	must(op, sys2(__NR_fstatfs, found, addr(&fs)));
	if (fs.f_type == PROC_SUPER_MAGIC)
		fail(op_index(op), REASON_IN_PROC, 0);
}

static int find(const struct op *op, const char *path, uint32_t types)
{
	int found = (int)must(op, sys_open(path, O_PATH | O_CLOEXEC, 0)), type;
	struct stat status;

	must(op, sys2(__NR_fstat, found, addr(&status)));
	type = type_by_mode(status.st_mode);
	if (!(types & (1u << type)))
		fail(op_index(op), REASON_WRONG_TYPE, type);
	if ((type == FD_FILE || type == FD_DIRECTORY) && !(op->code == OP_FILE && op->flags & OPEN_RAW))
		refuse_proc(op, found);
	return found;
}

/* Open just that object: whatever a path leads to by now is of no concern. Takes the descriptor over. */
static int open_found(const struct op *op, int found, int flags)
{
	char link[NUMBERED_PATH];
	int opened;

	fd_link(link, found);
	opened = (int)must(op, sys_open(link, flags | O_CLOEXEC | O_NOCTTY, 0));
	sys_close(found);
	return opened;
}

/* Find the object without opening it (a fifo would block, a device might act), check what it is, then open it. */
static int open_checked(const struct op *op, const char *path, int flags, uint32_t types)
{
	int opened = open_found(op, find(op, path, types), flags);

	fd_check_type(op, opened, types);
	return opened;
}

/* A mount of the object that no path leads to, and that holds every opening through it: what is not to be written can
 * be written, and be given another mode, owner or time, by no means at all; `..` leads nowhere. Takes `found` over. */
static int detached(const struct op *op, int found, unsigned flags)
{
	int mount = mount_clone(op, found, "", mount_attributes(flags));

	sys_close(found);
	return mount;
}

static unsigned writes(int flags)
{
	return (flags & O_ACCMODE) == O_RDONLY ? 0 : MOUNT_WRITE;
}

int grant_file(const struct plan *plan, const struct op *op)
{
	const char *path = op_text(plan, op);
	int flags = (int)op->b, found = -EEXIST, opened;

	/* O_EXCL: either this call makes the file, or what is there is looked at first. */
	if (flags & O_CREAT)
		found = sys_open(path, flags | O_EXCL | O_CLOEXEC | O_NOCTTY, op->c);
	if (found < 0 && found != -EEXIST)
		fail(op_index(op), -found, 0);
	if (found < 0)
		found = find(op, path, 1u << FD_FILE);
	if (!(op->flags & OPEN_RAW))
		found = detached(op, found, writes(flags));
	opened = open_found(op, found, flags & ~(O_CREAT | O_EXCL));
	fd_check_type(op, opened, 1u << FD_FILE);
	return parked(plan, op, opened);
}

int grant_directory(const struct plan *plan, const struct op *op)
{
	int found = find(op, op_text(plan, op), 1u << FD_DIRECTORY);

	return parked(plan, op, open_found(op, detached(op, found, op->flags), O_RDONLY | O_DIRECTORY));
}

/* By its path, and only if that still leads to the same file: the mount that it was opened through is the caller's, and
 * a user namespace cannot clone that. Offset and append mode are as they were, and from here on not shared. Returns the
 * new descriptor, or why there is none: a reason or -errno. */
int grant_reopen(int fd)
{
	static char path[4096];
	char link[NUMBERED_PATH];
	long size, offset = sys3(__NR_lseek, fd, 0, 1 /* SEEK_CUR */);
	int flags = sys_fcntl(fd, F_GETFL, 0), found, mount, opened;
	struct stat wanted, status;

	fd_link(link, fd);
	size = sys4(__NR_readlinkat, AT_FDCWD, addr(link), addr(path), sizeof path - 1);
	if (size < 0 || flags < 0)
		return size < 0 ? (int)size : flags;
	path[size] = '\0';
	flags &= O_ACCMODE | O_APPEND;
	found = sys_open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
	if (found < 0 || sys2(__NR_fstat, fd, addr(&wanted)) < 0 || sys2(__NR_fstat, found, addr(&status)) < 0 ||
	    !fd_same_file(&status, &wanted)) {
		sys_close(found);
		return REASON_MOVED;
	}
	mount = mount_try_clone(found, "", mount_attributes(writes(flags)));
	sys_close(found);
	if (mount < 0)
		return mount;
	fd_link(link, mount);
	opened = sys_open(link, flags | O_CLOEXEC | O_NOCTTY, 0);
	sys_close(mount);
	if (opened >= 0 && offset != -ESPIPE && (offset < 0 || sys3(__NR_lseek, opened, offset, 0) < 0)) {
		sys_close(opened);
		return REASON_MOVED;
	}
	return opened;
}

int grant_open_anew(const struct plan *plan, const struct op *op, int fd)
{
	int opened = grant_reopen(fd);

	if (opened < 0)
		fail(op_index(op), opened == REASON_MOVED ? REASON_MOVED : -opened, 0);
	sys_close(fd);
	return parked(plan, op, opened);
}

static int new_memory(const struct op *op, const char *name)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd = (int)sys2(__NR_memfd_create, addr(name), flags | MFD_NOEXEC_SEAL);

	/* Before 6.3 the flag is unknown; bytes that could be executed give nothing away, so that is no loss. */
	if (fd == -EINVAL)
		fd = (int)sys2(__NR_memfd_create, addr(name), flags);
	return (int)must(op, fd);
}

static void seal(const struct op *op, int fd, unsigned mode)
{
	must(op, sys2(__NR_fchmod, fd, mode));
	must(op, sys_fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
	must(op, sys3(__NR_lseek, fd, 0, 0));
}

static int sealed_secret(const struct plan *plan, const struct op *op, int fd)
{
	seal(op, fd, 0400);
	return parked(plan, op, fd);
}

/* Copy what the op's path leads to, up to its end; more than `most` bytes are a failure. */
static void copy_into(const struct plan *plan, const struct op *op, int memory, uint32_t types, size_t most, enum reason too_large)
{
	static char buffer[16384];
	int source = open_checked(op, op_text(plan, op), O_RDONLY, types);
	size_t total = 0;
	long size;

	while ((size = must(op, sys_read(source, buffer, sizeof buffer))) > 0) {
		total += (size_t)size;
		if (total > most)
			fail(op_index(op), too_large, 0);
		must(op, sys_write_all(memory, buffer, (size_t)size));
	}
	sys_close(source);
}

int grant_secret_file(const struct plan *plan, const struct op *op)
{
	int secret = new_memory(op, "secret");

	copy_into(plan, op, secret, 1u << FD_FILE | 1u << FD_PIPE | 1u << FD_MEMFD, SECRET_MAX, REASON_TOO_LARGE);
	return sealed_secret(plan, op, secret);
}

/* The value if the variable has that name, else NULL. */
static char *value_of(const char *name, char *variable)
{
	size_t length = text_length(name);

	return text_starts(variable, name) && variable[length] == '=' ? variable + length + 1 : NULL;
}

static const char *variable_value(const char *name, char **environment)
{
	const char *value = NULL;

	for (; !value && *environment; environment++)
		value = value_of(name, *environment);
	return value;
}

int grant_secret_env(const struct plan *plan, const struct op *op, char **environment)
{
	const char *value = variable_value(op_text(plan, op), environment);
	int secret;

	if (!value)
		fail(op_index(op), REASON_NO_VARIABLE, 0);
	if (text_length(value) > SECRET_MAX)
		fail(op_index(op), REASON_TOO_LARGE, 0);
	secret = new_memory(op, "secret");
	must(op, sys_write_all(secret, value, text_length(value)));
	return sealed_secret(plan, op, secret);
}

/* Open for reading only, too: before 6.7 what is sealed cannot be mapped MAP_SHARED by a descriptor that is open for
 * writing. Any user may open it anew; who has the descriptor has it all. */
int grant_data(const struct plan *plan, const struct op *op)
{
	int memory = new_memory(op, "data");

	if (op->flags & DATA_FILE)
		copy_into(plan, op, memory, 1u << FD_FILE | 1u << FD_MEMFD, op->b, REASON_COPY_TOO_LARGE);
	else
		must(op, sys_write_all(memory, op_text(plan, op), op->data_size));
	seal(op, memory, 0444);
	return parked(plan, op, open_found(op, memory, O_RDONLY));
}

/* A file without a name, in a file system that holds nothing else and that no path leads to. A memfd knows no limit
 * but a fixed size: sealed against growing it cannot be appended to. */
int grant_scratch(const struct plan *plan, const struct op *op)
{
	int mount = mount_scratch(op, op->b);
	int file = (int)must(op, sys4(__NR_openat, mount, addr("."), O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600));
	const struct op *identity = plan_find(plan, OP_IDENTITY);

	if (identity) /* or whom root becomes could not open it anew */
		must(op, sys3(__NR_fchown, file, identity->a, identity->b));
	sys_close(mount);
	return parked(plan, op, file);
}

void grant_forget_secrets(const struct plan *plan, char **environment)
{
	/* All of that name: nobody keeps a caller from having a variable twice. */
	for_ops(plan, op, OP_SECRET_ENV) for (char **each = environment; *each; each++)
	{
		volatile char *value = value_of(op_text(plan, op), *each);

		while (value && *value)
			*value++ = 'x';
	}
}
