/* SPDX-License-Identifier: MIT */
#include "core/share.h"

void share_split(struct service *sv, const struct generation *serving,
        const struct generation *canary, unsigned part)
{
	for (unsigned i = 0; i < sv->n_generations; i++) {
		struct generation *g = sv->generations[i];

		g->share_before = g->share;
		g->share = g == canary ? part : g == serving ? SHARE_ALL - part : 0;
	}
}

void share_give(struct service *sv, const struct generation *to)
{
	share_split(sv, NULL, to, SHARE_ALL);
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
