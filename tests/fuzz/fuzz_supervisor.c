/* SPDX-License-Identifier: MIT */
/* Bytes choose what happens in a simulated world; the invariants are the oracle. A crashing input
 * is a test case. */
#include "../sim/world.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct world_options options = {.max_steps = 4000};
	struct world_result r = world_live(chance_from_bytes(data, size), &options);

	if (r.error[0]) {
		fprintf(stderr, "%s\n", r.error);
		abort();
	}
	return 0;
}
