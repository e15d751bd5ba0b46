/* SPDX-License-Identifier: MIT */
/* The small parts of the core: plan, shares, timers, text, numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/capability.h"
#include "core/plan.h"
#include "core/timers.h"
#include "core/worker.h"

/* "web 80 81; api 90": services with the ports of their listeners */
static struct config *config_of(const char *text)
{
	struct config *c = config_new();
	char *copy = strdup(text), *rest = copy, *part;

	assert_non_null(c);
	c->services = config_alloc(c, 8 * sizeof *c->services);
	while ((part = strsep(&rest, ";"))) {
		struct service_config *s = &c->services[c->n_services];
		char *word;

		part += strspn(part, " ");
		if (!*part)
			continue;
		c->n_services++;
		s->name = config_strdup(c, strsep(&part, " "));
		s->listeners = config_alloc(c, 8 * sizeof *s->listeners);
		while (part && (word = strsep(&part, " "))) {
			struct address *a = &s->listeners[s->n_listeners++].address;

			a->port = (uint16_t)atoi(word);
			a->text = config_strdup(c, word);
		}
	}
	free(copy);
	return c;
}

static void test_plan(void **state)
{
	static const struct {
		const char *before, *after, *plan;
	} cases[] = {
	        {NULL, "web 80", "add web: open 80"},
	        {"web 80", "web 80", "renew web: keep 80"},
	        {"web 80", "web 80 81", "renew web: keep 80, open 81"},
	        {"web 80 81", "web 81", "renew web: keep 81, close 80"},
	        {"web 80; api 90", "web 80", "remove api; renew web: keep 80"},
	        {"web 80", "api 80", "remove web; add api: open 80"},
	        {"web 80", "web 80; job", "renew web: keep 80; add job"},
	        {"web 80", "", "remove web"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct config *before = cases[i].before ? config_of(cases[i].before) : NULL;
		struct config *after = config_of(cases[i].after);
		struct plan plan;
		char buffer[200];
		struct text t = TEXT_ON(buffer);

		assert_int_equal(plan_make(before, after, &plan), 0);
		plan_print(&plan, &t);
		assert_string_equal(buffer, cases[i].plan);
		plan_done(&plan);
		config_unref(before);
		config_unref(after);
	}
}

static void test_timers_come_in_order(void **state)
{
	struct timers ts = {0};
	static struct timer t[500];
	unsigned x = 1;
	usec_t last = 0;

	(void)state;
	assert_int_equal(timers_reserve(&ts, ARRAY_SIZE(t) + 1), 0);
	for (size_t round = 0; round < 3; round++)
		for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
			x = x * 1103515245u + 12345u;
			timer_set(&ts, &t[i], x % 7 == 0 ? USEC_INFINITY : x >> 8);
		}
	while (timers_first(&ts)) {
		struct timer *first = timers_first(&ts);

		assert_true(first->at >= last);
		last = first->at;
		timer_set(&ts, first, USEC_INFINITY);
		assert_int_equal(first->place, 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		assert_int_equal(t[i].place, 0);
	timers_done(&ts);
}

static void test_backoff(void **state)
{
	(void)state;
	assert_int_equal(worker_backoff(0), 100 * USEC_PER_MSEC);
	assert_int_equal(worker_backoff(1), 200 * USEC_PER_MSEC);
	assert_int_equal(worker_backoff(8), 25600 * USEC_PER_MSEC);
	assert_int_equal(worker_backoff(9), 30 * USEC_PER_SEC);
	assert_int_equal(worker_backoff(4000000000u), 30 * USEC_PER_SEC);
}

static void test_numbers_and_text(void **state)
{
	uint64_t n;
	char small[8];
	struct text t = TEXT_ON(small);

	(void)state;
	assert_true(parse_number("18446744073709551615", UINT64_MAX, &n) && n == UINT64_MAX);
	assert_false(parse_number("18446744073709551616", UINT64_MAX, &n));
	assert_false(parse_number("", 9, &n));
	assert_false(parse_number("-1", 9, &n));
	assert_false(parse_number(" 1", 9, &n));
	assert_false(parse_number("10", 9, &n));
	assert_true(parse_number("9", 9, &n) && n == 9);
	text_add(&t, "%s", "abc");
	assert_false(t.cut);
	text_add(&t, "%s", "defgh");
	assert_true(t.cut);
	assert_string_equal(small, "abcdefg");
	assert_int_equal(usec_add(USEC_INFINITY - 1, 5), USEC_INFINITY);
	assert_int_equal(usec_sub(3, 5), 0);
	assert_int_equal(edit_distance("comand", "command", 3), 1);
	assert_int_equal(edit_distance("abc", "xyzzy", 2), 3);
}

static void test_capabilities(void **state)
{
	uint64_t bits = 1;
	char names[64];
	struct text t = TEXT_ON(names);

	(void)state;
	assert_true(capabilities_parse("chown", &bits) && bits == CAPABILITY_BIT(CHOWN));
	assert_true(capabilities_parse("CAP_BPF,^cap_checkpoint_restore,bpf", &bits));
	assert_int_equal(bits, 1ull << 39 | 1ull << 40);
	assert_false(capabilities_parse("", &bits) || capabilities_parse("chown,", &bits) ||
	             capabilities_parse("cap_", &bits) || capabilities_parse("chow", &bits) ||
	             capabilities_parse("all", &bits) || capabilities_parse("chown, kill", &bits));
	capabilities_add(&t, bits, ",");
	assert_string_equal(names, "bpf,checkpoint_restore");
	assert_true(capabilities_parse(names, &bits));
	assert_null(capability_name(CAPABILITY_COUNT));
	assert_int_equal(capabilities_lost(UINT64_MAX), 0);
	assert_int_equal(capabilities_lost(~CAPABILITY_BIT(BPF)), 0);
	assert_int_equal(capabilities_lost(0), capabilities_own());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_plan),
	        cmocka_unit_test(test_timers_come_in_order),
	        cmocka_unit_test(test_backoff),
	        cmocka_unit_test(test_numbers_and_text),
	        cmocka_unit_test(test_capabilities),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
