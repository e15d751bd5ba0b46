/* SPDX-License-Identifier: MIT */
/* The turns of a service's new connections: to a new generation, in part to a canary, and back. One
 * at a time: begun here, carried out by the shell, answered here. */
#ifndef CORE_TURN_H
#define CORE_TURN_H

#include "core/service.h"

/* Asks for it; nothing else is decided for the service until the answer. `to` is the generation it
 * is about, for PART the canary, which then gets `part`. */
void turn_begin(struct service *sv, enum turn_kind kind, struct generation *to, unsigned part);
/* Asks for the one under way once more. */
void turn_again(struct service *sv);
/* The answer. */
void turn_answered(struct service *sv, bool ok, const char *why);

/* A generation that is READY gets its connections: all of them or a canary's part. */
void turn_to_ready(struct service *sv);
/* Back from `from`, which has failed while it was watched; false: nothing to go back to. */
bool turn_back(struct service *sv, struct generation *from);
/* Undoes a canary; `outcome` is static, `why` is copied. */
void turn_abort(
        struct generation *canary, enum outcome_code code, const char *outcome, const char *why);
/* What somebody has asked for (promote, abort, rollback). */
void turn_wanted(struct service *sv);
/* As generation_advance() and generation_next_deadline(), for a canary. */
bool turn_canary_advance(struct generation *g);
usec_t turn_canary_deadline(const struct generation *g);
/* The one that serves makes room for `g`, which is to take its place. */
void turn_leaves(struct generation *old, struct generation *g);
/* Nobody gets new connections any more. */
void turn_retire_all(struct service *sv);

#endif
