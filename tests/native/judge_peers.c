/* judge_peers.c: what a plan's rules of the network say to addresses, asked over standard input (network.c).
 *
 * Input: a plan behind its 32-bit length; then questions: the kind of rule as 32 bits, and a struct sockaddr behind its
 * 32-bit length. Output: a line for each, the errno of an address that cannot be read; or its family, the index of the
 * op that decides or -1, whether it allows, whether the address is loopback, whether it is any, and its text. Each
 * address lies in a buffer of exactly its size, so that the address sanitizer sees the first byte too many. */
#include "network.h"

#include <stdio.h>
#include <stdlib.h>

static uint8_t *read_sized(uint32_t *size)
{
	uint8_t *bytes;

	if (fread(size, sizeof *size, 1, stdin) != 1)
		exit(2);
	bytes = malloc(*size);
	if ((!bytes && *size) || fread(bytes, 1, *size, stdin) != *size)
		exit(2);
	return bytes;
}

static void answer(const struct plan *plan, const struct peer *peer, uint32_t kind)
{
	static struct line line;
	const struct op *rule = network_rule(plan, peer, kind);

	line.length = 0;
	network_describe(&line, peer, kind & NET_UDP);
	printf("%u %d %d %d %d %.*s\n", peer->family, rule ? (int)(rule - plan->ops) : -1, network_allows(rule),
	       network_is_loopback(peer), network_is_any(peer), (int)line.length, line.text);
}

int main(void)
{
	uint32_t size, kind;
	void *bytes = read_sized(&size);
	struct plan plan;
	const char *wrong = plan_check(&plan, bytes, size);

	if (wrong) {
		puts(wrong);
		return 1;
	}
	while (fread(&kind, sizeof kind, 1, stdin) == 1) {
		uint8_t *address = read_sized(&size);
		struct peer peer;
		int failed = network_read(address, size, &peer);

		free(address);
		if (failed < 0)
			printf("%d\n", -failed);
		else if (peer.family == FAMILY_NONE)
			puts("unspecified");
		else
			answer(&plan, &peer, kind);
		fflush(stdout);
	}
	free(bytes);
	return 0;
}
