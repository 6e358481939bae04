/* bare.c: the steps of a plan written down in plain C: what the launcher is held against.
 *
 *   bare FILTERS... ++ COMMAND...    each FILTERS a file of struct sock_filter records
 *
 * Fill 0-2, close the rest, fork with default dispositions, death with the parent, look at the standard streams,
 * sweep, read the table back, signals, umask, limits, no_new_privs, the filters, exec; the parent waits by signalfd. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_FILTERS = 4 };

static struct sock_fprog filters[MAX_FILTERS];
static int filter_count;

static void must(long result)
{
	if (result < 0)
		_exit(125);
}

static void read_filter(const char *path)
{
	static struct sock_filter room[MAX_FILTERS][4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = read(fd, room[filter_count], sizeof room[0]);

	must(size);
	close(fd);
	filters[filter_count].filter = room[filter_count];
	filters[filter_count++].len = (unsigned short)(size / 8);
}

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

static void check_table(int keep)
{
	DIR *directory = opendir("/proc/self/fd");
	struct dirent *entry;
	struct statfs fs;

	must(directory ? 0 : -1);
	must(fstatfs(dirfd(directory), &fs));
	while ((entry = readdir(directory))) {
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] == '.' || fd == dirfd(directory) || fd == keep)
			continue;
		if (fd > 2 || fcntl(fd, F_GETFD) != 0)
			_exit(125);
	}
	closedir(directory);
}

static void child(int keep, pid_t parent, const struct rlimit *limit, char **command)
{
	sigset_t none;

	must(prctl(PR_SET_PDEATHSIG, SIGKILL));
	if (getppid() != parent)
		_exit(125);
	check_streams();
	must(syscall(SYS_close_range, 3, keep - 1, 0));
	must(syscall(SYS_close_range, keep + 1, ~0U, 0));
	check_table(keep);
	must(setrlimit(RLIMIT_NOFILE, limit));
	sigemptyset(&none);
	must(sigprocmask(SIG_SETMASK, &none, NULL));
	umask(022);
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	for (int i = 0; i < filter_count; i++)
		must(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filters[i]));
	execve(command[0], command, (char *[]){NULL});
	_exit(126);
}

int main(int argc, char **argv)
{
	struct clone_args args = {.flags = CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD};
	struct signalfd_siginfo info;
	struct rlimit limit, raised;
	sigset_t all;
	pid_t pid, parent = getpid();
	int ends[2], signals, status, i = 1;

	for (int fd = 0; fd <= 2; fd++)
		must(fcntl(fd, F_GETFD));
	must(getrlimit(RLIMIT_NOFILE, &limit));
	raised = limit;
	raised.rlim_cur = raised.rlim_max;
	must(setrlimit(RLIMIT_NOFILE, &raised));
	must(syscall(SYS_close_range, 3, ~0U, 0));
	for (; i < argc && strcmp(argv[i], "++") != 0; i++)
		read_filter(argv[i]);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	signal(SIGCHLD, SIG_DFL);
	must(signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK));
	must(pipe2(ends, O_CLOEXEC));
	must(prctl(PR_SET_DUMPABLE, 0));
	must(pid = (pid_t)syscall(SYS_clone3, &args, sizeof args));
	if (pid == 0)
		child(ends[1], parent, &limit, argv + i + 1);
	close(ends[1]);
	for (;;) {
		struct pollfd polled[] = {{signals, POLLIN, 0}, {ends[0], POLLIN, 0}};

		poll(polled, 2, -1);
		if (polled[1].revents)
			ends[0] = (close(ends[0]), -1);
		if (polled[0].revents && read(signals, &info, sizeof info) > 0 && waitpid(pid, &status, WNOHANG) == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	}
}
