/* mount.h: new mounts as descriptors: made detached, with their rights, before they get a place. */
#ifndef MOUNT_H
#define MOUNT_H

#include "plan.h"

#include <linux/mount.h>

enum { MOUNT_PLAIN = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV }; /* what every mount is, but for device files */

/* The attributes of what an op's flags allow: MOUNT_WRITE, MOUNT_EXECUTE. */
uint64_t mount_attributes(unsigned flags);

/* How large the op's file system may grow, in KiB. Where the plan does not say: room for small files, no hoard. */
static inline uint32_t mount_size(const struct op *op)
{
	return op->c ? op->c : 64 << 10;
}

/* Each returns the descriptor of a detached mount, close-on-exec; a failure is the op's. */
int mount_tmpfs(const struct op *op, unsigned mode, uint32_t kib, uint64_t attributes); /* kib 0: the kernel's limit */
int mount_scratch(const struct op *op, uint32_t kib); /* room for one file without a name, and nothing else */
int mount_try_clone(int folder, const char *path, uint64_t attributes); /* or -errno */
int mount_clone(const struct op *op, int folder, const char *path, uint64_t attributes); /* with all below; path "": folder */
int mount_copy(const struct op *op, int source, unsigned mode, uint64_t attributes);
int mount_proc(const struct op *op);
int mount_terminals(const struct op *op);

void mount_move(const struct op *op, int mount, int folder, const char *name);
void mount_drop(const struct op *op, int mount); /* take an attached one away, close it */

#endif
