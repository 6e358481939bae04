/* front.h: the command `sandbox`: starts what was compiled before, and hands everything else to Python. */
#ifndef FRONT_H
#define FRONT_H

#include <stdbool.h>

int front_main(int argc, char **argv, char **environment, bool privileged);

#endif
