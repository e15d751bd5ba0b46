/* SPDX-License-Identifier: MIT */
/* Takes each event to the service it belongs to, and keeps what belongs to none: the configuration,
 * the start, the end, and what systemd is told. */
#include "core/gate.h"
#include "core/supervisor.h"
#include "core/drain.h"
#include "core/plan.h"
#include "core/taken.h"
#include "core/turn.h"
#include "core/watchdog.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A service's id: its slot in the low bits, so that it is found at once, and a serial above, so
 * that a late event of a former owner of the slot finds nothing. */
#define SLOT_BITS 13
#define SLOT_MASK ((1u << SLOT_BITS) - 1)
#define SLOTS_MAX (1u << SLOT_BITS)
#define ACTIONS_OF_SUPERVISOR 32
/* systemd's patience beyond what the settings allow. */
#define EXTEND_MARGIN_USEC (10 * USEC_PER_SEC)

struct supervisor *supervisor_new(void)
{
	struct supervisor *s = calloc(1, sizeof *s);

	if (!s)
		return NULL;
	s->n_actions = ACTIONS_OF_SUPERVISOR;
	return s;
}

struct supervisor *supervisor_free(struct supervisor *s)
{
	struct request *r, *next;

	if (!s)
		return NULL;
	for (size_t i = 0; i < s->n_slots; i++)
		service_free(s->services[i]); /* which moves the timers of requests */
	for (r = s->requests; r; r = next) {
		next = r->next;
		request_free(r);
	}
	free(s->services);
	free(s->config_error);
	config_unref(s->config);
	timers_done(&s->timers);
	free(s);
	return NULL;
}

void supervisor_forget_changes(struct supervisor *s)
{
	for (struct service *sv = s->changed; sv; sv = sv->next_changed)
		sv->changed = false;
	s->changed = NULL;
}

struct service *supervisor_service(const struct supervisor *s, uint32_t id)
{
	size_t slot = id & SLOT_MASK;
	struct service *sv = slot < s->n_slots ? s->services[slot] : NULL;

	return sv && sv->id == id ? sv : NULL;
}

struct service *supervisor_find(const struct supervisor *s, const char *name)
{
	for (size_t i = 0; i < s->n_slots; i++)
		if (s->services[i] && !strcmp(s->services[i]->name, name))
			return s->services[i];
	return NULL;
}

int supervisor_reserve(struct supervisor *s, long actions, long timers)
{
	int r = 0;

	s->n_actions = (size_t)((long)s->n_actions + actions);
	s->n_timers = (size_t)((long)s->n_timers + timers);
	if (actions > 0)
		r = action_list_reserve(s->out, s->n_actions + s->out->n);
	if (r == 0 && timers > 0)
		r = timers_reserve(&s->timers, s->n_timers + 1);
	if (r < 0) {
		s->n_actions = (size_t)((long)s->n_actions - actions);
		s->n_timers = (size_t)((long)s->n_timers - timers);
	}
	return r;
}

struct action *supervisor_act(struct supervisor *s, enum action_type type, const struct service *sv,
        const struct generation *g, const struct worker *w)
{
	struct action *a = action_push(s->out, type);

	if (sv) {
		a->service = sv->id;
		a->shell = sv->shell;
	}
	if (g) {
		a->generation = g->id;
		a->shell = g->shell;
	}
	if (w) {
		a->worker = w->index;
		a->serial = w->serial;
		a->shell = w->shell;
	}
	return a;
}

struct record *supervisor_record(struct supervisor *s, enum record_type type,
        const struct service *sv, const struct generation *g, const struct worker *w)
{
	struct action *a = supervisor_act(s, ACTION_RECORD, sv, g, w);

	a->record = (struct record){
	        .type = type,
	        .service = sv ? action_text(s->out, "%s", sv->name) : NULL,
	        .generation = g ? g->id : 0,
	        .zeroth = g && g->taken,
	        RECORD_NONE,
	};
	if (w) {
		a->record.worker = (int)w->index;
		a->record.pid = w->pid;
	}
	return &a->record;
}

/* ---- configuration ---- */

struct service *supervisor_put_service(struct supervisor *s, uint32_t id, const char *name)
{
	size_t slot = id & SLOT_MASK, n = slot < s->n_slots ? s->n_slots : slot + 1;
	struct service **services = realloc(s->services, n * sizeof *services);

	if (!services)
		return NULL;
	s->services = services;
	for (; s->n_slots < n; s->n_slots++)
		services[s->n_slots] = NULL;
	if (services[slot])
		return NULL;
	return services[slot] = service_new(s, id, name);
}

static struct service *add_service(struct supervisor *s, const char *name)
{
	size_t slot;

	for (slot = 0; slot < s->n_slots && s->services[slot]; slot++)
		;
	if (slot == SLOTS_MAX)
		return NULL;
	return supervisor_put_service(s, (uint32_t)(++s->last_serial << SLOT_BITS | slot), name);
}

/* Does anybody who waits for this configuration want all of it? */
static bool all_wanted(const struct supervisor *s)
{
	for (const struct request *r = s->requests; r; r = r->next)
		if (r->loading && r->all)
			return true;
	return s->load_all || !s->config;
}

static void apply_service(
        struct supervisor *s, struct config *config, const struct service_config *settings)
{
	struct service *sv = supervisor_find(s, settings->name);
	bool start = !s->config;

	if (!sv) {
		sv = add_service(s, settings->name);
		if (!sv) {
			supervisor_record(s, RECORD_SERVICE_FAILED, NULL, NULL, NULL)->text =
			        action_text(s->out, "not enough memory to add service \"%s\"",
			                settings->name);
			return;
		}
		if (!start)
			supervisor_record(s, RECORD_SERVICE_ADDED, sv, NULL, NULL);
	} else if (sv->remove) {
		sv->remove = false; /* it came back while it was being stopped */
		sv->start_again = true;
	}
	sv->touched = true;
	service_want(sv, config, settings);
	if (sv->state == SERVICE_STOPPED || sv->state == SERVICE_STOPPING)
		return;
	service_roll(sv, start ? "start" : "reload");
}

static void remove_service(struct supervisor *s, struct service *sv)
{
	if (sv->remove)
		return;
	sv->remove = sv->touched = true;
	service_stay_stopped(sv);
	supervisor_record(s, RECORD_SERVICE_REMOVED, sv, NULL, NULL);
	service_stop(sv);
}

/* Removals not by the plan: a reload of a single service may have taken in a configuration without
 * the others' part. */
static int apply_all(struct supervisor *s, struct config *config)
{
	char text[600];
	struct text t = TEXT_ON(text);
	struct plan plan;
	int r = plan_make(s->config, config, &plan);

	if (r < 0)
		return r;
	plan_print(&plan, &t);
	plan_done(&plan);
	supervisor_record(s, RECORD_CONFIG_LOADED, NULL, NULL, NULL)->text =
	        action_text(s->out, "%s", text);
	for (size_t i = 0; i < s->n_slots; i++)
		if (s->services[i] && !config_find_from(config, s->services[i]->name, i))
			remove_service(s, s->services[i]);
	for (size_t i = 0; i < config->n_services; i++)
		apply_service(s, config, &config->services[i]);
	return 0;
}

/* What nobody asked for is not looked at: a reload of one service costs the same beside many
 * others. */
static void apply_named(struct supervisor *s, struct config *config)
{
	supervisor_record(s, RECORD_CONFIG_LOADED, NULL, NULL, NULL);
	for (const struct request *r = s->requests; r; r = r->next)
		for (char *const *name = r->names; r->loading && *name; name++) {
			const struct service_config *settings = config_find(config, *name);
			struct service *sv = supervisor_find(s, *name);

			if (settings)
				apply_service(s, config, settings);
			else if (sv)
				remove_service(s, sv);
		}
}

static void refuse_loading(struct supervisor *s, const char *why)
{
	struct request *next;

	for (struct request *r = s->requests; r; r = next) {
		next = r->next;
		if (r->loading)
			requests_refuse(s, r, CODE_FAILED, "%s", why);
	}
}

static void settle_touched(struct supervisor *s)
{
	for (size_t i = 0; i < s->n_slots; i++) {
		struct service *sv = s->services[i];

		if (!sv || !sv->touched)
			continue;
		sv->touched = false;
		service_settle(sv);
	}
}

static void order_stop(struct supervisor *s);

/* Before anything of them is started. */
static void note_taken(struct supervisor *s, const struct event *ev)
{
	for (size_t i = 0; i < ev->n_taken; i++) {
		struct service *sv = supervisor_find(s, ev->taken[i].service);

		if (sv && !sv->attempted && !sv->n_generations)
			sv->taking = ev->taken[i].processes;
	}
}

static void on_config_loaded(struct supervisor *s, const struct event *ev)
{
	struct config *config = ev->config;
	struct request *next;
	int r = 0;

	s->loading = false;
	free(s->config_error);
	s->config_error = NULL;
	if (s->state == SUPERVISOR_STOPPING) {
		refuse_loading(s, "handoffd is stopping");
		r = -1;
	} else if (all_wanted(s)) {
		r = apply_all(s, config);
		if (r < 0)
			refuse_loading(s, "not enough memory to compare the configurations");
	} else {
		apply_named(s, config);
	}
	s->load_all = false;
	if (r < 0) {
		config_unref(config);
		if (s->state == SUPERVISOR_STARTING) {
			s->exit_code = 1;
			order_stop(s);
		}
		return;
	}
	for (struct request *q = s->requests; q; q = next) {
		next = q->next;
		if (q->loading)
			(void)requests_begin(s, q);
	}
	config_unref(s->config);
	s->config = config;
	note_taken(s, ev);
	settle_touched(s);
}

static void on_config_refused(struct supervisor *s, const char *text)
{
	struct request *next;

	s->loading = s->load_all = false;
	free(s->config_error);
	s->config_error = strdup(text ? text : "");
	supervisor_record(s, RECORD_CONFIG_REFUSED, NULL, NULL, NULL)->text =
	        action_text(s->out, "%s", text);
	for (struct request *r = s->requests; r; r = next) {
		next = r->next;
		if (r->loading)
			requests_refuse(s, r, CODE_USAGE,
			        "the configuration was refused, nothing has changed:\n%s", text);
	}
}

/* ---- events of a generation and its workers ---- */

/* SPEC: 3 only when an old one goes on serving. */
static enum outcome_code failure_code(const struct generation *g)
{
	return service_serving(g->service) ? CODE_GENERATION_FAILED : CODE_FAILED;
}

static void on_prepared(struct generation *g, const struct event *ev)
{
	g->preparing = false;
	g->prepared = true;
	g->shared = ev->prepared.shared;
	g->migrates = ev->prepared.migrates;
	g->probeable = ev->prepared.probeable;
	g->divisible = ev->prepared.divisible;
	if (ev->text && !(g->release = strdup(ev->text))) {
		if (g->state == GENERATION_STARTING)
			generation_fail(g, failure_code(g), "failed", "not enough memory");
		return;
	}
	if (g->state != GENERATION_STARTING) {
		generation_restore_link(g); /* it failed while it was prepared */
		return;
	}
	if (g->canary && !g->divisible && service_serving(g->service)) {
		generation_fail(g, failure_code(g), "failed", "%s", NO_CANARY);
		return;
	}
	if (g->shared)
		supervisor_record(
		        g->service->supervisor, RECORD_STEERING_SHARED, g->service, g, NULL);
}

static void on_prepare_failed(struct generation *g, const struct event *ev)
{
	g->preparing = g->linked = false;
	if (g->state == GENERATION_STARTING)
		generation_fail(g, failure_code(g), "failed", "%s", ev->text ? ev->text : "");
}

static void on_worker_said(struct generation *g, struct worker *w, const struct event *ev)
{
	struct supervisor *s = g->service->supervisor;

	switch (ev->said.word) {
	case WORD_READY:
		if (g->probing && g->state != GENERATION_STARTING &&
		        g->settings->ready.by == READY_EXEC)
			generation_check_done(g, true, NULL);
		if (w->state != WORKER_RUNNING)
			break; /* a second time, or too late */
		w->state = WORKER_READY;
		watchdog_alive(g, w);
		g->speaks_notify = true;
		supervisor_record(s, RECORD_WORKER_READY, g->service, g, w)->duration =
		        s->now - w->started;
		break;
	case WORD_STATUS:
		(void)copy_string(w->status, sizeof w->status, ev->text ? ev->text : "");
		if (worker_may_tell(w, s->now))
			supervisor_record(s, RECORD_WORKER_STATUS, g->service, g, w)->text =
			        action_text(s->out, "%s", w->status);
		break;
	case WORD_EXTEND:
		if (g->state == GENERATION_STARTING &&
		        usec_add(s->now, ev->said.number) > g->ready_deadline)
			gate_expect(g, usec_add(s->now, ev->said.number));
		watchdog_extend(g, w, ev->said.number);
		break;
	case WORD_TROUBLE:
		(void)copy_string(g->trouble, sizeof g->trouble, ev->text ? ev->text : "");
		break;
	case WORD_STUCK:
		watchdog_abort(g, w, "it asked for it (WATCHDOG=trigger)");
		break;
	case WORD_ALIVE:
		watchdog_alive(g, w);
		break;
	case WORD_HELLO:
		generation_worker_hello(g, w, ev->said.number);
		break;
	case WORD_STOPPING:
		break;
	}
}

static void worker_event(struct generation *g, const struct event *ev)
{
	struct worker *w = ev->worker < g->n_workers ? &g->workers[ev->worker] : NULL;

	if (!w || w->serial != ev->serial)
		return; /* of a process that was replaced */
	if (ev->type == EVENT_WORKER_STARTED && w->state == WORKER_STARTING)
		generation_worker_started(g, w, ev->pid);
	else if (ev->type == EVENT_WORKER_START_FAILED && w->state == WORKER_STARTING)
		generation_worker_start_failed(g, w, ev->text ? ev->text : "");
	else if (ev->type == EVENT_WORKER_EXITED && w->pid) {
		w->lost = ev->exited.lost;
		generation_worker_exited(
		        g, w, ev->exited.code, ev->exited.status, ev->exited.rest, ev->text);
	} else if (ev->type == EVENT_WORKER_TREE_GONE && w->state == WORKER_REST)
		generation_worker_tree_gone(g, w);
	else if (ev->type == EVENT_WORKER_SAID && w->state != WORKER_ABSENT)
		on_worker_said(g, w, ev);
}

static void generation_event(struct generation *g, const struct event *ev)
{
	if (!g->preparing && (ev->type == EVENT_PREPARED || ev->type == EVENT_PREPARE_FAILED)) {
		supervisor_record(g->service->supervisor, RECORD_ANOMALY, g->service, g, NULL)
		        ->text = "it was prepared a second time";
		return;
	}
	switch (ev->type) {
	case EVENT_PREPARED:
		on_prepared(g, ev);
		break;
	case EVENT_PREPARE_FAILED:
		on_prepare_failed(g, ev);
		break;
	case EVENT_PROBE_DONE:
		if (!g->probing)
			break;
		if (g->state != GENERATION_STARTING)
			generation_check_done(g, ev->ok, ev->text ? ev->text : "");
		else if (ev->ok)
			g->probed = true;
		else
			generation_fail(g, failure_code(g), "failed", "%s",
			        ev->text ? ev->text : "the probe failed");
		break;
	case EVENT_QUIET_CHECKED:
		drain_quiet_checked(g, ev->ok);
		break;
	case EVENT_INFLIGHT:
		drain_counted(g, ev->inflight.total, ev->inflight.idle, ev->inflight.oldest);
		break;
	case EVENT_SOCKET_ADOPTED:
		g->adopted = true;
		break;
	case EVENT_FROZEN:
		drain_looked(g, ev->inflight.unknown, ev->inflight.total, ev->inflight.idle,
		        ev->inflight.oldest);
		break;
	case EVENT_WATCH_FAILED:
		drain_uncountable(g, ev->text);
		break;
	case EVENT_LAST_WORDS:
		if (g->state == GENERATION_STARTING && g->late)
			generation_unready(g, ev->text);
		break;
	case EVENT_MEASURED:
		g->memory = ev->memory;
		service_measured(g->service);
		break;
	case EVENT_WORKER_STARTED:
	case EVENT_WORKER_START_FAILED:
	case EVENT_WORKER_EXITED:
	case EVENT_WORKER_TREE_GONE:
	case EVENT_WORKER_SAID:
		worker_event(g, ev);
		break;
	case EVENT_TIMER:
	case EVENT_REQUEST:
	case EVENT_REQUEST_GONE:
	case EVENT_CONFIG_LOADED:
	case EVENT_CONFIG_REFUSED:
	case EVENT_STEERED:
	case EVENT_STEER_FAILED:
	case EVENT_FILES_CHANGED:
	case EVENT_BUILD_ENDED:
	case EVENT_TYPE_COUNT:
		break;
	}
}

static void service_event(struct supervisor *s, const struct event *ev)
{
	struct service *sv = supervisor_service(s, ev->service);
	struct generation *g;

	if (!sv)
		return;
	if (ev->type == EVENT_STEERED || ev->type == EVENT_STEER_FAILED) {
		turn_answered(sv, ev->type == EVENT_STEERED, ev->text);
	} else if (ev->type == EVENT_FILES_CHANGED || ev->type == EVENT_BUILD_ENDED) {
		gate_on_event(sv, service_find(sv, ev->generation), ev);
	} else {
		g = service_find(sv, ev->generation);
		if (!g)
			return;
		generation_event(g, ev);
	}
	service_settle(sv);
}

/* ---- time ---- */

static struct service *service_of(struct timer *t)
{
	return (struct service *)((char *)t - offsetof(struct service, timer));
}

static struct request *request_of(struct timer *t)
{
	return (struct request *)((char *)t - offsetof(struct request, timer));
}

static void run_timers(struct supervisor *s)
{
	struct timer *t;

	while ((t = timers_first(&s->timers)) && t->at <= s->now) {
		if (t->owner == TIMER_OF_REQUEST) {
			requests_timed_out(s, request_of(t));
			continue;
		}
		service_settle(service_of(t));
		HO_ASSERT(!t->place || t->at > s->now);
	}
}

usec_t supervisor_next_deadline(const struct supervisor *s)
{
	const struct timer *t = timers_first(&s->timers);

	return t ? t->at : USEC_INFINITY;
}

/* ---- start and end ---- */

void supervisor_tell_systemd(struct supervisor *s, enum systemd_word word)
{
	struct action *a = action_push(s->out, ACTION_TELL_SYSTEMD);
	usec_t longest = 0;

	a->systemd.word = word;
	if (word == SYSTEMD_READY)
		return;
	for (size_t i = 0; i < s->n_slots; i++) {
		const struct service *sv = s->services[i];
		usec_t t;

		if (!sv || !sv->wanted_settings)
			continue;
		t = word == SYSTEMD_RELOADING ? sv->wanted_settings->ready.timeout
		                              : usec_add(sv->wanted_settings->drain.deadline,
		                                        sv->wanted_settings->drain.kill_after);
		longest = t > longest ? t : longest;
	}
	a->systemd.extend = usec_add(longest, EXTEND_MARGIN_USEC);
}

static void order_stop(struct supervisor *s)
{
	const struct request_spec spec = {.kind = REQUEST_SHUTDOWN,
	        .timeout = USEC_INFINITY,
	        .cause = "nothing is left to run"};

	requests_add(s, &spec);
}

void supervisor_be_patient(struct supervisor *s, usec_t time)
{
	s->patience = time > s->patience ? time : s->patience;
}

/* All first generations have served or failed: say so, or give up when none serves. */
static void finish_start(struct supervisor *s)
{
	bool serving = false;
	struct action *a;

	if (!s->config)
		return;
	for (size_t i = 0; i < s->n_slots; i++) {
		if (s->services[i] && !s->services[i]->attempted)
			return;
		serving |= s->services[i] && service_serving(s->services[i]);
	}
	if (!serving && !s->development) {
		s->exit_code = 1;
		order_stop(s);
		return;
	}
	s->state = SUPERVISOR_RUNNING;
	a = action_push(s->out, ACTION_TELL_SYSTEMD);
	a->systemd.word = SYSTEMD_READY;
	supervisor_record(s, RECORD_DAEMON_READY, NULL, NULL, NULL);
}

static void drop_ended(struct supervisor *s)
{
	bool all_finished = true, badly = false, any = false;

	s->look_for_ends = false;
	for (size_t i = 0; i < s->n_slots; i++) {
		struct service *sv = s->services[i];
		bool ended;

		if (!sv)
			continue;
		ended = (sv->state == SERVICE_STOPPED || sv->state == SERVICE_FAILED) &&
		        !sv->n_generations;
		if (ended && sv->remove) {
			targets_supersede(sv, "the service was removed");
			HO_ASSERT(!sv->targets);
			supervisor_act(s, ACTION_FORGET_SERVICE, sv, NULL, NULL);
			s->services[i] = service_free(sv);
			continue;
		}
		any = true;
		all_finished &= ended && sv->finished;
		badly |= sv->state == SERVICE_FAILED;
	}
	if (any && all_finished && s->state == SUPERVISOR_RUNNING && !s->development) {
		s->exit_code = badly;
		order_stop(s);
	}
}

static void finish_stop(struct supervisor *s)
{
	if (s->exiting)
		return;
	for (size_t i = 0; i < s->n_slots; i++) {
		const struct service *sv = s->services[i];

		if (sv && (sv->n_generations ||
		                  (sv->state != SERVICE_STOPPED && sv->state != SERVICE_FAILED)))
			return;
	}
	while (s->requests)
		requests_refuse(s, s->requests, CODE_FAILED, "handoffd has stopped");
	s->exiting = true;
	supervisor_record(s, RECORD_DAEMON_STOPPED, NULL, NULL, NULL);
	action_push(s->out, ACTION_EXIT)->exit_code = s->exit_code;
}

/* Also for a reload that comes to nothing: a unit of Type=notify-reload waits for both words. */
static void tell_changes(struct supervisor *s)
{
	bool reloading = s->loading || s->rolling > 0;
	usec_t patience = s->patience;
	struct action *a;

	s->patience = 0;
	if (s->state == SUPERVISOR_RUNNING && s->told_reloading != reloading) {
		s->told_reloading = reloading;
		supervisor_tell_systemd(s, reloading ? SYSTEMD_RELOADING : SYSTEMD_READY);
	}
	if (!patience || s->state == SUPERVISOR_STOPPING ||
	        (s->state == SUPERVISOR_RUNNING && !reloading))
		return;
	a = action_push(s->out, ACTION_TELL_SYSTEMD);
	a->systemd.word = SYSTEMD_WAIT;
	a->systemd.extend = usec_add(patience, EXTEND_MARGIN_USEC);
}

void supervisor_step(
        struct supervisor *s, usec_t now, const struct event *ev, struct action_list *out)
{
	HO_ASSERT(now >= s->now);
	s->now = now;
	s->out = out;
	if (action_list_reserve(out, out->n + s->n_actions) < 0) {
		HO_ASSERT(out->size >= out->n + ACTIONS_OF_SUPERVISOR);
	}
	switch (ev->type) {
	case EVENT_TIMER:
		break;
	case EVENT_REQUEST:
		requests_add(s, &ev->request);
		break;
	case EVENT_REQUEST_GONE:
		requests_gone(s, ev->request_id);
		break;
	case EVENT_CONFIG_LOADED:
		on_config_loaded(s, ev);
		break;
	case EVENT_CONFIG_REFUSED:
		on_config_refused(s, ev->text);
		break;
	case EVENT_PREPARED:
	case EVENT_PREPARE_FAILED:
	case EVENT_WORKER_STARTED:
	case EVENT_WORKER_START_FAILED:
	case EVENT_WORKER_EXITED:
	case EVENT_WORKER_TREE_GONE:
	case EVENT_WORKER_SAID:
	case EVENT_LAST_WORDS:
	case EVENT_PROBE_DONE:
	case EVENT_STEERED:
	case EVENT_STEER_FAILED:
	case EVENT_QUIET_CHECKED:
	case EVENT_SOCKET_ADOPTED:
	case EVENT_FROZEN:
	case EVENT_INFLIGHT:
	case EVENT_WATCH_FAILED:
	case EVENT_FILES_CHANGED:
	case EVENT_BUILD_ENDED:
	case EVENT_MEASURED:
		service_event(s, ev);
		break;
	case EVENT_TYPE_COUNT:
		break;
	}
	run_timers(s);
	if (s->state == SUPERVISOR_STARTING)
		finish_start(s);
	if (s->look_for_ends)
		drop_ended(s);
	if (s->state == SUPERVISOR_STOPPING)
		finish_stop(s);
	tell_changes(s);
}

void supervisor_summary(const struct supervisor *s, struct text *t)
{
	for (size_t i = 0; i < s->n_slots && !t->cut; i++) {
		const struct service *sv = s->services[i];
		const struct generation *g;
		uint64_t connections = 0;
		unsigned old = 0;

		if (!sv)
			continue;
		g = service_serving(sv);
		for (unsigned k = 0; k < sv->n_generations; k++) {
			old += generation_is_old(sv->generations[k]);
			connections += generation_is_old(sv->generations[k])
			                       ? sv->generations[k]->in_flight
			                       : 0;
		}
		text_add(t, "%s%s: ", t->len ? "; " : "", sv->name);
		if (g)
			text_add(t, "generation %u serves", g->id);
		else
			text_add(t, "%s", service_state_to_string(sv->state));
		if (sv->rolling && sv->rolling->state == GENERATION_CANARY)
			text_add(t, ", %u has %.4g %%", sv->rolling->id,
			        sv->rolling->share * 100. / SHARE_ALL);
		else if (sv->rolling)
			text_add(t, ", %u starts", sv->rolling->id);
		if (old)
			text_add(t, ", %u old (%llu connections)", old,
			        (unsigned long long)connections);
	}
}
