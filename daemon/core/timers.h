/* SPDX-License-Identifier: MIT */
/* Deadlines as data: a heap of timers that live inside their owners, the earliest on top. */
#ifndef CORE_TIMERS_H
#define CORE_TIMERS_H

#include "core/base.h"

enum timer_owner { TIMER_OF_SERVICE, TIMER_OF_REQUEST };

struct timer {
	usec_t at;
	size_t place; /* in the heap, from 1; 0: not set */
	enum timer_owner owner;
};

struct timers {
	struct timer **heap; /* heap[1] is the earliest */
	size_t n, size;
};

/* Room for n timers in all, so that setting one never fails. */
int timers_reserve(struct timers *ts, size_t n);
/* USEC_INFINITY takes it out. */
void timer_set(struct timers *ts, struct timer *t, usec_t at);
struct timer *timers_first(const struct timers *ts);
void timers_done(struct timers *ts);

#endif
