/* SPDX-License-Identifier: MIT */
/* The end of a generation: quiet, drained, told, gone; and what happens at the deadline. */
#ifndef CORE_DRAIN_H
#define CORE_DRAIN_H

#include "core/generation.h"

/* Is it told to stop when it is quiet (else only when it is drained)? Who shares a socket cannot be
 * drained; who is told by message finishes on its own. */
bool drain_when_quiet(const struct generation *g);
/* "message", "signal" or "idle" */
const char *drain_by(const struct generation *g);
bool drain_advance(struct generation *g);
usec_t drain_next_deadline(const struct generation *g);
void drain_quiet_checked(struct generation *g, bool quiet);
void drain_counted(struct generation *g, uint64_t total, uint64_t idle, usec_t oldest);
/* Its connections cannot be counted: it is only stopped at its deadline. */
/* handoffd may have died while the processes were stopped. */
void drain_resume(struct generation *g);
/* The last look before it is told. */
void drain_looked(
        struct generation *g, bool unknown, uint64_t total, uint64_t idle, usec_t oldest);
void drain_uncountable(struct generation *g, const char *why);

/* It has no process any more, or none that is ours. */
void drain_release(struct generation *g);

#endif
