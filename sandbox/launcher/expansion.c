/* expansion.c: what the files that expand a template share: adding ops and data to the plan, texts with placeholders. */
#include "expansion.h"

#include "report.h"
#include "sys.h"
#include "text.h"

_Noreturn void expand_refuse(const struct op *record, int reason)
{
	fail(op_index(record), reason, 0);
}

/* Add bytes to the data area, 8-aligned; a NUL follows, as all of it was zero. */
uint32_t expand_add(struct expansion *e, const struct op *record, const char *bytes, size_t size)
{
	uint32_t offset = (e->data_size + 7) & ~7u;

	if (size >= DATA_MAX - offset - 16)
		expand_refuse(record, E2BIG);
	__builtin_memcpy(e->data + offset, bytes, size);
	e->data_size = offset + (uint32_t)size + 1;
	return offset;
}

/* Add more to what was added last, over its NUL. */
void expand_extend(struct expansion *e, const struct op *record, const char *bytes, size_t size)
{
	if (size >= DATA_MAX - e->data_size - 16)
		expand_refuse(record, E2BIG);
	__builtin_memcpy(e->data + e->data_size - 1, bytes, size);
	e->data_size += (uint32_t)size;
}

struct op *expand_op(struct expansion *e, const struct op *record)
{
	struct op *op = &e->ops[e->op_count];

	if (e->op_count == OPS_MAX)
		expand_refuse(record, E2BIG);
	*op = *record;
	op->flags = record->flags & (uint16_t)~TEMPLATE_EXPANDS;
	e->op_count++;
	return op;
}

/* An op of another code than its record, with that record's words. */
struct op *expand_made(struct expansion *e, const struct op *record, enum op_code code)
{
	struct op *op = expand_op(e, record);

	op->code = (uint16_t)code;
	op->flags = 0;
	op->a = op->b = op->c = op->data = op->data_size = 0;
	return op;
}

void expand_give(struct expansion *e, const struct op *record, struct op *op, const char *text)
{
	op->data_size = (uint32_t)text_length(text);
	op->data = expand_add(e, record, text, op->data_size);
}

static const char *value_of(const struct expansion *e, const struct op *record, const char *name)
{
	const char *value = text_starts(name, "home}")	      ? e->facts->home
			    : text_starts(name, "cwd}")	      ? e->facts->cwd
			    : text_starts(name, "runtime_dir}") ? e->facts->runtime_dir
			    : text_starts(name, "tmp}")	      ? e->facts->tmp
							      : NULL;

	if (value == e->facts->cwd && !*value)
		expand_refuse(record, REASON_NO_CWD);
	if (value && *value != '/')
		expand_refuse(record, REASON_NO_VALUE);
	return value;
}

/* The text with each placeholder replaced; a slash of its own stands before it, so that its place is a path's start. */
void expand_text(struct expansion *e, const struct op *record, const char *text, char *room, size_t size)
{
	size_t used = 0;

	while (*text) {
		const char *value = text[0] == '/' && text[1] == '{' ? value_of(e, record, text + 2) : NULL;
		size_t length = value ? text_length(value) : 1;

		if (used + length >= size)
			expand_refuse(record, ENAMETOOLONG);
		__builtin_memcpy(room + used, value ? value : text, length);
		used += length;
		text += value ? text_find(text, '}') + 1 : 1;
	}
	room[used] = '\0';
}

static char scratch[FACT_PATH + 256];

const char *expand_string(struct expansion *e, const struct op *record, const char *text)
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
	path = expand_string(e, record, op_text(e->template, record) + FAMILY_SIZE);
	if (text_length(path) >= UNIX_NAME_MAX)
		expand_refuse(record, ENAMETOOLONG);
	__builtin_memcpy(address + FAMILY_SIZE, path, text_length(path) + 1);
	op->data_size = (uint32_t)(FAMILY_SIZE + text_length(path) + 1);
	op->data = expand_add(e, record, address, op->data_size);
}

static uint32_t expand_message(struct expansion *e, const struct op *record, uint32_t at)
{
	const char *text = expand_string(e, record, e->template->data + at);

	return expand_add(e, record, text, text_length(text));
}

void expand_texts(struct expansion *e, const struct op *record, struct op *op)
{
	if (!(record->flags & TEMPLATE_EXPANDS))
		return;
	if (is_address(op))
		expand_address(e, record, op);
	else if (op->data_size)
		expand_give(e, record, op, expand_string(e, record, op_text(e->template, record)));
	op->label = expand_message(e, record, op->label);
	op->hint = expand_message(e, record, op->hint);
}

void expand_label(struct expansion *e, const struct op *record, struct op *op, const char *text)
{
	op->label = expand_add(e, record, text, text_length(text));
}

const struct op *expand_item(const struct expansion *e, enum item_code code)
{
	return plan_find(e->template, (uint16_t)code);
}
