/* text.h: strings without libc: lengths, comparisons, and building a line in a fixed buffer. */
#ifndef TEXT_H
#define TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

size_t text_length(const char *text);
bool text_same(const char *left, const char *right, size_t size);
bool text_equal(const char *left, const char *right);
bool text_starts(const char *text, const char *prefix);
long text_find(const char *text, char wanted); /* index, or -1 */
long text_number(const char *text);	       /* decimal digits only, up to INT32_MAX; else -1 */
const char *text_errno(int error);	       /* NULL if the number has no text here */

/* A path that ends in a number, as those below /proc do; `start` is of at most 23 bytes. */
enum { NUMBERED_PATH = 48 };
void text_numbered_path(char path[NUMBERED_PATH], const char *start, int64_t number);

/* A line that is being built; what does not fit is cut, and room for the end is kept. */
struct line {
	char text[4096];
	size_t length;
};

void line_text(struct line *line, const char *text);
void line_number(struct line *line, int64_t number);
void line_errno(struct line *line, int error);
void line_json(struct line *line, const char *text); /* quoted and escaped */

#endif
