/* SPDX-License-Identifier: MIT */
#include "core/lineage.h"

#include <stdlib.h>
#include <string.h>

struct lineage *lineage_ref(struct lineage *l)
{
	if (l)
		l->refs++;
	return l;
}

struct lineage *lineage_unref(struct lineage *l)
{
	while (l && --l->refs == 0) {
		struct lineage *before = l->before;

		config_unref(l->config);
		free(l->release);
		free(l);
		l = before;
	}
	return NULL;
}

static void forget_beyond(struct lineage *l, unsigned n)
{
	while (l && --n)
		l = l->before;
	if (l)
		l->before = lineage_unref(l->before);
}

struct lineage *lineage_new(uint32_t generation, struct config *config,
        const struct service_config *settings, const char *release, struct lineage *before)
{
	struct lineage *l = calloc(1, sizeof *l);
	char *copy = release ? strdup(release) : NULL;

	if (!l || (release && !copy)) {
		free(l);
		free(copy);
		return NULL;
	}
	*l = (struct lineage){.refs = 1,
	        .generation = generation,
	        .config = config_ref(config),
	        .settings = settings,
	        .release = copy,
	        .before = lineage_ref(before)};
	forget_beyond(l, LINEAGE_MAX);
	return l;
}
