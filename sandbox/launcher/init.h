/* init.h: the sandbox's init: PID 1 of its PID namespace; sets the walls up, starts the child, reaps, ends with it. */
#ifndef INIT_H
#define INIT_H

#include "child.h"

_Noreturn void init_run(const struct plan *plan, const struct start *start);

#endif
