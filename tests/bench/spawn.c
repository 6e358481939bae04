/* spawn.c: starts commands in turn and times each start to its end, in one process, so that they share all noise.
 *
 *   spawn ROUNDS DESCRIPTORS AT_ONCE STARTS COMMAND... [-- COMMAND...]...
 *
 * Opens DESCRIPTORS more descriptors that the commands inherit, runs one round unmeasured, then ROUNDS rounds
 * A B C A B C, in each of which a command is started STARTS times, AT_ONCE together; prints one line a round: of each
 * command its nanoseconds and those of processor time, its own and of what it waited for. Inherited files are read from
 * their start each time. A command that does not exit 0 ends it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdbool.h>
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

/* Of several starts each has its own place in a file. */
static void open_anew(void)
{
	char path[32];

	for (int fd = 3; fd < MAX_INHERITED; fd++) {
		int anew;

		if (lseek(fd, 0, SEEK_CUR) < 0)
			continue;
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		anew = open(path, O_RDONLY);
		if (anew >= 0) {
			dup2(anew, fd);
			close(anew);
		}
	}
}

static void start(char **command, bool anew)
{
	pid_t pid = vfork();

	if (pid == 0) {
		if (anew)
			open_anew();
		execv(command[0], command);
		_exit(127);
	}
	if (pid < 0) {
		perror("spawn: vfork");
		exit(1);
	}
}

static void await(char **command)
{
	int status;

	if (wait(&status) < 0 || status != 0) {
		fprintf(stderr, "spawn: %s failed: status %d\n", command[0], status);
		exit(1);
	}
}

static long timed(char **command, int at_once, int starts)
{
	long begun;
	int running = 0;

	for (int fd = 3; fd < MAX_INHERITED; fd++)
		lseek(fd, 0, SEEK_SET);
	begun = now();
	for (int i = 0; i < starts; i++) {
		if (running == at_once) {
			await(command);
			running--;
		}
		start(command, starts > 1);
		running++;
	}
	for (; running > 0; running--)
		await(command);
	return now() - begun;
}

int main(int argc, char **argv)
{
	char **commands[MAX_COMMANDS];
	int count = 0;
	long rounds = atol(argv[1]), extra = atol(argv[2]);
	int at_once = atoi(argv[3]), starts = atoi(argv[4]);
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	for (int i = 5; i < argc && count < MAX_COMMANDS; i++) {
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
			long before = processor_time(), ns = timed(commands[i], at_once, starts);

			if (round >= 0)
				printf("%ld %ld%c", ns, processor_time() - before, i + 1 < count ? ' ' : '\n');
		}
	}
	return 0;
}
