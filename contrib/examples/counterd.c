/* SPDX-License-Identifier: MIT */
/* Counts its visitors, and goes on counting over reloads, crashes and changes of its own data: the
 * numbers are in memory that handoffd keeps (handoff_keep(3)).
 *
 *     handoffd -l 8080 -- counterd
 *     curl 127.0.0.1:8080
 *
 * Its first release counted nothing but visits. This one also knows which generation had how many;
 * it takes the visits over from the memory of the first one. `counterd --first-release` is that
 * one, to try the change and the way back; `--broken-release` fails after it has taken over. */
#include "handoff.h"

#include <errno.h>
#include <ev.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define GENERATIONS 16
#define REQUEST_MAX 4096
#define IDLE_LIMIT 10. /* seconds for a request */

/* Two generations, and all their workers, change these at the same time: so all are atomic. */
struct counters_1 {
	_Atomic uint64_t visits;
};

struct counters {
	_Atomic uint64_t visits;
	_Atomic uint64_t by_generation[GENERATIONS]; /* the newest ones, each at number % 16 */
};

struct visitor {
	ev_io io;
	ev_timer limit;
	size_t length;
	char request[REQUEST_MAX];
};

static struct counters_1 *first; /* NULL: this release */
static struct counters *counters;
static ev_io listener;
static unsigned visitors;
static bool leaving;

static int fill(void *memory, const void *old, size_t old_size, unsigned old_version, void *data)
{
	struct counters *c = memory;
	const struct counters_1 *before = old;

	(void)data;
	if (old && old_version == 1 && old_size == sizeof *before) {
		c->visits = before->visits;
		(void)fprintf(stderr, "counterd: took over %llu visits from the first release\n",
		        (unsigned long long)c->visits);
	} else {
		(void)fprintf(stderr, "counterd: new memory\n");
	}
	return 0;
}

/* The first release does not know what came after it: it begins anew, if nothing of its own is
 * left.
 */
static int fill_first(
        void *memory, const void *old, size_t old_size, unsigned old_version, void *data)
{
	(void)memory, (void)old, (void)old_size, (void)old_version, (void)data;
	(void)fprintf(stderr, "counterd: new memory\n");
	return 0;
}

static void leave_if_done(struct ev_loop *loop)
{
	if (leaving && visitors == 0)
		ev_break(loop, EVBREAK_ALL);
}

static void end_visit(struct ev_loop *loop, struct visitor *v)
{
	ev_io_stop(loop, &v->io);
	ev_timer_stop(loop, &v->limit);
	(void)close(v->io.fd);
	free(v);
	visitors--;
	leave_if_done(loop);
}

static void answer(int fd)
{
	const unsigned generation = handoff_generation();
	unsigned long long visits, own = 0;
	char text[300], body[120];
	int n;

	if (first) {
		visits = ++first->visits;
	} else {
		visits = ++counters->visits;
		own = ++counters->by_generation[generation % GENERATIONS];
	}
	n = snprintf(body, sizeof body, "visit=%llu own=%llu pid=%d generation=%u\n", visits, own,
	        (int)getpid(), generation);
	n = snprintf(text, sizeof text,
	        "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", n, body);
	/* it fits in an empty send buffer; whoever has gone away gets nothing */
	(void)send(fd, text, (size_t)n, MSG_NOSIGNAL);
}

static void on_request(struct ev_loop *loop, ev_io *io, int events)
{
	struct visitor *v = io->data;
	ssize_t n = recv(io->fd, v->request + v->length, sizeof v->request - 1 - v->length, 0);

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	v->length += n > 0 ? (size_t)n : 0;
	v->request[v->length] = '\0';
	if (strstr(v->request, "\r\n\r\n"))
		answer(io->fd);
	else if (n > 0 && v->length < sizeof v->request - 1)
		return;
	end_visit(loop, v);
}

static void on_limit(struct ev_loop *loop, ev_timer *timer, int events)
{
	(void)events;
	end_visit(loop, timer->data);
}

/* False when nobody is there any more. */
static bool accept_one(struct ev_loop *loop, int fd)
{
	int own = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct visitor *v;

	if (own < 0)
		return errno == ECONNABORTED || errno == EINTR;
	v = calloc(1, sizeof *v);
	if (!v) {
		(void)close(own);
		return true;
	}
	ev_io_init(&v->io, on_request, own, EV_READ);
	ev_timer_init(&v->limit, on_limit, IDLE_LIMIT, 0.);
	v->io.data = v->limit.data = v;
	ev_io_start(loop, &v->io);
	ev_timer_start(loop, &v->limit);
	visitors++;
	return true;
}

static void on_listener(struct ev_loop *loop, ev_io *io, int events)
{
	(void)events;
	(void)accept_one(loop, io->fd);
}

/* Nothing new can reach it when handoffd sends SIGTERM: what is queued is the last. */
static void on_term(struct ev_loop *loop, ev_signal *term, int events)
{
	(void)term, (void)events;
	if (leaving)
		return;
	ev_io_stop(loop, &listener);
	while (accept_one(loop, listener.fd))
		;
	(void)close(listener.fd);
	leaving = true;
	leave_if_done(loop);
}

static void usage(void)
{
	(void)fputs("Usage: handoffd -l ADDRESS -- counterd [--first-release | --broken-release]\n",
	        stderr);
	exit(2);
}

int main(int argc, char **argv)
{
	struct ev_loop *loop = ev_default_loop(0);
	const char *release = argc == 2 ? argv[1] : "";
	int fd = handoff_listener(NULL, 0);
	static ev_signal term;

	if (argc > 2 || (*release && strcmp(release, "--first-release") != 0 &&
	                        strcmp(release, "--broken-release") != 0))
		usage();
	if (!loop || fd < 0) {
		(void)fprintf(stderr, "counterd: no socket was passed: %s\n", strerror(-fd));
		return 1;
	}
	if (!strcmp(release, "--first-release"))
		first = handoff_keep("counters", 1, sizeof *first, fill_first, NULL);
	else
		counters = handoff_keep("counters", 2, sizeof *counters, fill, NULL);
	if (!first && !counters) {
		(void)fprintf(stderr, "counterd: cannot keep memory: %s\n", strerror(errno));
		return 1;
	}
	if (!strcmp(release, "--broken-release"))
		return 1;
	if (counters && handoff_worker() <= 0)
		counters->by_generation[handoff_generation() % GENERATIONS] = 0;
	ev_io_init(&listener, on_listener, fd, EV_READ);
	ev_io_start(loop, &listener);
	ev_signal_init(&term, on_term, SIGTERM);
	ev_signal_start(loop, &term);
	(void)handoff_notify("READY=1");
	(void)ev_run(loop, 0);
	return 0;
}
