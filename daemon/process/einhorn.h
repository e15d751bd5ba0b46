/* SPDX-License-Identifier: MIT */
/* The socket on which a worker of the einhorn dialect says that it is ready:
 * {"command":"worker:ack","pid":N} and a newline, or the same in YAML as older clients write it.
 *
 * Clients dial the path in EINHORN_SOCK_PATH, and not every one can dial an abstract name. So that
 * no file is left behind and no directory has to be open to the worker's user, the file is unlinked
 * at once and the worker gets a descriptor of it (O_PATH): its path is /proc/self/fd/N. Who speaks
 * is known from the kernel (SO_PEERCRED); the pid in the message is not looked at. */
#ifndef PROCESS_EINHORN_H
#define PROCESS_EINHORN_H

#include <ev.h>
#include <sys/types.h>

#include "core/base.h"

#define EINHORN_LINE_BYTES 1024

struct einhorn {
	struct ev_loop *loop;
	ev_io listener, client; /* the client of last; `active` if there is one */
	char line[EINHORN_LINE_BYTES];
	size_t length;
	/* Set by the caller before the start. */
	bool (*accepts)(void *data, pid_t pid, uid_t uid); /* is this one of the worker's? */
	void (*acknowledged)(void *data); /* `einhorn` may be stopped in it, but not freed */
	void *data;
};

/* Is this line (of `length` bytes) the acknowledgement? Pure. */
bool einhorn_is_ack(const char *line, size_t length);

/* `ret_path_fd` is to become a descriptor of the worker. */
int einhorn_start(
        struct einhorn *e, struct ev_loop *loop, int *ret_path_fd, struct ho_error *reterr);
/* The listening socket; -1: none. */
int einhorn_fd(const struct einhorn *e);
/* With the listening socket of another handoffd. */
void einhorn_restore(struct einhorn *e, struct ev_loop *loop, int fd);
/* Also if it was never started. */
void einhorn_stop(struct einhorn *e);

#endif
