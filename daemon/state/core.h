/* SPDX-License-Identifier: MIT */
/* The core's tables as a document: supervisor, services, generations, workers, requests. */
#ifndef STATE_CORE_H
#define STATE_CORE_H

#include "core/supervisor.h"
#include "state/fields.h"

/* All but its services, which are its member "services", an array. */
json_t *supervisor_to_json(struct saver *v, const struct supervisor *s);
json_t *service_to_json(struct saver *v, const struct service *sv);
/* Fills a new supervisor, whose steps will use `out`, with everything but what belongs to the
 * shell. `l` has its configurations. Nothing is done yet: see supervisor_resume(). */
void supervisor_from_json(struct loader *l, const json_t *from, struct supervisor *s,
        struct action_list *out, usec_t now);

#endif
