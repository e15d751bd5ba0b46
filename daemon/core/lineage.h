/* SPDX-License-Identifier: MIT */
/* What served before: releases and settings that a rollback can start again. */
#ifndef CORE_LINEAGE_H
#define CORE_LINEAGE_H

#include "core/config.h"

#define LINEAGE_MAX 8 /* rollbacks in a row */

struct lineage {
	unsigned refs;
	uint32_t generation;   /* that served */
	struct config *config; /* referenced */
	const struct service_config *settings;
	char *release;          /* or NULL */
	struct lineage *before; /* referenced; NULL: nothing is known */
};

/* NULL when memory is short. Takes references of the config and of `before`, and copies the
 * release. What lies further back than LINEAGE_MAX is forgotten. */
struct lineage *lineage_new(uint32_t generation, struct config *config,
        const struct service_config *settings, const char *release, struct lineage *before);
struct lineage *lineage_ref(struct lineage *l);   /* accepts NULL */
struct lineage *lineage_unref(struct lineage *l); /* accepts NULL, returns NULL */

#endif
