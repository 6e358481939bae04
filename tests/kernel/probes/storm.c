/* storm.c: programs that execute under a rain of signals; each opens a descriptor and forgets it.
 *
 *   storm chain LEFT              executes itself LEFT times; SIGURG's handler restarts calls
 *   storm again LEFT              as chain; the handler does not, and an exec that was interrupted is repeated
 *   storm slow LEFT               as chain; so much is to be closed that no exec is answered between two signals
 *   storm preempt LEFT            as chain, from a program of several threads whose own thread sends the signals, as
 *                                 Go's runtime does; each step starts a child, too
 *   storm rain CHAINS LEFT MODE   several of the first three kinds at once, each of which gets SIGURG all the time
 *
 * SIGURG, since what it does by default is nothing. Exits 0; with 2 when a descriptor came along, 100 + errno when an
 * exec failed. */
#define _GNU_SOURCE
#include "probe.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { MOST = 64, PAUSE_NS = 20000, MANY = 400 };

static char *own_path;

static void ignore(int signal) { (void)signal; }

static void be_ready(const char *mode)
{
	struct sigaction action = {.sa_handler = ignore, .sa_flags = strcmp(mode, "again") ? SA_RESTART : 0};

	sigaction(SIGURG, &action, NULL);
	for (int fd = 3; fd < MANY; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			_exit(2);
	for (int i = strcmp(mode, "slow") ? 1 : MANY; i > 0; i--)
		open("/dev/null", O_RDONLY);
}

static void pause_shortly(void)
{
	nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
}

static int go_on(const char *mode, int left)
{
	char number[12];

	if (left == 0)
		return 0;
	snprintf(number, sizeof number, "%d", left - 1);
	do
		execl(own_path, own_path, mode, number, NULL);
	while (errno == EINTR && strcmp(mode, "again") == 0);
	return 100 + errno;
}

static int result_of(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		return 99;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int rain(int chains, int left, const char *mode)
{
	pid_t pids[MOST];
	int running = chains, worst = 0;

	for (int i = 0; i < chains; i++) {
		pids[i] = fork();
		if (pids[i] == 0)
			_exit(go_on(mode, left));
	}
	while (running > 0) {
		for (int i = 0; i < chains; i++) {
			siginfo_t ended = {0};

			if (!pids[i])
				continue;
			kill(pids[i], SIGURG);
			waitid(P_PID, pids[i], &ended, WEXITED | WNOHANG | WNOWAIT);
			if (ended.si_pid == 0)
				continue;
			worst |= result_of(pids[i]);
			pids[i] = 0;
			running--;
		}
		pause_shortly();
	}
	return worst;
}

static void *preempt(void *unused)
{
	for (;;) {
		syscall(SYS_tgkill, getpid(), getpid(), SIGURG);
		pause_shortly();
	}
	return unused;
}

static int start_child(void)
{
	char *words[] = {own_path, "chain", "0", NULL};
	pid_t pid;

	errno = posix_spawn(&pid, own_path, NULL, NULL, words, NULL);
	return errno ? 100 + errno : result_of(pid);
}

int main(int argc, char **argv)
{
	pthread_t thread;
	int failed;

	own_path = argv[0];
	be_ready(argv[1]);
	if (argc == 5)
		return rain(atoi(argv[2]), atoi(argv[3]), argv[4]);
	if (strcmp(argv[1], "preempt") != 0)
		return go_on(argv[1], atoi(argv[2]));
	pthread_create(&thread, NULL, preempt, NULL);
	failed = start_child();
	return failed ? failed : go_on("preempt", atoi(argv[2]));
}
