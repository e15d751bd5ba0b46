/* SPDX-License-Identifier: MIT */
/* UNIX listeners: a private name for each generation, the public name moved between them. */
#include <sys/stat.h>

#include "test_connections.h"

static char directory[] = "/tmp/handoff-test-XXXXXX";

static struct sockaddr_un name(const char *file)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	(void)snprintf(a.sun_path, sizeof a.sun_path, "%s/%s", directory, file);
	return a;
}

static int unix_listener(const char *file)
{
	struct sockaddr_un a = name(file);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(listen(fd, 64), 0);
	return fd;
}

static void publish(const char *file)
{
	const struct sockaddr_un from = name(file), to = name("next"), public = name("public");

	assert_int_equal(link(from.sun_path, to.sun_path), 0);
	assert_int_equal(rename(to.sun_path, public.sun_path), 0);
}

static int unix_client(void)
{
	struct sockaddr_un a = name("public");
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
	return fd;
}

struct pair {
	int old, young, c[12], a[12];
};

/* Six connections of the old generation, two more in its queue, four of the young one. */
static void set_up(struct pair *p)
{
	int i;

	p->old = unix_listener("old");
	p->young = unix_listener("young");
	publish("old");
	for (i = 0; i < 8; i++) {
		p->c[i] = unix_client();
		p->a[i] = i < 6 ? accepted(p->old) : -1;
	}
	publish("young");
	for (; i < 12; i++) {
		p->c[i] = unix_client();
		p->a[i] = accepted(p->young);
	}
}

static void tear_down(struct pair *p)
{
	static const char *const files[] = {"old", "young", "public"};
	struct sockaddr_un a;
	size_t i;

	for (i = 0; i < 12; i++) {
		(void)close_fd(p->c[i]);
		(void)close_fd(p->a[i]);
	}
	(void)close(p->old);
	(void)close(p->young);
	for (i = 0; i < ARRAY_SIZE(files); i++) {
		a = name(files[i]);
		assert_int_equal(unlink(a.sun_path), 0);
	}
}

static void test_count(void **state)
{
	struct lab *l = *state;
	struct connection_info info[12];
	struct endpoint_list list;
	struct inflight n;
	struct pair p;
	size_t count;

	set_up(&p);
	n = count_one(l, p.old, TAG_NONE);
	assert_int_equal(n.total, 8);
	assert_int_equal(n.queued, 2);
	n = count_one(l, p.young, TAG_NONE);
	assert_int_equal(n.total, 4);
	assert_int_equal(n.queued, 0);
	assert_int_equal(write(p.c[9], "hello", 5), 5);
	list = endpoint_of(l, p.young, false, TAG_NONE);
	assert_int_equal(list_endpoints(l->c, list.items, 1, NULL, info, 12, &count), 0);
	assert_int_equal(count, 4);
	assert_string_equal(info[0].peer, "unix");
	assert_int_equal(info[0].idle, USEC_INFINITY);
	assert_int_equal(
	        info[0].queued_in + info[1].queued_in + info[2].queued_in + info[3].queued_in, 5);
	endpoint_list_done(&list);
	tear_down(&p);
}

/* The same name relative to other directories: the file behind it tells them apart. */
static void test_same_name(void **state)
{
	struct lab *l = *state;
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	const char *const sub[] = {"one", "two"};
	int listener[2], c[2], i, d;

	for (i = 0; i < 2; i++) {
		struct sockaddr_un path = name(sub[i]);

		assert_int_equal(mkdir(path.sun_path, 0700), 0);
		d = open(path.sun_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		assert_int_equal(dup2(d, 500), 500);
		(void)close(d);
		(void)snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/500/s");
		listener[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		assert_int_equal(bind(listener[i], (struct sockaddr *)&a, sizeof a), 0);
		assert_int_equal(listen(listener[i], 8), 0);
		c[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(connect(c[i], (struct sockaddr *)&a, sizeof a), 0);
		assert_int_equal(unlink(a.sun_path), 0);
		assert_int_equal(rmdir(path.sun_path), 0);
	}
	d = accepted(listener[0]);
	assert_int_equal(count_one(l, listener[0], TAG_NONE).total, 1);
	assert_int_equal(count_one(l, listener[0], TAG_NONE).queued, 0);
	assert_int_equal(count_one(l, listener[1], TAG_NONE).queued, 1);
	assert_int_equal(count_one(l, listener[1], TAG_NONE).total, 1);
	(void)close(d);
	(void)close(500);
	for (i = 0; i < 2; i++) {
		(void)close(c[i]);
		(void)close(listener[i]);
	}
}

static void test_drain(void **state)
{
	struct lab *l = *state;
	struct drain_watch *w;
	struct pair p;
	usec_t begun;
	int i;

	set_up(&p);
	w = watch(l, endpoint_of(l, p.old, false, TAG_NONE), 10 * USEC_PER_MSEC);
	assert_int_equal(l->c->events_fd, -1);
	until(l, l->reports);
	assert_int_equal(l->now.total, 8);
	assert_int_equal(l->now.queued, 2);
	assert_int_equal(l->now.idle, 0);
	p.a[6] = accepted(p.old);
	p.a[7] = accepted(p.old);
	until(l, l->now.queued == 0);
	assert_int_equal(l->now.total, 8);
	/* That clients have gone does not end it: the worker has to close. */
	for (i = 0; i < 8; i++)
		p.c[i] = close_fd(p.c[i]);
	for (i = 0; i < 7; i++)
		p.a[i] = close_fd(p.a[i]);
	begun = now_usec();
	until(l, l->now.total == 1);
	p.a[7] = close_fd(p.a[7]);
	until(l, l->now.total == 0);
	/* Polled quickly as long as something changes. */
	assert_true(now_usec() - begun < 900 * USEC_PER_MSEC);
	drain_watch_free(w);
	tear_down(&p);
}

static void test_quiet(void **state)
{
	struct lab *l = *state;
	struct endpoint_list list;
	struct quiet_check *q;
	struct inflight n;
	struct pair p;
	int i, r;

	set_up(&p);
	list = endpoint_of(l, p.old, false, TAG_NONE);
	assert_int_equal(quiet_check_new_on(l->c, &list, &q), 0);
	for (i = 0; i < 2; i++) {
		assert_int_equal(quiet_check_again(q, &n), 0);
		assert_int_equal(n.queued, 2 - i);
		p.a[6 + i] = accepted(p.old);
	}
	do
		r = quiet_check_again(q, &n);
	while (!r);
	assert_int_equal(r, 1);
	assert_int_equal(n.queued, 0);
	quiet_check_free(q);
	tear_down(&p);
}

static void test_unprivileged(void **state)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		if (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534))
			_exit(77);
		ev_loop_fork(((struct lab *)*state)->loop);
		test_count(state);
		test_drain(state);
		test_quiet(state);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		print_message("skipped: cannot become another user\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

static int remove_directory(void **state)
{
	(void)state;
	return rmdir(directory);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, lab_setup, lab_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_count),
	        TEST(test_same_name),
	        TEST(test_drain),
	        TEST(test_quiet),
	        TEST(test_unprivileged),
	};

	own_network();
	if (!mkdtemp(directory) || chmod(directory, 0777) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, remove_directory);
}
