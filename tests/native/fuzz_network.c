/* fuzz_network.c: gives arbitrary bytes for addresses to the rules of a real plan: network.c reads them, decides, and
 * writes them as text.
 *
 * FUZZ_PLAN names the plan's file. What is found is compared with the same said bit by bit, and the text with what libc
 * reads in it. With libFuzzer: clang -fsanitize=fuzzer. Without: -DSTANDALONE gives a main() that takes -runs=N and
 * builds addresses from the rules' own, and noise. */
#include "network.h"
#include "plan_file.h"
#include "source.h"

#include <linux/errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int inet_pton(int family, const char *text, void *bytes); /* libc's header declares what the kernel's do */

static struct plan plan;

static bool bit_of(const uint8_t *bytes, uint32_t number)
{
	return bytes[number / 8] >> (7 - number % 8) & 1;
}

static bool does_fit(const struct op *rule, const struct peer *peer)
{
	const uint8_t *address = (const uint8_t *)op_text(&plan, rule);
	bool inet = peer->family == FAMILY_INET;

	if (address[0] != peer->family || address[1] || peer->port < rule->b || peer->port > rule->c)
		return false;
	for (uint32_t number = 0; number < rule->a; number++)
		if (bit_of(address + (inet ? 4 : 8), number) != bit_of(peer->host, number))
			return false;
	return inet || memcmp(address + 24, "\0\0\0\0", 4) == 0 || memcmp(address + 24, &peer->zone, 4) == 0;
}

static void check_rules(const struct peer *peer)
{
	for (unsigned kind = 0; kind <= (NET_BIND | NET_UDP); kind += NET_BIND) {
		const struct op *found = network_rule(&plan, peer, kind), *wanted = NULL;

		for (uint32_t at = 0; !wanted && at < plan.op_count; at++) {
			const struct op *op = plan.ops + at;

			if (op->code == OP_NET_RULE && (op->flags & ~(unsigned)NET_DENY) == kind && does_fit(op, peer))
				wanted = op;
		}
		demand(found == wanted);
		demand(network_allows(found) == (found && !(found->flags & NET_DENY)));
	}
}

static void check_text(const struct peer *peer)
{
	struct line line = {.length = 0};
	uint8_t host[16] = {0};
	char zone[12] = "", *end, *percent;

	network_describe(&line, peer, peer->port & 1);
	demand(line.length < 80); /* it fits into a record's text */
	line.text[line.length] = '\0';
	demand(strncmp(line.text, peer->port & 1 ? "udp:" : "tcp:", 4) == 0);
	end = strrchr(line.text, ':');
	demand(end && strtoul(end + 1, NULL, 10) == peer->port);
	*end = '\0';
	percent = strchr(line.text, '%');
	if (peer->family == FAMILY_INET6) {
		demand(line.text[4] == '[' && end[-1] == ']');
		end[-1] = '\0';
		if (percent)
			snprintf(zone, sizeof zone, "%s", percent + 1), *percent = '\0';
	}
	demand(strtoul(zone, NULL, 10) == peer->zone && !percent == !peer->zone);
	demand(inet_pton((int)peer->family, line.text + (peer->family == FAMILY_INET ? 4 : 5), host) == 1);
	demand(memcmp(host, peer->host, sizeof host) == 0);
	demand(!strstr(line.text, ":::") && (strstr(line.text, "::") || !strstr(line.text, ":0:0:")));
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	static const uint8_t zeros[16], mapped[12] = {[10] = 0xff, [11] = 0xff};
	uint8_t *bytes = malloc(size ? size : 1); /* of just the size, for the sanitizer */
	struct peer peer;
	unsigned family = size < 2 ? 0 : (unsigned)(input[0] | input[1] << 8);
	int failed;

	if (!plan.ops)
		read_plan(&plan, OP_NET_RULE);
	demand(bytes != NULL);
	if (size)
		memcpy(bytes, input, size);
	failed = network_read(bytes, size, &peer);
	free(bytes);
	if (size < 2 || size > 128)
		demand(failed == -EINVAL);
	else if (family != 0 && family != FAMILY_INET && family != FAMILY_INET6)
		demand(failed == -EAFNOSUPPORT);
	else if (family != 0 && size < (family == FAMILY_INET ? 16u : 24u))
		demand(failed == -EINVAL);
	else
		demand(failed == 0);
	if (failed || peer.family == FAMILY_NONE)
		return 0;
	demand(peer.family == FAMILY_INET || (family == FAMILY_INET6 && peer.family == FAMILY_INET6));
	demand(peer.port == (input[2] << 8 | input[3]));
	if (peer.family == FAMILY_INET6)
		demand(memcmp(peer.host, input + 8, 16) == 0 && memcmp(peer.host, mapped, sizeof mapped) != 0);
	else
		demand(memcmp(peer.host, input + (family == FAMILY_INET ? 4 : 20), 4) == 0 &&
		       memcmp(peer.host + 4, zeros, 12) == 0 && !peer.zone);
	demand(network_is_any(&peer) == (memcmp(peer.host, zeros, 16) == 0));
	demand(!network_is_any(&peer) || network_is_loopback(&peer));
	check_rules(&peer);
	check_text(&peer);
	return 0;
}

#ifdef STANDALONE

enum { MOST_SIZE = 140 };

static size_t build(struct source *source, uint8_t input[MOST_SIZE])
{
	const struct op *rule = plan_find(&plan, OP_NET_RULE);
	size_t size, count = 0;

	for_ops(&plan, one, OP_NET_RULE) count++;
	rule += next(source) % count;
	for (size_t at = 0; at < MOST_SIZE; at++)
		input[at] = next(source) % 3 ? 0 : (uint8_t)next(source);
	size = rule->data_size;
	memcpy(input, op_text(&plan, rule), size);
	switch (next(source) % 8) { /* the port: in the rule, at its edge, any */
	case 0: input[2] = (uint8_t)next(source); break;
	case 1: input[2] = (uint8_t)((rule->b - 1) >> 8), input[3] = (uint8_t)(rule->b - 1); break;
	case 2: input[2] = (uint8_t)((rule->c + 1) >> 8), input[3] = (uint8_t)(rule->c + 1); break;
	default: input[2] = (uint8_t)(rule->b >> 8), input[3] = (uint8_t)rule->b;
	}
	if (size == INET_SIZE && next(source) % 4 == 0) { /* the same in IPv6 */
		memcpy(input + 20, op_text(&plan, rule) + 4, 4);
		memset(input + 4, 0, 16);
		input[0] = FAMILY_INET6;
		input[18] = input[19] = 0xff;
		size = INET6_SIZE;
	}
	for (uint64_t flips = next(source) % 4; flips > 0; flips--)
		input[(size == INET_SIZE ? 4 : 8) + next(source) % (size == INET_SIZE ? 4 : 16)] ^= (uint8_t)(1u << next(source) % 8);
	if (next(source) % 8 == 0)
		memset(input + 8, 0, next(source) % 16);
	if (next(source) % 16 == 0)
		input[next(source) % 2] = (uint8_t)next(source);
	return next(source) % 4 ? size : next(source) % MOST_SIZE;
}

int main(int argc, char **argv)
{
	struct source source = {NULL, 0, 0x2545f4914f6cdd1du};
	unsigned long runs = argc == 2 && strncmp(argv[1], "-runs=", 6) == 0 ? strtoul(argv[1] + 6, NULL, 10) : 0;
	uint8_t input[MOST_SIZE];

	read_plan(&plan, OP_NET_RULE);
	for (unsigned long run = 0; run < runs; run++)
		LLVMFuzzerTestOneInput(input, build(&source, input));
	printf("%lu inputs\n", runs);
	return 0;
}

#endif
