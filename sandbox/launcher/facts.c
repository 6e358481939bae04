/* facts.c: what only the start can tell: the caller's folders, IDs, streams and priorities. */
#include "facts.h"

#include "sys.h"
#include "text.h"

#include <linux/landlock.h>

enum { TCGETS_COMMAND = 0x5401, PASSWD_MAX = 1 << 16 };

const char *facts_variable(char **environment, const char *name)
{
	const char *found = NULL;

	for (; *environment; environment++)
		if (text_starts(*environment, name) && (*environment)[text_length(name)] == '=')
			found = *environment + text_length(name) + 1; /* the last one: as Python has it */
	return found;
}

int facts_landlock_abi(void)
{
	long abi = sys3(__NR_landlock_create_ruleset, 0, 0, LANDLOCK_CREATE_RULESET_VERSION);

	return abi < 0 ? 0 : (int)abi;
}

bool facts_is_terminal(int fd)
{
	char settings[64]; /* struct termios is 36 bytes here */

	return sys3(__NR_ioctl, fd, TCGETS_COMMAND, addr(settings)) >= 0;
}

static const char *working_directory(void)
{
	static char path[FACT_PATH];
	long length = sys2(__NR_getcwd, addr(path), sizeof path);

	return length > 0 && path[0] == '/' ? path : ""; /* "(unreachable)": outside of our root */
}

/* The colon-separated field of a line, or NULL. */
static char *field_of(char *line, int wanted)
{
	for (; wanted > 0; wanted--) {
		long colon = text_find(line, ':');

		if (colon < 0)
			return NULL;
		line += colon + 1;
	}
	return line;
}

static void end_at(char *text, char wanted)
{
	long at = text_find(text, wanted);

	if (at >= 0)
		text[at] = '\0';
}

/* passwd(5): name, password, user ID, group ID, name in full, home, shell. */
static const char *home_in(char *line, uint32_t uid)
{
	char *number = field_of(line, 2), *home = field_of(line, 5);

	if (!number || !home)
		return NULL;
	end_at(home, ':');
	end_at(number, ':');
	return text_number(number) == (long)uid ? home : NULL;
}

static const char *home_of(uint32_t uid)
{
	static char text[PASSWD_MAX];
	int fd = sys_open("/etc/passwd", O_RDONLY | O_CLOEXEC | O_NOCTTY, 0);
	long length = fd < 0 ? -1 : sys_read(fd, text, sizeof text - 1);

	if (fd >= 0)
		sys_close(fd);
	text[length < 0 ? 0 : length] = '\0';
	for (char *line = text; *line;) {
		long end = text_find(line, '\n');
		const char *home;

		if (end >= 0)
			line[end] = '\0';
		home = home_in(line, uid);
		if (home)
			return home;
		if (end < 0)
			break;
		line += end + 1;
	}
	return "/";
}

static const char *runtime_dir_of(uint32_t uid)
{
	static char path[NUMBERED_PATH];

	text_numbered_path(path, "/run/user/", (int64_t)uid);
	return path;
}

/* A real-time policy counts as the ordinary one, as it does in caller.py. */
static int ordinary_policy(void)
{
	long policy = sys1(__NR_sched_getscheduler, 0);

	return policy == SCHED_BATCH || policy == SCHED_IDLE ? (int)policy : SCHED_NORMAL;
}

void facts_take(struct facts *facts, char **arguments, char **environment)
{
	const char *home = facts_variable(environment, "HOME"), *tmp = facts_variable(environment, "TMPDIR");
	const char *runtime_dir = facts_variable(environment, "XDG_RUNTIME_DIR");
	uint32_t real = (uint32_t)sys0(__NR_getuid);

	facts->arguments = arguments;
	facts->environment = environment;
	facts->cwd = working_directory();
	facts->interactive = facts_is_terminal(0) && facts_is_terminal(1);
	facts->home = home && *home ? home : home_of(real);
	facts->runtime_dir = runtime_dir && *runtime_dir ? runtime_dir : runtime_dir_of(real);
	facts->tmp = tmp && *tmp ? tmp : "/tmp";
	facts->parent = (int)sys0(__NR_getppid);
	facts->pid = (int)sys0(__NR_getpid);
	facts->uid = (uint32_t)sys0(__NR_geteuid);
	facts->gid = (uint32_t)sys0(__NR_getegid);
	facts->landlock_abi = facts_landlock_abi();
	facts->nice = 20 - (int)sys2(__NR_getpriority, 0, 0); /* the call itself answers 20 - nice */
	facts->policy = ordinary_policy();
}
