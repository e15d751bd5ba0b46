/* SPDX-License-Identifier: MIT */
/* A set of sockets by their kernel cookie (or of inodes), with when each was first seen. Open
 * addressing, grows, never shrinks; a zeroed struct is an empty set. Holds what the dumps found and
 * forgets what has ended.
 *
 * A dump is not a snapshot: a socket can be passed over when a neighbour in its hash bucket goes
 * away while the dump is being read. So one that is missing is only dropped when the next dump does
 * not show it either: cookie_set_begin(), cookie_set_add() of all that is found,
 * cookie_set_sweep(). */
#ifndef SOCKETS_COOKIE_SET_H
#define SOCKETS_COOKIE_SET_H

#include "core/base.h"

struct cookie_entry {
	uint64_t cookie; /* 0: free slot */
	usec_t seen;     /* first */
	uint32_t round;  /* of the last dump that showed it */
	uint8_t missed;  /* by how many dumps in a row */
	bool idle, queued;
};

struct cookie_set {
	struct cookie_entry *slots;
	size_t size; /* 0 or a power of two */
	size_t count, n_idle, n_queued;
	uint32_t round;
	usec_t oldest; /* smallest `seen`, if count > 0 */
	size_t n_oldest;
};

void cookie_set_done(struct cookie_set *s);
/* Forgets all and keeps the memory. */
void cookie_set_clear(struct cookie_set *s);

/* A new dump begins. */
void cookie_set_begin(struct cookie_set *s);
/* Finds or adds; notes that the present dump showed it. NULL when memory is short, or for cookie 0.
 * The entry is valid until the next change of the set. */
struct cookie_entry *cookie_set_add(struct cookie_set *s, uint64_t cookie, usec_t now);
/* Ends a dump: drops what two dumps in a row did not show. Returns how many are still kept although
 * this one did not show them. */
size_t cookie_set_sweep(struct cookie_set *s);

const struct cookie_entry *cookie_set_find(const struct cookie_set *s, uint64_t cookie);
void cookie_set_flags(struct cookie_set *s, struct cookie_entry *e, bool idle, bool queued);
/* Was it there? */
bool cookie_set_remove(struct cookie_set *s, uint64_t cookie);

#endif
