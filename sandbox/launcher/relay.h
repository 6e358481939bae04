/* relay.h: streams and grants behind which there is nothing of the caller's: opened anew, or copied by the supervisor. */
#ifndef RELAY_H
#define RELAY_H

#include "plan.h"

#include <stdbool.h>

struct pollfd;

enum { STREAMS = 3, RELAY_POLLS = 2 * (STREAMS + MAX_SLOTS) };

/* Flags of STDIO: a file that is open for reading is opened anew, one that can be written is relayed; or all but
 * terminals and /dev/null is. A limit of
 * output, in bytes (fields b and c: low and high half), makes every stream that can be written a relay. It holds for each
 * relay by itself, those of grants included. */
enum streams { STREAMS_RAW = 0, STREAMS_SAFE = 1, STREAMS_RELAY = 2 };

/* In the launcher, before the fork, 0-2 the caller's: should this stream be opened anew? */
bool relay_opens_anew(const struct op *stdio, int stream);

/* In the launcher, when INHERIT ops have been carried out: is this op's grant relayed? If it says so, or is a file that is
 * open for appending: O_APPEND can be taken off a file's own descriptor, and of a pipe there is nothing to overwrite. */
bool relay_takes(const struct op *op);

/* In the launcher, before the fork, when all else is obtained: make the relays; the slots then hold the sandbox's ends.
 * anew: what 0-2 have been opened anew as, or -1. */
void relay_begin(const struct plan *plan, const int anew[STREAMS]);

void relay_enter(const struct op *stdio); /* in the init: put the other ends, and what was opened anew, onto 0-2 */

/* In the supervisor. */
void relay_attach(void);		     /* forget the other ends */
int relay_poll(struct pollfd *polled);	     /* fill in at most RELAY_POLLS entries, -1 for none; returns how many */
void relay_move(const struct pollfd *polled); /* after poll, the entries of relay_poll: copy what there is */
void relay_hurry(void);			     /* the time is up: wait for nobody who is slow */
void relay_end(void);			     /* the sandbox has ended: deliver what is left */

#endif
