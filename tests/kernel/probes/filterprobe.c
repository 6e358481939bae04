/* filterprobe.c: asks the kernel what it makes of filter programs. Used by test_filter_differential.py.
 *
 *   filterprobe features           prints "i386 1" if int $0x80 works in a 64-bit process, else "i386 0"
 *   filterprobe verdicts FILE      prints one line per case: the raw return of the call
 *   filterprobe live FILE          loads the programs and prints "NAME RETURN" of real calls, with -errno for failures
 *
 * FILE (little endian): u32 programs, u32 cases; per program u32 length and the instructions; then the cases.
 *
 * Verdicts: nothing that the programs allow is executed. The confined thread first loads a filter of its own that sends
 * every call to a listener, then the programs under test, byte for byte. An errno outranks a notification and a
 * notification outranks "allow" (seccomp(2)), so the supervising thread sees exactly the allowed calls, and answers
 * each with NOTHING_DONE. The confined thread can make no call at all afterwards; it spins until the process ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOTHING_DONE (-4000)
#define MAX_PROGRAMS 8
#define X32 0x40000000UL
#define GARBAGE 0xdeadbeef00000000UL
#define RESERVED 7 /* as in the test */
#define FREE 8

enum { NATIVE, I386 };

struct call {
	uint32_t entry, nr;
	uint64_t args[6];
};

static struct sock_fprog programs[MAX_PROGRAMS];
static uint32_t program_count, case_count;
static struct call *cases;
static int64_t *results;

static atomic_int listener = -1;
static atomic_int loading = 1;
static atomic_int failed;
static atomic_int done;

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void read_exactly(FILE *file, void *to, size_t bytes)
{
	if (bytes && fread(to, bytes, 1, file) != 1)
		die("short file");
}

static void read_input(const char *path)
{
	FILE *file = fopen(path, "rb");

	if (!file)
		die(path);
	read_exactly(file, &program_count, sizeof program_count);
	read_exactly(file, &case_count, sizeof case_count);
	if (program_count > MAX_PROGRAMS)
		die("too many programs");
	for (uint32_t i = 0; i < program_count; i++) {
		uint32_t length;

		read_exactly(file, &length, sizeof length);
		if (length > BPF_MAXINSNS)
			die("program too long");
		programs[i].len = (unsigned short)length;
		programs[i].filter = calloc(length, sizeof(struct sock_filter));
		if (!programs[i].filter)
			die("memory");
		read_exactly(file, programs[i].filter, length * sizeof(struct sock_filter));
	}
	cases = calloc(case_count + 1, sizeof *cases);
	results = calloc(case_count + 1, sizeof *results);
	if (!cases || !results)
		die("memory");
	read_exactly(file, cases, case_count * sizeof *cases);
	fclose(file);
}

static int64_t native(uint64_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
	register uint64_t r10 __asm__("r10") = d;
	register uint64_t r8 __asm__("r8") = e;
	register uint64_t r9 __asm__("r9") = f;
	int64_t result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

/* The sixth argument goes through ebp. The stack pointer steps over the red zone before anything is pushed. */
static int64_t i386(uint32_t nr, const uint64_t args[6])
{
	register uint64_t sixth __asm__("r12") = args[5];
	int32_t result;

	__asm__ volatile("lea -128(%%rsp), %%rsp\n\t"
			 "push %%rbp\n\t"
			 "mov %%r12, %%rbp\n\t"
			 "int $0x80\n\t"
			 "pop %%rbp\n\t"
			 "lea 128(%%rsp), %%rsp"
			 : "=a"(result)
			 : "a"(nr), "b"(args[0]), "c"(args[1]), "d"(args[2]), "S"(args[3]), "D"(args[4]), "r"(sixth)
			 : "r8", "r9", "r10", "r11", "memory", "cc");
	return result;
}

static int64_t issue(const struct call *call)
{
	const uint64_t *a = call->args;

	if (call->entry == I386)
		return i386(call->nr, a);
	return native(call->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static int64_t load(const struct sock_fprog *program, unsigned flags)
{
	return native(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, (uintptr_t)program, 0, 0, 0);
}

static void *confined(void *unused)
{
	struct sock_filter everything[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF)};
	struct sock_fprog notify = {.len = 1, .filter = everything};
	int64_t fd;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("no_new_privs");
	fd = load(&notify, SECCOMP_FILTER_FLAG_NEW_LISTENER);
	listener = (int)fd;
	if (fd < 0)
		failed = 1;
	for (uint32_t i = 0; i < program_count && !failed; i++)
		failed = load(&programs[i], 0) != 0;
	loading = 0;
	for (uint32_t i = 0; i < case_count && !failed; i++)
		results[i] = issue(&cases[i]);
	done = 1;
	for (;;)
		__asm__ volatile("pause");
	return unused;
}

static void answer(int fd)
{
	struct seccomp_notif request;
	struct seccomp_notif_resp response;
	struct pollfd wait = {.fd = fd, .events = POLLIN};

	if (poll(&wait, 1, 20) != 1)
		return;
	memset(&request, 0, sizeof request);
	memset(&response, 0, sizeof response);
	if (ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &request))
		die("receive");
	response.id = request.id;
	if (loading)
		response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	else
		response.error = NOTHING_DONE;
	if (ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &response))
		die("send");
}

static void verdicts(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, confined, NULL))
		die("thread");
	while (!done)
		if (listener >= 0)
			answer(listener);
	if (failed)
		die("a program was refused");
	for (uint32_t i = 0; i < case_count; i++)
		printf("%lld\n", (long long)results[i]);
	fflush(stdout);
	_exit(0); /* exit_group ends the spinning thread too */
}

/* What an int $0x80 gives where the kernel has no such entry: a fault. */
static sigjmp_buf no_entry;

static void on_fault(int signal)
{
	(void)signal;
	siglongjmp(no_entry, 1);
}

static int has_i386(void)
{
	const uint64_t none[6] = {0};

	signal(SIGSEGV, on_fault);
	return sigsetjmp(no_entry, 1) == 0 && i386(20 /* getpid */, none) == getpid();
}

static int i386_works; /* asked before the programs are loaded, since they refuse getpid too */

static void show(const char *name, int64_t result)
{
	dprintf(1, "%s %lld\n", name, (long long)result);
}

/* The number of a new descriptor is not of interest. */
static int64_t one_if_made(int64_t fd)
{
	return fd < 0 ? fd : 1;
}

static void show_close_on_exec(int fd)
{
	const uint64_t clear[6] = {(uint64_t)fd, F_SETFD, 0};

	show("setfd-set", native(SYS_fcntl, fd, F_SETFD, FD_CLOEXEC, 0, 0, 0));
	show("setfd-set-garbage", native(SYS_fcntl, fd | GARBAGE, F_SETFD | GARBAGE, FD_CLOEXEC | GARBAGE, 0, 0, 0));
	show("setfd-set-odd", native(SYS_fcntl, fd, F_SETFD, 0xffffffff, 0, 0, 0));
	show("setfd-clear", native(SYS_fcntl, fd, F_SETFD, 0, 0, 0, 0));
	show("setfd-clear-garbage", native(SYS_fcntl, fd | GARBAGE, F_SETFD | GARBAGE, GARBAGE, 0, 0, 0));
	show("setfd-clear-even", native(SYS_fcntl, fd, F_SETFD, 0xfffffffe, 0, 0, 0));
	show("setfd-clear-x32", native(SYS_fcntl | X32, fd, F_SETFD, 0, 0, 0, 0));
	if (i386_works)
		show("setfd-clear-i386", i386(55 /* fcntl */, clear));
	show("getfd-after-clear", native(SYS_fcntl, fd, F_GETFD, 0, 0, 0, 0));
	show("fioclex", native(SYS_ioctl, fd, FIOCLEX, 0, 0, 0, 0));
	show("fionclex", native(SYS_ioctl, fd, FIONCLEX, 0, 0, 0, 0));
	show("fionclex-garbage", native(SYS_ioctl, fd, FIONCLEX | GARBAGE, 0, 0, 0, 0));
	show("getfd-after-fionclex", native(SYS_fcntl, fd, F_GETFD, 0, 0, 0, 0));
}

static void show_reserved(int fd)
{
	const uint64_t onto_reserved[6] = {(uint64_t)fd, RESERVED, 0};

	show("dup", one_if_made(native(SYS_dup, fd, 0, 0, 0, 0, 0)));
	show("dupfd", native(SYS_fcntl, fd, F_DUPFD, 20, 0, 0, 0));
	show("dup2-free", native(SYS_dup2, fd, FREE, 0, 0, 0, 0));
	show("dup2-free-garbage", native(SYS_dup2, fd, FREE | GARBAGE, 0, 0, 0, 0));
	show("dup3-free", native(SYS_dup3, fd, FREE, O_CLOEXEC, 0, 0, 0));
	show("dup2-reserved", native(SYS_dup2, fd, RESERVED, 0, 0, 0, 0));
	show("dup2-reserved-garbage", native(SYS_dup2, fd, RESERVED | GARBAGE, 0, 0, 0, 0));
	show("dup3-reserved", native(SYS_dup3, fd, RESERVED, O_CLOEXEC, 0, 0, 0));
	show("dup3-reserved-garbage", native(SYS_dup3, fd, RESERVED | GARBAGE, 0, 0, 0, 0));
	show("dup2-reserved-x32", native(SYS_dup2 | X32, fd, RESERVED, 0, 0, 0, 0));
	if (i386_works)
		show("dup2-reserved-i386", i386(63 /* dup2 */, onto_reserved));
}

/* 1 for a child that was made (and has ended), else -errno. */
static int64_t cloned(uint64_t flags)
{
	int64_t pid = native(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0, 0);

	if (pid == 0)
		native(SYS_exit_group, 0, 0, 0, 0, 0, 0);
	if (pid < 0)
		return pid;
	return waitpid((pid_t)pid, NULL, 0) == pid;
}

static void show_others(int fd)
{
	struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	struct sock_fprog program = {.len = 1, .filter = allow};
	char size[8];

	show("tiocgwinsz", native(SYS_ioctl, fd, TIOCGWINSZ, (uintptr_t)size, 0, 0, 0));
	show("tiocsti", native(SYS_ioctl, fd, TIOCSTI, (uintptr_t)"x", 0, 0, 0));
	show("tioclinux-garbage", native(SYS_ioctl, fd, TIOCLINUX | GARBAGE, (uintptr_t)"x", 0, 0, 0));
	show("clone", cloned(0));
	show("clone-garbage", cloned(GARBAGE));
	show("clone-newuser", cloned(0x10000000));
	show("clone-newuser-newnet-garbage", cloned(0x50000000 | GARBAGE));
	show("seccomp", load(&program, 0));
	show("seccomp-listener", one_if_made(load(&program, SECCOMP_FILTER_FLAG_NEW_LISTENER)));
	show("openat", one_if_made(native(SYS_openat, AT_FDCWD, (uintptr_t)"/dev/null", O_RDONLY | O_CLOEXEC, 0, 0, 0)));
	show("openat2", native(SYS_openat2, AT_FDCWD, (uintptr_t)"/dev/null", 0, 0, 0, 0));
	show("clone3", native(SYS_clone3, 0, 0, 0, 0, 0, 0));
	show("io_uring_setup", native(425, 0, 0, 0, 0, 0, 0));
	show("io_uring_enter", native(426, -1, 0, 0, 0, 0, 0));
	show("io_uring_register", native(427, -1, 0, 0, 0, 0, 0));
	show("unknown", native(5000, 0, 0, 0, 0, 0, 0));
	show("minus-one", native(0xffffffff, 0, 0, 0, 0, 0, 0));
	show("ptrace", native(SYS_ptrace, 0x7fffffff, -1, 0, 0, 0, 0));
	show("getppid", native(SYS_getppid, 0, 0, 0, 0, 0, 0) == getppid());
}

static void live(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (fd < 0 || fd >= RESERVED || dup2(fd, RESERVED) != RESERVED)
		die("descriptors");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("no_new_privs");
	i386_works = has_i386();
	for (uint32_t i = 0; i < program_count; i++)
		if (load(&programs[i], 0))
			die("a program was refused");
	show_close_on_exec(fd);
	show_reserved(fd);
	show_others(fd);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "features")) {
		printf("i386 %d\n", has_i386());
		return 0;
	}
	if (argc != 3)
		die("usage: filterprobe features | verdicts FILE | live FILE");
	read_input(argv[2]);
	if (!strcmp(argv[1], "verdicts"))
		verdicts();
	live();
	return 0;
}
