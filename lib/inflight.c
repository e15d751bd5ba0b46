/* SPDX-License-Identifier: MIT */
/* Connections and requests in flight. Counting costs a handful of instructions: the cells belong to
 * the thread of the loop and are written without a lock; handoffd reads them whenever it likes.
 * From the begin of a drain on idle connections stand in the order in which they became idle
 * (those of before have all the same time to go), so that the time of grace needs one timer. */
#include "loop.h"

#include <stdlib.h>
#include <sys/ioctl.h>

/* Idle connections are closed so long before the deadline. */
#define MARGIN 1.0
/* What has been looked at and was not closed is looked at again after this time. */
#define AGAIN 0.02

struct handoff_connection {
	struct handoff_cells *cells; /* of h: with the next two all that a request looks at */
	unsigned requests;
	bool in_idle;
	int fd;
	struct handoff *h;
	struct handoff_connection *next, *previous;
	double idle_since;
	void (*on_close)(struct handoff_connection *c, void *data);
	void *data;
};

static void append(struct connection_list *l, struct handoff_connection *c)
{
	c->next = NULL;
	c->previous = l->last;
	*(l->last ? &l->last->next : &l->first) = c;
	l->last = c;
}

static void unlink_from(struct connection_list *l, struct handoff_connection *c)
{
	*(c->previous ? &c->previous->next : &l->first) = c->next;
	*(c->next ? &c->next->previous : &l->last) = c->previous;
}

static void move(struct handoff_connection *c, bool to_idle)
{
	struct handoff *h = c->h;

	c->idle_since = ev_now(h->loop);
	unlink_from(c->in_idle ? &h->idle : &h->others, c);
	c->in_idle = to_idle;
	append(to_idle ? &h->idle : &h->others, c);
}

/* When the first of the idle ones is to be closed. */
static double due(const struct handoff *h)
{
	double since = h->idle.first->idle_since, left = handoff_deadline(h), at;

	at = (since > h->drain_at ? since : h->drain_at) + h->grace;
	if (left >= 0 && at > ev_now(h->loop) + left - MARGIN)
		at = ev_now(h->loop) + left - MARGIN;
	return at;
}

void inflight_drain(struct handoff *h)
{
	double in;

	ev_timer_stop(h->loop, &h->grace_timer);
	if (!h->idle.first)
		return;
	in = due(h) - ev_now(h->loop);
	ev_timer_set(&h->grace_timer, in > AGAIN ? in : AGAIN, 0);
	ev_timer_start(h->loop, &h->grace_timer);
}

void inflight_begin_drain(struct handoff *h)
{
	for (struct handoff_connection *c = h->others.first, *next; c; c = next) {
		next = c->next;
		if (!c->requests)
			move(c, true);
	}
	inflight_drain(h);
}

static void on_grace(struct ev_loop *loop, ev_timer *w, int events)
{
	struct handoff *h = w->data;
	struct handoff_connection *c, *last = h->idle.last;

	(void)events;
	/* the list may be another one after each call, but what comes to it now is not due */
	while ((c = h->idle.first) && due(h) <= ev_now(loop)) {
		bool was_last = c == last;
		int unread = 0;

		if (c->fd >= 0 && ioctl(c->fd, FIONREAD, &unread) == 0 && unread > 0) {
			move(c, true); /* its request is here already */
		} else {
			move(c, false);
			if (c->on_close)
				c->on_close(c, c->data);
		}
		if (was_last)
			break;
	}
	if (!ev_is_active(&h->grace_timer))
		inflight_drain(h);
}

void inflight_init(struct handoff *h)
{
	ev_init(&h->grace_timer, on_grace);
	h->grace_timer.data = h;
}

void inflight_free(struct handoff *h)
{
	struct connection_list *lists[] = {&h->idle, &h->others};

	ev_timer_stop(h->loop, &h->grace_timer);
	for (int i = 0; i < 2; i++)
		for (struct handoff_connection *c = lists[i]->first, *next; c; c = next) {
			next = c->next;
			free(c);
		}
}

void handoff_set_grace(struct handoff *h, double seconds)
{
	h->grace = seconds > 0 ? seconds : 0;
	if (drain_begun(cells(h)))
		inflight_drain(h);
}

/* In a drain only. */
static void become_idle(struct handoff_connection *c)
{
	move(c, true);
	if (!ev_is_active(&c->h->grace_timer))
		inflight_drain(c->h);
}

struct handoff_connection *handoff_connection_new(struct handoff *h, int fd)
{
	struct handoff_connection *c = calloc(1, sizeof *c);

	if (!c)
		return NULL;
	c->h = h;
	c->cells = cells(h);
	c->fd = fd;
	append(&h->others, c);
	if (drain_begun(cells(h)))
		become_idle(c);
	cell_add(&cells(h)->connections, 1);
	return c;
}

void handoff_connection_end(struct handoff_connection *c)
{
	struct handoff *h;

	if (!c)
		return;
	h = c->h;
	unlink_from(c->in_idle ? &h->idle : &h->others, c);
	if (c->requests) {
		cell_add(&cells(h)->requests, -(int64_t)c->requests);
		cell_add(&cells(h)->busy, -1);
	}
	cell_add(&cells(h)->connections, -1);
	free(c);
	if (handoff_draining(h))
		drain_check(h);
}

void handoff_connection_on_close(struct handoff_connection *c,
        void (*f)(struct handoff_connection *c, void *data), void *data)
{
	c->on_close = f;
	c->data = data;
}

void handoff_request_begin(struct handoff_connection *c)
{
	struct handoff_cells *all = c->cells;

	cell_add(&all->requests, 1);
	if (c->requests++)
		return;
	cell_add(&all->busy, 1);
	if (c->in_idle)
		move(c, false);
}

void handoff_request_end(struct handoff_connection *c)
{
	struct handoff_cells *all = c->cells;

	if (!c->requests)
		return;
	cell_add(&all->requests, -1);
	cell_add(&all->served, 1);
	if (--c->requests)
		return;
	cell_add(&all->busy, -1);
	if (drain_begun(all))
		become_idle(c);
}

void handoff_count(struct handoff *h, int connections, int requests)
{
	struct handoff_cells *all = &h->page->threads;

	if (requests)
		(void)atomic_fetch_add_explicit(&all->requests, requests, memory_order_relaxed);
	if (requests < 0)
		(void)atomic_fetch_sub_explicit(&all->served, requests, memory_order_relaxed);
	if (!connections)
		return;
	(void)atomic_fetch_add_explicit(&all->busy, connections, memory_order_relaxed);
	/* in one order with `draining`: either this sees the drain, or the drain sees this */
	(void)atomic_fetch_add(&all->connections, connections);
	if (connections < 0)
		drain_check(h);
}

static unsigned long sum(const _Atomic int64_t *a, const _Atomic int64_t *b)
{
	int64_t n = atomic_load_explicit(a, memory_order_relaxed) +
	            atomic_load_explicit(b, memory_order_relaxed);

	return n > 0 ? (unsigned long)n : 0;
}

void handoff_counts(const struct handoff *h, struct handoff_counts *ret)
{
	const struct handoff_cells *a = &h->page->loop, *b = &h->page->threads;

	ret->connections = sum(&a->connections, &b->connections);
	ret->busy = sum(&a->busy, &b->busy);
	ret->requests = sum(&a->requests, &b->requests);
	ret->served = sum(&a->served, &b->served);
}
