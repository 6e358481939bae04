/* access.c: what a descriptor lets its holder do. Usage: access NUMBER ... */
#define _GNU_SOURCE
#include "probe.h"

#include <fcntl.h>
#include <sys/mman.h>

static void say(int fd, const char *what, long result)
{
	int error = errno;
	char name[64];

	snprintf(name, sizeof name, "%d-%s", fd, what);
	errno = error;
	verdict(name, result < 0 ? -1 : result);
}

static long mapped(int fd, int protection)
{
	void *memory = mmap(NULL, 1, protection, MAP_SHARED, fd, 0);

	return memory == MAP_FAILED ? -1 : 0;
}

int main(int argc, char **argv)
{
	char byte;

	probe_open();
	for (int at = 1; at < argc; at++) {
		int fd = atoi(argv[at]);

		say(fd, "read", pread(fd, &byte, 1, 0));
		say(fd, "map-read", mapped(fd, PROT_READ));
		say(fd, "map-write", mapped(fd, PROT_READ | PROT_WRITE));
		say(fd, "seals", fcntl(fd, F_GET_SEALS));
		say(fd, "add-seals", fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));
		say(fd, "write", write(fd, "W", 1));
		say(fd, "truncate", ftruncate(fd, 0));
		say(fd, "grow", ftruncate(fd, 1 << 16));
	}
	return 0;
}
