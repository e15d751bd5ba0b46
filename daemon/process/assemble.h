/* SPDX-License-Identifier: MIT */
/* Puts together what a worker is started with: its command and environment with everything filled
 * in, and who it runs as. Starts nothing and owns no descriptor. */
#ifndef PROCESS_ASSEMBLE_H
#define PROCESS_ASSEMBLE_H

#include "core/base.h"
#include "process/credentials.h"
#include "process/environment.h"
#include "process/process.h"

struct assembly {
	struct environment environment;
	struct credentials credentials;
	char **argv; /* owned, NULL-terminated */
	/* inside of environment: where the child writes its pid, or NULL */
	char *listen_pid, *watchdog_pid;
};

/* Fails with words; nothing is left then. */
int assembly_make(const struct process_spec *spec, const char *notify_socket, struct assembly *ret,
        struct ho_error *reterr);
void assembly_done(struct assembly *a);

/* The same environment for a command that looks at the worker from beside: without the sockets and
 * the notify socket, with the worker's pid as MAINPID. */
int assembly_beside(
        const struct assembly *a, pid_t worker, struct environment *ret, struct ho_error *reterr);

#endif
