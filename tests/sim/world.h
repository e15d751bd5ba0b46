/* SPDX-License-Identifier: MIT */
/* A world without processes and sockets: it does what the core wants (or fails to), has workers of
 * every bad character, and knows on its own what must never happen. In half of the worlds handoffd
 * dies as well, between any two actions, again and again, and the next one has nothing but the
 * state that was written last; it is also replaced in place. */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include "core/supervisor.h"

#include <stdio.h>

/* Where choices come from: a seed, or the bytes of a fuzzer (then a fixed seed). */
struct chance {
	uint64_t state;
	const uint8_t *bytes;
	size_t n_bytes;
	bool from_bytes, ended;
};
struct chance chance_from_seed(uint64_t seed);
struct chance chance_from_bytes(const uint8_t *bytes, size_t n);

struct world_options {
	FILE *trace;       /* NULL: none */
	bool break_it;     /* the world lies to the core's disadvantage: an error must be found */
	bool forget_turns; /* the state is not written before a turn: the same */
	unsigned max_steps;
};
struct world_result {
	unsigned steps;
	unsigned canaries, deploys, scaled, crashes, upgrades;
	unsigned generations, rollbacks, failures, answers, cut;
	char error[512]; /* "" or what was violated */
};
/* Lives a whole life: start, trouble, stop; checks everything after every step. */
struct world_result world_live(struct chance chance, const struct world_options *options);

#endif
