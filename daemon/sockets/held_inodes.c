/* SPDX-License-Identifier: MIT */
/* Which sockets the processes of a generation hold, out of /proc/PID/fd. */
#include "sockets/endpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "system/fd.h"

struct scan {
	struct cookie_set *inodes;
	int result;
};

/* A descriptor that was closed meanwhile is none. */
int held_inodes_link(int directory, const char *name, usec_t note, struct cookie_set *inodes)
{
	char link[64];
	uint64_t inode;
	ssize_t n = readlinkat(directory, name, link, sizeof link - 1);

	if (n < (ssize_t)sizeof "socket:[]" || memcmp(link, "socket:[", 8) || link[n - 1] != ']')
		return 0;
	link[n - 1] = '\0';
	if (!parse_number(link + 8, UINT64_MAX, &inode))
		return 0;
	return cookie_set_add(inodes, inode, note) ? 0 : -ENOMEM;
}

static int scan_process(pid_t pid, struct cookie_set *inodes)
{
	char path[64];
	const struct dirent *entry;
	DIR *d;
	int r = 0;

	(void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
	d = opendir(path); /* close-on-exec by itself */
	if (!d)
		return errno == ENOENT || errno == ESRCH ? 0 : -errno;
	while (!r && (errno = 0, entry = readdir(d)))
		r = held_inodes_link(dirfd(d), entry->d_name, 0, inodes);
	if (!r && errno && errno != ENOENT && errno != ESRCH)
		r = -errno;
	(void)closedir(d);
	return r;
}

static void each_process(pid_t pid, void *arg)
{
	struct scan *s = arg;
	int r = scan_process(pid, s->inodes);

	if (r < 0 && !s->result)
		s->result = r;
}

int held_inodes(process_lister lister, void *data, struct cookie_set *ret)
{
	struct scan s = {.inodes = ret};

	lister(data, each_process, &s);
	return s.result;
}
