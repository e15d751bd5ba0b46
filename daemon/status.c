/* SPDX-License-Identifier: MIT */
/* The picture for `status`: the core's tables with the kernel's numbers of this moment. */
#include "conf/load.h"
#include "core/capability.h"
#include "core/drain.h"
#include "daemon.h"
#include "process/memory.h"
#include "system/fd.h"
#include "system/log.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MONITORS_PAUSE (100 * USEC_PER_MSEC)

/* Everything a picture owns. */
struct picture {
	struct view view;
	struct view_service *services;
	struct view_generation *generations;
	struct view_worker *workers;
	struct view_listener *listeners;
	struct listener_set **sets;
	struct inflight *counts;
	size_t n_services, n_generations, n_workers, n_listeners;
};

static void picture_done(struct picture *p)
{
	free(p->services);
	free(p->generations);
	free(p->workers);
	free(p->listeners);
	free(p->sets);
	free(p->counts);
}

static bool wanted(const struct service *sv, const char *name)
{
	return sv && (!name || !strcmp(sv->name, name));
}

static const struct live_generation *live(const struct generation *g)
{
	return g->shell;
}

/* The listeners of a service are shown as the serving generation has them, else the newest. */
static const struct live_generation *newest_live(const struct service *sv)
{
	const struct generation *serving = service_serving(sv);

	if (serving && live(serving) && live(serving)->set)
		return live(serving);
	for (unsigned i = sv->n_generations; i-- > 0;)
		if (live(sv->generations[i]) && live(sv->generations[i])->set)
			return live(sv->generations[i]);
	return NULL;
}

static bool make_room(struct picture *p, const struct supervisor *s, const char *name)
{
	size_t services = 0, generations = 0, workers = 0, listeners = 0;

	for (size_t i = 0; i < s->n_slots; i++) {
		const struct service *sv = s->services[i];
		const struct live_generation *g;

		if (!wanted(sv, name))
			continue;
		services++;
		generations += sv->n_generations;
		for (unsigned k = 0; k < sv->n_generations; k++)
			workers += sv->generations[k]->n_workers;
		g = newest_live(sv);
		listeners += g ? listener_set_count(g->set) : 0;
	}
	p->services = calloc(services + 1, sizeof *p->services);
	p->generations = calloc(generations + 1, sizeof *p->generations);
	p->workers = calloc(workers + 1, sizeof *p->workers);
	p->listeners = calloc(listeners + 1, sizeof *p->listeners);
	p->sets = calloc(generations + 1, sizeof *p->sets);
	p->counts = calloc(generations + 1, sizeof *p->counts);
	return p->services && p->generations && p->workers && p->listeners && p->sets && p->counts;
}

static const char *worker_state(const struct generation *g, const struct worker *w)
{
	switch (w->state) {
	case WORKER_ABSENT:
		return w->retry_at == USEC_INFINITY ? "gone" : "starting";
	case WORKER_STARTING:
		return "starting";
	case WORKER_STOPPING:
	case WORKER_REST:
		return "stopping";
	case WORKER_RUNNING:
	case WORKER_READY:
		break;
	}
	if (g->state == GENERATION_STARTING && w->state == WORKER_READY)
		return "ready";
	return generation_state_to_string(g->state);
}

static void show_workers(struct picture *p, const struct generation *g, struct view_generation *v)
{
	v->workers = &p->workers[p->n_workers];
	v->n_workers = g->n_workers;
	for (unsigned i = 0; i < g->n_workers; i++) {
		const struct worker *w = &g->workers[i];
		struct view_worker *o = &p->workers[p->n_workers++];
		const struct live_worker *live_worker = w->shell;
		struct worker_counts counts;

		*o = (struct view_worker){
		        .index = w->index,
		        .pid = w->pid,
		        .state = worker_state(g, w),
		        .started = w->started,
		        .restarts = w->restarts,
		        .status = w->status,
		        .ended = w->ended,
		};
		if (!live_worker || !process_counts(live_worker->process, &counts))
			continue;
		o->in_flight_known = v->requests_known = true;
		o->in_flight = counts.connections;
		o->busy = counts.busy;
		o->requests = counts.requests;
		v->requests += counts.requests;
	}
}

static void show_generation(
        struct picture *p, const struct generation *g, const struct inflight *count)
{
	struct view_generation *v = &p->generations[p->n_generations++];
	bool old = generation_is_old(g);

	*v = (struct view_generation){
	        .id = g->id,
	        .state = generation_state_to_string(g->state),
	        .share = g->share,
	        .release = live(g) && live(g)->release ? live(g)->release->directory : NULL,
	        .started = g->created,
	        .in_flight = count ? count->total : 0,
	        .in_flight_known = count || !generation_has_listeners(g),
	        .deadline_in = USEC_INFINITY,
	        .promote_in = USEC_INFINITY,
	        .baked_in = USEC_INFINITY,
	        .drains_in = USEC_INFINITY,
	        .observed = -1,
	        .oldest = count ? count->oldest
	                  : old ? g->oldest
	                        : 0,
	        .reason = g->state == GENERATION_FAILED || g->rolled_back ? g->reason : "",
	};
	if (g->state == GENERATION_DRAINING || g->state == GENERATION_STOPPING) {
		v->drain_by = drain_by(g);
		v->deadline_in = g->deadline == USEC_INFINITY ? g->deadline
		                                              : usec_sub(g->deadline, now_usec());
	}
	if (g->state == GENERATION_CANARY && g->promote_at != USEC_INFINITY)
		v->promote_in = usec_sub(g->promote_at, now_usec());
	if (g->state == GENERATION_SERVING && g->baking)
		v->baked_in = usec_sub(g->bake_until, now_usec());
	if (g->state == GENERATION_WARM)
		v->drains_in = usec_sub(g->hold_until, now_usec());
	v->sent_known = live(g) && live(g)->set && listener_set_sent(live(g)->set, &v->sent) == 0;
	v->sent_now = v->sent_known ? v->sent - live(g)->sent_before : 0;
	show_workers(p, g, v);
}

/* What part of the connections of this time has each really got? */
static void observe_shares(struct view_service *v)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < v->n_generations; i++)
		sum += v->generations[i].sent_now;
	for (size_t i = 0; i < v->n_generations; i++) {
		struct view_generation *g = &v->generations[i];

		if (sum && g->sent_known)
			g->observed = (double)g->sent_now * 100. / (double)sum;
	}
}

static void show_listeners(struct picture *p, const struct service *sv, struct view_service *v)
{
	const struct live_generation *g = newest_live(sv);

	v->listeners = &p->listeners[p->n_listeners];
	for (size_t i = 0; g && i < listener_set_count(g->set); i++) {
		struct listener_info l = listener_set_info(g->set, i);
		struct view_listener *o = &p->listeners[p->n_listeners++];

		*o = (struct view_listener){l.config->name, l.config->address.text,
		        steering_to_string(l.steering), listener_origin_to_string(l.origin),
		        rescue_to_string(listener_set_rescue(g->set, i)), 0,
		        (unsigned)l.config->backlog, ""};
		(void)listener_set_form(g->set, i, o->form, sizeof o->form);
		(void)listener_set_queue(g->set, i, &o->queue, &o->backlog);
		v->n_listeners++;
	}
}

static void show_service(struct picture *p, const struct service *sv, bool counted)
{
	struct view_service *v = &p->services[p->n_services++];
	const struct generation *serving = service_serving(sv);
	size_t set = 0;

	*v = (struct view_service){
	        .name = sv->name,
	        .state = service_state_to_string(sv->state),
	        .generation = serving ? serving->id : 0,
	        .zeroth = serving && serving->taken,
	        .reloading = sv->rolling || sv->waiting,
	        .last_result = sv->has_result ? &sv->last_result : NULL,
	        .generations = &p->generations[p->n_generations],
	        .n_generations = sv->n_generations,
	};
	show_listeners(p, sv, v);
	for (unsigned i = sv->n_generations; i-- > 0;) { /* newest first */
		const struct generation *g = sv->generations[i];
		const struct inflight *count = NULL;

		for (set = 0; counted && live(g) && live(g)->set && p->sets[set]; set++)
			if (p->sets[set] == live(g)->set)
				count = &p->counts[set];
		show_generation(p, g, count);
	}
	observe_shares(v);
}

static bool count_all(struct daemon *d, struct picture *p, const char *name)
{
	const struct supervisor *s = d->supervisor;
	struct ho_error error = {0};
	size_t n = 0;

	for (size_t i = 0; i < s->n_slots; i++)
		for (unsigned k = 0;
		        wanted(s->services[i], name) && k < s->services[i]->n_generations; k++) {
			const struct live_generation *g = live(s->services[i]->generations[k]);

			if (g && g->set)
				p->sets[n++] = g->set;
		}
	if (!n)
		return true;
	if (connections_count(d->connections, p->sets, n, NULL, NULL, p->counts, &error) < 0) {
		log_line(RECORD_WARNING, "%s", error.text);
		return false;
	}
	return true;
}

/* Where handoffd can start programs under no user but its own, it can look into all of them. */
static struct view_mode mode_of(const struct daemon *d)
{
	const struct rights *r = &d->rights;

	return (struct view_mode){r->user, r->capabilities,
	        (r->capabilities & CAPABILITY_BIT(SYS_PTRACE)) ||
	                !(r->capabilities & CAPABILITY_BIT(SETUID)),
	        connections_told(d->connections)};
}

struct owned {
	struct process **processes;
	struct view_generation **owners;
	size_t n;
};

static void add_memory(size_t i, pid_t pid, void *arg)
{
	const struct owned *o = arg;

	o->owners[i]->memory += process_memory(pid);
}

/* In the order in which show_service() has shown them. */
static void own_workers(struct owned *o, struct picture *p, const struct service *sv, size_t *at)
{
	for (unsigned i = sv->n_generations; i-- > 0; ++*at)
		for (unsigned k = 0; k < sv->generations[i]->n_workers; k++) {
			const struct live_worker *w = sv->generations[i]->workers[k].shell;

			if (!w)
				continue;
			o->owners[o->n] = &p->generations[*at];
			o->processes[o->n++] = w->process;
		}
}

/* With one look at /proc for all. Stays unknown when memory is short. */
static void measure_all(struct daemon *d, struct picture *p, const char *name)
{
	const struct supervisor *s = d->supervisor;
	struct owned o = {0};
	size_t at = 0;

	o.processes = calloc(p->n_workers + 1, sizeof(struct process *));
	o.owners = calloc(p->n_workers + 1, sizeof(struct view_generation *));
	for (size_t i = 0; o.processes && o.owners && i < s->n_slots; i++)
		if (wanted(s->services[i], name))
			own_workers(&o, p, s->services[i], &at);
	if (o.n)
		processes_each(o.processes, o.n, add_memory, &o);
	free(o.processes);
	free(o.owners);
}

/* Of one service, or of all. */
static bool picture_take(struct daemon *d, const char *service, struct picture *p)
{
	static const char *const states[] = {
	        [SUPERVISOR_STARTING] = "starting",
	        [SUPERVISOR_RUNNING] = "running",
	        [SUPERVISOR_STOPPING] = "stopping",
	};
	const struct supervisor *s = d->supervisor;
	bool counted;

	*p = (struct picture){0};
	if (!make_room(p, s, service)) {
		picture_done(p);
		return false;
	}
	counted = count_all(d, p, service);
	for (size_t i = 0; i < s->n_slots; i++)
		if (wanted(s->services[i], service))
			show_service(p, s->services[i], counted);
	measure_all(d, p, service);
	p->view = (struct view){
	        .pid = getpid(),
	        .version = HANDOFF_VERSION,
	        .environment = s->config ? s->config->environment : "",
	        .state = states[s->state],
	        .steering = steering_to_string(sockets_steering(d->sockets)),
	        .config_error = s->config_error,
	        .now = now_usec(),
	        .services = p->services,
	        .n_services = p->n_services,
	        .mode = mode_of(d),
	};
	return true;
}

void daemon_refuse_service(struct daemon *d, struct control_call *call, const char *service)
{
	char text[400];
	struct text t = TEXT_ON(text);

	requests_no_service(d->supervisor, service, &t);
	control_answer_error(call, CODE_USAGE, text);
}

void daemon_answer_status(struct daemon *d, struct control_call *call, const char *service)
{
	struct picture p;

	if (service && !supervisor_find(d->supervisor, service)) {
		daemon_refuse_service(d, call, service);
		return;
	}
	if (!picture_take(d, service, &p)) {
		control_answer_error(call, CODE_FAILED, "handoffd is short of memory");
		return;
	}
	control_answer_status(call, &p.view);
	picture_done(&p);
}

static void tell_monitors_in(struct daemon *d, usec_t pause)
{
	ev_timer_stop(d->loop, &d->monitors);
	ev_now_update(d->loop);
	ev_timer_set(&d->monitors, (double)pause / USEC_PER_SEC, 0.);
	ev_timer_start(d->loop, &d->monitors);
}

/* Not so often that it costs more than two per cent of a processor. */
static void plan_monitors(struct daemon *d, usec_t begun)
{
	d->monitors_told = now_usec();
	d->monitors_pause = (d->monitors_told - begun) * 50;
	if (d->monitors_pause < MONITORS_PAUSE)
		d->monitors_pause = MONITORS_PAUSE;
	tell_monitors_in(d, d->monitors_pause > USEC_PER_SEC ? d->monitors_pause : USEC_PER_SEC);
}

void daemon_hasten_monitors(struct daemon *d)
{
	usec_t in;

	if (!ev_is_active(&d->monitors))
		return;
	in = usec_sub(d->monitors_told + d->monitors_pause, now_usec());
	if (ev_timer_remaining(d->loop, &d->monitors) * USEC_PER_SEC > (double)in)
		tell_monitors_in(d, in);
}

void daemon_answer_monitor(struct daemon *d, struct control_call *call)
{
	usec_t begun = now_usec();
	struct picture p;

	if (!picture_take(d, NULL, &p)) {
		control_answer_error(call, CODE_FAILED, "handoffd is short of memory");
		return;
	}
	control_monitor(call, &p.view);
	picture_done(&p);
	if (!ev_is_active(&d->monitors))
		plan_monitors(d, begun);
}

void daemon_on_monitors(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct daemon *d = timer->data;
	usec_t begun = now_usec();
	struct picture p;

	(void)loop;
	(void)events;
	if (!d->control || !control_has_monitors(d->control))
		return;
	if (picture_take(d, NULL, &p)) {
		control_publish_status(d->control, &p.view);
		picture_done(&p);
	}
	plan_monitors(d, begun);
}

void daemon_answer_services(struct daemon *d, struct control_call *call)
{
	const struct supervisor *s = d->supervisor;
	const char **names = calloc(s->n_slots + 1, sizeof *names);
	size_t n = 0;

	if (!names) {
		control_answer_error(call, CODE_FAILED, "handoffd is short of memory");
		return;
	}
	for (size_t i = 0; i < s->n_slots; i++)
		if (s->services[i])
			names[n++] = s->services[i]->name;
	control_answer_services(call, names, n);
	free(names);
}

/* Of each service what its serving generation runs with, which may be older than the file. */
void daemon_answer_config(struct daemon *d, struct control_call *call)
{
	const struct supervisor *s = d->supervisor;
	struct config now = s->config ? *s->config : (struct config){0};
	_cleanup_free_ struct service_config *services = calloc(s->n_slots + 1, sizeof *services);
	_cleanup_free_ char *text = NULL;
	_cleanup_free_ char *file = d->source.file ? realpath(d->source.file, NULL) : NULL;

	now.services = services;
	now.n_services = 0;
	for (size_t i = 0; services && i < s->n_slots; i++) {
		const struct service *sv = s->services[i];
		const struct generation *g = sv ? service_serving(sv) : NULL;

		if (sv && sv->wanted_settings)
			services[now.n_services++] = *(g ? g->settings : sv->wanted_settings);
	}
	text = services && s->config ? config_print(&now) : NULL;
	if (text)
		control_answer_config(call, file, now.environment, text);
	else
		control_answer_error(call, CODE_FAILED, "handoffd is short of memory");
}

void daemon_answer_logs(
        struct daemon *d, struct control_call *call, const char *service, bool follow)
{
	const struct service *sv = supervisor_find(d->supervisor, service);
	struct control_log *logs;
	size_t n = 0, room = LAST_WORDS_MAX;

	for (unsigned i = 0; sv && i < sv->n_generations; i++)
		room += sv->generations[i]->n_workers;
	logs = calloc(room, sizeof *logs);
	if (!logs) {
		control_answer_error(call, CODE_FAILED, "handoffd is short of memory");
		return;
	}
	for (unsigned i = d->n_words < LAST_WORDS_MAX ? 0 : d->n_words - LAST_WORDS_MAX;
	        i < d->n_words; i++) {
		const struct last_words *l = &d->words[i % LAST_WORDS_MAX];

		if (l->text && !strcmp(l->service, service))
			logs[n++] = (struct control_log){
			        l->generation, l->worker, l->pid, "gone", l->text};
	}
	for (unsigned i = 0; sv && i < sv->n_generations; i++) {
		const struct generation *g = sv->generations[i];

		for (unsigned k = 0; k < g->n_workers; k++) {
			struct live_worker *w = g->workers[k].shell;

			if (w)
				logs[n++] = (struct control_log){g->id, k, g->workers[k].pid,
				        worker_state(g, &g->workers[k]), process_log(w->process)};
		}
	}
	if (!sv && !n)
		daemon_refuse_service(d, call, service);
	else
		control_answer_logs(call, service, logs, n, follow);
	free(logs);
}

void daemon_tell_output(
        struct daemon *d, const struct live_worker *w, const char *line, size_t length)
{
	const struct service *sv = supervisor_service(d->supervisor, w->service);
	const struct generation *g = sv ? service_find(sv, w->generation) : NULL;
	_cleanup_free_ char *text = NULL;
	struct control_log log;

	if (!g || w->index >= g->n_workers || !d->control ||
	        !control_wants_output(d->control, sv->name))
		return;
	text = malloc(length + 2);
	if (!text)
		return;
	for (size_t i = 0; i < length; i++)
		text[i] = line[i] ? line[i] : '?'; /* as in what is kept */
	memcpy(text + length, "\n", 2);
	log = (struct control_log){g->id, w->index, (int)process_pid(w->process),
	        worker_state(g, &g->workers[w->index]), text};
	control_publish_output(d->control, sv->name, &log);
}
