/* template.h: a plan but for what only the start can tell, and the plan that comes out of it at a start. */
#ifndef TEMPLATE_H
#define TEMPLATE_H

#include "facts.h"
#include "plan.h"

#define TEMPLATE_EXPANDS 0x8000u /* flags of a record: its texts hold {home}, {cwd} ..., each behind a slash of its own */

#define TEMPLATE_VARIES 0x4000u /* flags of ENV_SET and ENV_PID: by what a service manager has stored; a: enum varying */
#define STORED_ACTIVATED 0x80000000u /* field b of STORED, beside its number: activation tells of it */

/* From FIRST_NUMBER up: the number that a stored grant has if all are there. b: how many others activation tells of. */
enum varying { VARYING_COUNT, VARYING_NAMES, VARYING_PID };

/* Flags of LIMIT, where no cgroup holds it: it stays unheld, being no limit by itself; nothing else holds it; of root's
 * nothing does; without a user namespace of the sandbox's own nothing does. Always: it is for swap that is accounted for. */
enum limit_bits { LIMIT_BESIDE = 1, LIMIT_CGROUP_ONLY = 2, LIMIT_NOT_ROOT = 4, LIMIT_OF_USER = 8, LIMIT_SWAP = 16 };

/* Field c of VIEW. */
enum view_bits { VIEW_PRIVATE = 1, VIEW_FILES = 2, VIEW_STARTS_ELSEWHERE = 4, VIEW_MOUNTS = 8 };
/* Field c of ENTRY; a and b are enum entry_kind and enum entry_rights (entries.h). */
enum entry_bits { ENTRY_OPTIONAL = 1, ENTRY_ADDED = 2, ENTRY_IS_HOME = 4, ENTRY_IS_CWD = 8 };
#define SCHEDULING_CALLERS_POLICY 1u /* flags of SCHEDULING, in a template */
#define SCHEDULING_CALLERS_NICE 2u

/* Make the plan of this start, in memory of its own. Pre: plan_check_template(), and the template is reporter.plan, so that what
 * cannot be resolved fails with its words. The plan is unchecked: its bytes go to plan_check(). */
const void *template_expand(const struct plan *template, const struct facts *facts, size_t *size);

#endif
