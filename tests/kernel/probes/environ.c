/* environ.c: becomes a program with exactly these strings as its environment. Usage: environ ENTRY ... -- PROGRAM ... */
#include "probe.h"

int main(int argc, char **argv)
{
	int at = 1;

	while (at < argc && strcmp(argv[at], "--") != 0)
		at++;
	if (at + 1 >= argc)
		return 91;
	argv[at] = NULL;
	execve(argv[at + 1], argv + at + 1, argv + 1);
	return 92;
}
