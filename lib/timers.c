/* SPDX-License-Identifier: MIT */
/* Timers that run in the generation that serves. Who serves is looked up in the shared page at the
 * moment of each call, as the news on the channel may still be on its way. */
#include "loop.h"

#include <errno.h>
#include <stdlib.h>

struct handoff_timer {
	struct handoff *h;
	struct handoff_timer *next, **link;
	ev_timer timer;
	int flags;
	bool begun, calling, stopped;
	int (*f)(void *data);
	void *data;
};

static bool may_run(const struct handoff_timer *t)
{
	const struct handoff *h = t->h;

	if (t->flags & HANDOFF_WHILE_DRAINING && t->begun)
		return true;
	return !handoff_draining(h) && (h->alone || channel_serving(h) == handoff_generation());
}

static void update(struct handoff_timer *t)
{
	bool runs = may_run(t);

	if (runs && !ev_is_active(&t->timer)) {
		t->begun = true;
		ev_timer_set(&t->timer, t->timer.repeat, t->timer.repeat);
		ev_timer_start(t->h->loop, &t->timer);
	} else if (!runs) {
		ev_timer_stop(t->h->loop, &t->timer);
	}
}

static void timer_free(struct handoff_timer *t)
{
	ev_timer_stop(t->h->loop, &t->timer);
	*t->link = t->next;
	if (t->next)
		t->next->link = t->link;
	free(t);
}

static void on_time(struct ev_loop *loop, ev_timer *w, int events)
{
	struct handoff_timer *t = w->data;
	int more;

	(void)loop;
	(void)events;
	if (!may_run(t)) {
		update(t);
		return;
	}
	t->calling = true;
	more = t->f(t->data);
	t->calling = false;
	if (!more || t->stopped)
		timer_free(t);
}

void timers_update(struct handoff *h)
{
	for (struct handoff_timer *t = h->timers; t; t = t->next)
		update(t);
}

void timers_free(struct handoff *h)
{
	for (struct handoff_timer *t = h->timers, *next; t; t = next) {
		next = t->next;
		handoff_timer_stop(t);
	}
	h->timers = NULL;
}

int handoff_every(struct handoff *h, double seconds, int flags, int (*f)(void *data), void *data,
        struct handoff_timer **ret)
{
	struct handoff_timer *t;

	if (!(seconds > 0) || !f)
		return -EINVAL;
	t = calloc(1, sizeof *t);
	if (!t)
		return -ENOMEM;
	*t = (struct handoff_timer){.h = h,
	        .next = h->timers,
	        .link = &h->timers,
	        .flags = flags,
	        .f = f,
	        .data = data};
	if (t->next)
		t->next->link = &t->next;
	h->timers = t;
	ev_timer_init(&t->timer, on_time, seconds, seconds);
	t->timer.data = t;
	update(t);
	if (ret)
		*ret = t;
	return 0;
}

void handoff_timer_stop(struct handoff_timer *t)
{
	if (!t)
		return;
	ev_timer_stop(t->h->loop, &t->timer);
	if (t->calling) /* its callback returns to us */
		t->stopped = true;
	else
		timer_free(t);
}
