/* SPDX-License-Identifier: MIT */
/* The story of a reload: roll -> (generation.c: start, ready) -> turn -> retire the old one; and
 * failed -> undo -> answer. */
#include "core/service.h"
#include "core/share.h"
#include "core/supervisor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *service_state_to_string(enum service_state s)
{
	static const char *const names[] = {
	        [SERVICE_STARTING] = "starting",
	        [SERVICE_SERVING] = "serving",
	        [SERVICE_STOPPING] = "stopping",
	        [SERVICE_STOPPED] = "stopped",
	        [SERVICE_FAILED] = "failed",
	};

	return names[s];
}

/* Most actions that one step can ask for a service, and for a worker of a generation. */
#define ACTIONS_OF_SERVICE 32
#define ACTIONS_OF_GENERATION 28
#define ACTIONS_OF_WORKER 8

static long actions_of(const struct generation *g)
{
	return ACTIONS_OF_GENERATION + ACTIONS_OF_WORKER * (long)g->n_workers;
}

struct service *service_new(struct supervisor *s, uint32_t id, const char *name)
{
	struct service *sv = calloc(1, sizeof *sv);

	if (!sv)
		return NULL;
	if (supervisor_reserve(s, ACTIONS_OF_SERVICE, 1) < 0) {
		free(sv);
		return NULL;
	}
	sv->supervisor = s;
	sv->id = id;
	sv->state = SERVICE_STARTING;
	sv->retry_at = USEC_INFINITY;
	gate_init(&sv->gate);
	sv->timer = (struct timer){.at = USEC_INFINITY, .owner = TIMER_OF_SERVICE};
	(void)copy_string(sv->name, sizeof sv->name, name);
	return sv;
}

struct service *service_free(struct service *sv)
{
	struct supervisor *s;

	if (!sv)
		return NULL;
	s = sv->supervisor;
	for (unsigned i = 0; i < sv->n_generations; i++) {
		(void)supervisor_reserve(s, -actions_of(sv->generations[i]), 0);
		generation_free(sv->generations[i]);
	}
	timer_set(&s->timers, &sv->timer, USEC_INFINITY);
	(void)supervisor_reserve(s, -ACTIONS_OF_SERVICE, -1);
	config_unref(sv->wanted);
	free(sv);
	return NULL;
}

struct generation *service_serving(const struct service *sv)
{
	for (unsigned i = sv->n_generations; i-- > 0;)
		if (sv->generations[i]->state == GENERATION_SERVING)
			return sv->generations[i];
	return NULL;
}

struct generation *service_find(const struct service *sv, uint32_t generation)
{
	for (unsigned i = 0; i < sv->n_generations; i++)
		if (sv->generations[i]->id == generation)
			return sv->generations[i];
	return NULL;
}

unsigned service_old(const struct service *sv, uint32_t than)
{
	unsigned n = 0;

	for (unsigned i = 0; i < sv->n_generations; i++)
		n += sv->generations[i]->id < than &&
		     sv->generations[i]->state != GENERATION_FAILED;
	return n;
}

void service_set_state(struct service *sv, enum service_state state)
{
	struct supervisor *s = sv->supervisor;

	if (sv->state == state)
		return;
	sv->state = state;
	switch (state) {
	case SERVICE_STOPPING:
		supervisor_record(s, RECORD_SERVICE_STOPPING, sv, NULL, NULL);
		break;
	case SERVICE_STOPPED:
		supervisor_record(s, RECORD_SERVICE_STOPPED, sv, NULL, NULL);
		break;
	case SERVICE_FAILED:
		supervisor_record(s, RECORD_SERVICE_FAILED, sv, NULL, NULL);
		break;
	case SERVICE_STARTING:
	case SERVICE_SERVING:
		break;
	}
	targets_check(sv);
}

void service_want(struct service *sv, struct config *config, const struct service_config *settings)
{
	struct config *before = sv->wanted;

	if (settings->watch.count || (before && sv->wanted_settings->watch.count))
		supervisor_act(sv->supervisor, ACTION_WATCH_FILES, sv, NULL, NULL);
	sv->wanted = config_ref(config);
	sv->wanted_settings = settings;
	config_unref(before);
}

void service_roll(struct service *sv, const char *cause)
{
	sv->waiting = true;
	sv->waiting_cause = cause;
}

void service_result(struct service *sv, uint32_t generation, enum outcome_code code,
        const char *outcome, const char *text)
{
	struct result *r = &sv->last_result;

	*r = (struct result){
	        .request = sv->attempted ? REQUEST_RELOAD : REQUEST_START,
	        .generation = generation,
	        .code = code,
	        .outcome = outcome,
	        .cut = sv->cut,
	};
	(void)copy_string(r->service, sizeof r->service, sv->name);
	(void)copy_string(r->text, sizeof r->text, text ? text : "");
	sv->has_result = true;
	if (code != CODE_DONE)
		targets_failed(sv, generation, code, outcome, text);
	if (!service_serving(sv) && code != CODE_DONE && !sv->stop_wanted &&
	        sv->state != SERVICE_STOPPING) {
		if (sv->supervisor->development) { /* only a change can make it better */
			service_set_state(sv, SERVICE_FAILED);
		} else if (sv->wanted_settings->restart == RESTART_ALWAYS) {
			sv->retry_at = usec_add(sv->supervisor->now, worker_backoff(sv->failures));
			sv->failures++;
		} else {
			sv->finished = true;
			service_set_state(sv, SERVICE_FAILED);
		}
	}
	sv->attempted = true;
}

/* ---- roll ---- */

static bool start_roll(struct service *sv)
{
	struct supervisor *s = sv->supervisor;
	struct generation *g;

	g = generation_new(sv, sv->last_generation + 1, sv->wanted, sv->wanted_settings, s->now);
	if (!g || supervisor_reserve(s, actions_of(g), 0) < 0) {
		generation_free(g);
		sv->waiting = false;
		targets_started(sv, 0);
		service_result(sv, 0, service_serving(sv) ? CODE_GENERATION_FAILED : CODE_FAILED,
		        "failed", "not enough memory for a new generation");
		return true;
	}
	sv->last_generation++;
	sv->generations[sv->n_generations++] = g;
	sv->rolling = g;
	sv->waiting = false;
	sv->finished = false;
	sv->retry_at = USEC_INFINITY;
	sv->cut = 0;
	if (sv->state == SERVICE_STOPPED || sv->state == SERVICE_FAILED)
		service_set_state(sv, SERVICE_STARTING);
	g->preparing = true;
	supervisor_act(s, ACTION_PREPARE, sv, g, NULL);
	supervisor_record(s, RECORD_GENERATION_STARTING, sv, g, NULL)->text = sv->waiting_cause;
	targets_started(sv, g->id);
	return true;
}

/* ---- turn ---- */

void service_begin_turn(struct service *sv, enum turn_kind kind, struct generation *to)
{
	sv->turn = kind;
	sv->turn_to = to;
	share_give(sv, to);
	supervisor_act(sv->supervisor, ACTION_STEER, sv, to, NULL);
}

bool service_turn_back(struct service *sv, struct generation *from)
{
	for (unsigned i = sv->n_generations; i-- > 0;) {
		struct generation *g = sv->generations[i];

		if (g->id < from->id && g->state == GENERATION_WARM && generation_whole(g)) {
			service_begin_turn(sv, TURN_BACK, g);
			return true;
		}
	}
	return false;
}

/* Old ones beyond what may drain at once: the oldest is stopped first. */
static void limit_old(struct service *sv)
{
	unsigned max = sv->wanted_settings->rollout.max_old, n = 0;

	for (unsigned i = sv->n_generations; i-- > 0;) {
		struct generation *g = sv->generations[i];

		if ((g->state == GENERATION_WARM || g->state == GENERATION_DRAINING) && ++n > max)
			generation_hasten(g);
	}
}

/* How long the previous generation is kept whole, so that a rollback is one turn. Where generations
 * share a socket the old one would go on taking new connections. */
static usec_t hold_until(
        const struct service *sv, const struct generation *old, const struct generation *g)
{
	const struct rollout_config *r = &g->settings->rollout;
	usec_t hold = r->bake > r->keep_warm ? r->bake : r->keep_warm;

	if (old->shared || g->shared || !generation_has_listeners(old) || old->rolled_back)
		return 0;
	return usec_add(sv->supervisor->now, hold);
}

static void turned_to_new(struct service *sv, struct generation *g)
{
	struct supervisor *s = sv->supervisor;
	struct record *r;

	for (unsigned i = 0; i < sv->n_generations; i++)
		if (sv->generations[i]->state == GENERATION_WARM)
			sv->generations[i]->hold_until = s->now;
	for (unsigned i = 0; i < sv->n_generations; i++) {
		struct generation *o = sv->generations[i];

		if (o->state == GENERATION_SERVING)
			generation_retire(o, hold_until(sv, o, g));
	}
	generation_set_state(g, GENERATION_SERVING);
	g->holds = false;
	gate_return_held(sv);
	g->baking = true;
	g->bake_until = usec_add(s->now, g->settings->rollout.bake);
	sv->rolling = NULL;
	sv->failures = 0;
	r = supervisor_record(s, RECORD_GENERATION_SERVING, sv, g, NULL);
	r->duration = s->now - g->created;
	if (g->settings->rollout.bake)
		r->text = action_text(s->out,
		        "watched for %.3g s, the death of a worker turns it back",
		        (double)g->settings->rollout.bake / USEC_PER_SEC);
	service_set_state(sv, SERVICE_SERVING);
	service_result(sv, g->id, CODE_DONE, "serving", "");
	targets_serving(sv, g->id, g->settings->rollout.bake == 0);
	limit_old(sv);
}

static void turned_back(struct service *sv, struct generation *g)
{
	struct supervisor *s = sv->supervisor;
	struct generation *bad = service_serving(sv);
	struct record *r;

	HO_ASSERT(bad && bad != g);
	bad->rolled_back = true;
	if (sv->rolling && !sv->rolling->begun) /* connections were taken from it; again */
		sv->rolling->holds = sv->rolling->hold_tried = false;
	generation_retire(bad, 0);
	generation_set_state(g, GENERATION_SERVING);
	r = supervisor_record(s, RECORD_ROLLED_BACK, sv, bad, NULL);
	r->text = action_text(s->out, "back to generation %u: %s", g->id, bad->reason);
	service_result(sv, bad->id, CODE_GENERATION_FAILED, "rolled-back", bad->reason);
}

void service_retire_all(struct service *sv)
{
	for (unsigned i = 0; i < sv->n_generations; i++) {
		struct generation *g = sv->generations[i];

		if (g->state == GENERATION_SERVING)
			generation_retire(g, 0);
		else if (g->state == GENERATION_WARM)
			g->hold_until = sv->supervisor->now;
	}
}

void service_steered(struct service *sv, bool ok, const char *why)
{
	struct supervisor *s = sv->supervisor;
	enum turn_kind turn = sv->turn;
	struct generation *to = sv->turn_to;

	if (turn == TURN_NONE) {
		supervisor_record(s, RECORD_ANOMALY, sv, NULL, NULL)->text =
		        "a turn was answered that nobody asked for";
		return;
	}
	sv->turn = TURN_NONE;
	sv->turn_to = NULL;
	if (!ok && turn != TURN_STOP && turn != TURN_RETURN)
		share_undo(sv);
	if (!ok)
		supervisor_record(s, RECORD_STEER_FAILED, sv, to, NULL)->text =
		        action_text(s->out, "%s", why ? why : "");
	switch (turn) {
	case TURN_FLIP:
		if (ok)
			turned_to_new(sv, to);
		else
			generation_fail(to,
			        service_serving(sv) ? CODE_GENERATION_FAILED : CODE_FAILED,
			        "failed", "connections could not be turned to it: %s",
			        why ? why : "");
		break;
	case TURN_BACK:
		if (ok)
			turned_back(sv, to);
		break;
	case TURN_STOP: /* if it failed the workers leave all the same */
		service_retire_all(sv);
		break;
	case TURN_HOLD:
		gate_held(sv, to, ok);
		break;
	case TURN_RETURN:
		gate_return_held(sv);
		break;
	case TURN_NONE:
		break;
	}
}

/* ---- stop ---- */

void service_stop(struct service *sv)
{
	sv->stop_wanted = true;
}

void service_stay_stopped(struct service *sv)
{
	if (!sv->start_again)
		return;
	sv->start_again = false;
	targets_supersede(sv, "the service was stopped");
}

static bool begin_stop(struct service *sv)
{
	sv->stop_wanted = false;
	sv->waiting = false;
	sv->retry_at = USEC_INFINITY;
	if (sv->state == SERVICE_STOPPED || (sv->state == SERVICE_FAILED && !sv->n_generations)) {
		service_set_state(sv, SERVICE_STOPPED);
		targets_check(sv);
		return true;
	}
	sv->cut = 0;
	service_set_state(sv, SERVICE_STOPPING);
	targets_supersede(sv, "the service was stopped");
	if (sv->rolling)
		generation_fail(
		        sv->rolling, CODE_SUPERSEDED, "superseded", "the service was stopped");
	sv->held = NULL;
	gate_drop(&sv->gate);
	if (service_serving(sv) || share_total(sv))
		service_begin_turn(sv, TURN_STOP, NULL);
	else
		service_retire_all(sv);
	return true;
}

static bool finish_stop(struct service *sv)
{
	if (sv->finished && sv->has_result && sv->last_result.code != CODE_DONE)
		service_set_state(sv, SERVICE_FAILED);
	else
		service_set_state(sv, SERVICE_STOPPED);
	sv->attempted = true;
	if (sv->start_again && !sv->remove) {
		sv->start_again = false;
		service_roll(sv, "restart");
	}
	return true;
}

/* Its program has ended by itself in every worker, and is not to be started again. */
static bool has_finished(const struct service *sv)
{
	const struct generation *g = service_serving(sv);

	if (!g || sv->rolling || sv->waiting || g->settings->restart != RESTART_NEVER)
		return false;
	return !generation_has_processes(g);
}

/* ---- settle ---- */

static bool drop_gone(struct service *sv)
{
	unsigned n = 0;

	for (unsigned i = 0; i < sv->n_generations; i++) {
		struct generation *g = sv->generations[i];

		if (g->state != GENERATION_GONE) {
			sv->generations[n++] = g;
			continue;
		}
		(void)supervisor_reserve(sv->supervisor, -actions_of(g), 0);
		generation_free(g);
	}
	if (n == sv->n_generations)
		return false;
	sv->n_generations = n;
	targets_check(sv);
	return true;
}

static bool advance(struct service *sv)
{
	struct supervisor *s = sv->supervisor;

	if (sv->stop_wanted)
		return begin_stop(sv);
	if (sv->state == SERVICE_STOPPING)
		return !sv->n_generations && finish_stop(sv);
	if (sv->rolling && sv->rolling->state == GENERATION_READY) {
		service_begin_turn(sv, TURN_FLIP, sv->rolling);
		return true;
	}
	if (gate_advance(sv))
		return true;
	if (has_finished(sv)) {
		struct generation *g = service_serving(sv);

		sv->finished = true;
		if (g->ended_badly)
			service_result(sv, g->id, CODE_FAILED, "failed", g->reason);
		sv->stop_wanted = true;
		return true;
	}
	if (sv->rolling || sv->n_generations == GENERATIONS_MAX)
		return false;
	if (sv->waiting)
		return start_roll(sv);
	if (s->now >= sv->retry_at && !service_serving(sv)) {
		sv->waiting_cause = "retry";
		return start_roll(sv);
	}
	return false;
}

static void set_timer(struct service *sv)
{
	usec_t at = sv->rolling || service_serving(sv) || sv->n_generations == GENERATIONS_MAX
	                    ? USEC_INFINITY
	                    : sv->retry_at;

	if (gate_next_deadline(sv) < at)
		at = gate_next_deadline(sv);
	for (unsigned i = 0; i < sv->n_generations; i++) {
		usec_t next = generation_next_deadline(sv->generations[i]);

		if (next < at)
			at = next;
	}
	timer_set(&sv->supervisor->timers, &sv->timer, sv->turn == TURN_NONE ? at : USEC_INFINITY);
}

void service_settle(struct service *sv)
{
	struct supervisor *s = sv->supervisor;
	bool changed = true, rolling;

	for (unsigned rounds = 0; changed && sv->turn == TURN_NONE; rounds++) {
		HO_ASSERT(rounds < 10000);
		changed = false;
		for (unsigned i = 0; i < sv->n_generations && sv->turn == TURN_NONE; i++)
			changed |= generation_advance(sv->generations[i]);
		if (sv->turn != TURN_NONE)
			break;
		changed |= drop_gone(sv);
		changed |= advance(sv);
	}
	set_timer(sv);
	rolling = sv->rolling || sv->waiting;
	if (rolling != sv->counted_rolling)
		s->rolling += rolling ? 1 : -1u;
	sv->counted_rolling = rolling;
	if (sv->finished || sv->remove)
		s->look_for_ends = true;
}
