/* SPDX-License-Identifier: MIT */
/* See save.h. Groups and members go by numbers that are never used twice, sockets by their cookies:
 * both make names of descriptors. */
#include "sockets/save.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "sockets/bpf.h"
#include "sockets/forms.h"
#include "sockets/reuseport_internal.h"
#include "sockets/set.h"
#include "sockets/unix_name.h"
#include "system/fd.h"

/* clang-format off */
static const struct field context_fields[] = {
        FIELD(group_context, uid),
        FIELD(group_context, token),
        FIELD(group_context, last_serial),
        FIELD_NOT(group_context, loop),
        FIELD_NOT(group_context, look),
        FIELD_NOT(group_context, changed),
        FIELD_NOT(group_context, writer),
        FIELD_NOT(group_context, stranded),
        FIELD_NOT(group_context, stranded_data),
        FIELD_NOT(group_context, ebpf),
        FIELD_NOT(group_context, unix_names),
        FIELD_NOT(group_context, hangups_fd),
        FIELD_NOT(group_context, groups),
};

static const struct field group_fields[] = {
        FIELD(address_group, id),
        FIELD(address_group, address.kind),
        FIELD(address_group, address.ipv6),
        FIELD(address_group, address.dual),
        FIELD(address_group, address.ip),
        FIELD(address_group, address.scope_id),
        FIELD(address_group, address.port),
        FIELD(address_group, address.path),
        FIELD(address_group, address.text),
        FIELD(address_group, ip.ipv6),
        FIELD(address_group, ip.dual),
        FIELD(address_group, ip.ip),
        FIELD(address_group, ip.scope_id),
        FIELD(address_group, ip.port),
        FIELD_NOT(address_group, ip.kind),
        FIELD_NOT(address_group, ip.path),
        FIELD_NOT(address_group, ip.text),
        FIELD(address_group, passed_index),
        FIELD(address_group, steering),
        FIELD(address_group, sticky),
        FIELD(address_group, taken),
        FIELD_NOT(address_group, next),
        FIELD_NOT(address_group, next_changed),
        FIELD_NOT(address_group, is_changed),
        FIELD_NOT(address_group, context),
        FIELD_NOT(address_group, passed_fd),
        FIELD_NOT(address_group, members),
        FIELD_NOT(address_group, n_members),
        FIELD_NOT(address_group, sticky_before),
        FIELD_NOT(address_group, concerned),
        FIELD_NOT(address_group, probed),
        FIELD_NOT(address_group, reuseport),
        FIELD_NOT(address_group, name),
        FIELD_NOT(address_group, shared_fd),
};

static const struct field reuseport_fields[] = {
        FIELD(reuseport, uid),
        FIELD(reuseport, last_tag),
        FIELD(reuseport, beside),
        FIELD_NOT(reuseport, ip),
        FIELD_NOT(reuseport, context),
        FIELD_NOT(reuseport, program),
        FIELD_NOT(reuseport, passed_fd),
        FIELD_NOT(reuseport, control_fd),
        FIELD_NOT(reuseport, order),
        FIELD_NOT(reuseport, n),
        FIELD_NOT(reuseport, tags),
        FIELD_NOT(reuseport, probed),
        FIELD_NOT(reuseport, probe_from),
};

static const struct field entry_fields[] = {
        FIELD(entry, slot),
        FIELD(entry, adopted),
        FIELD(entry, leaving),
        FIELD(entry, target),
        FIELD(entry, abandoned),
        FIELD_NOT(entry, fd),
        FIELD_NOT(entry, member),
};

static const struct field member_fields[] = {
        FIELD(member, serial),
        FIELD(member, tag),
        FIELD(member, revivals),
        FIELD(member, adopt_only),
        FIELD(member, n_listening),
        FIELD(member, part),
        FIELD(member, unix_path),
        FIELD(member, taken),
        FIELD(member, sent),
        FIELD_NOT(member, group),
        FIELD_NOT(member, set),
        FIELD_NOT(member, config),
        FIELD_NOT(member, generation),
        FIELD_NOT(member, fd),
        FIELD_NOT(member, adopted),
        FIELD_NOT(member, n_adopted),
        FIELD_NOT(member, part_wanted),
        FIELD_NOT(member, part_before),
};

static const struct field adopted_fields[] = {
        FIELD(adopted, cookie),
        FIELD(adopted, holder),
        FIELD(adopted, theirs),
        FIELD(adopted, listening),
        FIELD(adopted, apart),
        FIELD(adopted, serial),
        FIELD(adopted, orphan),
        FIELD(adopted, told),
        FIELD(adopted, was_alone),
        FIELD_OF_BYTES(adopted, address),
        FIELD_NOT(adopted, fd),
};
/* clang-format on */

#define SAVE(v, table, from) save_fields(v, table, ARRAY_SIZE(table), from)
#define LOAD(l, from, table, to) load_fields(l, from, table, ARRAY_SIZE(table), to)

static uint64_t cookie_of(int fd)
{
	uint64_t cookie = 0;
	socklen_t n = sizeof cookie;

	return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &n) < 0 ? 0 : cookie;
}

/* ---- saving ---- */

static json_t *save_entry(struct saver *v, const struct reuseport *r, const struct entry *e)
{
	uint64_t cookie = cookie_of(e->fd);
	bool passed = e->fd == r->passed_fd;
	json_t *j = SAVE(v, entry_fields, e);

	save_member(v, j, "member", json_integer(e->member ? (json_int_t)e->member->serial : 0));
	save_member(v, j, "cookie", json_integer((json_int_t)cookie));
	save_member(v, j, "passed", json_boolean(passed));
	save_member(v, j, "control", json_boolean(e->fd == r->control_fd));
	if (!e->member && !passed)
		save_fd(v, e->fd, "control-%" PRIu64, cookie);
	if (e->member && !e->member->taken && e->fd == e->member->fd)
		save_fd(v, e->fd, "listener-%" PRIu64, e->member->serial);
	return j;
}

static json_t *save_reuseport(struct saver *v, const struct address_group *g)
{
	const struct reuseport *r = g->reuseport;
	json_t *j = SAVE(v, reuseport_fields, r), *order = json_array();
	int fds[BPF_FDS];

	for (size_t i = 0; i < r->n; i++)
		save_item(v, order, save_entry(v, r, &r->order[i]));
	save_member(v, j, "order", order);
	if (r->program) {
		bpf_program_fds(r->program, fds);
		for (int i = 0; i < BPF_FDS; i++)
			save_fd(v, fds[i], "bpf-%" PRIu64 ".%d", g->id, i);
	}
	return j;
}

json_t *sockets_save(const struct sockets *s, struct saver *v)
{
	json_t *j = SAVE(v, context_fields, &s->context), *passed = json_array();

	for (int i = 0; i < s->n_passed; i++) {
		save_item(v, passed, json_string(s->passed_names[i]));
		save_fd(v, s->passed[i], "passed-%d", i);
	}
	save_member(v, j, "passed", passed);
	return j;
}

static json_t *save_group(struct saver *v, const struct address_group *g)
{
	json_t *j = SAVE(v, group_fields, g);
	const struct member *published = g->name ? unix_name_published(g->name) : NULL;

	save_member(v, j, "published", json_integer(published ? (json_int_t)published->serial : 0));
	if (g->reuseport)
		save_member(v, j, "reuseport", save_reuseport(v, g));
	save_fd(v, g->shared_fd, "shared-%" PRIu64, g->id);
	return j;
}

void sockets_save_groups(const struct sockets *s, bool changed, struct saver *v,
        void (*take)(void *data, uint64_t id, json_t *group), void *data)
{
	const struct address_group *g = changed ? s->context.changed : s->context.groups;

	for (; g; g = changed ? g->next_changed : g->next)
		take(data, g->id, save_group(v, g));
}

void sockets_forget_changes(struct sockets *s)
{
	for (struct address_group *g = s->context.changed; g; g = g->next_changed)
		g->is_changed = false;
	s->context.changed = NULL;
}

/* Those of a server that was taken over have a name of their own: nobody may put an end to what it
 * listens on, whatever is not known of it. */
static const char *owner(const struct member *m)
{
	return m->taken ? "taken-" : "";
}

/* The only socket of a server that was taken over where the address has no group. */
static void save_holder(struct saver *v, const struct member *m, json_t *j)
{
	if (!m->taken || m->fd < 0 || !m->adopted)
		return;
	save_member(v, j, "holder", json_integer(m->adopted[0].holder));
	save_member(v, j, "theirs", json_integer(m->adopted[0].theirs));
}

/* Then it is the group's to keep: as long as it is in there, whatever has become of its generation,
 * or the others would be moved by the end of handoffd. */
static bool is_in_order(const struct member *m)
{
	const struct reuseport *r = m->taken ? NULL : m->group->reuseport;

	for (size_t i = 0; r && i < r->n; i++)
		if (r->order[i].fd == m->fd)
			return true;
	return false;
}

json_t *listener_set_save(const struct listener_set *set, struct saver *v)
{
	json_t *members = json_array();

	for (size_t i = 0; i < set->n; i++) {
		const struct member *m = &set->members[i];
		json_t *j = SAVE(v, member_fields, m), *adopted = json_array();

		for (size_t k = 0; k < m->n_adopted; k++) {
			save_item(v, adopted, SAVE(v, adopted_fields, &m->adopted[k]));
			save_fd(v, m->adopted[k].fd, "%sadopted-%" PRIu64, owner(m),
			        m->adopted[k].cookie);
		}
		if (!is_in_order(m))
			save_fd(v, m->fd, "%slistener-%" PRIu64, owner(m), m->serial);
		save_holder(v, m, j);
		save_member(v, j, "adopted", adopted);
		save_member(v, j, "group", json_integer((json_int_t)m->group->id));
		save_member(
		        v, j, "cookie", json_integer(m->fd < 0 ? 0 : (json_int_t)cookie_of(m->fd)));
		save_member(v, j, "listener",
		        json_integer((json_int_t)(m->config - set->service->listeners)));
		save_item(v, members, j);
	}
	return members;
}

/* ---- loading ---- */

static void load_passed(struct sockets *s, const json_t *names, struct loader *l)
{
	size_t n = json_array_size(names);

	if (s->n_passed || !n || !load_has_fd(l, "passed-0"))
		return; /* there are none, or systemd has passed them anew */
	s->passed = calloc(n, sizeof *s->passed);
	s->passed_names = calloc(n, sizeof *s->passed_names);
	for (size_t i = 0; s->passed && s->passed_names && i < n; i++) {
		const char *name = json_string_value(json_array_get(names, i));

		s->passed_names[i] = strdup(name ? name : "");
		s->passed[i] = load_fd(l, "passed-%zu", i);
		s->n_passed++;
		if (!s->passed_names[i] || s->passed[i] < 0)
			load_failed(l, "a socket of systemd is lost");
	}
	if ((size_t)s->n_passed != n)
		load_failed(l, "memory is short");
}

static void load_entry(struct loader *l, const json_t *from, struct reuseport *r)
{
	struct entry *e = &r->order[r->n];

	if (r->n == ORDER_MAX) {
		load_failed(l, "a group has too many sockets");
		return;
	}
	*e = (struct entry){.fd = -1};
	LOAD(l, from, entry_fields, e);
	if (e->slot >= STEER_SLOTS)
		load_failed(l, "a socket has slot %u", e->slot);
	if (json_is_true(json_object_get(from, "passed")))
		e->fd = r->passed_fd;
	else if (!load_number(from, "member"))
		e->fd = load_fd(l, "control-%" PRIu64, load_number(from, "cookie"));
	if (json_is_true(json_object_get(from, "control")))
		r->control_fd = e->fd;
	r->n++;
}

static void load_reuseport(struct loader *l, const json_t *from, struct address_group *g)
{
	struct reuseport *r = calloc(1, sizeof *r);
	const json_t *item;
	int fds[BPF_FDS];
	bool whole = true;
	size_t i;

	g->reuseport = r;
	if (!r) {
		load_failed(l, "memory is short");
		return;
	}
	r->ip = &g->ip;
	r->context = g->context;
	r->passed_fd = g->passed_fd;
	r->control_fd = -1;
	LOAD(l, from, reuseport_fields, r);
	json_array_foreach(json_object_get(from, "order"), i, item) load_entry(l, item, r);
	for (int k = 0; k < BPF_FDS; k++) {
		fds[k] = load_fd(l, "bpf-%" PRIu64 ".%d", g->id, k);
		whole &= fds[k] >= 0;
	}
	if (whole && bpf_program_restore(fds, &r->program) == 0)
		return;
	for (int k = 0; !whole && k < BPF_FDS; k++)
		(void)close_fd(fds[k]);
	g->steering = STEERING_CBPF;
}

static void load_group(struct sockets *s, const json_t *from, struct loader *l)
{
	struct address_group *g = calloc(1, sizeof *g);
	const json_t *reuseport = json_object_get(from, "reuseport");

	if (!g) {
		load_failed(l, "memory is short");
		return;
	}
	g->context = &s->context;
	g->shared_fd = g->passed_fd = -1;
	g->next = s->context.groups;
	s->context.groups = g;
	LOAD(l, from, group_fields, g);
	g->ip.kind = ADDRESS_TCP;
	g->ip.text = g->address.text;
	if (g->address.kind == ADDRESS_SYSTEMD && g->address.path)
		g->passed_fd = sockets_find_passed(s, g->address.path, g->passed_index);
	g->shared_fd = load_fd(l, "shared-%" PRIu64, g->id);
	if (reuseport)
		load_reuseport(l, reuseport, g);
	else if (g->steering == STEERING_RENAME &&
	         (!g->address.path || unix_name_restore(s->context.unix_names, s->context.token,
	                                      g->address.path, &g->name) < 0))
		load_failed(l, "the directory of \"%s\" cannot be opened",
		        g->address.path ? g->address.path : "");
	if (!reuseport && g->steering < STEERING_RENAME)
		load_failed(l, "an address has no group");
}

void sockets_load(struct sockets *s, const json_t *from, struct loader *l)
{
	json_t *groups = json_object_get(from, "groups");

	LOAD(l, from, context_fields, &s->context);
	s->saved_groups = json_incref(groups);
	load_passed(s, json_object_get(from, "passed"), l);
	/* the newest group is the first */
	for (size_t i = json_array_size(groups); i-- > 0 && !l->failed;)
		load_group(s, json_array_get(groups, i), l);
}

static struct address_group *find_group(const struct sockets *s, uint64_t id)
{
	struct address_group *g = s->context.groups;

	while (g && g->id != id)
		g = g->next;
	return g;
}

static void load_adopted(struct loader *l, const json_t *from, struct member *m)
{
	size_t n = json_array_size(from);

	m->adopted = n || m->taken ? calloc(ADOPTED_MAX, sizeof *m->adopted) : NULL;
	if (n > ADOPTED_MAX || ((n || m->taken) && !m->adopted)) {
		load_failed(l, "a listener has too many sockets, or memory is short");
		return;
	}
	for (size_t i = 0; i < n; i++) {
		struct adopted *a = &m->adopted[m->n_adopted];

		LOAD(l, json_array_get(from, i), adopted_fields, a);
		a->fd = load_fd(l, "%sadopted-%" PRIu64, owner(m), a->cookie);
		if (a->fd >= 0)
			m->n_adopted++;
		else
			m->n_listening -= a->listening;
	}
}

/* The group's table gets to know the member; its entries are in the order of the document. */
static void enter(struct reuseport *r, const json_t *order, struct member *m)
{
	for (size_t i = 0; i < r->n; i++) {
		const json_t *from = json_array_get(order, i);
		struct entry *e = &r->order[i];

		if (load_number(from, "member") != m->serial)
			continue;
		e->member = m;
		if (!e->adopted && e->fd < 0)
			e->fd = m->fd;
		for (size_t k = 0; e->adopted && k < m->n_adopted; k++)
			if (m->adopted[k].cookie == load_number(from, "cookie"))
				e->fd = m->adopted[k].fd;
		/* the group was built around the socket of a server that ran before us */
		if (m->taken && json_is_true(json_object_get(from, "passed")))
			r->passed_fd = e->fd;
	}
	r->tags |= 1u << m->tag;
}

static const json_t *order_of(const json_t *groups, uint64_t id)
{
	const json_t *item;
	size_t i;

	json_array_foreach(groups, i,
	        item) if (load_number(item, "id") ==
	                  id) return json_object_get(json_object_get(item, "reuseport"), "order");
	return NULL;
}

static void load_member(struct listener_set *set, const json_t *from, struct loader *l)
{
	struct member *m = &set->members[set->n];
	struct address_group *g = find_group(set->sockets, load_number(from, "group"));
	size_t listener = (size_t)load_number(from, "listener");
	int fd;

	LOAD(l, from, member_fields, m);
	m->set = set;
	m->generation = set->generation;
	m->fd = -1;
	if (!g || listener >= set->service->n_listeners || g->n_members == GROUP_MEMBERS ||
	        (m->tag >= 32 && g->reuseport)) {
		load_failed(l, "a listener has no group");
		return;
	}
	m->config = &set->service->listeners[listener];
	m->fd = load_fd(l, "%slistener-%" PRIu64, owner(m), m->serial);
	m->group = g;
	fd = m->fd >= 0 ? m->fd : g->shared_fd;
	/* To what systemd passes it gives the mode of its unit, each time, and the worker's is the
	 * same open file. */
	if (fd >= 0 && g->passed_fd >= 0 && cookie_of(fd) == cookie_of(g->passed_fd))
		(void)listener_blocking(fd, config_accept_blocks(set->service));
	g->members[g->n_members++] = m;
	set->n++;
	load_adopted(l, json_object_get(from, "adopted"), m);
	if (m->taken && m->fd >= 0 && m->adopted) {
		m->adopted[0].holder = (pid_t)load_number(from, "holder");
		m->adopted[0].theirs = (int)load_number(from, "theirs");
	}
	if (g->reuseport)
		enter(g->reuseport, order_of(set->sockets->saved_groups, g->id), m);
}

struct listener_set *listener_set_load(struct sockets *s, struct config *config,
        const struct service_config *service, uint32_t generation, const json_t *from,
        struct loader *l)
{
	size_t n = json_array_size(from);
	struct listener_set *set = listener_set_new(
	        s, config, service, generation, n + service->n_listeners * (FORMS_MAX - 1));

	if (!set) {
		load_failed(l, "memory is short");
		return NULL;
	}
	for (size_t i = 0; i < n && !l->failed; i++)
		load_member(set, json_array_get(from, i), l);
	return set;
}

/* Nobody has the listeners of these any more: no worker of theirs lives, or has kept what it was
 * given. */
static void reopen_lost(struct address_group *g, struct loader *l)
{
	struct ho_error error = {0};

	for (size_t i = 0; i < g->n_members; i++) {
		struct member *m = g->members[i];

		if (g->steering == STEERING_SHARED && g->shared_fd < 0 && m->fd >= 0)
			g->shared_fd = fcntl(m->fd, F_DUPFD_CLOEXEC, 3);
	}
	for (size_t i = 0; i < g->n_members; i++) {
		struct member *m = g->members[i];

		if (m->fd < 0 && !m->adopt_only && !m->n_adopted && group_rejoin(m, &error) < 0)
			load_failed(l, "%s", error.text);
	}
}

static void group_loaded(struct address_group *g, const json_t *from, struct loader *l)
{
	for (size_t i = 0; g->name && i < g->n_members; i++)
		if (g->members[i]->serial == load_number(from, "published"))
			unix_name_set_published(g->name, g->members[i]);
	if (g->reuseport && reuseport_restored(g->reuseport, g->sticky) < 0)
		load_failed(l, "connections to %s cannot be divided again", g->address.text);
	reopen_lost(g, l);
	(void)group_apply(g, g->sticky, NULL);
	for (size_t i = 0; g->reuseport && i < g->n_members; i++)
		group_watch_member(g->context, g->members[i]);
}

/* Listeners of a generation that was just coming or going: they leave as old control listeners do,
 * and nobody is led astray by that. */
static void claim_unknown(const struct sockets *s, struct loader *l)
{
	for (struct address_group *g = s->context.groups; g; g = g->next) {
		const json_t *order = order_of(s->saved_groups, g->id);
		struct reuseport *r = g->reuseport;

		for (size_t i = 0; r && i < r->n; i++) {
			uint64_t serial = load_number(json_array_get(order, i), "member");

			if (serial && !r->order[i].member && r->order[i].fd < 0)
				r->order[i].fd = load_fd(l, "listener-%" PRIu64, serial);
		}
	}
}

void sockets_drop_unknown(const struct sockets *s, struct loader *l)
{
	static const char *const kinds[] = {"listener-", "control-", "adopted-"};
	const char *name;
	json_t *fd;

	claim_unknown(s, l);
	json_object_foreach(
	        l->fds, name, fd) for (size_t i = 0; i < ARRAY_SIZE(kinds);
	                               i++) if (!strncmp(name, kinds[i], strlen(kinds[i])))(void)
	        shutdown((int)json_integer_value(fd), SHUT_RD);
}

void sockets_loaded(struct sockets *s, struct loader *l)
{
	struct address_group *g, *next;

	for (g = s->context.groups; g; g = next) {
		const json_t *item;
		size_t i;

		next = g->next;
		if (g->n_members == 0) {
			group_close(g);
			continue;
		}
		json_array_foreach(s->saved_groups, i, item) if (load_number(item, "id") == g->id)
		        group_loaded(g, item, l);
	}
	json_decref(s->saved_groups);
	s->saved_groups = NULL;
}
