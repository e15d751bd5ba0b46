/* SPDX-License-Identifier: MIT */
/* Shared by the parts of libhandoff; nothing of this is exported. */
#ifndef INTERNAL_H
#define INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct msghdr;

/* Whole text as a decimal number from 0 to `max`; false for anything else, NULL included. */
bool read_number(const char *text, unsigned long max, unsigned long *ret);

/* sendmsg(2) with descriptors, at most FDS_AT_ONCE; never blocks, raises no signal. 0 or negative
 * errno. */
#define FDS_AT_ONCE 64
int send_fds(int socket, struct msghdr *h, const int *fds, size_t n_fds);

/* One message of a socket and the descriptors that came with it, at most *n_fds: the caller's,
 * close on exec; *n_fds becomes how many there are. Returns its length, 0 at the end, or negative
 * errno; -EMSGSIZE: it was longer than `size`. Descriptors that found no room, here or in the
 * process, are lost. */
ssize_t recv_fds(int socket, void *bytes, size_t size, int *fds, size_t *n_fds);

#define NOTIFY_FDS_MAX 4

/* handoff_notify() with descriptors beside it. If the receiver is behind and `ret_waiting` is not
 * NULL, -EAGAIN leaves a socket there that becomes writable when it is worth another try. */
int notify_send(const char *state, const int *fds, size_t n_fds, int *ret_waiting);

#endif
