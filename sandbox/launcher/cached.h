/* cached.h: plans that were made before: which start one is for, and whether it still is (docs/template-format.md). */
#ifndef CACHED_H
#define CACHED_H

#include "facts.h"
#include "plan.h"

enum { KEY_SIZE = 32, KEY_TEXT = 2 * KEY_SIZE + 1 };

/* An entry, mapped: to be unmapped once the plan is made of it. */
struct cached {
	struct plan template;
	const void *bytes;
	size_t size;
	const char *notice; /* what is said first, on standard error */
	size_t notice_size;
};

/* Of all that a plan is made from but files: the arguments behind `run`, and the facts. Returns false where the plan
 * depends on more than that. */
bool cached_key(unsigned char key[KEY_SIZE], const struct facts *facts);
void cached_key_text(char text[KEY_TEXT], const unsigned char key[KEY_SIZE]);

/* Find the plan of a key, and compare every file that went into it. Returns false when there is none, when something is
 * another by now, or when anybody else could have put it there. No descriptor is left open. */
bool cached_find(struct cached *found, const unsigned char key[KEY_SIZE], const struct facts *facts);

#endif
