/* SPDX-License-Identifier: MIT */
/* Who gets which part of a service's new connections: a wanted set, made true by the shell in one
 * turn. */
#ifndef CORE_SHARE_H
#define CORE_SHARE_H

#include "core/service.h"

/* All of them to `to`; NULL: to nobody. What was before is kept until share_undo() or the next
 * call. */
void share_give(struct service *sv, const struct generation *to);
/* `part` to a canary, what is left to the one that serves. */
void share_split(struct service *sv, const struct generation *serving,
        const struct generation *canary, unsigned part);
/* The turn failed: as it was before. */
void share_undo(struct service *sv);
/* Sum of all parts: SHARE_ALL or 0. */
unsigned share_total(const struct service *sv);

#endif
