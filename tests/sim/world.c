/* SPDX-License-Identifier: MIT */
#include "core/taken.h"
#include "inside.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A generation may be kept whole for so long before it is drained, and what is done may be delayed.
 */
#define ENDS_WITHIN_USEC (180 * USEC_PER_SEC)

void fault(struct world *w, const char *format, ...)
{
	va_list ap;

	if (w->result.error[0])
		return;
	va_start(ap, format);
	(void)vsnprintf(w->result.error, sizeof w->result.error, format, ap);
	va_end(ap);
}

struct sim_generation *find_generation(struct world *w, uint32_t service, uint32_t id)
{
	for (unsigned i = w->n_gens; i-- > 0;)
		if (w->gens[i].used && w->gens[i].service == service && w->gens[i].id == id)
			return &w->gens[i];
	return NULL;
}

bool has_processes(const struct sim_generation *g)
{
	for (unsigned i = 0; i < MAX_WORKERS; i++)
		if (g->workers[i].alive || g->workers[i].rest_alive)
			return true;
	return false;
}

/* ---- events ---- */

void soon(struct world *w, struct event ev)
{
	if (w->soon_n == MAX_EVENTS) {
		fault(w, "the core asks without end");
		return;
	}
	w->soon[(w->soon_first + w->soon_n++) % MAX_EVENTS] = ev;
}

void later(struct world *w, usec_t delay, struct event ev)
{
	if (w->later_n == MAX_EVENTS) {
		fault(w, "too many events wait");
		return;
	}
	w->later[w->later_n++] = (struct pending){w->now + delay, ev};
}

struct event of_worker(const struct sim_generation *g, unsigned index, enum event_type type)
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

usec_t some_time(struct world *w)
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

static const char *const releases[] = {"/srv/releases/0", "/srv/releases/1", "/srv/releases/2"};

static unsigned number_of(const char *release)
{
	unsigned i = 0;

	while (i + 1 < ARRAY_SIZE(releases) && strcmp(releases[i], release) != 0)
		i++;
	return i;
}

unsigned *link_of(struct world *w, const struct sim_generation *g)
{
	const char *name = g->settings->name;

	return &w->links[name[0] == 'w' ? 0 : name[0] == 'a' ? 1 : 2];
}

/* As daemon_restore_link() does: not what a later deploy has moved on, which goes back to before
 * this one instead. */
void undo_link(struct world *w, struct sim_generation *g)
{
	unsigned *link = link_of(w, g);
	bool later = false;

	if (!g->link.moved)
		return;
	for (unsigned i = 0; i < w->n_gens && !later; i++) {
		struct sim_generation *o = &w->gens[i];

		later = o->used && !o->released && o->service == g->service && o->id > g->id &&
		        o->link.moved && o->link.before == g->link.after;
		if (later)
			o->link.before = g->link.before;
	}
	if (!later && *link == g->link.after)
		*link = g->link.before;
	w->undone[link - w->links] = w->result.steps;
	g->link.moved = false;
}

static void do_point_back(struct world *w, const struct action *a)
{
	struct sim_generation *g = find_generation(w, a->service, a->generation);

	if (!g || g->released)
		fault(w, "a link is pointed to the release of nothing");
	else if (*link_of(w, g) == number_of(a->from))
		*link_of(w, g) = g->release;
}

static void do_prepare(struct world *w, const struct action *a)
{
	struct sim_generation *g = &w->gens[w->n_gens];
	struct event ev = {
	        .type = EVENT_PREPARED, .service = a->service, .generation = a->generation};
	struct service *sv = supervisor_service(w->s, a->service);
	struct generation *cg = sv ? service_find(sv, a->generation) : NULL;

	if (!cg || find_generation(w, a->service, a->generation)) {
		fault(w, "PREPARE for a generation that is not new");
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
	        .config = config_ref(cg->config),
	        .born = w->result.steps};
	g->shared = one_in(&w->chance, 6) && cg->settings->n_listeners;
	g->migrates = one_in(&w->chance, 2);
	ev.prepared.shared = g->shared;
	ev.prepared.migrates = g->migrates;
	ev.prepared.probeable = !g->shared;
	ev.prepared.divisible = !g->shared && cg->settings->n_listeners;
	g->release = a->prepare.release ? number_of(a->prepare.release) : *link_of(w, g);
	ev.text = releases[g->release];
	cg->shell = g;
	if (a->prepare.link) {
		w->result.deploys++;
		g->link = (struct sim_link){true, *link_of(w, g), g->release};
		write_state(w);
		if (w->crashing)
			return;
		*link_of(w, g) = g->release;
	}
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

static struct worker *worker_of(struct world *w, const struct action *a)
{
	struct service *sv = supervisor_service(w->s, a->service);

	return &service_find(sv, a->generation)->workers[a->worker];
}

static void do_start_worker(struct world *w, const struct action *a)
{
	struct sim_generation *g = find_generation(w, a->service, a->generation);
	struct sim_worker *k;
	struct event ev;

	if (!g || g->released || a->worker >= MAX_WORKERS) {
		fault(w, "START_WORKER in a generation that has no listeners");
		return;
	}
	k = &g->workers[a->worker];
	if (!g->id && a->serial > 1)
		fault(w, "a server that was taken over is started again");
	if (k->alive || k->rest_alive) {
		fault(w, "START_WORKER beside a living one");
		return;
	}
	*k = (struct sim_worker){.serial = a->serial, .written = k->written};
	ev = of_worker(g, a->worker, EVENT_WORKER_STARTED);
	if (!w->quiet_life && one_in(&w->chance, 40)) {
		ev.type = EVENT_WORKER_START_FAILED;
		ev.text = "No such file or directory";
		soon(w, ev);
		return;
	}
	k->alive = true;
	worker_of(w, a)->shell = k;
	k->heard = w->now;
	k->pid = ev.pid = ++w->last_pid;
	soon(w, ev);
	if (g->adopted || one_in(&w->chance, 6)) {
		g->adopted = w->changed = true;
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

	if (cg && cg->state == GENERATION_FAILED && g->served && g->id &&
	        (g->open || g->queue || g->half_open))
		fault(w, "generation %u is ended as if it had never had a connection", g->id);
	if (!cg || cg->state == GENERATION_FAILED || cg->overdue || w->at_once ||
	        cg->state == GENERATION_SERVING)
		return;
	if (g->share)
		fault(w, "a worker is told to stop while its generation has a share");
	if (!g->shared && (g->queue || g->half_open) && g->settings->n_listeners)
		fault(w, "generation %u is told to stop with %u in its queue, %u half open", g->id,
		        g->queue, g->half_open);
	if (!by_signal && g->settings->drain.idle_after == USEC_INFINITY && g->open)
		fault(w, "generation %u is told to stop with %u connections", g->id, g->open);
	if (!by_signal && g->id && cg->watched && !g->frozen && !g->told &&
	        (g->adopted || g->settings->drain.idle_after != USEC_INFINITY))
		fault(w, "generation %u is told to stop without a last look", g->id);
}

/* Nobody is killed with connections who was not told before, or had no time. */
static void judge_kill(struct world *w, const struct sim_generation *g, const struct sim_worker *k)
{
	struct service *sv = supervisor_service(w->s, g->service);
	struct generation *cg = sv ? service_find(sv, g->id) : NULL;

	if (!k->alive || k->told || k->aborted || w->at_once || !g->served || !g->open)
		return;
	if (!cg || (!cg->overdue && w->now < cg->deadline))
		fault(w, "a worker of generation %u is killed with %u connections", g->id, g->open);
}

/* It stands still; what came since the last count is seen now. */
static void do_freeze(struct world *w, const struct action *a, bool thaw)
{
	struct sim_generation *g = find_generation(w, a->service, a->generation);
	struct event ev;

	if (!g || g->released || (g->frozen == !thaw && !(thaw && g->resumed))) {
		fault(w, "%s of what is not there, or twice", thaw ? "THAW" : "FREEZE");
		return;
	}
	g->frozen = !thaw;
	g->resumed &= w->resuming;
	for (unsigned i = 0; thaw && i < MAX_WORKERS; i++)
		g->workers[i].heard = w->now;
	if (thaw)
		return;
	if (g->share)
		fault(w, "generation %u is stopped while it has a share", g->id);
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

	if ((k->told || k->aborted) && !w->resuming)
		fault(w, "worker %u of generation %u is aborted although it was told to stop",
		        index, g->id);
	if (!k->stuck && !w->resuming && w->now < usec_add(k->heard, g->settings->watchdog))
		fault(w, "worker %u of generation %u is aborted although it was heard", index,
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
	struct sim_generation *g = find_generation(w, a->service, a->generation);
	struct sim_worker *k = g && a->worker < MAX_WORKERS ? &g->workers[a->worker] : NULL;
	struct event ev;

	if (k && k->serial != a->serial && w->resuming)
		return; /* it has ended, and so has the one after it */
	if (!k || k->serial != a->serial) {
		fault(w, "a signal for a worker that is not there");
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
		fault(w, "a signal for a dead worker");
		return;
	}
	if (!kill && a->signo == SIGNAL_ABRT) {
		do_abort(w, g, a->worker);
		return;
	}
	if (kill)
		judge_kill(w, g, k);
	else
		judge_signal(w, g);
	if (!g->id && (g->share || !g->share_lost))
		fault(w, "a server is told to stop that no generation has taken the place of");
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

/* Who has them is not known before it is made. */
static bool turns(struct world *w, uint32_t service)
{
	const struct service *sv = supervisor_service(w->s, service);

	return sv && sv->turn != TURN_NONE;
}

/* Only who said hello is spoken to, and to drain only who can. */
static void do_tell(struct world *w, const struct action *a)
{
	struct sim_generation *g = find_generation(w, a->service, a->generation);
	struct sim_worker *k = g && a->worker < MAX_WORKERS ? &g->workers[a->worker] : NULL;

	if (k && k->serial != a->serial && w->resuming)
		return;
	if (!k || k->serial != a->serial) {
		fault(w, "a word for a worker that is not there");
		return;
	}
	if (!k->alive)
		return; /* its exit is on the way */
	if (k->hello < (a->tell.word == TELL_DRAIN ? 2 : 1) && !w->resuming)
		fault(w, "a word for a worker that did not ask for it");
	if (a->tell.word == TELL_SERVING) {
		struct sim_generation *serving = find_generation(w, a->service, a->tell.generation);

		if (!serving ||
		        (!serving->share && !turns(w, a->service) && !is_held(w, serving->service)))
			fault(w, "generation %u is said to serve, and has no share",
			        a->tell.generation);
		return;
	}
	judge_signal(w, g);
	if (g->settings->drain.by != DRAIN_AUTO)
		fault(w, "a drain message where drain.by says something else");
	k->told = true;
	if (!k->ignores_term)
		later(w, some_time(w), of_worker(g, a->worker, EVENT_WORKER_EXITED));
}

void take_share(struct world *w, struct sim_generation *g, unsigned share)
{
	if (g->share && !share) {
		g->share_lost = w->now;
		g->half_open += g->settings->n_listeners ? pick(&w->chance, 3) : 0;
	}
	g->share = share;
}

void apply_shares(struct world *w, const struct service *sv)
{
	unsigned total = 0;

	for (unsigned i = 0; i < sv->n_generations; i++) {
		const struct generation *cg = sv->generations[i];
		struct sim_generation *g = find_generation(w, sv->id, cg->id);

		total += cg->share;
		if (!g) {
			if (cg->share)
				fault(w, "a share for a generation without listeners");
			continue;
		}
		g->held &= sv->state != SERVICE_STOPPING;
		g->served |= cg->share && sv->turn != TURN_HOLD &&
		             (sv->turn != TURN_NONE || !gate_holds(sv, cg));
		if (cg->share && !g->share) {
			unsigned ready = 0;

			for (unsigned k = 0; k < cg->open; k++)
				ready += cg->workers[k].state == WORKER_READY ||
				         cg->workers[k].state == WORKER_RUNNING;
			g->held |= sv->turn == TURN_HOLD;
			if ((sv->turn == TURN_FLIP || sv->turn == TURN_PART) && !cg->died &&
			        ready < cg->open)
				fault(w,
				        "2: a share for a generation of which workers are missing");
			if (sv->turn != TURN_HOLD && !gate_holds(sv, cg) &&
			        g->settings->ready.by == READY_HTTP && !g->ready && g->id)
				fault(w, "2: a share for a generation that did not answer its "
				         "probe");
		}
		take_share(w, g, cg->share);
	}
	if (total != SHARE_ALL && total != 0)
		fault(w, "shares make %u", total);
}

static void do_steer(struct world *w, const struct action *a)
{
	struct service *sv = supervisor_service(w->s, a->service);
	struct event ev = {.type = EVENT_STEERED, .service = a->service};

	if (!sv) {
		fault(w, "STEER for no service");
		return;
	}
	if (!w->quiet_life && one_in(&w->chance, 20)) {
		ev.type = EVENT_STEER_FAILED;
		ev.text = "Operation not permitted";
	}
	if (ev.type == EVENT_STEERED || sv->turn == TURN_STOP || sv->turn == TURN_RETURN)
		apply_shares(w, sv);
	soon(w, ev);
}

static void do_probe(struct world *w, const struct action *a)
{
	struct sim_generation *g = find_generation(w, a->service, a->generation);
	struct event ev;

	if (!g) {
		fault(w, "PROBE of nothing");
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
	struct sim_generation *g = find_generation(w, a->service, a->generation);
	struct event ev;

	if (!g) {
		fault(w, "CHECK_QUIET of nothing");
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
	struct sim_generation *g = find_generation(w, a->service, a->generation);

	if (!g) {
		fault(w, "WATCH_DRAIN of nothing");
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
	struct sim_generation *g = find_generation(w, a->service, a->generation);

	if (!g || g->released) {
		fault(w, "8: RELEASE of what is released");
		return;
	}
	g->left = a->leave;
	if (a->leave && g->id)
		fault(w, "a generation of our own is left alone");
	if (a->leave && g->share)
		g->share = 0; /* the kernel's own doing from now on */
	if (has_processes(g) && !a->leave)
		fault(w, "3: listeners of generation %u are closed beside a living process", g->id);
	if (g->frozen)
		fault(w, "generation %u is left stopped", g->id);
	if (g->share)
		fault(w, "3: listeners of generation %u are closed while it has a share", g->id);
	if (g->building)
		fault(w, "generation %u is released beside its build", g->id);
	if (g->held && g->queue && !w->stopping && !sv_stops(w, g->service) && !g->served)
		fault(w, "%u connections that waited for generation %u are lost", g->queue, g->id);
	g->released = true;
	g->watched = false;
	g->resumed = false;
}

static void do_build(struct world *w, const struct action *a)
{
	struct sim_generation *g = find_generation(w, a->service, a->generation);
	struct event ev;

	if (!g || g->released) {
		fault(w, "a build for nothing");
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
			fault(w, "two builds of a service at once");
	g->building = true;
	if (has_processes(g))
		fault(w, "a build for generation %u, whose workers run", g->id);
	ev.exited.code = one_in(&w->chance, 20) ? 0 : 1 + one_in(&w->chance, 10);
	ev.exited.status = one_in(&w->chance, 5);
	later(w, some_time(w), ev);
}

/* Who waits in its queue comes to the one that has the share now. */
static void do_return(struct world *w, const struct action *a)
{
	struct sim_generation *g = find_generation(w, a->service, a->generation), *to = NULL;

	for (unsigned i = 0; i < w->n_gens; i++)
		if (w->gens[i].used && !w->gens[i].released && w->gens[i].service == a->service &&
		        w->gens[i].share)
			to = &w->gens[i];
	if (!g || g->released || !to || to == g) {
		fault(w, "RETURN_HELD of nothing, or to nobody");
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
			fault(w, "7: request %u is answered twice, or after it was taken back",
			        r->id);
		w->requests[i].answered = true;
	}
	for (size_t i = 0; i < r->n_targets; i++) {
		struct target *t = &r->targets[i];

		if (t->phase != TARGET_DONE)
			fault(w, "7: request %u is answered before service %s is done", r->id,
			        t->name);
		if ((r->kind == REQUEST_RELOAD || r->kind == REQUEST_DEPLOY) &&
		        t->code == CODE_DONE && !t->generation &&
		        strcmp(t->outcome, "stopped") != 0)
			fault(w, "7: a reload that did not happen is called done");
	}
	request_free(r);
}

static void note_record(struct world *w, const struct action *a)
{
	w->result.rollbacks += a->record.type == RECORD_ROLLED_BACK;
	w->result.canaries += a->record.type == RECORD_GENERATION_CANARY;
	w->result.scaled += a->record.type == RECORD_GENERATION_SCALED;
	w->result.failures += a->record.type == RECORD_GENERATION_FAILED;
	/* who waits for a service that is stopped waits in vain */
	for (unsigned i = 0; a->record.type == RECORD_SERVICE_STOPPING && i < w->n_gens; i++)
		w->gens[i].held &= w->gens[i].service != a->service;
}

void do_action(struct world *w, const struct action *a)
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
		g = find_generation(w, a->service, a->generation);
		if (!g || (!g->link.moved && !w->resuming))
			fault(w, "a link is put back that was not moved");
		else
			undo_link(w, g);
		break;
	case ACTION_POINT_BACK:
		do_point_back(w, a);
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
		g = find_generation(w, a->service, a->generation);
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
		note_record(w, a);
		break;
	case ACTION_START_BUILD:
	case ACTION_STOP_BUILD:
		do_build(w, a);
		break;
	case ACTION_RETURN_HELD:
		do_return(w, a);
		break;
	case ACTION_WATCH_FILES:
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
			fault(w, "generation %u is left stopped", g->id);
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
				fault(w, "worker %u of generation %u is silent, and goes on", k,
				        g->id);
		}
	}
}

/* Nobody gets new connections who is not to have them, and old ones come to an end. */
static void check_shares(struct world *w)
{
	for (unsigned i = 0; i < w->n_gens; i++) {
		const struct sim_generation *g = &w->gens[i];
		const struct service *sv =
		        g->used && !g->released ? supervisor_service(w->s, g->service) : NULL;
		const struct generation *cg = sv ? service_find(sv, g->id) : NULL;
		usec_t patience = usec_add(g->used ? g->settings->drain.deadline : 0,
		        g->used ? g->settings->drain.kill_after : 0);

		if (!g->used || g->released)
			continue;
		if (!cg) {
			fault(w, "generation %u is forgotten", g->id);
		} else if (sv->turn == TURN_NONE && service_serving(sv) && g->share != cg->share) {
			fault(w, "generation %u has a share of %u, and is to have %u", g->id,
			        g->share, cg->share);
		} else if (!g->share && g->share_lost && has_processes(g) && cg->id &&
		           w->now > usec_add(usec_add(g->share_lost, patience), ENDS_WITHIN_USEC)) {
			fault(w, "5: generation %u does not end", g->id);
		}
	}
}

/* Whoever runs is known. */
static void check_known(struct world *w)
{
	for (unsigned i = 0; i < w->n_gens; i++) {
		const struct sim_generation *g = &w->gens[i];
		const struct service *sv = supervisor_service(w->s, g->service);
		const struct generation *cg = sv && g->used ? service_find(sv, g->id) : NULL;

		for (unsigned k = 0; g->used && !g->left && k < MAX_WORKERS; k++)
			if (g->workers[k].alive &&
			        (!cg || k >= cg->n_workers || !worker_alive(&cg->workers[k]) ||
			                cg->workers[k].serial != g->workers[k].serial) &&
			        g->id)
				fault(w, "nobody knows worker %u of generation %u", k, g->id);
	}
}

/* When nothing is under way the release link leads to what serves. */
static void check_links(struct world *w)
{
	for (size_t i = 0; !w->soon_n && i < w->s->n_slots; i++) {
		const struct service *sv = w->s->services[i];
		const struct generation *cg = sv ? service_serving(sv) : NULL;
		const struct sim_generation *g = cg ? find_generation(w, sv->id, cg->id) : NULL;

		/* one that was started from a release whose deploy was undone since has none */
		if (g && !cg->linked && g->born <= w->undone[link_of(w, g) - w->links])
			continue;
		if (g && g->id && sv->turn == TURN_NONE && !sv->rolling && !sv->waiting &&
		        *link_of(w, g) != g->release)
			fault(w, "generation %u of release %u serves, and the link leads to %u",
			        g->id, g->release, *link_of(w, g));
	}
}

void check_world(struct world *w)
{
	const char *why = supervisor_check(w->s);

	if (why)
		fault(w, "invariant: %s", why);
	check_stopped(w);
	check_silent(w);
	check_shares(w);
	check_known(w);
	check_links(w);
}

static void step(struct world *w, const struct event *ev)
{
	w->result.steps++;
	if (w->options->trace)
		fprintf(w->options->trace, "%12.6f %s s%u g%u w%u #%u ok %d\n",
		        (double)w->now / 1e6, event_type_to_string(ev->type), ev->service & 0x1fff,
		        ev->generation, ev->worker, ev->serial,
		        (ev->type == EVENT_PROBE_DONE || ev->type == EVENT_QUIET_CHECKED) &&
		                ev->ok);
	supervisor_step(w->s, w->now, ev, &w->out);
	carry_out(w);
	finish_crash(w);
	check_world(w);
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
			fault(w, "1: service %s serves, but new connections reach nobody (%u)",
			        sv->name, total);
	}
}

static void ask(struct world *w)
{
	static const enum request_kind kinds[] = {REQUEST_RELOAD, REQUEST_RELOAD, REQUEST_RELOAD,
	        REQUEST_RELOAD, REQUEST_DEPLOY, REQUEST_DEPLOY, REQUEST_PROMOTE, REQUEST_PROMOTE,
	        REQUEST_ABORT, REQUEST_ROLLBACK, REQUEST_SCALE, REQUEST_SCALE, REQUEST_STOP,
	        REQUEST_START, REQUEST_RESTART, REQUEST_WAIT};
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
		r->roll.release = releases[1 + pick(&w->chance, 2)];
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
	usec_t due;
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
	due = supervisor_next_deadline(w->s);
	before_waiting(w, best < w->later_n && w->later[best].at < due ? w->later[best].at : due);
	if (w->soon_n)
		return true; /* it has crashed instead */
	if (best < w->later_n && w->later[best].at < due) {
		struct sim_generation *g;

		ev = w->later[best].ev;
		if (w->later[best].at > w->now)
			w->now = w->later[best].at;
		w->later[best] = w->later[--w->later_n];
		g = find_generation(w, ev.service, ev.generation);
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
			fault(w, "5: the stop does not come to an end");
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
				fault(w, "5: nothing happens any more, and handoffd has not "
				         "stopped");
		}
	}
	for (unsigned i = 0; i < w->n_gens; i++)
		if (w->gens[i].used &&
		        ((has_processes(&w->gens[i]) && !w->gens[i].left) || !w->gens[i].released))
			fault(w, "something of generation %u is left behind", w->gens[i].id);
	for (unsigned i = 0; i < w->n_requests; i++)
		if (!w->requests[i].answered && !w->requests[i].cancelled)
			fault(w, "7: request %u was never answered", w->requests[i].id);
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
	for (unsigned i = 0; i < MAX_SERVICES; i++)
		w->links[i] = 1;
	if (one_in(&w->chance, 2))
		w->crashes_left = 1 + pick(&w->chance, 6);
	plan_crash(w);
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
		if (!w->exited && one_in(&w->chance, 600))
			upgrade(w);
		clients(w);
		if (w->exited || w->result.error[0])
			break;
		(void)next_event(w);
	}
	if (!w->result.error[0])
		finish(w);
	result = w->result;
	drop_events(w);
	drop_state(w);
	for (unsigned i = 0; i < w->n_gens; i++)
		config_unref(w->gens[i].config);
	supervisor_free(w->s);
	config_unref(w->config);
	action_list_done(&w->out);
	free(w);
	return result;
}
