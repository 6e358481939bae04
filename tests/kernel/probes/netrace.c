/* netrace.c: tries to reach what no rule allows by changing, while a call is under way, what the call is about.
 *
 * netrace WHAT TRIES ALLOWED FORBIDDEN: IPv4 ports of 127.0.0.1. Prints `reached N`, how often the forbidden one was
 * reached, `went N`, how often a call went through, and `refused N`. WHAT: `address` - a second thread rewrites the
 * address; `exchange` - a second thread exchanges the descriptor, a Unix socket, for one of the internet. */
#include "probe.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct sockaddr_in shared;
static in_port_t ports[2];
static atomic_int over;
static int exchanged, sources[2];

static void *rewrite(void *unused)
{
	volatile in_port_t *port = &shared.sin_port;

	for (unsigned i = 0; !over; i++)
		*port = ports[i & 1];
	return unused;
}

static void *exchange(void *unused)
{
	for (unsigned i = 0; !over; i++)
		dup2(sources[i & 1], exchanged);
	return unused;
}

static struct sockaddr_in local(in_port_t port)
{
	return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = port, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* Whether a socket has the forbidden peer. */
static int is_there(int fd)
{
	struct sockaddr_in peer = {0};
	socklen_t size = sizeof peer;

	return getpeername(fd, (void *)&peer, &size) == 0 && peer.sin_family == AF_INET && peer.sin_port == ports[1];
}

static int try_address(int fd)
{
	return connect(fd, (void *)&shared, sizeof shared);
}

/* The address is longer than one of the internet needs to be, so that it would be taken for one as well. */
static int try_exchange(int fd)
{
	struct sockaddr_in forbidden = local(ports[1]);
	struct sockaddr_un name = {0};

	memcpy(&name, &forbidden, sizeof forbidden);
	(void)fd;
	return connect(exchanged, (void *)&name, sizeof name);
}

int main(int argc, char **argv)
{
	int is_exchange, kind, fd;
	long tries, reached = 0, went = 0, refused = 0;
	pthread_t thread;

	if (argc != 6)
		return 2;
	is_exchange = strcmp(argv[1], "exchange") == 0;
	tries = atol(argv[2]);
	kind = strcmp(argv[3], "tcp") == 0 ? SOCK_STREAM : SOCK_DGRAM;
	ports[0] = htons((uint16_t)atoi(argv[4]));
	ports[1] = htons((uint16_t)atoi(argv[5]));
	shared = local(ports[0]);
	sources[0] = socket(AF_UNIX, SOCK_DGRAM, 0);
	sources[1] = socket(AF_INET, kind, 0);
	exchanged = dup(sources[0]);
	fd = sources[1];
	pthread_create(&thread, NULL, is_exchange ? exchange : rewrite, NULL);
	for (long i = 0; i < tries; i++) {
		int result = is_exchange ? try_exchange(fd) : try_address(fd);

		went += result == 0;
		refused += result != 0;
		reached += is_there(fd);
		if (kind == SOCK_STREAM && !is_exchange && result == 0) {
			close(fd);
			fd = socket(AF_INET, kind, 0);
		}
	}
	over = 1;
	pthread_join(thread, NULL);
	verdict("reached", reached);
	verdict("went", went);
	verdict("refused", refused);
	return 0;
}
