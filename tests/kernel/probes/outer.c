/* outer.c: an outer filter that refuses one call, or one command of it, then the program. Usage: outer CALL ERRNO FIRST-ARGUMENT|- PROGRAM ... */
#include "probe.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

int main(int argc, char **argv)
{
	struct sock_filter program[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, argc > 4 ? (uint32_t)atoi(argv[1]) : 0, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, argc > 4 ? (uint32_t)atoi(argv[3]) : 0, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (argc > 4 ? (uint32_t)atoi(argv[2]) : 0)),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = {sizeof program / sizeof program[0], program};

	if (argc < 5)
		return 91;
	if (argv[3][0] == '-') /* any first argument */
		program[3] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_IMM, 0);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
		return 92;
	execv(argv[4], argv + 4);
	return 93;
}
