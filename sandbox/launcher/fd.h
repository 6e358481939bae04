/* fd.h: descriptors: what they are, moving them out of the way, placing, sweeping and verifying them. */
#ifndef FD_H
#define FD_H

#include "plan.h"
#include "text.h"

enum fd_type {
#define FDTYPE(name, bit, word) FD_##name = (bit),
#include "fdtypes.def"
#undef FDTYPE
	FD_TYPE_COUNT
};

const char *fd_type_word(enum fd_type type);
const char *fd_access_word(int status_flags);

struct stat;
bool fd_same_file(const struct stat *left, const struct stat *right);

/* What an open descriptor refers to. Returns the type, or -errno. Needs /proc for anonymous inodes and memfds. */
int fd_type(int fd);
bool fd_is_byte_stream(int socket); /* and no socket that keeps records apart */

unsigned fd_fill_stdio(void); /* 0, 1, 2 exist afterwards; bit N of the result: N did not before */
void fd_require(const struct op *op, uint32_t fd, unsigned filled); /* the caller has it open, we did not fill it */
int fd_park(const struct plan *plan, int fd);		/* move to a number that no PLACE op wants; close-on-exec */
void fd_drop_undeclared(const struct plan *plan); /* in the launcher: close all but 0-2 and what ops name */
void fd_check_stdio(const struct op *op);		/* op STDIO: each of 0-2 is of a type in its mask */
void fd_check_type(const struct op *op, int fd, uint32_t types);
void fd_place(const struct op *op, int fd);
void fd_sweep(const struct plan *plan, const struct op *op, int keep);
void fd_verify(const struct plan *plan, const struct op *op, int keep);
void fd_link(char link[NUMBERED_PATH], int fd); /* "/proc/self/fd/N" */

#endif
