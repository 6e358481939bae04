/* seal.c: a launcher that carries its plan: finds it in its own file, checks that file, and starts. */
#include "seal.h"

#include "facts.h"
#include "fd.h"
#include "main.h"
#include "report.h"
#include "sys.h"
#include "template.h"
#include "text.h"

#include <linux/mman.h>

#define SEAL_VERSION 1u

/* Found by its first bytes and filled in when a copy of this file is sealed; all else of it is zero before. Offsets are
 * from the file's start. The checksum, of the whole file with its own field taken as zero, finds damage: who can write
 * to the file can do as it likes anyway. */
struct seal {
	char magic[16];
	uint64_t version;
	uint64_t place; /* of this structure in the file */
	uint64_t size, checksum;
	uint64_t plan, plan_size;
	uint64_t text, text_size; /* of --sandbox-explain */
	uint64_t profile, profile_size;
};

_Static_assert(sizeof(struct seal) == 96, "docs/template-format.md");

/* volatile: what stands here is not what was compiled. */
static const volatile struct seal seal __attribute__((aligned(8), used)) = {.magic = "sandbox-sealed:\n", .version = SEAL_VERSION};

bool seal_is_there(void)
{
	return seal.size != 0;
}

static bool lies_in(uint64_t start, uint64_t length, size_t size)
{
	return start <= size && length <= size - start;
}

static const char *own_bytes(void)
{
	int fd = sys_open("/proc/self/exe", O_RDONLY | O_CLOEXEC, 0);
	size_t size = (size_t)seal.size;
	struct stat status;
	long mapped;

	if (fd < 0 || sys2(__NR_fstat, fd, addr(&status)) < 0)
		fail_step(STEP_SEAL, fd < 0 ? -fd : EIO, 0);
	if ((uint64_t)status.st_size != seal.size || size % 8)
		fail_step(STEP_SEAL, REASON_DAMAGED, 0);
	mapped = sys6(__NR_mmap, 0, (long)size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	sys_close(fd);
	if (mapped < 0 && mapped >= -SYS_MAX_ERRNO)
		fail_step(STEP_SEAL, (int)-mapped, 0);
	if (plan_checksum((const void *)mapped, size, seal.place + offsetof(struct seal, checksum)) != seal.checksum)
		fail_step(STEP_SEAL, REASON_DAMAGED, 0);
	if (seal.version != SEAL_VERSION)
		reporter.plan_error = "it was sealed in another format";
	else if (seal.plan % 8 || !lies_in(seal.plan, seal.plan_size, size) || !lies_in(seal.text, seal.text_size, size))
		reporter.plan_error = "its parts do not fit";
	if (reporter.plan_error)
		fail_step(STEP_SEAL, REASON_PLAN, 0);
	return (const char *)mapped;
}

static _Noreturn void print(const char *bytes, size_t size)
{
	int failed = sys_write_all(1, bytes, size);

	if (failed)
		fail_step(STEP_SEAL, -failed, 0);
	sys_exit(0);
}

_Noreturn void seal_run(int argc, char **argv, char **environment)
{
	struct plan plan, template;
	struct facts facts;
	unsigned filled;
	const char *bytes;
	const void *made;
	size_t size;
	bool plan_wanted = argc >= 2 && text_equal(argv[1], "--sandbox-plan");

	facts_take(&facts, argv + (argc > 0) + plan_wanted, environment);
	filled = fd_fill_stdio();
	bytes = own_bytes();
	if (argc == 2 && text_equal(argv[1], "--sandbox-explain"))
		print(bytes + seal.text, (size_t)seal.text_size);
	reporter.plan_error = plan_check_template(&template, bytes + seal.plan, (size_t)seal.plan_size);
	if (reporter.plan_error)
		fail_step(STEP_PLAN, REASON_PLAN, 0);
	reporter.plan = &template;
	made = template_expand(&template, &facts, &size);
	if (plan_wanted)
		print(made, size);
	launcher_use(&plan, made, size);
	sys2(__NR_munmap, addr(bytes), (long)seal.size);
	launcher_start(&plan, filled, environment);
}
