/* plan.h: the plan's bytes (docs/plan-format.md), and the check that every other file relies on. */
#ifndef PLAN_H
#define PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PLAN_MAGIC "SBXPLAN\n"
#define TEMPLATE_MAGIC "SBXTMPL\n"
#define PLAN_VERSION 1
#define PLAN_MAX_SIZE (16u << 20)
#define PLAN_QUIET 1u  /* flags: failures go to the status descriptor only, not to standard error */
#define PLAN_POINT 256u /* flags: a command that ends with another code than 0 gets a line on where to read on */
#define PLAN_OBTAIN 2u /* flags: nothing is started; what the ops obtain is sent over a socket (--obtain) */

enum { MAX_SLOTS = 512, MAX_ENV_OPS = 4096, MAX_FILTERS = 4, MAX_COMMANDS = 64, MAX_ARGS = 1 << 18, MAX_PROTOCOLS = 256 };
enum { MAX_NAMESPACES = 7, MAX_CGROUP_SETTINGS = 16, MAX_MOUNTS = 1024, MAX_RLIMITS = 16, MAX_PATH_RULES = 2048, MAX_PORT_RULES = 1024 };
enum { MAX_PID_VARIABLES = 2, MAX_NET_RULES = 1024, MAX_TEXT_FILES = 4, MAX_STORED_NAME = 255 };
enum { FIRST_NUMBER = 3, LAST_NUMBER = 65535, MAX_FILTER_LENGTH = 4096 };
enum { GATE_LENGTH = 25 }; /* of the exec gate's program, in front of NOTIFY's */

enum op_code {
#define OP(name, code, step, least, most, data) OP_##name = (code),
#include "ops.def"
#undef OP
};

/* What a template holds besides ops; template.h. */
enum item_code {
#define ITEM(name, code, data, step) ITEM_##name = (code),
#include "template.def"
#undef ITEM
};

/* The access an INHERIT op demands, in its flags; 0 demands nothing. */
enum { ACCESS_ANY, ACCESS_READ, ACCESS_WRITE, ACCESS_APPEND, ACCESS_READ_WRITE, ACCESS_COUNT };

#define ACCESS_BITS 7u
#define OPEN_RAW 8u /* flags of INHERIT and FILE: the open file as it is, not one opened anew through a mount of its own */
#define OPEN_RELAY 16u /* flags of INHERIT: the supervisor copies, one way */

#define DATA_FILE 1u /* flags of DATA: the text is the path of a file to copy */

/* What a protocol rule looks at (op field a) and how the numbers stand behind the needle (op field b). */
enum name_place {
	PLACE_VARIABLE = 1,
	PLACE_ARGUMENT = 2,
	PLACE_NEXT_ARGUMENT = 3,
	PLACE_PROGRAM = 4,
	PLACE_CALLER_ARGUMENT = 5, /* of the program that executes, not of the one that is executed */
};
enum name_shape { SHAPE_NUMBER = 1, SHAPE_LIST = 2, SHAPE_COUNT = 3, SHAPE_FIXED = 4, SHAPE_ALL = 5 };
#define NAME_ANYWHERE 1u /* op flags: the needle may stand anywhere in the text, not only at its start */

/* Op flags of PLACE, and field a of GATE. */
#define PLACE_PROPAGATE 1u /* the grant passes at every exec while it is still the same open file */
#define GATE_OBSERVE 1u	   /* report what goes along, close nothing: sandbox survey */

/* Flags of LISTEN: how the socket is made, and that field b is the mode of its file. */
#define LISTEN_REUSE_PORT 1u
#define LISTEN_IPV6_ONLY 2u
#define LISTEN_DATAGRAM 4u
#define LISTEN_MODE 8u
#define LISTEN_FLAGS 15u

/* Flags of NET_RULE: it denies, it is about bind(2), about UDP; field a of ALLOW_LIST: datagram sockets are the
 * supervisor's, the sandbox has a loopback of its own, Landlock does not hold TCP; what STATUS (field c) and TRACE (field
 * a) tell of. */
enum { NET_DENY = 1, NET_BIND = 2, NET_UDP = 4, NET_FLAGS = 7 };
enum { LIST_UDP = 1, LIST_LOOPBACK = 2, LIST_UNGOVERNED = 4, LIST_FLAGS = 7 };
enum { TELL_EXECS = 1, TELL_NETWORK = 2, TELL_ALL = 3 };

/* Field b of CONNECT; as socket(2) has them. */
enum socket_kind { SOCKET_STREAM = 1, SOCKET_DATAGRAM = 2 };

/* The families that a plan's addresses are of (linux/socket.h), and the sizes of struct sockaddr_in and sockaddr_in6; a
 * Unix address is as long as its name. */
enum { FAMILY_UNIX = 1, FAMILY_INET = 2, FAMILY_INET6 = 10, FAMILY_SIZE = 2 };
enum { INET_SIZE = 16, INET6_SIZE = 28, UNIX_NAME_MAX = 108 };

/* Field a of TERMINAL. */
enum terminal { TERMINAL_NONE = 1, TERMINAL_PRIVATE = 2, TERMINAL_INHERIT = 3 };

/* Field a of MOUNT, its flags, and of BIND and COPY what the mount allows. */
enum mount_kind { MOUNT_BIND = 1, MOUNT_TMPFS = 2, MOUNT_COPY = 3, MOUNT_DEV = 4, MOUNT_PROC = 5, MOUNT_HIDE = 6 };
enum { MOUNT_TEXT = MOUNT_HIDE + 1, MOUNT_SOCKET }; /* what a TEXT_FILE and a MANAGER op are beside them */
#define MOUNT_WRITE 1u
#define MOUNT_EXECUTE 2u
#define MOUNT_OPTIONAL 4u     /* BIND, COPY, HIDE: skip what is not there */
#define MOUNT_TERMINALS 8u    /* DEV: with pts and ptmx */
#define MOUNT_PROCESSES 16u   /* PROC: only the folders of processes (subset=pid) */
#define MOUNT_FLAGS 31u

/* PATH_RULE: skip what is not there; what descriptor `c` refers to, with no right that it lacks itself; the folder that
 * `c` stands for, with these rights. */
enum { RULE_OPTIONAL = 1, RULE_DESCRIPTOR = 2, RULE_FOLDER = 3 };

struct plan_header {
	char magic[8];
	uint32_t version;
	uint32_t flags;
	uint64_t checksum; /* of all bytes, this field taken as zero */
	uint32_t size;
	uint32_t op_size;
	uint32_t op_count;
	uint32_t op_offset;
	uint32_t data_offset;
	uint32_t data_size;
	uint32_t reserved[4];
};

struct op {
	uint16_t code;
	uint16_t flags;
	uint32_t a, b, c;
	uint32_t data, data_size; /* offset into the data area; the size excludes a text's NUL */
	uint32_t label, hint;	  /* offsets of NUL-terminated texts for messages */
};

_Static_assert(sizeof(struct plan_header) == 64, "docs/plan-format.md");
_Static_assert(sizeof(struct op) == 32, "docs/plan-format.md");

struct plan {
	const struct plan_header *header;
	const struct op *ops;
	uint32_t op_count;
	const char *data;
};

/* Check `size` bytes and point `plan` into them. Post: every offset, count, order and text that any op uses is
 * valid, so that nothing is checked again. Returns NULL, or what is wrong. Pure: no system call, no output. */
const char *plan_check(struct plan *plan, const void *bytes, size_t size);

/* Check a template's bytes in the same way, as far as they are read to make a plan of them (template.h), whose bytes
 * plan_check() gets. */
const char *plan_check_template(struct plan *template, const void *bytes, size_t size);

/* Of bytes with the word at offset `skipped`, the checksum's own, taken as zero; both are multiples of 8. */
uint64_t plan_checksum(const void *bytes, size_t size, size_t skipped);

const char *plan_step(uint16_t code); /* the step's name for messages, or "?" */
const struct op *plan_find(const struct plan *plan, uint16_t code);

/* Whether the op fills a slot: all of its phase do but STDIO, which keeps what is there, and SOCKET_OWNER. */
static inline bool op_obtains(const struct op *op)
{
	return op->code > OP_STDIO && op->code >> 8 == OP_STDIO >> 8 && op->code != OP_SOCKET_OWNER;
}

static inline const char *op_text(const struct plan *plan, const struct op *op)
{
	return plan->data + op->data;
}

/* An address of an op: its family, and its size where `room` bytes of data are left. Pre: the op was checked. */
static inline unsigned address_family(const char *address)
{
	return (unsigned char)address[0] | (unsigned)(unsigned char)address[1] << 8;
}

static inline uint32_t address_size(const char *address, uint32_t room)
{
	unsigned family = address_family(address);

	return family == FAMILY_INET ? INET_SIZE : family == FAMILY_INET6 ? INET6_SIZE : room;
}

/* for (each op of that code) */
#define for_ops(plan, each, wanted)                                                                                    \
	for (const struct op *each = (plan)->ops; each < (plan)->ops + (plan)->op_count; each++)                      \
		if (each->code == (wanted))

#endif
