/* SPDX-License-Identifier: MIT */
/* Clients that waited at a listener which came to nothing: each is connected once more to the
 * address it had called, where somebody else listens by now, and the bytes of both sides are passed
 * on until both have ended. For development, where code fails to start every other minute. */
#ifndef SOCKETS_RELAY_H
#define SOCKETS_RELAY_H

#include "core/base.h"
#include "state/fields.h"

struct ev_loop;
struct relays;

/* NULL when memory is short. */
struct relays *relays_new(struct ev_loop *loop);
/* Cuts those that are left. Accepts NULL. */
struct relays *relays_free(struct relays *rs);
/* Takes over a client's connection (non-blocking, owned from now on); a UNIX one goes to `path`.
 * One that cannot be helped is closed. */
void relay_add(struct relays *rs, int client, const char *path);

/* All of them, with what was read and not yet written. */
json_t *relays_save(const struct relays *rs, struct saver *v);
void relays_load(struct relays *rs, const json_t *from, struct loader *l);

#endif
