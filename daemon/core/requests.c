/* SPDX-License-Identifier: MIT */
/* Who waits for what. Every request gets exactly one answer, the true one: of the generation that
 * carried it. */
#include "core/scale.h"
#include "core/supervisor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct request *request_free(struct request *r)
{
	if (!r)
		return NULL;
	for (size_t i = 0; i < r->n_targets; i++)
		free(r->targets[i].text);
	free(r->targets);
	for (char **name = r->names; name && *name; name++)
		free(*name);
	free(r->names);
	free(r->release);
	free(r->cause);
	free(r->text);
	free(r);
	return NULL;
}

void target_result(const struct target *t, struct result *ret)
{
	*ret = (struct result){
	        .request = t->request->kind,
	        .generation = t->generation,
	        .code = t->code,
	        .outcome = t->outcome,
	        .cut = t->cut,
	};
	(void)copy_string(ret->service, sizeof ret->service, t->name);
	(void)copy_string(ret->text, sizeof ret->text, t->text ? t->text : "");
}

/* ---- answering ---- */

static void unlink_target(struct target *t)
{
	struct target **at;

	if (!t->service)
		return;
	for (at = &t->service->targets; *at != t; at = &(*at)->next)
		;
	*at = t->next;
	t->next = NULL;
	t->service = NULL;
}

static void take_out(struct supervisor *s, struct request *r)
{
	struct request **at;

	for (at = &s->requests; *at != r; at = &(*at)->next)
		;
	*at = r->next;
	timer_set(&s->timers, &r->timer, USEC_INFINITY);
	for (size_t i = 0; i < r->n_targets; i++)
		unlink_target(&r->targets[i]);
}

static void answer(struct supervisor *s, struct request *r)
{
	struct action *a;

	take_out(s, r);
	a = action_push(s->out, ACTION_ANSWER);
	a->request = r;
	a->serial = r->id;
	(void)supervisor_reserve(s, -2, -1);
}

static void target_done(
        struct target *t, enum outcome_code code, const char *outcome, const char *text)
{
	struct request *r = t->request;
	struct service *sv = t->service;
	struct supervisor *s = sv->supervisor;

	unlink_target(t);
	t->phase = TARGET_DONE;
	t->code = code;
	t->outcome = outcome;
	t->cut = sv->cut;
	if (code == CODE_DONE && sv->cut && (r->wait == WAIT_DRAINED || r->kind == REQUEST_STOP)) {
		t->code = CODE_CUT;
		t->outcome = "cut";
	}
	if (text && *text)
		t->text = strdup(text);
	if (++r->n_done == r->n_targets)
		answer(s, r);
}

void requests_refuse(
        struct supervisor *s, struct request *r, enum outcome_code code, const char *format, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, format);
	(void)vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	r->refused = code;
	r->text = strdup(text);
	answer(s, r);
}

void requests_gone(struct supervisor *s, uint32_t id)
{
	for (struct request *r = s->requests; r; r = r->next)
		if (r->id == id) {
			take_out(s, r);
			(void)supervisor_reserve(s, -2, -1);
			request_free(r);
			return;
		}
}

void requests_timed_out(struct supervisor *s, struct request *r)
{
	if (r->loading || !r->n_targets) {
		requests_refuse(s, r, CODE_TIMED_OUT, "the time is over; the work goes on");
		return;
	}
	for (size_t i = 0; i < r->n_targets; i++) {
		struct target *t = &r->targets[i];

		if (t->phase == TARGET_DONE)
			continue;
		unlink_target(t);
		t->phase = TARGET_DONE;
		t->code = CODE_TIMED_OUT;
		t->outcome = "timed-out";
		t->text = strdup("the time is over; the work goes on");
	}
	answer(s, r);
}

/* ---- what happens to those who wait ---- */

void targets_started(struct service *sv, uint32_t generation)
{
	struct target *next;

	for (struct target *t = sv->targets; t; t = next) {
		next = t->next;
		if (t->phase != TARGET_PENDING || t->request->kind == REQUEST_WAIT)
			continue;
		t->generation = generation;
		t->phase = TARGET_ROLLING;
		if (t->request->wait == WAIT_NONE && generation)
			target_done(t, CODE_DONE, "started", NULL);
	}
}

void targets_canary(struct service *sv, const struct generation *g)
{
	struct target *next;

	for (struct target *t = sv->targets; t; t = next) {
		bool promotes = t->request->kind == REQUEST_PROMOTE;

		next = t->next;
		if (t->generation != g->id || t->phase != TARGET_ROLLING)
			continue;
		if (promotes ? t->request->roll.has_canary : g->hold == USEC_INFINITY)
			target_done(t, CODE_DONE, "canary", NULL);
	}
}

void targets_turned(struct service *sv, uint32_t generation, const char *outcome)
{
	struct target *next;

	for (struct target *t = sv->targets; t; t = next) {
		next = t->next;
		if (t->phase != TARGET_TURNING)
			continue;
		t->generation = generation;
		if (t->request->wait == WAIT_DRAINED)
			t->phase = TARGET_DRAINING;
		else
			target_done(t, CODE_DONE, outcome, NULL);
	}
	targets_check(sv);
}

void targets_not_turned(struct service *sv, const char *why)
{
	struct target *next;

	for (struct target *t = sv->targets; t; t = next) {
		next = t->next;
		if (t->phase == TARGET_TURNING || t->request->kind == REQUEST_PROMOTE)
			target_done(t, CODE_FAILED, "failed", why);
	}
}

void targets_not_scaled(struct service *sv, const char *why)
{
	struct target *next;

	for (struct target *t = sv->targets; t; t = next) {
		next = t->next;
		if (t->phase == TARGET_SCALING)
			target_done(t, CODE_FAILED, "failed", why);
	}
}

void targets_pending(struct service *sv)
{
	for (struct target *t = sv->targets; t; t = t->next)
		if (t->phase == TARGET_TURNING)
			t->phase = TARGET_PENDING;
}

void targets_forget_pending(struct service *sv, const char *why)
{
	struct target *next;

	for (struct target *t = sv->targets; t; t = next) {
		next = t->next;
		if (t->phase == TARGET_PENDING && t->request->kind != REQUEST_WAIT)
			target_done(t, CODE_SUPERSEDED, "superseded", why);
	}
}

/* A generation's word that it serves reaches also those whose earlier one was replaced while it
 * baked. */
void targets_serving(struct service *sv, uint32_t generation, bool baked)
{
	struct target *next;

	for (struct target *t = sv->targets; t; t = next) {
		next = t->next;
		if (t->phase != TARGET_ROLLING && t->phase != TARGET_BAKING)
			continue;
		if (t->generation > generation || (t->generation == generation && !baked)) {
			if (t->generation == generation)
				t->phase = TARGET_BAKING;
			continue;
		}
		if (t->phase == TARGET_ROLLING && t->generation < generation)
			continue;
		if (t->request->wait == WAIT_DRAINED)
			t->phase = TARGET_DRAINING;
		else
			target_done(t, CODE_DONE, "serving", NULL);
	}
	targets_check(sv);
}

void targets_failed(struct service *sv, uint32_t generation, enum outcome_code code,
        const char *outcome, const char *text)
{
	struct target *next;

	for (struct target *t = sv->targets; t; t = next) {
		next = t->next;
		if (t->generation == generation &&
		        (t->phase == TARGET_ROLLING || t->phase == TARGET_BAKING))
			target_done(t, code, outcome, text);
	}
}

static bool starts_again(enum request_kind kind)
{
	return kind == REQUEST_RESTART || kind == REQUEST_START;
}

void targets_supersede(struct service *sv, const char *text)
{
	struct target *next;

	for (struct target *t = sv->targets; t; t = next) {
		next = t->next;
		if (t->phase == TARGET_STOPPING)
			continue;
		if (t->phase != TARGET_PENDING || !starts_again(t->request->kind) ||
		        !sv->start_again)
			target_done(t, CODE_SUPERSEDED, "superseded", text);
	}
}

static void check_wait(struct target *t)
{
	const struct service *sv = t->service;
	const struct generation *g = service_serving(sv);
	bool drained = t->request->wait == WAIT_DRAINED;

	if (sv->state == SERVICE_STOPPED || sv->state == SERVICE_FAILED) {
		target_done(t, CODE_FAILED, "failed", "the service does not run");
		return;
	}
	if (!g || sv->rolling || sv->waiting || sv->state != SERVICE_SERVING)
		return;
	if (drained && service_old(sv, g->id))
		return;
	t->generation = g->id;
	target_done(t, CODE_DONE, drained ? "drained" : "serving", NULL);
}

static void check_scale(struct target *t)
{
	const struct generation *g = service_serving(t->service);

	if (!g || g->id != t->generation)
		target_done(t, CODE_SUPERSEDED, "superseded", "another generation has taken over");
	else if (g->open != t->request->workers)
		target_done(t, CODE_SUPERSEDED, "superseded", "another number was asked for");
	else if (scale_done(g))
		target_done(t, CODE_DONE, "scaled", NULL);
}

/* Who went back waits for the end of a newer generation. */
static bool is_drained(const struct target *t)
{
	const struct service *sv = t->service;

	if (t->request->kind != REQUEST_ABORT && t->request->kind != REQUEST_ROLLBACK)
		return !service_old(sv, t->generation);
	for (unsigned i = 0; i < sv->n_generations; i++)
		if (generation_is_old(sv->generations[i]))
			return false;
	return true;
}

void targets_check(struct service *sv)
{
	struct target *next;

	for (struct target *t = sv->targets; t; t = next) {
		next = t->next;
		if (t->phase == TARGET_DRAINING && is_drained(t))
			target_done(t, CODE_DONE, "drained", NULL);
		else if (t->phase == TARGET_STOPPING &&
		         (sv->state == SERVICE_STOPPED ||
		                 (sv->state == SERVICE_FAILED && !sv->n_generations)))
			target_done(t, CODE_DONE, "stopped", NULL);
		else if (t->phase == TARGET_SCALING)
			check_scale(t);
		else if (t->request->kind == REQUEST_WAIT)
			check_wait(t);
	}
}

/* ---- beginning ---- */

static struct request *request_new(struct supervisor *s, const struct request_spec *spec)
{
	struct request *r;

	if (supervisor_reserve(s, 2, 1) < 0)
		return NULL;
	r = calloc(1, sizeof *r);
	if (!r)
		goto fail;
	r->id = spec->id;
	r->caller = spec->caller;
	r->kind = spec->kind;
	r->wait = spec->wait;
	r->workers = spec->workers;
	r->all = !spec->n_services;
	r->timer = (struct timer){.at = USEC_INFINITY, .owner = TIMER_OF_REQUEST};
	r->names = calloc(spec->n_services + 1, sizeof *r->names);
	if (!r->names)
		goto fail;
	for (size_t i = 0; i < spec->n_services; i++)
		if (!(r->names[i] = strdup(spec->services[i])))
			goto fail;
	r->roll = spec->roll;
	r->cause = strdup(spec->cause ? spec->cause : "");
	r->release = spec->roll.release ? strdup(spec->roll.release) : NULL;
	r->roll.release = r->release;
	if (!r->cause || (spec->roll.release && !r->release))
		goto fail;
	r->next = s->requests;
	s->requests = r;
	timer_set(&s->timers, &r->timer, usec_add(s->now, spec->timeout));
	return r;
fail:
	request_free(r);
	(void)supervisor_reserve(s, -2, -1);
	return NULL;
}

static void link_target(struct target *t, struct service *sv)
{
	struct target **at = &sv->targets;

	while (*at)
		at = &(*at)->next;
	*at = t;
	t->service = sv;
}

int requests_put(struct supervisor *s, struct request *r)
{
	if (supervisor_reserve(s, 2, 1) < 0)
		return -12; /* ENOMEM */
	r->timer.owner = TIMER_OF_REQUEST;
	r->next = s->requests;
	s->requests = r;
	timer_set(&s->timers, &r->timer, r->timer.at);
	for (size_t i = 0; i < r->n_targets; i++)
		if (r->targets[i].service)
			link_target(&r->targets[i], r->targets[i].service);
	return 0;
}

void requests_no_service(const struct supervisor *s, const char *name, struct text *t)
{
	const char *between = "there are";

	text_add(t, "no service is named \"%s\"; ", name);
	for (size_t i = 0; i < s->n_slots; i++) {
		if (!s->services[i])
			continue;
		text_add(t, "%s \"%s\"", between, s->services[i]->name);
		between = ",";
	}
	if (*between == 't')
		text_add(t, "there is none");
}

static bool add_targets(struct supervisor *s, struct request *r)
{
	char text[400];
	struct text unknown = TEXT_ON(text);
	size_t n = 0;

	if (r->all)
		for (size_t i = 0; i < s->n_slots; i++)
			n += s->services[i] != NULL;
	for (char **name = r->names; *name; name++, n++)
		if (!supervisor_find(s, *name)) {
			requests_no_service(s, *name, &unknown);
			requests_refuse(s, r, CODE_USAGE, "%s%s", text, unknown.cut ? " …" : "");
			return false;
		}
	r->targets = calloc(n ? n : 1, sizeof *r->targets);
	if (!r->targets) {
		requests_refuse(s, r, CODE_FAILED, "not enough memory for the request");
		return false;
	}
	for (size_t i = 0; r->all && i < s->n_slots; i++)
		if (s->services[i])
			link_target(&r->targets[r->n_targets++], s->services[i]);
	for (char **name = r->names; *name; name++)
		link_target(&r->targets[r->n_targets++], supervisor_find(s, *name));
	for (size_t i = 0; i < r->n_targets; i++) {
		r->targets[i].request = r;
		(void)copy_string(r->targets[i].name, CONFIG_MAX_NAME, r->targets[i].service->name);
	}
	return true;
}

static void refuse(struct target *t, const char *why)
{
	target_done(t, CODE_FAILED, "refused", why);
}

/* Two releases cannot both be the next one. */
static void supersede_deploys(struct target *by)
{
	struct target *next;

	for (struct target *t = by->service->targets; t; t = next) {
		next = t->next;
		if (t != by && t->phase == TARGET_PENDING && t->request->kind == REQUEST_DEPLOY &&
		        strcmp(t->request->release, by->request->release) != 0)
			target_done(t, CODE_SUPERSEDED, "superseded",
			        "another release was asked for before this one was started");
	}
}

static void begin_roll(struct target *t)
{
	struct service *sv = t->service;
	const struct request *r = t->request;

	if (sv->remove)
		t->phase = TARGET_STOPPING;
	else if (sv->state == SERVICE_STOPPING || sv->state == SERVICE_STOPPED)
		refuse(t, "the service is stopped; start it with `handoffctl start`");
	else if (!service_roll_as(sv, r->kind, &r->roll))
		refuse(t, "not enough memory for the request");
	else if (r->kind == REQUEST_DEPLOY)
		supersede_deploys(t);
}

static void begin_promote(struct target *t)
{
	const struct roll_options *o = &t->request->roll;
	struct service *sv = t->service;
	struct generation *g = sv->rolling;
	char text[120];

	if (!g || g->state != GENERATION_CANARY || g->step || g->abort_at != USEC_INFINITY ||
	        sv->turn != TURN_NONE) {
		refuse(t, "no canary is held at this moment");
		return;
	}
	if (o->has_canary && o->canary <= g->canary) {
		(void)snprintf(text, sizeof text,
		        "the canary has %.4g %% already, and its share can only be raised",
		        g->canary * 100. / SHARE_ALL);
		refuse(t, text);
		return;
	}
	if (o->has_hold)
		g->hold = o->hold;
	sv->part_wanted = o->has_canary ? o->canary : SHARE_ALL;
	t->generation = g->id;
	t->phase = TARGET_ROLLING;
	if (t->request->wait == WAIT_NONE)
		target_done(t, CODE_DONE, "started", NULL);
}

static void begin_back(struct target *t)
{
	bool back = t->request->kind == REQUEST_ROLLBACK;
	struct service *sv = t->service;

	if (!sv->rolling && !sv->waiting && (!back || !service_serving(sv))) {
		refuse(t, back ? "the service does not serve" : "no roll-out is under way");
		return;
	}
	if (sv->state == SERVICE_STOPPING || sv->stop_wanted) {
		refuse(t, "the service is being stopped");
		return;
	}
	(void)snprintf(sv->why, sizeof sv->why, "%s was asked for by %s",
	        back ? "a rollback" : "its end", t->request->cause);
	sv->abort_wanted |= !back;
	sv->back_wanted |= back;
	t->phase = TARGET_TURNING;
	if (t->request->wait == WAIT_NONE)
		target_done(t, CODE_DONE, "started", NULL);
}

static void begin_scale(struct target *t)
{
	struct service *sv = t->service;
	struct generation *g = service_serving(sv);
	unsigned n = t->request->workers, before = g ? g->open : 0;

	if (!g || sv->rolling || sv->waiting) {
		refuse(t, g ? "a roll-out is under way; scale it when it is done"
		            : "the service does not serve");
		return;
	}
	if (g->taken) {
		refuse(t, "the server that was taken over has its own number of workers");
		return;
	}
	if (n < before && !scale_can_shrink(g)) {
		refuse(t, "a worker is told to finish only together with its whole generation "
		          "(drain.by is not \"signal\"); set workers and reload instead");
		return;
	}
	if (!scale_to(g, n)) {
		refuse(t, "not enough memory for so many workers");
		return;
	}
	sv->scaled = n;
	sv->scaled_from = g->settings->workers;
	supervisor_record(sv->supervisor, RECORD_GENERATION_SCALED, sv, g, NULL)->text =
	        action_text(sv->supervisor->out, "from %u to %u workers", before, n);
	t->generation = g->id;
	t->phase = TARGET_SCALING;
	if (t->request->wait == WAIT_NONE)
		target_done(t, CODE_DONE, "started", NULL);
}

/* May finish the target at once. */
static void begin_target(struct target *t)
{
	struct service *sv = t->service;
	bool stopped = sv->state == SERVICE_STOPPED || sv->state == SERVICE_FAILED;

	if (sv->remove && starts_again(t->request->kind)) {
		target_done(t, CODE_FAILED, "refused",
		        "the service is not in the configuration any more");
		return;
	}
	switch (t->request->kind) {
	case REQUEST_RELOAD:
	case REQUEST_DEPLOY:
		begin_roll(t);
		break;
	case REQUEST_PROMOTE:
		begin_promote(t);
		break;
	case REQUEST_SCALE:
		begin_scale(t);
		break;
	case REQUEST_ABORT:
	case REQUEST_ROLLBACK:
		begin_back(t);
		break;
	case REQUEST_START:
		if (sv->state == SERVICE_STOPPING || sv->stop_wanted) {
			sv->start_again = true;
			break;
		}
		if (!stopped) {
			target_done(t, CODE_DONE, "serving", "it was not stopped");
			return;
		}
		service_roll(sv, "start");
		sv->waiting_roll.kind = REQUEST_START;
		break;
	case REQUEST_STOP:
	case REQUEST_SHUTDOWN:
		t->phase = TARGET_STOPPING;
		service_stay_stopped(sv);
		service_stop(sv);
		break;
	case REQUEST_RESTART:
		if (stopped) {
			service_roll(sv, "restart");
			sv->waiting_roll.kind = REQUEST_RESTART;
			break;
		}
		sv->start_again = true;
		service_stop(sv);
		break;
	case REQUEST_WAIT:
		targets_check(sv);
		break;
	}
}

bool requests_begin(struct supervisor *s, struct request *r)
{
	r->loading = false;
	if (!add_targets(s, r))
		return false;
	if (!r->n_targets) {
		requests_refuse(s, r, CODE_DONE, "there is no service");
		return false;
	}
	/* A request that is answered here lives until the step's actions are carried out. */
	for (size_t i = 0; i < r->n_targets; i++)
		if (r->targets[i].phase != TARGET_DONE)
			begin_target(&r->targets[i]);
	return true;
}

static void settle_targets(struct supervisor *s, struct request *r)
{
	for (size_t i = 0; i < r->n_targets; i++) {
		struct service *sv = supervisor_find(s, r->targets[i].name);

		if (sv)
			service_settle(sv);
	}
}

/* What is cut is named before it is. */
static void stop_at_once(struct service *sv)
{
	for (unsigned i = 0; i < sv->n_generations; i++)
		generation_hasten(sv->generations[i], NULL);
	service_settle(sv);
	for (unsigned i = 0; i < sv->n_generations; i++)
		generation_kill(sv->generations[i]);
}

/* Who asked for what, for the records. */
static const char *request_text(struct supervisor *s, const struct request_spec *spec)
{
	char names[400];
	struct text t = TEXT_ON(names);

	for (size_t i = 0; i < spec->n_services; i++)
		text_add(&t, " %s", spec->services[i]);
	return action_text(s->out, "%s: %s%s%s%s", spec->cause ? spec->cause : "",
	        request_kind_to_string(spec->kind), spec->n_services ? names : "",
	        spec->roll.release ? ", release " : "",
	        spec->roll.release ? spec->roll.release : "");
}

static void shut_down(struct supervisor *s, const struct request_spec *spec)
{
	struct record *r = supervisor_record(s, RECORD_STOP_REQUESTED, NULL, NULL, NULL);

	r->text = action_text(s->out, "%s", spec->cause ? spec->cause : "");
	if (s->state == SUPERVISOR_STOPPING)
		s->at_once = true;
	else {
		s->state = SUPERVISOR_STOPPING;
		supervisor_tell_systemd(s, SYSTEMD_STOPPING);
		supervisor_record(s, RECORD_DAEMON_STOPPING, NULL, NULL, NULL);
	}
	for (size_t i = 0; i < s->n_slots; i++) {
		struct service *sv = s->services[i];

		if (!sv)
			continue;
		service_stay_stopped(sv);
		if (sv->state != SERVICE_STOPPING)
			service_stop(sv);
		service_settle(sv);
		if (s->at_once)
			stop_at_once(sv);
		service_settle(sv);
	}
}

static bool changes_only(enum request_kind kind)
{
	return kind == REQUEST_PROMOTE || kind == REQUEST_SCALE || kind == REQUEST_ABORT ||
	       kind == REQUEST_ROLLBACK;
}

/* Refused before anything is done. */
static bool canary_possible(struct supervisor *s, struct request *r)
{
	for (size_t i = 0; i < s->n_slots; i++) {
		const struct service *sv = s->services[i];
		const struct generation *g = sv ? service_serving(sv) : NULL;
		bool named = r->all;

		for (char **name = r->names; sv && *name; name++)
			named |= !strcmp(*name, sv->name);
		if (!g || !named || g->divisible || !r->roll.canary || r->roll.canary >= SHARE_ALL)
			continue;
		requests_refuse(s, r, CODE_FAILED, "service \"%s\": %s", sv->name, NO_CANARY);
		return false;
	}
	return true;
}

void requests_add(struct supervisor *s, const struct request_spec *spec)
{
	struct request *r = NULL;
	struct record *record;

	if (spec->id) {
		r = request_new(s, spec);
		if (!r) {
			struct action *a = action_push(s->out, ACTION_ANSWER);

			a->serial = spec->id;
			a->shell = spec->caller;
			return;
		}
	}
	if (spec->kind == REQUEST_SHUTDOWN) {
		if (r)
			(void)requests_begin(s, r);
		shut_down(s, spec);
		return;
	}
	if (s->state == SUPERVISOR_STOPPING) {
		if (r)
			requests_refuse(s, r, CODE_FAILED, "handoffd is stopping");
		return;
	}
	if (spec->kind != REQUEST_RELOAD && spec->kind != REQUEST_DEPLOY) {
		HO_ASSERT(r);
		if (spec->kind != REQUEST_WAIT) {
			record = supervisor_record(s,
			        changes_only(spec->kind) ? RECORD_CHANGE_REQUESTED
			                                 : RECORD_STOP_REQUESTED,
			        NULL, NULL, NULL);
			record->text = request_text(s, spec);
		}
		if (requests_begin(s, r))
			settle_targets(s, r);
		return;
	}
	record = supervisor_record(s, RECORD_RELOAD_REQUESTED, NULL, NULL, NULL);
	record->text = request_text(s, spec);
	if (r && spec->roll.has_canary && !canary_possible(s, r))
		return;
	if (!spec->n_services)
		s->load_all = true;
	if (r)
		r->loading = true;
	if (!s->loading) {
		s->loading = true;
		action_push(s->out, ACTION_LOAD_CONFIG);
	}
}
