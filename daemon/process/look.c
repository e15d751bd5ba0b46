/* SPDX-License-Identifier: MIT */
/* What of a worker can be seen from outside, as far as adopting its sockets needs it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "process/internal.h"
#include "system/fd.h"

int process_may_look(const struct process *p)
{
	int fd = p->pidfd < 0 ? -1 : pidfd_getfd(p->pidfd, STDIN_FILENO, 0);

	if (fd < 0 && (errno == EPERM || errno == ENOSYS) && p->pidfd >= 0)
		return -errno;
	(void)close_fd(fd);
	return 0;
}

bool process_lost_privileges(const struct process *p)
{
	char path[64], text[2048], *line;
	_cleanup_close_ int fd = -1;
	struct stat st;
	ssize_t n;

	(void)snprintf(path, sizeof path, "/proc/%d/exe", (int)p->pid);
	if (stat(path, &st) < 0 || !(st.st_mode & (S_ISUID | S_ISGID)))
		return false;
	(void)snprintf(path, sizeof path, "/proc/%d/status", (int)p->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	text[n > 0 ? n : 0] = '\0';
	line = strstr(text, "\nNoNewPrivs:");
	return line && strchr(line, '1') && strchr(line, '1') < strchrnul(line + 1, '\n');
}
