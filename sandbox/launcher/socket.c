/* socket.c: sockets that listen, and connected ones: made before the walls stand, so that they are the caller's network's.
 *
 * Sources: socket(7), tcp(7), ipv6(7), unix(7). */
#include "socket.h"

#include "fd.h"
#include "report.h"
#include "sys.h"

#include <linux/stat.h>
#include <linux/time.h>
#include <linux/time_types.h>

enum { OPTION_REUSE_ADDRESS = 2, OPTION_REUSE_PORT = 15, OPTION_SEND_LIMIT = 21 }; /* asm-generic/socket.h */
enum { LEVEL_IPV6 = 41, OPTION_IPV6_ONLY = 26 };				     /* linux/in6.h */

/* The files that this launcher has made, to remove them; each held by an O_PATH descriptor, so that no other file can
 * get its inode number meanwhile. */
static struct {
	const char *path;
	int fd;
} files[MAX_SLOTS];
static int file_count;

static int parked(const struct plan *plan, const struct op *op, int fd)
{
	int away = (int)must(op, fd_park(plan, fd));

	sys_close(fd);
	return away;
}

static int new_socket(const struct op *op, unsigned family, int type)
{
	return (int)must(op, sys3(__NR_socket, family, type | O_CLOEXEC, 0));
}

static void set_option(const struct op *op, int fd, int level, int option, int value)
{
	must(op, sys5(__NR_setsockopt, fd, level, option, addr(&value), sizeof value));
}

/* Look at what is at a path, without following a link; returns an O_PATH descriptor or -errno. */
static int look(const char *path, struct stat *status)
{
	int fd = sys_open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
	int failed = fd < 0 ? fd : (int)sys2(__NR_fstat, fd, addr(status));

	if (failed < 0 && fd >= 0)
		sys_close(fd);
	return failed < 0 ? failed : fd;
}

/* Remove the file if it still is the one that `status` tells of. Between the look and the removal whoever may write to the
 * folder can put another one there, and then loses that: the kernel has no call that removes a file by its descriptor. */
static int remove_if_same(const char *path, const struct stat *status)
{
	struct stat now;
	int fd = look(path, &now);

	if (fd < 0)
		return fd;
	sys_close(fd);
	return fd_same_file(status, &now) ? (int)sys3(__NR_unlinkat, AT_FDCWD, addr(path), 0) : -EADDRINUSE;
}

/* The path is taken. It becomes free only where a socket is left over whose owner is gone: nobody listens (ECONNREFUSED).
 * Any other answer, and any other kind of file, is somebody's. */
static void remove_stale(const struct op *op, const char *address, uint32_t size)
{
	const char *path = address + FAMILY_SIZE;
	struct stat status;
	int found = look(path, &status), probe, answer;

	if (found == -ENOENT) /* gone since; bind() is asked again */
		return;
	must(op, found);
	if ((status.st_mode & S_IFMT) != S_IFSOCK)
		fail(op_index(op), ENOTSOCK, 0);
	probe = new_socket(op, FAMILY_UNIX, SOCKET_STREAM | O_NONBLOCK);
	answer = (int)sys3(__NR_connect, probe, addr(address), size);
	sys_close(probe);
	if (answer != -ECONNREFUSED)
		fail(op_index(op), EADDRINUSE, 0);
	answer = remove_if_same(path, &status);
	sys_close(found);
	if (answer != -ENOENT)
		must(op, answer);
}

/* Bind with just these mode bits from the start: nobody can connect before listen(), but the file is there. */
static int bind_file(const struct op *op, int fd, const char *address)
{
	long before = 0, result;

	if (op->flags & LISTEN_MODE)
		before = must(op, sys1(__NR_umask, 0777 & ~op->b));
	result = sys3(__NR_bind, fd, addr(address), op->data_size);
	if (op->flags & LISTEN_MODE)
		must(op, sys1(__NR_umask, before));
	return (int)result;
}

/* The file belongs to whom SOCKET_OWNER says, and is remembered. What is found at the path must be a socket of ours: in a
 * folder that others write to, it may have been replaced, and then it is not given away. */
static void own_file(const struct plan *plan, const struct op *op, const char *path)
{
	struct stat status;
	int fd = (int)must(op, look(path, &status));

	if ((status.st_mode & S_IFMT) != S_IFSOCK || status.st_uid != (unsigned)sys0(__NR_geteuid))
		fail(op_index(op), ENOTSOCK, 0);
	files[file_count].path = path;
	files[file_count++].fd = parked(plan, op, fd);
	for_ops(plan, owner, OP_SOCKET_OWNER) if (owner->a == op->a)
		must(owner, sys5(__NR_fchownat, files[file_count - 1].fd, addr(""), owner->b, owner->c, AT_EMPTY_PATH));
}

static void bind_unix(const struct plan *plan, const struct op *op, int fd, const char *address)
{
	bool is_file = address[FAMILY_SIZE] != '\0';
	int result = bind_file(op, fd, address);

	if (is_file && result == -EADDRINUSE) {
		remove_stale(op, address, op->data_size);
		result = bind_file(op, fd, address);
	}
	must(op, result);
	if (is_file)
		own_file(plan, op, address + FAMILY_SIZE);
}

int socket_listen(const struct plan *plan, const struct op *op)
{
	const char *address = op_text(plan, op);
	unsigned family = address_family(address);
	bool datagram = op->flags & LISTEN_DATAGRAM;
	int fd = new_socket(op, family, datagram ? SOCKET_DATAGRAM : SOCKET_STREAM);

	if (family == FAMILY_UNIX) {
		bind_unix(plan, op, fd, address);
	} else {
		/* Connections of an earlier run that the kernel still winds up keep no port. With datagrams the same option
		 * would share the port with whoever asks for that. */
		if (!datagram)
			set_option(op, fd, SYS_SOL_SOCKET, OPTION_REUSE_ADDRESS, 1);
		if (op->flags & LISTEN_REUSE_PORT)
			set_option(op, fd, SYS_SOL_SOCKET, OPTION_REUSE_PORT, 1);
		/* Said either way: the default is a setting of the host's. */
		if (family == FAMILY_INET6)
			set_option(op, fd, LEVEL_IPV6, OPTION_IPV6_ONLY, (op->flags & LISTEN_IPV6_ONLY) != 0);
		must(op, sys3(__NR_bind, fd, addr(address), op->data_size));
	}
	if (!datagram)
		must(op, sys2(__NR_listen, fd, op->c));
	return parked(plan, op, fd);
}

static int64_t milliseconds_now(const struct op *op)
{
	struct __kernel_timespec now;

	must(op, sys2(__NR_clock_gettime, CLOCK_MONOTONIC, addr(&now)));
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void limit_sending(const struct op *op, int fd, int64_t milliseconds)
{
	const struct __kernel_old_timeval limit = {
		.tv_sec = milliseconds / 1000, .tv_usec = milliseconds % 1000 * 1000};

	must(op, sys5(__NR_setsockopt, fd, SYS_SOL_SOCKET, OPTION_SEND_LIMIT, addr(&limit), sizeof limit));
}

/* Within the time that is left: connect(2) obeys the limit for sending, socket(7), and says EINPROGRESS or, of a Unix
 * socket with no place in its queue, EAGAIN. */
static int connect_within(const struct op *op, int fd, const char *address, uint32_t size, int64_t end)
{
	int64_t left = end - milliseconds_now(op);
	int result;

	if (op->b == SOCKET_STREAM) {
		if (left <= 0)
			return -ETIMEDOUT;
		limit_sending(op, fd, left);
	}
	result = (int)sys3(__NR_connect, fd, addr(address), size);
	if (result == -EINPROGRESS || result == -EAGAIN)
		return -ETIMEDOUT;
	if (op->b == SOCKET_STREAM && result == 0)
		limit_sending(op, fd, 0);
	return result;
}

/* A Unix socket that has a name can be bound to no other. So nobody can take one of the host's names by it; and who
 * receives its datagrams can answer. unix(7), "Autobind feature" */
static void bind_to_any_name(const struct op *op, int fd)
{
	const uint16_t family = FAMILY_UNIX;

	must(op, sys3(__NR_bind, fd, addr(&family), sizeof family));
}

int socket_connect(const struct plan *plan, const struct op *op)
{
	const char *address = op_text(plan, op);
	uint32_t left = op->data_size;
	int64_t end = milliseconds_now(op) + op->c;
	int result = -EINVAL;

	while (left > 0) {
		unsigned family = address_family(address);
		uint32_t size = address_size(address, left);
		int fd = new_socket(op, family, (int)op->b);

		if (family == FAMILY_UNIX)
			bind_to_any_name(op, fd);
		result = connect_within(op, fd, address, size, end);
		if (result == 0)
			return parked(plan, op, fd);
		sys_close(fd);
		address += size;
		left -= size;
	}
	fail(op_index(op), -result, 0);
}

void socket_end(void)
{
	while (file_count > 0) {
		struct stat status;

		file_count--;
		if (sys2(__NR_fstat, files[file_count].fd, addr(&status)) == 0)
			remove_if_same(files[file_count].path, &status);
		sys_close(files[file_count].fd);
	}
}
