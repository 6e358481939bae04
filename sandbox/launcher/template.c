/* template.c: a template and the facts of a start make a plan. It decides nothing that a profile says: it puts in what is
 * not known before, and refuses where that leads to what the profile does not mean. resolve.py, mounts.py and landlock.py
 * do the same for `sandbox run`; a test holds the results together. */
#include "template.h"

#include "delegated.h"
#include "entries.h"
#include "passed.h"
#include "report.h"
#include "sys.h"
#include "text.h"

#include <linux/mman.h>

enum { OPS_MAX = 8192, DATA_MAX = PLAN_MAX_SIZE };

struct expansion {
	const struct plan *template;
	const struct facts *facts;
	struct op *ops;
	char *data;
	uint32_t op_count, data_size, groups;
	struct view view;
	struct delegated delegated;
	uint32_t identity; /* who the command will be */
};

static void *reserve(size_t size)
{
	long mapped = sys6(__NR_mmap, 0, (long)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mapped < 0 && mapped >= -SYS_MAX_ERRNO)
		fail_step(STEP_PLAN, (int)-mapped, 0);
	return (void *)mapped;
}

static _Noreturn void refuse(const struct op *record, int reason)
{
	fail(op_index(record), reason, 0);
}

/* Add bytes to the data area, 8-aligned; a NUL follows, as all of it was zero. */
static uint32_t add_data(struct expansion *e, const struct op *record, const char *bytes, size_t size)
{
	uint32_t offset = (e->data_size + 7) & ~7u;

	if (size >= DATA_MAX - offset - 16)
		refuse(record, E2BIG);
	__builtin_memcpy(e->data + offset, bytes, size);
	e->data_size = offset + (uint32_t)size + 1;
	return offset;
}

/* Add more to what was added last, over its NUL. */
static void extend_data(struct expansion *e, const struct op *record, const char *bytes, size_t size)
{
	if (size >= DATA_MAX - e->data_size - 16)
		refuse(record, E2BIG);
	__builtin_memcpy(e->data + e->data_size - 1, bytes, size);
	e->data_size += (uint32_t)size;
}

static struct op *add_op(struct expansion *e, const struct op *record)
{
	struct op *op = &e->ops[e->op_count];

	if (e->op_count == OPS_MAX)
		refuse(record, E2BIG);
	*op = *record;
	op->flags = record->flags & (uint16_t)~TEMPLATE_EXPANDS;
	e->op_count++;
	return op;
}

/* An op of another code than its record, with that record's words. */
static struct op *make_op(struct expansion *e, const struct op *record, enum op_code code)
{
	struct op *op = add_op(e, record);

	op->code = (uint16_t)code;
	op->flags = 0;
	op->a = op->b = op->c = op->data = op->data_size = 0;
	return op;
}

static void give_text(struct expansion *e, const struct op *record, struct op *op, const char *text)
{
	op->data_size = (uint32_t)text_length(text);
	op->data = add_data(e, record, text, op->data_size);
}

static const char *value_of(const struct expansion *e, const struct op *record, const char *name)
{
	const char *value = text_starts(name, "home}")	      ? e->facts->home
			    : text_starts(name, "cwd}")	      ? e->facts->cwd
			    : text_starts(name, "runtime_dir}") ? e->facts->runtime_dir
			    : text_starts(name, "tmp}")	      ? e->facts->tmp
							      : NULL;

	if (value == e->facts->cwd && !*value)
		refuse(record, REASON_NO_CWD);
	if (value && *value != '/')
		refuse(record, REASON_NO_VALUE);
	return value;
}

/* The text with each placeholder replaced; a slash of its own stands before it, so that its place is a path's start. */
static void expand_text(struct expansion *e, const struct op *record, const char *text, char *room, size_t size)
{
	size_t used = 0;

	while (*text) {
		const char *value = text[0] == '/' && text[1] == '{' ? value_of(e, record, text + 2) : NULL;
		size_t length = value ? text_length(value) : 1;

		if (used + length >= size)
			refuse(record, ENAMETOOLONG);
		__builtin_memcpy(room + used, value ? value : text, length);
		used += length;
		text += value ? text_find(text, '}') + 1 : 1;
	}
	room[used] = '\0';
}

static char scratch[FACT_PATH + 256];

static const char *expanded(struct expansion *e, const struct op *record, const char *text)
{
	expand_text(e, record, text, scratch, sizeof scratch);
	return scratch;
}

static bool is_address(const struct op *op)
{
	return op->code == OP_LISTEN || op->code == OP_CONNECT;
}

/* A path behind the family of a Unix address; the kernel takes no longer one. */
static void expand_address(struct expansion *e, const struct op *record, struct op *op)
{
	char address[FAMILY_SIZE + UNIX_NAME_MAX + 1];
	const char *path;

	__builtin_memcpy(address, op_text(e->template, record), FAMILY_SIZE);
	path = expanded(e, record, op_text(e->template, record) + FAMILY_SIZE);
	if (text_length(path) >= UNIX_NAME_MAX)
		refuse(record, ENAMETOOLONG);
	__builtin_memcpy(address + FAMILY_SIZE, path, text_length(path) + 1);
	op->data_size = (uint32_t)(FAMILY_SIZE + text_length(path) + 1);
	op->data = add_data(e, record, address, op->data_size);
}

static uint32_t expand_message(struct expansion *e, const struct op *record, uint32_t at)
{
	const char *text = expanded(e, record, e->template->data + at);

	return add_data(e, record, text, text_length(text));
}

static void expand_texts(struct expansion *e, const struct op *record, struct op *op)
{
	if (!(record->flags & TEMPLATE_EXPANDS))
		return;
	if (is_address(op))
		expand_address(e, record, op);
	else if (op->data_size)
		give_text(e, record, op, expanded(e, record, op_text(e->template, record)));
	op->label = expand_message(e, record, op->label);
	op->hint = expand_message(e, record, op->hint);
}

static void set_label(struct expansion *e, const struct op *record, struct op *op, const char *text)
{
	op->label = add_data(e, record, text, text_length(text));
}

static const struct op *item(const struct expansion *e, enum item_code code)
{
	return plan_find(e->template, (uint16_t)code);
}

/* Who the command will be; what the profile refuses to root. */
static void check_needs(struct expansion *e)
{
	const struct op *needs = item(e, ITEM_NEEDS), *identity = plan_find(e->template, OP_IDENTITY);

	e->identity = identity ? identity->a : e->facts->uid;
	if (identity && e->facts->uid != 0 && (identity->a != e->facts->uid || identity->b != e->facts->gid))
		refuse(identity, REASON_NOT_ROOT);
	if (needs && (uint32_t)e->facts->landlock_abi < needs->a)
		fail(op_index(needs), REASON_OLDER_KERNEL, e->facts->landlock_abi);
	if (item(e, ITEM_LIMIT))
		delegated_find(&e->delegated, e->facts->pid);
	for_ops(e->template, op, OP_MOUNT) if (op->a == MOUNT_PROC && op->flags & MOUNT_WRITE && e->identity == 0)
		refuse(op, REASON_FOR_ROOT);
}

static const char *notify_socket(const struct expansion *e)
{
	return item(e, ITEM_NOTIFY) ? facts_variable(e->facts->environment, "NOTIFY_SOCKET") : NULL;
}

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
	if (item(e, ITEM_VIEW)->c & VIEW_STARTS_ELSEWHERE || view_covers(&e->view, *e->facts->cwd ? e->facts->cwd : "/", true))
		return false;
	refuse(record, REASON_SHOWS_HOME);
}

static void add_entry(struct expansion *e, const struct op *record, const char *path, const struct entry *as)
{
	struct entry *entry = view_add(&e->view);

	if (!entry)
		refuse(record, E2BIG);
	*entry = *as;
	entry->path = e->data + add_data(e, record, path, text_length(path));
	path_normalize(entry->path);
}

/* The added ones first: what the profile says is left out by what they show. */
static void collect_entries(struct expansion *e)
{
	for (int added = 1; added >= 0; added--) {
		for_ops(e->template, record, ITEM_ENTRY)
		{
			const struct entry as = {.kind = (int)record->a, .rights = record->b, .record = record,
						 .optional = record->c & ENTRY_OPTIONAL, .added = added};

			if (!(record->c & ENTRY_ADDED) != !added)
				continue;
			add_entry(e, record, expanded(e, record, op_text(e->template, record)), &as);
			if (!added && (!stays(e, record, view_last(&e->view)) || view_replaced(&e->view)))
				view_drop_last(&e->view);
		}
	}
	view_finish(&e->view);
}

static void emit_mount(struct expansion *e, const struct entry *entry)
{
	static const uint8_t kinds[] = {MOUNT_BIND, MOUNT_TMPFS, MOUNT_COPY, MOUNT_HIDE};
	struct op *op = make_op(e, entry->record, OP_MOUNT);

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
	if (item(e, ITEM_VIEW)->c & VIEW_PRIVATE)
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
static void emit_mounts(struct expansion *e)
{
	const struct op *view = item(e, ITEM_VIEW);
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
		moving = *add_op(e, record);
		for (at = e->op_count - 1; at > first; at--) {
			if (path_order(e->data + e->ops[at - 1].data, e->data + moving.data) <= 0)
				break;
			e->ops[at] = e->ops[at - 1];
		}
		e->ops[at] = moving;
	}
}

static void emit_path_rules(struct expansion *e)
{
	const struct op *view = item(e, ITEM_VIEW), *ruleset = plan_find(e->template, OP_RULESET);

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
		op = make_op(e, entry->record, OP_PATH_RULE);
		op->a = rights & ruleset->a;
		op->flags = entry->optional ? RULE_OPTIONAL : 0;
		op->data = op->label = (uint32_t)(entry->path - e->data);
		op->data_size = (uint32_t)text_length(entry->path);
	}
}

static void insert_inherited(struct expansion *e, uint32_t first, struct op op)
{
	uint32_t at = e->op_count - 1;

	for (; at > first && e->ops[at - 1].b > op.b; at--)
		e->ops[at] = e->ops[at - 1];
	e->ops[at] = op;
}

static void inherit_passed(struct expansion *e, uint32_t first, const struct op *record, int number)
{
	struct op *op = make_op(e, record, OP_INHERIT);

	op->a = record->a;
	op->b = (uint32_t)number;
	op->c = record->c;
	op->flags = record->flags;
	insert_inherited(e, first, *op);
}

/* Where the manager has passed what is stored, or -1: it has not. */
static int stored_number(const struct expansion *e, const struct op *record)
{
	int number = passed_number(e->facts, op_text(e->template, record));

	if (number == PASSED_WRONG)
		refuse(record, REASON_NOT_PASSED);
	return number;
}

/* INHERIT ops ascend by number, and some numbers are known only now. */
static void emit_inherited(struct expansion *e)
{
	uint32_t first = e->op_count;

	for_ops(e->template, record, OP_INHERIT) insert_inherited(e, first, *add_op(e, record));
	for_ops(e->template, record, ITEM_ACTIVATED)
	{
		int number = passed_number(e->facts, op_text(e->template, record));

		if (number < 0)
			refuse(record, REASON_NOT_PASSED);
		inherit_passed(e, first, record, number);
	}
	for_ops(e->template, record, ITEM_STORED)
		if (stored_number(e, record) >= 0)
			inherit_passed(e, first, record, stored_number(e, record));
}

/* The number that what is stored has in the command, of the one that it has if all are there; -1: it is absent. What
 * activation tells of has no gap. */
static int number_now(const struct expansion *e, uint32_t number)
{
	bool told = false;
	int missing = 0;

	for_ops(e->template, record, ITEM_STORED)
	{
		uint32_t own = record->b & ~STORED_ACTIVATED;

		if (own > number)
			continue;
		if (own == number && stored_number(e, record) < 0)
			return -1;
		told = told || (own == number && record->b & STORED_ACTIVATED);
		missing += record->b & STORED_ACTIVATED && stored_number(e, record) < 0;
	}
	return (int)number - (told ? missing : 0);
}

static void emit_place(struct expansion *e, const struct op *record)
{
	int number = number_now(e, record->b);

	if (number >= 0)
		add_op(e, record)->b = (uint32_t)number;
}

static void emit_rule(struct expansion *e, const struct op *record)
{
	bool by_number = record->flags == RULE_DESCRIPTOR;
	int number = by_number ? number_now(e, record->c) : 0;
	struct op *op;

	if (number < 0)
		return;
	op = add_op(e, record);
	expand_texts(e, record, op);
	if (by_number)
		op->c = (uint32_t)number;
}

/* The names of what is stored and there behind those of the others; returns how many all are. */
static uint32_t count_told(struct expansion *e, const struct op *record, bool names)
{
	uint32_t count = record->b;

	for_ops(e->template, stored, ITEM_STORED)
	{
		const char *name = op_text(e->template, stored);

		if (!(stored->b & STORED_ACTIVATED) || stored_number(e, stored) < 0)
			continue;
		name += text_length(name) + 1;
		if (names && count)
			extend_data(e, record, ":", 1);
		if (names)
			extend_data(e, record, name, text_length(name));
		count++;
	}
	return count;
}

static void emit_varying(struct expansion *e, const struct op *record)
{
	int number = record->a >= FIRST_NUMBER ? number_now(e, record->a) : 0;
	char text[NUMBERED_PATH];
	struct op *op;

	if (number < 0 || (record->a < FIRST_NUMBER && !count_told(e, record, false)))
		return;
	op = add_op(e, record);
	op->flags = 0;
	op->a = op->b = 0;
	if (record->a == VARYING_PID)
		return;
	op->data = add_data(e, record, op_text(e->template, record), record->data_size);
	if (record->a == VARYING_NAMES) {
		count_told(e, record, true);
	} else {
		text_numbered_path(text, "", record->a == VARYING_COUNT ? count_told(e, record, false) : (uint32_t)number);
		extend_data(e, record, text, text_length(text));
	}
	op->data_size = e->data_size - 1 - op->data;
}

static void set_variable(struct expansion *e, const struct op *record, const char *name, const char *value)
{
	struct op *op = make_op(e, record, OP_ENV_SET);

	op->data = add_data(e, record, name, text_length(name));
	extend_data(e, record, "=", 1);
	extend_data(e, record, value, text_length(value));
	op->data_size = e->data_size - 1 - op->data;
	set_label(e, record, op, name);
}

/* A watchdog waits for the process that WATCHDOG_PID names, where it names one. */
static bool is_watched(const struct expansion *e)
{
	const char *pid = facts_variable(e->facts->environment, "WATCHDOG_PID");

	return !pid || text_number(pid) == e->facts->pid;
}

/* Without a mount namespace of its own the command reaches the manager's socket itself. */
static void emit_manager(struct expansion *e)
{
	const struct op *record = item(e, ITEM_NOTIFY), *view = item(e, ITEM_VIEW);
	const char *socket = notify_socket(e);

	if (!socket || !*socket)
		return;
	if (*socket != '/')
		refuse(record, REASON_NO_VALUE);
	if (view && view->c & VIEW_MOUNTS)
		give_text(e, record, make_op(e, record, OP_MANAGER), socket);
}

static void emit_notify(struct expansion *e)
{
	const struct op *record = item(e, ITEM_NOTIFY);
	const char *watchdog = facts_variable(e->facts->environment, "WATCHDOG_USEC");
	const char *socket = notify_socket(e);

	if (record && socket)
		set_variable(e, record, "NOTIFY_SOCKET", socket);
	if (record && watchdog && is_watched(e))
		set_variable(e, record, "WATCHDOG_USEC", watchdog);
}

static void emit_watchdog_pid(struct expansion *e)
{
	const struct op *record = item(e, ITEM_NOTIFY);
	char **environment = e->facts->environment;

	if (record && facts_variable(environment, "WATCHDOG_USEC") && facts_variable(environment, "WATCHDOG_PID") && is_watched(e)) {
		struct op *op = make_op(e, record, OP_ENV_PID);

		give_text(e, record, op, "WATCHDOG_PID");
		op->label = op->data;
	}
}

static bool is_said(const struct expansion *e, const char *name, size_t length)
{
	for (const struct op *op = e->ops; op < e->ops + e->op_count; op++) {
		const char *text = e->data + op->data;

		if (op->code == OP_ENV_SET && text_same(text, name, length) && text[length] == '=')
			return true;
	}
	return false;
}

static bool holds_word(const char *text, const char *word)
{
	for (; *text; text++)
		if (text_starts(text, word))
			return true;
	return false;
}

/* Variables that carry numbers of descriptors: the numbers are others in the child. */
static void drop_carried(struct expansion *e, const struct op *record, const char *variable)
{
	const char *pattern = op_text(e->template, record);
	size_t length = text_length(pattern), name = (size_t)text_find(variable, '=');
	bool starts = length > 0 && pattern[length - 1] == '*';
	char text[256];
	struct op *op;

	if (text_find(variable, '=') <= 0 || name >= sizeof text || !text_same(variable, pattern, length - starts) ||
	    (!starts && name != length))
		return;
	if ((record->flags & 1 && !holds_word(variable + name, "--jobserver-")) || is_said(e, variable, name))
		return;
	__builtin_memcpy(text, variable, name);
	text[name] = '\0';
	op = make_op(e, record, OP_ENV_DROP);
	give_text(e, record, op, text);
	op->label = op->data;
}

static void emit_dropped(struct expansion *e)
{
	for_ops(e->template, record, ITEM_CARRIED)
		for (char **variable = e->facts->environment; *variable; variable++)
			drop_carried(e, record, *variable);
}

static const char *command_name(const struct expansion *e)
{
	const struct op *search = item(e, ITEM_SEARCH);
	const char *name = search ? op_text(e->template, search) : "";

	if (*name || !search)
		return name;
	if (!e->facts->arguments[0] || !*e->facts->arguments[0])
		refuse(search, REASON_NO_COMMAND);
	return e->facts->arguments[0];
}

static void emit_candidate(struct expansion *e, const struct op *record, const char *folder, size_t length, const char *name)
{
	char path[FACT_PATH];
	size_t rest = text_length(name);
	bool slash = length && folder[length - 1] != '/';
	struct op *op;

	if (length + rest + 2 > sizeof path)
		return; /* no path of the kernel's is so long */
	__builtin_memcpy(path, folder, length);
	if (slash)
		path[length] = '/';
	__builtin_memcpy(path + length + slash, name, rest + 1);
	for (op = e->ops + e->op_count; op > e->ops && op[-1].code == OP_COMMAND; op--)
		if (text_equal(e->data + op[-1].data, path))
			return;
	op = make_op(e, record, OP_COMMAND);
	give_text(e, record, op, path);
	op->label = op->data;
}

/* As execvp(3) looks a command up; an empty folder is the working directory. */
static void emit_candidates(struct expansion *e)
{
	const struct op *record = item(e, ITEM_SEARCH);
	const char *name = command_name(e), *path, *callers;

	if (!record)
		return;
	path = op_text(e->template, record) + text_length(op_text(e->template, record)) + 1;
	callers = record->flags & 1 ? facts_variable(e->facts->environment, "PATH") : NULL;
	path = callers ? callers : path;
	if (text_find(name, '/') >= 0) {
		emit_candidate(e, record, "", 0, name);
		return;
	}
	for (;;) {
		long end = text_find(path, ':');
		size_t length = end < 0 ? text_length(path) : (size_t)end;

		emit_candidate(e, record, length ? path : ".", length ? length : 1, name);
		if (end < 0)
			return;
		path += end + 1;
	}
}

static void emit_exec(struct expansion *e, const struct op *record)
{
	struct op *op = add_op(e, record);
	const struct op *search = item(e, ITEM_SEARCH);
	char **arguments = e->facts->arguments;

	if (search && !*op_text(e->template, search))
		set_label(e, record, op, command_name(e));
	if (!item(e, ITEM_ARGUMENTS))
		return;
	op->data = add_data(e, record, op_text(e->template, record), record->data_size);
	for (; *arguments; arguments++) {
		extend_data(e, record, *arguments, text_length(*arguments) + 1);
		op->a++;
	}
	op->data_size = e->data_size - 1 - op->data;
}

/* Root of a group that is not root's leaves it by name, as for a user that is named. */
static void emit_own_group(struct expansion *e)
{
	const struct op *needs = item(e, ITEM_NEEDS);

	if (needs && !plan_find(e->template, OP_IDENTITY) && e->facts->uid == 0 && e->facts->gid != 0) {
		struct op *op = make_op(e, needs, OP_IDENTITY);

		op->b = e->facts->gid;
	}
}

static void emit_scheduling(struct expansion *e, const struct op *record)
{
	struct op *op = add_op(e, record);

	op->flags = 0;
	if (record->flags & SCHEDULING_CALLERS_POLICY)
		op->a = (uint32_t)e->facts->policy;
	if (record->flags & SCHEDULING_CALLERS_NICE)
		op->b = (uint32_t)(e->facts->nice + 20);
}

static void emit_parent(struct expansion *e, const struct op *record)
{
	struct op *op = add_op(e, record);
	char label[NUMBERED_PATH];

	op->a = (uint32_t)e->facts->parent;
	text_numbered_path(label, "process ", e->facts->parent);
	set_label(e, record, op, label);
}

static void emit_chdir(struct expansion *e, const struct op *record)
{
	const struct op *view = item(e, ITEM_VIEW);
	struct op *op = add_op(e, record);

	expand_texts(e, record, op);
	if (!view || !(view->c & VIEW_PRIVATE))
		return;
	path_normalize(e->data + op->data);
	op->data_size = (uint32_t)text_length(e->data + op->data);
	op->label = op->data;
	if (!view_covers(&e->view, e->data + op->data, false))
		refuse(record, REASON_NOT_IN_VIEW);
}

/* In a view of the host's tree, the folder to start in must not be taken away by what the view says. */
static void check_start(struct expansion *e)
{
	const struct op *view = item(e, ITEM_VIEW), *record = plan_find(e->template, OP_CHDIR);
	char folder[FACT_PATH + 256];

	if (!view || view->c & VIEW_PRIVATE || (!record && !*e->facts->cwd))
		return;
	if (record)
		expand_text(e, record, op_text(e->template, record), folder, sizeof folder);
	else
		__builtin_memcpy(folder, e->facts->cwd, text_length(e->facts->cwd) + 1);
	path_normalize(folder);
	if (view_takes_away(&e->view, folder))
		refuse(view, REASON_COVERED);
}

static void emit(struct expansion *e, const struct op *record)
{
	switch (record->code) {
	case OP_DIE_WITH_PARENT: emit_parent(e, record); return;
	case OP_TERMINAL: {
		struct op *op = add_op(e, record);

		op->a = record->a ? record->a : e->facts->interactive ? TERMINAL_PRIVATE : TERMINAL_NONE;
		return;
	}
	case OP_IDENTITY:
		if (e->facts->uid == 0)
			add_op(e, record);
		return;
	case OP_SCHEDULING: emit_scheduling(e, record); return;
	case OP_CHDIR: emit_chdir(e, record); return;
	case OP_EXEC: emit_exec(e, record); return;
	case OP_PLACE: emit_place(e, record); return;
	case OP_PATH_RULE: emit_rule(e, record); return;
	case OP_ENV_SET:
	case OP_ENV_PID:
		if (record->flags & TEMPLATE_VARIES)
			emit_varying(e, record);
		else
			expand_texts(e, record, add_op(e, record));
		return;
	case OP_INHERIT:
	case OP_MOUNT:
	case OP_RLIMIT:
		return; /* with the others of their code */
	default:
		if (record->code >> 8 != ITEM_NEEDS >> 8)
			expand_texts(e, record, add_op(e, record));
	}
}

static bool by_cgroup(const struct expansion *e, const struct op *record)
{
	return delegated_has(&e->delegated, op_text(e->template, record)) && (!(record->flags & LIMIT_SWAP) || e->delegated.swap);
}

/* "memory.max 1024" */
static void set_pair_label(struct expansion *e, const struct op *record, struct op *op)
{
	const char *file = op_text(e->template, record), *value = file + text_length(file) + 1;

	set_label(e, record, op, file);
	extend_data(e, record, " ", 1);
	extend_data(e, record, value, text_length(value));
}

/* A cgroup of the sandbox's own, for the limits that it can hold. */
static void emit_cgroup(struct expansion *e)
{
	struct op *own = NULL;

	for_ops(e->template, record, ITEM_LIMIT)
	{
		struct op *op;

		if (!by_cgroup(e, record))
			continue;
		if (!own) {
			own = make_op(e, record, OP_CGROUP);
			give_text(e, record, own, e->delegated.path);
			own->label = own->data;
		}
		op = make_op(e, record, OP_CGROUP_SET);
		op->data = record->data;
		op->data_size = record->data_size;
		set_pair_label(e, record, op);
	}
}

static void check_limit(const struct expansion *e, const struct op *record)
{
	if (record->flags & LIMIT_CGROUP_ONLY)
		refuse(record, REASON_NO_CPU_LIMIT);
	if (record->flags & LIMIT_NOT_ROOT && e->identity == 0)
		refuse(record, REASON_NO_LIMIT_OF_ROOT);
	if (record->flags & LIMIT_OF_USER)
		refuse(record, REASON_NO_LIMIT_OF_ONE);
}

static void insert_limit(struct expansion *e, uint32_t first, struct op op)
{
	uint32_t at = e->op_count - 1;

	for (; at > first && e->ops[at - 1].a > op.a; at--)
		e->ops[at] = e->ops[at - 1];
	e->ops[at] = op;
}

/* Resource limits ascend by their resource; some stand in for a cgroup. */
static void emit_limits(struct expansion *e)
{
	uint32_t first = e->op_count;

	for_ops(e->template, record, OP_RLIMIT) insert_limit(e, first, *add_op(e, record));
	for_ops(e->template, record, ITEM_LIMIT)
	{
		char label[NUMBERED_PATH];
		struct op *op;

		if (record->flags & LIMIT_BESIDE || by_cgroup(e, record))
			continue;
		check_limit(e, record);
		op = make_op(e, record, OP_RLIMIT);
		op->a = record->a;
		op->b = record->b;
		op->c = record->c;
		text_numbered_path(label, record->a == RLIMIT_NPROC ? "nproc " : "as ", (int64_t)(record->b | (uint64_t)record->c << 32));
		set_label(e, record, op, label);
		insert_limit(e, first, *op);
	}
}

static const struct {
	enum op_code code;
	void (*emit)(struct expansion *e);
} groups[] = {
	{OP_CGROUP, emit_cgroup}, {OP_INHERIT, emit_inherited}, {OP_IDENTITY, emit_own_group}, {OP_MOUNT, emit_mounts},
	{OP_MANAGER, emit_manager},
	{OP_ENV_SET, emit_notify},    {OP_RLIMIT, emit_limits}, {OP_ENV_DROP, emit_dropped},   {OP_ENV_PID, emit_watchdog_pid},
	{OP_PATH_RULE, emit_path_rules}, {OP_COMMAND, emit_candidates},
};

/* What comes of the start stands behind the records of its code. */
static void emit_groups(struct expansion *e, uint32_t before)
{
	while (e->groups < sizeof groups / sizeof groups[0] && groups[e->groups].code < before)
		groups[e->groups++].emit(e);
}

static const void *finish(struct expansion *e, size_t *size)
{
	struct plan_header *header = (struct plan_header *)((char *)e->ops - sizeof *header);
	uint32_t ops_size = e->op_count * (uint32_t)sizeof(struct op);

	e->data_size = (e->data_size + 8) & ~7u;
	__builtin_memcpy((char *)e->ops + ops_size, e->data, e->data_size);
	sys2(__NR_munmap, addr(e->data), DATA_MAX);
	*header = *e->template->header;
	__builtin_memcpy(header->magic, PLAN_MAGIC, sizeof header->magic);
	header->op_count = e->op_count;
	header->data_offset = (uint32_t)sizeof *header + ops_size;
	header->data_size = e->data_size;
	header->size = header->data_offset + e->data_size;
	header->checksum = plan_checksum(header, header->size, offsetof(struct plan_header, checksum));
	*size = header->size;
	return header;
}

const void *template_expand(const struct plan *template, const struct facts *facts, size_t *size)
{
	static struct expansion e;

	e.template = template;
	e.facts = facts;
	e.ops = (struct op *)((char *)reserve(sizeof(struct plan_header) + OPS_MAX * sizeof(struct op) + DATA_MAX) +
			      sizeof(struct plan_header));
	e.data = reserve(DATA_MAX);
	e.data_size = template->header->data_size;
	__builtin_memcpy(e.data, template->data, e.data_size);
	check_needs(&e);
	collect_entries(&e);
	check_start(&e);
	for (const struct op *record = template->ops; record < template->ops + template->op_count; record++) {
		emit_groups(&e, record->code);
		emit(&e, record);
	}
	emit_groups(&e, UINT16_MAX);
	return finish(&e, size);
}
