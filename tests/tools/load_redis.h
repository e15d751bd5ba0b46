/* SPDX-License-Identifier: MIT */
/* What a redis server answers to "[BLPOP key time] GET key", fed in pieces: a nil array, if it was
 * asked to wait, and then one bulk string, which is the body. Fills the same picture as an HTTP
 * answer does. */
#ifndef TOOLS_LOAD_REDIS_H
#define TOOLS_LOAD_REDIS_H

#include "load_http.h"

/* As http_feed(). */
int redis_feed(struct http_response *r, const char *p, size_t n, size_t *ret_used);

#endif
