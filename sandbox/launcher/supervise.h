/* supervise.h: the supervisor: the launcher after the fork, until the child has ended. */
#ifndef SUPERVISE_H
#define SUPERVISE_H

#include "gate.h"
#include "report.h"

#include <stdbool.h>

struct watched {
	int init;	/* pid of the sandbox's init, our child */
	int child;	/* the command's pid as we see it; 0 until it has started */
	int child_fd;	/* its pidfd, or -1 */
	uint64_t early; /* signals for the command from before it started, a bit each */
	int signal_fd;	/* signalfd of all signals, which are blocked */
	int socket;	/* to the init and the child; -1 when it has ended */
	int parent_fd;	/* pidfd of the parent that the sandbox must not outlive, or -1 */
	int timer_fd;	/* the time limit's, or -1 */
	unsigned terminal; /* enum terminal, or 0 */
	bool own_group; /* the command has a process group of its own, which the caller's terminal does not signal */
	bool timed_out;
	bool has_ended;
	int status;	/* the command's, as wait4(2) gives it, once it has ended */
	struct gate gate; /* listener -1 until the child has sent it */
};

/* Forward signals, stop and continue with the child, write the status records, exit as the child did. */
_Noreturn void supervise(struct watched *watched);

#endif
