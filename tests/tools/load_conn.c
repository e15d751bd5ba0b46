/* SPDX-License-Identifier: MIT */
/* One connection of the load: connects, sends requests, verifies answers, records what happened.
 *
 *   WAITING -> CONNECTING -> SENDING -> [PAUSED -> SENDING] -> RECEIVING -> THINKING -> SENDING …
 *                         -> HOLDING -> SENDING (when the load stops)
 *
 * A request begins with conn_open() on a new connection and with conn_request() on a reused one,
 * and ends in conn_answered() or conn_failed(), once. Short connections are freed after it, the
 * others go on until the load stops. */
#include "load.h"
#include "load_http.h"
#include "load_redis.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_REQUEST 512
#define UNIX_RETRY (5 * USEC_PER_MSEC)

enum conn_state {
	CONN_WAITING, /* no socket; is made again when the timer ends */
	CONN_CONNECTING,
	CONN_SENDING,
	CONN_PAUSED, /* between the halves of a request */
	CONN_RECEIVING,
	CONN_THINKING, /* between two requests */
	CONN_HOLDING,  /* connected and idle */
};

struct conn {
	ev_io io;
	ev_timer timer;
	ev_timer retry; /* pause of PAUSED, and of an attempt on a full UNIX queue */
	struct load *load;
	struct conn *next, **link; /* in load->conns */
	enum kind kind;
	enum conn_state state;
	const struct target *target;
	usec_t started;           /* of the request; for short ones when it was due */
	usec_t connected;         /* 0: not yet */
	uint64_t answers;         /* on this connection */
	uint64_t pid, generation; /* of the last answer */
	unsigned port;
	char request[MAX_REQUEST];
	size_t request_len, request_at, request_stop; /* sent up to request_stop, then a pause */
	struct http_response response;
	struct check check;
};

static void conn_open(struct conn *c);
static void conn_request(struct conn *c);

static void conn_free(struct conn *c)
{
	struct load *l = c->load;

	ev_timer_stop(l->loop, &c->timer);
	*c->link = c->next;
	if (c->next)
		c->next->link = c->link;
	if (c->kind == KIND_SHORT)
		l->outstanding--;
	free(c);
	load_check_finished(l);
}

static void set_timer(struct conn *c, ev_timer *timer, usec_t after)
{
	ev_timer_stop(c->load->loop, timer);
	ev_timer_set(timer, (double)after / USEC_PER_SEC, 0);
	ev_timer_start(c->load->loop, timer);
}

static void watch(struct conn *c, int events)
{
	if (ev_is_active(&c->io) && (c->io.events & (EV_READ | EV_WRITE)) == events)
		return;
	ev_io_stop(c->load->loop, &c->io);
	ev_io_set(&c->io, c->io.fd, events);
	ev_io_start(c->load->loop, &c->io);
}

static void conn_disconnect(struct conn *c)
{
	ev_io_stop(c->load->loop, &c->io);
	ev_timer_stop(c->load->loop, &c->retry);
	if (c->io.fd >= 0)
		(void)close(c->io.fd);
	c->io.fd = -1;
	http_done(&c->response);
}

/* The end of a connection, whatever its reason; frees it, or lets it begin again. */
static void conn_finish(struct conn *c)
{
	conn_disconnect(c);
	if (c->kind == KIND_SHORT || c->load->stopping) {
		conn_free(c);
		return;
	}
	c->state = CONN_WAITING;
	/* Never at once: a server which is down must not turn the client into a busy loop. */
	set_timer(c, &c->timer, c->load->options.think + USEC_PER_MSEC);
}

/* Examples name the port, so that a failure can be found in a packet dump. */
static void note_port(struct conn *c)
{
	struct sockaddr_storage local = {0};
	socklen_t size = sizeof local;

	if (c->io.fd < 0 || getsockname(c->io.fd, (void *)&local, &size) < 0)
		return;
	if (local.ss_family == AF_INET)
		c->port = ntohs(((struct sockaddr_in *)&local)->sin_port);
	else if (local.ss_family == AF_INET6)
		c->port = ntohs(((struct sockaddr_in6 *)&local)->sin6_port);
}

static void conn_failed(struct conn *c, enum failure class, int error, const char *detail)
{
	struct load *l = c->load;
	struct example e = {.at = load_now(),
	        .class = class,
	        .kind = c->kind,
	        .error = error,
	        .status = c->response.status,
	        .request = c->answers};

	if (!c->port)
		note_port(c);
	e.port = c->port;
	(void)copy_string(e.target, sizeof e.target, c->target->text);
	(void)copy_string(e.detail, sizeof e.detail, detail);
	stats_failure(&l->stats, &e);
	load_say(l, "%s: %s connection to %s, local port %u, after %" PRIu64 " answers: %s%s%s",
	        failure_names[class], kind_names[c->kind], e.target, c->port, c->answers, detail,
	        error ? ": " : "", error ? strerror(error) : "");
	conn_finish(c);
}

static void conn_failed_errno(struct conn *c, int error, const char *doing)
{
	enum failure class = error == ECONNREFUSED                   ? FAILURE_REFUSED
	                     : error == ECONNRESET || error == EPIPE ? FAILURE_RESET
	                     : error == ETIMEDOUT                    ? FAILURE_TIMEOUT
	                     : error == EADDRNOTAVAIL                ? FAILURE_CLIENT_PORTS
	                                                             : FAILURE_ERRNO;

	conn_failed(c, class, error, doing);
}

/* The answer is complete, but perhaps not right. */
static void conn_answered(struct conn *c)
{
	struct load *l = c->load;
	const struct load_options *o = &l->options;
	bool pattern = o->rule.mode == CHECK_PATTERN;
	const char *problem = check_end(&c->check);
	struct answer a = {.kind = c->kind,
	        .now = load_now(),
	        .connected = c->connected,
	        .known = pattern || c->response.has_pid || c->response.has_generation,
	        .pid = pattern ? c->check.pid : c->response.pid,
	        .generation = pattern ? c->check.generation : c->response.generation};

	if (c->response.status > 299) {
		conn_failed(c, FAILURE_STATUS, 0, "HTTP status");
		return;
	}
	if (problem) {
		conn_failed(c, FAILURE_WRONG, 0, problem);
		return;
	}
	a.latency = usec_sub(a.now, c->started);
	if (stats_answer(&l->stats, &a, o->stall))
		load_say(l, "first answer of pid %" PRIu64 ", generation %" PRIu64, a.pid,
		        a.generation);
	if (c->answers && (a.pid != c->pid || a.generation != c->generation))
		l->stats.moved++;
	c->pid = a.pid;
	c->generation = a.generation;
	c->answers++;
	if (c->response.close || l->stopping || c->kind != KIND_KEEPALIVE ||
	        c->answers == o->requests_per_connection) {
		conn_finish(c);
		return;
	}
	http_done(&c->response);
	c->state = CONN_THINKING;
	watch(c, EV_READ);
	set_timer(c, &c->timer, o->think);
}

/* -- Requests -- */

static void on_body(void *data, const char *p, size_t n)
{
	struct conn *c = data;

	check_bytes(&c->check, p, n);
}

static int write_redis_request(struct conn *c)
{
	const struct load_options *o = &c->load->options;
	char wait[80] = "";

	if (c->kind == KIND_SLOW)
		(void)snprintf(wait, sizeof wait, "BLPOP handoff-load %.3f\r\n",
		        (double)o->slow_time / USEC_PER_SEC);
	return snprintf(c->request, sizeof c->request, "%sGET %s\r\n", wait, o->path);
}

static int write_http_request(struct conn *c, const char *nonce)
{
	const struct load_options *o = &c->load->options;
	char sleep[40] = "";

	if (c->kind == KIND_SLOW)
		(void)snprintf(
		        sleep, sizeof sleep, "&sleep=%.3f", (double)o->slow_time / USEC_PER_SEC);
	return snprintf(c->request, sizeof c->request,
	        "GET %s%cn=%s&size=%" PRIu64 "%s HTTP/1.1\r\nHost: handoff-load\r\n%s\r\n", o->path,
	        strchr(o->path, '?') ? '&' : '?', nonce, o->size, sleep,
	        c->kind == KIND_KEEPALIVE ? "" : "Connection: close\r\n");
}

static void make_request(struct conn *c)
{
	struct load *l = c->load;
	const struct load_options *o = &l->options;
	char nonce[MAX_NONCE] = "";
	int n;

	if (!o->fixed && !o->redis)
		(void)snprintf(
		        nonce, sizeof nonce, "%08" PRIx32 "-%" PRIu64, l->run, l->next_nonce++);
	n = o->redis ? write_redis_request(c) : write_http_request(c, nonce);
	HO_ASSERT(n > 0 && (size_t)n < sizeof c->request); /* the path is bounded */
	c->request_len = (size_t)n;
	c->request_at = 0;
	c->request_stop = c->kind == KIND_PARTIAL ? c->request_len / 2 : c->request_len;
	check_init(&c->check, &o->rule, nonce, o->size);
	http_init(&c->response, on_body, c);
}

static void conn_send(struct conn *c)
{
	while (c->request_at < c->request_stop) {
		ssize_t n = send(c->io.fd, c->request + c->request_at,
		        c->request_stop - c->request_at, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			watch(c, EV_READ | EV_WRITE);
			return;
		}
		if (n < 0) {
			conn_failed_errno(c, errno, "cannot send");
			return;
		}
		c->request_at += (size_t)n;
	}
	watch(c, EV_READ); /* also within a pause: the server may refuse to wait */
	if (c->request_stop == c->request_len) {
		c->state = CONN_RECEIVING;
		return;
	}
	c->state = CONN_PAUSED;
	c->request_stop = c->request_len;
	set_timer(c, &c->retry, c->load->options.partial_gap);
}

static void conn_request(struct conn *c)
{
	make_request(c);
	c->state = CONN_SENDING;
	conn_send(c);
}

/* A request on a connection which exists already. */
static void conn_request_again(struct conn *c)
{
	if (c->kind != KIND_HOLD) /* counted when it was opened */
		c->load->stats.started[c->kind]++;
	c->started = load_now();
	set_timer(c, &c->timer, c->load->options.timeout);
	conn_request(c);
}

/* The server ended the connection. */
static void conn_ended(struct conn *c)
{
	if (c->state == CONN_THINKING) {
		c->load->stats.idle_closed++;
		conn_finish(c);
	} else if (c->state == CONN_HOLDING) {
		c->load->stats.hold_closed++;
		conn_finish(c);
	} else if (http_end(&c->response)) {
		conn_answered(c);
	} else if (c->response.started) {
		conn_failed(c, FAILURE_TRUNCATED, 0, "closed within the answer");
	} else if (c->answers) {
		conn_failed(c, FAILURE_KEEPALIVE_RACE, 0,
		        "closed before the answer to a further request");
	} else {
		conn_failed(c, FAILURE_EOF, 0, "closed before the answer");
	}
}

static void conn_take(struct conn *c, const char *p, size_t n)
{
	size_t used = 0;
	int error;

	if (c->state == CONN_THINKING || c->state == CONN_HOLDING) {
		conn_failed(c, FAILURE_WRONG, 0, "bytes which nobody asked for");
		return;
	}
	error = (c->load->options.redis ? redis_feed : http_feed)(&c->response, p, n, &used);
	if (error == -EPROTO)
		conn_failed(c, FAILURE_WRONG, 0, c->response.problem);
	else if (error)
		conn_failed_errno(c, -error, "cannot keep the answer");
	else if (used < n)
		conn_failed(c, FAILURE_WRONG, 0, "bytes behind the answer");
	else if (c->response.state == HTTP_COMPLETE)
		conn_answered(c);
}

static void conn_receive(struct conn *c)
{
	static char buffer[65536];
	ssize_t n = recv(c->io.fd, buffer, sizeof buffer, 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0)
		conn_failed_errno(c, errno, "cannot receive");
	else if (n == 0)
		conn_ended(c);
	else
		conn_take(c, buffer, (size_t)n);
}

/* -- Connecting -- */

static void conn_connected(struct conn *c)
{
	struct load *l = c->load;

	c->connected = load_now();
	note_port(c);
	if (c->kind != KIND_HOLD || l->stopping) {
		conn_request(c);
		return;
	}
	c->state = CONN_HOLDING;
	watch(c, EV_READ);
	ev_timer_stop(l->loop, &c->timer);
}

/* With a port only from connect() on, one address serves all ports to each destination. */
static int bind_source(struct load *l, const struct target *t, int fd)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	const struct sockaddr_in *to = (const struct sockaddr_in *)&t->address;

	if (!l->options.spread || to->sin_family != AF_INET ||
	        ntohl(to->sin_addr.s_addr) >> 24 != 127)
		return 0;
	a.sin_addr.s_addr = htonl(0x7f000001 + (uint32_t)(l->next_source++ % l->options.spread));
	if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){1}, sizeof(int)) < 0 ||
	        bind(fd, (struct sockaddr *)&a, sizeof a) < 0)
		return -errno;
	return 0;
}

static void conn_try(struct conn *c)
{
	int error;

	if (!connect(c->io.fd, (const struct sockaddr *)&c->target->address, c->target->length)) {
		conn_connected(c);
		return;
	}
	error = errno;
	if (error == EINPROGRESS || error == EINTR) {
		watch(c, EV_WRITE);
	} else if (error == EAGAIN && c->target->address.ss_family == AF_UNIX) {
		/* Its queue is full, where a blocking client would wait; no event tells the end. */
		c->load->stats.queue_full++;
		set_timer(c, &c->retry, UNIX_RETRY);
	} else {
		conn_failed_errno(c, error, "cannot connect");
	}
}

static void conn_open(struct conn *c)
{
	struct load *l = c->load;
	int error, fd;

	l->stats.started[c->kind]++;
	c->target = &l->options.targets[l->next_target++ % l->options.n_targets];
	c->answers = 0;
	c->connected = 0;
	c->port = 0;
	c->response = (struct http_response){0};
	c->state = CONN_CONNECTING;
	set_timer(c, &c->timer, l->options.timeout);
	fd = socket(c->target->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		conn_failed_errno(c, errno, "cannot make a socket");
		return;
	}
	ev_io_set(&c->io, fd, EV_WRITE);
	error = bind_source(l, c->target, fd);
	if (error)
		conn_failed_errno(c, -error, "cannot bind the source address");
	else
		conn_try(c);
}

/* -- Events -- */

static void on_conn_io(struct ev_loop *loop, ev_io *w, int events)
{
	struct conn *c = w->data;
	socklen_t size = sizeof(int);
	int error = 0;

	(void)loop;
	if (c->state == CONN_CONNECTING) {
		if (getsockopt(w->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
			error = errno;
		if (error)
			conn_failed_errno(c, error, "cannot connect");
		else
			conn_connected(c);
	} else if (events & EV_READ) {
		conn_receive(c);
	} else {
		conn_send(c);
	}
}

/* The time limit of a request, or the end of a pause between two. */
static void on_conn_timer(struct ev_loop *loop, ev_timer *w, int events)
{
	struct conn *c = w->data;

	(void)loop, (void)events;
	if (c->state == CONN_WAITING) {
		c->started = load_now();
		conn_open(c);
	} else if (c->state == CONN_THINKING) {
		conn_request_again(c);
	} else {
		conn_failed(c, FAILURE_TIMEOUT, 0,
		        c->connected ? "no answer in time" : "not connected in time");
	}
}

static void on_conn_retry(struct ev_loop *loop, ev_timer *w, int events)
{
	struct conn *c = w->data;

	(void)loop, (void)events;
	if (c->state == CONN_PAUSED) {
		c->state = CONN_SENDING;
		conn_send(c);
	} else {
		conn_try(c);
	}
}

void conn_start(struct load *l, enum kind kind, usec_t due)
{
	struct conn *c = calloc(1, sizeof *c);

	HO_ASSERT(c); /* a client short of memory measures nothing */
	c->load = l;
	c->kind = kind;
	c->started = due;
	c->target = &l->options.targets[0];
	ev_io_init(&c->io, on_conn_io, -1, 0);
	ev_timer_init(&c->timer, on_conn_timer, 0, 0);
	ev_timer_init(&c->retry, on_conn_retry, 0, 0);
	c->io.data = c->timer.data = c->retry.data = c;
	c->next = l->conns;
	c->link = &l->conns;
	if (c->next)
		c->next->link = &c->next;
	l->conns = c;
	if (kind == KIND_SHORT && ++l->outstanding > l->stats.outstanding_max)
		l->stats.outstanding_max = l->outstanding;
	conn_open(c);
}

void conns_stop(struct load *l)
{
	struct conn *next;

	for (struct conn *c = l->conns; c; c = next) {
		next = c->next;
		if (c->state == CONN_WAITING || c->state == CONN_THINKING)
			conn_finish(c);
		else if (c->state == CONN_HOLDING)
			conn_request_again(c);
	}
}

void conns_give_up(struct load *l)
{
	while (l->conns)
		conn_failed(l->conns, FAILURE_TIMEOUT, 0, "no answer until the end");
}
