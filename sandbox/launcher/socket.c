/* socket.c: sockets that listen, and connected ones: made before the walls stand, so that they are the caller's network's.
 *
 * Sources: socket(7), tcp(7), ipv6(7), unix(7), connect(2), flock(2), rename(2). */
#include "socket.h"

#include "fd.h"
#include "report.h"
#include "sys.h"

#include <linux/fs.h>
#include <linux/poll.h>
#include <linux/stat.h>
#include <linux/time.h>
#include <linux/time_types.h>

enum { OPTION_REUSE_ADDRESS = 2, OPTION_ERROR = 4, OPTION_REUSE_PORT = 15 }; /* asm-generic/socket.h */
enum { LOCK_EXCLUSIVE = 2, LOCK_NO_WAIT = 4 }; /* asm-generic/fcntl.h, LOCK_EX and LOCK_NB */
enum { LOCK_MS = 10000, END_MS = 500, PAUSE_MS = 2 };
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

/* Look at what is there, without following a link; returns an O_PATH descriptor or -errno. */
static int look(int folder, const char *name, struct stat *status)
{
	int fd = (int)sys4(__NR_openat, folder, addr(name), O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
	int failed = fd < 0 ? fd : (int)sys2(__NR_fstat, fd, addr(status));

	if (failed < 0 && fd >= 0)
		sys_close(fd);
	return failed < 0 ? failed : fd;
}

/* op: NULL at the end, where there is no failing any more. */
static int64_t milliseconds_now(const struct op *op)
{
	struct __kernel_timespec now = {0};
	long failed = sys2(__NR_clock_gettime, CLOCK_MONOTONIC, addr(&now));

	if (op)
		must(op, failed);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Wait for a descriptor (-1: for none) until then. A signal that asks us to end does end us, at once: nobody is there yet
 * whom it could be forwarded to. */
static void wait_until(const struct op *op, int fd, int64_t end)
{
	uint64_t asking = report_asking_signals();
	int signals = (int)must(op, sys4(__NR_signalfd4, -1, addr(&asking), sizeof asking, O_CLOEXEC | O_NONBLOCK));
	struct pollfd polled[] = {{.fd = signals, .events = POLLIN}, {.fd = fd, .events = POLLOUT}};
	int64_t left = end - milliseconds_now(op);
	int signal;

	sys3(__NR_poll, addr(polled), 2, left > 0 ? (long)left : 0);
	sys_close(signals);
	signal = report_asked_by();
	if (signal)
		fail(op_index(op), REASON_ASKED_TO_END, signal);
}

/* The folder that a path lies in, and the name there. Returns its descriptor or -errno. */
static int open_folder(const char *path, const char **name)
{
	char folder[UNIX_NAME_MAX + 1] = ".";
	size_t size = 0;

	for (size_t at = 0; path[at]; at++)
		if (path[at] == '/')
			size = at + 1;
	for (size_t at = 0; at < size; at++)
		folder[at] = path[at];
	folder[size ? size : 1] = '\0';
	*name = path + size;
	return sys_open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
}

/* Launchers look, remove and bind one after the other: one that has bound and does not listen yet would be taken for
 * left over by the next. The lock is the folder's own, so that no file of it stays; whoever holds it for other reasons makes
 * us wait, and then fail. Returns 0 or -errno. op: NULL at the end, where no signal matters. */
static int lock_folder(const struct op *op, int folder, int64_t milliseconds)
{
	int64_t end = milliseconds_now(op) + milliseconds, now;
	int result;

	while ((result = (int)sys2(__NR_flock, folder, LOCK_EXCLUSIVE | LOCK_NO_WAIT)) == -EAGAIN) {
		now = milliseconds_now(op);
		if (now >= end)
			break;
		if (op)
			wait_until(op, -1, now + PAUSE_MS);
		else
			sys3(__NR_poll, 0, 0, PAUSE_MS);
	}
	return result;
}

/* Remove the file if it still is the one that `status` tells of. The kernel has no call that removes a file by its descriptor,
 * and between a look and the removal another could be put there. So it is moved away first, and looked at where nobody else
 * will have put anything: another's is put back. Returns 0 or -errno. */
static int remove_if_same(int folder, const char *name, const struct stat *status)
{
	static const char digits[] = "0123456789abcdef";
	char away[] = ".sandbox-0123456789abcdef";
	struct stat now;
	uint64_t random;
	long result = sys3(__NR_getrandom, addr(&random), sizeof random, 0);
	int fd;

	if (result != sizeof random)
		return result < 0 ? (int)result : -EIO;
	for (size_t at = sizeof ".sandbox-" - 1; away[at]; at++, random >>= 4)
		away[at] = digits[random & 15];
	result = sys5(__NR_renameat2, folder, addr(name), folder, addr(away), RENAME_NOREPLACE);
	if (result < 0)
		return (int)result;
	fd = look(folder, away, &now);
	if (fd < 0)
		return fd;
	sys_close(fd);
	if (fd_same_file(status, &now))
		return (int)sys3(__NR_unlinkat, folder, addr(away), 0);
	result = sys5(__NR_renameat2, folder, addr(away), folder, addr(name), RENAME_NOREPLACE);
	return result < 0 ? (int)result : -EADDRINUSE;
}

/* The path is taken. It becomes free only where a socket is left over whose owner is gone: nobody listens (ECONNREFUSED).
 * Any other answer, and any other kind of file, is somebody's. Pre: the folder is locked. */
static void remove_stale(const struct op *op, int folder, const char *name, const char *address)
{
	struct stat status;
	int found = look(folder, name, &status), probe, answer;

	if (found == -ENOENT) /* gone since; bind() is asked again */
		return;
	must(op, found);
	if ((status.st_mode & S_IFMT) != S_IFSOCK)
		fail(op_index(op), ENOTSOCK, 0);
	probe = new_socket(op, FAMILY_UNIX, SOCKET_STREAM | O_NONBLOCK);
	answer = (int)sys3(__NR_connect, probe, addr(address), op->data_size);
	sys_close(probe);
	if (answer != -ECONNREFUSED)
		fail(op_index(op), EADDRINUSE, 0);
	answer = remove_if_same(folder, name, &status);
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
static void own_file(const struct plan *plan, const struct op *op, int folder, const char *name)
{
	struct stat status;
	int fd = (int)must(op, look(folder, name, &status));

	if ((status.st_mode & S_IFMT) != S_IFSOCK || status.st_uid != (unsigned)sys0(__NR_geteuid))
		fail(op_index(op), ENOTSOCK, 0);
	files[file_count].path = op_text(plan, op) + FAMILY_SIZE;
	files[file_count++].fd = parked(plan, op, fd);
	for_ops(plan, owner, OP_SOCKET_OWNER) if (owner->a == op->a)
		must(owner, sys5(__NR_fchownat, files[file_count - 1].fd, addr(""), owner->b, owner->c, AT_EMPTY_PATH));
}

/* Returns the folder's descriptor, which holds the lock until it listens, or -1 where there is no file. */
static int bind_unix(const struct plan *plan, const struct op *op, int fd, const char *address)
{
	const char *name;
	int folder, locked, result;

	if (address[FAMILY_SIZE] == '\0') {
		must(op, bind_file(op, fd, address));
		return -1;
	}
	folder = (int)must(op, open_folder(address + FAMILY_SIZE, &name));
	locked = lock_folder(op, folder, LOCK_MS);
	if (locked == -EAGAIN)
		fail(op_index(op), REASON_LOCKED, 0);
	must(op, locked);
	result = bind_file(op, fd, address);
	if (result == -EADDRINUSE) {
		remove_stale(op, folder, name, address);
		result = bind_file(op, fd, address);
	}
	must(op, result);
	own_file(plan, op, folder, name);
	return folder;
}

int socket_listen(const struct plan *plan, const struct op *op)
{
	const char *address = op_text(plan, op);
	unsigned family = address_family(address);
	bool datagram = op->flags & LISTEN_DATAGRAM;
	int fd = new_socket(op, family, datagram ? SOCKET_DATAGRAM : SOCKET_STREAM), folder = -1;

	if (family == FAMILY_UNIX) {
		folder = bind_unix(plan, op, fd, address);
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
	if (folder >= 0)
		sys_close(folder);
	return parked(plan, op, fd);
}

static int error_of(const struct op *op, int fd)
{
	int error = 0;
	uint32_t size = sizeof error;

	must(op, sys5(__NR_getsockopt, fd, SYS_SOL_SOCKET, OPTION_ERROR, addr(&error), addr(&size)));
	return -error;
}

/* Within the time that is left. Pre: the socket does not block; post: it does. Of a Unix socket with no place in its queue
 * connect(2) says EAGAIN, and nothing tells when there is one. */
static int connect_within(const struct op *op, int fd, const char *address, uint32_t size, int64_t end)
{
	int64_t now;
	int result;

	while ((result = (int)sys3(__NR_connect, fd, addr(address), size)) == -EAGAIN) {
		now = milliseconds_now(op);
		if (now >= end)
			return -ETIMEDOUT;
		wait_until(op, -1, now + PAUSE_MS < end ? now + PAUSE_MS : end);
	}
	if (result == -EINPROGRESS) {
		struct pollfd polled = {.fd = fd, .events = POLLOUT};

		wait_until(op, fd, end);
		result = sys3(__NR_poll, addr(&polled), 1, 0) > 0 ? error_of(op, fd) : -ETIMEDOUT;
	}
	if (result == 0)
		must(op, sys_fcntl(fd, F_SETFL, 0));
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
	int64_t end = milliseconds_now(op) + (op->b == SOCKET_STREAM ? op->c : 0);
	int result = -EINVAL;

	while (left > 0) {
		unsigned family = address_family(address);
		uint32_t size = address_size(address, left);
		int fd = new_socket(op, family, (int)op->b | O_NONBLOCK);

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
		struct stat status, now;
		const char *name;
		int folder, found;

		file_count--;
		folder = open_folder(files[file_count].path, &name);
		if (folder >= 0)
			lock_folder(NULL, folder, END_MS);
		found = folder < 0 ? -1 : look(folder, name, &now);
		if (found >= 0 && sys2(__NR_fstat, files[file_count].fd, addr(&status)) == 0 && fd_same_file(&status, &now))
			remove_if_same(folder, name, &status);
		if (found >= 0)
			sys_close(found);
		if (folder >= 0)
			sys_close(folder);
		sys_close(files[file_count].fd);
	}
}
