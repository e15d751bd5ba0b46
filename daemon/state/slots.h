/* SPDX-License-Identifier: MIT */
/* A text in a file that grows by whole additions, and is now and then replaced as a whole: whoever
 * reads it finds what the last call that succeeded has made of it, whenever the writer died. */
#ifndef STATE_SLOTS_H
#define STATE_SLOTS_H

#include "core/base.h"

struct slots {
	int fd;                        /* borrowed; -1: none */
	uint64_t sequence, at, length; /* of the text in force; sequence 0: there is none */
	uint64_t end;                  /* of it and its additions */
};

/* Both: 0 or negative errno; what was in force stays so then. */
int slots_write(struct slots *s, const char *text, size_t n);
/* Only when there is a text. */
int slots_add(struct slots *s, const char *text, size_t n);
/* Are the additions `times` as long as what they were added to? */
bool slots_has_grown(const struct slots *s, unsigned times);
/* Finds the text in force, with its additions: heap, terminated, or NULL. */
char *slots_read(struct slots *s);

#endif
