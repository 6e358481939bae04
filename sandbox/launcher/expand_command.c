/* expand_command.c: of a template: where the command is looked for, and its arguments. */
#include "expansion.h"

#include "report.h"
#include "text.h"

static const char *command_name(const struct expansion *e)
{
	const struct op *search = expand_item(e, ITEM_SEARCH);
	const char *name = search ? op_text(e->template, search) : "";

	if (*name || !search)
		return name;
	if (!e->facts->arguments[0] || !*e->facts->arguments[0])
		expand_refuse(search, REASON_NO_COMMAND);
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
	op = expand_made(e, record, OP_COMMAND);
	expand_give(e, record, op, path);
	op->label = op->data;
}

/* As execvp(3) looks a command up; an empty folder is the working directory. */
void expand_candidates(struct expansion *e)
{
	const struct op *record = expand_item(e, ITEM_SEARCH);
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

void expand_exec(struct expansion *e, const struct op *record)
{
	struct op *op = expand_op(e, record);
	const struct op *search = expand_item(e, ITEM_SEARCH);
	char **arguments = e->facts->arguments;

	if (search && !*op_text(e->template, search))
		expand_label(e, record, op, command_name(e));
	if (!expand_item(e, ITEM_ARGUMENTS))
		return;
	op->data = expand_add(e, record, op_text(e->template, record), record->data_size);
	for (; *arguments; arguments++) {
		expand_extend(e, record, *arguments, text_length(*arguments) + 1);
		op->a++;
	}
	op->data_size = e->data_size - 1 - op->data;
}
