/* child.h: the child's way from the fork to exec: the plan's ops in their order. */
#ifndef CHILD_H
#define CHILD_H

#include "plan.h"

#include <stdbool.h>

/* What the init and the child need from the launcher besides the plan. */
struct start {
	char **environment;	    /* the caller's */
	struct progress_page *page; /* shared with the supervisor */
	int socket;		    /* to the supervisor, close-on-exec */
	int far_end;		    /* the supervisor's end, which the init must not hold */
	struct rlimit64 *nofile;    /* the caller's RLIMIT_NOFILE, to be put back */
	uint32_t uid, gid;	    /* the caller's effective ones */
	bool own_user;		    /* a user namespace was made at the fork */
};

/* parent: the init's pid as the child sees it. */
_Noreturn void child_run(const struct plan *plan, const struct start *start, int parent);

#endif
