/* SPDX-License-Identifier: MIT */
#include "system/fd.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

int close_fd(int fd)
{
	int saved = errno;

	if (fd >= 0)
		(void)close(fd);
	errno = saved;
	return -1;
}

void close_fdp(int *fd)
{
	*fd = close_fd(*fd);
}

usec_t now_usec(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (usec_t)t.tv_sec * USEC_PER_SEC + (usec_t)t.tv_nsec / 1000;
}
