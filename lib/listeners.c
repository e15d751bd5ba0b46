/* SPDX-License-Identifier: MIT */
/* The sockets that were passed, as sd_listen_fds_with_names(3) finds them; each is looked at before
 * it is believed. */
#include "handoff.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "internal.h"

#define FIRST_FD 3          /* SD_LISTEN_FDS_START */
#define LISTENERS_MAX 65536 /* beyond any limit of descriptors that is in use */

/* Are they passed to this process? 1, 0 or -EINVAL. */
static int is_addressee(void)
{
	const char *pid = getenv("LISTEN_PID");
	unsigned long n;

	if (!pid)
		return handoff_service() != NULL;
	if (!read_number(pid, INT_MAX, &n))
		return -EINVAL;
	return n == (unsigned long)getpid();
}

/* The names as they were passed; NULL if there are none. */
static const char *all_names(void)
{
	return getenv("LISTEN_FDNAMES");
}

int handoff_listeners(void)
{
	const char *count = getenv("LISTEN_FDS"), *names = all_names();
	unsigned long n, n_names = 1;
	int r;

	if (!count)
		return 0;
	r = is_addressee();
	if (r <= 0)
		return r;
	if (!read_number(count, LISTENERS_MAX, &n))
		return -EINVAL;
	if (n == 0 || !names)
		return (int)n;
	while ((names = strchr(names, ':'))) {
		names++;
		n_names++;
	}
	return n_names == n ? (int)n : -EINVAL;
}

/* The name of socket `index`, which is not terminated. */
static const char *name_of(int index, size_t *ret_length)
{
	const char *name = all_names();

	if (!name) {
		*ret_length = strlen("unknown");
		return "unknown";
	}
	for (; index > 0; index--)
		name = strchr(name, ':') + 1;
	*ret_length = strcspn(name, ":");
	return name;
}

int handoff_listener_name(int index, char *name, size_t size)
{
	int n = handoff_listeners();
	const char *from;
	size_t length;

	if (n < 0 || index < 0 || !name)
		return n < 0 ? n : -EINVAL;
	if (index >= n)
		return -ENOENT;
	from = name_of(index, &length);
	if (length >= size || length > INT_MAX)
		return -ERANGE;
	memcpy(name, from, length);
	name[length] = '\0';
	return (int)length;
}

static int is_bound(int fd)
{
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
		struct sockaddr_storage room;
	} address = {0};
	socklen_t size = sizeof address;

	if (getsockname(fd, &address.any, &size) < 0)
		return -errno;
	switch (address.any.sa_family) {
	case AF_INET:
		return address.in.sin_port != 0;
	case AF_INET6:
		return address.in6.sin6_port != 0;
	case AF_UNIX:
		return size > offsetof(struct sockaddr_un, sun_path);
	default:
		return 1;
	}
}

/* 0, or why `fd` cannot be a listener. */
static int check(int fd)
{
	int flags = fcntl(fd, F_GETFD), type = 0, listens = 0, r;
	socklen_t type_size = sizeof type, listens_size = sizeof listens;

	if (flags < 0)
		return -errno;
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size) < 0 ||
	        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &listens_size) < 0)
		return -errno;
	r = is_bound(fd);
	if (r < 0)
		return r;
	if (!r || ((type == SOCK_STREAM || type == SOCK_SEQPACKET) && !listens))
		return -ENOTCONN;
	if (!(flags & FD_CLOEXEC) && fcntl(fd, F_SETFD, flags | FD_CLOEXEC) < 0)
		return -errno;
	return 0;
}

int handoff_listener(const char *name, int index)
{
	int n = handoff_listeners(), r;

	if (n < 0 || index < 0)
		return n < 0 ? n : -EINVAL;
	for (int i = 0; i < n; i++) {
		size_t length;
		const char *own = name_of(i, &length);

		if (name && (strlen(name) != length || memcmp(own, name, length) != 0))
			continue;
		if (index-- > 0)
			continue;
		r = check(FIRST_FD + i);
		return r < 0 ? r : FIRST_FD + i;
	}
	return -ENOENT;
}
