/* SPDX-License-Identifier: MIT */
/* Counts its visitors, and goes on counting over reloads, crashes and changes of its own data: the
 * numbers are in memory that handoffd keeps (handoff_keep(3)).
 *
 *     handoffd -l 8080 -- counterd
 *     curl 127.0.0.1:8080
 *
 * Its first release counted nothing but visits. This one also knows which generation had how many,
 * and for how many seconds it has served (handoff_timers(3)); it takes the visits over from the
 * memory of the first one. `counterd --first-release` is that one, to try the change and the way
 * back; `--broken-release` fails after it has taken over. */
#include "handoff.h"

#include <errno.h>
#include <ev.h>
#include <stdatomic.h>
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
	_Atomic uint64_t visits, seconds;
	_Atomic uint64_t by_generation[GENERATIONS]; /* the newest ones, each at number % 16 */
};

struct visitor {
	struct handoff_connection *counted;
	ev_io io;
	ev_timer limit;
	size_t length;
	char request[REQUEST_MAX];
};

static struct counters_1 *first; /* NULL: this release */
static struct counters *counters;
static struct handoff *handoff;

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

static void end_visit(struct ev_loop *loop, struct visitor *v)
{
	ev_io_stop(loop, &v->io);
	ev_timer_stop(loop, &v->limit);
	(void)close(v->io.fd);
	handoff_connection_end(v->counted);
	free(v);
}

static void answer(int fd)
{
	const unsigned generation = handoff_generation();
	unsigned long long visits, own = 0, seconds = 0;
	char text[300], body[160];
	int n;

	if (first) {
		visits = ++first->visits;
	} else {
		visits = ++counters->visits;
		own = ++counters->by_generation[generation % GENERATIONS];
		seconds = counters->seconds;
	}
	n = snprintf(body, sizeof body, "visit=%llu own=%llu seconds=%llu pid=%d generation=%u\n",
	        visits, own, seconds, (int)getpid(), generation);
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

static void on_accepted(struct handoff_connection *counted, int fd, void *data)
{
	struct ev_loop *loop = data;
	struct visitor *v = calloc(1, sizeof *v);

	if (!v) {
		(void)close(fd);
		handoff_connection_end(counted);
		return;
	}
	v->counted = counted;
	ev_io_init(&v->io, on_request, fd, EV_READ);
	ev_timer_init(&v->limit, on_limit, IDLE_LIMIT, 0.);
	v->io.data = v->limit.data = v;
	ev_io_start(loop, &v->io);
	ev_timer_start(loop, &v->limit);
}

/* In the generation that serves, and in no other. */
static int on_second(void *data)
{
	(void)data;
	counters->seconds++;
	return 1;
}

/* Where it is told by signal (drain.by = "signal", or without handoffd). */
static void on_term(struct ev_loop *loop, ev_signal *term, int events)
{
	(void)loop, (void)term, (void)events;
	handoff_drain(handoff, -1);
}

static void check(int r, const char *what)
{
	if (r >= 0)
		return;
	(void)fprintf(stderr, "counterd: cannot %s: %s\n", what, strerror(-r));
	exit(1);
}

static void usage(FILE *to)
{
	(void)fputs("Usage: counterd [--first-release | --broken-release] [ADDRESS]\n"
	            "  ADDRESS is for running it without handoffd\n",
	        to);
	exit(to == stdout ? 0 : 2);
}

int main(int argc, char **argv)
{
	struct ev_loop *loop = ev_default_loop(0);
	const char *address = NULL, *release = "";
	static ev_signal term;
	int fd;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--help"))
			usage(stdout);
		else if (!strcmp(argv[i], "--first-release") ||
		         !strcmp(argv[i], "--broken-release"))
			release = argv[i];
		else if (argv[i][0] == '-' || address)
			usage(stderr);
		else
			address = argv[i];
	}
	check(loop ? 0 : -ENOSYS, "make an event loop");
	fd = handoff_listen(NULL, address);
	check(fd, "listen");
	if (!strcmp(release, "--first-release"))
		first = handoff_keep("counters", 1, sizeof *first, fill_first, NULL);
	else
		counters = handoff_keep("counters", 2, sizeof *counters, fill, NULL);
	check(first || counters ? 0 : -errno, "keep memory");
	if (!strcmp(release, "--broken-release"))
		return 1;
	check(handoff_new(loop, &handoff), "begin");
	if (counters && handoff_worker() <= 0) { /* one of them is enough */
		counters->by_generation[handoff_generation() % GENERATIONS] = 0;
		check(handoff_every(handoff, 1., 0, on_second, NULL, NULL), "set a timer");
	}
	ev_signal_init(&term, on_term, SIGTERM);
	ev_signal_start(loop, &term);
	check(handoff_accept(handoff, fd, on_accepted, loop), "accept");
	check(handoff_ready(handoff), "say that it is ready");
	(void)ev_run(loop, 0); /* until it has drained */
	handoff_free(handoff);
	return 0;
}
