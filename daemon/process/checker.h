/* SPDX-License-Identifier: MIT */
/* ready.by = exec:COMMAND: runs a command again and again until it exits 0, 200 ms after each
 * failure. One run at a time, in a session of its own that is killed when the checker ends. */
#ifndef PROCESS_CHECKER_H
#define PROCESS_CHECKER_H

#include <ev.h>

#include "core/base.h"
#include "process/environment.h"
#include "process/spawn.h"

struct checker {
	struct ev_loop *loop;
	ev_io exit_io;
	ev_timer again;
	pid_t pid;
	int pidfd; /* -1: not running */
	char *argv[4];
	struct environment environment;
	struct fdmap_plan fds;
	struct spawn_plan plan;
	void (*succeeded)(void *data); /* the last thing the checker does */
	void *data;
};

/* Runs `command` by /bin/sh -c, standard descriptors on /dev/null, otherwise as `like` says (whose
 * strings and credentials are borrowed) with `environment`, which the checker owns from now on,
 * also on failure. */
int checker_new(struct ev_loop *loop, const char *command, const struct spawn_plan *like,
        struct environment *environment, void (*succeeded)(void *data), void *data,
        struct checker **ret, struct ho_error *reterr);
struct checker *checker_free(struct checker *c);
/* 0: no run at the moment. */
pid_t checker_pid(const struct checker *c);
/* The process of the run is a zombie; reaps it. May be followed by `succeeded`. */
void checker_ended(struct checker *c);

#endif
