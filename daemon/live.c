/* SPDX-License-Identifier: MIT */
/* Connections that workers pass to the generation that takes over (libhandoff's handoff_pass()).
 *
 * A worker that can do that sends us one end of a socket pair, its door, and which versions of a
 * connection's state it understands. When its generation is to give its connections away, the doors
 * of both sides get one end of a channel each, and the workers do the rest without us. A giver is
 * introduced to each taker of its heir once, by the takers' numbers, which only grow: so also to
 * one that is started later in place of one that died. */
#include "daemon.h"
#include "system/fd.h"
#include "system/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define DOORS_MAX 16 /* of one worker: its processes may have one each */
#define WORDS_AT_ONCE 16

struct live_door {
	struct live_door *next;
	struct live_worker *worker;
	uint64_t id;
	bool gives, takes;
	unsigned version, oldest; /* of states: which it makes, and the oldest it understands */
	ev_io io;
	uint32_t heir; /* the generation that it was introduced to last, */
	uint64_t met;  /* all its doors up to this one */
};

static void door_free(struct daemon *d, struct live_door *door)
{
	struct live_door **at = &d->doors;

	while (*at != door)
		at = &(*at)->next;
	*at = door->next;
	ev_io_stop(d->loop, &door->io);
	close_fd(door->io.fd);
	free(door);
}

static struct generation *generation_of(const struct live_worker *w)
{
	struct service *sv = supervisor_service(w->daemon->supervisor, w->service);

	return sv ? service_find(sv, w->generation) : NULL;
}

/* It has passed what it could: its generation may be without connections now. */
static void on_done(const struct live_worker *w)
{
	const struct generation *g = generation_of(w);
	const struct live_generation *live = g ? g->shell : NULL;

	if (live && live->watch)
		drain_watch_hurry(live->watch);
}

static void on_door(struct ev_loop *loop, ev_io *io, int events)
{
	struct live_door *door = io->data;
	bool done = false;
	char word[16];

	(void)loop;
	(void)events;
	for (int i = 0; i < WORDS_AT_ONCE; i++) {
		ssize_t n = recv(io->fd, word, sizeof word, MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n <= 0) {
			door_free(door->worker->daemon, door);
			return;
		}
		done |= n == 4 && !memcmp(word, "done", 4);
	}
	if (done)
		on_done(door->worker);
}

/* "both-OLDEST-VERSION", "give-...", "take-..." */
static bool parse(const char *text, struct live_door *ret)
{
	char oldest[16];
	const char *dash = strrchr(text, '-');
	uint64_t from, to;

	if (!dash || dash - text < 6 || (size_t)(dash - text - 5) >= sizeof oldest)
		return false;
	(void)snprintf(oldest, sizeof oldest, "%.*s", (int)(dash - text - 5), text + 5);
	if (!parse_number(oldest, UINT32_MAX, &from) || !parse_number(dash + 1, UINT32_MAX, &to) ||
	        from > to)
		return false;
	ret->gives = !strncmp(text, "both-", 5) || !strncmp(text, "give-", 5);
	ret->takes = !strncmp(text, "both-", 5) || !strncmp(text, "take-", 5);
	ret->oldest = (unsigned)from;
	ret->version = (unsigned)to;
	return ret->gives || ret->takes;
}

static void door_add(struct live_worker *w, struct live_door *door, int fd)
{
	struct daemon *d = w->daemon;

	door->worker = w;
	ev_io_init(&door->io, on_door, fd, EV_READ);
	door->io.data = door;
	ev_io_start(d->loop, &door->io);
	door->next = d->doors;
	d->doors = door;
}

void live_door_open(struct live_worker *w, const struct notify_message *m)
{
	struct daemon *d = w->daemon;
	struct live_door *door = calloc(1, sizeof *door);
	size_t n = 0;
	int fd;

	for (const struct live_door *o = d->doors; o; o = o->next)
		n += o->worker == w;
	if (!door || n >= DOORS_MAX || !parse(m->text, door)) {
		free(door);
		return;
	}
	fd = fcntl(m->fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0) {
		log_line(RECORD_ERROR, "a worker cannot pass its connections: %s", strerror(errno));
		free(door);
		return;
	}
	door->id = ++d->last_door;
	door_add(w, door, fd);
}

/* ---- from one handoffd to the next ---- */

static const struct field door_fields[] = {
        FIELD(live_door, id),
        FIELD(live_door, gives),
        FIELD(live_door, takes),
        FIELD(live_door, version),
        FIELD(live_door, oldest),
        FIELD(live_door, heir),
        FIELD(live_door, met),
        FIELD_NOT(live_door, next),
        FIELD_NOT(live_door, worker),
        FIELD_NOT(live_door, io),
};

json_t *live_save(const struct daemon *d, struct saver *v, uint32_t service)
{
	json_t *list = json_array();

	for (const struct live_door *door = d->doors; door; door = door->next) {
		const struct live_worker *w = door->worker;
		json_t *j;

		if (w->service != service)
			continue;
		j = save_fields(v, door_fields, ARRAY_SIZE(door_fields), door);
		save_member(v, j, "service", json_integer(w->service));
		save_member(v, j, "generation", json_integer(w->generation));
		save_member(v, j, "worker", json_integer(w->index));
		save_fd(v, door->io.fd, "door-%llu", (unsigned long long)door->id);
		save_item(v, list, j);
	}
	return list;
}

static void load_door(struct daemon *d, const json_t *from, struct loader *l)
{
	struct service *sv =
	        supervisor_service(d->supervisor, (uint32_t)load_number(from, "service"));
	struct generation *g =
	        sv ? service_find(sv, (uint32_t)load_number(from, "generation")) : NULL;
	uint64_t index = load_number(from, "worker");
	struct live_worker *w = g && index < g->n_workers ? g->workers[index].shell : NULL;
	struct live_door *door = w ? calloc(1, sizeof *door) : NULL;
	int fd;

	if (!door)
		return;
	load_fields(l, from, door_fields, ARRAY_SIZE(door_fields), door);
	fd = load_fd(l, "door-%llu", (unsigned long long)door->id);
	if (fd >= 0)
		door_add(w, door, fd);
	else
		free(door);
}

void live_load(struct daemon *d, const json_t *from, struct loader *l)
{
	for (size_t i = json_array_size(from); i-- > 0 && !l->failed;)
		load_door(d, json_array_get(from, i), l);
}

void live_forget(struct daemon *d, const struct live_worker *w)
{
	for (struct live_door *door = d->doors, *next; door; door = next) {
		next = door->next;
		if (door->worker == w)
			door_free(d, door);
	}
}

static int say(const struct live_door *door, const char *word, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {.align = {.cmsg_level = SOL_SOCKET,
	                     .cmsg_type = SCM_RIGHTS,
	                     .cmsg_len = CMSG_LEN(sizeof(int))}};
	struct iovec iov = {.iov_base = (char *)word, .iov_len = strlen(word)};
	struct msghdr h = {.msg_iov = &iov,
	        .msg_iovlen = 1,
	        .msg_control = &control,
	        .msg_controllen = sizeof control};

	memcpy(CMSG_DATA(&control.align), &fd, sizeof fd);
	return sendmsg(door->io.fd, &h, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* A taker that gets an end of which nobody has the other sees that at once. */
static int introduce(const struct live_door *giver, const struct live_door *taker)
{
	char word[32];
	int ends[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
		return -errno;
	(void)snprintf(word, sizeof word, "take %u", giver->version);
	r = say(taker, word, ends[0]);
	if (r == 0)
		r = say(giver, "give", ends[1]);
	close_fd(ends[0]);
	close_fd(ends[1]);
	return r;
}

static bool understands(const struct live_door *taker, const struct live_door *giver)
{
	return taker->takes && giver->version >= taker->oldest && giver->version <= taker->version;
}

void live_introduce(struct daemon *d)
{
	for (struct live_door *giver = d->doors; giver; giver = giver->next) {
		const struct live_worker *w = giver->worker;
		const struct generation *g = giver->gives ? generation_of(w) : NULL;
		const struct generation *heir = g ? service_heir(g->service, g) : NULL;
		bool all = true;

		if (!heir || (giver->heir == heir->id && giver->met == d->last_door))
			continue;
		if (giver->heir != heir->id) {
			giver->heir = heir->id;
			giver->met = 0;
		}
		for (const struct live_door *t = d->doors; t; t = t->next)
			if (t->id > giver->met && t->worker->service == w->service &&
			        t->worker->generation == heir->id && understands(t, giver))
				all &= introduce(giver, t) == 0;
		/* else at the next event; to be introduced twice does no harm */
		giver->met = all ? d->last_door : giver->met;
	}
}
