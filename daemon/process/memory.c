/* SPDX-License-Identifier: MIT */
#include "process/memory.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "system/fd.h"

uint64_t process_memory(pid_t pid)
{
	unsigned long long resident, shared;
	char path[40], text[200];
	_cleanup_close_ int fd = -1;
	ssize_t n;

	(void)snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	if (sscanf(text, "%*u %llu %llu", &resident, &shared) != 2 || shared > resident)
		return 0;
	return (resident - shared) * (uint64_t)sysconf(_SC_PAGESIZE);
}
