/* SPDX-License-Identifier: MIT */
/* The variables a worker gets. Pure: everything it is made of is passed in.
 *
 * An allocation that fails is remembered and makes every later call do nothing, so that only the
 * end of a construction has to look at `failed`. */
#ifndef PROCESS_ENVIRONMENT_H
#define PROCESS_ENVIRONMENT_H

#include "core/base.h"

#define ENVIRONMENT_MAX 4096 /* variables */

struct environment {
	char **items; /* "KEY=VALUE", owned, items[count] is NULL; NULL while empty */
	size_t count, size;
	int failed; /* 0, -ENOMEM or -E2BIG */
};

void environment_done(struct environment *e);

/* Sets or replaces; `assignment` is "KEY=VALUE", copied. Text without '=' or with an empty key is
 * ignored. */
void environment_put(struct environment *e, const char *assignment);
void environment_set(struct environment *e, const char *key, const char *format, ...)
        _printf_(3, 4);
/* Its value inside of `e`, or NULL. */
char *environment_get(const struct environment *e, const char *key);
void environment_unset(struct environment *e, const char *key);

/* Puts all of `from` (NULL-terminated) but what was meant for handoffd itself: the variables of
 * systemd and of every socket-passing dialect; JOURNAL_STREAM too if the worker's output is
 * captured. */
void environment_inherit(struct environment *e, char *const *from, bool captured);

/* Reads `text`, the contents of an environment file: lines KEY=VALUE, blank lines, comments with #
 * or ;, an optional `export `, values in "..." (with \" \\ \$ \` \n \r \t) or '...', which may span
 * lines. `name` is for messages. Fails with -EINVAL and name:line. */
int environment_parse(struct environment *e, const char *name, const char *text, size_t length,
        struct ho_error *reterr);

#endif
