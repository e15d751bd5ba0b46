/* SPDX-License-Identifier: MIT */
/* Descriptors of the shell: -1 means none, each has one owner, close(2) is never retried. */
#ifndef SYSTEM_FD_H
#define SYSTEM_FD_H

#include "core/base.h"

/* Closes unless negative, keeps errno; returns -1, so that `fd = close_fd(fd)` works. */
int close_fd(int fd);
void close_fdp(int *fd);
#define _cleanup_close_ _cleanup_(close_fdp)

#define take_fd(fd)                                                                                \
	({                                                                                         \
		int taken_ = (fd);                                                                 \
		(fd) = -1;                                                                         \
		taken_;                                                                            \
	})

/* CLOCK_MONOTONIC now. */
usec_t now_usec(void);

#endif
