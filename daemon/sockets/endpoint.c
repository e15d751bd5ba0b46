/* SPDX-License-Identifier: MIT */
#include "sockets/endpoint.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "sockets/tag.h"

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

static int option(int fd, int level, int name, int *ret)
{
	socklen_t n = sizeof *ret;

	return getsockopt(fd, level, name, ret, &n) < 0 ? -errno : 0;
}

static int init_tcp(struct endpoint *e, const struct sockaddr_storage *a)
{
	static const uint8_t zero[16];
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)a;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
	int only = 0, r;

	e->kind = ENDPOINT_TCP;
	e->family = (uint8_t)a->ss_family;
	if (a->ss_family == AF_INET) {
		e->port = ntohs(v4->sin_port);
		memcpy(e->ip, &v4->sin_addr, sizeof v4->sin_addr);
	} else {
		r = option(e->fd, IPPROTO_IPV6, IPV6_V6ONLY, &only);
		if (r < 0)
			return r;
		e->dual = !only;
		e->port = ntohs(v6->sin6_port);
		e->interface = v6->sin6_scope_id;
		memcpy(e->ip, &v6->sin6_addr, sizeof v6->sin6_addr);
	}
	e->any = !memcmp(e->ip, zero, sizeof zero);
	return 0;
}

static int init_unix(
        struct endpoint *e, struct diag *d, const struct sockaddr_storage *a, socklen_t n)
{
	const struct sockaddr_un *u = (const struct sockaddr_un *)a;
	struct diag_socket s;
	struct stat st;
	int r;

	if (n <= offsetof(struct sockaddr_un, sun_path) || n > sizeof *u)
		return -EINVAL;
	e->path_len = n - offsetof(struct sockaddr_un, sun_path);
	memcpy(e->path, u->sun_path, e->path_len);
	if (fstat(e->fd, &st) < 0)
		return -errno;
	e->inode = (uint32_t)st.st_ino;
	r = diag_unix_socket(d, e->inode, &s);
	if (r < 0)
		return r;
	e->kind = ENDPOINT_UNIX;
	e->file_inode = s.file_inode;
	e->file_device = s.file_device;
	return 0;
}

int endpoint_init(
        struct endpoint *e, struct diag *d, int fd, bool shared, uint8_t tag, const char *name)
{
	struct sockaddr_storage a = {0};
	socklen_t n = sizeof a;
	int type, protocol, r;

	*e = (struct endpoint){
	        .kind = ENDPOINT_OTHER, .fd = fd, .name = name, .shared = shared, .tag = tag};
	r = option(fd, SOL_SOCKET, SO_TYPE, &type);
	if (r < 0)
		return r;
	if (getsockname(fd, (struct sockaddr *)&a, &n) < 0)
		return -errno;
	e->by_inode = shared || (a.ss_family != AF_UNIX && tag == TAG_NONE);
	if (a.ss_family == AF_UNIX)
		return type == SOCK_DGRAM ? 0 : init_unix(e, d, &a, n);
	if ((a.ss_family != AF_INET && a.ss_family != AF_INET6) || type != SOCK_STREAM)
		return 0;
	r = option(fd, SOL_SOCKET, SO_PROTOCOL, &protocol);
	return r < 0 ? r : protocol == IPPROTO_TCP ? init_tcp(e, &a) : 0;
}

int endpoint_list_add(struct endpoint_list *l, struct diag *d, int fd, bool shared, uint8_t tag,
        const char *name, size_t owner)
{
	const size_t size = l->size ? l->size * 2 : 8;
	struct endpoint *items;
	int r;

	if (l->n == l->size) {
		items = reallocarray(l->items, size, sizeof *items);
		if (!items)
			return -ENOMEM;
		l->items = items;
		l->size = size;
	}
	r = endpoint_init(&l->items[l->n], d, fd, shared, tag, name);
	if (r < 0)
		return r;
	l->items[l->n++].owner = owner;
	return 0;
}

void endpoint_list_done(struct endpoint_list *l)
{
	free(l->items);
	*l = (struct endpoint_list){0};
}

static bool tcp_address(const struct endpoint *e, const struct diag_socket *s)
{
	if (s->family != e->family || s->local_port != e->port)
		return false;
	if (e->interface && s->interface != e->interface)
		return false;
	if (e->family == AF_INET)
		return e->any || !memcmp(e->ip, s->local, 4);
	if (e->any)
		return e->dual || memcmp(s->local, mapped, sizeof mapped) != 0;
	return !memcmp(e->ip, s->local, sizeof e->ip);
}

static bool unix_address(const struct endpoint *e, const struct diag_socket *s)
{
	/* Names made relative to a descriptor (/proc/self/fd/N/...) can be alike, files cannot. */
	return s->family == AF_UNIX && s->name_len == e->path_len &&
	       !memcmp(s->name, e->path, e->path_len) && s->file_inode == e->file_inode &&
	       s->file_device == e->file_device;
}

bool endpoint_has_address(const struct endpoint *e, const struct diag_socket *s)
{
	switch (e->kind) {
	case ENDPOINT_TCP:
		return tcp_address(e, s);
	case ENDPOINT_UNIX:
		return unix_address(e, s);
	case ENDPOINT_OTHER:
		break;
	}
	return false;
}

int endpoint_queue(const struct endpoint *e, struct diag *d, unsigned *ret)
{
	struct tcp_info info = {0};
	struct diag_socket s;
	socklen_t n = sizeof info;
	int r;

	*ret = 0;
	if ((e->shared && e->held) || e->kind == ENDPOINT_OTHER)
		return 0;
	if (e->kind == ENDPOINT_UNIX) {
		r = diag_unix_socket(d, e->inode, &s);
		if (r < 0)
			return r == -ENOENT ? 0 : r; /* closed since, and its queue with it */
		if (s.state == TCP_LISTEN)
			*ret = s.queued_in;
		return 0;
	}
	if (getsockopt(e->fd, IPPROTO_TCP, TCP_INFO, &info, &n) < 0)
		return -errno;
	/* A worker that shut its listener down has emptied the queue with it. */
	if (info.tcpi_state == TCP_LISTEN)
		*ret = info.tcpi_unacked;
	return 0;
}
