/* SPDX-License-Identifier: MIT */
/* Files as operators write them. conf/bad/X.conf must be refused with exactly the lines of
 * X.expected; conf/good/X.conf must give what X.expected prints (X@ENVIRONMENT.expected for another
 * environment), and what is printed must load again and print the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/load.h"

static char *slurp(const char *directory, const char *name, size_t *ret_length)
{
	char path[512];
	FILE *f;
	char *text = calloc(1, 1 << 16);

	assert_non_null(text);
	(void)snprintf(path, sizeof path, "%s/unit/conf/%s/%s", TEST_DIRECTORY, directory, name);
	f = fopen(path, "re");
	if (!f)
		fail_msg("%s is missing", path);
	*ret_length = fread(text, 1, (1 << 16) - 1, f);
	assert_int_equal(fclose(f), 0);
	return text;
}

/* "dir/x.conf" -> "dir/x" + `tail` */
static void with_tail(const char *name, const char *tail, char *ret, size_t size)
{
	(void)snprintf(ret, size, "%.*s%s", (int)(strlen(name) - strlen(".conf")), name, tail);
}

static void check_text(const char *name, const char *is, const char *expected)
{
	if (strcmp(is, expected) != 0)
		fail_msg("%s gives:\n%s\ninstead of:\n%s", name, is, expected);
}

static char *joined(const struct mistakes *m)
{
	char *all = calloc(1, 1 << 16);

	assert_non_null(all);
	for (size_t i = 0; i < m->count; i++) {
		strcat(all, m->lines[i]);
		strcat(all, "\n");
	}
	return all;
}

static void check_bad(const char *name)
{
	_cleanup_free_ char *expected = NULL, *text = NULL, *all = NULL;
	char file[256];
	struct mistakes m = {0};
	struct config *c = NULL;
	size_t length, n;

	text = slurp("bad", name, &length);
	with_tail(name, ".expected", file, sizeof file);
	expected = slurp("bad", file, &n);
	assert_true(config_parse(name, text, length, NULL, &c, &m) < 0);
	assert_null(c);
	all = joined(&m);
	check_text(name, all, expected);
	mistakes_done(&m);
}

static struct config *parse(const char *name, const char *text, size_t length, const char *environ)
{
	struct mistakes m = {0};
	struct config *c = NULL;

	if (config_parse(name, text, length, environ, &c, &m) < 0)
		fail_msg("%s is refused: %s", name, m.lines[0]);
	assert_int_equal(m.count, 0);
	return c;
}

/* Without the comments that say where a setting comes from. */
static void strip(char *text)
{
	char *to = text, *comment;

	for (char *line = text; *line;) {
		size_t n = strcspn(line, "\n");
		char *next = line + n + (line[n] == '\n');

		line[n] = '\0';
		comment = strstr(line, "  # ");
		if (comment)
			*comment = '\0';
		n = strlen(line);
		memmove(to, line, n);
		to[n] = '\n';
		to += n + 1;
		line = next;
	}
	*to = '\0';
}

static void check_good(const char *name, const char *environ)
{
	_cleanup_free_ char *expected = NULL, *text = NULL, *first = NULL, *second = NULL;
	_cleanup_(config_unrefp) struct config *c = NULL, *again = NULL;
	char file[256], tail[64];
	size_t length, n;

	(void)snprintf(
	        tail, sizeof tail, "%s%s.expected", environ ? "@" : "", environ ? environ : "");
	with_tail(name, tail, file, sizeof file);
	text = slurp("good", name, &length);
	expected = slurp("good", file, &n);
	c = parse(name, text, length, environ);
	first = config_print(c);
	assert_non_null(first);
	check_text(name, first, expected);
	again = parse("printed", first, strlen(first), NULL);
	second = config_print(again);
	assert_non_null(second);
	strip(first);
	strip(second);
	check_text(name, second, first);
}

static size_t each_file(const char *directory, const char *environ)
{
	char path[512];
	DIR *d;
	size_t n = 0;

	(void)snprintf(path, sizeof path, "%s/unit/conf/%s", TEST_DIRECTORY, directory);
	d = opendir(path);
	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));) {
		size_t length = strlen(e->d_name);

		if (length < 6 || strcmp(e->d_name + length - 5, ".conf") != 0)
			continue;
		if (!strcmp(directory, "bad"))
			check_bad(e->d_name);
		else
			check_good(e->d_name, environ);
		n++;
	}
	assert_int_equal(closedir(d), 0);
	return n;
}

static void test_bad_files(void **state)
{
	(void)state;
	assert_true(each_file("bad", NULL) >= 25);
}

static void test_good_files(void **state)
{
	(void)state;
	assert_true(each_file("good", NULL) >= 3);
	check_good("full.conf", "development");
}

static void test_environment_of_the_file(void **state)
{
	static const char text[] = "environment = \"dev\"\n"
	                           "service \"a\" { command = {\"a\"} workers = 3\n"
	                           "environment \"dev\" { workers = 1 } }\n";
	struct config *c = parse("x", text, strlen(text), NULL);

	(void)state;
	assert_string_equal(c->environment, "dev");
	assert_int_equal(c->services[0].workers, 1);
	config_unref(c);
	c = parse("x", text, strlen(text), "production");
	assert_string_equal(c->environment, "production");
	assert_int_equal(c->services[0].workers, 3);
	config_unref(c);
}

static void test_mistakes_are_bounded(void **state)
{
	char text[8192] = "";
	struct mistakes m = {0};
	struct config *c = NULL;

	(void)state;
	for (int i = 0; i < 300; i++)
		(void)snprintf(text + strlen(text), 16, "key%d = 1\n", i);
	assert_int_equal(config_parse("x", text, strlen(text), NULL, &c, &m), -22);
	assert_int_equal(m.count, CONF_MAX_MISTAKES);
	assert_true(m.more);
	assert_non_null(strstr(m.lines[99], "x:100: unknown key \"key99\""));
	mistakes_done(&m);
}

static void test_load_says_what_it_cannot_read(void **state)
{
	struct mistakes m = {0};
	struct config *c = NULL;

	(void)state;
	assert_int_equal(config_load("/nonexistent/x.conf", NULL, &c, &m), -2);
	assert_int_equal(config_load("/", NULL, &c, &m), -21);
	assert_int_equal(config_load("/dev/null", NULL, &c, &m), -6);
	assert_int_equal(m.count, 3);
	assert_string_equal(m.lines[0], "/nonexistent/x.conf: the configuration cannot be read: "
	                                "No such file or directory");
	assert_string_equal(m.lines[2],
	        "/dev/null: the configuration cannot be read: it is not a regular file");
	mistakes_done(&m);
}

static void test_load_reads_a_file(void **state)
{
	char path[512];
	struct mistakes m = {0};
	struct config *c = NULL;

	(void)state;
	(void)snprintf(path, sizeof path, "%s/unit/conf/good/full.conf", TEST_DIRECTORY);
	assert_int_equal(config_load(path, NULL, &c, &m), 0);
	assert_string_equal(c->file, path);
	assert_string_equal(c->services[0].origin.file, path);
	assert_int_equal(c->services[0].origin.line, 8);
	config_unref(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_bad_files),
	        cmocka_unit_test(test_good_files),
	        cmocka_unit_test(test_environment_of_the_file),
	        cmocka_unit_test(test_mistakes_are_bounded),
	        cmocka_unit_test(test_load_says_what_it_cannot_read),
	        cmocka_unit_test(test_load_reads_a_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
