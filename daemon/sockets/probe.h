/* SPDX-License-Identifier: MIT */
/* Asks a generation through its real address whether it serves, before any client can reach it. */
#ifndef SOCKETS_PROBE_H
#define SOCKETS_PROBE_H

#include "core/base.h"
#include "sockets/sockets.h"

enum probe_kind {
	PROBE_ACCEPTED, /* connect; done when the connection has been taken from the accept queue */
	PROBE_LISTENING, /* a socket that the program bound listens; for one of ours as ACCEPTED */
	PROBE_HTTP,      /* and a GET of `path` was answered 2xx */
};

struct probe;
/* ok, or the reason in words ("HTTP 503 from /health"). Called once, unless the probe is freed
 * before. */
typedef void (*probe_done)(void *data, bool ok, const char *text);

/* Probes listener i until it succeeds: a connection that is refused, reset, closed without an
 * answer or answered otherwise is tried again (5 ms, doubling to 200 ms), until the caller frees
 * the probe at its deadline; `done` is called with false only when it can never work.
 * probe_status() tells what the last attempt saw; NULL: it is over. */
int probe_new(struct ev_loop *loop, struct listener_set *set, size_t i, enum probe_kind kind,
        const char *path, probe_done done, void *data, struct probe **ret, struct ho_error *reterr);
/* The address has got another socket, or lost one: begins again at once, unless it is done. */
void probe_hurry(struct probe *p);
const char *probe_status(const struct probe *p);
struct probe *probe_free(struct probe *p);

#endif
