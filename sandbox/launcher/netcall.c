/* netcall.c: socket, connect, bind, listen and the calls that send to an address, as the supervisor carries them out.
 *
 * Nothing is decided on memory that the program can change: an address is copied, checked, and the copy is used, on a
 * copy of the descriptor. A call is let go on by itself only where it cannot reach the network whatever a second thread
 * makes of it meanwhile (goes_on_safely). */
#include "netcall.h"

#include "inside.h"
#include "message_copy.h"
#include "netreport.h"
#include "network.h"
#include "report.h"
#include "sys.h"
#include "text.h"

#include <linux/eventpoll.h>
#include <linux/ioctl.h>
#include <linux/time.h>
#include <linux/time_types.h>

enum { LEVEL_SOCKET = 1, TYPE = 3, ERROR = 4, SEND_TIME = 21, ACCEPTS = 30, PROTOCOL = 38, DOMAIN = 39, COOKIE = 71 };
enum { TYPE_BITS = 15, RAW = 3, IP_TCP = 6, IP_UDP = 17 };
enum { FAST_OPEN = 0x20000000, ZERO_COPY = 0x4000000 }; /* MSG_ of linux/socket.h */
enum { WAITING_MAX = 1024, LOOK_EVERY_MS = 50, LOOK_AT_MOST = 128, SENT_AT_ONCE = 64 };
enum { SIGNAL_PIPE = 13, RESTART_CALL = 512 /* ERESTARTSYS, include/linux/errno.h */ };

/* What a call comes to beside a value or -errno. */
enum outcome { GOES_ON = -5000, WAITS = -5001, ANSWERED = -5002 };

struct call {
	struct target *target;
	const __u64 *args;
	int fd; /* our copy of its socket */
	unsigned family, type;
	bool inside;  /* the socket is of the sandbox's own network */
	bool resumed; /* it has waited for its socket */
};

/* A call that waits for its socket. Its request is kept, and the copy of its socket. */
struct waiting {
	struct seccomp_notif request;
	int fd; /* -1: the entry is free */
	int listener;
	int64_t until_ms; /* CLOCK_MONOTONIC, or 0 */
};

static struct {
	const struct plan *plan;
	const struct op *list; /* NULL: nobody asks */
	const struct op *identity;
	uint64_t cookie, inside_cookie; /* of the caller's network, and of the sandbox's; 0: not known yet */
	int ruleset, events;
	int count, next;
	struct waiting waiting[WAITING_MAX];
} net = {.ruleset = -1, .events = -1};

static long option(int fd, int name, void *value, uint32_t size)
{
	return sys5(__NR_getsockopt, fd, LEVEL_SOCKET, name, addr(value), addr(&size));
}

static int number_option(int fd, int name)
{
	int value = 0;
	long failed = option(fd, name, &value, sizeof value);

	return failed < 0 ? (int)failed : value;
}

static uint64_t cookie_of(int fd)
{
	uint64_t cookie = 0;

	option(fd, COOKIE, &cookie, sizeof cookie);
	return cookie;
}

void netcall_prepare(const struct plan *plan)
{
	int fd;

	net.plan = plan;
	net.list = plan_find(plan, OP_ALLOW_LIST);
	if (!net.list)
		return;
	net.identity = plan_find(plan, OP_IDENTITY);
	fd = (int)must(net.list, sys3(__NR_socket, FAMILY_UNIX, SOCKET_DATAGRAM | O_CLOEXEC, 0));
	net.cookie = cookie_of(fd);
	sys_close(fd);
	if (net.cookie == 0) /* SO_NETNS_COOKIE is Linux 5.14, and our floor 6.1 */
		fail(op_index(net.list), ENOPROTOOPT, 0);
	net.events = (int)must(net.list, sys1(__NR_epoll_create1, O_CLOEXEC));
	for (int i = 0; i < WAITING_MAX; i++)
		net.waiting[i].fd = -1;
}

void netcall_hold_ruleset(int fd)
{
	net.ruleset = fd;
}

int netcall_descriptor(void)
{
	return net.events;
}

int netcall_timeout(void)
{
	return net.count > 0 ? LOOK_EVERY_MS : -1;
}

/* ---- the socket of a call ---- */

static bool is_inside(struct call *call)
{
	uint64_t cookie = cookie_of(call->fd);

	if (cookie == net.cookie)
		return false;
	if (net.inside_cookie == 0) {
		int fd = inside_socket(net.plan, call->target, FAMILY_UNIX, SOCKET_DATAGRAM);

		if (fd < 0)
			return false;
		net.inside_cookie = cookie_of(fd);
		sys_close(fd);
	}
	return cookie == net.inside_cookie;
}

/* Returns 0, or the -errno that the call itself would give for such a descriptor. */
static int look_at_socket(struct call *call)
{
	int domain = number_option(call->fd, DOMAIN), type = number_option(call->fd, TYPE);

	if (domain < 0 || type < 0)
		return domain < 0 ? domain : type;
	call->family = (unsigned)domain;
	call->type = (unsigned)type;
	call->inside = is_inside(call);
	return 0;
}

static bool is_internet(unsigned family)
{
	return family == FAMILY_INET || family == FAMILY_INET6;
}

static unsigned kind_of(const struct call *call)
{
	return call->type == SOCKET_DATAGRAM ? NET_UDP : 0;
}

/* Whether a call may go on by itself, having looked at its socket: no second thread is there to exchange it, or what it
 * could be exchanged for Landlock holds. The filter lets no process share another's descriptors. */
static bool goes_on_safely(struct call *call)
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
static int move_inside(struct call *call)
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

/* ---- addresses ---- */

/* Copy an address out of the program's memory; after that the copy counts. */
static int read_address(struct call *call, uint64_t from, uint64_t size, uint8_t bytes[ADDRESS_MAX])
{
	if ((int32_t)size < 0 || (uint32_t)size > ADDRESS_MAX)
		return -EINVAL;
	__builtin_memset(bytes, 0, ADDRESS_MAX);
	if ((uint32_t)size > 0 && target_read(call->target->pid, from, bytes, (uint32_t)size) != (long)(uint32_t)size)
		return -EFAULT;
	return target_is_there(call->target) ? 0 : -ESRCH;
}

/* An address that holds nothing but what was checked, of the family that the program gave. */
struct clean {
	uint8_t bytes[ADDRESS_MAX];
	uint32_t size;
};

static void clean_address(const uint8_t *bytes, struct clean *clean)
{
	unsigned family = address_family((const char *)bytes);

	__builtin_memset(clean->bytes, 0, sizeof clean->bytes);
	clean->size = family == FAMILY_INET ? INET_SIZE : family == FAMILY_INET6 ? INET6_SIZE : 16;
	__builtin_memcpy(clean->bytes, bytes, family == FAMILY_NONE ? FAMILY_SIZE : clean->size);
	if (family == FAMILY_INET)
		__builtin_memset(clean->bytes + 8, 0, 8); /* sin_zero */
	if (family == FAMILY_INET6)
		__builtin_memset(clean->bytes + 4, 0, 4); /* the flow label */
}

static long tell(struct call *call, enum net_call what, const struct peer *peer, enum net_verdict verdict,
		 const struct op *rule, long result)
{
	netreport_peer(call->target, what, peer, kind_of(call) == NET_UDP, verdict, rule, result);
	return result;
}

/* ---- connect ---- */

static int64_t now_ms(void)
{
	struct __kernel_timespec now = {0};

	sys2(__NR_clock_gettime, CLOCK_MONOTONIC, addr(&now));
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Connect without waiting. A blocking socket is made to not block for that moment: it is not connected, so that no other
 * call on it could wait, and whoever else has it sees at most that flag. */
static long connect_now(const struct call *call, const struct clean *clean)
{
	int flags = sys_fcntl(call->fd, F_GETFL, 0);
	bool blocks = !(flags & O_NONBLOCK) && call->type != SOCKET_DATAGRAM;
	long result;

	if (blocks)
		sys_fcntl(call->fd, F_SETFL, (unsigned long)(flags | O_NONBLOCK));
	result = sys3(__NR_connect, call->fd, addr(clean->bytes), clean->size);
	if (blocks)
		sys_fcntl(call->fd, F_SETFL, (unsigned long)flags);
	return blocks && (result == -EINPROGRESS || result == -EALREADY) ? (long)WAITS : result;
}

/* What connect(2) gives for a socket that has become ready. */
static long connect_ended(const struct call *call)
{
	int error = number_option(call->fd, ERROR);

	return error > 0 ? -error : error;
}

static bool has_peer(int fd)
{
	uint8_t peer[ADDRESS_MAX];
	uint32_t size = sizeof peer;

	return sys3(__NR_getpeername, fd, addr(peer), addr(&size)) == 0;
}

static long connect_internet(struct call *call)
{
	uint8_t bytes[ADDRESS_MAX];
	struct peer peer;
	struct clean clean;
	const struct op *rule;
	long failed = read_address(call, call->args[1], call->args[2], bytes);

	if (failed == 0)
		failed = network_read(bytes, (uint32_t)call->args[2], &peer);
	if (failed < 0)
		return failed;
	clean_address(bytes, &clean);
	if (peer.family == FAMILY_NONE) /* it takes the peer away, which is no way to another */
		return sys3(__NR_connect, call->fd, addr(clean.bytes), clean.size);
	if (call->inside)
		return tell(call, NET_CONNECT, &peer, network_is_loopback(&peer) ? NET_INSIDE : NET_REFUSED, NULL,
			    connect_now(call, &clean));
	rule = network_rule(net.plan, &peer, kind_of(call));
	if (network_allows(rule))
		return tell(call, NET_CONNECT, &peer, NET_ALLOWED, rule, connect_now(call, &clean));
	if (!(net.list->a & LIST_LOOPBACK) || !network_is_loopback(&peer))
		return tell(call, NET_CONNECT, &peer, NET_REFUSED, rule, -EACCES);
	if (call->type == SOCKET_STREAM && has_peer(call->fd)) /* the kernel's own answer, and it keeps its connection */
		return tell(call, NET_CONNECT, &peer, NET_REFUSED, rule, -EISCONN);
	failed = move_inside(call);
	return tell(call, NET_CONNECT, &peer, NET_INSIDE, NULL, failed < 0 ? failed : connect_now(call, &clean));
}

/* A Unix address leads where the program stands. nr: what is to be done with it. */
static long call_unix(struct call *call, int nr)
{
	static uint8_t bytes[ADDRESS_MAX];
	struct inside_call there = {.socket = call->fd, .nr = nr, .argument = bytes, .size = (uint32_t)call->args[2]};
	long failed;

	if (goes_on_safely(call))
		return GOES_ON;
	failed = read_address(call, call->args[1], call->args[2], bytes);
	if (failed == 0)
		failed = inside_run(net.plan, call->target, &there, net.ruleset);
	return failed < 0 ? failed : (long)ANSWERED;
}

static long do_connect(struct call *call)
{
	if (call->resumed)
		return connect_ended(call);
	if (call->family == FAMILY_UNIX)
		return call_unix(call, __NR_connect);
	return is_internet(call->family) ? connect_internet(call) : netreport_family(call->target, NET_CONNECT, call->family, -EACCES);
}

/* ---- bind and listen ---- */

/* A port that the kernel chooses is where answers come to: it opens nothing that whoever sends does not open, and a
 * socket that listens is asked for again. */
static bool is_source(const struct peer *peer)
{
	return peer->port == 0 && (network_is_any(peer) || !network_is_loopback(peer));
}

static long bind_internet(struct call *call)
{
	uint8_t bytes[ADDRESS_MAX];
	struct peer peer;
	struct clean clean;
	const struct op *rule;
	long failed = read_address(call, call->args[1], call->args[2], bytes);

	if (failed == 0 && address_family((const char *)bytes) == FAMILY_NONE && call->family == FAMILY_INET)
		bytes[0] = FAMILY_INET; /* as the kernel takes it, for old programs; it refuses all but 0.0.0.0 */
	if (failed == 0)
		failed = network_read(bytes, (uint32_t)call->args[2], &peer);
	if (failed == 0 && peer.family == FAMILY_NONE)
		failed = -EAFNOSUPPORT;
	if (failed < 0)
		return failed;
	clean_address(bytes, &clean);
	rule = call->inside ? NULL : network_rule(net.plan, &peer, kind_of(call) | NET_BIND);
	if (call->inside || network_allows(rule) || is_source(&peer))
		return tell(call, NET_BIND_TO, &peer, call->inside ? NET_INSIDE : NET_ALLOWED, rule,
			    sys3(__NR_bind, call->fd, addr(clean.bytes), clean.size));
	if (!(net.list->a & LIST_LOOPBACK))
		return tell(call, NET_BIND_TO, &peer, NET_REFUSED, NULL, -EACCES);
	failed = move_inside(call);
	return tell(call, NET_BIND_TO, &peer, NET_INSIDE, NULL,
		    failed < 0 ? failed : sys3(__NR_bind, call->fd, addr(clean.bytes), clean.size));
}

static long do_bind(struct call *call)
{
	if (call->family == FAMILY_UNIX)
		return call_unix(call, __NR_bind);
	return is_internet(call->family) ? bind_internet(call) : netreport_family(call->target, NET_BIND_TO, call->family, -EACCES);
}

/* Listen in the sandbox's own network instead, on the port that it has got already. */
static long listen_inside(struct call *call, const struct clean *where, const struct peer *peer)
{
	long failed = move_inside(call);

	if (failed == 0 && (peer->port || !network_is_any(peer)))
		failed = sys3(__NR_bind, call->fd, addr(where->bytes), where->size);
	return failed < 0 ? failed : sys2(__NR_listen, call->fd, (long)call->args[1]);
}

static long do_listen(struct call *call)
{
	struct clean where = {.size = ADDRESS_MAX};
	struct peer peer = {.family = FAMILY_INET};
	const struct op *rule;

	if (!is_internet(call->family) || call->inside || number_option(call->fd, ACCEPTS) > 0)
		return sys2(__NR_listen, call->fd, (long)call->args[1]); /* it changes the backlog at most */
	if (sys3(__NR_getsockname, call->fd, addr(where.bytes), addr(&where.size)) < 0 ||
	    network_read(where.bytes, where.size, &peer) < 0)
		return -EACCES;
	rule = network_rule(net.plan, &peer, kind_of(call) | NET_BIND);
	if (network_allows(rule))
		return tell(call, NET_LISTEN, &peer, NET_ALLOWED, rule, sys2(__NR_listen, call->fd, (long)call->args[1]));
	if (!(net.list->a & LIST_LOOPBACK))
		return tell(call, NET_LISTEN, &peer, NET_REFUSED, NULL, -EACCES);
	return tell(call, NET_LISTEN, &peer, NET_INSIDE, NULL, listen_inside(call, &where, &peer));
}

/* ---- sending ---- */

/* Whether a message may go to the address that it names, if it names one. Returns 0 or -errno; `copy` then has an
 * address that was checked, or none. */
static long check_destination(struct call *call, struct message_copy *copy, uint32_t flags)
{
	struct clean clean;
	struct peer peer;
	const struct op *rule;
	long failed;

	if (copy->name_size == 0)
		return 0;
	if (call->type != SOCKET_DATAGRAM && !(flags & FAST_OPEN)) { /* a stream has its peer, and nobody looks at the name */
		copy->name_size = 0;
		return 0;
	}
	if (call->family == FAMILY_INET && address_family((const char *)copy->name) == FAMILY_NONE)
		copy->name[0] = FAMILY_INET; /* as the kernel takes it (udp_sendmsg) */
	failed = network_read(copy->name, copy->name_size, &peer);
	if (failed < 0)
		return failed;
	if (peer.family == FAMILY_NONE) {
		copy->name_size = 0;
		return 0;
	}
	clean_address(copy->name, &clean);
	__builtin_memcpy(copy->name, clean.bytes, clean.size);
	copy->name_size = clean.size;
	rule = call->inside ? NULL : network_rule(net.plan, &peer, kind_of(call));
	if (call->inside || network_allows(rule))
		return tell(call, NET_SEND, &peer, call->inside ? NET_INSIDE : NET_ALLOWED, rule, 0);
	if (!(net.list->a & LIST_LOOPBACK) || !network_is_loopback(&peer))
		return tell(call, NET_SEND, &peer, NET_REFUSED, rule, -EACCES);
	failed = move_inside(call);
	return tell(call, NET_SEND, &peer, NET_INSIDE, NULL, failed);
}

/* Send the copy. A blocking socket that takes nothing now makes the call wait. */
static long send_copy(struct call *call, struct message_copy *copy, uint32_t flags)
{
	bool blocks = !(flags & SYS_MSG_DONTWAIT) && !(sys_fcntl(call->fd, F_GETFL, 0) & O_NONBLOCK);
	uint32_t sent_with = flags | SYS_MSG_DONTWAIT | SYS_MSG_NOSIGNAL;
	struct sys_message message = message_copied(copy);
	long result;

	if (call->resumed)
		sent_with &= ~(uint32_t)FAST_OPEN; /* it is connected by now, or has failed */
	result = sys3(__NR_sendmsg, call->fd, addr(&message), sent_with);
	if (result == -EPIPE && !(flags & SYS_MSG_NOSIGNAL) && call->type != SOCKET_DATAGRAM)
		sys4(__NR_pidfd_send_signal, target_pidfd(call->target), SIGNAL_PIPE, 0, 0);
	if ((result == -EAGAIN || (result == -EINPROGRESS && flags & FAST_OPEN)) && blocks)
		return WAITS;
	return result;
}

static long send_message(struct call *call, struct message_copy *copy, uint32_t flags)
{
	long failed;

	if (flags & ZERO_COPY) /* the kernel would go on reading our copy */
		return -EOPNOTSUPP;
	if (call->family == FAMILY_UNIX && copy->name_size > 0) {
		static struct sys_message message;
		const struct inside_call there = {call->fd, __NR_sendmsg, &message, flags | SYS_MSG_NOSIGNAL};

		message = message_copied(copy);
		failed = inside_run(net.plan, call->target, &there, net.ruleset);
		return failed < 0 ? failed : (long)ANSWERED;
	}
	if (is_internet(call->family)) {
		failed = check_destination(call, copy, flags);
		if (failed < 0)
			return failed;
	}
	return send_copy(call, copy, flags);
}

/* What names no address of the internet, and on a socket that is not the caller's network's, goes on where it may. */
static bool may_go_on(struct call *call, uint32_t flags)
{
	bool harmless = !is_internet(call->family) || call->inside || call->type != SOCKET_DATAGRAM;

	return harmless && !(flags & FAST_OPEN) && target_threads(call->target) == 1;
}

static long do_send_to(struct call *call)
{
	struct message_copy *copy = message_buffer();
	uint32_t flags = (uint32_t)call->args[3];
	long failed;

	if (!is_internet(call->family) && call->family != FAMILY_UNIX)
		return netreport_family(call->target, NET_SEND, call->family, -EACCES);
	if (may_go_on(call, flags))
		return GOES_ON;
	failed = message_of_buffer(copy, call->target, call->args[1], call->args[2], call->type == SOCKET_STREAM);
	if (failed == 0)
		failed = read_address(call, call->args[4], call->args[5], copy->name);
	copy->name_size = (uint32_t)call->args[5];
	return failed < 0 ? failed : send_message(call, copy, flags);
}

static long send_one(struct call *call, uint64_t header, uint32_t flags)
{
	struct message_copy *copy = message_buffer();
	long result = message_of_header(copy, call->target, header, call->family, call->type == SOCKET_STREAM);

	if (result == 0)
		result = target_is_there(call->target) ? send_message(call, copy, flags) : -ESRCH;
	message_release(copy);
	return result;
}

static long do_send_message(struct call *call)
{
	uint32_t flags = (uint32_t)call->args[2];

	if (!is_internet(call->family) && call->family != FAMILY_UNIX)
		return netreport_family(call->target, NET_SEND, call->family, -EACCES);
	return may_go_on(call, flags) ? (long)GOES_ON : send_one(call, call->args[1], flags);
}

/* As many as are sent without waiting; the call may return fewer than it was asked for. */
static long do_send_messages(struct call *call)
{
	uint32_t flags = (uint32_t)call->args[3], count = (uint32_t)call->args[2], done;

	if (!is_internet(call->family) && call->family != FAMILY_UNIX)
		return netreport_family(call->target, NET_SEND, call->family, -EACCES);
	if (may_go_on(call, flags))
		return GOES_ON;
	for (done = 0; done < count && done < SENT_AT_ONCE; done++) {
		uint64_t header = call->args[1] + (uint64_t)done * MESSAGES_STEP;
		long sent = send_one(call, header, flags);

		if (sent == ANSWERED) /* with the bytes of one message, where this call gives how many were sent */
			return ANSWERED;
		if (sent < 0)
			return done > 0 ? (long)done : sent;
		if (message_tell_sent(call->target, header, (uint32_t)sent) < 0)
			return -EFAULT;
	}
	return (long)done;
}

/* ---- socket and setsockopt ---- */

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

static long do_socket(struct target *target)
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

/* ---- answers ---- */

static void answer(struct target *target, long result)
{
	struct seccomp_notif_resp response = {.id = target->request->id};

	if (result == GOES_ON)
		response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	else if (result < 0)
		response.error = (int)result;
	else
		response.val = result;
	sys3(__NR_ioctl, target->listener, SECCOMP_IOCTL_NOTIF_SEND, addr(&response)); /* ENOENT: it is gone */
}

static long carry_out(struct call *call)
{
	switch (call->target->request->data.nr) {
	case __NR_connect: return do_connect(call);
	case __NR_bind: return do_bind(call);
	case __NR_listen: return do_listen(call);
	case __NR_sendto: return do_send_to(call);
	case __NR_sendmsg: return do_send_message(call);
	case __NR_sendmmsg: return do_send_messages(call);
	default: return -EPERM;
	}
}

static int64_t time_limit(int fd)
{
	int64_t limit[2] = {0}; /* struct timeval */

	option(fd, SEND_TIME, limit, sizeof limit);
	return limit[0] || limit[1] ? now_ms() + limit[0] * 1000 + limit[1] / 1000 + 1 : 0;
}

/* Keep a call until its socket is ready. Returns false where there is no more room. */
static bool keep(const struct target *target, int fd)
{
	struct epoll_event event = {.events = EPOLLOUT | EPOLLONESHOT};

	for (int i = 0; i < WAITING_MAX; i++) {
		struct waiting *entry = &net.waiting[i];

		if (entry->fd >= 0)
			continue;
		event.data = (__u64)i;
		if (sys4(__NR_epoll_ctl, net.events, EPOLL_CTL_ADD, fd, addr(&event)) < 0)
			return false;
		*entry = (struct waiting){*target->request, fd, target->listener, time_limit(fd)};
		net.count++;
		return true;
	}
	return false;
}

static void settle(struct call *call)
{
	long result = carry_out(call);

	if (result == WAITS) {
		if (keep(call->target, call->fd))
			return; /* the copy is kept as well */
		result = -ENOBUFS;
	}
	sys_close(call->fd);
	if (result != ANSWERED)
		answer(call->target, result);
}

void netcall_answer(struct target *target)
{
	const struct seccomp_data *data = &target->request->data;
	struct call call = {.target = target, .args = data->args};
	long failed = -EPERM;

	if (!net.list)
		answer(target, -EPERM);
	else if (data->nr == __NR_socket || data->nr == __NR_setsockopt) {
		failed = data->nr == __NR_socket ? do_socket(target) : netreport_option(target, -EPERM);
		if (failed != ANSWERED)
			answer(target, failed);
	} else {
		call.fd = target_take(target, (uint32_t)data->args[0]);
		failed = call.fd < 0 ? call.fd : look_at_socket(&call);
		if (failed == 0 && !target_is_there(target))
			failed = -ESRCH;
		if (failed == 0) {
			settle(&call);
			return;
		}
		if (call.fd >= 0)
			sys_close(call.fd);
		answer(target, failed);
	}
}

/* ---- calls that wait ---- */

static void forget(struct waiting *entry)
{
	sys_close(entry->fd); /* and with it, it leaves the epoll set, unless the program has the socket still */
	entry->fd = -1;
	net.count--;
}

static struct target target_of(const struct waiting *entry)
{
	return (struct target){&entry->request, entry->listener, (int)entry->request.pid, -1, -1};
}

static void leave_events(const struct waiting *entry)
{
	sys4(__NR_epoll_ctl, net.events, EPOLL_CTL_DEL, entry->fd, 0);
}

static void go_on(struct waiting *entry)
{
	struct seccomp_notif request = entry->request;
	struct target target = {&request, entry->listener, (int)request.pid, -1, -1};
	struct call call = {.target = &target, .args = request.data.args, .fd = entry->fd, .resumed = true};

	leave_events(entry);
	entry->fd = -1;
	net.count--;
	if (look_at_socket(&call) == 0 && target_is_there(&target))
		settle(&call);
	else
		sys_close(call.fd);
	target_close(&target);
}

/* A call that waits longer than its socket's SO_SNDTIMEO, or whose thread has a signal to handle or is dead. */
static void look_after(struct waiting *entry, int64_t now)
{
	struct target target = target_of(entry);
	long result = 0;

	if (!target_is_there(&target))
		result = -ESRCH;
	else if (entry->until_ms && now >= entry->until_ms)
		result = entry->request.data.nr == __NR_connect ? -EINPROGRESS : -EAGAIN;
	else if (target_is_signalled(&target))
		result = target_threads(&target) == 1 ? -RESTART_CALL : -EINTR;
	if (result) {
		leave_events(entry);
		answer(&target, result);
		forget(entry);
	}
	target_close(&target);
}

void netcall_go_on(void)
{
	struct epoll_event ready[32];
	long count = net.count ? sys4(__NR_epoll_wait, net.events, addr(ready), 32, 0) : 0;
	int64_t now = now_ms();

	for (long i = 0; i < count; i++)
		if (net.waiting[ready[i].data].fd >= 0)
			go_on(&net.waiting[ready[i].data]);
	for (int looked = 0, steps = 0; net.count && looked < LOOK_AT_MOST && steps < WAITING_MAX; steps++) {
		struct waiting *entry = &net.waiting[net.next];

		net.next = (net.next + 1) % WAITING_MAX;
		if (entry->fd < 0)
			continue;
		looked++;
		look_after(entry, now);
	}
}
