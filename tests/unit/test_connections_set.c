/* SPDX-License-Identifier: MIT */
/* The whole of it with real listener sets: two generations of a service on every kind of address.
 */
#include "test_connections.h"

static char path[] = "/tmp/handoff-test-XXXXXX";
static char socket_path[64];

static void listener_at(struct listener_config *l, struct config *c, enum address_kind kind,
        const char *name, const char *text)
{
	*l = (struct listener_config){.name = name,
	        .backlog = 128,
	        .mode = 0666,
	        .address = {.kind = kind, .port = PORT, .text = config_strdup(c, text)}};
	assert_non_null(l->address.text);
}

static struct config *make_config(const struct service_config **ret)
{
	struct config *c = config_new();
	struct service_config *s;
	struct listener_config *l;

	assert_non_null(c);
	s = config_alloc(c, sizeof *s);
	l = config_alloc(c, 4 * sizeof *l);
	assert_true(s && l);
	service_config_defaults(s);
	s->name = "web";
	s->listeners = l;
	s->n_listeners = 4;
	listener_at(&l[0], c, ADDRESS_TCP, "http", "tcp:127.0.0.1:8080");
	assert_int_equal(inet_pton(AF_INET, "127.0.0.1", l[0].address.ip), 1);
	listener_at(&l[1], c, ADDRESS_TCP, "any", "tcp:[::]:8081");
	l[1].address.ipv6 = l[1].address.dual = true;
	l[1].address.port = PORT + 1;
	listener_at(&l[2], c, ADDRESS_UNIX, "local", "unix:web.sock");
	l[2].address.path = socket_path;
	listener_at(&l[3], c, ADDRESS_UDP, "datagrams", "udp:127.0.0.1:8080");
	assert_int_equal(inet_pton(AF_INET, "127.0.0.1", l[3].address.ip), 1);
	c->services = s;
	c->n_services = 1;
	*ret = s;
	return c;
}

static int unix_client(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)snprintf(a.sun_path, sizeof a.sun_path, "%s", socket_path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
	return fd;
}

#define EACH 4

/* One connection on every address, taken by the set that is steered to. */
static void connect_each(const struct listener_set *set, int c[EACH], int a[EACH])
{
	static const size_t which[EACH] = {0, 1, 1, 2};
	int i;

	c[0] = client("127.0.0.1", PORT);
	c[1] = client("::1", PORT + 1);
	c[2] = client("127.0.0.1", PORT + 1);
	c[3] = unix_client();
	for (i = 0; i < EACH; i++)
		a[i] = accepted(listener_set_info(set, which[i]).fd);
}

static void close_each(int c[EACH], int a[EACH])
{
	int i;

	for (i = 0; i < EACH; i++) {
		c[i] = close_fd(c[i]);
		a[i] = close_fd(a[i]);
	}
}

static void turn(struct sockets *s, struct listener_set *old, struct listener_set *young)
{
	const struct share shares[] = {{old, 0}, {young, SHARE_ALL}};
	struct ho_error e = {0};

	if (sockets_steer(s, shares, 2, false, &e) < 0)
		fail_msg("%s", e.text);
}

static void check_listed(struct lab *l, struct listener_set *set, bool watched)
{
	struct connection_info info[8];
	size_t n, i, unix_ones = 0;

	assert_int_equal(connections_list(l->c, set, info, ARRAY_SIZE(info), &n), 0);
	assert_int_equal(n, EACH);
	for (i = 0; i < n; i++) {
		if (watched || info[i].idle == USEC_INFINITY)
			assert_int_equal(info[i].age > 0, watched);
		else
			assert_true(info[i].age >= info[i].idle);
		unix_ones += !strcmp(info[i].peer, "unix") && !strcmp(info[i].listener, "local");
	}
	assert_int_equal(unix_ones, 1);
}

static void drain(struct lab *l, struct listener_set *set, int c[EACH], int a[EACH])
{
	const struct drain_watch_options options = {.idle_after = USEC_INFINITY};
	struct quiet_check *q;
	struct drain_watch *w;
	struct inflight n;
	const usec_t begun = now_usec();
	int r;

	assert_int_equal(quiet_check_new(l->c, set, &q), 0);
	do
		r = quiet_check_again(q, &n);
	while (!r && now_usec() - begun < USEC_PER_SEC);
	assert_int_equal(r, 1);
	quiet_check_free(q);
	assert_int_equal(drain_watch_new(l->c, set, &options, on_report, l, &w, NULL), 0);
	l->reports = 0;
	until(l, l->reports);
	assert_int_equal(l->now.total, EACH);
	check_listed(l, set, true);
	assert_int_equal(connections_count(l->c, &set, 1, NULL, NULL, &n, NULL), 0);
	assert_int_equal(n.total, EACH);
	assert_true(n.oldest > 0);
	close_each(c, a);
	until(l, l->now.total == 0);
	drain_watch_free(w);
}

static void with_steering(struct lab *l, bool no_ebpf)
{
	const struct sockets_options options = {.no_ebpf = no_ebpf};
	const struct service_config *service;
	struct config *config = make_config(&service);
	struct listener_set *set[2];
	int c[2][EACH], a[2][EACH];
	struct inflight n[2];
	struct sockets *s;
	struct ho_error e = {0};
	uint32_t i;

	if (sockets_new(l->loop, &options, &s, &e) < 0)
		fail_msg("%s", e.text);
	for (i = 0; i < 2; i++) {
		if (listener_set_open(s, config, service, i + 1, &set[i], &e) < 0)
			fail_msg("%s", e.text);
		if (i)
			turn(s, set[0], set[1]);
		connect_each(set[i], c[i], a[i]);
	}
	if (connections_count(l->c, set, 2, NULL, NULL, n, &e) < 0)
		fail_msg("%s", e.text);
	for (i = 0; i < 2; i++) {
		assert_int_equal(n[i].total, EACH);
		assert_int_equal(n[i].queued, 0);
		check_listed(l, set[i], false);
	}
	drain(l, set[0], c[0], a[0]);
	close_each(c[1], a[1]);
	listener_set_close(set[0]);
	listener_set_close(set[1]);
	sockets_free(s);
	config_unref(config);
}

static void test_best_steering(void **state)
{
	with_steering(*state, false);
}

static void test_classic_steering(void **state)
{
	with_steering(*state, true);
}

static int remove_directory(void **state)
{
	(void)state;
	return rmdir(path);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, lab_setup, lab_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_best_steering),
	        TEST(test_classic_steering),
	};

	own_network();
	if (!mkdtemp(path))
		return 1;
	(void)snprintf(socket_path, sizeof socket_path, "%s/web.sock", path);
	return cmocka_run_group_tests(tests, NULL, remove_directory);
}
