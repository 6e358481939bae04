/* namespaces.c: a process in seven new namespaces that ends at once, and one that waits for it, without libc: less no sandbox
 * with these walls can take. */
#include <linux/sched.h>

void _start(void);

static long call(long number, long a, long b, long c, long d)
{
	register long fourth __asm__("r10") = d;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
			 : "rcx", "r11", "memory");
	return result;
}

void _start(void)
{
	const long namespaces = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
				CLONE_NEWCGROUP;
	long pid = call(56, namespaces | 17 /* SIGCHLD */, 0, 0, 0);

	if (pid > 0)
		pid = call(61, pid, 0, 0, 0) == pid ? 0 : -1;
	call(231, pid < 0, 0, 0, 0);
	__builtin_unreachable();
}
