/* entries.h: a view's entries and paths, as filesystem.py has them. Pure. */
#ifndef ENTRIES_H
#define ENTRIES_H

#include <stdbool.h>
#include <stdint.h>

enum { MAX_ENTRIES = 1024 };

/* Of two kinds at one path the greater holds. */
enum entry_kind { ENTRY_BIND, ENTRY_TMPFS, ENTRY_COPY, ENTRY_HIDE, ENTRY_KINDS };
enum entry_rights { RIGHT_READ = 1, RIGHT_WRITE = 2, RIGHT_EXECUTE = 4 };

struct op;

struct entry {
	char *path;
	int kind;
	uint32_t rights;
	bool optional;
	bool added; /* by the command line that made the template, not by the profile */
	const struct op *record;
};

struct view {
	uint32_t count;
	struct entry entries[MAX_ENTRIES];
};

void path_normalize(char *path); /* absolute; no double slash, "." or ".." is left */
bool path_is_below(const char *path, const char *folder); /* or the folder itself; neither ends with a slash */
int path_order(const char *left, const char *right);	   /* by components: parents first */
bool path_is_shared(const char *path);			   /* every user of a host may write there */

struct entry *view_add(struct view *view); /* room for one more, or NULL */
struct entry *view_last(struct view *view);
void view_drop_last(struct view *view);
bool view_replaced(const struct view *view); /* the last is an empty folder where one that was added shows something */
bool view_covers(const struct view *view, const char *path, bool added_only);
void view_finish(struct view *view); /* in order, one for each path, each with the rights of those that it lies in */
const struct entry *view_find(const struct view *view, const char *path);
const struct entry *view_replacing(const struct view *view, const char *path); /* what says what is there, above it, or NULL */
bool view_takes_away(const struct view *view, const char *path); /* of the host's path: an empty or a hidden folder does */

#endif
