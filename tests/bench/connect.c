/* connect.c: connects N times to 127.0.0.1:PORT, and prints the nanoseconds of the median call of socket and connect. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000L + time.tv_nsec;
}

static int by_value(const void *left, const void *right)
{
	long difference = *(const long *)left - *(const long *)right;

	return (difference > 0) - (difference < 0);
}

int main(int argc, char **argv)
{
	struct sockaddr_in peer = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int count = argc == 3 ? atoi(argv[1]) : 0;
	long *took = calloc((size_t)count + 1, sizeof *took);

	if (count <= 0 || !took)
		return 2;
	peer.sin_port = htons((uint16_t)atoi(argv[2]));
	for (int i = 0; i < count; i++) {
		struct linger reset = {1, 0}; /* no TIME_WAIT, of which there would be too many */
		long start = now();
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		if (connect(fd, (const void *)&peer, sizeof peer))
			return 1;
		took[i] = now() - start;
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		close(fd);
	}
	qsort(took, (size_t)count, sizeof *took, by_value);
	printf("%ld\n", took[count / 2]);
	return 0;
}
