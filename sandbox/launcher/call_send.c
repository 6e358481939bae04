/* call_send.c: messages that name an address, or go by a socket that might: sent by the supervisor from its own copy. */
#include "call.h"

#include "inside.h"
#include "message_copy.h"
#include "sys.h"

enum { SENT_AT_ONCE = 64 };

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
	if (call->type != SOCKET_DATAGRAM && !(flags & MSG_FAST_OPEN)) { /* a stream has its peer, and nobody looks at the name */
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
	rule = call->inside ? NULL : network_rule(net.plan, &peer, call_kind(call));
	if (call->inside || network_allows(rule))
		return call_tell(call, NET_SEND, &peer, call->inside ? NET_INSIDE : NET_ALLOWED, rule, 0);
	if (!(net.list->a & LIST_LOOPBACK) || !network_is_loopback(&peer))
		return call_tell(call, NET_SEND, &peer, NET_REFUSED, rule, -EACCES);
	failed = call_move_inside(call);
	return call_tell(call, NET_SEND, &peer, NET_INSIDE, NULL, failed);
}

/* Send the copy. A blocking socket that takes nothing now makes the call wait. */
static long send_copy(struct call *call, struct message_copy *copy, uint32_t flags)
{
	bool blocks = !(flags & SYS_MSG_DONTWAIT) && !(sys_fcntl(call->fd, F_GETFL, 0) & O_NONBLOCK);
	uint32_t sent_with = flags | SYS_MSG_DONTWAIT | SYS_MSG_NOSIGNAL;
	struct sys_message message = message_copied(copy);
	long result;

	if (call->resumed)
		sent_with &= ~(uint32_t)MSG_FAST_OPEN; /* it is connected by now, or has failed */
	result = sys3(__NR_sendmsg, call->fd, addr(&message), sent_with);
	if (result == -EPIPE && !(flags & SYS_MSG_NOSIGNAL) && call->type != SOCKET_DATAGRAM)
		sys4(__NR_pidfd_send_signal, target_pidfd(call->target), SIGNAL_PIPE, 0, 0);
	if ((result == -EAGAIN || (result == -EINPROGRESS && flags & MSG_FAST_OPEN)) && blocks)
		return WAITS;
	return result;
}

static long send_message(struct call *call, struct message_copy *copy, uint32_t flags)
{
	long failed;

	if (flags & MSG_ZERO_COPY) /* the kernel would go on reading our copy */
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

	return harmless && !(flags & MSG_FAST_OPEN) && target_threads(call->target) == 1;
}

long call_send_to(struct call *call)
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
		failed = call_read_address(call, call->args[4], call->args[5], copy->name);
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

long call_send_message(struct call *call)
{
	uint32_t flags = (uint32_t)call->args[2];

	if (!is_internet(call->family) && call->family != FAMILY_UNIX)
		return netreport_family(call->target, NET_SEND, call->family, -EACCES);
	return may_go_on(call, flags) ? (long)GOES_ON : send_one(call, call->args[1], flags);
}

/* As many as are sent without waiting; the call may return fewer than it was asked for. */
long call_send_messages(struct call *call)
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
