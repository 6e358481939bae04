/* terminal.h: what the child has for a terminal: none, one of its own that the supervisor relays, or the caller's.
 *
 * The caller's terminal is the first of 0, 1 and 2, as the launcher got them, that is one. Where none is, there is
 * nothing to relay, and TERMINAL_PRIVATE is the same as TERMINAL_NONE. */
#ifndef TERMINAL_H
#define TERMINAL_H

#include "plan.h"

#include <stdbool.h>

struct pollfd;

/* In the launcher, before the fork, 0-2 still the caller's: find the caller's terminal, remember its settings. */
void terminal_keep(const struct op *op);

/* In the init, after the view is entered and before the child is forked, all signals blocked: a session of its own.
 * With TERMINAL_PRIVATE also a new pseudo-terminal, which becomes the session's controlling terminal, gets the caller's
 * settings and size, and takes the place of those of 0, 1 and 2 that are the caller's terminal; one on another terminal
 * stays as it is, like a stream on a file. Returns the master, close-on-exec and non-blocking, to be sent to the
 * supervisor and closed; -1 where there is none. The init keeps a descriptor of the slave, close-on-exec, until it
 * ends: a program that closes its last one and opens /dev/tty later finds the terminal as it was. */
int terminal_begin(const struct op *op);

int terminal_slave(void); /* in the init: that descriptor of the slave, or -1 */

/* In the child, all signals blocked: its own process group, in the foreground of the private terminal. */
void terminal_join(const struct op *op);

/* In the supervisor, all signals blocked. Each does nothing where no terminal is relayed. */
enum { TERMINAL_POLLS = 4 };
void terminal_attach(const struct op *op, int master); /* the master came: begin to relay; takes it over */
int terminal_poll(struct pollfd *polled);	  /* fill in TERMINAL_POLLS entries, -1 for none; returns how many */
void terminal_relay(const struct pollfd *polled); /* after poll, the entries of terminal_poll: move what there is */
void terminal_refresh(void); /* SIGWINCH or SIGCONT came: the size, and the keyboard if we are in the foreground */

/* The child was stopped by a signal: give the caller's terminal back and stop as well, so that a shell sees a stopped
 * job. Returns when continued; the SIGCONT waits to be read, and is to be passed on after terminal_refresh(). True:
 * nobody could have continued us, so we did not stop; the child is to be continued, as if it had not been stopped. */
bool terminal_stop(int signal);

/* The caller's terminal passes everything on as it is: a new line needs a carriage return as well. */
bool terminal_is_raw(void);

/* Somebody wants an end of it (a signal, the timeout): what is left is shown only if the terminal takes it. */
void terminal_hurry(void);

/* The init has ended, or the launcher fails: show what the child wrote, then the caller's settings are back. On every
 * way out of the supervisor; more than once does no harm. */
void terminal_end(void);

#endif
