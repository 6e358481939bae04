/* locked.c: holds a POSIX record lock over execs that fail, and tells after each whether it still holds it.
 *
 *   locked FILE PATH...    tries to execute each PATH, none of which must succeed */
#define _GNU_SOURCE
#include "probe.h"

#include <fcntl.h>
#include <sys/wait.h>

/* Ask from another process: a lock does not conflict with its owner. */
static long is_locked(const char *path)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		int fd = open(path, O_RDWR);

		_exit(fd < 0 || fcntl(fd, F_GETLK, &lock) < 0 ? 2 : lock.l_type != F_UNLCK);
	}
	waitpid(pid, &status, 0);
	return WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int fd;

	probe_open();
	fd = open(argv[1], O_RDWR);
	verdict("lock", fcntl(fd, F_SETLK, &lock));
	for (int i = 2; i < argc; i++) {
		verdict("exec", execl(argv[i], argv[i], NULL));
		verdict("held", is_locked(argv[1]));
	}
	verdict("readable", read(fd, &(char){0}, 1));
	return 0;
}
