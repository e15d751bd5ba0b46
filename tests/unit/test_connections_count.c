/* SPDX-License-Identifier: MIT */
/* Whose connections are they? Generations beside each other on one port, every kind of address. */
#include "test_connections.h"

/* Two generations on one address; ends with their numbers checked in one call. */
static void two_generations(
        struct lab *l, const char *ip, bool only6, const char *const *clients, size_t n_clients)
{
	struct endpoint_list list = {0};
	struct inflight n[2] = {{0}};
	int old = tcp_listener(ip, PORT, 3, only6), young, fd[2 * 18], i;
	size_t k = 0;

	steer(old, 0);
	young = tcp_listener(ip, PORT, 12, only6);
	for (i = 0; i < 10; i++) {
		fd[k++] = client(clients[(size_t)i % n_clients], PORT);
		fd[k++] = accepted(old);
	}
	for (i = 0; i < 3; i++)
		fd[k++] = client(clients[(size_t)i % n_clients], PORT);
	steer(old, 1);
	for (i = 0; i < 5; i++) {
		fd[k++] = client(clients[(size_t)i % n_clients], PORT);
		fd[k++] = accepted(young);
	}
	assert_int_equal(endpoint_list_add(&list, &l->c->diag, old, false, 3, "http", 0), 0);
	assert_int_equal(endpoint_list_add(&list, &l->c->diag, young, false, 12, "http", 1), 0);
	assert_int_equal(count_endpoints(l->c, list.items, list.n, n, 2), 0);
	assert_int_equal(n[0].total, 13);
	assert_int_equal(n[0].queued, 3);
	assert_int_equal(n[1].total, 5);
	assert_int_equal(n[1].queued, 0);
	endpoint_list_done(&list);
	while (k)
		(void)close(fd[--k]);
	(void)close(old);
	(void)close(young);
}

static void test_ipv4(void **state)
{
	two_generations(*state, "0.0.0.0", false, (const char *[]){"127.0.0.1", "127.0.0.9"}, 2);
}

static void test_ipv4_one_address(void **state)
{
	two_generations(*state, "127.0.0.1", false, (const char *[]){"127.0.0.1"}, 1);
}

static void test_ipv6(void **state)
{
	two_generations(*state, "::", true, (const char *[]){"::1"}, 1);
}

static void test_dual_stack(void **state)
{
	two_generations(*state, "::", false, (const char *[]){"::1", "127.0.0.1", "127.0.0.7"}, 3);
}

static void test_unprivileged(void **state)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		if (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534))
			_exit(77);
		test_dual_stack(state);
		test_ipv4(state);
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

/* The same tag on 127.0.0.2:P and 0.0.0.0:P: the address of its own comes first. */
static void test_address_inside_wildcard(void **state)
{
	struct lab *l = *state;
	struct endpoint_list list = {0};
	struct inflight n[2] = {{0}};
	int all = tcp_listener("0.0.0.0", PORT, 3, false);
	int one = tcp_listener("127.0.0.2", PORT, 3, false);
	int fd[] = {client("127.0.0.1", PORT), accepted(all), client("127.0.0.2", PORT),
	        client("127.0.0.2", PORT), accepted(one)};
	size_t i;

	assert_int_equal(endpoint_list_add(&list, &l->c->diag, all, false, 3, "http", 0), 0);
	assert_int_equal(endpoint_list_add(&list, &l->c->diag, one, false, 3, "http", 1), 0);
	assert_int_equal(count_endpoints(l->c, list.items, list.n, n, 2), 0);
	assert_int_equal(n[0].total, 1);
	assert_int_equal(n[1].total, 2);
	assert_int_equal(n[1].queued, 1);
	endpoint_list_done(&list);
	for (i = 0; i < ARRAY_SIZE(fd); i++)
		(void)close(fd[i]);
	(void)close(all);
	(void)close(one);
}

/* `n` ports with a connection each, and one more that is nobody's business. */
static void many_ports(struct lab *l, size_t n)
{
	struct endpoint_list list = {0};
	struct inflight total = {0};
	int fd[3 * 41];
	size_t i, k = 0;

	for (i = 0; i <= n; i++) {
		fd[k++] = tcp_listener("127.0.0.1", (uint16_t)(PORT + i), 1, false);
		fd[k++] = client("127.0.0.1", (uint16_t)(PORT + i));
		fd[k] = accepted(fd[k - 2]);
		k++;
		if (i < n)
			assert_int_equal(endpoint_list_add(&list, &l->c->diag, fd[k - 3], false, 1,
			                         "http", 0),
			        0);
	}
	assert_int_equal(count_endpoints(l->c, list.items, list.n, &total, 1), 0);
	assert_int_equal(total.total, n);
	endpoint_list_done(&list);
	while (k)
		(void)close(fd[--k]);
}

static void test_many_ports(void **state)
{
	many_ports(*state, 1);
	many_ports(*state, 2);
	many_ports(*state, 32); /* the most that the kernel filters */
	many_ports(*state, 40);
}

static void test_held_by_a_child(void **state)
{
	struct lab *l = *state;
	int listener = tcp_listener("127.0.0.1", PORT, 5, false), go[2], status;
	int c = client("127.0.0.1", PORT), a = accepted(listener);
	char byte;
	pid_t pid;

	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		(void)close(go[1]);
		_exit(read(go[0], &byte, 1) != 0);
	}
	(void)close(a);
	assert_int_equal(count_one(l, listener, 5).total, 1);
	(void)close(go[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(count_one(l, listener, 5).total, 0);
	(void)close(go[0]);
	(void)close(c);
	(void)close(listener);
}

static void test_how_it_ends(void **state)
{
	struct lab *l = *state;
	int listener = tcp_listener("127.0.0.1", PORT, 5, false), c, a;
	char buffer[4096] = {0};

	/* Half-closed by the worker, or by the client, it is still in flight. */
	c = client("127.0.0.1", PORT);
	a = accepted(listener);
	assert_int_equal(shutdown(a, SHUT_WR), 0);
	assert_int_equal(count_one(l, listener, 5).total, 1);
	(void)close(a);
	assert_int_equal(count_one(l, listener, 5).total, 0);
	(void)close(c);
	c = client("127.0.0.1", PORT);
	a = accepted(listener);
	assert_int_equal(shutdown(c, SHUT_WR), 0);
	assert_int_equal(count_one(l, listener, 5).total, 1);
	/* Shut down by both, nothing can be sent any more. */
	assert_int_equal(shutdown(a, SHUT_WR), 0);
	assert_int_equal(count_one(l, listener, 5).total, 0);
	(void)close(a);
	(void)close(c);
	/* Closed by the client alone: the worker has yet to read the end. */
	c = client("127.0.0.1", PORT);
	(void)close(c);
	assert_int_equal(count_one(l, listener, 5).total, 1);
	a = accepted(listener);
	assert_int_equal(count_one(l, listener, 5).total, 1);
	assert_int_equal(count_one(l, listener, 5).queued, 0);
	(void)close(a);
	assert_int_equal(count_one(l, listener, 5).total, 0);
	/* Closed by the worker while the client does not read: the kernel's business. */
	c = client("127.0.0.1", PORT);
	a = accepted(listener);
	assert_int_equal(fcntl(a, F_SETFL, O_NONBLOCK), 0);
	while (write(a, buffer, sizeof buffer) > 0)
		;
	(void)close(a);
	assert_int_equal(count_one(l, listener, 5).total, 0);
	reset_on_close(c);
	(void)close(c);
	(void)close(listener);
}

static void test_udp_has_none(void **state)
{
	struct lab *l = *state;
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(count_one(l, fd, TAG_NONE).total, 0);
	(void)close(fd);
}

struct process {
	pid_t pid;
};

static void list_process(void *data, void (*each)(pid_t pid, void *arg), void *arg)
{
	each(((const struct process *)data)->pid, arg);
	each(INT32_MAX, arg); /* gone long ago */
}

/* One listener for two generations: a child holds two connections, we hold one, one is queued. */
static void shared_listener(struct lab *l, int listener, int (*connect_one)(void))
{
	struct endpoint_list list = endpoint_of(l, listener, true, TAG_NONE);
	struct cookie_set held = {0};
	struct inflight n = {0};
	struct process process;
	int c[4], a[3], go[2], status, i;
	char byte;

	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	for (i = 0; i < 4; i++)
		c[i] = connect_one();
	a[0] = accepted(listener);
	a[1] = accepted(listener);
	process.pid = fork();
	assert_true(process.pid >= 0);
	if (!process.pid) {
		(void)close(go[1]);
		_exit(read(go[0], &byte, 1) != 0);
	}
	(void)close(a[0]);
	(void)close(a[1]);
	a[2] = accepted(listener);
	assert_int_equal(held_inodes(list_process, &process, &held), 0);
	list.items[0].held = &held;
	assert_int_equal(count_endpoints(l->c, list.items, 1, &n, 1), 0);
	assert_int_equal(n.total, 2);
	assert_int_equal(n.queued, 0);
	/* Nobody knows whose they are: then all of them. */
	list.items[0].held = NULL;
	assert_int_equal(count_endpoints(l->c, list.items, 1, &n, 1), 0);
	assert_int_equal(n.total, 4);
	(void)close(go[1]);
	assert_int_equal(waitpid(process.pid, &status, 0), process.pid);
	assert_int_equal(status, 0);
	for (i = 0; i < 4; i++)
		(void)close(c[i]);
	(void)close(go[0]);
	(void)close(a[2]);
	(void)close(listener);
	cookie_set_done(&held);
	endpoint_list_done(&list);
}

static int connect_tcp(void)
{
	return client("127.0.0.1", PORT);
}

static struct sockaddr_un abstract = {.sun_family = AF_UNIX, .sun_path = "\0handoff-test"};
#define ABSTRACT_LEN (offsetof(struct sockaddr_un, sun_path) + 13)

static int connect_abstract(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&abstract, ABSTRACT_LEN), 0);
	return fd;
}

static void test_shared_tcp(void **state)
{
	shared_listener(*state, tcp_listener("127.0.0.1", PORT, TAG_NONE, false), connect_tcp);
}

static void test_shared_abstract(void **state)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&abstract, ABSTRACT_LEN), 0);
	assert_int_equal(listen(fd, 16), 0);
	shared_listener(*state, fd, connect_abstract);
}

static void test_list(void **state)
{
	struct lab *l = *state;
	int listener = tcp_listener("::", PORT, 5, false), c[6], a[6], i;
	struct endpoint_list list = endpoint_of(l, listener, false, 5);
	struct connection_info info[6];
	struct drain_watch *w = NULL;
	char peer[6][64];
	struct sockaddr_in6 me;
	socklen_t n;
	size_t count;

	for (i = 0; i < 6; i++) {
		c[i] = client(i % 2 ? "127.0.0.1" : "::1", PORT);
		a[i] = i < 5 ? accepted(listener) : -1;
		n = sizeof me;
		assert_int_equal(getsockname(c[i], (struct sockaddr *)&me, &n), 0);
		(void)snprintf(peer[i], sizeof peer[i], i % 2 ? "127.0.0.1:%u" : "[::1]:%u",
		        ntohs(me.sin6_port));
		if (i == 1)
			w = watch(l, endpoint_of(l, listener, false, 5), USEC_INFINITY);
	}
	assert_int_equal(write(c[0], "hello", 5), 5);
	assert_int_equal(list_endpoints(l->c, list.items, 1, w, info, 6, &count), 0);
	assert_int_equal(count, 6);
	for (i = 0; i < 6; i++) {
		size_t k;

		for (k = 0; k < 6 && strcmp(info[k].peer, peer[i]) != 0; k++)
			;
		assert_true(k < 6);
		assert_string_equal(info[k].listener, "http");
		/* Only the first two had been there when the watch began; of the others no more is
		 * known than for how long they have been idle. */
		assert_true(i < 2 ? info[k].age > 0 : info[k].age == info[k].idle);
		assert_int_equal(info[k].queued_in, i ? 0 : 5);
		assert_int_equal(info[k].inode != 0, i < 5);
		assert_true(info[k].idle < 60 * USEC_PER_SEC);
	}
	assert_int_equal(list_endpoints(l->c, list.items, 1, w, info, 2, &count), 0);
	assert_int_equal(count, 2);
	assert_true(info[0].age > 0 && info[1].age > 0);
	assert_int_equal(list_endpoints(l->c, list.items, 1, w, info, 0, &count), 0);
	assert_int_equal(count, 0);
	drain_watch_free(w);
	endpoint_list_done(&list);
	for (i = 0; i < 6; i++) {
		(void)close(c[i]);
		if (a[i] >= 0)
			(void)close(a[i]);
	}
	(void)close(listener);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, lab_setup, lab_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_ipv4),
	        TEST(test_ipv4_one_address),
	        TEST(test_ipv6),
	        TEST(test_dual_stack),
	        TEST(test_unprivileged),
	        TEST(test_address_inside_wildcard),
	        TEST(test_many_ports),
	        TEST(test_held_by_a_child),
	        TEST(test_how_it_ends),
	        TEST(test_udp_has_none),
	        TEST(test_shared_tcp),
	        TEST(test_shared_abstract),
	        TEST(test_list),
	};

	own_network();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
