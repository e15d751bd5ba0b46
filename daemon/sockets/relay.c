/* SPDX-License-Identifier: MIT */
#include "sockets/relay.h"

#include <errno.h>
#include <ev.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "system/fd.h"

#define BUFFER_BYTES 16384
#define RELAYS_MAX 1024

/* One direction: what was read from one side and not yet written to the other. */
struct flow {
	char bytes[BUFFER_BYTES];
	size_t from, to;
	bool ended; /* nothing more will be read */
	bool shut;  /* and the other side knows it */
};

struct relay {
	struct relays *relays;
	struct relay *next, **link;
	struct flow flows[2]; /* [i]: from side i */
	int fds[2];           /* client, server */
	ev_io ios[2];
	bool connected;
};

struct relays {
	struct ev_loop *loop;
	struct relay *first;
	size_t n;
};

struct relays *relays_new(struct ev_loop *loop)
{
	struct relays *rs = calloc(1, sizeof *rs);

	if (rs)
		rs->loop = loop;
	return rs;
}

static void end(struct relay *r)
{
	for (int i = 0; i < 2; i++) {
		ev_io_stop(r->relays->loop, &r->ios[i]);
		(void)close_fd(r->fds[i]);
	}
	*r->link = r->next;
	if (r->next)
		r->next->link = r->link;
	r->relays->n--;
	free(r);
}

struct relays *relays_free(struct relays *rs)
{
	if (!rs)
		return NULL;
	while (rs->first)
		end(rs->first);
	free(rs);
	return NULL;
}

/* False: the connection is broken. */
static bool read_side(struct relay *r, int side)
{
	struct flow *f = &r->flows[side];
	ssize_t n;

	if (f->ended || f->to)
		return true;
	n = recv(r->fds[side], f->bytes, sizeof f->bytes, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	f->ended = n == 0;
	f->from = 0;
	f->to = (size_t)n;
	return true;
}

static bool write_side(struct relay *r, int side)
{
	struct flow *f = &r->flows[!side];
	ssize_t n;

	while (f->from < f->to) {
		n = send(r->fds[side], f->bytes + f->from, f->to - f->from,
		        MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		f->from += (size_t)n;
	}
	f->from = f->to = 0;
	if (f->ended && !f->shut) {
		f->shut = true;
		(void)shutdown(r->fds[side], SHUT_WR);
	}
	return true;
}

/* A side is read while the other one can take it, and written while there is something for it. */
static void watch(struct relay *r)
{
	for (int i = 0; i < 2; i++) {
		int events = 0;

		if (r->connected && !r->flows[i].ended && !r->flows[i].to)
			events |= EV_READ;
		if (r->flows[!i].to || (i == 1 && !r->connected))
			events |= EV_WRITE;
		ev_io_stop(r->relays->loop, &r->ios[i]);
		ev_io_set(&r->ios[i], r->fds[i], events);
		if (events)
			ev_io_start(r->relays->loop, &r->ios[i]);
	}
}

static void on_ready(struct ev_loop *loop, ev_io *io, int events)
{
	struct relay *r = io->data;
	int side = io == &r->ios[1], error = 0;
	socklen_t n = sizeof error;
	bool good = true;

	(void)loop;
	if (!r->connected) {
		good = getsockopt(r->fds[1], SOL_SOCKET, SO_ERROR, &error, &n) == 0 && !error;
		r->connected = good;
	} else {
		if (events & EV_READ)
			good = read_side(r, side) && write_side(r, !side);
		if (good && (events & EV_WRITE))
			good = write_side(r, side);
	}
	if (!good || (r->flows[0].shut && r->flows[1].shut))
		end(r);
	else
		watch(r);
}

/* Where the client called is where its connection ends here, but for private names. */
static int call_again(int client, const char *path)
{
	union {
		struct sockaddr any;
		struct sockaddr_un un;
		struct sockaddr_storage storage;
	} to = {0};
	socklen_t n = sizeof to.storage;
	int fd;

	if (getsockname(client, &to.any, &n) < 0)
		return -errno;
	if (path && !copy_string(to.un.sun_path, sizeof to.un.sun_path, path))
		return -ENAMETOOLONG;
	n = path ? sizeof to.un : n;
	fd = socket(to.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, &to.any, n) < 0 && errno != EINPROGRESS)
		return close_fd(fd);
	return fd;
}

/* Owned by `rs` from now on. */
static void add(struct relays *rs, struct relay *r, int client, int server)
{
	r->relays = rs;
	r->fds[0] = client;
	r->fds[1] = server;
	r->link = &rs->first;
	r->next = rs->first;
	if (r->next)
		r->next->link = &r->next;
	rs->first = r;
	rs->n++;
	for (int i = 0; i < 2; i++) {
		ev_io_init(&r->ios[i], on_ready, r->fds[i], EV_NONE);
		r->ios[i].data = r;
	}
	watch(r);
}

void relay_add(struct relays *rs, int client, const char *path)
{
	struct relay *r = rs->n < RELAYS_MAX ? calloc(1, sizeof *r) : NULL;
	int server = r ? call_again(client, path) : -1;

	if (server >= 0) {
		add(rs, r, client, server);
		return;
	}
	free(r);
	(void)close_fd(client);
}

/* ---- from one handoffd to the next ---- */

/* clang-format off */
static const struct field flow_fields[] = {
        FIELD(flow, ended),
        FIELD(flow, shut),
        FIELD_NOT(flow, bytes),
        FIELD_NOT(flow, from),
        FIELD_NOT(flow, to),
};
/* clang-format on */

json_t *relays_save(const struct relays *rs, struct saver *v)
{
	json_t *list = json_array();
	unsigned number = 0;

	for (const struct relay *r = rs->first; r; r = r->next, number++) {
		json_t *flows = json_array(), *j = json_pack("{s:b}", "connected", r->connected);

		for (int i = 0; i < 2; i++) {
			const struct flow *f = &r->flows[i];
			json_t *one = save_fields(v, flow_fields, ARRAY_SIZE(flow_fields), f);

			save_member(
			        v, one, "bytes", save_text(f->bytes + f->from, f->to - f->from));
			save_item(v, flows, one);
			save_fd(v, r->fds[i], "relay-%u.%d", number, i);
		}
		save_member(v, j, "flows", flows);
		save_item(v, list, j);
	}
	return list;
}

static void load_flow(struct flow *f, const json_t *from, struct loader *l)
{
	size_t n = 0;
	_cleanup_free_ char *bytes = load_text(l, json_object_get(from, "bytes"), &n);

	load_fields(l, from, flow_fields, ARRAY_SIZE(flow_fields), f);
	if (!bytes || n > sizeof f->bytes)
		return;
	memcpy(f->bytes, bytes, n);
	f->to = n;
}

void relays_load(struct relays *rs, const json_t *from, struct loader *l)
{
	for (size_t i = 0; i < json_array_size(from) && !l->failed; i++) {
		const json_t *item = json_array_get(from, i),
		             *flows = json_object_get(item, "flows");
		struct relay *r = calloc(1, sizeof *r);
		int client = load_fd(l, "relay-%u.0", (unsigned)i),
		    server = load_fd(l, "relay-%u.1", (unsigned)i);

		if (!r || client < 0 || server < 0) {
			free(r);
			(void)close_fd(client);
			(void)close_fd(server);
			continue;
		}
		r->connected = json_is_true(json_object_get(item, "connected"));
		for (size_t k = 0; k < 2; k++)
			load_flow(&r->flows[k], json_array_get(flows, k), l);
		add(rs, r, client, server);
	}
}
