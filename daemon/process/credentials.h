/* SPDX-License-Identifier: MIT */
/* Who a worker runs as. Everything that needs names, memory or libraries is looked up beforehand by
 * handoffd; the child only makes system calls on plain numbers, by itself alone (the C library's
 * setuid and friends speak to all threads and must not be used there). */
#ifndef PROCESS_CREDENTIALS_H
#define PROCESS_CREDENTIALS_H

#include <sys/types.h>

#include "core/base.h"
#include "core/config.h"

struct credentials {
	bool change; /* user, group and supplementary groups are to be set */
	uid_t uid;   /* what the worker will have, whether changed or not */
	gid_t gid;
	gid_t *groups; /* owned */
	size_t n_groups;
	char *name, *home,
	        *shell; /* owned; of the password entry, NULL without `user` or an entry */
	/* The child may not share our memory even for a moment: others with its rights could look
	 * into it. (One who has root's is no less than we are.) */
	bool apart;
	uint64_t kept;    /* capabilities, as bits */
	uint64_t dropped; /* leave the bounding set */
};

/* Looks everything up. Fails with words: an unknown name, a wrong capability, no right to change.
 */
int credentials_find(
        const struct service_config *s, struct credentials *ret, struct ho_error *reterr);
void credentials_done(struct credentials *c);

enum credentials_step {
	CREDENTIALS_BOUNDING,
	CREDENTIALS_GROUPS,
	CREDENTIALS_GROUP,
	CREDENTIALS_USER,
	CREDENTIALS_CAPABILITIES,
	CREDENTIALS_AMBIENT,
};
/* Does it, in the child: only async-signal-safe calls, no memory. 0, or negative errno with the
 * step and what it was about (a capability). */
int credentials_apply(
        const struct credentials *c, enum credentials_step *reterr_step, int *reterr_index);

/* "change to user \"web\"": what was attempted in a step, for a message. */
void credentials_describe(
        struct text *t, const struct service_config *s, enum credentials_step step, int index);

#endif
