/* text.c: strings without libc. Pure. */
#include "text.h"

#include <linux/errno.h>

size_t text_length(const char *text)
{
	size_t length = 0;

	while (text[length])
		length++;
	return length;
}

bool text_same(const char *left, const char *right, size_t size)
{
	for (size_t at = 0; at < size; at++)
		if (left[at] != right[at])
			return false;
	return true;
}

bool text_equal(const char *left, const char *right)
{
	size_t at = 0;

	while (left[at] && left[at] == right[at])
		at++;
	return left[at] == right[at];
}

bool text_starts(const char *text, const char *prefix)
{
	while (*prefix)
		if (*text++ != *prefix++)
			return false;
	return true;
}

long text_find(const char *text, char wanted)
{
	for (long at = 0; text[at]; at++)
		if (text[at] == wanted)
			return at;
	return -1;
}

long text_number(const char *text)
{
	long number = 0;

	if (!*text)
		return -1;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -1;
		number = number * 10 + (*text - '0');
		if (number > INT32_MAX)
			return -1;
	}
	return number;
}

const char *text_errno(int error)
{
	switch (error) {
	case EPERM: return "Operation not permitted";
	case ENOENT: return "No such file or directory";
	case EINTR: return "Interrupted system call";
	case EIO: return "Input/output error";
	case ENXIO: return "No such device or address";
	case E2BIG: return "Argument list too long";
	case ENOEXEC: return "Exec format error";
	case EBADF: return "Bad file descriptor";
	case EAGAIN: return "Resource temporarily unavailable";
	case ENOMEM: return "Cannot allocate memory";
	case EACCES: return "Permission denied";
	case EFAULT: return "Bad address";
	case EBUSY: return "Device or resource busy";
	case EEXIST: return "File exists";
	case ENODEV: return "No such device";
	case ENOTDIR: return "Not a directory";
	case EISDIR: return "Is a directory";
	case EINVAL: return "Invalid argument";
	case ENFILE: return "Too many open files in system";
	case EMFILE: return "Too many open files";
	case ETXTBSY: return "Text file busy";
	case ETOOMANYREFS: return "Too many references: cannot splice";
	case EFBIG: return "File too large";
	case ENOSPC: return "No space left on device";
	case EROFS: return "Read-only file system";
	case EPIPE: return "Broken pipe";
	case ENAMETOOLONG: return "File name too long";
	case ENOSYS: return "Function not implemented";
	case ELOOP: return "Too many levels of symbolic links";
	case EOPNOTSUPP: return "Operation not supported";
	default: return NULL;
	}
}

void line_text(struct line *line, const char *text)
{
	/* The last 8 bytes are kept for what ends a message or a record, and one for a NUL. */
	size_t room = sizeof line->text - (text_length(text) < 8 ? 1 : 9);

	for (; *text && line->length < room; text++)
		line->text[line->length++] = *text;
}

enum { DIGITS = 24 }; /* of any 64-bit number, with sign and NUL */

static const char *digits_of(char digits[DIGITS], int64_t number)
{
	char *next = digits + DIGITS - 1;
	uint64_t rest = number < 0 ? -(uint64_t)number : (uint64_t)number;

	*next = '\0';
	do
		*--next = (char)('0' + rest % 10);
	while (rest /= 10);
	if (number < 0)
		*--next = '-';
	return next;
}

void line_number(struct line *line, int64_t number)
{
	char digits[DIGITS];

	line_text(line, digits_of(digits, number));
}

void text_numbered_path(char path[NUMBERED_PATH], const char *start, int64_t number)
{
	char digits[DIGITS];
	const char *rest = digits_of(digits, number);

	while (*start)
		*path++ = *start++;
	while ((*path++ = *rest++))
		;
}

void line_errno(struct line *line, int error)
{
	const char *text = text_errno(error);

	if (text) {
		line_text(line, text);
	} else {
		line_text(line, "errno ");
		line_number(line, error);
	}
}

void line_json(struct line *line, const char *text)
{
	static const char hex[] = "0123456789abcdef";
	const size_t room = sizeof line->text - 256; /* the rest of the object must fit behind it */

	line_text(line, "\"");
	for (; *text && line->length < room; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\') {
			line->text[line->length++] = '\\';
			line->text[line->length++] = (char)c;
		} else if (c < 0x20 || c == 0x7f) { /* the plan's texts are UTF-8 already */
			char escaped[] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15], '\0'};

			line_text(line, escaped);
		} else {
			line->text[line->length++] = (char)c;
		}
	}
	line_text(line, "\"");
}
