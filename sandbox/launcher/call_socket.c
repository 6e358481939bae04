/* call_socket.c: the socket of a call: what it is, whose network it is of; sockets that the supervisor makes. */
#include "call.h"

#include "inside.h"
#include "sys.h"

#include <linux/ioctl.h>

enum { LEVEL_SOCKET = 1, TYPE = 3, DOMAIN = 39, COOKIE = 71 };
enum { TYPE_BITS = 15, RAW = 3, IP_TCP = 6, IP_UDP = 17 };

long socket_option(int fd, int name, void *value, uint32_t size)
{
	return sys5(__NR_getsockopt, fd, LEVEL_SOCKET, name, addr(value), addr(&size));
}

int socket_number(int fd, int name)
{
	int value = 0;
	long failed = socket_option(fd, name, &value, sizeof value);

	return failed < 0 ? (int)failed : value;
}

uint64_t socket_cookie(int fd)
{
	uint64_t cookie = 0;

	socket_option(fd, COOKIE, &cookie, sizeof cookie);
	return cookie;
}

static bool is_inside(struct call *call)
{
	uint64_t cookie = socket_cookie(call->fd);

	if (cookie == net.cookie)
		return false;
	if (net.inside_cookie == 0) {
		int fd = inside_socket(net.plan, call->target, FAMILY_UNIX, SOCKET_DATAGRAM);

		if (fd < 0)
			return false;
		net.inside_cookie = socket_cookie(fd);
		sys_close(fd);
	}
	return cookie == net.inside_cookie;
}

/* Returns 0, or the -errno that the call itself would give for such a descriptor. */
int call_look(struct call *call)
{
	int domain = socket_number(call->fd, DOMAIN), type = socket_number(call->fd, TYPE);

	if (domain < 0 || type < 0)
		return domain < 0 ? domain : type;
	call->family = (unsigned)domain;
	call->type = (unsigned)type;
	call->inside = is_inside(call);
	return 0;
}

/* Whether a call may go on by itself, having looked at its socket: no second thread is there to exchange it, or what it
 * could be exchanged for Landlock holds. The filter lets no process share another's descriptors. */
bool call_goes_on_safely(struct call *call)
{
	return !(net.list->a & (LIST_UDP | LIST_UNGOVERNED)) || target_threads(call->target) == 1;
}

static bool is_reserved(uint32_t number)
{
	for_ops(net.plan, place, OP_PLACE) if (place->b == number) return true;
	return false;
}

/* What programs set before they bind or connect; level, option. asm-generic/socket.h, linux/in6.h, linux/tcp.h */
static void copy_options(int from, int to)
{
	static const int options[][2] = {{1, 2}, {1, 6}, {1, 7}, {1, 8}, {1, 9}, {1, 13}, {1, 15}, {1, 20}, {1, 21}, {6, 1}, {41, 26}};

	for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
		int level = options[i][0], name = options[i][1], value[4] = {0};
		uint32_t size = sizeof value;

		if (sys5(__NR_getsockopt, from, level, name, addr(value), addr(&size)) < 0)
			continue;
		if (level == LEVEL_SOCKET && (name == 7 || name == 8)) /* the kernel tells twice what was asked (socket(7)) */
			value[0] /= 2;
		sys5(__NR_setsockopt, to, level, name, addr(value), size);
	}
}

/* Put a socket of the sandbox's own network in the place of the call's. The descriptor's number and flags stay; an epoll
 * set or a copy that has the old one keeps it. */
int call_move_inside(struct call *call)
{
	struct seccomp_notif_addfd request = {.id = call->target->request->id, .flags = SECCOMP_ADDFD_FLAG_SETFD};
	char path[NUMBERED_PATH];
	long failed = target_open(call->target);
	int flags, status = sys_fcntl(call->fd, F_GETFL, 0), fd;

	request.newfd = (uint32_t)call->args[0];
	if (is_reserved(request.newfd)) /* it would no longer be the grant */
		return -EACCES;
	text_numbered_path(path, "fdinfo/", request.newfd);
	flags = failed < 0 ? (int)failed : target_flags(call->target->directory, path);
	if (flags < 0)
		return flags;
	request.newfd_flags = (uint32_t)(flags & O_CLOEXEC);
	fd = inside_socket(net.plan, call->target, call->family, call->type | (unsigned)(status & O_NONBLOCK));
	if (fd < 0)
		return fd;
	copy_options(call->fd, fd);
	request.srcfd = (uint32_t)fd;
	failed = sys3(__NR_ioctl, call->target->listener, SECCOMP_IOCTL_NOTIF_ADDFD, addr(&request));
	if (failed < 0) {
		sys_close(fd);
		return (int)failed;
	}
	sys_close(call->fd);
	call->fd = fd;
	call->inside = true;
	return 0;
}

static long give_socket(struct target *target, int fd, uint32_t flags)
{
	struct seccomp_notif_addfd request = {
		.id = target->request->id, .flags = SECCOMP_ADDFD_FLAG_SEND, .srcfd = (uint32_t)fd, .newfd_flags = flags & O_CLOEXEC};
	long failed;

	if (net.identity) /* whose it is, for what asks that of a packet */
		sys3(__NR_fchown, fd, net.identity->a, net.identity->b);
	failed = sys3(__NR_ioctl, target->listener, SECCOMP_IOCTL_NOTIF_ADDFD, addr(&request));
	return failed < 0 && failed != -ENOENT ? failed : (long)ANSWERED;
}

long call_make_socket(struct target *target)
{
	const __u64 *args = target->request->data.args;
	uint32_t family = (uint32_t)args[0], type = (uint32_t)args[1], protocol = (uint32_t)args[2], kind = type & TYPE_BITS;
	uint32_t own = kind == SOCKET_STREAM ? IP_TCP : IP_UDP;
	long fd;

	if (!is_internet(family))
		return netreport_family(target, NET_SOCKET, family, -EPERM);
	if (kind != SOCKET_STREAM && kind != SOCKET_DATAGRAM)
		return netreport_family(target, NET_SOCKET, family, kind == RAW ? -EPERM : -ESOCKTNOSUPPORT);
	if (protocol != 0 && protocol != own)
		return -EPROTONOSUPPORT;
	if (type & ~(uint32_t)(TYPE_BITS | O_CLOEXEC | O_NONBLOCK))
		return -EINVAL;
	fd = sys3(__NR_socket, family, type | O_CLOEXEC, own);
	if (fd >= 0) {
		long given = give_socket(target, (int)fd, type);

		sys_close((int)fd);
		return given;
	}
	return fd;
}
