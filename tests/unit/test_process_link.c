/* SPDX-License-Identifier: MIT */
/* The release link: found, planned, changed in one step, put back. */
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "process/link.h"

struct place {
	char folder[64], old[PATH_MAX];
};

static void shell(const char *format, ...) _printf_(1, 2);
static void shell(const char *format, ...)
{
	char command[1024];
	va_list ap;

	va_start(ap, format);
	(void)vsnprintf(command, sizeof command, format, ap);
	va_end(ap);
	assert_int_equal(system(command), 0); /* NOLINT: a test's own words */
}

static int set_up(void **state)
{
	struct place *p = calloc(1, sizeof *p);

	assert_non_null(p);
	(void)strcpy(p->folder, "/tmp/handoff-link-XXXXXX");
	assert_non_null(mkdtemp(p->folder));
	assert_non_null(getcwd(p->old, sizeof p->old));
	assert_int_equal(chdir(p->folder), 0);
	shell("mkdir -p releases/1/app releases/2/app other/3 && ln -s releases/1 current");
	*state = p;
	return 0;
}

static int tear_down(void **state)
{
	struct place *p = *state;

	assert_int_equal(chdir(p->old), 0);
	shell("rm -rf %s", p->folder);
	free(p);
	return 0;
}

static char *path(const struct place *p, const char *name)
{
	static char paths[4][PATH_MAX];
	static unsigned n;
	char *at = paths[n++ % 4];

	(void)snprintf(at, PATH_MAX, "%s/%s", p->folder, name);
	return at;
}

static const char *leads_to(const char *link)
{
	static char target[PATH_MAX];
	ssize_t n = readlink(link, target, sizeof target - 1);

	target[n < 0 ? 0 : n] = '\0';
	return target;
}

/* Plans, applies; the directory that the service gets. */
static void move(const struct place *p, const char *directory, const char *release,
        struct link_change *c, const char *wanted)
{
	struct ho_error error = {0};
	char *there = NULL;

	assert_int_equal(
	        link_plan(path(p, directory), path(p, release), false, c, &there, &error), 0);
	assert_string_equal(there, path(p, wanted));
	free(there);
	assert_int_equal(link_apply(c, &error), 0);
}

static void test_there_and_back(void **state)
{
	struct place *p = *state;
	struct link_change c = {0};
	struct ho_error error;

	move(p, "current/", "releases/2", &c, "releases/2");
	assert_string_equal(leads_to("current"), "releases/2");
	assert_int_equal(link_undo(&c, &error), 0);
	assert_string_equal(leads_to("current"), "releases/1");
	assert_int_equal(link_undo(&c, &error), 0);
	link_change_done(&c);
}

static void test_in_the_middle(void **state)
{
	struct place *p = *state;
	struct link_change c = {0};
	char *link;

	move(p, "current/app", "releases/2", &c, "releases/2/app");
	assert_string_equal(leads_to("current"), "releases/2");
	link_change_done(&c);
	link = link_find(path(p, "current/app"));
	assert_string_equal(link, path(p, "current"));
	free(link);
}

static void test_absolute_and_elsewhere(void **state)
{
	struct place *p = *state;
	struct link_change c = {0};

	move(p, "current", "other/3", &c, "other/3");
	assert_string_equal(leads_to("current"), "other/3");
	link_change_done(&c);
	shell("mv current other/ && ln -sfn %s/releases/1 other/current", p->folder);
	move(p, "other/current", "releases/2", &c, "releases/2");
	assert_string_equal(leads_to("other/current"), path(p, "releases/2"));
	link_change_done(&c);
}

/* A first deploy: nothing is there yet, and nothing is left when it comes to nothing. */
static void test_first(void **state)
{
	struct place *p = *state;
	struct link_change c = {0};
	struct ho_error error;

	move(p, "live", "releases/2", &c, "releases/2");
	assert_string_equal(leads_to("live"), path(p, "releases/2"));
	assert_int_equal(link_undo(&c, &error), 0);
	assert_int_equal(access("live", F_OK), -1);
	link_change_done(&c);
}

static void test_changed_by_somebody_else(void **state)
{
	struct place *p = *state;
	struct link_change c = {0};
	struct ho_error error;

	move(p, "current", "releases/2", &c, "releases/2");
	shell("ln -sfn other/3 current");
	assert_int_equal(link_undo(&c, &error), 1);
	assert_string_equal(leads_to("current"), "other/3");
	link_change_done(&c);
}

/* Also when the release was deleted since, be the link relative or not. */
static void test_leads_to(void **state)
{
	struct place *p = *state;
	char one[PATH_MAX], two[PATH_MAX];

	(void)strcpy(one, path(p, "releases/1/app"));
	(void)strcpy(two, path(p, "releases/2/app"));
	assert_true(link_leads_to(path(p, "current/app"), one));
	assert_false(link_leads_to(path(p, "current/app"), two));
	shell("rm -r releases/1");
	assert_true(link_leads_to(path(p, "current/app"), one));
	assert_false(link_leads_to(path(p, "current/app"), two));
	assert_false(link_leads_to(path(p, "current"), one));
	shell("ln -sfn %s/releases/1 current", p->folder);
	assert_true(link_leads_to(path(p, "current/app/"), one));
	shell("rm current");
	assert_false(link_leads_to(path(p, "current/app"), one));
}

/* What is refused leaves the link, and nothing beside it. */
static void test_refused(void **state)
{
	struct place *p = *state;
	static const struct {
		const char *directory, *release, *words;
		bool confined;
	} cases[] = {
	        {"releases/1", "releases/2", "symbolic link", false},
	        {"current", "releases/9", "No such file", false},
	        {"current", "releases/file", "not a directory", false},
	        {"current", "releases/dangling", "leads nowhere", false},
	        {"current/app", "other/3", "has no", false},
	        {"current", "other/3", "not in the folder", true},
	};
	struct link_change c = {0};
	struct ho_error error;
	char *there = NULL;

	shell("touch releases/file && ln -s nothing releases/dangling");
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_true(link_plan(path(p, cases[i].directory), path(p, cases[i].release),
		                    cases[i].confined, &c, &there, &error) < 0);
		assert_non_null(strstr(error.text, cases[i].words));
		assert_null(c.path);
	}
	assert_string_equal(leads_to("current"), "releases/1");
	assert_int_equal(
	        link_plan(path(p, "current"), path(p, "releases/2"), true, &c, &there, &error), 0);
	free(there);
	link_change_done(&c);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	        TEST(test_there_and_back),
	        TEST(test_in_the_middle),
	        TEST(test_absolute_and_elsewhere),
	        TEST(test_first),
	        TEST(test_leads_to),
	        TEST(test_changed_by_somebody_else),
	        TEST(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
