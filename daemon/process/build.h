/* SPDX-License-Identifier: MIT */
/* The inside of builds, see process.h: in a session of their own, their ends seen through a pidfd.
 */
#ifndef PROCESS_BUILD_H
#define PROCESS_BUILD_H

#include "process/process.h"

/* `list` is where it is found until it is freed; *running counts it until it has ended. */
int build_start(struct ev_loop *loop, struct build **list, size_t *running, struct release *release,
        const struct build_handlers *handlers, struct build **ret, struct ho_error *reterr);
/* The one whose process it is and has not ended, or NULL. */
struct build *build_find(struct build *list, pid_t pid);
/* Its process is a zombie; reaps it, tells, and frees it. */
void build_ended(struct build *b);

#endif
