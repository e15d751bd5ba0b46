/* SPDX-License-Identifier: MIT */
/* Accepting: some connections at each turn of the loop, a rest when it cannot go on, and at the end
 * what is still queued. */
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define AT_ONCE 64
#define AT_THE_END 65536 /* the longest queue */
#define REST 0.1         /* seconds */

struct acceptor {
	struct handoff *h;
	struct acceptor *next;
	ev_io io;
	handoff_accepted accepted;
	void *data;
};

enum taken { TAKEN_ALL, TAKEN_SOME, TAKEN_TROUBLE };

static enum taken take(struct acceptor *a, int limit)
{
	struct handoff *h = a->h;

	while (limit-- > 0) {
		int fd = accept4(a->io.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct handoff_connection *c;

		if (fd < 0 && errno == EAGAIN)
			return TAKEN_ALL;
		if (fd < 0 && (errno == ECONNABORTED || errno == EINTR))
			continue;
		if (fd < 0) /* descriptors, memory, or what nobody knows: it must not spin */
			return TAKEN_TROUBLE;
		c = handoff_connection_new(h, fd);
		if (!c) {
			(void)close(fd);
			return TAKEN_TROUBLE;
		}
		a->accepted(c, fd, a->data);
	}
	return TAKEN_SOME;
}

static void take_a_rest(struct handoff *h)
{
	for (struct acceptor *a = h->acceptors; a; a = a->next)
		ev_io_stop(h->loop, &a->io);
	ev_timer_set(&h->rest, REST, 0);
	ev_timer_start(h->loop, &h->rest);
}

static void on_listener(struct ev_loop *loop, ev_io *w, int events)
{
	struct acceptor *a = w->data;

	(void)loop;
	(void)events;
	if (take(a, AT_ONCE) == TAKEN_TROUBLE)
		take_a_rest(a->h);
}

static void on_rested(struct ev_loop *loop, ev_timer *w, int events)
{
	struct handoff *h = w->data;

	(void)events;
	if (drain_begun(cells(h))) {
		if (acceptors_finish(h))
			drain_check(h);
		return;
	}
	for (struct acceptor *a = h->acceptors; a; a = a->next)
		ev_io_start(loop, &a->io);
}

void accept_init(struct handoff *h)
{
	ev_init(&h->rest, on_rested);
	h->rest.data = h;
}

static void acceptor_free(struct acceptor *a)
{
	ev_io_stop(a->h->loop, &a->io);
	(void)close(a->io.fd);
	free(a);
}

bool acceptors_finish(struct handoff *h)
{
	struct acceptor *a = h->acceptors, **at;

	/* what comes to the list meanwhile stands in front of it */
	for (struct acceptor *next; a; a = next) {
		ev_io_stop(h->loop, &a->io);
		if (take(a, AT_THE_END) == TAKEN_TROUBLE) {
			next = a->next;
			continue;
		}
		for (at = &h->acceptors; *at != a; at = &(*at)->next)
			;
		next = *at = a->next;
		acceptor_free(a);
	}
	if (h->acceptors)
		take_a_rest(h);
	return !h->acceptors;
}

void acceptors_free(struct handoff *h)
{
	struct acceptor *a;

	ev_timer_stop(h->loop, &h->rest);
	while ((a = h->acceptors)) {
		h->acceptors = a->next;
		acceptor_free(a);
	}
}

/* Non-blocking, or a connection that went away before it was taken would hold the loop up. */
static int prepare(int fd)
{
	int listens = 0, flags = fcntl(fd, F_GETFL);
	socklen_t size = sizeof listens;

	if (flags < 0 || getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0)
		return -errno;
	if (!listens)
		return -EINVAL;
	if (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	return fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ? -errno : 0;
}

int handoff_accept(struct handoff *h, int fd, handoff_accepted accepted, void *data)
{
	struct acceptor *a = NULL;
	int r = fd < 0 ? fd : prepare(fd); /* an error of handoff_listen() is handed on */

	if (r == 0) {
		a = calloc(1, sizeof *a);
		r = a ? 0 : -ENOMEM;
	}
	if (r < 0) {
		if (fd >= 0)
			(void)close(fd);
		return r;
	}
	*a = (struct acceptor){.h = h, .next = h->acceptors, .accepted = accepted, .data = data};
	ev_io_init(&a->io, on_listener, fd, EV_READ);
	a->io.data = a;
	h->acceptors = a;
	if (drain_begun(cells(h))) /* too late: what is queued is all that it gets */
		take_a_rest(h);
	else if (!ev_is_active(&h->rest))
		ev_io_start(h->loop, &a->io);
	channel_drains(h);
	return 0;
}
