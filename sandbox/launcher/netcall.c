/* netcall.c: the calls by which a program would reach the network: who carries each out, its answer, and those that wait.
 *
 * Nothing is decided on memory that the program can change: an address is copied, checked, and the copy is used, on a
 * copy of the descriptor. A call is let go on by itself only where it cannot reach the network whatever a second thread
 * makes of it meanwhile (call_goes_on_safely). */
#include "netcall.h"

#include "call.h"
#include "report.h"
#include "sys.h"

#include <linux/eventpoll.h>
#include <linux/ioctl.h>
#include <linux/time.h>
#include <linux/time_types.h>

enum { WAITING_MAX = 1024, LOOK_EVERY_MS = 50, LOOK_AT_MOST = 128, RESTART_CALL = 512 /* ERESTARTSYS, include/linux/errno.h */ };

/* A call that waits for its socket. Its request is kept, and the copy of its socket. */
struct waiting {
	struct seccomp_notif request;
	int fd; /* -1: the entry is free */
	int listener;
	int64_t until_ms; /* CLOCK_MONOTONIC, or 0 */
};

struct net net = {.ruleset = -1};
static int events = -1, count_waiting, next_looked_at;
static struct waiting waiting[WAITING_MAX];

void netcall_prepare(const struct plan *plan)
{
	int fd;

	net.plan = plan;
	net.list = plan_find(plan, OP_ALLOW_LIST);
	if (!net.list)
		return;
	net.identity = plan_find(plan, OP_IDENTITY);
	fd = (int)must(net.list, sys3(__NR_socket, FAMILY_UNIX, SOCKET_DATAGRAM | O_CLOEXEC, 0));
	net.cookie = socket_cookie(fd);
	sys_close(fd);
	if (net.cookie == 0) /* SO_NETNS_COOKIE is Linux 5.14, and our floor 6.1 */
		fail(op_index(net.list), ENOPROTOOPT, 0);
	events = (int)must(net.list, sys1(__NR_epoll_create1, O_CLOEXEC));
	for (int i = 0; i < WAITING_MAX; i++)
		waiting[i].fd = -1;
}

void netcall_hold_ruleset(int fd)
{
	net.ruleset = fd;
}

int netcall_descriptor(void)
{
	return events;
}

int netcall_timeout(void)
{
	return count_waiting > 0 ? LOOK_EVERY_MS : -1;
}

static int64_t now_ms(void)
{
	struct __kernel_timespec now = {0};

	sys2(__NR_clock_gettime, CLOCK_MONOTONIC, addr(&now));
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void answer(struct target *target, long result)
{
	struct seccomp_notif_resp response = {.id = target->request->id};

	if (result == GOES_ON)
		response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	else if (result < 0)
		response.error = (int)result;
	else
		response.val = result;
	sys3(__NR_ioctl, target->listener, SECCOMP_IOCTL_NOTIF_SEND, addr(&response)); /* ENOENT: it is gone */
}

static long carry_out(struct call *call)
{
	switch (call->target->request->data.nr) {
	case __NR_connect: return call_connect(call);
	case __NR_bind: return call_bind(call);
	case __NR_listen: return call_listen(call);
	case __NR_sendto: return call_send_to(call);
	case __NR_sendmsg: return call_send_message(call);
	case __NR_sendmmsg: return call_send_messages(call);
	default: return -EPERM;
	}
}

static int64_t time_limit(int fd)
{
	int64_t limit[2] = {0}; /* struct timeval */

	socket_option(fd, SO_SEND_TIME, limit, sizeof limit);
	return limit[0] || limit[1] ? now_ms() + limit[0] * 1000 + limit[1] / 1000 + 1 : 0;
}

/* Keep a call until its socket is ready. Returns false where there is no more room. */
static bool keep(const struct target *target, int fd)
{
	struct epoll_event event = {.events = EPOLLOUT | EPOLLONESHOT};

	for (int i = 0; i < WAITING_MAX; i++) {
		struct waiting *entry = &waiting[i];

		if (entry->fd >= 0)
			continue;
		event.data = (__u64)i;
		if (sys4(__NR_epoll_ctl, events, EPOLL_CTL_ADD, fd, addr(&event)) < 0)
			return false;
		*entry = (struct waiting){*target->request, fd, target->listener, time_limit(fd)};
		count_waiting++;
		return true;
	}
	return false;
}

static void settle(struct call *call)
{
	long result = carry_out(call);

	if (result == WAITS) {
		if (keep(call->target, call->fd))
			return; /* the copy is kept as well */
		result = -ENOBUFS;
	}
	sys_close(call->fd);
	if (result != ANSWERED)
		answer(call->target, result);
}

void netcall_answer(struct target *target)
{
	const struct seccomp_data *data = &target->request->data;
	struct call call = {.target = target, .args = data->args};
	long failed = -EPERM;

	if (!net.list)
		answer(target, -EPERM);
	else if (data->nr == __NR_socket || data->nr == __NR_setsockopt) {
		failed = data->nr == __NR_socket ? call_make_socket(target) : netreport_option(target, -EPERM);
		if (failed != ANSWERED)
			answer(target, failed);
	} else {
		call.fd = target_take(target, (uint32_t)data->args[0]);
		failed = call.fd < 0 ? call.fd : call_look(&call);
		if (failed == 0 && !target_is_there(target))
			failed = -ESRCH;
		if (failed == 0) {
			settle(&call);
			return;
		}
		if (call.fd >= 0)
			sys_close(call.fd);
		answer(target, failed);
	}
}

/* ---- calls that wait ---- */

static void forget(struct waiting *entry)
{
	sys_close(entry->fd); /* and with it, it leaves the epoll set, unless the program has the socket still */
	entry->fd = -1;
	count_waiting--;
}

static struct target target_of(const struct waiting *entry)
{
	return (struct target){&entry->request, entry->listener, (int)entry->request.pid, -1, -1};
}

static void leave_events(const struct waiting *entry)
{
	sys4(__NR_epoll_ctl, events, EPOLL_CTL_DEL, entry->fd, 0);
}

static void go_on(struct waiting *entry)
{
	struct seccomp_notif request = entry->request;
	struct target target = {&request, entry->listener, (int)request.pid, -1, -1};
	struct call call = {.target = &target, .args = request.data.args, .fd = entry->fd, .resumed = true};

	leave_events(entry);
	entry->fd = -1;
	count_waiting--;
	if (call_look(&call) == 0 && target_is_there(&target))
		settle(&call);
	else
		sys_close(call.fd);
	target_close(&target);
}

/* A call that waits longer than its socket's SO_SNDTIMEO, or whose thread has a signal to handle or is dead. */
static void look_after(struct waiting *entry, int64_t now)
{
	struct target target = target_of(entry);
	long result = 0;

	if (!target_is_there(&target))
		result = -ESRCH;
	else if (entry->until_ms && now >= entry->until_ms)
		result = entry->request.data.nr == __NR_connect ? -EINPROGRESS : -EAGAIN;
	else if (target_is_signalled(&target))
		result = !entry->until_ms && target_threads(&target) == 1 ? -RESTART_CALL : -EINTR; /* as inet_stream_connect() */
	if (result) {
		leave_events(entry);
		answer(&target, result);
		forget(entry);
	}
	target_close(&target);
}

void netcall_go_on(void)
{
	struct epoll_event ready[32];
	long count = count_waiting ? sys4(__NR_epoll_wait, events, addr(ready), 32, 0) : 0;
	int64_t now = now_ms();

	for (long i = 0; i < count; i++)
		if (waiting[ready[i].data].fd >= 0)
			go_on(&waiting[ready[i].data]);
	for (int looked = 0, steps = 0; count_waiting && looked < LOOK_AT_MOST && steps < WAITING_MAX; steps++) {
		struct waiting *entry = &waiting[next_looked_at];

		next_looked_at = (next_looked_at + 1) % WAITING_MAX;
		if (entry->fd < 0)
			continue;
		looked++;
		look_after(entry, now);
	}
}
