/* entries.c: a view's entries and paths, as filesystem.py has them. Pure. */
#include "entries.h"

#include "text.h"

static bool is_end(char c)
{
	return c == '/' || c == '\0';
}

void path_normalize(char *path)
{
	char *out = path;

	for (const char *in = path; *in;) {
		while (*in == '/')
			in++;
		if (in[0] == '.' && is_end(in[1])) {
			in++;
		} else if (in[0] == '.' && in[1] == '.' && is_end(in[2])) {
			in += 2;
			while (out > path && *--out != '/')
				;
		} else if (*in) {
			*out++ = '/';
			while (!is_end(*in))
				*out++ = *in++;
		}
	}
	if (out == path)
		*out++ = '/';
	*out = '\0';
}

bool path_is_below(const char *path, const char *folder)
{
	size_t length = text_length(folder);

	if (length && folder[length - 1] == '/')
		length--;
	return text_same(path, folder, length < text_length(path) ? length : text_length(path)) &&
	       text_length(path) >= length && is_end(path[length]);
}

/* A slash is less than any other byte, and the end less than a slash. */
int path_order(const char *left, const char *right)
{
	if (text_equal(left, "/") || text_equal(right, "/"))
		return text_equal(right, "/") - text_equal(left, "/");
	while (*left && *left == *right) {
		left++;
		right++;
	}
	if (*left == *right)
		return 0;
	if (!*left || !*right)
		return !*left ? -1 : 1;
	if (*left == '/' || *right == '/')
		return *left == '/' ? -1 : 1;
	return (unsigned char)*left < (unsigned char)*right ? -1 : 1;
}

bool path_is_shared(const char *path)
{
	return text_equal(path, "/tmp") || text_equal(path, "/var/tmp") || text_equal(path, "/dev/shm") ||
	       text_equal(path, "/run/lock");
}

struct entry *view_add(struct view *view)
{
	return view->count < MAX_ENTRIES ? &view->entries[view->count++] : NULL;
}

struct entry *view_last(struct view *view)
{
	return &view->entries[view->count - 1];
}

void view_drop_last(struct view *view)
{
	view->count--;
}

bool view_replaced(const struct view *view)
{
	const struct entry *last = &view->entries[view->count - 1];

	if (last->kind != ENTRY_TMPFS)
		return false;
	for (const struct entry *entry = view->entries; entry < last; entry++)
		if (entry->added && (entry->kind == ENTRY_BIND || entry->kind == ENTRY_COPY) && text_equal(entry->path, last->path))
			return true;
	return false;
}

/* At or below an entry and no hidden one, or on the way to one; a view always has /dev and /proc. */
bool view_covers(const struct view *view, const char *path, bool added_only)
{
	bool below = false, hidden = false, on_the_way = false;

	for (const struct entry *entry = view->entries; entry < view->entries + view->count; entry++) {
		if (added_only && !entry->added)
			continue;
		if (path_is_below(path, entry->path)) {
			below = true;
			hidden = hidden || entry->kind == ENTRY_HIDE;
		}
		on_the_way = on_the_way || (entry->kind != ENTRY_HIDE && path_is_below(entry->path, path));
	}
	if (below)
		return !hidden;
	return on_the_way || text_equal(path, "/") || path_is_below(path, "/dev") || path_is_below(path, "/proc");
}

/* A path in several lists has the rights of all of them; it is optional if every one says so. */
static void merge(struct view *view)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < view->count; i++) {
		const struct entry *entry = &view->entries[i];
		struct entry *last = kept ? &view->entries[kept - 1] : NULL;

		if (last && text_equal(last->path, entry->path)) {
			last->kind = entry->kind > last->kind ? entry->kind : last->kind;
			last->rights |= entry->rights;
			last->optional = last->optional && entry->optional;
		} else {
			view->entries[kept++] = *entry;
		}
	}
	view->count = kept;
}

/* Landlock adds up in the same way. What is new has its own. */
static void inherit_rights(struct view *view)
{
	static uint32_t own[MAX_ENTRIES];

	for (uint32_t i = 0; i < view->count; i++)
		own[i] = view->entries[i].rights;
	for (uint32_t i = 0; i < view->count; i++) {
		struct entry *entry = &view->entries[i];

		if (entry->kind != ENTRY_BIND && entry->kind != ENTRY_COPY)
			continue;
		for (uint32_t above = 0; above < i; above++)
			if (view->entries[above].kind == ENTRY_BIND && path_is_below(entry->path, view->entries[above].path))
				entry->rights |= own[above];
	}
}

void view_finish(struct view *view)
{
	for (uint32_t i = 1; i < view->count; i++) {
		const struct entry moving = view->entries[i];
		uint32_t at = i;

		for (; at > 0 && path_order(view->entries[at - 1].path, moving.path) > 0; at--)
			view->entries[at] = view->entries[at - 1];
		view->entries[at] = moving;
	}
	merge(view);
	inherit_rights(view);
}

/* No entry that shows what the host has does. */
const struct entry *view_replacing(const struct view *view, const char *path)
{
	const struct entry *found = NULL;

	for (const struct entry *entry = view->entries; entry < view->entries + view->count; entry++)
		if (entry->kind != ENTRY_BIND && !text_equal(entry->path, path) && path_is_below(path, entry->path))
			found = entry;
	return found;
}

bool view_takes_away(const struct view *view, const char *path)
{
	const struct entry *nearest = NULL;

	for (const struct entry *entry = view->entries; entry < view->entries + view->count; entry++)
		if (path_is_below(path, entry->path))
			nearest = entry;
	return nearest && (nearest->kind == ENTRY_HIDE || (nearest->kind == ENTRY_TMPFS && !text_equal(nearest->path, path)));
}

const struct entry *view_find(const struct view *view, const char *path)
{
	for (const struct entry *entry = view->entries; entry < view->entries + view->count; entry++)
		if (text_equal(entry->path, path))
			return entry;
	return NULL;
}
