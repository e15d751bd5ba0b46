/* SPDX-License-Identifier: MIT */
/* UNIX paths: one public name, a private one for each generation. */
#include "test_sockets_fixture.h"

#include <limits.h>

#define FLIPS 60

static struct world world;
static char directory[64], path[400];

static void begin(const char *where)
{
	const struct sockets_options o = {0};
	static char text[420];
	struct address a = {.kind = ADDRESS_UNIX, .path = where, .text = text};

	snprintf(text, sizeof text, "unix:%s", where);
	world_start(&world, &o, &a, 1);
	world.service->listeners[0].mode = 0640;
}

static int make_directory(void **state)
{
	(void)state;
	snprintf(directory, sizeof directory, "/tmp/handoffd-test-XXXXXX");
	assert_non_null(mkdtemp(directory));
	snprintf(path, sizeof path, "%s/app.sock", directory);
	return 0;
}

/* Nothing may be left behind. */
static int remove_directory(void **state)
{
	(void)state;
	if (rmdir(directory) < 0) {
		print_error("%s: %s\n", directory, strerror(errno));
		return -1;
	}
	return 0;
}

static void expect(int fd, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		int c = connect_unix(path);

		if (c < 0)
			fail_msg("connect: %s", strerror(-c));
		close(c);
	}
	assert_int_equal(take_all(fd), n);
}

static void test_flip_under_load(void **state)
{
	struct listener_set *sets[FLIPS + 1];
	pid_t workers[FLIPS + 1], clients[2];
	struct load *l = load_new();

	(void)state;
	begin(path);
	l->at_least = l->at_most = 1;
	sets[1] = open_set(&world, 1);
	workers[1] = start_worker(sets[1], 1);
	for (int i = 0; i < 2; i++)
		clients[i] = start_client(l, path);
	for (uint32_t g = 2; g <= FLIPS; g++) {
		sets[g] = open_set(&world, g);
		workers[g] = start_worker(sets[g], g);
		l->at_most = g;
		steer(&world, sets[g], SHARE_ALL, sets[g - 1], false);
		l->at_least = g;
		poll(NULL, 0, 2);
		wait_quiet(sets[g - 1], 0);
		stop_worker(workers[g - 1]);
		listener_set_close(sets[g - 1]);
	}
	l->stop = true;
	for (int i = 0; i < 2; i++)
		waitpid(clients[i], NULL, 0);
	stop_worker(workers[FLIPS]);
	print_message("%lu connections, last error %s\n", l->ok, strerror(-l->last_error));
	assert_int_equal(l->failed, 0);
	assert_int_equal(l->wrong, 0);
	assert_true(l->ok > 1000);
	world_stop(&world);
	munmap(l, sizeof *l);
}

static void test_inode(void **state)
{
	struct listener_set *a, *b;
	struct stat st;
	mode_t old = umask(0077);

	(void)state;
	begin(path);
	world.service->listeners[0].owner = "nobody";
	world.service->listeners[0].group = "65533";
	a = open_set(&world, 1);
	assert_int_equal(lstat(path, &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(st.st_mode & 0777, 0640);
	assert_int_equal(st.st_uid, 65534);
	assert_int_equal(st.st_gid, 65533);
	assert_int_equal(st.st_nlink, 2);
	assert_int_equal(umask(old), 0077);
	world.service->listeners[0].mode = 0600;
	b = open_set(&world, 2);
	expect(fd_of(a, 0), 5);
	steer(&world, b, SHARE_ALL, a, false);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	expect(fd_of(b, 0), 5);
	/* Twice the same, and back. */
	steer(&world, b, SHARE_ALL, a, false);
	steer(&world, a, SHARE_ALL, b, false);
	expect(fd_of(a, 0), 5);
	/* A path has no shares: the greater part has it. */
	steer(&world, b, 500, a, false);
	expect(fd_of(a, 0), 5);
	listener_set_close(a);
	expect(fd_of(b, 0), 5);
	steer(&world, b, 0, NULL, false);
	assert_int_equal(connect_unix(path), -ENOENT);
	world_stop(&world);
}

static void test_restored(void **state)
{
	struct listener_set *a, *b;
	char other[420];

	(void)state;
	begin(path);
	a = open_set(&world, 1);
	b = open_set(&world, 2);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(unlink(path), 0);
		ev_run(world.loop, EVRUN_NOWAIT);
		expect(fd_of(a, 0), 5);
	}
	steer(&world, b, SHARE_ALL, a, false);
	snprintf(other, sizeof other, "%s/moved", directory);
	assert_int_equal(rename(path, other), 0);
	ev_run(world.loop, EVRUN_NOWAIT);
	expect(fd_of(b, 0), 5);
	unlink(other);
	/* What somebody puts there himself stays. */
	assert_int_equal(unlink(path), 0);
	close(open(path, O_CREAT | O_RDWR, 0600));
	ev_run(world.loop, EVRUN_NOWAIT);
	assert_int_equal(connect_unix(path), -ECONNREFUSED);
	world_stop(&world);
	assert_int_equal(unlink(path), 0);
}

static int foreign(const char *where)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(un.sun_path, sizeof un.sun_path, "%s", where);
	assert_int_equal(bind(s, (void *)&un, sizeof un), 0);
	assert_int_equal(listen(s, 5), 0);
	return s;
}

static void test_occupied(void **state)
{
	struct listener_set *set;
	struct ho_error e;
	char stale[420], alive[420], unrelated[420];
	int s, t;

	(void)state;
	begin(path);
	close(open(path, O_CREAT | O_RDWR, 0600));
	assert_int_equal(listener_set_open(world.sockets, world.config, world.service, 1, &set, &e),
	        -EEXIST);
	assert_non_null(strstr(e.text, "something that is not a socket is there"));
	unlink(path);
	s = foreign(path);
	assert_int_equal(listener_set_open(world.sockets, world.config, world.service, 1, &set, &e),
	        -EADDRINUSE);
	assert_non_null(strstr(e.text, "another program listens there"));
	close(s);
	/* Now it is dead, as are some private names. */
	snprintf(stale, sizeof stale, "%s/.app.sock.0123abcd.g7", directory);
	close(foreign(stale));
	snprintf(alive, sizeof alive, "%s/.app.sock.0123abcd.g8", directory);
	t = foreign(alive);
	snprintf(unrelated, sizeof unrelated, "%s/.app.sock.0123abcd.g8x", directory);
	close(foreign(unrelated));
	set = open_set(&world, 1);
	expect(fd_of(set, 0), 5);
	assert_int_equal(access(stale, F_OK), -1);
	assert_int_equal(unlink(alive), 0);
	assert_int_equal(unlink(unrelated), 0);
	close(t);
	world_stop(&world);
	begin("/proc/none/app.sock");
	assert_int_equal(listener_set_open(world.sockets, world.config, world.service, 1, &set, &e),
	        -ENOENT);
	world_stop(&world);
}

static void test_long_path(void **state)
{
	struct listener_set *a, *b;
	char name[124], here[PATH_MAX], *back = getcwd(here, sizeof here);
	int c;

	(void)state;
	memset(name, 'd', 120);
	name[120] = '\0';
	assert_int_equal(chdir(directory), 0);
	assert_int_equal(mkdir(name, 0755), 0);
	snprintf(path, sizeof path,
	        "%s/%s/"
	        "a-rather-long-name-of-a-socket-that-alone-is-more-than-sixty-bytes-long.sock",
	        directory, name);
	begin(path);
	a = open_set(&world, 1);
	b = open_set(&world, 2);
	steer(&world, b, SHARE_ALL, a, false);
	assert_int_equal(chdir(name), 0);
	c = connect_unix(
	        "a-rather-long-name-of-a-socket-that-alone-is-more-than-sixty-bytes-long.sock");
	assert_true(c >= 0);
	close(c);
	assert_int_equal(take_all(fd_of(b, 0)), 1);
	world_stop(&world);
	assert_int_equal(chdir(".."), 0);
	assert_int_equal(rmdir(name), 0);
	assert_int_equal(chdir(back), 0);
}

static void test_abstract_is_shared(void **state)
{
	const struct sockets_options o = {0};
	struct address a = {
	        .kind = ADDRESS_ABSTRACT, .path = "handoffd-test", .text = "unix:@handoffd-test"};
	struct listener_set *one, *two;
	struct listener_info info;

	(void)state;
	world_start(&world, &o, &a, 1);
	one = open_set(&world, 1);
	two = open_set(&world, 2);
	info = listener_set_info(two, 0);
	assert_int_equal(info.steering, STEERING_SHARED);
	assert_int_equal(info.tag, 0xff);
	assert_int_not_equal(info.fd, fd_of(one, 0));
	steer(&world, two, SHARE_ALL, one, false);
	/* The leaving one's workers made it blocking for all. */
	assert_int_equal(fcntl(info.fd, F_SETFL, 0), 0);
	listener_set_close(one);
	assert_true(fcntl(info.fd, F_GETFL) & O_NONBLOCK);
	world_stop(&world);
}

static void test_udp_is_shared(void **state)
{
	const struct sockets_options o = {0};
	struct address a = ip_address("127.0.0.1", false);
	struct listener_set *one, *two;
	unsigned queue, limit;
	int type;
	socklen_t n = sizeof type;

	(void)state;
	a.kind = ADDRESS_UDP;
	world_start(&world, &o, &a, 1);
	one = open_set(&world, 1);
	two = open_set(&world, 2);
	assert_int_equal(listener_set_info(two, 0).steering, STEERING_SHARED);
	assert_int_equal(getsockopt(fd_of(two, 0), SOL_SOCKET, SO_TYPE, &type, &n), 0);
	assert_int_equal(type, SOCK_DGRAM);
	assert_int_equal(listener_set_queue(two, 0, &queue, &limit), -EOPNOTSUPP);
	listener_set_close(one);
	world_stop(&world);
}

#define IN_DIRECTORY(f) cmocka_unit_test_setup_teardown(f, make_directory, remove_directory)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        IN_DIRECTORY(test_flip_under_load),
	        IN_DIRECTORY(test_inode),
	        IN_DIRECTORY(test_restored),
	        IN_DIRECTORY(test_occupied),
	        IN_DIRECTORY(test_long_path),
	        cmocka_unit_test(test_abstract_is_shared),
	        cmocka_unit_test(test_udp_is_shared),
	};

	own_network();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
