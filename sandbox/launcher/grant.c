/* grant.c: obtaining what a grant declares: a caller's descriptor, a file, a secret. */
#include "grant.h"

#include "fd.h"
#include "report.h"
#include "sys.h"
#include "text.h"

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

static bool access_fits(uint16_t wanted, int flags)
{
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
	if (!access_fits(op->flags, flags))
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

/* Find the object without opening it (a fifo would block, a device might act), check what it is, then open just
 * that object through its O_PATH descriptor. Returns the opened descriptor. */
static int open_checked(const struct op *op, const char *path, int flags, uint32_t types)
{
	char link[NUMBERED_PATH];
	int found = (int)must(op, sys_open(path, O_PATH | O_CLOEXEC, 0));
	int opened, type;
	struct stat status;

	must(op, sys2(__NR_fstat, found, addr(&status)));
	type = type_by_mode(status.st_mode);
	if (!(types & (1u << type)))
		fail(op_index(op), REASON_WRONG_TYPE, type);
	fd_link(link, found);
	opened = (int)must(op, sys_open(link, flags | O_CLOEXEC | O_NOCTTY, 0));
	sys_close(found);
	fd_check_type(op, opened, types);
	return opened;
}

int grant_file(const struct plan *plan, const struct op *op)
{
	const char *path = op_text(plan, op);
	int flags = (int)op->b;

	if (flags & O_CREAT) {
		/* O_EXCL: either this call makes the file, or what is there goes the checked way below. */
		int made = sys_open(path, flags | O_EXCL | O_CLOEXEC | O_NOCTTY, op->c);

		if (made >= 0)
			return parked(plan, op, made);
		if (made != -EEXIST)
			fail(op_index(op), -made, 0);
	}
	return parked(plan, op, open_checked(op, path, flags & ~(O_CREAT | O_EXCL), 1u << FD_FILE));
}

static int new_secret(const struct op *op)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd = (int)sys2(__NR_memfd_create, addr("secret"), flags | MFD_NOEXEC_SEAL);

	/* Before 6.3 the flag is unknown; a secret that could be executed gives nothing away, so that is no loss. */
	if (fd == -EINVAL)
		fd = (int)sys2(__NR_memfd_create, addr("secret"), flags);
	return (int)must(op, fd);
}

static int sealed(const struct plan *plan, const struct op *op, int fd)
{
	must(op, sys2(__NR_fchmod, fd, 0400));
	must(op, sys_fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
	must(op, sys3(__NR_lseek, fd, 0, 0));
	return parked(plan, op, fd);
}

int grant_secret_file(const struct plan *plan, const struct op *op)
{
	static char buffer[16384];
	int secret = new_secret(op);
	int source = open_checked(op, op_text(plan, op), O_RDONLY, 1u << FD_FILE | 1u << FD_PIPE | 1u << FD_MEMFD);
	size_t total = 0;
	long size;

	while ((size = must(op, sys_read(source, buffer, sizeof buffer))) > 0) {
		total += (size_t)size;
		if (total > SECRET_MAX)
			fail(op_index(op), REASON_TOO_LARGE, 0);
		must(op, sys_write_all(secret, buffer, (size_t)size));
	}
	sys_close(source);
	return sealed(plan, op, secret);
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
	secret = new_secret(op);
	must(op, sys_write_all(secret, value, text_length(value)));
	return sealed(plan, op, secret);
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
