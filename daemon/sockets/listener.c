/* SPDX-License-Identifier: MIT */
/* See listener.h. Knows nothing of groups, generations or steering. */
#include "sockets/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "system/fd.h"

#define STRAYS_MAX 65536

bool listener_unix_sockaddr(const char *path, struct sockaddr_un *ret, socklen_t *ret_len)
{
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	*ret_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1);
	return *path && copy_string(ret->sun_path, sizeof ret->sun_path, path);
}

bool listener_sockaddr(const struct address *a, struct sockaddr_storage *ret, socklen_t *ret_len)
{
	struct sockaddr_in *in = (struct sockaddr_in *)ret;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;
	struct sockaddr_un *un = (struct sockaddr_un *)ret;
	size_t n;

	memset(ret, 0, sizeof *ret);
	if (a->kind == ADDRESS_ABSTRACT) {
		n = strlen(a->path);
		if (n == 0 || n >= sizeof un->sun_path)
			return false;
		un->sun_family = AF_UNIX;
		memcpy(un->sun_path + 1, a->path, n);
		*ret_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n);
	} else if (a->ipv6) {
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(a->port);
		in6->sin6_scope_id = a->scope_id;
		memcpy(&in6->sin6_addr, a->ip, 16);
		*ret_len = sizeof *in6;
	} else {
		in->sin_family = AF_INET;
		in->sin_port = htons(a->port);
		memcpy(&in->sin_addr, a->ip, 4);
		*ret_len = sizeof *in;
	}
	return true;
}

static int get_option(int fd, int level, int option, int otherwise)
{
	int value = otherwise;
	socklen_t n = sizeof value;

	return getsockopt(fd, level, option, &value, &n) < 0 ? otherwise : value;
}

int listener_address_of(int fd, struct address *ret)
{
	struct sockaddr_storage ss = {0};
	const struct sockaddr_in *in = (const struct sockaddr_in *)&ss;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&ss;
	socklen_t n = sizeof ss;

	if (getsockname(fd, (struct sockaddr *)&ss, &n) < 0)
		return -errno;
	if (ss.ss_family != AF_INET && ss.ss_family != AF_INET6)
		return -EAFNOSUPPORT;
	ret->ipv6 = ss.ss_family == AF_INET6;
	ret->kind =
	        get_option(fd, SOL_SOCKET, SO_TYPE, -1) == SOCK_DGRAM ? ADDRESS_UDP : ADDRESS_TCP;
	if (ret->ipv6) {
		memcpy(ret->ip, &in6->sin6_addr, 16);
		ret->port = ntohs(in6->sin6_port);
		ret->scope_id = in6->sin6_scope_id;
		ret->dual = !get_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	} else {
		memcpy(ret->ip, &in->sin_addr, 4);
		ret->port = ntohs(in->sin_port);
	}
	return 0;
}

static int set_option(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof value) < 0 ? -errno : 0;
}

int listener_blocking(int fd, bool blocking)
{
	int flags = fcntl(fd, F_GETFL);
	int wanted = blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK;

	if (flags < 0 || (wanted != flags && fcntl(fd, F_SETFL, wanted) < 0))
		return -errno;
	return 0;
}

int listener_set_uid(int fd, uid_t uid)
{
	return uid != UID_NONE && fchown(fd, uid, (gid_t)-1) < 0 ? -errno : 0;
}

static int bind_to(int fd, const struct address *a)
{
	struct sockaddr_storage ss;
	socklen_t n;

	if (!listener_sockaddr(a, &ss, &n))
		return -ENAMETOOLONG;
	return bind(fd, (struct sockaddr *)&ss, n) < 0 ? -errno : 0;
}

static int ip_socket(const struct address *a, int type, int *ret_fd)
{
	int r = 0,
	    fd = socket(a->ipv6 ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (a->ipv6)
		r = set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, !a->dual);
	if (r < 0) {
		(void)close_fd(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

int listener_tcp(const struct address *a, uid_t uid, int *ret_fd)
{
	_cleanup_close_ int fd = -1;
	int r = ip_socket(a, SOCK_STREAM, &fd);

	if (r >= 0)
		r = set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (r >= 0)
		r = set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	if (r >= 0)
		r = set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	if (r >= 0)
		r = listener_set_uid(fd, uid);
	if (r >= 0)
		r = bind_to(fd, a);
	if (r >= 0)
		*ret_fd = take_fd(fd);
	return r;
}

int listener_tcp_free(const struct address *a)
{
	_cleanup_close_ int fd = -1;
	int r = ip_socket(a, SOCK_STREAM, &fd);

	if (r >= 0)
		r = set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (r >= 0)
		r = bind_to(fd, a);
	return r;
}

int listener_udp(const struct address *a, int *ret_fd)
{
	_cleanup_close_ int fd = -1;
	int r = ip_socket(a, SOCK_DGRAM, &fd);

	if (r >= 0)
		r = bind_to(fd, a);
	if (r >= 0)
		*ret_fd = take_fd(fd);
	return r;
}

int listener_abstract(const struct address *a, int backlog, int *ret_fd)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int r = fd < 0 ? -errno : bind_to(fd, a);

	if (r >= 0 && listen(fd, backlog) < 0)
		r = -errno;
	if (r >= 0)
		*ret_fd = take_fd(fd);
	return r;
}

int listener_drop_ttl(int fd)
{
	int r = set_option(fd, IPPROTO_IP, IP_MINTTL, 255);

	if (r >= 0 && get_option(fd, SOL_SOCKET, SO_DOMAIN, -1) == AF_INET6)
		r = set_option(fd, IPPROTO_IPV6, IPV6_MINHOPCOUNT, 255);
	return r;
}

/* One question to sock_diag, which answers within send(2). `take` sees the answer; -ENOENT if there
 * is no such socket. */
static int ask(const struct nlmsghdr *question, mnl_cb_t take, void *data)
{
	_cleanup_close_ int nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	char buffer[4096] __attribute__((aligned(8)));
	ssize_t n;

	if (nl < 0 || send(nl, question, question->nlmsg_len, 0) < 0)
		return -errno;
	n = recv(nl, buffer, sizeof buffer, MSG_DONTWAIT);
	if (n < 0)
		return -errno;
	return mnl_cb_run(buffer, (size_t)n, 0, 0, take, data) < 0 ? -errno : 0;
}

struct unix_answer {
	uint32_t queue, limit, peer;
	bool has_queue, has_peer;
};

static int take_unix(const struct nlmsghdr *h, void *data)
{
	struct unix_answer *ret = data;
	const struct nlattr *attr;
	struct unix_diag_rqlen length;

	if (h->nlmsg_len < NLMSG_LENGTH(sizeof(struct unix_diag_msg)))
		return MNL_CB_STOP;
	mnl_attr_for_each(attr, h, sizeof(struct unix_diag_msg))
	{
		unsigned type = mnl_attr_get_type(attr), size = mnl_attr_get_payload_len(attr);

		if (type == UNIX_DIAG_RQLEN && size >= sizeof length) {
			memcpy(&length, mnl_attr_get_payload(attr), sizeof length);
			ret->queue = length.udiag_rqueue;
			ret->limit = length.udiag_wqueue;
			ret->has_queue = true;
		} else if (type == UNIX_DIAG_PEER && size >= sizeof ret->peer) {
			ret->peer = mnl_attr_get_u32(attr);
			ret->has_peer = true;
		}
	}
	return MNL_CB_STOP;
}

/* For a listening socket the kernel reports the queue and its limit as "read" and "write" length; a
 * peer that was not accepted yet has no inode. */
static int ask_unix(int fd, struct unix_answer *ret)
{
	char buffer[256] __attribute__((aligned(8)));
	struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);
	struct unix_diag_req *req = mnl_nlmsg_put_extra_header(h, sizeof *req);
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	h->nlmsg_type = SOCK_DIAG_BY_FAMILY;
	h->nlmsg_flags = NLM_F_REQUEST;
	req->sdiag_family = AF_UNIX;
	req->udiag_ino = (uint32_t)st.st_ino;
	req->udiag_cookie[0] = req->udiag_cookie[1] = UINT32_MAX; /* any */
	req->udiag_show = UDIAG_SHOW_RQLEN | UDIAG_SHOW_PEER;
	*ret = (struct unix_answer){0};
	return ask(h, take_unix, ret);
}

static int take_inode(const struct nlmsghdr *h, void *data)
{
	const struct inet_diag_msg *m = mnl_nlmsg_get_payload(h);

	if (mnl_nlmsg_get_payload_len(h) >= sizeof *m)
		*(uint32_t *)data = m->idiag_inode;
	return MNL_CB_STOP;
}

static void put_end(const struct sockaddr_storage *ss, void *address, uint16_t *port)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)ss;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)ss;
	bool ipv6 = ss->ss_family == AF_INET6;

	*port = ipv6 ? in6->sin6_port : in->sin_port;
	memcpy(address, ipv6 ? (const void *)&in6->sin6_addr : (const void *)&in->sin_addr,
	        ipv6 ? 16 : 4);
}

/* The server's end of the connection, by its addresses; without an inode nobody has accepted it. */
static int took_tcp(const struct sockaddr_storage *client, const struct sockaddr_storage *server)
{
	char buffer[256] __attribute__((aligned(8)));
	struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);
	struct inet_diag_req_v2 *req = mnl_nlmsg_put_extra_header(h, sizeof *req);
	uint32_t inode = 0;
	int r;

	h->nlmsg_type = SOCK_DIAG_BY_FAMILY;
	h->nlmsg_flags = NLM_F_REQUEST;
	req->sdiag_family = (uint8_t)client->ss_family;
	req->sdiag_protocol = IPPROTO_TCP;
	put_end(server, req->id.idiag_src, &req->id.idiag_sport);
	put_end(client, req->id.idiag_dst, &req->id.idiag_dport);
	req->id.idiag_cookie[0] = req->id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
	r = ask(h, take_inode, &inode);
	return r < 0 ? r : inode != 0;
}

int listener_took(int client_fd)
{
	struct sockaddr_storage client = {0}, server = {0};
	socklen_t n = sizeof client, m = sizeof server;
	struct unix_answer answer;
	int r;

	if (getsockname(client_fd, (struct sockaddr *)&client, &n) < 0)
		return -errno;
	if (client.ss_family == AF_UNIX) {
		r = ask_unix(client_fd, &answer);
		if (r < 0)
			return r;
		return answer.has_peer ? answer.peer != 0 : -ENOENT;
	}
	if (getpeername(client_fd, (struct sockaddr *)&server, &m) < 0)
		return errno == ENOTCONN ? -ENOENT : -errno;
	return took_tcp(&client, &server);
}

int listener_queue(int fd, unsigned *ret_queue, unsigned *ret_limit)
{
	int domain = get_option(fd, SOL_SOCKET, SO_DOMAIN, -1);
	struct unix_answer answer;
	struct tcp_info info;
	socklen_t n = sizeof info;
	int r;

	if (!listener_is_listening(fd))
		return -EOPNOTSUPP;
	if (domain == AF_UNIX) {
		r = ask_unix(fd, &answer);
		if (r < 0)
			return r;
		*ret_queue = answer.queue;
		*ret_limit = answer.limit;
		return answer.has_queue ? 0 : -ENODATA;
	}
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) < 0)
		return -errno;
	*ret_queue = info.tcpi_unacked;
	*ret_limit = info.tcpi_sacked;
	return 0;
}

bool listener_is_listening(int fd)
{
	return get_option(fd, SOL_SOCKET, SO_ACCEPTCONN, 0);
}

void listener_discard_queue(int fd)
{
	const struct linger reset = {.l_onoff = 1};

	/* A worker may have the same open file, and have made it blocking. */
	if (listener_blocking(fd, false) < 0)
		return;
	for (int i = 0; i < STRAYS_MAX; i++) {
		int waiting = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

		if (waiting < 0)
			return;
		(void)setsockopt(waiting, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		(void)close_fd(waiting);
	}
}

int listener_failed(struct ho_error *reterr, int code, const struct listener_config *c)
{
	const char *why = strerror(-code), *more = "";

	switch (-code) {
	case EACCES:
	case EPERM:
		if (c->address.kind == ADDRESS_UNIX)
			more = ": the directory must be writable for handoffd";
		else if (c->address.port < 1024)
			more = ": needs CAP_NET_BIND_SERVICE";
		break;
	case EADDRINUSE:
		more = " by another program";
		break;
	case EADDRNOTAVAIL:
		more = ": no interface of this machine has the address";
		break;
	case EMFILE:
		more = ": raise LimitNOFILE";
		break;
	case ENAMETOOLONG:
		why = "the name is too long";
		break;
	}
	(void)ho_error_set(reterr, code,
	        "cannot listen on %s (listener \"%s\"): %s%s; nothing changed", c->address.text,
	        c->name, why, more);
	if (reterr && c->origin.file)
		(void)snprintf(reterr->where, sizeof reterr->where, "%s:%d", c->origin.file,
		        c->origin.line);
	return code;
}

bool listener_kernel_migrates(void)
{
	_cleanup_close_ int fd = open("/proc/sys/net/ipv4/tcp_migrate_req", O_RDONLY | O_CLOEXEC);
	char value = '0';

	return fd >= 0 && read(fd, &value, 1) == 1 && value != '0';
}
