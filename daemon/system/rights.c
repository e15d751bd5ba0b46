/* SPDX-License-Identifier: MIT */
#include "system/rights.h"

#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <unistd.h>

static void read_capabilities(struct rights *r)
{
	cap_t caps = cap_get_proc();

	for (int i = 0; caps && i < cap_max_bits() && r->n_capabilities < RIGHTS_MAX; i++) {
		cap_flag_value_t value = CAP_CLEAR;
		char *name;

		if (cap_get_flag(caps, i, CAP_EFFECTIVE, &value) < 0 || value != CAP_SET)
			continue;
		name = cap_to_name(i);
		if (name)
			(void)snprintf(r->capabilities[r->n_capabilities++],
			        sizeof r->capabilities[0], "%s", name);
		(void)cap_free(name);
	}
	(void)cap_free(caps);
}

void rights_read(struct rights *ret)
{
	const struct passwd *p = getpwuid(geteuid());

	*ret = (struct rights){0};
	if (p)
		(void)snprintf(ret->user, sizeof ret->user, "%s", p->pw_name);
	else
		(void)snprintf(ret->user, sizeof ret->user, "%u", (unsigned)geteuid());
	read_capabilities(ret);
}

bool rights_have(const struct rights *r, const char *capability)
{
	for (size_t i = 0; i < r->n_capabilities; i++)
		if (!strcmp(r->capabilities[i], capability))
			return true;
	return false;
}
