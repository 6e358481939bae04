/* gate.h: the exec gate: what of a process's descriptors goes along when it executes another program. */
#ifndef GATE_H
#define GATE_H

#include "plan.h"
#include "target.h"

/* A grant that passes at every exec: our copy of its open file, to compare with, and the op that placed it. */
struct held {
	int fd;
	const struct op *place;
};

struct gate {
	const struct plan *plan;
	bool observe;
	bool asks_callers; /* a rule looks at the arguments of the program that executes */
	int listener; /* seccomp notification descriptor, or -1 */
	int own_pid;
	uint32_t held_count;
	struct held held[MAX_SLOTS];
};

void gate_prepare(struct gate *gate, const struct plan *plan);

/* Take over the listener that the child sent. */
void gate_listen(struct gate *gate, int listener);

/* Take over a descriptor that the child sent: the copy of a grant that propagates. */
void gate_hold(struct gate *gate, int fd);

/* Decide on an execve or execveat. Post: what its process holds from 3 up and what may not pass is close-on-exec.
 * Returns 0 when the exec may go on, or the -errno to answer it with. ADDFD with SETFD is Linux 5.9. */
int gate_sweep(struct gate *gate, struct target *target);

#endif
