/* hosted_main.c: the launcher's entry against libc, in place of start.c, for builds with sanitizers. */
#include "main.h"

int main(int argc, char **argv, char **environment);

int main(int argc, char **argv, char **environment)
{
	return launcher_main(argc, argv, environment, false);
}
