/* SPDX-License-Identifier: MIT */
/* A Procfile (lines "NAME: COMMAND") as the same raw tree as a configuration. */
#ifndef CONF_PROCFILE_H
#define CONF_PROCFILE_H

#include "conf/load.h"
#include "conf/raw.h"

/* Is it one, by its name: "Procfile", "Procfile.dev"? */
bool procfile_is_one(const char *file);
/* Each line a service that runs the command by a shell, with PORT set as Foreman does: from PORT or
 * 5000 on in steps of 100; the one named web listens there. Variables of ".env" beside it are taken
 * in if there is one. Mistakes go to `mistakes`; 0 or -ENOMEM. */
int procfile_read(const char *file, const char *text, size_t length, struct config *scratch,
        struct raw_block **ret, struct mistakes *mistakes);

#endif
