/* SPDX-License-Identifier: MIT */
/* Sockets that programs bind themselves: what a worker asks goes to the listeners of its
 * generation, and what comes of it is told. Decides nothing but when to look for sockets that are
 * gone: at every call, at the end of a worker, once a second while a generation starts, and while
 * it serves when clients come to one (see listener_set_seek_lost()). */
#include "daemon.h"
#include "system/log.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/un.h>

#define SWEEP_SECONDS 1.

static struct generation *core_generation(struct daemon *d, uint32_t service, uint32_t generation)
{
	struct service *sv = supervisor_service(d->supervisor, service);

	return sv ? service_find(sv, generation) : NULL;
}

static void tell(
        struct daemon *d, enum record_type type, const struct live_worker *w, const char *text)
{
	const struct service *sv = supervisor_service(d->supervisor, w->service);
	struct record r = {.type = type, RECORD_NONE};

	r.service = sv ? sv->name : NULL;
	r.generation = w->generation;
	r.worker = (int)w->index;
	r.pid = (int)process_pid(w->process);
	r.text = text;
	log_record(&r);
	if (d->control)
		control_publish(d->control, &r);
}

/* Whoever waits in a queue that is not asked any more would wait for ever. */
static void hurry_probes(const struct live_generation *g)
{
	for (size_t i = 0; i < g->n_probes; i++)
		if (g->probes[i])
			probe_hurry(g->probes[i]);
}

/* Sockets of a retired generation stay as they are: those who count its connections know them. */
static bool may_lose_sockets(const struct generation *cg)
{
	return cg->state == GENERATION_STARTING || cg->state == GENERATION_READY ||
	       cg->state == GENERATION_CANARY || cg->state == GENERATION_SERVING;
}

bool daemon_sweep(struct live_generation *g, bool starting)
{
	return g->set && listener_set_sweep(g->set, live_generation_processes, g, starting);
}

static void tell_of_socket(const struct live_generation *g, enum record_type type, const char *text)
{
	const struct service *sv = supervisor_service(g->daemon->supervisor, g->service);
	struct record r = {.type = type, RECORD_NONE, .generation = g->generation};

	r.service = sv ? sv->name : NULL;
	r.text = text;
	log_record(&r);
	if (g->daemon->control)
		control_publish(g->daemon->control, &r);
}

static void tell_of_orphan(const struct live_generation *g, const char *address)
{
	char text[240];
	struct text t = TEXT_ON(text);

	text_add(&t,
	        "the program has closed its socket at %s: clients wait in its queue until it "
	        "listens again",
	        address);
	tell_of_socket(g, RECORD_SOCKET_CLOSED, text);
}

static bool on_seek(void *data)
{
	struct live_generation *g = data;
	const struct generation *cg = core_generation(g->daemon, g->service, g->generation);

	const char *address;
	bool lost;

	if (!cg || !may_lose_sockets(cg))
		return false;
	lost = daemon_sweep(g, cg->state == GENERATION_STARTING);
	while ((address = listener_set_orphan(g->set))) {
		tell_of_orphan(g, address);
		lost = true;
	}
	return lost;
}

void daemon_worker_ended(struct daemon *d, uint32_t service, uint32_t generation)
{
	struct generation *cg = core_generation(d, service, generation);

	struct live_generation *g = cg ? cg->shell : NULL;

	if (!g || !g->set || cg->state != GENERATION_SERVING)
		return;
	(void)daemon_sweep(g, false);
	while (listener_set_orphan(g->set)) /* its end was told */
		;
}

/* ---- calls ---- */

static int on_bind(struct live_generation *g, const struct socket_call *call, bool starting,
        struct ho_error *error)
{
	const struct socket_holder holder = {call->caller, call->theirs};

	return listener_set_bind(
	        g->set, call->fd, holder, &call->address, call->length, starting, error);
}

/* A path or an abstract name. */
static struct unix_target target_of(const struct socket_call *call)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)&call->address;

	if (call->path)
		return (struct unix_target){call->path->directory, call->path->name, 0};
	return (struct unix_target){
	        -1, un->sun_path + 1, call->length - offsetof(struct sockaddr_un, sun_path) - 1};
}

static int on_bind_unix(
        struct live_generation *g, const struct socket_call *call, struct ho_error *error)
{
	const struct socket_holder holder = {call->caller, call->theirs};
	const struct unix_target target = target_of(call);
	const struct unix_look look = {call->maker.uid, call->maker.gid, 0777 & ~call->maker.umask};

	return listener_set_bind_unix(g->set, call->fd, holder, &target, &look, call->give, error);
}

/* Calls by which a program finds out whether another one is there, or makes room for itself. */
static int on_other(const struct live_generation *g, const struct generation *cg,
        const struct socket_call *call)
{
	const struct unix_target target = target_of(call);

	if (call->kind == CALL_UNLINK)
		return listener_set_keeps(g->set, &target) ? 0 : 1;
	if (cg->state == GENERATION_STARTING && listener_set_awaits(g->set, &target))
		return -ECONNREFUSED;
	return 1;
}

/* Where its program listens that is none of its addresses: told if it does not become ready. */
static void note_elsewhere(struct live_generation *g, int fd)
{
	struct text t = {
	        .p = g->elsewhere, .size = sizeof g->elsewhere, .len = strlen(g->elsewhere)};
	char where[140];

	if (adopt_describe(fd, where, sizeof where) && !strstr(g->elsewhere, where))
		text_add(&t, "%s%s", t.len ? ", " : "", where);
}

/* Why the generation does not get ready, if it does not. */
static void tell_trouble(struct daemon *d, const struct live_worker *w, const char *text)
{
	daemon_post(d, &(struct event){.type = EVENT_WORKER_SAID,
	                       .service = w->service,
	                       .generation = w->generation,
	                       .worker = w->index,
	                       .serial = w->serial,
	                       .text = text,
	                       .said.word = WORD_TROUBLE});
}

/* An empty text: what was refused does not matter any more. */
static void note_refused(struct live_generation *g, const struct live_worker *w, const char *why)
{
	if (!g->refused[0] && !why[0])
		return;
	(void)copy_string(g->refused, sizeof g->refused, why);
	tell_trouble(g->daemon, w, g->refused);
}

static int on_listen(struct live_generation *g, const struct live_worker *w,
        const struct socket_call *call, struct ho_error *error)
{
	bool fresh = false;
	char where[140];
	char text[160];
	struct text t = TEXT_ON(text);
	int r = listener_set_listen(g->set, call->fd, call->backlog, &fresh, error);

	if (r > 0) {
		note_elsewhere(g, call->fd);
	} else if (r == 0 && fresh) {
		const char *at = listener_set_address(g->set, call->fd);

		/* A private path would say nothing; the form of an IP address does. */
		if (at && strncmp(at, "unix:", 5) != 0 &&
		        adopt_describe(call->fd, where, sizeof where))
			at = where;
		text_add(&t, "the program listens on %s", at ? at : "");
		note_refused(g, w, "");
		tell(g->daemon, RECORD_SOCKET_ADOPTED, w, text);
		daemon_post(g->daemon, &(struct event){.type = EVENT_SOCKET_ADOPTED,
		                               .service = g->service,
		                               .generation = g->generation});
		g->daemon->changed = true; /* the socket outlives us only if it is written down */
	}
	return r;
}

static void describe_blind(int error, struct text *t)
{
	text_add(t,
	        "cannot look at the sockets of the program (pidfd_getfd: %s), so those that it "
	        "binds "
	        "itself cannot be taken over; give the container SYS_PTRACE (docker run --cap-add "
	        "SYS_PTRACE), or run handoffd as root or as the user of the program, or let the "
	        "program take the sockets that it is passed (sockets = \"pass\")",
	        strerror(-error));
}

static void tell_blind(struct live_generation *g, const struct live_worker *w, int error)
{
	char text[480];
	struct text t = TEXT_ON(text);

	if (g->blind)
		return;
	g->blind = true;
	describe_blind(error, &t);
	tell(g->daemon, RECORD_ADOPTION_IMPOSSIBLE, w, text);
	tell_trouble(g->daemon, w,
	        "handoffd cannot take over the sockets that the program binds "
	        "(see the event \"adoption-impossible\")");
}

int daemon_on_asked(void *data, struct process *p, const struct socket_call *call)
{
	struct daemon *d = data;
	struct live_worker *w = process_user(p);
	struct generation *cg = core_generation(d, w->service, w->generation);
	struct live_generation *g = cg ? cg->shell : NULL;
	struct ho_error error = {0};
	bool losing;
	int r;

	if (!g || !g->set)
		return 1;
	if (call->kind == CALL_UNLINK || call->kind == CALL_CONNECT)
		return on_other(g, cg, call);
	if (call->fd < 0) {
		tell_blind(g, w, call->fd);
		return 1;
	}
	if (!g->bound)
		store_note_change(g->daemon, g->service);
	g->bound = true;
	losing = may_lose_sockets(cg);
	if (losing && call->kind == CALL_BIND)
		(void)daemon_sweep(g, cg->state == GENERATION_STARTING);
	r = call->kind == CALL_LISTEN ? on_listen(g, w, call, &error)
	    : call->address.ss_family == AF_UNIX
	            ? on_bind_unix(g, call, &error)
	            : on_bind(g, call, cg->state == GENERATION_STARTING, &error);
	if (losing && call->kind == CALL_LISTEN && r == 0)
		(void)daemon_sweep(g, cg->state == GENERATION_STARTING);
	if (r <= 0)
		hurry_probes(g);
	d->changed |= r == 0;
	if (r < 0 && error.text[0])
		tell(d, RECORD_SOCKET_REFUSED, w, error.text);
	if (error.text[0])
		note_refused(g, w, error.text);
	return r;
}

void daemon_explain_exit(struct live_worker *w, const struct event *exited)
{
	struct generation *cg = core_generation(w->daemon, w->service, w->generation);
	struct live_generation *g = cg ? cg->shell : NULL;
	const char *words = exited->text ? exited->text : "";

	if (!g || cg->state != GENERATION_STARTING)
		return;
	if (exited->exited.code == CLD_EXITED && exited->exited.status == 0)
		tell_trouble(g->daemon, w,
		        "if it has put itself into the background: start it so that it stays in the "
		        "foreground");
	else if (!g->bound && !g->blind && daemon_adoption(g) != ADOPTION_NO &&
	         process_adoption_error(w->process) == 0 &&
	         (strstr(words, "in use") || strstr(words, "EADDRINUSE")))
		tell_trouble(g->daemon, w,
		        "it has called no bind(2): one that connects to its port to see whether it "
		        "is free, or binds by io_uring or as a 32-bit program, cannot be adopted "
		        "and "
		        "has to take the socket that it is passed");
}

/* ---- workers ---- */

enum adoption daemon_adoption(const struct live_generation *g)
{
	enum sockets_mode mode = g->release->service->sockets;
	bool any = false;

	for (size_t i = 0; g->set && i < listener_set_count(g->set); i++) {
		enum steering by = listener_set_info(g->set, i).steering;

		any |= by != STEERING_SHARED ||
		       listener_set_info(g->set, i).config->address.kind == ADDRESS_ABSTRACT;
	}
	if (!any)
		return ADOPTION_NO;
	return mode == SOCKETS_ADOPT  ? ADOPTION_MUST
	       : mode == SOCKETS_AUTO ? ADOPTION_IF_POSSIBLE
	                              : ADOPTION_NO;
}

static void on_sweep(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct live_generation *g = timer->data;
	struct generation *cg = core_generation(g->daemon, g->service, g->generation);
	struct ho_error error = {0};

	(void)events;
	if (!cg || cg->state != GENERATION_STARTING) {
		ev_timer_stop(loop, timer);
		return;
	}
	if (listener_set_sweep(g->set, live_generation_processes, g, true))
		hurry_probes(g);
	if (listener_set_apart(g->set, &error)) {
		tell_of_socket(g, RECORD_SOCKET_REFUSED, error.text);
		daemon_post(g->daemon, &(struct event){.type = EVENT_PROBE_DONE,
		                               .service = g->service,
		                               .generation = g->generation,
		                               .text = error.text});
	}
}

int daemon_check_adoption(const struct process *p, struct ho_error *reterr)
{
	char text[480];
	struct text t = TEXT_ON(text);
	int r = process_may_look(p);

	if (r == 0)
		return 0;
	describe_blind(r, &t);
	return ho_error_set(reterr, r, "%s", text);
}

void daemon_watch_adoption(struct live_generation *g, const struct live_worker *w)
{
	struct daemon *d = g->daemon;
	int error = process_adoption_error(w->process);
	struct generation *cg = core_generation(d, g->service, g->generation);
	char text[240];
	struct text t = TEXT_ON(text);

	if (error < 0 && !d->adoption_told) {
		d->adoption_told = true;
		text_add(&t,
		        "programs that bind their address themselves cannot be taken over here "
		        "(seccomp: %s); sockets "
		        "are only passed",
		        strerror(-error));
		tell(d, RECORD_ADOPTION_IMPOSSIBLE, w, text);
	}
	if (error == 0) {
		int look = process_may_look(w->process);

		if (look < 0)
			tell_blind(g, w, look);
		else if (process_lost_privileges(w->process))
			tell(d, RECORD_ADOPTION_IMPOSSIBLE, w,
			        "the program is set-user-ID or set-group-ID, which has no effect: "
			        "without CAP_SYS_ADMIN handoffd has to set no_new_privs to take "
			        "over sockets; give it that, or write sockets = \"pass\"");
	}
	listener_set_seek_lost(g->set, on_seek, g);
	if (error < 0 || cg->state != GENERATION_STARTING || ev_is_active(&g->sweep))
		return;
	ev_timer_init(&g->sweep, on_sweep, SWEEP_SECONDS, SWEEP_SECONDS);
	g->sweep.data = g;
	ev_timer_start(d->loop, &g->sweep);
}
