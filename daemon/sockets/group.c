/* SPDX-License-Identifier: MIT */
/* See group.h. Finds out by which means an address can be divided, and speaks to that means. */
#include "sockets/group.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "sockets/adopt.h"
#include "sockets/forms.h"
#include "sockets/reuseport.h"
#include "sockets/set.h"
#include "sockets/tag.h"
#include "sockets/unix_name.h"
#include "system/fd.h"

#define STRANDED_MAX 65536

static int option(int fd, int name)
{
	int value = -1;
	socklen_t n = sizeof value;

	return getsockopt(fd, SOL_SOCKET, name, &value, &n) < 0 ? -errno : value;
}

void group_note_change(struct address_group *g)
{
	struct group_context *x = g->context;

	for (size_t i = 0; i < g->n_members; i++)
		if (x->writer.changed)
			x->writer.changed(x->writer.data, g->members[i]->set->owner);
	if (g->is_changed)
		return;
	g->is_changed = true;
	g->next_changed = x->changed;
	x->changed = g;
}

/* ---- opening ---- */

static int share(struct address_group *g, int fd)
{
	g->steering = STEERING_SHARED;
	g->shared_fd = fd;
	return fd < 0 ? -errno : listener_blocking(fd, false);
}

/* Another TCP group on the same port: a wildcard and an address of this machine cannot both be
 * taken from scratch, and while both are there the kernel prefers the narrower one, whatever
 * generation it belongs to. */
static const struct address_group *neighbour(const struct address_group *g)
{
	for (const struct address_group *o = g->context->groups; o; o = o->next)
		if (o != g && o->reuseport && o->ip.port == g->ip.port)
			return o;
	return NULL;
}

static int open_tcp(struct address_group *g, const struct member *m, struct ho_error *reterr)
{
	const struct address_group *own;
	bool ebpf;
	int r;

	if (g->ip.port == 0)
		return ho_error_set(reterr, -EINVAL,
		        "cannot listen on %s (listener \"%s\"): every generation needs the same "
		        "port, and "
		        "0 is none; nothing changed",
		        g->address.text, m->config->name);
	if (m->taken)
		(void)listener_address_of(m->adopted[0].fd, &g->ip);
	r = reuseport_open(&g->ip, g->context, m->taken ? m->adopted[0].fd : g->passed_fd,
	        group_is_further_form(g), &g->reuseport, &ebpf);
	if (r == -EADDRINUSE && (own = neighbour(g)))
		return ho_error_set(reterr, r,
		        "cannot listen on %s (listener \"%s\"): %s, where handoffd listens "
		        "already, "
		        "has the same port; take that one out and reload, then add the new one; "
		        "nothing changed",
		        g->address.text, m->config->name, own->address.text);
	if (r < 0)
		return listener_failed(reterr, r, m->config);
	g->steering = ebpf ? STEERING_EBPF : STEERING_CBPF;
	return 0;
}

/* Nothing that was passed is trusted to be what its name says. Only TCP can be divided; what cannot
 * be is shared by all generations. */
static int open_passed(struct address_group *g, const struct member *m, struct ho_error *reterr)
{
	int type = option(g->passed_fd, SO_TYPE), reuse = option(g->passed_fd, SO_REUSEPORT),
	    zero = 0;
	const struct listener_config *c = m->config;
	int r;

	if (type < 0)
		return ho_error_set(reterr, type,
		        "cannot use the descriptor \"%s\" of systemd (listener \"%s\"): it is not "
		        "a socket; "
		        "nothing changed",
		        c->address.path, c->name);
	if (type != SOCK_DGRAM && !listener_is_listening(g->passed_fd))
		return ho_error_set(reterr, -EINVAL,
		        "cannot use the socket \"%s\" of systemd (listener \"%s\"): it does not "
		        "listen "
		        "(Accept=yes cannot be served); nothing changed",
		        c->address.path, c->name);
	if (type == SOCK_STREAM && option(g->passed_fd, SO_PROTOCOL) == IPPROTO_TCP &&
	        listener_address_of(g->passed_fd, &g->ip) == 0 &&
	        listener_blocking(g->passed_fd, false) == 0 && open_tcp(g, m, NULL) == 0)
		return 0;
	if (reuse == 0)
		(void)setsockopt(g->passed_fd, SOL_SOCKET, SO_REUSEPORT, &zero, sizeof zero);
	r = share(g, fcntl(g->passed_fd, F_DUPFD_CLOEXEC, 3));
	return r < 0 ? listener_failed(reterr, r, c) : 0;
}

static int open_shared(struct address_group *g, const struct member *m, struct ho_error *reterr)
{
	int fd = -1, r;

	if (m->taken) { /* its flags are those of the server that uses it */
		g->steering = STEERING_SHARED;
		g->taken = true;
		g->shared_fd = fcntl(m->adopted[0].fd, F_DUPFD_CLOEXEC, 3);
		return g->shared_fd < 0 ? listener_failed(reterr, -errno, m->config) : 0;
	}
	if (m->config->address.kind == ADDRESS_UDP)
		r = listener_udp(&g->address, &fd);
	else
		r = listener_abstract(&g->address, m->config->backlog, &fd);
	if (r >= 0)
		r = share(g, fd);
	return r < 0 ? listener_failed(reterr, r, m->config) : 0;
}

static int open_means(struct address_group *g, const struct member *m, struct ho_error *reterr)
{
	struct group_context *x = g->context;

	switch (g->address.kind) {
	case ADDRESS_TCP:
		return open_tcp(g, m, reterr);
	case ADDRESS_UDP:
	case ADDRESS_ABSTRACT:
		return open_shared(g, m, reterr);
	case ADDRESS_UNIX:
		g->steering = STEERING_RENAME;
		return unix_name_open(
		        x->unix_names, x->token, m->config, m->taken, &g->name, reterr);
	case ADDRESS_SYSTEMD:
		return open_passed(g, m, reterr);
	}
	return ho_error_set(
	        reterr, -EINVAL, "cannot listen on %s: unknown kind of address", g->address.text);
}

void group_close(struct address_group *g)
{
	struct group_context *x = g->context;
	struct address_group **p;

	for (p = &x->groups; *p; p = &(*p)->next) {
		if (*p == g) {
			*p = g->next;
			break;
		}
	}
	for (p = &x->changed; g->is_changed && *p; p = &(*p)->next_changed) {
		if (*p == g) {
			*p = g->next_changed;
			break;
		}
	}
	if (x->writer.closed)
		x->writer.closed(x->writer.data, g->id);
	(void)reuseport_close(g->reuseport);
	(void)unix_name_close(g->name);
	(void)close_fd(g->shared_fd);
	free((char *)g->address.path);
	free((char *)g->address.text);
	free(g);
}

static int group_open(struct group_context *x, const struct member *m, int passed_fd,
        size_t passed_index, const struct address *form, struct address_group **ret,
        struct ho_error *reterr)
{
	const struct address *a = &m->config->address;
	struct address_group *g = calloc(1, sizeof *g);
	int r;

	if (!g)
		return listener_failed(reterr, -ENOMEM, m->config);
	g->context = x;
	g->id = ++x->last_serial;
	g->address = *a;
	g->address.text = strdup(a->text);
	g->address.path = a->path ? strdup(a->path) : NULL;
	g->ip = g->address;
	if (form)
		form_copy(&g->ip, form);
	g->shared_fd = -1;
	g->passed_fd = passed_fd;
	g->passed_index = passed_index;
	if (!g->address.text || (a->path && !g->address.path))
		r = listener_failed(reterr, -ENOMEM, m->config);
	else
		r = open_means(g, m, reterr);
	if (r < 0) {
		group_close(g);
		return r;
	}
	g->next = x->groups;
	x->groups = g;
	*ret = g;
	return 0;
}

static struct address_group *group_find(
        const struct group_context *x, const struct address *a, size_t passed_index)
{
	for (struct address_group *g = x->groups; g; g = g->next)
		if (address_equal(&g->address, a) && g->passed_index == passed_index)
			return g;
	return NULL;
}

/* ---- members ---- */

static int join_means(struct address_group *g, struct member *m, struct ho_error *reterr)
{
	int r = 0;

	switch (g->steering) {
	case STEERING_EBPF:
	case STEERING_CBPF:
		r = reuseport_join(g->reuseport, m);
		break;
	case STEERING_RENAME:
		return unix_name_join(g->name, m, reterr);
	case STEERING_SHARED:
		m->fd = fcntl(g->shared_fd, F_DUPFD_CLOEXEC, 3);
		r = m->fd < 0 ? -errno : 0;
		break;
	}
	if (r == -EUSERS)
		return ho_error_set(reterr, r,
		        "cannot listen on %s (listener \"%s\"): too many old generations are still "
		        "there; "
		        "nothing changed",
		        g->address.text, m->config->name);
	return r < 0 ? listener_failed(reterr, r, m->config) : 0;
}

int group_rejoin(struct member *m, struct ho_error *reterr)
{
	struct address_group *g = m->group;
	int r;

	group_note_change(g);
	if (!g->reuseport) {
		m->serial = ++g->context->last_serial;
		if (g->name) /* the private name of before is nobody's any more */
			unix_name_drop(g->name, m);
		return join_means(g, m, reterr);
	}
	r = reuseport_rejoin(g->reuseport, m);
	return r < 0 ? listener_failed(reterr, r, m->config) : 0;
}

static void leave_means(struct address_group *g, struct member *m)
{
	switch (g->steering) {
	case STEERING_EBPF:
	case STEERING_CBPF:
		reuseport_leave(g->reuseport, m, g->sticky);
		break;
	case STEERING_RENAME:
		unix_name_leave(g->name, m);
		break;
	case STEERING_SHARED:
		/* The flag is common to all descriptors of the socket, a worker may have cleared
		 * it. */
		(void)listener_blocking(g->shared_fd, false);
		m->fd = close_fd(m->fd);
		break;
	}
}

/* Asks for no event at all: the kernel reports a hang-up nevertheless, and nothing wakes us for a
 * connection. */
void group_watch(struct group_context *x, int fd)
{
	struct epoll_event e = {.data.fd = fd};

	if (fd >= 0)
		(void)epoll_ctl(x->hangups_fd, EPOLL_CTL_ADD, fd, &e);
}

void group_unwatch(struct group_context *x, int fd)
{
	if (fd >= 0)
		(void)epoll_ctl(x->hangups_fd, EPOLL_CTL_DEL, fd, NULL);
}

/* What is watched already stays so (EEXIST). */
void group_watch_member(struct group_context *x, const struct member *m)
{
	if (m->fd >= 0 && listener_is_listening(m->fd))
		group_watch(x, m->fd);
	for (size_t i = 0; i < m->n_adopted; i++)
		if (m->adopted[i].listening)
			group_watch(x, m->adopted[i].fd);
}

static bool holds(const struct address_group *g, int fd)
{
	for (size_t i = 0; i < g->n_members; i++) {
		const struct member *m = g->members[i];

		if (m->fd == fd)
			return true;
		for (size_t k = 0; k < m->n_adopted; k++)
			if (m->adopted[k].fd == fd)
				return true;
	}
	return false;
}

static void see_to_hangup(struct group_context *x, int fd)
{
	struct address_group *g = x->groups;

	while (g && !(g->reuseport && holds(g, fd)))
		g = g->next;
	if (!g)
		return;
	group_note_change(g);
	reuseport_verify(g->reuseport, g->sticky);
	for (size_t i = 0; i < g->n_members; i++)
		group_watch_member(x, g->members[i]);
}

void group_on_event(struct group_context *x)
{
	struct epoll_event e[64];
	int n = epoll_wait(x->hangups_fd, e, ARRAY_SIZE(e), 0);

	for (int i = 0; i < n; i++)
		if (e[i].events & (EPOLLHUP | EPOLLERR))
			(void)epoll_ctl(x->hangups_fd, EPOLL_CTL_DEL, e[i].data.fd, NULL);
	for (int i = 0; i < n; i++) {
		if (e[i].events & (EPOLLHUP | EPOLLERR))
			see_to_hangup(x, e[i].data.fd);
		else
			adopt_on_arrival(x, e[i].data.fd);
	}
}

const char *group_text(const struct address_group *g, char *ret, size_t size)
{
	struct text t = {.p = ret, .size = size};

	if (!g->reuseport || form_equal(&g->ip, &g->address))
		(void)copy_string(ret, size, g->address.text);
	else
		form_print(&t, &g->ip);
	return ret;
}

bool group_is_further_form(const struct address_group *g)
{
	return g->address.kind == ADDRESS_TCP && g->passed_index > 0;
}

bool group_has_form(const struct group_context *x, const struct address *a, size_t nth)
{
	const struct address_group *g = group_find(x, a, nth);

	for (size_t i = 0; g && i < g->n_members; i++)
		if (g->members[i]->n_adopted)
			return true;
	return false;
}

static int join(struct group_context *x, struct member *m, int passed_fd, size_t passed_index,
        const struct address *form, struct ho_error *reterr)
{
	struct address_group *g = group_find(x, &m->config->address, passed_index);
	int r = 0;

	m->fd = -1;
	m->tag = TAG_NONE;
	m->part = m->revivals = 0;
	m->sent = 0;
	m->unix_path[0] = '\0';
	m->adopted = NULL;
	m->n_adopted = m->n_listening = 0;
	m->serial = ++x->last_serial;
	if (!g)
		r = group_open(x, m, passed_fd, passed_index, form, &g, reterr);
	if (r < 0)
		return r;
	if (g->n_members == GROUP_MEMBERS)
		return ho_error_set(reterr, -EUSERS,
		        "cannot listen on %s (listener \"%s\"): too many old generations are still "
		        "there; "
		        "nothing changed",
		        g->address.text, m->config->name);
	group_note_change(g);
	r = join_means(g, m, reterr);
	if (r < 0) {
		if (g->n_members == 0)
			group_close(g);
		return r;
	}
	m->group = g;
	g->members[g->n_members++] = m;
	if (g->reuseport)
		group_watch(x, m->fd);
	/* What comes before the first steering waits in the first one's queue. */
	if (g->n_members == 1) {
		m->part = SHARE_ALL;
		r = group_apply(g, false, reterr);
		if (r < 0)
			group_leave(m);
	}
	return r;
}

int group_join(struct group_context *x, struct member *m, int passed_fd, size_t passed_index,
        struct ho_error *reterr)
{
	return join(x, m, passed_fd, passed_index, NULL, reterr);
}

int group_join_form(struct group_context *x, struct member *m, const struct address *form,
        struct ho_error *reterr)
{
	size_t nth = 1;

	while (nth < FORMS_MAX && group_find(x, &m->config->address, nth))
		nth++;
	if (nth == FORMS_MAX)
		return ho_error_set(reterr, -EADDRINUSE,
		        "the program binds more than %d addresses for %s, the next one is refused; "
		        "write each of them",
		        FORMS_MAX, m->config->address.text);
	return join(x, m, -1, nth, form, reterr);
}

void group_strand(const struct member *m, int fd)
{
	const struct group_context *x = m->group->context;
	int flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);

	/* A worker may have the same open file, and have made it blocking. */
	if (!x->stranded || flags < 0 ||
	        (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0))
		return;
	for (int i = 0; i < STRANDED_MAX; i++) {
		int waiting = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (waiting < 0)
			return;
		x->stranded(x->stranded_data, waiting,
		        m->unix_path[0] ? m->config->address.path : NULL);
	}
}

static void drop_adopted(struct member *m)
{
	int zero = 0;

	for (size_t i = 0; i < m->n_adopted; i++) {
		if (m->adopted[i].was_alone)
			(void)setsockopt(
			        m->adopted[i].fd, SOL_SOCKET, SO_REUSEPORT, &zero, sizeof zero);
		(void)close_fd(m->adopted[i].fd);
	}
	free(m->adopted);
	m->adopted = NULL;
	m->n_adopted = m->n_listening = 0;
}

void group_leave(struct member *m)
{
	struct address_group *g = m->group;
	size_t i;

	for (i = 0; i < g->n_members && g->members[i] != m; i++)
		;
	HO_ASSERT(i < g->n_members);
	group_note_change(g);
	g->members[i] = g->members[--g->n_members];
	if (g->probed == m)
		g->probed = NULL;
	m->part = 0;
	/* Its workers may hold the socket, then it would stay in there after our close. */
	if (g->reuseport)
		group_unwatch(g->context, m->fd);
	for (i = 0; i < m->n_adopted; i++)
		group_unwatch(g->context, m->adopted[i].fd);
	leave_means(g, m);
	drop_adopted(m);
	m->group = NULL;
	if (g->n_members == 0)
		group_close(g);
	else if (g->steering == STEERING_RENAME)
		(void)group_apply(g, g->sticky, NULL);
}

/* A path has one owner: the one with the greatest part. */
static const struct member *greatest_part(const struct address_group *g)
{
	const struct member *best = NULL;

	for (size_t i = 0; i < g->n_members; i++)
		if (g->members[i]->part > 0 && (!best || g->members[i]->part > best->part))
			best = g->members[i];
	return best;
}

int group_apply(struct address_group *g, bool sticky, struct ho_error *reterr)
{
	int r = 0;

	group_note_change(g);
	switch (g->steering) {
	case STEERING_EBPF:
	case STEERING_CBPF:
		r = reuseport_apply(g->reuseport, sticky);
		if (r < 0)
			return ho_error_set(reterr, r,
			        "cannot attach the steering program of %s: %s; nothing changed",
			        g->address.text, strerror(-r));
		break;
	case STEERING_RENAME:
		r = unix_name_publish(g->name, greatest_part(g), reterr);
		break;
	case STEERING_SHARED:
		break;
	}
	if (r >= 0)
		g->sticky = sticky;
	return r;
}

/* ---- sockets of a server that ran before us ---- */

static int take_means(struct address_group *g, struct member *m, struct ho_error *reterr)
{
	int r = 0;

	if (g->reuseport)
		r = reuseport_take(g->reuseport, m);
	else if (m->n_adopted > 1)
		r = -EOPNOTSUPP;
	else if (g->name)
		r = unix_name_take(g->name, m);
	if (r == -EOPNOTSUPP)
		return ho_error_set(reterr, r,
		        "cannot take %s over: the server has %zu sockets there, which only an eBPF "
		        "program can steer (needs CAP_BPF, or root)",
		        g->address.text, m->n_adopted);
	if (r < 0)
		return ho_error_set(
		        reterr, r, "cannot take %s over: %s", g->address.text, strerror(-r));
	if (!g->reuseport) {
		m->fd = m->adopted[0].fd;
		m->n_adopted = 0;
	}
	return 0;
}

int group_take(struct group_context *x, struct member *m, size_t form, struct ho_error *reterr)
{
	struct address_group *g;
	int r;

	m->tag = TAG_NONE;
	m->serial = ++x->last_serial;
	if (group_find(x, &m->config->address, form))
		r = listener_failed(reterr, -EADDRINUSE, m->config);
	else
		r = group_open(x, m, -1, form, NULL, &g, reterr);
	if (r < 0) {
		drop_adopted(m);
		return r;
	}
	group_note_change(g);
	r = take_means(g, m, reterr);
	m->group = g;
	g->members[g->n_members++] = m;
	m->part = SHARE_ALL;
	for (size_t i = 0; r >= 0 && i < m->n_adopted; i++)
		group_watch(x, m->adopted[i].fd);
	if (r >= 0)
		r = group_apply(g, false, reterr);
	if (r < 0)
		group_abandon(m);
	return r;
}

void group_abandon(struct member *m)
{
	struct address_group *g = m->group;
	size_t i;

	for (i = 0; i < g->n_members && g->members[i] != m; i++)
		;
	HO_ASSERT(i < g->n_members);
	group_note_change(g);
	g->members[i] = g->members[--g->n_members];
	m->part = 0;
	for (i = 0; i < m->n_adopted; i++)
		group_unwatch(g->context, m->adopted[i].fd);
	if (g->reuseport)
		reuseport_abandon(g->reuseport, m);
	else if (g->name)
		unix_name_abandon(g->name, m);
	m->group = NULL;
	if (g->n_members == 0)
		group_close(g);
	m->fd = close_fd(m->fd);
	drop_adopted(m);
}

/* ---- probes ---- */

/* A socket that is bound to the address itself, or to loopback where that is every address; *to is
 * where it connects to. */
static int bind_source(const struct address *listening, int *ret_fd,
        struct sockaddr_storage *ret_to, socklen_t *ret_len)
{
	struct address from = *listening;
	struct sockaddr_storage ss;
	socklen_t n;
	_cleanup_close_ int fd = -1;

	from.kind = ADDRESS_TCP;
	form_unmap(&from);
	if (form_is_wildcard(listening)) {
		memset(from.ip, 0, sizeof from.ip);
		if (from.ipv6)
			from.ip[15] = 1;
		else
			memcpy(from.ip, (const uint8_t[]){127, 0, 0, 1}, 4);
	}
	(void)listener_sockaddr(&from, ret_to, ret_len);
	from.port = 0;
	(void)listener_sockaddr(&from, &ss, &n);
	fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&ss, n) < 0)
		return -errno;
	*ret_fd = take_fd(fd);
	return 0;
}

static int tcp_source(const struct address *listening, int *ret_fd, struct sockaddr_storage *ret_to,
        socklen_t *ret_len)
{
	struct address other = *listening;
	int r = bind_source(listening, ret_fd, ret_to, ret_len);

	if (r >= 0 || !listening->ipv6 || !listening->dual || !form_is_wildcard(listening))
		return r;
	other.ipv6 = false;
	return bind_source(&other, ret_fd, ret_to, ret_len);
}

static int tcp_probe(
        struct member *m, int *ret_fd, struct sockaddr_storage *ret_to, socklen_t *ret_len)
{
	struct address_group *g = m->group;
	struct sockaddr_storage from;
	socklen_t n = sizeof from;
	int fd = -1, r = tcp_source(&g->ip, &fd, ret_to, ret_len);

	if (r >= 0 && getsockname(fd, (struct sockaddr *)&from, &n) < 0)
		r = -errno;
	if (r >= 0) {
		group_note_change(g);
		reuseport_probe(g->reuseport, m, &from);
		r = reuseport_apply(g->reuseport, g->sticky);
	}
	if (r < 0) {
		reuseport_probe(g->reuseport, NULL, NULL);
		(void)close_fd(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

static int unix_probe(
        const struct member *m, int *ret_fd, struct sockaddr_storage *ret_to, socklen_t *ret_len)
{
	struct sockaddr_un *un = (struct sockaddr_un *)ret_to;
	const char *path = m->group->name ? unix_name_path(m) : NULL;

	memset(ret_to, 0, sizeof *ret_to);
	if (path) {
		(void)listener_unix_sockaddr(path, un, ret_len);
	} else {
		*ret_len = sizeof *ret_to;
		if (getsockname(m->fd, (struct sockaddr *)ret_to, ret_len) < 0)
			return -errno;
	}
	*ret_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return *ret_fd < 0 ? -errno : 0;
}

static int shared_probe(
        const struct member *m, int *ret_fd, struct sockaddr_storage *ret_to, socklen_t *ret_len)
{
	struct address a = m->config->address;

	if (m->group->n_members > 1 || option(m->fd, SO_TYPE) != SOCK_STREAM)
		return -EOPNOTSUPP;
	if (option(m->fd, SO_DOMAIN) == AF_UNIX)
		return unix_probe(m, ret_fd, ret_to, ret_len);
	if (listener_address_of(m->fd, &a) < 0)
		return -EOPNOTSUPP;
	return tcp_source(&a, ret_fd, ret_to, ret_len);
}

int group_probe_begin(struct member *m, int *ret_fd, struct sockaddr_storage *ret_to,
        socklen_t *ret_len, struct ho_error *reterr)
{
	struct address_group *g = m->group;
	char text[160];
	int r = -EOPNOTSUPP;

	if (m->adopt_only && m->n_listening == 0)
		return ho_error_set(reterr, -EAGAIN, "the program does not listen on %s yet",
		        group_text(g, text, sizeof text));
	if (g->probed)
		return ho_error_set(
		        reterr, -EBUSY, "another probe of %s is under way", g->address.text);
	switch (g->steering) {
	case STEERING_EBPF:
	case STEERING_CBPF:
		r = tcp_probe(m, ret_fd, ret_to, ret_len);
		break;
	case STEERING_RENAME:
		r = unix_probe(m, ret_fd, ret_to, ret_len);
		break;
	case STEERING_SHARED:
		r = shared_probe(m, ret_fd, ret_to, ret_len);
		break;
	}
	if (r == -EOPNOTSUPP)
		return ho_error_set(reterr, r,
		        "cannot probe %s: its socket is shared by several generations, or has no "
		        "connections",
		        g->address.text);
	if (r < 0)
		return ho_error_set(
		        reterr, r, "cannot probe %s: %s", g->address.text, strerror(-r));
	g->probed = m;
	return 0;
}

void group_probe_end(struct member *m)
{
	struct address_group *g = m->group;

	if (g->probed != m)
		return;
	g->probed = NULL;
	if (g->reuseport) {
		group_note_change(g);
		reuseport_probe(g->reuseport, NULL, NULL);
		(void)reuseport_apply(g->reuseport, g->sticky);
	}
}
