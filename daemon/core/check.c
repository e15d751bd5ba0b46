/* SPDX-License-Identifier: MIT */
/* The invariants, restated from nothing but the tables (DESIGN: 1 to 8; the 9th is the
 * simulation's). */
#include "core/share.h"
#include "core/supervisor.h"
#include "core/watchdog.h"

#define FAIL_IF(condition)                                                                         \
	do {                                                                                       \
		if (condition)                                                                     \
			return #condition;                                                         \
	} while (0)

static const char *check_worker(const struct generation *g, const struct worker *w)
{
	bool running = w->state == WORKER_RUNNING || w->state == WORKER_READY;

	FAIL_IF(running && !w->pid);
	FAIL_IF(w->state == WORKER_ABSENT && w->pid);
	FAIL_IF(running && g->told);
	FAIL_IF(w->messaged && !w->surplus &&
	        !g->by_message); /* who was told by message is told again at the end */
	/* nobody is silent for ever where it is asked to speak, and nobody else is ended for it */
	FAIL_IF(w->state == WORKER_READY && g->service->turn == TURN_NONE && !w->alive_until &&
	        g->settings->watchdog != USEC_INFINITY && !g->taken);
	FAIL_IF(running && w->alive_until && w->trust != WORKER_ABORTED &&
	        (g->settings->watchdog == USEC_INFINITY || g->taken));
	/* 4: nobody is told to stop before the generation is quiet, nor, by `idle`, before it is
	 * drained, unless it is past its deadline, failed, or everything is stopped at once */
	if (w->state == WORKER_STOPPING && w->pid && !g->killed)
		FAIL_IF(!(g->state == GENERATION_FAILED || g->overdue || g->quiet || w->surplus));
	return NULL;
}

static const char *check_generation(const struct service *sv, const struct generation *g)
{
	const char *why;

	/* 2: no share without readiness */
	FAIL_IF(g->share && g->state != GENERATION_SERVING && g->state != GENERATION_CANARY &&
	        sv->turn_to != g && !gate_holds(sv, g));
	FAIL_IF(g->state == GENERATION_SERVING && sv->turn == TURN_NONE && !g->share && !sv->held &&
	        !(sv->rolling && sv->rolling->holds));
	FAIL_IF(g->state == GENERATION_CANARY && sv->turn == TURN_NONE &&
	        (!g->share || g->share != g->canary));
	FAIL_IF(sv->turn == TURN_NONE && g->state == GENERATION_READY);
	FAIL_IF(sv->turn == TURN_NONE && g->state == GENERATION_GONE);
	FAIL_IF((g->state == GENERATION_STARTING || g->state == GENERATION_READY ||
	                (g->state == GENERATION_CANARY && sv->turn != TURN_STOP)) &&
	        sv->rolling != g);
	FAIL_IF(g->state == GENERATION_SERVING && !g->prepared);
	/* nobody waits for a generation that cannot come any more */
	FAIL_IF(g->holds && g->state != GENERATION_STARTING && g->state != GENERATION_READY);
	FAIL_IF(g->building && !g->prepared);
	/* 3: the listeners stay as long as a process could use them */
	FAIL_IF(!g->prepared && !g->preparing && generation_has_processes(g));
	/* 5: every draining generation has an end */
	if (g->state == GENERATION_DRAINING || g->state == GENERATION_STOPPING)
		FAIL_IF(!g->killed && g->kill_at == USEC_INFINITY &&
		        g->settings->drain.deadline != USEC_INFINITY &&
		        g->settings->drain.kill_after != USEC_INFINITY);
	FAIL_IF(g->state == GENERATION_DRAINING && g->told && !g->killed && !g->shared &&
	        g->settings->drain.by != DRAIN_SIGNAL && !g->by_message);
	FAIL_IF(g->by_message && g->settings->drain.by != DRAIN_AUTO);
	/* nobody is left stopped */
	FAIL_IF(g->frozen && (g->state != GENERATION_DRAINING || g->told));
	FAIL_IF(g->looked && sv->turn == TURN_NONE);
	FAIL_IF(sv->turn == TURN_NONE && generation_next_deadline(g) <= sv->supervisor->now);
	FAIL_IF(sv->turn == TURN_NONE && watchdog_next_deadline(g) <= sv->supervisor->now);
	for (unsigned i = 0; i < g->n_workers; i++)
		if ((why = check_worker(g, &g->workers[i])))
			return why;
	return NULL;
}

static const char *check_targets(const struct service *sv)
{
	for (const struct target *t = sv->targets; t; t = t->next) {
		FAIL_IF(t->service != sv);
		FAIL_IF(t->phase == TARGET_DONE);
		FAIL_IF(t->request->loading);
		/* 7: nobody waits for what cannot come */
		if (sv->turn != TURN_NONE)
			continue;
		FAIL_IF((t->phase == TARGET_ROLLING || t->phase == TARGET_BAKING) &&
		        !service_find(sv, t->generation));
		FAIL_IF(t->phase == TARGET_ROLLING &&
		        !(sv->rolling && sv->rolling->id == t->generation));
		FAIL_IF(t->phase == TARGET_TURNING && !(sv->rolling && sv->rolling->abort_outcome));
		FAIL_IF(t->phase == TARGET_SCALING && !service_find(sv, t->generation));
		FAIL_IF(t->phase == TARGET_STOPPING && sv->state != SERVICE_STOPPING &&
		        !sv->start_again && !sv->remove);
		FAIL_IF(t->phase == TARGET_PENDING && t->request->kind != REQUEST_WAIT &&
		        !sv->waiting && !sv->start_again && sv->n_generations != GENERATIONS_MAX);
	}
	return NULL;
}

static const char *check_service(const struct service *sv)
{
	unsigned serving = 0;
	const char *why;

	for (unsigned i = 0; i < sv->n_generations; i++) {
		FAIL_IF(i && sv->generations[i - 1]->id >= sv->generations[i]->id);
		serving += sv->generations[i]->state == GENERATION_SERVING;
		if ((why = check_generation(sv, sv->generations[i])))
			return why;
	}
	/* 1: from first readiness until stop somebody takes new connections, and only one does */
	FAIL_IF(serving > 1);
	FAIL_IF(sv->state == SERVICE_SERVING && sv->turn == TURN_NONE && serving != 1);
	FAIL_IF(serving && sv->turn == TURN_NONE && share_total(sv) != SHARE_ALL);
	FAIL_IF(sv->turn == TURN_NONE && (sv->state == SERVICE_STOPPED) && sv->n_generations);
	return check_targets(sv);
}

const char *supervisor_check(const struct supervisor *s)
{
	const char *why;

	for (size_t i = 0; i < s->n_slots; i++)
		if (s->services[i] && (why = check_service(s->services[i])))
			return why;
	for (const struct request *r = s->requests; r; r = r->next) {
		size_t done = 0;

		for (size_t i = 0; i < r->n_targets; i++)
			done += r->targets[i].phase == TARGET_DONE;
		FAIL_IF(done != r->n_done);
		FAIL_IF(r->n_targets && r->n_done == r->n_targets);
	}
	FAIL_IF(supervisor_next_deadline(s) <= s->now);
	return NULL;
}
