/* SPDX-License-Identifier: MIT */
#include "terminal/browser.h"

#include <errno.h>
#include <ev.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "system/fd.h"

#define BROWSERS_MAX 128
#define REQUEST_MAX 8192

static const char script[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/javascript\r\nCache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
        "new EventSource(new URL(\"/events\", document.currentScript.src)).onmessage = () => "
        "location.reload();\n";
static const char stream[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
        "Access-Control-Allow-Origin: *\r\nConnection: close\r\n\r\n: open\n\n";
static const char nothing[] =
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
static const char message[] = "data: reload\n\n";

struct browser {
	struct browsers *browsers;
	struct browser *next, **link;
	int fd;
	ev_io io;
	bool listens; /* to events: nothing more is read of it but its end */
	size_t length;
	char request[REQUEST_MAX];
};

struct browsers {
	struct ev_loop *loop;
	int fds[2];
	ev_io ios[2];
	struct browser *first;
	unsigned n;
};

static void end(struct browser *b)
{
	ev_io_stop(b->browsers->loop, &b->io);
	(void)close_fd(b->fd);
	*b->link = b->next;
	if (b->next)
		b->next->link = b->link;
	b->browsers->n--;
	free(b);
}

/* These few bytes fit into the socket of anybody who reads; who does not is dropped. */
static bool tell(struct browser *b, const char *text)
{
	size_t n = strlen(text);

	return send(b->fd, text, n, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)n;
}

static bool is_path(const struct browser *b, const char *path)
{
	size_t n = strlen(path);

	return !strncmp(b->request, "GET ", 4) && !strncmp(b->request + 4, path, n) &&
	       strchr(" ?", b->request[4 + n]);
}

/* The whole head of the request is there. False: it is done with. */
static bool answer(struct browser *b)
{
	if (is_path(b, "/events")) {
		b->listens = true;
		return tell(b, stream);
	}
	(void)tell(b, is_path(b, "/reload.js") ? script : nothing);
	(void)shutdown(b->fd, SHUT_WR);
	return false;
}

static void on_readable(struct ev_loop *loop, ev_io *io, int events)
{
	struct browser *b = io->data;
	ssize_t n;

	(void)loop;
	(void)events;
	if (b->listens)
		b->length = 0;
	n = recv(b->fd, b->request + b->length, sizeof b->request - 1 - b->length, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		end(b);
		return;
	}
	b->length += (size_t)n;
	b->request[b->length] = '\0';
	if (b->listens)
		return;
	if (strstr(b->request, "\r\n\r\n") ? !answer(b) : b->length == sizeof b->request - 1)
		end(b);
}

static void on_arrival(struct ev_loop *loop, ev_io *io, int events)
{
	struct browsers *bs = io->data;
	int fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct browser *b = fd >= 0 && bs->n < BROWSERS_MAX ? calloc(1, sizeof *b) : NULL;

	(void)events;
	if (!b) {
		(void)close_fd(fd);
		return;
	}
	b->browsers = bs;
	b->fd = fd;
	b->link = &bs->first;
	b->next = bs->first;
	if (b->next)
		b->next->link = &b->next;
	bs->first = b;
	bs->n++;
	ev_io_init(&b->io, on_readable, fd, EV_READ);
	b->io.data = b;
	ev_io_start(loop, &b->io);
}

static int listen_at(int family, uint16_t port)
{
	struct sockaddr_in in = {.sin_family = AF_INET,
	        .sin_port = htons(port),
	        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6,
	        .sin6_port = htons(port),
	        .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	const void *address = family == AF_INET ? (const void *)&in : (const void *)&in6;
	socklen_t n = family == AF_INET ? sizeof in : sizeof in6;
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1, r;

	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, address, n) < 0 || listen(fd, BROWSERS_MAX) < 0) {
		r = -errno;
		(void)close_fd(fd);
		return r;
	}
	return fd;
}

int browsers_new(
        struct ev_loop *loop, uint16_t port, struct browsers **ret, struct ho_error *reterr)
{
	struct browsers *bs = calloc(1, sizeof *bs);
	int r;

	if (!bs)
		return ho_error_set(reterr, -ENOMEM, "not enough memory");
	bs->loop = loop;
	bs->fds[0] = r = listen_at(AF_INET, port);
	bs->fds[1] = listen_at(AF_INET6, port); /* many machines have none */
	for (int i = 0; i < 2; i++) {
		ev_io_init(&bs->ios[i], on_arrival, bs->fds[i], EV_READ);
		bs->ios[i].data = bs;
		if (bs->fds[i] >= 0)
			ev_io_start(loop, &bs->ios[i]);
	}
	if (r < 0) {
		browsers_free(bs);
		return ho_error_set(reterr, r, "browsers cannot be reached at 127.0.0.1:%u: %s",
		        port, strerror(-r));
	}
	*ret = bs;
	return 0;
}

struct browsers *browsers_free(struct browsers *bs)
{
	if (!bs)
		return NULL;
	while (bs->first)
		end(bs->first);
	for (int i = 0; i < 2; i++) {
		ev_io_stop(bs->loop, &bs->ios[i]);
		if (bs->fds[i] >= 0)
			(void)close_fd(bs->fds[i]);
	}
	free(bs);
	return NULL;
}

void browsers_reload(struct browsers *bs)
{
	struct browser *next;

	for (struct browser *b = bs->first; b; b = next) {
		next = b->next;
		if (b->listens && !tell(b, message))
			end(b);
	}
}
