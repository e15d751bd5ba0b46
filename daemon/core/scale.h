/* SPDX-License-Identifier: MIT */
/* How many workers of a generation shall run, and getting there without a new generation; and the
 * roll-out in steps, where a new generation grows as the one before it shrinks. */
#ifndef CORE_SCALE_H
#define CORE_SCALE_H

#include "core/generation.h"

/* The first `n` of its workers shall run, the others are told to stop. False when memory is short:
 * nothing was changed. */
bool scale_to(struct generation *g, unsigned n);
/* Starts who is missing, ends who is too many, kills who does not go; true if something changed. */
bool scale_advance(struct generation *g);
usec_t scale_deadline(const struct generation *g);
/* Do all run (and have said that they are ready, if they say such things), and no others? */
bool scale_done(const struct generation *g);
/* May some of its workers be told to stop while it serves? */
bool scale_can_shrink(const struct generation *g);

/* A new generation shall replace `old` in steps, if its settings say so. */
void step_plan(struct generation *g, const struct generation *old);
/* Another one serves by now, perhaps: false if this one cannot be replaced in steps. */
bool step_begin(struct generation *g, const struct generation *old);
/* Its part of the connections while it is not complete. */
unsigned step_part(const struct generation *g);
/* It has got this part: the old one makes room. */
void step_taken(struct generation *g, struct generation *old);
/* Where that has come to nothing: the old one grows again as the workers of the new one leave.
 * True if something changed. */
bool step_refill(struct generation *old);
/* Of a canary that is rolled out in steps; may begin a turn. */
bool step_advance(struct generation *g);

#endif
