/* SPDX-License-Identifier: MIT */
/* A small web server which answers late on purpose: GET /?sleep=2.5&size=1000&n=NAME. It shows how
 * a program uses libhandoff in order to be replaced without loss:
 *
 *  - it takes the sockets that were passed to it, and binds -l ADDRESS only when it runs alone,
 *  - it says that it is ready when it can serve, and not before,
 *  - it counts its connections and requests,
 *  - when it is told to drain (by handoffd, or by SIGTERM) it takes what is still queued, answers
 *    what it has with "Connection: close", gives idle clients a moment, and leaves.
 *
 * The other options make it fail in the ways a bad release does. Its HTTP is in sleepd_http.c. */
#include "sleepd_http.h"

#include "handoff.h"

#include <errno.h>
#include <ev.h>
#include <getopt.h>
#include <netdb.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define GRACE 2.0 /* seconds in which an idle client may still send a request */

struct options {
	const char *listen;
	double ready_delay, crash_after, grace;
	int no_notify, never_ready, ignore_term, fail_health, no_accept; /* set by getopt_long() */
};

struct server {
	struct ev_loop *loop;
	struct handoff *handoff;
	struct options options;
	ev_timer startup, crash;
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

/* Nobody there to hear it is no reason to drop connections. */
static void say(const struct server *s, const char *status)
{
	int r = s->options.no_notify ? 0 : handoff_status(status);

	if (r < 0)
		(void)fprintf(stderr, "sleepd[%d]: cannot notify: %s\n", getpid(), strerror(-r));
}

/* -- Listeners, start and end -- */

static void on_connection(struct handoff_connection *c, int fd, void *data)
{
	struct server *s = data;

	http_take(&s->http, c, fd);
}

static void tell_address(int fd)
{
	struct sockaddr_storage address;
	socklen_t size = sizeof address;
	char host[128], port[16];

	if (!getsockname(fd, (void *)&address, &size) &&
	        !getnameinfo((void *)&address, size, host, sizeof host, port, sizeof port,
	                NI_NUMERICHOST | NI_NUMERICSERV))
		(void)fprintf(stderr, "sleepd[%d]: listening on %s %s\n", getpid(), host, port);
}

static void add_listener(struct server *s, int fd)
{
	int r = fd;

	if (fd >= 0) {
		tell_address(fd);
		r = s->options.no_accept ? 0 : handoff_accept(s->handoff, fd, on_connection, s);
	}
	if (r < 0)
		die("cannot listen: %s", strerror(-r));
}

/* All that were passed; else it runs alone, and binds its own address. */
static void open_listeners(struct server *s)
{
	int n = handoff_listeners();

	for (int i = 0; i < n; i++)
		add_listener(s, handoff_listener(NULL, i));
	if (n <= 0 && !s->options.listen)
		die("no socket was passed (LISTEN_FDS), and no -l ADDRESS given");
	if (n <= 0)
		add_listener(s, handoff_listen(NULL, s->options.listen));
}

static void on_started(struct ev_loop *loop, ev_timer *w, int events)
{
	struct server *s = w->data;

	(void)events;
	open_listeners(s);
	if (!s->options.no_notify)
		(void)handoff_ready(s->handoff);
	say(s, "serving");
	if (s->options.crash_after > 0)
		ev_timer_start(loop, &s->crash);
}

static void on_crash(struct ev_loop *loop, ev_timer *w, int events)
{
	(void)loop, (void)w, (void)events;
	abort();
}

/* handoffd has told it by message, or somebody by SIGTERM. */
static void on_drain(struct handoff *handoff, void *data)
{
	struct server *s = data;

	(void)handoff;
	ev_timer_stop(s->loop, &s->startup);
	say(s, "draining");
}

static void on_signal(struct ev_loop *loop, ev_signal *w, int events)
{
	struct server *s = w->data;

	(void)loop;
	(void)events;
	handoff_drain(s->handoff, -1);
}

/* -- Command line -- */

static void usage(FILE *to)
{
	(void)fputs("Usage: sleepd [-l ADDRESS:PORT] [options]\n"
	            "  -l, --listen ADDRESS   bind this when no socket is passed by LISTEN_FDS\n"
	            "      --grace S          how long idle clients are kept in a drain (2)\n"
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
	        {"grace", required_argument, NULL, 'g'},
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
		} else if (c == 'g') {
			o->grace = seconds_option(optarg);
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
	struct server s = {.options.grace = GRACE};
	int r;

	parse_options(&s.options, argc, argv);
	s.loop = ev_loop_new(EVFLAG_AUTO);
	if (!s.loop)
		die("cannot make an event loop");
	r = handoff_new(s.loop, &s.handoff);
	if (r < 0)
		die("cannot begin: %s", strerror(-r));
	handoff_on_drain(s.handoff, on_drain, &s);
	handoff_set_grace(s.handoff, s.options.grace);
	http_init(&s.http, s.loop, s.handoff);
	s.http.ill = s.options.fail_health;
	ev_timer_init(&s.startup, on_started, s.options.ready_delay, 0);
	ev_timer_init(&s.crash, on_crash, s.options.crash_after, 0);
	ev_signal_init(&s.term, on_signal, SIGTERM);
	ev_signal_init(&s.interrupt, on_signal, SIGINT);
	s.startup.data = s.crash.data = s.term.data = s.interrupt.data = &s;
	ev_signal_start(s.loop, &s.interrupt);
	if (s.options.ignore_term)
		(void)signal(SIGTERM, SIG_IGN);
	else
		ev_signal_start(s.loop, &s.term);
	if (!s.options.never_ready)
		ev_timer_start(s.loop, &s.startup);
	(void)ev_run(s.loop, 0);
	handoff_free(s.handoff);
	ev_loop_destroy(s.loop);
	return 0;
}
