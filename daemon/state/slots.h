/* SPDX-License-Identifier: MIT */
/* A text in a file, replaced as a whole: whoever reads it finds the last one that was written to
 * its end, whenever the writer died. */
#ifndef STATE_SLOTS_H
#define STATE_SLOTS_H

#include "core/base.h"

struct slots {
	int fd;                        /* borrowed; -1: none */
	uint64_t sequence, at, length; /* of the text in force; sequence 0: there is none */
};

/* 0 or negative errno; what was in force stays so then. */
int slots_write(struct slots *s, const char *text, size_t n);
/* Finds the text in force: heap, terminated, or NULL. */
char *slots_read(struct slots *s);

#endif
