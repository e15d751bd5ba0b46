/* SPDX-License-Identifier: MIT */
#ifndef EXAMPLES_SLEEPD_HTTP_H
#define EXAMPLES_SLEEPD_HTTP_H

#include <ev.h>
#include <stdbool.h>

struct handoff;
struct handoff_connection;

struct http_server {
	struct ev_loop *loop;
	struct handoff *handoff; /* when it drains, every answer is its connection's last */
	bool ill;                /* GET /health is answered with 503 */
};

void http_init(struct http_server *s, struct ev_loop *loop, struct handoff *handoff);
/* Serves an accepted, non-blocking connection, and owns it from here on. */
void http_take(struct http_server *s, struct handoff_connection *tracked, int fd);

#endif
