/* grant.h: the ops that obtain a grant's descriptor; each returns it parked and close-on-exec. */
#ifndef GRANT_H
#define GRANT_H

#include "plan.h"

int grant_inherit(const struct plan *plan, const struct op *op);
int grant_secret_file(const struct plan *plan, const struct op *op);
int grant_secret_env(const struct plan *plan, const struct op *op, char **environment);
int grant_data(const struct plan *plan, const struct op *op);

/* With the right to make mounts, unless the op says OPEN_RAW: through a mount of the object's own. open_anew: what an
 * INHERIT op took, which it closes. */
int grant_file(const struct plan *plan, const struct op *op);
int grant_directory(const struct plan *plan, const struct op *op);
int grant_open_anew(const struct plan *plan, const struct op *op, int fd);
int grant_reopen(int fd); /* or why it cannot be: a reason or -errno */

/* With the right to make mounts, and IDs that have a meaning there. */
int grant_scratch(const struct plan *plan, const struct op *op);

/* In the supervisor: overwrite the values of the variables that were secrets. */
void grant_forget_secrets(const struct plan *plan, char **environment);

#endif
