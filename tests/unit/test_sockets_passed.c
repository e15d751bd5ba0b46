/* SPDX-License-Identifier: MIT */
/* Sockets that systemd opened: their queues are served, they are steered where that is possible,
 * and they work without us when we are gone. */
#include "test_sockets_fixture.h"

static struct world world;
static const struct address systemd_http = {
        .kind = ADDRESS_SYSTEMD, .path = "http", .text = "systemd:http"};

/* As systemd makes it: without SO_REUSEPORT. */
static int tcp_listener(const char *ip)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	int one = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, ip, &a.sin_addr);
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	assert_int_equal(bind(s, (void *)&a, sizeof a), 0);
	assert_int_equal(listen(s, 128), 0);
	return s;
}

/* A test that fails leaves no listener to the next one. */
static int clean_up(void **state)
{
	(void)state;
	if (world.sockets)
		world_stop(&world);
	return 0;
}

static void begin(void **state, int *fds, char **names, int n)
{
	struct sockets_options o = {
	        .no_ebpf = *state != NULL, .n_passed = n, .passed_names = names};
	int copies[8];

	for (int i = 0; i < n; i++)
		copies[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
	o.passed = copies;
	world_start(&world, &o, &systemd_http, 1);
}

static void expect(int fd, unsigned n, int other)
{
	for (unsigned i = 0; i < n; i++) {
		int c = connect_from(NULL, "127.0.0.1");

		if (c < 0)
			fail_msg("connect: %s", strerror(-c));
		close(c);
	}
	assert_int_equal(take_all(fd), n);
	if (other >= 0)
		assert_int_equal(take_all(other), 0);
}

static void test_upgraded(void **state)
{
	char *names[] = {(char *)"http"};
	int s = tcp_listener("127.0.0.1"), queued[5];
	struct listener_set *a, *b, *c;

	for (int i = 0; i < 5; i++)
		queued[i] = connect_from(NULL, "127.0.0.1");
	/* Twice: the second handoffd finds what the first one left. */
	for (int round = 0; round < 2; round++) {
		begin(state, &s, names, 1);
		a = open_set(&world, 1);
		if (round == 0)
			assert_int_equal(take_all(fd_of(a, 0)), 5);
		assert_int_equal(listener_set_info(a, 0).origin, ORIGIN_SYSTEMD);
		assert_int_equal(
		        listener_set_info(a, 0).steering, *state ? STEERING_CBPF : STEERING_EBPF);
		expect(fd_of(a, 0), 20, -1);
		b = open_set(&world, 2);
		assert_int_not_equal(listener_set_info(a, 0).tag, listener_set_info(b, 0).tag);
		expect(fd_of(a, 0), 20, fd_of(b, 0));
		steer(&world, b, SHARE_ALL, a, false);
		expect(fd_of(b, 0), 20, fd_of(a, 0));
		listener_set_close(a);
		expect(fd_of(b, 0), 20, -1);
		c = open_set(&world, 3);
		expect(fd_of(b, 0), 20, fd_of(c, 0));
		steer(&world, c, SHARE_ALL, b, false);
		expect(fd_of(c, 0), 20, fd_of(b, 0));
		listener_set_close(b);
		expect(fd_of(c, 0), 20, -1);
		world_stop(&world);
		fcntl(s, F_SETFL, O_NONBLOCK);
		expect(s, 50, -1);
	}
	for (int i = 0; i < 5; i++)
		close(queued[i]);
	close(s);
}

static void test_flip_under_load(void **state)
{
	char *names[] = {(char *)"http"};
	int s = tcp_listener("127.0.0.1");
	struct listener_set *sets[41];
	pid_t workers[41], client;
	struct load *l = load_new();

	begin(state, &s, names, 1);
	l->at_least = l->at_most = 1;
	sets[1] = open_set(&world, 1);
	workers[1] = start_worker(sets[1], 1);
	client = start_client(l, "127.0.0.1");
	for (uint32_t g = 2; g <= 40; g++) {
		sets[g] = open_set(&world, g);
		workers[g] = start_worker(sets[g], g);
		l->at_most = g;
		steer(&world, sets[g], SHARE_ALL, sets[g - 1], false);
		l->at_least = g;
		wait_quiet(sets[g - 1], 0);
		stop_worker(workers[g - 1]);
		listener_set_close(sets[g - 1]);
	}
	l->stop = true;
	waitpid(client, NULL, 0);
	stop_worker(workers[40]);
	print_message("%lu connections\n", l->ok);
	assert_int_equal(l->failed, 0);
	assert_int_equal(l->wrong, 0);
	assert_int_equal(l->slow, 0);
	world_stop(&world);
	munmap(l, sizeof *l);
	close(s);
}

static void report(const char *name, void *data)
{
	strcat(data, name);
	strcat(data, " ");
}

static void test_several_of_one_name(void **state)
{
	char *names[] = {(char *)"other", (char *)"http", (char *)"http", (char *)"http"};
	char unclaimed[100] = "";
	int fds[4] = {socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), tcp_listener("127.0.0.1"),
	        tcp_listener("127.0.0.2"), socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
	struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = "\0handoffd-test-passed"};
	struct listener_set *a, *b;

	assert_int_equal(bind(fds[3], (void *)&un, sizeof un), 0);
	assert_int_equal(listen(fds[3], 5), 0);
	begin(state, fds, names, 4);
	a = open_set(&world, 1);
	b = open_set(&world, 2);
	assert_int_equal(listener_set_count(a), 3);
	assert_int_equal(listener_set_info(b, 1).steering, *state ? STEERING_CBPF : STEERING_EBPF);
	assert_int_equal(listener_set_info(b, 2).steering, STEERING_SHARED);
	steer(&world, b, SHARE_ALL, a, false);
	expect(fd_of(b, 0), 5, fd_of(a, 0));
	close(connect_from(NULL, "127.0.0.2"));
	assert_int_equal(take_all(fd_of(b, 1)), 1);
	sockets_unclaimed(world.sockets, world.config, report, unclaimed);
	assert_string_equal(unclaimed, "other ");
	world_stop(&world);
	for (int i = 0; i < 4; i++)
		close(fds[i]);
}

static void refused(void **state, int fd, const char *name, const char *why)
{
	char *names[] = {(char *)name};
	struct listener_set *set;
	struct ho_error e;

	begin(state, &fd, names, 1);
	assert_true(listener_set_open(world.sockets, world.config, world.service, 1, &set, &e) < 0);
	if (!strstr(e.text, why))
		fail_msg("%s", e.text);
	world_stop(&world);
	close(fd);
}

static void test_refused(void **state)
{
	refused(state, open("/dev/null", O_RDWR | O_CLOEXEC), "http", "it is not a socket");
	refused(state, socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "http",
	        "it does not listen");
	refused(state, tcp_listener("127.0.0.1"), "web",
	        "systemd passed no descriptor of this name");
}

int main(void)
{
#define BOTH(f)                                                                                    \
	{#f " (ebpf)", f, NULL, clean_up, NULL},                                                   \
	{                                                                                          \
#f " (cbpf)", f, NULL, NULL, (void *)1                                             \
	}
	const struct CMUnitTest tests[] = {
	        BOTH(test_upgraded),
	        BOTH(test_flip_under_load),
	        BOTH(test_several_of_one_name),
	        cmocka_unit_test(test_refused),
	};

	own_network();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
