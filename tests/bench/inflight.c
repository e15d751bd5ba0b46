/* SPDX-License-Identifier: MIT */
/* What counting in libhandoff costs: bench-inflight WINDOWS. It prints
 *
 *     request NSEC      begin and end of a request
 *     connection NSEC   begin and end of a connection
 *     served NSEC       a request to sleepd without counting, of its processor time
 *     ratio R           sleepd's throughput with counting by that without
 *
 * The server is sleepd's own, with one loop; its client is another process with some connections,
 * each of which sends a request as soon as it has the answer. Counting is on and off in turns of
 * some milliseconds, so that whatever else the machine does is the same for both. */
#include <errno.h>
#include <ev.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../contrib/examples/sleepd_http.h"
#include "handoff.h"

#define CONNECTIONS 16
#define REQUESTS 400 /* of a window */
#define ROUNDS 2000000

static struct ev_loop *loop;
static bool counting;
static unsigned served, windows, windows_wanted;
static long long since, spent[2];
static unsigned long long requests[2];

static void die(const char *what)
{
	(void)fprintf(stderr, "bench-inflight: %s: %s\n", what, strerror(errno));
	exit(1);
}

static long long nsec(clockid_t clock)
{
	struct timespec t;

	(void)clock_gettime(clock, &t);
	return (long long)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void end_window(void)
{
	long long now = nsec(CLOCK_THREAD_CPUTIME_ID);

	if (windows > 1) { /* the first ones warm up */
		spent[counting] += now - since;
		requests[counting] += served;
	}
	served = 0;
	/* on off off on: what drifts drifts for both */
	counting = ++windows % 4 == 1 || windows % 4 == 2;
	since = nsec(CLOCK_THREAD_CPUTIME_ID);
	if (windows >= windows_wanted)
		ev_break(loop, EVBREAK_ALL);
}

/* What sleepd_http.c is compiled with in place of the library's own. Requests do not overlap, so
 * that none is begun with counting and ended without. */
void bench_request_begin(struct handoff_connection *c);
void bench_request_end(struct handoff_connection *c);

void bench_request_begin(struct handoff_connection *c)
{
	if (counting)
		handoff_request_begin(c);
}

void bench_request_end(struct handoff_connection *c)
{
	if (counting)
		handoff_request_end(c);
	if (++served == REQUESTS)
		end_window();
}

static _Noreturn void be_client(const int *fds, const int *others)
{
	struct pollfd polls[CONNECTIONS];
	static const char request[] = "GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
	char answer[1024];

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int i = 0; i < CONNECTIONS; i++) {
		(void)close(others[i]);
		polls[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
		if (send(fds[i], request, sizeof request - 1, MSG_NOSIGNAL) < 0)
			_exit(1);
	}
	while (poll(polls, CONNECTIONS, -1) > 0)
		for (int i = 0; i < CONNECTIONS; i++)
			if (polls[i].revents && (recv(fds[i], answer, sizeof answer, 0) <= 0 ||
			                                send(fds[i], request, sizeof request - 1,
			                                        MSG_NOSIGNAL) < 0))
				_exit(0);
	_exit(0);
}

static double measure_ratio(struct handoff *h)
{
	struct http_server server;
	int theirs[CONNECTIONS], ours[CONNECTIONS];
	int listener = handoff_listen(NULL, "127.0.0.1:0");
	struct sockaddr_in address;
	socklen_t size = sizeof address;
	pid_t pid;

	if (listener < 0 || getsockname(listener, (struct sockaddr *)&address, &size) < 0)
		die("listen");
	for (int i = 0; i < CONNECTIONS; i++) {
		theirs[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (theirs[i] < 0 || connect(theirs[i], (struct sockaddr *)&address, size) < 0)
			die("connect");
		ours[i] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (ours[i] < 0 ||
		        setsockopt(ours[i], IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)) < 0)
			die("accept");
	}
	(void)close(listener);
	pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0)
		be_client(theirs, ours);
	http_init(&server, loop, h);
	for (int i = 0; i < CONNECTIONS; i++) {
		struct handoff_connection *c = handoff_connection_new(h, ours[i]);

		(void)close(theirs[i]);
		if (!c)
			die("handoff_connection_new");
		http_take(&server, c, ours[i]);
	}
	since = nsec(CLOCK_THREAD_CPUTIME_ID);
	(void)ev_run(loop, 0);
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
	return ((double)requests[1] / (double)spent[1]) / ((double)requests[0] / (double)spent[0]);
}

int main(int argc, char **argv)
{
	struct handoff *h = NULL;
	struct handoff_connection *c;
	long long at;

	windows_wanted = argc == 2 ? (unsigned)atoi(argv[1]) + 2 : 0;
	loop = ev_loop_new(EVFLAG_AUTO);
	if (windows_wanted < 6 || !loop || handoff_new(loop, &h) < 0)
		die("usage: bench-inflight WINDOWS, 4 or more");
	c = handoff_connection_new(h, -1);
	if (!c)
		die("handoff_connection_new");
	at = nsec(CLOCK_THREAD_CPUTIME_ID);
	for (int i = 0; i < ROUNDS; i++) {
		handoff_request_begin(c);
		handoff_request_end(c);
	}
	(void)printf("request %.2f\n", (double)(nsec(CLOCK_THREAD_CPUTIME_ID) - at) / ROUNDS);
	handoff_connection_end(c);
	at = nsec(CLOCK_THREAD_CPUTIME_ID);
	for (int i = 0; i < ROUNDS; i++)
		handoff_connection_end(handoff_connection_new(h, -1));
	(void)printf("connection %.2f\n", (double)(nsec(CLOCK_THREAD_CPUTIME_ID) - at) / ROUNDS);
	(void)printf("ratio %.4f\n", measure_ratio(h));
	(void)printf("served %.0f\n", (double)spent[0] / (double)requests[0]);
	handoff_free(h);
	ev_loop_destroy(loop);
	return 0;
}
