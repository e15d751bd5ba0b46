/* SPDX-License-Identifier: MIT */
/* From one handoffd to the next. After an upgrade the tables are true, and only what ran inside of
 * the old process is begun again. After a crash they are a moment old: what was decided is done, or
 * done once more, as it can be done twice; but a generation that has not begun to serve is given
 * up, and another one started. */
#include "core/drain.h"
#include "core/gate.h"
#include "core/supervisor.h"
#include "core/turn.h"
#include "core/watchdog.h"

/* How often a turn that may have been made is tried again before it is undone. */
#define TURN_TRIES 10

/* What the shell did not bring along is asked for again. */
static void ask_again(struct generation *g, usec_t now)
{
	if (g->checking) {
		g->checking = false;
		g->quiet_at = now;
	}
	g->watched = g->counted = false;
	drain_resume(g);
	watchdog_restart(g);
	g->probing = false;
	for (unsigned i = 0; i < g->n_workers; i++)
		if ((g->state == GENERATION_STARTING || g->opening) &&
		        g->settings->ready.by == READY_EXEC &&
		        g->workers[i].state == WORKER_RUNNING)
			supervisor_act(g->service->supervisor, ACTION_WATCH_EXEC, g->service, g,
			        &g->workers[i]);
}

/* Nobody knows a process that was just being started. */
static void forget_starting(struct generation *g, usec_t now)
{
	for (unsigned i = 0; i < g->n_workers; i++) {
		struct worker *w = &g->workers[i];

		if (w->state != WORKER_STARTING || w->shell)
			continue; /* else the shell tells that it was started */
		w->state = WORKER_ABSENT;
		w->retry_at = g->state == GENERATION_SERVING || (g->step && w->index < g->open)
		                      ? now
		                      : USEC_INFINITY;
	}
}

/* What was opened is there, what was not is not. */
static void end_preparing(struct generation *g)
{
	if (!g->preparing)
		return;
	g->preparing = false;
	g->prepared = g->shell != NULL;
	if (g->state == GENERATION_FAILED)
		generation_restore_link(g);
}

/* Is there still somebody for whom it was decided? */
static bool find_shell(const struct supervisor *s, struct action *a)
{
	const struct service *sv = supervisor_service(s, a->service);
	const struct generation *g = sv ? service_find(sv, a->generation) : NULL;
	const struct worker *w = g && a->worker < g->n_workers ? &g->workers[a->worker] : NULL;

	if (a->type != ACTION_SIGNAL_WORKER && a->type != ACTION_KILL_WORKER &&
	        a->type != ACTION_TELL_WORKER)
		return g && (a->shell = g->shell);
	if (!w || w->serial != a->serial)
		return false;
	if (a->type == ACTION_TELL_WORKER)
		a->tell.deadline = g->deadline;
	return (a->shell = w->shell) != NULL;
}

/* What the dead one had decided, and perhaps not done any more, comes first. */
static void do_pending(struct supervisor *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->out->n; i++)
		if (!action_is_repeated(&s->out->items[i]) || find_shell(s, &s->out->items[i]))
			s->out->items[n++] = s->out->items[i];
	s->out->n = n;
}

/* New connections may have gone to it again while nobody wrote that down: it is looked at anew. */
static void doubt_quiet(struct generation *g, usec_t now)
{
	if (!generation_is_old(g) || g->told || !generation_has_listeners(g))
		return;
	g->quiet = g->drained = g->uncountable = false;
	g->quiet_tries = 0;
	g->quiet_at = now;
}

/* Perhaps it was made, and who it was for has connections already: so it is not taken back, and
 * whatever has become of him is found as after any turn. */
static void repeat_turn(struct service *sv)
{
	if (sv->turn == TURN_NONE)
		return;
	sv->turn_tries = TURN_TRIES;
	turn_again(sv);
}

static void recover_service(struct service *sv)
{
	struct supervisor *s = sv->supervisor;
	struct generation *g = sv->rolling;
	bool special = g && (g->roll.kind == REQUEST_DEPLOY || g->roll.back), again;

	for (unsigned i = 0; i < sv->n_generations; i++) {
		end_preparing(sv->generations[i]);
		forget_starting(sv->generations[i], s->now);
		doubt_quiet(sv->generations[i], s->now);
	}
	if (!g || g->state != GENERATION_STARTING)
		return;
	g->building = false;
	/* whoever deployed it was told that we are gone, and finds the release of before, unless
	 * that has been sent away already */
	again = !sv->stop_wanted && sv->state != SERVICE_STOPPING &&
	        (!special || sv->turn == TURN_STOP || !service_serving(sv));
	generation_fail(g, CODE_SUPERSEDED, "superseded", "handoffd died while it was starting%s",
	        again ? "; it is started again" : "");
	if (again)
		service_roll(sv, "recovery");
}

/* The sockets of those who waited have died with the old process. */
static void drop_requests(struct supervisor *s)
{
	s->loading = s->load_all; /* nobody may have waited for a reload of all */
	while (s->requests)
		requests_gone(s, s->requests->id);
}

void supervisor_resume(struct supervisor *s, usec_t now, bool crashed, struct action_list *out)
{
	s->now = now;
	s->out = out;
	if (action_list_reserve(out, out->n + s->n_actions) < 0)
		HO_ASSERT(out->size > out->n);
	do_pending(s);
	if (crashed)
		drop_requests(s);
	if (s->loading)
		action_push(out, ACTION_LOAD_CONFIG);
	supervisor_record(
	        s, crashed ? RECORD_DAEMON_RECOVERED : RECORD_DAEMON_UPGRADED, NULL, NULL, NULL);
	/* said again: the manager may have started us anew */
	if (s->state == SUPERVISOR_RUNNING)
		action_push(out, ACTION_TELL_SYSTEMD)->systemd.word = SYSTEMD_READY;
	s->told_reloading = false;
	for (size_t i = 0; i < s->n_slots; i++) {
		struct service *sv = s->services[i];

		if (!sv)
			continue;
		for (unsigned k = 0; k < sv->n_generations; k++)
			ask_again(sv->generations[k], now);
		repeat_turn(sv);
		gate_resume(sv, crashed);
		if (crashed)
			recover_service(sv);
	}
	s->look_for_ends = true;
	for (size_t i = 0; i < s->n_slots; i++)
		if (s->services[i])
			service_settle(s->services[i]);
}
