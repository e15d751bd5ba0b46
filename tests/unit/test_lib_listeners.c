/* SPDX-License-Identifier: MIT */
/* The sockets that libhandoff finds, and what it refuses to believe. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "handoff.h"

#define FIRST 3

static void set(const char *key, const char *value)
{
	assert_int_equal(value ? setenv(key, value, 1) : unsetenv(key), 0);
}

static void pass(const char *count, const char *names)
{
	char pid[20];

	(void)snprintf(pid, sizeof pid, "%d", (int)getpid());
	set("LISTEN_PID", pid);
	set("LISTEN_FDS", count);
	set("LISTEN_FDNAMES", names);
}

static int clear(void **state)
{
	(void)state;
	set("LISTEN_PID", NULL);
	set("LISTEN_FDS", NULL);
	set("LISTEN_FDNAMES", NULL);
	set("HANDOFF_SERVICE", NULL);
	for (int fd = FIRST; fd < FIRST + 4; fd++)
		(void)close(fd);
	return 0;
}

/* Where handoffd would have put it, without FD_CLOEXEC. */
static void place(int fd, int at)
{
	assert_true(fd >= 0);
	if (fd == at) {
		assert_int_equal(fcntl(fd, F_SETFD, 0), 0);
		return;
	}
	assert_int_equal(dup2(fd, at), at);
	(void)close(fd);
}

static int bound(int family, int type, int backlog)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(family, type | SOCK_CLOEXEC, 0), r;

	assert_true(fd >= 0);
	if (family == AF_INET)
		r = bind(fd, (struct sockaddr *)&in, sizeof in);
	else if (family == AF_INET6)
		r = bind(fd, (struct sockaddr *)&in6, sizeof in6);
	else /* the kernel chooses an abstract name */
		r = bind(fd, (struct sockaddr *)&un, sizeof un.sun_family);
	assert_int_equal(r, 0);
	if (backlog)
		assert_int_equal(listen(fd, backlog), 0);
	return fd;
}

static void nothing_passed(void **state)
{
	char name[8];

	(void)state;
	assert_int_equal(handoff_listeners(), 0);
	assert_int_equal(handoff_listener(NULL, 0), -ENOENT);
	assert_int_equal(handoff_listener("http", 0), -ENOENT);
	assert_int_equal(handoff_listener_name(0, name, sizeof name), -ENOENT);
	pass("0", NULL);
	assert_int_equal(handoff_listeners(), 0);
}

static void by_name_and_index(void **state)
{
	char name[64];

	(void)state;
	place(bound(AF_INET, SOCK_STREAM, 1), 3);
	place(bound(AF_UNIX, SOCK_STREAM, 1), 4);
	place(bound(AF_INET, SOCK_STREAM, 1), 5);
	place(bound(AF_INET, SOCK_DGRAM, 0), 6);
	pass("4", "http:admin:http:dns");
	assert_int_equal(handoff_listeners(), 4);
	assert_int_equal(handoff_listener("http", 0), 3);
	assert_int_equal(handoff_listener("http", 1), 5);
	assert_int_equal(handoff_listener("http", 2), -ENOENT);
	assert_int_equal(handoff_listener("admin", 0), 4);
	assert_int_equal(handoff_listener("dns", 0), 6);
	assert_int_equal(handoff_listener("htt", 0), -ENOENT);
	assert_int_equal(handoff_listener("https", 0), -ENOENT);
	assert_int_equal(handoff_listener("", 0), -ENOENT);
	assert_int_equal(handoff_listener(NULL, 3), 6);
	assert_int_equal(handoff_listener(NULL, 4), -ENOENT);
	assert_int_equal(handoff_listener(NULL, -1), -EINVAL);
	assert_int_equal(handoff_listener_name(3, name, sizeof name), 3);
	assert_string_equal(name, "dns");
	assert_int_equal(handoff_listener_name(1, name, 6), 5);
	assert_int_equal(handoff_listener_name(1, name, 5), -ERANGE);
	assert_int_equal(handoff_listener_name(4, name, sizeof name), -ENOENT);
	assert_int_equal(handoff_listener_name(-1, name, sizeof name), -EINVAL);
	assert_int_equal(handoff_listener_name(0, NULL, 0), -EINVAL);
}

static void not_inherited_further(void **state)
{
	(void)state;
	place(bound(AF_INET6, SOCK_STREAM, 1), 3);
	pass("1", NULL);
	assert_int_equal(fcntl(3, F_GETFD), 0);
	assert_int_equal(handoff_listener(NULL, 0), 3);
	assert_int_equal(fcntl(3, F_GETFD), FD_CLOEXEC);
	assert_int_equal(handoff_listener(NULL, 0), 3);
}

static void without_names(void **state)
{
	char name[8];

	(void)state;
	place(bound(AF_INET, SOCK_STREAM, 1), 3);
	pass("1", NULL);
	assert_int_equal(handoff_listener(NULL, 0), 3);
	assert_int_equal(handoff_listener("unknown", 0), 3);
	assert_int_equal(handoff_listener("http", 0), -ENOENT);
	assert_int_equal(handoff_listener_name(0, name, sizeof name), 7);
	assert_string_equal(name, "unknown");
}

static void what_is_no_listener(void **state)
{
	int pipes[2];

	(void)state;
	pass("1", NULL);
	assert_int_equal(handoff_listener(NULL, 0), -EBADF);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	if (pipes[0] != 3)
		place(pipes[0], 3);
	assert_int_equal(handoff_listener(NULL, 0), -ENOTSOCK);
	(void)close(pipes[1]);
	(void)close(3);
	place(bound(AF_INET, SOCK_STREAM, 0), 3);
	assert_int_equal(handoff_listener(NULL, 0), -ENOTCONN);
	(void)close(3);
	place(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), 3);
	assert_int_equal(handoff_listener(NULL, 0), -ENOTCONN);
	(void)close(3);
	place(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), 3);
	assert_int_equal(handoff_listener(NULL, 0), -ENOTCONN);
}

static void broken_variables(void **state)
{
	static const char *const counts[] = {
	        "", "x", "-1", "+1", "1 ", " 1", "0x1", "1.0", "65537", "99999999999999999999999"};
	char name[8];

	(void)state;
	for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
		pass(counts[i], NULL);
		assert_int_equal(handoff_listeners(), -EINVAL);
		assert_int_equal(handoff_listener(NULL, 0), -EINVAL);
		assert_int_equal(handoff_listener_name(0, name, sizeof name), -EINVAL);
		pass("1", NULL);
		set("LISTEN_PID", counts[i]);
		assert_true(handoff_listeners() == -EINVAL || !strcmp(counts[i], "65537"));
	}
	pass("2", "one");
	assert_int_equal(handoff_listeners(), -EINVAL);
	pass("2", "one:two:three");
	assert_int_equal(handoff_listener("one", 0), -EINVAL);
	pass("1", "");
	assert_int_equal(handoff_listeners(), 1);
}

static void for_another_process(void **state)
{
	int status = 0;
	pid_t pid;

	(void)state;
	place(bound(AF_INET, SOCK_STREAM, 1), 3);
	pass("1", "http");
	assert_int_equal(handoff_listeners(), 1);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(handoff_listeners() == 0 && handoff_listener("http", 0) == -ENOENT ? 0 : 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void for_no_named_process(void **state)
{
	(void)state;
	place(bound(AF_INET, SOCK_STREAM, 1), 3);
	pass("1", "http");
	set("LISTEN_PID", NULL);
	assert_int_equal(handoff_listeners(), 0);
	set("HANDOFF_SERVICE", "web");
	assert_int_equal(handoff_listener("http", 0), 3);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, clear, clear)
	const struct CMUnitTest tests[] = {
	        TEST(nothing_passed),
	        TEST(by_name_and_index),
	        TEST(not_inherited_further),
	        TEST(without_names),
	        TEST(what_is_no_listener),
	        TEST(broken_variables),
	        TEST(for_another_process),
	        TEST(for_no_named_process),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
