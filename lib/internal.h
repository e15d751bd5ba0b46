/* SPDX-License-Identifier: MIT */
/* Shared by the parts of libhandoff; nothing of this is exported. */
#ifndef INTERNAL_H
#define INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

/* Whole text as a decimal number from 0 to `max`; false for anything else, NULL included. */
bool read_number(const char *text, unsigned long max, unsigned long *ret);

#define NOTIFY_FDS_MAX 4

/* handoff_notify() with descriptors beside it. If the receiver is behind and `ret_waiting` is not
 * NULL, -EAGAIN leaves a socket there that becomes writable when it is worth another try. */
int notify_send(const char *state, const int *fds, size_t n_fds, int *ret_waiting);

#endif
