/* SPDX-License-Identifier: MIT */
#include "process/freeze.h"

#include <ev.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "process/cgroup.h"
#include "process/tree.h"
#include "system/fd.h"

#define ROUNDS_MAX 16 /* of looking for processes that were started meanwhile */
#define WAIT_FIRST 0.0002
#define WAIT_LAST 0.07 /* 0.2 in all */
#define WAIT_CGROUP 0.1

struct freeze {
	struct ev_loop *loop;
	ev_timer timer;
	double wait;
	const struct cgroup *cgroup; /* that is, or is to be, frozen; NULL: none */
	int events, epoll;           /* of the cgroup, until it is */
	ev_io io;
	freeze_lister lister;
	void *lister_data;
	void (*done)(void *data);
	void *data;
	int rounds;
	struct tree_entry *entries; /* in the order in which they are stopped */
	size_t n, size, stopped;
	struct tree_entry *fresh; /* of one round */
	size_t n_fresh, size_fresh;
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

	if (tree_entry_read(pid, &e) < 0 || stands_still(e.state) || is_known(f, &e) ||
	        (f->cgroup && cgroup_holds(f->cgroup, pid)))
		return;
	(void)append(&f->fresh, &f->n_fresh, &f->size_fresh, &e); /* else it runs on */
}

static int by_start(const void *a, const void *b)
{
	const struct tree_entry *x = a, *y = b;

	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	return (x->pid > y->pid) - (x->pid < y->pid);
}

/* Those that are there and not yet known, behind the others. False: none. */
static bool find_more(struct freeze *f)
{
	f->n_fresh = 0;
	if (f->rounds++ < ROUNDS_MAX)
		f->lister(f->lister_data, note, f);
	if (f->n_fresh)
		qsort(f->fresh, f->n_fresh, sizeof *f->fresh, by_start);
	for (size_t i = 0; i < f->n_fresh; i++)
		if (!append(&f->entries, &f->n, &f->size, &f->fresh[i]))
			f->n_fresh = i;
	return f->n_fresh > 0;
}

static bool is_still(const struct tree_entry *e)
{
	struct tree_entry now;

	return tree_entry_read(e->pid, &now) < 0 || now.start != e->start ||
	       stands_still(now.state);
}

/* Its parent, if that is one of those, could see it stopped before it is stopped itself. */
static bool may_be_stopped(const struct freeze *f, const struct tree_entry *e)
{
	for (size_t i = 0; i < f->stopped; i++)
		if (f->entries[i].pid == e->parent)
			return is_still(&f->entries[i]);
	return true;
}

/* False: somebody has not heard it yet. */
static bool stop_all(struct freeze *f)
{
	for (; f->stopped < f->n; f->stopped++) {
		if (!may_be_stopped(f, &f->entries[f->stopped]))
			return false;
		(void)tree_signal_one(&f->entries[f->stopped], SIGSTOP);
	}
	for (size_t i = 0; i < f->n; i++)
		if (!is_still(&f->entries[i]))
			return false;
	return true;
}

/* A signal is taken on the way back from the kernel: mostly that is past at the first look. Who was
 * started by somebody that did not stand still is found when all do. */
static void look(struct freeze *f)
{
	bool still = stop_all(f);

	while (still && find_more(f))
		still = stop_all(f);
	if (still || f->wait > WAIT_LAST) {
		f->done(f->data);
		return;
	}
	ev_timer_set(&f->timer, f->wait, 0.);
	ev_timer_start(f->loop, &f->timer);
	f->wait *= 1.5;
}

/* ---- by cgroup ---- */

static void stop_waiting(struct freeze *f)
{
	ev_timer_stop(f->loop, &f->timer);
	ev_io_stop(f->loop, &f->io);
	f->epoll = close_fd(f->epoll);
	f->events = close_fd(f->events);
}

static void on_cgroup_event(struct ev_loop *loop, ev_io *io, int events)
{
	struct freeze *f = io->data;
	struct epoll_event event;

	(void)loop;
	(void)events;
	(void)epoll_wait(f->epoll, &event, 1, 0);
	if (!cgroup_is_frozen(f->events))
		return;
	stop_waiting(f);
	look(f);
}

/* False: it cannot be frozen. Its file is always readable, only EPOLLPRI tells of a change, and the
 * loop knows nothing of that: it watches an epoll that does. */
static bool freeze_cgroup(struct freeze *f)
{
	struct epoll_event event = {.events = EPOLLPRI};

	f->events = cgroup_open_events(f->cgroup);
	f->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (f->events < 0 || f->epoll < 0 ||
	        epoll_ctl(f->epoll, EPOLL_CTL_ADD, f->events, &event) < 0 ||
	        cgroup_freeze(f->cgroup, true) < 0) {
		stop_waiting(f);
		return false;
	}
	ev_io_set(&f->io, f->epoll, EV_READ);
	ev_io_start(f->loop, &f->io);
	ev_timer_set(&f->timer, WAIT_CGROUP, 0.);
	ev_timer_start(f->loop, &f->timer);
	return true;
}

static void on_timer(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct freeze *f = timer->data;

	(void)loop;
	(void)events;
	if (f->events >= 0) { /* somebody cannot be frozen */
		stop_waiting(f);
		(void)cgroup_freeze(f->cgroup, false);
		f->cgroup = NULL;
	}
	look(f);
}

struct freeze *freeze_new(struct ev_loop *loop, const struct cgroup *cgroup, freeze_lister lister,
        void *lister_data, void (*done)(void *data), void *data)
{
	struct freeze *f = calloc(1, sizeof *f);

	if (!f)
		return NULL;
	f->loop = loop;
	f->lister = lister;
	f->lister_data = lister_data;
	f->done = done;
	f->data = data;
	f->wait = WAIT_FIRST;
	ev_timer_init(&f->timer, on_timer, 0., 0.);
	f->timer.data = f;
	ev_init(&f->io, on_cgroup_event);
	f->io.data = f;
	f->events = f->epoll = -1;
	f->cgroup = cgroup && cgroup->path ? cgroup : NULL;
	if (f->cgroup && freeze_cgroup(f))
		return f;
	f->cgroup = NULL;
	look(f);
	return f;
}

static void go_on(pid_t pid, void *arg)
{
	struct tree_entry e;

	(void)arg;
	if (tree_entry_read(pid, &e) == 0 && e.state == 'T')
		(void)tree_signal_one(&e, SIGCONT);
}

void freeze_end(const struct cgroup *cgroup, freeze_lister lister, void *lister_data)
{
	if (cgroup)
		(void)cgroup_freeze(cgroup, false);
	lister(lister_data, go_on, NULL);
}

struct freeze *freeze_free(struct freeze *f)
{
	if (!f)
		return NULL;
	stop_waiting(f);
	while (f->stopped > 0)
		(void)tree_signal_one(&f->entries[--f->stopped], SIGCONT);
	if (f->cgroup)
		(void)cgroup_freeze(f->cgroup, false);
	free(f->entries);
	free(f->fresh);
	free(f);
	return NULL;
}
