/* SPDX-License-Identifier: MIT */
/* Kept memory and descriptors: alone, and against a handoffd that is played by a thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "handoff.h"

static void set(const char *key, const char *value)
{
	assert_int_equal(value ? setenv(key, value, 1) : unsetenv(key), 0);
}

static int clear(void **state)
{
	(void)state;
	set("NOTIFY_SOCKET", NULL);
	set("HANDOFF_SERVICE", NULL);
	set("LISTEN_PID", NULL);
	set("LISTEN_FDS", NULL);
	set("LISTEN_FDNAMES", NULL);
	return 0;
}

/* ---- alone ---- */

static int inits;

static int fill(void *memory, const void *old, size_t old_size, unsigned old_version, void *data)
{
	inits++;
	assert_int_equal(*(int *)memory, 0);
	if (data)
		return *(int *)data;
	*(int *)memory = 7;
	if (!old)
		return 0;
	assert_int_equal(old_size, sizeof(int));
	*(int *)memory = *(const int *)old * 10 + (int)old_version;
	return 0;
}

static void alone(void **state)
{
	int refusal = -EACCES, *p, *q, pid, status;

	(void)state;
	inits = 0;
	assert_null(handoff_keep("alone", 1, sizeof(int), fill, &refusal));
	assert_int_equal(errno, EACCES);
	p = handoff_keep("alone", 1, sizeof(int), fill, NULL);
	assert_non_null(p);
	assert_int_equal(*p, 7);
	assert_int_equal((uintptr_t)p % 4096, 0);
	q = handoff_keep("alone", 1, sizeof(int), fill, NULL);
	assert_ptr_equal(p, q);
	assert_int_equal(inits, 2);
	assert_null(handoff_keep("alone", 2, sizeof(int), fill, NULL));
	assert_int_equal(errno, EEXIST);
	assert_null(handoff_keep("alone", 1, 8, fill, NULL));
	assert_int_equal(errno, EEXIST);
	pid = fork();
	if (pid == 0) {
		*p = 8;
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(*p, 8);
	q = handoff_keep("zeros", 0, 100000, NULL, NULL);
	assert_non_null(q);
	assert_int_equal(q[24999], 0);
	assert_int_equal(handoff_keep_fd("fd", 0), 0);
	assert_int_equal(handoff_kept_fd("fd"), -ENOENT);
	assert_int_equal(handoff_forget("fd"), 0);
}

static void refused(void **state)
{
	static const char *const wrong[] = {"", "a b", "a:b", "a\n", "\xc3\xa4",
	        "0123456789012345678901234567890123456789012345678901234567890123"};

	(void)state;
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		assert_null(handoff_keep(wrong[i], 1, 1, NULL, NULL));
		assert_int_equal(errno, EINVAL);
		assert_int_equal(handoff_keep_fd(wrong[i], 0), -EINVAL);
		assert_int_equal(handoff_kept_fd(wrong[i]), -EINVAL);
		assert_int_equal(handoff_forget(wrong[i]), -EINVAL);
	}
	assert_null(handoff_keep(NULL, 1, 1, NULL, NULL));
	assert_null(handoff_keep("x", 1, 0, NULL, NULL));
	assert_null(handoff_keep("x", 1, SIZE_MAX, NULL, NULL));
	assert_int_equal(errno, EINVAL);
	assert_null(handoff_keep("x", 1, (size_t)1 << 62, NULL, NULL));
	assert_int_not_equal(errno, 0);
	assert_int_equal(handoff_keep_fd("x", 9999), -EBADF);
	/* handoffd is named, but not there */
	set("HANDOFF_SERVICE", "web");
	assert_null(handoff_keep("gone", 1, 1, NULL, NULL));
	assert_int_equal(errno, ENOTCONN);
	set("NOTIFY_SOCKET", "@handoff-test-nobody-is-here");
	assert_null(handoff_keep("gone", 1, 1, NULL, NULL));
	assert_int_equal(errno, ECONNREFUSED);
}

/* ---- the lock ---- */

static void lock_survives_its_holder(void **state)
{
	void *p = handoff_keep("lock", 1, 1, NULL, NULL);
	int ends[2], pid, status;
	char byte;

	(void)state;
	assert_non_null(p);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		byte = (char)handoff_keep_lock(p, -1);
		(void)!write(ends[1], &byte, 1);
		(void)pause();
		_exit(1);
	}
	assert_int_equal(read(ends[0], &byte, 1), 1);
	assert_int_equal(byte, 0);
	assert_int_equal(handoff_keep_lock(p, 0), -EBUSY);
	assert_int_equal(handoff_keep_lock(p, 10), -ETIMEDOUT);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	pid = fork(); /* is told, and dies before it is whole */
	if (pid == 0)
		_exit(handoff_keep_lock(p, 1000) == 1 ? 0 : 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(handoff_keep_lock(p, 0), 1);
	handoff_keep_unlock(p);
	assert_int_equal(handoff_keep_lock(p, -1), 0);
	handoff_keep_unlock(p);
	(void)close(ends[0]);
	(void)close(ends[1]);
}

/* ---- with handoffd ---- */

/* Answers one question after the other until the socket is shut down. */
struct master {
	int fd;
	pthread_t thread;
	char name[sizeof(struct sockaddr_un)];
	const char *word; /* NULL: does as handoffd does */
	int kept[2];      /* the newest copy, and the one before */
	char layout[64];
	bool mute;
};

static void answer(int socket, const char *word, const int *fds, size_t n)
{
	union {
		char bytes[CMSG_SPACE(2 * sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {.iov_base = (char *)word, .iov_len = strlen(word)};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};

	if (n) {
		h.msg_control = &control;
		h.msg_controllen = CMSG_SPACE(n * sizeof(int));
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(&control.align), fds, n * sizeof(int));
	}
	assert_true(sendmsg(socket, &h, MSG_NOSIGNAL) > 0);
}

static void claim(struct master *m, const char *layout, const int *fds)
{
	bool same = m->kept[0] >= 0 && !strncmp(m->layout, layout, strlen(m->layout));

	if (m->word) {
		answer(fds[0], m->word, m->kept, m->kept[0] >= 0);
		return;
	}
	if (!same) {
		m->kept[1] = m->kept[0];
		m->kept[0] = fcntl(fds[1], F_DUPFD_CLOEXEC, 3);
		(void)snprintf(
		        m->layout, sizeof m->layout, "%.*s", (int)strcspn(layout, "\n"), layout);
	}
	answer(fds[0], same ? "have" : "new", m->kept, 1 + (m->kept[1] >= 0));
}

static void *serve(void *arg)
{
	struct master *m = arg;

	for (;;) {
		char text[200] = "", control[CMSG_SPACE(2 * sizeof(int))];
		struct iovec iov = {.iov_base = text, .iov_len = sizeof text - 1};
		struct msghdr h = {.msg_iov = &iov,
		        .msg_iovlen = 1,
		        .msg_control = control,
		        .msg_controllen = sizeof control};
		int fds[2] = {-1, -1};

		if (recvmsg(m->fd, &h, MSG_CMSG_CLOEXEC) <= 0)
			return NULL;
		if (CMSG_FIRSTHDR(&h))
			memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&h)),
			        CMSG_FIRSTHDR(&h)->cmsg_len - CMSG_LEN(0));
		if (!strncmp(text, "HANDOFF_KEEP=", 13) && !m->mute)
			claim(m, text + 13, fds);
		for (int i = 0; i < 2; i++)
			if (fds[i] >= 0)
				(void)close(fds[i]);
	}
}

static void master_start(struct master *m)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	socklen_t size = sizeof address;

	m->kept[0] = m->kept[1] = -1;
	m->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_true(m->fd >= 0);
	assert_int_equal(bind(m->fd, (struct sockaddr *)&address, sizeof address.sun_family), 0);
	assert_int_equal(getsockname(m->fd, (struct sockaddr *)&address, &size), 0);
	(void)snprintf(m->name, sizeof m->name, "@%.*s",
	        (int)(size - offsetof(struct sockaddr_un, sun_path) - 1), address.sun_path + 1);
	set("NOTIFY_SOCKET", m->name);
	set("HANDOFF_SERVICE", "web");
	assert_int_equal(pthread_create(&m->thread, NULL, serve, m), 0);
}

static void master_stop(struct master *m)
{
	(void)shutdown(m->fd, SHUT_RD);
	assert_int_equal(pthread_join(m->thread, NULL), 0);
	(void)close(m->fd);
	for (int i = 0; i < 2; i++)
		if (m->kept[i] >= 0)
			(void)close(m->kept[i]);
}

/* Another process of the service: what it finds under the name, with this version. */
static int elsewhere(const char *name, unsigned version)
{
	int pid = fork(), status;

	if (pid == 0) {
		int *p = handoff_keep(name, version, sizeof(int), fill, NULL);

		_exit(p ? *p : 255);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WEXITSTATUS(status);
}

static void kept_by_handoffd(void **state)
{
	struct master m = {0};
	int *p;

	(void)state;
	inits = 0;
	master_start(&m);
	assert_int_equal(elsewhere("memory", 3), 7);
	assert_int_equal(elsewhere("memory", 3), 7);
	assert_int_equal(elsewhere("memory", 4), 73);
	p = handoff_keep("memory", 4, sizeof(int), fill, NULL);
	assert_non_null(p);
	assert_int_equal(*p, 73);
	assert_int_equal(inits, 0); /* filled by the other one */
	master_stop(&m);
}

/* One that dies while it fills leaves nothing of it to the next one. */
static int die(void *memory, const void *old, size_t old_size, unsigned old_version, void *data)
{
	(void)old, (void)old_size, (void)old_version, (void)data;
	*(int *)memory = 99;
	_exit(0);
}

static void filler_dies(void **state)
{
	struct master m = {0};
	int pid, status, *p;

	(void)state;
	master_start(&m);
	pid = fork();
	if (pid == 0) {
		(void)handoff_keep("dies", 1, sizeof(int), die, NULL);
		_exit(1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	p = handoff_keep("dies", 1, sizeof(int), fill, NULL); /* which looks that it is zero */
	assert_non_null(p);
	assert_int_equal(*p, 7);
	master_stop(&m);
}

/* What is not what it should be is not mapped. */
static void not_believed(void **state)
{
	static const char *const words[] = {"have", "new"};
	struct master m = {0};
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING), pipes[2];

	(void)state;
	master_start(&m);
	m.word = "full";
	assert_null(handoff_keep("wrong", 1, 4, NULL, NULL));
	assert_int_equal(errno, ENOSPC);
	m.word = "other";
	assert_null(handoff_keep("wrong", 1, 4, NULL, NULL));
	assert_int_equal(errno, EEXIST);
	m.word = "what?";
	assert_null(handoff_keep("wrong", 1, 4, NULL, NULL));
	assert_int_equal(errno, EPROTO);
	m.word = "have"; /* but nothing comes with it */
	assert_null(handoff_keep("wrong", 1, 4, NULL, NULL));
	assert_int_equal(errno, EMFILE);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	m.kept[0] = pipes[0];
	assert_null(handoff_keep("wrong", 1, 4, NULL, NULL));
	assert_int_equal(errno, EPROTO);
	m.kept[0] = fd;
	for (int i = 0; i < 2; i++) {
		m.word = words[i];
		assert_int_equal(ftruncate(fd, 4096 + 4), 0); /* not sealed, then not ours */
		assert_null(handoff_keep("wrong", 1, 4, NULL, NULL));
		assert_int_equal(errno, EPROTO);
		(void)fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
	}
	m.word = NULL;
	m.kept[0] = -1;
	assert_non_null(handoff_keep("right", 1, 4, NULL, NULL));
	/* another size than was said */
	m.word = "have";
	assert_null(handoff_keep("wrong", 1, 8, NULL, NULL));
	assert_int_equal(errno, EPROTO);
	(void)close(pipes[0]);
	(void)close(pipes[1]);
	(void)close(fd);
	master_stop(&m);
}

static void no_answer(void **state)
{
	struct master m = {.mute = true};

	(void)state;
	master_start(&m); /* takes the question and closes the socket to answer on */
	assert_null(handoff_keep("mute", 1, 4, NULL, NULL));
	assert_int_equal(errno, ECONNRESET);
	master_stop(&m);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, clear, clear)
	const struct CMUnitTest tests[] = {
	        TEST(alone),
	        TEST(refused),
	        TEST(lock_survives_its_holder),
	        TEST(kept_by_handoffd),
	        TEST(filler_dies),
	        TEST(not_believed),
	        TEST(no_answer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
