/* SPDX-License-Identifier: MIT */
/* Lists of what is not watched, in the language of gitignore(5). */
#ifndef WATCH_IGNORE_H
#define WATCH_IGNORE_H

#include "core/base.h"

#define IGNORE_MAX_RULES 4096
#define IGNORE_MAX_BYTES ((size_t)256 << 10) /* of a file */

struct ignore;

/* NULL when memory is short. */
struct ignore *ignore_new(void);
struct ignore *ignore_free(struct ignore *ig);
/* One line: a pattern, a comment or nothing; `n` bytes. 0 or -ENOMEM. */
int ignore_add(struct ignore *ig, const char *line, size_t n);
/* The lines of a file, at most IGNORE_MAX_BYTES; NULL if it cannot be read, or has no rule. */
struct ignore *ignore_load(int directory, const char *path);
/* What everybody wants ignored: version control, packages of others, files of editors, logs. */
int ignore_add_defaults(struct ignore *ig);

/* 1: ignored, -1: named as not ignored, 0: not named. `path` is relative to where the list stands.
 */
int ignore_verdict(const struct ignore *ig, const char *path, bool is_directory);

#endif
