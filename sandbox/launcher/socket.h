/* socket.h: the ops that make sockets, in the caller's network; each returns its descriptor parked and close-on-exec. */
#ifndef SOCKET_H
#define SOCKET_H

#include "plan.h"

int socket_listen(const struct plan *plan, const struct op *op);
int socket_connect(const struct plan *plan, const struct op *op);

/* In the launcher, at its end: remove the files of its sockets, where they still are those. */
void socket_end(void);

#endif
