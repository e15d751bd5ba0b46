/* SPDX-License-Identifier: MIT */
#include "world.h"
#include "chance.h"
#include "core/taken.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_EVENTS = 4096, MAX_GENS = 512, MAX_REQUESTS = 256, SIGNAL_ABRT = 6 };

/* ---- the world's own memory: what is true, not what the core believes ---- */

struct sim_worker {
	bool alive, told, killed;
	uint32_t serial;
	int pid;
	unsigned rest; /* what stays behind when the main process goes */
	bool rest_alive;
	bool ignores_term;
	unsigned hello; /* as WORD_HELLO has it */
	usec_t heard;   /* when it was, for the last time */
	bool ready, stuck, aborted;
};

struct sim_generation {
	unsigned builds;
	bool served;
	bool building, held; /* held: connections were sent to it before it was ready */
	bool used, prepared, released, ready, watched, shared, migrates, linked;
	bool left; /* a server that was taken over, and goes on without us */
	uint32_t service, id;
	const struct service_config *settings;
	unsigned share;
	unsigned queue, half_open, open; /* connections */
	bool cut_named;
	bool adopted, frozen, told;
	usec_t share_lost; /* when it lost its share */
	usec_t end_by;     /* the latest moment at which it may still have processes */
	struct sim_worker workers[MAX_WORKERS];
};

struct pending {
	usec_t at;
	struct event ev;
};

struct sim_request {
	uint32_t id;
	bool answered, cancelled;
};

struct world {
	struct chance chance;
	const struct world_options *options;
	struct world_result result;
	struct supervisor *s;
	struct action_list out;
	usec_t now;
	int last_pid;
	bool exited, at_once, stopping;
	unsigned stops;
	struct config *config; /* what the next load gives */
	bool config_bad;
	struct event soon[MAX_EVENTS]; /* answers: in order, before anything else */
	unsigned soon_first, soon_n;
	struct pending later[MAX_EVENTS];
	unsigned later_n;
	struct sim_generation gens[MAX_GENS];
	unsigned n_gens;
	struct sim_request requests[MAX_REQUESTS];
	unsigned n_requests;
	bool quiet_life; /* no more trouble: the end must come */
};

static void error(struct world *w, const char *format, ...) _printf_(2, 3);
static void error(struct world *w, const char *format, ...)
{
	va_list ap;

	if (w->result.error[0])
		return;
	va_start(ap, format);
	(void)vsnprintf(w->result.error, sizeof w->result.error, format, ap);
	va_end(ap);
}

static struct sim_generation *find(struct world *w, uint32_t service, uint32_t id)
{
	for (unsigned i = w->n_gens; i-- > 0;)
		if (w->gens[i].used && w->gens[i].service == service && w->gens[i].id == id)
			return &w->gens[i];
	return NULL;
}

static bool has_processes(const struct sim_generation *g)
{
	for (unsigned i = 0; i < MAX_WORKERS; i++)
		if (g->workers[i].alive || g->workers[i].rest_alive)
			return true;
	return false;
}

/* ---- events ---- */

static void soon(struct world *w, struct event ev)
{
	if (w->soon_n == MAX_EVENTS) {
		error(w, "the core asks without end");
		return;
	}
	w->soon[(w->soon_first + w->soon_n++) % MAX_EVENTS] = ev;
}

static void later(struct world *w, usec_t delay, struct event ev)
{
	if (w->later_n == MAX_EVENTS) {
		error(w, "too many events wait");
		return;
	}
	w->later[w->later_n++] = (struct pending){w->now + delay, ev};
}

static struct event of_worker(const struct sim_generation *g, unsigned index, enum event_type type)
{
	return (struct event){.type = type,
	        .service = g->service,
	        .generation = g->id,
	        .worker = index,
	        .serial = g->workers[index].serial};
}

static struct event of_generation(const struct sim_generation *g, enum event_type type)
{
	return (struct event){.type = type, .service = g->service, .generation = g->id};
}

static usec_t some_time(struct world *w)
{
	static const usec_t times[] = {1, 100, 1000, 20000, 300000, 2 * USEC_PER_SEC,
	        15 * USEC_PER_SEC, 40 * USEC_PER_SEC};

	return times[pick(&w->chance, ARRAY_SIZE(times))];
}

static void count_changed(struct world *w, struct sim_generation *g)
{
	struct event ev = of_generation(g, EVENT_INFLIGHT);

	if (!g->watched)
		return;
	ev.inflight.total = g->open + g->queue;
	ev.inflight.idle = g->settings->drain.idle_after != USEC_INFINITY && g->open
	                           ? pick(&w->chance, g->open + 1)
	                           : 0;
	soon(w, ev);
}

static void worker_dies(struct world *w, struct sim_generation *g, unsigned index)
{
	struct sim_worker *k = &g->workers[index];
	struct event ev = of_worker(g, index, EVENT_WORKER_EXITED);

	if (!k->alive)
		return;
	k->alive = false;
	k->rest_alive = k->rest > 0;
	ev.exited.code = 1 + (int)pick(&w->chance, 2);
	ev.exited.status = (int)pick(&w->chance, 3);
	ev.exited.rest = k->rest;
	if (!has_processes(g))
		g->open = 0;
	soon(w, ev);
	count_changed(w, g);
	if (k->rest_alive && !k->killed && one_in(&w->chance, 2)) {
		k->rest_alive = false;
		soon(w, of_worker(g, index, EVENT_WORKER_TREE_GONE));
	}
}

/* ---- actions ---- */

static void do_prepare(struct world *w, const struct action *a)
{
	struct sim_generation *g = &w->gens[w->n_gens];
	struct event ev = {
	        .type = EVENT_PREPARED, .service = a->service, .generation = a->generation};
	struct service *sv = supervisor_service(w->s, a->service);
	struct generation *cg = sv ? service_find(sv, a->generation) : NULL;

	if (!cg || find(w, a->service, a->generation)) {
		error(w, "PREPARE for a generation that is not new");
		return;
	}
	if (w->n_gens + 1 == MAX_GENS || (!w->quiet_life && one_in(&w->chance, 30))) {
		ev.type = EVENT_PREPARE_FAILED;
		ev.text = "no such directory";
		soon(w, ev);
		return;
	}
	w->n_gens++;
	w->result.generations++;
	*g = (struct sim_generation){.used = true,
	        .prepared = true,
	        .service = a->service,
	        .id = a->generation,
	        .settings = cg->settings,
	        .end_by = USEC_INFINITY};
	g->shared = one_in(&w->chance, 6) && cg->settings->n_listeners;
	g->migrates = one_in(&w->chance, 2);
	ev.prepared.shared = g->shared;
	ev.prepared.migrates = g->migrates;
	ev.prepared.probeable = !g->shared;
	ev.prepared.divisible = !g->shared && cg->settings->n_listeners;
	ev.text = "/srv/releases/1";
	g->linked = a->prepare.link;
	if (g->linked)
		w->result.deploys++;
	soon(w, ev);
}

/* What sort of worker is it? */
static void give_character(struct world *w, struct sim_generation *g, unsigned index)
{
	struct sim_worker *k = &g->workers[index];
	struct chance *c = &w->chance;
	struct event ready = of_worker(g, index, EVENT_WORKER_SAID);
	bool notifies = g->settings->ready.by == READY_NOTIFY ||
	                g->settings->ready.by == READY_FD || g->settings->ready.by == READY_EXEC ||
	                one_in(c, 3);

	k->rest = one_in(c, 8);
	k->ignores_term = one_in(c, 8);
	if (notifies && !one_in(c, 20)) { /* some hang for ever */
		later(w, some_time(w), ready);
		if (one_in(c, 8))
			later(w, some_time(w), ready); /* says it twice */
	}
	if (one_in(c, 2)) { /* uses libhandoff; some lose their channel */
		struct event hello = ready;

		hello.said.word = WORD_HELLO;
		hello.said.number = 1 + !one_in(c, 4);
		later(w, some_time(w), hello);
		hello.said.number = pick(c, 3);
		if (one_in(c, 4))
			later(w, some_time(w), hello);
	}
	if (g->settings->watchdog != USEC_INFINITY && !one_in(c, 6)) {
		struct event alive = ready;

		alive.said.word = WORD_ALIVE;
		later(w, g->settings->watchdog / 2, alive);
	}
	if (!w->quiet_life && one_in(c, 20)) {
		struct event stuck = ready;

		stuck.said.word = WORD_STUCK;
		later(w, some_time(w), stuck);
	}
	if (!w->quiet_life && one_in(c, 9)) { /* crashes on its own, some day */
		struct event die = of_worker(g, index, EVENT_WORKER_EXITED);

		later(w, some_time(w), die);
	}
}

static void do_start_worker(struct world *w, const struct action *a)
{
	struct sim_generation *g = find(w, a->service, a->generation);
	struct sim_worker *k;
	struct event ev;

	if (!g || g->released || a->worker >= MAX_WORKERS) {
		error(w, "START_WORKER in a generation that has no listeners");
		return;
	}
	k = &g->workers[a->worker];
	if (!g->id && a->serial > 1)
		error(w, "a server that was taken over is started again");
	if (k->alive || k->rest_alive) {
		error(w, "START_WORKER beside a living one");
		return;
	}
	*k = (struct sim_worker){.serial = a->serial};
	ev = of_worker(g, a->worker, EVENT_WORKER_STARTED);
	if (!w->quiet_life && one_in(&w->chance, 40)) {
		ev.type = EVENT_WORKER_START_FAILED;
		ev.text = "No such file or directory";
		soon(w, ev);
		return;
	}
	k->alive = true;
	k->heard = w->now;
	k->pid = ev.pid = ++w->last_pid;
	soon(w, ev);
	if (g->adopted || one_in(&w->chance, 6)) {
		g->adopted = true;
		soon(w, of_generation(g, EVENT_SOCKET_ADOPTED));
	}
	give_character(w, g, a->worker);
}

/* 4: told before it is quiet or drained, without a deadline or a failure behind it */
static void judge_signal(struct world *w, const struct sim_generation *g)
{
	struct service *sv = supervisor_service(w->s, g->service);
	struct generation *cg = sv ? service_find(sv, g->id) : NULL;
	bool by_signal =
	        g->shared || g->settings->drain.by == DRAIN_SIGNAL || (cg && cg->by_message);

	if (!cg || cg->state == GENERATION_FAILED || cg->overdue || w->at_once ||
	        cg->state == GENERATION_SERVING)
		return;
	if (g->share)
		error(w, "a worker is told to stop while its generation has a share");
	if (!g->shared && (g->queue || g->half_open) && g->settings->n_listeners)
		error(w, "generation %u is told to stop with %u in its queue, %u half open", g->id,
		        g->queue, g->half_open);
	if (!by_signal && g->settings->drain.idle_after == USEC_INFINITY && g->open)
		error(w, "generation %u is told to stop with %u connections", g->id, g->open);
	if (!by_signal && g->id && cg->watched && !g->frozen && !g->told &&
	        (g->adopted || g->settings->drain.idle_after != USEC_INFINITY))
		error(w, "generation %u is told to stop without a last look", g->id);
}

/* It stands still; what came since the last count is seen now. */
static void do_freeze(struct world *w, const struct action *a, bool thaw)
{
	struct sim_generation *g = find(w, a->service, a->generation);
	struct event ev;

	if (!g || g->released || g->frozen == !thaw) {
		error(w, "%s of what is not there, or twice", thaw ? "THAW" : "FREEZE");
		return;
	}
	g->frozen = !thaw;
	for (unsigned i = 0; thaw && i < MAX_WORKERS; i++)
		g->workers[i].heard = w->now;
	if (thaw)
		return;
	if (g->share)
		error(w, "generation %u is stopped while it has a share", g->id);
	ev = of_generation(g, EVENT_FROZEN);
	ev.inflight.total = g->open + g->queue;
	ev.inflight.idle = g->settings->drain.idle_after != USEC_INFINITY && g->open
	                           ? pick(&w->chance, g->open + 1)
	                           : 0;
	ev.inflight.unknown = one_in(&w->chance, 10);
	if (one_in(&w->chance, 2))
		soon(w, ev);
	else
		later(w, 1 + pick(&w->chance, 100000), ev);
}

/* Only who was silent for too long, or asked for it; not a second time. */
static void do_abort(struct world *w, struct sim_generation *g, unsigned index)
{
	struct sim_worker *k = &g->workers[index];

	if (k->told || k->aborted)
		error(w, "worker %u of generation %u is aborted although it was told to stop",
		        index, g->id);
	if (!k->stuck && w->now < usec_add(k->heard, g->settings->watchdog))
		error(w, "worker %u of generation %u is aborted although it was heard", index,
		        g->id);
	k->aborted = true;
	if (!k->ignores_term)
		later(w, some_time(w), of_worker(g, index, EVENT_WORKER_EXITED));
}

/* It says something. */
static void hear(struct world *w, struct sim_generation *g, const struct event *ev)
{
	struct sim_worker *k = &g->workers[ev->worker];

	if (k->serial != ev->serial)
		return;
	if (ev->said.word == WORD_HELLO)
		k->hello = (unsigned)ev->said.number;
	k->stuck |= ev->said.word == WORD_STUCK;
	if (ev->said.word == WORD_ALIVE || (ev->said.word == WORD_READY && !k->ready))
		k->heard = w->now;
	k->ready |= ev->said.word == WORD_READY;
	/* some fall silent; and to the end of all things nobody shall be woken */
	if (ev->said.word == WORD_ALIVE && !w->quiet_life && !one_in(&w->chance, 20))
		later(w, g->settings->watchdog / 2, *ev);
}

static void do_signal(struct world *w, const struct action *a, bool kill)
{
	struct sim_generation *g = find(w, a->service, a->generation);
	struct sim_worker *k = g && a->worker < MAX_WORKERS ? &g->workers[a->worker] : NULL;
	struct event ev;

	if (!k || k->serial != a->serial) {
		error(w, "a signal for a worker that is not there");
		return;
	}
	if (!k->alive && !k->rest_alive) {
		/* it died in this very moment: its exit is on the way */
		for (unsigned i = 0; i < w->soon_n; i++) {
			const struct event *e = &w->soon[(w->soon_first + i) % MAX_EVENTS];

			if (e->service == g->service && e->generation == g->id &&
			        e->worker == a->worker)
				return;
		}
		error(w, "a signal for a dead worker");
		return;
	}
	if (!kill && a->signo == SIGNAL_ABRT) {
		do_abort(w, g, a->worker);
		return;
	}
	if (!kill)
		judge_signal(w, g);
	if (!g->id && (g->share || !g->share_lost))
		error(w, "a server is told to stop that no generation has taken the place of");
	k->told = true;
	g->told |= !kill;
	k->killed |= kill;
	if (kill) {
		k->rest = 0;
		if (k->rest_alive) {
			k->rest_alive = false;
			soon(w, of_worker(g, a->worker, EVENT_WORKER_TREE_GONE));
		}
		worker_dies(w, g, a->worker);
	} else if (!k->ignores_term && k->alive) {
		ev = of_worker(g, a->worker, EVENT_WORKER_EXITED);
		later(w, some_time(w), ev);
	} else if (k->rest_alive && !k->ignores_term) {
		later(w, some_time(w), of_worker(g, a->worker, EVENT_WORKER_TREE_GONE));
	}
}

/* Does somebody who is not ready have the connections of the service, so that they wait? */
static bool is_held(struct world *w, uint32_t service)
{
	for (unsigned i = 0; i < w->n_gens; i++)
		if (w->gens[i].used && w->gens[i].service == service && w->gens[i].held &&
		        w->gens[i].share)
			return true;
	return false;
}

/* Only who said hello is spoken to, and to drain only who can. */
static void do_tell(struct world *w, const struct action *a)
{
	struct sim_generation *g = find(w, a->service, a->generation);
	struct sim_worker *k = g && a->worker < MAX_WORKERS ? &g->workers[a->worker] : NULL;

	if (!k || k->serial != a->serial) {
		error(w, "a word for a worker that is not there");
		return;
	}
	if (!k->alive)
		return; /* its exit is on the way */
	if (k->hello < (a->tell.word == TELL_DRAIN ? 2 : 1))
		error(w, "a word for a worker that did not ask for it");
	if (a->tell.word == TELL_SERVING) {
		struct sim_generation *serving = find(w, a->service, a->tell.generation);

		if (!serving || (!serving->share && !is_held(w, serving->service)))
			error(w, "generation %u is said to serve, and has no share",
			        a->tell.generation);
		return;
	}
	judge_signal(w, g);
	if (g->settings->drain.by != DRAIN_AUTO)
		error(w, "a drain message where drain.by says something else");
	k->told = true;
	if (!k->ignores_term)
		later(w, some_time(w), of_worker(g, a->worker, EVENT_WORKER_EXITED));
}

static void do_steer(struct world *w, const struct action *a)
{
	struct service *sv = supervisor_service(w->s, a->service);
	unsigned total = 0;
	struct event ev = {.type = EVENT_STEERED, .service = a->service};

	if (!sv) {
		error(w, "STEER for no service");
		return;
	}
	if (!w->quiet_life && one_in(&w->chance, 20)) {
		ev.type = EVENT_STEER_FAILED;
		ev.text = "Operation not permitted";
		soon(w, ev);
		if (sv->turn != TURN_STOP && sv->turn != TURN_RETURN)
			return;
	}
	for (unsigned i = 0; i < sv->n_generations; i++) {
		struct generation *cg = sv->generations[i];
		struct sim_generation *g = find(w, sv->id, cg->id);

		total += cg->share;
		if (!g) {
			if (cg->share)
				error(w, "a share for a generation without listeners");
			continue;
		}
		g->held &= sv->state != SERVICE_STOPPING;
		g->served |= cg->share && sv->turn != TURN_HOLD;
		if (cg->share && !g->share) {
			unsigned ready = 0;

			for (unsigned k = 0; k < cg->open; k++)
				ready += cg->workers[k].state == WORKER_READY ||
				         cg->workers[k].state == WORKER_RUNNING;
			g->held |= sv->turn == TURN_HOLD;
			if ((sv->turn == TURN_FLIP || sv->turn == TURN_PART) && !cg->died &&
			        ready < cg->open)
				error(w,
				        "2: a share for a generation of which workers are missing");
			if (sv->turn != TURN_HOLD && g->settings->ready.by == READY_HTTP &&
			        !g->ready && g->id)
				error(w, "2: a share for a generation that did not answer its "
				         "probe");
		}
		if (g->share && !cg->share) {
			g->share_lost = w->now;
			g->half_open += g->settings->n_listeners ? pick(&w->chance, 3) : 0;
		}
		g->share = cg->share;
	}
	if (total != SHARE_ALL && total != 0)
		error(w, "shares make %u", total);
	if (ev.type == EVENT_STEERED)
		soon(w, ev);
}

static void do_probe(struct world *w, const struct action *a)
{
	struct sim_generation *g = find(w, a->service, a->generation);
	struct event ev;

	if (!g) {
		error(w, "PROBE of nothing");
		return;
	}
	if (one_in(&w->chance, 10))
		return; /* never answered */
	ev = of_generation(g, EVENT_PROBE_DONE);
	ev.ok = !one_in(&w->chance, 20);
	later(w, some_time(w), ev);
}

static void do_check_quiet(struct world *w, const struct action *a)
{
	struct sim_generation *g = find(w, a->service, a->generation);
	struct event ev;

	if (!g) {
		error(w, "CHECK_QUIET of nothing");
		return;
	}
	ev = of_generation(g, EVENT_QUIET_CHECKED);
	ev.ok = g->shared || (!g->queue && !g->half_open && w->now >= g->share_lost + 1000);
	if (w->options->break_it)
		ev.ok = true;
	/* handshakes end, queues are served: at some pace */
	if (g->half_open && one_in(&w->chance, 2)) {
		g->half_open--;
		g->queue++;
	}
	if (g->queue && has_processes(g) && one_in(&w->chance, 2)) {
		g->open += g->queue;
		g->queue = 0;
	}
	soon(w, ev);
}

static void do_watch(struct world *w, const struct action *a)
{
	struct sim_generation *g = find(w, a->service, a->generation);

	if (!g) {
		error(w, "WATCH_DRAIN of nothing");
		return;
	}
	if (!w->quiet_life && one_in(&w->chance, 25)) {
		soon(w, of_generation(g, EVENT_WATCH_FAILED));
		return;
	}
	g->watched = true;
	count_changed(w, g);
}

static bool sv_stops(struct world *w, uint32_t service)
{
	const struct service *sv = supervisor_service(w->s, service);

	return !sv || sv->remove || sv->state == SERVICE_STOPPING || sv->state == SERVICE_STOPPED;
}

static void do_release(struct world *w, const struct action *a)
{
	struct sim_generation *g = find(w, a->service, a->generation);

	if (!g || g->released) {
		error(w, "8: RELEASE of what is released");
		return;
	}
	g->left = a->leave;
	if (a->leave && g->id)
		error(w, "a generation of our own is left alone");
	if (a->leave && g->share)
		g->share = 0; /* the kernel's own doing from now on */
	if (has_processes(g) && !a->leave)
		error(w, "3: listeners of generation %u are closed beside a living process", g->id);
	if (g->frozen)
		error(w, "generation %u is left stopped", g->id);
	if (g->share)
		error(w, "3: listeners of generation %u are closed while it has a share", g->id);
	if (g->building)
		error(w, "generation %u is released beside its build", g->id);
	if (g->held && g->queue && !w->stopping && !sv_stops(w, g->service) && !g->served)
		error(w, "%u connections that waited for generation %u are lost", g->queue, g->id);
	g->released = true;
	g->watched = false;
}

static void do_build(struct world *w, const struct action *a)
{
	struct sim_generation *g = find(w, a->service, a->generation);
	struct event ev;

	if (!g || g->released) {
		error(w, "a build for nothing");
		return;
	}
	ev = of_generation(g, EVENT_BUILD_ENDED);
	ev.serial = ++g->builds;
	if (a->type == ACTION_STOP_BUILD) {
		ev.serial = g->builds = g->builds - 1;
		ev.exited.code = 2;
		ev.exited.status = 15;
		later(w, one_in(&w->chance, 2) ? 1 : 300000, ev);
		return;
	}
	for (unsigned i = 0; i < w->n_gens; i++)
		if (w->gens[i].building && w->gens[i].service == g->service)
			error(w, "two builds of a service at once");
	g->building = true;
	if (has_processes(g))
		error(w, "a build for generation %u, whose workers run", g->id);
	ev.exited.code = one_in(&w->chance, 20) ? 0 : 1 + one_in(&w->chance, 10);
	ev.exited.status = one_in(&w->chance, 5);
	later(w, some_time(w), ev);
}

/* Who waits in its queue comes to the one that has the share now. */
static void do_return(struct world *w, const struct action *a)
{
	struct sim_generation *g = find(w, a->service, a->generation), *to = NULL;

	for (unsigned i = 0; i < w->n_gens; i++)
		if (w->gens[i].used && !w->gens[i].released && w->gens[i].service == a->service &&
		        w->gens[i].share)
			to = &w->gens[i];
	if (!g || g->released || !to || to == g) {
		error(w, "RETURN_HELD of nothing, or to nobody");
		return;
	}
	to->queue += g->queue + g->half_open;
	g->queue = g->half_open = 0;
}

static void do_answer(struct world *w, const struct action *a)
{
	struct request *r = a->request;

	if (!r)
		return;
	w->result.answers++;
	for (unsigned i = 0; i < w->n_requests; i++) {
		if (w->requests[i].id != r->id)
			continue;
		if (w->requests[i].answered || w->requests[i].cancelled)
			error(w, "7: request %u is answered twice, or after it was taken back",
			        r->id);
		w->requests[i].answered = true;
	}
	for (size_t i = 0; i < r->n_targets; i++) {
		struct target *t = &r->targets[i];

		if (t->phase != TARGET_DONE)
			error(w, "7: request %u is answered before service %s is done", r->id,
			        t->name);
		if ((r->kind == REQUEST_RELOAD || r->kind == REQUEST_DEPLOY) &&
		        t->code == CODE_DONE && !t->generation &&
		        strcmp(t->outcome, "stopped") != 0)
			error(w, "7: a reload that did not happen is called done");
	}
	request_free(r);
}

static void do_action(struct world *w, const struct action *a)
{
	struct sim_generation *g;
	struct event ev;

	switch (a->type) {
	case ACTION_LOAD_CONFIG:
		ev = (struct event){.type = EVENT_CONFIG_LOADED};
		if (w->config_bad || one_in(&w->chance, 10)) {
			ev.type = EVENT_CONFIG_REFUSED;
			ev.text = "file:1: wrong";
		} else {
			ev.config = config_ref(w->config);
		}
		soon(w, ev);
		break;
	case ACTION_PREPARE:
		do_prepare(w, a);
		break;
	case ACTION_START_WORKER:
		do_start_worker(w, a);
		break;
	case ACTION_SIGNAL_WORKER:
	case ACTION_KILL_WORKER:
		do_signal(w, a, a->type == ACTION_KILL_WORKER);
		break;
	case ACTION_TELL_WORKER:
		do_tell(w, a);
		break;
	case ACTION_STEER:
		do_steer(w, a);
		break;
	case ACTION_RESTORE_LINK:
		g = find(w, a->service, a->generation);
		if (!g || !g->linked)
			error(w, "a link is put back that was not moved");
		else
			g->linked = false;
		break;
	case ACTION_PROBE:
		do_probe(w, a);
		break;
	case ACTION_CHECK_QUIET:
		do_check_quiet(w, a);
		break;
	case ACTION_WATCH_DRAIN:
		do_watch(w, a);
		break;
	case ACTION_FREEZE:
	case ACTION_THAW:
		do_freeze(w, a, a->type == ACTION_THAW);
		break;
	case ACTION_STOP_WATCH:
		g = find(w, a->service, a->generation);
		if (g)
			g->watched = false;
		break;
	case ACTION_MEASURE:
		ev = (struct event){
		        .type = EVENT_MEASURED, .service = a->service, .generation = a->generation};
		ev.memory = (uint64_t)pick(&w->chance, 200) << 20;
		soon(w, ev);
		break;
	case ACTION_LAST_WORDS:
		ev = (struct event){.type = EVENT_LAST_WORDS,
		        .service = a->service,
		        .generation = a->generation,
		        .text = "to be or not to be"};
		soon(w, ev);
		break;
	case ACTION_NAME_CUT:
		w->result.cut++;
		break;
	case ACTION_RELEASE:
		do_release(w, a);
		break;
	case ACTION_ANSWER:
		do_answer(w, a);
		break;
	case ACTION_EXIT:
		w->exited = true;
		break;
	case ACTION_RECORD:
		w->result.rollbacks += a->record.type == RECORD_ROLLED_BACK;
		w->result.canaries += a->record.type == RECORD_GENERATION_CANARY;
		w->result.scaled += a->record.type == RECORD_GENERATION_SCALED;
		w->result.failures += a->record.type == RECORD_GENERATION_FAILED;
		break;
	case ACTION_START_BUILD:
	case ACTION_STOP_BUILD:
		do_build(w, a);
		break;
	case ACTION_RETURN_HELD:
		do_return(w, a);
		break;
	case ACTION_WATCH_FILES:
	case ACTION_POINT_BACK:
	case ACTION_FORGET_WORKER:
	case ACTION_WATCH_EXEC:
	case ACTION_STOP_PROBE:
	case ACTION_FORGET_SERVICE:
	case ACTION_TELL_SYSTEMD:
	case ACTION_TYPE_COUNT:
		break;
	}
}

/* ---- one step ---- */

static void check_stopped(struct world *w)
{
	for (unsigned i = 0; i < w->n_gens; i++) {
		const struct sim_generation *g = &w->gens[i];
		struct service *sv =
		        g->used && g->frozen ? supervisor_service(w->s, g->service) : NULL;
		const struct generation *cg = sv ? service_find(sv, g->id) : NULL;

		if (g->used && g->frozen && !(cg && cg->frozen))
			error(w, "generation %u is left stopped", g->id);
	}
}

/* Who was ready and is silent does not stay. */
static void check_silent(struct world *w)
{
	for (unsigned i = 0; i < w->n_gens; i++) {
		const struct sim_generation *g = &w->gens[i];

		if (!g->used || g->released || g->settings->watchdog == USEC_INFINITY || !g->id)
			continue;
		for (unsigned k = 0; k < MAX_WORKERS; k++) {
			const struct sim_worker *o = &g->workers[k];

			if (o->alive && o->ready && !o->told && !o->aborted && !o->killed &&
			        w->now > o->heard + g->settings->watchdog + USEC_PER_SEC)
				error(w, "worker %u of generation %u is silent, and goes on", k,
				        g->id);
		}
	}
}

static void step(struct world *w, const struct event *ev)
{
	const char *why;

	w->result.steps++;
	if (w->options->trace)
		fprintf(w->options->trace, "%12.6f %s s%u g%u w%u #%u ok %d\n",
		        (double)w->now / 1e6, event_type_to_string(ev->type), ev->service & 0x1fff,
		        ev->generation, ev->worker, ev->serial,
		        (ev->type == EVENT_PROBE_DONE || ev->type == EVENT_QUIET_CHECKED) &&
		                ev->ok);
	supervisor_step(w->s, w->now, ev, &w->out);
	for (size_t i = 0; i < w->out.n; i++) {
		const struct action *a = &w->out.items[i];

		if (w->options->trace)
			fprintf(w->options->trace, "             -> %s s%u g%u w%u #%u %s %s\n",
			        action_type_to_string(a->type), a->service & 0x1fff, a->generation,
			        a->worker, a->serial,
			        a->type == ACTION_RECORD ? record_type_to_string(a->record.type)
			                                 : "",
			        a->type == ACTION_RECORD && a->record.text ? a->record.text : "");
		do_action(w, a);
	}
	action_list_clear(&w->out);
	why = supervisor_check(w->s);
	if (why)
		error(w, "invariant: %s", why);
	check_stopped(w);
	check_silent(w);
}

/* New connections go where the shares say; old ones end. */
static void clients(struct world *w)
{
	for (unsigned i = 0; i < w->n_gens; i++) {
		struct sim_generation *g = &w->gens[i];

		if (!g->used || g->released || !g->settings->n_listeners)
			continue;
		if (g->share && one_in(&w->chance, 2))
			g->queue += pick(&w->chance, 3);
		if (g->share && g->queue && has_processes(g) && !one_in(&w->chance, 3)) {
			g->open += g->queue;
			g->queue = 0;
		}
		if (g->open && !g->frozen &&
		        (w->quiet_life ? one_in(&w->chance, 2) : one_in(&w->chance, 4))) {
			g->open -= 1 + pick(&w->chance, g->open);
			count_changed(w, g);
		}
	}
	/* 1: a service that serves has somebody for its new connections */
	for (size_t i = 0; i < w->s->n_slots; i++) {
		const struct service *sv = w->s->services[i];
		unsigned total = 0;

		if (!sv || sv->state != SERVICE_SERVING || sv->turn != TURN_NONE)
			continue;
		for (unsigned k = 0; k < w->n_gens; k++)
			if (w->gens[k].used && !w->gens[k].released && w->gens[k].service == sv->id)
				total += w->gens[k].share;
		if (total != SHARE_ALL)
			error(w, "1: service %s serves, but new connections reach nobody (%u)",
			        sv->name, total);
	}
}

static void ask(struct world *w)
{
	static const enum request_kind kinds[] = {REQUEST_RELOAD, REQUEST_RELOAD, REQUEST_RELOAD,
	        REQUEST_RELOAD, REQUEST_DEPLOY, REQUEST_DEPLOY, REQUEST_PROMOTE, REQUEST_PROMOTE,
	        REQUEST_ABORT, REQUEST_ROLLBACK, REQUEST_SCALE, REQUEST_SCALE, REQUEST_STOP,
	        REQUEST_START, REQUEST_RESTART, REQUEST_WAIT};
	static const char *const releases[] = {"/srv/releases/1", "/srv/releases/2"};
	static const char *const names[] = {"web", "api", "job", "none"};
	const char *some[2];
	struct event ev = {.type = EVENT_REQUEST};
	struct request_spec *r = &ev.request;

	if (w->n_requests == MAX_REQUESTS)
		return;
	r->kind = kinds[pick(&w->chance, ARRAY_SIZE(kinds))];
	r->wait = (enum wait_for)pick(&w->chance, 3);
	r->timeout = one_in(&w->chance, 3) ? some_time(w) : USEC_INFINITY;
	some[0] = names[pick(&w->chance, 4)];
	some[1] = names[pick(&w->chance, 3)];
	r->services = some;
	r->n_services = pick(&w->chance, 3);
	if (r->kind == REQUEST_DEPLOY) {
		r->roll.release = releases[pick(&w->chance, 2)];
		r->n_services = 1;
	}
	r->workers = 1 + pick(&w->chance, MAX_WORKERS);
	if (one_in(&w->chance, 3)) {
		r->roll.has_canary = true;
		r->roll.canary = 1 + pick(&w->chance, SHARE_ALL);
		r->roll.has_hold = one_in(&w->chance, 2);
		r->roll.hold = one_in(&w->chance, 3) ? USEC_INFINITY : some_time(w);
		r->roll.has_keep_warm = one_in(&w->chance, 2);
		r->roll.keep_warm = some_time(w);
	}
	if (r->kind != REQUEST_RELOAD || !one_in(&w->chance, 3)) {
		r->id = ++w->n_requests;
		w->requests[w->n_requests - 1] = (struct sim_request){.id = r->id};
	}
	w->config_bad = one_in(&w->chance, 8);
	if (one_in(&w->chance, 3)) {
		config_unref(w->config);
		w->config = random_config(&w->chance);
	}
	step(w, &ev);
}

static void order_stop(struct world *w)
{
	struct event ev = {.type = EVENT_REQUEST,
	        .request = {.kind = REQUEST_SHUTDOWN, .timeout = USEC_INFINITY}};

	w->at_once = w->stopping;
	w->stopping = true;
	w->stops++;
	step(w, &ev);
}

static void change_files(struct world *w)
{
	static const char *const paths[] = {"src/a", "src/b", "dist/a"};
	struct event ev = {.type = EVENT_FILES_CHANGED};
	struct service *sv = w->s->n_slots ? w->s->services[pick(&w->chance, w->s->n_slots)] : NULL;

	if (!sv || !sv->wanted_settings->watch.count)
		return;
	ev.service = sv->id;
	ev.text = paths[pick(&w->chance, ARRAY_SIZE(paths))];
	ev.files.change = (enum file_change)pick(&w->chance, 3);
	ev.files.more = one_in(&w->chance, 4);
	step(w, &ev);
}

static void trouble(struct world *w)
{
	struct sim_generation *g;
	unsigned k;

	switch (pick(&w->chance, 6)) {
	case 0:
	case 1:
		ask(w);
		break;
	case 2: /* a worker dies at the worst moment */
		if (!w->n_gens)
			break;
		g = &w->gens[w->n_gens - 1 - pick(&w->chance, w->n_gens < 4 ? w->n_gens : 4)];
		k = pick(&w->chance, MAX_WORKERS);
		if (g->used && !g->released)
			worker_dies(w, g, k);
		break;
	case 3: /* somebody does not wait any more */
		if (w->n_requests) {
			struct sim_request *r = &w->requests[pick(&w->chance, w->n_requests)];
			struct event ev = {.type = EVENT_REQUEST_GONE, .request_id = r->id};

			if (!r->answered) {
				r->cancelled = true;
				step(w, &ev);
			}
		}
		break;
	case 4:
		if (one_in(&w->chance, 30))
			order_stop(w);
		break;
	default:
		change_files(w);
		break;
	}
}

/* The next thing that happens at or before `limit`; false: nothing. */
static bool next_event(struct world *w)
{
	unsigned best = w->later_n;
	usec_t due = supervisor_next_deadline(w->s);
	struct event ev;

	if (w->soon_n) {
		ev = w->soon[w->soon_first];
		w->soon_first = (w->soon_first + 1) % MAX_EVENTS;
		w->soon_n--;
		step(w, &ev);
		return true;
	}
	for (unsigned i = 0; i < w->later_n; i++)
		if (best == w->later_n || w->later[i].at < w->later[best].at)
			best = i;
	if (best < w->later_n && w->later[best].at < due) {
		struct sim_generation *g;

		ev = w->later[best].ev;
		if (w->later[best].at > w->now)
			w->now = w->later[best].at;
		w->later[best] = w->later[--w->later_n];
		g = find(w, ev.service, ev.generation);
		if (!g || g->released)
			return true;
		if (ev.type == EVENT_WORKER_EXITED) {
			if (g->workers[ev.worker].serial == ev.serial)
				worker_dies(w, g, ev.worker);
			return true;
		}
		if (ev.type == EVENT_WORKER_TREE_GONE) {
			if (g->workers[ev.worker].serial != ev.serial ||
			        !g->workers[ev.worker].rest_alive)
				return true;
			g->workers[ev.worker].rest_alive = false;
		}
		if (ev.type == EVENT_WORKER_SAID && !g->workers[ev.worker].alive)
			return true;
		if (ev.type == EVENT_WORKER_SAID)
			hear(w, g, &ev);
		if (ev.type == EVENT_PROBE_DONE)
			g->ready |= ev.ok;
		if (ev.type == EVENT_BUILD_ENDED) { /* it ends once, killed or not */
			if (!g->building || ev.serial != g->builds)
				return true;
			g->building = false;
		}
		step(w, &ev);
		return true;
	}
	if (due == USEC_INFINITY)
		return false;
	if (due > w->now)
		w->now = due;
	ev = (struct event){.type = EVENT_TIMER};
	step(w, &ev);
	return true;
}

static void finish(struct world *w)
{
	unsigned limit = w->result.steps + 3000;

	w->quiet_life = true;
	while (!w->exited && !w->result.error[0]) {
		if (w->result.steps > limit) {
			error(w, "5: the stop does not come to an end");
			return;
		}
		if (!w->stopping)
			order_stop(w);
		clients(w);
		if (!next_event(w) && !w->exited) {
			/* an infinite deadline: somebody orders a second time */
			if (w->stops < 2)
				order_stop(w);
			else
				error(w, "5: nothing happens any more, and handoffd has not "
				         "stopped");
		}
	}
	for (unsigned i = 0; i < w->n_gens; i++)
		if (w->gens[i].used &&
		        ((has_processes(&w->gens[i]) && !w->gens[i].left) || !w->gens[i].released))
			error(w, "something of generation %u is left behind", w->gens[i].id);
	for (unsigned i = 0; i < w->n_requests; i++)
		if (!w->requests[i].answered && !w->requests[i].cancelled)
			error(w, "7: request %u was never answered", w->requests[i].id);
}

struct world_result world_live(struct chance chance, const struct world_options *options)
{
	struct world *w = calloc(1, sizeof *w);
	struct world_result result;
	struct event ev = {.type = EVENT_CONFIG_LOADED};
	struct taken_service taken = {"web", 1};
	unsigned steps;

	if (!w)
		abort();
	w->chance = chance;
	w->options = options;
	w->now = USEC_PER_SEC;
	w->s = supervisor_new();
	if (!w->s)
		abort();
	w->s->development = one_in(&w->chance, 2);
	w->config = random_config(&w->chance);
	ev.config = config_ref(w->config);
	if (one_in(&w->chance, 4)) {
		taken.processes += pick(&w->chance, MAX_WORKERS);
		ev.taken = &taken;
		ev.n_taken = 1;
		w->s->development = false;
	}
	step(w, &ev);
	steps = 200 + pick(&w->chance, 8) * 100;
	while (w->result.steps < steps && w->result.steps < options->max_steps && !w->exited &&
	        !w->result.error[0] && !w->chance.ended) {
		if (one_in(&w->chance, 8))
			trouble(w);
		clients(w);
		if (w->exited || w->result.error[0])
			break;
		(void)next_event(w);
	}
	if (!w->result.error[0])
		finish(w);
	result = w->result;
	for (; w->soon_n; w->soon_n--, w->soon_first = (w->soon_first + 1) % MAX_EVENTS)
		if (w->soon[w->soon_first].type == EVENT_CONFIG_LOADED)
			config_unref(w->soon[w->soon_first].config);
	supervisor_free(w->s);
	config_unref(w->config);
	action_list_done(&w->out);
	free(w);
	return result;
}
