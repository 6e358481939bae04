/* names.c: which descriptors an exec names, by the delegation protocols of the plan. Pure; fuzzed. */
#include "names.h"

#include "text.h"

static void add(struct names *names, uint32_t rule, uint32_t number)
{
	if (number >= FIRST_NUMBER && number < NAMES_LIMIT && !names->rule[number])
		names->rule[number] = (uint16_t)(rule + 1);
}

/* A decimal number at *text; moves behind it. Returns -1 if there is none or it is too large to be of interest. */
static long number_at(const char **text)
{
	long number = 0;
	const char *next = *text;

	if (*next < '0' || *next > '9')
		return -1;
	for (; *next >= '0' && *next <= '9'; next++)
		number = number < NAMES_LIMIT ? number * 10 + (*next - '0') : number;
	*text = next;
	return number < NAMES_LIMIT ? number : -1;
}

static bool is_separator(char c)
{
	return c == ',' || c == ';' || c == ':' || c == ' ';
}

static void take(struct names *names, const struct plan *plan, const struct op *rule, const char *text)
{
	const uint32_t index = (uint32_t)(rule - plan->ops);
	long number;

	switch (rule->b) {
	case SHAPE_NUMBER:
		number = number_at(&text);
		if (number >= 0)
			add(names, index, (uint32_t)number);
		return;
	case SHAPE_LIST:
		while (*text >= '0' && *text <= '9') {
			number = number_at(&text);
			if (number >= 0)
				add(names, index, (uint32_t)number);
			while (is_separator(*text))
				text++;
		}
		return;
	case SHAPE_COUNT:
		number = number_at(&text);
		for (long i = 0; i < number; i++)
			add(names, index, (uint32_t)(FIRST_NUMBER + i));
		return;
	case SHAPE_ALL:
		names->all = (uint16_t)(index + 1);
		return;
	default: /* SHAPE_FIXED: the rule's own numbers */
		for (uint32_t i = 0; i < 32; i++)
			if (rule->c >> i & 1)
				add(names, index, i);
		return;
	}
}

/* Each place in the text where the needle stands, or its start only. */
static void search(struct names *names, const struct plan *plan, const struct op *rule, const char *needle,
		   const char *text)
{
	size_t length = text_length(needle);

	for (; *text; text++) {
		if (text_starts(text, needle))
			take(names, plan, rule, text + length);
		if (!(rule->flags & NAME_ANYWHERE))
			return;
	}
}

/* The rule's second text; the first is a variable's name, or the program that the rule is for ("": any). */
static const char *needle_of(const struct plan *plan, const struct op *rule)
{
	const char *first = op_text(plan, rule);

	return first + text_length(first) + 1;
}

static bool is_for(const struct plan *plan, const struct op *rule, const char *remembered)
{
	const char *program = op_text(plan, rule);

	return !*program || text_equal(program, remembered);
}

static const char *last_component(const char *path)
{
	const char *last = path;

	for (; *path; path++)
		if (*path == '/')
			last = path + 1;
	return last;
}

void names_remember(char kept[64], const char *text)
{
	size_t length = text_length(text);

	length = length < 64 ? length : 0;
	__builtin_memcpy(kept, text, length);
	kept[length] = '\0';
}

void names_from_argument(struct names *names, const struct plan *plan, const struct names_context *context,
			 const char *argument)
{
	for_ops(plan, rule, OP_PROTOCOL)
	{
		const char *needle = needle_of(plan, rule);

		if ((rule->a != PLACE_ARGUMENT && rule->a != PLACE_NEXT_ARGUMENT) || !is_for(plan, rule, context->program))
			continue;
		if (rule->a == PLACE_ARGUMENT)
			search(names, plan, rule, needle, argument);
		else if (text_equal(context->previous, needle))
			take(names, plan, rule, argument);
	}
}

void names_from_variable(struct names *names, const struct plan *plan, const char *variable)
{
	for_ops(plan, rule, OP_PROTOCOL)
	{
		const char *name = op_text(plan, rule);
		size_t length = text_length(name);

		if (rule->a == PLACE_VARIABLE && text_starts(variable, name) && variable[length] == '=')
			search(names, plan, rule, needle_of(plan, rule), variable + length + 1);
	}
}

void names_from_program(struct names *names, const struct plan *plan, struct names_context *context, const char *path)
{
	names_remember(context->program, last_component(path));
	for_ops(plan, rule, OP_PROTOCOL) if (rule->a == PLACE_PROGRAM && is_for(plan, rule, context->program))
		take(names, plan, rule, "");
}

bool names_ask_caller(const struct plan *plan, struct names_context *context, const char *path)
{
	names_remember(context->caller, last_component(path));
	for_ops(plan, rule, OP_PROTOCOL) if (rule->a == PLACE_CALLER_ARGUMENT && is_for(plan, rule, context->caller))
		return true;
	return false;
}

void names_from_caller_argument(struct names *names, const struct plan *plan, const struct names_context *context,
				const char *argument)
{
	for_ops(plan, rule, OP_PROTOCOL) if (rule->a == PLACE_CALLER_ARGUMENT && is_for(plan, rule, context->caller))
		search(names, plan, rule, needle_of(plan, rule), argument);
}
