/* unit_text.c: tests of text.c, as TAP. */
#include "text.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int tests, failures;

static void check(bool holds, const char *what)
{
	failures += !holds;
	printf("%s %d - %s\n", holds ? "ok" : "not ok", ++tests, what);
}

#define CHECK(expression) check((expression), #expression)

static const char *number(int64_t value)
{
	static struct line line;

	line.length = 0;
	line_number(&line, value);
	line.text[line.length] = '\0';
	return line.text;
}

static const char *json(const char *text)
{
	static struct line line;

	line.length = 0;
	line_json(&line, text);
	line.text[line.length] = '\0';
	return line.text;
}

static void test_texts(void)
{
	CHECK(text_length("") == 0 && text_length("abc") == 3);
	CHECK(text_same("abcX", "abcY", 3) && !text_same("abcX", "abcY", 4) && text_same("a", "b", 0));
	CHECK(text_equal("", "") && text_equal("ab", "ab"));
	CHECK(!text_equal("ab", "abc") && !text_equal("abc", "ab") && !text_equal("", "a"));
	CHECK(text_starts("abc", "ab") && text_starts("abc", "") && text_starts("abc", "abc"));
	CHECK(!text_starts("ab", "abc") && !text_starts("", "a"));
	CHECK(text_find("a=b=c", '=') == 1 && text_find("=", '=') == 0 && text_find("abc", '=') == -1);
	CHECK(text_find("", 'a') == -1);
}

static void test_numbers(void)
{
	CHECK(text_number("0") == 0 && text_number("12") == 12 && text_number("0007") == 7);
	CHECK(text_number("2147483647") == INT32_MAX);
	CHECK(text_number("2147483648") == -1 && text_number("99999999999999999999999999999999") == -1);
	CHECK(text_number("") == -1 && text_number("-1") == -1 && text_number("+1") == -1);
	CHECK(text_number(" 1") == -1 && text_number("1 ") == -1 && text_number("1x") == -1);
	CHECK(text_number("/") == -1 && text_number(":") == -1); /* the neighbours of the digits */
	CHECK(!strcmp(number(0), "0") && !strcmp(number(-1), "-1") && !strcmp(number(1234567890), "1234567890"));
	CHECK(!strcmp(number(INT64_MAX), "9223372036854775807"));
	CHECK(!strcmp(number(INT64_MIN), "-9223372036854775808"));
}

static void test_errno(void)
{
	struct line line = {.length = 0};
	bool right = true;

	for (int error = 1; error < 134; error++)
		right = right && (!text_errno(error) || !strcmp(text_errno(error), strerror(error)));
	CHECK(right);
	CHECK(text_errno(ENOENT) && text_errno(EPERM) && !text_errno(0) && !text_errno(9999));
	line_errno(&line, 9999);
	CHECK(line.length == 10 && !memcmp(line.text, "errno 9999", 10));
}

static void test_json(void)
{
	CHECK(!strcmp(json(""), "\"\""));
	CHECK(!strcmp(json("a\"b\\c"), "\"a\\\"b\\\\c\""));
	CHECK(!strcmp(json("\n\t\x01\x1f\x7f "), "\"\\u000a\\u0009\\u0001\\u001f\\u007f \""));
	CHECK(!strcmp(json("\xc3\xa9"), "\"\xc3\xa9\""));
}

/* Whatever is put into a line, it stays inside, keeps room for a NUL, and can still be ended. */
static void test_full_lines(void)
{
	static char longest[3 * sizeof(struct line)];
	static struct {
		struct line line;
		char guard[64];
	} guarded;
	struct line *line = &guarded.line;

	memset(guarded.guard, 'g', sizeof guarded.guard);
	memset(longest, 'x', sizeof longest - 1);
	line_text(line, longest);
	CHECK(line->length == sizeof line->text - 9);
	line_number(line, INT64_MIN);
	CHECK(line->length == sizeof line->text - 9);
	for (int i = 0; i < 20; i++)
		line_text(line, "}\n");
	CHECK(line->length == sizeof line->text - 1);

	memset(longest, '"', sizeof longest - 1);
	line->length = 0;
	line_json(line, longest);
	CHECK(line->length <= sizeof line->text - 200 && line->text[line->length - 1] == '"');
	CHECK(line->text[line->length - 2] == '"' && line->text[line->length - 3] == '\\'); /* no escape cut in two */
	line_text(line, ",\"object\":");
	line_json(line, longest);
	line_text(line, "}\n");
	CHECK(line->text[line->length - 1] == '\n' && line->text[line->length - 4] == '"' && line->text[line->length - 3] == '"');

	memset(longest, '\x01', sizeof longest - 1);
	line->length = 0;
	line_json(line, longest);
	CHECK((line->length - 2) % 6 == 0 && line->length <= sizeof line->text - 200);
	for (size_t at = 0; at < sizeof guarded.guard; at++)
		if (guarded.guard[at] != 'g')
			CHECK(!"the guard behind the line was overwritten");
}

int main(void)
{
	test_texts();
	test_numbers();
	test_errno();
	test_json();
	test_full_lines();
	printf("1..%d\n", tests);
	return failures != 0;
}
