/* sock.c: what can be done with sockets, one verdict for each step, in their order.
 *
 * Usage: sock STEP ...; a STEP is WHAT:NUMBER or WHAT:NUMBER:ARGUMENT, the argument a TCP or UDP port of 127.0.0.1, @NAME
 * for an abstract Unix socket, a path, or a number. */
#define _GNU_SOURCE
#include "probe.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

struct address {
	struct sockaddr_storage storage;
	socklen_t size;
};

static void read_address(const char *text, struct address *address)
{
	struct sockaddr_un *local = (struct sockaddr_un *)&address->storage;
	struct sockaddr_in *inet = (struct sockaddr_in *)&address->storage;

	memset(address, 0, sizeof *address);
	if (*text == '@' || *text == '/') {
		local->sun_family = AF_UNIX;
		memcpy(local->sun_path, text, strlen(text));
		if (*text == '@')
			local->sun_path[0] = '\0';
		address->size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(text) + (*text == '/'));
		return;
	}
	inet->sin_family = AF_INET;
	inet->sin_port = htons((uint16_t)atoi(text));
	inet->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address->size = sizeof *inet;
}

static long send_message(int fd, struct address *address, int flags)
{
	struct iovec part = {"m", 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	message.msg_name = address->size ? &address->storage : NULL;
	message.msg_namelen = address->size;
	return sendmsg(fd, &message, flags | MSG_NOSIGNAL);
}

static long send_messages(int fd, struct address *address)
{
	struct iovec part = {"m", 1};
	struct mmsghdr message = {.msg_hdr = {.msg_iov = &part, .msg_iovlen = 1}};

	message.msg_hdr.msg_name = &address->storage;
	message.msg_hdr.msg_namelen = address->size;
	return sendmmsg(fd, &message, 1, MSG_NOSIGNAL);
}

/* A connection of its own to a listener: the other end's number, or -1. */
static long accept_one(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	return accept4(fd, NULL, NULL, SOCK_CLOEXEC);
}

static long disconnect(int fd)
{
	struct sockaddr none = {.sa_family = AF_UNSPEC};

	return connect(fd, &none, sizeof none);
}

static long reopen(int fd)
{
	char link[32];
	int opened;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	opened = open(link, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	return opened < 0 ? -1 : 0;
}

static long interfaces(int fd)
{
	struct ifconf found = {0};

	return ioctl(fd, SIOCGIFCONF, &found);
}

static long own_socket(int kind, const char *text)
{
	struct address address;
	int fd;

	read_address(text, &address);
	fd = socket(address.storage.ss_family, kind, 0);
	return fd < 0 ? fd : connect(fd, (struct sockaddr *)&address.storage, address.size);
}

static long step(const char *what, int fd, const char *text)
{
	struct address address;
	struct sockaddr *to = (struct sockaddr *)&address.storage;

	read_address(text, &address);
	if (!*text)
		address.size = 0;
	if (!strcmp(what, "connect"))
		return connect(fd, to, address.size);
	if (!strcmp(what, "disconnect"))
		return disconnect(fd);
	if (!strcmp(what, "bind"))
		return bind(fd, to, address.size);
	if (!strcmp(what, "listen"))
		return listen(fd, 5);
	if (!strcmp(what, "shutdown"))
		return shutdown(fd, SHUT_RDWR);
	if (!strcmp(what, "accept"))
		return accept_one(fd) < 0 ? -1 : 0;
	if (!strcmp(what, "send"))
		return sendto(fd, "s", 1, MSG_NOSIGNAL, NULL, 0);
	if (!strcmp(what, "write"))
		return write(fd, "w", 1);
	if (!strcmp(what, "sendto"))
		return sendto(fd, "t", 1, MSG_NOSIGNAL, to, address.size);
	if (!strcmp(what, "fastopen"))
		return sendto(fd, "f", 1, MSG_NOSIGNAL | MSG_FASTOPEN, to, address.size);
	if (!strcmp(what, "sendmsg"))
		return send_message(fd, &address, 0);
	if (!strcmp(what, "fastmsg"))
		return send_message(fd, &address, MSG_FASTOPEN);
	if (!strcmp(what, "sendmmsg"))
		return send_messages(fd, &address);
	if (!strcmp(what, "reopen"))
		return reopen(fd);
	if (!strcmp(what, "interfaces"))
		return interfaces(fd);
	if (!strcmp(what, "device"))
		return setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2);
	if (!strcmp(what, "chmod"))
		return fchmod(fd, 0600);
	if (!strcmp(what, "dup"))
		return dup2(fd, atoi(text)) < 0 ? -1 : 0;
	if (!strcmp(what, "own")) /* the number is the kind of socket */
		return own_socket(fd, text);
	exit(91);
}

int main(int argc, char **argv)
{
	probe_open();
	for (int at = 1; at < argc; at++) {
		char text[128], *number, *argument;
		long result;

		snprintf(text, sizeof text, "%s", argv[at]);
		number = strchr(text, ':');
		*number++ = '\0';
		argument = strchr(number, ':');
		if (argument)
			*argument++ = '\0';
		result = step(text, atoi(number), argument ? argument : "");
		verdict(argv[at], result < 0 ? -1 : result);
	}
	return 0;
}
