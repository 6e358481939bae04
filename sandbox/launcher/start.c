/* start.c: the entry point without libc, and the memory functions that the compiler may call on its own. */
#include "front.h"
#include "main.h"
#include "sys.h"

#include <linux/auxvec.h>

#ifdef FRONT
#define ENTRY front_main
#else
#define ENTRY launcher_main
#endif

void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);
_Noreturn void start_c(long *stack);

void *memcpy(void *to, const void *from, size_t size)
{
	void *next = to;

	__asm__ volatile("rep movsb" : "+D"(next), "+S"(from), "+c"(size) : : "memory");
	return to;
}

void *memset(void *to, int value, size_t size)
{
	void *next = to;

	__asm__ volatile("rep stosb" : "+D"(next), "+c"(size) : "a"(value) : "memory");
	return to;
}

/* The kernel leaves argc, argv, NULL, environment, NULL, auxiliary vector on the stack (ABI AMD64, 3.4.1). */
__asm__(".globl _start\n"
	"_start:\n"
	"	xor %ebp, %ebp\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call start_c\n");

_Noreturn void start_c(long *stack)
{
	int argc = (int)stack[0];
	char **argv = (char **)(stack + 1);
	char **environment = argv + argc + 1;
	char **end = environment;
	bool privileged = false;

	while (*end)
		end++;
	for (const long *aux = (const long *)(end + 1); aux[0] != AT_NULL; aux += 2)
		if (aux[0] == AT_SECURE)
			privileged = aux[1] != 0;
	sys_exit(ENTRY(argc, argv, environment, privileged));
}
