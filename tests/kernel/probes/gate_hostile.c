/* gate_hostile.c: executes itself with arguments that are not what they seem, three descriptors forgotten.
 *
 *   gate_hostile unmapped   pointers to nowhere: each of these execs fails; a sound one after them must not
 *   gate_hostile big        2 MB of arguments, in one text and in many
 *   gate_hostile race       arguments and path that another thread changes as they are read
 *
 * Prints verdicts: of an exec that failed, -1 and errno; of another, the numbers of 7, 8 and 9 that came along, as bits
 * 0 to 2. For a race, the bits that ever came along and the errors there were. 9 is never named. */
#define _GNU_SOURCE
#include "probe.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { FIRST = 7, LAST = 9, ROUNDS = 300, BIG = 2 << 20 };

static char *own_path;

static int bits(void)
{
	int found = 0;

	for (int fd = FIRST; fd <= LAST; fd++)
		found |= (fcntl(fd, F_GETFD) >= 0) << (fd - FIRST);
	return found;
}

/* Returns what the image saw, or -1 with errno. Each attempt in a process of its own: a failed one may have closed. */
static long attempt(const char *path, char **argv, char **envp)
{
	volatile int failed = 0;
	int status;
	pid_t pid = vfork();

	if (pid == 0) {
		execve(path, argv, envp);
		failed = errno;
		_exit(99);
	}
	waitpid(pid, &status, 0);
	errno = failed;
	return failed ? -1 : WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void unmapped(void)
{
	char *nowhere = (char *)8, *kernel = (char *)0xffffffff81000000u;
	char *far = (char *)0x7ffffffff000;
	char *sound[] = {own_path, "see", NULL}, *none[] = {NULL};
	char *texts[][3] = {{own_path, nowhere, NULL}, {own_path, kernel, NULL}, {own_path, far, NULL}};

	verdict("path", attempt(nowhere, sound, none));
	verdict("argv", attempt(own_path, (char **)nowhere, none));
	verdict("argv-in-kernel", attempt(own_path, (char **)kernel, none));
	verdict("envp", attempt(own_path, sound, (char **)nowhere));
	for (int i = 0; i < 3; i++) {
		verdict("text", attempt(own_path, texts[i], none));
		verdict("variable", attempt(own_path, sound, texts[i]));
	}
	verdict("sound", attempt(own_path, sound, none));
}

/* An array and a text that end where nothing is mapped any more. */
static void at_edge(void)
{
	char *none[] = {NULL}, *page = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char **array = (char **)(page + 4096) - 3, *text = page + 64;
	char *endless[] = {own_path, page + 4096 - 8, NULL};

	munmap(page + 4096, 4096);
	strcpy(text, "see");
	array[0] = own_path;
	array[1] = text;
	verdict("array-at-edge", attempt(own_path, array, none));
	array[2] = text;
	verdict("array-over-edge", attempt(own_path, array, none));
	memset(page + 4096 - 8, 'x', 8);
	verdict("text-over-edge", attempt(own_path, endless, none));
}

static void big(void)
{
	char *text = malloc(BIG), *none[] = {NULL}, *words[20] = {own_path, "see"};

	memset(text, 'x', BIG);
	text[BIG - 1] = '\0';
	words[2] = text;
	verdict("one-text", attempt(own_path, words, none)); /* MAX_ARG_STRLEN: E2BIG */
	text += BIG - (100 << 10);
	for (int i = 2; i < 19; i++)
		words[i] = text;
	verdict("many-texts", attempt(own_path, words, none));
	memcpy(text, "/dev/fd/7 /dev/fd/8", 19);
	verdict("many-names", attempt(own_path, words, none));
}

static char name[] = "/dev/fd/7", *volatile second = name, path[256];
static volatile int stop;

static void *change(void *unused)
{
	for (unsigned i = 0; !stop; i++) {
		name[8] = (char)('7' + i % 2);
		path[0] = i % 3 ? '/' : '\0';
		second = i % 5 ? name : (char *)8;
	}
	return unused;
}

static void race(void)
{
	char *words[] = {own_path, "see", name, NULL}, *none[] = {NULL};
	long seen = 0, wrong = 0;
	pthread_t thread;

	strcpy(path, own_path);
	pthread_create(&thread, NULL, change, NULL);
	for (int i = 0; i < ROUNDS; i++) {
		long found;

		words[2] = second;
		found = attempt(i % 2 ? path : own_path, words, none);
		if (found >= 0)
			seen |= found;
		else if (errno != ENOENT && errno != EFAULT)
			wrong = errno;
	}
	stop = 1;
	pthread_join(thread, NULL);
	verdict("unnamed", seen & 4);
	verdict("unexpected", wrong);
	words[2] = "/dev/fd/8";
	verdict("after", attempt(own_path, words, none));
}

int main(int argc, char **argv)
{
	own_path = argv[0];
	if (argc > 1 && strcmp(argv[1], "see") == 0)
		return bits();
	for (int fd = FIRST; fd <= LAST; fd++)
		dup2(0, fd);
	if (strcmp(argv[1], "unmapped") == 0) {
		unmapped();
		at_edge();
	} else if (strcmp(argv[1], "big") == 0) {
		big();
	} else {
		race();
	}
	return 0;
}
