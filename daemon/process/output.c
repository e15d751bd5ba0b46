/* SPDX-License-Identifier: MIT */
#include "process/output.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "system/fd.h"

#define TAIL_FIRST_BYTES 256

static void tail_drop_line(struct tail *t)
{
	char *end = memchr(t->text, '\n', t->length);
	size_t n;

	HO_ASSERT(end);
	n = (size_t)(end - t->text) + 1;
	memmove(t->text, t->text + n, t->length - n);
	t->length -= n;
	t->lines--;
}

const char *tail_text(const struct tail *t)
{
	return t->text ? t->text : "";
}

void tail_done(struct tail *t)
{
	free(t->text);
	*t = (struct tail){0};
}

static bool make_room(struct tail *t, size_t wanted)
{
	size_t size = t->size ? t->size : TAIL_FIRST_BYTES;
	char *text;

	while (size < wanted)
		size *= 2;
	if (size == t->size)
		return true;
	text = realloc(t->text, size);
	if (!text)
		return false;
	t->text = text;
	t->size = size;
	return true;
}

void tail_copy(struct tail *t, const struct tail *from)
{
	t->length = t->lines = 0;
	if (!make_room(t, from->length + 1))
		return;
	memcpy(t->text, tail_text(from), from->length + 1);
	t->length = from->length;
	t->lines = from->lines;
}

void tail_add(struct tail *t, const char *line, size_t length)
{
	if (length > TAIL_MAX_BYTES - 1)
		length = TAIL_MAX_BYTES - 1;
	while (t->lines == TAIL_MAX_LINES || t->length + length + 1 > TAIL_MAX_BYTES)
		tail_drop_line(t);
	if (!make_room(t, t->length + length + 2))
		return;
	for (size_t i = 0; i < length; i++)
		t->text[t->length++] = line[i] ? line[i] : '?';
	t->text[t->length++] = '\n';
	t->text[t->length] = '\0';
	t->lines++;
}

const char *tail_last(const struct tail *t, unsigned lines, size_t bytes)
{
	const char *text = tail_text(t), *end = text + t->length, *begin = end;

	for (const char *p = end; p > text && (size_t)(end - p) < bytes; p--) {
		bool starts = p - 1 == text || p[-2] == '\n';

		if (starts && lines-- > 0)
			begin = p - 1;
		else if (starts)
			break;
	}
	return begin == end && (size_t)(end - text) > bytes ? end - bytes : begin;
}

void lines_done(struct lines *l)
{
	free(l->bytes);
	l->bytes = NULL;
	l->length = 0;
}

/* The callback may be the end of `l`. */
bool lines_flush(struct lines *l)
{
	_cleanup_free_ char *bytes = l->bytes;
	size_t n = l->length;

	l->bytes = NULL;
	l->length = 0;
	return n == 0 || l->line(l->data, l->is_stderr, bytes, n);
}

/* Keeps what is no whole line yet; without memory it is passed on as one. */
static bool keep(struct lines *l, const char *bytes, size_t n)
{
	if (n == 0)
		return true;
	if (!l->bytes)
		l->bytes = malloc(OUTPUT_MAX_LINE);
	if (!l->bytes)
		return l->line(l->data, l->is_stderr, bytes, n);
	memcpy(l->bytes + l->length, bytes, n);
	l->length += n;
	return true;
}

bool lines_feed(struct lines *l, const char *bytes, size_t n)
{
	while (n > 0) {
		const char *newline = memchr(bytes, '\n', n);
		size_t part = newline ? (size_t)(newline - bytes) : n;
		bool fits = part <= OUTPUT_MAX_LINE - l->length, go_on;

		if (!fits) {
			part = OUTPUT_MAX_LINE - l->length;
			newline = NULL;
		}
		if (newline && !l->length)
			go_on = l->line(l->data, l->is_stderr, bytes, part);
		else
			go_on = keep(l, bytes, part) && ((fits && !newline) || lines_flush(l));
		if (!go_on)
			return false;
		bytes += part + (newline != NULL);
		n -= part + (newline != NULL);
	}
	return true;
}

bool output_read(struct output *o, size_t limit)
{
	char bytes[8192];

	while (o->loop && o->fd >= 0 && limit > 0) {
		size_t want = limit < sizeof bytes ? limit : sizeof bytes;
		ssize_t n = read(o->fd, bytes, want);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n <= 0) {
			output_stop(o);
			return lines_flush(&o->lines);
		}
		limit -= (size_t)n;
		if (!lines_feed(&o->lines, bytes, (size_t)n))
			return false;
	}
	return true;
}

void output_start(struct output *o, struct ev_loop *loop, int fd,
        void (*readable)(struct ev_loop *loop, ev_io *io, int events))
{
	o->loop = loop;
	o->fd = fd;
	ev_io_init(&o->io, readable, fd, EV_READ);
	o->io.data = o->lines.data;
	ev_io_start(loop, &o->io);
}

void output_stop(struct output *o)
{
	if (!o->loop || o->fd < 0)
		return;
	ev_io_stop(o->loop, &o->io);
	o->fd = close_fd(o->fd);
}

void output_done(struct output *o)
{
	output_stop(o);
	lines_done(&o->lines);
}

/* ---- from one handoffd to the next ---- */

void tail_load(struct tail *t, struct loader *l, const json_t *from)
{
	size_t n = 0;
	_cleanup_free_ char *text = load_text(l, from, &n);

	for (const char *at = text; at && *at;) {
		size_t line = strcspn(at, "\n");

		tail_add(t, at, line);
		at += line + (at[line] == '\n');
	}
}

void lines_load(struct lines *to, struct loader *l, const json_t *from)
{
	size_t n = 0;
	_cleanup_free_ char *text = load_text(l, from, &n);

	if (text && n <= OUTPUT_MAX_LINE)
		(void)keep(to, text, n);
}
