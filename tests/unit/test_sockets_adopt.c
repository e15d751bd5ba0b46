/* SPDX-License-Identifier: MIT */
/* Sockets that a program binds itself: a forked child makes them, as the process room would hand
 * them over. */
#include "test_sockets_fixture.h"

#include <netinet/tcp.h>
#include <sys/pidfd.h>

#include "sockets/adopt.h"
#include "sockets/connections.h"
#include "sockets/probe.h"

static struct world world;

static int clean_up(void **state)
{
	(void)state;
	if (world.sockets)
		world_stop(&world);
	return 0;
}

static void begin(void **state, const char *ip, bool dual, enum sockets_mode mode)
{
	const struct sockets_options o = {.no_ebpf = *state != NULL};
	struct address a = ip_address(ip, dual);

	world_start(&world, &o, &a, 1);
	world.service->sockets = mode;
	if (!o.no_ebpf && sockets_steering(world.sockets) != STEERING_EBPF) {
		world_stop(&world);
		print_message("no CAP_BPF here\n");
		skip();
	}
}

/* ---- a program: a child with one socket, which we reach as the daemon would ---- */

struct program {
	pid_t pid;
	int fd; /* ours, of its socket */
};

/* Only the child has the socket then, and `fd`. */
static struct program program_start(int family)
{
	struct program p;
	int ready[2], theirs = -1, pidfd;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	p.pid = fork();
	if (p.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		theirs = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (dup2(ready[1], 200) < 0 || dup2(theirs, 201) < 0)
			_exit(1);
		syscall(SYS_close_range, 3, 199, 0);
		syscall(SYS_close_range, 202, ~0u, 0);
		if (write(200, "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], &theirs, 1), 1);
	close(ready[0]);
	close(ready[1]);
	pidfd = pidfd_open(p.pid, 0);
	p.fd = pidfd_getfd(pidfd, 201, 0);
	assert_true(p.fd >= 0);
	close(pidfd);
	return p;
}

static void program_stop(struct program *p)
{
	stop_worker(p->pid);
	p->fd = close_fd(p->fd);
}

static struct sockaddr_storage address_to(const char *ip, int port, socklen_t *n)
{
	struct sockaddr_storage ss = {0};
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&ss;
	struct sockaddr_in *in = (struct sockaddr_in *)&ss;

	if (strchr(ip, ':')) {
		*in6 = (struct sockaddr_in6){
		        .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
		inet_pton(AF_INET6, ip, &in6->sin6_addr);
		*n = sizeof *in6;
	} else {
		*in = (struct sockaddr_in){
		        .sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
		inet_pton(AF_INET, ip, &in->sin_addr);
		*n = sizeof *in;
	}
	return ss;
}

static int bind_to(struct listener_set *set, int fd, const char *ip, int port, struct ho_error *e)
{
	socklen_t n;
	struct sockaddr_storage to = address_to(ip, port, &n);

	return listener_set_bind(set, fd, (struct socket_holder){getpid(), -1}, &to, n, false, e);
}

static void program_listens(struct listener_set *set, const struct program *p, const char *ip)
{
	struct ho_error e = {0};
	bool fresh = false;
	int r = bind_to(set, p->fd, ip, PORT, &e);

	if (r == 0)
		r = listener_set_listen(set, p->fd, 5, &fresh, &e);
	if (r != 0 || !fresh)
		fail_msg("%s: %d %s", ip, r, e.text);
}

static unsigned queue_of(int fd)
{
	struct tcp_info info = {0};
	socklen_t n = sizeof info;

	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n), 0);
	return info.tcpi_unacked;
}

static void connect_many(int *fds, unsigned n, const char *ip)
{
	for (unsigned i = 0; i < n; i++) {
		fds[i] = connect_from(NULL, ip);
		if (fds[i] < 0)
			fail_msg("connect: %s", strerror(-fds[i]));
	}
}

static void close_many(int *fds, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		close(fds[i]);
}

static void no_children(void *data, void (*each)(pid_t pid, void *arg), void *arg)
{
	const struct program *p = data;

	if (p)
		each(p->pid, arg);
}

/* ---- tests ---- */

static void test_takes_the_place_of_ours(void **state)
{
	struct listener_set *a, *b;
	struct program p, q;
	int c[10];

	begin(state, "127.0.0.1", false, SOCKETS_AUTO);
	a = open_set(&world, 1);
	p = program_start(AF_INET);
	assert_int_equal(listener_set_info(a, 0).origin, ORIGIN_BOUND);
	program_listens(a, &p, "127.0.0.1");
	assert_int_equal(listener_set_info(a, 0).origin, ORIGIN_ADOPTED);
	connect_many(c, 10, "127.0.0.1");
	assert_int_equal(queue_of(p.fd), 10);
	assert_int_equal(queue_of(fd_of(a, 0)), 0);
	close_many(c, 10);

	b = open_set(&world, 2);
	q = program_start(AF_INET);
	program_listens(b, &q, "127.0.0.1");
	connect_many(c, 10, "127.0.0.1");
	assert_int_equal(queue_of(q.fd), 0);
	close_many(c, 10);
	steer(&world, b, SHARE_ALL, a, false);
	connect_many(c, 10, "127.0.0.1");
	assert_int_equal(queue_of(q.fd), 10);
	close_many(c, 10);
	steer(&world, a, SHARE_ALL, b, false);
	connect_many(c, 10, "127.0.0.1");
	assert_int_equal(queue_of(q.fd), 10);
	assert_int_equal(queue_of(p.fd), 30);
	close_many(c, 10);
	program_stop(&p);
	program_stop(&q);
	world_stop(&world);
}

/* Whoever came before the program was there is not lost, where the kernel can move him. */
static void test_early_clients_move(void **state)
{
	struct listener_set *a;
	struct program p;
	int c[10];

	begin(state, "127.0.0.1", false, SOCKETS_AUTO);
	a = open_set(&world, 1);
	connect_many(c, 10, "127.0.0.1");
	assert_int_equal(queue_of(fd_of(a, 0)), 10);
	p = program_start(AF_INET);
	program_listens(a, &p, "127.0.0.1");
	assert_int_equal(queue_of(fd_of(a, 0)), 0);
	assert_int_equal(queue_of(p.fd), 10);
	close_many(c, 10);
	program_stop(&p);
	world_stop(&world);
}

static void test_several_share(void **state)
{
	struct listener_set *a;
	struct program p[3];
	int c[90];

	begin(state, "127.0.0.1", false, SOCKETS_ADOPT);
	a = open_set(&world, 1);
	for (int i = 0; i < 3; i++) {
		p[i] = program_start(AF_INET);
		program_listens(a, &p[i], "127.0.0.1");
	}
	connect_many(c, 90, "127.0.0.1");
	assert_int_equal(queue_of(p[0].fd) + queue_of(p[1].fd) + queue_of(p[2].fd), 90);
	for (int i = 0; i < 3; i++)
		assert_in_range(queue_of(p[i].fd), 8, 60);
	close_many(c, 90);
	for (int i = 0; i < 3; i++)
		program_stop(&p[i]);
	world_stop(&world);
}

static void test_adopt_has_none_of_ours(void **state)
{
	struct listener_set *a;
	struct share share = {.part = SHARE_ALL};
	struct ho_error e = {0};
	struct program p;
	unsigned queue, limit;
	int fd;

	begin(state, "127.0.0.1", false, SOCKETS_ADOPT);
	a = share.set = open_set(&world, 1);
	assert_int_equal(fd_of(a, 0), -1);
	assert_int_equal(listener_set_fds(a, 0, &fd, 1), 0);
	assert_true(listener_set_queue(a, 0, &queue, &limit) < 0);
	assert_int_equal(sockets_steer(world.sockets, &share, 1, false, &e), -ENOTCONN);
	assert_non_null(strstr(e.text, "does not listen on tcp:127.0.0.1:8080"));
	p = program_start(AF_INET);
	program_listens(a, &p, "127.0.0.1");
	assert_int_equal(sockets_steer(world.sockets, &share, 1, false, &e), 0);
	/* the greater of its own and the configured one */
	assert_int_equal(listener_set_queue(a, 0, &queue, &limit), 0);
	assert_int_equal(limit, 1024);
	program_stop(&p);
	world_stop(&world);
}

/* A signal interrupts the call, and it comes again. */
static void test_calls_again(void **state)
{
	struct listener_set *a;
	struct ho_error e = {0};
	bool fresh = true;
	struct program p;

	begin(state, "127.0.0.1", false, SOCKETS_ADOPT);
	a = open_set(&world, 1);
	p = program_start(AF_INET);
	program_listens(a, &p, "127.0.0.1");
	assert_int_equal(bind_to(a, p.fd, "127.0.0.1", PORT, &e), 0);
	assert_int_equal(bind_to(a, p.fd, "127.0.0.2", PORT, &e), -EINVAL);
	assert_int_equal(listener_set_listen(a, p.fd, 5, &fresh, &e), 0);
	assert_false(fresh);
	program_stop(&p);
	world_stop(&world);
}

/* Sockets of other addresses are the program's own business, other forms of ours are not. */
static void test_forms(void **state)
{
	static const struct {
		const char *ours;
		bool dual;
		const char *theirs;
		int port;
		bool v6only;
		int result;
	} cases[] = {
	        {"127.0.0.1", false, "127.0.0.1", PORT, false, 0},
	        {"127.0.0.1", false, "127.0.0.1", PORT + 1, false, 1},
	        {"127.0.0.1", false, "127.0.0.2", PORT, false, 1},
	        {"127.0.0.1", false, "::1", PORT, false, 1},
	        {"127.0.0.1", false, "0.0.0.0", PORT, false, -EADDRINUSE},
	        {"127.0.0.1", false, "::", PORT, false, -EADDRINUSE},
	        {"127.0.0.1", false, "::", PORT, true, 1},
	        {"0.0.0.0", false, "127.0.0.1", PORT, false, -EADDRINUSE},
	        {"0.0.0.0", false, "::", PORT, false, -EADDRINUSE},
	        {"::", true, "::", PORT, false, 0},
	        {"::", true, "::", PORT, true, 0},
	        {"::", true, "0.0.0.0", PORT, false, 0},
	        {"::", true, "127.0.0.1", PORT, false, 0},
	        {"::", true, "::ffff:127.0.0.1", PORT, false, 0},
	        {"127.0.0.1", false, "::ffff:127.0.0.1", PORT, false, 0},
	        {"127.0.0.1", false, "::ffff:127.0.0.2", PORT, false, 1},
	        {"0.0.0.0", false, "::ffff:127.0.0.1", PORT, false, -EADDRINUSE},
	        {"::1", false, "::1", PORT, false, 0},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct ho_error e = {0};
		struct listener_set *a;
		struct program p = program_start(strchr(cases[i].theirs, ':') ? AF_INET6 : AF_INET);
		int v6only = cases[i].v6only, r;

		begin(state, cases[i].ours, cases[i].dual, SOCKETS_AUTO);
		a = open_set(&world, 1);
		if (strchr(cases[i].theirs, ':'))
			setsockopt(p.fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof v6only);
		r = bind_to(a, p.fd, cases[i].theirs, cases[i].port, &e);
		if (r != cases[i].result)
			fail_msg("case %zu: %d: %s", i, r, e.text);
		if (r < 0)
			assert_non_null(strstr(e.text, "the program binds tcp:"));
		program_stop(&p);
		world_stop(&world);
	}
}

/* A port alone means the form that the program takes, and that is then the form for all. */
static void test_form_is_kept(void **state)
{
	struct listener_set *a, *b;
	struct ho_error e = {0};
	struct program p, q, other;
	int c[10];

	begin(state, "::", true, SOCKETS_AUTO);
	a = open_set(&world, 1);
	p = program_start(AF_INET);
	program_listens(a, &p, "0.0.0.0");
	connect_many(c, 10, "127.0.0.1");
	assert_int_equal(queue_of(p.fd), 10);
	close_many(c, 10);
	assert_int_equal(connect_from(NULL, "::1"), -ECONNREFUSED);
	b = open_set(&world, 2);
	other = program_start(AF_INET6);
	assert_int_equal(bind_to(b, other.fd, "::", PORT, &e), -EADDRINUSE);
	assert_non_null(strstr(e.text, "before it listens on tcp:0.0.0.0:8080"));
	q = program_start(AF_INET);
	program_listens(b, &q, "0.0.0.0");
	steer(&world, b, SHARE_ALL, a, false);
	connect_many(c, 10, "127.0.0.1");
	assert_int_equal(queue_of(q.fd), 10);
	close_many(c, 10);
	program_stop(&p);
	program_stop(&q);
	program_stop(&other);
	world_stop(&world);
}

static void test_ipv6_alone(void **state)
{
	struct program p = program_start(AF_INET6);
	struct listener_set *a;
	int one = 1, c;

	begin(state, "::", true, SOCKETS_AUTO);
	a = open_set(&world, 1);
	setsockopt(p.fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
	program_listens(a, &p, "::");
	connect_many(&c, 1, "::1");
	assert_int_equal(queue_of(p.fd), 1);
	assert_int_equal(connect_from(NULL, "127.0.0.1"), -ECONNREFUSED);
	close(c);
	program_stop(&p);
	world_stop(&world);
}

static void test_another_network(void **state)
{
	struct ho_error e = {0};
	struct listener_set *a;
	int ours = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), fd;

	begin(state, "127.0.0.1", false, SOCKETS_ADOPT);
	a = open_set(&world, 1);
	assert_int_equal(unshare(CLONE_NEWNET), 0);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(setns(ours, CLONE_NEWNET), 0);
	assert_int_equal(bind_to(a, fd, "127.0.0.1", PORT, &e), 1);
	close(fd);
	close(ours);
	world_stop(&world);
}

/* It tries whether the port is free. */
static void test_closed_again(void **state)
{
	struct listener_set *a, *b;
	struct program old = program_start(AF_INET), trial = program_start(AF_INET), p;
	struct sockaddr_storage to;
	struct ho_error e = {0};
	int c[10], probe;
	socklen_t n;

	begin(state, "127.0.0.1", false, SOCKETS_AUTO);
	a = open_set(&world, 1);
	program_listens(a, &old, "127.0.0.1");
	b = open_set(&world, 2);
	program_listens(b, &trial, "127.0.0.1");
	assert_false(listener_set_sweep(b, no_children, &trial, true));
	assert_int_equal(listener_set_probe_begin(b, 0, &probe, &to, &n, &e), 0);
	(void)connect(probe, (struct sockaddr *)&to, n);
	assert_int_equal(queue_of(trial.fd), 1);
	program_stop(&trial);
	assert_true(listener_set_sweep(b, no_children, NULL, true));
	assert_int_equal(queue_of(old.fd), 0); /* or the old one would answer for the new one */
	assert_int_equal(recv(probe, c, 1, 0), -1);
	assert_int_equal(errno, ECONNRESET);
	listener_set_probe_end(b, 0);
	close(probe);
	assert_int_equal(listener_set_info(b, 0).origin, ORIGIN_BOUND);
	p = program_start(AF_INET);
	program_listens(b, &p, "127.0.0.1");
	steer(&world, b, SHARE_ALL, a, false);
	connect_many(c, 10, "127.0.0.1");
	assert_int_equal(queue_of(p.fd), 10);
	close_many(c, 10);
	assert_int_equal(queue_of(old.fd), 0);
	program_stop(&p);
	program_stop(&old);
	world_stop(&world);
}

/* The last socket of a serving generation stays for the next worker; what waits moves to that. */
static void test_dead_worker(void **state)
{
	struct listener_set *a;
	struct program p = program_start(AF_INET), q = program_start(AF_INET);
	int c[20];

	begin(state, "127.0.0.1", false, SOCKETS_ADOPT);
	a = open_set(&world, 1);
	program_listens(a, &p, "127.0.0.1");
	steer(&world, a, SHARE_ALL, NULL, false);
	connect_many(c, 10, "127.0.0.1");
	program_stop(&p);
	assert_false(listener_set_sweep(a, no_children, NULL, false));
	connect_many(c + 10, 10, "127.0.0.1");
	program_listens(a, &q, "127.0.0.1");
	assert_true(listener_set_sweep(a, no_children, &q, false));
	if (!*state)
		assert_int_equal(queue_of(q.fd), 20);
	close_many(c, 20);
	connect_many(c, 10, "127.0.0.1");
	assert_int_equal(queue_of(q.fd), *state ? 10 : 30);
	close_many(c, 10);
	program_stop(&q);
	world_stop(&world);
}

/* The program itself stops listening, and listens again later. */
static void test_pauses(void **state)
{
	struct listener_set *a;
	struct program p = program_start(AF_INET);
	struct ho_error e = {0};
	bool fresh = false;
	int c[5];

	begin(state, "127.0.0.1", false, SOCKETS_ADOPT);
	a = open_set(&world, 1);
	program_listens(a, &p, "127.0.0.1");
	assert_int_equal(shutdown(p.fd, SHUT_RD), 0);
	ev_run(world.loop, EVRUN_ONCE);
	assert_int_equal(listener_set_fds(a, 0, c, 1), 0);
	assert_int_equal(listener_set_listen(a, p.fd, 5, &fresh, &e), 0);
	assert_true(fresh);
	assert_int_equal(shutdown(p.fd, SHUT_RD), 0);
	assert_int_equal(
	        listener_set_listen(a, p.fd, 5, &fresh, &e), 0); /* before we could see it */
	assert_true(fresh);
	steer(&world, a, SHARE_ALL, NULL, false);
	connect_many(c, 5, "127.0.0.1");
	assert_int_equal(queue_of(p.fd), 5);
	close_many(c, 5);
	program_stop(&p);
	world_stop(&world);
}

static void test_many_sockets(void **state)
{
	struct listener_set *a;
	struct ho_error e = {0};
	int fds[ADDRESS_SOCKETS_MAX + 1], c[64];
	unsigned sum = 0;
	bool fresh;

	begin(state, "127.0.0.1", false, SOCKETS_ADOPT);
	a = open_set(&world, 1);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(bind_to(a, fds[i], "127.0.0.1", PORT, &e),
		        i < ADDRESS_SOCKETS_MAX ? 0 : -ENOBUFS);
		if (i < ADDRESS_SOCKETS_MAX)
			assert_int_equal(listener_set_listen(a, fds[i], 5, &fresh, &e), 0);
	}
	connect_many(c, 64, "127.0.0.1");
	for (size_t i = 0; i < ADDRESS_SOCKETS_MAX; i++)
		sum += queue_of(fds[i]);
	assert_int_equal(sum, 64);
	close_many(c, 64);
	close_many(fds, ARRAY_SIZE(fds));
	world_stop(&world);
}

static void test_counted(void **state)
{
	struct listener_set *a, *b;
	struct program p = program_start(AF_INET), q = program_start(AF_INET);
	struct connections *connections = NULL;
	struct inflight counts[2];
	struct quiet_check *quiet = NULL;
	struct ho_error e = {0};
	int c[10], d[3], r = 0;

	begin(state, "127.0.0.1", false, SOCKETS_AUTO);
	assert_int_equal(connections_new(world.loop, &connections, &e), 0);
	a = open_set(&world, 1);
	program_listens(a, &p, "127.0.0.1");
	connect_many(c, 10, "127.0.0.1");
	b = open_set(&world, 2);
	program_listens(b, &q, "127.0.0.1");
	steer(&world, b, SHARE_ALL, a, false);
	connect_many(d, 3, "127.0.0.1");
	assert_int_equal(connections_count(connections, (struct listener_set *[]){a, b}, 2, NULL,
	                         NULL, counts, &e),
	        0);
	assert_int_equal(counts[0].total, 10);
	assert_int_equal(counts[0].queued, 10);
	assert_int_equal(counts[1].total, 3);
	assert_int_equal(quiet_check_new(connections, a, &quiet), 0);
	poll(NULL, 0, 5); /* it waits so long for lookups that began before the flip */
	assert_int_equal(quiet_check_again(quiet, &counts[0]), 0);
	fcntl(p.fd, F_SETFL, O_NONBLOCK);
	assert_int_equal(take_all(p.fd), 10);
	for (int i = 0; i < 1000 && r == 0; i++)
		r = quiet_check_again(quiet, &counts[0]);
	assert_int_equal(r, 1);
	(void)quiet_check_free(quiet);
	close_many(c, 10);
	close_many(d, 3);
	(void)connections_free(connections);
	program_stop(&p);
	program_stop(&q);
	world_stop(&world);
}

/* ---- probes ---- */

struct outcome {
	unsigned done;
	bool ok;
	char text[200];
};

static void on_probe(void *data, bool ok, const char *text)
{
	struct outcome *o = data;

	o->done++;
	o->ok = ok;
	(void)copy_string(o->text, sizeof o->text, text);
}

/* A probe that waits in the queue of our listener goes over to the program's socket; nobody but the
 * program can make it succeed. */
static void test_probe_follows(void **state)
{
	struct listener_set *a, *b;
	struct program old = program_start(AF_INET), p = program_start(AF_INET);
	struct outcome o = {0, false, ""};
	struct probe *probe = NULL;
	struct ho_error e = {0};
	int c;

	begin(state, "127.0.0.1", false, SOCKETS_AUTO);
	a = open_set(&world, 1);
	program_listens(a, &old, "127.0.0.1");
	b = open_set(&world, 2);
	assert_int_equal(
	        probe_new(world.loop, b, 0, PROBE_ACCEPTED, NULL, on_probe, &o, &probe, &e), 0);
	for (int i = 0; i < 1000 && queue_of(fd_of(b, 0)) == 0; i++)
		ev_run(world.loop, EVRUN_ONCE);
	assert_int_equal(queue_of(fd_of(b, 0)), 1);
	program_listens(b, &p, "127.0.0.1");
	probe_hurry(probe);
	assert_int_equal(queue_of(fd_of(b, 0)), 0);
	for (int i = 0; i < 1000 && queue_of(p.fd) == 0; i++)
		ev_run(world.loop, EVRUN_ONCE);
	assert_int_equal(queue_of(p.fd), 1);
	assert_int_equal(queue_of(old.fd), 0);
	assert_false(o.done);
	c = accept(p.fd, NULL, NULL);
	assert_true(c >= 0);
	for (int i = 0; i < 1000 && !o.done; i++)
		ev_run(world.loop, EVRUN_ONCE);
	assert_true(o.ok);
	(void)probe_free(probe);
	close(c);
	program_stop(&p);
	program_stop(&old);
	world_stop(&world);
}

static void test_probe_waits_for_a_socket(void **state)
{
	struct listener_set *a;
	struct program p = program_start(AF_INET);
	struct outcome o = {0, false, ""};
	struct probe *probe = NULL;
	struct ho_error e = {0};

	begin(state, "127.0.0.1", false, SOCKETS_ADOPT);
	a = open_set(&world, 1);
	assert_int_equal(
	        probe_new(world.loop, a, 0, PROBE_LISTENING, NULL, on_probe, &o, &probe, &e), 0);
	for (int i = 0; i < 3; i++)
		ev_run(world.loop, EVRUN_ONCE);
	assert_false(o.done);
	assert_non_null(strstr(probe_status(probe), "does not listen on tcp:127.0.0.1:8080"));
	program_listens(a, &p, "127.0.0.1");
	probe_hurry(probe);
	for (int i = 0; i < 10 && !o.done; i++)
		ev_run(world.loop, EVRUN_ONCE);
	assert_true(o.ok);
	probe_hurry(probe);
	for (int i = 0; i < 3; i++)
		ev_run(world.loop, EVRUN_NOWAIT);
	assert_int_equal(o.done, 1);
	(void)probe_free(probe);
	program_stop(&p);
	world_stop(&world);
}

int main(void)
{
	static int classic = 1;
#define BOTH(test)                                                                                 \
	{#test " (ebpf)", test, NULL, clean_up, NULL},                                             \
	{                                                                                          \
#test " (cbpf)", test, NULL, clean_up, &classic                                    \
	}
	const struct CMUnitTest tests[] = {
	        BOTH(test_takes_the_place_of_ours),
	        {"test_early_clients_move (ebpf)", test_early_clients_move, NULL, clean_up, NULL},
	        BOTH(test_several_share),
	        BOTH(test_adopt_has_none_of_ours),
	        BOTH(test_calls_again),
	        BOTH(test_forms),
	        BOTH(test_form_is_kept),
	        BOTH(test_ipv6_alone),
	        {"test_another_network", test_another_network, NULL, clean_up, NULL},
	        BOTH(test_closed_again),
	        BOTH(test_dead_worker),
	        BOTH(test_pauses),
	        BOTH(test_many_sockets),
	        BOTH(test_counted),
	        BOTH(test_probe_follows),
	        BOTH(test_probe_waits_for_a_socket),
	};

	own_network();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
