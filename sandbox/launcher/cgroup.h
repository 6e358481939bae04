/* cgroup.h: the sandbox's own cgroup (version 2): made before the fork, ended and removed after it. */
#ifndef CGROUP_H
#define CGROUP_H

#include "plan.h"

/* Carry out the ops CGROUP and CGROUP_SET, in the launcher. Returns the new cgroup's folder, close-on-exec, for
 * CLONE_INTO_CGROUP, or -1 when the plan names none. The descriptor stays the launcher's. */
int cgroup_make(const struct plan *plan);

/* In the init, where it could not be made within the cgroup (no clone3): go there. */
void cgroup_join(const struct plan *plan);

/* Kill what is left in it, wait for the end of that, and remove it. In the launcher only, on each of its ways out;
 * does nothing when there is none. */
void cgroup_end(void);

#endif
