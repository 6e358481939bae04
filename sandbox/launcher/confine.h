/* confine.h: no_new_privs, the filters, and the one exec that a plan may allow. */
#ifndef CONFINE_H
#define CONFINE_H

#include "plan.h"

void confine_no_new_privs(const struct op *op);
void confine_filter(const struct plan *plan, const struct op *op);

/* Refuse every later execve and execveat; post: `cookie` lets this process exec, and send, and nothing after it. Returns
 * the listener, close-on-exec, where the plan asks of other calls; else -1. Owned by the caller. */
int confine_exec_once(const struct plan *plan, const struct op *op, uint64_t cookie[3]);

/* Notify of every later execve and execveat instead. Returns the listener likewise. */
int confine_gate(const struct plan *plan, const struct op *op, uint64_t cookie[3]);

#endif
