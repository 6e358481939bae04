/* facts.h: what only the start can tell: the caller's folders, IDs, streams and priorities. */
#ifndef FACTS_H
#define FACTS_H

#include <stdbool.h>
#include <stdint.h>

enum { FACT_PATH = 4096 };

struct facts {
	char **arguments; /* behind the launcher's own name, ended by NULL */
	char **environment;
	const char *cwd; /* "" where it is gone */
	const char *home, *runtime_dir, *tmp;
	int parent, pid;
	uint32_t uid, gid;
	int landlock_abi, nice, policy;
	bool interactive; /* standard input and output are terminals */
};

/* Taken before anything is opened that could be mistaken for a stream of the caller. */
void facts_take(struct facts *facts, char **arguments, char **environment);
const char *facts_variable(char **environment, const char *name); /* its value, or NULL */
int facts_landlock_abi(void);
bool facts_is_terminal(int fd);

#endif
