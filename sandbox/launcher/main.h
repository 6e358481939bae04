/* main.h: the launcher's entry, shared by the freestanding start and the hosted test builds. */
#ifndef MAIN_H
#define MAIN_H

#include <stdbool.h>

/* privileged: the kernel set AT_SECURE, that is, the file is set-uid, set-gid or has capabilities. */
int launcher_main(int argc, char **argv, char **environment, bool privileged);

#endif
