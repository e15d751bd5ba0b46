/* SPDX-License-Identifier: MIT */
/* Releases: links resolved or explained, environment files read or refused. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/config.h"
#include "process/process.h"

struct world {
	char directory[64];
	struct config *config;
	struct service_config *service;
	struct release *release;
	struct ho_error error;
	char text[512];
};

static int set_up(void **state)
{
	struct world *w = calloc(1, sizeof *w);

	assert_non_null(w);
	(void)copy_string(w->directory, sizeof w->directory, "/tmp/handoff-test-XXXXXX");
	assert_non_null(mkdtemp(w->directory));
	w->config = config_new();
	assert_non_null(w->config);
	w->config->environment = "test";
	w->service = config_alloc(w->config, sizeof *w->service);
	assert_non_null(w->service);
	service_config_defaults(w->service);
	w->service->name = "web";
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;
	char text[128];

	w->release = release_unref(w->release);
	w->config = config_unref(w->config);
	(void)snprintf(text, sizeof text, "rm -r %s", w->directory);
	assert_int_equal(system(text), 0);
	free(w);
	return 0;
}

static const char *in(struct world *w, const char *name)
{
	char path[256];

	(void)snprintf(path, sizeof path, "%s/%s", w->directory, name);
	return config_strdup(w->config, path);
}

static void make(struct world *w, const char *name, const char *text, size_t length)
{
	int fd = open(in(w, name), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, length), (ssize_t)length);
	(void)close(fd);
}

static int look_up(struct world *w)
{
	w->release = release_unref(w->release);
	return release_new(w->config, w->service, 9, &w->release, &w->error);
}

static void assert_fails(struct world *w, int code, const char *format, const char *path)
{
	int r = look_up(w);

	assert_int_equal(r, code);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	(void)snprintf(w->text, sizeof w->text, format, path, path);
#pragma GCC diagnostic pop
	assert_string_equal(w->error.text, w->text);
}

static void test_links_are_resolved(void **state)
{
	struct world *w = *state;

	assert_int_equal(mkdir(in(w, "42"), 0755), 0);
	assert_int_equal(symlink("42", in(w, "current")), 0);
	w->service->directory = in(w, "current/../current");
	assert_int_equal(look_up(w), 0);
	assert_string_equal(w->release->directory, in(w, "42"));
	assert_int_equal(w->release->generation, 9);
	assert_string_equal(w->release->environment_name, "test");
	assert_null(w->release->environ[0]);
}

static void test_words_in_the_directory(void **state)
{
	struct world *w = *state;

	assert_int_equal(mkdir(in(w, "web-9-test"), 0755), 0);
	w->service->directory = in(w, "{service}-{generation}-{environment}");
	assert_int_equal(look_up(w), 0);
	assert_string_equal(w->release->directory, in(w, "web-9-test"));
}

static void test_no_directory(void **state)
{
	struct world *w = *state;

	assert_int_equal(look_up(w), 0);
	assert_null(w->release->directory);
}

static void test_wrong_directories(void **state)
{
	struct world *w = *state;

	assert_int_equal(symlink("releases/42", in(w, "current")), 0);
	assert_int_equal(symlink("loop", in(w, "loop")), 0);
	make(w, "file", "", 0);
	w->service->directory = in(w, "current/");
	assert_fails(w, -ENOENT,
	        "directory of service \"web\": \"%s/current\" is a link to \"releases/42\", which "
	        "does not "
	        "exist",
	        w->directory);
	w->service->directory = in(w, "current/app");
	assert_fails(w, -ENOENT,
	        "directory of service \"web\": \"%s/current\" is a link to \"releases/42\", which "
	        "does not "
	        "exist",
	        w->directory);
	w->service->directory = in(w, "none/below");
	assert_fails(w, -ENOENT,
	        "directory of service \"web\": \"%s/none\": No such file or directory",
	        w->directory);
	w->service->directory = in(w, "loop");
	assert_fails(w, -ELOOP,
	        "directory of service \"web\": \"%s/loop\": Too many levels of symbolic links",
	        w->directory);
	w->service->directory = in(w, "file");
	assert_fails(w, -ENOTDIR, "directory of service \"web\": \"%s/file\" is not a directory",
	        w->directory);
	w->service->directory = "none-here";
	assert_fails(w, -ENOENT,
	        "directory of service \"web\": \"none-here\": No such file or directory", "");
}

static void files(struct world *w, const char *first, const char *second)
{
	const char **items = config_alloc(w->config, 3 * sizeof *items);

	assert_non_null(items);
	items[0] = first;
	items[1] = second;
	w->service->environment_files = (struct string_list){items, second ? 2 : 1};
}

static void test_files_are_read_in_order(void **state)
{
	struct world *w = *state;
	const char *own[] = {"C=own {worker}", NULL};

	make(w, "a", "A=1\nB=1\nC=1\n", 12);
	make(w, "b", "B=\"2\"\n", 6);
	files(w, in(w, "a"), "b"); /* relative: inside of the release */
	w->service->directory = w->directory;
	w->service->environ = (struct string_list){own, 1};
	assert_int_equal(look_up(w), 0);
	assert_string_equal(w->release->environ[0], "A=1");
	assert_string_equal(w->release->environ[1], "B=2");
	assert_string_equal(w->release->environ[2], "C=own {worker}");
	assert_null(w->release->environ[3]);
}

static void test_missing_files(void **state)
{
	struct world *w = *state;

	files(w, in(w, "none"), NULL);
	assert_fails(w, -ENOENT,
	        "cannot read environment file \"%s/none\" of service \"web\": No such file or "
	        "directory",
	        w->directory);
	w->service->directory = w->directory;
	files(w, "-none", NULL);
	assert_int_equal(look_up(w), 0);
}

static void test_wrong_files(void **state)
{
	struct world *w = *state;
	size_t size = ((size_t)1 << 20) + 1;
	char *large = malloc(size);

	assert_non_null(large);
	memset(large, '\n', size);
	make(w, "large", large, size);
	make(w, "just", large, size - 1);
	free(large);
	make(w, "bad", "A=1\nB\n", 6);
	make(w, "zero", "A=\0\n", 4);
	assert_int_equal(mkfifo(in(w, "fifo"), 0600), 0);
	files(w, in(w, "bad"), NULL);
	assert_fails(w, -EINVAL,
	        "%s/bad:2: this is not KEY=VALUE (a key has letters, digits and underscores)",
	        w->directory);
	files(w, in(w, "zero"), NULL);
	assert_fails(w, -EINVAL, "\"%s/zero\" has a zero byte in it", w->directory);
	files(w, in(w, "large"), NULL);
	assert_fails(w, -EFBIG,
	        "cannot read environment file \"%s/large\" of service \"web\": larger than 1 MiB",
	        w->directory);
	files(w, in(w, "just"), NULL);
	assert_int_equal(look_up(w), 0);
	files(w, in(w, "fifo"), NULL); /* which would block */
	assert_fails(w, -EINVAL,
	        "cannot read environment file \"%s/fifo\" of service \"web\": not a regular file",
	        w->directory);
	files(w, w->directory, NULL);
	assert_fails(w, -EISDIR,
	        "cannot read environment file \"%s\" of service \"web\": Is a directory",
	        w->directory);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	        TEST(test_links_are_resolved),
	        TEST(test_words_in_the_directory),
	        TEST(test_no_directory),
	        TEST(test_wrong_directories),
	        TEST(test_files_are_read_in_order),
	        TEST(test_missing_files),
	        TEST(test_wrong_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
