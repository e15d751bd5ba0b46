/* SPDX-License-Identifier: MIT */
/* What the core wants, as calls; what comes of it, as events. The only file that sees every room of
 * the shell; it decides nothing. */
#include "daemon.h"
#include "process/memory.h"
#include "sockets/take.h"
#include "system/fd.h"
#include "system/log.h"
#include "upgrade.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Connections named when they are cut. */
#define NAMED_MAX 20

static struct event of(const struct action *a, enum event_type type)
{
	return (struct event){.type = type,
	        .service = a->service,
	        .generation = a->generation,
	        .worker = a->worker,
	        .serial = a->serial};
}

static struct generation *core_generation(struct daemon *d, const struct action *a)
{
	struct service *sv = supervisor_service(d->supervisor, a->service);

	return sv ? service_find(sv, a->generation) : NULL;
}

/* ---- generations ---- */

static bool is_stream(const struct listener_info *l)
{
	int type = 0;
	socklen_t n = sizeof type;

	if (l->config->address.kind != ADDRESS_SYSTEMD || l->steering != STEERING_SHARED)
		return l->config->address.kind != ADDRESS_UDP;
	return getsockopt(l->fd, SOL_SOCKET, SO_TYPE, &type, &n) == 0 && type == SOCK_STREAM;
}

/* What kind of listeners has it? */
static void describe_listeners(const struct live_generation *g, bool alone, struct event *ev)
{
	bool shared = false, migrates = true, divisible = g->set != NULL;

	for (size_t i = 0; g->set && i < listener_set_count(g->set); i++) {
		struct listener_info l = listener_set_info(g->set, i);

		if (!is_stream(&l))
			continue;
		shared |= l.steering == STEERING_SHARED;
		migrates &= l.steering == STEERING_EBPF;
		divisible &= l.steering == STEERING_EBPF || l.steering == STEERING_CBPF;
	}
	ev->prepared.shared = shared;
	ev->prepared.migrates = migrates;
	ev->prepared.probeable = !shared || alone;
	ev->prepared.divisible = divisible;
	ev->text = g->release ? g->release->directory : NULL;
}

void live_generation_free(struct live_generation *g)
{
	if (!g)
		return;
	(void)freeze_free(g->freeze);
	drain_watch_free(g->watch);
	quiet_check_free(g->quiet);
	for (size_t i = 0; i < g->n_probes; i++)
		probe_free(g->probes[i]);
	free(g->probes);
	ev_timer_stop(g->daemon->loop, &g->sweep);
	link_change_done(&g->link);
	listener_set_close(g->set);
	release_unref(g->release);
	free(g);
}

/* What serves now came before it. */
static int note_previous(const struct service *sv, struct release *r, struct ho_error *reterr)
{
	const struct generation *serving = service_serving(sv);
	const struct live_generation *g = serving ? serving->shell : NULL;

	if (!serving)
		return 0;
	r->previous = serving->id;
	if (!g || !g->release || !g->release->directory)
		return 0;
	r->previous_release = strdup(g->release->directory);
	return r->previous_release
	               ? 0
	               : ho_error_set(reterr, -ENOMEM, "not enough memory for a generation");
}

static void do_prepare(struct daemon *d, const struct action *a)
{
	struct generation *cg = core_generation(d, a);
	struct live_generation *g = calloc(1, sizeof *g);
	struct event ev = of(a, EVENT_PREPARED);
	struct ho_error error = {0};
	int r;

	if (!g) {
		(void)ho_error_set(&error, -ENOMEM, "not enough memory for a generation");
		goto fail;
	}
	*g = (struct live_generation){
	        .daemon = d, .service = a->service, .generation = a->generation};
	ev_timer_init(&g->sweep, NULL, 0., 0.);
	if (cg->taken) {
		r = take_over_prepare(d, cg, &g->set, &error);
		if (r < 0)
			goto fail;
		goto done;
	}
	r = daemon_release(cg, &a->prepare, g, &error);
	if (r < 0)
		goto fail;
	g->release->environment_name = cg->config->environment;
	processes_make_cgroup(d->processes, g->release);
	r = note_previous(cg->service, g->release, &error);
	if (r < 0)
		goto fail;
	if (cg->settings->n_listeners) {
		r = listener_set_open(
		        d->sockets, cg->config, cg->settings, cg->id, &g->set, &error);
		if (r < 0)
			goto fail;
	}
	if (a->prepare.link) {
		cg->shell = g;
		store_commit(d); /* so that it can be put back after a crash */
		store_note_change(d, a->service);
		r = daemon_move_link(g, &error);
		if (r < 0)
			goto fail;
	}
done:
	cg->shell = g;
	if (g->set)
		listener_set_own(g->set, a->service);
	describe_listeners(g, cg->service->n_generations == 1, &ev);
	daemon_post(d, &ev);
	return;
fail:
	cg->shell = NULL;
	live_generation_free(g);
	ev.type = EVENT_PREPARE_FAILED;
	ev.text = error.text;
	daemon_post(d, &ev);
}

static void stop_probes(struct daemon *d, struct live_generation *g)
{
	struct live_generation **at;

	for (size_t i = 0; i < g->n_probes; i++)
		g->probes[i] = probe_free(g->probes[i]);
	for (at = &d->probing; *at && *at != g; at = &(*at)->next)
		;
	if (*at)
		*at = g->next;
	g->next = NULL;
}

/* Every stream listener shall have taken a connection; an answer is asked of the first one only, as
 * others may speak something else. */
static void do_probe(struct daemon *d, const struct action *a)
{
	struct live_generation *g = a->shell;
	struct generation *cg = core_generation(d, a);
	struct ho_error error = {0};
	size_t n = listener_set_count(g->set);
	struct event ev = of(a, EVENT_PROBE_DONE);
	enum probe_kind kind = a->http                                     ? PROBE_HTTP
	                       : cg->settings->ready.by == READY_LISTENING ? PROBE_LISTENING
	                                                                   : PROBE_ACCEPTED;

	free(g->probes);
	g->probes = calloc(n, sizeof(struct probe *));
	g->n_probes = g->probes ? n : 0;
	g->probes_left = 0;
	if (!g->probes) {
		ev.text = "not enough memory for a probe";
		daemon_post(d, &ev);
		return;
	}
	g->next = d->probing;
	d->probing = g;
	for (size_t i = 0; i < n; i++) {
		struct listener_info l = listener_set_info(g->set, i);

		if (!is_stream(&l))
			continue;
		g->probes_left++;
		if (probe_new(d->loop, g->set, i, kind, cg->settings->ready.argument,
		            daemon_on_probe, g, &g->probes[i], &error) < 0) {
			ev.text = error.text;
			daemon_post(d, &ev);
			return;
		}
		kind = kind == PROBE_HTTP ? PROBE_ACCEPTED : kind;
	}
	if (!g->probes_left) { /* nothing but datagram sockets */
		ev.ok = true;
		daemon_post(d, &ev);
	}
}

static void do_check_quiet(struct daemon *d, const struct action *a)
{
	struct live_generation *g = a->shell;
	struct event ev = of(a, EVENT_QUIET_CHECKED);
	struct inflight now;
	int r = 0;

	if (!g->quiet)
		r = quiet_check_new(d->connections, g->set, &g->quiet);
	if (r >= 0)
		r = quiet_check_again(g->quiet, &now);
	if (r < 0 && !g->quiet_told) {
		g->quiet_told = true; /* once: it is tried every 50 ms */
		log_line(RECORD_WARNING,
		        "cannot find out whether generation %u is quiet, trying again: %s",
		        a->generation, strerror(-r));
	}
	ev.ok = r > 0;
	if (ev.ok)
		g->quiet = quiet_check_free(g->quiet);
	daemon_post(d, &ev);
}

/* Shared listeners: the connections are those that the processes of the generation hold. */

void live_generation_processes(void *data, void (*each)(pid_t pid, void *arg), void *arg)
{
	struct live_generation *g = data;
	struct service *sv = supervisor_service(g->daemon->supervisor, g->service);
	struct generation *cg = sv ? service_find(sv, g->generation) : NULL;

	for (unsigned i = 0; cg && i < cg->n_workers; i++) {
		struct live_worker *w = cg->workers[i].shell;

		if (w)
			process_each(w->process, each, arg);
	}
}

static void do_watch_drain(struct daemon *d, const struct action *a)
{
	struct live_generation *g = a->shell;
	struct generation *cg = core_generation(d, a);
	struct drain_watch_options options = {.idle_after = cg->settings->drain.idle_after,
	        .lister = live_generation_processes,
	        .lister_data = g};
	struct event ev = of(a, EVENT_WATCH_FAILED);
	struct ho_error error = {0};

	if (drain_watch_new(
	            d->connections, g->set, &options, daemon_on_drain, g, &g->watch, &error) < 0) {
		ev.text = error.text;
		daemon_post(d, &ev);
	}
}

static void stop_watch(struct live_generation *g)
{
	g->watch = drain_watch_free(g->watch);
}

static void do_freeze(struct daemon *d, const struct action *a)
{
	struct live_generation *g = a->shell;

	g->freeze = freeze_new(d->loop, g->release ? &g->release->cgroup : NULL,
	        live_generation_processes, g, daemon_on_frozen, g);
	if (!g->freeze) /* memory is short: then without */
		daemon_on_frozen(g);
}

static void do_thaw(struct live_generation *g)
{
	if (!g->freeze) /* an earlier handoffd has stopped them */
		freeze_end(g->release ? &g->release->cgroup : NULL, live_generation_processes, g);
	g->freeze = freeze_free(g->freeze);
}

int daemon_steer(struct daemon *d, const struct service *sv, struct ho_error *reterr)
{
	struct share shares[GENERATIONS_MAX];
	bool sticky = false;
	size_t n = 0;

	for (unsigned i = 0; i < sv->n_generations; i++) {
		struct live_generation *g = sv->generations[i]->shell;

		if (!g || !g->set)
			continue;
		if (sv->generations[i]->state == GENERATION_READY) {
			(void)daemon_sweep(g, true);
			ev_timer_stop(d->loop, &g->sweep);
		}
		shares[n++] = (struct share){g->set, sv->generations[i]->share};
		if (sv->generations[i]->share)
			g->quiet = quiet_check_free(g->quiet);
		sticky = sv->generations[i]->settings->rollout.sticky;
	}
	return n ? sockets_steer(d->sockets, shares, n, sticky, reterr) : 0;
}

static void do_steer(struct daemon *d, const struct action *a)
{
	const struct service *sv = supervisor_service(d->supervisor, a->service);
	struct event ev = of(a, EVENT_STEERED);
	struct ho_error error = {0};

	if (daemon_steer(d, sv, &error) < 0) {
		ev.type = EVENT_STEER_FAILED;
		ev.text = error.text;
	}
	for (unsigned i = 0; i < sv->n_generations; i++) {
		struct live_generation *g = sv->generations[i]->shell;

		if (g && g->set)
			(void)listener_set_sent(g->set, &g->sent_before);
	}
	daemon_post(d, &ev);
}

static void add_memory(pid_t pid, void *arg)
{
	*(uint64_t *)arg += process_memory(pid);
}

static void do_measure(struct daemon *d, const struct action *a)
{
	struct event ev = of(a, EVENT_MEASURED);

	if (!a->shell)
		return;
	ev.memory = 0;
	live_generation_processes(a->shell, add_memory, &ev.memory);
	daemon_post(d, &ev);
}

static void do_last_words(struct daemon *d, const struct action *a)
{
	const struct generation *cg = core_generation(d, a);
	const struct live_worker *w =
	        cg && a->worker < cg->n_workers ? cg->workers[a->worker].shell : NULL;
	struct event ev = of(a, EVENT_LAST_WORDS);

	ev.text = w ? process_tail(w->process) : NULL;
	daemon_post(d, &ev);
}

static void do_name_cut(struct daemon *d, const struct action *a)
{
	struct live_generation *g = a->shell;
	struct connection_info *list = calloc(NAMED_MAX, sizeof *list);
	char text[1600];
	struct text t = TEXT_ON(text);
	size_t n = 0;

	if (list && g->set && connections_list(d->connections, g->set, list, NAMED_MAX, &n) == 0)
		for (size_t i = 0; i < n; i++)
			text_add(&t, "%s%s (%.1f s)", i ? ", " : "", list[i].peer,
			        (double)list[i].age / USEC_PER_SEC);
	if (t.len)
		log_line(RECORD_WARNING, "generation %u: cut at the deadline: %s", a->generation,
		        text);
	free(list);
}

/* ---- workers ---- */

/* Anew for every worker, and when a generation has left: whoever has the socket can change it, also
 * for those who share it. */
static void set_accept_mode(const struct live_generation *g, bool shared_only)
{
	for (size_t i = 0; g->release && g->set && i < listener_set_count(g->set); i++)
		if (!shared_only || listener_set_info(g->set, i).steering == STEERING_SHARED)
			(void)listener_set_blocking(
			        g->set, i, config_accept_blocks(g->release->service));
}

static size_t sockets_to_pass(const struct live_generation *g, struct passed_fd *fds)
{
	enum sockets_mode mode = g->release->service->sockets;
	size_t n = 0;

	if (!g->set || mode == SOCKETS_ADOPT || mode == SOCKETS_NONE)
		return 0;
	for (size_t i = 0; i < listener_set_count(g->set) && n < CONFIG_MAX_LISTENERS; i++) {
		struct listener_info l = listener_set_info(g->set, i);

		if (l.fd >= 0) /* not of a form that the program chose, see sockets/forms.h */
			fds[n++] = (struct passed_fd){l.fd, l.config->name, &l.config->address};
	}
	return n;
}

void daemon_describe_worker(struct live_generation *g, unsigned worker,
        struct passed_fd fds[CONFIG_MAX_LISTENERS], struct process_spec *ret)
{
	*ret = (struct process_spec){
	        .release = g->release, .worker = worker, .fds = fds, .capture = true};
	ret->n_fds = sockets_to_pass(g, fds);
	ret->adoption = daemon_adoption(g);
	ret->follows = g->daemon->source.development; /* nobody takes them over there */
	ret->n_fds += kept_pass(
	        g->daemon, g->service, fds + ret->n_fds, CONFIG_MAX_LISTENERS - ret->n_fds);
}

static int start_process(struct daemon *d, const struct action *a, struct live_worker *w,
        struct live_generation *g, struct ho_error *reterr)
{
	struct passed_fd fds[CONFIG_MAX_LISTENERS];
	struct process_spec spec;
	int r;

	daemon_describe_worker(g, a->worker, fds, &spec);
	if (spec.n_fds)
		set_accept_mode(g, false); /* what a worker makes of it later is its own business */
	r = process_start(d->processes, &spec, w, &w->process, reterr);
	if (r >= 0 && spec.adoption == ADOPTION_MUST) {
		r = daemon_check_adoption(w->process, reterr);
		if (r < 0) {
			(void)process_signal_tree(w->process, SIGKILL, true);
			w->process = process_free(w->process);
		}
	}
	if (r >= 0 && spec.adoption != ADOPTION_NO)
		daemon_watch_adoption(g, w);
	return r;
}

static void do_start_worker(struct daemon *d, const struct action *a)
{
	struct generation *cg = core_generation(d, a);
	struct live_worker *w = calloc(1, sizeof *w);
	struct event ev = of(a, EVENT_WORKER_STARTED);
	struct ho_error error = {0};
	int r = -ENOMEM;

	if (!w) {
		(void)ho_error_set(&error, r, "not enough memory for a worker");
	} else {
		*w = (struct live_worker){.daemon = d,
		        .service = a->service,
		        .generation = a->generation,
		        .index = a->worker,
		        .serial = a->serial};
		r = cg->taken ? take_over_attach(d, cg, a->worker, w, &w->process, &error)
		              : start_process(d, a, w, cg->shell, &error);
	}
	if (r < 0) {
		free(w);
		ev.type = EVENT_WORKER_START_FAILED;
		ev.text = error.text;
		daemon_post(d, &ev);
		return;
	}
	cg->workers[a->worker].shell = w;
	ev.pid = process_pid(w->process);
	daemon_post(d, &ev);
}

static void do_signal(const struct action *a, int signo)
{
	struct live_worker *w = a->shell;
	int r;

	if (!w)
		return;
	r = signo == SIGKILL ? process_signal_tree(w->process, SIGKILL, !w->rest)
	    : w->rest        ? process_signal_tree(w->process, signo, false)
	                     : process_signal(w->process, signo);
	if (r < 0 && r != -ESRCH) /* ESRCH: its exit is on the way */
		log_line(RECORD_ERROR, "cannot send signal %d to pid %d: %s", signo,
		        (int)process_pid(w->process), strerror(-r));
}

static void do_tell(struct daemon *d, const struct action *a)
{
	const struct generation *cg = core_generation(d, a);
	struct live_worker *w = a->shell;
	int r;

	if (!w)
		return;
	if (a->tell.word == TELL_SERVING) {
		/* the page says it as well; a channel that has ended is told of on its own */
		(void)process_tell_serving(w->process, a->tell.generation);
		return;
	}
	r = process_tell_drain(w->process, a->tell.deadline);
	if (r == 0)
		return;
	log_line(RECORD_WARNING, "cannot tell pid %d to drain, sending it a signal: %s",
	        (int)process_pid(w->process), strerror(-r));
	do_signal(a, cg ? cg->settings->drain.signal : SIGTERM);
}

static void keep_last_words(struct daemon *d, const struct action *a, struct live_worker *w)
{
	struct last_words *l = &d->words[d->n_words++ % LAST_WORDS_MAX];
	const struct service *sv = supervisor_service(d->supervisor, a->service);
	const char *text = process_log(w->process);

	free(l->text);
	*l = (struct last_words){.generation = a->generation,
	        .worker = a->worker,
	        .pid = (int)process_pid(w->process),
	        .text = strdup(text ? text : "")};
	(void)copy_string(l->service, sizeof l->service, sv ? sv->name : "");
}

static void do_forget_worker(struct daemon *d, const struct action *a)
{
	struct live_worker *w = a->shell, **at;

	if (!w)
		return;
	for (at = &d->rests; *at && *at != w; at = &(*at)->next)
		;
	if (*at)
		*at = w->next;
	keep_last_words(d, a, w);
	live_forget(d, w);
	process_free(w->process);
	free(w);
}

static void do_watch_exec(struct daemon *d, const struct action *a)
{
	struct generation *cg = core_generation(d, a);
	struct live_worker *w =
	        cg && a->worker < cg->n_workers ? cg->workers[a->worker].shell : NULL;
	struct ho_error error = {0};

	if (w && process_watch_exec(w->process, cg->settings->ready.argument, &error) < 0)
		log_line(RECORD_ERROR, "%s", error.text);
}

/* ---- answers and words ---- */

static void do_answer(struct daemon *d, const struct action *a)
{
	struct request *r = a->request;
	struct control_call *call = r ? r->caller : a->shell;
	struct result *results;

	if (!call) {
		request_free(r);
		return;
	}
	if (!r || !r->n_targets) {
		control_answer_error(call, r ? r->refused : CODE_FAILED,
		        r && r->text ? r->text : "handoffd is short of memory");
		request_free(r);
		return;
	}
	results = calloc(r->n_targets, sizeof *results);
	if (!results) {
		control_answer_error(
		        call, CODE_FAILED, "handoffd is short of memory; the work was done");
	} else {
		for (size_t i = 0; i < r->n_targets; i++) {
			target_result(&r->targets[i], &results[i]);
			results[i].release_link = daemon_link_word(d, &results[i]);
		}
		control_answer(call, results, r->n_targets);
	}
	free(results);
	request_free(r);
}

void daemon_tell_waiting(struct daemon *d, uint32_t service, const struct record *r)
{
	const struct service *sv = service ? supervisor_service(d->supervisor, service) : NULL;

	for (const struct target *t = sv ? sv->targets : NULL; t; t = t->next)
		if (t->request->caller)
			control_progress(t->request->caller, r);
}

static void do_record(struct daemon *d, const struct action *a)
{
	struct record r = a->record;
	const struct generation *cg = r.generation ? core_generation(d, a) : NULL;
	const struct live_generation *g = cg ? cg->shell : NULL;

	if (g && g->release)
		r.release = g->release->directory;
	if (r.type == RECORD_DAEMON_UPGRADED && upgrade_came_back()) {
		r.type = RECORD_UPGRADE_REFUSED;
		r.text = upgrade_came_back();
	}
	log_record(&r);
	if (d->control)
		control_publish(d->control, &r);
	daemon_tell_waiting(d, a->service, &r);
	daemon_hasten_monitors(d);
}

static void do_tell_systemd(struct daemon *d, const struct action *a)
{
	switch (a->systemd.word) {
	case SYSTEMD_READY:
		daemon_tell_status(d); /* first, as whoever waits looks at it next */
		systemd_ready();
		break;
	case SYSTEMD_RELOADING:
		systemd_reloading(a->systemd.extend);
		break;
	case SYSTEMD_STOPPING:
		systemd_stopping(a->systemd.extend);
		break;
	case SYSTEMD_WAIT:
		systemd_wait(a->systemd.extend);
		break;
	}
}

static void do_return_held(struct live_generation *g)
{
	g->stranded = true;
	if (g->set)
		listener_set_strand(g->set);
}

static void do_release(struct daemon *d, struct live_generation *g, bool leave)
{
	const struct service *sv = supervisor_service(d->supervisor, g->service);
	const struct generation *serving = sv ? service_serving(sv) : NULL;

	stop_probes(d, g);
	if (g->stranded) /* whose handshake has ended since */
		do_return_held(g);
	if (leave && g->set)
		g->set = listener_set_leave(g->set);
	kept_released(d, g->service, g->generation);
	/* a socket of its own is as its worker has made it */
	if (serving && serving->shell && serving->shell != g)
		set_accept_mode(serving->shell, true);
	live_generation_free(g);
}

void daemon_carry_out(struct daemon *d, const struct action *a)
{
	switch (a->type) {
	case ACTION_LOAD_CONFIG:
		d->load_wanted = true;
		break;
	case ACTION_PREPARE:
		do_prepare(d, a);
		break;
	case ACTION_RESTORE_LINK:
		daemon_restore_link(d, a);
		break;
	case ACTION_POINT_BACK:
		daemon_point_back(d, a);
		break;
	case ACTION_START_WORKER:
		do_start_worker(d, a);
		break;
	case ACTION_SIGNAL_WORKER:
		do_signal(a, a->signo);
		break;
	case ACTION_KILL_WORKER:
		do_signal(a, SIGKILL);
		break;
	case ACTION_TELL_WORKER:
		do_tell(d, a);
		break;
	case ACTION_FORGET_WORKER:
		do_forget_worker(d, a);
		break;
	case ACTION_LAST_WORDS:
		do_last_words(d, a);
		break;
	case ACTION_WATCH_EXEC:
		do_watch_exec(d, a);
		break;
	case ACTION_STEER:
		do_steer(d, a);
		break;
	case ACTION_PROBE:
		do_probe(d, a);
		break;
	case ACTION_STOP_PROBE:
		stop_probes(d, a->shell);
		break;
	case ACTION_CHECK_QUIET:
		do_check_quiet(d, a);
		break;
	case ACTION_WATCH_DRAIN:
		do_watch_drain(d, a);
		break;
	case ACTION_STOP_WATCH:
		stop_watch(a->shell);
		break;
	case ACTION_FREEZE:
		do_freeze(d, a);
		break;
	case ACTION_THAW:
		do_thaw(a->shell);
		break;
	case ACTION_MEASURE:
		do_measure(d, a);
		break;
	case ACTION_NAME_CUT:
		do_name_cut(d, a);
		break;
	case ACTION_RELEASE:
		do_release(d, a->shell, a->leave);
		break;
	case ACTION_ANSWER:
		do_answer(d, a);
		break;
	case ACTION_RECORD:
		do_record(d, a);
		break;
	case ACTION_TELL_SYSTEMD:
		do_tell_systemd(d, a);
		break;
	case ACTION_EXIT:
		d->exit_code = a->exit_code;
		ev_break(d->loop, EVBREAK_ALL);
		break;
	case ACTION_WATCH_FILES:
		daemon_watch_files(d, a);
		break;
	case ACTION_START_BUILD:
		daemon_start_build(d, a, ((struct live_generation *)a->shell)->release);
		break;
	case ACTION_STOP_BUILD:
		daemon_stop_build(d, a);
		break;
	case ACTION_RETURN_HELD:
		do_return_held(a->shell);
		break;
	case ACTION_FORGET_SERVICE:
		kept_remove(d, a->service, NULL);
		daemon_forget_watch(d, a->service);
		break;
	case ACTION_TYPE_COUNT:
		break;
	}
}
