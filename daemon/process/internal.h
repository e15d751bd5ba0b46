/* SPDX-License-Identifier: MIT */
/* One worker as the files of this room see it that keep it from birth to end (process.c) and from
 * one handoffd to the next (save.c). */
#ifndef PROCESS_INTERNAL_H
#define PROCESS_INTERNAL_H

#include <ev.h>

#include "process/assemble.h"
#include "process/build.h"
#include "process/cgroup.h"
#include "process/channel.h"
#include "process/checker.h"
#include "process/credentials.h"
#include "process/einhorn.h"
#include "process/ends.h"
#include "process/helper.h"
#include "process/notify.h"
#include "process/output.h"
#include "process/process.h"
#include "process/socket_calls.h"
#include "process/spawn.h"
#include "process/tree.h"

struct processes {
	struct ev_loop *loop;
	struct process_handlers handlers;
	struct process *first;
	struct build *builds;
	size_t running; /* main processes and builds that have not ended */
	bool foreign;   /* some are, or were, not our children */
	struct helper *helper;
	size_t helpers;     /* that run: 0 or 1 */
	struct cgroup home; /* our own, if cgroups may be made in it */
};

struct process {
	struct processes *ps;
	struct process *next, **link; /* of ps->first */
	struct release *release;
	void *user;
	pid_t pid;
	uint64_t start; /* since boot, in clock ticks: with the pid an identity */
	bool foreign;   /* not our child: that of a handoffd that died */
	int pidfd;      /* -1: has ended */
	ev_io exit_io;
	int ready_fd; /* -1: none */
	ev_io ready_io;
	struct notify notify;
	struct einhorn einhorn;
	struct channel channel;
	struct output outputs[2]; /* stdout, stderr */
	struct tail tail, tail_now;
	struct assembly assembly;
	struct checker *checker;
	struct socket_calls calls;
	int calls_error;
	unsigned held;
	bool freed, ended;
	bool attached; /* no child of ours, nor of a handoffd before us */
	struct tree_known known;
	struct cgroup cgroup; /* none where they are not delegated, or it is not in it */
};

/* Without a process yet; of a known release. NULL when memory is short. */
struct process *process_new(struct processes *ps, struct release *release, void *user);
/* Its process is there: it is watched from now on. */
void process_add(struct process *p);
/* What it reads from: each takes the descriptor over. */
void process_read_ready(struct process *p, int fd);
void process_read_output(struct process *p, int i, int fd);
void process_read_calls(struct process *p, int fd);
void process_read_channel(struct process *p, int fd, int page_fd, bool drains);
/* The readable callback of its notify socket. */
void process_on_notify(struct ev_loop *loop, ev_io *io, int events);
/* How a process ended that was not our child; code 0 before Linux 6.15. */
struct exit_info pidfd_exit_info(int pidfd);
/* Its main process is a zombie, or gone. */
void process_ended(struct process *p);
/* Is it of the session, or descends from there? */
bool process_is_in_tree(const struct process *p, pid_t pid);
/* One for the worker of that number, before its start; NULL: none. */
const struct cgroup *process_make_cgroup(struct process *p, unsigned worker);
/* That of a worker that was started by the handoffd before us. */
void process_find_cgroup(struct process *p, unsigned worker);
/* Gives it up if the main process is not in it. */
void process_check_cgroup(struct process *p);
void process_leave_home(struct processes *ps);
/* Frees one that was not added. */
void process_destroy(struct process *p);

#endif
