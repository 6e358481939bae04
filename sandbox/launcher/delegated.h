/* delegated.h: a cgroup of the caller's own in which one can be made for the sandbox, as cgroups.py finds it. */
#ifndef DELEGATED_H
#define DELEGATED_H

#include <stdbool.h>

enum { DELEGATED_PATH = 4096, DELEGATED_CONTROLLERS = 1024 };

struct delegated {
	char path[DELEGATED_PATH]; /* "": there is none */
	char controllers[DELEGATED_CONTROLLERS]; /* words; those that can limit what is made in it */
	bool swap; /* the kernel accounts for swap */
};

/* The launcher's own cgroup of version 2, or the nearest above it that is marked as delegated, if it can limit anything. */
void delegated_find(struct delegated *found, int pid);
bool delegated_has(const struct delegated *found, const char *file); /* the controller of a cgroup's file: memory.max */

#endif
