/* SPDX-License-Identifier: MIT */
/* The inside of builds, see process.h: in a session of their own, their ends seen through a pidfd.
 */
#ifndef PROCESS_BUILD_H
#define PROCESS_BUILD_H

#include "process/process.h"
#include "state/fields.h"

/* In a build's environment: the handoffd that has started it. */
#define BUILD_VARIABLE "HANDOFF_BUILD"

/* `list` is where it is found until it is freed; *running counts it until it has ended. */
int build_start(struct ev_loop *loop, struct build **list, size_t *running, struct release *release,
        const struct build_handlers *handlers, struct build **ret, struct ho_error *reterr);
/* For the next handoffd; and from the one before: NULL when it has not left the build's process, or
 * after a failure, which is in the loader. */
json_t *build_save(const struct build *b, struct saver *v);
struct build *build_load(struct ev_loop *loop, struct build **list, size_t *running,
        struct release *release, const struct build_handlers *handlers, const json_t *from,
        struct loader *l);
/* The one whose process it is and has not ended, or NULL. */
struct build *build_find(struct build *list, pid_t pid);
/* Its process is a zombie; reaps it, tells, and frees it. */
void build_ended(struct build *b);

#endif
