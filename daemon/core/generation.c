/* SPDX-License-Identifier: MIT */
/* Start of a generation: from its creation to READY, and its workers at any time. What comes after
 * it has served is in drain.c. */
#include "core/generation.h"
#include "core/drain.h"
#include "core/gate.h"
#include "core/scale.h"
#include "core/service.h"
#include "core/supervisor.h"
#include "core/taken.h"
#include "core/turn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A worker that has run so long is not in a crash loop. */
#define STABLE_USEC (10 * USEC_PER_SEC)
/* When a program shows nothing and cannot be probed. */
#define BLIND_USEC (1 * USEC_PER_SEC)
/* How often what serves is checked while it is watched, and how long a check may take. */
#define CHECK_EVERY_USEC (1 * USEC_PER_SEC)
#define CHECK_PATIENCE_USEC (5 * USEC_PER_SEC)
/* A failed start may not hold its listeners for ever, whatever kill-after says. */
#define FAILED_KILL_MAX_USEC (30 * USEC_PER_SEC)

const char *generation_state_to_string(enum generation_state s)
{
	static const char *const names[] = {
#define X(id, name) [GENERATION_##id] = name,
	        GENERATION_STATES(X)
#undef X
	};

	return names[s];
}

struct generation *generation_new(struct service *service, uint32_t id, struct config *config,
        const struct service_config *settings, unsigned n_workers, usec_t now)
{
	struct generation *g = calloc(1, sizeof *g);
	struct worker *workers = calloc(n_workers, sizeof *workers);

	if (!g || !workers) {
		free(g);
		free(workers);
		return NULL;
	}
	*g = (struct generation){
	        .id = id,
	        .service = service,
	        .config = config_ref(config),
	        .settings = settings,
	        .state = GENERATION_STARTING,
	        .created = now,
	        .since = now,
	        .ready_deadline = usec_add(now, settings->ready.timeout),
	        .after_at = USEC_INFINITY,
	        .bake_until = USEC_INFINITY,
	        .hold_until = USEC_INFINITY,
	        .deadline = USEC_INFINITY,
	        .kill_at = USEC_INFINITY,
	        .quiet_at = USEC_INFINITY,
	        .promote_at = USEC_INFINITY,
	        .abort_at = USEC_INFINITY,
	        .check_at = USEC_INFINITY,
	        .canary = settings->rollout.canary,
	        .hold = settings->rollout.hold,
	        .keep_warm = settings->rollout.keep_warm,
	        .workers = workers,
	        .n_workers = n_workers,
	        .open = n_workers,
	};
	for (unsigned i = 0; i < g->n_workers; i++)
		workers[i] = (struct worker){
		        .index = i, .retry_at = USEC_INFINITY, .kill_at = USEC_INFINITY};
	return g;
}

struct generation *generation_free(struct generation *g)
{
	if (!g)
		return NULL;
	config_unref(g->config);
	lineage_unref(g->lineage);
	roll_done(&g->roll);
	free(g->release);
	free(g->workers);
	free(g);
	return NULL;
}

static void tell(struct generation *g, struct worker *w, enum tell_word word, uint32_t serving)
{
	struct action *a =
	        supervisor_act(g->service->supervisor, ACTION_TELL_WORKER, g->service, g, w);

	a->tell.word = word;
	if (word == TELL_SERVING)
		a->tell.generation = serving;
	else
		a->tell.deadline = g->deadline;
}

/* All workers of the service, those that serve last: at no time two generations believe that they
 * do. */
static void tell_serving(struct generation *serving)
{
	const struct service *sv = serving->service;

	for (unsigned i = 0; i <= sv->n_generations; i++) {
		struct generation *g = i < sv->n_generations ? sv->generations[i] : serving;

		if (i < sv->n_generations && g == serving)
			continue;
		for (unsigned k = 0; k < g->n_workers; k++)
			if (g->workers[k].hello && worker_alive(&g->workers[k]))
				tell(g, &g->workers[k], TELL_SERVING, serving->id);
	}
}

void roll_done(struct roll *r)
{
	free(r->release);
	*r = (struct roll){0};
}

bool generation_set_roll(struct generation *g, struct roll *roll, struct lineage *back)
{
	const struct roll_options *o = &roll->options;

	if (back && back->release && !(roll->release = strdup(back->release)))
		return false;
	if (o->has_canary)
		g->canary = o->canary;
	if (o->has_hold)
		g->hold = o->hold;
	if (o->has_keep_warm)
		g->keep_warm = o->keep_warm;
	if (g->canary >= SHARE_ALL || back)
		g->canary = 0;
	if (back)
		g->lineage = lineage_ref(back->before);
	g->roll = *roll;
	*roll = (struct roll){0};
	return true;
}

void generation_restore_link(struct generation *g)
{
	if (!g->linked || g->preparing)
		return;
	if (g->prepared)
		supervisor_act(g->service->supervisor, ACTION_RESTORE_LINK, g->service, g, NULL);
	g->linked = false;
}

/* What tells more than that it is alive is asked again while it is watched. */
static void check_later(struct generation *g)
{
	enum ready_by by = g->settings->ready.by;

	if (by == READY_HTTP || by == READY_EXEC)
		g->check_at = usec_add(g->service->supervisor->now, CHECK_EVERY_USEC);
}

static void stop_probe(struct generation *g)
{
	if (g->probing)
		supervisor_act(g->service->supervisor, ACTION_STOP_PROBE, g->service, g, NULL);
	g->probing = false;
}

/* The one door for state changes: the edges that exist, and what a state may not own. */
void generation_set_state(struct generation *g, enum generation_state state)
{
#define TO(x) (1u << GENERATION_##x)
	static const unsigned edges[] = {
	        [GENERATION_STARTING] = TO(READY) | TO(FAILED),
	        [GENERATION_READY] = TO(CANARY) | TO(SERVING) | TO(FAILED),
	        [GENERATION_CANARY] = TO(SERVING) | TO(DRAINING),
	        [GENERATION_SERVING] = TO(WARM) | TO(DRAINING) | TO(GONE),
	        [GENERATION_WARM] = TO(SERVING) | TO(DRAINING),
	        [GENERATION_DRAINING] = TO(SERVING) | TO(STOPPING) | TO(GONE),
	        [GENERATION_STOPPING] = TO(GONE),
	        [GENERATION_FAILED] = TO(GONE),
	        [GENERATION_GONE] = 0,
	};
#undef TO
	struct supervisor *s = g->service->supervisor;

	HO_ASSERT(edges[g->state] & (1u << state));
	if (state != GENERATION_STARTING)
		stop_probe(g);
	if (g->watched && (state == GENERATION_SERVING || state == GENERATION_GONE)) {
		supervisor_act(s, ACTION_STOP_WATCH, g->service, g, NULL);
		g->watched = g->counted = false;
	}
	if (state == GENERATION_SERVING) {
		tell_serving(g);
		g->quiet = g->drained = g->checking = g->uncountable = false;
		g->quiet_at = g->hold_until = g->deadline = g->kill_at = USEC_INFINITY;
	}
	generation_thaw(g); /* whatever it was told is waiting for it */
	g->check_at = USEC_INFINITY;
	if (state == GENERATION_CANARY || state == GENERATION_SERVING)
		check_later(g);
	if (state != GENERATION_SERVING)
		g->baking = false;
	g->state = state;
	g->since = s->now;
}

bool generation_has_listeners(const struct generation *g)
{
	return g->settings->n_listeners > 0;
}

bool generation_has_processes(const struct generation *g)
{
	for (unsigned i = 0; i < g->n_workers; i++)
		if (worker_alive(&g->workers[i]))
			return true;
	return false;
}

bool generation_is_old(const struct generation *g)
{
	return g->state == GENERATION_WARM || g->state == GENERATION_DRAINING ||
	       g->state == GENERATION_STOPPING;
}

bool generation_whole(const struct generation *g)
{
	if (g->told)
		return false;
	for (unsigned i = 0; i < g->open; i++)
		if (g->workers[i].state != WORKER_RUNNING && g->workers[i].state != WORKER_READY)
			return false;
	return true;
}

static bool all_workers(const struct generation *g, bool ready)
{
	for (unsigned i = 0; i < g->open; i++)
		if (g->workers[i].state != WORKER_READY &&
		        (ready || g->workers[i].state != WORKER_RUNNING))
			return false;
	return true;
}

void generation_start_worker(struct generation *g, struct worker *w)
{
	HO_ASSERT(w->state == WORKER_ABSENT);
	w->state = WORKER_STARTING;
	w->serial++;
	w->retry_at = w->kill_at = USEC_INFINITY;
	w->killed = w->surplus = w->hello = w->drains = w->messaged = false;
	w->alive_until = w->trust = 0;
	w->status[0] = '\0';
	supervisor_act(g->service->supervisor, ACTION_START_WORKER, g->service, g, w);
}

void generation_signal_worker(struct generation *g, struct worker *w)
{
	w->messaged =
	        w->drains && (g->by_message || (w->surplus && g->settings->drain.by == DRAIN_AUTO));
	if (w->messaged)
		tell(g, w, TELL_DRAIN, 0);
	else
		supervisor_act(g->service->supervisor, ACTION_SIGNAL_WORKER, g->service, g, w)
		        ->signo = g->settings->drain.signal;
	if (w->state != WORKER_REST)
		w->state = WORKER_STOPPING;
}

bool generation_by_message(const struct generation *g)
{
	bool any = false;

	if (g->told)
		return g->by_message;
	if (g->settings->drain.by != DRAIN_AUTO || g->state != GENERATION_DRAINING || g->overdue)
		return false;
	for (unsigned i = 0; i < g->n_workers; i++) {
		const struct worker *w = &g->workers[i];

		if (!worker_alive(w))
			continue;
		if (!w->drains || w->state == WORKER_REST)
			return false;
		any = true;
	}
	return any;
}

void generation_tell(struct generation *g)
{
	g->by_message = !g->overdue && generation_by_message(g);
	g->told = true;
	for (unsigned i = 0; i < g->n_workers; i++) {
		struct worker *w = &g->workers[i];

		w->retry_at = USEC_INFINITY;
		if (w->state == WORKER_RUNNING || w->state == WORKER_READY ||
		        w->state == WORKER_REST || w->messaged)
			generation_signal_worker(g, w);
	}
}

void generation_kill(struct generation *g)
{
	struct supervisor *s = g->service->supervisor;

	if (taken_is_foreign(g))
		return;
	g->told = g->killed = true;
	g->kill_at = USEC_INFINITY;
	if (g->building)
		supervisor_act(s, ACTION_STOP_BUILD, g->service, g, NULL);
	for (unsigned i = 0; i < g->n_workers; i++) {
		struct worker *w = &g->workers[i];

		w->retry_at = USEC_INFINITY;
		if (w->state == WORKER_ABSENT || w->state == WORKER_STARTING || w->killed)
			continue;
		supervisor_act(s, ACTION_KILL_WORKER, g->service, g, w);
		supervisor_record(s, RECORD_WORKER_KILLED, g->service, g, w);
		if (w->state != WORKER_REST)
			w->state = WORKER_STOPPING;
		w->killed = true;
	}
}

void generation_fail(
        struct generation *g, enum outcome_code code, const char *outcome, const char *format, ...)
{
	struct service *sv = g->service;
	struct supervisor *s = sv->supervisor;
	usec_t wait = g->settings->drain.kill_after;
	struct record *r;
	va_list ap;

	va_start(ap, format);
	(void)vsnprintf(g->reason, sizeof g->reason, format, ap);
	va_end(ap);
	generation_set_state(g, GENERATION_FAILED);
	r = supervisor_record(s, RECORD_GENERATION_FAILED, sv, g, NULL);
	r->text = action_text(s->out, "%s", g->reason);
	r->duration = s->now - g->created;
	gate_failed(g);
	if (sv->rolling == g)
		sv->rolling = NULL;
	if (g->taken) {
		taken_failed(g);
	} else {
		generation_tell(g);
		generation_restore_link(g);
		g->kill_at =
		        usec_add(s->now, wait < FAILED_KILL_MAX_USEC ? wait : FAILED_KILL_MAX_USEC);
	}
	service_result(sv, g->roll.kind, g->id, code, outcome, g->reason);
}

/* ---- readiness ---- */

/* What is the generation asked, if anything? */
static bool wants_probe(const struct generation *g)
{
	enum ready_by by = g->settings->ready.by;

	if (!generation_has_listeners(g) || !g->probeable || g->taken)
		return false;
	return by == READY_AUTO || by == READY_ACCEPTING || by == READY_LISTENING ||
	       by == READY_HTTP;
}

static bool is_ready(struct generation *g, usec_t now)
{
	if (g->taken)
		return true;
	switch (g->settings->ready.by) {
	case READY_AUTO:
		if (all_workers(g, true) || (g->probed && !g->speaks_notify))
			return true;
		if (!generation_has_listeners(g))
			return !g->speaks_notify;
		if (!g->probeable && !g->speaks_notify)
			return now >= g->after_at;
		return false;
	case READY_NOTIFY:
	case READY_EXEC:
	case READY_FD:
		return all_workers(g, true);
	case READY_ACCEPTING:
	case READY_LISTENING:
	case READY_HTTP:
		return g->probed;
	case READY_AFTER:
		return now >= g->after_at;
	}
	return false;
}

void generation_unready(struct generation *g, const char *last_words)
{
	const struct ready_config *r = &g->settings->ready;
	char why[sizeof g->reason];
	struct text t = TEXT_ON(why);

	text_add(&t, "not ready within %.3gs (ready by %s%s%s)%s%s",
	        (double)r->timeout / USEC_PER_SEC, ready_by_to_string(r->by),
	        r->argument ? ": " : "", r->argument ? r->argument : "", g->trouble[0] ? ": " : "",
	        g->trouble);
	add_last_words(&t, last_words);
	generation_fail(g, service_serving(g->service) ? CODE_GENERATION_FAILED : CODE_FAILED,
	        "failed", "%s", why);
}

/* It has had its time. What a worker says that is not ready may tell why: it is asked for once, and
 * waited for a little. */
static bool too_late(struct generation *g)
{
	struct supervisor *s = g->service->supervisor;
	struct worker *w = g->workers;

	if (s->now >= g->ready_deadline && !g->late) {
		g->late = true;
		g->ready_deadline = usec_add(s->now, USEC_PER_SEC);
		while (w < g->workers + g->n_workers && w->state != WORKER_RUNNING)
			w++;
		w = w < g->workers + g->n_workers ? w : g->workers;
		supervisor_act(s, ACTION_LAST_WORDS, g->service, g, w);
	} else if (s->now >= g->ready_deadline) {
		generation_unready(g, NULL);
		return true;
	}
	return false;
}

/* One probe at a time for a service: this one goes before a check of what serves. */
static void begin_probe(struct generation *g)
{
	struct supervisor *s = g->service->supervisor;
	struct generation *serving = service_serving(g->service);

	if (serving && serving != g && serving->probing) {
		stop_probe(serving);
		check_later(serving);
	}
	supervisor_act(s, ACTION_PROBE, g->service, g, NULL)->http =
	        g->settings->ready.by == READY_HTTP;
	g->probing = true;
}

static bool starting_advance(struct generation *g)
{
	struct supervisor *s = g->service->supervisor;
	const struct ready_config *r = &g->settings->ready;

	if (!g->prepared)
		return false;
	if (!g->begun)
		return gate_begin(g);
	if (g->late || s->now >= g->ready_deadline)
		return too_late(g);
	if (!all_workers(g, false))
		return false;
	if (wants_probe(g) && !g->probing && !g->probed)
		begin_probe(g);
	if (g->after_at == USEC_INFINITY && r->by == READY_AFTER)
		g->after_at = usec_add(s->now, r->after);
	if (r->by == READY_AUTO && !g->probeable) {
		if (g->speaks_notify)
			g->after_at = USEC_INFINITY;
		else if (g->after_at == USEC_INFINITY)
			g->after_at = usec_add(s->now, BLIND_USEC);
	}
	if (!is_ready(g, s->now))
		return false;
	generation_set_state(g, GENERATION_READY);
	supervisor_record(s, RECORD_GENERATION_READY, g->service, g, NULL)->duration =
	        s->now - g->created;
	return true;
}

/* ---- serving ---- */

static void stop_watching(struct generation *g)
{
	g->baking = false;
	g->check_at = USEC_INFINITY;
	stop_probe(g);
}

/* It cannot be turned back while it shares with a canary: this goes first. */
static bool undo_canary(struct generation *g)
{
	struct generation *canary = g->service->rolling;

	if (!canary || canary->state != GENERATION_CANARY)
		return false;
	if (canary->abort_at == USEC_INFINITY)
		turn_abort(canary, CODE_GENERATION_FAILED, "rolled-back",
		        "the generation it was compared with has failed");
	return true;
}

bool generation_check_advance(struct generation *g)
{
	struct service *sv = g->service;
	struct supervisor *s = sv->supervisor;

	if (s->now < g->check_at)
		return false;
	if (g->probing) {
		generation_check_done(g, false, g->trouble);
		return true;
	}
	if (sv->rolling && sv->rolling != g) {
		check_later(g);
		return true;
	}
	g->trouble[0] = '\0';
	g->check_at = usec_add(s->now, CHECK_PATIENCE_USEC);
	if (g->settings->ready.by == READY_EXEC) {
		g->probing = true;
		supervisor_act(s, ACTION_WATCH_EXEC, sv, g, &g->workers[0]);
	} else {
		begin_probe(g);
	}
	return true;
}

void generation_check_done(struct generation *g, bool ok, const char *why)
{
	const struct ready_config *r = &g->settings->ready;

	stop_probe(g);
	if (ok) {
		check_later(g);
		return;
	}
	g->check_at = USEC_INFINITY;
	g->died = true;
	(void)snprintf(g->reason, sizeof g->reason,
	        "its check failed %.3g s after its start (%s: %s)%s%s",
	        (double)(g->service->supervisor->now - g->created) / USEC_PER_SEC,
	        ready_by_to_string(r->by), r->argument ? r->argument : "", why[0] ? ": " : "", why);
}

static bool serving_advance(struct generation *g)
{
	struct supervisor *s = g->service->supervisor;
	bool changed = false;

	if (g->baking && generation_check_advance(g))
		return true;
	/* its canary goes first, which may take a second try; its workers come back meanwhile */
	if (g->died && !(g->baking && undo_canary(g))) {
		g->died = false;
		if (g->baking && turn_back(g->service, g))
			return true;
		if (g->baking) { /* nothing to go back to: it is kept alive like any other */
			stop_watching(g);
			service_result(
			        g->service, g->roll.kind, g->id, CODE_FAILED, "failed", g->reason);
		}
		changed = true;
	}
	if (g->baking && !g->died && s->now >= g->bake_until) {
		stop_watching(g);
		supervisor_record(s, RECORD_BAKED, g->service, g, NULL)->duration =
		        s->now - g->since;
		targets_serving(g->service, g->id, true);
		changed = true;
	}
	changed |= step_refill(g);
	return scale_advance(g) || changed;
}

bool generation_advance(struct generation *g)
{
	switch (g->state) {
	case GENERATION_STARTING:
		return starting_advance(g);
	case GENERATION_SERVING:
		return serving_advance(g);
	case GENERATION_WARM:
	case GENERATION_DRAINING:
	case GENERATION_STOPPING:
	case GENERATION_FAILED:
		return drain_advance(g);
	case GENERATION_CANARY:
		return turn_canary_advance(g);
	case GENERATION_READY:
	case GENERATION_GONE:
		return false;
	}
	return false;
}

static usec_t earliest(usec_t a, usec_t b)
{
	return a < b ? a : b;
}

usec_t generation_next_deadline(const struct generation *g)
{
	usec_t at = USEC_INFINITY;

	switch (g->state) {
	case GENERATION_STARTING:
		if (!g->begun)
			return at;
		return earliest(g->ready_deadline, g->after_at);
	case GENERATION_SERVING:
		if (g->baking)
			at = g->died ? g->check_at : earliest(g->bake_until, g->check_at);
		return earliest(at, scale_deadline(g));
	case GENERATION_WARM:
	case GENERATION_DRAINING:
	case GENERATION_STOPPING:
	case GENERATION_FAILED:
		return drain_next_deadline(g);
	case GENERATION_CANARY:
		return turn_canary_deadline(g);
	case GENERATION_READY:
	case GENERATION_GONE:
		return at;
	}
	return at;
}

/* ---- what happens to workers ---- */

void generation_worker_started(struct generation *g, struct worker *w, int pid)
{
	struct supervisor *s = g->service->supervisor;

	w->state = WORKER_RUNNING;
	w->pid = pid;
	w->started = s->now;
	supervisor_record(s, RECORD_WORKER_STARTED, g->service, g, w);
	if (g->taken && g->state == GENERATION_FAILED) {
		taken_forget_worker(g, w);
	} else if (g->told) { /* the order came while it was being started */
		generation_signal_worker(g, w);
		if (g->killed) {
			supervisor_act(s, ACTION_KILL_WORKER, g->service, g, w);
			w->killed = true;
		}
	} else if ((g->state == GENERATION_STARTING || g->opening) &&
	           g->settings->ready.by == READY_EXEC && !g->taken) {
		supervisor_act(s, ACTION_WATCH_EXEC, g->service, g, w);
	}
}

static void schedule_restart(struct generation *g, struct worker *w)
{
	struct supervisor *s = g->service->supervisor;

	if (g->settings->restart == RESTART_NEVER || g->told || g->taken || w->index >= g->open)
		return;
	if (s->now - w->started >= STABLE_USEC)
		w->failures = 0;
	w->retry_at = usec_add(s->now, worker_backoff(w->failures));
	w->failures++;
}

void generation_worker_start_failed(struct generation *g, struct worker *w, const char *why)
{
	struct supervisor *s = g->service->supervisor;

	w->state = WORKER_ABSENT;
	w->pid = 0;
	if (g->state == GENERATION_STARTING) {
		generation_fail(g,
		        service_serving(g->service) ? CODE_GENERATION_FAILED : CODE_FAILED,
		        "failed", "worker %u could not be started: %s", w->index, why);
		return;
	}
	(void)snprintf(w->ended, sizeof w->ended, "could not be started: %s", why);
	supervisor_record(s, RECORD_WORKER_CRASHED, g->service, g, w)->text =
	        action_text(s->out, "could not be started: %s", why);
	if (g->state == GENERATION_SERVING) {
		w->started = s->now;
		schedule_restart(g, w);
	}
}

static void record_exit(struct generation *g, struct worker *w, int code, int status,
        const char *how, const char *last_words)
{
	struct supervisor *s = g->service->supervisor;
	bool expected = g->told || w->state == WORKER_STOPPING;
	struct record *r = supervisor_record(
	        s, expected ? RECORD_WORKER_EXITED : RECORD_WORKER_CRASHED, g->service, g, w);
	bool words = !expected && last_words && *last_words;

	r->duration = s->now - w->started;
	if (code == 1)
		r->exit_code = status;
	else if (code)
		r->exit_signal = status;
	r->connections = w->lost;
	r->has_connections = w->lost > 0;
	r->text = action_text(s->out, "%s%s%s", how, words ? ":\n" : "", words ? last_words : "");
}

/* What its main process left behind: nothing of a failed start may stay; in a serving generation it
 * is told to leave before a new worker comes, as many programs do not run beside their own remains;
 * in one that leaves, when it has no connection. */
static void handle_rest(struct generation *g, struct worker *w)
{
	struct supervisor *s = g->service->supervisor;

	w->state = WORKER_REST;
	if (g->state == GENERATION_FAILED || g->killed) {
		supervisor_act(s, ACTION_KILL_WORKER, g->service, g, w);
		w->killed = true;
	} else if (!g->taken &&
	           (g->told ? s->development || g->drained : g->state == GENERATION_SERVING)) {
		/* in development what a shell has started leaves with the shell */
		generation_signal_worker(g, w);
		w->kill_at = usec_add(s->now, g->settings->drain.kill_after);
	}
}

void generation_worker_exited(struct generation *g, struct worker *w, int code, int status,
        unsigned rest, const char *last_words)
{
	struct supervisor *s = g->service->supervisor;
	char how[120], story[sizeof g->reason];
	struct text told = TEXT_ON(story);
	bool surplus = w->surplus; /* it was to leave */

	describe_exit(how, sizeof how, code, status, w->lost);
	record_exit(g, w, code, status, how, last_words);
	(void)copy_string(w->ended, sizeof w->ended, how);
	text_add(&told, "worker %u (pid %d) %s %.3gs after its start%s", w->index, w->pid, how,
	        (double)(s->now - w->started) / USEC_PER_SEC,
	        g->state == GENERATION_STARTING ? ", before it was ready" : "");
	if (g->state == GENERATION_STARTING && g->trouble[0])
		text_add(&told, "; %s", g->trouble);
	add_last_words(&told, last_words);
	w->pid = 0;
	w->hello = w->drains = w->messaged = false;
	w->state = WORKER_STOPPING; /* whatever follows does not speak to it any more */
	if (g->state == GENERATION_STARTING)
		generation_fail(g,
		        service_serving(g->service) ? CODE_GENERATION_FAILED : CODE_FAILED,
		        "failed", "%s", story);
	else if (!surplus && (g->state == GENERATION_SERVING || g->state == GENERATION_READY ||
	                             g->state == GENERATION_CANARY)) {
		g->died = true;
		g->ended_badly = code != 1 || status;
		(void)copy_string(g->reason, sizeof g->reason, story);
		targets_not_scaled(g->service, story);
	}
	if (!worker_alive(w))
		return; /* it was given up with the generation */
	if (rest)
		handle_rest(g, w);
	else
		generation_worker_tree_gone(g, w);
}

void generation_worker_tree_gone(struct generation *g, struct worker *w)
{
	supervisor_act(g->service->supervisor, ACTION_FORGET_WORKER, g->service, g, w);
	w->shell = NULL;
	w->state = WORKER_ABSENT;
	w->kill_at = USEC_INFINITY;
	if (w->surplus && w->index < g->open)
		w->retry_at = 0; /* it is wanted again */
	else if (g->state == GENERATION_SERVING || g->state == GENERATION_READY)
		schedule_restart(g, w);
}

void generation_worker_hello(struct generation *g, struct worker *w, uint64_t state)
{
	const struct generation *serving = service_serving(g->service);

	w->hello = state > 0;
	w->drains = state > 1;
	/* also to one that is known: handoffd may have been replaced, and the channel with it */
	if (w->hello && serving)
		tell(g, w, TELL_SERVING, serving->id);
	if (w->messaged && w->drains) /* it may not have heard */
		tell(g, w, TELL_DRAIN, 0);
}
