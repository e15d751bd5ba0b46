/* SPDX-License-Identifier: MIT */
/* What the room itself does with the list of mistakes beyond load.h. */
#ifndef CONF_MISTAKES_H
#define CONF_MISTAKES_H

#include "conf/load.h"

/* Puts the mistakes from index `from` on into the order of their lines in `file`. */
void mistakes_sort(struct mistakes *m, const char *file, size_t from);

#endif
