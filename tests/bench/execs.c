/* execs.c: executes a program again and again, as a shell's loop does, but without a shell.
 *
 *   execs COUNT PROGRAM    says "ready", waits for a line, says "done" at the end, waits for the end of its input */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char line;
	long count = argc == 3 ? atol(argv[1]) : 0;

	if (write(1, "ready\n", 6) != 6 || read(0, &line, 1) != 1)
		return 1;
	for (long i = 0; i < count; i++) {
		int status;
		pid_t pid = vfork();

		if (pid == 0) {
			execv(argv[2], argv + 2);
			_exit(127);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
			return 1;
	}
	return write(1, "done\n", 5) != 5 || read(0, &line, 1) != 0;
}
