/* notify.c: takes a notification, and hands it to the exec gate or to the network's calls. */
#include "notify.h"

#include "netcall.h"
#include "sys.h"

#include <linux/ioctl.h>
#include <linux/seccomp.h>

static void answer_exec(struct gate *gate, struct target *target)
{
	struct seccomp_notif_resp answer = {.id = target->request->id};
	int failed = gate_sweep(gate, target);

	answer.error = failed;
	answer.flags = failed ? 0 : (uint32_t)SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	sys3(__NR_ioctl, gate->listener, SECCOMP_IOCTL_NOTIF_SEND, addr(&answer)); /* ENOENT: gone; nothing to answer */
}

bool notify_answer(struct gate *gate)
{
	static struct seccomp_notif request;
	struct target target = {.request = &request, .listener = gate->listener, .directory = -1, .pidfd = -1};
	long failed;

	__builtin_memset(&request, 0, sizeof request); /* the kernel insists */
	failed = sys3(__NR_ioctl, gate->listener, SECCOMP_IOCTL_NOTIF_RECV, addr(&request));
	if (failed == -EINTR || failed == -ENOENT) /* ENOENT: the caller was killed before we got it */
		return true;
	if (failed < 0)
		return false;
	target.pid = (int)request.pid;
	if (request.data.nr == __NR_execve || request.data.nr == __NR_execveat)
		answer_exec(gate, &target);
	else
		netcall_answer(&target);
	target_close(&target);
	return true;
}
