/* SPDX-License-Identifier: MIT */
/* Live connections, passed from one generation to another.
 *
 * Each process has a door, a socket to handoffd, which hands in one end of a channel for each
 * process of the other generation: to give on, or to take from. A channel is a SOCK_SEQPACKET pair
 * on which the giver sends offers (descriptors and their states, many in one message) and the taker
 * the results, in the order of the offers.
 *
 * Whose is a connection? The giver's until the result says that it was taken. From its offer on the
 * giver keeps its descriptor, but lets it alone; if the channel ends without the result it goes on
 * with it. The taker lets it alone until the result is on its way. The giver ends the channel only
 * by its death, so a taker whose result finds nobody any more has the only one left. At no time two
 * processes work on one connection, and whichever of them dies, the other one has it, unless the
 * one that died had begun to work on it. */
#include "handoff.h"

#include <errno.h>
#include <ev.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "internal.h"
#include "tags.h"

#define BATCH FDS_AT_ONCE  /* in one message: 16 to 64 are best for the pause of each */
#define WINDOW (2 * BATCH) /* offered and not answered, of one channel */
#define BYTES_MAX (2 * HANDOFF_PASS_MAX)
#define WORD_MAX 64
#define WORDS_AT_ONCE 16
#define AGAIN_FIRST 0.1 /* seconds */
#define AGAIN_LAST 30.
#define RETRY 0.01
#define RETRIES 100

enum kind { OFFER = 0x4f48ff01, RESULT = 0x4f48ff02 };

/* Then `count` sizes and the states of an offer, or `count` results. */
struct head {
	uint32_t kind, count;
};

#define MESSAGE_MAX (sizeof(struct head) + BATCH * sizeof(uint32_t) + BYTES_MAX)

struct giver {
	struct giver *next;
	struct handoff_live *live;
	ev_io readable, writable;
	ev_timer retry;
	unsigned tries;
	bool ended;
	/* offered: a ring of what the program calls them */
	void *offered[WINDOW];
	unsigned first, n_offered;
	/* the next offer */
	void *batch[BATCH];
	int fds[BATCH];
	uint32_t sizes[BATCH];
	unsigned n;
	size_t n_bytes;
	char bytes[BYTES_MAX];
};

struct taker {
	struct taker *next;
	struct handoff_live *live;
	ev_io io; /* readable; writable as long as results wait */
	ev_timer retry;
	unsigned version; /* of the states that come */
	int32_t results[BATCH];
	unsigned n;
};

struct handoff_live {
	struct ev_loop *loop;
	unsigned version, oldest;
	struct handoff_live_calls calls;
	void *data;
	struct tags tags;
	ev_io door;
	ev_timer again, wanted;
	double again_after;
	bool asking;  /* inside of the callback `wanted` */
	bool starved; /* handoff_pass() has found no room */
	struct giver *givers;
	struct taker *takers;
	char message[MESSAGE_MAX]; /* where offers are received */
};

/* ---- giving ---- */

static void unlink_giver(struct giver *g)
{
	struct giver **at = &g->live->givers;

	while (*at != g)
		at = &(*at)->next;
	*at = g->next;
}

/* Behind so many others. */
static void link_giver(struct giver *g, unsigned place)
{
	struct giver **at = &g->live->givers;

	for (; *at && place; place--)
		at = &(*at)->next;
	g->next = *at;
	*at = g;
}

static void giver_free(struct giver *g)
{
	unlink_giver(g);
	ev_io_stop(g->live->loop, &g->readable);
	ev_io_stop(g->live->loop, &g->writable);
	ev_timer_stop(g->live->loop, &g->retry);
	(void)close(g->readable.fd);
	free(g);
}

static void want_later(struct handoff_live *live)
{
	if (live->givers && live->calls.wanted && !ev_is_active(&live->wanted))
		ev_timer_start(live->loop, &live->wanted);
}

static void has_room_again(struct handoff_live *live)
{
	if (live->starved)
		want_later(live);
}

/* Sends the batch; if there is no room for it now, later. Calls nobody back. */
static void flush(struct giver *g)
{
	struct head head = {.kind = OFFER, .count = g->n};
	struct iovec iov[] = {{.iov_base = &head, .iov_len = sizeof head},
	        {.iov_base = g->sizes, .iov_len = g->n * sizeof g->sizes[0]},
	        {.iov_base = g->bytes, .iov_len = g->n_bytes}};
	struct msghdr h = {.msg_iov = iov, .msg_iovlen = 3};
	int r;

	ev_io_stop(g->live->loop, &g->writable);
	ev_timer_stop(g->live->loop, &g->retry);
	if (!g->n)
		return;
	r = send_fds(g->readable.fd, &h, g->fds, g->n);
	if (r == -EAGAIN) {
		ev_io_start(g->live->loop, &g->writable);
	} else if (r == -EPIPE || r == -ECONNRESET) {
		; /* the end is seen where it is read, behind the results that wait there */
	} else if (r < 0) { /* ETOOMANYREFS, ENOBUFS, ENOMEM: nobody tells when that is over */
		ev_timer_set(&g->retry, RETRY, 0.);
		ev_timer_start(g->live->loop, &g->retry);
	} else {
		for (unsigned i = 0; i < g->n; i++)
			g->offered[(g->first + g->n_offered++) % WINDOW] = g->batch[i];
		g->n = g->tries = 0;
		g->n_bytes = 0;
	}
}

static void batch_fails(struct giver *g, int error)
{
	const unsigned n = g->n;
	void *batch[BATCH];

	memcpy(batch, g->batch, n * sizeof batch[0]);
	g->n = g->tries = 0;
	g->n_bytes = 0;
	for (unsigned i = 0; i < n; i++)
		g->live->calls.passed(batch[i], error, g->live->data);
}

static void *next_offered(struct giver *g)
{
	void *connection = g->offered[g->first];

	g->first = (g->first + 1) % WINDOW;
	g->n_offered--;
	return connection;
}

/* The taker is gone: what it has not taken stays here. */
static void giver_ends(struct giver *g)
{
	struct handoff_live *live = g->live;

	g->ended = true;
	while (g->n_offered)
		live->calls.passed(next_offered(g), -ECONNRESET, live->data);
	batch_fails(g, -ECONNRESET);
	giver_free(g);
	want_later(live); /* by another one, if there is one */
}

/* When nothing is on its way any more handoffd should look at who has what. */
static void tell_done(const struct handoff_live *live)
{
	for (const struct giver *g = live->givers; g; g = g->next)
		if (g->n_offered || g->n)
			return;
	if (live->door.fd >= 0)
		(void)send(live->door.fd, "done", 4, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static bool on_results(struct giver *g, const char *bytes, size_t n)
{
	struct head head;
	int32_t result;

	if (n < sizeof head)
		return false;
	memcpy(&head, bytes, sizeof head);
	if (head.kind != RESULT || head.count > g->n_offered ||
	        n != sizeof head + head.count * sizeof result)
		return false;
	for (uint32_t i = 0; i < head.count; i++) {
		memcpy(&result, bytes + sizeof head + i * sizeof result, sizeof result);
		g->live->calls.passed(next_offered(g), result, g->live->data);
	}
	return true;
}

static void on_giver_readable(struct ev_loop *loop, ev_io *io, int events)
{
	char bytes[sizeof(struct head) + WINDOW * sizeof(int32_t)];
	struct giver *g = io->data;

	(void)loop, (void)events;
	for (int i = 0; i < WORDS_AT_ONCE; i++) {
		ssize_t n = recv(io->fd, bytes, sizeof bytes, MSG_DONTWAIT);

		/* ECONNRESET: the taker ended with something unread; what it said before follows */
		if (n < 0 && (errno == EINTR || errno == ECONNRESET))
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n <= 0 || !on_results(g, bytes, (size_t)n)) {
			giver_ends(g);
			return;
		}
	}
	tell_done(g->live);
	has_room_again(g->live);
}

static void on_giver_writable(struct ev_loop *loop, ev_io *io, int events)
{
	struct giver *g = io->data;

	(void)loop, (void)events;
	flush(g);
	has_room_again(g->live);
}

static void on_giver_retry(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct giver *g = timer->data;

	(void)loop, (void)events;
	if (++g->tries < RETRIES)
		flush(g);
	else
		batch_fails(g, -ENOBUFS);
	has_room_again(g->live);
}

static void giver_new(struct handoff_live *live, int fd)
{
	struct giver *g = calloc(1, sizeof *g);
	unsigned n = 1;

	if (!g) {
		(void)close(fd);
		return;
	}
	g->live = live;
	ev_io_init(&g->readable, on_giver_readable, fd, EV_READ);
	ev_io_init(&g->writable, on_giver_writable, fd, EV_WRITE);
	ev_timer_init(&g->retry, on_giver_retry, RETRY, 0.);
	g->readable.data = g->writable.data = g->retry.data = g;
	for (const struct giver *other = live->givers; other; other = other->next)
		n++;
	/* workers with few connections each should not all give them to the same one */
	link_giver(g, handoff_worker() > 0 ? (unsigned)handoff_worker() % n : 0);
	ev_io_start(live->loop, &g->readable);
	want_later(live);
}

static bool has_room(const struct giver *g, size_t size)
{
	return !g->ended && g->n < BATCH && g->n_offered + g->n < WINDOW &&
	       g->n_bytes + size <= BYTES_MAX;
}

/* The one with the least on its way, and of equal ones the one whose turn it is. */
static struct giver *find_giver(const struct handoff_live *live, size_t size)
{
	struct giver *found = NULL;

	for (struct giver *g = live->givers; g; g = g->next) {
		if (!has_room(g, size) || ev_is_active(&g->writable) || ev_is_active(&g->retry))
			continue;
		if (!found || g->n_offered + g->n < found->n_offered + found->n)
			found = g;
	}
	return found;
}

int handoff_pass(
        struct handoff_live *live, int fd, const void *state, size_t size, void *connection)
{
	struct giver *g;

	if (fd < 0)
		return -EBADF;
	if (size > HANDOFF_PASS_MAX)
		return -EMSGSIZE;
	if (!live->givers)
		return -ENOTCONN;
	g = find_giver(live, size);
	if (!g) {
		live->starved = true;
		return -EAGAIN;
	}
	unlink_giver(g);
	link_giver(g, UINT_MAX);
	g->batch[g->n] = connection;
	g->fds[g->n] = fd;
	g->sizes[g->n++] = (uint32_t)size;
	if (size)
		memcpy(g->bytes + g->n_bytes, state, size);
	g->n_bytes += size;
	if (!live->asking || g->n == BATCH || g->n_bytes + HANDOFF_PASS_MAX > BYTES_MAX)
		flush(g);
	return 0;
}

int handoff_live_wanted(const struct handoff_live *live)
{
	return live->givers != NULL;
}

static void on_wanted(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct handoff_live *live = timer->data;

	(void)loop, (void)events;
	if (!live->givers)
		return;
	live->starved = false;
	live->asking = true;
	live->calls.wanted(live, live->data);
	live->asking = false;
	for (struct giver *g = live->givers; g; g = g->next)
		if (!ev_is_active(&g->writable) && !ev_is_active(&g->retry))
			flush(g);
}

/* ---- taking ---- */

static void taker_free(struct taker *t)
{
	struct taker **at = &t->live->takers;

	while (*at != t)
		at = &(*at)->next;
	*at = t->next;
	ev_io_stop(t->live->loop, &t->io);
	ev_timer_stop(t->live->loop, &t->retry);
	(void)close(t->io.fd);
	free(t);
}

static void wait_for(struct taker *t, int events)
{
	ev_io_stop(t->live->loop, &t->io);
	ev_io_set(&t->io, t->io.fd, events);
	if (events)
		ev_io_start(t->live->loop, &t->io);
}

/* Until they are sent nothing more is read, so that there is always room for them. */
static void send_results(struct taker *t)
{
	struct head head = {.kind = RESULT, .count = t->n};
	struct iovec iov[] = {{.iov_base = &head, .iov_len = sizeof head},
	        {.iov_base = t->results, .iov_len = t->n * sizeof t->results[0]}};
	struct msghdr h = {.msg_iov = iov, .msg_iovlen = 2};
	int r = send_fds(t->io.fd, &h, NULL, 0);

	if (r == 0 || r == -EPIPE || r == -ECONNRESET) { /* a giver that is gone needs none */
		t->n = 0;
		wait_for(t, EV_READ);
	} else if (r == -EAGAIN) {
		wait_for(t, EV_WRITE);
	} else {
		wait_for(t, 0);
		ev_timer_set(&t->retry, RETRY, 0.);
		ev_timer_start(t->live->loop, &t->retry);
	}
}

static void on_taker_retry(struct ev_loop *loop, ev_timer *timer, int events)
{
	(void)loop, (void)events;
	send_results(timer->data);
}

static int take_one(struct taker *t, int fd, const char *state, size_t size)
{
	struct handoff_live *live = t->live;
	int r;

	if (!live->calls.taken)
		return -EOPNOTSUPP;
	tags_put(&live->tags, fd);
	r = live->calls.taken(fd, state, size, t->version, live->data);
	return r < 0 ? r : 0;
}

/* The descriptors are taken or closed. False: this is no offer. */
static bool on_offer(struct taker *t, size_t n, const int *fds, size_t n_fds)
{
	const char *message = t->live->message;
	const size_t at = sizeof(struct head);
	uint32_t sizes[BATCH];
	struct head head = {0};
	size_t begin, sum = 0;
	bool right;

	if (n >= sizeof head)
		memcpy(&head, message, sizeof head);
	right = head.kind == OFFER && head.count > 0 && head.count <= BATCH &&
	        n >= at + head.count * sizeof sizes[0] && n_fds <= head.count;
	if (right)
		memcpy(sizes, message + at, head.count * sizeof sizes[0]);
	for (uint32_t i = 0; right && i < head.count; i++) {
		right = sizes[i] <= HANDOFF_PASS_MAX;
		sum += sizes[i];
	}
	begin = at + head.count * sizeof sizes[0];
	if (!right || n != begin + sum) {
		for (size_t i = 0; i < n_fds; i++)
			(void)close(fds[i]);
		return false;
	}
	for (uint32_t i = 0; i < head.count; i++) {
		/* those that the kernel had no room for here come last, and do not come */
		t->results[i] =
		        i < n_fds ? take_one(t, fds[i], message + begin, sizes[i]) : -EMFILE;
		if (t->results[i] < 0 && i < n_fds)
			(void)close(fds[i]);
		begin += sizes[i];
	}
	t->n = head.count;
	return true;
}

static void on_taker(struct ev_loop *loop, ev_io *io, int events)
{
	struct taker *t = io->data;
	int fds[BATCH];
	size_t n_fds = BATCH;
	ssize_t n;

	(void)loop;
	if (events & EV_WRITE) {
		send_results(t);
		return;
	}
	n = recv_fds(io->fd, t->live->message, MESSAGE_MAX, fds, &n_fds);
	if (n == -EAGAIN || n == -EINTR || n == -ECONNRESET)
		return;
	if (n > 0 && on_offer(t, (size_t)n, fds, n_fds))
		send_results(t);
	else
		taker_free(t);
}

static void taker_new(struct handoff_live *live, int fd, unsigned version)
{
	struct taker *t = calloc(1, sizeof *t);

	if (!t) {
		(void)close(fd);
		return;
	}
	t->live = live;
	t->version = version;
	ev_io_init(&t->io, on_taker, fd, EV_READ);
	ev_timer_init(&t->retry, on_taker_retry, RETRY, 0.);
	t->io.data = t->retry.data = t;
	t->next = live->takers;
	live->takers = t;
	ev_io_start(live->loop, &t->io);
}

/* ---- the door ---- */

static void door_close(struct handoff_live *live)
{
	if (live->door.fd < 0)
		return;
	ev_io_stop(live->loop, &live->door);
	(void)close(live->door.fd);
	live->door.fd = -1;
}

static void try_again(struct handoff_live *live)
{
	door_close(live);
	ev_timer_set(&live->again, live->again_after, 0.);
	ev_timer_start(live->loop, &live->again);
	live->again_after *= 2;
	if (live->again_after > AGAIN_LAST)
		live->again_after = AGAIN_LAST;
}

/* "give", or "take VERSION"; takes the descriptor over. */
static void on_word(struct handoff_live *live, const char *word, int fd)
{
	unsigned long version;

	live->again_after = AGAIN_FIRST;
	if (!strcmp(word, "give"))
		giver_new(live, fd);
	else if (!strncmp(word, "take ", 5) && read_number(word + 5, UINT32_MAX, &version))
		taker_new(live, fd, (unsigned)version);
	else
		(void)close(fd);
}

static void on_door(struct ev_loop *loop, ev_io *io, int events)
{
	struct handoff_live *live = io->data;

	(void)loop, (void)events;
	for (int i = 0; i < WORDS_AT_ONCE; i++) {
		char word[WORD_MAX + 1];
		size_t n_fds = 1;
		int fd = -1;
		ssize_t n = recv_fds(io->fd, word, WORD_MAX, &fd, &n_fds);

		if (n == -EAGAIN || n == -EINTR)
			return;
		if (n <= 0) { /* handoffd is being replaced, or has crashed */
			try_again(live);
			return;
		}
		word[n] = '\0';
		if (n_fds)
			on_word(live, word, fd);
	}
}

static void door_open(struct handoff_live *live)
{
	const bool gives = live->calls.wanted, takes = live->calls.taken;
	char words[2 * WORD_MAX];
	int ends[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) {
		try_again(live);
		return;
	}
	(void)snprintf(words, sizeof words, "HANDOFF_LIVE=%s-%u-%u",
	        gives && takes ? "both"
	        : gives        ? "give"
	                       : "take",
	        live->oldest, live->version);
	r = notify_send(words, &ends[1], 1, NULL);
	(void)close(ends[1]);
	ev_io_set(&live->door, ends[0], EV_READ);
	if (r > 0) {
		ev_io_start(live->loop, &live->door);
	} else {
		door_close(live);
		if (r < 0)
			try_again(live);
	}
}

static void on_again(struct ev_loop *loop, ev_timer *timer, int events)
{
	(void)loop, (void)events;
	door_open(timer->data);
}

int handoff_live_new(struct ev_loop *loop, unsigned version, unsigned oldest,
        const struct handoff_live_calls *calls, void *data, struct handoff_live **ret)
{
	struct handoff_live *live;

	if (!loop || !calls || oldest > version || !calls->wanted != !calls->passed ||
	        (!calls->wanted && !calls->taken))
		return -EINVAL;
	live = calloc(1, sizeof *live);
	if (!live)
		return -ENOMEM;
	live->loop = loop;
	live->version = version;
	live->oldest = oldest;
	live->calls = *calls;
	live->data = data;
	live->again_after = AGAIN_FIRST;
	tags_learn(&live->tags);
	ev_io_init(&live->door, on_door, -1, EV_READ);
	ev_timer_init(&live->again, on_again, AGAIN_FIRST, 0.);
	ev_timer_init(&live->wanted, on_wanted, 0., 0.);
	live->door.data = live->again.data = live->wanted.data = live;
	if (handoff_service())
		door_open(live);
	*ret = live;
	return 0;
}

void handoff_live_free(struct handoff_live *live)
{
	if (!live)
		return;
	while (live->givers)
		giver_free(live->givers);
	while (live->takers)
		taker_free(live->takers);
	ev_timer_stop(live->loop, &live->again);
	ev_timer_stop(live->loop, &live->wanted);
	door_close(live);
	free(live);
}
