/* SPDX-License-Identifier: MIT */
#include "load_http.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_BODY (UINT64_C(1) << 40)
#define MAX_LINE 1024

void http_init(
        struct http_response *r, void (*on_body)(void *data, const char *p, size_t n), void *data)
{
	*r = (struct http_response){.on_body = on_body, .data = data};
}

void http_done(struct http_response *r)
{
	free(r->head);
	r->head = NULL;
}

static int problem(struct http_response *r, const char *text)
{
	r->problem = text;
	return -EPROTO;
}

/* Appends to the head or line, up to `limit` bytes. */
static int collect(struct http_response *r, char c, size_t limit)
{
	if (r->head_len + 1 >= r->head_size) {
		size_t size = r->head_size ? r->head_size * 2 : 512;
		char *grown = realloc(r->head, size);

		if (!grown)
			return -ENOMEM;
		r->head = grown;
		r->head_size = size;
	}
	if (c == '\0' || r->head_len == limit)
		return problem(r, c ? "head or line too long" : "NUL in the head");
	r->head[r->head_len++] = c;
	r->head[r->head_len] = '\0';
	return 0;
}

static bool has_token(const char *value, const char *token)
{
	size_t n = strlen(token);

	while (*value) {
		size_t len = strcspn(value, ",");
		size_t word = strcspn(value, ", \t");

		if (word == n && !strncasecmp(value, token, n))
			return true;
		value += len;
		value += strspn(value, ", \t");
	}
	return false;
}

static int parse_field(struct http_response *r, const char *name, const char *value)
{
	if (!strcasecmp(name, "Content-Length")) {
		if (r->state == HTTP_CHUNK_SIZE)
			return 0; /* Transfer-Encoding overrides it */
		if (!parse_number(value, MAX_BODY, &r->left))
			return problem(r, "malformed Content-Length");
		r->state = HTTP_BODY;
	} else if (!strcasecmp(name, "Transfer-Encoding")) {
		if (strcasecmp(value, "chunked") != 0)
			return problem(r, "unknown Transfer-Encoding");
		r->state = HTTP_CHUNK_SIZE;
	} else if (!strcasecmp(name, "Connection")) {
		if (has_token(value, "close"))
			r->close = true;
	} else if (!strcasecmp(name, "X-Pid")) {
		r->has_pid = parse_number(value, UINT32_MAX, &r->pid);
	} else if (!strcasecmp(name, "X-Generation")) {
		r->has_generation = parse_number(value, UINT64_MAX, &r->generation);
	}
	return 0;
}

static int parse_fields(struct http_response *r, char *line)
{
	char *next;

	for (; *line != '\r'; line = next) {
		char *end = strstr(line, "\r\n");
		char *colon = strchr(line, ':');
		char *value;
		int error;

		if (!end || !colon || colon > end || colon == line)
			return problem(r, "malformed field");
		next = end + 2;
		while (end > colon + 1 && (end[-1] == ' ' || end[-1] == '\t'))
			end--;
		*end = *colon = '\0';
		value = colon + 1 + strspn(colon + 1, " \t");
		error = parse_field(r, line, value);
		if (error)
			return error;
	}
	return 0;
}

static int parse_head(struct http_response *r)
{
	char *p = r->head;
	int error;

	if (strncmp(p, "HTTP/1.", 7) != 0 || (p[7] != '0' && p[7] != '1') || p[8] != ' ' ||
	        !isdigit((unsigned char)p[9]) || !isdigit((unsigned char)p[10]) ||
	        !isdigit((unsigned char)p[11]) || (p[12] != ' ' && p[12] != '\r'))
		return problem(r, "malformed status line");
	r->status = (p[9] - '0') * 100 + (p[10] - '0') * 10 + (p[11] - '0');
	r->close = p[7] == '0';
	r->state = HTTP_BODY_TO_END;
	error = parse_fields(r, strstr(p, "\r\n") + 2);
	if (error)
		return error;
	r->head_len = 0;
	if (r->status < 200) {
		if (r->status == 101)
			return problem(r, "unasked protocol change");
		r->state = HTTP_HEAD; /* the final answer follows */
	} else if (r->status == 204 || r->status == 304 ||
	           (r->state == HTTP_BODY && r->left == 0)) {
		r->state = HTTP_COMPLETE;
	} else if (r->state == HTTP_BODY_TO_END) {
		r->close = true;
	}
	return 0;
}

static int feed_head(struct http_response *r, char c)
{
	int error = collect(r, c, HTTP_MAX_HEAD);

	if (error)
		return error;
	if (c == '\n' && r->head_len >= 4 && !memcmp(r->head + r->head_len - 4, "\r\n\r\n", 4))
		return parse_head(r);
	return 0;
}

static int end_of_chunk_size(struct http_response *r)
{
	char *end;

	r->head[strcspn(r->head, "; \t\r")] = '\0';
	if (!isxdigit((unsigned char)r->head[0]))
		return problem(r, "malformed chunk size");
	errno = 0;
	r->left = strtoull(r->head, &end, 16);
	if (errno || *end || r->left > MAX_BODY)
		return problem(r, "malformed chunk size");
	r->state = r->left ? HTTP_CHUNK : HTTP_TRAILER;
	return 0;
}

/* The lines around chunks, each with its CRLF. */
static int feed_line(struct http_response *r, char c)
{
	int error = collect(r, c, MAX_LINE);
	size_t n = r->head_len;

	if (error)
		return error;
	if (c != '\n')
		return 0;
	if (n < 2 || r->head[n - 2] != '\r')
		return problem(r, "malformed line end between chunks");
	r->head_len = 0;
	if (r->state == HTTP_CHUNK_SIZE)
		return end_of_chunk_size(r);
	if (r->state == HTTP_TRAILER) {
		r->trailers += n;
		if (r->trailers > HTTP_MAX_HEAD)
			return problem(r, "trailers too long");
		if (n == 2)
			r->state = HTTP_COMPLETE;
		return 0;
	}
	if (n != 2)
		return problem(r, "chunk longer than its size");
	r->state = HTTP_CHUNK_SIZE;
	return 0;
}

static size_t feed_body(struct http_response *r, const char *p, size_t n)
{
	if (r->state != HTTP_BODY_TO_END && n > r->left)
		n = r->left;
	r->on_body(r->data, p, n);
	if (r->state == HTTP_BODY_TO_END)
		return n;
	r->left -= n;
	if (!r->left)
		r->state = r->state == HTTP_CHUNK ? HTTP_CHUNK_END : HTTP_COMPLETE;
	return n;
}

int http_feed(struct http_response *r, const char *p, size_t n, size_t *ret_used)
{
	size_t used = 0;
	int error = 0;

	r->started = r->started || n;
	while (used < n && !error && r->state != HTTP_COMPLETE) {
		switch (r->state) {
		case HTTP_HEAD:
			error = feed_head(r, p[used++]);
			break;
		case HTTP_BODY:
		case HTTP_BODY_TO_END:
		case HTTP_CHUNK:
			used += feed_body(r, p + used, n - used);
			break;
		case HTTP_CHUNK_SIZE:
		case HTTP_CHUNK_END:
		case HTTP_TRAILER:
			error = feed_line(r, p[used++]);
			break;
		case HTTP_COMPLETE:
			break;
		}
	}
	if (!error)
		*ret_used = used;
	return error;
}

bool http_end(struct http_response *r)
{
	if (r->state == HTTP_BODY_TO_END)
		r->state = HTTP_COMPLETE;
	return r->state == HTTP_COMPLETE;
}
