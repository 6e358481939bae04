/* wall_calls.c: makes calls by their numbers. Usage: wall_calls NAME:NUMBER[:ARGUMENT]... ... ; a verdict for each.
 *
 * The arguments are such that the kernel refuses the call otherwise than by EPERM or ENOSYS, or that it does no harm. */
#define _GNU_SOURCE
#include "probe.h"

int main(int argc, char **argv)
{
	probe_open();
	for (int at = 1; at < argc; at++) {
		char *rest = argv[at], *name = strsep(&rest, ":"), *word = strsep(&rest, ":");
		uint64_t arguments[6] = {0};
		long number = word ? atol(word) : -1, result;

		for (int i = 0; i < 6 && (word = strsep(&rest, ":")) != NULL; i++)
			arguments[i] = strtoull(word, NULL, 0);
		result = raw(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
		verdict(name, result < 0 ? -1 : 0);
	}
	return 0;
}
