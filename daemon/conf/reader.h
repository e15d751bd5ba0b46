/* SPDX-License-Identifier: MIT */
/* Text to raw tree, by libconfuse behind the guard. */
#ifndef CONF_READER_H
#define CONF_READER_H

#include "conf/raw.h"

struct mistakes;

/* The tree of `text` in *ret, made in `arena`. 0 even if there are mistakes that leave the rest
 * readable (*ret_whole is false then if something could not be read), -EINVAL if nothing could be
 * read, -ENOMEM. Not to be called from two threads at once, as the parser has state of its own. */
int reader_read(const char *file, const char *text, size_t length, struct config *arena,
        struct raw_block **ret, bool *ret_whole, struct mistakes *m);

#endif
