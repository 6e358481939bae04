/* message.h: what the init and the child tell the supervisor over their socket, a message each. */
#ifndef MESSAGE_H
#define MESSAGE_H

#include "sys.h"

#include <linux/time.h>

enum message_type {
	MESSAGE_GRANT = 'G',	/* with a copy of a grant that propagates */
	MESSAGE_RULESET = 'R',	/* with what Landlock enforces, where the supervisor acts inside the sandbox */
	MESSAGE_LISTENER = 'L', /* with the gate's seccomp listener */
	MESSAGE_MANAGER = 'M',	/* with the socket by which the command tells a service manager how it is */
	MESSAGE_TERMINAL = 'T', /* with the master of the private terminal */
	MESSAGE_STARTED = 'S',	/* with a pidfd: the command's exec succeeded */
	MESSAGE_STOPPED = 'P',	/* the command was stopped */
	MESSAGE_ENDED = 'E',	/* the command ended; status as wait4(2) gives it */
};

struct message {
	int32_t type, status;
};

enum { SEND_TRIES = 2000, SEND_PAUSE_NS = 1000000 };

/* Returns 0 or -errno. fd: sent along, stays the sender's; -1: none. A user may have no more descriptors under way, of
 * all that it does, than the sender may have open (unix(7), ETOOMANYREFS): it waits until others have arrived.
 * cookie: what lets it past a filter of ours (confine.c). */
static inline long message_send_past(int socket, enum message_type type, int status, int fd, const uint64_t cookie[3])
{
	struct message content = {type, status};
	struct sys_rights rights = {SYS_RIGHTS_SIZE, SYS_SOL_SOCKET, SYS_SCM_RIGHTS, fd, 0};
	struct iovec part = {&content, sizeof content};
	struct sys_message message = {.parts = &part, .part_count = 1};
	long sent;

	if (fd >= 0) {
		message.control = &rights;
		message.control_size = sizeof rights;
	}
	for (int tries = 0;; tries++) {
		const struct __kernel_timespec pause = {.tv_nsec = SEND_PAUSE_NS};

		sent = sys6(__NR_sendmsg, socket, addr(&message), SYS_MSG_NOSIGNAL, (long)cookie[0], (long)cookie[1], (long)cookie[2]);
		if (sent != -ETOOMANYREFS || tries == SEND_TRIES)
			return sent < 0 ? sent : 0;
		sys2(__NR_nanosleep, addr(&pause), 0);
	}
}

static inline long message_send(int socket, enum message_type type, int status, int fd)
{
	const uint64_t none[3] = {0};

	return message_send_past(socket, type, status, fd, none);
}

/* Never blocks. Returns the size received, 0 at the end, -errno (EAGAIN: nothing yet). *fd: the receiver's, or -1. */
static inline long message_receive(int socket, struct message *content, int *fd)
{
	struct sys_rights rights = {0};
	struct iovec part = {content, sizeof *content};
	struct sys_message message = {.parts = &part, .part_count = 1, .control = &rights, .control_size = sizeof rights};
	long size = sys3(__NR_recvmsg, socket, addr(&message), SYS_MSG_DONTWAIT | SYS_MSG_CMSG_CLOEXEC);

	*fd = size > 0 && message.control_size >= SYS_RIGHTS_SIZE && rights.type == SYS_SCM_RIGHTS ? rights.fd : -1;
	return size;
}

#endif
