/* SPDX-License-Identifier: MIT */
/* bench-worker [MAX]: takes up to MAX connections from the passed listeners and holds them, without
 * a word, until their clients close. When SIGTERM arrives it appends "GENERATION NANOSECONDS"
 * (CLOCK_MONOTONIC) to the file named by BENCH_STAMPS, if any, and leaves. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define FIRST_FD 3
#define EVENTS 256

static int epoll_fd, n_listeners, term_fd;
static long held, most = 1000000;

static void die(const char *what)
{
	(void)fprintf(stderr, "bench-worker: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void watch(int fd, uint32_t events)
{
	struct epoll_event e = {.events = events, .data.fd = fd};

	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0)
		die("epoll_ctl");
}

static void ready(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	size_t n = path ? strlen(path) : 0;
	int fd;

	if (!n || n >= sizeof to.sun_path)
		return;
	memcpy(to.sun_path, path, n);
	if (*path == '@')
		to.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || sendto(fd, "READY=1", 7, MSG_NOSIGNAL, (struct sockaddr *)&to,
	                      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) < 0)
		die("sd_notify");
	(void)close(fd);
}

static void stamp(void)
{
	const char *path = getenv("BENCH_STAMPS"), *generation = getenv("HANDOFF_GENERATION");
	struct timespec t;
	int fd;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	if (!path)
		return;
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || dprintf(fd, "%s %lld\n", generation ? generation : "0",
	                      (long long)t.tv_sec * 1000000000 + t.tv_nsec) < 0)
		die(path);
}

static void take(int listener)
{
	int fd;

	while (held < most && (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		held++;
		watch(fd, EPOLLIN | EPOLLRDHUP);
	}
	if (held >= most)
		for (int i = 0; i < n_listeners; i++)
			(void)epoll_ctl(epoll_fd, EPOLL_CTL_DEL, FIRST_FD + i, NULL);
}

static void drop(int fd)
{
	char buffer[512];

	if (read(fd, buffer, sizeof buffer) > 0)
		return;
	(void)close(fd);
	if (held-- != most)
		return;
	for (int i = 0; i < n_listeners; i++)
		watch(FIRST_FD + i, EPOLLIN | EPOLLEXCLUSIVE);
}

int main(int argc, char **argv)
{
	const char *count = getenv("LISTEN_FDS");
	struct epoll_event events[EVENTS];
	sigset_t set;

	if (argc > 1)
		most = atol(argv[1]);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	term_fd = signalfd(-1, &set, SFD_CLOEXEC);
	if (epoll_fd < 0 || term_fd < 0)
		die("cannot start");
	watch(term_fd, EPOLLIN);
	n_listeners = count ? atoi(count) : 0;
	for (int i = 0; i < n_listeners; i++) {
		(void)fcntl(FIRST_FD + i, F_SETFL, fcntl(FIRST_FD + i, F_GETFL) | O_NONBLOCK);
		watch(FIRST_FD + i, EPOLLIN | EPOLLEXCLUSIVE);
	}
	ready();
	for (;;) {
		int n = epoll_wait(epoll_fd, events, EVENTS, -1);

		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;

			if (fd == term_fd) {
				stamp();
				return 0;
			}
			if (fd >= FIRST_FD && fd < FIRST_FD + n_listeners)
				take(fd);
			else
				drop(fd);
		}
	}
}
