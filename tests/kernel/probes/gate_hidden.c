/* gate_hidden.c: forgets descriptors 7 and 8, hides itself, and executes another program.
 *
 *   gate_hidden HOW COMMAND...   HOW undumpable, or anything else for not to hide
 *
 * Prints `refused ERRNO` if the exec fails. */
#include "probe.h"

#include <sys/prctl.h>

int main(int argc, char **argv)
{
	if (argc < 3 || dup2(0, 7) < 0 || dup2(0, 8) < 0)
		return 98;
	if (strcmp(argv[1], "undumpable") == 0 && prctl(PR_SET_DUMPABLE, 0) < 0)
		return 97;
	execv(argv[2], argv + 2);
	printf("refused %d\n", errno);
	return 0;
}
