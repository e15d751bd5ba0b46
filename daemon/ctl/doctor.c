/* SPDX-License-Identifier: MIT */
/* Tries a program with handoffd, aside of everything, and says in words how it behaves. What is
 * told is what was seen: handoffd itself runs the program there, and the rest is asked of the
 * kernel and of a connection. */
#include "ctl/doctor.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conf/load.h"

#define DEFAULT_FILE "/etc/handoffd/handoffd.conf"
#define START_TIME (10 * USEC_PER_SEC)
#define SHORT_TIME (4 * USEC_PER_SEC) /* where little is to be hoped for */
#define LEAVE_TIME (10 * USEC_PER_SEC)
#define TRIALS_MAX 14

struct visit {
	struct ctl *ctl;
	struct config *config; /* the only service, with other settings for the trial */
	struct service_config *s;
	const struct service_config *asked; /* as it was written */
	struct shield shield;
	struct findings f;
	usec_t start_time;
};

/* ---- one trial ---- */

/* 1: it serves, 0: it does not, negative: nothing can be tried. */
static int start(struct visit *v, struct trial *t, enum sockets_mode mode, unsigned dialect,
        enum listen_pid listen_pid)
{
	const json_t *event;

	v->s->sockets = mode;
	v->s->dialects = dialect;
	v->s->listen_pid = listen_pid;
	if (trial_start(t, v->shield.top, v->config))
		return -1;
	event = trial_wait(t, "generation-serving|generation-failed",
	        doctor_now() + v->start_time + START_TIME);
	return event && !strcmp(member(event, "event"), "generation-serving");
}

static double seconds_of(const json_t *event)
{
	return event ? json_number_value(json_object_get(event, "duration")) : 0.;
}

/* ---- how it gets its sockets ---- */

static const struct {
	const char *name; /* of the program */
	unsigned dialect;
	const char *words;
} hints[] = {
        {"nginx", DIALECT_NGINX, "NGINX="},
        {"php-fpm", DIALECT_PHP_FPM, "FPM_SOCKETS="},
        {"unicorn", DIALECT_UNICORN, "UNICORN_FD="},
        {"puma", DIALECT_PUMA, "PUMA_INHERIT_0="},
        {"starman", DIALECT_SERVER_STARTER, "SERVER_STARTER_PORT="},
        {"plackup", DIALECT_SERVER_STARTER, "SERVER_STARTER_PORT="},
        {"h2o", DIALECT_SERVER_STARTER, "SERVER_STARTER_PORT="},
        {"", DIALECT_SERVER_STARTER, "SERVER_STARTER_PORT="},
        {"", DIALECT_EINHORN, "EINHORN_FD_0="},
        {"", DIALECT_STDIN, "the socket as standard input"},
};

static bool mentions(const struct service_config *s, const char *name)
{
	for (size_t i = 0; i < s->command.count; i++)
		if (strstr(s->command.items[i], name))
			return true;
	return false;
}

static void tell_taken(struct visit *v, struct trial *t, const char *how)
{
	finding(&v->f, "sockets", VERDICT_GOOD, "it takes the sockets that it is passed (%s)",
	        mentions(v->s, "{fd:") ? "by {fd:NAME}" : how);
	look_at_sockets(&v->f, trial_worker(t, 1), v->s->n_listeners);
}

/* Tries the dialects by which it may be passed its sockets, the likely ones first. */
static bool try_dialects(struct visit *v, struct trial *t, bool likely)
{
	for (size_t i = 0; i < ARRAY_SIZE(hints); i++) {
		if (likely ? !*hints[i].name || !mentions(v->s, hints[i].name) : *hints[i].name)
			continue;
		trial_end(t);
		if (start(v, t, SOCKETS_PASS, hints[i].dialect, LISTEN_PID_CHILD) > 0) {
			v->f.dialect = hints[i].dialect;
			tell_taken(v, t, hints[i].words);
			return true;
		}
	}
	return false;
}

static bool try_wrapper(struct visit *v, struct trial *t, const char *name)
{
	trial_end(t);
	if (start(v, t, SOCKETS_AUTO, DIALECT_SYSTEMD, LISTEN_PID_NONE) <= 0)
		return false;
	v->f.listen_pid = LISTEN_PID_NONE;
	finding(&v->f, "LISTEN_PID", VERDICT_NOTE,
	        "%s starts the server as a child instead of becoming it, so LISTEN_PID names the "
	        "wrong process and the server takes no sockets: use `exec` in the script, or "
	        "listen-pid = \"none\" as below",
	        name);
	tell_taken(v, t, "LISTEN_FDS=");
	return true;
}

static void tell_failure(struct visit *v, const char *why, const char *refused)
{
	v->f.ran = false;
	finding(&v->f, "start", VERDICT_BAD, "it does not come to serve: %s", why);
	if (*refused)
		finding(&v->f, "sockets", VERDICT_BAD, "%s", refused);
}

static void tell_adopted(struct visit *v, struct trial *t)
{
	char where[500];
	struct text w = TEXT_ON(where);

	trial_adopted(t, &w);
	finding(&v->f, "sockets", VERDICT_GOOD,
	        "it binds its addresses itself (the program listens on %s): they are adopted",
	        where);
}

/* Leaves a trial in which the program serves; false: there is no way. */
static bool find_sockets(struct visit *v, struct trial *t)
{
	bool passed = v->asked->sockets == SOCKETS_PASS;
	unsigned dialect = v->asked->dialects ? v->asked->dialects : DIALECT_SYSTEMD;
	char wrapper[32], why[2000], refused[500];
	struct text words = TEXT_ON(why);

	v->f.dialect = dialect;
	v->f.listen_pid = v->asked->listen_pid;
	if (start(v, t, passed ? SOCKETS_PASS : SOCKETS_AUTO, dialect, v->asked->listen_pid) > 0) {
		v->f.adopted = trial_seen(t, "socket-adopted", 0) != NULL;
		if (v->f.adopted)
			tell_adopted(v, t);
		else if (v->s->n_listeners)
			tell_taken(v, t, "LISTEN_FDS=");
		return true;
	}
	trial_failure(t, &words);
	(void)copy_string(refused, sizeof refused,
	        trial_seen(t, "socket-refused", 0)
	                ? member(trial_seen(t, "socket-refused", 0), "text")
	                : "");
	if (!look_wrapper(trial_worker(t, 1), wrapper, sizeof wrapper))
		(void)copy_string(wrapper, sizeof wrapper, "the command");
	v->start_time = v->start_time < SHORT_TIME ? v->start_time : SHORT_TIME;
	v->s->ready.timeout = v->start_time;
	if (v->s->n_listeners && (try_wrapper(v, t, wrapper) || try_dialects(v, t, true) ||
	                                 try_dialects(v, t, false)))
		return true;
	tell_failure(v, why, refused);
	return false;
}

/* ---- readiness, a second one, the end ---- */

static void tell_ready(struct visit *v, const struct trial *t)
{
	const json_t *said = trial_seen(t, "worker-ready", 1);

	v->f.says_ready = said != NULL;
	if (said)
		finding(&v->f, "readiness", VERDICT_GOOD, "it says READY=1, %.2f s after its start",
		        seconds_of(said));
	else
		finding(&v->f, "readiness", VERDICT_NOTE,
		        "it does not say READY=1; it took a connection %.2f s after its start",
		        seconds_of(trial_seen(t, "generation-ready", 1)));
}

static void try_second(struct visit *v, struct trial *t)
{
	struct look *one = look_new(&v->shield, t), *both = NULL, *after = NULL;
	const json_t *event = NULL;

	if (trial_reload(t) == 0)
		event = trial_wait(t, "generation-serving|generation-failed",
		        doctor_now() + v->start_time + START_TIME);
	v->f.replaced = event && !strcmp(member(event, "event"), "generation-serving");
	if (v->f.replaced)
		finding(&v->f, "second instance", VERDICT_GOOD,
		        "it starts beside the first one, which was replaced without a gap");
	else
		finding(&v->f, "second instance", VERDICT_BAD,
		        "it does not start beside the first one: %s",
		        event ? member(event, "text") : "it was not ready in time");
	if (v->f.replaced) {
		both = look_new(&v->shield, t);
		(void)trial_wait(t, "generation-gone", doctor_now() + LEAVE_TIME);
		after = look_new(&v->shield, t);
	}
	look_compare(&v->f, one, both, v->s);
	if (both && after)
		look_missing(&v->f, both, after);
	(void)look_free(one);
	(void)look_free(both);
	(void)look_free(after);
}

static void tell_farewell(struct visit *v, const char *name, const struct farewell *w)
{
	char end[120];

	if (!w->tried)
		return;
	if (w->exited)
		(void)snprintf(end, sizeof end, "is gone %.2f s later",
		        (double)w->exit_after / USEC_PER_SEC);
	else
		(void)snprintf(end, sizeof end, "is still there 5 s later");
	if (w->left) {
		finding(&v->f, name, VERDICT_BAD,
		        "its main process %s, but %u of those that it started go on: the signal "
		        "does "
		        "not reach the server (is an `exec` missing?)",
		        end, w->left);
		return;
	}
	if (w->had_request)
		finding(&v->f, name, w->answered && w->exited ? VERDICT_GOOD : VERDICT_NOTE,
		        "it %s the request that it had begun to read, and %s",
		        w->answered ? "answers" : "cuts", end);
	else
		finding(&v->f, name, w->exited ? VERDICT_NOTE : VERDICT_BAD, "it %s, and %s",
		        w->cut ? "cuts its connections" : "leaves its connections alone", end);
}

static const struct address *first_stream(const struct service_config *s)
{
	for (size_t i = 0; i < s->n_listeners; i++)
		if (s->listeners[i].address.kind != ADDRESS_UDP &&
		        s->listeners[i].address.kind != ADDRESS_SYSTEMD)
			return &s->listeners[i].address;
	return NULL;
}

static void try_signals(struct visit *v, struct trial *t)
{
	const struct address *a = first_stream(v->s);
	pid_t pid = trial_worker(t, v->f.replaced ? 2 : 1);

	if (pid)
		v->f.term = trial_farewell(t, a, pid, SIGTERM);
	tell_farewell(v, "TERM", &v->f.term);
	trial_end(t);
	if (start(v, t, v->s->sockets, v->s->dialects, v->s->listen_pid) > 0 &&
	        (pid = trial_worker(t, 1)))
		v->f.quit = trial_farewell(t, a, pid, SIGQUIT);
	tell_farewell(v, "QUIT", &v->f.quit);
	if (!v->f.term.exited && !v->f.quit.exited)
		finding(&v->f, "end", VERDICT_BAD,
		        "it leaves by neither signal; handoffd kills it after drain.kill-after");
}

static int visit(void *data)
{
	struct visit *v = data;
	struct trial t = {.pidfd = -1, .words_fd = -1};

	v->f.list = json_array();
	if (!v->f.list)
		return complain(CODE_FAILED, "memory is short");
	v->f.ran = true;
	if (find_sockets(v, &t)) {
		tell_ready(v, &t);
		look_at_rights(&v->f, trial_worker(&t, 1));
		try_second(v, &t);
		if (trial_seen(&t, "signal-ignored", 0))
			finding(&v->f, "parent", VERDICT_NOTE,
			        "it sends a signal to its parent (some servers end the one they "
			        "replace); "
			        "handoffd ignores that");
		try_signals(v, &t);
	}
	trial_end(&t);
	return findings_print(&v->f, &v->shield, v->asked, v->ctl->json);
}

/* ---- what is to be tried ---- */

static int load(struct ctl *ctl, struct config **ret)
{
	const char *environment =
	        ctl->environment ? ctl->environment : getenv("HANDOFF_ENVIRONMENT");
	struct config_option listen[ARRAY_SIZE(ctl->listen)];
	struct mistakes mistakes = {0};
	int r;

	for (size_t i = 0; i < ctl->n_listen; i++)
		listen[i] = (struct config_option){"listen", ctl->listen[i]};
	if (ctl->n_listen)
		r = config_from_options(
		        listen, ctl->n_listen, ctl->arguments, environment, ret, &mistakes);
	else
		r = config_load(
		        ctl->config ? ctl->config : DEFAULT_FILE, environment, ret, &mistakes);
	for (size_t i = 0; i < mistakes.count; i++)
		put_lines(stderr, "", mistakes.lines[i]);
	mistakes_done(&mistakes);
	return r ? CODE_USAGE : 0;
}

/* The settings under which it is tried: what is found out must not depend on policy. */
static void prepare(struct service_config *s, usec_t start_time)
{
	s->workers = 1;
	s->restart = RESTART_NEVER;
	s->ready = (struct ready_config){.by = s->n_listeners ? READY_ACCEPTING : READY_AUTO,
	        .fd = -1,
	        .timeout = start_time};
	s->rollout = (struct rollout_config){
	        .max_old = 4, .bake = 700 * USEC_PER_MSEC, .hold = USEC_INFINITY};
	s->drain = (struct drain_config){.by = DRAIN_AUTO,
	        .signal = SIGTERM,
	        .idle_after = USEC_INFINITY,
	        .deadline = 2 * USEC_PER_SEC,
	        .kill_after = 2 * USEC_PER_SEC};
	s->watch.count = s->build.count = 0;
}

static const struct service_config *choose(const struct ctl *ctl, const struct config *c)
{
	const struct service_config *s =
	        ctl->n_listen ? &c->services[0] : config_find(c, ctl->arguments[0]);

	if (!s)
		(void)complain(
		        CODE_USAGE, "the configuration has no service \"%s\"", ctl->arguments[0]);
	for (size_t i = 0; s && i < s->n_listeners; i++)
		if (s->listeners[i].address.kind == ADDRESS_SYSTEMD) {
			(void)complain(CODE_USAGE,
			        "%s comes from systemd, which is not there in a trial; try the "
			        "command with the address itself (-l)",
			        s->listeners[i].address.text);
			return NULL;
		}
	return s;
}

int command_doctor(struct ctl *ctl)
{
	_cleanup_(config_unrefp) struct config *config = NULL;
	struct service_config tried;
	struct visit *v = calloc(1, sizeof *v);
	struct config only;
	int r = v ? load(ctl, &config) : complain(CODE_FAILED, "memory is short");

	if (!r) {
		v->asked = choose(ctl, config);
		r = v->asked ? 0 : CODE_USAGE;
	}
	if (!r) {
		v->start_time = ctl->timeout == USEC_INFINITY ? START_TIME : ctl->timeout;
		tried = *v->asked;
		prepare(&tried, v->start_time);
		only = *config;
		only.services = &tried;
		only.n_services = 1;
		only.control_group = NULL;
		v->ctl = ctl;
		v->config = &only;
		v->s = &tried;
		r = shield_run(&v->shield, usec_add(60 * USEC_PER_SEC, TRIALS_MAX * v->start_time),
		        visit, v);
	}
	free(v);
	return r;
}
