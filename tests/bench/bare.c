/* bare.c: the steps of a plan written down in plain C: what the launcher is held against.
 *
 *   bare STEPS    a file of lines, written by bench.py from the ops of a plan; a word and what it needs:
 *
 *   namespaces FLAGS | user UID GID | hostname NAME | root | folder PATH | file PATH | link TO PATH |
 *   bind ATTRIBUTES FROM PATH | tmpfs ATTRIBUTES MODE KIB PATH | proc ATTRIBUTES PATH | devpts PATH |
 *   hide folder|file PATH | enter | capabilities                             in the init; PATHs in the new root
 *   umask MASK | chdir PATH | variable NAME=VALUE | reset | limit RESOURCE VALUE | no_new_privs |
 *   ruleset FILES NET SCOPES | rule RIGHTS PATH | restrict | gate | filter FILE | exec PATH        in the child
 *
 * What it lacks: a plan to check, symlinks and missing paths to find out (bench.py has), grants, failure messages,
 * status records, a terminal, signals to forward, and a gate that answers. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_STEPS = 512, MAX_WORDS = 5, MAX_FILTERS = 4, MAX_FILTER = 4096 };
enum { RIGHTS_OF_A_FILE = 0xc007 };

static char *steps[MAX_STEPS][MAX_WORDS];
static int step_count, socket_end, root = -1, hidden = -1, ruleset = -1, variables;
static char *environment[MAX_STEPS];
static uint32_t cookie[6];
static struct rlimit limit;
static const sigset_t none;
static struct {
	struct sock_filter filter[MAX_FILTER];
	size_t size;
} filters[MAX_FILTERS];
static int filters_loaded;

static long must(long result)
{
	if (result < 0)
		_exit(125);
	return result;
}

static void read_steps(const char *path)
{
	static char text[1 << 16];
	int fd = (int)must(open(path, O_RDONLY | O_CLOEXEC));
	char *line, *lines = text;

	must(read(fd, text, sizeof text - 1));
	close(fd);
	while ((line = strsep(&lines, "\n")) && *line && step_count < MAX_STEPS) {
		for (int i = 0; line && i < MAX_WORDS; i++)
			steps[step_count][i] = strsep(&line, " ");
		step_count++;
	}
}

static void read_filters(void)
{
	int count = 0;

	for (int i = 0; i < step_count; i++) {
		int fd;

		if (strcmp(steps[i][0], "filter") != 0)
			continue;
		fd = (int)must(open(steps[i][1], O_RDONLY | O_CLOEXEC));
		filters[count].size = (size_t)must(read(fd, filters[count].filter, sizeof filters[count].filter));
		count++;
		close(fd);
	}
}

static uint64_t number(const char *word)
{
	return strtoull(word, NULL, 0);
}

static void write_text(const char *path, const char *text)
{
	int fd = (int)must(open(path, O_WRONLY | O_CLOEXEC));

	must(write(fd, text, strlen(text)));
	close(fd);
}

static void write_map(const char *path, const char *id)
{
	char text[64];

	snprintf(text, sizeof text, "%s %s 1", id, id);
	write_text(path, text);
}

static void send_word(char word, int fd)
{
	char control[CMSG_SPACE(sizeof fd)] = {0};
	struct iovec part = {&word, 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	if (fd >= 0) {
		struct cmsghdr *rights;

		message.msg_control = control;
		message.msg_controllen = sizeof control;
		rights = CMSG_FIRSTHDR(&message);
		*rights = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(rights), &fd, sizeof fd);
	}
	must(sendmsg(socket_end, &message, MSG_NOSIGNAL));
}

/* ---- the init ---- */

static void place(int mount, const char *path)
{
	must(move_mount(mount, "", root, path, MOVE_MOUNT_F_EMPTY_PATH));
	close(mount);
}

static int file_system(const char *type, uint64_t attributes, const char *const options[][2])
{
	int mount, context = (int)must(fsopen(type, FSOPEN_CLOEXEC));

	for (; (*options)[0]; options++)
		must(fsconfig(context, FSCONFIG_SET_STRING, (*options)[0], (*options)[1], 0));
	must(fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
	mount = (int)must(fsmount(context, FSMOUNT_CLOEXEC, (unsigned)attributes));
	close(context);
	return mount;
}

static int new_tmpfs(uint64_t attributes, const char *mode, unsigned kib)
{
	char size[32], inodes[32];
	const char *const options[][2] = {{"mode", mode}, {"size", size}, {"nr_inodes", inodes}, {NULL, NULL}};

	snprintf(size, sizeof size, "%uk", kib);
	snprintf(inodes, sizeof inodes, "%u", kib / 4 + 64);
	return file_system("tmpfs", attributes, options);
}

static int copy_of(int folder, const char *path, uint64_t attributes)
{
	struct mount_attr wanted = {.attr_set = attributes};
	int mount = (int)must(open_tree(folder, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE));

	must(mount_setattr(mount, "", AT_EMPTY_PATH | AT_RECURSIVE, &wanted, sizeof wanted));
	return mount;
}

static void new_root(void)
{
	static const char *const options[][2] = {{"mode", "755"}, {NULL, NULL}};
	struct mount_attr private = {.propagation = MS_PRIVATE};

	must(mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, &private, sizeof private));
	umask(0);
	root = file_system("tmpfs", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, options);
	must(move_mount(root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH));
}

static void hide(const char *kind, const char *path)
{
	const uint64_t attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

	if (hidden < 0) {
		hidden = new_tmpfs(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, "700", 4);
		must(move_mount(hidden, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH));
		must(mkdirat(hidden, "folder", 0));
		must(mknodat(hidden, "file", S_IFREG, 0));
	}
	place(copy_of(hidden, kind, attributes), path);
}

static void enter(void)
{
	struct mount_attr read_only = {.attr_set = MOUNT_ATTR_RDONLY};

	if (hidden >= 0) {
		char link[32];

		snprintf(link, sizeof link, "/proc/self/fd/%d", hidden);
		must(umount2(link, MNT_DETACH));
		close(hidden);
	}
	must(mount_setattr(root, "", AT_EMPTY_PATH, &read_only, sizeof read_only));
	must(fchdir(root));
	must(syscall(SYS_pivot_root, ".", "."));
	must(umount2(".", MNT_DETACH));
	must(chdir("/"));
	close(root);
}

static void drop_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {{0}};
	const int bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED |
			 SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;

	for (int capability = 0; prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0; capability++)
		;
	must(prctl(PR_SET_SECUREBITS, bits, 0, 0, 0));
	must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
	must(syscall(SYS_capset, &header, data));
}

static void init_step(char **word)
{
	if (!strcmp(*word, "user")) {
		must(prctl(PR_SET_DUMPABLE, 1));
		write_text("/proc/self/setgroups", "deny");
		write_map("/proc/self/uid_map", word[1]);
		write_map("/proc/self/gid_map", word[2]);
		must(prctl(PR_SET_DUMPABLE, 0));
	} else if (!strcmp(*word, "hostname")) {
		must(sethostname(word[1], strlen(word[1])));
		must(setdomainname("(none)", 6));
	} else if (!strcmp(*word, "root")) {
		new_root();
	} else if (!strcmp(*word, "folder")) {
		must(mkdirat(root, word[1], 0755));
	} else if (!strcmp(*word, "file")) {
		must(mknodat(root, word[1], S_IFREG | 0644, 0));
	} else if (!strcmp(*word, "link")) {
		must(symlinkat(word[1], root, word[2]));
	} else if (!strcmp(*word, "bind")) {
		place(copy_of(AT_FDCWD, word[2], number(word[1])), word[3]);
	} else if (!strcmp(*word, "tmpfs")) {
		place(new_tmpfs(number(word[1]), word[2], (unsigned)number(word[3])), word[4]);
	} else if (!strcmp(*word, "proc")) {
		static const char *const options[][2] = {{NULL, NULL}};

		place(file_system("proc", number(word[1]), options), word[2]);
	} else if (!strcmp(*word, "devpts")) {
		static const char *const options[][2] = {{"ptmxmode", "0666"}, {"max", "256"}, {NULL, NULL}};

		place(file_system("devpts", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, options), word[1]);
	} else if (!strcmp(*word, "hide")) {
		hide(word[1], word[2]);
	} else if (!strcmp(*word, "enter")) {
		enter();
	} else if (!strcmp(*word, "capabilities")) {
		drop_capabilities();
	}
}

/* ---- the child ---- */

static void check_table(void)
{
	DIR *directory = opendir("/proc/self/fd");
	struct dirent *entry;
	struct statfs fs;

	must(directory ? 0 : -1);
	must(fstatfs(dirfd(directory), &fs));
	while ((entry = readdir(directory))) {
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] == '.' || fd == dirfd(directory) || fd == socket_end)
			continue;
		if (fd > 2 || fcntl(fd, F_GETFD) != 0)
			_exit(125);
	}
	closedir(directory);
}

static void reset(void)
{
	const struct rlimit zero = {0, 0};

	must(syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL));
	must(personality(0));
	must(prctl(PR_SET_TIMERSLACK, 50000));
	must(prctl(68 /* PR_GET_MEMORY_MERGE */, 0, 0, 0, 0));
	must(syscall(SYS_sched_getscheduler, 0));
	must(syscall(SYS_ioprio_get, 1, 0));
	must(setrlimit(RLIMIT_NICE, &zero));
	must(setrlimit(RLIMIT_RTPRIO, &zero));
}

static void add_rule(uint64_t rights, const char *path)
{
	struct landlock_path_beneath_attr rule = {.allowed_access = rights};
	struct stat status;
	int fd = open(path, O_PATH | O_CLOEXEC);

	if (fd < 0)
		return;
	must(fstat(fd, &status));
	if (!S_ISDIR(status.st_mode))
		rule.allowed_access &= RIGHTS_OF_A_FILE;
	rule.parent_fd = fd;
	syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0); /* EBADFD: a pipe */
	close(fd);
}

static int load(struct sock_filter *program, size_t size, unsigned flags)
{
	const struct sock_fprog filter = {.len = (unsigned short)(size / sizeof *program), .filter = program};

	return (int)must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter));
}

#define LOAD(offset) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(offset))
#define EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), (yes), (no))
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, (value))
#define HALF(n) (offsetof(struct seccomp_data, args) + 24 + 4 * (n))
#define TEST(n) LOAD(HALF(n)), EQUAL(cookie[n], 0, 11 - 2 * (n))

static void open_gate(void)
{
	must(getrandom(cookie, sizeof cookie, 0));
	struct sock_filter program[] = {
		LOAD(offsetof(struct seccomp_data, arch)), EQUAL(AUDIT_ARCH_X86_64, 1, 0), RETURN(SECCOMP_RET_ERRNO | 1),
		LOAD(offsetof(struct seccomp_data, nr)), BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 16, 0),
		EQUAL(SYS_execveat, 14, 0), EQUAL(SYS_execve, 0, 12),
		TEST(0), TEST(1), TEST(2), TEST(3), TEST(4), TEST(5),
		RETURN(SECCOMP_RET_ALLOW), RETURN(SECCOMP_RET_USER_NOTIF), RETURN(SECCOMP_RET_ERRNO | 1),
	};
	int listener = load(program, sizeof program,
			    SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);

	send_word('L', listener);
	close(listener);
}

static void child_step(char **word)
{
	if (!strcmp(*word, "umask")) {
		umask((mode_t)number(word[1]));
	} else if (!strcmp(*word, "chdir")) {
		must(chdir(word[1]));
	} else if (!strcmp(*word, "variable")) {
		environment[variables++] = word[1];
	} else if (!strcmp(*word, "reset")) {
		reset();
	} else if (!strcmp(*word, "limit")) {
		const struct rlimit value = {number(word[2]), number(word[2])};

		must(setrlimit((int)number(word[1]), &value));
	} else if (!strcmp(*word, "no_new_privs")) {
		must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	} else if (!strcmp(*word, "ruleset")) {
		const uint64_t handled[] = {number(word[1]), number(word[2]), number(word[3])};

		ruleset = (int)must(syscall(SYS_landlock_create_ruleset, handled, sizeof handled, 0));
	} else if (!strcmp(*word, "rule")) {
		add_rule(number(word[1]), word[2]);
	} else if (!strcmp(*word, "restrict")) {
		must(syscall(SYS_landlock_restrict_self, ruleset, 0));
		close(ruleset);
	} else if (!strcmp(*word, "gate")) {
		open_gate();
	} else if (!strcmp(*word, "filter")) {
		load(filters[filters_loaded].filter, filters[filters_loaded].size, 0);
		filters_loaded++;
	} else if (!strcmp(*word, "exec")) {
		char *const arguments[] = {word[1], NULL};
		uint64_t halves[3];

		memcpy(halves, cookie, sizeof halves);
		syscall(SYS_execve, word[1], arguments, environment, halves[0], halves[1], halves[2]);
		_exit(126);
	}
}

static _Noreturn void child(void)
{
	must(prctl(PR_SET_PDEATHSIG, SIGKILL));
	if (getppid() != 1)
		_exit(125);
	must(setpgid(0, 0));
	must(close_range(3, (unsigned)socket_end - 1, 0));
	must(close_range((unsigned)socket_end + 1, ~0U, 0));
	check_table();
	must(setrlimit(RLIMIT_NOFILE, &limit));
	for (int i = 1; i <= 64; i++) {
		const uint64_t standard[4] = {0}; /* the kernel's struct sigaction, so that 32 and 33 are reset as well */

		if (i != SIGKILL && i != SIGSTOP)
			must(syscall(SYS_rt_sigaction, i, standard, NULL, 8));
	}
	must(sigprocmask(SIG_SETMASK, &none, NULL));
	for (int i = 0; i < step_count; i++)
		child_step(steps[i]);
	_exit(125);
}

static _Noreturn void init(int far_end)
{
	int status, pidfd = -1;
	struct clone_args args = {.flags = CLONE_VFORK | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
				  .pidfd = (uintptr_t)&pidfd, .exit_signal = SIGCHLD};
	pid_t pid;
	char seen;

	close(far_end);
	must(prctl(PR_SET_PDEATHSIG, SIGKILL));
	for (int i = 0; i < step_count; i++)
		init_step(steps[i]);
	must(setsid());
	must(prctl(PR_SET_CHILD_SUBREAPER, 1));
	must(pid = (pid_t)syscall(SYS_clone3, &args, sizeof args));
	if (pid == 0)
		child();
	send_word('S', pidfd);
	must(read(socket_end, &seen, 1));
	must(close_range(0, (unsigned)socket_end - 1, 0));
	must(close_range((unsigned)socket_end + 1, ~0U, 0));
	while (wait4(-1, &status, WUNTRACED | __WALL, NULL) != pid)
		;
	must(write(socket_end, &status, sizeof status));
	_exit(0);
}

/* ---- the launcher, then supervisor ---- */

static void check_streams(void)
{
	struct stat status;

	for (int fd = 0; fd <= 2; fd++) {
		must(fcntl(fd, F_GETFL));
		must(fstat(fd, &status));
		if (S_ISDIR(status.st_mode) || S_ISBLK(status.st_mode))
			_exit(125);
	}
}

/* Returns the descriptor that came along, or -1; the first byte of *word says what it is. */
static int receive(int socket, int *word)
{
	char control[CMSG_SPACE(sizeof(int))];
	struct iovec part = {word, sizeof *word};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	int fd = -1;

	if (recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) > 0 && CMSG_FIRSTHDR(&message))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
	return fd;
}

static int supervise(int signals, int socket, pid_t pid)
{
	struct pollfd polled[] = {{signals, POLLIN, 0}, {socket, POLLIN, 0}, {-1, POLLIN, 0}};
	struct signalfd_siginfo info;
	int status = 0;

	for (;;) {
		poll(polled, 3, -1);
		if (polled[1].revents) {
			int fd = receive(socket, &status);

			if (fd >= 0 && (char)status == 'L')
				polled[2].fd = fd;
			else if (fd >= 0)
				must(write(socket, "", 1)); /* the command's pidfd is there: it may be reaped */
			else if (polled[1].revents & POLLHUP)
				polled[1].fd = -1;
		}
		if (polled[2].revents)
			polled[2].fd = -1;
		if (polled[0].revents && read(signals, &info, sizeof info) > 0 && waitpid(pid, NULL, WNOHANG) == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	}
}

int main(int argc, char **argv)
{
	struct clone_args args = {.exit_signal = SIGCHLD};
	struct rlimit raised;
	sigset_t all;
	pid_t pid;
	int ends[2], signals, null;

	if (argc != 2)
		return 125;
	for (int fd = 0; fd <= 2; fd++)
		must(fcntl(fd, F_GETFD));
	must(getrlimit(RLIMIT_NOFILE, &limit));
	raised = limit;
	raised.rlim_cur = raised.rlim_max;
	must(setrlimit(RLIMIT_NOFILE, &raised));
	must(close_range(3, ~0U, 0));
	read_steps(argv[1]);
	read_filters();
	args.flags = number(steps[0][1]) | CLONE_CLEAR_SIGHAND;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	signal(SIGCHLD, SIG_DFL);
	must(signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK));
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
	check_streams();
	must(syscall(SYS_setgroups, 0, NULL));
	must(prctl(PR_SET_DUMPABLE, 0));
	must(prctl(PR_SET_CHILD_SUBREAPER, 1));
	socket_end = ends[1];
	must(pid = (pid_t)syscall(SYS_clone3, &args, sizeof args));
	if (pid == 0)
		init(ends[0]);
	close(ends[1]);
	must(null = open("/dev/null", O_RDWR | O_CLOEXEC));
	must(dup2(null, 0));
	must(dup2(null, 1));
	close(null);
	return supervise(signals, ends[0], pid);
}
