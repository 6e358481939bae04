/* again.c: tries to execute a program once more, in every way. Usage: again PROGRAM
 *
 * PROGRAM gets no arguments and an empty environment; each try happens in a child of its own, so that a success is
 * `0 0`, and the exit code of PROGRAM must be 0. */
#define _GNU_SOURCE
#include "probe.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif
enum { GUESSES = 2000 };

static const char *program;
static char *const arguments[] = {(char *)"again", NULL}, *const environment[] = {NULL};

static long try_execve(const uint64_t extra[3])
{
	return raw(SYS_execve, (uint64_t)program, (uint64_t)arguments, (uint64_t)environment, extra[0], extra[1], extra[2]);
}

static long try_execveat(int flags)
{
	int fd = open(program, O_PATH | O_CLOEXEC);

	return raw(SYS_execveat, (uint64_t)fd, (uint64_t)(flags ? "" : program), (uint64_t)arguments, (uint64_t)environment,
		   (uint64_t)flags, 0);
}

static long way(int number)
{
	const uint64_t zero[3] = {0}, ones[3] = {~0ull, ~0ull, ~0ull};

	switch (number) {
	case 0: return try_execve(zero);
	case 1: return try_execve(ones);
	case 2: return try_execveat(0);
	case 3: return try_execveat(AT_EMPTY_PATH);
	case 4: return raw(SYS_execve | 0x40000000, 0, 0, 0, 0, 0, 0);
	case 5: return raw(520 | 0x40000000 /* x32's own execve */, 0, 0, 0, 0, 0, 0);
	default: return raw(545 | 0x40000000 /* x32's own execveat */, 0, 0, 0, 0, 0, 0);
	}
}

int main(int argc, char **argv)
{
	static const char *const names[] = {"execve", "execve-ones", "execveat", "execveat-empty-path",
					    "execve-x32", "execve-x32-own", "execveat-x32-own"};
	long guessed = 0;

	program = argc > 1 ? argv[1] : "/bin/true";
	probe_open();
	for (int number = 0; number < 7; number++) {
		int status;
		pid_t pid;

		fflush(stdout);
		pid = fork();
		if (pid == 0) {
			way(number);
			_exit(errno);
		}
		waitpid(pid, &status, 0);
		errno = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
		verdict(names[number], errno ? -1 : 0);
	}
	/* This process itself, guessing: were one right, PROGRAM would replace it and the last line be missing. */
	if (argc > 2)
		for (int guess = 0; guess < GUESSES; guess++) {
			uint64_t extra[3];

			if (getrandom(extra, sizeof extra, 0) != sizeof extra || try_execve(extra) != -1 || errno != EPERM)
				break;
			guessed++;
		}
	verdict("guesses-refused", guessed);
	return 0;
}
