/* namespace.h: the sandbox's own namespaces: made at the fork, furnished by the init. */
#ifndef NAMESPACE_H
#define NAMESPACE_H

#include "child.h"

/* clone(2)'s flags for the plan's NAMESPACE ops. */
uint64_t namespace_flags(const struct plan *plan);

/* The fork with all of them was refused: find the first that is refused on its own, and fail with its op. */
_Noreturn void namespace_refused(const struct plan *plan, int error);

/* In the supervisor: map the IDENTITY op's user and group into the init's user namespace. */
void namespace_map(const struct op *op, int pid);

/* In the launcher, as root: leave its groups beside its own. They are no concern of the sandbox, which in a user
 * namespace of its own cannot leave them any more. Whoever may not leave any (user_namespaces(7)) keeps them. */
void namespace_leave_groups(void);

/* In the launcher: may it make mounts where it is? */
bool namespace_may_mount(void);

/* In the init. */
void namespace_map_own(const struct op *op, const struct start *start); /* user: the caller's IDs, and none else */
void namespace_identity(const struct op *op, const struct start *start);
/* Join the network namespace of NETNS, if there is such an op, so that what is forked is in it; then go back. */
void namespace_enter_network(const struct plan *plan);
void namespace_leave_network(const struct plan *plan);
void namespace_hostname(const struct plan *plan, const struct op *op);
void namespace_loopback(const struct plan *plan, const struct op *op);
void namespace_drop_capabilities(const struct op *op);

#endif
