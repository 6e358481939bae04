/* expand_fds.c: of a template: descriptors whose numbers the start tells, and the variables that carry them. */
#include "expansion.h"

#include "passed.h"
#include "report.h"
#include "text.h"

static void insert_inherited(struct expansion *e, uint32_t first, struct op op)
{
	uint32_t at = e->op_count - 1;

	for (; at > first && e->ops[at - 1].b > op.b; at--)
		e->ops[at] = e->ops[at - 1];
	e->ops[at] = op;
}

static void inherit_passed(struct expansion *e, uint32_t first, const struct op *record, int number)
{
	struct op *op = expand_made(e, record, OP_INHERIT);

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
		expand_refuse(record, REASON_NOT_PASSED);
	return number;
}

/* INHERIT ops ascend by number, and some numbers are known only now. */
void expand_inherited(struct expansion *e)
{
	uint32_t first = e->op_count;

	for_ops(e->template, record, OP_INHERIT) insert_inherited(e, first, *expand_op(e, record));
	for_ops(e->template, record, ITEM_ACTIVATED)
	{
		int number = passed_number(e->facts, op_text(e->template, record));

		if (number < 0)
			expand_refuse(record, REASON_NOT_PASSED);
		inherit_passed(e, first, record, number);
	}
	for_ops(e->template, record, ITEM_STORED)
	{
		int number = stored_number(e, record);

		if (number >= 0)
			inherit_passed(e, first, record, number);
	}
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

void expand_place(struct expansion *e, const struct op *record)
{
	int number = number_now(e, record->b);

	if (number >= 0)
		expand_op(e, record)->b = (uint32_t)number;
}

void expand_rule(struct expansion *e, const struct op *record)
{
	bool by_number = record->flags == RULE_DESCRIPTOR;
	int number = by_number ? number_now(e, record->c) : 0;
	struct op *op;

	if (number < 0)
		return;
	op = expand_op(e, record);
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
			expand_extend(e, record, ":", 1);
		if (names)
			expand_extend(e, record, name, text_length(name));
		count++;
	}
	return count;
}

void expand_varying(struct expansion *e, const struct op *record)
{
	int number = record->a >= FIRST_NUMBER ? number_now(e, record->a) : 0;
	char text[NUMBERED_PATH];
	struct op *op;

	if (number < 0 || (record->a < FIRST_NUMBER && !count_told(e, record, false)))
		return;
	op = expand_op(e, record);
	op->flags = 0;
	op->a = op->b = 0;
	if (record->a == VARYING_PID)
		return;
	op->data = expand_add(e, record, op_text(e->template, record), record->data_size);
	if (record->a == VARYING_NAMES) {
		count_told(e, record, true);
	} else {
		text_numbered_path(text, "", record->a == VARYING_COUNT ? count_told(e, record, false) : (uint32_t)number);
		expand_extend(e, record, text, text_length(text));
	}
	op->data_size = e->data_size - 1 - op->data;
}

static bool holds_word(const char *text, const char *word)
{
	for (; *text; text++)
		if (text_starts(text, word))
			return true;
	return false;
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
	op = expand_made(e, record, OP_ENV_DROP);
	expand_give(e, record, op, text);
	op->label = op->data;
}

void expand_dropped(struct expansion *e)
{
	for_ops(e->template, record, ITEM_CARRIED)
		for (char **variable = e->facts->environment; *variable; variable++)
			drop_carried(e, record, *variable);
}
