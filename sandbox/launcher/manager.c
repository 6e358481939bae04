/* manager.c: what the command tells the caller's service manager, sd_notify(3), handed on by the supervisor: the words that
 * tell how a service is, and a descriptor where its storing was declared. The manager sees it come from its main process. */
#include "manager.h"

#include "fd.h"
#include "report.h"
#include "sys.h"
#include "text.h"

#include <linux/poll.h>

enum { TEXT_MAX = 4096 /* the manager takes no more */, RIGHTS_MAX = 253 /* SCM_MAX_FD */, CUT = 0x28 /* MSG_TRUNC, MSG_CTRUNC */ };
enum { END_TRIES = 10, END_WAIT_MS = 100 };

/* What says how the service is. Others speak of processes and their rights, by numbers of this PID namespace: MAINPID. */
static const char *const passing[] = {
	"READY=", "RELOADING=", "STOPPING=", "STATUS=", "ERRNO=", "BUSERROR=", "EXIT_STATUS=", "MONOTONIC_USEC=",
	"WATCHDOG=", "WATCHDOG_USEC=", "EXTEND_TIMEOUT_USEC=", "X_",
};

static struct {
	const struct op *op; /* NULL: there is no manager */
	int theirs, manager; /* the sandbox's end, and the socket to the manager; -1: not there yet */
	bool waits;	      /* what was taken is not handed on yet */
	bool replaces;	      /* first, what is stored under that name is taken away */
	int descriptor;	      /* that goes along, or -1 */
} hub = {.theirs = -1, .manager = -1, .descriptor = -1};

static struct rights {
	size_t size;
	int32_t level, type;
	int32_t descriptors[RIGHTS_MAX + 1];
} rights;

static char incoming[TEXT_MAX + 1];
static struct line outgoing, replacing;

static long connect_to_manager(void)
{
	struct {
		uint16_t family;
		char path[UNIX_NAME_MAX];
	} address = {.family = FAMILY_UNIX};
	const char *path = op_text(reporter.plan, hub.op);
	size_t size = text_length(path);

	if (size >= sizeof address.path)
		return -ENAMETOOLONG;
	__builtin_memcpy(address.path, path, size);
	return sys3(__NR_connect, hub.manager, addr(&address), (long)(FAMILY_SIZE + size + 1));
}

void manager_begin(const struct plan *plan)
{
	hub.op = plan_find(plan, OP_MANAGER);
	if (!hub.op)
		return;
	hub.manager = (int)must(hub.op, sys3(__NR_socket, FAMILY_UNIX, SOCKET_DATAGRAM | O_CLOEXEC | O_NONBLOCK, 0));
	must(hub.op, connect_to_manager());
}

void manager_attach(int fd)
{
	hub.theirs = fd;
}

static void drop_descriptor(void)
{
	if (hub.descriptor >= 0)
		sys_close(hub.descriptor);
	hub.descriptor = -1;
}

/* A manager that was started anew has another socket at the same path. */
static long send_one(const struct line *text, int descriptor)
{
	struct sys_rights sent = {SYS_RIGHTS_SIZE, SYS_SOL_SOCKET, SYS_SCM_RIGHTS, descriptor, 0};
	struct iovec part = {(void *)(uintptr_t)text->text, text->length};
	struct sys_message message = {.parts = &part, .part_count = 1};
	long result;

	if (descriptor >= 0) {
		message.control = &sent;
		message.control_size = sizeof sent;
	}
	result = sys3(__NR_sendmsg, hub.manager, addr(&message), SYS_MSG_NOSIGNAL | SYS_MSG_DONTWAIT);
	if (result == -ECONNREFUSED && connect_to_manager() == 0)
		result = sys3(__NR_sendmsg, hub.manager, addr(&message), SYS_MSG_NOSIGNAL | SYS_MSG_DONTWAIT);
	return result;
}

static void hand_on(void)
{
	long sent = 0;

	if (hub.replaces)
		sent = send_one(&replacing, -1);
	if (sent == -EAGAIN)
		return;
	hub.replaces = false;
	if (sent >= 0)
		sent = send_one(&outgoing, hub.descriptor);
	if (sent == -EAGAIN)
		return;
	if (sent < 0)
		report_loss("notify", "NOTIFY_SOCKET", NULL, sent);
	hub.waits = false;
	drop_descriptor();
}

static void add(struct line *line, const char *start, const char *rest)
{
	if (line->length)
		line_text(line, "\n");
	line_text(line, start);
	line_text(line, rest);
}

static const struct op *declared(const char *name)
{
	for_ops(reporter.plan, op, OP_STORE) if (text_equal(op_text(reporter.plan, op), name)) return op;
	return NULL;
}

/* Why a descriptor is not stored, or NULL. */
static const char *refusal(const struct op *store, int count)
{
	int type;

	if (!store)
		return "it would be stored, and no grant declares that: inherit = \"systemd:NAME\", stored = true";
	if (count != 1)
		return "one descriptor can be stored under a name";
	type = fd_type(rights.descriptors[0]);
	return type >= 0 && store->a >> type & 1 ? NULL : "what would be stored is of another type than its grant";
}

/* One name has one descriptor, the last: what is given back at the next start is one grant. */
static void store(const char *name, bool polled, int count)
{
	const char *reason = refusal(declared(name), count);

	if (reason) {
		report_loss("notify", name, reason, 0);
		return;
	}
	add(&outgoing, "FDSTORE=1\nFDNAME=", name);
	if (!polled)
		add(&outgoing, "FDPOLL=0", "");
	add(&replacing, "FDSTOREREMOVE=1\nFDNAME=", name);
	hub.replaces = true;
	hub.descriptor = rights.descriptors[0];
	rights.descriptors[0] = -1;
}

static bool passes(const char *line)
{
	for (size_t i = 0; i < sizeof passing / sizeof passing[0]; i++)
		if (text_starts(line, passing[i]))
			return true;
	return false;
}

/* A barrier (sd_notify_barrier(3)) is a descriptor that is closed once what came before it has been taken: it has. */
static void sift(char *text, int count)
{
	const char *name = "stored"; /* the manager's word for one without a name */
	bool stores = false, removes = false, polled = true;

	outgoing.length = replacing.length = 0;
	for (char *line = text; *line;) {
		long end = text_find(line, '\n');
		char *next = end < 0 ? line + text_length(line) : line + end + 1;

		if (end >= 0)
			line[end] = '\0';
		stores = stores || text_equal(line, "FDSTORE=1");
		removes = removes || text_equal(line, "FDSTOREREMOVE=1");
		polled = polled && !text_equal(line, "FDPOLL=0");
		if (text_starts(line, "FDNAME="))
			name = line + sizeof "FDNAME=" - 1;
		if (passes(line))
			add(&outgoing, line, "");
		line = next;
	}
	if (stores)
		store(name, polled, count);
	else if (removes && declared(name))
		add(&outgoing, "FDSTOREREMOVE=1\nFDNAME=", name);
}

/* Take one message; false: there is none. */
static bool take(void)
{
	struct iovec part = {incoming, TEXT_MAX};
	struct sys_message message = {.parts = &part, .part_count = 1, .control = &rights, .control_size = sizeof rights};
	long size = sys3(__NR_recvmsg, hub.theirs, addr(&message), SYS_MSG_DONTWAIT | SYS_MSG_CMSG_CLOEXEC);
	int count = 0;

	if (size < 0)
		return false;
	if (message.control_size >= SYS_RIGHTS_SIZE - sizeof(int32_t) && rights.type == SYS_SCM_RIGHTS)
		count = (int)((rights.size - offsetof(struct rights, descriptors)) / sizeof(int32_t));
	incoming[size] = '\0';
	if (!(message.flags & CUT)) {
		sift(incoming, count);
		hub.waits = outgoing.length > 0;
	}
	for (int i = 0; i < count; i++)
		if (rights.descriptors[i] >= 0)
			sys_close(rights.descriptors[i]);
	return true;
}

int manager_poll(struct pollfd *polled)
{
	if (hub.theirs < 0)
		return 0;
	polled[0] = (struct pollfd){.fd = hub.waits ? -1 : hub.theirs, .events = POLLIN};
	polled[1] = (struct pollfd){.fd = hub.waits ? hub.manager : -1, .events = POLLOUT};
	return MANAGER_POLLS;
}

void manager_move(const struct pollfd *polled)
{
	if (polled[0].revents)
		take();
	if (hub.waits)
		hand_on();
}

void manager_end(void)
{
	for (int tries = 0; hub.theirs >= 0 && tries < END_TRIES;) {
		struct pollfd ready = {.fd = hub.manager, .events = POLLOUT};

		if (!hub.waits && !take())
			break;
		if (hub.waits)
			hand_on();
		if (hub.waits) {
			sys3(__NR_poll, addr(&ready), 1, END_WAIT_MS);
			tries++;
		}
	}
}
