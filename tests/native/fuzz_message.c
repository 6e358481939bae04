/* fuzz_message.c: lets the supervisor copy messages out of hostile memory: headers, parts, names and ancillary data that
 * overlap, wrap, lie outside, or have sizes that are none. What is let through is then read once more, in other words.
 *
 * The memory is an arena of the harness's own, behind stand-ins for target.c and process_vm_readv(2), which copy of it
 * what is there; descriptors are numbers that it hands out and takes back. With libFuzzer: clang -fsanitize=fuzzer.
 * Without: -DSTANDALONE gives a main() that takes -runs=N. */
#define _POSIX_C_SOURCE 200112L /* libc's headers must not declare what the kernel's do */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "source.h"
#include "sys.h"

#include <linux/uio.h>

static long read_parts_of(long parts, long count, char *to, size_t size);
static int give_back(int fd);

/* The one call that message_copy.c makes with six arguments to read, and the one that closes. */
#define sys6(nr, pid, local, locals, remote, count, flags) \
	((void)(pid), (void)(locals), (nr) == __NR_process_vm_readv \
		? read_parts_of(remote, count, ((const struct iovec *)(local))->iov_base, ((const struct iovec *)(local))->iov_len) \
		: -EFAULT)
#define sys_close give_back
#include "message_copy.c" /* for what is static there */
#undef sys6
#undef sys_close

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

enum { ARENA = 1 << 19, BASE = 1 << 20, FIRST_COPY = 1000, OPEN_BELOW = 200 };

static uint8_t arena[ARENA]; /* which the program has at BASE */
static bool is_out[FIRST_COPY + RIGHTS_MAX + 1];
static int taken;
static struct message_copy *filled;

static void demand(bool holds)
{
	if (!holds)
		abort();
}

/* As process_vm_readv(2): what is there before the first byte that is not. */
long target_read(int pid, uint64_t from, void *to, size_t size)
{
	(void)pid;
	demand(to != filled->control || size <= CONTROL_MAX);
	demand(to != filled->name || size <= ADDRESS_MAX);
	if (from < BASE || from >= BASE + ARENA)
		return size ? -EFAULT : 0;
	if (size > BASE + ARENA - from)
		size = BASE + ARENA - from;
	memcpy(to, arena + (from - BASE), size);
	return (long)size;
}

static long read_parts_of(long remote, long count, char *to, size_t size)
{
	size_t done = 0;

	demand(count >= 0 && count <= 1024 && size <= PAYLOAD_MAX);
	for (long i = 0; i < count && done < size; i++) {
		struct iovec part = ((const struct iovec *)remote)[i];
		size_t wanted = part.iov_len < size - done ? part.iov_len : size - done;
		long copied = wanted ? target_read(0, (uint64_t)(uintptr_t)part.iov_base, to + done, wanted) : 0;

		done += copied > 0 ? (size_t)copied : 0;
		if (copied != (long)wanted)
			return done ? (long)done : -EFAULT;
	}
	return (long)done;
}

int target_take(struct target *target, uint32_t number)
{
	(void)target;
	if (number >= OPEN_BELOW)
		return -EBADF;
	demand(taken < RIGHTS_MAX);
	is_out[FIRST_COPY + taken] = true;
	return FIRST_COPY + taken++;
}

static int give_back(int fd)
{
	demand(fd >= FIRST_COPY && fd < FIRST_COPY + taken && is_out[fd]);
	is_out[fd] = false;
	return 0;
}

/* What ip(7), ipv6(7) and udp(7) have that changes neither the way nor the interface of a datagram. */
static bool is_harmless(int32_t level, int32_t type, const uint8_t *data, size_t size)
{
	static const uint8_t none[4];

	if (level == 0 && type == 8) /* IP_PKTINFO */
		return size >= 12 && memcmp(data, none, 4) == 0;
	if (level == 41 && type == 50) /* IPV6_PKTINFO */
		return size >= 20 && memcmp(data + 16, none, 4) == 0;
	/* IP_TOS, IP_TTL, IPV6_TCLASS, IPV6_HOPLIMIT, UDP_SEGMENT */
	return (level == 0 && (type == 1 || type == 2)) || (level == 41 && (type == 67 || type == 52)) || (level == 17 && type == 103);
}

/* Whether ancillary data is such as may go along. */
static bool may_go(const uint8_t *control, size_t room, unsigned family, bool is_stream)
{
	size_t descriptors = 0;

	for (size_t at = 0; at < room && room - at >= 16;) {
		uint64_t size;
		int32_t level, type;

		memcpy(&size, control + at, 8);
		memcpy(&level, control + at + 8, 4);
		memcpy(&type, control + at + 12, 4);
		if (size < 16 || size > room - at || (family == FAMILY_UNIX && (level != 1 || type != 1)) ||
		    (family != FAMILY_UNIX && !is_stream && !is_harmless(level, type, control + at + 16, size - 16)))
			return false;
		descriptors += (size - 16) / 4;
		at += (size + 7) / 8 * 8;
	}
	return family != FAMILY_UNIX || descriptors <= RIGHTS_MAX;
}

/* Ancillary data that was let through, as the kernel walks it (CMSG_OK, __cmsg_nxthdr). */
static void check_control_of(const struct message_copy *copy, const uint8_t *before, unsigned family)
{
	int descriptors = 0;

	for (size_t at = 0; at < copy->control_size && copy->control_size - at >= 16;) {
		uint64_t size;
		int32_t fd;
		uint32_t number;

		memcpy(&size, copy->control + at, 8);
		demand(memcmp(copy->control + at, before + at, 16) == 0);
		for (size_t inside = 16; family == FAMILY_UNIX && inside + 4 <= size; inside += 4, descriptors++) {
			memcpy(&fd, copy->control + at + inside, 4);
			memcpy(&number, before + at + inside, 4);
			demand(fd == FIRST_COPY + descriptors && fd == copy->rights[descriptors] && number < OPEN_BELOW);
		}
		at += (size + 7) / 8 * 8;
	}
	demand(descriptors == (int)copy->rights_count && descriptors == taken);
}

/* The payload is what a plain walk over the parts finds. */
static void check_payload(const struct message_copy *copy, const struct sys_message *header)
{
	size_t done = 0;

	for (size_t i = 0; i < header->part_count && done < copy->size; i++) {
		struct iovec part;

		demand(target_read(0, (uint64_t)(uintptr_t)header->parts + i * sizeof part, &part, sizeof part) == sizeof part);
		for (size_t at = 0; at < part.iov_len && done < copy->size; at++, done++)
			demand(payload[done] == arena[(uint64_t)(uintptr_t)part.iov_base + at - BASE]);
	}
	demand(done == copy->size);
}

static void check_copied(struct message_copy *copy, const struct sys_message *header)
{
	struct sys_message copied = message_copied(copy);

	demand(copied.part_count == 1 && copied.parts->iov_base == payload && copied.parts->iov_len == copy->size);
	demand(copied.control_size == copy->control_size && copied.control_size <= CONTROL_MAX && !copied.flags);
	demand(!copied.control == !copied.control_size && (!copied.control || copied.control == copy->control));
	demand(copied.name_size <= ADDRESS_MAX && !copied.name == !copied.name_size);
	demand(copied.name_size == (header->name ? header->name_size < ADDRESS_MAX ? header->name_size : (uint32_t)ADDRESS_MAX : 0));
	for (size_t at = 0; at < ADDRESS_MAX; at++)
		demand(copy->name[at] == (at < copied.name_size ? arena[(uint64_t)(uintptr_t)header->name + at - BASE] : 0));
	check_payload(copy, header);
}

static bool is_wild; /* places and sizes are any, and not only such as may do */

static uint64_t any_place(struct source *source)
{
	switch (is_wild ? next(source) % 32 : 32) {
	case 0: return BASE + ARENA - next(source) % 64;
	case 1: return ~(uint64_t)0 - next(source) % 64;
	case 2: return next(source);
	case 3: return 0;
	default: return BASE + next(source) * 8 % (ARENA / 2);
	}
}

static uint64_t any_size(struct source *source, uint64_t usual)
{
	switch (is_wild ? next(source) % 32 : 32) {
	case 0: return ~(uint64_t)0 >> next(source) % 64;
	case 1: return PAYLOAD_MAX - 2 + next(source) % 4;
	case 2: return CONTROL_MAX - 2 + next(source) % 4;
	default: return next(source) % (usual + 1);
	}
}

static void put(uint64_t place, const void *bytes, size_t size)
{
	if (place >= BASE && place < BASE + ARENA && size <= BASE + ARENA - place)
		memcpy(arena + (place - BASE), bytes, size);
}

static void put_control(struct source *source, uint64_t place, uint64_t size)
{
	static const int32_t known[][2] = {{1, 1}, {1, 1}, {1, 1}, {1, 2}, {0, 1}, {0, 2}, {0, 4}, {0, 7}, {0, 8}, {41, 67},
					   {41, 52}, {41, 50}, {41, 57}, {17, 103}, {1, 37}, {6, 1}};
	int32_t wanted = (int32_t)(next(source) % 18);
	bool lies = next(source) % 4 == 0, sets = next(source) % 2;

	for (uint64_t at = 0; at + 16 <= size && at < CONTROL_MAX;) {
		const int32_t *kind = known[wanted < 16 ? (uint64_t)wanted : next(source) % 16];
		uint64_t length = 16 + (next(source) % 16 ? next(source) % (next(source) % 8 ? 40 : 1100) : 0);
		uint32_t fds[4] = {0};

		length = length > size - at && (!is_wild || next(source) % 4) ? size - at : length;
		put(place + at + 8, kind, 8);
		for (uint64_t inside = 16; inside < length; inside += 4) {
			fds[0] = (uint32_t)(next(source) % 1024 ? next(source) % OPEN_BELOW : next(source));
			fds[0] = kind[0] != 1 && (!sets || next(source) % 4) ? 0 : fds[0];
			put(place + at + inside, fds, sizeof fds[0]);
		}
		put(place + at, &(uint64_t){lies && next(source) % 8 == 0 ? any_size(source, 2 * size) : length}, 8);
		at += (length + 7) / 8 * 8;
	}
}

static struct sys_message build(struct source *source, uint64_t place)
{
	struct sys_message header = {
		.name = (void *)any_place(source),
		.name_size = (uint32_t)any_size(source, 140),
		.parts = (struct iovec *)any_place(source),
		.part_count = any_size(source, next(source) % 16 ? 6 : 1030),
		.control = (void *)any_place(source),
		.control_size = next(source) % 64 == 0 ? CONTROL_MAX + next(source) % 3 : any_size(source, next(source) % 8 ? next(source) % 2 ? 60 : 300 : (uint64_t)CONTROL_MAX),
	};
	for (size_t i = 0; i < header.part_count && i < 1030; i++) {
		struct iovec part = {(void *)any_place(source), any_size(source, next(source) % 4 ? 200 : 90000)};

		put((uint64_t)(uintptr_t)header.parts + i * sizeof part, &part, sizeof part);
	}
	put_control(source, (uint64_t)(uintptr_t)header.control, header.control_size);
	put(place, &header, sizeof header);
	return header;
}

static unsigned long accepted, with_descriptors;

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	static const unsigned families[] = {FAMILY_UNIX, FAMILY_UNIX, FAMILY_INET, FAMILY_INET6};
	static uint8_t before[CONTROL_MAX];
	struct source source = {input, size, 0x2545f4914f6cdd1du};
	struct target target = {.pid = 1};
	struct message_copy *copy = filled = message_buffer();
	unsigned family = families[next(&source) % 4];
	bool is_stream = next(&source) % 3 == 0;
	uint64_t place = any_place(&source);
	struct sys_message header;
	long failed;

	is_wild = next(&source) % 2;
	memset(is_out, 0, sizeof is_out);
	taken = 0;
	build(&source, place);
	failed = message_of_header(copy, &target, place, family, is_stream);
	demand(failed <= 0 && failed > -4096 && (int)copy->rights_count == taken);
	if (failed == 0 || failed == -EPERM || (failed == -EINVAL && target_read(0, place, &header, sizeof header) == sizeof header &&
						(int32_t)header.name_size >= 0)) {
		demand(target_read(0, place, &header, sizeof header) == sizeof header);
		if (copy->control_size)
			demand(target_read(0, (uint64_t)(uintptr_t)header.control, before, copy->control_size) == (long)copy->control_size);
		demand(may_go(before, copy->control_size, family, is_stream) == (failed == 0));
	}
	if (failed == 0) {
		check_copied(copy, &header);
		check_control_of(copy, before, family);
		accepted++;
		with_descriptors += copy->rights_count > 0;
	}
	message_release(copy);
	for (int fd = FIRST_COPY; fd < FIRST_COPY + taken; fd++)
		demand(!is_out[fd]);
	demand(copy->rights_count == 0 && message_buffer() == copy && !copy->size && !copy->control_size);
	failed = message_of_buffer(copy, &target, any_place(&source), any_size(&source, 300), is_stream);
	demand(failed == 0 ? copy->size <= PAYLOAD_MAX : failed == -EMSGSIZE || failed == -EFAULT);
	return 0;
}

#ifdef STANDALONE

int main(int argc, char **argv)
{
	unsigned long runs = argc == 2 && strncmp(argv[1], "-runs=", 6) == 0 ? strtoul(argv[1] + 6, NULL, 10) : 0;
	struct source source = {NULL, 0, 0x9e3779b97f4a7c15u};
	uint16_t seed[8];

	for (unsigned long run = 0; run < runs; run++) {
		for (size_t i = 0; i < sizeof seed / sizeof seed[0]; i++)
			seed[i] = (uint16_t)next(&source);
		LLVMFuzzerTestOneInput((const uint8_t *)seed, sizeof seed);
	}
	printf("%lu messages, %lu copied, %lu of them with descriptors\n", runs, accepted, with_descriptors);
	return 0;
}

#endif
