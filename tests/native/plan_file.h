/* plan_file.h: the plan that a fuzzer works with, read from the file that FUZZ_PLAN names. */
#ifndef PLAN_FILE_H
#define PLAN_FILE_H

#include "plan.h"

#include <stdio.h>
#include <stdlib.h>

static inline void demand(bool holds)
{
	if (!holds)
		abort();
}

/* wanted: an op that the plan must have. The bytes stay as long as the process. */
static inline void read_plan(struct plan *plan, uint16_t wanted)
{
	const char *path = getenv("FUZZ_PLAN");
	FILE *file = path ? fopen(path, "rb") : NULL;
	unsigned char *bytes = malloc(1 << 20);
	size_t size;

	demand(file && bytes);
	size = fread(bytes, 1, 1 << 20, file);
	fclose(file);
	demand(plan_check(plan, bytes, size) == NULL && plan_find(plan, wanted));
}

#endif
