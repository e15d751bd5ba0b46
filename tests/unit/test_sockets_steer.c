/* SPDX-License-Identifier: MIT */
/* TCP groups with both programs: which generation gets a connection, and that none is lost. */
#include "test_sockets_fixture.h"

#include <linux/filter.h>

#define FLIPS 60

static struct world world;

/* A test that fails leaves no listener to the next one. */
static int clean_up(void **state)
{
	(void)state;
	if (world.sockets)
		world_stop(&world);
	return 0;
}

static void begin(void **state, const char *ip, bool dual)
{
	const struct sockets_options o = {.no_ebpf = *state != NULL};
	struct address a = ip_address(ip, dual);

	world_start(&world, &o, &a, 1);
	if (!o.no_ebpf && sockets_steering(world.sockets) != STEERING_EBPF) {
		world_stop(&world);
		print_message("no CAP_BPF here\n");
		skip();
	}
}

static void expect(int fd, const char *ip, unsigned n, int other)
{
	for (unsigned i = 0; i < n; i++) {
		int c = connect_from(NULL, ip);

		if (c < 0)
			fail_msg("connect: %s", strerror(-c));
		close(c);
	}
	assert_int_equal(take_all(fd), n);
	if (other >= 0)
		assert_int_equal(take_all(other), 0);
}

static void test_first_waits(void **state)
{
	struct listener_set *a, *b;

	begin(state, "127.0.0.1", false);
	a = open_set(&world, 1);
	expect(fd_of(a, 0), "127.0.0.1", 20, -1);
	b = open_set(&world, 2);
	expect(fd_of(a, 0), "127.0.0.1", 20, fd_of(b, 0));
	steer(&world, b, SHARE_ALL, a, false);
	expect(fd_of(b, 0), "127.0.0.1", 20, fd_of(a, 0));
	steer(&world, a, SHARE_ALL, b, false);
	expect(fd_of(a, 0), "127.0.0.1", 20, fd_of(b, 0));
	world_stop(&world);
}

/* Every generation is replaced while clients never pause; the old one is closed when it is quiet.
 */
static void flip_under_load(void **state, unsigned keep)
{
	struct listener_set *sets[FLIPS + 2] = {0};
	pid_t workers[FLIPS + 2] = {0}, clients[2];
	struct load *l = load_new();
	uint32_t g = 1, oldest = 1;

	begin(state, "127.0.0.1", false);
	sets[1] = open_set(&world, 1);
	workers[1] = start_worker(sets[1], 1);
	l->at_least = l->at_most = 1;
	for (int i = 0; i < 2; i++)
		clients[i] = start_client(l, "127.0.0.1");
	while (g < FLIPS) {
		g++;
		sets[g] = open_set(&world, g);
		workers[g] = start_worker(sets[g], g);
		l->at_most = g;
		steer(&world, sets[g], SHARE_ALL, sets[g - 1], false);
		l->at_least = g;
		poll(NULL, 0, 2);
		/* Old ones go in an order that is not theirs: every second time the second oldest.
		 */
		while (g - oldest >= keep) {
			uint32_t victim =
			        (g & 1) && sets[oldest + 1] && oldest + 1 < g ? oldest + 1 : oldest;

			wait_quiet(sets[victim], 0);
			stop_worker(workers[victim]);
			sets[victim] = listener_set_close(sets[victim]);
			while (oldest < g && !sets[oldest])
				oldest++;
			if (victim != oldest && g - oldest >= keep && victim > oldest)
				break;
		}
	}
	l->stop = true;
	for (int i = 0; i < 2; i++)
		waitpid(clients[i], NULL, 0);
	print_message("%lu connections, %u flips\n", l->ok, g - 1);
	assert_int_equal(l->failed, 0);
	assert_int_equal(l->wrong, 0);
	assert_int_equal(l->slow, 0);
	assert_true(l->ok > 1000);
	for (uint32_t i = oldest; i <= g; i++)
		if (sets[i])
			stop_worker(workers[i]);
	world_stop(&world);
	munmap(l, sizeof *l);
}

static void test_flip_under_load(void **state)
{
	flip_under_load(state, 1);
}

static void test_flip_with_many_old_ones(void **state)
{
	flip_under_load(state, 4);
}

/* No member may be led astray when another leaves, whatever its place in the group is. */
static void test_close_in_any_order(void **state)
{
	for (unsigned serving = 0; serving < 4; serving++) {
		for (unsigned order = 0; order < 6; order++) {
			struct listener_set *sets[4], *victims[3];
			unsigned n = 0;

			begin(state, "127.0.0.1", false);
			for (unsigned i = 0; i < 4; i++)
				sets[i] = open_set(&world, i + 1);
			steer(&world, sets[serving], SHARE_ALL, sets[serving ? 0 : 1], false);
			for (unsigned i = 0; i < 4; i++)
				if (i != serving)
					victims[n++] = sets[i];
			for (unsigned i = 0; i < 3; i++) {
				unsigned k = i == 0   ? order % 3
				             : i == 1 ? (order % 3 + 1 + order / 3) % 3
				                      : 0;
				struct listener_set *v = i < 2 ? victims[k] : NULL;

				for (unsigned j = 0; !v && j < 3; j++)
					v = victims[j];
				for (unsigned j = 0; j < 3; j++)
					if (victims[j] == v)
						victims[j] = NULL;
				listener_set_close(v);
				expect(fd_of(sets[serving], 0), "127.0.0.1", 12, -1);
				if (order == 0) {
					struct listener_set *extra = open_set(&world, 9 + i);

					expect(fd_of(sets[serving], 0), "127.0.0.1", 12,
					        fd_of(extra, 0));
					listener_set_close(extra);
				}
			}
			expect(fd_of(sets[serving], 0), "127.0.0.1", 12, -1);
			world_stop(&world);
		}
	}
}

static void test_share(void **state)
{
	const unsigned n = 20000;
	struct listener_set *a, *b;
	unsigned got_a = 0, got_b = 0;

	begin(state, "127.0.0.1", false);
	a = open_set(&world, 1);
	b = open_set(&world, 2);
	steer(&world, b, SHARE_ALL / 20, a, false);
	for (unsigned i = 0; i < n; i++) {
		int c = connect_from(NULL, "127.0.0.1");

		assert_true(c >= 0);
		got_a += take_all(fd_of(a, 0));
		got_b += take_all(fd_of(b, 0));
		close(c);
	}
	print_message("%u of %u to the canary\n", got_b, n);
	assert_int_equal(got_a + got_b, n);
	assert_in_range(got_b, 1000 - 155, 1000 + 155); /* five standard deviations */
	world_stop(&world);
}

/* Of three: each its part. */
static void test_three_shares(void **state)
{
	struct listener_set *sets[3];
	struct share shares[3];
	unsigned got[3] = {0};

	begin(state, "127.0.0.1", false);
	for (unsigned i = 0; i < 3; i++) {
		sets[i] = open_set(&world, i + 1);
		shares[i] = (struct share){sets[i], i == 0 ? 2000 : i == 1 ? 3000 : 5000};
	}
	assert_int_equal(sockets_steer(world.sockets, shares, 3, false, NULL), 0);
	for (unsigned i = 0; i < 4000; i++) {
		int c = connect_from(NULL, "127.0.0.1");

		for (unsigned k = 0; k < 3; k++)
			got[k] += take_all(fd_of(sets[k], 0));
		close(c);
	}
	assert_true(got[0] > 640 && got[0] < 960);
	assert_true(got[1] > 1000 && got[1] < 1400);
	assert_int_equal(got[0] + got[1] + got[2], 4000);
	world_stop(&world);
}

#define CLIENTS 3000

static unsigned ask_all(struct listener_set *a, struct listener_set *b, bool *in_b)
{
	unsigned n = 0;

	for (unsigned i = 0; i < CLIENTS; i++) {
		char from[32];
		int c;

		snprintf(from, sizeof from, "127.1.%u.%u", i / 250, 1 + i % 250);
		c = connect_from(from, "127.0.0.1");
		assert_true(c >= 0);
		in_b[i] = take_all(fd_of(b, 0)) == 1;
		assert_int_equal(take_all(fd_of(a, 0)), in_b[i] ? 0 : 1);
		n += in_b[i];
		close(c);
	}
	return n;
}

static void test_sticky(void **state)
{
	static bool first[CLIENTS], second[CLIENTS], raised[CLIENTS];
	struct listener_set *a, *b;
	unsigned n, m;

	begin(state, "127.0.0.1", false);
	a = open_set(&world, 1);
	b = open_set(&world, 2);
	steer(&world, b, SHARE_ALL / 20, a, true);
	n = ask_all(a, b, first);
	assert_int_equal(ask_all(a, b, second), n);
	assert_memory_equal(first, second, sizeof first);
	assert_true(n > CLIENTS / 20 / 2 && n < CLIENTS / 20 * 2);
	steer(&world, b, SHARE_ALL / 5, a, true);
	m = ask_all(a, b, raised);
	assert_true(m > CLIENTS / 5 * 8 / 10 && m < CLIENTS / 5 * 12 / 10);
	for (unsigned i = 0; i < CLIENTS; i++)
		assert_true(!first[i] || raised[i]);
	world_stop(&world);
}

static void probes(void **state, const char *ip, const char *public_ip, bool dual)
{
	struct listener_set *a, *b;

	begin(state, ip, dual);
	a = open_set(&world, 1);
	b = open_set(&world, 2);
	for (unsigned i = 0; i < 500; i++) {
		struct sockaddr_storage to;
		socklen_t n;
		struct ho_error e;
		int fd, other, public_fd;
		struct pollfd p;

		if (listener_set_probe_begin(b, 0, &fd, &to, &n, &e) < 0)
			fail_msg("probe: %s", e.text);
		assert_int_equal(listener_set_probe_begin(a, 0, &other, &to, &n, NULL), -EBUSY);
		public_fd = connect_from(NULL, public_ip);
		assert_true(public_fd >= 0);
		(void)connect(fd, (void *)&to, n);
		p = (struct pollfd){.fd = fd, .events = POLLOUT};
		assert_int_equal(poll(&p, 1, 2000), 1);
		close(connect_from(NULL, public_ip));
		assert_int_equal(take_all(fd_of(b, 0)), 1);
		assert_int_equal(take_all(fd_of(a, 0)), 2);
		listener_set_probe_end(b, 0);
		close(public_fd);
		close(fd);
	}
	expect(fd_of(a, 0), public_ip, 10, fd_of(b, 0));
	world_stop(&world);
}

static void test_probe_ipv4(void **state)
{
	probes(state, "127.0.0.1", "127.0.0.1", false);
}

static void test_probe_wildcard(void **state)
{
	probes(state, "0.0.0.0", "127.0.0.5", false);
}

static void test_probe_ipv6(void **state)
{
	probes(state, "::1", "::1", false);
}

static void test_probe_dual(void **state)
{
	probes(state, "::", "127.0.0.1", true);
}

/* With no side a client waits, and goes on when there is one again. */
static void test_nobody(void **state)
{
	struct share shares[2] = {0};
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	struct pollfd p = {.events = POLLOUT};

	begin(state, "127.0.0.1", false);
	shares[0].set = open_set(&world, 1);
	assert_int_equal(sockets_steer(world.sockets, shares, 1, false, NULL), 0);
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	p.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(p.fd, (void *)&to, sizeof to), -1);
	assert_int_equal(errno, EINPROGRESS);
	assert_int_equal(poll(&p, 1, 50), 0);
	shares[1].set = open_set(&world, 2);
	assert_int_equal(sockets_steer(world.sockets, shares, 2, false, NULL), 0);
	assert_int_equal(poll(&p, 1, 50), 0);
	listener_set_close(shares[0].set);
	assert_int_equal(poll(&p, 1, 50), 0);
	steer(&world, shares[1].set, SHARE_ALL, NULL, false);
	assert_int_equal(poll(&p, 1, 5000), 1);
	assert_int_equal(take_all(fd_of(shares[1].set, 0)), 1);
	close(p.fd);
	world_stop(&world);
}

/* With eBPF what waits in the queue of a set that is closed moves to the serving one. */
static void test_migration(void **state)
{
	struct listener_set *a, *b;
	int c[10];

	begin(state, "127.0.0.1", false);
	a = open_set(&world, 1);
	b = open_set(&world, 2);
	for (unsigned i = 0; i < 10; i++)
		c[i] = connect_from(NULL, "127.0.0.1");
	steer(&world, b, SHARE_ALL, a, false);
	listener_set_close(a);
	assert_int_equal(take_all(fd_of(b, 0)), 10);
	for (unsigned i = 0; i < 10; i++)
		close(c[i]);
	world_stop(&world);
}

static int plain_listener(bool reuse)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	int one = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), r;

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (reuse)
		setsockopt(s, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
	r = bind(s, (void *)&to, sizeof to) < 0 || listen(s, 5) < 0 ? -errno : s;
	if (r < 0)
		close(s);
	return r;
}

static void test_occupied(void **state)
{
	struct listener_set *set;
	struct ho_error e;
	struct world second;
	const struct sockets_options o = {.no_ebpf = *state != NULL};
	struct address a = ip_address("127.0.0.1", false);
	int s;

	begin(state, "127.0.0.1", false);
	for (int reuse = 0; reuse < 2; reuse++) {
		s = plain_listener(reuse);
		assert_int_equal(
		        listener_set_open(world.sockets, world.config, world.service, 1, &set, &e),
		        -EADDRINUSE);
		assert_string_equal(e.text, "cannot listen on tcp:127.0.0.1:8080 (listener "
		                            "\"http\"): Address already in "
		                            "use by another program; nothing changed");
		close(s);
	}
	open_set(&world, 1);
	world_start(&second, &o, &a, 1);
	assert_int_equal(
	        listener_set_open(second.sockets, second.config, second.service, 1, &set, &e),
	        -EADDRINUSE);
	world_stop(&second);
	world_stop(&world);
}

static void test_careless_worker(void **state)
{
	struct sock_filter f = {.code = BPF_RET | BPF_K};
	struct sock_fprog own = {1, &f};
	struct listener_set *a, *b;
	int zero = 0;

	begin(state, "127.0.0.1", false);
	a = open_set(&world, 1);
	b = open_set(&world, 2);
	assert_int_equal(
	        setsockopt(fd_of(b, 0), SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &own, sizeof own),
	        -1);
	assert_int_equal(errno, EPERM);
	/* A worker of our own uid cannot join. */
	assert_int_equal(plain_listener(true), -EADDRINUSE);
	/* The last of the generations to join is not the last of the group. */
	assert_int_equal(setsockopt(fd_of(b, 0), SOL_SOCKET, SO_REUSEPORT, &zero, sizeof zero), 0);
	expect(fd_of(a, 0), "127.0.0.1", 20, fd_of(b, 0));
	world_stop(&world);
}

/* A worker that shuts the listener of an old generation down. */
static void test_worker_shuts_down(void **state)
{
	struct listener_set *a, *b, *c;

	begin(state, "127.0.0.1", false);
	a = open_set(&world, 1);
	b = open_set(&world, 2);
	c = open_set(&world, 3);
	steer(&world, c, SHARE_ALL, a, false);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(shutdown(fd_of(a, 0), SHUT_RDWR), 0);
		ev_run(world.loop, EVRUN_NOWAIT);
		expect(fd_of(c, 0), "127.0.0.1", 30, fd_of(b, 0));
		/* The serving one lives on as well. */
		assert_int_equal(shutdown(fd_of(c, 0), SHUT_RDWR), 0);
		ev_run(world.loop, EVRUN_NOWAIT);
		expect(fd_of(c, 0), "127.0.0.1", 30, fd_of(b, 0));
	}
	ev_run(world.loop, EVRUN_NOWAIT);
	listener_set_close(a);
	expect(fd_of(c, 0), "127.0.0.1", 30, fd_of(b, 0));
	world_stop(&world);
}

static void test_unprivileged(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	pid = fork();
	if (pid == 0) {
		void *none = NULL;
		struct listener_set *a, *b, *set;
		struct ho_error e;
		struct world second;
		const struct sockets_options o = {0};
		struct address address = ip_address("127.0.0.1", false);

		if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0)
			_exit(77);
		none = &pid;
		begin(&none, "127.0.0.1", false);
		if (sockets_steering(world.sockets) != STEERING_CBPF)
			_exit(2);
		a = open_set(&world, 1);
		b = open_set(&world, 2);
		steer(&world, b, SHARE_ALL, a, false);
		expect(fd_of(b, 0), "127.0.0.1", 20, fd_of(a, 0));
		listener_set_close(a);
		expect(fd_of(b, 0), "127.0.0.1", 20, -1);
		world_stop(&world);
		test_nobody(&none);
		begin(&none, "::", true);
		open_set(&world, 1);
		address = ip_address("::", true);
		/* A second one of the same user is refused as well. */
		world_start(&second, &o, &address, 1);
		if (listener_set_open(second.sockets, second.config, second.service, 1, &set, &e) !=
		        -EADDRINUSE)
			_exit(3);
		second.service->listeners[0].address.port = 80;
		if (listener_set_open(second.sockets, second.config, second.service, 1, &set, &e) !=
		                -EACCES ||
		        !strstr(e.text, "needs CAP_NET_BIND_SERVICE"))
			_exit(4);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void test_too_many_generations(void **state)
{
	struct listener_set *sets[15], *one;
	struct ho_error e;

	begin(state, "127.0.0.1", false);
	for (unsigned i = 0; i < 15; i++) {
		sets[i] = open_set(&world, i + 1);
		for (unsigned k = 0; k < i; k++)
			assert_int_not_equal(listener_set_info(sets[i], 0).tag,
			        listener_set_info(sets[k], 0).tag);
	}
	assert_int_equal(
	        listener_set_open(world.sockets, world.config, world.service, 16, &one, &e),
	        -EUSERS);
	for (unsigned i = 0; i < 14; i++)
		listener_set_close(sets[i]);
	steer(&world, sets[14], SHARE_ALL, NULL, false);
	expect(fd_of(sets[14], 0), "127.0.0.1", 10, -1);
	world_stop(&world);
}

/* All addresses or none, and shares where an address belongs to one set only. */
static void test_several_addresses(void **state)
{
	const struct sockets_options o = {.no_ebpf = *state != NULL};
	struct address two[2] = {ip_address("127.0.0.1", false), ip_address("127.0.0.2", false)};
	struct listener_set *a, *b, *none;
	struct world other;

	world_start(&world, &o, two, 2);
	a = open_set(&world, 1);
	world_config(&other, &two[0], 1);
	assert_int_equal(
	        listener_set_open(world.sockets, other.config, other.service, 2, &b, NULL), 0);
	/* Now 127.0.0.2 is only a's: it keeps all of it while it has any part. */
	steer(&world, b, 9000, a, false);
	expect(fd_of(a, 1), "127.0.0.2", 20, -1);
	config_unref(other.config);
	listener_set_close(b);
	expect(fd_of(a, 0), "127.0.0.1", 20, -1);
	two[0] = ip_address("127.0.0.3", false);
	two[1] = ip_address("192.0.2.1", false);
	world_config(&other, two, 2);
	assert_int_equal(
	        listener_set_open(world.sockets, other.config, other.service, 3, &none, NULL),
	        -EADDRNOTAVAIL);
	assert_int_equal(connect_from(NULL, "127.0.0.3"), -ECONNREFUSED);
	config_unref(other.config);
	world_stop(&world);
}

#define CLASSIC ((void *)1)
#define BOTH(f)                                                                                    \
	{#f " (ebpf)", f, NULL, clean_up, NULL},                                                   \
	{                                                                                          \
#f " (cbpf)", f, NULL, NULL, CLASSIC                                               \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        BOTH(test_first_waits),
	        BOTH(test_close_in_any_order),
	        BOTH(test_flip_under_load),
	        BOTH(test_flip_with_many_old_ones),
	        BOTH(test_share),
	        BOTH(test_three_shares),
	        BOTH(test_sticky),
	        BOTH(test_probe_ipv4),
	        BOTH(test_probe_wildcard),
	        BOTH(test_probe_ipv6),
	        BOTH(test_probe_dual),
	        BOTH(test_nobody),
	        {"test_migration (ebpf)", test_migration, NULL, clean_up, NULL},
	        BOTH(test_occupied),
	        BOTH(test_careless_worker),
	        BOTH(test_worker_shuts_down),
	        BOTH(test_too_many_generations),
	        BOTH(test_several_addresses),
	        cmocka_unit_test(test_unprivileged),
	};

	own_network();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
