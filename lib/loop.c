/* SPDX-License-Identifier: MIT */
/* The worker on its loop, and its drain: ordered (by handoffd or by the program), begun by the
 * loop, done when no listener and no connection is left. */
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define GRACE 5.0
#define USEC_PER_SEC 1000000

static struct handoff *only;

uint64_t monotonic_usec(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * USEC_PER_SEC + (uint64_t)t.tv_nsec / 1000;
}

static int64_t connections(const struct handoff *h)
{
	return atomic_load(&h->page->loop.connections) + atomic_load(&h->page->threads.connections);
}

void drain_check(struct handoff *h)
{
	if (atomic_load(&h->draining) && connections(h) <= 0)
		ev_async_send(h->loop, &h->wake);
}

static void begin_drain(struct handoff *h)
{
	atomic_store(&cells(h)->draining, 1);
	h->drain_at = ev_now(h->loop);
	(void)handoff_notify("STOPPING=1");
	timers_update(h);
	(void)acceptors_finish(h);
	if (h->on_drain)
		h->on_drain(h, h->drain_data);
}

static void on_wake(struct ev_loop *loop, ev_async *w, int events)
{
	struct handoff *h = w->data;

	(void)events;
	if (!atomic_load(&h->draining) || h->drained)
		return;
	if (!drain_begun(cells(h))) {
		begin_drain(h);
		inflight_begin_drain(h);
		ev_async_send(loop, &h->wake); /* the rest at the next turn */
		return;
	}
	if (h->acceptors || connections(h) > 0)
		return;
	h->drained = true;
	ev_async_stop(loop, &h->wake);
	if (h->on_drained)
		h->on_drained(h, h->drained_data);
	else
		ev_break(loop, EVBREAK_ALL);
}

void drain_ordered(struct handoff *h, uint64_t deadline)
{
	if (deadline < h->deadline)
		h->deadline = deadline;
	if (atomic_load(&h->draining)) {
		if (drain_begun(cells(h)))
			inflight_drain(h);
		return;
	}
	atomic_store(&h->draining, true);
	ev_async_send(h->loop, &h->wake);
}

void handoff_drain(struct handoff *h, double seconds)
{
	/* about three hundred years are no deadline */
	drain_ordered(h, seconds >= 0 && seconds < 1e10
	                         ? monotonic_usec() + (uint64_t)(seconds * USEC_PER_SEC)
	                         : NO_DEADLINE);
}

int handoff_draining(const struct handoff *h)
{
	return atomic_load_explicit(&h->draining, memory_order_relaxed);
}

double handoff_deadline(const struct handoff *h)
{
	uint64_t now = monotonic_usec();

	if (h->deadline == NO_DEADLINE)
		return -1;
	return h->deadline > now ? (double)(h->deadline - now) / USEC_PER_SEC : 0;
}

void handoff_on_drain(struct handoff *h, void (*f)(struct handoff *h, void *data), void *data)
{
	h->on_drain = f;
	h->drain_data = data;
	channel_drains(h);
}

void handoff_on_drained(struct handoff *h, void (*f)(struct handoff *h, void *data), void *data)
{
	h->on_drained = f;
	h->drained_data = data;
}

void handoff_on_reload(struct handoff *h,
        void (*f)(struct handoff *h, unsigned generation, void *data), void *data)
{
	h->on_reload = f;
	h->reload_data = data;
}

/* Sealed, so that handoffd can look at it without fear. */
static int make_page(struct handoff *h)
{
	void *page;
	int r;

	h->page_fd = memfd_create("handoff-page", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (h->page_fd < 0)
		return -errno;
	if (ftruncate(h->page_fd, HANDOFF_PAGE_SIZE) < 0 ||
	        fcntl(h->page_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		r = -errno;
		goto fail;
	}
	page = mmap(NULL, HANDOFF_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, h->page_fd, 0);
	if (page == MAP_FAILED) {
		r = -errno;
		goto fail;
	}
	h->page = page;
	h->page->magic = HANDOFF_PAGE_MAGIC;
	h->page->version = HANDOFF_PAGE_VERSION;
	return 0;
fail:
	(void)close(h->page_fd);
	return r;
}

int handoff_new(struct ev_loop *loop, struct handoff **ret)
{
	struct handoff *h;
	int r;

	if (!loop)
		return -EINVAL;
	if (only)
		return -EBUSY;
	h = calloc(1, sizeof *h);
	if (!h)
		return -ENOMEM;
	h->loop = loop;
	h->pid = getpid();
	h->grace = GRACE;
	h->deadline = NO_DEADLINE;
	r = make_page(h);
	if (r < 0) {
		free(h);
		return r;
	}
	only = h;
	accept_init(h);
	inflight_init(h);
	ev_async_init(&h->wake, on_wake);
	h->wake.data = h;
	ev_async_start(loop, &h->wake);
	r = channel_start(h);
	if (r < 0) {
		handoff_free(h);
		return r;
	}
	*ret = h;
	return 0;
}

void handoff_free(struct handoff *h)
{
	if (!h)
		return;
	/* A forked child shares the kernel's side of the loop with its parent (epoll): it must not
	 * take the parent's watchers away. libev does that only after ev_loop_fork(). */
	if (h->pid != getpid())
		ev_loop_fork(h->loop);
	only = NULL;
	ev_async_stop(h->loop, &h->wake);
	channel_stop(h);
	acceptors_free(h);
	inflight_free(h);
	timers_free(h);
	(void)munmap(h->page, HANDOFF_PAGE_SIZE);
	(void)close(h->page_fd);
	free(h);
}
