/* SPDX-License-Identifier: MIT */
#include "core/share.h"

void share_give(struct service *sv, const struct generation *to)
{
	for (unsigned i = 0; i < sv->n_generations; i++) {
		struct generation *g = sv->generations[i];

		g->share_before = g->share;
		g->share = g == to ? SHARE_ALL : 0;
	}
}

void share_undo(struct service *sv)
{
	for (unsigned i = 0; i < sv->n_generations; i++)
		sv->generations[i]->share = sv->generations[i]->share_before;
}

unsigned share_total(const struct service *sv)
{
	unsigned total = 0;

	for (unsigned i = 0; i < sv->n_generations; i++)
		total += sv->generations[i]->share;
	return total;
}
