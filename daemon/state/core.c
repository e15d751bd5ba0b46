/* SPDX-License-Identifier: MIT */
#include "state/core.h"

#include <stdlib.h>
#include <string.h>

/* clang-format off */
static const struct field supervisor_fields[] = {
        FIELD(supervisor, state),
        FIELD(supervisor, config_error),
        FIELD(supervisor, loading),
        FIELD(supervisor, load_all),
        FIELD(supervisor, last_serial),
        FIELD(supervisor, told_reloading),
        FIELD(supervisor, look_for_ends),
        FIELD(supervisor, at_once),
        FIELD(supervisor, exit_code),
        FIELD_NOT(supervisor, development), /* as this handoffd was started */
        FIELD_NOT(supervisor, now),
        FIELD_NOT(supervisor, out),
        FIELD_NOT(supervisor, config),
        FIELD_NOT(supervisor, services),
        FIELD_NOT(supervisor, n_slots),
        FIELD_NOT(supervisor, timers),
        FIELD_NOT(supervisor, n_timers),
        FIELD_NOT(supervisor, n_actions),
        FIELD_NOT(supervisor, requests),
        FIELD_NOT(supervisor, changed),
        FIELD_NOT(supervisor, rolling),
        FIELD_NOT(supervisor, exiting),
        FIELD_NOT(supervisor, patience), /* of one step */
};

static const struct field service_fields[] = {
        FIELD(service, id),
        FIELD(service, name),
        FIELD_BY_NAME(service, state, service_state_to_string, SERVICE_FAILED + 1),
        FIELD(service, last_generation),
        FIELD(service, waiting),
        FIELD(service, turn),
        FIELD(service, turn_part),
        FIELD(service, turn_asked),
        FIELD_NOT(service, turn_tries), /* see supervisor_resume() */
        FIELD_NOT(service, turn_at),
        FIELD(service, abort_wanted),
        FIELD(service, back_wanted),
        FIELD(service, part_wanted),
        FIELD(service, why),
        FIELD(service, stop_wanted),
        FIELD(service, remove),
        FIELD(service, start_again),
        FIELD(service, attempted),
        FIELD(service, taking),
        FIELD(service, own_served),
        FIELD(service, touched),
        FIELD(service, finished),
        FIELD(service, gate.first),
        FIELD(service, gate.due),
        FIELD(service, gate.path),
        FIELD(service, gate.n),
        FIELD(service, gate.said),
        FIELD(service, gate.run),
        FIELD(service, gate.own_runs),
        FIELD_NOT(service, gate.files),
        FIELD_NOT(service, gate.last_file),
        FIELD_NOT(service, held), /* by its id */
        FIELD(service, retry_at),
        FIELD(service, measure_at),
        FIELD(service, scaled),
        FIELD(service, scaled_from),
        FIELD(service, failures),
        FIELD(service, cut),
        FIELD(service, has_result),
        FIELD_NOT(service, supervisor),
        FIELD_NOT(service, waiting_roll),
        FIELD_NOT(service, wanted),
        FIELD_NOT(service, wanted_settings),
        FIELD_NOT(service, shell),
        FIELD_NOT(service, generations),
        FIELD_NOT(service, n_generations),
        FIELD_NOT(service, rolling),
        FIELD_NOT(service, turn_to),
        FIELD_NOT(service, counted_rolling),
        FIELD_NOT(service, timer),
        FIELD_NOT(service, targets),
        FIELD_NOT(service, last_result),
        FIELD_NOT(service, next_changed),
        FIELD_NOT(service, changed),
};

static const struct field result_fields[] = {
        FIELD(result, service),
        FIELD_BY_NAME(result, request, request_kind_to_string, REQUEST_SHUTDOWN + 1),
        FIELD(result, generation),
        FIELD(result, code),
        FIELD_OF_STATIC_TEXT(result, outcome),
        FIELD(result, cut),
        FIELD(result, text),
        FIELD_NOT(result, release_link),
};

static const struct field generation_fields[] = {
        FIELD(generation, id),
        FIELD_BY_NAME(generation, state, generation_state_to_string, GENERATION_FAILED + 1),
        FIELD(generation, created),
        FIELD(generation, since),
        FIELD(generation, reason),
        FIELD(generation, taken),
        FIELD(generation, preparing),
        FIELD(generation, prepared),
        FIELD(generation, shared),
        FIELD(generation, migrates),
        FIELD(generation, probeable),
        FIELD(generation, divisible),
        FIELD(generation, release),
        FIELD(generation, linked),
        FIELD(generation, canary),
        FIELD(generation, hold),
        FIELD(generation, keep_warm),
        FIELD(generation, promote_at),
        FIELD(generation, abort_at),
        FIELD(generation, abort_code),
        FIELD_OF_STATIC_TEXT(generation, abort_outcome),
        FIELD(generation, check_at),
        FIELD(generation, share),
        FIELD(generation, share_before),
        FIELD(generation, hold_tried),
        FIELD(generation, holds),
        FIELD(generation, waited),
        FIELD(generation, building),
        FIELD(generation, build_again),
        FIELD(generation, built),
        FIELD(generation, begun),
        FIELD(generation, begun_at),
        FIELD(generation, ready_deadline),
        FIELD(generation, after_at),
        FIELD(generation, probing),
        FIELD(generation, probed),
        FIELD(generation, speaks_notify),
        FIELD(generation, trouble),
        FIELD_NOT(generation, late),
        FIELD(generation, baking),
        FIELD(generation, died),
        FIELD(generation, ended_badly),
        FIELD(generation, bake_until),
        FIELD(generation, hold_until),
        FIELD(generation, deadline),
        FIELD(generation, kill_at),
        FIELD(generation, quiet_at),
        FIELD(generation, quiet_tries),
        FIELD(generation, rescues),
        FIELD(generation, checking),
        FIELD(generation, quiet),
        FIELD(generation, watched),
        FIELD(generation, counted),
        FIELD(generation, uncountable),
        FIELD(generation, told),
        FIELD(generation, by_message),
        FIELD(generation, killed),
        FIELD(generation, drained),
        FIELD(generation, adopted),
        FIELD_NOT(generation, frozen), /* see drain_resume() */
        FIELD_NOT(generation, looked),
        FIELD(generation, overdue),
        FIELD(generation, rolled_back),
        FIELD(generation, in_flight),
        FIELD(generation, idle),
        FIELD(generation, cut),
        FIELD(generation, oldest),
        FIELD(generation, memory),
        FIELD(generation, open),
        FIELD(generation, step),
        FIELD(generation, step_from),
        FIELD(generation, opening),
        FIELD_NOT(generation, service),
        FIELD_NOT(generation, config),
        FIELD_NOT(generation, settings),
        FIELD_NOT(generation, shell),
        FIELD_NOT(generation, roll),
        FIELD_NOT(generation, lineage),
        FIELD_NOT(generation, workers),
        FIELD_NOT(generation, n_workers),
};

static const struct field roll_fields[] = {
        FIELD_OF_STATIC_TEXT(roll, cause),
        FIELD_BY_NAME(roll, kind, request_kind_to_string, REQUEST_SHUTDOWN + 1),
        FIELD(roll, release),
        FIELD(roll, back),
        FIELD_NOT(roll, options),
};

static const struct field options_fields[] = {
        FIELD(roll_options, has_canary),
        FIELD(roll_options, has_hold),
        FIELD(roll_options, has_keep_warm),
        FIELD(roll_options, canary),
        FIELD(roll_options, hold),
        FIELD(roll_options, keep_warm),
        FIELD(roll_options, confined),
        FIELD_NOT(roll_options, release),
};

static const struct field lineage_fields[] = {
        FIELD(lineage, generation),
        FIELD(lineage, release),
        FIELD_NOT(lineage, refs),
        FIELD_NOT(lineage, config),
        FIELD_NOT(lineage, settings),
        FIELD_NOT(lineage, before),
};

static const struct field worker_fields[] = {
        FIELD(worker, index),
        FIELD(worker, state),
        FIELD(worker, serial),
        FIELD(worker, pid),
        FIELD(worker, started),
        FIELD(worker, retry_at),
        FIELD(worker, kill_at),
        FIELD(worker, alive_until),
        FIELD(worker, trust),
        FIELD(worker, restarts),
        FIELD(worker, failures),
        FIELD(worker, killed),
        FIELD(worker, surplus),
        FIELD(worker, status),
        FIELD(worker, ended),
        FIELD_NOT(worker, told_until),
        FIELD(worker, hello),
        FIELD(worker, drains),
        FIELD(worker, messaged),
        FIELD(worker, lost),
        FIELD_NOT(worker, shell),
};

static const struct field request_fields[] = {
        FIELD(request, id),
        FIELD_BY_NAME(request, kind, request_kind_to_string, REQUEST_SHUTDOWN + 1),
        FIELD(request, wait),
        FIELD(request, timer.at),
        FIELD_NOT(request, timer.place),
        FIELD_NOT(request, timer.owner),
        FIELD(request, loading),
        FIELD(request, all),
        FIELD(request, n_done),
        FIELD(request, refused),
        FIELD(request, text),
        FIELD(request, release),
        FIELD(request, workers),
        FIELD(request, cause),
        FIELD_NOT(request, roll),
        FIELD_NOT(request, next),
        FIELD_NOT(request, caller),
        FIELD_NOT(request, names),
        FIELD_NOT(request, targets),
        FIELD_NOT(request, n_targets),
};

static const struct field target_fields[] = {
        FIELD(target, name),
        FIELD(target, phase),
        FIELD(target, generation),
        FIELD(target, code),
        FIELD_OF_STATIC_TEXT(target, outcome),
        FIELD(target, cut),
        FIELD(target, text),
        FIELD_NOT(target, next),
        FIELD_NOT(target, request),
        FIELD_NOT(target, service),
};
/* clang-format on */

#define SAVE(v, table, from) save_fields(v, table, ARRAY_SIZE(table), from)
#define LOAD(l, from, table, to) load_fields(l, from, table, ARRAY_SIZE(table), to)

/* ---- saving ---- */

static json_t *save_roll(struct saver *v, const struct roll *r)
{
	json_t *j = SAVE(v, roll_fields, r);

	save_member(v, j, "options", SAVE(v, options_fields, &r->options));
	return j;
}

/* The newest first. */
static json_t *save_lineage(struct saver *v, const struct lineage *from)
{
	json_t *list = json_array();

	for (const struct lineage *l = from; l; l = l->before) {
		json_t *j = SAVE(v, lineage_fields, l);

		save_member(v, j, "config", save_config(v, l->config));
		save_item(v, list, j);
	}
	return list;
}

static json_t *save_generation(struct saver *v, const struct generation *g)
{
	json_t *j = SAVE(v, generation_fields, g), *workers = json_array();

	for (unsigned i = 0; i < g->n_workers; i++)
		save_item(v, workers, SAVE(v, worker_fields, &g->workers[i]));
	save_member(v, j, "config", save_config(v, g->config));
	save_member(v, j, "roll", save_roll(v, &g->roll));
	save_member(v, j, "lineage", save_lineage(v, g->lineage));
	save_member(v, j, "workers", workers);
	return j;
}

/* There is a generation 0. */
static json_t *save_id(const struct generation *g)
{
	return json_integer(g ? (json_int_t)g->id : -1);
}

json_t *service_to_json(struct saver *v, const struct service *sv)
{
	json_t *j = SAVE(v, service_fields, sv), *generations = json_array();

	for (unsigned i = 0; i < sv->n_generations; i++)
		save_item(v, generations, save_generation(v, sv->generations[i]));
	save_member(v, j, "generations", generations);
	save_member(v, j, "wanted", save_config(v, sv->wanted));
	save_member(v, j, "waiting_roll", save_roll(v, &sv->waiting_roll));
	save_member(v, j, "rolling", save_id(sv->rolling));
	save_member(v, j, "turn_to", save_id(sv->turn_to));
	save_member(v, j, "held", save_id(sv->held));
	if (sv->has_result)
		save_member(v, j, "last_result", SAVE(v, result_fields, &sv->last_result));
	return j;
}

static json_t *save_request(struct saver *v, const struct request *r)
{
	json_t *j = SAVE(v, request_fields, r), *names = json_array(), *targets = json_array();

	for (char *const *name = r->names; *name; name++)
		save_item(v, names, json_string(*name));
	for (size_t i = 0; i < r->n_targets; i++) {
		const struct target *t = &r->targets[i];
		json_t *one = SAVE(v, target_fields, t);

		save_member(v, one, "service", json_integer(t->service ? t->service->id : 0));
		save_item(v, targets, one);
	}
	save_member(v, j, "names", names);
	save_member(v, j, "targets", targets);
	save_member(v, j, "options", SAVE(v, options_fields, &r->roll));
	return j;
}

/* What was decided, and is about to be done. */
static json_t *save_pending(struct saver *v, const struct action_list *l)
{
	json_t *list = json_array();

	for (size_t i = l->carried; i < l->n; i++) {
		const struct action *a = &l->items[i];
		json_t *j;

		if (!action_is_repeated(a))
			continue;
		j = json_pack("{s:s,s:I,s:I,s:I,s:I}", "type", action_type_to_string(a->type),
		        "service", (json_int_t)a->service, "generation", (json_int_t)a->generation,
		        "worker", (json_int_t)a->worker, "serial", (json_int_t)a->serial);
		if (a->type == ACTION_SIGNAL_WORKER)
			save_member(v, j, "signo", json_integer(a->signo));
		if (a->type == ACTION_POINT_BACK)
			save_member(v, j, "from", json_string(a->from));
		save_item(v, list, j);
	}
	return list;
}

json_t *supervisor_to_json(struct saver *v, const struct supervisor *s)
{
	json_t *j = SAVE(v, supervisor_fields, s), *requests = json_array();

	/* the oldest one first */
	/* nobody waits any more after a crash */
	for (const struct request *r = v->brief ? NULL : s->requests; r; r = r->next)
		if (json_array_insert_new(requests, 0, save_request(v, r)) < 0)
			v->failed = true;
	save_member(v, j, "config", save_config(v, s->config));
	save_member(v, j, "requests", requests);
	if (v->brief && s->out)
		save_member(v, j, "pending", save_pending(v, s->out));
	return j;
}

/* ---- loading ---- */

static void load_roll(struct loader *l, const json_t *from, struct roll *r)
{
	if (!from)
		return;
	LOAD(l, from, roll_fields, r);
	LOAD(l, json_object_get(from, "options"), options_fields, &r->options);
}

static struct lineage *load_lineage(struct loader *l, const json_t *from, const char *service)
{
	struct lineage *all = NULL;

	for (size_t i = json_array_size(from); i-- > 0 && !l->failed;) {
		const json_t *j = json_array_get(from, i);
		struct config *config = load_config(l, json_object_get(j, "config"));
		const struct service_config *settings =
		        config ? config_find(config, service) : NULL;
		struct lineage *one = settings ? lineage_new(0, config, settings, NULL, all) : NULL;

		lineage_unref(all);
		all = one;
		if (one)
			LOAD(l, j, lineage_fields, one);
		else
			load_failed(l, "an earlier release has no configuration");
	}
	return all;
}

static void load_workers(struct loader *l, const json_t *from, struct generation *g)
{
	size_t n = json_array_size(from);
	struct worker *workers;

	if (!n || n > CONFIG_MAX_WORKERS || !(workers = calloc(n, sizeof *workers))) {
		load_failed(l, "a generation has %zu workers", n);
		return;
	}
	free(g->workers);
	g->workers = workers;
	g->n_workers = (unsigned)n;
	for (size_t i = 0; i < n; i++) {
		LOAD(l, json_array_get(from, i), worker_fields, &workers[i]);
		if (workers[i].index != i || workers[i].state > WORKER_REST ||
		        workers[i].trust > WORKER_ABORTED)
			load_failed(l, "worker %zu of a generation is not in its place", i);
	}
}

static void load_generation(struct loader *l, const json_t *from, struct service *sv)
{
	struct config *config = load_config(l, json_object_get(from, "config"));
	const struct service_config *settings = config ? config_find(config, sv->name) : NULL;
	struct generation *g;

	if (!settings) {
		load_failed(l, "a generation of service \"%s\" has no configuration", sv->name);
		return;
	}
	g = generation_new(
	        sv, (uint32_t)load_number(from, "id"), config, settings, 1, sv->supervisor->now);
	if (!g) {
		load_failed(l, "memory is short");
		return;
	}
	LOAD(l, from, generation_fields, g);
	load_roll(l, json_object_get(from, "roll"), &g->roll);
	g->lineage = load_lineage(l, json_object_get(from, "lineage"), sv->name);
	load_workers(l, json_object_get(from, "workers"), g);
	if (!l->failed && service_append(sv, g) < 0)
		load_failed(
		        l, "service \"%s\" has too many generations, or memory is short", sv->name);
	if (l->failed)
		generation_free(g);
}

static void load_service(struct loader *l, const json_t *from, struct supervisor *s)
{
	uint32_t id = (uint32_t)load_number(from, "id");
	const char *name = json_string_value(json_object_get(from, "name"));
	struct config *config = load_config(l, json_object_get(from, "wanted"));
	const struct service_config *settings = config && name ? config_find(config, name) : NULL;
	struct service *sv = settings ? supervisor_put_service(s, id, name) : NULL;
	const json_t *item;
	size_t i;

	if (!sv) {
		load_failed(l, "service \"%s\" has no configuration or no place", name ? name : "");
		return;
	}
	LOAD(l, from, service_fields, sv);
	load_roll(l, json_object_get(from, "waiting_roll"), &sv->waiting_roll);
	service_want(sv, config, settings);
	json_array_foreach(json_object_get(from, "generations"), i, item)
	        load_generation(l, item, sv);
	sv->rolling = service_find(sv, (uint32_t)load_number(from, "rolling"));
	sv->turn_to = service_find(sv, (uint32_t)load_number(from, "turn_to"));
	if (json_object_get(from, "held"))
		sv->held = service_find(sv, (uint32_t)load_number(from, "held"));
	if (sv->turn > TURN_RETURN ||
	        (sv->turn != TURN_NONE && sv->turn != TURN_STOP && !sv->turn_to))
		load_failed(l, "service \"%s\" turns to no generation", sv->name);
	if (sv->has_result)
		LOAD(l, json_object_get(from, "last_result"), result_fields, &sv->last_result);
}

static bool load_names(const json_t *from, struct request *r)
{
	size_t n = json_array_size(from);

	r->names = calloc(n + 1, sizeof *r->names);
	for (size_t i = 0; r->names && i < n; i++) {
		const char *name = json_string_value(json_array_get(from, i));

		r->names[i] = name ? strdup(name) : NULL;
		if (!r->names[i])
			return false;
	}
	return r->names != NULL;
}

static void load_request(struct loader *l, const json_t *from, struct supervisor *s)
{
	const json_t *targets = json_object_get(from, "targets");
	size_t n = json_array_size(targets);
	struct request *r = calloc(1, sizeof *r);

	if (!r || !load_names(json_object_get(from, "names"), r) ||
	        !(r->targets = calloc(n + 1, sizeof *r->targets))) {
		load_failed(l, "memory is short");
		request_free(r);
		return;
	}
	LOAD(l, from, request_fields, r);
	LOAD(l, json_object_get(from, "options"), options_fields, &r->roll);
	r->roll.release = r->release;
	for (; r->n_targets < n; r->n_targets++) {
		struct target *t = &r->targets[r->n_targets];
		const json_t *one = json_array_get(targets, r->n_targets);

		LOAD(l, one, target_fields, t);
		t->request = r;
		t->service = supervisor_service(s, (uint32_t)load_number(one, "service"));
		if (!t->service && t->phase != TARGET_DONE)
			load_failed(l, "request %u waits for no service", r->id);
	}
	if (l->failed || requests_put(s, r) < 0) {
		load_failed(l, "memory is short");
		request_free(r);
	}
}

static void load_pending(struct loader *l, const json_t *from, struct action_list *out)
{
	const json_t *item;
	size_t i;

	if (action_list_reserve(out, out->n + json_array_size(from)) < 0) {
		load_failed(l, "memory is short");
		return;
	}
	json_array_foreach(from, i, item)
	{
		const char *type = json_string_value(json_object_get(item, "type"));
		const char *path = json_string_value(json_object_get(item, "from"));
		struct action a = {0};

		while (type && a.type < ACTION_TYPE_COUNT &&
		        strcmp(action_type_to_string(a.type), type) != 0)
			a.type++;
		a.service = (uint32_t)load_number(item, "service");
		a.generation = (uint32_t)load_number(item, "generation");
		a.worker = (unsigned)load_number(item, "worker");
		a.serial = (uint32_t)load_number(item, "serial");
		if (a.type == ACTION_SIGNAL_WORKER)
			a.signo = (int)load_number(item, "signo");
		else if (a.type == ACTION_TELL_WORKER)
			a.tell.word = TELL_DRAIN;
		else if (a.type == ACTION_POINT_BACK)
			a.from = action_text(out, "%s", path ? path : "");
		if (type && a.type < ACTION_TYPE_COUNT && action_is_repeated(&a))
			*action_push(out, a.type) = a;
	}
}

void supervisor_from_json(struct loader *l, const json_t *from, struct supervisor *s,
        struct action_list *out, usec_t now)
{
	struct config *config = load_config(l, json_object_get(from, "config"));
	const json_t *item;
	size_t i;

	s->out = out;
	s->now = now;
	LOAD(l, from, supervisor_fields, s);
	s->config = config ? config_ref(config) : NULL;
	json_array_foreach(json_object_get(from, "services"), i, item) if (!l->failed)
	        load_service(l, item, s);
	json_array_foreach(json_object_get(from, "requests"), i, item) if (!l->failed)
	        load_request(l, item, s);
	if (!l->failed)
		load_pending(l, json_object_get(from, "pending"), out);
	if (s->state > SUPERVISOR_STOPPING || (s->state != SUPERVISOR_STARTING && !s->config))
		load_failed(l, "the supervisor is in no state that exists");
}
