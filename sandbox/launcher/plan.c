/* plan.c: checks a plan's bytes before anything is done with them. Pure; fuzzed (tests/native/fuzz_plan.c). */
#include "plan.h"

#include "entries.h"
#include "text.h"

#include <linux/fcntl.h>
#include <linux/resource.h>
#include <linux/sched.h>

enum {
	NAMESPACE_FLAGS = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | CLONE_NEWNET
};

enum data_kind { DATA_NONE, DATA_TEXT, DATA_FILTER, DATA_ARGV, DATA_PAIR, DATA_ADDRESS };

static const struct op_rule {
	uint16_t code;
	uint8_t data;
	uint32_t least, most;
	const char *step;
} rules[] = {
#define OP(name, code, step, least, most, data) {(code), DATA_##data, (least), (most), (step)},
#include "ops.def"
#undef OP
};

enum { RULE_COUNT = sizeof rules / sizeof rules[0] };

/* What only a template holds. */
static const struct op_rule items[] = {
#define ITEM(name, code, data, step) {(code), DATA_##data, 0, MAX_MOUNTS, (step)},
#include "template.def"
#undef ITEM
};

static const struct op_rule *rule_for(uint16_t code)
{
	for (const struct op_rule *rule = rules; rule < rules + RULE_COUNT; rule++)
		if (rule->code == code)
			return rule;
	return NULL;
}

static const struct op_rule *item_for(uint16_t code)
{
	for (const struct op_rule *item = items; item < items + sizeof items / sizeof items[0]; item++)
		if (item->code == code)
			return item;
	return rule_for(code);
}

const char *plan_step(uint16_t code)
{
	const struct op_rule *rule = item_for(code);

	return rule ? rule->step : "?";
}

const struct op *plan_find(const struct plan *plan, uint16_t code)
{
	for_ops(plan, op, code) return op;
	return NULL;
}

/* A multiply-and-rotate hash over 64-bit words: each step is a bijection of the state, so a change in one word
 * always shows. It finds damage, it is no protection from a forger; the caller's seals are. */
uint64_t plan_checksum(const void *bytes, size_t size, size_t skipped)
{
	const char *next = bytes;
	uint64_t hash = 0x9e3779b97f4a7c15u;

	for (size_t at = 0; at < size; at += 8) {
		uint64_t word;

		__builtin_memcpy(&word, next + at, 8);
		if (at == skipped)
			word = 0;
		hash = (hash ^ word) * 0xff51afd7ed558ccdu;
		hash = (hash << 29) | (hash >> 35);
	}
	return hash;
}

static const char *check_header(const struct plan_header *header, size_t size, const char *magic)
{
	uint64_t ops_end = sizeof *header + (uint64_t)header->op_count * sizeof(struct op);

	if (!text_same(header->magic, magic, sizeof header->magic))
		return "this is not a plan";
	if (header->version != PLAN_VERSION)
		return "it has another format version";
	if (header->size != size || size % 8 != 0)
		return "it is truncated";
	if (header->op_size != sizeof(struct op) || header->op_offset != sizeof *header)
		return "its ops have another layout";
	if (ops_end > size || header->data_offset != ops_end || header->data_size != size - ops_end)
		return "its areas do not fit";
	if ((header->flags & ~(PLAN_QUIET | PLAN_OBTAIN | PLAN_POINT)) || (header->reserved[0] | header->reserved[1] | header->reserved[2] | header->reserved[3]))
		return "a reserved field is used";
	if (header->data_size == 0)
		return "its data area is empty";
	if (plan_checksum(header, size, offsetof(struct plan_header, checksum)) != header->checksum)
		return "its checksum does not match";
	return NULL;
}

static const char *check_text(const struct plan *plan, uint32_t offset, uint32_t length)
{
	uint32_t room = plan->header->data_size;

	if (offset >= room || length >= room - offset)
		return "a text lies outside the data area";
	if (plan->data[offset + length] != '\0' || text_length(plan->data + offset) != length)
		return "a text is not ended where it should be";
	return NULL;
}

static const char *check_argv(const struct plan *plan, const struct op *op)
{
	uint32_t room = plan->header->data_size, count = 0;

	if (op->a == 0 && op->data_size == 0 && text_same(plan->header->magic, TEMPLATE_MAGIC, sizeof plan->header->magic))
		return NULL; /* the start's own follow */
	if (op->data >= room || op->data_size > room - op->data || op->data_size == 0)
		return "the arguments lie outside the data area";
	if (plan->data[op->data + op->data_size - 1] != '\0')
		return "the arguments are not ended";
	for (uint32_t at = 0; at < op->data_size; at++)
		count += plan->data[op->data + at] == '\0';
	if (count != op->a || count > MAX_ARGS)
		return "the number of arguments is wrong";
	return NULL;
}

/* Two texts, one behind the other. */
static const char *check_pair(const struct plan *plan, const struct op *op)
{
	uint32_t room = plan->header->data_size, count = 0;

	if (op->data >= room || op->data_size > room - op->data || op->data_size == 0)
		return "a pair of texts lies outside the data area";
	for (uint32_t at = 0; at < op->data_size; at++)
		count += plan->data[op->data + at] == '\0';
	if (count != 2 || plan->data[op->data + op->data_size - 1] != '\0')
		return "a pair of texts is not ended where it should be";
	return NULL;
}

static const char *check_filter(const struct plan *plan, const struct op *op)
{
	uint32_t room = plan->header->data_size;

	if (op->data >= room || op->data_size > room - op->data || op->data % 8 != 0)
		return "a filter lies outside the data area";
	if (op->data_size == 0 || op->data_size % 8 != 0 ||
	    op->data_size / 8 > MAX_FILTER_LENGTH - (op->code == OP_NOTIFY ? GATE_LENGTH : 0))
		return "a filter has a wrong size";
	return NULL;
}

/* Internet addresses, one behind the other, each as long as its family's; or one Unix address. */
static const char *check_addresses(const struct plan *plan, const struct op *op)
{
	uint32_t room = plan->header->data_size, left = op->data_size;
	const char *next = op_text(plan, op);

	if (op->data >= room || left > room - op->data)
		return "an address lies outside the data area";
	if (left < FAMILY_SIZE)
		return "an address is malformed";
	if (address_family(next) == FAMILY_UNIX) {
		uint32_t name = left - FAMILY_SIZE;

		if (name < 2 || name > UNIX_NAME_MAX)
			return "an address is malformed";
		/* A name without a file begins with NUL and ends where the size says; a path ends with its only NUL. */
		if (next[FAMILY_SIZE] != '\0' && (next[left - 1] != '\0' || text_length(next + FAMILY_SIZE) != name - 1))
			return "an address is malformed";
		return NULL;
	}
	while (left > 0) {
		unsigned family = left < FAMILY_SIZE ? 0 : address_family(next);
		uint32_t size = family == FAMILY_INET ? INET_SIZE : family == FAMILY_INET6 ? INET6_SIZE : 0;

		if (size == 0 || size > left)
			return "an address is malformed";
		next += size;
		left -= size;
	}
	return NULL;
}

static const char *check_data(const struct plan *plan, const struct op *op, uint8_t kind)
{
	switch (kind) {
	case DATA_TEXT:
		return check_text(plan, op->data, op->data_size);
	case DATA_ARGV:
		return check_argv(plan, op);
	case DATA_FILTER:
		return check_filter(plan, op);
	case DATA_PAIR:
		return check_pair(plan, op);
	case DATA_ADDRESS:
		return check_addresses(plan, op);
	default:
		return op->data || op->data_size ? "an op carries data that it does not take" : NULL;
	}
}

static bool is_socket_file(const struct plan *plan, const struct op *op)
{
	const char *address = op_text(plan, op);

	return op->code == OP_LISTEN && address_family(address) == FAMILY_UNIX && address[FAMILY_SIZE] != '\0';
}

static const char *check_listen(const struct plan *plan, const struct op *op)
{
	const char *address = op_text(plan, op);
	unsigned family = address_family(address);
	bool datagram = op->flags & LISTEN_DATAGRAM, mode = op->flags & LISTEN_MODE;

	if (op->flags & ~LISTEN_FLAGS || op->b > (mode ? 0777u : 0u) || (op->c == 0) != datagram || op->c > UINT16_MAX ||
	    (mode && !is_socket_file(plan, op)) || (op->flags & LISTEN_IPV6_ONLY && family != FAMILY_INET6) ||
	    (family == FAMILY_UNIX && op->flags & (LISTEN_DATAGRAM | LISTEN_REUSE_PORT)) ||
	    address_size(address, op->data_size) != op->data_size)
		return "a listening socket is unknown";
	return NULL;
}

static const char *check_rule(const struct plan *plan, const struct op *op)
{
	const char *address = op_text(plan, op);
	unsigned family = address_family(address);

	if (op->flags & ~NET_FLAGS || (op->flags & NET_DENY && op->flags & NET_BIND) || op->b > op->c || op->c > UINT16_MAX ||
	    family == FAMILY_UNIX || address_size(address, op->data_size) != op->data_size ||
	    op->a > (family == FAMILY_INET ? 32u : 128u))
		return "a rule is unknown";
	return NULL;
}

static const char *check_fields(const struct op *op, const struct plan *plan)
{
	const unsigned open_flags = O_ACCMODE | O_APPEND | O_CREAT | O_TRUNC;

	if ((op_obtains(op) || op->code == OP_SOCKET_OWNER) && op->a >= MAX_SLOTS)
		return "a slot is out of range";
	if (op->flags && op->code != OP_STDIO && op->code != OP_INHERIT && op->code != OP_FILE &&
	    op->code != OP_DIRECTORY && op->code != OP_DATA && op->code != OP_PROTOCOL && op->code != OP_PLACE &&
	    op->code != OP_MOUNT && op->code != OP_PATH_RULE && op->code != OP_LISTEN && op->code != OP_NET_RULE)
		return "an op carries flags that it does not take";
	switch (op->code) {
	case OP_STATUS:
		return (op->b == 1 || op->b == 2) && op->c <= TELL_ALL ? NULL : "the status format is unknown";
	case OP_TRACE:
		return !op->a || op->a > TELL_ALL ? "what is told of is unknown" : NULL;
	case OP_PROTOCOL:
		return op->flags > NAME_ANYWHERE || op->a < PLACE_VARIABLE || op->a > PLACE_CALLER_ARGUMENT || op->b < SHAPE_NUMBER ||
				       op->b > SHAPE_ALL
			       ? "a protocol rule is unknown"
			       : NULL;
	case OP_STDIO:
		return op->flags > 2 ? "a mode of streams is unknown" : NULL;
	case OP_INHERIT:
		return op->flags <= (OPEN_RELAY | ACCESS_BITS) && (op->flags & ACCESS_BITS) < ACCESS_COUNT && op->b <= INT32_MAX
			       ? NULL
			       : "an inherited descriptor is out of range";
	case OP_FILE:
		return op->flags & ~OPEN_RAW || op->b & ~open_flags || (op->b & O_ACCMODE) == O_ACCMODE || op->c > 0777
			       ? "open flags are unknown"
			       : NULL;
	case OP_DIRECTORY:
		return op->flags & ~(MOUNT_WRITE | MOUNT_EXECUTE) ? "a folder's flags are unknown" : NULL;
	case OP_SOCKET_OWNER:
		return op->b == UINT32_MAX || op->c == UINT32_MAX ? "an owner is out of range" : NULL;
	case OP_LISTEN:
		return check_listen(plan, op);
	case OP_CONNECT:
		return (op->b != SOCKET_STREAM && op->b != SOCKET_DATAGRAM) || (op->c != 0) != (op->b == SOCKET_STREAM)
			       ? "a connection is unknown"
			       : NULL;
	case OP_DATA:
		return op->flags > DATA_FILE || !op->flags != !op->b ? "data comes from an unknown place" : NULL;
	case OP_SCRATCH:
		return op->b ? NULL : "a scratch file has no size";
	case OP_PLACE:
		return op->flags > PLACE_PROPAGATE || op->a >= MAX_SLOTS || op->b < FIRST_NUMBER || op->b > LAST_NUMBER ? "a number is out of range" : NULL;
	case OP_TIMEOUT:
		return op->a ? NULL : "a time limit is out of range";
	case OP_TERMINAL:
		return op->a < TERMINAL_NONE || op->a > TERMINAL_INHERIT ? "a terminal's mode is unknown" : NULL;
	case OP_NAMESPACE: /* one bit */
		return !op->a || op->a & (op->a - 1) || op->a & ~(uint32_t)NAMESPACE_FLAGS ? "a namespace is unknown" : NULL;
	case OP_MOUNT:
		return op->flags & ~MOUNT_FLAGS || op->a < MOUNT_BIND || op->a > MOUNT_HIDE || op->b > 07777 ||
				       op_text(plan, op)[0] != '/'
			       ? "a mount is unknown"
			       : NULL;
	case OP_RLIMIT:
		return op->a >= RLIM_NLIMITS ? "a limit is unknown" : NULL;
	case OP_SCHEDULING:
		return op->a > 5 || op->b > 39 ? "a scheduling policy is unknown" : NULL;
	case OP_OOM_SCORE:
		return op->a > 2000 ? "an oom score is out of range" : NULL;
	case OP_PATH_RULE:
		return op->flags > RULE_FOLDER ? "a path rule is unknown" : NULL;
	case OP_PORT_RULE:
		return op->b > 65535 ? "a port is out of range" : NULL;
	case OP_ALLOW_LIST:
		return op->a & ~(uint32_t)LIST_FLAGS ? "an allow-list is unknown" : NULL;
	case OP_NET_RULE:
		return check_rule(plan, op);
	case OP_NETNS:
		return op->a < FIRST_NUMBER || op->a > INT32_MAX || op->b > INT32_MAX || (op->b && op->b < FIRST_NUMBER) ||
				       op->a == op->b || op->c
			       ? "a network is out of range"
			       : NULL;
	case OP_TEXT_FILE:
		return op_text(plan, op)[0] != '/' ? "a text has no place" : NULL;
	case OP_MANAGER:
		return op_text(plan, op)[0] != '/' ? "a manager's socket has no place" : NULL;
	case OP_STORE:
		return op->data_size == 0 || op->data_size > MAX_STORED_NAME ? "a stored name is none" : NULL;
	case OP_GATE:
		return op->a > GATE_OBSERVE ? "a gate's mode is unknown" : NULL;
	case OP_UMASK:
		return op->a > 0777 ? "the umask is out of range" : NULL;
	case OP_ENV_DROP:
	case OP_ENV_PID:
		return op->data_size == 0 || text_find(op_text(plan, op), '=') >= 0 ? "a variable's name is none" : NULL;
	case OP_ENV_SET:
		return text_find(op_text(plan, op), '=') > 0 ? NULL : "a variable has no name";
	default:
		return NULL;
	}
}

/* Each owner is that of one socket file. */
static const char *check_owners(const struct plan *plan)
{
	bool owned[MAX_SLOTS] = {false};

	for_ops(plan, owner, OP_SOCKET_OWNER)
	{
		bool found = false;

		for_ops(plan, op, OP_LISTEN) found = found || (op->a == owner->a && is_socket_file(plan, op));
		if (!found || owned[owner->a])
			return "an owner is of no socket file, or of one that has two";
		owned[owner->a] = true;
	}
	return NULL;
}

/* Every slot is filled once and placed once; sources and numbers ascend, so that none comes twice. */
static const char *check_slots(const struct plan *plan)
{
	uint8_t filled[MAX_SLOTS] = {0};
	int64_t last_source = -1, last_number = -1;
	const struct op *status = plan_find(plan, OP_STATUS);
	bool placing = !(plan->header->flags & PLAN_OBTAIN);

	for (const struct op *op = plan->ops; op < plan->ops + plan->op_count; op++) {
		if (op->code == OP_INHERIT) {
			if (op->b <= last_source || (status && status->a == op->b))
				return "a descriptor is used twice";
			last_source = op->b;
		}
		if (op_obtains(op) && filled[op->a]++ != 0)
			return "a slot is filled twice";
		if (op->code == OP_PLACE) {
			if (op->b <= last_number)
				return "a number is used twice";
			last_number = op->b;
			if (filled[op->a]++ != 1)
				return "a slot is placed that is not filled, or twice";
		}
	}
	for (int slot = 0; placing && slot < MAX_SLOTS; slot++)
		if (filled[slot] == 1)
			return "a slot is filled and not placed";
	return NULL;
}

/* A plan that only obtains: its ops' descriptors go to whoever started the launcher, and no step follows. */
static const char *check_obtaining(const struct plan *plan)
{
	uint32_t count = 0;

	for (const struct op *op = plan->ops; op < plan->ops + plan->op_count; op++) {
		if (!op_obtains(op) && op->code != OP_STATUS)
			return "an op has no place in a plan that only obtains";
		count += op_obtains(op);
	}
	return count ? NULL : "a mandatory op is missing";
}

/* What a network is joined by is nothing else. */
static const char *check_joined(const struct plan *plan)
{
	const struct op *joined = plan_find(plan, OP_NETNS), *status = plan_find(plan, OP_STATUS);

	if (!joined)
		return NULL;
	for_ops(plan, op, OP_INHERIT) if (op->b == joined->a || (joined->b && op->b == joined->b))
		return "a descriptor is used twice";
	if (status && (status->a == joined->a || (joined->b && status->a == joined->b)))
		return "a descriptor is used twice";
	return NULL;
}

/* The supervisor is asked, and has rules to answer by, or neither. */
static const char *check_list(const struct plan *plan)
{
	const struct op *list = plan_find(plan, OP_ALLOW_LIST);

	if (!list != !plan_find(plan, OP_NOTIFY) || (!list && plan_find(plan, OP_NET_RULE)))
		return "an allow-list is incomplete";
	return NULL;
}

static const char *check_counts(const struct plan *plan)
{
	bool whole = !(plan->header->flags & PLAN_OBTAIN);

	for (const struct op_rule *rule = rules; rule < rules + RULE_COUNT; rule++) {
		uint32_t count = 0;

		for_ops(plan, op, rule->code) count++;
		if (count > rule->most)
			return "an op comes too often";
#ifndef TEST_PARTIAL_PLANS /* the mutation tests drop ops; no installed launcher is built so */
		if (whole && count < rule->least)
			return "a mandatory op is missing";
#endif
	}
	if (!whole)
		return check_obtaining(plan);
#ifndef TEST_PARTIAL_PLANS
	if (!plan_find(plan, OP_GATE) && !plan_find(plan, OP_EXEC_ONCE)) /* later execs are watched, or there are none */
		return "a mandatory op is missing";
#endif
	return NULL;
}

/* What holds of plans and templates: areas, order, and that what a record refers to lies in the data. */
static const char *check_records(struct plan *plan, const void *bytes, size_t size, const char *magic,
				 const struct op_rule *(*find)(uint16_t code))
{
	const char *wrong;
	uint16_t last = 0;

	if (size < sizeof(struct plan_header) || size > PLAN_MAX_SIZE)
		return "its size is impossible";
	plan->header = bytes;
	wrong = check_header(plan->header, size, magic);
	if (wrong)
		return wrong;
	plan->ops = (const struct op *)((const char *)bytes + sizeof(struct plan_header));
	plan->op_count = plan->header->op_count;
	plan->data = (const char *)bytes + plan->header->data_offset;
	if (plan->data[plan->header->data_size - 1] != '\0')
		return "its data area is not ended";
	for (const struct op *op = plan->ops; op < plan->ops + plan->op_count; op++) {
		const struct op_rule *rule = find(op->code);

		if (!rule)
			return "an op is unknown";
		if (op->code < last)
			return "an op is out of order";
		last = op->code;
		if (op->label >= plan->header->data_size || op->hint >= plan->header->data_size)
			return "a message lies outside the data area";
		wrong = check_data(plan, op, rule->data);
		if (!wrong && find == rule_for)
			wrong = check_fields(op, plan);
		if (wrong)
			return wrong;
	}
	return NULL;
}

const char *plan_check(struct plan *plan, const void *bytes, size_t size)
{
	const char *wrong = check_records(plan, bytes, size, PLAN_MAGIC, rule_for);

	wrong = wrong ? wrong : check_counts(plan);
	wrong = wrong ? wrong : check_list(plan);
	wrong = wrong ? wrong : check_joined(plan);
	wrong = wrong ? wrong : check_slots(plan);
	return wrong ? wrong : check_owners(plan);
}

const char *plan_check_template(struct plan *template, const void *bytes, size_t size)
{
	const char *wrong = check_records(template, bytes, size, TEMPLATE_MAGIC, item_for);

	for (const struct op *op = template->ops; !wrong && op < template->ops + template->op_count; op++)
		if (op->code == ITEM_ENTRY && (op->a >= ENTRY_KINDS || op_text(template, op)[0] != '/' ||
					       !plan_find(template, ITEM_VIEW)))
			wrong = "an entry of the view is unknown";
	return wrong;
}
