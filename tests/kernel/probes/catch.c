/* catch.c: blocks every signal, says so, and names each that arrives until SIGUSR2. Usage: catch
 *
 * Lines: `ready PID 0`, `signal NUMBER SENDER-IS-KERNEL` for each, `end 0 0`. */
#include "probe.h"

#include <signal.h>

int main(void)
{
	sigset_t all;
	siginfo_t info;

	probe_open();
	sigfillset(&all);
	sigdelset(&all, SIGTSTP);
	sigdelset(&all, SIGTTIN);
	sigdelset(&all, SIGTTOU);
	sigprocmask(SIG_SETMASK, &all, NULL);
	verdict("ready", getpid());
	while (sigwaitinfo(&all, &info) != SIGUSR2 || info.si_signo != SIGUSR2) {
		printf("signal %d %d\n", info.si_signo, info.si_code == SI_KERNEL);
		fflush(stdout);
	}
	verdict("end", 0);
	return 0;
}
