/* SPDX-License-Identifier: MIT */
/* The watch room: patterns, lists of what is ignored, and every way in which files change. The
 * directory is that of HANDOFF_WATCH_DIRECTORY if it is set, so that the same is run on several
 * file systems. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ev.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "watch/glob.h"
#include "watch/ignore.h"
#include "watch/watch.h"

static void test_globs(void **state)
{
	static const struct {
		const char *pattern, *path;
		bool match;
	} cases[] = {
	        {"*.js", "a.js", true},
	        {"*.js", "a/b.js", false},
	        {"**/*.js", "a.js", true},
	        {"**/*.js", "a/b/c.js", true},
	        {"src/**/*.js", "src/a.js", true},
	        {"src/**/*.js", "src/a/b.js", true},
	        {"src/**/*.js", "srcs/a.js", false},
	        {"src/**", "src/a/b", true},
	        {"src/**", "src", false},
	        {"a/**/z", "a/z", true},
	        {"a/**/z", "a/b/c/z", true},
	        {"a/**/b/**/c", "a/x/b/y/y/c", true},
	        {"a/**/b/*.c", "a/b/x/b/y.c", true},
	        {"?.c", "a.c", true},
	        {"?.c", "/.c", false},
	        {"[a-c]x", "bx", true},
	        {"[!a-c]x", "bx", false},
	        {"[]]", "]", true},
	        {"[", "[", true},
	        {"\\*", "*", true},
	        {"\\*", "a", false},
	        {"a*b*c", "aXbXbXc", true},
	        {"a*b*c", "aXbXbX", false},
	        {"*", "", true},
	        {"", "", true},
	        {"", "a", false},
	        {"**foo", "xfoo", true},
	        {"a**b", "a/b", false},
	};
	char many[4000];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		if (glob_match(cases[i].pattern, cases[i].path) != cases[i].match)
			fail_msg("\"%s\" and \"%s\"", cases[i].pattern, cases[i].path);
	/* no pattern takes long */
	memset(many, 'a', sizeof many - 1);
	many[sizeof many - 1] = '\0';
	assert_false(glob_match("*a*a*a*a*a*a*a*a*a*a*a*b", many));
	for (size_t i = 1; i < sizeof many - 1; i += 2)
		many[i] = '/';
	assert_false(glob_match("**/a/**/a/**/a/**/a/**/a/**/b", many));
}

static void test_ignore(void **state)
{
	static const char *const lines[] = {"# comment", "", "*.o", "!keep.o", "/build",
	        "doc/*.html", "logs/", "a/**/b", "trailing   ", "\\#odd"};
	static const struct {
		const char *path;
		bool directory;
		int verdict;
	} cases[] = {
	        {"x.o", false, 1},
	        {"a/x.o", false, 1},
	        {"a/keep.o", false, -1},
	        {"build", true, 1},
	        {"a/build", true, 0},
	        {"doc/a.html", false, 1},
	        {"x/doc/a.html", false, 0},
	        {"logs", true, 1},
	        {"logs", false, 0},
	        {"a/x/y/b", false, 1},
	        {"trailing", false, 1},
	        {"#odd", false, 1},
	        {"other", false, 0},
	};
	struct ignore *ig = ignore_new();

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
		assert_int_equal(ignore_add(ig, lines[i], strlen(lines[i])), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		if (ignore_verdict(ig, cases[i].path, cases[i].directory) != cases[i].verdict)
			fail_msg("%s", cases[i].path);
	ignore_free(ig);
}

/* ---- a watcher on real files ---- */

struct fixture {
	struct ev_loop *loop;
	struct watcher *watcher;
	char base[200];
	char seen[4096]; /* "src/a.js;" */
	char notes[1000];
};

static void on_changed(void *data, const char *path, enum file_change change, unsigned more)
{
	struct fixture *f = data;
	struct text t = {.p = f->seen, .len = strlen(f->seen), .size = sizeof f->seen};

	text_add(&t, "%s%s;", change == FILE_GONE ? "-" : "", path);
	if (more)
		text_add(&t, "+%u;", more);
}

static void on_note(void *data, const char *text)
{
	(void)copy_string(((struct fixture *)data)->notes, 1000, text);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);
	const char *where = getenv("HANDOFF_WATCH_DIRECTORY");

	(void)snprintf(f->base, sizeof f->base, "%s/handoff-watch-XXXXXX", where ? where : "/tmp");
	assert_non_null(mkdtemp(f->base));
	assert_int_equal(chdir(f->base), 0);
	f->loop = ev_loop_new(EVFLAG_AUTO);
	*state = f;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	watcher_free(f->watcher);
	ev_loop_destroy(f->loop);
	assert_int_equal(chdir("/"), 0);
	(void)nftw(f->base, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

static void watch_polling(struct fixture *f, const char *path, const char *ignore, usec_t poll)
{
	const char *paths[] = {path, NULL}, *ignores[] = {ignore, NULL};
	const struct string_list list = {paths, 1}, ignored = {ignores, ignore != NULL};
	const struct watch_options options = {
	        .base = f->base, .paths = &list, .ignore = &ignored, .poll = poll};
	const struct watch_handlers handlers = {on_changed, on_note, f};

	assert_int_equal(watcher_new(f->loop, &options, &handlers, &f->watcher, NULL), 0);
	assert_string_equal(f->seen, "");
}

static void watch(struct fixture *f, const char *path, const char *ignore)
{
	watch_polling(f, path, ignore, USEC_INFINITY);
}

static void write_file(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	(void)fputs(text, file);
	assert_int_equal(fclose(file), 0);
}

static void link_to(const char *target, const char *path)
{
	assert_int_equal(symlink(target, path), 0);
}

/* What has been told since the last call; local file systems have queued it by now. */
static void told(struct fixture *f, const char *wanted)
{
	watcher_flush(f->watcher);
	assert_string_equal(f->seen, wanted);
	f->seen[0] = '\0';
}

static void told_too(struct fixture *f, const char *wanted)
{
	watcher_flush(f->watcher);
	if (!strstr(f->seen, wanted))
		fail_msg("\"%s\" is not in \"%s\"", wanted, f->seen);
	f->seen[0] = '\0';
}

static void test_editors(void **state)
{
	struct fixture *f = *state;
	int fd;

	mkdir("src", 0755);
	write_file("src/a.js", "1");
	watch(f, "src", NULL);
	write_file("src/a.js", "2"); /* in place */
	told(f, "src/a.js;");
	write_file("src/.a.js.swp", "x");
	write_file("src/a.js~", "x"); /* renamed over it, by way of ignored files */
	rename("src/a.js~", "src/a.js");
	unlink("src/.a.js.swp");
	told(f, "src/a.js;");
	unlink("src/a.js"); /* removed and made anew */
	write_file("src/a.js", "4");
	told_too(f, "src/a.js;");
	write_file("src/sedXYZ", "5"); /* sed -i */
	rename("src/sedXYZ", "src/a.js");
	told_too(f, "src/a.js;");
	fd = open("src/a.js", O_RDWR); /* only looked at */
	close(fd);
	told(f, "");
	utimensat(AT_FDCWD, "src/a.js", NULL, 0); /* touched */
	told(f, "src/a.js;");
	unlink("src/a.js");
	told(f, "-src/a.js;");
}

static void test_folders(void **state)
{
	struct fixture *f = *state;

	mkdir("src", 0755);
	watch(f, "src", NULL);
	mkdir("src/new", 0755);
	mkdir("src/new/deep", 0755);
	told(f, "");
	write_file("src/new/deep/a", "1");
	told(f, "src/new/deep/a;");
	mkdir("outside", 0755);
	write_file("outside/b", "1");
	rename("outside", "src/inside"); /* with what is in it */
	told(f, "src/inside/b;");
	write_file("src/inside/b", "2");
	told(f, "src/inside/b;");
	rename("src/inside", "src/renamed");
	told_too(f, "src/renamed/b;");
	write_file("src/renamed/b", "3");
	told(f, "src/renamed/b;");
	unlink("src/renamed/b");
	rmdir("src/renamed");
	told(f, "-src/renamed/b;");
	rename("src", "elsewhere"); /* the whole */
	told(f, "src;");
	mkdir("src", 0755);
	write_file("src/c", "1");
	told_too(f, "src/c;");
	write_file("src/c", "2");
	told(f, "src/c;");
}

static void test_ignored(void **state)
{
	struct fixture *f = *state;

	mkdir(".git", 0755);
	write_file(".gitignore", "/made\n*.tmp.js\n!keep.tmp.js\n");
	mkdir("node_modules", 0755);
	mkdir("made", 0755);
	mkdir("src", 0755);
	write_file("src/.gitignore", "local\n");
	watch(f, ".", "dist");
	mkdir("dist", 0755);
	write_file("dist/a", "1");
	write_file("node_modules/a", "1");
	write_file(".git/HEAD", "1");
	write_file("made/a", "1");
	write_file("src/a.tmp.js", "1");
	write_file("src/local", "1");
	write_file("server.log", "1");
	told(f, "");
	write_file("src/keep.tmp.js", "1");
	write_file("local", "1");
	told(f, "src/keep.tmp.js;local;");
	write_file("src/.gitignore", "other\n"); /* rules change */
	told_too(f, "");
	write_file("src/local", "22");
	told(f, "src/local;");
}

static void test_gitignore_around(void **state)
{
	struct fixture *f = *state;

	mkdir(".git", 0755);
	mkdir("src", 0755);
	mkdir("src/gen", 0755);
	write_file(".gitignore", "src/gen/*.out\n");
	watch(f, "src", NULL);
	write_file("src/gen/a.out", "1");
	told(f, "");
	write_file("src/gen/a.in", "1");
	told(f, "src/gen/a.in;");
}

static void test_patterns(void **state)
{
	struct fixture *f = *state;

	mkdir("src", 0755);
	mkdir("src/lib", 0755);
	watch(f, "src/**/*.js", NULL);
	write_file("src/a.css", "1");
	told(f, "");
	write_file("src/lib/a.js", "1");
	told(f, "src/lib/a.js;");
	write_file("src/b.js", "1");
	told(f, "src/b.js;");
}

static void test_pointer(void **state)
{
	struct fixture *f = *state;

	mkdir("releases", 0755);
	mkdir("releases/1", 0755);
	mkdir("releases/2", 0755);
	link_to("releases/1", "current");
	watch(f, "current", NULL);
	write_file("releases/1/a", "1");
	mkdir("releases/3", 0755);
	told(f, "");
	link_to("releases/2", "new");
	rename("new", "current"); /* flipped in one step */
	told(f, "current;");
	link_to("releases/2", "new");
	rename("new", "current"); /* to where it was */
	told(f, "");
	unlink("current"); /* gone for a while */
	told(f, "");
	link_to("releases/3", "current");
	told(f, "current;");
	link_to("releases/1", "stable"); /* by way of another one */
	link_to("stable", "new");
	rename("new", "current");
	told(f, "current;");
	link_to("releases/2", "new");
	rename("new", "stable");
	told(f, "current;");
}

static void test_behind_a_pointer(void **state)
{
	struct fixture *f = *state;

	mkdir("releases", 0755);
	mkdir("releases/1", 0755);
	mkdir("releases/2", 0755);
	write_file("releases/2/b", "1");
	link_to("releases/1", "current");
	watch(f, "current/", NULL);
	write_file("releases/1/a", "1");
	told(f, "current/a;");
	link_to("releases/2", "new");
	rename("new", "current");
	told_too(f, "current;");
	write_file("releases/1/a", "2");
	told(f, "");
	write_file("releases/2/b", "2");
	told(f, "current/b;");
}

static void test_links_in_a_tree(void **state)
{
	struct fixture *f = *state;

	mkdir("src", 0755);
	mkdir("shared", 0755);
	link_to("../shared", "src/shared");
	link_to("..", "src/loop");
	watch(f, "src", NULL);
	write_file("shared/a", "1");
	told_too(f, "src/shared/a;");
}

static void test_file(void **state)
{
	struct fixture *f = *state;

	write_file("server.py", "1");
	watch(f, "server.py", NULL);
	assert_string_equal(f->notes, "");
	write_file("other.py", "1");
	told(f, "");
	write_file("server.py", "2");
	told(f, "server.py;");
	write_file("new~", "3");
	rename("new~", "server.py");
	told(f, "server.py;");
	unlink("server.py");
	write_file("server.py", "4");
	told(f, "server.py;");
	write_file("server.py", "5");
	told(f, "server.py;");
}

static void test_what_does_not_exist_yet(void **state)
{
	struct fixture *f = *state;

	watch(f, "a/b/c.js", NULL);
	assert_string_equal(f->notes, "there is no \"a/b/c.js\" to be watched yet");
	mkdir("a", 0755);
	told(f, "");
	mkdir("a/b", 0755);
	told(f, "");
	write_file("a/b/c.js", "1");
	told(f, "a/b/c.js;");
}

static void test_polling(void **state)
{
	struct fixture *f = *state;

	mkdir("src", 0755);
	write_file("src/a", "1");
	watch_polling(f, "src", NULL, 10 * USEC_PER_MSEC);
	told(f, "");
	write_file("src/a", "22");
	told(f, "src/a;");
	mkdir("src/new", 0755);
	write_file("src/new/b", "1");
	told(f, "src/new/b;");
	write_file("src/new/b", "22");
	for (int i = 0; i < 1000 && !f->seen[0]; i++)
		ev_run(f->loop, EVRUN_ONCE); /* by the clock */
	assert_string_equal(f->seen, "src/new/b;");
	f->seen[0] = '\0';
	unlink("src/a");
	told(f, "-src/a;");
}

/* More than the kernel keeps for us: nothing of it may be lost. */
static void test_overflow(void **state)
{
	struct fixture *f = *state;
	char path[64];
	unsigned limit = 16384;
	FILE *file = fopen("/proc/sys/fs/inotify/max_queued_events", "r");

	if (file) {
		if (fscanf(file, "%u", &limit) != 1)
			limit = 16384;
		fclose(file);
	}
	if (limit > 20000)
		skip();
	mkdir("src", 0755);
	write_file("src/last", "1");
	watch(f, "src", NULL);
	for (unsigned i = 0; i < limit / 2 + 10; i++) {
		(void)snprintf(path, sizeof path, "src/%u~", i);
		write_file(path, "1");
		unlink(path);
	}
	write_file("src/last", "22");
	told(f, "src/last;");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_globs),
	        cmocka_unit_test(test_ignore),
#define FILES(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	        FILES(test_editors),
	        FILES(test_folders),
	        FILES(test_ignored),
	        FILES(test_gitignore_around),
	        FILES(test_patterns),
	        FILES(test_pointer),
	        FILES(test_behind_a_pointer),
	        FILES(test_links_in_a_tree),
	        FILES(test_file),
	        FILES(test_what_does_not_exist_yet),
	        FILES(test_polling),
	        FILES(test_overflow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
