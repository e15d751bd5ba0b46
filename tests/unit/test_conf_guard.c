/* SPDX-License-Identifier: MIT */
/* The six things that the parser library accepts or counts wrongly, each as it was met. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/load.h"

static int parse_bytes(const char *text, size_t length, struct config **ret, struct mistakes *m)
{
	*ret = NULL;
	*m = (struct mistakes){0};
	return config_parse("f", text, length, NULL, ret, m);
}

/* The first mistake must begin so. */
static void refused(const char *text, const char *expected)
{
	struct config *c;
	struct mistakes m;

	assert_int_equal(parse_bytes(text, strlen(text), &c, &m), -EINVAL);
	assert_null(c);
	assert_true(m.count > 0);
	if (strncmp(m.lines[0], expected, strlen(expected)) != 0)
		fail_msg("\"%s\" instead of \"%s\"", m.lines[0], expected);
	mistakes_done(&m);
}

static struct config *accepted(const char *text)
{
	struct config *c;
	struct mistakes m;

	if (parse_bytes(text, strlen(text), &c, &m) < 0)
		fail_msg("refused: %s", m.lines[0]);
	assert_int_equal(m.count, 0);
	return c;
}

/* 1: a file that is cut anywhere in a block is refused, whatever the parser thinks of it. */
static void test_cut_files(void **state)
{
	static const char text[] = "# c\nservice \"web\" {\n\tcommand = {\"a\", 'b'} /* c } */\n"
	                           "\tdrain { by = \"idle\" }\n\tworkers = 4\n}\n";
	const size_t block_end = sizeof text - 3; /* the length without the last brace */

	(void)state;
	for (size_t n = 0; n < sizeof text; n++) {
		struct config *c;
		struct mistakes m;
		int e = parse_bytes(text, n, &c, &m);

		if ((e == 0) != (n > block_end))
			fail_msg("cut to %zu bytes: %d", n, e);
		config_unref(c);
		mistakes_done(&m);
	}
}

/* 2: NUL bytes and files without end. */
static void test_binary_and_large(void **state)
{
	struct config *c;
	struct mistakes m;
	char *large = malloc(CONF_MAX_BYTES + 1);

	(void)state;
	assert_non_null(large);
	memset(large, ' ', CONF_MAX_BYTES + 1);
	assert_int_equal(parse_bytes(large, CONF_MAX_BYTES + 1, &c, &m), -EINVAL);
	assert_int_equal(m.count, 1);
	assert_string_equal(
	        m.lines[0], "f: the file is larger than 4 MiB, which no configuration is");
	mistakes_done(&m);
	memcpy(large, "service a { command = a }\n", 26);
	assert_int_equal(parse_bytes(large, CONF_MAX_BYTES, &c, &m), 0);
	config_unref(c);
	large[27] = '\0';
	assert_int_equal(parse_bytes(large, 40, &c, &m), -EINVAL);
	assert_string_equal(m.lines[0], "f:2: NUL byte, this is not a text file");
	mistakes_done(&m);
	free(large);
}

/* 3: ${VAR} is refused where it would be expanded, and left alone where it would not. */
static void test_expansion(void **state)
{
	struct config *c;

	(void)state;
	assert_int_equal(setenv("HANDOFF_TEST_VALUE", "expanded", 1), 0);
	refused("service a { command = {\"${HANDOFF_TEST_VALUE}\"} }", "f:1: ${...} is not");
	refused("service a {\ncommand = {x${HANDOFF_TEST_VALUE}} }", "f:2: ${...} is not");
	refused("service ${HANDOFF_TEST_VALUE} { command = a }", "f:1: ${...} is not");
	refused("service a { command = \"\\\\${A\" }", "f:1: ${...} is not");
	c = accepted("service a { # ${A}\ncommand = {'${A}', \"\\${A}\", \"$A\", \"{A}\"} }");
	assert_string_equal(c->services[0].command.items[0], "${A}");
	assert_string_equal(c->services[0].command.items[1], "${A}");
	assert_string_equal(c->services[0].command.items[2], "$A");
	assert_string_equal(c->services[0].command.items[3], "{A}");
	config_unref(c);
}

/* 4: a setting given twice, also where the parser tells nobody. */
static void test_twice(void **state)
{
	(void)state;
	refused("service a { command = a workers = 1\nworkers = 2 }",
	        "f:2: workers: was already set at line 1");
	refused("service a { command = a watch = {}\nwatch = {b} }",
	        "f:2: watch: was already set at line 1");
	refused("service a { command = a watch = {b,}\nuser = u watch = {} }",
	        "f:2: watch: was already set at line 1");
	refused("service a { command = a ready { by = auto }\nready { by = notify } }",
	        "f:2: ready.by: was already set at line 1");
}

/* 5: environments override key by key; a block with a known title replaces nothing. */
static void test_overlay(void **state)
{
	struct config *c = accepted(
	        "environment = dev\n"
	        "service a { command = {x, y} user = u drain { by = idle signal = INT }\n"
	        "limits { nofile = 5 core = 6 }\n"
	        "environment dev { command = {z} drain { signal = HUP } limits { core = 7 } }\n"
	        "environment other { user = v limits { nofile = 1 } } }\n");
	const struct service_config *s = &c->services[0];

	(void)state;
	assert_int_equal(s->command.count, 1);
	assert_string_equal(s->command.items[0], "z");
	assert_null(s->command.items[1]);
	assert_string_equal(s->user, "u");
	assert_int_equal(s->drain.by, DRAIN_IDLE);
	assert_int_equal(s->drain.signal, 1);
	assert_int_equal(s->n_limits, 2);
	assert_int_equal(s->limits[0].soft, 5);
	assert_int_equal(s->limits[1].soft, 7);
	config_unref(c);
	refused("service a { command = a user = u }\nservice a { command = b }",
	        "f:2: service \"a\" was already defined at line 1");
}

/* 6: the line is that of the value, whatever stands before it. */
static void test_lines(void **state)
{
	(void)state;
	refused("# a\n// b\n/* c\n\n */ /**/\nservice a { # d\n\tcommand = {\"x\\\ny\",\n'z'}\n"
	        "\tdrain { /* e */\n\t\tdeadline =\n\t\t\t\"1x\"\n} }",
	        "f:12: drain.deadline: \"1x\" is not a duration");
	refused("service a {\ncommand = {\"a\"}\nenviron = {\"A=1\",\n\"B=2\",\n\"C\"}\n}",
	        "f:5: environ: \"C\" is not");
}

/* The scanner keeps its state over an error; the next file must not feel it. */
static void test_no_state_is_left(void **state)
{
	static const char *const broken[] = {
	        "service \"a",
	        "service 'a",
	        "/* a",
	        "service \"a\\",
	        "service \"\\9\" {}",
	        "service a { command = {\"x",
	        "a = \"${",
	        "service a { command =",
	        "}",
	        "service a { {",
	        "\"\" = 3",
	        "service \"a\" \"b\"",
	        "a|b = 3",
	        "service=a|b = 4",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(broken); i++) {
		refused(broken[i], "f:");
		config_unref(accepted("service \"a\" { command = {\"b\"} }"));
	}
}

static void test_deep_nesting(void **state)
{
	char text[200000];

	(void)state;
	memset(text, '{', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	refused(text, "f:1: blocks are nested too deeply");
	for (size_t i = 0; i + 2 < sizeof text; i += 2)
		memcpy(text + i, "a{", 2);
	refused(text, "f:1: blocks are nested too deeply");
}

static void test_many_services(void **state)
{
	char *text = malloc(1 << 20), *p = text;
	struct config *c;
	struct mistakes m;

	(void)state;
	assert_non_null(text);
	for (int i = 0; i < CONFIG_MAX_SERVICES; i++)
		p += sprintf(p, "service s%d { command = {\"a\"} }\n", i);
	c = accepted(text);
	assert_int_equal(c->n_services, CONFIG_MAX_SERVICES);
	config_unref(c);
	(void)sprintf(p, "service more { command = {\"a\"} }\n");
	assert_int_equal(parse_bytes(text, strlen(text), &c, &m), -EINVAL);
	assert_string_equal(m.lines[0], "f:4097: there are more than 4096 services");
	mistakes_done(&m);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_cut_files),
	        cmocka_unit_test(test_binary_and_large),
	        cmocka_unit_test(test_expansion),
	        cmocka_unit_test(test_twice),
	        cmocka_unit_test(test_overlay),
	        cmocka_unit_test(test_lines),
	        cmocka_unit_test(test_no_state_is_left),
	        cmocka_unit_test(test_deep_nesting),
	        cmocka_unit_test(test_many_services),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
