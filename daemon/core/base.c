/* SPDX-License-Identifier: MIT */
#include "core/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void (*ho_assert_hook)(const char *expression, const char *file, int line);

usec_t usec_add(usec_t a, usec_t b)
{
	return a > USEC_INFINITY - b ? USEC_INFINITY : a + b;
}

usec_t usec_sub(usec_t a, usec_t b)
{
	if (a == USEC_INFINITY)
		return a;
	return a > b ? a - b : 0;
}

void freep(void *p)
{
	free(*(void **)p);
}

int ho_error_set(struct ho_error *e, int code, const char *format, ...)
{
	va_list ap;

	if (!e)
		return code;
	e->code = code;
	e->where[0] = '\0';
	va_start(ap, format);
	(void)vsnprintf(e->text, sizeof e->text, format, ap);
	va_end(ap);
	return code;
}

void ho_assert_failed(const char *expression, const char *file, int line)
{
	if (ho_assert_hook)
		ho_assert_hook(expression, file, line);
	abort();
}

void text_add(struct text *t, const char *format, ...)
{
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(t->p + t->len, t->size - t->len, format, ap);
	va_end(ap);
	if (n < 0)
		return;
	if ((size_t)n >= t->size - t->len) {
		t->len = t->size - 1;
		t->cut = true;
	} else {
		t->len += (size_t)n;
	}
}

void text_add_bytes(struct text *t, const char *bytes, size_t n)
{
	if (n > t->size - 1 - t->len) {
		n = t->size - 1 - t->len;
		t->cut = true;
	}
	memcpy(t->p + t->len, bytes, n);
	t->len += n;
	t->p[t->len] = '\0';
}

bool copy_string(char *to, size_t size, const char *from)
{
	size_t n = strlen(from);
	bool whole = n < size;

	if (!whole)
		n = size - 1;
	memcpy(to, from, n);
	to[n] = '\0';
	return whole;
}

bool parse_number(const char *text, uint64_t max, uint64_t *ret)
{
	uint64_t n = 0;

	if (!*text)
		return false;
	for (; *text; text++) {
		unsigned digit = (unsigned)(*text - '0');

		if (digit > 9 || n > (max - digit) / 10 || digit > max)
			return false;
		n = n * 10 + digit;
	}
	*ret = n;
	return true;
}

unsigned edit_distance(const char *a, const char *b, unsigned limit)
{
	unsigned row[65];
	size_t la = strlen(a), lb = strlen(b);

	if (la > 64 || lb > 64)
		return limit + 1;
	for (size_t j = 0; j <= lb; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned corner = row[0];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= lb; j++) {
			unsigned above = row[j];
			unsigned best = corner + (a[i - 1] != b[j - 1]);

			if (above + 1 < best)
				best = above + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			corner = above;
			row[j] = best;
		}
	}
	return row[lb] > limit ? limit + 1 : row[lb];
}
