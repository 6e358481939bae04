/* template.c: a template and the facts of a start make a plan. It decides nothing that a profile says: it puts in what is
 * not known before, and refuses where that leads to what the profile does not mean. resolve.py, mounts.py and landlock.py
 * do the same for `sandbox run`; a test holds the results together. */
#include "template.h"

#include "expansion.h"
#include "report.h"
#include "sys.h"
#include "text.h"

#include <linux/mman.h>

static void *reserve(size_t size)
{
	long mapped = sys6(__NR_mmap, 0, (long)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mapped < 0 && mapped >= -SYS_MAX_ERRNO)
		fail_step(STEP_PLAN, (int)-mapped, 0);
	return (void *)mapped;
}

/* Who the command will be; what the profile refuses to root. */
static void check_needs(struct expansion *e)
{
	const struct op *needs = expand_item(e, ITEM_NEEDS), *identity = plan_find(e->template, OP_IDENTITY);

	e->identity = identity ? identity->a : e->facts->uid;
	if (identity && e->facts->uid != 0 && (identity->a != e->facts->uid || identity->b != e->facts->gid))
		expand_refuse(identity, REASON_NOT_ROOT);
	if (needs && (uint32_t)e->facts->landlock_abi < needs->a)
		fail(op_index(needs), REASON_OLDER_KERNEL, e->facts->landlock_abi);
	if (expand_item(e, ITEM_LIMIT))
		delegated_find(&e->delegated, e->facts->pid);
	for_ops(e->template, op, OP_MOUNT) if (op->a == MOUNT_PROC && op->flags & MOUNT_WRITE && e->identity == 0)
		expand_refuse(op, REASON_FOR_ROOT);
}

static const char *notify_socket(const struct expansion *e)
{
	return expand_item(e, ITEM_NOTIFY) ? facts_variable(e->facts->environment, "NOTIFY_SOCKET") : NULL;
}

static void set_variable(struct expansion *e, const struct op *record, const char *name, const char *value)
{
	struct op *op = expand_made(e, record, OP_ENV_SET);

	op->data = expand_add(e, record, name, text_length(name));
	expand_extend(e, record, "=", 1);
	expand_extend(e, record, value, text_length(value));
	op->data_size = e->data_size - 1 - op->data;
	expand_label(e, record, op, name);
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
	const struct op *record = expand_item(e, ITEM_NOTIFY), *view = expand_item(e, ITEM_VIEW);
	const char *socket = notify_socket(e);

	if (!socket || !*socket)
		return;
	if (*socket != '/')
		expand_refuse(record, REASON_NO_VALUE);
	if (view && view->c & VIEW_MOUNTS)
		expand_give(e, record, expand_made(e, record, OP_MANAGER), socket);
}

static void emit_notify(struct expansion *e)
{
	const struct op *record = expand_item(e, ITEM_NOTIFY);
	const char *watchdog = facts_variable(e->facts->environment, "WATCHDOG_USEC");
	const char *socket = notify_socket(e);

	if (record && socket)
		set_variable(e, record, "NOTIFY_SOCKET", socket);
	if (record && watchdog && is_watched(e))
		set_variable(e, record, "WATCHDOG_USEC", watchdog);
}

static void emit_watchdog_pid(struct expansion *e)
{
	const struct op *record = expand_item(e, ITEM_NOTIFY);
	char **environment = e->facts->environment;

	if (record && facts_variable(environment, "WATCHDOG_USEC") && facts_variable(environment, "WATCHDOG_PID") && is_watched(e)) {
		struct op *op = expand_made(e, record, OP_ENV_PID);

		expand_give(e, record, op, "WATCHDOG_PID");
		op->label = op->data;
	}
}

/* Root of a group that is not root's leaves it by name, as for a user that is named. */
static void emit_own_group(struct expansion *e)
{
	const struct op *needs = expand_item(e, ITEM_NEEDS);

	if (needs && !plan_find(e->template, OP_IDENTITY) && e->facts->uid == 0 && e->facts->gid != 0) {
		struct op *op = expand_made(e, needs, OP_IDENTITY);

		op->b = e->facts->gid;
	}
}

static void emit_scheduling(struct expansion *e, const struct op *record)
{
	struct op *op = expand_op(e, record);

	op->flags = 0;
	if (record->flags & SCHEDULING_CALLERS_POLICY)
		op->a = (uint32_t)e->facts->policy;
	if (record->flags & SCHEDULING_CALLERS_NICE)
		op->b = (uint32_t)(e->facts->nice + 20);
}

static void emit_parent(struct expansion *e, const struct op *record)
{
	struct op *op = expand_op(e, record);
	char label[NUMBERED_PATH];

	op->a = (uint32_t)e->facts->parent;
	text_numbered_path(label, "process ", e->facts->parent);
	expand_label(e, record, op, label);
}

static void emit(struct expansion *e, const struct op *record)
{
	switch (record->code) {
	case OP_DIE_WITH_PARENT: emit_parent(e, record); return;
	case OP_TERMINAL: {
		struct op *op = expand_op(e, record);

		op->a = record->a ? record->a : e->facts->interactive ? TERMINAL_PRIVATE : TERMINAL_NONE;
		return;
	}
	case OP_IDENTITY:
		if (e->facts->uid == 0)
			expand_op(e, record);
		return;
	case OP_SCHEDULING: emit_scheduling(e, record); return;
	case OP_CHDIR: expand_chdir(e, record); return;
	case OP_EXEC: expand_exec(e, record); return;
	case OP_PLACE: expand_place(e, record); return;
	case OP_PATH_RULE: expand_rule(e, record); return;
	case OP_ENV_SET:
	case OP_ENV_PID:
		if (record->flags & TEMPLATE_VARIES)
			expand_varying(e, record);
		else
			expand_texts(e, record, expand_op(e, record));
		return;
	case OP_INHERIT:
	case OP_MOUNT:
	case OP_RLIMIT:
		return; /* with the others of their code */
	default:
		if (record->code >> 8 != ITEM_NEEDS >> 8)
			expand_texts(e, record, expand_op(e, record));
	}
}

static const struct {
	enum op_code code;
	void (*emit)(struct expansion *e);
} groups[] = {
	{OP_CGROUP, expand_cgroup}, {OP_INHERIT, expand_inherited}, {OP_IDENTITY, emit_own_group}, {OP_MOUNT, expand_mounts},
	{OP_MANAGER, emit_manager},
	{OP_ENV_SET, emit_notify},    {OP_RLIMIT, expand_limits}, {OP_ENV_DROP, expand_dropped},   {OP_ENV_PID, emit_watchdog_pid},
	{OP_PATH_RULE, expand_path_rules}, {OP_COMMAND, expand_candidates},
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
	expand_view(&e);
	expand_check_start(&e);
	for (const struct op *record = template->ops; record < template->ops + template->op_count; record++) {
		emit_groups(&e, record->code);
		emit(&e, record);
	}
	emit_groups(&e, UINT16_MAX);
	return finish(&e, size);
}
