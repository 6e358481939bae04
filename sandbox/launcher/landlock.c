/* landlock.c: the child's Landlock ruleset: made, filled and enforced. landlock(7). */
#include "landlock.h"

#include "report.h"
#include "sys.h"

#include <linux/stat.h>

/* As the kernel has them now; <linux/landlock.h> of an older system lacks half of it. What such a kernel does not
 * know must be zero, or it says E2BIG. */
struct ruleset_attributes {
	uint64_t file_rights; /* ABI 1 */
	uint64_t net_rights;  /* ABI 4 */
	uint64_t scopes;      /* ABI 6 */
};

struct path_beneath {
	uint64_t rights;
	int32_t parent_fd;
} __attribute__((packed));

struct net_port {
	uint64_t rights;
	uint64_t port; /* in the host's byte order */
};

_Static_assert(sizeof(struct path_beneath) == 12, "linux/landlock.h");

enum { RULE_PATH_BENEATH = 1, RULE_NET_PORT = 2 };

enum { FILE_EXECUTE = 1 << 0, FILE_WRITE = 1 << 1, FILE_READ = 1 << 2, FOLDER_LIST = 1 << 3, FILE_TRUNCATE = 1 << 14 };
enum { FILE_IOCTL = 1 << 15 };
enum { NO_PATH = EBADFD }; /* pipes, sockets, memfds: Landlock does not look at them */

/* All that the kernel takes for what is not a directory. */
#define RIGHTS_OF_A_FILE ((unsigned)(FILE_EXECUTE | FILE_WRITE | FILE_READ | FILE_TRUNCATE | FILE_IOCTL))

static int ruleset = -1; /* close-on-exec by the kernel's choice */

void landlock_begin(const struct op *op)
{
	const struct ruleset_attributes attributes = {
		.file_rights = op->a | (uint64_t)op->b << 32,
		.net_rights = op->c & 0xffff,
		.scopes = op->c >> 16,
	};

	ruleset = (int)must(op, sys3(__NR_landlock_create_ruleset, addr(&attributes), sizeof attributes, 0));
}

static void add_rule(const struct op *op, long type, const void *rule)
{
	long result = sys4(__NR_landlock_add_rule, ruleset, type, addr(rule), 0);

	if (result == -NO_PATH && op->flags == RULE_DESCRIPTOR)
		return;
	must(op, result);
}

/* What the access mode of a descriptor comes to. */
static uint64_t rights_of(const struct op *op)
{
	long mode = must(op, sys_fcntl((int)op->c, F_GETFL, 0));
	uint64_t rights = 0;

	if (mode & O_PATH)
		return 0;
	if ((mode & O_ACCMODE) != O_WRONLY)
		rights |= FILE_READ | FOLDER_LIST;
	if ((mode & O_ACCMODE) != O_RDONLY)
		rights |= FILE_WRITE | FILE_TRUNCATE;
	return rights;
}

void landlock_allow_path(const struct plan *plan, const struct op *op)
{
	struct path_beneath rule = {.rights = op->a | (uint64_t)op->b << 32};
	int fd = sys_open(op_text(plan, op), O_PATH | O_CLOEXEC, 0);
	struct stat status;

	if ((fd == -ENOENT || fd == -ENOTDIR) && op->flags == RULE_OPTIONAL)
		return;
	rule.parent_fd = (int32_t)must(op, fd);
	must(op, sys2(__NR_fstat, fd, addr(&status)));
	if (!S_ISDIR(status.st_mode))
		rule.rights &= RIGHTS_OF_A_FILE;
	if (op->flags == RULE_DESCRIPTOR)
		rule.rights &= rights_of(op);
	if (rule.rights) /* the kernel has no rule that allows nothing (ENOMSG) */
		add_rule(op, RULE_PATH_BENEATH, &rule);
	sys_close(fd);
}

void landlock_allow_port(const struct op *op)
{
	const struct net_port rule = {.rights = op->a, .port = op->b};

	add_rule(op, RULE_NET_PORT, &rule);
}

int landlock_ruleset(void)
{
	return ruleset;
}

void landlock_restrict(const struct op *op)
{
	must(op, sys2(__NR_landlock_restrict_self, ruleset, 0));
	sys_close(ruleset);
	ruleset = -1;
}
