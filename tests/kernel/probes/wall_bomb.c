/* wall_bomb.c: takes what it can get. Usage: wall_bomb forks|some-forks|memory|some-memory|write FILE|spin|daemons MARKER
 *
 * The marker is only there to be found again: all that it starts have it among their arguments. Says `held` with the
 * error when it gets no more. */
#define _GNU_SOURCE
#include "probe.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

enum { SOME_FORKS = 4, SOME_MEMORY = 8 << 20, CHUNK = 1 << 20, DAEMONS = 4 };

static void ignore_all(void)
{
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_IGN);
}

static _Noreturn void stay(void)
{
	for (;;)
		pause();
}

/* Every process forks as fast as it can; the first one tells when it cannot. */
static void forks(void)
{
	pid_t first = getpid();

	ignore_all();
	for (;;) {
		if (fork() >= 0)
			continue;
		if (getpid() == first) {
			verdict("held", -1);
			stay();
		}
		usleep(1000);
	}
}

static void some_forks(void)
{
	pid_t pids[SOME_FORKS];

	for (int i = 0; i < SOME_FORKS; i++) {
		pids[i] = fork();
		if (pids[i] == 0)
			stay();
		verdict("fork", pids[i] < 0 ? -1 : 0);
	}
	for (int i = 0; i < SOME_FORKS; i++)
		if (pids[i] > 0)
			kill(pids[i], SIGKILL);
}

static void memory(size_t most)
{
	for (size_t taken = 0; taken < most; taken += CHUNK) {
		char *chunk = malloc(CHUNK);

		if (!chunk) {
			verdict("held", -1);
			return;
		}
		memset(chunk, 1, CHUNK);
	}
	verdict("taken", 0);
}

static void write_on(const char *path)
{
	static char zeros[1 << 16];
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	long written = fd;

	while (written >= 0)
		written = write(fd, zeros, sizeof zeros);
	verdict("held", -1);
}

/* Sessions of their own, without a parent, deaf to what can be ignored; every second one is stopped. */
static void daemons(void)
{
	int ready[2];
	char byte;

	if (pipe2(ready, O_CLOEXEC) < 0)
		exit(92);
	for (int i = 0; i < DAEMONS; i++) {
		if (fork() > 0)
			continue;
		setsid();
		if (fork() > 0)
			_exit(0);
		ignore_all();
		if (write(ready[1], "", 1) != 1)
			_exit(92);
		if (i % 2)
			raise(SIGSTOP);
		stay();
	}
	for (int i = 0; i < DAEMONS; i++)
		if (read(ready[0], &byte, 1) != 1)
			exit(92);
	verdict("daemons", 0);
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";

	probe_open();
	if (strcmp(what, "forks") == 0)
		forks();
	else if (strcmp(what, "some-forks") == 0)
		some_forks();
	else if (strcmp(what, "memory") == 0)
		memory(SIZE_MAX);
	else if (strcmp(what, "some-memory") == 0)
		memory(SOME_MEMORY);
	else if (strcmp(what, "write") == 0)
		write_on(argv[2]);
	else if (strcmp(what, "spin") == 0)
		for (;;)
			;
	else if (strcmp(what, "daemons") == 0)
		daemons();
	else
		return 91;
	return 0;
}
