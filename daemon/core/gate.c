/* SPDX-License-Identifier: MIT */
#include "core/gate.h"
#include "core/share.h"
#include "core/supervisor.h"
#include "core/turn.h"

#include <stdio.h>
#include <string.h>

/* Changes that never rest are acted on after so many quiet periods. */
#define CEILING_FACTOR 10
/* Builds in a row that began themselves: whoever changes the files, it is no person. */
#define OWN_RUNS_MAX 5
/* A start that takes longer is given up for newer code. */
#define SUPERSEDE_USEC (1 * USEC_PER_SEC)

/* ---- files ---- */

void gate_init(struct gate *g)
{
	*g = (struct gate){.due = USEC_INFINITY};
}

void gate_drop(struct gate *g)
{
	g->due = USEC_INFINITY;
	g->n = 0;
	g->path[0] = '\0';
	for (size_t i = 0; i < GATE_FILES; i++)
		g->files[i].waits = g->files[i].fresh = false;
}

/* FNV-1a */
static uint64_t hash(const char *path)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (; *path; path++)
		h = (h ^ (unsigned char)*path) * 0x100000001b3u;
	return h ? h : 1;
}

/* The oldest entry makes room for a new one. */
static struct gate_file *file_of(struct gate *g, const char *path)
{
	const uint64_t h = hash(path);

	for (size_t i = 0; i < GATE_FILES; i++)
		if (g->files[i].hash == h)
			return &g->files[i];
	g->last_file = (g->last_file + 1) % GATE_FILES;
	g->files[g->last_file] = (struct gate_file){.hash = h};
	return &g->files[g->last_file];
}

static enum gate_verdict judge(struct gate *g, struct gate_file *f)
{
	bool again = f->run && f->run + 1 == g->run;

	f->run = g->run;
	if (f->builds)
		return GATE_BUILDS;
	if (f->users || (!again && g->own_runs < OWN_RUNS_MAX))
		return GATE_COUNTS;
	f->builds = true;
	return GATE_BUILDS_NEW;
}

static void add_change(struct gate *g, struct gate_file *f, const char *path,
        enum file_change change, unsigned more)
{
	if (!f->waits)
		g->n++;
	f->fresh = f->waits ? f->fresh : change == FILE_APPEARED;
	f->waits = true;
	g->n += more;
	/* whatever an editor does on the way, the file itself comes last */
	if (!g->path[0] || change == FILE_WRITTEN)
		(void)copy_string(g->path, sizeof g->path, path);
}

/* It came and went: forgotten, and all is as if there had been nothing if nothing else is left. */
static void take_back(struct gate *g, struct gate_file *f, const char *path)
{
	f->waits = f->fresh = false;
	g->n--;
	if (!strcmp(g->path, path))
		g->path[0] = '\0';
	if (!g->n)
		g->due = USEC_INFINITY;
}

enum gate_verdict gate_change(struct gate *g, usec_t now, usec_t debounce, bool building,
        const char *path, enum file_change change, unsigned more)
{
	struct gate_file *f = file_of(g, path);
	enum gate_verdict verdict = GATE_COUNTS;

	if (change == FILE_GONE && f->waits && f->fresh) {
		take_back(g, f, path);
		return verdict;
	}
	if (building) {
		verdict = judge(g, f);
	} else {
		f->users = true;
		f->builds = false;
		g->own_runs = 0;
	}
	if (verdict != GATE_COUNTS)
		return verdict;
	if (g->due == USEC_INFINITY) {
		g->first = now;
		g->own_runs += building && !f->users;
	}
	add_change(g, f, path, change, more);
	g->due = usec_add(now, debounce);
	if (g->due > usec_add(g->first, CEILING_FACTOR * debounce))
		g->due = usec_add(g->first, CEILING_FACTOR * debounce);
	return verdict;
}

bool gate_take(struct gate *g, usec_t now)
{
	struct text t;

	if (now < g->due)
		return false;
	t = TEXT_ON(g->said);
	text_add(&t, "%s", g->path[0] ? g->path : "files");
	if (g->n > 1)
		text_add(&t, " and %u more", g->n - 1);
	text_add(&t, " changed");
	gate_drop(g);
	return true;
}

/* ---- builds ---- */

static struct generation *building(const struct service *sv)
{
	for (unsigned i = 0; i < sv->n_generations; i++)
		if (sv->generations[i]->building)
			return sv->generations[i];
	return NULL;
}

static void start_build(struct generation *g)
{
	struct service *sv = g->service;
	struct supervisor *s = sv->supervisor;

	g->building = true;
	g->build_again = false;
	sv->gate.run++;
	supervisor_act(s, ACTION_START_BUILD, sv, g, NULL);
	supervisor_record(s, RECORD_BUILD_STARTED, sv, g, NULL);
}

static void on_build_ended(struct service *sv, struct generation *g, const struct event *ev)
{
	struct supervisor *s = sv->supervisor;
	char how[80], text[sizeof g->reason];
	struct text t = TEXT_ON(text);
	struct record *r;

	if (!g->building)
		return;
	g->building = false;
	if (g->state != GENERATION_STARTING || g->build_again)
		return;
	if (ev->exited.code == 1 && ev->exited.status == 0) {
		g->built = true;
		r = supervisor_record(s, RECORD_BUILD_DONE, sv, g, NULL);
		r->duration = s->now - g->created;
		return;
	}
	describe_exit(how, sizeof how, ev->exited.code, ev->exited.status, 0);
	if (ev->exited.code)
		text_add(&t, "the build %s", how);
	else
		text_add(&t, "the build could not be started");
	add_last_words(&t, ev->text);
	generation_fail(g, service_serving(sv) ? CODE_GENERATION_FAILED : CODE_FAILED, "failed",
	        "%s", text);
}

static void on_files_changed(struct service *sv, const struct event *ev)
{
	struct supervisor *s = sv->supervisor;
	const char *path = ev->text ? ev->text : "?";
	bool stopped =
	        (sv->state == SERVICE_STOPPING || sv->state == SERVICE_STOPPED) && !sv->finished;

	if (stopped || sv->remove || s->state == SUPERVISOR_STOPPING)
		return;
	if (gate_change(&sv->gate, s->now, sv->wanted_settings->watch_debounce,
	            building(sv) != NULL, path, ev->files.change,
	            ev->files.more) == GATE_BUILDS_NEW)
		supervisor_record(s, RECORD_BUILD_CHANGES_FILES, sv, NULL, NULL)->text =
		        action_text(s->out,
		                "the build itself changes %s, which is watched: such changes no "
		                "longer begin it anew; name the file in watch-ignore",
		                path);
}

void gate_on_event(struct service *sv, struct generation *g, const struct event *ev)
{
	if (ev->type == EVENT_FILES_CHANGED)
		on_files_changed(sv, ev);
	else if (g)
		on_build_ended(sv, g, ev);
}

/* What is being built, or was built but not started yet, is of before the change. */
static void build_again(struct generation *g)
{
	struct supervisor *s = g->service->supervisor;

	g->built = false;
	if (!g->building || g->build_again)
		return;
	g->build_again = true;
	supervisor_act(s, ACTION_STOP_BUILD, g->service, g, NULL);
}

/* A start that hangs does not keep newer code waiting. */
static bool superseded(const struct service *sv)
{
	const struct generation *g = sv->rolling;

	return g && g->begun && g->state == GENERATION_STARTING && sv->waiting &&
	       sv->supervisor->development;
}

bool gate_advance(struct service *sv)
{
	struct supervisor *s = sv->supervisor;
	struct record *r;

	if (s->state == SUPERVISOR_STOPPING || sv->remove)
		gate_drop(&sv->gate);
	if (gate_take(&sv->gate, s->now)) {
		r = supervisor_record(s, RECORD_FILES_CHANGED, sv, NULL, NULL);
		r->text = action_text(s->out, "%s", sv->gate.said);
		if (sv->rolling && !sv->rolling->begun)
			build_again(sv->rolling);
		else
			service_roll(sv, sv->gate.said);
		return true;
	}
	if (superseded(sv) && s->now >= usec_add(sv->rolling->begun_at, SUPERSEDE_USEC)) {
		generation_fail(sv->rolling, CODE_SUPERSEDED, "superseded",
		        "it was not ready when there was something newer to start");
		return true;
	}
	if (sv->held && service_serving(sv) && !sv->waiting &&
	        (!sv->rolling || sv->rolling->begun)) {
		turn_begin(sv, TURN_RETURN, service_serving(sv), SHARE_ALL);
		return true;
	}
	return false;
}

usec_t gate_next_deadline(const struct service *sv)
{
	usec_t at = sv->state == SERVICE_STOPPING ? USEC_INFINITY : sv->gate.due, next;

	if (!superseded(sv))
		return at;
	next = usec_add(sv->rolling->begun_at, SUPERSEDE_USEC);
	return next < at ? next : at;
}

/* ---- holding ---- */

bool gate_holds(const struct service *sv, const struct generation *g)
{
	return g->holds || sv->held == g;
}

/* Is there anybody who would answer with old code, or not at all? */
static bool wants_hold(const struct generation *g)
{
	const struct service *sv = g->service;
	const struct service_config *c = g->settings;
	const struct generation *old = service_serving(sv);

	if (!generation_has_listeners(g) || g->shared || c->sockets == SOCKETS_ADOPT ||
	        (old && (old->shared || old->taken)))
		return false;
	if (c->rollout.order == ROLLOUT_STOP_FIRST)
		/* a program that binds its address itself would lose who waits at our socket,
		 * unless the kernel or a relay takes them over */
		return (old || sv->held) &&
		       (sv->supervisor->development || g->migrates || c->sockets == SOCKETS_PASS);
	return (old || sv->held) && sv->supervisor->development && c->dev.hold && !g->canary &&
	       !g->step;
}

void gate_return_held(struct service *sv)
{
	if (!sv->held)
		return;
	supervisor_act(sv->supervisor, ACTION_RETURN_HELD, sv, sv->held, NULL);
	sv->held = NULL;
}

void gate_held(struct service *sv, struct generation *g, bool ok)
{
	g->hold_tried = true;
	g->holds = ok && g->state == GENERATION_STARTING;
	if (ok)
		gate_return_held(sv);
	if (g->state == GENERATION_FAILED)
		sv->held = g;
}

void gate_failed(struct generation *g)
{
	struct service *sv = g->service;

	if (g->holds || g->waited)
		sv->held = g;
	g->holds = false;
	if (g->building)
		supervisor_act(sv->supervisor, ACTION_STOP_BUILD, sv, g, NULL);
}

void gate_resume(struct service *sv, bool crashed)
{
	if (sv->wanted_settings && sv->wanted_settings->watch.count)
		supervisor_act(sv->supervisor, ACTION_WATCH_FILES, sv, NULL, NULL);
	for (unsigned i = 0; i < sv->n_generations; i++) {
		struct generation *g = sv->generations[i];

		if (crashed)
			g->building = g->build_again = false;
		if (!sv->held && g->state == GENERATION_FAILED && g->share &&
		        sv->turn == TURN_NONE)
			sv->held = g; /* an older version did not write it down */
	}
}

/* ---- the way to the first worker ---- */

static bool alone(const struct generation *g)
{
	const struct service *sv = g->service;

	for (unsigned i = 0; i < sv->n_generations; i++)
		if (sv->generations[i] != g && !sv->generations[i]->taken &&
		        generation_has_processes(sv->generations[i]))
			return false;
	return true;
}

/* The old ones leave; who waits in their queues is served by them first. */
static bool send_away(struct generation *g)
{
	struct service *sv = g->service;
	struct generation *old = service_serving(sv);

	if (!old || old->taken)
		return false;
	turn_leaves(old, g);
	if (old->baking) /* who waits for that cannot be told more of it */
		targets_serving(sv, old->id, true);
	service_set_state(sv, SERVICE_STARTING);
	if (g->holds)
		turn_retire_all(sv);
	else
		turn_begin(sv, TURN_STOP, NULL, 0);
	return true;
}

void gate_expect(struct generation *g, usec_t until)
{
	const struct rollout_config *r = &g->settings->rollout;
	struct supervisor *s = g->service->supervisor;
	usec_t time = usec_add(usec_sub(until, s->now), r->bake);

	if (r->canary && r->hold != USEC_INFINITY)
		time = usec_add(time, r->hold);
	g->ready_deadline = until;
	supervisor_be_patient(s, time);
}

bool gate_begin(struct generation *g)
{
	struct service *sv = g->service;
	usec_t now = sv->supervisor->now;

	if (!g->hold_tried && wants_hold(g)) {
		turn_begin(sv, TURN_HOLD, g, SHARE_ALL);
		return true;
	}
	if (g->settings->build.count && !g->built && !g->taken && !g->roll.back) {
		if (building(sv))
			return false;
		start_build(g);
		return true;
	}
	if (g->settings->rollout.order == ROLLOUT_STOP_FIRST) {
		supervisor_be_patient(sv->supervisor,
		        usec_add(g->settings->drain.deadline, g->settings->drain.kill_after));
		if (send_away(g))
			return true;
		if (!alone(g))
			return false;
		g->step = 0;
		g->open = g->n_workers;
	}
	g->begun = true;
	g->begun_at = now;
	gate_expect(g, usec_add(now, g->settings->ready.timeout));
	for (unsigned i = 0; i < g->open; i++)
		generation_start_worker(g, &g->workers[i]);
	return true;
}
