/* SPDX-License-Identifier: MIT */
/* A chat whose users stay connected while it is replaced.
 *
 *     handoffd -l 6667 -- chatd        (or alone: chatd 6667)
 *     nc 127.0.0.1 6667
 *
 * Every line is a message, "/name NAME", "/where" or "/quit". All get every message, with its
 * number.
 *
 * The last messages are in memory that all generations share (handoff_keep(3)), and what a user has
 * not got yet is known by the number of his next message. So the state of a connection is small,
 * and it can be passed (handoff_pass(3)) at any time: in the middle of a line that he writes or of
 * one that he reads. While the users are on their way, some here and some there, each process sends
 * its own ones what the others have written, and wakes the others when it writes. */
#include "handoff.h"

#include <errno.h>
#include <ev.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define NAME_MAX_ 32
#define LINE_MAX_ 256
#define MESSAGES 4096 /* remembered: who is further behind has missed some, and is told */
#define AT_ONCE 16    /* messages in one write */
#define SLOTS 4       /* processes that can wake each other */
#define STATE_VERSION 1

struct message {
	uint32_t length;
	char text[NAME_MAX_ + LINE_MAX_ + 32];
};

/* Kept. Complete up to `end` at any time, so whoever dies with the lock leaves nothing to repair.
 */
struct room {
	_Atomic uint64_t end, users;
	_Atomic uint32_t processes; /* started, ever */
	struct message messages[MESSAGES];
};

/* The state of a connection as it is passed. */
struct state {
	char name[NAME_MAX_];
	uint64_t next;   /* number of his next message */
	uint32_t offset; /* of it, what was written already */
	uint32_t n_line, n_own;
	char line[LINE_MAX_]; /* what he has written of a line */
	char own[LINE_MAX_];  /* for him alone, to be written before the next message */
};

struct user {
	struct user *next, *before;
	struct handoff_connection *counted;
	ev_io in, out;
	bool passing, refused;
	double passed_at;
	struct state s;
};

static struct ev_loop *loop;
static struct handoff *handoff;
static struct handoff_live *live;
static struct room *room;
static struct user *users;
static int wake_fds[SLOTS] = {-1, -1, -1, -1};
static uint32_t processes_seen;
static struct {
	unsigned n, under_way;
	double begun, longest;
} passed;

/* ---- one user ---- */

static void user_free(struct user *u)
{
	ev_io_stop(loop, &u->in);
	ev_io_stop(loop, &u->out);
	(void)close(u->in.fd);
	handoff_connection_end(u->counted);
	if (u->before)
		u->before->next = u->next;
	else
		users = u->next;
	if (u->next)
		u->next->before = u->before;
	free(u);
}

/* Copies messages from his next one on; false if he is so far behind that they are gone. */
static bool copy_messages(const struct user *u, char *to, size_t *ret_n, uint32_t *lengths)
{
	uint64_t number = u->s.next;
	bool there;

	*ret_n = 0;
	(void)handoff_keep_lock(room, -1);
	there = room->end - number <= MESSAGES;
	for (int i = 0; there && i < AT_ONCE && number < room->end; i++, number++) {
		const struct message *m = &room->messages[number % MESSAGES];

		memcpy(to + *ret_n, m->text, m->length);
		*ret_n += m->length;
		lengths[i] = m->length;
	}
	handoff_keep_unlock(room);
	return there;
}

/* -1: he is gone; 0: he takes no more now; 1: all of it was written. */
static int write_some(struct user *u, const char *bytes, size_t n, size_t *ret_written)
{
	ssize_t w = send(u->out.fd, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT);

	*ret_written = w > 0 ? (size_t)w : 0;
	if (w < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	return (size_t)w == n;
}

/* Between two messages only. */
static void tell_alone(struct user *u, const char *format, ...)
        __attribute__((format(printf, 2, 3)));
static void tell_alone(struct user *u, const char *format, ...)
{
	const size_t room_left = sizeof u->s.own - u->s.n_own;
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(u->s.own + u->s.n_own, room_left, format, ap);
	va_end(ap);
	if (n > 0 && (size_t)n < room_left) /* or he does not read: then not */
		u->s.n_own += (uint32_t)n;
}

/* Writes his next messages; 1 if there may be more. */
static int deliver_some(struct user *u)
{
	char bytes[AT_ONCE * sizeof room->messages[0].text];
	uint32_t lengths[AT_ONCE] = {0};
	size_t n, written;
	int r;

	if (u->s.n_own && !u->s.offset) {
		r = write_some(u, u->s.own, u->s.n_own, &written);
		u->s.n_own -= (uint32_t)written;
		memmove(u->s.own, u->s.own + written, u->s.n_own);
		if (r <= 0)
			return r;
	}
	if (u->s.next == room->end)
		return 0;
	if (!copy_messages(u, bytes, &n, lengths)) {
		uint64_t first = room->end - MESSAGES / 2;

		tell_alone(u, "\n* you have missed %llu messages\n",
		        (unsigned long long)(first - u->s.next));
		u->s.next = first;
		u->s.offset = 0;
		return 1;
	}
	r = write_some(u, bytes + u->s.offset, n - u->s.offset, &written);
	written += u->s.offset;
	for (int i = 0; i < AT_ONCE && lengths[i] && written >= lengths[i]; i++, u->s.next++)
		written -= lengths[i];
	u->s.offset = (uint32_t)written;
	return r;
}

static void deliver(struct user *u)
{
	int r;

	if (u->passing)
		return;
	do
		r = deliver_some(u);
	while (r > 0);
	if (r < 0)
		user_free(u);
	else if (u->s.next != room->end || u->s.n_own)
		ev_io_start(loop, &u->out);
	else
		ev_io_stop(loop, &u->out);
}

static void deliver_all(void)
{
	for (struct user *u = users, *next; u; u = next) {
		next = u->next;
		if (!ev_is_active(&u->out)) /* those are told when they take more */
			deliver(u);
	}
}

static void on_out(struct ev_loop *l, ev_io *io, int events)
{
	(void)l, (void)events;
	deliver(io->data);
}

/* ---- messages ---- */

/* Whoever was started since the last time gives us a way to wake him. */
static void meet_others(void)
{
	char name[32];

	if (processes_seen == room->processes)
		return;
	processes_seen = room->processes;
	for (unsigned i = 0; i < SLOTS; i++) {
		if (i == handoff_generation() % SLOTS)
			continue;
		if (wake_fds[i] >= 0)
			(void)close(wake_fds[i]);
		(void)snprintf(name, sizeof name, "wake-%u", i);
		wake_fds[i] = handoff_kept_fd(name);
	}
}

static void post(const char *name, const char *text)
{
	const uint64_t one = 1;
	struct message *m;

	(void)handoff_keep_lock(room, -1);
	m = &room->messages[room->end % MESSAGES];
	m->length = (uint32_t)snprintf(m->text, sizeof m->text, "%llu %s: %s\n",
	        (unsigned long long)room->end, name, text);
	room->end++;
	handoff_keep_unlock(room);
	meet_others();
	for (unsigned i = 0; i < SLOTS; i++)
		if (wake_fds[i] >= 0 && i != handoff_generation() % SLOTS)
			(void)!write(wake_fds[i], &one, sizeof one);
}

/* False: he has taken his leave. */
static bool on_line(struct user *u, char *line)
{
	if (!strcmp(line, "/quit"))
		return false;
	if (!strcmp(line, "/where"))
		tell_alone(u, "* generation %u, process %d\n", handoff_generation(), (int)getpid());
	else if (!strncmp(line, "/name ", 6) && line[6])
		(void)snprintf(u->s.name, sizeof u->s.name, "%.*s", NAME_MAX_ - 1, line + 6);
	else if (*line)
		post(u->s.name, line);
	return true;
}

/* Whole lines out of what he has written; false: he goes. */
static bool take_lines(struct user *u)
{
	char *newline;

	while ((newline = memchr(u->s.line, '\n', u->s.n_line))) {
		const uint32_t n = (uint32_t)(newline - u->s.line) + 1;
		char line[LINE_MAX_];

		memcpy(line, u->s.line, n);
		line[n - 1] = '\0';
		line[strcspn(line, "\r")] = '\0';
		u->s.n_line -= n;
		memmove(u->s.line, u->s.line + n, u->s.n_line);
		if (!on_line(u, line))
			return false;
	}
	return u->s.n_line < sizeof u->s.line;
}

static void on_in(struct ev_loop *l, ev_io *io, int events)
{
	struct user *u = io->data;
	const uint64_t before = room->end;
	ssize_t n;

	(void)l, (void)events;
	n = recv(io->fd, u->s.line + u->s.n_line, sizeof u->s.line - u->s.n_line, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	u->s.n_line += n > 0 ? (uint32_t)n : 0;
	if (n <= 0 || !take_lines(u))
		user_free(u);
	else
		deliver(u);
	if (room->end != before)
		deliver_all();
}

/* ---- coming and going ---- */

static struct user *user_new(int fd, struct handoff_connection *counted)
{
	struct user *u = calloc(1, sizeof *u);

	if (!u)
		return NULL;
	u->counted = counted;
	ev_io_init(&u->in, on_in, fd, EV_READ);
	ev_io_init(&u->out, on_out, fd, EV_WRITE);
	u->in.data = u->out.data = u;
	u->next = users;
	if (users)
		users->before = u;
	users = u;
	ev_io_start(loop, &u->in);
	return u;
}

static bool pass(struct user *u)
{
	if (handoff_pass(live, u->in.fd, &u->s, sizeof u->s, u) < 0)
		return false;
	ev_io_stop(loop, &u->in);
	ev_io_stop(loop, &u->out);
	u->passing = true;
	u->passed_at = ev_time();
	if (passed.under_way++ == 0 && passed.n == 0)
		passed.begun = u->passed_at;
	return true;
}

static void on_accepted(struct handoff_connection *c, int fd, void *data)
{
	struct user *u = user_new(fd, c);

	(void)data;
	if (!u) {
		(void)close(fd);
		handoff_connection_end(c);
		return;
	}
	u->s.next = room->end;
	(void)snprintf(u->s.name, sizeof u->s.name, "user-%llu", (unsigned long long)++room->users);
	tell_alone(u, "* you are %s\n", u->s.name);
	if (!handoff_live_wanted(live) || !pass(u)) /* he was late: he goes after the others */
		deliver(u);
}

/* The generation that takes over is there: everybody goes, whatever he is doing. */
static void on_wanted(struct handoff_live *l, void *data)
{
	(void)l, (void)data;
	for (struct user *u = users; u; u = u->next)
		if (!u->passing && !u->refused && !pass(u))
			return;
}

static void on_passed(void *connection, int result, void *data)
{
	struct user *u = connection;
	const double now = ev_time(), pause = now - u->passed_at;

	(void)data;
	passed.under_way--;
	if (result < 0) { /* he stays; he is not offered again to those who refused him */
		u->refused = result != -ECONNRESET && result != -ENOBUFS;
		u->passing = false;
		ev_io_start(loop, &u->in);
		deliver(u);
		return;
	}
	user_free(u);
	passed.n++;
	passed.longest = pause > passed.longest ? pause : passed.longest;
	if (passed.under_way == 0 && !users) {
		(void)fprintf(stderr, "chatd: passed %u users in %.1f ms, longest pause %.1f ms\n",
		        passed.n, (now - passed.begun) * 1e3, passed.longest * 1e3);
		passed.n = 0;
	}
}

static int on_taken(int fd, const void *state, size_t size, unsigned version, void *data)
{
	struct handoff_connection *c;
	struct user *u;

	(void)data;
	if (version != STATE_VERSION || size != sizeof u->s)
		return -EPROTO;
	c = handoff_connection_new(handoff, fd);
	u = c ? user_new(fd, c) : NULL;
	if (!u) {
		handoff_connection_end(c);
		return -ENOMEM;
	}
	memcpy(&u->s, state, sizeof u->s);
	ev_io_start(loop, &u->out); /* he may have missed something on his way */
	return 0;
}

static void on_wake(struct ev_loop *l, ev_io *io, int events)
{
	uint64_t n;

	(void)l, (void)events;
	(void)!read(io->fd, &n, sizeof n);
	deliver_all();
}

static void on_term(struct ev_loop *l, ev_signal *w, int events)
{
	(void)l, (void)w, (void)events;
	handoff_drain(handoff, -1);
}

static void check(int r, const char *what)
{
	if (r >= 0)
		return;
	(void)fprintf(stderr, "chatd: %s: %s\n", what, strerror(-r));
	exit(1);
}

int main(int argc, char **argv)
{
	static const struct handoff_live_calls calls = {on_wanted, on_passed, on_taken};
	static ev_signal term;
	static ev_io wake;
	const unsigned slot = handoff_generation() % SLOTS;
	char name[32];
	int fd;

	loop = ev_default_loop(0);
	check(loop ? 0 : -ENOSYS, "cannot make an event loop");
	fd = handoff_listen(NULL, argc > 1 ? argv[1] : NULL);
	check(fd, "cannot listen");
	room = handoff_keep("room", STATE_VERSION, sizeof *room, NULL, NULL);
	check(room ? 0 : -errno, "cannot keep memory");
	wake_fds[slot] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	check(wake_fds[slot] < 0 ? -errno : 0, "cannot make an eventfd");
	(void)snprintf(name, sizeof name, "wake-%u", slot);
	check(handoff_keep_fd(name, wake_fds[slot]), "cannot keep a descriptor");
	room->processes++;
	ev_io_init(&wake, on_wake, wake_fds[slot], EV_READ);
	ev_io_start(loop, &wake);
	ev_signal_init(&term, on_term, SIGTERM);
	ev_signal_start(loop, &term);
	check(handoff_new(loop, &handoff), "cannot begin");
	check(handoff_live_new(loop, STATE_VERSION, STATE_VERSION, &calls, NULL, &live),
	        "cannot pass users");
	check(handoff_accept(handoff, fd, on_accepted, NULL), "cannot accept");
	check(handoff_ready(handoff), "cannot say that it is ready");
	(void)ev_run(loop, 0);
	while (users)
		user_free(users);
	handoff_live_free(live);
	handoff_free(handoff);
	return 0;
}
