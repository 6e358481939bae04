/* netreport.c: events of the network, for the status descriptor and --trace-net. */
#include "netreport.h"

#include "report.h"
#include "sys.h"

enum { REMEMBERED = 64 };

/* Sends that were told of. A program that sends a thousand datagrams to one peer is told of once. */
static struct sent {
	struct peer peer;
	int pid;
	enum net_verdict verdict;
	bool is_udp;
} sent[REMEMBERED];
static uint32_t next_sent;

static bool same_peer(const struct peer *left, const struct peer *right)
{
	if (left->family != right->family || left->port != right->port || left->zone != right->zone)
		return false;
	for (int i = 0; i < 16; i++)
		if (left->host[i] != right->host[i])
			return false;
	return true;
}

static bool was_told(int pid, const struct peer *peer, bool is_udp, enum net_verdict verdict)
{
	for (uint32_t i = 0; i < REMEMBERED; i++)
		if (sent[i].pid == pid && sent[i].verdict == verdict && sent[i].is_udp == is_udp && same_peer(&sent[i].peer, peer))
			return true;
	sent[next_sent++ % REMEMBERED] = (struct sent){*peer, pid, verdict, is_udp};
	return false;
}

static void report(struct target *target, struct event *event, const struct line *text, long result)
{
	size_t length = text->length < sizeof event->text ? text->length : sizeof event->text - 1;

	event->type = EVENT_NETWORK;
	event->pid = target->pid;
	event->error = result < 0 && result > -SYS_MAX_ERRNO ? (int32_t)-result : 0;
	__builtin_memcpy(event->text, text->text, length);
	if (target_open(target) == 0)
		sys4(__NR_readlinkat, target->directory, addr("exe"), addr(event->from), sizeof event->from - 1);
	report_event(event);
}

void netreport_peer(struct target *target, enum net_call call, const struct peer *peer, bool is_udp,
		    enum net_verdict verdict, const struct op *rule, long result)
{
	static struct line line;
	struct event event = {.detail = (int32_t)call, .code = (int32_t)verdict, .op = rule ? op_index(rule) : -1};

	if (!report_wants_network() || (call == NET_SEND && was_told(target->pid, peer, is_udp, verdict)))
		return;
	line.length = 0;
	network_describe(&line, peer, is_udp);
	report(target, &event, &line, result < -SYS_MAX_ERRNO ? -EINPROGRESS : result);
}

long netreport_family(struct target *target, enum net_call call, unsigned family, long error)
{
	static struct line line;
	struct event event = {.detail = (int32_t)call, .code = NET_REFUSED, .op = -1};

	if (report_wants_network()) {
		line.length = 0;
		line_text(&line, "family ");
		line_number(&line, family);
		if (family == FAMILY_INET || family == FAMILY_INET6) {
			line_text(&line, ", type ");
			line_number(&line, (int64_t)(target->request->data.args[1] & 15));
		}
		report(target, &event, &line, error);
	}
	return error;
}

long netreport_option(struct target *target, long error)
{
	static struct line line;
	struct event event = {.detail = NET_OPTION, .code = NET_REFUSED, .op = -1};

	if (report_wants_network()) {
		line.length = 0;
		line_text(&line, "level ");
		line_number(&line, (int32_t)target->request->data.args[1]);
		line_text(&line, ", option ");
		line_number(&line, (int32_t)target->request->data.args[2]);
		report(target, &event, &line, error);
	}
	return error;
}
