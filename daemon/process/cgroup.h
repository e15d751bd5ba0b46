/* SPDX-License-Identifier: MIT */
/* Control groups (version 2) below the one that handoffd itself is in, if that was delegated to it:
 * one for each generation, and in it one for each worker. They hold on to processes that left their
 * session and whose parent is gone. No controller is ever switched on (cgroup.subtree_control):
 * systemd could not start the unit again beside living workers.
 *
 * As long as one is open here it is locked (flock(2)), so that whoever sweeps lets it be. */
#ifndef PROCESS_CGROUP_H
#define PROCESS_CGROUP_H

#include <sys/types.h>

#include "core/base.h"

/* Zeroed: none. Calls on none do nothing, and fail with -ENOENT. */
struct cgroup {
	int fd;     /* the directory */
	char *path; /* as in /proc/PID/cgroup; NULL: none */
};

/* Our own, if it is marked as delegated (by systemd: Delegate=yes) and directories may be made in
 * it; else negative errno. */
int cgroup_find(struct cgroup *ret);
/* A new one; one of that name that is not in use is removed before. -EEXIST: it is in use. */
int cgroup_make(const struct cgroup *parent, const char *name, struct cgroup *ret);
int cgroup_open(const struct cgroup *parent, const char *name, struct cgroup *ret);
/* Closes it, and removes it with those in it if no process is there. */
void cgroup_done(struct cgroup *c);
/* Removes those in it that are named as a generation, are not in use and have no process. */
void cgroup_sweep(const struct cgroup *c);

/* Is it in this one, or in one below it? */
bool cgroup_holds(const struct cgroup *c, pid_t pid);
/* Those that are in this very one; zombies are not. */
void cgroup_each(const struct cgroup *c, void (*each)(pid_t pid, void *arg), void *arg);
/* SIGKILL for all in it and below, also for those that are being started (Linux 5.14). */
int cgroup_kill(const struct cgroup *c);
/* Asks the kernel to freeze all in it and below, or lets them go on; does not wait. */
int cgroup_freeze(const struct cgroup *c, bool frozen);
/* Opens what tells of it: changes are shown by EPOLLPRI, cgroup_is_frozen() reads it again. */
int cgroup_open_events(const struct cgroup *c);
bool cgroup_is_frozen(int events_fd);
/* For a child that is to be in it, before it executes: async-signal-safe. */
int cgroup_enter(const struct cgroup *c);

#endif
