/* SPDX-License-Identifier: MIT */
#include "process/output.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "system/fd.h"

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

void tail_add(struct tail *t, const char *line, size_t length)
{
	if (length > TAIL_MAX_BYTES - 1)
		length = TAIL_MAX_BYTES - 1;
	while (t->lines == TAIL_MAX_LINES || t->length + length + 1 > TAIL_MAX_BYTES)
		tail_drop_line(t);
	for (size_t i = 0; i < length; i++)
		t->text[t->length++] = line[i] ? line[i] : '?';
	t->text[t->length++] = '\n';
	t->text[t->length] = '\0';
	t->lines++;
}

const char *tail_last(const struct tail *t, unsigned lines, size_t bytes)
{
	const char *end = t->text + t->length, *begin = end;

	for (const char *p = end; p > t->text && (size_t)(end - p) < bytes; p--) {
		bool starts = p - 1 == t->text || p[-2] == '\n';

		if (starts && lines-- > 0)
			begin = p - 1;
		else if (starts)
			break;
	}
	return begin == end && (size_t)(end - t->text) > bytes ? end - bytes : begin;
}

bool lines_flush(struct lines *l)
{
	size_t n = l->length;

	l->length = 0;
	return n == 0 || l->line(l->data, l->is_stderr, l->bytes, n);
}

bool lines_feed(struct lines *l, const char *bytes, size_t n)
{
	while (n > 0) {
		const char *newline = memchr(bytes, '\n', n);
		size_t part = newline ? (size_t)(newline - bytes) : n;

		if (part > OUTPUT_MAX_LINE - l->length) {
			part = OUTPUT_MAX_LINE - l->length;
			newline = NULL;
		}
		memcpy(l->bytes + l->length, bytes, part);
		l->length += part;
		bytes += part + (newline != NULL);
		n -= part + (newline != NULL);
		if (newline) {
			size_t length = l->length;

			l->length = 0;
			if (!l->line(l->data, l->is_stderr, l->bytes, length))
				return false;
		} else if (n > 0 && !lines_flush(l)) {
			return false;
		}
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

	if (!text || n > sizeof to->bytes)
		return;
	memcpy(to->bytes, text, n);
	to->length = n;
}
