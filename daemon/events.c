/* SPDX-License-Identifier: MIT */
/* What happens outside becomes events; the events at hand are run to completion before the loop
 * waits again. */
#include "daemon.h"
#include "upgrade.h"
#include "system/fd.h"
#include "system/log.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define REST_SECONDS .2

#define REFUSALS_TOLD 20
#define REFUSALS_WITHIN (10 * USEC_PER_SEC)

#define COMMIT_AFTER 0.1 /* seconds */

void daemon_post(struct daemon *d, const struct event *ev)
{
	size_t n = ev->text ? strlen(ev->text) + 1 : 0;
	struct posted *p = malloc(sizeof *p + n);

	if (!p) {
		if (ev->type == EVENT_CONFIG_LOADED)
			config_unref(ev->config);
		d->out_of_memory = true;
		return;
	}
	p->next = NULL;
	p->ev = *ev;
	if (n) {
		memcpy(p->text, ev->text, n);
		p->ev.text = p->text;
	}
	*d->last = p;
	d->last = &p->next;
}

/* A probe that has not succeeded knows why; the core wants to know it when time runs out. */
static void tell_trouble(struct daemon *d)
{
	for (struct live_generation *g = d->probing; g; g = g->next)
		for (size_t i = 0; i < g->n_probes; i++) {
			struct event ev = {.type = EVENT_WORKER_SAID,
			        .service = g->service,
			        .generation = g->generation,
			        .serial = 1,
			        .said.word = WORD_TROUBLE};
			char text[400];
			struct text t = TEXT_ON(text);

			if (g->probes[i])
				ev.text = probe_status(g->probes[i]);
			if (!ev.text)
				continue;
			if (g->refused[0]) {
				text_add(&t, "%s; %s", ev.text, g->refused);
				ev.text = text;
			} else if (g->elsewhere[0]) {
				text_add(&t, "%s; the program listens on %s instead", ev.text,
				        g->elsewhere);
				ev.text = text;
			}
			supervisor_step(d->supervisor, now_usec(), &ev, &d->actions);
			break;
		}
}

static void carry_out(struct daemon *d)
{
	struct action_list *l = &d->actions;
	bool wrote = false, again = false;

	for (size_t i = 0; i < l->n; i++) {
		if (action_changes(&l->items[i]))
			d->changed = true;
		/* the core has forgotten it, and so does whatever is written on the way */
		if (l->items[i].type == ACTION_FORGET_SERVICE)
			store_forget_service(d, l->items[i].service);
	}
	while (l->carried < l->n) {
		const struct action *a = &l->items[l->carried];

		if (d->changed && action_is_final(a)) {
			store_commit(d);
			wrote = true;
		}
		if (a->service && a->type != ACTION_RECORD)
			store_note_change(d, a->service);
		l->carried++;
		daemon_carry_out(d, a);
		again |= wrote && action_is_repeated(a);
	}
	d->touched |= l->n > 0;
	d->changed |= again; /* that it was done */
	action_list_clear(l);
}

static void on_commit(struct ev_loop *loop, ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	store_commit_calmly(timer->data);
}

void daemon_commit_later(struct daemon *d, double seconds)
{
	if (ev_is_active(&d->commit))
		return;
	ev_timer_init(&d->commit, on_commit, seconds, 0.);
	d->commit.data = d;
	ev_timer_start(d->loop, &d->commit);
}

static void step(struct daemon *d, const struct event *ev)
{
	if (ev->type == EVENT_TIMER && d->probing)
		tell_trouble(d);
	supervisor_step(d->supervisor, now_usec(), ev, &d->actions);
	carry_out(d);
}

void daemon_resume(struct daemon *d, bool crashed)
{
	struct event ev = {.type = EVENT_TIMER};

	supervisor_resume(d->supervisor, now_usec(), crashed, &d->actions);
	carry_out(d);
	daemon_post(d, &ev);
}

static void run_queue(struct daemon *d)
{
	struct posted *p;

	while ((p = d->first)) {
		d->first = p->next;
		if (!d->first)
			d->last = &d->first;
		step(d, &p->ev);
		free(p);
	}
}

static void set_timer(struct daemon *d)
{
	usec_t at = supervisor_next_deadline(d->supervisor);

	ev_timer_stop(d->loop, &d->timer);
	if (at == USEC_INFINITY)
		return;
	ev_now_update(d->loop);
	ev_timer_set(&d->timer, (double)usec_sub(at, now_usec()) / USEC_PER_SEC, 0.);
	ev_timer_start(d->loop, &d->timer);
}

void daemon_tell_status(struct daemon *d)
{
	char text[sizeof d->status_text];
	struct text t = TEXT_ON(text);

	if (!systemd_present())
		return;
	supervisor_summary(d->supervisor, &t);
	if (!strcmp(text, d->status_text))
		return;
	memcpy(d->status_text, text, sizeof text);
	systemd_status(text);
}

void daemon_run_events(struct daemon *d)
{
	run_queue(d);
	while (d->load_wanted) { /* once for all who asked until now */
		d->load_wanted = false;
		config_source_load(d);
		run_queue(d);
	}
	/* before connections are passed, and the loop waits */
	if (d->changed)
		store_commit(d);
	live_introduce(d);
	if (d->out_of_memory) {
		d->out_of_memory = false;
		log_line(RECORD_ERROR, "memory is short: an event was lost");
	}
	if (d->touched)
		daemon_commit_later(d, COMMIT_AFTER);
	upgrade_if_ready(d);
	set_timer(d);
	daemon_tell_status(d);
}

/* ---- workers ---- */

static struct event of_worker(const struct live_worker *w, enum event_type type)
{
	store_note_change(w->daemon, w->service);
	return (struct event){.type = type,
	        .service = w->service,
	        .generation = w->generation,
	        .worker = w->index,
	        .serial = w->serial};
}

static void count_one(pid_t pid, void *arg)
{
	(void)pid;
	++*(unsigned *)arg;
}

static unsigned count_rest(struct live_worker *w)
{
	unsigned n = 0;

	process_each(w->process, count_one, &n);
	return n;
}

static void check_rests(struct daemon *d);

static void on_rest_timer(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct daemon *d = timer->data;

	(void)events;
	check_rests(d);
	if (!d->rests)
		ev_timer_stop(loop, timer);
}

/* What a server that was taken over leaves behind does not become our child, nor what the worker of
 * a handoffd that died leaves: no signal tells of its end. */
void daemon_watch_rests(struct daemon *d)
{
	bool foreign = false;

	for (const struct live_worker *w = d->rests; w; w = w->next)
		foreign |= process_is_foreign(w->process);
	if (!foreign || !d->rests || ev_is_active(&d->rest_timer))
		return;
	ev_timer_init(&d->rest_timer, on_rest_timer, REST_SECONDS, REST_SECONDS);
	d->rest_timer.data = d;
	ev_timer_start(d->loop, &d->rest_timer);
}

static void on_exited(void *data, struct process *p, struct exit_info how)
{
	struct live_worker *w = process_user(p);
	struct event ev = of_worker(w, EVENT_WORKER_EXITED);
	struct worker_counts counts;

	ev.exited.lost = process_counts(p, &counts) ? counts.connections : 0;
	ev.exited.code = how.code;
	ev.exited.status = how.status;
	ev.exited.rest = count_rest(w);
	ev.text = process_tail(p);
	if (ev.exited.rest) {
		w->rest = true;
		w->next = w->daemon->rests;
		w->daemon->rests = w;
		daemon_watch_rests(w->daemon);
	}
	daemon_explain_exit(w, &ev);
	daemon_post(data, &ev);
	daemon_worker_ended(data, w->service, w->generation);
}

/* Where the service says by what its readiness is shown, nothing else shows it. */
static bool shows_ready(const struct live_worker *w, enum notify_kind kind)
{
	struct service *sv = supervisor_service(w->daemon->supervisor, w->service);
	struct generation *g = sv ? service_find(sv, w->generation) : NULL;
	enum ready_by by = g ? g->settings->ready.by : READY_AUTO;

	return kind == NOTIFY_READY_FD     ? by == READY_FD
	       : kind == NOTIFY_EXEC_READY ? by == READY_EXEC
	                                   : by != READY_FD && by != READY_EXEC;
}

static void on_notified(void *data, struct process *p, const struct notify_message *m)
{
	struct live_worker *w = process_user(p);
	struct event ev = of_worker(w, EVENT_WORKER_SAID);

	switch (m->kind) {
	case NOTIFY_READY:
	case NOTIFY_READY_FD:
	case NOTIFY_EXEC_READY:
		if (!shows_ready(w, m->kind))
			return;
		ev.said.word = WORD_READY;
		break;
	case NOTIFY_STATUS:
		ev.said.word = WORD_STATUS;
		ev.text = m->text;
		break;
	case NOTIFY_STOPPING:
		ev.said.word = WORD_STOPPING;
		break;
	case NOTIFY_EXTEND:
		ev.said.word = WORD_EXTEND;
		ev.said.number = m->number;
		break;
	case NOTIFY_ERRNO:
		ev.said.word = WORD_STATUS;
		ev.text = strerror((int)m->number);
		break;
	case NOTIFY_WATCHDOG:
		ev.said.word = WORD_ALIVE;
		break;
	case NOTIFY_WATCHDOG_TRIGGER:
		ev.said.word = WORD_STUCK;
		break;
	case NOTIFY_HELLO:
		ev.said.word = WORD_HELLO;
		ev.said.number = m->number;
		break;
	case NOTIFY_FDSTORE:
		kept_add(data, w->service, m->text, m->fd);
		return;
	case NOTIFY_FDREMOVE:
		kept_remove(data, w->service, m->text);
		return;
	case NOTIFY_KEEP:
		kept_claim(data, w->service, w->generation, m);
		return;
	case NOTIFY_LIVE:
		live_door_open(w, m);
		return;
	case NOTIFY_FETCH:
		kept_fetch(data, w->service, m);
		return;
	case NOTIFY_RELOADING:
	case NOTIFY_MAINPID_IGNORED:
	case NOTIFY_FDNAME:
	case NOTIFY_DRAINS:
		return;
	}
	daemon_post(data, &ev);
}

static void on_output(
        void *data, struct process *p, bool is_stderr, const char *line, size_t length)
{
	const struct live_worker *w = process_user(p);
	struct daemon *d = data;
	const struct service *sv =
	        d->develop ? supervisor_service(d->supervisor, w->service) : NULL;

	store_note_change(d, w->service);
	develop_output(data, sv ? sv->name : "", is_stderr, line, length);
	daemon_tell_output(d, w, line, length);
}

const struct process_handlers daemon_process_handlers = {
        .exited = on_exited,
        .notified = on_notified,
        .output = on_output,
        .asked = daemon_on_asked,
};

/* Somebody of what dead workers left behind may be gone now. */
static void check_rests(struct daemon *d)
{
	struct live_worker **at = &d->rests, *w;

	while ((w = *at)) {
		struct event ev = of_worker(w, EVENT_WORKER_TREE_GONE);

		if (count_rest(w)) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		w->rest = false;
		daemon_post(d, &ev);
		daemon_worker_ended(d, w->service, w->generation);
	}
}

/* ---- connections and probes ---- */

void daemon_on_drain(void *data, const struct inflight *now)
{
	struct live_generation *g = data;
	struct event ev = {
	        .type = EVENT_INFLIGHT, .service = g->service, .generation = g->generation};

	ev.inflight.total = now->total;
	ev.inflight.idle = now->idle;
	ev.inflight.oldest = now->oldest;
	daemon_post(g->daemon, &ev);
}

void daemon_on_frozen(void *data)
{
	struct live_generation *g = data;
	struct event ev = {
	        .type = EVENT_FROZEN, .service = g->service, .generation = g->generation};
	struct inflight now;

	ev.inflight.unknown = !g->watch || drain_watch_look(g->watch, &now) < 0;
	if (!ev.inflight.unknown) {
		ev.inflight.total = now.total;
		ev.inflight.idle = now.idle;
		ev.inflight.oldest = now.oldest;
	}
	daemon_post(g->daemon, &ev);
}

void daemon_on_probe(void *data, bool ok, const char *text)
{
	struct live_generation *g = data;
	struct event ev = {
	        .type = EVENT_PROBE_DONE, .service = g->service, .generation = g->generation};

	ev.ok = ok;
	ev.text = ok ? NULL : text;
	if (ok && g->probes_left == 1)
		(void)daemon_sweep(g, true);
	if (!ok || --g->probes_left == 0)
		daemon_post(g->daemon, &ev);
}

/* ---- signals ---- */

static void request_all(struct daemon *d, enum request_kind kind, const char *cause)
{
	struct event ev = {.type = EVENT_REQUEST};

	ev.request = (struct request_spec){.kind = kind, .timeout = USEC_INFINITY, .cause = cause};
	daemon_post(d, &ev);
}

static void on_one_signal(struct daemon *d, const struct signalfd_siginfo *si)
{
	struct record r = {.type = RECORD_SIGNAL_IGNORED, RECORD_NONE};
	char text[120];

	switch (si->ssi_signo) {
	case SIGCHLD:
		processes_reap(d->processes);
		check_rests(d);
		break;
	case SIGHUP:
		if (develop_hung_up(d))
			request_all(d, REQUEST_SHUTDOWN, "the terminal is gone");
		else
			request_all(d, REQUEST_RELOAD, "SIGHUP");
		break;
	case SIGTERM:
	case SIGINT:
	case SIGQUIT:
		/* some servers that replace themselves end their parent (DIALECTS B 4) */
		if (si->ssi_pid && processes_find(d->processes, (pid_t)si->ssi_pid)) {
			struct text t = TEXT_ON(text);

			text_add(&t, "%s from worker process %u is no order to stop",
			        strsignal((int)si->ssi_signo), si->ssi_pid);
			r.text = text;
			log_record(&r);
			if (d->control)
				control_publish(d->control, &r);
			break;
		}
		request_all(d, REQUEST_SHUTDOWN, strsignal((int)si->ssi_signo));
		break;
	case SIGUSR2:
		upgrade_begin(d);
		break;
	default:
		break;
	}
}

void daemon_on_signal(struct ev_loop *loop, ev_io *io, int events)
{
	struct daemon *d = io->data;
	struct signalfd_siginfo si;

	(void)loop;
	(void)events;
	while (read(d->signal_fd, &si, sizeof si) == sizeof si)
		on_one_signal(d, &si);
}

/* ---- control ---- */

static void on_status(void *data, struct control_call *call, const char *service)
{
	daemon_answer_status(data, call, service);
}

static void on_monitor(void *data, struct control_call *call)
{
	daemon_answer_monitor(data, call);
}

static void on_services(void *data, struct control_call *call)
{
	daemon_answer_services(data, call);
}

static void on_config(void *data, struct control_call *call)
{
	daemon_answer_config(data, call);
}

static void on_logs(void *data, struct control_call *call, const char *service, bool follow)
{
	daemon_answer_logs(data, call, service, follow);
}

static void on_connections(
        void *data, struct control_call *call, const char *service, uint32_t generation)
{
	daemon_answer_connections(data, call, service, generation);
}

/* Answers may lead to the next call of the same client at once: so a call is an event like any
 * other, with its strings. */
void daemon_request(void *data, struct control_call *call, const struct request_spec *spec)
{
	struct daemon *d = data;
	size_t n = spec->cause ? strlen(spec->cause) + 1 : 1;
	struct posted *p;
	const char **names;
	char *at;

	for (size_t i = 0; i < spec->n_services; i++)
		n += strlen(spec->services[i]) + 1;
	n += spec->roll.release ? strlen(spec->roll.release) + 1 : 0;
	n += spec->n_services * sizeof *names + _Alignof(char *);
	p = malloc(sizeof *p + n);
	if (!p) {
		if (call)
			control_answer_error(call, CODE_FAILED, "handoffd is short of memory");
		return;
	}
	names = (const char **)(((uintptr_t)p->text + _Alignof(char *) - 1) / _Alignof(char *) *
	                        _Alignof(char *));
	at = (char *)(names + spec->n_services);
	p->next = NULL;
	p->ev = (struct event){.type = EVENT_REQUEST, .request = *spec};
	p->ev.request.caller = call;
	p->ev.request.services = names;
	p->ev.request.cause = at;
	at = stpcpy(at, spec->cause ? spec->cause : "") + 1;
	if (spec->roll.release) {
		p->ev.request.roll.release = at;
		at = stpcpy(at, spec->roll.release) + 1;
	}
	for (size_t i = 0; i < spec->n_services; i++) {
		names[i] = at;
		at = stpcpy(at, spec->services[i]) + 1;
	}
	*d->last = p;
	d->last = &p->next;
}

/* The call must not be touched any more, wherever its request is by now. */
static void on_gone(void *data, struct control_call *call, uint32_t request_id)
{
	struct daemon *d = data;
	struct event ev = {.type = EVENT_REQUEST_GONE, .request_id = request_id};

	for (struct posted *p = d->first; p; p = p->next)
		if (p->ev.type == EVENT_REQUEST && p->ev.request.caller == call)
			p->ev.request.caller = NULL;
	for (struct request *r = d->supervisor->requests; r; r = r->next)
		if (r->caller == call)
			r->caller = NULL;
	for (size_t i = 0; i < d->actions.n; i++) {
		struct action *a = &d->actions.items[i];

		if (a->type != ACTION_ANSWER)
			continue;
		if (a->shell == call)
			a->shell = NULL;
		if (a->request && i >= d->actions.carried && a->request->caller == call)
			a->request->caller = NULL;
	}
	daemon_post(d, &ev);
}

/* One user could push everything else out of the log: of many refusals the first are told, the
 * others counted. */
static bool refusal_is_told(struct daemon *d, uid_t uid, unsigned *ret_more)
{
	usec_t now = now_usec();
	bool same = d->refusals.told && d->refusals.uid == uid &&
	            now - d->refusals.since < REFUSALS_WITHIN;

	if (same && d->refusals.told == REFUSALS_TOLD) {
		d->refusals.more++;
		return false;
	}
	*ret_more = same ? 0 : d->refusals.more;
	if (!same) {
		d->refusals.uid = uid;
		d->refusals.since = now;
		d->refusals.told = d->refusals.more = 0;
	}
	d->refusals.told++;
	return true;
}

static void on_upgrade(void *data)
{
	upgrade_begin(data);
}

static void on_refused(void *data, uid_t uid, pid_t pid, const char *method, const char *why)
{
	struct daemon *d = data;
	struct record r = {.type = RECORD_CALL_REFUSED, RECORD_NONE};
	char text[400];
	struct text t = TEXT_ON(text);
	unsigned more;

	if (!refusal_is_told(d, uid, &more))
		return;
	text_add(&t, "%s for uid %u, pid %d: %s", method, (unsigned)uid, (int)pid, why);
	if (more)
		text_add(&t, " (and %u more refusals before)", more);
	r.text = text;
	log_record(&r);
	if (d->control)
		control_publish(d->control, &r);
}

const struct control_handlers daemon_control_handlers = {
        .status = on_status,
        .services = on_services,
        .monitor = on_monitor,
        .request = daemon_request,
        .gone = on_gone,
        .config = on_config,
        .logs = on_logs,
        .connections = on_connections,
        .upgrade = on_upgrade,
        .refused = on_refused,
};
