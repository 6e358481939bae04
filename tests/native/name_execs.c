/* name_execs.c: what execs name by a plan's protocols, asked over standard input, in the gate's order (gate.c).
 *
 * Input: a plan behind its 32-bit length; then execs: five 32-bit counts of texts (program: 1, arguments, variables,
 * the caller's program: 1, its arguments) and the texts, each behind its 32-bit length. Output: a line for each exec, NUMBER=OP for what is named, or all=OP.
 * Each text lies in a buffer of exactly its size, so that the address sanitizer sees the first byte too many. */
#include "names.h"

#include <stdio.h>
#include <stdlib.h>

static void *read_sized(size_t extra, uint32_t *size)
{
	char *bytes;

	if (fread(size, sizeof *size, 1, stdin) != 1)
		exit(2);
	bytes = malloc(*size + extra);
	if (!bytes || fread(bytes, 1, *size, stdin) != *size)
		exit(2);
	if (extra)
		bytes[*size] = '\0';
	return bytes;
}

int main(void)
{
	uint32_t size, counts[5];
	void *bytes = read_sized(0, &size);
	struct plan plan;
	const char *wrong = plan_check(&plan, bytes, size);

	if (wrong) {
		puts(wrong);
		return 1;
	}
	while (fread(counts, sizeof counts, 1, stdin) == 1) {
		static struct names names;
		struct names_context context = {"", "", ""};
		bool asked = false;

		__builtin_memset(&names, 0, sizeof names);
		for (int kind = 0; kind < 5; kind++) {
			for (uint32_t i = 0; i < counts[kind]; i++) {
				char *text = read_sized(1, &size);

				if (kind == 0) {
					names_from_program(&names, &plan, &context, text);
				} else if (kind == 1) {
					names_from_argument(&names, &plan, &context, text);
					names_remember(context.previous, text);
				} else if (kind == 2) {
					names_from_variable(&names, &plan, text);
				} else if (kind == 3) {
					asked = names_ask_caller(&plan, &context, text);
				} else if (asked) {
					names_from_caller_argument(&names, &plan, &context, text);
				}
				free(text);
			}
		}
		if (names.all)
			printf("all=%d ", names.all - 1);
		for (uint32_t number = 0; number < NAMES_LIMIT; number++)
			if (names.rule[number])
				printf("%u=%d ", number, names.rule[number] - 1);
		putchar('\n');
		fflush(stdout);
	}
	free(bytes);
	return 0;
}
