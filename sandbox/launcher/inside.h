/* inside.h: what the supervisor has done in the sandbox's own namespaces: sockets of its network, paths of its view. */
#ifndef INSIDE_H
#define INSIDE_H

#include "plan.h"
#include "target.h"

/* A socket of the target's network namespace, ours, close-on-exec; or -errno. type: with SOCK_NONBLOCK as it may be. */
int inside_socket(const struct plan *plan, struct target *target, unsigned family, unsigned type);

/* A call that names a Unix address, as the target would make it: with its paths, its mask and no capability. */
struct inside_call {
	int socket; /* ours */
	int nr;	    /* __NR_connect, __NR_bind or __NR_sendmsg */
	const void *argument; /* the address, or the struct msghdr */
	uint32_t size;	      /* the address's size, or the flags */
};

/* Carry it out in a process of its own, since it may wait, which answers the target itself. ruleset: what Landlock
 * enforces on the sandbox, or -1. Returns 0, or the -errno to answer with. */
int inside_run(const struct plan *plan, struct target *target, const struct inside_call *call, int ruleset);

void inside_reaped(void); /* one of these processes has ended */

#endif
