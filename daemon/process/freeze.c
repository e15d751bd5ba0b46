/* SPDX-License-Identifier: MIT */
#include "process/freeze.h"

#include <ev.h>
#include <signal.h>
#include <stdlib.h>

#include "process/tree.h"

#define ROUNDS_MAX 16 /* of looking for processes that were started meanwhile */
#define WAIT_FIRST 0.0005
#define WAIT_LAST 0.1 /* 0.2 in all */

struct freeze {
	struct ev_loop *loop;
	ev_timer timer;
	double wait;
	void (*done)(void *data);
	void *data;
	struct tree_entry *entries; /* those that were stopped here, in that order */
	size_t n, size;
	struct tree_entry *fresh; /* of one round */
	size_t n_fresh, size_fresh;
	bool short_of_memory;
};

static bool stands_still(char state)
{
	return state == 'T' || state == 't' || state == 'Z' || state == 'X';
}

static bool is_known(const struct freeze *f, const struct tree_entry *e)
{
	for (size_t i = 0; i < f->n; i++)
		if (f->entries[i].pid == e->pid && f->entries[i].start == e->start)
			return true;
	return false;
}

static bool append(struct tree_entry **list, size_t *n, size_t *size, const struct tree_entry *e)
{
	struct tree_entry *more;

	if (*n == *size) {
		more = reallocarray(*list, *size ? *size * 2 : 16, sizeof *more);
		if (!more)
			return false;
		*list = more;
		*size = *size ? *size * 2 : 16;
	}
	(*list)[(*n)++] = *e;
	return true;
}

static void note(pid_t pid, void *arg)
{
	struct freeze *f = arg;
	struct tree_entry e;

	if (tree_entry_read(pid, &e) < 0 || stands_still(e.state) || is_known(f, &e))
		return;
	if (!append(&f->fresh, &f->n_fresh, &f->size_fresh, &e))
		f->short_of_memory = true;
}

static int by_start(const void *a, const void *b)
{
	const struct tree_entry *x = a, *y = b;

	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	return (x->pid > y->pid) - (x->pid < y->pid);
}

/* Who starts somebody while we look is found in the next round. */
static void stop_all(struct freeze *f, freeze_lister lister, void *lister_data)
{
	for (int round = 0; round < ROUNDS_MAX; round++) {
		f->n_fresh = 0;
		lister(lister_data, note, f);
		if (f->n_fresh == 0)
			return;
		qsort(f->fresh, f->n_fresh, sizeof *f->fresh, by_start);
		for (size_t i = 0; i < f->n_fresh; i++)
			if (append(&f->entries, &f->n, &f->size, &f->fresh[i]))
				(void)tree_signal_one(&f->fresh[i], SIGSTOP);
	}
}

static bool all_stand_still(const struct freeze *f)
{
	struct tree_entry now;

	for (size_t i = 0; i < f->n; i++)
		if (tree_entry_read(f->entries[i].pid, &now) == 0 &&
		        now.start == f->entries[i].start && !stands_still(now.state))
			return false;
	return true;
}

/* A signal is taken on the way back from the kernel: mostly that is past at the first look. */
static void look(struct freeze *f)
{
	if (f->wait > WAIT_LAST || all_stand_still(f)) {
		f->done(f->data);
		return;
	}
	ev_timer_set(&f->timer, f->wait, 0.);
	ev_timer_start(f->loop, &f->timer);
	f->wait *= 2;
}

static void on_timer(struct ev_loop *loop, ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	look(timer->data);
}

struct freeze *freeze_new(struct ev_loop *loop, freeze_lister lister, void *lister_data,
        void (*done)(void *data), void *data)
{
	struct freeze *f = calloc(1, sizeof *f);

	if (!f)
		return NULL;
	f->loop = loop;
	f->done = done;
	f->data = data;
	f->wait = WAIT_FIRST;
	ev_timer_init(&f->timer, on_timer, 0., 0.);
	f->timer.data = f;
	stop_all(f, lister, lister_data);
	if (f->short_of_memory)
		return freeze_free(f);
	look(f);
	return f;
}

struct freeze *freeze_free(struct freeze *f)
{
	if (!f)
		return NULL;
	ev_timer_stop(f->loop, &f->timer);
	while (f->n > 0)
		(void)tree_signal_one(&f->entries[--f->n], SIGCONT);
	free(f->entries);
	free(f->fresh);
	free(f);
	return NULL;
}
