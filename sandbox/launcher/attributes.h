/* attributes.h: what survives exec besides descriptors: keyring, personality, priorities, limits. */
#ifndef ATTRIBUTES_H
#define ATTRIBUTES_H

#include "plan.h"

/* In the child. */
void attributes_reset(const struct op *op);				 /* op RESET */
void attributes_limit(const struct op *op);				 /* op RLIMIT */
void attributes_scheduling(const struct op *op);			 /* op SCHEDULING */
void attributes_affinity(const struct plan *plan, const struct op *op); /* op AFFINITY */

/* Op OOM_SCORE, in the launcher: only a dumpable process that sees the host's /proc can write it, so that it is set
 * before the fork, for the sandbox to inherit, and what the launcher had comes back after it. */
void attributes_oom_score(const struct plan *plan); /* before PR_SET_DUMPABLE 0 */
void attributes_oom_keep(const struct plan *plan);  /* after the fork */

#endif
