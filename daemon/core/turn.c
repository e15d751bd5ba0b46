/* SPDX-License-Identifier: MIT */
#include "core/turn.h"
#include "core/gate.h"
#include "core/scale.h"
#include "core/share.h"
#include "core/supervisor.h"
#include "core/taken.h"

#include <stdlib.h>
#include <string.h>

/* A turn that the kernel refused is tried again after this. */
#define TURN_AGAIN_USEC USEC_PER_SEC

static double percent(unsigned share)
{
	return share * 100.0 / SHARE_ALL;
}

static double seconds(usec_t t)
{
	return (double)t / USEC_PER_SEC;
}

void turn_begin(struct service *sv, enum turn_kind kind, struct generation *to, unsigned part)
{
	sv->turn = kind;
	sv->turn_to = to;
	sv->turn_part = part;
	if (kind == TURN_PART)
		share_split(sv, service_serving(sv), to, part);
	else
		share_give(sv, kind == TURN_ABORT ? service_serving(sv) : to);
	supervisor_act(sv->supervisor, ACTION_STEER, sv, to, NULL);
}

void turn_again(struct service *sv)
{
	sv->turn_at = USEC_INFINITY;
	supervisor_act(sv->supervisor, ACTION_STEER, sv, sv->turn_to, NULL);
}

void turn_to_ready(struct service *sv)
{
	struct generation *g = sv->rolling;

	struct generation *serving = service_serving(sv);

	if (g->step && serving && !step_begin(g, serving))
		generation_fail(g, CODE_GENERATION_FAILED, "failed",
		        "the generation that it was to replace in steps was rolled back");
	else if (g->step && serving)
		turn_begin(sv, TURN_PART, g, step_part(g));
	else if (g->canary && serving)
		turn_begin(sv, TURN_PART, g, g->canary);
	else
		turn_begin(sv, TURN_FLIP, g, SHARE_ALL);
}

/* Can it take all connections at once? A draining one as long as it was not told to stop. */
static struct generation *whole_before(struct service *sv, const struct generation *from)
{
	for (unsigned i = sv->n_generations; i-- > 0;) {
		struct generation *g = sv->generations[i];

		if (g->id < from->id && !g->rolled_back && !g->shared && generation_whole(g) &&
		        (g->state == GENERATION_WARM || g->state == GENERATION_DRAINING) &&
		        generation_has_listeners(g))
			return g;
	}
	return NULL;
}

bool turn_back(struct service *sv, struct generation *from)
{
	struct generation *g = whole_before(sv, from);

	if (g)
		turn_begin(sv, TURN_BACK, g, SHARE_ALL);
	return g != NULL;
}

/* ---- canary ---- */

void turn_abort(
        struct generation *canary, enum outcome_code code, const char *outcome, const char *why)
{
	canary->abort_at = canary->service->supervisor->now;
	canary->abort_code = code;
	canary->abort_outcome = outcome;
	(void)copy_string(canary->reason, sizeof canary->reason, why);
}

bool turn_canary_advance(struct generation *g)
{
	struct service *sv = g->service;
	usec_t now = sv->supervisor->now;

	if (g->died) {
		char why[sizeof g->reason];

		g->died = false;
		(void)copy_string(why, sizeof why, g->reason);
		turn_abort(g, CODE_GENERATION_FAILED, "rolled-back", why);
	}
	if (now >= g->abort_at) {
		g->abort_at = USEC_INFINITY;
		turn_begin(sv, TURN_ABORT, g, 0);
		return true;
	}
	if (now >= g->promote_at) {
		g->promote_at = USEC_INFINITY;
		turn_begin(sv, TURN_FLIP, g, SHARE_ALL);
		return true;
	}
	if (g->step && step_advance(g))
		return true;
	return generation_check_advance(g);
}

usec_t turn_canary_deadline(const struct generation *g)
{
	usec_t at = g->abort_at < g->promote_at ? g->abort_at : g->promote_at;

	if (g->step) {
		usec_t next = scale_deadline(g);

		at = next < at ? next : at;
		at = g->opening && g->ready_deadline < at ? g->ready_deadline : at;
	}
	return g->check_at < at ? g->check_at : at;
}

static void turned_to_part(struct service *sv, struct generation *g, unsigned part)
{
	struct supervisor *s = sv->supervisor;
	struct record *r;

	if (g->state == GENERATION_READY)
		generation_set_state(g, GENERATION_CANARY);
	g->holds = false;
	gate_return_held(sv);
	g->canary = part;
	sv->failures = 0;
	r = supervisor_record(s, RECORD_GENERATION_CANARY, sv, g, NULL);
	r->duration = s->now - g->created;
	if (g->step) {
		r->text = action_text(s->out, "%u of its %u workers serve, the old one makes room",
		        g->open, g->n_workers);
		step_taken(g, service_serving(sv));
		return;
	}
	g->promote_at = usec_add(s->now, g->hold);
	if (g->hold == USEC_INFINITY)
		r->text = action_text(s->out,
		        "gets %.4g %% of new connections until it is promoted or aborted",
		        percent(part));
	else
		r->text = action_text(s->out, "gets %.4g %% of new connections for %.3g s",
		        percent(part), seconds(g->hold));
	targets_canary(sv, g);
}

static void turned_abort(struct service *sv, struct generation *g)
{
	struct supervisor *s = sv->supervisor;
	const struct generation *serving = service_serving(sv);

	g->rolled_back = true;
	sv->rolling = NULL;
	generation_retire(g, 0);
	supervisor_record(s, RECORD_CANARY_ABORTED, sv, g, NULL)->text =
	        action_text(s->out, "%s", g->reason);
	generation_restore_link(g);
	service_result(sv, g->roll.kind, g->id, g->abort_code, g->abort_outcome, g->reason);
	targets_turned(sv, serving ? serving->id : 0, "aborted");
}

/* ---- forward and back ---- */

/* Old ones beyond what may drain at once: the oldest is stopped first. */
static void limit_old(struct service *sv)
{
	unsigned max = sv->wanted_settings->rollout.max_old, n = 0;

	for (unsigned i = sv->n_generations; i-- > 0;) {
		struct generation *g = sv->generations[i];

		if ((g->state == GENERATION_WARM || g->state == GENERATION_DRAINING) && ++n > max)
			generation_hasten(g, "more old generations than rollout.max-old allows");
	}
}

/* How long the previous generation is kept whole, so that a rollback is one turn. Where generations
 * share a socket the old one would go on taking new connections. */
static usec_t hold_until(
        const struct service *sv, const struct generation *old, const struct generation *g)
{
	usec_t bake = g->settings->rollout.bake;
	usec_t hold = bake > g->keep_warm ? bake : g->keep_warm;

	/* who cannot afford two generations has none of them kept */
	if (old->shared || g->shared || !generation_has_listeners(old) || old->rolled_back ||
	        g->step)
		return 0;
	return usec_add(sv->supervisor->now, hold);
}

/* What a rollback from `g` starts again. */
static void remember(struct generation *g, const struct generation *old)
{
	struct lineage *before = g->lineage;

	if (g->roll.back || old->taken)
		return; /* it stands in the place of the earlier one, or was none of ours */
	g->lineage = lineage_new(old->id, old->config, old->settings, old->release, old->lineage);
	lineage_unref(before);
}

static void point_back(struct service *sv, struct generation *to, const struct generation *from)
{
	struct supervisor *s = sv->supervisor;

	if (from->release && to->release)
		supervisor_act(s, ACTION_POINT_BACK, sv, to, NULL)->from =
		        action_text(s->out, "%s", from->release);
}

void turn_leaves(struct generation *old, struct generation *g)
{
	remember(g, old);
	if (!g->roll.back)
		return;
	old->rolled_back = true;
	point_back(g->service, g, old);
}

static void turned_to_new(struct service *sv, struct generation *g)
{
	struct supervisor *s = sv->supervisor;
	struct record *r;

	if (g->taken) {
		taken_serving(sv, g);
		return;
	}
	sv->own_served = true;
	for (unsigned i = 0; i < sv->n_generations; i++)
		if (sv->generations[i]->state == GENERATION_WARM)
			sv->generations[i]->hold_until = s->now;
	for (unsigned i = 0; i < sv->n_generations; i++) {
		struct generation *o = sv->generations[i];

		if (o->state != GENERATION_SERVING)
			continue;
		turn_leaves(o, g);
		generation_retire(o, hold_until(sv, o, g));
	}
	generation_set_state(g, GENERATION_SERVING);
	g->holds = false;
	gate_return_held(sv);
	g->step = 0;
	g->baking = true;
	g->bake_until = usec_add(s->now, g->settings->rollout.bake);
	sv->rolling = NULL;
	sv->failures = 0;
	r = supervisor_record(s, RECORD_GENERATION_SERVING, sv, g, NULL);
	r->duration = s->now - g->created;
	if (g->settings->rollout.bake)
		r->text = action_text(s->out,
		        "watched for %.3g s, the death of a worker turns it back",
		        seconds(g->settings->rollout.bake));
	service_set_state(sv, SERVICE_SERVING);
	service_result(sv, g->roll.kind, g->id, CODE_DONE, "serving", "");
	targets_serving(sv, g->id, g->settings->rollout.bake == 0);
	limit_old(sv);
}

static void turned_back(struct service *sv, struct generation *g)
{
	struct supervisor *s = sv->supervisor;
	struct generation *bad = service_serving(sv);
	bool asked = sv->turn_asked;
	struct record *r;

	HO_ASSERT(bad && bad != g);
	if (asked)
		(void)copy_string(bad->reason, sizeof bad->reason, sv->why);
	bad->rolled_back = true;
	if (sv->rolling && !sv->rolling->begun) { /* connections were taken from it; again */
		sv->rolling->waited |= sv->rolling->holds;
		sv->rolling->holds = sv->rolling->hold_tried = false;
	}
	generation_retire(bad, 0);
	generation_set_state(g, GENERATION_SERVING);
	r = supervisor_record(s, RECORD_ROLLED_BACK, sv, bad, NULL);
	r->text = action_text(s->out, "back to generation %u: %s", g->id, bad->reason);
	if (asked)
		point_back(sv, g, bad);
	else
		generation_restore_link(bad);
	targets_failed(sv, bad->id, CODE_GENERATION_FAILED, "rolled-back", bad->reason);
	if (asked) {
		service_result(sv, REQUEST_ROLLBACK, g->id, CODE_DONE, "serving", bad->reason);
		targets_turned(sv, g->id, "serving");
	} else {
		service_result(sv, bad->roll.kind, bad->id, CODE_GENERATION_FAILED, "rolled-back",
		        bad->reason);
	}
}

void turn_retire_all(struct service *sv)
{
	for (unsigned i = 0; i < sv->n_generations; i++) {
		struct generation *g = sv->generations[i];

		if (taken_is_foreign(g))
			continue;
		if (g->state == GENERATION_SERVING || g->state == GENERATION_CANARY)
			generation_retire(g, 0);
		else if (g->state == GENERATION_WARM)
			g->hold_until = sv->supervisor->now;
	}
}

/* ---- answers ---- */

static void turn_failed(
        struct service *sv, enum turn_kind turn, struct generation *to, const char *why)
{
	usec_t again = usec_add(sv->supervisor->now, TURN_AGAIN_USEC);

	supervisor_record(sv->supervisor, RECORD_STEER_FAILED, sv, to, NULL)->text =
	        action_text(sv->supervisor->out, "%s", why);
	/* there the workers leave all the same, or nobody is to be sent again */
	if (turn != TURN_STOP && turn != TURN_RETURN)
		share_undo(sv);
	if (turn == TURN_HOLD || turn == TURN_RETURN)
		return;
	if (to && to->state == GENERATION_READY)
		generation_fail(to, service_serving(sv) ? CODE_GENERATION_FAILED : CODE_FAILED,
		        "failed", "connections could not be turned to it: %s", why);
	else if (turn != TURN_ABORT && to && to->step)
		turn_abort(to, CODE_GENERATION_FAILED, "rolled-back",
		        "connections could not be turned to it");
	else if (turn == TURN_ABORT)
		to->abort_at = again;
	else if (turn == TURN_FLIP && to->promote_at == USEC_INFINITY && to->hold != USEC_INFINITY)
		to->promote_at = again;
	targets_not_turned(sv, why);
}

void turn_answered(struct service *sv, bool ok, const char *why)
{
	enum turn_kind turn = sv->turn;
	struct generation *to = sv->turn_to;

	if (turn == TURN_NONE) {
		supervisor_record(sv->supervisor, RECORD_ANOMALY, sv, NULL, NULL)->text =
		        "a turn was answered that nobody asked for";
		return;
	}
	if (!ok && sv->turn_tries && turn != TURN_STOP && turn != TURN_RETURN) {
		/* it may have been made before: nobody knows who has them */
		sv->turn_tries--;
		sv->turn_at = usec_add(sv->supervisor->now, TURN_AGAIN_USEC);
		return;
	}
	sv->turn = TURN_NONE;
	sv->turn_to = NULL;
	sv->turn_tries = 0;
	if (!ok)
		turn_failed(sv, turn, to, why ? why : "");
	if (turn == TURN_STOP)
		turn_retire_all(sv);
	else if (turn == TURN_HOLD)
		gate_held(sv, to, ok);
	else if (turn == TURN_RETURN)
		gate_return_held(sv);
	else if (ok && turn == TURN_FLIP)
		turned_to_new(sv, to);
	else if (ok && turn == TURN_PART)
		turned_to_part(sv, to, sv->turn_part);
	else if (ok && turn == TURN_ABORT)
		turned_abort(sv, to);
	else if (ok && turn == TURN_BACK)
		turned_back(sv, to);
	sv->turn_asked = false;
}

/* ---- what somebody asks for ---- */

/* The roll-out under way is undone, and none waits any more. */
static void abort_rolling(struct service *sv)
{
	struct generation *g = sv->rolling, *serving = service_serving(sv);

	if (sv->waiting)
		service_forget_waiting(sv, sv->why);
	if (g && g->state == GENERATION_CANARY) {
		turn_abort(g, CODE_GENERATION_FAILED, "aborted", sv->why);
		return;
	}
	if (g)
		generation_fail(g, serving ? CODE_GENERATION_FAILED : CODE_FAILED, "aborted", "%s",
		        sv->why);
	targets_turned(sv, serving ? serving->id : 0, "aborted");
}

static void roll_back(struct service *sv)
{
	struct generation *serving = service_serving(sv);
	struct generation *to = serving ? whole_before(sv, serving) : NULL;

	if (to) {
		sv->turn_asked = true;
		turn_begin(sv, TURN_BACK, to, SHARE_ALL);
	} else if (serving && serving->lineage) {
		targets_pending(sv);
		service_roll(sv, "rollback");
		sv->waiting_roll.kind = REQUEST_ROLLBACK;
		sv->waiting_roll.back = true;
	} else {
		targets_not_turned(sv, "there is no earlier generation to go back to");
	}
}

void turn_wanted(struct service *sv)
{
	struct generation *g = sv->rolling;
	bool back = sv->abort_wanted || sv->back_wanted;
	unsigned part = sv->part_wanted;

	if (back && (g || sv->waiting)) {
		abort_rolling(sv);
	} else if (sv->back_wanted) {
		roll_back(sv);
	} else if (sv->abort_wanted) {
		targets_not_turned(sv, "the roll-out was finished before it could be undone");
	} else if (g && g->state == GENERATION_CANARY) {
		g->promote_at = USEC_INFINITY;
		if (part >= SHARE_ALL)
			turn_begin(sv, TURN_FLIP, g, SHARE_ALL);
		else
			turn_begin(sv, TURN_PART, g, part);
	}
	sv->abort_wanted = sv->back_wanted = false;
	sv->part_wanted = 0;
}
