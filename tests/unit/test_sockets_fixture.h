/* SPDX-License-Identifier: MIT */
/* What the tests of the sockets room have in common: a network of their own, a configuration made
 * by hand, workers and clients as processes. */
#ifndef TEST_SOCKETS_FIXTURE_H
#define TEST_SOCKETS_FIXTURE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ev.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/config.h"
#include "sockets/sockets.h"
#include "system/fd.h"

#define PORT 8080
#define WORLD_LISTENERS 4

#pragma GCC diagnostic ignored "-Wunused-function"

struct world {
	struct ev_loop *loop;
	struct sockets *sockets;
	struct config *config;
	struct service_config *service;
};

/* A private network namespace with loopback up, or the end of the test. */
static void own_network(void)
{
	struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int s;

	if (unshare(CLONE_NEWNET) < 0) {
		printf("SKIP: no network namespace: %s\n", strerror(errno));
		exit(77);
	}
	s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (ioctl(s, SIOCSIFFLAGS, &ifr) < 0)
		exit(1);
	close(s);
	signal(SIGPIPE, SIG_IGN);
}

static struct address ip_address(const char *ip, bool dual)
{
	struct address a = {.kind = ADDRESS_TCP, .dual = dual, .port = PORT};
	static char texts[64][80];
	static size_t n;
	char *text = texts[n++ % 64];

	a.ipv6 = strchr(ip, ':') != NULL;
	if (inet_pton(a.ipv6 ? AF_INET6 : AF_INET, ip, a.ip) != 1)
		abort();
	snprintf(text, sizeof texts[0], a.ipv6 ? "tcp:[%s]:%d" : "tcp:%s:%d", ip, PORT);
	a.text = text;
	return a;
}

static void world_config(struct world *w, const struct address *addresses, size_t n)
{
	w->config = config_new();
	w->service = config_alloc(w->config, sizeof *w->service);
	service_config_defaults(w->service);
	w->service->name = "web";
	w->service->listeners = config_alloc(w->config, n * sizeof *w->service->listeners);
	w->service->n_listeners = n;
	for (size_t i = 0; i < n; i++)
		w->service->listeners[i] = (struct listener_config){
		        .name = "http", .address = addresses[i], .backlog = 1024, .mode = 0666};
	w->config->services = w->service;
	w->config->n_services = 1;
}

static void world_start(
        struct world *w, const struct sockets_options *o, const struct address *addresses, size_t n)
{
	struct ho_error e = {0};

	memset(w, 0, sizeof *w);
	w->loop = ev_loop_new(EVFLAG_AUTO);
	world_config(w, addresses, n);
	if (sockets_new(w->loop, o, &w->sockets, &e) < 0)
		fail_msg("sockets_new: %s", e.text);
}

static void world_stop(struct world *w)
{
	w->sockets = sockets_free(w->sockets);
	w->config = config_unref(w->config);
	ev_loop_destroy(w->loop);
}

static struct listener_set *open_set(struct world *w, uint32_t generation)
{
	struct listener_set *set = NULL;
	struct ho_error e = {0};

	if (listener_set_open(w->sockets, w->config, w->service, generation, &set, &e) < 0)
		fail_msg("listener_set_open: %s", e.text);
	return set;
}

/* part to `to`, the rest of SHARE_ALL to `rest` (may be NULL), 0 to others */
static void steer(struct world *w, struct listener_set *to, unsigned part,
        struct listener_set *rest, bool sticky)
{
	struct share shares[2] = {{to, part}, {rest, SHARE_ALL - part}};
	struct ho_error e = {0};

	if (sockets_steer(w->sockets, shares, rest ? 2 : 1, sticky, &e) < 0)
		fail_msg("sockets_steer: %s", e.text);
}

static int fd_of(struct listener_set *set, size_t i)
{
	return listener_set_info(set, i).fd;
}

/* Takes and closes what waits at `fd`; returns how many. */
static unsigned take_all(int fd)
{
	struct linger reset = {1, 0};
	unsigned n = 0;
	int c;

	while ((c = accept4(fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		setsockopt(c, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		close(c);
		n++;
	}
	return n;
}

/* A client connected from `from` (or anywhere) to ip:PORT, or -errno. */
static int connect_from(const char *from, const char *ip)
{
	struct sockaddr_in6 to6 = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT)},
	                   src = {.sin_family = AF_INET};
	bool six = strchr(ip, ':') != NULL;
	struct timeval limit = {.tv_sec = 10};
	int s = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), e;

	setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	inet_pton(
	        six ? AF_INET6 : AF_INET, ip, six ? (void *)&to6.sin6_addr : (void *)&to.sin_addr);
	if (from) {
		inet_pton(AF_INET, from, &src.sin_addr);
		if (bind(s, (void *)&src, sizeof src) < 0)
			goto failed;
	}
	if (connect(s, six ? (void *)&to6 : (void *)&to, six ? sizeof to6 : sizeof to) == 0)
		return s;
failed:
	e = -errno;
	close(s);
	return e;
}

/* Waits, by events of the kernel's clock only between attempts, until the queue has been seen
 * empty. */
static void wait_quiet(struct listener_set *set, size_t i)
{
	unsigned queue = 1, limit;

	for (int n = 0; n < 10000; n++) {
		if (listener_set_queue(set, i, &queue, &limit) < 0 || queue == 0)
			break;
		poll(NULL, 0, 1);
	}
	assert_int_equal(queue, 0);
	/* A lookup that began before the flip may still queue one: KERNEL says some ms. */
	poll(NULL, 0, 3);
	listener_set_queue(set, i, &queue, &limit);
	if (queue != 0)
		wait_quiet(set, i);
}

/* A worker process that answers each connection with its generation; it holds the set's descriptors
 * and no others. */
static pid_t start_worker(struct listener_set *set, uint32_t generation)
{
	pid_t pid = fork();
	struct pollfd p[8];
	size_t n = listener_set_count(set);

	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (size_t i = 0; i < n; i++)
		p[i] = (struct pollfd){.fd = fcntl(fd_of(set, i), F_DUPFD, 200), .events = POLLIN};
	syscall(SYS_close_range, 3, 199, 0);
	syscall(SYS_close_range, 200 + n, ~0u, 0);
	for (;;) {
		if (poll(p, n, -1) < 0)
			continue;
		for (size_t i = 0; i < n; i++) {
			int c = accept4(p[i].fd, NULL, NULL, 0);

			if (c < 0)
				continue;
			if (write(c, &generation, sizeof generation) < 0)
				perror("worker");
			close(c);
		}
	}
}

static void stop_worker(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* What the clients of a load test saw. */
struct load {
	volatile uint32_t at_least; /* generation, as of the last steering that returned */
	volatile uint32_t at_most;
	volatile bool stop;
	volatile unsigned long ok, failed, wrong, slow;
	volatile int last_error;
};

static struct load *load_new(void)
{
	struct load *l =
	        mmap(NULL, sizeof *l, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(l, MAP_FAILED);
	return l;
}

static int connect_unix(const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), e;

	snprintf(un.sun_path, sizeof un.sun_path, "%s", path);
	if (connect(s, (void *)&un, sizeof un) == 0)
		return s;
	e = -errno;
	close(s);
	return e;
}

/* A client process: connects to `where` (an IP or a path) again and again. */
static pid_t start_client(struct load *l, const char *where)
{
	struct linger reset = {1, 0};
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (!l->stop) {
		uint32_t least = l->at_least, got = 0;
		usec_t begun = now_usec();
		int s = where[0] == '/' ? connect_unix(where) : connect_from(NULL, where);

		if (s < 0 || read(s, &got, sizeof got) != sizeof got) {
			__atomic_fetch_add(&l->failed, 1, __ATOMIC_RELAXED);
			l->last_error = s < 0 ? s : -errno;
		} else if (got < least || got > l->at_most) {
			__atomic_fetch_add(&l->wrong, 1, __ATOMIC_RELAXED);
		} else {
			__atomic_fetch_add(&l->ok, 1, __ATOMIC_RELAXED);
		}
		if (now_usec() - begun > 900 * USEC_PER_MSEC)
			__atomic_fetch_add(&l->slow, 1, __ATOMIC_RELAXED);
		if (s >= 0) {
			setsockopt(s, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
			close(s);
		}
	}
	_exit(0);
}

#endif
