/* spawn.c: starts commands in turn and times each start to its end, in one process, so that they share all noise.
 *
 *   spawn ROUNDS DESCRIPTORS COMMAND... [-- COMMAND...]...
 *
 * Opens DESCRIPTORS more descriptors that the commands inherit, runs one round unmeasured, then ROUNDS rounds
 * A B C A B C; prints one line a round: of each command its nanoseconds and those of processor time, its own and of what
 * it waited for. Inherited files are read from their start each time. A command that does not exit 0 ends it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_COMMANDS = 16, MAX_INHERITED = 16 };

static long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static long processor_time(void)
{
	struct rusage usage;

	getrusage(RUSAGE_CHILDREN, &usage);
	return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000L +
	       (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000L;
}

static long timed(char **command)
{
	long start;
	int status;
	pid_t pid;

	for (int fd = 3; fd < MAX_INHERITED; fd++)
		lseek(fd, 0, SEEK_SET);
	start = now();
	pid = vfork();

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
			long before = processor_time(), ns = timed(commands[i]);

			if (round >= 0)
				printf("%ld %ld%c", ns, processor_time() - before, i + 1 < count ? ' ' : '\n');
		}
	}
	return 0;
}
