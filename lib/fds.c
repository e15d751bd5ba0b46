/* SPDX-License-Identifier: MIT */
/* Messages with descriptors, over sockets of this machine. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "internal.h"

int send_fds(int socket, struct msghdr *h, const int *fds, size_t n_fds)
{
	union {
		char bytes[CMSG_SPACE(FDS_AT_ONCE * sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct cmsghdr *c = &control.align;

	if (n_fds) {
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
		h->msg_control = &control;
		h->msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
	}
	/* an event loop must not stand still because the receiver does */
	return sendmsg(socket, h, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

ssize_t recv_fds(int socket, void *bytes, size_t size, int *fds, size_t *n_fds)
{
	union {
		char bytes[CMSG_SPACE(FDS_AT_ONCE * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {.iov_base = bytes, .iov_len = size};
	struct msghdr h = {.msg_iov = &iov,
	        .msg_iovlen = 1,
	        .msg_control = &control,
	        .msg_controllen = sizeof control};
	ssize_t n = recvmsg(socket, &h, MSG_CMSG_CLOEXEC);
	const int error = errno;
	size_t room = *n_fds;

	*n_fds = 0;
	if (n < 0)
		return -error;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= c->cmsg_len; at += sizeof(int)) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + at, sizeof fd);
			if (*n_fds < room && !(h.msg_flags & MSG_TRUNC))
				fds[(*n_fds)++] = fd;
			else
				(void)close(fd);
		}
	}
	return h.msg_flags & MSG_TRUNC ? -EMSGSIZE : n;
}
