/* SPDX-License-Identifier: MIT */
#include "core/timers.h"

#include <stdlib.h>

int timers_reserve(struct timers *ts, size_t n)
{
	struct timer **heap;

	if (n < ts->size)
		return 0;
	n = n * 2 + 16;
	heap = realloc(ts->heap, n * sizeof(struct timer *));
	if (!heap)
		return -12; /* ENOMEM */
	ts->heap = heap;
	ts->size = n;
	return 0;
}

static void put(struct timers *ts, size_t place, struct timer *t)
{
	ts->heap[place] = t;
	t->place = place;
}

static void sift(struct timers *ts, struct timer *t)
{
	size_t i = t->place;

	while (i > 1 && ts->heap[i / 2]->at > t->at) {
		put(ts, i, ts->heap[i / 2]);
		i /= 2;
	}
	for (;;) {
		size_t child = i * 2;

		if (child > ts->n)
			break;
		if (child < ts->n && ts->heap[child + 1]->at < ts->heap[child]->at)
			child++;
		if (ts->heap[child]->at >= t->at)
			break;
		put(ts, i, ts->heap[child]);
		i = child;
	}
	put(ts, i, t);
}

static void take_out(struct timers *ts, struct timer *t)
{
	struct timer *last = ts->heap[ts->n--];

	if (last != t) {
		put(ts, t->place, last);
		sift(ts, last);
	}
	t->place = 0;
}

void timer_set(struct timers *ts, struct timer *t, usec_t at)
{
	if (at == USEC_INFINITY) {
		if (t->place)
			take_out(ts, t);
		t->at = at;
		return;
	}
	t->at = at;
	if (!t->place) {
		HO_ASSERT(ts->n + 1 < ts->size);
		t->place = ++ts->n;
		ts->heap[t->place] = t;
	}
	sift(ts, t);
}

struct timer *timers_first(const struct timers *ts)
{
	return ts->n ? ts->heap[1] : NULL;
}

void timers_done(struct timers *ts)
{
	free(ts->heap);
	*ts = (struct timers){0};
}
