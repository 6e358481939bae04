/* passed.c: the descriptors that a service manager has passed to this process, by name. */
#include "passed.h"

#include "plan.h"
#include "text.h"

enum { PASSED_MAX = 9999 };

/* The names stand between colons, one for each number from 3 up; one without a name is `unknown`. */
int passed_number(const struct facts *facts, const char *wanted)
{
	const char *count = facts_variable(facts->environment, "LISTEN_FDS");
	const char *pid = facts_variable(facts->environment, "LISTEN_PID");
	const char *names = facts_variable(facts->environment, "LISTEN_FDNAMES");
	long left = count ? text_number(count) : 0;
	int found = PASSED_NONE;

	if (!count || !*count)
		return PASSED_NONE;
	if (!pid || text_number(pid) != facts->pid || left < 0 || left > PASSED_MAX || (!left && names))
		return PASSED_WRONG;
	for (int number = FIRST_NUMBER; left > 0; number++, left--) {
		long end = names ? text_find(names, ':') : -1;
		size_t length = !names ? 0 : end < 0 ? text_length(names) : (size_t)end;
		const char *name = length ? names : "unknown";

		length = length ? length : text_length(name);
		if (text_length(wanted) == length && text_same(wanted, name, length)) {
			if (found != PASSED_NONE)
				return PASSED_WRONG;
			found = number;
		}
		if (names && (end < 0) != (left == 1))
			return PASSED_WRONG; /* fewer names than descriptors, or more */
		names = names && end >= 0 ? names + end + 1 : names;
	}
	return found;
}
