/* unit_fd.c: tests of fd.c's look at descriptors and of its moves, as TAP; the plan is a few ops in memory. */
#define _GNU_SOURCE
#include "fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

static int tests, failures;

static void check(bool holds, const char *what)
{
	failures += !holds;
	printf("%s %d - %s\n", holds ? "ok" : "not ok", ++tests, what);
}

#define CHECK(expression) check((expression), #expression)

/* Say SKIP where the kernel, or its settings, give no such descriptor. */
static void check_type(const char *what, int fd, enum fd_type wanted)
{
	int found = fd < 0 ? -1 : fd_type(fd);

	if (fd < 0) {
		printf("ok %d - %s # SKIP %s\n", ++tests, what, strerror(errno));
		return;
	}
	if (found != (int)wanted)
		printf("# %s: found %d, wanted %d\n", what, found, (int)wanted);
	check(found == (int)wanted, what);
	close(fd);
}

static int end_of(int (*make)(int ends[2]))
{
	int ends[2];

	if (make(ends))
		return -1;
	close(ends[1]);
	return ends[0];
}

static int make_sockets(int ends[2]) { return socketpair(AF_UNIX, SOCK_STREAM, 0, ends); }

static int make_datagrams(int ends[2]) { return socketpair(AF_UNIX, SOCK_DGRAM, 0, ends); }

static int new_listener(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	return listen(fd, 1) ? -1 : fd;
}

static int new_file(int flags)
{
	char path[] = "/tmp/sandbox-unit-fd.XXXXXX";
	int fd = mkstemp(path), again = open(path, flags);

	unlink(path);
	close(fd);
	return again;
}

static int new_ring(void)
{
	struct io_uring_params params = {0};

	return (int)syscall(__NR_io_uring_setup, 1, &params);
}

static void test_types(void)
{
	sigset_t none;
	int terminal = posix_openpt(O_RDWR | O_NOCTTY);

	sigemptyset(&none);
	check_type("file", new_file(O_RDWR), FD_FILE);
	check_type("O_PATH of a file", new_file(O_PATH), FD_PATH);
	check_type("a file of procfs", open("/proc/self/status", O_RDONLY), FD_FILE);
	check_type("pipe", end_of(pipe), FD_PIPE);
	check_type("connection whose other end is gone", end_of(make_sockets), FD_STREAM);
	check_type("datagram socket with a peer", end_of(make_datagrams), FD_DATAGRAM);
	check_type("socket without a peer", socket(AF_INET, SOCK_STREAM, 0), FD_SOCKET);
	check_type("Unix socket without a peer", socket(AF_UNIX, SOCK_SEQPACKET, 0), FD_SOCKET);
	check_type("datagram socket without a peer", socket(AF_INET6, SOCK_DGRAM, 0), FD_SOCKET);
	check_type("listening socket", new_listener(), FD_LISTENER);
	check_type("netlink socket", socket(AF_NETLINK, SOCK_RAW, 0), FD_RAW_SOCKET);
	check_type("MPTCP socket", socket(AF_INET, SOCK_STREAM, 262), FD_RAW_SOCKET);
	check_type("memfd", memfd_create("m", 0), FD_MEMFD);
	check_type("memfd with seals", memfd_create("m", MFD_ALLOW_SEALING), FD_MEMFD);
	check_type("eventfd", eventfd(0, 0), FD_EVENTFD);
	check_type("/dev/null", open("/dev/null", O_RDWR), FD_NULL);
	check_type("/dev/zero", open("/dev/zero", O_RDWR), FD_NULL);
	check_type("/dev/urandom", open("/dev/urandom", O_RDONLY), FD_NULL);
	check_type("/dev/mem and the like are no null device", open("/dev/kmsg", O_RDONLY | O_NONBLOCK), FD_CHAR_DEVICE);
	check_type("terminal", terminal, FD_TTY);
	check_type("directory", open("/", O_RDONLY | O_DIRECTORY), FD_DIRECTORY);
	check_type("O_PATH of a directory", open("/", O_PATH), FD_PATH);
	check_type("namespace", open("/proc/self/ns/mnt", O_RDONLY), FD_NAMESPACE);
	check_type("pidfd", (int)syscall(__NR_pidfd_open, getpid(), 0), FD_PIDFD);
	check_type("epoll", epoll_create1(0), FD_EPOLL);
	check_type("timerfd", timerfd_create(CLOCK_MONOTONIC, 0), FD_TIMERFD);
	check_type("signalfd", signalfd(-1, &none, 0), FD_SIGNALFD);
	check_type("inotify", inotify_init1(0), FD_INOTIFY);
	check_type("fanotify", (int)syscall(__NR_fanotify_init, 0x200 /* FAN_REPORT_FID */, 0), FD_FANOTIFY);
	check_type("userfaultfd", (int)syscall(__NR_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */), FD_USERFAULTFD);
	check_type("io_uring", new_ring(), FD_IO_URING);
	CHECK(fd_type(12345) == -EBADF);
}

static void test_words(void)
{
	char link[NUMBERED_PATH];

	CHECK(!strcmp(fd_type_word(FD_FILE), "file") && !strcmp(fd_type_word(FD_OTHER), "other"));
	CHECK(!strcmp(fd_type_word(FD_TYPE_COUNT), "?"));
	CHECK(!strcmp(fd_access_word(O_RDONLY | O_APPEND), "read") && !strcmp(fd_access_word(O_WRONLY), "write"));
	CHECK(!strcmp(fd_access_word(O_WRONLY | O_APPEND), "append") && !strcmp(fd_access_word(O_RDWR | O_APPEND), "read-write"));
	fd_link(link, 0);
	CHECK(!strcmp(link, "/proc/self/fd/0"));
	fd_link(link, INT32_MAX);
	CHECK(!strcmp(link, "/proc/self/fd/2147483647"));
}

/* Numbers 3, 4, 6 are wanted: whatever is free, a parked copy is on none of them, and close-on-exec. */
static void test_parking(void)
{
	const struct op ops[] = {
		{.code = OP_PLACE, .a = 0, .b = 3}, {.code = OP_PLACE, .a = 1, .b = 4}, {.code = OP_PLACE, .a = 2, .b = 6}};
	const struct plan plan = {.ops = ops, .op_count = 3};
	int null = open("/dev/null", O_RDONLY), first, second;

	dup2(null, 100);
	close_range(3, 99, 0);
	first = fd_park(&plan, 100);
	second = fd_park(&plan, 100);
	CHECK(first == 5 && second == 7);
	CHECK(fcntl(first, F_GETFD) == FD_CLOEXEC && fcntl(second, F_GETFD) == FD_CLOEXEC);
	CHECK(fcntl(3, F_GETFD) < 0 && fcntl(4, F_GETFD) < 0 && fcntl(6, F_GETFD) < 0);
	fd_place(&ops[0], first);
	CHECK(fcntl(3, F_GETFD) == 0);
	close_range(3, ~0u, 0);
	CHECK(fd_park(&plan, 100) == -EBADF);
}

static unsigned open_below(int end)
{
	unsigned open = 0;

	for (int fd = 0; fd < end; fd++)
		open |= (unsigned)(fcntl(fd, F_GETFD) >= 0) << fd;
	return open;
}

/* What stays: 0-2, the placed ones, and the one that is kept, wherever it lies among them. */
static void test_sweep(void)
{
	const struct op ops[] = {
		{.code = OP_PLACE, .a = 0, .b = 3}, {.code = OP_PLACE, .a = 1, .b = 6}, {.code = OP_PLACE, .a = 2, .b = 7}};
	const struct plan plan = {.ops = ops, .op_count = 3};
	bool right = true;

	for (int keep = 4; keep < 16; keep++) {
		if (keep == 6 || keep == 7)
			continue;
		for (int fd = 3; fd < 16; fd++)
			dup2(1, fd);
		dup2(1, 900);
		fd_sweep(&plan, &ops[0], keep);
		right = right && open_below(16) == (7u | 1u << 3 | 1u << 6 | 1u << 7 | 1u << keep);
		right = right && fcntl(900, F_GETFD) < 0;
	}
	CHECK(right);
}

static void test_dropping(void)
{
	const struct op ops[] = {{.code = OP_STATUS, .a = 8},
				 {.code = OP_INHERIT, .b = 0},
				 {.code = OP_INHERIT, .b = 4},
				 {.code = OP_INHERIT, .b = 5},
				 {.code = OP_INHERIT, .b = 12},
				 {.code = OP_SWEEP}};
	const struct plan plan = {.ops = ops, .op_count = 6};

	for (int fd = 3; fd < 16; fd++)
		dup2(1, fd);
	fd_drop_undeclared(&plan);
	CHECK(open_below(16) == (7u | 1u << 4 | 1u << 5 | 1u << 8 | 1u << 12));
	close_range(3, ~0u, 0);
}

static void test_stdio(void)
{
	int out = fcntl(1, F_DUPFD_CLOEXEC, 50);
	unsigned filled;

	close(0);
	close(1);
	filled = fd_fill_stdio();
	dup2(out, 1);
	CHECK(filled == 3 && fd_type(0) == FD_NULL);
	CHECK(fd_fill_stdio() == 0);
	close(out);
}

int main(void)
{
	test_types();
	test_words();
	test_parking();
	test_sweep();
	test_dropping();
	test_stdio();
	printf("1..%d\n", tests);
	return failures != 0;
}
