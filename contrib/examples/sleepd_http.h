/* SPDX-License-Identifier: MIT */
#ifndef EXAMPLES_SLEEPD_HTTP_H
#define EXAMPLES_SLEEPD_HTTP_H

#include <ev.h>
#include <stdbool.h>

struct conn;

struct http_server {
	struct ev_loop *loop;
	struct conn *conns;
	bool ill;      /* GET /health is answered with 503 */
	bool draining; /* every answer is its connection's last */
};

void http_init(struct http_server *s, struct ev_loop *loop);
/* Serves an accepted, non-blocking connection, and owns it from here on. */
void http_take(struct http_server *s, int fd);
/* Answers what there is with "Connection: close", gives idle connections a short grace, and breaks
 * the loop when the last one has gone. */
void http_drain(struct http_server *s);

#endif
