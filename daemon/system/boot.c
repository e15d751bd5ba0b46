/* SPDX-License-Identifier: MIT */
#include "system/boot.h"

#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "system/fd.h"

const char *boot_id(void)
{
	static char id[40];
	_cleanup_close_ int fd = -1;
	ssize_t n;

	if (id[0])
		return id;
	fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, id, sizeof id - 1);
	id[n > 0 ? n : 0] = '\0';
	id[strcspn(id, "\n")] = '\0';
	return id;
}

uint64_t boot_ticks(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * (uint64_t)sysconf(_SC_CLK_TCK) +
	       (uint64_t)t.tv_nsec * (uint64_t)sysconf(_SC_CLK_TCK) / 1000000000;
}
