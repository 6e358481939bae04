/* supervise.h: the supervisor: the launcher after the fork, until the child has ended. */
#ifndef SUPERVISE_H
#define SUPERVISE_H

#include "gate.h"
#include "report.h"

struct watched {
	int pid;
	int signal_fd;	/* signalfd of all signals, which are blocked */
	int exec_fd;	/* socket whose other end closes at exec; -1 afterwards */
	const struct progress_page *page;
	struct gate gate; /* listener -1 until the child has sent it */
	int parent_fd;	/* pidfd of the parent that the sandbox must not outlive, or -1 */
};

/* Forward signals, stop and continue with the child, write the status records, exit as the child did. */
_Noreturn void supervise(struct watched *watched);

#endif
