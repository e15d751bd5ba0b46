/* SPDX-License-Identifier: MIT */
/* Workers that have to say that they are alive (WATCHDOG=1), as systemd asks it of a service. One
 * that is silent for too long, or asks for it, is ended by SIGABRT, and by SIGKILL if that does not
 * help; what follows is what follows any crash. */
#ifndef CORE_WATCHDOG_H
#define CORE_WATCHDOG_H

#include "core/generation.h"

/* It is ready, or has said that it is alive: its time begins anew. */
void watchdog_alive(struct generation *g, struct worker *w);
/* Its start may take `more` µs from now. */
void watchdog_extend(struct generation *g, struct worker *w, usec_t more);
/* SIGABRT, for the reason `why`. */
void watchdog_abort(struct generation *g, struct worker *w, const char *why);
/* What they have said meanwhile may not have been heard: the time of all begins anew. */
void watchdog_restart(struct generation *g);
/* As generation_advance() and generation_next_deadline(). */
bool watchdog_advance(struct generation *g);
usec_t watchdog_next_deadline(const struct generation *g);

#endif
