/* SPDX-License-Identifier: MIT */
/* The parts of struct handoff, for those files of libhandoff that work on the loop. */
#ifndef LOOP_H
#define LOOP_H

#include "handoff.h"

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "internal.h"
#include "page.h"

#define NO_DEADLINE UINT64_MAX

struct acceptor;

/* Connections in the order in which they became idle, or in no order. */
struct connection_list {
	struct handoff_connection *first, *last;
};

struct handoff {
	struct ev_loop *loop;
	pid_t pid;
	struct handoff_page *page;
	int page_fd;

	/* channel.c */
	bool alone;      /* nobody tells which generation serves */
	bool introduced; /* handoffd has answered, once */
	bool hello_due, ready_due;
	bool drains; /* can be told to drain by message */
	int channel_fd, notify_fd;
	ev_io channel_io, notify_io; /* notify: until its receiver takes more */
	ev_timer again;              /* the next hello, after handoffd has gone */
	double again_after;
	unsigned serving;
	ev_timer watchdog;

	/* accept.c */
	struct acceptor *acceptors;
	ev_timer rest;

	/* inflight.c */
	struct connection_list idle, others;
	ev_timer grace_timer;
	double grace;

	/* timers.c */
	struct handoff_timer *timers;

	/* loop.c */
	ev_async wake;
	_Atomic bool draining;
	bool drained;
	double drain_at;   /* of the loop's clock */
	uint64_t deadline; /* CLOCK_MONOTONIC, microseconds */
	void (*on_drain)(struct handoff *h, void *data);
	void (*on_drained)(struct handoff *h, void *data);
	void (*on_reload)(struct handoff *h, unsigned generation, void *data);
	void *drain_data, *drained_data, *reload_data;
};

static inline struct handoff_cells *cells(struct handoff *h)
{
	return &h->page->loop;
}

/* Of a cell that only this thread writes. */
static inline void cell_add(_Atomic int64_t *cell, int64_t n)
{
	atomic_store_explicit(
	        cell, atomic_load_explicit(cell, memory_order_relaxed) + n, memory_order_relaxed);
}

/* Not only ordered: see loop.c. */
static inline bool drain_begun(const struct handoff_cells *loop)
{
	return atomic_load_explicit(&loop->draining, memory_order_relaxed);
}

uint64_t monotonic_usec(void);
/* The drain has begun, or its deadline has changed. */
void drain_ordered(struct handoff *h, uint64_t deadline);
/* It may be at its end. */
void drain_check(struct handoff *h);

int channel_start(struct handoff *h);
void channel_stop(struct handoff *h);
/* From now on it can drain by message. */
void channel_drains(struct handoff *h);
/* The generation that serves, as handoffd has it in this moment; 0: not known. */
unsigned channel_serving(const struct handoff *h);

/* Takes what is queued and closes each listener whose queue was taken; true if none is left. */
bool acceptors_finish(struct handoff *h);
void acceptors_free(struct handoff *h);
void accept_init(struct handoff *h);

void inflight_init(struct handoff *h);
void inflight_begin_drain(struct handoff *h);
/* Sets the timer of the next connection to be closed. */
void inflight_drain(struct handoff *h);
void inflight_free(struct handoff *h);

/* Starts and stops the timers according to who serves and whether it drains. */
void timers_update(struct handoff *h);
void timers_free(struct handoff *h);

#endif
