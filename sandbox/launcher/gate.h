/* gate.h: the exec gate: what of a process's descriptors goes along when it executes another program. */
#ifndef GATE_H
#define GATE_H

#include "plan.h"

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

/* Answer one notification: an execve or execveat of a process in the sandbox. Blocks until there is one. Post: what
 * that process holds from 3 up and what may not pass is close-on-exec, or the exec was refused.
 * Returns false when no process is left that could exec. seccomp_unotify(2); ADDFD with SETFD is Linux 5.9. */
bool gate_answer(struct gate *gate);

#endif
