/* SPDX-License-Identifier: MIT */
/* What stands between a file and libconfuse: everything that the parser accepts silently or counts
 * wrongly is refused or taken out here. See guard.c. */
#ifndef CONF_GUARD_H
#define CONF_GUARD_H

#include "conf/load.h"

/* What an empty list is replaced with, since the parser reports it to nobody. */
#define GUARD_EMPTY_LIST "\001"

/* A bare option that stands behind the text; it is met at root level unless the text is cut. */
#define GUARD_SENTINEL "__end_of_file"

struct guarded {
	char *text; /* for the parser: terminated, comments blank, with the sentinel at its end */
	char *mask; /* as long: every byte of a quoted string but its newlines is GUARD_QUOTED */
	size_t length;
	int last_line; /* of the text itself; the sentinel stands behind it */
};
#define GUARD_QUOTED '\002'

/* 0; -EINVAL with mistakes when the parser must not see it; -ENOMEM. `g` is to be released by
 * guard_done() in every case. May add mistakes and still return 0. */
int guard_prepare(
        struct guarded *g, const char *file, const char *text, size_t length, struct mistakes *m);
void guard_done(struct guarded *g);

/* Blanks the setting or block called `name` that begins at `line`, so that the parser can go on
 * behind it; with `without_value` the nearest bare `name` at or before that line. False if it
 * cannot be found. *ret_line is where it began. */
bool guard_blank(struct guarded *g, const char *name, int line, bool without_value, int *ret_line);

/* No control characters but tab and newline, and valid UTF-8. */
bool text_is_plain(const char *text);

#endif
