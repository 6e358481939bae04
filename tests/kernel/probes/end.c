/* end.c: ends as it is told on standard input: `exit CODE` or `kill SIGNAL`. */
#include "probe.h"

#include <signal.h>
#include <sys/resource.h>

int main(void)
{
	const struct rlimit none = {0, 0};
	char how[8];
	int number;

	if (scanf("%7s %d", how, &number) != 2)
		return 91;
	if (strcmp(how, "exit") == 0)
		_exit(number);
	setrlimit(RLIMIT_CORE, &none);
	kill(getpid(), number);
	return 92; /* ignored, or not deadly */
}
