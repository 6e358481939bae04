/* relay.c: streams and grants behind which there is nothing of the caller's: opened anew, or copied by the supervisor.
 *
 * A pipe can be opened the other way through /proc, which gives a program back what it wrote itself and no more. */
#include "relay.h"

#include "fd.h"
#include "report.h"
#include "sys.h"

#include <linux/kcmp.h>
#include <linux/mman.h>
#include <linux/poll.h>
#include <linux/stat.h>

enum { PIECE = 4096, ROOM = 1 << 16, PIPE_ROOM = 1 << 18, WAIT_MS = 100 };
enum { F_SETPIPE_SIZE = 1024 + 7, SPLICE_NO_WAIT = 2, SEND_NO_WAIT = 0x4040 /* MSG_DONTWAIT | MSG_NOSIGNAL */ };

static const char *const names[STREAMS] = {"standard input", "standard output", "standard error"};

struct relay {
	const struct op *grant; /* NULL: a standard stream */
	int from, to; /* -1: ended */
	int theirs;   /* the sandbox's end of the pipe, until it is there */
	int copies;   /* the stream that this one is the same as, or -1 */
	bool used, is_input, is_file, is_socket, blocks;
	bool keeps_offset; /* of a file: what is read or written is at our offset, and the caller's stays where it is */
	uint64_t left; /* bytes that may still pass */
	int64_t offset;
	uint32_t start, end;
	char bytes[ROOM];
};

static struct relay *relays; /* the streams', then those of grants */
static int relay_count;
static bool hurried;
static int opened_anew[STREAMS] = {-1, -1, -1};

/* What cannot be told must not pass for what needs nothing. */
static int type_of(const struct op *stdio, int stream)
{
	return (int)must(stdio, fd_type(stream));
}

static bool reads(const struct op *stdio, int stream)
{
	int mode = (int)must(stdio, sys_fcntl(stream, F_GETFL, 0)) & O_ACCMODE;

	return mode == O_RDONLY || (mode == O_RDWR && stream == 0);
}

static bool appends(int flags)
{
	return (flags & (O_ACCMODE | O_APPEND)) == (O_WRONLY | O_APPEND);
}

bool relay_takes(const struct op *op)
{
	int fd;

	if ((op->code != OP_FILE && op->code != OP_INHERIT) || op->flags & OPEN_RAW)
		return false;
	if (op->code == OP_FILE)
		return appends((int)op->b);
	fd = reporter.shared->slots[op->a];
	return op->flags & OPEN_RELAY ||
	       (appends((int)must(op, sys_fcntl(fd, F_GETFL, 0))) && must(op, fd_type(fd)) == FD_FILE);
}

bool relay_opens_anew(const struct op *stdio, int stream)
{
	return stdio->flags != STREAMS_RAW && type_of(stdio, stream) == FD_FILE && reads(stdio, stream);
}

static uint64_t limit_of(const struct op *stdio)
{
	return stdio ? stdio->b | (uint64_t)stdio->c << 32 : 0;
}

static bool is_relayed(const struct op *stdio, int stream)
{
	int type = type_of(stdio, stream);

	if (type == FD_FILE)
		return stdio->flags != STREAMS_RAW || (limit_of(stdio) && !reads(stdio, stream));
	if (type != FD_PIPE && type != FD_STREAM)
		return false;
	return stdio->flags == STREAMS_RELAY || (limit_of(stdio) && !reads(stdio, stream));
}

static int parked(const struct plan *plan, const struct op *op, int fd)
{
	return (int)must(op, fd_park(plan, fd));
}

/* The caller's pipe through an open file of our own, so that we need not wait where the caller would. */
static int outer_end(const struct plan *plan, const struct op *op, struct relay *relay, int fd)
{
	char link[NUMBERED_PATH];
	int own = -1;

	fd_link(link, fd);
	if (!relay->is_file && !relay->is_socket)
		own = sys_open(link, (relay->is_input ? O_RDONLY : O_WRONLY) | O_NONBLOCK | O_CLOEXEC, 0);
	relay->blocks = own < 0;
	if (own < 0)
		return parked(plan, op, fd);
	fd = parked(plan, op, own);
	sys_close(own);
	return fd;
}

/* Pre: grant, is_input and keeps_offset are set. op: what a failure names. */
static void make(const struct plan *plan, const struct op *op, struct relay *relay, int fd, uint64_t limit)
{
	int type = type_of(op, fd), ends[2], outer;

	relay->used = true;
	relay->is_file = type == FD_FILE;
	relay->is_socket = type == FD_STREAM;
	relay->keeps_offset = relay->is_file && (relay->is_input || relay->grant);
	relay->left = limit && !relay->is_input ? limit : UINT64_MAX;
	outer = outer_end(plan, op, relay, fd);
	if (relay->keeps_offset)
		relay->offset = must(op, sys3(__NR_lseek, outer, 0, 1 /* SEEK_CUR */));
	must(op, sys2(__NR_pipe2, addr(ends), O_CLOEXEC));
	sys_fcntl(ends[0], F_SETPIPE_SIZE, PIPE_ROOM); /* a smaller one will do */
	relay->from = relay->is_input ? outer : parked(plan, op, ends[0]);
	relay->to = relay->is_input ? parked(plan, op, ends[1]) : outer;
	relay->theirs = parked(plan, op, ends[relay->is_input ? 0 : 1]);
	must(op, sys_fcntl(relay->is_input ? relay->to : relay->from, F_SETFL, O_NONBLOCK));
	sys_close(ends[0]);
	sys_close(ends[1]);
}

/* 2>&1: what is one open file stays one, so that lines keep their order. */
static bool is_same(int left, int right)
{
	long self = sys0(__NR_getpid);

	return sys5(__NR_kcmp, self, self, KCMP_FILE, left, right) == 0;
}

static void begin_streams(const struct plan *plan, const struct op *stdio, const int anew[STREAMS])
{
	for (int stream = 0; stream < STREAMS; stream++) {
		struct relay *relay = &relays[stream];

		opened_anew[stream] = anew[stream];
		if (anew[stream] >= 0 || !is_relayed(stdio, stream))
			continue;
		relay->is_input = reads(stdio, stream);
		if (stream == 2 && relays[1].used && is_same(1, 2))
			relay->copies = 1;
		else
			make(plan, stdio, relay, stream, limit_of(stdio));
	}
}

/* Which way bytes go. What is open both ways goes the one that the grant says. */
static bool goes_in(const struct op *op, int fd)
{
	int mode = (int)must(op, sys_fcntl(fd, F_GETFL, 0)) & O_ACCMODE, access = op->flags & ACCESS_BITS;

	if (mode == O_RDWR && (op->code != OP_INHERIT || (access != ACCESS_READ && access != ACCESS_WRITE)))
		fail(op_index(op), REASON_BOTH_WAYS, 0);
	return mode == O_RDONLY || (mode == O_RDWR && access == ACCESS_READ);
}

static void begin_grant(const struct plan *plan, const struct op *op, struct relay *relay, uint64_t limit)
{
	int *slot = &reporter.shared->slots[op->a];

	if (type_of(op, *slot) == FD_STREAM && !fd_is_byte_stream(*slot))
		fail(op_index(op), REASON_RECORDS, 0);
	relay->grant = op;
	relay->is_input = goes_in(op, *slot);
	make(plan, op, relay, *slot, limit);
	sys_close(*slot);
	*slot = relay->theirs;
	relay->theirs = -1; /* closed with all that is granted */
}

void relay_begin(const struct plan *plan, const int anew[STREAMS])
{
	const struct op *stdio = plan_find(plan, OP_STDIO);
	int count = STREAMS;
	long mapped;

	for (const struct op *op = plan->ops; op < plan->ops + plan->op_count; op++)
		count += relay_takes(op);
	mapped = sys6(__NR_mmap, 0, count * (long)sizeof *relays, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mapped < 0 && mapped >= -SYS_MAX_ERRNO)
		fail_step(STEP_START, (int)-mapped, 0);
	relays = (struct relay *)mapped;
	relay_count = count;
	for (int i = 0; i < count; i++)
		relays[i].from = relays[i].to = relays[i].theirs = relays[i].copies = -1;
	if (stdio)
		begin_streams(plan, stdio, anew);
	count = STREAMS;
	for (const struct op *op = plan->ops; op < plan->ops + plan->op_count; op++)
		if (relay_takes(op))
			begin_grant(plan, op, &relays[count++], limit_of(stdio));
}

void relay_enter(const struct op *stdio)
{
	for (int stream = 0; stream < STREAMS; stream++) {
		const struct relay *relay = &relays[stream];
		int end = relay->copies >= 0 ? relays[relay->copies].theirs : relay->used ? relay->theirs : opened_anew[stream];

		if (end >= 0)
			must(stdio, sys3(__NR_dup3, end, stream, 0));
	}
}

static void end_one(int *fd)
{
	if (*fd >= 0)
		sys_close(*fd);
	*fd = -1;
}

void relay_attach(void)
{
	for (int stream = 0; stream < STREAMS; stream++) {
		end_one(&relays[stream].theirs);
		end_one(&opened_anew[stream]);
	}
}

static void end_relay(struct relay *relay)
{
	end_one(&relay->from);
	end_one(&relay->to);
	relay->start = relay->end = 0;
}

static bool is_queued(const struct relay *relay)
{
	return relay->start != relay->end;
}

/* What cannot be delivered is lost, and whoever writes it is told by SIGPIPE; a person by one line. */
static void tell(const struct relay *relay, const char *reason, long error)
{
	report_loss("relay", relay->grant ? reporter.plan->data + relay->grant->label : names[relay - relays], reason, error);
}

static long read_some(struct relay *relay)
{
	size_t room = relay->left < ROOM ? (size_t)relay->left : ROOM;
	long size;

	if (relay->is_input && relay->keeps_offset)
		size = sys4(__NR_pread64, relay->from, addr(relay->bytes), (long)room, (long)relay->offset);
	else if (relay->is_input && relay->is_socket)
		size = sys6(__NR_recvfrom, relay->from, addr(relay->bytes), (long)room, SYS_MSG_DONTWAIT, 0, 0);
	else
		size = sys_read(relay->from, relay->bytes, room);
	relay->start = 0;
	relay->end = size > 0 ? (uint32_t)size : 0;
	if (size > 0 && relay->is_input && relay->keeps_offset)
		relay->offset += size;
	return size;
}

/* Where a write may wait for a reader: it does not, of at most a page, where poll(2) has told of room, unless others write
 * there, too. */
static bool may_block(const struct relay *relay)
{
	return relay->blocks && !relay->is_file && !relay->is_socket && !relay->is_input;
}

static long write_some(struct relay *relay)
{
	const char *next = relay->bytes + relay->start;
	size_t size = relay->end - relay->start;

	if (relay->is_socket && !relay->is_input)
		return sys6(__NR_sendto, relay->to, addr(next), (long)size, SEND_NO_WAIT, 0, 0);
	if (relay->keeps_offset && !relay->is_input)
		return sys4(__NR_pwrite64, relay->to, addr(next), (long)size, (long)relay->offset);
	if (may_block(relay) && size > PIECE)
		size = PIECE;
	return sys3(__NR_write, relay->to, addr(next), (long)size);
}

static bool is_passing(long error)
{
	return error == -EAGAIN || error == -EINTR;
}

/* Returns whether all that was queued is written. */
static bool flush(struct relay *relay)
{
	while (is_queued(relay)) {
		long size = write_some(relay);

		if (size < 0) {
			if (!is_passing(size)) {
				if (size != -EPIPE)
					tell(relay, NULL, size);
				end_relay(relay);
			}
			return false;
		}
		relay->start += (uint32_t)size;
		relay->left -= (uint64_t)size;
		if (relay->keeps_offset && !relay->is_input)
			relay->offset += size;
		if (may_block(relay))
			return !is_queued(relay); /* there may be no more room */
	}
	return true;
}

/* Returns the size that came, 0 at the end, or -errno. */
static long move_once(struct relay *relay)
{
	long size;

	if (!relay->left) {
		char more;

		size = sys_read(relay->from, &more, 1);
		if (size > 0) {
			tell(relay, "more than limits.output lets through", 0);
			end_relay(relay);
		}
		return size > 0 ? 0 : size;
	}
	size = read_some(relay);
	if (size > 0 && !may_block(relay))
		flush(relay);
	return size;
}

static bool is_active(const struct relay *relay)
{
	return relay->used && relay->from >= 0;
}

static struct pollfd polling(int fd, short events)
{
	return (struct pollfd){.fd = events ? fd : -1, .events = events};
}

int relay_poll(struct pollfd *polled)
{
	int active = 0;

	for (int i = 0; i < relay_count; i++) {
		struct relay *relay = &relays[i];
		bool queued = is_queued(relay);

		polled[2 * i] = polling(relay->from, (short)(is_active(relay) && !queued ? POLLIN : 0));
		polled[2 * i + 1] = polling(relay->to, (short)(is_active(relay) && queued ? POLLOUT : 0));
		active += is_active(relay);
	}
	return active ? 2 * relay_count : 0;
}

void relay_move(const struct pollfd *polled)
{
	for (int i = 0; i < relay_count; i++) {
		struct relay *relay = &relays[i];

		if (!is_active(relay) || !(polled[2 * i].revents | polled[2 * i + 1].revents))
			continue;
		if (is_queued(relay)) {
			flush(relay);
		} else {
			long size = move_once(relay);

			if (size == 0 || (size < 0 && !is_passing(size)))
				end_relay(relay);
		}
	}
}

/* What is there goes, as far as there is room. Returns whether some is left. */
static bool deliver(struct relay *relay, bool has_room)
{
	if (!is_active(relay))
		return false;
	if (is_queued(relay) && (has_room || !may_block(relay)))
		flush(relay);
	while (is_active(relay) && !is_queued(relay))
		if (move_once(relay) <= 0)
			end_relay(relay);
	return is_active(relay);
}

void relay_hurry(void)
{
	hurried = true;
}

/* Whoever is left without a PID namespace may keep a pipe open: what is there goes, and nobody is waited for but a slow
 * reader, as the program itself would have waited; and that one holds up no other. */
void relay_end(void)
{
	struct pollfd polled[RELAY_POLLS];
	int left = 1;

	for (int i = 0; i < relay_count; i++)
		if (relays[i].is_input)
			end_relay(&relays[i]);
	for (int wait = 0; left; wait = WAIT_MS) {
		for (int i = 0; i < relay_count; i++)
			polled[i] = polling(relays[i].to, (short)(is_active(&relays[i]) ? POLLOUT : 0));
		sys3(__NR_poll, addr(polled), relay_count, wait);
		left = 0;
		for (int i = 0; i < relay_count; i++)
			left += deliver(&relays[i], polled[i].fd >= 0 && polled[i].revents);
		if (hurried || report_is_ended())
			break;
	}
	for (int i = 0; i < relay_count; i++)
		end_relay(&relays[i]);
}
