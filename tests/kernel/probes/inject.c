/* inject.c: runs the launcher under ptrace(2) and makes one of its system calls fail, or kills a process there.
 *
 * Usage: inject REPORT ROLE INDEX ACTION PROGRAM ...   ROLE is launcher, apart (who opens files through mounts of their
 * own where the launcher may not mount), init or child; INDEX counts from 0, -1 is none;
 * ACTION is an errno (the call is not made), or `kill`: SIGKILL in place of the call, or `put=FROM=TO`: before the call,
 * FROM takes the place of TO.
 *
 * The count runs over all calls of one process, so that the child's first is told from the launcher's first. REPORT
 * gets `ROLE INDEX NUMBER SECOND-ARGUMENT` for each call up to the child's exec, and `executed` at that. Exits as the
 * launcher did, or with 200 + signal when that was killed. */
#include "probe.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

struct traced {
	pid_t pid;
	const char *role;
	int calls;
	bool refused, seen;
};

enum { LAUNCHER, INIT, CHILD, APART, ROLES };

/* The first three are each started by the one before it. */
static struct traced traced[ROLES] = {{.role = "launcher"}, {.role = "init"}, {.role = "child"}, {.role = "apart"}};
static bool apart_next; /* whom the launcher forks now: who shares its descriptors */
static const char *wanted_role, *action;
static int wanted_index;
static bool executed;
static FILE *report;

static void enter(struct traced *process)
{
	struct user_regs_struct registers;
	bool wanted = strcmp(process->role, wanted_role) == 0 && process->calls == wanted_index;

	ptrace(PTRACE_GETREGS, process->pid, 0, &registers);
	if (process == &traced[LAUNCHER] && registers.orig_rax == __NR_clone3) {
		long flags = (errno = 0, ptrace(PTRACE_PEEKDATA, process->pid, registers.rdi, 0));

		/* Before it forks the init, the launcher lets nobody look into it but root. */
		apart_next = errno == 0 && flags & CLONE_FILES;
	}
	if (!executed)
		fprintf(report, "%s %d %lld %lld\n", process->role, process->calls, (long long)registers.orig_rax,
			(long long)registers.rsi);
	process->calls++;
	if (!wanted)
		return;
	if (strcmp(action, "kill") == 0) {
		kill(process->pid, SIGKILL);
		return;
	}
	if (strncmp(action, "put=", 4) == 0) {
		char *from = strdup(action + 4), *to = strchr(from, '=');

		*to++ = '\0';
		fprintf(report, "put %d\n", rename(from, to));
		free(from);
		return;
	}
	registers.orig_rax = (unsigned long long)-1;
	ptrace(PTRACE_SETREGS, process->pid, 0, &registers);
	process->refused = true;
}

static void leave(struct traced *process)
{
	struct user_regs_struct registers;

	if (!process->refused)
		return;
	process->refused = false;
	ptrace(PTRACE_GETREGS, process->pid, 0, &registers);
	registers.rax = (unsigned long long)-atol(action);
	ptrace(PTRACE_SETREGS, process->pid, 0, &registers);
}

static void started_by(struct traced *parent, pid_t pid)
{
	struct traced *started = parent == &traced[LAUNCHER] && apart_next ? &traced[APART] : parent + 1;

	if (parent >= &traced[CHILD] || started->pid == pid || (started->pid && started != &traced[APART]))
		return;
	started->pid = pid;
	started->seen = false; /* one apart after the other; their calls are counted on */
}

static void step(struct traced *process, int status)
{
	int signal = WSTOPSIG(status), event = status >> 16;

	if (signal == (SIGTRAP | 0x80)) {
		struct __ptrace_syscall_info info = {0};

		ptrace(PTRACE_GET_SYSCALL_INFO, process->pid, sizeof info, &info);
		if (info.op == PTRACE_SYSCALL_INFO_ENTRY)
			enter(process);
		else if (info.op == PTRACE_SYSCALL_INFO_EXIT)
			leave(process);
		signal = 0;
	} else if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE) {
		unsigned long pid;

		ptrace(PTRACE_GETEVENTMSG, process->pid, 0, &pid);
		started_by(process, (pid_t)pid);
		signal = 0;
	} else if (event == PTRACE_EVENT_EXEC) {
		if (process == &traced[CHILD] && !executed) {
			executed = true;
			fprintf(report, "executed\n");
			fflush(report);
		}
		signal = 0;
	} else if (!process->seen) {
		process->seen = true; /* the first stop: SIGSTOP of a new tracee */
		signal = 0;
	}
	ptrace(executed && process == &traced[CHILD] ? PTRACE_CONT : PTRACE_SYSCALL, process->pid, 0, (long)signal);
}

static struct traced *find(pid_t pid)
{
	for (struct traced *process = traced; process < traced + ROLES; process++)
		if (process->pid == pid)
			return process;
	/* A new child may stop before its parent's fork event is told. */
	started_by(traced[INIT].pid ? &traced[INIT] : &traced[LAUNCHER], pid);
	for (struct traced *process = traced; process < traced + ROLES; process++)
		if (process->pid == pid)
			return process;
	return NULL;
}

int main(int argc, char **argv)
{
	const int options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |
			    PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
	int status, result = 0;
	pid_t pid;

	if (argc < 6 || !(report = fopen(argv[1], "we")))
		return 91;
	wanted_role = argv[2];
	wanted_index = atoi(argv[3]);
	action = argv[4];
	pid = fork();
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		execv(argv[5], argv + 5);
		_exit(92);
	}
	traced[LAUNCHER].pid = pid;
	traced[LAUNCHER].seen = true;
	waitpid(pid, &status, 0);
	ptrace(PTRACE_SETOPTIONS, pid, 0, options);
	ptrace(PTRACE_CONT, pid, 0, 0); /* up to the launcher's own exec */
	while ((pid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR) {
		struct traced *process = pid > 0 ? find(pid) : NULL;

		if (pid > 0 && WIFSTOPPED(status)) {
			if (process)
				step(process, status);
			else
				ptrace(PTRACE_CONT, pid, 0, 0);
		} else if (pid == traced[LAUNCHER].pid) {
			result = WIFEXITED(status) ? WEXITSTATUS(status) : 200 + WTERMSIG(status);
		}
	}
	fclose(report);
	return result;
}
