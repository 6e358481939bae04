/* pass.c: opens descriptors and forgets them, then executes by some way: what would go along without an exec gate.
 *
 *   pass METHOD DEPTH COMMAND...    METHOD exec fork vfork spawn thread execveat; DEPTH programs in a row, each of
 *                                   which opens one more file without close-on-exec, the last executes COMMAND
 *
 * Exits as COMMAND did, or with 100 + errno when an exec failed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static char **next;

static void *execute(void *unused)
{
	execv(next[0], next);
	_exit(100 + errno);
	return unused;
}

static int wait_for(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return 99;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
	const char *method = argv[1];
	int depth = atoi(argv[2]);
	char number[12];
	pid_t pid = 0;

	if (argc < 4 || open("/etc/passwd", O_RDONLY) < 0)
		return 98;
	if (depth > 1) {
		snprintf(number, sizeof number, "%d", depth - 1);
		argv[2] = number;
		next = argv;
	} else {
		next = argv + 3;
	}
	if (strcmp(method, "exec") == 0) {
		execute(NULL);
	} else if (strcmp(method, "fork") == 0) {
		pid = fork();
		if (pid == 0)
			execute(NULL);
	} else if (strcmp(method, "vfork") == 0) {
		pid = vfork();
		if (pid == 0)
			execute(NULL);
	} else if (strcmp(method, "spawn") == 0) {
		errno = posix_spawn(&pid, next[0], NULL, NULL, next, environ);
		if (errno)
			return 100 + errno;
	} else if (strcmp(method, "thread") == 0) {
		pthread_t thread;

		pthread_create(&thread, NULL, execute, NULL);
		pthread_join(thread, NULL);
	} else if (strcmp(method, "execveat") == 0) {
		int fd = open(next[0], O_PATH | O_CLOEXEC);

		syscall(SYS_execveat, fd, "", next, environ, AT_EMPTY_PATH);
		return 100 + errno;
	}
	return wait_for(pid);
}
