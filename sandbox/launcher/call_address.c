/* call_address.c: connect, bind and listen, where a rule allows them; and addresses, copied before they are looked at. */
#include "call.h"

#include "inside.h"
#include "sys.h"

/* Copy an address out of the program's memory; after that the copy counts. */
int call_read_address(struct call *call, uint64_t from, uint64_t size, uint8_t bytes[ADDRESS_MAX])
{
	if ((int32_t)size < 0 || (uint32_t)size > ADDRESS_MAX)
		return -EINVAL;
	__builtin_memset(bytes, 0, ADDRESS_MAX);
	if ((uint32_t)size > 0 && target_read(call->target->pid, from, bytes, (uint32_t)size) != (long)(uint32_t)size)
		return -EFAULT;
	return target_is_there(call->target) ? 0 : -ESRCH;
}

void clean_address(const uint8_t *bytes, struct clean *clean)
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

long call_tell(struct call *call, enum net_call what, const struct peer *peer, enum net_verdict verdict,
		 const struct op *rule, long result)
{
	netreport_peer(call->target, what, peer, call_kind(call) == NET_UDP, verdict, rule, result);
	return result;
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
	int error = socket_number(call->fd, SO_ERROR_NUMBER);

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
	long failed = call_read_address(call, call->args[1], call->args[2], bytes);

	if (failed == 0)
		failed = network_read(bytes, (uint32_t)call->args[2], &peer);
	if (failed < 0)
		return failed;
	clean_address(bytes, &clean);
	if (peer.family == FAMILY_NONE) /* it takes the peer away, which is no way to another */
		return sys3(__NR_connect, call->fd, addr(clean.bytes), clean.size);
	if (call->inside)
		return call_tell(call, NET_CONNECT, &peer, network_is_loopback(&peer) ? NET_INSIDE : NET_REFUSED, NULL,
			    connect_now(call, &clean));
	rule = network_rule(net.plan, &peer, call_kind(call));
	if (network_allows(rule))
		return call_tell(call, NET_CONNECT, &peer, NET_ALLOWED, rule, connect_now(call, &clean));
	if (!(net.list->a & LIST_LOOPBACK) || !network_is_loopback(&peer))
		return call_tell(call, NET_CONNECT, &peer, NET_REFUSED, rule, -EACCES);
	if (call->type == SOCKET_STREAM && has_peer(call->fd)) /* the kernel's own answer, and it keeps its connection */
		return call_tell(call, NET_CONNECT, &peer, NET_REFUSED, rule, -EISCONN);
	failed = call_move_inside(call);
	return call_tell(call, NET_CONNECT, &peer, NET_INSIDE, NULL, failed < 0 ? failed : connect_now(call, &clean));
}

/* A Unix address leads where the program stands. nr: what is to be done with it. */
static long call_unix(struct call *call, int nr)
{
	static uint8_t bytes[ADDRESS_MAX];
	struct inside_call there = {.socket = call->fd, .nr = nr, .argument = bytes, .size = (uint32_t)call->args[2]};
	long failed;

	if (call_goes_on_safely(call))
		return GOES_ON;
	failed = call_read_address(call, call->args[1], call->args[2], bytes);
	if (failed == 0)
		failed = inside_run(net.plan, call->target, &there, net.ruleset);
	return failed < 0 ? failed : (long)ANSWERED;
}

long call_connect(struct call *call)
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
	long failed = call_read_address(call, call->args[1], call->args[2], bytes);

	if (failed == 0 && address_family((const char *)bytes) == FAMILY_NONE && call->family == FAMILY_INET)
		bytes[0] = FAMILY_INET; /* as the kernel takes it, for old programs; it refuses all but 0.0.0.0 */
	if (failed == 0)
		failed = network_read(bytes, (uint32_t)call->args[2], &peer);
	if (failed == 0 && peer.family == FAMILY_NONE)
		failed = -EAFNOSUPPORT;
	if (failed < 0)
		return failed;
	clean_address(bytes, &clean);
	rule = call->inside ? NULL : network_rule(net.plan, &peer, call_kind(call) | NET_BIND);
	if (call->inside || network_allows(rule) || is_source(&peer))
		return call_tell(call, NET_BIND_TO, &peer, call->inside ? NET_INSIDE : NET_ALLOWED, rule,
			    sys3(__NR_bind, call->fd, addr(clean.bytes), clean.size));
	if (!(net.list->a & LIST_LOOPBACK))
		return call_tell(call, NET_BIND_TO, &peer, NET_REFUSED, NULL, -EACCES);
	failed = call_move_inside(call);
	return call_tell(call, NET_BIND_TO, &peer, NET_INSIDE, NULL,
		    failed < 0 ? failed : sys3(__NR_bind, call->fd, addr(clean.bytes), clean.size));
}

long call_bind(struct call *call)
{
	if (call->family == FAMILY_UNIX)
		return call_unix(call, __NR_bind);
	return is_internet(call->family) ? bind_internet(call) : netreport_family(call->target, NET_BIND_TO, call->family, -EACCES);
}

/* Listen in the sandbox's own network instead, on the port that it has got already. */
static long listen_inside(struct call *call, const struct clean *where, const struct peer *peer)
{
	long failed = call_move_inside(call);

	if (failed == 0 && (peer->port || !network_is_any(peer)))
		failed = sys3(__NR_bind, call->fd, addr(where->bytes), where->size);
	return failed < 0 ? failed : sys2(__NR_listen, call->fd, (long)call->args[1]);
}

long call_listen(struct call *call)
{
	struct clean where = {.size = ADDRESS_MAX};
	struct peer peer = {.family = FAMILY_INET};
	const struct op *rule;

	if (!is_internet(call->family) || call->inside || socket_number(call->fd, SO_ACCEPTS) > 0)
		return sys2(__NR_listen, call->fd, (long)call->args[1]); /* it changes the backlog at most */
	if (sys3(__NR_getsockname, call->fd, addr(where.bytes), addr(&where.size)) < 0 ||
	    network_read(where.bytes, where.size, &peer) < 0)
		return -EACCES;
	rule = network_rule(net.plan, &peer, call_kind(call) | NET_BIND);
	if (network_allows(rule))
		return call_tell(call, NET_LISTEN, &peer, NET_ALLOWED, rule, sys2(__NR_listen, call->fd, (long)call->args[1]));
	if (!(net.list->a & LIST_LOOPBACK))
		return call_tell(call, NET_LISTEN, &peer, NET_REFUSED, NULL, -EACCES);
	return call_tell(call, NET_LISTEN, &peer, NET_INSIDE, NULL, listen_inside(call, &where, &peer));
}
