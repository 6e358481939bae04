/* message_copy.h: a message that a program sends, copied out of its memory. */
#ifndef MESSAGE_COPY_H
#define MESSAGE_COPY_H

#include "network.h"
#include "sys.h"
#include "target.h"

enum { PAYLOAD_MAX = 1 << 18, CONTROL_MAX = 4096, RIGHTS_MAX = 253 /* SCM_MAX_FD */, MESSAGES_STEP = 64 /* struct mmsghdr */ };

struct message_copy {
	uint8_t name[ADDRESS_MAX];
	uint32_t name_size; /* 0: it names no address */
	size_t size, control_size;
	uint8_t control[CONTROL_MAX] __attribute__((aligned(8)));
	int rights[RIGHTS_MAX]; /* copies of the descriptors that it sends; ours */
	uint32_t rights_count;
};

struct message_copy *message_buffer(void); /* the only one, empty */

/* Copy what is to be sent: from one place, or as a struct msghdr says. A stream's is cut at PAYLOAD_MAX, as the kernel
 * itself may send less than it was asked for. Return 0, or the -errno that the call would give. */
long message_of_buffer(struct message_copy *copy, struct target *target, uint64_t from, uint64_t size, bool is_stream);
long message_of_header(struct message_copy *copy, struct target *target, uint64_t from, unsigned family, bool is_stream);

struct sys_message message_copied(struct message_copy *copy); /* to send it; points into the copy */
void message_release(struct message_copy *copy);	      /* close what it would have sent */

long message_tell_sent(struct target *target, uint64_t header, uint32_t size); /* msg_len of struct mmsghdr */

#endif
