/* SPDX-License-Identifier: MIT */
#include "core/scale.h"
#include "core/drain.h"
#include "core/gate.h"
#include "core/supervisor.h"
#include "core/turn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool scale_can_shrink(const struct generation *g)
{
	if (drain_when_quiet(g) || !generation_has_listeners(g))
		return true;
	for (unsigned i = 0; i < g->n_workers; i++)
		if (worker_alive(&g->workers[i]) && !g->workers[i].drains)
			return false;
	return g->settings->drain.by == DRAIN_AUTO;
}

/* ---- any number ---- */

static bool grow(struct generation *g, unsigned n)
{
	struct supervisor *s = g->service->supervisor;
	struct worker *workers;

	if (n <= g->n_workers)
		return true;
	workers = realloc(g->workers, n * sizeof *workers);
	if (!workers)
		return false;
	g->workers = workers;
	if (supervisor_reserve(s, ACTIONS_OF_WORKER * (long)(n - g->n_workers), 0) < 0)
		return false;
	for (; g->n_workers < n; g->n_workers++)
		workers[g->n_workers] = (struct worker){
		        .index = g->n_workers, .retry_at = USEC_INFINITY, .kill_at = USEC_INFINITY};
	return true;
}

bool scale_to(struct generation *g, unsigned n)
{
	if (!grow(g, n))
		return false;
	g->open = n;
	for (unsigned i = 0; i < n; i++)
		if (g->workers[i].state == WORKER_ABSENT && g->workers[i].retry_at == USEC_INFINITY)
			g->workers[i].retry_at = 0;
	return true;
}

/* Those that are gone leave the table from its end. */
static void trim(struct generation *g)
{
	while (g->n_workers > g->open && g->n_workers > 1 && !g->step &&
	        g->workers[g->n_workers - 1].state == WORKER_ABSENT) {
		g->n_workers--;
		(void)supervisor_reserve(g->service->supervisor, -ACTIONS_OF_WORKER, 0);
	}
}

static void start_again(struct generation *g, struct worker *w)
{
	if (w->retry_at) {
		supervisor_record(
		        g->service->supervisor, RECORD_WORKER_RESTARTING, g->service, g, w);
		w->restarts++;
	}
	generation_start_worker(g, w);
}

bool scale_advance(struct generation *g)
{
	struct supervisor *s = g->service->supervisor;
	bool changed = false;

	for (unsigned i = 0; i < g->n_workers; i++) {
		struct worker *w = &g->workers[i];
		bool wanted = i < g->open;

		if (wanted && w->state == WORKER_ABSENT && s->now >= w->retry_at) {
			start_again(g, w);
		} else if (!wanted && (w->state == WORKER_RUNNING || w->state == WORKER_READY)) {
			w->surplus = true;
			generation_signal_worker(g, w);
			w->kill_at = usec_add(usec_add(s->now, g->settings->drain.deadline),
			        g->settings->drain.kill_after);
		} else if ((w->state == WORKER_REST || w->state == WORKER_STOPPING) &&
		           s->now >= w->kill_at) {
			w->kill_at = USEC_INFINITY;
			supervisor_act(s, ACTION_KILL_WORKER, g->service, g, w);
		} else {
			continue;
		}
		changed = true;
	}
	trim(g);
	return changed;
}

usec_t scale_deadline(const struct generation *g)
{
	usec_t at = USEC_INFINITY;

	for (unsigned i = 0; i < g->n_workers; i++) {
		const struct worker *w = &g->workers[i];
		usec_t next =
		        w->state == WORKER_ABSENT ? (i < g->open ? w->retry_at : USEC_INFINITY)
		        : w->state == WORKER_REST || w->state == WORKER_STOPPING ? w->kill_at
		                                                                 : USEC_INFINITY;

		at = next < at ? next : at;
	}
	return at;
}

bool scale_done(const struct generation *g)
{
	for (unsigned i = 0; i < g->n_workers; i++) {
		enum worker_state state = g->workers[i].state;

		if (i >= g->open ? state != WORKER_ABSENT
		                 : state != WORKER_READY &&
		                           (g->speaks_notify || state != WORKER_RUNNING))
			return false;
	}
	return true;
}

/* ---- in steps ---- */

void step_plan(struct generation *g, const struct generation *old)
{
	unsigned step = g->settings->rollout.step;

	if (!step || step >= g->n_workers || g->canary || old->taken || !scale_can_shrink(old))
		return;
	g->step = g->open = step;
	g->step_from = old->open;
}

bool step_begin(struct generation *g, const struct generation *old)
{
	g->step_from = old->open;
	return !old->taken && scale_can_shrink(old);
}

unsigned step_part(const struct generation *g)
{
	return (unsigned)((uint64_t)SHARE_ALL * g->open / g->n_workers);
}

void step_taken(struct generation *g, struct generation *old)
{
	(void)scale_to(old, g->step_from > g->open ? g->step_from - g->open : 1);
}

static unsigned processes(const struct generation *g)
{
	unsigned n = 0;

	for (unsigned i = 0; i < g->n_workers; i++)
		n += worker_alive(&g->workers[i]);
	return n;
}

bool step_refill(struct generation *old)
{
	const struct service *sv = old->service;
	bool changed = false;

	for (unsigned i = 0; i < sv->n_generations; i++) {
		const struct generation *g = sv->generations[i];
		unsigned n, room = g->step_from + g->step;

		if (!g->step || !g->rolled_back || g->id < old->id || old->open >= g->step_from)
			continue;
		n = processes(g);
		n = n < room ? room - n : 0;
		n = n < g->step_from ? n : g->step_from;
		changed |= n > old->open && scale_to(old, n);
	}
	return changed;
}

bool step_advance(struct generation *g)
{
	struct service *sv = g->service;
	const struct generation *old = service_serving(sv);
	usec_t now = sv->supervisor->now;
	char why[120];

	if (scale_advance(g))
		return true;
	if (!g->opening) {
		if (old && old->n_workers > old->open)
			return false; /* their memory is not free yet */
		g->opening = true;
		gate_expect(g, usec_add(now, g->settings->ready.timeout));
		(void)scale_to(
		        g, g->open + g->step < g->n_workers ? g->open + g->step : g->n_workers);
		return true;
	}
	if (scale_done(g)) {
		g->opening = false;
		if (g->open == g->n_workers)
			turn_begin(sv, TURN_FLIP, g, SHARE_ALL);
		else
			turn_begin(sv, TURN_PART, g, step_part(g));
		return true;
	}
	if (now < g->ready_deadline)
		return false;
	(void)snprintf(
	        why, sizeof why, "not all of the first %u workers were ready in time", g->open);
	turn_abort(g, CODE_GENERATION_FAILED, "rolled-back", why);
	return true;
}
