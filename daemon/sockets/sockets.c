/* SPDX-License-Identifier: MIT */
/* See sockets.h. Sets of listeners, their groups, and what systemd passed; the means are in group.c
 * and below it. */
#include "sockets/sockets.h"

#include <errno.h>
#include <ev.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

#include "sockets/adopt.h"
#include "sockets/bpf.h"
#include "sockets/forms.h"
#include "sockets/group.h"
#include "sockets/listener.h"
#include "sockets/reuseport.h"
#include "sockets/set.h"
#include "sockets/unix_name.h"
#include "system/fd.h"

/* Owners of our TCP groups lie here, far above what anybody hands out to users. Every start takes
 * another one, so that not even a second handoffd can join a group of the first. */
#define UID_FIRST 0xf0000000u
#define UID_MASK 0x00ffffffu

const char *steering_to_string(enum steering s)
{
	static const char *const names[] = {
	        [STEERING_EBPF] = "ebpf",
	        [STEERING_CBPF] = "cbpf",
	        [STEERING_RENAME] = "rename",
	        [STEERING_SHARED] = "shared",
	};

	return (size_t)s < ARRAY_SIZE(names) ? names[s] : "unknown";
}

const char *rescue_to_string(enum rescue r)
{
	static const char *const names[] = {
	        [RESCUE_EBPF] = "ebpf",
	        [RESCUE_SYSCTL] = "sysctl",
	        [RESCUE_HELD] = "held",
	        [RESCUE_NONE] = "none",
	};

	return (size_t)r < ARRAY_SIZE(names) ? names[r] : "unknown";
}

const char *listener_origin_to_string(enum listener_origin o)
{
	static const char *const names[] = {
	        [ORIGIN_BOUND] = "bound",
	        [ORIGIN_SYSTEMD] = "systemd",
	        [ORIGIN_ADOPTED] = "adopted",
	        [ORIGIN_TAKEN] = "taken",
	};

	return (size_t)o < ARRAY_SIZE(names) ? names[o] : "unknown";
}

/* ---- the whole ---- */

static void free_passed(struct sockets *s)
{
	for (int i = 0; i < s->n_passed; i++) {
		(void)close_fd(s->passed[i]);
		free(s->passed_names[i]);
	}
	free(s->passed);
	free(s->passed_names);
}

static int copy_passed(struct sockets *s, const struct sockets_options *o)
{
	size_t n = o->n_passed > 0 ? (size_t)o->n_passed : 0;

	if (n == 0)
		return 0;
	s->passed = calloc(n, sizeof *s->passed);
	s->passed_names = calloc(n, sizeof *s->passed_names);
	if (!s->passed || !s->passed_names)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		s->passed_names[i] = strdup(o->passed_names[i]);
		if (!s->passed_names[i])
			return -ENOMEM;
	}
	/* Owned only when nothing can fail any more. */
	memcpy(s->passed, o->passed, n * sizeof *s->passed);
	s->n_passed = o->n_passed;
	return 0;
}

static void probe_kernel(struct sockets *s, bool no_ebpf)
{
	struct bpf_program *program;
	uint32_t random = 0;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (getrandom(&random, sizeof random, GRND_NONBLOCK) != sizeof random)
		random = (uint32_t)getpid() ^ (uint32_t)now_usec();
	(void)snprintf(s->context.token, sizeof s->context.token, "%08x", random);
	s->context.uid = UID_FIRST | (random & UID_MASK);
	if (fd < 0 || listener_set_uid(fd, s->context.uid) < 0)
		s->context.uid = UID_NONE;
	(void)close_fd(fd);
	if (!no_ebpf && bpf_program_new(&program, NULL) == 0) {
		s->context.ebpf = true;
		(void)bpf_program_free(program);
	}
}

static void on_hangup(struct ev_loop *loop, struct ev_io *w, int revents)
{
	struct sockets *s = w->data;

	(void)loop;
	(void)revents;
	group_on_event(&s->context);
}

static void on_look(struct ev_loop *loop, struct ev_timer *w, int revents)
{
	struct sockets *s = w->data;

	(void)loop;
	(void)revents;
	adopt_look_again(&s->context);
}

int sockets_new(struct ev_loop *loop, const struct sockets_options *options, struct sockets **ret,
        struct ho_error *reterr)
{
	const char *wanted = getenv("HANDOFF_STEERING");
	struct sockets *s = calloc(1, sizeof *s);

	if (!s)
		return ho_error_set(reterr, -ENOMEM, "no memory for the table of sockets");
	s->context.hangups_fd = epoll_create1(EPOLL_CLOEXEC);
	if (s->context.hangups_fd < 0) {
		free(s);
		return ho_error_set(reterr, -errno, "cannot create an epoll for the listeners: %s",
		        strerror(errno));
	}
	s->context.loop = loop;
	ev_io_init(&s->hangups, on_hangup, s->context.hangups_fd, EV_READ);
	s->hangups.data = s;
	ev_io_start(loop, &s->hangups);
	ev_timer_init(&s->context.look, on_look, 0., 0.);
	s->context.look.data = s;
	s->context.unix_names = unix_names_new(loop);
	if (!s->context.unix_names || copy_passed(s, options) < 0) {
		(void)sockets_free(s);
		return ho_error_set(reterr, -ENOMEM, "no memory for the table of sockets");
	}
	s->context.stranded = options->stranded;
	s->context.stranded_data = options->stranded_data;
	probe_kernel(s, options->no_ebpf || (wanted && !strcmp(wanted, "cbpf")));
	*ret = s;
	return 0;
}

struct sockets *sockets_free(struct sockets *s)
{
	if (!s)
		return NULL;
	while (s->sets)
		(void)listener_set_close(s->sets);
	(void)unix_names_free(s->context.unix_names);
	ev_io_stop(s->context.loop, &s->hangups);
	ev_timer_stop(s->context.loop, &s->context.look);
	(void)close_fd(s->context.hangups_fd);
	free_passed(s);
	json_decref(s->saved_groups);
	free(s);
	return NULL;
}

void sockets_set_writer(struct sockets *s, const struct sockets_writer *writer)
{
	s->context.writer = *writer;
}

void listener_set_own(struct listener_set *set, uint32_t owner)
{
	set->owner = owner;
}

enum steering sockets_steering(const struct sockets *s)
{
	return s->context.ebpf ? STEERING_EBPF : STEERING_CBPF;
}

static bool is_claimed(const struct config *config, const char *name)
{
	for (size_t i = 0; i < config->n_services; i++) {
		const struct service_config *service = &config->services[i];

		for (size_t k = 0; k < service->n_listeners; k++) {
			const struct address *a = &service->listeners[k].address;

			if (a->kind == ADDRESS_SYSTEMD && !strcmp(a->path, name))
				return true;
		}
	}
	return false;
}

void sockets_unclaimed(const struct sockets *s, const struct config *config,
        void (*report)(const char *name, void *data), void *data)
{
	for (int i = 0; i < s->n_passed; i++)
		if (!is_claimed(config, s->passed_names[i]))
			report(s->passed_names[i], data);
}

/* ---- sets ---- */

/* The `nth` passed descriptor of this name, or -1. */
int sockets_find_passed(const struct sockets *s, const char *name, size_t nth)
{
	for (int i = 0; i < s->n_passed; i++)
		if (!strcmp(s->passed_names[i], name) && nth-- == 0)
			return s->passed[i];
	return -1;
}

static size_t count_members(const struct sockets *s, const struct service_config *service)
{
	size_t n = service->n_listeners;

	for (size_t i = 0; i < service->n_listeners; i++) {
		const struct address *a = &service->listeners[i].address;

		if (a->kind == ADDRESS_TCP)
			n += FORMS_MAX - 1;
		for (size_t k = 1;
		        a->kind == ADDRESS_SYSTEMD && sockets_find_passed(s, a->path, k) >= 0; k++)
			n++;
	}
	return n;
}

static int join(struct listener_set *set, const struct listener_config *c, size_t nth,
        struct ho_error *reterr)
{
	struct member *m = &set->members[set->n];
	bool passed = c->address.kind == ADDRESS_SYSTEMD;
	int r, fd = passed ? sockets_find_passed(set->sockets, c->address.path, nth) : -1;

	if (passed && fd < 0)
		return ho_error_set(reterr, -ENOENT,
		        "cannot listen on %s (listener \"%s\"): systemd passed no descriptor of "
		        "this name; "
		        "nothing changed",
		        c->address.text, c->name);
	m->set = set;
	m->config = c;
	m->generation = set->generation;
	/* An abstract name is ours, and is given to a program that binds it. */
	m->adopt_only =
	        (set->service->sockets == SOCKETS_ADOPT && c->address.kind != ADDRESS_ABSTRACT) ||
	        (set->service->sockets == SOCKETS_AUTO && c->address.kind == ADDRESS_TCP &&
	                nth > 0);
	r = group_join(&set->sockets->context, m, fd, nth, reterr);
	if (r >= 0)
		set->n++;
	return r;
}

/* First one for every configured listener, so that their numbers agree, then the further ones of
 * systemd's, and those for the forms that the program has bound in earlier generations. */
static int join_all(struct listener_set *set, struct ho_error *reterr)
{
	const struct service_config *service = set->service;
	int r = 0;

	for (size_t i = 0; r >= 0 && i < service->n_listeners; i++)
		r = join(set, &service->listeners[i], 0, reterr);
	for (size_t i = 0; r >= 0 && i < service->n_listeners; i++) {
		const struct listener_config *c = &service->listeners[i];

		for (size_t k = 1; r >= 0 && c->address.kind == ADDRESS_SYSTEMD &&
		                   sockets_find_passed(set->sockets, c->address.path, k) >= 0;
		        k++)
			r = join(set, c, k, reterr);
		for (size_t k = 1; r >= 0 && c->address.kind == ADDRESS_TCP && k < FORMS_MAX; k++)
			if (group_has_form(&set->sockets->context, &c->address, k))
				r = join(set, c, k, reterr);
	}
	return r;
}

struct listener_set *listener_set_new(struct sockets *s, struct config *config,
        const struct service_config *service, uint32_t generation, size_t room)
{
	struct listener_set *set = calloc(1, sizeof *set + room * sizeof set->members[0]);

	if (!set)
		return NULL;
	set->sockets = s;
	set->config = config_ref(config);
	set->service = service;
	set->generation = generation;
	set->context = &s->context;
	set->room = room;
	set->next = s->sets;
	s->sets = set;
	return set;
}

int listener_set_open(struct sockets *s, struct config *config,
        const struct service_config *service, uint32_t generation, struct listener_set **ret,
        struct ho_error *reterr)
{
	struct listener_set *set =
	        listener_set_new(s, config, service, generation, count_members(s, service));
	int r;

	if (!set)
		return ho_error_set(reterr, -ENOMEM,
		        "no memory for the listeners of service \"%s\"; nothing changed",
		        service->name);
	r = join_all(set, reterr);
	if (r < 0) {
		(void)listener_set_close(set);
		return r;
	}
	*ret = set;
	return 0;
}

struct listener_set *listener_set_close(struct listener_set *set)
{
	struct listener_set **p;

	if (!set)
		return NULL;
	for (p = &set->sockets->sets; *p != set; p = &(*p)->next)
		;
	*p = set->next;
	for (size_t i = 0; i < set->n; i++)
		group_leave(&set->members[i]);
	(void)config_unref(set->config);
	free(set);
	return NULL;
}

size_t listener_set_count(const struct listener_set *set)
{
	return set->n;
}

const char *listener_set_form(const struct listener_set *set, size_t i, char *ret, size_t size)
{
	HO_ASSERT(i < set->n);
	return group_text(set->members[i].group, ret, size);
}

enum rescue listener_set_rescue(const struct listener_set *set, size_t i)
{
	const struct member *m = &set->members[i];

	HO_ASSERT(i < set->n);
	if (m->group->steering == STEERING_EBPF)
		return RESCUE_EBPF;
	if (m->group->steering == STEERING_CBPF && listener_kernel_migrates())
		return RESCUE_SYSCTL;
	return m->n_listening ? RESCUE_NONE : RESCUE_HELD;
}

struct listener_info listener_set_info(const struct listener_set *set, size_t i)
{
	const struct member *m = &set->members[i];

	HO_ASSERT(i < set->n);
	return (struct listener_info){
	        .config = m->config,
	        .fd = m->fd,
	        .steering = m->group->steering,
	        .origin = m->taken || m->group->taken ? ORIGIN_TAKEN
	                  : m->n_listening            ? ORIGIN_ADOPTED
	                  : m->group->passed_fd >= 0  ? ORIGIN_SYSTEMD
	                                              : ORIGIN_BOUND,
	        .tag = m->tag,
	        .unix_name = m->unix_path[0] ? m->unix_path : NULL,
	};
}

int listener_set_queue(
        const struct listener_set *set, size_t i, unsigned *ret_queue, unsigned *ret_limit)
{
	int fds[ADOPTED_MAX];
	size_t n = listener_set_fds(set, i, fds, ARRAY_SIZE(fds));
	unsigned queue, limit;
	int r;

	if (n == 0)
		return -EOPNOTSUPP;
	*ret_queue = *ret_limit = 0;
	for (size_t k = 0; k < n; k++) {
		r = listener_queue(fds[k], &queue, &limit);
		if (r < 0)
			return r;
		*ret_queue += queue;
		*ret_limit += limit;
	}
	return 0;
}

int listener_set_blocking(const struct listener_set *set, size_t i, bool blocking)
{
	const struct address_group *g = set->members[i].group;

	/* A server that was taken over is not asked for its opinion: it has the same open file. */
	for (size_t k = 0; g->taken && k < g->n_members; k++)
		if (g->members[k]->taken)
			return 0;
	return listener_blocking(listener_set_info(set, i).fd, blocking);
}

size_t listener_set_fds(const struct listener_set *set, size_t i, int *ret, size_t max)
{
	const struct member *m = &set->members[i];
	size_t n = 0;

	HO_ASSERT(i < set->n);
	if (!m->n_listening && m->fd >= 0 && max > 0)
		ret[n++] = m->fd;
	for (size_t k = 0; m->n_listening && k < m->n_adopted && n < max; k++)
		if (m->adopted[k].listening)
			ret[n++] = m->adopted[k].fd;
	return n;
}

int listener_set_sent(const struct listener_set *set, uint64_t *ret)
{
	uint64_t sent;
	bool any = false;

	*ret = 0;
	for (size_t i = 0; i < set->n; i++) {
		const struct member *m = &set->members[i];
		int r;

		if (!m->group->reuseport)
			continue;
		r = reuseport_sent(m->group->reuseport, m, &sent);
		if (r < 0)
			return r;
		*ret += sent;
		any = true;
	}
	return any ? 0 : -EOPNOTSUPP;
}

/* ---- steering ---- */

static const struct share *share_of(const struct member *m, const struct share *shares, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (m->set == shares[i].set)
			return &shares[i];
	return NULL;
}

static void want(struct address_group *g, const struct share *shares, size_t n)
{
	for (size_t k = 0; k < g->n_members; k++) {
		const struct share *share = share_of(g->members[k], shares, n);

		g->members[k]->part_wanted = share ? share->part : 0;
	}
}

/* A group is concerned if any of the sets is in it; but an address that has gone over to another
 * service is not taken away from it by the one that leaves. */
static bool is_concerned(const struct address_group *g, const struct share *shares, size_t n)
{
	bool any = false, wanted = false, foreign = false;

	for (size_t k = 0; k < g->n_members; k++) {
		const struct member *m = g->members[k];
		bool named = share_of(m, shares, n);

		any |= named;
		wanted |= named && m->part_wanted > 0;
		foreign |= !named && m->part > 0;
	}
	return any && (wanted || !foreign);
}

static void set_parts(struct address_group *g, bool back)
{
	for (size_t k = 0; k < g->n_members; k++) {
		struct member *m = g->members[k];

		if (!back)
			m->part_before = m->part;
		m->part = back ? m->part_before : m->part_wanted;
	}
}

/* A program that binds its addresses itself has to do that before clients are sent to it; of the
 * forms that are its own choice those that clients know already. */
static bool must_listen(const struct member *m)
{
	return m->adopt_only && m->n_listening == 0 &&
	       !(group_is_further_form(m->group) && m->group->n_members == 1);
}

static int check_listening(const struct share *shares, size_t n, struct ho_error *reterr)
{
	char text[160];

	for (size_t k = 0; k < n; k++) {
		const struct listener_set *set = shares[k].set;

		for (size_t i = 0; shares[k].part > 0 && i < set->n; i++) {
			if (adopt_is_apart(&set->members[i], reterr))
				return -EADDRINUSE;
			if (must_listen(&set->members[i]))
				return ho_error_set(reterr, -ENOTCONN,
				        "the program does not listen on %s",
				        group_text(set->members[i].group, text, sizeof text));
		}
	}
	return 0;
}

int sockets_steer(struct sockets *s, const struct share *shares, size_t n, bool sticky,
        struct ho_error *reterr)
{
	struct address_group *g, *failed = NULL;
	int r = check_listening(shares, n, reterr);

	if (r < 0)
		return r;
	for (g = s->context.groups; g && !failed; g = g->next) {
		want(g, shares, n);
		g->concerned = is_concerned(g, shares, n);
		if (!g->concerned)
			continue;
		g->sticky_before = g->sticky;
		set_parts(g, false);
		r = group_apply(g, sticky, reterr);
		if (r < 0)
			failed = g;
	}
	if (!failed) {
		adopt_look_again(&s->context);
		return 0;
	}
	set_parts(failed, true);
	for (g = s->context.groups; g != failed; g = g->next) {
		if (!g->concerned)
			continue;
		set_parts(g, true);
		(void)group_apply(g, g->sticky_before, NULL);
	}
	return r;
}

void listener_set_strand(struct listener_set *set)
{
	for (size_t i = 0; i < set->n; i++) {
		struct member *m = &set->members[i];

		group_strand(m, m->fd);
		for (size_t k = 0; k < m->n_adopted; k++)
			if (m->adopted[k].listening)
				group_strand(m, m->adopted[k].fd);
	}
}

int listener_set_probe_begin(struct listener_set *set, size_t i, int *ret_fd,
        struct sockaddr_storage *ret_to, socklen_t *ret_to_len, struct ho_error *reterr)
{
	HO_ASSERT(i < set->n);
	return group_probe_begin(&set->members[i], ret_fd, ret_to, ret_to_len, reterr);
}

void listener_set_probe_end(struct listener_set *set, size_t i)
{
	HO_ASSERT(i < set->n);
	group_probe_end(&set->members[i]);
}
