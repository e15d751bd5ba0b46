/* SPDX-License-Identifier: MIT */
#include "sockets/take.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "sockets/adopt.h"
#include "sockets/diag.h"
#include "sockets/forms.h"
#include "sockets/set.h"
#include "system/fd.h"

static int option(int fd, int name)
{
	int value = -1;
	socklen_t n = sizeof value;

	return getsockopt(fd, SOL_SOCKET, name, &value, &n) < 0 ? -1 : value;
}

/* ---- what a socket is ---- */

/* Where it receives; `path` has room for a name of a UNIX socket. */
static bool address_of(int fd, struct address *ret, char *path, size_t size)
{
	struct sockaddr_un un = {0};
	socklen_t n = sizeof un;
	size_t length;

	*ret = (struct address){.kind = ADDRESS_TCP};
	if (option(fd, SO_TYPE) == SOCK_STREAM && !listener_is_listening(fd))
		return false;
	if (option(fd, SO_DOMAIN) != AF_UNIX)
		return listener_address_of(fd, ret) == 0 && ret->port != 0;
	if (option(fd, SO_TYPE) != SOCK_STREAM || getsockname(fd, (struct sockaddr *)&un, &n) < 0 ||
	        n <= offsetof(struct sockaddr_un, sun_path) + 1)
		return false;
	length = n - offsetof(struct sockaddr_un, sun_path);
	ret->kind = un.sun_path[0] ? ADDRESS_UNIX : ADDRESS_ABSTRACT;
	(void)snprintf(
	        path, size, "%.*s", (int)length - !un.sun_path[0], un.sun_path + !un.sun_path[0]);
	ret->path = path;
	return true;
}

bool take_describe(int fd, char *ret, size_t size)
{
	char path[sizeof(((struct sockaddr_un *)0)->sun_path) + 1];
	struct text t = {.p = ret, .size = size};
	struct address a;

	ret[0] = '\0';
	if (!address_of(fd, &a, path, sizeof path))
		return false;
	if (a.kind == ADDRESS_UNIX || a.kind == ADDRESS_ABSTRACT)
		text_add(&t, "unix:%s%s", a.kind == ADDRESS_ABSTRACT ? "@" : "", path);
	else
		form_print(&t, &a);
	return true;
}

bool take_is_elsewhere(int fd)
{
	return option(fd, SO_DOMAIN) != AF_UNIX && !form_in_our_network(fd);
}

static bool matches(const struct address *want, const struct address *have)
{
	if (want->kind != have->kind)
		return false;
	switch (want->kind) {
	case ADDRESS_TCP:
	case ADDRESS_UDP:
		return form_equal(have, want) || form_allowed(want, have);
	case ADDRESS_UNIX:
	case ADDRESS_ABSTRACT:
		return !strcmp(want->path, have->path);
	case ADDRESS_SYSTEMD:
		break;
	}
	return false;
}

ssize_t take_match(const struct service_config *service, int fd)
{
	char path[sizeof(((struct sockaddr_un *)0)->sun_path) + 1];
	struct address a;

	if (!address_of(fd, &a, path, sizeof path))
		return -1;
	for (size_t i = 0; i < service->n_listeners; i++)
		if (matches(&service->listeners[i].address, &a))
			return (ssize_t)i;
	return -1;
}

uint16_t take_port(int fd)
{
	struct address a = {0};

	return listener_address_of(fd, &a) == 0 && a.kind == ADDRESS_TCP ? a.port : 0;
}

bool take_hinders(int fd, uint16_t port)
{
	return option(fd, SO_TYPE) == SOCK_STREAM && !listener_is_listening(fd) &&
	       take_port(fd) == port && option(fd, SO_REUSEADDR) == 0;
}

/* ---- strangers ---- */

struct strangers {
	const struct member *member;
	struct address ip;
	unsigned n;
};

static void on_listening(const struct diag_socket *s, void *arg)
{
	struct strangers *x = arg;
	struct stat st;

	if (s->local_port != x->ip.port || s->family != (x->ip.ipv6 ? AF_INET6 : AF_INET) ||
	        memcmp(s->local, x->ip.ip, x->ip.ipv6 ? 16 : 4) != 0)
		return;
	for (size_t i = 0; i < x->member->n_adopted; i++)
		if (fstat(x->member->adopted[i].fd, &st) == 0 && st.st_ino == s->inode)
			return;
	x->n++;
}

/* Other processes that share the address would get nothing any more. */
static int check_strangers(const struct member *m, struct ho_error *reterr)
{
	struct strangers x = {.member = m};
	struct diag_ports ports = {.n = 1};
	struct diag d = {0};
	int r;

	if (m->config->address.kind != ADDRESS_TCP ||
	        listener_address_of(m->adopted[0].fd, &x.ip) < 0)
		return 0;
	ports.port[0] = x.ip.port;
	r = diag_dump_begin(&d, &(struct diag_request){.family = x.ip.ipv6 ? AF_INET6 : AF_INET,
	                                .states = 1u << TCP_LISTEN,
	                                .ports = &ports});
	for (r = r < 0 ? r : 1; r > 0;)
		r = diag_dump_next(&d, on_listening, &x);
	diag_done(&d);
	if (r < 0 || x.n == 0)
		return 0;
	return ho_error_set(reterr, -EADDRINUSE,
	        "cannot take %s over: %u more socket%s of other processes listen there "
	        "(SO_REUSEPORT); name them too, --take-over for each",
	        m->config->address.text, x.n, x.n == 1 ? "" : "s");
}

/* ---- the set ---- */

static int add_socket(struct member *m, const struct taken_socket *t)
{
	struct adopted *a;
	int one = 1;

	if (!m->adopted)
		m->adopted = calloc(ADOPTED_MAX, sizeof *m->adopted);
	if (!m->adopted || m->n_adopted == ADOPTED_MAX) {
		(void)close_fd(t->fd);
		return m->adopted ? -ENOBUFS : -ENOMEM;
	}
	a = &m->adopted[m->n_adopted++];
	*a = (struct adopted){.fd = t->fd,
	        .holder = t->holder.pid,
	        .theirs = t->holder.fd,
	        .cookie = adopt_cookie(t->fd),
	        .was_alone = option(t->fd, SO_REUSEPORT) == 0};
	if (m->config->address.kind == ADDRESS_TCP)
		(void)setsockopt(t->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	return 0;
}

static bool same_form(int fd, int other)
{
	struct address a = {0}, b = {0};

	return listener_address_of(fd, &a) < 0 || listener_address_of(other, &b) < 0 ||
	       form_equal(&a, &b);
}

/* Where the socket belongs: a port alone may have been bound in several forms. */
static struct member *member_of(
        struct listener_set *set, const struct listener_config *c, int fd, size_t *ret_forms)
{
	*ret_forms = 0;
	for (size_t i = 0; i < set->n; i++) {
		struct member *m = &set->members[i];

		if (m->config != c)
			continue;
		if (c->address.kind != ADDRESS_TCP || m->n_adopted == 0 ||
		        same_form(fd, m->adopted[0].fd))
			return m;
		++*ret_forms;
	}
	return NULL;
}

static int fill(struct listener_set *set, const struct taken_socket *taken, size_t n)
{
	int code, r = 0;
	size_t forms;

	for (size_t i = 0; i < n; i++) {
		const struct listener_config *c = &set->service->listeners[taken[i].listener];
		struct member *m = member_of(set, c, taken[i].fd, &forms);

		if (!m && forms == FORMS_MAX) {
			(void)close_fd(taken[i].fd);
			r = r < 0 ? r : -EADDRINUSE;
			continue;
		}
		if (!m) {
			m = &set->members[set->n++];
			*m = (struct member){.set = set, .config = c, .fd = -1, .taken = true};
		}
		code = add_socket(m, &taken[i]);
		r = r < 0 ? r : code;
	}
	return r;
}

static void discard(struct member *m)
{
	for (size_t i = 0; i < m->n_adopted; i++)
		(void)close_fd(m->adopted[i].fd);
	free(m->adopted);
}

/* How many members before this one have the same address in another form. */
static size_t form_number(const struct listener_set *set, const struct member *m)
{
	size_t n = 0;

	for (const struct member *o = set->members; o < m; o++)
		n += o->config == m->config;
	return n;
}

static int join_all(struct listener_set *set, struct ho_error *reterr)
{
	size_t joined = 0, wanted = set->n;
	int r = 0;

	for (; r >= 0 && joined < wanted; joined++) {
		struct member *m = &set->members[joined];

		r = check_strangers(m, reterr);
		if (r < 0)
			break;
		r = group_take(set->context, m, form_number(set, m), reterr);
		if (r < 0)
			break;
	}
	set->n = joined;
	for (size_t i = joined; r < 0 && i < wanted; i++)
		discard(&set->members[i]);
	return r;
}

int listener_set_take(struct sockets *s, struct config *config,
        const struct service_config *service, const struct taken_socket *taken, size_t n,
        struct listener_set **ret, struct ho_error *reterr)
{
	struct listener_set *set =
	        listener_set_new(s, config, service, 0, service->n_listeners * FORMS_MAX);
	int r;

	if (!set) {
		for (size_t i = 0; i < n; i++)
			(void)close_fd(taken[i].fd);
		return ho_error_set(reterr, -ENOMEM, "no memory for the sockets of the server");
	}
	r = fill(set, taken, n);
	if (r < 0) {
		for (size_t i = 0; i < set->n; i++)
			discard(&set->members[i]);
		set->n = 0;
		(void)ho_error_set(reterr, r, "cannot take the server over: %s", strerror(-r));
	} else {
		r = join_all(set, reterr);
	}
	if (r < 0) {
		(void)listener_set_leave(set);
		return r;
	}
	*ret = set;
	return 0;
}

struct listener_set *listener_set_leave(struct listener_set *set)
{
	for (size_t i = 0; i < set->n; i++)
		group_abandon(&set->members[i]);
	set->n = 0;
	return listener_set_close(set);
}
