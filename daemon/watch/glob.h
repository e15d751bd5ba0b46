/* SPDX-License-Identifier: MIT */
/* Patterns of paths as gitignore(5) and editors know them: `*` and `?` and `[a-z]` match within one
 * component, `**` any number of components. Pure; the time is at most that of the pattern times the
 * path squared. */
#ifndef WATCH_GLOB_H
#define WATCH_GLOB_H

#include "core/base.h"

bool glob_match(const char *pattern, const char *path);
/* Has it anything but plain characters? */
bool glob_is_pattern(const char *text);

#endif
