/* SPDX-License-Identifier: MIT */
/* Stops processes for a moment, so that nothing changes while they are looked at. Those of a cgroup
 * are frozen by the kernel, which they do not see. All others, and all if the kernel does not get
 * that done, by SIGSTOP, those
 * that were started first before those that they started, and by SIGCONT in the opposite order. So
 * a parent that asks for stopped children (WUNTRACED) is stopped itself while they are. Who was
 * stopped before by somebody else is left so. */
#ifndef PROCESS_FREEZE_H
#define PROCESS_FREEZE_H

#include <sys/types.h>

#include "core/base.h"

struct cgroup;
struct ev_loop;
struct freeze;

/* Calls `each` for every process that is meant. */
typedef void (*freeze_lister)(void *data, void (*each)(pid_t pid, void *arg), void *arg);

/* `cgroup` is borrowed; NULL: none. `done` is called, from the loop or before this returns, when
 * all stand still, or when after 300 ms some do not. NULL when memory is short. */
struct freeze *freeze_new(struct ev_loop *loop, const struct cgroup *cgroup, freeze_lister lister,
        void *lister_data, void (*done)(void *data), void *data);
/* Those that stand still go on, in any order: whoever stopped them is not there any more. */
void freeze_end(const struct cgroup *cgroup, freeze_lister lister, void *lister_data);
/* They go on. Accepts NULL, returns NULL. */
struct freeze *freeze_free(struct freeze *f);

#endif
