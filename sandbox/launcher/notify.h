/* notify.h: the calls of the sandbox of which the supervisor is asked. */
#ifndef NOTIFY_H
#define NOTIFY_H

#include "gate.h"

/* Take one notification of the gate's listener and see to its answer. Blocks until there is one. Returns false when no
 * process is left that could ask. seccomp_unotify(2) */
bool notify_answer(struct gate *gate);

#endif
