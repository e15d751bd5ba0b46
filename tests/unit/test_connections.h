/* SPDX-License-Identifier: MIT */
/* What the tests of connections share: a network namespace of their own, listeners with tags,
 * steering by index, clients, and an event loop that is run until something is true. */
#ifndef TEST_CONNECTIONS_H
#define TEST_CONNECTIONS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sockets/connections_internal.h"
#include "sockets/tag.h"
#include "system/fd.h"

#define UNUSED __attribute__((unused))
#define PORT 8080

struct lab {
	struct ev_loop *loop;
	struct connections *c;
	struct inflight now; /* of the last report */
	unsigned reports;
};

/* Ends the program with 77 where the right for a namespace is missing. */
static UNUSED void own_network(void)
{
	struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	struct rlimit l;
	int fd;

	if (unshare(CLONE_NEWNET) < 0) {
		(void)printf("skipped: a network namespace: %s\n", strerror(errno));
		exit(77);
	}
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &r) < 0) {
		(void)printf("skipped: the loopback interface: %s\n", strerror(errno));
		exit(77);
	}
	(void)close(fd);
	if (!getrlimit(RLIMIT_NOFILE, &l)) {
		l.rlim_cur = l.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &l);
	}
	(void)signal(SIGPIPE, SIG_IGN);
}

static UNUSED int lab_setup(void **state)
{
	struct lab *l = calloc(1, sizeof *l);

	assert_non_null(l);
	l->loop = ev_loop_new(EVFLAG_AUTO);
	assert_non_null(l->loop);
	assert_int_equal(connections_new(l->loop, &l->c, NULL), 0);
	*state = l;
	return 0;
}

/* Nothing may be left that would wake the loop. */
static UNUSED int lab_teardown(void **state)
{
	struct lab *l = *state;

	assert_int_equal(l->c->events_fd, -1);
	assert_false(ev_run(l->loop, EVRUN_NOWAIT));
	assert_null(connections_free(l->c));
	ev_loop_destroy(l->loop);
	free(l);
	return 0;
}

static UNUSED struct sockaddr_storage address(const char *ip, uint16_t port, socklen_t *n)
{
	struct sockaddr_storage a = {0};
	struct sockaddr_in *v4 = (struct sockaddr_in *)&a;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a;

	if (strchr(ip, ':')) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		assert_int_equal(inet_pton(AF_INET6, ip, &v6->sin6_addr), 1);
		*n = sizeof *v6;
	} else {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		assert_int_equal(inet_pton(AF_INET, ip, &v4->sin_addr), 1);
		*n = sizeof *v4;
	}
	return a;
}

static UNUSED int tcp_listener(const char *ip, uint16_t port, uint8_t tag, bool only6)
{
	int one = 1, only = only6, fd;
	socklen_t n;
	struct sockaddr_storage a = address(ip, port, &n);

	fd = socket(a.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_true(fd >= 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one), 0);
	if (a.ss_family == AF_INET6)
		assert_int_equal(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
	if (tag != TAG_NONE)
		assert_int_equal(tag_set(fd, tag), 0);
	assert_int_equal(listen(fd, 4096), 0);
	return fd;
}

/* All new connections of the group go to its member `index`, in the order of listen(). */
static UNUSED void steer(int fd, uint32_t index)
{
	struct sock_filter code[] = {{BPF_RET | BPF_K, 0, 0, index}};
	struct sock_fprog p = {1, code};

	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &p, sizeof p), 0);
}

static UNUSED int client(const char *ip, uint16_t port)
{
	socklen_t n;
	struct sockaddr_storage a = address(ip, port, &n);
	int fd = socket(a.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, n), 0);
	return fd;
}

static UNUSED int accepted(int listener)
{
	struct pollfd p = {.fd = listener, .events = POLLIN};
	int fd;

	assert_int_equal(poll(&p, 1, 5000), 1);
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

/* close() sends a reset. */
static UNUSED void reset_on_close(int fd)
{
	const struct linger l = {1, 0};

	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l), 0);
}

static UNUSED struct endpoint_list endpoint_of(struct lab *l, int fd, bool shared, uint8_t tag)
{
	struct endpoint_list list = {0};

	assert_int_equal(endpoint_list_add(&list, &l->c->diag, fd, shared, tag, "http", 0), 0);
	return list;
}

static UNUSED struct inflight count_one(struct lab *l, int fd, uint8_t tag)
{
	struct endpoint_list list = endpoint_of(l, fd, false, tag);
	struct inflight ret = {0};

	assert_int_equal(count_endpoints(l->c, list.items, list.n, &ret, 1), 0);
	endpoint_list_done(&list);
	return ret;
}

static UNUSED void on_report(void *data, const struct inflight *now)
{
	struct lab *l = data;

	l->now = *now;
	l->reports++;
}

static UNUSED struct drain_watch *watch(struct lab *l, struct endpoint_list list, usec_t idle_after)
{
	const struct drain_watch_options options = {.idle_after = idle_after};
	struct drain_watch *w;
	struct ho_error e = {0};

	if (drain_watch_new_on(l->c, &list, NULL, &options, on_report, l, &w, &e) < 0)
		fail_msg("%s", e.text);
	return w;
}

static UNUSED void on_too_late(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)loop;
	(void)events;
	*(bool *)t->data = true;
}

/* Runs the loop until the condition holds. */
#define until(l, condition)                                                                        \
	do {                                                                                       \
		bool late_ = false;                                                                \
		ev_timer t_;                                                                       \
		ev_timer_init(&t_, on_too_late, 15., 0.);                                          \
		t_.data = &late_;                                                                  \
		ev_now_update((l)->loop);                                                          \
		ev_timer_start((l)->loop, &t_);                                                    \
		while (!(condition) && !late_)                                                     \
			ev_run((l)->loop, EVRUN_ONCE);                                             \
		ev_timer_stop((l)->loop, &t_);                                                     \
		if (late_)                                                                         \
			fail_msg("never: %s (%llu in flight)", #condition,                         \
			        (unsigned long long)(l)->now.total);                               \
	} while (0)

#endif
