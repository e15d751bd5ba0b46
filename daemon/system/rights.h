/* SPDX-License-Identifier: MIT */
/* As whom handoffd runs, and with which capabilities. */
#ifndef SYSTEM_RIGHTS_H
#define SYSTEM_RIGHTS_H

#include <stdbool.h>
#include <stddef.h>

#define RIGHTS_MAX 64

struct rights {
	char user[64];                     /* its name, else its number */
	char capabilities[RIGHTS_MAX][32]; /* those in effect: "cap_net_admin" */
	size_t n_capabilities;
};

/* Asks the user database, which may take its time: once, at the start. What cannot be found out
 * counts as not there. */
void rights_read(struct rights *ret);
bool rights_have(const struct rights *r, const char *capability);

#endif
