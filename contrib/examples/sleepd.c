/* SPDX-License-Identifier: MIT */
/* A small web server which answers late on purpose: GET /?sleep=2.5&size=1000&n=NAME. It shows what
 * a program needs in order to be replaced without loss, with nothing but libc and libev:
 *
 *  - it takes its listening sockets from LISTEN_FDS (and binds -l ADDRESS only when it runs alone),
 *  - it says READY=1 when it can serve, and not before,
 *  - on SIGTERM it takes what is still queued, answers what it has with "Connection: close",
 * leaves.
 *
 * The other options make it fail in the ways a bad release does. Its HTTP is in sleepd_http.c. */
#include "sleepd_http.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FIRST_FD 3 /* SD_LISTEN_FDS_START */
#define MAX_LISTENERS 64
#define ACCEPTS_AT_ONCE 4096
#define ACCEPT_BACKOFF 0.1 /* seconds, when descriptors or memory are short */

struct options {
	const char *listen;
	double ready_delay, crash_after;
	int no_notify, never_ready, ignore_term, fail_health, no_accept; /* set by getopt_long() */
};

struct server {
	struct ev_loop *loop;
	struct options options;
	ev_io listeners[MAX_LISTENERS];
	int n_listeners;
	ev_timer startup, crash, accept_again;
	ev_signal term, interrupt;
	struct http_server http;
};

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...)
{
	va_list ap;

	(void)fprintf(stderr, "sleepd[%d]: ", getpid());
	va_start(ap, format);
	(void)vfprintf(stderr, format, ap);
	va_end(ap);
	(void)fputc('\n', stderr);
	exit(1);
}

/* One datagram to the address in NOTIFY_SOCKET ("@name" is an abstract one), as sd_notify(3) does.
 * Nobody there to hear it is no reason to drop connections. */
static void notify(const struct server *s, const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	size_t n = path ? strlen(path) : 0;
	int fd;

	if (s->options.no_notify || !n || n >= sizeof to.sun_path)
		return;
	memcpy(to.sun_path, path, n);
	if (path[0] == '@')
		to.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || sendto(fd, state, strlen(state), MSG_NOSIGNAL, (void *)&to,
	                      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) < 0)
		(void)fprintf(stderr, "sleepd[%d]: cannot notify %s: %m\n", getpid(), path);
	if (fd >= 0)
		(void)close(fd);
}

/* -- Listeners, start and end -- */

/* Takes what is queued; false if it had to stop for want of descriptors or memory. */
static bool accept_queued(struct server *s, int listener)
{
	for (int i = 0; i < ACCEPTS_AT_ONCE; i++) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0)
			http_take(&s->http, fd);
		else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			return false;
		else if (errno != ECONNABORTED && errno != EINTR)
			break;
	}
	return true;
}

static void on_listener(struct ev_loop *loop, ev_io *w, int events)
{
	struct server *s = w->data;

	(void)events;
	if (accept_queued(s, w->fd))
		return;
	for (int i = 0; i < s->n_listeners; i++)
		ev_io_stop(loop, &s->listeners[i]);
	ev_timer_set(&s->accept_again, ACCEPT_BACKOFF, 0);
	ev_timer_start(loop, &s->accept_again);
}

static void start_accepting(struct ev_loop *loop, ev_timer *w, int events)
{
	struct server *s = w->data;

	(void)events;
	for (int i = 0; i < s->n_listeners && !s->options.no_accept; i++)
		ev_io_start(loop, &s->listeners[i]);
}

/* A descriptor is believed only when it is what it should be. */
static void add_listener(struct server *s, int fd)
{
	struct sockaddr_storage address;
	socklen_t size = sizeof address, int_size = sizeof(int);
	char host[128], port[16];
	int listens = 0, flags = fcntl(fd, F_GETFL);

	if (getsockname(fd, (void *)&address, &size) < 0 || flags < 0 ||
	        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &int_size) < 0 || !listens ||
	        s->n_listeners == MAX_LISTENERS)
		die("descriptor %d is not a listening socket or one too many", fd);
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		die("cannot set up descriptor %d: %s", fd, strerror(errno));
	ev_io_init(&s->listeners[s->n_listeners], on_listener, fd, EV_READ);
	s->listeners[s->n_listeners++].data = s;
	if (!getnameinfo((void *)&address, size, host, sizeof host, port, sizeof port,
	            NI_NUMERICHOST | NI_NUMERICSERV))
		(void)fprintf(stderr, "sleepd[%d]: listening on %s %s\n", getpid(), host, port);
}

/* "8080", "127.0.0.1:8080", "[::1]:8080". */
static void bind_listener(struct server *s, const char *where)
{
	const char *colon = strrchr(where, ':'), *port = colon ? colon + 1 : where;
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
	                        .ai_socktype = SOCK_STREAM},
	                *found = NULL;
	bool brackets = colon && *where == '[' && colon > where + 1 && colon[-1] == ']';
	char host[128];
	int fd, error;

	(void)snprintf(host, sizeof host, "%.*s", (int)(colon ? colon - where - 2 * brackets : 0),
	        where + brackets);
	error = getaddrinfo(*host ? host : NULL, port, &hints, &found);
	if (error)
		die("cannot understand the address %s: %s", where, gai_strerror(error));
	fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)) < 0 ||
	        bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0)
		die("cannot listen on %s: %s", where, strerror(errno));
	freeaddrinfo(found);
	add_listener(s, fd);
}

/* Those passed to this very process; a LISTEN_PID of somebody else means that they are not for us.
 */
static void open_listeners(struct server *s)
{
	const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
	int n = pid && count && atoi(pid) == getpid() ? atoi(count) : 0;

	for (int i = 0; i < n; i++)
		add_listener(s, FIRST_FD + i);
	if (!s->n_listeners && s->options.listen)
		bind_listener(s, s->options.listen);
	if (!s->n_listeners)
		die("no socket was passed (LISTEN_FDS), and no -l ADDRESS given");
}

static void on_started(struct ev_loop *loop, ev_timer *w, int events)
{
	struct server *s = w->data;

	open_listeners(s);
	start_accepting(loop, &s->accept_again, events);
	notify(s, "READY=1\nSTATUS=serving");
	if (s->options.crash_after > 0)
		ev_timer_start(loop, &s->crash);
}

static void on_crash(struct ev_loop *loop, ev_timer *w, int events)
{
	(void)loop, (void)w, (void)events;
	abort();
}

static void on_stop(struct ev_loop *loop, ev_signal *w, int events)
{
	struct server *s = w->data;

	(void)events;
	if (s->http.draining)
		return;
	notify(s, "STOPPING=1\nSTATUS=draining");
	ev_timer_stop(loop, &s->startup);
	ev_timer_stop(loop, &s->accept_again);
	for (int i = 0; i < s->n_listeners; i++) {
		ev_io_stop(loop, &s->listeners[i]);
		if (!s->options.no_accept)
			(void)accept_queued(s, s->listeners[i].fd);
		(void)close(s->listeners[i].fd);
	}
	http_drain(&s->http);
}

/* -- Command line -- */

static void usage(FILE *to)
{
	(void)fputs("Usage: sleepd [-l ADDRESS:PORT] [options]\n"
	            "  -l, --listen ADDRESS   bind this when no socket is passed by LISTEN_FDS\n"
	            "      --no-notify        do not say READY=1\n"
	            "      --ready-delay S    begin to listen and say READY=1 after S seconds\n"
	            "      --never-ready      never do so\n"
	            "      --no-accept        say READY=1, but leave connections in the queue\n"
	            "      --fail-health      answer GET /health with 503\n"
	            "      --exit-at-start N  exit with code N at once\n"
	            "      --crash-after S    abort S seconds after READY=1\n"
	            "      --ignore-term      do not stop on SIGTERM\n",
	        to);
}

static double seconds_option(const char *text)
{
	char *end = NULL;
	double seconds = strtod(text, &end);

	if (end == text || *end || !(seconds >= 0 && seconds <= 1e6))
		die("%s is not a number of seconds", text);
	return seconds;
}

static void parse_options(struct options *o, int argc, char **argv)
{
	const struct option table[] = {
	        {"listen", required_argument, NULL, 'l'},
	        {"ready-delay", required_argument, NULL, 'd'},
	        {"exit-at-start", required_argument, NULL, 'e'},
	        {"crash-after", required_argument, NULL, 'c'},
	        {"help", no_argument, NULL, 'h'},
	        {"no-notify", no_argument, &o->no_notify, 1},
	        {"never-ready", no_argument, &o->never_ready, 1},
	        {"ignore-term", no_argument, &o->ignore_term, 1},
	        {"fail-health", no_argument, &o->fail_health, 1},
	        {"no-accept", no_argument, &o->no_accept, 1},
	        {0},
	};

	for (int c; (c = getopt_long(argc, argv, "l:h", table, NULL)) >= 0;) {
		if (c == 'l') {
			o->listen = optarg;
		} else if (c == 'd') {
			o->ready_delay = seconds_option(optarg);
		} else if (c == 'c') {
			o->crash_after = seconds_option(optarg);
		} else if (c == 'e') {
			exit(atoi(optarg) & 0xff);
		} else if (c != 0) {
			usage(c == 'h' ? stdout : stderr);
			exit(c == 'h' ? 0 : 2);
		}
	}
	if (optind < argc) {
		usage(stderr);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct server s = {0};

	parse_options(&s.options, argc, argv);
	s.loop = ev_loop_new(EVFLAG_AUTO);
	if (!s.loop)
		die("cannot make an event loop");
	http_init(&s.http, s.loop);
	s.http.ill = s.options.fail_health;
	ev_timer_init(&s.startup, on_started, s.options.ready_delay, 0);
	ev_timer_init(&s.crash, on_crash, s.options.crash_after, 0);
	ev_timer_init(&s.accept_again, start_accepting, ACCEPT_BACKOFF, 0);
	ev_signal_init(&s.term, on_stop, SIGTERM);
	ev_signal_init(&s.interrupt, on_stop, SIGINT);
	s.startup.data = s.crash.data = s.accept_again.data = s.term.data = s.interrupt.data = &s;
	ev_signal_start(s.loop, &s.interrupt);
	if (s.options.ignore_term)
		(void)signal(SIGTERM, SIG_IGN);
	else
		ev_signal_start(s.loop, &s.term);
	if (!s.options.never_ready)
		ev_timer_start(s.loop, &s.startup);
	(void)ev_run(s.loop, 0);
	ev_loop_destroy(s.loop);
	return 0;
}
