/* SPDX-License-Identifier: MIT */
/* Starts one program with exactly what the plan says. The child between clone and exec calls only
 * what is async-signal-safe; all that needs memory, names or libraries is in the plan already.
 *
 * The child shares handoffd's memory until it executes (a copy would cost milliseconds in a large
 * process), except where it changes its user: then nothing of that user may get at our memory, nor
 * stop the child while we wait for it without a limit, so it runs on a copy. */
#ifndef PROCESS_SPAWN_H
#define PROCESS_SPAWN_H

#include <sys/types.h>

#include "core/base.h"
#include "core/config.h"
#include "process/cgroup.h"
#include "process/credentials.h"
#include "process/fdmap.h"
#include "process/process.h"

struct spawn_plan {
	char *const *argv;
	char *const *environ;
	/* inside of environ, room for ten digits each: the child writes its pid; or NULL */
	char *listen_pid, *watchdog_pid;
	const char *directory; /* NULL: handoffd's own */
	const struct fdmap_plan *fds;
	const struct service_config *service; /* limits, umask, nice, no-new-privileges, names */
	const struct credentials *credentials;
	enum adoption adoption;
	bool follows;                /* SIGTERM when handoffd dies */
	const struct cgroup *cgroup; /* to be in, if the kernel lets it; NULL: ours */
};

struct spawned {
	pid_t pid;
	int pidfd;
	int calls_fd; /* where its socket calls are announced; negative errno: they are not */
};

/* Starts it in a session of its own, with default signals and an empty mask. argv[0] with a slash
 * is relative to `directory`; else it is sought in the PATH of `environ`. Returns when the program
 * has been executed (at most 10 s); on failure nothing is left of the child, and the words tell
 * which step failed. */
int spawn(const struct spawn_plan *plan, struct spawned *ret, struct ho_error *reterr);

#endif
