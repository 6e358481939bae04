/* source.h: numbers from a fuzzer's input, and then from a generator that the input has seeded. */
#ifndef SOURCE_H
#define SOURCE_H

#include <stddef.h>
#include <stdint.h>

struct source {
	const uint8_t *input;
	size_t size;
	uint64_t state; /* not 0 */
};

static inline uint64_t next(struct source *source)
{
	uint64_t number = 0;

	if (source->size >= 2) {
		number = (uint64_t)(source->input[0] << 8 | source->input[1]);
		source->input += 2;
		source->size -= 2;
		source->state = source->state * 6364136223846793005u + number;
		return number;
	}
	source->state ^= source->state << 13;
	source->state ^= source->state >> 7;
	source->state ^= source->state << 17;
	return source->state >> 16;
}

#endif
