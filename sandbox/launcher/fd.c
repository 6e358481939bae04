/* fd.c: descriptors: what they are, moving them out of the way, placing, sweeping and verifying them. */
#include "fd.h"

#include "report.h"
#include "sys.h"
#include "text.h"

#include <linux/magic.h>
#include <linux/memfd.h>
#include <linux/stat.h>

#define NULL_DEVICE_MAJOR 1 /* Documentation/admin-guide/devices.txt: 1 = mem; 3 null, 5 zero, 7 full, 8/9 random */
#define TCGETS_COMMAND 0x5401
#define F_GET_SEALS_COMMAND (1024 + 10)

const char *fd_type_word(enum fd_type type)
{
	static const char *const words[FD_TYPE_COUNT] = {
#define FDTYPE(name, bit, word) [bit] = word,
#include "fdtypes.def"
#undef FDTYPE
	};

	return type < FD_TYPE_COUNT ? words[type] : "?";
}

const char *fd_access_word(int status_flags)
{
	switch (status_flags & O_ACCMODE) {
	case O_RDONLY: return "read";
	case O_WRONLY: return status_flags & O_APPEND ? "append" : "write";
	default: return "read-write";
	}
}

void fd_link(char link[NUMBERED_PATH], int fd)
{
	text_numbered_path(link, "/proc/self/fd/", fd);
}

/* Anonymous inodes, memfds and namespaces have no type of their own in fstat(2); their /proc link names them. */
static int type_by_link(int fd, int otherwise)
{
	static const struct {
		const char *start;
		enum fd_type type;
	} links[] = {
		{"anon_inode:[eventfd", FD_EVENTFD},	   {"anon_inode:[eventpoll", FD_EPOLL},
		{"anon_inode:[timerfd", FD_TIMERFD},	   {"anon_inode:[signalfd", FD_SIGNALFD},
		{"anon_inode:inotify", FD_INOTIFY},	   {"anon_inode:[fanotify", FD_FANOTIFY},
		{"anon_inode:[userfaultfd", FD_USERFAULTFD}, {"anon_inode:[io_uring", FD_IO_URING},
		{"anon_inode:seccomp notify", FD_SECCOMP_LISTENER}, {"anon_inode:bpf", FD_BPF},
		{"anon_inode:[pidfd", FD_PIDFD},	   {"pidfd:", FD_PIDFD},
		{"/memfd:", FD_MEMFD},
	};
	char path[NUMBERED_PATH], link[64];
	long length;

	fd_link(path, fd);
	length = sys4(__NR_readlinkat, AT_FDCWD, addr(path), addr(link), sizeof link - 1);
	if (length < 0)
		return (int)length;
	link[length] = '\0';
	for (size_t i = 0; i < sizeof links / sizeof links[0]; i++)
		if (text_starts(link, links[i].start))
			return links[i].type;
	return otherwise;
}

bool fd_same_file(const struct stat *left, const struct stat *right)
{
	return left->st_dev == right->st_dev && left->st_ino == right->st_ino;
}

static int type_of_regular(int fd)
{
	struct statfs fs;
	int failed = (int)sys2(__NR_fstatfs, fd, addr(&fs));

	if (failed < 0)
		return failed;
	if (fs.f_type == NSFS_MAGIC)
		return FD_NAMESPACE;
	/* Only shmem has seals; only then can the link "/memfd:" be believed. pidfs (6.9) shows regular inodes. */
	if (sys_fcntl(fd, F_GET_SEALS_COMMAND, 0) >= 0 || fs.f_type == 0x50494446 /* PID_FS_MAGIC */)
		return type_by_link(fd, FD_FILE);
	return FD_FILE;
}

static int type_of_device(int fd, uint64_t device)
{
	char settings[64]; /* struct termios is 36 bytes here */
	uint64_t major = (device >> 8) & 0xfff, minor = (device & 0xff) | ((device >> 12) & 0xfff00);

	if (major == NULL_DEVICE_MAJOR)
		return minor == 3 || minor == 5 || minor == 7 || minor == 8 || minor == 9 ? FD_NULL : FD_CHAR_DEVICE;
	return sys3(__NR_ioctl, fd, TCGETS_COMMAND, addr(settings)) < 0 ? FD_CHAR_DEVICE : FD_TTY;
}

/* asm-generic/socket.h; linux/net.h */
enum { OPTION_TYPE = 3, OPTION_ACCEPTS = 30, OPTION_PROTOCOL = 38, OPTION_DOMAIN = 39 };
enum { TYPE_STREAM = 1, TYPE_DATAGRAM = 2, TYPE_SEQPACKET = 5 };

static int option_of(int fd, int option)
{
	int value = 0;
	uint32_t size = sizeof value;
	int failed = (int)sys5(__NR_getsockopt, fd, SYS_SOL_SOCKET, option, addr(&value), addr(&size));

	return failed < 0 ? failed : value;
}

/* What a socket is to its holder: socket(7), SO_DOMAIN, SO_TYPE, SO_PROTOCOL, SO_ACCEPTCONN. Of the internet's only TCP
 * and UDP have types here: what else there is, Landlock's rules on ports do not see. */
static int type_of_socket(int fd)
{
	enum { VSOCK = 40, TCP = 6, UDP = 17 };
	int domain = option_of(fd, OPTION_DOMAIN), type = option_of(fd, OPTION_TYPE);
	int protocol = option_of(fd, OPTION_PROTOCOL), accepts = option_of(fd, OPTION_ACCEPTS);
	bool inet = domain == FAMILY_INET || domain == FAMILY_INET6;
	char peer[128];
	uint32_t size = sizeof peer;

	if (domain < 0 || type < 0 || protocol < 0 || accepts < 0)
		return domain < 0 ? domain : type < 0 ? type : protocol < 0 ? protocol : accepts;
	if (!(inet ? (type == TYPE_STREAM && protocol == TCP) || (type == TYPE_DATAGRAM && protocol == UDP)
		   : domain == FAMILY_UNIX || domain == VSOCK))
		return FD_RAW_SOCKET;
	if (accepts)
		return FD_LISTENER;
	if (sys3(__NR_getpeername, fd, addr(peer), addr(&size)) < 0)
		return FD_SOCKET;
	return type == TYPE_STREAM || type == TYPE_SEQPACKET ? FD_STREAM : type == TYPE_DATAGRAM ? FD_DATAGRAM : FD_RAW_SOCKET;
}

bool fd_is_byte_stream(int socket)
{
	return option_of(socket, OPTION_TYPE) == TYPE_STREAM;
}

int fd_type(int fd)
{
	struct stat status;
	int flags = sys_fcntl(fd, F_GETFL, 0);
	int failed = flags < 0 ? flags : (int)sys2(__NR_fstat, fd, addr(&status));

	if (failed < 0)
		return failed;
	if (flags & O_PATH)
		return FD_PATH;
	switch (status.st_mode & S_IFMT) {
	case S_IFREG: return type_of_regular(fd);
	case S_IFDIR: return FD_DIRECTORY;
	case S_IFIFO: return FD_PIPE;
	case S_IFSOCK: return type_of_socket(fd);
	case S_IFBLK: return FD_BLOCK_DEVICE;
	case S_IFCHR: return type_of_device(fd, status.st_rdev);
	default: return type_by_link(fd, FD_OTHER);
	}
}

/* First of all: a grant or one of our own descriptors must never land on 0, 1 or 2. */
unsigned fd_fill_stdio(void)
{
	unsigned filled = 0;

	for (int fd = 0; fd <= 2; fd++) {
		int opened;

		if (sys_fcntl(fd, F_GETFD, 0) >= 0)
			continue;
		opened = sys_open("/dev/null", O_RDWR, 0);
		if (opened != fd)
			fail_step(STEP_START, opened < 0 ? -opened : REASON_NOT_NULL_DEVICE, 0);
		if (fd_type(fd) != FD_NULL)
			fail_step(STEP_START, REASON_NOT_NULL_DEVICE, 0);
		filled |= 1u << fd;
	}
	return filled;
}

void fd_require(const struct op *op, uint32_t fd, unsigned filled)
{
	if (fd <= 2 && filled & (1u << fd))
		fail(op_index(op), EBADF, 0);
	must(op, sys_fcntl((int)fd, F_GETFD, 0));
}

/* The first number from `from` that no PLACE op wants; PLACE ops come in ascending order. */
static int unwanted(const struct plan *plan, int from)
{
	for_ops(plan, op, OP_PLACE) if ((int)op->b == from) from++;
	return from;
}

int fd_park(const struct plan *plan, int fd)
{
	int from = unwanted(plan, FIRST_NUMBER);

	/* F_DUPFD gives the lowest free number, so it cannot hit a source that is still to be fetched. */
	for (;;) {
		int got = sys_fcntl(fd, F_DUPFD_CLOEXEC, (unsigned long)from);

		if (got < 0 || unwanted(plan, got) == got)
			return got;
		sys_close(got);
		from = unwanted(plan, got);
	}
}

static int close_between(unsigned first, unsigned last)
{
	return first > last ? 0 : (int)sys3(__NR_close_range, first, last, 0);
}

/* The lower of `stop` and a descriptor that stays open, where that is not below `first`. */
static unsigned lower_stop(unsigned first, unsigned stop, unsigned fd)
{
	return fd >= first && fd < stop ? fd : stop;
}

void fd_drop_undeclared(const struct plan *plan)
{
	const struct op *status = plan_find(plan, OP_STATUS), *sweep = plan_find(plan, OP_SWEEP);
	const struct op *joined = plan_find(plan, OP_NETNS);
	unsigned first = FIRST_NUMBER;
	const struct op *next = plan_find(plan, OP_INHERIT);
	const struct op *end = plan->ops + plan->op_count;

	if (!sweep)
		return;
	for (;;) {
		unsigned stop = ~0u; /* the lowest number from `first` on that stays open */

		while (next && next < end && next->code == OP_INHERIT && next->b < first)
			next++;
		if (next && next < end && next->code == OP_INHERIT)
			stop = next->b;
		if (status)
			stop = lower_stop(first, stop, status->a);
		if (joined)
			stop = lower_stop(first, lower_stop(first, stop, joined->a), joined->b);
		must(sweep, close_between(first, stop == ~0u ? ~0u : stop - 1));
		if (stop == ~0u)
			return;
		first = stop + 1;
	}
}

void fd_check_type(const struct op *op, int fd, uint32_t types)
{
	int type = (int)must(op, fd_type(fd));

	if (!(types & (1u << type)))
		fail(op_index(op), REASON_WRONG_TYPE, type);
}

void fd_check_stdio(const struct op *op)
{
	for (int fd = 0; fd <= 2; fd++)
		fd_check_type(op, fd, op->a);
}

void fd_place(const struct op *op, int fd)
{
	must(op, sys3(__NR_dup3, fd, op->b, 0));
}

/* Close all but 0-2, the placed numbers and `keep`, by number and without /proc: close_range(2), Linux 5.9. */
void fd_sweep(const struct plan *plan, const struct op *op, int keep)
{
	unsigned first = FIRST_NUMBER, kept = (unsigned)keep;

	for_ops(plan, place, OP_PLACE)
	{
		if (kept >= first && kept < place->b) {
			must(op, close_between(first, kept - 1));
			first = kept + 1;
		}
		must(op, close_between(first, place->b - 1));
		first = place->b + 1;
	}
	if (kept >= first) {
		must(op, close_between(first, kept - 1));
		first = kept + 1;
	}
	must(op, close_between(first, ~0u));
}

static bool is_placed(const struct plan *plan, int fd)
{
	for_ops(plan, place, OP_PLACE) if ((int)place->b == fd) return true;
	return fd <= 2;
}

/* One descriptor of the table: declared ones survive exec, ours do not, others must not be. */
static void verify_one(const struct plan *plan, const struct op *op, int fd, bool ours)
{
	bool placed = is_placed(plan, fd);
	long flags = must(op, sys_fcntl(fd, F_GETFD, 0));

	if (!placed && !ours)
		fail(op_index(op), REASON_UNEXPECTED_FD, fd);
	if ((flags & FD_CLOEXEC) != (placed ? 0 : FD_CLOEXEC))
		fail(op_index(op), REASON_NOT_CLOSED, fd);
}

/* Reads the whole table back from the kernel and holds it against the plan; the last look before confinement. */
void fd_verify(const struct plan *plan, const struct op *op, int keep)
{
	static char buffer[32768] __attribute__((aligned(8)));
	struct statfs fs;
	int directory = sys_open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	int expected = 3, found = 0;
	long size;

	if (directory < 0 || sys2(__NR_fstatfs, directory, addr(&fs)) < 0 || fs.f_type != PROC_SUPER_MAGIC)
		fail(op_index(op), REASON_NOT_PROC, 0);
	while ((size = must(op, sys3(__NR_getdents64, directory, addr(buffer), sizeof buffer))) > 0) {
		for (long at = 0; at < size;) {
			struct linux_dirent64 *entry = (struct linux_dirent64 *)(void *)(buffer + at);
			int fd = (int)text_number(entry->name);

			at += entry->size;
			if (fd < 0) /* "." and ".." */
				continue;
			verify_one(plan, op, fd, fd == directory || fd == keep);
			found += fd != directory && fd != keep;
		}
	}
	for_ops(plan, place, OP_PLACE)
	{
		expected++;
		if (sys_fcntl((int)place->b, F_GETFD, 0) < 0)
			fail(op_index(op), REASON_MISSING_FD, (int)place->b);
	}
	for (int fd = 0; fd <= 2; fd++)
		if (sys_fcntl(fd, F_GETFD, 0) < 0)
			fail(op_index(op), REASON_MISSING_FD, fd);
	if (found != expected)
		fail(op_index(op), REASON_UNEXPECTED_FD, found);
	sys_close(directory);
}
