/* SPDX-License-Identifier: MIT */
/* Connections passed between two processes, here one struct handoff_live each; the test plays
 * handoffd. What is passed are socket pairs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "handoff.h"

#define CONNECTIONS 1000

/* ---- handoffd ---- */

static int notify_fd = -1;

static int setup(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	socklen_t size = sizeof address;
	char name[sizeof address];

	(void)state;
	notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_true(notify_fd >= 0);
	assert_int_equal(
	        bind(notify_fd, (struct sockaddr *)&address, sizeof address.sun_family), 0);
	assert_int_equal(getsockname(notify_fd, (struct sockaddr *)&address, &size), 0);
	(void)snprintf(name, sizeof name, "@%.*s",
	        (int)(size - offsetof(struct sockaddr_un, sun_path) - 1), address.sun_path + 1);
	assert_int_equal(setenv("NOTIFY_SOCKET", name, 1), 0);
	assert_int_equal(setenv("HANDOFF_SERVICE", "web", 1), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	(void)close(notify_fd);
	assert_int_equal(unsetenv("NOTIFY_SOCKET"), 0);
	assert_int_equal(unsetenv("HANDOFF_SERVICE"), 0);
	return 0;
}

/* The door of whoever has said so, and the words it came with. */
static int door(const char *expected)
{
	char text[100] = "", control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {.iov_base = text, .iov_len = sizeof text - 1};
	struct msghdr h = {.msg_iov = &iov,
	        .msg_iovlen = 1,
	        .msg_control = control,
	        .msg_controllen = sizeof control};
	int fd;

	assert_true(recvmsg(notify_fd, &h, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) > 0);
	assert_string_equal(text, expected);
	assert_non_null(CMSG_FIRSTHDR(&h));
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&h)), sizeof fd);
	return fd;
}

/* Through a door, or as an offer that the test makes itself. */
static void send_with(int to, const void *bytes, size_t n, const int *fds, size_t n_fds)
{
	union {
		char bytes[CMSG_SPACE(8 * sizeof(int))];
		struct cmsghdr align;
	} control = {.align = {.cmsg_level = SOL_SOCKET,
	                     .cmsg_type = SCM_RIGHTS,
	                     .cmsg_len = CMSG_LEN(n_fds * sizeof(int))}};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = n};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};

	if (n_fds) {
		memcpy(CMSG_DATA(&control.align), fds, n_fds * sizeof(int));
		h.msg_control = &control;
		h.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
	}
	assert_int_equal(sendmsg(to, &h, MSG_NOSIGNAL), n);
}

static void pair(int ends[2])
{
	assert_int_equal(
	        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
}

static void hand_in(int door_fd, const char *word, int fd)
{
	send_with(door_fd, word, strlen(word), &fd, 1);
	(void)close(fd);
}

/* ---- giver and taker ---- */

struct connection {
	int fd, other, result;
	bool passing, done;
};

struct side {
	struct handoff_live *live;
	struct connection connections[CONNECTIONS];
	unsigned n, n_wanted, n_passed, n_kept, n_taken;
	int refuse;      /* every third one is refused with this */
	unsigned die_at; /* the process ends when so many have come */
	int fds[CONNECTIONS];
	bool pass_again; /* those that came back */
};

static struct ev_loop *loop;

static void on_wanted(struct handoff_live *live, void *data)
{
	struct side *s = data;

	s->n_wanted++;
	for (unsigned i = 0; i < s->n; i++) {
		struct connection *c = &s->connections[i];
		char state[100];

		if (c->passing || (c->done && !(s->pass_again && c->result)))
			continue;
		memset(state, (int)i, sizeof state);
		memcpy(state, &i, sizeof i);
		if (handoff_pass(live, c->fd, state, 4 + i % 96, c) < 0)
			return;
		c->passing = true;
	}
}

static void on_passed(void *connection, int result, void *data)
{
	struct connection *c = connection;
	struct side *s = data;

	assert_true(c->passing);
	c->passing = false;
	c->done = true;
	c->result = result;
	s->n_passed += result == 0;
	s->n_kept += result < 0;
	if (result == 0) {
		(void)close(c->fd);
		c->fd = -1;
	}
}

static int on_taken(int fd, const void *state, size_t size, unsigned version, void *data)
{
	struct side *s = data;
	unsigned i;

	assert_int_equal(version, 3);
	assert_true(size >= sizeof i);
	memcpy(&i, state, sizeof i);
	assert_int_equal(size, 4 + i % 96);
	for (size_t k = 4; k < size; k++)
		assert_int_equal(((const char *)state)[k], (char)i);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	if (s->die_at && s->n_taken + 1 == s->die_at)
		_exit(0);
	if (s->refuse && i % 3 == 0)
		return s->refuse;
	s->fds[s->n_taken++] = fd;
	return 0;
}

static const struct handoff_live_calls gives = {on_wanted, on_passed, NULL},
                                       takes = {NULL, NULL, on_taken};

static void add_connections(struct side *s, unsigned n)
{
	int ends[2];

	for (; n > 0; n--) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
		s->connections[s->n++] = (struct connection){.fd = ends[0], .other = ends[1]};
	}
}

/* Until nothing happens any more: timers of libhandoff included. */
static void run(void)
{
	for (int quiet = 0; quiet < 3;) {
		ev_run(loop, EVRUN_NOWAIT);
		quiet = ev_pending_count(loop) ? 0 : quiet + 1;
	}
}

/* Until `done` results have come to the giver. */
static void run_until(const struct side *giver, unsigned done)
{
	while (giver->n_passed + giver->n_kept < done)
		ev_run(loop, EVRUN_ONCE);
}

static struct side *side_new(const struct handoff_live_calls *calls)
{
	struct side *s = calloc(1, sizeof *s);

	assert_non_null(s);
	assert_int_equal(handoff_live_new(loop, 3, 2, calls, s, &s->live), 0);
	return s;
}

static void side_free(struct side *s)
{
	handoff_live_free(s->live);
	for (unsigned i = 0; i < s->n; i++) {
		if (s->connections[i].fd >= 0)
			(void)close(s->connections[i].fd);
		(void)close(s->connections[i].other);
	}
	for (unsigned i = 0; i < s->n_taken; i++)
		(void)close(s->fds[i]);
	free(s);
}

/* What is taken works, with what was on its way meanwhile. */
static void assert_alive(const struct side *giver, unsigned i)
{
	const struct connection *c = &giver->connections[i];
	char byte;

	assert_int_equal(recv(c->other, &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN); /* not the end: somebody has it */
}

static void all_are_passed(void **state)
{
	struct side *giver, *taker;
	int giver_door, taker_door, ends[2];

	(void)state;
	loop = ev_loop_new(0);
	giver = side_new(&gives);
	giver_door = door("HANDOFF_LIVE=give-2-3");
	taker = side_new(&takes);
	taker_door = door("HANDOFF_LIVE=take-2-3");
	add_connections(giver, 500);
	assert_int_equal(handoff_live_wanted(giver->live), 0);
	assert_int_equal(
	        handoff_pass(giver->live, giver->connections[0].fd, "", 0, NULL), -ENOTCONN);
	for (unsigned i = 0; i < giver->n; i++)
		assert_int_equal(write(giver->connections[i].other, &i, sizeof i), sizeof i);
	pair(ends);
	hand_in(taker_door, "take 3", ends[0]);
	hand_in(giver_door, "give", ends[1]);
	run_until(giver, 500);
	assert_int_equal(giver->n_passed, 500);
	assert_int_equal(taker->n_taken, 500);
	for (unsigned i = 0; i < giver->n; i++) { /* in order, and with what was not read */
		unsigned n;

		assert_alive(giver, i);
		assert_int_equal(read(taker->fds[i], &n, sizeof n), sizeof n);
		assert_int_equal(n, i);
	}
	assert_int_equal(handoff_live_wanted(giver->live), 1);
	assert_int_equal(handoff_pass(giver->live, -1, "", 0, NULL), -EBADF);
	assert_int_equal(handoff_pass(giver->live, 0, "", HANDOFF_PASS_MAX + 1, NULL), -EMSGSIZE);
	{
		char word[10] = "";

		assert_int_equal(recv(giver_door, word, sizeof word, MSG_DONTWAIT), 4);
		assert_string_equal(word, "done");
	}
	side_free(giver);
	side_free(taker);
	(void)close(giver_door);
	(void)close(taker_door);
	ev_loop_destroy(loop);
}

/* Few connections of many workers do not all come to one. */
static void takers_get_equal_parts(void **state)
{
	struct side *giver, *takers[3];
	unsigned first = 0;

	(void)state;
	loop = ev_loop_new(0);
	for (int worker = 0; worker < 3; worker++) {
		int doors[4], ends[2];
		char number[] = {(char)('0' + worker), '\0'};

		assert_int_equal(setenv("HANDOFF_WORKER", number, 1), 0);
		giver = side_new(&gives);
		doors[3] = door("HANDOFF_LIVE=give-2-3");
		for (int i = 0; i < 3; i++) {
			takers[i] = side_new(&takes);
			doors[i] = door("HANDOFF_LIVE=take-2-3");
			pair(ends);
			hand_in(doors[i], "take 3", ends[0]);
			hand_in(doors[3], "give", ends[1]);
		}
		run();
		add_connections(giver, 1);
		on_wanted(giver->live, giver);
		run_until(giver, 1);
		for (unsigned i = 0; i < 3; i++)
			first |= takers[i]->n_taken << i;
		add_connections(giver, 29);
		on_wanted(giver->live, giver);
		run_until(giver, 30);
		for (unsigned i = 0; i < 3; i++)
			assert_int_equal(takers[i]->n_taken, 10);
		side_free(giver);
		for (int i = 0; i < 3; i++)
			side_free(takers[i]);
		for (int i = 0; i < 4; i++)
			(void)close(doors[i]);
	}
	assert_int_equal(first, 7);
	assert_int_equal(unsetenv("HANDOFF_WORKER"), 0);
	ev_loop_destroy(loop);
}

static void refused_ones_stay(void **state)
{
	struct side *giver, *taker;
	int giver_door, taker_door, ends[2];

	(void)state;
	loop = ev_loop_new(0);
	giver = side_new(&gives);
	giver_door = door("HANDOFF_LIVE=give-2-3");
	taker = side_new(&takes);
	taker_door = door("HANDOFF_LIVE=take-2-3");
	taker->refuse = -EDOM;
	add_connections(giver, 300);
	pair(ends);
	hand_in(taker_door, "take 3", ends[0]);
	hand_in(giver_door, "give", ends[1]);
	run_until(giver, 300);
	assert_int_equal(giver->n_passed, 200);
	assert_int_equal(giver->n_kept, 100);
	for (unsigned i = 0; i < 300; i++) {
		assert_int_equal(giver->connections[i].result, i % 3 ? 0 : -EDOM);
		assert_alive(giver, i);
	}
	side_free(giver);
	side_free(taker);
	(void)close(giver_door);
	(void)close(taker_door);
	ev_loop_destroy(loop);
}

/* A taker that dies over the 100th: none of the batch that it was at has been answered. All that
 * it had not answered stay with the giver, and go to the next one. */
static void taker_dies(void **state)
{
	struct side *giver, *taker;
	int giver_door, taker_door, ends[2], pid, status;

	(void)state;
	loop = ev_loop_new(0);
	giver = side_new(&gives);
	giver_door = door("HANDOFF_LIVE=give-2-3");
	add_connections(giver, 300);
	pair(ends);
	pid = fork();
	if (pid == 0) {
		(void)close(ends[1]);
		for (unsigned i = 0; i < giver->n; i++)
			(void)close(giver->connections[i].fd);
		loop = ev_loop_new(0);
		taker = side_new(&takes);
		taker_door = door("HANDOFF_LIVE=take-2-3");
		taker->die_at = 100;
		hand_in(taker_door, "take 3", ends[0]);
		(void)ev_run(loop, 0);
		_exit(1);
	}
	(void)close(ends[0]);
	hand_in(giver_door, "give", ends[1]);
	run_until(giver, 65); /* beyond the first batch only its end brings any */
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(handoff_live_wanted(giver->live), 0);
	assert_int_equal(giver->n_passed, 64);
	assert_true(giver->n_kept == 64 || giver->n_kept == 128);
	for (unsigned i = 64; i < 300; i++)
		assert_alive(giver, i);
	/* another one is started in its place */
	giver->n_kept = 0;
	giver->pass_again = true;
	for (unsigned i = 0; i < 64; i++)
		giver->connections[i].passing = true; /* gone with the first one */
	taker = side_new(&takes);
	taker_door = door("HANDOFF_LIVE=take-2-3");
	pair(ends);
	hand_in(taker_door, "take 3", ends[0]);
	hand_in(giver_door, "give", ends[1]);
	run_until(giver, 300);
	assert_int_equal(taker->n_taken, 236);
	side_free(giver);
	side_free(taker);
	(void)close(giver_door);
	(void)close(taker_door);
	ev_loop_destroy(loop);
}

/* What a giver had offered when it died is the taker's. */
static void giver_dies(void **state)
{
	struct side *taker;
	int taker_door, ends[2], pid, status;
	const uint32_t offer[] = {0x4f48ff01, 1, 4, 0};

	(void)state;
	loop = ev_loop_new(0);
	taker = side_new(&takes);
	taker_door = door("HANDOFF_LIVE=take-2-3");
	pair(ends);
	pid = fork();
	if (pid == 0) {
		int connection[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, connection), 0);
		send_with(ends[1], offer, sizeof offer, connection, 1);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	(void)close(ends[1]);
	hand_in(taker_door, "take 3", ends[0]);
	while (!taker->n_taken)
		ev_run(loop, EVRUN_ONCE);
	run();
	assert_int_equal(taker->n_taken, 1);
	side_free(taker);
	(void)close(taker_door);
	ev_loop_destroy(loop);
}

/* A taker without room for more descriptors refuses those that the kernel dropped. */
static void taker_is_full(void **state)
{
	struct side *giver, *taker;
	int giver_door, taker_door, ends[2];
	struct rlimit limit, small;

	(void)state;
	if (getenv("HANDOFF_VALGRIND")) /* which has descriptors of its own */
		skip();
	loop = ev_loop_new(0);
	giver = side_new(&gives);
	giver_door = door("HANDOFF_LIVE=give-2-3");
	taker = side_new(&takes);
	taker_door = door("HANDOFF_LIVE=take-2-3");
	add_connections(giver, 40);
	pair(ends);
	hand_in(taker_door, "take 3", ends[0]);
	hand_in(giver_door, "give", ends[1]);
	while (!handoff_live_wanted(giver->live))
		ev_run(loop, EVRUN_ONCE);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	small = limit;
	small.rlim_cur = (rlim_t)dup(0) + 11;
	(void)close((int)small.rlim_cur - 11);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &small), 0);
	run_until(giver, 40);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_true(taker->n_taken >= 8 && taker->n_taken <= 11);
	assert_int_equal(giver->n_passed, taker->n_taken);
	for (unsigned i = giver->n_passed; i < 40; i++) {
		assert_int_equal(giver->connections[i].result, -EMFILE);
		assert_alive(giver, i);
	}
	side_free(giver);
	side_free(taker);
	(void)close(giver_door);
	(void)close(taker_door);
	ev_loop_destroy(loop);
}

/* A taker that does not read holds up what was offered, and no more. */
static void taker_is_slow(void **state)
{
	struct side *giver;
	int giver_door, ends[2];

	(void)state;
	loop = ev_loop_new(0);
	giver = side_new(&gives);
	giver_door = door("HANDOFF_LIVE=give-2-3");
	add_connections(giver, 300);
	pair(ends);
	hand_in(giver_door, "give", ends[1]);
	while (!giver->n_wanted)
		ev_run(loop, EVRUN_ONCE);
	run();
	assert_int_equal(giver->n_wanted, 1);
	for (unsigned i = 0; i < 300; i++)
		assert_int_equal(giver->connections[i].passing, i < 128);
	(void)close(ends[0]); /* and is gone */
	run_until(giver, 128);
	assert_int_equal(giver->n_kept, 128);
	for (unsigned i = 0; i < 300; i++)
		assert_alive(giver, i);
	side_free(giver);
	(void)close(giver_door);
	ev_loop_destroy(loop);
}

/* What is no offer ends the channel, and leaves no descriptor open. */
static void not_believed(void **state)
{
	static const struct {
		uint32_t words[6];
		size_t n;
	} bad[] = {
	        {{0}, 1},
	        {{0x4f48ff01, 1, 4}, 8},
	        {{0x4f48ff02, 1, 4, 0}, 16},
	        {{0x4f48ff01, 0}, 8},
	        {{0x4f48ff01, 65, 4, 0}, 16},
	        {{0x4f48ff01, UINT32_MAX, 4, 0}, 16},
	        {{0x4f48ff01, 1, 5, 0}, 16},
	        {{0x4f48ff01, 1, UINT32_MAX, 0}, 16},
	        {{0x4f48ff01, 2, 0x80000004, 0x80000000, 0}, 20},
	        {{0x4f48ff01, 1, 4, 0, 0}, 20},
	};
	struct side *taker;
	int taker_door, ends[2];

	(void)state;
	loop = ev_loop_new(0);
	taker = side_new(&takes);
	taker_door = door("HANDOFF_LIVE=take-2-3");
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		int connection[2];
		char byte;

		pair(ends);
		hand_in(taker_door, "take 3", ends[0]);
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, connection), 0);
		send_with(ends[1], bad[i].words, bad[i].n, connection, 1);
		(void)close(connection[0]);
		while (recv(ends[1], &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN)
			ev_run(loop, EVRUN_ONCE);
		assert_int_equal(recv(connection[1], &byte, 1, MSG_DONTWAIT), 0);
		(void)close(connection[1]);
		(void)close(ends[1]);
	}
	assert_int_equal(taker->n_taken, 0);
	/* more descriptors than are told of */
	pair(ends);
	hand_in(taker_door, "take 3", ends[0]);
	send_with(ends[1], (const uint32_t[]){0x4f48ff01, 1, 4, 0}, 16, (const int[]){0, 1}, 2);
	while (recv(ends[1], &(char){0}, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN)
		ev_run(loop, EVRUN_ONCE);
	(void)close(ends[1]);
	assert_int_equal(taker->n_taken, 0);
	/* words that mean nothing */
	pair(ends);
	hand_in(taker_door, "take", ends[0]);
	while (recv(ends[1], &(char){0}, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN)
		ev_run(loop, EVRUN_ONCE);
	(void)close(ends[1]);
	side_free(taker);
	(void)close(taker_door);
	ev_loop_destroy(loop);
}

/* A handoffd that is started anew gets a new door. */
static void door_is_opened_again(void **state)
{
	struct handoff_live *live;

	(void)state;
	loop = ev_loop_new(0);
	assert_int_equal(handoff_live_new(loop, 3, 2, &takes, NULL, &live), 0);
	(void)close(door("HANDOFF_LIVE=take-2-3"));
	ev_run(loop, EVRUN_ONCE); /* the end is seen, */
	ev_run(loop, EVRUN_ONCE); /* and a moment later it tries again */
	(void)close(door("HANDOFF_LIVE=take-2-3"));
	handoff_live_free(live);
	ev_loop_destroy(loop);
}

static void wrong_calls(void **state)
{
	static const struct handoff_live_calls none = {NULL, NULL, NULL},
	                                       half = {on_wanted, NULL, on_taken};
	struct handoff_live *live;

	(void)state;
	loop = ev_loop_new(0);
	assert_int_equal(handoff_live_new(NULL, 1, 1, &takes, NULL, &live), -EINVAL);
	assert_int_equal(handoff_live_new(loop, 1, 1, NULL, NULL, &live), -EINVAL);
	assert_int_equal(handoff_live_new(loop, 1, 1, &none, NULL, &live), -EINVAL);
	assert_int_equal(handoff_live_new(loop, 1, 1, &half, NULL, &live), -EINVAL);
	assert_int_equal(handoff_live_new(loop, 1, 2, &takes, NULL, &live), -EINVAL);
	handoff_live_free(NULL);
	/* alone */
	assert_int_equal(unsetenv("HANDOFF_SERVICE"), 0);
	assert_int_equal(handoff_live_new(loop, 1, 1, &gives, NULL, &live), 0);
	assert_int_equal(handoff_live_wanted(live), 0);
	handoff_live_free(live);
	ev_loop_destroy(loop);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	        TEST(all_are_passed),
	        TEST(takers_get_equal_parts),
	        TEST(refused_ones_stay),
	        TEST(taker_dies),
	        TEST(giver_dies),
	        TEST(taker_is_full),
	        TEST(taker_is_slow),
	        TEST(not_believed),
	        TEST(door_is_opened_again),
	        TEST(wrong_calls),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
