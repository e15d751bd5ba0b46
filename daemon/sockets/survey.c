/* SPDX-License-Identifier: MIT */
#include "sockets/survey.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define ATTEMPTS 4
#define STATE(s) (1u << (s))
/* Without TIME_WAIT, CLOSE and LISTEN. SYN_RECV with an inode is an accepted fast-open connection.
 */
#define STATES                                                                                     \
	(STATE(TCP_ESTABLISHED) | STATE(TCP_SYN_RECV) | STATE(TCP_FIN_WAIT1) |                     \
	        STATE(TCP_FIN_WAIT2) | STATE(TCP_CLOSE_WAIT) | STATE(TCP_LAST_ACK) |               \
	        STATE(TCP_CLOSING))

static int compare_ports(const void *a, const void *b)
{
	const struct endpoint *x = *(struct endpoint *const *)a, *y = *(struct endpoint *const *)b;

	if (x->port != y->port)
		return x->port < y->port ? -1 : 1;
	return (int)x->any - (int)y->any;
}

static void collect_ports(struct survey *s)
{
	size_t i;

	for (i = 0; i < s->n_tcp; i++) {
		if (i && s->by_port[i]->port == s->by_port[i - 1]->port)
			continue;
		if (s->ports.n == DIAG_MAX_PORTS) {
			s->ports.n = 0;
			return;
		}
		s->ports.port[s->ports.n++] = s->by_port[i]->port;
	}
}

int survey_init(struct survey *s, struct endpoint *endpoints, size_t n, bool tcp, bool unix_ones)
{
	size_t i;

	*s = (struct survey){0};
	if (!n)
		return 0;
	s->by_port = calloc(n, sizeof *s->by_port);
	s->unix_ones = calloc(n, sizeof *s->unix_ones);
	if (!s->by_port || !s->unix_ones) {
		survey_done(s);
		return -ENOMEM;
	}
	for (i = 0; i < n; i++) {
		if (unix_ones && endpoints[i].kind == ENDPOINT_UNIX)
			s->unix_ones[s->n_unix++] = &endpoints[i];
		if (!tcp || endpoints[i].kind != ENDPOINT_TCP)
			continue;
		s->by_port[s->n_tcp++] = &endpoints[i];
		s->ipv4 |= endpoints[i].family == AF_INET;
		s->ipv6 |= endpoints[i].family == AF_INET6;
	}
	qsort(s->by_port, s->n_tcp, sizeof *s->by_port, compare_ports);
	collect_ports(s);
	return 0;
}

void survey_done(struct survey *s)
{
	free(s->by_port);
	free(s->unix_ones);
	*s = (struct survey){0};
}

static enum connection_state state_of(const struct diag_socket *s)
{
	if (s->inode)
		return CONNECTION_HELD;
	if (s->state == TCP_ESTABLISHED || s->state == TCP_CLOSE_WAIT)
		return CONNECTION_QUEUED;
	return s->state == TCP_SYN_RECV ? CONNECTION_HALF_OPEN : CONNECTION_LEFT;
}

static bool belongs(
        const struct endpoint *e, const struct diag_socket *s, enum connection_state state)
{
	if (!endpoint_has_address(e, s))
		return false;
	if (state == CONNECTION_HALF_OPEN)
		return true;
	if (!e->by_inode)
		return e->kind == ENDPOINT_UNIX || e->tag == s->tag;
	if (!e->held)
		return true;
	return state == CONNECTION_HELD && cookie_set_find(e->held, s->inode);
}

/* The first endpoint of the port, or n_tcp. */
static size_t first_of_port(const struct survey *s, uint16_t port)
{
	size_t low = 0, high = s->n_tcp, middle;

	while (low < high) {
		middle = low + (high - low) / 2;
		if (s->by_port[middle]->port < port)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void on_socket(const struct diag_socket *s, void *arg)
{
	const struct survey_walk *w = arg;
	const struct survey *survey = w->survey;
	const enum connection_state state = state_of(s);
	const bool is_unix = s->family == AF_UNIX;
	struct endpoint **list = is_unix ? survey->unix_ones : survey->by_port;
	const size_t n = is_unix ? survey->n_unix : survey->n_tcp;
	size_t i = is_unix ? 0 : first_of_port(survey, s->local_port);

	for (; i < n && (is_unix || list[i]->port == s->local_port); i++) {
		if (belongs(list[i], s, state)) {
			w->calls->found(list[i], s, state, w->calls->arg);
			return;
		}
	}
}

/* The queues are read before the dump: what is accepted in between counts twice, not never. */
static int unix_queues(const struct survey *s, struct diag *d, const struct survey_calls *calls)
{
	unsigned n;
	size_t i;
	int r;

	for (i = 0; calls->waiting && i < s->n_unix; i++) {
		r = endpoint_queue(s->unix_ones[i], d, &n);
		if (r < 0)
			return r;
		calls->waiting(s->unix_ones[i], n, calls->arg);
	}
	return 0;
}

/* Begins the next dump that is wanted; 0 when there is none. */
static int begin_dump(struct survey_walk *w)
{
	static const int families[] = {AF_INET, AF_INET6, AF_UNIX};
	const bool wanted[] = {w->survey->ipv4, w->survey->ipv6, w->survey->n_unix > 0};
	struct diag_request q = {
	        .states = w->states & STATES, .info = w->info, .ports = &w->survey->ports};
	int r = 0;

	if (w->states & STATE(TCP_SYN_RECV))
		q.states |= w->states & SURVEY_HANDSHAKES;
	while (w->dumps < ARRAY_SIZE(families) && !wanted[w->dumps])
		w->dumps++;
	if (w->dumps == ARRAY_SIZE(families))
		return 0;
	q.family = families[w->dumps++];
	if (q.family == AF_UNIX) {
		q.states = STATE(TCP_ESTABLISHED); /* an accepted one has no other */
		r = unix_queues(w->survey, w->diag, w->calls);
	}
	if (!r)
		r = diag_dump_begin(w->diag, &q);
	return r < 0 ? r : 1;
}

int survey_walk_next(struct survey_walk *w)
{
	int r;

	if (!w->dumping) {
		r = begin_dump(w);
		w->dumping = r > 0;
		return r;
	}
	r = diag_dump_next(w->diag, on_socket, w);
	w->dumping = r > 0;
	return r < 0 ? r : 1;
}

int survey_run(const struct survey *s, struct diag *d, uint32_t states, bool info,
        const struct survey_calls *calls)
{
	int r, n = 0;

	do {
		struct survey_walk w = {s, d, states, info, calls, 0, false};

		calls->begin(calls->arg);
		while ((r = survey_walk_next(&w)) > 0)
			;
	} while ((r == -EINTR || r == -ENOBUFS) && ++n < ATTEMPTS);
	return r;
}
