/* netcall.h: the calls by which a program would reach the network, carried out by the supervisor where a rule allows it. */
#ifndef NETCALL_H
#define NETCALL_H

#include "plan.h"
#include "target.h"

/* Before anything is started. Does nothing, as all below, without an ALLOW_LIST in the plan. */
void netcall_prepare(const struct plan *plan);

/* Take over what Landlock enforces on the sandbox, for the processes that act inside it. */
void netcall_hold_ruleset(int fd);

/* Answer a notification of any call but exec; or keep it until its socket is ready. */
void netcall_answer(struct target *target);

int netcall_descriptor(void); /* to poll for POLLIN, or -1 */
int netcall_timeout(void);    /* milliseconds after which netcall_go_on() is to be called, or -1 */
void netcall_go_on(void);     /* calls whose socket is ready, whose time is up, or that a signal interrupts */

#endif
