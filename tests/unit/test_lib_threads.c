/* SPDX-License-Identifier: MIT */
/* Threads that ask for the same memory and change it, as generations do: also built with
 * ThreadSanitizer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "handoff.h"

#define THREADS 4
#define ROUNDS 1000

struct shared {
	atomic_int atomic;
	int locked, inits;
};

static int fill(void *memory, const void *old, size_t old_size, unsigned old_version, void *data)
{
	struct shared *s = memory;

	(void)old, (void)old_size, (void)old_version, (void)data;
	s->inits++;
	return 0;
}

static void *work(void *arg)
{
	struct shared *s = handoff_keep("threads", 1, sizeof *s, fill, NULL);

	(void)arg;
	if (!s)
		return NULL;
	for (int i = 0; i < ROUNDS; i++) {
		if (handoff_keep_lock(s, -1) != 0)
			return NULL;
		s->locked++;
		handoff_keep_unlock(s);
		s->atomic++;
	}
	return s;
}

static void threads_share(void **state)
{
	pthread_t threads[THREADS];
	struct shared *s = NULL;
	void *found[THREADS];

	(void)state;
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, work, NULL), 0);
	for (int i = 0; i < THREADS; i++) {
		assert_int_equal(pthread_join(threads[i], &found[i]), 0);
		assert_non_null(found[i]);
		assert_ptr_equal(found[i], found[0]);
	}
	s = found[0];
	assert_int_equal(s->atomic, THREADS * ROUNDS);
	assert_int_equal(s->locked, THREADS * ROUNDS);
	assert_int_equal(s->inits, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(threads_share),
	};

	(void)unsetenv("NOTIFY_SOCKET");
	(void)unsetenv("HANDOFF_SERVICE");
	(void)unsetenv("LISTEN_FDS");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
