/* SPDX-License-Identifier: MIT */
/* A draining generation is counted down to nothing, however its connections end. */
#include "test_connections.h"

#define MANY 2000
/* What takes longer was found by the slow dump, and not told by an event. */
#define BEFORE_SLOW_DUMP (900 * USEC_PER_MSEC)

static void shuffle(int *order, int n)
{
	unsigned seed = 7;
	int i, k, x;

	for (i = 0; i < n; i++)
		order[i] = i;
	for (i = n - 1; i > 0; i--) {
		k = (int)(rand_r(&seed) % (unsigned)(i + 1));
		x = order[i];
		order[i] = order[k];
		order[k] = x;
	}
}

/* Ends a connection in one of the ways that there are, and leaves the worker without it. */
static void end(int c, int a, int how)
{
	switch (how % 5) {
	case 0: /* client first */
		(void)close(c);
		(void)close(a);
		break;
	case 1: /* worker first */
		(void)close(a);
		(void)close(c);
		break;
	case 2: /* the client resets */
		reset_on_close(c);
		(void)close(c);
		(void)close(a);
		break;
	case 3: /* half-closed by the client */
		assert_int_equal(shutdown(c, SHUT_WR), 0);
		(void)close(a);
		(void)close(c);
		break;
	case 4: /* the worker resets */
		reset_on_close(a);
		(void)close(a);
		(void)close(c);
		break;
	}
}

static int c[2 * MANY], a[2 * MANY], order[2 * MANY];

/* The first n belong to the old generation, as many more to the young one. */
static void connect_all(int old, int young, const char *const *ip, int n)
{
	int i;

	for (i = 0; i < 2 * n; i++) {
		if (i == n)
			steer(old, 1);
		c[i] = client(ip[i % 2], PORT);
		a[i] = accepted(i < n ? old : young);
	}
}

static void test_count_down(void **state)
{
	static const char *const ip[] = {"127.0.0.1", "::1"};
	struct lab *l = *state;
	struct drain_watch *w;
	int old = tcp_listener("::", PORT, 9, false), young, i, alive = MANY;
	uint64_t before = UINT64_MAX;
	usec_t begun;

	steer(old, 0);
	young = tcp_listener("::", PORT, 4, false);
	connect_all(old, young, ip, MANY);
	w = watch(l, endpoint_of(l, old, false, 9), USEC_INFINITY);
	assert_int_equal(l->reports, 0); /* never from within the call */
	until(l, l->reports);
	assert_int_equal(l->now.total, MANY);
	assert_int_equal(l->now.queued, 0);
	shuffle(order, 2 * MANY);
	for (i = 0; i < 2 * MANY; i++) {
		end(c[order[i]], a[order[i]], i);
		alive -= order[i] < MANY;
		if (i % 10)
			continue;
		ev_run(l->loop, EVRUN_NOWAIT);
		assert_true(l->now.total >= (uint64_t)alive);
		assert_true(l->now.total <= before);
		before = l->now.total;
	}
	begun = now_usec();
	until(l, l->now.total == 0);
	assert_true(now_usec() - begun < BEFORE_SLOW_DUMP);
	drain_watch_last(w, &l->now);
	assert_int_equal(l->now.total, 0);
	assert_null(drain_watch_free(w));
	(void)close(old);
	(void)close(young);
}

/* The kernel forgets events when nobody reads them: a dump makes up for it. */
static void test_lost_events(void **state)
{
	static const char *const ip[] = {"127.0.0.1", "127.0.0.1"};
	struct lab *l = *state;
	struct drain_watch *w;
	int old = tcp_listener("127.0.0.1", PORT, 9, false), young, i, n = 300;
	usec_t begun;

	steer(old, 0);
	young = tcp_listener("127.0.0.1", PORT, 4, false);
	connect_all(old, young, ip, n);
	connections_set_event_buffer(l->c, 1); /* the smallest there is */
	w = watch(l, endpoint_of(l, old, false, 9), USEC_INFINITY);
	until(l, l->reports);
	assert_int_equal(l->now.total, n);
	begun = now_usec();
	for (i = 0; i < n - 1; i++)
		end(c[i], a[i], i);
	until(l, l->now.total == 1);
	assert_true(now_usec() - begun < BEFORE_SLOW_DUMP);
	end(c[n - 1], a[n - 1], 0);
	until(l, l->now.total == 0);
	drain_watch_free(w);
	for (i = n; i < 2 * n; i++)
		end(c[i], a[i], 2);
	(void)close(old);
	(void)close(young);
}

/* No subscription to be had: counted by dumps. */
static void test_without_events(void **state)
{
	struct lab *l = *state;
	struct rlimit old, none;
	int listener = tcp_listener("127.0.0.1", PORT, 9, false), x, y, fd;
	struct drain_watch *w;
	struct inflight n;

	x = client("127.0.0.1", PORT);
	y = accepted(listener);
	n = count_one(l, listener, 9); /* opens what dumps need */
	assert_int_equal(n.total, 1);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	fd = dup(0);
	none = old;
	none.rlim_cur = (rlim_t)fd;
	(void)close(fd);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	w = watch(l, endpoint_of(l, listener, false, 9), USEC_INFINITY);
	assert_int_equal(l->c->events_fd, -1);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	until(l, l->reports);
	assert_int_equal(l->now.total, 1);
	end(x, y, 0);
	until(l, l->now.total == 0);
	drain_watch_free(w);
	(void)close(listener);
}

/* One that was in the queue, or came later all the same, is waited for too. */
static void test_late_ones(void **state)
{
	struct lab *l = *state;
	int listener = tcp_listener("127.0.0.1", PORT, 9, false), x[3], y[3];
	struct drain_watch *w;

	x[0] = client("127.0.0.1", PORT);
	w = watch(l, endpoint_of(l, listener, false, 9), USEC_INFINITY);
	until(l, l->reports);
	assert_int_equal(l->now.total, 1);
	assert_int_equal(l->now.queued, 1);
	y[0] = accepted(listener);
	x[1] = client("127.0.0.1", PORT);
	y[1] = accepted(listener);
	end(x[0], y[0], 0);
	/* The numbers went to 0, the confirming dump finds the other one. */
	until(l, l->reports == 2);
	assert_int_equal(l->now.total, 1);
	assert_int_equal(l->now.queued, 0);
	/* The slow dump finds this one. */
	x[2] = client("127.0.0.1", PORT);
	y[2] = accepted(listener);
	until(l, l->now.total == 2);
	end(x[1], y[1], 1);
	end(x[2], y[2], 2);
	until(l, l->now.total == 0);
	drain_watch_free(w);
	(void)close(listener);
}

/* The worker has closed it, and the client does not read what is still to come. */
static void test_slow_peer(void **state)
{
	struct lab *l = *state;
	int listener = tcp_listener("127.0.0.1", PORT, 9, false), x, y;
	char buffer[4096] = {0};
	struct drain_watch *w;

	x = client("127.0.0.1", PORT);
	y = accepted(listener);
	w = watch(l, endpoint_of(l, listener, false, 9), USEC_INFINITY);
	until(l, l->reports);
	assert_int_equal(fcntl(y, F_SETFL, O_NONBLOCK), 0);
	while (write(y, buffer, sizeof buffer) > 0)
		;
	(void)close(y);
	until(l, l->now.total == 0);
	drain_watch_free(w);
	reset_on_close(x);
	(void)close(x);
	(void)close(listener);
}

struct talker {
	ev_timer timer;
	int fd, reader;
	usec_t last;
};

static void talk(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct talker *t = timer->data;
	char byte;

	(void)loop;
	(void)events;
	assert_int_equal(write(t->fd, "x", 1), 1);
	assert_int_equal(read(t->reader, &byte, 1), 1);
	t->last = now_usec();
}

static void test_idle_after(void **state)
{
	const usec_t limit = 200 * USEC_PER_MSEC;
	struct lab *l = *state;
	int listener = tcp_listener("127.0.0.1", PORT, 9, false), x[4], y[4], i;
	struct talker t;
	struct drain_watch *w;
	usec_t begun;

	for (i = 0; i < 4; i++) {
		x[i] = client("127.0.0.1", PORT);
		y[i] = accepted(listener);
	}
	w = watch(l, endpoint_of(l, listener, false, 9), limit);
	until(l, l->reports);
	assert_int_equal(l->now.total, 4);
	assert_int_equal(l->now.idle, 0);
	/* The last one goes on talking for a while. */
	t = (struct talker){.fd = x[3], .reader = y[3]};
	ev_timer_init(&t.timer, talk, 0., 0.03);
	t.timer.data = &t;
	ev_timer_start(l->loop, &t.timer);
	until(l, l->now.idle);
	assert_int_equal(l->now.idle, 3);
	ev_timer_stop(l->loop, &t.timer);
	until(l, l->now.idle == 4);
	assert_true(now_usec() - t.last >= limit - 20 * USEC_PER_MSEC);
	assert_int_equal(l->now.total, 4);
	/* A request that nobody has read yet is no idleness, however long it waits. */
	assert_int_equal(write(x[0], "x", 1), 1);
	until(l, l->now.idle == 3);
	begun = now_usec();
	until(l, now_usec() - begun > 2 * limit);
	assert_int_equal(l->now.idle, 3);
	drain_watch_free(w);
	for (i = 0; i < 4; i++)
		end(x[i], y[i], i);
	(void)close(listener);
}

/* The busy one ends while the others are idle: told at once, not at the next look. */
static void test_only_idle_left(void **state)
{
	struct lab *l = *state;
	int listener = tcp_listener("127.0.0.1", PORT, 9, false), x[2], y[2];
	struct drain_watch *w;
	usec_t begun = now_usec();

	x[0] = client("127.0.0.1", PORT);
	y[0] = accepted(listener);
	w = watch(l, endpoint_of(l, listener, false, 9), 300 * USEC_PER_MSEC);
	until(l, l->now.idle == 1);
	drain_watch_free(w);
	x[1] = client("127.0.0.1", PORT);
	y[1] = accepted(listener);
	w = watch(l, endpoint_of(l, listener, false, 9), 300 * USEC_PER_MSEC);
	l->reports = 0;
	until(l, l->reports);
	assert_int_equal(l->now.total, 2);
	assert_int_equal(l->now.idle, 1);
	begun = now_usec();
	end(x[1], y[1], 2);
	until(l, l->now.total == l->now.idle);
	assert_int_equal(l->now.total, 1);
	assert_true(now_usec() - begun < 150 * USEC_PER_MSEC);
	drain_watch_free(w);
	end(x[0], y[0], 0);
	(void)close(listener);
}

static struct drain_watch *both[2];
static void free_both(void *data, const struct inflight *now)
{
	on_report(data, now);
	if (now->total)
		return;
	/* Either of them: the first to be empty frees both. */
	both[0] = drain_watch_free(both[0]);
	both[1] = drain_watch_free(both[1]);
}

/* Two watches on two ports share the subscription; a report may free any of them. */
static void test_freed_in_report(void **state)
{
	const struct drain_watch_options options = {.idle_after = USEC_INFINITY};
	struct lab *l = *state;
	struct endpoint_list list;
	int listener[2], x[2], y[2], i;
	usec_t begun;

	for (i = 0; i < 2; i++) {
		listener[i] = tcp_listener("127.0.0.1", (uint16_t)(PORT + i), 9, false);
		x[i] = client("127.0.0.1", (uint16_t)(PORT + i));
		y[i] = accepted(listener[i]);
		list = endpoint_of(l, listener[i], false, 9);
		assert_int_equal(drain_watch_new_on(l->c, &list, &list, &options, free_both, l,
		                         &both[i], NULL),
		        0);
	}
	until(l, l->reports == 2);
	end(x[1], y[1], 2);
	begun = now_usec();
	until(l, !both[0]);
	assert_true(now_usec() - begun < BEFORE_SLOW_DUMP);
	assert_int_equal(l->now.total, 0);
	end(x[0], y[0], 0);
	for (i = 0; i < 2; i++)
		(void)close(listener[i]);
}

/* Nothing there from the beginning; and nothing at all to watch. */
static void test_empty(void **state)
{
	struct lab *l = *state;
	int listener = tcp_listener("127.0.0.1", PORT, 9, false);
	struct drain_watch *w = watch(l, endpoint_of(l, listener, false, 9), USEC_INFINITY);

	until(l, l->reports);
	assert_int_equal(l->now.total, 0);
	drain_watch_free(w);
	l->reports = 0;
	w = watch(l, (struct endpoint_list){0}, USEC_INFINITY);
	assert_int_equal(l->c->events_fd, -1);
	until(l, l->reports);
	assert_int_equal(l->now.total, 0);
	drain_watch_free(w);
	(void)close(listener);
}

static void test_unprivileged(void **state)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		if (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534))
			_exit(77);
		ev_loop_fork(((struct lab *)*state)->loop);
		test_count_down(state);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		print_message("skipped: cannot become another user\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, lab_setup, lab_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_empty),
	        TEST(test_late_ones),
	        TEST(test_count_down),
	        TEST(test_lost_events),
	        TEST(test_without_events),
	        TEST(test_slow_peer),
	        TEST(test_idle_after),
	        TEST(test_only_idle_left),
	        TEST(test_freed_in_report),
	        TEST(test_unprivileged),
	};

	own_network();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
