/* spawn.c: starts commands in turn and times each start to its end, in one process, so that they share all noise.
 *
 *   spawn ROUNDS DESCRIPTORS COMMAND... [-- COMMAND...]...
 *
 * Opens DESCRIPTORS more descriptors that the commands inherit, runs one round unmeasured, then ROUNDS rounds
 * A B C A B C; prints one line a round: nanoseconds of each command. A command that does not exit 0 ends it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_COMMANDS = 16 };

static long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static long timed(char **command)
{
	long start = now();
	int status;
	pid_t pid = vfork();

	if (pid == 0) {
		execv(command[0], command);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
		fprintf(stderr, "spawn: %s failed: status %d\n", command[0], status);
		exit(1);
	}
	return now() - start;
}

int main(int argc, char **argv)
{
	char **commands[MAX_COMMANDS];
	int count = 0;
	long rounds = atol(argv[1]), extra = atol(argv[2]);
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	for (int i = 3; i < argc && count < MAX_COMMANDS; i++) {
		commands[count++] = argv + i;
		while (i < argc && strcmp(argv[i], "--") != 0)
			i++;
		if (i < argc)
			argv[i] = NULL;
	}
	for (long i = 0; i < extra; i++)
		if (open("/dev/null", O_RDONLY) < 0) {
			perror("spawn: open");
			return 1;
		}
	for (long round = -1; round < rounds; round++) {
		for (int i = 0; i < count; i++) {
			long ns = timed(commands[i]);

			if (round >= 0)
				printf("%ld%c", ns, i + 1 < count ? ' ' : '\n');
		}
	}
	return 0;
}
