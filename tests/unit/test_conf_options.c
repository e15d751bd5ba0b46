/* SPDX-License-Identifier: MIT */
/* The one-program form: the same settings and the same checks as of a file, in words for options.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/keys.h"
#include "conf/load.h"

/* As main() has them, but literals. */
#define ARGUMENTS(list) ((char *const *)(uintptr_t)(list))

static const char *const command[] = {"/usr/bin/my server", "--port", "8080", NULL};

#define MAKE(options, c, m)                                                                        \
	config_from_options(options, ARRAY_SIZE(options), ARGUMENTS(command), NULL, c, m)

static void test_everything(void **state)
{
	static const struct config_option options[] = {
	        {"listen", "8080"},
	        {"listen", "admin=[::1]:9000"},
	        {"listen", "127.0.0.1:80"},
	        {"listen", "unix:/run/a=b"},
	        {"workers", "4"},
	        {"ready", "notify"},
	        {"ready-timeout", "20s"},
	        {"drain", "signal"},
	        {"drain-deadline", "30s"},
	        {"keep-warm", "30s"},
	        {"rollout-max-old", "2"},
	        {"watch", "src"},
	        {"watch", "conf"},
	        {"environ", "A=1"},
	        {"environ", "B=2"},
	        {"control-socket", "/run/x"},
	        {"no-new-privileges", NULL},
	        {"limits-nofile", "100"},
	        {"dialect", "none"},
	};
	struct mistakes m = {0};
	struct config *c = NULL;
	const struct service_config *s;

	(void)state;
	if (MAKE(options, &c, &m) < 0)
		fail_msg("%s", m.lines[0]);
	assert_null(c->file);
	assert_string_equal(c->control_socket, "/run/x");
	assert_string_equal(c->environment, "production");
	assert_int_equal(c->n_services, 1);
	s = &c->services[0];
	assert_string_equal(s->name, "my-server");
	assert_int_equal(s->command.count, 3);
	assert_string_equal(s->command.items[0], "/usr/bin/my server");
	assert_int_equal(s->n_listeners, 4);
	assert_string_equal(s->listeners[0].name, "listen");
	assert_string_equal(s->listeners[1].address.text, "tcp:127.0.0.1:80");
	assert_string_equal(s->listeners[2].address.path, "/run/a=b");
	assert_string_equal(s->listeners[3].name, "admin");
	assert_string_equal(s->listeners[3].origin.file, "command line");
	assert_int_equal(s->workers, 4);
	assert_int_equal(s->ready.by, READY_NOTIFY);
	assert_int_equal(s->ready.timeout, 20 * USEC_PER_SEC);
	assert_int_equal(s->drain.by, DRAIN_SIGNAL);
	assert_int_equal(s->rollout.max_old, 2);
	assert_int_equal(s->watch.count, 2);
	assert_int_equal(s->environ.count, 2);
	assert_true(s->no_new_privileges);
	assert_int_equal(s->limits[0].hard, 100);
	assert_int_equal(s->dialects, 0);
	config_unref(c);
}

static void test_words(void **state)
{
	static const struct config_option options[] = {
	        {"ready-timeout", "20x"},
	        {"workers", "4"},
	        {"workers", "5"},
	        {"drain-dedline", "3s"},
	        {"listen", "localhost:80"},
	        {"keep-warm", NULL},
	        {"user", "a\001b"},
	        {"sockets", "none"},
	        {"listen", "80"},
	        {"listen", "x=*:80"},
	};
	static const char *const expected[] = {
	        "--workers: was already given; keep one of them",
	        "--drain-dedline: there is no such option; see --help",
	        "--keep-warm: needs a value",
	        "--user: the value has control characters or is not UTF-8",
	        "--ready-timeout: \"20x\" is not a duration; write for example \"20s\"",
	        "--listen: \"localhost:80\": use an IP address, not a host name",
	        "--sockets: \"none\" is for services without listeners, but \"my-server\" has "
	        "some; "
	        "leave it out, or the listeners",
	        "--listen: \"tcp:*:80\" of service \"my-server\" is already taken by \"tcp:*:80\" "
	        "of "
	        "service \"my-server\"; an address belongs to one listener",
	};
	struct mistakes m = {0};
	struct config *c = NULL;

	(void)state;
	assert_int_equal(MAKE(options, &c, &m), -EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(expected) && i < m.count; i++)
		assert_string_equal(m.lines[i], expected[i]);
	assert_int_equal(m.count, ARRAY_SIZE(expected));
	mistakes_done(&m);
}

static void test_names(void **state)
{
	static const struct {
		const char *command, *name;
	} cases[] = {
	        {"node", "node"},
	        {"./server.js", "server.js"},
	        {"/a/b/", "service"},
	        {"-x", "x"},
	        {"../.hidden", "hidden"},
	        {"a b\tc", "a-b-c"},
	        {"\xff", "service"},
	};
	static const struct config_option named[] = {{"name", "web"}}, bad[] = {{"name", "a b"}};
	struct mistakes m = {0};
	struct config *c = NULL;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const char *argv[] = {cases[i].command, NULL};

		assert_int_equal(config_from_options(NULL, 0, ARGUMENTS(argv), "dev", &c, &m), 0);
		assert_string_equal(c->services[0].name, cases[i].name);
		assert_string_equal(c->environment, "dev");
		c = config_unref(c);
	}
	assert_int_equal(MAKE(named, &c, &m), 0);
	assert_string_equal(c->services[0].name, "web");
	c = config_unref(c);
	assert_int_equal(MAKE(bad, &c, &m), -EINVAL);
	assert_non_null(strstr(m.lines[0], "service \"a b\": a name has"));
	mistakes_done(&m);
	assert_int_equal(
	        config_from_options(NULL, 0, (char *const[]){NULL}, NULL, &c, &m), -EINVAL);
	assert_string_equal(m.lines[0], "no command is given; write it behind the options: "
	                                "handoffd -l 8080 bin/server");
	assert_int_equal(m.count, 1);
	mistakes_done(&m);
}

/* Any bytes can come as arguments; what is printed of them can be loaded and means the same. */
static void test_printed_form_loads(void **state)
{
	static const char *const odd[] = {
	        "a",
	        "\"",
	        "\\",
	        "'",
	        "${X}",
	        "$",
	        "\xff\xfe",
	        "\x1b[0m",
	        "\x7f",
	        "a\nb",
	        "*",
	        "#",
	        "\xc3\xa9",
	        "",
	        NULL,
	};
	struct mistakes m = {0};
	struct config *c = NULL, *again = NULL;
	char *text;

	(void)state;
	assert_int_equal(config_from_options(NULL, 0, ARGUMENTS(odd), NULL, &c, &m), 0);
	text = config_print(c);
	assert_non_null(text);
	assert_non_null(strstr(text, "# command line\n"));
	if (config_parse("printed", text, strlen(text), NULL, &again, &m) < 0)
		fail_msg("%s in\n%s", m.lines[0], text);
	assert_int_equal(again->services[0].command.count, c->services[0].command.count);
	for (size_t i = 0; odd[i]; i++)
		assert_string_equal(again->services[0].command.items[i], odd[i]);
	free(text);
	config_unref(c);
	config_unref(again);
}

static void check_option(void *data, const char *key, const char *value_name, const char *help)
{
	const char *v = NULL, *h = NULL;
	size_t *n = data;

	assert_non_null(value_name);
	assert_non_null(help);
	assert_true(config_is_option(key, &v, &h));
	assert_ptr_equal(v, value_name);
	assert_ptr_equal(h, help);
	++*n;
}

static void test_table(void **state)
{
	const char *v, *h;
	size_t n = 0;

	(void)state;
	config_each_option(check_option, &n);
	assert_true(n > 50);
	assert_true(config_is_option("name", &v, &h));
	assert_true(config_is_option("listen", &v, &h));
	assert_true(config_is_option("ready-by", &v, &h));
	assert_true(config_is_option("rollout-keep-warm", &v, &h));
	assert_false(config_is_option("command", &v, &h));
	assert_false(config_is_option("environment", &v, &h));
	assert_false(config_is_option("ready.by", &v, &h));
	assert_false(config_is_option("", &v, &h));
}

/* A key that the manual does not explain does not exist for its readers. */
static void test_manual_has_every_key(void **state)
{
	static const enum raw_kind kinds[] = {RAW_ROOT, RAW_LISTEN, RAW_SERVICE};
	char *manual = calloc(1, 1 << 16), word[80];
	FILE *f = fopen(TEST_DIRECTORY "/../docs/handoffd.conf.5.scd", "re");

	(void)state;
	assert_non_null(manual);
	assert_non_null(f);
	assert_true(fread(manual, 1, (1 << 16) - 1, f) > 0);
	assert_int_equal(fclose(f), 0);
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		size_t n;
		const struct key *keys = keys_of(kinds[k], &n);

		for (size_t i = 0; i < n; i++) {
			(void)snprintf(word, sizeof word, "*%s*", key_leaf(&keys[i]));
			if (!strstr(manual, word))
				fail_msg("%s is not in the manual", keys[i].name);
		}
	}
	free(manual);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_everything),
	        cmocka_unit_test(test_words),
	        cmocka_unit_test(test_names),
	        cmocka_unit_test(test_printed_form_loads),
	        cmocka_unit_test(test_table),
	        cmocka_unit_test(test_manual_has_every_key),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
