/* child.h: the child's way from the fork to exec: the plan's ops in their order. */
#ifndef CHILD_H
#define CHILD_H

#include "plan.h"

/* What the child sends on its socket, a byte and a descriptor each. */
enum { MESSAGE_LISTENER = 'L', MESSAGE_GRANT = 'G' };

/* What the child needs from the launcher besides the plan. */
struct start {
	char **environment;	  /* the caller's */
	struct progress_page *page; /* shared with the supervisor */
	int exec_fd;		  /* socket to the supervisor, close-on-exec: its end is the exec, or the child's */
	int launcher_pid;	  /* to notice a launcher that died before PR_SET_PDEATHSIG */
	struct rlimit64 *nofile;  /* the caller's RLIMIT_NOFILE, to be put back */
};

_Noreturn void child_run(const struct plan *plan, const struct start *start);

#endif
