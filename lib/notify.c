/* SPDX-License-Identifier: MIT */
/* One datagram to NOTIFY_SOCKET, as sd_notify(3) sends it. */
#include "handoff.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "internal.h"

#define STATUS_MAX 512

/* The address; 0: nobody wants to know. */
static int find_receiver(struct sockaddr_un *to, socklen_t *ret_size)
{
	const char *path = getenv("NOTIFY_SOCKET");
	size_t n;

	if (!path)
		return 0;
	n = strlen(path);
	if ((path[0] != '/' && path[0] != '@') || n < 2)
		return -EINVAL;
	if (n > sizeof to->sun_path)
		return -E2BIG;
	*to = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(to->sun_path, path, n);
	if (path[0] == '@')
		to->sun_path[0] = '\0';
	*ret_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	return 1;
}

int notify_send(const char *state, const int *fds, size_t n_fds, int *ret_waiting)
{
	union {
		char bytes[CMSG_SPACE(NOTIFY_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)state, .iov_len = strlen(state)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	struct sockaddr_un to;
	socklen_t size;
	int fd, r = find_receiver(&to, &size);

	if (r <= 0)
		return r;
	if (n_fds) {
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		*CMSG_FIRSTHDR(&m) = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
		        .cmsg_type = SCM_RIGHTS,
		        .cmsg_len = CMSG_LEN(n_fds * sizeof(int))};
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), fds, n_fds * sizeof(int));
	}
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* an event loop must not stand still because the receiver does */
	if (connect(fd, (const struct sockaddr *)&to, size) < 0 ||
	        sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		r = -errno;
	if (r == -EAGAIN && ret_waiting)
		*ret_waiting = fd;
	else
		(void)close(fd);
	return r;
}

int handoff_notify(const char *state)
{
	if (!state || !*state)
		return -EINVAL;
	return notify_send(state, NULL, 0, NULL);
}

int handoff_status(const char *text)
{
	char state[STATUS_MAX + sizeof "STATUS="];

	if (!text)
		return -EINVAL;
	(void)snprintf(state, sizeof state, "STATUS=%.*s", (int)strcspn(text, "\n"), text);
	return handoff_notify(state);
}

int handoff_extend(double seconds)
{
	char state[64];

	if (!(seconds > 0 && seconds < 1e10))
		return -EINVAL;
	(void)snprintf(state, sizeof state, "EXTEND_TIMEOUT_USEC=%.0f", seconds * 1e6);
	return handoff_notify(state);
}
