/* SPDX-License-Identifier: MIT */
/* The cookie set against a model that is too simple to be wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "sockets/cookie_set.h"

#define RANGE 700

static void test_against_model(void **state)
{
	struct cookie_set s = {0};
	usec_t model[RANGE] = {0}; /* first seen; 0: not in the set */
	struct cookie_entry *e;
	usec_t oldest;
	size_t i, n;
	unsigned seed = 1;
	int step;

	(void)state;
	for (step = 1; step < 60000; step++) {
		/* Spread over several home slots, with many collisions. */
		i = (size_t)rand_r(&seed) % RANGE;
		if (rand_r(&seed) % 5 < (step / 8000 % 2 ? 1 : 3)) {
			e = cookie_set_add(&s, (i + 1) << 29, (usec_t)step);
			assert_non_null(e);
			model[i] = model[i] ? model[i] : (usec_t)step;
			assert_int_equal(e->seen, model[i]);
		} else {
			assert_int_equal(cookie_set_remove(&s, (i + 1) << 29), model[i] != 0);
			model[i] = 0;
		}
		if (step % 500)
			continue;
		oldest = USEC_INFINITY;
		for (i = n = 0; i < RANGE; i++) {
			assert_int_equal(cookie_set_find(&s, (i + 1) << 29) != NULL, model[i] != 0);
			n += model[i] != 0;
			if (model[i] && model[i] < oldest)
				oldest = model[i];
		}
		assert_int_equal(s.count, n);
		if (n)
			assert_int_equal(s.oldest, oldest);
	}
	cookie_set_done(&s);
}

static void test_dropped_after_two_dumps(void **state)
{
	struct cookie_set s = {0};
	struct cookie_entry *e;
	uint64_t i;
	int round;

	(void)state;
	cookie_set_begin(&s);
	for (i = 1; i <= 1000; i++) {
		e = cookie_set_add(&s, i, 5);
		cookie_set_flags(&s, e, i % 2, i % 10 == 0);
	}
	assert_int_equal(cookie_set_sweep(&s), 0);
	assert_int_equal(s.n_idle, 500);
	assert_int_equal(s.n_queued, 100);
	for (round = 0; round < 2; round++) {
		cookie_set_begin(&s);
		for (i = 1; i <= 1000; i += 3)
			assert_non_null(cookie_set_add(&s, i, 6));
		assert_int_equal(cookie_set_sweep(&s), round ? 0 : 666);
		assert_int_equal(s.count, round ? 334 : 1000);
	}
	assert_int_equal(s.n_idle, 167);
	assert_int_equal(s.oldest, 5);
	/* One miss is forgiven when the next dump shows it again. */
	cookie_set_begin(&s);
	assert_int_equal(cookie_set_sweep(&s), 334);
	cookie_set_begin(&s);
	assert_non_null(cookie_set_add(&s, 4, 7));
	assert_int_equal(cookie_set_sweep(&s), 0);
	assert_int_equal(s.count, 1);
	cookie_set_begin(&s);
	assert_int_equal(cookie_set_sweep(&s), 1);
	assert_int_equal(s.count, 1);
	cookie_set_done(&s);
}

static void test_refuses_nothing(void **state)
{
	struct cookie_set s = {0};

	(void)state;
	assert_null(cookie_set_add(&s, 0, 1));
	assert_null(cookie_set_find(&s, 1));
	assert_false(cookie_set_remove(&s, 1));
	assert_int_equal(cookie_set_sweep(&s), 0);
	cookie_set_done(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_against_model),
	        cmocka_unit_test(test_dropped_after_two_dumps),
	        cmocka_unit_test(test_refuses_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
