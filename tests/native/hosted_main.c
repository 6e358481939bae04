/* hosted_main.c: the launcher's entry, or the native command's, against libc, in place of start.c, for builds with
 * sanitizers. */
#include "front.h"
#include "main.h"

int main(int argc, char **argv, char **environment);

int main(int argc, char **argv, char **environment)
{
#ifdef FRONT
	return front_main(argc, argv, environment, false);
#else
	return launcher_main(argc, argv, environment, false);
#endif
}
