/* expand_limits.c: of a template: limits, by a cgroup where one is delegated, by resource limits elsewhere. */
#include "expansion.h"

#include "report.h"
#include "sys.h"
#include "text.h"

static bool by_cgroup(const struct expansion *e, const struct op *record)
{
	return delegated_has(&e->delegated, op_text(e->template, record)) && (!(record->flags & LIMIT_SWAP) || e->delegated.swap);
}

/* "memory.max 1024" */
static void set_pair_label(struct expansion *e, const struct op *record, struct op *op)
{
	const char *file = op_text(e->template, record), *value = file + text_length(file) + 1;

	expand_label(e, record, op, file);
	expand_extend(e, record, " ", 1);
	expand_extend(e, record, value, text_length(value));
}

/* A cgroup of the sandbox's own, for the limits that it can hold. */
void expand_cgroup(struct expansion *e)
{
	struct op *own = NULL;

	for_ops(e->template, record, ITEM_LIMIT)
	{
		struct op *op;

		if (!by_cgroup(e, record))
			continue;
		if (!own) {
			own = expand_made(e, record, OP_CGROUP);
			expand_give(e, record, own, e->delegated.path);
			own->label = own->data;
		}
		op = expand_made(e, record, OP_CGROUP_SET);
		op->data = record->data;
		op->data_size = record->data_size;
		set_pair_label(e, record, op);
	}
}

static void check_limit(const struct expansion *e, const struct op *record)
{
	if (record->flags & LIMIT_CGROUP_ONLY)
		expand_refuse(record, REASON_NO_CPU_LIMIT);
	if (record->flags & LIMIT_NOT_ROOT && e->identity == 0)
		expand_refuse(record, REASON_NO_LIMIT_OF_ROOT);
	if (record->flags & LIMIT_OF_USER)
		expand_refuse(record, REASON_NO_LIMIT_OF_ONE);
}

static void insert_limit(struct expansion *e, uint32_t first, struct op op)
{
	uint32_t at = e->op_count - 1;

	for (; at > first && e->ops[at - 1].a > op.a; at--)
		e->ops[at] = e->ops[at - 1];
	e->ops[at] = op;
}

/* Resource limits ascend by their resource; some stand in for a cgroup. */
void expand_limits(struct expansion *e)
{
	uint32_t first = e->op_count;

	for_ops(e->template, record, OP_RLIMIT) insert_limit(e, first, *expand_op(e, record));
	for_ops(e->template, record, ITEM_LIMIT)
	{
		char label[NUMBERED_PATH];
		struct op *op;

		if (record->flags & LIMIT_BESIDE || by_cgroup(e, record))
			continue;
		check_limit(e, record);
		op = expand_made(e, record, OP_RLIMIT);
		op->a = record->a;
		op->b = record->b;
		op->c = record->c;
		text_numbered_path(label, record->a == RLIMIT_NPROC ? "nproc " : "as ", (int64_t)(record->b | (uint64_t)record->c << 32));
		expand_label(e, record, op, label);
		insert_limit(e, first, *op);
	}
}
