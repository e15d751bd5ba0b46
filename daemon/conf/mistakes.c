/* SPDX-License-Identifier: MIT */
/* The list of mistakes: bounded, each said once, put in the order of the lines at the end. */
#include "conf/mistakes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/load.h"

static bool known(const struct mistakes *m, const char *line)
{
	for (size_t i = 0; i < m->count; i++)
		if (!strcmp(m->lines[i], line))
			return true;
	return false;
}

void mistakes_add(struct mistakes *m, const char *file, int line, const char *format, ...)
{
	_cleanup_free_ char *what = NULL, *whole = NULL;
	char **lines;
	va_list ap;
	int n;

	va_start(ap, format);
	n = vasprintf(&what, format, ap);
	va_end(ap);
	if (n < 0) {
		what = NULL;
		m->more = true;
		return;
	}
	if (file && line > 0)
		n = asprintf(&whole, "%s:%d: %s", file, line, what);
	else
		n = asprintf(&whole, "%s%s%s", file ? file : "", file ? ": " : "", what);
	if (n < 0) {
		whole = NULL;
		m->more = true;
		return;
	}
	if (known(m, whole))
		return;
	if (m->count >= CONF_MAX_MISTAKES) {
		m->more = true;
		return;
	}
	lines = realloc(m->lines, (m->count + 1) * sizeof *lines);
	if (!lines) {
		m->more = true;
		return;
	}
	m->lines = lines;
	m->lines[m->count++] = take_ptr(whole);
}

void mistakes_done(struct mistakes *m)
{
	for (size_t i = 0; i < m->count; i++)
		free(m->lines[i]);
	free(m->lines);
	*m = (struct mistakes){0};
}

/* The line number of "file:line: ...", 0 for anything else. */
static unsigned long line_of(const char *text, const char *file)
{
	size_t n = strlen(file);

	if (strncmp(text, file, n) != 0 || text[n] != ':')
		return 0;
	return strtoul(text + n + 1, NULL, 10);
}

void mistakes_sort(struct mistakes *m, const char *file, size_t from)
{
	for (size_t i = from + 1; i < m->count; i++) {
		char *text = m->lines[i];
		size_t j = i;

		for (; j > from && line_of(m->lines[j - 1], file) > line_of(text, file); j--)
			m->lines[j] = m->lines[j - 1];
		m->lines[j] = text;
	}
}
