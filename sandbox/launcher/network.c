/* network.c: the rules of the plan, in their order, and the addresses that they are asked about. No system call. */
#include "network.h"

#include <linux/errno.h>

enum { PORT_AT = 2, HOST_AT = 4, HOST6_AT = 8, ZONE_AT = 24 }; /* struct sockaddr_in, sockaddr_in6: ip(7), ipv6(7) */
enum { SHORT_INET6 = 24 }; /* RFC 2133's, without a zone: the kernel takes it still (SIN6_LEN_RFC2133) */
enum { MAPPED_AT = 12 };   /* ::ffff:a.b.c.d */

static const uint8_t mapped[MAPPED_AT] = {[10] = 0xff, [11] = 0xff};

static bool same_bytes(const uint8_t *left, const uint8_t *right, size_t size)
{
	for (size_t at = 0; at < size; at++)
		if (left[at] != right[at])
			return false;
	return true;
}

static bool is_zero(const uint8_t *bytes, size_t size)
{
	for (size_t at = 0; at < size; at++)
		if (bytes[at])
			return false;
	return true;
}

static size_t host_size(const struct peer *peer)
{
	return peer->family == FAMILY_INET ? 4 : 16;
}

int network_read(const uint8_t *bytes, size_t size, struct peer *peer)
{
	*peer = (struct peer){.family = FAMILY_NONE};
	if (size < FAMILY_SIZE || size > ADDRESS_MAX)
		return -EINVAL;
	peer->family = (unsigned)(bytes[0] | bytes[1] << 8);
	if (peer->family == FAMILY_NONE)
		return 0;
	if (peer->family != FAMILY_INET && peer->family != FAMILY_INET6)
		return -EAFNOSUPPORT;
	if (size < (peer->family == FAMILY_INET ? (size_t)INET_SIZE : (size_t)SHORT_INET6))
		return -EINVAL;
	peer->port = (uint16_t)(bytes[PORT_AT] << 8 | bytes[PORT_AT + 1]);
	__builtin_memcpy(peer->host, bytes + (peer->family == FAMILY_INET ? HOST_AT : HOST6_AT), host_size(peer));
	if (peer->family == FAMILY_INET6 && size >= INET6_SIZE)
		__builtin_memcpy(&peer->zone, bytes + ZONE_AT, sizeof peer->zone);
	if (peer->family == FAMILY_INET6 && same_bytes(peer->host, mapped, sizeof mapped)) {
		peer->family = FAMILY_INET;
		__builtin_memcpy(peer->host, peer->host + MAPPED_AT, 4);
		__builtin_memset(peer->host + 4, 0, 12);
		peer->zone = 0;
	}
	return 0;
}

static bool lies_in_network(const uint8_t *host, const uint8_t *network, uint32_t bits)
{
	uint8_t rest = (uint8_t)(0xff00u >> (bits % 8));

	return same_bytes(host, network, bits / 8) && (bits % 8 == 0 || ((host[bits / 8] ^ network[bits / 8]) & rest) == 0);
}

static bool fits(const struct plan *plan, const struct op *rule, const struct peer *peer)
{
	const uint8_t *address = (const uint8_t *)op_text(plan, rule);
	uint32_t zone = 0;

	if (peer->port < rule->b || peer->port > rule->c || peer->family != address_family((const char *)address))
		return false;
	if (peer->family == FAMILY_INET6)
		__builtin_memcpy(&zone, address + ZONE_AT, sizeof zone);
	return (zone == 0 || zone == peer->zone) &&
	       lies_in_network(peer->host, address + (peer->family == FAMILY_INET ? HOST_AT : HOST6_AT), rule->a);
}

const struct op *network_rule(const struct plan *plan, const struct peer *peer, unsigned kind)
{
	for_ops(plan, rule, OP_NET_RULE) if ((rule->flags & (NET_BIND | NET_UDP)) == kind && fits(plan, rule, peer)) return rule;
	return NULL;
}

bool network_allows(const struct op *rule)
{
	return rule && !(rule->flags & NET_DENY);
}

bool network_is_any(const struct peer *peer)
{
	return is_zero(peer->host, host_size(peer));
}

bool network_is_loopback(const struct peer *peer)
{
	if (peer->family == FAMILY_INET)
		return peer->host[0] == 127 || network_is_any(peer);
	return peer->family == FAMILY_INET6 && is_zero(peer->host, 15) && peer->host[15] <= 1;
}

static void hex_group(struct line *line, unsigned group)
{
	char digits[5] = {0};
	unsigned length = group > 0xfff ? 4 : group > 0xff ? 3 : group > 0xf ? 2 : 1;

	for (unsigned at = length; at-- > 0; group >>= 4)
		digits[at] = "0123456789abcdef"[group & 15];
	line_text(line, digits);
}

/* The longest run of two or more groups that are zero is written as "::", the first of equal ones (RFC 5952). */
static void describe_inet6(struct line *line, const uint8_t host[16])
{
	unsigned groups[8], start = 8, longest = 1;

	for (unsigned i = 0; i < 8; i++)
		groups[i] = (unsigned)(host[2 * i] << 8 | host[2 * i + 1]);
	for (unsigned i = 0, run; i < 8; i += run + 1) {
		for (run = 0; i + run < 8 && groups[i + run] == 0; run++)
			;
		if (run > longest) {
			longest = run;
			start = i;
		}
	}
	for (unsigned i = 0; i < 8; i++) {
		if (i == start) {
			line_text(line, "::");
			i += longest - 1;
			continue;
		}
		if (i > 0 && i != start + longest)
			line_text(line, ":");
		hex_group(line, groups[i]);
	}
}

void network_describe(struct line *line, const struct peer *peer, bool is_udp)
{
	line_text(line, is_udp ? "udp:" : "tcp:");
	if (peer->family == FAMILY_INET) {
		for (unsigned i = 0; i < 4; i++) {
			line_number(line, peer->host[i]);
			line_text(line, i < 3 ? "." : "");
		}
	} else {
		line_text(line, "[");
		describe_inet6(line, peer->host);
		if (peer->zone) {
			line_text(line, "%");
			line_number(line, peer->zone);
		}
		line_text(line, "]");
	}
	line_text(line, ":");
	line_number(line, peer->port);
}
