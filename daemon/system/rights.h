/* SPDX-License-Identifier: MIT */
/* As whom handoffd runs, and with which capabilities. */
#ifndef SYSTEM_RIGHTS_H
#define SYSTEM_RIGHTS_H

#include <stdint.h>

struct rights {
	char user[64];         /* its name, else its number */
	uint64_t capabilities; /* those in effect, as bits: core/capability.h */
};

/* Takes out of effect, at the start, what handoffd does not use. It may still be given to workers
 * (`capabilities`), and so stays permitted. Says nothing if it cannot. */
void rights_lower(void);
/* Asks the user database, which may take its time: once, at the start. What cannot be found out
 * counts as not there. */
void rights_read(struct rights *ret);

#endif
