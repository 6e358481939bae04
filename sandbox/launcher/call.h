/* call.h: a call that names an address, while the supervisor carries it out; what the files that do so share. */
#ifndef CALL_H
#define CALL_H

#include "netreport.h"
#include "network.h"
#include "target.h"

/* What a call comes to beside a value or -errno: it goes on by itself, it waits for its socket, it is answered. */
enum outcome { GOES_ON = -5000, WAITS = -5001, ANSWERED = -5002 };

struct call {
	struct target *target;
	const __u64 *args;
	int fd; /* our copy of its socket */
	unsigned family, type;
	bool inside;  /* the socket is of the sandbox's own network */
	bool resumed; /* it has waited for its socket */
};

/* Of the run. */
struct net {
	const struct plan *plan;
	const struct op *list; /* ALLOW_LIST; NULL: nobody asks */
	const struct op *identity;
	uint64_t cookie, inside_cookie; /* of the caller's network, and of the sandbox's; 0: not known yet */
	int ruleset;
};

extern struct net net;

enum { MSG_FAST_OPEN = 0x20000000, MSG_ZERO_COPY = 0x4000000 }; /* linux/socket.h */
enum { SO_ERROR_NUMBER = 4, SO_SEND_TIME = 21, SO_ACCEPTS = 30 }; /* asm-generic/socket.h */

/* call_socket.c: the socket of a call */
long socket_option(int fd, int name, void *value, uint32_t size); /* of SOL_SOCKET */
int socket_number(int fd, int name);				   /* an option's, or -errno */
uint64_t socket_cookie(int fd);					   /* of its network; 0 if that cannot be told */
int call_look(struct call *call); /* fill in what its socket is; 0, or the -errno that the call gives for it */
int call_move_inside(struct call *call);
bool call_goes_on_safely(struct call *call);
long call_make_socket(struct target *target); /* socket(2) */

static inline bool is_internet(unsigned family)
{
	return family == FAMILY_INET || family == FAMILY_INET6;
}

static inline unsigned call_kind(const struct call *call)
{
	return call->type == SOCKET_DATAGRAM ? (unsigned)NET_UDP : 0;
}

/* call_address.c: connect, bind, listen */
struct clean { /* an address that holds nothing but what was checked, of the family that the program gave */
	uint8_t bytes[ADDRESS_MAX];
	uint32_t size;
};

int call_read_address(struct call *call, uint64_t from, uint64_t size, uint8_t bytes[ADDRESS_MAX]);
void clean_address(const uint8_t *bytes, struct clean *clean);
long call_tell(struct call *call, enum net_call what, const struct peer *peer, enum net_verdict verdict,
	       const struct op *rule, long result);
long call_connect(struct call *call);
long call_bind(struct call *call);
long call_listen(struct call *call);

/* call_send.c */
long call_send_to(struct call *call);
long call_send_message(struct call *call);
long call_send_messages(struct call *call);

#endif
