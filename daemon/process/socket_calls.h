/* SPDX-License-Identifier: MIT */
/* The calls bind(2) and listen(2), with `paths` also unlink(2) and connect(2), of a worker and all
 * its descendants, asked about before they are made (seccomp user notification), so that the socket
 * of a program which binds its port itself can be bound on its behalf.
 *
 * This is no sandbox: a program that wants to get around it can (32-bit calls, io_uring). What is
 * read of the caller's memory is never trusted twice: the call is either made here, on the socket
 * that was looked at, or left to the kernel as if nobody had asked. A caller waits while it is
 * asked about; handoffd never waits for a caller. */
#ifndef PROCESS_SOCKET_CALLS_H
#define PROCESS_SOCKET_CALLS_H

#include <ev.h>

#include "process/process.h"

/* In the child, before it executes and while it still has its privileges: only async-signal-safe
 * calls. Returns the descriptor that the calls are announced at (close-on-exec), or negative errno.
 * Without CAP_SYS_ADMIN it gives up new privileges for it. `paths`: UNIX sockets matter as well. */
int socket_calls_install(bool paths);
/* Whether it has a UNIX listener, so that they do. */
bool socket_calls_paths(const struct service_config *s);
/* Sends the descriptor, or the error if it is negative. */
int socket_calls_send(int socket, int fd_or_error);
/* What socket_calls_send() sent, without waiting; -ENODATA when there is nothing. */
int socket_calls_receive(int socket);

struct socket_calls {
	struct ev_loop *loop;
	int fd; /* -1: none */
	bool paths;
	ev_io io;
	socket_asked asked;
	void *data;
};

/* Takes `fd` over. `asked` is called with `data` for one call in each round of the loop. */
void socket_calls_start(struct socket_calls *c, struct ev_loop *loop, int fd, bool paths,
        socket_asked asked, void *data);
/* Callers that still wait, and later ones, get ENOSYS. Does nothing if it was not started. */
void socket_calls_stop(struct socket_calls *c);

#endif
