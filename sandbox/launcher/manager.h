/* manager.h: what the command tells the caller's service manager, which the supervisor hands on. */
#ifndef MANAGER_H
#define MANAGER_H

#include "plan.h"

struct pollfd;

enum { MANAGER_POLLS = 2 };

void manager_begin(const struct plan *plan); /* in the launcher: find the manager's socket */
void manager_attach(int fd);		      /* in the supervisor: what the sandbox sends to; taken over */
int manager_poll(struct pollfd *polled);      /* how many are to be polled: 0 or MANAGER_POLLS */
void manager_move(const struct pollfd *polled);
void manager_end(void); /* hand on what the sandbox has left */

#endif
