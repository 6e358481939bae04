/* fuzz_argv.c: lets the exec gate read the arguments and the environment of an exec from hostile memory: arrays and
 * texts that repeat, overlap, wrap, end in a hole or at no NUL, and, now and then, change as they are read.
 *
 * FUZZ_PLAN names a plan's file with the rules. The memory is this process's own arena, read by process_vm_readv(2) as
 * the gate does; where the kernel would write is checked, since a sanitizer does not look into system calls. What the
 * gate finds is compared with a plain walk over the same arena. With libFuzzer: clang -fsanitize=fuzzer,address.
 * Without: -DSTANDALONE gives a main() that takes -runs=N. */
#define _POSIX_C_SOURCE 200112L /* libc's headers must not declare what the kernel's do */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define CHECKED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CHECKED 1
#endif
#endif

#include "source.h"
#include "sys.h"

#include <linux/mman.h>

/* The kernel's <linux/stat.h> leaves these to libc's. */
#define S_ISREG(mode) (((mode) & 0170000) == 0100000)

#ifdef CHECKED
void *__asan_region_is_poisoned(void *start, size_t size);
#endif

static long checked_sys6(long nr, long a, long b, long c, long d, long e, long f)
{
#ifdef CHECKED
	const struct iovec *local = (const struct iovec *)b;

	for (long i = 0; nr == __NR_process_vm_readv && i < c; i++)
		if (local[i].iov_len && __asan_region_is_poisoned(local[i].iov_base, local[i].iov_len))
			abort();
#endif
	return sys6(nr, a, b, c, d, e, f);
}

#define sys6(nr, a, b, c, d, e, f) checked_sys6(nr, a, b, c, d, e, f)
#include "gate.c" /* for what is static there */
#undef sys6

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

enum { PAGES = 48, ARENA = PAGES * PAGE };

static char *arena; /* between two pages that nobody can read */
static bool readable[PAGES];
static struct plan plan;

static void demand(bool holds)
{
	if (!holds)
		abort();
}

static void prepare(void)
{
	const char *path = getenv("FUZZ_PLAN");
	FILE *file = path ? fopen(path, "rb") : NULL;
	unsigned char *bytes = malloc(1 << 20);
	long mapped = sys6(__NR_mmap, 0, ARENA + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	size_t size;

	demand(file && bytes && mapped > 0);
	size = fread(bytes, 1, 1 << 20, file);
	fclose(file);
	demand(plan_check(&plan, bytes, size) == NULL && plan_find(&plan, OP_PROTOCOL));
	arena = (char *)mapped + PAGE;
	demand(sys3(__NR_mprotect, mapped, PAGE, PROT_NONE) == 0);
	demand(sys3(__NR_mprotect, addr(arena + ARENA), PAGE, PROT_NONE) == 0);
	memset(readable, true, sizeof readable);
}

static void protect(size_t number, bool wanted)
{
	if (readable[number] == wanted)
		return;
	demand(sys3(__NR_mprotect, addr(arena + number * PAGE), PAGE, wanted ? PROT_READ | PROT_WRITE : PROT_NONE) == 0);
	readable[number] = wanted;
}

static bool is_readable(uint64_t from, size_t size)
{
	uint64_t start = (uint64_t)(uintptr_t)arena;

	if (from < start || from - start > ARENA || size > ARENA - (from - start))
		return false;
	for (uint64_t at = from - start; at < from - start + size; at++)
		if (!readable[at / PAGE])
			return false;
	return true;
}

/* The walk that the gate's is compared with: text after text, byte after byte. */
static void walk(uint64_t array, visit_text *visit, struct reading *reading)
{
	static char text[LONG_TEXT + 1];

	for (size_t index = 0; array && index < MAX_TEXTS; index++, array += sizeof(uint64_t)) {
		uint64_t from;
		size_t length = 0;

		if (!is_readable(array, sizeof from))
			return;
		memcpy(&from, (const char *)(uintptr_t)array, sizeof from);
		if (!from || !is_readable(from, 1))
			return;
		while (length < LONG_TEXT && is_readable(from + length, 1) && ((const char *)(uintptr_t)from)[length]) {
			text[length] = ((const char *)(uintptr_t)from)[length];
			length++;
		}
		text[length] = '\0';
		if (length >= reading->budget)
			return;
		reading->budget -= length + 1;
		visit(reading, text);
	}
}

static void begin(struct reading *reading, const char *program)
{
	memset(reading, 0, sizeof *reading);
	reading->plan = &plan;
	reading->budget = ALL_TEXTS;
	names_from_program(&reading->names, &plan, &reading->context, program);
}

/* `settled`: nobody writes meanwhile, so that both must find the same. */
static void compare(const uint64_t arrays[3], bool settled)
{
	static struct reading found, wanted;
	static char path[LONG_TEXT + 1];
	struct seccomp_notif request = {.pid = (uint32_t)sys0(__NR_getpid), .data = {.nr = __NR_execve}};
	struct target target = {.request = &request, .pid = (int)sys0(__NR_getpid), .directory = -1, .pidfd = -1};

	page[0] = '\0';
	read_on(target.pid, arrays[0], 0);
	demand(memchr(page, 0, sizeof page) != NULL);
	memcpy(path, page, sizeof path);
	begin(&found, path);
	visit_array(&target, arrays[1], visit_argument, &found);
	visit_array(&target, arrays[2], visit_variable, &found);
	demand(memchr(found.context.previous, 0, sizeof found.context.previous) && found.budget <= ALL_TEXTS);
	if (!settled)
		return;
	begin(&wanted, path);
	walk(arrays[1], visit_argument, &wanted);
	walk(arrays[2], visit_variable, &wanted);
	demand(memcmp(&found.names, &wanted.names, sizeof found.names) == 0 && found.budget == wanted.budget);
}

/* Texts that follow each other in a buffer of just their size, as the caller's cmdline comes; compared with a walk by
 * libc. Any piece of the arena will do: there are texts, holes of NULs, and no NUL at the end. */
static void compare_joined(struct source *source)
{
	static struct reading found, wanted;
	size_t from = next(source) * next(source) % ARENA, size = next(source) % (ARENA - from), at = 0;
	char *texts = malloc(size + 1);

	demand(texts != NULL);
	for (; at < size && readable[(from + at) / PAGE]; at++)
		texts[at] = arena[from + at];
	size = at;
	begin(&found, "/bin/x");
	begin(&wanted, "/bin/x");
	demand(names_ask_caller(&plan, &found.context, "/usr/bin/socat"));
	names_remember(wanted.context.caller, "socat");
	visit_joined(texts, size, visit_caller_argument, &found);
	for (at = 0; at < size; at += strlen(texts + at) + 1)
		names_from_caller_argument(&wanted.names, &plan, &wanted.context, texts + at);
	demand(memcmp(&found.names, &wanted.names, sizeof found.names) == 0);
	free(texts);
}

static uint64_t any_address(struct source *source)
{
	uint64_t start = (uint64_t)(uintptr_t)arena;

	switch (next(source) % 16) {
	case 0: return start + ARENA - next(source) % 64;
	case 1: return start + next(source) % PAGES * PAGE - next(source) % 16;
	case 2: return ~(uint64_t)0 - next(source) % 64;
	case 3: return 0xffff800000000000u + next(source);
	case 4: return (uint64_t)1 << (next(source) % 2 ? next(source) % 12 : 47 + next(source) % 17); /* mapped nowhere */
	default: return start + next(source) * next(source) % ARENA;
	}
}

/* Fill the arena with texts that rules look at, put arrays into it, take pages out of it. */
static void build(struct source *source, uint64_t arrays[3])
{
	size_t texts = next(source) % 200, rules = 0;

	for (size_t number = 0; number < PAGES; number++)
		protect(number, true);
	for_ops(&plan, rule, OP_PROTOCOL) rules++;
	memset(arena, (int)(next(source) % 4 ? 0 : 'x'), ARENA);
	for (size_t i = 0; i < texts; i++) {
		const struct op *rule = plan_find(&plan, OP_PROTOCOL) + next(source) % rules;
		const char *first = op_text(&plan, rule), *second = first + text_length(first) + 1;
		size_t at = next(source) * next(source) % (ARENA - 256);

		snprintf(arena + at, 256, "%s%s%s%u%s%u", rule->a == PLACE_VARIABLE ? first : "",
			 rule->a == PLACE_VARIABLE ? "=" : "", second, (unsigned)next(source) % 5000,
			 next(source) % 2 ? "," : " ", (unsigned)next(source));
	}
	for (int which = 0; which < 3; which++) {
		size_t count = next(source) % 8 ? next(source) % 100 : next(source) % 10000, at;

		arrays[which] = next(source) % 16 ? (uint64_t)(uintptr_t)arena + next(source) * next(source) % ARENA : any_address(source);
		at = (size_t)(arrays[which] - (uint64_t)(uintptr_t)arena);
		if (which == 0 || at >= ARENA)
			continue;
		for (uint64_t pointer = 0; count > 0 && at + sizeof pointer <= ARENA; count--, at += sizeof pointer) {
			pointer = next(source) % 4 ? (uint64_t)(uintptr_t)arena + next(source) * next(source) % ARENA : pointer;
			pointer = next(source) % 256 ? pointer : any_address(source);
			memcpy(arena + at, &pointer, sizeof pointer);
		}
	}
	for (uint64_t holes = next(source) % 3 ? 0 : next(source) % 6; holes > 0; holes--)
		protect(next(source) % PAGES, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	struct source source = {input, size, 0x2545f4914f6cdd1du};
	uint64_t arrays[3];

	if (!arena)
		prepare();
	build(&source, arrays);
	compare(arrays, true);
	compare_joined(&source);
	return 0;
}

#ifdef STANDALONE

/* Turn bytes of the arena over for ever: in another process, for which the pages have no holes. */
static _Noreturn void overwrite(void)
{
	struct source source = {NULL, 0, 0x9e3779b97f4a7c15u};

	for (;;) {
		size_t at = next(&source) % (ARENA / 8) * 8;
		uint64_t value = next(&source) % 2 ? 0 : any_address(&source);

		memcpy(arena + at, &value, sizeof value);
	}
}

int main(int argc, char **argv)
{
	unsigned long runs = argc == 2 && strncmp(argv[1], "-runs=", 6) == 0 ? strtoul(argv[1] + 6, NULL, 10) : 0;
	struct source source = {NULL, 0, 0x2545f4914f6cdd1du};
	uint64_t arrays[3];
	long writer;

	prepare();
	for (unsigned long run = 0; run < runs; run++) {
		build(&source, arrays);
		compare(arrays, true);
		compare_joined(&source);
	}
	for (size_t number = 0; number < PAGES; number++)
		protect(number, true);
	writer = sys0(__NR_fork);
	demand(writer >= 0);
	if (writer == 0)
		overwrite();
	for (unsigned long run = 0; run < runs / 4; run++) {
		build(&source, arrays);
		compare(arrays, false);
	}
	sys2(__NR_kill, writer, SIGNAL_KILL);
	sys4(__NR_wait4, writer, 0, 0, 0);
	printf("%lu arrays, %lu of them changing\n", runs + runs / 4, runs / 4);
	return 0;
}

#endif
