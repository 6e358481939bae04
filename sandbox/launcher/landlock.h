/* landlock.h: the child's Landlock ruleset. landlock(7); Linux 5.13. */
#ifndef LANDLOCK_H
#define LANDLOCK_H

#include "plan.h"

void landlock_begin(const struct op *op);				 /* op RULESET */
void landlock_allow_path(const struct plan *plan, const struct op *op); /* op PATH_RULE */
void landlock_allow_port(const struct op *op);				 /* op PORT_RULE */
int landlock_ruleset(void); /* until it is enforced; -1: none */
void landlock_restrict(const struct op *op);				 /* op RESTRICT */

#endif
