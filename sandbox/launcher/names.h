/* names.h: which descriptors an exec names, by the delegation protocols of the plan. Pure; fuzzed. */
#ifndef NAMES_H
#define NAMES_H

#include "plan.h"

enum { NAMES_LIMIT = 4096 }; /* numbers from here on are never named */

/* For each number the rule that named it: its op's index plus 1, or 0; and the rule that named all of them. */
struct names {
	uint16_t all;
	uint16_t rule[NAMES_LIMIT];
};

/* The index of the op that names the number, or -1. */
static inline int names_rule(const struct names *names, uint32_t number)
{
	return (number < NAMES_LIMIT && names->rule[number] ? names->rule[number] : names->all) - 1;
}

/* What is executed: the last component of its path, and the argument before the one in question, or ""; and who
 * executes it: the last component of its own path. */
struct names_context {
	char program[64];
	char previous[64];
	char caller[64];
};

/* Add what one text names. Texts end in NUL. */
void names_from_argument(struct names *names, const struct plan *plan, const struct names_context *context,
			 const char *argument);
void names_from_variable(struct names *names, const struct plan *plan, const char *variable);

/* Once, and before the others: the program is part of the context. */
void names_from_program(struct names *names, const struct plan *plan, struct names_context *context, const char *path);

/* Remember who executes, by the path of its own program. Returns whether any rule looks at its arguments. */
bool names_ask_caller(const struct plan *plan, struct names_context *context, const char *path);

/* Add what one of the caller's own arguments names. */
void names_from_caller_argument(struct names *names, const struct plan *plan, const struct names_context *context,
				const char *argument);

/* Remember a short text; a longer one, which no rule can mean, is remembered as "". */
void names_remember(char kept[64], const char *text);

#endif
