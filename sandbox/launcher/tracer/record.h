/* record.h: what the tracer is told (a row for each system call) and what it tells (records); sandbox/trace.py has the
 * other side of both. */
#ifndef RECORD_H
#define RECORD_H

#include <stdint.h>

enum { CALLS = 512, ARGUMENTS = 6 };

/* When a call is told. */
enum {
	TELL_SUCCESS = 1,
	TELL_FAILURE = 2,
	READ_EARLY = 4, /* its texts are gone when it has succeeded: an exec */
	TELL_ONCE = 8,	/* that it was made at all: its first, whatever it came to */
	TELL_AGAIN = 16, /* EAGAIN too, which of most calls means only: later */
	TELL_AND_WAIT = 32, /* the thread goes on when a byte has come: what is said of a call comes before what follows it */
};

/* What an argument of a call is, where it is worth telling. */
enum argument {
	ARGUMENT_NUMBER = 0,
	ARGUMENT_PATH = 1,	/* told with the working directory */
	ARGUMENT_PATH_AT = 2,	/* told with what the descriptor in the argument before refers to */
	ARGUMENT_ADDRESS = 3,	/* a socket address; its size is the argument after; told with the socket's type, a byte */
	ARGUMENT_MESSAGE = 4,	/* struct msghdr, which may hold an address */
	ARGUMENT_DESCRIPTOR = 5, /* told with what it refers to */
};

/* One row for each number: what sandbox-trace reads from its first descriptor, and after them a byte for each call that
 * is told with TELL_AND_WAIT. */
struct row {
	uint8_t tell, kinds[ARGUMENTS], reserved;
};

enum record_type {
	RECORD_LAUNCHER = 1, /* pid: the launcher's */
	RECORD_FORK = 2,     /* pid: the parent's; result: the new process's */
	RECORD_EXEC = 3,     /* pid executes another program now, which is told */
	RECORD_CALL = 4,
	RECORD_STOPPED = 5, /* the launcher has stopped itself; result: the signal */
	RECORD_OVERFLOW = 6, /* more processes than the tracer can follow: one is not followed */
	RECORD_KILLED = 7,   /* a process of the command's has been ended by a signal; result: which */
};

/* Texts follow: each a uint16_t length and so many bytes. First the program; of a call, for each argument that is told,
 * one or two: see enum argument. */
struct record {
	uint32_t size; /* with the texts */
	uint32_t type;
	int32_t pid, nr;
	int64_t result;
	uint64_t arguments[ARGUMENTS];
};

_Static_assert(sizeof(struct record) == 72, "sandbox/trace.py");

#endif
