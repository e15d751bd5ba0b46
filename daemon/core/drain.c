/* SPDX-License-Identifier: MIT */
/* A retired generation goes through these, always in this order:
 *
 *   quiet    nothing can reach it any more: queue empty, no handshake of before the turn left
 *   drained  it has no connection (or none that is not idle for long)
 *   told     its workers were sent drain.signal
 *   gone     it has no process; only then its listeners are closed
 *
 * `idle` tells it when drained, `signal` when quiet, and so does the message of libhandoff; the
 * deadline tells it by signal whatever is left, and `kill-after` later it is killed. */
#include "core/drain.h"
#include "core/service.h"
#include "core/supervisor.h"
#include "core/taken.h"
#include "core/watchdog.h"

/* A lookup that began before the turn may still pick the old listener: seen to be over within 2 ms.
 */
#define QUIET_FIRST_USEC (2 * USEC_PER_MSEC)
#define QUIET_LAST_USEC (50 * USEC_PER_MSEC)
/* How often a dead generation's worker is started again to serve what waits in its queue. */
#define RESCUES_MAX 3

/* What was found of a WARM one, quiet or not, holds on. */
static void begin_draining(struct generation *g)
{
	struct supervisor *s = g->service->supervisor;

	generation_set_state(g, GENERATION_DRAINING);
	g->hold_until = USEC_INFINITY;
	g->deadline = usec_add(s->now, g->settings->drain.deadline);
	g->kill_at = usec_add(g->deadline, g->settings->drain.kill_after);
	supervisor_record(s, RECORD_GENERATION_DRAINING, g->service, g, NULL)->text =
	        g->service->state == SERVICE_STOPPING ? "the service stops"
	        : g->rolled_back                      ? "rolled back"
	                                              : "another one takes its place";
}

/* `why` is static. */
static void begin_stopping(struct generation *g, const char *why)
{
	struct supervisor *s = g->service->supervisor;
	usec_t draining = s->now - g->since;
	struct record *r;

	generation_set_state(g, GENERATION_STOPPING);
	r = supervisor_record(s, RECORD_GENERATION_STOPPING, g->service, g, NULL);
	r->text = why;
	r->duration = draining;
}

void generation_retire(struct generation *g, usec_t hold_until)
{
	struct supervisor *s = g->service->supervisor;

	g->share = 0;
	g->quiet = g->drained = g->checking = false;
	g->quiet_tries = 0;
	g->quiet_at = usec_add(s->now, QUIET_FIRST_USEC);
	if (!generation_has_listeners(g))
		g->quiet = true;
	if (hold_until > s->now && generation_whole(g)) {
		g->hold_until = hold_until;
		generation_set_state(g, GENERATION_WARM);
		supervisor_record(s, RECORD_GENERATION_WARM, g->service, g, NULL)->text =
		        action_text(s->out, "kept whole for %.3g s",
		                (double)usec_sub(hold_until, s->now) / USEC_PER_SEC);
		return;
	}
	begin_draining(g);
}

void generation_hasten(struct generation *g, const char *why)
{
	struct supervisor *s = g->service->supervisor;

	if (g->state == GENERATION_WARM)
		begin_draining(g);
	if (g->state == GENERATION_DRAINING && g->deadline > s->now) {
		if (why)
			supervisor_record(s, RECORD_GENERATION_HASTENED, g->service, g, NULL)
			        ->text = why;
		g->deadline = s->now;
		g->kill_at = usec_add(s->now, g->settings->drain.kill_after);
	}
}

bool drain_when_quiet(const struct generation *g)
{
	return g->shared || g->settings->drain.by == DRAIN_SIGNAL || generation_by_message(g);
}

const char *drain_by(const struct generation *g)
{
	return generation_by_message(g) ? "message" : drain_when_quiet(g) ? "signal" : "idle";
}

void drain_release(struct generation *g)
{
	bool leave = taken_is_foreign(g);
	struct service *sv = g->service;
	struct supervisor *s = sv->supervisor;
	struct record *r;

	generation_set_state(g, GENERATION_GONE);
	if (g->prepared)
		supervisor_act(s, ACTION_RELEASE, sv, g, NULL)->leave = leave;
	g->prepared = false;
	r = supervisor_record(s, RECORD_GENERATION_GONE, sv, g, NULL);
	r->connections = g->cut;
	r->has_connections = g->cut > 0;
	r->duration = s->now - g->created;
}

/* All its processes are gone by themselves while something may still wait in its queue. */
static bool rescue(struct generation *g)
{
	if (g->quiet || g->migrates || g->told || !g->prepared || g->rescues >= RESCUES_MAX ||
	        g->taken || g->settings->restart == RESTART_NEVER)
		return false;
	g->rescues++;
	supervisor_record(
	        g->service->supervisor, RECORD_WORKER_RESTARTING, g->service, g, &g->workers[0]);
	generation_start_worker(g, &g->workers[0]);
	return true;
}

static void overdue(struct generation *g)
{
	struct supervisor *s = g->service->supervisor;
	struct record *r;

	g->overdue = true;
	g->cut = g->counted ? g->in_flight - g->idle : 0;
	g->service->cut += g->cut;
	if (g->cut) {
		supervisor_act(s, ACTION_NAME_CUT, g->service, g, NULL);
		r = supervisor_record(s, RECORD_CONNECTIONS_CUT, g->service, g, NULL);
		r->connections = g->cut;
		r->has_connections = true;
		r->text = action_text(s->out, "the deadline has passed with %llu connection%s left",
		        (unsigned long long)g->cut, g->cut == 1 ? "" : "s");
	}
	if (!g->told || g->by_message)
		generation_tell(g);
	begin_stopping(g, "the deadline has passed");
}

/* What a main process left behind when it was told, and need not stay any more. */
static void end_rest(struct generation *g)
{
	for (unsigned i = 0; i < g->n_workers; i++)
		if (g->workers[i].state == WORKER_REST && !g->taken)
			generation_signal_worker(g, &g->workers[i]);
}

static void drained(struct generation *g)
{
	struct supervisor *s = g->service->supervisor;
	struct record *r = supervisor_record(s, RECORD_GENERATION_DRAINED, g->service, g, NULL);

	g->drained = true;
	r->duration = s->now - g->since;
	r->connections = g->in_flight;
	r->has_connections = true;
	if (g->told) { /* already, and leaves by itself */
		end_rest(g);
		return;
	}
	generation_tell(g);
	begin_stopping(g, "drained");
}

/* Between the last count and the signal a connection could still be accepted by a program that
 * knows nothing of us, or an idle one could get a request: so its processes are stopped, it is
 * counted once more, and the signal is sent before they go on. Not a server that somebody else has
 * started: he could take the stop for news. */
static bool is_looked_at(const struct generation *g)
{
	return (g->adopted || g->settings->drain.idle_after != USEC_INFINITY) && !g->taken;
}

static bool wants_last_look(const struct generation *g)
{
	return is_looked_at(g) && g->watched && !g->told && !g->looked;
}

void generation_thaw(struct generation *g)
{
	if (g->frozen) {
		supervisor_act(g->service->supervisor, ACTION_THAW, g->service, g, NULL);
		watchdog_restart(g);
	}
	g->frozen = g->looked = false;
}

static bool last_look(struct generation *g)
{
	if (g->frozen)
		return false;
	supervisor_act(g->service->supervisor, ACTION_FREEZE, g->service, g, NULL);
	g->frozen = true;
	return true;
}

static bool draining_advance(struct generation *g)
{
	struct supervisor *s = g->service->supervisor;

	if (g->quiet && !g->told && drain_when_quiet(g)) {
		generation_tell(g);
		generation_thaw(g);
		return true;
	}
	if (g->quiet && !g->drained &&
	        ((g->counted && g->in_flight == g->idle) || !generation_has_listeners(g))) {
		if (!wants_last_look(g)) {
			drained(g);
			return true;
		}
		if (last_look(g))
			return true;
	}
	if (s->now >= g->deadline) {
		overdue(g);
		return true;
	}
	return false;
}

static bool find_quiet(struct generation *g)
{
	struct supervisor *s = g->service->supervisor;

	if (!g->quiet && !g->checking && s->now >= g->quiet_at) {
		supervisor_act(s, ACTION_CHECK_QUIET, g->service, g, NULL);
		g->checking = true;
		g->quiet_at = USEC_INFINITY;
		return true;
	}
	if (g->quiet && !g->watched && !g->uncountable && !g->drained &&
	        generation_has_listeners(g)) {
		supervisor_act(s, ACTION_WATCH_DRAIN, g->service, g, NULL);
		g->watched = true;
		return true;
	}
	return false;
}

bool drain_advance(struct generation *g)
{
	struct supervisor *s = g->service->supervisor;

	if (!g->preparing && !g->building && g->service->held != g &&
	        !generation_has_processes(g)) {
		if (g->state == GENERATION_WARM) {
			begin_draining(g);
			return true;
		}
		if (g->state == GENERATION_DRAINING && rescue(g))
			return true;
		drain_release(g);
		return true;
	}
	if (s->now >= g->kill_at) {
		generation_kill(g);
		return true;
	}
	if (g->state == GENERATION_FAILED || g->state == GENERATION_STOPPING)
		return false;
	if (find_quiet(g))
		return true;
	if (g->state == GENERATION_WARM) {
		if (s->now < g->hold_until)
			return false;
		begin_draining(g);
		return true;
	}
	return draining_advance(g);
}

usec_t drain_next_deadline(const struct generation *g)
{
	usec_t at = g->kill_at;

	if (g->state == GENERATION_FAILED || g->state == GENERATION_STOPPING)
		return at;
	if (!g->quiet && !g->checking && g->quiet_at < at)
		at = g->quiet_at;
	if (g->state == GENERATION_WARM && g->hold_until < at)
		at = g->hold_until;
	if (g->state == GENERATION_DRAINING && g->deadline < at)
		at = g->deadline;
	return at;
}

void drain_quiet_checked(struct generation *g, bool quiet)
{
	struct supervisor *s = g->service->supervisor;
	usec_t wait = QUIET_LAST_USEC;

	if (!g->checking)
		return; /* of before a rollback */
	g->checking = false;
	if (quiet) {
		g->quiet = true;
		supervisor_record(s, RECORD_GENERATION_QUIET, g->service, g, NULL)->duration =
		        s->now - g->since;
		return;
	}
	if (g->quiet_tries < 5 && QUIET_FIRST_USEC << g->quiet_tries < wait)
		wait = QUIET_FIRST_USEC << g->quiet_tries;
	g->quiet_tries++;
	g->quiet_at = usec_add(s->now, wait);
}

void drain_counted(struct generation *g, uint64_t total, uint64_t idle, usec_t oldest)
{
	if (!g->watched)
		return;
	g->counted = true;
	g->in_flight = total;
	g->idle = idle < total ? idle : total;
	g->oldest = oldest;
}

void drain_resume(struct generation *g)
{
	g->frozen = generation_is_old(g) && is_looked_at(g);
	generation_thaw(g);
}

void drain_looked(struct generation *g, bool unknown, uint64_t total, uint64_t idle, usec_t oldest)
{
	if (!g->frozen)
		return; /* it was thawed for another reason */
	if (!unknown)
		drain_counted(g, total, idle, oldest);
	g->looked = g->in_flight == g->idle; /* or nothing else is known */
	if (!g->looked)
		generation_thaw(g);
}

void drain_uncountable(struct generation *g, const char *why)
{
	struct supervisor *s = g->service->supervisor;

	g->uncountable = true;
	g->watched = g->counted = false;
	supervisor_record(s, RECORD_ANOMALY, g->service, g, NULL)->text = action_text(s->out,
	        "connections cannot be counted, the generation is stopped at its deadline: %s",
	        why ? why : "");
}
