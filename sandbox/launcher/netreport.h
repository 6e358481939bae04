/* netreport.h: what is told of the calls that name an address. */
#ifndef NETREPORT_H
#define NETREPORT_H

#include "network.h"
#include "target.h"

enum net_call { NET_CONNECT = 1, NET_BIND_TO = 2, NET_LISTEN = 3, NET_SEND = 4, NET_SOCKET = 5, NET_OPTION = 6 };
enum net_verdict { NET_ALLOWED = 1, NET_REFUSED = 2, NET_INSIDE = 3 };

/* result: what the call comes to. Of sends only the first of equal ones that follow each other are told. */
void netreport_peer(struct target *target, enum net_call call, const struct peer *peer, bool is_udp,
		    enum net_verdict verdict, const struct op *rule, long result);

/* A socket of a family that is refused, and an option that is; they return the error. */
long netreport_family(struct target *target, enum net_call call, unsigned family, long error);
long netreport_option(struct target *target, long error);

#endif
