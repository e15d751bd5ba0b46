/* SPDX-License-Identifier: MIT */
/* What is written down and when, as events.c has it; the end of handoffd between any two actions,
 * or between the writing of two states; and the next one, which reads the state with the code that
 * reads it in earnest and finds its workers again, as past.c and snapshot.c do.
 *
 * A state costs more than a step: so the moment of the crash is chosen before, and only the one
 * that it is to find is written. */
#include "inside.h"

#include <stdlib.h>
#include <string.h>

#include "state/core.h"

/* What was only told is written down after this. */
#define WRITE_AFTER_USEC (100 * USEC_PER_MSEC)

void plan_crash(struct world *w)
{
	w->writes_left = w->crashes_left ? 1 + pick(&w->chance, 80) : 0;
}

/* ---- writing ---- */

/* Which objects of the shell the state tells of. */
static void note_written(struct world *w)
{
	for (unsigned i = 0; i < w->n_gens; i++) {
		struct sim_generation *g = &w->gens[i];
		const struct service *sv = supervisor_service(w->s, g->service);
		const struct generation *cg = sv && g->used ? service_find(sv, g->id) : NULL;

		g->written = cg && cg->shell;
		g->written_link = g->link;
		g->written_share = g->share;
		g->written_adopted = g->adopted;
		g->undo = false;
		for (unsigned k = 0; k < MAX_WORKERS; k++) {
			const struct worker *cw = cg && k < cg->n_workers ? &cg->workers[k] : NULL;

			g->workers[k].written = cw && cw->shell ? cw->serial : 0;
		}
		for (size_t k = w->out.carried; g->used && !g->released && !cg && k < w->out.n; k++)
			g->undo |= w->out.items[k].type == ACTION_RESTORE_LINK &&
			           w->out.items[k].service == g->service &&
			           w->out.items[k].generation == g->id;
	}
}

/* As snapshot.c joins it of its pieces. */
static json_t *make_state(struct world *w, bool crash)
{
	json_t *doc = json_object(), *core, *services = json_array(), *configs = json_array();
	struct saver *v = &w->saver;
	char number[24];

	saver_begin(v, false);
	v->brief = crash;
	core = supervisor_to_json(v, w->s);
	for (size_t i = 0; i < w->s->n_slots; i++)
		if (w->s->services[i])
			save_item(v, services, service_to_json(v, w->s->services[i]));
	for (size_t i = 0; i < json_object_size(v->configs); i++) {
		(void)snprintf(number, sizeof number, "%zu", i);
		save_item(v, configs, json_incref(json_object_get(v->configs, number)));
	}
	save_member(v, core, "services", services);
	save_member(v, doc, "core", core);
	save_member(v, doc, "configs", configs);
	if (v->failed)
		fault(w, "the state cannot be written");
	note_written(w);
	return doc;
}

/* Only what is said to have changed is written again. */
static void check_changes(struct world *w)
{
	const json_t *before,
	        *services = json_object_get(json_object_get(w->state, "core"), "services");
	size_t k;

	json_array_foreach(services, k, before)
	{
		const struct service *sv =
		        supervisor_service(w->s, (uint32_t)load_number(before, "id"));
		json_t *now = sv && !sv->changed ? service_to_json(&w->saver, sv) : NULL;

		if (now && !json_equal(before, now))
			fault(w, "service %s has changed and nobody says so", sv->name);
		json_decref(now);
	}
}

void write_state(struct world *w)
{
	if (w->state) { /* to come before this one */
		w->crashing = true;
		return;
	}
	w->changed = w->touched = false;
	supervisor_forget_changes(w->s);
	if (!w->writes_left || --w->writes_left)
		return;
	w->state = make_state(w, true);
	w->acts_left = 1 + pick(&w->chance, 16);
}

/* Is this the moment? */
static bool is_over(struct world *w)
{
	if (w->state && !w->crashing)
		w->crashing = --w->acts_left == 0;
	return w->crashing;
}

static void trace(struct world *w, const struct action *a)
{
	fprintf(w->options->trace, "             -> %s s%u g%u w%u #%u %s %s\n",
	        action_type_to_string(a->type), a->service & 0x1fff, a->generation, a->worker,
	        a->serial, a->type == ACTION_RECORD ? record_type_to_string(a->record.type) : "",
	        a->type == ACTION_RECORD && a->record.text ? a->record.text : "");
}

void carry_out(struct world *w)
{
	struct action_list *l = &w->out;
	bool wrote = false, again = false;

	for (size_t i = 0; i < l->n; i++)
		if (action_changes(&l->items[i]))
			w->changed = true;
	while (l->carried < l->n && !is_over(w)) {
		const struct action *a = &l->items[l->carried];

		if (w->changed && action_is_final(a) &&
		        !(w->options->forget_turns && a->type == ACTION_STEER)) {
			write_state(w);
			if (w->crashing)
				break;
			wrote = true;
		}
		l->carried++;
		if (w->options->trace)
			trace(w, a);
		do_action(w, a);
		again |= wrote && action_is_repeated(a);
	}
	if (w->crashing)
		return;
	if (l->n && !w->touched) {
		w->touched = true;
		w->write_by = usec_add(w->now, WRITE_AFTER_USEC);
	}
	w->changed |= again;
	action_list_clear(l);
}

void before_waiting(struct world *w, usec_t until)
{
	if (w->changed || (w->touched && until >= w->write_by))
		write_state(w);
	if (!w->crashing)
		return;
	finish_crash(w);
	check_world(w);
}

/* ---- the end ---- */

void drop_events(struct world *w)
{
	for (; w->soon_n; w->soon_n--, w->soon_first = (w->soon_first + 1) % MAX_EVENTS)
		if (w->soon[w->soon_first].type == EVENT_CONFIG_LOADED)
			config_unref(w->soon[w->soon_first].config);
}

/* Of a worker, or of all (-1). */
static void drop_later(struct world *w, const struct sim_generation *g, int worker)
{
	unsigned n = 0;

	for (unsigned i = 0; i < w->later_n; i++) {
		const struct event *ev = &w->later[i].ev;

		if (ev->service != g->service || ev->generation != g->id ||
		        (worker >= 0 && ev->worker != (unsigned)worker))
			w->later[n++] = w->later[i];
	}
	w->later_n = n;
}

/* What a part of handoffd itself would have told dies with it; a build is handed on. */
static void drop_own(struct world *w, bool crashed)
{
	unsigned n = 0;

	for (unsigned i = 0; i < w->later_n; i++) {
		enum event_type type = w->later[i].ev.type;

		if (type != EVENT_PROBE_DONE && type != EVENT_FROZEN &&
		        !(crashed && type == EVENT_BUILD_ENDED))
			w->later[n++] = w->later[i];
	}
	w->later_n = n;
	for (unsigned i = 0; i < w->n_gens; i++) {
		w->gens[i].watched = false;
		w->gens[i].building &= !crashed;
	}
}

/* Its actions not carried out are nobody's. */
static void drop_supervisor(struct world *w, bool crashed)
{
	for (size_t i = w->out.carried; i < w->out.n; i++)
		if (w->out.items[i].type == ACTION_ANSWER)
			request_free(w->out.items[i].request);
	action_list_clear(&w->out);
	w->s = supervisor_free(w->s);
	drop_events(w);
	drop_own(w, crashed);
}

static void let_some_die(struct world *w)
{
	static const usec_t gaps[] = {0, 1000, 100 * USEC_PER_MSEC, 3 * USEC_PER_SEC};

	w->now += gaps[pick(&w->chance, ARRAY_SIZE(gaps))];
	for (unsigned i = 0; i < w->n_gens; i++)
		for (unsigned k = 0; w->gens[i].used && k < MAX_WORKERS; k++) {
			struct sim_worker *o = &w->gens[i].workers[k];

			if (!o->alive || !one_in(&w->chance, 15))
				continue;
			o->alive = false;
			o->rest_alive = o->rest > 0;
			if (!has_processes(&w->gens[i]))
				w->gens[i].open = 0;
		}
}

/* ---- the next one ---- */

void drop_state(struct world *w)
{
	json_decref(w->state);
	w->state = NULL;
	saver_done(&w->saver);
}

static void read_state(struct world *w, bool development)
{
	struct loader l;

	w->s = supervisor_new();
	if (!w->s)
		abort();
	w->s->development = development;
	loader_begin(&l, NULL);
	load_configs(&l, json_object_get(w->state, "configs"));
	supervisor_from_json(&l, json_object_get(w->state, "core"), w->s, &w->out, w->now);
	if (l.failed)
		fault(w, "the state cannot be read: %s", l.error.text);
	loader_done(&l);
}

static void end_stray(struct world *w, struct sim_generation *g, unsigned k)
{
	struct sim_worker *o = &g->workers[k];

	if (g->share && o->alive)
		fault(w, "nobody knows worker %u of generation %u, which takes connections", k,
		        g->id);
	o->alive = o->rest_alive = false;
	drop_later(w, g, (int)k);
	if (!has_processes(g))
		g->open = 0;
}

/* A worker of the tables: is it the one that runs? */
static void find_worker(struct world *w, struct sim_generation *g, struct worker *cw, bool channels)
{
	struct sim_worker *o = &g->workers[cw->index];
	bool same = o->serial == cw->serial;
	struct event ev = of_worker(g, cw->index, EVENT_WORKER_EXITED);

	ev.serial = cw->serial;
	if (!o->written || o->written != cw->serial)
		return;
	cw->shell = o;
	o->heard = w->now;
	o->ready = cw->state == WORKER_READY;
	if (!channels && cw->hello) {
		struct event hello = of_worker(g, cw->index, EVENT_WORKER_SAID);

		hello.said.word = WORD_HELLO;
		hello.said.number = o->hello;
		o->hello = 0;
		if (same && o->alive && one_in(&w->chance, 2))
			later(w, some_time(w), hello);
	}
	cw->hello = cw->hello && o->hello > 0;
	cw->drains = cw->drains && o->hello > 1;
	if (same && o->alive && cw->state == WORKER_STARTING) {
		ev.type = EVENT_WORKER_STARTED;
		ev.pid = o->pid;
		soon(w, ev);
	} else if (cw->state == WORKER_REST) {
		ev.type = EVENT_WORKER_TREE_GONE;
		if (!same || !o->rest_alive)
			soon(w, ev);
	} else if (!same || !o->alive) {
		if (cw->state == WORKER_STARTING) { /* it is told of first */
			struct event started = ev;

			started.type = EVENT_WORKER_STARTED;
			started.pid = cw->pid ? cw->pid : 1;
			soon(w, started);
		}
		ev.exited.rest = same && o->rest_alive ? o->rest : 0;
		soon(w, ev);
	}
}

/* It runs, and when the state was written it had not been started. */
static void know_stray(
        struct world *w, struct sim_generation *g, unsigned k, const struct worker *cw)
{
	struct sim_worker *o = &g->workers[k];

	if (!g->id || (!o->alive && !o->rest_alive) || o->written == o->serial)
		return;
	if (o->alive && cw && cw->state == WORKER_STARTING && cw->serial == o->serial)
		o->written = o->serial; /* it was about to be */
	else
		end_stray(w, g, k);
}

/* Listeners that nobody has written down are closed by now. */
static void lose(struct world *w, struct sim_generation *g, bool forget)
{
	for (unsigned k = 0; g->id && k < MAX_WORKERS; k++)
		if (g->workers[k].alive || g->workers[k].rest_alive)
			end_stray(w, g, k);
	if (!g->id) {
		g->left = true;
		g->share = 0;
	}
	if (g->share)
		fault(w, "nobody knows generation %u any more, which has connections", g->id);
	drop_later(w, g, -1);
	g->released = true;
	g->used = !forget; /* its id is given again */
}

static void find_shells(struct world *w, bool channels)
{
	for (unsigned i = 0; i < w->n_gens; i++) {
		struct sim_generation *g = &w->gens[i];
		struct service *sv = supervisor_service(w->s, g->service);
		struct generation *cg = sv && g->used ? service_find(sv, g->id) : NULL;

		if (!g->used || g->released)
			continue;
		g->link = g->written_link;
		if (g->undo)
			undo_link(w, g);
		if (!cg || !g->written) {
			lose(w, g, cg || !sv || g->id > sv->last_generation);
			continue;
		}
		cg->shell = g;
		cg->adopted = g->adopted = g->written_adopted;
		g->resumed = true;
		take_share(w, g, g->written_share); /* as group_loaded() does */
		for (unsigned k = 0; k < MAX_WORKERS; k++)
			know_stray(w, g, k, k < cg->n_workers ? &cg->workers[k] : NULL);
		for (unsigned k = 0; k < cg->n_workers && k < MAX_WORKERS; k++)
			find_worker(w, g, &cg->workers[k], channels);
	}
}

static void recover(struct world *w, bool crashed)
{
	bool development = w->s->development;

	if (w->options->trace)
		fprintf(w->options->trace, "%12.6f ======== %s\n", (double)w->now / 1e6,
		        crashed ? "crash" : "upgrade");
	if (crashed)
		check_changes(w);
	drop_supervisor(w, crashed);
	if (crashed) {
		let_some_die(w);
		for (unsigned i = 0; i < w->n_requests; i++)
			w->requests[i].cancelled |= !w->requests[i].answered;
	}
	read_state(w, development);
	if (w->result.error[0])
		return;
	w->stopping = w->s->state == SUPERVISOR_STOPPING;
	w->at_once = w->s->at_once;
	w->stops = w->stopping + w->at_once;
	find_shells(w, !crashed || one_in(&w->chance, 2));
	w->crashing = false;
	w->changed = true;
	w->acts_left = 1 + pick(&w->chance, 10);
	if (!crashed || !one_in(&w->chance, 4)) { /* else the next one comes before another state */
		drop_state(w);
		plan_crash(w);
	}
	w->resuming = true;
	supervisor_resume(w->s, w->now, crashed, &w->out);
	carry_out(w);
	w->resuming = false;
	if (w->crashing)
		return;
	for (size_t i = 0; crashed && i < w->s->n_slots; i++) {
		const struct service *sv = w->s->services[i];

		if (sv && sv->turn == TURN_NONE && service_serving(sv))
			apply_shares(w, sv);
	}
	soon(w, (struct event){.type = EVENT_TIMER});
}

void finish_crash(struct world *w)
{
	while (w->crashing && !w->result.error[0]) {
		w->result.crashes++;
		if (w->crashes_left)
			w->crashes_left--;
		recover(w, true);
	}
	w->crashing = false;
}

void upgrade(struct world *w)
{
	if (w->soon_n || w->state)
		return;
	w->result.upgrades++;
	w->state = make_state(w, false);
	recover(w, false);
	check_world(w);
}
