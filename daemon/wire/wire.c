/* SPDX-License-Identifier: MIT */
#include "wire/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define FIRST_ROOM ((size_t)4096)
#define KEEP_ROOM                                                                                  \
	((size_t)64 << 10) /* a buffer larger than this is given back when it is empty             \
	                    */

/* Length of the well-formed UTF-8 sequence at `s`, 0 if there is none (RFC 3629). */
static size_t utf8_length(const unsigned char *s, size_t n)
{
	size_t length = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

	if (length == 0 || length > n || s[0] > 0xf4 || s[0] == 0)
		return 0;
	for (size_t i = 1; i < length; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return length;
}

json_t *wire_text(const char *bytes, size_t n)
{
	static const char replacement[] = "\xef\xbf\xbd";
	json_t *j = json_stringn(bytes, n);
	char *clean;
	size_t used = 0;

	if (j && !memchr(bytes, 0, n))
		return j;
	json_decref(j);
	clean = malloc(n * 3 + 1);
	if (!clean)
		return NULL;
	for (size_t i = 0, step; i < n; i += step) {
		step = utf8_length((const unsigned char *)bytes + i, n - i);
		memcpy(clean + used, step ? bytes + i : replacement, step ? step : 3);
		used += step ? step : 3;
		step += !step;
	}
	j = json_stringn_nocheck(clean, used);
	free(clean);
	return j;
}

json_t *wire_string(const char *s)
{
	return s ? wire_text(s, strlen(s)) : json_null();
}

/* The parser recurses, so the depth is known before it starts. */
static bool too_deep(const char *bytes, size_t n)
{
	bool quoted = false;
	int depth = 0;

	for (size_t i = 0; i < n; i++) {
		char c = bytes[i];

		if (quoted && c == '\\')
			i++;
		else if (c == '"')
			quoted = !quoted;
		else if (quoted)
			continue;
		else if ((c == '{' || c == '[') && ++depth > WIRE_MAX_DEPTH)
			return true;
		else if (c == '}' || c == ']')
			depth--;
	}
	return false;
}

int wire_decode(const char *bytes, size_t n, json_t **ret, struct ho_error *reterr)
{
	json_error_t e;
	json_t *j;

	if (too_deep(bytes, n))
		return ho_error_set(reterr, -EBADMSG, "the message is nested deeper than %d levels",
		        WIRE_MAX_DEPTH);
	j = json_loadb(bytes, n, JSON_REJECT_DUPLICATES, &e);
	if (!j && json_error_code(&e) == json_error_out_of_memory)
		return ho_error_set(reterr, -ENOMEM, "memory is short");
	if (!j)
		return ho_error_set(reterr, -EBADMSG, "the message is not JSON: %s (at byte %d)",
		        e.text, e.position);
	if (!json_is_object(j)) {
		json_decref(j);
		return ho_error_set(reterr, -EBADMSG, "the message is not a JSON object");
	}
	*ret = j;
	return 0;
}

char *wire_encode(const json_t *object, size_t *ret_size)
{
	char *s = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(15));

	if (s)
		*ret_size = strlen(s) + 1;
	return s;
}

/* Makes `more` bytes free behind *end, moving what is left to the front first. */
static int make_room(char **p, size_t *start, size_t *end, size_t *size, size_t more)
{
	size_t used = *end - *start, wanted = *size ? *size : FIRST_ROOM;
	char *grown;

	if (*size - *end >= more)
		return 0;
	/* Moved only when half of the buffer comes free: every byte is then moved once at most. */
	if (*start >= *size / 2 && *size - used >= more) {
		memmove(*p, *p + *start, used);
		*start = 0;
		*end = used;
		return 0;
	}
	while (wanted - used < more) {
		if (wanted > SIZE_MAX / 2)
			return -ENOMEM;
		wanted *= 2;
	}
	grown = malloc(wanted);
	if (!grown)
		return -ENOMEM;
	if (used)
		memcpy(grown, *p + *start, used);
	free(*p);
	*p = grown;
	*start = 0;
	*end = used;
	*size = wanted;
	return 0;
}

/* Gives the memory back when nothing is in it. */
static void when_empty(char **p, size_t *start, size_t *end, size_t *size)
{
	if (*start != *end)
		return;
	*start = *end = 0;
	if (*size > KEEP_ROOM) {
		free(*p);
		*p = NULL;
		*size = 0;
	}
}

void wire_reader_init(struct wire_reader *r, size_t max)
{
	*r = (struct wire_reader){.max = max};
}

void wire_reader_done(struct wire_reader *r)
{
	free(r->p);
	*r = (struct wire_reader){.max = r->max};
}

bool wire_reader_has_room(const struct wire_reader *r)
{
	/* One byte more, for the NUL of the longest message. */
	return r->end - r->start < r->max + 1;
}

int wire_reader_fill(struct wire_reader *r, int fd)
{
	size_t seen = r->scanned - r->start, left = r->max + 1 - (r->end - r->start), room;
	ssize_t n;

	if (!wire_reader_has_room(r))
		return -EMSGSIZE;
	if (make_room(&r->p, &r->start, &r->end, &r->size, left < FIRST_ROOM ? left : FIRST_ROOM))
		return -ENOMEM;
	r->scanned = r->start + seen;
	room = r->size - r->end < left ? r->size - r->end : left;
	do
		n = recv(fd, r->p + r->end, room, 0);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EWOULDBLOCK ? -EAGAIN : -errno;
	r->end += (size_t)n;
	return (int)n;
}

int wire_reader_next(struct wire_reader *r, json_t **ret, struct ho_error *reterr)
{
	char *nul;
	size_t length;
	int e;

	if (r->scanned == r->end)
		nul = NULL;
	else
		nul = memchr(r->p + r->scanned, 0, r->end - r->scanned);
	if (!nul) {
		r->scanned = r->end;
		if (!wire_reader_has_room(r))
			return ho_error_set(
			        reterr, -EMSGSIZE, "the message is longer than %zu bytes", r->max);
		return 0;
	}
	length = (size_t)(nul - (r->p + r->start));
	e = wire_decode(r->p + r->start, length, ret, reterr);
	r->start += length + 1;
	r->scanned = r->start;
	when_empty(&r->p, &r->start, &r->end, &r->size);
	r->scanned = r->start;
	return e ? e : 1;
}

void wire_writer_init(struct wire_writer *w, size_t max)
{
	*w = (struct wire_writer){.max = max};
}

void wire_writer_done(struct wire_writer *w)
{
	free(w->p);
	*w = (struct wire_writer){.max = w->max};
}

size_t wire_writer_waiting(const struct wire_writer *w)
{
	return w->end - w->start;
}

int wire_writer_add(struct wire_writer *w, const char *bytes, size_t n)
{
	if (n > w->max || wire_writer_waiting(w) > w->max - n)
		return -ENOBUFS;
	if (make_room(&w->p, &w->start, &w->end, &w->size, n))
		return -ENOMEM;
	memcpy(w->p + w->end, bytes, n);
	w->end += n;
	return 0;
}

int wire_writer_send(struct wire_writer *w, int fd)
{
	while (w->start < w->end) {
		ssize_t n =
		        send(fd, w->p + w->start, w->end - w->start, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
		w->start += (size_t)n;
	}
	when_empty(&w->p, &w->start, &w->end, &w->size);
	return 0;
}
