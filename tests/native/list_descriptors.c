/* list_descriptors.c: prints "number device inode flags" of each open descriptor, and nothing else. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int main(void)
{
	DIR *directory = opendir("/proc/self/fd");
	const struct dirent *entry;

	if (!directory)
		return 2;
	while ((entry = readdir(directory))) {
		struct stat status;
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] == '.' || fd == dirfd(directory))
			continue;
		if (fstat(fd, &status))
			return 3;
		printf("%d %lu %lu %d\n", fd, (unsigned long)status.st_dev, (unsigned long)status.st_ino,
		       fcntl(fd, F_GETFD));
	}
	return 0;
}
