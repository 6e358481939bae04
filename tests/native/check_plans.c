/* check_plans.c: reads plans from standard input, each behind its 32-bit length, and prints plan_check's verdicts.
 *
 * Each candidate lies in a buffer of exactly its size, so that the address sanitizer sees the first byte too many. */
#include "plan.h"

#include <stdio.h>
#include <stdlib.h>

int main(void)
{
	uint32_t size;

	while (fread(&size, sizeof size, 1, stdin) == 1) {
		unsigned char *bytes = malloc(size);
		struct plan plan;
		const char *wrong;

		if (!bytes || fread(bytes, 1, size, stdin) != size)
			return 2;
		wrong = plan_check(&plan, bytes, size);
		puts(wrong ? wrong : "accepted");
		fflush(stdout);
		free(bytes);
	}
	return 0;
}
