/* passed.h: the descriptors that a service manager has passed to this process, by name. */
#ifndef PASSED_H
#define PASSED_H

#include "facts.h"

enum { PASSED_NONE = -1, PASSED_WRONG = -2 };

/* The number of the one that has the name; PASSED_NONE: none has, or none was passed at all; PASSED_WRONG: several have, they
 * are for another process, or what is said of them does not fit. sd_listen_fds_with_names(3) */
int passed_number(const struct facts *facts, const char *wanted);

#endif
