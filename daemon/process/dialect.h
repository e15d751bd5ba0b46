/* SPDX-License-Identifier: MIT */
/* The ways in which programs expect to be told of inherited sockets: variables for each dialect,
 * made from the numbers the sockets will have in the worker. Pure. */
#ifndef PROCESS_DIALECT_H
#define PROCESS_DIALECT_H

#include <sys/types.h>

#include "core/base.h"
#include "core/config.h"
#include "process/environment.h"

#define DIALECT_FIRST_FD 3

struct dialect_fd {
	const char *name;
	const struct address *address; /* one of kind ADDRESS_SYSTEMD is left out where an address
	                                  is needed */
};

struct dialect_input {
	const struct dialect_fd *fds; /* the i-th is descriptor 3 + i of the worker */
	size_t n_fds;
	uint32_t generation;
	unsigned worker;
	pid_t parent; /* handoffd itself */
	enum listen_pid listen_pid;
};

/* Adds the variables of every dialect in `dialects`, nothing at all if there are no sockets. With
 * the systemd dialect the value of LISTEN_PID has room for any pid at dialect_pid(), to be written
 * by the child itself. */
void dialect_add(struct environment *e, unsigned dialects, const struct dialect_input *in);

/* Where the pid of the worker is to be written, NULL if it is not wanted. */
char *dialect_pid(const struct environment *e, unsigned dialects, const struct dialect_input *in);

/* With the einhorn dialect, the worker's descriptor that leads to the socket of its
 * acknowledgement: the one behind its sockets. */
int dialect_einhorn_fd(size_t n_fds);

/* HANDOFF_FD_<NAME>, the name in capitals with _ for all but letters and digits; the second address
 * of one name has the suffix _2 and so on. */
void dialect_add_handoff(struct environment *e, const struct dialect_input *in);

/* Number of the worker's descriptor for the nth (from 1) address of listener `name`, or -1. */
int dialect_find(const struct dialect_input *in, const char *name, unsigned nth);

#endif
