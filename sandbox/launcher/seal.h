/* seal.h: a launcher that carries its plan: one file, made by `sandbox seal`. */
#ifndef SEAL_H
#define SEAL_H

#include <stdbool.h>

bool seal_is_there(void);

/* Check ourselves, and make the plan of this start; or print what we were asked for and end. */
_Noreturn void seal_run(int argc, char **argv, char **environment);

#endif
