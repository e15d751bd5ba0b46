/* SPDX-License-Identifier: MIT */
/* One look at what is in flight: counts, and the list for people. */
#include "sockets/connections_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sockets/survey.h"
#include "system/fd.h"

#define EVENT_BUFFER (4 << 20)

int connections_new(struct ev_loop *loop, struct connections **ret, struct ho_error *reterr)
{
	struct connections *c = calloc(1, sizeof *c);

	if (!c)
		return ho_error_set(
		        reterr, -ENOMEM, "No memory to keep track of connections; not starting");
	c->loop = loop;
	c->events_fd = -1;
	c->event_buffer = EVENT_BUFFER;
	*ret = c;
	return 0;
}

struct connections *connections_free(struct connections *c)
{
	if (!c)
		return NULL;
	HO_ASSERT(!c->watches);
	diag_done(&c->diag);
	free(c);
	return NULL;
}

void connections_set_event_buffer(struct connections *c, int bytes)
{
	c->event_buffer = bytes;
}

struct count {
	struct inflight *ret;
	size_t n;
};

static void count_begin(void *arg)
{
	const struct count *c = arg;

	memset(c->ret, 0, c->n * sizeof *c->ret);
}

static void count_found(
        struct endpoint *e, const struct diag_socket *s, enum connection_state state, void *arg)
{
	const struct count *c = arg;

	(void)s;
	HO_ASSERT(e->owner < c->n);
	/* A handshake has no tag: whose it is only a quiet_check can know. */
	if (state != CONNECTION_HELD && state != CONNECTION_QUEUED)
		return;
	c->ret[e->owner].total++;
	c->ret[e->owner].queued += state == CONNECTION_QUEUED;
}

static void count_waiting(struct endpoint *e, unsigned n, void *arg)
{
	const struct count *c = arg;

	c->ret[e->owner].total += n;
	c->ret[e->owner].queued += n;
}

int count_endpoints(struct connections *c, struct endpoint *endpoints, size_t n,
        struct inflight *ret, size_t n_ret)
{
	struct count count = {.ret = ret, .n = n_ret};
	const struct survey_calls calls = {count_begin, count_found, count_waiting, &count};
	struct survey survey;
	int r = survey_init(&survey, endpoints, n, true, true);

	if (r < 0)
		return r;
	r = survey_run(&survey, &c->diag, SURVEY_CONNECTIONS, false, &calls);
	survey_done(&survey);
	return r;
}

struct list {
	const struct drain_watch *watch;
	struct connection_info *ret;
	size_t max, n;
	size_t youngest; /* of a full list */
	usec_t now;
};

static void list_begin(void *arg)
{
	((struct list *)arg)->n = 0;
}

/* Older first; of the same age the one that is idle for longer. */
static int compare_age(const void *a, const void *b)
{
	const struct connection_info *x = a, *y = b;

	if (x->age != y->age)
		return x->age > y->age ? -1 : 1;
	if (x->idle != y->idle)
		return x->idle > y->idle ? -1 : 1;
	return x->inode < y->inode ? -1 : x->inode > y->inode;
}

static void find_youngest(struct list *l)
{
	size_t i;

	l->youngest = 0;
	for (i = 1; i < l->n; i++) {
		if (compare_age(&l->ret[i], &l->ret[l->youngest]) > 0)
			l->youngest = i;
	}
}

usec_t connection_age(const struct diag_socket *s, const struct drain_watch *watch, usec_t now)
{
	const usec_t seen = watch ? now - drain_watch_seen(watch, s->cookie, now) : 0;

	return seen > s->age ? seen : s->age;
}

void connection_peer(const struct diag_socket *s, char *ret, size_t size)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	const bool v6 = s->family == AF_INET6 && memcmp(s->remote, mapped, sizeof mapped) != 0;
	const uint8_t *ip = s->family == AF_INET6 && !v6 ? s->remote + 12 : s->remote;
	char text[INET6_ADDRSTRLEN];

	if (s->family == AF_UNIX || !inet_ntop(v6 ? AF_INET6 : AF_INET, ip, text, sizeof text))
		(void)copy_string(ret, size, "unix");
	else
		(void)snprintf(ret, size, v6 ? "[%s]:%u" : "%s:%u", text, s->remote_port);
}

static void list_found(
        struct endpoint *e, const struct diag_socket *s, enum connection_state state, void *arg)
{
	struct list *l = arg;
	struct connection_info i = {.listener = e->name,
	        .age = connection_age(s, l->watch, l->now),
	        .idle = s->idle,
	        .queued_in = s->queued_in,
	        .queued_out = s->queued_out,
	        .inode = s->inode};

	if (state != CONNECTION_HELD && state != CONNECTION_QUEUED)
		return;
	if (l->n == l->max && compare_age(&i, &l->ret[l->youngest]) >= 0)
		return;
	connection_peer(s, i.peer, sizeof i.peer);
	if (l->n < l->max)
		l->ret[l->n++] = i;
	else
		l->ret[l->youngest] = i;
	if (l->n == l->max)
		find_youngest(l);
}

int list_endpoints(struct connections *c, struct endpoint *endpoints, size_t n,
        const struct drain_watch *watch, struct connection_info *ret, size_t max, size_t *ret_count)
{
	struct list list = {.watch = watch, .ret = ret, .max = max, .now = now_usec()};
	const struct survey_calls calls = {list_begin, list_found, NULL, &list};
	struct survey survey;
	int r;

	*ret_count = 0;
	if (!max)
		return 0;
	r = survey_init(&survey, endpoints, n, true, true);
	if (r < 0)
		return r;
	r = survey_run(&survey, &c->diag, SURVEY_CONNECTIONS, true, &calls);
	survey_done(&survey);
	if (r < 0)
		return r;
	qsort(ret, list.n, sizeof *ret, compare_age);
	*ret_count = list.n;
	return 0;
}
