/* SPDX-License-Identifier: MIT */
#include "process/environment.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void environment_done(struct environment *e)
{
	for (size_t i = 0; i < e->count; i++)
		free(e->items[i]);
	free(e->items);
	*e = (struct environment){0};
}

static size_t find(const struct environment *e, const char *key, size_t length)
{
	size_t i = 0;

	while (i < e->count &&
	        (strncmp(e->items[i], key, length) != 0 || e->items[i][length] != '='))
		i++;
	return i;
}

/* Takes ownership of `item`, which may be NULL for "no memory". */
static void put_owned(struct environment *e, char *item)
{
	size_t at;

	if (!item)
		e->failed = -ENOMEM;
	if (e->failed) {
		free(item);
		return;
	}
	at = find(e, item, strcspn(item, "="));
	if (at < e->count) {
		free(e->items[at]);
		e->items[at] = item;
		return;
	}
	if (e->count == ENVIRONMENT_MAX) {
		e->failed = -E2BIG;
		free(item);
		return;
	}
	if (e->count + 1 >= e->size) {
		size_t size = e->size ? 2 * e->size : 64;
		char **items = realloc(e->items, size * sizeof *items);

		if (!items) {
			e->failed = -ENOMEM;
			free(item);
			return;
		}
		e->items = items;
		e->size = size;
	}
	e->items[e->count++] = item;
	e->items[e->count] = NULL;
}

void environment_put(struct environment *e, const char *assignment)
{
	if (assignment[0] == '=' || !strchr(assignment, '='))
		return;
	put_owned(e, strdup(assignment));
}

void environment_set(struct environment *e, const char *key, const char *format, ...)
{
	char *value, *item = NULL;
	va_list ap;
	int n;

	va_start(ap, format);
	n = vasprintf(&value, format, ap);
	va_end(ap);
	if (n < 0) {
		e->failed = -ENOMEM;
		return;
	}
	if (asprintf(&item, "%s=%s", key, value) < 0)
		item = NULL;
	free(value);
	put_owned(e, item);
}

char *environment_get(const struct environment *e, const char *key)
{
	size_t length = strlen(key), at = find(e, key, length);

	return at < e->count ? e->items[at] + length + 1 : NULL;
}

void environment_unset(struct environment *e, const char *key)
{
	size_t at = find(e, key, strlen(key));

	if (at == e->count)
		return;
	free(e->items[at]);
	memmove(&e->items[at], &e->items[at + 1], (e->count - at) * sizeof e->items[0]);
	e->count--;
}

/* What handoffd was told by whoever started it must not reach its workers: it would make them speak
 * to the wrong manager or take descriptors they do not have. A final * stands for any rest. */
static const char *const not_inherited[] = {"LISTEN_*", "NOTIFY_SOCKET", "WATCHDOG_*", "MAINPID",
        "FDSTORE", "HANDOFF_*", "SERVER_STARTER_*", "EINHORN_*", "NGINX", "NGINX_BPF_MAPS",
        "FPM_SOCKETS*", "UNICORN_FD", "PUMA_INHERIT_*", "GUNICORN_FD", "GUNICORN_PID",
        "LIGHTTPD_PREV_GEN"};

static bool is_inherited(const char *assignment, bool captured)
{
	size_t length = strcspn(assignment, "=");

	for (size_t i = 0; i < ARRAY_SIZE(not_inherited); i++) {
		size_t n = strlen(not_inherited[i]);
		bool prefix = not_inherited[i][n - 1] == '*';

		n -= prefix;
		if ((prefix ? length >= n : length == n) &&
		        strncmp(assignment, not_inherited[i], n) == 0)
			return false;
	}
	return !captured || strncmp(assignment, "JOURNAL_STREAM=", 15) != 0;
}

void environment_inherit(struct environment *e, char *const *from, bool captured)
{
	for (; *from; from++) {
		if (is_inherited(*from, captured))
			environment_put(e, *from);
	}
}

struct reader {
	const char *p, *end;
	int line;
};

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

static bool is_key(char c, bool first)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' ||
	       (!first && c >= '0' && c <= '9');
}

static void skip_blanks(struct reader *r)
{
	while (r->p < r->end && is_blank(*r->p))
		r->p++;
}

static char unescape(char c)
{
	switch (c) {
	case 'n':
		return '\n';
	case 'r':
		return '\r';
	case 't':
		return '\t';
	case '"':
	case '\\':
	case '$':
	case '`':
		return c;
	default:
		return '\0';
	}
}

/* Appends the quoted text at r->p to `out`; NULL, or what is wrong. */
static const char *read_quoted(struct reader *r, char *out, size_t *length)
{
	char quote = *r->p++;

	for (; r->p < r->end; r->p++) {
		char c = *r->p;

		if (c == quote) {
			r->p++;
			skip_blanks(r);
			if (r->p < r->end && *r->p != '\n')
				return "there is text after the closing quote";
			return NULL;
		}
		if (c == '\n')
			r->line++;
		if (c == '\\' && quote == '"' && r->p + 1 < r->end && unescape(r->p[1]))
			c = unescape(*++r->p);
		out[(*length)++] = c;
	}
	return "the quote is not closed";
}

/* Reads one assignment into `out`, which has room for all that is left; NULL, or what is wrong. */
static const char *read_assignment(struct reader *r, char *out)
{
	const char *key;
	size_t length = 0;

	if (r->end - r->p > 7 && strncmp(r->p, "export", 6) == 0 && is_blank(r->p[6])) {
		r->p += 7;
		skip_blanks(r);
	}
	key = r->p;
	while (r->p < r->end && is_key(*r->p, r->p == key))
		out[length++] = *r->p++;
	if (length == 0 || r->p == r->end || *r->p != '=')
		return "this is not KEY=VALUE (a key has letters, digits and underscores)";
	out[length++] = *r->p++;
	skip_blanks(r);
	if (r->p < r->end && (*r->p == '"' || *r->p == '\'')) {
		const char *wrong = read_quoted(r, out, &length);

		if (wrong)
			return wrong;
	} else {
		while (r->p < r->end && *r->p != '\n')
			out[length++] = *r->p++;
		while (is_blank(out[length - 1]))
			length--;
	}
	out[length] = '\0';
	return NULL;
}

int environment_parse(struct environment *e, const char *name, const char *text, size_t length,
        struct ho_error *reterr)
{
	struct reader r = {.p = text, .end = text + length, .line = 1};
	_cleanup_free_ char *assignment = malloc(length + 1);

	if (!assignment)
		return ho_error_set(reterr, -ENOMEM, "cannot read \"%s\": no memory", name);
	if (memchr(text, '\0', length))
		return ho_error_set(reterr, -EINVAL, "\"%s\" has a zero byte in it", name);
	while (r.p < r.end) {
		int line = r.line;
		const char *wrong = NULL;

		skip_blanks(&r);
		if (r.p < r.end && (*r.p == '#' || *r.p == ';')) {
			while (r.p < r.end && *r.p != '\n')
				r.p++;
		} else if (r.p < r.end && *r.p != '\n') {
			wrong = read_assignment(&r, assignment);
			if (!wrong)
				environment_put(e, assignment);
		}
		if (wrong)
			return ho_error_set(reterr, -EINVAL, "%s:%d: %s", name, line, wrong);
		if (r.p < r.end) {
			r.p++;
			r.line++;
		}
	}
	if (e->failed)
		return ho_error_set(reterr, e->failed, "cannot read \"%s\": %s", name,
		        e->failed == -E2BIG ? "more than 4096 variables" : "no memory");
	return 0;
}
