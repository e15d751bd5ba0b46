/* SPDX-License-Identifier: MIT */
/* Reloads pages in browsers when a new generation serves. A page that has
 *
 *   <script src="http://localhost:PORT/reload.js"></script>
 *
 * keeps a connection to /events open (server-sent events) and reloads itself when it is told so. No
 * more of HTTP is understood than that: a GET of one of the two paths. */
#ifndef TERMINAL_BROWSER_H
#define TERMINAL_BROWSER_H

#include "core/base.h"

struct ev_loop;
struct browsers;

/* Listens on `port` of 127.0.0.1 and ::1. */
int browsers_new(
        struct ev_loop *loop, uint16_t port, struct browsers **ret, struct ho_error *reterr);
/* Accepts NULL. */
struct browsers *browsers_free(struct browsers *bs);
/* Tells every page that is open. */
void browsers_reload(struct browsers *bs);

#endif
