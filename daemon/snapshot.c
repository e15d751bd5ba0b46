/* SPDX-License-Identifier: MIT */
/* Everything that shall outlive this process, as one document, with its descriptors by name beside
 * it; and from such a document a daemon that goes on. What is saved of a part is said where the
 * part is: state/core.c, sockets/save.c, process/save.c, control/save.c. */
#include "snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/save.h"
#include "daemon.h"
#include "process/save.h"
#include "sockets/save.h"
#include "state/core.h"
#include "system/boot.h"
#include "system/fd.h"
#include "system/log.h"

/* clang-format off */
static const struct field daemon_fields[] = {
        FIELD(daemon, adoption_told),
        FIELD(daemon, last_kept),
        FIELD(daemon, status_text),
        FIELD_NOT(daemon, loop),
        FIELD_NOT(daemon, supervisor),
        FIELD_NOT(daemon, actions),
        FIELD_NOT(daemon, n_passed),
        FIELD_NOT(daemon, passed),
        FIELD_NOT(daemon, passed_names),
        FIELD_NOT(daemon, sockets),
        FIELD_NOT(daemon, connections),
        FIELD_NOT(daemon, processes),
        FIELD_NOT(daemon, control),
        FIELD_NOT(daemon, watchdog),
        FIELD_NOT(daemon, rights),
        FIELD_NOT(daemon, source),
        FIELD_NOT(daemon, timer),
        FIELD_NOT(daemon, prepare),
        FIELD_NOT(daemon, signals),
        FIELD_NOT(daemon, signal_fd),
        FIELD_NOT(daemon, first),
        FIELD_NOT(daemon, last),
        FIELD_NOT(daemon, load_wanted),
        FIELD_NOT(daemon, probing),
        FIELD_NOT(daemon, rests),
        FIELD_NOT(daemon, words),
        FIELD_NOT(daemon, n_words),
        FIELD_NOT(daemon, link_words),
        FIELD_NOT(daemon, n_link_words),
        FIELD_NOT(daemon, kept),
        FIELD_NOT(daemon, n_kept),
        FIELD_NOT(daemon, refusals),
        FIELD_NOT(daemon, monitors),
        FIELD_NOT(daemon, monitors_pause),
        FIELD_NOT(daemon, monitors_told),
        FIELD_NOT(daemon, develop), /* see develop_save() */
        FIELD_NOT(daemon, watches),
        FIELD_NOT(daemon, watched),
        FIELD_NOT(daemon, builds), /* see changes_save() */
        FIELD_NOT(daemon, doors),
        FIELD(daemon, last_door),
        FIELD_NOT(daemon, servers), /* see take_over_is_under_way() */
        FIELD_NOT(daemon, n_servers),
        FIELD_NOT(daemon, taken),
        FIELD_NOT(daemon, n_taken),
        FIELD_NOT(daemon, out_of_memory),
        FIELD_NOT(daemon, exit_code),
        FIELD_NOT(daemon, upgrade),
        FIELD_NOT(daemon, store),
        FIELD_NOT(daemon, changed),
        FIELD_NOT(daemon, touched),
        FIELD_NOT(daemon, commit),
        FIELD_NOT(daemon, rest_timer),
};

static const struct field live_generation_fields[] = {
        FIELD(live_generation, service),
        FIELD(live_generation, generation),
        FIELD(live_generation, quiet_told),
        FIELD(live_generation, elsewhere),
        FIELD(live_generation, blind),
        FIELD(live_generation, bound),
        FIELD(live_generation, refused),
        FIELD(live_generation, sent_before),
        FIELD(live_generation, stranded),
        FIELD_NOT(live_generation, daemon),
        FIELD_NOT(live_generation, freeze),
        FIELD_NOT(live_generation, next),
        FIELD(live_generation, link.path),
        FIELD(live_generation, link.before),
        FIELD(live_generation, link.after),
        FIELD_NOT(live_generation, release),
        FIELD_NOT(live_generation, set),
        FIELD_NOT(live_generation, quiet),
        FIELD_NOT(live_generation, watch),
        FIELD_NOT(live_generation, probes),
        FIELD_NOT(live_generation, n_probes),
        FIELD_NOT(live_generation, probes_left),
        FIELD_NOT(live_generation, sweep),
};

static const struct field live_worker_fields[] = {
        FIELD(live_worker, service),
        FIELD(live_worker, generation),
        FIELD(live_worker, serial),
        FIELD(live_worker, index),
        FIELD_NOT(live_worker, rest), /* as the core knows it */
        FIELD_NOT(live_worker, daemon),
        FIELD_NOT(live_worker, next),
        FIELD_NOT(live_worker, process),
};

static const struct field words_fields[] = {
        FIELD(last_words, service),
        FIELD(last_words, generation),
        FIELD(last_words, worker),
        FIELD(last_words, pid),
        FIELD(last_words, text),
};

static const struct field kept_fields[] = {
        FIELD(kept_fd, service),
        FIELD(kept_fd, serial),
        FIELD(kept_fd, name),
        FIELD(kept_fd, layout),
        FIELD(kept_fd, generation),
        FIELD_NOT(kept_fd, fd),
};
/* clang-format on */

#define SAVE(v, table, from) save_fields(v, table, ARRAY_SIZE(table), from)
#define LOAD(l, from, table, to) load_fields(l, from, table, ARRAY_SIZE(table), to)

/* ---- saving ---- */

static json_t *save_generation(struct saver *v, const struct live_generation *g)
{
	json_t *j = SAVE(v, live_generation_fields, g);

	if (g->release) /* else a server that was taken over */
		save_member(v, j, "release", release_save(g->release, v));
	if (g->set)
		save_member(v, j, "set", listener_set_save(g->set, v));
	return j;
}

static json_t *save_words(struct saver *v, const struct daemon *d)
{
	unsigned n = d->n_words < LAST_WORDS_MAX ? d->n_words : LAST_WORDS_MAX;
	json_t *list = json_array();

	for (unsigned i = d->n_words - n; i < d->n_words; i++)
		save_item(v, list, SAVE(v, words_fields, &d->words[i % LAST_WORDS_MAX]));
	return list;
}

static json_t *save_kept(struct saver *v, const struct daemon *d, uint32_t service)
{
	json_t *list = json_array();

	for (size_t i = 0; i < d->n_kept; i++) {
		const struct kept_fd *k = &d->kept[i];
		json_t *j;

		if (k->service != service)
			continue;
		j = SAVE(v, kept_fields, k);
		kept_identify(k, v, j);
		save_item(v, list, j);
		save_fd(v, k->fd, "kept-%" PRIu64, k->serial);
	}
	return list;
}

/* ---- pieces ---- */

static void save_shell(
        struct saver *v, const struct service *sv, json_t *generations, json_t *workers)
{
	for (unsigned i = 0; i < sv->n_generations; i++) {
		const struct generation *cg = sv->generations[i];

		if (cg->shell)
			save_item(v, generations, save_generation(v, cg->shell));
		for (unsigned k = 0; k < cg->n_workers; k++) {
			const struct live_worker *w = cg->workers[k].shell;
			json_t *one = w ? SAVE(v, live_worker_fields, w) : NULL;

			if (!w)
				continue;
			save_member(v, one, "process", process_save(w->process, v));
			save_item(v, workers, one);
		}
	}
}

/* Is there something that a handoffd of the first format would not go on with? */
static json_int_t format_of(const struct service *sv)
{
	bool newer = false;

	for (unsigned i = 0; i < sv->n_generations; i++)
		newer |= sv->generations[i]->taken || sv->generations[i]->building;
	return newer ? SNAPSHOT_FORMAT : SNAPSHOT_FIRST_FORMAT;
}

static json_t *save_service(const struct daemon *d, struct saver *v, const struct service *sv)
{
	json_t *j = json_object(), *generations = json_array(), *workers = json_array();

	save_shell(v, sv, generations, workers);
	save_member(v, j, "format", json_integer(format_of(sv)));
	save_member(v, j, "core", service_to_json(v, sv));
	save_member(v, j, "generations", generations);
	save_member(v, j, "workers", workers);
	save_member(v, j, "kept", save_kept(v, d, sv->id));
	save_member(v, j, "doors", live_save(d, v, sv->id));
	return j;
}

static json_t *save_rest(const struct daemon *d, struct saver *v)
{
	json_t *doc = SAVE(v, daemon_fields, d);

	save_member(v, doc, "format",
	        json_integer(d->source.development ? SNAPSHOT_FORMAT : SNAPSHOT_FIRST_FORMAT));
	save_member(v, doc, "version", json_string(HANDOFF_VERSION));
	save_member(v, doc, "pid", json_integer(getpid()));
	save_member(v, doc, "boot", json_string(boot_id()));
	save_member(v, doc, "brief", json_boolean(v->brief));
	save_member(v, doc, "ticks", json_integer((json_int_t)boot_ticks()));
	save_member(v, doc, "core", supervisor_to_json(v, d->supervisor));
	save_member(v, doc, "sockets", sockets_save(d->sockets, v));
	save_member(v, doc, "builds", changes_save(d, v));
	save_member(v, doc, "watched", changes_watched(d));
	if (v->brief)
		save_member(v, doc, "links", deploy_save(d, v));
	if (d->control)
		save_member(v, doc, "control", control_save(d->control, v, !v->brief));
	if (!v->brief)
		save_member(v, doc, "words", save_words(v, d));
	if (!v->brief && d->develop)
		save_member(v, doc, "develop", develop_save(d, v));
	return doc;
}

struct pieces {
	snapshot_taker *take;
	void *data;
};

static void take_numbered(const struct pieces *p, const char *kind, uint64_t number, json_t *piece)
{
	char name[SNAPSHOT_NAME_MAX];

	(void)snprintf(name, sizeof name, "%s%" PRIu64, kind, number);
	p->take(p->data, name, piece);
}

static void take_group(void *data, uint64_t id, json_t *group)
{
	take_numbered(data, SNAPSHOT_GROUP, id, group);
}

void snapshot_pieces(
        const struct daemon *d, struct saver *v, bool changed, snapshot_taker *take, void *data)
{
	const struct supervisor *s = d->supervisor;
	struct pieces p = {take, data};
	const char *number;
	json_t *config;

	for (const struct service *sv = changed ? s->changed : NULL; sv; sv = sv->next_changed)
		take_numbered(&p, SNAPSHOT_SERVICE, sv->id, save_service(d, v, sv));
	for (size_t i = 0; !changed && i < s->n_slots; i++)
		if (s->services[i])
			take_numbered(&p, SNAPSHOT_SERVICE, s->services[i]->id,
			        save_service(d, v, s->services[i]));
	sockets_save_groups(d->sockets, changed, v, take_group, &p);
	take(data, SNAPSHOT_REST, save_rest(d, v));
	json_object_foreach(v->configs, number, config)
	{
		char name[SNAPSHOT_NAME_MAX];

		(void)snprintf(name, sizeof name, SNAPSHOT_CONFIG "%s", number);
		take(data, name, json_incref(config));
	}
}

static void collect(void *data, const char *name, json_t *piece)
{
	(void)json_object_set_new(data, name, piece);
}

json_t *snapshot_make(const struct daemon *d, struct saver *v)
{
	json_t *pieces = json_object(), *doc;

	snapshot_pieces(d, v, false, collect, pieces);
	doc = v->failed ? NULL : snapshot_join(pieces);
	json_decref(pieces);
	if (doc && v->fds) {
		save_member(v, doc, "fds", json_incref(v->fds));
		save_member(v, doc, "stored", store_names(d));
	}
	if (doc && !v->failed)
		return doc;
	json_decref(doc);
	return NULL;
}

/* ---- joining ---- */

static bool is_of(const char *name, const char *kind)
{
	return !strncmp(name, kind, strlen(kind));
}

/* Configurations go by their numbers: what has none is null. */
static void put_config(json_t *configs, const char *number, json_t *config)
{
	uint64_t n;

	if (!parse_number(number, CONFIGS_MAX - 1, &n))
		return;
	while (json_array_size(configs) <= n)
		if (json_array_append_new(configs, json_null()) < 0)
			return;
	(void)json_array_set(configs, n, config);
}

json_t *snapshot_join(const json_t *pieces)
{
	static const char *const lists[] = {"generations", "workers", "kept", "doors"};
	json_t *doc = json_incref(json_object_get(pieces, SNAPSHOT_REST)), *piece;
	json_t *services = json_array(), *groups = json_array(), *configs = json_array();
	json_int_t format = json_integer_value(json_object_get(doc, "format"));
	const char *name;

	for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
		(void)json_object_set_new(doc, lists[i], json_array());
	(void)json_object_set_new(json_object_get(doc, "core"), "services", services);
	(void)json_object_set_new(json_object_get(doc, "sockets"), "groups", groups);
	(void)json_object_set_new(doc, "configs", configs);
	json_object_foreach((json_t *)(uintptr_t)pieces, name, piece)
	{
		json_int_t needs = json_integer_value(json_object_get(piece, "format"));

		format = needs > format ? needs : format;
		if (is_of(name, SNAPSHOT_GROUP))
			(void)json_array_append(groups, piece);
		else if (is_of(name, SNAPSHOT_CONFIG))
			put_config(configs, name + strlen(SNAPSHOT_CONFIG), piece);
		else if (is_of(name, SNAPSHOT_SERVICE))
			(void)json_array_append(services, json_object_get(piece, "core"));
		for (size_t i = 0; is_of(name, SNAPSHOT_SERVICE) && i < ARRAY_SIZE(lists); i++)
			(void)json_array_extend(
			        json_object_get(doc, lists[i]), json_object_get(piece, lists[i]));
	}
	(void)json_object_set_new(doc, "format", json_integer(format));
	return doc;
}

/* ---- loading ---- */

int snapshot_check_format(const json_t *doc, struct ho_error *reterr)
{
	const json_t *format = json_object_get(doc, "format");
	json_int_t n = json_integer_value(format);

	if (!json_is_integer(format))
		return ho_error_set(reterr, -EBADMSG, "this is no state of handoffd");
	if (n < SNAPSHOT_FIRST_FORMAT || n > SNAPSHOT_FORMAT)
		return ho_error_set(reterr, -EPROTO,
		        "the state has format %" JSON_INTEGER_FORMAT
		        ", handoffd %s understands %d to %d only",
		        n, HANDOFF_VERSION, SNAPSHOT_FIRST_FORMAT, SNAPSHOT_FORMAT);
	return 0;
}

static struct generation *core_generation(
        const struct daemon *d, uint32_t service, uint32_t generation)
{
	struct service *sv = supervisor_service(d->supervisor, service);

	return sv ? service_find(sv, generation) : NULL;
}

static void load_generation(struct daemon *d, const json_t *from, struct loader *l)
{
	struct live_generation *g = calloc(1, sizeof *g);
	const json_t *set = json_object_get(from, "set");
	struct generation *cg;

	if (!g) {
		load_failed(l, "memory is short");
		return;
	}
	LOAD(l, from, live_generation_fields, g);
	g->daemon = d;
	ev_timer_init(&g->sweep, NULL, 0., 0.);
	cg = core_generation(d, g->service, g->generation);
	if (!cg || cg->shell || l->failed) {
		load_failed(l, "generation %u is in no service", g->generation);
		free(g);
		return;
	}
	cg->shell = g;
	if (!cg->taken) {
		g->release = release_load(
		        cg->config, cg->settings, cg->id, json_object_get(from, "release"), l);
		if (!g->release)
			return;
		processes_make_cgroup(d->processes, g->release);
	}
	if (set)
		g->set = listener_set_load(d->sockets, cg->config, cg->settings, cg->id, set, l);
	if (!g->set)
		return;
	listener_set_own(g->set, g->service);
	cg->adopted |= listener_set_has_adopted(g->set); /* the core may not have heard of it */
}

/* That it was is not written down yet. */
static void tell_started(const struct live_worker *w)
{
	struct event ev = {.type = EVENT_WORKER_STARTED,
	        .service = w->service,
	        .generation = w->generation,
	        .worker = w->index,
	        .serial = w->serial};

	ev.pid = (int)process_pid(w->process);
	daemon_post(w->daemon, &ev);
}

static void load_worker(struct daemon *d, const json_t *from, struct loader *l)
{
	struct live_worker *w = calloc(1, sizeof *w);
	struct passed_fd fds[CONFIG_MAX_LISTENERS];
	struct process_spec spec = {0};
	struct generation *cg;

	if (!w) {
		load_failed(l, "memory is short");
		return;
	}
	LOAD(l, from, live_worker_fields, w);
	w->daemon = d;
	cg = core_generation(d, w->service, w->generation);
	if (!cg || !cg->shell || w->index >= cg->n_workers || cg->workers[w->index].shell) {
		load_failed(l, "worker %u of generation %u is in no generation", w->index,
		        w->generation);
		free(w);
		return;
	}
	if (!cg->taken)
		daemon_describe_worker(cg->shell, w->index, fds, &spec);
	/* what handoffd had seen of its end, and the core had not, is seen again */
	w->rest = cg->workers[w->index].state == WORKER_REST;
	w->process =
	        process_load(d->processes, &spec, w, w->rest, json_object_get(from, "process"), l);
	if (!w->process) {
		free(w);
		return;
	}
	cg->workers[w->index].shell = w;
	if (cg->workers[w->index].state == WORKER_STARTING)
		tell_started(w);
	if (w->rest) {
		w->next = d->rests;
		d->rests = w;
	}
}

static void load_kept(struct daemon *d, const json_t *from, struct loader *l)
{
	size_t n = json_array_size(from);

	d->kept = calloc(n + 1, sizeof *d->kept);
	for (size_t i = 0; d->kept && i < n; i++) {
		struct kept_fd *k = &d->kept[d->n_kept];

		LOAD(l, json_array_get(from, i), kept_fields, k);
		k->fd = load_fd(l, "kept-%" PRIu64, k->serial);
		if (k->fd >= 0)
			d->n_kept++;
		else
			log_line(RECORD_WARNING, "what was kept as \"%s\" is lost", k->name);
	}
	if (!d->kept)
		load_failed(l, "memory is short");
}

static void load_words(struct daemon *d, const json_t *from, struct loader *l)
{
	const json_t *item;
	size_t i;

	json_array_foreach(from, i, item) if (d->n_words < LAST_WORDS_MAX)
	        LOAD(l, item, words_fields, &d->words[d->n_words++]);
}

void snapshot_load_core(
        struct supervisor *s, struct action_list *out, const json_t *doc, struct loader *l)
{
	l->brief = json_is_true(json_object_get(doc, "brief"));
	load_configs(l, json_object_get(doc, "configs"));
	if (!l->failed)
		supervisor_from_json(l, json_object_get(doc, "core"), s, out, now_usec());
}

/* Those who wait for an answer are those who asked, on the same connections. */
static void connect_callers(struct daemon *d)
{
	for (struct request *r = d->supervisor->requests; r; r = r->next)
		r->caller = d->control ? control_find(d->control, r->id) : NULL;
}

int snapshot_load(struct daemon *d, const json_t *doc, struct loader *l)
{
	const json_t *item;
	size_t i;

	l->brief = json_is_true(json_object_get(doc, "brief"));
	LOAD(l, doc, daemon_fields, d);
	snapshot_load_core(d->supervisor, &d->actions, doc, l);
	if (l->failed)
		return -EBADMSG;
	if (!d->source.config && d->supervisor->config)
		d->source.config = config_ref(d->supervisor->config);
	d->source.fresh = true;
	sockets_load(d->sockets, json_object_get(doc, "sockets"), l);
	load_kept(d, json_object_get(doc, "kept"), l);
	load_words(d, json_object_get(doc, "words"), l);
	json_array_foreach(json_object_get(doc, "generations"), i, item) if (!l->failed)
	        load_generation(d, item, l);
	if (l->failed)
		return -EBADMSG;
	sockets_drop_unknown(d->sockets, l);
	sockets_loaded(d->sockets, l);
	json_array_foreach(json_object_get(doc, "workers"), i, item) if (!l->failed)
	        load_worker(d, item, l);
	live_load(d, json_object_get(doc, "doors"), l);
	changes_load(d, json_object_get(doc, "builds"), l);
	develop_load(d, json_object_get(doc, "develop"), l);
	deploy_load(json_object_get(doc, "links"), l);
	return l->failed ? -EBADMSG : 0;
}

void snapshot_connect(struct daemon *d, const json_t *doc, struct loader *l,
        const struct control_options *options, const struct control_handlers *handlers)
{
	const json_t *from = json_object_get(doc, "control");

	if (from)
		d->control = control_load(d->loop, options, handlers, from, l);
	connect_callers(d);
	if (d->control && control_has_monitors(d->control)) {
		ev_timer_set(&d->monitors, 0., 0.);
		ev_timer_start(d->loop, &d->monitors);
	}
}
