/* fuzz_plan.c: feeds mutated plans to plan_check and, when it accepts, uses all that the launcher would use.
 *
 * With libFuzzer: clang -fsanitize=fuzzer. Without: -DSTANDALONE gives a main() that takes
 * [-runs=N] FILE... and runs each file and then N mutations of them, as afl-fuzz and plain sanitizer builds want it.
 * A mutation hardly ever hits its own checksum, so every input runs twice, the second time with its frame put right. */
#include "plan.h"
#include "text.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static void demand(bool holds)
{
	if (!holds)
		abort();
}

static uint32_t count_of(const struct plan *plan, uint16_t code)
{
	uint32_t count = 0;

	for_ops(plan, op, code) count++;
	return count;
}

static size_t use_data(const struct plan *plan, const struct op *op)
{
	const char *text = op_text(plan, op);
	size_t used = 0;

	switch (op->code) {
	case OP_FILTER:
	case OP_NOTIFY:
		demand(op->data_size / 8 <= MAX_FILTER_LENGTH - (op->code == OP_NOTIFY ? GATE_LENGTH : 0));
		for (uint32_t at = 0; at < op->data_size; at++)
			used += (unsigned char)text[at];
		return used;
	case OP_EXEC:
		for (uint32_t i = 0; i < op->a; i++) {
			used += text_length(text) + 1;
			text += text_length(text) + 1;
		}
		demand(used == op->data_size);
		return used;
	case OP_PROTOCOL:
		demand(op->a >= PLACE_VARIABLE && op->a <= PLACE_CALLER_ARGUMENT && op->b >= SHAPE_NUMBER && op->b <= SHAPE_ALL);
		/* fall through */
	case OP_CGROUP_SET:
	case OP_TEXT_FILE:
		demand(op->code != OP_TEXT_FILE || text[0] == '/');
		used = text_length(text) + 1;
		used += text_length(text + used) + 1;
		demand(used == op->data_size);
		return used;
	case OP_MANAGER:
		demand(text[0] == '/');
		return text_length(text);
	case OP_STORE:
		demand(op->data_size > 0 && op->data_size <= MAX_STORED_NAME);
		return text_length(text);
	case OP_MOUNT:
		demand(text[0] == '/' && op->a >= MOUNT_BIND && op->a <= MOUNT_HIDE && op->b <= 07777);
		return text_length(text);
	case OP_NET_RULE: /* all that network.c reads of it is there */
		demand(address_family(text) == FAMILY_INET ? op->data_size == INET_SIZE && op->a <= 32
							   : address_family(text) == FAMILY_INET6 && op->data_size == INET6_SIZE && op->a <= 128);
		demand(op->b <= op->c && op->c <= UINT16_MAX && !(op->flags & ~NET_FLAGS));
		for (uint32_t at = 0; at < op->data_size; at++)
			used += (unsigned char)text[at];
		return used;
	case OP_LISTEN:
	case OP_CONNECT:
		demand(op->data_size >= FAMILY_SIZE && op->a < MAX_SLOTS);
		while (used < op->data_size) {
			uint32_t size = address_size(text + used, op->data_size - (uint32_t)used);
			volatile char byte;

			demand(size <= op->data_size - used && size > FAMILY_SIZE);
			for (uint32_t at = 0; at < size; at++)
				byte = text[used + at], (void)byte;
			if (address_family(text + used) == FAMILY_UNIX && text[used + FAMILY_SIZE])
				demand(text_length(text + used + FAMILY_SIZE) + FAMILY_SIZE + 1 == size);
			used += size;
		}
		demand(op->code == OP_CONNECT || used == address_size(text, op->data_size));
		return used;
	case OP_ENV_DROP:
	case OP_ENV_PID:
		demand(text_find(text, '=') < 0 && op->data_size > 0);
		return text_length(text);
	case OP_ENV_SET:
		demand(text_find(text, '=') > 0);
		return text_length(text);
	default:
		demand(text_length(text) == op->data_size || op->data_size == 0);
		return text_length(text);
	}
}

/* The post-condition of plan_check, in the words of docs/plan-format.md. */
static void use(const struct plan *plan)
{
	static const uint16_t once[] = {OP_STDIO, OP_SWEEP, OP_VERIFY, OP_SIGNALS, OP_UMASK, OP_NO_NEW_PRIVS, OP_EXEC,
					OP_CAPABILITIES, OP_RESET};
	uint32_t filled = 0, placed = 0;
	uint16_t last = 0;
	size_t used = 0;

	bool whole = !(plan->header->flags & PLAN_OBTAIN);

	for (size_t i = 0; i < sizeof once / sizeof once[0]; i++)
		demand(!whole || count_of(plan, once[i]) == 1);
	demand(!whole || (count_of(plan, OP_FILTER) >= 1 && count_of(plan, OP_COMMAND) >= 1));
	demand(!whole || count_of(plan, OP_GATE) + count_of(plan, OP_EXEC_ONCE) >= 1);
	demand(count_of(plan, OP_GATE) <= 1);
	demand(count_of(plan, OP_PROTOCOL) <= MAX_PROTOCOLS);
	demand(count_of(plan, OP_ALLOW_LIST) <= 1 && count_of(plan, OP_NOTIFY) == count_of(plan, OP_ALLOW_LIST));
	demand(count_of(plan, OP_NET_RULE) <= (count_of(plan, OP_ALLOW_LIST) ? MAX_NET_RULES : 0));
	for (const struct op *op = plan->ops; op < plan->ops + plan->op_count; op++) {
		demand(op->code >= last);
		last = op->code;
		used += text_length(plan->data + op->label) + text_length(plan->data + op->hint) + use_data(plan, op);
		filled += op_obtains(op);
		placed += op->code == OP_PLACE;
		demand(op->code != OP_PLACE || (op->b >= FIRST_NUMBER && op->b <= LAST_NUMBER && op->a < MAX_SLOTS));
	}
	demand(whole ? filled == placed : filled > 0 && !placed);
	demand(filled <= MAX_SLOTS);
	demand(used < SIZE_MAX);
}

static void run(const unsigned char *bytes, size_t size)
{
	struct plan plan;

	if (!plan_check(&plan, bytes, size))
		use(&plan);
}

/* docs/plan-format.md, "Checksum" */
static uint64_t checksum(const unsigned char *bytes, size_t size)
{
	uint64_t hash = 0x9e3779b97f4a7c15u, word;

	for (size_t at = 0; at + 8 <= size; at += 8) {
		memcpy(&word, bytes + at, 8);
		hash = (hash ^ (at == 16 ? 0 : word)) * 0xff51afd7ed558ccdu;
		hash = (hash << 29) | (hash >> 35);
	}
	return hash;
}

static void put_frame_right(unsigned char *bytes, size_t size)
{
	struct plan_header header;
	uint64_t ops_end;

	if (size < sizeof header)
		return;
	memcpy(&header, bytes, sizeof header);
	ops_end = sizeof header + (uint64_t)header.op_count * sizeof(struct op);
	memcpy(header.magic, PLAN_MAGIC, sizeof header.magic);
	header.version = PLAN_VERSION;
	header.flags &= PLAN_QUIET | PLAN_OBTAIN | PLAN_POINT;
	header.size = (uint32_t)size;
	header.op_size = sizeof(struct op);
	header.op_offset = sizeof header;
	if (ops_end <= size) {
		header.data_offset = (uint32_t)ops_end;
		header.data_size = (uint32_t)(size - ops_end);
	}
	memset(header.reserved, 0, sizeof header.reserved);
	memcpy(bytes, &header, sizeof header);
	if (ops_end < size)
		bytes[size - 1] = 0;
	header.checksum = checksum(bytes, size);
	memcpy(bytes, &header, sizeof header);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	unsigned char *bytes = calloc(1, size ? size : 1); /* of exactly that size and aligned, as the launcher's mapping is */

	demand(bytes != NULL);
	if (size)
		memcpy(bytes, input, size);
	run(bytes, size);
	size -= size % 8;
	free(bytes);
	bytes = calloc(1, size ? size : 1);
	demand(bytes != NULL);
	if (size)
		memcpy(bytes, input, size);
	put_frame_right(bytes, size);
	run(bytes, size);
	free(bytes);
	return 0;
}

#ifdef STANDALONE

#include <stdio.h>

enum { MOST_SEEDS = 256, MOST_SIZE = 1 << 16 };

static struct seed {
	unsigned char *bytes;
	size_t size;
} seeds[MOST_SEEDS];

static uint64_t random_number(void)
{
	static uint64_t state = 0x2545f4914f6cdd1du; /* xorshift64: each run takes the same way */

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static void read_seed(struct seed *seed, const char *path)
{
	FILE *file = fopen(path, "rb");

	seed->bytes = malloc(MOST_SIZE);
	demand(file && seed->bytes);
	seed->size = fread(seed->bytes, 1, MOST_SIZE, file);
	fclose(file);
}

static void mutate(unsigned char *bytes, size_t *size)
{
	static const uint32_t numbers[] = {0, 1, 2, 7, 8, 31, 32, 64, 511, 512, 65535, 0x7fffffff, 0x80000000u, ~0u};
	size_t at = *size ? random_number() % *size : 0;

	switch (random_number() % 4) {
	case 0:
		bytes[at] ^= (unsigned char)(1u << random_number() % 8);
		break;
	case 1: /* a field */
		if ((at & ~(size_t)3) + 4 <= *size)
			memcpy(bytes + (at & ~(size_t)3), &numbers[random_number() % 14], 4);
		break;
	case 2: /* an op over another */
		if (*size >= 128)
			memmove(bytes + 64 + 32 * (random_number() % (*size / 32 - 2)),
				bytes + 64 + 32 * (random_number() % (*size / 32 - 2)), 32);
		break;
	default:
		if (random_number() % 8 == 0)
			*size = at;
	}
}

int main(int argc, char **argv)
{
	static unsigned char bytes[MOST_SIZE];
	unsigned long runs = 0;
	int count = 0;

	for (int i = 1; i < argc && count < MOST_SEEDS; i++) {
		if (strncmp(argv[i], "-runs=", 6) == 0) {
			runs = strtoul(argv[i] + 6, NULL, 10);
			continue;
		}
		read_seed(&seeds[count], argv[i]);
		LLVMFuzzerTestOneInput(seeds[count].bytes, seeds[count].size);
		count++;
	}
	for (unsigned long run_number = 0; count && run_number < runs; run_number++) {
		const struct seed *seed = &seeds[random_number() % (uint64_t)count];
		size_t size = seed->size;

		memcpy(bytes, seed->bytes, size);
		for (uint64_t changes = 1 + random_number() % 4; changes > 0; changes--)
			mutate(bytes, &size);
		LLVMFuzzerTestOneInput(bytes, size);
	}
	printf("%d seeds, %lu mutations\n", count, runs);
	return count == 0;
}

#endif
