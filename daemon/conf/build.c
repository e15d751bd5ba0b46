/* SPDX-License-Identifier: MIT */
/* Makes services of what was written: the settings of a service, over them key by key those of its
 * block for the chosen environment, then the listeners, taken apart into addresses. Blocks for
 * other environments are checked in the same way on a copy, so that they do not fail on the day
 * they are chosen. */
#include "conf/build.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "conf/guard.h"

#define DEFAULT_ENVIRONMENT "production"
#define DEFAULT_BACKLOG 4096
#define MAX_SOCKET_PATH 107 /* of sockaddr_un.sun_path, without its NUL */
#define MAX_NAMED_LISTENERS CONFIG_MAX_LISTENERS

struct service_build {
	struct service_config *s;
	struct listener_draft drafts[MAX_NAMED_LISTENERS];
	size_t n_drafts;
};

static void *allocate(struct maker *mk, size_t n, size_t size)
{
	void *p = config_alloc(mk->c, n * size + 1);

	if (!p)
		mk->oom = true;
	return p;
}

static struct origin origin_at(const struct maker *mk, int line)
{
	return (struct origin){.file = mk->file ? mk->c->file : "command line", .line = line};
}

static void note_origin(struct maker *mk, struct service_config *s, const struct raw_setting *set)
{
	size_t i = 0;

	while (i < s->n_origins && strcmp(s->origins[i].key, set->key->name) != 0)
		i++;
	if (i == s->n_origins)
		s->n_origins++;
	s->origins[i].key = set->key->name;
	s->origins[i].origin = origin_at(mk, set->line);
}

const struct origin *origin_of(const struct service_config *s, const char *key)
{
	for (size_t i = 0; i < s->n_origins; i++)
		if (!strcmp(s->origins[i].key, key))
			return &s->origins[i].origin;
	return NULL;
}

static void set_addresses(
        struct maker *mk, const struct raw_setting *set, struct listener_draft *draft)
{
	char why[160], buffer[SHOWN_SIZE];

	draft->n_addresses = 0;
	if (set->n_values > CONFIG_MAX_LISTENERS) {
		wrong(mk, set, set->line, "has more than %d addresses", CONFIG_MAX_LISTENERS);
		return;
	}
	draft->addresses = allocate(mk, set->n_values, sizeof *draft->addresses);
	draft->lines = allocate(mk, set->n_values, sizeof *draft->lines);
	if (mk->oom)
		return;
	for (const struct raw_value *v = set->values; v; v = v->next) {
		if (!strcmp(v->text, GUARD_EMPTY_LIST)) {
			wrong(mk, set, v->line, "a listener needs at least one address");
		} else if (!parse_address(mk->c, v->text, false,
		                   &draft->addresses[draft->n_addresses], why, sizeof why)) {
			wrong(mk, set, v->line, "\"%s\": %s", shown(v->text, buffer), why);
		} else {
			draft->lines[draft->n_addresses++] = v->line;
		}
	}
}

static void apply_listen(
        struct maker *mk, const struct raw_block *block, struct listener_draft *draft)
{
	for (const struct raw_setting *set = block->settings; set; set = set->next) {
		if (set->key->type == KEY_ADDRESS) {
			set_addresses(mk, set, draft);
			continue;
		}
		key_set(mk, set, draft);
		if (strcmp(set->key->name, "backlog") != 0)
			draft->unix_only = set;
	}
}

static struct listener_draft *find_draft(struct service_build *b, const char *name)
{
	for (size_t i = 0; i < b->n_drafts; i++)
		if (!strcmp(b->drafts[i].name, name))
			return &b->drafts[i];
	return NULL;
}

static const struct raw_block *earlier(
        const struct raw_block *blocks, const struct raw_block *until, enum raw_kind kind)
{
	for (; blocks != until; blocks = blocks->next)
		if (blocks->kind == kind && !strcmp(blocks->title, until->title))
			return blocks;
	return NULL;
}

/* Says what is wrong with the title of a block among its brothers; true if nothing is. */
static bool check_title(struct maker *mk, const struct raw_block *parent,
        const struct raw_block *block, const char *what)
{
	char buffer[SHOWN_SIZE];
	const struct raw_block *first;

	if (!name_is_valid(block->title)) {
		mistakes_add(mk->m, mk->file, block->line,
		        "%s \"%s\": a name has 1 to 63 letters, digits, \"_\", \".\" or \"-\" and "
		        "does not begin with \".\" or \"-\"",
		        what, shown(block->title, buffer));
		return false;
	}
	first = earlier(parent->blocks, block, block->kind);
	if (!first)
		return true;
	mistakes_add(mk->m, mk->file, block->line,
	        "%s \"%s\" was already defined at line %d; merge them or rename one", what,
	        block->title, first->line);
	return false;
}

static void apply_block(struct maker *mk, struct service_build *b, const struct raw_block *block)
{
	for (const struct raw_setting *set = block->settings; set && !mk->oom; set = set->next) {
		key_set(mk, set, b->s);
		note_origin(mk, b->s, set);
	}
	for (const struct raw_block *l = block->blocks; l && !mk->oom; l = l->next) {
		struct listener_draft *draft;

		if (l->kind != RAW_LISTEN || !check_title(mk, block, l, "listen"))
			continue;
		draft = find_draft(b, l->title);
		if (!draft && b->n_drafts == MAX_NAMED_LISTENERS) {
			mistakes_add(mk->m, mk->file, l->line, "a service has at most %d listeners",
			        MAX_NAMED_LISTENERS);
			return;
		}
		if (!draft) {
			draft = &b->drafts[b->n_drafts++];
			*draft = (struct listener_draft){
			        .backlog = DEFAULT_BACKLOG, .mode = DEFAULT_MODE, .line = l->line};
			draft->name = config_strdup(mk->c, l->title);
			mk->oom = mk->oom || !draft->name;
		}
		if (!mk->oom)
			apply_listen(mk, l, draft);
	}
}

static void check_draft(struct maker *mk, const struct listener_draft *d, bool whole)
{
	bool has_path = false;

	for (size_t i = 0; i < d->n_addresses; i++)
		has_path = has_path || d->addresses[i].kind == ADDRESS_UNIX;
	if (whole && !d->addresses)
		mistakes_add(mk->m, mk->file, d->line,
		        "listen \"%s\" has no address; write for example address = {\"8080\"}",
		        d->name);
	if (d->unix_only && d->n_addresses && !has_path)
		wrong(mk, d->unix_only, d->unix_only->line,
		        "only the address of a UNIX socket (unix:/path) has it; leave it out");
}

/* "[::]:8080" takes IPv4 as well unless the service listens on IPv4 at this port on its own. */
static void settle_families(struct service_config *s)
{
	for (size_t i = 0; i < s->n_listeners; i++) {
		struct address *a = &s->listeners[i].address;

		if (!a->dual || strchr(a->text, '*'))
			continue;
		for (size_t j = 0; j < s->n_listeners; j++) {
			const struct address *b = &s->listeners[j].address;

			if (b->kind == a->kind && !b->ipv6 && b->port == a->port)
				a->dual = false;
		}
	}
}

static void finish_listeners(struct maker *mk, struct service_build *b, bool whole)
{
	struct service_config *s = b->s;
	size_t total = 0;

	for (size_t i = 0; i < b->n_drafts; i++) {
		check_draft(mk, &b->drafts[i], whole);
		total += b->drafts[i].n_addresses;
	}
	if (total > CONFIG_MAX_LISTENERS) {
		mistakes_add(mk->m, mk->file, s->origin.line,
		        "service \"%s\" has %zu addresses, at most %d are possible", s->name, total,
		        CONFIG_MAX_LISTENERS);
		return;
	}
	s->listeners = allocate(mk, total, sizeof *s->listeners);
	if (!s->listeners)
		return;
	for (size_t i = 0; i < b->n_drafts; i++) {
		const struct listener_draft *d = &b->drafts[i];

		for (size_t j = 0; j < d->n_addresses; j++)
			s->listeners[s->n_listeners++] = (struct listener_config){
			        .name = d->name,
			        .address = d->addresses[j],
			        .backlog = d->backlog,
			        .mode = d->mode,
			        .owner = d->owner,
			        .group = d->group,
			        .origin = origin_at(mk, d->lines[j]),
			};
	}
	settle_families(s);
	if (!s->n_listeners && s->sockets == SOCKETS_AUTO && whole)
		s->sockets = SOCKETS_NONE;
}

/* A block for an environment that is not the chosen one, over a copy of the service. */
static void check_other(struct maker *mk, const struct service_build *base,
        const struct raw_block *block, bool whole)
{
	_cleanup_free_ struct service_build *copy = malloc(sizeof *copy);
	size_t n;
	struct service_config s = *base->s;

	(void)keys_of(RAW_SERVICE, &n);
	if (!copy) {
		mk->oom = true;
		return;
	}
	*copy = *base;
	copy->s = &s;
	s.origins = allocate(mk, n, sizeof *s.origins);
	s.limits = NULL;
	s.n_limits = 0;
	if (mk->oom)
		return;
	if (s.n_origins)
		memcpy(s.origins, base->s->origins, s.n_origins * sizeof *s.origins);
	apply_block(mk, copy, block);
	finish_listeners(mk, copy, whole);
	check_service(mk, &s, false);
}

/* Settings first, then the chosen environment's; `s` has its name already. */
static void build_service(
        struct maker *mk, struct service_config *s, const struct raw_block *block, bool whole)
{
	_cleanup_free_ struct service_build *b = calloc(1, sizeof *b);
	const struct raw_block *chosen = NULL;
	size_t n;

	(void)keys_of(RAW_SERVICE, &n);
	service_config_defaults(s);
	s->origin = origin_at(mk, block->line);
	s->origins = allocate(mk, n, sizeof *s->origins);
	if (!b || mk->oom) {
		mk->oom = true;
		return;
	}
	b->s = s;
	apply_block(mk, b, block);
	for (const struct raw_block *e = block->blocks; e && !mk->oom; e = e->next) {
		if (e->kind != RAW_ENVIRONMENT || !check_title(mk, block, e, "environment"))
			continue;
		if (!strcmp(e->title, mk->c->environment))
			chosen = e;
		else
			check_other(mk, b, e, whole);
	}
	if (chosen && !mk->oom)
		apply_block(mk, b, chosen);
	if (!mk->oom)
		finish_listeners(mk, b, whole);
	if (!mk->oom)
		check_service(mk, s, whole);
}

static int compare_titles(const void *a, const void *b)
{
	const struct raw_block *const *x = a, *const *y = b;
	int c = strcmp((*x)->title, (*y)->title);

	return c ? c : ((*x)->line > (*y)->line) - ((*x)->line < (*y)->line);
}

/* Services may be thousands, so their names are compared sorted. */
static int check_service_names(struct maker *mk, const struct raw_block *root)
{
	_cleanup_free_ const struct raw_block **sorted = calloc(root->n_blocks + 1, sizeof *sorted);
	size_t n = 0;

	if (!sorted)
		return -ENOMEM;
	for (const struct raw_block *b = root->blocks; b; b = b->next)
		sorted[n++] = b;
	qsort(sorted, n, sizeof *sorted, compare_titles);
	for (size_t i = 1; i < n; i++)
		if (name_is_valid(sorted[i]->title) &&
		        !strcmp(sorted[i]->title, sorted[i - 1]->title))
			mistakes_add(mk->m, mk->file, sorted[i]->line,
			        "service \"%s\" was already defined at line %d; merge them or "
			        "rename one",
			        sorted[i]->title, sorted[i - 1]->line);
	return 0;
}

static int build_globals(struct maker *mk, const struct raw_block *root, const char *environment)
{
	const struct key *keys;
	size_t n;

	keys = keys_of(RAW_ROOT, &n);
	mk->c->environment = DEFAULT_ENVIRONMENT;
	mk->c->global_origins = allocate(mk, n, sizeof *mk->c->global_origins);
	mk->c->n_global_origins = mk->c->global_origins ? n : 0;
	if (mk->oom)
		return -ENOMEM;
	for (const struct raw_setting *set = root->settings; set && !mk->oom; set = set->next) {
		key_set(mk, set, mk->c);
		mk->c->global_origins[set->key - keys] = origin_at(mk, set->line);
		if (!strcmp(set->key->name, "control-socket") && set->values &&
		        strlen(set->values->text) > MAX_SOCKET_PATH)
			wrong(mk, set, set->line,
			        "the path of a UNIX socket has at most %d characters",
			        MAX_SOCKET_PATH);
		if (!strcmp(set->key->name, "environment") && mk->c->environment &&
		        !name_is_valid(mk->c->environment))
			wrong(mk, set, set->line,
			        "a name has 1 to 63 letters, digits, \"_\", "
			        "\".\" or \"-\" and does not begin with \".\" or \"-\"");
	}
	if (!environment || mk->oom)
		return mk->oom ? -ENOMEM : 0;
	if (!name_is_valid(environment))
		mistakes_add(mk->m, NULL, 0,
		        "the environment \"%.64s\" is not a name of letters, "
		        "digits, \"_\", \".\" or \"-\"",
		        environment);
	mk->c->environment = config_strdup(mk->c, environment);
	mk->c->global_origins[0] = (struct origin){.file = "command line"};
	return mk->c->environment ? 0 : -ENOMEM;
}

int build_config(
        struct maker *mk, const struct raw_block *root, const char *environment, bool whole)
{
	int e = build_globals(mk, root, environment);

	if (e < 0)
		return e;
	if (root->n_blocks == 0 && whole)
		mistakes_add(mk->m, mk->file, 0,
		        "no service is configured; write service \"NAME\" { command = {...} }");
	if (root->n_blocks > CONFIG_MAX_SERVICES)
		return 0; /* was said */
	mk->c->services = allocate(mk, root->n_blocks, sizeof *mk->c->services);
	e = check_service_names(mk, root);
	if (mk->oom || e < 0)
		return -ENOMEM;
	for (const struct raw_block *b = root->blocks; b && !mk->oom; b = b->next) {
		struct service_config *s = &mk->c->services[mk->c->n_services++];
		char buffer[SHOWN_SIZE];

		if (!name_is_valid(b->title))
			mistakes_add(mk->m, mk->file, b->line,
			        "service \"%s\": a name has 1 to 63 letters, digits, \"_\", \".\" "
			        "or \"-\" and does not begin with \".\" or \"-\"",
			        shown(b->title, buffer));
		s->name = config_strdup(mk->c, b->title);
		if (!s->name)
			return -ENOMEM;
		build_service(mk, s, b, whole);
	}
	if (!mk->oom)
		check_addresses(mk);
	return mk->oom ? -ENOMEM : 0;
}
