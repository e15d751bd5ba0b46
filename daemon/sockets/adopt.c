/* SPDX-License-Identifier: MIT */
#include "sockets/adopt.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sockets/endpoint.h"
#include "sockets/forms.h"
#include "sockets/reuseport.h"
#include "sockets/set.h"
#include "system/fd.h"

#define LOOK_SECONDS 1.
#define LOOK_LONG_SECONDS 10.

static int option(int fd, int level, int name)
{
	int value = -1;
	socklen_t n = sizeof value;

	return getsockopt(fd, level, name, &value, &n) < 0 ? -1 : value;
}

uint64_t adopt_cookie(int fd)
{
	uint64_t cookie = 0;
	socklen_t n = sizeof cookie;

	return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &n) < 0 ? 0 : cookie;
}

/* ---- forms of an address ---- */

/* As the socket is, bound to this address. */
static struct address form_of(int fd, const struct sockaddr_storage *to)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)to;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)to;
	struct address a = {.kind = ADDRESS_TCP, .ipv6 = to->ss_family == AF_INET6};

	if (a.ipv6) {
		memcpy(a.ip, &in6->sin6_addr, 16);
		a.port = ntohs(in6->sin6_port);
		a.scope_id = in6->sin6_scope_id;
		a.dual = option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 0;
	} else {
		memcpy(a.ip, &in->sin_addr, 4);
		a.port = ntohs(in->sin_port);
	}
	return a;
}

bool adopt_describe(int fd, char *ret, size_t size)
{
	struct sockaddr_storage ss = {0};
	const struct sockaddr_un *un = (const struct sockaddr_un *)&ss;
	struct text t = {.p = ret, .size = size};
	socklen_t n = sizeof ss;
	struct address a;

	ret[0] = '\0';
	if (getsockname(fd, (struct sockaddr *)&ss, &n) < 0)
		return false;
	if (ss.ss_family == AF_UNIX && n > sizeof ss.ss_family) {
		text_add(&t, "unix:%s%.107s", un->sun_path[0] ? "" : "@",
		        un->sun_path + !un->sun_path[0]);
		return true;
	}
	if (ss.ss_family != AF_INET && ss.ss_family != AF_INET6)
		return false;
	a = form_of(fd, &ss);
	if (a.port == 0)
		return false;
	form_print(&t, &a);
	return true;
}

/* Can the members of this address have another form? Only while no other generation has it. */
static bool is_alone(const struct member *m)
{
	return m->group->n_members == 1 && m->group->passed_fd < 0;
}

/* The group in another form, with its only member, whose program has no socket in it (any more).
 * Clients that wait in the first one's queue are lost; that is before the service has ever served.
 */
static int reform(struct address_group *g, struct member *m, const struct address *form)
{
	struct reuseport *old = g->reuseport, *fresh;
	const struct address before = g->ip;
	const uint8_t tag = m->tag;
	const int fd = m->fd;
	bool ebpf;
	int r;

	group_note_change(g);
	form_copy(&g->ip, form);
	r = reuseport_open(&g->ip, g->context, -1, true, &fresh, &ebpf);
	if (r >= 0) {
		m->fd = -1;
		r = reuseport_join(fresh, m);
		if (r < 0)
			(void)reuseport_close(fresh);
	}
	if (r < 0) {
		g->ip = before;
		m->fd = fd;
		m->tag = tag;
		return r;
	}
	group_unwatch(g->context, fd);
	(void)reuseport_close(old);
	(void)close_fd(fd);
	g->reuseport = fresh;
	g->steering = ebpf ? STEERING_EBPF : STEERING_CBPF;
	group_watch(g->context, m->fd);
	return group_apply(g, g->sticky, NULL);
}

/* ---- bind ---- */

static struct adopted *find(struct listener_set *set, uint64_t cookie, struct member **ret)
{
	for (size_t i = 0; cookie && i < set->n; i++)
		for (size_t k = 0; k < set->members[i].n_adopted; k++)
			if (set->members[i].adopted[k].cookie == cookie) {
				*ret = &set->members[i];
				return &set->members[i].adopted[k];
			}
	return NULL;
}

static int make_room(struct member *m, struct ho_error *reterr)
{
	if (!m->adopted)
		m->adopted = calloc(ADOPTED_MAX, sizeof *m->adopted);
	if (!m->adopted)
		return ho_error_set(reterr, -ENOMEM, "no memory for a socket of the program");
	if (m->n_adopted == ADOPTED_MAX)
		return ho_error_set(reterr, -ENOBUFS,
		        "the program binds more than %d sockets to %s; the next one is refused",
		        ADOPTED_MAX, m->config->address.text);
	return 0;
}

static int bind_for(struct member *m, int fd, const struct sockaddr_storage *to, socklen_t length,
        struct ho_error *reterr)
{
	_cleanup_close_ int ours = -1;
	int r = make_room(m, reterr);

	if (r < 0)
		return r;
	group_note_change(m->group);
	ours = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	r = ours < 0 ? -errno : reuseport_prepare(m->group->reuseport, ours);
	if (r < 0)
		return ho_error_set(reterr, r,
		        "cannot take over the socket that the program binds to %s: %s",
		        m->config->address.text, strerror(-r));
	if (bind(ours, (const struct sockaddr *)to, length) < 0)
		return -errno;
	m->adopted[m->n_adopted++] =
	        (struct adopted){.fd = take_fd(ours), .cookie = adopt_cookie(fd), .address = *to};
	return 0;
}

/* `have`: what stands in the way. */
static int refuse(const struct member *m, const struct address *form, struct ho_error *reterr)
{
	const struct address_group *g = m->group;
	char want[80], have[80];
	struct text w = TEXT_ON(want), h = TEXT_ON(have);

	form_print(&w, form);
	form_print(&h, &g->ip);
	if (!form_allowed(&g->address, form))
		return ho_error_set(reterr, -EADDRINUSE,
		        "the program binds %s, but the service listens on %s: it is told that the "
		        "address is in use; write the address that it binds, or the port alone",
		        want, have);
	if (!is_alone(m))
		return ho_error_set(reterr, -EADDRINUSE,
		        "the program binds %s, but the generation before it listens on %s, and "
		        "connections cannot be handed over between the two; to change it, stop and "
		        "start the service",
		        want, have);
	return ho_error_set(reterr, -EADDRINUSE,
	        "the program binds %s, but it listens on %s already: it is told that the address "
	        "is in use",
	        want, have);
}

/* A further form of an address, beside those that the program has bound. */
static int add_form(struct listener_set *set, const struct listener_config *c,
        const struct address *form, struct member **ret, struct ho_error *reterr)
{
	struct member *m = &set->members[set->n];
	int r;

	HO_ASSERT(set->n < set->room);
	*m = (struct member){
	        .set = set, .config = c, .generation = set->generation, .adopt_only = true};
	r = group_join_form(set->context, m, form, reterr);
	if (r < 0)
		return r;
	set->n++;
	*ret = m;
	return 0;
}

/* Makes a place for a form of an address that the configuration leaves to the program. */
static int take_form(struct listener_set *set, const struct member *like,
        const struct address *form, bool starting, struct member **ret, bool *ret_apart,
        struct ho_error *reterr)
{
	struct member *unused = NULL;
	int r;

	if (!form_allowed(&like->group->address, form))
		return refuse(like, form, reterr);
	for (size_t i = 0; i < set->n; i++) {
		struct member *m = &set->members[i];

		if (m->config != like->config)
			continue;
		if (starting && !is_alone(m)) {
			*ret_apart = true;
			*ret = m;
			return 0;
		}
		if (!is_alone(m) || (m->n_adopted && form_collides(form, &m->group->ip)))
			return refuse(m, form, reterr);
		if (m->n_adopted == 0 && !unused)
			unused = m;
	}
	if (!unused)
		return add_form(set, like->config, form, ret, reterr);
	r = reform(unused->group, unused, form);
	if (r < 0)
		return ho_error_set(reterr, r, "cannot listen on %s as the program does: %s",
		        like->config->address.text, strerror(-r));
	*ret = unused;
	return 0;
}

/* Two wildcards are meant to be the same address, even where the kernel could tell them apart. */
static bool is_meant(const struct address_group *g, const struct address *form)
{
	return form_collides(form, &g->ip) || form_allowed(&g->address, form) ||
	       (form->port == g->ip.port && form_is_wildcard(form) && form_is_wildcard(&g->ip));
}

int listener_set_bind(struct listener_set *set, int fd, struct socket_holder holder,
        const struct sockaddr_storage *to, socklen_t length, bool starting, struct ho_error *reterr)
{
	struct member *m = NULL, *like = NULL;
	const struct adopted *known = find(set, adopt_cookie(fd), &m);
	const struct address form = form_of(fd, to);
	bool apart = false;
	int r = 0;

	if (known) /* the call was interrupted, and comes again */
		return memcmp(&known->address, to, sizeof *to) == 0 ? 0 : -EINVAL;
	for (size_t i = 0; i < set->n && !m; i++) {
		const struct address_group *g = set->members[i].group;

		if (!g->reuseport)
			continue;
		if (form_equal(&form, &g->ip))
			m = &set->members[i];
		else if (!like && is_meant(g, &form))
			like = &set->members[i];
	}
	if ((!m && !like) || !form_in_our_network(fd))
		return 1;
	if (!m)
		r = take_form(set, like, &form, starting, &m, &apart, reterr);
	if (r >= 0)
		r = bind_for(m, fd, to, length, reterr);
	if (r < 0)
		return r;
	m->adopted[m->n_adopted - 1].holder = holder.pid;
	m->adopted[m->n_adopted - 1].theirs = holder.fd;
	m->adopted[m->n_adopted - 1].apart = apart;
	return 0;
}

/* ---- UNIX ---- */

static bool has_name(const struct member *m, const struct unix_target *t)
{
	const struct address *a = &m->config->address;

	if (t->directory < 0)
		return a->kind == ADDRESS_ABSTRACT && strlen(a->path) == t->length &&
		       !memcmp(a->path, t->name, t->length);
	return m->group->name && unix_name_is_public(m->group->name, t->directory, t->name);
}

static struct member *find_name(const struct listener_set *set, const struct unix_target *t)
{
	for (size_t i = 0; i < set->n; i++)
		if (has_name(&set->members[i], t))
			return (struct member *)&set->members[i];
	return NULL;
}

bool listener_set_awaits(const struct listener_set *set, const struct unix_target *target)
{
	const struct member *m = find_name(set, target);

	return m && m->n_listening == 0;
}

bool listener_set_keeps(const struct listener_set *set, const struct unix_target *t)
{
	for (size_t i = 0; i < set->n; i++) {
		const struct unix_name *u = set->members[i].group->name;

		if (u && (unix_name_is_public(u, t->directory, t->name) ||
		                 unix_name_is_private(u, t->directory, t->name)))
			return true;
	}
	return false;
}

static int bind_path(struct member *m, int fd, struct socket_holder holder,
        const struct unix_look *look, struct ho_error *reterr)
{
	struct group_context *x = m->group->context;
	_cleanup_close_ int ours = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	struct adopted a = {.serial = ++x->last_serial,
	        .cookie = adopt_cookie(fd),
	        .holder = holder.pid,
	        .theirs = holder.fd};
	int r = ours < 0 ? -errno : 0;

	group_note_change(m->group);
	if (r >= 0)
		r = unix_name_bind(m->group->name, ours, a.serial, m->config, look,
		        (struct sockaddr_un *)&a.address);
	if (r < 0)
		return ho_error_set(reterr, r,
		        "cannot bind the socket of the program for %s: %s; handoffd must be able "
		        "to write the directory",
		        m->config->address.text, strerror(-r));
	a.fd = take_fd(ours);
	m->adopted[m->n_adopted++] = a;
	/* The first of all may be looked for at once, by the program itself. */
	(void)group_apply(m->group, m->group->sticky, NULL);
	return 0;
}

int listener_set_bind_unix(struct listener_set *set, int fd, struct socket_holder holder,
        const struct unix_target *target, const struct unix_look *look, int *ret_give,
        struct ho_error *reterr)
{
	struct member *m = find_name(set, target), *known = NULL;
	int r;

	if (!m || !form_in_our_network(fd))
		return 1;
	if (target->directory < 0) {
		*ret_give = m->fd;
		return 0;
	}
	if (find(set, adopt_cookie(fd), &known)) /* interrupted: see above */
		return known == m ? 0 : -EINVAL;
	r = make_room(m, reterr);
	return r < 0 ? r : bind_path(m, fd, holder, look, reterr);
}

/* ---- arrivals ---- */

/* Most sockets stay with whoever bound them: then nothing else has to be looked through. */
static bool is_with_holder(const struct adopted *a)
{
	char path[64], link[64], want[64];
	struct stat st;
	ssize_t n;

	(void)snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)a->holder, a->theirs);
	n = readlink(path, link, sizeof link - 1);
	if (n < 0 || fstat(a->fd, &st) < 0)
		return false;
	link[n] = '\0';
	(void)snprintf(want, sizeof want, "socket:[%llu]", (unsigned long long)st.st_ino);
	return strcmp(link, want) == 0;
}

bool adopt_is_apart(const struct member *m, struct ho_error *reterr)
{
	for (size_t k = 0; k < m->n_adopted; k++) {
		const struct adopted *a = &m->adopted[k];
		const struct address form = form_of(a->fd, &a->address);

		if (!a->apart || !is_with_holder(a))
			continue;
		(void)refuse(m, &form, reterr);
		return true;
	}
	return false;
}

bool listener_set_apart(struct listener_set *set, struct ho_error *reterr)
{
	bool kept = false;

	for (size_t i = 0; i < set->n; i++)
		for (size_t k = 0; k < set->members[i].n_adopted; k++) {
			struct adopted *a = &set->members[i].adopted[k];

			kept |= a->apart && a->told;
			a->told |= a->apart;
		}
	for (size_t i = 0; kept && i < set->n; i++)
		if (adopt_is_apart(&set->members[i], reterr))
			return true;
	return false;
}

/* What is watched for its hang-up anyway tells of a client as well, once. */
static void expect(struct group_context *x, int fd, bool client)
{
	struct epoll_event e = {.data.fd = fd, .events = client ? EPOLLIN : 0};

	(void)epoll_ctl(x->hangups_fd, EPOLL_CTL_MOD, fd, &e);
}

static void look_at_arrivals(const struct member *m)
{
	struct group_context *x = m->group->context;

	if (m->part == 0 || ev_is_active(&x->look))
		return;
	for (size_t k = 0; k < m->n_adopted; k++)
		if (m->adopted[k].listening && !m->adopted[k].orphan)
			expect(x, m->adopted[k].fd, true);
}

void adopt_look_again(struct group_context *x)
{
	for (const struct address_group *g = x->groups; g; g = g->next)
		for (size_t i = 0; i < g->n_members; i++)
			look_at_arrivals(g->members[i]);
}

static struct adopted *find_fd(const struct group_context *x, int fd, struct member **ret)
{
	for (const struct address_group *g = x->groups; g; g = g->next)
		for (size_t i = 0; i < g->n_members; i++)
			for (size_t k = 0; k < g->members[i]->n_adopted; k++)
				if (g->members[i]->adopted[k].fd == fd) {
					*ret = g->members[i];
					return &g->members[i]->adopted[k];
				}
	return NULL;
}

void adopt_on_arrival(struct group_context *x, int fd)
{
	struct member *m;
	const struct adopted *a = find_fd(x, fd, &m);
	double pause = LOOK_SECONDS;

	if (!a)
		return;
	expect(x, fd, false);
	/* Somebody else has it: to find that out again takes long. */
	if (!is_with_holder(a) && m->set->seek && !m->set->seek(m->set->seek_data))
		pause = LOOK_LONG_SECONDS;
	if (ev_is_active(&x->look))
		return;
	ev_timer_set(&x->look, pause, 0.);
	ev_timer_start(x->loop, &x->look);
}

void listener_set_seek_lost(struct listener_set *set, bool (*seek)(void *data), void *data)
{
	set->seek = seek;
	set->seek_data = data;
}

/* ---- listen ---- */

static int listen_path(struct member *m, struct adopted *a, int backlog)
{
	if (listen(a->fd, backlog) < 0)
		return -errno;
	if (a->listening)
		return 0;
	a->listening = true;
	group_watch(m->group->context, a->fd);
	look_at_arrivals(m);
	/* Whoever came before the first start was over waits where nobody will look. */
	if (m->n_listening++ == 0 && m->fd >= 0)
		listener_discard_queue(m->fd);
	(void)group_apply(m->group, m->group->sticky, NULL);
	return 0;
}

int listener_set_listen(
        struct listener_set *set, int fd, int backlog, bool *ret_fresh, struct ho_error *reterr)
{
	struct member *m = NULL;
	struct adopted *a = find(set, adopt_cookie(fd), &m);
	struct address_group *g = a ? m->group : NULL;
	int r;

	if (!a)
		return 1;
	*ret_fresh = false;
	if (a->apart) {
		(void)adopt_is_apart(m, reterr);
		return 0;
	}
	group_note_change(g);
	/* As the kernel takes it: a negative one is the greatest. */
	if ((unsigned)backlog < (unsigned)m->config->backlog)
		backlog = m->config->backlog;
	if (a->listening && g->reuseport && !listener_is_listening(a->fd))
		reuseport_verify(g->reuseport, g->sticky);
	*ret_fresh = !a->listening;
	if (g->name)
		return listen_path(m, a, backlog);
	if (a->listening)
		return listen(a->fd, backlog) < 0 ? -errno : 0;
	r = reuseport_adopt(g->reuseport, m, a->fd, backlog, g->sticky);
	if (r < 0)
		return ho_error_set(reterr, r,
		        "cannot let the program's socket listen on %s beside those of other "
		        "generations: %s",
		        m->config->address.text, strerror(-r));
	a->listening = true;
	group_watch(g->context, a->fd);
	look_at_arrivals(m);
	return 0;
}

bool listener_set_has_adopted(const struct listener_set *set)
{
	for (size_t i = 0; i < set->n; i++)
		if (set->members[i].n_adopted)
			return true;
	return false;
}

const char *listener_set_address(struct listener_set *set, int fd)
{
	struct member *m = NULL;

	return find(set, adopt_cookie(fd), &m) ? m->config->address.text : NULL;
}

/* ---- sockets that nobody has ---- */

static bool is_held(const struct cookie_set *inodes, const struct adopted *a)
{
	struct stat st;

	return fstat(a->fd, &st) < 0 || cookie_set_find(inodes, st.st_ino);
}

static bool all_with_holders(const struct listener_set *set)
{
	for (size_t i = 0; i < set->n; i++)
		for (size_t k = 0; k < set->members[i].n_adopted; k++)
			if (!is_with_holder(&set->members[i].adopted[k]))
				return false;
	return true;
}

static size_t count_lost(const struct listener_set *set, const struct cookie_set *inodes)
{
	size_t n = 0;

	for (size_t i = 0; i < set->n; i++)
		for (size_t k = 0; k < set->members[i].n_adopted; k++)
			n += !is_held(inodes, &set->members[i].adopted[k]);
	return n;
}

/* A process that is not of the generation's tree (any more) may have it, but not we. */
static void every_process(void *data, void (*each)(pid_t pid, void *arg), void *arg)
{
	const struct dirent *entry;
	DIR *d = opendir("/proc");
	uint64_t pid;

	(void)data;
	while (d && (entry = readdir(d)))
		if (parse_number(entry->d_name, INT32_MAX, &pid) && (pid_t)pid != getpid())
			each((pid_t)pid, arg);
	if (d)
		(void)closedir(d);
}

static void give_up(struct member *m, size_t k)
{
	struct address_group *g = m->group;
	struct adopted *a = &m->adopted[k];

	group_note_change(g);
	group_unwatch(g->context, a->fd);
	if (g->name) {
		m->n_listening -= a->listening;
		unix_name_unbind(g->name, (const struct sockaddr_un *)&a->address);
	} else if (a->listening) {
		reuseport_drop(g->reuseport, m, a->fd, g->sticky);
	}
	(void)close_fd(a->fd);
	*a = m->adopted[--m->n_adopted];
	if (g->name)
		(void)group_apply(g, g->sticky, NULL);
}

static bool sweep_member(struct member *m, const struct cookie_set *inodes, bool starting)
{
	const size_t before = m->n_adopted;
	size_t left = 0;

	for (size_t k = 0; k < m->n_adopted; k++)
		left += m->adopted[k].listening && is_held(inodes, &m->adopted[k]);
	for (size_t k = m->n_adopted; k-- > 0;)
		if (is_held(inodes, &m->adopted[k]))
			continue;
		else if (starting || left > 0 || !m->adopted[k].listening)
			give_up(m, k);
		else if (!m->adopted[k].orphan) {
			group_note_change(m->group);
			m->adopted[k].orphan = true;
		}
	return m->n_adopted < before;
}

const char *listener_set_orphan(struct listener_set *set)
{
	for (size_t i = 0; i < set->n; i++)
		for (size_t k = 0; k < set->members[i].n_adopted; k++) {
			struct adopted *a = &set->members[i].adopted[k];

			if (!a->orphan || a->told)
				continue;
			group_note_change(set->members[i].group);
			a->told = true;
			return set->members[i].config->address.text;
		}
	return NULL;
}

bool listener_set_sweep(struct listener_set *set, process_lister lister, void *data, bool starting)
{
	struct cookie_set inodes = {0};
	bool lost = false;
	int r;

	if (all_with_holders(set))
		return false;
	r = held_inodes(lister, data, &inodes);
	if (r >= 0 && count_lost(set, &inodes)) {
		/* What belongs to others cannot be read without privileges, and is not ours. */
		r = held_inodes(every_process, NULL, &inodes);
		for (size_t i = 0; r != -ENOMEM && i < set->n; i++)
			lost |= sweep_member(&set->members[i], &inodes, starting);
	}
	cookie_set_done(&inodes);
	return lost;
}
