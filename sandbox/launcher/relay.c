/* relay.c: standard streams behind which there is nothing of the caller's: opened anew, or copied by the supervisor.
 *
 * A pipe can be opened the other way through /proc, which gives a program back what it wrote itself and no more. */
#include "relay.h"

#include "fd.h"
#include "report.h"
#include "sys.h"

#include <linux/kcmp.h>
#include <linux/poll.h>
#include <linux/stat.h>

enum { PIECE = 4096, ROOM = 1 << 16, PIPE_ROOM = 1 << 18, WAIT_MS = 100 };
enum { F_SETPIPE_SIZE = 1024 + 7, SPLICE_NO_WAIT = 2, SEND_NO_WAIT = 0x4040 /* MSG_DONTWAIT | MSG_NOSIGNAL */ };

static const char *const names[STREAMS] = {"standard input", "standard output", "standard error"};

struct relay {
	int from, to; /* -1: ended */
	int theirs;   /* the sandbox's end of the pipe, until it is there */
	int copies;   /* the stream that this one is the same as, or -1 */
	bool used, is_input, is_file, is_socket, blocks;
	uint64_t left; /* bytes that may still pass */
	int64_t offset; /* of a file that is read: the caller's own stays where it is */
	uint32_t start, end;
	char bytes[ROOM];
};

static struct relay relays[STREAMS];
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

bool relay_opens_anew(const struct op *stdio, int stream)
{
	return stdio->flags != STREAMS_RAW && type_of(stdio, stream) == FD_FILE && reads(stdio, stream);
}

static uint64_t limit_of(const struct op *stdio)
{
	return stdio->b | (uint64_t)stdio->c << 32;
}

static bool is_relayed(const struct op *stdio, int stream)
{
	int type = type_of(stdio, stream);

	if (type == FD_FILE)
		return stdio->flags != STREAMS_RAW || (limit_of(stdio) && !reads(stdio, stream));
	if (type != FD_PIPE && type != FD_SOCKET)
		return false;
	return stdio->flags == STREAMS_RELAY || (limit_of(stdio) && !reads(stdio, stream));
}

static int parked(const struct plan *plan, const struct op *stdio, int fd)
{
	return (int)must(stdio, fd_park(plan, fd));
}

/* The caller's pipe through an open file of our own, so that we need not wait where the caller would. */
static int outer_end(const struct plan *plan, const struct op *stdio, struct relay *relay, int stream)
{
	char link[NUMBERED_PATH];
	int own = -1;

	fd_link(link, stream);
	if (!relay->is_file && !relay->is_socket)
		own = sys_open(link, (relay->is_input ? O_RDONLY : O_WRONLY) | O_NONBLOCK | O_CLOEXEC, 0);
	relay->blocks = own < 0;
	if (own < 0)
		return parked(plan, stdio, stream);
	stream = parked(plan, stdio, own);
	sys_close(own);
	return stream;
}

static void make(const struct plan *plan, const struct op *stdio, int stream)
{
	struct relay *relay = &relays[stream];
	int type = type_of(stdio, stream), ends[2], outer;

	relay->used = true;
	relay->copies = -1;
	relay->is_input = reads(stdio, stream);
	relay->is_file = type == FD_FILE;
	relay->is_socket = type == FD_SOCKET;
	relay->left = limit_of(stdio) && !relay->is_input ? limit_of(stdio) : UINT64_MAX;
	outer = outer_end(plan, stdio, relay, stream);
	if (relay->is_file && relay->is_input)
		relay->offset = must(stdio, sys3(__NR_lseek, outer, 0, 1 /* SEEK_CUR */));
	must(stdio, sys2(__NR_pipe2, addr(ends), O_CLOEXEC));
	sys_fcntl(ends[0], F_SETPIPE_SIZE, PIPE_ROOM); /* a smaller one will do */
	relay->from = relay->is_input ? outer : parked(plan, stdio, ends[0]);
	relay->to = relay->is_input ? parked(plan, stdio, ends[1]) : outer;
	relay->theirs = parked(plan, stdio, ends[relay->is_input ? 0 : 1]);
	must(stdio, sys_fcntl(relay->is_input ? relay->to : relay->from, F_SETFL, O_NONBLOCK));
	sys_close(ends[0]);
	sys_close(ends[1]);
}

/* 2>&1: what is one open file stays one, so that lines keep their order. */
static bool is_same(int left, int right)
{
	long self = sys0(__NR_getpid);

	return sys5(__NR_kcmp, self, self, KCMP_FILE, left, right) == 0;
}

void relay_begin(const struct plan *plan, const struct op *stdio, const int anew[STREAMS])
{
	for (int stream = 0; stream < STREAMS; stream++) {
		struct relay *relay = &relays[stream];

		relay->from = relay->to = relay->theirs = relay->copies = -1;
		opened_anew[stream] = anew[stream];
		if (anew[stream] >= 0 || !is_relayed(stdio, stream))
			continue;
		if (stream == 2 && relays[1].used && is_same(1, 2))
			relay->copies = 1;
		else
			make(plan, stdio, stream);
	}
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
	static struct line line;

	line.length = 0;
	line_text(&line, "sandbox: relay: ");
	line_text(&line, names[relay - relays]);
	line_text(&line, ": ");
	if (reason)
		line_text(&line, reason);
	else
		line_errno(&line, (int)-error);
	line_text(&line, "\n");
	if (!reporter.quiet)
		sys_write_all(2, line.text, line.length);
}

static long read_some(struct relay *relay)
{
	size_t room = relay->left < ROOM ? (size_t)relay->left : ROOM;
	long size;

	if (relay->is_input && relay->is_file)
		size = sys4(__NR_pread64, relay->from, addr(relay->bytes), (long)room, (long)relay->offset);
	else
		size = sys_read(relay->from, relay->bytes, room);
	relay->start = 0;
	relay->end = size > 0 ? (uint32_t)size : 0;
	if (size > 0 && relay->is_input && relay->is_file)
		relay->offset += size;
	return size;
}

/* A write of at most a page does not block where poll(2) has told of room, unless others write there, too. */
static long write_some(struct relay *relay)
{
	const char *next = relay->bytes + relay->start;
	size_t size = relay->end - relay->start;

	if (relay->is_socket && !relay->is_input)
		return sys6(__NR_sendto, relay->to, addr(next), (long)size, SEND_NO_WAIT, 0, 0);
	if (relay->blocks && !relay->is_file && !relay->is_input && size > PIECE)
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
		if (relay->blocks && !relay->is_file)
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
	if (size > 0)
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

	for (int stream = 0; stream < STREAMS; stream++) {
		struct relay *relay = &relays[stream];
		bool queued = is_queued(relay);

		polled[2 * stream] = polling(relay->from, (short)(is_active(relay) && !queued ? POLLIN : 0));
		polled[2 * stream + 1] = polling(relay->to, (short)(is_active(relay) && queued ? POLLOUT : 0));
		active += is_active(relay);
	}
	return active ? RELAY_POLLS : 0;
}

void relay_move(const struct pollfd *polled)
{
	for (int stream = 0; stream < STREAMS; stream++) {
		struct relay *relay = &relays[stream];

		if (!is_active(relay) || !(polled[2 * stream].revents | polled[2 * stream + 1].revents))
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

/* Wait until what is queued has gone, as the program itself would have waited. */
static bool deliver(struct relay *relay)
{
	while (is_active(relay) && !flush(relay)) {
		struct pollfd polled = polling(relay->to, POLLOUT);

		if (!is_active(relay) || hurried || report_is_ended())
			return false;
		sys3(__NR_poll, addr(&polled), 1, WAIT_MS);
	}
	return is_active(relay);
}

void relay_hurry(void)
{
	hurried = true;
}

/* Whoever is left without a PID namespace may keep the pipe open: what is there goes, and nobody is waited for. */
void relay_end(void)
{
	for (int stream = 0; stream < STREAMS; stream++) {
		struct relay *relay = &relays[stream];

		if (relay->used && !relay->is_input)
			while (deliver(relay) && move_once(relay) > 0)
				;
		if (relay->used)
			end_relay(relay);
	}
}
