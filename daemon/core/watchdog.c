/* SPDX-License-Identifier: MIT */
/* Of each worker one deadline, `alive_until`, and what is thought of it:
 *
 *   TRUSTED -> LATE     [the deadline has passed: handoffd itself may have been slow to listen]
 *   LATE -> TRUSTED     [it was heard after all]
 *   LATE -> ABORTED     [it was not: SIGABRT]
 *   TRUSTED -> ABORTED  [it asked for it]
 *
 * ABORTED at its deadline gets SIGKILL. Only workers that run and were not told to stop are looked
 * at, and never a server that was taken over. */
#include "core/watchdog.h"
#include "core/service.h"
#include "core/supervisor.h"

#define SIGNAL_ABRT 6
/* What lies in the socket when handoffd comes to it late is heard within this time. */
#define LATE_USEC (500 * USEC_PER_MSEC)

static bool is_running(const struct worker *w)
{
	return w->state == WORKER_RUNNING || w->state == WORKER_READY;
}

static void begin(const struct generation *g, struct worker *w, usec_t patience)
{
	w->trust = WORKER_TRUSTED;
	w->alive_until = usec_add(g->service->supervisor->now, patience);
}

void watchdog_alive(struct generation *g, struct worker *w)
{
	if (w->alive_until && w->trust != WORKER_ABORTED)
		begin(g, w, g->settings->watchdog);
}

void watchdog_extend(struct generation *g, struct worker *w, usec_t more)
{
	usec_t at = usec_add(g->service->supervisor->now, more);

	if (w->state != WORKER_RUNNING || w->trust == WORKER_ABORTED || at <= w->alive_until)
		return;
	if (w->alive_until)
		begin(g, w, more);
}

void watchdog_restart(struct generation *g)
{
	for (unsigned i = 0; i < g->n_workers; i++)
		watchdog_alive(g, &g->workers[i]);
}

void watchdog_abort(struct generation *g, struct worker *w, const char *why)
{
	struct supervisor *s = g->service->supervisor;

	if (g->taken || !is_running(w) || w->trust == WORKER_ABORTED)
		return;
	supervisor_act(s, ACTION_SIGNAL_WORKER, g->service, g, w)->signo = SIGNAL_ABRT;
	supervisor_record(s, RECORD_WORKER_KILLED, g->service, g, w)->text = why;
	begin(g, w, g->settings->drain.kill_after);
	w->trust = WORKER_ABORTED;
}

static void overdue(struct generation *g, struct worker *w)
{
	struct supervisor *s = g->service->supervisor;

	switch (w->trust) {
	case WORKER_TRUSTED:
		begin(g, w, LATE_USEC);
		w->trust = WORKER_LATE;
		break;
	case WORKER_LATE:
		watchdog_abort(g, w,
		        action_text(s->out, "it has not said WATCHDOG=1 for %.4g s",
		                (double)g->settings->watchdog / USEC_PER_SEC));
		break;
	case WORKER_ABORTED:
		supervisor_act(s, ACTION_KILL_WORKER, g->service, g, w);
		supervisor_record(s, RECORD_WORKER_KILLED, g->service, g, w)->text =
		        "SIGABRT did not end it";
		w->alive_until = USEC_INFINITY;
		break;
	}
}

/* One that takes the place of another may need as long as a generation to become ready. */
static usec_t first_patience(const struct generation *g, const struct worker *w)
{
	bool ready = w->state == WORKER_READY || g->state == GENERATION_READY;

	return ready ? g->settings->watchdog
	             : usec_add(g->settings->watchdog, g->settings->ready.timeout);
}

bool watchdog_advance(struct generation *g)
{
	bool wanted = g->settings->watchdog != USEC_INFINITY && !g->taken;
	usec_t now = g->service->supervisor->now;
	bool changed = false;

	for (unsigned i = 0; i < g->n_workers; i++) {
		struct worker *w = &g->workers[i];

		if (!is_running(w))
			continue;
		if (w->alive_until) {
			while (now >= w->alive_until) {
				overdue(g, w);
				changed = true;
			}
		} else if (wanted &&
		           (w->state == WORKER_READY || g->state != GENERATION_STARTING)) {
			begin(g, w, first_patience(g, w));
			changed = true;
		}
	}
	return changed;
}

usec_t watchdog_next_deadline(const struct generation *g)
{
	usec_t at = USEC_INFINITY;

	for (unsigned i = 0; i < g->n_workers; i++) {
		const struct worker *w = &g->workers[i];

		if (is_running(w) && w->alive_until && w->alive_until < at)
			at = w->alive_until;
	}
	return at;
}
