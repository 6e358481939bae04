/* target.h: a thread in the sandbox that waits for the supervisor's answer. */
#ifndef TARGET_H
#define TARGET_H

#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All paths go by `directory`, so that a pid used again is never looked at. */
struct target {
	const struct seccomp_notif *request;
	int listener;
	int pid;       /* a thread's */
	int directory; /* /proc/PID, O_PATH; -1 until it is needed */
	int pidfd;     /* -1 until it is needed */
};

/* Whether it still waits. What was read of it before that is its own, and of no later process with its number. */
bool target_is_there(const struct target *target);

int target_open(struct target *target); /* its directory; 0 or -errno */
void target_close(struct target *target);
int target_pidfd(struct target *target); /* or -errno; the target's */

/* A copy of one of its descriptors, close-on-exec, the caller's; or -errno. pidfd_getfd(2), Linux 5.6 */
int target_take(struct target *target, uint32_t number);

/* The flags of descriptor `name` in `folder`, a fdinfo folder: open(2)'s, with O_CLOEXEC; or -errno. */
int target_flags(int folder, const char *name);

long target_read(int pid, uint64_t from, void *to, size_t size); /* its memory; bytes read or -errno */

/* The number behind `name` (as in "\nUmask:\t") in its status, in that base; -1 if that cannot be told.
 * proc_pid_status(5) */
int64_t target_status(struct target *target, const char *name, int base);

int target_threads(struct target *target); /* of its process, or -1 */

/* Whether a signal waits that would interrupt a call: one with a handler, or that stops. */
bool target_is_signalled(struct target *target);

#endif
