/* expand_view.c: of a template: the entries of the view, their mounts and rules, and the folder to start in. */
#include "expansion.h"

#include "report.h"
#include "sys.h"
#include "text.h"

/* {cwd} in a profile's view is left out where it is the whole tree, or a home folder that is shown on purpose. */
static bool stays(struct expansion *e, const struct op *record, const struct entry *entry)
{
	if (record->c & ENTRY_IS_HOME)
		return !text_equal(e->facts->home, "/");
	if (!(record->c & ENTRY_IS_CWD))
		return true;
	if (text_equal(entry->path, "/"))
		return false;
	if (!path_is_below(e->facts->home, entry->path))
		return true;
	if (expand_item(e, ITEM_VIEW)->c & VIEW_STARTS_ELSEWHERE || view_covers(&e->view, *e->facts->cwd ? e->facts->cwd : "/", true))
		return false;
	expand_refuse(record, REASON_SHOWS_HOME);
}

static void add_entry(struct expansion *e, const struct op *record, const char *path, const struct entry *as)
{
	struct entry *entry = view_add(&e->view);

	if (!entry)
		expand_refuse(record, E2BIG);
	*entry = *as;
	entry->path = e->data + expand_add(e, record, path, text_length(path));
	path_normalize(entry->path);
}

/* The added ones first: what the profile says is left out by what they show. */
void expand_view(struct expansion *e)
{
	for (int added = 1; added >= 0; added--) {
		for_ops(e->template, record, ITEM_ENTRY)
		{
			const struct entry as = {.kind = (int)record->a, .rights = record->b, .record = record,
						 .optional = record->c & ENTRY_OPTIONAL, .added = added};

			if (!(record->c & ENTRY_ADDED) != !added)
				continue;
			add_entry(e, record, expand_string(e, record, op_text(e->template, record)), &as);
			if (!added && (!stays(e, record, view_last(&e->view)) || view_replaced(&e->view)))
				view_drop_last(&e->view);
		}
	}
	view_finish(&e->view);
}

static void emit_mount(struct expansion *e, const struct entry *entry)
{
	static const uint8_t kinds[] = {MOUNT_BIND, MOUNT_TMPFS, MOUNT_COPY, MOUNT_HIDE};
	struct op *op = expand_made(e, entry->record, OP_MOUNT);

	op->a = kinds[entry->kind];
	op->b = entry->kind == ENTRY_TMPFS ? (path_is_shared(entry->path) ? 01777 : 0755) : 0;
	op->flags = (uint16_t)((entry->rights & RIGHT_WRITE ? MOUNT_WRITE : 0) |
			       (entry->rights & RIGHT_EXECUTE ? MOUNT_EXECUTE : 0) | (entry->optional ? MOUNT_OPTIONAL : 0));
	op->data = op->label = (uint32_t)(entry->path - e->data);
	op->data_size = (uint32_t)text_length(entry->path);
}

/* A bind of /proc or /dev means those of the view; a view of the host's tree shows what it binds already, but for what lies
 * in an empty folder or a copy. */
static bool is_mounted(const struct expansion *e, const struct entry *entry)
{
	const struct entry *above;

	if (entry->kind != ENTRY_BIND)
		return true;
	if (expand_item(e, ITEM_VIEW)->c & VIEW_PRIVATE)
		return !text_equal(entry->path, "/proc") && !text_equal(entry->path, "/dev");
	above = view_replacing(&e->view, entry->path);
	return above && above->kind != ENTRY_HIDE;
}

static const struct entry *declared(const struct expansion *e, const char *path)
{
	const struct entry *entry = view_find(&e->view, path);

	return entry && is_mounted(e, entry) ? entry : NULL;
}

/* The view's mounts and those that every view has, parents before what lies in them. */
void expand_mounts(struct expansion *e)
{
	const struct op *view = expand_item(e, ITEM_VIEW);
	uint32_t first = e->op_count;

	if (view && view->c & VIEW_MOUNTS)
		for (uint32_t i = 0; i < e->view.count; i++)
			if (is_mounted(e, &e->view.entries[i]))
				emit_mount(e, &e->view.entries[i]);
	for_ops(e->template, record, OP_MOUNT)
	{
		struct op moving;
		uint32_t at;

		if (view && declared(e, op_text(e->template, record)))
			continue;
		moving = *expand_op(e, record);
		for (at = e->op_count - 1; at > first; at--) {
			if (path_order(e->data + e->ops[at - 1].data, e->data + moving.data) <= 0)
				break;
			e->ops[at] = e->ops[at - 1];
		}
		e->ops[at] = moving;
	}
}

void expand_path_rules(struct expansion *e)
{
	const struct op *view = expand_item(e, ITEM_VIEW), *ruleset = plan_find(e->template, OP_RULESET);

	if (!view || !ruleset || !(view->c & VIEW_FILES))
		return;
	for (uint32_t i = 0; i < e->view.count; i++) {
		const struct entry *entry = &e->view.entries[i];
		uint32_t rights = view->a & 0xffff;
		struct op *op;

		if (entry->rights & RIGHT_WRITE)
			rights |= view->a >> 16 | (text_starts(entry->path, "/dev/") ? view->b >> 16 : 0);
		if (entry->rights & RIGHT_EXECUTE)
			rights |= view->b & 0xffff;
		if (entry->kind == ENTRY_HIDE || !(rights & ruleset->a))
			continue;
		op = expand_made(e, entry->record, OP_PATH_RULE);
		op->a = rights & ruleset->a;
		op->flags = entry->optional ? RULE_OPTIONAL : 0;
		op->data = op->label = (uint32_t)(entry->path - e->data);
		op->data_size = (uint32_t)text_length(entry->path);
	}
}

void expand_chdir(struct expansion *e, const struct op *record)
{
	const struct op *view = expand_item(e, ITEM_VIEW);
	struct op *op = expand_op(e, record);

	expand_texts(e, record, op);
	if (!view || !(view->c & VIEW_PRIVATE))
		return;
	path_normalize(e->data + op->data);
	op->data_size = (uint32_t)text_length(e->data + op->data);
	op->label = op->data;
	if (!view_covers(&e->view, e->data + op->data, false))
		expand_refuse(record, REASON_NOT_IN_VIEW);
}

/* In a view of the host's tree, the folder to start in must not be taken away by what the view says. */
void expand_check_start(struct expansion *e)
{
	const struct op *view = expand_item(e, ITEM_VIEW), *record = plan_find(e->template, OP_CHDIR);
	char folder[FACT_PATH + 256];

	if (!view || view->c & VIEW_PRIVATE || (!record && !*e->facts->cwd))
		return;
	if (record)
		expand_text(e, record, op_text(e->template, record), folder, sizeof folder);
	else
		__builtin_memcpy(folder, e->facts->cwd, text_length(e->facts->cwd) + 1);
	path_normalize(folder);
	if (view_takes_away(&e->view, folder))
		expand_refuse(view, REASON_COVERED);
}
