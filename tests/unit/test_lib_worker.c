/* SPDX-License-Identifier: MIT */
/* Who a worker is, and how it says that it is ready. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
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
	set("HANDOFF_GENERATION", NULL);
	set("HANDOFF_WORKER", NULL);
	set("HANDOFF_RELEASE", NULL);
	return 0;
}

static void version(void **state)
{
	(void)state;
	assert_string_equal(handoff_version(), HANDOFF_HEADER_VERSION);
	assert_string_equal(handoff_version(), HANDOFF_VERSION);
}

static void alone(void **state)
{
	(void)state;
	assert_int_equal(handoff_generation(), 0);
	assert_int_equal(handoff_worker(), -1);
	assert_null(handoff_service());
	assert_null(handoff_release());
	assert_int_equal(handoff_notify("READY=1"), 0);
}

static void identity(void **state)
{
	static const char *const wrong[] = {"", "x", "-1", "7x", "4294967296"};

	(void)state;
	set("HANDOFF_SERVICE", "web");
	set("HANDOFF_GENERATION", "4294967295");
	set("HANDOFF_WORKER", "3");
	set("HANDOFF_RELEASE", "/srv/web/releases/42");
	assert_true(handoff_generation() == 4294967295u);
	assert_int_equal(handoff_worker(), 3);
	assert_string_equal(handoff_service(), "web");
	assert_string_equal(handoff_release(), "/srv/web/releases/42");
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		set("HANDOFF_GENERATION", wrong[i]);
		set("HANDOFF_WORKER", wrong[i]);
		assert_int_equal(handoff_generation(), 0);
		assert_int_equal(handoff_worker(), -1);
	}
	set("HANDOFF_SERVICE", "");
	assert_null(handoff_service());
}

/* A receiver at `path` ("" is a name that the kernel chooses); tells what NOTIFY_SOCKET has to be.
 */
static int receiver(const char *path, size_t length, char *notify)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	memcpy(address.sun_path, path, length);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
	size = sizeof address;
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
	if (size > sizeof address) /* counts the NUL that a full path has no room for */
		size = sizeof address;
	size -= (socklen_t)offsetof(struct sockaddr_un, sun_path);
	if (!address.sun_path[0])
		address.sun_path[0] = '@';
	memcpy(notify, address.sun_path, size);
	notify[size] = '\0';
	return fd;
}

static void assert_received(int fd, const char *text)
{
	char buffer[100];
	ssize_t n = recv(fd, buffer, sizeof buffer - 1, 0);

	assert_true(n >= 0);
	buffer[n] = '\0';
	assert_string_equal(buffer, text);
}

static void notify_abstract(void **state)
{
	char name[sizeof(struct sockaddr_un)];
	int fd = receiver("", 0, name);

	(void)state;
	set("NOTIFY_SOCKET", name);
	assert_int_equal(handoff_notify("READY=1\nSTATUS=serving"), 1);
	assert_received(fd, "READY=1\nSTATUS=serving");
	(void)close(fd);
	assert_int_equal(handoff_notify("READY=1"), -ECONNREFUSED);
}

/* As long as an address can be: it has no final NUL then. */
static void notify_path(void **state)
{
	char directory[] = "/tmp/handoff-XXXXXX", path[109], name[sizeof(struct sockaddr_un) + 1];
	int fd;

	(void)state;
	assert_non_null(mkdtemp(directory));
	(void)snprintf(path, sizeof path, "%s/%0*d", directory, (int)(107 - strlen(directory)), 0);
	assert_int_equal(strlen(path), 108);
	fd = receiver(path, 108, name);
	set("NOTIFY_SOCKET", path);
	assert_int_equal(handoff_notify("STOPPING=1"), 1);
	assert_received(fd, "STOPPING=1");
	(void)close(fd);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(handoff_notify("STOPPING=1"), -ENOENT);
	assert_int_equal(rmdir(directory), 0);
}

static void notify_refused(void **state)
{
	char name[200];

	(void)state;
	assert_int_equal(handoff_notify(NULL), -EINVAL);
	assert_int_equal(handoff_notify(""), -EINVAL);
	set("NOTIFY_SOCKET", "relative/path");
	assert_int_equal(handoff_notify("READY=1"), -EINVAL);
	set("NOTIFY_SOCKET", "");
	assert_int_equal(handoff_notify("READY=1"), -EINVAL);
	set("NOTIFY_SOCKET", "@");
	assert_int_equal(handoff_notify("READY=1"), -EINVAL);
	memset(name, 'x', sizeof name);
	name[0] = '/';
	name[109] = '\0';
	set("NOTIFY_SOCKET", name);
	assert_int_equal(handoff_notify("READY=1"), -E2BIG);
}

/* A receiver that does not read does not hold the program up. */
static void notify_full(void **state)
{
	char name[sizeof(struct sockaddr_un)];
	int fd = receiver("", 0, name), r = 1;

	(void)state;
	set("NOTIFY_SOCKET", name);
	for (int i = 0; i < 100000 && r == 1; i++)
		r = handoff_notify("STATUS=again");
	assert_int_equal(r, -EAGAIN);
	(void)close(fd);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, clear, clear)
	const struct CMUnitTest tests[] = {
	        TEST(version),
	        TEST(alone),
	        TEST(identity),
	        TEST(notify_abstract),
	        TEST(notify_path),
	        TEST(notify_refused),
	        TEST(notify_full),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
