/* SPDX-License-Identifier: MIT */
/* HTTP/1.1 answers, fed in pieces of any size: status line, fields (16 KiB), and a body by length,
 * in chunks or to the end of the connection. Strict: what cannot be understood is a failure. */
#ifndef TOOLS_LOAD_HTTP_H
#define TOOLS_LOAD_HTTP_H

#include "core/base.h"

#define HTTP_MAX_HEAD 16384

enum http_state {
	HTTP_HEAD,
	HTTP_BODY,
	HTTP_BODY_TO_END,
	HTTP_CHUNK_SIZE,
	HTTP_CHUNK,
	HTTP_CHUNK_END,
	HTTP_TRAILER,
	HTTP_COMPLETE,
};

struct http_response {
	enum http_state state;
	char *head; /* owned; the head, later the line which is being read */
	size_t head_len, head_size, trailers;
	uint64_t left; /* of the body or chunk */
	int status;
	bool started; /* a byte has come */
	bool close;   /* no other request on this connection */
	bool has_pid, has_generation;
	uint64_t pid, generation; /* fields X-Pid and X-Generation */
	const char *problem;      /* after -EPROTO */
	void (*on_body)(void *data, const char *p, size_t n);
	void *data;
};

void http_init(
        struct http_response *r, void (*on_body)(void *data, const char *p, size_t n), void *data);
void http_done(struct http_response *r);
/* Takes bytes until the answer is complete; -EPROTO: it is not HTTP, -ENOMEM. */
int http_feed(struct http_response *r, const char *p, size_t n, size_t *ret_used);
/* Does the end of the connection complete the answer? */
bool http_end(struct http_response *r);

#endif
