/* SPDX-License-Identifier: MIT */
/* The private channel to handoffd: the worker makes a socket pair and a page of memory and sends
 * one end of it, and the page, with its hello to NOTIFY_SOCKET; handoffd answers there with words.
 * So a program that does not use libhandoff is given nothing that it did not ask for, and a
 * handoffd that was started anew is told the same again. */
#include "loop.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define AGAIN_FIRST 0.1 /* seconds */
#define AGAIN_LAST 30.0
#define WORDS_AT_ONCE 16

static void close_channel(struct handoff *h)
{
	if (h->channel_fd < 0)
		return;
	ev_io_stop(h->loop, &h->channel_io);
	(void)close(h->channel_fd);
	h->channel_fd = -1;
}

/* Nobody is there who knows: the program is on its own. */
static void go_alone(struct handoff *h)
{
	close_channel(h);
	h->alone = true;
	timers_update(h);
}

static void try_again_later(struct handoff *h)
{
	close_channel(h);
	ev_timer_set(&h->again, h->again_after, 0);
	ev_timer_start(h->loop, &h->again);
	h->again_after = h->again_after * 2 < AGAIN_LAST ? h->again_after * 2 : AGAIN_LAST;
}

static void serves_now(struct handoff *h, unsigned generation)
{
	unsigned before = h->serving;

	h->serving = generation;
	timers_update(h);
	if (generation == before || (!before && generation != handoff_generation()))
		return;
	if (h->on_reload)
		h->on_reload(h, generation, h->reload_data);
}

static void on_word(struct handoff *h, const char *key, const char *value)
{
	unsigned long n;

	if (!strcmp(key, "HELLO")) {
		h->introduced = true;
		h->alone = false;
		h->again_after = AGAIN_FIRST;
	} else if (!strcmp(key, "SERVING")) {
		if (read_number(value, UINT_MAX, &n) && n)
			serves_now(h, (unsigned)n);
	} else if (!strcmp(key, "DRAIN")) {
		/* its value is the deadline, so that the two cannot be apart */
		drain_ordered(h, read_number(value, ULONG_MAX, &n) ? n : NO_DEADLINE);
	}
}

static void on_words(struct handoff *h, char *words)
{
	for (char *line = words, *next; line; line = next) {
		char *value;

		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		value = strchr(line, '=');
		if (!value)
			continue;
		*value++ = '\0';
		on_word(h, line, value);
	}
}

static void on_channel(struct ev_loop *loop, ev_io *w, int events)
{
	struct handoff *h = w->data;
	char words[HANDOFF_WORD_MAX + 1];

	(void)loop;
	(void)events;
	for (int i = 0; i < WORDS_AT_ONCE && h->channel_fd >= 0; i++) {
		ssize_t n = recv(h->channel_fd, words, HANDOFF_WORD_MAX, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n > 0) {
			words[n] = '\0';
			on_words(h, words);
		} else {                    /* handoffd is being replaced, or has crashed */
			if (!h->introduced) /* or does not want to know, or is older than this */
				go_alone(h);
			try_again_later(h);
		}
	}
}

/* 1, or as handoff_notify(). */
static int say_hello(struct handoff *h)
{
	int ends[2], fds[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
		return -errno;
	fds[0] = ends[1];
	fds[1] = h->page_fd;
	r = notify_send(h->drains ? "HANDOFF_HELLO=1\nHANDOFF_DRAINS=1" : "HANDOFF_HELLO=1", fds, 2,
	        &h->notify_fd);
	(void)close(ends[1]);
	if (r <= 0) {
		(void)close(ends[0]);
		return r;
	}
	h->channel_fd = ends[0];
	ev_io_set(&h->channel_io, h->channel_fd, EV_READ);
	ev_io_start(h->loop, &h->channel_io);
	return 1;
}

static void wait_for_receiver(struct handoff *h)
{
	ev_io_set(&h->notify_io, h->notify_fd, EV_WRITE);
	ev_io_start(h->loop, &h->notify_io);
}

static void say_what_is_due(struct handoff *h)
{
	int r;

	if (h->notify_fd >= 0)
		return;
	if (h->hello_due) {
		r = say_hello(h);
		if (r == -EAGAIN && h->notify_fd >= 0) {
			wait_for_receiver(h);
			return;
		}
		h->hello_due = false;
		if (r < 0)
			try_again_later(h);
		else if (r == 0)
			go_alone(h);
	}
	if (h->ready_due) {
		r = notify_send("READY=1", NULL, 0, &h->notify_fd);
		if (r == -EAGAIN && h->notify_fd >= 0)
			wait_for_receiver(h);
		else
			h->ready_due = false;
	}
}

static void on_receiver(struct ev_loop *loop, ev_io *w, int events)
{
	struct handoff *h = w->data;

	(void)events;
	ev_io_stop(loop, w);
	(void)close(h->notify_fd);
	h->notify_fd = -1;
	say_what_is_due(h);
}

static void on_again(struct ev_loop *loop, ev_timer *w, int events)
{
	struct handoff *h = w->data;

	(void)loop;
	(void)events;
	h->hello_due = true;
	say_what_is_due(h);
}

static void on_watchdog(struct ev_loop *loop, ev_timer *w, int events)
{
	(void)loop;
	(void)w;
	(void)events;
	(void)handoff_notify("WATCHDOG=1");
}

/* systemd's wish, if it is meant for this process: twice in its time. */
static double watchdog_interval(void)
{
	const char *pid = getenv("WATCHDOG_PID");
	unsigned long usec, n;

	if (!read_number(getenv("WATCHDOG_USEC"), ULONG_MAX, &usec) || !usec)
		return 0;
	if (pid && (!read_number(pid, INT_MAX, &n) || n != (unsigned long)getpid()))
		return 0;
	return (double)usec / 2e6;
}

int channel_start(struct handoff *h)
{
	double watchdog = watchdog_interval();

	h->channel_fd = h->notify_fd = -1;
	h->again_after = AGAIN_FIRST;
	ev_init(&h->channel_io, on_channel);
	ev_init(&h->notify_io, on_receiver);
	ev_init(&h->again, on_again);
	ev_timer_init(&h->watchdog, on_watchdog, watchdog, watchdog);
	h->channel_io.data = h->notify_io.data = h->again.data = h;
	if (watchdog > 0)
		ev_timer_start(h->loop, &h->watchdog);
	h->alone = !handoff_generation() || !getenv("NOTIFY_SOCKET");
	h->hello_due = !h->alone;
	say_what_is_due(h);
	return 0;
}

void channel_stop(struct handoff *h)
{
	close_channel(h);
	ev_timer_stop(h->loop, &h->again);
	ev_timer_stop(h->loop, &h->watchdog);
	ev_io_stop(h->loop, &h->notify_io);
	if (h->notify_fd >= 0)
		(void)close(h->notify_fd);
}

void channel_drains(struct handoff *h)
{
	if (h->drains)
		return;
	h->drains = true;
	if (h->channel_fd >= 0) /* its end is seen where it is read */
		(void)send(h->channel_fd, "HANDOFF_DRAINS=1", strlen("HANDOFF_DRAINS=1"),
		        MSG_NOSIGNAL | MSG_DONTWAIT);
}

unsigned channel_serving(const struct handoff *h)
{
	unsigned now = atomic_load_explicit(&h->page->serving, memory_order_relaxed);

	return now ? now : h->serving;
}

unsigned handoff_serving(const struct handoff *h)
{
	return h->serving;
}

int handoff_ready(struct handoff *h)
{
	int r;

	if (!h)
		return handoff_notify("READY=1");
	if (h->notify_fd >= 0 || h->hello_due) { /* in their order */
		h->ready_due = true;
		return 1;
	}
	r = notify_send("READY=1", NULL, 0, &h->notify_fd);
	if (r != -EAGAIN || h->notify_fd < 0)
		return r;
	h->ready_due = true;
	wait_for_receiver(h);
	return 1;
}
