/* network.h: which peers may be reached, which ports bound: the plan's rules, and addresses as programs give them. */
#ifndef NETWORK_H
#define NETWORK_H

#include "plan.h"
#include "text.h"

enum { FAMILY_NONE = 0 /* AF_UNSPEC */, ADDRESS_MAX = 128 /* struct sockaddr_storage */ };

/* An address of the internet, in one form whatever the program wrote: IPv4 in IPv6 is IPv4. */
struct peer {
	unsigned family;
	uint8_t host[16];
	uint16_t port;
	uint32_t zone;
};

/* Read a copy of a struct sockaddr. Returns 0, or -errno as the kernel's own calls do. Pure. */
int network_read(const uint8_t *bytes, size_t size, struct peer *peer);

/* The rule that decides, or NULL: none fits. kind: of a rule's flags, NET_BIND and NET_UDP. Pure. */
const struct op *network_rule(const struct plan *plan, const struct peer *peer, unsigned kind);

bool network_allows(const struct op *rule); /* whether there is a rule, and it denies nothing */

/* Whether an address is this host's own in every network: 127.0.0.0/8, ::1, and the two that stand for them. */
bool network_is_loopback(const struct peer *peer);
bool network_is_any(const struct peer *peer); /* 0.0.0.0 or :: */

/* tcp:192.0.2.1:443 or udp:[2001:db8::1]:53 */
void network_describe(struct line *line, const struct peer *peer, bool is_udp);

#endif
