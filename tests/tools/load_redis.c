/* SPDX-License-Identifier: MIT */
#include "load_redis.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LINE 64
#define MAX_BULK (UINT64_C(512) << 20) /* of redis */

static int take_line(struct http_response *r)
{
	char *line = r->head;
	size_t n = r->head_len;

	if (n < 3 || line[n - 2] != '\r') {
		r->problem = "malformed reply";
		return -EPROTO;
	}
	line[n - 2] = '\0';
	r->head_len = 0;
	if (!strcmp(line, "*-1"))
		return 0; /* the wait is over; the string follows */
	if (line[0] != '$' || !parse_number(line + 1, MAX_BULK, &r->left)) {
		r->problem = line[0] == '-' ? "redis said an error" : "unexpected reply";
		return -EPROTO;
	}
	r->state = r->left ? HTTP_BODY : HTTP_CHUNK_END;
	return 0;
}

static int feed_line(struct http_response *r, char c)
{
	if (!r->head)
		r->head = malloc(MAX_LINE);
	if (!r->head)
		return -ENOMEM;
	if (r->head_len == MAX_LINE || c == '\0') {
		r->problem = "reply too long";
		return -EPROTO;
	}
	r->head[r->head_len++] = c;
	return c == '\n' ? take_line(r) : 0;
}

/* The line end behind the string. */
static int feed_end(struct http_response *r, char c)
{
	if (c != "\r\n"[r->head_len]) {
		r->problem = "string longer than its size";
		return -EPROTO;
	}
	if (r->head_len++ == 1)
		r->state = HTTP_COMPLETE;
	return 0;
}

int redis_feed(struct http_response *r, const char *p, size_t n, size_t *ret_used)
{
	size_t used = 0, part;
	int error = 0;

	r->started = r->started || n;
	while (used < n && !error && r->state != HTTP_COMPLETE) {
		if (r->state == HTTP_HEAD) {
			error = feed_line(r, p[used++]);
		} else if (r->state == HTTP_BODY) {
			part = n - used < r->left ? n - used : (size_t)r->left;
			r->on_body(r->data, p + used, part);
			used += part;
			r->left -= part;
			if (!r->left)
				r->state = HTTP_CHUNK_END;
		} else {
			error = feed_end(r, p[used++]);
		}
	}
	if (!error)
		*ret_used = used;
	return error;
}
