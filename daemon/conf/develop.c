/* SPDX-License-Identifier: MIT */
/* What development mode makes of a configuration: other defaults, and only some of the services. */
#include "conf/load.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static bool is_set(const struct service_config *s, const char *key)
{
	for (size_t i = 0; i < s->n_origins; i++)
		if (!strcmp(s->origins[i].key, key))
			return s->origins[i].origin.file != NULL;
	return false;
}

/* Old code is of no use: nothing is kept for a rollback, and a browser that keeps its connection
 * open is made to come again. */
static void set_defaults(struct service_config *s)
{
	if (!is_set(s, "rollout.bake"))
		s->rollout.bake = 0;
	s->rollout.canary = s->rollout.step = 0;
	if (!is_set(s, "drain.idle-after"))
		s->drain.idle_after = 100 * USEC_PER_MSEC;
	if (!is_set(s, "drain.deadline"))
		s->drain.deadline = 10 * USEC_PER_SEC;
	if (geteuid() != 0) { /* who develops is seldom root, and has what he has */
		s->user = s->group = NULL;
		s->groups.count = 0;
	}
}

static bool is_wanted(const struct service_config *s, char *const *only)
{
	if (!only || !*only)
		return true;
	for (; *only; only++)
		if (!strcmp(*only, s->name))
			return true;
	return false;
}

int config_develop(struct config *c, char *const *only, struct mistakes *mistakes)
{
	size_t n = 0;

	for (char *const *name = only; name && *name; name++)
		if (!config_find(c, *name)) {
			mistakes_add(mistakes, c->file, 0, "no service is named \"%s\"", *name);
			return -EINVAL;
		}
	for (size_t i = 0; i < c->n_services; i++)
		if (is_wanted(&c->services[i], only))
			c->services[n++] = c->services[i];
	c->n_services = n;
	for (size_t i = 0; i < n; i++)
		set_defaults(&c->services[i]);
	return 0;
}
