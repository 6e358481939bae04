/* waiter.c: says by one byte that it runs, and waits for the end of its input, without libc: it takes hardly any memory. */
void _start(void);

static long call(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

void _start(void)
{
	char byte = 'r';

	call(1, 1, (long)&byte, 1);
	while (call(0, 0, (long)&byte, 1) > 0)
		;
	call(231, 0, 0, 0);
	__builtin_unreachable();
}
