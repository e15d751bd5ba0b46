/* SPDX-License-Identifier: MIT */
/* Sockets by address: a passed one that is bound to it, or a new one. */
#include "handoff.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "internal.h"

union address {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_un un;
};

/* "unix:/path", "unix:@name" */
static int parse_unix(const char *path, union address *a, socklen_t *ret_size)
{
	size_t n = strlen(path);

	if (n < 2 || (path[0] != '/' && path[0] != '@'))
		return -EINVAL;
	if (n >= sizeof a->un.sun_path)
		return -ENAMETOOLONG;
	a->un.sun_family = AF_UNIX;
	memcpy(a->un.sun_path, path, n);
	if (path[0] == '@')
		a->un.sun_path[0] = '\0';
	*ret_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (path[0] == '/'));
	return 0;
}

static int parse(const char *text, union address *a, socklen_t *ret_size)
{
	const char *colon = strrchr(text, ':');
	char host[INET6_ADDRSTRLEN] = "";
	unsigned long port;
	size_t n = colon ? (size_t)(colon - text) : 0;

	memset(a, 0, sizeof *a);
	if (!strncmp(text, "unix:", 5))
		return parse_unix(text + 5, a, ret_size);
	if (!read_number(colon ? colon + 1 : text, UINT16_MAX, &port))
		return -EINVAL;
	if (colon && text[0] == '[' && n > 2 && text[n - 1] == ']' && n - 2 < sizeof host) {
		memcpy(host, text + 1, n - 2);
		a->in6.sin6_family = AF_INET6;
		a->in6.sin6_port = htons((uint16_t)port);
		*ret_size = sizeof a->in6;
		return inet_pton(AF_INET6, host, &a->in6.sin6_addr) == 1 ? 0 : -EINVAL;
	}
	if (colon && n < sizeof host) {
		memcpy(host, text, n);
		a->in.sin_family = AF_INET;
		a->in.sin_port = htons((uint16_t)port);
		*ret_size = sizeof a->in;
		return inet_pton(AF_INET, host, &a->in.sin_addr) == 1 ? 0 : -EINVAL;
	}
	if (colon)
		return -EINVAL;
	a->in6.sin6_family = AF_INET6; /* every address, of both versions */
	a->in6.sin6_port = htons((uint16_t)port);
	*ret_size = sizeof a->in6;
	return 0;
}

static int find_passed(const union address *wanted, socklen_t wanted_size)
{
	for (int i = 0, n = handoff_listeners(); i < n; i++) {
		int fd = handoff_listener(NULL, i), type = 0;
		socklen_t size = sizeof(struct sockaddr_storage), type_size = sizeof type;
		union {
			union address a;
			struct sockaddr_storage room;
		} is = {0};

		if (fd < 0 || getsockname(fd, &is.a.any, &size) < 0 ||
		        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size) < 0 ||
		        type != SOCK_STREAM || is.a.any.sa_family != wanted->any.sa_family)
			continue;
		if (wanted->any.sa_family == AF_UNIX
		                ? size == wanted_size && !memcmp(&is.a, wanted, size)
		        : wanted->any.sa_family == AF_INET
		                ? is.a.in.sin_port == wanted->in.sin_port &&
		                          is.a.in.sin_addr.s_addr == wanted->in.sin_addr.s_addr
		                : is.a.in6.sin6_port == wanted->in6.sin6_port &&
		                          !memcmp(&is.a.in6.sin6_addr, &wanted->in6.sin6_addr,
		                                  sizeof wanted->in6.sin6_addr))
			return fd;
	}
	return -ENOENT;
}

/* Is it the file of a socket that nobody listens on? */
static bool is_stale(const union address *a, socklen_t size)
{
	struct stat st;
	bool refused;
	int fd;

	if (a->any.sa_family != AF_UNIX || !a->un.sun_path[0] || stat(a->un.sun_path, &st) < 0 ||
	        !S_ISSOCK(st.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	refused = connect(fd, &a->any, size) < 0 && errno == ECONNREFUSED;
	(void)close(fd);
	return refused;
}

static int bind_address(int fd, const union address *a, socklen_t size)
{
	int r = bind(fd, &a->any, size) < 0 ? -errno : 0;

	if (r == -EADDRINUSE && is_stale(a, size) && unlink(a->un.sun_path) == 0)
		r = bind(fd, &a->any, size) < 0 ? -errno : 0;
	return r;
}

static int open_socket(const union address *a, socklen_t size, bool both)
{
	const int on = 1, off = 0;
	int r = 0, fd = socket(a->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if ((a->any.sa_family != AF_UNIX &&
	            setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0) ||
	        (both && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) < 0))
		r = -errno;
	if (r == 0)
		r = bind_address(fd, a, size);
	if (r == 0 && listen(fd, SOMAXCONN) < 0)
		r = -errno;
	if (r == 0)
		return fd;
	(void)close(fd);
	return r;
}

int handoff_listen(const char *name, const char *address)
{
	union address a;
	socklen_t size = 0;
	int fd = handoff_listener(name, 0);
	bool both;

	if (fd != -ENOENT || !address)
		return fd;
	fd = parse(address, &a, &size);
	if (fd < 0)
		return fd;
	fd = find_passed(&a, size);
	if (fd != -ENOENT)
		return fd;
	both = !strchr(address, ':');
	fd = open_socket(&a, size, both);
	if (fd == -EAFNOSUPPORT && both) { /* a kernel without IPv6 */
		a.in.sin_port = a.in6.sin6_port;
		a.in.sin_family = AF_INET;
		a.in.sin_addr.s_addr = htonl(INADDR_ANY);
		fd = open_socket(&a, sizeof a.in, false);
	}
	return fd;
}
