/* SPDX-License-Identifier: MIT */
/* The story of a reload: roll -> (generation.c: start, ready) -> turn -> retire the old one; and
 * failed -> undo -> answer. */
#include "core/service.h"
#include "core/share.h"
#include "core/scale.h"
#include "core/supervisor.h"
#include "core/taken.h"
#include "core/turn.h"
#include "core/watchdog.h"

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
	gate_init(&sv->gate);
	sv->retry_at = sv->measure_at = sv->turn_at = USEC_INFINITY;
	sv->timer = (struct timer){.at = USEC_INFINITY, .owner = TIMER_OF_SERVICE};
	(void)copy_string(sv->name, sizeof sv->name, name);
	service_note_change(sv);
	return sv;
}

void service_note_change(struct service *sv)
{
	if (sv->changed)
		return;
	sv->changed = true;
	sv->next_changed = sv->supervisor->changed;
	sv->supervisor->changed = sv;
}

static void unlink_changed(struct service *sv)
{
	struct service **at = &sv->supervisor->changed;

	if (!sv->changed)
		return;
	while (*at != sv)
		at = &(*at)->next_changed;
	*at = sv->next_changed;
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
	unlink_changed(sv);
	timer_set(&s->timers, &sv->timer, USEC_INFINITY);
	(void)supervisor_reserve(s, -ACTIONS_OF_SERVICE, -1);
	config_unref(sv->wanted);
	roll_done(&sv->waiting_roll);
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

struct generation *service_heir(const struct service *sv, const struct generation *g)
{
	if (g->state != GENERATION_DRAINING && g->state != GENERATION_STOPPING)
		return NULL;
	return service_serving(sv);
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
	sv->waiting_roll.cause = cause;
}

bool service_roll_as(struct service *sv, enum request_kind kind, const struct roll_options *o)
{
	struct roll *r = &sv->waiting_roll;
	char *release = o->release ? strdup(o->release) : NULL;

	if (o->release && !release)
		return false;
	if (release) {
		free(r->release);
		r->release = release;
		r->options.confined = o->confined;
		r->kind = kind;
		r->cause = request_kind_to_string(kind);
	}
	if (o->has_canary) {
		r->options.has_canary = true;
		r->options.canary = o->canary;
	}
	if (o->has_hold) {
		r->options.has_hold = true;
		r->options.hold = o->hold;
	}
	if (o->has_keep_warm) {
		r->options.has_keep_warm = true;
		r->options.keep_warm = o->keep_warm;
	}
	r->back = false;
	return true;
}

void service_forget_waiting(struct service *sv, const char *why)
{
	sv->waiting = false;
	roll_done(&sv->waiting_roll);
	targets_forget_pending(sv, why);
}

void service_result(struct service *sv, enum request_kind kind, uint32_t generation,
        enum outcome_code code, const char *outcome, const char *text)
{
	struct result *r = &sv->last_result;

	*r = (struct result){
	        .request = kind,
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
		if (sv->supervisor->development &&
		        !sv->finished) { /* only a change can make it better */
			service_set_state(sv, SERVICE_FAILED);
		} else if (sv->wanted_settings->restart == RESTART_ALWAYS && !sv->finished) {
			sv->retry_at = usec_add(sv->supervisor->now, worker_backoff(sv->failures));
			sv->failures++;
		} else {
			sv->finished = true;
			service_set_state(sv, SERVICE_FAILED);
		}
	}
	sv->attempted = true;
}

int service_append(struct service *sv, struct generation *g)
{
	if (sv->n_generations == GENERATIONS_MAX ||
	        supervisor_reserve(sv->supervisor, actions_of(g), 0) < 0)
		return -12; /* ENOMEM */
	sv->generations[sv->n_generations++] = g;
	return 0;
}

/* ---- roll ---- */

/* NULL when memory is short. */
static struct generation *new_generation(struct service *sv)
{
	struct supervisor *s = sv->supervisor;
	const struct generation *serving = service_serving(sv);
	struct lineage *back = sv->waiting_roll.back && serving ? serving->lineage : NULL;
	const struct service_config *settings = back ? back->settings : sv->wanted_settings;
	bool scaled = sv->scaled && sv->scaled_from == settings->workers;
	struct generation *g;

	g = generation_new(sv, sv->last_generation + 1, back ? back->config : sv->wanted, settings,
	        scaled ? sv->scaled : settings->workers, s->now);
	if (!g || !generation_set_roll(g, &sv->waiting_roll, back) || service_append(sv, g) < 0)
		return generation_free(g);
	if (serving)
		step_plan(g, serving);
	if (g->roll.kind == REQUEST_RELOAD && !sv->attempted)
		g->roll.kind = REQUEST_START;
	return g;
}

static void ask_prepare(struct service *sv, struct generation *g)
{
	struct action *a = supervisor_act(sv->supervisor, ACTION_PREPARE, sv, g, NULL);

	a->prepare.release = g->roll.release;
	a->prepare.link = g->linked = g->roll.kind == REQUEST_DEPLOY;
	a->prepare.confined = g->roll.options.confined;
	g->preparing = true;
}

static bool start_roll(struct service *sv)
{
	struct supervisor *s = sv->supervisor;
	const struct generation *serving = service_serving(sv);
	bool lost = sv->waiting_roll.back && (!serving || !serving->lineage);
	struct generation *g = lost ? NULL : new_generation(sv);

	if (!g) {
		enum request_kind kind = sv->waiting_roll.kind;

		sv->waiting = false;
		roll_done(&sv->waiting_roll);
		targets_started(sv, 0);
		service_result(sv, kind, 0, serving ? CODE_GENERATION_FAILED : CODE_FAILED,
		        "failed",
		        lost ? "there is no earlier generation to go back to"
		             : "not enough memory for a new generation");
		return true;
	}
	sv->last_generation++;
	sv->rolling = g;
	sv->waiting = false;
	sv->finished = false;
	sv->retry_at = USEC_INFINITY;
	sv->cut = 0;
	if (sv->state == SERVICE_STOPPED || sv->state == SERVICE_FAILED)
		service_set_state(sv, SERVICE_STARTING);
	ask_prepare(sv, g);
	supervisor_record(s, RECORD_GENERATION_STARTING, sv, g, NULL)->text = g->roll.cause;
	targets_started(sv, g->id);
	return true;
}

/* What ran before us comes first; a roll-out waits already. */
static bool start_taken(struct service *sv)
{
	struct supervisor *s = sv->supervisor;
	struct generation *g =
	        generation_new(sv, 0, sv->wanted, sv->wanted_settings, sv->taking, s->now);

	sv->taking = 0;
	if (!g || service_append(sv, g) < 0) {
		generation_free(g);
		taken_give_up(sv, "not enough memory to take the server over");
		return true;
	}
	g->taken = g->preparing = true;
	sv->rolling = g;
	supervisor_act(s, ACTION_PREPARE, sv, g, NULL);
	supervisor_record(s, RECORD_GENERATION_STARTING, sv, g, NULL)->text = "take-over";
	return true;
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
	struct generation *serving;

	sv->stop_wanted = sv->abort_wanted = sv->back_wanted = false;
	sv->part_wanted = 0;
	sv->waiting = false;
	roll_done(&sv->waiting_roll);
	sv->retry_at = USEC_INFINITY;
	if (sv->state == SERVICE_STOPPED || (sv->state == SERVICE_FAILED && !sv->n_generations)) {
		service_set_state(sv, SERVICE_STOPPED);
		targets_check(sv);
		return true;
	}
	sv->cut = 0;
	service_set_state(sv, SERVICE_STOPPING);
	targets_supersede(sv, "the service was stopped");
	if (sv->rolling && sv->rolling->state != GENERATION_CANARY)
		generation_fail(
		        sv->rolling, CODE_SUPERSEDED, "superseded", "the service was stopped");
	if (sv->rolling)
		generation_restore_link(sv->rolling);
	sv->rolling = NULL;
	sv->held = NULL;
	gate_drop(&sv->gate);
	serving = service_serving(sv);
	if (serving || share_total(sv))
		turn_begin(sv, TURN_STOP, serving && serving->taken ? serving : NULL, 0);
	else
		turn_retire_all(sv);
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
		sv->waiting_roll.kind = REQUEST_RESTART;
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

/* A canary for which nobody has set an end; it makes room for what comes. */
static bool is_held(const struct generation *g)
{
	return g && g->state == GENERATION_CANARY && !g->step && g->hold == USEC_INFINITY &&
	       g->abort_at == USEC_INFINITY;
}

static bool advance(struct service *sv)
{
	struct supervisor *s = sv->supervisor;

	if (sv->stop_wanted)
		return begin_stop(sv);
	if (taken_leave(sv))
		return true;
	if (sv->state == SERVICE_STOPPING)
		return !sv->n_generations && finish_stop(sv);
	if (sv->abort_wanted || sv->back_wanted || sv->part_wanted) {
		turn_wanted(sv);
		return true;
	}
	if (sv->rolling && sv->rolling->state == GENERATION_READY) {
		turn_to_ready(sv);
		return true;
	}
	if (sv->waiting && is_held(sv->rolling)) {
		turn_abort(sv->rolling, CODE_SUPERSEDED, "superseded",
		        "a later roll-out was asked for while it was held");
		return true;
	}
	if (gate_advance(sv))
		return true;
	if (has_finished(sv)) {
		struct generation *g = service_serving(sv);

		sv->finished = true;
		if (g->ended_badly)
			service_result(sv, g->roll.kind, g->id, CODE_FAILED, "failed", g->reason);
		sv->stop_wanted = true;
		return true;
	}
	if (sv->rolling || sv->n_generations == GENERATIONS_MAX)
		return false;
	if (sv->taking)
		return start_taken(sv);
	if (sv->waiting)
		return start_roll(sv);
	if (s->now >= sv->retry_at && !service_serving(sv)) {
		sv->waiting_roll.cause = "retry";
		return start_roll(sv);
	}
	return false;
}

/* The memory of old generations is looked at only where there is a limit, and something old. */
#define MEASURE_EVERY_USEC (5 * USEC_PER_SEC)

static bool is_kept(const struct generation *g)
{
	return g->state == GENERATION_WARM || g->state == GENERATION_DRAINING;
}

static void measure(struct service *sv)
{
	struct supervisor *s = sv->supervisor;
	bool any = false;

	for (unsigned i = 0; i < sv->n_generations; i++)
		any |= is_kept(sv->generations[i]);
	if (!any || !sv->wanted_settings->rollout.max_old_memory) {
		sv->measure_at = USEC_INFINITY;
		return;
	}
	if (sv->measure_at != USEC_INFINITY && s->now < sv->measure_at)
		return;
	sv->measure_at = usec_add(s->now, MEASURE_EVERY_USEC);
	for (unsigned i = 0; i < sv->n_generations; i++)
		if (is_kept(sv->generations[i]))
			supervisor_act(s, ACTION_MEASURE, sv, sv->generations[i], NULL);
}

void service_measured(struct service *sv)
{
	uint64_t limit = sv->wanted_settings->rollout.max_old_memory, sum = 0;

	for (unsigned i = sv->n_generations; i-- > 0;) {
		struct generation *g = sv->generations[i];

		if (!is_kept(g) || g->deadline <= sv->supervisor->now)
			continue;
		sum += g->memory;
		if (limit && sum > limit)
			generation_hasten(g, action_text(sv->supervisor->out,
			                             "old generations have %llu MiB, "
			                             "rollout.max-old-memory allows %llu",
			                             (unsigned long long)(sum >> 20),
			                             (unsigned long long)(limit >> 20)));
	}
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
		next = watchdog_next_deadline(sv->generations[i]);
		if (next < at)
			at = next;
	}
	at = sv->measure_at < at ? sv->measure_at : at;
	timer_set(&sv->supervisor->timers, &sv->timer, sv->turn == TURN_NONE ? at : sv->turn_at);
}

void service_settle(struct service *sv)
{
	struct supervisor *s = sv->supervisor;
	bool changed = true, rolling;

	service_note_change(sv);
	if (sv->turn != TURN_NONE && s->now >= sv->turn_at)
		turn_again(sv);
	for (unsigned rounds = 0; changed && sv->turn == TURN_NONE; rounds++) {
		HO_ASSERT(rounds < 10000);
		changed = false;
		for (unsigned i = 0; i < sv->n_generations && sv->turn == TURN_NONE; i++) {
			changed |= generation_advance(sv->generations[i]);
			changed |= watchdog_advance(sv->generations[i]);
		}
		if (sv->turn != TURN_NONE)
			break;
		changed |= drop_gone(sv);
		changed |= advance(sv);
	}
	if (sv->turn == TURN_NONE)
		measure(sv);
	set_timer(sv);
	if (sv->targets && sv->turn == TURN_NONE)
		targets_check(sv);
	rolling = (sv->rolling && sv->rolling->state != GENERATION_CANARY) || sv->waiting;
	if (rolling != sv->counted_rolling)
		s->rolling += rolling ? 1 : -1u;
	sv->counted_rolling = rolling;
	if (sv->finished || sv->remove)
		s->look_for_ends = true;
}
