/* SPDX-License-Identifier: MIT */
/* Probes of a generation that nobody else reaches yet. */
#include "test_sockets_fixture.h"

#include <netinet/tcp.h>

#include "sockets/probe.h"

static struct world world;

struct outcome {
	unsigned calls;
	bool ok;
	char text[200];
};

static void on_done(void *data, bool ok, const char *text)
{
	struct outcome *o = data;

	o->calls++;
	o->ok = ok;
	snprintf(o->text, sizeof o->text, "%s", text);
	ev_break(world.loop, EVBREAK_ONE);
}

static void on_limit(struct ev_loop *loop, struct ev_timer *w, int revents)
{
	(void)w;
	(void)revents;
	ev_break(loop, EVBREAK_ONE);
}

/* Runs the loop until a probe is done, at most so long. */
static void run(double seconds)
{
	struct ev_timer limit;

	ev_now_update(world.loop);
	ev_timer_init(&limit, on_limit, seconds, 0.);
	ev_timer_start(world.loop, &limit);
	ev_run(world.loop, 0);
	ev_timer_stop(world.loop, &limit);
}

static void start(const struct address *a, bool no_ebpf)
{
	const struct sockets_options o = {.no_ebpf = no_ebpf};

	world_start(&world, &o, a, 1);
}

static struct probe *begin(
        struct listener_set *set, enum probe_kind kind, const char *path, struct outcome *o)
{
	struct probe *p;

	*o = (struct outcome){0};
	assert_int_equal(probe_new(world.loop, set, 0, kind, path, on_done, o, &p, NULL), 0);
	return p;
}

static void accepted(const struct address *address, bool no_ebpf)
{
	struct listener_set *a, *b;
	struct outcome o;
	struct probe *p;
	pid_t worker;

	start(address, no_ebpf);
	a = open_set(&world, 1);
	b = open_set(&world, 2);
	p = begin(b, PROBE_ACCEPTED, NULL, &o);
	run(0.05);
	assert_int_equal(o.calls, 0);
	assert_string_equal(probe_status(p), "the connection waits to be accepted");
	assert_int_equal(take_all(fd_of(a, 0)), 0);
	assert_int_equal(take_all(fd_of(b, 0)), 1);
	run(0.05);
	/* On TCP it was reset at once: that proves nothing, so it is tried again, and a worker that
	 * keeps the connection is believed. */
	if (address->kind == ADDRESS_TCP) {
		assert_int_equal(o.calls, 0);
		worker = start_worker(b, 2);
		run(5);
		stop_worker(worker);
	}
	assert_int_equal(o.calls, 1);
	assert_true(o.ok);
	probe_free(p);
	world_stop(&world);
}

static void test_accepted(void **state)
{
	struct address a = ip_address("127.0.0.1", false);

	accepted(&a, *state != NULL);
}

/* A probe that is given up leaves nothing in the queue, and takes nothing out of it that is not its
 * own. */
static void test_given_up(void **state)
{
	struct address address = ip_address("127.0.0.1", false);
	struct listener_set *set;
	unsigned queue, limit;
	struct outcome o;
	struct probe *p;
	int client;

	start(&address, *state != NULL);
	set = open_set(&world, 1);
	p = begin(set, PROBE_ACCEPTED, NULL, &o);
	run(0.05);
	assert_int_equal(listener_set_queue(set, 0, &queue, &limit), 0);
	assert_int_equal(queue, 1);
	probe_free(p);
	assert_int_equal(listener_set_queue(set, 0, &queue, &limit), 0);
	assert_int_equal(queue, 0);

	client = connect_from(NULL, "127.0.0.1");
	assert_true(client >= 0);
	p = begin(set, PROBE_ACCEPTED, NULL, &o);
	run(0.05);
	probe_free(p);
	assert_int_equal(listener_set_queue(set, 0, &queue, &limit), 0);
	assert_int_equal(queue, 2); /* the client's connection must stay, so both do */
	close(client);
	world_stop(&world);
}

static void test_accepted_dual(void **state)
{
	struct address a = ip_address("::", true);

	accepted(&a, *state != NULL);
}

static void test_accepted_unix(void **state)
{
	struct address a = {.kind = ADDRESS_UNIX,
	        .path = "/tmp/.handoffd-probe-test.sock",
	        .text = "unix:/tmp/.handoffd-probe-test.sock"};

	(void)state;
	accepted(&a, false);
}

/* Answers the n-th connection with the n-th text; the last one again and again. */
static pid_t http_worker(struct listener_set *set, const char *const *texts)
{
	pid_t pid = fork();
	char buffer[4096];
	int flags;

	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	flags = fcntl(fd_of(set, 0), F_GETFL);
	fcntl(fd_of(set, 0), F_SETFL, flags & ~O_NONBLOCK);
	for (;;) {
		int c = accept(fd_of(set, 0), NULL, NULL);

		if (c < 0)
			continue;
		if (*texts[0]) {
			ssize_t n = read(c, buffer, sizeof buffer - 1);

			buffer[n > 0 ? n : 0] = '\0';
			if (strncmp(buffer, "GET /health HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n",
			            44) != 0 ||
			        !strstr(buffer, "\r\nConnection: close\r\n"))
				_exit(1);
			if (write(c, texts[0], strlen(texts[0])) < 0)
				_exit(1);
		}
		close(c);
		if (texts[1])
			texts++;
	}
}

static void test_http(void **state)
{
	static const char *const texts[] = {"", "HTTP/1.1 503 Not yet\r\n\r\n", "SSH-2.0-x\r\n",
	        "HTTP/1.1 99", "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", NULL};
	struct address address = ip_address("127.0.0.1", false);
	struct listener_set *a, *b;
	struct outcome o;
	struct probe *p;
	pid_t worker;

	start(&address, *state != NULL);
	a = open_set(&world, 1);
	b = open_set(&world, 2);
	worker = http_worker(b, texts);
	p = begin(b, PROBE_HTTP, "/health", &o);
	run(5);
	assert_int_equal(o.calls, 1);
	assert_true(o.ok);
	assert_string_equal(o.text, "HTTP 204 from /health");
	assert_int_equal(take_all(fd_of(a, 0)), 0);
	probe_free(p);
	stop_worker(worker);
	world_stop(&world);
}

static void test_http_status(void **state)
{
	static const char *const texts[] = {"HTTP/1.0 503 No\r\nX: y\r\n\r\n", NULL};
	struct address address = ip_address("127.0.0.1", false);
	struct listener_set *a;
	struct outcome o;
	struct probe *p;
	pid_t worker;

	start(&address, *state != NULL);
	a = open_set(&world, 1);
	worker = http_worker(a, texts);
	p = begin(a, PROBE_HTTP, "/health", &o);
	run(0.2);
	assert_int_equal(o.calls, 0);
	/* Between two attempts, or in one. */
	for (int i = 0; i < 50 && strcmp(probe_status(p), "HTTP 503 from /health") != 0; i++)
		run(0.05);
	assert_string_equal(probe_status(p), "HTTP 503 from /health");
	probe_free(p);
	stop_worker(worker);
	world_stop(&world);
}

/* A server that waits for the client's first byte is not reached by a connection that says nothing.
 */
static void test_deferred(void **state)
{
	struct address address = ip_address("127.0.0.1", false);
	struct listener_set *set;
	struct outcome o;
	struct probe *p;
	pid_t worker;
	int fd, seconds = 30;

	start(&address, *state != NULL);
	set = open_set(&world, 1);
	fd = fd_of(set, 0);
	assert_return_code(
	        setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof seconds), errno);
	worker = start_worker(set, 1);
	p = begin(set, PROBE_ACCEPTED, NULL, &o);
	run(5);
	stop_worker(worker);
	assert_int_equal(o.calls, 1);
	assert_true(o.ok);
	probe_free(p);
	world_stop(&world);
}

static void test_never(void **state)
{
	struct address shared = {
	        .kind = ADDRESS_ABSTRACT, .path = "handoffd-probe", .text = "unix:@handoffd-probe"};
	struct listener_set *a;
	struct outcome o;
	struct probe *p = NULL;

	start(&shared, *state != NULL);
	a = open_set(&world, 1);
	assert_int_equal(
	        probe_new(world.loop, a, 0, PROBE_HTTP, "/a b", on_done, &o, &p, NULL), -EINVAL);
	assert_int_equal(
	        probe_new(world.loop, a, 0, PROBE_HTTP, "x", on_done, &o, &p, NULL), -EINVAL);
	p = begin(a, PROBE_ACCEPTED, NULL, &o);
	run(0.02);
	assert_int_equal(o.calls, 0);
	/* The probe's socket waits; taken as the only generation. */
	assert_int_equal(take_all(fd_of(a, 0)), 1);
	run(2);
	assert_int_equal(o.calls, 1);
	probe_free(p);
	open_set(&world, 2);
	p = begin(a, PROBE_ACCEPTED, NULL, &o);
	run(2);
	assert_int_equal(o.calls, 1);
	assert_false(o.ok);
	probe_free(p);
	world_stop(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        {"test_accepted", test_accepted, NULL, NULL, NULL},
	        {"test_accepted (cbpf)", test_accepted, NULL, NULL, (void *)1},
	        {"test_given_up", test_given_up, NULL, NULL, NULL},
	        {"test_given_up (cbpf)", test_given_up, NULL, NULL, (void *)1},
	        {"test_accepted_dual", test_accepted_dual, NULL, NULL, NULL},
	        cmocka_unit_test(test_accepted_unix),
	        {"test_http", test_http, NULL, NULL, NULL},
	        {"test_http (cbpf)", test_http, NULL, NULL, (void *)1},
	        cmocka_unit_test(test_http_status),
	        {"test_deferred", test_deferred, NULL, NULL, NULL},
	        {"test_deferred (cbpf)", test_deferred, NULL, NULL, (void *)1},
	        cmocka_unit_test(test_never),
	};

	own_network();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
