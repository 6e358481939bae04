/* wall_attributes.c: tells what a process has from its parents besides descriptors and the environment: lines as verdicts
 * have them. What a filter refuses to tell comes as -1. */
#define _GNU_SOURCE
#include "probe.h"

#include <sched.h>
#include <signal.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>

static int count_signals(const sigset_t *set)
{
	int found = 0;

	for (int number = 1; number < NSIG; number++)
		found += sigismember(set, number) == 1;
	return found;
}

static void tell_signals(void)
{
	sigset_t set;
	struct sigaction action;
	int ignored = 0;

	sigprocmask(SIG_SETMASK, NULL, &set);
	verdict("blocked", count_signals(&set));
	sigpending(&set);
	verdict("pending", count_signals(&set));
	for (int number = 1; number < NSIG; number++)
		ignored += sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
	verdict("ignored", ignored);
}

static void tell_timers(void)
{
	struct itimerval timer;

	getitimer(ITIMER_REAL, &timer);
	verdict("timer", timer.it_value.tv_sec != 0 || timer.it_value.tv_usec != 0);
	verdict("alarm", alarm(0) != 0);
	verdict("slack", prctl(PR_GET_TIMERSLACK));
}

static void tell_priority(void)
{
	cpu_set_t processors;
	struct rlimit limit;
	FILE *file = fopen("/proc/self/oom_score_adj", "re");
	int score = -9999;

	verdict("policy", sched_getscheduler(0));
	verdict("nice", getpriority(PRIO_PROCESS, 0));
	sched_getaffinity(0, sizeof processors, &processors);
	verdict("processors", CPU_COUNT(&processors));
	if (file && fscanf(file, "%d", &score) == 1)
		verdict("oom_score_adj", score);
	getrlimit(RLIMIT_CORE, &limit);
	verdict("core", (long)limit.rlim_max);
	getrlimit(RLIMIT_RTPRIO, &limit);
	verdict("rtprio", (long)limit.rlim_max);
	getrlimit(RLIMIT_NOFILE, &limit);
	verdict("nofile", (long)limit.rlim_cur);
}

int main(void)
{
	int parent_death = 0;
	mode_t mask = umask(0);

	probe_open();
	verdict("umask", mask);
	tell_signals();
	tell_timers();
	tell_priority();
	verdict("own-session", getsid(0) > 0);
	verdict("own-group", getpgid(0) == getpid());
	verdict("groups", getgroups(0, NULL));
	verdict("user", geteuid());
	prctl(PR_GET_PDEATHSIG, &parent_death);
	verdict("parent-death", parent_death);
	verdict("dumpable", prctl(PR_GET_DUMPABLE));
	verdict("no-new-privileges", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	verdict("subreaper", prctl(PR_GET_CHILD_SUBREAPER, &parent_death) < 0 ? -1 : parent_death);
	verdict("personality", personality(0xffffffff));
	verdict("keyring", syscall(SYS_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -3 /* of the session */, 0));
	return 0;
}
