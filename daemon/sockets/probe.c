/* SPDX-License-Identifier: MIT */
/* See probe.h. One attempt at a time; between attempts nothing is held, not even the way to the
 * generation, so that others may probe the same address. */
#include "sockets/probe.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "sockets/forms.h"
#include "sockets/listener.h"
#include "system/fd.h"

#define REPLY_MAX 8192
#define REPLY_TIMEOUT 5.0
#define RETRY_FIRST 0.005
#define RETRY_MAX 0.2

enum probe_state {
	PROBE_PAUSE,    /* the timer begins the next attempt */
	PROBE_CONNECT,  /* waits for the connection */
	PROBE_IN_QUEUE, /* connected, the timer looks whether it was taken */
	PROBE_ASKED,    /* the request is sent */
	PROBE_OVER,     /* `done` was called */
};

struct probe {
	struct ev_loop *loop;
	struct listener_set *set;
	size_t i;
	enum probe_kind kind;
	char *path;
	probe_done done;
	void *data;
	enum probe_state state;
	int fd;
	struct ev_io io;
	struct ev_timer timer;
	double retry;  /* seconds until the next attempt, if this one fails */
	usec_t queued; /* since when it is in the queue */
	bool nudged;   /* a byte was sent to a listener that waits for one */
	char status[200];
	char reply[REPLY_MAX + 1];
	size_t n_reply;
};

static void set_timer(struct probe *p, double seconds)
{
	ev_timer_stop(p->loop, &p->timer);
	ev_timer_set(&p->timer, seconds, 0.);
	ev_timer_start(p->loop, &p->timer);
}

static void set_io(struct probe *p, int events)
{
	ev_io_stop(p->loop, &p->io);
	ev_io_set(&p->io, p->fd, events);
	ev_io_start(p->loop, &p->io);
}

/* A connection that nobody has accepted would stay in the queue for ever, and the generation would
 * never be quiet. It is taken out only when it is all there is, so that it is no client's; and only
 * where accept(2) cannot block. */
static void take_back(const struct probe *p)
{
	unsigned queue, limit;
	int fd;

	if (listener_set_fds(p->set, p->i, &fd, 1) == 0)
		return;
	if (p->state != PROBE_IN_QUEUE && p->state != PROBE_ASKED)
		return;
	if (listener_took(p->fd) != 0 || !(fcntl(fd, F_GETFL) & O_NONBLOCK))
		return;
	if (listener_set_queue(p->set, p->i, &queue, &limit) == 0 && queue == 1)
		(void)close_fd(accept4(fd, NULL, NULL, SOCK_CLOEXEC));
}

static void end_attempt(struct probe *p)
{
	ev_io_stop(p->loop, &p->io);
	ev_timer_stop(p->loop, &p->timer);
	if (p->fd >= 0) {
		take_back(p);
		listener_set_probe_end(p->set, p->i);
	}
	p->fd = close_fd(p->fd);
	p->state = PROBE_PAUSE;
}

static void try_again(struct probe *p, const char *why)
{
	end_attempt(p);
	(void)copy_string(p->status, sizeof p->status, why);
	set_timer(p, p->retry);
	p->retry = p->retry * 2 < RETRY_MAX ? p->retry * 2 : RETRY_MAX;
}

/* The callback may free the probe. */
static void finish(struct probe *p, bool ok, const char *text)
{
	end_attempt(p);
	(void)copy_string(p->status, sizeof p->status, text);
	p->state = PROBE_OVER;
	p->done(p->data, ok, p->status);
}

static void wait_in_queue(struct probe *p)
{
	double waited = (double)(now_usec() - p->queued) / (double)USEC_PER_SEC;

	set_timer(p, waited < 1. ? 0.001 : waited < 10. ? 0.002 : 0.005);
}

/* ---- HTTP ---- */

/* A wildcard is no name of a host, and many frameworks refuse what they do not know. */
static void name_host(const struct probe *p, char *ret, size_t size)
{
	const struct address *a = &listener_set_info(p->set, p->i).config->address;
	const char *form = listener_set_form(p->set, p->i, ret, size);
	struct text t = {.p = ret, .size = size};

	if (a->kind == ADDRESS_TCP && !form_is_wildcard(a))
		memmove(ret, form + 4, strlen(form + 4) + 1);
	else
		text_add(&t, a->kind == ADDRESS_TCP ? "localhost:%u" : "localhost", a->port);
}

static int send_request(const struct probe *p)
{
	char request[2048], host[160];
	int n;

	name_host(p, host, sizeof host);
	n = snprintf(request, sizeof request,
	        "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: handoffd-probe\r\nAccept: "
	        "*/*\r\nConnection: close\r\n\r\n",
	        p->path, host);

	if (n < 0 || (size_t)n >= sizeof request)
		return -EMSGSIZE;
	/* An empty send buffer takes it whole. */
	if (send(p->fd, request, (size_t)n, MSG_NOSIGNAL) != n)
		return errno ? -errno : -EIO;
	return 0;
}

/* -EAGAIN while the status line is not complete, -EPROTO if it is none. */
static int reply_code(const struct probe *p)
{
	const char *end = memchr(p->reply, '\n', p->n_reply), *code = p->reply + 9;

	if (!end)
		return p->n_reply < REPLY_MAX ? -EAGAIN : -EPROTO;
	if (end - p->reply < 12 || strncmp(p->reply, "HTTP/1.", 7) != 0 || p->reply[8] != ' ')
		return -EPROTO;
	for (int i = 0; i < 3; i++)
		if (code[i] < '0' || code[i] > '9')
			return -EPROTO;
	return (code[0] - '0') * 100 + (code[1] - '0') * 10 + code[2] - '0';
}

static void on_reply(struct probe *p)
{
	ssize_t n = 1;
	char text[160];
	int code;

	/* Reads beyond the status line, because a close with something unread would reset the
	 * server. */
	while (n > 0 && p->n_reply < REPLY_MAX) {
		n = recv(p->fd, p->reply + p->n_reply, REPLY_MAX - p->n_reply, 0);
		if (n > 0)
			p->n_reply += (size_t)n;
	}
	code = reply_code(p);
	if (code == -EAGAIN && n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (code == -EAGAIN) {
		try_again(p, n < 0 ? "the connection was reset before an answer"
		                   : "the connection was closed without an answer");
		return;
	}
	if (code < 0)
		(void)snprintf(
		        text, sizeof text, "what answers at %.100s does not speak HTTP/1", p->path);
	else
		(void)snprintf(text, sizeof text, "HTTP %d from %.100s", code, p->path);
	if (code >= 200 && code < 300)
		finish(p, true, text);
	else
		try_again(p, text);
}

/* ---- attempts ---- */

/* A server that speaks first or closes at once has taken it; a reset says nothing. */
static void on_answer_in_queue(struct probe *p)
{
	char byte;
	ssize_t n = recv(p->fd, &byte, 1, MSG_PEEK);

	if (n >= 0)
		finish(p, true, "the connection was accepted");
	else if (errno != EAGAIN && errno != EINTR)
		try_again(p, "the connection was reset before it was accepted");
}

/* With TCP_DEFER_ACCEPT (Apache, "deferred" of nginx) a connection reaches the program when the
 * client has said something: an empty line, which servers of HTTP pass over (RFC 9112, 2.2). */
static void nudge(struct probe *p)
{
	int fd, seconds = 0;
	socklen_t n = sizeof seconds;

	if (p->nudged || listener_set_fds(p->set, p->i, &fd, 1) == 0 ||
	        getsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, &n) < 0 || seconds == 0)
		return;
	p->nudged = send(p->fd, "\r\n", 2, MSG_NOSIGNAL) == 2;
}

static void look_into_queue(struct probe *p)
{
	int r = listener_took(p->fd);

	if (r == 0)
		nudge(p);
	if (r > 0)
		finish(p, true, "the connection was accepted");
	else if (r == 0 || r == -ENOENT) /* gone: its end is about to be read */
		wait_in_queue(p);
	else
		try_again(p, strerror(-r));
}

static void on_connected(struct probe *p)
{
	int error = 0, r;
	socklen_t n = sizeof error;
	char text[160];

	if (getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0)
		error = errno;
	if (error) {
		(void)snprintf(text, sizeof text, "cannot connect: %s", strerror(error));
		try_again(p, text);
		return;
	}
	set_io(p, EV_READ);
	if (p->kind != PROBE_HTTP) {
		p->state = PROBE_IN_QUEUE;
		p->nudged = false;
		p->queued = now_usec();
		(void)copy_string(
		        p->status, sizeof p->status, "the connection waits to be accepted");
		look_into_queue(p);
		return;
	}
	r = send_request(p);
	if (r < 0) {
		(void)snprintf(text, sizeof text, "cannot send the request: %s", strerror(-r));
		try_again(p, text);
		return;
	}
	p->state = PROBE_ASKED;
	p->n_reply = 0;
	(void)copy_string(p->status, sizeof p->status, "no answer yet");
}

static void begin_attempt(struct probe *p)
{
	struct sockaddr_storage to;
	struct ho_error error = {0};
	socklen_t n;
	int r;

	if (p->kind == PROBE_LISTENING &&
	        listener_set_info(p->set, p->i).origin == ORIGIN_ADOPTED) {
		finish(p, true, "the program's socket listens");
		return;
	}
	r = listener_set_probe_begin(p->set, p->i, &p->fd, &to, &n, &error);

	if (r == -EOPNOTSUPP) {
		finish(p, false, error.text);
		return;
	}
	if (r < 0) {
		p->fd = -1;
		try_again(p, error.text);
		return;
	}
	p->state = PROBE_CONNECT;
	set_timer(p, REPLY_TIMEOUT);
	if (connect(p->fd, (struct sockaddr *)&to, n) == 0) {
		on_connected(p);
	} else if (errno == EINPROGRESS) {
		set_io(p, EV_WRITE);
	} else {
		char text[160];

		(void)snprintf(text, sizeof text, "cannot connect: %s", strerror(errno));
		try_again(p, text);
	}
}

static void on_io(struct ev_loop *loop, struct ev_io *w, int revents)
{
	struct probe *p = w->data;

	(void)loop;
	(void)revents;
	switch (p->state) {
	case PROBE_PAUSE:
	case PROBE_OVER:
		break;
	case PROBE_CONNECT:
		on_connected(p);
		break;
	case PROBE_IN_QUEUE:
		on_answer_in_queue(p);
		break;
	case PROBE_ASKED:
		on_reply(p);
		break;
	}
}

static void on_timer(struct ev_loop *loop, struct ev_timer *w, int revents)
{
	struct probe *p = w->data;

	(void)loop;
	(void)revents;
	switch (p->state) {
	case PROBE_PAUSE:
		begin_attempt(p);
		break;
	case PROBE_CONNECT:
		try_again(p, "no connection within 5 s");
		break;
	case PROBE_IN_QUEUE:
		look_into_queue(p);
		break;
	case PROBE_ASKED:
		try_again(p, "no answer within 5 s");
		break;
	case PROBE_OVER:
		break;
	}
}

static bool is_request_path(const char *path)
{
	size_t n = strlen(path);

	for (const char *c = path; *c; c++)
		if ((unsigned char)*c <= ' ' || *c == 0x7f)
			return false;
	return path[0] == '/' && n <= 1024;
}

int probe_new(struct ev_loop *loop, struct listener_set *set, size_t i, enum probe_kind kind,
        const char *path, probe_done done, void *data, struct probe **ret, struct ho_error *reterr)
{
	struct probe *p;

	if (kind == PROBE_HTTP && (!path || !is_request_path(path)))
		return ho_error_set(reterr, -EINVAL,
		        "cannot probe \"http:%s\": a path begins with / and has no blanks",
		        path ? path : "");
	p = calloc(1, sizeof *p);
	if (p && path)
		p->path = strdup(path);
	if (!p || (path && !p->path)) {
		free(p);
		return ho_error_set(reterr, -ENOMEM, "no memory for a probe");
	}
	p->loop = loop;
	p->set = set;
	p->i = i;
	p->kind = kind;
	p->done = done;
	p->data = data;
	p->fd = -1;
	p->retry = RETRY_FIRST;
	(void)copy_string(p->status, sizeof p->status, "not tried yet");
	ev_io_init(&p->io, on_io, -1, 0);
	ev_timer_init(&p->timer, on_timer, 0., 0.);
	p->io.data = p->timer.data = p;
	/* From the loop, so that `done` is never called before we have returned. */
	ev_timer_start(loop, &p->timer);
	*ret = p;
	return 0;
}

void probe_hurry(struct probe *p)
{
	if (p->state == PROBE_OVER)
		return;
	end_attempt(p);
	p->retry = RETRY_FIRST;
	set_timer(p, 0.);
}

const char *probe_status(const struct probe *p)
{
	return p->state == PROBE_OVER ? NULL : p->status;
}

struct probe *probe_free(struct probe *p)
{
	if (!p)
		return NULL;
	end_attempt(p);
	free(p->path);
	free(p);
	return NULL;
}
