/* SPDX-License-Identifier: MIT */
#include "process/socket_path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "system/fd.h"

#define STATUS_BYTES 1024 /* what is sought is at its beginning */
#define PAGE 4096         /* the smallest there are */

bool socket_memory_read(pid_t tid, uint64_t from, void *to, size_t n)
{
	struct iovec ours = {.iov_base = to, .iov_len = n};
	struct iovec theirs = {.iov_base = (void *)(uintptr_t)from, .iov_len = n};
	_cleanup_close_ int fd = -1;
	char path[64];

	if (process_vm_readv(tid, &ours, 1, &theirs, 1, 0) == (ssize_t)n)
		return true;
	(void)snprintf(path, sizeof path, "/proc/%d/mem", (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 && pread(fd, to, n, (off_t)from) == (ssize_t)n;
}

bool socket_path_read(pid_t tid, uint64_t from, char *ret, size_t size)
{
	size_t n, have = 0;

	/* Page by page: what lies behind the string may not be there. */
	while (have < size) {
		n = PAGE - (from + have) % PAGE;
		n = n < size - have ? n : size - have;
		if (!socket_memory_read(tid, from + have, ret + have, n))
			return false;
		if (memchr(ret + have, '\0', n))
			return true;
		have += n;
	}
	return false;
}

int socket_path_open(pid_t tid, int base, const char *path, struct socket_path *ret)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	char full[PATH_MAX];
	int n, length = slash ? (int)(slash - path) : 0;

	if (!*name || !copy_string(ret->name, sizeof ret->name, name))
		return -EINVAL;
	if (path[0] == '/')
		n = snprintf(full, sizeof full, "/proc/%d/root/%.*s", (int)tid, length, path);
	else if (base == AT_FDCWD)
		n = snprintf(full, sizeof full, "/proc/%d/cwd/%.*s", (int)tid, length, path);
	else
		n = snprintf(
		        full, sizeof full, "/proc/%d/fd/%d/%.*s", (int)tid, base, length, path);
	if (n < 0 || (size_t)n >= sizeof full)
		return -ENAMETOOLONG;
	ret->directory = open(full, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return ret->directory < 0 ? -errno : 0;
}

static int read_status(pid_t tid, char text[static STATUS_BYTES])
{
	char path[64];
	_cleanup_close_ int fd = -1;
	ssize_t n;

	(void)snprintf(path, sizeof path, "/proc/%d/status", (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, STATUS_BYTES - 1);
	if (n <= 0)
		return -ESRCH;
	text[n] = '\0';
	return 0;
}

int socket_path_process(pid_t tid)
{
	char text[STATUS_BYTES], *line;
	int tgid = -1;

	if (read_status(tid, text) < 0)
		return -ESRCH;
	line = strstr(text, "\nTgid:");
	return line && sscanf(line, "\nTgid: %d", &tgid) == 1 && tgid > 0 ? tgid : -ESRCH;
}

int socket_path_maker(pid_t tid, struct socket_maker *ret)
{
	char text[STATUS_BYTES], *mask, *uid, *gid;
	unsigned m = 0, u = 0, g = 0;

	if (read_status(tid, text) < 0)
		return -ESRCH;
	mask = strstr(text, "\nUmask:");
	uid = strstr(text, "\nUid:");
	gid = strstr(text, "\nGid:");
	if (!mask || !uid || !gid || sscanf(mask, "\nUmask: %o", &m) != 1 ||
	        sscanf(uid, "\nUid: %*u %*u %*u %u", &u) != 1 ||
	        sscanf(gid, "\nGid: %*u %*u %*u %u", &g) != 1)
		return -EBADMSG;
	*ret = (struct socket_maker){.uid = u, .gid = g, .umask = m};
	return 0;
}
