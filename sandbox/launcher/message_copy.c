/* message_copy.c: payload, address and ancillary data of a message, from the program's memory to ours. */
#include "message_copy.h"

#include <linux/uio.h>

enum { PARTS_MAX = 1024 /* UIO_MAXIOV */, SENT_AT = 56 /* msg_len in struct mmsghdr */ };
enum { SOL_IP = 0, SOL_UDP = 17, SOL_IPV6 = 41, PACKET_INFO = 8, PACKET_INFO6 = 50, CREDENTIALS = 2 };

static uint8_t payload[PAYLOAD_MAX];
static struct iovec parts[PARTS_MAX], whole;

/* struct cmsghdr, as cmsg(3) has it. */
struct control {
	size_t size;
	int32_t level, type;
};

struct message_copy *message_buffer(void)
{
	static struct message_copy copy;

	copy.name_size = copy.rights_count = 0;
	copy.size = copy.control_size = 0;
	return &copy;
}

static long cut(struct message_copy *copy, uint64_t size, bool is_stream)
{
	if (size > PAYLOAD_MAX && !is_stream)
		return -EMSGSIZE;
	copy->size = size > PAYLOAD_MAX ? PAYLOAD_MAX : size;
	return 0;
}

long message_of_buffer(struct message_copy *copy, struct target *target, uint64_t from, uint64_t size, bool is_stream)
{
	long failed = cut(copy, size, is_stream);

	if (failed == 0 && copy->size > 0 && target_read(target->pid, from, payload, copy->size) != (long)copy->size)
		failed = -EFAULT;
	return failed;
}

static long read_parts(struct message_copy *copy, struct target *target, const struct sys_message *header, bool is_stream)
{
	uint64_t size = 0;
	struct iovec local = {payload, 0};
	long failed;

	if (header->part_count > PARTS_MAX)
		return -EMSGSIZE;
	if (header->part_count &&
	    target_read(target->pid, (uint64_t)(uintptr_t)header->parts, parts, header->part_count * sizeof parts[0]) !=
		    (long)(header->part_count * sizeof parts[0]))
		return -EFAULT;
	for (size_t i = 0; i < header->part_count; i++) {
		size_t room = PAYLOAD_MAX + 1 - (size > PAYLOAD_MAX ? PAYLOAD_MAX + 1 : size);

		if (parts[i].iov_len > room) /* what is beyond the most that is sent need not be read */
			parts[i].iov_len = room;
		size += parts[i].iov_len;
	}
	failed = cut(copy, size, is_stream);
	local.iov_len = copy->size;
	if (failed == 0 && copy->size > 0 &&
	    sys6(__NR_process_vm_readv, target->pid, addr(&local), 1, addr(parts), (long)header->part_count, 0) != (long)copy->size)
		failed = -EFAULT;
	return failed;
}

/* What a datagram of the internet may say of itself: no route, no interface. ip(7), ipv6(7), udp(7) */
static bool is_plain(const struct control *head, const uint8_t *data, size_t size)
{
	static const int plain[][2] = {{SOL_IP, 1}, {SOL_IP, 2}, {SOL_IPV6, 67}, {SOL_IPV6, 52}, {SOL_UDP, 103}};
	uint32_t interface = 1;

	for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
		if (head->level == plain[i][0] && head->type == plain[i][1])
			return true;
	if (head->level == SOL_IP && head->type == PACKET_INFO && size >= 12)
		__builtin_memcpy(&interface, data, sizeof interface); /* ipi_ifindex comes first */
	if (head->level == SOL_IPV6 && head->type == PACKET_INFO6 && size >= 20)
		__builtin_memcpy(&interface, data + 16, sizeof interface); /* ipi6_ifindex comes last */
	return interface == 0;
}

/* Put our copies of the descriptors in the place of the program's. */
static long take_rights(struct message_copy *copy, struct target *target, uint8_t *data, size_t size)
{
	for (size_t at = 0; at + sizeof(int) <= size; at += sizeof(int)) {
		uint32_t number;
		int fd;

		if (copy->rights_count == RIGHTS_MAX)
			return -EINVAL;
		__builtin_memcpy(&number, data + at, sizeof number);
		fd = target_take(target, number);
		if (fd < 0)
			return fd;
		copy->rights[copy->rights_count++] = fd;
		__builtin_memcpy(data + at, &fd, sizeof fd);
	}
	return 0;
}

static long check_control(struct message_copy *copy, struct target *target, unsigned family, bool is_stream)
{
	for (size_t at = 0; at + sizeof(struct control) <= copy->control_size;) {
		struct control head;
		size_t size;
		uint8_t *data = copy->control + at + sizeof head;
		long failed = 0;

		__builtin_memcpy(&head, copy->control + at, sizeof head);
		if (head.size < sizeof head || head.size > copy->control_size - at)
			return -EINVAL;
		size = head.size - sizeof head;
		if (family == FAMILY_UNIX && head.level == SYS_SOL_SOCKET && head.type == SYS_SCM_RIGHTS)
			failed = take_rights(copy, target, data, size);
		else if (family == FAMILY_UNIX) /* among them SCM_CREDENTIALS, which would be ours */
			failed = head.type == CREDENTIALS ? -EPERM : -EINVAL;
		else if (!is_stream && !is_plain(&head, data, size))
			failed = -EPERM;
		if (failed < 0)
			return failed;
		at += (head.size + 7) & ~(size_t)7;
	}
	return 0;
}

long message_of_header(struct message_copy *copy, struct target *target, uint64_t from, unsigned family, bool is_stream)
{
	struct sys_message header;
	long failed;

	if (target_read(target->pid, from, &header, sizeof header) != (long)sizeof header)
		return -EFAULT;
	if ((int32_t)header.name_size < 0)
		return -EINVAL;
	copy->name_size = !header.name ? 0 : header.name_size > ADDRESS_MAX ? (uint32_t)ADDRESS_MAX : header.name_size;
	__builtin_memset(copy->name, 0, sizeof copy->name);
	if (copy->name_size && target_read(target->pid, (uint64_t)(uintptr_t)header.name, copy->name, copy->name_size) !=
				       (long)copy->name_size)
		return -EFAULT;
	if (header.control_size > CONTROL_MAX)
		return -ENOBUFS;
	copy->control_size = header.control ? header.control_size : 0;
	if (copy->control_size && target_read(target->pid, (uint64_t)(uintptr_t)header.control, copy->control, copy->control_size) !=
					  (long)copy->control_size)
		return -EFAULT;
	failed = read_parts(copy, target, &header, is_stream);
	return failed < 0 ? failed : check_control(copy, target, family, is_stream);
}

struct sys_message message_copied(struct message_copy *copy)
{
	whole = (struct iovec){payload, copy->size};
	return (struct sys_message){
		.name = copy->name_size ? copy->name : NULL,
		.name_size = copy->name_size,
		.parts = &whole,
		.part_count = 1,
		.control = copy->control_size ? copy->control : NULL,
		.control_size = copy->control_size,
	};
}

void message_release(struct message_copy *copy)
{
	while (copy->rights_count > 0)
		sys_close(copy->rights[--copy->rights_count]);
}

long message_tell_sent(struct target *target, uint64_t header, uint32_t size)
{
	struct iovec local = {&size, sizeof size}, remote = {(void *)(uintptr_t)(header + SENT_AT), sizeof size};
	long done = sys6(__NR_process_vm_writev, target->pid, addr(&local), 1, addr(&remote), 1, 0);

	return done == (long)sizeof size ? 0 : -EFAULT;
}
