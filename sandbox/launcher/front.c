/* front.c: the command `sandbox`: starts what was compiled before, and hands everything else to Python. */
#include "front.h"

#include "cached.h"
#include "facts.h"
#include "fd.h"
#include "main.h"
#include "report.h"
#include "sys.h"
#include "template.h"
#include "text.h"

#include <linux/prctl.h>

#define PYTHON_PART "sandbox-python" /* beside us: the installer's own script, which knows its Python */
#define KEY_OPTION "--plan-key="
#define HELD_OPTION "--interrupt-held" /* sandbox/cli/__init__.py */

/* The script's path: the folder of our own file. */
static const char *python_part(void)
{
	static char path[FACT_PATH];
	long length = sys4(__NR_readlinkat, AT_FDCWD, addr("/proc/self/exe"), addr(path), sizeof path - sizeof PYTHON_PART);

	if (length < 0)
		fail_step(STEP_START, (int)-length, 0);
	while (length > 0 && path[length - 1] != '/')
		length--;
	__builtin_memcpy(path + length, PYTHON_PART, sizeof PYTHON_PART);
	return path;
}

/* Until it has imported what it needs, Python answers an interrupt by a traceback. Held back here, the signal waits until
 * Python says what it is to do. False where the caller holds it back: then it is not Python's to let through. */
static bool hold_interrupt(void)
{
	const uint64_t interrupt = (uint64_t)1 << (SIGNAL_INTERRUPT - 1);
	uint64_t before = interrupt;

	sys4(__NR_rt_sigprocmask, 0 /* SIG_BLOCK */, addr(&interrupt), addr(&before), sizeof before);
	return !(before & interrupt);
}

/* key: the plan's, or NULL where none is to be kept. */
static _Noreturn void hand_over(int argc, char **argv, char **environment, const unsigned char *key)
{
	static const char *arguments[MAX_ARGS + 5];
	static char option[sizeof KEY_OPTION - 1 + KEY_TEXT] = KEY_OPTION;
	int count = 0;

	if (argc > MAX_ARGS)
		fail_step(STEP_START, E2BIG, 0);
	arguments[count++] = python_part();
	if (hold_interrupt())
		arguments[count++] = HELD_OPTION;
	if (key) {
		cached_key_text(option + sizeof KEY_OPTION - 1, key);
		arguments[count++] = option;
	}
	for (int at = 1; at < argc; at++)
		arguments[count++] = argv[at];
	fail_step(STEP_START, (int)-sys3(__NR_execve, addr(arguments[0]), addr(arguments), addr(environment)), 0);
}

static _Noreturn void start(struct cached *found, const struct facts *facts)
{
	unsigned filled = fd_fill_stdio();
	struct plan plan;
	const void *made;
	size_t size;

	if (found->notice_size) /* the exit code has to do where nobody reads it */
		sys3(__NR_write, 2, addr(found->notice), (long)found->notice_size);
	reporter.plan = &found->template;
	made = template_expand(&found->template, facts, &size);
	launcher_use(&plan, made, size);
	sys2(__NR_munmap, addr(found->bytes), (long)found->size);
	sys5(__NR_prctl, PR_SET_NAME, addr("sandbox-launch"), 0, 0, 0); /* as where Python starts it */
	launcher_start(&plan, filled, facts->environment);
}

/* `run ...` is looked up; `cache add ...` only gets the same key. */
int front_main(int argc, char **argv, char **environment, bool privileged)
{
	bool runs = argc > 1 && text_equal(argv[1], "run");
	bool adds = argc > 2 && text_equal(argv[1], "cache") && text_equal(argv[2], "add");
	unsigned char key[KEY_SIZE];
	struct facts facts;
	struct cached found;

	if (privileged)
		fail_step(STEP_START, REASON_PRIVILEGED, 0);
	if ((!runs && !adds) || facts_variable(environment, "_SANDBOX_COMPLETE"))
		hand_over(argc, argv, environment, NULL);
	facts_take(&facts, argv + (runs ? 2 : 3), environment);
	if (!cached_key(key, &facts))
		hand_over(argc, argv, environment, NULL);
	if (runs && cached_find(&found, key, &facts))
		start(&found, &facts);
	hand_over(argc, argv, environment, key);
}
