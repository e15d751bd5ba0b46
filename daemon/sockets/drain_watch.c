/* SPDX-License-Identifier: MIT */
/* Counts the connections of a draining generation down to nothing.
 *
 * A watch has two sides, TCP and UNIX. Each side has the set of living connections, by cookie, made
 * by a dump and corrected by every later one. The TCP side then only listens to the kernel's
 * destroy events, through one subscription which all watches share, begun before the first dump so
 * that no end is missed; a slow dump now and then finds what has no event: connections that the
 * worker has closed while a slow peer keeps the kernel from forgetting them. The UNIX side has no
 * events and is polled; so is the TCP side when there is no subscription or no memory for the set.
 *
 * Whatever the events say, no watch reports that nothing is left before a dump has confirmed it.
 * All dumping is bounded by its own cost, so that it stays below one per cent of a processor,
 * whatever the number of connections and watches. */
#include "sockets/connections_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "sockets/survey.h"
#include "system/fd.h"

#define SAFETY_FIRST USEC_PER_SEC
#define SAFETY_LAST (30 * USEC_PER_SEC)
#define POLL_FIRST (2 * USEC_PER_MSEC)
#define POLL_BUSY (100 * USEC_PER_MSEC)
#define POLL_LAST (500 * USEC_PER_MSEC)
#define COST_FACTOR 200  /* at least so many times the cost between two dumps of the timer */
#define URGENT_FACTOR 10 /* and between two that an event asks for */
#define EVENTS_AT_ONCE 512

struct side {
	struct drain_watch *watch;
	struct survey survey;
	struct cookie_set live;
	ev_timer timer;
	usec_t interval;              /* before the cost is considered */
	usec_t looking;               /* when the present dump began */
	usec_t cost, dumped;          /* of the last dump; when it ended */
	usec_t most_idle, least_idle; /* of those not yet idle, at the last dump */
	uint64_t untracked; /* of the last dump: not in `live` for lack of memory or of a cookie */
	uint64_t untracked_queued;
	bool lost; /* events, since the last dump */
	bool polled;
};

struct drain_watch {
	struct connections *c;
	struct drain_watch *next;
	const void *key;
	struct drain_watch_options options;
	drain_report report;
	void *data;
	struct endpoint_list endpoints;
	struct cookie_set held; /* inodes, for endpoints told apart by them */
	bool by_inode;
	struct side tcp, unix_side;
	ev_timer soon;
	struct inflight last, reported;
	bool changed;   /* to be looked at by flush() */
	bool begun;     /* has reported once */
	bool confirmed; /* `last` says drained, and a dump has confirmed it */
	usec_t tried;   /* when that was last tried */
};

static bool side_used(const struct side *s)
{
	return s->survey.n_tcp || s->survey.n_unix;
}

/* ---- dumps ---- */

static void side_begin(void *arg)
{
	struct side *s = arg;

	cookie_set_begin(&s->live);
	s->untracked = s->untracked_queued = 0;
	s->most_idle = 0;
	s->least_idle = USEC_INFINITY;
}

/* Downwards to three bits of it, so that there are few different ones (see cookie_set). */
static usec_t coarse(usec_t age)
{
	usec_t unit = 1;

	while (age / unit >= 8)
		unit *= 2;
	return age / unit * unit;
}

static void side_found(struct endpoint *e, const struct diag_socket *socket,
        enum connection_state state, void *arg)
{
	struct side *s = arg;
	const usec_t limit = s->watch->options.idle_after;
	const bool queued = state == CONNECTION_QUEUED;
	const bool known = socket->idle != USEC_INFINITY;
	/* bytes that one side has not read, or not got yet, are no idleness */
	const usec_t silent = socket->queued_in || socket->queued_out ? 0 : socket->idle;
	const bool idle = limit != USEC_INFINITY && known && !queued && silent >= limit;
	struct cookie_entry *entry;

	(void)e;
	if (state == CONNECTION_LEFT)
		(void)cookie_set_remove(&s->live, socket->cookie);
	if (state != CONNECTION_HELD && !queued)
		return;
	if (!idle && known) {
		s->most_idle = silent > s->most_idle ? silent : s->most_idle;
		s->least_idle = silent < s->least_idle ? silent : s->least_idle;
	}
	entry = cookie_set_add(&s->live, socket->cookie, s->looking - coarse(socket->age));
	if (entry) {
		cookie_set_flags(&s->live, entry, idle, queued);
		return;
	}
	s->untracked++;
	s->untracked_queued += queued;
}

static void side_waiting(struct endpoint *e, unsigned n, void *arg)
{
	struct side *s = arg;

	(void)e;
	s->untracked += n;
	s->untracked_queued += n;
}

static int scan_holders(struct drain_watch *w)
{
	if (!w->by_inode)
		return 0;
	cookie_set_clear(&w->held);
	return held_inodes(w->options.lister, w->options.lister_data, &w->held);
}

static int side_dump(struct side *s)
{
	const struct survey_calls calls = {side_begin, side_found, side_waiting, s};
	/* The first one tells more about ages, and costs more. */
	const bool info = !s->looking || s->watch->options.idle_after != USEC_INFINITY;
	size_t missing;
	int r, n = 0;

	if (!side_used(s))
		return 0;
	s->looking = now_usec();
	do {
		r = scan_holders(s->watch);
		if (!r)
			r = survey_run(
			        &s->survey, &s->watch->c->diag, SURVEY_CONNECTIONS, info, &calls);
		if (r < 0)
			break;
		missing = cookie_set_sweep(&s->live);
		/* Missing ones that are expected, or all of them: look again at once. */
	} while (missing && (s->lost || missing == s->live.count) && !n++);
	s->lost = s->lost && r < 0;
	s->dumped = now_usec();
	s->cost = (s->dumped - s->looking) / (n ? 2 : 1);
	return r;
}

/* ---- numbers ---- */

static uint64_t busy(const struct inflight *i)
{
	return i->total - i->idle;
}

static void add_oldest(const struct side *s, usec_t now, struct inflight *ret)
{
	if (s->live.count && now - s->live.oldest > ret->oldest)
		ret->oldest = now - s->live.oldest;
}

static void add_side(const struct side *s, usec_t now, struct inflight *ret)
{
	ret->total += s->live.count + s->untracked;
	ret->idle += s->live.n_idle;
	ret->queued += s->live.n_queued + s->untracked_queued;
	add_oldest(s, now, ret);
}

static void update(struct drain_watch *w)
{
	const usec_t now = now_usec();

	w->last = (struct inflight){0};
	add_side(&w->tcp, now, &w->last);
	add_side(&w->unix_side, now, &w->last);
	if (busy(&w->last))
		w->confirmed = false;
}

/* ---- timers ---- */

static usec_t bounded(const struct side *s, usec_t interval)
{
	const usec_t least = COST_FACTOR * s->cost * s->watch->c->n_watches;

	return interval > least ? interval : least;
}

static usec_t urgent_pause(const struct side *s)
{
	return URGENT_FACTOR * s->cost * s->watch->c->n_watches;
}

/* When can the next connection, or the last one, have become idle? */
static usec_t idle_interval(const struct side *s)
{
	const usec_t limit = s->watch->options.idle_after;
	usec_t first, last, step;

	if (limit == USEC_INFINITY || s->least_idle == USEC_INFINITY)
		return USEC_INFINITY;
	first = limit - s->most_idle;
	last = limit - s->least_idle;
	step = limit / 4 < USEC_PER_SEC ? limit / 4 : USEC_PER_SEC;
	if (step > last)
		step = last;
	return (first > step ? first : step) + USEC_PER_MSEC;
}

static void arm(struct side *s, usec_t interval)
{
	struct ev_loop *loop = s->watch->c->loop;

	ev_now_update(loop);
	ev_timer_stop(loop, &s->timer);
	ev_timer_set(&s->timer, (double)interval / (double)USEC_PER_SEC, 0.);
	ev_timer_start(loop, &s->timer);
}

/* Plans the next dump of the timer. */
static void plan(struct side *s, bool changed)
{
	const usec_t idle = idle_interval(s);
	usec_t last = s->polled ? POLL_LAST : SAFETY_LAST;

	if (!side_used(s))
		return;
	if (s->polled && changed)
		last = POLL_BUSY;
	if (!s->polled && changed)
		s->interval = SAFETY_FIRST;
	else if (!s->interval)
		s->interval = s->polled ? POLL_FIRST : SAFETY_FIRST;
	else
		s->interval = s->interval * 2 < last ? s->interval * 2 : last;
	arm(s, bounded(s, s->interval < idle ? s->interval : idle));
}

static void poll_instead(struct side *s)
{
	if (!s->polled) {
		s->polled = true;
		s->interval = 0;
	}
}

/* Dumps, takes the numbers over and plans the next time. After a failure the old numbers stay: too
 * many rather than too few. */
static int refresh(struct side *s)
{
	struct drain_watch *w = s->watch;
	const struct inflight before = w->last;
	const int r = side_dump(s);

	if (s->untracked)
		poll_instead(s);
	update(w);
	plan(s, !r && (w->last.total != before.total || w->last.idle != before.idle));
	return r;
}

/* ---- reports ---- */

static bool same_numbers(const struct inflight *a, const struct inflight *b)
{
	return a->total == b->total && a->idle == b->idle && a->queued == b->queued &&
	       a->half_open == b->half_open;
}

/* Whether the drained state that the numbers show is confirmed. If it has been tried just now,
 * tries again a little later. */
static bool confirm(struct drain_watch *w)
{
	const usec_t now = now_usec();
	const usec_t pause = URGENT_FACTOR * (w->tcp.cost + w->unix_side.cost);
	int r;

	if (w->tried && now - w->tried < pause) {
		if (!ev_is_active(&w->soon)) {
			ev_timer_set(&w->soon,
			        (double)(pause - (now - w->tried)) / (double)USEC_PER_SEC, 0.);
			ev_timer_start(w->c->loop, &w->soon);
		}
		return false;
	}
	r = refresh(&w->tcp);
	if (!r)
		r = refresh(&w->unix_side);
	w->tried = now_usec();
	w->confirmed = !r && !busy(&w->last);
	return w->confirmed || busy(&w->last);
}

/* Tells the caller if there is something to tell. He may free the watch meanwhile. */
static void flush(struct drain_watch *w)
{
	bool drained = false;

	w->changed = false;
	update(w);
	if (!busy(&w->last) && !w->confirmed) {
		if (!confirm(w))
			return;
		drained = w->confirmed;
	}
	if (w->begun && !drained && same_numbers(&w->last, &w->reported))
		return;
	w->begun = true;
	w->reported = w->last;
	w->report(w->data, &w->reported);
}

static void flush_changed(struct connections *c)
{
	struct drain_watch *w = c->watches;

	while (w) {
		if (!w->changed) {
			w = w->next;
			continue;
		}
		flush(w);
		w = c->watches; /* the report may have freed any of them */
	}
}

static void on_timer(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct side *s = timer->data;

	(void)loop;
	(void)events;
	(void)refresh(s);
	flush(s->watch);
}

static void on_soon(struct ev_loop *loop, ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	flush(timer->data);
}

/* ---- events ---- */

static void on_gone(uint64_t cookie, void *arg)
{
	struct connections *c = arg;
	struct drain_watch *w;

	for (w = c->watches; w; w = w->next) {
		if (cookie_set_remove(&w->tcp.live, cookie))
			w->changed = true;
	}
}

/* Something was missed or has changed: see to it that a dump comes within the given time. */
static void hasten(struct side *s, usec_t within)
{
	struct ev_loop *loop = s->watch->c->loop;

	s->interval = SAFETY_FIRST;
	if (side_used(s) && ev_timer_remaining(loop, &s->timer) * 1e6 > (double)within)
		arm(s, within);
}

static void events_lost(struct connections *c)
{
	struct drain_watch *w;

	for (w = c->watches; w; w = w->next) {
		w->tcp.lost = true;
		hasten(&w->tcp, usec_sub(urgent_pause(&w->tcp), now_usec() - w->tcp.dumped));
	}
}

static void on_events(struct ev_loop *loop, ev_io *io, int events)
{
	struct connections *c = io->data;
	struct drain_watch *w;
	int r;

	(void)loop;
	(void)events;
	r = destroy_events_read(c->events_fd, EVENTS_AT_ONCE, on_gone, c);
	/* The kernel says it once and goes on losing events until the queue has been empty; only
	 * dumps that begin after that show everything. */
	if (r < 0 || (c->overrun && r < EVENTS_AT_ONCE))
		events_lost(c);
	if (r < EVENTS_AT_ONCE)
		c->overrun = r < 0;
	for (w = c->watches; w; w = w->next) {
		if (w->changed && !w->tcp.polled && w->tcp.interval != SAFETY_FIRST)
			hasten(&w->tcp, bounded(&w->tcp, SAFETY_FIRST));
	}
	flush_changed(c);
}

static void add_ports(struct diag_ports *ports, bool *all, const struct diag_ports *more)
{
	size_t i, k;

	*all |= more->n == 0;
	for (i = 0; i < more->n && !*all; i++) {
		for (k = 0; k < ports->n && ports->port[k] != more->port[i]; k++)
			;
		if (k == DIAG_MAX_PORTS)
			*all = true;
		else if (k == ports->n)
			ports->port[ports->n++] = more->port[i];
	}
}

static void events_close(struct connections *c)
{
	if (c->events_fd < 0)
		return;
	ev_io_stop(c->loop, &c->events);
	c->events_fd = close_fd(c->events_fd);
	c->overrun = false;
}

/* Makes the subscription fit the watches: none without a TCP side. */
static int events_adjust(struct connections *c)
{
	struct diag_ports ports = {.n = 0};
	const struct drain_watch *w;
	bool all = false, wanted = false;
	int r;

	for (w = c->watches; w; w = w->next) {
		if (!side_used(&w->tcp))
			continue;
		wanted = true;
		add_ports(&ports, &all, &w->tcp.survey.ports);
	}
	if (all)
		ports.n = 0;
	if (!wanted) {
		events_close(c);
		return 0;
	}
	if (c->events_fd >= 0)
		return destroy_events_filter(c->events_fd, &ports);
	r = destroy_events_open(&ports, c->event_buffer, &c->events_fd);
	if (r < 0)
		return r;
	ev_io_init(&c->events, on_events, c->events_fd, EV_READ);
	c->events.data = c;
	ev_io_start(c->loop, &c->events);
	return 0;
}

bool connections_told(const struct connections *c)
{
	const struct diag_ports ports = {.n = 0};
	_cleanup_close_ int fd = -1;

	return c->events_fd >= 0 || destroy_events_open(&ports, c->event_buffer, &fd) == 0;
}

/* ---- life ---- */

static int side_init(struct side *s, struct drain_watch *w, bool is_unix)
{
	s->watch = w;
	s->polled = is_unix;
	s->least_idle = USEC_INFINITY;
	ev_timer_init(&s->timer, on_timer, 0., 0.);
	s->timer.data = s;
	return survey_init(&s->survey, w->endpoints.items, w->endpoints.n, !is_unix, is_unix);
}

static void side_done(struct side *s)
{
	ev_timer_stop(s->watch->c->loop, &s->timer);
	survey_done(&s->survey);
	cookie_set_done(&s->live);
}

static int start(struct drain_watch *w)
{
	size_t i;
	int r;

	for (i = 0; i < w->endpoints.n; i++) {
		if (w->endpoints.items[i].by_inode && w->options.lister) {
			w->endpoints.items[i].held = &w->held;
			w->by_inode = true;
		}
	}
	r = side_init(&w->tcp, w, false);
	if (!r)
		r = side_init(&w->unix_side, w, true);
	if (r < 0)
		return r;
	if (events_adjust(w->c) < 0)
		poll_instead(&w->tcp);
	r = refresh(&w->tcp);
	return r < 0 ? r : refresh(&w->unix_side);
}

int drain_watch_new_on(struct connections *c, struct endpoint_list *endpoints, const void *key,
        const struct drain_watch_options *options, drain_report report, void *data,
        struct drain_watch **ret, struct ho_error *reterr)
{
	struct drain_watch *w = calloc(1, sizeof *w);
	int r;

	if (!w) {
		endpoint_list_done(endpoints);
		return ho_error_set(reterr, -ENOMEM, "No memory to watch connections drain");
	}
	w->c = c;
	w->key = key;
	w->options = *options;
	w->report = report;
	w->data = data;
	w->endpoints = *endpoints;
	*endpoints = (struct endpoint_list){0};
	w->tcp.watch = w->unix_side.watch = w;
	ev_timer_init(&w->soon, on_soon, 0., 0.);
	w->soon.data = w;
	w->next = c->watches;
	c->watches = w;
	c->n_watches++;
	r = start(w);
	if (r < 0) {
		drain_watch_free(w);
		return ho_error_set(reterr, r,
		        "Cannot find the connections of a draining generation (%s); it cannot be "
		        "watched and is waited for until its deadline",
		        strerror(-r));
	}
	ev_timer_start(c->loop, &w->soon);
	*ret = w;
	return 0;
}

int drain_watch_look(struct drain_watch *w, struct inflight *ret)
{
	int r = refresh(&w->tcp);

	if (!r)
		r = refresh(&w->unix_side);
	if (r < 0)
		return r;
	w->tried = now_usec();
	w->confirmed = !busy(&w->last);
	w->reported = *ret = w->last;
	return 0;
}

void drain_watch_hurry(struct drain_watch *w)
{
	struct side *const sides[] = {&w->tcp, &w->unix_side};

	for (size_t i = 0; i < ARRAY_SIZE(sides); i++) {
		sides[i]->lost = true; /* missing ones are expected: the dump is taken twice */
		hasten(sides[i], usec_sub(urgent_pause(sides[i]), now_usec() - sides[i]->dumped));
	}
}

void drain_watch_last(const struct drain_watch *w, struct inflight *ret)
{
	const usec_t now = now_usec();

	*ret = w->last;
	add_oldest(&w->tcp, now, ret);
	add_oldest(&w->unix_side, now, ret);
}

struct drain_watch *drain_watch_free(struct drain_watch *w)
{
	struct connections *c;
	struct drain_watch **p;

	if (!w)
		return NULL;
	c = w->c;
	for (p = &c->watches; *p && *p != w; p = &(*p)->next)
		;
	HO_ASSERT(*p);
	*p = w->next;
	c->n_watches--;
	/* A filter that lets too much through does no harm. */
	(void)events_adjust(c);
	ev_timer_stop(c->loop, &w->soon);
	side_done(&w->tcp);
	side_done(&w->unix_side);
	cookie_set_done(&w->held);
	endpoint_list_done(&w->endpoints);
	free(w);
	return NULL;
}

struct drain_watch *drain_watch_find(const struct connections *c, const void *key)
{
	struct drain_watch *w;

	for (w = c->watches; w && w->key != key; w = w->next)
		;
	return w;
}

usec_t drain_watch_seen(const struct drain_watch *w, uint64_t cookie, usec_t now)
{
	const struct cookie_entry *e = cookie_set_find(&w->tcp.live, cookie);

	if (!e)
		e = cookie_set_find(&w->unix_side.live, cookie);
	return e ? e->seen : now;
}
