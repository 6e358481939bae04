/* fds.c: lists every open number, by asking for each below LIMIT and by /proc/self/fd. Usage: fds [LIMIT]
 *
 * `fd NUMBER CLOEXEC MODE DEVICE INODE` from fcntl(2) and fstat(2), MODE being F_GETFL's access mode and O_APPEND;
 * `proc NUMBER` from the directory. */
#include "probe.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

int main(int argc, char **argv)
{
	int limit = argc > 1 ? atoi(argv[1]) : 70000;
	struct dirent *entry;
	DIR *directory;

	probe_open();
	for (int fd = 0; fd < limit; fd++) {
		int flags = fcntl(fd, F_GETFD);
		struct stat status;

		if (flags < 0)
			continue;
		fstat(fd, &status);
		printf("fd %d %d %d %llu %llu\n", fd, flags, fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND),
		       (unsigned long long)status.st_dev, (unsigned long long)status.st_ino);
	}
	directory = opendir("/proc/self/fd");
	while (directory && (entry = readdir(directory)))
		if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(directory))
			printf("proc %s\n", entry->d_name);
	return fflush(stdout) != 0;
}
