/* SPDX-License-Identifier: MIT */
/* What processes use, read here and not in handoffd: the kernel may take long to add it up. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/ctl.h"

#define MAX_PROCESSES 1024

/* The file as a string; false if it cannot be read. */
static bool read_file(const char *path, char *buffer, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buffer, size - 1);

	if (fd >= 0)
		(void)close(fd);
	if (n < 0)
		return false;
	buffer[n] = '\0';
	return true;
}

static uint64_t process_memory(pid_t pid)
{
	char path[64], text[4096];
	const char *pss;
	unsigned long long resident;

	(void)snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
	if (read_file(path, text, sizeof text) && (pss = strstr(text, "\nPss:")))
		return strtoull(pss + 5, NULL, 10) * 1024;
	(void)snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
	if (!read_file(path, text, sizeof text) || sscanf(text, "%*u %llu", &resident) != 1)
		return 0;
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Those that its first thread started, as most do. At most `room`. */
static size_t children(pid_t pid, pid_t *ret, size_t room)
{
	char path[64], text[4096], *at = text, *end;
	size_t n = 0;

	(void)snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
	if (!read_file(path, text, sizeof text))
		return 0;
	for (; n < room; at = end) {
		long child = strtol(at, &end, 10);

		if (end == at)
			break;
		ret[n++] = (pid_t)child;
	}
	return n;
}

uint64_t tree_memory(pid_t pid)
{
	pid_t pids[MAX_PROCESSES] = {pid};
	uint64_t sum = 0;
	size_t n = 1;

	for (size_t i = 0; i < n; i++) {
		sum += process_memory(pids[i]);
		n += children(pids[i], pids + n, ARRAY_SIZE(pids) - n);
	}
	return sum;
}
