/* main.h: the launcher's entry, shared by the freestanding start and the hosted test builds. */
#ifndef MAIN_H
#define MAIN_H

#include <stdbool.h>
#include <stddef.h>

struct plan;

/* privileged: the kernel set AT_SECURE, that is, the file is set-uid, set-gid or has capabilities. */
int launcher_main(int argc, char **argv, char **environment, bool privileged);

/* Check a plan's bytes, which must stay, and report by it from here on. */
void launcher_use(struct plan *plan, const void *bytes, size_t size);
/* Carry it out. filled: as fd_fill_stdio() returned. */
_Noreturn void launcher_start(const struct plan *plan, unsigned filled, char **environment);

#endif
