/* hold.c: puts descriptors of any kind under numbers, inheritable, then becomes a program.
 *
 * Usage: hold KIND NUMBER ... -- PROGRAM ...   Exits with 77 and names the kind when the kernel, or what this user may
 * do, has none of it. */
#define _GNU_SOURCE
#include "probe.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

static int own_namespace(void) { return open("/proc/self/ns/uts", O_RDONLY); }
static int a_file(void) { return open("/etc/passwd", O_RDONLY); }
static int a_directory(void) { return open("/", O_RDONLY | O_DIRECTORY); }
static int a_path(void) { return open("/etc/passwd", O_PATH); }
static int a_socket(void) { return socket(AF_UNIX, SOCK_STREAM, 0); }
static int a_datagram(void)
{
	int ends[2];

	return socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) ? -1 : ends[0];
}
static int a_stream(void)
{
	int ends[2];

	return socketpair(AF_UNIX, SOCK_STREAM, 0, ends) ? -1 : ends[0];
}
static int a_listening_socket(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	return listen(fd, 1) ? -1 : fd;
}
/* Sockets whose holder can give them any peer, or that are no TCP and no UDP; the last need no privilege. */
static int an_unconnected_datagram(void) { return socket(AF_INET, SOCK_DGRAM, 0); }
static int an_unconnected_stream(void) { return socket(AF_INET6, SOCK_STREAM, 0); }
static int a_netlink_socket(void) { return socket(AF_NETLINK, SOCK_RAW, 0); }
static int a_raw_socket(void) { return socket(AF_INET, SOCK_RAW, IPPROTO_TCP); }
static int a_packet_socket(void) { return socket(AF_PACKET, SOCK_RAW, 0); }
static int an_mptcp_socket(void) { return socket(AF_INET, SOCK_STREAM, 262 /* IPPROTO_MPTCP */); }
static int a_memfd(void) { return memfd_create("held", 0); }
static int an_eventfd(void) { return eventfd(0, 0); }
static int the_null_device(void) { return open("/dev/null", O_RDWR); }
static int an_epoll(void) { return epoll_create1(0); }
static int a_timerfd(void) { return timerfd_create(CLOCK_MONOTONIC, 0); }
static int an_inotify(void) { return inotify_init1(0); }
static int a_fanotify(void) { return fanotify_init(FAN_REPORT_FID, 0); }
static int a_pidfd(void) { return (int)syscall(SYS_pidfd_open, getpid(), 0); }
static int a_userfaultfd(void) { return (int)syscall(SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */); }
static int a_char_device(void) { return open("/dev/fuse", O_RDWR); }

static int a_pipe(void)
{
	int ends[2];

	return pipe(ends) ? -1 : ends[0];
}

static int a_tty(void)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY);

	if (master < 0 || grantpt(master) || unlockpt(master))
		return -1;
	/* Without its other side a terminal is hung up; a process that ends with this one keeps that open. */
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		for (int fd = 0; fd < master; fd++)
			close(fd);
		for (;;)
			pause();
	}
	return (int)syscall(SYS_ioctl, master, 0x5441 /* TIOCGPTPEER */, O_RDWR | O_NOCTTY);
}

static int a_signalfd(void)
{
	sigset_t none;

	sigemptyset(&none);
	return signalfd(-1, &none, 0);
}

static int an_io_uring(void)
{
	struct io_uring_params parameters = {0};

	return (int)syscall(SYS_io_uring_setup, 1, &parameters);
}

static int a_bpf_map(void)
{
	union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};

	return (int)syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map);
}

static int a_listener(void)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = {1, &allow};

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

/* Opened, never read. */
static int a_block_device(void)
{
	static const char *const disks[] = {"/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/loop0", "/dev/dm-0"};
	int fd = -1;

	for (size_t at = 0; fd < 0 && at < sizeof disks / sizeof disks[0]; at++)
		fd = open(disks[at], O_RDONLY);
	return fd;
}

static const struct {
	const char *name;
	int (*make)(void);
} kinds[] = {
	{"file", a_file}, {"directory", a_directory}, {"path", a_path}, {"pipe", a_pipe}, {"socket", a_socket},
	{"memfd", a_memfd}, {"eventfd", an_eventfd}, {"null", the_null_device}, {"tty", a_tty},
	{"char-device", a_char_device}, {"block-device", a_block_device}, {"namespace", own_namespace},
	{"pidfd", a_pidfd}, {"epoll", an_epoll}, {"timerfd", a_timerfd}, {"signalfd", a_signalfd},
	{"inotify", an_inotify}, {"fanotify", a_fanotify}, {"userfaultfd", a_userfaultfd}, {"io_uring", an_io_uring},
	{"seccomp-listener", a_listener}, {"bpf", a_bpf_map},
	{"listener", a_listening_socket}, {"stream", a_stream}, {"datagram", a_datagram}, {"raw-socket", a_netlink_socket},
	{"unconnected-datagram", an_unconnected_datagram}, {"unconnected-stream", an_unconnected_stream},
	{"ip", a_raw_socket}, {"packet", a_packet_socket}, {"mptcp", an_mptcp_socket},
};

int main(int argc, char **argv)
{
	int at = 1;

	for (; at + 1 < argc && strcmp(argv[at], "--") != 0; at += 2) {
		int fd = -1, number = atoi(argv[at + 1]);

		for (size_t kind = 0; kind < sizeof kinds / sizeof kinds[0]; kind++)
			if (strcmp(kinds[kind].name, argv[at]) == 0)
				fd = kinds[kind].make();
		if (fd < 0) {
			fprintf(stderr, "%s: %s\n", argv[at], strerror(errno));
			return 77;
		}
		if (fd != number && (dup2(fd, number) != number || close(fd)))
			return 91;
		fcntl(number, F_SETFD, 0);
	}
	if (at + 1 >= argc)
		return 91;
	execv(argv[at + 1], argv + at + 1);
	return 92;
}
