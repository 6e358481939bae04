/* fuzz_names.c: feeds arbitrary texts to the matcher of delegation protocols, with the rules of a real plan.
 *
 * FUZZ_PLAN names the plan's file. An input is texts, each ended by NUL or the input's end: its first byte says what it
 * is, an argument, a variable, a program, or a caller's program or argument. With libFuzzer: clang -fsanitize=fuzzer. Without: -DSTANDALONE gives a
 * main() that takes -runs=N and builds texts from the rules' own needles, numbers, separators and noise. */
#include "names.h"
#include "plan_file.h"
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static struct plan plan;

/* Only rules of the plan name anything, and what they may not name they never do. */
static void check(const struct names *names, const struct names_context *context)
{
	demand(memchr(context->program, 0, sizeof context->program) && memchr(context->previous, 0, sizeof context->previous));
	demand(memchr(context->caller, 0, sizeof context->caller) && !strchr(context->caller, '/'));
	demand(!memchr(context->program, '/', text_length(context->program)));
	for (uint32_t number = 0; number < NAMES_LIMIT; number++) {
		const struct op *rule = plan.ops + names->rule[number] - 1;

		if (!names->rule[number])
			continue;
		demand(number >= FIRST_NUMBER && names->rule[number] <= plan.op_count && rule->code == OP_PROTOCOL);
		demand(rule->b != SHAPE_ALL && (rule->b != SHAPE_FIXED || (number < 32 && rule->c >> number & 1)));
	}
	demand(!names->all || (plan.ops[names->all - 1].code == OP_PROTOCOL && plan.ops[names->all - 1].b == SHAPE_ALL));
}

/* Whether a rule is for that caller. */
static bool is_asked(const char *caller)
{
	for_ops(&plan, rule, OP_PROTOCOL)
		if (rule->a == PLACE_CALLER_ARGUMENT && (!*op_text(&plan, rule) || strcmp(op_text(&plan, rule), caller) == 0))
			return true;
	return false;
}

/* A text more never takes a name back, nor gives it to another rule. */
static void check_grown(const struct names *before, const struct names *after)
{
	for (uint32_t number = 0; number < NAMES_LIMIT; number++)
		demand(!before->rule[number] || before->rule[number] == after->rule[number]);
	demand(!before->all || after->all);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	static struct names names, before;
	struct names_context context = {"", "", ""};
	bool asked;

	if (!plan.ops)
		read_plan(&plan, OP_PROTOCOL);
	memset(&names, 0, sizeof names);
	while (size > 0) {
		const uint8_t *end = memchr(input, 0, size);
		size_t length = end ? (size_t)(end - input) : size;
		char *text = calloc(1, length ? length : 1); /* the kind's byte makes place for the NUL */

		demand(text != NULL);
		if (length)
			memcpy(text, input + 1, length - 1);
		before = names;
		switch (length ? input[0] % 6 : 0) {
		case 0:
			names_from_program(&names, &plan, &context, text);
			break;
		case 1:
			names_from_variable(&names, &plan, text);
			break;
		case 2:
			asked = names_ask_caller(&plan, &context, text);
			demand(asked == is_asked(context.caller));
			break;
		case 3:
			names_from_caller_argument(&names, &plan, &context, text);
			demand(is_asked(context.caller) || memcmp(&before, &names, sizeof names) == 0);
			break;
		default:
			names_from_argument(&names, &plan, &context, text);
			names_remember(context.previous, text);
		}
		free(text);
		check_grown(&before, &names);
		input += length + (end != NULL);
		size -= length + (end != NULL);
	}
	check(&names, &context);
	return 0;
}

#ifdef STANDALONE

enum { MOST_SIZE = 1 << 12 };

static uint64_t random_number(void)
{
	static uint64_t state = 0x2545f4914f6cdd1du; /* xorshift64: each run takes the same way */

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static size_t put(uint8_t *input, size_t size, const char *text)
{
	size_t length = text_length(text);

	length = length < MOST_SIZE - size ? length : MOST_SIZE - size;
	memcpy(input + size, text, length);
	return size + length;
}

static const struct op *any_rule(void)
{
	const struct op *rule;

	do
		rule = plan.ops + random_number() % plan.op_count;
	while (rule->code != OP_PROTOCOL);
	return rule;
}

static size_t put_piece(uint8_t *input, size_t size)
{
	static const char *const pieces[] = {"3", "4", "0", "2", "17", "4095", "4096", "65536", "2147483648",
					     "18446744073709551619", "99999999999999999999999999", "-1", "+3", "03",
					     ",", ":", ";", " ", "=", "/", "--", "x", "\xff", "\x80", "\n"};
	static uint8_t kind[2] = {0, 0};
	const char *first;

	switch (random_number() % 8) {
	case 0: /* a new text, by now and then an empty one */
		if (size < MOST_SIZE)
			input[size++] = 0;
		kind[0] = (uint8_t)(6 + random_number() % 6);
		return put(input, size, (const char *)kind);
	case 1:
		return put(input, size, op_text(&plan, any_rule()));
	case 2:
	case 3:
		first = op_text(&plan, any_rule());
		return put(input, size, first + text_length(first) + 1);
	default:
		return put(input, size, pieces[random_number() % (sizeof pieces / sizeof pieces[0])]);
	}
}

int main(int argc, char **argv)
{
	static uint8_t input[MOST_SIZE];
	unsigned long runs = argc == 2 && strncmp(argv[1], "-runs=", 6) == 0 ? strtoul(argv[1] + 6, NULL, 10) : 0;

	read_plan(&plan, OP_PROTOCOL);
	for (unsigned long run = 0; run < runs; run++) {
		size_t size = put(input, 0, "\x06");

		for (uint64_t pieces = random_number() % 40; pieces > 0; pieces--)
			size = put_piece(input, size);
		if (random_number() % 4 == 0)
			input[random_number() % size] ^= (uint8_t)(1u << random_number() % 8);
		LLVMFuzzerTestOneInput(input, size);
	}
	printf("%lu inputs\n", runs);
	return 0;
}

#endif
