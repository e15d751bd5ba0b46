/* SPDX-License-Identifier: MIT */
/* Plans how a child gets exactly the descriptors it should have, whatever numbers they have in
 * handoffd and however sources and targets overlap. Pure: the plan is a list of steps that somebody
 * else carries out in order. First every source that a target would overwrite is lifted above all
 * targets, then all are placed, then everything that is no target is sealed (close-on-exec). */
#ifndef PROCESS_FDMAP_H
#define PROCESS_FDMAP_H

#include "core/base.h"
#include "core/config.h"

#define FDMAP_MAX_ENTRIES (CONFIG_MAX_LISTENERS + 5) /* 0-2, the sockets, readiness, einhorn's */
#define FDMAP_MAX_STEPS (3 * FDMAP_MAX_ENTRIES + 1)

struct fdmap_entry {
	int from, to;
};

struct fdmap {
	struct fdmap_entry entries[FDMAP_MAX_ENTRIES]; /* ascending by `to`, which are distinct */
	size_t count;
};

enum fdmap_kind {
	FDMAP_LIFT,  /* slot := a close-on-exec copy of descriptor `from`, numbered `to` or above */
	FDMAP_PLACE, /* descriptor `to` := slot if that was lifted, else `from` (never equal to
	                `to`) */
	FDMAP_SEAL,  /* every descriptor from..to becomes close-on-exec; `to` may be INT_MAX */
};

struct fdmap_step {
	enum fdmap_kind kind;
	size_t slot;
	bool lifted;
	int from, to;
};

struct fdmap_plan {
	struct fdmap_step steps[FDMAP_MAX_STEPS];
	size_t count;
	int floor; /* lowest number above all targets */
};

/* The child's descriptor `to` shall be handoffd's `from`. -EEXIST: `to` is taken already; -EINVAL:
 * a negative number; -E2BIG: too many. */
int fdmap_add(struct fdmap *m, int from, int to);
void fdmap_make(const struct fdmap *m, struct fdmap_plan *ret);

#endif
