/* probe.h: what the probes share: verdicts as lines `name result errno`, written where the test asked for them. */
#ifndef PROBE_H
#define PROBE_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A grant named `out` when the test closes or replaces standard output. */
static inline void probe_open(void)
{
	const char *number = getenv("SANDBOX_FD_OUT");

	if (number)
		stdout = fdopen(atoi(number), "w");
	if (!stdout)
		exit(90);
}

/* result: what the call returned, -1 with errno on failure */
static inline void verdict(const char *name, long result)
{
	printf("%s %ld %d\n", name, result, result == -1 ? errno : 0);
	fflush(stdout);
}

/* The raw call: full 64-bit arguments, no libc in between. */
static inline long raw(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
	long ret;
	register uint64_t r10 __asm__("r10") = d;
	register uint64_t r8 __asm__("r8") = e;
	register uint64_t r9 __asm__("r9") = f;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	if (ret < 0 && ret >= -4095) {
		errno = (int)-ret;
		return -1;
	}
	return ret;
}

#endif
