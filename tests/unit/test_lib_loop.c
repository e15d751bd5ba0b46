/* SPDX-License-Identifier: MIT */
/* libhandoff on a loop against a handoffd that follows a script: it hears the hello, sends words,
 * goes away, comes back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../lib/page.h"
#include "handoff.h"

#define LIMIT 20. /* seconds: how long a test that fails takes */

struct world {
	struct ev_loop *loop;
	struct handoff *h;
	int notify, channel; /* the script's ends */
	struct handoff_page *page;
	int listener;
	struct sockaddr_in address;
	ev_timer limit;
	bool late;

	struct handoff_connection *accepted[8];
	int fds[8];
	unsigned n_accepted, n_closing, drains, drained, ticks;
	unsigned reloads, reloaded_to;
	bool stop_when_accepted;
	int tick_more;
};

static void set(const char *key, const char *value)
{
	assert_int_equal(value ? setenv(key, value, 1) : unsetenv(key), 0);
}

static const char *const variables[] = {"NOTIFY_SOCKET", "HANDOFF_SERVICE", "HANDOFF_GENERATION",
        "HANDOFF_PREVIOUS", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC",
        "WATCHDOG_PID"};

static void on_limit(struct ev_loop *loop, ev_timer *w, int events)
{
	struct world *x = w->data;

	(void)events;
	x->late = true;
	ev_break(loop, EVBREAK_ALL);
}

static int set_up(void **state)
{
	struct world *x = calloc(1, sizeof *x);

	assert_non_null(x);
	for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++)
		set(variables[i], NULL);
	x->loop = ev_loop_new(EVFLAG_AUTO);
	assert_non_null(x->loop);
	x->notify = x->channel = -1;
	x->tick_more = 1;
	ev_timer_init(&x->limit, on_limit, LIMIT, 0.);
	x->limit.data = x;
	ev_timer_start(x->loop, &x->limit);
	*state = x;
	return 0;
}

static int tear_down(void **state)
{
	struct world *x = *state;

	handoff_free(x->h);
	if (x->page)
		(void)munmap(x->page, HANDOFF_PAGE_SIZE);
	if (x->notify >= 0)
		(void)close(x->notify);
	if (x->channel >= 0)
		(void)close(x->channel);
	ev_loop_destroy(x->loop);
	free(x);
	return 0;
}

/* Turns of the loop until it is so. */
#define RUN_UNTIL(x, condition)                                                                    \
	do {                                                                                       \
		while (!(condition) && !(x)->late)                                                 \
			(void)ev_run((x)->loop, EVRUN_ONCE);                                       \
		assert_false((x)->late);                                                           \
	} while (0)

static void on_rested(struct ev_loop *loop, ev_timer *w, int events)
{
	(void)loop;
	(void)events;
	*(bool *)w->data = true;
}

/* Time in which something must not happen. */
static void rest(struct world *x, double seconds)
{
	bool over = false;
	ev_timer t;

	ev_now_update(x->loop);
	ev_timer_init(&t, on_rested, seconds, 0.);
	t.data = &over;
	ev_timer_start(x->loop, &t);
	RUN_UNTIL(x, over);
}

/* ---- the script's side ---- */

static void make_handoffd(struct world *x, const char *generation)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	socklen_t size = sizeof(sa_family_t);
	char name[120];

	x->notify = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_true(x->notify >= 0);
	assert_int_equal(bind(x->notify, (void *)&a, size), 0);
	size = sizeof a;
	assert_int_equal(getsockname(x->notify, (void *)&a, &size), 0);
	(void)snprintf(name, sizeof name, "@%.*s",
	        (int)(size - offsetof(struct sockaddr_un, sun_path) - 1), a.sun_path + 1);
	set("NOTIFY_SOCKET", name);
	set("HANDOFF_SERVICE", "web");
	set("HANDOFF_GENERATION", generation);
}

/* The next datagram; takes the channel and the page if they came with it. */
static void hear(struct world *x, const char *expected)
{
	union {
		char bytes[CMSG_SPACE(2 * sizeof(int))];
		struct cmsghdr align;
	} control;
	char text[200];
	struct iovec iov = {.iov_base = text, .iov_len = sizeof text - 1};
	struct msghdr m = {.msg_iov = &iov,
	        .msg_iovlen = 1,
	        .msg_control = &control,
	        .msg_controllen = sizeof control};
	ssize_t n = recvmsg(x->notify, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	int fds[2];

	assert_true(n > 0);
	text[n] = '\0';
	assert_string_equal(text, expected);
	if (!strstr(expected, "HANDOFF_HELLO"))
		return;
	assert_non_null(c);
	assert_int_equal(c->cmsg_len, CMSG_LEN(sizeof fds));
	memcpy(fds, CMSG_DATA(c), sizeof fds);
	if (x->channel >= 0)
		(void)close(x->channel);
	x->channel = fds[0];
	if (!x->page) {
		assert_true(fcntl(fds[1], F_GET_SEALS) & F_SEAL_SHRINK);
		x->page = mmap(
		        NULL, HANDOFF_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fds[1], 0);
		assert_true(x->page != MAP_FAILED);
	}
	(void)close(fds[1]);
}

static bool can_hear(const struct world *x)
{
	char byte;

	return recv(x->notify, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

static void say(struct world *x, const char *words)
{
	assert_int_equal(send(x->channel, words, strlen(words), MSG_NOSIGNAL), strlen(words));
}

/* ---- the program's side ---- */

static void on_close(struct handoff_connection *c, void *data)
{
	struct world *x = data;

	x->n_closing++;
	for (unsigned i = 0; i < x->n_accepted; i++)
		if (x->accepted[i] == c) {
			(void)close(x->fds[i]);
			x->accepted[i] = NULL;
		}
	handoff_connection_end(c);
}

static void on_accepted(struct handoff_connection *c, int fd, void *data)
{
	struct world *x = data;

	assert_true(x->n_accepted < 8);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	x->fds[x->n_accepted] = fd;
	x->accepted[x->n_accepted++] = c;
	handoff_connection_on_close(c, on_close, x);
}

static void on_drain(struct handoff *h, void *data)
{
	struct world *x = data;

	assert_true(handoff_draining(h));
	x->drains++;
}

static void on_drained(struct handoff *h, void *data)
{
	struct world *x = data;

	(void)h;
	x->drained++;
	ev_break(x->loop, EVBREAK_ALL);
}

static void on_reload(struct handoff *h, unsigned generation, void *data)
{
	struct world *x = data;

	assert_int_equal(handoff_serving(h), generation);
	x->reloads++;
	x->reloaded_to = generation;
}

static int on_tick(void *data)
{
	struct world *x = data;

	x->ticks++;
	return x->tick_more;
}

static void begin(struct world *x)
{
	assert_int_equal(handoff_new(x->loop, &x->h), 0);
	handoff_on_reload(x->h, on_reload, x);
	handoff_on_drained(x->h, on_drained, x);
}

static void listen_here(struct world *x)
{
	socklen_t size = sizeof x->address;

	x->listener = handoff_listen("http", "127.0.0.1:0");
	assert_true(x->listener >= 0);
	assert_int_equal(getsockname(x->listener, (void *)&x->address, &size), 0);
	assert_int_equal(handoff_accept(x->h, x->listener, on_accepted, x), 0);
}

static int client(struct world *x)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (void *)&x->address, sizeof x->address), 0);
	return fd;
}

static void end(struct world *x, unsigned i)
{
	assert_int_equal(close(x->fds[i]), 0);
	handoff_connection_end(x->accepted[i]);
	x->accepted[i] = NULL;
}

static bool at_end(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

/* ---- tests ---- */

static void alone(void **state)
{
	struct world *x = *state;
	struct handoff_counts counts;
	struct handoff *second;
	int a, b;

	begin(x);
	assert_int_equal(handoff_new(x->loop, &second), -EBUSY);
	assert_int_equal(handoff_new(NULL, &second), -EINVAL);
	assert_int_equal(handoff_ready(x->h), 0);
	assert_int_equal(handoff_serving(x->h), 0);
	listen_here(x);
	a = client(x);
	b = client(x);
	RUN_UNTIL(x, x->n_accepted == 2);
	handoff_request_begin(x->accepted[0]);
	handoff_request_begin(x->accepted[0]);
	handoff_counts(x->h, &counts);
	assert_int_equal(counts.connections, 2);
	assert_int_equal(counts.busy, 1);
	assert_int_equal(counts.requests, 2);
	handoff_request_end(x->accepted[0]);
	handoff_request_end(x->accepted[0]);
	handoff_request_end(x->accepted[0]); /* one too many is none */
	handoff_counts(x->h, &counts);
	assert_int_equal(counts.busy, 0);
	assert_int_equal(counts.requests, 0);
	assert_int_equal(counts.served, 2);
	handoff_request_begin(x->accepted[1]);
	end(x, 1); /* in the middle of a request */
	handoff_counts(x->h, &counts);
	assert_int_equal(counts.connections, 1);
	assert_int_equal(counts.busy, 0);
	assert_int_equal(counts.requests, 0);

	handoff_set_grace(x->h, 0.05);
	handoff_drain(x->h, -1);
	assert_int_equal(x->drains, 0);
	assert_true(handoff_deadline(x->h) < 0);
	RUN_UNTIL(x, x->drained);
	assert_int_equal(x->n_closing, 1);
	assert_true(at_end(a));
	(void)close(a);
	(void)close(b);
	/* the listener is closed */
	a = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(a, (void *)&x->address, sizeof x->address), -1);
	assert_int_equal(errno, ECONNREFUSED);
	(void)close(a);
}

/* Without on_drained the loop is broken; without connections that is at once. */
static void ends_the_loop(void **state)
{
	struct world *x = *state;

	assert_int_equal(handoff_new(x->loop, &x->h), 0);
	handoff_drain(x->h, 5);
	assert_true(handoff_deadline(x->h) > 0 && handoff_deadline(x->h) <= 5);
	(void)ev_run(x->loop, 0);
	assert_false(x->late);
}

static void hello_and_who_serves(void **state)
{
	struct world *x = *state;

	make_handoffd(x, "2");
	begin(x);
	listen_here(x);
	assert_int_equal(handoff_ready(x->h), 1);
	hear(x, "HANDOFF_HELLO=1");
	hear(x, "READY=1");
	assert_int_equal(x->page->magic, HANDOFF_PAGE_MAGIC);
	{
		char word[64] = "";

		assert_true(recv(x->channel, word, sizeof word - 1, MSG_DONTWAIT) > 0);
		assert_string_equal(word, "HANDOFF_DRAINS=1");
	}
	say(x, "HELLO=1");
	say(x, "SERVING=1");
	RUN_UNTIL(x, handoff_serving(x->h) == 1);
	assert_int_equal(x->reloads, 0); /* it was so before */
	say(x, "SERVING=2\nUNKNOWN=x\n\n=\nnothing");
	RUN_UNTIL(x, handoff_serving(x->h) == 2);
	assert_int_equal(x->reloaded_to, 2);
	say(x, "SERVING=2");
	say(x, "SERVING=");
	say(x, "SERVING=0");
	say(x, "SERVING=99999999999999999999");
	say(x, "SERVING=3");
	RUN_UNTIL(x, handoff_serving(x->h) == 3);
	assert_int_equal(x->reloads, 2);
	say(x, "SERVING=2"); /* rolled back */
	RUN_UNTIL(x, handoff_serving(x->h) == 2);
	assert_int_equal(x->reloads, 3);
	assert_int_equal(x->drains, 0);
}

static void drain_by_message(void **state)
{
	struct world *x = *state;
	struct timespec t;
	char words[64];
	int busy, idle, late;
	double deadline;

	make_handoffd(x, "1");
	begin(x);
	handoff_on_drain(x->h, on_drain, x);
	listen_here(x);
	handoff_set_grace(x->h, 1000);
	hear(x, "HANDOFF_HELLO=1");
	say(x, "HELLO=1");
	busy = client(x);
	idle = client(x);
	RUN_UNTIL(x, x->n_accepted == 2);
	handoff_request_begin(x->accepted[0]);
	assert_int_equal(atomic_load(&x->page->loop.connections), 2);
	assert_int_equal(atomic_load(&x->page->loop.busy), 1);

	late = client(x); /* in the queue when the word comes */
	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	(void)snprintf(words, sizeof words, "DRAIN=%lld", (t.tv_sec + 60) * 1000000LL);
	say(x, words);
	RUN_UNTIL(x, x->drains);
	assert_int_equal(x->n_accepted, 3);
	deadline = handoff_deadline(x->h);
	assert_true(deadline > 50 && deadline <= 60);
	hear(x, "STOPPING=1");
	assert_int_equal(x->n_closing, 0);
	rest(x, 0.1);
	assert_int_equal(x->n_closing, 0);
	handoff_set_grace(x->h, 0.05);
	RUN_UNTIL(x, x->n_closing == 2);
	assert_true(at_end(idle) && at_end(late));
	assert_false(at_end(busy));
	/* between two requests it is idle again, from the end of the first one on */
	handoff_request_end(x->accepted[0]);
	handoff_request_begin(x->accepted[0]);
	rest(x, 0.3);
	assert_int_equal(x->n_closing, 2);
	handoff_request_end(x->accepted[0]);
	say(x, "DRAIN=infinity"); /* no later deadline than before */
	RUN_UNTIL(x, x->n_closing == 3);
	RUN_UNTIL(x, x->drained);
	assert_true(handoff_deadline(x->h) >= 0);
	assert_int_equal(x->drains, 1);
	(void)close(busy);
	(void)close(idle);
	(void)close(late);
}

static void on_accepted_and_closed(struct handoff_connection *c, int fd, void *data)
{
	struct world *x = data;

	x->n_accepted++;
	(void)close(fd);
	handoff_connection_end(c);
}

/* What is in the queue when the drain begins is taken, however much that is. */
static void queue_is_taken(void **state)
{
	enum { CLIENTS = 200 };
	struct world *x = *state;
	int fds[CLIENTS];

	begin(x);
	x->listener = handoff_listen("http", "127.0.0.1:0");
	assert_int_equal(
	        getsockname(x->listener, (void *)&x->address, &(socklen_t){sizeof x->address}), 0);
	for (int i = 0; i < CLIENTS; i++)
		fds[i] = client(x);
	assert_int_equal(handoff_accept(x->h, x->listener, on_accepted_and_closed, x), 0);
	handoff_drain(x->h, -1);
	RUN_UNTIL(x, x->drained);
	assert_int_equal(x->n_accepted, CLIENTS);
	for (int i = 0; i < CLIENTS; i++)
		(void)close(fds[i]);
}

/* Whose request has arrived already is not closed. */
static void request_on_the_way(void **state)
{
	struct world *x = *state;
	int fd;

	begin(x);
	listen_here(x);
	handoff_set_grace(x->h, 0.05);
	fd = client(x);
	RUN_UNTIL(x, x->n_accepted == 1);
	assert_int_equal(send(fd, "GET", 3, 0), 3);
	handoff_drain(x->h, -1);
	rest(x, 0.3);
	assert_int_equal(x->n_closing, 0);
	{
		char got[8];

		assert_int_equal(recv(x->fds[0], got, sizeof got, 0), 3);
	}
	RUN_UNTIL(x, x->n_closing == 1);
	RUN_UNTIL(x, x->drained);
	(void)close(fd);
}

/* Idle ones go before the deadline, whatever the grace is. */
static void grace_ends_before_the_deadline(void **state)
{
	struct world *x = *state;
	int fd;

	begin(x);
	listen_here(x);
	handoff_set_grace(x->h, 1000);
	fd = client(x);
	RUN_UNTIL(x, x->n_accepted == 1);
	handoff_drain(x->h, 1.1);
	RUN_UNTIL(x, x->n_closing == 1);
	(void)close(fd);
}

static void handoffd_comes_back(void **state)
{
	struct world *x = *state;

	make_handoffd(x, "4");
	begin(x);
	handoff_on_drain(x->h, on_drain, x);
	hear(x, "HANDOFF_HELLO=1");
	say(x, "HELLO=1\nSERVING=4");
	RUN_UNTIL(x, handoff_serving(x->h) == 4);
	(void)close(x->channel);
	x->channel = -1;
	RUN_UNTIL(x, can_hear(x));
	hear(x, "HANDOFF_HELLO=1\nHANDOFF_DRAINS=1");
	/* and dies again before it can answer: timers do not run beside those of generation 5 */
	assert_int_equal(handoff_every(x->h, 0.01, 0, on_tick, x, NULL), 0);
	x->page->serving = 5;
	(void)close(x->channel);
	x->channel = -1;
	RUN_UNTIL(x, can_hear(x));
	assert_int_equal(x->ticks, 0);
	hear(x, "HANDOFF_HELLO=1\nHANDOFF_DRAINS=1");
	say(x, "HELLO=1\nSERVING=5");
	RUN_UNTIL(x, x->reloaded_to == 5);
	assert_int_equal(x->ticks, 0);
}

/* One that closes without a word is older, or does not want to know: the program is alone. Or it
 * has died over it, and the next one is told. */
static void handoffd_knows_no_channel(void **state)
{
	struct world *x = *state;

	make_handoffd(x, "4");
	begin(x);
	hear(x, "HANDOFF_HELLO=1");
	assert_int_equal(handoff_every(x->h, 0.01, 0, on_tick, x, NULL), 0);
	rest(x, 0.1);
	assert_int_equal(x->ticks, 0); /* who serves is not known yet */
	(void)close(x->channel);
	x->channel = -1;
	RUN_UNTIL(x, x->ticks > 2);
	RUN_UNTIL(x, can_hear(x));
	hear(x, "HANDOFF_HELLO=1");
	say(x, "HELLO=1\nSERVING=5");
	RUN_UNTIL(x, handoff_serving(x->h) == 5);
	x->ticks = 0;
	rest(x, 0.1);
	assert_int_equal(x->ticks, 0);
}

/* Hello and READY=1 are not lost when the receiver is behind, and come in their order. */
static void receiver_is_behind(void **state)
{
	struct world *x = *state;
	unsigned n = 0;
	char text[100];

	make_handoffd(x, "1");
	while (handoff_notify("STATUS=more") == 1)
		n++;
	begin(x);
	assert_int_equal(handoff_ready(x->h), 1);
	rest(x, 0.05);
	for (; n > 0; n--)
		assert_true(recv(x->notify, text, sizeof text, MSG_DONTWAIT) > 0);
	RUN_UNTIL(x, can_hear(x));
	hear(x, "HANDOFF_HELLO=1");
	RUN_UNTIL(x, can_hear(x));
	hear(x, "READY=1");
}

static void timers(void **state)
{
	struct world *x = *state;
	struct handoff_timer *t;
	unsigned n;

	make_handoffd(x, "2");
	begin(x);
	handoff_on_drain(x->h, on_drain, x);
	hear(x, "HANDOFF_HELLO=1");
	assert_int_equal(handoff_every(x->h, 0, 0, on_tick, x, NULL), -EINVAL);
	assert_int_equal(handoff_every(x->h, 0.01, 0, on_tick, x, &t), 0);
	say(x, "HELLO=1\nSERVING=1");
	rest(x, 0.05);
	assert_int_equal(x->ticks, 0); /* the generation before this one has its own */
	say(x, "SERVING=2");
	RUN_UNTIL(x, x->ticks >= 2);
	/* the word of the page is enough: what is on the channel may come late */
	atomic_store(&x->page->serving, 3);
	n = x->ticks;
	rest(x, 0.05);
	assert_int_equal(x->ticks, n);
	say(x, "SERVING=3");
	rest(x, 0.05);
	assert_int_equal(x->ticks, n);
	atomic_store(&x->page->serving, 2);
	say(x, "SERVING=2"); /* rolled back */
	RUN_UNTIL(x, x->ticks > n);
	handoff_timer_stop(t);
	n = x->ticks;
	rest(x, 0.05);
	assert_int_equal(x->ticks, n);
	x->tick_more = 0;
	assert_int_equal(handoff_every(x->h, 0.01, 0, on_tick, x, NULL), 0);
	RUN_UNTIL(x, x->ticks == n + 1);
	rest(x, 0.05);
	assert_int_equal(x->ticks, n + 1);

	x->tick_more = 1;
	assert_int_equal(handoff_every(x->h, 0.01, HANDOFF_WHILE_DRAINING, on_tick, x, NULL), 0);
	RUN_UNTIL(x, x->ticks == n + 2);
	handoff_count(x->h, 1, 0); /* something keeps it from being drained */
	say(x, "DRAIN=infinity");
	RUN_UNTIL(x, x->drains);
	n = x->ticks;
	RUN_UNTIL(x, x->ticks > n + 2);
}

static void timers_end_with_the_drain(void **state)
{
	struct world *x = *state;
	unsigned n;

	begin(x);
	assert_int_equal(handoff_every(x->h, 0.01, 0, on_tick, x, NULL), 0);
	RUN_UNTIL(x, x->ticks);
	handoff_count(x->h, 1, 1);
	handoff_drain(x->h, -1);
	n = x->ticks;
	rest(x, 0.05);
	assert_int_equal(x->ticks, n);
	handoff_count(x->h, -1, -1);
	RUN_UNTIL(x, x->drained);
}

/* Without descriptors it neither spins nor gives up. */
static void no_descriptors(void **state)
{
	struct world *x = *state;
	struct rlimit before, low;
	unsigned turns;
	int fd;

	if (getenv("HANDOFF_VALGRIND")) /* it has a limit of its own */
		skip();
	begin(x);
	listen_here(x);
	fd = client(x);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	low = before;
	low.rlim_cur = 3;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	turns = ev_iteration(x->loop);
	for (int i = 0; i < 4; i++)
		(void)ev_run(x->loop, EVRUN_ONCE); /* each one waits for its rest */
	turns = ev_iteration(x->loop) - turns;
	assert_int_equal(x->n_accepted, 0);
	assert_true(turns <= 8);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	RUN_UNTIL(x, x->n_accepted == 1);
	end(x, 0);
	(void)close(fd);
}

struct counter {
	struct handoff *h;
	unsigned rounds;
};

static void *count_in_thread(void *arg)
{
	struct counter *c = arg;

	for (unsigned i = 0; i < c->rounds; i++) {
		handoff_count(c->h, 1, 1);
		handoff_count(c->h, 0, -1);
		handoff_count(c->h, -1, 0);
	}
	return NULL;
}

static void count_from_threads(void **state)
{
	struct world *x = *state;
	struct counter c = {.rounds = 20000};
	struct handoff_counts counts;
	pthread_t threads[4];

	begin(x);
	c.h = x->h;
	handoff_count(x->h, 1, 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, count_in_thread, &c), 0);
	handoff_drain(x->h, -1);
	for (int i = 0; i < 1000; i++) {
		handoff_counts(x->h, &counts);
		assert_true(counts.connections >= 1 && counts.connections <= 5);
		(void)ev_run(x->loop, EVRUN_NOWAIT);
	}
	assert_int_equal(x->drained, 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	handoff_counts(x->h, &counts);
	assert_int_equal(counts.connections, 1);
	assert_int_equal(counts.busy, 1);
	assert_int_equal(counts.requests, 0);
	assert_int_equal(counts.served, 4 * c.rounds);
	/* the last one ends while the loop waits */
	c.rounds = 1;
	handoff_count(x->h, -1, 0);
	assert_int_equal(pthread_create(&threads[0], NULL, count_in_thread, &c), 0);
	RUN_UNTIL(x, x->drained);
	assert_int_equal(pthread_join(threads[0], NULL), 0);
}

static void watchdog(void **state)
{
	struct world *x = *state;
	char pid[32];

	make_handoffd(x, NULL);
	(void)snprintf(pid, sizeof pid, "%d", (int)getpid());
	set("WATCHDOG_USEC", "20000");
	set("WATCHDOG_PID", pid);
	begin(x);
	RUN_UNTIL(x, can_hear(x));
	hear(x, "WATCHDOG=1");
	handoff_free(x->h);
	set("WATCHDOG_PID", "1");
	begin(x);
	rest(x, 0.05);
	assert_false(can_hear(x));
}

static void words(void **state)
{
	struct world *x = *state;

	make_handoffd(x, NULL);
	assert_int_equal(handoff_status("well\nREADY=1"), 1);
	hear(x, "STATUS=well");
	assert_int_equal(handoff_status(NULL), -EINVAL);
	assert_int_equal(handoff_extend(1.5), 1);
	hear(x, "EXTEND_TIMEOUT_USEC=1500000");
	assert_int_equal(handoff_extend(-1), -EINVAL);
	assert_int_equal(handoff_extend(1e300), -EINVAL);
	assert_int_equal(handoff_ready(NULL), 1);
	hear(x, "READY=1");
}

/* A forked child may drop what it inherited without harm to its parent. */
static void forked(void **state)
{
	struct world *x = *state;
	int status, fd;
	pid_t pid;

	make_handoffd(x, "1");
	begin(x);
	listen_here(x);
	hear(x, "HANDOFF_HELLO=1");
	say(x, "HELLO=1");
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		handoff_free(x->h);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	say(x, "SERVING=7");
	RUN_UNTIL(x, handoff_serving(x->h) == 7);
	fd = client(x);
	RUN_UNTIL(x, x->n_accepted == 1);
	end(x, 0);
	(void)close(fd);
}

static void not_a_listener(void **state)
{
	struct world *x = *state;
	int fds[2];

	begin(x);
	assert_int_equal(handoff_accept(x->h, 1 << 20, on_accepted, x), -EBADF);
	assert_int_equal(handoff_accept(x->h, handoff_listen(NULL, "x"), on_accepted, x), -EINVAL);
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(handoff_accept(x->h, fds[0], on_accepted, x), -ENOTSOCK);
	assert_int_equal(fcntl(fds[0], F_GETFD), -1); /* it was closed */
	(void)close(fds[1]);
	assert_int_equal(
	        handoff_accept(x->h, socket(AF_INET, SOCK_STREAM, 0), on_accepted, x), -EINVAL);
}

static void addresses(void **state)
{
	static const char *const wrong[] = {"", "x", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536",
	        "localhost:80", "[::1:80", "::1:80", "[]:80", "unix:", "unix:relative", "unix:@"};
	char directory[] = "/tmp/handoff-XXXXXX", path[64], name[200];
	int fd;

	(void)state;
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		assert_int_equal(handoff_listen("http", wrong[i]), -EINVAL);
	memset(name, 'x', sizeof name);
	memcpy(name, "unix:/", 6);
	name[sizeof name - 1] = '\0';
	assert_int_equal(handoff_listen("http", name), -ENAMETOOLONG);
	assert_int_equal(handoff_listen("http", NULL), -ENOENT);
	fd = handoff_listen(NULL, "0");
	assert_true(fd >= 0);
	(void)close(fd);
	(void)snprintf(name, sizeof name, "unix:@handoff-test-%d", (int)getpid());
	fd = handoff_listen(NULL, name);
	assert_true(fd >= 0);
	assert_int_equal(handoff_listen(NULL, name), -EADDRINUSE);
	(void)close(fd);

	assert_non_null(mkdtemp(directory));
	(void)snprintf(path, sizeof path, "%s/s", directory);
	(void)snprintf(name, sizeof name, "unix:%s", path);
	fd = handoff_listen(NULL, name);
	assert_true(fd >= 0);
	assert_int_equal(handoff_listen(NULL, name), -EADDRINUSE); /* somebody listens */
	(void)close(fd);
	fd = handoff_listen(NULL, name); /* nobody does */
	assert_true(fd >= 0);
	(void)close(fd);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(directory), 0);
}

/* A passed socket is found by its name, or by its address; what is passed is at 3 and above. */
static void passed_by_address(void **state)
{
	struct sockaddr_in a;
	socklen_t size = sizeof a;
	char pid[32], address[40];
	int fd = handoff_listen(NULL, "127.0.0.1:0"), before = dup(3);

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(getsockname(fd, (void *)&a, &size), 0);
	if (fd != 3) {
		assert_int_equal(dup2(fd, 3), 3);
		(void)close(fd);
	}
	(void)snprintf(pid, sizeof pid, "%d", (int)getpid());
	(void)snprintf(address, sizeof address, "127.0.0.1:%u", ntohs(a.sin_port));
	set("LISTEN_FDS", "1");
	set("LISTEN_PID", pid);
	set("LISTEN_FDNAMES", "http");
	assert_int_equal(handoff_listen("http", NULL), 3);
	assert_int_equal(handoff_listen("http", "127.0.0.1:1"), 3);
	assert_int_equal(handoff_listen("other", NULL), -ENOENT);
	assert_int_equal(handoff_listen("other", address), 3);
	fd = handoff_listen("other", "127.0.0.1:0");
	assert_true(fd > 3);
	(void)close(fd);
	(void)close(3);
	if (before >= 0) {
		assert_int_equal(dup2(before, 3), 3);
		(void)close(before);
	}
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	        TEST(alone),
	        TEST(ends_the_loop),
	        TEST(hello_and_who_serves),
	        TEST(drain_by_message),
	        TEST(queue_is_taken),
	        TEST(request_on_the_way),
	        TEST(grace_ends_before_the_deadline),
	        TEST(handoffd_comes_back),
	        TEST(handoffd_knows_no_channel),
	        TEST(receiver_is_behind),
	        TEST(timers),
	        TEST(timers_end_with_the_drain),
	        TEST(no_descriptors),
	        TEST(count_from_threads),
	        TEST(watchdog),
	        TEST(words),
	        TEST(forked),
	        TEST(not_a_listener),
	        TEST(addresses),
	        TEST(passed_by_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
