/* SPDX-License-Identifier: MIT */
/* bench-live COUNT: passes COUNT connections from one process to another with libhandoff, while
 * clients write on all of them, numbers cut at odd bytes. Prints, each on a line of its own: the
 * time for all and the longest pause of one (microseconds), the numbers written, those that were
 * lost, doubled or out of order. The program plays handoffd and the clients; two children are the
 * workers. */
#include <arpa/inet.h>
#include <errno.h>
#include <ev.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "handoff.h"

#define COUNT_MAX 50000
#define BEFORE 300 /* milliseconds of traffic before and after */

struct state {
	uint32_t next;
	uint8_t n;
	unsigned char bytes[sizeof(uint32_t)]; /* of a number of which the rest is still to come */
};

struct connection {
	ev_io io;
	struct state s;
	bool passing;
	uint64_t passed_at;
};

/* What a worker tells at its end. */
struct report {
	uint64_t all, longest, numbers, wrong, ended;
};

static struct ev_loop *loop;
static struct connection *connections;
static uint32_t n_connections, n_passed;
static uint64_t begun;
static struct report report;
static int report_fd;

static uint64_t microseconds(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000;
}

static void check(bool right, const char *what)
{
	if (right)
		return;
	(void)fprintf(stderr, "bench-live: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* ---- workers ---- */

static void tell(void)
{
	check(write(report_fd, &report, sizeof report) == sizeof report, "report");
}

static void on_bytes(struct ev_loop *l, ev_io *io, int events)
{
	struct connection *c = io->data;
	unsigned char bytes[4096];
	ssize_t n = recv(io->fd, bytes, sizeof bytes, MSG_DONTWAIT);
	uint32_t number;

	(void)events;
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		ev_io_stop(l, io);
		report.wrong += n < 0 || c->s.n;
		if (++report.ended == n_connections)
			tell();
		return;
	}
	for (ssize_t i = 0; i < n; i++) {
		c->s.bytes[c->s.n++] = bytes[i];
		if (c->s.n < sizeof number)
			continue;
		c->s.n = 0;
		memcpy(&number, c->s.bytes, sizeof number);
		report.wrong += number != c->s.next;
		c->s.next = number + 1;
		report.numbers++;
	}
}

static void begin(struct connection *c, int fd)
{
	ev_io_init(&c->io, on_bytes, fd, EV_READ);
	c->io.data = c;
	ev_io_start(loop, &c->io);
}

static void on_wanted(struct handoff_live *live, void *data)
{
	uint32_t *next = data;

	begun = begun ? begun : microseconds();
	for (; *next < n_connections; ++*next) {
		struct connection *c = &connections[*next];

		if (handoff_pass(live, c->io.fd, &c->s, sizeof c->s, c) < 0)
			return;
		ev_io_stop(loop, &c->io);
		c->passed_at = microseconds();
	}
}

static void on_passed(void *connection, int result, void *data)
{
	struct connection *c = connection;
	const uint64_t now = microseconds();

	(void)data;
	check(result == 0, "a connection was not taken");
	(void)close(c->io.fd);
	if (now - c->passed_at > report.longest)
		report.longest = now - c->passed_at;
	if (++n_passed == n_connections) {
		report.all = now - begun;
		tell();
	}
}

static int on_taken(int fd, const void *state, size_t size, unsigned version, void *data)
{
	uint32_t *n = data;
	struct connection *c = &connections[(*n)++];

	(void)version;
	check(size == sizeof c->s, "a state has another size");
	memcpy(&c->s, state, sizeof c->s);
	begin(c, fd);
	return 0;
}

static void work(int listener, const struct handoff_live_calls *calls)
{
	struct handoff_live *live;
	uint32_t n = 0;

	loop = ev_loop_new(0);
	check(loop && handoff_live_new(loop, 1, 1, calls, &n, &live) == 0, "cannot begin");
	for (uint32_t i = 0; calls->wanted && i < n_connections; i++) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		check(fd >= 0, "accept");
		begin(&connections[i], fd);
	}
	(void)close(listener);
	(void)ev_run(loop, 0);
}

/* ---- handoffd ---- */

static int notify_socket(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	socklen_t size = sizeof address;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	char name[sizeof address + 1];

	check(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address.sun_family) == 0 &&
	                getsockname(fd, (struct sockaddr *)&address, &size) == 0,
	        "notify socket");
	(void)snprintf(name, sizeof name, "@%.*s",
	        (int)(size - offsetof(struct sockaddr_un, sun_path) - 1), address.sun_path + 1);
	check(setenv("NOTIFY_SOCKET", name, 1) == 0 && setenv("HANDOFF_SERVICE", "bench", 1) == 0,
	        "environment");
	return fd;
}

/* The door of the giver at 0, of the taker at 1. */
static void receive_door(int notify, int doors[2])
{
	char text[100] = "", control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {.iov_base = text, .iov_len = sizeof text - 1};
	struct msghdr h = {.msg_iov = &iov,
	        .msg_iovlen = 1,
	        .msg_control = control,
	        .msg_controllen = sizeof control};

	check(recvmsg(notify, &h, MSG_CMSG_CLOEXEC) > 0 && CMSG_FIRSTHDR(&h), "door");
	memcpy(&doors[strstr(text, "take") != NULL], CMSG_DATA(CMSG_FIRSTHDR(&h)), sizeof(int));
}

static void hand_in(int door, const char *word, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {.align = {.cmsg_level = SOL_SOCKET,
	                     .cmsg_type = SCM_RIGHTS,
	                     .cmsg_len = CMSG_LEN(sizeof(int))}};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)word, .iov_len = strlen(word)};
	struct msghdr h = {.msg_iov = &iov,
	        .msg_iovlen = 1,
	        .msg_control = &control,
	        .msg_controllen = sizeof control};

	memcpy(CMSG_DATA(&control.align), &fd, sizeof fd);
	check(sendmsg(door, &h, 0) > 0, "introduction");
	(void)close(fd);
}

/* ---- clients ---- */

struct client {
	int fd;
	uint32_t next;
	uint8_t n; /* bytes of it that are written */
};

static uint64_t n_written;

/* One to eleven bytes of the endless row 0, 1, 2 ...; false if the kernel has no room. */
static bool write_some(struct client *c, size_t n)
{
	unsigned char bytes[16];
	uint32_t row[] = {c->next, c->next + 1, c->next + 2, c->next + 3};
	ssize_t w;

	memcpy(bytes, row, sizeof bytes);
	w = send(c->fd, bytes + c->n, n, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (w <= 0)
		return false;
	n_written += (c->n + (size_t)w) / 4;
	c->next += (uint32_t)(c->n + (size_t)w) / 4;
	c->n = (uint8_t)((c->n + (size_t)w) % 4);
	return true;
}

/* Some 60 000 writes a second, until a time or until a worker tells. */
static void traffic(struct client *clients, uint64_t until, int report_end, struct report *ret)
{
	struct pollfd p = {.fd = report_end, .events = POLLIN};

	for (;;) {
		for (int i = 0; i < 64; i++)
			(void)write_some(&clients[(uint32_t)random() % n_connections],
			        1 + (size_t)random() % 11);
		if (until && microseconds() >= until)
			return;
		if (poll(&p, 1, 1) > 0)
			break;
	}
	check(recv(report_end, ret, sizeof *ret, 0) == sizeof *ret, "report");
}

static void finish(struct client *clients)
{
	for (uint32_t i = 0; i < n_connections; i++) {
		struct client *c = &clients[i];

		while (c->n && !write_some(c, 4u - c->n)) {
			struct timespec moment = {.tv_nsec = 1000000};

			(void)nanosleep(&moment, NULL); /* its receiver is behind */
		}
		(void)shutdown(c->fd, SHUT_WR);
	}
}

static pid_t start(int listener, const struct handoff_live_calls *calls, int ends[2])
{
	pid_t pid;

	check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0, "socketpair");
	pid = fork();
	check(pid >= 0, "fork");
	if (pid == 0) {
		(void)close(ends[0]);
		report_fd = ends[1];
		work(listener, calls);
		_exit(0);
	}
	(void)close(ends[1]);
	return pid;
}

int main(int argc, char **argv)
{
	static const struct handoff_live_calls gives = {on_wanted, on_passed, NULL},
	                                       takes = {NULL, NULL, on_taken};
	struct sockaddr_in address = {
	        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct rlimit limit;
	socklen_t size = sizeof address;
	struct client *clients;
	struct report given, taken;
	int notify, listener, doors[2], ends[2], giver[2], taker[2];
	pid_t pids[2];

	n_connections = argc == 2 ? (uint32_t)atoi(argv[1]) : 0;
	if (!n_connections || n_connections > COUNT_MAX) {
		(void)fprintf(stderr, "Usage: bench-live COUNT (at most %d)\n", COUNT_MAX);
		return 2;
	}
	check(getrlimit(RLIMIT_NOFILE, &limit) == 0, "limit");
	limit.rlim_cur = limit.rlim_max;
	check(setrlimit(RLIMIT_NOFILE, &limit) == 0, "limit");
	connections = calloc(n_connections, sizeof *connections);
	clients = calloc(n_connections, sizeof *clients);
	check(connections && clients, "memory");
	notify = notify_socket();
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	check(listener >= 0 && bind(listener, (struct sockaddr *)&address, size) == 0 &&
	                listen(listener, SOMAXCONN) == 0 &&
	                getsockname(listener, (struct sockaddr *)&address, &size) == 0,
	        "listener");
	pids[0] = start(listener, &gives, giver);
	pids[1] = start(listener, &takes, taker);
	(void)close(listener);
	receive_door(notify, doors);
	receive_door(notify, doors);
	for (uint32_t i = 0; i < n_connections; i++) {
		clients[i].fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		check(clients[i].fd >= 0 &&
		                connect(clients[i].fd, (struct sockaddr *)&address, size) == 0,
		        "connect");
	}
	traffic(clients, microseconds() + 1000 * BEFORE, -1, NULL);
	check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0,
	        "channel");
	hand_in(doors[1], "take 1", ends[0]);
	hand_in(doors[0], "give", ends[1]);
	traffic(clients, 0, giver[0], &given);
	traffic(clients, microseconds() + 1000 * BEFORE, -1, NULL);
	finish(clients);
	check(recv(taker[0], &taken, sizeof taken, 0) == sizeof taken, "the taker's report");
	for (int i = 0; i < 2; i++)
		(void)kill(pids[i], SIGTERM);
	taken.wrong += given.wrong + (given.numbers + taken.numbers != n_written);
	(void)printf("%llu\n%llu\n%llu\n%llu\n", (unsigned long long)given.all,
	        (unsigned long long)given.longest, (unsigned long long)n_written,
	        (unsigned long long)taken.wrong);
	return taken.wrong != 0;
}
